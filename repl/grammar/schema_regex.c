/* repl/grammar/schema_regex.c -- the regular expressions of "pattern" as rules: what is regular in
 * them, and no more.  A match is found anywhere unless ^ and $ tie it down.  See schema.h. */
#include "repl/grammar/schema_parts.h"

#include "repl/grammar/grammar.h"

#include <stdlib.h>
#include <string.h>

enum { MAX_DEPTH = 50 };

struct regex {
    struct schema *x;
    const struct place *at;
    const char *p, *end;                   /* what is left, the closing $ not with it */
    struct text *out;
};

static int unsupported(struct regex *r, const char *what)
{
    return schema_bad(r->x, r->at, "%s not supported in a pattern", what);
}

static void add_word(struct charset *s)
{
    charset_add(s, '0', '9');
    charset_add(s, 'A', 'Z');
    charset_add(s, 'a', 'z');
    charset_add(s, '_', '_');
}

static void add_space(struct charset *s)
{
    static const uint32_t blank[] = { '\t', '\n', '\v', '\f', '\r', ' ', 0xa0, 0x1680, 0x2028, 0x2029, 0x202f,
                                      0x205f, 0x3000, 0xfeff };
    for (size_t i = 0; i < sizeof blank / sizeof *blank; i++)
        charset_add(s, blank[i], blank[i]);
    charset_add(s, 0x2000, 0x200a);
}

/* \d, \W and the like, into the set; 0: it is none of them */
static int add_shorthand(struct charset *s, char c)
{
    struct charset one = { 0 };
    switch (c | 32) {
    case 'd': charset_add(&one, '0', '9'); break;
    case 'w': add_word(&one); break;
    case 's': add_space(&one); break;
    default: return 0;
    }
    charset_done(&one, c < 'a');
    for (size_t i = 0; i < one.n; i++)
        charset_add(s, one.range[i].lo, one.range[i].hi);
    s->failed |= one.failed;
    charset_free(&one);
    return 1;
}

