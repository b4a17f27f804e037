/* repl/sweep.c -- /ablate --sweep: every expert in turn, ranked.  What is done is kept: in memory
 * for this session, and in a file of JSON Lines (--out) for any later one; an interrupt, a kill or
 * a full disk loses the expert being tried and no other. */
#define _GNU_SOURCE
#include "repl/ablate.h"

#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

enum { SHOWN = 20 };                       /* rows for people; programs get all           */

struct one { int done; struct ablation_sums s; };

/* The last sweep of this process: found again by its key */
static struct { uint64_t key; struct one *one; size_t n; } kept;

/* Of everything that the figures depend on, but for the backend's rounding */
static uint64_t key_of(const struct shell *sh, const struct ablate *job)
{
    uint64_t h = 14695981039346656037u;    /* FNV-1a */
    const struct { const void *p; size_t n; } part[] = {
        { job->token, job->n * sizeof *job->token }, { job->first, (job->n_texts + (size_t)1) * sizeof *job->first }, { job->base, strlen(job->base) }, { &job->how, sizeof job->how },
        { sh->ckpt->desc.fingerprint, 32 } };
    for (size_t i = 0; i < sizeof part / sizeof *part; i++)
        for (size_t k = 0; k < part[i].n; k++)
            h = (h ^ ((const unsigned char *)part[i].p)[k]) * 1099511628211u;
    return h;
}

/* ---- the file ---- */

static double number(const cJSON *j, const char *key)
{
    const cJSON *v = cJSON_GetObjectItemCaseSensitive(j, key);
    return cJSON_IsNumber(v) ? v->valuedouble : -1;
}

/* One line of results; a line that a kill cut short says nothing */
static void take_line(const cJSON *j, uint32_t n_layers, uint32_t n_experts, struct one *one)
{
    double l = number(j, "layer"), e = number(j, "expert");
    if (!(l >= 0 && l < n_layers && e >= 0 && e < n_experts))
        return;
    one += (size_t)l * n_experts + (size_t)e;
    const cJSON *delta = cJSON_GetObjectItemCaseSensitive(j, "delta_sum");
    one->s = (struct ablation_sums){
        .delta = cJSON_IsNumber(delta) ? delta->valuedouble : 0, .kl = number(j, "kl_sum"), .kl_max = number(j, "kl_max"),
        .changed = (uint32_t)number(j, "changed"), .used = (uint32_t)number(j, "used"),
        .routed = (uint64_t)number(j, "routed"), .shifted = (uint64_t)number(j, "shifted") };
    one->done = cJSON_IsNumber(delta) && one->s.kl >= 0 && number(j, "changed") >= 0 && number(j, "used") >= 0 &&
                number(j, "routed") >= 0 && number(j, "shifted") >= 0;
}

/* Opens the file to go on with; what it holds is taken.  NULL after saying why not. */
static FILE *open_out(struct shell *sh, const char *path, const struct ablate *job, uint64_t key, struct one *one)
{
    const struct dbrx_config *c = &sh->ckpt->desc.config;
    char hex[17], *line = NULL;
    size_t cap = 0;
    int first = 1, other = 0, cut = 0;
    snprintf(hex, sizeof hex, "%016" PRIx64, key);
    FILE *f = fopen(path, "a+");
    struct stat st;
    if (!f || fstat(fileno(f), &st) || !S_ISREG(st.st_mode)) {
        render_error(&sh->out, "%s cannot be written: %s", path, f ? "it is no regular file" : strerror(errno));
        if (f)
            fclose(f);
        return NULL;
    }
    for (ssize_t n; (n = getline(&line, &cap, f)) > 0; first = 0) {
        cJSON *j = cJSON_ParseWithLength(line, (size_t)n);
        const char *in_file = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(j, "key"));
        if (first)
            other = !in_file || strcmp(in_file, hex);
        else if (!other)
            take_line(j, c->n_layers, c->n_experts, one);
        cut = line[n - 1] != '\n';
        cJSON_Delete(j);
    }
    free(line);
    if (other) {
        render_error(&sh->out, "%s is not of this sweep: it has other tokens, steering, meaning or weights.  "
                     "Nothing was changed; name another file", path);
        fclose(f);
        return NULL;
    }
    if (cut)
        putc('\n', f);
    if (first) {
        cJSON *j = cJSON_CreateObject();
        cJSON_AddStringToObject(j, "format", "dbrx.sweep/1");
        cJSON_AddStringToObject(j, "key", hex);
        cJSON_AddStringToObject(j, "meaning", steer_effect_name(job->how));
        field_string(j, "source", job->source);
        cJSON_AddNumberToObject(j, "tokens", job->n);
        field_string(j, "steering", job->base);
        field_string(j, "backend", disp_label(sh->disp));
        char *text = cJSON_PrintUnformatted(j);
        fprintf(f, "%s\n", text ? text : "");
        cJSON_free(text);
        cJSON_Delete(j);
    }
    return f;
}

