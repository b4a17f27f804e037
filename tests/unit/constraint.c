/* tests/unit/constraint.c -- masks over the bundled vocabulary: the same as trying every
 * token, at every step of random walks; ends, dead ends, and a session that keeps to them. */
#include "backends/model/checkpoint.h"
#include "repl/grammar/grammar.h"
#include "repl/grammar/matcher.h"
#include "repl/grammar/schema.h"
#include "repl/session.h"
#include "tests/quiet_host.h"
#include "tests/tap.h"
#include "tests/unit/tok_fixture.h"

static struct tok *tok;
static uint32_t n_vocab = 4096;
static int32_t eos[2];
static const char json[] =
    "root ::= object\n"
    "value ::= object | array | string | number | (\"true\" | \"false\" | \"null\") ws\n"
    "object ::= \"{\" ws ( string \":\" ws value (\",\" ws string \":\" ws value)* )? \"}\" ws\n"
    "array ::= \"[\" ws ( value (\",\" ws value)* )? \"]\" ws\n"
    "string ::= \"\\\"\" ( [^\"\\\\\\x7F\\x00-\\x1F] | \"\\\\\" ([\"\\\\bfnrt] | \"u\" [0-9a-fA-F]{4}) )* \"\\\"\" ws\n"
    "number ::= (\"-\"? ([0-9] | [1-9] [0-9]{0,15})) (\".\" [0-9]+)? ([eE] [-+]? [0-9] [1-9]{0,15})? ws\n"
    "ws ::= | \" \" | \"\\n\" [ \\t]{0,20}\n";

static struct constraint *make(const char *grammar, const struct trie *trie)
{
    struct rules r = { 0 };
    char err[512];
    if (grammar_parse(&r, "g", grammar, strlen(grammar), err, sizeof err))
        bail("%s", err);
    return constraint_new(&r, trie, eos, 2);
}

static int is_eos(uint32_t id)
{
    return (int32_t)id == eos[0] || (int32_t)id == eos[1];
}

/* Walks at random; at each step every token is tried on a matcher of its own */
static void walk(const char *name, const char *grammar, const struct trie *trie, int walks, int steps)
{
    struct rules r = { 0 };
    struct matcher m;
    struct dbrx_error err;
    char text[512];
    int wrong = 0, checked = 0, ended = 0, partial = 0;
    if (grammar_parse(&r, "g", grammar, strlen(grammar), text, sizeof text) || matcher_init(&m, &r))
        bail("%s", text);
    struct constraint *c = make(grammar, trie);
    for (int w = 0; w < walks && !wrong; w++) {
        uint32_t state = m.start;
        constraint_restart(c);
        for (int i = 0; i < steps && !constraint_complete(c); i++) {
            const uint8_t *banned;
            uint32_t allowed = 0, pick = 0;
            m.work = 0;
            if (constraint_mask(c, &banned, &err) != DBRX_OK)
                bail("%s", err.text);
            for (uint32_t id = 0; id < n_vocab; id++) {
                size_t len, k = 0;
                const char *s = tok_bytes(tok, (int32_t)id, &len);
                uint32_t to = state;
                while (s && k < len && to)
                    to = matcher_next(&m, to, (unsigned char)s[k++]);
                int fits = is_eos(id) ? matcher_can_end(&m, state)
                                      : s && len && to && !tok_is_special(tok, (int32_t)id);
                wrong += fits == banned[id];
                checked++;
                /* any that fits, each as likely; the end is rare */
                if (fits && !is_eos(id) && !rng(++allowed))
                    pick = id;
            }
            if (!allowed) {
                ended++;
                break;
            }
            size_t len;
            const char *s = tok_bytes(tok, (int32_t)pick, &len);
            for (size_t k = 0; k < len; k++)
                state = matcher_next(&m, state, (unsigned char)s[k]);
            partial += (s[len - 1] & 0xc0) == 0xc0 || ((s[0] & 0xc0) == 0x80);
            wrong += constraint_accept(c, (int32_t)pick, &err) != DBRX_OK;
        }
    }
    ok(!wrong, "%s: masks are what trying every token gives (%d tries, %d tokens that cut a character)",
       name, checked, partial);
    (void)ended;
    constraint_free(c);
    matcher_free(&m);
    rules_free(&r);
}

