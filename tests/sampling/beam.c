/* tests/sampling/beam.c -- beam search against transformers' (tests/sampling/beam.py wrote
 * what that found), against trying every continuation, and what it does to the session. */
#include "backends/model/checkpoint.h"
#include "repl/beam.h"
#include "repl/grammar/grammar.h"
#include "tests/quiet_host.h"
#include "tests/tap.h"

#include <cjson/cJSON.h>
#include <math.h>
#include <string.h>

enum { MAX = 64 };

static int stop_in;                        /* polls until a stop; 0: never */
static int should_stop(const struct dbrx_host *h)
{
    (void)h;
    return stop_in && --stop_in == 0 ? (stop_in = 1) : 0;
}
static const struct dbrx_host host = QUIET_HOST(should_stop);
static struct modules mods;

/* a checkpoint at work */
struct at { struct ckpt *ck; struct disp *d; struct sess *s; };

static struct at open_at(const char *name, const char *backend, uint32_t ctx)
{
    struct at a;
    struct dbrx_error err = { 0 };
    char dir[4096];
    snprintf(dir, sizeof dir, "%s/%s", getenv("srcdir"), name);
    if (ckpt_open(dir, &a.ck, &err) != DBRX_OK)
        bail("%s", err.text);
    a.d = disp_new(&a.ck->desc, &mods, &host, ctx);
    a.s = sess_new(a.d, &a.ck->desc.config, NULL);
    if (sess_use(a.s, backend, NULL, 0, &err) != DBRX_OK)
        bail("%s", err.text);
    return a;
}

static void close_at(struct at *a)
{
    sess_free(a->s);
    disp_free(a->d);
    ckpt_close(a->ck);
}

static void restart(struct sess *s, const int32_t *prompt, uint32_t n)
{
    struct dbrx_error err;
    sess_truncate(s, 0);
    if (sess_sync(s, &err) != DBRX_OK || disp_truncate(s->disp, 0, &err) != DBRX_OK ||
        sess_append(s, prompt, n, &err) != DBRX_OK)
        bail("%s", err.text);
}

/* ---- transformers ---- */

static const cJSON *get(const cJSON *j, const char *name)
{
    return cJSON_GetObjectItemCaseSensitive(j, name);
}

static double real(const cJSON *j, const char *name, double off)
{
    const cJSON *x = get(j, name);
    return x ? x->valuedouble : off;
}

static uint32_t ids(const cJSON *list, int32_t *out)
{
    uint32_t n = 0;
    const cJSON *x;
    cJSON_ArrayForEach(x, list) {
        if (n == MAX)
            bail("a list is too long");
        out[n++] = (int32_t)x->valuedouble;
    }
    return n;
}

