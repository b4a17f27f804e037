/* tokenizer/vocab_hf.c -- reads tokenizer.json, Hugging Face's form of a tokenizer.
 *
 * The file describes a whole pipeline; ours does one, byte-level BPE over cl100k_base's
 * pattern, so every other stage that a file asks for is refused by name: a tokenizer
 * that is nearly right is worse than none.  Knows nothing of rank files. */
#include "tokenizer/tok.h"

#include <stdlib.h>

static const char cl100k_pattern[] =
    "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}|"
    " ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+";

/* One reading of one file: what every step needs. */
struct reading {
    struct tok *tok;
    const char *path;
    char *err;
    size_t errlen;
    char *buf;                                 /* decoded bytes, for the moment */
    size_t cap;
    struct alphabet alphabet;
};

#define FAIL(r, ...) tok_error((r)->err, (r)->errlen, __VA_ARGS__)

static const cJSON *get(const cJSON *object, const char *name)
{
    return cJSON_GetObjectItemCaseSensitive(object, name);
}

static int absent(const cJSON *j)
{
    return !j || cJSON_IsNull(j);
}

/* What a stage calls itself, for a sentence. */
static const char *type_of(const cJSON *stage)
{
    const char *s = json_string(stage, "type");
    return s ? s : "of no type";
}

/* ------------------------------------------------------------------ the pipeline */

static int is_split(const cJSON *j)
{
    return strcmp(type_of(j), "Split") == 0;
}

/* Split by the pattern so that every match is a piece: "Removed" with invert keeps the
 * matches and drops what lies between, "Isolated" keeps both; nothing lies between. */
static int check_split(const struct reading *r, const cJSON *split)
{
    const char *regex = json_string(get(split, "pattern"), "Regex");
    const char *behavior = json_string(split, "behavior");
    if (!regex || strcmp(regex, cl100k_pattern) != 0)
        return FAIL(r, "%s: the pre-tokenizer splits by \"%.80s\", not by cl100k_base's pattern", r->path,
                    regex ? regex : "something that is no regular expression");
    if (behavior && (strcmp(behavior, "Isolated") == 0
                     || (strcmp(behavior, "Removed") == 0 && cJSON_IsTrue(get(split, "invert")))))
        return 0;
    return FAIL(r, "%s: the pre-tokenizer's Split has the behavior \"%.40s\"; only Isolated and inverted Removed "
                "are known", r->path, behavior ? behavior : "");
}

static int check_pre_tokenizer(const struct reading *r, const cJSON *pre)
{
    const cJSON *stages = get(pre, "pretokenizers");
    const cJSON *split = cJSON_GetArrayItem(stages, 0), *bytes = cJSON_GetArrayItem(stages, 1);
    if (absent(pre))
        return FAIL(r, "%s: has no pre_tokenizer; cl100k_base's Split and ByteLevel are needed", r->path);
    if (strcmp(type_of(pre), "Sequence") != 0)
        return FAIL(r, "%s: the pre-tokenizer is %.40s, not cl100k_base's Split and ByteLevel", r->path, type_of(pre));
    if (cJSON_GetArraySize(stages) != 2 || !is_split(split) || strcmp(type_of(bytes), "ByteLevel") != 0)
        return FAIL(r, "%s: the pre-tokenizer is not the sequence Split, ByteLevel but %d stages beginning with %.40s",
                    r->path, cJSON_GetArraySize(stages), type_of(split));
    if (check_split(r, split))
        return -1;
    if (cJSON_IsTrue(get(bytes, "add_prefix_space")))
        return FAIL(r, "%s: the pre-tokenizer adds a space in front (add_prefix_space), which cl100k_base does not",
                    r->path);
    if (!cJSON_IsFalse(get(bytes, "use_regex")))
        return FAIL(r, "%s: the pre-tokenizer splits a second time, by GPT-2's pattern (use_regex)", r->path);
    return 0;
}