/* 0 or -1: it is not on the disk */
static int put_line(FILE *f, uint32_t layer, uint32_t expert, const struct ablation_sums *s)
{
    return fprintf(f, "{\"layer\":%u,\"expert\":%u,\"delta_sum\":%.17g,\"kl_sum\":%.17g,\"kl_max\":%.17g,"
                   "\"changed\":%u,\"used\":%u,\"routed\":%" PRIu64 ",\"shifted\":%" PRIu64 "}\n", layer, expert,
                   s->delta, s->kl, s->kl_max, s->changed, s->used, s->routed, s->shifted) < 0 || fflush(f) ? -1 : 0;
}

/* ---- the ranking ---- */

static const struct one *ranked;
static int stronger(const void *a, const void *b)
{
    uint32_t i = *(const uint32_t *)a, j = *(const uint32_t *)b;
    double x = ranked[i].s.kl, y = ranked[j].s.kl;
    return x != y ? x < y ? 1 : -1 : i < j ? -1 : i > j;
}

static char *show_share(const cJSON *row, const char *key)
{
    char *text = NULL;
    return asprintf(&text, "%.1f%%", 100 * number(row, key)) < 0 ? NULL : text;
}
static char *show_used(const struct render *r, const cJSON *row) { (void)r; return show_share(row, "used"); }
static char *show_changed(const struct render *r, const cJSON *row) { (void)r; return show_share(row, "argmax_changed"); }
static char *show_shifted(const struct render *r, const cJSON *row)
{
    (void)r;
    return number(row, "routing_shifted") < 0 ? strdup("none") : show_share(row, "routing_shifted");    /* null: no later layer */
}

static char *show_name(const struct render *r, const cJSON *row)
{
    (void)r;
    char *text = NULL;
    return asprintf(&text, "%.0f@%.0f", number(row, "expert"), number(row, "layer")) < 0 ? NULL : text;
}

static void say_ranking(struct shell *sh, const struct ablate *job, const struct one *one, size_t n, size_t done)
{
    static const struct column col[] = {
        { "rank", "rank", 1, 0, NULL }, { NULL, "expert", 1, 0, show_name }, { "kl", "KL, bits", 1, 5, NULL },
        { "logprob_change", "change, bits", 1, 5, NULL }, { NULL, "used by", 1, 0, show_used },
        { NULL, "argmax changed", 1, 0, show_changed }, { NULL, "routing shifted", 1, 0, show_shifted }, { 0 } };
    static const struct rows rows = { "rows", "ablation_sweep", "rows", col, 0 };
    const struct dbrx_config *c = &sh->ckpt->desc.config;
    uint32_t *order = malloc(n * sizeof *order), k = 0;
    for (uint32_t i = 0; order && i < n; i++)
        if (one[i].done)
            order[k++] = i;
    ranked = one;
    if (order)
        qsort(order, k, sizeof *order, stronger);
    cJSON *head = cJSON_CreateObject(), *list = cJSON_CreateArray();
    field_string(head, "meaning", steer_effect_name(job->how));
    field_string(head, "source", job->source);
    cJSON_AddNumberToObject(head, "tokens", job->n);
    cJSON_AddNumberToObject(head, "texts", job->n_texts);
    field_string(head, "backend", disp_label(sh->disp));
    field_string(head, "steering", job->base);
    cJSON_AddBoolToObject(head, "complete", done == n);
    for (uint32_t i = 0; i < k && (sh->out.json || i < SHOWN); i++) {
        const struct ablation_sums *s = &one[order[i]].s;
        cJSON *row = cJSON_CreateObject();
        cJSON_AddItemToArray(list, row);
        cJSON_AddNumberToObject(row, "rank", i + 1);
        cJSON_AddNumberToObject(row, "layer", order[i] / c->n_experts);
        cJSON_AddNumberToObject(row, "expert", order[i] % c->n_experts);
        field_real(row, "kl", s->kl / job->n);
        field_real(row, "logprob_change", s->delta / (job->n - job->n_texts));
        field_real(row, "used", (double)s->used / job->n);
        field_real(row, "argmax_changed", (double)s->changed / job->n);
        field_real(row, "routing_shifted", s->routed ? (double)s->shifted / (double)s->routed : (double)NAN);
    }
    free(order);
    char *title = NULL;
    if (asprintf(&title, "%zu of %zu experts (%s), %u tokens of %s%s%s%s, on %s%s", done, n, ablate_meaning(job->how),
                 job->n, job->source, ablate_texts(job, (char[40]){ 0 }), *job->base ? ", steered: " : "", job->base, disp_label(sh->disp),
                 k > SHOWN ? "; the first 20:" : ":") < 0)
        title = NULL;
    render_rows(&sh->out, &rows, title, head, list);
    free(title);
}

