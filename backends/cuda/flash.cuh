/* backends/cuda/flash.cuh -- attention of many tokens by tensor cores: operands rounded to bfloat16, the
 * running softmax and all sums in float32.  attend (attend.cuh) is what it approximates.
 *
 * A block takes FLASH queries of one KV head (as attend does: a token's come together), a warp
 * sixteen of them, and goes through the positions that any of them sees FLASH at a time.  Scores,
 * weights and output stay in registers: what a warp's product leaves in its lanes is what the next
 * one wants there. */
#ifndef DBRX_CUDA_FLASH_CUH
#define DBRX_CUDA_FLASH_CUH

#include "backends/cuda/tensor.cuh"

struct flash_shared { uint32_t k[FLASH][FLASH_HEAD / 2], v[FLASH][FLASH_HEAD / 2]; };
static_assert(sizeof(flash_shared) == FLASH_SHARED && FLASH_THREADS == FLASH / 16 * WARP, "what flash is laid out for");

__device__ __forceinline__ uint32_t *part_of(uint32_t (*rows)[FLASH_HEAD / 2], uint32_t row, uint32_t e)
{
    return rows[row] + 4 * (e ^ row % 8);
}

/* eight floats as bfloat16 to shared memory */
__device__ __forceinline__ void store_rounded(uint32_t *to, const float *v)
{
    const uint32_t u[4] = { two_bf16(v[0], v[1]), two_bf16(v[2], v[3]), two_bf16(v[4], v[5]), two_bf16(v[6], v[7]) };
    store16(to, u);
}

/* Of two bfloat16: all bits of those that are a NaN or an infinity */
__device__ __forceinline__ uint32_t endless_bits(uint32_t v)
{
    return ((v & 0x7f80) == 0x7f80 ? 0xffffu : 0) | ((v & 0x7f800000) == 0x7f800000 ? 0xffff0000u : 0);
}

/* over the four lanes that share a row of a product */
__device__ __forceinline__ float row_sum(float v)
{
    v += __shfl_xor_sync(0xffffffff, v, 1);
    return v + __shfl_xor_sync(0xffffffff, v, 2);
}

__device__ __forceinline__ float row_max(float v)
{
    v = fmaxf(v, __shfl_xor_sync(0xffffffff, v, 1));
    return fmaxf(v, __shfl_xor_sync(0xffffffff, v, 2));
}

/* NaN for each query of the warp, in each dimension where it sees a value that is no finite number: a
 * product of what it sees (1 or 0) with what is none.  The values are positions j0 .. end. */
__device__ __forceinline__
void spread_endless(flash_shared *s, float (*out)[4], const uint32_t *sees, uint32_t j0, uint32_t end, uint32_t head)
{
    const uint32_t lane = threadIdx.x % WARP;
    for (uint32_t k = 0; k < FLASH && j0 + k < end; k += 16) {
        uint32_t seen[4], b[4];
        for (uint32_t i = 0; i < 4; i++) {
            const uint32_t j = j0 + k + lane % 4 * 2 + i / 2 * 8, to = sees[i % 2];
            seen[i] = (j < to ? 0x3f80u : 0) | (j + 1 < to ? 0x3f800000u : 0);
        }
        UNROLL
        for (uint32_t d = 0; d < FLASH_HEAD / 8; d += 2)
            if (8 * d < head) {
                float count[2][4] = { { 0 } };
                load_turned(b, part_of(s->v, k + lane % 16, d + lane / 16));
                for (uint32_t i = 0; i < 4; i++)
                    b[i] = endless_bits(b[i]) & 0x3f803f80;
                mma(count[0], seen, b);
                mma(count[1], seen, b + 2);
                for (uint32_t i = 0; i < 8; i++)
                    if (count[i / 4][i % 4] > 0)
                        out[d + i / 4][i % 4] = __uint_as_float(0x7fc00000);
            }
    }
}

