/* tokenizer/vocab.c -- builds the tables of vocab.h.
 *
 * One pool holds the bytes, one array leads from id to bytes, one hash table with
 * open addressing from bytes to id.  Checks what every reader must: ids in range and
 * unique, bytes unique.  Knows no file format. */
#include "tokenizer/vocab.h"

#include <stdlib.h>

static int slots_alloc(struct vocab *v, size_t n_tokens)
{
    int bits = 4;
    while (((size_t)1 << bits) / 5 * 4 < n_tokens)     /* at most four fifths full */
        bits++;
    v->slot = calloc((size_t)1 << bits, sizeof *v->slot);
    v->mask = ((size_t)1 << bits) - 1;
    v->shift = 64 - bits;
    return v->slot ? VOCAB_OK : VOCAB_NO_MEMORY;
}

int vocab_init(struct vocab *v, size_t n_tokens)
{
    memset(v, 0, sizeof *v);
    return slots_alloc(v, n_tokens + 1);
}

void vocab_free(struct vocab *v)
{
    free(v->pool);
    free(v->token);
    free(v->slot);
    free(v->special);
    memset(v, 0, sizeof *v);
}

const char *vocab_strerror(int code)
{
    switch (code) {
    case VOCAB_NO_MEMORY:   return "out of memory";
    case VOCAB_BAD_ID:      return "the id is not a whole number from 0 to 16777215";
    case VOCAB_ID_TAKEN:    return "the id is given twice";
    case VOCAB_BYTES_TAKEN: return "the token is given twice";
    case VOCAB_EMPTY:       return "the token is empty or far too long";
    }
    return "no error";
}

static int slots_grow(struct vocab *v)
{
    struct vocab_slot *old = v->slot;
    size_t n = v->mask + 1;
    int shift = v->shift;
    if (slots_alloc(v, n)) {                    /* n tokens: twice the slots */
        v->slot = old;
        v->mask = n - 1;
        v->shift = shift;
        return VOCAB_NO_MEMORY;
    }
    for (size_t i = 0; i < n; i++)
        if (old[i].len) {
            const char *s = v->pool + v->token[old[i].id].off;
            *vocab_slot(v, s, old[i].len, old[i].key, vocab_hash(old[i].key, old[i].len)) = old[i];
        }
    free(old);
    return VOCAB_OK;
}

int32_t vocab_special_at(const struct vocab *v, const char *s, size_t n)
{
    if (n == 0 || !v->special_first[(unsigned char)s[0]])
        return -1;
    for (size_t i = 0; i < v->n_special; i++) {
        const struct vocab_token *t = &v->token[v->special[i]];
        if (t->len <= n && memcmp(v->pool + t->off, s, t->len) == 0)
            return v->special[i];
    }
    return -1;
}

static int32_t special_find(const struct vocab *v, const char *s, size_t len)
{
    int32_t id = vocab_special_at(v, s, len);
    return id >= 0 && v->token[id].len == len ? id : -1;
}

int32_t vocab_special_named(const struct vocab *v, const char *name)
{
    return special_find(v, name, strlen(name));
}

static int special_add(struct vocab *v, int32_t id, const char *bytes, size_t len)
{
    int32_t *p = realloc(v->special, (v->n_special + 1) * sizeof *p);
    if (!p)
        return VOCAB_NO_MEMORY;
    v->special = p;
    size_t i = v->n_special++;
    for (; i > 0 && v->token[p[i - 1]].len < len; i--)
        p[i] = p[i - 1];
    p[i] = id;
    v->special_first[(unsigned char)bytes[0]] = 1;
    return VOCAB_OK;
}

int vocab_add(struct vocab *v, int64_t id, const char *bytes, size_t len, int kind)
{
    if (id < 0 || id > VOCAB_MAX_ID)
        return VOCAB_BAD_ID;
    if (len == 0 || len > INT32_MAX || v->pool_n + len > UINT32_MAX)
        return VOCAB_EMPTY;
    if (id < v->n && v->token[id].len)
        return VOCAB_ID_TAKEN;
    if (kind == VOCAB_PLAIN && v->n_slot >= v->mask / 5 * 4 && slots_grow(v))
        return VOCAB_NO_MEMORY;
    uint64_t key = vocab_key(bytes, len, bytes + len);
    struct vocab_slot *slot = vocab_slot(v, bytes, len, key, vocab_hash(key, len));
    if ((kind == VOCAB_PLAIN && slot->len) || (kind == VOCAB_SPECIAL && special_find(v, bytes, len) >= 0))
        return VOCAB_BYTES_TAKEN;

    if (v->pool_n + len > v->pool_cap) {
        size_t cap = 2 * v->pool_cap + len + 65536;
        char *p = realloc(v->pool, cap);
        if (!p)
            return VOCAB_NO_MEMORY;
        v->pool = p;
        v->pool_cap = cap;
    }
    if ((size_t)id >= v->cap) {
        size_t cap = (size_t)id / 2 * 3 + 1024;
        struct vocab_token *p = realloc(v->token, cap * sizeof *p);
        if (!p)
            return VOCAB_NO_MEMORY;
        memset(p + v->cap, 0, (cap - v->cap) * sizeof *p);
        v->token = p;
        v->cap = cap;
    }
    if (kind == VOCAB_PLAIN) {
        *slot = (struct vocab_slot){ key, (int32_t)id, (uint32_t)len };
        v->n_slot++;
    } else if (kind == VOCAB_SPECIAL && special_add(v, (int32_t)id, bytes, len)) {
        return VOCAB_NO_MEMORY;
    }
    memcpy(v->pool + v->pool_n, bytes, len);
    v->token[id] = (struct vocab_token){ (uint32_t)v->pool_n, (uint32_t)len & INT32_MAX, kind == VOCAB_SPECIAL };
    v->pool_n += len;
    if (id >= v->n)
        v->n = (int32_t)id + 1;
    return VOCAB_OK;
}
