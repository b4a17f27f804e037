/* repl/words.h -- small things done with words: take one off a line, find one in a
 * table by name, prefix or likeness, make any bytes fit to print. */
#ifndef DBRX_REPL_WORDS_H
#define DBRX_REPL_WORDS_H

#include <stddef.h>
#include <stdio.h>
#include <sys/types.h>

/* Of a text, of a line: what is longer is a mistake, and would take all memory there is. */
enum { TEXT_MOST = 1 << 30, LINE_MOST = 1 << 28 };
/* As getline(), but a line of more than LINE_MOST bytes is EFBIG.  -1 is the end if feof(f),
 * else an error, out of memory included: errno. */
ssize_t text_line(char **line, size_t *cap, FILE *f);

/* The i-th name of a table, NULL past its end. */
typedef const char *word_name(size_t i);

/* Index of `word`, or with `prefix` of the only name it begins; -1: none, -2: several. */
int word_find(const char *word, word_name *, int prefix);
/* The names that `word` begins, as "a, b or c" (with `before` in front of each); how many there are. */
size_t word_list(const char *word, word_name *name, const char *before, char *out, size_t size);
/* The name most like `word`, when one is close; else NULL. */
const char *word_nearest(const char *word, word_name *);

/* Takes the next blank-separated word off *line, in place: "..." and '...' keep blanks.
 * NULL at the end.  An unclosed quote reaches to the end. */
char *word_next(char **line);

/* A copy that is valid UTF-8 without NUL bytes (U+FFFD instead).  NULL: out of memory. */
char *text_clean(const char *text, size_t len);
/* The same, one line: newlines, tabs and other controls as \n, \t, \x1b; free() it. */
char *text_quoted(const char *text, size_t len);

/* Text without the one pair of quotes around all of it, if there is one; in place. */
char *unquoted(char *text);

#endif
