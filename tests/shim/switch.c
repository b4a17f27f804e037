/* tests/shim/switch.c -- switching backends while everything goes wrong: shim.so fails at the
 * first, second, third ... call of a switch, whatever that is, and each time the old backend,
 * the conversation and what it says next must be what they were.  The shim's log must hold no
 * violation in the end.  All of it between ref and cpu-blas, and once more between ref and the cuda backend
 * on an emulated device. */
#include "backends/model/checkpoint.h"
#include "repl/machine.h"
#include "repl/session.h"
#include "tests/quiet_host.h"
#include "tests/tap.h"

#include <dirent.h>
#include <string.h>
#include <unistd.h>

static int stop_in;                        /* polls until a stop; 0: never */
static int should_stop(const struct dbrx_host *h)
{
    (void)h;
    return stop_in && --stop_in == 0;
}
static const struct dbrx_host host = QUIET_HOST(should_stop);

static const int32_t prompt[] = { 5, 17, 300, 2, 99, 5, 64 };
enum { N_PROMPT = sizeof prompt / sizeof *prompt, N = 12, MAX_POS = 48 };

static struct ckpt *ck;
static struct modules mods;
static int32_t straight[N_PROMPT + N];     /* what a greedy reply is without any switch */
static const char *other, *other_file;     /* the backend that is not ref: its name, and for the shim */
static int step = 1;                       /* of long rounds every step-th: an emulated device takes its time */

struct world { struct disp *d; struct sess *s; };

static struct world begin(const char *backend, const char *const *opt, uint32_t tokens);

static dbrx_status draw(struct world w, uint32_t n, enum sess_finish *why, struct dbrx_error *err)
{
    struct sess_gen g = { .sampling = sampler_plain, .max_tokens = n };
    g.sampling.temperature = 0;
    return sess_generate(w.s, &g, why, err);
}

static struct world begin(const char *backend, const char *const *opt, uint32_t tokens)
{
    struct dbrx_error err = { 0 };
    enum sess_finish why;
    struct world w = { .d = disp_new(&ck->desc, &mods, &host, MAX_POS) };
    w.s = sess_new(w.d, &ck->desc.config, NULL);
    if (sess_use(w.s, backend, opt, 0, &err) != DBRX_OK || sess_append(w.s, prompt, N_PROMPT, &err) != DBRX_OK ||
        (tokens && draw(w, tokens, &why, &err) != DBRX_OK))
        bail("%s", err.text);
    return w;
}

static void end(struct world w)
{
    sess_free(w.s);
    disp_free(w.d);
}

/* Is the conversation n tokens on `backend`, and does it go on as it would have? */
static int goes_on(struct world w, const char *backend, uint32_t n)
{
    struct dbrx_error err = { 0 };
    enum sess_finish why;
    int fine = disp_name(w.d) && !strcmp(disp_name(w.d), backend) && w.s->n == N_PROMPT + n &&
               !memcmp(w.s->token, straight, w.s->n * sizeof *straight);
    fine = fine && (n == N || draw(w, N - n, &why, &err) == DBRX_OK) && w.s->n == N_PROMPT + N;
    fine = fine && !memcmp(w.s->token, straight, sizeof straight);
    if (!fine)
        diag("on %s, %u tokens; %s", disp_name(w.d) ? disp_name(w.d) : "nothing", w.s->n, err.text);
    return fine;
}

/* to shim with FAULT@1, FAULT@2, ... until one is not reached any more */
static void faults_in_the_new(const char *fault, int how, dbrx_status want, const char *of)
{
    int same = 1, said = 1, at = want == DBRX_E_LOST ? 3 : 1;  /* a session first, to be lost */
    for (; at < 300; at++) {
        char inject[40], which[4200];
        struct dbrx_error err = { 0 };
        const char *const opt[] = { inject, which, NULL };
        snprintf(inject, sizeof inject, "inject=%s@%d", fault, at);
        snprintf(which, sizeof which, "of=%s", of);
        struct world w = begin("ref", NULL, 6);
        uint32_t pos = disp_position(w.d);
        dbrx_status st = sess_use(w.s, "shim", opt, how, &err);
        if (st == DBRX_OK) {               /* not reached: then it has moved */
            same &= !strcmp(disp_name(w.d), "shim");
            end(w);
            break;
        }
        said &= st == want && err.text[0] && !strchr(err.text, '\n');
        same &= disp_position(w.d) == pos && goes_on(w, "ref", 6);
        end(w);
    }
    ok(same && at > 3 && at < 300, "%s@1..%d in a new %s%s: the old one goes on as if nothing was", fault, at - 1, of,
       how & DISP_REPLAY ? " that recomputes" : "");
    ok(said, "... and each time it is said why");
}

