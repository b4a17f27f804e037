/* repl/instruments.h -- the host of observers (plugins/observer.h): opens every module that is
 * one, tells it the timeline's tokens and routes, puts its commands into the table and shows
 * its rows.  Knows no instrument by name. */
#ifndef DBRX_REPL_INSTRUMENTS_H
#define DBRX_REPL_INSTRUMENTS_H

#include "plugins/loader.h"

struct shell;
struct instruments;

/* The instruments among the modules, their commands added to the table (commands.h).  Nothing
 * in a module is called but its get().  NULL: no memory. */
struct instruments *instruments_find(const struct modules *);
/* Opens them; those that fail are listed with the reason and harm nobody. */
void instruments_open(struct instruments *, struct shell *);
void instruments_free(struct instruments *);           /* their commands go too; NULL is fine */

/* Tells them what the timeline has now: a struct sess's `synced`, ctx the instruments. */
void instruments_follow(void *ctx);

/* Around the writing of a reply: at a terminal what they show live has the bottom of the screen
 * meanwhile.  Begin at the left margin. */
void instruments_live_begin(struct instruments *);
void instruments_live_end(struct instruments *);


#endif
