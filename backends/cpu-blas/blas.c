/* backends/cpu-blas/blas.c -- opens OpenBLAS.  See blas.h.
 *
 * OpenBLAS picks its kernels when it is loaded, by CPU model; a model newer than the
 * library gets an old kernel at half the speed.  OPENBLAS_CORETYPE is its only way to be
 * told, hence dlopen after setenv instead of linking.  What the user has set stays.
 * Threads are ours (pool.c): the library runs one per call. */
#define _GNU_SOURCE
#include "config.h"

#include "backends/cpu-blas/blas.h"

#include "backends/cpu-blas/isa.h"
#include "plugins/fail.h"

#include <dlfcn.h>
#include <pthread.h>
#include <stdlib.h>

static pthread_once_t once = PTHREAD_ONCE_INIT;
static struct blas lib;
static char why[200];

/* Only a kernel that the CPU can run; NULL leaves the choice to OpenBLAS. */
static const char *core_type(void)
{
    if (isa_avx512())
        return "SkylakeX";
    if (isa_avx2())
        return "Haswell";
    return NULL;
}

static void load(void)
{
    const char *core = core_type();
    if (core)
        setenv("OPENBLAS_CORETYPE", core, 0);
    setenv("OPENBLAS_NUM_THREADS", "1", 0);
    void *dl = dlopen(OPENBLAS_SONAME, RTLD_NOW | RTLD_LOCAL);
    if (!dl) {
        snprintf(why, sizeof why, "OpenBLAS cannot be loaded: %.150s", dlerror());
        return;
    }
    void (*set_threads)(int) = (void (*)(int))dlsym(dl, "openblas_set_num_threads");
    char *(*corename)(void) = (char *(*)(void))dlsym(dl, "openblas_get_corename");
    lib.sgemm = (__typeof__(lib.sgemm))dlsym(dl, "cblas_sgemm");
    if (!lib.sgemm || !set_threads || !corename) {
        lib.sgemm = NULL;
        snprintf(why, sizeof why, "%s is not OpenBLAS", OPENBLAS_SONAME);
        return;
    }
    set_threads(1);
    lib.core = corename();
}

dbrx_status blas_open(struct blas *b, struct dbrx_error *err)
{
    pthread_once(&once, load);
    *b = lib;
    return lib.sgemm ? DBRX_OK : fail(err, DBRX_E_UNSUPPORTED, "%s", why);
}
