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
#define __noinline__ __attribute__((noinline))

struct uint2 { unsigned int x, y; };
struct uint4 { unsigned int x, y, z, w; };
struct emu_dim { unsigned int x, y, z; };

namespace emu {

enum { MAX_THREADS = 1024, LANES = 32, SLOT = 64 };

struct warp {
    unsigned arrived, generation, alive;
    alignas(16) unsigned char slot[2][LANES][SLOT];
};

/* the block that runs now */
struct block {
    emu_dim index, grid, dim;
    unsigned thread;                       /* which fiber runs                               */
    unsigned arrived, generation, alive;
    unsigned char *shared;
    int any[2];                            /* __syncthreads_or of this generation and the last */
    struct warp warp[MAX_THREADS / LANES];
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

#endif
