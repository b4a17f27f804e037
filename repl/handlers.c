/* repl/handlers.c -- the short commands.  Each turns the state into rows, or its arguments
 * into one call of the session; how rows look is the renderer's. */
#define _GNU_SOURCE
#include "repl/handlers.h"

#include "repl/commands.h"
#include "repl/handover.h"
#include "repl/shell.h"
#include "repl/words.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

int handle_quit(struct shell *sh, const struct args *a)
{
    (void)a;
    sh->quit = 1;
    return 0;
}

int handle_new(struct shell *sh, const struct args *a)
{
    char was[TREE_NAME + 1];
    (void)a;
    snprintf(was, sizeof was, "%s", sh->tree->now->name);
    if (shell_new(sh))
        return -1;
    const char *now = sh->tree->now->name;
    if (strcmp(was, now))
        render_event(&sh->out, "status", NULL, "new conversation \"%s\"; /switch %s goes back to the one "
                     "before", now, was);
    else
        render_event(&sh->out, "status", NULL, "new conversation");
    return 0;
}

/* ---- /set ---- */

static void var_row(const struct shell *sh, int var, cJSON *list)
{
    const struct var *v = &sh->vars.v[var];
    const struct var_def *d = &var_defs[var];
    char range[128];
    cJSON *row = cJSON_CreateObject();
    cJSON_AddItemToArray(list, row);
    var_range(var, range, sizeof range);
    field_string(row, "name", d->name);
    if (d->type == VAR_REAL || (d->type == VAR_COUNT && v->num >= 0))
        cJSON_AddNumberToObject(row, "value", v->num);
    else
        field_string(row, "value", v->text);
    field_string(row, "origin", var_origin_name(v->origin));
    field_string(row, "default", v->fallback ? v->fallback : d->fallback);
    field_string(row, "range", range);
    field_string(row, "unit", d->unit);
    field_string(row, "help", d->help);
    if (var == VAR_SEED)
        cJSON_AddNumberToObject(row, "in_use", (double)sh->tree->seed);
}

static char *show_value(const struct render *r, const cJSON *row)
{
    (void)r;
    const cJSON *v = cJSON_GetObjectItemCaseSensitive(row, "value");
    const cJSON *seed = cJSON_GetObjectItemCaseSensitive(row, "in_use");
    char *text = NULL;
    if (cJSON_IsNumber(v))
        return asprintf(&text, "%.16g", v->valuedouble) < 0 ? NULL : text;
    if (seed)
        return asprintf(&text, "%s (%.0f)", v ? v->valuestring : "", seed->valuedouble) < 0 ? NULL : text;
    const char *s = cJSON_IsString(v) ? v->valuestring : "";
    if (!*s)
        return strdup("(empty)");
    char *q = text_quoted(s, strlen(s));
    if (q && strlen(q) > 33) {             /* /set NAME shows it all */
        size_t n = 30;
        while (n && (q[n] & 0xc0) == 0x80)
            n--;
        strcpy(q + n, "...");
    }
    return q;
}

static const struct column setting_columns[] = {
    { "name", "setting", 0, 0, NULL }, { NULL, "value", 0, 0, show_value },
    { "origin", "from", 0, 0, NULL }, { "range", "takes", 0, 0, NULL }, { 0 } };
static const struct rows setting_rows = { "rows", "settings", "rows", setting_columns, 0 };

/* One of them and what there is to say about it */
static void explain_setting(struct shell *sh, int var)
{
    char more[200];
    const struct var_def *d = &var_defs[var];
    const struct var *v = &sh->vars.v[var];
    const char *fallback = v->fallback ? v->fallback : d->fallback;
    cJSON *list = cJSON_CreateArray();
    var_row(sh, var, list);
    render_rows(&sh->out, &setting_rows, NULL, NULL, list);
    if (sh->out.json)
        return;
    if ((d->type == VAR_TEXT || d->type == VAR_FILE || d->type == VAR_LIST) && *v->text)
        render_paragraph(&sh->out, 2, v->text);
    snprintf(more, sizeof more, "default %.120s%s%s", *fallback ? fallback : "(empty)", *d->unit ? "; unit: " : "", d->unit);
    render_paragraph(&sh->out, 2, more);
    render_paragraph(&sh->out, 2, d->help);
}

/* All of them, or at a terminal where those would scroll away a row for what was set and a
 * paragraph for the rest */
