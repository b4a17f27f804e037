/* repl/specialists.h -- which experts are specialists of which topic: the statistics.
 *
 * Texts by topic go through the model; half of each topic's is for finding, the other half
 * held out.  An expert's score for a topic is the share of the topic's tokens that use it less
 * the share of all other topics' tokens.  Found: the score is at least `least` and its interval
 * is above 0 with 95% for all comparisons together (Bonferroni); replicated: in the held-out
 * half the score is at least half of `least` and its own 95% interval is above 0.  A text is a
 * cluster; intervals are those of plugins/proportion.h.  Knows no file and no backend. */
#ifndef DBRX_REPL_SPECIALISTS_H
#define DBRX_REPL_SPECIALISTS_H

#include "plugins/observer.h"
#include "plugins/proportion.h"

struct spec;

/* NULL: no memory. */
struct spec *spec_new(uint32_t n_topics, uint32_t n_layers, uint32_t n_experts);
void spec_free(struct spec *);
/* A text of that topic begins; held: 1 for the held-out half.  Its tokens follow; a token at
 * pos 0 begins a cluster.  spec_end ends the last text. */
void spec_begin(struct spec *, uint32_t topic, int held);
dbrx_status spec_token(void *spec, const struct dbrx_token *, struct dbrx_error *);     /* a corpus_token */
void spec_end(struct spec *);

/* What one backend says of an expert and a topic. */
struct spec_score {
    double share, rest, score;             /* in the half for finding                    */
    struct interval found, held_out;       /* at the family's level; at 95%              */
    double held_score;
    int is_found, is_replicated;
};
struct spec_score spec_score(const struct spec *, uint32_t topic, uint32_t layer, uint32_t expert, double least);
struct sizes spec_sizes(const struct spec *, uint32_t topic, int held);

#endif
