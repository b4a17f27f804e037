/* repl/compare.c -- /compare, and what it shares with "dbrx compare": texts, the run, the checks.
 * The figures are divergence's, the evaluating is comparison's, how it looks is compare_show's; the
 * conversation and its backend are not touched. */
#define _GNU_SOURCE
#include "repl/compare.h"

#include "repl/commands.h"
#include "repl/contender.h"
#include "repl/handlers.h"
#include "repl/paths.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- texts ---- */

int compare_add(struct compare_texts *t, const char *id, const int32_t *ids, size_t n, uint32_t window,
                uint64_t limit)
{
    while (n && !(limit && t->tokens >= limit)) {
        uint32_t some = n < window ? (uint32_t)n : window;
        if (limit && some > limit - t->tokens)
            some = (uint32_t)(limit - t->tokens);
        struct compare_text *more = realloc(t->list, (t->n + 1) * sizeof *more);
        if (!more)
            return -1;
        t->list = more;
        struct compare_text *text = &more[t->n];
        *text = (struct compare_text){ id ? strdup(id) : NULL, malloc(some * sizeof *text->token), some };
        if (!text->token || (id && !text->id)) {
            free(text->token);
            free(text->id);
            return -1;
        }
        memcpy(text->token, ids, some * sizeof *ids);
        t->n++;
        t->tokens += some;
        t->longest = some > t->longest ? some : t->longest;
        ids += some;
        n -= some;
    }
    return 0;
}

void compare_texts_free(struct compare_texts *t)
{
    for (size_t i = 0; i < t->n; i++) {
        free(t->list[i].id);
        free(t->list[i].token);
    }
    free(t->list);
    *t = (struct compare_texts){ 0 };
}

int compare_add_file(struct shell *sh, struct compare_texts *t, const char *name, uint64_t limit)
{
    struct tok_ids ids = { 0 };
    size_t len = 0;
    if (!sh->tok)
        return render_error(&sh->out, "a text needs a tokenizer: %s", sh->tok_why);
    char *text = !strcmp(name, "-") ? read_whole(sh, stdin, name, &len) : read_named(sh, name, &len);
    int failed = !text;
    if (text && (tok_encode(sh->tok, text, len, TOK_PLAIN, &ids) ||
                 compare_add(t, NULL, ids.id, ids.n, disp_max_pos(sh->disp), limit)))
        failed = render_error(&sh->out, "out of memory");
    else if (text && !ids.n)
        failed = render_error(&sh->out, "%s holds no text to compare on", name);
    free(ids.id);
    free(text);
    return failed;
}

/* ---- running ---- */

const char *compare_failed(const struct compare_ask *ask, const struct divergence *d)
{
    int kl = d->bad || (d->rows && d->kl_sum / (double)d->rows > ask->max_kl);
    int top1 = (double)d->top1 < ask->min_top1 * (double)(d->rows + d->bad);
    kl = kl && !isnan(ask->max_kl);
    top1 = top1 && !isnan(ask->min_top1);
    return kl && top1 ? "max-kl, min-top1" : kl ? "max-kl" : top1 ? "min-top1" : NULL;
}

int compare_run(struct shell *sh, struct engine *a, struct engine *b, const struct compare_ask *ask,
                void (*each)(struct shell *, const struct compare_ask *, size_t, const struct divergence *),
                struct compare_result *r)
{
    struct dbrx_error err = { 0 };
    const struct compare_texts *t = &ask->texts;
    *r = (struct compare_result){ .c = { .side = { a, b }, .config = &sh->ckpt->desc.config, .host = &sh->host,
                                         .steer = disp_steered(sh->disp), .step = ask->step } };
    snprintf(r->label[0], sizeof r->label[0], "%s", a->label);
    snprintf(r->label[1], sizeof r->label[1], "%s", b->label);
    dbrx_status st = comparison_open(&r->c, ask->top, &err);
    render_busy_with(&sh->out, "comparing");
    for (size_t i = 0; i < t->n && st == DBRX_OK; i++) {
        st = comparison_text(&r->c, t->list[i].token, t->list[i].n, t->tokens, &err);
        if (st == DBRX_OK && each)
            each(sh, ask, i, r->c.d);
    }
    render_busy(&sh->out, 0);
    r->stopped = st == DBRX_STOPPED;
    if (r->stopped && !r->c.tokens)
        return render_error(&sh->out, "interrupted before anything was compared");
    if (st < 0)
        return render_error(&sh->out, "%s", err.text);
    return div_end(r->c.d) ? render_error(&sh->out, "out of memory") : 0;
}

void compare_free(struct compare_result *r)
{
    comparison_close(&r->c);
}

/* ---- /compare all ---- */

