/* backends/cpu-blas/quant_types.h -- GGUF's blocks opened in registers, 64 weights at a time, in
 * their order.  The plain-C twin of every type is in graph/dequant.c.
 *
 * A weight is s * (q - Z) + m.  For a type T a chunk is CHUNK_T bytes, STEPS_T steps of 64 weights:
 *   head_T(p, half)     its scales and minima; half: only the first 32 weights are there
 *   open_T(p, step, half) 64 bytes q
 * Types in blocks of 32 take two of them as a chunk; SUB_T is then 0 and the head holds s and m of
 * weights 4j .. 4j + 3 in lane j.  K types have a scale for each SUB_T groups of four weights. */
#include <immintrin.h>
#include <stdint.h>
#include <string.h>

#define INLINE static inline __attribute__((always_inline))

struct head { __m512 s, m; };

INLINE uint64_t u64_at(const uint8_t *p) { uint64_t u; memcpy(&u, p, 8); return u; }
INLINE uint32_t u32_at(const uint8_t *p) { uint32_t u; memcpy(&u, p, 4); return u; }
INLINE uint16_t u16_at(const uint8_t *p) { uint16_t u; memcpy(&u, p, 2); return u; }
INLINE float half_at(const uint8_t *p) { return _cvtsh_ss(u16_at(p)); }

INLINE __m512i both(const uint8_t *p)      /* 32 bytes, twice */
{
    return _mm512_broadcast_i64x4(_mm256_loadu_si256((const __m256i *)p));
}

/* the first half's words shifted right by a, the second's by b, `mask` kept of each byte */
INLINE __m512i shifted(__m512i v, int a, int b, int mask)
{
    const __m512i by = _mm512_inserti64x4(_mm512_set1_epi16((short)a), _mm256_set1_epi16((short)b), 1);
    return _mm512_and_si512(_mm512_srlv_epi16(v, by), _mm512_set1_epi8((char)mask));
}

/* low, and of each byte of `high` the bits in `mask` after its words were turned left by a in the
 * first half and b in the second */
INLINE __m512i joined(__m512i low, __m512i high, int a, int b, int mask)
{
    const __m512i by = _mm512_inserti64x4(_mm512_set1_epi32(a & 31), _mm256_set1_epi32(b & 31), 1);
    return _mm512_ternarylogic_epi32(low, _mm512_rolv_epi32(high, by), _mm512_set1_epi8((char)mask), 0xf8);
}

/* ---- blocks of 32, two of them at a time ------------------------------------------------ */

/* The first 32 bytes of two blocks (16 of one) as they are; from byte LAST on the last 16, a
 * block's nibbles.  Nothing is read beyond them, and masked loads of bytes are slow. */
enum { LAST = 32 };
INLINE __m512i two_blocks(const uint8_t *p, int bytes, int half)
{
    __m512i v = half ? _mm512_zextsi128_si512(_mm_loadu_si128((const __m128i *)p))
                     : _mm512_zextsi256_si512(_mm256_loadu_si256((const __m256i *)p));
    const uint8_t *end = p + (half ? bytes : 2 * bytes);
    return _mm512_inserti32x4(v, _mm_loadu_si128((const __m128i *)(end - 16)), 2);
}

/* a binary16 at byte `at` of both blocks */
INLINE __m512 halves_at(__m512i two, int bytes, int at)
{
    const __m128i a = _mm_set1_epi16((short)(at / 2)), b = _mm_set1_epi16((short)((bytes + at) / 2));
    return _mm512_cvtph_ps(_mm256_permutexvar_epi16(
        _mm256_inserti128_si256(_mm256_castsi128_si256(a), b, 1), _mm512_castsi512_si256(two)));
}

/* The nibbles of 16 bytes at `a` and 16 at `b`: low ones of a, high ones of a, and so of b */
INLINE __m512i nibbles(__m512i v, int a, int b)
{
    const __m512i count = _mm512_broadcast_i32x4(
        _mm_set_epi8(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0));
    const __m512i from = _mm512_inserti64x4(_mm512_set1_epi8((char)a), _mm256_set1_epi8((char)b), 1);
    const __m512i bit = _mm512_set_epi64(
        0x3c342c241c140c04, 0x3c342c241c140c04, 0x3830282018100800, 0x3830282018100800,
        0x3c342c241c140c04, 0x3c342c241c140c04, 0x3830282018100800, 0x3830282018100800);
    v = _mm512_permutexvar_epi8(_mm512_add_epi8(count, from), v);
    return _mm512_and_si512(_mm512_multishift_epi64_epi8(bit, v), _mm512_set1_epi8(15));
}

INLINE __m512i fifth(__m512i q, const uint8_t *a, const uint8_t *b, int half)
{
    __mmask64 set = u32_at(a) | (half ? 0 : (uint64_t)u32_at(b) << 32);
    return _mm512_mask_add_epi8(q, set, q, _mm512_set1_epi8(16));
}

