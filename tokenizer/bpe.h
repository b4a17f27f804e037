/* tokenizer/bpe.h -- byte-pair merging: the ids of one piece.
 *
 * Knows the vocabulary and the order of merges; knows neither the pre-tokenizer nor
 * special tokens. */
#ifndef DBRX_BPE_H
#define DBRX_BPE_H

#include "tokenizer/tokenizer.h"
#include "tokenizer/vocab.h"

#define BPE_NONE UINT32_MAX

struct bpe_pair { int32_t left, right; uint32_t rank; };

struct bpe {
    const struct vocab *vocab;
    int32_t byte_id[256];
    /* A piece that is a token as it stands is taken whole, without merging. */
    int whole;
    /* Merges listed one by one.  NULL in a rank file: there two neighbours merge if
     * what they spell is a token, and the token's id is the merge's rank. */
    struct bpe_pair *pair;                     /* [pair_mask + 1]; rank BPE_NONE: empty */
    size_t pair_mask;
    int pair_shift;
    int32_t *result;                           /* what the merge of a rank gives */
    size_t n_merges;
};

/* Finds the 256 single bytes in the vocabulary: -1, or the first byte that is missing. */
int  bpe_init(struct bpe *, const struct vocab *);
void bpe_free(struct bpe *);
/* A list of merges: room for about so many first, then each in order of rank.  0, or -1: no memory. */
int  bpe_reserve(struct bpe *, size_t n_merges);
int  bpe_add(struct bpe *, int32_t left, int32_t right, int32_t result);

/* Appends the ids of the piece s[len], len > 0; the buffer around it ends at `end`.
 * Never takes it whole: that is the caller's to look up.  0, or -1: no memory, out
 * as it was. */
int bpe_encode(const struct bpe *, const char *s, size_t len, const char *end, struct tok_ids *out);

/* Room for n more ids. */
int tok_ids_reserve(struct tok_ids *, size_t n);

#endif
