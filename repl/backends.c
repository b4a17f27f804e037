/* repl/backends.c -- /backend: the list of what was found and why some of it cannot run, and
 * the way from one backend to another.  How a switch works is dispatch.c's. */
#define _GNU_SOURCE
#include "repl/handlers.h"

#include "repl/commands.h"
#include "repl/shell.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char *module_name(const struct module *m)
{
    return m->info ? m->info->name : strrchr(m->path, '/') + 1;
}

/* "71 copied from cpu-blas, 62 computed": where the current KV came from, as far as it is this
 * conversation's: another branch, or what /undo took, may be in it until something is said */
static void kv_text(const struct shell *sh, char *out, size_t size)
{
    const struct spans *o = disp_kv_spans(sh->disp);
    uint32_t n = sess_in_step(sh->sess), covered = 0;
    size_t at = 0;
    *out = '\0';
    for (uint32_t i = 0; i < o->n && at < size && o->list[i].from < n; i++) {
        uint32_t k = (o->list[i].end < n ? o->list[i].end : n) - o->list[i].from;
        covered += k;
        at += (size_t)snprintf(out + at, size - at, "%s%u %s", at ? ", " : "", k, o->list[i].name);
    }
    if (at < size && (covered < n || !sh->sess->n))
        at += (size_t)snprintf(out + at, size - at, "%s%u computed", at ? ", " : "", n - covered);
    if (at < size && n < sh->sess->n)
        snprintf(out + at, size - at, "%s%u to be computed", at ? ", " : "", sh->sess->n - n);
}

static void promises_text(uint32_t p, char *out, size_t size)
{
    snprintf(out, size, "%s%s%s%s%s", p & DBRX_REPRO_CHUNKS ? "chunks" : "",
             p & DBRX_REPRO_CHUNKS && p & ~(uint32_t)DBRX_REPRO_CHUNKS ? ", " : "",
             p & DBRX_REPRO_THREADS ? "threads" : "",
             p & DBRX_REPRO_THREADS && p & DBRX_REPRO_BATCH ? ", " : "",
             p & DBRX_REPRO_BATCH ? "batch" : "");
}

/* ---- the list ---- */

/* A line more at the end of malloc'd *text */
__attribute__((format(printf, 2, 3)))
static void add_line(char **text, const char *fmt, ...)
{
    char *line = NULL, *both = NULL;
    va_list ap;
    va_start(ap, fmt);
    if (vasprintf(&line, fmt, ap) < 0)
        line = NULL;
    va_end(ap);
    if (line && *line && asprintf(&both, "%s%s%s", *text ? *text : "", *text ? "\n" : "", line) >= 0) {
        free(*text);
        *text = both;
    }
    free(line);
}

static const char *str(const cJSON *row, const char *key)
{
    return cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(row, key));
}

static double num(const cJSON *row, const char *key)
{
    const cJSON *v = cJSON_GetObjectItemCaseSensitive(row, key);
    return cJSON_IsNumber(v) ? v->valuedouble : 0;
}

static const char *bytes_text(double bytes, char out[24])
{
    double gib = bytes / 1073741824;
    snprintf(out, 24, gib >= 1 ? "%.1f GiB" : "%.1f MiB", gib >= 1 ? gib : bytes / 1048576);
    return out;
}

