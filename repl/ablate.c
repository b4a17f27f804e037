/* repl/ablate.c -- /ablate: the same tokens without some experts (ablation.c), beside random
 * others; --sweep (sweep.c) tries every expert.  What is measured is ablation.c's. */
#define _GNU_SOURCE
#include "repl/ablate.h"

#include "plugins/fail.h"
#include "repl/commands.h"
#include "repl/corpus.h"
#include "repl/handlers.h"
#include "repl/words.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { EXPERTS, AGAINST, CONTROL, SWEEP, OUT, BAN, SKIP, OMIT, ZERO }; /* arguments, by position */
enum { MOST_CHANGED = 10, MAX_CONTROL = 1000 };

/* ---- what is replayed ---- */

struct texts { struct tok *tok; struct ablate *job; size_t cap; uint32_t max, cut; };

/* n tokens more, a text of its own; none is no text */
static dbrx_status add_tokens(struct ablate *job, const int32_t *id, uint32_t n)
{
    int32_t *token = n < INT32_MAX - job->n ? realloc(job->token, (job->n + (size_t)n) * sizeof *token) : NULL;
    uint32_t *first = token ? realloc(job->first, (job->n_texts + (size_t)2) * sizeof *first) : NULL;
    job->token = token ? token : job->token;
    if (!first)
        return DBRX_E_NOMEM;
    job->first = first;
    memcpy(job->token + job->n, id, n * sizeof *id);
    first[job->n_texts++] = job->n;
    first[job->n_texts] = job->n += n;
    return DBRX_OK;
}

static dbrx_status add_text(void *ctx, const char *text, size_t len, uint64_t done, uint64_t total, struct dbrx_error *err)
{
    struct texts *t = ctx;
    struct tok_ids ids = { 0 };
    dbrx_status st = tok_encode(t->tok, text, len, TOK_PLAIN, &ids) ? DBRX_E_NOMEM : DBRX_OK;
    (void)done, (void)total;
    if (st == DBRX_OK && ids.n)
        st = add_tokens(t->job, ids.id, ids.n < t->max ? (uint32_t)ids.n : t->max);
    t->cut += ids.n > t->max;
    free(ids.id);
    return st == DBRX_OK ? st : fail(err, st, "out of memory");
}

static int read_tokens(struct shell *sh, const char *file, struct ablate *job)
{
    struct texts t = { .tok = sh->tok, .job = job, .max = disp_max_pos(sh->disp) };
    struct dbrx_error err = { 0 };
    job->source = file;
    if (!sh->tok)
        return render_error(&sh->out, "--against needs a tokenizer: %s", sh->tok_why);
    if (corpus_texts(file, add_text, &t, &err) != DBRX_OK)
        return render_error(&sh->out, "%s", err.text);
    if (t.cut)
        render_event(&sh->out, "status", NULL, "the context has room for the first %u tokens of %s", t.max,
                     job->n_texts == 1 ? file : "a text; longer ones are cut");
    return 0;
}

static int open_job(struct shell *sh, const struct args *a, struct ablate *job)
{
    if (!!a->text[BAN] + !!a->text[SKIP] + !!a->text[OMIT] + !!a->text[ZERO] > 1)
        return render_error(&sh->out, "--ban, --skip, --omit and --zero are different meanings of \"without\": choose one");
    job->how = a->text[BAN] ? STEER_BAN : a->text[SKIP] ? STEER_SKIP : a->text[OMIT] ? STEER_OMIT : STEER_ZERO;
    if (!disp_name(sh->disp))
        return render_error(&sh->out, "no backend is open; /backend NAME opens one");
    if (a->text[AGAINST]) {
        if (read_tokens(sh, a->text[AGAINST], job))
            return -1;
    } else {
        job->source = "the conversation";
        if (sh->sess->n && add_tokens(job, sh->sess->token, sh->sess->n) != DBRX_OK)
            return render_error(&sh->out, "out of memory");
    }
    if (!(job->base = steer_text(sh->steer)))
        return render_error(&sh->out, "out of memory");
    if (job->n == job->n_texts)            /* no token has a next one */
        return render_error(&sh->out, "%s has %u token%s to replay, and two are needed%s", job->source, job->n,
                            job->n == 1 ? "" : "s", a->text[AGAINST] ? " in one text" : ": type a prompt, or --against FILE");
    return 0;
}

