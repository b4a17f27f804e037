/* repl/grammar/schema_parts.h -- what the files that turn a schema into a grammar share. */
#ifndef DBRX_REPL_SCHEMA_PARTS_H
#define DBRX_REPL_SCHEMA_PARTS_H

#include "repl/grammar/charset.h"
#include "repl/grammar/schema.h"

#include <cjson/cJSON.h>
#include <stdint.h>

/* Text that grows; what does not fit is dropped and `failed`. */
struct text { char *s; size_t n, cap; int failed; };
__attribute__((format(printf, 2, 3)))
void text_add(struct text *, const char *fmt, ...);
void text_quote(struct text *, const char *s, size_t n);         /* as a literal of GBNF */
void text_free(struct text *);

/* A way from the root to where we are, for messages; lives on the stack. */
struct place {
    const struct place *up;                /* NULL: the root, or what a $ref points at   */
    const char *key;                       /* NULL: an index                             */
    int index, depth;
};
struct place place_key(const struct place *up, const char *key);
struct place place_index(const struct place *up, int index);

struct schema {
    cJSON *root, *made;                    /* the file; what was merged, kept to the end */
    struct text out;                       /* the rules so far                           */
    struct known { const cJSON *child; unsigned rule; } *known;    /* [known_mask + 1], by members: rules that exist */
    size_t n_known, known_mask;
    struct later { const cJSON *s; char *pointer; unsigned rule; } *later; /* [n_later] targets of $ref to do */
    size_t n_later, cap_later;
    unsigned n_rule;
    size_t work;                           /* members looked at while merging            */
    const char *name;
    char *err;                             /* [errlen]                                   */
    size_t errlen;
};

/* The sentence, with the place in front; -1 */
__attribute__((format(printf, 3, 4)))
int schema_bad(struct schema *, const struct place *, const char *fmt, ...);
/* Names the rule for this schema, which is made if it is not there yet.  0 or -1. */
int schema_use(struct schema *, const cJSON *, const struct place *, struct text *);
/* A member as a count; fallback if it is not there; -1: no count */
int64_t schema_count(struct schema *, const cJSON *, const char *key, const struct place *, int64_t fallback);

/* What a keyword is about: a type, or one of these. */
enum { ABOUT_UNKNOWN = -2, ABOUT_NOTHING = -1, ABOUT_ALL = 0 };
int schema_about(const char *key);
/* What a $ref points at; NULL after saying that there is nothing. */
const cJSON *schema_target(struct schema *, const cJSON *ref, const struct place *);
/* The rules of "anyOf" or "oneOf", of "allOf", with what stands beside it. */
int schema_any_of(struct schema *, const cJSON *, const char *key, const struct place *, struct text *);
int schema_all_of(struct schema *, const cJSON *, const struct place *, struct text *);

/* Each writes what a value of its type looks like. */
int schema_object(struct schema *, const cJSON *, const struct place *, struct text *);
int schema_array(struct schema *, const cJSON *, const struct place *, struct text *);
int schema_string(struct schema *, const cJSON *, const struct place *, struct text *);
int schema_integer(struct schema *, const cJSON *, const struct place *, struct text *);
int schema_number(struct schema *, const cJSON *, const struct place *, struct text *);

/* The text of a string, without quotes, that a regular expression matches */
int schema_pattern(struct schema *, const char *regex, const struct place *, struct text *);
/* One character of a JSON string out of a set, escaped where JSON asks for it */
void schema_set(struct text *, const struct charset *);

extern const char schema_base_rules[];     /* string, number, value, ws ... */

#endif
