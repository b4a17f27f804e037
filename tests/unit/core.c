/* tests/unit/core.c -- the shell's core without a shell: trace, dispatch and session, on the
 * tiny golden checkpoint with the real backends. */
#include "repl/session.h"
#include "tests/unit/tiny_model.h"

#include <string.h>

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
static const struct dbrx_host host = QUIET_HOST(should_stop);

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
    struct sess_gen g = { .sampling = sampler_plain, .max_tokens = 12, .on_token = interrupt };
    g.sampling.temperature = 0;
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

    /* parameters that leave nothing: a sentence, and nothing lost */
    struct sess_gen empty = g;
    static int32_t every[4096];
    for (uint32_t i = 0; i < c->n_vocab; i++)
        every[i] = (int32_t)i;
    empty.sampling.suppress_tokens = every, empty.sampling.n_suppress_tokens = c->n_vocab;
    sess_truncate(s, N_PROMPT);
    ok(sess_generate(s, &empty, &why, &err) == DBRX_E_INVALID && why == SESS_FAILED &&
       strstr(err.text, "suppress_tokens") && s->n == N_PROMPT && s->has_logits,
       "settings that rule every token out: %s", err.text);
    ok(sess_generate(s, &g, &why, &err) == DBRX_OK && !memcmp(s->token, straight, sizeof straight),
       "... and it goes on without them");

    /* the sampler sees the timeline, and where the reply began */
    struct sess_gen no = g;
    no.sampling.no_repeat_ngram_size = 1;
    sess_truncate(s, N_PROMPT);
    int fine_ngram = sess_generate(s, &no, &why, &err) == DBRX_OK && s->n == N_PROMPT + 12;
    for (uint32_t i = N_PROMPT; i < s->n; i++)
        for (uint32_t k = 0; k < i; k++)
            fine_ngram &= s->token[i] != s->token[k];
    ok(fine_ngram, "no token comes twice with no_repeat_ngram_size 1");
    struct sess_gen late = g;
    int32_t first_eos[] = { straight[N_PROMPT], straight[N_PROMPT + 2] };
    late.eos = first_eos, late.n_eos = 2;
    late.sampling.min_new_tokens = 6;
    sess_truncate(s, N_PROMPT);
    ok(sess_generate(s, &late, &why, &err) == DBRX_OK && s->n >= N_PROMPT + 7 &&
       (why == SESS_EOS) == (s->n < N_PROMPT + 12), "min_new_tokens holds eos back");

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

    /* engines beside the current one */
    struct engine scratch, other;
    float *row = malloc(3 * c->n_vocab * sizeof *row);
    struct dbrx_batch b = { .struct_size = sizeof b, .n_tokens = 7, .token = prompt, .logits = row,
                            .want_logits = DBRX_LOGITS_LAST, .logits_len = c->n_vocab };
    uint32_t held = disp_position(d);
    ok(disp_scratch(d, 9, &scratch, &err) == DBRX_OK && !strcmp(scratch.label, "ref") &&
       disp_open(d, "cpu-blas", (const char *const[]){ "threads=1", NULL }, 9, &other, &err) == DBRX_OK &&
       !strcmp(other.label, "cpu-blas threads=1"), "a session beside, and a backend beside");
    ok(engine_eval(&scratch, &b, &err) == DBRX_OK && engine_position(&scratch) == 7 &&
       disp_position(d) == held && !strcmp(disp_name(d), "ref"), "... do not touch the conversation");
    memcpy(row + c->n_vocab, row, c->n_vocab * sizeof *row);
    ok(engine_copy_kv(&scratch, &other, 7, &host, NULL, &err) == DBRX_OK && engine_position(&other) == 7 &&
       engine_truncate(&scratch, 6, &err) == DBRX_OK, "KV goes from one to the other");
    b.n_tokens = 1, b.token = prompt + 6;
    ok(engine_eval(&scratch, &b, &err) == DBRX_OK &&
       !memcmp(row + c->n_vocab, row, c->n_vocab * sizeof *row), "and a session beside can go back");
    b.n_tokens = 7, b.token = prompt;
    ok(engine_eval(&scratch, &b, &err) == DBRX_E_FULL, "it has the room it was given");
    engine_close(&scratch);
    engine_close(&other);
    ok(!scratch.session && engine_eval(&scratch, &b, &err) == DBRX_E_LOST && !engine_position(&scratch),
       "a closed engine says so");
    ok(disp_open(d, "ref", (const char *const[]){ "x=1", NULL }, 9, &other, &err) == DBRX_E_INVALID &&
       !other.session && disp_open(d, "nosuch", NULL, 9, &other, &err) == DBRX_E_UNSUPPORTED,
       "what cannot be opened leaves nothing");
    free(row);
    sess_free(s);
    disp_free(d);
}

int main(void)
{
    struct modules mods = { 0 };
    test_trace();
    struct ckpt *ck = tiny_open(&mods);
    test_session(ck, &mods);
    modules_free(&mods);
    ckpt_close(ck);
    return done();
}