static void list_settings(struct shell *sh, int all)
{
    enum { AROUND = 2 };                   /* the heading, and the next prompt */
    cJSON *list = cJSON_CreateArray(), *row, *next;
    for (int i = 0; i < N_VARS; i++)
        var_row(sh, i, list);
    if (all || sh->out.json || !sh->out.out_tty || N_VARS + AROUND <= render_height(&sh->out)) {
        render_rows(&sh->out, &setting_rows, NULL, NULL, list);
        return;
    }
    char *text = NULL;
    size_t size, n = 0;
    FILE *f = open_memstream(&text, &size);
    for (row = list->child; row; row = next) {
        next = row->next;
        if (strcmp(cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(row, "origin")), var_origin_name(FROM_DEFAULT)))
            continue;
        char *value = show_value(&sh->out, row);
        if (f)
            fprintf(f, "%s%s %s", n++ ? ", " : "at their defaults: ", cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(row, "name")),
                    value ? value : "");
        free(value);
        cJSON_Delete(cJSON_DetachItemViaPointer(list, row));
    }
    if (list->child)
        render_rows(&sh->out, &setting_rows, NULL, NULL, list);
    else
        cJSON_Delete(list);
    if (f && !fclose(f) && n)
        render_paragraph(&sh->out, 0, text);
    free(text);
    render_aside(&sh->out, "/set NAME explains one, /set all lists what they take");
}

/* The backend with the new number of threads; a backend that has no such option says so
 * and goes on.  0, or -1: still as before. */
static int apply_threads(struct shell *sh)
{
    const char *now = disp_name(sh->disp);
    if (!now || !shell_knows_threads(sh, now)) {
        render_event(&sh->out, "status", NULL, "%s has no option threads; the setting waits for a "
                     "backend that has", now ? now : "no backend is open, and so");
        return 0;
    }
    char text[160];
    const char *opt[MAX_BACKEND_OPTIONS + 1];
    shell_current_options(sh, "threads=", text, opt);
    if (shell_use(sh, now, opt, 0))
        return -1;
    backend_said(sh);
    return 0;
}

/* Changes a setting and what depends on it.  0 or -1. */
static int set_value(struct shell *sh, int var, const char *text)
{
    char err[320];
    struct var *v = &sh->vars.v[var];
    if (sh->in_rc && v->origin == FROM_COMMAND_LINE)
        return 0;                          /* what was typed for this run outranks the file */
    char *was = strdup(v->text);
    enum var_origin from = v->origin;
    if (!was)
        return render_error(&sh->out, "out of memory");
    int failed = vars_set(&sh->vars, var, text, sh->in_rc ? FROM_RC_FILE : FROM_SESSION, err, sizeof err);
    int refused = !failed && ((var_defs[var].type == VAR_LIST && shell_read_lists(sh, err, sizeof err)) ||
                              (var == VAR_LABELS && shell_set_labels(sh, err, sizeof err)));
    if (!failed && var == VAR_HANDOVER) {
        struct handover plan = { 0 };
        refused = shell_plan(sh, &plan, err, sizeof err);
        handover_free(&plan);
    }
    if (failed || refused)
        render_error(&sh->out, "%s", err);
    int constrains = var == VAR_GRAMMAR || var == VAR_SCHEMA;
    if (refused || (!failed && ((var == VAR_THREADS && strcmp(was, v->text) && apply_threads(sh)) ||
                                (constrains && shell_set_constraint(sh, var))))) {
        vars_set(&sh->vars, var, was, from, err, sizeof err);
        failed = -1;
    }
    if (!failed) {
        const char *when = var == VAR_SYSTEM && sh->sess->n ? "; it counts from the next /new"
                         : constrains && *v->text ? "; replies match it from now on" : "";
        if (var == VAR_SEED)
            shell_reseed(sh);
        render_event(&sh->out, "status", NULL, "%s = %s%s", var_defs[var].name,
                     *v->text ? v->text : "(empty)", when);
    }
    free(was);
    return failed;
}

int set_named(struct shell *sh, const char *name, int prefix, const char *text)
{
    int var = var_find(name, prefix);
    if (var < 0) {
        char choices[400] = "";
        const char *near = var_nearest(name);
        if (prefix)
            var_choices(name, choices, sizeof choices);
        return *choices ? render_error(&sh->out, "the setting \"%.60s\" could be %s", name, choices) : render_error(&sh->out, "there is no setting \"%.60s\"%s%s%s", name,
                            near ? "; did you mean " : "; /set lists them", near ? near : "",
                            near ? "?" : "");
    }
    if (!text) {
        explain_setting(sh, var);
        return 0;
    }
    char *copy = strdup(text);
    if (!copy)
        return render_error(&sh->out, "out of memory");
    /* in a list of tokens quotes belong to a token, but nothing in quotes is nothing there, too */
    int whole = var_defs[var].type != VAR_LIST || strlen(copy) == 2;
    int failed = set_value(sh, var, whole ? unquoted(copy) : copy);
    free(copy);
    return failed;
}

