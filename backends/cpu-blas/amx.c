/* backends/cpu-blas/amx.c -- BF16 products on AMX tiles.  See amx.h.
 *
 * A tile is 16 rows of 64 bytes.  TDPBF16PS adds A[16][32] B[32][16] to C[16][16], where B
 * holds pairs of k side by side: B[k/2][n][2].  Four C tiles, two A and two B make the best
 * of the eight there are. */
#include "backends/cpu-blas/amx.h"

#include <immintrin.h>
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

/* r[i] lane j <-> r[j] lane i */
static inline void transpose(__m512i r[16])
{
    __m512i t[16];
    for (int i = 0; i < 16; i += 2) {
        t[i] = _mm512_unpacklo_epi32(r[i], r[i + 1]);
        t[i + 1] = _mm512_unpackhi_epi32(r[i], r[i + 1]);
    }
    for (int i = 0; i < 16; i += 4) {
        r[i] = _mm512_unpacklo_epi64(t[i], t[i + 2]);
        r[i + 1] = _mm512_unpackhi_epi64(t[i], t[i + 2]);
        r[i + 2] = _mm512_unpacklo_epi64(t[i + 1], t[i + 3]);
        r[i + 3] = _mm512_unpackhi_epi64(t[i + 1], t[i + 3]);
    }
    for (int i = 0; i < 4; i++)
        for (int h = 0; h < 16; h += 8) {
            t[h + i] = _mm512_shuffle_i32x4(r[h + i], r[h + i + 4], 0x88);
            t[h + i + 4] = _mm512_shuffle_i32x4(r[h + i], r[h + i + 4], 0xdd);
        }
    for (int i = 0; i < 8; i++) {
        r[i] = _mm512_shuffle_i32x4(t[i], t[i + 8], 0x88);
        r[i + 8] = _mm512_shuffle_i32x4(t[i], t[i + 8], 0xdd);
    }
}

/* 16 BF16 numbers as floats */
static inline __m512 widen(__m256i h)
{
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(h), 16));
}

/* ---- packing -------------------------------------------------------------- */

/* Within a block: [cols/32][token/16][hi, lo] tiles of [16 pairs of k][16 tokens][2]. */
void amx_pack(uint16_t *block, const float *const *row, size_t n, size_t cols)
{
    for (size_t k = 0; k < cols; k += 32)
        for (size_t t0 = 0; t0 < AMX_TOKENS; t0 += 16, block += 1024) {
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

/* ---- y = x w^T ------------------------------------------------------------ */

/* C[a][b] += A-tile rows a (two sets of 16 weight rows) times the block's two token tiles. */
static inline void rows_times_block(const char *a0, const char *a1, size_t stride,
                                    const uint16_t *block, size_t cols)
{
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
    for (size_t k = 0; k < cols; k += 32, block += 2048, a0 += 64, a1 += 64) {
        _tile_loadd(4, a0, stride);
        _tile_loadd(6, block, 64);
        _tile_loadd(5, a1, stride);
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
}

/* tile -> 16 vectors, one a token, of 16 rows */
static inline void by_token(__m512i out[16], const float tile[256])
{
    for (int i = 0; i < 16; i++)
        out[i] = _mm512_load_si512(tile + 16 * i);
    transpose(out);
}

void amx_linear(float *y, size_t ldy, const uint16_t *x, size_t n, const void *w, size_t rows,
                size_t cols)
{
    _Alignas(64) float c[4][256];
    tiles_on();
    for (size_t t0 = 0; t0 < n; t0 += AMX_TOKENS, x += amx_block(cols))
        for (size_t r = 0; r < rows; r += 32) {
            const char *a0 = (const char *)w + 2 * r * cols;
            int two = r + 16 < rows;
            rows_times_block(a0, two ? a0 + 32 * cols : a0, 2 * cols, x, cols);
            _tile_stored(0, c[0], 64);
            _tile_stored(1, c[1], 64);
            _tile_stored(2, c[2], 64);
            _tile_stored(3, c[3], 64);
            for (int i = 0; i < (two ? 4 : 2); i++) {
                __m512i v[16];
                by_token(v, c[i]);
                size_t first = t0 + 16 * (size_t)(i & 1);
                float *at = y + r + 16 * (size_t)(i >> 1);
                for (size_t t = 0; t < 16 && first + t < n; t++)
                    _mm512_storeu_si512(at + (first + t) * ldy, v[t]);
            }
        }
    _tile_release();
}

/* ---- experts -------------------------------------------------------------- */

/* e^x, as simd.h's */
static inline __m512 exp_ps(__m512 x)
{
    x = _mm512_min_ps(_mm512_set1_ps(88.0f), _mm512_max_ps(_mm512_set1_ps(-87.0f), x));
    __m512 k = _mm512_roundscale_ps(_mm512_mul_ps(x, _mm512_set1_ps(1.44269504f)),
                                    _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    __m512 r = _mm512_fmadd_ps(k, _mm512_set1_ps(-0.693359375f), x);
    r = _mm512_fmadd_ps(k, _mm512_set1_ps(2.12194440e-4f), r);
    __m512 p = _mm512_set1_ps(1.0f / 5040);
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.0f / 720));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.0f / 120));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.0f / 24));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.0f / 6));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(0.5f));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.0f));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.0f));
    return _mm512_scalef_ps(p, k);
}

