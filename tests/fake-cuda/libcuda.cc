/* tests/fake-cuda/libcuda.cc -- a libcuda.so.1 without a device: memory is the host's, kernels run in the
 * emulation of tests/cuda-emu at once, a graph is a list.  It is what makes gpu.c and driver.c
 * run where no GPU is, and go wrong as told by $FAKE_CUDA, words with commas between them:
 *
 *   devices=N version=V capability=MAJORMINOR mode=COMPUTE_MODE memory=BYTES
 *   FUNCTION@N=CODE    the N-th call of FUNCTION returns CODE; FUNCTION@N=CODE!: and so does, from
 *                      then on, whatever is asked of a device, as after a kernel that went astray
 *
 * Contexts, modules and functions that were never given out are CUDA_ERROR_INVALID_VALUE. */
#include "tests/fake-cuda/cuda.h"

#include "backends/cuda/args.h"
#include "backends/cuda/gpu.h"
#include "tests/cuda-emu/emu.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <vector>

extern "C" {
#define KERNEL(name, type, body) void dbrx_##name(const type);
#include "backends/cuda/kernel_list.h"
#undef KERNEL
}

struct CUfunc_st { const char *name; size_t size; void (*run)(const void *); };
static struct CUfunc_st functions[] = {
#define KERNEL(name, type, body) { "dbrx_" #name, sizeof(type), [](const void *a) { dbrx_##name(*(const type *)a); } },
#include "backends/cuda/kernel_list.h"
#undef KERNEL
};

enum { MAX_DEVICES = 8 };
struct CUctx_st { int device; size_t used; };
static struct CUctx_st contexts[MAX_DEVICES];
static thread_local std::vector<CUcontext> current;

struct op {
    const CUfunc_st *f;                    /* NULL: a copy */
    void *to; const void *from; size_t bytes;
    unsigned grid[3], threads, shared;
    std::vector<char> args;
};
struct CUgraph_st { std::vector<op> ops; };
struct CUgraphExec_st { std::vector<op> ops; };
struct CUstream_st { CUgraph recording; };
struct CUevent_st { int unused; };
struct CUmod_st { int unused; };
static struct CUmod_st module;
struct header { size_t bytes; CUcontext owner; char pad[240]; };       /* in front of device memory */

/* ---- what goes wrong ---- */

static const char *word(const char *name)
{
    const char *p = getenv("FAKE_CUDA");
    size_t n = strlen(name);
    n -= n > 3 && !strcmp(name + n - 3, "_v2") ? 3 : 0;        /* of cuda.h's making */
    for (; p && *p; p += strcspn(p, ","), p += *p == ',')
        if (!strncmp(p, name, n) && (p[n] == '=' || p[n] == '@'))
            return p + n + 1;
    return NULL;
}

static long number(const char *name, long otherwise)
{
    const char *p = word(name);
    return p ? atol(p) : otherwise;
}

static int broken;                         /* what every call returns from now on */

static CUresult verdict(const char *function, long *calls, int of_device)
{
    const char *p = word(function);
    char *end;
    if (broken && of_device)
        return (CUresult)broken;
    if (!p || strtol(p, &end, 10) != ++*calls || *end != '=')
        return CUDA_SUCCESS;
    int code = (int)strtol(end + 1, &end, 10);
    if (*end == '!')
        broken = code;
    return (CUresult)code;
}
/* first in each function: what it is told to return, if anything */
#define MAY_FAIL_(of_device) do { \
        static long calls; \
        CUresult told = verdict(__func__, &calls, of_device); \
        if (told != CUDA_SUCCESS) \
            return told; \
    } while (0)
#define MAY_FAIL MAY_FAIL_(1)
#define NEEDS(what) do { if (!(what)) return CUDA_ERROR_INVALID_VALUE; } while (0)

static int devices() { return (int)number("devices", 1); }
static size_t memory() { return (size_t)number("memory", 2000000000); }

