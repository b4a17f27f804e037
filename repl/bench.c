/* repl/bench.c -- what measured backends look like, and /bench.  Conversation and backend stay as
 * they are: every backend is opened once more for the time it takes. */
#define _GNU_SOURCE
#include "repl/bench.h"

#include "repl/clock.h"
#include "repl/commands.h"
#include "repl/handlers.h"
#include "repl/measure.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct opened { struct engine engine; char label[sizeof ((struct engine *)0)->label]; };

/* ---- one object a backend: JSON, and what the text is made of ---- */

static const struct { const char *key, *unit; } figures[MEASURE_N] = {
    [MEASURE_PROMPT] = { "prompt_tokens_per_second", "tok/s" },
    [MEASURE_GEN] = { "gen_tokens_per_second", "tok/s" },
    [MEASURE_MOVED] = { "moved_bytes_per_second", "B/s" },
    [MEASURE_MOVED_SHARE] = { "moved_bytes_share", "of the read bandwidth" },
    [MEASURE_FLOPS] = { "prompt_flops", "FLOP/s" },
    [MEASURE_FLOPS_SHARE] = { "prompt_flops_share", "of the peak" },
    [MEASURE_SWITCH] = { "switch_seconds", "s" } };
static const char *const parts[] = { "median", "low", "high", "min", "max" };

static void add_spread(cJSON *o, const char *key, const double *v, uint32_t n)
{
    struct spread s = spread_of(v, n);
    const double value[] = { s.median, s.low, s.high, s.min, s.max };
    cJSON *p = cJSON_AddObjectToObject(o, key);
    for (int i = 0; i < 5; i++)
        field_real(p, parts[i], value[i]);
}

static cJSON *backend_row(const struct measured *m, const char *label)
{
    cJSON *row = cJSON_CreateObject();
    field_string(row, "backend", label);
    cJSON_AddNumberToObject(row, "samples", m->n);
    for (int f = 0; f < MEASURE_N; f++)
        add_spread(row, figures[f].key, m->sample[f], m->n);
    field_real(row, "weight_bytes_per_token", m->bytes_token);
    field_real(row, "kv_bytes_per_token", m->kv_token);
    field_real(row, "experts_per_layer", m->experts);
    field_real(row, "load_seconds", m->load_s);
    field_real(row, "memory_bytes", m->memory);
    return row;
}

static double part(const cJSON *row, const char *key, const char *of)
{
    const cJSON *v = cJSON_GetObjectItemCaseSensitive(row, key);
    v = of ? cJSON_GetObjectItemCaseSensitive(v, of) : v;
    return cJSON_IsNumber(v) ? v->valuedouble : NAN;
}

static char *form(const char *fmt, double x)
{
    char *text = NULL;
    return isnan(x) ? strdup("-") : asprintf(&text, fmt, x) < 0 ? NULL : text;
}

static const char *plus_minus(const struct render *r)
{
    return r->utf8 ? "\302\261" : "+-";
}

/* "736.1 ±1.2%": the median, and half of what lies between the quartiles, if there are any */
static char *speed(const struct render *r, const cJSON *row, const char *key)
{
    double m = part(row, key, "median"), low = part(row, key, "low"), high = part(row, key, "high");
    char *text = NULL;
    if (isnan(m))
        return strdup("-");
    if (part(row, "samples", NULL) < 2)
        return form("%.1f", m);
    return asprintf(&text, "%.1f %s%.1f%%", m, plus_minus(r), 50 * (high - low) / m) < 0 ? NULL : text;
}
static char *show_prompt(const struct render *r, const cJSON *row) { return speed(r, row, figures[MEASURE_PROMPT].key); }
static char *show_gen(const struct render *r, const cJSON *row) { return speed(r, row, figures[MEASURE_GEN].key); }

/* "125.3 (22%)" */
static char *rate(const cJSON *row, enum measure_figure f)
{
    double m = part(row, figures[f].key, "median") * 1e-9, of = part(row, figures[f + 1].key, "median");
    char *text = NULL;
    if (isnan(m))
        return strdup("-");
    return asprintf(&text, isnan(of) ? "%.2f" : "%.2f (%.1f%%)", m, 100 * of) < 0 ? NULL : text;
}
static char *show_flops(const struct render *r, const cJSON *row) { (void)r; return rate(row, MEASURE_FLOPS); }
static char *show_moved(const struct render *r, const cJSON *row) { (void)r; return rate(row, MEASURE_MOVED); }

static char *show_load(const struct render *r, const cJSON *row)
{
    (void)r;
    return form("%.1f ms", 1e3 * part(row, "load_seconds", NULL));
}
static char *show_switch(const struct render *r, const cJSON *row)
{
    (void)r;
    return form("%.2f ms", 1e3 * part(row, figures[MEASURE_SWITCH].key, "median"));
}
static char *show_memory(const struct render *r, const cJSON *row)
{
    (void)r;
    return form("%.1f MiB", part(row, "memory_bytes", NULL) / 1048576);
}
static char *show_read(const struct render *r, const cJSON *row)
{
    double w = part(row, "weight_bytes_per_token", NULL) * 1e-6, kv = part(row, "kv_bytes_per_token", NULL) * 1e-6;
    char *text = NULL;
    (void)r;
    if (isnan(w))
        return strdup("-");
    return asprintf(&text, "%.2f+%.2f MB", w, kv) < 0 ? NULL : text;
}

