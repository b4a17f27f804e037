/* backends/cuda/gpu.c -- gpu.h over the CUDA driver: contexts, memory, streams, graphs.  The kernels
 * are a fat binary inside this module, loaded once for every device that is opened. */
#include "backends/cuda/gpu.h"

#include "backends/cuda/driver.h"
#include "backends/cuda/planes.h"
#include "plugins/fail.h"

#include <stdlib.h>
#include <string.h>

enum { MARKS = 4, MOST_SHARED = 96 << 10 };

/* kernels.fatbin, as nvcc made it */
__asm__(".section .rodata\n"
        ".balign 16\n"
        "dbrx_cuda_kernels:\n"
        ".incbin \"" KERNELS_FATBIN "\"\n"
        ".byte 0\n"
        ".previous\n");
extern const char dbrx_cuda_kernels[] __attribute__((visibility("hidden")));

static const char *const names[] = {
#define KERNEL(name, type, body) "dbrx_" #name,
#include "backends/cuda/kernel_list.h"
#undef KERNEL
};

struct gpu {
    const struct driver *d;
    int device;
    CUdevice id;
    CUcontext ctx;
    CUmodule module;
    CUfunction kernel[K_COUNT];
};

struct gpu_stream {
    struct gpu *gpu;
    CUstream stream;
    CUevent mark[MARKS], handed;
    int marked[MARKS];
    struct dbrx_error err;                 /* the first failure; code DBRX_OK: none          */
};

struct gpu_graph { struct gpu *gpu; CUgraphExec exec; };

int gpu_option(const char *text)
{
    (void)text;
    return 0;
}

static void enter(const struct gpu *g)
{
    (void)g->d->cuCtxPushCurrent_(g->ctx);
}

static void leave(const struct gpu *g)
{
    CUcontext old;
    (void)g->d->cuCtxPopCurrent_(&old);
}

dbrx_status gpu_count(int *n, struct dbrx_error *err)
{
    const struct driver *d;
    *n = 0;
    dbrx_status st = driver_open(&d, err);
    if (st != DBRX_OK)
        return st;
    CUresult r = d->cuDeviceGetCount_(n);
    if (r != CUDA_SUCCESS)
        return driver_fail(d, r, "devices cannot be counted", err);
    return *n ? DBRX_OK : fail(err, DBRX_E_UNSUPPORTED, "the NVIDIA driver is installed, but there is no GPU that it can use");
}

/* What an opened device has free; only a context knows */
static CUresult memory_of(const struct driver *d, CUdevice id, struct gpu_info *out)
{
    CUcontext ctx;
    size_t total, left;
    CUresult r = d->cuDevicePrimaryCtxRetain_(&ctx, id);
    if (r != CUDA_SUCCESS)
        return r;
    (void)d->cuCtxPushCurrent_(ctx);
    r = d->cuMemGetInfo_(&left, &total);
    (void)d->cuCtxPopCurrent_(&ctx);
    (void)d->cuDevicePrimaryCtxRelease_(id);
    if (r == CUDA_SUCCESS)
        out->total = total, out->free = left;
    return r;
}

