/* tests/conformance/conformance.h -- what the checks share.
 *
 * A check is one rule of backends/backend.h or plugins/abi.h: a stable id, its sentence and
 * a function.  The driver (conformance.c) runs each check on every shape of small random
 * model (model.c), with a fresh session, and prints one TAP line for it.  A check sees the
 * backend under test and the oracle (ref.so) through the same struct side; helpers that feed
 * tokens and record everything the backend says are in record.c. */
#ifndef CONFORMANCE_H
#define CONFORMANCE_H

#define _GNU_SOURCE
#include "backends/backend.h"
#include "plugins/loader.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* ---- random models (model.c) ------------------------------------------------ */

struct shape {
    const char *name;
    uint32_t layers, d_model, heads, kv_heads, d_ffn, experts, top_k, vocab;
    float    clip, theta, norm_p;
    uint32_t act;
    int      dtype;                        /* DBRX_*, or -1: each tensor another one       */
    bool     ties;                         /* routers full of equal rows                   */
};
extern const struct shape shapes[];
extern const size_t n_shapes;

/* A checkpoint in a temporary file, mapped read-only between two pages that may not be
 * touched, so that reading past either end of the data is a crash and not a secret. */
struct random_model {
    struct dbrx_model_desc desc;
    struct dbrx_layer *layer;              /* [n_layers]                                   */
    char  *base;                           /* the mapping, guard pages included            */
    size_t base_len;
    int    fd;
};
void random_model_make(struct random_model *, const struct shape *, unsigned seed);
void random_model_free(struct random_model *);
/* Overwrites one element of a tensor (which[index]) with a NaN, or puts the old bits back. */
void random_model_poison(struct random_model *, const struct dbrx_tensor *, size_t index,
                         bool on);

double   next_random(uint64_t *state);     /* uniform in [0, 1)                            */
uint32_t below(uint64_t *state, uint32_t n);
float    load(const struct dbrx_tensor *, size_t i);           /* one element as float     */
void     store(void *at, uint32_t dtype, size_t i, float x);   /* rounded to nearest even  */
size_t   dtype_size(uint32_t dtype);

/* ---- a backend and its host --------------------------------------------------- */

struct watch {                             /* a host that counts and can ask to stop       */
    struct dbrx_host host;
    atomic_uint polls, stop_at;            /* stop from the stop_at-th poll on; 0: never   */
    atomic_uint progress_lies;             /* progress() with done > total, or no name     */
};

struct side {
    const struct dbrx_module_info *info;
    const struct dbrx_backend *be;
    const struct dbrx_kv   *kv;            /* NULL: not offered                            */
    const struct dbrx_head *head;
    const struct dbrx_resume *resume;
    const char *const *opt;
    dbrx_model *model;
    struct watch *watch;
};

/* ---- what a check is given ------------------------------------------------------ */

enum { N_TOK = 20,                         /* tokens of the usual sequence                 */
       N_LONG = 1100,                      /* of the long one: more than any one pass      */
       ROOM = N_TOK + 12 };                /* max_pos of sessions, unless said otherwise   */

struct fx {
    const struct shape *shape;
    struct random_model *rm;
    const struct dbrx_config *cfg;
    struct side sut, ref;
    const char *file;                      /* the sut's path                               */
    dbrx_session *s;                       /* a fresh session of the sut                   */
    int32_t tok[N_TOK];                    /* no router decision on it is close            */
    const struct rec *truth;               /* the oracle's record of tok                   */
    uint64_t rng;
};

enum { PASS, FAIL, SKIP };
typedef int check_fn(struct fx *);
struct check {
    const char *id, *rule;
    check_fn   *fn;
    enum { EACH_SHAPE, ONCE } how;         /* ONCE: on the first shape only                */
    int needs;                             /* NEEDS_*                                      */
};
enum { NEEDS_KV = 1, NEEDS_HEAD = 2, NEEDS_RESUME = 4 };       /* SKIP where the backend has no such table    */

extern const struct check checks_module[], checks_open[], checks_eval[], checks_stop[], checks_route[],
    checks_steer[], checks_tap[], checks_kv[], checks_resume[], checks_repro[];    /* end at id == NULL */

/* Ends the check as failed, with a remark that says what was seen. */
#define NEED(cond, ...) do { if (!(cond)) { note(__VA_ARGS__); return FAIL; } } while (0)
__attribute__((format(printf, 1, 2))) void note(const char *fmt, ...);

/* The test itself cannot go on. */
__attribute__((format(printf, 1, 2), noreturn)) void give_up(const char *fmt, ...);

/* Freed (closed) by the driver after the check. */
void *fx_alloc(size_t bytes);                                  /* zeroed                   */
dbrx_session *fx_session(struct side *, uint32_t max_pos);     /* bails out if it cannot   */

/* *out = base with another model opened; closed after the check, sessions first.  The desc
 * must come from fx_alloc before. */
