/* backends/cpu-blas/attention.c -- grouped-query causal attention over a KV cache of any type,
 * memory linear in context.
 *
 * Three ways, all with a running maximum and sum a row (Milakov, Gimelshein 2018; as in
 * FlashAttention), so that keys are read once for a group's heads: few tokens by kernels,
 * long contexts cut in parts for the threads; many by a gemm's attend where activations may
 * be rounded to BF16; else by BLAS in float32. */
#include "backends/cpu-blas/cpu_blas.h"

#include <math.h>
#include <string.h>

enum {
    TILE  = 256,                           /* positions attended to at a time               */
    BLOCK = 256,                           /* query rows of one item by BLAS                */
    PARTS = 32,                            /* of a context, at most                         */
};

struct attn_job {
    const struct cpu *c;
    const struct attn *a;
    uint32_t group, tokens, blocks;        /* heads a KV head; tokens an item, items a KV head */
    uint32_t first, parts;                 /* few: the first token, parts of the longest    */
    float *part;                           /* few: [token][head][parts][hd + 2]: o, m, l    */
    size_t row;                            /* bytes of a position in the cache              */
};

size_t cpu_attention_floats(const struct dbrx_config *cfg)
{
    const size_t hd = cfg->d_model / cfg->n_heads, group = cfg->n_heads / cfg->n_kv_heads;
    return max(max(max(BLOCK, group) * (TILE + 2) + 2 * TILE * hd, gemm_attend_floats(hd)),
               group * (TILE + hd));
}

size_t cpu_attention_bytes(const struct dbrx_config *cfg)
{
    return CPU_FEW * (size_t)cfg->n_heads * PARTS * (cfg->d_model / cfg->n_heads + 2) * sizeof(float);
}

/* where the rows of one KV head begin that are of position p and after */
static const void *rows_at(const struct attn *a, const void *cache, uint32_t kv, uint32_t p)
{
    return (const char *)cache + dtype_bytes(a->kv_dtype, ((uint64_t)p * a->n_kv_heads + kv) * a->head_dim);
}

/* s[n] becomes exp(s * scale - m) with the new maximum m; *l their sum added to what it was,
 * shrunk.  Returns the factor by which what is mixed so far shrinks. */
static float softmax_step(const struct kernels *k, float *s, uint32_t n, float scale, float *m,
                          float *l)
{
    for (uint32_t i = 0; i < n; i++)
        s[i] *= scale;
    float top = k->max(s, n);
    top = top > *m ? top : *m;
    float shrink = expf(*m - top);
    *l = *l * shrink + k->exp_sum(s, n, top);
    *m = top;
    return shrink;
}

/* ---- few tokens --------------------------------------------------------------------------- */

/* How long the parts of a context are: by its length alone, or results would depend on the batch. */
static uint32_t part_length(uint32_t len)
{
    return (uint32_t)(max(1, ceil_div(len, (size_t)PARTS * TILE)) * 2 * TILE);
}

/* one part of the context of one token, one KV head, all heads of its group; the next head's is the
 * next item, for it lies in the same pages */
static void part_item(void *arg, unsigned worker, uint32_t item)
{
    const struct attn_job *j = arg;
    const struct attn *a = j->a;
    const struct kernels *k = j->c->k;
    const uint32_t hd = a->head_dim, group = j->group;
    const uint32_t kv = item % a->n_kv_heads, part = item / a->n_kv_heads % j->parts;
    const uint32_t token = item / j->parts / a->n_kv_heads, t = j->first + token;
    const uint32_t len = a->pos + t + 1, step = part_length(len), begin = part * step;
    const uint32_t end = (uint32_t)min(len, begin + step);
    const float *q = a->q + t * a->q_stride + (size_t)kv * group * hd;
    const float scale = 1 / sqrtf((float)hd);
    float *score = cpu_scratch(j->c, worker), *o = score + group * TILE;
    const int type = kernels_kv_type(a->kv_dtype);
    const size_t stride = (size_t)a->n_kv_heads * hd;
    if (begin >= len)
        return;
    for (uint32_t g = 0; g < group; g++) {
        float *ml = j->part + (((size_t)token * a->n_heads + kv * group + g) * j->parts + part) *
                              (hd + 2) + hd;
        ml[0] = -INFINITY;
        ml[1] = 0;
    }
    memset(o, 0, (size_t)group * hd * sizeof *o);
    for (uint32_t p = begin, n; p < end; p += n) {
        n = (uint32_t)min(TILE, end - p);
        k->scores[type](score, TILE, rows_at(a, a->k, kv, p), n, stride, hd, q, group);
        for (uint32_t g = 0; g < group; g++) {
            float *ml = j->part + (((size_t)token * a->n_heads + kv * group + g) * j->parts +
                                   part) * (hd + 2) + hd;
            float shrink = softmax_step(k, score + g * TILE, n, scale, ml, ml + 1);
            for (uint32_t i = 0; i < hd && shrink != 1; i++)
                o[g * hd + i] *= shrink;
        }
        k->mix[type](o, rows_at(a, a->v, kv, p), n, stride, hd, score, TILE, group);
    }
    for (uint32_t g = 0; g < group; g++)
        memcpy(j->part + (((size_t)token * a->n_heads + kv * group + g) * j->parts + part) * (hd + 2),
               o + g * hd, hd * sizeof *o);
}

