/* repl/help.h -- everything the tables say about themselves. */
#ifndef DBRX_REPL_HELP_H
#define DBRX_REPL_HELP_H

struct render;

void help_commands(struct render *);       /* the list of /help, rows in JSON      */
void help_markdown(void);                  /* the same for the README, on stdout   */

#endif
