/* repl/sets.c -- see sets.h.  One reader of lists of ranges, which knows what it reads only by
 * name; and the way back to text. */
#define _GNU_SOURCE
#include "repl/sets.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* what a number counts */
struct kind {
    const char *name;                      /* "layer"                                      */
    const char *owner;                     /* "the model": who has `n` of them             */
    uint32_t n;
    int from_end;                          /* negative numbers count from there            */
};

/* Text that is to be quoted in a sentence */
enum { SHOWN = 40 };
#define QUOTE(text, len) (int)((len) < SHOWN ? (len) : SHOWN), (text)

static int not_there(const struct kind *k, const char *text, size_t len, char *err, size_t size)
{
    if (!k->n)
        snprintf(err, size, "%s %.*s is not there: %s has no %ss", k->name, QUOTE(text, len), k->owner,
                 k->name);
    else if (k->from_end)
        snprintf(err, size, "%s %.*s is not there: %s has %ss 0 to %u (or -1 to -%u, from the end)",
                 k->name, QUOTE(text, len), k->owner, k->name, k->n - 1, k->n);
    else
        snprintf(err, size, "%s %.*s is not there: %s has %ss 0 to %u", k->name, QUOTE(text, len),
                 k->owner, k->name, k->n - 1);
    return -1;
}

static int unreadable(const struct kind *k, const char *text, size_t len, char *err, size_t size)
{
    snprintf(err, size, "\"%.*s\" is no %s: write a number, a range like 3..9, ..5 or 10.., a list of "
             "those with commas, or * for all", QUOTE(text, len), k->name);
    return -1;
}

/* A number of this kind, text[len] as a whole */
static int number(const struct kind *k, const char *text, size_t len, uint32_t *out, char *err, size_t size)
{
    size_t digits = len && *text == '-' ? 1 : 0;
    if (digits == len || strspn(text + digits, "0123456789") < len - digits)
        return unreadable(k, text, len, err, size);
    errno = 0;
    long long v = strtoll(text, NULL, 10);
    if (errno || v >= (long long)k->n || v < (k->from_end ? -(long long)k->n : 0) || (digits && !k->from_end))
        return not_there(k, text, len, err, size);
    *out = (uint32_t)(v < 0 ? v + k->n : v);
    return 0;
}

/* in[0..n-1] of the list text[len] */
static int list(const struct kind *k, const char *text, size_t len, uint8_t *in, char *err, size_t size)
{
    const char *end = text + len;
    for (;; text++) {
        const char *comma = memchr(text, ',', (size_t)(end - text));
        size_t n = (size_t)((comma ? comma : end) - text);
        const char *dots = memmem(text, n, "..", 2);
        uint32_t first = 0, last = k->n - 1;
        size_t left = dots ? (size_t)(dots - text) : n, right = dots ? n - left - 2 : 0;
        int whole = n == 1 && *text == '*';
        if (!k->n)
            return not_there(k, text, n, err, size);
        if (dots && n == 2)                /* ".." alone is more likely a slip than all */
            return unreadable(k, text, n, err, size);
        if (!whole && (left || !dots) && number(k, text, left, &first, err, size))
            return -1;
        if (!dots && !whole)
            last = first;
        if (right && number(k, dots + 2, right, &last, err, size))
            return -1;
        if (last < first) {
            snprintf(err, size, "the range %.*s ends before it begins: it is %s %u to %u", QUOTE(text, n),
                     k->name, first, last);
            return -1;
        }
        memset(in + first, 1, last - first + 1);
        text += n;
        if (text == end)
            return 0;
    }
}

static int set_new(struct set *s, size_t n, char *err, size_t size)
{
    *s = (struct set){ .in = calloc(n + 1, 1), .n = (uint32_t)n };
    if (!s->in)
        snprintf(err, size, "out of memory");
    return s->in ? 0 : -1;
}

/* Counts what is in it; or frees it when it failed */
static int settle(struct set *s, int failed)
{
    if (failed)
        set_free(s);
    for (uint32_t i = 0; i < s->n; i++)
        if (s->in[i]) {
            s->first = s->count++ ? s->first : i;
            s->last = i;
        }
    return failed;
}

static int one_list(struct set *s, const struct kind *k, const char *text, char *err, size_t size)
{
    return set_new(s, k->n, err, size) ? -1 : settle(s, list(k, text, strlen(text), s->in, err, size));
}

