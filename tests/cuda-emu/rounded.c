/* tests/cuda-emu/rounded.c -- the kernels of tensor cores, one launch at a time, against sums in double of
 * operands rounded as they round them.  So nothing is left of bfloat16's 2^-9 that a mistake could hide
 * in: what remains is float32's rounding of a sum, some 1e-6 of the sum of its terms' sizes. */
#include "backends/cuda/args.h"
#include "backends/cuda/gpu.h"
#include "backends/graph/dequant.h"
#include "tests/cuda-emu/blocks.h"
#include "tests/tap.h"

#include <math.h>
#include <string.h>

static struct gpu *gpu;
static struct gpu_stream *stream;

/* ---- device memory ---- */

static void *held[64];
static int n_held;

/* `bytes` of device memory; zeros, or a copy of `from` */
static void *device(const void *from, size_t bytes)
{
    void *p;
    struct dbrx_error err;
    if (n_held == 64 || gpu_alloc(gpu, &p, bytes, &err) != DBRX_OK)
        bail("no memory");
    if (from)
        gpu_copy(stream, p, from, bytes);
    return held[n_held++] = p;
}

/* ... and back */
static void fetch(void *to, const void *from, size_t bytes)
{
    struct dbrx_error err;
    gpu_copy(stream, to, from, bytes);
    if (gpu_sync(stream, &err) != DBRX_OK)
        bail("%s", err.text);
}

static void let_go(void)
{
    while (n_held)
        gpu_free(gpu, held[--n_held]);
}

#define LAUNCH(kernel, x, y, z, threads, shared, args) \
    gpu_launch(stream, kernel, (uint32_t[3]){ x, y, z }, threads, shared, &(args), sizeof (args))

/* ---- numbers ---- */

static uint32_t ceil_div(uint32_t a, uint32_t b)
{
    return (a + b - 1) / b;
}

/* as bfloat16, to the nearest, ties to even */
static uint16_t bf16(double d)
{
    float f = (float)d;
    uint32_t u;
    memcpy(&u, &f, 4);
    return (uint16_t)((u + 0x7fff + (u >> 16 & 1)) >> 16);
}

static double rounded(double d)
{
    return bf16_to_f32(bf16(d));
}

/* the worst so far, NaN the worst of all, in units of what is allowed */
static void worse(double *worst, double off, double allowed)
{
    const double r = fabs(off) / allowed;
    *worst = r <= *worst || *worst != *worst ? *worst : r;
}

/* random activations [n][ld] in bfloat16, the first `cols` of each row not zero */
static uint16_t *activations(uint32_t n, uint32_t cols, uint32_t ld)
{
    uint16_t *x = calloc((size_t)n * ld, sizeof *x);
    for (size_t i = 0; i < (size_t)n * ld; i++)
        if (i % ld < cols)
            x[i] = bf16(uniform());
    return x;
}

/* A stored matrix: planes on the device; what its elements are, exactly and rounded, here */
struct matrix { struct mat mat; float *w; };

static const struct { uint32_t type, block, bytes; uint8_t at[4], size[4]; } layouts[] = {
#define BRACED(...) __VA_ARGS__
#define LAYOUT(NAME, name, block, bytes, at, size) { DBRX_##NAME, block, bytes, BRACED at, BRACED size },
    CUDA_TYPES(LAYOUT)
#undef LAYOUT
};

static struct matrix matrix_make(uint32_t type, uint32_t rows, uint32_t cols)
{
    const uint32_t padded = ceil_div(cols, GROUP) * GROUP;
    struct matrix m = { { .type = type, .rows = rows, .cols = padded }, calloc((size_t)rows * padded, sizeof(float)) };
    unsigned char *raw = make_blocks(type, (uint64_t)rows * cols, 0.1);
    int k = 0;
    while (layouts[k].type != type)
        k++;
    const uint32_t from = cols / layouts[k].block, to = padded / layouts[k].block;
    for (uint32_t r = 0; r < rows; r++)
        dequant(m.w + (size_t)r * padded, raw, type, (size_t)r * cols, cols);
    for (int i = 0; i < 4 && layouts[k].size[i]; i++) {
        const size_t size = layouts[k].size[i];
        unsigned char *plane = calloc((size_t)rows * to, size);
        for (uint32_t r = 0; r < rows; r++)
            for (uint32_t b = 0; b < from; b++)
                memcpy(plane + ((size_t)r * to + b) * size,
                       raw + ((size_t)r * from + b) * layouts[k].bytes + layouts[k].at[i], size);
        m.mat.w.p[i] = device(plane, (size_t)rows * to * size);
        free(plane);
    }
    free(raw);
    return m;
}

