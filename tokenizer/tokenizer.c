/* tokenizer/tokenizer.c -- the public face: opening, encoding, looking up.
 *
 * Encoding is: make the bytes valid UTF-8, cut at special tokens if they count, cut
 * into pieces, and give each piece its ids -- from the vocabulary if it is a token,
 * from where the same piece stood before in this text, or by merging.  Knows no file
 * format and no merge rule. */
#include "tokenizer/pretok.h"
#include "tokenizer/tok.h"
#include "tokenizer/utf8.h"

#include <dirent.h>
#include <limits.h>
#include <stdlib.h>
#include <sys/stat.h>

/* ------------------------------------------------------------------ opening */

static int ends_with(const char *s, const char *end)
{
    size_t n = strlen(s), m = strlen(end);
    return n >= m && strcmp(s + n - m, end) == 0;
}

/* The name of dir's rank file in buf; 0, or -1 and a sentence. */
static int find_rank_file(char *buf, size_t size, const char *dir, char *err, size_t errlen)
{
    int found = 0;
    DIR *d = opendir(dir);
    for (struct dirent *e; d && (e = readdir(d));) {
        if (!ends_with(e->d_name, ".tiktoken"))
            continue;
        found++;
        if (file_path(buf, size, dir, e->d_name)) {
            closedir(d);
            return tok_error(err, errlen, "%s: the path is too long", dir);
        }
        if (strcmp(e->d_name, "cl100k_base.tiktoken") == 0) {
            found = 1;
            break;
        }
    }
    if (d)
        closedir(d);
    if (found > 1)
        return tok_error(err, errlen, "%s: several .tiktoken files and none is cl100k_base.tiktoken", dir);
    if (!found)
        return tok_error(err, errlen, "%s: no tokenizer: neither tokenizer.json nor a rank file "
                         "(put cl100k_base.tiktoken there)", dir);
    return 0;
}

/* Whether tokenizer_config.json, if it names an encoding, names cl100k_base. */
static int check_encoding(const char *path, char *err, size_t errlen)
{
    cJSON *j = file_json(path, err, errlen);
    if (!j)
        return -1;
    const char *model = json_string(j, "model_name"), *encoding = json_string(j, "encoding_name");
    int rc = 0;
    if (model && strcmp(model, "gpt-4") != 0 && strcmp(model, "gpt-3.5-turbo") != 0)
        rc = tok_error(err, errlen, "%s: names the tokenizer of \"%.60s\"; only gpt-4's (cl100k_base) is known",
                       path, model);
    else if (encoding && strcmp(encoding, "cl100k_base") != 0)
        rc = tok_error(err, errlen, "%s: names the encoding \"%.60s\"; only cl100k_base is known",
                       path, encoding);
    cJSON_Delete(j);
    return rc;
}

static int open_dir(struct tok *t, const char *dir, char *err, size_t errlen)
{
    char path[PATH_MAX], config[PATH_MAX];
    if (file_path(path, sizeof path, dir, "tokenizer.json")
        || file_path(config, sizeof config, dir, "tokenizer_config.json"))
        return tok_error(err, errlen, "%s: the path is too long", dir);
    if (file_exists(path))
        return tok_read_hf(t, path, err, errlen);
    if (file_exists(config)) {
        if (check_encoding(config, err, errlen))
            return -1;
    } else {
        config[0] = 0;
    }
    if (find_rank_file(path, sizeof path, dir, err, errlen))
        return -1;
    return tok_read_tiktoken(t, path, config[0] ? config : NULL, err, errlen);
}

struct tok *tok_open(const char *path, char *err, size_t errlen)
{
    struct stat st;
    struct tok *t = calloc(1, sizeof *t);
    int rc;
    if (!t)
        rc = tok_error(err, errlen, "%s: out of memory", path);
    else if (stat(path, &st) == 0 && S_ISDIR(st.st_mode))
        rc = open_dir(t, path, err, errlen);
    else if (ends_with(path, ".tiktoken"))
        rc = tok_read_tiktoken(t, path, NULL, err, errlen);
    else
        rc = tok_read_hf(t, path, err, errlen);
    if (rc == 0)
        return t;
    tok_close(t);
    return NULL;
}

struct tok *tok_open_list(const struct tok_list *list, char *err, size_t errlen)
{
    struct tok *t = calloc(1, sizeof *t);
    if (t ? tok_read_list(t, list, err, errlen) == 0 : tok_error(err, errlen, "out of memory") == 0)
        return t;
    tok_close(t);
    return NULL;
}

void tok_close(struct tok *t)
{
    if (!t)
        return;
    bpe_free(&t->bpe);
    vocab_free(&t->vocab);
    free(t);
}

/* ------------------------------------------------------------------ looking up */

int32_t tok_n_vocab(const struct tok *t)
{
    return t->vocab.n;
}

const char *tok_bytes(const struct tok *t, int32_t id, size_t *len)
{
    return vocab_bytes(&t->vocab, id, len);
}

int tok_is_special(const struct tok *t, int32_t id)
{
    return id >= 0 && id < t->vocab.n && t->vocab.token[id].special;
}

int32_t tok_special(const struct tok *t, const char *name)
{
    return vocab_special_named(&t->vocab, name);
}