/* ---- the sweep ---- */

int ablate_sweep(struct shell *sh, struct ablate *job, const char *path)
{
    const struct dbrx_config *c = &sh->ckpt->desc.config;
    const size_t n = (size_t)c->n_layers * c->n_experts;
    uint64_t key = key_of(sh, job);
    struct dbrx_error err = { 0 };
    dbrx_status st = DBRX_OK;
    size_t done = 0, was = 0;
    FILE *f = NULL;
    if (kept.key != key || kept.n != n || !kept.one) {
        free(kept.one);
        kept.one = calloc(n, sizeof *kept.one);
        kept.key = key;
        kept.n = n;
    }
    uint8_t *in = calloc(n, 1);
    int failed = in && kept.one ? 0 : render_error(&sh->out, "out of memory");
    struct one *from_file = !failed && path ? calloc(n, sizeof *from_file) : NULL;
    if (!failed && path && (!from_file || !(f = open_out(sh, path, job, key, from_file))))
        failed = from_file ? -1 : render_error(&sh->out, "out of memory");
    for (uint32_t i = 0; i < n && f && !failed; i++)   /* what either has, both have from now on */
        if (from_file[i].done)
            kept.one[i] = from_file[i];
        else if (kept.one[i].done && put_line(f, i / c->n_experts, i % c->n_experts, &kept.one[i].s))
            failed = render_error(&sh->out, "%s cannot be written: %s", path, strerror(errno));
    for (size_t i = 0; i < n && !failed; i++)
        was += kept.one[i].done != 0;
    done = was;
    if (!failed && done < n)
        failed = ablate_begin(sh, job);
    for (uint32_t i = 0; i < n && !failed && st == DBRX_OK; i++) {
        struct ablation_sums s;
        if (kept.one[i].done)
            continue;
        render_bar(&sh->out, done + 1, n, 0);
        in[i] = 1;
        st = sh->host.should_stop(&sh->host) ? DBRX_STOPPED
           : ablation_run(job->ablation, in, job->how, &s, NULL, NULL, &err);
        in[i] = 0;
        if (st != DBRX_OK)
            break;
        kept.one[i] = (struct one){ 1, s };
        done++;
        if (f && put_line(f, i / c->n_experts, i % c->n_experts, &s))
            failed = render_error(&sh->out, "%s cannot be written: %s; what was done is kept in this session", path,
                                  strerror(errno));
    }
    render_bar(&sh->out, 0, 0, 0);
    if (done && (!failed || done > was))
        say_ranking(sh, job, kept.one, n, done);
    if (st == DBRX_STOPPED)
        failed = render_error(&sh->out, "interrupted: %zu of %zu experts are done; the same command goes on from there",
                              done, n);
    else if (st != DBRX_OK)
        failed = shell_failed(sh, st, &err);
    if (f && fclose(f) && !failed)
        failed = render_error(&sh->out, "%s cannot be written: %s", path, strerror(errno));
    free(from_file);
    free(in);
    return failed;
}
