/* repl/lend.c -- see lend.h.  The tables of plugins/observer.h that the host fills. */
#define _GNU_SOURCE
#include "repl/lend.h"

#include "plugins/fail.h"
#include "repl/corpus.h"
#include "repl/handlers.h"
#include "repl/labels.h"
#include "repl/paths.h"
#include "repl/sets.h"
#include "repl/shell.h"
#include "repl/signals.h"

#include <stdlib.h>
#include <string.h>

static struct lender *lent(const struct dbrx_host *h)
{
    return h->ctx;
}

static void host_log(const struct dbrx_host *h, int level, const char *line)
{
    const struct lender *l = lent(h);
    if (level >= DBRX_LOG_WARN)
        render_event(&l->sh->out, "status", NULL, "%s: %s", l->name, line);
}

static int host_should_stop(const struct dbrx_host *h)
{
    (void)h;
    return signals_stop();
}

static void host_progress(const struct dbrx_host *h, const char *what, uint64_t done, uint64_t total)
{
    render_progress(&lent(h)->sh->out, what, done, total);
}

static uint32_t timeline_length(const struct dbrx_host *h)
{
    return lent(h)->sh->sess->n;
}

static int32_t timeline_token(const struct dbrx_host *h, uint32_t pos)
{
    const struct sess *s = lent(h)->sh->sess;
    return pos < s->n ? s->token[pos] : -1;
}

static size_t timeline_text(const struct dbrx_host *h, int32_t id, char *out, size_t size)
{
    char *text = token_text(lent(h)->sh, id);
    int n = snprintf(out, size, "%s", text ? text : "");
    free(text);
    return n < 0 ? 0 : (size_t)n;
}

static void timeline_reset(const struct dbrx_host *h)
{
    lent(h)->reset(lent(h));
}

static const char *timeline_label(const struct dbrx_host *h, uint32_t layer, uint32_t expert)
{
    return labels_get(lent(h)->sh->labels, layer, expert);
}

/* ---- dbrx.corpus/1 ---- */

enum { WINDOW = 256 };                     /* tokens, when the instrument does not care   */

struct reading {
    struct shell *sh;
    struct corpus *corpus;
    uint32_t window;
    char what[80];
    dbrx_status (*on_token)(void *, const struct dbrx_token *, struct dbrx_error *);
    void *ctx;
};

static dbrx_status read_text(void *ctx, const char *text, size_t len, uint64_t done, uint64_t total,
                             struct dbrx_error *err)
{
    struct reading *r = ctx;
    struct tok_ids ids = { 0 };
    dbrx_status st = DBRX_OK;
    if (tok_encode(r->sh->tok, text, len, TOK_PLAIN, &ids))
        st = fail(err, DBRX_E_NOMEM, "out of memory");
    uint32_t window = r->window;
    for (size_t at = 0; at < ids.n && st == DBRX_OK; at += window) {
        render_progress(&r->sh->out, r->what, done + (uint64_t)((double)len * (double)at / (double)ids.n), total);
        st = signals_stop() ? fail(err, DBRX_STOPPED, "interrupted")
                            : corpus_run(r->corpus, ids.id + at, ids.n - at < window ? ids.n - at : window, r->on_token,
                                         r->ctx, err);
    }
    free(ids.id);
    return st;
}

static dbrx_status read_corpus(const struct dbrx_host *h, const char *file, uint32_t window, uint32_t want,
                               dbrx_status (*on_token)(void *, const struct dbrx_token *, struct dbrx_error *),
                               void *ctx, struct dbrx_error *err)
{
    struct shell *sh = lent(h)->sh;
    const char *base = strrchr(file, '/');
    uint32_t max = disp_max_pos(sh->disp);
    struct reading r = { .sh = sh, .on_token = on_token, .ctx = ctx };
    if (!sh->tok)
        return fail(err, DBRX_E_UNSUPPORTED, "text needs a tokenizer: %s", sh->tok_why);
    r.window = window ? window : WINDOW;
    r.window = r.window < max ? r.window : max;
    snprintf(r.what, sizeof r.what, "reading %.60s", base ? base + 1 : file);
    char *path = path_typed(file);
    struct engine engine = { 0 };
    dbrx_status st = path ? disp_scratch(sh->disp, r.window, &engine, err) : fail(err, DBRX_E_NOMEM, "out of memory");
    if (st == DBRX_OK)
        st = corpus_open(&engine, &sh->ckpt->desc.config, r.window, want, &r.corpus, err);
    if (st == DBRX_OK) {
        corpus_steer(r.corpus, disp_steered(sh->disp));
        st = corpus_texts(path, read_text, &r, err);
    }
    corpus_close(r.corpus);
    engine_close(&engine);
    free(path);
    return st;
}

static const struct dbrx_corpus corpus = { sizeof corpus, read_corpus };

static const struct dbrx_timeline timeline = {
    sizeof timeline, timeline_length, timeline_token, timeline_text, timeline_reset, timeline_label };

static dbrx_status sets_layers(const struct dbrx_host *h, const char *text, uint8_t *in, struct dbrx_error *err)
{
    const struct dbrx_config *c = &lent(h)->sh->ckpt->desc.config;
    struct set s;
    char why[240];
    if (set_layers(&s, text, c->n_layers, why, sizeof why))
        return fail(err, DBRX_E_INVALID, "%s", why);
    memcpy(in, s.in, s.n);
    set_free(&s);
    return DBRX_OK;
}

static dbrx_status sets_experts(const struct dbrx_host *h, const char *text, uint8_t *in, struct dbrx_error *err)
{
    const struct dbrx_config *c = &lent(h)->sh->ckpt->desc.config;
    struct set s;
    char why[240];
    if (set_experts(&s, text, c->n_layers, c->n_experts, why, sizeof why))
        return fail(err, DBRX_E_INVALID, "%s", why);
    memcpy(in, s.in, s.n);
    set_free(&s);
    return DBRX_OK;
}

static const struct dbrx_sets sets = { sizeof sets, sets_layers, sets_experts };

static const void *host_get(const struct dbrx_host *h, const char *id)
{
    (void)h;
    return !strcmp(id, DBRX_TIMELINE) ? (const void *)&timeline : !strcmp(id, DBRX_SETS) ? (const void *)&sets
         : !strcmp(id, DBRX_CORPUS) ? &corpus : NULL;
}

struct dbrx_host lend_host(struct lender *l)
{
    return (struct dbrx_host){ sizeof(struct dbrx_host), l, host_log, host_should_stop, host_progress, host_get };
}
