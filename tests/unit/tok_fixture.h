/* tests/unit/tok_fixture.h -- what the tokenizer's tests share: data, random text, and a
 * tokenizer.json made from a rank file. */
#ifndef TESTS_TOK_FIXTURE_H
#define TESTS_TOK_FIXTURE_H

#include "tokenizer/tok.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define FIXTURE __attribute__((unused)) static

/* a path below the source tree; overwritten by the fourth next call */
FIXTURE const char *source_path(const char *name)
{
    static char buf[4][4096];
    static int i;
    const char *top = getenv("srcdir");
    i = (i + 1) % 4;
    snprintf(buf[i], sizeof buf[i], "%s/%s", top ? top : ".", name);
    return buf[i];
}

FIXTURE struct tok *open_or_die(const char *path)
{
    char err[512];
    struct tok *t = tok_open(path, err, sizeof err);
    if (!t) {
        printf("Bail out! %s\n", err);
        exit(99);
    }
    return t;
}

FIXTURE uint64_t rng_state = 88172645463325252u;
FIXTURE uint32_t rng(uint32_t below)
{
    rng_state ^= rng_state << 13;
    rng_state ^= rng_state >> 7;
    rng_state ^= rng_state << 17;
    return (uint32_t)((rng_state >> 32) * below >> 32);
}

FIXTURE char *put_utf8(char *p, uint32_t c)
{
    if (c < 0x80) {
        *p++ = (char)c;
    } else if (c < 0x800) {
        *p++ = (char)(0xc0 | c >> 6);
        *p++ = (char)(0x80 | (c & 63));
    } else if (c < 0x10000) {
        *p++ = (char)(0xe0 | c >> 12);
        *p++ = (char)(0x80 | (c >> 6 & 63));
        *p++ = (char)(0x80 | (c & 63));
    } else {
        *p++ = (char)(0xf0 | c >> 18);
        *p++ = (char)(0x80 | (c >> 12 & 63));
        *p++ = (char)(0x80 | (c >> 6 & 63));
        *p++ = (char)(0x80 | (c & 63));
    }
    return p;
}

/* Hostile valid text: letters, digits, blanks and apostrophes next to each other, in runs,
 * now and then anything Unicode has.  buf holds n + 4 bytes; returns the length. */
FIXTURE size_t random_text(char *buf, size_t n)
{
    static const uint32_t common[] = {
        ' ', ' ', ' ', '\n', '\r', '\t', '\'', '\'', 's', 'S', 't', 'r', 'e', 'v', 'l', 'L', 'm', 'd', 'a', 'Z',
        '0', '1', '9', '.', ',', '-', '<', '|', '>', '_', 0, 0x0b, 0x1c, 0x85, 0xa0, 0xe9, 0x17f, 0x212a, 0x300,
        0x2003, 0x3000, 0x200b, 0x4e2d, 0x660, 0xb2, 0x2160, 0x1f600, 0x1d7d8, 0x10ffff, 0xfffd, 0xfeff,
    };
    char *p = buf;
    while ((size_t)(p - buf) < n) {
        uint32_t c = common[rng(sizeof common / sizeof *common)];
        uint32_t run = rng(12) ? 1 : 1 + rng(9);
        if (rng(8) == 0)
            c = rng(3) ? rng(0x3000) : rng(0x110000);
        if (c >= 0xd800 && c < 0xe000)
            c = 'x';
        while (run-- && (size_t)(p - buf) < n)
            p = put_utf8(p, c);
    }
    return (size_t)(p - buf);
}

/* ------------------------------------------------------------------ a tokenizer.json */

#define CL100K_REGEX_JSON \
    "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\\\r\\\\n\\\\p{L}\\\\p{N}]?\\\\p{L}+|\\\\p{N}{1,3}|" \
    " ?[^\\\\s\\\\p{L}\\\\p{N}]+[\\\\r\\\\n]*|\\\\s*[\\\\r\\\\n]+|\\\\s+(?!\\\\S)|\\\\s+"
