/* backends/cpu-blas/gemm_int8.c -- many tokens times quantised weights by vpdpbusd.  See gemm.h.
 *
 * As in gemm_bf16.c the lanes are 16 tokens, here with four columns each, and four weights of one
 * row are broadcast to all of them: unsigned bytes as quant_types.h opens them, exactly the file's
 * numbers.  Only activations are rounded, to one byte or to two, hi and lo, and a scale for each 32
 * columns of a token.  Twelve rows hold their integer sums in twelve registers for the 32 (or 16)
 * columns that share a weight scale; then these are scaled and added to float sums in twelve others.
 * So ten multiplications are paid for each eight that count (eighteen for sixteen of two bytes): four
 * fifths of the peak are the bound.  A zero point Z costs next to nothing: sums begin at -Z times the
 * sum of the token's block.  Minima cost one more.
 * Compiled for AVX512-VNNI and VBMI: to be called where isa.h says so. */
#include "backends/cpu-blas/gemm.h"

#include "backends/backend.h"
#include "backends/cpu-blas/avx512.h"
#include "backends/cpu-blas/quant.h"
#include "backends/cpu-blas/quant_types.h"
#include "backends/cpu-blas/simd_exp.h"
#include "backends/cpu-blas/transpose.h"

#define UNROLL _Pragma("GCC unroll 32") for

enum {
    TOKENS = 16,                           /* lanes                                         */
    ROWS   = 96,                           /* of sums kept before they turn                 */
    PLANE  = 512,                          /* bytes of 16 tokens' 32 columns: [8][16][4]    */
    HIDDEN = 32,                           /* rows that make a block of w2's columns        */
};

/* A block is `planes` planes, the highest bytes first, [16] floats of scale, and the sums of the first
 * 16 and the last 16 columns: of one plane 16 bits each, side by side; of two [2][16] of 32 bits. */
INLINE size_t block_of(const int planes) { return (size_t)planes * (PLANE + 64) + 64; }

/* ---- activations ------------------------------------------------------------------------ */

/* the lowest bytes of four columns, side by side */
INLINE __m512i four_of(const __m512i q[4])
{
    const __m512i low = _mm512_set1_epi32(255);
    __m512i two = _mm512_or_si512(_mm512_and_si512(q[0], low),
                                  _mm512_slli_epi32(_mm512_and_si512(q[1], low), 8));
    return _mm512_or_si512(two, _mm512_or_si512(_mm512_slli_epi32(_mm512_and_si512(q[2], low), 16),
                                                _mm512_slli_epi32(q[3], 24)));
}

/* a[32 columns][16 tokens], columns lda apart, to a block.  A scale that is not finite makes all sums NaN. */
INLINE void quantise(const int planes, char *block, const float *a, size_t lda)
{
    const float full = planes == 2 ? 127 * 256 : 127;
    const __m512i ones = _mm512_set1_epi8(1);
    char *scale = block + planes * PLANE, *sum = scale + 64;
    __m512i top = _mm512_setzero_si512(), sums[2][2];
    for (int k = 0; k < 32; k++)           /* as integers NaN > infinity > numbers */
        top = _mm512_max_epi32(top, _mm512_and_si512(_mm512_loadu_si512(a + (size_t)k * lda),
                                                     _mm512_set1_epi32(0x7fffffff)));
    __m512 most = _mm512_castsi512_ps(top);
    __m512 by = _mm512_maskz_div_ps(_mm512_test_epi32_mask(top, top), _mm512_set1_ps(full), most);
    for (int k = 0; k < 32; k += 4) {
        __m512i q[4], plane[2];
        UNROLL (int i = 0; i < 4; i++)
            q[i] = _mm512_cvtps_epi32(_mm512_mul_ps(_mm512_loadu_ps(a + (size_t)(k + i) * lda), by));
        plane[planes - 1] = four_of(q);    /* of two: -128 .. 127, the rest is hi's */
        if (planes == 2) {
            UNROLL (int i = 0; i < 4; i++)
                q[i] = _mm512_srai_epi32(_mm512_add_epi32(q[i], _mm512_set1_epi32(128)), 8);
            plane[0] = four_of(q);
        }
        UNROLL (int p = 0; p < planes; p++) {
            _mm512_storeu_si512(block + p * PLANE + 16 * k, plane[p]);
            __m512i *to = &sums[k / 16][p];
            *to = _mm512_dpbusd_epi32(k % 16 ? *to : _mm512_setzero_si512(), ones, plane[p]);
        }
    }
    _mm512_storeu_ps(scale, _mm512_mul_ps(most, _mm512_set1_ps(1 / full)));
    if (planes == 1)
        _mm512_storeu_si512(sum, _mm512_mask_blend_epi16(0xaaaaaaaa, sums[0][0],
                                                         _mm512_slli_epi32(sums[1][0], 16)));
    UNROLL (int h = 0; h < 2 && planes == 2; h++)
        _mm512_storeu_si512(sum + 64 * h, _mm512_add_epi32(_mm512_slli_epi32(sums[h][0], 8), sums[h][1]));
}

