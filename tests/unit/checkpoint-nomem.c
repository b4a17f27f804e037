/* tests/unit/checkpoint-nomem.c -- memory runs out at every single allocation
 * of an opening, cJSON's included: an error each time, no crash, nothing lost. */
#define _GNU_SOURCE
#include "backends/model/checkpoint.h"
#include "tests/tap.h"
#include "tests/unit/model_files.h"

#if defined __GLIBC__ && !defined __SANITIZE_ADDRESS__

void *__libc_malloc(size_t), *__libc_calloc(size_t, size_t), *__libc_realloc(void *, size_t);
void __libc_free(void *);

static long left = -1;                     /* allocations until all fail; -1: never */
static long live;

static int refuse(void)
{
    return left == 0 || (left > 0 && --left == 0);
}

#define REPLACES __attribute__((visibility("default")))     /* libcjson's calls, too */

REPLACES void *malloc(size_t n)
{
    void *p = refuse() ? NULL : __libc_malloc(n);
    live += p != NULL;
    return p;
}

REPLACES void *calloc(size_t n, size_t size)
{
    void *p = refuse() ? NULL : __libc_calloc(n, size);
    live += p != NULL;
    return p;
}

REPLACES void *realloc(void *old, size_t n)
{
    void *p = refuse() ? NULL : __libc_realloc(old, n);
    live += !old && p;
    return p;
}

REPLACES void free(void *p)
{
    live -= p != NULL;
    __libc_free(p);
}

int main(void)
{
    char dir[512];
    long n = 0, lost = 0, silent = 0;
    snprintf(dir, sizeof dir, "%s/tests/data/tiny-clip", mf_source_dir());
    ok(1, "a first line, so that stdout has its buffer");
    for (dbrx_status st = -1; st != DBRX_OK && n < 100000; n++) {
        struct ckpt *c;
        struct dbrx_error err = { 0 };
        long before = live;
        left = n + 1;
        st = ckpt_open(dir, &c, &err);
        left = -1;
        silent += st != DBRX_OK && (c || !err.text[0] || err.code != st);
        ckpt_close(c);
        lost += live != before;
    }
    diag("%ld allocations", n);
    ok(n > 100 && n < 100000, "opens once there is enough");
    ok(!silent, "says so whenever there is not");
    ok(!lost, "and loses nothing");
    return done();
}

#else

int main(void)
{
    skip("needs glibc's malloc to itself");
    return done();
}

#endif
