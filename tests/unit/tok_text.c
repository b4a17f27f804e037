/* Any text: pieces as the pattern says, merges as their definition says, there and back
 * again, invalid UTF-8, streaming, and time linear in the length. */
#include "tests/tap.h"
#include "tests/unit/tok_fixture.h"
#include "tokenizer/pretok.h"
#include "tokenizer/utf8.h"

#include <time.h>

/* ------------------------------------------------------------------ the pattern, literally */

/* Text as characters, and the pattern's alternatives tried in order with backtracking:
 * slow, and too plain to be wrong in the way a scanner can be. */
static uint32_t ch[4096];
static size_t n_ch;

static int is(size_t i, int class)
{
    return i < n_ch && pretok_class(ch[i]) == class;
}

static int nl(size_t i)
{
    return i < n_ch && (ch[i] == '\r' || ch[i] == '\n');
}

static size_t run(size_t i, int class)          /* the end of x* */
{
    while (is(i, class))
        i++;
    return i;
}

static size_t match_contraction(size_t i)
{
    static const char *const words[] = { "s", "t", "re", "ve", "m", "ll", "d" };
    if (!(i < n_ch && ch[i] == '\''))
        return 0;
    for (int w = 0; w < 7; w++) {
        size_t k = 0;
        while (words[w][k] && i + 1 + k < n_ch) {
            uint32_t c = ch[i + 1 + k];
            c = c >= 'A' && c <= 'Z' ? c + 32 : c == 0x17f ? 's' : c;
            if (c != (unsigned char)words[w][k])
                break;
            k++;
        }
        if (!words[w][k])
            return i + 1 + k;
    }
    return 0;
}

static size_t match(size_t i)
{
    size_t j = match_contraction(i);
    if (j)
        return j;
    /* [^\r\n\p{L}\p{N}]?\p{L}+ */
    if (i < n_ch && !nl(i) && !is(i, PRETOK_LETTER) && !is(i, PRETOK_NUMBER) && is(i + 1, PRETOK_LETTER))
        return run(i + 1, PRETOK_LETTER);
    if (is(i, PRETOK_LETTER))
        return run(i, PRETOK_LETTER);
    /* \p{N}{1,3} */
    for (j = i; j < i + 3 && is(j, PRETOK_NUMBER);)
        j++;
    if (j > i)
        return j;
    /*  ?[^\s\p{L}\p{N}]+[\r\n]* */
    for (int space = ch[i] == ' '; space >= 0; space--) {
        j = run(i + (size_t)space, PRETOK_OTHER);
        if (j > i + (size_t)space) {
            while (nl(j))
                j++;
            return j;
        }
    }
    /* \s*[\r\n]+ : give back until a newline follows */
    for (j = run(i, PRETOK_SPACE) + 1; j-- > i;)
        if (nl(j)) {
            while (nl(j))
                j++;
            return j;
        }
    /* \s+(?!\S), then \s+ */
    size_t end = run(i, PRETOK_SPACE);
    for (j = end; j > i; j--)
        if (j == n_ch || is(j, PRETOK_SPACE))
            return j;
    return end;
}

static void check_pieces(void)
{
    enum { N = 3000 };
    char text[N + 4];
    int wrong = 0, empty = 0;
    size_t pieces = 0;
    for (int round = 0; round < 400; round++) {
        size_t len = random_text(text, 1 + rng(N)), i = 0;
        size_t at[4096];
        int k;
        n_ch = 0;
        for (size_t p = 0; p < len; p += (size_t)k) {
            at[n_ch] = p;
            ch[n_ch++] = utf8_char((unsigned char *)text + p, &k);
        }
        at[n_ch] = len;
        for (const char *s = text, *next; s < text + len; s = next, pieces++) {
            next = pretok_next(s, text + len);
            if (next <= s || next > text + len) {
                empty++;
                break;
            }
            i = match(i);
            if (at[i] != (size_t)(next - text)) {
                wrong++;
                break;
            }
        }
    }
    ok(!empty, "pieces are never empty and never too long");
    ok(!wrong && pieces > 1000, "%zu pieces are what the pattern matches", pieces);
}

