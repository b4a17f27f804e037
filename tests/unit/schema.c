/* tests/unit/schema.c -- JSON Schema to grammar: every keyword by hand, every refusal with
 * its place, and random schemas with a validator that shares no code: random documents are
 * accepted, what the grammar allows is valid; replies of the bundled model, too. */
#include "backends/model/checkpoint.h"
#include "repl/grammar/grammar.h"
#include "repl/grammar/matcher.h"
#include "repl/grammar/schema.h"
#include "repl/session.h"
#include "tests/quiet_host.h"
#include "tests/tap.h"
#include "tests/unit/schema_valid.h"
#include "tests/unit/tok_fixture.h"

/* ---- by hand ---- */

static int follow(struct matcher *m, const char *s, size_t n)
{
    uint32_t state = m->start;
    m->work = 0;
    for (size_t i = 0; i < n && state; i++)
        state = matcher_next(m, state, (unsigned char)s[i]);
    return state && matcher_can_end(m, state);
}

static const struct { const char *schema, *yes[10], *no[10]; } table[] = {
    { "true", { "1", "\"a\"", "{\"a\": [true, null, -1.5e+3]}", "[\n  1,\n  2\n]" }, { "", "x", "[1,]", "01", "{a:1}", "\"\n\"", "1." } },
    { "{\"title\":\"t\",\"default\":1,\"$id\":\"x\"}", { "{}", "[]", "\"\\u00e9\\ud83d\\ude00é😀\"" }, { "\"\\ud83d\"", "\"\\ude00\"", "\"\\x\"" } },
    { "{\"type\":\"null\"}", { "null" }, { "nul", "0" } },
    { "{\"type\":\"boolean\"}", { "true", "false" }, { "1" } },
    { "{\"type\":[\"integer\",\"null\"]}", { "0", "-12", "null" }, { "1.5", "\"\"", "00" } },
    { "{\"type\":\"number\"}", { "0", "-0.5", "1e5", "12.25E-3" }, { "+1", ".5", "1.", "0x1" } },
    { "{\"type\":\"integer\",\"minimum\":3,\"maximum\":120}", { "3", "9", "10", "99", "100", "120" }, { "2", "0", "121", "03", "-3", "1000" } },
    { "{\"type\":\"integer\",\"exclusiveMinimum\":-2,\"exclusiveMaximum\":2}", { "-1", "0", "1" }, { "-2", "2" } },
    { "{\"type\":\"integer\",\"minimum\":0.5}", { "1", "9007199254740992" }, { "0", "9007199254740993", "-1" } },
    { "{\"type\":\"integer\",\"maximum\":-105}", { "-105", "-1000", "-199" }, { "-104", "0", "105", "-99" } },
    { "{\"type\":\"string\",\"minLength\":2,\"maxLength\":3}", { "\"ab\"", "\"é€😀\"", "\"\\n\\u0041\"" }, { "\"a\"", "\"abcd\"", "\"\"" } },
    { "{\"minLength\":1}", { "\"a\"" }, { "\"\"", "1" } },
    { "{\"enum\":[\"a\\\"b\",1,null,[1,{\"k\":\"v\"}],\"é\"]}", { "\"a\\\"b\"", "1", "null", "[1, {\"k\":\"v\"}]", "\"é\"" }, { "2", "\"a\"" } },
    { "{\"enum\":[\"a\",1,2.5],\"type\":\"integer\"}", { "1" }, { "\"a\"", "2.5" } },
    { "{\"const\":{\"a\":[]}}", { "{\"a\":[]}", "{ \"a\": [ ] }" }, { "{}" } },
    { "{\"type\":\"object\"}", { "{}", "{\"a\":1}", "{ \"a\": 1, \"b\": {} }" }, { "[]", "{\"a\"}" } },
    { "{\"properties\":{\"a\":{\"type\":\"integer\"},\"b\":{\"type\":\"null\"},\"c\":{}},\"required\":[\"b\"]}",
      { "{\"b\":null}", "{\"a\":1,\"b\":null}", "{\"b\":null,\"c\":[]}", "{\"a\":1,\"b\":null,\"c\":2}" },
      { "{}", "{\"a\":1}", "{\"b\":1}", "{\"a\":1,\"b\":null,\"d\":2}", "{,\"b\":null}", "{\"b\":null,}", "{\"a\":1\"b\":null}" } },
    { "{\"properties\":{\"a\":{\"type\":\"integer\"},\"b\":{\"type\":\"null\"}}}", { "{}", "{\"a\":1}", "{\"b\":null}", "{\"a\":1,\"b\":null}" },
      { "{,}", "{\"c\":1}", "{\"b\":null,\"b\":null}" } },
    { "{\"properties\":{\"ab\":{\"type\":\"integer\"},\"ac\":{\"type\":\"null\"},\"é\":true},\"additionalProperties\":{\"type\":\"string\"}}",
      { "{}", "{\"ab\":1}", "{\"a\":\"x\"}", "{\"abc\":\"x\"}", "{\"ab\":1,\"\":\"y\",\"ad\":\"z\"}", "{\"è\":\"\"}" },
      { "{\"ab\":\"x\"}", "{\"x\":1}", "{\"\\u0061b\":\"x\"}", "{\"x\":\"\",\"ac\":null}" } },
    { "{\"properties\":{\"a\":{\"type\":\"integer\"}},\"additionalProperties\":true,\"required\":[\"z\"]}",
      { "{\"z\":1}", "{\"a\":1,\"z\":[],\"y\":null}" }, { "{\"a\":1}", "{\"a\":\"\",\"z\":1}", "{\"z\":1,\"z\":2}" } },
    { "{\"type\":\"object\",\"additionalProperties\":false}", { "{}" }, { "{\"a\":1}" } },
    { "{\"type\":\"array\"}", { "[]", "[1, \"a\", []]" }, { "[1 2]" } },
    { "{\"items\":{\"type\":\"integer\"},\"minItems\":1,\"maxItems\":3}", { "[1]", "[1, 2, 3]" }, { "[]", "[1,2,3,4]", "[\"\"]" } },
    { "{\"items\":{\"type\":\"integer\"},\"maxItems\":0}", { "[]" }, { "[1]" } },
    { "{\"items\":{\"type\":\"integer\"},\"minItems\":2}", { "[1,2]", "[1,2,3]" }, { "[1]" } },
    { "{\"prefixItems\":[{\"type\":\"integer\"},{\"type\":\"null\"}]}", { "[]", "[1]", "[1, null]" }, { "[null]", "[1,null,1]" } },
    { "{\"prefixItems\":[{\"type\":\"integer\"},{\"type\":\"null\"}],\"items\":{\"type\":\"string\"},\"minItems\":1,\"maxItems\":3}",
      { "[1]", "[1,null]", "[1,null,\"a\"]" }, { "[]", "[1,\"a\"]", "[1,null,\"a\",\"b\"]" } },
    { "{\"prefixItems\":[{\"type\":\"integer\"}],\"items\":false,\"minItems\":1}", { "[1]" }, { "[]", "[1,2]" } },
    { "{\"prefixItems\":[{\"type\":\"integer\"},{}],\"maxItems\":1}", { "[]", "[1]" }, { "[1,2]" } },
    { "{\"anyOf\":[{\"type\":\"integer\"},{\"const\":\"a\"}]}", { "1", "\"a\"" }, { "null" } },
    { "{\"type\":\"object\",\"properties\":{\"a\":{\"const\":1},\"b\":{\"const\":2}},\"anyOf\":[{\"required\":[\"a\"]},{\"required\":[\"b\"]}]}",
      { "{\"a\":1}", "{\"b\":2}", "{\"a\":1,\"b\":2}" }, { "{}" } },
    { "{\"allOf\":[{\"properties\":{\"a\":{\"const\":1}},\"required\":[\"a\"]},{\"$ref\":\"#/$defs/b\"}],\"$defs\":{\"b\":{\"type\":\"object\",\"properties\":{\"b\":{\"const\":2}},\"required\":[\"b\"]}}}",
      { "{\"a\":1,\"b\":2}" }, { "{\"a\":1}", "{\"b\":2}" } },
    { "{\"type\":\"object\",\"properties\":{\"v\":{\"type\":\"integer\"},\"next\":{\"anyOf\":[{\"$ref\":\"#\"},{\"type\":\"null\"}]}},\"required\":[\"v\",\"next\"]}",
      { "{\"v\":1,\"next\":null}", "{\"v\":1,\"next\":{\"v\":2,\"next\":null}}" }, { "{\"v\":1}", "{\"v\":1,\"next\":{}}" } },
    { "{\"$ref\":\"#/$defs/a~1b~0%63\",\"$defs\":{\"a/b~c\":{\"type\":\"array\",\"items\":{\"$ref\":\"#/$defs/a~1b~0c\"}}}}", { "[]", "[[], [[]]]" }, { "[1]" } },
    { "{\"pattern\":\"^a[b-d]+(e|f\\\\d{2})?$\"}", { "\"ab\"", "\"abcde\"", "\"adf12\"" }, { "\"a\"", "\"abg\"", "\"xab\"", "\"adf1\"" } },
    { "{\"pattern\":\"b\"}", { "\"b\"", "\"abc\"", "\"\\n b\"" }, { "\"a\"", "\"\"" } },
    { "{\"pattern\":\"^b|c\"}", { 0 }, { 0 } },
    { "{\"pattern\":\"^(?:x|\\\\.|\\\\$|\\\"|\\\\\\\\|\\\\n)$\"}", { "\"x\"", "\".\"", "\"$\"", "\"\\\"\"", "\"\\\\\"", "\"\\n\"" }, { "\"y\"", "\"\"\"" } },
    { "{\"pattern\":\"^[^a-z\\\"]{2,}?$\"}", { "\"AB\"", "\"É\\\\\"", "\"\\u0001\\t\"" }, { "\"ab\"", "\"A\\\"\"", "\"A\"", "\"A\x01\"", "\"A\t\"" } },
    { "{\"pattern\":\"^\\\\w\\\\s\\\\D.$\"}", { "\"a  é\"", "\"_\\tx\\\"\"" }, { "\"a 1x\"", "\"- xy\"", "\"a x\\n\"" } },
    { "{\"format\":\"date\"}", { "\"2024-02-29\"", "\"2000-02-29\"", "\"1999-12-31\"", "\"2023-04-30\"" },
      { "\"2023-02-29\"", "\"1900-02-29\"", "\"2023-04-31\"", "\"2023-13-01\"", "\"2023-00-10\"", "\"2023-1-1\"" } },
    { "{\"format\":\"time\"}", { "\"23:59:59Z\"", "\"00:00:00.125+02:00\"" }, { "\"24:00:00Z\"", "\"10:00:00\"", "\"10:60:00Z\"" } },
    { "{\"format\":\"date-time\"}", { "\"2024-02-29T10:00:00Z\"" }, { "\"2024-02-29 10:00:00Z\"" } },
    { "{\"format\":\"uuid\"}", { "\"123e4567-e89b-12d3-a456-426614174000\"" }, { "\"123e4567e89b12d3a456426614174000\"" } },
};