/* a fault in the old backend while it gives its KV: the tokens are recomputed, or it says so */
static void faults_in_the_old(int how)
{
    int fine = 1, lost = 0, at = 1;
    for (; at < 300; at++) {
        char inject[40];
        struct dbrx_error err = { 0 };
        const char *const opt[] = { inject, NULL };
        snprintf(inject, sizeof inject, "inject=lost@%d", at + 9); /* model, session, prompt, 6 tokens: 9 calls */
        struct world w = begin("shim", opt, 6);
        dbrx_status st = sess_use(w.s, "ref", NULL, how, &err);
        fine &= st == DBRX_OK && goes_on(w, "ref", 6);
            uint32_t n;
        int again = !strcmp(disp_kv_origin(w.d), "recomputed");
        lost += again;
        fine &= again || !strncmp(disp_kv_origin(w.d), "copied from shim", 16);
        fine &= !disp_kept(w.d, 0, &n) == (again || !how);
        end(w);
        if (!again)
            break;
    }
    ok(fine && lost && at < 300, "the old one lost while it gives its KV (%d places): recomputed, and it says so%s", lost,
       how ? ", nothing of it is kept" : "");
}

/* both fail: no backend is left, the conversation is */
static void both_lost(void)
{
    struct dbrx_error err = { 0 };
    struct world w = begin("shim", (const char *const[]){ "inject=lost@10", NULL }, 6);
    dbrx_status st = sess_use(w.s, "shim", (const char *const[]){ "inject=lost@4", NULL }, 0, &err);
    ok(st == DBRX_E_LOST && !disp_name(w.d) && w.s->n == N_PROMPT + 6 && err.text[0],
       "both lost: no backend, but the conversation: %s", err.text);
    ok(sess_use(w.s, "ref", NULL, 0, &err) == DBRX_OK && goes_on(w, "ref", 6), "... which goes on elsewhere");
    end(w);
}

/* Ctrl-C at every look at it */
static void interrupted(int how)
{
    int fine = 1, at = 1;
    for (; at < 300; at += step) {
        struct dbrx_error err = { 0 };
        struct world w = begin("ref", NULL, 6);
        stop_in = at;
        dbrx_status st = sess_use(w.s, "shim", NULL, how, &err);
        stop_in = 0;
        if (st == DBRX_OK) {
            end(w);
            break;
        }
        fine &= st == DBRX_STOPPED && strstr(err.text, "interrupted") && goes_on(w, "ref", 6);
        end(w);
    }
    ok(fine && at > 2 && at < 300, "interrupted at any of %d places while it %s: the old one goes on", (at - 1) / step,
       how & DISP_REPLAY ? "recomputes" : "copies");
}

/* ---- a reply that changes hands, a fault at any call of it ---- */

static void lost_in_a_reply(void)
{
    int fine = 1, at = 3;
    for (; at < 300; at++) {
        char inject[40];
        struct dbrx_error err = { 0 };
        enum sess_finish why;
        const char *const opt[] = { inject, NULL };
        snprintf(inject, sizeof inject, "inject=lost@%d", at);
        struct world w = begin("shim", opt, 0);
        dbrx_status st = draw(w, N, &why, &err);
        if (st == DBRX_OK) {
            fine &= !memcmp(w.s->token, straight, sizeof straight);
            end(w);
            break;
        }
        fine &= st == DBRX_E_LOST && why == SESS_FAILED && !disp_name(w.d) &&
                !memcmp(w.s->token, straight, w.s->n * sizeof *straight);
        uint32_t n = w.s->n - N_PROMPT;
        fine &= sess_use(w.s, other, NULL, 0, &err) == DBRX_OK && disp_position(w.d) == 0 &&
                !strcmp(disp_kv_origin(w.d), "computed") && goes_on(w, other, n);
        end(w);
    }
    ok(fine && at > 10 && at < 300, "lost at any of %d calls of a reply: what was said stays, another goes on", at - 3);
}

