/* backends/cuda/base.cuh -- what every kernel leans on: number formats, 16-byte loads, sums over a
 * warp and a block.  Under a C++ compiler the words of CUDA come from tests/cuda-emu/emu.h. */
#ifndef DBRX_CUDA_BASE_CUH
#define DBRX_CUDA_BASE_CUH

#include "backends/cuda/args.h"
#include "backends/cuda/planes.h"

#ifdef __CUDACC__
#include <cuda_fp16.h>
#define UNROLL _Pragma("unroll")
#define SHARED(name) extern __shared__ __align__(16) unsigned char name[]

__device__ __forceinline__ float half_float(uint16_t h)
{
    return __half2float(__ushort_as_half(h));
}

__device__ __forceinline__ uint16_t float_half(float f)
{
    return __half_as_ushort(__float2half_rn(f));
}
#endif

constexpr uint32_t WARP = 32;

__device__ __forceinline__ float bf16_float(uint32_t h)
{
    return __uint_as_float(h << 16);
}

/* to the nearest, ties to even; a NaN stays one */
__device__ __forceinline__ uint16_t float_bf16(float f)
{
    uint32_t u = __float_as_uint(f);
    return (uint16_t)(f != f ? u >> 16 | 0x40 : (u + 0x7fff + (u >> 16 & 1)) >> 16);
}

/* E4M3 as half precision has it, but for the exponent's bias: 2^-8 */
__device__ __forceinline__ float fp8_float(uint32_t b)
{
    float f = half_float((uint16_t)((b & 0x80) << 8 | (b & 0x7f) << 7)) * 256.0f;
    return (b & 0x7f) == 0x7f ? __uint_as_float(0x7fc00000) : f;
}

/* to the nearest, ties to even; beyond 448: 448 */
__device__ __forceinline__ uint8_t float_fp8(float f)
{
    uint32_t u = __float_as_uint(f), sign = u >> 24 & 0x80, man;
    float a = fabsf(f);
    if (f != f)
        return 0x7f;
    if (a >= 448.0f)
        return (uint8_t)(sign | 0x7e);
    if (a < 0.015625f)                     /* below 2^-6: multiples of 2^-9 */
        return (uint8_t)(sign | (uint32_t)rintf(a * 512.0f));
    man = __float_as_uint(a);
    return (uint8_t)(sign | (((man + 0x7ffff + (man >> 20 & 1)) >> 20) - (120 << 3)));
}

struct four { uint32_t x, y, z, w; };

/* p: aligned to 16 */
__device__ __forceinline__ four load16(const void *p)
{
    uint4 v = *(const uint4 *)p;
    return { v.x, v.y, v.z, v.w };
}

struct two { uint32_t x, y; };

/* p: aligned to 8 */
__device__ __forceinline__ two load8(const void *p)
{
    uint2 v = *(const uint2 *)p;
    return { v.x, v.y };
}

__device__ __forceinline__ void store16(void *p, const uint32_t *u)
{
    *(uint4 *)p = { u[0], u[1], u[2], u[3] };
}

__device__ __forceinline__ uint32_t load2(const void *p)
{
    return *(const uint16_t *)p;
}

__device__ __forceinline__ uint32_t load4(const void *p)
{
    return *(const uint32_t *)p;
}

/* ---- a KV cache's elements ---- */

/* a: four floats in 16 bytes */
__device__ __forceinline__ void load_floats(const void *p, float *v)
{
    four a = load16(p);
    v[0] = __uint_as_float(a.x), v[1] = __uint_as_float(a.y), v[2] = __uint_as_float(a.z), v[3] = __uint_as_float(a.w);
}

template <int TYPE> __device__ __forceinline__ float kv_get(const unsigned char *p, size_t i)
{
    if (TYPE == DBRX_F32)
        return ((const float *)p)[i];
    if (TYPE == DBRX_F16)
        return half_float(((const uint16_t *)p)[i]);
    if (TYPE == DBRX_BF16)
        return bf16_float(((const uint16_t *)p)[i]);
    return fp8_float(p[i]);
}

