/* backends/cuda/dense.cuh -- products with stored matrices, in float32.
 *
 * matvec: a few tokens, bound by reading the weights.  A warp takes PAIR rows at a time, a lane every
 * 32nd group of them, or two, and meets the token's values in shared memory: every value read
 * there serves both rows.  The first weights are asked for before anything else is, so that memory
 * is busy while the row is brought and normalised; a warp's next ones before its last sum is done.
 * tiled: many tokens, TILE of them by TILE rows a block, whole groups staged in shared memory.  Exact
 * rather than fast: tensor.cuh has what is fast. */
#ifndef DBRX_CUDA_DENSE_CUH
#define DBRX_CUDA_DENSE_CUH

#include "backends/cuda/attend.cuh"
#include "backends/cuda/weights.cuh"

/* A row of activations in shared memory, four floats after each group: neighbouring lanes read
 * neighbouring groups, 16 bytes at a time, from different banks; and two of the four are the sums
 * of the group's halves, for types that ask for them (Fmt::SUMS).  A float for each warp
 * follows. */
__device__ __forceinline__ void stage_row(float *to, const float *x, uint32_t cols, const norming &norm, bool sums)
{
    float *scratch = to + cols / GROUP * PADDED, v[4], mean = 0, var = 0;
    for (uint32_t i = threadIdx.x * 4; i < cols; i += blockDim.x * 4) {
        load_floats(x + i, v);
        for (int j = 0; j < 4; j++) {
            to[i / GROUP * PADDED + i % GROUP + j] = v[j];
            mean += v[j];                  /* beyond norm.d: zeros */
        }
    }
    if (norm.w) {                          /* a thread touches its own elements only */
        mean = block_sum(mean, scratch) / (float)norm.d;
        for (uint32_t i = threadIdx.x * 4; i < cols; i += blockDim.x * 4)
            for (int j = 0; j < 4; j++) {
                float d = to[i / GROUP * PADDED + i % GROUP + j] - mean;
                var += i + j < norm.d ? d * d : 0;
            }
        var = block_sum(var, scratch) / (float)norm.d;
        const float scale = 1 / sqrtf(var + norm.eps);
        for (uint32_t i = threadIdx.x * 4; i < cols; i += blockDim.x * 4) {
            load_floats(norm.w + i, v);
            for (int j = 0; j < 4; j++) {
                float *at = to + i / GROUP * PADDED + i % GROUP + j;
                *at = i + j < norm.d ? (*at - mean) * scale * v[j] : 0;
            }
        }
    }
    __syncthreads();
    for (uint32_t i = threadIdx.x; sums && i < cols / HALF_SUM; i += blockDim.x) {
        float *group = to + i / 2 * PADDED, sum = 0;
        for (uint32_t j = 0; j < HALF_SUM; j++)
            sum += group[i % 2 * HALF_SUM + j];
        group[GROUP + i % 2] = sum;
    }
    if (sums)
        __syncthreads();
}

/* Two rows, of one matrix or of two */
struct pair { wt a, b; uint32_t row_a, row_b; };

/* What a lane has read of a pair: groups at + lane and, of narrow types, 32 further */
template <int TYPE> struct pair_read {
    typedef Fmt<TYPE> F;
    enum { DEEP = sizeof(typename F::raw) <= 24 ? 2 : 1, STEP = DEEP * WARP };
    typename F::raw raw[DEEP][PAIR];

    __device__ __forceinline__ void fetch(const pair &p, uint32_t groups, uint32_t at)
    {
        UNROLL
        for (uint32_t k = 0; k < DEEP; k++) {          /* past the end: the last one again */
            uint32_t g = at + k * WARP + threadIdx.x % WARP;
            g = g < groups ? g : groups - 1;
            F::fetch(raw[k][0], p.a, p.row_a, groups, g);
            F::fetch(raw[k][1], p.b, p.row_b, groups, g);
        }
    }

    __device__ __forceinline__ void dot(const float *x, uint32_t groups, uint32_t at, float *out) const
    {
        UNROLL
        for (uint32_t k = 0; k < DEEP; k++) {
            const uint32_t g = at + k * WARP + threadIdx.x % WARP;
            if (g >= groups)
                continue;
            const float *of = x + (size_t)g * PADDED;
            float sum[PAIR][2] = { { 0, 0 }, { 0, 0 } };       /* of each half */
            UNROLL
            for (int i = 0; i < GROUP / 4; i++) {
                float v[4], q[4];
                load_floats(of + 4 * i, v);
                for (uint32_t r = 0; r < PAIR; r++) {
                    F::quad(raw[k][r], g, i, q);
                    for (int j = 0; j < 4; j++)
                        sum[r][i / 4] += q[j] * v[j];
                }
            }
            for (uint32_t r = 0; r < PAIR; r++) {
                float scale[2] = { 1, 1 }, min[2] = { 0, 0 };
                F::scales(raw[k][r], g, scale, min);
                if (F::SCALES == 2) {
                    for (int h = 0; h < 2; h++)
                        out[r] += scale[h] * F::UNIT * (sum[r][h] - F::BIAS * of[GROUP + h]) -
                                  (F::MINS > 0 ? min[h] * of[GROUP + h] : 0);
                } else {
                    const float x_sum = F::SUMS ? of[GROUP] + of[GROUP + 1] : 0;
                    out[r] += scale[0] * F::UNIT * (sum[r][0] + sum[r][1] - F::BIAS * x_sum) -
                              (F::MINS > 0 ? min[0] * x_sum : 0);
                }
            }
        }
    }
};

