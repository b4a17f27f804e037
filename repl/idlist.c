/* repl/idlist.c -- see idlist.h. */
#include "repl/idlist.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct reader {
    const char *at;
    const struct tok *tok;
    uint32_t n_vocab;
    char  *err;
    size_t size;
};

void id_list_free(struct id_list *l)
{
    free(l->bias);
    free(l->id);
    *l = (struct id_list){ 0 };
}

/* r->at is behind the opening quote: the text up to the closing one into out, which is as long
 * as the setting; -1: there is none */
static long unquote(struct reader *r, char *out)
{
    long n = 0;
    for (; *r->at != '"'; r->at++) {
        char c = *r->at;
        if (c == '\\' && r->at[1]) {
            c = *++r->at;
            c = c == 'n' ? '\n' : c == 't' ? '\t' : c;
        }
        if (!c)
            return -1;
        out[n++] = c;
    }
    r->at++;
    return n;
}

static int32_t text_id(struct reader *r, const char *start, char *room)
{
    long n = unquote(r, room);
    int shown = (int)(r->at - start < 60 ? r->at - start : 60);
    if (n < 0) {
        snprintf(r->err, r->size, "%.60s has no closing quote", start);
        return -1;
    }
    if (!r->tok) {
        snprintf(r->err, r->size, "%.*s: this checkpoint has no tokenizer; give token ids", shown, start);
        return -1;
    }
    struct tok_ids ids = { 0 };
    int bad = tok_encode(r->tok, room, (size_t)n, TOK_SPECIAL, &ids);
    int32_t id = !bad && ids.n == 1 ? ids.id[0] : -1;
    if (bad)
        snprintf(r->err, r->size, "out of memory");
    else if (id < 0)
        snprintf(r->err, r->size, "%.*s is %zu tokens, not one; `dbrx tokenize` shows them (most words "
                 "are one token only with the blank before them)", shown, start, ids.n);
    free(ids.id);
    return id;
}

static int32_t read_id(struct reader *r, char *room)
{
    const char *start = r->at;
    if (*start == '"') {
        r->at++;
        return text_id(r, start, room);
    }
    size_t n = strspn(start, "0123456789"), word = strcspn(start, " \t,=");
    double id = n && n == word ? strtod(start, NULL) : -1;
    if (id < 0)
        snprintf(r->err, r->size, "\"%.*s\" is no token: write its id, or its text in double quotes",
                 (int)(word < 60 ? word : 60), start);
    else if (id >= r->n_vocab)
        snprintf(r->err, r->size, "token id %.*s is outside the vocabulary (0 to %u)",
                 (int)(n < 60 ? n : 60), start, r->n_vocab - 1);
    r->at += n;
    return id >= 0 && id < r->n_vocab ? (int32_t)id : -1;
}

static int read_value(struct reader *r, int32_t id, double min, double max, float *value)
{
    char *end = NULL;
    double x = NAN;
    if (*r->at == '=' && r->at[1 + strspn(r->at + 1, "+-.")] >= '0' && r->at[1 + strspn(r->at + 1, "+-.")] <= '9')
        x = strtod(r->at + 1, &end);
    if (!end || (*end && !strchr(" \t,", *end)) || !(x >= min && x <= max)) {
        snprintf(r->err, r->size, "token %d needs a bias: ID=BIAS, where BIAS is %g .. %g", id, min, max);
        return -1;
    }
    r->at = end;
    *value = (float)x;
    return 0;
}

static int by_id(const void *a, const void *b)
{
    const struct sampler_bias *x = a, *y = b;
    return (x->id > y->id) - (x->id < y->id);
}

/* Sorts; an id that is there twice, or -1 */
static int32_t given_twice(struct id_list *l)
{
    qsort(l->bias, l->n, sizeof *l->bias, by_id);
    for (uint32_t i = 0; i < l->n; i++) {
        l->id[i] = l->bias[i].id;
        if (i && l->id[i] == l->id[i - 1])
            return l->id[i];
    }
    return -1;
}

int id_list_parse(struct id_list *out, const char *text, const struct tok *tok, uint32_t n_vocab,
                  int values, double min, double max, char *err, size_t size)
{
    static const char gap[] = " \t,";
    struct reader r = { text, tok, n_vocab, err, size };
    size_t most = strlen(text) / 2 + 1;    /* an entry and what separates it */
    struct id_list l = { calloc(most, sizeof *l.bias), calloc(most, sizeof *l.id), 0 };
    char *room = malloc(strlen(text) + 1);
    int32_t id;
    int failed = !l.bias || !l.id || !room;
    if (failed)
        snprintf(err, size, "out of memory");
    for (r.at += strspn(r.at, gap); *r.at && !failed; r.at += strspn(r.at, gap)) {
        float value = 0;
        id = read_id(&r, room);
        failed = id < 0 || (values && read_value(&r, id, min, max, &value));
        if (!failed && *r.at && !strchr(gap, *r.at)) {
            snprintf(err, size, values || *r.at != '=' ? "\"%.40s\": a comma or a blank separates tokens"
                     : "\"%.40s\": this list takes tokens without values", r.at);
            failed = 1;
        }
        if (!failed) {
            l.bias[l.n] = (struct sampler_bias){ id, value };
            l.id[l.n++] = id;
        }
    }
    free(room);
    if (!failed && (id = given_twice(&l)) >= 0) {
        snprintf(err, size, "token %d is given twice", id);
        failed = 1;
    }
    if (failed) {
        id_list_free(&l);
        return -1;
    }
    id_list_free(out);
    *out = l;
    return 0;
}
