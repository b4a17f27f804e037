/* repl/stops.c -- see stops.h. */
#include "repl/stops.h"

#include <stdio.h>
#include <string.h>

/* Adds from p to the closing `quote` (0: to the end); where it ended, or NULL */
static const char *add(struct stops *s, const char *p, char quote, char *err, size_t size)
{
    if (s->n == STOPS_MAX) {
        snprintf(err, size, "stop takes at most %d strings", STOPS_MAX);
        return NULL;
    }
    char *to = s->text[s->n];
    size_t n = 0;
    for (; *p && (!quote || *p != quote); p++) {
        char c = *p;
        if (c == '\\' && p[1] && strchr("nt\\\"'", p[1]))
            c = *++p == 'n' ? '\n' : *p == 't' ? '\t' : *p;
        if (n == STOPS_LEN) {
            snprintf(err, size, "a stop string has at most %d bytes", STOPS_LEN);
            return NULL;
        }
        to[n++] = c;
    }
    if (quote && *p != quote) {
        snprintf(err, size, "stop has a %c that is not closed", quote);
        return NULL;
    }
    if (!n) {
        snprintf(err, size, "a stop string cannot be empty; /set stop default removes them all");
        return NULL;
    }
    s->len[s->n++] = n;
    return quote ? p + 1 : p;
}

int stops_parse(struct stops *s, const char *spec, char *err, size_t size)
{
    s->n = 0;
    if (!*spec)
        return 0;
    if (*spec != '"' && *spec != '\'')
        return add(s, spec, '\0', err, size) ? 0 : -1;
    while (*spec) {
        if (*spec != '"' && *spec != '\'') {
            snprintf(err, size, "stop takes one string, or several that are each in quotes; \"%.40s\" "
                     "is in none", spec);
            return -1;
        }
        spec = add(s, spec + 1, *spec, err, size);
        if (!spec)
            return -1;
        spec += strspn(spec, " \t,");
    }
    return 0;
}

int stops_find(const struct stops *s, const char *text, size_t len, size_t seen, size_t *safe)
{
    size_t longest = 0;
    for (size_t k = 0; k < s->n; k++)
        longest = s->len[k] > longest ? s->len[k] : longest;
    size_t at = longest && seen >= longest ? seen - longest + 1 : 0;
    for (; longest && at < len; at++)      /* the first place that is, or may become, one */
        for (size_t k = 0; k < s->n; k++) {
            size_t left = len - at, n = s->len[k] < left ? s->len[k] : left;
            if (memcmp(text + at, s->text[k], n))
                continue;
            if (n == s->len[k]) {
                *safe = at;
                return 1;
            }
        }
    for (at = longest && len >= longest ? len - longest + 1 : 0; longest && at < len; at++)
        for (size_t k = 0; k < s->n; k++)
            if (s->len[k] > len - at && !memcmp(text + at, s->text[k], len - at)) {
                *safe = at;
                return 0;
            }
    *safe = len;
    return 0;
}
