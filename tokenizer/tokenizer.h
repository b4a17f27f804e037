/* tokenizer/tokenizer.h -- text to token ids and back: byte-level BPE with
 * cl100k_base's pre-tokenizer.
 *
 * Knows no model, no terminal.  All functions are [any] on a const struct tok:
 * after tok_open it never changes.  Text is bytes with a length; NUL is a byte
 * like any other.  Invalid UTF-8 in input is replaced by U+FFFD, as the reference does. */
#ifndef DBRX_TOKENIZER_H
#define DBRX_TOKENIZER_H

#include <stddef.h>
#include <stdint.h>

struct tok;

/* Opens a tokenizer: a checkpoint directory (tokenizer.json, or tokenizer_config.json
 * naming gpt-4 / a .tiktoken rank file beside it), a tokenizer.json or a *.tiktoken file.
 * NULL and one sentence in err[errlen] on failure. */
struct tok *tok_open(const char *path, char *err, size_t errlen);
/* The same from a vocabulary that somebody else holds: tokens by id and merges in order, as
 * bytes that are needed until the return only. */
enum { TOK_LIST_TEXT,                      /* spelled in GPT-2's byte alphabet */
       TOK_LIST_SPECIAL,                   /* as it is: "<|im_end|>" */
       TOK_LIST_NONE };                    /* an id without text */
struct tok_list {
    void  *ctx;
    size_t n_tokens, n_merges;
    const char *(*token)(void *ctx, size_t id, size_t *len, int *kind);
    const char *(*merge)(void *ctx, size_t i, size_t *len);    /* "left right" */
};
struct tok *tok_open_list(const struct tok_list *, char *err, size_t errlen);
void tok_close(struct tok *);              /* NULL is fine */

int32_t tok_n_vocab(const struct tok *);   /* highest id with text + 1 */

struct tok_ids { int32_t *id; size_t n, cap; };   /* zero-initialise; free(ids.id) */
int  tok_ids_push(struct tok_ids *, int32_t id);  /* 0, or -1 when out of memory */

enum { TOK_PLAIN,                          /* special tokens' text is ordinary text */
       TOK_SPECIAL };                      /* ... is the special token (the reference's way) */

/* Appends the ids of text[len] to out.  0, or -1 when out of memory (out keeps
 * what it had).  Linear in len, whatever the text. */
int tok_encode(const struct tok *, const char *text, size_t len, int mode, struct tok_ids *out);

/* The bytes of one token, *len of them; NULL and *len = 0 for an id without text.
 * Special tokens give their name, as "<|im_end|>". */
const char *tok_bytes(const struct tok *, int32_t id, size_t *len);
int     tok_is_special(const struct tok *, int32_t id);
int32_t tok_special(const struct tok *, const char *name);   /* id of "<|im_end|>", or -1 */

/* The token as vocabularies write it: in GPT-2's byte alphabet, a special one as it is.  Writes
 * to out, which has room for twice its bytes; returns how many, 0 for an id without text. */
size_t tok_spell(const struct tok *, int32_t id, char *out);
/* The merges in order of rank, *n of them; a rank file's are worked out.  free() it; NULL: no memory. */
struct tok_merge { int32_t left, right; int used; };
struct tok_merge *tok_merges(const struct tok *, size_t *n);

/* Streaming decoder: bytes in, whole UTF-8 characters out; what can never become
 * valid is replaced by U+FFFD.  Zero-initialise. */
struct tok_stream { unsigned char held[4]; unsigned n; };
/* Writes to out, which has room for 3 * len + 12 bytes; returns how many. */
size_t tok_stream_push(struct tok_stream *, const char *bytes, size_t len, char *out);
size_t tok_stream_end(struct tok_stream *, char *out);       /* room for 12: what was held, as U+FFFD */

#endif
