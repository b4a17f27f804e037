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

/* lane j: the scale of weights 4j .. 4j + 3 of a step */
INLINE __m512 of_step(__m512 s, const int step, const int sub)
{
    if (!sub)
        return s;
    const __m512i lane = _mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0);
    __m512i at = _mm512_add_epi32(_mm512_srli_epi32(lane, sub == 8 ? 3 : 2),
                                  _mm512_set1_epi32(16 / sub * step));
    return _mm512_permutexvar_ps(at, s);
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

/* dst[64 or 32] = s * (q - z) + m */
INLINE void store_step(uint16_t *dst, __m512i q, __m512 s, __m512 m, const int z, const int half)
{
    const __m512i lane = _mm512_set_epi32(3, 3, 3, 3, 2, 2, 2, 2, 1, 1, 1, 1, 0, 0, 0, 0);
    __m128i part[4] = { _mm512_castsi512_si128(q), _mm512_extracti32x4_epi32(q, 1),
                        _mm512_extracti32x4_epi32(q, 2), _mm512_extracti32x4_epi32(q, 3) };
    for (int i = 0; i < (half ? 2 : 4); i++) {
        __m512i at = _mm512_add_epi32(lane, _mm512_set1_epi32(4 * i));
        __m512 w = _mm512_cvtepi32_ps(_mm512_sub_epi32(_mm512_cvtepu8_epi32(part[i]),
                                                       _mm512_set1_epi32(z)));
        w = _mm512_fmadd_ps(w, _mm512_permutexvar_ps(at, s), _mm512_permutexvar_ps(at, m));
        _mm256_storeu_si256((__m256i *)(dst + 16 * i), bf16_of(w));
    }
}

#define TYPE(T) \
static void matvec_##T(float *y, const uint8_t *w, size_t rows, size_t cols, const char *x) \
{ \
    const size_t chunks = cols / (64 * STEPS_##T); \
    float scale; \
    memcpy(&scale, x, 4); \
    for (size_t r = 0; r < rows; r++) { \
        const char *at = x + 64; \
        __m512 sum = _mm512_setzero_ps(); \
        for (size_t c = 0; c < chunks; c++, w += CHUNK_##T) { \
            struct head h = head_##T(w, 0); \
            UNROLL (int i = 0; i < STEPS_##T; i++, at += GROUP) \
                sum = add_step(sum, open_##T(w, i, 0), of_step(h.s, i, SUB_##T), \
                               of_step(h.m, i, SUB_##T), at, Z_##T, MIN_##T); \
        } \
        if (STEPS_##T == 1 && cols % 64) { \
            struct head h = head_##T(w, 1); \
            sum = add_step(sum, open_##T(w, 0, 1), h.s, h.m, at, Z_##T, MIN_##T); \
            w += CHUNK_##T / 2; \
        } \
        y[r] = scale * _mm512_reduce_add_ps(sum); \
    } \
} \
static void to_bf16_##T(uint16_t *dst, const uint8_t *w, size_t n) \
{ \
    for (size_t c = 0; c < n / (64 * STEPS_##T); c++, w += CHUNK_##T) { \
        struct head h = head_##T(w, 0); \
        UNROLL (int i = 0; i < STEPS_##T; i++, dst += 64) \
            store_step(dst, open_##T(w, i, 0), of_step(h.s, i, SUB_##T), \
                       of_step(h.m, i, SUB_##T), Z_##T, 0); \
    } \
    if (STEPS_##T == 1 && n % 64) { \
        struct head h = head_##T(w, 1); \
        store_step(dst, open_##T(w, 0, 1), h.s, h.m, Z_##T, 1); \
    } \
}
#define UNROLL _Pragma("GCC unroll 4") for
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

static void to_bf16_f32(uint16_t *dst, const uint8_t *w, size_t n)
{
    for (size_t i = 0; i < n; i += 16)
        _mm256_storeu_si256((__m256i *)(dst + i), bf16_of(_mm512_loadu_ps(w + 4 * i)));
}

static void to_bf16_f16(uint16_t *dst, const uint8_t *w, size_t n)
{
    for (size_t i = 0; i < n; i += 16)
        _mm256_storeu_si256((__m256i *)(dst + i), bf16_of(v_load_f16(w + 2 * i)));
}

static void to_bf16_bf16(uint16_t *dst, const uint8_t *w, size_t n)
{
    memcpy(dst, w, 2 * n);
}

#define ROW(D, T) [DBRX_##D] = { matvec_##T, to_bf16_##T }
static const struct {
    void (*matvec)(float *y, const uint8_t *w, size_t rows, size_t cols, const char *x);
    void (*to_bf16)(uint16_t *dst, const uint8_t *w, size_t n);
} types[] = {
    ROW(Q8_0, q8_0), ROW(Q4_0, q4_0), ROW(Q4_1, q4_1), ROW(Q5_0, q5_0), ROW(Q5_1, q5_1),
    ROW(Q2_K, q2_k), ROW(Q3_K, q3_k), ROW(Q4_K, q4_k), ROW(Q5_K, q5_k), ROW(Q6_K, q6_k),
    ROW(IQ4_NL, iq4_nl), ROW(IQ4_XS, iq4_xs), [DBRX_F32] = { NULL, to_bf16_f32 },
    [DBRX_F16] = { NULL, to_bf16_f16 }, [DBRX_BF16] = { NULL, to_bf16_bf16 },
};

static void matvec(uint32_t dtype, float *y, const void *w, size_t rows, size_t cols,
                   const void *x)
{
    types[dtype].matvec(y, w, rows, cols, x);
}

static void to_bf16(uint32_t dtype, uint16_t *dst, const void *src, size_t n)
{
    types[dtype].to_bf16(dst, src, n);
}

const struct quant quant_vnni = { pack, matvec, to_bf16 };
