/* tokenizer/stream.c -- from any bytes to valid UTF-8, at once or in a stream.
 *
 * A token may end in the middle of a character; the streaming decoder holds such a
 * beginning back until it is whole or can never be.  Knows nothing of tokens. */
#include "tokenizer/tokenizer.h"
#include "tokenizer/utf8.h"

#include <stdlib.h>
#include <string.h>

typedef unsigned char byte;

/* The length of the valid beginning of s[len]. */
static size_t valid_prefix(const byte *s, size_t len)
{
    size_t i = 0;
    while (i < len) {
        uint64_t w;
        if (len - i >= 8 && (memcpy(&w, s + i, 8), !(w & UINT64_C(0x8080808080808080)))) {
            i += 8;
            continue;
        }
        int n = utf8_span(s + i, len - i);
        if (n <= 0)
            break;
        i += (size_t)n;
    }
    return i;
}

static char *put_replacement(char *out)
{
    memcpy(out, UTF8_REPLACEMENT, 3);
    return out + 3;
}

/* Copies s[len] to *out with repairs, up to a cut-off beginning at the end; returns
 * where that is. */
static size_t copy_repaired(const byte *s, size_t len, char **out)
{
    size_t i = 0;
    for (;;) {
        size_t n = valid_prefix(s + i, len - i);
        if (n)                             /* of nothing s may be NULL */
            memcpy(*out, s + i, n);
        *out += n;
        i += n;
        int bad = i < len ? utf8_span(s + i, len - i) : 0;
        if (bad == 0)
            return i;
        *out = put_replacement(*out);
        i += (size_t)-bad;
    }
}

int utf8_repair(const char *text, size_t len, char **repaired, size_t *repaired_len)
{
    const byte *s = (const byte *)text;
    size_t good = valid_prefix(s, len);
    if (good == len)
        return 0;
    if (len - good > (SIZE_MAX - good) / 3 || !(*repaired = malloc(good + 3 * (len - good))))
        return -1;
    char *out = *repaired;
    if (copy_repaired(s, len, &out) < len)
        out = put_replacement(out);             /* cut off for good */
    *repaired_len = (size_t)(out - *repaired);
    return 0;
}

size_t tok_stream_push(struct tok_stream *st, const char *bytes, size_t len, char *out)
{
    const byte *s = (const byte *)bytes;
    char *start = out;

    /* finish what is held, byte by byte: it is at most three bytes of one character */
    while (st->n && len) {
        st->held[st->n++] = *s;
        int n = utf8_span(st->held, st->n);
        if (n < 0) {                            /* the new byte belongs to what follows */
            out = put_replacement(out);
            st->n = 0;
            break;
        }
        s++;
        len--;
        if (n > 0) {
            memcpy(out, st->held, (size_t)n);
            out += n;
            st->n = 0;
        }
    }
    size_t used = copy_repaired(s, len, &out);
    for (; used < len; used++)
        st->held[st->n++] = s[used];
    return (size_t)(out - start);
}

size_t tok_stream_end(struct tok_stream *st, char *out)
{
    size_t n = st->n ? 3 : 0;                   /* one beginning is one U+FFFD */
    if (n)
        put_replacement(out);
    st->n = 0;
    return n;
}