void amx_up(uint16_t *hi, uint16_t *lo, size_t ldh, const uint16_t *x, size_t n,
            const void *w1, const void *v1, size_t rows, size_t cols)
{
    _Alignas(64) float c[4][256];          /* gate, gate, up, up */
    tiles_on();
    for (size_t t0 = 0; t0 < n; t0 += AMX_TOKENS, x += amx_block(cols))
        for (size_t r = 0; r < rows; r += 16) {
            rows_times_block((const char *)w1 + 2 * r * cols, (const char *)v1 + 2 * r * cols,
                             2 * cols, x, cols);
            _tile_stored(0, c[0], 64);
            _tile_stored(1, c[1], 64);
            _tile_stored(2, c[2], 64);
            _tile_stored(3, c[3], 64);
            for (int i = 0; i < 2; i++) {
                for (int j = 0; j < 16; j++) {
                    __m512 g = _mm512_load_ps(c[i] + 16 * j), u = _mm512_load_ps(c[i + 2] + 16 * j);
                    __m512 e = exp_ps(_mm512_sub_ps(_mm512_setzero_ps(), g));
                    g = _mm512_div_ps(g, _mm512_add_ps(_mm512_set1_ps(1), e));
                    _mm512_store_ps(c[i] + 16 * j, _mm512_mul_ps(g, u));
                }
                __m512i v[16];
                by_token(v, c[i]);
                for (size_t t = 0; t < 16; t++) {
                    size_t at = (t0 + 16 * (size_t)i + t) * ldh + r;
                    __m512 f = _mm512_castsi512_ps(v[t]);
                    __m256i h = (__m256i)_mm512_cvtneps_pbh(f);
                    _mm256_storeu_si256((__m256i *)(hi + at), h);
                    _mm256_storeu_si256((__m256i *)(lo + at),
                                        (__m256i)_mm512_cvtneps_pbh(_mm512_sub_ps(f, widen(h))));
                }
            }
        }
    _tile_release();
}

/* 32 columns (or 16) of w2[ffn], pairs of rows side by side: [ffn/32][column/16] tiles */
static void pack_panel(uint16_t *panel, const char *w2, size_t ldw, size_t ffn, int two)
{
    const __m512i order = _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24,
                                           8, 23, 7, 22, 6, 21, 5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
    for (size_t k = 0; k < ffn; k += 2) {
        uint16_t *to = panel + k / 32 * 1024 + k % 32 / 2 * 32;
        const char *a = w2 + 2 * k * ldw, *b = a + 2 * ldw;
        for (int i = 0; i <= two; i++) {
            __m512i v = _mm512_castsi256_si512(_mm256_loadu_si256((const __m256i *)(a + 32 * i)));
            v = _mm512_inserti64x4(v, _mm256_loadu_si256((const __m256i *)(b + 32 * i)), 1);
            _mm512_storeu_si512(to + 512 * i, _mm512_permutexvar_epi16(order, v));
        }
    }
}

void amx_down(float *out, size_t ldo, const uint16_t *hi, const uint16_t *lo, size_t n,
              size_t ffn, const void *w2, size_t ldw, size_t cols, float *panel)
{
    uint16_t *b = (uint16_t *)panel;
    tiles_on();
    for (size_t c = 0; c < cols; c += 32) {
        int two = c + 16 < cols;
        pack_panel(b, (const char *)w2 + 2 * c, ldw, ffn, two);
        for (size_t t = 0; t < n; t += AMX_TOKENS) {
            const uint16_t *h = hi + t * ffn, *l = lo + t * ffn;
            float *o = out + t * ldo + c;
            _tile_zero(0);
            _tile_zero(1);
            _tile_zero(2);
            _tile_zero(3);
            for (size_t k = 0; k < ffn; k += 32) {
                _tile_loadd(6, b + 32 * k, 64);
                _tile_loadd(4, h + k, 2 * ffn);
                _tile_loadd(7, b + 32 * k + 512 * two, 64);
                _tile_dpbf16ps(0, 4, 6);
                _tile_loadd(5, h + 16 * ffn + k, 2 * ffn);
                _tile_dpbf16ps(1, 4, 7);
                _tile_dpbf16ps(2, 5, 6);
                _tile_dpbf16ps(3, 5, 7);
                _tile_loadd(4, l + k, 2 * ffn);
                _tile_dpbf16ps(0, 4, 6);
                _tile_loadd(5, l + 16 * ffn + k, 2 * ffn);
                _tile_dpbf16ps(1, 4, 7);
                _tile_dpbf16ps(2, 5, 6);
                _tile_dpbf16ps(3, 5, 7);
            }
            _tile_stored(0, o, 4 * ldo);
            _tile_stored(2, o + 16 * ldo, 4 * ldo);
            if (two) {
                _tile_stored(1, o + 16, 4 * ldo);
                _tile_stored(3, o + 16 * ldo + 16, 4 * ldo);
            }
        }
    }
    _tile_release();
}