int ablate_begin(struct shell *sh, struct ablate *job)
{
    struct dbrx_error err = { 0 };
    render_busy(&sh->out, 1);
    dbrx_status st = ablation_open(sh->disp, &sh->ckpt->desc.config, job->token, job->first, job->n_texts, job->base,
                                   &job->ablation, &err);
    render_busy(&sh->out, 0);
    return st == DBRX_OK ? 0 : st == DBRX_STOPPED ? render_error(&sh->out, "interrupted") : shell_failed(sh, st, &err);
}

const char *ablate_texts(const struct ablate *job, char out[40])
{
    *out = '\0';
    if (job->n_texts > 1)
        snprintf(out, 40, " (%u texts)", job->n_texts);
    return out;
}

const char *ablate_meaning(enum steer_effect how)
{
    return how == STEER_ZERO ? "contribution dropped" : how == STEER_OMIT ? "dropped, the others renormalised"
         : how == STEER_SKIP ? "not chosen, probabilities as they are" : "banned before the softmax";
}

/* ---- controls: as many other experts of the same layers, at random ---- */

static uint32_t draw(uint64_t *state, uint32_t n)
{
    uint64_t z = (*state += 0x9e3779b97f4a7c15u);      /* SplitMix64 */
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return (uint32_t)(((z ^ z >> 31) >> 32) * n >> 32);
}

/* The others of each layer in a random order, and of those the k-th ones on: with one expert to
 * stand for, the controls are different ones as long as there are */
static int control_set(const struct dbrx_config *c, const uint8_t *in, uint32_t k, uint64_t seed, uint8_t *out)
{
    uint32_t other[65536];
    memset(out, 0, (size_t)c->n_layers * c->n_experts);
    for (uint32_t l = 0; l < c->n_layers; l++) {
        const uint8_t *row = in + (size_t)l * c->n_experts;
        uint32_t n = 0, take = 0;
        for (uint32_t e = 0; e < c->n_experts; e++)
            if (row[e])
                take++;
            else
                other[n++] = e;
        if (take > n)
            return -1;
        for (uint32_t i = 0; i < n; i++) {
            uint32_t j = i + draw(&seed, n - i), was = other[i];
            other[i] = other[j];
            other[j] = was;
        }
        for (uint32_t i = 0; i < take; i++)
            out[(size_t)l * c->n_experts + other[(k * take + i) % n]] = 1;
    }
    return 0;
}

/* Mean and standard deviation of one figure over the controls */
struct spread { double sum, sum2; uint32_t n; };
static void spread_add(struct spread *s, double x)
{
    s->sum += x;
    s->sum2 += x * x;
    s->n++;
}
static double spread_mean(const struct spread *s) { return s->sum / s->n; }
static double spread_sd(const struct spread *s)
{
    double mean = spread_mean(s), var = s->n > 1 ? (s->sum2 - s->n * mean * mean) / (s->n - 1) : 0;
    return var < 0 ? 0 : sqrt(var);        /* of nothing: NaN, as the mean */
}

/* ---- figures ---- */

enum { DELTA, KL, CHANGED, SHIFTED, USED, N_FIGURES };
static const struct { const char *name, *unit, *what; } figure[N_FIGURES] = {
    [DELTA] = { "logprob_change", "bits a token", "log-probability of what came" },
    [KL] = { "kl", "bits a token", "KL(with || without)" },
    [CHANGED] = { "argmax_changed", "of tokens", "another likeliest next token" },
    [SHIFTED] = { "routing_shifted", "of choices", "other experts in later layers" },
    [USED] = { "used", "of tokens", "the experts contributed to" } };

/* NaN: there is nothing to count, as the layers behind the last one */
static double figure_of(const struct ablation_sums *s, const struct ablate *job, int which)
{
    return which == DELTA ? s->delta / (job->n - job->n_texts) : which == KL ? s->kl / job->n
         : which == CHANGED ? (double)s->changed / job->n
         : which == SHIFTED ? s->routed ? (double)s->shifted / (double)s->routed : (double)NAN : (double)s->used / job->n;
}

static double field(const cJSON *row, const char *key)
{
    const cJSON *v = cJSON_GetObjectItemCaseSensitive(row, key);
    return cJSON_IsNumber(v) ? v->valuedouble : (double)NAN;
}

