/* tests/unit/core.c -- the shell's core without a shell: sampler, trace, dispatch and
 * session, on the tiny golden checkpoint with the real backends. */
#include "backends/model/checkpoint.h"
#include "repl/session.h"
#include "tests/tap.h"

#include <math.h>
#include <string.h>

/* ---- sampler ------------------------------------------------------------- */

static int32_t draw_once(struct sampler *s, struct sampler_params p, const float *logits)
{
    return sampler_draw(s, &p, logits);
}

static void test_sampler(void)
{
    enum { V = 8, N = 40000 };
    const float logits[V] = { 1, 3, 2, NAN, -INFINITY, 3, 0, 2.5f };
    const uint8_t banned[V] = { 0, 0, 0, 0, 0, 0, 0, 1 };
    struct sampler *s = sampler_new(V, NULL), *b = sampler_new(V, banned);
    const struct sampler_params greedy = { 0, 0, 1, 0 }, plain = { 1, 0, 1, 0 };

    ok(draw_once(s, greedy, logits) == 1, "greedy takes the largest, the lower id of equals");
    ok(draw_once(s, (struct sampler_params){ 1, 1, 1, 0 }, logits) == 1, "top_k 1 is greedy");

    int count[V] = { 0 };
    double want[V], sum = 0;
    for (int i = 0; i < V; i++)
        sum += want[i] = isnan(logits[i]) ? 0 : exp(logits[i]);
    sampler_seed(s, 7);
    for (int i = 0; i < N; i++)
        count[draw_once(s, plain, logits)]++;
    double chi = 0;
    for (int i = 0; i < V; i++)
        if (want[i] > 0)
            chi += pow(count[i] - N * want[i] / sum, 2) / (N * want[i] / sum);
    ok(chi < 22.5, "temperature 1 draws from the softmax (chi2 %.1f, 5 degrees)", chi);
    ok(!count[3] && !count[4], "NaN and -infinity are never drawn");

    int seen[V] = { 0 };
    for (int i = 0; i < N; i++)
        seen[draw_once(s, (struct sampler_params){ 1, 3, 1, 0 }, logits)] = 1;
    ok(seen[1] && seen[5] && seen[7] && seen[0] + seen[2] + seen[6] == 0, "top_k keeps k");
    memset(seen, 0, sizeof seen);
    for (int i = 0; i < N; i++)            /* p: .31 .31 .19 ..: two make .62 < .65 */
        seen[draw_once(s, (struct sampler_params){ 1, 0, 0.65f, 0 }, logits)] = 1;
    ok(seen[1] && seen[5] && seen[7] && seen[0] + seen[2] + seen[6] == 0,
       "top_p keeps the smallest set that reaches it");
    memset(seen, 0, sizeof seen);
    for (int i = 0; i < N; i++)            /* e^-1 = .37: logit 2 stays, 1 goes */
        seen[draw_once(s, (struct sampler_params){ 1, 0, 1, 0.3f }, logits)] = 1;
    ok(seen[2] && !seen[0] && !seen[6], "min_p is relative to the likeliest");
    memset(seen, 0, sizeof seen);
    for (int i = 0; i < N; i++)
        seen[draw_once(b, plain, logits)] = 1;
    ok(!seen[7] && seen[6], "a banned id is never drawn");

    int32_t a[20], c[20];
    sampler_seed(s, 123);
    for (int i = 0; i < 20; i++)
        a[i] = draw_once(s, plain, logits);
    sampler_seed(s, 123);
    for (int i = 0; i < 20; i++)
        c[i] = draw_once(s, plain, logits);
    ok(!memcmp(a, c, sizeof a), "the same seed draws the same");
    const float none[V] = { NAN, NAN, NAN, NAN, -INFINITY, NAN, NAN, NAN };
    ok(draw_once(s, plain, none) == -1 && draw_once(s, greedy, none) == -1,
       "nothing finite to draw from: -1");
    sampler_free(s);
    sampler_free(b);

    /* many candidates: the heap agrees with sorting everything */
    enum { M = 5000 };
    static float big[M];
    uint32_t x = 1;
    for (int i = 0; i < M; i++) {
        x = x * 1664525 + 1013904223;
        big[i] = (float)(x >> 20) / 100;   /* many ties */
    }
    struct sampler *m = sampler_new(M, NULL);
    int same = 1;
    for (int i = 0; i < 200; i++) {
        /* top_p so small that it cuts inside the top 50: both ways see the same set */
        struct sampler_params few = { 5, 50, 0.2f, 0 };
        sampler_seed(m, (uint64_t)i);
        int32_t id = draw_once(m, few, big);
        int better = 0;
        for (int j = 0; j < M; j++)
            better += big[j] > big[id] || (big[j] == big[id] && j < id);
        same &= better < 50;
    }
    ok(same, "top_k 50 of 5000 draws only from the 50 best, ties by id");
    sampler_free(m);
}

/* ---- trace --------------------------------------------------------------- */

