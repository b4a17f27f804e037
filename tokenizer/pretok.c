/* tokenizer/pretok.c -- the scanner for cl100k_base's pattern.
 *
 * A regular expression engine would try the pattern's alternatives one after the
 * other; here the class of the first character or two decides which it is.  Knows
 * the pattern and the Unicode tables, nothing else. */
#include "tokenizer/pretok.h"

#include "tokenizer/unicode_tables.h"
#include "tokenizer/utf8.h"

typedef unsigned char byte;

int pretok_class(uint32_t c)
{
    return unicode_class[unicode_page[c >> 8] * 64 + (c >> 2 & 63)] >> (c & 3) * 2 & 3;
}

/* ASCII has a table of its own: one load for nearly every character of most texts */
#define O PRETOK_OTHER
#define L PRETOK_LETTER
#define N PRETOK_NUMBER
#define S PRETOK_SPACE
static const byte ascii_class[128] = {
    O,O,O,O,O,O,O,O,O,S,S,S,S,S,O,O,O,O,O,O,O,O,O,O,O,O,O,O,O,O,O,O,
    S,O,O,O,O,O,O,O,O,O,O,O,O,O,O,O,N,N,N,N,N,N,N,N,N,N,O,O,O,O,O,O,
    O,L,L,L,L,L,L,L,L,L,L,L,L,L,L,L,L,L,L,L,L,L,L,L,L,L,L,O,O,O,O,O,
    O,L,L,L,L,L,L,L,L,L,L,L,L,L,L,L,L,L,L,L,L,L,L,L,L,L,L,O,O,O,O,O,
};
#undef O
#undef L
#undef N
#undef S

static inline int class_at(const byte *s, int *len)
{
    if (*s < 0x80)
        return *len = 1, ascii_class[*s];
    return pretok_class(utf8_char(s, len));
}

static inline int is_newline(byte c)
{
    return c == '\n' || c == '\r';
}

/* the end of the run of characters of one class */
static inline const byte *skip(const byte *s, const byte *end, int class)
{
    int len;
    while (s < end && class_at(s, &len) == class)
        s += len;
    return s;
}

static const byte *skip_newlines(const byte *s, const byte *end)
{
    while (s < end && is_newline(*s))
        s++;
    return s;
}

/* (?i:'s|'t|'re|'ve|'m|'ll|'d) at the apostrophe s; NULL if it is something else */
static const byte *contraction(const byte *s, const byte *end)
{
    if (end - s < 2)
        return NULL;
    int a = s[1] | 32, b = end - s > 2 ? s[2] | 32 : 0;
    if (a == 's' || a == 't' || a == 'm' || a == 'd')
        return s + 2;
    if ((a == 'r' && b == 'e') || (a == 'v' && b == 'e') || (a == 'l' && b == 'l'))
        return s + 3;
    if (s[1] == 0xc5 && end - s > 2 && s[2] == 0xbf)
        return s + 3;                           /* U+017F, the long s, folds to s */
    return NULL;
}

/* White space at s that belongs to no word or mark after it. */
static const byte *space(const byte *s, const byte *end)
{
    const byte *p = s, *last = s, *newline = NULL;
    int len;
    for (; p < end && class_at(p, &len) == PRETOK_SPACE; p += len) {
        last = p;
        if (is_newline(*p))
            newline = p + 1;
    }
    if (newline)
        return newline;                         /* \s*[\r\n]+ */
    return p < end && last > s ? last : p;      /* \s+(?!\S) leaves the last to what follows; \s+ */
}

const char *pretok_next(const char *text, const char *text_end)
{
    const byte *s = (const byte *)text, *end = (const byte *)text_end, *p;
    int len, class = class_at(s, &len), next_len;

    if (class == PRETOK_LETTER)
        return (const char *)skip(s + len, end, PRETOK_LETTER);
    if (class == PRETOK_NUMBER) {
        p = s + len;
        for (int n = 1; n < 3 && p < end && class_at(p, &len) == PRETOK_NUMBER; n++)
            p += len;
        return (const char *)p;
    }
    if (*s == '\'' && (p = contraction(s, end)))
        return (const char *)p;

    p = s + len;
    int next = p < end ? class_at(p, &next_len) : -1;
    if (next == PRETOK_LETTER && !is_newline(*s))
        return (const char *)skip(p + next_len, end, PRETOK_LETTER);
    if (class == PRETOK_OTHER || (*s == ' ' && next == PRETOK_OTHER))
        return (const char *)skip_newlines(skip(p, end, PRETOK_OTHER), end);
    return (const char *)space(s, end);
}
