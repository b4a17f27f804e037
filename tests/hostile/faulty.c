/* tests/hostile/faulty.c -- the backend ref under another name, for faults.c to fail in. */
#define dbrx_module ref_module
#include "backends/ref/ref.c"
#undef dbrx_module

extern DBRX_EXPORT const struct dbrx_module_info dbrx_module;
const struct dbrx_module_info dbrx_module = {
    .struct_size = sizeof dbrx_module, .abi_major = DBRX_ABI_MAJOR, .abi_minor = DBRX_ABI_MINOR,
    .name = "faulty", .version = PACKAGE_VERSION, .summary = "ref, whose calls can fail", .get = get,
};
