/* tests/conformance/conformance.c -- does a shared object keep the backend contract?
 *
 *     conformance FILE.so [--oracle REF.so] [--only ID] [--show] [option=value...]
 *
 * Loads the backend and the oracle (default: ref.so in $MODULES, else beside FILE.so), opens
 * every shape of random model on both and runs every check on them.  Descriptors 0 to 2 are
 * files while modules run, because a module must not touch them; --show leaves them alone.
 * --only runs one check and the process-wide ones.  Options go to model_open.  This file knows
 * no rules but the process-wide ones. */
#include "tests/conformance/conformance.h"
#include "tests/tap.h"

#include <fenv.h>
#include <locale.h>
#include <signal.h>
#include <string.h>
#include <unistd.h>

/* ---- the streams -------------------------------------------------------------- */

static int real_out = -1, stream[3];

static void capture(void)
{
    real_out = dup(1);
    for (int fd = 0; fd < 3; fd++) {
        FILE *f = tmpfile();
        if (!f || (stream[fd] = dup(fileno(f))) < 0 || dup2(stream[fd], fd) < 0)
            bail("no temporary file");
        fclose(f);
    }
}

/* Our own words go out between these two. */
static void speak(void)
{
    fflush(NULL);                          /* what a module printf()ed is charged to it */
    if (real_out >= 0)
        dup2(real_out, 1);
}
static void listen_again(void)
{
    fflush(stdout);
    if (real_out >= 0)
        dup2(stream[1], 1);
}

void give_up(const char *fmt, ...)
{
    char text[400];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    speak();
    bail("%s", text);
}

static char last_note[400];

void note(const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(last_note, sizeof last_note, fmt, ap);
    va_end(ap);
}

static const struct check *running;        /* for when a module crashes                    */

static void crashed(int sig)
{
    char text[400];
    (void)sig;
    if (real_out >= 0)
        dup2(real_out, 1);
    int n = snprintf(text, sizeof text, "not ok %d - %s %s\n# crashed\nBail out! the module "
                     "crashed\n", tap_n + 1, running ? running->id : "C0",
                     running ? running->rule : "opening the models");
    (void)!write(1, text, (size_t)n);
    _exit(1);
}

static void report(const char *id, const char *rule, int result, const char *where)
{
    speak();
    if (result == SKIP)
        skip("%s %s%s%s", id, rule, last_note[0] ? ": " : "", last_note);
    else if (!ok(result == PASS, "%s %s", id, rule))
        diag("%s%s%s", where, *where ? ": " : "", last_note);
    listen_again();
    last_note[0] = '\0';
}

static struct watch watch;

/* ---- what belongs to a check, and goes when it is over ---------------------------- */

static struct owned {
    struct owned *next;
    const struct dbrx_backend *be;         /* whose s or m this is; NULL: plain memory */
    dbrx_session *s;
    dbrx_model *m;
    _Alignas(max_align_t) char mem[];
} *owned;

static struct owned *own(size_t bytes)
{
    struct owned *o = calloc(1, sizeof *o + bytes);
    if (!o)
        give_up("out of memory");
    o->next = owned;
    return owned = o;
}

void *fx_alloc(size_t bytes)
{
    return own(bytes)->mem;
}

dbrx_session *fx_session(struct side *side, uint32_t max_pos)
{
    struct dbrx_error err = { .code = 0 };
    struct owned *o = own(0);
    dbrx_status st = side->be->session_open(side->model, max_pos, &o->s, &err);
    if (st != DBRX_OK || !o->s)
        give_up("session_open(%u) returned %d: %s", max_pos, (int)st, err.text);
    o->be = side->be;
    return o->s;
}

dbrx_status fx_model(const struct side *base, const struct dbrx_model_desc *desc,
                     struct side *out)
{
    struct owned *o = own(0);
    struct guarded g;
    dbrx_status st = base->be->model_open(&watch.host, desc, base->opt, &o->m, guarded_init(&g));
    const char *fault = guarded_fault(&g, st);
    if (fault)
        give_up("model_open returned %d: %s", (int)st, fault);
    *out = *base;
    out->model = o->m;
    o->be = st == DBRX_OK ? base->be : NULL;
    return st;
}

static void disown(struct owned *until)
{
    while (owned != until) {
        struct owned *o = owned;
        owned = o->next;
        if (o->be && o->s)
            o->be->session_close(o->s);
        if (o->be && o->m)
            o->be->model_close(o->m);
        free(o);
    }
}

/* ---- the host ------------------------------------------------------------------------ */

