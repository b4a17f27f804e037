/* bench/backends.c -- "dbrx bench" for modules by path: what a change of a backend did, before and
 * after, or one that is not where modules are found.
 *
 *   make bench/backends && bench/backends [-p PROMPT] [-g GEN] [-r REPS] CHECKPOINT MODULE.so...
 *
 * Samples are interleaved and medians reported (repl/measure.h); the first module is what the
 * others are compared to. */
#include "backends/model/checkpoint.h"
#include "repl/measure.h"
#include "tests/quiet_host.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { MAX_MODULES = 8 };

static const struct dbrx_host host = QUIET_HOST(host_never);

static _Noreturn void die(const char *what)
{
    fprintf(stderr, "bench/backends: %s\n", what);
    exit(1);
}

int main(int argc, char **argv)
{
    static const char usage[] = "usage: bench/backends [-p PROMPT] [-g GEN] [-r REPS] CHECKPOINT MODULE.so...";
    uint32_t prompt = 256, gen = 64, reps = 7;
    int opt;
    while ((opt = getopt(argc, argv, "p:g:r:")) != -1) {
        long v = optarg ? atol(optarg) : 0;
        if (opt == '?' || v < 1 || v > (opt == 'r' ? MEASURE_MAX_REPS : INT32_MAX / 2))
            die(usage);
        *(opt == 'p' ? &prompt : opt == 'g' ? &gen : &reps) = (uint32_t)v;
    }
    if (argc - optind < 2 || argc - optind - 1 > MAX_MODULES)
        die(usage);

    struct dbrx_error err;
    struct ckpt *ck;
    if (ckpt_open(argv[optind], &ck, &err) != DBRX_OK)
        die(err.text);
    static struct module module[MAX_MODULES];
    static struct engine engine[MAX_MODULES];
    static struct measured m[MAX_MODULES];
    struct measurement b = { .desc = &ck->desc, .host = &host, .machine = machine_new(), .prompt = prompt, .gen = gen,
                             .reps = reps, .m = m };
    for (int i = optind + 1; i < argc; i++, b.n_m++) {
        module[b.n_m].path = argv[i];
        if (module_open(argv[i], &module[b.n_m].info, &err) != DBRX_OK)
            die(err.text);
        if (!engine_backend(&module[b.n_m]))
            die("that module is no backend");
        if (engine_open(&engine[b.n_m], &module[b.n_m], &host, &ck->desc, NULL, prompt + gen, &err) != DBRX_OK)
            die(err.text);
        m[b.n_m].engine = &engine[b.n_m];
    }
    if (!b.machine)
        die("out of memory");
    if (measurement_run(&b, &err) != DBRX_OK)
        die(err.text);

    printf("%s: prompt %u, generation %u, median of %u interleaved runs\n", argv[optind], prompt, gen, reps);
    printf("%14s %6s %14s %6s %24s  %s\n", "prompt tok/s", "ratio", "gen tok/s", "ratio", "weights / read bandwidth",
           "module");
    double first[2] = { 0, 0 };
    for (size_t i = 0; i < b.n_m; i++) {
        double p = spread_of(m[i].sample[MEASURE_PROMPT], reps).median, g = spread_of(m[i].sample[MEASURE_GEN], reps).median;
        if (!i)
            first[0] = p, first[1] = g;
        printf("%14.1f %6.2f %14.1f %6.2f %23.0f%%  %s\n", p, p / first[0], g, g / first[1],
               100 * spread_of(m[i].sample[MEASURE_MOVED_SHARE], reps).median, module[i].path);
        engine_close(&engine[i]);
    }
    measurement_free(&b);
    machine_free(b.machine);
    ckpt_close(ck);
    return 0;
}
