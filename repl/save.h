/* repl/save.h -- a session in a file: docs/session-file.md.
 *
 * Writes what is there, and reads what a stranger may have made: the checksum first, then
 * every field, and nothing of the running session is touched.  No terminal, no printf. */
#ifndef DBRX_REPL_SAVE_H
#define DBRX_REPL_SAVE_H

#include "repl/timeline.h"
#include "repl/vars.h"

#include <stdio.h>

struct save_source {
    const struct tree *tree;
    const struct vars *vars;
    const struct dbrx_model_desc *desc;
    const char *model, *backend;           /* for people */
    int kv;                                /* the backend holds the whole timeline: its KV too */
    const char *steering;                  /* as steer_text() has it, or NULL */
};

/* 0, or -1 and one sentence in err; then an older file is as it was. */
int save_write(const char *path, const struct save_source *, char *err, size_t size);

/* Does that regular file begin as a saved session does?  Other things are not written over it. */
int save_is_one(const char *path);

struct saved {
    FILE *f;                               /* at the KV blocks */
    char *model, *backend, *steering;
    struct branch **branch;                /* [n], tokens and turns checked */
    uint32_t n, now;
    struct vars vars;                      /* those here, changed by those of the file */
    uint32_t n_kv;                         /* positions of the current branch with KV; 0: none */
    int same;                              /* made from this very checkpoint */
    const struct dbrx_config *config;
    uint64_t left;                         /* bytes of KV not read yet */
    uint32_t *covered;                     /* [n_layers] positions read */
    char *block;
};

/* 0, or -1 and one sentence in err.  name: what the checkpoint here is called.  tokens_only: another checkpoint's will do, if its ids
 * are in this vocabulary; then there is no KV. */
int save_read(const char *path, const struct dbrx_model_desc *, const char *name, uint32_t max_pos, const struct vars *,
              int tokens_only, struct saved *, char *err, size_t size);
/* Hands out the KV, a block a call; DBRX_STOPPED: all was there. */
dbrx_status save_next_kv(void *saved, struct dbrx_kv_block *, struct dbrx_error *);
void saved_free(struct saved *);           /* branches too, unless n was set to 0 */

/* ---- the layout, for both sides ---- */
#define SAVE_MAGIC "dbrxsess"
enum { SAVE_VERSION = 1, SAVE_HEAD = 32, SAVE_TAIL = 4, SAVE_KV_HEAD = 16, SAVE_KV_STEP = 64 };

#endif
