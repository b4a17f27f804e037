/* repl/plain.c -- see plain.h. */
#define _GNU_SOURCE
#include "repl/plain.h"

#include "tokenizer/utf8.h"

#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

static int raw;

void plain_raw(void)
{
    raw = 1;
}

size_t plain_char(const char *text, size_t len, int *harmless)
{
    const unsigned char *s = (const unsigned char *)text;
    int n = utf8_span(s, len);
    if (n <= 0) {
        *harmless = 0;
        return n ? (size_t)-n : len;
    }
    uint32_t c = utf8_char(s, &n);
    *harmless = c < 0xa0 ? (c >= 0x20 && c < 0x7f) || c == '\n' || c == '\t'
                         : !(c >= 0x2028 && c <= 0x202e) && !(c >= 0x2066 && c <= 0x2069);
    return (size_t)n;
}

int plain_is(const char *text)
{
    int harmless = 1;
    for (size_t left = strlen(text), n; left && harmless; text += n, left -= n)
        n = plain_char(text, left, &harmless);
    return harmless;
}

void plain_put(FILE *f, const char *text, size_t len)
{
    size_t from = 0, at = 0;               /* runs of harmless ones go as one */
    while (!raw && at < len) {
        int harmless;
        size_t n = plain_char(text + at, len - at, &harmless);
        if (!harmless) {
            unsigned char c = (unsigned char)text[at];
            fwrite(text + from, 1, at - from, f);
            if (c < 0x80)
                fprintf(f, "^%c", c ^ 0x40);
            else
                fputs(UTF8_REPLACEMENT, f);
            from = at + n;
        }
        at += n;
    }
    fwrite(text + from, 1, len - from, f);
}

void plain_json(FILE *f, const char *json, char also)
{
    size_t len = strlen(json), from = 0, at = 0;
    while (at < len) {
        int harmless, n = (int)plain_char(json + at, len - at, &harmless);
        if (!harmless || json[at] == also) {
            fwrite(json + from, 1, at - from, f);
            if (utf8_span((const unsigned char *)json + at, len - at) > 0)
                fprintf(f, "\\u%04x", (unsigned)utf8_char((const unsigned char *)json + at, &n));
            else
                fputs("\\ufffd", f);
            from = at + (size_t)n;
        }
        at += (size_t)n;
    }
    fwrite(json + from, 1, len - from, f);
}

void plain_error(const char *fmt, ...)
{
    char *text = NULL;
    va_list ap;
    va_start(ap, fmt);
    if (vasprintf(&text, fmt, ap) < 0)
        text = NULL;
    va_end(ap);
    fputs("dbrx: ", stderr);
    plain_put(stderr, text ? text : "out of memory", strlen(text ? text : "out of memory"));
    putc('\n', stderr);
    free(text);
}
