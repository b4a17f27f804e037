/* repl/line.h -- one edited line at a time from a terminal, with history.
 *
 * The only file that knows readline (or libedit) is line.c, with complete.c. */
#ifndef DBRX_REPL_LINE_H
#define DBRX_REPL_LINE_H

struct shell;

enum line_result { LINE_TEXT,              /* *line is malloc'd; pasted newlines are kept */
                   LINE_CLEARED,           /* Ctrl-C */
                   LINE_END,               /* Ctrl-D */
                   LINE_KILLED };          /* SIGTERM */

void line_open(struct shell *);            /* the shell is what completion asks */
enum line_result line_read(const char *prompt, char **line);
void line_close(void);

#endif
