/* tests/unit/divergence.c -- figures of divergence against cases worked out by hand, and of
 * comparison on the tiny golden checkpoint: a backend with itself, one layer broken, another
 * step, interrupts. */
#include "backends/model/checkpoint.h"
#include "repl/comparison.h"
#include "repl/dispatch.h"
#include "repl/measure.h"
#include "tests/quiet_host.h"
#include "tests/tap.h"

#include <math.h>
#include <string.h>

static int near(double x, double y)
{
    return fabs(x - y) <= 1e-12 * fmax(1, fabs(y));
}

/* ---- by hand ---- */

static const struct dbrx_config tiny = { .n_layers = 2, .d_model = 2, .n_experts = 4, .n_vocab = 4, .top_k = 2 };

static void test_logits(void)
{
    struct divergence *d = div_new(&tiny, 2);
    /* p = 1/2 1/4 1/8 1/8, q = 1/4 1/2 1/8 1/8: KL = 1/2 ln 2 - 1/4 ln 2 */
    const float p[] = { logf(4), logf(2), 0, 0 }, q[] = { logf(2) - 7, logf(4) - 7, -7, -7 };
    const int32_t next[] = { 1, -1 };
    float two_p[8], two_q[8];
    memcpy(two_p, p, sizeof p), memcpy(two_p + 4, p, sizeof p);
    memcpy(two_q, q, sizeof q), memcpy(two_q + 4, p, sizeof p);
    div_logits(d, (struct div_place){ 3, 10 }, 2, two_p, two_q, next);
    ok(d->rows == 2 && !d->bad && !div_end(d), "two rows");
    ok(fabs(d->kl_sum - 0.25 * log(2)) < 1e-7 && fabs(d->kl_back_sum - 0.25 * log(2)) < 1e-7,
       "KL of a row is what it is by hand, whatever is added to all logits");
    ok(d->kl_at.text == 3 && d->kl_at.pos == 10 && div_kl(d, 0.5) == 0 && div_kl(d, 1) == d->kl_max,
       "the largest has its place, two the same no KL at all");
    ok(fabs(d->err_max - (7 + log(2))) < 1e-6 && d->err_id == 0 && d->err_at.pos == 10, "the largest error has its place");
    ok(d->top1 == 1 && d->n_changes == 1 && d->change[0].a == 0 && d->change[0].b == 1 &&
       fabs(d->change[0].margin - log(2)) < 1e-6, "another likeliest token, with its margin");
    ok(d->overlap_sum == 2, "the two likeliest are the same two");
    double error, gap = div_nll_gap(d, &error);
    ok(fabs(div_perplexity(d, 0) - 4) < 1e-6 && fabs(div_perplexity(d, 1) - 2) < 1e-6 &&
       fabs(gap + log(2)) < 1e-6 && isnan(error), "perplexity of the one token that is known");
    div_free(d);

    const float tie[] = { 1, 5, 5, 0 }, other[] = { 1, 5, 4, 0 }, last[] = { 1, 4, 5, 0 };
    for (uint32_t top = 1; top < 4; top++) {
        d = div_new(&tiny, top);
        div_logits(d, (struct div_place){ 0, 0 }, 1, tie, tie, (const int32_t[]){ -1 });
        div_logits(d, (struct div_place){ 0, 0 }, 1, tie, other, (const int32_t[]){ -1 });
        ok(d->top1 == 2 && d->overlap_sum == 2, "of the top %u, too", top);
        div_free(d);
    }
    d = div_new(&tiny, 4);
    div_logits(d, (struct div_place){ 0, 0 }, 1, tie, other, (const int32_t[]){ -1 });
    div_logits(d, (struct div_place){ 0, 1 }, 1, tie, last, (const int32_t[]){ -1 });
    ok(d->top1 == 1 && d->n_changes == 1 && d->change[0].a == 1 && d->change[0].b == 2 && d->change[0].margin == 0,
       "of equals the lower id is the likeliest, and the margin says that they are equal");
    const float nan[] = { 1, NAN, 2, 3 }, inf[] = { 1, -INFINITY, 2, 3 };
    div_logits(d, (struct div_place){ 0, 2 }, 1, nan, other, (const int32_t[]){ 1 });
    div_logits(d, (struct div_place){ 0, 3 }, 1, other, inf, (const int32_t[]){ 1 });
    ok(d->bad == 2 && d->rows == 2 && !d->next && isfinite(d->kl_sum), "what is no number is counted, not added");
    div_free(d);

    /* logits that differ in their last digits: no noise around 0, nothing below it */
    d = div_new(&(struct dbrx_config){ .n_layers = 1, .d_model = 1, .n_experts = 1, .n_vocab = 1000 }, 5);
    float a[1000], b[1000];
    long double sa = 0, sb = 0, kl = 0;
    for (int i = 0; i < 1000; i++) {
        a[i] = (float)(i * 7 % 1000) / 100;
        b[i] = a[i] + (i % 3 ? 1e-6f : -1e-6f);
        sa += expl(a[i]), sb += expl(b[i]);
    }
    for (int i = 0; i < 1000; i++)
        kl += expl(a[i]) / sa * ((a[i] - logl(sa)) - (b[i] - logl(sb)));
    div_logits(d, (struct div_place){ 0, 0 }, 1, a, b, (const int32_t[]){ -1 });
    ok(d->kl_sum > 0 && fabs(d->kl_sum - (double)kl) < 1e-3 * (double)kl, "a KL of %.3g is as exact as in long double: %.3g",
       d->kl_sum, (double)kl);
    div_free(d);
    d = div_new(&tiny, 2);
    ok(!div_end(d) && isnan(div_kl(d, 0.5)) && isnan(div_perplexity(d, 0)) && isnan(div_nll_gap(d, &error)) &&
       div_first_layer(d, 0) < 0, "nothing compared: no figures");
    div_free(d);
}

