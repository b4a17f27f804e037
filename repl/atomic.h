/* repl/atomic.h -- a file that is there whole or not at all.
 *
 * Written beside its place under another name, flushed to the disk, then renamed: a crash
 * or a full disk at any moment leaves an older file of that name as it was.  Mode 0600.
 * Keeps a CRC-32C of what was written.  Knows nothing of what the bytes mean. */
#ifndef DBRX_REPL_ATOMIC_H
#define DBRX_REPL_ATOMIC_H

#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

struct atomic {
    FILE    *f;
    char    *path, *tmp, *buf;
    int      error;                        /* the first errno, or 0                      */
    uint32_t crc;                          /* of everything so far                       */
};

/* 0, or an errno.  A link is followed; what is no regular file is EINVAL. */
int  atomic_open(struct atomic *, const char *path);
void atomic_write(struct atomic *, const void *, size_t);
/* 0, or the errno of whatever failed since atomic_open.  Either way all is closed. */
int  atomic_commit(struct atomic *);
void atomic_abort(struct atomic *);        /* leaves no trace; after commit: nothing */

/* Castagnoli's CRC, as in iSCSI and ext4; begin with 0.  Here, twenty lines, because nothing
 * else of zlib would be used. */
uint32_t crc32c(uint32_t crc, const void *, size_t);

#endif
