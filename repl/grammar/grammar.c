/* repl/grammar/grammar.c -- the parser of GBNF.  Recursive descent; each parenthesis and each
 * repetition becomes a rule of its own.  See grammar.h. */
#include "repl/grammar/grammar.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct parser {
    const char *name, *text, *end, *p;
    struct rules *r;
    struct name {                          /* rules that have one                    */
        const char *text;                  /* where it is first mentioned            */
        size_t len;
        uint32_t rule;
        const char *defined;               /* where it is defined, or NULL           */
    } *names;                              /* [n_names]                              */
    uint32_t *slot;                        /* [slot_mask + 1], name + 1 by its hash  */
    size_t n_names, cap_names, slot_mask;
    uint32_t *seq;                         /* [n_seq], the sequences being parsed    */
    size_t n_seq, cap_seq;
    uint32_t current;                      /* the name being defined                 */
    char *err;                             /* [errlen]                               */
    size_t errlen;
};

/* The sentence, about the place `at`; -1 */
__attribute__((format(printf, 3, 4)))
static int bad(struct parser *p, const char *at, const char *fmt, ...)
{
    unsigned line = 1, column = 1;
    for (const char *s = p->text; s < at; s++) {
        column += (*s & 0xc0) != 0x80;
        if (*s == '\n') {
            line++;
            column = 1;
        }
    }
    int n = snprintf(p->err, p->errlen, "%s:%u:%u: ", p->name, line, column);
    va_list ap;
    va_start(ap, fmt);
    if (n >= 0 && (size_t)n < p->errlen)
        vsnprintf(p->err + n, p->errlen - (size_t)n, fmt, ap);
    va_end(ap);
    return -1;
}

static int no_room(struct parser *p, const char *at)
{
    if (p->r->failed == RULES_TOO_LARGE)
        return bad(p, at, "the grammar is too large: it has more than %d elements",
                   RULES_MAX_ELEMENTS);
    return bad(p, at, "out of memory");
}

/* The character at p->p as people know it: 'x', the end of the line, ... */
static const char *seen(const struct parser *p, char out[32])
{
    size_t n;
    int32_t c = p->p < p->end ? char_decode(p->p, (size_t)(p->end - p->p), &n) : -1;
    if (p->p == p->end)
        return "the end of the file";
    if (c == '\n' || c == '\r')
        return "the end of the line";
    if (c < ' ' || c == 0x7f)
        snprintf(out, 32, "byte 0x%02x", (unsigned char)*p->p);
    else
        snprintf(out, 32, "'%.*s'", (int)n, p->p);
    return out;
}

static int at_char(const struct parser *p, char c)
{
    return p->p < p->end && *p->p == c;
}

static void skip_space(struct parser *p, int newlines)
{
    for (; p->p < p->end; p->p++) {
        if (*p->p == '#')
            while (p->p + 1 < p->end && p->p[1] != '\n' && p->p[1] != '\r')
                p->p++;
        else if (*p->p != ' ' && *p->p != '\t' && !(newlines && (*p->p == '\n' || *p->p == '\r')))
            break;
    }
}

static int is_name_char(char c)
{
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
           c == '-' || c == '_';
}

static int is_digit(char c)
{
    return c >= '0' && c <= '9';
}

/* ---- names ---- */

static size_t name_hash(const char *s, size_t n)
{
    uint64_t h = 0xcbf29ce484222325u;
    while (n--)
        h = (h ^ (unsigned char)*s++) * 0x100000001b3u;
    return (size_t)(h ^ h >> 32);
}

static int grow_names(struct parser *p)
{
    size_t cap = 2 * p->cap_names + 32, mask = p->slot_mask ? 4 * p->slot_mask + 3 : 127;
    struct name *names = realloc(p->names, cap * sizeof *names);
    if (names)
        p->names = names;
    uint32_t *slot = names ? calloc(mask + 1, sizeof *slot) : NULL;
    if (!slot)
        return bad(p, p->p, "out of memory");
    for (size_t i = 0; i < p->n_names; i++) {
        size_t h = name_hash(names[i].text, names[i].len) & mask;
        while (slot[h])
            h = (h + 1) & mask;
        slot[h] = (uint32_t)i + 1;
    }
    free(p->slot);
    p->slot = slot;
    p->slot_mask = mask;
    p->cap_names = cap;
    return 0;
}

