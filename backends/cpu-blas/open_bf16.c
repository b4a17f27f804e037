/* backends/cpu-blas/open_bf16.c -- stored weights of any type to the nearest BF16.  See gemm.h.
 * Compiled for AVX512-BF16 and VBMI. */
#include "backends/cpu-blas/gemm_bf16.h"

#include "backends/backend.h"
#include "backends/cpu-blas/avx512.h"
#include "backends/cpu-blas/quant.h"
#include "backends/cpu-blas/quant_types.h"

#define UNROLL _Pragma("GCC unroll 4") for

/* dst[64 or 32] = s * (q - z) + m; a type has z or m, not both */
INLINE void store_step(uint16_t *dst, __m512i q, __m512 s, __m512 m, const int z, const int min,
                       const int half)
{
    const __m512i lane = _mm512_set_epi32(3, 3, 3, 3, 2, 2, 2, 2, 1, 1, 1, 1, 0, 0, 0, 0);
    __m512 w[4];
    __m128i part[4] = { _mm512_castsi512_si128(q), _mm512_extracti32x4_epi32(q, 1),
                        _mm512_extracti32x4_epi32(q, 2), _mm512_extracti32x4_epi32(q, 3) };
    UNROLL (int i = 0; i < 4; i++) {
        __m512i at = _mm512_add_epi32(lane, _mm512_set1_epi32(4 * i));
        __m512 each = _mm512_permutexvar_ps(at, s);
        __m512 add = min ? _mm512_permutexvar_ps(at, m)
                         : _mm512_mul_ps(each, _mm512_set1_ps((float)-z));     /* z = 2^n: exact */
        w[i] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(part[i])), each, add);
    }
    _mm512_storeu_si512(dst, (__m512i)_mm512_cvtne2ps_pbh(w[1], w[0]));
    if (!half)
        _mm512_storeu_si512(dst + 32, (__m512i)_mm512_cvtne2ps_pbh(w[3], w[2]));
}

#define TYPE(N, T) \
static void open_all_##T(uint16_t *dst, const uint8_t *w, size_t n) \
{ \
    for (size_t c = 0; c < n / (64 * STEPS_##T); c++, w += CHUNK_##T) { \
        struct head h = head_##T(w, 0); \
        UNROLL (int i = 0; i < STEPS_##T; i++, dst += 64) \
            store_step(dst, open_##T(w, i, 0), of_step(h.s, i, SUB_##T), \
                       of_step(h.m, i, SUB_##T), Z_##T, MIN_##T, 0); \
    } \
    if (STEPS_##T == 1 && n % 64) { \
        struct head h = head_##T(w, 1); \
        store_step(dst, open_##T(w, 0, 1), h.s, h.m, Z_##T, MIN_##T, 1); \
    } \
}
EACH_QUANT(TYPE)

static void open_all_f32(uint16_t *dst, const uint8_t *w, size_t n)
{
    for (size_t i = 0; i < n; i += 32)
        _mm512_storeu_si512(dst + i, (__m512i)_mm512_cvtne2ps_pbh(
            _mm512_loadu_ps(w + 4 * i + 64), _mm512_loadu_ps(w + 4 * i)));
}

static void open_all_f16(uint16_t *dst, const uint8_t *w, size_t n)
{
    for (size_t i = 0; i < n; i += 32)
        _mm512_storeu_si512(dst + i, (__m512i)_mm512_cvtne2ps_pbh(
            v_load_f16(w + 2 * i + 32), v_load_f16(w + 2 * i)));
}

static void open_all_bf16(uint16_t *dst, const uint8_t *w, size_t n)
{
    memcpy(dst, w, 2 * n);
}

#define ENTRY(N, T) [DBRX_##N] = open_all_##T,
static void (*const types[])(uint16_t *dst, const uint8_t *w, size_t n) = {
    EACH_QUANT(ENTRY) ENTRY(F32, f32) ENTRY(F16, f16) ENTRY(BF16, bf16)
};

void bf16_open(uint32_t dtype, uint16_t *dst, const void *src, size_t n)
{
    types[dtype](dst, src, n);
}