static void check_classes(void)
{
    static const struct { uint32_t c; int class; } known[] = {
        { 'a', PRETOK_LETTER }, { 0xaa, PRETOK_LETTER }, { 0x4e2d, PRETOK_LETTER }, { 0x1c89, PRETOK_LETTER },
        { 0x10d4a, PRETOK_LETTER }, { 0x323af, PRETOK_LETTER }, { '7', PRETOK_NUMBER }, { 0xb2, PRETOK_NUMBER },
        { 0x2160, PRETOK_NUMBER }, { 0x1d7ff, PRETOK_NUMBER }, { ' ', PRETOK_SPACE }, { 0x85, PRETOK_SPACE },
        { 0x3000, PRETOK_SPACE }, { 0x1c, PRETOK_OTHER }, { 0x200b, PRETOK_OTHER }, { 0x300, PRETOK_OTHER },
        { 0x180e, PRETOK_OTHER }, { 0, PRETOK_OTHER }, { 0x10ffff, PRETOK_OTHER },
    };
    int bad = 0, count[4] = { 0 };
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        bad += pretok_class(known[i].c) != known[i].class;
    for (uint32_t c = 0; c < 0x110000; c++)
        count[pretok_class(c)]++;
    ok(!bad, "known characters have their class");
    ok(count[PRETOK_LETTER] == 141028 && count[PRETOK_NUMBER] == 1911 && count[PRETOK_SPACE] == 25,
       "as many letters, numbers and blanks as Unicode 16.0 has");
    for (uint32_t c = 0; c < 128; c++) {
        char s[3] = { (char)c, 'a', 0 }, n[4] = { (char)c, '1', '1', '1' };
        long with_letter = pretok_next(s, s + 2) - s, with_digit = pretok_next(n, n + 4) - n;
        int class = pretok_class(c);
        int takes = class == PRETOK_LETTER || ((class == PRETOK_SPACE || class == PRETOK_OTHER) && c != '\n' && c != '\r');
        bad += with_letter != 1 + takes || with_digit != (class == PRETOK_NUMBER ? 3 : 1);
    }
    ok(!bad, "the table for ASCII agrees with the large one");
}

/* ------------------------------------------------------------------ merging, by definition */

static size_t merge_slowly(const struct vocab *v, const char *s, size_t n, int32_t *id)
{
    size_t *cut = malloc((n + 1) * sizeof *cut);
    for (size_t i = 0; i <= n; i++)
        cut[i] = i;
    for (;;) {
        int32_t best = INT32_MAX;
        size_t at = 0;
        for (size_t i = 0; i + 1 < n; i++) {
            int32_t r = vocab_id(v, s + cut[i], cut[i + 2] - cut[i], s + cut[n]);
            if (r >= 0 && r < best) {
                best = r;
                at = i;
            }
        }
        if (best == INT32_MAX)
            break;
        memmove(cut + at + 1, cut + at + 2, (n - at - 1) * sizeof *cut);
        n--;
    }
    for (size_t i = 0; i < n; i++)
        id[i] = vocab_id(v, s + cut[i], cut[i + 1] - cut[i], s + cut[n]);
    free(cut);
    return n;
}

/* one piece of letters: random, of a small alphabet, periodic or of tokens glued together */
static size_t one_piece(const struct tok *t, char *s, size_t n)
{
    uint32_t kind = rng(4), period = 1 + rng(9), k = 0;
    for (size_t i = 0; i < n;) {
        size_t len = 0;
        const char *b = kind == 3 ? tok_bytes(t, (int32_t)rng(100256), &len) : NULL;
        for (size_t j = 0; j < len; j++)
            if (!((b[j] >= 'a' && b[j] <= 'z') || (b[j] >= 'A' && b[j] <= 'Z')))
                b = NULL, len = 0;
        if (b && i + len <= n) {
            memcpy(s + i, b, len);
            i += len;
        } else if (kind == 2 && i >= period) {
            s[i] = s[i - period];
            i++;
        } else {
            s[i++] = (char)('a' + rng(kind == 1 ? 3 : 26));
        }
        if (++k > 100 * n)
            break;
    }
    return n;
}

static void check_merging(const struct tok *t)
{
    enum { N = 2500 };
    static char s[N];
    static int32_t want[N];
    int bad = 0, rounds = 150;
    for (int round = 0; round < rounds; round++) {
        size_t n = one_piece(t, s, round < 100 ? 1 + rng(300) : 1 + rng(N));
        struct tok_ids got = { 0 };
        size_t k = merge_slowly(&t->vocab, s, n, want);
        if (vocab_id(&t->vocab, s, n, s + n) >= 0)
            continue;                           /* taken whole */
        tok_encode(t, s, n, TOK_PLAIN, &got);
        if (got.n != k || memcmp(got.id, want, k * sizeof *want) != 0) {
            bad++;
            diag("%zu letters beginning with %.20s", n, s);
        }
        free(got.id);
    }
    ok(!bad, "pieces up to %d letters are merged as the definition says (%d of %d are not)", N, bad, rounds);
}