static int check_model(const struct reading *r, const cJSON *model)
{
    static const char *const affixes[] = { "continuing_subword_prefix", "end_of_word_suffix" };
    if (!cJSON_IsObject(model))
        return FAIL(r, "%s: has no model; this is no tokenizer.json", r->path);
    if (strcmp(type_of(model), "BPE") != 0)
        return FAIL(r, "%s: the model is %.40s, not BPE", r->path, type_of(model));
    for (int i = 0; i < 2; i++) {
        const cJSON *j = get(model, affixes[i]);
        if (!absent(j) && !(cJSON_IsString(j) && !*j->valuestring))
            return FAIL(r, "%s: the model has a %s, which byte-level BPE does not", r->path, affixes[i]);
    }
    const cJSON *dropout = get(model, "dropout");
    if (!absent(dropout) && !(cJSON_IsNumber(dropout) && dropout->valuedouble == 0))
        return FAIL(r, "%s: the model has a dropout; its tokens would be a matter of chance", r->path);
    if (!cJSON_IsObject(get(model, "vocab")))
        return FAIL(r, "%s: the model's vocab is no JSON object", r->path);
    if (!cJSON_IsArray(get(model, "merges")))
        return FAIL(r, "%s: the model's merges are no JSON array", r->path);
    return 0;
}

/* ------------------------------------------------------------------ the byte-level alphabet */

/* Appends the bytes that s spells up to its end or a space to buf at *n; *end is where
 * that is.  0, or -1: empty, or a character that is not of the alphabet. */
static int decode(struct reading *r, const char *s, size_t *n, const char **end)
{
    size_t len = strlen(s), need = *n + len + 1, used;
    if (need > r->cap) {
        char *p = realloc(r->buf, 2 * need);
        if (!p)
            return -1;
        r->buf = p;
        r->cap = 2 * need;
    }
    size_t got = alphabet_decode(&r->alphabet, s, len, r->buf + *n, &used);
    if (!got)
        return -1;
    *n += got;
    *end = s + used;
    return 0;
}

/* ------------------------------------------------------------------ tables */

static int read_added_tokens(struct reading *r, const cJSON *list)
{
    static const char *const flags[] = { "single_word", "lstrip", "rstrip" };
    const cJSON *e;
    if (!absent(list) && !cJSON_IsArray(list))
        return FAIL(r, "%s: added_tokens is no JSON array", r->path);
    cJSON_ArrayForEach(e, list) {
        const char *content = json_string(e, "content");
        if (!content)
            return FAIL(r, "%s: added_tokens: an entry without content", r->path);
        for (int i = 0; i < 3; i++)
            if (cJSON_IsTrue(get(e, flags[i])))
                return FAIL(r, "%s: added_tokens: \"%.40s\" wants %s, which is not known here", r->path,
                            content, flags[i]);
        int rc = vocab_add(&r->tok->vocab, json_id(get(e, "id")), content, strlen(content), VOCAB_SPECIAL);
        if (rc)
            return FAIL(r, "%s: added_tokens: \"%.40s\": %s", r->path, content, vocab_strerror(rc));
    }
    return 0;
}

static int is_token(const struct vocab *v, int32_t id, const char *s, size_t n)
{
    size_t len;
    const char *have = vocab_bytes(v, id, &len);
    return have && len == n && memcmp(have, s, n) == 0;
}

static int read_vocab(struct reading *r, const cJSON *list)
{
    struct vocab *v = &r->tok->vocab;
    const cJSON *e;
    cJSON_ArrayForEach(e, list) {
        const char *name = e->string, *end;
        int64_t id = json_id(e);
        size_t n = 0, len = strlen(name);
        if (id >= 0 && is_token(v, (int32_t)id, name, len) && v->token[id].special)
            continue;                           /* an added token that is listed here too */
        /* what is not spelled in the alphabet decodes to itself, and no text becomes it */
        int spelled = decode(r, name, &n, &end) == 0 && !*end;
        int rc = spelled ? vocab_add(v, id, r->buf, n, VOCAB_PLAIN) : vocab_add(v, id, name, len, VOCAB_MUTE);
        if (rc)
            return FAIL(r, "%s: vocab: \"%.40s\": %s", r->path, name, vocab_strerror(rc));
    }
    return 0;
}

