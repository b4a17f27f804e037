/* tests/unit/steer.c -- steering: its edits, their text and JSON, what is refused; and that a
 * steered session computes what plain_forward.h computes, and an unsteered one what it always did. */
#include "repl/session.h"
#include "repl/steer.h"
#include "tests/unit/plain_forward.h"
#include "tests/unit/tiny_model.h"

static const struct dbrx_config big = { .n_layers = 6, .n_experts = 16, .top_k = 4 };

/* ---- edits --------------------------------------------------------------- */

static int apply(struct steer *s, enum steer_effect e, const char *where, double value)
{
    char err[400] = "";
    int r = steer_apply(s, &(struct steer_item){ .effect = e, .where = where, .value = value }, err, sizeof err);
    if (r < 0)
        diag("%s", err);
    return r;
}

static int swap(struct steer *s, uint32_t a, uint32_t b, const char *where)
{
    char err[400];
    return steer_apply(s, &(struct steer_item){ .effect = STEER_SWAP, .where = where, .pair = { a, b } }, err, sizeof err);
}

static int reads(const struct steer *s, const char *want)
{
    char *text = steer_text(s);
    int same = text && !strcmp(text, want);
    if (!same)
        diag("\"%s\" instead of \"%s\"", text ? text : "NULL", want);
    free(text);
    return same;
}

static void test_edits(void)
{
    struct steer *s = steer_new(&big);
    ok(!steer_block(s) && !steer_id(s) && reads(s, "") && !steer_undo(s), "nothing is on at first");
    ok(apply(s, STEER_K, "*", 4) == 0 && !steer_block(s), "the model's own k is nothing");
    ok(apply(s, STEER_BAN, "3,7@0..2", 0) == 1 && reads(s, "ban 3,7@0..2") && steer_block(s)->bias &&
       !steer_block(s)->top_k && !steer_block(s)->mark && !steer_block(s)->scale && !steer_block(s)->source,
       "a ban, and no array but the one it needs");
    uint64_t id = steer_id(s);
    ok(apply(s, STEER_BAN, "7@1", 0) == 0 && steer_id(s) == id, "what is so already is no edit");
    ok(apply(s, STEER_BIAS, "1@-1", 1.5) == 1 && apply(s, STEER_BIAS, "2@5", 1.5) == 1 &&
       reads(s, "ban 3,7@0..2; bias 1,2@5 +1.5"), "one value, one item");
    ok(apply(s, STEER_BIAS, "1,2@5", 0) == 1 && steer_id(s) == id, "a bias of 0 is none: the same id as before");
    ok(apply(s, STEER_SCALE, "0", 0.1) == 1 && reads(s, "ban 3,7@0..2; scale 0@* 0.1"), "0.1 reads 0.1");
    ok(apply(s, STEER_SCALE, "0", 0) == 1 && reads(s, "ban 3,7@0..2; zero 0@*"), "scale 0 is zero");
    ok(apply(s, STEER_CLEAR, "0", 0) == 1 && steer_id(s) == id, "clear takes away what is on for an expert");
    ok(swap(s, 3, 4, "0") == 1 && swap(s, 4, 5, "0") == 1 && reads(s, "ban 3,7@0..2; swap 3 4 @0; swap 4 5 @0"),
       "swaps compose");
    ok(swap(s, 4, 5, "0") == 1 && swap(s, 3, 4, "0") == 1 && steer_id(s) == id, "... and undo themselves");
    while (steer_undo(s))
        ;
    ok(!steer_block(s) && reads(s, ""), "undo, to the very beginning");
    for (int i = 0; i < 200; i++)
        apply(s, STEER_BIAS, "0@0", i % 2 ? 1 : 2);
    int n = 0;
    while (steer_undo(s))
        n++;
    ok(n == 64, "the last 64 edits can be undone");
    steer_off(s);
    apply(s, STEER_FORCE, "1@1", 0);
    ok(steer_off(s) == 1 && !steer_block(s) && steer_off(s) == 0 && steer_undo(s) == 1 && reads(s, "force 1@1"),
       "off can be undone");
    steer_free(s);
}

