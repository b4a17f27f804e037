/* repl/quantize.c -- "dbrx quantize IN OUT --type T" and "dbrx convert IN OUT": which tensor
 * becomes what, and what came of it.  The work is weights.c's. */
#define _GNU_SOURCE
#include "backends/model/imatrix.h"
#include "backends/model/quant.h"
#include "repl/shell.h"
#include "repl/plain.h"
#include "repl/tools.h"
#include "repl/weights.h"

#include <fnmatch.h>
#include <getopt.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { OPT_TYPE = 1000, OPT_IMATRIX, OPT_KEEP, MAX_KEEP = 64 };

const struct option_row quantize_options[] = {
    { "type", OPT_TYPE, "T", "q8_0, q4_0, q4_k, q5_k, q6_k, bf16 or f16" },
    { "imatrix", OPT_IMATRIX, "FILE", "how much each input matters (dbrx imatrix)" },
    { "keep", OPT_KEEP, "PATTERN=T", "tensors of this name become T instead; repeatable" },
    { "json", OPT_JSON, NULL, "results as JSON Lines" },
    { "help", OPT_HELP, NULL, "show this" },
    { NULL, 0, NULL, NULL },
};
const struct option_row convert_options[] = {
    { "type", OPT_TYPE, "T", "f32, f16 or bf16 (default: each tensor's own)" },
    { "json", OPT_JSON, NULL, "results as JSON Lines" },
    { "help", OPT_HELP, NULL, "show this" },
    { NULL, 0, NULL, NULL },
};

struct keep { const char *pattern; uint32_t type; };
struct ask {
    const struct tool_row *row;
    const char *in, *out, *imatrix;
    uint32_t type;                         /* UINT32_MAX: not said                      */
    struct keep keep[MAX_KEEP];
    int n_keep, json;
};

/* llama.cpp's number for what most of the file is; as it names them "mostly Q4_K, small" */
static const struct { uint32_t type, file_type; } offered[] = {
    { DBRX_Q8_0, 7 }, { DBRX_Q4_0, 2 }, { DBRX_Q4_K, 14 }, { DBRX_Q5_K, 16 }, { DBRX_Q6_K, 18 },
    { DBRX_BF16, 32 }, { DBRX_F16, 1 }, { DBRX_F32, 0 },
};
enum { N_OFFERED = sizeof offered / sizeof *offered };

static uint32_t file_type(uint32_t type)
{
    for (int i = 0; i < N_OFFERED; i++)
        if (offered[i].type == type)
            return offered[i].file_type;
    return 0;
}

/* ---- options ---- */

static int bad_type(const char *what, const char *arg)
{
    plain_error("%s: there is no type \"%.40s\" to write", what, arg);
    return EXIT_USAGE;
}

static int take(void *ctx, int letter, const char *arg)
{
    struct ask *a = ctx;
    int quantising = !strcmp(a->row->name, "quantize");
    switch (letter) {
    case OPT_TYPE:
        a->type = dtype_named(arg);
        for (int i = 0; i < N_OFFERED; i++)
            if (offered[i].type == a->type && (quantising ? a->type != DBRX_F32 : dtype_block(a->type) == 1))
                return 0;
        return bad_type("--type", arg);
    case OPT_IMATRIX: a->imatrix = arg; return 0;
    case OPT_KEEP: {
        char *equals = strrchr(arg, '=');
        if (!equals || equals == arg || a->n_keep == MAX_KEEP) {
            plain_error("--keep wants PATTERN=TYPE, as output.weight=q8_0; %d at most", MAX_KEEP);
            return EXIT_USAGE;
        }
        *equals = '\0';
        struct keep *k = &a->keep[a->n_keep++];
        *k = (struct keep){ arg, dtype_named(equals + 1) };
        return quant_knows(k->type) ? 0 : bad_type("--keep", equals + 1);
    }
    case OPT_JSON: a->json = 1; return 0;
    default: tool_help(a->row); return -1;
    }
}

static int parse(struct ask *a, const struct option_row *options, int argc, char **argv)
{
    *a = (struct ask){ .row = tool_rows, .type = UINT32_MAX };
    while (strcmp(a->row->name, argv[0]))
        a->row++;
    int code = options_parse(argv[0], options, argc, argv, take, a);
    if (code)
        return code;
    int needs_type = !strcmp(argv[0], "quantize") && a->type == UINT32_MAX;
    if (argc - optind != 2 || needs_type) {
        plain_error("%s wants %s\nusage: dbrx %s %s", argv[0],
                needs_type ? "--type" : "a checkpoint to read and a name to write", argv[0], a->row->usage);
        return EXIT_USAGE;
    }
    a->in = argv[optind];
    a->out = argv[optind + 1];
    return 0;
}