/* One sum, and what it may be off by: `size` is the sum of its terms' sizes, `slack` what weights
 * bring that may be rounded either way. */
struct dot { double sum, size, slack; };
#define SUMS 1e-6                          /* of `size`: float32's rounding of some hundred terms */

static double allowed(const struct dot *d)
{
    return SUMS * d->size + d->slack + 1e-30;
}

static struct dot dot_of(const struct matrix *m, uint32_t row, const uint16_t *x)
{
    /* Q6_K's values alone have more bits than float32 before their zero is taken away */
    const double eps = m->mat.type == DBRX_Q6_K ? 4e-6 : 0;
    struct dot d = { 0, 0, 0 };
    for (uint32_t i = 0; i < m->mat.cols; i++) {
        const double w = m->w[(size_t)row * m->mat.cols + i], a = bf16_to_f32(x[i]);
        d.sum += a * rounded(w);
        d.size += fabs(a * w);
        if (eps > 0)
            d.slack += fabs(a) * fabs(rounded(w * (1 + eps)) - rounded(w * (1 - eps)));
    }
    return d;
}

/* ---- tiles ---- */

static const uint32_t sentinel = 0x4996b438;           /* 1234567.0: what nobody writes over */

static float *fresh(size_t n)
{
    float *y = malloc(n * sizeof *y);
    for (size_t i = 0; i < n; i++)
        memcpy(y + i, &sentinel, 4);
    return y;
}

/* Have rows of y[n][ldy] beyond `cols` stayed as they were? */
static int untouched(const float *y, uint32_t n, uint32_t cols, uint32_t ldy)
{
    for (size_t i = 0; i < (size_t)n * ldy; i++)
        if (i % ldy >= cols && memcmp(y + i, &sentinel, 4) != 0)
            return 0;
    return 1;
}

static uint32_t cols_of(uint32_t type, uint32_t groups)
{
    const uint32_t block = dtype_block(type);
    return block == 256 ? 256 * ceil_div(groups, 8) : block == 32 ? 32 * groups : 32 * groups - 9;
}

static void test_linear(uint32_t type, uint32_t n, uint32_t rows, uint32_t groups, int add)
{
    struct matrix m = matrix_make(type, rows, cols_of(type, groups));
    const uint32_t ld = m.mat.cols, ldy = rows + 3;
    uint16_t *x = activations(n, cols_of(type, groups), ld);
    float *y = fresh((size_t)n * ldy), *before = malloc((size_t)n * ldy * sizeof *before);
    double worst = 0;
    for (size_t i = 0; add && i < (size_t)n * ldy; i++)
        y[i] = i % ldy < rows ? (float)uniform() : y[i];
    memcpy(before, y, (size_t)n * ldy * sizeof *y);
    struct linear_args a = { .w = m.mat, .x16 = device(x, (size_t)n * ld * 2), .y = device(y, (size_t)n * ldy * sizeof *y),
                             .n = n, .ldy = ldy, .add = (uint32_t)add };
    LAUNCH(gpu_typed(K_fast_f32, type), ceil_div(n, FAST), ceil_div(rows, FAST), 1, FAST_THREADS, FAST_SHARED, a);
    fetch(y, a.y, (size_t)n * ldy * sizeof *y);
    for (uint32_t t = 0; t < n; t++)
        for (uint32_t r = 0; r < rows; r++) {
            struct dot d = dot_of(&m, r, x + (size_t)t * ld);
            const double old = add ? before[(size_t)t * ldy + r] : 0;
            d.size += fabs(old);
            worse(&worst, y[(size_t)t * ldy + r] - old - d.sum, allowed(&d));
        }
    ok(worst <= 1 && untouched(y, n, rows, ldy), "%s, %u tokens by %u rows of %u columns%s: %.2f of what rounding may do",
       dtype_name(type), n, rows, ld, add ? ", added" : "", worst);
    free(m.w), free(x), free(y), free(before);
    let_go();
}

