/* backends/cpu-blas/amx.c -- BF16 products on AMX tiles.  See gemm.h.
 *
 * A tile is 16 rows of 64 bytes.  TDPBF16PS adds A[16][32] B[32][16] to C[16][16], where B
 * holds pairs of k side by side: B[k/2][n][2].  Four C tiles, two A and two B make the best
 * of the eight there are. */
#include "backends/cpu-blas/gemm.h"

#include "backends/cpu-blas/avx512.h"
#include "backends/cpu-blas/simd_exp.h"
#include "backends/cpu-blas/transpose.h"

#include <string.h>

/* ---- registers ------------------------------------------------------------ */

static void tiles_on(void)                 /* eight tiles of 16 rows of 64 bytes */
{
    struct { uint8_t palette, start_row, reserved[14]; uint16_t colsb[16]; uint8_t rows[16]; }
    __attribute__((packed)) cfg;
    memset(&cfg, 0, sizeof cfg);
    cfg.palette = 1;
    for (int i = 0; i < 8; i++) {
        cfg.colsb[i] = 64;
        cfg.rows[i] = 16;
    }
    _tile_loadconfig(&cfg);
}

/* 16 BF16 numbers as floats */
static inline __m512 widen(__m256i h)
{
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(h), 16));
}

enum { TOKENS = 32 };                      /* taken at a time; a block is 2 * TOKENS * cols */

static inline size_t block_of(size_t cols) { return 2 * TOKENS * cols; }
static inline size_t round32(size_t n) { return (n + 31) / 32 * 32; }

/* ---- packing -------------------------------------------------------------- */

/* Within a block: [cols/32][token/16][hi, lo] tiles of [16 pairs of k][16 tokens][2]. */
static void pack(void *to, const float *const *row, size_t n, size_t cols)
{
    uint16_t *block = to;
    for (size_t k = 0; k < cols; k += 32)
        for (size_t t0 = 0; t0 < TOKENS; t0 += 16, block += 1024) {
            __m512i hi[16], lo[16];
            for (size_t t = 0; t < 16; t++) {
                if (t0 + t >= n) {
                    hi[t] = lo[t] = _mm512_setzero_si512();
                    continue;
                }
                const float *p = row[t0 + t] + k;
                __m512 a = _mm512_loadu_ps(p), b = _mm512_loadu_ps(p + 16);
                hi[t] = (__m512i)_mm512_cvtne2ps_pbh(b, a);
                a = _mm512_sub_ps(a, widen(_mm512_castsi512_si256(hi[t])));
                b = _mm512_sub_ps(b, widen(_mm512_extracti64x4_epi64(hi[t], 1)));
                lo[t] = (__m512i)_mm512_cvtne2ps_pbh(b, a);
            }
            transpose(hi);                 /* a lane is a pair of k */
            transpose(lo);
            for (int i = 0; i < 16; i++) {
                _mm512_storeu_si512(block + 32 * i, hi[i]);
                _mm512_storeu_si512(block + 512 + 32 * i, lo[i]);
            }
        }
}

/* ---- products ------------------------------------------------------------- */

static inline void load_sums(const float *c, size_t ld, size_t down, size_t right)
{
    _tile_loadd(0, c, 4 * ld);
    _tile_loadd(1, c + right, 4 * ld);
    _tile_loadd(2, c + down, 4 * ld);
    _tile_loadd(3, c + down + right, 4 * ld);
}

static inline void zero_sums(void)
{
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
}

static inline void store_sums(float *c, size_t ld, size_t down, size_t right)
{
    _tile_stored(0, c, 4 * ld);
    _tile_stored(1, c + right, 4 * ld);
    _tile_stored(2, c + down, 4 * ld);
    _tile_stored(3, c + down + right, 4 * ld);
}

/* Two sets of 16 weight rows times one block: c = (a0, tokens 0..15), (a0, 16..31),
 * (a1, 0..15), (a1, 16..31). */