dbrx_status gpu_describe(int device, struct gpu_info *out, struct dbrx_error *err)
{
    const struct driver *d;
    struct dbrx_error why = { .code = DBRX_OK };
    CUdevice id;
    char what[48];
    int mode = 0;
    *out = (struct gpu_info){ .total = 0 };
    dbrx_status st = driver_open(&d, err);
    if (st != DBRX_OK)
        return st;
    CUresult r = d->cuDeviceGet_(&id, device);
    if (r == CUDA_ERROR_INVALID_DEVICE)
        return fail(err, DBRX_E_INVALID, "there is no device %d", device);
    if (r == CUDA_SUCCESS)
        r = d->cuDeviceGetName_(out->name, sizeof out->name, id);
    if (r == CUDA_SUCCESS)
        r = d->cuDeviceGetAttribute_(&out->major, CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR, id);
    if (r == CUDA_SUCCESS)
        r = d->cuDeviceGetAttribute_(&out->minor, CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR, id);
    if (r == CUDA_SUCCESS)
        r = d->cuDeviceGetAttribute_(&out->processors, CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT, id);
    if (r == CUDA_SUCCESS)
        r = d->cuDeviceGetAttribute_(&mode, CU_DEVICE_ATTRIBUTE_COMPUTE_MODE, id);
    snprintf(what, sizeof what, "device %d cannot be used", device);
    if (r == CUDA_SUCCESS && out->major < 8)
        fail(&why, DBRX_E_UNSUPPORTED, "%s: %.40s has compute capability %d.%d, 8.0 is needed", what, out->name,
             out->major, out->minor);
    else if (r == CUDA_SUCCESS && mode == CU_COMPUTEMODE_PROHIBITED)
        fail(&why, DBRX_E_UNSUPPORTED, "%s: it is closed to programs (nvidia-smi -i %d -c DEFAULT opens it)", what, device);
    else if (r != CUDA_SUCCESS || (r = memory_of(d, id, out)) != CUDA_SUCCESS)
        driver_fail(d, r, what, &why);
    snprintf(out->reason, sizeof out->reason, "%.199s", why.text);
    return DBRX_OK;
}

/* ---- devices and memory ---- */

dbrx_status gpu_open(int device, struct gpu **out, struct dbrx_error *err)
{
    const struct driver *d;
    char what[48];
    *out = NULL;
    dbrx_status st = driver_open(&d, err);
    if (st != DBRX_OK)
        return st;
    struct gpu *g = calloc(1, sizeof *g);
    if (!g)
        return fail(err, DBRX_E_NOMEM, "out of memory");
    g->d = d;
    g->device = device;
    snprintf(what, sizeof what, "device %d cannot be opened", device);
    CUresult r = d->cuDeviceGet_(&g->id, device);
    if (r == CUDA_SUCCESS)
        r = d->cuDevicePrimaryCtxRetain_(&g->ctx, g->id);
    if (r == CUDA_SUCCESS) {
        enter(g);
        r = d->cuModuleLoadData_(&g->module, dbrx_cuda_kernels);
        for (int k = 0; k < K_COUNT && r == CUDA_SUCCESS; k++) {
            r = d->cuModuleGetFunction_(&g->kernel[k], g->module, names[k]);
            if (r == CUDA_SUCCESS)
                r = d->cuFuncSetAttribute_(g->kernel[k], CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES, MOST_SHARED);
        }
        leave(g);
    }
    if (r != CUDA_SUCCESS) {
        st = driver_fail(d, r, what, err);
        gpu_close(g);
        return st;
    }
    *out = g;
    return DBRX_OK;
}

void gpu_close(struct gpu *g)
{
    if (!g)
        return;
    if (g->ctx) {
        enter(g);
        if (g->module)
            (void)g->d->cuModuleUnload_(g->module);
        leave(g);
        (void)g->d->cuDevicePrimaryCtxRelease_(g->id);
    }
    free(g);
}

static dbrx_status no_memory(struct gpu *g, CUresult r, const char *where, size_t bytes, struct dbrx_error *err)
{
    char what[80];
    if (r == CUDA_ERROR_OUT_OF_MEMORY)
        return fail(err, DBRX_E_NOMEM, "no %.1f MB left %s %d: end what else uses it, or try a smaller context=N, "
                    "kv=fp8 or a quantised model", (double)bytes / 1e6, where, g->device);
    snprintf(what, sizeof what, "%.1f MB %s %d", (double)bytes / 1e6, where, g->device);
    return driver_fail(g->d, r, what, err);
}

