/* repl/grammar/schema.c -- a schema's keywords, and how schemas combine: $ref, enum, anyOf, allOf.
 * What a type looks like is in schema_object.c and schema_text.c.  See schema.h. */
#include "repl/grammar/schema_parts.h"

#include "repl/grammar/grammar.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { STRING = 1, NUMBER = 2, INTEGER = 4, BOOLEAN = 8, NOTHING = 16, ARRAY = 32, OBJECT = 64 };
static const struct { const char *name; unsigned bit; } types[] = {
    { "object", OBJECT }, { "array", ARRAY }, { "string", STRING }, { "integer", INTEGER },
    { "number", NUMBER }, { "boolean", BOOLEAN }, { "null", NOTHING },
};
enum { N_TYPES = sizeof types / sizeof *types };

/* What is known.  A keyword that is about one type implies it where "type" is missing. */
static const struct { const char *name; int about; } keywords[] = {
    { "$schema", ABOUT_NOTHING }, { "$id", ABOUT_NOTHING }, { "$comment", ABOUT_NOTHING },
    { "title", ABOUT_NOTHING }, { "description", ABOUT_NOTHING }, { "default", ABOUT_NOTHING },
    { "examples", ABOUT_NOTHING }, { "deprecated", ABOUT_NOTHING }, { "readOnly", ABOUT_NOTHING },
    { "writeOnly", ABOUT_NOTHING }, { "$defs", ABOUT_NOTHING }, { "definitions", ABOUT_NOTHING },
    { "type", ABOUT_ALL }, { "enum", ABOUT_ALL }, { "const", ABOUT_ALL }, { "$ref", ABOUT_ALL },
    { "anyOf", ABOUT_ALL }, { "oneOf", ABOUT_ALL }, { "allOf", ABOUT_ALL },
    { "properties", OBJECT }, { "required", OBJECT }, { "additionalProperties", OBJECT },
    { "items", ARRAY }, { "prefixItems", ARRAY }, { "minItems", ARRAY }, { "maxItems", ARRAY },
    { "uniqueItems", ARRAY },
    { "minLength", STRING }, { "maxLength", STRING }, { "pattern", STRING }, { "format", STRING },
    { "minimum", NUMBER }, { "maximum", NUMBER }, { "exclusiveMinimum", NUMBER },
    { "exclusiveMaximum", NUMBER },
};
enum { N_KEYWORDS = sizeof keywords / sizeof *keywords };

int schema_about(const char *key)
{
    for (int i = 0; i < N_KEYWORDS; i++)
        if (!strcmp(keywords[i].name, key))
            return keywords[i].about;
    return ABOUT_UNKNOWN;
}

/* ---- text, places, messages ---- */

void text_add(struct text *t, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    int n = vsnprintf(NULL, 0, fmt, ap);
    va_end(ap);
    if (n < 0 || t->failed || t->n + (size_t)n > GRAMMAR_MAX_BYTES) {
        t->failed = 1;
        return;
    }
    if (t->n + (size_t)n + 1 > t->cap) {
        size_t cap = 2 * (t->n + (size_t)n) + 64;
        char *s = realloc(t->s, cap);
        if (!s) {
            t->failed = 1;
            return;
        }
        t->s = s;
        t->cap = cap;
    }
    va_start(ap, fmt);
    vsnprintf(t->s + t->n, (size_t)n + 1, fmt, ap);
    va_end(ap);
    t->n += (size_t)n;
}

void text_quote(struct text *t, const char *s, size_t n)
{
    text_add(t, "\"");
    for (size_t i = 0, run; i < n; i += run) {
        run = 0;
        while (i + run < n && !strchr("\"\\", s[i + run]) && (unsigned char)s[i + run] >= ' ')
            run++;
        if (run)
            text_add(t, "%.*s", (int)run, s + i);
        else if ((unsigned char)s[i] < ' ')
            text_add(t, "\\x%02x", (unsigned char)s[i]), run = 1;
        else
            text_add(t, "\\%c", s[i]), run = 1;
    }
    text_add(t, "\"");
}

void text_free(struct text *t)
{
    free(t->s);
    *t = (struct text){ 0 };
}

struct place place_key(const struct place *up, const char *key)
{
    return (struct place){ up, key, 0, up->depth + 1 };
}

struct place place_index(const struct place *up, int index)
{
    return (struct place){ up, NULL, index, up->depth + 1 };
}

