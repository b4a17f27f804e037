/* The ids are the official tokenizer's, both readers agree, and the bundled model's own
 * golden prompts come out. */
#include "tests/tap.h"
#include "tests/unit/tok_fixture.h"

#include <unistd.h>

/* the text of the ids, in new memory */
static char *decode(const struct tok *t, const int32_t *id, size_t n, size_t *len)
{
    size_t total = 0, k;
    for (size_t i = 0; i < n; i++)
        tok_bytes(t, id[i], &k), total += k;
    char *text = malloc(total + 1), *p = text;
    for (size_t i = 0; i < n; i++) {
        const char *s = tok_bytes(t, id[i], &k);
        if (k)
            memcpy(p, s, k);
        p += k;
    }
    *p = 0;
    *len = total;
    return text;
}

static struct tok_ids json_ids(const cJSON *list)
{
    struct tok_ids ids = { 0 };
    const cJSON *e;
    cJSON_ArrayForEach(e, list)
        tok_ids_push(&ids, (int32_t)e->valuedouble);
    return ids;
}

static int encodes_to(const struct tok *t, const char *text, size_t len, int mode, const struct tok_ids *want)
{
    struct tok_ids got = { 0 };
    int same = tok_encode(t, text, len, mode, &got) == 0 && got.n == want->n
        && (got.n == 0 || memcmp(got.id, want->id, got.n * sizeof *got.id) == 0);
    free(got.id);
    return same;
}

static void check_cases(const struct tok *rank, const struct tok *hf, const struct tok *pairs)
{
    char *line = NULL;
    size_t cap = 0;
    int n = 0, bad_encode = 0, bad_decode = 0, bad_hf = 0;
    FILE *f = fopen(source_path("tests/data/cl100k_cases.jsonl"), "r");
    if (!f)
        bail("tests/data/cl100k_cases.jsonl is missing");
    while (getline(&line, &cap, f) > 0) {
        cJSON *j = cJSON_Parse(line);
        const char *text = json_string(j, "text");
        struct tok_ids want = json_ids(cJSON_GetObjectItem(j, "ids"));
        int mode = cJSON_IsTrue(cJSON_GetObjectItem(j, "special")) ? TOK_SPECIAL : TOK_PLAIN;
        size_t len;
        char *back = decode(rank, want.id, want.n, &len);
        /* cJSON's strings end at a NUL, so the text itself is taken from the ids; it is the
         * right one as far as cJSON can tell */
        if (memcmp(back, text, strlen(text)) != 0 || (strlen(text) < len && back[strlen(text)])) {
            bad_decode++;
            diag("does not decode: %.60s", text);
        }
        if (!encodes_to(rank, back, len, mode, &want)) {
            bad_encode++;
            diag("does not encode: %.60s", text);
        }
        bad_hf += !encodes_to(hf, back, len, mode, &want) || !encodes_to(pairs, back, len, mode, &want);
        n++;
        free(back);
        free(want.id);
        cJSON_Delete(j);
    }
    free(line);
    fclose(f);
    ok(n > 400, "%d golden cases", n);
    ok(bad_encode == 0, "golden cases encode to the official ids (%d do not)", bad_encode);
    ok(bad_decode == 0, "golden ids decode to the text (%d do not)", bad_decode);
    ok(bad_hf == 0, "golden cases, the same vocabulary as tokenizer.json (%d differ)", bad_hf);
}

static void check_agreement(const struct tok *a, const struct tok *b)
{
    enum { N = 2000 };
    char text[N + 4];
    int bad = 0;
    for (int round = 0; round < 300; round++) {
        size_t len = random_text(text, 1 + rng(N));
        struct tok_ids ids = { 0 };
        tok_encode(a, text, len, TOK_PLAIN, &ids);
        bad += !encodes_to(b, text, len, TOK_PLAIN, &ids);
        free(ids.id);
    }
    ok(bad == 0, "rank file and tokenizer.json agree on random text (%d of 300 do not)", bad);
    bad = tok_n_vocab(a) != tok_n_vocab(b);
    for (int32_t id = -2; id < 100400; id++) {
        size_t n, m;
        const char *s = tok_bytes(a, id, &n), *r = tok_bytes(b, id, &m);
        bad += n != m || !s != !r || (s && memcmp(s, r, n)) || tok_is_special(a, id) != tok_is_special(b, id);
    }
    ok(bad == 0, "rank file and tokenizer.json agree on every id");
}

