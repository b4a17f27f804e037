/* tests/fuzz/shells.c -- what the shell reads and writes, piece by piece: saved sessions, lists
 * of experts and ids, settings and steering, typed lines, texts in JSON Lines, .npy files.
 * Whole lines of commands: commands.c. */
#define _GNU_SOURCE
#include "tests/fuzz/fuzz.h"

#include "backends/model/checkpoint.h"
#include "repl/atomic.h"
#include "repl/corpus.h"
#include "repl/idlist.h"
#include "repl/input.h"
#include "repl/npy.h"
#include "repl/save.h"
#include "repl/sets.h"
#include "repl/steer.h"
#include "repl/stops.h"
#include "repl/words.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static char err[512];

static void refused(void)
{
    fuzz_said(err, sizeof err);
}

/* The first byte: bit 0, the checksum at the end is made good (else few come past it); bit 1, of
 * another checkpoint, too */
static void session(const uint8_t *data, size_t size)
{
    static struct ckpt *c;
    static struct vars vars;
    struct dbrx_error e = { 0 };
    struct saved s;
    if (!c)
        MUST(ckpt_open(fuzz_source("tests/data/tiny-bf16"), &c, &e) == DBRX_OK && !vars_init(&vars));
    if (!size)
        return;
    size_t n = size - 1;
    char *copy = malloc(n + 4);
    memcpy(copy, data + 1, n);
    if (data[0] & 1) {
        uint32_t crc = crc32c(0, copy, n);
        memcpy(copy + n, &crc, 4);
        n += 4;
    }
    fuzz_put("s.dbrx", copy, n);
    free(copy);
    if (save_read(fuzz_path("s.dbrx"), &c->desc, "tiny", 4096, &vars, data[0] & 2, &s, err, sizeof err)) {
        refused();
        return;
    }
    MUST(s.n && s.now < s.n);
    for (uint32_t i = 0; i < s.n; i++)
        for (uint32_t k = 0; k < s.branch[i]->n; k++)
            MUST(s.branch[i]->token[k] >= 0 && (uint32_t)s.branch[i]->token[k] < c->desc.config.n_vocab);
    struct dbrx_kv_block b;
    dbrx_status st = DBRX_OK;
    while (s.n_kv && (st = save_next_kv(&s, &b, &e)) == DBRX_OK)
        MUST(b.layer < c->desc.config.n_layers && b.pos + b.n <= s.n_kv);
    if (st < 0)
        fuzz_said(e.text, sizeof e.text);
    saved_free(&s);
}

/* A set as text is the same set again */
static void experts(const char *text)
{
    struct set s, again;
    if (set_experts(&s, text, 4, 16, err, sizeof err)) {
        refused();
        return;
    }
    char *back = set_experts_text(s.in, 4, 16);
    MUST(back && !set_experts(&again, back, 4, 16, err, sizeof err) && !memcmp(s.in, again.in, 64));
    free(back);
    set_free(&s);
    set_free(&again);
}

static void tokens(const char *text)
{
    struct set s;
    if (set_tokens(&s, text, 50, err, sizeof err))
        refused();
    else
        MUST(s.count && s.first <= s.last && s.last < 50);
    set_free(&s);
}

static void ids(const char *text, int values)
{
    struct id_list l = { 0 };
    if (id_list_parse(&l, text, NULL, 1000, values, -10, 10, err, sizeof err))
        refused();
    for (uint32_t i = 0; i < l.n; i++)
        MUST(l.id[i] >= 0 && l.id[i] < 1000 && l.bias[i].bias >= -10 && l.bias[i].bias <= 10);
    id_list_free(&l);
}

static void stops(const char *text)
{
    static struct stops s;
    if (stops_parse(&s, text, err, sizeof err))
        refused();
}

/* What steers, as text and as JSON, steers the same again */
static void steering(const char *text, int json)
{
    static const struct dbrx_config c = { .struct_size = sizeof c, .n_layers = 4, .n_experts = 16, .top_k = 4 };
    struct steer *s = steer_new(&c), *again = steer_new(&c);
    cJSON *j = json ? cJSON_Parse(text) : NULL;
    if (!json || j) {
        if (json ? steer_read_json(s, j, err, sizeof err) < 0 : steer_read(s, text, err, sizeof err) < 0)
            refused();
        char *back = steer_text(s);
        cJSON *object = steer_json(s);
        MUST(back && steer_read(again, back, err, sizeof err) >= 0 && steer_id(again) == steer_id(s));
        MUST(object && steer_read_json(again, object, err, sizeof err) >= 0 && steer_id(again) == steer_id(s));
        cJSON_Delete(object);
        free(back);
    }
    cJSON_Delete(j);
    steer_free(s);
    steer_free(again);
}

