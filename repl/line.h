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

/* From here on the terminal is silent but for line_read: what is typed meanwhile is neither
 * echoed nor lost, the next line_read finds it, Ctrl-D and pasted newlines included. */
void line_quiet(void);
void line_open(struct shell *);            /* the shell is what completion asks */
/* more: the line goes on with a prompt, in which Tab is a tab. */
enum line_result line_read(const char *prompt, int more, char **line);
void line_remember(const char *text);      /* in the history */
void line_close(void);
/* The terminal as it was found, for another program and at the end.  Was it quiet? */
int  line_give_back(void);

#endif