/* The index in names of the name at p->p, which is skipped; -1 */
static int64_t take_name(struct parser *p)
{
    const char *s = p->p;
    while (p->p < p->end && is_name_char(*p->p))
        p->p++;
    size_t n = (size_t)(p->p - s);
    if (p->n_names == p->cap_names && grow_names(p))
        return -1;
    size_t h = name_hash(s, n) & p->slot_mask;
    for (; p->slot[h]; h = (h + 1) & p->slot_mask) {
        const struct name *known = &p->names[p->slot[h] - 1];
        if (known->len == n && !memcmp(known->text, s, n))
            return p->slot[h] - 1;
    }
    uint32_t rule = rules_add(p->r, (uint32_t)p->n_names);
    if (rule == RULES_NONE)
        return no_room(p, s);
    p->names[p->n_names] = (struct name){ s, n, rule, NULL };
    p->slot[h] = (uint32_t)++p->n_names;
    return (int64_t)p->n_names - 1;
}

/* ---- elements ---- */

static int push(struct parser *p, uint32_t e)
{
    if (p->r->failed || p->n_seq > RULES_MAX_ELEMENTS) {
        p->r->failed = p->r->failed ? p->r->failed : RULES_TOO_LARGE;
        return no_room(p, p->p);
    }
    if (p->n_seq == p->cap_seq) {
        size_t cap = 2 * p->cap_seq + 64;
        uint32_t *seq = realloc(p->seq, cap * sizeof *seq);
        if (!seq)
            return bad(p, p->p, "out of memory");
        p->seq = seq;
        p->cap_seq = cap;
    }
    p->seq[p->n_seq++] = e;
    return 0;
}

/* One character of a literal or class, escapes resolved; -1.  There is one. */
static int32_t take_char(struct parser *p)
{
    const char *at = p->p;
    size_t n;
    if (*at != '\\') {
        int32_t c = char_decode(at, (size_t)(p->end - at), &n);
        p->p += n;
        return c;                          /* the text was found to be UTF-8 */
    }
    p->p++;
    unsigned digits = 0;
    if (p->p < p->end) {
        char c = *p->p++;
        switch (c) {
        case 'n': return '\n';
        case 't': return '\t';
        case 'r': return '\r';
        case '\\': case '"': case '[': case ']': case '-': case '^': return c;
        case 'x': digits = 2; break;
        case 'u': digits = 4; break;
        case 'U': digits = 8; break;
        default: break;
        }
    }
    if (!digits)
        return bad(p, at, "unknown escape; there are \\n \\t \\r \\\\ \\\" \\[ \\] \\- \\^ \\xHH \\uHHHH "
                   "and \\UHHHHHHHH");
    uint32_t c = 0;
    for (unsigned i = 0; i < digits; i++, p->p++) {
        char h = p->p < p->end ? *p->p : ' ', low = (char)(h | 32);
        if (!is_digit(h) && !(low >= 'a' && low <= 'f'))
            return bad(p, at, "\\%c is followed by %u hexadecimal digits", at[1], digits);
        c = c << 4 | (uint32_t)(is_digit(h) ? h - '0' : low - 'a' + 10);
    }
    if (c > CHAR_MAX_POINT || (c >= 0xd800 && c <= 0xdfff))
        return bad(p, at, "U+%04X is no character", c);
    return (int32_t)c;
}

static int parse_literal(struct parser *p)
{
    const char *open = p->p++;
    unsigned char utf8[4];
    while (!at_char(p, '"')) {
        int32_t c = p->p < p->end ? take_char(p) : bad(p, open, "this text has no closing '\"'");
        if (c < 0)
            return -1;
        size_t n = char_encode((uint32_t)c, utf8);
        for (size_t i = 0; i < n; i++)
            if (push(p, rules_byte(p->r, utf8[i])))
                return -1;
    }
    p->p++;
    return 0;
}

static int parse_class(struct parser *p)
{
    const char *open = p->p++, *first;
    int negated = at_char(p, '^'), failed = -1;
    struct charset set = { 0 };
    p->p += negated;
    first = p->p;
    while (!at_char(p, ']')) {
        const char *at = p->p;
        int32_t lo = p->p < p->end ? take_char(p) : bad(p, open, "this class has no closing ']'");
        int32_t hi = lo;
        if (lo < 0)
            goto out;
        if (p->end - p->p > 1 && *p->p == '-' && p->p[1] != ']') {
            p->p++;
            if ((hi = take_char(p)) < 0)
                goto out;
        }
        if (hi < lo) {
            bad(p, at, "this range ends before it begins");
            goto out;
        }
        charset_add(&set, (uint32_t)lo, (uint32_t)hi);
    }
    if (p->p == first) {
        bad(p, open, "expected at least one character in this class");
        goto out;
    }
    p->p++;
    charset_done(&set, negated);
    failed = push(p, rules_class(p->r, &set, p->current));
out:
    charset_free(&set);
    return failed;
}