static void print_place(struct text *t, const struct place *p)
{
    if (p->up) {
        print_place(t, p->up);
        text_add(t, "/");
    }
    size_t n = p->key ? strlen(p->key) : 0;
    if (n > 80)
        for (n = 80; (p->key[n] & 0xc0) == 0x80; n--)
            ;
    if (p->key)
        text_add(t, "%.*s", (int)n, p->key);
    else
        text_add(t, "%d", p->index);
}

int schema_bad(struct schema *x, const struct place *at, const char *fmt, ...)
{
    struct text path = { 0 };
    print_place(&path, at);
    int n = snprintf(x->err, x->errlen, "%s: %.200s: ", x->name, path.n ? path.s : "/");
    text_free(&path);
    va_list ap;
    va_start(ap, fmt);
    if (n >= 0 && (size_t)n < x->errlen)
        vsnprintf(x->err + n, x->errlen - (size_t)n, fmt, ap);
    va_end(ap);
    return -1;
}

static const cJSON *get(const cJSON *s, const char *key)
{
    return cJSON_GetObjectItemCaseSensitive(s, key);
}

int64_t schema_count(struct schema *x, const cJSON *s, const char *key, const struct place *at,
                     int64_t fallback)
{
    const cJSON *n = get(s, key);
    struct place here = place_key(at, key);
    if (!n)
        return fallback;
    if (!cJSON_IsNumber(n) || n->valuedouble < 0 || n->valuedouble != floor(n->valuedouble))
        return schema_bad(x, &here, "expected a count");
    if (n->valuedouble > GRAMMAR_MAX_REPEAT)
        return schema_bad(x, &here, "at most %d is possible", GRAMMAR_MAX_REPEAT);
    return (int64_t)n->valuedouble;
}

/* ---- rules by schema ---- */

static size_t pointer_hash(const void *p)
{
    return (size_t)((uint64_t)(uintptr_t)p * 0x9e3779b97f4a7c15u >> 20);
}

/* Where the rule of a schema with these members is noted; NULL: out of memory.  References
 * and merged copies share members, and so rules. */
static struct known *know(struct schema *x, const cJSON *child)
{
    if (2 * x->n_known >= x->known_mask) {
        size_t mask = x->known_mask ? 4 * x->known_mask + 3 : 63;
        struct known *table = calloc(mask + 1, sizeof *table);
        if (!table)
            return NULL;
        for (size_t i = 0; x->known && i <= x->known_mask; i++) {
            size_t h = pointer_hash(x->known[i].child) & mask;
            while (x->known[i].child && table[h].child)
                h = (h + 1) & mask;
            if (x->known[i].child)
                table[h] = x->known[i];
        }
        free(x->known);
        x->known = table;
        x->known_mask = mask;
    }
    size_t h = pointer_hash(child) & x->known_mask;
    while (x->known[h].child && x->known[h].child != child)
        h = (h + 1) & x->known_mask;
    return &x->known[h];
}

static int body(struct schema *, const cJSON *, const struct place *, struct text *);

static int write_rule(struct schema *x, unsigned rule, const cJSON *s, const struct place *at)
{
    struct text t = { 0 };
    int failed = body(x, s, at, &t);
    if (!failed) {
        struct text path = { 0 };
        print_place(&path, at);
        for (size_t i = 0; i < path.n; i++)            /* a comment is one line */
            path.s[i] = (unsigned char)path.s[i] < ' ' ? '?' : path.s[i];
        text_add(&x->out, "# %s\ns%u ::= %s\n", path.n ? path.s : "/", rule, t.n ? t.s : "\"\"");
        x->out.failed |= path.failed;
        text_free(&path);
    }
    if (!failed && (t.failed || x->out.failed))
        failed = schema_bad(x, at, "the schema is too large: its grammar has more than %d bytes",
                            GRAMMAR_MAX_BYTES);
    text_free(&t);
    return failed;
}

int schema_use(struct schema *x, const cJSON *s, const struct place *at, struct text *out)
{
    if (cJSON_IsTrue(s) || (cJSON_IsObject(s) && !s->child)) {
        text_add(out, "value");
        return 0;
    }
    if (cJSON_IsFalse(s))
        return schema_bad(x, at, "false allows nothing, which cannot be generated");
    if (!cJSON_IsObject(s))
        return schema_bad(x, at, "expected a schema: an object, true or false");
    if (at->depth > SCHEMA_MAX_DEPTH)
        return schema_bad(x, at, "more than %d levels", SCHEMA_MAX_DEPTH);
    struct known *k = know(x, s->child);
    if (!k)
        return schema_bad(x, at, "out of memory");
    unsigned rule = k->rule;
    if (!k->child) {
        rule = ++x->n_rule;
        *k = (struct known){ s->child, rule };
        x->n_known++;
        if (write_rule(x, rule, s, at))
            return -1;
    }
    text_add(out, "s%u", rule);
    return 0;
}

