/* bench/switch.c -- how long a switch of backends takes, and how fast KV moves.
 *
 *   make bench/switch && bench/switch [-r REPS] [-t TOKENS] CHECKPOINT MODULES_DIR
 *
 * First a conversation of 500 tokens of the checkpoint (or what its context holds): every pair
 * of cpu-blas and ref, opened afresh and kept open.  Then 2,000 tokens at the KV shape of DBRX
 * (40 layers, 8 KV heads of 128) in a model that is otherwise tiny, beside memcpy of as many
 * bytes: into new memory asked for in the same way as a session's, which is what a switch has to
 * do at least, and into memory that was touched before, which is all that a copy can be.  Once as
 * the machine is, and once as if it had no pages of 2 MB left.  Medians of interleaved runs. */
#define _DEFAULT_SOURCE                    /* madvise */
#include "backends/model/checkpoint.h"
#include "repl/dispatch.h"
#include "tests/quiet_host.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <time.h>
#include <unistd.h>

enum { MAX_REPS = 101 };

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static const struct dbrx_host host = QUIET_HOST(host_never);

static _Noreturn void die(const char *what)
{
    fprintf(stderr, "bench/switch: %s\n", what);
    exit(1);
}

static int ascending(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double median(double *v, int n)
{
    qsort(v, (size_t)n, sizeof *v, ascending);
    return n % 2 ? v[n / 2] : (v[n / 2 - 1] + v[n / 2]) / 2;
}

/* The time that one switch takes */
static double move(struct disp *d, const char *to, const char *const *opt, int how, const int32_t *token, uint32_t n)
{
    struct dbrx_error err;
    double t0 = now();
    if (disp_use(d, to, opt, how, token, n, &err) != DBRX_OK)
        die(err.text);
    return now() - t0;
}

/* ---- a conversation of the checkpoint's ---- */

static void checkpoint(const char *dir, const struct modules *mods, uint32_t n, int reps)
{
    static const char *const names[] = { "cpu-blas", "ref" };
    static double fresh[2][2][MAX_REPS], kept[2][MAX_REPS], again[2][MAX_REPS];
    struct dbrx_error err;
    struct ckpt *ck;
    if (ckpt_open(dir, &ck, &err) != DBRX_OK)
        die(err.text);
    uint32_t ctx = ck->desc.config.max_seq < 4096 ? ck->desc.config.max_seq : 4096;
    n = n < ctx ? n : ctx - 1;
    int32_t *token = malloc(ctx * sizeof *token);
    struct disp *d = disp_new(&ck->desc, mods, &host, ctx);
    if (!d || !token)
        die("out of memory");
    for (uint32_t i = 0; i < ctx; i++)
        token[i] = (int32_t)((i * 2654435761u >> 7) % ck->desc.config.n_vocab);
    move(d, names[0], NULL, 0, NULL, 0);
    struct dbrx_batch b = { .struct_size = sizeof b, .n_tokens = n, .token = token };
    if (disp_eval(d, &b, &err) != DBRX_OK)
        die(err.text);
    for (int r = -1; r < reps; r++)        /* -1 warms up */
        for (int from = 0; from < 2; from++)
            for (int to = 0; to < 2; to++) {
                move(d, names[from], NULL, 0, token, n);
                double t = move(d, names[to], NULL, 0, token, n);
                fresh[from][to][r < 0 ? 0 : r] = t;
            }
    for (int r = -1; r < reps; r++)
        for (int to = 0; to < 2; to++) {   /* there, keeping; 16 tokens more; and back */
            move(d, names[to], NULL, 0, token, n);
            move(d, names[!to], NULL, DISP_KEEP, token, n);
            b = (struct dbrx_batch){ .struct_size = sizeof b, .n_tokens = ctx - n < 16 ? ctx - n : 16, .token = token + n };
            if (disp_eval(d, &b, &err) != DBRX_OK)
                die(err.text);
            kept[to][r < 0 ? 0 : r] = move(d, names[to], NULL, DISP_KEEP, token, n + b.n_tokens);
            again[to][r < 0 ? 0 : r] = move(d, names[!to], NULL, 0, token, n + b.n_tokens);
            if (disp_truncate(d, n, &err) != DBRX_OK)
                die(err.text);
            disp_drop(d, NULL);
        }
    printf("%s, %u tokens of %u, median of %d\n", dir, n, ctx, reps);
    for (int from = 0; from < 2; from++)
        for (int to = 0; to < 2; to++)
            printf("  %-9s to %-9s opened afresh, KV copied        %8.2f ms\n", names[from], names[to],
                   1e3 * median(fresh[from][to], reps));
    for (int to = 0; to < 2; to++) {
        printf("  back to %-9s kept open, 16 tokens are new     %8.2f ms\n", names[to], 1e3 * median(kept[to], reps));
        printf("  and to %-9s  kept open, nothing is new        %8.2f ms\n", names[!to], 1e3 * median(again[to], reps));
    }
    disp_free(d);
    free(token);
    ckpt_close(ck);
}

/* ---- the KV of DBRX ---- */

enum { LAYERS = 40, KV_HEADS = 8, HEAD_DIM = 128, D = KV_HEADS * HEAD_DIM, FFN = 32, EXPERTS = 4, VOCAB = 256, STEP = 250 };

static struct dbrx_tensor tensor(const void *data, uint64_t rows, uint64_t cols)
{
    return (struct dbrx_tensor){ .data = data, .bytes = rows * cols * 2, .fd = -1, .dtype = DBRX_BF16,
                                 .rank = cols > 1 ? 2 : 1, .dim = { rows, cols > 1 ? cols : 0 } };
}

struct filler { uint32_t layer, pos, n, dtype; const void *data; };

/* Rows for an import, the same ones over and over */
static dbrx_status next_block(void *ctx, struct dbrx_kv_block *b, struct dbrx_error *err)
{
    struct filler *f = ctx;
    (void)err;
    if (f->layer == LAYERS)
        return DBRX_STOPPED;
    uint32_t n = f->n - f->pos < STEP ? f->n - f->pos : STEP;
    *b = (struct dbrx_kv_block){ .struct_size = sizeof *b, .layer = f->layer, .pos = f->pos, .n = n, .dtype = f->dtype,
                                 .k = f->data, .v = f->data };
    f->pos += n;
    if (f->pos == f->n) {
        f->pos = 0;
        f->layer++;
    }
    return DBRX_OK;
}

static void *fresh_memory(size_t bytes)
{
    void *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED)
        die("out of memory");
    (void)madvise(p, bytes, MADV_HUGEPAGE);
    return p;
}