static inline void rows_times_block(float c[4][256], const char *a0, const char *a1,
                                    const uint16_t *block, size_t cols)
{
    zero_sums();
    for (size_t k = 0; k < cols; k += 32, block += 2048, a0 += 64, a1 += 64) {
        _tile_loadd(4, a0, 2 * cols);
        _tile_loadd(6, block, 64);
        _tile_loadd(5, a1, 2 * cols);
        _tile_dpbf16ps(0, 4, 6);
        _tile_loadd(7, block + 1024, 64);
        _tile_dpbf16ps(2, 5, 6);
        _tile_dpbf16ps(1, 4, 7);
        _tile_dpbf16ps(3, 5, 7);
        _tile_loadd(6, block + 512, 64);
        _tile_dpbf16ps(0, 4, 6);
        _tile_loadd(7, block + 1536, 64);
        _tile_dpbf16ps(2, 5, 6);
        _tile_dpbf16ps(1, 4, 7);
        _tile_dpbf16ps(3, 5, 7);
    }
    store_sums(c[0], 16, 512, 256);
}

/* sums of 16 rows x 16 tokens -> a vector of 16 rows for each token */
static inline void by_token(__m512i out[16], const float tile[256])
{
    for (int i = 0; i < 16; i++)
        out[i] = _mm512_loadu_si512(tile + 16 * i);
    transpose(out);
}

static void linear(float *y, size_t ldy, const void *packed, size_t n, const struct gemm_rows *w,
                   size_t rows, size_t cols)
{
    const uint16_t *x = packed;
    float c[4][256];
    tiles_on();
    for (size_t t0 = 0; t0 < n; t0 += TOKENS, x += block_of(cols))
        for (size_t r = 0; r < rows; r += 32) {
            const char *a = (const char *)w->at + 2 * r * cols;
            int two = r + 16 < rows;
            rows_times_block(c, a, two ? a + 32 * cols : a, x, cols);
            for (int i = 0; i < (two ? 4 : 2); i++) {
                __m512i v[16];
                by_token(v, c[i]);
                size_t first = t0 + 16 * (size_t)(i & 1);
                float *to = y + r + 16 * (size_t)(i >> 1);
                for (size_t t = 0; t < 16 && first + t < n; t++)
                    _mm512_storeu_si512(to + (first + t) * ldy, v[t]);
            }
        }
    _tile_release();
}

/* 16 rows of 32 tokens: c = gate, gate, up, up, to their place in h's block, whose tiles are
 * [ffn/32][hi, hi, lo, lo of tokens 0..15, 16..31][16 tokens][32 rows] */
static void finish_up(uint16_t *h, float c[4][256])
{
    for (int i = 0; i < 2; i++, h += 512) {
        __m512i v[16];
        for (int j = 0; j < 256; j += 16) {
            __m512 g = _mm512_loadu_ps(c[i] + j), u = _mm512_loadu_ps(c[i + 2] + j);
            _mm512_storeu_ps(c[i] + j, _mm512_mul_ps(v_silu(g), u));
        }
        by_token(v, c[i]);
        for (int t = 0; t < 16; t++) {
            __m512 f = _mm512_castsi512_ps(v[t]);
            __m256i hi = (__m256i)_mm512_cvtneps_pbh(f);
            __m256i lo = (__m256i)_mm512_cvtneps_pbh(_mm512_sub_ps(f, widen(hi)));
            _mm256_storeu_si256((__m256i *)(h + 32 * t), hi);
            _mm256_storeu_si256((__m256i *)(h + 1024 + 32 * t), lo);
        }
    }
}

static void up(void *hidden, size_t ffn, size_t first, const void *packed, size_t n,
               const struct gemm_rows *w1, const struct gemm_rows *v1, size_t rows, size_t cols)
{
    const uint16_t *x = packed;
    uint16_t *h = hidden;
    float c[4][256];
    tiles_on();
    for (size_t t0 = 0; t0 < n; t0 += TOKENS, x += block_of(cols), h += block_of(ffn))
        for (size_t r = 0; r < rows; r += 16) {
            rows_times_block(c, (const char *)w1->at + 2 * r * cols, (const char *)v1->at + 2 * r * cols,
                             x, cols);
            finish_up(h + (first + r) / 32 * 2048 + (first + r) % 32, c);
        }
    _tile_release();
}

