/* backends/cpu-blas/quant_vnni.c -- quantised weights on AVX-512 with VNNI and VBMI.  See quant.h.
 *
 * The bytes that quant_types.h opens are unsigned, the activations' two bytes signed, as
 * vpdpbusd wants them.  Compiled for those: to be called where isa.h says so. */
#include "backends/cpu-blas/quant.h"

#include "backends/backend.h"
#include "backends/cpu-blas/avx512.h"
#include "backends/cpu-blas/quant_types.h"

/* Packed activations: a scale in the first 64 bytes, then for each 256 of them QUANT_GROUP bytes.
 * Of each 64 hi and lo, STEP bytes; then as floats the sums of sixteen and those of 32, eight and
 * eight zeros.  x = scale * (256 hi + lo). */
enum { STEP = 128, LO = 64, SIXTEENS = 4 * STEP, THIRTYTWOS = SIXTEENS + 64, FULL = 32512 };

/* 64 numbers, the i-th of a group; the rest is zero */
static void pack_step(char *group, size_t i, const float *x, size_t n, __m512 by)
{
    const __m512i ones = _mm512_set1_epi8(1), lane = _mm512_set_epi32(0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 8, 0, 12, 8, 4, 0);
    char *to = group + i * STEP;
    __m128i part[2][4];
    for (size_t j = 0; j < 4; j++) {
        __m512 v = 16 * j < n ? _mm512_loadu_ps(x + 16 * j) : _mm512_setzero_ps();
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
        _mm512_store_si512(to + p * LO, byte[p]);
    }
    __m512i sum = _mm512_dpbusd_epi32(_mm512_setzero_si512(), ones, byte[0]);
    sum = _mm512_dpbusd_epi32(_mm512_slli_epi32(sum, 8), ones, byte[1]);
    sum = _mm512_add_epi32(sum, _mm512_shuffle_epi32(sum, _MM_PERM_CDAB));
    sum = _mm512_add_epi32(sum, _mm512_shuffle_epi32(sum, _MM_PERM_BADC));
    __m512 few = _mm512_cvtepi32_ps(_mm512_permutexvar_epi32(lane, sum));
    _mm_store_ps((float *)(void *)(group + SIXTEENS + 16 * i), _mm512_castps512_ps128(few));
    sum = _mm512_add_epi32(sum, _mm512_shuffle_i64x2(sum, sum, 0xb1));
    few = _mm512_cvtepi32_ps(_mm512_permutexvar_epi32(_mm512_alignr_epi32(lane, lane, 4), sum));
    _mm_storel_pi((__m64 *)(void *)(group + THIRTYTWOS + 8 * i), _mm512_castps512_ps128(few));
}

static void pack(void *dst, const float *x, size_t n)
{
    char *group = (char *)dst + 64;
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
    for (size_t i = 0; i < n; i += 256, group += QUANT_GROUP) {
        memset(group + THIRTYTWOS, 0, 64);
        for (size_t j = 0, at = i; j < 4; j++, at += 64)
            pack_step(group, j, x + at, at < n ? n - at : 0, by);
    }
}

#define UNROLL _Pragma("GCC unroll 8") for

/* ---- eight blocks of 32 as one of 256 ----------------------------------------------------- */

/* The binary16 at byte `at` of eight blocks of B bytes: gathered from a few vectors, which reach no
 * further than the blocks. */
INLINE __m512 of_eight(const uint8_t *p, const int B, const int at)
{
    const int each = (62 - at) / B + 1;    /* in one vector */
    __m512i v = _mm512_loadu_si512(p);
    UNROLL (int k = each; k < 8; k += each) {
        const int from = k * B < 8 * B - 64 ? k * B : 8 * B - 64;
        short word[8];
        UNROLL (int j = 0; j < 8; j++)
            word[j] = (short)(j >= k ? 32 + (j * B + at - from) / 2 : k == each ? (j * B + at) / 2 : j);
        v = _mm512_permutex2var_epi16(v, _mm512_castsi128_si512(_mm_set_epi16(
                word[7], word[6], word[5], word[4], word[3], word[2], word[1], word[0])),
                _mm512_loadu_si512(p + from));
    }
    return _mm512_zextps256_ps512(_mm256_cvtph_ps(_mm512_castsi512_si128(v)));
}