INLINE __m512i iq4_levels(__m512i nibble)  /* + 128 */
{
    const __m512i level = _mm512_broadcast_i32x4(
        _mm_set_epi8((char)241, (char)217, (char)197, (char)181, (char)166, (char)153, (char)141,
                     (char)129, 118, 106, 93, 79, 63, 45, 24, 1));
    return _mm512_shuffle_epi8(level, nibble);
}

enum { CHUNK_q8_0 = 68, STEPS_q8_0 = 1, SUB_q8_0 = 0, Z_q8_0 = 128, MIN_q8_0 = 0 };
INLINE struct head head_q8_0(const uint8_t *p, int half)
{
    __m256i d = _mm256_castsi128_si256(_mm_set1_epi16((short)u16_at(p)));
    d = _mm256_inserti128_si256(d, _mm_set1_epi16(half ? 0 : (short)u16_at(p + 34)), 1);
    return (struct head){ _mm512_cvtph_ps(d), _mm512_setzero_ps() };
}
INLINE __m512i open_q8_0(const uint8_t *p, int step, int half)
{
    (void)step;
    __m512i q = _mm512_castsi256_si512(_mm256_loadu_si256((const __m256i *)(p + 2)));
    q = _mm512_inserti64x4(q, half ? _mm256_setzero_si256()
                                   : _mm256_loadu_si256((const __m256i *)(p + 36)), 1);
    return _mm512_xor_si512(q, _mm512_set1_epi8((char)128));
}

enum { CHUNK_q4_0 = 36, STEPS_q4_0 = 1, SUB_q4_0 = 0, Z_q4_0 = 8, MIN_q4_0 = 0 };
INLINE struct head head_q4_0(const uint8_t *p, int half)
{
    return (struct head){ halves_at(two_blocks(p, 18, half), 18, 0), _mm512_setzero_ps() };
}
INLINE __m512i open_q4_0(const uint8_t *p, int step, int half)
{
    (void)step;
    return nibbles(two_blocks(p, 18, half), half ? LAST : 2, LAST);
}

enum { CHUNK_iq4_nl = 36, STEPS_iq4_nl = 1, SUB_iq4_nl = 0, Z_iq4_nl = 128, MIN_iq4_nl = 0 };
INLINE struct head head_iq4_nl(const uint8_t *p, int half) { return head_q4_0(p, half); }
INLINE __m512i open_iq4_nl(const uint8_t *p, int step, int half)
{
    return iq4_levels(open_q4_0(p, step, half));
}

enum { CHUNK_q4_1 = 40, STEPS_q4_1 = 1, SUB_q4_1 = 0, Z_q4_1 = 0, MIN_q4_1 = 1 };
INLINE struct head head_q4_1(const uint8_t *p, int half)
{
    __m512i v = two_blocks(p, 20, half);
    return (struct head){ halves_at(v, 20, 0), halves_at(v, 20, 2) };
}
INLINE __m512i open_q4_1(const uint8_t *p, int step, int half)
{
    (void)step;
    return nibbles(two_blocks(p, 20, half), half ? LAST : 4, LAST);
}

enum { CHUNK_q5_0 = 44, STEPS_q5_0 = 1, SUB_q5_0 = 0, Z_q5_0 = 16, MIN_q5_0 = 0 };
INLINE struct head head_q5_0(const uint8_t *p, int half)
{
    return (struct head){ halves_at(two_blocks(p, 22, half), 22, 0), _mm512_setzero_ps() };
}
INLINE __m512i open_q5_0(const uint8_t *p, int step, int half)
{
    (void)step;
    return fifth(nibbles(two_blocks(p, 22, half), half ? LAST : 6, LAST), p + 2, p + 24, half);
}

enum { CHUNK_q5_1 = 48, STEPS_q5_1 = 1, SUB_q5_1 = 0, Z_q5_1 = 0, MIN_q5_1 = 1 };
INLINE struct head head_q5_1(const uint8_t *p, int half)
{
    __m512i v = two_blocks(p, 24, half);
    return (struct head){ halves_at(v, 24, 0), halves_at(v, 24, 2) };
}
INLINE __m512i open_q5_1(const uint8_t *p, int step, int half)
{
    (void)step;
    return fifth(nibbles(two_blocks(p, 24, half), half ? LAST : 8, LAST), p + 4, p + 28, half);
}

/* ---- blocks of 256 ------------------------------------------------------------------------ */

#define BYTES(x) (0x0101010101010101u * (x))

/* 16 small integers times d */
INLINE __m512 scales(uint64_t low, uint64_t high, int bias, float d)
{
    __m512i v = _mm512_cvtepi8_epi32(_mm_set_epi64x((long long)high, (long long)low));
    return _mm512_mul_ps(_mm512_cvtepi32_ps(_mm512_sub_epi32(v, _mm512_set1_epi32(bias))),
                         _mm512_set1_ps(d));
}