/* a[32 columns][16 tokens], columns lda apart, as gemm_bf16.c packs them: pairs of columns */
INLINE void put_bf16(char *to, const float *a, size_t lda)
{
    for (int k = 0; k < 32; k += 2) {
        __m512i low = _mm512_cvtepu16_epi32(bf16_of(_mm512_loadu_ps(a + (size_t)k * lda)));
        __m512i high = _mm512_cvtepu16_epi32(bf16_of(_mm512_loadu_ps(a + (size_t)(k + 1) * lda)));
        _mm512_storeu_si512(to + 32 * k, _mm512_or_si512(low, _mm512_slli_epi32(high, 16)));
    }
}

/* by times the sum of a half of a block's columns, or of all */
INLINE __m512i sum_of(const int planes, const char *sum, const int halves, const int h, const int by)
{
    if (planes == 1) {
        const unsigned low = (unsigned)by & 65535, pair = halves == 1 ? low << 16 | low : h ? low << 16 : low;
        return _mm512_madd_epi16(_mm512_loadu_si512(sum), _mm512_set1_epi32((int)pair));
    }
    __m512i all = _mm512_loadu_si512(sum + 64 * h);
    if (halves == 1)
        all = _mm512_add_epi32(all, _mm512_loadu_si512(sum + 64));
    return by == 1 ? all : _mm512_mullo_epi32(all, _mm512_set1_epi32(by));
}

INLINE void pack(const int planes, void *block, const float *const *row, size_t n, size_t cols)
{
    for (size_t k = 0; k < cols; k += 32) {
        float a[32 * TOKENS];
        for (size_t half = 0; half < 32; half += 16) {
            __m512i v[16];
            UNROLL (size_t t = 0; t < TOKENS; t++)
                v[t] = t < n ? _mm512_loadu_si512(row[t] + k + half) : _mm512_setzero_si512();
            transpose(v);
            UNROLL (size_t i = 0; i < 16; i++)
                _mm512_storeu_si512(a + (half + i) * TOKENS, v[i]);
        }
        quantise(planes, (char *)block + k / 32 * block_of(planes), a, TOKENS);
    }
}

/* ---- weights ---------------------------------------------------------------------------- */

/* An opened panel: what it is, then [rows / 2][cols / 32] units of bytes q[2 rows][32],
 * float s[1 or 2 halves][2 rows] and, where the type has minima, m likewise. */
struct panel { uint32_t kind, unit; int32_t z; };
enum { HEAD = 64, KIND_SUB = 1, KIND_MIN = 2, KINDS = 4 };

/* s (m) of the 32 weights that begin at weight `at` of a chunk */
INLINE void put_scales(float *to, const float *head, size_t at, const int sub)
{
    if (sub == 4) {
        to[0] = head[at / 16];
        to[2] = head[at / 16 + 1];
    } else {
        to[0] = head[sub ? at / 32 : at / 4];
    }
}

