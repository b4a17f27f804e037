/* repl/shell.h -- the shell: what is open, and what becomes of a line.
 *
 * A line is a command or a prompt.  Commands go through the table (commands.h), prompts
 * to the model (reply.c).  The one struct that handlers get. */
#ifndef DBRX_REPL_SHELL_H
#define DBRX_REPL_SHELL_H

#include "backends/model/checkpoint.h"
#include "repl/idlist.h"
#include "repl/input.h"
#include "repl/render.h"
#include "repl/steer.h"
#include "repl/timeline.h"
#include "repl/vars.h"
#include "tokenizer/chat.h"

#include <stdio.h>
#include <sys/stat.h>

enum { EXIT_OK, EXIT_INTERNAL, EXIT_USAGE, EXIT_COMMAND, EXIT_CHECKPOINT, EXIT_NO_BACKEND };

struct shell_options {
    const char *model, *backend, *module_path;     /* NULL: the default ones            */
    const char *const *backend_opt;        /* its "k=v", NULL-ended, or NULL            */
    const char *out;                       /* of a batch, or NULL: stdout               */
    int insecure;                          /* modules that anybody can write to, too    */
    uint32_t ctx;                          /* 0: the checkpoint's, at most DEFAULT_CTX  */
};
enum { DEFAULT_CTX = 4096 };               /* a full context can cost gigabytes         */

struct shell {
    struct render out;
    struct vars   vars;
    int interactive, quit;
    int in_rc;                             /* settings come from the rc file            */
    const struct script *script;           /* running, or NULL                          */
    char *last_prompt;                     /* or NULL; for /edit                        */
    char *output;                          /* where results go, or NULL: stdout         */
    int old_stdout;                        /* while they do                             */

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
    struct steer *steer;                   /* of the model's choice of experts          */
    struct trie *trie;                     /* of tok, when it was needed                */
    struct constraint *constraint;         /* on replies, or NULL                       */
    char *constraint_from;                 /* the file it was read from                 */
    int constraint_var;                    /* VAR_GRAMMAR or VAR_SCHEMA                 */

    struct instruments *instruments;
    struct labels *labels;                 /* names of experts, or NULL                 */
    struct tree *tree;                     /* the conversation's branches and turns     */
    uint64_t saved, kept_said;             /* tree->said when they were saved, or kept  */
    char *kept;                            /* the file for that, or NULL: not yet       */
    int keep_failed;                       /* ... and that was said                     */
    struct id_list logit_bias, suppress_tokens;    /* the settings of these names, read */
    int seed_shown;
    int show_explained;                    /* what /set show does, here                 */
    uint32_t looked_at, looked_n;          /* /logits: position (0: none), tokens then  */
};

/* Opens checkpoint, tokenizer and backend; vars are set already.  0, or the exit code
 * after saying what is wrong. */
int  shell_open(struct shell *, const struct shell_options *);
void shell_close(struct shell *);

/* One line, [len] bytes: a command or a prompt.  0, or -1: it failed and said so. */
int shell_line(struct shell *, const char *line, size_t len);
/* ... that input.h made of several.  0 or -1. */
int shell_input(struct shell *, const struct input *);
/* A prompt, whatever it begins with.  0 or -1. */
int shell_prompt(struct shell *, const char *text, size_t len);
/* Into the history; literal: it is a prompt, whatever it begins with. */
void shell_remember(const char *text, int literal);
/* Prompts until /quit, Ctrl-D or SIGTERM; with `rc` the rc file comes first. */
void shell_interactive(struct shell *, int rc);

/* repl/store.c.  The conversation to a file; 0, or -1 and a sentence in err. */
int shell_write(const struct shell *, const char *path, int kv, char *err, size_t size);

/* repl/keep.c.  After a line: what is new goes to the state folder, at a terminal; and when a
 * session ends, with what could be redone, unless it was saved.  What cannot be written is said. */
void shell_keep(struct shell *);
void shell_keep_end(struct shell *);
/* The latest file that another session kept, with this checkpoint or `any`, or NULL; free() it. */
char *shell_kept(const struct shell *, int any, struct stat *);

/* repl/script.c.  Lines of a file until the first failure, or as on_error says; 0 or -1.
 * name is for messages. */
int shell_script(struct shell *, FILE *, const char *name);
/* The rc file: settings and commands; what is wrong with it is said and passed over. */
void shell_rc(struct shell *);
/* Ends /output, if it is on; 0 or -1. */
int output_end(struct shell *);

/* repl/edit.c.  All of a file but its last newline, NUL at the end, or NULL after saying
 * why not; free() it. */
char *read_whole(struct shell *, FILE *, const char *name, size_t *len);
/* ... of a regular file of that name. */
char *read_named(struct shell *, const char *name, size_t *len);