static void test_layers(void)
{
    struct divergence *d = div_new(&tiny, 1);
    const float a[] = { 3, 4, 0, 2 }, b[] = { 3, 4, 0, 1 }, zero[] = { 0, 0 }, nan[] = { NAN, 0 };
    div_residual(d, -1, 2, a, a);
    div_residual(d, 0, 2, a, b);
    ok(div_layer_error(d, 0) == 0 && near(div_layer_error(d, 1), sqrt(1.0 / 29)) && near(d->layer[1].worst, 0.5),
       "a layer's error over all tokens, and its worst token's");
    ok(isnan(div_layer_error(d, 2)) && div_first_layer(d, 0) == 1 && div_first_layer(d, 0.2) < 0,
       "the first layer above a tolerance; one that gave nothing is none");
    div_residual(d, 1, 1, zero, b);
    ok(div_first_layer(d, 1e300) == 2, "anything where nothing was is as far off as can be");
    div_free(d);
    d = div_new(&tiny, 1);
    div_residual(d, 0, 1, a, nan);
    ok(div_first_layer(d, 1e300) == 1 && isinf(d->layer[1].worst), "... and so is what is no number");
    div_free(d);
}

static void test_routes(void)
{
    struct divergence *d = div_new(&tiny, 1);
    const float pa[] = { 0.5f, 0.25f, 0.125f, 0.125f }, pb[] = { 0.5f, 0.125f, 0.25f, 0.125f };
    const uint16_t e01[] = { 0, 1 }, e10[] = { 1, 0 }, e02[] = { 0, 2 }, e23[] = { 2, 3 };
    struct div_place at = { 0, 7 };
    div_route(d, at, 42, 1, 2, e01, pa, 2, e01, pa);
    div_route(d, at, 42, 1, 2, e01, pa, 2, e10, pa);
    ok(d->layer[2].routed == 2 && !d->layer[2].flips && d->layer[2].reordered == 1 && !d->n_flips,
       "another order is no other choice");
    div_route(d, at, 42, 1, 2, e01, pa, 2, e02, pb);
    ok(d->n_flips == 1 && d->flip[0].out == 1 && d->flip[0].in == 2 && d->flip[0].token == 42 && d->flip[0].n == 1 &&
       near(d->flip[0].margin_a, log(2)) && near(d->flip[0].margin_b, log(2)) && near(d->layer[2].router, 0.125),
       "an expert for another, with the margin on both sides");
    div_route(d, at, 42, 0, 2, e01, pa, 2, e23, pb);
    ok(d->flip[1].n == 2 && d->flip[1].out == 0 && near(d->flip[1].margin_a, log(4)), "two for two: the widest pair");
    div_route(d, at, 42, 0, 2, e01, pa, 1, e01, pa);
    ok(d->n_flips == 3 && d->flip[2].out == 1 && d->flip[2].in == UINT16_MAX && isinf(d->flip[2].margin_a),
       "one fewer has nothing to set against");
    for (uint32_t i = 0; i < 3 * DIV_KEEP; i++) {
        float p[] = { 0.5f, 0.25f, 0.25f / (1 + (float)(i * 7919 % (3 * DIV_KEEP))), 0 };
        div_route(d, (struct div_place){ 0, i }, 0, 0, 2, e01, p, 2, e02, pb);
    }
    int sorted = !div_end(d) && d->kept_flips == DIV_KEEP && d->n_flips == 3 * DIV_KEEP + 3;
    for (uint32_t i = 1; i < d->kept_flips; i++)
        sorted &= d->flip[i - 1].margin_a >= d->flip[i].margin_a;
    ok(sorted && isinf(d->flip[0].margin_a) && fabs(exp(d->flip[1].margin_a) - 3 * DIV_KEEP) < 1,
       "of many flips the widest are kept");
    div_free(d);
}

