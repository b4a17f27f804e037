/* Files that are no tokenizer, or nearly one: each gives one sentence that names the file
 * and the problem, and nothing else happens. */
#include "tests/tap.h"
#include "tests/unit/tok_fixture.h"
#include "tokenizer/utf8.h"

#include <sys/stat.h>
#include <unistd.h>

static const char dir[] = "tok_files.tmp";

static const char *in_dir(const char *name)
{
    static char path[256];
    snprintf(path, sizeof path, "%s/%s", dir, name);
    return path;
}

static void put_file(const char *path, const char *data, size_t n)
{
    FILE *f = fopen(path, "wb");
    if (!f || fwrite(data, 1, n, f) != n || fclose(f))
        bail("cannot write %s", path);
}

/* Opening path fails with one line that says its name and every text in want ("a&b"). */
static int refused(const char *path, const char *want, const char *what)
{
    char err[512] = "", one[256];
    struct tok *t = tok_open(path, err, sizeof err);
    char *repaired = NULL;
    size_t len;
    int good = !t && strncmp(err, dir, strlen(dir)) == 0 && utf8_repair(err, strlen(err), &repaired, &len) == 0
        && !repaired;
    for (const char *p = err; *p; p++)
        good &= (unsigned char)*p >= ' ';
    free(repaired);
    while (*want) {
        size_t n = strcspn(want, "&");
        snprintf(one, sizeof one, "%.*s", (int)n, want);
        good &= strstr(err, one) != NULL;
        want += n + (want[n] == '&');
    }
    tok_close(t);
    if (!ok(good, "%s", what))
        diag("said: %s", t ? "(opened it)" : err);
    return good;
}

/* ------------------------------------------------------------------ tokenizer.json */

/* A small tokenizer.json of which one part at a time is made wrong. */
struct parts {
    const char *what, *want;                   /* the test's name; the texts its sentence holds */
    const char *model;                         /* members of the model but vocab and merges */
    const char *vocab;                         /* members beside the 256 bytes, each ending in a comma */
    const char *merges, *added, *pre, *normalizer;
    int skip_byte;                             /* a byte to leave out, or 0 */
};

static const struct parts good_parts = {
    .model = "\"type\":\"BPE\"", .vocab = "\"ab\":256,\"abc\":257,\"\xc4\xa0" "a\":258,",
    .merges = "\"a b\",\"ab c\",[\"\xc4\xa0\",\"a\"]", .added = "{\"id\":300,\"content\":\"<|x|>\"}",
    .pre = SPLIT_JSON(CL100K_REGEX_JSON), .normalizer = "null",
};

#define OR(field) (p->field ? p->field : good_parts.field)

static size_t build_json(const struct parts *p, char **data)
{
    size_t n;
    FILE *f = open_memstream(data, &n);
    fprintf(f, "{\"normalizer\":%s,\"added_tokens\":[%s],\"pre_tokenizer\":%s,\n\"model\":{%s,\"vocab\":{%s",
            OR(normalizer), OR(added), OR(pre), OR(model), OR(vocab));
    int first = 1;
    for (int b = 0; b < 256; b++) {
        char c = (char)b;
        if (p->skip_byte && b == p->skip_byte)
            continue;
        fputs(first ? "\"" : ",\"", f);
        put_spelled(f, &c, 1);
        fprintf(f, "\":%d", b);
        first = 0;
    }
    fprintf(f, "},\n\"merges\":[%s]}}", OR(merges));
    fclose(f);
    return n;
}

