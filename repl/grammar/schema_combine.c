/* repl/grammar/schema_combine.c -- schemas made of schemas: where a $ref leads, and what holds when
 * several hold at once.  They are merged into one, where that says the same; what cannot be
 * merged is refused.  See schema.h. */
#include "repl/grammar/schema_parts.h"

#include <stdlib.h>
#include <string.h>

enum { MAX_WORK = 1 << 20 };

static const cJSON *get(const cJSON *s, const char *key)
{
    return cJSON_GetObjectItemCaseSensitive(s, key);
}

/* One step of a JSON pointer: "~1" is a slash, "~0" a tilde, %41 an A; to out[n].  What
 * follows it, or NULL. */
static const char *pointer_step(const char *p, char *out, size_t n)
{
    size_t len = 0;
    for (; *p && *p != '/'; p++) {
        unsigned char c = (unsigned char)*p;
        char hex[3] = { 0 }, *end;
        if (c == '~' && (p[1] == '0' || p[1] == '1')) {
            c = *++p == '0' ? '~' : '/';
        } else if (c == '%' && p[1] && p[2]) {
            memcpy(hex, p + 1, 2);
            c = (unsigned char)strtoul(hex, &end, 16);
            if (*end || !c)
                return NULL;
            p += 2;
        }
        if (len + 1 >= n)
            return NULL;
        out[len++] = (char)c;
    }
    out[len] = '\0';
    return p;
}

const cJSON *schema_target(struct schema *x, const cJSON *ref, const struct place *at)
{
    struct place here = place_key(at, "$ref");
    const char *p = cJSON_GetStringValue(ref);
    const cJSON *s = x->root;
    char step[256];
    if (!p || *p != '#' || (p[1] && p[1] != '/')) {
        schema_bad(x, &here, "only references within the file are supported: \"#\" or \"#/$defs/NAME\"");
        return NULL;
    }
    for (p++; s && p && *p == '/'; ) {
        p = pointer_step(p + 1, step, sizeof step);
        if (p && cJSON_IsArray(s))
            s = step[0] && !step[strspn(step, "0123456789")] && strlen(step) < 9
              ? cJSON_GetArrayItem(s, atoi(step)) : NULL;
        else if (p)
            s = get(s, step);
    }
    if (!s || !p) {
        schema_bad(x, &here, "\"%.80s\" is not in this file", ref->valuestring);
        return NULL;
    }
    return s;
}

/* ---- anyOf and allOf ---- */

/* A new object that the schema owns; NULL: out of memory */
static cJSON *new_object(struct schema *x)
{
    cJSON *o = cJSON_CreateObject();
    if (o && !cJSON_AddItemToArray(x->made, o)) {
        cJSON_Delete(o);
        return NULL;
    }
    return o;
}

/* Properties that only `from` has join `to`; with `closed` there may be none */
static int merge_properties(struct schema *x, cJSON *to, const cJSON *from, const struct place *at)
{
    const cJSON *p;
    cJSON_ArrayForEach(p, from) {
        struct place here = place_key(at, p->string);
        if (++x->work > MAX_WORK)
            return schema_bad(x, &here, "the schema is too large to combine");
        if (get(to, p->string))
            return schema_bad(x, &here, "this property is in two of the schemas to be combined");
        if (!cJSON_AddItemReferenceToObject(to, p->string, (cJSON *)p))
            return schema_bad(x, &here, "out of memory");
    }
    return 0;
}

/* A copy one level deep, so that it can be added to */
static cJSON *shallow(const cJSON *list)
{
    cJSON *copy = cJSON_IsArray(list) ? cJSON_CreateArray() : cJSON_CreateObject();
    const cJSON *e;
    if (copy)
        cJSON_ArrayForEach(e, list)
            if (e->string ? !cJSON_AddItemReferenceToObject(copy, e->string, (cJSON *)e)
                          : !cJSON_AddItemReferenceToArray(copy, (cJSON *)e))
                break;
    return copy;
}