static int ends_with(const char *s, const char *end)
{
    size_t n = strlen(s), m = strlen(end);
    return n >= m && !strcmp(s + n - m, end);
}

/* ---- which becomes what ---- */

/* What a row of these columns can be that is at least as good; as llama.cpp chooses */
static uint32_t fitting(uint32_t type, uint64_t cols)
{
    while (cols % dtype_block(type))
        type = type == DBRX_Q4_K ? DBRX_Q5_0 : type == DBRX_Q5_K ? DBRX_Q5_1
             : type == DBRX_Q6_K ? DBRX_Q8_0 : DBRX_F16;
    return type;
}

/* Norms and routers are small and everything hangs on them; the head deserves more bits */
static uint32_t choose(const struct ask *a, const struct recode_tensor *t, uint64_t cols)
{
    const char *name = t->slot.gguf;
    if (t->slot.rank == 1 || strstr(name, "ffn_gate_inp"))
        return DBRX_F32;
    for (int i = a->n_keep - 1; i >= 0; i--)
        if (!fnmatch(a->keep[i].pattern, name, 0))
            return fitting(a->keep[i].type, cols);
    int low = a->type == DBRX_Q4_0 || a->type == DBRX_Q4_K || a->type == DBRX_Q5_K;
    return fitting(low && !strcmp(name, "output.weight") ? DBRX_Q6_K : a->type, cols);
}

/* ---- how much an error costs ---- */

/* Sums of squares become means, in place; an expert that saw nothing has equal ones.  A column
 * that was always zero may not be any more: it keeps a thousandth of the others' weight. */
static int read_imatrix(struct weights *w, const char *path, struct imatrix **out)
{
    struct dbrx_error err;
    if (imatrix_open(path, out, &err) != DBRX_OK) {
        render_error(&w->out, "%s", err.text);
        return EXIT_CHECKPOINT;
    }
    for (size_t i = 0; i < (*out)->n; i++) {
        struct imatrix_entry *e = &(*out)->v[i];
        for (uint32_t k = 0; k < e->n_matrices; k++) {
            float *x = e->sum + (size_t)k * e->cols;
            double mean = 0;
            for (uint32_t c = 0; c < e->cols; c++)
                mean += x[c];
            mean /= e->cols;
            for (uint32_t c = 0; c < e->cols; c++)
                x[c] = mean > 0 && e->count[k] > 0 ? (float)(x[c] / mean + 1e-3) : 1;
        }
    }
    return 0;
}

static int weigh(struct weights *w, const struct imatrix *im, struct recode_tensor *t, uint64_t cols)
{
    const struct imatrix_entry *e = imatrix_find(im, t->slot.gguf);
    if (!e)
        return 0;                          /* the embedding has none */
    if (e->cols != cols || (e->n_matrices != 1 && e->n_matrices != w->in->desc.config.n_experts)) {
        render_error(&w->out, "the importance matrix is another model's: %s has %u x %u inputs there", e->name,
                     e->n_matrices, e->cols);
        return EXIT_CHECKPOINT;
    }
    t->weight = e->sum;
    t->n_weights = e->n_matrices;
    return 0;
}

/* ---- what came of it ---- */

static const char *part_of(const char *gguf)
{
    return !strcmp(gguf, "token_embd.weight") ? "embedding" : !strcmp(gguf, "output.weight") ? "lm_head"
         : strstr(gguf, "_exps.") ? "experts" : strstr(gguf, "ffn_gate_inp.") ? "router"
         : strstr(gguf, "norm.") ? "norms" : "attention";
}

static const struct column columns[] = {
    { "part", "part", 0, 0, NULL }, { "type", "type", 0, 0, NULL }, { "tensors", "tensors", 1, 0, NULL },
    { "before_mb", "MB before", 1, 1, NULL }, { "mb", "MB", 1, 1, NULL },
    { "rms_error", "rms error", 1, 5, NULL }, { NULL, NULL, 0, 0, NULL },
};