static char *put_figure(const cJSON *row, double x)
{
    const char *unit = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(row, "unit"));
    char *text = NULL;
    int n = unit && *unit == 'b' ? asprintf(&text, "%.5f", x) : asprintf(&text, "%.2f%%", 100 * x);
    return n < 0 ? NULL : text;
}

static char *show_value(const struct render *r, const cJSON *row)
{
    (void)r;
    double x = field(row, "value");
    return isnan(x) ? strdup("none") : put_figure(row, x);
}

static char *show_control(const struct render *r, const cJSON *row)
{
    (void)r;
    double sd = field(row, "control_sd");  /* none where there is nothing to count */
    char *mean = isnan(sd) ? NULL : put_figure(row, field(row, "control_mean"));
    char *dev = isnan(sd) ? NULL : put_figure(row, sd), *text = NULL;
    if (mean && dev && asprintf(&text, r->utf8 ? "%s ± %s" : "%s +- %s", mean, dev) < 0)
        text = NULL;
    free(mean);
    free(dev);
    return text ? text : strdup("");
}

static char *show_what(const struct render *r, const cJSON *row)
{
    (void)r;
    const char *name = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(row, "name"));
    const char *unit = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(row, "unit"));
    char *text = NULL;
    for (int i = 0; i < N_FIGURES; i++)
        if (name && !strcmp(figure[i].name, name) && asprintf(&text, "%s, %s", figure[i].what, unit) < 0)
            return NULL;
    return text;
}

struct measured {
    struct ablation_sums sums;
    struct ablation_token *each;           /* [n]                                         */
    uint32_t *shift;                       /* [n_layers]                                  */
    struct spread control[N_FIGURES];
    uint32_t n_control, stronger;          /* ... with a KL as large or larger            */
};

static void say_figures(struct shell *sh, const struct ablate *job, const char *where, const struct measured *m)
{
    static const struct column col[] = {
        { NULL, "", 0, 0, show_what }, { NULL, "ablated", 1, 0, show_value }, { NULL, "control", 0, 0, show_control },
        { 0 } }, alone[] = { { NULL, "", 0, 0, show_what }, { NULL, "ablated", 1, 0, show_value }, { 0 } };
    const struct rows rows = { "rows", "ablation", "rows", m->n_control ? col : alone, 0 };
    const struct dbrx_config *c = &sh->ckpt->desc.config;
    cJSON *head = cJSON_CreateObject(), *list = cJSON_CreateArray();
    field_string(head, "experts", where);
    field_string(head, "meaning", steer_effect_name(job->how));
    field_string(head, "source", job->source);
    cJSON_AddNumberToObject(head, "tokens", job->n);
    cJSON_AddNumberToObject(head, "texts", job->n_texts);
    field_string(head, "backend", disp_label(sh->disp));
    field_string(head, "steering", job->base);
    field_real(head, "kl_max", m->sums.kl_max);
    cJSON_AddNumberToObject(head, "controls", m->n_control);
    cJSON_AddNumberToObject(head, "controls_as_strong", m->stronger);
    cJSON *shift = cJSON_AddArrayToObject(head, "shifted");
    for (uint32_t l = 0; l < c->n_layers; l++)
        cJSON_AddItemToArray(shift, json_real(l + m->sums.routed / job->n < c->n_layers ? (double)NAN
                                                                                        : (double)m->shift[l] / job->n));
    for (int i = 0; i < N_FIGURES; i++) {
        cJSON *row = cJSON_CreateObject();
        cJSON_AddItemToArray(list, row);
        field_string(row, "name", figure[i].name);
        field_real(row, "value", figure_of(&m->sums, job, i));
        field_string(row, "unit", figure[i].unit);
        if (m->n_control) {
            field_real(row, "control_mean", spread_mean(&m->control[i]));
            field_real(row, "control_sd", spread_sd(&m->control[i]));
        }
    }
    char *title = NULL;
    if (asprintf(&title, "without %s (%s), %u tokens of %s%s%s%s, on %s", where, ablate_meaning(job->how), job->n,
                 job->source, ablate_texts(job, (char[40]){ 0 }), *job->base ? ", steered: " : "", job->base, disp_label(sh->disp)) < 0)
        title = NULL;
    render_rows(&sh->out, &rows, title, head, list);
    free(title);
    if (m->n_control && !sh->out.json)
        render_event(&sh->out, "status", NULL, "control: %u random set%s of as many other experts of the same "
                     "layers, %u of them with as large a KL", m->n_control, m->n_control == 1 ? "" : "s", m->stronger);
}

