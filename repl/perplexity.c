/* repl/perplexity.c -- "dbrx perplexity FILE": how well a model predicts a text, as llama.cpp
 * counts it, and how far it is from another backend or checkpoint on the same windows.
 *
 * Without --stride the text is cut into windows of N tokens and the second half of each is
 * scored; with it a window begins every S tokens and its last S are.  Every window begins on an
 * empty session: what is scored has at least N/2, or N - S, tokens before it. */
#define _GNU_SOURCE
#include "repl/tools.h"

#include "plugins/fail.h"
#include "repl/divergence.h"
#include "repl/mapped.h"
#include "repl/plain.h"
#include "repl/signals.h"

#include <errno.h>
#include <getopt.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { WINDOW = 512, STRIDE, WINDOWS, BACKEND, AGAINST, REFERENCE, DEFAULT_WINDOW = 512 };
const struct option_row perplexity_options[] = {
    { "backend", 'b', "NAME", "backend to compute on (default: the best here)" },
    { "window", WINDOW, "N", "tokens of a window (512, or the model's context)" },
    { "stride", STRIDE, "S", "a window every S tokens, its last S scored" },
    { "windows", WINDOWS, "N", "stop after N windows (default: all)" },
    { "against", AGAINST, "NAME[:K=V]", "KL against this backend on the same weights" },
    { "reference", REFERENCE, "DIR", "KL against this other checkpoint" },
    TOOL_OPTIONS,
    { NULL, 0, NULL, NULL },
};

struct perplexity {
    struct tool t;
    const char *file, *reference, *backend, *against;
    uint32_t window, stride, windows;
    struct tok_ids ids;
    struct engine ours, theirs;            /* theirs: the reference, when there is one   */
    struct ckpt *other;
    float *logits[2];                      /* [piece][n_vocab]: ours, theirs            */
    uint32_t piece;
    struct divergence *d;                  /* a is the reference, b is ours             */
    double nll, nll2;
    uint64_t scored, done;                 /* tokens; windows                           */
};
static struct perplexity tool;

static int take(void *ctx, int letter, const char *arg)
{
    struct perplexity *p = ctx;
    switch (letter) {
    case 'b': p->backend = arg; return 0;
    case WINDOW: return option_count("window", arg, 4, UINT32_MAX, &p->window);
    case STRIDE: return option_count("stride", arg, 1, UINT32_MAX, &p->stride);
    case WINDOWS: return option_count("windows", arg, 1, UINT32_MAX, &p->windows);
    case AGAINST: p->against = arg; return 0;
    case REFERENCE: p->reference = arg; return 0;
    default: return tool_option(&p->t, letter, arg);
    }
}

/* -ln p of `next` */
static double surprise(const float *logit, uint32_t n, int32_t next)
{
    double top = logit[0], sum = 0;
    for (uint32_t i = 1; i < n; i++)
        top = logit[i] > top ? logit[i] : top;
    for (uint32_t i = 0; i < n; i++)
        sum += exp(logit[i] - top);
    return log(sum) + top - logit[next];
}

static dbrx_status eval(struct engine *e, const int32_t *token, uint32_t n, float *logits, size_t len,
                        struct dbrx_error *err)
{
    struct dbrx_batch b = { .struct_size = sizeof b, .n_tokens = n, .token = token, .logits = logits,
                            .logits_len = len, .want_logits = logits ? DBRX_LOGITS_ALL : DBRX_LOGITS_NONE };
    return engine_eval(e, &b, err);
}

/* The window at token[n]: logits of positions first .. n - 2 predict first + 1 .. n - 1 */
static dbrx_status score(struct perplexity *p, const int32_t *token, uint32_t n, uint32_t first, struct dbrx_error *err)
{
    const uint32_t vocab = p->t.sh.ckpt->desc.config.n_vocab;
    struct engine *side[2] = { &p->ours, p->d ? &p->theirs : NULL };
    dbrx_status st = DBRX_OK;
    for (int s = 0; s < 2 && side[s] && st == DBRX_OK; s++) {
        st = engine_truncate(side[s], 0, err);
        if (st == DBRX_OK && first)
            st = eval(side[s], token, first, NULL, 0, err);
    }
    for (uint32_t at = first, len; at + 1 < n && st == DBRX_OK; at += len) {
        len = n - 1 - at < p->piece ? n - 1 - at : p->piece;
        for (int s = 0; s < 2 && side[s] && st == DBRX_OK; s++)
            st = eval(side[s], token + at, len, p->logits[s], (size_t)len * vocab, err);
        for (uint32_t i = 0; i < len && st == DBRX_OK; i++) {
            double x = surprise(p->logits[0] + (size_t)i * vocab, vocab, token[at + i + 1]);
            p->nll += x;
            p->nll2 += x * x;
            p->scored++;
        }
        if (p->d && st == DBRX_OK)
            div_logits(p->d, (struct div_place){ (uint32_t)p->done, at }, len, p->logits[1], p->logits[0], token + at + 1);
    }
    return st;
}

