/* tests/unit/gguf.c -- GGUF files: a good one is read, one that lies is refused in a sentence,
 * and no change of bytes makes the reader crash.
 *
 *     gguf [MUTATIONS [SEED]]
 *
 * gguf.sh builds it once more with sanitizers and more mutations. */
#define _GNU_SOURCE
#include "backends/model/checkpoint.h"
#include "backends/model/gguf_write.h"
#include "backends/model/imatrix.h"
#include "tests/tap.h"

#include <fcntl.h>
#include <float.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static char dir[] = "/tmp/dbrx-gguf-XXXXXX";
static const struct dbrx_config tiny = {
    .n_layers = 1, .d_model = 8, .n_heads = 2, .n_kv_heads = 1, .d_ffn = 32, .n_experts = 4, .top_k = 2,
    .n_vocab = 6, .max_seq = 16, .clip_qkv = 8, .rope_theta = 500000, .ln_eps = 1e-5f, .moe_norm_p = 1,
};

/* ---- making files ---- */

struct making { struct gguf_head *h; int part, parts, i; };

static dbrx_status add_tensor(void *ctx, const struct ckpt_slot *s)
{
    struct making *m = ctx;
    int q = strstr(s->gguf, "ffn_down_exps") != NULL;          /* rows of 32: one quantised tensor */
    if (m->i++ % m->parts == m->part)
        gguf_put_tensor(m->h, s->gguf, s->gguf_rank, s->gguf_want, q ? DBRX_Q8_0 : DBRX_F32);
    return DBRX_OK;
}

/* part `part` of `parts`; its bytes, *n of them */
static unsigned char *make(const struct dbrx_config *c, int part, int parts, size_t *n)
{
    static const char *const words[] = { "a", "b", "ab", "\xc4\xa0", "<|im_end|>", "[PAD5]" };
    static const int32_t types[] = { 1, 1, 1, 1, 3, 5 };
    struct gguf_head h = { 0 };
    struct dbrx_model_desc d = { .config = *c };
    struct making m = { &h, part, parts, 0 };
    struct dbrx_layer layers[4];
    memset(layers, 0, sizeof layers);
    d.layer = layers;
    if (part == 0) {
        gguf_put_config(&h, c, "tiny");
        gguf_put_text(&h, "tokenizer.ggml.model", "gpt2", 4);
        gguf_put_text(&h, "tokenizer.ggml.pre", "dbrx", 4);
        gguf_put_texts(&h, "tokenizer.ggml.tokens", 6);
        for (int i = 0; i < 6; i++)
            gguf_add_text(&h, words[i], strlen(words[i]));
        gguf_put_int32s(&h, "tokenizer.ggml.token_type", 6);
        for (int i = 0; i < 6; i++)
            gguf_add_int32(&h, types[i]);
        gguf_put_texts(&h, "tokenizer.ggml.merges", 1);
        gguf_add_text(&h, "a b", 3);
        gguf_put_u32(&h, "tokenizer.ggml.eos_token_id", 4);
        gguf_put_text(&h, "tokenizer.chat_template", "{{x}}", 5);
        gguf_put_float32s(&h, "some.floats", 2);
        gguf_add_float32(&h, 1);
        gguf_add_float32(&h, 2);
        gguf_put_bool(&h, "some.truth", 1);
        gguf_put_u32(&h, "same.1", 1);
        gguf_put_u32(&h, "same.2", 1);
    }
    if (parts > 1) {
        gguf_put_u32(&h, "split.no", (uint32_t)part);
        gguf_put_u32(&h, "split.count", (uint32_t)parts);
        gguf_put_u32(&h, "split.tensors.count", 11);
    }
    ckpt_each(&d, add_tensor, &m);
    uint64_t data = h.data;
    size_t head;
    unsigned char *p = gguf_head_bytes(&h, &head);
    p = p ? realloc(p, head + data) : NULL;
    if (!p)
        bail("out of memory");
    memset(p + head, 0, data);
    *n = head + data;
    return p;
}

