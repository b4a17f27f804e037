/* backends/cuda/tensor.cuh -- tiles by tensor cores: activations and weights rounded to bfloat16, sums in
 * float32.  What only a device has (mma, matrices out of shared memory, copies that go on beside
 * the arithmetic) stands here once, each with a plain twin for tests/cuda-emu.
 *
 * A block makes FAST tokens by FAST rows, FAST_COLS columns at a time, in two pairs of buffers: while
 * the warps multiply one, copies fill the next one's activations and each thread has its next
 * weights on their way in registers, stored as they are; they become bfloat16 on the way to shared
 * memory.  Rows there are 128 bytes, their eighths permuted by the row's number: neither writing
 * nor reading meets a bank twice. */
#ifndef DBRX_CUDA_TENSOR_CUH
#define DBRX_CUDA_TENSOR_CUH

#include "backends/cuda/weights.cuh"

#ifdef __CUDACC__
/* c[16][8] += a[16][16] b[16][8] by one warp.  Lane l has, with g = l / 4 and t = l % 4:
 * a: rows g and g + 8 at columns 2t, 2t + 1, then the same at columns 8 further; b: column g at
 * rows 2t, 2t + 1 and 8 further; c: row g at columns 2t, 2t + 1, then row g + 8. */
__device__ __forceinline__ void mma(float *c, const uint32_t *a, const uint32_t *b)
{
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
                 "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

__device__ __forceinline__ uint32_t shared_address(const void *p)
{
    return (uint32_t)__cvta_generic_to_shared(p);
}

/* Four matrices of eight rows of 16 bytes; lane l says where row l % 8 of matrix l / 8 is.  r[i] = word
 * l % 4 of row l / 4 of matrix i. */
__device__ __forceinline__ void load_matrices(uint32_t *r, const void *row)
{
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(shared_address(row)) : "memory");
}

/* The same, but a lane gets elements l / 4 of rows 2 (l % 4) and one further: what is read is turned */
__device__ __forceinline__ void load_turned(uint32_t *r, const void *row)
{
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(shared_address(row)) : "memory");
}

/* 16 bytes to shared memory, zeros instead if not `real`; there once copies_wait has come back */
__device__ __forceinline__ void copy16(void *to, const void *from, bool real)
{
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;"
                 :: "r"(shared_address(to)), "l"(__cvta_generic_to_global(from)), "r"(real ? 16 : 0) : "memory");
}

/* This thread's copies so far are done; others' after a barrier */
__device__ __forceinline__ void copies_wait()
{
    asm volatile("cp.async.wait_all;" ::: "memory");
}

__device__ __forceinline__ uint32_t two_bf16(float low, float high)
{
    uint32_t r;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(r) : "f"(high), "f"(low));
    return r;
}
#endif

/* ---- a tile ---- */

constexpr uint32_t ROW_WORDS = FAST_COLS / 2;

/* word 4 * eighth of a row in shared memory */
__device__ __forceinline__ uint32_t *eighth(uint32_t (*rows)[ROW_WORDS], uint32_t row, uint32_t e)
{
    return rows[row] + 4 * (e ^ row % 8);
}

/* 32 weights as bfloat16 */
template <int TYPE> __device__ __forceinline__
void pack(const typename Fmt<TYPE>::raw &r, uint32_t g, bool real, uint32_t *to)
{
    float scale[2], min[2], v[4];
    Fmt<TYPE>::scales(r, g, scale, min);
    UNROLL
    for (int i = 0; i < GROUP / 4; i++) {
        values<TYPE>(r, g, i, scale, min, v);
        to[2 * i] = real ? two_bf16(v[0], v[1]) : 0;
        to[2 * i + 1] = real ? two_bf16(v[2], v[3]) : 0;
    }
}

struct fast_shared {
    uint32_t x[2][FAST][ROW_WORDS], w[2][FAST][ROW_WORDS];
    const uint16_t *row[FAST];             /* where each token's activations begin           */
};
static_assert(sizeof(fast_shared) == FAST_SHARED && FAST_COLS == 2 * GROUP && FAST_THREADS == 2 * FAST, "what tiles are laid out for");

/* Eight warps: two of 64 tokens, four of 32 rows each.  BOTH: 64 rows of each of two matrices; a
 * warp has 16 of both, the first's in sum[.][0..1], the second's in sum[.][2..3]. */