static int parse_any(struct parser *p)
{
    struct charset all = { 0 };
    p->p++;
    charset_done(&all, 1);
    int failed = push(p, rules_class(p->r, &all, p->current));
    charset_free(&all);
    return failed;
}

/* A number within the limit; -1 */
static int64_t take_number(struct parser *p)
{
    const char *at = p->p;
    int64_t n = 0;
    char what[32];
    if (p->p == p->end || !is_digit(*p->p))
        return bad(p, at, "expected a number, not %s", seen(p, what));
    while (p->p < p->end && is_digit(*p->p)) {
        n = 10 * n + (*p->p++ - '0');
        if (n > GRAMMAR_MAX_REPEAT)
            return bad(p, at, "at most %d repetitions are possible", GRAMMAR_MAX_REPEAT);
    }
    return n;
}

/* What stands behind * + ? { as bounds; 0 or -1 */
static int take_bounds(struct parser *p, uint32_t *min, uint32_t *max)
{
    const char *at = p->p;
    char c = *p->p++, what[32];
    *min = c == '+';
    *max = c == '?' ? 1 : RULES_NONE;
    if (c != '{')
        return 0;
    skip_space(p, 1);
    int64_t lo = take_number(p), hi = lo;
    if (lo < 0)
        return -1;
    skip_space(p, 1);
    if (at_char(p, ',')) {
        p->p++;
        skip_space(p, 1);
        hi = RULES_NONE;
        if (!at_char(p, '}') && (hi = take_number(p)) < 0)
            return -1;
        skip_space(p, 1);
    }
    if (!at_char(p, '}'))
        return bad(p, p->p, "expected '}', not %s", seen(p, what));
    p->p++;
    if (hi < lo)
        return bad(p, at, "these bounds end before they begin");
    *min = (uint32_t)lo;
    *max = (uint32_t)hi;
    return 0;
}

/* Repeats seq[item..), the last thing parsed */
static int parse_repeat(struct parser *p, size_t item)
{
    uint32_t min, max, x;
    if (take_bounds(p, &min, &max))
        return -1;
    if (p->n_seq == item + 1) {
        x = p->seq[item];
    } else {
        uint32_t rule = rules_add(p->r, p->current);
        if (rule == RULES_NONE)
            return no_room(p, p->p);
        size_t n = p->n_seq - item;
        rules_alt(p->r, rule, n ? p->seq + item : NULL, n);
        x = el(EL_RULE, rule);
    }
    p->n_seq = item;
    return push(p, rules_repeat(p->r, x, min, max, p->current));
}

static int parse_alternatives(struct parser *p, uint32_t rule, int depth);

static int parse_group(struct parser *p, int depth)
{
    const char *open = p->p++;
    if (depth == GRAMMAR_MAX_DEPTH)
        return bad(p, open, "more than %d parentheses in each other", GRAMMAR_MAX_DEPTH);
    uint32_t rule = rules_add(p->r, p->current);
    if (rule == RULES_NONE)
        return no_room(p, open);
    skip_space(p, 1);
    if (parse_alternatives(p, rule, depth + 1))
        return -1;
    if (!at_char(p, ')')) {
        char what[32];
        return p->p == p->end ? bad(p, open, "this parenthesis is never closed")
                              : bad(p, p->p, "expected '|', ')' or something to match, not %s", seen(p, what));
    }
    p->p++;
    return push(p, el(EL_RULE, rule));
}

static int parse_reference(struct parser *p)
{
    const char *at = p->p;
    int64_t name = take_name(p);
    if (name < 0)
        return -1;
    const char *after = p->p;
    skip_space(p, 0);
    if (p->end - p->p >= 3 && !memcmp(p->p, "::=", 3))
        return bad(p, at, "expected something to match before the next rule; \"\" is nothing at all");
    p->p = after;
    return push(p, el(EL_RULE, p->names[name].rule));
}

