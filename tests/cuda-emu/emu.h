/* tests/cuda-emu/emu.h -- CUDA's words for a C++ compiler: a grid runs on the CPU, its blocks one after
 * another, the threads of a block as fibers on one thread of the system, so that barriers and
 * shuffles do what they do on a device.  Only what backends/cuda uses; blocks have one dimension.
 *
 * What a device would let pass is an error here: a barrier that not every thread of the block (or
 * lane of the warp) reaches, a 16-byte load that is not aligned, shared memory read before it is
 * written (it begins as NaN) or beyond what the launch asked for (with -fsanitize=address). */
#ifndef CUDA_EMU_H
#define CUDA_EMU_H

#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

extern "C" {
#include "backends/graph/dequant.h"
#include "backends/graph/kv.h"
}

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline __attribute__((always_inline))
#define __launch_bounds__(...)
#define __noinline__ __attribute__((noinline))

struct uint2 { unsigned int x, y; };
struct uint4 { unsigned int x, y, z, w; };
struct emu_dim { unsigned int x, y, z; };

namespace emu {

enum { MAX_THREADS = 1024, LANES = 32, SLOT = 64, COPIES = 32 };

struct warp {
    unsigned arrived, generation, alive;
    alignas(16) unsigned char slot[2][LANES][SLOT];
};

/* a thread's copies that nobody has waited for */
struct copies { unsigned n; void *to[COPIES]; const void *from[COPIES]; };

/* the block that runs now */
struct block {
    emu_dim index, grid, dim;
    unsigned thread;                       /* which fiber runs                               */
    unsigned arrived, generation, alive;
    unsigned char *shared;
    int any[2];                            /* __syncthreads_or of this generation and the last */
    struct warp warp[MAX_THREADS / LANES];
    struct copies copy[MAX_THREADS];
};
extern __thread struct block *now;         /* not thread_local: no wrapper around every look at it */

[[noreturn]] void die(const char *what);
void block_barrier();
/* All lanes of the caller's warp meet. */
void warp_barrier();

/* Lays down each lane's value for the others of its warp; they lie side by side, valid until the next
 * exchange.  All lanes must call it. */
template <class T> inline const T *exchange(const T &v, T *all)
{
    static_assert(sizeof(T) <= SLOT, "a slot holds SLOT bytes");
    warp &w = now->warp[now->thread / LANES];
    unsigned g = w.generation & 1;
    memcpy(w.slot[g][now->thread % LANES], &v, sizeof v);
    warp_barrier();
    for (int i = 0; i < LANES; i++)
        memcpy(&all[i], w.slot[g][i], sizeof v);
    return all;
}

/* One other lane's value */
template <class T> inline T from_lane(T v, unsigned lane)
{
    warp &w = now->warp[now->thread / LANES];
    unsigned g = w.generation & 1;
    memcpy(w.slot[g][now->thread % LANES], &v, sizeof v);
    warp_barrier();
    memcpy(&v, w.slot[g][lane % LANES], sizeof v);
    return v;
}

inline void whole(unsigned mask)
{
    if (mask != 0xffffffffu)
        die("a part of a warp meets: the emulation knows whole warps only");
}

/* Runs `kernel(args)` on a grid.  Returns 0, or -1 when there is no memory for it. */
int run(void (*kernel)(const void *args), const void *args, const uint32_t grid[3], uint32_t threads,
        size_t shared_bytes);

}

struct emu_thread { unsigned x; };
#define threadIdx (emu_thread{ emu::now->thread })
#define blockIdx  (emu::now->index)
#define blockDim  (emu::now->dim)
#define gridDim   (emu::now->grid)
#define UNROLL
#define SHARED(name) unsigned char *name = emu::now->shared

inline void __syncthreads() { emu::block_barrier(); }
inline int __syncthreads_or(int yes)
{
    int *any = &emu::now->any[emu::now->generation & 1];
    *any |= yes != 0;
    emu::block_barrier();
    return *any;
}
inline void __threadfence() {}
inline void __syncwarp(unsigned mask = 0xffffffffu) { emu::whole(mask); emu::warp_barrier(); }

template <class T> inline T __shfl_xor_sync(unsigned mask, T v, int lanes)
{
    emu::whole(mask);
    return emu::from_lane(v, emu::now->thread % emu::LANES ^ (unsigned)lanes);
}

template <class T> inline T __shfl_sync(unsigned mask, T v, int lane)
{
    emu::whole(mask);
    return emu::from_lane(v, (unsigned)lane);
}

inline unsigned __ballot_sync(unsigned mask, int yes)
{
    int all[emu::LANES];
    unsigned bits = 0;
    emu::whole(mask);
    emu::exchange(yes, all);
    for (int i = 0; i < emu::LANES; i++)
        bits |= (unsigned)(all[i] != 0) << i;
    return bits;
}