/* All of `from` that is no annotation, and not `skip`, also holds in `to` */
static int merge(struct schema *x, cJSON *to, const cJSON *from, const char *skip, const struct place *at)
{
    const cJSON *k, *e;
    for (int levels = 0; get(from, "$ref") && !skip; levels++) {
        if (levels == SCHEMA_MAX_DEPTH)
            return schema_bad(x, at, "this $ref leads in circles");
        if (!(from = schema_target(x, get(from, "$ref"), at)))
            return -1;
    }
    if (cJSON_IsTrue(from))
        return 0;
    if (!cJSON_IsObject(from))
        return schema_bad(x, at, "expected a schema that is an object");
    /* who forbids other properties would forbid those of the other, too */
    const cJSON *mine = get(to, "additionalProperties"), *its = get(from, "additionalProperties");
    if ((mine && !cJSON_IsTrue(mine) && get(from, "properties")) ||
        (its && !cJSON_IsTrue(its) && get(to, "properties")))
        return schema_bad(x, at, "\"additionalProperties\" is not supported where properties are "
                          "combined");
    cJSON_ArrayForEach(k, from) {
        struct place here = place_key(at, k->string);
        cJSON *old = cJSON_GetObjectItemCaseSensitive(to, k->string);
        if (++x->work > MAX_WORK)
            return schema_bad(x, &here, "the schema is too large to combine");
        if ((skip && !strcmp(k->string, skip)) || schema_about(k->string) == ABOUT_NOTHING)
            continue;
        int list = !strcmp(k->string, "required") && cJSON_IsArray(k);
        int map = !strcmp(k->string, "properties") && cJSON_IsObject(k);
        if (!old && (list || map)) {
            cJSON *copy = shallow(k);
            if (!copy || !cJSON_AddItemToObject(to, k->string, copy))
                return schema_bad(x, &here, "out of memory");
        } else if (!old) {
            if (!cJSON_AddItemReferenceToObject(to, k->string, (cJSON *)k))
                return schema_bad(x, &here, "out of memory");
        } else if (map) {
            if (merge_properties(x, old, k, &here))
                return -1;
        } else if (list) {
            cJSON_ArrayForEach(e, k)
                if (++x->work > MAX_WORK || !cJSON_AddItemReferenceToArray(old, (cJSON *)e))
                    return schema_bad(x, &here, "the schema is too large to combine");
        } else if (k->child || !cJSON_Compare(k, old, 1)) {
            return schema_bad(x, &here, "\"%.40s\" is in two of the schemas to be combined", k->string);
        }
    }
    return 0;
}

int schema_any_of(struct schema *x, const cJSON *s, const char *key, const struct place *at, struct text *out)
{
    const cJSON *list = get(s, key), *one, *k;
    struct place here = place_key(at, key);
    int i = 0, alone = 1;
    if (!cJSON_IsArray(list) || !list->child)
        return schema_bad(x, &here, "expected a list of schemas");
    cJSON_ArrayForEach(k, s)
        alone &= !strcmp(k->string, key) || schema_about(k->string) == ABOUT_NOTHING;
    cJSON_ArrayForEach(one, list) {
        struct place there = place_index(&here, i++);
        text_add(out, "%s", i > 1 ? " | " : "");
        if (alone) {
            if (schema_use(x, one, &there, out))
                return -1;
            continue;
        }
        cJSON *both = new_object(x);
        if (!both)
            return schema_bad(x, at, "out of memory");
        if (merge(x, both, s, key, at) || merge(x, both, one, NULL, &there) ||
            schema_use(x, both, &there, out))
            return -1;
    }
    return 0;
}

int schema_all_of(struct schema *x, const cJSON *s, const struct place *at, struct text *out)
{
    const cJSON *list = get(s, "allOf"), *one;
    struct place here = place_key(at, "allOf");
    cJSON *all = new_object(x);
    int i = 0;
    if (!cJSON_IsArray(list) || !list->child)
        return schema_bad(x, &here, "expected a list of schemas");
    if (!all)
        return schema_bad(x, at, "out of memory");
    if (merge(x, all, s, "allOf", at))
        return -1;
    cJSON_ArrayForEach(one, list) {
        struct place there = place_index(&here, i++);
        if (merge(x, all, one, NULL, &there))
            return -1;
    }
    return schema_use(x, all, &here, out);
}