int handle_set(struct shell *sh, const struct args *a)
{
    int all = a->text[0] && !a->text[1] && !strcmp(a->text[0], "all");
    if (a->text[0] && !all)
        return set_named(sh, a->text[0], sh->interactive, a->text[1]);
    list_settings(sh, all);
    return 0;
}

int handle_setting(struct shell *sh, const struct args *a)
{
    return set_named(sh, a->command->name, 0, a->text[0]);
}

/* ---- the timeline ---- */

int catch_up(struct shell *sh, const char *undone)
{
    struct dbrx_error err = { 0 };
    render_busy(&sh->out, 1);
    dbrx_status st = sess_retrace(sh->sess, &err);
    render_busy(&sh->out, 0);
    if (st == DBRX_STOPPED)
        return render_error(&sh->out, "interrupted; %s", undone);
    return st == DBRX_OK ? 0 : shell_failed(sh, st, &err);
}

int handle_feed(struct shell *sh, const struct args *a)
{
    struct sess *s = sh->sess;
    struct dbrx_error err = { 0 };
    uint32_t before = s->n;
    if (!disp_name(sh->disp))
        return render_error(&sh->out, "no backend is open; /backend NAME opens one");
    if (!a->ids.n)
        return render_error(&sh->out, "there is no token id in that; nothing was fed");
    dbrx_status st = sess_append(s, a->ids.id, a->ids.n, &err);
    if (st == DBRX_E_FULL)
        return render_error(&sh->out, "%zu tokens do not fit: %u of the context's %u are taken; nothing "
                            "was fed.  Feed fewer, or start afresh with /new", a->ids.n, s->n,
                            disp_max_pos(sh->disp));
    if (st != DBRX_OK)
        return render_error(&sh->out, "%s; nothing was fed", err.text);
    if (catch_up(sh, "nothing was fed")) {
        sess_truncate(s, before);
        return -1;
    }
    if ((st = tree_settle(sh->tree, &err)) != DBRX_OK) {
        sess_truncate(s, before);
        return shell_failed(sh, st, &err);
    }
    cJSON *f = cJSON_CreateObject();
    cJSON_AddNumberToObject(f, "tokens", (double)a->ids.n);
    cJSON_AddNumberToObject(f, "position", s->n);
    render_event(&sh->out, "status", f, "fed %zu token%s; context %u/%u", a->ids.n,
                 a->ids.n == 1 ? "" : "s", s->n, disp_max_pos(sh->disp));
    return 0;
}

char *tokens_text(const struct shell *sh, const int32_t *id, uint32_t n, int special, size_t *len)
{
    char *text = NULL, *p = NULL;
    for (int pass = 0; pass < 2; pass++) {
        *len = 0;
        for (uint32_t i = 0; sh->tok && i < n; i++) {
            size_t size;
            const char *bytes = tok_bytes(sh->tok, id[i], &size);
            if (!bytes || (!special && tok_is_special(sh->tok, id[i])))
                continue;
            if (p)
                memcpy(p + *len, bytes, size);
            *len += size;
        }
        if (!pass && !(p = text = malloc(*len + 1)))
            return NULL;
    }
    text[*len] = '\0';
    return text;
}

char *token_text(const struct shell *sh, int32_t id)
{
    size_t len;
    const char *bytes = sh->tok ? tok_bytes(sh->tok, id, &len) : NULL;
    char *text = NULL;
    if (bytes)
        return text_quoted(bytes, len);
    return asprintf(&text, "<|%d|>", id) < 0 ? NULL : text;
}

int handle_tokens(struct shell *sh, const struct args *a)
{
    static const struct column col[] = { { "pos", "pos", 1, 0, NULL }, { "id", "id", 1, 0, NULL },
                                         { "text", "text", 0, 0, NULL }, { 0 } };
    static const struct rows rows = { "rows", "tokens", "rows", col, 0 };
    (void)a;
    cJSON *list = cJSON_CreateArray();
    for (uint32_t i = 0; i < sh->sess->n; i++) {
        char *text = token_text(sh, sh->sess->token[i]), *quoted = NULL;
        cJSON *row = cJSON_CreateObject();
        cJSON_AddItemToArray(list, row);
        cJSON_AddNumberToObject(row, "pos", i);
        cJSON_AddNumberToObject(row, "id", sh->sess->token[i]);
        if (text && asprintf(&quoted, "\"%s\"", text) >= 0)
            field_string(row, "text", sh->out.json ? text : quoted);
        free(quoted);
        free(text);
    }
    if (!sh->sess->n && !sh->out.json)
        render_event(&sh->out, "status", NULL, "the conversation is empty");
    render_rows(&sh->out, &rows, NULL, NULL, list);
    return 0;
}