/* the parts of one head of one token together */
static void join_item(void *arg, unsigned worker, uint32_t item)
{
    const struct attn_job *j = arg;
    const struct attn *a = j->a;
    const uint32_t hd = a->head_dim, t = j->first + item / a->n_heads, head = item % a->n_heads;
    const uint32_t len = a->pos + t + 1, parts = (uint32_t)ceil_div(len, part_length(len));
    const float *part = j->part + (size_t)item * j->parts * (hd + 2);
    float *out = a->out + ((size_t)t * a->n_heads + head) * hd, m = -INFINITY, l = 0;
    (void)worker;
    for (uint32_t i = 0; i < parts; i++)
        m = part[i * (hd + 2) + hd] > m ? part[i * (hd + 2) + hd] : m;
    memset(out, 0, hd * sizeof *out);
    for (uint32_t i = 0; i < parts; i++, part += hd + 2) {
        float shrink = expf(part[hd] - m);
        l += shrink * part[hd + 1];
        for (uint32_t c = 0; c < hd; c++)
            out[c] += shrink * part[c];
    }
    for (uint32_t c = 0; c < hd; c++)
        out[c] /= l;
}

static void few_tokens(struct attn_job *j)
{
    const struct attn *a = j->a;
    for (uint32_t n; j->first < a->n; j->first += n) {
        n = (uint32_t)min(CPU_FEW, a->n - j->first);
        j->parts = 1;
        for (uint32_t t = 0; t < n; t++) {
            uint32_t len = a->pos + j->first + t + 1;
            j->parts = (uint32_t)max(j->parts, ceil_div(len, part_length(len)));
        }
        pool_run(j->c->pool, n * a->n_kv_heads * j->parts, part_item, j);
        pool_run(j->c->pool, n * a->n_heads, join_item, j);
    }
}

/* ---- many --------------------------------------------------------------------------------- */

static void attend_item(void *arg, unsigned worker, uint32_t item)
{
    const struct attn_job *j = arg;
    const struct attn *a = j->a;
    const uint32_t hd = a->head_dim, kv = item / j->blocks, t = item % j->blocks * j->tokens;
    const size_t at = (size_t)dtype_bytes(a->kv_dtype, (uint64_t)kv * hd);
    j->c->fast->attend(&(struct gemm_attend){
        .q = a->q + t * a->q_stride + (size_t)kv * j->group * hd, .q_stride = a->q_stride,
        .out = a->out + ((size_t)t * a->n_heads + (size_t)kv * j->group) * hd,
        .out_stride = (size_t)a->n_heads * hd, .n = (uint32_t)min(j->tokens, a->n - t),
        .group = j->group, .hd = hd, .reach = a->pos + t + 1, .k = (const char *)a->k + at,
        .v = (const char *)a->v + at, .dtype = a->kv_dtype, .stride = j->row,
    }, cpu_scratch(j->c, worker));
}

