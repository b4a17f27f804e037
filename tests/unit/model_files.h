/* tests/unit/model_files.h -- writes checkpoint directories for tests and
 * benches: tiny ones with data, and the published 264 GB layout as sparse
 * files.  Has its own table of tensors, so that it can disagree with the reader. */
#ifndef TESTS_MODEL_FILES_H
#define TESTS_MODEL_FILES_H

#include <fcntl.h>
#include <ftw.h>
#include <inttypes.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

struct mf_sizes { uint32_t layers, d_model, heads, kv, ffn, experts, top_k, vocab, seq; };
struct mf_tensor { char name[80]; const char *dtype; int rank; uint64_t dim[2]; };

static const struct mf_sizes mf_tiny = { 1, 8, 2, 1, 6, 4, 2, 16, 32 };
static const struct mf_sizes mf_dbrx = { 40, 6144, 48, 8, 10752, 16, 4, 100352, 32768 };

__attribute__((unused))
static const char *mf_source_dir(void)     /* the source tree, also outside make check */
{
    const char *dir = getenv("srcdir");
    return dir ? dir : access("tests/data", F_OK) == 0 ? "." : "..";
}

__attribute__((unused))
static char *mf_tmpdir(void)
{
    const char *base = getenv("TMPDIR");
    char *dir = NULL;
    if (asprintf(&dir, "%s/dbrx-test-XXXXXX", base && *base ? base : "/tmp") < 0)
        return NULL;
    return mkdtemp(dir);
}

static int mf_remove_one(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
    (void)st; (void)type; (void)ftw;
    return remove(path);
}

__attribute__((unused))
static void mf_remove(const char *dir)
{
    nftw(dir, mf_remove_one, 16, FTW_DEPTH | FTW_PHYS);
}

static uint64_t mf_bytes(const struct mf_tensor *t)
{
    return t->dim[0] * (t->rank > 1 ? t->dim[1] : 1) * (strcmp(t->dtype, "F32") ? 2 : 4);
}

/* The tensors of such a model in the order of the reference's modules; free() it. */
static struct mf_tensor *mf_tensors(const struct mf_sizes *s, const char *dtype, size_t *n_out)
{
    const uint64_t d = s->d_model, rows = (uint64_t)s->experts * s->ffn;
    const struct mf_tensor top[3] = {
        { "transformer.wte.weight", dtype, 2, { s->vocab, d } },
        { "transformer.norm_f.weight", dtype, 1, { d, 0 } },
        { "lm_head.weight", dtype, 2, { s->vocab, d } } };
    const struct mf_tensor block[8] = {
        { "norm_attn_norm.norm_1.weight", dtype, 1, { d, 0 } },
        { "norm_attn_norm.attn.Wqkv.weight", dtype, 2, { d + 2 * s->kv * (d / s->heads), d } },
        { "norm_attn_norm.attn.out_proj.weight", dtype, 2, { d, d } },
        { "norm_attn_norm.norm_2.weight", dtype, 1, { d, 0 } },
        { "ffn.router.layer.weight", dtype, 2, { s->experts, d } },
        { "ffn.experts.mlp.w1", dtype, 2, { rows, d } },
        { "ffn.experts.mlp.v1", dtype, 2, { rows, d } },
        { "ffn.experts.mlp.w2", dtype, 2, { rows, d } } };
    struct mf_tensor *t = calloc(3 + 8 * (size_t)s->layers, sizeof *t);
    size_t n = 0;
    t[n++] = top[0];
    for (uint32_t l = 0; l < s->layers; l++)
        for (int i = 0; i < 8; i++, n++) {
            t[n] = block[i];
            snprintf(t[n].name, sizeof t[n].name, "transformer.blocks.%u.%.40s", l,
                     block[i].name);
        }
    t[n++] = top[1];
    t[n++] = top[2];
    *n_out = n;
    return t;
}

/* The safetensors header of these tensors, laid out one after the other; free() it. */
static char *mf_header(const struct mf_tensor *t, size_t n, uint64_t *data)
{
    char *text = NULL;
    size_t len = 0;
    FILE *f = open_memstream(&text, &len);
    *data = 0;
    fputs("{\"__metadata__\":{\"format\":\"pt\"}", f);
    for (size_t i = 0; i < n; i++) {
        uint64_t end = *data + mf_bytes(&t[i]);
        fprintf(f, ",\"%s\":{\"dtype\":\"%s\",\"shape\":[%" PRIu64, t[i].name, t[i].dtype,
                t[i].dim[0]);
        if (t[i].rank > 1)
            fprintf(f, ",%" PRIu64, t[i].dim[1]);
        fprintf(f, "],\"data_offsets\":[%" PRIu64 ",%" PRIu64 "]}", *data, end);
        *data = end;
    }
    fputc('}', f);
    while (ftello(f) % 8)
        fputc(' ', f);
    fclose(f);
    return text;
}

