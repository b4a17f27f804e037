/* repl/idlist.h -- settings that are lists of tokens: `220, "the", 5=-2.5`.
 *
 * A token is an id, or quoted text that is exactly one token (\" \\ \n \t inside).  Entries
 * are separated by commas or blanks.  Knows no shell. */
#ifndef DBRX_REPL_IDLIST_H
#define DBRX_REPL_IDLIST_H

#include "repl/sampler.h"
#include "tokenizer/tokenizer.h"

struct id_list {
    struct sampler_bias *bias;             /* [n]; bias 0 when the list has no values */
    int32_t *id;                           /* [n], the same ids                       */
    uint32_t n;
};

/* Reads text; with `values` each entry ends in =VALUE, min <= VALUE <= max.  tok may be NULL:
 * then only ids will do.  0, or -1 with one sentence in err and *out untouched. */
int  id_list_parse(struct id_list *out, const char *text, const struct tok *tok, uint32_t n_vocab,
                   int values, double min, double max, char *err, size_t size);
void id_list_free(struct id_list *);

#endif
