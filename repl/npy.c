/* repl/npy.c -- see npy.h.  Format: numpy's format 1.0, a Python dict in a padded header. */
#define _GNU_SOURCE
#include "repl/npy.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static int failed(struct npy *f)
{
    if (!f->error)
        f->error = errno ? errno : EIO;
    return -1;
}

static int write_at(struct npy *f, const void *data, size_t len, uint64_t at)
{
    const char *p = data;
    while (len && !f->error) {
        ssize_t n = pwrite(f->fd, p, len, (off_t)at);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return failed(f);
        p += n;
        at += (uint64_t)n;
        len -= (size_t)n;
    }
    return f->error ? -1 : 0;
}

size_t npy_header(char *head, const char *dtype, unsigned rank, const uint64_t *dim)
{
    char shape[96] = "";
    size_t n = 0;
    for (unsigned i = 0; i < rank; i++)
        n += (size_t)snprintf(shape + n, sizeof shape - n, "%s%llu", i ? ", " : "",
                              (unsigned long long)dim[i]);
    /* magic, version 1.0, length of the dict; padded so that the data is aligned to 64 */
    memcpy(head, "\x93NUMPY\1\0", 8);
    n = 10 + (size_t)snprintf(head + 10, NPY_MAX_HEADER - 10,
                              "{'descr': '%s', 'fortran_order': False, 'shape': (%s%s), }", dtype, shape,
                              rank == 1 ? "," : "");
    size_t size = (n + 1 + 63) / 64 * 64;
    memset(head + n, ' ', size - n);
    head[size - 1] = '\n';
    head[8] = (char)((size - 10) & 0xff);
    head[9] = (char)((size - 10) >> 8);
    return size;
}

int npy_create(struct npy *f, const char *dir, const char *name, const char *dtype,
               unsigned rank, const uint64_t *dim)
{
    char head[NPY_MAX_HEADER];
    uint64_t elements = 1;
    *f = (struct npy){ .fd = -1 };
    for (unsigned i = 0; i < rank; i++)
        elements *= dim[i];
    if (asprintf(&f->path, "%s/%s.npy", dir, name) < 0) {
        f->path = NULL;
        return failed(f);
    }
    if (asprintf(&f->temp, "%s/.%s.npy.XXXXXX", dir, name) < 0) {
        f->temp = NULL;
        return failed(f);
    }
    f->fd = mkostemp(f->temp, O_CLOEXEC);
    if (f->fd < 0) {
        failed(f);
        free(f->temp);
        f->temp = NULL;
        return -1;
    }
    f->header = npy_header(head, dtype, rank, dim);
    if (ftruncate(f->fd, (off_t)(f->header + 4 * elements)))
        return failed(f);
    return write_at(f, head, f->header, 0);
}

int npy_write(struct npy *f, uint64_t at, const void *elem, size_t n)
{
    return f->error ? -1 : write_at(f, elem, 4 * n, f->header + 4 * at);
}

int npy_finish(struct npy *f)
{
    mode_t mask = umask(0);                /* mkostemp is stricter than a file of the user's */
    umask(mask);
    int bad = f->error || fchmod(f->fd, 0666 & ~mask) || fsync(f->fd);
    if (f->fd >= 0 && close(f->fd))
        bad = 1;
    f->fd = -1;
    return bad ? failed(f) : 0;
}

int npy_commit(struct npy *f)
{
    if (f->error || rename(f->temp, f->path))
        return failed(f);
    free(f->temp);
    free(f->path);
    f->temp = f->path = NULL;
    return 0;
}

void npy_abort(struct npy *f)
{
    if (f->temp) {
        if (f->fd >= 0)
            close(f->fd);
        unlink(f->temp);
    }
    free(f->temp);
    free(f->path);
    f->temp = f->path = NULL;
}
