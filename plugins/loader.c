/* plugins/loader.c -- dlopen, read `dbrx_module`, refuse what does not fit.
 * See loader.h.  Nothing in a module is called here; only its data is read. */
#define _GNU_SOURCE
#include "plugins/loader.h"

#include "plugins/fail.h"

#include <dirent.h>
#include <dlfcn.h>
#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <link.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

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

/* Does the file end before what its headers say is in it?  The system's loader maps it all the
 * same, and dies where something is missing. */
static int is_truncated(const char *file)
{
    ElfW(Ehdr) h;
    ElfW(Phdr) p;
    struct stat st;
    int cut = 0, fd = open(file, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0)
        return 0;
    int elf = !fstat(fd, &st) && pread(fd, &h, sizeof h, 0) == sizeof h && !memcmp(h.e_ident, ELFMAG, SELFMAG) &&
              h.e_phentsize == sizeof p;
    for (unsigned i = 0; elf && !cut && i < h.e_phnum; i++)
        cut = pread(fd, &p, sizeof p, (off_t)(h.e_phoff + i * sizeof p)) != sizeof p ||
              (p.p_type == PT_LOAD && (p.p_offset > (uint64_t)st.st_size || p.p_filesz > (uint64_t)st.st_size - p.p_offset));
    close(fd);
    return cut;
}

dbrx_status module_open(const char *file, const struct dbrx_module_info **out,
                        struct dbrx_error *err)
{
    *out = NULL;
    if (!strchr(file, '/'))                /* or dlopen would go and look for it */
        return fail(err, DBRX_E_INVALID, "%s: a module is opened by its path, as ./%s", file, file);
    struct stat st;
    if (!stat(file, &st) && !S_ISREG(st.st_mode))      /* a pipe would be waited for */
        return fail(err, DBRX_E_UNSUPPORTED, "%s cannot be loaded: it is no regular file", base_name(file));
    if (is_truncated(file))
        return fail(err, DBRX_E_UNSUPPORTED, "%s cannot be loaded: it is truncated", base_name(file));
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
    if (sym && sym->st_size < 8)
        return fail(err, DBRX_E_UNSUPPORTED, "%s is not a dbrx module: its dbrx_module has %zu bytes", base_name(file),
                    (size_t)sym->st_size);
    if (m->struct_size < 8 || m->abi_major != DBRX_ABI_MAJOR)
        return fail(err, DBRX_E_UNSUPPORTED, "%s speaks module ABI %u.%u; this dbrx speaks %d.x",
                    base_name(file), m->abi_major, m->abi_minor, DBRX_ABI_MAJOR);
    if (sym && m->struct_size > sym->st_size)
        return fail(err, DBRX_E_UNSUPPORTED, "%s is not a dbrx module: its dbrx_module has %zu bytes and says that it "
                    "has %u", base_name(file), (size_t)sym->st_size, m->struct_size);
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

static int others_write(const char *path)
{
    struct stat st;
    return !stat(path, &st) && st.st_mode & S_IWOTH;
}

/* What is wrong with who may write there, or NULL: by the name it is looked for, and where a
 * link leads */
static const char *open_to_all(const char *path, const char *dir)
{
    char *real = realpath(path, NULL);     /* without one the loader says why */
    const char *why = others_write(dir) ? "anybody can write to its folder" : others_write(path) ? "anybody can write to it" : NULL;
    if (real && !why) {
        *strrchr(real, '/') = '\0';
        why = others_write(*real ? real : "/") ? "anybody can write to the folder that it is a link to" : NULL;
    }
    free(real);
    return why;
}

/* A usable module, or why it is none */
static void take(const struct modules *ms, struct module *m, const char *dir, int own)
{
    struct dbrx_error e;
    char why[160];
    const char *open = ms->insecure ? NULL : open_to_all(m->path, dir);
    if (open)
        snprintf(m->why, sizeof m->why, "%.60s was not loaded: %s; chmod o-w, or dbrx --allow-insecure-modules",
                 base_name(m->path), open);
    else if (!own && ms->trial && ms->trial(m->path, why, sizeof why))
        snprintf(m->why, sizeof m->why, "%.60s was not loaded: %s", base_name(m->path), why);
    else if (module_open(m->path, &m->info, &e) != DBRX_OK)
        snprintf(m->why, sizeof m->why, "%s", e.text);
}

static dbrx_status scan_dir(struct modules *ms, const char *dir, int own)
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
                take(ms, &m, dir, own);
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
            st = scan_dir(ms, dir, !*save);
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
