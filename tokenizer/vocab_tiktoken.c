/* tokenizer/vocab_tiktoken.c -- reads tiktoken's rank file: a line for each token,
 * its bytes in base64 and its id, which is also the rank of its merge.
 *
 * The file has no special tokens: cl100k_base's and DBRX's are added here, then those
 * of tokenizer_config.json.  Knows nothing of tokenizer.json. */
#include "tokenizer/tok.h"

#include <stdlib.h>

static const struct { int32_t id; const char *name; } dbrx_special[] = {
    { 100257, "<|endoftext|>" },   { 100258, "<|fim_prefix|>" }, { 100259, "<|fim_middle|>" },
    { 100260, "<|fim_suffix|>" },  { 100276, "<|endofprompt|>" }, { 100277, "<|pad|>" },
    { 100278, "<|im_start|>" },    { 100279, "<|im_end|>" },
};

static int base64_digit(int c)
{
    return c >= 'A' && c <= 'Z' ? c - 'A' : c >= 'a' && c <= 'z' ? c - 'a' + 26
         : c >= '0' && c <= '9' ? c - '0' + 52 : c == '+' ? 62 : c == '/' ? 63 : -1;
}

/* Decodes s up to the first character that is not base64, in place; *end is where that
 * is.  Returns the number of bytes, or 0. */
static size_t base64_decode(char *s, char **end)
{
    char *in = s, *out = s;
    unsigned bits = 0, n_bits = 0, n = 0;
    for (int d; (d = base64_digit((unsigned char)*in)) >= 0; in++, n++) {
        bits = bits << 6 | (unsigned)d;
        n_bits += 6;
        if (n_bits >= 8) {
            n_bits -= 8;
            *out++ = (char)(bits >> n_bits);
            bits &= (1u << n_bits) - 1;
        }
    }
    for (; n % 4 && *in == '='; in++)
        n++;
    *end = in;
    return n % 4 || bits ? 0 : (size_t)(out - s);
}

/* The line at s, which the caller's NUL ends at the latest; NULL in *bad, or what is wrong. */
static char *read_line(struct tok *t, char *s, const char **bad)
{
    char *p;
    size_t len = base64_decode(s, &p);
    int64_t id = 0;

    *bad = NULL;
    if (!len) {
        *bad = "bad base64";
        return s;
    }
    if (*p++ != ' ') {
        *bad = p[-1] == '\n' || !p[-1] ? "no rank after the token" : "bad base64";
        return s;
    }
    char *digits = p;
    for (; *p >= '0' && *p <= '9'; p++)
        id = id > VOCAB_MAX_ID ? id : id * 10 + *p - '0';
    if (p == digits || !(*p == '\n' || *p == '\r' || *p == 0)) {
        *bad = "the rank is not a number";
        return s;
    }
    int rc = vocab_add(&t->vocab, id, s, len, VOCAB_PLAIN);
    if (rc)
        *bad = vocab_strerror(rc);
    p += *p == '\r';
    return p + (*p == '\n');
}

static int add_config_specials(struct tok *t, const char *path, char *err, size_t errlen)
{
    cJSON *j = file_json(path, err, errlen), *e;
    if (!j)
        return -1;
    int rc = 0;
    cJSON_ArrayForEach(e, cJSON_GetObjectItemCaseSensitive(j, "added_tokens_decoder")) {
        const char *content = json_string(e, "content");
        char *end;
        long long id = strtoll(e->string ? e->string : "", &end, 10);
        if (!content || !*content || !e->string || !*e->string || *end || id < 0 || id > VOCAB_MAX_ID) {
            rc = tok_error(err, errlen, "%s: added_tokens_decoder: \"%.40s\" is no id of a token with content",
                           path, e->string ? e->string : "");
            break;
        }
        size_t len;
        const char *have = vocab_bytes(&t->vocab, (int32_t)id, &len);
        if (have && tok_is_special(t, (int32_t)id) && len == strlen(content) && !memcmp(have, content, len))
            continue;
        int bad = vocab_add(&t->vocab, id, content, strlen(content), VOCAB_SPECIAL);
        if (bad) {
            rc = tok_error(err, errlen, "%s: added_tokens_decoder: \"%.40s\" for id %lld: %s", path, content, id,
                           vocab_strerror(bad));
            break;
        }
    }
    cJSON_Delete(j);
    return rc;
}

int tok_read_tiktoken(struct tok *t, const char *path, const char *config, char *err, size_t errlen)
{
    size_t len, lines = 1;
    char *data = file_read(path, &len, err, errlen);
    if (!data)
        return -1;
    int rc = -1;
    for (const char *p = data; (p = memchr(p, '\n', (size_t)(data + len - p))); p++)
        lines++;
    if (vocab_init(&t->vocab, lines)) {
        tok_error(err, errlen, "%s: out of memory", path);
        goto out;
    }
    const char *bad;
    lines = 1;
    for (char *p = data; p < data + len; lines++) {
        if (*p == '\n') {
            p++;
            continue;
        }
        p = read_line(t, p, &bad);
        if (bad) {
            tok_error(err, errlen, "%s: line %zu: %s", path, lines, bad);
            goto out;
        }
    }
    int missing = bpe_init(&t->bpe, &t->vocab);
    if (missing >= 0) {
        tok_error(err, errlen, "%s: no token for byte 0x%02x", path, missing);
        goto out;
    }
    t->bpe.whole = 1;
    for (size_t i = 0; i < sizeof dbrx_special / sizeof *dbrx_special; i++) {
        const char *name = dbrx_special[i].name;
        int code = vocab_add(&t->vocab, dbrx_special[i].id, name, strlen(name), VOCAB_SPECIAL);
        if (code) {
            tok_error(err, errlen, "%s: not cl100k_base's ranks: no place for %s, id %d: %s", path, name,
                      (int)dbrx_special[i].id, vocab_strerror(code));
            goto out;
        }
    }
    rc = config ? add_config_specials(t, config, err, errlen) : 0;
out:
    free(data);
    return rc;
}
