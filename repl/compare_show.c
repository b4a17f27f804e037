/* repl/compare_show.c -- what a comparison looks like: one object, the event of --json, of which
 * the text is made, too.  Knows figures, not where they come from. */
#define _GNU_SOURCE
#include "repl/compare.h"

#include "repl/contender.h"
#include "repl/handlers.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- the object ---- */

static double share(uint64_t n, uint64_t of)
{
    return of ? (double)n / (double)of : NAN;
}

static void add_place(cJSON *o, const struct compare_ask *ask, struct div_place at)
{
    if (ask->texts.n > 1)
        cJSON_AddNumberToObject(o, "text", at.text + 1);
    cJSON_AddNumberToObject(o, "pos", at.pos);
}

static void add_token(const struct shell *sh, cJSON *o, const char *id_key, const char *text_key, int32_t id)
{
    char *text = token_text(sh, id);
    cJSON_AddNumberToObject(o, id_key, id);
    field_string(o, text_key, text ? text : "");
    free(text);
}

static cJSON *layer_rows(const struct divergence *d)
{
    cJSON *list = cJSON_CreateArray();
    for (uint32_t l = 0; l <= d->n_layers; l++) {
        const struct div_layer *y = &d->layer[l];
        cJSON *row = cJSON_CreateObject();
        cJSON_AddItemToArray(list, row);
        cJSON_AddNumberToObject(row, "layer", (double)l - 1);
        field_real(row, "error", div_layer_error(d, l));
        field_real(row, "worst", y->tokens ? y->worst : NAN);
        if (!l)
            continue;
        field_real(row, "router", y->routed ? y->router : NAN);
        cJSON_AddNumberToObject(row, "routed", (double)y->routed);
        cJSON_AddNumberToObject(row, "flips", (double)y->flips);
        cJSON_AddNumberToObject(row, "reordered", (double)y->reordered);
    }
    return list;
}

static cJSON *flip_rows(const struct shell *sh, const struct compare_ask *ask, const struct divergence *d)
{
    cJSON *list = cJSON_CreateArray();
    for (size_t i = 0; i < d->kept_flips; i++) {
        const struct div_flip *f = &d->flip[i];
        cJSON *row = cJSON_CreateObject();
        cJSON_AddItemToArray(list, row);
        add_place(row, ask, f->at);
        add_token(sh, row, "id", "token", f->token);
        cJSON_AddNumberToObject(row, "layer", f->layer);
        if (f->out != UINT16_MAX)
            cJSON_AddNumberToObject(row, "out", f->out);
        if (f->in != UINT16_MAX)
            cJSON_AddNumberToObject(row, "in", f->in);
        cJSON_AddNumberToObject(row, "experts", f->n);
        field_real(row, "margin_a", f->margin_a);
        field_real(row, "margin_b", f->margin_b);
    }
    return list;
}

static cJSON *change_rows(const struct shell *sh, const struct compare_ask *ask, const struct divergence *d)
{
    cJSON *list = cJSON_CreateArray();
    for (size_t i = 0; i < d->kept_changes; i++) {
        const struct div_change *c = &d->change[i];
        cJSON *row = cJSON_CreateObject();
        cJSON_AddItemToArray(list, row);
        add_place(row, ask, c->at);
        add_token(sh, row, "a", "token_a", c->a);
        add_token(sh, row, "b", "token_b", c->b);
        field_real(row, "margin", c->margin);
    }
    return list;
}

static uint64_t flips_of(const struct divergence *d, uint64_t *routed, uint64_t *reordered)
{
    uint64_t flips = *routed = *reordered = 0;
    for (uint32_t l = 1; l <= d->n_layers; l++) {
        flips += d->layer[l].flips;
        *routed += d->layer[l].routed;
        *reordered += d->layer[l].reordered;
    }
    return flips;
}

