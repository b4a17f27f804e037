/* backends/graph/dtype.h -- the element types a checkpoint may hold: names and sizes.
 *
 * One table for the reader, the backends and the tools.  Knows no values; those are
 * dequant.h's. */
#ifndef DBRX_GRAPH_DTYPE_H
#define DBRX_GRAPH_DTYPE_H

#include <stdint.h>

/* Elements are stored in blocks; those of F32, F16 and BF16 hold one. */
enum { DTYPE_MAX_BLOCK = 256, DTYPE_MAX_BYTES = 256 };     /* of one block, of any type here */

/* Elements and bytes of one block of a DBRX_* type; 0: no type known here. */
uint32_t dtype_block(uint32_t dtype);
uint32_t dtype_block_bytes(uint32_t dtype);

/* Bytes of n elements; 0 when they are no whole number of blocks, when 64 bits do not
 * hold it, or for an unknown type. */
uint64_t dtype_bytes(uint32_t dtype, uint64_t n);

/* "BF16"; "type 99" for an unknown id, valid until this thread asks for another. */
const char *dtype_name(uint32_t dtype);
/* The other way, whatever the case; UINT32_MAX: no such type. */
uint32_t dtype_named(const char *name);

#endif