/* A sequence, as an alternative of `rule` */
static int parse_sequence(struct parser *p, uint32_t rule, int depth)
{
    size_t base = p->n_seq, item = base;
    int any = 0, failed = 0;
    for (; p->p < p->end && !failed; skip_space(p, depth > 0)) {
        char c = *p->p;
        if (c == '*' || c == '+' || c == '?' || c == '{') {
            failed = any ? parse_repeat(p, item)
                         : bad(p, p->p, "expected something to repeat before '%c'", c);
            continue;
        }
        size_t begin = p->n_seq;
        if (c == '"')
            failed = parse_literal(p);
        else if (c == '[')
            failed = parse_class(p);
        else if (c == '.')
            failed = parse_any(p);
        else if (c == '(')
            failed = parse_group(p, depth);
        else if (is_name_char(c))
            failed = parse_reference(p);
        else if (c == '<' || c == '!')
            failed = bad(p, p->p, "single tokens cannot be named here; write their text in quotes");
        else
            break;
        item = begin;
        any = 1;
    }
    if (failed)
        return -1;
    size_t n = p->n_seq - base;
    rules_alt(p->r, rule, n ? p->seq + base : NULL, n);
    p->n_seq = base;
    return p->r->failed ? no_room(p, p->p) : 0;
}

static int parse_alternatives(struct parser *p, uint32_t rule, int depth)
{
    while (!parse_sequence(p, rule, depth)) {
        if (!at_char(p, '|'))
            return 0;
        p->p++;
        skip_space(p, 1);
    }
    return -1;
}

/* ---- rules ---- */

static int parse_rule(struct parser *p)
{
    char what[32];
    const char *at = p->p;
    if (!is_name_char(*p->p))
        return bad(p, at, "expected the name of a rule, not %s", seen(p, what));
    int64_t name = take_name(p);
    if (name < 0)
        return -1;
    skip_space(p, 0);
    if (p->end - p->p < 3 || memcmp(p->p, "::=", 3))
        return bad(p, p->p, "expected ::= after the name of a rule, not %s", seen(p, what));
    p->p += 3;
    struct name *known = &p->names[name];
    if (known->defined)
        return bad(p, at, "rule \"%.*s\" is defined twice", (int)(known->len < 60 ? known->len : 60),
                   known->text);
    known->defined = at;
    p->current = (uint32_t)name;
    skip_space(p, 1);
    if (parse_alternatives(p, known->rule, 0))
        return -1;
    if (p->p < p->end && *p->p != '\n' && *p->p != '\r')
        return *p->p == ')' ? bad(p, p->p, "this parenthesis was never opened")
                            : bad(p, p->p, "expected '|', the end of the line or something to match, "
                                  "not %s", seen(p, what));
    skip_space(p, 1);
    return 0;
}

static int check_text(struct parser *p, size_t len)
{
    size_t n;
    if (len > GRAMMAR_MAX_BYTES)
        return bad(p, p->text, "the grammar has %zu bytes; at most %d are possible", len,
                   GRAMMAR_MAX_BYTES);
    for (p->p = p->text; p->p < p->end; p->p += n)
        if (char_decode(p->p, (size_t)(p->end - p->p), &n) <= 0)
            return bad(p, p->p, *p->p ? "this is not UTF-8" : "expected text, not a NUL byte");
    p->p = p->text;
    return 0;
}

static int finish(struct parser *p)
{
    const struct name *root = NULL, *n;
    for (size_t i = 0; i < p->n_names; i++) {
        n = &p->names[i];
        int len = n->len < 60 ? (int)n->len : 60;
        if (!n->defined)
            return bad(p, n->text, "rule \"%.*s\" is not defined", len, n->text);
        if (n->len == 4 && !memcmp(n->text, "root", 4))
            root = n;
    }
    if (!root)
        return bad(p, p->end, "expected a rule \"root\", where matching begins");
    uint32_t culprit;
    int why = rules_finish(p->r, root->rule, &culprit);
    if (why == RULES_OK)
        return 0;
    if (why == RULES_FAILED)
        return no_room(p, p->end);
    n = &p->names[p->r->rule[culprit].tag];
    int len = n->len < 60 ? (int)n->len : 60;
    if (why == RULES_NEVER_ENDS)
        return bad(p, n->defined, "rule \"%.*s\" never ends: each of its alternatives needs another "
                   "that needs it", len, n->text);
    return bad(p, n->defined, "rule \"%.*s\" is left-recursive: it can begin with itself; write it "
               "as a repetition, or with itself at the end", len, n->text);
}

int grammar_parse(struct rules *r, const char *name, const char *text, size_t len,
                  char *err, size_t errlen)
{
    struct parser p = { .name = name, .text = text, .end = text + len, .p = text, .r = r,
                        .err = err, .errlen = errlen };
    int failed = check_text(&p, len);
    if (!failed)
        skip_space(&p, 1);
    while (!failed && p.p < p.end)
        failed = parse_rule(&p);
    if (!failed)
        failed = finish(&p);
    free(p.names);
    free(p.slot);
    free(p.seq);
    if (failed)
        rules_free(r);
    return failed;
}