enum { CHUNK_q4_k = 144, STEPS_q4_k = 4, SUB_q4_k = 8, Z_q4_k = 0, MIN_q4_k = 1 };
INLINE struct head head_q4_k(const uint8_t *p, int half)
{
    (void)half;
    uint32_t a = u32_at(p + 4), b = u32_at(p + 8), c = u32_at(p + 12);
    const uint32_t six = 0x3f3f3f3f, four = 0x0f0f0f0f, top = 0x30303030;
    uint64_t s = (a & six) | (uint64_t)((c & four) | (a >> 2 & top)) << 32;
    uint64_t m = (b & six) | (uint64_t)((c >> 4 & four) | (b >> 2 & top)) << 32;
    return (struct head){ scales(s, 0, 0, half_at(p)), scales(m, 0, 0, -half_at(p + 2)) };
}
INLINE __m512i open_q4_k(const uint8_t *p, int step, int half)
{
    (void)half;
    return shifted(both(p + 16 + 32 * step), 0, 4, 15);
}

enum { CHUNK_q5_k = 176, STEPS_q5_k = 4, SUB_q5_k = 8, Z_q5_k = 0, MIN_q5_k = 1 };
INLINE struct head head_q5_k(const uint8_t *p, int half) { return head_q4_k(p, half); }
INLINE __m512i open_q5_k(const uint8_t *p, int step, int half)
{
    (void)half;
    return joined(shifted(both(p + 48 + 32 * step), 0, 4, 15), both(p + 16), 4 - 2 * step, 3 - 2 * step, 16);
}

enum { CHUNK_q6_k = 210, STEPS_q6_k = 4, SUB_q6_k = 4, Z_q6_k = 32, MIN_q6_k = 0 };
INLINE struct head head_q6_k(const uint8_t *p, int half)
{
    (void)half;
    return (struct head){ scales(u64_at(p + 192), u64_at(p + 200), 0, half_at(p + 208)),
                          _mm512_setzero_ps() };
}
INLINE __m512i open_q6_k(const uint8_t *p, int step, int half)
{
    (void)half;
    const int late = step % 2 * 4;
    __m512i low = shifted(_mm512_loadu_si512(p + 64 * (step / 2)), late, late, 15);
    return joined(low, both(p + 128 + 32 * (step / 2)), 4 - late, 2 - late, 48);
}

enum { CHUNK_q2_k = 84, STEPS_q2_k = 4, SUB_q2_k = 4, Z_q2_k = 0, MIN_q2_k = 1 };
INLINE struct head head_q2_k(const uint8_t *p, int half)
{
    (void)half;
    uint64_t a = u64_at(p), b = u64_at(p + 8);
    return (struct head){ scales(a & BYTES(15), b & BYTES(15), 0, half_at(p + 80)),
                          scales(a >> 4 & BYTES(15), b >> 4 & BYTES(15), 0, -half_at(p + 82)) };
}
INLINE __m512i open_q2_k(const uint8_t *p, int step, int half)
{
    (void)half;
    return shifted(both(p + 16 + 32 * (step / 2)), step % 2 * 4, step % 2 * 4 + 2, 3);
}

enum { CHUNK_q3_k = 110, STEPS_q3_k = 4, SUB_q3_k = 4, Z_q3_k = 4, MIN_q3_k = 0 };
INLINE struct head head_q3_k(const uint8_t *p, int half)
{
    (void)half;
    const uint64_t two = 0x03030303;
    uint64_t low = u64_at(p + 96), high = u32_at(p + 104);
    uint64_t a = (high & two) | (high >> 2 & two) << 32, b = (high >> 4 & two) | (high >> 6 & two) << 32;
    return (struct head){ scales((low & BYTES(15)) | a << 4, (low >> 4 & BYTES(15)) | b << 4, 32,
                                 half_at(p + 108)), _mm512_setzero_ps() };
}
INLINE __m512i open_q3_k(const uint8_t *p, int step, int half)
{
    (void)half;
    return joined(shifted(both(p + 32 + 32 * (step / 2)), step % 2 * 4, step % 2 * 4 + 2, 3), both(p),
                  2 - 2 * step, 1 - 2 * step, 4);
}

enum { CHUNK_iq4_xs = 136, STEPS_iq4_xs = 4, SUB_iq4_xs = 8, Z_iq4_xs = 128, MIN_iq4_xs = 0 };
INLINE struct head head_iq4_xs(const uint8_t *p, int half)
{
    (void)half;
    uint64_t s = _pdep_u64(u32_at(p + 4), BYTES(15)) | _pdep_u64(u16_at(p + 2), BYTES(3)) << 4;
    return (struct head){ scales(s, 0, 32, half_at(p)), _mm512_setzero_ps() };
}
INLINE __m512i open_iq4_xs(const uint8_t *p, int step, int half)
{
    (void)half;
    __m256i v = _mm256_loadu_si256((const __m256i *)(p + 8 + 32 * step));
    return iq4_levels(nibbles(_mm512_castsi256_si512(v), 0, 16));
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
