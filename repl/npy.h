/* repl/npy.h -- numpy's .npy files of 4-byte elements, written out of order and atomically.
 * A file appears under its name when it is committed, complete, or not at all. */
#ifndef DBRX_REPL_NPY_H
#define DBRX_REPL_NPY_H

#include <stddef.h>
#include <stdint.h>

enum { NPY_MAX_RANK = 3, NPY_MAX_HEADER = 192 };
struct npy {                               /* zero-initialise */
    int    fd;
    char  *path, *temp;                    /* temp NULL: not open */
    size_t header;                         /* bytes before element 0 */
    int    error;                          /* errno of the first failure, kept */
};

/* What stands before the elements, at head[NPY_MAX_HEADER]; its length. */
size_t npy_header(char *head, const char *dtype, unsigned rank, const uint64_t *dim);

/* dir/name.npy of dtype "<f4" or "<i4" and shape dim[rank].  0, or -1 and npy.error. */
int  npy_create(struct npy *, const char *dir, const char *name, const char *dtype,
                unsigned rank, const uint64_t *dim);
/* elem[n] go to the flat index `at`.  0 or -1; after a failure nothing more is written. */
int  npy_write(struct npy *, uint64_t at, const void *elem, size_t n);
int  npy_finish(struct npy *);             /* everything is on the disk; 0 or -1 */
int  npy_commit(struct npy *);             /* after npy_finish: takes its name; 0 or -1 */
void npy_abort(struct npy *);              /* no trace left; fine when not open or committed */

#endif
