/* tests/unit/kernels.c -- every SIMD kernel against its plain-C twin, on sizes around
 * the vector widths, unaligned, with guarded outputs; and the thread pool. */
#include "backends/backend.h"
#include "backends/cpu-blas/cpu_blas.h"
#include "backends/cpu-blas/isa.h"
#include "tests/tap.h"

#include <math.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>
#include <string.h>
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
        double mv = 0, vm = 0, wd = 0;
        int intact = 1;
        for (int i = 0; i < N_SIZES; i++)
            for (int j = 0; j < N_SIZES; j++) {
                size_t rows = sizes[i], cols = sizes[j], stride = cols + (size_t)(i % 3);
                fill(w, type, rows * stride);
                fill(x, K_F32, MAX);
                guard(a + rows);
                k->matvec[type](a, w, rows, stride, cols, x);
                kernels_plain.matvec[type](b, w, rows, stride, cols, x);
                mv = fmax(mv, apart(a, b, rows) / sqrt((double)cols));
                intact &= guarded(a + rows);
                fill(a, K_F32, cols);
                memcpy(b, a, sizeof b);
                guard(a + cols);
                k->vecmat[type](a, w, rows, stride, cols, x);
                kernels_plain.vecmat[type](b, w, rows, stride, cols, x);
                vm = fmax(vm, apart(a, b, cols) / sqrt((double)rows));
                intact &= guarded(a + cols);
                guard(a + cols);
                k->widen[type](a, w, cols);
                kernels_plain.widen[type](b, w, cols);
                wd = fmax(wd, apart(a, b, cols));
                intact &= guarded(a + cols);
            }
        ok(mv < 1e-5, "%s matvec %s is plain's to rounding (%.1e)", k->name, type_name[type], mv);
        ok(vm < 1e-5, "%s vecmat %s is plain's to rounding (%.1e)", k->name, type_name[type], vm);
        ok(wd == 0, "%s widen %s is exact", k->name, type_name[type]);
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
    float nan[33], one[33];
    for (int i = 0; i < 33; i++)
        nan[i] = 0, one[i] = 1;
    nan[5] = NAN;
    k->silu_mul(nan, one, 33);
    ok(isnan(nan[5]) && !isnan(nan[4]), "%s silu_mul lets NaN through", k->name);
    nan[4] = NAN;
    ok(isnan(k->exp_sum(nan, 33, 0)), "%s exp_sum lets NaN through", k->name);
}

/* A gemm against the plain kernels: one expert of a layer, and a linear map. */
static void test_gemm(const struct gemm *g, double tol, size_t n, size_t d, size_t ffn, size_t rows)
{
    size_t blocks = (n + g->tokens - 1) / g->tokens, slots = blocks * g->tokens;
    char *w1 = malloc(2 * ffn * d), *v1 = malloc(2 * ffn * d), *w2 = malloc(2 * ffn * d);
    char *w = malloc(2 * rows * d);
    float *x = malloc(4 * n * d), *y = malloc(4 * (n * rows + GUARD)), *want = malloc(4 * n * rows);
    float *out = malloc(4 * (slots * d + GUARD)), *out_want = calloc(n * d, 4);
    float *gate = malloc(4 * ffn), *up = malloc(4 * ffn), *panel = malloc(4 * GEMM_PANEL);
    uint16_t *packed = malloc(2 * blocks * gemm_block(g, d)), *h = malloc(4 * slots * ffn);
    fill(w1, K_BF16, ffn * d);
    fill(v1, K_BF16, ffn * d);
    fill(w2, K_BF16, ffn * d);
    fill(w, K_BF16, rows * d);
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
    g->linear(y, rows, packed, n, w, rows, d);
    for (size_t r = 0; r < ffn; r += 48) { /* in pieces that do not divide it */
        size_t some = ffn - r < 48 ? ffn - r : 48;
        g->up(h, ffn, r, packed, n, w1 + 2 * r * d, v1 + 2 * r * d, some, d);
    }
    for (size_t c = 0; c < d; c += 80)     /* columns and rows in pieces that do not divide them */
        g->down(out + c, d, h, n, ffn, w2 + 2 * c, d, d - c < 80 ? d - c : 80, panel);
    for (size_t t = 0; t < n; t++) {
        kernels_plain.matvec[K_BF16](want + t * rows, w, rows, d, d, x + t * d);
        kernels_plain.matvec[K_BF16](gate, w1, ffn, d, d, x + t * d);
        kernels_plain.matvec[K_BF16](up, v1, ffn, d, d, x + t * d);
        kernels_plain.silu_mul(gate, up, ffn);
        kernels_plain.vecmat[K_BF16](out_want + t * d, w2, ffn, d, d, gate);
    }
    double a = apart(y, want, n * rows), b = apart(out, out_want, n * d);
    ok(a < tol, "%s %zu x %zu x %zu is plain's to rounding (%.1e)", g->name, n, rows, d, a);
    ok(b < 2 * tol, "%s expert of %zu x %zu, %zu tokens, is plain's to rounding (%.1e)", g->name,
       ffn, d, n, b);
    ok(guarded(y + n * rows) && guarded(out + slots * d), "%s writes only its results", g->name);
    void *const all[] = { w1, v1, w2, w, x, y, want, out, out_want, gate, up, panel, packed, h };
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        free(all[i]);
}

