/* backends/cuda/tensor.cuh -- a tile by tensor cores: activations and weights rounded to bfloat16, sums in
 * float32.  plain_tile (dense.cuh) is its twin in float32, mma_plain that of the instruction. */
#ifndef DBRX_CUDA_TENSOR_CUH
#define DBRX_CUDA_TENSOR_CUH

/* c[16][8] += a[16][16] b[16][8] by one warp.  Lane l has, with g = l / 4 and t = l % 4:
 * a: rows g and g + 8 at columns 2t, 2t + 1, then the same at columns 8 further; b: column g at
 * rows 2t, 2t + 1 and 8 further; c: row g at columns 2t, 2t + 1, then row g + 8. */
#ifdef __CUDACC__
__device__ __forceinline__ void mma(float *c, const uint32_t *a, const uint32_t *b)
{
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
                 "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
#else
struct mma_operands { uint32_t a[4], b[2]; };
inline void mma(float *c, const uint32_t *a, const uint32_t *b)
{
    mma_operands mine = { { a[0], a[1], a[2], a[3] }, { b[0], b[1] } }, all[WARP];
    emu::exchange(mine, all);
    const uint32_t g = threadIdx.x % WARP / 4, t = threadIdx.x % 4;
    for (uint32_t i = 0; i < 4; i++) {
        const uint32_t row = g + i / 2 * 8, col = 2 * t + i % 2;
        for (uint32_t k = 0; k < 16; k++) {
            uint32_t x = all[row % 8 * 4 + k % 8 / 2].a[row / 8 + k / 8 * 2] >> 16 * (k % 2);
            uint32_t y = all[col * 4 + k % 8 / 2].b[k / 8] >> 16 * (k % 2);
            c[i] += bf16_float(x & 0xffff) * bf16_float(y & 0xffff);
        }
    }
}
#endif

__device__ __forceinline__ uint32_t two_bf16(float low, float high)
{
    return float_bf16(low) | (uint32_t)float_bf16(high) << 16;
}

/* Eight warps: four of 16 tokens, two of 32 rows each */
struct tensor_tile {
    enum { WORDS = GROUP / 2, PITCH = WORDS + 4, COLS = 4 };   /* a row: 20 words, lanes in different banks */
    struct shared { uint32_t x[TILE][PITCH], w[2][TILE][PITCH]; };
    float sum[2][COLS][4];

    __device__ __forceinline__
    void run(shared *s, const float *const *rows_x, const wt *const *w, const uint32_t *type, uint32_t n_w,
             uint32_t row0, uint32_t rows, uint32_t groups)
    {
        const uint32_t warp = threadIdx.x / WARP, g = threadIdx.x % WARP / 4, t = threadIdx.x % 4;
        const uint32_t token = warp % 4 * 16 + g, first = warp / 4 * 32 + g;
        for (uint32_t m = 0; m < 2; m++)
            for (uint32_t j = 0; j < COLS; j++)
                for (uint32_t i = 0; i < 4; i++)
                    sum[m][j][i] = 0;
        for (uint32_t at = 0; at < groups; at++) {
            for (uint32_t i = threadIdx.x; i < TILE * WORDS; i += TILE_THREADS) {
                const float *x = rows_x[i / WORDS];
                const size_t k = (size_t)at * GROUP + i % WORDS * 2;
                s->x[i / WORDS][i % WORDS] = x ? two_bf16(x[k], x[k + 1]) : 0;
            }
            if (threadIdx.x < TILE * n_w) {
                uint32_t m = threadIdx.x / TILE, r = threadIdx.x % TILE;
                float v[GROUP];
                if (row0 + r < rows)
                    load_any(*w[m], type[m], row0 + r, groups, at, v);
                for (uint32_t i = 0; i < WORDS; i++)
                    s->w[m][r][i] = row0 + r < rows ? two_bf16(v[2 * i], v[2 * i + 1]) : 0;
            }
            __syncthreads();
            for (uint32_t k = 0; k < WORDS; k += 8) {          /* 16 columns */
                const uint32_t a[4] = { s->x[token][k + t], s->x[token + 8][k + t], s->x[token][k + t + 4],
                                        s->x[token + 8][k + t + 4] };
                for (uint32_t m = 0; m < n_w; m++)
                    for (uint32_t j = 0; j < COLS; j++) {
                        const uint32_t b[2] = { s->w[m][first + 8 * j][k + t], s->w[m][first + 8 * j][k + t + 4] };
                        mma(sum[m][j], a, b);
                    }
            }
            __syncthreads();
        }
    }

    template <class F> __device__ __forceinline__ void each(F f)
    {
        const uint32_t warp = threadIdx.x / WARP, g = threadIdx.x % WARP / 4, t = threadIdx.x % 4;
        for (uint32_t j = 0; j < COLS; j++)
            for (uint32_t i = 0; i < 4; i++)
                f(warp % 4 * 16 + g + i / 2 * 8, warp / 4 * 32 + 8 * j + 2 * t + i % 2, sum[0][j][i], sum[1][j][i]);
    }
};
static_assert(sizeof(tensor_tile::shared) <= sizeof(plain_tile::shared), "both fit into what the host asks for");
static_assert(TILE == 64 && TILE_THREADS == 256, "tensor_tile's warps are laid out for this");

#endif