static char *show_backend(const struct render *r, const cJSON *row)
{
    (void)r;
    char *text = NULL, a[24], b[24], c[24];
    const cJSON *o, *v;
    if (str(row, "reason")) {
        add_line(&text, "cannot run: %s", str(row, "reason"));
        return text;
    }
    add_line(&text, "%s", str(row, "device"));
    bytes_text(num(row, "memory_weights"), a);
    bytes_text(num(row, "memory_kv"), b);
    if (str(row, "in_use") && *str(row, "in_use"))
        add_line(&text, "in use with %s", str(row, "in_use"));
    const char *about = cJSON_IsTrue(cJSON_GetObjectItemCaseSensitive(row, "memory_kv_known")) ? "about" : "up to";
    int known = num(row, "memory_total") > 0;
    add_line(&text, "needs %s of weights, %s %s of KV%s%s%s", a, about, b, known ? "; " : "",
             known ? bytes_text(num(row, "memory_free"), c) : "", known ? " free" : "");
    if (str(row, "kv"))
        add_line(&text, "kv: %s", str(row, "kv"));
    if (str(row, "same_bits") && *str(row, "same_bits"))
        add_line(&text, "bits do not depend on: %s", str(row, "same_bits"));
    cJSON_ArrayForEach(o, cJSON_GetObjectItemCaseSensitive(row, "kept"))
        add_line(&text, "kept open%s%s, %.0f tokens in its KV; --drop closes it", *str(o, "options") ? " with " : "",
                 str(o, "options"), num(o, "tokens"));
    cJSON_ArrayForEach(o, cJSON_GetObjectItemCaseSensitive(row, "options")) {
        char values[200] = "";
        size_t at = 0;
        cJSON_ArrayForEach(v, cJSON_GetObjectItemCaseSensitive(o, "values"))
            if (at < sizeof values)
                at += (size_t)snprintf(values + at, sizeof values - at, "%s%s", at ? "|" : "", v->valuestring);
        add_line(&text, "%s=%s: %s (default: %s)", str(o, "name"), at ? values : "...", str(o, "help"),
                 str(o, "default"));
    }
    return text;
}

static char *show_current(const struct render *r, const cJSON *row)
{
    (void)r;
    return strdup(cJSON_IsTrue(cJSON_GetObjectItemCaseSensitive(row, "current")) ? "*" :
                  cJSON_GetObjectItemCaseSensitive(row, "kept") ? "+" : "");
}

static void kept_rows(const struct shell *sh, const char *name, cJSON *row)
{
    const char *kept;
    uint32_t n;
    size_t len = strlen(name);
    for (uint32_t i = 0; (kept = disp_kept(sh->disp, i, &n)); i++) {
        if (strncmp(kept, name, len) || (kept[len] && kept[len] != ' '))
            continue;
        cJSON *list = cJSON_GetObjectItemCaseSensitive(row, "kept"), *one = cJSON_CreateObject();
        cJSON_AddItemToArray(list ? list : cJSON_AddArrayToObject(row, "kept"), one);
        field_string(one, "options", kept[len] ? kept + len + 1 : "");
        cJSON_AddNumberToObject(one, "tokens", n);
    }
}

static void option_rows_of(const struct shell *sh, size_t i, const struct module *m, cJSON *row)
{
    const struct dbrx_choices *c = m->info ? m->info->get(DBRX_CHOICES) : NULL;
    cJSON *opt = cJSON_AddArrayToObject(row, "options");
    for (const struct dbrx_option *o = disp_options(sh->disp, i); o && o->name; o++) {
        const char *const *v = c ? c->values(o->name) : NULL;
        cJSON *one = cJSON_CreateObject();
        cJSON_AddItemToArray(opt, one);
        field_string(one, "name", o->name);
        field_string(one, "default", o->fallback ? o->fallback : "");
        field_string(one, "help", o->help ? o->help : "");
        cJSON *values = v ? cJSON_AddArrayToObject(one, "values") : NULL;
        for (; v && *v; v++)
            cJSON_AddItemToArray(values, cJSON_CreateString(*v));
    }
}

/* "isa=plain kv=f16": what follows the name, or "" */
static const char *label_options(const char *label)
{
    return label + strcspn(label, " ") + (strchr(label, ' ') != NULL);
}

static void backend_row(struct shell *sh, size_t i, const struct module *m, cJSON *list)
{
    struct dbrx_probe p = { 0 };
    char text[1600];
    uint64_t weights, kv;
    if (m->info && !disp_probe(sh->disp, i, &p))
        return;                            /* a module of another kind */
    const char *name = module_name(m), *now = disp_name(sh->disp);
    int current = m->info && now && !strcmp(now, name);
    cJSON *row = cJSON_CreateObject();
    cJSON_AddItemToArray(list, row);
    cJSON_AddBoolToObject(row, "current", current);
    field_string(row, "name", name);
    cJSON_AddNumberToObject(row, "score", p.score);
    if (p.score > 0) {
        int known = disp_needs(sh->disp, current ? disp_label(sh->disp) : NULL, &weights, &kv);
        field_string(row, "device", p.device);
        cJSON_AddNumberToObject(row, "memory_weights", (double)weights);
        cJSON_AddNumberToObject(row, "memory_kv", (double)kv);
        cJSON_AddBoolToObject(row, "memory_kv_known", known);
        cJSON_AddNumberToObject(row, "memory_free", (double)p.mem_free);
        cJSON_AddNumberToObject(row, "memory_total", (double)p.mem_total);
    } else {
        field_string(row, "reason", m->info ? p.reason : m->why);
    }
    if (current) {
        field_string(row, "in_use", label_options(disp_label(sh->disp)));
        kv_text(sh, text, sizeof text);
        field_string(row, "kv", text);
        promises_text(disp_promises(sh->disp), text, sizeof text);
        field_string(row, "same_bits", text);
    }
    kept_rows(sh, name, row);
    if (m->info) {
        field_string(row, "version", m->info->version);
        field_string(row, "summary", m->info->summary);
    }
    field_string(row, "path", m->path);
    option_rows_of(sh, i, m, row);
}