static void test_walks(const struct trie *trie)
{
    walk("JSON", json, trie, 12, 60);
    walk("characters of 1 to 4 bytes", "root ::= [aé€😀-😿]{3,9} \"€\" .*", trie, 15, 30);
    walk("not these", "root ::= ([^a-zé]+ \"é\")*", trie, 10, 30);
    walk("ambiguous", "root ::= (\"a\" | \"aa\" | [a-z] | [a-z] [a-z])* (\" \" root)?", trie, 10, 30);
    walk("nested", "root ::= \"(\" root \")\" | \"[\" root \"]\" root | [a-z ]*", trie, 15, 40);
    walk("counted", "root ::= ([a-z]{2,5} [ .]){4,20}", trie, 10, 30);
}

static void test_ends(const struct trie *trie)
{
    struct dbrx_error err;
    const uint8_t *banned;
    struct constraint *c = make("root ::= [ab]{1,2}", trie);
    int32_t a = -1;
    for (uint32_t i = 0; i < n_vocab; i++) {
        size_t len;
        const char *s = tok_bytes(tok, (int32_t)i, &len);
        if (s && len == 1 && *s == 'a')
            a = (int32_t)i;
    }
    ok(constraint_mask(c, &banned, &err) == DBRX_OK && banned[eos[0]] && banned[eos[1]] && !banned[a] &&
       !constraint_complete(c), "no end before the first character");
    ok(constraint_accept(c, a, &err) == DBRX_OK && constraint_mask(c, &banned, &err) == DBRX_OK &&
       !banned[eos[0]] && !banned[eos[1]] && !banned[a] && !constraint_complete(c), "then it may end or go on");
    ok(constraint_accept(c, eos[1], &err) == DBRX_OK && !constraint_complete(c), "an eos changes nothing");
    ok(constraint_accept(c, a, &err) == DBRX_OK && constraint_complete(c) &&
       constraint_mask(c, &banned, &err) == DBRX_OK && !banned[eos[0]] && banned[a], "then it must end");
    ok(constraint_accept(c, a, &err) == DBRX_E_INVALID && constraint_complete(c), "what does not fit changes "
       "nothing: %s", err.text);
    constraint_restart(c);
    ok(!constraint_complete(c) && constraint_accept(c, a, &err) == DBRX_OK, "and from the start again");
    constraint_free(c);

    struct trie *few = trie_new(tok, 40);
    c = make("root ::= \"zoo\"", few);
    ok(constraint_mask(c, &banned, &err) == DBRX_E_UNSUPPORTED && strstr(err.text, "no token"),
       "a vocabulary that cannot say it: %s", err.text);
    constraint_free(c);
    trie_free(few);

    c = make(json, trie);
    int fine = 1;
    for (int i = 0; i < 3; i++) {
        constraint_restart(c);
        if (i == 2)                        /* states are forgotten all the time, the place is not */
            constraint_keep(c, 1000);
        for (const char *s = "{\"a\":[1,2,{\"b\":\"c d e\"}]"; *s; s++) {
            struct tok_ids ids = { 0 };
            tok_encode(tok, s, 1, TOK_PLAIN, &ids);
            fine &= constraint_mask(c, &banned, &err) == DBRX_OK && !banned[ids.id[0]] &&
                    constraint_accept(c, ids.id[0], &err) == DBRX_OK;
            free(ids.id);
        }
        fine &= constraint_mask(c, &banned, &err) == DBRX_OK && banned[eos[0]];
    }
    ok(fine, "the same again gives the same, also when states are forgotten all the time");
    constraint_free(c);
}

/* ---- a session on the bundled model ---- */

static const struct dbrx_host host = QUIET_HOST(host_never);

static size_t said(const struct sess *s, uint32_t from, char *out)
{
    size_t n = 0, len;
    for (uint32_t i = from; i < s->n; i++) {
        const char *t = is_eos((uint32_t)s->token[i]) ? NULL : tok_bytes(tok, s->token[i], &len);
        if (t)
            memcpy(out + n, t, len), n += len;
    }
    out[n] = '\0';
    return n;
}