void compare_figures(cJSON *o, const struct compare_ask *ask, const struct compare_result *r)
{
    const struct comparison *c = &r->c;
    const struct divergence *d = c->d;
    double n = (double)d->rows, cells = n * d->n_vocab, gap_error, gap = div_nll_gap(d, &gap_error);
    uint64_t routed, reordered, flips = flips_of(d, &routed, &reordered);
    int first = div_first_layer(d, 0), off = div_first_layer(d, ask->tolerance);
    field_string(o, "a", r->label[0]);
    field_string(o, "b", r->label[1]);
    field_string(o, "source", ask->source);
    cJSON_AddNumberToObject(o, "texts", c->texts);
    cJSON_AddNumberToObject(o, "tokens", (double)c->tokens);
    cJSON_AddBoolToObject(o, "complete", !r->stopped);
    cJSON_AddNumberToObject(o, "not_finite", (double)d->bad);
    field_real(o, "logit_error_max", d->rows ? d->err_max : NAN);
    field_real(o, "logit_error_mean", d->err_sum / cells);
    field_real(o, "logit_error_rms", sqrt(d->err2_sum / cells));
    field_real(o, "kl_mean", d->kl_sum / n);
    field_real(o, "kl_median", div_kl(d, 0.5));
    field_real(o, "kl_p99", div_kl(d, 0.99));
    field_real(o, "kl_max", d->rows ? d->kl_max : NAN);
    field_real(o, "kl_reverse_mean", d->kl_back_sum / n);
    field_real(o, "top1", share(d->top1, d->rows + d->bad));
    cJSON_AddNumberToObject(o, "k", d->top);
    field_real(o, "topk", d->overlap_sum / n);
    cJSON_AddNumberToObject(o, "changed", (double)d->n_changes);
    field_real(o, "perplexity_a", div_perplexity(d, 0));
    field_real(o, "perplexity_b", div_perplexity(d, 1));
    field_real(o, "log_perplexity_gap", gap);
    field_real(o, "log_perplexity_gap_error", gap_error);
    field_real(o, "tokens_per_second_a", c->seconds[0] > 0 ? (double)c->tokens / c->seconds[0] : NAN);
    field_real(o, "tokens_per_second_b", c->seconds[1] > 0 ? (double)c->tokens / c->seconds[1] : NAN);
    cJSON_AddNumberToObject(o, "step", c->widest);
    cJSON_AddNumberToObject(o, "routed", (double)routed);
    cJSON_AddNumberToObject(o, "flipped", (double)flips);
    cJSON_AddNumberToObject(o, "reordered", (double)reordered);
    field_real(o, "tolerance", ask->tolerance);
    cJSON_AddItemToObject(o, "first_layer", first < 0 ? cJSON_CreateNull() : cJSON_CreateNumber(first - 1));
    cJSON_AddItemToObject(o, "first_layer_off", off < 0 ? cJSON_CreateNull() : cJSON_CreateNumber(off - 1));
    if (compare_failed(ask, d))
        field_string(o, "failed", compare_failed(ask, d));
}

static cJSON *compare_event(const struct shell *sh, const struct compare_ask *ask, const struct compare_result *r)
{
    const struct divergence *d = r->c.d;
    cJSON *o = cJSON_CreateObject();
    compare_figures(o, ask, r);
    if (d->rows) {
        cJSON *at = cJSON_AddObjectToObject(o, "logit_error_at");
        add_place(at, ask, d->err_at);
        add_token(sh, at, "id", "token", d->err_id);
        add_place(cJSON_AddObjectToObject(o, "kl_at"), ask, d->kl_at);
    }
    cJSON_AddItemToObject(o, "layers", layer_rows(d));
    cJSON_AddItemToObject(o, "flips", flip_rows(sh, ask, d));
    cJSON_AddItemToObject(o, "changes", change_rows(sh, ask, d));
    return o;
}

/* ---- as text ---- */

static const cJSON *field(const cJSON *o, const char *key)
{
    return cJSON_GetObjectItemCaseSensitive(o, key);
}

static double number(const cJSON *o, const char *key)
{
    const cJSON *v = field(o, key);
    return cJSON_IsNumber(v) ? v->valuedouble : NAN;
}

__attribute__((format(printf, 3, 4)))
static void say(cJSON *list, const char *name, const char *fmt, ...)
{
    char *text = NULL;
    va_list ap;
    va_start(ap, fmt);
    if (vasprintf(&text, fmt, ap) < 0)
        text = NULL;
    va_end(ap);
    cJSON *row = cJSON_CreateObject();
    cJSON_AddItemToArray(list, row);
    field_string(row, "name", name);
    field_string(row, "value", text ? text : "");
    free(text);
}

/* " at 45", " at 45 of text 3" */
static const char *place(const cJSON *at, char *out, size_t size)
{
    int n = snprintf(out, size, " at %.0f", number(at, "pos"));
    if (field(at, "text"))
        snprintf(out + n, size - (size_t)n, " of text %.0f", number(at, "text"));
    return out;
}