dbrx_status fx_model(const struct side *base, const struct dbrx_model_desc *, struct side *out);

/* ---- feeding and recording (record.c) --------------------------------------------- */

/* Everything said about positions 0 .. room-1 of one session. */
struct rec {
    const struct dbrx_config *cfg;
    uint32_t  room;
    float    *logits;                      /* [room][n_vocab]                              */
    uint32_t *top_k;                       /* [n_layers] what steering makes it            */
    uint16_t *expert;                      /* [n_layers][room][n_experts]: top_k used      */
    float    *weight;                      /* like expert                                  */
    float    *prob, *logit;                /* [n_layers][room][n_experts]                  */
    float    *resid;                       /* [n_layers + 1][room][d_model]; 0: embedding  */
    float    *part;                        /* [n_layers][room][n_experts][d_model]         */
    uint8_t  *routed;                      /* [n_layers][room] times seen                  */
    uint8_t  *tapped;                      /* [2][n_layers + 1][room] times seen           */
    char      broken[200];                 /* first breach of the sink's or tap's rules    */
    uint32_t  want;                        /* what was asked of the sink                   */
    uint8_t  *taps;                        /* [n_layers + 1] what was asked of the tap     */
    uint32_t  start, end;                  /* positions of the call in progress            */
    pthread_t caller;
    const struct dbrx_steer *steer;        /* of the last call                             */
};
struct rec *rec_new(const struct dbrx_config *, uint32_t room);

struct ask {                               /* zero: one call, all logits, no tap           */
    const struct dbrx_steer *steer;
    bool no_route, taps;
    const float *x;                        /* not NULL: resume block `layer` at `pos` with these rows, */
    uint32_t layer, pos;                   /* into a record that already holds what comes before */
};

/* Appends tok[0..n) in one call; logits, routes and taps go to r (may be NULL: nothing is
 * asked for).  The error structure given to the backend is checked as well: written on
 * failure only, one line, nothing behind it touched; a breach shows up in r->broken. */
dbrx_status feed(struct side *, dbrx_session *, const int32_t *tok, uint32_t n, struct rec *r,
                 const struct ask *);
/* A new session of `side` fed with n of fx's tokens, recorded. */
struct rec *fed(struct fx *, struct side *, uint32_t n, const struct ask *, dbrx_session **);

/* Calls that must fail.  Checks the code, the sentence, canaries; repeats with err NULL. */
#define REFUSED(want, call) do { \
    struct guarded g_; struct dbrx_error *err; \
    for (int null_ = 0; null_ < 2; null_++) { \
        err = null_ ? NULL : guarded_init(&g_); \
        dbrx_status st_ = (call); \
        NEED(st_ == (want), "%s: returned %d, not %d", #call, (int)st_, (int)(want)); \
        const char *why_ = null_ ? NULL : guarded_fault(&g_, st_); \
        NEED(!why_, "%s: %s", #call, why_); \
    } } while (0)

struct guarded { unsigned char before[64]; struct dbrx_error err; unsigned char after[64]; };
struct dbrx_error *guarded_init(struct guarded *);
/* What is wrong with the structure after a call that returned st, or NULL. */
const char *guarded_fault(const struct guarded *, dbrx_status st);

/* A caller's buffer of n floats with canaries on both sides. */
float *canary_new(size_t n);
bool   canary_ok(const float *, size_t n);
bool   canary_untouched(const float *, size_t n);              /* all of it, inside too    */

/* ---- comparing (record.c) ------------------------------------------------------------ */

extern const double TOL;                   /* 1e-4 of the largest                          */

/* max |a - b| / max |b|; a NaN gives infinity */
double distance(const float *a, const float *b, size_t n);

/* The gap in probability between chosen and not chosen experts, exact ties aside, least over
 * the layers of one recorded position. */
double rec_margin(const struct rec *, uint32_t pos);

/* Logits of positions [from, to) agree to tol, up to the first where `want` had a close
 * decision.  Notes what and returns FAIL if not. */
int same_logits(const struct rec *got, const struct rec *want, uint32_t from, uint32_t to,
                double tol, const char *what);
/* Nothing that the session now computes gives away that anything happened: position is
 * `pos` and the next token's logits are truth's. */
int unchanged(struct fx *, dbrx_session *, uint32_t pos, const char *after);

/* The documented order of effects, in double, from reported router logits (routing.c). */
struct routing {
    uint32_t k;
    uint16_t expert[64];                   /* heaviest first                               */
    double   weight[64], prob[64];
    bool     close;                        /* some decision hung on less than 1e-6         */
};
void expected_routing(const struct dbrx_config *, const struct dbrx_steer *, uint32_t layer,
                      const float *logit, struct routing *);
/* Compares every recorded route with expected_routing of its own logits. */
int routes_as_documented(const struct rec *, uint32_t n);

#endif
