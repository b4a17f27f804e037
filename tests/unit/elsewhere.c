/* tests/unit/elsewhere.c -- the smallest backend there can be, as someone else would write
 * it: built out of tree by install.sh.  It opens nothing and says so. */
#include "backends/backend.h"

#include <stdio.h>
#include <string.h>

static const struct dbrx_option options[] = { { NULL, NULL, NULL } };

static dbrx_status probe(const struct dbrx_host *host, struct dbrx_probe *p,
                         struct dbrx_error *err)
{
    (void)host, (void)err;
    p->score = 0;
    snprintf(p->device, sizeof p->device, "none");
    snprintf(p->reason, sizeof p->reason, "it is only an example");
    return DBRX_OK;
}

static const struct dbrx_backend backend = {
    .struct_size = sizeof backend, .options = options, .probe = probe,
};

static const void *get(const char *id)
{
    return strcmp(id, DBRX_BACKEND) ? NULL : &backend;
}

DBRX_EXPORT const struct dbrx_module_info dbrx_module = {
    .struct_size = sizeof dbrx_module, .abi_major = DBRX_ABI_MAJOR, .abi_minor = DBRX_ABI_MINOR,
    .name = "elsewhere", .version = "1", .summary = "an example", .get = get,
};