static char *show_quoted(const cJSON *row, const char *key)
{
    const char *token = cJSON_GetStringValue(field(row, key));
    char *text = NULL;
    return asprintf(&text, "\"%s\"", token ? token : "") < 0 ? NULL : text;
}

static const char *layer_name(double layer, char *out, size_t size)
{
    snprintf(out, size, layer < 0 ? "the embedding" : "L%.0f", layer);
    return out;
}

static void figure_rows(const struct compare_ask *ask, const struct compare_result *r, const char *plus_minus,
                        const cJSON *o, cJSON *list)
{
    const struct divergence *d = r->c.d;
    const char *a = r->label[0], *b = r->label[1];
    char at[64], name[32];
    double va = number(o, "tokens_per_second_a"), vb = number(o, "tokens_per_second_b");
    if (d->rows && !d->bad && d->err_max == 0 && !d->n_flips && !cJSON_IsNumber(field(o, "first_layer")))
        say(list, "all", "the same, bit for bit");
    if (d->next)
        say(list, "perplexity", "%.6g on %s, %.6g on %s; log ratio %+.2g %s %.1g", number(o, "perplexity_a"), a,
            number(o, "perplexity_b"), b, number(o, "log_perplexity_gap"), plus_minus, number(o, "log_perplexity_gap_error"));
    if (d->rows) {
        const cJSON *e = field(o, "logit_error_at");
        char *most = d->err_max > 0 ? show_quoted(e, "token") : NULL;
        say(list, "logits", "off by %.3g on average, %.3g at most%s%s%s", number(o, "logit_error_mean"),
            number(o, "logit_error_max"), most ? place(e, at, sizeof at) : "", most ? ", that of " : "", most ? most : "");
        free(most);
        say(list, "KL", "%.3g nats on average; median %.3g, 99%% %.3g, at most %.3g%s", number(o, "kl_mean"),
            number(o, "kl_median"), number(o, "kl_p99"), number(o, "kl_max"),
            d->kl_max > 0 ? place(field(o, "kl_at"), at, sizeof at) : "");
        say(list, "likeliest", "the same token for %llu of %llu (%.2f%%); of the top %u %.2f%% in common",
            (unsigned long long)d->top1, (unsigned long long)(d->rows + d->bad), 100 * number(o, "top1"), d->top,
            100 * number(o, "topk"));
    }
    if (d->bad)
        say(list, "not finite", "%llu rows of logits hold numbers that are none; they count as different tokens "
            "and nowhere else", (unsigned long long)d->bad);
    if (number(o, "routed") > 0)
        say(list, "routing", "%.0f of %.0f choices went to other experts (%.2f%%), %.0f more in another order",
            number(o, "flipped"), number(o, "routed"), 100 * number(o, "flipped") / number(o, "routed"),
            number(o, "reordered"));
    if (!cJSON_IsNumber(field(o, "first_layer")))
        say(list, "layers", "none differs");
    else if (!cJSON_IsNumber(field(o, "first_layer_off")))
        say(list, "layers", "%s is the first that differs; none is off by more than %g",
            layer_name(number(o, "first_layer"), name, sizeof name), ask->tolerance);
    else
        say(list, "layers", "%s is the first that differs, %s the first that is off by more than %g",
            layer_name(number(o, "first_layer"), name, sizeof name),
            layer_name(number(o, "first_layer_off"), at, sizeof at), ask->tolerance);
    say(list, "speed", "%.1f tok/s on %s, %.1f on %s (%.2g times), %u at a time with all logits", va, a, vb, b, vb / va,
        r->c.widest);
}

static char *show_layer(const struct render *r, const cJSON *row)
{
    (void)r;
    char *text = NULL;
    double l = number(row, "layer");
    return asprintf(&text, l < 0 ? "emb" : "L%.0f", l) < 0 ? NULL : text;
}