/* rows x cols of w2, pairs of rows side by side: [cols/32][rows/32][2] tiles; a last half of
 * 16 columns is there twice */
static void pack_panel(uint16_t *panel, const char *w2, size_t ldw, size_t rows, size_t cols)
{
    const __m512i order = _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24,
                                           8, 23, 7, 22, 6, 21, 5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
    for (size_t k = 0; k < rows; k += 2) {
        const char *a = w2 + 2 * k * ldw, *b = a + 2 * ldw;
        uint16_t *to = panel + k / 32 * 1024 + k % 32 / 2 * 32;
        for (size_t c = 0; c < round32(cols); c += 16) {
            size_t from = c < cols ? c : c - 16;
            __m512i v = _mm512_castsi256_si512(_mm256_loadu_si256((const __m256i *)(a + 2 * from)));
            v = _mm512_inserti64x4(v, _mm256_loadu_si256((const __m256i *)(b + 2 * from)), 1);
            _mm512_storeu_si512(to + c / 32 * 32 * rows + c % 32 * 32,
                                _mm512_permutexvar_epi16(order, v));
        }
    }
}

/* A block's activations fit the first-level cache this many at a time: so far a product goes
 * before the next columns take their turn; the sums wait in `out`. */
enum { K_STEP = 256 };

/* One block times `rows` rows of a panel of 32 columns, added to o[32][ldo] unless `first`. */
static inline void block_times_panel(float *o, size_t ldo, size_t right, const uint16_t *h,
                                     const uint16_t *b, size_t rows, int first)
{
    if (first)
        zero_sums();
    else
        load_sums(o, ldo, 16 * ldo, right);
    for (size_t k = 0; k < rows; k += 32, h += 2048, b += 1024) {
        _tile_loadd(6, b, 64);
        _tile_loadd(4, h, 64);
        _tile_loadd(7, b + 512, 64);
        _tile_dpbf16ps(0, 4, 6);
        _tile_loadd(5, h + 512, 64);
        _tile_dpbf16ps(1, 4, 7);
        _tile_dpbf16ps(2, 5, 6);
        _tile_dpbf16ps(3, 5, 7);
        _tile_loadd(4, h + 1024, 64);
        _tile_dpbf16ps(0, 4, 6);
        _tile_loadd(5, h + 1536, 64);
        _tile_dpbf16ps(1, 4, 7);
        _tile_dpbf16ps(2, 5, 6);
        _tile_dpbf16ps(3, 5, 7);
    }
    store_sums(o, ldo, 16 * ldo, right);
}

static void down(float *out, size_t ldo, const void *hidden, size_t n, size_t ffn, const void *w2,
                 size_t ldw, size_t cols, float *panel)
{
    const uint16_t *h = hidden;
    uint16_t *b = (uint16_t *)panel;
    const size_t most = 2 * GEMM_PANEL / round32(cols) / K_STEP * K_STEP;
    tiles_on();
    for (size_t k0 = 0; k0 < ffn; k0 += most) {
        size_t rows = ffn - k0 < most ? ffn - k0 : most;
        pack_panel(b, (const char *)w2 + 2 * k0 * ldw, ldw, rows, cols);
        for (size_t t = 0; t < n; t += TOKENS)
            for (size_t k = 0; k < rows; k += K_STEP)
                for (size_t c = 0; c < cols; c += 32)
                    block_times_panel(out + t * ldo + c, ldo, c + 16 < cols ? 16 : 0,
                                      h + t * 2 * ffn + 64 * (k0 + k), b + c * rows + 32 * k,
                                      rows - k < K_STEP ? rows - k : K_STEP, k0 + k == 0);
    }
    _tile_release();
}

const struct gemm gemm_amx = { "amx", TOKENS, 128, 48, 0, &gemm_amx, pack, linear, up, down, NULL, NULL };
