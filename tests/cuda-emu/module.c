/* tests/cuda-emu/module.c -- cuda-emu.so: the cuda backend, its kernels run by the CPU. */
#include "config.h"

#include "backends/backend.h"
#include "backends/cuda/cuda.h"

DBRX_EXPORT const struct dbrx_module_info dbrx_module = {
    .struct_size = sizeof dbrx_module, .abi_major = DBRX_ABI_MAJOR, .abi_minor = DBRX_ABI_MINOR,
    .name = "cuda-emu", .version = PACKAGE_VERSION, .summary = "the cuda backend's kernels, on the CPU", .get = cuda_get,
};
