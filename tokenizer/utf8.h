/* tokenizer/utf8.h -- reading UTF-8, one character at a time.
 *
 * Knows nothing of tokens.  utf8_span judges bytes of any origin; utf8_char reads
 * text that is already known to be valid. */
#ifndef DBRX_UTF8_H
#define DBRX_UTF8_H

#include <stddef.h>
#include <stdint.h>

#define UTF8_REPLACEMENT "\xef\xbf\xbd"        /* U+FFFD */

/* What s[n], n > 0, begins with:
 *   1..4   a valid character of so many bytes
 *   0      the beginning of one, cut off by the end
 *   -1..-3 so many bytes that can never become one: the longest that look like a character's
 *          beginning (Unicode's "maximal subpart", what Python replaces by one U+FFFD) */
static inline int utf8_span(const unsigned char *s, size_t n)
{
    if (s[0] < 0x80)
        return 1;
    if (s[0] < 0xc2 || s[0] > 0xf4)
        return -1;
    int len = s[0] < 0xe0 ? 2 : s[0] < 0xf0 ? 3 : 4;
    /* the second byte keeps out overlong forms, surrogates and what lies above U+10FFFF */
    unsigned lo = s[0] == 0xe0 ? 0xa0 : s[0] == 0xf0 ? 0x90 : 0x80;
    unsigned hi = s[0] == 0xed ? 0x9f : s[0] == 0xf4 ? 0x8f : 0xbf;
    for (int i = 1; i < len; i++, lo = 0x80, hi = 0xbf) {
        if ((size_t)i == n)
            return 0;
        if (s[i] < lo || s[i] > hi)
            return -i;
    }
    return len;
}

/* The character at s and, in *len, its bytes.  s is valid UTF-8. */
static inline uint32_t utf8_char(const unsigned char *s, int *len)
{
    if (s[0] < 0x80)
        return *len = 1, s[0];
    if (s[0] < 0xe0)
        return *len = 2, (s[0] & 31u) << 6 | (s[1] & 63u);
    if (s[0] < 0xf0)
        return *len = 3, (s[0] & 15u) << 12 | (s[1] & 63u) << 6 | (s[2] & 63u);
    return *len = 4, (s[0] & 7u) << 18 | (s[1] & 63u) << 12 | (s[2] & 63u) << 6 | (s[3] & 63u);
}

/* If text[len] is not valid: *repaired, to be freed, has U+FFFD for what is not, and
 * *repaired_len is its length.  If it is valid they stay as they are.  0, or -1: no memory. */
int utf8_repair(const char *text, size_t len, char **repaired, size_t *repaired_len);

#endif
