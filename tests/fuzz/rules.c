/* tests/fuzz/rules.c -- a stranger's grammar or schema, a NUL, and text to follow it with. */
#include "tests/fuzz/fuzz.h"

#include "repl/grammar/grammar.h"
#include "repl/grammar/matcher.h"
#include "repl/grammar/schema.h"

#include <stdlib.h>
#include <string.h>

static void follow(const struct rules *r, const uint8_t *text, size_t n, size_t seed)
{
    struct matcher m;
    if (matcher_init(&m, r))
        return;
    uint32_t state = m.start;
    m.work_limit = 1 << 20;
    for (size_t i = 0; i < n && state; i++)
        state = matcher_next(&m, state, text[i]);
    /* and as text of its own making: always some way on, unless it can end */
    state = m.start;
    m.work = 0;
    for (size_t i = 0; i < 200 && !m.failed && matcher_can_go_on(&m, state); i++) {
        uint32_t next = MATCH_DEAD;
        for (size_t b = 0; b < 256 && !next; b++)
            next = matcher_next(&m, state, (unsigned char)(b + i * 37 + seed));
        MUST(next || m.failed);            /* it said that it can go on */
        state = next;
    }
    matcher_free(&m);
}

static void run(const uint8_t *data, size_t size,
                int (*read)(struct rules *, const char *, const char *, size_t, char *, size_t))
{
    struct rules r = { 0 };
    char err[512] = "";
    size_t len, n;
    const uint8_t *rest;
    char *text = fuzz_head(data, size, &len, &rest, &n);
    if (read(&r, "f", text, len, err, sizeof err)) {
        MUST(!r.elem);
        fuzz_said(err, sizeof err);
    } else {
        follow(&r, rest, n, size);
        rules_free(&r);
    }
    free(text);
}

static void grammar(const uint8_t *data, size_t size)
{
    run(data, size, grammar_parse);
}

static void schema(const uint8_t *data, size_t size)
{
    run(data, size, schema_rules);
}

const struct fuzz_target fuzz_rules[] = { { "grammar", grammar }, { "schema", schema }, { NULL, NULL } };