static void test_trace(void)
{
    struct dbrx_config c = { .n_layers = 2, .top_k = 2, .n_experts = 8 };
    struct trace *t = trace_new(&c);
    const struct dbrx_route_sink *sink = trace_sink(t);
    const uint16_t expert[] = { 3, 1, 5, 0, 7, 2 }, *e;
    const float weight[] = { .75f, .25f, .5f, .5f, .9f, .1f }, *w;
    struct dbrx_route r = { .struct_size = sizeof r, .layer = 0, .pos = 0, .n_tokens = 3,
                            .top_k = 2, .n_experts = 8, .expert = expert, .weight = weight };
    sink->emit(sink->ctx, &r);
    ok(trace_len(t) == 0, "a token counts when all layers know it");
    r.layer = 1;
    sink->emit(sink->ctx, &r);
    ok(trace_len(t) == 3 && trace_get(t, 1, 1, &e, &w) == 2 && e[0] == 5 && w[1] == .5f,
       "what went in comes out");
    r.pos = 200;
    sink->emit(sink->ctx, &r);
    ok(trace_len(t) == 3 && trace_get(t, 200, 1, &e, &w) == 0, "a gap is not recorded");
    trace_truncate(t, 1);
    ok(trace_len(t) == 1 && trace_get(t, 1, 0, &e, &w) == 0 && trace_get(t, 0, 0, &e, &w) == 2,
       "truncate forgets the end");
    r = (struct dbrx_route){ .struct_size = sizeof r, .layer = 0, .pos = 1, .n_tokens = 2,
                             .top_k = 1, .n_experts = 8, .expert = expert, .weight = weight };
    sink->emit(sink->ctx, &r);
    ok(trace_get(t, 2, 0, &e, &w) == 1 && e[0] == 1, "fewer experts than the model's top_k");
    trace_free(t);
}

/* ---- dispatch and session ------------------------------------------------ */

static int stop_in;                        /* polls until a stop; 0: never */
static int should_stop(const struct dbrx_host *h)
{
    (void)h;
    return stop_in && --stop_in == 0 ? (stop_in = 1) : 0;
}
static void be_quiet(const struct dbrx_host *h, int level, const char *line)
{
    (void)h, (void)level, (void)line;
}
static void no_progress(const struct dbrx_host *h, const char *what, uint64_t d, uint64_t t)
{
    (void)h, (void)what, (void)d, (void)t;
}
static const void *nothing(const struct dbrx_host *h, const char *id)
{
    (void)h, (void)id;
    return NULL;
}
static const struct dbrx_host host = { sizeof host, NULL, be_quiet, should_stop, no_progress, nothing };

static const int32_t prompt[] = { 5, 17, 300, 2, 99, 5, 64 };
enum { N_PROMPT = sizeof prompt / sizeof *prompt };

static dbrx_status count_rows(void *ctx, uint32_t pos, uint32_t n, const float *logits)
{
    uint32_t *next = ctx;
    (void)logits;
    if (*next != pos)
        return DBRX_E_INVALID;
    *next = pos + n;
    return DBRX_OK;
}

static int interrupt_at;
static int interrupt(void *ctx, int32_t id, uint32_t pos)
{
    (void)ctx, (void)id;
    return interrupt_at && pos + 1 == (uint32_t)interrupt_at;
}

