/* repl/grammar/grammar.h -- grammars in GBNF, the notation of llama.cpp: text to rules.
 *
 *     root   ::= "yes" | "no" reason?      # docs/grammar.md has it all
 *     reason ::= ", " [a-z ]{1,40} "."
 *
 * Knows no files and no tokens.  What a stranger's grammar can cost is bounded: see
 * RULES_MAX_ELEMENTS and the limits here. */
#ifndef DBRX_REPL_GRAMMAR_H
#define DBRX_REPL_GRAMMAR_H

#include "repl/grammar/rules.h"

enum {
    GRAMMAR_MAX_BYTES  = 1 << 20,
    GRAMMAR_MAX_DEPTH  = 200,              /* parentheses in parentheses */
    GRAMMAR_MAX_REPEAT = 65535,            /* x{n,m}                     */
};

/* Fills zeroed rules from text[len].  0, or -1 with "NAME:LINE:COLUMN: one sentence" in err
 * and nothing to free.  Columns count characters. */
int grammar_parse(struct rules *, const char *name, const char *text, size_t len,
                  char *err, size_t errlen);

#endif
