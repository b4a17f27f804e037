/* repl/grammar/schema_text.c -- strings and numbers of a schema as rules, and the rules that all
 * schemas share.  See schema.h. */
#include "repl/grammar/schema_parts.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

/* White space is bounded, so that a model cannot lose itself in it.  Numbers are, too. */
const char schema_base_rules[] =
    "ws ::= (\" \" | \"\\n\" [ \\t]{0,20})?\n"
    "value ::= object | array | string | number | \"true\" | \"false\" | \"null\"\n"
    "object ::= \"{\" ws (member (\",\" ws member)*)? ws \"}\"\n"
    "member ::= string \":\" ws value\n"
    "array ::= \"[\" ws (value (\",\" ws value)*)? ws \"]\"\n"
    "string ::= \"\\\"\" char* \"\\\"\"\n"
    "char ::= plain | \"\\\\\" ([\"\\\\/bfnrt] | \"u\" unit)\n"
    "plain ::= [^\"\\\\\\x00-\\x1f]\n"
    "unit ::= ([0-9a-cA-CeEfF] hex | [dD] [0-7]) hex{2} | [dD] [89abAB] hex{2} \"\\\\u\" [dD] [c-fC-F] hex{2}\n"
    "hex ::= [0-9a-fA-F]\n"
    "integer ::= \"-\"? (\"0\" | [1-9] [0-9]{0,14})\n"
    "number ::= integer (\".\" [0-9]{1,20})? ([eE] [-+]? [0-9]{1,2})?\n"
    "date ::= [0-9]{4} \"-\" ((\"0\" [13578] | \"1\" [02]) \"-\" (\"0\" [1-9] | [12] [0-9] | \"3\" [01]) | "
        "(\"0\" [469] | \"11\") \"-\" (\"0\" [1-9] | [12] [0-9] | \"30\") | \"02-\" (\"0\" [1-9] | \"1\" [0-9] | \"2\" [0-8])) "
        "| ([0-9]{2} (\"0\" [48] | [2468] [048] | [13579] [26]) | (\"0\" [048] | [2468] [048] | [13579] [26]) \"00\") \"-02-29\"\n"
    "time ::= ([01] [0-9] | \"2\" [0-3]) (\":\" [0-5] [0-9]){2} (\".\" [0-9]{1,9})? "
        "(\"Z\" | [-+] ([01] [0-9] | \"2\" [0-3]) \":\" [0-5] [0-9])\n"
    "date-time ::= date \"T\" time\n"
    "uuid ::= hex{8} (\"-\" hex{4}){3} \"-\" hex{12}\n";

/* ---- characters ---- */

