/* tokenizer/bpe.c -- byte-pair merging in time linear in the piece.
 *
 * The definition: as long as two neighbours can merge, merge the pair of lowest
 * rank, the leftmost of equals.  Knows nothing of where pieces come from. */
#include "tokenizer/bpe.h"

#include <stdlib.h>

int bpe_init(struct bpe *b, const struct vocab *v)
{
    memset(b, 0, sizeof *b);
    b->vocab = v;
    for (int i = 0; i < 256; i++) {
        char c = (char)i;
        if ((b->byte_id[i] = vocab_id(v, &c, 1, &c + 1)) < 0)
            return i;
    }
    return -1;
}

void bpe_free(struct bpe *b)
{
    free(b->pair);
    free(b->result);
    memset(b, 0, sizeof *b);
}

/* ------------------------------------------------------------------ the list of merges */

/* Where the merge of left and right is, or the empty slot where it would be. */
static inline struct bpe_pair *pair_slot(const struct bpe *b, int32_t left, int32_t right)
{
    size_t i = vocab_hash((uint64_t)left << 32 | (uint32_t)right, 0) >> b->pair_shift;
    for (;; i = (i + 1) & b->pair_mask) {
        struct bpe_pair *p = &b->pair[i];
        if (p->rank == BPE_NONE || (p->left == left && p->right == right))
            return p;
    }
}

/* Makes room for n merges in a table at most four fifths full: what a tokenizer costs to
 * open is mostly the memory it touches for the first time. */
int bpe_reserve(struct bpe *b, size_t n)
{
    struct bpe old = *b;
    int bits = 4;
    while (((size_t)1 << bits) / 5 * 4 < n)
        bits++;
    size_t slots = (size_t)1 << bits;
    int32_t *result = realloc(b->result, slots / 5 * 4 * sizeof *result);
    if (!result)
        return -1;
    b->result = result;
    struct bpe_pair *pair = malloc(slots * sizeof *pair);
    if (!pair)
        return -1;
    b->pair = pair;
    b->pair_mask = slots - 1;
    b->pair_shift = 64 - bits;
    for (size_t i = 0; i < slots; i++)
        pair[i] = (struct bpe_pair){ 0, 0, BPE_NONE };
    for (size_t i = 0; old.pair && i <= old.pair_mask; i++)
        if (old.pair[i].rank != BPE_NONE)
            *pair_slot(b, old.pair[i].left, old.pair[i].right) = old.pair[i];
    free(old.pair);
    return 0;
}

int bpe_add(struct bpe *b, int32_t left, int32_t right, int32_t result)
{
    if (b->n_merges == (b->pair_mask + 1) / 5 * 4 && bpe_reserve(b, 2 * b->n_merges))
        return -1;
    /* the last of equals counts */
    *pair_slot(b, left, right) = (struct bpe_pair){ left, right, (uint32_t)b->n_merges };
    b->result[b->n_merges++] = result;
    return 0;
}

/* ------------------------------------------------------------------ merging */

/* A stretch of the piece on its way to become a token.  It ends where the next
 * begins; behind the last stands one that is only a beginning. */
struct part {
    uint32_t start;
    int32_t  id;
    uint32_t rank;                             /* of the merge with the next part, or BPE_NONE */
};

/* The rank at which p and q merge; q is p's neighbour and followed by another part. */
static inline uint32_t rank_of(const struct bpe *b, const char *s, const char *end,
                               const struct part *p, const struct part *q, uint32_t q_end)
{
    if (b->pair)
        return pair_slot(b, p->id, q->id)->rank;
    return (uint32_t)vocab_id(b->vocab, s + p->start, q_end - p->start, end);   /* -1 is BPE_NONE */
}

/* Merges s[len] in p[len + 1]; returns how many parts are left.
 *
 * Each round performs the merges of the lowest rank from left to right, in place.
 * That is the order of the definition as long as no merge offers its neighbours a
 * lower rank; when one does, the rest of the round only copies. */
