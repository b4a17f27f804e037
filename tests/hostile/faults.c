/* tests/hostile/faults.c -- what the machine refuses, refused once, at every place where it can be.
 *
 *     faults [OPERATION [KIND [N]]]       (DBRX_LONG=1: every N; else ever larger steps)
 *
 * All below main is linked here with the sanitizers and with ld --wrap around what can fail:
 * memory, mappings, files, threads; so are copies of the backends, the modules faulty.so (ref) and
 * faulty-cpu.so (cpu-blas).  Each
 * operation runs with the N-th call of one kind failing, N = 0, 1, 2 ... until none is left.
 * Afterwards: it was done, or one sentence says why not; nothing is lost of the conversation and
 * the next line works; files are as they were or as they should be, none is half written or
 * left over; and nothing leaks.  One process an operation. */
#define _GNU_SOURCE
#include "config.h"

#include "repl/commands.h"
#include "repl/shell.h"
#include "repl/signals.h"
#include "repl/tools.h"
#include "repl/weights.h"
#include "tests/tap.h"
#include "tests/unit/model_files.h"

#include <dirent.h>
#include <errno.h>
#include <pthread.h>
#include <stdarg.h>
#include <sys/mman.h>
#include <sys/wait.h>

enum kind { MEMORY, MAPPING, OPENING, READING, WRITING, SYNCING, RENAMING, THREADS, N_KINDS };
static const char *const kind_name[] = { "memory", "mmap", "open", "read", "write", "fsync", "rename", "pthread_create" };
static const int kind_errno[] = { ENOMEM, ENOMEM, EMFILE, EIO, ENOSPC, EIO, EACCES, EAGAIN };

/* ---- the faults; the symbols are the linker's, faulty.so finds them here, too ---- */

#define SEEN __attribute__((visibility("default")))
static int armed = -1;                     /* the kind, or -1 */
static long left, calls;

/* Is it this call that fails? */
SEEN int fault_now(int kind);
int fault_now(int kind)
{
    if (kind != armed)
        return 0;
    calls++;
    if (__atomic_fetch_sub(&left, 1, __ATOMIC_RELAXED) != 0)
        return 0;
    errno = kind_errno[kind];
    return 1;
}

#define WRAP(type, name, args, kind, failed, call) \
    type __real_##name args; \
    SEEN type __wrap_##name args; \
    type __wrap_##name args { return fault_now(kind) ? failed : __real_##name call; }

WRAP(void *, malloc, (size_t n), MEMORY, NULL, (n))
WRAP(void *, calloc, (size_t n, size_t size), MEMORY, NULL, (n, size))
WRAP(void *, realloc, (void *p, size_t n), MEMORY, NULL, (p, n))
WRAP(void *, aligned_alloc, (size_t align, size_t n), MEMORY, NULL, (align, n))
WRAP(char *, strdup, (const char *s), MEMORY, NULL, (s))
WRAP(char *, strndup, (const char *s, size_t n), MEMORY, NULL, (s, n))
WRAP(FILE *, open_memstream, (char **p, size_t *n), MEMORY, NULL, (p, n))
WRAP(void *, mmap, (void *at, size_t n, int prot, int flags, int fd, off_t off), MAPPING, MAP_FAILED, (at, n, prot, flags, fd, off))
WRAP(FILE *, fopen, (const char *name, const char *mode), OPENING, NULL, (name, mode))
WRAP(FILE *, fdopen, (int fd, const char *mode), MEMORY, NULL, (fd, mode))
WRAP(int, mkostemp, (char *name, int flags), OPENING, -1, (name, flags))
WRAP(DIR *, opendir, (const char *name), OPENING, NULL, (name))
WRAP(ssize_t, read, (int fd, void *p, size_t n), READING, -1, (fd, p, n))
WRAP(ssize_t, pread, (int fd, void *p, size_t n, off_t at), READING, -1, (fd, p, n, at))
WRAP(ssize_t, write, (int fd, const void *p, size_t n), WRITING, -1, (fd, p, n))
WRAP(ssize_t, pwrite, (int fd, const void *p, size_t n, off_t at), WRITING, -1, (fd, p, n, at))
WRAP(int, ftruncate, (int fd, off_t n), WRITING, -1, (fd, n))
WRAP(int, fsync, (int fd), SYNCING, -1, (fd))
WRAP(int, rename, (const char *a, const char *b), RENAMING, -1, (a, b))
WRAP(int, pthread_create, (pthread_t *t, const pthread_attr_t *a, void *(*f)(void *), void *x), THREADS, EAGAIN, (t, a, f, x))

