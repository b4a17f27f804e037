/* repl/sets.h -- sets of tokens, layers and experts as people write them.
 *
 *   range   12   3..9   ..5   10..   *         both ends count
 *   list    RANGE,RANGE...                     1,4..6
 *   experts LIST[@LIST] ...                    3,7@0..9 12@-1    experts @ layers, words apart;
 *                                              without @: on all layers
 * Layers alone may begin with an @.  Tokens and layers may be negative: -1 is the last, -5.. the last five.  Knows no model, no
 * conversation and no terminal: what there is, the caller says. */
#ifndef DBRX_REPL_SETS_H
#define DBRX_REPL_SETS_H

#include <stddef.h>
#include <stdint.h>

struct set {
    uint8_t *in;                           /* [n], 1: in the set; NULL: not given         */
    uint32_t n, count;                     /* tokens, layers, or n_layers * n_experts     */
    uint32_t first, last;                  /* the least and the greatest in it            */
};

/* The set that `text` describes.  0, or -1 with one sentence in err and *s empty: it cannot be
 * read, or names what is out of range and what there is.  set_free() it. */
int set_tokens(struct set *s, const char *text, uint32_t n_tokens, char *err, size_t size);
int set_layers(struct set *s, const char *text, uint32_t n_layers, char *err, size_t size);
/* in: [n_layers][n_experts] */
int set_experts(struct set *s, const char *text, uint32_t n_layers, uint32_t n_experts, char *err,
                size_t size);
void set_free(struct set *);

/* The text for in[n], a set of tokens or layers, or for in[n_layers][n_experts], of experts:
 * as short as it gets, "" for an empty one.  free() it; NULL: no memory. */
char *set_list_text(const uint8_t *in, uint32_t n);
char *set_experts_text(const uint8_t *in, uint32_t n_layers, uint32_t n_experts);

#endif
