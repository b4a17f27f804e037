/* backends/model/file.c -- opens and reads the files of a checkpoint
 * directory.  Reads go through pread, not the mapping, so that a bad disk or a
 * file cut short under us is an error and not a SIGBUS.  Knows no format. */
#define _GNU_SOURCE
#include "backends/model/reader.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

dbrx_status ckpt_file_open(int dir, const char *name, int *fd, uint64_t *size,
                      struct dbrx_error *err)
{
    /* O_NONBLOCK: a FIFO of that name must not hang us; regular files ignore it */
    int f = openat(dir, name, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
    int e = errno;
    struct stat st;
    dbrx_status rc = DBRX_OK;
    *fd = -1;
    if (f < 0 || fstat(f, &st) != 0) {
        rc = ckpt_fail(err, DBRX_E_IO, "%s cannot be opened: %s", SHOW(name), strerror(e));
    } else if (!S_ISREG(st.st_mode)) {
        rc = ckpt_fail(err, DBRX_E_INVALID, "%s is %s, not a file", SHOW(name),
                       S_ISDIR(st.st_mode) ? "a directory" : "a device or pipe");
        e = EINVAL;
    }
    if (rc == DBRX_OK) {
        *fd = f;
        *size = (uint64_t)st.st_size;
    } else if (f >= 0) {
        close(f);
    }
    errno = e;
    return rc;
}

dbrx_status ckpt_file_read(int fd, const char *name, void *buf, size_t n, uint64_t offset,
                      struct dbrx_error *err)
{
    for (size_t got = 0; got < n; ) {
        ssize_t r = pread(fd, (char *)buf + got, n - got, (off_t)(offset + got));
        if (r < 0 && errno == EINTR)
            continue;
        if (r <= 0)
            return ckpt_fail(err, DBRX_E_IO, "%s cannot be read: %s", SHOW(name),
                             r < 0 ? strerror(errno) : "it ends early");
        got += (size_t)r;
    }
    return DBRX_OK;
}
