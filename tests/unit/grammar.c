/* tests/unit/grammar.c -- GBNF and the automaton that follows it: tables of what matches,
 * every error with its place, random grammars against a slow matcher that shares no code,
 * and what strangers write. */
#include "repl/grammar/grammar.h"
#include "repl/grammar/matcher.h"
#include "tests/tap.h"
#include "tests/unit/tok_fixture.h"

static int parse(struct rules *r, const char *text, size_t len, char err[512])
{
    *r = (struct rules){ 0 };
    return grammar_parse(r, "g", text, len, err, 512);
}

/* 1 complete, 0 a beginning, -1 neither, -2 too ambiguous */
static int follow(struct matcher *m, const char *s, size_t n)
{
    uint32_t state = m->start;
    m->work = 0;
    for (size_t i = 0; i < n && state; i++)
        state = matcher_next(m, state, (unsigned char)s[i]);
    return m->failed ? -2 : !state ? -1 : matcher_can_end(m, state);
}

/* ---- tables ---- */

static const struct {
    const char *grammar, *yes[6], *begin[6], *no[6];
} table[] = {
    { "root ::= \"abc\"", { "abc" }, { "", "ab" }, { "b", "abcd", "abd" } },
    { "root ::= \"a\" | \"b\" \"c\" |", { "", "a", "bc" }, { "b" }, { "c", "ab" } },
    { "root ::= \"\"", { "" }, { 0 }, { "a" } },
    { "root ::=", { "" }, { 0 }, { "a" } },
    { "root ::=\n  \"a\" |\n  # c\n  \"b\"\n", { "a", "b" }, { "" }, { "c" } },
    { "# c\n\nroot ::= x # y\n\n\nx ::= (\n\"a\"\n# z\n\"b\" |\n\"c\"\n)\n#", { "ab", "c" }, { "a" }, { "b" } },
    { "root ::= \"a\" # \"b\"\r\nx ::= \"c\"\r\n", { "a" }, { "" }, { "ab", "c" } },
    { "root ::= [a-c\\]x-]+", { "a", "b]", "x-c" }, { "" }, { "d", "a[" } },
    { "root ::= [^a-c\\n]*", { "", "xyz", "é€😀" }, { "\xc3" }, { "a", "x\n" } },
    { "root ::= [-a]", { "-", "a" }, { "" }, { "b" } },
    { "root ::= [\\x41-\\u00e9\\U0001F600]", { "A", "Z", "é", "😀" }, { "\xf0\x9f" }, { "@", "ê", "😁" } },
    { "root ::= \"\\x41\\u00e9\\U0001F600\\n\\t\\r\\\\\\\"\\[\\]\"", { "Aé😀\n\t\r\\\"[]" }, { "A\xc3" }, { "B" } },
    { "root ::= .", { "a", "\n", "é", "😀", "\x7f" }, { "", "\xe2\x82" }, { "ab", "\x80", "\xc0", "\xff" } },
    { "root ::= .*", { "", "a😀" }, { "\xf0", "\xf0\x9f\x98", "a\xe2" }, { "\xed\xa0", "\xc1", "\xf4\x90", "\xe0\x80", "a\x80" } },
    { "root ::= \"a\"{3}", { "aaa" }, { "", "aa" }, { "aaaa" } },
    { "root ::= \"ab\"{ 2 , 3 }", { "abab", "ababab" }, { "ab", "aba" }, { "abababab" } },
    { "root ::= \"a\"{2,}\"b\"", { "aab", "aaaab" }, { "a", "aaa" }, { "ab", "b" } },
    { "root ::= \"a\"{0,2}", { "", "a", "aa" }, { 0 }, { "aaa" } },
    { "root ::= \"a\"{0} \"b\"", { "b" }, { "" }, { "a" } },
    { "root ::= \"a\"{0,0} \"b\"", { "b" }, { "" }, { "a" } },
    { "root ::= \"a\"?\"b\"+\"c\" *", { "b", "abbcc" }, { "a" }, { "c", "aab" } },
    { "root ::= \"a\"** \"b\"", { "b", "aab" }, { "aa" }, { "c" } },
    /* loops around nothing */
    { "root ::= (\"a\"*)*", { "", "a", "aaa" }, { 0 }, { "b" } },
    { "root ::= ((\"a\"? \"b\"?)* | \"c\"*)+ \"d\"", { "d", "abbad", "ccd", "abccd" }, { "ab" }, { "e" } },
    { "root ::= (\"\"*)+ \"a\"", { "a" }, { "" }, { "b" } },
    { "root ::= (\"a\"?){3,5} \"b\"", { "b", "ab", "aaaaab" }, { "aaaaa" }, { "aaaaaab" } },
    { "root ::= x y\nx ::= \"\" | \"a\" x\ny ::= x \"b\" | \"\"", { "", "a", "aab", "b" }, { 0 }, { "ba" } },
    /* recursion */
    { "root ::= \"(\" root \")\" root | \"\"", { "", "()", "(()())()" }, { "(", "(()" }, { ")", "())" } },
    { "root ::= \"a\" root \"a\" | \"b\" root \"b\" | \"\"", { "", "aa", "abba", "baab" }, { "a", "ab" }, { "c" } },
    { "root ::= e\ne ::= t (\"+\" t)*\nt ::= f (\"*\" f)*\nf ::= [0-9]+ | \"(\" e \")\"",
      { "1", "1+2*(3+45)" }, { "", "1+", "(1" }, { "+", "1)", "()" } },
    /* one may end, another go on */
    { "root ::= \"a\" | \"ab\" | \"abc\" \"d\"?", { "a", "ab", "abc", "abcd" }, { "" }, { "b", "ac" } },
    /* what never ends is as if it were not there */
    { "root ::= \"a\" | \"b\" x\nx ::= \"c\" x", { "a" }, { "" }, { "b", "bc" } },
    { "root ::= \"a\"\nunused_1 ::= \"b\" unused_1", { "a" }, { "" }, { "b" } },
};

