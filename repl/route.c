/* repl/route.c -- /route: which experts tokens went to, as a heat map, a list, or the text in
 * the colours of its experts.  Knows what is to be shown; map.c, heat.c and the renderer know
 * how it looks. */
#define _GNU_SOURCE
#include "repl/handlers.h"

#include "repl/atomic.h"
#include "repl/commands.h"
#include "repl/labels.h"
#include "repl/map.h"
#include "repl/routefile.h"
#include "repl/shell.h"
#include "repl/words.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { TOKENS, LAYER, PROB, LOGITS, MARGIN, LOAD, LIST, AS_TEXT, SVG }; /* arguments, in the table's order */

struct view {
    struct shell *sh;
    struct routing r;
    uint8_t *tok, *layer;                  /* [r.n], [n_layers]: those meant              */
    uint32_t n_tok, n_layer, the_layer;    /* how many; the last one                      */
    int what;                              /* PROB, LOGITS, LOAD, or LAYER: weights       */
};

/* ---- one token as a list ---- */

/* A bar of `weight`, in eighths of a column, padded to BAR columns */
enum { BAR = 4 };                          /* columns that a weight of 1 takes */
static void put_bar(FILE *f, double weight)
{
    static const char *const part[] = { "", "▏", "▎", "▍", "▌", "▋", "▊", "▉" };
    int eighths = (int)(weight * 8 * BAR + 0.5), used = 0;
    eighths = eighths < 0 ? 0 : eighths > 8 * BAR ? 8 * BAR : eighths;
    for (; eighths >= 8; eighths -= 8, used++)
        fputs("█", f);
    fputs(part[eighths], f);
    used += eighths > 0;
    fprintf(f, "%*s", BAR - used, "");
}

static char *show_experts(const struct render *r, const cJSON *row)
{
    const cJSON *e = cJSON_GetObjectItemCaseSensitive(row, "expert");
    const cJSON *w = cJSON_GetObjectItemCaseSensitive(row, "weight");
    int k = cJSON_GetArraySize(e);
    int bars = r->out_tty && r->utf8 && 19 + (unsigned)k * (BAR + 11) <= render_width(r);
    char *text = NULL;
    size_t size;
    FILE *f = open_memstream(&text, &size);
    if (!f)
        return NULL;
    for (e = e ? e->child : NULL, w = w ? w->child : NULL; e && w; e = e->next, w = w->next) {
        char name[16];
        snprintf(name, sizeof name, "e%d", e->valueint);
        fprintf(f, "%s%-3s %.2f", e->prev->next ? "  " : "", name, w->valuedouble);
        if (bars) {
            putc(' ', f);
            put_bar(f, w->valuedouble);
        }
    }
    return fclose(f) ? free(text), NULL : text;
}

static char *show_layer(const struct render *r, const cJSON *row)
{
    (void)r;
    char *text = NULL;
    const cJSON *l = cJSON_GetObjectItemCaseSensitive(row, "layer");
    return asprintf(&text, "L%d", l ? l->valueint : 0) < 0 ? NULL : text;
}

/* JSON has this for every view */
static void list_token(struct view *v, uint32_t i)
{
    static const struct column col[] = { { NULL, "", 0, 0, show_layer }, { "margin", "margin", 1, 3, NULL },
        { "entropy", "bits", 1, 2, NULL }, { NULL, "experts", 0, 0, show_experts }, { 0 } };
    static const struct rows rows = { "route", NULL, "layers", col, 0 };
    struct shell *sh = v->sh;
    uint32_t pos = v->r.from + i;
    int32_t id = sh->sess->token[pos];
    int with = v->what == PROB ? ROUTE_PROB : v->what == LOGITS ? ROUTE_LOGIT : 0;
    cJSON *head = route_token_json(sh, &v->r, i, id), *list = cJSON_CreateArray();
    char *text = token_text(sh, id), *title = NULL;
    for (uint32_t l = 0; l < v->r.n_layers; l++)
        if (v->layer[l])
            cJSON_AddItemToArray(list, route_layer_json(&v->r, l, i, with));
    if (asprintf(&title, "token %u of %u: \"%s\" (id %d)", pos, sh->sess->n, text ? text : "", id) < 0)
        title = NULL;
    render_rows(&sh->out, &rows, title, head, list);
    free(title);
    free(text);
}