static const char *path_of(const char *name)
{
    static char path[256];
    snprintf(path, sizeof path, "%s/%s", dir, name);
    return path;
}

static void put(const char *name, const unsigned char *p, size_t n)
{
    int fd = open(path_of(name), O_WRONLY | O_CREAT | O_TRUNC, 0600);
    if (fd < 0 || write(fd, p, n) != (ssize_t)n)
        bail("%s cannot be written", path_of(name));
    close(fd);
}

static struct ckpt *opened(const char *name, struct dbrx_error *err)
{
    struct ckpt *c;
    *err = (struct dbrx_error){ .code = 0 };
    return ckpt_open(name ? path_of(name) : dir, &c, err) == DBRX_OK ? c : NULL;
}

/* ---- a good one ---- */

static void test_good(void)
{
    struct dbrx_error err;
    size_t n, len;
    int type;
    unsigned char *p = make(&tiny, 0, 1, &n);
    put("m.gguf", p, n);
    struct ckpt *c = opened("m.gguf", &err);
    if (!ok(c != NULL, "a GGUF file opens (%s)", err.text))
        return;
    const struct dbrx_config *g = &c->desc.config;
    ok(g->n_layers == 1 && g->d_model == 8 && g->n_heads == 2 && g->n_kv_heads == 1 && g->d_ffn == 32 &&
       g->n_experts == 4 && g->top_k == 2 && g->n_vocab == 6 && g->max_seq == 16, "sizes");
    ok(g->clip_qkv == 8 && g->rope_theta == 500000 && g->ln_eps == 1e-5f && g->moe_norm_p == 1 &&
       g->act_fn == DBRX_SILU, "numbers");
    ok(c->gguf && c->desc.w2_layout == DBRX_W2_MODEL_ROWS && c->n_tensors == 11, "w2 by model rows");
    const struct dbrx_tensor *w2 = &c->desc.layer[0].w2;
    ok(w2->dtype == DBRX_Q8_0 && w2->rank == 2 && w2->dim[0] == 32 && w2->dim[1] == 32 &&
       w2->bytes == 32 * 34 && w2->offset % 32 == 0, "w2 is a matrix of all experts' rows");
    ok(c->n_eos == 1 && c->eos[0] == 4, "eos");
    const char *word = c->n_words == 6 ? ckpt_word(c, 2, &len, &type) : "";
    ok(c->n_words == 6 && len == 2 && !memcmp(word, "ab", 2) && type == CKPT_WORD_NORMAL, "a token");
    word = ckpt_word(c, 4, &len, &type);
    ok(len == 10 && type == CKPT_WORD_CONTROL, "a control token");
    word = ckpt_merge(c, 0, &len);
    ok(c->n_merges == 1 && len == 3 && !memcmp(word, "a b", 3), "a merge");
    ok(c->chat_template && !strcmp(c->chat_template, "{{x}}"), "the chat template");
    ckpt_close(c);
    c = opened(NULL, &err);
    ok(c != NULL, "a directory with one GGUF file opens (%s)", err.text);
    ckpt_close(c);

    p[4] = 2;                              /* version 2 has the same layout */
    put("m.gguf", p, n);
    c = opened("m.gguf", &err);
    ok(c != NULL, "so does version 2 (%s)", err.text);
    ckpt_close(c);
    free(p);

    struct dbrx_config odd = tiny;
    odd.clip_qkv = 0, odd.act_fn = DBRX_GELU, odd.moe_norm_p = 2;
    p = make(&odd, 0, 1, &n);
    put("m.gguf", p, n);
    c = opened("m.gguf", &err);
    ok(c && c->desc.config.clip_qkv == 0 && c->desc.config.act_fn == DBRX_GELU && c->desc.config.moe_norm_p == 2,
       "no clamp, gelu and L2 survive");
    ckpt_close(c);
    free(p);
}

