/* tokenizer/tok.h -- what is inside a struct tok, and the readers that fill it.
 *
 * For the files of this folder only. */
#ifndef DBRX_TOK_H
#define DBRX_TOK_H

#include "tokenizer/bpe.h"
#include "tokenizer/tokenizer.h"
#include "tokenizer/vocab.h"

#include <cjson/cJSON.h>

struct tok {
    struct vocab vocab;
    struct bpe bpe;
};

/* The readers: fill a zeroed tok, leaving it to tok_close on failure.
 * 0, or -1 and one sentence in err. */
int tok_read_hf(struct tok *, const char *path, char *err, size_t errlen);          /* tokenizer.json */
/* config: tokenizer_config.json whose special tokens count too, or NULL */
int tok_read_tiktoken(struct tok *, const char *path, const char *config, char *err, size_t errlen);
int tok_read_list(struct tok *, const struct tok_list *, char *err, size_t errlen);

/* alphabet.c: GPT-2's byte alphabet, in which vocabularies spell their tokens: each byte is a
 * character, itself where Latin-1 has something to see, otherwise one of U+0100.. U+0143. */
struct alphabet {
    int16_t byte_of[0x144];                    /* character -> byte, or -1 */
};
void alphabet_init(struct alphabet *);
/* out = the bytes that s[len] spells up to its end or a space; out has room for len.  Returns
 * how many, *used characters of s read; 0: none, or a character that is not of the alphabet. */
size_t alphabet_decode(const struct alphabet *, const char *s, size_t len, char *out, size_t *used);
/* out[2 * len] = the spelling of s[len]; returns its bytes. */
size_t alphabet_spell(const char *s, size_t len, char *out);

/* files.c: a whole file; NUL-terminated, free() it.  NULL and one sentence in err. */
char  *file_read(const char *path, size_t *len, char *err, size_t errlen);
/* ... as JSON, an object; cJSON_Delete() it. */
cJSON *file_json(const char *path, char *err, size_t errlen);
/* "dir/name" in buf; -1 when it does not fit */
int    file_path(char *buf, size_t size, const char *dir, const char *name);
int    file_exists(const char *path);

/* One sentence into err; returns -1. */
__attribute__((format(printf, 3, 4)))
int tok_error(char *err, size_t errlen, const char *format, ...);

/* An id as JSON has it, or -1 if it is not a whole number in range. */
int64_t json_id(const cJSON *);
const char *json_string(const cJSON *object, const char *name);      /* or NULL */

#endif
