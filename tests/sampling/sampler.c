/* tests/sampling/sampler.c -- the sampler against a naive one that sorts everything, on large
 * vocabularies with many ties, each parameter alone and combined; its random numbers; what it
 * does with damaged logits; its report. */
#include "repl/sampler.h"
#include "tests/tap.h"

#include <math.h>
#include <string.h>

enum { V = 20000, N_HISTORY = 300 };

static uint64_t lcg = 1;
static double uniform(void)
{
    lcg = lcg * 6364136223846793005u + 1442695040888963407u;
    return ((double)(lcg >> 11) + 0.5) * 0x1p-53;
}
static uint32_t below(uint32_t n)
{
    return (uint32_t)(uniform() * n);
}

/* ---- the naive sampler: sorts, and takes each definition by its word ---- */

struct naive { int32_t id; float score; double p, far; int kept; };
static struct naive all[V];
static size_t n_all;

static int by_score(const void *a, const void *b)
{
    const struct naive *x = a, *y = b;
    return x->score != y->score ? (x->score < y->score) - (x->score > y->score) : x->id - y->id;
}

static int by_far(const void *a, const void *b)
{
    const struct naive *x = a, *y = b;
    return (x->far > y->far) - (x->far < y->far);
}

/* drops what is not kept and makes probabilities of the rest */
static void renew(double temperature)
{
    size_t n = 0;
    double sum = 0;
    for (size_t i = 0; i < n_all; i++)
        if (all[i].kept)
            all[n++] = all[i];
    n_all = n;
    for (size_t i = 0; i < n_all; i++)
        sum += all[i].p = exp(((double)all[i].score - all[0].score) / temperature);
    for (size_t i = 0; i < n_all; i++)
        all[i].p /= sum;
}

static double entropy(void)
{
    double h = 0;
    for (size_t i = 0; i < n_all; i++)
        h -= all[i].p > 0 ? all[i].p * log(all[i].p) : 0;
    return h;
}

static int has(const int32_t *id, uint32_t n, int32_t x)
{
    int count = 0;
    for (uint32_t i = 0; i < n; i++)
        count += id[i] == x;
    return count;
}

static int ends_ngram(const struct sampler_history *h, uint32_t size, int32_t id)
{
    for (uint32_t i = 0; size && i + size <= h->n; i++) {
        uint32_t k = 0;
        while (k + 1 < size && h->token[i + k] == h->token[h->n - size + 1 + k])
            k++;
        if (k + 1 == size && h->token[i + k] == id)
            return 1;
    }
    return 0;
}

