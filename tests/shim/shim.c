/* tests/shim/shim.c -- shim.so: a backend that wraps another one, watches how the host treats
 * it and fails on request.
 *
 *   of=NAME|FILE.so    what to wrap (default $SHIM_OF, else ref), looked for in $MODULES
 *   inject=FAULT@N     lost@N, nomem@N: the N-th call of those that can fail, model_open being the
 *                      first and every session_open, eval, truncate, KV block and so on another;
 *                      lost@N does nothing if the N-th is model_open or session_open;
 *                      stop@N: the N-th look at should_stop says yes; slow: a pause in each call
 *                      (default $SHIM_INJECT)
 *   any other option   goes to the wrapped one
 *
 * Built with SHIM_AS="ref" it calls itself ref and wraps that: first on the module path it stands
 * for the real one, with its score, and nobody who chooses by name sees a difference.
 *
 * Checked: handles that are used when closed or lost, closed twice or never; calls that overlap
 * although their tag says [one/...]; KV imported where it must not be; everything for which the
 * wrapped one says DBRX_E_INVALID.  $SHIM_LOG gets a line for every call and one that begins
 * with "violation" for each of these.  $SHIM_HIDE names tables that are not offered.
 *
 * It says what the host does wrong; what a backend does wrong is the conformance test's. */
#define _GNU_SOURCE
#include "backends/backend.h"
#include "plugins/fail.h"
#include "plugins/loader.h"

#include <fcntl.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { OPEN = 0x4f50454e, CLOSED = 0x434c4f53 };
enum { FAULT_NONE, FAULT_LOST, FAULT_NOMEM, FAULT_STOP, FAULT_SLOW };

/* Handles are never used again: whoever comes with a closed one is caught. */
struct dbrx_model {
    int state, id;
    const struct dbrx_module_info *info;
    const struct dbrx_backend *be;
    const struct dbrx_kv *kv;
    const struct dbrx_head *head;
    const struct dbrx_resume *resume;
    const struct dbrx_inputs *inputs;
    dbrx_model *inner;
    struct dbrx_host host;                 /* what the wrapped one sees; ctx is this model */
    const struct dbrx_host *outer;
    int fault;
    unsigned at;
    atomic_uint calls, polls;
    atomic_int busy, sessions;
};
struct dbrx_session {
    int state, id, lost;
    int passed;                            /* emit said LOST, which is somebody else's   */
    dbrx_model *model;
    dbrx_session *inner;
    atomic_int busy;
};

enum { MAX_MODELS = 1 << 12, MAX_SESSIONS = 1 << 15 };
static dbrx_model models[MAX_MODELS];
static dbrx_session sessions[MAX_SESSIONS];
static atomic_int n_models, n_sessions;

static atomic_int models_open, sessions_open, next_id;

/* ---- the log ------------------------------------------------------------------- */

__attribute__((format(printf, 1, 2)))
static void say(const char *fmt, ...)
{
    static atomic_int fd = -2;
    char line[400];
    va_list ap;
    if (fd == -2) {
        const char *file = getenv("SHIM_LOG");
        fd = file ? open(file, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644) : -1;
    }
    if (fd < 0)
        return;
    va_start(ap, fmt);
    int n = vsnprintf(line, sizeof line - 1, fmt, ap);
    va_end(ap);
    n = n < (int)sizeof line - 1 ? n : (int)sizeof line - 2;
    line[n++] = '\n';
    (void)!write(fd, line, (size_t)n);     /* one write: lines of threads do not mix */
}

static void at_exit(void)
{
    if (models_open || sessions_open)
        say("violation: the process ends with %d models and %d sessions open", models_open, sessions_open);
}

/* ---- entering and leaving a call --------------------------------------------------- */

static void enter(atomic_int *busy, const char *call, const char *tag)
{
    if (atomic_fetch_add(busy, 1))
        say("violation: %s overlaps with another call; its tag is [one/%s]", call, tag);
}

static int alive_model(const dbrx_model *m, const char *call)
{
    if (m && m->state == OPEN)
        return 1;
    say("violation: %s on a model that is %s", call, m ? "closed" : "NULL");
    return 0;
}