static void host_log(const struct dbrx_host *h, int level, const char *line)
{
    (void)h, (void)level, (void)line;
}

static int host_stop(const struct dbrx_host *h)
{
    struct watch *w = h->ctx;
    unsigned at = atomic_load(&w->stop_at), n = atomic_fetch_add(&w->polls, 1) + 1;
    return at && n >= at;
}

static void host_progress(const struct dbrx_host *h, const char *what, uint64_t at, uint64_t of)
{
    struct watch *w = h->ctx;
    if (!what || !*what || (of && at > of))
        atomic_fetch_add(&w->progress_lies, 1);
}

static const void *host_get(const struct dbrx_host *h, const char *id)
{
    (void)h, (void)id;
    return NULL;
}

/* ---- setting up -------------------------------------------------------------------------- */

static void load_side(struct side *s, const char *file)
{
    struct dbrx_error err;
    char *path = realpath(file, NULL);     /* dlopen would search for a name without a slash */
    if (module_open(path ? path : file, &s->info, &err) != DBRX_OK)
        give_up("%s", err.text);
    free(path);
    if (!(s->be = s->info->get(DBRX_BACKEND)))
        give_up("%s is a module, but no backend", file);
    s->kv = s->info->get(DBRX_KV);
    s->head = s->info->get(DBRX_HEAD);
    s->resume = s->info->get(DBRX_RESUME);
    s->watch = &watch;
}

/* Tokens on which no router decision is close, so that backends that round differently must
 * still choose alike. */
static void pick_tokens(struct fx *f)
{
    struct rec *r = rec_new(f->cfg, ROOM);
    dbrx_session *s = fx_session(&f->ref, ROOM);
    for (uint32_t i = 0, tries = 0; i < N_TOK; tries++) {
        f->tok[i] = (int32_t)below(&f->rng, f->cfg->n_vocab);
        if (feed(&f->ref, s, f->tok + i, 1, r, NULL) != DBRX_OK || tries > 10000)
            give_up("the oracle gives nothing usable for shape %s", f->shape->name);
        if (rec_margin(r, i) > 20 * TOL)
            i++;
        else
            f->ref.be->truncate(s, i, NULL);
    }
}

static void open_shape(struct fx *f, const struct shape *shape, struct random_model *rm)
{
    struct dbrx_error err = { .code = 0 };
    f->shape = shape;
    f->rm = rm;
    f->cfg = &rm->desc.config;
    f->rng = 7;
    random_model_make(rm, shape, 42);
    if (f->ref.be->model_open(&watch.host, &rm->desc, NULL, &f->ref.model, &err) != DBRX_OK)
        give_up("the oracle cannot open shape %s: %s", shape->name, err.text);
    dbrx_status st = f->sut.be->model_open(&watch.host, &rm->desc, f->sut.opt, &f->sut.model,
                                           &err);
    if (st != DBRX_OK)
        give_up("model_open of shape %s returned %d: %s", shape->name, (int)st, err.text);
    pick_tokens(f);
    f->truth = fed(f, &f->ref, N_TOK, &(struct ask){ .taps = true }, NULL);
    if (f->truth->broken[0])
        give_up("the oracle breaks the contract: %s", f->truth->broken);
}

/* ---- running -------------------------------------------------------------------------------- */

static void run_check(const struct check *c, struct fx *f)
{
    struct owned *keep = owned;
    const struct side *s = &f->sut;
    if ((c->needs & NEEDS_KV && !s->kv) || (c->needs & NEEDS_HEAD && !s->head) ||
        (c->needs & NEEDS_RESUME && !s->resume)) {
        note("not offered");
        report(c->id, c->rule, SKIP, "");
        return;
    }
    int result = PASS;
    running = c;
    size_t i, n = c->how == ONCE ? 1 : n_shapes;
    for (i = 0; i < n && result != FAIL; i++) {
        f[i].s = fx_session(&f[i].sut, ROOM);
        f[i].rng = i;
        atomic_store(&watch.stop_at, 0);
        result = c->fn(&f[i]);
        disown(keep);
    }
    report(c->id, c->rule, result, c->how == ONCE ? "" : f[i - 1].shape->name);
}

