/* backends/cuda/experts.cuh -- the chosen experts.
 *
 * A *slot* is a token's j-th choice: slot t * slots + j.  For a few tokens every slot is a block
 * row of its own (up, down); for many, slots are sorted by expert first and each expert's go
 * through tiles together, however many they are (group, tiled_up, tiled_down).  Both leave
 * w2 (act(w1 h) * v1 h) of each slot in y, and combine adds them up in one order. */
#ifndef DBRX_CUDA_EXPERTS_CUH
#define DBRX_CUDA_EXPERTS_CUH

#include "backends/cuda/dense.cuh"

/* v1's row where it is stored in another type than w1 */
__device__ __forceinline__ float any_dot(const wt &w, uint32_t type, uint32_t row, uint32_t groups, const float *x)
{
    float sum = 0, v[GROUP];
    for (uint32_t g = threadIdx.x % WARP; g < groups; g += WARP) {
        load_any(w, type, row, groups, g, v);
        sum = group_dot(v, x + (size_t)g * PADDED, sum);
    }
    return warp_sum(sum);
}

template <int TYPE> __device__ __forceinline__ float row_dot(const wt &w, uint32_t row, uint32_t groups, const float *x)
{
    float sum = 0, v[GROUP];
    for (uint32_t g = threadIdx.x % WARP; g < groups; g += WARP) {
        Fmt<TYPE>::load(w, row, groups, g, v);
        sum = group_dot(v, x + (size_t)g * PADDED, sum);
    }
    return warp_sum(sum);
}

/* grid: (anything, n * slots) */
template <int TYPE> __device__ __forceinline__ void expert_up(const expert_args &a)
{
    SHARED(shared);
    float *x = (float *)shared;
    const uint32_t warps = blockDim.x / WARP, slot = blockIdx.y, e = a.expert[slot], groups = a.ld / GROUP;
    if (a.weight[slot] == 0)               /* it does not run */
        return;
    stage_row(x, a.h + (size_t)(slot / a.slots) * a.ld, a.ld);
    for (uint32_t row = blockIdx.x * warps + threadIdx.x / WARP; row < a.ffn; row += gridDim.x * warps) {
        float gate = row_dot<TYPE>(a.w1[e], row, groups, x);
        float up = a.type3 == TYPE ? row_dot<TYPE>(a.v1[e], row, groups, x) : any_dot(a.v1[e], a.type3, row, groups, x);
        if (threadIdx.x % WARP == 0)
            a.act[(size_t)slot * a.ffn_ld + row] = activate(a.act_fn, gate) * up;
    }
}

template <int TYPE> __device__ __forceinline__ void expert_down(const expert_args &a)
{
    SHARED(shared);
    float *x = (float *)shared, sum[ROWS];
    const uint32_t warps = blockDim.x / WARP, slot = blockIdx.y, e = a.expert[slot];
    if (a.weight[slot] == 0)
        return;
    stage_row(x, a.act + (size_t)slot * a.ffn_ld, a.ffn_ld);
    for (uint32_t row = (blockIdx.x * warps + threadIdx.x / WARP) * ROWS; row < a.d; row += gridDim.x * warps * ROWS) {
        rows_dot<TYPE>(a.w2[e], row, a.d, a.ffn_ld / GROUP, x, sum);
        if (threadIdx.x % WARP == 0)
            for (uint32_t r = 0; r < ROWS; r++)
                if (row + r < a.d)
                    a.y[(size_t)slot * a.ld + row + r] = sum[r];
    }
}

/* ---- many tokens ---- */

/* order = slots that run, by expert and then by number; a warp an expert, one block */
__device__ __forceinline__ void group_slots(const group_args &a)
{
    SHARED(shared);
    uint32_t *count = (uint32_t *)shared;  /* [n_experts] */
    const uint32_t warps = blockDim.x / WARP, lane = threadIdx.x % WARP;
    for (int write = 0; write < 2; write++) {
        for (uint32_t e = threadIdx.x / WARP; e < a.n_experts; e += warps) {
            uint32_t n = 0, at = write ? a.start[e] : 0;
            for (uint32_t i = 0; i < a.n_slots; i += WARP) {
                uint32_t slot = i + lane;
                int mine = slot < a.n_slots && a.expert[slot] == e && a.weight[slot] != 0;
                uint32_t all = __ballot_sync(0xffffffff, mine);
                if (write && mine)
                    a.order[at + n + __popc(all & ((1u << lane) - 1))] = slot;
                n += __popc(all);
            }
            if (lane == 0 && !write)
                count[e] = n;
        }
        __syncthreads();
        if (threadIdx.x == 0 && !write) {
            uint32_t at = 0;
            for (uint32_t e = 0; e < a.n_experts; e++) {
                a.start[e] = at;
                at += count[e];
            }
            a.start[a.n_experts] = at;
        }
        __syncthreads();
    }
}

/* grid: (tiles of rows, tiles of slots, n_experts) */
template <class T, bool UP> __device__ __forceinline__ void tiled_expert(const expert_args &a)
{
    SHARED(shared);
    typename T::shared *s = (typename T::shared *)shared;
    const float **rows_x = (const float **)(s + 1);
    const uint32_t e = blockIdx.z, begin = a.start[e], n = a.start[e + 1] - begin;
    const uint32_t row0 = blockIdx.x * TILE, i0 = blockIdx.y * TILE, rows = UP ? a.ffn : a.d;
    const wt *w[2] = { UP ? a.w1 + e : a.w2 + e, a.v1 + e };
    const uint32_t type[2] = { UP ? a.type1 : a.type2, a.type3 };
    T tile;
    if (i0 >= n)
        return;
    if (threadIdx.x < TILE) {
        const float *x = NULL;
        if (i0 + threadIdx.x < n) {
            uint32_t slot = a.order[begin + i0 + threadIdx.x];
            x = UP ? a.h + (size_t)(slot / a.slots) * a.ld : a.act + (size_t)slot * a.ffn_ld;
        }
        rows_x[threadIdx.x] = x;
    }
    __syncthreads();
    tile.run(s, rows_x, w, type, UP ? 2 : 1, row0, rows, (UP ? a.ld : a.ffn_ld) / GROUP);
    tile.each([&](uint32_t t, uint32_t r, float gate, float up) {
        if (i0 + t < n && row0 + r < rows) {
            uint32_t slot = a.order[begin + i0 + t];
            if (UP)
                a.act[(size_t)slot * a.ffn_ld + row0 + r] = activate(a.act_fn, gate) * up;
            else
                a.y[(size_t)slot * a.ld + row0 + r] = gate;
        }
    });
}

/* grid: (anything, n) */
__device__ __forceinline__ void combine(const combine_args &a)
{
    const uint32_t t = blockIdx.y, want = a.step->taps ? *a.want : 0;
    for (uint32_t i = blockIdx.x * blockDim.x + threadIdx.x; i < a.d; i += gridDim.x * blockDim.x) {
        float sum = 0;
        for (uint32_t j = 0; j < a.slots; j++) {
            size_t slot = (size_t)t * a.slots + j;
            float w = a.weight[slot], part = w == 0 ? 0 : w * a.y[slot * a.ld + i];
            sum += part;
            if (want & 1 << DBRX_TAP_EXPERT)
                a.tap_part[slot * a.ld + i] = part;
        }
        float *x = a.x + (size_t)t * a.ld + i;
        *x += sum;
        if (want & 1 << DBRX_TAP_RESIDUAL)
            a.tap_x[(size_t)t * a.ld + i] = *x;
    }
}

#endif