dbrx_status gpu_alloc(struct gpu *g, void **out, size_t bytes, struct dbrx_error *err)
{
    CUdeviceptr p = 0;
    enter(g);
    CUresult r = g->d->cuMemAlloc_(&p, bytes);
    if (r == CUDA_SUCCESS && (r = g->d->cuMemsetD8_(p, 0, bytes)) == CUDA_SUCCESS)
        r = g->d->cuStreamSynchronize_(NULL);
    if (r != CUDA_SUCCESS && p)
        (void)g->d->cuMemFree_(p);
    leave(g);
    *out = r == CUDA_SUCCESS ? (void *)(uintptr_t)p : NULL;
    return r == CUDA_SUCCESS ? DBRX_OK : no_memory(g, r, "on device", bytes, err);
}

void gpu_free(struct gpu *g, void *p)
{
    if (!p)
        return;
    enter(g);
    (void)g->d->cuMemFree_((CUdeviceptr)(uintptr_t)p);
    leave(g);
}

dbrx_status gpu_alloc_host(struct gpu *g, void **out, size_t bytes, struct dbrx_error *err)
{
    *out = NULL;
    enter(g);
    CUresult r = g->d->cuMemHostAlloc_(out, bytes, CU_MEMHOSTALLOC_PORTABLE | CU_MEMHOSTALLOC_DEVICEMAP);
    leave(g);
    if (r != CUDA_SUCCESS)
        return no_memory(g, r, "of pinned host memory for device", bytes, err);
    memset(*out, 0, bytes);
    return DBRX_OK;
}

void gpu_free_host(struct gpu *g, void *p)
{
    if (!p)
        return;
    enter(g);
    (void)g->d->cuMemFreeHost_(p);
    leave(g);
}

/* ---- streams ---- */

dbrx_status gpu_stream_open(struct gpu *g, struct gpu_stream **out, struct dbrx_error *err)
{
    struct gpu_stream *s = calloc(1, sizeof *s);
    *out = NULL;
    if (!s)
        return fail(err, DBRX_E_NOMEM, "out of memory");
    s->gpu = g;
    enter(g);
    CUresult r = g->d->cuStreamCreate_(&s->stream, CU_STREAM_NON_BLOCKING);
    for (int i = 0; i < MARKS && r == CUDA_SUCCESS; i++)
        r = g->d->cuEventCreate_(&s->mark[i], CU_EVENT_DISABLE_TIMING);
    if (r == CUDA_SUCCESS)
        r = g->d->cuEventCreate_(&s->handed, CU_EVENT_DISABLE_TIMING);
    leave(g);
    if (r != CUDA_SUCCESS) {
        dbrx_status st = driver_fail(g->d, r, "no stream can be opened", err);
        gpu_stream_close(s);
        return st;
    }
    *out = s;
    return DBRX_OK;
}

void gpu_stream_close(struct gpu_stream *s)
{
    if (!s)
        return;
    const struct driver *d = s->gpu->d;
    enter(s->gpu);
    if (s->stream) {
        (void)d->cuStreamSynchronize_(s->stream);
        (void)d->cuStreamDestroy_(s->stream);
    }
    for (int i = 0; i < MARKS; i++)
        if (s->mark[i])
            (void)d->cuEventDestroy_(s->mark[i]);
    if (s->handed)
        (void)d->cuEventDestroy_(s->handed);
    leave(s->gpu);
    free(s);
}

/* Remembers the first failure, and that is the end of the stream: whatever the driver says of it, nobody
 * knows what of the work before and after was done */
static void note(struct gpu_stream *s, CUresult r, const char *what)
{
    if (r != CUDA_SUCCESS && s->err.code == DBRX_OK) {
        driver_fail(s->gpu->d, r, what, &s->err);
        s->err.code = DBRX_E_LOST;
    }
}

/* CALL(s, what, f, arguments...): unless something failed before */
#define CALL(s, what, f, ...) do { \
        if ((s)->err.code == DBRX_OK) { \
            enter((s)->gpu); \
            note(s, (s)->gpu->d->f##_(__VA_ARGS__), what); \
            leave((s)->gpu); \
        } } while (0)

