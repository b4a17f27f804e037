/* tests/unit/sets.c -- sets of tokens, layers and experts: what is read, what is refused and
 * in which words, and that a set goes to text and back. */
#include "repl/sets.h"
#include "tests/tap.h"

#include <string.h>

enum { LAYERS = 6, EXPERTS = 16, TOKENS = 71 };

/* the members of a set as "0,1,2", for comparison */
static const char *members(const struct set *s)
{
    static char out[4096];
    size_t n = 0;
    out[0] = '\0';
    for (uint32_t i = 0; i < s->n && n < sizeof out; i++)
        if (s->in[i])
            n += (size_t)snprintf(out + n, sizeof out - n, "%s%u", n ? "," : "", i);
    return out;
}

static int holds(const struct set *s, const char *want)
{
    uint32_t count = *want != '\0';
    for (const char *p = want; *p; p++)
        count += *p == ',';
    return !strcmp(members(s), want) && s->count == count &&
           (!count || (s->first == (uint32_t)atoi(want) &&
                       s->last == (uint32_t)atoi(strrchr(want, ',') ? strrchr(want, ',') + 1 : want)));
}

static void test_lists(void)
{
    static const struct { const char *text, *want; } good[] = {
        { "0", "0" }, { "-1", "5" }, { "2..4", "2,3,4" }, { "..1", "0,1" }, { "4..", "4,5" },
        { "-2..", "4,5" }, { "..-5", "0,1" }, { "-3..-2", "3,4" }, { "*", "0,1,2,3,4,5" },
        { "5,0,0", "0,5" }, { "1..2,2..3,5", "1,2,3,5" }, { "3..3", "3" }, { "007", "" }, { "05", "5" },
    };
    for (size_t i = 0; i < sizeof good / sizeof *good; i++) {
        struct set s;
        char err[320] = "";
        int bad = set_layers(&s, good[i].text, LAYERS, err, sizeof err);
        ok(*good[i].want ? !bad && holds(&s, good[i].want) : bad && strstr(err, "007"), "layers %s%s%s",
           good[i].text, *err ? ": " : "", err);
        set_free(&s);
    }
}

static void test_experts(void)
{
    static const struct { const char *text, *want; } good[] = {
        { "3@0", "3" }, { "3@1", "19" }, { "3,7@0..1", "3,7,19,23" }, { "0@-1", "80" },
        { "14..@0", "14,15" }, { "1@0 2@1", "1,18" }, { "  1@0\t1@0 ", "1" },
        { "2", "2,18,34,50,66,82" }, { "*@2", "32,33,34,35,36,37,38,39,40,41,42,43,44,45,46,47" },
    };
    for (size_t i = 0; i < sizeof good / sizeof *good; i++) {
        struct set s;
        char err[320] = "";
        ok(!set_experts(&s, good[i].text, LAYERS, EXPERTS, err, sizeof err) && holds(&s, good[i].want),
           "experts %s", good[i].text);
        char *text = set_experts_text(s.in, LAYERS, EXPERTS);
        struct set again;
        ok(text && !set_experts(&again, text, LAYERS, EXPERTS, err, sizeof err) && !memcmp(again.in, s.in, s.n),
           "... and back: %s", text);
        set_free(&again);
        free(text);
        set_free(&s);
    }
}