template <class T> inline T __ldcg(const T *p) { return *p; }
template <class T> inline T __ldcs(const T *p) { return *p; }
/* bytes of b:a by the low three bits of s's nibbles; the fourth bit has another meaning there */
inline unsigned __byte_perm(unsigned a, unsigned b, unsigned s)
{
    const uint64_t all = (uint64_t)b << 32 | a;
    unsigned r = 0;
    for (int i = 0; i < 4; i++)
        r |= (unsigned)(all >> 8 * (s >> 4 * i & 7) & 255) << 8 * i;
    return r;
}
inline int __popc(unsigned v) { return __builtin_popcount(v); }
inline float __uint_as_float(unsigned u) { float f; memcpy(&f, &u, 4); return f; }
inline unsigned __float_as_uint(float f) { unsigned u; memcpy(&u, &f, 4); return u; }
inline float half_float(uint16_t h) { return f16_to_f32(h); }
inline uint16_t float_half(float f) { uint16_t h; kv_store(&h, 1 /* F16 */, &f, 1); return h; }
inline unsigned atomicAdd(unsigned *p, unsigned v) { unsigned old = *p; *p += v; return old; }
inline unsigned atomicMin(unsigned *p, unsigned v) { unsigned old = *p; *p = v < old ? v : old; return old; }

/* ---- twins of what backends/cuda/tensor.cuh takes from the device ---- */

inline float emu_bf16(uint32_t h) { return __uint_as_float(h << 16); }

/* Most of what a test of tiles does: lanes are read where they lie, without the sanitizers (it touches
 * slots alone; what comes out of shared memory came by load_matrices, which they watch). */
__attribute__((no_sanitize("address", "undefined")))
inline void mma(float *c, const uint32_t *a, const uint32_t *b)
{
    struct operands { uint32_t a[4], b[2]; };
    const uint32_t lane = emu::now->thread % emu::LANES, g = lane / 4, t = lane % 4;
    emu::warp &w = emu::now->warp[emu::now->thread / emu::LANES];
    unsigned char (*slot)[emu::SLOT] = w.slot[w.generation & 1];
    operands *mine = (operands *)(void *)slot[lane];
    float x[2][16], y[2][16];
    *mine = { { a[0], a[1], a[2], a[3] }, { b[0], b[1] } };
    emu::warp_barrier();
    for (uint32_t k = 0; k < 16; k += 2)
        for (uint32_t i = 0; i < 2; i++) {
            const uint32_t u = ((const operands *)(void *)slot[g * 4 + k % 8 / 2])->a[i + k / 8 * 2];
            const uint32_t v = ((const operands *)(void *)slot[(2 * t + i) * 4 + k % 8 / 2])->b[k / 8];
            x[i][k] = emu_bf16(u & 0xffff), x[i][k + 1] = emu_bf16(u >> 16);
            y[i][k] = emu_bf16(v & 0xffff), y[i][k + 1] = emu_bf16(v >> 16);
        }
    for (uint32_t i = 0; i < 4; i++)
        for (uint32_t k = 0; k < 16; k++)
            c[i] += x[i / 2][k] * y[i % 2][k];
}

/* where the rows of the four matrices are */
inline const uint16_t *const *emu_rows(const void *row, const uint16_t **all)
{
    if ((uintptr_t)row % 16)
        emu::die("a row of a matrix in shared memory is not aligned");
    return emu::exchange((const uint16_t *)row, all);
}

inline void load_matrices(uint32_t *r, const void *row)
{
    const uint16_t *rows[emu::LANES];
    const uint32_t lane = threadIdx.x % emu::LANES;
    emu_rows(row, rows);
    for (uint32_t i = 0; i < 4; i++)
        memcpy(&r[i], rows[8 * i + lane / 4] + lane % 4 * 2, 4);
}

inline void load_turned(uint32_t *r, const void *row)
{
    const uint16_t *rows[emu::LANES];
    const uint32_t lane = threadIdx.x % emu::LANES;
    emu_rows(row, rows);
    for (uint32_t i = 0; i < 4; i++)
        r[i] = rows[8 * i + lane % 4 * 2][lane / 4] | (uint32_t)rows[8 * i + lane % 4 * 2 + 1][lane / 4] << 16;
}

/* Nothing of a copy is there before it was waited for: NaN until then. */
inline void copy16(void *to, const void *from, bool real)
{
    emu::copies &c = emu::now->copy[emu::now->thread];
    if (c.n == emu::COPIES || (uintptr_t)to % 16 || (uintptr_t)from % 16)
        emu::die("copies that are not aligned, or more than the emulation keeps");
    memset(to, 0xff, 16);
    c.to[c.n] = to;
    c.from[c.n++] = real ? from : NULL;
}

inline void copies_wait()
{
    emu::copies &c = emu::now->copy[emu::now->thread];
    while (c.n) {
        c.n--;
        if (c.from[c.n])
            memcpy(c.to[c.n], c.from[c.n], 16);
        else
            memset(c.to[c.n], 0, 16);
    }
}

inline uint32_t two_bf16(float low, float high)
{
    uint16_t h[2];
    const float f[2] = { low, high };
    kv_store(h, 30 /* BF16 */, f, 2);
    return h[0] | (uint32_t)h[1] << 16;
}

#endif