static void test_refused(void)
{
    static const struct { struct steer_item i; const char *say; } bad[] = {
        { { STEER_BAN, "0..12@2", 0, { 0 } }, "layer 2 would have 3 experts left to choose from, but a token gets 4" },
        { { STEER_SKIP, "0..12@2", 0, { 0 } }, "layer 2 would have 3 experts left" },
        { { STEER_K, "*", 16, { 0 } }, "layer 1 would have 15 experts left to choose from, but a token gets 16" },
        { { STEER_FORCE, "4..8@0", 0, { 0 } }, "layer 0 would have 5 experts forced, but a token gets 4" },
        { { STEER_FORCE, "5@1", 0, { 0 } }, "expert 5 of layer 1 would be both forced and banned" },
        { { STEER_K, "0", 0, { 0 } }, "whole number from 1 to 16" }, { { STEER_K, "0", 17, { 0 } }, "from 1 to 16" },
        { { STEER_K, "0", 2.5, { 0 } }, "whole number" }, { { STEER_K, "6", 2, { 0 } }, "layer 6 is not there" },
        { { STEER_BAN, "16@0", 0, { 0 } }, "expert 16 is not there" }, { { STEER_BAN, "", 0, { 0 } }, "no experts" },
        { { STEER_BIAS, "0@0", 1e9, { 0 } }, "from -1000 to 1000" },
        { { STEER_BIAS, "0@0", (double)NAN, { 0 } }, "from -1000 to 1000" },
        { { STEER_BIAS, "0@0", -(double)INFINITY, { 0 } }, "/ban" },
        { { STEER_SCALE, "0@0", (double)INFINITY, { 0 } }, "from -1000 to 1000" },
        { { STEER_SWAP, "0", 0, { 0, 16 } }, "expert 16 is not there" },
        { { STEER_SWAP, "0", 0, { 16, 0 } }, "expert 16 is not there" },
        { { STEER_SWAP, "0", 0, { 2, 2 } }, "cannot change places with itself" },
        { { STEER_OMIT, "*", 0, { 0 } }, "layer 0 would have every expert omitted" },
        { { STEER_OMIT, "0..4,6..15@1", 0, { 0 } }, "layer 1 would have every expert omitted" },
    };
    struct steer *s = steer_new(&big);
    apply(s, STEER_BAN, "5@1", 0);
    uint64_t id = steer_id(s);
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        char err[400] = "";
        ok(steer_apply(s, &bad[i].i, err, sizeof err) == -1 && strstr(err, bad[i].say) && steer_id(s) == id &&
           reads(s, "ban 5@1"), "refused: %s", err);
    }
    ok(steer_undo(s) == 1 && !steer_undo(s), "what was refused is no edit");
    steer_free(s);
}

/* ---- text and JSON ------------------------------------------------------- */

static uint32_t rng = 7;
static uint32_t below(uint32_t n)
{
    return ((rng = rng * 1664525u + 1013904223u) >> 16) % n;
}