/* ---- what it needs ---- */

static int read_text(struct perplexity *p)
{
    struct shell *sh = &p->t.sh;
    size_t len = 0;
    if (!sh->tok)
        return render_error(&sh->out, "a text needs a tokenizer: %s", sh->tok_why);
    char *text = !strcmp(p->file, "-") ? read_whole(sh, stdin, p->file, &len) : read_named(sh, p->file, &len);
    int failed = !text;
    if (text && tok_encode(sh->tok, text, len, TOK_PLAIN, &p->ids))
        failed = render_error(&sh->out, "out of memory");
    else if (text && p->ids.n < p->window)
        failed = render_error(&sh->out, "%s holds %zu tokens, and a window is %u: give more text, or a smaller --window",
                              p->file, p->ids.n, p->window);
    free(text);
    return failed;
}

/* The other checkpoint on the backend that is in use, or the one named */
static dbrx_status open_other(struct perplexity *p, const struct contender *who, struct dbrx_error *err)
{
    struct shell *sh = &p->t.sh;
    const char *name = who->name ? who->name : disp_name(sh->disp);
    dbrx_status st = ckpt_open(p->reference, &p->other, err);
    if (st == DBRX_OK && mapped_watch(p->other))
        st = fail(err, DBRX_E_NOMEM, "out of memory");
    if (st != DBRX_OK)
        return st;
    if (p->other->desc.config.n_vocab != sh->ckpt->desc.config.n_vocab) {
        snprintf(err->text, sizeof err->text, "%.80s has a vocabulary of %u, this model one of %u: they cannot be "
                 "compared", p->reference, p->other->desc.config.n_vocab, sh->ckpt->desc.config.n_vocab);
        return DBRX_E_INVALID;
    }
    const struct module *m;
    for (size_t i = 0; (m = disp_module(sh->disp, i)); i++)
        if (m->info && !strcmp(m->info->name, name))
            return engine_open(&p->theirs, m, &sh->host, &p->other->desc, who->opt, p->window, err);
    snprintf(err->text, sizeof err->text, "there is no backend \"%.60s\"", name);
    return DBRX_E_UNSUPPORTED;
}

static int prepare(struct perplexity *p)
{
    struct shell *sh = &p->t.sh;
    const struct dbrx_config *c = &sh->ckpt->desc.config;
    struct dbrx_error err = { .code = 0 };
    struct contender who = { .name = NULL };
    uint32_t room = disp_max_pos(sh->disp);
    if (!p->window)
        p->window = room < DEFAULT_WINDOW ? room : DEFAULT_WINDOW;
    if (p->window > room)
        return render_error(&sh->out, "--window %u is more than the context of %u tokens: see --ctx", p->window, room),
               EXIT_USAGE;
    if (p->stride >= p->window)
        return render_error(&sh->out, "--stride %u leaves nothing before what is scored: it must be below --window %u",
                            p->stride, p->window), EXIT_USAGE;
    if (p->against && contender_parse((char *)p->against, &who)) {
        render_error(&sh->out, "a backend is written NAME or NAME:K=V,K=V");
        return EXIT_USAGE;
    }
    if (read_text(p))
        return EXIT_USAGE;
    p->piece = (uint32_t)((64u << 20) / 4 / c->n_vocab);
    p->piece = p->piece < 1 ? 1 : p->piece > p->window ? p->window : p->piece;
    dbrx_status st = disp_scratch(sh->disp, p->window, &p->ours, &err);
    if (st == DBRX_OK && p->reference)
        st = open_other(p, &who, &err);
    else if (st == DBRX_OK && p->against)
        st = contender_open(sh, &who, p->window, 0, &p->theirs, &err);
    if (st != DBRX_OK) {
        shell_failed(sh, st, &err);
        return EXIT_NO_BACKEND;
    }
    for (int s = 0; s < 1 + !!p->theirs.session; s++)
        p->logits[s] = malloc((size_t)p->piece * c->n_vocab * sizeof(float));
    if (p->theirs.session)
        p->d = div_new(c, 5);
    if (!p->logits[0] || (p->theirs.session && (!p->logits[1] || !p->d))) {
        render_error(&sh->out, "out of memory");
        return EXIT_INTERNAL;
    }
    return 0;
}

/* ---- the figures ---- */

static char *show_error(const struct render *out, const cJSON *row)
{
    const cJSON *e = cJSON_GetObjectItemCaseSensitive(row, "error");
    char *text = NULL;
    (void)out;
    return e && asprintf(&text, "+/- %.5f", e->valuedouble) < 0 ? NULL : text ? text : strdup("");
}

static char *show_value(const struct render *out, const cJSON *row)
{
    double x = cJSON_GetNumberValue(cJSON_GetObjectItemCaseSensitive(row, "value"));
    char *text = NULL;
    (void)out;
    return asprintf(&text, fabs(x) >= 0.001 || x == 0 ? "%.5f" : "%.2e", x) < 0 ? NULL : text;
}

