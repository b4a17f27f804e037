/* backends/cuda/planes.h -- how a stored matrix lies on the device: not block after block, but each
 * field of all blocks together (a plane).  A block of 18 or 210 bytes cannot be read 16 bytes at a
 * time; its fields can.  `at` and `size` are a field's place in GGUF's block.
 *
 * The first plane holds the values' (low) bits; weights.cuh knows what the others mean. */
#ifndef DBRX_CUDA_PLANES_H
#define DBRX_CUDA_PLANES_H

#include "backends/backend.h"

/* X(NAME, name, block's elements, block's bytes, {at...}, {size...}) */
#define CUDA_TYPES(X) \
    X(F32,    f32,    1,   4,   ({ 0 }),               ({ 4 })) \
    X(F16,    f16,    1,   2,   ({ 0 }),               ({ 2 })) \
    X(BF16,   bf16,   1,   2,   ({ 0 }),               ({ 2 })) \
    X(Q8_0,   q8_0,   32,  34,  ({ 2, 0 }),            ({ 32, 2 })) \
    X(Q4_0,   q4_0,   32,  18,  ({ 2, 0 }),            ({ 16, 2 })) \
    X(Q4_1,   q4_1,   32,  20,  ({ 4, 0 }),            ({ 16, 4 })) \
    X(Q5_0,   q5_0,   32,  22,  ({ 6, 2, 0 }),         ({ 16, 4, 2 })) \
    X(Q5_1,   q5_1,   32,  24,  ({ 8, 4, 0 }),         ({ 16, 4, 4 })) \
    X(IQ4_NL, iq4_nl, 32,  18,  ({ 2, 0 }),            ({ 16, 2 })) \
    X(Q2_K,   q2_k,   256, 84,  ({ 16, 0, 80 }),       ({ 64, 16, 4 })) \
    X(Q3_K,   q3_k,   256, 110, ({ 32, 0, 96, 108 }),  ({ 64, 32, 12, 2 })) \
    X(Q4_K,   q4_k,   256, 144, ({ 16, 0 }),           ({ 128, 16 })) \
    X(Q5_K,   q5_k,   256, 176, ({ 48, 0, 16 }),       ({ 128, 16, 32 })) \
    X(Q6_K,   q6_k,   256, 210, ({ 0, 128, 192, 208 }),({ 128, 64, 16, 2 })) \
    X(IQ4_XS, iq4_xs, 256, 136, ({ 8, 0 }),            ({ 128, 8 }))

#endif