static void test_session(const struct ckpt *ck, const struct modules *mods)
{
    const struct dbrx_config *c = &ck->desc.config;
    struct disp *d = disp_new(&ck->desc, mods, &host, 40);
    struct sess *s = sess_new(d, c, NULL);
    struct dbrx_error err = { 0 };
    enum sess_finish why;
    struct sess_gen g = { .sampling = { 0, 0, 1, 0 }, .max_tokens = 12, .on_token = interrupt };
    int32_t straight[N_PROMPT + 12];

    ok(!disp_name(d) && sess_append(s, prompt, N_PROMPT, &err) == DBRX_OK &&
       sess_sync(s, &err) == DBRX_E_INVALID && strstr(err.text, "/backend"),
       "without a backend there is a sentence");
    ok(disp_use(d, "nosuch", NULL, 0, NULL, 0, &err) == DBRX_E_UNSUPPORTED &&
       strstr(err.text, "nosuch") && !disp_name(d), "an unknown backend is named");
    ok(sess_use(s, "ref", NULL, 0, &err) == DBRX_OK && !strcmp(disp_name(d), "ref"),
       "a backend by name");
    ok(sess_sync(s, &err) == DBRX_OK && s->has_logits && trace_len(s->trace) == N_PROMPT,
       "sync evaluates and traces the timeline");
    ok(sess_append(s, (const int32_t[]){ 1, -1 }, 2, &err) == DBRX_E_INVALID && s->n == N_PROMPT &&
       s->has_logits, "a bad id appends nothing");
    int32_t many[64] = { 0 };
    ok(sess_append(s, many, 64, &err) == DBRX_E_FULL && s->n == N_PROMPT,
       "what does not fit appends nothing: %s", err.text);

    ok(sess_generate(s, &g, &why, &err) == DBRX_OK && why == SESS_MAX_TOKENS &&
       s->n == N_PROMPT + 12 && trace_len(s->trace) == s->n && s->last.gen_tokens == 12,
       "generates max_tokens, the last one traced, too");
    memcpy(straight, s->token, sizeof straight);

    /* interrupt at every poll of a fresh run: the timeline stays, going on gives the same */
    int same = 1, stopped = 0;
    for (int at = 1; at < 60; at++) {
        sess_truncate(s, N_PROMPT);
        stop_in = at;
        dbrx_status st = sess_generate(s, &g, &why, &err);
        stopped += why == SESS_STOPPED;
        same &= st == DBRX_OK && !memcmp(s->token, straight, s->n * sizeof *straight);
        stop_in = 0;
        struct sess_gen rest = g;
        rest.max_tokens = N_PROMPT + 12 - s->n;
        if (rest.max_tokens)
            same &= sess_generate(s, &rest, &why, &err) == DBRX_OK;
        same &= s->n == N_PROMPT + 12 && !memcmp(s->token, straight, sizeof straight) &&
                (!rest.max_tokens || trace_len(s->trace) == s->n);
    }
    ok(same && stopped > 20, "stopped at any poll (%d times), it goes on as if nothing was",
       stopped);

    sess_truncate(s, N_PROMPT);
    interrupt_at = N_PROMPT + 5;
    ok(sess_generate(s, &g, &why, &err) == DBRX_OK && why == SESS_STOPPED && s->n == N_PROMPT + 5,
       "the callback can stop a reply");
    interrupt_at = 0;

    /* eos */
    struct sess_gen e = g;
    int32_t eos[] = { -5, straight[N_PROMPT + 2] };
    e.eos = eos, e.n_eos = 2;
    sess_truncate(s, N_PROMPT);
    ok(sess_generate(s, &e, &why, &err) == DBRX_OK && why == SESS_EOS && s->n == N_PROMPT + 3,
       "generation ends at any of the eos ids, which stays on the timeline");

    /* rescan */
    uint32_t next = 0;
    sess_truncate(s, N_PROMPT);
    ok(sess_rescan(s, 3, NULL, count_rows, &next, &err) == DBRX_OK && next == N_PROMPT &&
       disp_position(d) == N_PROMPT, "rescan hands out every position once");
    ok(sess_rescan(s, 3, NULL, count_rows, &next, &err) == DBRX_E_INVALID &&
       sess_generate(s, &g, &why, &err) == DBRX_OK && !memcmp(s->token, straight, sizeof straight),
       "a rescan broken off is caught up with");

    /* full */
    struct sess_gen all = g;
    all.max_tokens = 0;
    ok(sess_generate(s, &all, &why, &err) == DBRX_OK && why == SESS_CONTEXT_FULL && s->n == 40,
       "generation ends when the context is full");

    /* switching */
    for (int replay = 0; replay < 2; replay++) {
        sess_truncate(s, N_PROMPT);
        struct sess_gen six = g;
        six.max_tokens = 6;
        int fine = sess_generate(s, &six, &why, &err) == DBRX_OK &&
                   sess_use(s, "cpu-blas", NULL, replay, &err) == DBRX_OK &&
                   !strcmp(disp_kv_origin(d), replay ? "recomputed" : "copied from ref") &&
                   sess_generate(s, &six, &why, &err) == DBRX_OK &&
                   !memcmp(s->token, straight, sizeof straight);
        ok(fine, "switched in mid-reply with the KV %s, the text goes on", disp_kv_origin(d));
        fine = sess_use(s, "cpu-blas", (const char *const[]){ "threads=0", NULL }, 0, &err) ==
                   DBRX_E_INVALID && !strcmp(disp_name(d), "cpu-blas") &&
               disp_position(d) == s->n && strstr(err.text, "threads");
        ok(fine, "a refused option leaves everything as it was: %s", err.text);
        ok(sess_use(s, "cpu-blas", (const char *const[]){ "threads=1", "isa=plain", NULL }, 0,
                    &err) == DBRX_OK && disp_position(d) == s->n,
           "the same backend with other options takes the KV over");
        stop_in = 1;
        fine = sess_use(s, "ref", NULL, replay, &err) == DBRX_STOPPED &&
               !strcmp(disp_name(d), "cpu-blas") && disp_position(d) == s->n &&
               strstr(err.text, "interrupted");
        stop_in = 0;
        ok(fine, "an interrupted switch leaves the old backend");
        ok(sess_use(s, "ref", NULL, replay, &err) == DBRX_OK, "and back");
    }
    sess_free(s);
    disp_free(d);
}

int main(void)
{
    struct dbrx_error err = { 0 };
    struct modules mods = { 0 };
    struct ckpt *ck;
    char dir[4096];
    test_sampler();
    test_trace();
    snprintf(dir, sizeof dir, "%s/tests/data/tiny-bf16", getenv("srcdir"));
    if (ckpt_open(dir, &ck, &err) != DBRX_OK ||
        modules_scan(&mods, getenv("MODULES"), &err) != DBRX_OK)
        bail("%s", err.text);
    test_session(ck, &mods);
    modules_free(&mods);
    ckpt_close(ck);
    return done();
}
