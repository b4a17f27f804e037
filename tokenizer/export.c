/* tokenizer/export.c -- a tokenizer as others write it down: tokens spelled in GPT-2's byte
 * alphabet, and merges in order.  Knows no file format. */
#include "tokenizer/tok.h"

#include <stdlib.h>

size_t tok_spell(const struct tok *t, int32_t id, char *out)
{
    size_t len;
    const char *s = tok_bytes(t, id, &len);
    if (tok_is_special(t, id)) {
        memcpy(out, s, len);
        return len;
    }
    return len ? alphabet_spell(s, len, out) : 0;
}

/* The two tokens that become this one: what merging its bytes by lower ranks leaves */
static int split(const struct tok *t, int32_t id, int32_t *left, int32_t *right)
{
    enum { MAX = 512 };
    size_t len, start[MAX + 1], n;
    const char *s = tok_bytes(t, id, &len);
    if (len < 2 || len > MAX || tok_is_special(t, id))
        return 0;
    for (n = 0; n <= len; n++)
        start[n] = n;
    n = len;
    while (n > 2) {
        int32_t lowest = id;
        size_t at = n;
        for (size_t i = 0; i + 1 < n; i++) {
            int32_t rank = vocab_id(&t->vocab, s + start[i], start[i + 2] - start[i], s + len);
            if (rank >= 0 && rank < lowest)
                lowest = rank, at = i;
        }
        if (at == n)
            return 0;                           /* no merge leads here */
        memmove(start + at + 1, start + at + 2, (n - at - 1) * sizeof *start);
        n--;
    }
    *left = vocab_id(&t->vocab, s, start[1], s + len);
    *right = vocab_id(&t->vocab, s + start[1], len - start[1], s + len);
    return *left >= 0 && *right >= 0;
}

struct tok_merge *tok_merges(const struct tok *t, size_t *n)
{
    const struct bpe *b = &t->bpe;
    size_t most = b->pair ? b->n_merges : (size_t)t->vocab.n;
    struct tok_merge *m = calloc(most + 1, sizeof *m);
    *n = 0;
    for (size_t i = 0; m && b->pair && i <= b->pair_mask; i++)
        if (b->pair[i].rank != BPE_NONE)
            m[b->pair[i].rank] = (struct tok_merge){ b->pair[i].left, b->pair[i].right, 1 };
    for (int32_t id = 0; m && !b->pair && id < t->vocab.n; id++)
        m[id].used = split(t, id, &m[id].left, &m[id].right);
    for (size_t i = 0; m && i < most; i++)      /* one listed twice counts where it is last */
        if (m[i].used)
            m[(*n)++] = m[i];
    return m;
}
