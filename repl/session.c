/* repl/session.c -- the timeline and its way through the backend.  See session.h. */
#include "repl/session.h"

#include "plugins/fail.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

const char *sess_finish_name(enum sess_finish f)
{
    static const char *const name[] = { "eos", "length", "context", "interrupted", "error",
                                        "stop", "none" };
    return name[f];
}

/* Routes to the trace, their probabilities beside it */
static void emit_prob(void *ctx, const struct dbrx_route *r)
{
    struct sess *s = ctx;
    const struct dbrx_route_sink *trace = trace_sink(s->trace);
    size_t E = s->n_experts;
    trace->emit(trace->ctx, r);
    if (!r->prob || r->n_experts != E || r->layer >= s->n_layers || r->pos < s->prob_at ||
        r->pos - s->prob_at + (uint64_t)r->n_tokens > s->cap_prob)
        return;
    for (uint32_t i = 0; i < r->n_tokens; i++)
        memcpy(s->prob + ((size_t)(r->pos - s->prob_at + i) * s->n_layers + r->layer) * E, r->prob + i * E,
               E * sizeof *s->prob);
}

/* Where the routes of n tokens from position pos on go */
static const struct dbrx_route_sink *sink_for(struct sess *s, uint32_t pos, uint32_t n)
{
    size_t row = (size_t)s->n_layers * s->n_experts;
    s->n_prob = 0;
    if (!s->want_prob || s->aside)
        return trace_sink(s->trace);
    if (n > s->cap_prob) {
        float *prob = realloc(s->prob, n * row * sizeof *prob);
        if (!prob)
            return trace_sink(s->trace);
        s->prob = prob;
        s->cap_prob = n;
    }
    for (size_t i = 0; i < n * row; i++)   /* what a backend leaves out is not known */
        s->prob[i] = NAN;
    s->prob_at = pos;
    s->tee = (struct dbrx_route_sink){ .struct_size = sizeof s->tee, .want = DBRX_ROUTE_PROB, .ctx = s,
                                       .emit = emit_prob };
    return &s->tee;
}

struct sess *sess_new(struct disp *disp, const struct dbrx_config *c, const uint8_t *banned)
{
    struct sess *s = calloc(1, sizeof *s);
    if (!s)
        return NULL;
    s->disp = disp;
    s->n_vocab = c->n_vocab;
    s->n_layers = c->n_layers;
    s->n_experts = c->n_experts;
    s->low = UINT32_MAX;
    s->trace = trace_new(c);
    s->sampler = sampler_new(c->n_vocab, banned);
    s->logits = malloc(c->n_vocab * sizeof *s->logits);
    if (!s->trace || !s->sampler || !s->logits) {
        sess_free(s);
        return NULL;
    }
    return s;
}

void sess_free(struct sess *s)
{
    if (!s)
        return;
    trace_free(s->trace);
    sampler_free(s->sampler);
    free(s->token);
    free(s->held);
    free(s->logits);
    free(s->prob);
    free(s);
}

/* Room for n tokens on the timeline, of which `kept` stay in front of id[n - kept] */
static dbrx_status reserve(struct sess *s, const int32_t *id, size_t n, size_t kept,
                           struct dbrx_error *err)
{
    uint32_t max = disp_max_pos(s->disp);
    for (size_t i = 0; i < n - kept; i++)
        if (id[i] < 0 || (uint32_t)id[i] >= s->n_vocab)
            return fail(err, DBRX_E_INVALID, "token id %d is outside the vocabulary (0 to %u)",
                        id[i], s->n_vocab - 1);
    if (n <= s->cap)
        return DBRX_OK;
    size_t cap = 2 * n < max ? 2 * n : max;
    int32_t *token = realloc(s->token, cap * sizeof *token);
    if (token)
        s->token = token;
    int32_t *held = realloc(s->held, cap * sizeof *held);
    if (held)
        s->held = held;
    if (!token || !held)
        return fail(err, DBRX_E_NOMEM, "out of memory");
    s->cap = (uint32_t)cap;
    return DBRX_OK;
}

