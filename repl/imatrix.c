/* repl/imatrix.c -- "dbrx imatrix --prompts FILE --out FILE": how large the inputs of every weight
 * matrix are on some text, expert by expert, for dbrx quantize --imatrix. */
#define _GNU_SOURCE
#include "backends/model/imatrix.h"

#include "repl/atomic.h"
#include "repl/plain.h"
#include "repl/prompts.h"
#include "repl/signals.h"
#include "repl/tools.h"
#include "repl/words.h"

#include <errno.h>
#include <getopt.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { TEXT = 512, WINDOW, DEFAULT_WINDOW = 512 };
const struct option_row imatrix_options[] = {
    { "prompts", OPT_PROMPTS, "FILE", "JSON Lines with \"prompt\", \"messages\" or \"tokens\"" },
    { "text", TEXT, "FILE", "a text instead (- is stdin)" },
    { "out", OPT_OUT, "FILE", "where the matrix goes" },
    { "window", WINDOW, "N", "tokens seen at once at most (512, or the context)" },
    { "backend", 'b', "NAME", "backend to compute on (default: the best here)" },
    TOOL_OPTIONS,
    { NULL, 0, NULL, NULL },
};

struct collect {
    struct tool t;
    const char *prompts, *text, *out, *backend;
    uint32_t window;
    struct engine e;
    struct imatrix *m;
    float *logits;
    uint32_t piece, chunks;
    uint64_t tokens;
};
static struct collect tool;

static int take(void *ctx, int letter, const char *arg)
{
    struct collect *c = ctx;
    switch (letter) {
    case OPT_PROMPTS: c->prompts = arg; return 0;
    case TEXT: c->text = arg; return 0;
    case OPT_OUT: c->out = arg; return 0;
    case 'b': c->backend = arg; return 0;
    case WINDOW: return option_count("window", arg, 2, UINT32_MAX, &c->window);
    default: return tool_option(&c->t, letter, arg);
    }
}

/* ---- collecting ---- */

/* In this order for every layer; the head comes last of all */
static const struct { const char *name; int kind, per_expert; } matrices[] = {
    { "attn_qkv", DBRX_INPUT_QKV, 0 }, { "attn_output", DBRX_INPUT_WO, 0 }, { "ffn_gate_inp", DBRX_INPUT_ROUTER, 0 },
    { "ffn_gate_exps", DBRX_INPUT_EXPERT, 1 }, { "ffn_down_exps", DBRX_INPUT_W2, 1 },
    { "ffn_up_exps", -1, 1 },              /* has ffn_gate_exps's inputs */
};
enum { PER_LAYER = sizeof matrices / sizeof *matrices };

static int make_entries(struct collect *c)
{
    const struct dbrx_config *g = &c->t.sh.ckpt->desc.config;
    char name[64];
    if (!(c->m = calloc(1, sizeof *c->m)))
        return -1;
    for (uint32_t l = 0; l < g->n_layers; l++)
        for (size_t i = 0; i < PER_LAYER; i++) {
            snprintf(name, sizeof name, "blk.%u.%s.weight", l, matrices[i].name);
            if (!imatrix_add(c->m, name, matrices[i].per_expert ? g->n_experts : 1,
                             matrices[i].kind == DBRX_INPUT_W2 ? g->d_ffn : g->d_model))
                return -1;
        }
    return imatrix_add(c->m, "output.weight", 1, g->d_model) ? 0 : -1;
}

static void watch(void *ctx, int kind, uint32_t layer, uint32_t expert, uint32_t n, uint32_t cols, const float *x)
{
    struct collect *c = ctx;
    size_t i = 0;
    while (i < PER_LAYER && matrices[i].kind != kind)
        i++;
    struct imatrix_entry *e = &c->m->v[kind == DBRX_INPUT_HEAD ? c->m->n - 1 : (size_t)layer * PER_LAYER + i];
    float *sum = e->sum + (size_t)expert * cols;
    for (uint32_t k = 0; k < cols; k++) {
        double s = 0;
        for (uint32_t t = 0; t < n; t++)
            s += (double)x[(size_t)t * cols + k] * x[(size_t)t * cols + k];
        sum[k] += (float)s;
    }
    e->count[expert] += (float)n;
}

/* One text, at most a window; 0, 1: interrupted, -1 after saying what is wrong */
static int see(struct collect *c, const int32_t *token, uint32_t n)
{
    struct shell *sh = &c->t.sh;
    struct dbrx_error err = { .code = 0 };
    size_t vocab = sh->ckpt->desc.config.n_vocab;
    dbrx_status st = engine_truncate(&c->e, 0, &err);
    for (uint32_t at = 0, len; at < n && st == DBRX_OK; at += len) {
        len = n - at < c->piece ? n - at : c->piece;
        struct dbrx_batch b = { .struct_size = sizeof b, .n_tokens = len, .token = token + at, .logits = c->logits,
                                .logits_len = len * vocab, .want_logits = DBRX_LOGITS_ALL };
        st = signals_stop() ? DBRX_STOPPED : engine_eval(&c->e, &b, &err);
        c->tokens += st == DBRX_OK ? len : 0;
    }
    c->chunks += st == DBRX_OK;
    return st < 0 ? shell_failed(sh, st, &err) : st != DBRX_OK;
}

