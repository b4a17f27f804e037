/* repl/filters.c -- see filters.h. */
#include "repl/filters.h"

#include <float.h>
#include <math.h>
#include <string.h>

/* ---- items ---- */

/* A float's bits, flipped so that they order as the floats do, then from the largest down */
static struct item make_item(float score, uint32_t id)
{
    uint32_t bits;
    score += 0.0f;                         /* -0 equals 0 */
    memcpy(&bits, &score, sizeof bits);
    bits ^= bits >> 31 ? 0xffffffffu : 0x80000000u;
    return (struct item){ (uint64_t)~bits << 32 | id, 1 };
}

float item_score(struct item x)
{
    uint32_t bits = ~(uint32_t)(x.key >> 32);
    float score;
    bits ^= bits >> 31 ? 0x80000000u : 0xffffffffu;
    memcpy(&score, &bits, sizeof score);
    return score;
}

int32_t item_id(struct item x)
{
    return (int32_t)(uint32_t)x.key;
}

static void swap(struct item *a, struct item *b)
{
    struct item x = *a;
    *a = *b;
    *b = x;
}

/* Moves the items with key < pivot to the front of a[n]; how many, and their mass.  Without
 * a branch: half of them would be mispredicted. */
static size_t partition(struct item *a, size_t n, uint64_t pivot, uint64_t *mass)
{
    size_t m = 0;
    uint64_t sum = 0;
    for (size_t i = 0; i < n; i++) {
        struct item x = a[i];
        uint64_t less = x.key < pivot;
        a[i] = a[m];
        a[m] = x;
        m += less;
        sum += x.mass & (0 - less);
    }
    *mass = sum;
    return m;
}

static uint64_t median(uint64_t a, uint64_t b, uint64_t c)
{
    uint64_t lo = a < b ? a : b, hi = a < b ? b : a;
    return c < lo ? lo : c > hi ? hi : c;
}

/* Reorders a[n] as far as needed to find the place m where the masses, added up by ascending
 * key, exceed target (which is below their sum); a[0..m) then come before a[m], the rest
 * after it.  Quickselect by mass.  Pivots are taken at places that no input knows. */
static size_t select_mass(struct item *a, size_t n, uint64_t target)
{
    size_t lo = 0, hi = n;
    uint64_t at = 0x9e3779b97f4a7c15u, mass;
    while (hi - lo > 1) {
        uint64_t key[3];
        for (int i = 0; i < 3; i++) {
            at = at * 6364136223846793005u + 1442695040888963407u;
            key[i] = a[lo + (size_t)(at >> 33) % (hi - lo)].key;
        }
        uint64_t pivot = median(key[0], key[1], key[2]);
        size_t m = lo + partition(a + lo, hi - lo, pivot, &mass);
        if (target < mass) {
            hi = m;
            continue;
        }
        target -= mass;
        lo = m;
        /* the pivot's equals, itself included, come next; only typical_p's keys have many */
        m += partition(a + lo, hi - lo, pivot + 1, &mass);
        if (target < mass) {
            for (; target >= a[lo].mass; lo++)
                target -= a[lo].mass;
            return lo;
        }
        target -= mass;
        lo = m;
    }
    return lo;
}

/* ---- top_k ---- */

/* The k first of item[n] to the front, those that equal the last of them behind; how many */
static size_t keep_best(struct item *item, size_t n, uint32_t k, float *worst)
{
    size_t m = select_mass(item, n, k - 1) + 1;
    *worst = item_score(item[m - 1]);
    for (size_t i = m; i < n; i++)
        if (item_score(item[i]) == *worst)
            swap(&item[m++], &item[i]);
    return m;
}

void pool_fill(struct pool *p, const float *score, uint32_t n_vocab, uint32_t k)
{
    struct item *item = p->item;
    float worst = -FLT_MAX;                /* of those worth keeping */
    size_t n = 0, limit = k ? 2 * (size_t)k : SIZE_MAX;
    for (uint32_t i = 0; i < n_vocab; i++) {
        if (!(score[i] >= worst))
            continue;
        item[n++] = make_item(score[i], i);
        if (n == limit) {                  /* now and then, so that all of it stays linear */
            n = keep_best(item, n, k, &worst);
            limit = 2 * n;
        }
    }
    if (k && n > k)
        n = keep_best(item, n, k, &worst);
    p->n = p->n_filled = n;
}

/* ---- masses ---- */