/* May this call go on?  Only close is allowed on a lost session. */
static int alive(const dbrx_session *s, const char *call)
{
    if (!s || s->state != OPEN)
        say("violation: %s on a session that is %s", call, s ? "closed" : "NULL");
    else if (s->lost)
        say("violation: %s on a session that was lost", call);
    else
        return alive_model(s->model, call);
    return 0;
}

static void pause_if(const dbrx_model *m)
{
    if (m->fault == FAULT_SLOW)
        nanosleep(&(struct timespec){ .tv_nsec = 5000000 }, NULL);
}

/* One more call that can fail; what it is told to return, or DBRX_OK */
static dbrx_status injected(dbrx_model *m, dbrx_session *s, struct dbrx_error *err)
{
    unsigned n = atomic_fetch_add(&m->calls, 1) + 1;
    pause_if(m);
    if (m->fault == FAULT_NOMEM && n == m->at)
        return fail(err, DBRX_E_NOMEM, "out of memory (injected)");
    if (m->fault == FAULT_LOST && n == m->at && s) {
        s->lost = 1;
        return fail(err, DBRX_E_LOST, "the device fell off the bus (injected)");
    }
    return DBRX_OK;
}

static dbrx_status leave(dbrx_session *s, const char *call, dbrx_status st, const struct dbrx_error *err)
{
    say("%s session %d -> %d, position %u", call, s->id, (int)st,
        st == DBRX_E_LOST ? 0 : s->model->be->position(s->inner));
    if (st == DBRX_E_INVALID)
        say("violation: %s was refused as invalid: %s", call, err ? err->text : "");
    s->lost |= st == DBRX_E_LOST && !s->passed;
    s->passed = 0;
    atomic_fetch_sub(&s->busy, 1);
    return st;
}

/* Around a call on a session: `inner` is the wrapped one's */
#define CALL(s, name, inner) do { \
    struct dbrx_error own_ = { .code = 0 }; \
    err = err ? err : &own_; \
    if (!alive(s, name)) \
        return fail(err, DBRX_E_INVALID, name " on a dead session"); \
    enter(&(s)->busy, name, "session"); \
    dbrx_status st_ = injected((s)->model, s, err); \
    return leave(s, name, st_ == DBRX_OK ? (inner) : st_, err); \
} while (0)

/* ---- what is wrapped ------------------------------------------------------------- */

static const struct dbrx_module_info *load(const char *of, struct dbrx_error *err)
{
    static struct { char of[200]; const struct dbrx_module_info *info; } seen[8];
    const char *dir = getenv("MODULES");
    char path[4096];
    int i = 0;
    while (i < 7 && seen[i].info && strcmp(seen[i].of, of))
        i++;
    if (seen[i].info && !strcmp(seen[i].of, of))
        return seen[i].info;
    if (strchr(of, '/'))
        snprintf(path, sizeof path, "%s", of);
    else
        snprintf(path, sizeof path, "%s/%s.so", dir ? dir : ".", of);
    const struct dbrx_module_info *info = NULL;
    if (module_open(path, &info, err) != DBRX_OK)
        return NULL;
    if (!info->get(DBRX_BACKEND)) {
        fail(err, DBRX_E_UNSUPPORTED, "%.60s is no backend", of);
        return NULL;
    }
    snprintf(seen[i].of, sizeof seen[i].of, "%s", of);
    return seen[i].info = info;
}

static const char *default_of(void)
{
#ifdef SHIM_AS
    return SHIM_AS;
#endif
    const char *of = getenv("SHIM_OF");
    return of && *of ? of : "ref";
}

static const void *inner_table(const char *id)
{
    const struct dbrx_module_info *info = load(default_of(), NULL);
    return info ? info->get(id) : NULL;
}

/* ---- host services, as the wrapped one sees them ------------------------------------ */

static void host_log(const struct dbrx_host *h, int level, const char *line)
{
    const dbrx_model *m = h->ctx;
    m->outer->log(m->outer, level, line);
}

static int host_stop(const struct dbrx_host *h)
{
    dbrx_model *m = h->ctx;
    unsigned n = atomic_fetch_add(&m->polls, 1) + 1;
    pause_if(m);
    return (m->fault == FAULT_STOP && n == m->at) || m->outer->should_stop(m->outer);
}