/* ---- maps ---- */

static double value(const struct view *v, uint32_t layer, uint32_t i, uint32_t expert)
{
    const struct routing *r = &v->r;
    const uint16_t *chosen;
    const float *weight;
    size_t at = ((size_t)layer * r->n + i) * r->n_experts + expert;
    if (v->what == PROB || v->what == LOGITS)
        return v->what == PROB ? (double)r->prob[at] : (double)r->logit[at];
    uint32_t k = routing_chosen(r, layer, i, &chosen, &weight);
    for (uint32_t j = 0; j < k; j++)
        if (chosen[j] == expert)
            return v->what == LOAD ? 1 : (double)weight[j];
    return NAN;
}

/* Tokens first .. end - 1 of v->r, of which n are meant */
struct group { uint32_t first, end, n; };

static struct group all_tokens(const struct view *v)
{
    return (struct group){ 0, v->r.n, v->n_tok };
}

/* The mean over the tokens; what none of them chose is nothing, the others count as 0 */
static double mean_value(const struct view *v, uint32_t layer, uint32_t expert, struct group t)
{
    double sum = 0;
    uint32_t n = 0;
    for (uint32_t i = t.first; i < t.end; i++) {
        double x = v->tok[i] ? value(v, layer, i, expert) : NAN;
        if (!isnan(x)) {
            sum += x;
            n++;
        }
    }
    return n ? sum / t.n : NAN;
}

static double mean_measure(const struct view *v, uint32_t layer, struct group t,
                           double measure(const struct routing *, uint32_t, uint32_t))
{
    double sum = 0;
    for (uint32_t i = t.first; i < t.end; i++)
        sum += v->tok[i] ? measure(&v->r, layer, i) : 0;
    return sum / t.n;
}

static char *name_of(const char *letter, uint32_t i)
{
    char *text = NULL;
    return asprintf(&text, "%s%u", letter, i) < 0 ? NULL : text;
}

/* "e7", and at a single layer the topic that it is a specialist of there; fit to print */
static char *expert_name(const struct view *v, uint32_t e, int one_layer)
{
    const char *label = one_layer ? labels_get(v->sh->labels, v->the_layer, e) : NULL;
    char *clean = label ? text_quoted(label, strlen(label)) : NULL, *text = NULL;
    if (asprintf(&text, "e%u%s%s", e, clean ? " " : "", clean ? clean : "") < 0)
        text = NULL;
    free(clean);
    return text;
}

/* `12 " and"`, or 9..12 */
static char *row_name(const struct view *v, struct group t)
{
    uint32_t pos = v->r.from + t.first, last = v->r.from + t.end - 1;
    int digits = snprintf(NULL, 0, "%u", v->r.from + v->r.n - 1);
    char *text = t.n > 1 ? NULL : token_text(v->sh, v->sh->sess->token[last]), *name = NULL;
    if (t.n > 1 ? asprintf(&name, "%*u..%u", digits, pos, last) < 0
                : !text || asprintf(&name, "%*u \"%s\"", digits, last, text) < 0)
        name = NULL;
    free(text);
    return name;
}

/* Experts by layers, of one token or the mean of several */
static int map_layers(const struct view *v, struct map *m)
{
    const struct routing *r = &v->r;
    int bad = map_new(m, r->n_experts, v->n_layer, 0);
    if (bad)
        return -1;
    for (uint32_t e = 0; e < r->n_experts; e++)
        bad |= !(m->row[e] = expert_name(v, e, v->n_layer == 1));
    for (uint32_t l = 0, c = 0; l < r->n_layers; l++) {
        if (!v->layer[l])
            continue;
        bad |= !(m->col[c] = name_of("", l));
        for (uint32_t e = 0; e < r->n_experts; e++)
            m->v[(size_t)e * m->cols + c] = mean_value(v, l, e, all_tokens(v));
        m->side[0].v[c] = mean_measure(v, l, all_tokens(v), routing_margin);
        m->side[1].v[c++] = mean_measure(v, l, all_tokens(v), routing_entropy);
    }
    return bad;
}

