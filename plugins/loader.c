/* plugins/loader.c -- dlopen, read `dbrx_module`, refuse what does not fit.
 * See loader.h.  Nothing in a module is called here; only its data is read. */
#define _GNU_SOURCE
#include "plugins/loader.h"

#include "plugins/fail.h"

#include <dirent.h>
#include <dlfcn.h>
#include <elf.h>
#include <errno.h>
#include <link.h>
#include <stdlib.h>
#include <string.h>

static const char *base_name(const char *path)
{
    const char *slash = strrchr(path, '/');
    return slash ? slash + 1 : path;
}

/* [a-z0-9-]+ and equal to the file's stem */
static int name_fits(const char *name, const char *file)
{
    size_t n = name ? strspn(name, "abcdefghijklmnopqrstuvwxyz0123456789-") : 0;
    const char *stem = base_name(file);
    return n && !name[n] && !strncmp(stem, name, n) && !strcmp(stem + n, ".so");
}

dbrx_status module_open(const char *file, const struct dbrx_module_info **out,
                        struct dbrx_error *err)
{
    *out = NULL;
    if (!strchr(file, '/'))                /* or dlopen would go and look for it */
        return fail(err, DBRX_E_INVALID, "%s: a module is opened by its path, as ./%s", file, file);
    void *dl = dlopen(file, RTLD_NOW | RTLD_LOCAL);
    if (!dl) {
        const char *why = dlerror();
        size_t n = strlen(file);    /* glibc begins most messages with the path: say it once */
        if (!strncmp(why, file, n) && !strncmp(why + n, ": ", 2))
            why += n + 2;
        return fail(err, DBRX_E_UNSUPPORTED, "%s cannot be loaded: %s", base_name(file), why);
    }
    const struct dbrx_module_info *m = dlsym(dl, "dbrx_module");
    if (!m) {
        dlclose(dl);
        return fail(err, DBRX_E_UNSUPPORTED, "%s is not a dbrx module: it exports no dbrx_module",
                    base_name(file));
    }
    Dl_info where;
    const ElfW(Sym) *sym = NULL;
    if (dladdr1(m, &where, (void **)&sym, RTLD_DL_SYMENT) && sym &&
        ELF64_ST_TYPE(sym->st_info) != STT_OBJECT)
        return fail(err, DBRX_E_UNSUPPORTED,
                    "%s is not a dbrx module: its dbrx_module is not data", base_name(file));
    if (m->struct_size < 8 || m->abi_major != DBRX_ABI_MAJOR)
        return fail(err, DBRX_E_UNSUPPORTED, "%s speaks module ABI %u.%u; this dbrx speaks %d.x",
                    base_name(file), m->abi_major, m->abi_minor, DBRX_ABI_MAJOR);
    if (!DBRX_HAS(struct dbrx_module_info, m, get) || !m->get || !m->version || !m->summary)
        return fail(err, DBRX_E_UNSUPPORTED, "%s has an incomplete dbrx_module table",
                    base_name(file));
    if (!name_fits(m->name, file))
        return fail(err, DBRX_E_UNSUPPORTED, "%s calls itself \"%.40s\": file and module name differ",
                    base_name(file), m->name ? m->name : "");
    *out = m;
    return DBRX_OK;
}

static int is_so(const struct dirent *d)
{
    const char *dot = strrchr(d->d_name, '.');
    return dot && dot != d->d_name && !strcmp(dot, ".so");
}

static int known(const struct modules *ms, const char *file)
{
    for (size_t i = 0; i < ms->n; i++)
        if (!strcmp(base_name(ms->list[i].path), file))
            return 1;
    return 0;
}

static dbrx_status scan_dir(struct modules *ms, const char *dir)
{
    struct dirent **ent;
    int n = scandir(dir, &ent, is_so, alphasort);
    if (n < 0)
        return errno == ENOMEM ? DBRX_E_NOMEM : DBRX_OK;
    dbrx_status st = DBRX_OK;
    for (int i = 0; i < n; i++) {
        if (st == DBRX_OK && !known(ms, ent[i]->d_name)) {
            struct module *list = realloc(ms->list, (ms->n + 1) * sizeof *list);
            if (list)
                ms->list = list;
            struct module m = { 0 };
            if (!list || asprintf(&m.path, "%s/%s", dir, ent[i]->d_name) < 0) {
                st = DBRX_E_NOMEM;
            } else {
                struct dbrx_error e;
                if (module_open(m.path, &m.info, &e) != DBRX_OK)
                    snprintf(m.why, sizeof m.why, "%s", e.text);
                ms->list[ms->n++] = m;
            }
        }
        free(ent[i]);
    }
    free(ent);
    return st;
}

dbrx_status modules_scan(struct modules *ms, const char *path, struct dbrx_error *err)
{
    char *copy = strdup(path), *save = NULL;
    dbrx_status st = copy ? DBRX_OK : DBRX_E_NOMEM;
    for (char *dir = copy ? strtok_r(copy, ":", &save) : NULL; dir && st == DBRX_OK;
         dir = strtok_r(NULL, ":", &save))
        if (dir[0] == '/')
            st = scan_dir(ms, dir);
    free(copy);
    return st == DBRX_OK ? st : fail(err, st, "out of memory while looking for modules");
}

void modules_free(struct modules *ms)
{
    for (size_t i = 0; i < ms->n; i++)
        free(ms->list[i].path);
    free(ms->list);
    *ms = (struct modules){ 0 };
}