dbrx_status sess_append(struct sess *s, const int32_t *id, size_t n, struct dbrx_error *err)
{
    uint32_t max = disp_max_pos(s->disp);
    if (n > max - s->n)
        return fail(err, DBRX_E_FULL, "%zu more tokens do not fit: the context has room for %u, "
                    "of which %u are taken", n, max, s->n);
    dbrx_status st = reserve(s, id, s->n + n, s->n, err);
    if (st != DBRX_OK)
        return st;
    if (n)
        memcpy(s->token + s->n, id, n * sizeof *id);
    s->n += (uint32_t)n;
    s->has_logits = s->has_logits && !n;
    return DBRX_OK;
}

dbrx_status sess_replace(struct sess *s, const int32_t *id, size_t n, struct dbrx_error *err)
{
    uint32_t max = disp_max_pos(s->disp);
    if (n > max)
        return fail(err, DBRX_E_FULL, "%zu tokens do not fit into the context of %u", n, max);
    dbrx_status st = reserve(s, id, n, 0, err);
    if (st != DBRX_OK)
        return st;
    uint32_t common = 0, most = n < s->n ? (uint32_t)n : s->n;
    while (common < most && s->token[common] == id[common])
        common++;
    int same = n == s->n && common == n;
    if (common < s->n && common < s->low)
        s->low = common;
    if (n)
        memmove(s->token, id, n * sizeof *id);
    s->n = (uint32_t)n;
    s->has_logits = s->has_logits && same;
    return DBRX_OK;
}

void sess_truncate(struct sess *s, uint32_t n_keep)
{
    if (n_keep >= s->n)
        return;
    s->low = n_keep < s->low ? n_keep : s->low;
    s->n = n_keep;                         /* backend and trace follow at the next sync */
    s->has_logits = 0;
}

void sess_steer(struct sess *s, const struct dbrx_steer *steer, uint64_t id)
{
    disp_steer(s->disp, steer);
    s->has_logits = s->has_logits && id == s->steer_id;
    s->steer_id = id;
}

uint32_t sess_in_step(const struct sess *s)
{
    if (s->held_id != s->steer_id)
        return 0;
    uint32_t i = 0, n = s->n_held < s->n ? s->n_held : s->n, pos = disp_position(s->disp);
    n = pos < n ? pos : n;                 /* a lost backend holds nothing */
    if (!n || !memcmp(s->held, s->token, n * sizeof *s->held))
        return n;
    while (s->held[i] == s->token[i])
        i++;
    return i;
}

uint32_t sess_routed(const struct sess *s)
{
    uint32_t n = sess_in_step(s), traced = trace_len(s->trace);
    return traced < n ? traced : n;
}

/* the backend, and the trace with it, forgets what differs and all beyond n_keep */
static dbrx_status rewind_to(struct sess *s, uint32_t n_keep, struct dbrx_error *err)
{
    uint32_t same = sess_in_step(s);
    n_keep = n_keep < same ? n_keep : same;
    if (s->held_id != s->steer_id)         /* also when the current one was lost and holds nothing */
        disp_forget(s->disp, 0);
    s->n_held = n_keep;
    s->held_id = n_keep ? s->held_id : s->steer_id;
    trace_truncate(s->trace, n_keep);
    return disp_position(s->disp) > n_keep ? disp_truncate(s->disp, n_keep, err) : DBRX_OK;
}

/* what the backend has been given since */
static void took(struct sess *s)
{
    uint32_t pos = disp_position(s->disp);
    if (pos > s->n_held)
        memcpy(s->held + s->n_held, s->token + s->n_held, (pos - s->n_held) * sizeof *s->held);
    s->n_held = pos;
}

static dbrx_status synced(struct sess *s, dbrx_status st)
{
    if (st == DBRX_OK && s->synced && !s->aside) {
        s->synced(s->synced_ctx);
        s->low = UINT32_MAX;
    }
    return st;
}