static int load(struct rules *r, const char *schema, size_t len, char err[512])
{
    *r = (struct rules){ 0 };
    return schema_rules(r, "s", schema, len, err, 512);
}

static void test_table(void)
{
    for (size_t i = 0; i < sizeof table / sizeof *table; i++) {
        struct rules r;
        struct matcher m;
        char err[512];
        int good = 1;
        if (!table[i].yes[0])
            continue;
        cJSON *s = cJSON_Parse(table[i].schema);
        if (load(&r, table[i].schema, strlen(table[i].schema), err)) {
            ok(0, "%s: %s", table[i].schema, err);
            continue;
        }
        matcher_init(&m, &r);
        for (int j = 0; j < 10; j++) {
            const char *yes = table[i].yes[j], *no = table[i].no[j];
            if (yes && !follow(&m, yes, strlen(yes))) {
                diag("refused: %s", yes);
                good = 0;
            }
            if (no && follow(&m, no, strlen(no))) {
                diag("accepted: %s", no);
                good = 0;
            }
        }
        ok(good, "%.100s", table[i].schema);
        cJSON_Delete(s);
        matcher_free(&m);
        rules_free(&r);
    }
}

static const struct { const char *schema, *error; } errors[] = {
    { "", "s:1:1: this is no JSON" }, { "{\n \"type\": }", "s:2:10: this is no JSON" },
    { "{} x", "s:1:4: this is no JSON" }, { "\"\xff\"", "s:1:2: this is not UTF-8" },
    { "{\"const\":\"\\u0000\"}", "s:1:11: NUL" }, { "[]", "s: /: expected a schema" }, { "false", "s: /: false" },
    { "{\"properties\":{\"a\":{\"not\":{}}}}", "s: /properties/a/not: \"not\" is not supported" },
    { "{\"items\":{\"anyOf\":[{},{\"if\":{}}]}}", "s: /items/anyOf/1/if: \"if\" is not supported" },
    { "{\"$defs\":{\"a\":{\"dependentRequired\":{}}},\"$ref\":\"#/$defs/a\"}", "s: /$defs/a/dependentRequired: " },
    { "{\"patternProperties\":{}}", "s: /patternProperties: " }, { "{\"minProperties\":1}", "s: /minProperties: " },
    { "{\"type\":\"integer\",\"multipleOf\":2}", "s: /multipleOf: " }, { "{\"contains\":{}}", "s: /contains: " },
    { "{\"type\":\"strin\"}", "s: /type: there is no type \"strin\"" }, { "{\"type\":[]}", "s: /type: expected a type" },
    { "{\"type\":[1]}", "s: /type: there is no type" }, { "{\"minLength\":1,\"minItems\":1}", "s: /: \"type\" is missing" },
    { "{\"type\":\"number\",\"minimum\":1}", "s: /minimum: \"minimum\" is supported for type integer only" },
    { "{\"minimum\":1}", "s: /minimum: " }, { "{\"type\":\"integer\",\"minimum\":\"1\"}", "s: /minimum: expected a number" },
    { "{\"type\":\"integer\",\"minimum\":1e300}", "s: /minimum: expected a number" },
    { "{\"type\":\"integer\",\"minimum\":2,\"maximum\":1}", "s: /: no whole number" },
    { "{\"type\":\"integer\",\"minimum\":0.2,\"maximum\":0.8}", "s: /: no whole number" },
    { "{\"minLength\":-1}", "s: /minLength: expected a count" }, { "{\"minLength\":1.5}", "s: /minLength: expected a count" },
    { "{\"maxLength\":1e9}", "s: /maxLength: at most 65535" }, { "{\"minLength\":3,\"maxLength\":2}", "s: /maxLength: no string" },
    { "{\"minItems\":3,\"maxItems\":2}", "s: /maxItems: no array" }, { "{\"prefixItems\":[{}],\"minItems\":2}", "s: /maxItems: no array" },
    { "{\"prefixItems\":{}}", "s: /prefixItems: expected a list" }, { "{\"items\":[]}", "s: /items: expected a schema" },
    { "{\"type\":\"array\",\"uniqueItems\":true}", "s: /uniqueItems: \"uniqueItems\" is not supported" },
    { "{\"format\":\"email\"}", "s: /format: format \"email\" is not supported" }, { "{\"format\":1}", "s: /format: " },
    { "{\"pattern\":\"a\",\"minLength\":1}", "s: /pattern: pattern, format and lengths" },
    { "{\"pattern\":1}", "s: /pattern: expected a regular" }, { "{\"pattern\":\"a(?=b)\"}", "s: /pattern: (? other than (?: is not supported" },
    { "{\"pattern\":\"\\\\bx\"}", "s: /pattern: \\b is not supported" }, { "{\"pattern\":\"(a)\\\\1\"}", "s: /pattern: \\1 is not supported" },
    { "{\"pattern\":\"a^b\"}", "s: /pattern: ^ here is not supported" }, { "{\"pattern\":\"^a|b$\"}", "s: /pattern: ^ or $ beside |" },
    { "{\"pattern\":\"|\\\\|x$\"}", "s: /pattern: ^ or $ beside |" },     /* read one byte in front of it once */
    { "{\"pattern\":\"(a\"}", "s: /pattern: ( without )" }, { "{\"pattern\":\"a)\"}", "s: /pattern: ) without (" },
    { "{\"pattern\":\"[a\"}", "s: /pattern: a class without ]" }, { "{\"pattern\":\"[]\"}", "s: /pattern: a class without characters" },
    { "{\"pattern\":\"[z-a]\"}", "s: /pattern: a range that ends" }, { "{\"pattern\":\"*a\"}", "s: /pattern: * here is not supported" },
    { "{\"pattern\":\"a{2,1}\"}", "s: /pattern: these braces" }, { "{\"pattern\":\"a{x}\"}", "s: /pattern: these braces" },
    { "{\"pattern\":\"a{99999}\"}", "s: /pattern: so much repetition" }, { "{\"pattern\":\"a\\\\\"}", "s: /pattern: a backslash at the end" },
    { "{\"pattern\":\"\\\\p{L}\"}", "s: /pattern: \\p is not" }, { "{\"pattern\":\"\\\\u12\"}", "s: /pattern: this \\x or \\u" },
    { "{\"enum\":[]}", "s: /enum: expected a list" }, { "{\"enum\":[1],\"type\":\"string\"}", "s: /enum: no value here" },
    { "{\"const\":1e300}", "s: /const: numbers beyond" }, { "{\"enum\":[1],\"minimum\":1}", "s: /minimum: \"minimum\" is not supported beside" },
    { "{\"required\":[\"a\"],\"properties\":{},\"additionalProperties\":false}", "s: /required: \"a\" is no property" },
    { "{\"required\":[1]}", "s: /required: " }, { "{\"required\":1}", "s: /: \"properties\" is an object" }, { "{\"properties\":[]}", "s: /: \"properties\" is" },
    { "{\"properties\":{\"a\":{},\"a\":{}}}", "s: /properties/a: this property is given twice" },
    { "{\"type\":\"null\",\"type\":\"null\"}", "s: /type: this is given twice" },
    { "{\"properties\":{\"a\":false}}", "s: /properties/a: false" }, { "{\"anyOf\":[]}", "s: /anyOf: expected a list" },
    { "{\"allOf\":{}}", "s: /allOf: expected a list" }, { "{\"allOf\":[1]}", "s: /allOf/0: expected a schema" },
    { "{\"allOf\":[{\"minLength\":1},{\"minLength\":2}]}", "s: /allOf/1/minLength: \"minLength\" is in two" },
    { "{\"allOf\":[{\"properties\":{\"a\":{}}},{\"properties\":{\"a\":{\"type\":\"null\"}}}]}", "s: /allOf/1/properties/a: this property is in two" },
    { "{\"allOf\":[{\"properties\":{\"a\":{}},\"additionalProperties\":false},{\"properties\":{\"b\":{}}}]}", "s: /allOf/1: \"additionalProperties\"" },
    { "{\"$ref\":\"http://x/y\"}", "s: /$ref: only references within" }, { "{\"$ref\":\"#/$defs/x\"}", "s: /$ref: \"#/$defs/x\" is not in" },
    { "{\"$ref\":\"#/properties\",\"properties\":{}}", "s: /properties: \"properties\" is not supported beside" },
    { "{\"$ref\":1}", "s: /$ref: only references" }, { "{\"$ref\":\"#/a%\"}", "s: /$ref: " },
    { "{\"$ref\":\"#\"}", "s: /: this schema never ends" },
    { "{\"$defs\":{\"a\":{\"anyOf\":[{\"type\":\"null\"},{\"$ref\":\"#/$defs/a\"}]}},\"items\":{\"$ref\":\"#/$defs/a\"}}", "leads back to itself" },
    { "{\"$defs\":{\"a\":{\"allOf\":[{\"$ref\":\"#/$defs/a\"}]}},\"$ref\":\"#/$defs/a\"}", "more than 100 levels" },
    { "{\"$defs\":{\"a\":{\"type\":\"null\",\"anyOf\":[{\"$ref\":\"#/$defs/a\"},{\"$ref\":\"#/$defs/a\"}]}},\"$ref\":\"#/$defs/a\"}", "more than 100 levels" },
    { "{\"properties\":{\"a\":{\"$ref\":\"#\"}},\"required\":[\"a\"]}", "s: /: this schema never ends" },
};