static void test_forms(void)
{
    struct steer *s = steer_new(&big), *t = steer_new(&big), *u = steer_new(&big);
    char err[400] = "";
    int text_same = 1, json_same = 1, made = 0;
    for (int round = 0; round < 300; round++) {
        steer_off(s);
        for (uint32_t i = 1 + below(6); i; i--) {
            char where[40];
            enum steer_effect e = (enum steer_effect)below(STEER_CLEAR);
            snprintf(where, sizeof where, e == STEER_K || e == STEER_SWAP ? "%u" : "%u@%u", below(6), below(6));
            struct steer_item item = { e, where, e == STEER_K ? 1 + below(8) : (below(2000) - 1000.0) / 7,
                                       { below(16), below(16) } };
            made += steer_apply(s, &item, err, sizeof err) == 1;
        }
        char *text = steer_text(s);
        text_same &= text && steer_read(t, text, err, sizeof err) >= 0 && steer_id(t) == steer_id(s);
        cJSON *j = steer_json(s);
        char *out = cJSON_Print(j);
        cJSON *again = cJSON_Parse(out);
        json_same &= again && steer_read_json(u, again, err, sizeof err) >= 0 && steer_id(u) == steer_id(s);
        cJSON_Delete(again);
        cJSON_Delete(j);
        free(out);
        free(text);
    }
    ok(text_same && made > 500, "300 random states, to text and back (%d edits)", made);
    ok(json_same, "... and to JSON and back");

    static const struct { const char *text, *say; } bad[] = {
        { "bla 3@0", "no steering \"bla\"" }, { "k", "no proper number" }, { "k x @0", "no proper number" },
        { "bias 3@0", "no proper number" }, { "bias 3@0 x", "no proper number" }, { "bias 3@0 nan", "no proper number" },
        { "swap 1 @0", "no proper number" }, { "swap 1 99999 @0", "no proper number" }, { "swap 1 99 @0", "expert 99" },
        { "ban", "no experts" }, { "ban 3@9", "layer 9" }, { "clear 3@0", "no steering" },
        { "ban 3@0; ban 99@0", "expert 99" }, { "ban 0..14@0", "left to choose from" },
    };
    steer_read(s, "ban 1@1", err, sizeof err);
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        err[0] = '\0';
        ok(steer_read(s, bad[i].text, err, sizeof err) == -1 && strstr(err, bad[i].say) && reads(s, "ban 1@1"),
           "\"%s\": %s", bad[i].text, err);
    }
    static const char *const profile[] = {
        "{}", "[]", "null", "{\"format\":\"x\"}", "{\"format\":\"dbrx.steering/1\"}",
        "{\"format\":\"dbrx.steering/1\",\"n_layers\":40,\"n_experts\":16,\"effects\":[]}",
        "{\"format\":\"dbrx.steering/1\",\"n_layers\":6,\"n_experts\":16,\"effects\":[1]}",
        "{\"format\":\"dbrx.steering/1\",\"n_layers\":6,\"n_experts\":16,\"effects\":[{\"effect\":\"ban\"}]}",
        "{\"format\":\"dbrx.steering/1\",\"n_layers\":6,\"n_experts\":16,\"effects\":[{\"effect\":\"k\",\"layers\":\"0\"}]}",
        "{\"format\":\"dbrx.steering/1\",\"n_layers\":6,\"n_experts\":16,\"effects\":[{\"effect\":\"swap\",\"layers\":\"0\",\"pair\":[1]}]}",
        "{\"format\":\"dbrx.steering/1\",\"n_layers\":6,\"n_experts\":16,\"effects\":[{\"effect\":\"swap\",\"layers\":\"0\",\"pair\":[1,-1]}]}",
        "{\"format\":\"dbrx.steering/1\",\"n_layers\":6,\"n_experts\":16,\"effects\":[{\"effect\":\"bias\",\"experts\":\"0@0\",\"value\":1e99}]}",
    };
    for (size_t i = 0; i < sizeof profile / sizeof *profile; i++) {
        cJSON *j = cJSON_Parse(profile[i]);
        err[0] = '\0';
        ok(steer_read_json(s, j, err, sizeof err) == -1 && strlen(err) > 20 && reads(s, "ban 1@1"), "profile refused: %s", err);
        cJSON_Delete(j);
    }
    steer_free(s);
    steer_free(t);
    steer_free(u);
}

/* ---- what is computed ---------------------------------------------------- */

static const struct dbrx_host host = QUIET_HOST(host_never);
static const int32_t tok[] = { 5, 17, 300, 2, 99, 5, 64, 11 };
enum { T = sizeof tok / sizeof *tok };

static dbrx_status keep(void *ctx, uint32_t pos, uint32_t n, const float *logits)
{
    (void)pos;
    float **to = ctx;
    memcpy(to[0], logits, n * (size_t)(uintptr_t)to[1] * sizeof *logits);
    return DBRX_OK;
}

/* all logits of the timeline as the session now computes them; free() them */
static float *logits_of(struct sess *s)
{
    float *out = calloc((size_t)T * s->n_vocab, sizeof *out);
    float *to[2] = { out, (float *)(uintptr_t)s->n_vocab };
    struct dbrx_error err = { 0 };
    if (sess_rescan(s, T, NULL, keep, to, &err) != DBRX_OK || sess_retrace(s, &err) != DBRX_OK)
        diag("%s", err.text);
    return out;
}

