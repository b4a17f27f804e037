/* repl/idset.c -- see idset.h.  Open addressing. */
#define _GNU_SOURCE
#include "repl/idset.h"

#include <stdlib.h>
#include <string.h>

static char **slot_of(const struct idset *s, const char *id)
{
    size_t h = 14695981039346656037u;
    for (const char *p = id; *p; p++)
        h = (h ^ (unsigned char)*p) * 1099511628211u;
    for (h &= s->size - 1; s->slot[h] && strcmp(s->slot[h], id); h = (h + 1) & (s->size - 1))
        ;
    return &s->slot[h];
}

int idset_has(const struct idset *s, const char *id)
{
    return s->n && *slot_of(s, id);
}

int idset_add(struct idset *s, const char *id)
{
    if (2 * (s->n + 1) > s->size) {
        struct idset more = { NULL, s->n, s->size ? 2 * s->size : 64 };
        if (!(more.slot = calloc(more.size, sizeof *more.slot)))
            return -1;
        for (size_t i = 0; i < s->size; i++)
            if (s->slot[i])
                *slot_of(&more, s->slot[i]) = s->slot[i];
        free(s->slot);
        *s = more;
    }
    char **slot = slot_of(s, id);
    if (*slot)
        return 1;
    s->n++;
    return (*slot = strdup(id)) ? 0 : -1;
}

void idset_free(struct idset *s)
{
    for (size_t i = 0; i < s->size; i++)
        free(s->slot[i]);
    free(s->slot);
}