static void test_errors(void)
{
    struct rules r;
    char err[512];
    for (size_t i = 0; i < sizeof errors / sizeof *errors; i++) {
        int failed = load(&r, errors[i].schema, strlen(errors[i].schema), err);
        if (!ok(failed && strstr(err, errors[i].error), "refused: %s", failed ? err : errors[i].schema))
            diag("wanted: %s for %s", errors[i].error, errors[i].schema);
        if (!failed)
            rules_free(&r);
    }
    ok(load(&r, "{}\0{}", 5, err) && strstr(err, "s:1:3: expected text, not a NUL"), "a NUL byte: %s", err);
}

static void test_hostile(void)
{
    static char big[SCHEMA_MAX_BYTES + 100];
    struct rules r;
    char err[512], *p = big;
    memset(big, ' ', sizeof big);
    ok(load(&r, big, sizeof big, err), "too large: %s", err);
    for (int i = 0; i < 900; i++)
        p += sprintf(p, "{\"items\":");
    p += sprintf(p, "{}");
    for (int i = 0; i < 900; i++)
        p += sprintf(p, "}");
    ok(load(&r, big, (size_t)(p - big), err) && strstr(err, "more than 100 levels"), "too deep: %.90s", err);
    memset(big, '[', 200000);
    ok(load(&r, big, 200000, err), "too deep for JSON: %s", err);
    /* every branch doubles: as references share, it stays small */
    p = big + sprintf(big, "{\"$defs\":{\"d60\":{\"type\":\"null\"}");
    for (int i = 0; i < 60; i++)
        p += sprintf(p, ",\"d%d\":{\"properties\":{\"a\":{\"$ref\":\"#/$defs/d%d\"}},\"anyOf\":["
                     "{\"required\":[\"a\"]},{\"properties\":{\"b\":{\"$ref\":\"#/$defs/d%d\"}}}]}", i, i + 1, i + 1);
    p += sprintf(p, "},\"$ref\":\"#/$defs/d0\"}");
    int fine = !load(&r, big, (size_t)(p - big), err);
    ok(fine && r.n_rule < 20000, "2^60 ways down share their rules (%zu)", r.n_rule);
    rules_free(&r);
    p = big + sprintf(big, "{\"$defs\":{\"d9000\":{\"type\":\"null\"}");
    for (int i = 0; i < 9000 && p - big < SCHEMA_MAX_BYTES - 100; i++)
        p += sprintf(p, ",\"d%d\":{\"$ref\":\"#/$defs/d%d\"}", i, i + 1);
    p += sprintf(p, "},\"$ref\":\"#/$defs/d8000\"}");
    int failed = load(&r, big, (size_t)(p - big), err);
    ok(failed && strstr(err, "is not in this file"), "a long chain of $ref: %s", err);
    p = big + sprintf(big, "{\"properties\":{");
    for (int i = 0; i < 501; i++)
        p += sprintf(p, "%s\"p%d\":{}", i ? "," : "", i);
    p += sprintf(p, "}}");
    ok(load(&r, big, (size_t)(p - big), err) && strstr(err, "at most 500"), "many properties: %s", err);
    p = big + sprintf(big, "{\"type\":\"array\",\"items\":{\"type\":\"string\",\"maxLength\":65535},\"maxItems\":65535}");
    ok(!load(&r, big, (size_t)(p - big), err), "65535 strings of 65535 characters");
    rules_free(&r);
}