static int mf_write(const char *dir, const char *name, const void *text, size_t n)
{
    char path[512];
    snprintf(path, sizeof path, "%s/%s", dir, name);
    FILE *f = fopen(path, "wb");
    size_t got = f ? fwrite(text, 1, n, f) : 0;
    return f && fclose(f) == 0 && got == n ? 0 : -1;
}

/* Header and `data` bytes: sparse zeros, or byte i is (i + seed) % 251. */
static int mf_write_st(const char *dir, const char *name, const char *header, uint64_t data,
                       int seed)
{
    uint64_t len = strlen(header), size = 8 + len + (seed ? data : 0);
    unsigned char *buf = malloc(size);
    for (int i = 0; i < 8; i++)
        buf[i] = (unsigned char)(len >> 8 * i);
    memcpy(buf + 8, header, len);
    for (uint64_t i = 8 + len; i < size; i++)
        buf[i] = (unsigned char)((i - 8 - len + (uint64_t)seed) % 251);
    int rc = mf_write(dir, name, buf, size);
    free(buf);
    char path[512];
    snprintf(path, sizeof path, "%s/%s", dir, name);
    return rc || truncate(path, (off_t)(8 + len + data)) ? -1 : 0;
}

static char *mf_config(const struct mf_sizes *s)
{
    char *text = NULL;
    if (asprintf(&text,
            "{\"model_type\":\"dbrx\",\"d_model\":%u,\"n_heads\":%u,\"n_layers\":%u,"
            "\"max_seq_len\":%u,\"vocab_size\":%u,\"tie_word_embeddings\":false,"
            "\"attn_config\":{\"kv_n_heads\":%u,\"rope_theta\":500000,\"clip_qkv\":8},"
            "\"ffn_config\":{\"ffn_hidden_size\":%u,\"moe_num_experts\":%u,\"moe_top_k\":%u,"
            "\"top_k\":50},\"eos_token_id\":3}",
            s->d_model, s->heads, s->layers, s->seq, s->vocab, s->kv, s->ffn, s->experts,
            s->top_k) < 0)
        return NULL;
    return text;
}

/* Shards of at most `most` bytes of data, and their index.  Returns how many, or -1. */
static int mf_write_shards(const char *dir, const struct mf_tensor *t, size_t n, uint64_t most,
                           int seed)
{
    size_t *first = calloc(n + 1, sizeof *first), len = 0;
    int shards = 0, rc = 0;
    uint64_t sum = most + 1, data, before = 0;
    for (size_t i = 0; i < n; i++) {
        if (sum + mf_bytes(&t[i]) > most || i == 0) {
            first[shards++] = i;
            sum = 0;
        }
        sum += mf_bytes(&t[i]);
    }
    first[shards] = n;
    char *index = NULL;
    FILE *f = open_memstream(&index, &len);
    fputs("{\"metadata\":{\"total_size\":0},\"weight_map\":{", f);
    for (int s = 0; s < shards && !rc; s++) {
        char name[64], *header = mf_header(t + first[s], first[s + 1] - first[s], &data);
        snprintf(name, sizeof name, "model-%05d-of-%05d.safetensors", s + 1, shards);
        /* the same bytes in a tensor however the model is cut into shards */
        rc = mf_write_st(dir, name, header, data, seed ? seed + (int)(before % 251) : 0);
        before += data;
        for (size_t i = first[s]; i < first[s + 1]; i++)
            fprintf(f, "%s\"%s\":\"%s\"", i ? "," : "", t[i].name, name);
        free(header);
    }
    fputs("}}", f);
    fclose(f);
    if (!rc)
        rc = mf_write(dir, "model.safetensors.index.json", index, len);
    free(index);
    free(first);
    return rc ? -1 : shards;
}

/* A small whole checkpoint with data: one file (most == 0) or shards. */
__attribute__((unused))
static int mf_write_tiny(const char *dir, const struct mf_sizes *s, const char *dtype,
                         uint64_t most)
{
    size_t n;
    uint64_t data;
    struct mf_tensor *t = mf_tensors(s, dtype, &n);
    char *config = mf_config(s), *header = mf_header(t, n, &data);
    int rc = mf_write(dir, "config.json", config, strlen(config));
    if (!rc)
        rc = most ? mf_write_shards(dir, t, n, most, 1) < 0
                  : mf_write_st(dir, "model.safetensors", header, data, 1);
    free(config);
    free(header);
    free(t);
    return rc;
}

/* DBRX as published: its config and 61 shards, all holes.  -1: the filesystem refuses. */
__attribute__((unused))
static int mf_write_dbrx(const char *dir)
{
    static char config[4096], path[512];
    snprintf(path, sizeof path, "%s/tests/data/dbrx/config.json", mf_source_dir());
    FILE *f = fopen(path, "rb");
    size_t n = f ? fread(config, 1, sizeof config, f) : 0;
    if (f)
        fclose(f);
    if (!n || mf_write(dir, "config.json", config, n))
        return -1;
    struct mf_tensor *t = mf_tensors(&mf_dbrx, "BF16", &n);
    int shards = mf_write_shards(dir, t, n, UINT64_C(5000000000), 0);
    free(t);
    return shards;
}

#endif