/* How many tokens a row has, where each has one or that would be too many to look at */
static uint32_t tokens_a_row(const struct view *v)
{
    enum { MOST = 200, ROWS = 64 };
    return v->n_tok > MOST ? (v->n_tok + ROWS - 1) / ROWS : 1;
}

/* Tokens by experts, at one layer */
static int map_tokens(const struct view *v, struct map *m)
{
    const struct routing *r = &v->r;
    uint32_t each = tokens_a_row(v), row = 0, seen = 0;
    int bad = map_new(m, (v->n_tok + each - 1) / each, r->n_experts, 1);
    if (bad)
        return -1;
    for (uint32_t e = 0; e < r->n_experts; e++)
        bad |= !(m->col[e] = name_of("", e));
    struct group t = { 0 };
    for (uint32_t i = 0; i < r->n; i++) {
        if (!v->tok[i])
            continue;
        t = (struct group){ t.n ? t.first : i, i + 1, t.n + 1 };
        if (++seen < v->n_tok && t.n < each)
            continue;
        bad |= !(m->row[row] = row_name(v, t));
        for (uint32_t e = 0; e < r->n_experts; e++)
            m->v[(size_t)row * m->cols + e] = mean_value(v, v->the_layer, e, t);
        m->side[0].v[row] = mean_measure(v, v->the_layer, t, routing_margin);
        m->side[1].v[row++] = mean_measure(v, v->the_layer, t, routing_entropy);
        t.n = 0;
    }
    return bad;
}

static char *map_title(const struct view *v, const char *what)
{
    const struct sess *s = v->sh->sess;
    char *text = NULL, *title = NULL, layer[80] = "";
    uint32_t each = tokens_a_row(v);
    int done;
    if (v->n_layer == 1)
        snprintf(layer, sizeof layer, each > 1 ? " at layer %u, %u tokens a row" : " at layer %u", v->the_layer, each);
    const char *mean = v->n_layer > 1 || each > 1 ? "mean " : "";
    if (v->n_tok == 1) {
        text = token_text(v->sh, s->token[v->r.from]);
        done = asprintf(&title, "token %u of %u: \"%s\" (id %d), %s of its experts%s", v->r.from, s->n,
                        text ? text : "", s->token[v->r.from], what, layer);
    } else {
        done = v->n_tok == v->r.n
            ? asprintf(&title, "tokens %u to %u of %u: %s%s%s", v->r.from, v->r.from + v->r.n - 1, s->n, mean, what, layer)
            : asprintf(&title, "%u tokens from %u to %u: %s%s%s", v->n_tok, v->r.from, v->r.from + v->r.n - 1, mean, what,
                       layer);
    }
    free(text);
    return done < 0 ? NULL : title;
}

static int is_chosen(const struct view *v, uint32_t layer, uint32_t expert)
{
    const uint16_t *chosen;
    const float *weight;
    for (uint32_t i = 0; i < v->r.n; i++) {
        uint32_t k = v->tok[i] ? routing_chosen(&v->r, layer, i, &chosen, &weight) : 0;
        for (uint32_t j = 0; j < k; j++)
            if (chosen[j] == expert)
                return 1;
    }
    return 0;
}

/* "labels: e7@2 code, e1@5 arithmetic" of the experts that the tokens chose; NULL: there are none */
static char *map_labels(const struct view *v)
{
    char *text = NULL;
    size_t size, n = 0;
    FILE *f = v->sh->labels ? open_memstream(&text, &size) : NULL;
    for (uint32_t l = 0; f && l < v->r.n_layers; l++)
        for (uint32_t e = 0; v->layer[l] && e < v->r.n_experts; e++) {
            const char *label = labels_get(v->sh->labels, l, e);
            char *clean = label && is_chosen(v, l, e) ? text_quoted(label, strlen(label)) : NULL;
            if (clean)
                fprintf(f, "%s e%u@%u %s", n++ ? "," : "labels:", e, l, clean);
            free(clean);
        }
    if (f && !fclose(f) && n)
        return text;
    free(text);
    return NULL;
}

