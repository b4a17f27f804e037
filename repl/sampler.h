/* repl/sampler.h -- from logits to the next token.
 *
 * Same definitions and order as Hugging Face's generate(): temperature, top_k,
 * top_p, min_p, then one draw.  The host samples, whatever the backend, so that a
 * seed means the same everywhere.
 *
 * PRNG: SplitMix64 (Steele, Lea, Flood 2014): state += 0x9e3779b97f4a7c15, output is
 * its mix of the state; the state starts as the seed; a draw in [0,1) is the top 53
 * bits.  One draw a token, none at temperature 0.  Candidates are walked from the
 * largest logit down, the lower id first among equals. */
#ifndef DBRX_REPL_SAMPLER_H
#define DBRX_REPL_SAMPLER_H

#include <stddef.h>
#include <stdint.h>

struct sampler_params {
    float    temperature;                  /* 0: greedy                                  */
    uint32_t top_k;                        /* keep the k likeliest; 0: all               */
    float    top_p;                        /* keep the smallest set of at least this mass; 1: all */
    float    min_p;                        /* keep p >= min_p * max p; 0: all            */
};

/* What can cut a candidate, in order. */
enum sampler_stage { SAMPLER_VOCABULARY, SAMPLER_GREEDY, SAMPLER_TOP_K, SAMPLER_TOP_P, SAMPLER_MIN_P, SAMPLER_STAGES };
const char *sampler_stage_name(enum sampler_stage);    /* "vocabulary", "top_k", ... */

struct sampler_history {
    const int32_t *token;                  /* [n], the timeline                          */
    uint32_t n, n_prompt;                  /* the reply began at n_prompt                */
};

struct sampler;

/* banned[n_vocab]: non-zero ids are never drawn; copied; NULL: none. */
struct sampler *sampler_new(uint32_t n_vocab, const uint8_t *banned);   /* NULL: out of memory */
void sampler_free(struct sampler *);
void sampler_seed(struct sampler *, uint64_t seed);    /* restarts the stream */
/* Besides those banned for good, banned[n_vocab] of the draws from now on; not copied;
 * NULL: none.  Such ids are no candidates at all: every setting applies to what is left. */
void sampler_mask(struct sampler *, const uint8_t *banned);
/* Where the stream is; sampler_seed(that) goes on from there. */
uint64_t sampler_state(const struct sampler *);

/* logits[n_vocab] is left as it is.  Returns an id, or -1 when no logit is finite
 * (NaN never wins). */
int32_t sampler_draw(struct sampler *, const struct sampler_params *, const float *logits);

/* What a draw would choose from; draws nothing and leaves the random numbers alone. */
struct sampler_report {
    uint32_t left[SAMPLER_STAGES];         /* candidates after each stage                */
    struct sampler_candidate {             /* [n], by logit, the lower id first among equals */
        int32_t id;
        float   logit;
        double  before, after;             /* probability: the model's; the one drawn with */
        enum sampler_stage cut_by;         /* SAMPLER_STAGES: it survived                */
    } *top;                                /* the caller's, with room for n              */
    uint32_t n;                            /* in: how many are wanted, out: how many there are */
};
void sampler_explain(struct sampler *, const struct sampler_params *, const struct sampler_history *,
                     const float *logits, struct sampler_report *);

#endif