static void test_table(void)
{
    for (size_t i = 0; i < sizeof table / sizeof *table; i++) {
        struct rules r;
        struct matcher m;
        char err[512];
        int len = (int)strcspn(table[i].grammar, "\n");
        if (!ok(!parse(&r, table[i].grammar, strlen(table[i].grammar), err), "parsed: %.*s", len,
                table[i].grammar)) {
            diag("%s", err);
            continue;
        }
        matcher_init(&m, &r);
        int good = 1;
        for (int k = 0; k < 3; k++)
            for (int j = 0; j < 6; j++) {
                const char *s = k == 0 ? table[i].yes[j] : k == 1 ? table[i].begin[j] : table[i].no[j];
                int want = k == 0 ? 1 : k == 1 ? 0 : -1;
                if (s && follow(&m, s, strlen(s)) != want) {
                    diag("\"%s\": %d, wanted %d", s, follow(&m, s, strlen(s)), want);
                    good = 0;
                }
            }
        ok(good, "... and matches what it should");
        matcher_free(&m);
        rules_free(&r);
    }
}

static const struct { const char *grammar, *error; } errors[] = {
    { "", "g:1:1: expected a rule \"root\"" },
    { "  # c\n", "g:2:1: expected a rule \"root\"" },
    { "x ::= \"a\"\n", "g:2:1: expected a rule \"root\"" },
    { "root", "g:1:5: expected ::= after the name of a rule, not the end of the file" },
    { "root := \"a\"", "g:1:6: expected ::= after the name of a rule, not ':'" },
    { "root\n::= \"a\"", "g:1:5: expected ::= after the name of a rule, not the end of the line" },
    { "root ::= \"a\n\nx", "g:1:10: this text has no closing '\"'" },
    { "root ::= \"a\\", "g:1:12: unknown escape" },
    { "root ::= \"é\\q\"", "g:1:12: unknown escape" },
    { "root ::= \"\\x4g\"", "g:1:11: \\x is followed by 2 hexadecimal digits" },
    { "root ::= \"\\u12\"", "g:1:11: \\u is followed by 4 hexadecimal digits" },
    { "root ::= \"\\U0000004", "g:1:11: \\U is followed by 8 hexadecimal digits" },
    { "root ::= \"\\ud800\"", "g:1:11: U+D800 is no character" },
    { "root ::= [\\U00110000]", "g:1:11: U+110000 is no character" },
    { "root ::= [a", "g:1:10: this class has no closing ']'" },
    { "root ::= [a-", "g:1:10: this class has no closing ']'" },
    { "root ::= []", "g:1:10: expected at least one character in this class" },
    { "root ::= [^]", "g:1:10: expected at least one character in this class" },
    { "root ::= [0z-a]", "g:1:12: this range ends before it begins" },
    { "root ::= (\"a\"\n", "g:1:10: this parenthesis is never closed" },
    { "root ::= (\"a\" ;)", "g:1:15: expected '|', ')' or something to match, not ';'" },
    { "root ::= \"a\")", "g:1:13: this parenthesis was never opened" },
    { "root ::= *", "g:1:10: expected something to repeat before '*'" },
    { "root ::= \"a\" | ?", "g:1:16: expected something to repeat before '?'" },
    { "root ::= (+)", "g:1:11: expected something to repeat before '+'" },
    { "root ::= \"a\"{}", "g:1:14: expected a number, not '}'" },
    { "root ::= \"a\"{,3}", "g:1:14: expected a number, not ','" },
    { "root ::= \"a\"{3", "g:1:15: expected '}', not the end of the file" },
    { "root ::= \"a\"{3,x}", "g:1:16: expected a number, not 'x'" },
    { "root ::= \"a\"{3 4}", "g:1:16: expected '}', not '4'" },
    { "root ::= \"a\"{3,2}", "g:1:13: these bounds end before they begin" },
    { "root ::= \"a\"{65536}", "g:1:14: at most 65535 repetitions" },
    { "root ::= \"a\"{0,99999999999999999999}", "g:1:16: at most 65535 repetitions" },
    { "root ::= \"a\" ;", "g:1:14: expected '|', the end of the line or something to match, not ';'" },
    { "root ::= é", "g:1:10: expected '|', the end of the line or something to match, not 'é'" },
    { "root ::= \x01", "g:1:10: expected '|', the end of the line or something to match, not byte 0x01" },
    { "\"a\"", "g:1:1: expected the name of a rule, not '\"'" },
    { "root ::= \"a\"\n| \"b\"", "g:2:1: expected the name of a rule, not '|'" },
    { "root ::= <think>", "g:1:10: single tokens cannot be named here" },
    { "root ::= \"a\"\n\nroot ::= \"b\"", "g:3:1: rule \"root\" is defined twice" },
    { "root ::= \"a\" | xy\n", "g:1:16: rule \"xy\" is not defined" },
    { "root ::= x\nx ::= y ::= \"a\"", "g:2:7: expected something to match before the next rule" },
    { "root ::= \n\nx ::= \"a\"", "g:3:1: expected something to match before the next rule" },
    { "root ::= root \"a\" | \"a\"", "g:1:1: rule \"root\" is left-recursive" },
    { "root ::= \"\" root", "g:1:1: rule \"root\" never ends" },
    { "root ::= root | \"a\"", "g:1:1: rule \"root\" is left-recursive" },
    { "root ::= \"x\" a\na ::= \"\"? b \"y\"\nb ::= a | \"z\"\n", "is left-recursive" },
    { "root ::= \"a\"? root \"b\" | \"c\"", "g:1:1: rule \"root\" is left-recursive" },
    { "root ::= (\"a\" | root)*", "g:1:1: rule \"root\" is left-recursive" },
    { "root ::= x\nx ::= (x)* \"a\"", "g:2:1: rule \"x\" is left-recursive" },
    { "root ::= \"a\" x\nx ::= \"b\" root", "g:1:1: rule \"root\" never ends" },
    { "root ::= \"\xff\"", "g:1:11: this is not UTF-8" },
    { "root ::= \"\xe2\x82", "g:1:11: this is not UTF-8" },
};

