/* repl/grammar/charset.c -- see charset.h. */
#include "repl/grammar/charset.h"

#include <stdlib.h>

void charset_free(struct charset *s)
{
    free(s->range);
    *s = (struct charset){ 0 };
}

void charset_add(struct charset *s, uint32_t lo, uint32_t hi)
{
    if (s->n == s->cap) {
        size_t cap = s->cap ? 2 * s->cap : 8;
        struct char_range *range = realloc(s->range, cap * sizeof *range);
        if (!range) {
            s->failed = 1;
            return;
        }
        s->range = range;
        s->cap = cap;
    }
    s->range[s->n++] = (struct char_range){ lo, hi };
}

static int by_lo(const void *a, const void *b)
{
    uint32_t x = ((const struct char_range *)a)->lo, y = ((const struct char_range *)b)->lo;
    return (x > y) - (x < y);
}

static void sort_and_join(struct charset *s)
{
    size_t n = 0;
    if (s->n)
        qsort(s->range, s->n, sizeof *s->range, by_lo);
    for (size_t i = 0; i < s->n; i++) {
        struct char_range r = s->range[i], *last = n ? &s->range[n - 1] : NULL;
        if (last && r.lo <= last->hi + 1)
            last->hi = r.hi > last->hi ? r.hi : last->hi;
        else
            s->range[n++] = r;
    }
    s->n = n;
}

static void complement(struct charset *s)
{
    struct charset out = { 0 };
    uint32_t next = 0;
    for (size_t i = 0; i < s->n; i++) {
        if (s->range[i].lo > next)
            charset_add(&out, next, s->range[i].lo - 1);
        next = s->range[i].hi + 1;
    }
    if (next <= CHAR_MAX_POINT)
        charset_add(&out, next, CHAR_MAX_POINT);
    out.failed |= s->failed;
    free(s->range);
    *s = out;
}

void charset_done(struct charset *s, int negated)
{
    /* not in the complement of (the complement and the surrogates) */
    sort_and_join(s);
    if (!negated)
        complement(s);
    charset_add(s, 0xd800, 0xdfff);
    sort_and_join(s);
    complement(s);
}

int charset_has(const struct charset *s, uint32_t c)
{
    for (size_t i = 0; i < s->n && s->range[i].lo <= c; i++)
        if (c <= s->range[i].hi)
            return 1;
    return 0;
}

size_t char_encode(uint32_t c, unsigned char *out)
{
    if (c < 0x80)
        return out[0] = (unsigned char)c, 1;
    size_t n = c < 0x800 ? 2 : c < 0x10000 ? 3 : 4;
    for (size_t i = n; i-- > 1; c >>= 6)
        out[i] = (unsigned char)(0x80 | (c & 63));
    out[0] = (unsigned char)(0xf00 >> n | c);
    return n;
}

int32_t char_decode(const char *s, size_t n, size_t *len)
{
    const unsigned char *b = (const unsigned char *)s;
    size_t want = *b < 0x80 ? 1 : *b < 0xc0 ? 0 : *b < 0xe0 ? 2 : *b < 0xf0 ? 3 : *b < 0xf8 ? 4 : 0;
    static const uint32_t least[] = { 0, 0, 0x80, 0x800, 0x10000 };
    uint32_t c = want == 1 ? *b : *b & (0x7fu >> want);
    if (!want || want > n)
        return -1;
    for (size_t i = 1; i < want; i++) {
        if ((b[i] & 0xc0) != 0x80)
            return -1;
        c = c << 6 | (b[i] & 63u);
    }
    if (c < least[want] || c > CHAR_MAX_POINT || (c >= 0xd800 && c <= 0xdfff))
        return -1;
    *len = want;
    return (int32_t)c;
}
