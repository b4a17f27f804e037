/* backends/cuda/route.cuh -- the router: logits in float32, softmax over all experts, top-k, p-norm,
 * steering.  The twin of backends/graph/route.c; the order of effects stands in backend.h. */
#ifndef DBRX_CUDA_ROUTE_CUH
#define DBRX_CUDA_ROUTE_CUH

#include "backends/cuda/dense.cuh"

/* the better of two candidates: the larger p, ties to the lower id */
__device__ __forceinline__ bool better(float p, uint32_t e, float than, uint32_t of)
{
    return p > than || (p == than && e < of);
}

/* one warp; everything in shared memory: prob[E], key[E] (prob, or -1 where not selectable),
 * weight[slots], expert[slots] */
__device__ __forceinline__
void choose(const route_args &a, const float *logit, float *prob, float *key, float *weight, uint32_t *expert,
            uint32_t k, uint32_t t)
{
    const uint32_t lane = threadIdx.x, E = a.n_experts;
    const bool steered = a.step->steered;
    float top = -INFINITY, sum = 0;
    for (uint32_t e = lane; e < E; e += WARP) {
        float z = logit[steered ? a.steer.source[e] : e] + (steered ? a.steer.bias[e] : 0);
        prob[e] = z;
        top = z > top || z != z ? z : top;
        if (z != z)
            break;                         /* the others find NaN by warp_max */
    }
    top = warp_max(top);
    if (!(top > -INFINITY && top < INFINITY)) {
        if (lane == 0)
            atomicMin(a.bad, a.layer * a.step->n + t);
        for (uint32_t j = lane; j < a.step->slots; j += WARP) {
            expert[j] = 0;
            weight[j] = 0;
        }
        __syncwarp();
        return;
    }
    for (uint32_t e = lane; e < E; e += WARP)
        sum += prob[e] = expf(prob[e] - top);
    sum = warp_sum(sum);
    for (uint32_t e = lane; e < E; e += WARP) {
        unsigned mark = steered ? a.steer.mark[e] : 0;
        bool banned = (mark & DBRX_STEER_SKIP) || (steered && a.steer.bias[e] == -INFINITY);
        prob[e] /= sum;
        key[e] = mark & DBRX_STEER_FORCE ? 3.0f : banned ? -1.0f : prob[e];
    }
    __syncwarp();
    for (uint32_t j = 0; j < k; j++) {     /* the forced first, in order of their ids */
        float best = -1;
        uint32_t at = 0xffffffff;
        for (uint32_t e = lane; e < E; e += WARP)
            if (key[e] >= 0 && better(key[e], e, best, at)) {
                best = key[e];
                at = e;
            }
        for (uint32_t i = WARP / 2; i; i /= 2) {
            float p = __shfl_xor_sync(0xffffffff, best, i);
            uint32_t e = __shfl_xor_sync(0xffffffff, at, i);
            if (better(p, e, best, at)) {
                best = p;
                at = e;
            }
        }
        if (lane == 0) {
            expert[j] = at;
            weight[j] = steered && a.steer.mark[at] & DBRX_STEER_OMIT ? 0 : prob[at];
            key[at] = -1;
        }
        __syncwarp();
    }
    if (lane == 0) {
        float norm = 0;
        for (uint32_t j = 0; j < k; j++)
            norm += a.norm_p == 1 ? weight[j] : powf(weight[j], a.norm_p);
        norm = a.norm_p == 1 || !(a.norm_p > 0) ? norm : powf(norm, 1 / a.norm_p);
        for (uint32_t j = 0; j < k; j++) {
            weight[j] = a.norm_p > 0 && norm > 0 ? weight[j] / norm : weight[j];
            weight[j] *= steered ? a.steer.scale[expert[j]] : 1;
        }
        for (uint32_t i = 1; i < k; i++)   /* heaviest first, as applied; ties: lower id */
            for (uint32_t j = i; j > 0 && better(weight[j], expert[j], weight[j - 1], expert[j - 1]); j--) {
                float w = weight[j];
                uint32_t e = expert[j];
                weight[j] = weight[j - 1], expert[j] = expert[j - 1];
                weight[j - 1] = w, expert[j - 1] = e;
            }
        for (uint32_t j = k; j < a.step->slots; j++) {
            expert[j] = 0;                 /* weight 0: it does not run */
            weight[j] = 0;
        }
    }
    __syncwarp();
}

/* grid: (blocks of a token, n): each block normalises the row and does every so-manieth expert's logit, a
 * whole block an expert whatever the grid is, so that bits do not depend on it; the last to be done
 * chooses.  shared: the row, as stage_row wants it, 3 n_experts floats, 2 slots words */
__device__ __forceinline__ void route(const route_args &a)
{
    SHARED(shared);
    const uint32_t t = blockIdx.y, E = a.n_experts, slots = a.step->slots, warps = blockDim.x / WARP;
    const uint32_t k = a.step->steered ? *a.steer.top_k : a.top_k;
    float *x = (float *)shared, *scratch = x + a.ld / GROUP * PADDED;
    float *logit = scratch + warps, *prob = logit + E, *key = prob + E, *weight = key + E;
    uint32_t *expert = (uint32_t *)(weight + slots);
    stage_row(x, a.x + (size_t)t * a.ld, a.ld, a.norm, false);
    for (uint32_t i = threadIdx.x; blockIdx.x == 0 && i < a.ld; i += blockDim.x)
        a.h[(size_t)t * a.ld + i] = x[i / GROUP * PADDED + i % GROUP];
    for (uint32_t e = blockIdx.x; e < E; e += gridDim.x) {
        float sum = 0, w[4];
        for (uint32_t i = 4 * threadIdx.x; i < a.ld; i += 4 * blockDim.x) {
            load_floats(a.router + (size_t)e * a.ld + i, w);
            for (int j = 0; j < 4; j++)
                sum += x[i / GROUP * PADDED + i % GROUP + j] * w[j];
        }
        sum = block_sum(sum, scratch);
        if (threadIdx.x == 0)
            a.logit[(size_t)t * E + e] = sum;
    }
    if (!last_of(a.count + t, gridDim.x))
        return;
    for (uint32_t e = threadIdx.x; e < E; e += blockDim.x)
        logit[e] = __ldcg(&a.logit[(size_t)t * E + e]);
    __syncthreads();
    if (threadIdx.x < WARP)
        choose(a, logit, prob, key, weight, expert, k, t);
    __syncthreads();
    for (uint32_t e = threadIdx.x; e < E; e += blockDim.x)
        a.prob[(size_t)t * E + e] = prob[e];
    for (uint32_t j = threadIdx.x; j < slots; j += blockDim.x) {
        a.expert[(size_t)t * slots + j] = (uint16_t)expert[j];
        a.weight[(size_t)t * slots + j] = weight[j];
    }
}

#endif