static void test_errors(void)
{
    struct rules r;
    char err[512];
    for (size_t i = 0; i < sizeof errors / sizeof *errors; i++) {
        int failed = parse(&r, errors[i].grammar, strlen(errors[i].grammar), err);
        if (!ok(failed && strstr(err, errors[i].error), "refused: %s", failed ? err : "(it was not)"))
            diag("wanted: %s", errors[i].error);
        if (!failed)
            rules_free(&r);
    }
    ok(parse(&r, "root ::= \"a\0b\"", 14, err) && strstr(err, "g:1:12: expected text, not a NUL"),
       "a NUL byte: %s", err);
}

/* ---- classes: which characters, and which bytes at all ---- */

static void test_classes(void)
{
    static const uint32_t edges[] = { 0x7f, 0x80, 0x7ff, 0x800, 0xfff, 0x1000, 0xd7ff, 0xe000, 0xffff, 0x10000,
                                      0x3ffff, 0x40000, 0xfffff, 0x100000, 0x10ffff };
    int wrong = 0, tried = 0;
    for (int i = 0; i < 400; i++) {
        char text[200], utf8[8], err[512];
        struct rules r;
        struct matcher m;
        uint32_t lo[2], hi[2];
        int negated = (int)rng(2);
        for (int k = 0; k < 2; k++) {
            lo[k] = rng(2) ? edges[rng(15)] : rng(0x110000) >> rng(20);
            hi[k] = lo[k] + (rng(0x110000) >> rng(20));
            hi[k] = rng(2) ? edges[rng(15)] : hi[k];
            lo[k] = lo[k] >= 0xd800 && lo[k] <= 0xdfff ? 0xd7ff : lo[k];
            hi[k] = hi[k] > 0x10ffff ? 0x10ffff : hi[k] >= 0xd800 && hi[k] <= 0xdfff ? 0xe000 : hi[k];
            hi[k] = hi[k] < lo[k] ? lo[k] : hi[k];
        }
        snprintf(text, sizeof text, "root ::= [%s\\U%08X-\\U%08X\\U%08X-\\U%08X]", negated ? "^" : "", lo[0], hi[0], lo[1], hi[1]);
        if (parse(&r, text, strlen(text), err))
            continue;                      /* all characters, negated */
        matcher_init(&m, &r);
        for (int k = 0; k < 200; k++, tried++) {
            uint32_t c = rng(3) ? (rng(2) ? lo : hi)[rng(2)] + rng(5) - 2 : rng(2) ? edges[rng(15)] : rng(0x110000);
            if (c > 0x10ffff)
                continue;
            int n = (int)(put_utf8(utf8, c) - utf8);   /* a surrogate, too: those never match */
            int in = (c >= lo[0] && c <= hi[0]) || (c >= lo[1] && c <= hi[1]);
            int want = in != negated && !(c >= 0xd800 && c <= 0xdfff);
            if ((follow(&m, utf8, (size_t)n) == 1) != want && !wrong++)
                diag("%s: U+%04X should %smatch", text, c, want ? "" : "not ");
            utf8[rng((uint32_t)n)] ^= (char)(1 << rng(8));     /* and whatever bytes those are */
            if (follow(&m, utf8, (size_t)n) == 1) {
                size_t len;
                int32_t d = char_decode(utf8, (size_t)n, &len);
                wrong += d < 0 || len != (size_t)n ||
                         (((uint32_t)d >= lo[0] && (uint32_t)d <= hi[0]) || ((uint32_t)d >= lo[1] && (uint32_t)d <= hi[1])) == negated;
            }
        }
        matcher_free(&m);
        rules_free(&r);
    }
    ok(!wrong, "classes have their characters and no others (%d tried)", tried);
}