static void test_split(void)
{
    struct dbrx_error err;
    size_t n;
    unlink(path_of("m.gguf"));
    for (int i = 0; i < 3; i++) {
        char name[64];
        unsigned char *p = make(&tiny, i, 3, &n);
        snprintf(name, sizeof name, "s-%05d-of-00003.gguf", i + 1);
        put(name, p, n);
        free(p);
    }
    struct ckpt *c = opened("s-00002-of-00003.gguf", &err);
    ok(c && c->n_shards == 3 && c->n_tensors == 11, "any part of a split file opens all of it (%s)", err.text);
    ckpt_close(c);
    c = opened(NULL, &err);
    ok(c != NULL, "so does their directory (%s)", err.text);
    ckpt_close(c);
    rename(path_of("s-00003-of-00003.gguf"), "/tmp/dbrx-gguf-part");
    c = opened("s-00001-of-00003.gguf", &err);
    ok(!c && strstr(err.text, "s-00003-of-00003.gguf is missing: part 3 of 3"), "a part that is missing: %s", err.text);
    unsigned char *p = make(&tiny, 1, 3, &n);
    put("s-00003-of-00003.gguf", p, n);
    c = opened("s-00001-of-00003.gguf", &err);
    ok(!c && strstr(err.text, "says it is part 2 of 3"), "a part under another's name: %s", err.text);
    unlink("/tmp/dbrx-gguf-part");
    put("other.gguf", p, n);
    c = opened(NULL, &err);
    ok(!c && strstr(err.text, "several GGUF models"), "two models in one directory: %s", err.text);
    c = opened("other.gguf", &err);
    ok(!c && strstr(err.text, "is not named"), "a part without its number: %s", err.text);
    free(p);
    for (int i = 1; i <= 3; i++) {
        char name[64];
        snprintf(name, sizeof name, "s-%05d-of-00003.gguf", i);
        unlink(path_of(name));
    }
    unlink(path_of("other.gguf"));
}

/* ---- lies ---- */

static unsigned char *good;
static size_t good_n;

/* Where `key` is, behind its last byte */
static unsigned char *after(unsigned char *p, const char *key)
{
    unsigned char *at = memmem(p, good_n, key, strlen(key));
    if (!at)
        bail("%s is not in the file", key);
    return at + strlen(key);
}

static void set(unsigned char *at, uint64_t x, int bytes)
{
    for (int i = 0; i < bytes; i++)
        at[i] = (unsigned char)(x >> 8 * i);
}

static void refuses(const char *what, const unsigned char *p, size_t n, const char *sentence)
{
    struct dbrx_error err;
    put("m.gguf", p, n);
    struct ckpt *c = opened("m.gguf", &err);
    ok(!c && strstr(err.text, sentence), "%s: %s", what, c ? "accepted" : err.text);
    ckpt_close(c);
}

/* One place: key or NULL, what follows it, how many bytes */
static void lie(const char *what, const char *key, size_t skip, uint64_t x, int bytes, const char *sentence)
{
    unsigned char *p = malloc(good_n);
    memcpy(p, good, good_n);
    set((key ? after(p, key) : p) + skip, x, bytes);
    refuses(what, p, good_n, sentence);
    free(p);
}

