/* backends/cuda/kernels.cu -- the kernels that stand alone (rows to planes, embedding, LayerNorm), and
 * the entry point of every kernel.  Compiled by nvcc, and by a C++ compiler for tests/cuda-emu. */
#include "backends/cuda/attend.cuh"
#include "backends/cuda/experts.cuh"
#include "backends/cuda/flash.cuh"
#include "backends/cuda/route.cuh"

/* grid: (anything, planes); float types are padded with zeros to `padded` columns */
__device__ __forceinline__ void repack(const repack_args &a)
{
    const uint32_t size = a.size[blockIdx.y], at = a.at[blockIdx.y];
    const uint64_t from = a.cols / a.block, to = a.padded / a.block, all = a.n * to * size;
    unsigned char *plane = a.to[blockIdx.y] + a.first * to * size;
    for (uint64_t i = (uint64_t)blockIdx.x * blockDim.x + threadIdx.x; i < all; i += (uint64_t)gridDim.x * blockDim.x) {
        uint64_t b = i / size, row = b / to, col = b % to;
        plane[i] = col < from ? a.raw[(row * from + col) * a.bytes + at + i % size] : 0;
    }
}

/* raw's n rows of cols elements become columns first .. first+n of cols rows of `padded` */
__device__ __forceinline__ void transpose(const repack_args &a)
{
    const uint64_t all = (uint64_t)a.n * a.cols;
    for (uint64_t i = (uint64_t)blockIdx.x * blockDim.x + threadIdx.x; i < all; i += (uint64_t)gridDim.x * blockDim.x) {
        uint64_t col = i / a.n, row = i % a.n, from = row * a.cols + col, to = col * a.padded + a.first + row;
        if (a.bytes == 4)
            ((uint32_t *)a.to[0])[to] = ((const uint32_t *)a.raw)[from];
        else
            ((uint16_t *)a.to[0])[to] = ((const uint16_t *)a.raw)[from];
    }
}

/* grid: n tokens */
__device__ __forceinline__ void embed(const embed_args &a)
{
    const uint32_t t = blockIdx.x, groups = a.w.cols / GROUP;
    const bool tap = a.step->taps && *a.want & 1 << DBRX_TAP_RESIDUAL;
    for (uint32_t g = threadIdx.x; g < groups; g += blockDim.x) {
        float v[GROUP];
        size_t at = (size_t)t * a.w.cols + (size_t)g * GROUP;
        load_any(a.w.w, a.w.type, (uint32_t)a.token[t], groups, g, v);
        for (int i = 0; i < GROUP; i++) {
            a.x[at + i] = v[i];
            if (tap)
                a.tap_x[at + i] = v[i];
        }
    }
}

/* LayerNorm without bias; grid: n tokens */
__device__ __forceinline__ void norm(const norm_args &a)
{
    SHARED(shared);
    float *scratch = (float *)shared, mean = 0, var = 0;
    const float *x = a.x + (size_t)blockIdx.x * a.ld;
    float *y = a.y + (size_t)blockIdx.x * a.ld;
    for (uint32_t i = threadIdx.x; i < a.d; i += blockDim.x)
        mean += x[i];
    mean = block_sum(mean, scratch) / (float)a.d;
    for (uint32_t i = threadIdx.x; i < a.d; i += blockDim.x)
        var += (x[i] - mean) * (x[i] - mean);
    var = block_sum(var, scratch) / (float)a.d;
    float scale = 1 / sqrtf(var + a.eps);
    for (uint32_t i = threadIdx.x; i < a.ld; i += blockDim.x)
        y[i] = i < a.d ? (x[i] - mean) * scale * a.w[i] : 0;
}

#define KERNEL(name, type, body) \
    extern "C" __global__ void dbrx_##name(const type a) { body; }
#define BOUND_KERNEL(name, type, threads, blocks, body) \
    extern "C" __global__ void __launch_bounds__(threads, blocks) dbrx_##name(const type a) { body; }
#include "backends/cuda/kernel_list.h"
