/* tests/unit/kernels.c -- every SIMD kernel against its plain-C twin, on sizes around
 * the vector widths, unaligned, with guarded outputs; experts by every way there is; and the
 * thread pool. */
#include "backends/backend.h"
#include "backends/cpu-blas/cpu_blas.h"
#include "backends/cpu-blas/isa.h"
#include "backends/graph/dequant.h"
#include "tests/tap.h"

#include <math.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum { MAX = 300, GUARD = 16 };
static const size_t sizes[] = { 1, 2, 7, 8, 9, 15, 16, 17, 31, 32, 33, 63, 64, 65, 96, 131, 256 };
enum { N_SIZES = sizeof sizes / sizeof *sizes };
static const char *const type_name[] = { "f32", "f16", "bf16" };
static const size_t type_size[] = { 4, 2, 2 };

static uint64_t state = 42;
static float rnd(void)                     /* -1 .. 1 */
{
    state = state * 6364136223846793005u + 1442695040888963407u;
    return (float)(int32_t)(state >> 32) * 0x1p-31f;
}

/* n random elements of a type at dst; finite, and the halves include subnormals */
static void fill(void *dst, int type, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        float f = rnd();
        uint32_t u;
        memcpy(&u, &f, 4);
        uint16_t h = (uint16_t)(type == K_BF16 ? u >> 16 : (u >> 16 & 0x8000) | (u >> 7 & 0x3bff));
        memcpy((char *)dst + i * type_size[type], type == K_F32 ? (void *)&f : (void *)&h,
               type_size[type]);
    }
}

/* largest difference relative to the largest of b */
static double apart(const float *a, const float *b, size_t n)
{
    double diff = 0, top = 1e-30;
    for (size_t i = 0; i < n; i++) {
        diff = fmax(diff, fabs((double)a[i] - b[i]));
        top = fmax(top, fabs(b[i]));
        if (isnan(a[i]) != isnan(b[i]))
            return INFINITY;
    }
    return diff / top;
}

static int guarded(const float *p)         /* the floats after a result are untouched */
{
    for (int i = 0; i < GUARD; i++)
        if (p[i] != 12345)
            return 0;
    return 1;
}

static void guard(float *p)
{
    for (int i = 0; i < GUARD; i++)
        p[i] = 12345;
}

static void test_table(const struct kernels *k)
{
    static char w_[4 * MAX * (MAX + 5) + 1];
    char *w = w_ + 1;                      /* not even 2-byte aligned */
    float x[MAX], a[MAX + GUARD], b[MAX];
    for (int type = 0; type < K_TYPES; type++) {
        double mv = 0, vm = 0;
        int intact = 1;
        for (int i = 0; i < N_SIZES; i++)
            for (int j = 0; j < N_SIZES; j++) {
                size_t rows = sizes[i], cols = sizes[j], stride = cols + (size_t)(i % 3);
                fill(w, type, rows * stride);
                fill(x, K_F32, MAX);
                guard(a + rows);
                k->matvec[type](a, w, rows, stride, cols, x, NULL);
                kernels_plain.matvec[type](b, w, rows, stride, cols, x, NULL);
                mv = fmax(mv, apart(a, b, rows) / sqrt((double)cols));
                intact &= guarded(a + rows);
                fill(a, K_F32, cols);
                memcpy(b, a, sizeof b);
                guard(a + cols);
                k->vecmat[type](a, w, rows, stride, cols, x);
                kernels_plain.vecmat[type](b, w, rows, stride, cols, x);
                vm = fmax(vm, apart(a, b, cols) / sqrt((double)rows));
                intact &= guarded(a + cols);
            }
        ok(mv < 1e-5, "%s matvec %s is plain's to rounding (%.1e)", k->name, type_name[type], mv);
        ok(vm < 1e-5, "%s vecmat %s is plain's to rounding (%.1e)", k->name, type_name[type], vm);
        ok(intact, "%s %s kernels write only their results", k->name, type_name[type]);
    }

    double silu = 0, sum = 0, ex = 0, ln = 0;
    int max_same = 1;
    for (int i = 0; i < N_SIZES; i++) {
        size_t n = sizes[i];
        float u[MAX], s, t;
        for (size_t j = 0; j < n; j++)
            a[j] = b[j] = rnd() * 30, u[j] = rnd();
        max_same &= k->max(a, n) == kernels_plain.max(a, n);
        k->layernorm(x, a, u, n, 1e-5f);
        float y[MAX];
        kernels_plain.layernorm(y, a, u, n, 1e-5f);
        ln = fmax(ln, n > 1 ? apart(x, y, n) : fabs(x[0]));
        k->silu_mul(a, u, n);
        kernels_plain.silu_mul(b, u, n);
        silu = fmax(silu, apart(a, b, n));
        for (size_t j = 0; j < n; j++)
            a[j] = b[j] = rnd() * 40;
        s = k->exp_sum(a, n, 41), t = kernels_plain.exp_sum(b, n, 41);
        ex = fmax(ex, apart(a, b, n));
        sum = fmax(sum, fabs(s - t) / t);
    }
    ok(max_same, "%s max", k->name);
    ok(ln < 1e-5, "%s layernorm is plain's to rounding (%.1e)", k->name, ln);
    ok(silu < 1e-6, "%s silu_mul is plain's to rounding (%.1e)", k->name, silu);
    ok(ex < 1e-6 && sum < 1e-6, "%s exp_sum is plain's to rounding (%.1e, %.1e)", k->name, ex, sum);
    double rope = 0;
    int outside = 1;
    for (int i = 0; i < N_SIZES; i++) {
        size_t hd = sizes[i] / 2 * 2 + 2, n = hd <= 60 ? 5 * hd : hd;     /* a tail that is not turned */
        float cs[MAX][2], limit = i % 3 ? 0.7f : 0;
        fill(cs, K_F32, 2 * (hd / 2));
        fill(a, K_F32, n);
        memcpy(b, a, sizeof b);
        guard(a + n);
        k->clip_rope(a, n, limit, n / hd > 1 ? 3 : 1, hd, (const float (*)[2])cs);
        kernels_plain.clip_rope(b, n, limit, n / hd > 1 ? 3 : 1, hd, (const float (*)[2])cs);
        rope = fmax(rope, apart(a, b, n));
        outside &= guarded(a + n);
    }
    ok(rope < 1e-6 && outside, "%s clip_rope is plain's to rounding (%.1e)", k->name, rope);
    float nan[33], one[33];
    for (int i = 0; i < 33; i++)
        nan[i] = 0, one[i] = 1;
    nan[5] = NAN;
    k->silu_mul(nan, one, 33);
    ok(isnan(nan[5]) && !isnan(nan[4]), "%s silu_mul lets NaN through", k->name);
    k->clip_rope(nan, 33, 1, 0, 0, NULL);
    ok(isnan(nan[5]) && !isnan(nan[4]), "%s clip_rope lets NaN through", k->name);
    nan[4] = NAN;
    ok(isnan(k->exp_sum(nan, 33, 0)), "%s exp_sum lets NaN through", k->name);
}

