/* repl/weights.c -- opening, progress and the GGUF side.  See weights.h. */
#define _GNU_SOURCE
#include "repl/weights.h"

#include "repl/atomic.h"
#include "repl/mapped.h"
#include "repl/plain.h"
#include "repl/shell.h"
#include "repl/signals.h"
#include "repl/text.h"

#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

int weights_open(struct weights *w, const char *in, int json)
{
    struct dbrx_error err;
    char why[256];
    *w = (struct weights){ 0 };
    render_init(&w->out, json);
    signals_init(0);
    if (ckpt_open(in, &w->in, &err) != DBRX_OK) {
        render_error(&w->out, "%s", err.text);
        return EXIT_CHECKPOINT;
    }
    w->tok = text_open(w->in, why, sizeof why);
    if (!w->tok)
        render_event(&w->out, "status", NULL, "%s: the copy will have no tokenizer", why);
    if (w->in->gguf)
        chat_read(w->in->chat_template, &w->chat);
    else if (chat_open(w->in->dir, &w->chat, why, sizeof why))
        render_event(&w->out, "status", NULL, "%s: the copy will have no chat template", why);
    w->r.in = w->in;
    long n = sysconf(_SC_NPROCESSORS_ONLN);
    w->threads = n > 0 ? (unsigned)n : 1;
    return recode_list(&w->r) || mapped_watch(w->in) ? render_error(&w->out, "out of memory"), EXIT_INTERNAL : 0;
}

int weights_close(struct weights *w, int code)
{
    int sig = signals_fatal();
    recode_free(&w->r);
    chat_close(&w->chat);
    tok_close(w->tok);
    mapped_unwatch(w->in);
    ckpt_close(w->in);
    int lost = render_failed(&w->out);
    if (lost && !sig) {
        plain_error("stdout cannot be written: %s", strerror(lost));
        return EXIT_INTERNAL;
    }
    if (sig)
        signals_die(sig);
    return code;
}

/* ---- running ---- */

static int step(void *ctx, uint64_t done, uint64_t total)
{
    struct weights *w = ctx;
    render_bar(&w->out, (unsigned long)(done >> 20) + 1, (unsigned long)(total >> 20) + 1, 0);
    return signals_stop();
}

static int put(void *ctx, const void *data, size_t n)
{
    struct weights *w = ctx;
    atomic_write(w->file, data, n);
    return w->file->error;
}

int weights_open_file(struct atomic *a, const char *path)
{
    int why = atomic_open(a, path);
    mode_t mask = umask(0);                /* a model is for whom the user's files are for */
    umask(mask);
    if (!why)
        fchmod(fileno(a->f), 0666 & ~mask);
    return why;
}

int weights_file(struct weights *w, struct atomic *a, const char *path, const void *head, size_t n)
{
    int why = weights_open_file(a, path), failed = 0;
    if (!why) {
        atomic_write(a, head, n);
        w->file = a;
        w->r.ctx = w;
        w->r.step = step;
        w->r.write = put;
        failed = recode_run(&w->r, w->threads);
        why = failed ? a->error : atomic_commit(a);
    }
    render_bar(&w->out, 0, 0, 0);
    atomic_abort(a);
    if (failed < 0)
        render_error(&w->out, "%s; %s was not written", w->r.why, path);
    else if (why)
        render_error(&w->out, "%s cannot be written: %s", path, strerror(why));
    else if (failed)
        render_error(&w->out, "interrupted; %s was not written", path);
    return failed || why ? EXIT_INTERNAL : 0;
}

/* ---- GGUF ---- */

static void put_id(struct gguf_head *h, const char *key, int32_t id)
{
    if (id >= 0)
        gguf_put_u32(h, key, (uint32_t)id);
}

