/* tokenizer/pretok.h -- cuts text into the pieces that are encoded one by one.
 *
 * cl100k_base's pattern, by hand:
 *   (?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}
 *   | ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+
 * Knows nothing of tokens. */
#ifndef DBRX_PRETOK_H
#define DBRX_PRETOK_H

#include <stdint.h>

/* The end of the piece that begins at s; s < end, valid UTF-8.  Pieces are never
 * empty and leave nothing out.  Reads at most one run of equal class ahead. */
const char *pretok_next(const char *s, const char *end);

enum { PRETOK_OTHER, PRETOK_LETTER, PRETOK_NUMBER, PRETOK_SPACE };
int pretok_class(uint32_t c);

#endif
