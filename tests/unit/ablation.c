/* tests/unit/ablation.c -- ablation against two plain forward passes, one without the experts;
 * exact zeros; any order of runs and any interrupt give the same bits. */
#include "repl/ablation.h"
#include "tests/unit/plain_forward.h"
#include "tests/unit/tiny_model.h"

static int stop_in;                        /* polls until a stop; 0: never */
static int should_stop(const struct dbrx_host *h)
{
    (void)h;
    return stop_in && --stop_in == 0;
}
static const struct dbrx_host host = QUIET_HOST(should_stop);
static const int32_t tok[] = { 5, 17, 300, 2, 99, 5, 64, 11, 200, 7 };
enum { T = sizeof tok / sizeof *tok };
static const uint32_t whole[] = { 0, T };

static double log2p(const double *z, uint32_t n, uint32_t i)
{
    double max = z[0], sum = 0;
    for (uint32_t k = 1; k < n; k++)
        max = fmax(max, z[k]);
    for (uint32_t k = 0; k < n; k++)
        sum += exp(z[k] - max);
    return (z[i] - max - log(sum)) / log(2);
}

/* What ablation must say, from two plain passes */
static struct ablation_sums plainly(const struct dbrx_model_desc *m, const struct pf_rule *with,
                                    const struct pf_rule *without)
{
    const struct dbrx_config *c = &m->config;
    size_t v = c->n_vocab;
    double *a = calloc(T * v, sizeof *a), *b = calloc(T * v, sizeof *b);
    struct ablation_sums s = { 0 };
    pf_forward(m, with, tok, T, a, NULL);
    pf_forward(m, without, tok, T, b, NULL);
    for (uint32_t t = 0; t < T; t++) {
        double kl = 0;
        uint32_t best_a = 0, best_b = 0;
        for (uint32_t i = 0; i < v; i++) {
            double p = log2p(a + t * v, c->n_vocab, i);
            kl += exp2(p) * (p - log2p(b + t * v, c->n_vocab, i));
            best_a = a[t * v + i] > a[t * v + best_a] ? i : best_a;
            best_b = b[t * v + i] > b[t * v + best_b] ? i : best_b;
        }
        s.kl += kl;
        s.changed += best_a != best_b;
        if (t + 1 < T)
            s.delta += log2p(b + t * v, c->n_vocab, (uint32_t)tok[t + 1]) - log2p(a + t * v, c->n_vocab, (uint32_t)tok[t + 1]);
    }
    free(a), free(b);
    return s;
}

static int same_bits(const struct ablation_sums *a, const struct ablation_sums *b)
{
    return a->delta == b->delta && a->kl == b->kl && a->kl_max == b->kl_max && a->changed == b->changed &&
           a->used == b->used && a->routed == b->routed && a->shifted == b->shifted;
}

static struct ablation_sums run(struct ablation *a, const struct dbrx_config *c, uint32_t l, uint32_t e, enum steer_effect how)
{
    struct ablation_sums s = { 0 };
    struct dbrx_error err = { 0 };
    uint8_t in[4096] = { 0 };
    in[l * c->n_experts + e] = 1;
    if (ablation_run(a, in, how, &s, NULL, NULL, &err) != DBRX_OK)
        diag("%u@%u: %s", e, l, err.text);
    return s;
}