/* ---- random grammars against a matcher that shares no code ---- */

enum { LIT, CLASS, SEQ, ALT, REP, REF };
struct node {
    int kind, min, max, negated, rule;     /* max -1: no end */
    uint32_t c[3];
    int n;                                 /* of c or of kid */
    struct node *kid[3];
};
static struct node pool[4000], *rule_of[4];
static size_t n_pool;
static const uint32_t letters[] = { 'a', 'b', 0xe9, 0x20ac, 0x1f600, 0x1f601 };

/* guarded: a byte has come before, so that any rule may follow */
static struct node *random_node(int depth, int rule, int guarded)
{
    struct node *x = &pool[n_pool++];
    *x = (struct node){ .kind = (int)rng(depth > 3 ? 2 : 6) };
    x->n = 1 + (int)rng(3);
    if (x->kind == REF && rule == 3 && !guarded)
        x->kind = LIT;
    if (x->kind == LIT || x->kind == CLASS) {
        x->negated = x->kind == CLASS && !rng(3);
        for (int i = 0; i < x->n; i++)
            x->c[i] = letters[rng(6)];
    } else if (x->kind == SEQ || x->kind == ALT) {
        for (int i = 0; i < x->n; i++) {
            x->kid[i] = random_node(depth + 1, rule, guarded);
            /* only these are sure to take a byte */
            guarded |= x->kind == SEQ && (x->kid[i]->kind == LIT || x->kid[i]->kind == CLASS);
        }
    } else if (x->kind == REP) {
        x->kid[0] = random_node(depth + 1, rule, guarded);
        x->min = (int)rng(3);
        x->max = rng(2) ? x->min + (int)rng(3) : -1;
        x->max = x->max ? x->max : 1;
    } else {
        x->rule = guarded ? (int)rng(4) : rule + 1 + (int)rng((uint32_t)(3 - rule));
    }
    return x;
}

