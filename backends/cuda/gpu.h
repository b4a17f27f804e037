/* backends/cuda/gpu.h -- the thin layer between this backend and whatever runs its kernels: the CUDA
 * driver (driver.c), or the CPU (tests/cuda-emu).  Devices, memory, streams, graphs, matrices of
 * the vendor's library.  Knows nothing of models.
 *
 * Work is queued on a stream.  The first thing that fails is remembered there, what comes after
 * does nothing, and gpu_sync tells: so nobody has to ask after each kernel.  Errors are sentences;
 * DBRX_E_LOST means that the device is gone for good, for everybody. */
#ifndef DBRX_CUDA_GPU_H
#define DBRX_CUDA_GPU_H

#include "backends/cuda/planes.h"
#include "plugins/abi.h"

#ifdef __cplusplus
extern "C" {
#endif

struct gpu;                                /* one device, opened                             */
struct gpu_stream;                         /* work in order, on one device                   */
struct gpu_graph;                          /* work recorded, to be launched again            */

struct gpu_info {
    char     name[64];
    uint64_t total, free;                  /* bytes                                          */
    int      major, minor;                 /* compute capability                             */
    int      processors;
    char     reason[200];                  /* why it cannot be used, a sentence; empty: it can */
};

enum gpu_kernel {
#define KERNEL(name, type, body) K_##name,
#include "backends/cuda/kernel_list.h"
#undef KERNEL
    K_COUNT
};
/* Of a typed kernel: gpu_typed(K_matvec_f32, DBRX_Q4_0) */
enum gpu_kernel gpu_typed(enum gpu_kernel of_f32, uint32_t dtype);

/* [any] How many devices there are.  DBRX_E_UNSUPPORTED and a sentence where none can be used. */
dbrx_status gpu_count(int *n, struct dbrx_error *);
/* [any] A device that is there but cannot be used is no error: it has a reason. */
dbrx_status gpu_describe(int device, struct gpu_info *, struct dbrx_error *);
/* [any] Whether this runtime has an option beside the backend's own, and takes it (for tests). */
int gpu_option(const char *name_and_value);

/* [one/module] Each gpu_open is closed once; the device's kernels are loaded by the first. */
dbrx_status gpu_open(int device, struct gpu **, struct dbrx_error *);
void        gpu_close(struct gpu *);       /* NULL is fine, here and below */

/* [any] Device memory, zeroed, aligned to 256.  NOMEM says how much of what was asked for. */
dbrx_status gpu_alloc(struct gpu *, void **, size_t bytes, struct dbrx_error *);
void        gpu_free(struct gpu *, void *);
/* Pinned host memory that kernels of any device can read and write, too. */
dbrx_status gpu_alloc_host(struct gpu *, void **, size_t bytes, struct dbrx_error *);
void        gpu_free_host(struct gpu *, void *);

dbrx_status gpu_stream_open(struct gpu *, struct gpu_stream **, struct dbrx_error *);
void        gpu_stream_close(struct gpu_stream *);             /* waits for what is queued     */

/* [one/stream], all below */
void gpu_copy(struct gpu_stream *, void *to, const void *from, size_t bytes);      /* any two places */
void gpu_launch(struct gpu_stream *, enum gpu_kernel, const uint32_t grid[3], uint32_t threads,
                size_t shared_bytes, const void *args, size_t args_size);
/* Blocks of such a launch that one processor runs beside each other, one at least */
uint32_t gpu_beside(struct gpu_stream *, enum gpu_kernel, uint32_t threads, size_t shared_bytes);
/* `to` waits for what `from` has queued so far */
void gpu_follow(struct gpu_stream *to, struct gpu_stream *from);
/* A mark behind what is queued; wait: until an earlier mark (0..3) is reached. */
void gpu_mark(struct gpu_stream *, int mark);
void gpu_wait(struct gpu_stream *, int mark);
/* Is everything queued done (or has it failed)? */
int         gpu_idle(struct gpu_stream *);
dbrx_status gpu_sync(struct gpu_stream *, struct dbrx_error *);

/* What is queued between begin and end is recorded instead; args are copied. */
void gpu_record_begin(struct gpu_stream *);
struct gpu_graph *gpu_record_end(struct gpu_stream *);         /* NULL: gpu_sync tells why      */
void gpu_replay(struct gpu_stream *, struct gpu_graph *);
void gpu_graph_close(struct gpu_graph *);

#ifdef __cplusplus
}
#endif
#endif