static const struct parts wrong[] = {
    { "a WordPiece model", "WordPiece", .model = "\"type\":\"WordPiece\"" },
    { "a Unigram model", "Unigram", .model = "\"type\":\"Unigram\"" },
    { "a model of no type", "no type", .model = "\"x\":1" },
    { "a normalizer", "normalizer&NFC", .normalizer = "{\"type\":\"NFC\"}" },
    { "no pre-tokenizer", "pre_tokenizer", .pre = "null" },
    { "another pre-tokenizer", "Metaspace", .pre = "{\"type\":\"Metaspace\"}" },
    { "GPT-2's pre-tokenizer", "ByteLevel", .pre = "{\"type\":\"ByteLevel\",\"use_regex\":true}" },
    { "another pattern", "\\w+", .pre = SPLIT_JSON("\\\\w+") },
    { "pre-tokenizer of another form", "pre-tokenizer", .pre = "[1,2]" },
    { "pre-tokenizers that are no list", "pre-tokenizer", .pre = "{\"type\":\"Sequence\",\"pretokenizers\":7}" },
    { "word boundaries in another behaviour", "MergedWithNext",
      .pre = "{\"type\":\"Sequence\",\"pretokenizers\":[{\"type\":\"Split\",\"pattern\":{\"Regex\":\"" CL100K_REGEX_JSON
             "\"},\"behavior\":\"MergedWithNext\"},{\"type\":\"ByteLevel\",\"use_regex\":false}]}" },
    { "a prefix space", "add_prefix_space",
      .pre = "{\"type\":\"Sequence\",\"pretokenizers\":[{\"type\":\"Split\",\"pattern\":{\"Regex\":\"" CL100K_REGEX_JSON
             "\"},\"behavior\":\"Isolated\"},{\"type\":\"ByteLevel\",\"use_regex\":false,\"add_prefix_space\":true}]}" },
    { "a subword prefix", "continuing_subword_prefix", .model = "\"type\":\"BPE\",\"continuing_subword_prefix\":\"##\"" },
    { "a word suffix", "end_of_word_suffix", .model = "\"type\":\"BPE\",\"end_of_word_suffix\":\"</w>\"" },
    { "dropout", "dropout", .model = "\"type\":\"BPE\",\"dropout\":0.1" },
    { "a missing byte", "byte 0x41", .skip_byte = 'A' },
    { "an id given twice", "vocab&twice", .vocab = "\"xyz\":65," },
    { "a token given twice", "twice", .vocab = "\"ab\":256,\"abc\":257,\"ab\":258," },
    { "a negative id", "xyz&whole number", .vocab = "\"xyz\":-1," },
    { "a gigantic id", "xyz&16777215", .vocab = "\"xyz\":16777216," },
    { "an id beyond all numbers", "xyz&16777215", .vocab = "\"xyz\":1e300," },
    { "an id that is no whole number", "xyz&whole number", .vocab = "\"xyz\":300.5," },
    { "an id that is a string", "xyz&whole number", .vocab = "\"xyz\":\"300\"," },
    { "a name that is no text", "vocab&?[31m?", .vocab = "\"\\u001b[31m\\n\":-1," },
    { "a name that is cut", "vocab&whole number",
      .vocab = "\"xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx\xe4\xb8\xad\":-1," },
    { "an empty token", "empty", .vocab = "\"\":300," },
    { "a merge of unknown tokens", "merge 0&left", .merges = "\"qq a\"" },
    { "a merge with unknown right side", "merge 0&right", .merges = "\"a qq\"" },
    { "a merge with unknown result", "merge 1&result", .merges = "\"a b\",\"x y\"" },
    { "a merge of one token", "merge 0", .merges = "\"ab\"" },
    { "a merge of three tokens", "merge 0", .merges = "\"a b c\"" },
    { "a merge of nothing", "merge 0", .merges = "\" \"" },
    { "a merge list of one", "merge 0", .merges = "[\"a\"]" },
    { "a merge list of numbers", "merge 0", .merges = "[1,2]" },
    { "a merge list of a number", "merge 0", .merges = "[\"a\",2]" },
    { "a merge that is a number", "merge 0", .merges = "12" },
    { "a merge outside the alphabet", "merge 0", .merges = "\"\xe4\xb8\xad a\"" },
    { "merges that are no list", "merges", .merges = "]},\"model\":{\"type\":\"BPE\",\"vocab\":{},\"merges\":{},\"z\":[" ,
      .model = "\"type\":\"BPE\",\"merges\":{}" },
    { "a vocab that is a list", "vocab", .model = "\"type\":\"BPE\",\"vocab\":[1,2]" },
    { "an added token without text", "added_tokens&content", .added = "{\"id\":300}" },
    { "an added token without id", "added_tokens&whole number", .added = "{\"content\":\"<|x|>\"}" },
    { "an added token of another's id", "twice", .added = "{\"id\":65,\"content\":\"<|x|>\"}" },
    { "an added token twice", "added_tokens&twice",
      .added = "{\"id\":300,\"content\":\"<|x|>\"},{\"id\":301,\"content\":\"<|x|>\"}" },
    { "an added token that strips", "lstrip", .added = "{\"id\":300,\"content\":\"<|x|>\",\"lstrip\":true}" },
    { "an added token of nothing", "empty", .added = "{\"id\":300,\"content\":\"\"}" },
    { "an added token that is a number", "added_tokens", .added = "7" },
};

