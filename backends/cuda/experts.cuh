/* backends/cuda/experts.cuh -- the chosen experts.
 *
 * A *slot* is a token's j-th choice: slot t * slots + j.  For a few tokens every slot is a block
 * row of its own (up, down); for many, slots are sorted by expert first and each expert's go
 * through tiles together, however many they are (group, tiled_up, tiled_down).  Both leave
 * w2 (act(w1 h) * v1 h) of each slot in y, and combine adds them up in one order; for a few tokens
 * down does that, too. */
#ifndef DBRX_CUDA_EXPERTS_CUH
#define DBRX_CUDA_EXPERTS_CUH

#include "backends/cuda/dense.cuh"

/* One row where w1 and v1 are stored in different types */
__device__ __forceinline__ float any_dot(const wt &w, uint32_t type, uint32_t row, uint32_t groups, const float *x)
{
    float sum = 0, v[GROUP];
    for (uint32_t g = threadIdx.x % WARP; g < groups; g += WARP) {
        load_any(w, type, row, groups, g, v);
        for (int i = 0; i < GROUP; i++)
            sum += v[i] * x[(size_t)g * PADDED + i];
    }
    return warp_sum(sum);
}

/* grid: (anything, n * slots) */
template <int TYPE> __device__ __forceinline__ void expert_up(const expert_args &a)
{
    SHARED(shared);
    float *x = (float *)shared, *act = a.act + (size_t)blockIdx.y * a.ffn_ld;
    const uint32_t slot = blockIdx.y, e = a.expert[slot], groups = a.ld / GROUP;
    if (a.weight[slot] == 0)               /* it does not run */
        return;
    const wt w1 = a.w1[e], v1 = a.v1[e];
    auto stage = [&] { stage_row(x, a.h + (size_t)(slot / a.slots) * a.ld, a.ld, norming{ NULL, 0, 0 }, Fmt<TYPE>::SUMS); };
    if (a.type3 == TYPE) {
        pair_rows<TYPE>(a.ffn, groups, x, [&](uint32_t i) { return pair{ w1, v1, i, i }; }, stage,
                        [&](uint32_t i, const float *sum) { act[i] = activate(a.act_fn, sum[0]) * sum[1]; });
        return;
    }
    const span mine = block_span(a.ffn);
    stage();
    for (uint32_t i = mine.first + threadIdx.x / WARP; i < mine.end; i += blockDim.x / WARP) {
        float gate = any_dot(w1, TYPE, i, groups, x), up = any_dot(v1, a.type3, i, groups, x);
        if (threadIdx.x % WARP == 0)
            act[i] = activate(a.act_fn, gate) * up;
    }
}

/* x += the weighted sum of a token's slots, for elements first .. end; taps */
__device__ __forceinline__ void combine_span(const combine_args &a, uint32_t t, span s)
{
    const uint32_t want = a.step->taps ? *a.want : 0;
    for (uint32_t i = s.first + threadIdx.x; i < s.end; i += blockDim.x) {
        float sum = 0;
        for (uint32_t j = 0; j < a.slots; j++) {
            size_t slot = (size_t)t * a.slots + j;
            float w = a.weight[slot], part = w == 0 ? 0 : w * __ldcg(&a.y[slot * a.ld + i]);
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

/* Of the blocks that made the same elements of a token's slots the last one combines them.
 * grid: (anything, n * slots) */
template <int TYPE> __device__ __forceinline__ void expert_down(const expert_args &a)
{
    SHARED(shared);
    float *x = (float *)shared;
    const uint32_t slot = blockIdx.y, t = slot / a.slots, all = (a.d + 1) / 2;
    if (a.weight[slot] != 0) {
        const wt w2 = a.w2[a.expert[slot]];
        float *y = a.y + (size_t)slot * a.ld;
        pair_rows<TYPE>(all, a.ffn_ld / GROUP, x,
            [&](uint32_t i) { return pair{ w2, w2, i * PAIR, i * PAIR + 1 < a.d ? i * PAIR + 1 : a.d - 1 }; },
            [&] { stage_row(x, a.act + (size_t)slot * a.ffn_ld, a.ffn_ld, norming{ NULL, 0, 0 }, Fmt<TYPE>::SUMS); },
            [&](uint32_t i, const float *sum) {
                y[i * PAIR] = sum[0];
                if (i * PAIR + 1 < a.d)
                    y[i * PAIR + 1] = sum[1];
            });
    }
    if (!last_of(a.count + t * gridDim.x + blockIdx.x, a.slots))
        return;
    const span s = block_span(all);
    combine_span(a.combine, t, { s.first * PAIR, s.end * PAIR < a.d ? s.end * PAIR : a.d });
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
template <bool UP> __device__ __forceinline__ void tiled_expert(const expert_args &a)
{
    SHARED(shared);
    plain_tile::shared *s = (plain_tile::shared *)shared;
    const float **rows_x = (const float **)(s + 1);
    const uint32_t e = blockIdx.z, begin = a.start[e], n = a.start[e + 1] - begin;
    const uint32_t row0 = blockIdx.x * TILE, i0 = blockIdx.y * TILE, rows = UP ? a.ffn : a.d;
    const wt *w[2] = { UP ? a.w1 + e : a.w2 + e, a.v1 + e };
    const uint32_t type[2] = { UP ? a.type1 : a.type2, a.type3 };
    plain_tile tile;
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
    combine_span(a, blockIdx.y, block_span(a.d));
}

#endif