static double apart(const float *a, const double *b, size_t n)
{
    double far = 0, size = 0;
    for (size_t i = 0; i < n; i++) {
        far = fmax(far, fabs((double)a[i] - b[i]));
        size = fmax(size, fabs(b[i]));
    }
    return far / size;
}

/* The session under `text` against the plain computation under r: logits, and weights as traced.
 * The plain one without r must differ, or the comparison would say nothing. */
static void same_as_plain(struct sess *s, const struct dbrx_model_desc *m, const char *text, struct pf_rule *r)
{
    const struct dbrx_config *c = &m->config;
    struct steer *st = steer_new(c);
    struct pf_rule *none = pf_rules(c);
    char err[400] = "";
    size_t n = (size_t)T * c->n_vocab;
    double *want = calloc(n, sizeof *want), *bare = calloc(n, sizeof *bare);
    double *used = calloc((size_t)c->n_layers * T * c->n_experts, sizeof *used), off = 0;
    int read = steer_read(st, text, err, sizeof err);
    sess_steer(s, steer_block(st), steer_id(st));
    float *got = logits_of(s);
    pf_forward(m, r, tok, T, want, used);
    pf_forward(m, none, tok, T, bare, NULL);
    for (uint32_t l = 0; l < c->n_layers; l++)
        for (uint32_t t = 0; t < T; t++) {
            const uint16_t *e;
            const float *w;
            uint32_t k = trace_get(s->trace, t, l, &e, &w);
            for (uint32_t j = 0; j < k; j++)
                off = fmax(off, fabs((double)w[j] - used[((size_t)l * T + t) * c->n_experts + e[j]]));
        }
    double far = apart(got, want, n), other = apart(got, bare, n);
    ok(read == 1 && far < 1e-4 && off < 1e-4 && other > 100 * far,
       "%s: logits %.1e from the plain computation, weights %.1e; %.1e without it %s", text, far, off, other, err);
    free(got), free(want), free(bare), free(used), free(none), free(r);
    steer_free(st);
}

static void test_meanings(struct sess *s, const struct dbrx_model_desc *m)
{
    const struct dbrx_config *c = &m->config;
    const uint16_t *e;
    const float *w;
    float *first = logits_of(s);
    uint32_t k = trace_get(s->trace, 3, 0, &e, &w), last = c->n_experts - 1;
    uint16_t heavy = e[0], unused = 0;
    for (uint32_t j = 0; j < k; j++)
        unused = (uint16_t)(e[j] == unused ? unused + 1 : unused);
    char text[80];
    struct pf_rule *r;
    static const char *const how[] = { "ban", "skip", "omit", "zero" };
    for (int i = 0; i < 4; i++) {          /* on layer 0 the one that token 3 wants most; on the last, expert 0 */
        r = pf_rules(c);
        for (int two = 0; two < 2; two++) {
            struct pf_rule *at = two ? &r[c->n_layers - 1] : r;
            uint8_t *flags[] = { at->ban, at->skip, at->omit, at->zero };
            flags[i][two ? 0 : heavy] = 1;
        }
        snprintf(text, sizeof text, "%s %u@0 0@-1", how[i], heavy);
        same_as_plain(s, m, text, r);
    }
    r = pf_rules(c);
    r[0].force[unused] = 1;
    snprintf(text, sizeof text, "force %u@0", unused);
    same_as_plain(s, m, text, r);
    r = pf_rules(c);
    r[0].bias[heavy] = -1.25;
    r[0].scale[heavy] = 0.5;
    snprintf(text, sizeof text, "bias %u@0 -1.25; scale %u@0 0.5", heavy, heavy);
    same_as_plain(s, m, text, r);
    r = pf_rules(c);
    r[0].swap[0] = heavy, r[0].swap[1] = heavy ? 0 : last;
    snprintf(text, sizeof text, "swap %u %u @0", heavy, heavy ? 0 : last);
    same_as_plain(s, m, text, r);
    r = pf_rules(c);
    for (uint32_t l = 0; l < c->n_layers; l++)
        r[l].k = 1;
    same_as_plain(s, m, "k 1 @*", r);

    struct steer *st = steer_new(c);
    char err[400];
    steer_apply(st, &(struct steer_item){ .effect = STEER_K, .where = "*", .value = c->top_k }, err, sizeof err);
    sess_steer(s, steer_block(st), steer_id(st));
    float *again = logits_of(s);
    ok(!memcmp(first, again, (size_t)T * c->n_vocab * sizeof *first), "with steering off the logits are the same bits");
    free(again);
    uint16_t all_k[64];                    /* the default written out, past steer.c: still the same bits */
    for (uint32_t l = 0; l < c->n_layers; l++)
        all_k[l] = (uint16_t)c->top_k;
    sess_steer(s, &(struct dbrx_steer){ .struct_size = sizeof(struct dbrx_steer), .top_k = all_k }, 1);
    again = logits_of(s);
    ok(!memcmp(first, again, (size_t)T * c->n_vocab * sizeof *first), "k at the model's own changes no bit");
    free(again);
    free(first);
    sess_steer(s, NULL, 0);
    steer_free(st);
}