static void check_json(void)
{
    char err[512], *data, *copy;
    const char *path = "tok_files.tmp/tokenizer.json";
    size_t n = build_json(&good_parts, &data);
    put_file(path, data, n);
    struct tok *t = tok_open(dir, err, sizeof err);
    struct tok_ids ids = { 0 };
    if (!ok(t != NULL, "the small tokenizer.json opens"))
        bail("%s", err);
    tok_encode(t, "abc a<|x|>", 10, TOK_SPECIAL, &ids);
    ok(ids.n == 3 && ids.id[0] == 257 && ids.id[1] == 258 && ids.id[2] == 300, "and merges by its list");
    ids.n = 0;
    tok_encode(t, "abcab", 5, TOK_PLAIN, &ids);
    ok(ids.n == 2 && ids.id[0] == 257 && ids.id[1] == 256, "in the order of its ranks");
    tok_close(t);

    int bad = 0;
    for (size_t i = 0; i < n; i += i + 100 < n ? 7 : 1) {
        put_file(path, data, i);
        t = tok_open(path, err, sizeof err);
        bad += t != NULL || strncmp(err, dir, strlen(dir)) != 0;
        tok_close(t);
    }
    ok(!bad, "cut off anywhere in its %zu bytes it is refused", n);
    copy = malloc(n);
    for (int i = 0; i < 800; i++) {
        memcpy(copy, data, n);
        for (uint32_t k = 1 + rng(3); k; k--)
            copy[rng((uint32_t)n)] = (char)(rng(3) ? (uint32_t)"0123456789\"\\{}[],: -eu"[rng(22)] : rng(256));
        put_file(path, copy, n);
        t = tok_open(path, err, sizeof err);
        if (t) {
            ids.n = 0;
            bad += tok_encode(t, "abc ab\xff<|x|> zz", 15, TOK_SPECIAL, &ids) != 0;
        }
        tok_close(t);
    }
    ok(!bad, "800 damaged copies do no harm");
    free(copy);
    free(data);

    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        n = build_json(&wrong[i], &data);
        put_file(path, data, n);
        refused(path, wrong[i].want, wrong[i].what);
        free(data);
    }

    struct parts nested = { .added = "{\"id\":300,\"content\":\"<|x|>\"},{\"id\":301,\"content\":\"<|x|>>\"},"
                                     "{\"id\":302,\"content\":\"<|\"}" };
    n = build_json(&nested, &data);
    put_file(path, data, n);
    t = open_or_die(path);
    ids.n = 0;
    tok_encode(t, "<|x|>><|x|><|", 13, TOK_SPECIAL, &ids);
    ok(ids.n == 3 && ids.id[0] == 301 && ids.id[1] == 300 && ids.id[2] == 302, "the longest special token counts");
    tok_close(t);
    free(data);

    /* tokens that merges do not reach: taken whole only with ignore_merges */
    struct parts p = { .vocab = "\"ab\":256,\"abc\":257,\"abcd\":258,", .merges = "\"a b\"" };
    for (int ignore = 0; ignore < 2; ignore++) {
        p.model = ignore ? "\"type\":\"BPE\",\"ignore_merges\":true" : "\"type\":\"BPE\",\"ignore_merges\":false";
        n = build_json(&p, &data);
        put_file(path, data, n);
        t = open_or_die(path);
        ids.n = 0;
        tok_encode(t, "abcd", 4, TOK_PLAIN, &ids);
        ok(ignore ? ids.n == 1 && ids.id[0] == 258 : ids.n == 3 && ids.id[0] == 256,
           "ignore_merges %s", ignore ? "takes a token whole" : "off: only merges make tokens");
        tok_close(t);
        free(data);
    }

    static const struct { const char *what, *data, *want; } raw[] = {
        { "no JSON", "hello", "JSON" }, { "a JSON list", "[]", "object" }, { "an empty object", "{}", "model" },
        { "JSON with more behind it", "{} x", "JSON" }, { "a model that is a number", "{\"model\":1}", "model" },
        { "a NUL byte", "", "JSON" },
    };
    for (size_t i = 0; i < sizeof raw / sizeof *raw; i++) {
        put_file(path, raw[i].data, strlen(raw[i].data) + (*raw[i].data == 0));
        refused(path, raw[i].want, raw[i].what);
    }
    put_file(path, "", 0);
    refused(path, "empty", "an empty tokenizer.json");
    char *deep = malloc(1000000);
    memset(deep, '[', 1000000);
    put_file(path, deep, 1000000);
    refused(path, "JSON", "a million brackets");
    free(deep);
    unlink(path);
    free(ids.id);
}