/* One KV head, a block of tokens, all query heads of the group, in float32 */
static void blas_item(void *arg, unsigned worker, uint32_t item)
{
    const struct attn_job *j = arg;
    const struct attn *a = j->a;
    const struct kernels *k = j->c->k;
    const uint32_t hd = a->head_dim, group = j->group;
    const uint32_t kv = item / j->blocks, t0 = item % j->blocks * j->tokens;
    const uint32_t n = (uint32_t)min(j->tokens, a->n - t0), end = a->pos + t0 + n;
    const size_t o_stride = (size_t)a->n_heads * hd;
    const float scale = 1 / sqrtf((float)hd);
    float *score = cpu_scratch(j->c, worker);              /* [n][TILE], a head at a time */
    float *top = score + (size_t)n * TILE, *sum = top + group * n;      /* [group][n] */
    float *panel[2] = { sum + group * n, sum + group * n + (size_t)TILE * hd };
    const float *q0 = a->q + t0 * a->q_stride + (size_t)kv * group * hd;
    float *o0 = a->out + t0 * o_stride + (size_t)kv * group * hd;

    for (uint32_t r = 0; r < group * n; r++)
        top[r] = -INFINITY, sum[r] = 0;
    for (uint32_t t = 0; t < n; t++)
        memset(o0 + t * o_stride, 0, (size_t)group * hd * sizeof *o0);
    for (uint32_t p = 0; p < end; p += TILE) {
        const uint32_t len = (uint32_t)min(TILE, end - p);
        const float *kv_rows[2];
        size_t stride = 0;
        for (int i = 0; i < 2; i++) {
            const int type = kernels_kv_type(a->kv_dtype);
            const char *rows = rows_at(a, i ? a->v : a->k, kv, p);
            kv_rows[i] = (const float *)(const void *)rows;
            stride = (size_t)a->n_kv_heads * hd;
            if (type != K_F32) {
                for (uint32_t r = 0; r < len; r++)
                    k->widen[type](panel[i] + r * hd, rows + r * j->row, hd);
                kv_rows[i] = panel[i];
                stride = hd;
            }
        }
        for (uint32_t g = 0; g < group; g++) {
            float *o = o0 + (size_t)g * hd;
            j->c->blas.sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, (int)n, (int)len, (int)hd, 1,
                             q0 + (size_t)g * hd, (int)a->q_stride, kv_rows[0], (int)stride, 0,
                             score, TILE);
            for (uint32_t t = 0; t < n; t++) {
                float *s = score + (size_t)t * TILE, *o_t = o + t * o_stride;
                uint32_t reach = a->pos + t0 + t + 1;           /* causal: positions it may see */
                uint32_t seen = reach <= p ? 0 : (uint32_t)min(len, reach - p);
                if (seen) {
                    float shrink = softmax_step(k, s, seen, scale, top + g * n + t, sum + g * n + t);
                    for (uint32_t i = 0; i < hd && shrink != 1; i++)
                        o_t[i] *= shrink;
                }
                memset(s + seen, 0, (len - seen) * sizeof *s);
            }
            j->c->blas.sgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, (int)n, (int)hd, (int)len,
                             1, score, TILE, kv_rows[1], (int)stride, 1, o, (int)o_stride);
        }
    }
    for (uint32_t g = 0; g < group; g++)
        for (uint32_t t = 0; t < n; t++)
            for (uint32_t i = 0; i < hd; i++)
                o0[t * o_stride + (size_t)g * hd + i] /= sum[g * n + t];
}

void cpu_attention(struct work *wk, const struct attn *a)
{
    const struct cpu *c = wk->ctx;
    struct attn_job j = {
        .c = c, .a = a, .group = a->n_heads / a->n_kv_heads, .part = wk->scratch,
        .row = (size_t)dtype_bytes(a->kv_dtype, (uint64_t)a->n_kv_heads * a->head_dim),
    };
    if (cpu_few(c, a->n)) {
        few_tokens(&j);
        return;
    }
    int fast = c->fast && c->fast->attend && (size_t)a->n_heads * a->head_dim >= c->fast_cols && a->head_dim % 32 == 0 &&
               j.group <= GEMM_QUERIES;
    /* as many query rows as fit, but two items a thread */
    j.tokens = (uint32_t)max(1, (fast ? GEMM_QUERIES : BLOCK) / j.group);
    j.tokens = (uint32_t)min(j.tokens, ceil_div(a->n, ceil_div(2 * pool_threads(c->pool),
                                                               a->n_kv_heads)));
    j.blocks = (uint32_t)ceil_div(a->n, j.tokens);
    pool_run(c->pool, a->n_kv_heads * j.blocks, fast ? attend_item : blas_item, &j);
}
