/* bench/sampler.c -- what one draw costs at DBRX's vocabulary, beside one pass over the
 * logits.  make bench/sampler && bench/sampler [N_VOCAB] */
#include "repl/sampler.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

enum { ROUNDS = 201, N_LOGITS = 8, N_HISTORY = 2000 };

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec * 1e6 + 1e-3 * (double)t.tv_nsec;
}

static int compare(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double median(double *us)
{
    qsort(us, ROUNDS, sizeof *us, compare);
    return us[ROUNDS / 2];
}

static double uniform(uint64_t *x)
{
    *x = *x * 6364136223846793005u + 1442695040888963407u;
    return ((double)(*x >> 11) + 0.5) * 0x1p-53;
}

int main(int argc, char **argv)
{
    uint32_t n = argc > 1 ? (uint32_t)strtoul(argv[1], NULL, 10) : 100352;
    float *logits = malloc((size_t)N_LOGITS * n * sizeof *logits);
    struct sampler *s = sampler_new(n, NULL);
    static int32_t token[N_HISTORY];
    static double us[ROUNDS];
    uint64_t x = 1;
    if (!n || !logits || !s)
        return fprintf(stderr, "sampler: out of memory\n"), 1;
    for (size_t i = 0; i < (size_t)N_LOGITS * n; i++)      /* normal, sigma 3: about a real model's */
        logits[i] = (float)(3 * sqrt(-2 * log(uniform(&x))) * cos(6.283185307179586 * uniform(&x)));
    for (int i = 0; i < N_HISTORY; i++)
        token[i] = (int32_t)(uniform(&x) * n);
    const struct sampler_history h = { token, N_HISTORY, N_HISTORY / 2 };

    volatile float keep = 0;
    for (int r = 0; r < ROUNDS; r++) {
        const float *l = logits + (size_t)(r % N_LOGITS) * n;
        double t0 = now();
        float top = l[0];
        for (uint32_t i = 1; i < n; i++)
            top = l[i] > top ? l[i] : top;
        keep = keep + top;
        us[r] = now() - t0;
    }
    double pass = median(us);
    printf("%u logits, one pass for the maximum: %.0f us\n", n, pass);

    const struct sampler_params off = sampler_plain;
    struct row { const char *name; struct sampler_params p; } row[] = {
        { "greedy", off }, { "defaults: temperature 0.8, top_k 50, top_p 0.95", off },
        { "the same, and all penalties over 2,000 tokens", off }, { "top_k 1000", off },
        { "top_p 0.95 only", off }, { "min_p 0.05 only", off }, { "typical_p 0.9 only", off },
        { "eta_cutoff 0.0003 only", off }, { "plain", off },
    };
    row[0].p.temperature = 0;
    for (int i = 1; i < 3; i++) {
        row[i].p.temperature = 0.8;
        row[i].p.top_k = 50;
        row[i].p.top_p = 0.95;
    }
    row[2].p.repetition_penalty = 1.1;
    row[2].p.frequency_penalty = row[2].p.presence_penalty = 0.1;
    row[2].p.no_repeat_ngram_size = 3;
    row[3].p.top_k = 1000;
    row[4].p.top_p = 0.95;
    row[5].p.min_p = 0.05;
    row[6].p.typical_p = 0.9;
    row[7].p.eta_cutoff = 0.0003;
    for (size_t k = 0; k < sizeof row / sizeof *row; k++) {
        for (int r = 0; r < ROUNDS; r++) {
            double t0 = now();
            keep = keep + (float)sampler_draw(s, &row[k].p, &h, logits + (size_t)(r % N_LOGITS) * n);
            us[r] = now() - t0;
        }
        double m = median(us);
        printf("%-50s %6.0f us  %5.1f passes\n", row[k].name, m, m / pass);
    }
    sampler_free(s);
    free(logits);
    return 0;
}
