/* tests/fuzz/texts.c -- strangers' vocabularies and chat templates, and any text at all.
 *
 * Text comes back from its tokens as it went in; is cut as PCRE2 reads the pattern, where that
 * library is (and knows the characters: its Unicode is older); and never becomes a control
 * token that nobody gave. */
#define _GNU_SOURCE
#include "config.h"

#include "tests/fuzz/fuzz.h"

#include "tokenizer/chat.h"
#include "tokenizer/pretok.h"
#include "tokenizer/tokenizer.h"
#include "tokenizer/utf8.h"

#include <stdlib.h>
#include <string.h>

/* The bytes that ids come back as, whole; in pieces they are the same */
static char *decoded(const struct tok *t, const struct tok_ids *ids, size_t *n)
{
    size_t cap = 16, len;
    struct tok_stream s = { { 0 }, 0 };
    for (size_t i = 0; i < ids->n; i++) {
        tok_bytes(t, ids->id[i], &len);
        cap += 3 * len + 12;
    }
    char *out = malloc(cap);
    *n = 0;
    for (size_t i = 0; i < ids->n; i++) {
        const char *bytes = tok_bytes(t, ids->id[i], &len);
        *n += tok_stream_push(&s, bytes, len, out + *n);
    }
    *n += tok_stream_end(&s, out + *n);
    MUST(*n <= cap);
    return out;
}

/* text as the encoder takes it: U+FFFD where it is no UTF-8 */
static char *repaired(const char *text, size_t len, size_t *n)
{
    char *out = malloc(3 * len + 12);
    struct tok_stream s = { { 0 }, 0 };
    *n = tok_stream_push(&s, text, len, out);
    *n += tok_stream_end(&s, out + *n);
    return out;
}

/* exact: the vocabulary is known to be sound, so what comes back is what went in */
static void round_trip(const struct tok *t, const char *text, size_t len, int exact)
{
    size_t n_there, n_back;
    char *there = repaired(text, len, &n_there);
    for (int mode = TOK_PLAIN; mode <= TOK_SPECIAL; mode++) {
        struct tok_ids ids = { 0 };
        MUST(!tok_encode(t, text, len, mode, &ids));
        for (size_t i = 0; i < ids.n; i++)
            MUST(ids.id[i] >= 0 && ids.id[i] < tok_n_vocab(t) && (mode == TOK_SPECIAL || !tok_is_special(t, ids.id[i])));
        char *back = decoded(t, &ids, &n_back);
        MUST(!exact || (n_back == n_there && !memcmp(back, there, n_back)));
        free(back);
        free(ids.id);
    }
    free(there);
}

static void open_file(const char *name, int exact)
{
    static const char text[] = "Once upon a time, I'LL see 12345\r\n\t\"\xc3\xa9\xe4\xb8\xad\" <|im_end|> \xff";
    char err[300];
    struct tok *t = tok_open(fuzz_path(name), err, sizeof err);
    if (!t) {
        fuzz_said(err, sizeof err);
        return;
    }
    round_trip(t, text, sizeof text - 1, exact);
    char *spelling = NULL;
    for (int32_t id = 0; id < tok_n_vocab(t) && id < 2000; id++) {
        size_t len;
        tok_bytes(t, id, &len);
        spelling = realloc(spelling, 2 * len + 1);
        MUST(tok_spell(t, id, spelling) <= 2 * len);
    }
    free(spelling);
    size_t n;
    struct tok_merge *m = tok_merges(t, &n);
    MUST(m);
    free(m);
    tok_close(t);
}

static void tokenizer_json(const uint8_t *data, size_t size)
{
    fuzz_put("tokenizer.json", data, size);
    open_file("tokenizer.json", 0);
}

static void tiktoken(const uint8_t *data, size_t size)
{
    fuzz_put("t.tiktoken", data, size);
    open_file("t.tiktoken", 1);
}

static const struct tok *nano(void)
{
    static struct tok *t;
    char err[300];
    if (!t)
        MUST(t = tok_open(fuzz_source("models/nano/tokenizer.json"), err, sizeof err));
    return t;
}

static void bpe(const uint8_t *data, size_t size)
{
    char *text = malloc(size ? size : 1);
    memcpy(text, data, size);
    round_trip(nano(), text, size, 1);
    free(text);
}

/* tokenizer_config.json, a NUL, what somebody says */
static void chat(const uint8_t *data, size_t size)
{
    struct chat c;
    size_t len, n;
    const uint8_t *rest;
    char err[300], *config = fuzz_head(data, size, &len, &rest, &n);
    fuzz_put("tokenizer_config.json", config, len);
    if (chat_open(fuzz_dir(), &c, err, sizeof err))
        fuzz_said(err, sizeof err);
    chat_close(&c);
    free(config);
    static const char *const roles[] = { "system", "user", "assistant" };
    const struct tok *t = nano();
    struct tok_ids ids = { 0 };
    size_t special = 0;
    for (int i = 0; i < 3; i++)
        MUST(!chat_message(t, roles[i], (const char *)rest, n, !i, TOK_PLAIN, &ids));
    for (size_t i = 0; i < ids.n; i++)
        special += (size_t)tok_is_special(t, ids.id[i]);
    MUST(special == 6 && !chat_reply(t, &ids));
    free(ids.id);
}

#ifdef HAVE_PCRE2
#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

static pcre2_code *compiled(const char *pattern)
{
    int code;
    PCRE2_SIZE at;
    pcre2_code *re = pcre2_compile((PCRE2_SPTR)pattern, PCRE2_ZERO_TERMINATED, PCRE2_UTF | PCRE2_UCP, &code, &at, NULL);
    MUST(re);
    return re;
}

static void pretok(const uint8_t *data, size_t size)
{
    static pcre2_code *cl100k, *unknown;
    static pcre2_match_data *match;
    size_t n, at = 0;
    if (!cl100k) {
        /* \s here is Unicode's White_Space, which PCRE2's \s is short of U+0085 and some */
        cl100k = compiled("(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}"
                          "| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+");
        unknown = compiled("\\p{Cn}");
        match = pcre2_match_data_create(8, NULL);
    }
    char *text = repaired((const char *)data, size, &n);
    if (pcre2_match(unknown, (PCRE2_SPTR)text, n, 0, 0, match, NULL) < 0)
        while (at < n) {
            const char *end = pretok_next(text + at, text + n);
            MUST(pcre2_match(cl100k, (PCRE2_SPTR)text, n, at, PCRE2_ANCHORED, match, NULL) > 0);
            size_t want = pcre2_get_ovector_pointer(match)[1];
            MUST(end > text + at && (size_t)(end - text) == want);
            at = want;
        }
    free(text);
}
#else
/* Pieces are never empty, and leave nothing out */
static void pretok(const uint8_t *data, size_t size)
{
    size_t n;
    char *text = repaired((const char *)data, size, &n);
    for (const char *s = text, *end; s < text + n; s = end)
        MUST((end = pretok_next(s, text + n)) > s && end <= text + n);
    free(text);
}
#endif

const struct fuzz_target fuzz_texts[] = {
    { "tokenizer", tokenizer_json }, { "tiktoken", tiktoken }, { "bpe", bpe }, { "pretok", pretok },
    { "chat", chat }, { NULL, NULL } };
