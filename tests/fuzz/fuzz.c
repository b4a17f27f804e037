/* tests/fuzz/fuzz.c -- runs the targets of fuzz.h.
 *
 * Built by clang with -DLIBFUZZER it is a fuzzer: FUZZ_TARGET names the target.  Built by any
 * compiler it replays tests/fuzz/corpus/TARGET, one check a target: every file, what is left of
 * it when it ends early, and some with a byte changed, each target in a process of its own. */
#define _GNU_SOURCE
#include "tests/fuzz/fuzz.h"

#include "tests/tap.h"
#include "tokenizer/utf8.h"

#include <dirent.h>
#include <fcntl.h>
#include <ftw.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

static char dir[64];

_Noreturn void fuzz_broken(const char *what, const char *file, int line)
{
    fprintf(stderr, "%s:%d: does not hold: %s\n", file, line, what);
    abort();
}

void fuzz_sentence(const char *err, size_t size)
{
    size_t n = strnlen(err, size), at = 0;
    MUST(n > 0 && n < size);
    for (int len; at < n; at += (size_t)len) {
        len = utf8_span((const unsigned char *)err + at, n - at);
        if (len <= 0 || (unsigned char)err[at] < ' ' || err[at] == 127)
            fprintf(stderr, "said: %s\n", err);
        MUST(len > 0 && (unsigned char)err[at] >= ' ' && err[at] != 127);
    }
}

void fuzz_said(const char *err, size_t size)
{
    size_t n = strnlen(err, size);
    MUST(n > 0 && n < size);
}

static int remove_one(const char *path, const struct stat *st, int type, struct FTW *at)
{
    (void)st; (void)type;
    return at->level ? remove(path) : 0;
}

void fuzz_clear(void)
{
    nftw(fuzz_dir(), remove_one, 16, FTW_DEPTH | FTW_PHYS);
}

static void remove_dir(void)
{
    fuzz_clear();
    rmdir(dir);
}

const char *fuzz_dir(void)
{
    static pid_t owner;
    if (owner != getpid()) {
        owner = getpid();
        snprintf(dir, sizeof dir, "%s/dbrx-fuzz-XXXXXX", access("/dev/shm", W_OK) ? "/tmp" : "/dev/shm");
        MUST(mkdtemp(dir));
        atexit(remove_dir);
    }
    return dir;
}

int fuzz_dir_fd(void)
{
    static int fd = -1;
    const char *name = fuzz_dir();
    if (fd < 0)
        fd = open(name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    return fd;
}

void fuzz_put(const char *name, const void *data, size_t size)
{
    int fd = openat(fuzz_dir_fd(), name, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    MUST(fd >= 0 && (!size || write(fd, data, size) == (ssize_t)size) && !close(fd));
}

const char *fuzz_path(const char *name)
{
    static char path[400];
    snprintf(path, sizeof path, "%s/%s", fuzz_dir(), name);
    return path;
}

const char *fuzz_source(const char *name)
{
    static char path[4096];
    const char *top = getenv("srcdir");
    snprintf(path, sizeof path, "%s/%s", top ? top : access("tests/fuzz", F_OK) ? ".." : ".", name);
    return path;
}

char *fuzz_head(const uint8_t *data, size_t size, size_t *len, const uint8_t **rest, size_t *n_rest)
{
    const uint8_t *end = size ? memchr(data, 0, size) : NULL;
    *len = end ? (size_t)(end - data) : size;
    *n_rest = end ? size - *len - 1 : 0;
    *rest = end ? end + 1 : data + size;
    char *copy = malloc(*len ? *len : 1);
    MUST(copy);
    if (*len)
        memcpy(copy, data, *len);
    return copy;
}

static const struct fuzz_target *const groups[] = { fuzz_checkpoints, fuzz_texts, fuzz_rules, fuzz_shells, fuzz_argv };

static const struct fuzz_target *target_at(size_t i)
{
    for (size_t g = 0; g < sizeof groups / sizeof *groups; g++)
        for (const struct fuzz_target *t = groups[g]; t->name; t++)
            if (!i--)
                return t;
    return NULL;
}

#ifdef LIBFUZZER

static const struct fuzz_target *target;
int LLVMFuzzerInitialize(int *argc, char ***argv);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    const char *name = getenv("FUZZ_TARGET");
    size_t i = 0;
    if (*argc == 2 && !strcmp((*argv)[1], "--targets")) {
        for (; target_at(i); i++)
            puts(target_at(i)->name);
        exit(0);
    }
    while (name && (target = target_at(i++)) && strcmp(target->name, name))
        ;
    if (!target) {
        fprintf(stderr, "FUZZ_TARGET names no target\n");
        exit(2);
    }
    return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    target->run(data, size);
    return 0;
}

#else

/* ---- replaying ---- */

static char *now;                          /* [200] shared: what the child is at, for its parent */
static unsigned long runs;

static void try(const struct fuzz_target *t, const char *file, const char *how, size_t at, const uint8_t *data, size_t n)
{
    uint8_t *copy = malloc(n ? n : 1);     /* of just that size */
    snprintf(now, 200, "%.100s %s %zu", file, how, at);
    memcpy(copy, data, n);
    t->run(copy, n);
    free(copy);
    runs++;
}

static void replay(const struct fuzz_target *t, const char *file, const char *path, int once)
{
    static uint8_t data[1 << 20];
    FILE *f = fopen(path, "rb");
    size_t n = f ? fread(data, 1, sizeof data, f) : 0;
    if (f)
        fclose(f);
    try(t, file, "whole", n, data, n);
    if (once)
        return;
    for (size_t k = 0; k < 16 && k < n; k++)
        try(t, file, "cut at", n * k / 16, data, n * k / 16);
    for (size_t k = 0; k < 16 && n; k++) {
        size_t at = (k * 2654435761u + n) % n;
        uint8_t was = data[at];
        data[at] = (uint8_t)(was ^ (1 << k % 8));
        try(t, file, "changed at", at, data, n);
        data[at] = was;
    }
}

/* 0, or 1: no files */
static int replay_folder(const struct fuzz_target *t, unsigned long *files)
{
    char folder[4096], path[5000];
    struct dirent **list;
    snprintf(folder, sizeof folder, "%s/%s", fuzz_source("tests/fuzz/corpus"), t->name);
    int n = scandir(folder, &list, NULL, alphasort);
    *files = 0;
    for (int i = 0; i < n; i++) {
        snprintf(path, sizeof path, "%s/%s", folder, list[i]->d_name);
        if (list[i]->d_name[0] != '.' && ++*files)
            replay(t, list[i]->d_name, path, 0);
        free(list[i]);
    }
    if (n >= 0)
        free(list);
    try(t, "nothing", "whole", 0, (const uint8_t *)"", 0);
    return *files == 0;
}

int main(int argc, char **argv)
{
    unsigned long *count = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    now = (char *)(count + 2);
    for (size_t i = 0; target_at(i); i++) {
        const struct fuzz_target *t = target_at(i);
        if (argc > 1 && strcmp(argv[1], t->name))
            continue;
        fflush(stdout);
        pid_t child = fork();
        if (!child) {
            for (int a = 2; a < argc; a++)
                replay(t, argv[a], argv[a], 1);
            int none = argc > 2 ? 0 : replay_folder(t, &count[0]);
            count[1] = runs;
            exit(none);
        }
        int status = -1;
        waitpid(child, &status, 0);
        int good = WIFEXITED(status) && !WEXITSTATUS(status);
        if (!good)
            diag("at %s", now);
        ok(good, "%s: %lu files, %lu inputs", t->name, count[0], count[1]);
    }
    return done();
}

#endif
