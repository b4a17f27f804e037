/* repl/sampler.c -- from logits to the next token: the order of the stages, the random
 * numbers and the report.  See sampler.h. */
#include "repl/sampler.h"

#include "repl/filters.h"
#include "repl/processors.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

const struct sampler_params sampler_plain = {
    .repetition_penalty = 1, .temperature = 1, .top_p = 1, .typical_p = 1,
};

struct sampler {
    uint64_t state;
    struct processors with;
    int32_t *banned;
    float   *score;                        /* [n_vocab], the logits as the processors leave them */
    struct pool pool;
    uint32_t cut[SAMPLER_STAGES];          /* by the processors                                  */
    size_t   left[SAMPLER_STAGES];         /* after each filter                                  */
};

const char *sampler_stage_name(enum sampler_stage stage)
{
    static const char *const name[SAMPLER_STAGES + 1] = {
        "vocabulary", "no_repeat_ngram_size", "min_new_tokens", "suppress_tokens", "temperature 0",
        "top_k", "top_p", "min_p", "typical_p", "epsilon_cutoff", "eta_cutoff", "",
    };
    return name[stage];
}

struct sampler *sampler_new(uint32_t n_vocab, const uint8_t *banned)
{
    struct sampler *s = calloc(1, sizeof *s);
    if (!s)
        return NULL;
    size_t n = n_vocab;
    s->score = malloc(n * sizeof *s->score);
    s->banned = malloc(n * sizeof *s->banned);
    s->with.count = calloc(n, sizeof *s->with.count);
    s->with.cut_by = malloc(n);
    s->pool.item = malloc(n * sizeof *s->pool.item);
    s->pool.scratch = malloc(n * sizeof *s->pool.scratch);
    if (!s->score || !s->banned || !s->with.count || !s->with.cut_by || !s->pool.item ||
        !s->pool.scratch) {
        sampler_free(s);
        return NULL;
    }
    for (uint32_t i = 0; banned && i < n_vocab; i++)
        if (banned[i])
            s->banned[s->with.n_banned++] = (int32_t)i;
    s->with.banned = s->banned;
    s->with.n_vocab = n_vocab;
    return s;
}

void sampler_free(struct sampler *s)
{
    if (!s)
        return;
    free(s->score);
    free(s->banned);
    free(s->with.count);
    free(s->with.cut_by);
    free(s->pool.item);
    free(s->pool.scratch);
    free(s);
}

void sampler_seed(struct sampler *s, uint64_t seed)
{
    s->state = seed;
}

void sampler_mask(struct sampler *s, const uint8_t *banned)
{
    s->with.mask = banned;
}

uint64_t sampler_state(const struct sampler *s)
{
    return s->state;
}

static double draw(struct sampler *s)
{
    uint64_t z = s->state += 0x9e3779b97f4a7c15u;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return (double)((z ^ z >> 31) >> 11) * 0x1p-53;
}

void sampler_process(struct sampler *s, const struct sampler_params *p,
                     const struct sampler_history *h, float *score)
{
    static const int32_t no_token[1];
    static const struct sampler_history none = { .token = no_token };
    memset(s->cut, 0, sizeof s->cut);
    processors_apply(&s->with, p, h ? h : &none, score, s->cut);
}

/* All stages: leaves in s->pool what a draw chooses from */
static void narrow(struct sampler *s, const struct sampler_params *p,
                   const struct sampler_history *h, const float *logits)
{
    struct pool *pool = &s->pool;
    int greedy = !(p->temperature > 0);
    memcpy(s->score, logits, s->with.n_vocab * sizeof *logits);
    sampler_process(s, p, h, s->score);
    memset(s->left, 0, sizeof s->left);
    pool_fill(pool, s->score, s->with.n_vocab, greedy ? 1 : p->top_k);
    if (greedy)
        pool_greedy(pool);
    s->left[SAMPLER_GREEDY] = s->left[SAMPLER_TOP_K] = pool->n;
    if (!pool->n)
        return;
    pool_weigh(pool, greedy ? 1 : p->temperature);
    pool_top_p(pool, p->top_p);
    s->left[SAMPLER_TOP_P] = pool->n;
    pool_min_p(pool, p->min_p);
    s->left[SAMPLER_MIN_P] = pool->n;
    pool_typical_p(pool, p->typical_p);
    s->left[SAMPLER_TYPICAL_P] = pool->n;
    pool_epsilon(pool, p->epsilon_cutoff);
    s->left[SAMPLER_EPSILON_CUTOFF] = pool->n;
    pool_eta(pool, p->eta_cutoff);
    s->left[SAMPLER_ETA_CUTOFF] = pool->n;
}

