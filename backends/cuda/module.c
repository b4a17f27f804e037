/* backends/cuda/module.c -- cuda.so: the backend's tables over the CUDA driver. */
#include "config.h"

#include "backends/backend.h"
#include "backends/cuda/cuda.h"

DBRX_EXPORT const struct dbrx_module_info dbrx_module = {
    .struct_size = sizeof dbrx_module, .abi_major = DBRX_ABI_MAJOR, .abi_minor = DBRX_ABI_MINOR,
    .name = "cuda", .version = PACKAGE_VERSION, .summary = "NVIDIA GPUs, sm_80 and newer", .get = cuda_get,
};
