/* plugins/observer.h -- "dbrx.observer/1": an instrument.
 * Watches tokens and routing, may add a command; never computes, never prints:
 * it hands rows to the host, which renders them as text or JSON. */
#ifndef DBRX_OBSERVER_H
#define DBRX_OBSERVER_H

#include "backends/backend.h"

#ifdef __cplusplus
extern "C" {
#endif

struct dbrx_rows {                         /* the host's; valid during run()   */
    uint32_t struct_size;
    void *ctx;
    void (*columns)(void *ctx, const char *const *name);      /* NULL-ended    */
    void (*text)(void *ctx, const char *);                    /* the next cell */
    void (*num)(void *ctx, double);
    void (*end_row)(void *ctx);
};

#define DBRX_OBSERVER "dbrx.observer/1"
struct dbrx_observer {                     /* all [one/self]; open is [any]    */
    uint32_t struct_size;
    const char *command, *usage, *help;    /* "experts", "[LAYER]", "..."; command may be NULL */
    dbrx_status (*open)(const struct dbrx_host *, const struct dbrx_config *,
                        void **self, struct dbrx_error *);
    void (*close)(void *self);
    /* The timeline keeps positions below n_keep; 0: a new one begins. */
    void (*on_truncate)(void *self, uint32_t n_keep);
    void (*on_token)(void *self, uint32_t pos, int32_t token, int generated);
    /* Only positions that stay: the host holds routes back until eval returns. */
    void (*on_route)(void *self, const struct dbrx_route *);
    dbrx_status (*run)(void *self, int argc, const char *const *argv,
                       const struct dbrx_rows *, struct dbrx_error *);
};

#ifdef __cplusplus
}
#endif
#endif
