/* plugins/observer.h -- "dbrx.observer/1": an instrument.
 *
 * Looks on while the model reads and writes: is told every token of the conversation with
 * the experts it went to, keeps what it likes, and answers commands with rows.  It never
 * computes and never prints; the host renders its rows as text or JSON, shades its heat
 * maps, and runs the model for it when it asks (dbrx.corpus/1).  The host knows nothing of
 * any instrument but this table.
 *
 * What is told.  The timeline is the list of tokens of the conversation, from position 0.
 * on_token comes once for every position, ascending, when the position has been evaluated
 * and stays: never for what a stopped eval or a search threw away.  on_truncate says that
 * positions from n_keep on are no longer there: the conversation was taken back, changed to
 * another branch, or started anew; tokens that follow begin at n_keep.
 *
 * What counts.  A token in its context (the tokens before it, and what steers the router)
 * counts once, however often it is computed: when going back to a branch, redoing, or after another backend took over.
 * The second time it comes with DBRX_TOKEN_AGAIN; statistics pass over it, views of the
 * timeline take it.  Statistics of all instruments begin anew together: reset() in
 * dbrx.timeline/1 has each forget (on_reset), and then every token is new again.
 *
 * Threads: the host calls all functions of one instrument from one thread, never two at
 * once, and never while eval runs.  Errors: an instrument that fails is told nothing more
 * and says why when asked; neither conversation nor reply is touched. */
#ifndef DBRX_OBSERVER_H
#define DBRX_OBSERVER_H

#include "backends/backend.h"