static void test_on(struct disp *d, const struct dbrx_model_desc *m, const char *base)
{
    const struct dbrx_config *c = &m->config;
    struct dbrx_error err = { 0 };
    struct ablation *a = NULL, *b = NULL;
    static const enum steer_effect hows[] = { STEER_ZERO, STEER_OMIT, STEER_SKIP, STEER_BAN };
    struct pf_rule *with = pf_rules(c);
    if (*base)
        with[0].skip[3] = 1;               /* what base says, too */
    ok(ablation_open(d, c, tok, whole, 1, base, &a, &err) == DBRX_OK, "on %s, steered \"%s\": a baseline", disp_name(d), base);
    double worst_kl = 0, worst_delta = 0, largest = 0;
    uint32_t differ = 0, unused = 0, zeros = 0, tried = 0;
    for (uint32_t l = 0; l < c->n_layers; l++)
        for (uint32_t e = *base ? 4 : 0; e < c->n_experts; e += 3) {
            enum steer_effect how = hows[tried++ % 4];
            struct pf_rule *r = pf_rules(c);
            memcpy(r, with, c->n_layers * sizeof *r);
            uint8_t *flag = how == STEER_ZERO ? r[l].zero : how == STEER_OMIT ? r[l].omit : how == STEER_SKIP ? r[l].skip : r[l].ban;
            flag[e] = 1;
            struct ablation_sums want = plainly(m, with, r), got = run(a, c, l, e, how);
            worst_kl = fmax(worst_kl, fabs(got.kl - want.kl));
            worst_delta = fmax(worst_delta, fabs(got.delta - want.delta));
            largest = fmax(largest, want.kl);
            differ += got.changed != want.changed;
            if (!got.used && how != STEER_BAN) {       /* a ban moves the softmax of the others by rounding */
                unused++;
                zeros += got.delta == 0 && got.kl == 0 && got.kl_max == 0 && !got.changed && !got.shifted;
            }
            free(r);
        }
    ok(worst_kl < 1e-4 && worst_delta < 1e-4 && largest > 0.05 && !differ,
       "%u ablations, four meanings: KL within %.1e, log-probability within %.1e of two plain passes (of up to %.2f)",
       tried, worst_kl, worst_delta, largest);
    ok(zeros == unused && unused, "experts that contribute to no token: exactly 0 (%u of %u)", zeros, unused);

    /* any order, also one that goes back */
    struct ablation_sums first = run(a, c, 1, 0, STEER_ZERO), last = run(a, c, c->n_layers - 1, 5, STEER_ZERO);
    struct ablation_sums again = run(a, c, 1, 0, STEER_ZERO), top = run(a, c, 0, 5, STEER_ZERO);
    struct ablation_sums after = run(a, c, c->n_layers - 1, 5, STEER_ZERO), top2 = run(a, c, 0, 5, STEER_ZERO);
    ok(same_bits(&first, &again) && same_bits(&last, &after) && same_bits(&top, &top2), "the order of runs does not show");

    /* stopped at any poll */
    int stopped = 0, same = 1;
    for (int i = 0, at; (at = 1 + i / (int)c->n_layers) < 8; i++) {
        struct ablation_sums s;
        uint8_t in[4096] = { 0 };
        in[(i % (int)c->n_layers) * (int)c->n_experts + 5] = 1;
        stop_in = at;
        dbrx_status st = ablation_run(a, in, STEER_ZERO, &s, NULL, NULL, &err);
        stop_in = 0;
        stopped += st == DBRX_STOPPED;
        struct ablation_sums now = run(a, c, 1, 0, STEER_ZERO);
        same &= (st == DBRX_OK || st == DBRX_STOPPED) && same_bits(&now, &first);
    }
    ok(stopped > 5 && same, "stopped at any poll (%d times), the next run is as good as any", stopped);
    stop_in = 2;
    ok(ablation_open(d, c, tok, whole, 1, base, &b, &err) == DBRX_STOPPED && !b, "a baseline can be stopped");
    stop_in = 0;

    uint8_t *all = malloc((size_t)c->n_layers * c->n_experts);
    memset(all, 1, (size_t)c->n_layers * c->n_experts);
    struct ablation_sums s;
    ok(ablation_run(a, all, STEER_BAN, &s, NULL, NULL, &err) == DBRX_E_INVALID && strstr(err.text, "left to choose from"),
       "more than can be banned: %s", err.text);
    struct ablation_sums still = run(a, c, 1, 0, STEER_ZERO);
    ok(same_bits(&still, &first), "... and nothing of it stays");
    struct ablation_token each[T];
    uint32_t *shift = calloc(c->n_layers, sizeof *shift);
    memset(all, 0, (size_t)c->n_layers * c->n_experts);
    all[c->n_experts] = 1;
    double kl = 0, delta = 0;
    uint64_t shifted = 0;
    ablation_run(a, all, STEER_ZERO, &s, each, shift, &err);
    for (uint32_t t = 0; t < T; t++) {
        kl += each[t].kl;
        delta += t + 1 < T ? each[t].delta : 0;
    }
    for (uint32_t l = 0; l < c->n_layers; l++)
        shifted += shift[l];
    ok(same_bits(&s, &first) && kl == s.kl && delta == s.delta && shifted == s.shifted && !shift[0] && !shift[1] &&
       isnan(each[T - 1].delta) && s.routed == (uint64_t)T * (c->n_layers - 2), "what each token lost adds up");
    free(shift), free(all), free(with);
    ablation_close(a);
}