static void test_golden(void)
{
    char path[4096], *line = NULL;
    size_t cap = 0, number = 0;
    struct at a = { 0 };
    char now_at[256] = "";
    snprintf(path, sizeof path, "%s/tests/data/sampling/beam.jsonl", getenv("srcdir"));
    FILE *f = fopen(path, "r");
    if (!f)
        bail("%s cannot be read", path);
    while (getline(&line, &cap, f) > 0) {
        cJSON *j = cJSON_Parse(line);
        const cJSON *given = get(j, "given"), *name = get(j, "checkpoint");
        int32_t prompt[MAX], eos[MAX], want[MAX];
        number++;
        if (!name) {
            cJSON_Delete(j);
            continue;
        }
        if (strcmp(now_at, name->valuestring)) {
            if (a.s)
                close_at(&a);
            snprintf(now_at, sizeof now_at, "%s", name->valuestring);
            a = open_at(now_at, strstr(now_at, "tiny") ? "ref" : "cpu-blas", 64);
        }
        uint32_t n = ids(get(j, "prompt"), prompt), n_want = ids(get(j, "tokens"), want);
        const cJSON *early = get(given, "early_stopping");
        struct beam_params p = { (uint32_t)real(given, "num_beams", 1), real(given, "length_penalty", 1),
            cJSON_IsString(early) ? BEAM_STOP_NEVER : cJSON_IsTrue(early) ? BEAM_STOP_TRUE : BEAM_STOP_FALSE };
        struct sess_gen g = { .sampling = sampler_plain, .eos = eos, .n_eos = ids(get(j, "eos"), eos),
                              .max_tokens = (uint32_t)real(given, "max_new_tokens", 0) };
        g.sampling.repetition_penalty = real(given, "repetition_penalty", 1);
        g.sampling.no_repeat_ngram_size = (uint32_t)real(given, "no_repeat_ngram_size", 0);
        g.sampling.min_new_tokens = (uint32_t)real(given, "min_new_tokens", 0);
        struct sampler_bias bias[MAX];
        const cJSON *x;
        g.sampling.logit_bias = bias;
        cJSON_ArrayForEach(x, get(given, "logit_bias"))
            bias[g.sampling.n_logit_bias++] = (struct sampler_bias){
                (int32_t)x->child->valuedouble, (float)x->child->next->valuedouble };
        int ended = cJSON_IsTrue(get(j, "ended"));
        double score = 0, want_score = real(j, "score", 0);
        enum sess_finish why;
        struct dbrx_error err = { 0 };
        restart(a.s, prompt, n);
        dbrx_status st = beam_generate(a.s, &p, &g, &why, &score, &err);
        char *text = cJSON_PrintUnformatted(given);
        ok(st == DBRX_OK && a.s->n == n + n_want + (uint32_t)ended &&
           !memcmp(a.s->token + n, want, n_want * sizeof *want) && why == (ended ? SESS_EOS : SESS_MAX_TOKENS) &&
           fabs(score - want_score) < 1e-4 * (1 + fabs(want_score)),
           "line %zu: %s %s%s (score %.6g, transformers %.6g)", number, now_at, text, ended ? ", ended" : "",
           score, want_score);
        free(text);
        cJSON_Delete(j);
    }
    close_at(&a);
    free(line);
    fclose(f);
    ok(number > 250, "%zu lines", number);
}

/* ---- the session ---- */

static int told_wrong;
static uint32_t told, stop_after;
static int on_token(void *ctx, int32_t id, uint32_t pos)
{
    struct sess *s = ctx;
    told_wrong |= s->n != pos + 1 || s->token[pos] != id;
    return ++told == stop_after;
}

/* log p of the best of all continuations of n tokens, by trying them */
static double exhaust(struct sess *s, uint32_t n, const struct sess_gen *g)
{
    struct dbrx_error err;
    double best = -INFINITY;
    uint32_t from = s->n;
    if (!n)
        return 0;
    if (sess_sync(s, &err) != DBRX_OK)
        bail("%s", err.text);
    double *p = malloc(s->n_vocab * sizeof *p), sum = 0;
    for (uint32_t i = 0; i < s->n_vocab; i++)
        sum += p[i] = exp(s->logits[i]);
    for (int32_t i = 0; i < (int32_t)s->n_vocab; i++) {
        double x = log(p[i] / sum);
        if (x <= best || (g->n_eos && i == g->eos[0]))
            continue;
        if (n > 1) {
            if (sess_append(s, &i, 1, &err) != DBRX_OK)
                bail("%s", err.text);
            x += exhaust(s, n - 1, g);
            sess_truncate(s, from);
            if (disp_truncate(s->disp, from, &err) != DBRX_OK)
                bail("%s", err.text);
        }
        best = x > best ? x : best;
    }
    free(p);
    return best;
}