/* As many tokens as the model has ids, those without text as padding */
static int put_words(struct gguf_head *h, const struct weights *w)
{
    const struct tok *t = w->tok;
    uint32_t n = w->in->desc.config.n_vocab;
    size_t longest = 16, len, n_merges;
    for (uint32_t i = 0; i < n; i++) {
        tok_bytes(t, (int32_t)i, &len);
        longest = 2 * len > longest ? 2 * len : longest;
    }
    char *text = malloc(2 * longest + 1);
    struct tok_merge *m = tok_merges(t, &n_merges);
    if (text && m) {
        gguf_put_text(h, "tokenizer.ggml.model", "gpt2", 4);
        gguf_put_text(h, "tokenizer.ggml.pre", "dbrx", 4);
        gguf_put_texts(h, "tokenizer.ggml.tokens", n);
        for (uint32_t i = 0; i < n; i++) {
            len = tok_spell(t, (int32_t)i, text);
            if (!len)
                len = (size_t)sprintf(text, "[PAD%u]", i);
            gguf_add_text(h, text, len);
        }
        gguf_put_int32s(h, "tokenizer.ggml.token_type", n);
        for (uint32_t i = 0; i < n; i++)
            gguf_add_int32(h, tok_is_special(t, (int32_t)i) ? CKPT_WORD_CONTROL
                           : tok_bytes(t, (int32_t)i, &len) ? CKPT_WORD_NORMAL : CKPT_WORD_UNUSED);
        gguf_put_texts(h, "tokenizer.ggml.merges", n_merges);
        for (size_t i = 0; i < n_merges; i++) {
            len = tok_spell(t, m[i].left, text);
            text[len++] = ' ';
            len += tok_spell(t, m[i].right, text + len);
            gguf_add_text(h, text, len);
        }
        put_id(h, "tokenizer.ggml.padding_token_id", tok_special(t, "<|pad|>"));
        gguf_put_bool(h, "tokenizer.ggml.add_bos_token", 0);
        if (w->chat.template)
            gguf_put_text(h, "tokenizer.chat_template", w->chat.template, strlen(w->chat.template));
    }
    int failed = !text || !m;
    free(text);
    free(m);
    return failed;
}

static unsigned char *make_head(struct weights *w, const char *path, uint32_t file_type, size_t *n)
{
    struct gguf_head h = { 0 };
    const struct ckpt *in = w->in;
    const char *slash = strrchr(path, '/');
    char name[128];
    snprintf(name, sizeof name, "%.120s", slash ? slash + 1 : path);
    if (strlen(name) > 5 && !strcmp(name + strlen(name) - 5, ".gguf"))
        name[strlen(name) - 5] = '\0';
    gguf_put_config(&h, &in->desc.config, name);
    gguf_put_u32(&h, "general.file_type", file_type);
    if (w->tok)
        h.failed |= put_words(&h, w);
    else
        gguf_put_text(&h, "tokenizer.ggml.model", "no_vocab", 8);
    if (in->n_eos) {                       /* the first stands for the beginning, too: no text has one */
        put_id(&h, "tokenizer.ggml.bos_token_id", in->eos[0]);
        put_id(&h, "tokenizer.ggml.eos_token_id", in->eos[0]);
        if (in->n_eos > 1)
            put_id(&h, "tokenizer.ggml.eot_token_id", in->eos[1]);
    }
    for (size_t i = 0; i < w->r.n; i++) {
        const struct ckpt_slot *s = &w->r.v[i].slot;
        gguf_put_tensor(&h, s->gguf, s->gguf_rank, s->gguf_want, w->r.v[i].type);
    }
    return gguf_head_bytes(&h, n);
}

int weights_write_gguf(struct weights *w, const char *path, uint32_t file_type)
{
    struct atomic a;
    size_t n;
    unsigned char *head = make_head(w, path, file_type, &n);
    if (!head) {
        render_error(&w->out, "out of memory");
        return EXIT_INTERNAL;
    }
    w->r.align = GGUF_ALIGN;
    int code = weights_file(w, &a, path, head, n);
    free(head);
    return code;
}