#pragma GCC visibility push(default)
extern "C" {

/* ---- devices ---- */

CUresult cuInit(unsigned) { MAY_FAIL_(0); return devices() ? CUDA_SUCCESS : CUDA_ERROR_NO_DEVICE; }
CUresult cuDriverGetVersion(int *v) { MAY_FAIL_(0); *v = (int)number("version", 13000); return CUDA_SUCCESS; }
CUresult cuGetErrorString(CUresult, const char **text) { *text = "an error that only the driver knows"; return CUDA_SUCCESS; }
CUresult cuDeviceGetCount(int *n) { MAY_FAIL_(0); *n = devices(); return CUDA_SUCCESS; }

CUresult cuDeviceGet(CUdevice *d, int i)
{
    MAY_FAIL_(0);
    *d = i;
    return i >= 0 && i < devices() && i < MAX_DEVICES ? CUDA_SUCCESS : CUDA_ERROR_INVALID_DEVICE;
}

CUresult cuDeviceGetName(char *name, int size, CUdevice d)
{
    MAY_FAIL_(0);
    snprintf(name, (size_t)size, "Fake %d", d);
    return CUDA_SUCCESS;
}

CUresult cuDeviceGetAttribute(int *v, CUdevice_attribute a, CUdevice d)
{
    MAY_FAIL_(0);
    long capability = number("capability", 90);
    if (d == 0)                            /* of the first device alone: the others are fine */
        capability = number("capability0", capability);
    *v = a == CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR ? (int)capability / 10
       : a == CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR ? (int)capability % 10
       : a == CU_DEVICE_ATTRIBUTE_COMPUTE_MODE ? (int)number("mode", 0) : 2;
    return CUDA_SUCCESS;
}

CUresult cuDevicePrimaryCtxRetain(CUcontext *c, CUdevice d)
{
    MAY_FAIL_(0);
    contexts[d].device = d;
    *c = &contexts[d];
    return number("mode", 0) == CU_COMPUTEMODE_PROHIBITED ? CUDA_ERROR_DEVICE_UNAVAILABLE : CUDA_SUCCESS;
}

CUresult cuDevicePrimaryCtxRelease(CUdevice) { return CUDA_SUCCESS; }
CUresult cuCtxPushCurrent(CUcontext c) { NEEDS(c); current.push_back(c); return CUDA_SUCCESS; }

CUresult cuCtxPopCurrent(CUcontext *c)
{
    NEEDS(!current.empty());
    *c = current.back();
    current.pop_back();
    return CUDA_SUCCESS;
}

/* ---- memory ---- */

CUresult cuMemGetInfo(size_t *left, size_t *total)
{
    MAY_FAIL;
    NEEDS(!current.empty());
    *total = memory();
    *left = *total - current.back()->used;
    return CUDA_SUCCESS;
}

CUresult cuMemAlloc(CUdeviceptr *p, size_t bytes)
{
    MAY_FAIL;
    NEEDS(!current.empty() && bytes);
    CUcontext c = current.back();
    if (bytes > memory() - c->used)
        return CUDA_ERROR_OUT_OF_MEMORY;
    struct header *h = (struct header *)aligned_alloc(256, (sizeof *h + bytes + 255) / 256 * 256);
    if (!h)
        return CUDA_ERROR_OUT_OF_MEMORY;
    static_assert(sizeof *h == 256, "memory is aligned to 256 bytes");
    memset((void *)(h + 1), 0xff, bytes);  /* what was there before */
    h->bytes = bytes;
    h->owner = c;
    c->used += bytes;
    *p = (CUdeviceptr)(h + 1);
    return CUDA_SUCCESS;
}

CUresult cuMemFree(CUdeviceptr p)
{
    struct header *h = (struct header *)p - 1;
    NEEDS(p && !current.empty());
    h->owner->used -= h->bytes;
    free(h);
    return (CUresult)broken;
}

CUresult cuMemHostAlloc(void **p, size_t bytes, unsigned)
{
    MAY_FAIL;
    NEEDS(!current.empty() && bytes);
    *p = aligned_alloc(256, (bytes + 255) / 256 * 256);
    return *p ? CUDA_SUCCESS : CUDA_ERROR_OUT_OF_MEMORY;
}

CUresult cuMemFreeHost(void *p) { free(p); return (CUresult)broken; }
CUresult cuMemsetD8(CUdeviceptr p, unsigned char v, size_t n) { MAY_FAIL; memset((void *)p, v, n); return CUDA_SUCCESS; }

/* ---- modules and work ---- */

CUresult cuModuleLoadData(CUmodule *m, const void *image) { MAY_FAIL; NEEDS(image && !current.empty()); *m = &module; return CUDA_SUCCESS; }
CUresult cuModuleUnload(CUmodule m) { NEEDS(m == &module); return CUDA_SUCCESS; }

CUresult cuModuleGetFunction(CUfunction *f, CUmodule m, const char *name)
{
    MAY_FAIL;
    NEEDS(m == &module);
    for (struct CUfunc_st &known : functions)
        if (!strcmp(known.name, name)) {
            *f = &known;
            return CUDA_SUCCESS;
        }
    return CUDA_ERROR_NOT_FOUND;
}

CUresult cuFuncSetAttribute(CUfunction f, CUfunction_attribute, int) { MAY_FAIL; NEEDS(f); return CUDA_SUCCESS; }

CUresult cuOccupancyMaxActiveBlocksPerMultiprocessor(int *n, CUfunction f, int, size_t)
{
    MAY_FAIL;
    NEEDS(f);
    *n = 1;
    return CUDA_SUCCESS;
}

static CUresult perform(const struct op *o)
{
    if (o->f)
        return emu::run(o->f->run, o->args.data(), o->grid, o->threads, o->shared) ? CUDA_ERROR_LAUNCH_FAILED : CUDA_SUCCESS;
    memcpy(o->to, o->from, o->bytes);
    return CUDA_SUCCESS;
}

static CUresult queue(CUstream s, const struct op &o)
{
    NEEDS(s);
    if (!s->recording)
        return perform(&o);
    s->recording->ops.push_back(o);
    return CUDA_SUCCESS;
}

CUresult cuMemcpyAsync(CUdeviceptr to, CUdeviceptr from, size_t n, CUstream s)
{
    MAY_FAIL;
    struct op o = {};
    o.to = (void *)to, o.from = (const void *)from, o.bytes = n;
    return queue(s, o);
}

CUresult cuLaunchKernel(CUfunction f, unsigned x, unsigned y, unsigned z, unsigned threads, unsigned by, unsigned bz,
                        unsigned shared, CUstream s, void **param, void **)
{
    MAY_FAIL;
    NEEDS(f && x && y && z && y <= 65535 && z <= 65535 && threads && threads <= 1024 && by == 1 && bz == 1 && shared <= 100 << 10);
    struct op o = {};
    o.f = f, o.grid[0] = x, o.grid[1] = y, o.grid[2] = z, o.threads = threads, o.shared = shared;
    o.args.assign((char *)param[0], (char *)param[0] + f->size);
    return queue(s, o);
}

CUresult cuStreamCreate(CUstream *s, unsigned) { MAY_FAIL; *s = new CUstream_st(); return CUDA_SUCCESS; }
CUresult cuStreamDestroy(CUstream s) { delete s; return CUDA_SUCCESS; }
CUresult cuStreamSynchronize(CUstream) { MAY_FAIL; return CUDA_SUCCESS; }
CUresult cuStreamQuery(CUstream) { MAY_FAIL; return CUDA_SUCCESS; }
CUresult cuStreamWaitEvent(CUstream, CUevent, unsigned) { MAY_FAIL; return CUDA_SUCCESS; }
CUresult cuEventCreate(CUevent *e, unsigned) { MAY_FAIL; *e = new CUevent_st(); return CUDA_SUCCESS; }
CUresult cuEventDestroy(CUevent e) { delete e; return CUDA_SUCCESS; }
CUresult cuEventRecord(CUevent, CUstream) { MAY_FAIL; return CUDA_SUCCESS; }
CUresult cuEventSynchronize(CUevent) { MAY_FAIL; return CUDA_SUCCESS; }

CUresult cuStreamBeginCapture(CUstream s, CUstreamCaptureMode) { MAY_FAIL; s->recording = new CUgraph_st(); return CUDA_SUCCESS; }

CUresult cuStreamEndCapture(CUstream s, CUgraph *g)
{
    *g = s->recording;
    s->recording = NULL;
    MAY_FAIL;
    return *g ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
}

CUresult cuGraphInstantiateWithFlags(CUgraphExec *e, CUgraph g, unsigned long long)
{
    MAY_FAIL;
    NEEDS(g);
    *e = new CUgraphExec_st();
    (*e)->ops = g->ops;
    return CUDA_SUCCESS;
}

CUresult cuGraphLaunch(CUgraphExec e, CUstream)
{
    MAY_FAIL;
    CUresult r = CUDA_SUCCESS;
    for (size_t i = 0; i < e->ops.size() && r == CUDA_SUCCESS; i++)
        r = perform(&e->ops[i]);
    return r;
}

CUresult cuGraphExecDestroy(CUgraphExec e) { delete e; return CUDA_SUCCESS; }
CUresult cuGraphDestroy(CUgraph g) { delete g; return CUDA_SUCCESS; }

}
#pragma GCC visibility pop