/* ---- random ---- */

static cJSON *random_schema(int depth)
{
    static const char *const patterns[] = { "^[a-c]{1,3}$", "^(ab|cd)+x?$", "[0-9]$", "^a" };
    static const char *const formats[] = { "date", "time", "date-time", "uuid" };
    static const char *const names[] = { "a", "ab", "b", "é", "a b", "q\"" };
    cJSON *s = cJSON_CreateObject(), *list, *o;
    int a = (int)rng(30) - 15, n;
    switch (rng(depth > 2 ? 6 : 11)) {
    case 0:
        cJSON_AddStringToObject(s, "type", rng(2) ? "boolean" : "null");
        break;
    case 1:
        cJSON_AddStringToObject(s, "type", "integer");
        if (rng(2))
            cJSON_AddNumberToObject(s, rng(2) ? "minimum" : "exclusiveMinimum", a);
        if (rng(2))
            cJSON_AddNumberToObject(s, rng(2) ? "maximum" : "exclusiveMaximum", a + 2 + (int)rng(2000));
        break;
    case 2:
        cJSON_AddStringToObject(s, "type", "string");
        n = (int)rng(3);
        if (rng(2))
            cJSON_AddNumberToObject(s, "minLength", n);
        if (rng(2))
            cJSON_AddNumberToObject(s, "maxLength", n + (int)rng(4));
        break;
    case 3:
        cJSON_AddStringToObject(s, "type", "string");
        cJSON_AddStringToObject(s, rng(2) ? "pattern" : "format", "");
        if (get(s, "pattern"))
            cJSON_ReplaceItemInObject(s, "pattern", cJSON_CreateString(patterns[rng(4)]));
        else
            cJSON_ReplaceItemInObject(s, "format", cJSON_CreateString(formats[rng(4)]));
        break;
    case 4:
        list = cJSON_AddArrayToObject(s, "enum");
        for (n = 1 + (int)rng(3); n--; )
            cJSON_AddItemToArray(list, rng(2) ? cJSON_CreateNumber(rng(100)) : cJSON_CreateString(names[rng(6)]));
        break;
    case 5:
        if (rng(3))
            cJSON_AddStringToObject(s, "type", "number");
        else if (rng(2))
            cJSON_AddStringToObject(s, "$ref", "#/$defs/x");
        break;
    case 6: case 7: case 8:
        cJSON_AddStringToObject(s, "type", "object");
        o = cJSON_AddObjectToObject(s, "properties");
        list = cJSON_AddArrayToObject(s, "required");
        for (n = 0; n < 6; n++)
            if (rng(2)) {
                cJSON_AddItemToObject(o, names[n], random_schema(depth + 1));
                if (rng(2))
                    cJSON_AddItemToArray(list, cJSON_CreateString(names[n]));
            }
        if (rng(2))
            cJSON_AddItemToObject(s, "additionalProperties", rng(2) ? cJSON_CreateBool((int)rng(2)) : random_schema(depth + 1));
        break;
    case 9:
        cJSON_AddStringToObject(s, "type", "array");
        n = (int)rng(3);
        if (rng(2))
            cJSON_AddItemToObject(s, "items", random_schema(depth + 1));
        if (rng(2)) {
            list = cJSON_AddArrayToObject(s, "prefixItems");
            cJSON_AddItemToArray(list, random_schema(depth + 1));
            cJSON_AddItemToArray(list, random_schema(depth + 1));
        }
        if (rng(2))
            cJSON_AddNumberToObject(s, "minItems", n);
        if (rng(2))
            cJSON_AddNumberToObject(s, "maxItems", n + (int)rng(3));
        break;
    default:
        list = cJSON_AddArrayToObject(s, rng(2) ? "anyOf" : "oneOf");
        cJSON_AddItemToArray(list, random_schema(depth + 1));
        cJSON_AddItemToArray(list, random_schema(depth + 1));
    }
    return s;
}

