/* bench/backends.c -- prompt and generation speed of backends, side by side.
 *
 *   make bench/backends && bench/backends [-p PROMPT] [-g GEN] [-r REPS] CHECKPOINT MODULE.so...
 *
 * Runs are interleaved (every backend once, then again) and medians reported.  Beside
 * every run the machine's read bandwidth is probed, because generation is bounded by
 * the weights that a token moves.  The first module is what the others are compared to. */
#include "backends/model/checkpoint.h"
#include "plugins/loader.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { MAX_MODULES = 8, MAX_REPS = 101, PROBE_MB = 256 };

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static void quiet_log(const struct dbrx_host *h, int level, const char *line)
{
    (void)h, (void)level, (void)line;
}
static int never(const struct dbrx_host *h)
{
    (void)h;
    return 0;
}
static void no_progress(const struct dbrx_host *h, const char *what, uint64_t d, uint64_t t)
{
    (void)h, (void)what, (void)d, (void)t;
}
static const void *nothing(const struct dbrx_host *h, const char *id)
{
    (void)h, (void)id;
    return NULL;
}
static const struct dbrx_host host = { sizeof host, NULL, quiet_log, never, no_progress, nothing };

static void die(const char *what)
{
    fprintf(stderr, "bench/backends: %s\n", what);
    exit(1);
}

/* ---- read bandwidth, all cores -------------------------------------------- */

struct probe { const uint64_t *p; size_t n; uint64_t sum; };

static void *probe_read(void *arg)
{
    struct probe *p = arg;
    uint64_t s[8] = { 0 };
    for (size_t i = 0; i + 8 <= p->n; i += 8)
        for (int j = 0; j < 8; j++)
            s[j] += p->p[i + j];
    for (int j = 0; j < 8; j++)
        p->sum += s[j];
    return NULL;
}

static double bandwidth(void)              /* bytes a second */
{
    static uint64_t *buf;
    enum { N = PROBE_MB << 17 };
    long cores = sysconf(_SC_NPROCESSORS_ONLN);
    pthread_t thread[64];
    struct probe part[64] = { 0 };
    if (!buf) {
        buf = malloc(N * sizeof *buf);
        if (!buf)
            die("out of memory");
        memset(buf, 1, N * sizeof *buf);
    }
    if (cores > 64)
        cores = 64;
    double t0 = now();
    for (long i = 0; i < cores; i++) {
        part[i] = (struct probe){ buf + N / cores * i, (size_t)(N / cores), 0 };
        if (pthread_create(&thread[i], NULL, probe_read, &part[i]))
            die("no threads");
    }
    for (long i = 0; i < cores; i++)
        pthread_join(thread[i], NULL);
    return N * sizeof *buf / (now() - t0);
}

/* ---- one backend ----------------------------------------------------------- */

struct run {
    const struct dbrx_module_info *info;
    const struct dbrx_backend *vt;
    dbrx_model *model;
    dbrx_session *session;
    double prompt[MAX_REPS], gen[MAX_REPS], share[MAX_REPS];
};

static double eval(struct run *r, const int32_t *token, uint32_t n, float *logits, size_t len)
{
    struct dbrx_error err;
    struct dbrx_batch b = { .struct_size = sizeof b, .n_tokens = n, .token = token,
                            .want_logits = DBRX_LOGITS_LAST, .logits = logits, .logits_len = len };
    double t0 = now();
    if (r->vt->eval(r->session, &b, &err) != DBRX_OK)
        die(err.text);
    return now() - t0;
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

int main(int argc, char **argv)
{
    uint32_t prompt = 256, gen = 64;
    int reps = 7, opt, n_runs = 0;
    while ((opt = getopt(argc, argv, "p:g:r:")) != -1) {
        long v = optarg ? atol(optarg) : 0;
        if (opt == '?' || v < 1 || (opt == 'r' && v > MAX_REPS))
            die("usage: bench/backends [-p PROMPT] [-g GEN] [-r REPS] CHECKPOINT MODULE.so...");
        *(opt == 'p' ? &prompt : opt == 'g' ? &gen : (uint32_t *)&reps) = (uint32_t)v;
    }
    if (argc - optind < 2 || argc - optind - 1 > MAX_MODULES)
        die("usage: bench/backends [-p PROMPT] [-g GEN] [-r REPS] CHECKPOINT MODULE.so...");

    struct dbrx_error err;
    struct ckpt *ck;
    if (ckpt_open(argv[optind], &ck, &err) != DBRX_OK)
        die(err.text);
    const struct dbrx_config *c = &ck->desc.config;
    static struct run runs[MAX_MODULES];
    for (int i = optind + 1; i < argc; i++, n_runs++) {
        struct run *r = &runs[n_runs];
        if (module_open(argv[i], &r->info, &err) != DBRX_OK)
            die(err.text);
        r->vt = r->info->get(DBRX_BACKEND);
        if (!r->vt || r->vt->model_open(&host, &ck->desc, NULL, &r->model, &err) != DBRX_OK ||
            r->vt->session_open(r->model, prompt + gen, &r->session, &err) != DBRX_OK)
            die(r->vt ? err.text : "not a backend");
    }

    int32_t *token = malloc((prompt + gen) * sizeof *token);
    float *logits = malloc(c->n_vocab * sizeof *logits);
    if (!token || !logits)
        die("out of memory");
    for (uint32_t i = 0; i < prompt + gen; i++)
        token[i] = (int32_t)((i * 2654435761u >> 7) % c->n_vocab);
    /* what a token moves: every active weight but the embedding */
    double bytes = (double)dtype_bytes(ck->dtype, ckpt_params_active(ck) -
                                       (uint64_t)c->n_vocab * c->d_model);
    for (int rep = -1; rep < reps; rep++)  /* rep -1 warms up */
        for (int i = 0; i < n_runs; i++) {
            struct run *r = &runs[i];
            r->vt->truncate(r->session, 0, &err);
            double bw = bandwidth(), p = eval(r, token, prompt, logits, c->n_vocab), g = 0;
            for (uint32_t t = 0; t < gen; t++)
                g += eval(r, token + prompt + t, 1, logits, c->n_vocab);
            if (rep >= 0) {
                r->prompt[rep] = prompt / p;
                r->gen[rep] = gen / g;
                r->share[rep] = bytes * gen / g / bw;
            }
        }

    printf("%s: prompt %u, generation %u, median of %d interleaved runs\n", argv[optind], prompt,
           gen, reps);
    printf("%-12s %14s %6s %14s %6s %24s\n", "backend", "prompt tok/s", "ratio", "gen tok/s",
           "ratio", "weights / read bandwidth");
    double p0 = median(runs[0].prompt, reps), g0 = median(runs[0].gen, reps);
    for (int i = 0; i < n_runs; i++) {
        struct run *r = &runs[i];
        double p = median(r->prompt, reps), g = median(r->gen, reps);
        printf("%-12s %14.1f %6.1f %14.1f %6.1f %23.0f%%\n", r->info->name, p, p / p0, g, g / g0,
               100 * median(r->share, reps));
        r->vt->session_close(r->session);
        r->vt->model_close(r->model);
    }
    free(token);
    free(logits);
    ckpt_close(ck);
    return 0;
}
