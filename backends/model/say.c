/* backends/model/say.c -- error sentences, and names from files made harmless
 * in them.  Knows nothing of checkpoints. */
#include "backends/model/reader.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

/* Bytes of the valid UTF-8 character at s, 0 if there is none: a control character
 * (C0, DEL, C1), a stray or overlong byte, a surrogate. */
static size_t char_len(const unsigned char *s)
{
    static const uint32_t least[5] = { 0, 0, 0x80, 0x800, 0x10000 };
    size_t n = s[0] < 0x80 ? 1 : s[0] >> 5 == 6 ? 2 : s[0] >> 4 == 14 ? 3 :
               s[0] >> 3 == 30 ? 4 : 0;
    if (n <= 1)
        return n && s[0] >= 0x20 && s[0] != 0x7f;
    uint32_t c = s[0] & (0x7f >> n);
    for (size_t i = 1; i < n; i++) {
        if (s[i] >> 6 != 2)                /* the terminating NUL too          */
            return 0;
        c = c << 6 | (s[i] & 0x3f);
    }
    /* U+2028.. break lines, U+202A..E and U+2066..9 turn the writing direction */
    int bad = c < least[n] || c > 0x10ffff || c >> 11 == 0xd800 >> 11 || c < 0xa0 ||
              (c >= 0x2028 && c <= 0x202e) || (c >= 0x2066 && c <= 0x2069);
    return bad ? 0 : n;
}

static int starts_char(char c)
{
    return ((unsigned char)c & 0xc0) != 0x80;
}

struct shown ckpt_show(const char *name)
{
    static const char dots[] = "\xe2\x80\xa6";
    enum { MAX = sizeof(struct shown) - 1, TAIL = 28, HEAD = MAX - TAIL - (sizeof dots - 1) };
    struct shown out;
    char ring[TAIL + 1];                   /* the last TAIL bytes, when all do not fit */
    size_t n = 0, total = 0, head = 0;
    for (const char *s = name; *s; ) {
        size_t len = char_len((const unsigned char *)s);
        const char *from = len ? s : "?";
        for (size_t i = 0; i < (len ? len : 1); i++, total++) {
            if (total < MAX)
                out.s[n++] = from[i];
            ring[total % TAIL] = from[i];
        }
        if (total <= HEAD)
            head = total;
        s += len ? len : 1;
    }
    if (total > MAX) {
        char tail[TAIL];
        for (size_t i = 0; i < TAIL; i++)
            tail[i] = ring[(total + i) % TAIL];
        size_t skip = 0;
        while (skip < 4 && !starts_char(tail[skip]))
            skip++;
        memcpy(out.s + head, dots, sizeof dots - 1);
        n = head + sizeof dots - 1;
        memcpy(out.s + n, tail + skip, TAIL - skip);
        n += TAIL - skip;
    }
    out.s[n] = '\0';
    return out;
}

dbrx_status ckpt_fail(struct dbrx_error *err, dbrx_status code, const char *fmt, ...)
{
    if (!err)
        return code;
    va_list ap;
    va_start(ap, fmt);
    int n = vsnprintf(err->text, sizeof err->text, fmt, ap);
    va_end(ap);
    if (n >= (int)sizeof err->text) {      /* cut between characters           */
        size_t end = sizeof err->text - 4;
        while (end > 0 && !starts_char(err->text[end]))
            end--;
        memcpy(err->text + end, "\xe2\x80\xa6", 4);
    }
    err->code = code;
    return code;
}

dbrx_status ckpt_no_memory(struct dbrx_error *err, const char *name)
{
    return ckpt_fail(err, DBRX_E_NOMEM, "out of memory while reading %s", SHOW(name));
}
