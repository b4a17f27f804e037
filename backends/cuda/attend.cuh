/* backends/cuda/attend.cuh -- clip, rotation and the KV cache; attention over it.
 *
 * A block of attend takes QUERIES of one KV head's queries (a query is a token's head; those of
 * one token come together) and a part of the positions, KEYS at a time: scores by one thread a
 * position, then a running softmax, then the weighted values by one thread a dimension.  With
 * more than one part (split-K: one token, long context) merge puts the parts together. */
#ifndef DBRX_CUDA_ATTEND_CUH
#define DBRX_CUDA_ATTEND_CUH

#include "backends/cuda/base.cuh"

constexpr uint32_t DIMS = MAX_HEAD / KEYS;

/* grid: n tokens */
__device__ __forceinline__ void rope(const rope_args &a)
{
    const uint32_t t = blockIdx.x, pos = a.step->pos + t, half = a.head / 2, width = a.kv_heads * a.head;
    float *x = a.qkv + (size_t)t * (a.heads + 2 * a.kv_heads) * a.head;
    for (uint32_t i = threadIdx.x; i < (a.heads + 2 * a.kv_heads) * half; i += blockDim.x) {
        uint32_t h = i / half, at = i % half;
        float *p = x + (size_t)h * a.head + at, u = p[0], v = p[half];
        if (a.clip > 0) {                  /* comparisons let a NaN through */
            u = u > a.clip ? a.clip : u < -a.clip ? -a.clip : u;
            v = v > a.clip ? a.clip : v < -a.clip ? -a.clip : v;
        }
        if (h < a.heads + a.kv_heads) {
            float angle = (float)pos * a.inv_freq[at], c = cosf(angle), s = sinf(angle), w = u;
            u = w * c - v * s;
            v = v * c + w * s;
        }
        if (h < a.heads) {
            p[0] = u;
            p[half] = v;
        } else {
            uint32_t kv = h - a.heads, key = kv < a.kv_heads;
            size_t to = (size_t)pos * width + (size_t)(key ? kv : kv - a.kv_heads) * a.head + at;
            kv_put(key ? a.k : a.v, a.type, to, u);
            kv_put(key ? a.k : a.v, a.type, to + half, v);
        }
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

template <int TYPE> __device__ __forceinline__
float key_dot(const unsigned char *k, size_t at, const float *q, uint32_t head)
{
    float sum = 0, v[8];
    uint32_t i = 0;
    if (head % 8 == 0)
        for (; i < head; i += 8) {
            kv_get8<TYPE>(k, at + i, v);
            for (int j = 0; j < 8; j++)
                sum += q[i + j] * v[j];
        }
    for (; i < head; i++)
        sum += q[i] * kv_get<TYPE>(k, at + i);
    return sum;
}

/* what a block keeps in shared memory; q[QUERIES][head] follows */
struct attend_shared {
    float score[QUERIES][KEYS], max[QUERIES], sum[QUERIES], factor[QUERIES];
};

static_assert(sizeof(attend_shared) == ATTEND_SHARED(0), "the host asks for what attend takes");

/* grid: (groups of QUERIES queries of n tokens, kv_heads, splits); KEYS threads */
template <int TYPE> __device__ __forceinline__ void attend(const attend_args &a)
{
    SHARED(shared);
    attend_shared *s = (attend_shared *)shared;
    float *q = (float *)(s + 1);
    const uint32_t group = a.heads / a.kv_heads, kv = blockIdx.y, pos = a.step->pos;
    const uint32_t first = blockIdx.x * QUERIES, all = a.n * group;
    const uint32_t n = all - first < QUERIES ? all - first : QUERIES;
    const size_t width = (size_t)a.kv_heads * a.head;
    const float scale = 1 / sqrtf((float)a.head);
    float out[DIMS][QUERIES];

    /* positions that any of these queries sees, this block's part of them in whole KEYS */
    const uint32_t len = pos + (first + n - 1) / group + 1;
    const uint32_t part = ((len + a.splits - 1) / a.splits + KEYS - 1) / KEYS * KEYS;
    const uint32_t begin = blockIdx.z * part, end = len - begin < part ? len : begin + part;

    for (uint32_t i = threadIdx.x; i < n * a.head; i += KEYS) {
        uint32_t r = first + i / a.head;
        q[i] = a.q[(size_t)(r / group) * a.ldq + (size_t)(kv * group + r % group) * a.head + i % a.head] * scale;
    }
    if (threadIdx.x < QUERIES) {
        s->max[threadIdx.x] = -INFINITY;
        s->sum[threadIdx.x] = 0;
    }
    for (uint32_t d = 0; d < DIMS; d++)
        for (uint32_t r = 0; r < QUERIES; r++)
            out[d][r] = 0;
    __syncthreads();

    for (uint32_t j0 = begin; j0 < len && j0 < end; j0 += KEYS) {
        const uint32_t j = j0 + threadIdx.x, keys = end - j0 < KEYS ? end - j0 : KEYS;
        for (uint32_t r = 0; r < n; r++) {
            uint32_t sees = pos + (first + r) / group + 1;
            s->score[r][threadIdx.x] = j < end && j < sees
                ? key_dot<TYPE>(a.k, (size_t)j * width + (size_t)kv * a.head, q + (size_t)r * a.head, a.head)
                : -INFINITY;
        }
        __syncthreads();
        for (uint32_t r = threadIdx.x / WARP; r < n; r += KEYS / WARP) {    /* a warp a query */
            float top = -INFINITY, sum = 0;
            for (uint32_t i = threadIdx.x % WARP; i < KEYS; i += WARP) {
                float v = s->score[r][i];
                top = v > top || v != v ? v : top;
            }
            top = warp_max(top);
            float old = s->max[r], now = old > top ? old : top;
            for (uint32_t i = threadIdx.x % WARP; i < KEYS; i += WARP) {
                float p = s->score[r][i] == -INFINITY ? 0 : expf(s->score[r][i] - now);
                s->score[r][i] = p;
                sum += p;
            }
            sum = warp_sum(sum);
            __syncwarp();
            if (threadIdx.x % WARP == 0) {
                float f = old == -INFINITY ? 0 : expf(old - now);
                s->factor[r] = f;
                s->max[r] = now;
                s->sum[r] = s->sum[r] * f + sum;
            }
        }
        __syncthreads();
        for (uint32_t d = 0; d < DIMS; d++) {
            uint32_t i = d * KEYS + threadIdx.x;
            if (i >= a.head)
                break;
            for (uint32_t r = 0; r < QUERIES; r++)
                out[d][r] *= r < n ? s->factor[r] : 0;
            for (uint32_t k = 0; k < keys; k++) {
                float v = kv_get<TYPE>(a.v, (size_t)(j0 + k) * width + (size_t)kv * a.head + i);
                for (uint32_t r = 0; r < QUERIES; r++)
                    if (r < n && s->score[r][k] != 0)     /* 0 * NaN of what it does not see */
                        out[d][r] += s->score[r][k] * v;
            }
        }
        __syncthreads();
    }

    for (uint32_t r = 0; r < n; r++) {
        uint32_t t = (first + r) / group, h = kv * group + (first + r) % group;
        float *part_of = a.part + (((size_t)t * a.heads + h) * a.splits + blockIdx.z) * (a.head + 2);
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
}

/* grid: (heads, n) */
__device__ __forceinline__ void merge(const attend_args &a)
{
    const uint32_t h = blockIdx.x, t = blockIdx.y;
    const float *part = a.part + ((size_t)t * a.heads + h) * a.splits * (a.head + 2);
    float top = -INFINITY, sum = 0;
    for (uint32_t s = 0; s < a.splits; s++) {
        float m = part[(size_t)s * (a.head + 2) + 1];
        top = m > top || m != m ? m : top;
    }
    for (uint32_t s = 0; s < a.splits; s++) {
        const float *p = part + (size_t)s * (a.head + 2);
        sum += p[0] == 0 ? 0 : p[0] * expf(p[1] - top);
    }
    for (uint32_t i = threadIdx.x; i < a.head; i += blockDim.x) {
        float out = 0;
        for (uint32_t s = 0; s < a.splits; s++) {
            const float *p = part + (size_t)s * (a.head + 2);
            out += p[0] == 0 ? 0 : p[2 + i] * expf(p[1] - top);
        }
        a.out[(size_t)t * a.ldo + (size_t)h * a.head + i] = out / sum;
    }
}

#endif
