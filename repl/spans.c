/* repl/spans.c -- see spans.h. */
#include "repl/spans.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void spans_free(struct spans *s)
{
    free(s->list);
    *s = (struct spans){ 0 };
}

int spans_add(struct spans *s, uint32_t from, uint32_t end, const char *name)
{
    struct span *last = s->n ? &s->list[s->n - 1] : NULL;
    if (from >= end)
        return 0;
    if (last && last->end == from && !strcmp(last->name, name)) {
        last->end = end;
        return 0;
    }
    struct span *list = realloc(s->list, (s->n + (size_t)1) * sizeof *list);
    if (!list)
        return -1;
    s->list = list;
    list[s->n] = (struct span){ .from = from, .end = end };
    snprintf(list[s->n++].name, sizeof list->name, "%s", name);
    return 0;
}

int spans_copy(struct spans *to, const struct spans *from)
{
    *to = (struct spans){ 0 };
    if (!from->n)
        return 0;
    if (!(to->list = malloc(from->n * sizeof *to->list)))
        return -1;
    memcpy(to->list, from->list, from->n * sizeof *to->list);
    to->n = from->n;
    return 0;
}

void spans_cut(struct spans *s, uint32_t n)
{
    while (s->n && s->list[s->n - 1].from >= n)
        s->n--;
    if (s->n && s->list[s->n - 1].end > n)
        s->list[s->n - 1].end = n;
}

static uint32_t moved(uint32_t pos, uint32_t at, uint32_t n)
{
    return pos <= at ? pos : pos - at <= n ? at : pos - n;
}

void spans_drop(struct spans *s, uint32_t at, uint32_t n)
{
    uint32_t kept = 0;
    for (uint32_t i = 0; i < s->n; i++) {
        struct span p = s->list[i];
        p.from = moved(p.from, at, n);
        p.end = moved(p.end, at, n);
        if (p.from < p.end)
            s->list[kept++] = p;
    }
    s->n = kept;
}

const char *spans_at(const struct spans *s, uint32_t pos)
{
    for (uint32_t i = 0; i < s->n; i++)
        if (pos >= s->list[i].from && pos < s->list[i].end)
            return s->list[i].name;
    return NULL;
}

void spans_text(const struct spans *s, uint32_t from, uint32_t end, char *out, unsigned size)
{
    size_t at = 0;
    char brief[sizeof s->list->name];
    *out = '\0';
    for (uint32_t i = 0; i < s->n && at < size; i++) {
        const struct span *p = &s->list[i];
        uint32_t a = p->from > from ? p->from : from, b = p->end < end ? p->end : end;
        if (a < b)
            at += (size_t)snprintf(out + at, size - at, "%s%s %u", at ? ", " : "",
                                   label_brief(p->name, brief, sizeof brief), b - a);
    }
}

const char *label_brief(const char *label, char *out, unsigned size)
{
    size_t at = 0;
    for (size_t n; *label; label += n) {
        n = 1 + strcspn(label + 1, " ");   /* the next word and the blank before it */
        if (strncmp(label, " threads=", 9) && at + n < size) {
            memcpy(out + at, label, n);
            at += n;
        }
    }
    out[at] = '\0';
    return out;
}
