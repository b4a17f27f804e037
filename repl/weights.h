/* repl/weights.h -- a checkpoint written anew: what "dbrx quantize" and "dbrx convert" share.
 *
 * Opens one, streams its tensors (recode.h) into a GGUF file or a Hugging Face directory that
 * is there whole or not at all, its tokenizer with it, shows how far it is and ends at Ctrl-C. */
#ifndef DBRX_REPL_WEIGHTS_H
#define DBRX_REPL_WEIGHTS_H

#include "backends/model/gguf_write.h"
#include "repl/options.h"
#include "repl/recode.h"
#include "repl/render.h"
#include "tokenizer/chat.h"

struct weights {
    struct render out;
    struct ckpt  *in;
    struct tok   *tok;                     /* or NULL                                   */
    struct chat   chat;
    struct recode r;
    unsigned      threads;                 /* as many as there are processors           */
    struct atomic *file;                   /* being written                             */
};

/* 0 or an exit code; weights_close in any case. */
int  weights_open(struct weights *, const char *in, int json);
int  weights_close(struct weights *, int code);       /* the final exit code; ends by a signal that came */

/* To what r.v says.  0 or an exit code, after saying what is wrong. */
int  weights_write_gguf(struct weights *, const char *path, uint32_t file_type);
int  weights_write_directory(struct weights *, const char *path);

/* Within the two: a file of head[n] and the tensors.  0 or an exit code, after saying what is wrong. */
struct atomic;
int  weights_open_file(struct atomic *, const char *path);     /* 0 or an errno */
int  weights_file(struct weights *, struct atomic *, const char *path, const void *head, size_t n);

extern const struct option_row quantize_options[], convert_options[];
int tool_quantize(int argc, char **argv);
int tool_convert(int argc, char **argv);

#endif
