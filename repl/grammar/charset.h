/* repl/grammar/charset.h -- sets of Unicode code points, as sorted ranges.
 *
 * What [a-z] in a grammar and in a regular expression mean alike.  Surrogates are no
 * characters: charset_done takes them out.  Knows no syntax. */
#ifndef DBRX_REPL_CHARSET_H
#define DBRX_REPL_CHARSET_H

#include <stddef.h>
#include <stdint.h>

enum { CHAR_MAX_POINT = 0x10ffff };

struct charset {
    struct char_range { uint32_t lo, hi; } *range;     /* [n] */
    size_t n, cap;
    int failed;                            /* out of memory; everything after is void */
};                                         /* zero-initialise; charset_free */

void charset_free(struct charset *);
void charset_add(struct charset *, uint32_t lo, uint32_t hi);
/* Sorts and joins, then turns into its complement if asked, then drops surrogates. */
void charset_done(struct charset *, int negated);
int  charset_has(const struct charset *, uint32_t c);  /* after charset_done */

/* The UTF-8 of c at out[4]; its length. */
size_t char_encode(uint32_t c, unsigned char *out);
/* The character at s[n], n > 0, and its length in *len; -1 when s is not UTF-8. */
int32_t char_decode(const char *s, size_t n, size_t *len);

#endif
