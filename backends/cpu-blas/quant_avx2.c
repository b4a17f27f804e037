/* backends/cpu-blas/quant_avx2.c -- quantised weights on AVX2.  See quant.h.
 *
 * 32 weights at a time are opened to signed bytes and widened to 16 bits; activations are 16-bit
 * integers with one scale, so that vpmaddwd's sums of two are exact and nothing saturates.  The
 * same bytes become float32 for BLAS.  The plain-C twin of every type is in graph/dequant.c.
 * Compiled for AVX2, FMA and F16C: to be called where isa.h says so. */
#include "backends/cpu-blas/quant.h"

#include "backends/backend.h"
#include "backends/graph/dequant.h"

#include <immintrin.h>
#include <math.h>

#define INLINE static inline __attribute__((always_inline))

/* A weight is s * q + m; 16 weights have the first of each, 16 the second. */
struct group { __m256i q; float s[2], m[2]; };

INLINE float half_at(const uint8_t *p) { uint16_t u; memcpy(&u, p, 2); return _cvtsh_ss(u); }
INLINE __m256i bytes_at(const uint8_t *p) { return _mm256_loadu_si256((const __m256i *)(const void *)p); }

/* `mask` of each byte after its word was shifted right by n bits */
INLINE __m256i bits(__m256i v, int n, int mask)
{
    return _mm256_and_si256(_mm256_srl_epi16(v, _mm_cvtsi32_si128(n)), _mm256_set1_epi8((char)mask));
}

/* the low halves of 16 bytes, then the high ones */
INLINE __m256i nibbles(const uint8_t *p)
{
    __m128i v = _mm_loadu_si128((const __m128i *)(const void *)p);
    return _mm256_and_si256(_mm256_set_m128i(_mm_srli_epi16(v, 4), v), _mm256_set1_epi8(15));
}

INLINE __m256i fifth(const uint8_t *p)     /* 16 where a bit of the four bytes is set */
{
    int set;
    memcpy(&set, p, 4);
    const __m256i byte = _mm256_set_epi64x(0x0303030303030303, 0x0202020202020202, 0x0101010101010101, 0);
    const __m256i bit = _mm256_set1_epi64x((long long)0x8040201008040201);
    __m256i v = _mm256_and_si256(_mm256_shuffle_epi8(_mm256_set1_epi32(set), byte), bit);
    return _mm256_and_si256(_mm256_cmpeq_epi8(v, bit), _mm256_set1_epi8(16));
}

INLINE __m256i iq4_levels(__m256i nibble)
{
    const __m128i level = _mm_loadu_si128((const __m128i *)(const void *)dequant_iq4);
    return _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(level), nibble);
}

INLINE __m256i less(__m256i q, int z) { return _mm256_sub_epi8(q, _mm256_set1_epi8((char)z)); }

/* ---- group_T(p, i): the i-th 32 weights of a block of BLOCK_T at p ------------------------ */

