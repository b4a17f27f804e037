/* backends/cpu-blas/gemm_int8.c -- many tokens times quantised weights by vpdpbusd.  See gemm.h.
 *
 * As in gemm_bf16.c the lanes are 16 tokens, here with four columns each, and four weights of one
 * row are broadcast to all of them: unsigned bytes as quant_types.h opens them, exactly the file's
 * numbers.  Only activations are rounded: 8 bits and a scale for each 32 columns of a token.
 * Twelve rows hold their integer sums in twelve registers for the 32 (or 16) columns that share a
 * weight scale; then these are scaled and added to float sums in twelve others.  So ten
 * multiplications are paid for each eight that count: four fifths of the peak are the bound.
 * A zero point Z costs nothing: sums begin at -Z times the sum of the token's block.  Minima cost
 * one more.  Compiled for AVX512-VNNI and VBMI: to be called where isa.h says so. */
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
    BLOCK  = 640,                          /* bytes of 16 tokens' 32 columns: [8][16][4] bytes, */
    SCALE  = 512,                          /* [16] floats,                                  */
    SUMS   = 576,                          /* [16] sums of 16 and 16 columns, 16 bits each  */
    HIDDEN = 32,                           /* rows that make a block of w2's columns        */
};

/* ---- activations ------------------------------------------------------------------------ */

/* a[32 columns][16 tokens] to a block.  A scale that is not finite makes all sums NaN. */
static void quantise(char *block, const float *a)
{
    __m512i top = _mm512_setzero_si512(), sums[2];
    for (int k = 0; k < 32; k++)           /* as integers NaN > infinity > numbers */
        top = _mm512_max_epi32(top, _mm512_and_si512(_mm512_loadu_si512(a + 16 * k),
                                                     _mm512_set1_epi32(0x7fffffff)));
    __m512 most = _mm512_castsi512_ps(top);
    __m512 by = _mm512_maskz_div_ps(_mm512_test_epi32_mask(top, top), _mm512_set1_ps(127), most);
    for (int k = 0; k < 32; k += 4) {
        __m512i q[4];
        UNROLL (int i = 0; i < 4; i++)
            q[i] = _mm512_cvtps_epi32(_mm512_mul_ps(_mm512_loadu_ps(a + 16 * (k + i)), by));
        const __m512i low = _mm512_set1_epi32(255);
        __m512i two = _mm512_or_si512(_mm512_and_si512(q[0], low),
                                      _mm512_slli_epi32(_mm512_and_si512(q[1], low), 8));
        __m512i four = _mm512_or_si512(_mm512_slli_epi32(_mm512_and_si512(q[2], low), 16),
                                       _mm512_slli_epi32(q[3], 24));
        four = _mm512_or_si512(two, four);
        _mm512_storeu_si512(block + 16 * k, four);
        __m512i *sum = &sums[k / 16];
        *sum = _mm512_dpbusd_epi32(k % 16 ? *sum : _mm512_setzero_si512(), _mm512_set1_epi8(1), four);
    }
    _mm512_storeu_ps(block + SCALE, _mm512_mul_ps(most, _mm512_set1_ps(1 / 127.f)));
    _mm512_storeu_si512(block + SUMS, _mm512_mask_blend_epi16(0xaaaaaaaa, sums[0],
                                                              _mm512_slli_epi32(sums[1], 16)));
}

static void pack(void *block, const float *const *row, size_t n, size_t cols)
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
        quantise((char *)block + k / 32 * BLOCK, a);
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

/* out[n rows][16 tokens] from w's unit on, n <= 12, `group` bytes from two rows to the next, times a
 * block of tokens.  Beside it the weights that come next are asked for, `pace` bytes (a line, or
 * none) with each block of columns. */
INLINE void product(const int n, const int kind, float *out, const char *w, size_t group, int z,
                    const char *x, size_t blocks, const char *next, size_t pace)
{
    const int halves = kind & KIND_SUB ? 2 : 1, min = kind & KIND_MIN;
    const int unit = 64 + 8 * halves * (min ? 2 : 1);
    const char *row[6];
    __m512 f[12];
    UNROLL (int r = 0; r < n / 2; r++)
        row[r] = w + (size_t)r * group;
    UNROLL (int r = 0; r < n; r++)
        f[r] = _mm512_setzero_ps();
    for (size_t b = 0; b < blocks; b++, x += BLOCK) {
        _mm_prefetch(next + b * pace, _MM_HINT_T1);
        UNROLL (int h = 0; h < halves; h++) {
            __m512i a[12];
            const unsigned by = min ? 1 : (unsigned)-z;    /* one half's sums are the low words */
            const unsigned pair = halves == 1 ? by << 16 | (by & 65535) : h ? by << 16 : by & 65535;
            __m512i from = _mm512_madd_epi16(_mm512_loadu_si512(x + SUMS), _mm512_set1_epi32((int)pair));
            __m512 scale = _mm512_loadu_ps(x + SCALE), sums = scale;
            if (min) {
                sums = _mm512_mul_ps(_mm512_cvtepi32_ps(from), scale);
                from = _mm512_setzero_si512();
            }
            UNROLL (int r = 0; r < n; r++)
                a[r] = from;
            UNROLL (int k = h * 8 / halves; k < (h + 1) * 8 / halves; k++) {
                __m512i t = _mm512_loadu_si512(x + k * 64);
                UNROLL (int r = 0; r < n; r++) {
                    int four;
                    __builtin_memcpy(&four, row[r / 2] + r % 2 * 32 + k * 4, 4);
                    a[r] = _mm512_dpbusd_epi32(a[r], _mm512_set1_epi32(four), t);
                }
            }
            UNROLL (int r = 0; r < n; r++) {
                const float *s = (const float *)(const void *)(row[r / 2] + 64) + 2 * h + r % 2;
                f[r] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(a[r]), _mm512_mul_ps(_mm512_set1_ps(*s), scale),
                                       f[r]);
                if (min)
                    f[r] = _mm512_fmadd_ps(sums, _mm512_set1_ps(s[2 * halves]), f[r]);
            }
        }
        UNROLL (int i = 0; i < n / 2; i++)
            row[i] += unit;
    }
    UNROLL (int r = 0; r < n; r++)
        _mm512_storeu_ps(out + r * 16, f[r]);
}

