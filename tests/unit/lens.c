/* tests/unit/lens.c -- the logit lens and its shares, against the weights themselves. */
#include "repl/logit_lens.h"
#include "tests/unit/plain_forward.h"
#include "tests/unit/tiny_model.h"

static const struct dbrx_host host = QUIET_HOST(host_never);
static const int32_t tok[] = { 5, 17, 300, 2, 99, 5, 64, 11 };
enum { T = sizeof tok / sizeof *tok };

static void test_rank(void)
{
    static const float z[] = { 1, 3, 2, 3, 0 };
    int32_t id[5];
    double p;
    lens_top(z, 5, 5, id);
    ok(id[0] == 1 && id[1] == 3 && id[2] == 2 && id[3] == 0 && id[4] == 4, "the likeliest, the lower id first on a tie");
    ok(lens_rank(z, 5, 1, &p) == 0 && lens_rank(z, 5, 3, &p) == 1 && lens_rank(z, 5, 4, &p) == 4 &&
       fabs(p - 1 / (exp(1) + 2 * exp(3) + exp(2) + 1)) < 1e-9, "rank and probability");
}

/* The share of v by the weights: lm_head((v - mean) / scale * norm_f), less the vocabulary's mean */
static double by_weights(const struct dbrx_model_desc *m, const double *v, const float *final, int32_t id)
{
    const struct dbrx_config *c = &m->config;
    double mean = 0, fmean = 0, var = 0, all = 0, mine = 0;
    for (uint32_t i = 0; i < c->d_model; i++)
        mean += v[i] / c->d_model, fmean += (double)final[i] / c->d_model;
    for (uint32_t i = 0; i < c->d_model; i++)
        var += ((double)final[i] - fmean) * ((double)final[i] - fmean) / c->d_model;
    for (uint32_t t = 0; t < c->n_vocab; t++) {
        double dot = 0;
        for (uint32_t i = 0; i < c->d_model; i++)
            dot += pf_at(&m->lm_head, (size_t)t * c->d_model + i) * (v[i] - mean) / sqrt(var + (double)c->ln_eps) * pf_at(&m->norm_f, i);
        all += dot / c->n_vocab;
        mine = t == (uint32_t)id ? dot : mine;
    }
    return mine - all;
}

static void test_on(struct sess *s, const struct dbrx_model_desc *m, uint32_t pos, const struct dbrx_steer *steer)
{
    const struct dbrx_config *c = &m->config;
    struct dbrx_error err = { 0 };
    struct lens *l = NULL;
    size_t v = c->n_vocab, d = c->d_model;
    float *logits = malloc(v * sizeof *logits);
    if (sess_logits_at(s, pos + 1, logits, &err) != DBRX_OK || sess_sync(s, &err) != DBRX_OK)
        bail("%s", err.text);
    uint32_t held = disp_position(s->disp);
    dbrx_status st = lens_open(s, c, pos, 1, steer, &l, &err);
    if (!ok(st == DBRX_OK && disp_position(s->disp) == held && s->n == T, "on %s, token %u: a lens %s", disp_name(s->disp), pos, err.text))
        return;
    double far = 0, share[3], sum[3] = { 0 }, total[3], direct = 0, size = 0;
    for (size_t i = 0; i < v; i++)
        far = fmax(far, fabs((double)(l->logits[c->n_layers * v + i] - logits[i])));
    ok(far < 1e-3, "its last logits are the model's (within %.1e)", far);
    const int32_t id[3] = { 7, 100, (int32_t)c->n_vocab - 1 };
    double *x = malloc(d * sizeof *x);
    for (size_t i = 0; i < d; i++)
        x[i] = (double)l->x[i];
    lens_share(l, 0, LENS_EMBEDDING, id, 3, share, &err);
    for (int k = 0; k < 3; k++) {
        sum[k] += share[k];
        direct = fmax(direct, fabs(share[k] - by_weights(m, x, l->x + c->n_layers * d, id[k])));
    }
    for (uint32_t layer = 0; layer < c->n_layers; layer++)
        for (int which = LENS_ATTENTION; which < (int)l->k[layer]; which++) {
            lens_share(l, layer, which, id, 3, share, &err);
            for (size_t i = 0; i < d && which >= 0; i++)
                x[i] = (double)l->part[((size_t)layer * c->n_experts + (uint32_t)which) * d + i];
            for (int k = 0; k < 3; k++) {
                sum[k] += share[k];
                size = fmax(size, fabs(share[k]));
                if (which >= 0)
                    direct = fmax(direct, fabs(share[k] - by_weights(m, x, l->x + c->n_layers * d, id[k])));
            }
        }
    lens_total(l, id, 3, total);
    double off = fmax(fabs(sum[0] - total[0]), fmax(fabs(sum[1] - total[1]), fabs(sum[2] - total[2])));
    ok(direct < 1e-4 && size > 0.05, "shares are what the weights say (within %.1e, of up to %.2f)", direct, size);
    ok(off < 1e-4, "... and add up to the logits (within %.1e)", off);
    if (steer)
        ok(l->k[0] == 1 && fabs((double)l->weight[0] - 1) < 1e-6, "under steering it is the steered model's");
    free(x), free(logits);
    lens_close(l);
}

int main(void)
{
    struct dbrx_error err = { 0 };
    struct modules mods = { 0 };
    test_rank();
    struct ckpt *ck = tiny_open(&mods);
    struct disp *d = disp_new(&ck->desc, &mods, &host, 40);
    struct sess *s = sess_new(d, &ck->desc.config, NULL);
    struct lens *none = NULL;
    sess_append(s, tok, T, &err);
    ok(lens_open(s, &ck->desc.config, 0, 0, NULL, &none, &err) == DBRX_E_INVALID && !none, "without a backend: %s", err.text);
    uint16_t k[3] = { 1, 1, 1 };
    const struct dbrx_steer one = { .struct_size = sizeof one, .top_k = k };
    for (int i = 0; i < TINY_BACKENDS; i++) {
        if (sess_use(s, tiny_backends[i], NULL, 0, &err) != DBRX_OK)
            bail("%s", err.text);
        test_on(s, &ck->desc, T - 1, NULL);
        test_on(s, &ck->desc, 3, NULL);
        test_on(s, &ck->desc, 0, NULL);
        sess_steer(s, &one, 5);
        test_on(s, &ck->desc, T - 1, &one);
        sess_steer(s, NULL, 0);
    }
    sess_free(s);
    disp_free(d);
    modules_free(&mods);
    ckpt_close(ck);
    return done();
}