static void naive_narrow(const struct sampler_params *p, const struct sampler_history *h,
                         const float *logits)
{
    n_all = 0;
    for (int32_t id = 0; id < V; id++) {
        float x = logits[id];
        for (uint32_t i = 0; i < p->n_logit_bias; i++)
            if (p->logit_bias[i].id == id)
                x += p->logit_bias[i].bias;
        if (has(h->token, h->n, id))
            x = x < 0 ? x * (float)p->repetition_penalty : x / (float)p->repetition_penalty;
        int often = has(h->token + h->n_prompt, h->n - h->n_prompt, id);
        if (often)
            x -= (float)(often * p->frequency_penalty + p->presence_penalty);
        if (isnan(x) || x == -INFINITY || ends_ngram(h, p->no_repeat_ngram_size, id) ||
            (h->n - h->n_prompt < p->min_new_tokens && has(p->eos, p->n_eos, id)) ||
            has(p->suppress_tokens, p->n_suppress_tokens, id))
            continue;
        all[n_all++] = (struct naive){ id, x, 0, 0, 1 };
    }
    qsort(all, n_all, sizeof *all, by_score);
    if (!(p->temperature > 0)) {
        n_all = n_all > 0;
        all[0].p = 1;
        return;
    }
    for (size_t i = 0; p->top_k && i < n_all; i++)
        all[i].kept = i < p->top_k || all[i].score == all[p->top_k - 1].score;
    renew(p->temperature);
    double mass = 0, top = all[0].p;
    for (size_t i = 0; p->top_p < 1 && i < n_all; mass += all[i++].p)
        all[i].kept = !i || mass < p->top_p;
    renew(p->temperature);
    top = all[0].p;
    for (size_t i = 0; i < n_all; i++)
        all[i].kept = all[i].p >= p->min_p * top;
    renew(p->temperature);
    if (p->typical_p < 1) {
        double hh = entropy(), cut;
        for (size_t i = 0; i < n_all; i++)
            all[i].far = fabs(-log(all[i].p) - hh);
        qsort(all, n_all, sizeof *all, by_far);
        size_t i = 0;
        for (mass = 0; i + 1 < n_all && (mass += all[i].p) < p->typical_p;)
            i++;
        cut = all[i].far;
        for (i = 0; i < n_all; i++)        /* equal logits have equal distances but for rounding */
            all[i].kept = all[i].far <= cut + 1e-9;
        qsort(all, n_all, sizeof *all, by_score);
        size_t first = 0;
        while (!all[first].kept)
            first++;
        memmove(all, all + first, (n_all -= first) * sizeof *all);
    }
    renew(p->temperature);
    for (size_t i = 0; i < n_all; i++)
        all[i].kept = all[i].p >= p->epsilon_cutoff || all[i].score == all[0].score;
    renew(p->temperature);
    if (p->eta_cutoff > 0) {
        double eta = fmin(p->eta_cutoff, sqrt(p->eta_cutoff) * exp(-entropy()));
        for (size_t i = 0; i < n_all; i++)
            all[i].kept = all[i].p >= eta || all[i].score == all[0].score;
    }
    renew(p->temperature);
}

static uint64_t mix(uint64_t *state)
{
    uint64_t z = *state += 0x9e3779b97f4a7c15u;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return z ^ z >> 31;
}

static int32_t naive_pick(uint64_t *state)
{
    double u = (double)(mix(state) >> 11) * 0x1p-53;
    size_t i = 0;
    for (; i + 1 < n_all && u >= all[i].p; i++)
        u -= all[i].p;
    return all[i].id;
}

/* ---- both, side by side ---- */

static float logits[V];
static int32_t token[N_HISTORY], eos[2], suppress[40];
static struct sampler_bias bias[40];
static struct sampler_candidate top[V];

static void make_logits(int kind)
{
    for (int i = 0; i < V; i++) {
        double x = 3 * sqrt(-2 * log(uniform())) * cos(6.283185307179586 * uniform());
        logits[i] = (float)(kind == 0 ? x : kind == 1 ? round(4 * x) / 4 : kind == 2 ? round(x / 6) * 6
                            : kind == 3 ? 1 : -i / 1000.0);
    }
}

static int agree(struct sampler *s, const struct sampler_params *p, const struct sampler_history *h,
                 char *why, size_t size)
{
    struct sampler_report r = { .top = top, .n = V };
    sampler_explain(s, p, h, logits, &r);
    naive_narrow(p, h, logits);
    if (r.left[SAMPLER_STAGES - 1] != n_all)
        return snprintf(why, size, "%u survive, naively %zu", r.left[SAMPLER_STAGES - 1], n_all), 0;
    static double want[V];
    for (int i = 0; i < V; i++)
        want[i] = -1;
    for (size_t i = 0; i < n_all; i++)
        want[all[i].id] = all[i].p;
    for (uint32_t i = 0; i < r.n; i++) {
        int kept = top[i].cut_by == SAMPLER_STAGES;
        if (kept != (want[top[i].id] >= 0) || fabs(top[i].after - (kept ? want[top[i].id] : 0)) > 1e-9)
            return snprintf(why, size, "id %d has %.12g, naively %.12g", top[i].id, top[i].after,
                            want[top[i].id]), 0;
    }
    uint64_t seed = lcg, state = seed;
    sampler_seed(s, seed);
    for (int i = 0; i < 20; i++) {
        int32_t id = sampler_draw(s, p, h, logits), naively = p->temperature > 0 ? naive_pick(&state) : all[0].id;
        if (id != naively)
            return snprintf(why, size, "draw %d is %d, naively %d", i, id, naively), 0;
    }
    return 1;
}

