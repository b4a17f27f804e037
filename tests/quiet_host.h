/* tests/quiet_host.h -- a host that logs nothing, shows nothing and offers nothing, for tests and
 * bench programs; whether it stops is theirs to say:
 *
 *     static const struct dbrx_host host = QUIET_HOST(host_never); */
#ifndef TESTS_QUIET_HOST_H
#define TESTS_QUIET_HOST_H

#include "plugins/abi.h"

#include <stddef.h>

#define QUIET_HOST(should_stop) { sizeof(struct dbrx_host), NULL, host_mute, should_stop, host_idle, host_nothing }

__attribute__((unused))
static int host_never(const struct dbrx_host *h)
{
    (void)h;
    return 0;
}

static void host_mute(const struct dbrx_host *h, int level, const char *line)
{
    (void)h, (void)level, (void)line;
}

__attribute__((unused))
static void host_idle(const struct dbrx_host *h, const char *what, uint64_t done, uint64_t total)
{
    (void)h, (void)what, (void)done, (void)total;
}

static const void *host_nothing(const struct dbrx_host *h, const char *id)
{
    (void)h, (void)id;
    return NULL;
}

#endif