void pool_greedy(struct pool *p)
{
    for (size_t i = 1; i < p->n; i++)
        if (p->item[i].key < p->item[0].key)
            swap(&p->item[0], &p->item[i]);
    p->n = p->n > 0;
}

/* log of the probability, but for the norm; the likeliest has 0, and so has all that equals
 * it when it is infinite */
static double exponent(const struct pool *p, struct item x)
{
    float score = item_score(x);
    return score == p->top ? 0 : ((double)score - p->top) / p->temperature;
}

void pool_weigh(struct pool *p, double temperature)
{
    uint64_t best = UINT64_MAX;
    for (size_t i = 0; i < p->n; i++)
        best = p->item[i].key < best ? p->item[i].key : best;
    p->top = item_score((struct item){ best, 0 });
    p->temperature = temperature;
    p->sum = 0;
    for (size_t i = 0; i < p->n; i++) {
        double x = exponent(p, p->item[i]);
        p->item[i].mass = x < -30 ? 0 : (uint64_t)(exp(x) * (double)MASS_ONE + 0.5);
        p->sum += p->item[i].mass;
    }
}

/* share of a sum as a whole number, at least 1 */
static uint64_t share(double part, uint64_t sum)
{
    double x = ceil(part * (double)sum);
    return x < 1 ? 1 : x >= (double)sum ? sum : (uint64_t)x;
}

static void shrink(struct pool *p, size_t n)
{
    if (n == p->n)
        return;
    p->n = n;
    p->sum = 0;
    for (size_t i = 0; i < n; i++)
        p->sum += p->item[i].mass;
}

/* ---- filters ---- */

void pool_top_p(struct pool *p, double top_p)
{
    if (top_p < 1 && p->n > 1)
        shrink(p, select_mass(p->item, p->n, share(top_p, p->sum) - 1) + 1);
}

/* The survivors of at least this mass; the likeliest stay in any case */
static void drop_below(struct pool *p, double mass)
{
    size_t m = 0;
    for (size_t i = 0; i < p->n; i++)
        if ((double)p->item[i].mass >= mass || item_score(p->item[i]) == p->top)
            swap(&p->item[m++], &p->item[i]);
    shrink(p, m);
}

void pool_min_p(struct pool *p, double min_p)
{
    if (min_p > 0)
        drop_below(p, min_p * (double)MASS_ONE);
}

void pool_epsilon(struct pool *p, double epsilon)
{
    if (epsilon > 0)
        drop_below(p, epsilon * (double)p->sum);
}

static double log_norm(const struct pool *p)
{
    return log((double)p->sum / (double)MASS_ONE);
}

static double entropy(const struct pool *p)
{
    double h = 0, norm = log_norm(p);
    for (size_t i = 0; i < p->n; i++)
        if (p->item[i].mass)
            h += (double)p->item[i].mass * (norm - exponent(p, p->item[i]));
    return h / (double)p->sum;
}

void pool_eta(struct pool *p, double epsilon)
{
    if (epsilon > 0)
        drop_below(p, fmin(epsilon, sqrt(epsilon) * exp(-entropy(p))) * (double)p->sum);
}

/* How far a token's surprisal is from the expected one, as a key; bits of doubles that are
 * not negative order as the doubles do */
static uint64_t atypical(const struct pool *p, struct item x, double typical)
{
    double far = fabs(-exponent(p, x) - typical);
    uint64_t key;
    memcpy(&key, &far, sizeof key);
    return key;
}

void pool_typical_p(struct pool *p, double typical_p)
{
    if (!(typical_p < 1) || p->n < 2)
        return;
    double typical = entropy(p) - log_norm(p);
    for (size_t i = 0; i < p->n; i++)
        p->scratch[i] = (struct item){ atypical(p, p->item[i], typical), p->item[i].mass };
    uint64_t cut = p->scratch[select_mass(p->scratch, p->n, share(typical_p, p->sum) - 1)].key;
    size_t m = 0;
    for (size_t i = 0; i < p->n; i++)
        if (atypical(p, p->item[i], typical) <= cut)
            swap(&p->item[m++], &p->item[i]);
    p->n = m;
    pool_weigh(p, p->temperature);         /* the likeliest may be among those that went */
}

int32_t pool_pick(struct pool *p, double u)
{
    uint64_t target = (uint64_t)(u * (double)p->sum);
    return item_id(p->item[select_mass(p->item, p->n, target < p->sum ? target : p->sum - 1)]);
}
