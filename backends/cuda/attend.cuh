/* backends/cuda/attend.cuh -- clip, rotation and the KV cache; attention over it.
 *
 * A block of attend takes QUERIES of one KV head's queries (a query is a token's head; those of
 * one token come together) and a part of the positions, KEYS at a time: scores by one thread a
 * position, then a running softmax, then the weighted values, a warp a quarter of the positions.
 * With more than one part (split-K: few tokens) the last block to be done merges the parts. */
#ifndef DBRX_CUDA_ATTEND_CUH
#define DBRX_CUDA_ATTEND_CUH

#include "backends/cuda/base.cuh"

constexpr uint32_t DIMS = MAX_HEAD / KEYS;

/* (u, v): dimensions i % (head / 2) and half a head further of head i / (head / 2) of token t's row of qkv */
__device__ __forceinline__ void rotate(const rope_args &a, uint32_t t, uint32_t i, float u, float v)
{
    const uint32_t half = a.head / 2, h = i / half, at = i % half, pos = a.step->pos + t, width = a.kv_heads * a.head;
    if (a.clip > 0) {                      /* comparisons let a NaN through */
        u = u > a.clip ? a.clip : u < -a.clip ? -a.clip : u;
        v = v > a.clip ? a.clip : v < -a.clip ? -a.clip : v;
    }
    if (h < a.heads + a.kv_heads) {
        float angle = (float)pos * a.inv_freq[at], c = cosf(angle), s = sinf(angle), w = u;
        u = w * c - v * s;
        v = v * c + w * s;
    }
    if (h < a.heads) {
        float *p = a.qkv + (size_t)t * (a.heads + 2 * a.kv_heads) * a.head + (size_t)h * a.head + at;
        p[0] = u;
        p[half] = v;
    } else {
        uint32_t kv = h - a.heads, key = kv < a.kv_heads;
        size_t to = (size_t)pos * width + (size_t)(key ? kv : kv - a.kv_heads) * a.head + at;
        kv_put(key ? a.k : a.v, a.type, to, u);
        kv_put(key ? a.k : a.v, a.type, to + half, v);
    }
}

/* grid: n tokens */
__device__ __forceinline__ void rope(const rope_args &a)
{
    const uint32_t half = a.head / 2;
    const float *x = a.qkv + (size_t)blockIdx.x * (a.heads + 2 * a.kv_heads) * a.head;
    for (uint32_t i = threadIdx.x; i < (a.heads + 2 * a.kv_heads) * half; i += blockDim.x) {
        const float *p = x + (size_t)(i / half) * a.head + i % half;
        rotate(a, blockIdx.x, i, p[0], p[half]);
    }
}

/* a KV cache's elements in another of its types */
__device__ __forceinline__ void convert(const convert_args &a)
{
    for (uint64_t i = (uint64_t)blockIdx.x * blockDim.x + threadIdx.x; i < a.n; i += (uint64_t)gridDim.x * blockDim.x) {
        float f = a.from_type == DBRX_F32 ? kv_get<DBRX_F32>(a.from, i)
                : a.from_type == DBRX_F16 ? kv_get<DBRX_F16>(a.from, i)
                : a.from_type == DBRX_BF16 ? kv_get<DBRX_BF16>(a.from, i) : kv_get<KV_FP8>(a.from, i);
        kv_put(a.to, a.to_type, i, f);
    }
}

/* sum[QUERIES] += q's rows, `head` apart, with the key at `at`: it is read once */
template <int TYPE> __device__ __forceinline__
void key_dots(const unsigned char *k, size_t at, const float *q, uint32_t head, uint32_t n, float *sum)
{
    uint32_t i = 0;
    float v[8];
    if (head % 8 == 0)
        for (; i < head; i += 8) {
            kv_get8<TYPE>(k, at + i, v);
            for (uint32_t r = 0; r < QUERIES; r++)
                for (int j = 0; j < 8; j++)
                    sum[r] += q[r * head + i + j] * v[j];
        }
    for (; i < head; i++) {
        v[0] = kv_get<TYPE>(k, at + i);
        for (uint32_t r = 0; r < n; r++)
            sum[r] += q[r * head + i] * v[0];
    }
}

