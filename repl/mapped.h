/* repl/mapped.h -- weights that can no longer be read, while they are in use.
 *
 * A checkpoint is mapped; where its file was cut short, or the disk fails, a read of the mapping
 * is a SIGBUS, in whatever thread of a backend it falls.  Here that becomes an error after the
 * fact: the handler puts zeros in the place of what is gone and takes note of the file, the
 * computation comes to its end, and who started it asks mapped_lost() and throws the result away.
 * The note stays: zeros are not weights.  Other SIGBUSes kill as ever. */
#ifndef DBRX_REPL_MAPPED_H
#define DBRX_REPL_MAPPED_H

#include "backends/model/checkpoint.h"

/* [one thread, while nothing computes] Watches the files of an open checkpoint; unwatch before
 * ckpt_close, NULL is fine.  0, or -1: out of memory. */
int  mapped_watch(const struct ckpt *);
void mapped_unwatch(const struct ckpt *);

/* DBRX_OK, or DBRX_E_IO and a sentence with the name of a file of which something is gone. */
dbrx_status mapped_lost(struct dbrx_error *);

/* Reads a byte of every page of data[bytes], so that what is gone is noted before a system call
 * stumbles over it. */
void mapped_touch(const void *data, size_t bytes);

#endif