/* ---- $ref ---- */

/* Targets are done later, from the top: a chain of references is no recursion of ours */
static int reference(struct schema *x, const cJSON *s, const struct place *at, struct text *out)
{
    const cJSON *ref = get(s, "$ref"), *to = schema_target(x, ref, at);
    if (!to)
        return -1;
    if (!cJSON_IsObject(to) || !to->child) {
        struct place there = { NULL, ref->valuestring + 1, 0, 0 };
        return schema_use(x, to, &there, out);
    }
    struct known *k = know(x, to->child);
    if (k && !k->child) {
        if (x->n_later == x->cap_later) {
            size_t cap = 2 * x->cap_later + 16;
            struct later *later = realloc(x->later, cap * sizeof *later);
            if (!later)
                return schema_bad(x, at, "out of memory");
            x->later = later;
            x->cap_later = cap;
        }
        *k = (struct known){ to->child, ++x->n_rule };
        x->n_known++;
        x->later[x->n_later++] = (struct later){ to, ref->valuestring + 1, k->rule };
    }
    if (!k)
        return schema_bad(x, at, "out of memory");
    text_add(out, "s%u", k->rule);
    return 0;
}

/* ---- enum and const ---- */

static void literal(struct text *out, const cJSON *v)
{
    const cJSON *e;
    const char *comma = "";
    char *json;
    if (cJSON_IsArray(v) || cJSON_IsObject(v)) {
        text_add(out, cJSON_IsArray(v) ? "\"[\" ws " : "\"{\" ws ");
        cJSON_ArrayForEach(e, v) {
            text_add(out, "%s", comma);
            if (e->string) {
                cJSON key = { .type = cJSON_String, .valuestring = e->string };
                literal(out, &key);
                text_add(out, "\":\" ws ");
            }
            literal(out, e);
            comma = "\",\" ws ";
        }
        text_add(out, cJSON_IsArray(v) ? "ws \"]\" " : "ws \"}\" ");
    } else if ((json = cJSON_PrintUnformatted(v))) {
        text_quote(out, json, strlen(json));
        text_add(out, " ");
        free(json);
    } else {
        out->failed = 1;
    }
}

static int exact(const cJSON *v)
{
    const cJSON *e;
    int fine = !cJSON_IsNumber(v) || fabs(v->valuedouble) <= 0x1p53;
    if (cJSON_IsArray(v) || cJSON_IsObject(v))
        cJSON_ArrayForEach(e, v)
            fine = fine && exact(e);
    return fine;
}

static unsigned type_of(const cJSON *v)
{
    return cJSON_IsString(v) ? STRING : cJSON_IsBool(v) ? BOOLEAN : cJSON_IsNull(v) ? NOTHING
         : cJSON_IsArray(v) ? ARRAY : cJSON_IsObject(v) ? OBJECT
         : v->valuedouble == floor(v->valuedouble) ? NUMBER | INTEGER : NUMBER;
}

static int one_value(struct schema *x, const cJSON *v, unsigned allowed, const struct place *at,
                     struct text *out, const char **sep)
{
    if (!exact(v))
        return schema_bad(x, at, "numbers beyond 2^53 cannot be told apart");
    if (type_of(v) & allowed) {
        text_add(out, "%s", *sep);
        literal(out, v);
        *sep = "| ";
    }
    return 0;
}

static int enumeration(struct schema *x, const cJSON *s, unsigned allowed, const struct place *at,
                       struct text *out)
{
    const cJSON *list = get(s, "enum"), *only = get(s, "const"), *v;
    struct place here = place_key(at, list ? "enum" : "const");
    const char *sep = "";
    int i = 0;
    if (list && (!cJSON_IsArray(list) || !list->child))
        return schema_bad(x, &here, "expected a list of values");
    if (list && cJSON_GetArraySize(list) > SCHEMA_MAX_PROPERTIES)
        return schema_bad(x, &here, "at most %d values are possible", SCHEMA_MAX_PROPERTIES);
    if (only && one_value(x, only, allowed, &here, out, &sep))
        return -1;
    if (list)
        cJSON_ArrayForEach(v, list) {
            struct place there = place_index(&here, i++);
            if (one_value(x, v, allowed, &there, out, &sep))
                return -1;
        }
    return *sep ? 0 : schema_bad(x, &here, "no value here has the type asked for");
}