static void check_ids(const struct tok *t)
{
    static const struct { const char *name; int32_t id; } special[] = {
        { "<|endoftext|>", 100257 }, { "<|fim_prefix|>", 100258 }, { "<|fim_middle|>", 100259 },
        { "<|fim_suffix|>", 100260 }, { "<|endofprompt|>", 100276 }, { "<|pad|>", 100277 },
        { "<|im_start|>", 100278 }, { "<|im_end|>", 100279 },
    };
    size_t n;
    for (int i = 0; i < 8; i++) {
        const char *s = tok_bytes(t, special[i].id, &n);
        ok(tok_special(t, special[i].name) == special[i].id && tok_is_special(t, special[i].id)
           && n == strlen(special[i].name) && memcmp(s, special[i].name, n) == 0,
           "%s is %d", special[i].name, (int)special[i].id);
    }
    int mute = 1;
    for (int32_t id = 100256; id < 100352; id++)
        if (id == 100256 || (id > 100260 && id < 100276) || id > 100279)
            mute &= tok_bytes(t, id, &n) == NULL && n == 0 && !tok_is_special(t, id);
    ok(mute, "ids without text decode to nothing");
    ok(tok_n_vocab(t) == 100280, "n_vocab is 100280");
    ok(!tok_bytes(t, -1, &n) && !tok_bytes(t, INT32_MIN, &n) && !tok_bytes(t, INT32_MAX, &n),
       "ids out of range have no bytes");
    ok(tok_special(t, "<|im_end|") == -1 && tok_special(t, "") == -1 && tok_special(t, "a") == -1,
       "other names are no special tokens");

    struct tok_ids ids = { 0 };
    const char *text = "a<|im_end|>b<|im_end|<|im_end|>";
    tok_encode(t, text, strlen(text), TOK_PLAIN, &ids);
    int clean = ids.n > 4;
    for (size_t i = 0; i < ids.n; i++)
        clean &= !tok_is_special(t, ids.id[i]);
    ok(clean, "plain: a special token's text is ordinary text");
    ids.n = 0;
    tok_encode(t, text, strlen(text), TOK_SPECIAL, &ids);
    ok(ids.n >= 5 && ids.id[0] == 64 && ids.id[1] == 100279 && ids.id[2] == 65 && ids.id[ids.n - 1] == 100279,
       "special: it is the token");
    free(ids.id);
}

static void check_nano(void)
{
    char err[512];
    struct tok *t = open_or_die(source_path("models/nano"));
    cJSON *j = file_json(source_path("models/nano/golden.json"), err, sizeof err), *e;
    int n = 0, bad = 0;
    cJSON_ArrayForEach(e, cJSON_GetObjectItem(j, "cases")) {
        struct tok_ids want = json_ids(cJSON_GetObjectItem(e, "tokens"));
        const char *text = json_string(e, "prompt");
        bad += !encodes_to(t, text, strlen(text), TOK_SPECIAL, &want);
        n++;
        free(want.id);
    }
    ok(n > 0 && bad == 0, "the bundled model's %d golden prompts", n);
    ok(tok_special(t, "<|im_end|>") == 4087 && tok_n_vocab(t) == 4088, "the bundled model's special tokens");
    cJSON_Delete(j);
    tok_close(t);
}

int main(void)
{
    static const char json[] = "tok_golden.tmp.json", json2[] = "tok_golden.tmp2.json";
    struct tok *t = open_or_die(source_path("tests/data/dbrx-tokenizer"));
    struct tok *file = open_or_die(source_path("tests/data/dbrx-tokenizer/cl100k_base.tiktoken"));
    int lost = write_tokenizer_json(t, json, 0);
    write_tokenizer_json(t, json2, 1);
    struct tok *hf = open_or_die(json), *pairs = open_or_die(json2);
    ok(lost == 0, "every token of cl100k_base is what some merge gives (%d are not)", lost);
    check_cases(t, hf, pairs);
    check_agreement(t, hf);
    check_ids(t);
    ok(tok_special(file, "<|im_end|>") == 100279, "the rank file alone has DBRX's special tokens");
    check_nano();
    tok_close(t);
    tok_close(file);
    tok_close(hf);
    tok_close(pairs);
    unlink(json);
    unlink(json2);
    return done();
}