int set_tokens(struct set *s, const char *text, uint32_t n_tokens, char *err, size_t size)
{
    return one_list(s, &(struct kind){ "token", "the conversation", n_tokens, 1 }, text, err, size);
}

int set_layers(struct set *s, const char *text, uint32_t n_layers, char *err, size_t size)
{
    return one_list(s, &(struct kind){ "layer", "the model", n_layers, 1 }, text + (*text == '@'), err, size);
}

int set_experts(struct set *s, const char *text, uint32_t n_layers, uint32_t n_experts, char *err,
                size_t size)
{
    const struct kind expert = { "expert", "every layer", n_experts, 0 };
    const struct kind layer = { "layer", "the model", n_layers, 1 };
    struct set e = { 0 }, l = { 0 };
    int failed = set_new(s, (size_t)n_layers * n_experts, err, size);
    text += strspn(text, " \t");
    if (!failed && !*text) {
        snprintf(err, size, "no experts are named: write 3@5 (expert 3 of layer 5) or 3,7@0..9");
        failed = -1;
    }
    while (!failed && *text) {
        size_t n = strcspn(text, " \t"), left = strcspn(text, "@ \t");
        if ((failed = set_new(&e, n_experts, err, size)) || (failed = set_new(&l, n_layers, err, size)))
            break;
        if (left < n && memchr(text + left + 1, '@', n - left - 1)) {
            snprintf(err, size, "\"%.*s\" has more than one @: put a blank between sets, as in 3@5 7@0..9",
                     QUOTE(text, n));
            failed = -1;
        } else {
            failed = list(&expert, text, left, e.in, err, size) ||
                     list(&layer, left < n ? text + left + 1 : "*", left < n ? n - left - 1 : 1, l.in, err, size);
        }
        for (uint32_t i = 0; !failed && i < s->n; i++)
            s->in[i] |= (uint8_t)(e.in[i % n_experts] & l.in[i / n_experts]);
        set_free(&e);
        set_free(&l);
        text += n;
        text += strspn(text, " \t");
    }
    set_free(&e);
    set_free(&l);
    return settle(s, failed ? -1 : 0);
}

void set_free(struct set *s)
{
    free(s->in);
    *s = (struct set){ 0 };
}

/* ---- back to text ---- */

static void put_list(FILE *f, const uint8_t *in, uint32_t n)
{
    const char *comma = "";
    for (uint32_t i = 0, end; i < n; i = end + 1) {
        for (end = i; end < n && in[end]; end++)
            ;
        if (end == i)
            continue;
        if (end - i == n && n > 1)
            fputs("*", f);
        else if (end - i == 1)
            fprintf(f, "%s%u", comma, i);
        else
            fprintf(f, end - i == 2 ? "%s%u,%u" : "%s%u..%u", comma, i, end - 1);
        comma = ",";
    }
}

char *set_list_text(const uint8_t *in, uint32_t n)
{
    char *text = NULL;
    size_t size;
    FILE *f = open_memstream(&text, &size);
    if (!f)
        return NULL;
    put_list(f, in, n);
    return fclose(f) ? free(text), NULL : text;
}

char *set_experts_text(const uint8_t *in, uint32_t n_layers, uint32_t n_experts)
{
    char *text = NULL, *layers = calloc(n_layers + 1, 1);
    size_t size;
    FILE *f = open_memstream(&text, &size);
    const char *blank = "";
    for (uint32_t l = 0; f && layers && l < n_layers; l++) {
        const uint8_t *row = in + (size_t)l * n_experts;
        int seen = !memchr(row, 1, n_experts);
        for (uint32_t i = 0; i < l && !seen; i++)      /* went out with an earlier layer */
            seen = !memcmp(in + (size_t)i * n_experts, row, n_experts);
        if (seen)
            continue;
        for (uint32_t i = 0; i < n_layers; i++)
            layers[i] = !memcmp(in + (size_t)i * n_experts, row, n_experts);
        fputs(blank, f);
        put_list(f, row, n_experts);
        putc('@', f);
        put_list(f, (uint8_t *)layers, n_layers);
        blank = " ";
    }
    int failed = !f || fclose(f) || !layers;
    free(layers);
    return failed ? free(text), NULL : text;
}
