/* backends/cuda/driver.h -- the CUDA driver, opened at run time: this module loads and says a clear
 * sentence on a machine that has none. */
#ifndef DBRX_CUDA_DRIVER_H
#define DBRX_CUDA_DRIVER_H

#include "plugins/abi.h"

#include <cuda.h>

/* X(name here, name in the library): the version that the toolkit's header declares */
#define CUDA_STRING(x) #x
#define CUDA_NAME(x) CUDA_STRING(x)        /* cuda.h maps names to their newest versions */
#define CUDA_FUNCTIONS(X) \
    X(cuInit) X(cuDriverGetVersion) X(cuGetErrorString) X(cuDeviceGetCount) X(cuDeviceGet) X(cuDeviceGetName) \
    X(cuDeviceGetAttribute) X(cuDevicePrimaryCtxRetain) X(cuDevicePrimaryCtxRelease) \
    X(cuCtxPushCurrent) X(cuCtxPopCurrent) X(cuMemGetInfo) X(cuMemAlloc) X(cuMemFree) \
    X(cuMemHostAlloc) X(cuMemFreeHost) X(cuMemsetD8) X(cuMemcpyAsync) X(cuModuleLoadData) \
    X(cuModuleUnload) X(cuModuleGetFunction) X(cuFuncSetAttribute) X(cuStreamCreate) X(cuStreamDestroy) \
    X(cuStreamSynchronize) X(cuStreamQuery) X(cuStreamWaitEvent) X(cuEventCreate) X(cuEventDestroy) X(cuEventRecord) \
    X(cuEventSynchronize) X(cuLaunchKernel) X(cuOccupancyMaxActiveBlocksPerMultiprocessor) \
    X(cuStreamBeginCapture) X(cuStreamEndCapture) \
    X(cuGraphInstantiateWithFlags) X(cuGraphLaunch) X(cuGraphExecDestroy) X(cuGraphDestroy)

struct driver {
#define MEMBER(f) __typeof__(&f) f##_;
    CUDA_FUNCTIONS(MEMBER)
#undef MEMBER
};

/* [any] Opens and initialises the driver, once; later calls give the same answer. */
dbrx_status driver_open(const struct driver **, struct dbrx_error *);
/* `what` failed: a sentence, and how dead we are */
dbrx_status driver_fail(const struct driver *, CUresult, const char *what, struct dbrx_error *);

#endif