/* The context follows the steering, and only when it has to */
static void test_session(struct disp *d, struct sess *s, const struct dbrx_config *c)
{
    struct steer *st = steer_new(c);
    struct dbrx_error err = { 0 };
    enum sess_finish why;
    struct sess_gen g = { .sampling = sampler_plain, .max_tokens = 6 };
    int32_t steered[T + 6];
    g.sampling.temperature = 0;
    sess_steer(s, NULL, 0);
    sess_sync(s, &err);
    apply(st, STEER_BAN, "0@*", 0);
    sess_steer(s, steer_block(st), steer_id(st));
    ok(sess_in_step(s) == 0 && !s->has_logits, "under another steering the backend holds nothing of use");
    sess_steer(s, NULL, 0);
    ok(sess_in_step(s) == T, "... and all of it when that is taken back before anything was computed");
    sess_steer(s, steer_block(st), steer_id(st));
    ok(sess_generate(s, &g, &why, &err) == DBRX_OK && s->n == T + 6 && sess_in_step(s) == s->n, "a steered reply");
    memcpy(steered, s->token, sizeof steered);
    for (int i = 0; i < 2 * TINY_BACKENDS; i++) {
        struct sess_gen half = g;
        half.max_tokens = 3;
        sess_truncate(s, T);
        int same = sess_generate(s, &half, &why, &err) == DBRX_OK &&
                   sess_use(s, tiny_backends[i / 2], NULL, i % 2, &err) == DBRX_OK && sess_in_step(s) == s->n &&
                   sess_generate(s, &half, &why, &err) == DBRX_OK && !memcmp(s->token, steered, sizeof steered);
        ok(same, "switched in mid-reply to %s with the KV %s it goes on steered", disp_name(d), disp_kv_origin(d));
    }
    sess_truncate(s, T);
    sess_steer(s, NULL, 0);
    steer_free(st);
}

int main(void)
{
    struct dbrx_error err = { 0 };
    struct modules mods = { 0 };
    test_edits();
    test_refused();
    test_forms();
    struct ckpt *ck = tiny_open(&mods);
    struct disp *d = disp_new(&ck->desc, &mods, &host, 40);
    struct sess *s = sess_new(d, &ck->desc.config, NULL);
    for (int i = 0; i < TINY_BACKENDS; i++) {
        if (sess_use(s, tiny_backends[i], NULL, 0, &err) != DBRX_OK ||
            (!i && sess_append(s, tok, T, &err) != DBRX_OK))
            bail("%s", err.text);
        diag("on %s", disp_name(d));
        test_meanings(s, &ck->desc);
        test_session(d, s, &ck->desc.config);
    }
    sess_free(s);
    disp_free(d);
    modules_free(&mods);
    ckpt_close(ck);
    return done();
}