/* ---- the tokens ---- */

static const struct ablation_token *by_kl;
static int larger_kl(const void *a, const void *b)
{
    uint32_t i = *(const uint32_t *)a, j = *(const uint32_t *)b;
    return by_kl[i].kl != by_kl[j].kl ? by_kl[i].kl < by_kl[j].kl ? 1 : -1 : i < j ? -1 : i > j;
}

/* A token's text in quotes; long runs of blanks, which some vocabularies have, are counted: they would
 * push everything else out of its column */
static char *in_quotes(const char *text)
{
    char *out = NULL;
    size_t n = text ? strspn(text, " ") : 0;
    int done = n > 3 ? asprintf(&out, "\"%zu blanks%s%s\"", n, text[n] ? " and " : "", text + n)
                     : asprintf(&out, "\"%s\"", text ? text : "");
    return done < 0 ? NULL : out;
}

/* Which text has this token */
static uint32_t text_of(const struct ablate *job, uint32_t token)
{
    uint32_t lo = 0, hi = job->n_texts;
    while (lo + 1 < hi)
        *(job->first[(lo + hi) / 2] <= token ? &lo : &hi) = (lo + hi) / 2;
    return lo;
}

static void say_tokens(struct shell *sh, const struct ablate *job, const struct ablation_token *each)
{
    static const struct column all[] = {
        { "in_text", "text", 1, 0, NULL }, { "pos", "pos", 1, 0, NULL }, { "delta", "change", 1, 3, NULL }, { "kl", "KL", 1, 3, NULL },
        { "quoted", "token", 0, 0, NULL }, { "choice", "likeliest next", 0, 0, NULL }, { 0 } };
    const struct rows rows = { "rows", "ablation_tokens", "rows", all + (job->n_texts == 1), 0 };
    uint32_t *order = malloc(job->n * sizeof *order), most = job->n;
    for (uint32_t i = 0; order && i < job->n; i++)
        order[i] = i;
    if (order && !sh->out.json) {          /* people see the most affected ones */
        by_kl = each;
        qsort(order, job->n, sizeof *order, larger_kl);
        most = most < MOST_CHANGED ? most : MOST_CHANGED;
    }
    cJSON *list = cJSON_CreateArray();
    for (uint32_t k = 0; order && k < most; k++) {
        const struct ablation_token *t = &each[order[k]];
        if (!sh->out.json && t->kl == 0 && !(t->delta != 0))
            break;
        char *text = token_text(sh, job->token[order[k]]), *was = token_text(sh, t->was), *now = token_text(sh, t->now);
        char *quoted = NULL, *choice = NULL;
        cJSON *row = cJSON_CreateObject();
        cJSON_AddItemToArray(list, row);
        uint32_t in = text_of(job, order[k]);
        cJSON_AddNumberToObject(row, "in_text", in);
        cJSON_AddNumberToObject(row, "pos", order[k] - job->first[in]);
        cJSON_AddNumberToObject(row, "id", job->token[order[k]]);
        if (isnan(t->delta))
            cJSON_AddNullToObject(row, "delta");
        else
            field_real(row, "delta", t->delta);
        field_real(row, "kl", t->kl);
        if (sh->out.json) {
            field_string(row, "text", text ? text : "");
            cJSON_AddNumberToObject(row, "likeliest", t->was);
            cJSON_AddNumberToObject(row, "likeliest_without", t->now);
        } else {
            char *before = in_quotes(was), *after = in_quotes(now);
            quoted = in_quotes(text);
            if (!before || !after || asprintf(&choice, t->was == t->now ? "%s" : "%s, now %s", before, after) < 0)
                choice = NULL;
            field_string(row, "quoted", quoted ? quoted : "");
            field_string(row, "choice", choice ? choice : "");
            free(before), free(after);
        }
        free(quoted), free(choice), free(text), free(was), free(now);
    }
    free(order);
    if (sh->out.json || cJSON_GetArraySize(list))
        render_rows(&sh->out, &rows, "the tokens after which most changed (bits):", NULL, list);
    else
        cJSON_Delete(list);
}

