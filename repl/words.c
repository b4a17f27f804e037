/* repl/words.c -- see words.h. */
#include "repl/words.h"

#include "repl/plain.h"
#include "tokenizer/tokenizer.h"
#include "tokenizer/utf8.h"

#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

int word_find(const char *word, word_name *name, int prefix)
{
    int found = -1;
    size_t len = strlen(word);
    for (size_t i = 0; name(i); i++) {
        if (!strcmp(name(i), word))
            return (int)i;
        if (prefix && len && !strncmp(name(i), word, len))
            found = found == -1 ? (int)i : -2;
    }
    return found;
}

size_t word_list(const char *word, word_name *name, const char *before, char *out, size_t size)
{
    size_t len = strlen(word), n = 0, k = 0, at = 0;
    for (size_t i = 0; name(i); i++)
        n += !strncmp(name(i), word, len);
    out[0] = '\0';
    for (size_t i = 0; name(i) && at < size; i++)
        if (!strncmp(name(i), word, len))
            at += (size_t)snprintf(out + at, size - at, "%s%s%s", !k++ ? "" : k == n ? " or " : ", ", before, name(i));
    return n;
}

/* How many letters must be changed, added, dropped or swapped with their neighbour; capitals are
 * their letters */
static unsigned distance(const char *a, const char *b)
{
    enum { MAX = 24 };
    unsigned d[MAX + 1][MAX + 1];
    size_t m = strlen(a), n = strlen(b);
    if (m > MAX || n > MAX)
        return MAX;
    for (size_t i = 0; i <= m; i++)
        for (size_t j = 0; j <= n; j++) {
            unsigned best = (unsigned)(i + j);
            if (i && j) {
                best = d[i - 1][j - 1] + (tolower((unsigned char)a[i - 1]) != b[j - 1]);
                if (d[i - 1][j] + 1 < best)
                    best = d[i - 1][j] + 1;
                if (d[i][j - 1] + 1 < best)
                    best = d[i][j - 1] + 1;
                if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] &&
                    d[i - 2][j - 2] + 1 < best)
                    best = d[i - 2][j - 2] + 1;
            }
            d[i][j] = best;
        }
    return d[m][n];
}

const char *word_nearest(const char *word, word_name *name)
{
    const char *best = NULL;
    size_t len = strlen(word);
    unsigned least = len < 4 ? 2 : 3;      /* at least this different is not alike */
    for (size_t i = 0; name(i); i++) {
        unsigned d = distance(word, name(i));
        if (d && len > 1 && !strncasecmp(name(i), word, len))
            d = 1;
        if (d < least && d < strlen(name(i))) {        /* some of its letters are there */
            least = d;
            best = name(i);
        }
    }
    return best;
}

char *word_next(char **line)
{
    char *p = *line + strspn(*line, " \t"), *word = p, *to = p, quote = '\0';
    if (!*p)
        return NULL;
    for (; *p && (quote || (*p != ' ' && *p != '\t')); p++) {
        if (quote ? *p == quote : *p == '"' || *p == '\'')
            quote = quote ? '\0' : *p;
        else
            *to++ = *p;
    }
    *line = *p ? p + 1 : p;
    *to = '\0';
    return word;
}

ssize_t text_line(char **line, size_t *cap, FILE *f)
{
    size_t n = 0;
    for (int c = 0; c != '\n' && (c = getc_unlocked(f)) != EOF; ) {
        if (n + 2 > *cap) {
            size_t most = 2 * *cap + 128;
            char *more = n < LINE_MOST ? realloc(*line, most) : NULL;
            if (!more) {
                errno = n < LINE_MOST ? ENOMEM : EFBIG;
                return -1;
            }
            *line = more;
            *cap = most;
        }
        (*line)[n++] = (char)c;
    }
    if (!n || ferror(f))
        return -1;
    (*line)[n] = '\0';
    return (ssize_t)n;
}

char *text_clean(const char *text, size_t len)
{
    struct tok_stream s = { 0 };
    char *out = malloc(3 * len + 25);
    if (!out)
        return NULL;
    size_t n = 0;
    for (size_t i = 0; i <= len; ) {       /* a NUL is data here, but not in what comes out */
        size_t run = 0;
        while (i + run < len && text[i + run])
            run++;
        n += tok_stream_push(&s, text + i, run, out + n);
        i += run + 1;
        if (i <= len) {
            n += tok_stream_end(&s, out + n);
            memcpy(out + n, "\xef\xbf\xbd", 3);
            n += 3;
        }
    }
    n += tok_stream_end(&s, out + n);
    out[n] = '\0';
    return out;
}

char *text_quoted(const char *text, size_t len)
{
    char *clean = text_clean(text, len), *out = clean ? malloc(4 * strlen(clean) + 1) : NULL, *to = out;
    for (const char *p = clean; out && *p; p++) {
        unsigned char c = (unsigned char)*p;
        if (c == '\n' || c == '\t' || c == '\r' || c == '\\')
            to += sprintf(to, "\\%c", c == '\n' ? 'n' : c == '\t' ? 't' : c == '\r' ? 'r' : '\\');
        else if (c < 0x20 || c == 0x7f)
            to += sprintf(to, "\\x%02x", c);
        else if (c == 0xc2 && (unsigned char)p[1] < 0xa0)
            to += sprintf(to, "\\x%02x", (unsigned char)*++p);
        else {
            int harmless, n = (int)plain_char(p, strlen(p) < 4 ? strlen(p) : 4, &harmless);
            to += harmless ? sprintf(to, "%.*s", n, p) : sprintf(to, "\\u%04x", (unsigned)utf8_char((const unsigned char *)p, &n));
            p += n - 1;
        }
    }
    if (out)
        *to = '\0';
    free(clean);
    return out;
}

char *unquoted(char *text)
{
    size_t n = strlen(text);
    if (n < 2 || (*text != '"' && *text != '\'') || strchr(text + 1, *text) != text + n - 1)
        return text;
    text[n - 1] = '\0';
    return text + 1;
}
