/* tests/fuzz/grammar.c -- a stranger's grammar or schema, and text to follow it with.
 *
 * The first byte chooses GBNF or JSON Schema; what stands behind the first NUL is followed.
 * For libFuzzer:  clang -g -O1 -fsanitize=fuzzer,address,undefined -I. tests/fuzz/grammar.c
 *     repl/grammar/{charset,rules,grammar,matcher}.c repl/grammar/schema*.c -lcjson -lm */
#include "repl/grammar/grammar.h"
#include "repl/grammar/matcher.h"
#include "repl/grammar/schema.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (!size)
        return 0;
    const char *text = (const char *)data + 1, *end = memchr(text, 0, size - 1);
    size_t len = end ? (size_t)(end - text) : size - 1;
    struct rules r = { 0 };
    struct matcher m;
    char err[512];
    int schema = *data & 1;
    char *copy = malloc(len + 1);          /* no NUL behind it, so that overruns show */
    memcpy(copy, text, len);
    err[0] = '\0';
    if ((schema ? schema_rules : grammar_parse)(&r, "f", copy, len, err, sizeof err)) {
        if (!err[0] || strlen(err) >= sizeof err || r.elem)
            abort();
    } else if (!matcher_init(&m, &r)) {
        uint32_t state = m.start;
        m.work_limit = 1 << 20;
        for (size_t i = len + 2; i < size && state; i++)
            state = matcher_next(&m, state, data[i]);
        /* and as text of its own making: always some way on, unless it can end */
        state = m.start;
        m.work = 0;
        for (int i = 0; i < 200 && !m.failed && matcher_can_go_on(&m, state); i++) {
            uint32_t next = MATCH_DEAD;
            for (int b = 0; b < 256 && !next; b++)
                next = matcher_next(&m, state, (unsigned char)(b + i * 37 + (int)size));
            if (!next && !m.failed)
                abort();                   /* it said that it can go on */
            state = next;
        }
        matcher_free(&m);
        rules_free(&r);
    }
    free(copy);
    return 0;
}
