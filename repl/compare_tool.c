/* repl/compare_tool.c -- "dbrx compare A B": two backends on a file of prompts or a text, for
 * scripts: exit code 3 when they lie further apart than asked for. */
#define _GNU_SOURCE
#include "repl/tools.h"

#include "repl/compare.h"
#include "repl/plain.h"
#include "repl/prompts.h"
#include "repl/signals.h"
#include "repl/words.h"

#include <errno.h>
#include <getopt.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { AGAINST = 512, TOKENS, STEP, TOP, TOLERANCE, LIST, MAX_KL, MIN_TOP1 };
const struct option_row compare_options[] = {
    { "prompts", OPT_PROMPTS, "FILE", "JSON Lines with \"prompt\", \"messages\" or \"tokens\"" },
    { "against", AGAINST, "FILE", "a text instead (- is stdin)" },
    { "tokens", TOKENS, "N", "compare on the first N tokens (default: all)" },
    { "step", STEP, "N", "tokens an evaluation (default: as many as fit)" },
    { "top", TOP, "K", "likeliest tokens whose overlap is counted (5)" },
    { "tolerance", TOLERANCE, "X", "relative error from which a layer is off (0.01)" },
    { "list", LIST, "N", "rows of flips and changes as text (10)" },
    { "max-kl", MAX_KL, "X", "fail (exit code 3) above this mean KL, in nats" },
    { "min-top1", MIN_TOP1, "P", "fail if fewer find the same token likeliest (0..1)" },
    TOOL_OPTIONS,
    { NULL, 0, NULL, NULL },
};

struct compare_tool {
    struct tool t;
    struct compare_ask ask;
    const char *prompts, *against;
    uint32_t limit;                        /* tokens; 0: none                           */
    double kl_sum, rows, top1, all;        /* of the texts before                       */
};
static struct compare_tool tool;

static int take(void *ctx, int letter, const char *arg)
{
    struct compare_tool *c = ctx;
    switch (letter) {
    case OPT_PROMPTS: c->prompts = arg; return 0;
    case AGAINST: c->against = arg; return 0;
    case TOKENS: return option_count("tokens", arg, 1, UINT32_MAX, &c->limit);
    case STEP: return option_count("step", arg, 1, UINT32_MAX, &c->ask.step);
    case TOP: return option_count("top", arg, 1, 64, &c->ask.top);
    case TOLERANCE: return option_real("tolerance", arg, 0, INFINITY, &c->ask.tolerance);
    case LIST: return option_count("list", arg, 0, DIV_KEEP, &c->ask.list);
    case MAX_KL: return option_real("max-kl", arg, 0, INFINITY, &c->ask.max_kl);
    case MIN_TOP1: return option_real("min-top1", arg, 0, 1, &c->ask.min_top1);
    default: return tool_option(&c->t, letter, arg);
    }
}

/* ---- the prompts ---- */

/* One line of the file; 0 or -1 after saying what is wrong */
static int add_line(struct compare_tool *c, const char *line, size_t len, unsigned long number)
{
    struct shell *sh = &c->t.sh;
    struct tok_ids ids = { 0 };
    int chat, failed = -1;
    cJSON *j = cJSON_ParseWithLength(line, len);
    char *id = !cJSON_IsObject(j) ? (render_error(&sh->out, "it is no JSON object"), NULL)
                                  : prompt_id(sh, j, number);
    if (id && !prompt_ids(sh, line, len, j, &ids, &chat))
        failed = compare_add(&c->ask.texts, id, ids.id, ids.n, disp_max_pos(sh->disp), c->limit)
               ? render_error(&sh->out, "out of memory") : 0;
    free(ids.id);
    cJSON_free(id);
    cJSON_Delete(j);
    return failed;
}

static int read_prompts(struct compare_tool *c)
{
    struct shell *sh = &c->t.sh;
    char *line = NULL;
    size_t cap = 0;
    ssize_t len;
    int failed = 0;
    FILE *f = !strcmp(c->prompts, "-") ? stdin : fopen(c->prompts, "re");
    if (!f)
        return render_error(&sh->out, "%s cannot be read: %s", c->prompts, strerror(errno));
    for (unsigned long n = 1; !failed && !signals_stop() && (len = text_line(&line, &cap, f)) >= 0; n++) {
        snprintf(sh->out.where, sizeof sh->out.where, "%.120s:%lu", c->prompts, n);
        if (line[strspn(line, " \t\r\n")])
            failed = add_line(c, line, (size_t)len, n);
        sh->out.where[0] = '\0';
    }
    if (!failed && !feof(f) && !signals_stop())
        failed = render_error(&sh->out, "%s cannot be read: %s", c->prompts, strerror(errno));
    if (!failed && !c->ask.texts.n)
        failed = render_error(&sh->out, "%s holds no prompt", c->prompts);
    if (f != stdin)
        fclose(f);
    free(line);
    return failed;
}