static void list_backends(struct shell *sh)
{
    static const struct column col[] = {
        { NULL, "", 0, 0, show_current }, { "name", "backend", 0, 0, NULL },
        { "score", "score", 1, 0, NULL }, { NULL, "runs on; options", 0, 0, show_backend }, { 0 } };
    static const struct rows rows = { "rows", "backends", "rows", col, 0 };
    const struct module *m;
    cJSON *list = cJSON_CreateArray();
    for (size_t i = 0; (m = disp_module(sh->disp, i)); i++)
        backend_row(sh, i, m, list);
    render_rows(&sh->out, &rows, NULL, NULL, list);
}

/* ---- the way over ---- */

/* "; kept open: ref, cpu-blas kv=q8_0 (about 4.0 MiB of KV)"; how many */
static uint32_t kept_text(const struct shell *sh, char *out, size_t size)
{
    uint64_t weights, one, all = 0;
    uint32_t n, k = 0;
    const char *label;
    char bytes[24];
    size_t at = 0;
    int known = 1;
    *out = '\0';
    for (; (label = disp_kept(sh->disp, k, &n)); k++) {
        if (at < size)
            at += (size_t)snprintf(out + at, size - at, "%s%s", at ? ", " : "; kept open: ", label);
        known &= disp_needs(sh->disp, label, &weights, &one);
        all += one;
    }
    if (at && at < size)
        snprintf(out + at, size - at, " (%s %s of KV)", known ? "about" : "up to", bytes_text((double)all, bytes));
    return k;
}

void backend_said(struct shell *sh)
{
    cJSON *f = cJSON_CreateObject();
    const char *label = disp_label(sh->disp);
    uint32_t moved = disp_moved(sh->disp), holds = disp_position(sh->disp), lacks = sh->sess->n - holds;
    const char *kv = moved || !sh->sess->n ? disp_kv_origin(sh->disp) : holds ? "its own" : "to be recomputed";
    char brief[160], kept[1600], of[24] = "", rest[40] = "";
    field_string(f, "name", disp_name(sh->disp));
    field_string(f, "options", label_options(label));
    field_string(f, "kv", kv);
    cJSON_AddNumberToObject(f, "position", holds);
    cJSON_AddNumberToObject(f, "moved", moved);
    cJSON_AddNumberToObject(f, "kept", kept_text(sh, kept, sizeof kept));
    if (moved && moved < holds)            /* it held the others already */
        snprintf(of, sizeof of, "%u of ", moved);
    if (holds && lacks)
        snprintf(rest, sizeof rest, ", %u to be computed", lacks);
    label_brief(label, brief, sizeof brief);
    render_event(&sh->out, "backend", f, "now on %s%s; kv: %s (%s%u tokens)%s%s", brief,
                 disp_was_kept(sh->disp) && strchr(brief, ' ') ? ", as it was kept" : "", kv, of,
                 holds ? holds : lacks, rest, kept);
}

static int drop(struct shell *sh, const char *name)
{
    uint32_t n = disp_drop(sh->disp, name);
    if (!n)
        return name ? render_error(&sh->out, "no backend \"%.60s\" is kept open; /backend lists those that are", name)
                    : render_error(&sh->out, "no backend is kept open");
    render_event(&sh->out, "status", NULL, "closed %u backend%s that %s kept open", n, n == 1 ? "" : "s",
                 n == 1 ? "was" : "were");
    return 0;
}