static void set_one(struct sampler_params *p, int which)
{
    switch (which) {
    case 0: p->temperature = 0.1 + 3 * uniform(); break;
    case 1: p->top_k = 1 + below(below(2) ? 100 : V); break;
    case 2: p->top_p = uniform(); break;
    case 3: p->min_p = 0.3 * uniform(); break;
    case 4: p->typical_p = 0.05 + 0.9 * uniform(); break;
    case 5: p->epsilon_cutoff = 0.002 * uniform(); break;
    case 6: p->eta_cutoff = 0.01 * uniform(); break;
    case 7: p->repetition_penalty = 0.5 + 2 * uniform(); break;
    case 8: p->no_repeat_ngram_size = 1 + below(4); break;
    case 9: p->frequency_penalty = 2 * uniform() - 1; break;
    case 10: p->presence_penalty = 2 * uniform() - 1; break;
    case 11: p->min_new_tokens = 1 + below(2 * N_HISTORY); break;
    case 12: p->suppress_tokens = suppress, p->n_suppress_tokens = 40; break;
    case 13: p->logit_bias = bias, p->n_logit_bias = 40; break;
    case 14: p->temperature = 0; break;
    default: break;
    }
}

static void test_naive(void)
{
    static const char *const name[] = {
        "temperature", "top_k", "top_p", "min_p", "typical_p", "epsilon_cutoff", "eta_cutoff",
        "repetition_penalty", "no_repeat_ngram_size", "frequency_penalty", "presence_penalty",
        "min_new_tokens", "suppress_tokens", "logit_bias", "temperature 0", "nothing", "several"
    };
    struct sampler *s = sampler_new(V, NULL);
    for (int which = 0; which < 17; which++) {
        int fine = 1;
        char why[200] = "";
        for (int round = 0; round < (which < 16 ? 5 : 60) && fine; round++) {
            struct sampler_params p = sampler_plain;
            struct sampler_history h = { token, 1 + below(N_HISTORY), 0 };
            h.n_prompt = below(h.n + 1);
            make_logits(round % 5);
            for (int i = 0; i < N_HISTORY; i++)
                token[i] = (int32_t)(below(2) ? below(5) : below(V));
            for (int i = 0; i < 40; i++) {
                suppress[i] = (int32_t)below(V);
                bias[i] = (struct sampler_bias){ (int32_t)(i * (V / 40) + (int)below(100)), (float)(20 * uniform() - 10) };
            }
            eos[0] = 3, eos[1] = (int32_t)below(V);
            p.eos = eos, p.n_eos = 2;
            set_one(&p, which);
            for (int k = 0; which == 16 && k < 14; k++)
                if (below(3) == 0)
                    set_one(&p, k);
            fine = agree(s, &p, &h, why, sizeof why);
        }
        ok(fine, "%s: as the naive sampler", name[which]);
        if (!fine)
            diag("%s", why);
    }
    sampler_free(s);
}

/* ---- random numbers, damage, bans ---- */

static int32_t draw_once(struct sampler *s, const struct sampler_params *p, const float *l)
{
    return sampler_draw(s, p, NULL, l);
}