static char *show_g(const cJSON *row, const char *key)
{
    const cJSON *v = field(row, key);
    char *text = NULL;
    if (!v)
        return strdup("");
    if (!cJSON_IsNumber(v))
        return strdup("-");
    return asprintf(&text, "%.3g", v->valuedouble) < 0 ? NULL : text;
}
static char *show_error(const struct render *r, const cJSON *row) { (void)r; return show_g(row, "error"); }
static char *show_worst(const struct render *r, const cJSON *row) { (void)r; return show_g(row, "worst"); }
static char *show_router(const struct render *r, const cJSON *row) { (void)r; return show_g(row, "router"); }
static char *show_margin(const struct render *r, const cJSON *row) { (void)r; return show_g(row, "margin"); }
static char *show_margin_a(const struct render *r, const cJSON *row) { (void)r; return show_g(row, "margin_a"); }
static char *show_margin_b(const struct render *r, const cJSON *row) { (void)r; return show_g(row, "margin_b"); }

static char *show_swap(const struct render *r, const cJSON *row)
{
    char out[24] = "-", in[24] = "-", *text = NULL;
    (void)r;
    if (field(row, "out"))
        snprintf(out, sizeof out, "e%.0f", number(row, "out"));
    if (field(row, "in"))
        snprintf(in, sizeof in, "e%.0f", number(row, "in"));
    return asprintf(&text, "%s > %s%s", out, in, number(row, "experts") > 1 ? " and more" : "") < 0 ? NULL : text;
}

static char *show_token(const struct render *r, const cJSON *row) { (void)r; return show_quoted(row, "token"); }
static char *show_token_a(const struct render *r, const cJSON *row) { (void)r; return show_quoted(row, "token_a"); }
static char *show_token_b(const struct render *r, const cJSON *row) { (void)r; return show_quoted(row, "token_b"); }

static cJSON *first_of(const cJSON *list, uint32_t n)
{
    cJSON *some = cJSON_CreateArray();
    for (const cJSON *row = list->child; row && n; row = row->next, n--)
        cJSON_AddItemToArray(some, cJSON_Duplicate(row, 1));
    return some;
}

/* A table of the first few, under a sentence that says how many there are */
static void few_rows(struct shell *sh, const struct rows *rows, const cJSON *list, uint32_t few, uint64_t all,
                     const char *what)
{
    char title[160];
    int n = cJSON_GetArraySize(list);
    if (!n || !few)
        return;
    if (all > few)
        snprintf(title, sizeof title, "%s; the %u with the widest margins of %llu", what, few, (unsigned long long)all);
    else
        snprintf(title, sizeof title, "%s", what);
    render_line(&sh->out, "");
    render_rows(&sh->out, rows, title, NULL, first_of(list, few));
}

void compare_show(struct shell *sh, const struct compare_ask *ask, const struct compare_result *r)
{
    static const struct column figure[] = { { "name", "", 0, 0, NULL }, { "value", "", 0, 0, NULL }, { 0 } };
    static const struct column layer[] = {
        { NULL, "layer", 0, 0, show_layer }, { "flips", "flips", 1, 0, NULL }, { "reordered", "reordered", 1, 0, NULL },
        { NULL, "router", 0, 0, show_router }, { NULL, "error", 0, 0, show_error }, { NULL, "of the worst token", 0, 0, show_worst },
        { 0 } };
    static const struct column flip[] = {
        { "text", "text", 1, 0, NULL }, { "pos", "pos", 1, 0, NULL }, { NULL, "token", 0, 0, show_token },
        { NULL, "layer", 0, 0, show_layer }, { NULL, "experts", 0, 0, show_swap },
        { NULL, "margin", 0, 0, show_margin_a }, { NULL, "the other's", 0, 0, show_margin_b }, { 0 } };
    static const struct column change[] = {
        { "text", "text", 1, 0, NULL }, { "pos", "pos", 1, 0, NULL }, { NULL, "here", 0, 0, show_token_a },
        { NULL, "there", 0, 0, show_token_b }, { NULL, "margin", 0, 0, show_margin }, { 0 } };
    const int lone = ask->texts.n < 2;     /* one text needs no number */
    const struct rows figures = { "rows", "compare", "rows", figure, 1 }, layers = { "rows", "compare", "rows", layer, 0 },
                      flips = { "rows", "compare", "rows", flip + lone, 0 },
                      changes = { "rows", "compare", "rows", change + lone, 0 };
    cJSON *o = compare_event(sh, ask, r), *list;
    const struct divergence *d = r->c.d;
    uint64_t routed, reordered, flipped = flips_of(d, &routed, &reordered);
    char *title = NULL, many[48] = "";
    if (sh->out.json) {
        render_object(&sh->out, "compare", o);
        return;
    }
    if (!lone)
        snprintf(many, sizeof many, " in %zu texts", ask->texts.n);
    if (asprintf(&title, "%s, then %s: %llu%s tokens of %s%s", r->label[0], r->label[1],
                 (unsigned long long)r->c.tokens, r->stopped ? " (interrupted)" : "", ask->source, many) < 0)
        title = NULL;
    list = cJSON_CreateArray();
    figure_rows(ask, r, sh->out.utf8 ? "\302\261" : "+-", o, list);
    render_rows(&sh->out, &figures, title, NULL, list);
    free(title);
    if (div_first_layer(d, 0) >= 0 || flipped) {
        render_line(&sh->out, "");
        render_rows(&sh->out, &layers, NULL, NULL, cJSON_Duplicate(field(o, "layers"), 1));
    }
    few_rows(sh, &flips, field(o, "flips"), ask->list, flipped, "Other experts (the first's > the second's)");
    few_rows(sh, &changes, field(o, "changes"), ask->list, d->n_changes, "Another likeliest token");
    cJSON_Delete(o);
}