static void test_session(void)
{
    static const int32_t prompt[] = { 5, 17, 300, 2, 99, 5, 64 };
    enum { N = sizeof prompt / sizeof *prompt };
    struct at a = open_at("tests/data/tiny-bf16", "ref", 24);
    struct sess *s = a.s;
    struct dbrx_error err = { 0 };
    enum sess_finish why;
    struct sess_gen g = { .sampling = sampler_plain, .max_tokens = 8, .on_token = on_token, .ctx = s };
    struct beam_params p = { 4, 1, BEAM_STOP_FALSE };
    int32_t want[24];

    ok(beam_generate(s, &p, &g, &why, NULL, &err) == DBRX_E_INVALID && why == SESS_FAILED,
       "nothing to continue: %s", err.text);
    restart(s, prompt, N);
    told = 0;
    ok(beam_generate(s, &p, &g, &why, NULL, &err) == DBRX_OK && why == SESS_MAX_TOKENS && s->n == N + 8 &&
       told == 8 && !told_wrong && s->last.gen_tokens == 8, "the reply comes token by token");
    ok(trace_len(s->trace) == s->n && disp_position(a.d) == s->n && s->has_logits,
       "afterwards the backend and the routes are in step");
    memcpy(want, s->token, sizeof want);
    float *logits = malloc(s->n_vocab * sizeof *logits);
    memcpy(logits, s->logits, s->n_vocab * sizeof *logits);
    restart(s, want, N + 8);
    int same = sess_sync(s, &err) == DBRX_OK && !memcmp(logits, s->logits, s->n_vocab * sizeof *logits);
    ok(same, "and nothing of other beams is left in the KV cache");
    free(logits);

    uint64_t state = sampler_state(s->sampler);
    g.sampling.temperature = 0, g.sampling.top_k = 1, g.sampling.top_p = 0.1;
    restart(s, prompt, N);
    ok(beam_generate(s, &p, &g, &why, NULL, &err) == DBRX_OK && !memcmp(want, s->token, (N + 8) * sizeof *want) &&
       sampler_state(s->sampler) == state, "temperature and filters play no part, nothing is drawn");
    g.sampling = sampler_plain;

    /* one beam is greedy */
    struct sess_gen greedy = g;
    int32_t alone[24];
    greedy.sampling.temperature = 0;
    restart(s, prompt, N);
    int fine = sess_generate(s, &greedy, &why, &err) == DBRX_OK;
    memcpy(alone, s->token, sizeof alone);
    restart(s, prompt, N);
    p.num_beams = 1;
    ok(fine && beam_generate(s, &p, &g, &why, NULL, &err) == DBRX_OK &&
       !memcmp(alone, s->token, (N + 8) * sizeof *alone), "one beam is greedy search");

    /* as many beams as there are prefixes: nothing can be missed */
    double score;
    p = (struct beam_params){ s->n_vocab, 0, BEAM_STOP_NEVER };
    g.max_tokens = 2;
    restart(s, prompt, N);
    ok(beam_generate(s, &p, &g, &why, &score, &err) == DBRX_OK, "as many beams as tokens");
    restart(s, prompt, N);
    double best = exhaust(s, 2, &g);
    ok(fabs(score - best) < 1e-5, "... find the best of all continuations (%.6f, %.6f)", score, best);
    p = (struct beam_params){ 4, 1, BEAM_STOP_FALSE };
    g.max_tokens = 8;

    /* Two tokens that end a reply, one likelier than all, one between the two best others.  Long
     * replies score better, so that one token is the reply only if the search stops too soon. */
    restart(s, prompt, N);
    fine = sess_sync(s, &err) == DBRX_OK;
    int32_t first = 2, second = 2;
    for (int32_t i = 2; i < (int32_t)s->n_vocab; i++)
        first = s->logits[i] > s->logits[first] ? i : first;
    second += first == second;
    for (int32_t i = 2; i < (int32_t)s->n_vocab; i++)
        second = i != first && s->logits[i] > s->logits[second] ? i : second;
    const int32_t eos[] = { 0, 1 };
    const struct sampler_bias bias[] = {
        { 0, s->logits[first] + 1 - s->logits[0] },
        { 1, (s->logits[first] + s->logits[second]) / 2 - s->logits[1] } };
    struct sess_gen e = g;
    e.eos = eos, e.n_eos = 2;
    e.sampling.logit_bias = bias, e.sampling.n_logit_bias = 2;
    p = (struct beam_params){ 2, 5, BEAM_STOP_TRUE };
    ok(fine && beam_generate(s, &p, &e, &why, NULL, &err) == DBRX_OK && s->n > N + 1,
       "an end that is not among the num_beams best does not count");
    p = (struct beam_params){ 1, 5, BEAM_STOP_NEVER };
    e.n_eos = 1;
    restart(s, prompt, N);
    ok(beam_generate(s, &p, &e, &why, NULL, &err) == DBRX_OK && s->n > N + 1 && s->token[N] == first,
       "beside an end, the best other token goes on");
    p = (struct beam_params){ 4, 1, BEAM_STOP_FALSE };

    /* stops */
    restart(s, prompt, N);
    told = 0, stop_after = 3;
    ok(beam_generate(s, &p, &g, &why, NULL, &err) == DBRX_OK && why == SESS_STOPPED && s->n == N + 3 &&
       !memcmp(want, s->token, (N + 3) * sizeof *want), "the callback can stop the reply");
    stop_after = 0;
    int part = 0;
    fine = 1;
    for (int poll = 1; poll < 90; poll += 3) {
        restart(s, prompt, N);
        stop_in = poll;
        fine &= beam_generate(s, &p, &g, &why, NULL, &err) == DBRX_OK && why == SESS_STOPPED &&
                !memcmp(s->token, prompt, sizeof prompt);
        part += s->n > N && s->n < N + 8;
        stop_in = 0;
        uint32_t n = s->n;
        fine &= sess_sync(s, &err) == DBRX_OK && s->n == n && trace_len(s->trace) == n;
    }
    ok(fine && part > 5, "interrupted anywhere, what was found so far is the reply (%d times)", part);

    /* context, nothing left */
    restart(s, prompt, N);
    g.max_tokens = 0;
    ok(beam_generate(s, &p, &g, &why, NULL, &err) == DBRX_OK && why == SESS_CONTEXT_FULL && s->n == 24,
       "it ends when the context is full");
    ok(beam_generate(s, &p, &g, &why, NULL, &err) == DBRX_OK && why == SESS_CONTEXT_FULL && s->n == 24,
       "... and does nothing when it is");
    static int32_t every[4096];
    for (uint32_t i = 0; i < s->n_vocab; i++)
        every[i] = (int32_t)i;
    g.max_tokens = 8;
    g.sampling.suppress_tokens = every, g.sampling.n_suppress_tokens = s->n_vocab;
    restart(s, prompt, N);
    ok(beam_generate(s, &p, &g, &why, NULL, &err) == DBRX_E_INVALID && s->n == N &&
       strstr(err.text, "suppress_tokens"), "nothing left: %s", err.text);
    g.sampling.n_suppress_tokens = s->n_vocab - 2;     /* two tokens, four beams */
    ok(beam_generate(s, &p, &g, &why, NULL, &err) == DBRX_OK && s->n == N + 8, "fewer tokens than beams");
    close_at(&a);
}