/* elements i .. i+8; i a multiple of 8 */
template <int TYPE> __device__ __forceinline__ void kv_get8(const unsigned char *p, size_t i, float *v)
{
    if (TYPE == DBRX_F32) {
        four a = load16(p + 4 * i), b = load16(p + 4 * i + 16);
        uint32_t u[8] = { a.x, a.y, a.z, a.w, b.x, b.y, b.z, b.w };
        for (int j = 0; j < 8; j++)
            v[j] = __uint_as_float(u[j]);
    } else if (TYPE == KV_FP8) {
        uint32_t u[2] = { load4(p + i), load4(p + i + 4) };
        for (int j = 0; j < 8; j++)
            v[j] = fp8_float(u[j / 4] >> 8 * (j % 4) & 255);
    } else {
        four a = load16(p + 2 * i);
        uint32_t u[4] = { a.x, a.y, a.z, a.w };
        for (int j = 0; j < 8; j++) {
            uint32_t h = u[j / 2] >> 16 * (j % 2) & 0xffff;
            v[j] = TYPE == DBRX_F16 ? half_float((uint16_t)h) : bf16_float(h);
        }
    }
}

/* elements i .. i+4 of a row of `width`, zeros from the `left`-th on; i a multiple of 4 */
template <int TYPE> __device__ __forceinline__
void kv_get4(const unsigned char *p, size_t i, uint32_t left, uint32_t width, float *v)
{
    if (width % 4) {
        for (uint32_t j = 0; j < 4; j++)
            v[j] = j < left ? kv_get<TYPE>(p, i + j) : 0;
    } else if (TYPE == DBRX_F32) {
        load_floats(p + 4 * i, v);
    } else if (TYPE == KV_FP8) {
        uint32_t u = load4(p + i);
        for (int j = 0; j < 4; j++)
            v[j] = fp8_float(u >> 8 * j & 255);
    } else {
        two u = load8(p + 2 * i);
        for (int j = 0; j < 4; j++) {
            uint32_t h = (j < 2 ? u.x : u.y) >> 16 * (j % 2) & 0xffff;
            v[j] = TYPE == DBRX_F16 ? half_float((uint16_t)h) : bf16_float(h);
        }
    }
}

__device__ __forceinline__ void kv_put(unsigned char *p, uint32_t type, size_t i, float f)
{
    if (type == DBRX_F32)
        ((float *)p)[i] = f;
    else if (type == DBRX_F16)
        ((uint16_t *)p)[i] = float_half(f);
    else if (type == DBRX_BF16)
        ((uint16_t *)p)[i] = float_bf16(f);
    else
        p[i] = float_fp8(f);
}

/* ---- sums and maxima: every thread gets the result; all of them must come here ---- */

__device__ __forceinline__ float warp_sum(float v)
{
    for (uint32_t i = WARP / 2; i; i /= 2)
        v += __shfl_xor_sync(0xffffffff, v, i);
    return v;
}

__device__ __forceinline__ float warp_max(float v)
{
    for (uint32_t i = WARP / 2; i; i /= 2) {
        float o = __shfl_xor_sync(0xffffffff, v, i);
        v = o > v || o != o ? o : v;
    }
    return v;
}

/* scratch: a float for each warp */
__device__ __forceinline__ float block_sum(float v, float *scratch)
{
    v = warp_sum(v);
    __syncthreads();                       /* whoever still reads the last sum */
    if (threadIdx.x % WARP == 0)
        scratch[threadIdx.x / WARP] = v;
    __syncthreads();
    float sum = 0;
    for (uint32_t i = 0; i < blockDim.x / WARP; i++)
        sum += scratch[i];
    return sum;
}

/* Blocks that share a piece of work each come here once, what they did being written; true, for all of
 * its threads, in the one that comes last: it may read the others' with __ldcg.  *count is 0
 * before and after. */
__device__ __forceinline__ bool last_of(uint32_t *count, uint32_t n)
{
    int last = 0;
    __threadfence();
    __syncthreads();
    if (threadIdx.x == 0) {
        last = atomicAdd(count, 1u) == n - 1;
        if (last)
            *count = 0;
    }
    last = __syncthreads_or(last);
    __threadfence();
    return last;
}

__device__ __forceinline__ float activate(uint32_t act_fn, float x)
{
    return act_fn == DBRX_GELU ? 0.5f * x * (1 + erff(x * 0.70710678f)) : x / (1 + expf(-x));
}

#endif