/* what a block keeps in shared memory; q[QUERIES][head] follows */
struct attend_shared {
    float score[QUERIES][KEYS], max[QUERIES], sum[QUERIES], factor[QUERIES];
    float part[KEYS / WARP][QUERIES][KEYS];            /* each warp's sum of values          */
};

static_assert(sizeof(attend_shared) == ATTEND_SHARED(0), "the host asks for what attend takes");

/* Parts of the positions 0 .. len that hold any: whole KEYS each, one at least */
struct parts { uint32_t each, n; };
__device__ __forceinline__ parts cut(uint32_t len, uint32_t splits)
{
    const uint32_t each = ((len + splits - 1) / splits + KEYS - 1) / KEYS * KEYS;
    return { each, (len + each - 1) / each };
}

/* out of the parts of one query */
__device__ __forceinline__ void merge(const attend_args &a, uint32_t t, uint32_t h, uint32_t n)
{
    const float *part = a.part + ((size_t)t * a.heads + h) * a.splits * (a.head + 2);
    float top = -INFINITY, sum = 0;
    for (uint32_t s = 0; s < n; s++) {
        float m = __ldcg(&part[(size_t)s * (a.head + 2) + 1]);
        top = m > top || m != m ? m : top;
    }
    for (uint32_t s = 0; s < n; s++) {
        const float *p = part + (size_t)s * (a.head + 2), all = __ldcg(&p[0]);
        sum += all == 0 ? 0 : all * expf(__ldcg(&p[1]) - top);
    }
    for (uint32_t i = threadIdx.x; i < a.head; i += blockDim.x) {
        float out = 0;
        for (uint32_t s = 0; s < n; s++) {
            const float *p = part + (size_t)s * (a.head + 2);
            out += __ldcg(&p[0]) == 0 ? 0 : __ldcg(&p[2 + i]) * expf(__ldcg(&p[1]) - top);
        }
        a.out[(size_t)t * a.ldo + (size_t)h * a.head + i] = out / sum;
    }
}