/* A vocabulary of the 256 bytes, as ids from 1000. */
static void init_bytes(struct tok *t)
{
    memset(t, 0, sizeof *t);
    vocab_init(&t->vocab, 600);
    for (int i = 0; i < 256; i++) {
        char c = (char)i;
        vocab_add(&t->vocab, 1000 + i, &c, 1, VOCAB_PLAIN);
    }
}

/* A merge may offer its neighbour a lower rank, which then comes first. */
static void check_order(void)
{
    struct tok t;
    struct tok_ids ids = { 0 };
    init_bytes(&t);
    vocab_add(&t.vocab, 10, "ab", 2, VOCAB_PLAIN);
    vocab_add(&t.vocab, 5, "aba", 3, VOCAB_PLAIN);
    bpe_init(&t.bpe, &t.vocab);
    const char *s = "abab";
    bpe_encode(&t.bpe, s, 4, s + 4, &ids);
    ok(ids.n == 2 && ids.id[0] == 5 && ids.id[1] == 1000 + 'b', "a lower rank that a merge brings about comes first");
    free(ids.id);
    bpe_free(&t.bpe);
    vocab_free(&t.vocab);
}

/* Long strings of one key are still two strings. */
static void check_collision(void)
{
    struct tok t;
    char a[16] = "abcdefghijklmnop", b[16] = "abcdefgX";
    uint64_t tail, ka, kb;
    init_bytes(&t);
    /* the key is linear (xor) in the last 8 bytes before its final multiplication, which is undone here */
    uint64_t inverse = UINT64_C(0xd6e8feb86659fd93);
    for (int i = 0; i < 6; i++)
        inverse *= 2 - UINT64_C(0xd6e8feb86659fd93) * inverse;
    ka = vocab_key(a, 16, a + 16) * inverse;
    kb = vocab_key(b, 16, b + 16) * inverse;
    memcpy(&tail, b + 8, 8);
    tail ^= ka ^ kb;
    memcpy(b + 8, &tail, 8);
    vocab_add(&t.vocab, 7, a, 16, VOCAB_PLAIN);
    ok(vocab_key(a, 16, a + 16) == vocab_key(b, 16, b + 16), "two strings with one key");
    ok(vocab_id(&t.vocab, a, 16, a + 16) == 7 && vocab_id(&t.vocab, b, 16, b + 16) == -1, "are told apart");
    vocab_free(&t.vocab);
}

/* A vocabulary made so that what comes last decides about all before it: ranks fall along
 * a chain, so the last pair merges first, then the one before the one before, ...  The
 * stretches have to be taken back to the very beginning. */
static void check_chain(void)
{
    struct tok t;
    enum { N = 201 };
    char s[N];
    int32_t want[N];
    int bad = 0;
    init_bytes(&t);
    for (int i = 0; i < N; i++)
        s[i] = (char)(i + 1);
    for (int i = 0; i + 1 < N; i++)
        vocab_add(&t.vocab, N - i, s + i, 2, VOCAB_PLAIN);
    bpe_init(&t.bpe, &t.vocab);
    for (size_t n = 120; n <= N; n++) {
        struct tok_ids got = { 0 };
        size_t k = merge_slowly(&t.vocab, s, n, want);
        bad += bpe_encode(&t.bpe, s, n, s + n, &got) != 0 || got.n != k || memcmp(got.id, want, k * sizeof *want) != 0;
        free(got.id);
    }
    ok(!bad, "a chain of falling ranks is merged as the definition says");
    bpe_free(&t.bpe);
    vocab_free(&t.vocab);
}

/* ------------------------------------------------------------------ there and back again */

static size_t decode(const struct tok *t, const struct tok_ids *ids, char *out)
{
    size_t n = 0, k;
    for (size_t i = 0; i < ids->n; i++) {
        const char *s = tok_bytes(t, ids->id[i], &k);
        if (k)
            memcpy(out + n, s, k);
        n += k;
    }
    return n;
}

