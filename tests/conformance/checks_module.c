/* tests/conformance/checks_module.c -- the module itself: what it exports, what it says of
 * itself, how it takes options. */
#include "tests/conformance/conformance.h"

#include <dlfcn.h>
#include <elf.h>
#include <fcntl.h>
#include <link.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

static bool one_line(const char *s)
{
    return s && *s && !strpbrk(s, "\r\n");
}

static int module_table(struct fx *f)
{
    const struct dbrx_module_info *m = f->sut.info;
    NEED(m->struct_size >= sizeof *m, "struct_size is %u", m->struct_size);
    NEED(m->abi_major == DBRX_ABI_MAJOR, "abi_major is %u", m->abi_major);
    NEED(one_line(m->version) && one_line(m->summary), "version or summary is not one line");
    return PASS;
}

/* What the file's section table tells: .dynsym's defined symbols, and who is in .init_array. */
struct elf {
    unsigned exported;
    bool sanitised, stripped;
    char stranger[80], constructor[80];    /* an exported symbol, an initialiser, not allowed */
};

/* Initialisers that the compiler itself adds are no constructors of the module's. */
static void read_constructors(const char *map, const ElfW(Shdr) *init, const char *base,
                              struct elf *out)
{
    const ElfW(Ehdr) *h = (const void *)map;
    const ElfW(Shdr) *sec = (const void *)(map + h->e_shoff);
    const ElfW(Shdr) *table = NULL;
    for (unsigned i = 0; i < h->e_shnum; i++)
        table = sec[i].sh_type == SHT_SYMTAB ? &sec[i] : table;
    out->stripped = !table;
    for (size_t i = 0; table && i < init->sh_size / sizeof(ElfW(Addr)); i++) {
        ElfW(Addr) at = ((const ElfW(Addr) *)(const void *)(base + init->sh_addr))[i];
        const ElfW(Sym) *sym = (const void *)(map + table->sh_offset);
        const char *str = map + sec[table->sh_link].sh_offset, *name = "a nameless function";
        for (size_t j = 1; j < table->sh_size / sizeof *sym; j++)
            if (ELF64_ST_TYPE(sym[j].st_info) == STT_FUNC && sym[j].st_shndx != SHN_UNDEF &&
                sym[j].st_value == at - (uintptr_t)base)
                name = str + sym[j].st_name;
        if (strcmp(name, "frame_dummy") && strcmp(name, "__cpu_indicator_init"))
            snprintf(out->constructor, sizeof out->constructor, "%s", name);
    }
}

