/* backends/model/gguf_model.c -- DBRX in GGUF: the parts of a split set, the config and the
 * vocabulary out of the metadata.  Knows the keys' names; the container is gguf.c's. */
#define _GNU_SOURCE
#include "backends/model/gguf.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <float.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* ---- one file or many ---- */

enum { MAX_PARTS = 99999 };

/* "stem-00002-of-00005.gguf": the stem's length, the number and the count, or 0 */
static size_t part_of(const char *name, unsigned *no, unsigned *count)
{
    size_t n = strlen(name), end = strlen("-00001-of-00005.gguf");
    int used = 0;
    if (n <= end || sscanf(name + n - end, "-%5u-of-%5u.gguf%n", no, count, &used) != 2 ||
        used != (int)end || !*no || *no > *count)
        return 0;
    return n - end;
}

static dbrx_status check_part(const struct gguf *g, const char *name, unsigned no, unsigned count,
                              struct dbrx_error *err)
{
    int64_t said_no = 0, said_count = 1;
    dbrx_status st = gguf_whole(g, name, "split.no", 0, MAX_PARTS, &said_no, err);
    if (st == DBRX_OK)
        st = gguf_whole(g, name, "split.count", 0, MAX_PARTS, &said_count, err);
    if (st != DBRX_OK)
        return st;
    said_count += said_count == 0;         /* some writers say 0 when nothing is split */
    if (said_count != count || said_no != no - 1)
        return count == 1
            ? ckpt_fail(err, DBRX_E_INVALID, "%s says it is part %lld of %lld, but is not named "
                        "...-%05lld-of-%05lld.gguf", SHOW(name), (long long)said_no + 1,
                        (long long)said_count, (long long)said_no + 1, (long long)said_count)
            : ckpt_fail(err, DBRX_E_INVALID, "%s says it is part %lld of %lld", SHOW(name),
                        (long long)said_no + 1, (long long)said_count);
    return DBRX_OK;
}

static dbrx_status open_part(struct reader *r, int dir, const char *name, unsigned no, unsigned count,
                             struct st_list *list, struct gguf *g, struct dbrx_error *err)
{
    struct st_file *file = ckpt_add_file(r, name, err);
    if (!file)
        return DBRX_E_NOMEM;
    dbrx_status st = gguf_open(dir, name, r->pub.n_shards - 1, file, g, list, err);
    r->pub.file_bytes += file->size;
    return st == DBRX_OK ? check_part(g, name, no, count, err) : st;
}

static dbrx_status open_parts(struct reader *r, int dir, const char *name, struct st_list *list,
                              struct dbrx_error *err)
{
    unsigned no, count, given;
    size_t stem = part_of(name, &given, &count);
    int64_t tensors = 0;
    if (!stem)
        return open_part(r, dir, name, 1, 1, list, r->gguf, err);
    dbrx_status st = DBRX_OK;
    for (no = 1; no <= count && st == DBRX_OK; no++) {
        struct gguf other = { 0 };
        char *part;
        if (asprintf(&part, "%.*s-%05u-of-%05u.gguf", (int)stem, name, no, count) < 0)
            return ckpt_no_memory(err, name);
        if (faccessat(dir, part, F_OK, 0) != 0 && errno == ENOENT)
            st = ckpt_fail(err, DBRX_E_IO, "%s is missing: part %u of %u of a split GGUF file",
                           SHOW(part), no, count);
        else
            st = open_part(r, dir, part, no, count, list, no == 1 ? r->gguf : &other, err);
        gguf_free(&other);
        free(part);
    }
    if (st == DBRX_OK)
        st = gguf_whole(r->gguf, r->file[0].name, "split.tensors.count", 0, INT32_MAX, &tensors, err);
    if (st == DBRX_OK && tensors && (uint64_t)tensors != list->n)
        st = ckpt_fail(err, DBRX_E_INVALID, "%s says there are %lld tensors in all parts, but there "
                       "are %zu", SHOW(r->file[0].name), (long long)tensors, list->n);
    return st;
}

