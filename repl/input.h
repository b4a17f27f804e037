/* repl/input.h -- typed lines to prompts: what continues on the next line, and how.
 *
 *   """            a block: everything up to the next """ at the end of a line, newlines,
 *   some lines     slashes and all
 *   """
 *   to be \        a backslash at the end: the next line belongs to it, newline between
 *   continued      (an even number of them is text)
 *
 * The same at the terminal and in scripts.  A command is always one line. */
#ifndef DBRX_REPL_INPUT_H
#define DBRX_REPL_INPUT_H

#include <stddef.h>

struct input {                             /* zero-initialise */
    char  *text;                           /* [len] and a NUL */
    size_t len, cap;
    enum { INPUT_CLOSED, INPUT_BLOCK, INPUT_JOIN } open;       /* what the next line is for  */
    int    literal;                        /* a prompt, whatever it begins with              */
    int    begun;                          /* the block has its first line                   */
};

/* Takes a line without its newline; a pasted one has others inside.  1: text is complete;
 * 0: it goes on with the next line; -1: out of memory, and the text is dropped. */
int  input_line(struct input *, const char *line, size_t len);
/* What there is, is all. */
void input_end(struct input *);
/* Drops what there is. */
void input_drop(struct input *);
void input_free(struct input *);

#endif