#define ONE(name, open) \
enum { BLOCK_##name = 32, HALVES_##name = 1, MIN_##name = 0 }; \
INLINE struct group group_##name(const uint8_t *p, int i) \
{ (void)i; return (struct group){ open, { half_at(p) }, { 0 } }; }
#define ONE_MIN(name, open) \
enum { BLOCK_##name = 32, HALVES_##name = 1, MIN_##name = 1 }; \
INLINE struct group group_##name(const uint8_t *p, int i) \
{ float m = half_at(p + 2); (void)i; return (struct group){ open, { half_at(p) }, { m, m } }; }
ONE(q8_0, bytes_at(p + 2))
ONE(q4_0, less(nibbles(p + 2), 8))
ONE(q5_0, less(_mm256_or_si256(nibbles(p + 6), fifth(p + 2)), 16))
ONE(iq4_nl, iq4_levels(nibbles(p + 2)))
ONE_MIN(q4_1, nibbles(p + 4))
ONE_MIN(q5_1, _mm256_or_si256(nibbles(p + 8), fifth(p + 4)))

enum { BLOCK_q4_k = 256, HALVES_q4_k = 1, MIN_q4_k = 1 };
INLINE struct group group_q4_k(const uint8_t *p, int i)
{
    uint8_t s, t;
    dequant_k4_scale(p + 4, i, &s, &t);
    float m = -half_at(p + 2) * t;
    return (struct group){ bits(bytes_at(p + 16 + i / 2 * 32), i % 2 * 4, 15), { half_at(p) * s }, { m, m } };
}

enum { BLOCK_q5_k = 256, HALVES_q5_k = 1, MIN_q5_k = 1 };
INLINE struct group group_q5_k(const uint8_t *p, int i)
{
    struct group g = group_q4_k(p, i);
    g.q = _mm256_or_si256(bits(bytes_at(p + 48 + i / 2 * 32), i % 2 * 4, 15),
                          _mm256_slli_epi16(bits(bytes_at(p + 16), i, 1), 4));
    return g;
}

enum { BLOCK_q6_k = 256, HALVES_q6_k = 2, MIN_q6_k = 0 };
INLINE struct group group_q6_k(const uint8_t *p, int i)
{
    const int8_t *s = (const int8_t *)p + 192 + 2 * i;
    float d = half_at(p + 208);
    __m256i low = bits(bytes_at(p + i / 4 * 64 + i % 2 * 32), i % 4 / 2 * 4, 15);
    __m256i high = bits(bytes_at(p + 128 + i / 4 * 32), i % 4 * 2, 3);
    return (struct group){ less(_mm256_or_si256(low, _mm256_slli_epi16(high, 4)), 32),
                           { d * s[0], d * s[1] }, { 0 } };
}

enum { BLOCK_q2_k = 256, HALVES_q2_k = 2, MIN_q2_k = 1 };
INLINE struct group group_q2_k(const uint8_t *p, int i)
{
    float d = half_at(p + 80), m = -half_at(p + 82);
    int a = p[2 * i], b = p[2 * i + 1];
    return (struct group){ bits(bytes_at(p + 16 + i / 4 * 32), i % 4 * 2, 3),
                           { d * (float)(a & 15), d * (float)(b & 15) },
                           { m * (float)(a >> 4), m * (float)(b >> 4) } };
}

enum { BLOCK_q3_k = 256, HALVES_q3_k = 2, MIN_q3_k = 0 };
INLINE struct group group_q3_k(const uint8_t *p, int i)
{
    struct group g = { .m = { 0 } };
    float d = half_at(p + 108);
    for (int j = 0, b = 2 * i; j < 2; j++, b++) {
        int scale = (p[96 + b % 8] >> b / 8 * 4 & 15) | (p[104 + b % 4] >> b / 4 * 2 & 3) << 4;
        g.s[j] = d * (float)(scale - 32);
    }
    __m256i high = _mm256_slli_epi16(bits(bytes_at(p), i, 1), 2);
    g.q = less(_mm256_or_si256(bits(bytes_at(p + 32 + i / 4 * 32), i % 4 * 2, 3), high), 4);
    return g;
}

enum { BLOCK_iq4_xs = 256, HALVES_iq4_xs = 1, MIN_iq4_xs = 0 };
INLINE struct group group_iq4_xs(const uint8_t *p, int i)
{
    int scale = (p[4 + i / 2] >> i % 2 * 4 & 15) | ((p[2] | p[3] << 8) >> 2 * i & 3) << 4;
    return (struct group){ iq4_levels(nibbles(p + 8 + 16 * i)), { half_at(p) * (float)(scale - 32) }, { 0 } };
}

/* ---- activations: a scale in the first 64 bytes, n integers, float sums of 16 of them ----- */

enum { HEAD = 64, FULL = 32767 };

INLINE int sum_of(__m256i v)               /* eight integers */
{
    __m128i s = _mm_add_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1));
    s = _mm_add_epi32(s, _mm_shuffle_epi32(s, 0x4e));
    return _mm_cvtsi128_si32(_mm_add_epi32(s, _mm_shuffle_epi32(s, 0xb1)));
}

static void pack(void *dst, const float *x, size_t n)
{
    int16_t *to = (int16_t *)(void *)((char *)dst + HEAD);
    float *sums = (float *)(void *)(to + n), most = 0;
    int nan = 0;
    for (size_t i = 0; i < n; i++) {
        most = fabsf(x[i]) > most ? fabsf(x[i]) : most;
        nan |= x[i] != x[i];
    }
    float scale = nan ? NAN : most / FULL;
    __m256 by = _mm256_set1_ps(scale > 0 && most < INFINITY ? FULL / most : 0);
    memset(dst, 0, HEAD);
    memcpy(dst, &scale, sizeof scale);
    for (size_t i = 0; i < n; i += 16) {
        __m256i a = _mm256_cvtps_epi32(_mm256_mul_ps(_mm256_loadu_ps(x + i), by));
        __m256i b = _mm256_cvtps_epi32(_mm256_mul_ps(_mm256_loadu_ps(x + i + 8), by));
        __m256i q = _mm256_permute4x64_epi64(_mm256_packs_epi32(a, b), 0xd8);
        _mm256_storeu_si256((__m256i *)(void *)(to + i), q);
        sums[i / 16] = (float)sum_of(_mm256_madd_epi16(q, _mm256_set1_epi16(1)));
    }
}