/* grid: (groups of FLASH queries of n tokens, kv_heads); head: a multiple of 16, FLASH_HEAD at most */
template <int TYPE> __device__ __forceinline__ void flash(const attend_args &a)
{
    SHARED(shared);
    flash_shared *s = (flash_shared *)shared;
    const uint32_t group = a.heads / a.kv_heads, kv = blockIdx.y, pos = a.step->pos, all = a.n * group;
    const uint32_t first = (gridDim.x - 1 - blockIdx.x) * FLASH;       /* the longest begin first */
    const uint32_t lane = threadIdx.x % WARP, row0 = threadIdx.x / WARP * 16, eighths = a.head / 8;
    const uint32_t last = (first + FLASH < all ? first + FLASH : all) - 1, len = pos + last / group + 1;
    const size_t width = (size_t)a.kv_heads * a.head;
    const float scale = 1 / sqrtf((float)a.head);
    uint32_t q[FLASH_HEAD / 16][4], sees[2];           /* sees: positions of rows g and g + 8 */
    float out[FLASH_HEAD / 8][4], top[2] = { -INFINITY, -INFINITY }, sum[2] = { 0, 0 }, v[8];

    for (uint32_t i = threadIdx.x; i < FLASH * eighths; i += FLASH_THREADS) {
        const uint32_t r = first + i / eighths < last ? first + i / eighths : last;
        const float *from = a.q + (size_t)(r / group) * a.ldq + (size_t)(kv * group + r % group) * a.head + i % eighths * 8;
        load_floats(from, v);
        load_floats(from + 4, v + 4);
        for (int j = 0; j < 8; j++)
            v[j] *= scale;
        store_rounded(part_of(s->k, i / eighths, i % eighths), v);
    }
    __syncthreads();
    UNROLL
    for (uint32_t k = 0; k < FLASH_HEAD / 16; k++)
        if (16 * k < a.head)
            load_matrices(q[k], part_of(s->k, row0 + lane % 16, 2 * k + lane / 16));
    for (uint32_t h = 0; h < 2; h++) {
        const uint32_t r = first + row0 + lane / 4 + 8 * h;
        sees[h] = pos + (r < last ? r : last) / group + 1;
    }
    for (uint32_t d = 0; d < FLASH_HEAD / 8; d++)
        for (uint32_t i = 0; i < 4; i++)
            out[d][i] = 0;

    for (uint32_t j0 = 0; j0 < len; j0 += FLASH) {
        float score[FLASH / 8][4];
        int endless = 0;                   /* a value is no finite number: 0 * NaN would reach who does not see it */
        __syncthreads();                   /* nobody reads the last ones any more */
        for (uint32_t i = threadIdx.x; i < FLASH * eighths; i += FLASH_THREADS) {
            const uint32_t j = i / eighths, e = i % eighths;
            const size_t at = (size_t)(j0 + j) * width + (size_t)kv * a.head + e * 8;
            const uint32_t none[4] = { 0, 0, 0, 0 };
            if (j0 + j < len) {
                kv_get8<TYPE>(a.k, at, v);
                store_rounded(part_of(s->k, j, e), v);
                kv_get8<TYPE>(a.v, at, v);
                store_rounded(part_of(s->v, j, e), v);
                for (int c = 0; c < 8; c++)
                    endless |= !(fabsf(v[c]) < 3.38e38f);      /* what bfloat16 has no number for, too */
            } else {
                store16(part_of(s->k, j, e), none);
                store16(part_of(s->v, j, e), none);
            }
        }
        endless = __syncthreads_or(endless);
        UNROLL
        for (uint32_t n = 0; n < FLASH / 8; n += 2) {
            for (uint32_t i = 0; i < 4; i++)
                score[n][i] = score[n + 1][i] = 0;
            UNROLL
            for (uint32_t k = 0; k < FLASH_HEAD / 16; k++)
                if (16 * k < a.head) {
                    uint32_t b[4];
                    load_matrices(b, part_of(s->k, 8 * n + lane / 16 * 8 + lane % 8, 2 * k + lane / 8 % 2));
                    mma(score[n], q[k], b);
                    mma(score[n + 1], q[k], b + 2);
                }
        }
        UNROLL
        for (uint32_t h = 0; h < 2; h++) {
            float now = top[h], all_p = 0;
            UNROLL
            for (uint32_t n = 0; n < FLASH / 8; n++)
                for (uint32_t i = 2 * h; i < 2 * h + 2; i++) {
                    const uint32_t j = j0 + 8 * n + 2 * (lane % 4) + i % 2;
                    score[n][i] = j < sees[h] ? score[n][i] : -INFINITY;
                    now = fmaxf(now, score[n][i]);     /* a NaN stays in its score, and so in the sum */
                }
            now = row_max(now);
            const float factor = top[h] == -INFINITY ? 0 : expf(top[h] - now);
            UNROLL
            for (uint32_t n = 0; n < FLASH / 8; n++)
                for (uint32_t i = 2 * h; i < 2 * h + 2; i++)
                    all_p += score[n][i] = score[n][i] == -INFINITY ? 0 : expf(score[n][i] - now);
            sum[h] = sum[h] * factor + row_sum(all_p);
            top[h] = now;
            UNROLL
            for (uint32_t d = 0; d < FLASH_HEAD / 8; d++)
                for (uint32_t i = 2 * h; i < 2 * h + 2; i++)
                    out[d][i] *= factor;
        }
        if (endless)
            spread_endless(s, out, sees, j0, len, a.head);
        UNROLL
        for (uint32_t k = 0; k < FLASH / 16; k++) {
            const float *p = score[2 * k], *next = score[2 * k + 1];
            const uint32_t w[4] = { two_bf16(p[0], p[1]), two_bf16(p[2], p[3]), two_bf16(next[0], next[1]),
                                    two_bf16(next[2], next[3]) };
            UNROLL
            for (uint32_t d = 0; d < FLASH_HEAD / 8; d += 2)
                if (8 * d < a.head) {
                    uint32_t b[4];
                    load_turned(b, part_of(s->v, 16 * k + lane % 16, d + lane / 16));
                    for (uint32_t i = 0; i < 4; i++)
                        b[i] = endless ? b[i] & ~endless_bits(b[i]) : b[i];
                    mma(out[d], w, b);
                    mma(out[d + 1], w, b + 2);
                }
        }
    }
    UNROLL
    for (uint32_t h = 0; h < 2; h++) {
        const uint32_t r = first + row0 + lane / 4 + 8 * h;
        if (r > last)
            continue;
        float *to = a.out + (size_t)(r / group) * a.ldo + (size_t)(kv * group + r % group) * a.head + lane % 4 * 2;
        UNROLL
        for (uint32_t d = 0; d < FLASH_HEAD / 8; d++)
            if (8 * d < a.head) {
                to[8 * d] = out[d][2 * h] / sum[h];
                to[8 * d + 1] = out[d][2 * h + 1] / sum[h];
            }
    }
}

#endif
