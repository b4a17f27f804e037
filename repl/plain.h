/* repl/plain.h -- strangers' text on a terminal: what a model, a checkpoint or a file name says
 * is shown, and moves no cursor, sets no title and turns no writing direction.
 *
 * Knows no colours: what the program itself wants a terminal to do never comes this way.  The
 * terminal is taken for one that reads UTF-8. */
#ifndef DBRX_REPL_PLAIN_H
#define DBRX_REPL_PLAIN_H

#include <stddef.h>
#include <stdio.h>

/* Bytes of the character that text[len], len > 0, begins with; *harmless is 0 for what a terminal
 * may obey: controls (C0 but newline and tab, DEL, C1), U+2028 to U+202E and U+2066 to U+2069
 * (lines and writing directions), and bytes that are no UTF-8. */
size_t plain_char(const char *text, size_t len, int *harmless);
int    plain_is(const char *text);         /* nothing but harmless ones */

/* text, what is not harmless as ^[ or U+FFFD. */
void plain_put(FILE *, const char *text, size_t len);
/* A JSON text of one line, what is not harmless and every `also` as \u009b: the same value. */
void plain_json(FILE *, const char *json, char also);
/* "dbrx: " and the sentence, a line on stderr. */
__attribute__((format(printf, 1, 2)))
void plain_error(const char *fmt, ...);

/* --raw: plain_put puts everything as it is. */
void plain_raw(void);

#endif
