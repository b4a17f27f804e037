/* backends/cpu-blas/avx2.c -- the kernels on 8 lanes.  See simd.h.
 * Compiled for that instruction set: to be called where isa.h says so. */
#include <immintrin.h>

#define VEC   __m256
#define LANES 8
#define v_set(x)       _mm256_set1_ps(x)
#define v_add(a, b)    _mm256_add_ps(a, b)
#define v_sub(a, b)    _mm256_sub_ps(a, b)
#define v_mul(a, b)    _mm256_mul_ps(a, b)
#define v_div(a, b)    _mm256_div_ps(a, b)
#define v_max(a, b)    _mm256_max_ps(a, b)
#define v_min(a, b)    _mm256_min_ps(a, b)
#define v_fma(a, b, c) _mm256_fmadd_ps(a, b, c)
#define v_round(a)     _mm256_round_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)
#define v_exp2i(k)     _mm256_castsi256_ps(_mm256_slli_epi32( \
                           _mm256_add_epi32(_mm256_cvtps_epi32(k), _mm256_set1_epi32(127)), 23))
#define v_store(p, a)  _mm256_storeu_ps(p, a)
#define v_load_f32(p)  _mm256_loadu_ps((const float *)(p))
#define v_load_f16(p)  _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(p)))
#define v_load_bf16(p) _mm256_castsi256_ps(_mm256_slli_epi32( \
                           _mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)(p))), 16))

#define v_load_i8(p)   _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i *)(p))))
#define v_set_f16(h)   _mm256_cvtph_ps(_mm_set1_epi16((short)(h)))
#define v_store_i8(p, a)   _mm_storel_epi64((__m128i *)(p), bytes_of(_mm256_cvttps_epi32(a)))
#define v_store_f32(p, a)  _mm256_storeu_ps((float *)(p), a)
#define v_store_f16(p, a)  _mm_storeu_si128((__m128i *)(p), _mm256_cvtps_ph(a, \
                               _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC))
#define v_store_bf16(p, a) _mm_storeu_si128((__m128i *)(p), bf16_of(a))
#define MIX 2

/* of numbers within +-127 */
static inline __m128i bytes_of(__m256i i)
{
    __m128i s = _mm_packs_epi32(_mm256_castsi256_si128(i), _mm256_extracti128_si256(i, 1));
    return _mm_packs_epi16(s, s);
}

/* to the nearest BF16, ties to even */
static inline __m128i bf16_of(__m256 f)
{
    __m256i u = _mm256_castps_si256(f);
    __m256i up = _mm256_add_epi32(_mm256_and_si256(_mm256_srli_epi32(u, 16), _mm256_set1_epi32(1)),
                                  _mm256_set1_epi32(0x7fff));
    __m256i nan = _mm256_castps_si256(_mm256_cmp_ps(f, f, _CMP_UNORD_Q));
    u = _mm256_blendv_epi8(_mm256_add_epi32(u, up), _mm256_or_si256(u, _mm256_set1_epi32(0x400000)),
                           nan);
    u = _mm256_srli_epi32(u, 16);
    return _mm_packus_epi32(_mm256_castsi256_si128(u), _mm256_extracti128_si256(u, 1));
}

static inline float v_sum(__m256 a)
{
    __m128 s = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    s = _mm_add_ps(s, _mm_movehl_ps(s, s));
    return _mm_cvtss_f32(_mm_add_ss(s, _mm_movehdup_ps(s)));
}

static inline float v_top(__m256 a)
{
    __m128 s = _mm_max_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    s = _mm_max_ps(s, _mm_movehl_ps(s, s));
    return _mm_cvtss_f32(_mm_max_ss(s, _mm_movehdup_ps(s)));
}

#define KERNELS_NAME  "avx2"
#define KERNELS_TABLE kernels_avx2
#include "backends/cpu-blas/simd.h"