/* ---- quantised weights, a KV cache ---- */

/* n random elements of any type, scales of sensible size */
static void fill_blocks(unsigned char *dst, uint32_t dtype, size_t n)
{
    static const struct { uint32_t dtype, at[2]; } scales[] = {    /* binary16 in a block */
        { DBRX_Q4_0, { 0, 0 } }, { DBRX_Q4_1, { 0, 2 } }, { DBRX_Q5_0, { 0, 0 } },
        { DBRX_Q5_1, { 0, 2 } }, { DBRX_Q8_0, { 0, 0 } }, { DBRX_Q2_K, { 80, 82 } },
        { DBRX_Q3_K, { 108, 108 } }, { DBRX_Q4_K, { 0, 2 } }, { DBRX_Q5_K, { 0, 2 } },
        { DBRX_Q6_K, { 208, 208 } }, { DBRX_IQ4_NL, { 0, 0 } }, { DBRX_IQ4_XS, { 0, 0 } },
    };
    size_t bytes = dtype_block_bytes(dtype);
    for (size_t i = 0; i < sizeof scales / sizeof *scales; i++)
        if (scales[i].dtype == dtype)
            for (size_t b = 0; b < n / dtype_block(dtype); b++) {
                for (size_t k = 0; k < bytes; k++)
                    dst[b * bytes + k] = (unsigned char)(rnd() * 127 + 128);
                for (int k = 0; k < 2; k++)
                    fill(dst + b * bytes + scales[i].at[k], K_F16, 1);
            }
    if (dtype_block(dtype) == 1)
        fill(dst, kernels_type(dtype), n);
}

/* What attention reads of a KV cache and writes to it, rows of several KV heads apart, at the very end of
 * a page so that reading on would be seen */