/* ---- under a grammar ---- */

/* The best score of all that the grammar lets follow, with log p so far; n tokens so far */
static double best_text(struct sess *s, struct constraint *c, const struct sess_gen *g, double lp, uint32_t n, double sum)
{
    struct dbrx_error err;
    const uint8_t *banned;
    double best = -INFINITY;
    uint32_t from = s->n;
    size_t said = constraint_said(c);
    if (constraint_complete(c))
        return sum / pow(n, lp);
    if (sess_sync(s, &err) != DBRX_OK || constraint_mask(c, &banned, &err) != DBRX_OK)
        bail("%s", err.text);
    double *p = malloc(s->n_vocab * sizeof *p), all = 0;
    for (uint32_t i = 0; i < s->n_vocab; i++) {
        p[i] = exp(s->logits[i]);
        all += p[i];
    }
    for (uint32_t i = 0; i < s->n_vocab; i++)
        p[i] = banned[i] ? -INFINITY : log(p[i] / all);
    for (int32_t i = 0; i < (int32_t)s->n_vocab; i++) {
        double x = sum + p[i];
        if (!(p[i] > -INFINITY))
            continue;
        if (i == g->eos[0]) {
            x /= pow(n + 1, lp);
        } else {
            if (sess_append(s, &i, 1, &err) != DBRX_OK || constraint_accept(c, i, &err) != DBRX_OK)
                bail("%s", err.text);
            x = best_text(s, c, g, lp, n + 1, x);
            constraint_rewind(c, said);
            sess_truncate(s, from);
        }
        best = x > best ? x : best;
    }
    free(p);
    return best;
}