/* One pair into a row; 0, 1 interrupted, -1 could not be and said why within the row */
static int compare_pair(struct shell *sh, const struct contender *a, const struct contender *b,
                        const struct compare_ask *ask, cJSON *row)
{
    struct engine ea = { 0 }, eb = { 0 };
    struct dbrx_error err = { 0 };
    struct compare_result r = { 0 };
    char why[sizeof err.text] = "";
    int result = -1;
    dbrx_status st = contender_open(sh, a, ask->texts.longest, 0, &ea, &err);
    if (st == DBRX_OK)
        st = contender_open(sh, b, ask->texts.longest, 0, &eb, &err);
    if (st == DBRX_OK) {
        sh->out.quiet = why;
        sh->out.quiet_size = sizeof why;
        result = compare_run(sh, &ea, &eb, ask, NULL, &r);
        sh->out.quiet = NULL;
    }
    if (!result && !r.stopped) {
        compare_figures(row, ask, &r);
    } else {
        field_string(row, "a", contender_name(sh, a));
        field_string(row, "b", b->name);
        field_string(row, "reason", st != DBRX_OK ? err.text : why);
    }
    result = r.stopped || st == DBRX_STOPPED ? 1 : result;
    compare_free(&r);
    engine_close(&eb);
    engine_close(&ea);
    return result;
}

static int compare_all(struct shell *sh, const struct compare_ask *ask)
{
    struct contender who[MAX_CONTENDERS];
    const char *name[MAX_CONTENDERS];
    size_t n = contender_all(sh, who);
    int stopped = 0, failed = 0;
    for (size_t i = 0; i < n; i++)
        name[i] = contender_name(sh, &who[i]);
    if (n < 2)
        return render_error(&sh->out, "%s is the only backend that can run here; /backend lists them all", name[0]);
    cJSON *list = cJSON_CreateArray();
    for (size_t i = 0; i < n && !stopped; i++)
        for (size_t j = i + 1; j < n && !stopped; j++) {
            cJSON *row = cJSON_CreateObject();
            cJSON_AddItemToArray(list, row);
            int result = compare_pair(sh, &who[i], &who[j], ask, row);
            stopped = result > 0;
            failed |= result < 0;
        }
    if (stopped) {
        cJSON_Delete(list);
        return render_error(&sh->out, "interrupted; nothing is shown");
    }
    compare_show_pairs(sh, ask, name, n, list);
    return failed ? render_error(&sh->out, "not every pair could be compared; the last column says why") : 0;
}

/* ---- the command ---- */

enum { BACKEND, OPTIONS, TOKENS, AGAINST, STEP, TOP, TOLERANCE, LIST };

static int read_ask(struct shell *sh, const struct args *a, struct compare_ask *ask)
{
    const struct sess *s = sh->sess;
    uint32_t limit = 0;
    ask->top = COMPARE_TOP;
    ask->list = COMPARE_LIST;
    if (args_count(sh, a, TOKENS, 1, INT32_MAX, &limit) || args_count(sh, a, STEP, 1, INT32_MAX, &ask->step) ||
        args_count(sh, a, TOP, 1, 64, &ask->top) || args_count(sh, a, LIST, 0, DIV_KEEP, &ask->list))
        return -1;
    ask->tolerance = a->text[TOLERANCE] ? a->real[TOLERANCE] : COMPARE_TOLERANCE;
    ask->max_kl = ask->min_top1 = NAN;
    if (ask->tolerance < 0)
        return render_error(&sh->out, "a tolerance is 0 or more, not %g", ask->tolerance);
    if (a->text[AGAINST]) {
        ask->source = a->text[AGAINST];
        return compare_add_file(sh, &ask->texts, ask->source, limit);
    }
    ask->source = "the conversation";
    if (!s->n)
        return render_error(&sh->out, "there are no tokens to compare on: type a prompt, /feed some ids, or name a "
                            "text with --against FILE");
    return compare_add(&ask->texts, NULL, s->token, s->n, s->n, limit) ? render_error(&sh->out, "out of memory") : 0;
}

static int compare_two(struct shell *sh, const struct args *a, const struct compare_ask *ask)
{
    struct engine ea = { 0 }, eb = { 0 };
    struct dbrx_error err = { 0 };
    struct compare_result r = { 0 };
    struct contender other;
    if (contender_typed(sh, a->text[BACKEND], a->list, &other))
        return -1;
    render_busy(&sh->out, 1);
    dbrx_status st = contender_open(sh, &other, ask->texts.longest, 0, &eb, &err);
    if (st == DBRX_OK)
        st = disp_scratch(sh->disp, ask->texts.longest, &ea, &err);
    render_busy(&sh->out, 0);
    int failed = st != DBRX_OK ? shell_failed(sh, st, &err) : compare_run(sh, &ea, &eb, ask, NULL, &r);
    if (!failed) {
        compare_show(sh, ask, &r);
        if (r.stopped)
            failed = render_error(&sh->out, "interrupted: those are the figures of %llu of %llu tokens",
                                  (unsigned long long)r.c.tokens, (unsigned long long)ask->texts.tokens);
    }
    compare_free(&r);
    engine_close(&eb);
    engine_close(&ea);
    return failed;
}

int handle_compare(struct shell *sh, const struct args *a)
{
    struct compare_ask ask = { 0 };
    int all = !strcmp(a->text[BACKEND], "all"), failed = -1;
    if (!disp_name(sh->disp))
        return render_error(&sh->out, "no backend is open; /backend NAME opens one");
    if (all && a->list[0])
        return render_error(&sh->out, "options belong to one backend; /compare all takes none");
    if (!read_ask(sh, a, &ask))
        failed = all ? compare_all(sh, &ask) : compare_two(sh, a, &ask);
    compare_texts_free(&ask.texts);
    return failed;
}