/* In one of three ways to write JSON */
static char *formatted(const cJSON *v)
{
    int way = (int)rng(3);
    char *s = way ? cJSON_Print(v) : cJSON_PrintUnformatted(v), *to = s, *from = s;
    for (; way && *from; from++) {
        int gap = from > s && from[-1] == ':' && *from == '\t';   /* cJSON's own */
        if (way == 1 || (*from != '\n' && *from != '\t') || gap)
            *to++ = gap ? ' ' : *from;
    }
    if (way)
        *to = '\0';
    return s;
}

/* One text that the automaton allows, ending soon; -1 when it does not within the room.
 * The end is near where closing characters are taken whenever they fit. */
static int random_doc(struct matcher *m, char *out, int size, int soon)
{
    static const char closing[] = "\"}]0ae1\\n:, ";
    uint32_t state = m->start;
    int n = 0;
    while (n < size) {
        int may_end = matcher_can_end(m, state);
        if (may_end && (n > soon || !matcher_can_go_on(m, state) || !rng(6)))
            return n;
        unsigned char pick = 0;
        uint32_t next = MATCH_DEAD;
        for (int i = 0; n > soon && closing[i] && !next; i++)
            next = matcher_next(m, state, pick = (unsigned char)closing[i]);
        for (int i = 0; !next && i < 5000; i++)        /* printable ones first */
            next = matcher_next(m, state, pick = (unsigned char)(i < 300 ? ' ' + rng(95) : rng(256)));
        if (!next)
            return -2;
        state = next;
        out[n++] = (char)pick;
    }
    return -1;
}

