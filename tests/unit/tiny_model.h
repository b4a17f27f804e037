/* tests/unit/tiny_model.h -- the tiny golden checkpoint and the modules of this build, for tests
 * that run the one on the others. */
#ifndef TESTS_UNIT_TINY_MODEL_H
#define TESTS_UNIT_TINY_MODEL_H

#include "backends/model/checkpoint.h"
#include "plugins/loader.h"
#include "tests/quiet_host.h"
#include "tests/tap.h"

/* those that a test goes through */
__attribute__((unused)) static const char *const tiny_backends[] = { "ref", "cpu-blas", "cuda-emu" };
enum { TINY_BACKENDS = 3 };

/* The checkpoint, and *mods; modules_free() and ckpt_close() them.  Without them the test ends. */
static struct ckpt *tiny_open(struct modules *mods)
{
    struct dbrx_error err = { 0 };
    struct ckpt *ck = NULL;
    char dir[4096], path[8300];
    const char *emulated = getenv("EMULATED");
    snprintf(path, sizeof path, "%s:%s", getenv("MODULES"), emulated ? emulated : "");
    snprintf(dir, sizeof dir, "%s/tests/data/tiny-bf16", getenv("srcdir"));
    if (ckpt_open(dir, &ck, &err) != DBRX_OK || modules_scan(mods, path, &err) != DBRX_OK)
        bail("%s", err.text);
    return ck;
}

#endif