static void test_gemms(const struct gemm *g, double tol)
{
    test_gemm(g, tol, 1, 32, 32, 16);
    test_gemm(g, tol, 31, 64, 96, 48);
    test_gemm(g, tol, 33, 96, 352, 80);
    test_gemm(g, tol, 100, 192, 64, 320);
    test_gemm(g, tol, 8, 64, 6560, 16);    /* more rows of w2 than a panel holds */
}

/* A few tokens at a width like DBRX's, spread thinly over the experts, against the plain op */
static void test_experts(void)
{
    enum { N = 5, D = 4096, FFN = 32, E = 16, K = 4 };
    const struct dbrx_config cfg = { .d_model = D, .d_ffn = FFN, .n_experts = E, .top_k = K,
                                     .n_heads = 32, .n_kv_heads = 8 };
    void *w[3];
    for (int i = 0; i < 3; i++) {
        w[i] = malloc(2 * (size_t)E * FFN * D);
        fill(w[i], K_BF16, (size_t)E * FFN * D);
    }
    const struct dbrx_layer l = { .w1 = { .data = w[0], .dtype = DBRX_BF16 },
                                  .v1 = { .data = w[1], .dtype = DBRX_BF16 },
                                  .w2 = { .data = w[2], .dtype = DBRX_BF16 } };
    float *h = malloc(N * D * sizeof *h), *row = malloc(D * sizeof *row), weight[N * K];
    float *x = calloc(N * D, sizeof *x), *want = calloc(N * D, sizeof *x);
    uint16_t expert[N * K];
    fill(h, K_F32, N * D);
    for (int i = 0; i < N * K; i++)
        expert[i] = (uint16_t)(i % E), weight[i] = 0.25f;
    struct cpu c = { .k = kernels_get(NULL), .pool = pool_open(1), .exact = isa_amx() ? &gemm_amx : isa_bf16() ? &gemm_bf16x2 : NULL };
    if (blas_open(&c.blas, NULL) != DBRX_OK || cpu_reserve(&c, &cfg))
        bail("no OpenBLAS, or no memory");
    struct work wk = { .ctx = &c, .row = row,
                       .scratch = aligned_alloc(64, (cpu_scratch(&c, &cfg) + 63) / 64 * 64) };
    struct work plain = { .row = row, .scratch = malloc(ops_plain.scratch(NULL, &cfg)) };
    struct moe m = { .layer = &l, .h = h, .x = x, .expert = expert, .weight = weight, .n = N, .k = K,
                     .d_model = D, .d_ffn = FFN, .n_experts = E, .act_fn = DBRX_SILU };
    alarm(60);                             /* the tiles' panel once held no row: for ever */
    cpu_experts(&wk, &m);
    alarm(0);
    m.x = want;
    ops_plain.experts(&plain, &m);
    double a = apart(x, want, N * D);
    ok(a < 1e-4, "%d tokens through %d experts of %d x %d are plain's (%.1e)", N, E, FFN, D, a);
    pool_close(c.pool);
    void *const all[] = { w[0], w[1], w[2], h, row, x, want, c.panel, wk.scratch, plain.scratch };
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        free(all[i]);
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
            want += 2 * (j % 257 > i);
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
            tested++;
        }
    test_table(&kernels_plain);
    if (!tested)
        skip("no SIMD kernels on this CPU");
    if (isa_bf16()) {
        test_gemms(&gemm_bf16, 4e-3);
        test_gemms(&gemm_bf16x2, 1e-5);
    } else {
        skip("no AVX512-BF16 on this CPU");
    }
    if (isa_amx())
        test_gemms(&gemm_amx, 1e-5);
    else
        skip("no AMX on this CPU");
    test_experts();
    ok(kernels_get("plain") == &kernels_plain && !kernels_get("mmx"), "kernels by name");
    test_pool(1);
    test_pool(2);
    test_pool(5);
    ok(pool_physical_cores() >= 1, "there is a core (%u)", pool_physical_cores());
    return done();
}
