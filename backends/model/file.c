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

int file_open(int dir, const char *name, uint64_t *size, struct dbrx_error *err)
{
    /* O_NONBLOCK: a FIFO of that name must not hang us; regular files ignore it */
    int fd = openat(dir, name, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
    struct stat st;
    if (fd < 0 || fstat(fd, &st) != 0) {
        int e = errno;
        ckpt_fail(err, DBRX_E_IO, "%s cannot be opened: %s", show(name).s, strerror(e));
        if (fd >= 0)
            close(fd);
        errno = e;
        return -1;
    }
    if (!S_ISREG(st.st_mode)) {
        ckpt_fail(err, DBRX_E_INVALID, "%s is not a file%s", show(name).s,
                  S_ISDIR(st.st_mode) ? " but a directory" : "");
        close(fd);
        errno = EINVAL;
        return -1;
    }
    *size = (uint64_t)st.st_size;
    return fd;
}

dbrx_status file_read(int fd, const char *name, void *buf, size_t n, uint64_t offset,
                      struct dbrx_error *err)
{
    for (size_t got = 0; got < n; ) {
        ssize_t r = pread(fd, (char *)buf + got, n - got, (off_t)(offset + got));
        if (r < 0 && errno == EINTR)
            continue;
        if (r <= 0)
            return ckpt_fail(err, DBRX_E_IO, "%s cannot be read: %s", show(name).s,
                             r < 0 ? strerror(errno) : "it ends early");
        got += (size_t)r;
    }
    return DBRX_OK;
}