/* ------------------------------------------------------------------ lists of ids */

int tok_ids_reserve(struct tok_ids *ids, size_t n)
{
    if (ids->cap - ids->n >= n)
        return 0;
    if (n > SIZE_MAX / sizeof *ids->id / 4 || ids->cap > SIZE_MAX / sizeof *ids->id / 4)
        return -1;
    size_t cap = ids->cap + ids->cap / 2 + n + 16;
    int32_t *p = realloc(ids->id, cap * sizeof *p);
    if (!p)
        return -1;
    ids->id = p;
    ids->cap = cap;
    return 0;
}

int tok_ids_push(struct tok_ids *ids, int32_t id)
{
    if (tok_ids_reserve(ids, 1))
        return -1;
    ids->id[ids->n++] = id;
    return 0;
}

/* ------------------------------------------------------------------ encoding */

/* Where a piece stood before in this text, and where its ids are in the output; a single
 * id is kept here. */
struct seen { uint64_t key; uint32_t text, ids; uint16_t len, n_ids; };

struct encoder {
    const struct tok *tok;
    const char *text, *end;                    /* all of it, valid UTF-8 */
    struct tok_ids *out;
    size_t first;                              /* out's length at the beginning */
    struct seen *seen;                         /* [1 << seen_bits], or NULL */
    int seen_bits;
};

enum { SEEN_MIN_TEXT = 2048, SEEN_MAX_BITS = 15, SEEN_MAX_LEN = 64 };

static void seen_init(struct encoder *e)
{
    size_t len = (size_t)(e->end - e->text);
    if (len < SEEN_MIN_TEXT || len > UINT32_MAX)
        return;                                 /* slower, nothing else */
    for (e->seen_bits = 8; e->seen_bits < SEEN_MAX_BITS && (size_t)64 << e->seen_bits < len;)
        e->seen_bits++;
    e->seen = calloc((size_t)1 << e->seen_bits, sizeof *e->seen);
}

static int encode_piece(struct encoder *e, const char *s, size_t len)
{
    const struct bpe *bpe = &e->tok->bpe;
    struct tok_ids *out = e->out;
    uint64_t key = vocab_key(s, len, e->end), hash = vocab_hash(key, len);

    if (bpe->whole) {
        int32_t id = vocab_find(&e->tok->vocab, s, len, key, hash);
        if (id >= 0) {
            if (tok_ids_reserve(out, 1))
                return -1;
            out->id[out->n++] = id;
            return 0;
        }
    }
    if (!e->seen || len > SEEN_MAX_LEN)
        return bpe_encode(bpe, s, len, e->end, out);

    struct seen *p = &e->seen[hash >> (64 - e->seen_bits)];
    if (p->key != key || p->len != len || (len > 8 && memcmp(e->text + p->text, s, len) != 0)) {
        size_t start = out->n;
        if (bpe_encode(bpe, s, len, e->end, out))
            return -1;
        *p = (struct seen){ key, (uint32_t)(s - e->text), (uint32_t)(start - e->first),
                            (uint16_t)len, (uint16_t)(out->n - start) };
        if (p->n_ids == 1)
            p->ids = (uint32_t)out->id[start];
        return 0;
    }
    if (tok_ids_reserve(out, p->n_ids))
        return -1;
    if (p->n_ids == 1)
        out->id[out->n] = (int32_t)p->ids;
    else
        memcpy(out->id + out->n, out->id + e->first + p->ids, p->n_ids * sizeof *out->id);
    out->n += p->n_ids;
    return 0;
}

static int encode_plain(struct encoder *e, const char *s, const char *end)
{
    for (const char *next; s < end; s = next) {
        next = pretok_next(s, end);
        if (encode_piece(e, s, (size_t)(next - s)))
            return -1;
    }
    return 0;
}

static int encode_with_specials(struct encoder *e)
{
    const struct vocab *v = &e->tok->vocab;
    const char *plain = e->text, *s = e->text;
    while (s < e->end) {
        int32_t id = -1;
        if (v->special_first[(unsigned char)*s])
            id = vocab_special_at(v, s, (size_t)(e->end - s));
        if (id < 0) {
            s++;
            continue;
        }
        if (encode_plain(e, plain, s) || tok_ids_push(e->out, id))
            return -1;
        plain = s += v->token[id].len;
    }
    return encode_plain(e, plain, e->end);
}

int tok_encode(const struct tok *t, const char *text, size_t len, int mode, struct tok_ids *out)
{
    struct encoder e = { .tok = t, .out = out, .first = out->n };
    char *repaired = NULL;
    int rc = -1;

    if (utf8_repair(text, len, &repaired, &len))
        goto out;
    e.text = repaired ? repaired : text;
    e.end = e.text + len;
    if (len == 0) {
        rc = 0;
        goto out;
    }
    seen_init(&e);
    if (tok_ids_reserve(out, len / 4 + 1) == 0)
        rc = mode == TOK_SPECIAL ? encode_with_specials(&e) : encode_plain(&e, e.text, e.end);
    if (rc)
        out->n = e.first;
out:
    free(e.seen);
    free(repaired);
    return rc;
}
