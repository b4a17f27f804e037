/* tokenizer/vocab.h -- token ids and their bytes, both ways.
 *
 * Knows neither where a vocabulary comes from nor how text is merged into tokens.
 * Filled once by a reader (vocab_hf.c, vocab_tiktoken.c), never changed afterwards. */
#ifndef DBRX_VOCAB_H
#define DBRX_VOCAB_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define VOCAB_MAX_ID ((1 << 24) - 1)

struct vocab_token { uint32_t off, len : 31, special : 1; };      /* bytes are pool[off..off+len) */
struct vocab_slot  { uint64_t key; int32_t id; uint32_t len; };   /* len 0: empty */

struct vocab {
    char *pool;                                /* the bytes of all tokens, end to end */
    size_t pool_n, pool_cap;
    struct vocab_token *token;                 /* [cap], by id; len 0: no text */
    size_t cap;
    int32_t n;                                 /* highest id with text + 1 */
    struct vocab_slot *slot;                   /* [mask + 1], by bytes; special tokens are not in it */
    size_t mask, n_slot;
    int shift;
    int32_t *special;                          /* [n_special], longest text first */
    size_t n_special;
    unsigned char special_first[256];          /* bytes that special tokens begin with */
};

/* Every kind of token that vocab_add takes. */
enum { VOCAB_PLAIN,                            /* found by its bytes */
       VOCAB_SPECIAL,                          /* found by vocab_special_at only */
       VOCAB_MUTE };                           /* decodes, but no text becomes it */
enum { VOCAB_OK, VOCAB_NO_MEMORY = -1, VOCAB_BAD_ID = -2, VOCAB_ID_TAKEN = -3, VOCAB_BYTES_TAKEN = -4,
       VOCAB_EMPTY = -5 };

int  vocab_init(struct vocab *, size_t n_tokens);                 /* room for about so many */
void vocab_free(struct vocab *);
int  vocab_add(struct vocab *, int64_t id, const char *bytes, size_t len, int kind);
const char *vocab_strerror(int);               /* "the id is given twice" */

static inline const char *vocab_bytes(const struct vocab *v, int32_t id, size_t *len)
{
    *len = id >= 0 && id < v->n ? v->token[id].len : 0;
    return *len ? v->pool + v->token[id].off : NULL;
}

/* The special token that s[n] begins with, the longest if there are several, or -1. */
int32_t vocab_special_at(const struct vocab *, const char *s, size_t n);
int32_t vocab_special_named(const struct vocab *, const char *name);

/* ---- bytes to id; inline, because nearly all of an encoder's time goes here */

/* Up to 8 bytes are their own key.  May read as far as `end`, where the buffer ends. */
static inline uint64_t vocab_key(const char *s, size_t len, const char *end)
{
    uint64_t k = 0, w;
    if (len <= 8) {
        if (end - s >= 8) {
            memcpy(&k, s, 8);
            return k & ~UINT64_C(0) >> (64 - 8 * len);
        }
        memcpy(&k, s, len);
        return k;
    }
    for (size_t i = 0; i < len - 8; i += 8) {
        memcpy(&w, s + i, 8);
        k = (k ^ w) * UINT64_C(0x9e3779b97f4a7c15);
        k ^= k >> 32;
    }
    memcpy(&w, s + len - 8, 8);                /* overlaps the last one where it must */
    return (k ^ w) * UINT64_C(0xd6e8feb86659fd93);
}

static inline uint64_t vocab_hash(uint64_t key, size_t len)
{
    key += len;
    return (key ^ key >> 32) * UINT64_C(0x9e3779b97f4a7c15);      /* the upper bits are the good ones */
}

/* Where the token with just these bytes is, or the empty slot where it would be; len > 0,
 * key and hash as above. */
static inline struct vocab_slot *vocab_slot(const struct vocab *v, const char *s, size_t len,
                                            uint64_t key, uint64_t hash)
{
    for (size_t i = hash >> v->shift;; i = (i + 1) & v->mask) {
        struct vocab_slot *e = &v->slot[i];
        if (!e->len || (e->key == key && e->len == len
                        && (len <= 8 || memcmp(v->pool + v->token[e->id].off, s, len) == 0)))
            return e;
    }
}

/* ... and its id, or -1. */
static inline int32_t vocab_find(const struct vocab *v, const char *s, size_t len, uint64_t key, uint64_t hash)
{
    const struct vocab_slot *e = vocab_slot(v, s, len, key, hash);
    return e->len ? e->id : -1;
}

static inline int32_t vocab_id(const struct vocab *v, const char *s, size_t len, const char *end)
{
    uint64_t key = vocab_key(s, len, end);
    return vocab_find(v, s, len, key, vocab_hash(key, len));
}

#endif