static void host_progress(const struct dbrx_host *h, const char *what, uint64_t done, uint64_t total)
{
    const dbrx_model *m = h->ctx;
    m->outer->progress(m->outer, what, done, total);
}

static const void *host_get(const struct dbrx_host *h, const char *id)
{
    const dbrx_model *m = h->ctx;
    return m->outer->get(m->outer, id);
}

/* ---- the backend's table ---------------------------------------------------------------- */

static dbrx_status probe(const struct dbrx_host *host, struct dbrx_probe *p, struct dbrx_error *err)
{
    struct dbrx_error why = { .code = 0 };
    const struct dbrx_module_info *info = load(default_of(), &why);
    if (!info) {
        p->score = 0;
        p->device[0] = '\0';
        snprintf(p->reason, sizeof p->reason, "%.127s", why.text);
        return DBRX_OK;
    }
    dbrx_status st = ((const struct dbrx_backend *)info->get(DBRX_BACKEND))->probe(host, p, err);
#ifndef SHIM_AS
    p->score = p->score > 0 ? 1 : p->score;    /* never the default one */
#endif
    return st;
}

static int parse_fault(dbrx_model *m, const char *text)
{
    static const char *const names[] = { "none", "lost", "nomem", "stop", "slow" };
    size_t n = strcspn(text, "@");
    for (int i = 0; i < 5; i++)
        if (n == strlen(names[i]) && !strncmp(text, names[i], n)) {
            char *end = NULL;
            m->fault = i;
            m->at = text[n] ? (unsigned)strtoul(text + n + 1, &end, 10) : 0;
            return text[n] ? !*end && end != text + n + 1 : i == FAULT_NONE || i == FAULT_SLOW;
        }
    return 0;
}

static dbrx_status model_open(const struct dbrx_host *host, const struct dbrx_model_desc *desc,
                              const char *const *opt, dbrx_model **out, struct dbrx_error *err)
{
    static atomic_int opening;
    const char *pass[64] = { NULL }, *of = default_of(), *fault = getenv("SHIM_INJECT");
    size_t n = 0;
    *out = NULL;
    for (; opt && *opt && n < 63; opt++)
        if (!strncmp(*opt, "of=", 3) && (*opt)[3])
            of = *opt + 3;
        else if (!strncmp(*opt, "inject=", 7))
            fault = *opt + 7;
        else
            pass[n++] = *opt;
    struct dbrx_error why = { .code = 0 };
    const struct dbrx_module_info *info = load(of, &why);
    if (!info)
        return fail(err, DBRX_E_INVALID, "shim: %.200s", why.text);
    int slot = atomic_fetch_add(&n_models, 1);
    if (slot >= MAX_MODELS)
        return fail(err, DBRX_E_NOMEM, "shim: no more than %d models", MAX_MODELS);
    dbrx_model *m = &models[slot];
    if (fault && *fault && !parse_fault(m, fault))
        return fail(err, DBRX_E_INVALID, "inject takes lost@N, nomem@N, stop@N, slow or none, not \"%.40s\"",
                    fault);
    m->info = info;
    m->be = info->get(DBRX_BACKEND);
    m->kv = info->get(DBRX_KV);
    m->head = info->get(DBRX_HEAD);
    m->resume = info->get(DBRX_RESUME);
    m->inputs = info->get(DBRX_INPUTS);
    m->id = ++next_id;
    m->outer = host;
    m->host = (struct dbrx_host){ .struct_size = sizeof m->host, .ctx = m, .log = host_log,
        .should_stop = host_stop, .progress = host_progress, .get = host_get };
    enter(&opening, "model_open", "module");
    dbrx_status st = injected(m, NULL, err);
    if (st == DBRX_OK)
        st = m->be->model_open(&m->host, desc, pass, &m->inner, err);
    atomic_fetch_sub(&opening, 1);
    say("model_open model %d of %s -> %d", m->id, of, (int)st);
    if (st != DBRX_OK)
        return st;
    static atomic_int told;
    if (!atomic_exchange(&told, 1))
        atexit(at_exit);
    models_open++;
    m->state = OPEN;
    *out = m;
    return DBRX_OK;
}

