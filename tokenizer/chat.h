/* tokenizer/chat.h -- ChatML, DBRX Instruct's prompt form.
 *
 * Turns messages into text segments, each marked as template or as somebody's
 * words, so that typed text cannot forge a control token.  Source of the form:
 * the checkpoint's chat template and databricks/dbrx model/tiktoken.py. */
#ifndef DBRX_CHAT_H
#define DBRX_CHAT_H

#include "tokenizer/tokenizer.h"

/* What a checkpoint says of its chat form. */
struct chat {
    int   has_template;                    /* tokenizer_config.json holds a chat template */
    char *template;                        /* ... this, or NULL; owned */
    char *default_system;                  /* text injected when none is given, or NULL; owned */
};
/* Reads tokenizer_config.json in dir; a missing file is no error (all zero).
 * 0, or -1 and one sentence in err. */
int  chat_open(const char *dir, struct chat *, char *err, size_t errlen);
/* The same from a template that a GGUF file holds; NULL: none. */
void chat_read(const char *template, struct chat *);
void chat_close(struct chat *);

/* Appends the ids of one message: "<|im_start|>role\ntext<|im_end|>"; preceded by
 * "\n" unless it is the timeline's first.  text is encoded with `mode` (TOK_PLAIN:
 * it cannot forge control tokens), the frame always with TOK_SPECIAL.  A system
 * text is stripped of surrounding white space.
 * 0, -1 out of memory, -2 when the vocabulary has no <|im_start|> or <|im_end|>. */
int chat_message(const struct tok *, const char *role, const char *text, size_t len,
                 int first, int mode, struct tok_ids *out);
/* Appends "\n<|im_start|>assistant\n": the model speaks next. */
int chat_reply(const struct tok *, struct tok_ids *out);

#endif