static int is_candidate(float score)
{
    return score > -INFINITY;              /* NaN is none either */
}

int32_t sampler_draw(struct sampler *s, const struct sampler_params *p,
                     const struct sampler_history *h, const float *logits)
{
    narrow(s, p, h, logits);
    if (s->pool.n)
        return s->pool.n == 1 && !(p->temperature > 0) ? item_id(s->pool.item[0])
                                                       : pool_pick(&s->pool, draw(s));
    for (uint32_t i = 0; i < s->with.n_vocab; i++)
        if (is_candidate(logits[i]))
            return SAMPLER_NONE_LEFT;
    return SAMPLER_NO_NUMBER;
}

/* ---- the report ---- */

static int by_key(const void *a, const void *b)
{
    const struct item *x = a, *y = b;
    return (x->key > y->key) - (x->key < y->key);
}

/* Fills in what became of top[n].  Those cut after top_k lie behind the survivors, the last
 * stage's victims first; others never were in the pool. */
static void find_fates(const struct sampler *s, const struct sampler_params *p,
                       struct sampler_candidate *top, uint32_t n)
{
    const struct pool *pool = &s->pool;
    uint32_t *place = s->with.count;       /* of an id in top, from 1; borrowed, zero again below */
    for (uint32_t k = 0; k < n; k++) {
        top[k].score = s->score[top[k].id];
        top[k].cut_by = !is_candidate(top[k].score) ? s->with.cut_by[top[k].id]
                      : p->temperature > 0 ? SAMPLER_TOP_K : SAMPLER_GREEDY;
        place[top[k].id] = k + 1;
    }
    for (size_t i = 0; i < pool->n_filled; i++) {
        uint32_t k = place[item_id(pool->item[i])];
        int stage = SAMPLER_STAGES;
        if (!k)
            continue;
        while (stage > SAMPLER_GREEDY && i >= s->left[stage - 1])
            stage--;
        top[k - 1].cut_by = (enum sampler_stage)stage;
        if (i < pool->n)
            top[k - 1].after = (double)pool->item[i].mass / (double)pool->sum;
    }
    for (uint32_t k = 0; k < n; k++)
        place[top[k].id] = 0;
}

void sampler_explain(struct sampler *s, const struct sampler_params *p,
                     const struct sampler_history *h, const float *logits, struct sampler_report *r)
{
    struct pool *pool = &s->pool;
    pool_fill(pool, logits, s->with.n_vocab, 0);       /* the model's own distribution first */
    size_t all = pool->n;
    if (all)
        pool_weigh(pool, 1);
    qsort(pool->item, all, sizeof *pool->item, by_key);
    r->n = r->n < all ? r->n : (uint32_t)all;
    for (uint32_t k = 0; k < r->n; k++)
        r->top[k] = (struct sampler_candidate){
            .id = item_id(pool->item[k]), .logit = item_score(pool->item[k]),
            .before = (double)pool->item[k].mass / (double)pool->sum,
        };
    narrow(s, p, h, logits);
    find_fates(s, p, r->top, r->n);
    for (int stage = 0; stage < SAMPLER_STAGES; stage++) {
        if (stage < SAMPLER_GREEDY)
            s->left[stage] = all -= s->cut[stage];
        else if (stage == SAMPLER_GREEDY && p->temperature > 0)
            s->left[stage] = all;
        r->left[stage] = (uint32_t)s->left[stage];
    }
}