/* ---- types ---- */

/* "type" as bits, or what the keywords imply; 0 after saying what is wrong */
static unsigned type_bits(struct schema *x, const cJSON *s, const struct place *at)
{
    const cJSON *type = get(s, "type"), *t = cJSON_IsArray(type) ? type->child : type, *k;
    struct place here = place_key(at, "type");
    unsigned bits = 0;
    if (!type) {
        cJSON_ArrayForEach(k, s)
            for (int i = 0; i < N_KEYWORDS; i++)
                if (keywords[i].about > 0 && !strcmp(keywords[i].name, k->string))
                    bits |= (unsigned)keywords[i].about;
        if (bits & (bits - 1))
            schema_bad(x, at, "\"type\" is missing, and the keywords are about several");
        return bits & (bits - 1) ? 0 : bits ? bits : 127u;
    }
    for (; t; t = cJSON_IsArray(type) ? t->next : NULL) {
        const char *name = cJSON_GetStringValue(t);
        int i = 0;
        while (i < N_TYPES && name && strcmp(types[i].name, name))
            i++;
        if (!name || i == N_TYPES)
            return schema_bad(x, &here, "there is no type \"%.40s\"", name ? name : "?"), 0;
        bits |= types[i].bit;
    }
    if (!bits)
        schema_bad(x, &here, "expected a type or a list of types");
    return bits & NUMBER ? bits & ~(unsigned)INTEGER : bits;
}

static int by_type(struct schema *x, const cJSON *s, unsigned bits, const struct place *at, struct text *out)
{
    const char *sep = "";
    for (int i = 0; i < N_TYPES; i++) {
        if (!(bits & types[i].bit))
            continue;
        text_add(out, "%s", sep);
        sep = " | ";
        int failed = 0;
        switch (types[i].bit) {
        case OBJECT:  failed = schema_object(x, s, at, out); break;
        case ARRAY:   failed = schema_array(x, s, at, out); break;
        case STRING:  failed = schema_string(x, s, at, out); break;
        case INTEGER: failed = schema_integer(x, s, at, out); break;
        case NUMBER:  failed = schema_number(x, s, at, out); break;
        case BOOLEAN: text_add(out, "\"true\" | \"false\""); break;
        default:      text_add(out, "\"null\""); break;
        }
        if (failed)
            return -1;
    }
    return 0;
}

/* ---- a schema ---- */

static int check_keywords(struct schema *x, const cJSON *s, const struct place *at)
{
    const cJSON *k;
    int whole = get(s, "$ref") || get(s, "enum") || get(s, "const");
    cJSON_ArrayForEach(k, s) {
        struct place here = place_key(at, k->string);
        int what = schema_about(k->string);
        if (what == ABOUT_UNKNOWN)
            return schema_bad(x, &here, "\"%.40s\" is not supported", k->string);
        if (get(s, k->string) != k)
            return schema_bad(x, &here, "this is given twice");
        int fine = what == ABOUT_NOTHING || !strcmp(k->string, "$ref") || !strcmp(k->string, "enum") ||
                   !strcmp(k->string, "const") || !strcmp(k->string, "type");
        if (whole && !fine)
            return schema_bad(x, &here, "\"%.40s\" is not supported beside $ref, enum and const", k->string);
    }
    if (whole && !!get(s, "$ref") + !!get(s, "enum") + !!get(s, "const") + (get(s, "$ref") && get(s, "type")) > 1)
        return schema_bad(x, at, "$ref, enum and const are not supported beside each other, nor $ref beside type");
    return 0;
}

static int body(struct schema *x, const cJSON *s, const struct place *at, struct text *out)
{
    if (check_keywords(x, s, at))
        return -1;
    if (get(s, "$ref"))
        return reference(x, s, at, out);
    if (get(s, "allOf"))
        return schema_all_of(x, s, at, out);
    if (get(s, "anyOf"))
        return schema_any_of(x, s, "anyOf", at, out);
    if (get(s, "oneOf"))
        return schema_any_of(x, s, "oneOf", at, out);
    unsigned bits = type_bits(x, s, at);
    if (!bits)
        return -1;
    if (get(s, "enum") || get(s, "const"))
        return enumeration(x, s, bits, at, out);
    if (bits == 127) {
        text_add(out, "value");
        return 0;
    }
    return by_type(x, s, bits, at, out);
}

