/* bench/grammar.c -- what a constraint costs a token, on the vocabulary of 100,000:
 *   grammar VOCAB GRAMMAR TEXT       GBNF, or a JSON Schema when its name ends in .json
 * The text is given to the constraint token by token, several times: the first pass makes
 * states and masks, the later ones find them. */
#include "repl/grammar/constraint.h"
#include "repl/grammar/grammar.h"
#include "repl/grammar/schema.h"
#include "tests/unit/tok_fixture.h"

#include <time.h>

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);        /* others' work is not ours */
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static char *read_or_die(const char *path, size_t *len)
{
    char err[512], *text = file_read(path, len, err, sizeof err);
    if (!text) {
        fprintf(stderr, "grammar: %s\n", err);
        exit(1);
    }
    return text;
}

int main(int argc, char **argv)
{
    if (argc != 4) {
        fputs("usage: grammar VOCAB GRAMMAR|SCHEMA.json TEXT\n", stderr);
        return 2;
    }
    size_t len, text_len;
    char err[512], *source = read_or_die(argv[2], &len), *text = read_or_die(argv[3], &text_len);
    const char *end = strrchr(argv[2], '.');
    struct tok *tok = open_or_die(argv[1]);
    struct rules r = { 0 };
    double t0 = now();
    if ((end && !strcmp(end, ".json") ? schema_rules : grammar_parse)(&r, argv[2], source, len, err, sizeof err)) {
        fprintf(stderr, "grammar: %s\n", err);
        return 1;
    }
    double t1 = now();
    uint32_t n_vocab = (uint32_t)tok_n_vocab(tok);
    struct trie *trie = trie_new(tok, n_vocab);
    double t2 = now();
    struct constraint *c = constraint_new(&r, trie, NULL, 0);
    struct tok_ids ids = { 0 };
    tok_encode(tok, text, text_len && text[text_len - 1] == '\n' ? text_len - 1 : text_len, TOK_PLAIN, &ids);
    printf("%u tokens; grammar %.2f ms, trie %.1f ms (once); text of %zu tokens\n", n_vocab, 1e3 * (t1 - t0),
           1e3 * (t2 - t1), ids.n);
    double *took = malloc((ids.n + 1) * sizeof *took);
    for (int pass = 1; pass <= 3; pass++) {
        double sum = 0;
        constraint_restart(c);
        for (size_t i = 0; i < ids.n; i++) {
            const uint8_t *banned;
            struct dbrx_error why;
            double t = now();
            int bad = constraint_mask(c, &banned, &why) != DBRX_OK;
            bad = bad || constraint_accept(c, ids.id[i], &why) != DBRX_OK;
            took[i] = 1e6 * (now() - t);
            sum += took[i];
            if (bad) {
                fprintf(stderr, "grammar: token %zu: %s\n", i, why.text);
                return 1;
            }
        }
        qsort(took, ids.n, sizeof *took, by_value);
        printf("pass %d: median %.1f us a token, 90%% %.1f, worst %.1f, mean %.1f\n", pass, took[ids.n / 2],
               took[ids.n * 9 / 10], took[ids.n - 1], sum / (double)ids.n);
    }
    free(took);
    free(ids.id);
    free(source);
    free(text);
    constraint_free(c);
    trie_free(trie);
    tok_close(tok);
    return 0;
}
