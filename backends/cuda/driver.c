/* backends/cuda/driver.c -- opens libcuda and turns its errors into sentences. */
#include "backends/cuda/driver.h"

#include "plugins/fail.h"

#include <dlfcn.h>
#include <pthread.h>
#include <string.h>

static struct driver driver;
static struct dbrx_error why;              /* code DBRX_OK: it is open */

static dbrx_status no_driver(const char *what)
{
    return fail(&why, DBRX_E_UNSUPPORTED, "%s", what);
}

static void open_once(void)
{
    int version = 0;
    void *lib = dlopen("libcuda.so.1", RTLD_NOW | RTLD_LOCAL);
    if (!lib) {
        const char *text = dlerror();
        fail(&why, DBRX_E_UNSUPPORTED, !text || strstr(text, "No such file") ? "no NVIDIA driver here: libcuda.so.1 is not "
             "installed" : "libcuda.so.1 cannot be loaded: %.80s", text);
        return;
    }
#define FIND(f) \
    if (!(driver.f##_ = (__typeof__(driver.f##_))dlsym(lib, CUDA_NAME(f)))) { \
        no_driver("the NVIDIA driver is too old, it has no " CUDA_NAME(f) ": update it"); \
        return; \
    }
    CUDA_FUNCTIONS(FIND)
    CUresult r = driver.cuInit_(0);
    if (driver.cuDriverGetVersion_(&version) == CUDA_SUCCESS && version / 1000 < CUDA_VERSION / 1000) {
        fail(&why, DBRX_E_UNSUPPORTED, "the NVIDIA driver is too old: it knows CUDA %d.%d, this was built with %d.%d: update it",
             version / 1000, version % 1000 / 10, CUDA_VERSION / 1000, CUDA_VERSION % 1000 / 10);
        return;
    }
    if (r == CUDA_ERROR_NO_DEVICE)
        no_driver("the NVIDIA driver is installed, but there is no GPU that it can use");
    else if (r != CUDA_SUCCESS)
        driver_fail(&driver, r, "the NVIDIA driver does not start", &why);
}

dbrx_status driver_open(const struct driver **out, struct dbrx_error *err)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, open_once);
    *out = &driver;
    return why.code == DBRX_OK ? DBRX_OK : fail(err, DBRX_E_UNSUPPORTED, "%s", why.text);
}

dbrx_status driver_fail(const struct driver *d, CUresult r, const char *what, struct dbrx_error *err)
{
    static const struct { CUresult r; dbrx_status st; const char *text; } known[] = {
        { CUDA_ERROR_OUT_OF_MEMORY, DBRX_E_NOMEM, "no memory is left on the device: end what else uses it" },
        { CUDA_ERROR_DEVICE_UNAVAILABLE, DBRX_E_IO, "it is busy, another process has it to itself: end that, or name "
          "other devices with gpus=" },
        { CUDA_ERROR_ECC_UNCORRECTABLE, DBRX_E_LOST, "its memory failed (uncorrectable ECC error): reset it with "
          "nvidia-smi -r, or name other devices with gpus=" },
        { CUDA_ERROR_NVLINK_UNCORRECTABLE, DBRX_E_LOST, "the link between devices failed: try one alone with gpus=" },
        { CUDA_ERROR_ILLEGAL_ADDRESS, DBRX_E_LOST, "a kernel read or wrote outside its memory, which is a bug of this backend" },
        { CUDA_ERROR_MISALIGNED_ADDRESS, DBRX_E_LOST, "a kernel read at an odd address, which is a bug of this backend" },
        { CUDA_ERROR_ILLEGAL_INSTRUCTION, DBRX_E_LOST, "a kernel had an instruction that the device does not know, which "
          "is a bug of this backend" },
        { CUDA_ERROR_LAUNCH_TIMEOUT, DBRX_E_LOST, "a kernel ran into the display's time limit: use a device without a display" },
        { CUDA_ERROR_LAUNCH_FAILED, DBRX_E_LOST, "the device stopped in the middle of a kernel (dmesg may say why)" },
        { CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES, DBRX_E_LOST, "a kernel wants more of the device than it has, which is a bug "
          "of this backend" },
        { CUDA_ERROR_EXTERNAL_DEVICE, DBRX_E_LOST, "the device was lost (dmesg may say why)" },
        { CUDA_ERROR_CONTEXT_IS_DESTROYED, DBRX_E_LOST, "the device was reset by somebody else" },
        { CUDA_ERROR_NO_BINARY_FOR_GPU, DBRX_E_UNSUPPORTED, "this was not built for such a device: build it again with a "
          "newer CUDA Toolkit" },
        { CUDA_ERROR_INVALID_IMAGE, DBRX_E_UNSUPPORTED, "the driver cannot read the kernels of this build: update the driver" },
        { CUDA_ERROR_INVALID_PTX, DBRX_E_UNSUPPORTED, "the driver cannot compile the kernels of this build: update the driver" },
        { CUDA_ERROR_JIT_COMPILER_NOT_FOUND, DBRX_E_UNSUPPORTED, "the driver lacks its compiler (libnvidia-ptxjitcompiler): "
          "install the whole driver" },
        { CUDA_ERROR_UNSUPPORTED_PTX_VERSION, DBRX_E_UNSUPPORTED, "the driver is older than the CUDA Toolkit this was built "
          "with: update the driver" },
        { CUDA_ERROR_STUB_LIBRARY, DBRX_E_UNSUPPORTED, "libcuda.so.1 is the toolkit's stub: let the driver's come first in "
          "LD_LIBRARY_PATH" },
        { CUDA_ERROR_OPERATING_SYSTEM, DBRX_E_IO, "the system refused (may this user open /dev/nvidia*?)" },
        { CUDA_ERROR_SYSTEM_DRIVER_MISMATCH, DBRX_E_UNSUPPORTED, "the driver's library and its kernel module are of "
          "different versions: reboot" },
        { CUDA_ERROR_SYSTEM_NOT_READY, DBRX_E_IO, "the system is not ready for CUDA (is the fabric manager running?)" },
    };
    const char *text = NULL;
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        if (known[i].r == r)
            return fail(err, known[i].st, "%s: %s", what, known[i].text);
    if (!d->cuGetErrorString_ || d->cuGetErrorString_(r, &text) != CUDA_SUCCESS || !text)
        text = "an unknown error";
    /* whatever else fails while kernels run: nobody knows what is left of the context */
    return fail(err, r >= CUDA_ERROR_ILLEGAL_ADDRESS || r == CUDA_ERROR_UNKNOWN ? DBRX_E_LOST : DBRX_E_IO,
                "%s: %s (CUDA error %d)", what, text, (int)r);
}
