/* repl/shell.h -- the shell: what is open, and what becomes of a line.
 *
 * A line is a command or a prompt.  Commands go through the table (commands.h), prompts
 * to the model (reply.c).  The one struct that handlers get. */
#ifndef DBRX_REPL_SHELL_H
#define DBRX_REPL_SHELL_H

#include "backends/model/checkpoint.h"
#include "repl/idlist.h"
#include "repl/render.h"
#include "repl/session.h"
#include "repl/vars.h"
#include "tokenizer/chat.h"

#include <stdio.h>

enum { EXIT_OK, EXIT_INTERNAL, EXIT_USAGE, EXIT_COMMAND, EXIT_CHECKPOINT, EXIT_NO_BACKEND };

struct shell_options {
    const char *model, *backend, *module_path;     /* NULL: the default ones            */
    uint32_t ctx;                          /* 0: the checkpoint's, at most DEFAULT_CTX  */
};
enum { DEFAULT_CTX = 4096 };               /* a full context can cost gigabytes         */

struct shell {
    struct render out;
    struct vars   vars;
    int interactive, quit;

    struct ckpt *ckpt;
    char *name;                            /* the checkpoint's folder, for people       */
    struct tok *tok;                       /* NULL: tok_why says why                    */
    char tok_why[256];
    struct chat chat;
    int32_t eos[CKPT_MAX_EOS + 2];         /* what ends a reply                         */
    uint32_t n_eos;

    struct modules modules;
    struct dbrx_host host;
    struct disp *disp;
    struct sess *sess;

    struct id_list logit_bias, suppress_tokens;    /* the settings of these names, read */

    uint64_t seed;                         /* of this conversation                      */
    int seed_shown;
    int reply_open;                        /* chat: the model's turn is not yet closed  */
};

/* Opens checkpoint, tokenizer and backend; vars are set already.  0, or the exit code
 * after saying what is wrong. */
int  shell_open(struct shell *, const struct shell_options *);
void shell_close(struct shell *);

/* One line, [len] bytes: a command or a prompt.  0, or -1: it failed and said so. */
int shell_line(struct shell *, const char *line, size_t len);
/* Lines of a file until the first failure; 0 or -1.  name is for messages. */
int shell_script(struct shell *, FILE *, const char *name);
/* Prompts until /quit, Ctrl-D or SIGTERM. */
void shell_interactive(struct shell *);

/* Reads the settings that are lists of tokens.  0, or -1 with one sentence in err, and the
 * lists are as they were. */
int shell_read_lists(struct shell *, char *err, size_t size);
/* Forgets the conversation; a random seed is drawn anew. */
void shell_new(struct shell *);
/* Starts the random numbers again after the setting changed. */
void shell_reseed(struct shell *);
int shell_knows_threads(const struct shell *, const char *backend);
/* Another backend for this conversation.  opt: NULL-ended "k=v"; threads is added from its
 * variable when the backend knows the option.  0, or -1: nothing changed, and said so. */
int shell_use(struct shell *, const char *name, const char *const *opt, int replay);
/* A dbrx_status other than OK, as an error; -1. */
int shell_failed(struct shell *, dbrx_status, const struct dbrx_error *);

/* repl/reply.c: text to the model, its reply to the renderer.  0 or -1. */
int reply_to(struct shell *, const char *text, size_t len);
int reply_is_eos(const struct shell *, int32_t id);

#endif
