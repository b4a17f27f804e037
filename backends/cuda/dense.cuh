/* backends/cuda/dense.cuh -- products with stored matrices, in float32.
 *
 * matvec: a few tokens.  A warp takes ROWS rows at a time; a lane decodes every 32nd group of
 * them and meets the token's values in shared memory.  Bound by reading the weights.
 * tiled: many tokens, TILE of them by TILE rows a block, whole groups staged in shared memory; in
 * float32, or by tensor cores (tensor.cuh). */
#ifndef DBRX_CUDA_DENSE_CUH
#define DBRX_CUDA_DENSE_CUH

#include "backends/cuda/weights.cuh"

/* A row of activations in shared memory, four floats of padding after each group: neighbouring
 * lanes read neighbouring groups, 16 bytes at a time, from different banks. */

__device__ __forceinline__ void stage_row(float *to, const float *x, uint32_t cols)
{
    for (uint32_t i = threadIdx.x; i < cols; i += blockDim.x)
        to[i / GROUP * PADDED + i % GROUP] = x[i];
    __syncthreads();
}

__device__ __forceinline__ float group_dot(const float *v, const float *x, float sum)
{
    for (int i = 0; i < GROUP; i++)
        sum += v[i] * x[i];
    return sum;
}

/* out[ROWS] = this warp's sums of rows row .. row+ROWS (those below `rows`) with the staged x */
template <int TYPE> __device__ __forceinline__
void rows_dot(const wt &w, uint32_t row, uint32_t rows, uint32_t groups, const float *x, float *out)
{
    for (uint32_t r = 0; r < ROWS; r++)
        out[r] = 0;
    for (uint32_t g = threadIdx.x % WARP; g < groups; g += WARP)
        for (uint32_t r = 0; r < ROWS; r++)
            if (row + r < rows) {
                float v[GROUP];
                Fmt<TYPE>::load(w, row + r, groups, g, v);
                out[r] = group_dot(v, x + (size_t)g * PADDED, out[r]);
            }
    for (uint32_t r = 0; r < ROWS; r++)
        out[r] = warp_sum(out[r]);
}

/* grid: (anything, n) */
template <int TYPE> __device__ __forceinline__ void matvec(const linear_args &a)
{
    SHARED(shared);
    float *x = (float *)shared, sum[ROWS];
    const uint32_t warps = blockDim.x / WARP, warp = threadIdx.x / WARP, t = blockIdx.y;
    stage_row(x, a.x + (size_t)t * a.w.cols, a.w.cols);
    for (uint32_t row = (blockIdx.x * warps + warp) * ROWS; row < a.w.rows; row += gridDim.x * warps * ROWS) {
        rows_dot<TYPE>(a.w.w, row, a.w.rows, a.w.cols / GROUP, x, sum);
        if (threadIdx.x % WARP == 0)
            for (uint32_t r = 0; r < ROWS; r++)
                if (row + r < a.w.rows) {
                    float *y = a.y + (size_t)t * a.ldy + row + r;
                    *y = a.add ? *y + sum[r] : sum[r];
                }
    }
}

/* ---- tiles ---- */

constexpr uint32_t STRIDE = GROUP + 1;     /* neighbouring rows in different banks */

/* TILE tokens by TILE rows of up to two matrices in float32; each thread EACH by EACH of them */
struct plain_tile {
    struct shared { float x[TILE][STRIDE], w[2][TILE][STRIDE]; };
    float sum[2][EACH][EACH];

    /* x[TILE tokens] times rows row0 .. of w[0] and, if there is one, w[1].  rows_x: where each
     * token's row begins, or NULL for none. */
    __device__ __forceinline__
    void run(shared *s, const float *const *rows_x, const wt *const *w, const uint32_t *type, uint32_t n_w,
             uint32_t row0, uint32_t rows, uint32_t groups)
    {
        const uint32_t tx = threadIdx.x % (TILE / EACH), ty = threadIdx.x / (TILE / EACH);
        for (uint32_t m = 0; m < 2; m++)
            for (uint32_t i = 0; i < EACH; i++)
                for (uint32_t j = 0; j < EACH; j++)
                    sum[m][i][j] = 0;
        for (uint32_t g = 0; g < groups; g++) {
            for (uint32_t i = threadIdx.x; i < TILE * GROUP; i += TILE_THREADS) {
                const float *x = rows_x[i / GROUP];
                s->x[i / GROUP][i % GROUP] = x ? x[(size_t)g * GROUP + i % GROUP] : 0;
            }
            if (threadIdx.x < TILE * n_w) {
                uint32_t m = threadIdx.x / TILE, r = threadIdx.x % TILE;
                float v[GROUP];
                if (row0 + r < rows)
                    load_any(*w[m], type[m], row0 + r, groups, g, v);
                for (int i = 0; i < GROUP; i++)
                    s->w[m][r][i] = row0 + r < rows ? v[i] : 0;
            }
            __syncthreads();
            for (uint32_t m = 0; m < n_w; m++)
                for (int k = 0; k < GROUP; k++)
                    for (uint32_t i = 0; i < EACH; i++)
                        for (uint32_t j = 0; j < EACH; j++)
                            sum[m][i][j] += s->x[ty + i * (TILE / EACH)][k] * s->w[m][tx + j * (TILE / EACH)][k];
            __syncthreads();
        }
    }

    /* f(token, row, sum of w[0], sum of w[1]) for what this thread has */
    template <class F> __device__ __forceinline__ void each(F f)
    {
        const uint32_t tx = threadIdx.x % (TILE / EACH), ty = threadIdx.x / (TILE / EACH);
        for (uint32_t i = 0; i < EACH; i++)
            for (uint32_t j = 0; j < EACH; j++)
                f(ty + i * (TILE / EACH), tx + j * (TILE / EACH), sum[0][i][j], sum[1][i][j]);
    }
};
static_assert(sizeof(plain_tile::shared) + TILE * sizeof(void *) == TILE_SHARED, "the host asks for what a tile takes");

#include "backends/cuda/tensor.cuh"

/* grid: (tiles of rows, tiles of tokens) */
template <class T> __device__ __forceinline__ void tiled(const linear_args &a)
{
    SHARED(shared);
    typename T::shared *s = (typename T::shared *)shared;
    const float **rows_x = (const float **)(s + 1);
    const uint32_t row0 = blockIdx.x * TILE, t0 = blockIdx.y * TILE;
    const wt *w = &a.w.w;
    T tile;
    if (threadIdx.x < TILE)
        rows_x[threadIdx.x] = t0 + threadIdx.x < a.n ? a.x + (size_t)(t0 + threadIdx.x) * a.w.cols : NULL;
    __syncthreads();
    tile.run(s, rows_x, &w, &a.w.type, 1, row0, a.w.rows, a.w.cols / GROUP);
    tile.each([&](uint32_t t, uint32_t r, float sum, float) {
        if (t0 + t < a.n && row0 + r < a.w.rows) {
            float *y = a.y + (size_t)(t0 + t) * a.ldy + row0 + r;
            *y = a.add ? *y + sum : sum;
        }
    });
}

#endif
