/* repl/handlers.h -- one function a command; see the table in commands.c. */
#ifndef DBRX_REPL_HANDLERS_H
#define DBRX_REPL_HANDLERS_H

#include <stddef.h>
#include <stdint.h>

struct shell;
struct args;
struct routing;
struct set;

int handle_backend(struct shell *, const struct args *);   /* backends.c */
int handle_atlas(struct shell *, const struct args *);     /* atlas.c */
int handle_backend(struct shell *, const struct args *);
int handle_ablate(struct shell *, const struct args *);    /* ablate.c */
int handle_ban(struct shell *, const struct args *);       /* steering.c */
int handle_bias(struct shell *, const struct args *);      /* steering.c */
int handle_bench(struct shell *, const struct args *);     /* bench.c */
int handle_branch(struct shell *, const struct args *);    /* turns.c */
int handle_compare(struct shell *, const struct args *);   /* compare.c */
int handle_continue(struct shell *, const struct args *);  /* turns.c */
int handle_dump(struct shell *, const struct args *);      /* dump.c */
int handle_echo(struct shell *, const struct args *);      /* script.c */
int handle_edit(struct shell *, const struct args *);      /* edit.c */
int handle_export(struct shell *, const struct args *);    /* transcript.c */
int handle_feed(struct shell *, const struct args *);
int handle_force(struct shell *, const struct args *);     /* steering.c */
int handle_help(struct shell *, const struct args *);      /* help.c */
int handle_k(struct shell *, const struct args *);         /* steering.c */
int handle_instruments(struct shell *, const struct args *);   /* instruments.c */
int handle_lens(struct shell *, const struct args *);      /* lens.c */
int handle_load(struct shell *, const struct args *);      /* store.c */
int handle_logits(struct shell *, const struct args *);    /* probs.c */
int handle_new(struct shell *, const struct args *);
int handle_output(struct shell *, const struct args *);    /* script.c */
int handle_pick(struct shell *, const struct args *);      /* probs.c */
int handle_prompt(struct shell *, const struct args *);    /* transcript.c */
int handle_quit(struct shell *, const struct args *);
int handle_read(struct shell *, const struct args *);      /* edit.c */
int handle_redo(struct shell *, const struct args *);      /* turns.c */
int handle_replay(struct shell *, const struct args *);    /* replay.c */
int handle_retry(struct shell *, const struct args *);     /* turns.c */
int handle_route(struct shell *, const struct args *);     /* route.c */
int handle_save(struct shell *, const struct args *);      /* store.c */
int handle_scale(struct shell *, const struct args *);     /* steering.c */
int handle_set(struct shell *, const struct args *);
int handle_setting(struct shell *, const struct args *);   /* the command's name is the setting's */
int handle_source(struct shell *, const struct args *);    /* script.c */
int handle_stats(struct shell *, const struct args *);
int handle_steer(struct shell *, const struct args *);     /* steering.c */
int handle_surprise(struct shell *, const struct args *);  /* probs.c */
int handle_swap(struct shell *, const struct args *);      /* steering.c */
int handle_switch(struct shell *, const struct args *);    /* turns.c */
int handle_tokens(struct shell *, const struct args *);
int handle_transcript(struct shell *, const struct args *); /* transcript.c */
int handle_undo(struct shell *, const struct args *);      /* turns.c */

/* Says which backend is current and where its KV came from. */
void backend_said(struct shell *);
/* Changes or, without text, shows the setting of that name; with `prefix` an unambiguous
 * beginning of it will do.  0 or -1. */
int set_named(struct shell *, const char *name, int prefix, const char *text);
/* The timeline evaluated to its end, so that every token's route is known.  0 or -1;
 * `undone` says what an interrupt left as it was. */
int catch_up(struct shell *, const char *undone);
/* The routing of the tokens from .. to - 1, see routing_read.  0 or -1; routing_free() it. */
enum probs { PROBS_NO, PROBS_IF_ROOM, PROBS_YES };     /* IF_ROOM: without them when memory is short */
int shell_routing(struct shell *, uint32_t from, uint32_t to, const uint8_t *tok, enum probs, struct routing *);
/* /export route, of all tokens or a set of them (route.c).  0 or -1 */
int export_route(struct shell *, const char *path, const struct set *tokens);
/* The bytes of n tokens, special ones by name or not at all: *len of them and a NUL.
 * free() it; NULL: no memory. */
char *tokens_text(const struct shell *, const int32_t *id, uint32_t n, int special, size_t *len);
/* How likely `id` is by logits[n], before any filter. */
double prob_of(const float *logits, uint32_t n, int32_t id);
/* A token's text on one line: quoted controls, <|id|> where it has none.  free() it. */
char *token_text(const struct shell *, int32_t id);

#endif