#define TYPE(N, T) \
enum { KIND_##T = (SUB_##T == 4 ? KIND_SUB : 0) | (MIN_##T ? KIND_MIN : 0), \
       UNIT_##T = 64 + 8 * (SUB_##T == 4 ? 2 : 1) * (MIN_##T ? 2 : 1) }; \
static void open_all_##T(char *panel, const uint8_t *w, size_t rows, size_t cols) \
{ \
    const size_t per = 64 * STEPS_##T; \
    *(struct panel *)(void *)panel = (struct panel){ KIND_##T, UNIT_##T, Z_##T }; \
    for (size_t r = 0; r < rows; r++) { \
        char *to = panel + HEAD + r / 2 * (cols / 32) * UNIT_##T + r % 2 * 32; \
        for (size_t c = 0, left; (left = cols - c) > 0; c += left < per ? left : per) { \
            const int half = left < 64; \
            struct head h = head_##T(w, half); \
            float s[16], m[16]; \
            _mm512_storeu_ps(s, h.s); \
            if (MIN_##T) \
                _mm512_storeu_ps(m, h.m); \
            UNROLL (int i = 0; i < STEPS_##T; i++) { \
                __m512i q = open_##T(w, i, half); \
                UNROLL (int j = 0; j < 2; j++) { \
                    if (j && half) \
                        break; \
                    float *scale = (float *)(void *)(to + 64 - r % 2 * 28); \
                    _mm256_storeu_si256((__m256i *)(void *)to, j ? _mm512_extracti64x4_epi64(q, 1) \
                                                         : _mm512_castsi512_si256(q)); \
                    put_scales(scale, s, (size_t)(64 * i + 32 * j), SUB_##T); \
                    if (MIN_##T) \
                        put_scales(scale + (SUB_##T == 4 ? 4 : 2), m, (size_t)(64 * i + 32 * j), \
                                   SUB_##T); \
                    to += UNIT_##T; \
                } \
            } \
            w += half ? CHUNK_##T / 2 : CHUNK_##T; \
        } \
    } \
}
EACH_QUANT(TYPE)

#define ENTRY(N, T) [DBRX_##N] = open_all_##T,
static void (*const types[])(char *panel, const uint8_t *w, size_t rows, size_t cols) = {
    EACH_QUANT(ENTRY)
};

static void open(uint32_t dtype, void *panel, const void *src, size_t rows, size_t cols)
{
    types[dtype](panel, src, rows, cols);
}

/* ---- the kernel --------------------------------------------------------------------------- */

/* out[n rows][v][16 tokens] from w's unit on, n * v <= 12, `group` bytes from two rows to the next, times v
 * blocks of tokens, `apart` bytes from one to the other.  Beside it the weights that come next are asked
 * for, `pace` bytes with each block of columns. */
INLINE void product(const int n, const int v, const int kind, const int planes, float *out, const char *w,
                    size_t group, int z, const char *x, size_t apart, size_t blocks, const char *next,
                    size_t pace)
{
    const int halves = kind & KIND_SUB ? 2 : 1, min = kind & KIND_MIN;
    const int unit = 64 + 8 * halves * (min ? 2 : 1);
    const char *row[6];
    __m512 f[12];
    UNROLL (int r = 0; r < n / 2; r++)
        row[r] = w + (size_t)r * group;
    UNROLL (int i = 0; i < n * v; i++)
        f[i] = _mm512_setzero_ps();
    for (size_t b = 0; b < blocks; b++, x += block_of(planes)) {
        _mm_prefetch(next + b * pace, _MM_HINT_T1);
        UNROLL (int h = 0; h < halves; h++) {
            __m512i a[12], from[2];
            UNROLL (int i = 0; i < v; i++)
                from[i] = sum_of(planes, x + (size_t)i * apart + planes * PLANE + 64, halves, h, min ? 1 : -z);
            UNROLL (int i = 0; i < n * v; i++)
                a[i] = min || planes == 2 ? _mm512_setzero_si512() : from[i % v];
            UNROLL (int p = 0; p < planes; p++) {
                if (p == 1) {
                    /* read weights again: as many as there are fit no registers */
                    __asm__ volatile("" ::: "memory");
                    UNROLL (int i = 0; i < n * v; i++) {
                        a[i] = _mm512_slli_epi32(a[i], 8);
                        if (!min)
                            a[i] = _mm512_add_epi32(a[i], from[i % v]);
                    }
                }
                UNROLL (int k = h * 8 / halves; k < (h + 1) * 8 / halves; k++) {
                    __m512i t[2];
                    UNROLL (int i = 0; i < v; i++)
                        t[i] = _mm512_loadu_si512(x + (size_t)i * apart + p * PLANE + k * 64);
                    UNROLL (int r = 0; r < n; r++) {
                        int four;
                        __builtin_memcpy(&four, row[r / 2] + r % 2 * 32 + k * 4, 4);
                        UNROLL (int i = 0; i < v; i++)
                            a[r * v + i] = _mm512_dpbusd_epi32(a[r * v + i], _mm512_set1_epi32(four), t[i]);
                    }
                }
            }
            UNROLL (int i = 0; i < v; i++) {
                const __m512 scale = _mm512_loadu_ps(x + (size_t)i * apart + planes * PLANE);
                const __m512 sums = _mm512_mul_ps(_mm512_cvtepi32_ps(from[i]), scale);
                UNROLL (int r = 0; r < n; r++) {
                    const float *s = (const float *)(const void *)(row[r / 2] + 64) + 2 * h + r % 2;
                    __m512 *to = &f[r * v + i], by = _mm512_mul_ps(_mm512_set1_ps(*s), scale);
                    *to = _mm512_fmadd_ps(_mm512_cvtepi32_ps(a[r * v + i]), by, *to);
                    if (min)
                        *to = _mm512_fmadd_ps(sums, _mm512_set1_ps(s[2 * halves]), *to);
                }
            }
        }
        UNROLL (int i = 0; i < n / 2; i++)
            row[i] += unit;
    }
    UNROLL (int i = 0; i < n * v; i++)
        _mm512_storeu_ps(out + i * 16, f[i]);
}

typedef void kernel(float *, const char *, size_t, int, const char *, size_t, size_t, const char *, size_t);

#define KERNEL(n, v, kind, planes) \
    static __attribute__((noinline)) void rows##n##_##v##_##kind##_##planes( \
        float *out, const char *w, size_t group, int z, const char *x, size_t apart, size_t blocks, \
        const char *next, size_t pace) \
    { product(n, v, kind, planes, out, w, group, z, x, apart, blocks, next, pace); }
#define KERNELS(kind, planes) KERNEL(4, 2, kind, planes) KERNEL(6, 2, kind, planes) \
                              KERNEL(8, 1, kind, planes) KERNEL(12, 1, kind, planes)
#define KINDS_OF(planes) KERNELS(0, planes) KERNELS(1, planes) KERNELS(2, planes) KERNELS(3, planes)
KINDS_OF(1)
KINDS_OF(2)

/* [planes - 1][kind][blocks - 1][some, all that fit] */
#define OF_KIND(kind, planes) { { rows8_1_##kind##_##planes, rows12_1_##kind##_##planes }, \
                                { rows4_2_##kind##_##planes, rows6_2_##kind##_##planes } }
#define OF_PLANES(planes) { OF_KIND(0, planes), OF_KIND(1, planes), OF_KIND(2, planes), OF_KIND(3, planes) }
static kernel *const kernels[2][KINDS][2][2] = { OF_PLANES(1), OF_PLANES(2) };

/* kernels for `rows` rows, a multiple of 16, and n tokens */
static size_t kernels_for(size_t rows, size_t n)
{
    return (rows + 5) / 6 * (n / 32) + (rows + 11) / 12 * ((n % 32 + 15) / 16);
}

/* sums[rows][v][16] of rows first .. first + rows of a panel, times v blocks of tokens */
INLINE void sums_of(const int planes, float *sums, const struct panel *p, struct gemm_ahead *ahead,
                    size_t first, size_t rows, const char *x, size_t v, size_t cols)
{
    const size_t group = cols / 32 * p->unit, apart = cols / 32 * block_of(planes), most = 12 / v;
    for (size_t r = 0, step, pace; r < rows; r += step) {
        int all = (rows - r) % most == 0;  /* a sixteen that is no twelve is eights and fours */
        const char *next = gemm_ask(ahead, &pace);
        step = all ? most : 8 / v;
        kernels[planes - 1][p->kind][v - 1][all](sums + r * v * 16, (const char *)p + HEAD + (first + r) / 2 * group,
                                                 group, p->z, x, apart, cols / 32, next, pace);
    }
}

/* ---- products ----------------------------------------------------------------------------- */

/* of two planes: where sums are what comes out, 8 bits are too few (product.c) */
static void linear(float *y, size_t ldy, const void *x, size_t n, const struct gemm_rows *w, size_t rows,
                   size_t cols)
{
    const int planes = 2;
    struct gemm_ahead ahead = gemm_ahead(w, kernels_for(rows, n), cols / 32);
    for (size_t r = 0; r < rows; r += ROWS)
        for (size_t t = 0; t < n; t += 2 * TOKENS) {
            float sums[ROWS * 2 * TOKENS];
            size_t some = rows - r < ROWS ? rows - r : ROWS, v = n - t > TOKENS ? 2 : 1;
            sums_of(planes, sums, w->at, &ahead, r, some,
                    (const char *)x + t / TOKENS * (cols / 32) * block_of(planes), v, cols);
            turn(y + t * ldy + r, ldy, sums, some, v, n - t);
        }
}

/* bf16: h is gemm_bf16's, else int16's.  Hidden values are products, and their peaks would leave the
 * others few of 8 bits. */
INLINE void up(const int planes, const int bf16, void *h, size_t ffn, size_t first, const void *x, size_t n,
               const struct gemm_rows *w1, const struct gemm_rows *v1, size_t rows, size_t cols)
{
    const size_t hidden = bf16 ? 2 * TOKENS * HIDDEN : block_of(2);
    struct gemm_ahead ahead1 = gemm_ahead(w1, kernels_for(rows, n), cols / 32);
    struct gemm_ahead ahead2 = gemm_ahead(v1, kernels_for(rows, n), cols / 32);
    for (size_t r = 0; r < rows; r += HIDDEN)
        for (size_t t = 0; t < n; t += 2 * TOKENS) {
            float gate[HIDDEN * 2 * TOKENS], sums[HIDDEN * 2 * TOKENS];
            size_t v = n - t > TOKENS ? 2 : 1;
            const char *at = (const char *)x + t / TOKENS * (cols / 32) * block_of(planes);
            sums_of(planes, gate, w1->at, &ahead1, r, HIDDEN, at, v, cols);
            sums_of(planes, sums, v1->at, &ahead2, r, HIDDEN, at, v, cols);
            for (size_t k = 0; k < HIDDEN * v * TOKENS; k += TOKENS)
                _mm512_storeu_ps(gate + k, _mm512_mul_ps(v_silu(_mm512_loadu_ps(gate + k)),
                                                         _mm512_loadu_ps(sums + k)));
            for (size_t i = 0; i < v; i++) {
                char *to = (char *)h + ((t / TOKENS + i) * (ffn / 32) + (first + r) / 32) * hidden;
                if (bf16)
                    put_bf16(to, gate + i * TOKENS, v * TOKENS);
                else
                    quantise(2, to, gate + i * TOKENS, v * TOKENS);
            }
        }
}

#define TABLE(title, shown, planes, bf16, linear, next) \
static void up_##title(void *h, size_t ffn, size_t first, const void *x, size_t n, \
                       const struct gemm_rows *w1, const struct gemm_rows *v1, size_t rows, size_t cols) \
{ up(planes, bf16, h, ffn, first, x, n, w1, v1, rows, cols); } \
const struct gemm title = { \
    shown, TOKENS, (planes * (PLANE + 64) + 64) / TOKENS, HIDDEN, 1, &next, pack_##planes, linear, up_##title, \
    NULL, open, NULL };

static void pack_1(void *block, const float *const *row, size_t n, size_t cols) { pack(1, block, row, n, cols); }
static void pack_2(void *block, const float *const *row, size_t n, size_t cols) { pack(2, block, row, n, cols); }
TABLE(gemm_int8, "int8", 1, 1, NULL, gemm_bf16)
TABLE(gemm_int8_16, "int8, int16", 1, 0, NULL, gemm_int16)
TABLE(gemm_int16, "int16", 2, 0, linear, gemm_int16)