/* ---- real backends ---- */

static int stop_in;
static int should_stop(const struct dbrx_host *h)
{
    (void)h;
    return stop_in && --stop_in == 0 ? (stop_in = 1) : 0;
}
static uint64_t progressed;
static void progress(const struct dbrx_host *h, const char *what, uint64_t done, uint64_t total)
{
    (void)h, (void)what;
    progressed += done < total;
}
static const struct dbrx_host host = { sizeof host, NULL, host_mute, should_stop, progress, host_nothing };

enum { N = 40 };
static int32_t text[N];

/* Figures of text on a and b, which has opt; NULL after a failure.  step: tokens an eval */
static struct divergence *figures(struct disp *d, const struct ckpt *ck, const char *b, const char *opt, uint32_t step,
                                  struct comparison *c)
{
    struct engine ea, eb;
    struct dbrx_error err = { 0 };
    const char *const list[] = { opt, NULL };
    *c = (struct comparison){ .side = { &ea, &eb }, .config = &ck->desc.config, .host = &host, .step = step };
    dbrx_status st = disp_scratch(d, N, &ea, &err);
    if (st == DBRX_OK)
        st = disp_open(d, b, list, N, &eb, &err);
    if (st == DBRX_OK)
        st = comparison_open(c, 5, &err);
    if (st == DBRX_OK)
        st = comparison_text(c, text, N, N, &err);
    if (st != DBRX_OK)
        diag("%s %s: %d %s", b, opt ? opt : "", st, err.text);
    engine_close(&ea);
    engine_close(&eb);
    return st == DBRX_OK && !div_end(c->d) ? c->d : NULL;
}

