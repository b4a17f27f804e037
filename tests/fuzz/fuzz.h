/* tests/fuzz/fuzz.h -- what the targets of tests/fuzz share.
 *
 * A target is a reader of something that strangers make.  It gets any bytes at all and has to
 * come back: having read them, or with one sentence that a terminal can show.  fuzz.c runs
 * targets, under libFuzzer or over a folder of files; a target knows neither. */
#ifndef TESTS_FUZZ_H
#define TESTS_FUZZ_H

#include <stddef.h>
#include <stdint.h>

struct fuzz_target {
    const char *name;                      /* and that of its folder of files          */
    void (*run)(const uint8_t *data, size_t size);
};
extern const struct fuzz_target fuzz_checkpoints[], fuzz_texts[], fuzz_rules[], fuzz_shells[], fuzz_argv[];    /* end at NULL */

/* What must hold, holds; else the process dies here. */
#define MUST(what) do { if (!(what)) fuzz_broken(#what, __FILE__, __LINE__); } while (0)
_Noreturn void fuzz_broken(const char *what, const char *file, int line);

/* err is one sentence: text, all of it, on one line. */
void fuzz_sentence(const char *err, size_t size);
/* ... or will be when render_error has made what it quotes fit to be shown. */
void fuzz_said(const char *err, size_t size);

/* A folder of this process's own, gone at its end, and a file in it. */
const char *fuzz_dir(void);
int         fuzz_dir_fd(void);
void        fuzz_clear(void);              /* empty again */
void        fuzz_put(const char *name, const void *data, size_t size);
const char *fuzz_path(const char *name);   /* valid until the next call */
/* A file of the source tree. */
const char *fuzz_source(const char *name);

/* The bytes up to the first NUL, in new memory of just that size, so that overruns show; *rest
 * is what stands behind the NUL.  free() it. */
char *fuzz_head(const uint8_t *data, size_t size, size_t *len, const uint8_t **rest, size_t *n_rest);

#endif