/* n tokens of two slots each: every sixth slot is the first expert's, none the second's */
enum { EXPERTS = 3, SLOTS = 2 };
struct choice { uint32_t n_slots, *order, start[EXPERTS + 1]; };

static struct choice choose(uint32_t n)
{
    struct choice c = { n * SLOTS, malloc(n * SLOTS * sizeof *c.order), { 0 } };
    uint32_t at = 0;
    for (uint32_t e = 0; e < EXPERTS; e++) {
        for (uint32_t s = c.n_slots; s-- > 0;)         /* not in the slots' own order */
            if ((s % 6 == 0 ? 0u : 2u) == e)
                c.order[at++] = s;
        c.start[e + 1] = at;
    }
    return c;
}

static double activated(uint32_t fn, double x)
{
    return fn == DBRX_GELU ? 0.5 * x * (1 + erf(x * 0.70710678118654752)) : x / (1 + exp(-x));
}

static const struct wt *on_device(const struct matrix *m)
{
    struct wt w[EXPERTS];
    for (int e = 0; e < EXPERTS; e++)
        w[e] = m[e].mat.w;
    return device(w, sizeof w);
}

static void test_up(uint32_t type, uint32_t n, uint32_t rows, uint32_t groups, uint32_t act_fn)
{
    struct matrix w1[EXPERTS], v1[EXPERTS];
    struct choice c = choose(n);
    const uint32_t cols = cols_of(type, groups), ld = ceil_div(cols, GROUP) * GROUP, ffn_ld = ceil_div(rows, GROUP) * GROUP;
    uint16_t *x = activations(n, cols, ld), *act = calloc((size_t)c.n_slots * ffn_ld, sizeof *act);
    int edges = 1, right = 1;
    double worst = 0;
    for (int e = 0; e < EXPERTS; e++) {
        w1[e] = matrix_make(type, rows, cols);
        v1[e] = matrix_make(type, rows, cols);
    }
    struct expert_args a = {
        .w1 = on_device(w1), .v1 = on_device(v1), .h16 = device(x, (size_t)n * ld * 2),
        .act16 = device(NULL, (size_t)c.n_slots * ffn_ld * 2), .order = device(c.order, c.n_slots * sizeof *c.order),
        .start = device(c.start, sizeof c.start), .type1 = type, .type3 = type, .slots = SLOTS, .ld = ld, .ffn = rows,
        .ffn_ld = ffn_ld, .act_fn = act_fn };
    LAUNCH(gpu_typed(K_fast_up_f32, type), ceil_div(n * SLOTS, FAST), ceil_div(rows, FAST / 2), EXPERTS, FAST_THREADS, FAST_SHARED, a);
    fetch(act, a.act16, (size_t)c.n_slots * ffn_ld * 2);
    for (uint32_t e = 0; e < EXPERTS; e++)
        for (uint32_t i = c.start[e]; i < c.start[e + 1]; i++)
            for (uint32_t r = 0; r < ffn_ld; r++) {
                const uint16_t *h = x + (size_t)(c.order[i] / SLOTS) * ld, got = act[(size_t)c.order[i] * ffn_ld + r];
                if (r >= rows) {
                    edges &= got == 0;
                    continue;
                }
                const struct dot g = dot_of(&w1[e], r, h), u = dot_of(&v1[e], r, h);
                const double f = activated(act_fn, g.sum), y = f * u.sum;
                const double may = 1.2 * allowed(&g) * fabs(u.sum) + fabs(f) * allowed(&u) + 4e-7 * fabs(y) + 1e-38;
                const double low = rounded(y - may), high = rounded(y + may);      /* and no step further */
                right &= bf16_to_f32(got) >= low && bf16_to_f32(got) <= high;
                worse(&worst, bf16_to_f32(got) - y, fabs(y) / 256 + may);
            }
    ok(right && edges, "%s up, %u tokens by %u rows of %u columns: rounded to the bit (%.2f of a step)", dtype_name(type), n, rows,
       ld, worst);
    for (int e = 0; e < EXPERTS; e++)
        free(w1[e].w), free(v1[e].w);
    free(c.order), free(x), free(act);
    let_go();
}

