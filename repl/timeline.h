/* repl/timeline.h -- a tree of timelines: named branches of one conversation, over one KV.
 *
 * A branch is a list of tokens, tiled by turns.  The current one's tokens are the
 * session's; going to another hands the session its tokens, and the next sync recomputes
 * what differs from what the backend holds.  Each branch has its own random numbers.  No
 * terminal, no printf.
 *
 * Bounded: at most TREE_MAX named branches, and as many that the shell kept by itself
 * (/new, /retry, what was undone, a shifted context): the oldest of those makes room, but
 * never "main" or the current one.
 * Every function either does all of it or, with an error, nothing. */
#ifndef DBRX_REPL_TIMELINE_H
#define DBRX_REPL_TIMELINE_H

#include "repl/session.h"
#include "repl/spans.h"

enum { TREE_MAX = 64, TREE_NAME = 40 };

/* A prompt and its reply, either may be empty: fed ids have no reply, /continue no prompt. */
struct turn {
    uint32_t begin, reply, end;            /* prompt [begin,reply), reply [reply,end)        */
    enum sess_finish finish;               /* SESS_NO_REPLY: nothing was asked of the model  */
    uint64_t seed, state;                  /* the seed in use; random numbers at its begin   */
    char    *settings;                     /* "name=value\n"..., those that drew the reply; owned */
    struct spans by;                       /* the backends that made the reply's tokens, by
                                              position: "cpu-blas isa=plain"; owned           */
    uint8_t  chat;                         /* the prompt was framed as a message             */
    uint8_t  moved;                        /* a context it was drawn in has been cut off since */
};

struct branch {
    char    *name, *from;                  /* from: the branch it was forked off, or NULL    */
    uint8_t  automatic;                    /* named by the shell, may make room              */
    int32_t *token;                        /* [n] unless current                             */
    uint32_t n;
    struct turn *turn;                     /* [n_turns], tile [0,n)                          */
    uint32_t n_turns, cap_turns;
    uint64_t seed, state;                  /* when it was left                               */
    struct branch *undone;                 /* all of it as it was before /undo, or NULL      */
    uint32_t *step;                        /* [n_steps] turns there were before each undo    */
    uint32_t n_steps;
};

enum tree_change { TREE_KEPT_UNDONE, TREE_DROPPED };

struct tree {
    struct sess *sess;                     /* not owned                                      */
    struct branch **branch;                /* [n], in order of birth                         */
    uint32_t n;
    struct branch *now;
    uint64_t seed;                         /* of the current branch                          */
    uint64_t said;                         /* turns added, ever                              */
    /* NULL, or told of branches that come and go unasked: what was undone became one when
     * something new was said; the oldest made room (its name is valid during the call)       */
    void   (*changed)(void *ctx, enum tree_change, const char *name);
    void    *changed_ctx;
};

struct tree *tree_new(struct sess *);      /* one empty branch, "main"; NULL: no memory      */
void tree_free(struct tree *);
void branch_free(struct branch *);         /* NULL is fine */

struct branch *tree_find(const struct tree *, const char *name);        /* or NULL */
int branch_name_ok(const char *name);      /* letters, digits and . _ -, at most TREE_NAME   */
const int32_t *branch_tokens(const struct tree *, const struct branch *, uint32_t *n);
/* Leading tokens that both have. */
uint32_t branch_common(const struct tree *, const struct branch *, const struct branch *);

void tree_seed(struct tree *, uint64_t seed);          /* restarts the current one's random numbers */

/* What was just said or fed: a turn from the last one's end to the timeline's, with today's
 * seed and random numbers; a reply that grows later sets its end.  Takes settings (may be
 * NULL).  Ends redo: what was undone becomes a branch "undone-N". */
dbrx_status tree_add(struct tree *, struct turn, struct dbrx_error *);
struct turn *tree_last(const struct tree *);           /* the current branch's, or NULL */
/* The turns follow a timeline that somebody else changed: cut, or one turn more. */
dbrx_status tree_settle(struct tree *, struct dbrx_error *);

/* A copy of the current branch under another name (NULL: "stem-N"), and there we are.
 * Its first n_turns turns only.  The one left behind stays as it is. */
dbrx_status tree_fork(struct tree *, const char *name, const char *stem, uint32_t n_turns,
                      struct dbrx_error *);
dbrx_status tree_switch(struct tree *, struct branch *, struct dbrx_error *);
/* An empty one, "new-N", unless this one is empty. */
dbrx_status tree_fresh(struct tree *, struct dbrx_error *);
dbrx_status tree_drop(struct tree *, struct branch *, struct dbrx_error *);   /* not the current one */

/* Takes back n > 0 turns, or as many as there are; returns how many. */
dbrx_status tree_undo(struct tree *, uint32_t n, uint32_t *undone, struct dbrx_error *);
/* What the last undo took; 0 turns if there is nothing. */
dbrx_status tree_redo(struct tree *, uint32_t *redone, struct dbrx_error *);
/* What any branch could still redo becomes a branch "undone-N", as if something new were said. */
dbrx_status tree_keep_undone(struct tree *, struct dbrx_error *);

/* Makes room for `need` tokens and more: keeps the first `keep` ones, drops whole turns
 * behind them, the oldest first; in a reply the last one loses tokens instead.  A
 * token `end` that then would follow the kept ones goes too (-1: none).  The timeline as
 * it was stays as a branch "full-N".  DBRX_E_FULL when there is no way. */
struct shift { uint32_t turns, tokens; const char *kept_as; };
dbrx_status tree_shift(struct tree *, uint32_t need, uint32_t keep, int32_t end, int in_reply,
                       struct shift *, struct dbrx_error *);

/* Branches from elsewhere (checked by the caller; taken, the array is not), the current one
 * among them, in place of these; what they do not have stays, under a free name. */
dbrx_status tree_adopt(struct tree *, struct branch **, uint32_t n, uint32_t now, struct dbrx_error *);

#endif