static void print_csv(struct shell *sh, const cJSON *head, const cJSON *list)
{
    char *line = NULL;
    size_t size;
    FILE *f = open_memstream(&line, &size);
    if (!f)
        return;
    fputs("backend,prompt,gen,depth,samples", f);
    for (int i = 0; i < MEASURE_N; i++)
        for (int p = 0; p < 5; p++)
            fprintf(f, ",%s_%s", figures[i].key, parts[p]);
    fputs(",weight_bytes_per_token,kv_bytes_per_token,experts_per_layer,load_seconds,memory_bytes,read_bytes_per_second,peak_flops", f);
    for (const cJSON *row = list->child; row; row = row->next) {
        fprintf(f, "\n\"%s\",%.0f,%.0f,%.0f,%.0f", cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(row, "backend")),
                part(head, "prompt", NULL), part(head, "gen", NULL), part(head, "depth", NULL),
                part(row, "samples", NULL));
        double v[MEASURE_N * 5 + 7];
        int n = 0;
        for (int i = 0; i < MEASURE_N; i++)
            for (int p = 0; p < 5; p++)
                v[n++] = part(row, figures[i].key, parts[p]);
        v[n++] = part(row, "weight_bytes_per_token", NULL);
        v[n++] = part(row, "kv_bytes_per_token", NULL);
        v[n++] = part(row, "experts_per_layer", NULL);
        v[n++] = part(row, "load_seconds", NULL);
        v[n++] = part(row, "memory_bytes", NULL);
        v[n++] = part(head, "read_bytes_per_second", "median");
        v[n++] = part(head, "peak_flops", "median");
        for (int i = 0; i < n; i++)        /* nothing where there is no figure */
            fprintf(f, isnan(v[i]) ? "," : ",%.9g", v[i]);
    }
    if (!fclose(f))
        render_line(&sh->out, line);
    free(line);
}

static void show(struct shell *sh, const struct bench_ask *ask, const struct measurement *b, const struct opened *o)
{
    static const struct column speeds[] = {
        { NULL, "prompt tok/s", 1, 0, show_prompt }, { NULL, "GFLOP/s (peak)", 1, 0, show_flops },
        { NULL, "gen tok/s", 1, 0, show_gen }, { NULL, "GB/s (read)", 1, 0, show_moved }, { "backend", "backend", 0, 0, NULL }, { 0 } };
    static const struct column costs[] = {
        { NULL, "weights+KV", 1, 0, show_read }, { "experts_per_layer", "experts", 1, 2, NULL },
        { NULL, "load", 1, 0, show_load }, { NULL, "switch", 1, 0, show_switch }, { NULL, "memory", 1, 0, show_memory },
        { "backend", "backend", 0, 0, NULL }, { 0 } };
    static const struct rows fast = { "rows", "bench", "rows", speeds, 0 }, dear = { "rows", "bench", "rows", costs, 0 };
    cJSON *head = cJSON_CreateObject(), *list = cJSON_CreateArray();
    field_string(head, "model", sh->name);
    cJSON_AddNumberToObject(head, "prompt", b->prompt);
    cJSON_AddNumberToObject(head, "gen", b->gen);
    cJSON_AddNumberToObject(head, "depth", b->depth);
    cJSON_AddNumberToObject(head, "processors", machine_processors(b->machine));
    add_spread(head, "read_bytes_per_second", b->bandwidth, b->n_probes);
    add_spread(head, "peak_flops", b->flops, b->n_probes);
    for (size_t i = 0; i < b->n_m; i++)
        cJSON_AddItemToArray(list, backend_row(&b->m[i], o[i].label));
    if (ask->csv || sh->out.json) {
        if (ask->csv) {
            print_csv(sh, head, list);
            cJSON_Delete(head);
            cJSON_Delete(list);
        } else {
            render_rows(&sh->out, &fast, NULL, head, list);
        }
        return;
    }
    char *title = NULL, runs[120] = "one run";
    uint32_t reps = b->m[b->n_m - 1].n;
    if (reps > 1)
        snprintf(runs, sizeof runs, "medians of %u %sruns (%s half of what lies between the quartiles)", reps,
                 b->n_m > 1 ? "interleaved " : "", plus_minus(&sh->out));
    if (asprintf(&title, "%s: prompt %u tokens, generation %u, depth %u; %s.  %u processor%s read %.1f GB/s and do "
                 "%.0f GFLOP/s at most, probed beside each run", sh->name, b->prompt, b->gen, b->depth, runs,
                 machine_processors(b->machine), machine_processors(b->machine) == 1 ? "" : "s",
                 part(head, "read_bytes_per_second", "median") * 1e-9, part(head, "peak_flops", "median") * 1e-9) < 0)
        title = NULL;
    render_rows(&sh->out, &fast, title, head, cJSON_Duplicate(list, 1));
    render_line(&sh->out, "");
    render_rows(&sh->out, &dear, NULL, NULL, list);
    free(title);
}