static void test_down(uint32_t type, uint32_t n, uint32_t rows, uint32_t groups)
{
    struct matrix w2[EXPERTS];
    struct choice c = choose(n);
    const uint32_t cols = cols_of(type, groups), ffn_ld = ceil_div(cols, GROUP) * GROUP, ld = ceil_div(rows, GROUP) * GROUP;
    uint16_t *act = activations(c.n_slots, cols, ffn_ld);
    float *y = fresh((size_t)c.n_slots * ld);
    double worst = 0;
    for (int e = 0; e < EXPERTS; e++)
        w2[e] = matrix_make(type, rows, cols);
    struct expert_args a = {
        .w2 = on_device(w2), .act16 = device(act, (size_t)c.n_slots * ffn_ld * 2),
        .y = device(y, (size_t)c.n_slots * ld * sizeof *y), .order = device(c.order, c.n_slots * sizeof *c.order),
        .start = device(c.start, sizeof c.start), .type2 = type, .slots = SLOTS, .d = rows, .ld = ld, .ffn_ld = ffn_ld };
    LAUNCH(gpu_typed(K_fast_down_f32, type), ceil_div(n * SLOTS, FAST), ceil_div(rows, FAST), EXPERTS, FAST_THREADS, FAST_SHARED, a);
    fetch(y, a.y, (size_t)c.n_slots * ld * sizeof *y);
    for (uint32_t e = 0; e < EXPERTS; e++)
        for (uint32_t i = c.start[e]; i < c.start[e + 1]; i++)
            for (uint32_t r = 0; r < rows; r++) {
                const struct dot d = dot_of(&w2[e], r, act + (size_t)c.order[i] * ffn_ld);
                worse(&worst, y[(size_t)c.order[i] * ld + r] - d.sum, allowed(&d));
            }
    ok(worst <= 1 && untouched(y, c.n_slots, rows, ld), "%s down, %u tokens by %u rows of %u columns: %.2f of what rounding may do",
       dtype_name(type), n, rows, ffn_ld, worst);
    for (int e = 0; e < EXPERTS; e++)
        free(w2[e].w);
    free(c.order), free(act), free(y);
    let_go();
}

/* ---- attention ---- */

struct shape { uint32_t type, head, kv_heads, group, pos, n; };

/* E4M3, from its definition */
static float fp8(uint8_t b)
{
    const int e = b >> 3 & 15, m = b & 7;
    const double v = e ? ldexp(1 + m / 8.0, e - 7) : ldexp(m / 8.0, -6);
    return (float)(b & 0x80 ? -v : v);
}

/* n elements of a KV cache, also as float32; element `poison` (if below n) is not finite */
static unsigned char *cache(uint32_t type, size_t n, float *as, size_t poison, float with)
{
    unsigned char *p = malloc(n * 4);
    for (size_t i = 0; i < n; i++) {
        const float f = i == poison ? with : (float)(2 * uniform());
        const uint16_t half = (uint16_t)(i == poison ? 0x7e00 : 0x3000 + next() % 0x1000 + (next() & 1) * 0x8000);
        const uint16_t top = i == poison && f != f ? 0x7fc0 : bf16(f);
        const uint8_t byte = (uint8_t)(i == poison ? 0x7f : 0x10 + next() % 0x30 + (next() & 1) * 0x80);
        if (type == DBRX_F32)
            memcpy(p + 4 * i, &f, 4), as[i] = f;
        else if (type == DBRX_F16)
            memcpy(p + 2 * i, &half, 2), as[i] = f16_to_f32(half);
        else if (type == DBRX_BF16)
            memcpy(p + 2 * i, &top, 2), as[i] = bf16_to_f32(top);
        else
            p[i] = byte, as[i] = i == poison ? NAN : fp8(byte);
    }
    return p;
}