static int see_text(struct collect *c, FILE *f)
{
    struct shell *sh = &c->t.sh;
    struct tok_ids ids = { 0 };
    size_t len = 0;
    char *text = read_whole(sh, f, c->text, &len);
    int failed = !text;
    if (text && tok_encode(sh->tok, text, len, TOK_PLAIN, &ids))
        failed = render_error(&sh->out, "out of memory");
    for (size_t at = 0; at < ids.n && !failed; at += c->window) {
        failed = see(c, ids.id + at, (uint32_t)(ids.n - at < c->window ? ids.n - at : c->window));
        render_bar(&sh->out, (unsigned long)(at + 1), (unsigned long)ids.n, 0);
    }
    free(ids.id);
    free(text);
    return failed;
}

static int see_prompts(struct collect *c, FILE *f)
{
    struct shell *sh = &c->t.sh;
    char *line = NULL;
    size_t cap = 0;
    ssize_t len;
    int failed = 0, chat;
    for (unsigned long n = 1; !failed && !signals_stop() && (len = text_line(&line, &cap, f)) >= 0; n++) {
        struct tok_ids ids = { 0 };
        if (!line[strspn(line, " \t\r\n")])
            continue;
        snprintf(sh->out.where, sizeof sh->out.where, "%.120s:%lu", c->prompts, n);
        cJSON *j = cJSON_ParseWithLength(line, (size_t)len);
        failed = !cJSON_IsObject(j) ? render_error(&sh->out, "it is no JSON object")
                                    : prompt_ids(sh, line, (size_t)len, j, &ids, &chat);
        for (size_t at = 0; at < ids.n && !failed; at += c->window)
            failed = see(c, ids.id + at, (uint32_t)(ids.n - at < c->window ? ids.n - at : c->window));
        free(ids.id);
        cJSON_Delete(j);
        sh->out.where[0] = '\0';
        render_bar(&sh->out, n, 0, 0);
    }
    free(line);
    if (!failed && !feof(f) && !signals_stop())
        failed = render_error(&sh->out, "%s cannot be read: %s", c->prompts, strerror(errno));
    return failed ? failed : signals_stop();
}

/* ---- what came of it ---- */

static int save(struct collect *c)
{
    struct atomic a;
    size_t n;
    unsigned char *p = imatrix_bytes(c->m, c->prompts ? c->prompts : c->text, c->chunks, c->window, &n);
    int why = p ? atomic_open(&a, c->out) : ENOMEM;
    if (!why) {
        atomic_write(&a, p, n);
        why = atomic_commit(&a);
    }
    free(p);
    return why ? render_error(&c->t.sh.out, "%s cannot be written: %s", c->out, strerror(why)) : 0;
}

static char *show_empty(const struct render *out, const cJSON *row)
{
    const cJSON *e;
    char *text = strdup("");
    (void)out;
    cJSON_ArrayForEach(e, cJSON_GetObjectItemCaseSensitive(row, "empty")) {
        char *more;
        if (asprintf(&more, "%s%s%d", text ? text : "", text && *text ? ", " : "", e->valueint) < 0)
            break;
        free(text);
        text = more;
    }
    return text;
}

/* A row a layer: how many tokens its experts saw */
static void show(struct collect *c)
{
    static const struct column columns[] = {
        { "layer", "layer", 1, 0, NULL }, { "least", "least", 1, 0, NULL }, { "most", "most", 1, 0, NULL },
        { "empty", "experts that saw nothing", 0, 0, show_empty }, { NULL, NULL, 0, 0, NULL },
    };
    static const struct rows rows = { .type = "rows", .of = "imatrix", .key = "rows", .col = columns };
    cJSON *list = cJSON_CreateArray(), *head = cJSON_CreateObject();
    unsigned empty = 0;
    for (uint32_t l = 0; l < c->t.sh.ckpt->desc.config.n_layers; l++) {
        const struct imatrix_entry *e = &c->m->v[(size_t)l * PER_LAYER + 3];
        cJSON *o = cJSON_CreateObject(), *none = cJSON_CreateArray(), *counts = cJSON_CreateArray();
        float least = e->count[0], most = 0;
        for (uint32_t x = 0; x < e->n_matrices; x++) {
            least = fminf(least, e->count[x]);
            most = fmaxf(most, e->count[x]);
            cJSON_AddItemToArray(counts, cJSON_CreateNumber((double)e->count[x]));
            if (e->count[x] == 0)
                cJSON_AddItemToArray(none, cJSON_CreateNumber(x)), empty++;
        }
        cJSON_AddNumberToObject(o, "layer", l);
        cJSON_AddNumberToObject(o, "least", (double)least);
        cJSON_AddNumberToObject(o, "most", (double)most);
        cJSON_AddItemToObject(o, "empty", none);
        cJSON_AddItemToObject(o, "counts", counts);
        cJSON_AddItemToArray(list, o);
    }
    cJSON_AddStringToObject(head, "path", c->out);
    cJSON_AddNumberToObject(head, "tokens", (double)c->tokens);
    cJSON_AddNumberToObject(head, "texts", c->chunks);
    render_rows(&c->t.sh.out, &rows, "tokens an expert saw", head, list);
    if (!c->t.sh.out.json)
        render_event(&c->t.sh.out, "status", NULL, "%s: of %llu tokens%s", c->out, (unsigned long long)c->tokens,
                     empty ? "; experts that saw nothing are quantised as if all inputs mattered alike: give more text" : "");
}