template <int TYPE, bool BOTH> struct fast_tile {
    float sum[4][4][4];

    __device__ __forceinline__ void copy_x(fast_shared *s, uint32_t turn, uint32_t step, uint32_t groups)
    {
        UNROLL
        for (uint32_t i = threadIdx.x; i < FAST * 8; i += FAST_THREADS) {
            const bool real = 2 * step + i % 8 / 4 < groups;
            copy16(eighth(s->x[turn], i / 8, i % 8), s->row[i / 8] + (real ? step * FAST_COLS + i % 8 * 8 : 0), real);
        }
    }

    /* s->row is filled in, and seen by all; `tokens` of it count */
    __device__ __forceinline__
    void run(fast_shared *s, const wt &w1, const wt &w2, uint32_t row0, uint32_t rows, uint32_t groups, uint32_t tokens)
    {
        const uint32_t lane = threadIdx.x % WARP, warp = threadIdx.x / WARP, wt0 = warp % 2 * 64, wr0 = warp / 2 * 32;
        const uint32_t line = threadIdx.x / 2, which = threadIdx.x % 2, steps = (groups + 1) / 2;
        const wt &w = BOTH && line % 32 / 16 ? w2 : w1;
        uint32_t row = row0 + (BOTH ? line / 32 * 16 + line % 16 : line);
        typename Fmt<TYPE>::raw raw;
        row = row < rows ? row : rows - 1;
        for (uint32_t i = 0; i < 4; i++)
            for (uint32_t j = 0; j < 4; j++)
                for (uint32_t k = 0; k < 4; k++)
                    sum[i][j][k] = 0;
        copy_x(s, 0, 0, groups);
        Fmt<TYPE>::fetch(raw, w, row, groups, which < groups ? which : groups - 1);
        for (uint32_t step = 0; step < steps; step++) {
            const uint32_t turn = step % 2, g = 2 * step + which;
            uint32_t half[GROUP / 2];
            pack<TYPE>(raw, g, g < groups, half);
            for (uint32_t c = 0; c < 4; c++)
                store16(eighth(s->w[turn], line, 4 * which + c), half + 4 * c);
            copies_wait();
            __syncthreads();               /* this pair is full, and nobody reads the other any more */
            if (step + 1 < steps) {
                copy_x(s, turn ^ 1, step + 1, groups);
                Fmt<TYPE>::fetch(raw, w, row, groups, g + 2 < groups ? g + 2 : groups - 1);
            }
            UNROLL
            for (uint32_t k = 0; k < FAST_COLS / 16; k++) {
                uint32_t b[2][4];
                for (uint32_t j = 0; j < 2; j++)
                    load_matrices(b[j], eighth(s->w[turn], wr0 + 16 * j + lane / 16 * 8 + lane % 8, 2 * k + lane / 8 % 2));
                UNROLL
                for (uint32_t i = 0; i < 4; i++) {
                    uint32_t a[4];
                    if (wt0 + 16 * i >= tokens)
                        break;
                    load_matrices(a, eighth(s->x[turn], wt0 + 16 * i + lane % 16, 2 * k + lane / 16));
                    for (uint32_t j = 0; j < 4; j++)
                        mma(sum[i][j], a, b[j / 2] + j % 2 * 2);
                }
            }
        }
    }

    /* f(token, row, two sums of row and the next one[, the second matrix's]) */
    template <class F> __device__ __forceinline__ void each(F f)
    {
        const uint32_t lane = threadIdx.x % WARP, warp = threadIdx.x / WARP, g = lane / 4, t = lane % 4;
        UNROLL
        for (uint32_t i = 0; i < 4; i++)
            UNROLL
            for (uint32_t j = 0; j < (BOTH ? 2 : 4); j++)
                for (uint32_t h = 0; h < 2; h++)
                    f(warp % 2 * 64 + 16 * i + g + 8 * h, warp / 2 * (BOTH ? 16 : 32) + 8 * j + 2 * t, sum[i][j] + 2 * h,
                      sum[i][BOTH ? j + 2 : j] + 2 * h);
    }
};

/* grid: (tiles of tokens, tiles of rows): blocks that share weights run together */
template <int TYPE> __device__ __forceinline__ void fast_linear(const linear_args &a)
{
    SHARED(shared);
    fast_shared *s = (fast_shared *)shared;
    const uint32_t t0 = blockIdx.x * FAST, row0 = blockIdx.y * FAST, n = a.n - t0 < FAST ? a.n - t0 : FAST;
    fast_tile<TYPE, false> tile;
    if (threadIdx.x < FAST)
        s->row[threadIdx.x] = a.x16 + (size_t)(t0 + (threadIdx.x < n ? threadIdx.x : 0)) * a.w.cols;
    __syncthreads();
    tile.run(s, a.w.w, a.w.w, row0, a.w.rows, a.w.cols / GROUP, n);
    tile.each([&](uint32_t t, uint32_t r, const float *sum, const float *) {
        float *y = a.y + (size_t)(t0 + t) * a.ldy + row0 + r;
        for (uint32_t i = 0; i < 2; i++)
            if (t < n && row0 + r + i < a.w.rows)
                y[i] = a.add ? y[i] + sum[i] : sum[i];
    });
}

/* grid: (tiles of slots, tiles of rows, n_experts) */
template <int TYPE, bool UP> __device__ __forceinline__ void fast_expert(const expert_args &a)
{
    SHARED(shared);
    fast_shared *s = (fast_shared *)shared;
    const uint32_t e = blockIdx.z, begin = a.start[e] + blockIdx.x * FAST, end = a.start[e + 1];
    const uint32_t row0 = blockIdx.y * (UP ? FAST / 2 : FAST), rows = UP ? a.ffn : a.d, n = end - begin < FAST ? end - begin : FAST;
    fast_tile<TYPE, UP> tile;
    if (begin >= end)
        return;
    if (threadIdx.x < FAST) {
        const uint32_t slot = a.order[begin + (threadIdx.x < n ? threadIdx.x : 0)];
        s->row[threadIdx.x] = UP ? a.h16 + (size_t)(slot / a.slots) * a.ld : a.act16 + (size_t)slot * a.ffn_ld;
    }
    __syncthreads();
    tile.run(s, UP ? a.w1[e] : a.w2[e], UP ? a.v1[e] : a.w2[e], row0, rows, (UP ? a.ld : a.ffn_ld) / GROUP, n);
    tile.each([&](uint32_t t, uint32_t r, const float *gate, const float *up) {
        const uint32_t slot = t < n ? a.order[begin + t] : 0;
        for (uint32_t i = 0; i < 2; i++)
            if (t < n && row0 + r + i < rows) {
                if (UP)
                    a.act16[(size_t)slot * a.ffn_ld + row0 + r + i] = float_bf16(activate(a.act_fn, gate[i]) * up[i]);
                else
                    a.y[(size_t)slot * a.ld + row0 + r + i] = gate[i];
            }
    });
}

#endif