static int make_map(const struct view *v, struct map *m)
{
    int by_token = v->n_tok > 1 && v->n_layer == 1;
    if ((by_token ? map_tokens : map_layers)(v, m))
        return -1;
    m->corner = by_token ? "expert" : "layer";
    m->what = v->what == PROB ? "probability" : v->what == LOGITS ? "logit" : v->what == LOAD ? "load" : "weight";
    if (v->what != LAYER || (v->n_tok > 1 && !by_token) || (by_token && tokens_a_row(v) > 1))
        map_fit(m, v->what != LOGITS);
    m->title = map_title(v, m->what);
    if (by_token || v->n_layer > 1)        /* else the rows have them */
        m->note = map_labels(v);
    if (v->r.prob) {
        struct map side = { .v = m->side[0].v, .rows = 1, .cols = by_token ? m->rows : m->cols };
        map_fit(&side, 1);
        m->side[0] = (struct map_side){ "margin", side.v, side.lo, side.hi };
        m->side[1] = (struct map_side){ "entropy", m->side[1].v, 0, log2(v->r.n_experts) };
    }
    return m->title ? 0 : -1;
}

static int show_map(struct view *v)
{
    struct shell *sh = v->sh;
    struct map m = { 0 };
    char *text = NULL;
    size_t size;
    FILE *f = open_memstream(&text, &size);
    int bad = !f || make_map(v, &m);
    if (!bad)
        map_text(f, &m, render_colours(&sh->out), render_width(&sh->out));
    if (f)
        bad |= fclose(f) != 0;
    if (!bad) {
        render_paragraph(&sh->out, 0, m.title);
        render_picture(&sh->out, text);
        if (m.note)
            render_paragraph(&sh->out, 0, m.note);
        if (!v->r.prob)
            render_paragraph(&sh->out, 0, "margin and entropy have to be computed: --margin shows them, too");
    }
    map_free(&m);
    free(text);
    return bad ? render_error(&sh->out, "out of memory") : 0;
}

static int save_map(struct view *v, const char *path)
{
    struct shell *sh = v->sh;
    struct map m = { 0 };
    struct atomic f;
    if (make_map(v, &m)) {
        map_free(&m);
        return render_error(&sh->out, "out of memory");
    }
    int why = atomic_open(&f, path);
    if (!why) {
        map_svg(f.f, &m);
        why = atomic_commit(&f);
    }
    map_free(&m);
    if (why)
        return render_error(&sh->out, "%s cannot be written: %s; what was there stays", path, strerror(why));
    cJSON *fields = cJSON_CreateObject();
    field_string(fields, "file", path);
    render_event(&sh->out, "status", fields, "wrote the map to %s", path);
    return 0;
}

/* ---- the text in the colours of its experts ---- */

/* The line of letters below a line of text, where there are no colours */
static void end_line(FILE *f, char *marks, unsigned *col)
{
    size_t n = strlen(marks);
    while (n && marks[n - 1] == ' ')
        n--;
    fprintf(f, "\n%.*s%s", (int)n, marks, n ? "\n" : "");
    *marks = '\0';
    *col = 0;
}

static void put_tokens(FILE *f, const struct view *v, enum heat_colours colours, unsigned width, uint32_t *count)
{
    char *marks = calloc(1, width + 1);
    unsigned col = 0;
    for (uint32_t i = 0; i < v->r.n && marks; i++) {
        const uint16_t *expert;
        const float *weight;
        if (!v->tok[i])
            continue;
        char *text = token_text(v->sh, v->sh->sess->token[v->r.from + i]);
        int known = text && routing_chosen(&v->r, v->the_layer, i, &expert, &weight) > 0;
        unsigned w = text ? text_columns(text, strlen(text)) : 0;
        if (col && col + w > width)
            end_line(f, marks, &col);
        if (known) {
            count[expert[0]]++;
            heat_kind(f, colours, expert[0], text);
        } else {
            fputs(text ? text : "", f);
        }
        if (!colours && col < width) {
            memset(marks + strlen(marks), ' ', col - strlen(marks));
            marks[col] = known ? heat_letter(expert[0]) : '?';
            marks[col + 1] = '\0';
        }
        col += w;
        if (text && strstr(text, "\\n"))
            end_line(f, marks, &col);
        free(text);
    }
    if (marks && col)
        end_line(f, marks, &col);
    free(marks);
}