static void check_round_trip(const struct tok *t, const char *name)
{
    enum { N = 5000 };
    static char text[N + 4], back[3 * N + 16];
    int bad = 0;
    for (int round = 0; round < 400; round++) {
        size_t len = random_text(text, rng(N));
        struct tok_ids ids = { 0 };
        bad += tok_encode(t, text, len, round % 2 ? TOK_SPECIAL : TOK_PLAIN, &ids) != 0
            || decode(t, &ids, back) != len || memcmp(back, text, len) != 0;
        free(ids.id);
    }
    ok(!bad, "%s: random text comes back (%d of 400 do not)", name, bad);
}

static const struct { const char *in, *out; } invalid[] = {
    { "\xff", "\xef\xbf\xbd" },
    { "a\xff" "b", "a\xef\xbf\xbd" "b" },
    { "\xe2\x82", "\xef\xbf\xbd" },                                    /* cut off: one */
    { "\xe2\x82x", "\xef\xbf\xbdx" },
    { "\xf0\x9f\x98", "\xef\xbf\xbd" },
    { "\xf0\x9f\x98\xf0\x9f\x98\x80", "\xef\xbf\xbd\xf0\x9f\x98\x80" },
    { "\xed\xa0\x80", "\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd" },        /* a surrogate: three */
    { "\xc0\xaf", "\xef\xbf\xbd\xef\xbf\xbd" },                        /* overlong */
    { "\xe0\x80\x80", "\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd" },
    { "\xf0\x80\x80\x80", "\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd" },
    { "\xf4\x90\x80\x80", "\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd" },
    { "\xf4\x8f\xbf\xbf", "\xf4\x8f\xbf\xbf" },
    { "\xe1\x80\xe2\x82\xac", "\xef\xbf\xbd\xe2\x82\xac" },
    { "\x80\xbf", "\xef\xbf\xbd\xef\xbf\xbd" },
    { "\xc2\xc2\xa0", "\xef\xbf\xbd\xc2\xa0" },
    { "\xed\x9f\xbf\xee\x80\x80", "\xed\x9f\xbf\xee\x80\x80" },
    { "1234567\xe2\x82 890\xc3\xa9", "1234567\xef\xbf\xbd 890\xc3\xa9" },
};

static void check_invalid(const struct tok *t)
{
    char back[64], stream[128];
    for (size_t i = 0; i < sizeof invalid / sizeof *invalid; i++) {
        struct tok_ids ids = { 0 };
        struct tok_stream st = { 0 };
        const char *in = invalid[i].in, *out = invalid[i].out;
        size_t want = strlen(out);
        tok_encode(t, in, strlen(in), TOK_PLAIN, &ids);
        size_t n = decode(t, &ids, back), k = tok_stream_push(&st, in, strlen(in), stream);
        k += tok_stream_end(&st, stream + k);
        ok(n == want && !memcmp(back, out, n) && k == want && !memcmp(stream, out, k), "invalid UTF-8, case %zu", i);
        free(ids.id);
    }
}

/* ------------------------------------------------------------------ streaming */

static int is_valid(const char *s, size_t n)
{
    char *repaired = NULL;
    size_t len;
    utf8_repair(s, n, &repaired, &len);
    free(repaired);
    return !repaired;
}

/* s[n] in two pushes at each of its borders, and byte by byte */
static int streams(const char *s, size_t n, const char *want, size_t want_n)
{
    static char out[4096];
    for (size_t cut = 0; cut <= n + 1; cut++) {
        struct tok_stream st = { 0 };
        size_t k = 0;
        int whole = 1;
        for (size_t i = 0, step; i < n || (i == 0 && cut == 0 && n == 0); i += step) {
            step = cut > n ? 1 : i < cut ? cut - i : n - i;
            size_t got = tok_stream_push(&st, s + i, step, out + k);
            whole &= is_valid(out + k, got) && got <= 3 * step + 12 && st.n < 4;
            k += got;
            if (!step)
                break;
        }
        k += tok_stream_end(&st, out + k);
        if (!whole || k != want_n || memcmp(out, want, k) != 0 || st.n)
            return 0;
    }
    return 1;
}

