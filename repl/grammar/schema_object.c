/* repl/grammar/schema_object.c -- objects and arrays of a schema as rules.
 *
 * Properties come in the schema's order, each optional one there or not; a rule for
 * "nothing yet" (a) and one for "something already" (b) at each place in the list know
 * where a comma belongs.  See schema.h. */
#include "repl/grammar/schema_parts.h"

#include "repl/grammar/grammar.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct property { const char *name; const cJSON *schema; int required; };      /* schema NULL: any */

struct object {
    struct property p[2 * SCHEMA_MAX_PROPERTIES];      /* [n] */
    int n;
    const cJSON *more;                     /* other properties' schema, or NULL: none */
    unsigned id, n_key;
};

static int find_property(const struct object *o, const char *name)
{
    for (int i = 0; i < o->n; i++)
        if (!strcmp(o->p[i].name, name))
            return i;
    return -1;
}

static int collect(struct schema *x, const cJSON *s, const struct place *at, struct object *o)
{
    const cJSON *props = cJSON_GetObjectItemCaseSensitive(s, "properties"), *p;
    const cJSON *required = cJSON_GetObjectItemCaseSensitive(s, "required");
    const cJSON *more = cJSON_GetObjectItemCaseSensitive(s, "additionalProperties");
    struct place here = place_key(at, props ? "properties" : "required");
    if ((props && !cJSON_IsObject(props)) || (required && !cJSON_IsArray(required)))
        return schema_bad(x, at, "\"properties\" is an object, \"required\" a list");
    if (cJSON_GetArraySize(props) > SCHEMA_MAX_PROPERTIES ||
        cJSON_GetArraySize(required) > SCHEMA_MAX_PROPERTIES)
        return schema_bad(x, &here, "at most %d properties are possible", SCHEMA_MAX_PROPERTIES);
    cJSON_ArrayForEach(p, props) {
        struct place there = place_key(&here, p->string);
        if (find_property(o, p->string) >= 0)
            return schema_bad(x, &there, "this property is given twice");
        o->p[o->n++] = (struct property){ p->string, p, 0 };
    }
    here = place_key(at, "required");
    cJSON_ArrayForEach(p, required) {
        const char *name = cJSON_GetStringValue(p);
        int i = name ? find_property(o, name) : -1;
        if (!name || (i < 0 && cJSON_IsFalse(more)))
            return schema_bad(x, &here, "\"%.60s\" is no property", name ? name : "?");
        if (i < 0)
            o->p[i = o->n++] = (struct property){ name, cJSON_IsTrue(more) ? NULL : more, 0 };
        o->p[i].required = 1;
    }
    /* nothing said: any property where none is named, no others where some are */
    static const cJSON any = { .type = cJSON_True };
    o->more = cJSON_IsFalse(more) ? NULL : more ? more : o->n ? NULL : &any;
    return 0;
}

static void quote_name(struct text *out, const char *name)
{
    cJSON s = { .type = cJSON_String, .valuestring = (char *)name };
    char *json = cJSON_PrintUnformatted(&s);
    if (json)
        text_quote(out, json, strlen(json));
    out->failed |= !json;
    free(json);
}

/* ---- names of other properties: not one of those that are named ---- */

