/* tests/unit/schema_valid.h -- is a document valid under a schema?  What the specification of
 * JSON Schema says, as plainly as can be, for the keywords that the tests use; shares no code
 * with repl/grammar/schema.c. */
#ifndef TESTS_SCHEMA_VALID_H
#define TESTS_SCHEMA_VALID_H

#include "tests/tap.h"

#include <cjson/cJSON.h>
#include <math.h>
#include <regex.h>
#include <stdio.h>
#include <string.h>

static const cJSON *get(const cJSON *o, const char *key)
{
    return cJSON_GetObjectItemCaseSensitive(o, key);
}

static int is_type(const cJSON *v, const char *t)
{
    return !strcmp(t, "string") ? cJSON_IsString(v) : !strcmp(t, "boolean") ? cJSON_IsBool(v)
         : !strcmp(t, "null") ? cJSON_IsNull(v) : !strcmp(t, "array") ? cJSON_IsArray(v)
         : !strcmp(t, "object") ? cJSON_IsObject(v) : !strcmp(t, "number") ? cJSON_IsNumber(v)
         : cJSON_IsNumber(v) && v->valuedouble == floor(v->valuedouble);
}

static size_t characters(const char *s)
{
    size_t n = 0;
    for (; *s; s++)
        n += (*s & 0xc0) != 0x80;
    return n;
}

static int matches(const char *regex, const char *s)
{
    regex_t r;
    if (regcomp(&r, regex, REG_EXTENDED | REG_NOSUB))
        bail("%s", regex);
    int yes = !regexec(&r, s, 0, NULL, 0);
    regfree(&r);
    return yes;
}

static int good_format(const char *f, const char *s)
{
    static const char time[] = "([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](\\.[0-9]+)?(Z|[-+][0-2][0-9]:[0-5][0-9])$";
    char regex[200];
    int y, m, d, n = 0;
    static const int days[] = { 31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31 };
    if (!strcmp(f, "uuid"))
        return matches("^[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}$", s);
    snprintf(regex, sizeof regex, "^%s", time);
    if (!strcmp(f, "time"))
        return matches(regex, s);
    if (!matches("^[0-9]{4}-[0-9]{2}-[0-9]{2}", s) || sscanf(s, "%d-%d-%d%n", &y, &m, &d, &n) != 3)
        return 0;
    int leap = m == 2 && ((y % 4 == 0 && y % 100) || y % 400 == 0);
    if (m < 1 || m > 12 || d < 1 || d > days[m - 1] + leap)
        return 0;
    return !strcmp(f, "date") ? !s[n] : s[n] == 'T' && matches(regex, s + n + 1);
}

static int valid(const cJSON *root, const cJSON *s, const cJSON *v)
{
    const cJSON *k, *e;
    if (cJSON_IsBool(s))
        return cJSON_IsTrue(s);
    cJSON_ArrayForEach(k, s) {
        const char *name = k->string;
        double num = k->valuedouble;
        int fine = 1, some = 0, i = 0;
        if (!strcmp(name, "type")) {
            cJSON_ArrayForEach(e, k)
                some |= is_type(v, e->valuestring);
            fine = cJSON_IsArray(k) ? some : is_type(v, k->valuestring);
        } else if (!strcmp(name, "enum")) {
            cJSON_ArrayForEach(e, k)
                some |= cJSON_Compare(e, v, 1);
            fine = some;
        } else if (!strcmp(name, "const")) {
            fine = cJSON_Compare(k, v, 1);
        } else if (!strcmp(name, "anyOf") || !strcmp(name, "oneOf")) {
            cJSON_ArrayForEach(e, k)
                some |= valid(root, e, v);
            fine = some;
        } else if (!strcmp(name, "allOf")) {
            cJSON_ArrayForEach(e, k)
                fine &= valid(root, e, v);
        } else if (!strcmp(name, "$ref")) {
            fine = valid(root, k->valuestring[1] ? get(get(root, "$defs"), k->valuestring + 8) : root, v);
        } else if (cJSON_IsObject(v)) {
            if (!strcmp(name, "required"))
                cJSON_ArrayForEach(e, k)
                    fine &= get(v, e->valuestring) != NULL;
            if (!strcmp(name, "properties"))
                cJSON_ArrayForEach(e, v)
                    fine &= !get(k, e->string) || valid(root, get(k, e->string), e);
            if (!strcmp(name, "additionalProperties"))
                cJSON_ArrayForEach(e, v)
                    fine &= get(get(s, "properties"), e->string) || valid(root, k, e);
        } else if (cJSON_IsArray(v)) {
            const cJSON *prefix = get(s, "prefixItems");
            int n = cJSON_GetArraySize(v), p = cJSON_GetArraySize(prefix);
            fine = !strcmp(name, "minItems") ? n >= num : !strcmp(name, "maxItems") ? n <= num : 1;
            cJSON_ArrayForEach(e, v) {
                if (!strcmp(name, "prefixItems") && i < p)
                    fine &= valid(root, cJSON_GetArrayItem(k, i), e);
                if (!strcmp(name, "items") && i >= p)
                    fine &= valid(root, k, e);
                i++;
            }
        } else if (cJSON_IsString(v)) {
            fine = !strcmp(name, "minLength") ? (double)characters(v->valuestring) >= num
                 : !strcmp(name, "maxLength") ? (double)characters(v->valuestring) <= num
                 : !strcmp(name, "pattern") ? matches(k->valuestring, v->valuestring)
                 : !strcmp(name, "format") ? good_format(k->valuestring, v->valuestring) : 1;
        } else if (cJSON_IsNumber(v)) {
            fine = !strcmp(name, "minimum") ? v->valuedouble >= num : !strcmp(name, "maximum") ? v->valuedouble <= num
                 : !strcmp(name, "exclusiveMinimum") ? v->valuedouble > num
                 : !strcmp(name, "exclusiveMaximum") ? v->valuedouble < num : 1;
        }
        if (!fine)
            return 0;
    }
    return 1;
}

#endif