static void test_session(const struct trie *trie)
{
    struct dbrx_error err = { 0 };
    struct modules mods = { 0 };
    struct ckpt *ck;
    static char text[1 << 16];
    if (ckpt_open(source_path("models/nano"), &ck, &err) != DBRX_OK ||
        modules_scan(&mods, getenv("MODULES"), &err) != DBRX_OK)
        bail("%s", err.text);
    struct disp *d = disp_new(&ck->desc, &mods, &host, 400);
    struct sess *s = sess_new(d, &ck->desc.config, NULL);
    if (sess_use(s, "cpu-blas", NULL, 0, &err) != DBRX_OK)
        bail("%s", err.text);
    struct tok_ids ids = { 0 };
    tok_encode(tok, "Lily said:", 10, TOK_PLAIN, &ids);
    sess_append(s, ids.id, ids.n, &err);
    struct sess_gen g = { .max_tokens = 120, .eos = eos, .n_eos = 2 };
#define DRAW(...) { .repetition_penalty = 1, .typical_p = 1, .top_p = 1, __VA_ARGS__ }
    static const struct sampler_params params[] = {
        DRAW(.temperature = 0), DRAW(.temperature = 1), DRAW(.temperature = 0.8, .top_k = 40, .min_p = 0.05),
        DRAW(.temperature = 90), DRAW(.temperature = 1, .top_k = 1),
    };
    struct rules check = { 0 };
    struct matcher m;
    static const char grammar[] = "root ::= (\"yes\" | \"no\") (\", \" [a-zé€ ]{1,40}){0,3} [.!]";
    grammar_parse(&check, "g", grammar, strlen(grammar), text, sizeof text);
    matcher_init(&m, &check);
    g.constraint = make(grammar, trie);
    int fine = 1, ended = 0;
    for (int i = 0; i < 40; i++) {
        enum sess_finish why;
        uint32_t state = m.start;
        sess_truncate(s, (uint32_t)ids.n);
        constraint_restart(g.constraint);
        sampler_seed(s->sampler, (uint64_t)i);
        g.sampling = params[i % 5];
        fine &= sess_generate(s, &g, &why, &err) == DBRX_OK;
        size_t n = said(s, (uint32_t)ids.n, text);
        for (size_t k = 0; k < n; k++)
            state = matcher_next(&m, state, (unsigned char)text[k]);
        fine &= why == SESS_EOS ? matcher_can_end(&m, state) : state != MATCH_DEAD;
        ended += why == SESS_EOS;
    }
    ok(fine && ended > 20, "a session keeps to a grammar under every sampling setting (%d of 40 ended), as in: %s",
       ended, text);
    constraint_free(g.constraint);

    g.constraint = make("root ::= \"abc\"", trie);
    enum sess_finish why;
    sess_truncate(s, (uint32_t)ids.n);
    dbrx_status st = sess_generate(s, &g, &why, &err);
    said(s, (uint32_t)ids.n, text);
    ok(st == DBRX_OK && why == SESS_EOS && !strcmp(text, "abc") && !is_eos((uint32_t)s->token[s->n - 1]),
       "when only the end is left, it is the end");
    constraint_free(g.constraint);
    g.max_tokens = 1;
    g.constraint = make("root ::= \"a\"", trie);
    sess_truncate(s, (uint32_t)ids.n);
    ok(sess_generate(s, &g, &why, &err) == DBRX_OK && why == SESS_EOS, "also when max_tokens is reached with it");
    constraint_free(g.constraint);
    g.max_tokens = 100;

    /* what the shell never draws, the grammar cannot ask for */
    uint8_t *never = calloc(n_vocab, 1);
    for (uint32_t i = 0; i < n_vocab; i++) {
        size_t len;
        const char *t = tok_bytes(tok, (int32_t)i, &len);
        never[i] = t && memchr(t, 'b', len);
    }
    struct sess *picky = sess_new(d, &ck->desc.config, never);
    sess_append(picky, ids.id, ids.n, &err);
    g.constraint = make("root ::= \"ab\"", trie);
    st = sess_generate(picky, &g, &why, &err);
    ok(st == DBRX_E_UNSUPPORTED && why == SESS_FAILED && picky->n == ids.n + 1 && strstr(err.text, "can be drawn"),
       "a dead end says so and keeps what was said: %s", err.text);
    constraint_free(g.constraint);
    sess_free(picky);
    free(never);
    free(ids.id);
    matcher_free(&m);
    rules_free(&check);
    sess_free(s);
    disp_free(d);
    modules_free(&mods);
    ckpt_close(ck);
}

int main(void)
{
    tok = open_or_die(source_path("models/nano"));
    eos[0] = tok_special(tok, "<|endoftext|>");
    eos[1] = tok_special(tok, "<|im_end|>");
    struct trie *trie = trie_new(tok, n_vocab);
    test_walks(trie);
    test_ends(trie);
    test_session(trie);
    trie_free(trie);
    tok_close(tok);
    return done();
}
