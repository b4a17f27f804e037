/* tokenizer/vocab_list.c -- a vocabulary that the caller holds, as a GGUF file does: tokens and
 * merges as strings, the kind of each token.  Knows no file. */
#include "tokenizer/tok.h"

#include <stdlib.h>

struct reading {
    const struct tok_list *list;
    struct tok *tok;
    struct alphabet alphabet;
    char *buf;                                 /* the bytes of a token, or of both sides */
    size_t cap;
    char *err;
    size_t errlen;
};

#define FAIL(r, ...) tok_error((r)->err, (r)->errlen, __VA_ARGS__)

static int reserve(struct reading *r, size_t n)
{
    if (n <= r->cap)
        return 0;
    char *p = realloc(r->buf, 2 * n);
    if (!p)
        return FAIL(r, "out of memory");
    r->buf = p;
    r->cap = 2 * n;
    return 0;
}

static int read_tokens(struct reading *r)
{
    for (size_t i = 0; i < r->list->n_tokens; i++) {
        size_t len, used = 0;
        int kind;
        const char *s = r->list->token(r->list->ctx, i, &len, &kind);
        if (kind == TOK_LIST_NONE || !len)
            continue;
        if (reserve(r, len))
            return -1;
        /* what is not spelled in the alphabet decodes to itself, and no text becomes it */
        size_t n = kind == TOK_LIST_TEXT ? alphabet_decode(&r->alphabet, s, len, r->buf, &used) : 0;
        int rc = n && used == len ? vocab_add(&r->tok->vocab, (int64_t)i, r->buf, n, VOCAB_PLAIN)
               : vocab_add(&r->tok->vocab, (int64_t)i, s, len,
                           kind == TOK_LIST_SPECIAL ? VOCAB_SPECIAL : VOCAB_MUTE);
        if (rc)
            return FAIL(r, "token %zu (\"%.*s\"): %s", i, len > 40 ? 40 : (int)len, s,
                        vocab_strerror(rc));
    }
    return 0;
}

static int read_merges(struct reading *r)
{
    const struct vocab *v = &r->tok->vocab;
    if (bpe_reserve(&r->tok->bpe, r->list->n_merges + 1))
        return FAIL(r, "out of memory");
    for (size_t i = 0; i < r->list->n_merges; i++) {
        size_t len, used = 0, rest = 0, left, right;
        const char *s = r->list->merge(r->list->ctx, i, &len);
        if (reserve(r, len + 1))
            return -1;
        left = alphabet_decode(&r->alphabet, s, len, r->buf, &used);
        right = left && used < len ? alphabet_decode(&r->alphabet, s + used + 1, len - used - 1,
                                                     r->buf + left, &rest) : 0;
        if (!right || used + 1 + rest != len)
            return FAIL(r, "merge %zu (\"%.*s\"): not two strings of the byte-level alphabet", i,
                        len > 40 ? 40 : (int)len, s);
        const char *end = r->buf + left + right;
        int32_t a = vocab_id(v, r->buf, left, end), b = vocab_id(v, r->buf + left, right, end);
        int32_t both = vocab_id(v, r->buf, left + right, end);
        if (a < 0 || b < 0 || both < 0)
            return FAIL(r, "merge %zu (\"%.*s\"): %s is not in the vocabulary", i,
                        len > 40 ? 40 : (int)len, s,
                        a < 0 ? "its left side" : b < 0 ? "its right side" : "its result");
        if (bpe_add(&r->tok->bpe, a, b, both))
            return FAIL(r, "out of memory");
    }
    return 0;
}

int tok_read_list(struct tok *t, const struct tok_list *list, char *err, size_t errlen)
{
    struct reading r = { .list = list, .tok = t, .err = err, .errlen = errlen };
    int missing, rc;
    alphabet_init(&r.alphabet);
    rc = vocab_init(&t->vocab, list->n_tokens) ? FAIL(&r, "out of memory") : read_tokens(&r);
    if (!rc && (missing = bpe_init(&t->bpe, &t->vocab)) >= 0)
        rc = FAIL(&r, "there is no token for byte 0x%02x", missing);
    if (!rc)
        rc = read_merges(&r);
    free(r.buf);
    return rc;
}