/* ---- products and floats ------------------------------------------------------------------ */

INLINE __m256i dot(__m128i q, const int16_t *x)
{
    return _mm256_madd_epi16(_mm256_cvtepi8_epi16(q), bytes_at((const uint8_t *)x));
}

INLINE __m256 add_group(__m256 sum, struct group g, const int16_t *x, const int halves)
{
    __m256i a = dot(_mm256_castsi256_si128(g.q), x), b = dot(_mm256_extracti128_si256(g.q, 1), x + 16);
    if (halves == 1)
        return _mm256_fmadd_ps(_mm256_cvtepi32_ps(_mm256_add_epi32(a, b)), _mm256_set1_ps(g.s[0]), sum);
    sum = _mm256_fmadd_ps(_mm256_cvtepi32_ps(a), _mm256_set1_ps(g.s[0]), sum);
    return _mm256_fmadd_ps(_mm256_cvtepi32_ps(b), _mm256_set1_ps(g.s[1]), sum);
}

INLINE float total(__m256 v)
{
    __m128 s = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    s = _mm_add_ps(s, _mm_movehl_ps(s, s));
    return _mm_cvtss_f32(_mm_add_ss(s, _mm_movehdup_ps(s)));
}

#define UNROLL _Pragma("GCC unroll 8") for
#define TYPE(N, T) \
static void matvec_##T(float *y, const uint8_t *w, size_t bytes, size_t rows, size_t cols, const void *x) \
{ \
    const int16_t *q = (const int16_t *)(const void *)((const char *)x + HEAD); \
    const float *sums = (const float *)(const void *)(q + cols); \
    float scale; \
    memcpy(&scale, x, sizeof scale); \
    for (size_t r = 0; r < rows; r++) { \
        __m256 sum[2] = { _mm256_setzero_ps(), _mm256_setzero_ps() }; \
        float least = 0; \
        for (size_t c = 0; c < cols; c += BLOCK_##T, w += bytes) \
            UNROLL (int i = 0; i < BLOCK_##T / 32; i++) { \
                struct group g = group_##T(w, i); \
                const size_t at = c + 32 * (size_t)i; \
                sum[i % 2] = add_group(sum[i % 2], g, q + at, HALVES_##T); \
                if (MIN_##T) \
                    least += g.m[0] * sums[at / 16] + g.m[1] * sums[at / 16 + 1]; \
            } \
        y[r] = scale * (total(_mm256_add_ps(sum[0], sum[1])) + least); \
    } \
} \
static void open_##T(float *dst, const uint8_t *w, size_t bytes, size_t n) \
{ \
    for (size_t c = 0; c < n; c += BLOCK_##T, w += bytes) \
        UNROLL (int i = 0; i < BLOCK_##T / 32; i++) { \
            struct group g = group_##T(w, i); \
            for (int k = 0; k < 4; k++, dst += 8) { \
                __m128i half = k < 2 ? _mm256_castsi256_si128(g.q) : _mm256_extracti128_si256(g.q, 1); \
                __m256 f = _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(k % 2 ? _mm_srli_si128(half, 8) : half)); \
                _mm256_storeu_ps(dst, _mm256_fmadd_ps(f, _mm256_set1_ps(g.s[HALVES_##T == 2 && k >= 2]), \
                                                      _mm256_set1_ps(g.m[k / 2]))); \
            } \
        } \
}
EACH_QUANT(TYPE)

#define ENTRY(N, T) [DBRX_##N] = { matvec_##T, open_##T },
static const struct {
    void (*matvec)(float *y, const uint8_t *w, size_t bytes, size_t rows, size_t cols, const void *x);
    void (*open)(float *dst, const uint8_t *w, size_t bytes, size_t n);
} types[] = {
    EACH_QUANT(ENTRY)
};

static void matvec(uint32_t dtype, float *y, const void *w, size_t rows, size_t cols, const void *x,
                   const void *next)
{
    (void)next;
    types[dtype].matvec(y, w, dtype_block_bytes(dtype), rows, cols, x);
}

static void open(uint32_t dtype, float *dst, const void *src, size_t n)
{
    types[dtype].open(dst, src, dtype_block_bytes(dtype), n);
}

const struct quant quant_avx2 = { pack, matvec, open };
