/* bench/recording.c -- what recording the routes costs while tokens are generated: one token at
 * a time (a) not recorded, (b) into the trace, (c) into the trace and with all instruments
 * looking on.  In turns, a round each; the ratio to (a) is that of each round, and its median comes
 * with the 95% interval that order statistics give.  One thread and its CPU time, so that whatever
 * else runs on the machine plays a small part only.
 *
 *     make bench/recording modules/.stamp && bench/recording [DIR [ROUNDS [BACKEND]]] */
#define _GNU_SOURCE
#include "repl/instruments.h"
#include "repl/shell.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

enum { PROMPT = 16, TOKENS = 16, BARE = 0, TRACED, WATCHED, N_WAYS };

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static int compare(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static _Noreturn void die(const char *what)
{
    fprintf(stderr, "recording: %s\n", what);
    exit(1);
}

/* Seconds a token, after a prompt that is not timed.  Every round has words of its own, so that
 * instruments count them all. */
static double one(struct shell *sh, int way, const int32_t *id)
{
    struct sess *s = sh->sess;
    struct dbrx_error err = { 0 };
    void (*synced)(void *) = s->synced;
    int want = s->want_prob;
    dbrx_status st = DBRX_OK;
    if (way != WATCHED) {
        s->synced = NULL;
        s->want_prob = 0;
    }
    sess_truncate(s, 0);
    if (sess_sync(s, &err) != DBRX_OK || sess_append(s, id, PROMPT, &err) != DBRX_OK || sess_sync(s, &err) != DBRX_OK)
        die(err.text);
    double t0 = now();
    for (int i = PROMPT; i < PROMPT + TOKENS && st == DBRX_OK; i++) {
        struct dbrx_batch b = { .struct_size = sizeof b, .n_tokens = 1, .token = &id[i], .want_logits = DBRX_LOGITS_LAST,
                                .logits = s->logits, .logits_len = s->n_vocab };
        if (way == BARE)
            st = disp_eval(sh->disp, &b, &err);
        else if ((st = sess_append(s, &id[i], 1, &err)) == DBRX_OK)
            st = sess_sync(s, &err);
    }
    double t = (now() - t0) / TOKENS;
    s->synced = synced;
    s->want_prob = want;
    if (st != DBRX_OK)
        die(err.text);
    return t;
}

int main(int argc, char **argv)
{
    static struct shell sh;
    int rounds = argc > 2 ? atoi(argv[2]) : 41;
    struct shell_options o = { .model = argc > 1 ? argv[1] : "models/nano", .backend = argc > 3 ? argv[3] : NULL,
                               .module_path = realpath("modules", NULL) };
    double *t = calloc((size_t)N_WAYS * (size_t)(rounds > 0 ? rounds : 1), sizeof *t);
    double *ratio = calloc((size_t)N_WAYS * (size_t)(rounds > 0 ? rounds : 1), sizeof *ratio);
    if (rounds < 1 || !t || !ratio || vars_init(&sh.vars))
        die("usage: recording [DIR [ROUNDS [BACKEND]]]");
    char why[256];
    if (vars_set(&sh.vars, VAR_THREADS, "1", FROM_COMMAND_LINE, why, sizeof why))
        die(why);
    render_init(&sh.out, 0);
    if (shell_open(&sh, &o))
        return 1;
    uint32_t x = 1, vocab = sh.ckpt->desc.config.n_vocab;
    if (disp_max_pos(sh.disp) < PROMPT + TOKENS)
        die("the context is too short");
    for (int r = -1; r < rounds; r++)      /* one round to warm up */
        for (int k = 0; k < N_WAYS; k++) {
            int way = (k + r + 1) % N_WAYS;
            int32_t id[PROMPT + TOKENS];
            for (int i = 0; i < PROMPT + TOKENS; i++)
                id[i] = (int32_t)((x = x * 1664525u + 1013904223u) >> 8) % (int32_t)vocab;
            double took = one(&sh, way, id);
            if (r >= 0)
                t[way * rounds + r] = took;
        }
    static const char *const name[N_WAYS] = { "not recorded", "into the trace", "and instruments" };
    printf("%s on %s, %d rounds of %d tokens\n", sh.name, disp_name(sh.disp), rounds, TOKENS);
    int off = (int)(0.98 * sqrt(rounds)) + 1, lo = rounds / 2 - off, hi = rounds / 2 + off;
    for (int w = 1; w < N_WAYS; w++)
        for (int r = 0; r < rounds; r++)
            ratio[w * rounds + r] = t[w * rounds + r] / t[r];
    for (int w = 0; w < N_WAYS; w++) {
        double *v = t + w * rounds, *q = ratio + w * rounds;
        qsort(v, (size_t)rounds, sizeof *v, compare);
        qsort(q, (size_t)rounds, sizeof *q, compare);
        printf("%-16s %9.1f us a token (quartiles %.1f to %.1f)", name[w], 1e6 * v[rounds / 2], 1e6 * v[rounds / 4],
               1e6 * v[3 * rounds / 4]);
        if (w)
            printf("  %.4f times (%.4f to %.4f)", q[rounds / 2], q[lo > 0 ? lo : 0], q[hi < rounds ? hi : rounds - 1]);
        putchar('\n');
    }
    free(ratio);
    shell_close(&sh);
    free(t);
    return 0;
}