/* This block's of `all` pairs, one after another, so that what it made lies together */
struct span { uint32_t first, end; };
__device__ __forceinline__ span block_span(uint32_t all)
{
    const uint32_t each = (all + gridDim.x - 1) / gridDim.x, first = blockIdx.x * each;
    return { first < all ? first : all, first + each < all ? first + each : all };
}

/* done(i, sums of its rows), by one lane, for each pair of(i) of the block's span; stage() brings the
 * row of activations that they meet to x, and is what the block waits for. */
template <int TYPE, class OF, class STAGE, class DONE> __device__ __forceinline__
void pair_rows(uint32_t all, uint32_t groups, const float *x, OF of, STAGE stage, DONE done)
{
    const span mine = block_span(all);
    const uint32_t warps = blockDim.x / WARP;
    uint32_t i = mine.first + threadIdx.x / WARP;
    pair_read<TYPE> read;
    if (i < mine.end)
        read.fetch(of(i), groups, 0);
    stage();
    for (; i < mine.end; i += warps) {
        float sum[PAIR] = { 0, 0 };
        for (uint32_t at = 0; at < groups; at += read.STEP) {
            read.dot(x, groups, at, sum);
            if (at + read.STEP < groups)
                read.fetch(of(i), groups, at + read.STEP);
            else if (i + warps < mine.end)
                read.fetch(of(i + warps), groups, 0);
        }
        sum[0] = warp_sum(sum[0]);
        sum[1] = warp_sum(sum[1]);
        if (threadIdx.x % WARP == 0)
            done(i, sum);
    }
}

/* grid: (anything, n) */
template <int TYPE> __device__ __forceinline__ void matvec(const linear_args &a)
{
    SHARED(shared);
    float *x = (float *)shared;
    const uint32_t t = blockIdx.y, rows = a.w.rows, half = a.rope.head / 2;
    const bool rope = a.rope.heads;        /* then a pair is what a rotation turns */
    float *y = a.y + (size_t)t * a.ldy;
    auto first = [&](uint32_t i) { return rope ? i / half * a.rope.head + i % half : i * PAIR; };
    auto second = [&](uint32_t i) { return rope ? first(i) + half : i * PAIR + 1; };
    pair_rows<TYPE>(rope ? rows / 2 : (rows + 1) / 2, a.w.cols / GROUP, x,
        [&](uint32_t i) { return pair{ a.w.w, a.w.w, first(i), second(i) < rows ? second(i) : rows - 1 }; },
        [&] { stage_row(x, a.x + (size_t)t * a.w.cols, a.w.cols, a.norm, Fmt<TYPE>::SUMS); },
        [&](uint32_t i, const float *sum) {
            const uint32_t r = first(i);
            if (rope) {
                rotate(a.rope, t, i, sum[0], sum[1]);
                return;
            }
            y[r] = a.add ? y[r] + sum[0] : sum[0];
            if (r + 1 < rows)
                y[r + 1] = a.add ? y[r + 1] + sum[1] : sum[1];
        });
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

/* grid: (tiles of rows, tiles of tokens) */
__device__ __forceinline__ void tiled(const linear_args &a)
{
    SHARED(shared);
    plain_tile::shared *s = (plain_tile::shared *)shared;
    const float **rows_x = (const float **)(s + 1);
    const uint32_t row0 = blockIdx.x * TILE, t0 = blockIdx.y * TILE;
    const wt *w = &a.w.w;
    plain_tile tile;
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