/* ------------------------------------------------------------------ rank files */

static const char *const base64 = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

static size_t build_ranks(char **data, const char *extra, int skip)
{
    size_t n;
    FILE *f = open_memstream(data, &n);
    for (int b = 0; b < 256; b++)
        if (b != skip)
            fprintf(f, "%c%c== %d\n", base64[b >> 2], base64[(b & 3) << 4], b);
    fputs(extra, f);
    fclose(f);
    return n;
}

static void check_ranks(void)
{
    static const struct { const char *what, *extra, *want; } bad[] = {
        { "bad base64", "!!!! 256\n", "line 257&base64" },
        { "base64 cut short", "YWJ 256\n", "line 257&base64" },
        { "base64 with stray bits", "YWJj\nYR== 256\n", "line 257&rank" },
        { "stray bits", "YWJjYR== 256\n", "line 257&base64" },
        { "a line without a rank", "YWJj\n", "line 257&rank" },
        { "a rank that is no number", "YWJj x\n", "line 257&rank" },
        { "a negative rank", "YWJj -5\n", "line 257&rank" },
        { "something behind the rank", "YWJj 256 7\n", "line 257&rank" },
        { "a gigantic rank", "YWJj 16777216\n", "line 257&16777215" },
        { "a rank beyond all numbers", "YWJj 99999999999999999999999999\n", "line 257&16777215" },
        { "a rank given twice", "YWJj 65\n", "line 257&twice" },
        { "a token given twice", "YWJj 256\nYWJj 257\n", "line 258&twice" },
        { "an empty token", " 256\n", "line 257&base64" },
        { "a special token's place taken", "YWJj 100257\n", "<|endoftext|>&100257" },
    };
    const char *path = "tok_files.tmp/x.tiktoken";
    char err[512], *data;
    size_t n = build_ranks(&data, "YWI= 256\r\nYWJj 257", -1);
    put_file(path, data, n);
    struct tok *t = tok_open(path, err, sizeof err);
    struct tok_ids ids = { 0 };
    if (!ok(t != NULL, "a small rank file opens, last line unfinished"))
        bail("%s", err);
    tok_encode(t, "abcab", 5, TOK_PLAIN, &ids);
    ok(ids.n == 2 && ids.id[0] == 257 && ids.id[1] == 256, "and merges by rank");
    tok_close(t);
    t = tok_open(dir, err, sizeof err);
    ok(t != NULL, "a directory with one rank file opens");
    tok_close(t);
    int wrong_n = 0;
    for (size_t i = 0; i < 800; i++) {
        char *copy = malloc(n);
        memcpy(copy, data, n);
        for (uint32_t k = 1 + rng(3); k; k--)
            copy[rng((uint32_t)n)] = (char)(rng(2) ? (uint32_t)"AZaz09+/= \n\r"[rng(12)] : rng(256));
        put_file(path, copy, 1 + rng((uint32_t)n));
        t = tok_open(path, err, sizeof err);
        wrong_n += !t && strncmp(err, dir, strlen(dir)) != 0;
        tok_close(t);
        free(copy);
    }
    ok(!wrong_n, "800 damaged and shortened copies do no harm");
    free(data);
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        n = build_ranks(&data, bad[i].extra, -1);
        put_file(path, data, n);
        refused(path, bad[i].want, bad[i].what);
        free(data);
    }
    n = build_ranks(&data, "", 200);
    put_file(path, data, n);
    refused(path, "byte 0xc8", "a missing byte");
    free(data);
    put_file(path, "", 0);
    refused(path, "empty", "an empty rank file");
    put_file(path, "\0\0\0", 3);
    refused(path, "line 1", "a rank file of NUL bytes");
    free(ids.id);
}

