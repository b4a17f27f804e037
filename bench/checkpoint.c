/* bench/checkpoint.c -- how long does opening the published DBRX take?
 *
 * Writes its layout (61 shards, 264 GB) as sparse files into $TMPDIR or /tmp,
 * opens it some times and prints the median.  Holes have no disk behind them:
 * this is the cost of the reader with the headers in the page cache.
 *
 *   make bench/checkpoint && bench/checkpoint [RUNS]     (srcdir: the source tree, when
 *   the build is not in the source or directly below it) */
#define _GNU_SOURCE
#include "backends/model/checkpoint.h"
#include "tests/unit/model_files.h"

#include <time.h>

static double now_ms(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return 1e3 * (double)t.tv_sec + 1e-6 * (double)t.tv_nsec;
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

int main(int argc, char **argv)
{
    enum { MAX = 1000 };
    static double ms[MAX];
    int runs = argc > 1 ? atoi(argv[1]) : 21, rc = 1;
    if (argc > 2 || runs < 1 || runs > MAX) {
        fprintf(stderr, "usage: %s [RUNS]   (1 to %d, default 21)\n", argv[0], MAX);
        return 2;
    }
    char *dir = mf_tmpdir();
    if (!dir || mf_write_dbrx(dir) < 0) {
        fprintf(stderr, "cannot write sparse files in %s; set TMPDIR, and srcdir to the source "
                "tree\n", dir ? dir : "/tmp");
        goto out;
    }
    for (int i = 0; i < runs; i++) {
        struct ckpt *c;
        struct dbrx_error err;
        double t = now_ms();
        if (ckpt_open(dir, &c, &err) != DBRX_OK) {
            fprintf(stderr, "%s\n", err.text);
            goto out;
        }
        ms[i] = now_ms() - t;
        if (i == 0)
            printf("%u shards, %u tensors, %.1f GB\n", c->n_shards, c->n_tensors,
                   (double)c->file_bytes / 1e9);
        ckpt_close(c);
    }
    printf("first open %.2f ms\n", ms[0]);
    qsort(ms, (size_t)runs, sizeof *ms, by_value);
    printf("open, median of %d: %.2f ms (%.2f to %.2f)\n", runs, ms[runs / 2], ms[0],
           ms[runs - 1]);
    rc = 0;
out:
    if (dir)
        mf_remove(dir);
    free(dir);
    return rc;
}
