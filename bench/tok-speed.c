/* bench/tok-speed.c -- the measuring half of bench/tokenizer, which drives it:
 *   tok-speed encode VOCAB FILE   for each line on stdin, encodes FILE once
 *   tok-speed open VOCAB          for each line on stdin, opens VOCAB once
 *   tok-speed json RANKS OUT      writes the rank file's vocabulary as a tokenizer.json
 * An answer is one line: seconds, and for encode the number of ids and their hash. */
#include "tests/unit/tok_fixture.h"

#include <time.h>

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static void encode(const char *vocab, const char *file)
{
    char err[512];
    size_t len;
    struct tok *t = open_or_die(vocab);
    char *text = file_read(file, &len, err, sizeof err);
    if (!text) {
        fprintf(stderr, "tok-speed: %s\n", err);
        exit(1);
    }
    while (getchar() == '\n') {
        struct tok_ids ids = { 0 };
        double start = now();
        int rc = tok_encode(t, text, len, TOK_PLAIN, &ids);
        double seconds = now() - start;
        uint32_t hash = 0;
        for (size_t i = 0; i < ids.n; i++)
            hash = hash * 31 + (uint32_t)ids.id[i];
        printf("%.9f %zu %u\n", rc ? -1 : seconds, ids.n, hash);
        fflush(stdout);
        free(ids.id);
    }
    free(text);
    tok_close(t);
}

int main(int argc, char **argv)
{
    if (argc == 4 && strcmp(argv[1], "encode") == 0) {
        encode(argv[2], argv[3]);
    } else if (argc == 4 && strcmp(argv[1], "json") == 0) {
        struct tok *t = open_or_die(argv[2]);
        int rc = write_tokenizer_json(t, argv[3], 0);
        tok_close(t);
        return rc < 0;
    } else if (argc == 3 && strcmp(argv[1], "open") == 0) {
        while (getchar() == '\n') {
            double start = now();
            struct tok *t = open_or_die(argv[2]);
            printf("%.9f\n", now() - start);
            fflush(stdout);
            tok_close(t);
        }
    } else {
        fputs("usage: tok-speed encode VOCAB FILE | open VOCAB | json RANKS OUT\n", stderr);
        return 2;
    }
    return 0;
}