static void test_backends(const struct ckpt *ck, const struct modules *mods)
{
    const struct dbrx_config *cfg = &ck->desc.config;
    struct disp *d = disp_new(&ck->desc, mods, &host, N);
    struct dbrx_error err = { 0 };
    struct comparison c;
    struct divergence *v;
    uint32_t L = cfg->n_layers;
    char opt[32];
    for (uint32_t i = 0; i < N; i++)
        text[i] = (int32_t)(i * 7919 % cfg->n_vocab);
    if (disp_use(d, "ref", NULL, 0, NULL, 0, &err) != DBRX_OK)
        bail("%s", err.text);

    v = figures(d, ck, "ref", NULL, 0, &c);
    ok(v && v->rows == N && v->next == N - 1 && v->kl_sum == 0 && v->err_max == 0 && v->top1 == N && v->overlap_sum == N &&
       !v->n_flips && div_first_layer(v, 0) < 0 && v->gap_sum == 0 && v->layer[L].tokens == N && v->layer[L].routed == N &&
       c.tokens == N && c.seconds[0] > 0 && c.seconds[1] > 0, "a backend against itself: exact zeros, everything looked at");
    comparison_close(&c);
    v = figures(d, ck, "ref", NULL, 7, &c);
    ok(v && v->rows == N && v->err_max == 0 && v->layer[1].tokens == N && v->layer[1].routed == N && progressed > 3,
       "in pieces of 7 just the same");
    comparison_close(&c);
    v = figures(d, ck, "cpu-blas", "isa=plain", 0, &c);
    ok(v && v->err_max > 0 && div_first_layer(v, 0) >= 0 && div_first_layer(v, 1e-3) < 0 && v->kl_sum / N < 1e-6,
       "cpu-blas rounds otherwise, but no layer is off");
    comparison_close(&c);
    for (uint32_t l = 0; l < L; l++) {
        snprintf(opt, sizeof opt, "break=experts-%u", l);
        v = figures(d, ck, "broken", opt, 0, &c);
        ok(v && div_first_layer(v, 0) == (int)l + 1 && div_first_layer(v, 0.01) == (int)l + 1 &&
           v->layer[l + 1].flips == 0 && v->layer[l + 1].router == 0,
           "%s: layer %u is the first that is off, and not its router", opt, l);
        comparison_close(&c);
        snprintf(opt, sizeof opt, "break=router-%u", l);
        v = figures(d, ck, "broken", opt, 0, &c);
        uint64_t before = 0;
        for (uint32_t i = 0; i < l; i++)
            before += v ? v->layer[i + 1].flips : 1;
        ok(v && div_first_layer(v, 0) == (int)l + 1 && v->layer[l + 1].flips > 0 && v->layer[l + 1].router > 0 && !before &&
           v->kept_flips && v->flip[0].margin_a > 0 && v->flip[0].margin_b > 0,
           "%s: ... and its router, with %llu flips", opt, v ? (unsigned long long)v->n_flips : 0ull);
        comparison_close(&c);
    }
    v = figures(d, ck, "broken", "break=noise", 0, &c);
    ok(v && div_first_layer(v, 0) < 0 && fabs(v->err_max - 0.01) < 1e-3 && v->err_id == (int32_t)cfg->n_vocab - 1,
       "noise behind the last layer is in the logits only");
    comparison_close(&c);

    /* interrupts, and engines that go away */
    struct engine a, b;
    c = (struct comparison){ .side = { &a, &b }, .config = cfg, .host = &host, .step = 4 };
    if (disp_scratch(d, N, &a, &err) != DBRX_OK || disp_scratch(d, N, &b, &err) != DBRX_OK ||
        comparison_open(&c, 5, &err) != DBRX_OK)
        bail("%s", err.text);
    stop_in = 3 * (int)L;
    ok(comparison_text(&c, text, N, N, &err) == DBRX_STOPPED && c.tokens < N && !c.texts, "an interrupt ends it");
    stop_in = 0;
    uint64_t had = c.tokens;
    ok(comparison_text(&c, text, N, N, &err) == DBRX_OK && c.tokens == had + N && c.texts == 1 && c.d->err_max == 0,
       "and the next text is whole");
    engine_close(&b);
    ok(comparison_text(&c, text, N, N, &err) == DBRX_E_LOST, "a backend that is gone: %s", err.text);
    engine_close(&a);
    comparison_close(&c);
    disp_free(d);
}

/* ---- measure ---- */