/* A document that is valid under the schema, made from it alone; properties in its order */
static cJSON *document(const cJSON *root, const cJSON *s, int depth)
{
    static const char *const letters_[] = { "", "a", "é\"", "😀\\", "b\n", "x y z" };
    static const char *const more[] = { "zz", "abx", "", "è", "a  b" };
    static const struct { const char *name, *text[2]; } samples[] = {
        { "^[a-c]{1,3}$", { "a", "cab" } }, { "^(ab|cd)+x?$", { "abcdx", "cd" } }, { "[0-9]$", { "x0", "9" } },
        { "^a", { "a", "a\"b" } }, { "date", { "2024-02-29", "1000-06-30" } }, { "time", { "00:00:00Z", "23:59:59.5-11:30" } },
        { "date-time", { "2023-12-31T01:02:03Z", "0000-02-29T00:00:00+00:00" } },
        { "uuid", { "00000000-0000-0000-0000-000000000000", "0aBcDeF1-2345-6789-abcd-ef0123456789" } } };
    const cJSON *type = get(s, "type"), *e, *list;
    const char *t = cJSON_IsString(type) ? type->valuestring : get(s, "properties") ? "object" : "";
    if (depth > 8)
        return cJSON_CreateNull();
    if (get(s, "$ref"))
        return document(root, get(get(root, "$defs"), "x"), depth + 1);
    if ((list = get(s, "enum")))
        return cJSON_Duplicate(cJSON_GetArrayItem(list, (int)rng((uint32_t)cJSON_GetArraySize(list))), 1);
    if ((list = get(s, "anyOf")) || (list = get(s, "oneOf")))
        return document(root, cJSON_GetArrayItem(list, (int)rng(2)), depth + 1);
    if (!strcmp(t, "boolean"))
        return cJSON_CreateBool((int)rng(2));
    if (!strcmp(t, "integer")) {
        const cJSON *lo = get(s, "minimum"), *xlo = get(s, "exclusiveMinimum"), *hi = get(s, "maximum"), *xhi = get(s, "exclusiveMaximum");
        double a = lo ? lo->valuedouble : xlo ? xlo->valuedouble + 1 : hi ? hi->valuedouble - 2000 : xhi ? xhi->valuedouble - 2000 : -5000;
        double b = hi ? hi->valuedouble : xhi ? xhi->valuedouble - 1 : a + 3000;
        return cJSON_CreateNumber(rng(4) ? a + rng((uint32_t)(b - a) + 1) : rng(2) ? a : b);
    }
    if (!strcmp(t, "number"))
        return cJSON_CreateNumber((double)rng(2000) / 8 - 100);
    if (!strcmp(t, "string")) {
        const char *f = cJSON_GetStringValue(get(s, get(s, "pattern") ? "pattern" : "format"));
        for (int i = 0; i < 8 && f; i++)
            if (!strcmp(samples[i].name, f))
                return cJSON_CreateString(samples[i].text[rng(2)]);
        int min = get(s, "minLength") ? get(s, "minLength")->valueint : 0, n = 0;
        int max = get(s, "maxLength") ? get(s, "maxLength")->valueint : 6;
        char out[100] = "";
        for (max = max < min ? min : max, max = min + (int)rng((uint32_t)(max - min + 1)); n < max; ) {
            const char *l = letters_[rng(6)];
            if (n + (int)characters(l) <= max)
                strcat(out, l), n += (int)characters(l);
        }
        return cJSON_CreateString(out);
    }
    if (!strcmp(t, "object")) {
        cJSON *o = cJSON_CreateObject();
        const cJSON *extra = get(s, "additionalProperties");
        cJSON_ArrayForEach(e, get(s, "properties")) {
            int needed = 0;
            cJSON_ArrayForEach(list, get(s, "required"))
                needed |= !strcmp(list->valuestring, e->string);
            if (needed || rng(2))
                cJSON_AddItemToObject(o, e->string, document(root, e, depth + 1));
        }
        for (int i = 0; extra && !cJSON_IsFalse(extra) && i < 5; i++)
            if (!rng(3))
                cJSON_AddItemToObject(o, more[i], cJSON_IsTrue(extra) ? cJSON_CreateString("any") : document(root, extra, depth + 1));
        return o;
    }
    if (!strcmp(t, "array")) {
        cJSON *a = cJSON_CreateArray();
        const cJSON *prefix = get(s, "prefixItems"), *items = get(s, "items");
        int min = get(s, "minItems") ? get(s, "minItems")->valueint : 0, p = cJSON_GetArraySize(prefix);
        int max = get(s, "maxItems") ? get(s, "maxItems")->valueint : min + 3;
        max = prefix && !items && max > p ? p : max;
        for (int i = 0, n = min + (int)rng((uint32_t)(max - min + 1)); i < n; i++)
            cJSON_AddItemToArray(a, i < p ? document(root, cJSON_GetArrayItem(prefix, i), depth + 1)
                                    : items ? document(root, items, depth + 1) : cJSON_CreateNumber(7));
        return a;
    }
    return cJSON_CreateNull();
}