/* Texts are contexts of their own: together they are the sum of each alone, to the bit */
static void test_texts(struct disp *d, const struct dbrx_config *c)
{
    static const uint32_t three[] = { 0, 4, 5, T };
    struct dbrx_error err = { 0 };
    struct ablation *all = NULL;
    ok(ablation_open(d, c, tok, three, 3, "", &all, &err) == DBRX_OK, "three texts: %s", err.text);
    int same = 1;
    for (uint32_t l = 0; l < c->n_layers; l += 2) {
        struct ablation_token each[T], one[T];
        struct ablation_sums s, sum = { 0 };
        uint8_t in[4096] = { 0 };
        in[l * c->n_experts + 5] = 1;
        same &= ablation_run(all, in, STEER_OMIT, &s, each, NULL, &err) == DBRX_OK;
        for (int i = 0; i < 3; i++) {
            struct ablation *a = NULL;
            struct ablation_sums of = { 0 };
            const uint32_t alone[] = { 0, three[i + 1] - three[i] };
            same &= ablation_open(d, c, tok + three[i], alone, 1, "", &a, &err) == DBRX_OK &&
                    ablation_run(a, in, STEER_OMIT, &of, one + three[i], NULL, &err) == DBRX_OK;
            sum.routed += of.routed, sum.shifted += of.shifted, sum.used += of.used, sum.changed += of.changed;
            ablation_close(a);
        }
        same &= s.routed == sum.routed && s.shifted == sum.shifted && s.used == sum.used && s.changed == sum.changed;
        for (uint32_t t = 0; t < T; t++)
            same &= one[t].kl == each[t].kl && one[t].was == each[t].was && one[t].now == each[t].now &&
                    (one[t].delta == each[t].delta || (isnan(one[t].delta) && isnan(each[t].delta)));
        same &= isnan(each[3].delta) && isnan(each[4].delta) && isnan(each[T - 1].delta) && !isnan(each[5].delta);
    }
    ok(same, "texts together say what each says alone");
    ablation_close(all);
}

int main(void)
{
    struct dbrx_error err = { 0 };
    struct modules mods = { 0 };
    struct ckpt *ck = tiny_open(&mods);
    struct disp *d = disp_new(&ck->desc, &mods, &host, 40);
    struct ablation *none = NULL;
    ok(ablation_open(d, &ck->desc.config, tok, whole, 1, "", &none, &err) == DBRX_E_INVALID && !none, "without a backend: %s",
       err.text);
    for (int i = 0; i < TINY_BACKENDS; i++) {
        if (disp_use(d, tiny_backends[i], NULL, 0, NULL, 0, &err) != DBRX_OK)
            bail("%s", err.text);
        test_on(d, &ck->desc, "");
        test_on(d, &ck->desc, "skip 3@0");
        test_texts(d, &ck->desc.config);
    }
    disp_free(d);
    modules_free(&mods);
    ckpt_close(ck);
    return done();
}
