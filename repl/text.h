/* repl/text.h -- the tokenizer of a checkpoint, wherever it is: in files beside the weights,
 * or inside a GGUF file.  Where tokenizer/ and backends/model/, which do not know each other,
 * meet. */
#ifndef DBRX_REPL_TEXT_H
#define DBRX_REPL_TEXT_H

#include "backends/model/checkpoint.h"
#include "tokenizer/tokenizer.h"

/* NULL, and one sentence in err, when there is none; tok_close() it, the checkpoint may be
 * closed before. */
struct tok *text_open(const struct ckpt *, char *err, size_t errlen);

/* The same from a path: a checkpoint of either layout, or a tokenizer's own file. */
struct tok *text_open_path(const char *path, char *err, size_t errlen);

#endif
