/* tokenizer/alphabet.c -- GPT-2's byte alphabet, both ways.  See tok.h.
 * Knows nothing of tokens. */
#include "tokenizer/tok.h"
#include "tokenizer/utf8.h"

enum { END = sizeof ((struct alphabet *)0)->byte_of / sizeof(int16_t) };

/* 33 bytes below '!', 34 from DEL to U+00A0, and the soft hyphen have nothing to see */
static unsigned char_of(unsigned b)
{
    return b < '!' ? 0x100 + b : b >= 0x7f && b <= 0xa0 ? 0x100 + 33 + b - 0x7f : b == 0xad ? 0x143 : b;
}

void alphabet_init(struct alphabet *a)
{
    memset(a->byte_of, -1, sizeof a->byte_of);
    for (unsigned b = 0; b < 256; b++)
        a->byte_of[char_of(b)] = (int16_t)b;
}

size_t alphabet_decode(const struct alphabet *a, const char *s, size_t len, char *out, size_t *used)
{
    size_t n = 0, i = 0;
    for (int step; i < len && s[i] != ' '; i += (size_t)step) {
        const unsigned char *u = (const unsigned char *)s + i;
        if (*u >= 0xe0 || (*u >= 0x80 && (i + 1 == len || (u[1] & 0xc0) != 0x80)))
            return 0;                           /* all of the alphabet is one or two bytes long */
        uint32_t c = utf8_char(u, &step);
        if (c >= END || a->byte_of[c] < 0)
            return 0;
        out[n++] = (char)a->byte_of[c];
    }
    *used = i;
    return n;
}

size_t alphabet_spell(const char *s, size_t len, char *out)
{
    size_t n = 0;
    for (size_t i = 0; i < len; i++) {
        unsigned c = char_of((unsigned char)s[i]);
        if (c >= 0x80)
            out[n++] = (char)(0xc0 | c >> 6);
        out[n++] = (char)(c >= 0x80 ? 0x80 | (c & 0x3f) : c);
    }
    return n;
}