/* a FILE keeps in mind that something failed */
static int mark(FILE *f)
{
    f->_flags |= 0x20;                     /* glibc's _IO_ERR_SEEN */
    return 0;
}
#define WRAP_STREAM(type, name, args, kind, f, failed, call) \
    type __real_##name args; \
    SEEN type __wrap_##name args; \
    type __wrap_##name args { return fault_now(kind) ? (mark(f), (type)failed) : __real_##name call; }
WRAP_STREAM(size_t, fwrite, (const void *p, size_t size, size_t n, FILE *f), WRITING, f, 0, (p, size, n, f))
WRAP_STREAM(size_t, fread, (void *p, size_t size, size_t n, FILE *f), READING, f, 0, (p, size, n, f))
WRAP_STREAM(int, fflush, (FILE *f), WRITING, f, EOF, (f))
WRAP_STREAM(ssize_t, getline, (char **line, size_t *n, FILE *f), READING, f, -1, (line, n, f))

int __real_openat(int at, const char *path, int flags, ...);
SEEN int __wrap_openat(int at, const char *path, int flags, ...);
SEEN int __wrap_open(const char *path, int flags, ...);
int __wrap_openat(int at, const char *path, int flags, ...)
{
    va_list ap;
    va_start(ap, flags);
    int mode = flags & O_CREAT ? va_arg(ap, int) : 0;
    va_end(ap);
    return fault_now(OPENING) ? -1 : __real_openat(at, path, flags, mode);
}
int __wrap_open(const char *path, int flags, ...)
{
    va_list ap;
    va_start(ap, flags);
    int mode = flags & O_CREAT ? va_arg(ap, int) : 0;
    va_end(ap);
    return fault_now(OPENING) ? -1 : __real_openat(AT_FDCWD, path, flags, mode);
}