/* One character behind a backslash that is no shorthand; -1 */
static int32_t escaped(struct regex *r)
{
    char c = *r->p++;
    static const char from[] = "nrtfv0", to[] = "\n\r\t\f\v";
    const char *at = strchr(from, c);
    if (at && *at && c != '0')
        return to[at - from];
    if (c == 'x' || c == 'u') {
        char hex[5] = { 0 }, *end;
        size_t n = c == 'x' ? 2 : 4;
        if ((size_t)(r->end - r->p) < n)
            return unsupported(r, "this \\x or \\u is");
        memcpy(hex, r->p, n);
        long v = strtol(hex, &end, 16);
        if (end != hex + n || hex[0] == '-' || hex[0] == '+' || hex[0] == ' ' || !v || (v >= 0xd800 && v <= 0xdfff))
            return unsupported(r, "this \\x or \\u is");
        r->p += n;
        return (int32_t)v;
    }
    if ((c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9')) {
        char what[8] = { '\\', c, ' ', 'i', 's', 0 };
        return unsupported(r, what);
    }
    size_t n;
    r->p--;
    int32_t any = char_decode(r->p, (size_t)(r->end - r->p), &n);
    r->p += n;
    return any;
}

/* A character, plain or escaped; -1.  There is one. */
static int32_t one_char(struct regex *r)
{
    size_t n;
    if (*r->p == '\\') {
        r->p++;
        return r->p < r->end ? escaped(r) : unsupported(r, "a backslash at the end is");
    }
    int32_t c = char_decode(r->p, (size_t)(r->end - r->p), &n);
    r->p += n;
    return c;
}

static int emit_set(struct regex *r, struct charset *set, int negated)
{
    charset_done(set, negated);
    int failed = set->failed ? schema_bad(r->x, r->at, "out of memory")
               : !set->n ? unsupported(r, "a class without characters is") : 0;
    if (!failed)
        schema_set(r->out, set);
    charset_free(set);
    return failed;
}

static int class(struct regex *r)
{
    struct charset set = { 0 };
    r->p++;
    int negated = r->p < r->end && *r->p == '^';
    r->p += negated;
    while (r->p < r->end && *r->p != ']') {
        if (*r->p == '\\' && r->end - r->p > 1 && add_shorthand(&set, r->p[1])) {
            r->p += 2;
            continue;
        }
        int32_t lo = one_char(r), hi = lo;
        if (lo >= 0 && r->end - r->p > 1 && *r->p == '-' && r->p[1] != ']') {
            r->p++;
            hi = one_char(r);
        }
        if (lo < 0 || hi < 0 || hi < lo) {
            charset_free(&set);
            return lo < 0 || hi < 0 ? -1 : unsupported(r, "a range that ends before it begins is");
        }
        charset_add(&set, (uint32_t)lo, (uint32_t)hi);
    }
    if (r->p == r->end) {
        charset_free(&set);
        return unsupported(r, "a class without ] is");
    }
    r->p++;
    return emit_set(r, &set, negated);
}

static int alternatives(struct regex *r, int depth);

static int group(struct regex *r, int depth)
{
    r->p++;
    if (r->end - r->p > 1 && *r->p == '?') {
        if (r->p[1] != ':')
            return unsupported(r, "(? other than (?: is");
        r->p += 2;
    }
    if (depth == MAX_DEPTH)
        return unsupported(r, "so deep a nesting is");
    text_add(r->out, "(");
    if (alternatives(r, depth + 1))
        return -1;
    if (r->p == r->end)
        return unsupported(r, "( without ) is");
    r->p++;
    text_add(r->out, ")");
    return 0;
}

static int atom(struct regex *r, int depth)
{
    struct charset set = { 0 };
    if (*r->p == '(')
        return group(r, depth);
    if (*r->p == '[')
        return class(r);
    if (strchr("^$*+?{", *r->p)) {
        char what[8] = { *r->p, ' ', 'h', 'e', 'r', 'e', 0 };
        return schema_bad(r->x, r->at, "%s is not supported in a pattern", what);
    }
    if (*r->p == '.') {
        static const uint32_t line_end[] = { '\n', '\r', 0x2028, 0x2029 };
        for (int i = 0; i < 4; i++)
            charset_add(&set, line_end[i], line_end[i]);
        r->p++;
        return emit_set(r, &set, 1);
    }
    if (*r->p == '\\' && r->end - r->p > 1 && add_shorthand(&set, r->p[1])) {
        r->p += 2;
        return emit_set(r, &set, 0);
    }
    int32_t c = one_char(r);
    if (c < 0)
        return -1;
    charset_add(&set, (uint32_t)c, (uint32_t)c);
    return emit_set(r, &set, 0);
}

static int64_t number(struct regex *r)
{
    int64_t n = 0;
    if (r->p == r->end || *r->p < '0' || *r->p > '9')
        return unsupported(r, "these braces are");
    for (; r->p < r->end && *r->p >= '0' && *r->p <= '9'; r->p++)
        if ((n = 10 * n + (*r->p - '0')) > GRAMMAR_MAX_REPEAT)
            return unsupported(r, "so much repetition is");
    return n;
}

static int quantifier(struct regex *r)
{
    if (r->p == r->end || !strchr("*+?{", *r->p))
        return 0;
    if (*r->p == '{') {
        r->p++;
        int64_t lo = number(r), hi = lo;
        int comma = r->p < r->end && *r->p == ',';
        if (lo < 0)
            return -1;
        r->p += comma;
        int open = comma && r->p < r->end && *r->p == '}';
        if (comma && !open && (hi = number(r)) < 0)
            return -1;
        if (r->p == r->end || *r->p != '}' || hi < lo)
            return unsupported(r, "these braces are");
        text_add(r->out, open ? "{%lld,}" : "{%lld,%lld}", (long long)lo, (long long)hi);
    } else {
        text_add(r->out, "%c", *r->p);
    }
    r->p++;
    if (r->p < r->end && *r->p == '?')     /* lazy or greedy, the same texts match */
        r->p++;
    return 0;
}

static int alternatives(struct regex *r, int depth)
{
    for (;;) {
        text_add(r->out, "\"\"");
        while (r->p < r->end && *r->p != '|' && *r->p != ')') {
            text_add(r->out, " ");
            if (atom(r, depth) || quantifier(r))
                return -1;
        }
        if (r->p == r->end || *r->p == ')')
            return 0;
        r->p++;
        text_add(r->out, " | ");
    }
}

/* Is there a | outside of all parentheses and classes? */
static int has_top_bar(const char *p, const char *end)
{
    int depth = 0, in_class = 0;
    for (; p < end; p++) {
        if (*p == '\\' && p + 1 < end)
            p++;
        else if (in_class)
            in_class = *p != ']';
        else if (*p == '[')
            in_class = 1;
        else if (*p == '|' && !depth)
            return 1;
        else
            depth += (*p == '(') - (*p == ')');
    }
    return 0;
}

int schema_pattern(struct schema *x, const char *regex, const struct place *at, struct text *out)
{
    struct regex r = { x, at, regex, regex + strlen(regex), out };
    int front = *regex == '^', back = 0;
    r.p += front;
    if (r.end > r.p && r.end[-1] == '$') {
        back = 1;
        for (const char *b = r.end - 1; b > r.p && b[-1] == '\\'; b--)
            back = !back;
    }
    r.end -= back;
    if ((front || back) && has_top_bar(r.p, r.end))
        return unsupported(&r, "^ or $ beside | without parentheses is");
    text_add(out, front ? "(" : "char* (");
    if (alternatives(&r, 0))
        return -1;
    if (r.p < r.end)
        return unsupported(&r, ") without ( is");
    text_add(out, back ? ")" : ") char*");
    return 0;
}