static void check_streaming(void)
{
    enum { N = 120 };
    char text[N + 4];
    int bad = 0;
    for (int round = 0; round < 2000; round++) {
        size_t len = random_text(text, rng(N)), fixed_n = len;
        char *fixed = NULL;
        for (uint32_t k = round % 3 ? rng(12) : 0; len && k; k--)
            text[rng((uint32_t)len)] = (char)(rng(3) ? (int)(0x80 + rng(128)) : "\xe2\x82\xf0\x9f\xed\xc2"[rng(6)]);
        if (utf8_repair(text, len, &fixed, &fixed_n))
            bail("no memory");
        bad += !streams(text, len, fixed ? fixed : text, fixed_n);
        free(fixed);
    }
    ok(!bad, "cut anywhere, the streaming decoder gives what the whole gives, in whole characters (%d of 2000 do not)",
       bad);
}

/* ------------------------------------------------------------------ time */

static double seconds(const struct tok *t, const char *text, size_t n)
{
    double best = 1e9;
    for (int i = 0; i < 3; i++) {
        struct tok_ids ids = { 0 };
        clock_t start = clock();
        if (tok_encode(t, text, n, TOK_SPECIAL, &ids))
            bail("no memory");
        double s = (double)(clock() - start) / CLOCKS_PER_SEC;
        best = s < best ? s : best;
        free(ids.id);
    }
    return best;
}

static void check_linear(const struct tok *t)
{
    static const struct { const char *name, *unit; } kinds[] = {
        { "one letter", "a" }, { "spaces", " " }, { "newlines", "\n" }, { "digits", "7" }, { "full stops", "." },
        { "blank lines", " \n" }, { "a space and newlines", "\n " }, { "two letters", "ab" },
        { "the beginning of a special token", "<|im_end" }, { "invalid bytes", "\xff" }, { "NUL", "" },
    };
    enum { SMALL = 100000, TIMES = 32 };
    char *text = malloc(SMALL * TIMES);
    for (size_t k = 0; k <= sizeof kinds / sizeof *kinds; k++) {
        int random = k == sizeof kinds / sizeof *kinds;
        size_t unit = random ? 0 : strlen(kinds[k].unit) + !*kinds[k].unit;
        for (size_t i = 0; i < SMALL * TIMES; i++)
            text[i] = random ? (char)('a' + rng(26)) : kinds[k].unit[i % unit];
        double a = seconds(t, text, SMALL), b = seconds(t, text, SMALL * TIMES);
        /* quadratic would be 32 times as slow per byte; noise is not */
        ok(b < 8 * TIMES * (a + 0.001), "%s on one line: time grows with the length", random ? "random letters"
           : kinds[k].name);
        diag("%.1f and %.1f ns per byte", a * 1e9 / SMALL, b * 1e9 / (SMALL * TIMES));
    }
    free(text);
}

static void check_edges(const struct tok *t)
{
    struct tok_ids ids = { 0 };
    ok(tok_encode(t, NULL, 0, TOK_PLAIN, &ids) == 0 && ids.n == 0, "nothing is no ids");
    char nul[5] = "a\0b\0";
    char back[8];
    tok_encode(t, nul, 5, TOK_SPECIAL, &ids);
    ok(decode(t, &ids, back) == 5 && memcmp(nul, back, 5) == 0, "NUL is a byte like any other");
    size_t n = ids.n;
    tok_encode(t, "hello", 5, TOK_PLAIN, &ids);
    ok(ids.n == n + 1 && ids.id[n] == 15339, "ids are appended");
    /* what was seen before is copied from this call's output, not from the caller's */
    static char long_text[20000];
    for (size_t i = 0; i < sizeof long_text; i++)
        long_text[i] = "zqxj vkw "[i % 9];
    struct tok_ids fresh = { 0 };
    n = ids.n;
    tok_encode(t, long_text, sizeof long_text, TOK_PLAIN, &ids);
    tok_encode(t, long_text, sizeof long_text, TOK_PLAIN, &fresh);
    ok(ids.n - n == fresh.n && !memcmp(ids.id + n, fresh.id, fresh.n * sizeof *fresh.id),
       "the same text has the same ids behind others");
    free(fresh.id);
    free(ids.id);
}

int main(void)
{
    struct tok *t = open_or_die(source_path("tests/data/dbrx-tokenizer"));
    struct tok *nano = open_or_die(source_path("models/nano"));
    check_classes();
    check_pieces();
    check_merging(t);
    check_order();
    check_collision();
    check_chain();
    check_round_trip(t, "cl100k");
    check_round_trip(nano, "nano");
    check_invalid(t);
    check_edges(t);
    check_streaming();
    check_linear(t);
    tok_close(t);
    tok_close(nano);
    return done();
}