dbrx_status ckpt_find_gguf(int dir, char **name, struct dbrx_error *err)
{
    dbrx_status st = DBRX_OK;
    int fd = openat(dir, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *d = fd >= 0 ? fdopendir(fd) : NULL;
    *name = NULL;
    if (!d && fd >= 0)
        close(fd);
    for (struct dirent *e; d && st == DBRX_OK && (e = readdir(d)); ) {
        unsigned no, count;
        size_t n = strlen(e->d_name);
        if (n < 6 || strcmp(e->d_name + n - 5, ".gguf") || e->d_name[0] == '.' ||
            (part_of(e->d_name, &no, &count) && no > 1))
            continue;
        if (*name)
            st = ckpt_fail(err, DBRX_E_INVALID, "there are several GGUF models, %s and %s: name the "
                           "file, not the directory", SHOW(*name), SHOW(e->d_name));
        else if (!(*name = strdup(e->d_name)))
            st = ckpt_no_memory(err, e->d_name);
    }
    if (d)
        closedir(d);
    if (st != DBRX_OK) {
        free(*name);
        *name = NULL;
    }
    return st;
}

/* ---- the config ---- */

#define ARCH "dbrx."
static const struct { const char *key; size_t at; int64_t max; } size_keys[] = {
    { ARCH "block_count",             offsetof(struct dbrx_config, n_layers),   MAX_LAYERS },
    { ARCH "embedding_length",        offsetof(struct dbrx_config, d_model),    MAX_SIZE },
    { ARCH "attention.head_count",    offsetof(struct dbrx_config, n_heads),    MAX_SIZE },
    { ARCH "attention.head_count_kv", offsetof(struct dbrx_config, n_kv_heads), MAX_SIZE },
    { ARCH "feed_forward_length",     offsetof(struct dbrx_config, d_ffn),      MAX_SIZE },
    { ARCH "expert_count",            offsetof(struct dbrx_config, n_experts),  MAX_EXPERTS },
    { ARCH "expert_used_count",       offsetof(struct dbrx_config, top_k),      MAX_EXPERTS },
    { ARCH "context_length",          offsetof(struct dbrx_config, max_seq),    MAX_SIZE },
};
enum { N_SIZE_KEYS = sizeof size_keys / sizeof *size_keys };

static int text_is(const char *s, size_t len, const char *want)
{
    return s && len == strlen(want) && !memcmp(s, want, len);
}

/* A string from a file as one of ours, cut to 75 bytes */
static const char *brief(char buf[76], const char *s, size_t len)
{
    len = len < 75 ? len : 75;
    memcpy(buf, s ? s : "", s ? len : 0);
    buf[s ? len : 0] = '\0';
    return buf;
}

static dbrx_status read_sizes(const struct gguf *g, const char *file, struct dbrx_config *c,
                              struct dbrx_error *err)
{
    static const struct size_names names = {
        "embedding_length", "attention.head_count", "attention.head_count_kv", "expert_used_count",
        "expert_count", "feed_forward_length",
    };
    for (int i = 0; i < N_SIZE_KEYS; i++) {
        int64_t x = 0;
        if (!gguf_find(g, size_keys[i].key))
            return ckpt_fail(err, DBRX_E_INVALID, "%s: %s is missing", SHOW(file), size_keys[i].key);
        dbrx_status st = gguf_whole(g, file, size_keys[i].key, 1, size_keys[i].max, &x, err);
        if (st != DBRX_OK)
            return st;
        uint32_t u = (uint32_t)x;
        memcpy((char *)c + size_keys[i].at, &u, sizeof u);
    }
    return ckpt_sizes_check(file, &names, c, err);
}

/* A positive number that is one as a float too */
static dbrx_status read_positive(const struct gguf *g, const char *file, const char *key, float *out,
                                 struct dbrx_error *err)
{
    double x = *out;
    dbrx_status st = gguf_number(g, file, key, &x, err);
    if (st == DBRX_OK && gguf_find(g, key) && (!(x > 0) || !(x <= FLT_MAX) || (float)x <= 0))
        return ckpt_fail(err, DBRX_E_INVALID, "%s: %s must be a positive number", SHOW(file), key);
    *out = (float)x;
    return st;
}

/* What would change the forward pass into another one than ours */
static dbrx_status refuse_other(const struct gguf *g, const char *file, const struct dbrx_config *c,
                                struct dbrx_error *err)
{
    static const char *const sizes[] = { "attention.key_length", "attention.value_length",
                                         "rope.dimension_count" };
    size_t len;
    char key[64], shown[76];
    int64_t hd = c->d_model / c->n_heads, x = hd;
    for (int i = 0; i < 3; i++) {
        snprintf(key, sizeof key, ARCH "%s", sizes[i]);
        dbrx_status st = gguf_whole(g, file, key, 0, INT32_MAX, &x, err);
        if (st != DBRX_OK)
            return st;
        if (x != hd)
            return ckpt_fail(err, DBRX_E_UNSUPPORTED, "%s: %s is %lld; only the head size "
                             "embedding_length/head_count = %lld is supported", SHOW(file), key,
                             (long long)x, (long long)hd);
    }
    const char *scaling = gguf_text(g, ARCH "rope.scaling.type", &len);
    if (scaling && !text_is(scaling, len, "none"))
        return ckpt_fail(err, DBRX_E_UNSUPPORTED, "%s: " ARCH "rope.scaling.type \"%s\" is not "
                         "supported", SHOW(file), SHOW(brief(shown, scaling, len)));
    return DBRX_OK;
}

static dbrx_status read_config(const struct gguf *g, const char *file, struct dbrx_config *c,
                               struct dbrx_error *err)
{
    size_t len;
    char shown[76];
    const char *arch = gguf_text(g, "general.architecture", &len);
    if (!arch)
        return ckpt_fail(err, DBRX_E_INVALID, "%s: general.architecture is missing", SHOW(file));
    if (!text_is(arch, len, "dbrx"))
        return ckpt_fail(err, DBRX_E_UNSUPPORTED, "%s: this is a \"%s\" model, not dbrx", SHOW(file),
                         SHOW(brief(shown, arch, len)));
    *c = (struct dbrx_config){ .struct_size = sizeof *c, .ln_eps = 1e-5f, .rope_theta = 10000,
                               .act_fn = DBRX_SILU };
    dbrx_status st = read_sizes(g, file, c, err);
    if (st == DBRX_OK)
        st = refuse_other(g, file, c, err);
    if (st == DBRX_OK)
        st = read_positive(g, file, ARCH "rope.freq_base", &c->rope_theta, err);
    if (st == DBRX_OK)
        st = read_positive(g, file, ARCH "attention.layer_norm_epsilon", &c->ln_eps, err);
    if (st == DBRX_OK)
        st = read_positive(g, file, ARCH "attention.clamp_kqv", &c->clip_qkv, err);
    if (c->clip_qkv >= FLT_MAX)            /* how a file says "none" to who must have a number */
        c->clip_qkv = 0;
    /* keys of ours, for checkpoints that differ from DBRX in these (docs/gguf.md) */
    double p = 1;
    if (st == DBRX_OK)
        st = gguf_number(g, file, ARCH "expert_weights_norm_p", &p, err);
    if (st == DBRX_OK && !(p >= 0 && p <= FLT_MAX))
        st = ckpt_fail(err, DBRX_E_INVALID, "%s: " ARCH "expert_weights_norm_p must not be negative",
                       SHOW(file));
    c->moe_norm_p = (float)p;
    const char *act = gguf_text(g, ARCH "feed_forward_activation", &len);
    if (text_is(act, len, "gelu"))
        c->act_fn = DBRX_GELU;
    else if (st == DBRX_OK && act && !text_is(act, len, "silu"))
        st = ckpt_fail(err, DBRX_E_UNSUPPORTED, "%s: " ARCH "feed_forward_activation \"%s\" is not "
                       "supported; silu and gelu are", SHOW(file), SHOW(brief(shown, act, len)));
    return st;
}

/* ---- the vocabulary, and what ends a reply ---- */

/* Why there are no words: a sentence of which `name` may be a part */
static void no_words(struct reader *r, const char *file, const char *before, const char *name,
                     const char *after)
{
    snprintf(r->pub.no_words, sizeof r->pub.no_words, "%.60s %s%.40s%s", SHOW(file), before,
             SHOW(name), after);
}

/* An array of `of`; NULL: absent, or something else */
static const struct gguf_kv *find_array(const struct gguf *g, const char *key, uint32_t of)
{
    const struct gguf_kv *kv = gguf_find(g, key);
    return kv && kv->type == GGUF_ARRAY && kv->of == of ? kv : NULL;
}

/* A checkpoint without a tokenizer that we know is one all the same */
static dbrx_status read_words(struct reader *r, const char *file, struct dbrx_error *err)
{
    const struct gguf *g = r->gguf;
    const struct gguf_kv *words = find_array(g, "tokenizer.ggml.tokens", GGUF_STRING);
    const struct gguf_kv *merges = find_array(g, "tokenizer.ggml.merges", GGUF_STRING);
    const struct gguf_kv *types = find_array(g, "tokenizer.ggml.token_type", GGUF_I32);
    size_t len, pre_len;
    char shown[76];
    const char *model = gguf_text(g, "tokenizer.ggml.model", &len);
    const char *pre = gguf_text(g, "tokenizer.ggml.pre", &pre_len);
    if (!model || !words || !merges || words->n > INT32_MAX || merges->n > INT32_MAX) {
        no_words(r, file, "holds no tokenizer", "", "");
    } else if (!text_is(model, len, "gpt2")) {
        no_words(r, file, "holds a tokenizer of kind \"", brief(shown, model, len),
                 "\"; only gpt2 is known");
    } else if (pre && !text_is(pre, pre_len, "dbrx")) {
        no_words(r, file, "holds a tokenizer that splits as \"", brief(shown, pre, pre_len),
                 "\"; only dbrx is known");
    } else if (types && types->n != words->n) {
        return ckpt_fail(err, DBRX_E_INVALID, "%s: tokenizer.ggml has %llu tokens, but %llu types",
                         SHOW(file), (unsigned long long)words->n, (unsigned long long)types->n);
    } else {
        r->word = gguf_strings(g, words);
        r->merge = gguf_strings(g, merges);
        if (!r->word || !r->merge)
            return ckpt_no_memory(err, file);
        r->pub.n_words = (uint32_t)words->n;
        r->pub.n_merges = (uint32_t)merges->n;
    }
    return DBRX_OK;
}

/* As many ids as there are tokens; without tokens, as many as the embedding has rows */
static dbrx_status read_n_vocab(const struct gguf *g, const char *file, const struct st_list *list,
                                uint32_t *n_vocab, struct dbrx_error *err)
{
    const struct gguf_kv *words = find_array(g, "tokenizer.ggml.tokens", GGUF_STRING);
    const struct st_tensor *embed = ckpt_find_tensor(list, "token_embd.weight");
    int64_t n = embed && embed->t.rank == 2 && embed->t.dim[0] <= INT32_MAX ? (int64_t)embed->t.dim[0] : 0;
    dbrx_status st = gguf_whole(g, file, ARCH "vocab_size", 1, INT32_MAX, &n, err);
    if (st == DBRX_OK && !n)
        st = ckpt_fail(err, DBRX_E_INVALID, "%s: tensor \"token_embd.weight\" is missing or is no "
                       "matrix", SHOW(file));
    if (st == DBRX_OK && words && words->n != (uint64_t)n)
        st = ckpt_fail(err, DBRX_E_INVALID, "%s: tokenizer.ggml.tokens has %llu tokens, but the model "
                       "%lld", SHOW(file), (unsigned long long)words->n, (long long)n);
    *n_vocab = (uint32_t)n;
    return st;
}

static dbrx_status read_eos(struct reader *r, const char *file, struct dbrx_error *err)
{
    static const char *const keys[] = { "tokenizer.ggml.eos_token_id", "tokenizer.ggml.eot_token_id" };
    int64_t top = (int64_t)r->pub.desc.config.n_vocab - 1;
    for (int i = 0; i < 2; i++) {
        int64_t id = -1;
        dbrx_status st = gguf_whole(r->gguf, file, keys[i], 0, top, &id, err);
        if (st != DBRX_OK)
            return st;
        if (id >= 0 && !(r->pub.n_eos && r->pub.eos[0] == id))
            r->pub.eos[r->pub.n_eos++] = (int32_t)id;
    }
    return DBRX_OK;
}

dbrx_status ckpt_open_gguf(struct reader *r, int dir, const char *name, struct st_list *list,
                           struct dbrx_error *err)
{
    size_t len;
    r->pub.gguf = 1;
    r->gguf = calloc(1, sizeof *r->gguf);
    if (!r->gguf)
        return ckpt_no_memory(err, name);
    struct dbrx_config *c = &r->pub.desc.config;
    dbrx_status st = open_parts(r, dir, name, list, err);
    const char *file = st == DBRX_OK ? r->file[0].name : name;
    if (st == DBRX_OK)
        st = ckpt_sort_tensors(r, list, err);
    if (st == DBRX_OK)
        st = read_config(r->gguf, file, c, err);
    if (st == DBRX_OK)
        st = read_n_vocab(r->gguf, file, list, &c->n_vocab, err);
    if (st == DBRX_OK)
        st = read_words(r, file, err);
    if (st == DBRX_OK)
        st = read_eos(r, file, err);
    const char *template = st == DBRX_OK ? gguf_text(r->gguf, "tokenizer.chat_template", &len) : NULL;
    if (template && !(r->pub.chat_template = strndup(template, len)))
        st = ckpt_no_memory(err, file);
    return st;
}

void ckpt_free_gguf(struct reader *r)
{
    if (r->gguf)
        gguf_free(r->gguf);
    free(r->gguf);
    free(r->word);
    free(r->merge);
    free(r->pub.chat_template);
}

const char *ckpt_word(const struct ckpt *c, uint32_t id, size_t *len, int *type)
{
    const struct reader *r = (const struct reader *)c;
    const struct gguf_kv *types = find_array(r->gguf, "tokenizer.ggml.token_type", GGUF_I32);
    *type = types ? (int)gguf_integer(r->gguf, types, id) : CKPT_WORD_NORMAL;
    return gguf_string(r->gguf, r->word[id], len);
}

const char *ckpt_merge(const struct ckpt *c, uint32_t i, size_t *len)
{
    const struct reader *r = (const struct reader *)c;
    return gguf_string(r->gguf, r->merge[i], len);
}