#ifdef __cplusplus
extern "C" {
#endif

/* ---- what it is told ----------------------------------------------------- */

enum { DBRX_TOKEN_GENERATED = 1,           /* the model's own; else it was read, or evaluated
                                              once more under other steering than it was written */
       DBRX_TOKEN_AGAIN     = 2,           /* has been told before, in the same context  */
       DBRX_TOKEN_STEERED   = 4 };         /* the choice of its experts was steered      */

struct dbrx_token {                        /* arrays are valid during the call           */
    uint32_t struct_size;
    uint32_t pos;                          /* in the timeline, or in its text (corpus)   */
    int32_t  id;                           /* 0 <= id < n_vocab                          */
    uint32_t flags;                        /* DBRX_TOKEN_*                               */
    uint32_t n_layers, top_k, n_experts;   /* the model's                                */
    const uint16_t *expert;                /* [n_layers][top_k] chosen, heaviest first; UINT16_MAX in
                                              slots not used (steered to fewer).  NULL: the routing
                                              is not known */
    const float    *weight;                /* [n_layers][top_k] as applied; with expert  */
    const float    *prob;                  /* [n_layers][n_experts] softmax over all experts: when
                                              wanted and known, else NULL */
};

/* ---- what it hands back: rows -------------------------------------------- */

enum { DBRX_CELL_TEXT,                     /* text(): UTF-8                              */
       DBRX_CELL_NUM,                      /* num(): right-aligned; NaN and infinity: no value */
       DBRX_CELL_HEAT };                   /* num() or nums(): shaded, a heat map's row  */

struct dbrx_column {
    const char *name;                      /* the field's in JSON: [a-z0-9_]+            */
    const char *title;                     /* the heading in text; NULL: name            */
    uint32_t    kind;                      /* DBRX_CELL_*                                */
    uint32_t    decimals;                  /* NUM: digits after the point; HEAT: 1 has the cells numbered
                                              from 0 above a live view, else 0           */
    double      lo, hi;                    /* HEAT: the scale's ends; lo == hi: 0 and the largest
                                              value of the column */
    uint64_t    reserved[2];               /* 0                                          */
};

/* The host's; all copied at once.  Cells come row by row in the order of the columns; those
 * left out at a row's end are empty, and what does not fit the columns is dropped and said. */
struct dbrx_rows {
    uint32_t struct_size;
    void *ctx;
    /* Begins a table (ends the one before).  `name` is its name in JSON; `title` a sentence
     * above it in text, or NULL. */
    void (*table)(void *ctx, const char *name, const char *title,
                  const struct dbrx_column *, uint32_t n_columns);
    void (*text)(void *ctx, const char *utf8);
    void (*num)(void *ctx, double);
    void (*nums)(void *ctx, const double *, uint32_t n);
    void (*end_row)(void *ctx);
    /* Of the table: a number for programs; a sentence below it for everybody. */
    void (*fact)(void *ctx, const char *name, double);
    void (*note)(void *ctx, const char *sentence);
};

/* ---- commands ------------------------------------------------------------ */

enum { DBRX_COMMAND_TIMELINE = 1,          /* first bring the timeline up to date: every token told,
                                              with its routing */
       DBRX_COMMAND_FILES = 2 };           /* words are completed as names of files      */

struct dbrx_command {                      /* strings: never NULL unless said            */
    uint32_t struct_size;
    const char *name;                      /* without slash: [a-z][a-z0-9-]*; one the shell has
                                              itself, or an earlier module, is refused */
    const char *usage;                     /* its arguments: "[--layer L] | reset", or "" */
    const char *brief;                     /* one line, lower case, no full stop         */
    const char *help;                      /* sentences, or ""                           */
    const char *example;                   /* a whole line: "/experts --layer 3"         */
    const char *const *words;              /* for completion, NULL-ended; NULL: none     */
    uint32_t flags;                        /* DBRX_COMMAND_*                             */
    /* [one/self] argv[argc]: the words behind the name, quotes taken off.  DBRX_E_INVALID
     * for wrong ones: err says what would be right.  DBRX_STOPPED when should_stop() made it
     * come back.  A failed run shows nothing but its error. */
    dbrx_status (*run)(void *self, int argc, const char *const *argv,
                       const struct dbrx_rows *, struct dbrx_error *);
};

/* ---- the observer table -------------------------------------------------- */

#define DBRX_OBSERVER "dbrx.observer/1"
struct dbrx_observer {
    uint32_t struct_size;
    uint32_t want;                         /* DBRX_ROUTE_PROB: fill prob, or 0           */
    const struct dbrx_command *const *commands;    /* NULL-ended; NULL: none             */
    /* [one/module] The host and what it lends outlive the instrument. */
    dbrx_status (*open)(const struct dbrx_host *, const struct dbrx_config *,
                        void **self, struct dbrx_error *);
    /* [one/self] all that follow. */
    void (*close)(void *self);
    void (*on_truncate)(void *self, uint32_t n_keep);          /* may be NULL            */
    /* May be NULL.  Quick: it is on the way of every token. */
    dbrx_status (*on_token)(void *self, const struct dbrx_token *, struct dbrx_error *);
    /* May be NULL.  At a terminal, a few times a second while a reply is written: one small
     * table about now, drawn beside the reply and over the last one.  No row: nothing is
     * shown. */
    void (*live)(void *self, const struct dbrx_rows *);
    /* May be NULL.  Somebody asked for reset(): forget what was counted; what the timeline is
     * stays known.  May come from within run(). */
    void (*on_reset)(void *self);
};

/* ---- what the host lends: dbrx_host.get(id), in open() or later ---------- */
/* All [one/self]: inside the functions above only, with the host that open() was given. */

/* The conversation as it is. */
#define DBRX_TIMELINE "dbrx.timeline/1"
struct dbrx_timeline {
    uint32_t struct_size;
    uint32_t (*length)(const struct dbrx_host *);
    int32_t  (*token)(const struct dbrx_host *, uint32_t pos);  /* -1: there is none      */
    /* A token's text on one line, as snprintf: controls are quoted, ids without text <|id|>. */
    size_t   (*text)(const struct dbrx_host *, int32_t id, char *out, size_t size);
    /* All statistics begin anew: every instrument's on_reset is called, the caller's too, and no
     * token told so far comes with AGAIN. */
    void     (*reset)(const struct dbrx_host *);
    /* What an expert is known for (/set labels), or NULL. */
    const char *(*label)(const struct dbrx_host *, uint32_t layer, uint32_t expert);
};

/* Sets as people write them: "3", "0..9", "1,4..6", "-1" (from the end), "*". */
#define DBRX_SETS "dbrx.sets/1"
struct dbrx_sets {
    uint32_t struct_size;
    /* Layers: in[n_layers]; experts at layers, "3,7@0..9": in[n_layers][n_experts]; 1 means in
     * the set.  DBRX_E_INVALID: it cannot be read or names what there is not; err says what. */
    dbrx_status (*layers)(const struct dbrx_host *, const char *, uint8_t *in, struct dbrx_error *);
    dbrx_status (*experts)(const struct dbrx_host *, const char *, uint8_t *in, struct dbrx_error *);
};

/* Other text through the model, on the current backend and beside the conversation, which
 * stays as it is; steered as that is.  Shows progress, can be interrupted. */
#define DBRX_CORPUS "dbrx.corpus/1"
struct dbrx_corpus {
    uint32_t struct_size;
    /* The tokens of a file to on_token, in order.  A file ending in .jsonl has a text a line,
     * each an object with "text" or "prompt"; any other file is one text.  A text longer than
     * `window` tokens (0: the host's choice, at most the context) is cut, each piece without
     * the others before it; pos 0 begins one.  want: DBRX_ROUTE_PROB or 0.  on_token's first
     * status other than DBRX_OK ends it and is returned.  DBRX_E_IO: the file; E_UNSUPPORTED:
     * no tokenizer or backend. */
    dbrx_status (*run)(const struct dbrx_host *, const char *file, uint32_t window, uint32_t want,
                       dbrx_status (*on_token)(void *ctx, const struct dbrx_token *,
                                               struct dbrx_error *),
                       void *ctx, struct dbrx_error *);
};

#ifdef __cplusplus
}
#endif
#endif