static const char *kv_name(uint32_t type)
{
    return type == KV_FP8 ? "fp8" : dtype_name(type);
}

/* What one query makes of keys and values, FLASH positions at a time: the weights that are rounded are
 * those against the maximum so far.  out[head], slack[head] */
static void attend_rounded(const struct shape *s, const float *q, const float *k, const float *v, uint32_t len, double *out,
                           double *may)
{
    const size_t width = (size_t)s->kv_heads * s->head;
    const float scale = 1 / sqrtf((float)s->head);
    double top = -INFINITY, sum = 0, score[FLASH];
    for (uint32_t i = 0; i < s->head; i++)
        out[i] = may[i] = 0;
    for (uint32_t j0 = 0; j0 < len; j0 += FLASH) {
        const uint32_t keys = len - j0 < FLASH ? len - j0 : FLASH;
        double now = top, off = 0;
        for (uint32_t j = 0; j < keys; j++) {
            double size = 0;
            score[j] = 0;
            for (uint32_t i = 0; i < s->head; i++) {
                const double t = rounded(q[i] * scale) * rounded(k[(j0 + j) * width + i]);
                score[j] += t, size += fabs(t);
            }
            off = fmax(off, size);
            now = fmax(now, score[j]);
        }
        const double factor = exp(top - now), eps = 1e-7 * off + 1e-6;      /* of a weight, by its score's rounding */
        sum *= factor;
        for (uint32_t i = 0; i < s->head; i++)
            out[i] *= factor, may[i] *= factor;
        for (uint32_t j = 0; j < keys; j++) {
            const double p = exp(score[j] - now), w = rounded(p), either = rounded(p * (1 + eps)) - rounded(p * (1 - eps));
            sum += p;
            for (uint32_t i = 0; i < s->head; i++) {
                const double x = rounded(v[(j0 + j) * width + i]);
                out[i] += w * x;
                may[i] += fabs(x) * (either + (eps + SUMS) * p);
            }
        }
        top = now;
    }
    for (uint32_t i = 0; i < s->head; i++)
        out[i] /= sum, may[i] /= sum;
}