static void setting(char *text)
{
    static struct vars vars;
    char *name = word_next(&text);
    int var = name ? var_find(name, 1) : -1;
    if (!vars.v[0].text)
        MUST(!vars_init(&vars));
    if (var < 0) {
        if (name)
            var_nearest(name);
        return;
    }
    if (vars_set(&vars, var, text, FROM_SESSION, err, sizeof err))
        refused();
    char *same = strdup(vars.v[var].text); /* what is shown can be set */
    MUST(!vars_set(&vars, var, same, FROM_SESSION, err, sizeof err) && !strcmp(vars.v[var].text, same));
    free(same);
}

/* The first byte says what the rest is */
static void words(const uint8_t *data, size_t size)
{
    if (!size)
        return;
    size_t len, n;
    const uint8_t *rest;
    char *bytes = fuzz_head(data + 1, size - 1, &len, &rest, &n), *text = strndup(bytes, len);
    free(bytes);
    err[0] = '\0';
    switch (data[0] % 8) {
    case 0: experts(text); break;
    case 1: tokens(text); break;
    case 2: ids(text, 0); break;
    case 3: ids(text, 1); break;
    case 4: stops(text); break;
    case 5: steering(text, 0); break;
    case 6: steering(text, 1); break;
    default: setting(text); break;
    }
    free(text);
}

/* Lines as they are typed or pasted, and as they are shown */
static void input(const uint8_t *data, size_t size)
{
    struct input in = { 0 };
    size_t at = 0;
    while (at < size) {
        const uint8_t *end = memchr(data + at, '\n', size - at);
        size_t n = end ? (size_t)(end - data) - at : size - at;
        if (input_line(&in, (const char *)data + at, n) == 1) {
            MUST(in.text && !in.text[in.len]);
            input_drop(&in);
        }
        at += n + 1;
    }
    input_end(&in);
    input_free(&in);
    char *clean = text_clean((const char *)data, size), *quoted = text_quoted((const char *)data, size);
    MUST(clean && quoted);
    if (*quoted)
        fuzz_sentence(quoted, 1u << 24);
    char *next = clean;
    while (word_next(&next))
        ;
    free(clean);
    free(quoted);
}

static dbrx_status text_of(void *ctx, const char *text, size_t len, uint64_t done, uint64_t total, struct dbrx_error *e)
{
    (void)e;
    *(unsigned char *)ctx ^= len ? (unsigned char)text[len - 1] : 0;
    MUST(done <= total);
    return DBRX_OK;
}

static void jsonl(const uint8_t *data, size_t size)
{
    struct dbrx_error e = { 0 };
    unsigned char sum = 0;
    fuzz_put("t.jsonl", data, size);
    if (corpus_texts(fuzz_path("t.jsonl"), text_of, &sum, &e) != DBRX_OK)
        fuzz_said(e.text, sizeof e.text);
}

/* Three bytes of shape, then elements, written last first; read back by numpy's own rules */
static void npy(const uint8_t *data, size_t size)
{
    if (size < 4)
        return;
    unsigned rank = 1 + data[0] % 3;
    uint64_t dim[3] = { 1, 1, 1 }, n = 1;
    for (unsigned i = 0; i < rank; i++)
        n *= dim[i] = data[1 + i % 3] % 12;
    float *want = calloc(n + 1, sizeof *want), *have;
    memcpy(want, data + 4, size - 4 < n * 4 ? size - 4 : n * 4);
    struct npy f = { 0 };
    MUST(!npy_create(&f, fuzz_dir(), "a", "<f4", rank, dim));
    for (uint64_t i = n; i-- > 0; )
        MUST(!npy_write(&f, i, want + i, 1));
    MUST(!npy_finish(&f) && !npy_commit(&f));
    char head[256] = "", shape[100] = "";
    FILE *in = fopen(fuzz_path("a.npy"), "rb");
    MUST(in && fread(head, 1, 10, in) == 10 && !memcmp(head, "\x93NUMPY\1\0", 8));
    size_t len = (unsigned char)head[8] | (size_t)(unsigned char)head[9] << 8, k = 0;
    MUST((len + 10) % 64 == 0 && len < sizeof head && fread(head, 1, len, in) == len && head[len - 1] == '\n');
    for (unsigned i = 0; i < rank; i++)
        k += (size_t)sprintf(shape + k, "%s%llu", i ? ", " : "", (unsigned long long)dim[i]);
    if (rank == 1)
        strcat(shape, ",");
    char all[256];
    snprintf(all, sizeof all, "{'descr': '<f4', 'fortran_order': False, 'shape': (%s), }", shape);
    MUST(!strncmp(head, all, strlen(all)));
    have = calloc(n + 1, sizeof *have);
    MUST(fread(have, 4, n + 1, in) == n && !memcmp(have, want, n * 4));
    fclose(in);
    free(have);
    free(want);
    npy_abort(&f);
}

const struct fuzz_target fuzz_shells[] = {
    { "session", session }, { "words", words }, { "input", input }, { "jsonl", jsonl }, { "npy", npy }, { NULL, NULL } };