static void test_measure(const struct ckpt *ck, const struct modules *mods)
{
    const struct dbrx_config *cfg = &ck->desc.config;
    struct spread s = spread_of((const double[]){ 5, 1, 4, 2, 3 }, 5), e = spread_of((const double[]){ 1, 2 }, 2);
    ok(s.median == 3 && s.low == 2 && s.high == 4 && s.min == 1 && s.max == 5 && e.median == 1.5 && e.low == 1.25 &&
       isnan(spread_of(NULL, 0).median), "median, quartiles and ends");

    struct machine *machine = machine_new();
    ok(machine && machine_processors(machine) > 0 && machine_bandwidth(machine) > 1e7 && machine_flops(machine) > 1e7,
       "the machine reads and multiplies");
    struct disp *d = disp_new(&ck->desc, mods, &host, N);
    struct dbrx_error err = { 0 };
    struct engine e1, e2;
    if (disp_use(d, "ref", NULL, 0, NULL, 0, &err) != DBRX_OK || disp_scratch(d, N, &e1, &err) != DBRX_OK ||
        disp_open(d, "cpu-blas", NULL, N, &e2, &err) != DBRX_OK)
        bail("%s", err.text);
    struct measured m[] = { { .engine = &e1 }, { .engine = &e2 } };
    struct measurement b = { .desc = &ck->desc, .host = &host, .machine = machine, .prompt = 10, .gen = 6, .depth = 5,
                             .reps = 3, .m = m, .n_m = 2 };
    ok(measurement_run(&b, &err) == DBRX_OK && m[0].n == 3 && m[1].n == 3 && b.n_probes == 6 &&
       engine_position(&e1) == 21 && !disp_position(d), "three samples of each, and six of the machine");
    /* what one token moves: everything once but the experts it did not visit, and one row of the embedding */
    double all = 0, experts = 0;
    for (uint32_t l = 0; l < cfg->n_layers; l++) {
        const struct dbrx_layer *y = &ck->desc.layer[l];
        all += (double)(y->norm_1.bytes + y->norm_2.bytes + y->wqkv.bytes + y->wo.bytes + y->router.bytes);
        experts += (double)(y->w1.bytes + y->v1.bytes + y->w2.bytes);
    }
    all += (double)(ck->desc.norm_f.bytes + ck->desc.lm_head.bytes + ck->desc.embed.bytes / cfg->n_vocab) +
           experts * cfg->top_k / cfg->n_experts;
    ok(near(m[0].bytes_token, all) && near(m[1].bytes_token, all) && m[0].experts == cfg->top_k,
       "a token moves %.0f bytes of weights, %g experts a layer", m[0].bytes_token, m[0].experts);
    int fine = 1;
    for (int i = 0; i < 2; i++)
        for (int f = 0; f < MEASURE_N; f++)
            for (uint32_t r = 0; r < 3; r++)
                fine &= m[i].sample[f][r] > 0 && isfinite(m[i].sample[f][r]);
    ok(fine, "every figure has its samples");
    /* keys and values of 16 to 21 tokens in float32 */
    double kv = 18.5 * 2 * 4 * cfg->n_layers * cfg->n_kv_heads * (cfg->d_model / cfg->n_heads);
    ok(near(m[0].kv_token, kv) && near(m[1].kv_token, kv), "a token reads %.0f bytes of KV", m[1].kv_token);
    ok(near(m[1].sample[MEASURE_MOVED][0], (all + kv) * m[1].sample[MEASURE_GEN][0]), "bytes a second are tokens' bytes");
    measurement_free(&b);

    /* steered to one expert a layer: what is moved follows the routes */
    uint16_t *one = malloc(cfg->n_layers * sizeof *one);
    for (uint32_t l = 0; l < cfg->n_layers; l++)
        one[l] = 1;
    const struct dbrx_steer steer = { .struct_size = sizeof steer, .top_k = one };
    m[0] = (struct measured){ .engine = &e1 };
    b = (struct measurement){ .desc = &ck->desc, .host = &host, .machine = machine, .prompt = 0, .gen = 4, .reps = 1, .m = m,
                              .n_m = 1, .steer = &steer };
    ok(measurement_run(&b, &err) == DBRX_OK && m[0].experts == 1 && m[0].bytes_token < all &&
       isnan(m[0].sample[MEASURE_PROMPT][0]), "fewer experts move fewer bytes; no prompt, no figure of one");
    measurement_free(&b);
    stop_in = 2 * (int)cfg->n_layers;
    m[0] = (struct measured){ .engine = &e1 };
    b.reps = 2;
    ok(measurement_run(&b, &err) == DBRX_STOPPED && m[0].n < 2, "an interrupt ends it");
    stop_in = 0;
    measurement_free(&b);
    free(one);
    engine_close(&e1);
    engine_close(&e2);
    machine_free(machine);
    disp_free(d);
}

int main(void)
{
    struct dbrx_error err = { 0 };
    struct modules mods = { 0 };
    struct ckpt *ck;
    char dir[4096], path[8192];
    test_logits();
    test_layers();
    test_routes();
    snprintf(dir, sizeof dir, "%s/tests/data/tiny-bf16", getenv("srcdir"));
    snprintf(path, sizeof path, "%s:%s/tests/conformance/.libs", getenv("MODULES"), getenv("builddir"));
    if (ckpt_open(dir, &ck, &err) != DBRX_OK || modules_scan(&mods, path, &err) != DBRX_OK)
        bail("%s", err.text);
    test_backends(ck, &mods);
    test_measure(ck, &mods);
    modules_free(&mods);
    ckpt_close(ck);
    return done();
}