/* JSON: one event a text, of its own figures */
static void show_text(struct shell *sh, const struct compare_ask *ask, size_t i, const struct divergence *d)
{
    struct compare_tool *c = &tool;
    double rows = (double)d->rows - c->rows, top1 = (double)d->top1 - c->top1, max = 0;
    double all = (double)(d->rows + d->bad) - c->all;
    cJSON *o = cJSON_CreateObject();
    for (uint64_t k = (uint64_t)c->rows; k < d->rows; k++)
        max = d->kl[k] > max ? d->kl[k] : max;
    cJSON_AddNumberToObject(o, "text", (double)i + 1);
    if (ask->texts.list[i].id)
        cJSON_AddRawToObject(o, "id", ask->texts.list[i].id);
    cJSON_AddNumberToObject(o, "tokens", ask->texts.list[i].n);
    field_real(o, "kl_mean", (d->kl_sum - c->kl_sum) / rows);
    field_real(o, "kl_max", rows > 0 ? max : NAN);
    field_real(o, "top1", top1 / all);
    render_object(&sh->out, "compare_text", o);
    c->kl_sum = d->kl_sum;
    c->rows = (double)d->rows;
    c->top1 = (double)d->top1;
    c->all = (double)(d->rows + d->bad);
}

/* ---- */

static int compare(struct compare_tool *c, const struct contender *other)
{
    struct shell *sh = &c->t.sh;
    struct engine a = { 0 }, b = { 0 };
    struct dbrx_error err = { 0 };
    struct compare_result r = { 0 };
    int code = EXIT_INTERNAL;
    c->ask.source = c->prompts ? c->prompts : c->against;
    if (c->prompts ? read_prompts(c) : compare_add_file(sh, &c->ask.texts, c->against, c->limit))
        return EXIT_USAGE;
    dbrx_status st = contender_open(sh, other, c->ask.texts.longest, 0, &b, &err);
    if (st == DBRX_OK)
        st = disp_scratch(sh->disp, c->ask.texts.longest, &a, &err);
    if (st != DBRX_OK) {
        shell_failed(sh, st, &err);
        code = EXIT_NO_BACKEND;
    } else if (!compare_run(sh, &a, &b, &c->ask, sh->out.json ? show_text : NULL, &r)) {
        compare_show(sh, &c->ask, &r);
        const char *failed = compare_failed(&c->ask, r.c.d);
        if (r.stopped)
            render_error(&sh->out, "interrupted: those are the figures of %llu of %llu tokens",
                         (unsigned long long)r.c.tokens, (unsigned long long)c->ask.texts.tokens);
        else if (failed)
            render_error(&sh->out, "the check failed: %s", failed);
        code = failed ? EXIT_COMMAND : r.stopped ? EXIT_INTERNAL : 0;
    }
    compare_free(&r);
    engine_close(&b);
    engine_close(&a);
    return code;
}

int tool_compare(int argc, char **argv)
{
    struct compare_tool *c = &tool;
    struct contender who[2];
    *c = (struct compare_tool){ .t.row = NULL };
    int code = tool_begin(&c->t, argv[0]);
    c->ask.top = COMPARE_TOP;
    c->ask.list = COMPARE_LIST;
    c->ask.tolerance = COMPARE_TOLERANCE;
    c->ask.max_kl = c->ask.min_top1 = NAN;
    if (!code)
        code = options_parse(argv[0], compare_options, argc, argv, take, c);
    if (!code && (argc - optind != 2 || !c->prompts == !c->against)) {
        plain_error("compare wants two backends, and --prompts FILE or --against FILE\n"
                        "usage: dbrx compare %s", c->t.row->usage);
        code = EXIT_USAGE;
    }
    for (int i = 0; !code && i < 2; i++)
        if (contender_parse(argv[optind + i], &who[i])) {
            plain_error("a backend is written NAME or NAME:K=V,K=V");
            code = EXIT_USAGE;
        }
    if (code)
        return tool_end(&c->t, code);
    code = tool_open(&c->t, &who[0]);
    if (!code)
        code = compare(c, &who[1]);
    compare_texts_free(&c->ask.texts);
    return tool_end(&c->t, code);
}
