/* repl/filters.h -- from scores to the set of tokens a draw is made from: temperature, top_k,
 * top_p, min_p, typical_p, epsilon_cutoff and eta_cutoff, as in transformers.
 *
 * Probabilities are kept as masses, whole numbers in units of MASS_ONE for the likeliest
 * token.  Their sums do not depend on the order, so that nothing here has to sort: a set
 * that reaches some mass is found by partial selection, and is exactly the one that a walk
 * through the sorted candidates finds.  Knows no history and no random numbers. */
#ifndef DBRX_REPL_FILTERS_H
#define DBRX_REPL_FILTERS_H

#include <stddef.h>
#include <stdint.h>

#define MASS_ONE ((uint64_t)1 << 42)       /* 2^21 equally likely tokens still fit a sum */

/* Ascending keys are the order of the walk: the largest score first, the lower id first
 * among equals. */
struct item { uint64_t key, mass; };

struct pool {
    struct item *item;                     /* [n_vocab]; [0, n) survive, in no order           */
    struct item *scratch;                  /* [n_vocab]                                        */
    size_t n;
    size_t n_filled;                       /* [n, n_filled) were cut after top_k, last cut first */
    uint64_t sum;                          /* of the survivors' masses                         */
    float    top;                          /* the largest score                                */
    double   temperature;
};

int32_t item_id(struct item);
float   item_score(struct item);

/* The k largest of score[n_vocab] and all that equal the k-th (0: all); NaN and -infinity
 * are no candidates.  Leaves p->n and counts of 1 for masses: pool_weigh comes next. */
void pool_fill(struct pool *, const float *score, uint32_t n_vocab, uint32_t k);
/* Leaves the largest score alone, of equals the lowest id. */
void pool_greedy(struct pool *);
void pool_weigh(struct pool *, double temperature);    /* softmax(score / temperature) */

void pool_top_p(struct pool *, double top_p);
void pool_min_p(struct pool *, double min_p);
void pool_typical_p(struct pool *, double typical_p);
void pool_epsilon(struct pool *, double epsilon);
void pool_eta(struct pool *, double epsilon);

/* The survivor at which the masses, added up along the walk, exceed u * sum; 0 <= u < 1. */
int32_t pool_pick(struct pool *, double u);

#endif
