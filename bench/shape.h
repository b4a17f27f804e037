/* bench/shape.h -- random weights of a named shape, for measuring: as values to write into a file
 * (mkmodel), or as a model that needs neither disk nor memory (gpu-speed).
 *
 * Values are scaled so that a row's product with a vector of unit elements is of size one:
 * activations stay finite and routing varied.  Router and norms are F32, as quantised files have
 * them.  Knows no backend.  [one thread] */
#ifndef BENCH_SHAPE_H
#define BENCH_SHAPE_H

#include "backends/model/checkpoint.h"

#include <stddef.h>

#define SHAPES "tiny|mini|9b|18b|dbrx"
#define SHAPE_TYPES "f32 f16 bf16 q8_0 q4_0 q4_1 q5_0 q5_1 q2_k q3_k q4_k q5_k q6_k iq4_nl iq4_xs"

/* The config of a shape; 0: no such. */
int shape_named(const char *name, struct dbrx_config *);
/* What a tensor of a model of `type` is stored as; UINT32_MAX: its rows are no whole number of blocks. */
uint32_t shape_type(const struct ckpt_slot *, uint32_t type);
/* The standard deviation of its values; 0: they are all one (norms).  LayerNorm hands on elements of
 * size one; the embedding may be as large as that.  The router and the head are sharper, so that
 * choices differ from token to token. */
double shape_sd(const struct ckpt_slot *);

void shape_seed(uint64_t);
uint64_t shape_random(void);
/* n values, whole blocks, of standard deviation sd about mean 0 (sd 0: ones) */
void shape_fill(unsigned char *to, size_t n, uint32_t type, double sd);

/* A model whose tensors are address space alone, each mapped piece by piece from random places of a few
 * megabytes of such values: the 74 GB of DBRX in Q4_0 take 100 MB.  For backends that copy their weights to
 * a device; one that reads them in place finds them in its caches, and its speeds say nothing. */
struct shape_model;
dbrx_status shape_open(const char *shape, const char *type, struct shape_model **, const struct dbrx_model_desc **,
                       struct dbrx_error *);
void shape_close(struct shape_model *);    /* NULL is fine; all backends closed first */

#endif
