/* repl/bench_tool.c -- "dbrx bench": backends measured side by side, for scripts. */
#include "repl/tools.h"

#include "repl/bench.h"
#include "repl/measure.h"
#include "repl/plain.h"

#include <getopt.h>
#include <stdio.h>
#include <string.h>

enum { PROMPT = 512, GEN, DEPTH, REPS, ALL, CSV };
const struct option_row bench_options[] = {
    { "prompt", PROMPT, "N", "tokens evaluated at once (256)" },
    { "gen", GEN, "N", "tokens evaluated one by one after it (64)" },
    { "depth", DEPTH, "N", "tokens in front of both, not timed (0)" },
    { "reps", REPS, "N", "samples of each backend, after a warm-up (5)" },
    { "all-backends", ALL, NULL, "every backend that can run here; so does the name all" },
    { "csv", CSV, NULL, "a line of comma-separated values each" },
    TOOL_OPTIONS,
    { NULL, 0, NULL, NULL },
};

struct bench_tool { struct tool t; struct bench_ask ask; int all; };
static struct bench_tool tool;

static int take(void *ctx, int letter, const char *arg)
{
    struct bench_tool *b = ctx;
    switch (letter) {
    case PROMPT: return option_count("prompt", arg, 0, INT32_MAX, &b->ask.prompt);
    case GEN: return option_count("gen", arg, 0, INT32_MAX, &b->ask.gen);
    case DEPTH: return option_count("depth", arg, 0, INT32_MAX, &b->ask.depth);
    case REPS: return option_count("reps", arg, 1, MEASURE_MAX_REPS, &b->ask.reps);
    case ALL: b->all = 1; return 0;
    case CSV: b->ask.csv = 1; return 0;
    default: return tool_option(&b->t, letter, arg);
    }
}

static int usage(const struct bench_tool *b, const char *what)
{
    plain_error("%s\nusage: dbrx bench %s", what, b->t.row->usage);
    return EXIT_USAGE;
}

int tool_bench(int argc, char **argv)
{
    struct bench_tool *b = &tool;
    *b = (struct bench_tool){ .t.row = NULL };
    int code = tool_begin(&b->t, argv[0]);
    b->ask = (struct bench_ask){ .prompt = BENCH_PROMPT, .gen = BENCH_GEN, .reps = BENCH_REPS };
    if (!code)
        code = options_parse(argv[0], bench_options, argc, argv, take, b);
    if (!code && argc - optind == 1 && !strcmp(argv[optind], "all"))
        b->all = optind++;
    if (!code && b->all && optind < argc)
        code = usage(b, "--all-backends measures all of them; name none");
    else if (!code && b->ask.csv && b->t.json)
        code = usage(b, "--csv and --json exclude each other");
    else if (!code && argc - optind > MAX_CONTENDERS)
        code = usage(b, "too many backends");
    for (int i = optind; !code && i < argc; i++)
        if (contender_parse(argv[i], &b->ask.who[b->ask.n++]))
            code = usage(b, "a backend is written NAME or NAME:K=V,K=V");
    if (code)
        return tool_end(&b->t, code);
    code = tool_open(&b->t, b->ask.n ? &b->ask.who[0] : NULL);
    if (!code && b->all)
        b->ask.n = contender_all(&b->t.sh, b->ask.who);
    else if (!code && !b->ask.n)
        b->ask.n = 1;                      /* the current one */
    if (!code && bench_run(&b->t.sh, &b->ask))
        code = EXIT_INTERNAL;
    return tool_end(&b->t, code);
}
