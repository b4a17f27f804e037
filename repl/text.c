/* repl/text.c -- see text.h. */
#include "repl/text.h"

#include <stdio.h>
#include <string.h>

static const char *word(void *ctx, size_t id, size_t *len, int *kind)
{
    int type;
    const char *s = ckpt_word(ctx, (uint32_t)id, len, &type);
    *kind = type == CKPT_WORD_CONTROL || type == CKPT_WORD_USER ? TOK_LIST_SPECIAL
          : type == CKPT_WORD_UNUSED ? TOK_LIST_NONE : TOK_LIST_TEXT;
    return s;
}

static const char *merge(void *ctx, size_t i, size_t *len)
{
    return ckpt_merge(ctx, (uint32_t)i, len);
}

struct tok *text_open(const struct ckpt *c, char *err, size_t errlen)
{
    char why[200];
    if (!c->gguf)
        return tok_open(c->dir, err, errlen);
    const struct tok_list list = { .ctx = (void *)c, .n_tokens = c->n_words, .n_merges = c->n_merges,
                                   .token = word, .merge = merge };
    if (!c->n_words) {
        snprintf(err, errlen, "%s", c->no_words);
        return NULL;
    }
    struct tok *t = tok_open_list(&list, why, sizeof why);
    if (!t)
        snprintf(err, errlen, "%s: tokenizer.ggml: %s", c->dir, why);
    return t;
}

struct tok *text_open_path(const char *path, char *err, size_t errlen)
{
    struct ckpt *c;
    struct dbrx_error e;
    size_t n = strlen(path);
    int opened = ckpt_open(path, &c, &e) == DBRX_OK;
    struct tok *t = opened ? text_open(c, err, errlen) : tok_open(path, err, errlen);
    if (opened)
        ckpt_close(c);
    else if (!t && n > 5 && !strcmp(path + n - 5, ".gguf"))
        snprintf(err, errlen, "%s", e.text);
    return t;
}