/* ---- /compare all: the rows of all pairs ---- */

static char *show_kl(const struct render *r, const cJSON *row)
{
    const char *why = cJSON_GetStringValue(field(row, "reason"));
    char *text = NULL;
    (void)r;
    if (why)
        return strdup("-");
    return asprintf(&text, "%.3g", number(row, "kl_mean")) < 0 ? NULL : text;
}
static char *show_top1(const struct render *r, const cJSON *row)
{
    char *text = NULL;
    (void)r;
    return field(row, "reason") ? strdup("-") : asprintf(&text, "%.2f%%", 100 * number(row, "top1")) < 0 ? NULL : text;
}
static char *show_last(const struct render *r, const cJSON *row)
{
    const char *why = cJSON_GetStringValue(field(row, "reason"));
    char *text = NULL;
    (void)r;
    if (why)
        return strdup(why);
    return asprintf(&text, "%.3g", number(row, "logit_error_max")) < 0 ? NULL : text;
}

/* The matrix as text: KL(row || column) and how often both find the same token likeliest */
static void print_matrix(struct shell *sh, const char *const *name, size_t n, const cJSON *pairs)
{
    struct column col[MAX_CONTENDERS + 2] = { { "name", "", 0, 0, NULL } };
    const struct rows rows = { "rows", "comparisons", "rows", col, 0 };
    for (size_t i = 0; i < n; i++)
        col[i + 1] = (struct column){ name[i], name[i], 0, 0, NULL };
    cJSON *list = cJSON_CreateArray();
    for (size_t i = 0; i < n; i++) {
        const cJSON *pair = pairs->child;
        cJSON *row = cJSON_CreateObject();
        cJSON_AddItemToArray(list, row);
        field_string(row, "name", name[i]);
        for (size_t x = 0; x < n; x++)
            for (size_t y = x + 1; y < n; y++, pair = pair->next) {
                char cell[64];
                if (i != x && i != y)
                    continue;
                snprintf(cell, sizeof cell, field(pair, "reason") ? "-" : "%.3g (%.2f%%)",
                         number(pair, i == x ? "kl_mean" : "kl_reverse_mean"), 100 * number(pair, "top1"));
                field_string(row, name[i == x ? y : x], cell);
            }
        field_string(row, name[i], ".");
    }
    render_rows(&sh->out, &rows, "KL in nats from the row's to the column's, and how often both find the same token "
                "likeliest", NULL, list);
    render_line(&sh->out, "");
}

void compare_show_pairs(struct shell *sh, const struct compare_ask *ask, const char *const *name, size_t n, cJSON *pairs)
{
    static const struct column col[] = { { "a", "backend", 0, 0, NULL }, { "b", "and", 0, 0, NULL },
        { NULL, "KL", 0, 0, show_kl }, { NULL, "likeliest", 0, 0, show_top1 }, { "flipped", "flips", 1, 0, NULL },
        { NULL, "logits off by", 0, 0, show_last }, { 0 } };
    static const struct rows rows = { "rows", "comparisons", "rows", col, 0 };
    cJSON *head = cJSON_CreateObject();
    cJSON_AddNumberToObject(head, "tokens", (double)ask->texts.tokens);
    if (!sh->out.json && 12 + n * 22 <= render_width(&sh->out))
        print_matrix(sh, name, n, pairs);
    render_rows(&sh->out, &rows, NULL, head, pairs);
}