static void test_errors(void)
{
    static const struct { char kind; const char *text, *say; } bad[] = {
        { 't', "71", "token 71 is not there: the conversation has tokens 0 to 70 (or -1 to -71" },
        { 't', "-72", "token -72 is not there" }, { 't', "3..99", "token 99 is not there" },
        { 't', "9..3", "the range 9..3 ends before it begins: it is token 9 to 3" },
        { 't', "-1..-5", "it is token 70 to 66" }, { 't', "", "\"\" is no token" },
        { 't', "1,,2", "is no token" }, { 't', "1,", "is no token" }, { 't', "..", "\"..\" is no token" },
        { 't', "1...3", "is no token" }, { 't', "x", "\"x\" is no token: write a number, a range like 3..9" },
        { 't', "1-3", "\"1-3\" is no token" }, { 't', "--3", "is no token" }, { 't', "-", "is no token" },
        { 't', "1e3", "is no token" }, { 't', "+3", "is no token" }, { 't', "0x3", "is no token" },
        { 't', "99999999999999999999999999", "token 99999999999999999999999999 is not there" },
        { 't', "4294967296", "not there" }, { 't', "-9223372036854775809", "not there" },
        { 'l', "6", "layer 6 is not there: the model has layers 0 to 5" },
        { 'l', "3@2", "is no layer" },
        { 'e', "16@0", "expert 16 is not there: every layer has experts 0 to 15" },
        { 'e', "-1@0", "expert -1 is not there" }, { 'e', "3@6", "layer 6 is not there" },
        { 'e', "3@0 4@9", "layer 9 is not there" }, { 'e', "3@", "is no layer" }, { 'e', "@3", "is no expert" },
        { 'e', "3@0,7@1", "more than one @: put a blank between sets" }, { 'e', "", "no experts are named" },
        { 'e', "   ", "no experts are named" }, { 'e', "3@0x", "\"0x\" is no layer" },
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        struct set s = { 0 };
        char err[320] = "";
        int failed = bad[i].kind == 't' ? set_tokens(&s, bad[i].text, TOKENS, err, sizeof err)
                   : bad[i].kind == 'l' ? set_layers(&s, bad[i].text, LAYERS, err, sizeof err)
                   : set_experts(&s, bad[i].text, LAYERS, EXPERTS, err, sizeof err);
        ok(failed == -1 && !s.in && strstr(err, bad[i].say), "\"%s\": %s", bad[i].text, err);
    }
    struct set s;
    char err[320] = "", lots[5000];
    ok(set_tokens(&s, "*", 0, err, sizeof err) && strstr(err, "the conversation has no tokens"), "%s", err);
    memset(lots, '9', sizeof lots - 1);
    lots[sizeof lots - 1] = '\0';
    ok(set_tokens(&s, lots, 5, err, sizeof err) && strlen(err) < 200, "a number of 5000 digits: %s", err);
}

/* every layer with its own set, and every single text that comes of one bit pattern */
static void test_text(void)
{
    uint8_t in[LAYERS * EXPERTS];
    uint32_t x = 1;
    int same = 1;
    for (int round = 0; round < 500; round++) {
        for (size_t i = 0; i < sizeof in; i++)
            in[i] = (uint8_t)((x = x * 1664525u + 1013904223u) >> 24) < (round % 8 ? 40 * (round % 8) : 4);
        char *text = set_experts_text(in, LAYERS, EXPERTS), err[320];
        struct set s = { 0 };
        int none = !memchr(in, 1, sizeof in);
        same &= text && (none ? !*text : !set_experts(&s, text, LAYERS, EXPERTS, err, sizeof err) &&
                                         !memcmp(s.in, in, sizeof in));
        set_free(&s);
        free(text);
    }
    ok(same, "500 random sets, to text and back");
    memset(in, 0, sizeof in);
    for (int l = 0; l < LAYERS; l++)
        in[l * EXPERTS + 3] = in[l * EXPERTS + 7] = 1;
    in[EXPERTS] = 1;
    char *text = set_experts_text(in, LAYERS, EXPERTS);
    ok(text && !strcmp(text, "3,7@0,2..5 0,3,7@1"), "layers alike stand together: %s", text);
    free(text);
    text = set_list_text((const uint8_t[]){ 1, 1, 0, 1, 1, 1 }, 6);
    ok(text && !strcmp(text, "0,1,3..5"), "a list: %s", text);
    free(text);
}

int main(void)
{
    test_lists();
    test_experts();
    test_errors();
    test_text();
    return done();
}