static void model_close(dbrx_model *m)
{
    if (!alive_model(m, "model_close"))
        return;
    enter(&m->busy, "model_close", "model");
    if (m->sessions)
        say("violation: model %d is closed with %d sessions open", m->id, m->sessions);
    m->be->model_close(m->inner);
    say("model_close model %d", m->id);
    m->state = CLOSED;
    models_open--;
}

static dbrx_status session_open(dbrx_model *m, uint32_t max_pos, dbrx_session **out, struct dbrx_error *err)
{
    *out = NULL;
    if (!alive_model(m, "session_open"))
        return fail(err, DBRX_E_INVALID, "session_open on a dead model");
    enter(&m->busy, "session_open", "model");
    int slot = atomic_fetch_add(&n_sessions, 1);
    dbrx_session *s = &sessions[slot < MAX_SESSIONS ? slot : 0];
    dbrx_status st = slot < MAX_SESSIONS ? injected(m, NULL, err)
                   : fail(err, DBRX_E_NOMEM, "shim: no more than %d sessions", MAX_SESSIONS);
    if (st == DBRX_OK)
        st = m->be->session_open(m->inner, max_pos, &s->inner, err);
    if (st == DBRX_OK) {
        s->model = m;
        s->id = ++next_id;
        s->state = OPEN;
        m->sessions++;
        sessions_open++;
        *out = s;
    }
    say("session_open session %d of model %d -> %d", *out ? (*out)->id : 0, m->id, (int)st);
    atomic_fetch_sub(&m->busy, 1);
    return st;
}

static void session_close(dbrx_session *s)
{
    if (!s || s->state != OPEN || s->model->state != OPEN) {
        say("violation: session_close on a session that is %s", s ? "closed" : "NULL");
        return;
    }
    enter(&s->busy, "session_close", "session");
    s->model->be->session_close(s->inner);
    say("session_close session %d", s->id);
    s->state = CLOSED;
    s->model->sessions--;
    sessions_open--;
}

static dbrx_status eval(dbrx_session *s, const struct dbrx_batch *b, struct dbrx_error *err)
{
    CALL(s, "eval", s->model->be->eval(s->inner, b, err));
}

static uint32_t position(const dbrx_session *s)
{
    if (!alive(s, "position"))
        return 0;
    if (s->busy)
        say("violation: position overlaps with another call; its tag is [one/session]");
    return s->model->be->position(s->inner);
}

static dbrx_status truncate_to(dbrx_session *s, uint32_t n_keep, struct dbrx_error *err)
{
    CALL(s, "truncate", s->model->be->truncate(s->inner, n_keep, err));
}

/* ---- optional tables ---------------------------------------------------------------------- */

/* The device can also be lost between two blocks */
struct relay { dbrx_session *s; dbrx_status (*emit)(void *, const struct dbrx_kv_block *); void *ctx;
               struct dbrx_error *err; };

static dbrx_status relay_block(void *ctx, const struct dbrx_kv_block *b)
{
    struct relay *r = ctx;
    dbrx_status st = injected(r->s->model, r->s, r->err);
    if (st != DBRX_OK)
        return st;
    st = r->emit(r->ctx, b);
    r->s->passed = st == DBRX_E_LOST;
    return st;
}

static dbrx_status export_kv(dbrx_session *s, uint32_t max_n,
                             dbrx_status (*emit)(void *, const struct dbrx_kv_block *), void *ctx,
                             struct dbrx_error *err)
{
    struct relay r = { s, emit, ctx, err };
    CALL(s, "export_kv", s->model->kv->export_kv(s->inner, max_n, relay_block, &r, err));
}

static dbrx_status import_kv(dbrx_session *s, const struct dbrx_kv_block *b, struct dbrx_error *err)
{
    CALL(s, "import_kv", s->model->kv->import_kv(s->inner, b, err));
}

static dbrx_status commit(dbrx_session *s, uint32_t n_pos, struct dbrx_error *err)
{
    CALL(s, "commit", s->model->kv->commit(s->inner, n_pos, err));
}

static dbrx_status export_from(dbrx_session *s, uint32_t from, uint32_t max_n,
                               dbrx_status (*emit)(void *, const struct dbrx_kv_block *), void *ctx,
                               struct dbrx_error *err)
{
    struct relay r = { s, emit, ctx, err };
    CALL(s, "export_from", s->model->kv->export_from(s->inner, from, max_n, relay_block, &r, err));
}