/* a backend handed over to itself after every number of tokens: the logits have the same bits */
static void same_bits(const char *backend, const char *const *opt, int how)
{
    struct dbrx_error err = { 0 };
    enum sess_finish why;
    size_t v = ck->desc.config.n_vocab * sizeof(float);
    float *want = malloc(N * v);
    struct world w = begin(backend, opt, 0);
    int fine = 1;
    for (int i = 0; i < N; i++) {
        if (draw(w, 1, &why, &err) != DBRX_OK)
            bail("%s", err.text);
        memcpy((char *)want + (size_t)i * v, w.s->logits, v);
    }
    end(w);
    for (uint32_t at = 1; at < N; at += (uint32_t)step) {
        w = begin(backend, opt, at);
        fine &= sess_use(w.s, backend, opt, how, &err) == DBRX_OK && !strcmp(disp_name(w.d), backend) &&
                disp_moved(w.d) == N_PROMPT + at;
        for (uint32_t i = at; i < N; i++) {
            fine &= draw(w, 1, &why, &err) == DBRX_OK;
            fine &= !memcmp((char *)want + (size_t)i * v, w.s->logits, v);
        }
        end(w);
    }
    ok(fine, "%s%s%s handed over to itself after any number of tokens%s: the same bits in every logit", backend,
       opt ? " " : "", opt ? *opt : "", how & DISP_KEEP ? ", the old one kept open" : how ? ", all recomputed" : "");
    free(want);
}

/* The token after a switch is drawn from the new one's logits, not from those left over */
static void own_word(void)
{
    struct dbrx_error err = { 0 };
    size_t v = ck->desc.config.n_vocab * sizeof(float);
    float *old = malloc(v);
    struct world w = begin("ref", NULL, 6), to = begin(other, NULL, 6);
    memcpy(old, to.s->logits, v);
    int fine = sess_use(to.s, "ref", NULL, DISP_REPLAY, &err) == DBRX_OK && !to.s->has_logits &&
               sess_sync(to.s, &err) == DBRX_OK && memcmp(old, to.s->logits, v);
    fine &= sess_use(w.s, "ref", NULL, DISP_REPLAY, &err) == DBRX_OK && sess_sync(w.s, &err) == DBRX_OK &&
            !memcmp(w.s->logits, to.s->logits, v) && trace_len(to.s->trace) == to.s->n;
    ok(fine, "after a switch the next token is the new one's own word");
    free(old);
    end(w), end(to);
}

/* ---- kept backends ---- */

static void kept(const char *hide)
{
    struct dbrx_error err = { 0 };
    enum sess_finish why;
    uint32_t n;
    setenv("SHIM_HIDE", hide, 1);
    struct world w = begin("shim", NULL, 3);
    int fine = sess_use(w.s, "ref", NULL, DISP_KEEP, &err) == DBRX_OK &&
               disp_kept(w.d, 0, &n) && n == N_PROMPT + 3 && !disp_kept(w.d, 1, &n);
    fine = fine && draw(w, 3, &why, &err) == DBRX_OK;
    fine = fine && sess_use(w.s, "shim", NULL, DISP_KEEP, &err) == DBRX_OK && disp_moved(w.d) == 4 &&     /* the last one was done again */
           disp_position(w.d) == N_PROMPT + 6;
    const char *origin = fine ? disp_kv_origin(w.d) : "";
    int right = !strcmp(origin, *hide ? "recomputed" : "copied from ref");
    fine = fine && right && !spans_at(disp_kv_spans(w.d), N_PROMPT + 1) && spans_at(disp_kv_spans(w.d), N_PROMPT + 2);
    ok(fine && goes_on(w, "shim", 6), "a kept backend%s%s takes only what is new, %s", *hide ? " without " : "", hide,
       origin);
    fine = sess_use(w.s, "ref", NULL, 0, &err) == DBRX_OK && !disp_kept(w.d, 0, &n);
    ok(fine && disp_moved(w.d) == N - 5, "... there and back again, and the one that is not kept is closed");
    end(w);

    /* other words since: the common beginning stays */
    w = begin("shim", NULL, 6);
    fine = sess_use(w.s, "ref", NULL, DISP_KEEP, &err) == DBRX_OK;
    sess_truncate(w.s, N_PROMPT + 2);
    fine = fine && sess_append(w.s, (const int32_t[]){ 1, 2 }, 2, &err) == DBRX_OK && sess_sync(w.s, &err) == DBRX_OK;
    fine = fine && sess_use(w.s, "shim", NULL, 0, &err) == DBRX_OK && disp_moved(w.d) == 2;
    sess_truncate(w.s, N_PROMPT + 2);
    ok(fine && goes_on(w, "shim", 2), "... what was cut is forgotten by the kept one too");
    end(w);
    unsetenv("SHIM_HIDE");
}