dbrx_status sess_sync(struct sess *s, struct dbrx_error *err)
{
    if (s->has_logits || !s->n)
        return synced(s, rewind_to(s, s->n, err));
    /* the last token is evaluated once more if only its logits are missing */
    dbrx_status st = rewind_to(s, s->n - 1, err);
    if (st != DBRX_OK)
        return st;
    uint32_t pos = disp_position(s->disp);
    struct dbrx_batch b = {
        .struct_size = sizeof b, .n_tokens = s->n - pos, .token = s->token + pos,
        .want_logits = DBRX_LOGITS_LAST, .logits = s->logits, .logits_len = s->n_vocab,
        .route = sink_for(s, pos, s->n - pos),
    };
    double t0 = now();
    st = disp_eval(s->disp, &b, err);
    took(s);
    s->n_prob = st == DBRX_OK && b.route == &s->tee ? b.n_tokens : 0;
    uint32_t done = s->n_held > pos ? s->n_held - pos : 0;
    trace_truncate(s->trace, s->n_held);
    s->has_logits = st == DBRX_OK;
    s->last.prompt_tokens = done;
    s->last.prompt_s = now() - t0;
    s->total.prompt_tokens += done;
    s->total.prompt_s += s->last.prompt_s;
    return synced(s, st);
}

dbrx_status sess_logits_at(struct sess *s, uint32_t n, float *logits, struct dbrx_error *err)
{
    dbrx_status st;
    if (n == s->n) {
        if ((st = sess_sync(s, err)) == DBRX_OK)
            memcpy(logits, s->logits, s->n_vocab * sizeof *logits);
        return st;
    }
    if ((st = rewind_to(s, n - 1, err)) != DBRX_OK)
        return st;
    uint32_t pos = disp_position(s->disp);
    struct dbrx_batch b = {
        .struct_size = sizeof b, .n_tokens = n - pos, .token = s->token + pos,
        .want_logits = DBRX_LOGITS_LAST, .logits = logits, .logits_len = s->n_vocab,
        .route = trace_sink(s->trace),
    };
    return disp_eval(s->disp, &b, err);
}

static int is_eos(const struct sess_gen *g, int32_t id)
{
    for (uint32_t i = 0; i < g->n_eos; i++)
        if (g->eos[i] == id)
            return 1;
    return 0;
}

dbrx_status sess_no_candidate(int32_t why, struct dbrx_error *err)
{
    if (why == SAMPLER_NONE_LEFT)
        return fail(err, DBRX_E_INVALID, "no token is left to choose from: suppress_tokens, "
                    "no_repeat_ngram_size and min_new_tokens rule all of them out; the conversation "
                    "is as it was, relax one of them with /set");
    return fail(err, DBRX_E_UNSUPPORTED, "the logits are no numbers: the weights or the backend are "
                "damaged");
}

/* The next token of the reply that began at `reply`, as far as the constraint allows */
static dbrx_status choose(struct sess *s, const struct sess_gen *g, uint32_t reply, int32_t *id,
                          struct dbrx_error *err)
{
    const uint8_t *banned = NULL;
    dbrx_status st = g->constraint ? constraint_mask(g->constraint, &banned, err) : DBRX_OK;
    if (st != DBRX_OK)
        return st;
    struct sampler_params sampling = g->sampling;
    const struct sampler_history history = { s->token, s->n, reply };
    sampling.eos = g->eos;
    sampling.n_eos = g->n_eos;
    sampler_mask(s->sampler, banned);
    *id = sampler_draw(s->sampler, &sampling, &history, s->logits);
    sampler_mask(s->sampler, NULL);
    if (*id == SAMPLER_NONE_LEFT && banned)
        return fail(err, DBRX_E_UNSUPPORTED, "none of the tokens that the grammar allows here can be "
                    "drawn");
    if (*id < 0)
        return sess_no_candidate(*id, err);
    return g->constraint ? constraint_accept(g->constraint, *id, err) : DBRX_OK;
}