/* ---- running ---- */

/* Opens who can be; those who cannot are named.  How many */
static size_t open_all(struct shell *sh, const struct bench_ask *ask, uint32_t room, struct measured *m, struct opened *o)
{
    size_t n = 0;
    for (size_t i = 0; i < ask->n; i++) {
        struct dbrx_error err = { 0 };
        double before = machine_own_memory(), t0 = clock_seconds();
        dbrx_status st = contender_open(sh, &ask->who[i], room, 1, &o[n].engine, &err);
        if (st != DBRX_OK) {
            render_error(&sh->out, "%s: %s", contender_name(sh, &ask->who[i]), st == DBRX_STOPPED ? "interrupted" : err.text);
            if (st == DBRX_STOPPED)
                break;
            continue;
        }
        snprintf(o[n].label, sizeof o[n].label, "%s", o[n].engine.label);
        m[n] = (struct measured){ .engine = &o[n].engine, .load_s = o[n].engine.shared ? NAN : clock_seconds() - t0,
                                  .memory = machine_own_memory() - before };
        n++;
    }
    return n;
}

int bench_run(struct shell *sh, const struct bench_ask *ask)
{
    const struct dbrx_config *c = &sh->ckpt->desc.config;
    uint64_t room = (uint64_t)ask->depth + ask->prompt + ask->gen;
    struct measured m[MAX_CONTENDERS];
    struct opened o[MAX_CONTENDERS];
    struct dbrx_error err = { 0 };
    if (room > c->max_seq)
        return render_error(&sh->out, "depth, prompt and generation together are %llu tokens; this model's context has "
                            "%u", (unsigned long long)room, c->max_seq);
    if (!ask->prompt && !ask->gen)
        return render_error(&sh->out, "without a prompt and without generation there is nothing to measure");
    render_busy_with(&sh->out, "measuring");           /* the probe's memory alone may take seconds */
    struct machine *machine = machine_new();
    if (!machine) {
        render_busy(&sh->out, 0);
        return render_error(&sh->out, "out of memory for the probe of the read bandwidth");
    }
    struct measurement b = {
        .desc = &sh->ckpt->desc, .host = &sh->host, .steer = disp_steered(sh->disp), .machine = machine, .prompt = ask->prompt, .gen = ask->gen,
        .depth = ask->depth, .reps = ask->reps, .m = m, .n_m = open_all(sh, ask, (uint32_t)room, m, o) };
    dbrx_status st = b.n_m ? measurement_run(&b, &err) : DBRX_OK;
    render_busy(&sh->out, 0);
    int failed = b.n_m < ask->n ? -1 : 0;
    if (b.n_m && b.m[b.n_m - 1].n)
        show(sh, ask, &b, o);
    if (st == DBRX_STOPPED)
        failed = render_error(&sh->out, b.n_m && b.m[b.n_m - 1].n ? "interrupted: those are the samples so far"
                                                                  : "interrupted before there was a sample");
    else if (st != DBRX_OK)
        failed = render_error(&sh->out, "%s", err.text);
    measurement_free(&b);
    for (size_t i = b.n_m; i--; )
        engine_close(&o[i].engine);
    machine_free(machine);
    return failed;
}

/* ---- the command ---- */

enum { BACKEND, OPTIONS, PROMPT, GEN, DEPTH, REPS, ALL, CSV };

int handle_bench(struct shell *sh, const struct args *a)
{
    struct bench_ask ask = { .prompt = BENCH_PROMPT, .gen = BENCH_GEN, .reps = BENCH_REPS, .csv = a->text[CSV] != NULL };
    const long most = INT32_MAX;
    if (args_count(sh, a, PROMPT, 0, most, &ask.prompt) || args_count(sh, a, GEN, 0, most, &ask.gen) ||
        args_count(sh, a, DEPTH, 0, most, &ask.depth) || args_count(sh, a, REPS, 1, MEASURE_MAX_REPS, &ask.reps))
        return -1;
    if (ask.csv && sh->out.json)
        return render_error(&sh->out, "--csv and --json exclude each other: events are no lines of values");
    if (a->text[ALL] && a->text[BACKEND])
        return render_error(&sh->out, "--all-backends measures all of them; leave out %s, or it", a->text[BACKEND]);
    if (!disp_name(sh->disp) && !a->text[BACKEND])
        return render_error(&sh->out, "no backend is open; /backend NAME opens one");
    if (a->text[ALL]) {
        ask.n = contender_all(sh, ask.who);
    } else {
        ask.n = 1;
        if (contender_typed(sh, a->text[BACKEND], a->list, &ask.who[0]))
            return -1;
    }
    return bench_run(sh, &ask);
}
