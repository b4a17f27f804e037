/* backends/cpu-blas/gemm_bf16.c -- many tokens times BF16 weights by vdpbf16ps.  See gemm.h.
 *
 * The lanes are 16 tokens; a weight pair of one row is broadcast to all of them straight from
 * the mapped file.  So weights are never repacked: the few tokens are, once for all rows.
 * Twelve rows times two vectors of tokens fill 24 of the 32 registers with sums; each sum is
 * one chain over the columns.  w2 as Hugging Face stores it has its columns along the rows:
 * there alone two rows are laid side by side in a panel first.
 * Compiled for AVX512-BF16: to be called where isa.h says so. */
#include "backends/cpu-blas/gemm_bf16.h"

#include "backends/cpu-blas/avx512.h"
#include "backends/cpu-blas/simd_exp.h"
#include "backends/cpu-blas/transpose.h"

#define INLINE static inline __attribute__((always_inline))
#define UNROLL _Pragma("GCC unroll 16") for

enum { TOKENS = 16, ROWS = 96, AHEAD = 16 };   /* lanes; rows of sums kept before they turn; rows of w2
                                               asked for in advance */

static inline __m512 widen(__m512i h, int half)
{
    __m256i x = half ? _mm512_extracti64x4_epi64(h, 1) : _mm512_castsi512_si256(h);
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(x), 16));
}

/* ---- packing: a block is [plane][cols/2][16 tokens][2], plane 0 hi, plane 1 lo ------------ */

INLINE void pack(const int planes, uint16_t *block, const float *const *row, size_t n,
                 size_t cols)
{
    for (size_t k = 0; k < cols; k += 32) {
        __m512i v[2][16];
        UNROLL (size_t t = 0; t < TOKENS; t++) {
            __m512 a = _mm512_setzero_ps(), b = a;
            if (t < n) {
                a = _mm512_loadu_ps(row[t] + k);
                b = _mm512_loadu_ps(row[t] + k + 16);
            }
            v[0][t] = (__m512i)_mm512_cvtne2ps_pbh(b, a);
            if (planes == 2)
                v[1][t] = (__m512i)_mm512_cvtne2ps_pbh(_mm512_sub_ps(b, widen(v[0][t], 1)),
                                                       _mm512_sub_ps(a, widen(v[0][t], 0)));
        }
        for (int p = 0; p < planes; p++) {
            transpose(v[p]);               /* a lane is a pair of columns */
            UNROLL (size_t i = 0; i < 16; i++)
                _mm512_storeu_si512(block + ((size_t)p * cols / 2 + k / 2 + i) * 32, v[p][i]);
        }
    }
}

/* ---- the kernel --------------------------------------------------------------------------- */

/* Beside it the weights that come next are asked for, a line every few column pairs: `next` is
 * where, `pace` bytes go with each pair.
 * out[h0 + h1 rows][v][16 tokens]: h0 <= 6 rows from w on and h1 from w_ on, rows `rs` bytes
 * apart and column pairs `ks`, times v blocks of tokens, `block` bytes apart. */
INLINE void product(const int planes, const int h0, const int h1, const int v, float *out,
                    const char *w, const char *w_, size_t rs, size_t ks, const char *x,
                    size_t block, size_t cols, const char *next, size_t pace)
{
    const int n = h0 + h1;
    const char *base[4] = { w, w + 3 * rs, w_, w_ + 3 * rs };
    const size_t plane = cols * 32;
    __m512 s[12][2];
    UNROLL (int r = 0; r < n; r++)
        UNROLL (int i = 0; i < v; i++)
            s[r][i] = _mm512_setzero_ps();
    for (size_t k = 0; k < cols / 2; k++, x += 64) {
        _mm_prefetch(next + k * pace, _MM_HINT_T1);
        __m512bh t[2][2];
        UNROLL (int p = 0; p < planes; p++)
            UNROLL (int i = 0; i < v; i++)
                t[p][i] = (__m512bh)_mm512_loadu_si512(x + (size_t)i * block + (size_t)p * plane);
        UNROLL (int r = 0; r < n; r++) {
            const int half = r >= h0, q = half ? r - h0 : r;
            int pair;
            __builtin_memcpy(&pair, base[2 * half + q / 3] + (size_t)(q % 3) * rs + k * ks, 4);
            __m512bh b = (__m512bh)_mm512_set1_epi32(pair);
            UNROLL (int p = 0; p < planes; p++)
                UNROLL (int i = 0; i < v; i++)
                    s[r][i] = _mm512_dpbf16_ps(s[r][i], t[p][i], b);
        }
    }
    UNROLL (int r = 0; r < n; r++)
        UNROLL (int i = 0; i < v; i++)
            _mm512_storeu_ps(out + (r * v + i) * 16, s[r][i]);
}