static int by_name(const void *a, const void *b)
{
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

/* The rule for the rest of a name of which name[0][0..off) was said; name[n] all begin so,
 * and are what it must not become.  The rule's number. */
static unsigned other_name(struct schema *x, struct object *o, const char *const *name, int n, size_t off)
{
    struct text t = { 0 };
    struct charset set = { 0 };
    unsigned rule = o->n_key++;
    int ends = n && !name[0][off];         /* the shortest is first */
    for (int i = ends, j; i < n; i = j) {
        size_t len = 0;
        int32_t c = char_decode(name[i] + off, strlen(name[i] + off), &len);
        for (j = i + 1; j < n && !strncmp(name[j] + off, name[i] + off, len); j++)
            ;
        charset_add(&set, (uint32_t)c, (uint32_t)c);
        unsigned below = other_name(x, o, name + i, j - i, off + len);
        text_quote(&t, name[i] + off, len);
        text_add(&t, " s%u-k%u | ", o->id, below);
    }
    static const struct char_range never[] = { { 0, 0x1f }, { '"', '"' }, { '\\', '\\' } };
    for (int i = 0; i < 3; i++)
        charset_add(&set, never[i].lo, never[i].hi);
    charset_done(&set, 1);
    schema_set(&t, &set);
    text_add(&t, " plain* \"\\\"\"%s", ends ? "" : " | \"\\\"\"");
    text_add(&x->out, "s%u-k%u ::= %s\n", o->id, rule, t.s ? t.s : "");
    x->out.failed |= t.failed || set.failed;
    charset_free(&set);
    text_free(&t);
    return rule;
}

static int other_names(struct schema *x, struct object *o, const struct place *at, struct text *out)
{
    const char *name[2 * SCHEMA_MAX_PROPERTIES];
    int n = 0;
    if (!o->n) {
        text_add(out, "string");
        return 0;
    }
    for (int i = 0; i < o->n; i++) {
        const char *s = o->p[i].name;
        if (strlen(s) > 200)
            return schema_bad(x, at, "other properties beside one whose name has over 200 bytes");
        int plain = 1;                     /* a name that needs escapes is never said here */
        for (const char *c = s; *c; c++)
            plain &= (unsigned char)*c >= ' ' && *c != '"' && *c != '\\';
        if (plain)
            name[n++] = s;
    }
    qsort(name, (size_t)n, sizeof *name, by_name);
    text_add(out, "\"\\\"\" s%u-k%u", o->id, other_name(x, o, name, n, 0));
    return 0;
}

/* ---- objects ---- */

static int one_property(struct schema *x, const struct property *p, const struct place *at, struct text *out)
{
    struct place props = place_key(at, "properties"), here = place_key(&props, p->name);
    quote_name(out, p->name);
    text_add(out, " \":\" ws ");
    if (p->schema)
        return schema_use(x, p->schema, &here, out);
    text_add(out, "value");
    return 0;
}

static int write_object(struct schema *x, struct object *o, const struct place *at, struct text *out)
{
    struct text more = { 0 };
    struct place other = place_key(at, "additionalProperties");
    int failed = 0;
    o->id = ++x->n_rule;
    if (o->more) {
        failed = other_names(x, o, &other, &more);
        text_add(&more, " \":\" ws ");
        failed = failed || schema_use(x, o->more, &other, &more);
    }
    int only_b = 0;                        /* behind a required property there is something */
    for (int i = 0; i < o->n && !failed; i++) {
        struct text pair = { 0 };
        failed = one_property(x, &o->p[i], at, &pair);
        text_add(&x->out, "s%u-p%d ::= %s\n", o->id, i, pair.s ? pair.s : "");
        if (!only_b)
            text_add(&x->out, o->p[i].required ? "s%u-a%d ::= s%u-p%d s%u-b%d\n"
                                               : "s%u-a%d ::= s%u-p%d s%u-b%d | s%u-a%d\n",
                     o->id, i, o->id, i, o->id, i + 1, o->id, i + 1);
        text_add(&x->out, o->p[i].required ? "s%u-b%d ::= \",\" ws s%u-p%d s%u-b%d\n"
                                           : "s%u-b%d ::= (\",\" ws s%u-p%d)? s%u-b%d\n",
                 o->id, i, o->id, i, o->id, i + 1);
        only_b |= o->p[i].required;
        x->out.failed |= pair.failed;
        text_free(&pair);
    }
    if (!failed && more.n) {
        text_add(&x->out, "s%u-m ::= %s\n", o->id, more.s);
        text_add(&x->out, "s%u-a%d ::= (s%u-m s%u-b%d)?\n", o->id, o->n, o->id, o->id, o->n);
        text_add(&x->out, "s%u-b%d ::= (\",\" ws s%u-m)*\n", o->id, o->n, o->id);
    } else if (!failed) {
        text_add(&x->out, "s%u-a%d ::= \"\"\ns%u-b%d ::= \"\"\n", o->id, o->n, o->id, o->n);
    }
    text_add(out, "\"{\" ws s%u-a0 ws \"}\"", o->id);
    x->out.failed |= more.failed;
    text_free(&more);
    return failed;
}

int schema_object(struct schema *x, const cJSON *s, const struct place *at, struct text *out)
{
    struct object *o = calloc(1, sizeof *o);
    int failed = o ? collect(x, s, at, o) || write_object(x, o, at, out)
                   : schema_bad(x, at, "out of memory");
    free(o);
    return failed ? -1 : 0;
}

/* ---- arrays ---- */

int schema_array(struct schema *x, const cJSON *s, const struct place *at, struct text *out)
{
    const cJSON *prefix = cJSON_GetObjectItemCaseSensitive(s, "prefixItems"), *e;
    const cJSON *items = cJSON_GetObjectItemCaseSensitive(s, "items");
    const cJSON *unique = cJSON_GetObjectItemCaseSensitive(s, "uniqueItems");
    struct place here = place_key(at, "prefixItems"), rest_at = place_key(at, "items");
    struct place unique_at = place_key(at, "uniqueItems"), max_at = place_key(at, "maxItems");
    int64_t min = schema_count(x, s, "minItems", at, 0);
    int64_t max = schema_count(x, s, "maxItems", at, INT64_MAX), i = 0;
    int n = cJSON_GetArraySize(prefix), failed = 0;
    if (min < 0 || max < 0)
        return -1;
    if (unique && !cJSON_IsFalse(unique))
        return schema_bad(x, &unique_at, "\"uniqueItems\" is not supported");
    if (prefix && (!cJSON_IsArray(prefix) || n > SCHEMA_MAX_PROPERTIES))
        return schema_bad(x, &here, "expected a list of at most %d schemas", SCHEMA_MAX_PROPERTIES);
    /* as with properties: nothing said means none where some are named */
    int none = cJSON_IsFalse(items) || (!items && prefix);
    if (none && max > n)
        max = n;
    if (max < min)
        return schema_bad(x, &max_at, "no array has at least %lld and at most %lld items",
                          (long long)min, (long long)max);
    unsigned id = ++x->n_rule;
    struct text rest = { 0 };
    if (!none && !items)
        text_add(&rest, "value");
    else if (!none)
        failed = schema_use(x, items, &rest_at, &rest);
    /* s-i: item i and what follows it; the last one all that have no schema of their own */
    cJSON_ArrayForEach(e, prefix) {
        struct place there = place_index(&here, (int)i);
        struct text one = { 0 };
        if (failed || i >= max)
            break;
        failed = schema_use(x, e, &there, &one);
        text_add(&x->out, i < min ? "s%u-%lld ::= %s%s s%u-%lld\n" : "s%u-%lld ::= (%s%s s%u-%lld)?\n",
                 id, (long long)i, i ? "\",\" ws " : "", one.s ? one.s : "", id, (long long)i + 1);
        x->out.failed |= one.failed;
        text_free(&one);
        i++;
    }
    int64_t least = min > i ? min - i : 0, most = max - i;
    text_add(&x->out, "s%u-%lld ::= ", id, (long long)i);
    if (none || !most) {
        text_add(&x->out, "\"\"\n");
    } else {
        int64_t again = i ? least : least ? least - 1 : 0; /* the first of all has no comma */
        if (!i)
            text_add(&x->out, least ? "%s " : "(%s ", rest.s ? rest.s : "");
        text_add(&x->out, "(\",\" ws %s){%lld,", rest.s ? rest.s : "", (long long)again);
        if (max != INT64_MAX)
            text_add(&x->out, "%lld", (long long)(i ? most : most - 1));
        text_add(&x->out, i || least ? "}\n" : "})?\n");
    }
    text_add(out, "\"[\" ws s%u-0 ws \"]\"", id);
    x->out.failed |= rest.failed;
    text_free(&rest);
    return failed ? -1 : 0;
}