static void put_key(FILE *f, const struct view *v, enum heat_colours colours, unsigned width, const uint32_t *count)
{
    unsigned col = 0;
    for (uint32_t e = 0; e < v->r.n_experts; e++) {
        char *name = count[e] ? expert_name(v, e, 1) : NULL, *text = NULL, letter[8] = "", number[16];
        if (!colours)
            snprintf(letter, sizeof letter, "%c = ", heat_letter(e));
        int none = !name || asprintf(&text, "%s%s", letter, name) < 0;
        free(name);
        if (none)
            continue;
        unsigned w = text_columns(text, strlen(text)) + (unsigned)snprintf(number, sizeof number, " %u", count[e]);
        if (col && col + w + 2 > width) {
            putc('\n', f);
            col = 0;
        }
        fputs(col ? "  " : "", f);
        heat_kind(f, colours, e, text);
        fputs(number, f);
        free(text);
        col += w + 2;
    }
    putc('\n', f);
}

static int show_tokens(struct view *v)
{
    struct shell *sh = v->sh;
    enum heat_colours colours = render_colours(&sh->out);
    unsigned width = render_width(&sh->out);
    uint32_t *count = calloc(v->r.n_experts, sizeof *count);
    char *text = NULL, title[160];
    size_t size;
    FILE *f = open_memstream(&text, &size);
    int bad = !f || !count;
    if (!bad) {
        put_tokens(f, v, colours, width, count);
        put_key(f, v, colours, width, count);
    }
    if (f)
        bad |= fclose(f) != 0;
    if (!bad) {
        snprintf(title, sizeof title, "%u token%s by the heaviest expert at layer %u%s", v->n_tok,
                 v->n_tok == 1 ? "" : "s", v->the_layer,
                 colours ? "" : " (letters below), and how many");
        render_paragraph(&sh->out, 0, title);
        render_picture(&sh->out, text);
    }
    free(count);
    free(text);
    return bad ? render_error(&sh->out, "out of memory") : 0;
}

/* ---- the command ---- */

int shell_routing(struct shell *sh, uint32_t from, uint32_t to, const uint8_t *tok, enum probs probs, struct routing *r)
{
    const struct dbrx_config *c = &sh->ckpt->desc.config;
    struct dbrx_error err = { 0 };
    if (!disp_name(sh->disp))
        return render_error(&sh->out, "no backend is open; /backend NAME opens one");
    render_busy(&sh->out, 1);
    dbrx_status st = routing_read(sh->sess, c, from, to, tok, probs != PROBS_NO, r, &err);
    int short_of = st == DBRX_E_NOMEM && probs == PROBS_IF_ROOM;
    if (short_of)
        st = routing_read(sh->sess, c, from, to, tok, 0, r, &err);
    render_busy(&sh->out, 0);
    if (st == DBRX_STOPPED)
        return render_error(&sh->out, "interrupted; the conversation is as it was");
    if (st != DBRX_OK)
        return shell_failed(sh, st, &err);
    if (short_of)
        render_event(&sh->out, "status", NULL, "margin and entropy are not shown: the probabilities do not fit into memory");
    if (r->differ)
        render_event(&sh->out, "status", NULL, "computed again, %u of %llu choices came out otherwise (shown are those that "
                     "were used; margin, entropy and probabilities are new)", r->differ,
                     (unsigned long long)r->computed);
    return 0;
}