static char *print_char(char *p, uint32_t c)
{
    if (rng(2))
        return put_utf8(p, c);
    return p + sprintf(p, c < 0x100 ? "\\x%02x" : c < 0x10000 ? "\\u%04X" : "\\U%08X", c);
}

static char *print_node(char *p, const struct node *x)
{
    switch (x->kind) {
    case LIT: case CLASS:
        p += sprintf(p, x->kind == LIT ? "\"" : x->negated ? "[^" : "[");
        for (int i = 0; i < x->n; i++)
            p = print_char(p, x->c[i]);
        p += sprintf(p, x->kind == LIT ? "\"" : "]");
        break;
    case SEQ: case ALT:
        *p++ = '(';
        for (int i = 0; i < x->n; i++) {
            p += sprintf(p, i == 0 ? "" : x->kind == SEQ ? " " : " | ");
            p = print_node(p, x->kid[i]);
        }
        *p++ = ')';
        break;
    case REP:
        p = print_node(p, x->kid[0]);
        if (x->max < 0)
            p += x->min < 2 ? sprintf(p, x->min ? "+" : "*") : sprintf(p, "{%d,}", x->min);
        else if (x->min == 0 && x->max == 1)
            *p++ = '?';
        else
            p += x->min == x->max ? sprintf(p, "{%d}", x->min) : sprintf(p, "{%d,%d}", x->min, x->max);
        break;
    default:
        p += sprintf(p, "%s", ((const char *const[]){ "root", "r1", "r2", "r3" })[x->rule]);
    }
    *p = '\0';
    return p;
}

/* Sets of positions in a text of up to 60 characters, as bits: where a match of x that
 * begins at one of `from` can end. */
static uint64_t slow(const struct node *x, const uint32_t *text, int n, uint64_t from, int fuel)
{
    uint64_t to = 0, all = 0;
    if (!from || !fuel)
        return 0;
    switch (x->kind) {
    case LIT:
        for (int at = 0; at + x->n <= n; at++)
            if (from >> at & 1) {
                int same = 1;
                for (int i = 0; i < x->n; i++)
                    same &= text[at + i] == x->c[i];
                to |= (uint64_t)same << (at + x->n);
            }
        return to;
    case CLASS:
        for (int at = 0; at < n; at++)
            if (from >> at & 1) {
                int in = 0;
                for (int i = 0; i < x->n; i++)
                    in |= text[at] == x->c[i];
                to |= (uint64_t)(in != x->negated) << (at + 1);
            }
        return to;
    case SEQ:
        for (int i = 0; i < x->n; i++)
            from = slow(x->kid[i], text, n, from, fuel);
        return from;
    case ALT:
        for (int i = 0; i < x->n; i++)
            to |= slow(x->kid[i], text, n, from, fuel);
        return to;
    case REP:
        for (int i = 0; i < x->min; i++)
            from = slow(x->kid[0], text, n, from, fuel);
        for (int i = x->min; from & ~all && (x->max < 0 || i <= x->max); i++) {
            all |= from;
            from = slow(x->kid[0], text, n, from, fuel);
        }
        return all;
    default:
        return slow(rule_of[x->rule], text, n, from, fuel - 1);
    }
}