static int read_elf(const struct fx *f, struct elf *out)
{
    const char *file = f->file;
    Dl_info where;
    NEED(dladdr(f->sut.info, &where), "dladdr knows nothing of dbrx_module");
    struct stat sb;
    int fd = open(file, O_RDONLY | O_CLOEXEC);
    NEED(fd >= 0 && fstat(fd, &sb) == 0, "%s cannot be opened", file);
    const char *map = mmap(NULL, (size_t)sb.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
    close(fd);
    NEED(map != MAP_FAILED, "%s cannot be mapped", file);
    const ElfW(Ehdr) *h = (const void *)map;
    const ElfW(Shdr) *sec = (const void *)(map + h->e_shoff);
    for (unsigned i = 0; i < h->e_shnum; i++) {
        if (sec[i].sh_type == SHT_INIT_ARRAY || sec[i].sh_type == SHT_PREINIT_ARRAY)
            read_constructors(map, &sec[i], where.dli_fbase, out);
        if (sec[i].sh_type != SHT_DYNSYM)
            continue;
        const ElfW(Sym) *sym = (const void *)(map + sec[i].sh_offset);
        const char *str = map + sec[sec[i].sh_link].sh_offset;
        for (size_t j = 1; j < sec[i].sh_size / sizeof *sym; j++) {
            const char *name = str + sym[j].st_name;
            out->sanitised |= !strncmp(name, "__asan_", 7) || !strncmp(name, "__tsan_", 7) ||
                              !strncmp(name, "__ubsan_", 8) || !strncmp(name, "__gcov", 6);
            if (sym[j].st_shndx == SHN_UNDEF)
                continue;
            out->exported++;
            if (strcmp(name, "dbrx_module") || ELF64_ST_TYPE(sym[j].st_info) != STT_OBJECT)
                snprintf(out->stranger, sizeof out->stranger, "%s", name);
        }
    }
    munmap((void *)map, (size_t)sb.st_size);
    return PASS;
}

static int one_symbol(struct fx *f)
{
    struct elf e = { .exported = 0 };
    if (read_elf(f, &e) != PASS)
        return FAIL;
    if (e.sanitised) {
        note("a sanitised or instrumented build");
        return SKIP;
    }
    NEED(!e.stranger[0], "%s is exported too", e.stranger);
    NEED(e.exported == 1, "%u symbols are exported", e.exported);
    return PASS;
}

static int no_constructors(struct fx *f)
{
    struct elf e = { .exported = 0 };
    if (read_elf(f, &e) != PASS)
        return FAIL;
    if (e.sanitised || e.stripped) {
        note(e.stripped ? "stripped of its symbols" : "a sanitised or instrumented build");
        return SKIP;
    }
    NEED(!e.constructor[0], "%s runs when the module is loaded", e.constructor);
    return PASS;
}

static int unknown_id(struct fx *f)
{
    static const char *const ids[] = { "", "dbrx.backend", "dbrx.backend/2", "dbrx.backend/10",
                                       "DBRX.BACKEND/1", "dbrx.nothing/1" };
    for (size_t i = 0; i < sizeof ids / sizeof *ids; i++)
        NEED(!f->sut.info->get(ids[i]), "get(\"%s\") is not NULL", ids[i]);
    return PASS;
}

static int static_tables(struct fx *f)
{
    const struct dbrx_module_info *m = f->sut.info;
    char id[] = DBRX_BACKEND;              /* by content, not by address */
    NEED(m->get(id) == f->sut.be, "get() gave another table the second time");
    NEED(m->get(DBRX_KV) == f->sut.kv && m->get(DBRX_HEAD) == f->sut.head &&
         m->get(DBRX_RESUME) == f->sut.resume,
         "get() gave another optional table the second time");
    return PASS;
}

static int complete_tables(struct fx *f)
{
    const struct dbrx_backend *b = f->sut.be;
    NEED(b->struct_size >= sizeof *b, "the backend table's struct_size is %u", b->struct_size);
    NEED(b->probe && b->model_open && b->model_close && b->session_open && b->session_close &&
         b->eval && b->position && b->truncate, "the backend table has a NULL function");
    NEED(!f->sut.kv || (DBRX_HAS(struct dbrx_kv, f->sut.kv, commit) && f->sut.kv->export_kv &&
                        f->sut.kv->import_kv && f->sut.kv->commit), "%s is incomplete", DBRX_KV);
    NEED(!f->sut.head || (f->sut.head->struct_size >= sizeof *f->sut.head && f->sut.head->head),
         "%s is incomplete", DBRX_HEAD);
    NEED(!f->sut.resume || (f->sut.resume->struct_size >= sizeof *f->sut.resume && f->sut.resume->resume),
         "%s is incomplete", DBRX_RESUME);
    return PASS;
}

static int options_listed(struct fx *f)
{
    NEED(f->sut.be->options, "options is NULL; an empty list ends at its first entry");
    for (const struct dbrx_option *o = f->sut.be->options; o->name; o++) {
        NEED(*o->name && !strpbrk(o->name, "= \t\r\n"), "option name \"%s\"", o->name);
        NEED(o->fallback && one_line(o->help), "option %s lacks its fallback or help", o->name);
        for (const struct dbrx_option *p = f->sut.be->options; p != o; p++)
            NEED(strcmp(p->name, o->name), "option %s is listed twice", o->name);
    }
    return PASS;
}

static int probe(struct fx *f)
{
    struct { unsigned char before[64]; struct dbrx_probe p; unsigned char after[64]; } g;
    struct guarded e;
    memset(&g, 0xa5, sizeof g);
    g.p.struct_size = sizeof g.p + 32;     /* a newer host's: `after` begins with new fields */
    dbrx_status st = f->sut.be->probe(&f->sut.watch->host, &g.p, guarded_init(&e));
    NEED(st == DBRX_OK, "probe returned %d", (int)st);
    NEED(!guarded_fault(&e, st), "%s", guarded_fault(&e, st));
    NEED(g.p.struct_size == sizeof g.p + 32, "probe changed struct_size");
    for (size_t i = 0; i < sizeof g.after; i++)
        NEED(g.before[i] == 0xa5 && g.after[i] == 0xa5, "probe wrote outside its structure");
    NEED(g.p.score > 0, "the score was above zero and now is %d", g.p.score);
    NEED(memchr(g.p.device, '\0', sizeof g.p.device), "device does not end");
    NEED(memchr(g.p.reason, '\0', sizeof g.p.reason), "reason does not end");
    NEED(one_line(g.p.device), "device is not one line");
    NEED(g.p.mem_free <= g.p.mem_total, "more memory is free than there is");
    st = f->sut.be->probe(&f->sut.watch->host, &g.p, NULL);
    NEED(st == DBRX_OK, "probe with a NULL error returned %d", (int)st);
    return PASS;
}

static int unknown_option(struct fx *f)
{
    static const char *const bad[] = { "no-such-option=1", "no-such-option", "=", "" };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        const char *const opt[] = { bad[i], NULL };
        dbrx_model *m = NULL;
        REFUSED(DBRX_E_INVALID,
                f->sut.be->model_open(&f->sut.watch->host, &f->rm->desc, opt, &m, err));
        NEED(!m, "a model came back all the same");
    }
    return PASS;
}