/* grid: (groups of QUERIES queries of n tokens, kv_heads, splits); KEYS threads */
template <int TYPE> __device__ __forceinline__ void attend(const attend_args &a)
{
    SHARED(shared);
    attend_shared *s = (attend_shared *)shared;
    float *q = (float *)(s + 1);
    const uint32_t group = a.heads / a.kv_heads, kv = blockIdx.y, pos = a.step->pos;
    const uint32_t first = blockIdx.x * QUERIES, all = a.n * group;
    const uint32_t n = all - first < QUERIES ? all - first : QUERIES, warp = threadIdx.x / WARP, lane = threadIdx.x % WARP;
    const size_t width = (size_t)a.kv_heads * a.head;
    const float scale = 1 / sqrtf((float)a.head);
    float out[DIMS][QUERIES];

    /* positions that any of these queries sees, and this block's part of them */
    const uint32_t len = pos + (first + n - 1) / group + 1;
    const parts cuts = cut(len, a.splits);
    const uint32_t begin = blockIdx.z * cuts.each, end = len - begin < cuts.each ? len : begin + cuts.each;
    if (blockIdx.z >= cuts.n)
        return;

    for (uint32_t i = threadIdx.x; i < QUERIES * a.head; i += KEYS) {
        uint32_t r = first + i / a.head;
        q[i] = i >= n * a.head ? 0
             : a.q[(size_t)(r / group) * a.ldq + (size_t)(kv * group + r % group) * a.head + i % a.head] * scale;
    }
    if (threadIdx.x < QUERIES) {
        s->max[threadIdx.x] = -INFINITY;
        s->sum[threadIdx.x] = 0;
        s->factor[threadIdx.x] = 0;
    }
    for (uint32_t d = 0; d < DIMS; d++)
        for (uint32_t r = 0; r < QUERIES; r++)
            out[d][r] = 0;
    __syncthreads();

    for (uint32_t j0 = begin; j0 < end; j0 += KEYS) {
        const uint32_t j = j0 + threadIdx.x, keys = end - j0 < KEYS ? end - j0 : KEYS;
        float dot[QUERIES] = { 0 };
        if (j < end)
            key_dots<TYPE>(a.k, (size_t)j * width + (size_t)kv * a.head, q, a.head, n, dot);
        for (uint32_t r = 0; r < QUERIES; r++)
            s->score[r][threadIdx.x] = j < end && r < n && j <= pos + (first + r) / group ? dot[r] : -INFINITY;
        __syncthreads();
        for (uint32_t r = warp; r < n; r += KEYS / WARP) {     /* a warp a query */
            float top = -INFINITY, sum = 0;
            for (uint32_t i = lane; i < KEYS; i += WARP) {
                float v = s->score[r][i];
                top = v > top || v != v ? v : top;
            }
            top = warp_max(top);
            float old = s->max[r], now = old > top ? old : top;
            for (uint32_t i = lane; i < KEYS; i += WARP) {
                float p = s->score[r][i] == -INFINITY ? 0 : expf(s->score[r][i] - now);
                s->score[r][i] = p;
                sum += p;
            }
            sum = warp_sum(sum);
            __syncwarp();
            if (lane == 0) {
                float f = old == -INFINITY ? 0 : expf(old - now);
                s->factor[r] = f;
                s->max[r] = now;
                s->sum[r] = s->sum[r] * f + sum;
            }
        }
        __syncthreads();
        UNROLL
        for (uint32_t d = 0; d < DIMS && d * KEYS < a.head; d++) {     /* KEYS dimensions: a lane four, a warp every */
            const uint32_t i = d * KEYS + 4 * lane;                    /* fourth position                           */
            float sum[QUERIES][4] = { { 0 } };
            for (uint32_t k = warp; k < keys && i < a.head; k += KEYS / WARP) {
                float v[4];
                kv_get4<TYPE>(a.v, (size_t)(j0 + k) * width + (size_t)kv * a.head + i, a.head - i, a.head, v);
                for (uint32_t r = 0; r < QUERIES; r++)
                    if (r < n && s->score[r][k] != 0)      /* 0 * NaN of what it does not see */
                        for (int c = 0; c < 4; c++)
                            sum[r][c] += s->score[r][k] * v[c];
            }
            for (uint32_t r = 0; r < QUERIES; r++)
                for (int c = 0; c < 4; c++)
                    s->part[warp][r][4 * lane + c] = sum[r][c];
            __syncthreads();
            for (uint32_t r = 0; r < QUERIES; r++) {
                float all_warps = 0;
                for (uint32_t w = 0; w < KEYS / WARP; w++)
                    all_warps += s->part[w][r][threadIdx.x];
                out[d][r] = out[d][r] * s->factor[r] + all_warps;
            }
            __syncthreads();
        }
    }

    UNROLL
    for (uint32_t r = 0; r < QUERIES; r++) {
        if (r >= n)
            break;
        uint32_t t = (first + r) / group, h = kv * group + (first + r) % group;
        float *part_of = a.part + (((size_t)t * a.heads + h) * a.splits + blockIdx.z) * (a.head + 2);
        UNROLL
        for (uint32_t d = 0; d < DIMS; d++) {
            uint32_t i = d * KEYS + threadIdx.x;
            if (i < a.head && a.splits == 1)
                a.out[(size_t)t * a.ldo + (size_t)h * a.head + i] = out[d][r] / s->sum[r];
            else if (i < a.head)
                part_of[2 + i] = out[d][r];
        }
        if (a.splits > 1 && threadIdx.x == 0) {
            part_of[0] = s->sum[r];
            part_of[1] = s->max[r];
        }
    }
    if (a.splits == 1 || !last_of(a.count + blockIdx.y * gridDim.x + blockIdx.x, cuts.n))
        return;
    for (uint32_t r = 0; r < n; r++)
        merge(a, (first + r) / group, kv * group + (first + r) % group, cuts.n);
}

#endif