/* A text that x matches, to text[n..); the new n, or -1 when it becomes too long */
static int derive(const struct node *x, uint32_t *text, int n, int fuel)
{
    if (n > 12 || !fuel)
        return -1;
    switch (x->kind) {
    case LIT:
        for (int i = 0; i < x->n; i++)
            text[n++] = x->c[i];
        return n;
    case CLASS:
        for (int tries = 0; tries < 50; tries++) {
            uint32_t c = letters[rng(6)];
            int in = 0;
            for (int i = 0; i < x->n; i++)
                in |= c == x->c[i];
            if (in != x->negated)
                return text[n] = c, n + 1;
        }
        return -1;
    case SEQ:
        for (int i = 0; i < x->n && n >= 0; i++)
            n = derive(x->kid[i], text, n, fuel - 1);
        return n;
    case ALT:
        return derive(x->kid[rng((uint32_t)x->n)], text, n, fuel - 1);
    case REP: {
        int times = x->min + (int)rng(x->max < 0 ? 3 : (uint32_t)(x->max - x->min + 1));
        for (int i = 0; i < times && n >= 0; i++)
            n = derive(x->kid[0], text, n, fuel - 1);
        return n;
    }
    default:
        return derive(rule_of[x->rule], text, n, fuel - 1);
    }
}

static int compare(struct matcher *m, const uint32_t *text, int n, int *yes)
{
    char utf8[256], *p = utf8;
    for (int i = 0; i < n; i++)
        p = put_utf8(p, text[i]);
    int want = (int)(slow(rule_of[0], text, n, 1, 40) >> n & 1);
    int got = follow(m, utf8, (size_t)(p - utf8));
    *yes += want;
    if ((got == 1) != want)
        diag("\"%.*s\": slow matcher says %d, automaton %d", (int)(p - utf8), utf8, want, got);
    return (got == 1) == want;
}

static void test_random(void)
{
    int grammars = 0, refused = 0, texts = 0, yes = 0, derived = 0, wrong = 0;
    while (grammars < 1500 && wrong < 5) {
        char text[60000], *p = text, err[512];
        struct rules r;
        struct matcher m;
        n_pool = 0;
        for (int i = 0; i < 4; i++)
            rule_of[i] = random_node(0, i, 0);
        for (int i = 0; i < 4; i++) {
            p += sprintf(p, i ? "r%d ::= " : "root ::= ", i);
            p = print_node(p, rule_of[i]);
            *p++ = '\n';
        }
        if (parse(&r, text, (size_t)(p - text), err)) {        /* a few never end */
            refused++;
            wrong += !strstr(err, "never ends");
            continue;
        }
        grammars++;
        matcher_init(&m, &r);
        int before = wrong;
        for (int i = 0; i < 30; i++) {
            uint32_t t[60];
            int n = derive(rule_of[0], t, 0, 60);
            derived += n >= 0;
            if (n < 0)                     /* too long, or a dead end: any text */
                for (n = 0; n < 5; n++)
                    t[n] = letters[rng(6)];
            if (n <= 20) {
                wrong += !compare(&m, t, n, &yes);
                for (int k = 0; k < 6; k++, texts++) {         /* and what is near it */
                    int at = (int)rng((uint32_t)n + 1), kind = (int)rng(3);
                    if (kind == 0 && at < n)
                        t[at] = letters[rng(6)];
                    else if (kind == 1 && n < 30) {
                        memmove(t + at + 1, t + at, (size_t)(n - at) * sizeof *t);
                        t[at] = letters[rng(6)];
                        n++;
                    } else if (at < n) {
                        memmove(t + at, t + at + 1, (size_t)(n - at - 1) * sizeof *t);
                        n--;
                    }
                    wrong += !compare(&m, t, n, &yes);
                }
            }
        }
        if (wrong > before)
            diag("%s", text);
        matcher_free(&m);
        rules_free(&r);
    }
    ok(!wrong, "%d random grammars, %d texts (%d derived, %d matched): as the slow matcher says "
       "(%d grammars that never end were refused)", grammars, texts, derived, yes, refused);
}