static void test_random(void)
{
    int schemas = 0, refused = 0, texts = 0, long_ones = 0, invalid = 0, stuck = 0, changed = 0, kept = 0, rejected = 0,
        documents = 0, own = 0;
    while (schemas < 400 && invalid + stuck + rejected < 5) {
        cJSON *s = random_schema(0), *defs;
        char err[512], text[4000];
        struct rules r;
        struct matcher m;
        if (!get(s, "$ref")) {
            defs = cJSON_AddObjectToObject(s, "$defs");
            cJSON_AddItemToObject(defs, "x", random_schema(2));
        }
        char *schema = cJSON_PrintUnformatted(s);
        if (load(&r, schema, strlen(schema), err)) {
            refused++;                     /* "x" may lead to itself; bounds may leave nothing */
        } else {
            schemas++;
            matcher_init(&m, &r);
            for (int i = 0; i < 15; i++) {
                cJSON *v = document(s, s, 0);
                char *made = valid(s, s, v) ? formatted(v) : NULL;     /* too deep ones are not */
                own += made != NULL;
                if (made && !follow(&m, made, strlen(made))) {
                    rejected++;
                    diag("%s\n#   refuses %s", schema, made);
                }
                free(made);
                cJSON_Delete(v);
            }
            for (int i = 0; i < 25; i++) {
                int n = random_doc(&m, text, sizeof text - 1, (int)rng(60));
                stuck += n == -2;
                if (n < 0) {
                    long_ones++;
                    continue;
                }
                text[n] = '\0';
                cJSON *v = cJSON_Parse(text);
                texts++;
                if (!v || !valid(s, s, v)) {
                    invalid++;
                    diag("%s\n#   allows %s", schema, text);
                }
                /* the same document written another way */
                char *again = v ? formatted(v) : NULL;
                if (again && !strchr(text, '\\') && !strpbrk(text, "eE.") && !strstr(again, "e+")) {
                    documents++;
                    if (!follow(&m, again, strlen(again))) {
                        rejected++;
                        diag("%s\n#   refuses %s", schema, again);
                    }
                }
                free(again);
                cJSON_Delete(v);
                for (int k = 0; k < 4 && n; k++) {     /* what is near it is valid, or refused */
                    text[rng((uint32_t)n)] = "0123\"{}[],:abx "[rng(15)];
                    if (follow(&m, text, (size_t)n)) {
                        v = cJSON_Parse(text);
                        kept++;
                        if (!v || !valid(s, s, v)) {
                            invalid++;
                            diag("%s\n#   allows %s", schema, text);
                        }
                        cJSON_Delete(v);
                    }
                    changed++;
                }
            }
            matcher_free(&m);
            rules_free(&r);
        }
        free(schema);
        cJSON_Delete(s);
    }
    ok(!invalid && !stuck, "%d random schemas: %d texts they allow are valid (%d grew too long), and %d of %d near them",
       schemas, texts, long_ones, kept, changed);
    ok(!rejected, "%d random documents and %d written another way are allowed (%d schemas were refused)", own,
       documents, refused);
}