static int absurd_values(struct fx *f)
{
    static const char *const values[] = { "", "-1", "?!", "99999999999999999999" };
    for (const struct dbrx_option *o = f->sut.be->options; o->name; o++)
        for (size_t i = 0; i < sizeof values / sizeof *values; i++) {
            char text[256];
            const char *const opt[] = { text, NULL };
            dbrx_model *m;
            struct guarded g;
            snprintf(text, sizeof text, "%s=%s", o->name, values[i]);
            dbrx_status st = f->sut.be->model_open(&f->sut.watch->host, &f->rm->desc, opt, &m,
                                                   guarded_init(&g));
            NEED(st == DBRX_OK || st == DBRX_E_INVALID, "%s: returned %d", text, (int)st);
            NEED(!guarded_fault(&g, st), "%s: %s", text, guarded_fault(&g, st));
            if (st == DBRX_OK)             /* some option may take anything */
                f->sut.be->model_close(m);
        }
    return PASS;
}

const struct check checks_module[] = {
    { "C1",  "dbrx_module has the ABI's major, a version and a summary", module_table, ONCE, 0 },
    { "C2",  "exactly one symbol is exported: dbrx_module, data", one_symbol, ONCE, 0 },
    { "C3",  "no ELF constructors", no_constructors, ONCE, 0 },
    { "C4",  "get() of an unknown interface id is NULL", unknown_id, ONCE, 0 },
    { "C5",  "get() compares contents and always gives the same static table", static_tables,
      ONCE, 0 },
    { "C6",  "every function of an offered table is there", complete_tables, ONCE, 0 },
    { "C7",  "options end at name == NULL; each has a fallback and help", options_listed, ONCE, 0 },
    { "C8",  "probe fills its structure and nothing else", probe, ONCE, 0 },
    { "C9",  "an unknown option is DBRX_E_INVALID", unknown_option, ONCE, 0 },
    { "C10", "an option's absurd value is DBRX_E_INVALID, if not fine", absurd_values, ONCE, 0 },
    { NULL, NULL, NULL, ONCE, 0 },
};
