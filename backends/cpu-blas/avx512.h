/* backends/cpu-blas/avx512.h -- simd.h's abstract vector on 16 lanes. */
#include <immintrin.h>

#define VEC   __m512
#define LANES 16
#define v_set(x)       _mm512_set1_ps(x)
#define v_add(a, b)    _mm512_add_ps(a, b)
#define v_sub(a, b)    _mm512_sub_ps(a, b)
#define v_mul(a, b)    _mm512_mul_ps(a, b)
#define v_div(a, b)    _mm512_div_ps(a, b)
#define v_max(a, b)    _mm512_max_ps(a, b)
#define v_min(a, b)    _mm512_min_ps(a, b)
#define v_fma(a, b, c) _mm512_fmadd_ps(a, b, c)
#define v_sum(a)       _mm512_reduce_add_ps(a)
#define v_top(a)       _mm512_reduce_max_ps(a)
#define v_round(a)     _mm512_roundscale_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)
#define v_exp2i(k)     _mm512_scalef_ps(_mm512_set1_ps(1), k)
#define v_store(p, a)  _mm512_storeu_ps(p, a)
#define v_load_f32(p)  _mm512_loadu_ps(p)
#define v_load_f16(p)  _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)(p)))
#define v_load_bf16(p) _mm512_castsi512_ps(_mm512_slli_epi32( \
                           _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)(p))), 16))
#define v_load_i8(p)   _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i *)(p))))
#define v_set_f16(h)   _mm512_cvtph_ps(_mm256_set1_epi16((short)(h)))
/* bytes of numbers within +-127, towards 0 */
#define v_store_i8(p, a)   _mm_storeu_si128((__m128i *)(p), _mm512_cvtepi32_epi8(_mm512_cvttps_epi32(a)))
#define v_store_f32(p, a)  _mm512_storeu_ps(p, a)
#define v_store_f16(p, a)  _mm256_storeu_si256((__m256i *)(p), _mm512_cvtps_ph(a, \
                               _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC))
#define v_store_bf16(p, a) _mm256_storeu_si256((__m256i *)(p), bf16_of(a))
#define MIX 4

/* to the nearest BF16, ties to even */
static inline __attribute__((always_inline)) __m256i bf16_of(__m512 f)
{
    __m512i u = _mm512_castps_si512(f), one = _mm512_set1_epi32(1);
    __m512i up = _mm512_add_epi32(_mm512_and_si512(_mm512_srli_epi32(u, 16), one),
                                  _mm512_set1_epi32(0x7fff));
    __mmask16 nan = _mm512_cmp_ps_mask(f, f, _CMP_UNORD_Q);
    u = _mm512_mask_add_epi32(_mm512_or_si512(u, _mm512_set1_epi32(0x400000)),
                              (__mmask16)~nan, u, up);
    return _mm512_cvtepi32_epi16(_mm512_srli_epi32(u, 16));
}