/* ------------------------------------------------------------------ directories */

static void check_config(const char *config, const char *want, const char *what)
{
    put_file("tok_files.tmp/tokenizer_config.json", config, strlen(config));
    refused(dir, want, what);
}

static void check_directories(void)
{
    char err[512], *data;
    const char *ranks = "tok_files.tmp/x.tiktoken", *second = "tok_files.tmp/y.tiktoken";
    unlink(ranks);
    refused(dir, "tokenizer.json&cl100k_base.tiktoken", "a directory without tokenizer");
    refused(in_dir("nowhere"), "No such file", "a path that is not there");
    refused(in_dir("nowhere.tiktoken"), "No such file", "a rank file that is not there");
    mkdir(in_dir("sub.tiktoken"), 0777);
    refused(in_dir("sub.tiktoken"), "no tokenizer", "a directory that is called like a rank file");
    rmdir(in_dir("sub.tiktoken"));
    mkdir(in_dir("tokenizer.json"), 0777);
    refused(dir, "tokenizer.json&regular", "a tokenizer.json that is a directory");
    rmdir(in_dir("tokenizer.json"));
    char *long_path = malloc(70000);
    memset(long_path, 'x', 69999);
    memcpy(long_path, dir, strlen(dir));
    long_path[69999] = 0;
    ok(!tok_open(long_path, err, sizeof err) && strlen(err) < sizeof err, "a path that is far too long");
    ok(!tok_open(dir, err, 8) && strlen(err) == 7, "a short buffer for the sentence");
    free(long_path);

    size_t n = build_ranks(&data, "", -1);
    put_file(ranks, data, n);
    check_config("{\"model_name\":\"gpt-4o\"}", "gpt-4o", "a config of another model");
    check_config("{\"encoding_name\":\"o200k_base\"}", "o200k_base", "a config of another encoding");
    check_config("{\"model_name\":", "JSON", "a broken config");
    check_config("{\"added_tokens_decoder\":{\"x\":{\"content\":\"<|x|>\"}}}", "added_tokens_decoder", "an id that is a word");
    check_config("{\"added_tokens_decoder\":{\"-4\":{\"content\":\"<|x|>\"}}}", "added_tokens_decoder", "a negative id");
    check_config("{\"added_tokens_decoder\":{\"300\":{}}}", "added_tokens_decoder", "a special token without text");
    check_config("{\"added_tokens_decoder\":{\"300\":7}}", "added_tokens_decoder", "a special token that is a number");
    check_config("{\"added_tokens_decoder\":[{\"content\":\"<|x|>\"}]}", "added_tokens_decoder", "a list of tokens");
    check_config("{\"added_tokens_decoder\":{\"65\":{\"content\":\"<|x|>\"}}}", "twice", "a special token of another's id");
    check_config("{\"added_tokens_decoder\":{\"99999999999999999999\":{\"content\":\"<|x|>\"}}}", "added_tokens_decoder",
                 "a special token of a gigantic id");
    const char *good = "{\"model_name\":\"gpt-4\",\"added_tokens_decoder\":{\"300\":{\"content\":\"<|x|>\"},"
                       "\"100279\":{\"content\":\"<|im_end|>\"}}}";
    put_file("tok_files.tmp/tokenizer_config.json", good, strlen(good));
    struct tok *t = tok_open(dir, err, sizeof err);
    ok(t && tok_special(t, "<|x|>") == 300 && tok_special(t, "<|im_end|>") == 100279, "the config's special tokens count");
    tok_close(t);
    put_file(second, data, n);
    refused(dir, "several", "two rank files");
    free(data);
    unlink(second);
    unlink(ranks);
    unlink("tok_files.tmp/tokenizer_config.json");
}

int main(void)
{
    mkdir(dir, 0777);
    check_json();
    check_ranks();
    check_directories();
    rmdir(dir);
    return done();
}