/* What is computed again for a view: for a map of many tokens only what was asked for by name */
static enum probs probs_for(const struct view *v, const struct args *a)
{
    enum { FEW = 64 };
    if (v->what == PROB || v->what == LOGITS || a->text[MARGIN])
        return PROBS_YES;
    if ((v->sh->out.json || a->text[LIST]) && !a->text[SVG])
        return PROBS_IF_ROOM;
    return v->n_tok <= FEW && (!a->text[AS_TEXT] || a->text[SVG]) ? PROBS_IF_ROOM : PROBS_NO;
}

static int show(struct view *v, const struct args *a)
{
    if (a->text[SVG])
        return save_map(v, a->text[SVG]);
    if (v->sh->out.json || a->text[LIST]) {
        for (uint32_t i = 0; i < v->r.n; i++)
            if (v->tok[i])
                list_token(v, i);
        return 0;
    }
    return a->text[AS_TEXT] ? show_tokens(v) : show_map(v);
}

int handle_route(struct shell *sh, const struct args *a)
{
    struct view v = { .sh = sh, .what = a->text[PROB] ? PROB : a->text[LOGITS] ? LOGITS : a->text[LOAD] ? LOAD : LAYER };
    const struct set *tokens = &a->set[TOKENS], *layers = &a->set[LAYER];
    uint32_t n = sh->sess->n, n_layers = sh->ckpt->desc.config.n_layers;
    if (!n)
        return render_error(&sh->out, "there is no token yet: type a prompt, or /feed some ids");
    if (!!a->text[PROB] + !!a->text[LOGITS] + !!a->text[LOAD] > 1)
        return render_error(&sh->out, "/route shows one of --prob, --logits and --load at a time");
    if (a->text[LOAD] && !a->text[SVG] && (sh->out.json || a->text[LIST]))
        return render_error(&sh->out, "--load is of the map: a list (and --json) has the experts of each token, \"expert\"");
    uint32_t from = tokens->in ? tokens->first : a->text[AS_TEXT] ? 0 : n - 1;
    uint32_t to = tokens->in ? tokens->last + 1 : n;
    v.tok = malloc(to - from);
    v.layer = malloc(n_layers);
    int failed = !v.tok || !v.layer ? render_error(&sh->out, "out of memory") : 0;
    for (uint32_t i = 0; i < to - from && !failed; i++)
        v.n_tok += v.tok[i] = tokens->in ? tokens->in[from + i] : 1;
    for (uint32_t l = 0; l < n_layers && !failed; l++)
        if ((v.layer[l] = layers->in ? layers->in[l] : 1)) {
            v.n_layer++;
            v.the_layer = l;
        }
    failed = failed || shell_routing(sh, from, to, v.tok, probs_for(&v, a), &v.r) || show(&v, a);
    routing_free(&v.r);
    free(v.layer);
    free(v.tok);
    return failed ? -1 : 0;
}

int export_route(struct shell *sh, const char *path, const struct set *tokens)
{
    struct routing r;
    enum route_format format = route_format(path);
    uint32_t n = sh->sess->n, from = tokens->in ? tokens->first : 0, to = tokens->in ? tokens->last + 1 : n;
    if (format == ROUTE_NO_FORMAT)
        return render_error(&sh->out, "the name says what is written: FILE.jsonl, FILE.csv or FILE.npz, not \"%.60s\"", path);
    if (!n)
        return render_error(&sh->out, "the conversation is empty");
    if (shell_routing(sh, from, to, tokens->in ? tokens->in + from : NULL, PROBS_YES, &r))
        return -1;
    render_busy(&sh->out, 1);
    int why = route_write(path, format, sh, &r, sh->sess->token + from, tokens->in ? tokens->in + from : NULL);
    render_busy(&sh->out, 0);
    routing_free(&r);
    if (why == ECANCELED)
        return render_error(&sh->out, "interrupted; nothing was written to %s", path);
    if (why)
        return render_error(&sh->out, "%s cannot be written: %s; what was there stays", path, strerror(why));
    cJSON *fields = cJSON_CreateObject();
    field_string(fields, "file", path);
    render_event(&sh->out, "status", fields, "wrote the routing of %u token%s to %s", tokens->in ? tokens->count : n,
                 (tokens->in ? tokens->count : n) == 1 ? "" : "s", path);
    return 0;
}