static void test_kv(const struct kernels *k)
{
    static const uint32_t types[KV_TYPES] = { DBRX_F32, DBRX_F16, DBRX_BF16, DBRX_Q8_0 };
    enum { HEADS = 3, ROOM = 40 * HEADS * 256 * 4, ROWS = 40, GROUP = 7 };
    unsigned char *map = mmap(NULL, ROOM + 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    float *q = malloc(4 * GROUP * 256), *p = malloc(4 * GROUP * (ROWS + 1)), *a = malloc(4 * (GROUP * 256 + GUARD));
    float *b = malloc(4 * GROUP * 256);
    if (map == MAP_FAILED || mprotect(map + ROOM, 4096, PROT_NONE) || !q || !p || !a || !b)
        bail("no memory");
    for (int type = 0; type < KV_TYPES; type++) {
        const uint32_t dtype = types[type], block = dtype_block(dtype);
        double sc = 0, mx = 0, wd = 0;
        int intact = kernels_kv_type(dtype) == type;
        for (int i = 0; i < N_SIZES; i++)
            for (size_t rows = 1; rows <= 33; rows += rows % 3 + 4) {
                const size_t hd = sizes[i], group = (rows + (size_t)i) % GROUP + 1, stride = HEADS * hd;
                const size_t bytes = (size_t)dtype_bytes(dtype, rows * stride), lds = rows + (size_t)i % 2;
                const unsigned char *last = map + ROOM - (size_t)dtype_bytes(dtype, hd);
                unsigned char *first = map + ROOM - bytes, *of = first + dtype_bytes(dtype, stride - hd);
                if (hd % block)
                    continue;
                fill_blocks(first, dtype, rows * stride);
                fill(q, K_F32, group * hd);
                fill(p, K_F32, group * lds);
                for (size_t j = 0; j < group * lds + GUARD; j++)       /* what lies between rows stays */
                    a[j] = 12345;
                k->scores[type](a, lds, of, rows, stride, hd, q, group);
                kernels_plain.scores[type](b, lds, of, rows, stride, hd, q, group);
                for (size_t g = 0; g < group; g++) {
                    sc = fmax(sc, apart(a + g * lds, b + g * lds, rows) / sqrt((double)hd));
                    intact &= lds == rows || a[g * lds + rows] == 12345;
                }
                intact &= guarded(a + group * lds);
                fill(a, K_F32, group * hd);
                memcpy(b, a, 4 * group * hd);
                guard(a + group * hd);
                k->mix[type](a, of, rows, stride, hd, p, lds, group);
                kernels_plain.mix[type](b, of, rows, stride, hd, p, lds, group);
                mx = fmax(mx, apart(a, b, group * hd) / sqrt((double)rows));
                intact &= guarded(a + group * hd);
                guard(a + hd);
                k->widen[type](a, last, hd);
                kernels_plain.widen[type](b, last, hd);
                wd = fmax(wd, apart(a, b, hd));
                intact &= guarded(a + hd);
            }
        ok(sc < 1e-5, "%s scores %s are plain's to rounding (%.1e)", k->name, dtype_name(dtype), sc);
        ok(mx < 1e-5, "%s mix %s is plain's to rounding (%.1e)", k->name, dtype_name(dtype), mx);
        ok(wd == 0, "%s widen %s is exact", k->name, dtype_name(dtype));
        ok(intact, "%s %s in a KV cache: only results are written", k->name, dtype_name(dtype));

        int same = 1;
        for (int i = 0; i < 2000; i++) {
            /* halves of steps and their neighbours, all sizes, zeros; NaN; beyond binary16 */
            float x[64], size = ldexpf(1, i % 300 - 150), back[32];
            unsigned char got[64 * 4 + 2], want[64 * 4 + 2];
            for (int j = 0; j < 64; j++) {
                float f = i % 3 ? rintf(rnd() * 254) / 2 : rnd() * 127;
                x[j] = size * (i % 5 == 1 ? nextafterf(f, f * 2) : i % 5 == 2 ? nextafterf(f, 0) : i % 50 ? f : 0);
            }
            x[i % 32] = i % 3 && i % 50 ? 127 * size : x[i % 32];
            if (i % 20 == 7)
                x[i % 64] = NAN;
            memset(got, 0x55, sizeof got);
            memset(want, 0x55, sizeof want);
            k->narrow[type](got, x, 64);
            kernels_plain.narrow[type](want, x, 64);
            if (i % 20 != 7) {
                same &= !memcmp(got, want, sizeof got);
                continue;
            }
            const size_t at = block == 1 ? (size_t)(i % 64) : 0;       /* one of a block's makes it all NaN */
            dequant(back, got + (at || i % 64 < 32 ? 0 : dtype_bytes(dtype, 32)), dtype, at, 1);
            same &= isnan(back[0]) != 0;
        }
        ok(same, "%s narrow %s is plain's to the bit, and a NaN stays one", k->name, dtype_name(dtype));
    }
    munmap(map, ROOM + 4096);
    void *const all[] = { q, p, a, b };
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        free(all[i]);
}

static const uint32_t all_types[] = {
    DBRX_F32, DBRX_F16, DBRX_BF16, DBRX_Q8_0, DBRX_Q4_0, DBRX_Q4_1, DBRX_Q5_0, DBRX_Q5_1, DBRX_Q2_K,
    DBRX_Q3_K, DBRX_Q4_K, DBRX_Q5_K, DBRX_Q6_K, DBRX_IQ4_NL, DBRX_IQ4_XS
};
enum { N_TYPES = sizeof all_types / sizeof *all_types };

/* x[n] as a gemm of integers rounds it: 8 or 15 bits and a scale for each 32 */
static void round_as(const struct gemm *g, float *x, size_t n)
{
    const float full = g == &gemm_int16 ? 32512 : 127;
    for (size_t i = 0; i < n && g->integer; i += 32) {
        float top = 0;
        for (size_t j = i; j < i + 32; j++)
            top = fmaxf(top, fabsf(x[j]));
        for (size_t j = i; j < i + 32 && top > 0; j++)
            x[j] = rintf(x[j] * (full / top)) * (top / full);
    }
}

struct gemm_case { size_t n, d, ffn, rows; };

/* what the gemm reads of `rows` rows of weights: themselves, or opened in `panel`; what lies behind them
 * is asked for, the end of the memory or not */
static const struct gemm_rows *opened(const struct gemm *g, uint32_t dtype, void *panel, const char *w,
                                      size_t rows, size_t cols)
{
    static struct gemm_rows ring[2], *r;   /* two are in use at once */
    r = &ring[r == ring];
    if (dtype != DBRX_BF16)
        g->open(dtype, panel, w, rows, cols);
    *r = (struct gemm_rows){ dtype == DBRX_BF16 ? (const void *)w : panel, w, (size_t)dtype_bytes(dtype, rows * cols) };
    return r;
}

/* A gemm against the plain kernels: one expert of a layer, and a linear map.  Activations that are
 * rounded to integers are so here, too; where one of the expert's falls to the other side, `tol_expert`
 * is for it. */
static void test_gemm(const struct gemm *g, uint32_t dtype, double tol, double tol_expert,
                      const struct gemm_case *c)
{
    const size_t n = c->n, d = c->d, ffn = c->ffn, rows = c->rows, part = g->open_rows;
    const size_t blocks = (n + g->tokens - 1) / g->tokens, slots = blocks * g->tokens;
    const size_t bytes = (size_t)dtype_bytes(dtype, ffn * d), row_bytes = (size_t)dtype_bytes(dtype, d);
    unsigned char *w1 = malloc(bytes), *v1 = malloc(bytes), *w2 = malloc(bytes), *w = malloc(rows * row_bytes);
    float *wide = malloc(4 * max(ffn, rows) * d), *gate = malloc(4 * n * ffn), *up = malloc(4 * n * ffn);
    float *x = malloc(4 * n * d), *y = malloc(4 * (n * rows + GUARD)), *want = malloc(4 * n * rows);
    float *out = malloc(4 * (slots * d + GUARD)), *out_want = calloc(n * d, 4);
    float *scratch = malloc(4 * GEMM_PANEL);
    char *packed = malloc(blocks * gemm_block(g, d)), *h = malloc(blocks * gemm_block(g->hidden, ffn));
    char *panel[2] = { malloc(64 + 2 * max(rows, d) * max(d, ffn)), malloc(64 + 2 * part * d) };
    fill_blocks(w1, dtype, ffn * d);
    fill_blocks(v1, dtype, ffn * d);
    fill_blocks(w2, dtype, ffn * d);
    fill_blocks(w, dtype, rows * d);
    fill(x, K_F32, n * d);
    for (size_t t = 0; t < slots; t += g->tokens) {
        const float *row[GEMM_TOKENS];
        size_t m = n - t < g->tokens ? n - t : g->tokens;
        for (size_t i = 0; i < m; i++)
            row[i] = x + (t + i) * d;
        g->pack(packed + t / g->tokens * gemm_block(g, d), row, m, d);
    }
    guard(y + n * rows);
    guard(out + slots * d);
    if (g->linear)
        g->linear(y, rows, packed, n, opened(g, dtype, panel[0], (char *)w, rows, d), rows, d);
    for (size_t r = 0; r < ffn; r += part) {               /* in pieces that do not divide it */
        size_t some = ffn - r < part ? ffn - r : part;
        g->up(h, ffn, r, packed, n, opened(g, dtype, panel[0], (char *)w1 + r * row_bytes, some, d),
              opened(g, dtype, panel[1], (char *)v1 + r * row_bytes, some, d), some, d);
    }
    int by_cols = g->down && dtype == DBRX_BF16;
    for (size_t i = 0; by_cols && i < d; i += 80)          /* columns in pieces that do not divide them */
        g->down(out + i, d, h, n, ffn, w2 + 2 * i, d, d - i < 80 ? d - i : 80, scratch);
    if (!by_cols)
        g->hidden->linear(out, d, h, n, opened(g->hidden, dtype, panel[0], (char *)w2, d, ffn), d, ffn);

    round_as(g, x, n * d);
    dequant(wide, w, dtype, 0, rows * d);
    for (size_t t = 0; t < n; t++)
        kernels_plain.matvec[K_F32](want + t * rows, wide, rows, d, d, x + t * d, NULL);
    dequant(wide, w1, dtype, 0, ffn * d);
    for (size_t t = 0; t < n; t++)
        kernels_plain.matvec[K_F32](gate + t * ffn, wide, ffn, d, d, x + t * d, NULL);
    dequant(wide, v1, dtype, 0, ffn * d);
    for (size_t t = 0; t < n; t++)
        kernels_plain.matvec[K_F32](up + t * ffn, wide, ffn, d, d, x + t * d, NULL);
    kernels_plain.silu_mul(gate, up, n * ffn);
    round_as(g->hidden, gate, n * ffn);
    dequant(wide, w2, dtype, 0, ffn * d);
    for (size_t t = 0; t < n; t++)
        if (by_cols)
            kernels_plain.vecmat[K_F32](out_want + t * d, wide, ffn, d, d, gate + t * ffn);
        else
            kernels_plain.matvec[K_F32](out_want + t * d, wide, d, ffn, ffn, gate + t * ffn, NULL);
    double a = g->linear ? apart(y, want, n * rows) : 0, b = apart(out, out_want, n * d);
    if (g->linear)
        ok(a < tol, "%s %s %zu x %zu x %zu is plain's to rounding (%.1e)", g->name, dtype_name(dtype), n, rows,
           d, a);
    ok(b < tol_expert, "%s %s expert of %zu x %zu, %zu tokens, is plain's to rounding (%.1e)", g->name,
       dtype_name(dtype), ffn, d, n, b);
    ok(guarded(y + n * rows) && guarded(out + slots * d), "%s writes only its results", g->name);
    void *const all[] = { w1, v1, w2, w, wide, x, y, want, out, out_want, gate, up, scratch, packed, h,
                          panel[0], panel[1] };
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        free(all[i]);
}

static void test_gemms(const struct gemm *g, double tol)
{
    static const struct gemm_case cases[] = {
        { 1, 32, 32, 16 }, { 31, 64, 96, 48 }, { 33, 96, 352, 80 }, { 100, 192, 64, 320 },
        { 8, 64, 6560, 16 },               /* more rows of w2 than a panel holds */
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        test_gemm(g, DBRX_BF16, tol, 2 * tol, &cases[i]);
}

/* every quantised type, on sizes that leave every remainder of rows, tokens and columns */
static void test_gemms_of_types(const struct gemm *g, double tol, double tol_expert)
{
    static const struct gemm_case small[] = {
        { 1, 32, 32, 16 }, { 17, 96, 352, 80 }, { 49, 160, 64, 112 }
    }, large[] = { { 7, 256, 256, 16 }, { 40, 512, 256, 144 } };
    for (int i = 0; i < N_TYPES; i++) {
        int few = dtype_block(all_types[i]) == 32;
        for (int k = 0; k < (few ? 3 : 2) && dtype_block(all_types[i]) > 1; k++)
            test_gemm(g, all_types[i], tol, tol_expert, few ? &small[k] : &large[k]);
    }
}

/* a NaN and an infinity among the activations reach their token's results, and no other's */
static void test_nan(const struct gemm *g)
{
    enum { D = 64, ROWS = 32 };
    unsigned char w[ROWS * D / 32 * 34];
    float x[3 * D], y[3 * ROWS];
    const float *row[3] = { x, x + D, x + 2 * D };
    char packed[16 * 80 * D / 32], hidden[16 * 80 * ROWS / 32], panel[64 + 2 * ROWS * D];
    const struct gemm_rows rows = { .at = panel };
    fill_blocks(w, DBRX_Q8_0, ROWS * D);
    fill(x, K_F32, 3 * D);
    memset(x + D, 0, sizeof *x * D);
    x[5] = NAN;
    x[2 * D + 40] = INFINITY;
    g->pack(packed, row, 3, D);
    g->open(DBRX_Q8_0, panel, w, ROWS, D);
    g->up(hidden, ROWS, 0, packed, 3, &rows, &rows, ROWS, D);
    g->hidden->open(DBRX_Q8_0, panel, w, ROWS, ROWS);
    g->hidden->linear(y, ROWS, hidden, 3, &rows, ROWS, ROWS);
    int lost = 0, nothing = 1;
    for (int r = 0; r < ROWS; r++) {
        lost += isfinite(y[r]) || isfinite(y[2 * ROWS + r]);
        nothing &= y[ROWS + r] == 0;
    }
    ok(!lost && nothing, "%s: no NaN and no infinity is lost, nothing stays nothing (%d lost)", g->name, lost);
}

/* Against the plain dequantiser, at the very end of a page so that reading on would be seen */
static void test_quant(const char *title, const struct quant *k, uint32_t dtype)
{
    static const size_t widths[] = { 32, 64, 96, 160, 256, 352, 512, 1792 };
    double mv = 0, bf = 0, op = 0;
    int intact = 1;
    for (size_t i = 0; i < sizeof widths / sizeof *widths; i++)
        for (size_t rows = 1; rows <= 5; rows += 2) {
            size_t cols = widths[i], n = rows * cols;
            if (cols % dtype_block(dtype))
                continue;
            size_t bytes = (size_t)dtype_bytes(dtype, n), page = 4096;
            size_t room = (bytes + page - 1) / page * page;
            unsigned char *map = mmap(NULL, room + page, PROT_READ | PROT_WRITE,
                                      MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
            if (map == MAP_FAILED || mprotect(map + room, page, PROT_NONE))
                bail("no memory");
            unsigned char *w = map + room - bytes;
            float *x = malloc(4 * cols), *wide = malloc(4 * n);
            float got[5 + GUARD], want[5];
            uint16_t *half = malloc(2 * (n + 2 * GUARD));
            void *packed = aligned_alloc(64, quant_bytes(cols));
            fill_blocks(w, dtype, n);
            fill(x, K_F32, cols);
            dequant(wide, w, dtype, 0, n);
            double top = 0;
            if (dtype_block(dtype) > 1) {
                guard(got + rows);
                k->pack(packed, x, cols);
                k->matvec(dtype, got, w, rows, cols, packed, NULL);
                kernels_plain.matvec[K_F32](want, wide, rows, cols, cols, x, NULL);
                for (size_t j = 0; j < n; j++)
                    top = fmax(top, fabs((double)wide[j] * x[j % cols]));
                for (size_t r = 0; r < rows; r++)
                    mv = fmax(mv, fabs(got[r] - want[r]) / (top * sqrt((double)cols)));
                intact &= guarded(got + rows);
            }
            if (k->open && dtype_block(dtype) > 1) {
                float *floats = malloc(4 * (n + GUARD));
                guard(floats + n);
                k->open(dtype, floats, w, n);
                op = fmax(op, apart(floats, wide, n));
                intact &= guarded(floats + n);
                free(floats);
            }
            memset(half + n, 0x55, 4 * GUARD);
            if (isa_bf16())
                gemm_bf16.open(dtype, half, w, rows, cols);
            for (size_t j = 0; isa_bf16() && j < n; j++)
                bf = fmax(bf, fabs(bf16_to_f32(half[j]) - wide[j]) / fmax(fabs(wide[j]), 1e-6));
            for (size_t j = n; j < n + 2 * GUARD; j++)
                intact &= half[j] == 0x5555;
            munmap(map, room + page);
            void *const all[] = { x, wide, half, packed };
            for (size_t j = 0; j < sizeof all / sizeof *all; j++)
                free(all[j]);
        }
    if (dtype_block(dtype) > 1)
        ok(mv < 5e-5, "%s %s: products are plain's to 15 bits (%.1e)", title, dtype_name(dtype), mv);
    ok(op < 3e-7, "%s %s to float32 is plain's (%.1e)", title, dtype_name(dtype), op);
    ok(bf <= 1 / 256., "%s to BF16 is the nearest (%.1e)", dtype_name(dtype), bf);
    ok(intact, "%s %s: only results are written", title, dtype_name(dtype));
}

static void test_quants(const char *title, const struct quant *k)
{
    float x[64], y = 0;
    _Alignas(64) char packed[1024];
    unsigned char w[68];
    for (int i = 0; i < N_TYPES; i++)
        test_quant(title, k, all_types[i]);
    fill(x, K_F32, 64);
    fill_blocks(w, DBRX_Q8_0, 64);
    x[7] = NAN;
    k->pack(packed, x, 64);
    k->matvec(DBRX_Q8_0, &y, w, 1, 64, packed, NULL);
    ok(isnan(y), "%s: a NaN is not lost", title);
    memset(x, 0, sizeof x);
    k->pack(packed, x, 64);
    k->matvec(DBRX_Q8_0, &y, w, 1, 64, packed, NULL);
    ok(y == 0, "%s: nothing times something is nothing", title);
}

/* ---- ops of a whole context ---- */

struct experts_case { uint32_t n, d, ffn, dtype, layout; int fast; double tol; };

/* A few tokens spread thinly over the experts, against the plain op */
static void test_experts(const char *title, const struct cpu *with, const struct experts_case *t)
{
    enum { E = 16, K = 4 };
    const uint32_t n = t->n, d = t->d, ffn = t->ffn;
    const struct dbrx_config cfg = { .d_model = d, .d_ffn = ffn, .n_experts = E, .top_k = K,
                                     .n_heads = 32, .n_kv_heads = 8 };
    struct dbrx_tensor w[3];
    for (int i = 0; i < 3; i++) {
        void *data = malloc((size_t)dtype_bytes(t->dtype, (size_t)E * ffn * d));
        fill_blocks(data, t->dtype, (size_t)E * ffn * d);
        w[i] = (struct dbrx_tensor){ .data = data, .dtype = t->dtype };
    }
    const struct dbrx_layer l = { .w1 = w[0], .v1 = w[1], .w2 = w[2] };
    float *h = malloc(4 * n * d), *row = malloc(4 * max(d, ffn)), *weight = malloc(4 * n * K);
    float *x = calloc(n * d, sizeof *x), *want = calloc(n * d, sizeof *x);
    float *part = malloc(4 * n * K * d), *part_want = malloc(4 * n * K * d);
    uint16_t *expert = malloc(2 * n * K);
    fill(h, K_F32, n * d);
    for (uint32_t i = 0; i < n * d; i++)
        h[i] /= (float)d;
    for (uint32_t i = 0; i < n * K; i++)
        expert[i] = (uint16_t)(i * i / 3 % E), weight[i] = i % 9 ? 0.25f : 0;
    struct cpu c = *with;
    c.pool = pool_open(2);
    if (!t->fast)
        c.fast = c.int8 = NULL;
    if (blas_open(&c.blas, NULL) != DBRX_OK || cpu_reserve(&c, &cfg))
        bail("no OpenBLAS, or no memory");
    struct work wk = { .ctx = &c, .row = row,
                       .scratch = aligned_alloc(64, (c.scratch + 63) / 64 * 64) };
    struct work plain = { .row = row, .scratch = malloc(ops_plain.scratch(NULL, &cfg)) };
    struct moe m = { .layer = &l, .h = h, .x = x, .expert = expert, .weight = weight, .n = n, .k = K,
                     .d_model = d, .d_ffn = ffn, .n_experts = E, .act_fn = DBRX_SILU, .part = part,
                     .w2_layout = t->layout };
    alarm(60);                             /* the tiles' panel once held no row: for ever */
    cpu_experts(&wk, &m);
    alarm(0);
    m.x = want;
    m.part = part_want;
    ops_plain.experts(&plain, &m);
    double a = apart(x, want, n * d), b = apart(part, part_want, n * K * d);
    ok(a < t->tol && b < t->tol, "%s: %u tokens through %d experts of %u x %u %s are plain's "
       "(%.1e, %.1e)", title, n, E, ffn, d, dtype_name(t->dtype), a, b);
    pool_close(c.pool);
    void *const all[] = { (void *)w[0].data, (void *)w[1].data, (void *)w[2].data, h, row, x, want,
                          part, part_want, weight, expert, c.panel, wk.scratch, plain.scratch };
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        free(all[i]);
}

static void test_level(const char *title, const struct cpu *c)
{
    static const struct experts_case cases[] = {
        { 5, 4096, 32, DBRX_BF16, DBRX_W2_FFN_ROWS, 0, 1e-4 },
        { 5, 96, 352, DBRX_BF16, DBRX_W2_FFN_ROWS, 1, 2e-2 },
        { 70, 96, 352, DBRX_BF16, DBRX_W2_FFN_ROWS, 0, 1e-4 },
        { 70, 96, 352, DBRX_BF16, DBRX_W2_MODEL_ROWS, 0, 1e-4 },
        { 70, 96, 352, DBRX_F16, DBRX_W2_FFN_ROWS, 1, 2e-2 },
        { 70, 96, 352, DBRX_F32, DBRX_W2_FFN_ROWS, 1, 2e-2 },
        { 70, 96, 352, DBRX_F16, DBRX_W2_MODEL_ROWS, 1, 2e-2 },
        { 70, 96, 352, DBRX_F16, DBRX_W2_MODEL_ROWS, 0, 1e-4 },
        { 2, 96, 352, DBRX_F16, DBRX_W2_MODEL_ROWS, 0, 1e-4 },
        { 2, 96, 352, DBRX_Q4_1, DBRX_W2_MODEL_ROWS, 0, 5e-4 },
        { 70, 96, 352, DBRX_Q8_0, DBRX_W2_MODEL_ROWS, 1, 2e-2 },
        { 70, 96, 352, DBRX_Q5_0, DBRX_W2_MODEL_ROWS, 0, 5e-4 },
        { 2, 96, 352, DBRX_Q4_0, DBRX_W2_FFN_ROWS, 0, 5e-4 },
        { 70, 96, 352, DBRX_Q4_0, DBRX_W2_FFN_ROWS, 1, 5e-4 },
        { 70, 256, 512, DBRX_Q4_K, DBRX_W2_MODEL_ROWS, 1, 2e-2 },
        { 3, 256, 512, DBRX_Q6_K, DBRX_W2_MODEL_ROWS, 1, 5e-4 },
        { 150, 2080, 32, DBRX_BF16, DBRX_W2_FFN_ROWS, 0, 1e-4 },   /* columns of w2 in two passes */
        { 150, 2080, 32, DBRX_Q8_0, DBRX_W2_MODEL_ROWS, 1, 3e-2 },
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        test_experts(title, c, &cases[i]);
}

struct seen { struct pool *pool; _Atomic uint32_t count[257]; _Atomic int busy[8], clash; };

static void see(void *arg, unsigned worker, uint32_t item)
{
    struct seen *s = arg;
    if (atomic_fetch_add(&s->busy[worker], 1))
        s->clash = 1;
    atomic_fetch_add(&s->count[item], 1);
    atomic_fetch_sub(&s->busy[worker], 1);
}

static void *run_many(void *arg)
{
    struct seen *s = arg;
    for (uint32_t i = 0; i < 3000; i++)
        pool_run(s->pool, i % 257, see, s);
    return NULL;
}

static void test_pool(unsigned threads)
{
    struct pool *p = pool_open(threads);
    static struct seen s;
    memset(&s, 0, sizeof s);
    s.pool = p;
    pthread_t other;
    pthread_create(&other, NULL, run_many, &s);
    run_many(&s);
    pthread_join(other, NULL);
    int right = 1;
    for (uint32_t i = 0; i < 256; i++) {
        uint32_t want = 0;
        for (uint32_t j = 0; j < 3000; j++)
            want += j % 257 > i ? 2 : 0;
        right &= s.count[i] == want;
    }
    ok(right, "%u threads, two callers: every item of every job ran exactly once", threads);
    ok(!s.clash, "%u threads: no worker ran two items at once", threads);
    pool_close(p);
}

int main(void)
{
    int tested = 0;
    const struct kernels *simd[] = { kernels_get("avx2"), kernels_get("avx512") };
    for (int i = 0; i < 2; i++)
        if (simd[i]) {
            test_table(simd[i]);
            test_kv(simd[i]);
            tested++;
        }
    test_table(&kernels_plain);
    test_kv(&kernels_plain);
    if (!tested)
        skip("no SIMD kernels on this CPU");
    if (isa_bf16()) {
        test_gemms(&gemm_bf16, 4e-3);
        test_gemms_of_types(&gemm_bf16, 2e-2, 2e-2);
        test_gemms(&gemm_bf16x2, 1e-5);
    } else {
        skip("no AVX512-BF16 on this CPU");
    }
    if (isa_amx())
        test_gemms(&gemm_amx, 1e-5);
    else
        skip("no AMX on this CPU");
    struct cpu c = { .k = &kernels_plain };
    test_level("plain", &c);
    if ((c.k = kernels_get(NULL)) != &kernels_plain)
        test_level(c.k->name, &c);
    if (isa_avx2()) {
        test_quants("avx2", &quant_avx2);
        struct cpu avx2 = { .k = kernels_get("avx2"), .quant = &quant_avx2 };
        test_level("avx2", &avx2);
    }
    if (isa_vnni()) {
        test_gemms_of_types(&gemm_int8_16, 0, 1e-4);
        test_gemms_of_types(&gemm_int16, 1e-5, 1e-4);
        test_nan(&gemm_int8_16);
        test_nan(&gemm_int16);
        test_quants("vnni", &quant_vnni);
        c.quant = &quant_vnni;
        c.int8 = &gemm_int8_16;
        c.int16 = &gemm_int16;
        test_level("avx512vnni", &c);
    } else {
        skip("no AVX512-VNNI on this CPU");
    }
    if (isa_bf16()) {
        test_gemms_of_types(&gemm_int8, 0, 2e-2);
        test_nan(&gemm_int8);
        c.int8 = &gemm_int8;
        c.fast = &gemm_bf16;
        c.exact = &gemm_bf16x2;
        test_level("avx512bf16", &c);
    }
    if (isa_amx()) {
        c.tiles = &gemm_amx;
        test_level("amx", &c);
    }
    ok(kernels_get("plain") == &kernels_plain && !kernels_get("mmx"), "kernels by name");
    test_pool(1);
    test_pool(2);
    test_pool(5);
    ok(pool_physical_cores() >= 1, "there is a core (%u)", pool_physical_cores());
    return done();
}