/* ---- a file ---- */

static int not_json(struct schema *x, const char *text, const char *at, const char *what)
{
    unsigned line = 1, column = 1;
    for (const char *p = text; p < at; p++) {
        column += (*p & 0xc0) != 0x80;
        if (*p == '\n') {
            line++;
            column = 1;
        }
    }
    snprintf(x->err, x->errlen, "%s:%u:%u: %s", x->name, line, column, what);
    return -1;
}

static int read_json(struct schema *x, const char *text, size_t len)
{
    const char *end = text + len, *p;
    size_t n;
    if (len > SCHEMA_MAX_BYTES) {
        snprintf(x->err, x->errlen, "%s: the schema has more than %d bytes", x->name, SCHEMA_MAX_BYTES);
        return -1;
    }
    for (p = text; p < end; p += n)
        if (char_decode(p, (size_t)(end - p), &n) <= 0)
            return not_json(x, text, p, *p ? "this is not UTF-8" : "expected text, not a NUL byte");
    for (p = text; (p = strchr(p, '\\')); p += 2)      /* a pair: the second may be a backslash, too */
        if (!strncmp(p, "\\u0000", 6))
            return not_json(x, text, p, "NUL characters are not supported");
        else if (!p[1])
            break;
    x->root = cJSON_ParseWithLengthOpts(text, len + 1, &p, 1);
    if (!x->root)
        return not_json(x, text, p && p <= end ? p : text, "this is no JSON from here on");
    return 0;
}

static int convert(struct schema *x)
{
    struct place root = { NULL, "", 0, 0 };
    struct text first = { 0 };
    int failed = schema_use(x, x->root, &root, &first);
    for (size_t i = 0; !failed && i < x->n_later; i++) {
        struct place at = { NULL, x->later[i].pointer, 0, 0 };
        failed = write_rule(x, x->later[i].rule, x->later[i].s, &at);
    }
    if (!failed) {
        text_add(&x->out, "root ::= %s\n%s", first.s ? first.s : "", schema_base_rules);
        failed = first.failed || x->out.failed ? schema_bad(x, &root, "the schema is too large") : 0;
    }
    text_free(&first);
    return failed;
}

char *schema_to_gbnf(const char *name, const char *text, size_t len, char *err, size_t errlen)
{
    struct schema x = { .name = name, .err = err, .errlen = errlen, .made = cJSON_CreateArray() };
    char *copy = malloc(len + 1);          /* ends in NUL, whatever the caller's does */
    int failed = -1;
    if (!copy || !x.made) {
        snprintf(err, errlen, "out of memory");
    } else {
        memcpy(copy, text, len);
        copy[len] = '\0';
        failed = read_json(&x, copy, len) || convert(&x);
    }
    if (failed)
        text_free(&x.out);
    cJSON_Delete(x.made);
    cJSON_Delete(x.root);
    free(x.known);
    free(x.later);
    free(copy);
    return x.out.s;
}

/* The parser of grammars complains of a rule: the comment in front of that says where it
 * is from.  A rule that never ends is the root's fault, whichever it is. */
static void blame(const char *name, const char *gbnf, char *err, size_t errlen)
{
    unsigned rule;
    char begin[32];
    const char *quoted = strstr(err, "rule \"s"), *end = NULL, *from;
    if (strstr(err, "never ends")) {
        snprintf(err, errlen, "%s: /: this schema never ends: whatever it allows needs another of its kind", name);
    } else if (quoted && sscanf(quoted, "rule \"s%u", &rule) == 1) {
        snprintf(begin, sizeof begin, "\ns%u ::= ", rule);
        end = strstr(gbnf, begin);
        for (from = end; from && from > gbnf && from[-1] != '\n'; from--)
            ;
        if (from && *from == '#')
            snprintf(err, errlen, "%s: %.*s: this schema leads back to itself, with nothing in between", name,
                     (int)(end - from < 300 ? end - from : 300) - 2, from + 2);
    }
}

int schema_rules(struct rules *r, const char *name, const char *text, size_t len, char *err, size_t errlen)
{
    char *gbnf = schema_to_gbnf(name, text, len, err, errlen);
    int failed = !gbnf || grammar_parse(r, name, gbnf, strlen(gbnf), err, errlen);
    if (gbnf && failed)
        blame(name, gbnf, err, errlen);
    free(gbnf);
    return failed ? -1 : 0;
}