/* poison: a position whose values are `with` in one place; none if beyond the last */
static void test_flash(const struct shape *s, uint32_t poison, float with)
{
    static const enum gpu_kernel kernels[] = { K_flash_f32, K_flash_f16, K_flash_bf16, K_flash_fp8 };
    const uint32_t heads = s->kv_heads * s->group, all = s->pos + s->n, ldq = (heads + 2 * s->kv_heads) * s->head;
    const uint32_t ldo = heads * s->head + 5, bytes = s->type == DBRX_F32 ? 4 : s->type == KV_FP8 ? 1 : 2;
    const size_t width = (size_t)s->kv_heads * s->head, n_kv = all * width, at = (size_t)poison * width + s->head / 3;
    float *q = malloc((size_t)s->n * ldq * sizeof *q), *k = malloc(n_kv * sizeof *k), *v = malloc(n_kv * sizeof *v);
    float *y = fresh((size_t)s->n * ldo);
    double out[FLASH_HEAD], may[FLASH_HEAD], worst = 0;
    int kept = 1;
    for (size_t i = 0; i < (size_t)s->n * ldq; i++)
        q[i] = (float)(2 * uniform());
    unsigned char *raw_k = cache(s->type, n_kv, k, n_kv, 0), *raw_v = cache(s->type, n_kv, v, at, with);
    struct step step = { .pos = s->pos, .n = s->n };
    struct attend_args a = { .step = device(&step, sizeof step), .q = device(q, (size_t)s->n * ldq * sizeof *q),
                             .k = device(raw_k, n_kv * bytes), .v = device(raw_v, n_kv * bytes),
                             .out = device(y, (size_t)s->n * ldo * sizeof *y), .ldq = ldq, .ldo = ldo, .heads = heads,
                             .kv_heads = s->kv_heads, .head = s->head, .n = s->n, .splits = 1, .type = s->type };
    LAUNCH(kernels[s->type == DBRX_F32 ? 0 : s->type == DBRX_F16 ? 1 : s->type == DBRX_BF16 ? 2 : 3],
           ceil_div(s->n * s->group, FLASH), s->kv_heads, 1, FLASH_THREADS, FLASH_SHARED, a);
    fetch(y, a.out, (size_t)s->n * ldo * sizeof *y);
    for (uint32_t t = 0; t < s->n; t++)
        for (uint32_t h = 0; h < heads; h++) {
            const size_t of = (size_t)(h / s->group) * s->head;
            attend_rounded(s, q + (size_t)t * ldq + (size_t)h * s->head, k + of, v + of, s->pos + t + 1, out, may);
            for (uint32_t i = 0; i < s->head; i++) {
                const float got = y[(size_t)t * ldo + (size_t)h * s->head + i];
                if (s->pos + t >= poison && of + i == at % width)
                    kept &= !isfinite(got);
                else
                    worse(&worst, got - out[i], may[i]);
            }
        }
    ok(worst <= 1 && kept && untouched(y, s->n, heads * s->head, ldo),
       "flash, %s, head %u, %u x %u, %u tokens from %u on%s: %.2f of what rounding may do", kv_name(s->type), s->head,
       s->kv_heads, s->group, s->n, s->pos,
       poison >= all ? "" : isnan(v[at]) ? ", a NaN for those who see it alone" : ", infinity for those who see it alone", worst);
    free(q), free(k), free(v), free(y), free(raw_k), free(raw_v);
    let_go();
}

int main(void)
{
    struct dbrx_error err;
    if (gpu_open(0, &gpu, &err) != DBRX_OK || gpu_stream_open(gpu, &stream, &err) != DBRX_OK)
        bail("%s", err.text);
    /* tokens, rows, groups of columns: within a tile and beyond it, tiles' last steps half full */
    static const uint32_t sizes[][3] = { { 19, 131, 3 }, { 67, 70, 2 }, { 33, 9, 5 }, { 16, 128, 1 } };
    for (uint32_t k = 0; k < N_TYPES; k++) {
        const uint32_t *s = sizes[k % 4], type = scales[k].type;
        test_linear(type, s[0], s[1], s[2], k % 2);
        test_up(type, s[0], s[1] / 2, s[2], k % 3 ? DBRX_SILU : DBRX_GELU);
        test_down(type, s[0], s[1], s[2]);
    }
    test_linear(DBRX_Q4_0, 130, 129, 4, 1);
    test_up(DBRX_Q8_0, 131, 70, 3, DBRX_SILU);
    test_down(DBRX_Q4_K, 131, 129, 8);
    static const struct shape shapes[] = {
        { DBRX_F32, 64, 2, 2, 0, 5 },    { DBRX_F16, 128, 1, 6, 70, 13 }, { DBRX_BF16, 16, 2, 3, 63, 70 }, { KV_FP8, 48, 1, 1, 0, 131 },
        { DBRX_F32, 128, 1, 3, 130, 9 }, { DBRX_F16, 16, 1, 64, 1, 3 },   { DBRX_BF16, 128, 2, 1, 0, 65 }, { KV_FP8, 112, 2, 4, 100, 20 },
    };
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++)
        test_flash(&shapes[i], ~0u, 0);
    for (size_t i = 0; i < 4; i++)
        test_flash(&shapes[i], shapes[i].pos + shapes[i].n * 2 / 3, i ? NAN : INFINITY);
    gpu_stream_close(stream);
    gpu_close(gpu);
    return done();
}
