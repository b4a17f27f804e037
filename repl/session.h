/* repl/session.h -- one conversation: the timeline of token ids, kept in step with
 * whatever backend is current.
 *
 * Tokens are the truth, the KV cache is a cache: sess_sync makes the backend hold
 * what the timeline says, whatever happened before (an interrupt, a switch, a
 * truncation).  No terminal, no printf. */
#ifndef DBRX_REPL_SESSION_H
#define DBRX_REPL_SESSION_H

#include "repl/grammar/constraint.h"
#include "repl/dispatch.h"
#include "repl/sampler.h"
#include "repl/trace.h"

struct sess {
    struct disp    *disp;                  /* not owned                                   */
    struct trace   *trace;
    struct sampler *sampler;
    uint32_t n_vocab;
    int32_t *token;                        /* [n], the timeline                           */
    uint32_t n, cap;
    int32_t *held;                         /* [n_held], what the backend was given: may be other */
    uint32_t n_held;                       /* words than the timeline's until the next sync      */
    uint64_t steer_id, held_id;            /* the steering now, and that of what the backend was given */
    float   *logits;                       /* [n_vocab] of the last token, when has_logits */
    int      has_logits;

    /* For who looks on.  After every sync that went through, unless `aside` (a search, a
     * replay: what it computes is not the conversation): the timeline is evaluated. */
    void (*synced)(void *ctx);
    void *synced_ctx;
    uint32_t low;                          /* the timeline was as short as this since         */
    int aside, generating;                 /* generating: the tokens just synced are the model's own */
    int want_prob;                         /* all router probabilities of what a sync evaluates: */
    float *prob;                           /* [n_prob][n_layers][n_experts], from position prob_at */
    uint32_t prob_at, n_prob, cap_prob;
    uint32_t n_layers, n_experts;
    struct dbrx_route_sink tee;

    /* what the last syncs and generations took, for the status line */
    struct sess_stats {
        uint64_t prompt_tokens, gen_tokens;
        double   prompt_s, gen_s;
    } last, total;
};

enum sess_finish { SESS_EOS, SESS_MAX_TOKENS, SESS_CONTEXT_FULL, SESS_STOPPED, SESS_FAILED,
                   SESS_STOP_STRING, SESS_NO_REPLY, SESS_N_FINISH };
/* "eos", "length", "context", "interrupted", "error", "stop", "none" */
const char *sess_finish_name(enum sess_finish);

enum { SESS_GO_ON, SESS_INTERRUPT, SESS_ENOUGH };
struct sess_gen {
    struct sampler_params sampling;        /* its eos are those below                     */
    uint32_t reply;                        /* where the reply began, if it goes on; 0: here */
    uint32_t max_tokens;                   /* 0: until eos or the context is full         */
    const int32_t *eos;
    uint32_t n_eos;
    struct constraint *constraint;         /* what may be said, or NULL; told of every token.
                                              Nothing else is possible: SESS_EOS, without an eos */
    /* After each token is on the timeline, an eos included.  SESS_GO_ON, SESS_INTERRUPT: stop
     * here, SESS_ENOUGH: stop here, the reply is complete (SESS_STOP_STRING). */
    int (*on_token)(void *ctx, int32_t id, uint32_t pos);
    void *ctx;
};

struct sess *sess_new(struct disp *, const struct dbrx_config *, const uint8_t *banned); /* NULL: no memory */
void sess_free(struct sess *);

/* All of it or, on DBRX_E_FULL (beyond disp_max_pos) and DBRX_E_NOMEM, nothing.
 * DBRX_E_INVALID for an id outside the vocabulary. */
dbrx_status sess_append(struct sess *, const int32_t *id, size_t n, struct dbrx_error *);
void sess_truncate(struct sess *, uint32_t n_keep);
/* These tokens instead of the timeline; DBRX_E_FULL, DBRX_E_NOMEM and DBRX_E_INVALID change
 * nothing.  Costs nothing yet: the next sync recomputes what differs from what the backend
 * holds, so that going back to words not yet overwritten is free. */
dbrx_status sess_replace(struct sess *, const int32_t *id, size_t n, struct dbrx_error *);
/* Steers all that is evaluated from now on (see disp_steer); id tells one steering from another.
 * What the model computes is a function of tokens and steering: under another one the next sync
 * computes the timeline again, from its beginning. */
void sess_steer(struct sess *, const struct dbrx_steer *, uint64_t id);
/* How many leading tokens of the timeline the backend holds already, under this steering. */
uint32_t sess_in_step(const struct sess *);
/* ... and how many of those the trace knows; beyond, it may speak of other words. */
uint32_t sess_routed(const struct sess *);

/* Makes the backend hold the whole timeline, routes traced; afterwards `logits` are the
 * last token's.  DBRX_STOPPED leaves the timeline as it is; a later sync goes on. */
dbrx_status sess_sync(struct sess *, struct dbrx_error *);

/* The logits[n_vocab] that the first n tokens lead to, 0 < n <= s->n: those of the token at
 * position n.  The timeline stays; a later sync computes what follows again. */
dbrx_status sess_logits_at(struct sess *, uint32_t n, float *logits, struct dbrx_error *);

/* Samples, appends, syncs, until something ends it.  An empty timeline is
 * DBRX_E_INVALID.  The status is an error only for SESS_FAILED; what was generated
 * stays on the timeline in every case. */
dbrx_status sess_generate(struct sess *, const struct sess_gen *, enum sess_finish *, struct dbrx_error *);

/* The error for what sampler_draw returned below 0. */
dbrx_status sess_no_candidate(int32_t why, struct dbrx_error *);

/* Another backend for this timeline; see disp_use.  Its next sync evaluates the last token, so
 * that what is drawn next comes from the new one's logits. */
dbrx_status sess_use(struct sess *, const char *backend, const char *const *opt, int how,
                     struct dbrx_error *);

/* The KV cache of the first n tokens from elsewhere; see disp_import. */
dbrx_status sess_import(struct sess *, uint32_t n,
                        dbrx_status (*next)(void *ctx, struct dbrx_kv_block *, struct dbrx_error *),
                        void *ctx, struct dbrx_error *);
/* As sess_sync, and computes once more what the trace does not know (imported, or recording
 * had run out of memory). */
dbrx_status sess_retrace(struct sess *, struct dbrx_error *);

/* Evaluates the timeline afresh from position 0 in pieces of at most `step` tokens and
 * hands out each piece: logits[n][n_vocab], and through `sink` its routes.  Leaves the
 * timeline unchanged and in step. */
dbrx_status sess_rescan(struct sess *, uint32_t step, const struct dbrx_route_sink *sink,
                        dbrx_status (*piece)(void *ctx, uint32_t pos, uint32_t n, const float *logits),
                        void *ctx, struct dbrx_error *);

#endif