static int collect(struct collect *c)
{
    struct shell *sh = &c->t.sh;
    struct dbrx_error err = { .code = 0 };
    uint32_t room = disp_max_pos(sh->disp);
    const char *name = c->prompts ? c->prompts : c->text;
    c->window = c->window ? c->window : DEFAULT_WINDOW;
    c->window = c->window < room ? c->window : room;
    c->piece = (uint32_t)((64u << 20) / 4 / sh->ckpt->desc.config.n_vocab);
    c->piece = c->piece < 1 ? 1 : c->piece > c->window ? c->window : c->piece;
    if (!sh->tok)
        return render_error(&sh->out, "a text needs a tokenizer: %s", sh->tok_why), EXIT_CHECKPOINT;
    dbrx_status st = disp_scratch(sh->disp, c->window, &c->e, &err);
    const struct dbrx_inputs *in = st == DBRX_OK ? c->e.module->info->get(DBRX_INPUTS) : NULL;
    if (st == DBRX_OK && !in)
        return render_error(&sh->out, "%s does not hand out what its weights are multiplied with; choose another "
                            "backend with -b", disp_name(sh->disp)), EXIT_NO_BACKEND;
    c->logits = malloc((size_t)c->piece * sh->ckpt->desc.config.n_vocab * sizeof(float));
    if (st == DBRX_OK && (!c->logits || make_entries(c)))
        return render_error(&sh->out, "out of memory"), EXIT_INTERNAL;
    if (st == DBRX_OK)
        st = in->watch(c->e.session, watch, c, &err);
    if (st != DBRX_OK)
        return shell_failed(sh, st, &err), EXIT_NO_BACKEND;
    FILE *f = !strcmp(name, "-") ? stdin : fopen(name, "re");
    if (!f)
        return render_error(&sh->out, "%s cannot be read: %s", name, strerror(errno)), EXIT_USAGE;
    int failed = c->prompts ? see_prompts(c, f) : see_text(c, f);
    if (f != stdin)
        fclose(f);
    render_bar(&sh->out, 0, 0, 0);
    if (failed > 0)
        render_error(&sh->out, "interrupted; %s was not written", c->out);
    else if (!failed && !c->tokens)
        failed = render_error(&sh->out, "%s holds no text", name);
    for (uint32_t l = 0; !failed && l < sh->ckpt->desc.config.n_layers; l++) {     /* up: as gate */
        struct imatrix_entry *gate = &c->m->v[(size_t)l * PER_LAYER + 3], *up = gate + 2;
        memcpy(up->sum, gate->sum, (size_t)up->n_matrices * up->cols * sizeof *up->sum);
        memcpy(up->count, gate->count, up->n_matrices * sizeof *up->count);
    }
    if (failed || save(c))
        return EXIT_INTERNAL;
    show(c);
    return 0;
}

int tool_imatrix(int argc, char **argv)
{
    struct collect *c = &tool;
    struct contender who = { .name = NULL };
    *c = (struct collect){ .t.row = NULL };
    int code = tool_begin(&c->t, argv[0]);
    if (!code)
        code = options_parse(argv[0], imatrix_options, argc, argv, take, c);
    if (!code && (argc != optind || !c->prompts == !c->text || !c->out)) {
        plain_error("imatrix wants --prompts FILE or --text FILE, and --out FILE\nusage: dbrx imatrix %s",
                c->t.row->usage);
        code = EXIT_USAGE;
    }
    if (!code && c->backend && contender_parse((char *)c->backend, &who)) {
        plain_error("a backend is written NAME or NAME:K=V,K=V");
        code = EXIT_USAGE;
    }
    if (code)
        return tool_end(&c->t, code);
    code = tool_open(&c->t, c->backend ? &who : NULL);
    if (!code)
        code = collect(c);
    engine_close(&c->e);
    imatrix_free(c->m);
    free(c->logits);
    return tool_end(&c->t, code);
}
