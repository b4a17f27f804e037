/* repl/help.h -- everything the tables say about themselves. */
#ifndef DBRX_REPL_HELP_H
#define DBRX_REPL_HELP_H

#include <stddef.h>

struct render;

void help_commands(struct render *);       /* the list of /help, rows in JSON; a
                                              screenful at a terminal           */
struct help_page { const char *name, *brief, *text, *example; };
const struct help_page *help_page(size_t i);   /* the topics that are no row of a table; NULL at the end */
const char *help_topic(size_t i);          /* names that /help takes besides commands and settings */
void help_markdown(void);                  /* the same for the README, on stdout   */

#endif