static void check_process(const struct sigaction *before)
{
    static const char *const names[] = { "stdin", "stdout", "stderr" };
    struct sigaction now;
    int wrote = PASS, signals = PASS;
    fflush(NULL);
    for (int fd = 0; fd < 3 && real_out >= 0; fd++) {
        off_t end = lseek(stream[fd], 0, SEEK_END);
        char text[60] = "";
        if (end == 0)
            continue;
        ssize_t n = pread(stream[fd], text, sizeof text - 1, 0);
        text[n < 0 ? 0 : n] = '\0';
        text[strcspn(text, "\n")] = '\0';
        note("%s got %ld bytes, beginning \"%s\"", names[fd], (long)end, text);
        wrote = FAIL;
    }
    report("C110", "a module never writes to descriptors 0, 1 or 2",
           real_out < 0 ? SKIP : wrote, "");
    for (int i = 1; i < 32; i++)
        if (sigaction(i, NULL, &now) == 0 && now.sa_handler != before[i].sa_handler) {
            note("the disposition of signal %d changed", i);
            signals = FAIL;
        }
    report("C111", "a module never touches signals", signals, "");
    report("C112", "a module never touches the locale",
           strcmp(setlocale(LC_ALL, NULL), "C") ? FAIL : PASS, "");
    volatile float tiny = 1e-40f;
    report("C113", "the floating-point environment is left as it was",
           fegetround() == FE_TONEAREST && tiny * 1.0f != 0 ? PASS : FAIL, "");
    report("C114", "progress() has a name and done <= total",
           atomic_load(&watch.progress_lies) ? FAIL : PASS, "");
}

int main(int argc, char **argv)
{
    static const struct check *const tables[] = {
        checks_module, checks_open, checks_eval, checks_stop, checks_route, checks_steer,
        checks_tap, checks_kv, checks_resume, checks_repro,
    };
    static struct sigaction before[32];
    const char *file = NULL, *oracle = NULL, *only = NULL, *opt[32] = { NULL }, *dir = getenv("MODULES");
    char beside[4096];
    bool show = false;
    int n_opt = 0;

    for (int i = 1; i < argc; i++)
        if (!strcmp(argv[i], "--oracle") && i + 1 < argc)
            oracle = argv[++i];
        else if (!strcmp(argv[i], "--only") && i + 1 < argc)
            only = argv[++i];
        else if (!strcmp(argv[i], "--show"))
            show = true;
        else if (!file)
            file = argv[i];
        else if (n_opt < 31)
            opt[n_opt++] = argv[i];
    if (!file)
        bail("usage: conformance FILE.so [--oracle REF.so] [--only ID] [--show] "
             "[option=value...]");
    const char *slash = strrchr(file, '/');
    if (!dir)
        snprintf(beside, sizeof beside, "%.*s/ref.so", slash ? (int)(slash - file) : 1,
                 slash ? file : ".");
    else
        snprintf(beside, sizeof beside, "%s/ref.so", dir);
    static const int deadly[] = { SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGABRT };
    for (size_t i = 0; i < sizeof deadly / sizeof *deadly; i++)
        if (sigaction(deadly[i], NULL, &before[0]) == 0 && before[0].sa_handler == SIG_DFL)
            signal(deadly[i], crashed);    /* unless a sanitiser has its own */
    for (int i = 1; i < 32; i++)
        sigaction(i, NULL, &before[i]);
    if (!show)
        capture();

    watch.host = (struct dbrx_host){
        .struct_size = sizeof watch.host, .ctx = &watch, .log = host_log,
        .should_stop = host_stop, .progress = host_progress, .get = host_get,
    };
    struct fx first = { .file = file, .sut.opt = opt };
    load_side(&first.sut, file);
    load_side(&first.ref, oracle ? oracle : beside);
    struct dbrx_probe p = { .struct_size = sizeof p };
    if (first.sut.be->probe && first.sut.be->probe(&watch.host, &p, NULL) == DBRX_OK &&
        p.score <= 0) {
        note("%s", p.reason);
        report("C0", "the backend cannot run on this machine", SKIP, "");
        speak();
        return done();
    }
    struct fx *f = calloc(n_shapes, sizeof *f);
    struct random_model *rm = calloc(n_shapes, sizeof *rm);
    for (size_t i = 0; i < n_shapes; i++) {
        f[i] = first;
        open_shape(&f[i], &shapes[i], &rm[i]);
    }
    for (size_t t = 0; t < sizeof tables / sizeof *tables; t++)
        for (const struct check *c = tables[t]; c->id; c++)
            if (!only || !strcmp(only, c->id))
                run_check(c, f);
    running = NULL;
    disown(NULL);
    for (size_t i = 0; i < n_shapes; i++) {
        f[i].sut.be->model_close(f[i].sut.model);
        f[i].ref.be->model_close(f[i].ref.model);
        random_model_free(&rm[i]);
    }
    free(f), free(rm);
    check_process(before);
    speak();
    return done();
}