static int knows(const struct disp *d, const char *backend, const char *option)
{
    const struct module *m;
    for (size_t i = 0; (m = disp_module(d, i)); i++)
        for (const struct dbrx_option *o = m->info && !strcmp(m->info->name, backend) ? disp_options(d, i) : NULL;
             o && o->name; o++)
            if (!strcmp(o->name, option))
                return 1;
    return 0;
}

static void dbrx_shape(const struct modules *mods, uint32_t n, int reps)
{
    static double sw[MAX_REPS], cold[MAX_REPS], warm[MAX_REPS];
    struct dbrx_error err;
    uint16_t *zero = calloc(4 * (size_t)D * D, sizeof *zero);  /* every weight there is */
    struct dbrx_layer layer[LAYERS];
    for (int l = 0; l < LAYERS; l++)
        layer[l] = (struct dbrx_layer){
            .norm_1 = tensor(zero, D, 1), .wqkv = tensor(zero, 3 * D, D), .wo = tensor(zero, D, D),
            .norm_2 = tensor(zero, D, 1), .router = tensor(zero, EXPERTS, D), .w1 = tensor(zero, EXPERTS * FFN, D),
            .v1 = tensor(zero, EXPERTS * FFN, D), .w2 = tensor(zero, EXPERTS * FFN, D),
        };
    struct dbrx_model_desc desc = {
        .struct_size = sizeof desc, .config = { .struct_size = sizeof desc.config, .n_layers = LAYERS, .d_model = D,
            .n_heads = KV_HEADS, .n_kv_heads = KV_HEADS, .d_ffn = FFN, .n_experts = EXPERTS, .top_k = 2,
            .n_vocab = VOCAB, .max_seq = n, .rope_theta = 5e5f, .ln_eps = 1e-5f, .moe_norm_p = 1 },
        .embed = tensor(zero, VOCAB, D), .norm_f = tensor(zero, D, 1), .lm_head = tensor(zero, VOCAB, D),
        .layer = layer, .layer_size = sizeof *layer,
    };
    struct disp *d = disp_new(&desc, mods, &host, n);
    int32_t *token = calloc(n, sizeof *token);
    if (!zero || !d || !token)
        die("out of memory");
    int half = knows(d, "cpu-blas", "kv");
    static const char *const bf16[] = { "kv=bf16", NULL };
    const char *const *opt = half ? bf16 : NULL;
    size_t row = (size_t)D * (half ? 2 : 4), bytes = 2 * LAYERS * (size_t)n * row;
    char *data = malloc(STEP * row), *from = fresh_memory(bytes), *to = fresh_memory(bytes);
    for (size_t i = 0; i < STEP * (size_t)D; i++) {            /* no zeros: pages of them may be shared */
        if (half)
            ((uint16_t *)(void *)data)[i] = 0x3f80;
        else
            ((float *)(void *)data)[i] = 1;
    }
    memset(from, 1, bytes);
    memset(to, 1, bytes);
    move(d, "cpu-blas", opt, 0, NULL, 0);
    struct filler f = { .n = n, .dtype = half ? DBRX_BF16 : DBRX_F32, .data = data };
    if (disp_import(d, n, next_block, &f, &err) != DBRX_OK)
        die(err.text);
    for (int r = -1; r < reps; r++) {
        int i = r < 0 ? 0 : r;
        sw[i] = move(d, "cpu-blas", opt, 0, token, n);
        double t0 = now();
        char *new = fresh_memory(bytes);
        memcpy(new, from, bytes);
        munmap(new, bytes);
        cold[i] = now() - t0;
        t0 = now();
        memcpy(to, from, bytes);
        warm[i] = now() - t0;
    }
    double s = median(sw, reps), c = median(cold, reps), w = median(warm, reps), gb = (double)bytes * 1e-9;
    printf("KV of DBRX, %u tokens in %s, %.0f MB, %s, median of %d\n", n, half ? "BF16" : "F32", 1e3 * gb,
           prctl(PR_GET_THP_DISABLE, 0, 0, 0, 0) == 1 ? "pages of 4 KB only" : "pages of 2 MB where there are", reps);
    printf("  switch, all of it                 %8.1f ms  %6.2f GB/s\n", 1e3 * s, gb / s);
    printf("  memcpy into new memory            %8.1f ms  %6.2f GB/s   the switch has %3.0f%% of that\n", 1e3 * c, gb / c,
           100 * c / s);
    printf("  memcpy into memory touched before %8.1f ms  %6.2f GB/s   the switch has %3.0f%% of that\n", 1e3 * w, gb / w,
           100 * w / s);
    disp_free(d);
    munmap(from, bytes);
    munmap(to, bytes);
    free(data);
    free(token);
    free(zero);
}

