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

#define UNROLL _Pragma("GCC unroll 4") for
enum { TOGETHER = 4 };                     /* chunks: to keep the loop's own cost small      */
enum { AHEAD = 4096 };                     /* bytes: see simd.h                              */

/* s * (q - z) to one sum, m to another */
INLINE void add_step(__m512 *sum, __m512 *low, __m512i q, __m512 s, __m512 m, const char *x,
                     const int z, const int min)
{
    __m512i dot = _mm512_dpbusd_epi32(_mm512_setzero_si512(), q, _mm512_loadu_si512(x));
    dot = _mm512_dpbusd_epi32(_mm512_slli_epi32(dot, 8), q, _mm512_loadu_si512(x + LO));
    __m512 f = _mm512_cvtepi32_ps(dot), four = _mm512_loadu_ps(x + SUMS);
    if (z)
        f = _mm512_fnmadd_ps(_mm512_set1_ps((float)z), four, f);
    *sum = _mm512_fmadd_ps(f, s, *sum);
    if (min)
        *low = _mm512_fmadd_ps(four, m, *low);
}

/* A row after the other, as they lie in memory, which is what it waits for */
#define TYPE(T) \
INLINE void add_chunk_##T(__m512 *sum, __m512 *low, const uint8_t *w, const char *x) \
{ \
    const struct head h = head_##T(w, 0); \
    UNROLL (int i = 0; i < STEPS_##T; i++) \
        add_step(&sum[i % 2], &low[i % 2], open_##T(w, i, 0), of_step(h.s, i, SUB_##T), \
                 of_step(h.m, i, SUB_##T), x + i * GROUP, Z_##T, MIN_##T); \
} \
static void matvec_##T(float *y, const uint8_t *w, size_t rows, size_t cols, const char *x) \
{ \
    const size_t chunks = cols / (64 * STEPS_##T), half = STEPS_##T == 1 && cols % 64; \
    float scale; \
    memcpy(&scale, x, 4); \
    for (size_t r = 0, c; r < rows; r++) { \
        const char *at = x + 64; \
        __m512 sum[3], low[3]; \
        UNROLL (int i = 0; i < 3; i++) \
            sum[i] = low[i] = _mm512_setzero_ps(); \
        for (c = 0; c + TOGETHER <= chunks; c += TOGETHER, at += TOGETHER * STEPS_##T * GROUP) { \
            for (int i = 0; i < TOGETHER * CHUNK_##T; i += 64) \
                __builtin_prefetch(w + AHEAD + i, 0, 0); \
            UNROLL (int i = 0; i < TOGETHER; i++, w += CHUNK_##T) \
                add_chunk_##T(sum + i % 2, low + i % 2, w, at + i * STEPS_##T * GROUP); \
        } \
        for (; c < chunks; c++, w += CHUNK_##T, at += STEPS_##T * GROUP) \
            add_chunk_##T(sum, low, w, at); \
        if (half) { \
            struct head h = head_##T(w, 1); \
            add_step(&sum[0], &low[0], open_##T(w, 0, 1), h.s, h.m, at, Z_##T, MIN_##T); \
            w += CHUNK_##T / 2; \
        } \
        sum[0] = _mm512_add_ps(_mm512_add_ps(sum[0], sum[1]), sum[2]); \
        if (MIN_##T) \
            sum[0] = _mm512_add_ps(sum[0], _mm512_add_ps(_mm512_add_ps(low[0], low[1]), low[2])); \
        y[r] = scale * _mm512_reduce_add_ps(sum[0]); \
    } \
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
