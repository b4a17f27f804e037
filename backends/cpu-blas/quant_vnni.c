/* backends/cpu-blas/quant_vnni.c -- quantised weights on AVX-512 with VNNI and VBMI.  See quant.h.
 *
 * The bytes that quant_types.h opens are unsigned, the activations' two bytes signed, as
 * vpdpbusd wants them.  Compiled for those: to be called where isa.h says so. */
#include "backends/cpu-blas/quant.h"

#include "backends/backend.h"
#include "backends/cpu-blas/avx512.h"
#include "backends/cpu-blas/quant_types.h"

/* Packed activations: a scale in the first 64 bytes, then for each 64 of them hi, lo and
 * the sums of four as floats; x = scale * (256 hi + lo). */
enum { GROUP = 192, LO = 64, SUMS = 128, FULL = 32512 };

static void pack(void *dst, const float *x, size_t n)
{
    char *to = (char *)dst + 64;
    const __m512i ones = _mm512_set1_epi8(1);
    __m512 top = _mm512_setzero_ps();
    __mmask16 nan = 0;
    for (size_t i = 0; i < n; i += 16) {
        __m512 v = _mm512_loadu_ps(x + i);
        top = _mm512_max_ps(top, _mm512_abs_ps(v));
        nan |= _mm512_cmp_ps_mask(v, v, _CMP_UNORD_Q);
    }
    float most = _mm512_reduce_max_ps(top);
    float scale = nan ? __builtin_nanf("") : most / FULL;
    __m512 by = _mm512_set1_ps(scale > 0 && most < __builtin_inff() ? FULL / most : 0);
    memset(dst, 0, 64);
    memcpy(dst, &scale, 4);
    for (size_t i = 0; i < n; i += 64, to += GROUP) {
        __m128i part[2][4];
        for (size_t j = 0; j < 4; j++) {
            __m512 v = i + 16 * j < n ? _mm512_loadu_ps(x + i + 16 * j) : _mm512_setzero_ps();
            __m512i q = _mm512_cvtps_epi32(_mm512_mul_ps(v, by));
            __m512i hi = _mm512_srai_epi32(_mm512_add_epi32(q, _mm512_set1_epi32(128)), 8);
            part[0][j] = _mm512_cvtepi32_epi8(hi);
            part[1][j] = _mm512_cvtepi32_epi8(_mm512_sub_epi32(q, _mm512_slli_epi32(hi, 8)));
        }
        __m512i byte[2];
        for (int p = 0; p < 2; p++) {
            __m512i v = _mm512_castsi128_si512(part[p][0]);
            v = _mm512_inserti32x4(v, part[p][1], 1);
            v = _mm512_inserti32x4(v, part[p][2], 2);
            byte[p] = _mm512_inserti32x4(v, part[p][3], 3);
            _mm512_storeu_si512(to + p * LO, byte[p]);
        }
        __m512i sum = _mm512_dpbusd_epi32(_mm512_setzero_si512(), ones, byte[0]);
        sum = _mm512_dpbusd_epi32(_mm512_slli_epi32(sum, 8), ones, byte[1]);
        _mm512_storeu_ps((float *)(void *)(to + SUMS), _mm512_cvtepi32_ps(sum));
    }
}

INLINE __m512 add_step(__m512 sum, __m512i q, __m512 s, __m512 m, const char *x, const int z,
                       const int min)
{
    __m512i dot = _mm512_dpbusd_epi32(_mm512_setzero_si512(), q, _mm512_loadu_si512(x));
    dot = _mm512_dpbusd_epi32(_mm512_slli_epi32(dot, 8), q, _mm512_loadu_si512(x + LO));
    __m512 f = _mm512_cvtepi32_ps(dot), four = _mm512_loadu_ps(x + SUMS);
    if (z)
        f = _mm512_fnmadd_ps(_mm512_set1_ps((float)z), four, f);
    sum = _mm512_fmadd_ps(f, s, sum);
    return min ? _mm512_fmadd_ps(four, m, sum) : sum;
}

#define UNROLL _Pragma("GCC unroll 4") for

/* R rows at once share the loads of x */
#define TYPE(T) \
INLINE void rows_##T(const size_t R, float *y, const uint8_t *w, size_t cols, const char *x) \
{ \
    const size_t chunks = cols / (64 * STEPS_##T), half = STEPS_##T == 1 && cols % 64; \
    const size_t stride = chunks * CHUNK_##T + half * (CHUNK_##T / 2); \
    const char *at = x + 64; \
    __m512 sum[2] = { _mm512_setzero_ps(), _mm512_setzero_ps() }; \
    float scale; \
    memcpy(&scale, x, 4); \
    for (size_t c = 0; c < chunks; c++, w += CHUNK_##T, at += STEPS_##T * GROUP) \
        UNROLL (size_t r = 0; r < R; r++) { \
            struct head h = head_##T(w + r * stride, 0); \
            UNROLL (int i = 0; i < STEPS_##T; i++) \
                sum[r] = add_step(sum[r], open_##T(w + r * stride, i, 0), \
                                  of_step(h.s, i, SUB_##T), of_step(h.m, i, SUB_##T), \
                                  at + i * GROUP, Z_##T, MIN_##T); \
        } \
    UNROLL (size_t r = 0; r < R; r++) { \
        if (half) { \
            struct head h = head_##T(w + r * stride, 1); \
            sum[r] = add_step(sum[r], open_##T(w + r * stride, 0, 1), h.s, h.m, at, Z_##T, \
                              MIN_##T); \
        } \
        y[r] = scale * _mm512_reduce_add_ps(sum[r]); \
    } \
} \
static void matvec_##T(float *y, const uint8_t *w, size_t rows, size_t cols, const char *x) \
{ \
    const size_t stride = cols / (STEPS_##T == 1 ? 32 : 256) * (STEPS_##T == 1 ? CHUNK_##T / 2 \
                                                                              : CHUNK_##T); \
    size_t r = 0; \
    for (; r + 2 <= rows; r += 2) \
        rows_##T(2, y + r, w + r * stride, cols, x); \
    if (r < rows) \
        rows_##T(1, y + r, w + r * stride, cols, x); \
}
TYPE(q8_0)
TYPE(q4_0)
TYPE(q4_1)
TYPE(q5_0)
TYPE(q5_1)
TYPE(iq4_nl)
TYPE(q2_k)
TYPE(q3_k)
TYPE(q4_k)
TYPE(q5_k)
TYPE(q6_k)
TYPE(iq4_xs)

static void (*const types[])(float *y, const uint8_t *w, size_t rows, size_t cols, const char *x) = {
    [DBRX_Q8_0] = matvec_q8_0, [DBRX_Q4_0] = matvec_q4_0, [DBRX_Q4_1] = matvec_q4_1,
    [DBRX_Q5_0] = matvec_q5_0, [DBRX_Q5_1] = matvec_q5_1, [DBRX_Q2_K] = matvec_q2_k,
    [DBRX_Q3_K] = matvec_q3_k, [DBRX_Q4_K] = matvec_q4_k, [DBRX_Q5_K] = matvec_q5_k,
    [DBRX_Q6_K] = matvec_q6_k, [DBRX_IQ4_NL] = matvec_iq4_nl, [DBRX_IQ4_XS] = matvec_iq4_xs,
};

static void matvec(uint32_t dtype, float *y, const void *w, size_t rows, size_t cols,
                   const void *x)
{
    types[dtype](y, w, rows, cols, x);
}

const struct quant quant_vnni = { pack, matvec };
