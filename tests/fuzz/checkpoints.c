/* tests/fuzz/checkpoints.c -- strangers' checkpoints: safetensors, index, config, GGUF,
 * importance matrices.  What is accepted is looked at from end to end. */
#define _GNU_SOURCE
#include "tests/fuzz/fuzz.h"

#include "backends/model/imatrix.h"
#include "backends/model/reader.h"
#include "repl/text.h"
#include "tests/unit/model_files.h"

static volatile unsigned char seen;

static void look(const void *data, uint64_t n)
{
    const unsigned char *p = data;
    if (n)
        seen ^= p[0] ^ p[n / 2] ^ p[n - 1];
}

static void refused(dbrx_status st, const struct dbrx_error *err)
{
    MUST(st < 0 && err->code == st);
    fuzz_sentence(err->text, sizeof err->text);
}

/* Two bytes: how much data; the third: bit 0, no length is put before what follows */
static void safetensors(const uint8_t *data, size_t size)
{
    if (size < 3)
        return;
    struct st_file f;
    struct st_list list = { 0 };
    struct dbrx_error err = { 0 };
    size_t room = data[0] | (size_t)data[1] << 8, n = size - 3, at = 0;
    uint8_t *file = calloc(1, 8 + n + room);
    if (!(data[2] & 1))
        for (; at < 8; at++)
            file[at] = (uint8_t)((uint64_t)n >> 8 * at);
    memcpy(file + at, data + 3, n);
    fuzz_put("w", file, at + n + room);
    free(file);
    dbrx_status st = st_open(fuzz_dir_fd(), "w", 0, &f, &list, &err);
    if (st != DBRX_OK)
        refused(st, &err);
    else
        for (size_t i = 0; i < list.n; i++)
            look(list.v[i].t.data, list.v[i].t.bytes);
    st_close(&f);
    st_list_free(&list);
}

/* All that a checkpoint says of itself */
static dbrx_status visit(void *ctx, const struct ckpt_slot *s)
{
    uint64_t n = 1;
    (void)ctx;
    for (uint32_t i = 0; i < s->t->rank; i++)
        n *= s->t->dim[i];
    MUST(s->t->rank && n && dtype_bytes(s->t->dtype, n) == s->t->bytes);
    look(s->t->data, s->t->bytes);
    return DBRX_OK;
}

static void look_through(struct ckpt *c)
{
    char why[300];
    const struct dbrx_config *g = &c->desc.config;
    MUST(g->n_layers && g->n_heads && g->n_kv_heads && !(g->d_model % g->n_heads) && !(g->n_heads % g->n_kv_heads));
    MUST(g->top_k && g->top_k <= g->n_experts && g->rope_theta > 0 && g->n_vocab && g->n_vocab <= INT32_MAX);
    MUST(ckpt_each(&c->desc, visit, NULL) == DBRX_OK && ckpt_params_active(c) <= ckpt_params_total(c));
    for (uint32_t i = 0; i < c->n_eos; i++)
        MUST(c->eos[i] >= 0 && (uint32_t)c->eos[i] < g->n_vocab);
    if (!c->gguf)
        return;
    struct tok *t = text_open(c, why, sizeof why);
    if (!t)
        fuzz_sentence(why, sizeof why);
    struct tok_ids ids = { 0 };
    if (t)
        MUST(!tok_encode(t, "Once upon a time\n", 17, TOK_SPECIAL, &ids));
    free(ids.id);
    tok_close(t);
}

static void open_dir(const char *path)
{
    struct ckpt *c;
    struct dbrx_error err = { 0 };
    dbrx_status st = ckpt_open(path, &c, &err);
    if (st != DBRX_OK) {
        MUST(!c);
        refused(st, &err);
    } else {
        look_through(c);
        ckpt_close(c);
    }
}

/* A good checkpoint of two shards, in which this is the index */
static void index_json(const uint8_t *data, size_t size)
{
    static int made;
    if (!made++)
        MUST(!mf_write_tiny(fuzz_dir(), &mf_tiny, "BF16", 1200));
    fuzz_put("model.safetensors.index.json", data, size);
    open_dir(fuzz_dir());
}

/* config.json, a NUL, generation_config.json; of a checkpoint otherwise good */
static void config(const uint8_t *data, size_t size)
{
    static int made;
    size_t len, n;
    const uint8_t *rest;
    char *head = fuzz_head(data, size, &len, &rest, &n);
    if (!made++)
        MUST(!mf_write_tiny(fuzz_dir(), &mf_tiny, "BF16", 0));
    fuzz_put("config.json", head, len);
    fuzz_put("generation_config.json", n ? (const void *)rest : "{}", n ? n : 2);
    free(head);
    open_dir(fuzz_dir());
}

/* Two bytes: how many zeros follow what follows */
static void gguf(const uint8_t *data, size_t size)
{
    if (size < 2)
        return;
    size_t room = data[0] | (size_t)data[1] << 8, n = size - 2;
    uint8_t *file = calloc(1, n + room + 1);
    memcpy(file, data + 2, n);
    fuzz_put("m.gguf", file, n + room);
    free(file);
    open_dir(fuzz_path("m.gguf"));
}

static void imatrix(const uint8_t *data, size_t size)
{
    struct imatrix *im;
    struct dbrx_error err = { 0 };
    fuzz_put("im.gguf", data, size);
    dbrx_status st = imatrix_open(fuzz_path("im.gguf"), &im, &err);
    if (st != DBRX_OK)
        refused(st, &err);
    for (size_t i = 0; st == DBRX_OK && i < im->n; i++) {
        const struct imatrix_entry *e = &im->v[i];
        MUST(imatrix_find(im, e->name));
        look(e->sum, (uint64_t)e->n_matrices * e->cols * sizeof *e->sum);
        look(e->count, (uint64_t)e->n_matrices * sizeof *e->count);
    }
    imatrix_free(im);
}

const struct fuzz_target fuzz_checkpoints[] = {
    { "safetensors", safetensors }, { "index", index_json }, { "config", config }, { "gguf", gguf },
    { "imatrix", imatrix }, { NULL, NULL } };
