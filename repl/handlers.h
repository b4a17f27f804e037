/* repl/handlers.h -- one function a command; see the table in commands.c. */
#ifndef DBRX_REPL_HANDLERS_H
#define DBRX_REPL_HANDLERS_H

#include <stdint.h>

struct shell;
struct args;

int handle_backend(struct shell *, const struct args *);
int handle_dump(struct shell *, const struct args *);      /* dump.c */
int handle_feed(struct shell *, const struct args *);
int handle_help(struct shell *, const struct args *);      /* help.c */
int handle_new(struct shell *, const struct args *);
int handle_quit(struct shell *, const struct args *);
int handle_route(struct shell *, const struct args *);     /* route.c */
int handle_set(struct shell *, const struct args *);
int handle_stats(struct shell *, const struct args *);
int handle_tokens(struct shell *, const struct args *);

/* Changes a setting and what depends on it.  0 or -1. */
int set_value(struct shell *, int var, const char *text);
/* The backends found, one row each. */
void list_backends(struct shell *);
/* The timeline evaluated to its end, so that every token's route is known.  0 or -1;
 * `undone` says what an interrupt left as it was. */
int catch_up(struct shell *, const char *undone);
/* A token's text on one line: quoted controls, <|id|> where it has none.  free() it. */
char *token_text(const struct shell *, int32_t id);

#endif