#define SPLIT_JSON(regex) \
    "{\"type\":\"Sequence\",\"pretokenizers\":[{\"type\":\"Split\",\"pattern\":{\"Regex\":\"" regex "\"}," \
    "\"behavior\":\"Removed\",\"invert\":true}," \
    "{\"type\":\"ByteLevel\",\"add_prefix_space\":false,\"trim_offsets\":true,\"use_regex\":false}]}"

/* s[n] in the byte-level alphabet and as JSON wants it */
FIXTURE void put_spelled(FILE *f, const char *s, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        unsigned b = (unsigned char)s[i], shift = 0;
        char out[4];
        if (!((b >= '!' && b <= '~') || (b >= 0xa1 && b <= 0xac) || b >= 0xae)) {
            for (unsigned k = 0; k < b; k++)
                shift += !((k >= '!' && k <= '~') || (k >= 0xa1 && k <= 0xac) || k >= 0xae);
            b = 0x100 + shift;
        }
        if (b == '"' || b == '\\')
            putc('\\', f);
        fwrite(out, 1, (size_t)(put_utf8(out, b) - out), f);
    }
}

/* Where the merges of lower rank than id's own leave s[n] in two parts; 0 if they do not. */
FIXTURE size_t merge_point(const struct vocab *v, int32_t id, const char *s, size_t n)
{
    size_t cut[512], parts = n;
    if (n + 1 > sizeof cut / sizeof *cut)
        return 0;
    for (size_t i = 0; i <= n; i++)
        cut[i] = i;
    for (;;) {
        int32_t best = id;
        size_t at = 0;
        for (size_t i = 0; i + 1 < parts; i++) {
            int32_t r = vocab_id(v, s + cut[i], cut[i + 2] - cut[i], s + n);
            if (r >= 0 && r < best) {
                best = r;
                at = i;
            }
        }
        if (best == id)
            return parts == 2 ? cut[1] : 0;
        memmove(cut + at + 1, cut + at + 2, (parts - at - 1) * sizeof *cut);
        parts--;
    }
}

/* Writes t, read from a rank file, as a tokenizer.json: the form that converters write,
 * one merge for each token; pairs: as ["a","b"].  Returns how many tokens no merge gives. */
FIXTURE int write_tokenizer_json(const struct tok *t, const char *path, int pairs)
{
    const struct vocab *v = &t->vocab;
    FILE *f = fopen(path, "w");
    int lost = 0, first = 1;
    size_t n;
    if (!f)
        return -1;
    fputs("{\"version\":\"1.0\",\"normalizer\":null,\"added_tokens\":[", f);
    for (size_t i = 0; i < v->n_special; i++) {
        const char *s = vocab_bytes(v, v->special[i], &n);
        fprintf(f, "%s{\"id\":%d,\"content\":\"%.*s\",\"special\":true}", i ? "," : "", (int)v->special[i], (int)n, s);
    }
    fputs("],\"pre_tokenizer\":" SPLIT_JSON(CL100K_REGEX_JSON) ",\"model\":{\"type\":\"BPE\",\"vocab\":{", f);
    for (int32_t id = 0; id < v->n; id++) {
        const char *s = vocab_bytes(v, id, &n);
        if (!s || v->token[id].special)
            continue;
        fprintf(f, "%s\"", first ? "" : ",");
        put_spelled(f, s, n);
        fprintf(f, "\":%d", (int)id);
        first = 0;
    }
    fputs("},\"merges\":[", f);
    first = 1;
    for (int32_t id = 0; id < v->n; id++) {
        const char *s = vocab_bytes(v, id, &n);
        if (!s || n < 2 || v->token[id].special)
            continue;
        size_t at = merge_point(v, id, s, n);
        if (!at) {
            lost++;
            continue;
        }
        fputs(first ? "" : ",", f);
        fputs(pairs ? "[\"" : "\"", f);
        put_spelled(f, s, at);
        fputs(pairs ? "\",\"" : " ", f);
        put_spelled(f, s + at, n - at);
        fputs(pairs ? "\"]" : "\"", f);
        first = 0;
    }
    fputs("]}}\n", f);
    return fclose(f) ? -1 : lost;
}

#endif