#define KERNEL(name, planes, h0, h1, v, rs, ks) \
    static __attribute__((noinline)) void name(float *out, const char *w, const char *w_, \
                                               size_t stride, const char *x, size_t block, \
                                               size_t cols, const char *next, size_t pace) \
    { product(planes, h0, h1, v, out, w, w_, rs, ks, x, block, cols, next, pace); }
#define KERNELS(planes) \
    KERNEL(rows12_2_##planes, planes, 6, 6, 2, stride, 4) \
    KERNEL(rows12_1_##planes, planes, 6, 6, 1, stride, 4) \
    KERNEL(rows4_2_##planes, planes, 2, 2, 2, stride, 4) \
    KERNEL(rows4_1_##planes, planes, 2, 2, 1, stride, 4) \
    KERNEL(rows2_2_##planes, planes, 1, 1, 2, stride, 4) \
    KERNEL(rows2_1_##planes, planes, 1, 1, 1, stride, 4) \
    KERNEL(cols12_2_##planes, planes, 6, 6, 2, 4, stride) \
    KERNEL(cols12_1_##planes, planes, 6, 6, 1, 4, stride) \
    KERNEL(cols4_2_##planes, planes, 2, 2, 2, 4, stride) \
    KERNEL(cols4_1_##planes, planes, 2, 2, 1, 4, stride)
KERNELS(1)
KERNELS(2)

typedef void kernel(float *, const char *, const char *, size_t, const char *, size_t, size_t,
                    const char *, size_t);

/* [planes - 1][blocks - 1][12, 4, 2 rows] */
static kernel *const by_rows[2][2][3] = {
    { { rows12_1_1, rows4_1_1, rows2_1_1 }, { rows12_2_1, rows4_2_1, rows2_2_1 } },
    { { rows12_1_2, rows4_1_2, rows2_1_2 }, { rows12_2_2, rows4_2_2, rows2_2_2 } },
};
static kernel *const by_cols[2][2][2] = {
    { { cols12_1_1, cols4_1_1 }, { cols12_2_1, cols4_2_1 } },
    { { cols12_1_2, cols4_1_2 }, { cols12_2_2, cols4_2_2 } },
};

/* ---- products ----------------------------------------------------------------------------- */

static size_t step_of(size_t left)         /* how many rows the next kernel takes */
{
    return left >= 12 ? 12 : left >= 4 ? 4 : 2;
}

static int kernel_of(size_t step) { return step == 12 ? 0 : step == 4 ? 1 : 2; }

static size_t steps_of(size_t rows) { return rows / 12 + rows % 12 / 4 + rows % 4 / 2; }

INLINE void linear(const int planes, float *y, size_t ldy, const void *x, size_t n,
                   const struct gemm_rows *w, size_t rows, size_t cols)
{
    const size_t block = TOKENS * cols * 2 * (size_t)planes;
    struct gemm_ahead ahead = gemm_ahead(w, steps_of(rows) * ((n + 31) / 32), cols / 2);
    for (size_t r = 0; r < rows; r += ROWS) {
        size_t some = rows - r < ROWS ? rows - r : ROWS;
        for (size_t t = 0; t < n; t += 2 * TOKENS) {
            float sums[ROWS * 2 * TOKENS];
            size_t v = n - t > TOKENS ? 2 : 1;
            for (size_t i = 0, step, pace; i < some; i += step) {
                const char *at = (const char *)w->at + (r + i) * cols * 2, *next = gemm_ask(&ahead, &pace);
                step = step_of(some - i);
                by_rows[planes - 1][v - 1][kernel_of(step)](
                    sums + i * v * 16, at, at + step / 2 * cols * 2, cols * 2,
                    (const char *)x + t / TOKENS * block, block, cols, next, pace);
            }
            turn(y + t * ldy + r, ldy, sums, some, v, n - t);
        }
    }
}

/* Two rows of 16 tokens, side by side as BF16 */
static inline __m512i pair(__m512 a, __m512 b)
{
    const __m512i order = _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24,
                                           8, 23, 7, 22, 6, 21, 5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
    return _mm512_permutexvar_epi16(order, (__m512i)_mm512_cvtne2ps_pbh(b, a));
}

static inline __m512 gated(const float *gate, const float *up)
{
    return _mm512_mul_ps(v_silu(_mm512_loadu_ps(gate)), _mm512_loadu_ps(up));
}

INLINE void up(const int planes, uint16_t *h, size_t ffn, size_t first, const uint16_t *x,
               size_t n, const struct gemm_rows *w1, const struct gemm_rows *v1, size_t rows, size_t cols)
{
    const size_t block = TOKENS * cols * 2 * (size_t)planes, h_block = TOKENS * ffn * (size_t)planes;
    const size_t kernels = (steps_of(2 * rows) * ((n + 31) / 32) + 1) / 2;
    struct gemm_ahead ahead[2] = { gemm_ahead(w1, kernels, cols / 2), gemm_ahead(v1, kernels, cols / 2) };
    for (size_t r = 0, step, call = 0, pace; r < rows; r += step / 2) {
        size_t at = r * cols * 2;
        step = step_of(2 * (rows - r));    /* as many of w1 as of v1 */
        for (size_t t = 0; t < n; t += 2 * TOKENS) {
            float sums[12 * 2 * TOKENS];
            size_t v = n - t > TOKENS ? 2 : 1;
            const char *next = gemm_ask(&ahead[call++ % 2], &pace);
            by_rows[planes - 1][v - 1][kernel_of(step)](
                sums, (const char *)w1->at + at, (const char *)v1->at + at, cols * 2,
                (const char *)x + t / TOKENS * block, block, cols, next, pace);
            for (size_t b = 0; b < v; b++)
                for (size_t i = 0; i < step / 2; i += 2) {
                    const float *g = sums + (i * v + b) * 16, *u = g + step / 2 * v * 16;
                    __m512 a = gated(g, u), a_ = gated(g + v * 16, u + v * 16);
                    uint16_t *to = h + (t / TOKENS + b) * h_block + (first + r + i) / 2 * 32;
                    __m512i hi = pair(a, a_);
                    _mm512_storeu_si512(to, hi);
                    if (planes == 2) {
                        __m512 e = _mm512_castsi512_ps(_mm512_slli_epi32(hi, 16));
                        __m512 o = _mm512_castsi512_ps(
                            _mm512_and_si512(hi, _mm512_set1_epi32((int)0xffff0000)));
                        _mm512_storeu_si512(to + TOKENS * ffn,
                                            pair(_mm512_sub_ps(a, e), _mm512_sub_ps(a_, o)));
                    }
                }
        }
    }
}

void bf16_panel(uint16_t *panel, const void *w, size_t ldw, size_t n, size_t cols)
{
    const char *w2 = w;
    const __m512i order = _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24,
                                           8, 23, 7, 22, 6, 21, 5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
    for (size_t k = 0; k < n; k += 2)
        for (size_t c = 0; c < cols; c += 16) {
            const char *a = w2 + 2 * (k * ldw + c), *b = a + 2 * ldw;
            __m512i v = _mm512_castsi256_si512(_mm256_loadu_si256((const __m256i *)a));
            v = _mm512_inserti64x4(v, _mm256_loadu_si256((const __m256i *)b), 1);
            _mm512_storeu_si512(panel + k * cols + 2 * c, _mm512_permutexvar_epi16(order, v));
            if (c % 32 == 0) {
                _mm_prefetch(a + 2 * AHEAD * ldw, _MM_HINT_T0);
                _mm_prefetch(b + 2 * AHEAD * ldw, _MM_HINT_T0);
            }
        }
}

INLINE void down(const int planes, float *out, size_t ldo, const uint16_t *h, size_t n,
                 size_t ffn, const void *w2, size_t ldw, size_t cols, float *panel)
{
    const size_t block = TOKENS * ffn * 2 * (size_t)planes;
    size_t most = GEMM_PANEL / ffn * 2 / 16 * 16;          /* columns a panel holds */
    most = most < 16 ? 16 : most > ROWS ? ROWS : most;
    for (size_t c = 0; c < cols; c += most) {
        size_t some = cols - c < most ? cols - c : most;
        const char *next = (const char *)w2 + 2 * (c + some);
        size_t call = 0;
        bf16_panel((uint16_t *)panel, (const char *)w2 + 2 * c, ldw, ffn, some);
        for (size_t t = 0; t < n; t += 2 * TOKENS) {
            float sums[ROWS * 2 * TOKENS];
            size_t v = n - t > TOKENS ? 2 : 1;
            for (size_t i = 0, step; i < some; i += step, call++) {
                const char *at = (const char *)panel + 4 * i;
                step = step_of(some - i);
                by_cols[planes - 1][v - 1][kernel_of(step)](
                    sums + i * v * 16, at, at + 2 * step, 4 * some,
                    (const char *)h + t / TOKENS * block, block, ffn,
                    next + call % 2 * 2 * ldw + call / 2 * 64, 4 * ldw);
            }
            turn(out + t * ldo + c, ldo, sums, some, v, n - t);
        }
    }
}

void bf16_by_rows(float *sums, const void *w, size_t rows, size_t stride, const uint16_t *x,
                  size_t v, size_t cols)
{
    for (size_t r = 0, step; r < rows; r += step) {
        const char *at = (const char *)w + r * stride;
        step = step_of(rows - r);
        by_rows[0][v - 1][kernel_of(step)](sums + r * v * 16, at, at + step / 2 * stride, stride,
                                           (const char *)x, 32 * cols, cols, at, 0);
    }
}

void bf16_by_cols(float *sums, const uint16_t *panel, size_t rows, const uint16_t *x, size_t v,
                  size_t cols)
{
    for (size_t r = 0, step; r < rows; r += step) {
        const char *at = (const char *)panel + 4 * r;
        step = step_of(rows - r);
        by_cols[0][v - 1][kernel_of(step)](sums + r * v * 16, at, at + 2 * step, 4 * rows,
                                           (const char *)x, 32 * cols, cols, at, 0);
    }
}

void bf16_pack(void *block, const float *const *row, size_t n, size_t cols)
{
    pack(1, block, row, n, cols);
}

static void open(uint32_t dtype, void *panel, const void *src, size_t rows, size_t cols)
{
    bf16_open(dtype, panel, src, rows * cols);
}

#define TABLE(planes, title, open, attend) \
static void pack_##planes(void *block, const float *const *row, size_t n, size_t cols) \
{ pack(planes, block, row, n, cols); } \
static void linear_##planes(float *y, size_t ldy, const void *x, size_t n, \
                            const struct gemm_rows *w, size_t rows, size_t cols) \
{ linear(planes, y, ldy, x, n, w, rows, cols); } \
static void up_##planes(void *h, size_t ffn, size_t first, const void *x, size_t n, \
                        const struct gemm_rows *w1, const struct gemm_rows *v1, size_t rows, \
                        size_t cols) \
{ up(planes, h, ffn, first, x, n, w1, v1, rows, cols); } \
static void down_##planes(float *out, size_t ldo, const void *h, size_t n, size_t ffn, \
                          const void *w2, size_t ldw, size_t cols, float *panel) \
{ down(planes, out, ldo, h, n, ffn, w2, ldw, cols, panel); } \
const struct gemm title = { \
    &#title[5], TOKENS, 64 * planes, 48, 0, &title, pack_##planes, linear_##planes, up_##planes, \
    down_##planes, open, attend };
TABLE(1, gemm_bf16, open, bf16_attend)
TABLE(2, gemm_bf16x2, NULL, NULL)