static void test_random(void)
{
    enum { N = 8, ROUNDS = 40000, FLAT = 1024 };
    static const float flat[FLAT];
    struct sampler *f = sampler_new(FLAT, NULL);
    const struct sampler_params plain = sampler_plain;
    struct sampler_params greedy = plain;
    greedy.temperature = 0;
    /* SplitMix64 from 0 begins e220a839.., 6e789e6a.., 06c45d18..: their top ten bits */
    sampler_seed(f, 0);
    int32_t a = draw_once(f, &plain, flat), b = draw_once(f, &plain, flat), c = draw_once(f, &plain, flat);
    ok(a == 0x388 && b == 0x1b9 && c == 0x01b, "random numbers are those of SplitMix64 (%d %d %d)", a, b, c);
    sampler_seed(f, 0);
    draw_once(f, &plain, flat);
    draw_once(f, &greedy, flat);
    uint64_t state = sampler_state(f);
    int32_t next = draw_once(f, &plain, flat);
    sampler_seed(f, state);
    ok(next == b && draw_once(f, &plain, flat) == b, "one a draw, none when greedy; the state can be taken up again");
    struct sampler_params one = plain;
    one.top_k = 1;
    sampler_seed(f, state);
    const float peak[FLAT] = { 0, 1 };
    ok(draw_once(f, &one, peak) == 1 && sampler_state(f) != state, "one a draw even if only one is left");
    sampler_free(f);

    const float l[N] = { 1, 3, 2, NAN, -INFINITY, 3, 0, 2.5f };
    struct sampler *s = sampler_new(N, NULL);
    int count[N] = { 0 };
    double want[N], sum = 0, chi = 0;
    for (int i = 0; i < N; i++)
        sum += want[i] = isnan(l[i]) ? 0 : exp(l[i]);
    sampler_seed(s, 7);
    for (int i = 0; i < ROUNDS; i++)
        count[draw_once(s, &plain, l)]++;
    for (int i = 0; i < N; i++)
        if (want[i] > 0)
            chi += pow(count[i] - ROUNDS * want[i] / sum, 2) / (ROUNDS * want[i] / sum);
    ok(chi < 22.5, "temperature 1 draws from the softmax (chi2 %.1f, 5 degrees)", chi);
    ok(!count[3] && !count[4], "NaN and -infinity are never drawn");
    ok(draw_once(s, &greedy, l) == 1, "greedy takes the largest, the lower id of equals");

    const float none[N] = { NAN, NAN, NAN, NAN, -INFINITY, NAN, NAN, NAN };
    ok(draw_once(s, &plain, none) == SAMPLER_NO_NUMBER && draw_once(s, &greedy, none) == SAMPLER_NO_NUMBER,
       "no number to draw from");
    const float inf[N] = { 1, INFINITY, 2, NAN, INFINITY, 0, 0, 0 };
    memset(count, 0, sizeof count);
    for (int i = 0; i < 100; i++)
        count[draw_once(s, &plain, inf)]++;
    ok(count[1] + count[4] == 100 && count[1] && draw_once(s, &greedy, inf) == 1, "infinity wins");
    const float zero[N] = { -0.0f, 0.0f, -1, -1, -1, -1, -1, -1 };
    ok(draw_once(s, &greedy, zero) == 0, "-0 and 0 are equal");
    sampler_free(s);

    const uint8_t banned[N] = { 0, 1, 0, 0, 0, 0, 0, 1 };
    s = sampler_new(N, banned);
    memset(count, 0, sizeof count);
    for (int i = 0; i < ROUNDS; i++)
        count[draw_once(s, &plain, l)]++;
    ok(!count[1] && !count[7] && count[6] && draw_once(s, &greedy, l) == 5, "a banned id is never drawn");
    const int32_t others[] = { 0, 2, 5, 6, 3, 4 };
    struct sampler_params nothing = plain;
    nothing.suppress_tokens = others, nothing.n_suppress_tokens = 6;
    ok(draw_once(s, &nothing, l) == SAMPLER_NONE_LEFT, "nothing left is told from nothing there");
    sampler_free(s);
}

/* At temperature 1 / ln 2 a logit less is half the probability: limits that are met exactly */
static void test_limits(void)
{
    const float l[5] = { 0, -1, -1, -INFINITY, -INFINITY };        /* 1/2 1/4 1/4 */
    static const struct { double top_p, min_p, epsilon; uint32_t left; } want[] = {
        { 1, 0, 0, 3 }, { 0.5, 0, 0, 1 }, { 0.50001, 0, 0, 2 }, { 0.75, 0, 0, 2 }, { 0, 0, 0, 1 },
        { 1, 0.5, 0, 3 }, { 1, 0.50001, 0, 1 }, { 1, 0, 0.25, 3 }, { 1, 0, 0.25001, 1 }, { 1, 0, 0.99, 1 },
    };
    struct sampler *s = sampler_new(5, NULL);
    struct sampler_candidate t[5];
    for (size_t i = 0; i < sizeof want / sizeof *want; i++) {
        struct sampler_params p = sampler_plain;
        struct sampler_report r = { .top = t, .n = 5 };
        p.temperature = 1 / log(2);
        p.top_p = want[i].top_p, p.min_p = want[i].min_p, p.epsilon_cutoff = want[i].epsilon;
        sampler_explain(s, &p, NULL, l, &r);
        ok(r.n == 3 && r.left[SAMPLER_STAGES - 1] == want[i].left, "top_p %g, min_p %g, epsilon %g of 1/2 1/4 1/4: %u left",
           want[i].top_p, want[i].min_p, want[i].epsilon, r.left[SAMPLER_STAGES - 1]);
    }
    sampler_free(s);
}

