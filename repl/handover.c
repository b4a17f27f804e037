/* repl/handover.c -- see handover.h. */
#include "repl/handover.h"

#include "repl/words.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void handover_free(struct handover *h)
{
    free(h->text);
    *h = (struct handover){ 0 };
}

/* "64=ref --keep isa=plain"; 0 or -1 */
static int parse_step(struct handover_step *s, char *text, char *err, size_t size)
{
    char *rest = text, *word = word_next(&rest), *end = NULL;
    size_t n = 0;
    errno = 0;
    unsigned long at = word && *word >= '0' && *word <= '9' ? strtoul(word, &end, 10) : 0;
    if (!end || *end != '=' || !end[1] || errno || at > UINT32_MAX) {
        snprintf(err, size, "handover wants steps like 64=ref, separated by commas: after that many tokens "
                 "the reply goes on with that backend; \"%.40s\" is none", word ? word : "");
        return -1;
    }
    s->at = (uint32_t)at;
    s->backend = end + 1;
    while ((word = word_next(&rest)))
        if (!strcmp(word, "--replay")) {
            s->replay = 1;
        } else if (!strcmp(word, "--keep")) {
            s->keep = 1;
        } else if (!strchr(word, '=') || *word == '-' || n == HANDOVER_OPTIONS) {
            snprintf(err, size, "handover: after %s come --replay, --keep and up to %d options K=V, not \"%.40s\"",
                     s->backend, HANDOVER_OPTIONS, word);
            return -1;
        } else {
            s->opt[n++] = word;
        }
    return 0;
}

int handover_parse(struct handover *h, const char *text, char *err, size_t size)
{
    *h = (struct handover){ .text = strdup(text) };
    if (!h->text) {
        snprintf(err, size, "out of memory");
        return -1;
    }
    char *rest = h->text;
    int bad = 0;
    while (!bad && rest && rest[strspn(rest, " \t")]) {
        char *part = strsep(&rest, ",");
        struct handover_step *s = &h->step[h->n];
        if (h->n == HANDOVER_MAX) {
            snprintf(err, size, "handover takes at most %d steps", HANDOVER_MAX);
            bad = -1;
        } else if (!(bad = parse_step(s, part, err, size)) && h->n && s->at <= s[-1].at) {
            snprintf(err, size, "handover: its steps ascend, but %u comes after %u", s->at, s[-1].at);
            bad = -1;
        } else {
            h->n++;
        }
    }
    if (bad)
        handover_free(h);
    return bad;
}
