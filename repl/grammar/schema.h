/* repl/grammar/schema.h -- JSON Schema (a subset, docs/grammar.md) to GBNF.
 *
 * What is not supported is refused by name and place, never ignored: text that matches
 * the grammar is valid under the schema.  Knows no files and no tokens. */
#ifndef DBRX_REPL_SCHEMA_H
#define DBRX_REPL_SCHEMA_H

#include "repl/grammar/rules.h"

enum {
    SCHEMA_MAX_BYTES      = 1 << 18,
    SCHEMA_MAX_PROPERTIES = 500,           /* of one object, and values of one enum      */
    SCHEMA_MAX_DEPTH      = 100,           /* schemas in schemas                         */
};

/* The grammar, NUL-terminated, free() it; NULL and one sentence in err: "NAME:LINE:COLUMN: ..."
 * where it is no JSON, "NAME: /properties/a/not: ..." where it is. */
char *schema_to_gbnf(const char *name, const char *text, size_t len, char *err, size_t errlen);
/* ... and its rules, into a zeroed struct; 0 or -1. */
int schema_rules(struct rules *, const char *name, const char *text, size_t len, char *err, size_t errlen);

#endif