/* Reads the settings that are lists of tokens.  0, or -1 with one sentence in err, and the
 * lists are as they were. */
int shell_read_lists(struct shell *, char *err, size_t size);
/* An empty conversation, the one before is kept as a branch; a random seed is drawn anew.
 * 0 or -1. */
int shell_new(struct shell *);
/* Starts the random numbers again after the setting changed. */
void shell_reseed(struct shell *);
uint64_t shell_random(void);               /* 32 bits, for a seed */
int shell_knows_threads(const struct shell *, const char *backend);
/* The options that `backend` is to be opened with: opt, and threads from its variable when the
 * backend knows it and opt does not say.  DBRX_E_INVALID: too many. */
enum { MAX_BACKEND_OPTIONS = 16 };
struct backend_options { const char *all[MAX_BACKEND_OPTIONS + 2]; char threads[64]; };    /* all: NULL-ended */
dbrx_status shell_backend_options(const struct shell *, const char *backend, const char *const *opt,
                                  struct backend_options *, struct dbrx_error *);
/* Another backend for this conversation.  opt: NULL-ended "k=v"; threads is added from its
 * variable when the backend knows the option; how: DISP_*.  0, or -1: nothing changed, and said so. */
int shell_use(struct shell *, const char *name, const char *const *opt, int how);
/* The options that the current backend was opened with, but for `without` ("threads=", or NULL),
 * NULL-ended; they point into text. */
void shell_current_options(const struct shell *, const char *without, char text[160],
                           const char *opt[MAX_BACKEND_OPTIONS + 1]);
/* The setting handover, read; 0, or -1 with a sentence in err: there is no such backend, or beams
 * are searched for. */
struct handover;
int shell_plan(const struct shell *, struct handover *, char *err, size_t size);
/* steering.c: the session follows what sh->steer is now. */
void shell_steer(struct shell *);
/* Reads the file that the setting `labels` names.  0, or -1 with a sentence in err, and they are
 * what they were. */
int shell_set_labels(struct shell *, char *err, size_t size);
/* A dbrx_status other than OK, as an error; -1. */
int shell_failed(struct shell *, dbrx_status, const struct dbrx_error *);

/* repl/constrain.c: makes the constraint and the lists of tokens what the settings say, which
 * may have come from anywhere; call before drawing.  0, or -1 with a sentence in err, and it is what it was. */
int shell_constrain(struct shell *, char *err, size_t size);
/* `var` was set: turns the other one off and reads the file, also if it is the same name.
 * 0, or -1: said why not; all but `var` is as it was. */
int shell_set_constraint(struct shell *, int var);
/* Before the first token of the last turn's reply, or, when that goes on with one that was
 * cut, after it. */
void shell_constrain_turn(struct shell *, uint32_t turn);
/* What may not be the token at pos: banned[n_vocab] until the constraint is used again, or NULL. */
const uint8_t *shell_constrain_token(struct shell *, uint32_t pos);

/* repl/reply.c: text to the model, its reply to the renderer.  0 or -1; empty text goes on
 * without a new prompt. */
int reply_to(struct shell *, const char *text, size_t len);
int reply_is_eos(const struct shell *, int32_t id);

/* What came of a reply; free(text). */
struct said {
    char    *text;                         /* [len] valid UTF-8, as it was shown         */
    size_t   len;
    enum sess_finish why;
};
/* What a reader should know of how a reply ended: "cut at max_tokens"; or NULL. */
const char *reply_note(enum sess_finish);
/* What the colours of a reply mean, or that there are none; once, and before anything of it. */
void reply_explain(struct shell *);
/* Draws the reply of the last turn, which has none yet; shows it unless `quiet`.  said may
 * be NULL. */
int reply_draw(struct shell *, int quiet, struct said *);
/* These ids as a prompt: on the timeline, evaluated, a turn of their own.  Makes room if
 * /set overflow says so.  On failure nothing was added. */
int reply_prompt(struct shell *, const struct tok_ids *, int chat);
/* The ids that a message adds after what is there; NULL text: only closes an open reply. */
int reply_message(struct shell *, const char *role, const char *text, size_t len, struct tok_ids *);
/* Which backends made a turn's tokens, as an array for JSON. */
cJSON *makers_json(const struct spans *);
/* The settings that draw, for sess_generate: as they are now. */
struct sess_gen reply_gen(const struct shell *);
/* sess_generate, or beam search when num_beams asks for it. */
dbrx_status reply_generate(struct shell *, const struct sess_gen *, enum sess_finish *,
                           struct dbrx_error *);
/* ... and as JSON text, for a turn; NULL: no memory. */
char *reply_settings(const struct shell *);

#endif
