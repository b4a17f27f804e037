/* tests/hostile/faulty-cpu.c -- the backend cpu-blas under another name, for faults.c to fail in. */
#define dbrx_module cpu_module
#include "backends/cpu-blas/cpu_blas.c"
#undef dbrx_module

extern DBRX_EXPORT const struct dbrx_module_info dbrx_module;
const struct dbrx_module_info dbrx_module = {
    .struct_size = sizeof dbrx_module, .abi_major = DBRX_ABI_MAJOR, .abi_minor = DBRX_ABI_MINOR,
    .name = "faulty-cpu", .version = PACKAGE_VERSION, .summary = "cpu-blas, whose calls can fail", .get = get,
};
