/* repl/mapped.c -- see mapped.h.  The handler calls fstat, mmap and sigaction: system calls
 * without state of their own in the C library. */
#define _GNU_SOURCE
#include "repl/mapped.h"

#include "plugins/fail.h"

#include <signal.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

struct range {
    const struct ckpt *of;
    const char *name;                      /* the checkpoint's                         */
    char  *map;
    size_t size;
    int    fd;
    volatile sig_atomic_t lost;
};
static struct range *range;                /* [n], still while anything computes       */
static size_t n, page;
static int installed;

static void on_fault(int sig, siginfo_t *info, void *context)
{
    char *at = info->si_addr;
    (void)context;
    for (size_t i = 0; i < n; i++) {
        struct range *r = &range[i];
        struct stat st;
        if (at < r->map || at >= r->map + r->size)
            continue;
        /* a file that was cut short: all behind its end; a bad place on the disk: that page */
        size_t from = (size_t)(at - r->map) / page * page, len = page;
        if (!fstat(r->fd, &st) && (size_t)st.st_size <= from)
            len = (r->size - from + page - 1) / page * page;
        r->lost = 1;
        if (mmap(r->map + from, len, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) != MAP_FAILED)
            return;
    }
    struct sigaction sa = { .sa_handler = SIG_DFL };
    sigaction(sig, &sa, NULL);             /* it happens again, and kills */
}

int mapped_watch(const struct ckpt *c)
{
    struct range *more = realloc(range, (n + c->n_shards) * sizeof *range);
    if (!more)
        return -1;
    range = more;
    page = (size_t)sysconf(_SC_PAGESIZE);
    for (uint32_t i = 0; i < c->n_shards; i++) {
        struct range r = { .of = c };
        r.name = ckpt_file(c, i, &r.map, &r.size, &r.fd);
        if (r.size)
            range[n++] = r;
    }
    struct sigaction sa = { .sa_sigaction = on_fault, .sa_flags = SA_SIGINFO };
    if (!installed++)
        sigaction(SIGBUS, &sa, NULL);
    return 0;
}

void mapped_unwatch(const struct ckpt *c)
{
    size_t left = 0;
    for (size_t i = 0; i < n; i++)
        if (range[i].of != c)
            range[left++] = range[i];
    n = left;
    if (!n) {
        free(range);
        range = NULL;
    }
}

dbrx_status mapped_lost(struct dbrx_error *err)
{
    for (size_t i = 0; i < n; i++)
        if (range[i].lost)
            return fail(err, DBRX_E_IO, "%s cannot be read any more: it was cut short, or its disk fails; nothing "
                        "can be computed from it, /save FILE keeps the conversation", range[i].name);
    return DBRX_OK;
}

void mapped_touch(const void *data, size_t bytes)
{
    const volatile char *p = data;
    for (size_t i = 0; i < bytes; i += page ? page : 4096)
        (void)p[i];
    if (bytes)
        (void)p[bytes - 1];
}
