/* repl/processors.c -- see processors.h. */
#include "repl/processors.h"

#include <math.h>
#include <string.h>

/* one pass */
struct pass {
    const struct processors *with;
    float *score;
    uint32_t *cut;
};

static void suppress(struct pass *p, int32_t id, enum sampler_stage by)
{
    if (id < 0 || (uint32_t)id >= p->with->n_vocab || !(p->score[id] > -INFINITY))
        return;
    p->score[id] = -INFINITY;
    p->with->cut_by[id] = (uint8_t)by;
    p->cut[by]++;
}

static void suppress_all(struct pass *p, const int32_t *id, uint32_t n, enum sampler_stage by)
{
    for (uint32_t i = 0; i < n; i++)
        suppress(p, id[i], by);
}

static void logit_bias(struct pass *p, const struct sampler_params *s)
{
    for (uint32_t i = 0; i < s->n_logit_bias; i++)
        p->score[s->logit_bias[i].id] += s->logit_bias[i].bias;
}

/* Calls `change` once for every token that occurs in token[n], with how often it does */
static void each_once(struct pass *p, const struct sampler_params *s, const int32_t *token, uint32_t n,
                      float (*change)(const struct sampler_params *, float score, uint32_t count))
{
    uint32_t *count = p->with->count;
    for (uint32_t i = 0; i < n; i++)
        count[token[i]]++;
    for (uint32_t i = 0; i < n; i++) {
        int32_t id = token[i];
        if (count[id])
            p->score[id] = change(s, p->score[id], count[id]);
        count[id] = 0;
    }
}

static float repeated(const struct sampler_params *s, float score, uint32_t count)
{
    float penalty = (float)s->repetition_penalty;
    (void)count;
    return score < 0 ? score * penalty : score / penalty;
}

static float frequent(const struct sampler_params *s, float score, uint32_t count)
{
    return score - (float)(count * s->frequency_penalty + s->presence_penalty);
}

/* Whatever followed an earlier occurrence of the last size - 1 tokens */
static void no_repeat_ngram(struct pass *p, const int32_t *token, uint32_t n, uint32_t size)
{
    if (!size || n < size)
        return;
    const int32_t *tail = token + n - (size - 1);
    for (uint32_t i = 0; i + size <= n; i++)
        if (!memcmp(token + i, tail, (size - 1) * sizeof *token))
            suppress(p, token[i + size - 1], SAMPLER_NO_REPEAT_NGRAM_SIZE);
}

void processors_apply(const struct processors *with, const struct sampler_params *s,
                      const struct sampler_history *h, float *score,
                      uint32_t cut[SAMPLER_STAGES])
{
    struct pass p = { with, score, cut };
    suppress_all(&p, with->banned, with->n_banned, SAMPLER_VOCABULARY);
    for (uint32_t i = 0; with->mask && i < with->n_vocab; i++)
        if (with->mask[i])
            suppress(&p, (int32_t)i, SAMPLER_VOCABULARY);
    logit_bias(&p, s);
    if (s->repetition_penalty != 1)
        each_once(&p, s, h->token, h->n, repeated);
    no_repeat_ngram(&p, h->token, h->n, s->no_repeat_ngram_size);
    if (h->n - h->n_prompt < s->min_new_tokens)
        suppress_all(&p, s->eos, s->n_eos, SAMPLER_MIN_NEW_TOKENS);
    suppress_all(&p, s->suppress_tokens, s->n_suppress_tokens, SAMPLER_SUPPRESS_TOKENS);
    if (s->frequency_penalty != 0 || s->presence_penalty != 0)
        each_once(&p, s, h->token + h->n_prompt, h->n - h->n_prompt, frequent);
}
