/* repl/sampler.h -- from logits to the next token.
 *
 * Same definitions and order as Hugging Face's generate(), see docs/sampling.md: processors
 * change scores (bias, penalties, bans), filters cut candidates (top_k, top_p, ...), then one
 * draw.  The host samples, whatever the backend, so that a seed means the same everywhere.
 *
 * PRNG: SplitMix64 (Steele, Lea, Flood 2014): state += 0x9e3779b97f4a7c15, output is
 * its mix of the state; the state starts as the seed; a draw in [0,1) is the top 53
 * bits.  One draw a token, none at temperature 0.  Candidates are walked from the
 * largest score down, the lower id first among equals. */
#ifndef DBRX_REPL_SAMPLER_H
#define DBRX_REPL_SAMPLER_H

#include <stddef.h>
#include <stdint.h>

struct sampler_bias { int32_t id; float bias; };

/* In the order in which they act.  Start from sampler_plain, where all of it is off. */
struct sampler_params {
    const struct sampler_bias *logit_bias; /* [n_logit_bias], added; ids in the vocabulary     */
    uint32_t n_logit_bias;
    double   repetition_penalty;           /* over the whole timeline; 1: off                  */
    uint32_t no_repeat_ngram_size;         /* over the whole timeline; 0: off                  */
    uint32_t min_new_tokens;               /* no eos before that many tokens of the reply      */
    const int32_t *eos;                    /* [n_eos]                                          */
    uint32_t n_eos;
    const int32_t *suppress_tokens;        /* [n_suppress_tokens], never drawn                 */
    uint32_t n_suppress_tokens;
    double   frequency_penalty;            /* times the occurrences in the reply so far; 0: off */
    double   presence_penalty;             /* once for what occurs in the reply so far; 0: off */

    double   temperature;                  /* 0: greedy, what follows plays no part            */
    uint32_t top_k;                        /* the k likeliest and what equals the last; 0: all */
    double   top_p;                        /* the smallest set of at least this mass; 1: all   */
    double   min_p;                        /* p >= min_p * max p; 0: all                       */
    double   typical_p;                    /* the most typical of at least this mass; 1: all   */
    double   epsilon_cutoff;               /* p >= epsilon; 0: all                             */
    double   eta_cutoff;                   /* p >= min(eta, sqrt(eta) * exp(-entropy)); 0: all */
};
extern const struct sampler_params sampler_plain;

struct sampler_history {
    const int32_t *token;                  /* [n], the timeline, ids in the vocabulary         */
    uint32_t n, n_prompt;                  /* the reply began at n_prompt                      */
};

/* What can cut a candidate, in order. */
enum sampler_stage {
    SAMPLER_VOCABULARY,                    /* no token, or a control token that ends nothing   */
    SAMPLER_NO_REPEAT_NGRAM_SIZE, SAMPLER_MIN_NEW_TOKENS, SAMPLER_SUPPRESS_TOKENS,
    SAMPLER_GREEDY, SAMPLER_TOP_K, SAMPLER_TOP_P, SAMPLER_MIN_P, SAMPLER_TYPICAL_P,
    SAMPLER_EPSILON_CUTOFF, SAMPLER_ETA_CUTOFF, SAMPLER_STAGES
};
const char *sampler_stage_name(enum sampler_stage);    /* "vocabulary", "top_k", ... */

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

/* logits[n_vocab] is left as it is.  Returns an id, SAMPLER_NO_NUMBER when no logit is a
 * number above -infinity (NaN never wins), or SAMPLER_NONE_LEFT when the parameters ruled
 * every token out.  history may be NULL: nothing came before. */
enum { SAMPLER_NO_NUMBER = -1, SAMPLER_NONE_LEFT = -2 };
int32_t sampler_draw(struct sampler *, const struct sampler_params *, const struct sampler_history *,
                     const float *logits);

/* What a draw would choose from; draws nothing and leaves the random numbers alone. */
struct sampler_report {
    uint32_t left[SAMPLER_STAGES];         /* candidates after each stage                      */
    struct sampler_candidate {             /* [n], by logit, the lower id first among equals   */
        int32_t id;
        float   logit, score;              /* the model's; after bias and penalties            */
        double  before, after;             /* probability: the model's; the one drawn with     */
        enum sampler_stage cut_by;         /* SAMPLER_STAGES: it survived                      */
    } *top;                                /* the caller's, with room for n                    */
    uint32_t n;                            /* in: how many are wanted, out: how many there are */
};
void sampler_explain(struct sampler *, const struct sampler_params *, const struct sampler_history *,
                     const float *logits, struct sampler_report *);

/* The processors alone, on score[n_vocab], in place: for beam search. */
void sampler_process(struct sampler *, const struct sampler_params *, const struct sampler_history *,
                     float *score);

#endif