/* the current one is lost, other words are said, and back to a kept one: what it holds of the old
 * words is of no use */
static void kept_after_loss(int steered)
{
    static const uint16_t one_expert[8] = { 1, 1, 1, 1, 1, 1, 1, 1 };
    static const struct dbrx_steer steer = { .struct_size = sizeof steer, .top_k = one_expert };
    struct dbrx_error err = { 0 };
    enum sess_finish why;
    const char *const opt[] = { "inject=lost@30", NULL };      /* beyond its opening and the KV it takes over */
    struct world w = begin("ref", NULL, 3), fresh = begin("ref", NULL, 0);
    int fine = sess_use(w.s, "shim", opt, DISP_KEEP, &err) == DBRX_OK;
    while (fine && disp_name(w.d) && w.s->n < MAX_POS)
        fine = draw(w, 1, &why, &err) == DBRX_OK || err.code == DBRX_E_LOST;
    int32_t words[N_PROMPT];
    memcpy(words, prompt, sizeof words);
    words[2] += !steered;
    if (steered) {                         /* the same words, but nothing of it is of use */
        sess_steer(w.s, &steer, 1);
        sess_steer(fresh.s, &steer, 1);
    }
    fine = fine && !disp_name(w.d) && sess_replace(w.s, words, N_PROMPT, &err) == DBRX_OK &&
           sess_use(w.s, "ref", NULL, 0, &err) == DBRX_OK && disp_position(w.d) == (steered ? 0 : 2) && sess_sync(w.s, &err) == DBRX_OK;
    fine = fine && sess_replace(fresh.s, words, N_PROMPT, &err) == DBRX_OK && sess_sync(fresh.s, &err) == DBRX_OK;
    ok(fine && !memcmp(w.s->logits, fresh.s->logits, w.s->n_vocab * sizeof *w.s->logits),
       "after a loss a kept one goes on from the words that are still the same%s", steered ? ", if they are steered the same" : "");
    end(fresh);
    end(w);
}

/* going back to a kept one fails at its N-th call: still on the other, which goes on; and so does
 * the kept one afterwards, if it lives */
static void kept_fails(const char *fault, dbrx_status want)
{
    int fine = 1, reached = 0;
    for (int at = 1; at < 40 / step; at++) {
        char inject[40];
        struct dbrx_error err = { 0 };
        enum sess_finish why;
        const char *const opt[] = { inject, NULL };
        uint32_t n;
        snprintf(inject, sizeof inject, "inject=%s@%d", fault, at + 7 + (int)ck->desc.config.n_layers);   /* opened, 4 evals, exported */
        struct world w = begin("shim", opt, 3);
        fine &= sess_use(w.s, "ref", NULL, DISP_KEEP, &err) == DBRX_OK && draw(w, 3, &why, &err) == DBRX_OK;
        dbrx_status st = sess_use(w.s, "shim", NULL, 0, &err);
        reached += st == want;
        if (st != DBRX_OK && strcmp(disp_name(w.d), "ref"))
            fine = 0;
        if (st != DBRX_OK) {
            int there = disp_kept(w.d, 0, &n) != NULL;
            fine &= st == want && there == (want != DBRX_E_LOST);
            if (there)
                fine &= sess_use(w.s, "shim", NULL, 0, &err) == DBRX_OK && goes_on(w, "shim", 6);
            else
                fine &= goes_on(w, "ref", 6);
        } else {
            fine &= w.s->n == N_PROMPT + 6;
        }
        end(w);
    }
    ok(fine && reached, "going back to a kept one, %s at %d places: it stays, or is closed when it is lost", fault, reached);
}

/* Ctrl-C at every look at it on the way back to a kept one: it is kept still, and takes over later */
static void kept_interrupted(int how)
{
    int fine = 1, at = 1;
    for (; at < 100; at++) {
        struct dbrx_error err = { 0 };
        enum sess_finish why;
        uint32_t n;
        struct world w = begin("shim", NULL, 3);
        fine &= sess_use(w.s, "ref", NULL, DISP_KEEP, &err) == DBRX_OK && draw(w, 3, &why, &err) == DBRX_OK;
        stop_in = at;
        dbrx_status st = sess_use(w.s, "shim", NULL, how, &err);
        stop_in = 0;
        if (st == DBRX_OK) {
            fine &= goes_on(w, "shim", 6);
            end(w);
            break;
        }
        fine &= st == DBRX_STOPPED && !strcmp(disp_name(w.d), "ref") && disp_kept(w.d, 0, &n) &&
                sess_use(w.s, "shim", NULL, 0, &err) == DBRX_OK && goes_on(w, "shim", 6);
        end(w);
    }
    ok(fine && at > 2 && at < 100, "interrupted at any of %d places while a kept one %s: it is kept still", at - 1,
       how ? "recomputes" : "takes what is new");
}