static void test_report(void)
{
    const float l[8] = { 4, 3, 2, 1, 0, -1, 5, 2.5f };
    const uint8_t banned[8] = { 0, 0, 0, 0, 0, 0, 1, 0 };
    const int32_t seen[] = { 7, 0, 7 }, no[] = { 1 };
    struct sampler *s = sampler_new(8, banned);
    struct sampler_candidate t[8];
    struct sampler_report r = { .top = t, .n = 5 };
    struct sampler_params p = sampler_plain;
    const struct sampler_history h = { seen, 3, 1 };
    p.no_repeat_ngram_size = 2;            /* 7 was followed by 0 */
    p.suppress_tokens = no, p.n_suppress_tokens = 1;
    p.top_k = 3;                           /* 7 2 3 with 2.5 2 1 */
    p.top_p = 0.8;                         /* .546 .332: two of them */
    p.min_p = 0.7;                         /* .607 of the first: out */
    sampler_seed(s, 5);
    sampler_explain(s, &p, &h, l, &r);
    ok(r.n == 5 && t[0].id == 6 && t[1].id == 0 && t[2].id == 1 && t[3].id == 7 && t[4].id == 2,
       "the report lists the model's likeliest");
    ok(t[0].cut_by == SAMPLER_VOCABULARY && t[1].cut_by == SAMPLER_NO_REPEAT_NGRAM_SIZE &&
       t[2].cut_by == SAMPLER_SUPPRESS_TOKENS && t[3].cut_by == SAMPLER_STAGES && t[4].cut_by == SAMPLER_MIN_P,
       "... and what cut each");
    static const uint32_t left[] = { 7, 6, 6, 5, 5, 3, 2, 1, 1, 1, 1 };
    ok(!memcmp(r.left, left, sizeof left), "... and how many each stage left");
    ok(fabs(t[0].before - 0.6015) < 1e-4 && t[3].after == 1 && t[4].after == 0 && t[3].score == 2.5f,
       "... and probabilities before (%.4f) and after", t[0].before);
    ok(sampler_state(s) == 5, "... and draws nothing");
    p.min_p = 0, p.top_p = 1, r.n = 8;
    sampler_explain(s, &p, &h, l, &r);
    ok(r.n == 8 && t[5].id == 3 && t[5].cut_by == SAMPLER_STAGES && t[6].cut_by == SAMPLER_TOP_K &&
       t[7].id == 5, "... all of them when asked, with those beyond top_k");
    p.temperature = 0;
    sampler_explain(s, &p, &h, l, &r);
    ok(t[3].after == 1 && t[4].cut_by == SAMPLER_GREEDY && r.left[SAMPLER_GREEDY] == 1 &&
       r.left[SAMPLER_SUPPRESS_TOKENS] == 5, "... at temperature 0, too");
    const float equal[8] = { 0, 4, 1, 4, 1, 1, 1, 1 };
    p = sampler_plain;
    p.temperature = 0;
    sampler_explain(s, &p, NULL, equal, &r);
    ok(t[0].id == 1 && t[0].cut_by == SAMPLER_STAGES && t[1].id == 3 && t[1].cut_by == SAMPLER_GREEDY,
       "... where the lower id wins among equals");
    sampler_free(s);
}

int main(void)
{
    test_naive();
    test_random();
    test_limits();
    test_report();
    return done();
}