int main(int argc, char **argv)
{
    uint32_t tokens = 2000;
    int reps = 11, opt;
    while ((opt = getopt(argc, argv, "r:t:")) != -1) {
        long v = optarg ? atol(optarg) : 0;
        if (opt == '?' || v < 1 || v > (opt == 'r' ? MAX_REPS : 1000000))
            die("usage: bench/switch [-r REPS] [-t TOKENS] CHECKPOINT MODULES_DIR");
        if (opt == 'r')
            reps = (int)v;
        else
            tokens = (uint32_t)v;
    }
    if (argc - optind != 2)
        die("usage: bench/switch [-r REPS] [-t TOKENS] CHECKPOINT MODULES_DIR");
    struct dbrx_error err;
    struct modules mods = { 0 };
    char *dir = realpath(argv[optind + 1], NULL);
    if (!dir || modules_scan(&mods, dir, &err) != DBRX_OK)
        die(dir ? err.text : "there is no such folder of modules");
    double load[3] = { 0 };
    if (getloadavg(load, 3) > 0)
        printf("load average %.1f on %ld cores\n", load[0], sysconf(_SC_NPROCESSORS_ONLN));
    checkpoint(argv[optind], &mods, 500, reps);
    dbrx_shape(&mods, tokens, reps);
    if (!prctl(PR_SET_THP_DISABLE, 1, 0, 0, 0))
        dbrx_shape(&mods, tokens, reps);
    modules_free(&mods);
    free(dir);
    return 0;
}