/* A merge is "left right" or ["left", "right"]; what it gives is a token too. */
static int read_merges(struct reading *r, const cJSON *list)
{
    const struct vocab *v = &r->tok->vocab;
    struct bpe *b = &r->tok->bpe;
    const cJSON *e;
    int32_t both = -1;
    if (bpe_reserve(b, v->n_slot))              /* mostly one for each token */
        return FAIL(r, "%s: out of memory", r->path);
    cJSON_ArrayForEach(e, list) {
        const char *left = cJSON_GetStringValue(e), *right = NULL, *end = "";
        size_t n = 0, n_left = 0;
        int bad = 1;
        if (cJSON_IsArray(e) && cJSON_GetArraySize(e) == 2) {
            left = cJSON_GetStringValue(e->child);
            right = cJSON_GetStringValue(e->child->next);
        }
        if (left && decode(r, left, &n, &end) == 0 && (right ? !*end : *end == ' ')) {
            n_left = n;
            bad = decode(r, right ? right : end + 1, &n, &end) || *end;
        }
        if (bad)
            return FAIL(r, "%s: merge %zu (\"%.40s\"): not two strings of the byte-level alphabet", r->path,
                        b->n_merges, left ? left : "");
        int32_t a = vocab_id(v, r->buf, n_left, r->buf + n);
        int32_t c = vocab_id(v, r->buf + n_left, n - n_left, r->buf + n);
        if (!is_token(v, ++both, r->buf, n))    /* most files list merges by what they give */
            both = vocab_id(v, r->buf, n, r->buf + n);
        if (a < 0 || c < 0 || both < 0)
            return FAIL(r, "%s: merge %zu (\"%.40s\"): %s is not in the vocabulary", r->path, b->n_merges, left,
                        a < 0 ? "its left side" : c < 0 ? "its right side" : "its result");
        if (bpe_add(b, a, c, both))
            return FAIL(r, "%s: out of memory", r->path);
    }
    return 0;
}

int tok_read_hf(struct tok *t, const char *path, char *err, size_t errlen)
{
    struct reading r = { .tok = t, .path = path, .err = err, .errlen = errlen };
    int rc = -1, missing;
    cJSON *json = file_json(path, err, errlen);
    if (!json)
        return -1;
    alphabet_init(&r.alphabet);

    const cJSON *model = get(json, "model"), *normalizer = get(json, "normalizer");
    if (check_model(&r, model))
        goto out;
    if (!absent(normalizer)) {
        FAIL(&r, "%s: asks for the normalizer %.40s; cl100k_base has none", path, type_of(normalizer));
        goto out;
    }
    if (check_pre_tokenizer(&r, get(json, "pre_tokenizer")))
        goto out;

    if (vocab_init(&t->vocab, 1 << 16)) {       /* cJSON counts slower than the table grows */
        FAIL(&r, "%s: out of memory", path);
        goto out;
    }
    if (read_added_tokens(&r, get(json, "added_tokens")) || read_vocab(&r, get(model, "vocab")))
        goto out;
    if ((missing = bpe_init(&t->bpe, &t->vocab)) >= 0) {
        FAIL(&r, "%s: vocab: no token for byte 0x%02x", path, missing);
        goto out;
    }
    t->bpe.whole = cJSON_IsTrue(get(model, "ignore_merges"));
    rc = read_merges(&r, get(model, "merges"));
out:
    free(r.buf);
    cJSON_Delete(json);
    return rc;
}
