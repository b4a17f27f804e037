/* plugins/abi.h -- what every dbrx shared object is.
 *
 * A module is one .so exporting one data symbol, `dbrx_module`.  The host reads
 * it before calling anything in the module (so: no ELF constructors), then asks
 * for interfaces by id.  That is the whole mechanism; a backend is a module that
 * answers "dbrx.backend/1", an instrument one that answers "dbrx.observer/1".
 *
 * Growth:  a struct may gain fields at its end (struct_size tells which exist);
 *          a new table gets a new id; a changed table gets id "/2";
 *          DBRX_ABI_MAJOR moves only if this file itself must break.
 * Memory:  nothing allocated on one side is freed on the other.  Results go to
 *          caller's buffers or to opaque handles closed by whoever opened them.
 * Strings: UTF-8.  Tables and the strings in them live as long as the process.
 * Streams: a module never writes to fd 0, 1 or 2, never calls exit(), never
 *          touches signals or the locale.
 * Threads: each function is tagged.  [any]: callable concurrently;
 *          [one/x]: never two at once on the same x; different x may overlap.
 * Floats:  the module is entered with the default floating-point environment. */
#ifndef DBRX_ABI_H
#define DBRX_ABI_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define DBRX_ABI_MAJOR 1
#define DBRX_ABI_MINOR 1               /* 1: dbrx_steer.source, dbrx_kv.extend */

#define DBRX_EXPORT __attribute__((visibility("default")))

/* Does the other side's struct reach as far as this field? */
#define DBRX_HAS(type, p, field) \
    ((p)->struct_size >= offsetof(type, field) + sizeof((p)->field))

/* How dead we are.  Anything below zero failed; the text says why. */
enum {
    DBRX_OK            =  0,
    DBRX_STOPPED       =  1,  /* the host asked; state is consistent        */
    DBRX_E_INVALID     = -1,  /* caller broke the contract; nothing changed */
    DBRX_E_NOMEM       = -2,  /* host or device memory; nothing changed     */
    DBRX_E_UNSUPPORTED = -3,  /* cannot, now or ever; nothing changed       */
    DBRX_E_FULL        = -4,  /* no room for the positions asked for; nothing changed */
    DBRX_E_IO          = -5,  /* a file or device could not be read; nothing changed  */
    DBRX_E_LOST        = -9   /* the handle is dead: only its close is allowed */
};
typedef int32_t dbrx_status;

/* Caller's, on its stack.  Written only on failure.  May be NULL. */
struct dbrx_error {
    dbrx_status code;
    char        text[252];    /* one line, no newline: what and why */
};

enum { DBRX_LOG_DEBUG, DBRX_LOG_INFO, DBRX_LOG_WARN, DBRX_LOG_ERROR,
       DBRX_LOG_CONTRACT /* the other side misbehaved */ };

/* Services the host lends to modules.  Outlives everything opened with it. */
struct dbrx_host {
    uint32_t struct_size;
    void    *ctx;
    /* [any] */
    void (*log)(const struct dbrx_host *, int level, const char *line);
    /* [any] wait-free.  Poll at least once per layer; true means: unwind to the
     * last whole token and return DBRX_STOPPED. */
    int  (*should_stop)(const struct dbrx_host *);
    /* [any] for work the user waits on; total 0 = unknown. */
    void (*progress)(const struct dbrx_host *, const char *what,
                     uint64_t done, uint64_t total);
    /* [any] host-side interfaces by id; NULL if unknown. */
    const void *(*get)(const struct dbrx_host *, const char *id);
};

struct dbrx_module_info {
    uint32_t    struct_size;             /* these first 8 bytes are frozen   */
    uint16_t    abi_major, abi_minor;    /* for every major version          */
    const char *name;                    /* [a-z0-9-]+, the file's stem: "cpu-blas" */
    const char *version;
    const char *summary;                 /* one line, for /backend           */
    /* [any] a static table, or NULL if the id is not implemented. */
    const void *(*get)(const char *id);
};

extern DBRX_EXPORT const struct dbrx_module_info dbrx_module;

#ifdef __cplusplus
}
#endif
#endif