/* ---- replies of the bundled model ---- */

static const struct dbrx_host host = QUIET_HOST(host_never);

static const char *const asked[] = {
    ("{\"type\":\"object\",\"properties\":{\"name\":{\"type\":\"string\",\"maxLength\":20},\"age\":{\"type\":\"integer\",\"minimum\":1,"
    "\"maximum\":120},\"pets\":{\"type\":\"array\",\"items\":{\"enum\":[\"cat\",\"dog\",\"fish\"]},\"maxItems\":4},\"born\":{\"format\":\"date\"}},"
    "\"required\":[\"name\",\"pets\"]}"),
    ("{\"type\":\"array\",\"items\":{\"$ref\":\"#/$defs/tree\"},\"minItems\":1,\"maxItems\":2,\"$defs\":{\"tree\":{\"type\":\"object\",\"properties\":{"
    "\"leaf\":{\"type\":\"boolean\"},\"kids\":{\"type\":\"array\",\"items\":{\"$ref\":\"#/$defs/tree\"},\"maxItems\":2}},\"required\":[\"leaf\"]}}}"),
    "{\"anyOf\":[{\"type\":\"string\",\"pattern\":\"^[A-Z][a-z]{2,8}( [A-Z][a-z]{2,8})*$\"},{\"type\":\"integer\"}]}",
    "{\"properties\":{\"kind\":{\"const\":\"story\"}},\"required\":[\"kind\",\"text\"],\"additionalProperties\":{\"type\":\"string\",\"maxLength\":30}}",
};

static void test_model(void)
{
    struct dbrx_error err = { 0 };
    struct modules mods = { 0 };
    struct ckpt *ck;
    struct tok *tok = open_or_die(source_path("models/nano"));
    int32_t eos[] = { tok_special(tok, "<|endoftext|>"), tok_special(tok, "<|im_end|>") };
    if (ckpt_open(source_path("models/nano"), &ck, &err) != DBRX_OK ||
        modules_scan(&mods, getenv("MODULES"), &err) != DBRX_OK)
        bail("%s", err.text);
    struct disp *d = disp_new(&ck->desc, &mods, &host, 512);
    struct sess *sess = sess_new(d, &ck->desc.config, NULL);
    struct trie *trie = trie_new(tok, ck->desc.config.n_vocab);
    if (sess_use(sess, "cpu-blas", NULL, 0, &err) != DBRX_OK)
        bail("%s", err.text);
    struct tok_ids ids = { 0 };
    tok_encode(tok, "A story about Lily as JSON:\n", 28, TOK_PLAIN, &ids);
    sess_append(sess, ids.id, ids.n, &err);
    for (size_t i = 0; i < sizeof asked / sizeof *asked; i++) {
        struct rules r = { 0 };
        char why_not[512], text[8192];
        cJSON *s = cJSON_Parse(asked[i]);
        int complete = 0, good = 0;
        if (schema_rules(&r, "s", asked[i], strlen(asked[i]), why_not, sizeof why_not))
            bail("%s", why_not);
        struct constraint *c = constraint_new(&r, trie, eos, 2);
        struct sess_gen g = { .max_tokens = 300, .eos = eos, .n_eos = 2, .constraint = c };
        for (int seed = 0; seed < 12; seed++) {
            enum sess_finish why;
            size_t n = 0, len;
            g.sampling = sampler_plain;
            g.sampling.temperature = !seed ? 0 : seed % 2 ? 0.9 : 30;
            sampler_seed(sess->sampler, (uint64_t)seed);
            sess_truncate(sess, (uint32_t)ids.n);
            constraint_restart(c);
            if (sess_generate(sess, &g, &why, &err) != DBRX_OK)
                bail("%s", err.text);
            for (uint32_t t = (uint32_t)ids.n; t < sess->n; t++) {
                const char *b = sess->token[t] == eos[0] || sess->token[t] == eos[1] ? NULL : tok_bytes(tok, sess->token[t], &len);
                if (b)
                    memcpy(text + n, b, len), n += len;
            }
            text[n] = '\0';
            cJSON *v = cJSON_Parse(text);
            complete += why == SESS_EOS;
            good += why == SESS_EOS && v && valid(s, s, v);
            if (why == SESS_EOS && (!v || !valid(s, s, v)))
                diag("%s", text);
            cJSON_Delete(v);
        }
        ok(good == complete && good > 3, "replies under schema %zu: %d of 12 were complete, %d valid", i + 1, complete, good);
        constraint_free(c);
        cJSON_Delete(s);
    }
    free(ids.id);
    trie_free(trie);
    sess_free(sess);
    disp_free(d);
    modules_free(&mods);
    ckpt_close(ck);
    tok_close(tok);
}

int main(void)
{
    test_table();
    test_errors();
    test_hostile();
    test_random();
    test_model();
    return done();
}
