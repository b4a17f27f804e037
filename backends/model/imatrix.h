/* backends/model/imatrix.h -- importance matrices: how large each input of each weight matrix
 * was on some text, as sums of squares and counts.
 *
 * The file is GGUF with the layout of llama.cpp's imatrix files: for a weight NAME the tensors
 * NAME.in_sum2 [matrices][columns] and NAME.counts [matrices][1], F32; a matrix is an expert. */
#ifndef DBRX_MODEL_IMATRIX_H
#define DBRX_MODEL_IMATRIX_H

#include "backends/backend.h"

#include <stddef.h>

struct imatrix_entry {
    char    *name;                         /* "blk.0.ffn_up_exps.weight"; owned         */
    uint32_t n_matrices, cols;
    float   *sum;                          /* [n_matrices][cols]; owned                 */
    float   *count;                        /* [n_matrices] rows seen; owned             */
};
struct imatrix { struct imatrix_entry *v; size_t n; };

/* [any] On failure *out is NULL and err says why. */
dbrx_status imatrix_open(const char *path, struct imatrix **out, struct dbrx_error *err);
void imatrix_free(struct imatrix *);       /* NULL is fine */

/* The entry of that name, or NULL. */
const struct imatrix_entry *imatrix_find(const struct imatrix *, const char *name);
/* A new one of zeros; NULL: out of memory. */
struct imatrix_entry *imatrix_add(struct imatrix *, const char *name, uint32_t n_matrices, uint32_t cols);

/* The file's bytes, *n of them; `from` names the text it was made of.  free() it; NULL: no memory. */
unsigned char *imatrix_bytes(const struct imatrix *, const char *from, uint32_t chunks, uint32_t chunk_size,
                             size_t *n);

#endif