static void too_many(void)
{
    struct dbrx_error err = { 0 };
    struct world w = begin("ref", NULL, 0);
    char opt[24];
    uint32_t n, i;
    int fine = 1;
    for (i = 1; i <= DISP_MAX_KEPT + 1u; i++) {
        snprintf(opt, sizeof opt, "threads=%u", i);
        dbrx_status st = sess_use(w.s, "cpu-blas", (const char *const[]){ opt, NULL }, DISP_KEEP, &err);
        fine &= st == (i <= DISP_MAX_KEPT ? DBRX_OK : DBRX_E_FULL);
    }
    fine &= disp_kept(w.d, DISP_MAX_KEPT - 1, &n) && strstr(err.text, "--drop");
    ok(fine, "no more than %d are kept: %s", DISP_MAX_KEPT, err.text);
    ok(disp_drop(w.d, "nosuch") == 0 && disp_drop(w.d, "ref") == 1 && disp_drop(w.d, NULL) == DISP_MAX_KEPT - 1 &&
       !disp_kept(w.d, 0, &n), "drop closes them");
    end(w);
}

/* ---- a thousand switches ---- */

static unsigned entries(const char *dir)
{
    unsigned n = 0;
    DIR *d = opendir(dir);
    while (d && readdir(d))
        n++;
    if (d)
        closedir(d);
    return n;
}

/* kept and not, copied and recomputed, some that fail: nothing is left behind */
static void thousand(void)
{
    const char *const to[] = { "ref", other, other, "shim", "nosuch", other };
    static const char *const opt[][2] = { { 0 }, { 0 }, { "kv=f16" }, { "inject=nomem@3" }, { 0 }, { "kv=none" } };
    static const int how[] = { 0, DISP_KEEP, 0, 0, DISP_REPLAY, 0, DISP_KEEP };
    struct dbrx_error err = { 0 };
    struct world w = begin("ref", NULL, 6);
    unsigned fds = 0, threads = 0, moved = 0;
    double memory = 0;
    const int rounds = 100 + 1000 / step / step;
    for (int i = 0; i < rounds; i++) {
        if (i == 100)                      /* by now everything was open once */
            fds = entries("/proc/self/fd"), threads = entries("/proc/self/task"), memory = machine_own_memory();
        moved += sess_use(w.s, to[i % 6], opt[i % 6], how[i % 7], &err) == DBRX_OK;
        if (i % 9)
            disp_drop(w.d, NULL);
    }
    int same = sess_use(w.s, "ref", NULL, 0, &err) == DBRX_OK && goes_on(w, "ref", 6);
    disp_drop(w.d, NULL);
    double more = machine_own_memory() - memory;
    ok(same && moved > (unsigned)rounds / 3 && entries("/proc/self/fd") <= fds && entries("/proc/self/task") <= threads && more < 4e6,
       "%d switches (%u done, the others refused) leave no descriptor, no thread, no memory", rounds, moved);
    diag("%u descriptors, %u threads, %+.0f KB", entries("/proc/self/fd"), entries("/proc/self/task"), more / 1e3);
    end(w);
}

/* ---- spans ---- */

static void spans(void)
{
    struct spans s = { 0 }, t;
    char text[80];
    spans_add(&s, 4, 6, "a");
    spans_add(&s, 6, 9, "a");
    spans_add(&s, 9, 10, "b");
    spans_add(&s, 12, 12, "none");
    spans_add(&s, 12, 20, "a");
    spans_text(&s, 0, 99, text, sizeof text);
    ok(s.n == 3 && !strcmp(text, "a 5, b 1, a 8") && !spans_at(&s, 3) && !spans_at(&s, 10) && !strcmp(spans_at(&s, 9), "b"),
       "runs of the same name are one: %s", text);
    spans_copy(&t, &s);
    spans_drop(&t, 5, 6);                  /* [5,11) vanishes: 4 stays, 12.. come to 6 */
    ok(t.n == 2 && t.list[0].end == 5 && t.list[1].from == 6 && t.list[1].end == 14, "what is dropped moves the rest down");
    spans_cut(&s, 9);
    ok(s.n == 1 && s.list[0].end == 9, "what is cut is forgotten");
    spans_cut(&s, 0);
    ok(!s.n, "all of it, too");
    spans_free(&s);
    spans_free(&t);
}