/* ---- /stats ---- */

static void stat_row(cJSON *list, const char *name, double value, const char *unit)
{
    cJSON *row = cJSON_CreateObject();
    cJSON_AddItemToArray(list, row);
    field_string(row, "name", name);
    if (*unit == 't')                      /* a speed; counts and seeds have more digits */
        field_real(row, "value", value);
    else
        cJSON_AddNumberToObject(row, "value", value);
    field_string(row, "unit", unit);
}

static void stat_word(cJSON *list, const char *name, const char *value)
{
    cJSON *row = cJSON_CreateObject();
    cJSON_AddItemToArray(list, row);
    field_string(row, "name", name);
    field_string(row, "value", value);
}

static char *show_stat(const struct render *r, const cJSON *row)
{
    (void)r;
    const cJSON *v = cJSON_GetObjectItemCaseSensitive(row, "value");
    const char *unit = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(row, "unit"));
    char *text = NULL;
    if (!cJSON_IsNumber(v))
        return strdup(cJSON_IsString(v) ? v->valuestring : "");
    int digits = unit && !strncmp(unit, "tok/s", 5) ? 1 : 0;
    if (unit && !strcmp(unit, "bytes"))
        return asprintf(&text, "%.1f MiB", v->valuedouble / 1048576) < 0 ? NULL : text;
    return asprintf(&text, "%.*f%s%s", digits, v->valuedouble, unit && *unit ? " " : "",
                    unit ? unit : "") < 0 ? NULL : text;
}

static void speed_rows(cJSON *list, const char *what, const struct sess_stats *s)
{
    char name[64];
    snprintf(name, sizeof name, "%s prompt", what);
    stat_row(list, name, (double)s->prompt_tokens, "tokens");
    snprintf(name, sizeof name, "%s prompt speed", what);
    stat_row(list, name, s->prompt_s > 0 ? (double)s->prompt_tokens / s->prompt_s : 0, "tok/s");
    snprintf(name, sizeof name, "%s generation", what);
    stat_row(list, name, (double)s->gen_tokens, "tokens");
    snprintf(name, sizeof name, "%s generation speed", what);
    stat_row(list, name, s->gen_s > 0 ? (double)s->gen_tokens / s->gen_s : 0, "tok/s");
}

static double resident_bytes(void)
{
    double pages = 0;
    FILE *f = fopen("/proc/self/statm", "r");
    if (f && fscanf(f, "%*s %lf", &pages) != 1)
        pages = 0;
    if (f)
        fclose(f);
    return pages * (double)sysconf(_SC_PAGESIZE);
}

int handle_stats(struct shell *sh, const struct args *a)
{
    static const struct column col[] = { { "name", "", 0, 0, NULL }, { NULL, "", 0, 0, show_stat }, { 0 } };
    static const struct rows rows = { "rows", "stats", "rows", col, 1 };
    struct rusage use;
    char kv[200];
    (void)a;
    cJSON *list = cJSON_CreateArray();
    stat_word(list, "model", sh->name);
    uint32_t known = sess_in_step(sh->sess);
    disp_kv_brief(sh->disp, known, kv, sizeof kv);
    if (disp_name(sh->disp) && !known && sh->sess->n)
        snprintf(kv, sizeof kv, "to be computed");
    stat_word(list, "backend", disp_label(sh->disp) ? disp_label(sh->disp) : "none");
    stat_word(list, "kv", kv);
    stat_row(list, "context used", sh->sess->n, "tokens");
    stat_row(list, "context", disp_max_pos(sh->disp), "tokens");
    stat_row(list, "seed", (double)sh->tree->seed, "");
    speed_rows(list, "last", &sh->sess->last);
    speed_rows(list, "total", &sh->sess->total);
    double now = resident_bytes(), most = getrusage(RUSAGE_SELF, &use) ? 0 : 1024.0 * (double)use.ru_maxrss;
    stat_row(list, "memory", now, "bytes");
    stat_row(list, "memory at most", most > now ? most : now, "bytes");    /* they are sampled apart */
    render_rows(&sh->out, &rows, NULL, NULL, list);
    return 0;
}