static void test_lies(void)
{
    good = make(&tiny, 0, 1, &good_n);
    lie("no magic", NULL, 0, 0x46554748, 4, "is no GGUF file");
    lie("version 1", NULL, 4, 1, 4, "version 1 is not supported");
    lie("version 4", NULL, 4, 4, 4, "version 4 is not supported");
    lie("the other byte order", NULL, 4, 3u << 24, 4, "big-endian");
    lie("more tensors than bytes", NULL, 8, UINT64_MAX, 8, "truncated or damaged");
    lie("a tensor too many", NULL, 8, 12, 8, "must have 1 to 255");
    lie("more keys than bytes", NULL, 16, UINT64_MAX / 2, 8, "truncated or damaged");
    lie("a key too many", NULL, 16, 32, 8, "a key has 1688849860263936 bytes");
    lie("a key without an end", NULL, 24, UINT64_MAX, 8, "a key has 18446744073709551615 bytes");
    lie("an empty key", NULL, 24, 0, 8, "a key has 0 bytes");
    lie("a NUL in a key", NULL, 33, 0, 1, "holds a NUL");
    lie("a type that is none", "general.architecture", 0, 13, 4, "type that GGUF does not know");
    lie("a string without an end", "general.architecture", 4, UINT64_MAX - 3, 8, "truncated");
    lie("another architecture", "general.architecture", 12, 0x616d616c, 4, "\"lama\" model");
    lie("an array of arrays", "tokenizer.ggml.tokens", 4, 9, 4, "array of arrays");
    lie("an array of nothing known", "tokenizer.ggml.tokens", 4, 77, 4, "array of a type");
    lie("an array without an end", "tokenizer.ggml.tokens", 8, UINT64_MAX, 8, "truncated");
    lie("a long array of numbers", "some.floats", 8, UINT64_C(1) << 62, 8, "truncated");
    lie("neither true nor false", "some.truth", 4, 2, 1, "neither 0 nor 1");
    lie("no layers", "dbrx.block_count", 4, 0, 4, "block_count must be a whole number");
    lie("too many layers", "dbrx.block_count", 4, 100000, 4, "block_count must be a whole number");
    lie("layers that are not there", "dbrx.block_count", 4, 2, 4, "lacks 8 of 19 tensors");
    lie("heads that do not fit", "dbrx.attention.head_count", 4, 3, 4, "is not a multiple of");
    lie("KV heads that do not fit", "dbrx.attention.head_count_kv", 4, 3, 4, "is not a multiple of");
    lie("top-k above the experts", "dbrx.expert_used_count", 4, 9, 4, "is more than expert_count");
    lie("another width", "dbrx.feed_forward_length", 4, 64, 4, "has shape [4, 32, 8], but its metadata asks");
    lie("a base that is no number", "dbrx.rope.freq_base", 4, 0x7fc00000, 4, "must be a finite");
    lie("a negative clamp", "dbrx.attention.clamp_kqv", 4, 0xc1000000, 4, "must be a positive number");
    lie("a size that is a float", "dbrx.expert_count", 0, 6, 4, "must be a whole number");
    lie("the same key twice", "same.2", (size_t)-1, '1', 1, "\"same.1\" is there twice");
    lie("an eos beyond the vocabulary", "tokenizer.ggml.eos_token_id", 4, 6, 4, "from 0 to 5");
    lie("no dimensions", "token_embd.weight", 0, 0, 4, "has 0 dimensions");
    lie("too many dimensions", "token_embd.weight", 0, 5, 4, "has 5 dimensions");
    lie("an empty dimension", "token_embd.weight", 4, 0, 8, "empty or too large");
    lie("a shape that overflows", "token_embd.weight", 4, INT64_MAX, 8, "too large for any file");
    lie("a type that is not read", "token_embd.weight", 20, 16, 4, "has type IQ2_XXS, which is not supported");
    lie("a type that is none", "token_embd.weight", 20, 4000000000u, 4, "has type type 4000000000");
    lie("rows that are no blocks", "token_embd.weight", 20, DBRX_Q4_0, 4, "no whole number of Q4_0 blocks");
    lie("data beyond the end", "blk.0.attn_qkv.weight", 24, 1 << 20, 8, "it is truncated");
    lie("data at an overflowing place", "blk.0.attn_qkv.weight", 24, UINT64_MAX - 31, 8, "it is truncated");
    lie("data that is not aligned", "blk.0.attn_norm.weight", 16, 36, 8, "no multiple of the alignment");
    lie("two tensors in one place", "blk.0.attn_qkv.weight", 24, 0, 8, "overlaps");
    lie("a tensor by another name", "blk.0.ffn_up_exps.weigh", 0, 'x', 1, "lacks 1 of 11 tensors");
    for (size_t n = 0; n < good_n; n += n < 64 ? 3 : 97) {
        struct dbrx_error err;
        put("m.gguf", good, n);
        struct ckpt *c = opened("m.gguf", &err);
        if (c || !err.text[0]) {
            ok(0, "cut after %zu bytes: accepted", n);
            ckpt_close(c);
            return;
        }
    }
    ok(1, "a file cut anywhere is refused");
}