static dbrx_status extend(dbrx_session *s, uint32_t n_pos, struct dbrx_error *err)
{
    CALL(s, "extend", s->model->kv->extend(s->inner, n_pos, err));
}

static dbrx_status head(dbrx_session *s, const float *x, uint32_t n, float *logits, struct dbrx_error *err)
{
    CALL(s, "head", s->model->head->head(s->inner, x, n, logits, err));
}

static dbrx_status resume(dbrx_session *s, uint32_t layer, uint32_t pos, const float *x, const struct dbrx_batch *b,
                          struct dbrx_error *err)
{
    CALL(s, "resume", s->model->resume->resume(s->inner, layer, pos, x, b, err));
}

static dbrx_status watch(dbrx_session *s, dbrx_input_watch *see, void *ctx, struct dbrx_error *err)
{
    CALL(s, "watch", s->model->inputs->watch(s->inner, see, ctx, err));
}

static uint32_t promises(const dbrx_model *m)
{
    const struct dbrx_repro *r = alive_model(m, "promises") ? m->info->get(DBRX_REPRO) : NULL;
    return r ? r->promises(m->inner) : 0;
}

static const struct dbrx_kv kv = { .struct_size = sizeof kv, .export_kv = export_kv, .import_kv = import_kv,
    .commit = commit, .export_from = export_from, .extend = extend };
static const struct dbrx_kv kv_old = { .struct_size = offsetof(struct dbrx_kv, export_from),
    .export_kv = export_kv, .import_kv = import_kv, .commit = commit };
static const struct dbrx_head heads = { .struct_size = sizeof heads, .head = head };
static const struct dbrx_resume resumes = { .struct_size = sizeof resumes, .resume = resume };
static const struct dbrx_inputs inputs = { .struct_size = sizeof inputs, .watch = watch };
static const struct dbrx_repro repro = { .struct_size = sizeof repro, .promises = promises };

enum { MAX_OPTIONS = 32 };
static struct dbrx_option options[MAX_OPTIONS + 1] = {
    { "of", "$SHIM_OF, else ref", "the backend to wrap" },
    { "inject", "none", "lost@N, nomem@N, stop@N or slow" },
};
static const struct dbrx_backend backend = {
    .struct_size = sizeof backend, .options = options, .probe = probe, .model_open = model_open,
    .model_close = model_close, .session_open = session_open, .session_close = session_close,
    .eval = eval, .position = position, .truncate = truncate_to,
};

static const void *get(const char *id)
{
    const char *hide = getenv("SHIM_HIDE");
    if (hide && strstr(hide, id))
        return NULL;
    if (!strcmp(id, DBRX_BACKEND)) {       /* its own options, then those of what is wrapped */
        const struct dbrx_backend *in = inner_table(DBRX_BACKEND);
        for (size_t i = 0; in && in->options[i].name && i < MAX_OPTIONS - 2; i++)
            options[i + 2] = in->options[i];
        return &backend;
    }
    const void *in = inner_table(id);
    if (!in)
        return NULL;
    if (!strcmp(id, DBRX_KV))              /* "extend" hides what ABI 1.1 added */
        return DBRX_HAS(struct dbrx_kv, (const struct dbrx_kv *)in, extend) && !(hide && strstr(hide, "extend"))
               ? &kv : &kv_old;
    return !strcmp(id, DBRX_HEAD)    ? (const void *)&heads
         : !strcmp(id, DBRX_RESUME)  ? (const void *)&resumes
         : !strcmp(id, DBRX_INPUTS)  ? (const void *)&inputs
         : !strcmp(id, DBRX_REPRO)   ? (const void *)&repro
         : !strcmp(id, DBRX_CHOICES) ? in : NULL;
}

#ifndef SHIM_AS
#define SHIM_AS "shim"
#endif
DBRX_EXPORT const struct dbrx_module_info dbrx_module = {
    .struct_size = sizeof dbrx_module, .abi_major = DBRX_ABI_MAJOR, .abi_minor = DBRX_ABI_MINOR,
    .name = SHIM_AS, .version = "0", .summary = "wraps a backend, checks its host, fails on request", .get = get,
};