#define KERNEL(n, kind) \
    static __attribute__((noinline)) void rows##n##_##kind( \
        float *out, const char *w, size_t group, int z, const char *x, size_t blocks, const char *next, \
        size_t pace) \
    { product(n, kind, out, w, group, z, x, blocks, next, pace); }
#define KERNELS(kind) KERNEL(8, kind) KERNEL(10, kind) KERNEL(12, kind)
KERNELS(0)
KERNELS(1)
KERNELS(2)
KERNELS(3)

typedef void kernel(float *, const char *, size_t, int, const char *, size_t, const char *, size_t);
#define ROW(kind) { rows8_##kind, rows10_##kind, rows12_##kind }
static kernel *const kernels[KINDS][3] = { ROW(0), ROW(1), ROW(2), ROW(3) };

static size_t steps_of(size_t rows) { return (rows + 11) / 12; }       /* kernels of sums_of */

/* sums[rows][16] of rows first .. first + rows of a panel, times a block of tokens */
static void sums_of(float *sums, const struct panel *p, struct gemm_ahead *ahead, size_t first, size_t rows,
                    const char *x, size_t cols)
{
    const size_t group = cols / 32 * p->unit;
    for (size_t r = 0, step, pace; r < rows; r += step) {
        size_t left = rows - r;            /* sixteens are twelves, tens or eights */
        step = left == 8 || left == 16 ? 8 : left <= 40 && left % 10 == 0 ? 10 : 12;
        const char *next = gemm_ask(ahead, &pace);
        kernels[p->kind][step / 2 - 4](sums + r * 16, (const char *)p + HEAD + (first + r) / 2 * group,
                                       group, p->z, x, cols / 32, next, pace);
    }
}

/* ---- products ----------------------------------------------------------------------------- */

static void linear(float *y, size_t ldy, const void *x, size_t n, const struct gemm_rows *w, size_t rows,
                   size_t cols)
{
    const struct panel *p = w->at;
    struct gemm_ahead ahead = gemm_ahead(w, steps_of(rows) * ((n + 15) / TOKENS), cols / 32);
    for (size_t r = 0; r < rows; r += ROWS)
        for (size_t t = 0; t < n; t += TOKENS) {
            float sums[ROWS * TOKENS];
            size_t some = rows - r < ROWS ? rows - r : ROWS;
            sums_of(sums, p, &ahead, r, some, (const char *)x + t / TOKENS * (cols / 32) * BLOCK, cols);
            turn(y + t * ldy + r, ldy, sums, some, 1, n - t);
        }
}

static void up(void *h, size_t ffn, size_t first, const void *x, size_t n, const struct gemm_rows *w1,
               const struct gemm_rows *v1, size_t rows, size_t cols)
{
    const struct panel *p1 = w1->at, *p2 = v1->at;
    const size_t kernels_each = steps_of(rows) * ((n + 15) / TOKENS);
    struct gemm_ahead ahead1 = gemm_ahead(w1, kernels_each, cols / 32);
    struct gemm_ahead ahead2 = gemm_ahead(v1, kernels_each, cols / 32);
    for (size_t r = 0; r < rows; r += HIDDEN)
        for (size_t t = 0; t < n; t += TOKENS) {
            float gate[HIDDEN * TOKENS], sums[HIDDEN * TOKENS];
            const char *at = (const char *)x + t / TOKENS * (cols / 32) * BLOCK;
            sums_of(gate, p1, &ahead1, r, HIDDEN, at, cols);
            sums_of(sums, p2, &ahead2, r, HIDDEN, at, cols);
            for (size_t k = 0; k < HIDDEN * TOKENS; k += TOKENS)
                _mm512_storeu_ps(gate + k, _mm512_mul_ps(v_silu(_mm512_loadu_ps(gate + k)),
                                                         _mm512_loadu_ps(sums + k)));
            quantise((char *)h + (t / TOKENS * (ffn / 32) + (first + r) / 32) * BLOCK, gate);
        }
}

const struct gemm gemm_int8 = { "int8", TOKENS, BLOCK / TOKENS, HIDDEN, pack, linear, up, NULL, open, NULL };