/* ---- strangers ---- */

static char big[GRAMMAR_MAX_BYTES + 2];

static size_t fill(const char *head, const char *again, const char *tail, size_t times)
{
    char *p = big + sprintf(big, "%s", head);
    size_t n = strlen(again);
    for (size_t i = 0; i < times && (size_t)(p - big) + n + 40 < sizeof big; i++, p += n)
        memcpy(p, again, n);
    return (size_t)(p + sprintf(p, "%s", tail) - big);
}

static void test_hostile(void)
{
    struct rules r;
    struct matcher m;
    char err[512];
    size_t n = fill("root ::= ", "(", "", GRAMMAR_MAX_BYTES);
    ok(parse(&r, big, n, err) && strstr(err, "g:1:210: more than 200"), "a million parentheses: %s", err);
    memset(big, 'a', sizeof big);
    ok(parse(&r, big, sizeof big, err) && strstr(err, "at most 1048576"), "too many bytes: %s", err);
    n = fill("root ::= ", "\"a\"{65535}", "", 1000);
    ok(parse(&r, big, n, err) && strstr(err, "too large"), "too many elements: %s", err);
    n = fill("root ::= ", ".", "", GRAMMAR_MAX_BYTES);
    ok(parse(&r, big, n, err) && strstr(err, "too large"), "too many rules: %s", err);
    n = fill("root ::= ((((\"a\"", "{65535})", "{3}", 4);
    ok(!parse(&r, big, n, err) && !matcher_init(&m, &r) && follow(&m, "aaaa", 4) == 0,
       "65535 to the 4th times 3 costs what it is long");
    matcher_free(&m);
    rules_free(&r);

    /* a chain of rules, each the other's beginning: no recursion of ours */
    char *p = big + sprintf(big, "root ::= r0\n");
    int last = 0;
    for (; last < 40000; last++)
        p += sprintf(p, "r%d ::= r%d?\n", last, last + 1);
    p += sprintf(p, "r%d ::= \"a\"\n", last);
    ok(!parse(&r, big, (size_t)(p - big), err) && !matcher_init(&m, &r) && follow(&m, "a", 1) == 1,
       "a chain of 40000 rules");
    matcher_free(&m);
    rules_free(&r);
    p -= strlen("\"a\"\n");
    p += sprintf(p, "r0 | \"a\"\n");
    ok(parse(&r, big, (size_t)(p - big), err) && strstr(err, "left-recursive"), "... and a circle: %s", err);

    /* 2^n ways to read what was said, and as many stacks: shared */
    static const char two[] = "root ::= \"a\" root \"b\" | \"a\" root \"c\" | \"a\" root \"b\" \"c\" | \"d\"";
    parse(&r, two, strlen(two), err);
    matcher_init(&m, &r);
    char text[1300];
    memset(text, 'a', 600);
    text[600] = 'd';
    memset(text + 601, 'b', 600);
    int fine = follow(&m, text, 601) == 0 && follow(&m, text, 1201) == 1 && follow(&m, text, 1200) == 0;
    ok(fine && matcher_bytes(&m) < 1 << 20, "3^600 ways to read a text (%zu KB)", matcher_bytes(&m) / 1024);
    matcher_free(&m);
    rules_free(&r);
    /* the same rule at many depths at once: what is below must be merged, and rightly */
    static const char sums[] = "root ::= \"a\" root \"x\" | \"aa\" root \"y\" | \"aaa\" root \"z\" | \"d\"";
    parse(&r, sums, strlen(sums), err);
    matcher_init(&m, &r);
    fine = 1;
    for (int i = 0; i < 300 && fine; i++) {
        int deep = i < 290 ? (int)rng(20) : 300, sum = 0;
        memset(text, 'a', (size_t)deep);
        text[deep] = 'd';
        size_t end = (size_t)deep + 1;
        while (sum < deep) {
            int k = (int)rng(3);
            sum += k + 1;
            text[end++] = "xyz"[k];
        }
        fine = follow(&m, text, end) == (sum == deep ? 1 : -1) && (!deep || follow(&m, text, end - 1) == 0) &&
               follow(&m, text, (size_t)deep) == 0;
    }
    ok(fine && matcher_bytes(&m) < 4 << 20, "a rule at many depths at once (%zu KB)", matcher_bytes(&m) / 1024);
    matcher_free(&m);
    rules_free(&r);
    /* the same place reached at different depths: one pair, what is below merged */
    static const char depths[] = "root ::= \"a\" root \"x\" | \"a\"* \"d\"";
    parse(&r, depths, strlen(depths), err);
    matcher_init(&m, &r);
    fine = 1;
    for (int i = 0; i < 200 && fine; i++) {
        int deep = i < 199 ? (int)rng(30) : 600, k = i < 199 ? (int)rng(32) : 600;
        memset(text, 'a', (size_t)deep);
        text[deep] = 'd';
        memset(text + deep + 1, 'x', (size_t)k);
        fine = follow(&m, text, (size_t)(deep + 1 + k)) == (k <= deep ? 1 : -1);
    }
    ok(fine && matcher_bytes(&m) < 1 << 18, "a place at many depths at once (%zu KB)", matcher_bytes(&m) / 1024);
    matcher_free(&m);
    rules_free(&r);
    /* 2^30 ways to leave rules that end with what may be nothing */
    p = big + sprintf(big, "root ::= r30\nr0 ::= \"a\"\nx ::= \"x\"?\ny ::= \"y\"?\n");
    for (int i = 1; i <= 30; i++)
        p += sprintf(p, "r%d ::= r%d x | r%d y\n", i, i - 1, i - 1);
    parse(&r, big, (size_t)(p - big), err);
    matcher_init(&m, &r);
    ok(follow(&m, "axyyx", 5) == 1 && m.n_set < 200, "2^30 ways to leave a rule are one");
    matcher_free(&m);
    rules_free(&r);
    static const char calls[] = "root ::= a0\na0 ::= a1 \"x\" | a1 \"y\"\na1 ::= a2 \"x\" | a2 \"y\"\n"
        "a2 ::= a3 \"x\" | a3 \"y\"\na3 ::= a4 \"x\" | a4 \"y\"\na4 ::= a5 \"x\" | a5 \"y\"\n"
        "a5 ::= a6 \"x\" | a6 \"y\"\na6 ::= \"z\"";
    parse(&r, calls, strlen(calls), err);
    matcher_init(&m, &r);
    fine = follow(&m, "zxyxyxy", 7) == 1 && m.n_set < 40;
    ok(fine, "2^6 ways to enter a rule are one (%zu sets)", m.n_set);
    matcher_free(&m);
    rules_free(&r);

    /* nested deeper than stacks may be */
    static const char nest[] = "root ::= \"(\" root \")\" | \"\"";
    parse(&r, nest, strlen(nest), err);
    matcher_init(&m, &r);
    memset(big, '(', 5000);
    memset(big + 1500, ')', 1500);
    ok(follow(&m, big, 3000) == 1, "1500 deep");
    memset(big, '(', 5000);
    ok(follow(&m, big, 5000) == -1 && !m.failed, "5000 deep is refused, not followed");
    /* the same text at another time, from states made anew */
    ok(!matcher_reset(&m) && follow(&m, "(())", 4) == 1 && follow(&m, "(()", 3) == 0, "reset");
    m.work_limit = 3;
    matcher_reset(&m);
    m.work_limit = 3;
    fine = follow(&m, "(((((())))))", 12) == -2;
    ok(fine && strstr(m.failed, "too ambiguous"), "no more work than allowed: %s", m.failed);
    matcher_free(&m);
    rules_free(&r);
}

int main(void)
{
    test_table();
    test_errors();
    test_classes();
    test_random();
    test_hostile();
    return done();
}