static void add(cJSON *list, const char *name, double value, double error)
{
    cJSON *o = cJSON_CreateObject();
    cJSON_AddStringToObject(o, "name", name);
    field_real(o, "value", value);
    if (error >= 0)
        field_real(o, "error", error);
    cJSON_AddItemToArray(list, o);
}

static void show(struct perplexity *p)
{
    static const struct column columns[] = { { "name", "figure", 0, 0, NULL }, { "value", "value", 1, 5, show_value },
                                             { "error", "", 0, 0, show_error }, { NULL, NULL, 0, 0, NULL } };
    static const struct rows rows = { .type = "rows", .of = "perplexity", .key = "rows", .col = columns };
    cJSON *list = cJSON_CreateArray(), *head = cJSON_CreateObject();
    double n = (double)p->scored, mean = p->nll / n, var = p->nll2 / n - mean * mean;
    cJSON_AddStringToObject(head, "path", p->file);
    cJSON_AddNumberToObject(head, "tokens", (double)p->ids.n);
    cJSON_AddNumberToObject(head, "scored", n);
    cJSON_AddNumberToObject(head, "windows", (double)p->done);
    cJSON_AddNumberToObject(head, "window", p->window);
    cJSON_AddStringToObject(head, "backend", disp_label(p->t.sh.disp));
    add(list, "perplexity", exp(mean), n > 1 && var > 0 ? sqrt(var / (n - 1)) * exp(mean) : 0);
    add(list, "bits per token", mean / log(2), -1);
    if (p->d && !div_end(p->d)) {
        double error, gap = div_nll_gap(p->d, &error);
        add(list, "reference perplexity", div_perplexity(p->d, 0), -1);
        add(list, "perplexity / reference", exp(gap), error * exp(gap));
        add(list, "KL mean", p->d->kl_sum / (double)p->d->rows, -1);
        add(list, "KL median", div_kl(p->d, 0.5), -1);
        add(list, "KL 99%", div_kl(p->d, 0.99), -1);
        add(list, "KL worst", p->d->kl_max, -1);
        add(list, "same likeliest token, %", 100 * (double)p->d->top1 / (double)(p->d->rows + p->d->bad), -1);
    }
    render_rows(&p->t.sh.out, &rows, NULL, head, list);
    if (!p->t.sh.out.json)
        render_event(&p->t.sh.out, "status", NULL, "%llu tokens of %llu windows scored", (unsigned long long)p->scored,
                     (unsigned long long)p->done);
}

static int run(struct perplexity *p)
{
    struct shell *sh = &p->t.sh;
    struct dbrx_error err = { .code = 0 };
    dbrx_status st = DBRX_OK;
    uint32_t step = p->stride ? p->stride : p->window, first = p->stride ? p->window - p->stride - 1 : p->window / 2;
    uint64_t n = (p->ids.n - p->window) / step + 1;
    n = p->windows && p->windows < n ? p->windows : n;
    for (uint64_t i = 0; i < n && st == DBRX_OK; i++) {
        st = signals_stop() ? DBRX_STOPPED : score(p, p->ids.id + i * step, p->window, first, &err);
        p->done += st == DBRX_OK;
        render_bar(&sh->out, (unsigned long)i + 1, (unsigned long)n, 0);
    }
    render_bar(&sh->out, 0, 0, 0);
    if (st < 0)
        return shell_failed(sh, st, &err), EXIT_INTERNAL;
    if (p->scored)
        show(p);
    if (st == DBRX_STOPPED)
        return render_error(&sh->out, "interrupted after %llu of %llu windows", (unsigned long long)p->done,
                            (unsigned long long)n), EXIT_INTERNAL;
    return 0;
}

int tool_perplexity(int argc, char **argv)
{
    struct perplexity *p = &tool;
    struct contender who = { .name = NULL };
    *p = (struct perplexity){ .t.row = NULL };
    int code = tool_begin(&p->t, argv[0]);
    if (!code)
        code = options_parse(argv[0], perplexity_options, argc, argv, take, p);
    if (!code && argc - optind != 1) {
        plain_error("perplexity wants a text\nusage: dbrx perplexity %s", p->t.row->usage);
        code = EXIT_USAGE;
    }
    if (!code && p->backend && contender_parse((char *)p->backend, &who)) {
        plain_error("a backend is written NAME or NAME:K=V,K=V");
        code = EXIT_USAGE;
    }
    if (code)
        return tool_end(&p->t, code);
    p->file = argv[optind];
    code = tool_open(&p->t, p->backend ? &who : NULL);
    if (!code)
        code = prepare(p);
    if (!code)
        code = run(p);
    engine_close(&p->theirs);
    engine_close(&p->ours);
    mapped_unwatch(p->other);
    ckpt_close(p->other);
    div_free(p->d);
    free(p->logits[0]);
    free(p->logits[1]);
    free(p->ids.id);
    return tool_end(&p->t, code);
}