/* A row for each part and type.  The error is relative: of the difference, to the values. */
static void show(struct weights *w, const char *of, const char *path)
{
    static const struct rows rows = { .type = "rows", .of = "weights", .key = "rows", .col = columns };
    cJSON *list = cJSON_CreateArray();
    char *shown = calloc(w->r.n, 1);
    double all = 0;
    for (size_t i = 0; shown && i < w->r.n; i++) {
        const struct recode_tensor *first = &w->r.v[i];
        double error = 0, power = 0, before = 0, after = 0;
        unsigned n = 0;
        for (size_t k = i; k < w->r.n; k++) {
            const struct recode_tensor *t = &w->r.v[k];
            if (shown[k] || t->type != first->type || strcmp(part_of(t->slot.gguf), part_of(first->slot.gguf)))
                continue;
            shown[k] = 1;
            n++;
            error += t->error, power += t->power;
            before += (double)t->slot.t->bytes;
            after += (double)recode_bytes(&w->r, t);
        }
        all += after;
        if (!n)
            continue;
        cJSON *o = cJSON_CreateObject();
        cJSON_AddStringToObject(o, "part", part_of(first->slot.gguf));
        cJSON_AddStringToObject(o, "type", dtype_name(first->type));
        cJSON_AddNumberToObject(o, "tensors", n);
        field_real(o, "before_mb", before * 1e-6);
        field_real(o, "mb", after * 1e-6);
        if (power > 0)
            field_real(o, "rms_error", sqrt(error / power));
        cJSON_AddItemToArray(list, o);
    }
    free(shown);
    cJSON *head = cJSON_CreateObject();
    cJSON_AddStringToObject(head, "tool", of);
    cJSON_AddStringToObject(head, "path", path);
    field_real(head, "total_mb", all * 1e-6);
    render_rows(&w->out, &rows, NULL, head, list);
    if (!w->out.json)
        render_event(&w->out, "status", NULL, "%s: %.1f MB", path, all * 1e-6);
}

/* Other programs compute DBRX as it was published, whatever these say */
static void warn(struct weights *w)
{
    const struct dbrx_config *c = &w->in->desc.config;
    if (c->moe_norm_p != 1 || c->act_fn != DBRX_SILU)
        render_event(&w->out, "status", NULL, "this model differs from DBRX in its %s, which only dbrx reads from "
                     "a GGUF file", c->act_fn != DBRX_SILU ? "activation" : "normalisation of expert weights");
}

int tool_quantize(int argc, char **argv)
{
    struct ask a;
    struct weights w;
    struct imatrix *im = NULL;
    int code = parse(&a, quantize_options, argc, argv);
    if (code)
        return code < 0 ? EXIT_OK : code;
    code = weights_open(&w, a.in, a.json);
    w.r.to_gguf = 1;
    if (!code && a.imatrix)
        code = read_imatrix(&w, a.imatrix, &im);
    for (size_t i = 0; !code && i < w.r.n; i++) {
        struct recode_tensor *t = &w.r.v[i];
        uint64_t rows, cols;
        recode_shape(&w.r, t, &rows, &cols);
        t->type = choose(&a, t, cols);
        if (im && dtype_block(t->type) > 1)
            code = weigh(&w, im, t, cols);
    }
    if (!code)
        code = weights_write_gguf(&w, a.out, file_type(a.type));
    if (!code) {
        warn(&w);
        show(&w, "quantize", a.out);
    }
    imatrix_free(im);
    return weights_close(&w, code);
}

int tool_convert(int argc, char **argv)
{
    struct ask a;
    struct weights w;
    int code = parse(&a, convert_options, argc, argv);
    if (code)
        return code < 0 ? EXIT_OK : code;
    int gguf = ends_with(a.out, ".gguf");
    code = weights_open(&w, a.in, a.json);
    w.r.to_gguf = gguf;
    for (size_t i = 0; !code && i < w.r.n; i++) {
        struct recode_tensor *t = &w.r.v[i];
        int norm = t->slot.rank == 1 || strstr(t->slot.gguf, "ffn_gate_inp");
        if (a.type != UINT32_MAX && (!norm || dtype_block(t->type) > 1))
            t->type = a.type;
        else if (!gguf && dtype_block(t->type) > 1)
            t->type = DBRX_F32;            /* what it stands for, exactly */
    }
    if (!code)
        code = gguf ? weights_write_gguf(&w, a.out, file_type(w.r.n > 1 ? w.r.v[1].type : 0))
                    : weights_write_directory(&w, a.out);
    if (!code) {
        if (gguf)
            warn(&w);
        show(&w, "convert", a.out);
    }
    return weights_close(&w, code);
}