void gpu_copy(struct gpu_stream *s, void *to, const void *from, size_t bytes)
{
    if (bytes)
        CALL(s, "a copy failed", cuMemcpyAsync, (CUdeviceptr)(uintptr_t)to, (CUdeviceptr)(uintptr_t)from, bytes, s->stream);
}

void gpu_launch(struct gpu_stream *s, enum gpu_kernel k, const uint32_t grid[3], uint32_t threads, size_t shared,
                const void *args, size_t size)
{
    void *param[] = { (void *)(uintptr_t)args };
    (void)size;
    CALL(s, names[k], cuLaunchKernel, s->gpu->kernel[k], grid[0], grid[1], grid[2], threads, 1, 1, (unsigned)shared,
         s->stream, param, NULL);
}

uint32_t gpu_beside(struct gpu_stream *s, enum gpu_kernel k, uint32_t threads, size_t shared)
{
    int n = 0;
    CALL(s, names[k], cuOccupancyMaxActiveBlocksPerMultiprocessor, &n, s->gpu->kernel[k], (int)threads, shared);
    return n > 0 ? (uint32_t)n : 1;
}

void gpu_follow(struct gpu_stream *to, struct gpu_stream *from)
{
    if (from->err.code != DBRX_OK && to->err.code == DBRX_OK)
        to->err = from->err;
    CALL(from, "an event failed", cuEventRecord, from->handed, from->stream);
    CALL(to, "an event failed", cuStreamWaitEvent, to->stream, from->handed, 0);
}

void gpu_mark(struct gpu_stream *s, int mark)
{
    CALL(s, "an event failed", cuEventRecord, s->mark[mark], s->stream);
    s->marked[mark] = 1;
}

void gpu_wait(struct gpu_stream *s, int mark)
{
    if (s->marked[mark])
        CALL(s, "the device failed", cuEventSynchronize, s->mark[mark]);
}

int gpu_idle(struct gpu_stream *s)
{
    if (s->err.code != DBRX_OK)
        return 1;
    enter(s->gpu);
    CUresult r = s->gpu->d->cuStreamQuery_(s->stream);
    leave(s->gpu);
    return r != CUDA_ERROR_NOT_READY;      /* gpu_sync tells of a failure */
}

dbrx_status gpu_sync(struct gpu_stream *s, struct dbrx_error *err)
{
    CALL(s, "the device failed", cuStreamSynchronize, s->stream);
    return s->err.code == DBRX_OK ? DBRX_OK : fail(err, s->err.code, "%s", s->err.text);
}

/* ---- graphs ---- */

void gpu_record_begin(struct gpu_stream *s)
{
    CALL(s, "a graph cannot be recorded", cuStreamBeginCapture, s->stream, CU_STREAM_CAPTURE_MODE_THREAD_LOCAL);
}

struct gpu_graph *gpu_record_end(struct gpu_stream *s)
{
    CUgraph graph = NULL;
    struct gpu_graph *g = calloc(1, sizeof *g);
    if (!g && s->err.code == DBRX_OK)
        fail(&s->err, DBRX_E_LOST, "out of memory");
    enter(s->gpu);                         /* also after a failure: the stream must get out of it */
    note(s, s->gpu->d->cuStreamEndCapture_(s->stream, &graph), "a graph cannot be recorded");
    leave(s->gpu);
    if (g) {
        g->gpu = s->gpu;
        CALL(s, "a graph cannot be made", cuGraphInstantiateWithFlags, &g->exec, graph, 0);
    }
    if (graph)
        (void)s->gpu->d->cuGraphDestroy_(graph);
    if (s->err.code != DBRX_OK) {
        gpu_graph_close(g);
        return NULL;
    }
    return g;
}

void gpu_replay(struct gpu_stream *s, struct gpu_graph *g)
{
    CALL(s, "a graph cannot be launched", cuGraphLaunch, g->exec, s->stream);
}

void gpu_graph_close(struct gpu_graph *g)
{
    if (!g)
        return;
    if (g->exec)
        (void)g->gpu->d->cuGraphExecDestroy_(g->exec);
    free(g);
}