static size_t merge(const struct bpe *b, const char *s, size_t len, const char *end, struct part *p)
{
    size_t n = len;
    uint32_t lowest = BPE_NONE;
    for (size_t i = 0; i <= n; i++)
        p[i] = (struct part){ (uint32_t)i, i < n ? b->byte_id[(unsigned char)s[i]] : -1, BPE_NONE };
    for (size_t i = 0; i + 1 < n; i++) {
        p[i].rank = rank_of(b, s, end, &p[i], &p[i + 1], (uint32_t)i + 2);
        if (p[i].rank < lowest)
            lowest = p[i].rank;
    }
    while (lowest != BPE_NONE) {
        uint32_t rank = lowest;
        int merging = 1;
        size_t w = 0;
        lowest = BPE_NONE;
        for (size_t i = 0; i < n; w++) {
            struct part q = p[i++];
            if (merging && q.rank == rank) {
                i++;
                q.id = b->pair ? b->result[rank] : (int32_t)rank;
                q.rank = i < n ? rank_of(b, s, end, &q, &p[i], p[i + 1].start) : BPE_NONE;
                if (w)
                    p[w - 1].rank = rank_of(b, s, end, &p[w - 1], &q, p[i].start);
                merging = q.rank > rank && !(w && p[w - 1].rank < rank);
            }
            if (w && p[w - 1].rank < lowest)    /* only now is it settled */
                lowest = p[w - 1].rank;
            p[w] = q;
        }
        p[w] = p[n];
        n = w;
    }
    return n;
}

/* ------------------------------------------------------------------ pieces of any length */

/* merge() is quadratic in the number of different ranks, so a long piece is merged
 * in stretches.  What makes them fit together exactly, whatever the merges are:
 *
 *   A sequence of tokens is the merging of the text they spell if and only if every
 *   two neighbours t u are the merging of what t u spell.
 *
 * Only if: no merge crossed the border of t u, so what happened inside happened in
 * the order in which it happens there alone.  If: otherwise some merge is the first
 * to cross a border, between t and u; until then t u went the way they go alone, and
 * the pair is lowest there too, so it would be merged there as well.
 *
 * So: take back the last few tokens, merge them again together with the next
 * stretch, and look at the one border in between; if it does not hold, take back
 * twice as many. */
enum { STRETCH = 128, TAKE_BACK = 2, STACK_PARTS = 512 };

static int border_holds(const struct bpe *b, int32_t t, int32_t u, const char *s, size_t len,
                        const char *end, struct part *p)
{
    return merge(b, s, len, end, p) == 2 && p[0].id == t && p[1].id == u;
}

static inline size_t id_len(const struct bpe *b, int32_t id)
{
    return b->vocab->token[id].len;
}

int bpe_encode(const struct bpe *b, const char *s, size_t len, const char *end, struct tok_ids *out)
{
    struct part stack[STACK_PARTS], *p = stack, *heap = NULL;
    size_t room = STACK_PARTS, before = out->n;
    size_t take_back = TAKE_BACK, done = 0;     /* s[done] is merged, up to take_back */

    for (size_t upto = 0; upto < len || done < upto;) {
        if (upto == done)                       /* the border held: a new stretch */
            upto = len - done > STRETCH ? done + STRETCH : len;
        for (size_t i = 0; i < take_back && out->n > before; i++)
            done -= id_len(b, out->id[--out->n]);

        size_t need = upto - done + 1;
        int32_t last = out->n > before ? out->id[out->n - 1] : -1;
        if (last >= 0 && need < id_len(b, last) + (upto - done) + 1)
            need = id_len(b, last) + (upto - done) + 1;     /* for the border, at most */
        if (need > room) {
            room = 2 * need;
            struct part *bigger = realloc(heap, room * sizeof *bigger);
            if (!bigger)
                goto fail;
            p = heap = bigger;
        }
        size_t n = merge(b, s + done, upto - done, end, p), start = out->n;
        if (tok_ids_reserve(out, n))
            goto fail;
        for (size_t i = 0; i < n; i++)
            out->id[out->n++] = p[i].id;
        if (last >= 0) {
            size_t l = id_len(b, last);
            if (!border_holds(b, last, out->id[start], s + done - l, l + id_len(b, out->id[start]), end, p)) {
                out->n = start;
                take_back *= 2;
                continue;
            }
        }
        done = upto;
        take_back = TAKE_BACK;
    }
    free(heap);
    return 0;
fail:
    free(heap);
    out->n = before;
    return -1;
}