static void class_char(struct text *out, uint32_t c)
{
    if ((c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z'))
        text_add(out, "%c", (char)c);
    else
        text_add(out, "\\U%08x", (unsigned)c);
}

void schema_set(struct text *out, const struct charset *set)
{
    static const char shorts[][3] = { "\"\"", "\\\\", "\nn", "\tt", "\rr", "\bb", "\ff" };
    struct charset plain = { 0 };
    const char *sep = "";
    /* what needs no escape: not (not in the set, or in need of one) */
    for (size_t i = 0; i < set->n; i++)
        charset_add(&plain, set->range[i].lo, set->range[i].hi);
    charset_done(&plain, 1);
    charset_add(&plain, 0, 0x1f);
    charset_add(&plain, '"', '"');
    charset_add(&plain, '\\', '\\');
    charset_done(&plain, 1);
    text_add(out, "(");
    if (plain.n) {
        text_add(out, "[");
        for (size_t i = 0; i < plain.n; i++) {
            class_char(out, plain.range[i].lo);
            if (plain.range[i].hi > plain.range[i].lo) {
                text_add(out, "-");
                class_char(out, plain.range[i].hi);
            }
        }
        text_add(out, "]");
        sep = " | ";
    }
    for (uint32_t c = 0; c <= '\\'; c++) {
        if ((c >= ' ' && c != '"' && c != '\\') || !charset_has(set, c))
            continue;
        size_t i = 0;
        while (i < sizeof shorts / sizeof *shorts && (uint32_t)shorts[i][0] != c)
            i++;
        if (i < sizeof shorts / sizeof *shorts)
            text_add(out, "%s\"\\\\%s%c\"", sep, strchr("\"\\", shorts[i][1]) ? "\\" : "", shorts[i][1]);
        else
            text_add(out, "%s\"\\\\u%04x\"", sep, (unsigned)c);
        sep = " | ";
    }
    if (!*sep)
        text_add(out, "\"\"");             /* nothing at all; whoever asks has looked */
    text_add(out, ")");
    out->failed |= plain.failed;
    charset_free(&plain);
}

/* ---- strings ---- */

int schema_string(struct schema *x, const cJSON *s, const struct place *at, struct text *out)
{
    static const char *const formats[] = { "date", "time", "date-time", "uuid" };
    const cJSON *pattern = cJSON_GetObjectItemCaseSensitive(s, "pattern");
    const cJSON *format = cJSON_GetObjectItemCaseSensitive(s, "format");
    int64_t min = schema_count(x, s, "minLength", at, 0);
    int64_t max = schema_count(x, s, "maxLength", at, INT64_MAX);
    struct place here = place_key(at, pattern ? "pattern" : format ? "format" : "maxLength");
    int lengths = min || max != INT64_MAX;
    if (min < 0 || max < 0)
        return -1;
    if ((pattern || format) && (lengths || (pattern && format)))
        return schema_bad(x, &here, "pattern, format and lengths are not supported beside each other");
    if (max < min)
        return schema_bad(x, &here, "no string has at least %lld and at most %lld characters",
                          (long long)min, (long long)max);
    if (pattern) {
        if (!cJSON_IsString(pattern))
            return schema_bad(x, &here, "expected a regular expression");
        text_add(out, "\"\\\"\" ");
        if (schema_pattern(x, pattern->valuestring, &here, out))
            return -1;
        text_add(out, " \"\\\"\"");
    } else if (format) {
        const char *name = cJSON_GetStringValue(format);
        for (size_t i = 0; name && i < sizeof formats / sizeof *formats; i++)
            if (!strcmp(formats[i], name)) {
                text_add(out, "\"\\\"\" %s \"\\\"\"", name);
                return 0;
            }
        return schema_bad(x, &here, "format \"%.40s\" is not supported; there are date, time, "
                          "date-time and uuid", name ? name : "?");
    } else if (!lengths) {
        text_add(out, "string");
    } else if (max == INT64_MAX) {
        text_add(out, "\"\\\"\" char{%lld,} \"\\\"\"", (long long)min);
    } else {
        text_add(out, "\"\\\"\" char{%lld,%lld} \"\\\"\"", (long long)min, (long long)max);
    }
    return 0;
}

/* ---- numbers ---- */

/* Numbers of as many digits as lo and hi have, between them */
static void digits(struct text *out, const char *lo, const char *hi)
{
    size_t n = strlen(lo);
    if (strspn(lo, "0") == n && strspn(hi, "9") == n) {
        text_add(out, n ? "[0-9]{%zu}" : "\"\"", n);
        return;
    }
    if (*lo == *hi) {
        text_add(out, "\"%c\" ", *lo);
        digits(out, lo + 1, hi + 1);
        return;
    }
    static const char zeros[] = "00000000000000000000", nines[] = "99999999999999999999";
    char a = *lo, b = *hi;
    const char *sep = "";
    text_add(out, "(");
    if (strspn(lo + 1, "0") < n - 1) {     /* what begins with lo's digit, then ... */
        text_add(out, "\"%c\" ", a++);
        digits(out, lo + 1, nines + 20 - (n - 1));
        sep = " | ";
    }
    int last = strspn(hi + 1, "9") < n - 1;
    b = (char)(b - last);
    if (a <= b) {
        text_add(out, "%s[%c-%c] [0-9]{%zu}", sep, a, b, n - 1);
        sep = " | ";
    }
    if (last) {
        text_add(out, "%s\"%c\" ", sep, *hi);
        digits(out, zeros + 20 - (n - 1), hi + 1);
    }
    text_add(out, ")");
}

/* Whole numbers from lo to hi, 0 <= lo <= hi */
static void range(struct text *out, const char *sign, int64_t lo, int64_t hi, const char **sep)
{
    char a[24], b[24];
    for (int64_t end = 9; lo <= hi; end = end * 10 + 9) {
        if (lo > end)
            continue;
        int64_t top = hi < end ? hi : end;
        snprintf(a, sizeof a, "%lld", (long long)lo);
        snprintf(b, sizeof b, "%lld", (long long)top);
        text_add(out, "%s%s", *sep, sign);
        digits(out, a, b);
        *sep = " | ";
        lo = top + 1;
    }
}

static const char *const bounds[] = { "minimum", "exclusiveMinimum", "maximum", "exclusiveMaximum" };

int schema_integer(struct schema *x, const cJSON *s, const struct place *at, struct text *out)
{
    int64_t lo = -(INT64_C(1) << 53), hi = INT64_C(1) << 53;
    int any = 0;
    const char *sep = "";
    for (int i = 0; i < 4; i++) {
        const cJSON *v = cJSON_GetObjectItemCaseSensitive(s, bounds[i]);
        struct place here = place_key(at, bounds[i]);
        if (!v)
            continue;
        any = 1;
        if (!cJSON_IsNumber(v) || fabs(v->valuedouble) > 0x1p53)
            return schema_bad(x, &here, "expected a number between -2^53 and 2^53");
        double d = v->valuedouble;
        int64_t n = (int64_t)(i == 0 ? ceil(d) : i == 1 ? floor(d) + 1 : i == 2 ? floor(d) : ceil(d) - 1);
        if (i < 2 && n > lo)
            lo = n;
        if (i >= 2 && n < hi)
            hi = n;
    }
    if (lo > hi)
        return schema_bad(x, at, "no whole number lies between these bounds");
    if (!any) {
        text_add(out, "integer");
        return 0;
    }
    if (lo < 0)
        range(out, "\"-\" ", hi < 0 ? -hi : 1, -lo, &sep);
    if (hi >= 0)
        range(out, "", lo > 0 ? lo : 0, hi, &sep);
    return 0;
}

int schema_number(struct schema *x, const cJSON *s, const struct place *at, struct text *out)
{
    for (int i = 0; i < 4; i++) {
        struct place here = place_key(at, bounds[i]);
        if (cJSON_GetObjectItemCaseSensitive(s, bounds[i]))
            return schema_bad(x, &here, "\"%s\" is supported for type integer only", bounds[i]);
    }
    text_add(out, "number");
    return 0;
}