static int violations(const char *log)
{
    char line[500];
    int n = 0, calls = 0;
    FILE *f = fopen(log, "r");
    while (f && fgets(line, sizeof line, f)) {
        calls++;
        if (!strncmp(line, "violation", 9) && n++ < 5)
            diag("%.200s", line);
    }
    if (f)
        fclose(f);
    return calls ? n : -1;
}

/* what is done between ref and each other backend */
static void suite(void)
{
    diag("ref and %s", other);
    for (int how = 0; how <= DISP_REPLAY; how++) {
        faults_in_the_new("lost", how, DBRX_E_LOST, how ? "ref" : other_file);
        faults_in_the_new("nomem", how, DBRX_E_NOMEM, how ? other_file : "ref");
        interrupted(how);
    }
    faults_in_the_new("stop", DISP_REPLAY, DBRX_STOPPED, "ref");
    faults_in_the_old(0);
    faults_in_the_old(DISP_KEEP);
    both_lost();
    lost_in_a_reply();
    same_bits(other, NULL, 0);
    same_bits(other, NULL, DISP_KEEP);
    same_bits(other, (const char *const[]){ "kv=bf16", NULL }, 0);
    same_bits(other, (const char *const[]){ "deterministic=1", NULL }, DISP_REPLAY);
    own_word();
    kept("");
    kept_after_loss(0);
    kept_after_loss(1);
    kept_fails("lost", DBRX_E_LOST);
    kept_fails("nomem", DBRX_E_NOMEM);
    kept_interrupted(0);
    kept_interrupted(DISP_REPLAY);
    thousand();
}

int main(void)
{
    struct dbrx_error err = { 0 };
    enum sess_finish why;
    char dir[4096], path[12400], emulated[4200], log[] = "/tmp/dbrx-shim.XXXXXX";
    int fd = mkstemp(log);
    setenv("SHIM_LOG", log, 1);
    snprintf(dir, sizeof dir, "%s/tests/data/tiny-bf16", getenv("srcdir"));
    snprintf(path, sizeof path, "%s:%s:%s", getenv("SHIMS"), getenv("MODULES"), getenv("EMULATED"));
    snprintf(emulated, sizeof emulated, "%s/cuda-emu.so", getenv("EMULATED"));
    if (fd < 0 || ckpt_open(dir, &ck, &err) != DBRX_OK || modules_scan(&mods, path, &err) != DBRX_OK)
        bail("%s", err.text);
    struct world w = begin("ref", NULL, 0);
    if (draw(w, N, &why, &err) != DBRX_OK)
        bail("%s", err.text);
    memcpy(straight, w.s->token, sizeof straight);
    end(w);

    spans();
    other = other_file = "cpu-blas";
    suite();
    same_bits("ref", NULL, 0);
    same_bits("ref", NULL, DISP_REPLAY);
    kept("dbrx.kv/1");
    kept("extend");
    too_many();

    other = "cuda-emu";
    other_file = emulated;
    setenv("SHIM_OF", emulated, 1);
    step = 4;
    suite();
    unsetenv("SHIM_OF");

    int bad = violations(log);
    ok(bad == 0, "the host kept the contract in all of it (%d violations)", bad);

    /* ... and the shim would have said so */
    const struct dbrx_module_info *shim = NULL;
    for (size_t i = 0; i < mods.n; i++)
        if (mods.list[i].info && !strcmp(mods.list[i].info->name, "shim"))
            shim = mods.list[i].info;
    const struct dbrx_backend *be = shim->get(DBRX_BACKEND);
    const struct dbrx_kv *kv = shim->get(DBRX_KV);
    dbrx_model *m;
    dbrx_session *s;
    const int32_t far = 1 << 30;
    be->model_open(&host, &ck->desc, NULL, &m, &err);
    be->session_open(m, 8, &s, &err);
    be->eval(s, &(struct dbrx_batch){ .struct_size = sizeof(struct dbrx_batch), .n_tokens = 1, .token = &far }, &err);
    kv->commit(s, 99, &err);
    be->model_close(m);                    /* with a session open */
    be->position(s);
    be->session_close(s);
    be->model_close(m);
    ok(violations(log) == 6, "a bad token, a wrong commit, a model closed too early, and three uses after it");
    unlink(log);
    modules_free(&mods);
    ckpt_close(ck);
    return done();
}