/* The nibbles of blocks 2i and 2i + 1, which are their last 16 bytes */
INLINE __m512i nibbles_of(const uint8_t *p, const int B, const int i)
{
    const int from = 2 * i * B < 8 * B - 64 ? 2 * i * B : 8 * B - 64, at = 2 * i * B - from;
    return nibbles(_mm512_loadu_si512(p + from), at + B - 16, at + 2 * B - 16);
}

/* where the bits of Q5 are */
INLINE __m512i fifths_of(const uint8_t *p, const int B, const int i, const int at)
{
    return fifth(nibbles_of(p, B, i), p + 2 * i * B + at, p + 2 * i * B + B + at, 0);
}

#define EIGHT(T, B, SUB, MIN, OPEN) \
enum { BYTES_##T = 8 * (B), GROUPS_##T = 8 }; \
INLINE struct head head8_##T(const uint8_t *p) \
{ \
    return (struct head){ of_eight(p, B, 0), MIN ? of_eight(p, B, 2 * MIN) : _mm512_setzero_ps() }; \
} \
INLINE __m512i open8_##T(const uint8_t *p, const int i) { return OPEN; }
EIGHT(q8_0, 34, 8, 0, open_q8_0(p + 68 * i, 0, 0))
EIGHT(q4_0, 18, 8, 0, nibbles_of(p, 18, i))
EIGHT(q4_1, 20, 8, 1, nibbles_of(p, 20, i))
EIGHT(q5_0, 22, 8, 0, fifths_of(p, 22, i, 2))
EIGHT(q5_1, 24, 8, 1, fifths_of(p, 24, i, 4))
EIGHT(iq4_nl, 18, 8, 0, iq4_levels(nibbles_of(p, 18, i)))

#define ONE(T) \
enum { BYTES_##T = CHUNK_##T, GROUPS_##T = SUB_##T }; \
INLINE struct head head8_##T(const uint8_t *p) { return head_##T(p, 0); } \
INLINE __m512i open8_##T(const uint8_t *p, const int i) { return open_##T(p, i, 0); }
ONE(q2_k)
ONE(q3_k)
ONE(q4_k)
ONE(q5_k)
ONE(q6_k)
ONE(iq4_xs)

/* ---- products ----------------------------------------------------------------------------- */

enum { AHEAD = 4096 };                     /* bytes: see simd.h */

/* 64 weights times as many activations */
INLINE __m512 add_step(__m512 sum, __m512i q, __m512 s, const char *x)
{
    __m512i dot = _mm512_dpbusd_epi32(_mm512_setzero_si512(), q, _mm512_load_si512(x));
    dot = _mm512_dpbusd_epi32(_mm512_slli_epi32(dot, 8), q, _mm512_load_si512(x + LO));
    return _mm512_fmadd_ps(_mm512_cvtepi32_ps(dot), s, sum);
}

#define ADD(T) \
INLINE void add_##T(__m512 *sum, const uint8_t *w, const char *x) \
{ \
    const struct head h = head8_##T(w); \
    const char *sums = x + (GROUPS_##T == 8 ? THIRTYTWOS : SIXTEENS); \
    UNROLL (int i = 0; i < 4; i++) \
        sum[i % 2] = add_step(sum[i % 2], open8_##T(w, i), of_step(h.s, i, GROUPS_##T), x + i * STEP); \
    sum[2] = _mm512_fmadd_ps(MIN_##T ? h.m : _mm512_mul_ps(h.s, _mm512_set1_ps(-(float)Z_##T)), \
                             _mm512_load_ps(sums), sum[2]); \
}
ADD(q8_0)
ADD(q4_0)
ADD(q4_1)
ADD(q5_0)
ADD(q5_1)
ADD(iq4_nl)
ADD(q3_k)
ADD(q4_k)
ADD(q5_k)
ADD(q6_k)
ADD(iq4_xs)

/* Two bits times a scale of four are a byte still: one sum of all 256 */
INLINE void add_q2_k(__m512 *sum, const uint8_t *w, const char *x)
{
    const __m128i four = _mm_and_si128(_mm_loadu_si128((const __m128i *)w), _mm_set1_epi8(15));
    const __m512i scale = _mm512_zextsi256_si512(_mm256_cvtepu8_epi16(four));
    const __m512i lane = _mm512_set_epi64(0x0003000300030003, 0x0003000300030003, 0x0002000200020002,
                                          0x0002000200020002, 0x0001000100010001, 0x0001000100010001, 0, 0);
    __m512i hi = _mm512_setzero_si512(), lo = hi;
    UNROLL (int i = 0; i < 4; i++) {
        __m512i by = _mm512_permutexvar_epi16(_mm512_add_epi16(lane, _mm512_set1_epi16((short)(4 * i))), scale);
        __m512i q = _mm512_mullo_epi16(open8_q2_k(w, i), by);
        hi = _mm512_dpbusd_epi32(hi, q, _mm512_load_si512(x + i * STEP));
        lo = _mm512_dpbusd_epi32(lo, q, _mm512_load_si512(x + i * STEP + LO));
    }
    __m512 dot = _mm512_cvtepi32_ps(_mm512_add_epi32(_mm512_slli_epi32(hi, 8), lo));
    sum[0] = _mm512_fmadd_ps(dot, _mm512_set1_ps(half_at(w + 80)), sum[0]);
    sum[2] = _mm512_fmadd_ps(head8_q2_k(w).m, _mm512_load_ps(x + SIXTEENS), sum[2]);
}

/* the sums of four vectors */
INLINE __m128 sums_of(const __m512 *v)
{
    __m512 a = _mm512_add_ps(_mm512_unpacklo_ps(v[0], v[1]), _mm512_unpackhi_ps(v[0], v[1]));
    __m512 b = _mm512_add_ps(_mm512_unpacklo_ps(v[2], v[3]), _mm512_unpackhi_ps(v[2], v[3]));
    a = _mm512_add_ps(_mm512_shuffle_ps(a, b, 0x44), _mm512_shuffle_ps(a, b, 0xee));
    __m256 half = _mm256_add_ps(_mm512_castps512_ps256(a), _mm512_extractf32x8_ps(a, 1));
    return _mm_add_ps(_mm256_castps256_ps128(half), _mm256_extractf128_ps(half, 1));
}

/* A row after the other, as they lie in memory, which is what it waits for; where they end, what
 * is fetched ahead is at `next`.  What a row has beyond its last 256 is multiplied with zeros behind it. */
#define TYPE(N, T) \
static void matvec_##T(float *y, const uint8_t *w, size_t rows, size_t cols, const char *x, const void *next) \
{ \
    const size_t rest = cols % 256 / 32 * (BYTES_##T / 8); \
    const uintptr_t end = (uintptr_t)w + rows * (cols / 256 * BYTES_##T + rest); \
    const uintptr_t jump = next ? (uintptr_t)next - end : 0; \
    uint8_t last[BYTES_##T] = { 0 }; \
    float scale; \
    memcpy(&scale, x, 4); \
    for (size_t r = 0; r < rows; r += 4) { \
        const size_t some = rows - r < 4 ? rows - r : 4; \
        __m512 row[4] = { _mm512_setzero_ps(), _mm512_setzero_ps(), _mm512_setzero_ps(), _mm512_setzero_ps() }; \
        for (size_t i = 0, c; i < some; i++) { \
            const char *at = x + 64; \
            __m512 sum[3] = { _mm512_setzero_ps(), _mm512_setzero_ps(), _mm512_setzero_ps() }; \
            for (c = 0; c + 256 <= cols; c += 256, w += BYTES_##T, at += QUANT_GROUP) { \
                uintptr_t ahead = (uintptr_t)w + AHEAD; \
                ahead += ahead < end ? 0 : jump; \
                for (int b = 0; b < BYTES_##T; b += 64) \
                    __builtin_prefetch((const char *)ahead + b, 0, 0); \
                add_##T(sum, w, at); \
            } \
            if (rest) { \
                memcpy(last, w, rest); \
                add_##T(sum, last, at); \
                w += rest; \
            } \
            row[i] = _mm512_add_ps(_mm512_add_ps(sum[0], sum[1]), sum[2]); \
        } \
        _mm_mask_storeu_ps(y + r, (__mmask8)((1 << some) - 1), \
                           _mm_mul_ps(_mm_set1_ps(scale), sums_of(row))); \
    } \
}
EACH_QUANT(TYPE)

#define ENTRY(N, T) [DBRX_##N] = matvec_##T,
static void (*const types[])(float *y, const uint8_t *w, size_t rows, size_t cols, const char *x,
                             const void *next) = {
    EACH_QUANT(ENTRY)
};

static void matvec(uint32_t dtype, float *y, const void *w, size_t rows, size_t cols,
                   const void *x, const void *next)
{
    types[dtype](y, w, rows, cols, x, next);
}

const struct quant quant_vnni = { pack, matvec, NULL };
