/* plugins/loader.h -- find, open and check modules.
 *
 * The one place that calls dlopen.  A module stays loaded for the life of the
 * process.  Knows what a module is, not what its interfaces mean. */
#ifndef DBRX_PLUGINS_LOADER_H
#define DBRX_PLUGINS_LOADER_H

#include "plugins/abi.h"

struct module {
    char *path;
    const struct dbrx_module_info *info;   /* NULL: could not be loaded, see why */
    char  why[252];
};

struct modules {                           /* zero-initialise */
    struct module *list;                   /* [n] */
    size_t n;
    int insecure;                          /* 1: take what anybody can write to, too */
    /* NULL, or asked before a module comes into the process; 0, or -1 and why it must not.
     * Not for those in the last directory, the program's own. */
    int (*trial)(const char *path, char *why, size_t size);
};

/* [one/modules] Opens every *.so in the colon-separated directories of `path`, in
 * that order, names sorted within a directory; the first of a name wins.  Files
 * that are no usable module are listed too, with the reason.  Directories that do
 * not exist or are relative are passed over.  Only out-of-memory fails. */
dbrx_status modules_scan(struct modules *, const char *path, struct dbrx_error *);
void modules_free(struct modules *);

/* [one/modules] Opens one file and checks what it exports: a data symbol of the
 * right ABI major and a sane table.  err says what is wrong with it. */
dbrx_status module_open(const char *file, const struct dbrx_module_info **,
                        struct dbrx_error *);

#endif