static void test_constrained(void)
{
    static const char *const grammars[] = { "root ::= \"a\" [bc] \"d\"? | \"some\"", "root ::= ([a-c] \" \"){2}",
                                            "root ::= \"the\" \" end\"?" };
    static const int32_t prompt[] = { 930, 739, 259, 559 };
    char path[4096], why_not[512];
    struct at a = open_at("models/nano", "cpu-blas", 64);
    struct dbrx_error err = { 0 };
    enum sess_finish why;
    snprintf(path, sizeof path, "%s/models/nano", getenv("srcdir"));
    struct tok *tok = tok_open(path, why_not, sizeof why_not);
    struct trie *trie = tok ? trie_new(tok, a.s->n_vocab) : NULL;
    if (!trie)
        bail("%s", why_not);
    int32_t eos[] = { tok_special(tok, "<|endoftext|>") };
    for (size_t i = 0; i < sizeof grammars / sizeof *grammars; i++) {
        struct rules r = { 0 };
        if (grammar_parse(&r, "g", grammars[i], strlen(grammars[i]), why_not, sizeof why_not))
            bail("%s", why_not);
        struct constraint *c = constraint_new(&r, trie, eos, 1);
        struct sess_gen g = { .sampling = sampler_plain, .max_tokens = 20, .eos = eos, .n_eos = 1, .constraint = c };
        for (int k = 0; k < 2; k++) {
            struct beam_params p = { 64, k, BEAM_STOP_NEVER };
            double score, want;
            restart(a.s, prompt, 4);
            constraint_restart(c);
            dbrx_status st = beam_generate(a.s, &p, &g, &why, &score, &err);
            constraint_restart(c);
            int fits = st == DBRX_OK && why == SESS_EOS && a.s->n > 4;
            for (uint32_t t = 4; fits && t < a.s->n; t++)
                fits = constraint_accept(c, a.s->token[t], &err) == DBRX_OK;
            fits = fits && (constraint_complete(c) || a.s->token[a.s->n - 1] == eos[0]);
            restart(a.s, prompt, 4);
            constraint_restart(c);
            want = best_text(a.s, c, &g, k, 0, 0);
            ok(fits && fabs(score - want) < 1e-4, "%s: the best text that fits, length_penalty %d (%.6f, %.6f)",
               grammars[i], k, score, want);
        }
        /* cut, it is the beginning of one; then nothing else fits */
        struct beam_params two = { 2, 1, BEAM_STOP_FALSE };
        restart(a.s, prompt, 4);
        constraint_restart(c);
        g.max_tokens = 1;
        ok(beam_generate(a.s, &two, &g, &why, NULL, &err) == DBRX_OK && a.s->n == 5 &&
           (why == SESS_MAX_TOKENS || constraint_complete(c)) && constraint_said(c) > 0, "... cut at one token, it goes on from there");
        constraint_free(c);
    }
    trie_free(trie);
    tok_close(tok);
    close_at(&a);
}

int main(void)
{
    struct dbrx_error err = { 0 };
    if (modules_scan(&mods, getenv("MODULES"), &err) != DBRX_OK)
        bail("%s", err.text);
    test_golden();
    test_session();
    test_constrained();
    modules_free(&mods);
    return done();
}