/* ---- any bytes ---- */

static uint64_t rng;
static uint64_t next(void)
{
    rng ^= rng << 13, rng ^= rng >> 7, rng ^= rng << 17;
    return rng;
}

static void test_mutations(unsigned long n, uint64_t seed)
{
    static const uint64_t nasty[] = { 0, 1, 2, 0x7f, 0xff, 0xffff, 0x7fffffff, 0x80000000, 0xffffffff,
                                      UINT64_C(1) << 62, INT64_MAX, UINT64_MAX, UINT64_MAX - 31 };
    unsigned long opened_n = 0, silent = 0, sum = 0;
    unsigned char *p = malloc(good_n);
    size_t head = good_n < 2048 ? good_n : 2048;
    rng = seed * UINT64_C(0x9e3779b97f4a7c15) + 1;
    for (unsigned long i = 0; i < n; i++) {
        struct dbrx_error err;
        memcpy(p, good, good_n);
        for (uint64_t k = 1 + next() % 3; k; k--) {
            size_t at = next() % head;
            if (next() % 2)
                p[at] = (unsigned char)next();
            else if (at + 8 <= good_n)
                set(p + at, nasty[next() % (sizeof nasty / sizeof *nasty)], next() % 2 ? 8 : 4);
        }
        put("m.gguf", p, next() % 8 ? good_n : next() % good_n);
        struct ckpt *c = opened("m.gguf", &err);
        opened_n += c != NULL;
        silent += !c && !err.text[0];
        for (uint32_t w = 0; c && w < c->n_words; w++) {       /* what was accepted can be read */
            size_t len;
            int type;
            const char *s = ckpt_word(c, w, &len, &type);
            sum += len ? (unsigned char)s[0] + (unsigned char)s[len - 1] : 0;
        }
        ckpt_close(c);
        struct imatrix *m;
        if (i % 8 == 0 && imatrix_open(path_of("m.gguf"), &m, &err) == DBRX_OK)
            imatrix_free(m);
    }
    diag("sum of what was read: %lu", sum);
    ok(!silent, "%lu mutations: none crashes, %lu are still good, the others have a sentence", n, opened_n);
    free(p);
}

/* ---- importance matrices ---- */

static void test_imatrix(void)
{
    struct imatrix *m = calloc(1, sizeof *m), *back = NULL;
    struct dbrx_error err = { .code = 0 };
    struct imatrix_entry *e = imatrix_add(m, "blk.0.ffn_up_exps.weight", 3, 5);
    size_t n;
    for (int i = 0; i < 15; i++)
        e->sum[i] = (float)i;
    e->count[1] = 7;
    unsigned char *p = imatrix_bytes(m, "text", 2, 512, &n);
    put("i.gguf", p, n);
    dbrx_status st = imatrix_open(path_of("i.gguf"), &back, &err);
    const struct imatrix_entry *f = back ? imatrix_find(back, "blk.0.ffn_up_exps.weight") : NULL;
    ok(st == DBRX_OK && f && f->n_matrices == 3 && f->cols == 5 && f->sum[14] == 14 && f->count[1] == 7,
       "an importance matrix comes back (%s)", err.text);
    imatrix_free(back);
    imatrix_free(m);
    put("i.gguf", good, good_n);
    ok(imatrix_open(path_of("i.gguf"), &back, &err) != DBRX_OK && strstr(err.text, "is no importance matrix"),
       "a model is none: %s", err.text);
    free(p);
    unlink(path_of("i.gguf"));
}

int main(int argc, char **argv)
{
    if (!mkdtemp(dir))
        bail("%s cannot be made", dir);
    test_good();
    test_split();
    test_lies();
    test_imatrix();
    test_mutations(argc > 1 ? strtoul(argv[1], NULL, 10) : 2000, argc > 2 ? strtoul(argv[2], NULL, 10) : 1);
    unlink(path_of("m.gguf"));
    rmdir(dir);
    free(good);
    return done();
}
