/* repl/divergence.h -- how far two computations of the same tokens lie apart: the figures.
 *
 * Fed with logits, residual streams and routes of both sides, side `a` being the one that
 * differences are relative to; adds them up in double.  Knows no backend, no session and no
 * terminal: who computed the numbers is the caller's business. */
#ifndef DBRX_REPL_DIVERGENCE_H
#define DBRX_REPL_DIVERGENCE_H

#include "backends/backend.h"

struct div_place { uint32_t text, pos; };  /* which text, and the position in it        */

/* Another likeliest token.  margin: how many nats more likely a's was than b's, to a. */
struct div_change { struct div_place at; int32_t a, b; double margin; };

/* A router's other choice: `out` was chosen by a only, `in` by b only.  The margins are those
 * by which each side preferred its own, ln(p[chosen] / p[not chosen]); of several experts the
 * pair that a set widest apart. */
struct div_flip { struct div_place at; int32_t token; uint16_t layer, out, in, n;
                  double margin_a, margin_b; };

struct div_layer {                         /* of the residual stream after it           */
    uint64_t tokens;                       /* compared; 0: a side gave no taps          */
    double diff2, norm2;                   /* sums of squares: of b - a, of a           */
    double worst;                          /* |b - a| / |a| of the worst token          */
    uint64_t routed, flips, reordered;     /* choices compared; other experts; the same ones
                                              in another order of weights                 */
    double router;                         /* largest difference of a router probability */
};

enum { DIV_KEEP = 1000 };                  /* changes and flips kept: the widest        */

struct divergence {
    uint32_t n_layers, d_model, n_experts, n_vocab;
    uint32_t top;                          /* of the top-k agreement                    */
    uint64_t rows, bad;                    /* logits compared; left out: no finite numbers */
    double err_sum, err2_sum, err_max;     /* |b - a| of each of rows * n_vocab logits  */
    struct div_place err_at; int32_t err_id;
    double *kl;                            /* [rows] KL(a||b) in nats, ascending after div_end */
    double kl_sum, kl_back_sum, kl_max;    /* kl_back: KL(b||a)                         */
    struct div_place kl_at;
    uint64_t top1; double overlap_sum;     /* rows with the same likeliest token; of the `top`
                                              likeliest, the part in common, summed       */
    uint64_t next;                         /* rows whose next token is known            */
    double nll_sum[2], gap_sum, gap2_sum;  /* -ln p of it, on a and b; of the differences b - a */
    struct div_layer *layer;               /* [n_layers + 1], 0 is the embedding        */
    uint64_t n_changes, n_flips;           /* all of them, kept or not                  */
    struct div_change *change; size_t kept_changes;    /* by margin, widest first after div_end */
    struct div_flip   *flip;   size_t kept_flips;
    size_t kl_cap; double *scratch;        /* [2 * n_vocab]                             */
    int failed;                            /* memory ran out: the figures are worthless */
};

/* top: how many of the likeliest tokens are compared, 1 to 64.  NULL: out of memory. */
struct divergence *div_new(const struct dbrx_config *, uint32_t top);
void div_free(struct divergence *);        /* NULL is fine */

/* Logits a, b: [n][n_vocab] of positions at.pos ..; next[n]: the token that followed each, or -1.
 * A row with an infinity or a NaN on either side counts as bad, as a difference of top-1, and
 * in nothing else.  Ties: the lower id is likelier, as in greedy sampling. */
void div_logits(struct divergence *, struct div_place at, uint32_t n, const float *a, const float *b,
                const int32_t *next);
/* Residual stream a, b: [n][d_model] after block `layer`; -1: the embedding. */
void div_residual(struct divergence *, int32_t layer, uint32_t n, const float *a, const float *b);
/* One token's choice at a layer: experts[k], heaviest first, and prob[n_experts] of both sides. */
void div_route(struct divergence *, struct div_place at, int32_t token, uint32_t layer,
               uint32_t ka, const uint16_t *a, const float *prob_a,
               uint32_t kb, const uint16_t *b, const float *prob_b);
/* Nothing more comes: sorts.  0, or -1 when memory had run out. */
int  div_end(struct divergence *);

/* ---- figures, after div_end; NaN where nothing was compared ---- */
double div_kl(const struct divergence *, double quantile);     /* 0.5: the median, nearest rank */
double div_perplexity(const struct divergence *, int side);    /* side: 0 is a, 1 is b */
/* Mean of ln(perplexity b / perplexity a) over tokens, and its standard error. */
double div_nll_gap(const struct divergence *, double *error);
/* |b - a| / |a| of layer [0 .. n_layers], over all tokens; infinite where a is 0 and b is not. */
double div_layer_error(const struct divergence *, uint32_t layer);
/* The first layer, as an index into `layer`, whose error is above `tolerance`, or -1. */
int  div_first_layer(const struct divergence *, double tolerance);

#endif