int __real_vasprintf(char **out, const char *fmt, va_list ap);
SEEN int __wrap_vasprintf(char **out, const char *fmt, va_list ap);
SEEN int __wrap_asprintf(char **out, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
int __wrap_vasprintf(char **out, const char *fmt, va_list ap)
{
    return fault_now(MEMORY) ? -1 : __real_vasprintf(out, fmt, ap);
}
int __wrap_asprintf(char **out, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    int n = fault_now(MEMORY) ? -1 : __real_vasprintf(out, fmt, ap);
    va_end(ap);
    return n;
}

static void arm(int kind, long n)
{
    armed = kind;
    left = n;
    calls = 0;
}

/* 1: it came to the fault */
static int disarm(void)
{
    armed = -1;
    return left < 0;
}

/* ---- the world ---- */

static char *dir;
static struct shell sh;
static const char *faulty = "faulty";      /* the backend of this operation */
static int report, quiet;                  /* TAP goes to the one, all that is said to the other */

static void link_to(const char *from, const char *to)
{
    char path[4096];
    snprintf(path, sizeof path, "%s/%s", mf_source_dir(), from);
    char *real = realpath(path, NULL);
    if (!real || symlink(real, to))
        bail("%s/%s cannot be made", dir, to);
    free(real);
}

static int open_shell(struct shell *s, const char *backend)
{
    struct shell_options o = { .model = "tiny", .backend = backend, .module_path = getenv("FAULTY"), .ctx = 96 };
    char why[200];
    render_init(&s->out, 0);
    int code = vars_init(&s->vars) ? render_error(&s->out, "out of memory") : shell_open(s, &o);     /* as main does */
    if (!code)
        vars_set(&s->vars, VAR_MAX_TOKENS, "1", FROM_SESSION, why, sizeof why);
    return code;
}

static int line(const char *text)
{
    return shell_line(&sh, text, strlen(text));
}

/* ---- operations: 0 or failed ---- */

static int op_open(void)                   /* a checkpoint, its tokenizer, its backend */
{
    static struct shell other;
    int code = open_shell(&other, faulty);
    shell_close(&other);
    memset(&other, 0, sizeof other);
    return code;
}

static int op_text(void)  { return line("Once upon a time"); }
static int op_reply(void) { return line("/set max_tokens 8") || line("/feed 4 5 6") || line("/continue"); }
static int back(void)
{
    char text[64];
    snprintf(text, sizeof text, "/backend %s", faulty);
    return line(text);
}
static int op_switch(void)                 /* to the one that can fail */
{
    int kind = armed;
    armed = -1;
    int failed = line("/backend ref");
    armed = kind;
    return failed || back();
}
static int op_save(void)  { return line("/save kept --kv"); }
static int op_load(void)  { return line("/load good"); }
static int op_export(void) { return line("/export route r.npz"); }
static int op_json(void)  { return line("/export json t.json"); }
static int op_dump(void)  { return line("/dump dumped"); }
static int op_atlas(void) { return line("/atlas a.html"); }
static int op_route(void) { return line("/route"); }
static int op_steer(void) { return line("/ban 1@0") || line("/steer save p.json") || line("/steer load p.json") || line("/steer off"); }
static int op_tree(void)                   /* another name each time: a fault leaves it there */
{
    static int n;
    char fork[32], drop[32];
    snprintf(fork, sizeof fork, "/branch b%d", ++n);
    snprintf(drop, sizeof drop, "/branch b%d --drop", n);
    return line(fork) || line("/undo") || line("/redo") || line("/new") || line(drop);
}

static int op_quantize(void)
{
    char *argv[] = { (char[]){ "quantize" }, (char[]){ "--type" }, (char[]){ "q8_0" }, (char[]){ "tiny" }, (char[]){ "q.gguf" }, NULL };
    optind = 0;
    return tool_quantize(5, argv);
}
static int op_trace(void)                  /* a prompt of a batch, a file of it */
{
    if (system("rm -rf traced"))
        return -1;
    char *argv[] = { (char[]){ "trace" }, (char[]){ "-b" }, (char *)faulty, (char[]){ "-m" }, (char[]){ "tiny" }, (char[]){ "--module-path" }, getenv("FAULTY"), (char[]){ "--ctx" },
                     (char[]){ "96" }, (char[]){ "--prompts" }, (char[]){ "prompts" }, (char[]){ "--out" }, (char[]){ "traced" }, NULL };
    optind = 0;
    return tool_trace(13, argv);
}

static const struct operation { const char *name; int (*run)(void); const char *file, *backend; } operations[] = {
    { "open", op_open, NULL, NULL }, { "text", op_text, NULL, NULL }, { "reply", op_reply, NULL, NULL }, { "switch", op_switch, NULL, NULL }, { "save", op_save, "kept", NULL },
    { "load", op_load, "good", NULL }, { "export", op_export, "r.npz", NULL }, { "json", op_json, "t.json", NULL }, { "dump", op_dump, NULL, NULL },
    { "atlas", op_atlas, "a.html", NULL }, { "route", op_route, NULL, NULL }, { "steer", op_steer, "p.json", NULL }, { "branch", op_tree, NULL, NULL },
    { "quantize", op_quantize, "q.gguf", NULL }, { "trace", op_trace, NULL, NULL },
    { "cpu-open", op_open, NULL, "faulty-cpu" }, { "cpu-text", op_text, NULL, "faulty-cpu" }, { "cpu-reply", op_reply, NULL, "faulty-cpu" },
    { "cpu-switch", op_switch, NULL, "faulty-cpu" }, { "cpu-load", op_load, "good", "faulty-cpu" } };
enum { N_OPERATIONS = sizeof operations / sizeof *operations };

/* ---- what must hold ---- */

static char *read_all(const char *name, size_t *n)
{
    FILE *f = fopen(name, "rb");
    char *text = NULL;
    *n = 0;
    if (f && !fseek(f, 0, SEEK_END)) {
        *n = (size_t)ftell(f);
        rewind(f);
        text = malloc(*n + 1);
        if (fread(text, 1, *n, f) != *n)
            *n = 0;
        text[*n] = '\0';
    }
    if (f)
        fclose(f);
    return text;
}

static int failures;
static void wrong(const struct operation *o, int kind, long n, const char *what)
{
    size_t len;
    char *said = read_all("said", &len);
    if (failures++ < 12) {
        dprintf(report, "# %s, %s call %ld: %s\n", o->name, kind_name[kind], n, what);
        for (char *s = said; s && *s; s += strcspn(s, "\n"), s += *s == '\n')
            dprintf(report, "#     %.*s\n", (int)strcspn(s, "\n"), s);
    }
    free(said);
}

static int leftovers(void)
{
    DIR *d = opendir(".");
    int n = 0;
    for (const struct dirent *e; d && (e = readdir(d)); ) {
        size_t len = strlen(e->d_name);
        const char *dot = len > 7 ? e->d_name + len - 7 : "";
        n += *dot == '.' && strspn(dot + 1, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789") == 6 &&
             strcmp(e->d_name, "kept.tmp");
    }
    if (d)
        closedir(d);
    return n;
}

static void check(const struct operation *o, int kind, long n, int failed, const int32_t *was, uint32_t n_was, const char *old,
                  size_t n_old)
{
    size_t len, n_new;
    fflush(stdout);
    fflush(stderr);
    clearerr(stdout);
    sh.out.lost = 0;
    char *said = read_all("said", &len), *now = o->file ? read_all(o->file, &n_new) : NULL;
    if (failed && kind != WRITING && !strstr(said ? said : "", "dbrx: "))
        wrong(o, kind, n, "it failed, and nobody said so");
    if (failed && now && old && (n_new != n_old || memcmp(now, old, n_old)) && o->run != op_steer && o->run != op_load)
        wrong(o, kind, n, "it failed, and the file is another");
    if (failed && now && !old && o->run != op_steer)
        wrong(o, kind, n, "it failed, and there is a file");
    if (leftovers())
        wrong(o, kind, n, "a temporary file stays");
    int kept = o->run == op_load && !failed;
    for (uint32_t i = 0; !kept && i < sh.tree->n; i++) {
        uint32_t m;
        const int32_t *id = branch_tokens(sh.tree, sh.tree->branch[i], &m);
        kept = m >= n_was && !memcmp(id, was, n_was * sizeof *was);
        kept |= sh.tree->branch[i]->undone && sh.tree->branch[i]->undone->n >= n_was;
    }
    if (!kept)
        wrong(o, kind, n, "the conversation is not what it was");
    if (!disp_name(sh.disp) && back())
        wrong(o, kind, n, "no backend can be opened afterwards");
    if (line("/set max_tokens 1") || line("/new") || line("/feed 1 2") || line("/continue") || sh.sess->n < 3)
        wrong(o, kind, n, "the shell is dead");
    free(said);
    free(now);
}

/* ---- the sweep ---- */

#if defined __SANITIZE_ADDRESS__
int __lsan_do_recoverable_leak_check(void);
static int leaks(void) { return __lsan_do_recoverable_leak_check(); }
#else
static int leaks(void) { return 0; }
#endif

static void say_to(int fd)
{
    fflush(stdout);
    dup2(fd, STDOUT_FILENO);
}

static int sweep(const struct operation *o, int only_kind, long only_n)
{
    long all = 0, done_anyway = 0;
    int step_all = getenv("DBRX_LONG") != NULL;
    for (int kind = 0; kind < N_KINDS; kind++) {
        if (only_kind >= 0 && kind != only_kind)
            continue;
        int fired = 1;
        for (long n = only_n >= 0 ? only_n : 0; fired; n += step_all ? 1 : 1 + n / 24) {
            size_t n_old;
            char *old = o->file ? read_all(o->file, &n_old) : NULL;
            line("/new");
            line("/feed 7 8");
            line("/continue");
            uint32_t n_was = sh.sess->n;
            int32_t *was = malloc(n_was * sizeof *was + 1);
            memcpy(was, sh.sess->token, n_was * sizeof *was);
            fflush(stdout);
            fflush(stderr);
            if (ftruncate(quiet, 0))
                bail("what was said cannot be forgotten");
            arm(kind, n);
            int failed = o->run() != 0;
            fired = disarm();
            check(o, kind, n, failed, was, n_was, old, old ? n_old : 0);
            if (!fired && failed)
                wrong(o, kind, n, "it fails without a fault");
            all += fired;
            done_anyway += fired && !failed;
            free(was);
            free(old);
            if (only_n >= 0)
                break;
        }
    }
    int leak = leaks();
    shell_close(&sh);
    say_to(report);
    ok(!failures, "%s: %ld faults, %ld of them done all the same", o->name, all, done_anyway);
    ok(!leak, "%s: nothing leaks", o->name);
    return tap_failed;
}

enum { SWEPT = 40, SWEPT_BADLY };          /* exit codes that nothing else ends with */
static int run(const struct operation *o, int kind, long n)
{
    report = dup(STDOUT_FILENO);
    quiet = open("said", O_RDWR | O_CREAT | O_TRUNC | O_APPEND, 0600);
    if (!getenv("LOUD")) {
        say_to(quiet);
        dup2(quiet, STDERR_FILENO);
    }
    signals_init(0);
    if (o->backend)
        faulty = o->backend;
    if (open_shell(&sh, faulty))
        return 2;
    if (line("/feed 1 2 3 4 5") || line("/continue") || line("/save good"))
        return 3;
    return sweep(o, kind, n) ? SWEPT_BADLY : SWEPT;
}

int main(int argc, char **argv)
{
    int only = -1, kind = -1;
    if (!getenv("FAULTY") || !(dir = mf_tmpdir()) || chdir(dir))
        bail("FAULTY names no folder of modules, or no temporary folder");
    setenv("HOME", dir, 1);
    if (mkdir("tiny", 0700))
        bail("no folder for the model");
    link_to("tests/data/tiny-bf16/config.json", "tiny/config.json");
    link_to("tests/data/tiny-bf16/model.safetensors", "tiny/model.safetensors");
    link_to("tests/fuzz/corpus/tokenizer/small", "tiny/tokenizer.json");
    FILE *f = fopen("prompts", "w");
    if (!f || fputs("{\"tokens\":[1,2,3]}\n", f) < 0 || fclose(f))
        bail("no prompts");
    for (int i = 0; argc > 1 && i < N_OPERATIONS; i++)
        only = strcmp(argv[1], operations[i].name) ? only : i;
    for (int i = 0; argc > 2 && i < N_KINDS; i++)
        kind = strcmp(argv[2], kind_name[i]) ? kind : i;
    int bad = 0;
    for (int i = 0; i < N_OPERATIONS; i++) {
        if (only >= 0 && i != only)
            continue;
        fflush(stdout);
        pid_t child = fork();
        if (!child)
            _exit(run(&operations[i], kind, argc > 3 ? atol(argv[3]) : -1));
        int status;
        waitpid(child, &status, 0);
        tap_n += 2;
        if (WIFEXITED(status) && (WEXITSTATUS(status) == SWEPT || WEXITSTATUS(status) == SWEPT_BADLY)) {
            bad |= WEXITSTATUS(status) != SWEPT;
            continue;
        }
        tap_n -= 2;
        bad |= !ok(0, "%s: came to an end", operations[i].name);
        if (system("sed 's/^/# /' said | tail -n 40"))
            diag("no more is known");
    }
    mf_remove(dir);
    printf("1..%d\n", tap_n);
    return bad;
}
