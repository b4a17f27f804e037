/* repl/atomic.c -- see atomic.h. */
#define _GNU_SOURCE
#include "repl/atomic.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

uint32_t crc32c(uint32_t crc, const void *data, size_t n)
{
    static uint32_t table[8][256];         /* table[k][b]: b followed by k zero bytes */
    const unsigned char *p = data;
    if (!table[0][1])
        for (uint32_t b = 0; b < 256; b++) {
            uint32_t c = b;
            for (int i = 0; i < 8; i++)
                c = c >> 1 ^ (c & 1 ? 0x82f63b78u : 0);
            table[0][b] = c;
            for (int k = 1; k < 8; k++) {
                for (int i = 0; i < 8; i++)
                    c = c >> 1 ^ (c & 1 ? 0x82f63b78u : 0);
                table[k][b] = c;
            }
        }
    crc = ~crc;
    for (; n >= 8; n -= 8, p += 8) {
        crc ^= p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
        crc = table[7][crc & 255] ^ table[6][crc >> 8 & 255] ^ table[5][crc >> 16 & 255] ^
              table[4][crc >> 24] ^ table[3][p[4]] ^ table[2][p[5]] ^ table[1][p[6]] ^ table[0][p[7]];
    }
    for (; n; n--, p++)
        crc = crc >> 8 ^ table[0][(crc ^ *p) & 255];
    return ~crc;
}

/* Written so, what is large lies in the page cache as large pages, ready to be mapped */
enum { BUFFER = 4 << 20 };

int atomic_open(struct atomic *a, const char *path)
{
    struct stat st;
    *a = (struct atomic){ 0 };
    char *real = realpath(path, NULL);     /* NULL: not there yet */
    a->path = real ? real : strdup(path);
    if (!stat(path, &st) && !S_ISREG(st.st_mode)) {
        atomic_abort(a);
        return S_ISDIR(st.st_mode) ? EISDIR : EINVAL;
    }
    if (!a->path || asprintf(&a->tmp, "%s.XXXXXX", a->path) < 0) {
        a->tmp = NULL;
        atomic_abort(a);
        return ENOMEM;
    }
    int fd = mkostemp(a->tmp, O_CLOEXEC);
    if (fd < 0) {
        int why = errno;
        free(a->tmp);
        a->tmp = NULL;
        atomic_abort(a);
        return why;
    }
    if (!(a->f = fdopen(fd, "wb"))) {
        int why = errno;
        close(fd);
        atomic_abort(a);
        return why;
    }
    a->buf = malloc(BUFFER);
    if (a->buf)
        setvbuf(a->f, a->buf, _IOFBF, BUFFER);
    return 0;
}

void atomic_write(struct atomic *a, const void *data, size_t n)
{
    if (!a->error && n && fwrite(data, 1, n, a->f) != n)
        a->error = errno ? errno : EIO;
    a->crc = crc32c(a->crc, data, n);
}

/* The rename reaches the disk with the folder; a folder that cannot be synced is no error */
static void sync_folder(const char *path)
{
    const char *slash = strrchr(path, '/');
    char *dir = !slash ? strdup(".") : slash == path ? strdup("/") : strndup(path, (size_t)(slash - path));
    int fd = dir ? open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC) : -1;
    if (fd >= 0) {
        fsync(fd);
        close(fd);
    }
    free(dir);
}

int atomic_commit(struct atomic *a)
{
    if (!a->error && (fflush(a->f) || fsync(fileno(a->f))))
        a->error = errno;
    if (fclose(a->f) && !a->error)
        a->error = errno;
    a->f = NULL;
    if (!a->error && rename(a->tmp, a->path))
        a->error = errno;
    int why = a->error;
    if (!why) {
        free(a->tmp);
        a->tmp = NULL;
        sync_folder(a->path);
    }
    atomic_abort(a);
    return why;
}

void atomic_abort(struct atomic *a)
{
    if (a->f)
        fclose(a->f);
    if (a->tmp)
        unlink(a->tmp);
    free(a->tmp);
    free(a->path);
    free(a->buf);
    *a = (struct atomic){ 0 };
}
