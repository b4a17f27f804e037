/* repl/complete.h -- what Tab offers, by the types in the command table. */
#ifndef DBRX_REPL_COMPLETE_H
#define DBRX_REPL_COMPLETE_H

struct shell;
void complete_init(struct shell *);
void complete_off(int off);                /* Tab is a tab: in a prompt of several lines */

#endif