/* ---- one set of experts ---- */

static int run_controls(struct shell *sh, struct ablate *job, const uint8_t *in, uint32_t n, struct measured *m)
{
    const struct dbrx_config *c = &sh->ckpt->desc.config;
    struct dbrx_error err = { 0 };
    uint8_t *set = malloc((size_t)c->n_layers * c->n_experts);
    int failed = set ? 0 : render_error(&sh->out, "out of memory");
    uint64_t seed = 0;                     /* of what is ablated: the same ones every time */
    for (size_t i = 0; i < (size_t)c->n_layers * c->n_experts; i++)
        seed = seed * 31 + in[i] + 1;
    for (uint32_t k = 0; k < n && !failed; k++) {
        struct ablation_sums s;
        render_bar(&sh->out, k + 1, n, 0);
        if (control_set(c, in, k, seed, set)) {
            failed = render_error(&sh->out, "there is no control: a layer has fewer other experts than ablated ones");
            break;
        }
        dbrx_status st = ablation_run(job->ablation, set, job->how, &s, NULL, NULL, &err);
        if (st == DBRX_STOPPED)
            failed = render_error(&sh->out, "interrupted after %u of %u controls", k, n);
        else if (st != DBRX_OK)
            failed = shell_failed(sh, st, &err);
        for (int i = 0; i < N_FIGURES && !failed; i++)
            spread_add(&m->control[i], figure_of(&s, job, i));
        m->n_control += !failed;
        m->stronger += !failed && s.kl >= m->sums.kl;
    }
    render_bar(&sh->out, 0, 0, 0);
    free(set);
    return failed;
}

static int ablate_set(struct shell *sh, struct ablate *job, const uint8_t *in, uint32_t n_control)
{
    const struct dbrx_config *c = &sh->ckpt->desc.config;
    struct dbrx_error err = { 0 };
    struct measured m = { .each = calloc(job->n, sizeof *m.each), .shift = calloc(c->n_layers, sizeof *m.shift) };
    char *where = set_experts_text(in, c->n_layers, c->n_experts);
    int failed = m.each && m.shift && where ? ablate_begin(sh, job) : render_error(&sh->out, "out of memory");
    if (!failed) {
        render_busy(&sh->out, 1);
        dbrx_status st = ablation_run(job->ablation, in, job->how, &m.sums, m.each, m.shift, &err);
        render_busy(&sh->out, 0);
        failed = st == DBRX_OK ? 0 : shell_failed(sh, st, &err);
    }
    if (!failed)
        failed = run_controls(sh, job, in, n_control, &m);
    if (!failed) {
        say_figures(sh, job, where, &m);
        say_tokens(sh, job, m.each);
    }
    free(where), free(m.each), free(m.shift);
    return failed;
}

int handle_ablate(struct shell *sh, const struct args *a)
{
    struct ablate job = { 0 };
    const struct dbrx_config *c = &sh->ckpt->desc.config;
    long control = a->text[CONTROL] ? a->num[CONTROL] : 0;
    uint32_t most = c->n_experts - 1;
    if (!a->text[EXPERTS] == !a->text[SWEEP])
        return render_error(&sh->out, "/ablate takes either experts, as in /ablate 3@5, or --sweep for all of them");
    if (a->text[SWEEP] && a->text[CONTROL])
        return render_error(&sh->out, "--control goes with experts: a sweep is its own control");
    if (a->text[OUT] && !a->text[SWEEP])
        return render_error(&sh->out, "--out goes with --sweep");
    if (control < 0 || control > MAX_CONTROL)
        return render_error(&sh->out, "--control takes 0 to %d sets", MAX_CONTROL);
    if (a->text[EXPERTS] && a->set[EXPERTS].count == 1 && (uint32_t)control > most) {
        render_event(&sh->out, "status", NULL, "a layer has %u other experts: that many controls", most);
        control = most;
    }
    int failed = open_job(sh, a, &job) || (a->text[SWEEP] ? ablate_sweep(sh, &job, a->text[OUT])
                                           : ablate_set(sh, &job, a->set[EXPERTS].in, (uint32_t)control));
    ablation_close(job.ablation);
    free(job.base);
    free(job.token);
    free(job.first);
    return failed ? -1 : 0;
}