dbrx_status sess_generate(struct sess *s, const struct sess_gen *g, enum sess_finish *why,
                          struct dbrx_error *err)
{
    *why = SESS_FAILED;
    if (!s->n)
        return fail(err, DBRX_E_INVALID, "there is nothing to continue: the conversation is empty");
    dbrx_status st = sess_sync(s, err);
    struct sess_stats prompt = s->last, total = s->total;
    uint32_t made = 0, reply = g->reply ? g->reply : s->n;
    double t0 = now();
    s->generating = 1;
    while (st == DBRX_OK) {
        if (g->constraint && constraint_complete(g->constraint)) {
            *why = SESS_EOS;
            break;
        }
        if (g->max_tokens && made == g->max_tokens) {
            *why = SESS_MAX_TOKENS;
            break;
        }
        if (s->n == disp_max_pos(s->disp)) {
            *why = SESS_CONTEXT_FULL;
            break;
        }
        int32_t id;
        if ((st = choose(s, g, reply, &id, err)) != DBRX_OK || (st = sess_append(s, &id, 1, err)) != DBRX_OK)
            break;
        made++;
        int stop = g->on_token ? g->on_token(g->ctx, id, s->n - 1) : SESS_GO_ON;
        if (stop == SESS_ENOUGH) {
            *why = SESS_STOP_STRING;
            break;
        }
        st = stop ? DBRX_STOPPED : sess_sync(s, err);      /* an eos too: its routes count */
        if (st == DBRX_OK && is_eos(g, id)) {
            *why = SESS_EOS;
            break;
        }
    }
    s->generating = 0;
    if (st == DBRX_STOPPED)
        *why = SESS_STOPPED;
    s->last = prompt;                      /* decode steps count as generation, not as prompt */
    s->total = total;
    s->last.gen_tokens = made;
    s->last.gen_s = now() - t0;
    s->total.gen_tokens += made;
    s->total.gen_s += s->last.gen_s;
    return st < 0 ? st : DBRX_OK;
}

dbrx_status sess_use(struct sess *s, const char *backend, const char *const *opt, int how,
                     struct dbrx_error *err)
{
    dbrx_status st = rewind_to(s, s->n, err);
    /* what the old one has not computed yet is left to the next sync, which traces it */
    if (st == DBRX_OK)
        st = disp_use(s->disp, backend, opt, how, s->token, s->n, err);
    if (st == DBRX_OK)
        s->has_logits = 0;                 /* the next token is the new one's own word */
    took(s);
    return st;
}

dbrx_status sess_import(struct sess *s, uint32_t n,
                        dbrx_status (*next)(void *, struct dbrx_kv_block *, struct dbrx_error *),
                        void *ctx, struct dbrx_error *err)
{
    if (n > s->n)
        return fail(err, DBRX_E_INVALID, "a KV cache of %u tokens for a conversation of %u", n, s->n);
    dbrx_status st = disp_import(s->disp, n, next, ctx, err);
    if (st != DBRX_OK)
        return st;
    if (n)
        memcpy(s->held, s->token, n * sizeof *s->held);
    s->n_held = n;
    s->held_id = s->steer_id;
    s->has_logits = 0;
    trace_truncate(s->trace, 0);
    return DBRX_OK;
}

dbrx_status sess_retrace(struct sess *s, struct dbrx_error *err)
{
    dbrx_status st = DBRX_OK;
    if (sess_routed(s) < s->n) {
        s->has_logits = 0;
        st = rewind_to(s, sess_routed(s), err);
    }
    return st == DBRX_OK ? sess_sync(s, err) : st;
}

dbrx_status sess_rescan(struct sess *s, uint32_t step, const struct dbrx_route_sink *sink,
                        dbrx_status (*piece)(void *, uint32_t, uint32_t, const float *),
                        void *ctx, struct dbrx_error *err)
{
    if (step > s->n)
        step = s->n;
    float *logits = malloc(((size_t)step * s->n_vocab + 1) * sizeof *logits);
    if (!logits)
        return fail(err, DBRX_E_NOMEM, "out of memory for the logits of %u tokens", step);
    dbrx_status st = rewind_to(s, s->n, err);
    s->n_held = 0;                         /* the trace stays: the same words come again */
    if (st == DBRX_OK && disp_position(s->disp))
        st = disp_truncate(s->disp, 0, err);
    for (uint32_t pos = 0, n; pos < s->n && st == DBRX_OK; pos += n) {
        n = s->n - pos < step ? s->n - pos : step;
        struct dbrx_batch b = {
            .struct_size = sizeof b, .n_tokens = n, .token = s->token + pos,
            .want_logits = DBRX_LOGITS_ALL, .logits = logits,
            .logits_len = (size_t)n * s->n_vocab, .route = sink,
        };
        st = disp_eval(s->disp, &b, err);
        took(s);
        if (st == DBRX_OK)
            st = piece(ctx, pos, n, logits);
    }
    free(logits);
    return st;
}