static void collect_place(void *ctx, const struct dbrx_place *p)
{
    cJSON *row = cJSON_CreateObject();
    cJSON_AddItemToArray(ctx, row);
    field_string(row, "place", p->name);
    cJSON_AddNumberToObject(row, "first_layer", p->first);
    cJSON_AddNumberToObject(row, "layers", p->end - p->first);
    cJSON_AddNumberToObject(row, "weights", (double)p->weights);
    cJSON_AddNumberToObject(row, "kv", (double)p->kv);
    cJSON_AddNumberToObject(row, "scratch", (double)p->scratch);
    cJSON_AddItemToObject(row, "free", p->free ? cJSON_CreateNumber((double)p->free) : cJSON_CreateNull());
}

/* Where a backend that is about to be loaded will put the model, if it can say: a sentence each place */
static void plan_said(struct shell *sh, const char *name, const char *const *opt)
{
    const size_t len = strlen(name);
    struct dbrx_error ignored;
    const char *kept;
    uint32_t n;
    cJSON *list = cJSON_CreateArray(), *row;
    for (uint32_t i = 0; (kept = disp_kept(sh->disp, i, &n)); i++)
        if (!strncmp(kept, name, len) && (!kept[len] || kept[len] == ' '))
            goto out;                      /* it is loaded, or one like it */
    if (disp_plan(sh->disp, name, opt, collect_place, list, &ignored) != DBRX_OK)
        goto out;                          /* opening it says why */
    while ((row = cJSON_DetachItemFromArray(list, 0))) {
        const double first = num(row, "first_layer"), layers = num(row, "layers"), kv = num(row, "kv");
        char a[24], b[24], c[24], f[24], on[40] = "", more[80] = "", left[40] = "";
        if (layers > 0)
            snprintf(on, sizeof on, "layers %.0f-%.0f, ", first, first + layers - 1);
        if (kv > 0)
            snprintf(more, sizeof more, ", %s of KV, %s of scratch", bytes_text(kv, b), bytes_text(num(row, "scratch"), c));
        if (num(row, "free") > 0)
            snprintf(left, sizeof left, "; %s free", bytes_text(num(row, "free"), f));
        char place[100];
        snprintf(place, sizeof place, "%s", str(row, "place"));
        field_string(row, "name", name);
        bytes_text(num(row, "weights"), a);
        render_event(&sh->out, "plan", row, "%s: %s%s of weights%s%s", place, on, a, more, left);
    }
out:
    cJSON_Delete(list);
}

int handle_backend(struct shell *sh, const struct args *a)
{
    const char *name = a->text[0];
    int replay = a->text[1] != NULL, keep = a->text[2] != NULL, dropped = a->text[3] != NULL;
    if (dropped)
        return replay || keep || a->list[0] ? render_error(&sh->out, "--drop stands alone, but for the NAME of a "
                                                           "backend that is kept open") : drop(sh, name);
    if (!name && !replay && !keep) {
        list_backends(sh);
        return 0;
    }
    if (!name && keep)
        return render_error(&sh->out, "--keep needs the NAME of the backend to go on with");
    char was[160], text[160];
    const char *same[MAX_BACKEND_OPTIONS + 1];
    shell_current_options(sh, NULL, text, same);
    snprintf(was, sizeof was, "%s", disp_label(sh->disp) ? disp_label(sh->disp) : "");
    if (name)
        plan_said(sh, name, a->list);
    if (shell_use(sh, name ? name : disp_name(sh->disp), name || a->list[0] ? a->list : same,
                  (replay ? DISP_REPLAY : 0) | (keep ? DISP_KEEP : 0)))
        return -1;
    for (int i = 0; a->list[i]; i++) {     /* what was asked for here is the setting from now on */
        char err[256];
        if (!strncmp(a->list[i], "threads=", 8))
            vars_set(&sh->vars, VAR_THREADS, a->list[i] + 8, FROM_SESSION, err, sizeof err);
    }
    backend_said(sh);
    if (keep && !strcmp(was, disp_label(sh->disp)))
        render_event(&sh->out, "status", NULL, "nothing was kept: the backend is the same, with the same options");
    return 0;
}
