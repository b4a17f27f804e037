/* repl/inspect.c -- "dbrx inspect [--json] [DIR]": shapes, parameters, bytes by
 * part, KV bytes, end-of-sequence ids.  Opens the checkpoint and, if there is
 * one, its tokenizer; knows no backend (plan.c does) and reads no weights. */
#include "repl/inspect.h"

#include "backends/model/checkpoint.h"
#include "repl/paths.h"
#include "repl/plain.h"
#include "repl/plan.h"
#include "repl/text.h"

#include <cjson/cJSON.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { OK = 0, FAILED = 1, USAGE = 2, CHECKPOINT = 4 };

/* ---- gathering ---------------------------------------------------------- */

enum { EMBEDDING, ATTENTION, ROUTER, EXPERTS, NORMS, LM_HEAD, N_PARTS };
static const char *const part_names[N_PARTS] = { "embedding", "attention", "router", "experts",
                                                 "norms", "lm_head" };

struct part {
    uint64_t tensors, params, bytes;
    uint64_t types;                        /* bit n: some have dtype n         */
};

/* What the tokenizer has to say; all that needs one. */
struct words {
    int32_t n;                             /* ids it knows, 0: no tokenizer    */
    char    why[200];                      /* ... because                      */
    char    eos[CKPT_MAX_EOS][64];         /* printable ASCII, "" without text */
};

struct facts {
    const struct ckpt *c;
    struct part  part[N_PARTS], sum;
    uint64_t     total, active;
    uint64_t     kv16, kv32;               /* bytes per position               */
    struct words words;
};

static void part_add(struct part *p, const struct dbrx_tensor *t)
{
    uint64_t n = 1;
    for (uint32_t i = 0; i < t->rank; i++)
        n *= t->dim[i];
    p->tensors++;
    p->params += n;
    p->bytes += t->bytes;
    p->types |= UINT64_C(1) << (t->dtype & 63);
}

static void ascii_copy(char *out, size_t room, const char *text, size_t len)
{
    size_t n = 0;
    for (size_t i = 0; i < len && n + 5 < room; i++) {
        unsigned char ch = (unsigned char)text[i];
        n += (size_t)snprintf(out + n, room - n, ch < 0x20 || ch > 0x7e ? "\\x%02x" : "%c", ch);
    }
    out[n] = '\0';
}

static void words_look(const struct ckpt *c, struct words *w)
{
    struct tok *t = text_open(c, w->why, sizeof w->why);
    if (!t)
        return;
    w->n = tok_n_vocab(t);
    for (uint32_t i = 0; i < c->n_eos; i++) {
        size_t len;
        const char *text = tok_bytes(t, c->eos[i], &len);
        ascii_copy(w->eos[i], sizeof w->eos[i], text ? text : "", text ? len : 0);
    }
    tok_close(t);
}

static void facts_gather(struct facts *f, const struct ckpt *c)
{
    const struct dbrx_config *g = &c->desc.config;
    f->c = c;
    part_add(&f->part[EMBEDDING], &c->desc.embed);
    for (uint32_t i = 0; i < g->n_layers; i++) {
        const struct dbrx_layer *l = &c->desc.layer[i];
        part_add(&f->part[NORMS], &l->norm_1);
        part_add(&f->part[ATTENTION], &l->wqkv);
        part_add(&f->part[ATTENTION], &l->wo);
        part_add(&f->part[NORMS], &l->norm_2);
        part_add(&f->part[ROUTER], &l->router);
        part_add(&f->part[EXPERTS], &l->w1);
        part_add(&f->part[EXPERTS], &l->v1);
        part_add(&f->part[EXPERTS], &l->w2);
    }
    part_add(&f->part[NORMS], &c->desc.norm_f);
    part_add(&f->part[LM_HEAD], &c->desc.lm_head);
    for (int i = 0; i < N_PARTS; i++) {
        f->sum.tensors += f->part[i].tensors;
        f->sum.params += f->part[i].params;
        f->sum.bytes += f->part[i].bytes;
        f->sum.types |= f->part[i].types;
    }
    f->total = ckpt_params_total(c);
    f->active = ckpt_params_active(c);
    f->kv16 = UINT64_C(2) * 2 * g->n_layers * g->n_kv_heads * (g->d_model / g->n_heads);
    f->kv32 = 2 * f->kv16;
    words_look(c, &f->words);
}

/* ---- text --------------------------------------------------------------- */

/* Numbers for people, by value: said(x).s lives as long as the call it is in. */
struct said { char s[32]; };

static struct said scaled(double x, double step, const char *const unit[4])
{
    struct said out;
    int i = 0;
    while (i < 3 && x >= step)
        x /= step, i++;
    int decimals = i == 0 || x >= 100 ? 0 : x >= 10 ? 1 : 2;
    snprintf(out.s, sizeof out.s, "%.*f%s%s", decimals, x, *unit[i] ? " " : "", unit[i]);
    return out;
}

static struct said in_bytes(uint64_t n)
{
    static const char *const unit[4] = { "bytes", "KiB", "MiB", "GiB" };
    return scaled((double)n, 1024, unit);
}

static struct said in_words(uint64_t n)
{
    static const char *const unit[4] = { "", "thousand", "million", "billion" };
    return scaled((double)n, 1000, unit);
}

static struct said in_full(uint64_t n)     /* 131,596,523,520 */
{
    struct said out;
    char digits[24];
    int len = snprintf(digits, sizeof digits, "%" PRIu64, n), k = 0;
    for (int i = 0; i < len; i++) {
        if (i && (len - i) % 3 == 0)
            out.s[k++] = ',';
        out.s[k++] = digits[i];
    }
    out.s[k] = '\0';
    return out;
}

static struct said types_of(const struct part *p)            /* "BF16", "F32 BF16" */
{
    struct said out = { "" };
    for (uint32_t i = 0, n = 0; i < 64 && n + 10 < sizeof out.s; i++)
        if (p->types >> i & 1)
            n += (uint32_t)snprintf(out.s + n, sizeof out.s - n, "%s%s", n ? " " : "",
                                    dtype_name(i));
    return out;
}

/* A sentence over lines of 78, the later ones indented. */
static void print_wrapped(const char *text, size_t column, size_t indent)
{
    while (*text) {
        size_t word = strcspn(text, " ");
        if (column > indent && column + 1 + word > 78)
            column = (size_t)printf("\n%*s", (int)indent, "") - 1;
        fputs(column > indent ? " " : "", stdout);
        plain_put(stdout, text, word);
        column += word + (column > indent);
        text += word + strspn(text + word, " ");
    }
    putchar('\n');
}

static void print_part(const char *name, const struct part *p, uint64_t all)
{
    printf("  %-12s %7" PRIu64 "  %17s  %9s  %5.1f%%  %s\n", name, p->tensors,
           in_full(p->params).s, in_bytes(p->bytes).s,
           all ? 100 * (double)p->bytes / (double)all : 0.0, types_of(p).s);
}

static void print_kv(const char *type, uint64_t each, uint32_t seq)
{
    printf("  %-12s %9s a token, %9s at %u tokens\n", type, in_bytes(each).s,
           in_bytes(each * seq).s, seq);
}

static void print_text(const struct facts *f)
{
    const struct ckpt *c = f->c;
    const struct dbrx_config *g = &c->desc.config;

    plain_put(stdout, c->dir, strlen(c->dir));
    printf("\n\n");
    printf("  parameters   %s; a token uses %s\n", in_words(f->total).s, in_words(f->active).s);
    printf("  layers       %u of width %u\n", g->n_layers, g->d_model);
    printf("  attention    %u heads of %u, %u KV head%s; RoPE base %g; ", g->n_heads,
           g->d_model / g->n_heads, g->n_kv_heads, g->n_kv_heads == 1 ? "" : "s",
           (double)g->rope_theta);
    printf(g->clip_qkv > 0 ? "clip %g\n" : "no clip\n", (double)g->clip_qkv);
    printf("  experts      %u, %u a token, of width %u, %s; ", g->n_experts, g->top_k, g->d_ffn,
           g->act_fn == DBRX_GELU ? "gelu" : "silu");
    printf(g->moe_norm_p > 0 ? "weights normalised (L%g)\n" : "weights as they are\n",
           (double)g->moe_norm_p);
    printf("  context      %u tokens\n", g->max_seq);
    printf("  vocabulary   %u\n  tokenizer    ", g->n_vocab);
    if (f->words.n)
        printf("text for ids below %d\n", (int)f->words.n);
    else
        print_wrapped(f->words.why, 15, 15);
    printf("  ends with    ");
    for (uint32_t i = 0; i < c->n_eos; i++)
        printf("%s%d%s%s", i ? ", " : "", (int)c->eos[i], *f->words.eos[i] ? " " : "",
               f->words.eos[i]);
    printf("%s\n", c->n_eos ? "" : "nothing: no eos_token_id");
    printf("  files        %u, %s\n\n", c->n_shards, in_bytes(c->file_bytes).s);

    printf("  %-12s %7s  %17s  %9s  %6s  type\n", "part", "tensors", "parameters", "size", "share");
    for (int i = 0; i < N_PARTS; i++)
        print_part(part_names[i], &f->part[i], f->sum.bytes);
    print_part("all", &f->sum, f->sum.bytes);

    printf("\n  KV cache\n");
    print_kv("bf16", f->kv16, g->max_seq);
    print_kv("f32", f->kv32, g->max_seq);
    printf("\n  fingerprint  ");
    for (int i = 0; i < 32; i++)
        printf("%02x", c->desc.fingerprint[i]);
    putchar('\n');
}

/* ---- JSON --------------------------------------------------------------- */

static void add(cJSON *o, const char *key, uint64_t n)
{
    cJSON_AddNumberToObject(o, key, (double)n);
}

static void add_float(cJSON *o, const char *key, float x)    /* 1e-05, not 9.99999974e-06 */
{
    char text[32];
    for (int digits = 6; digits <= 9; digits++) {
        snprintf(text, sizeof text, "%.*g", digits, (double)x);
        if (strtof(text, NULL) == x)
            break;
    }
    cJSON_AddRawToObject(o, key, text);
}

static void add_kv(cJSON *o, const char *type, uint64_t each, uint32_t seq)
{
    cJSON *kv = cJSON_AddObjectToObject(o, type);
    add(kv, "bytes_per_token", each);
    add(kv, "bytes_at_full_context", each * seq);
}

/* The object as text; cJSON_free it.  Out of memory shows as NULL or, at worst, as a
 * member left out. */
static char *json_text(const struct facts *f)
{
    const struct ckpt *c = f->c;
    const struct dbrx_config *g = &c->desc.config;
    char hex[65];
    cJSON *j = cJSON_CreateObject();

    cJSON_AddStringToObject(j, "directory", c->dir);
    cJSON *k = cJSON_AddObjectToObject(j, "config");
    add(k, "n_layers", g->n_layers);
    add(k, "d_model", g->d_model);
    add(k, "n_heads", g->n_heads);
    add(k, "n_kv_heads", g->n_kv_heads);
    add(k, "head_dim", g->d_model / g->n_heads);
    add(k, "d_ffn", g->d_ffn);
    add(k, "n_experts", g->n_experts);
    add(k, "top_k", g->top_k);
    add(k, "n_vocab", g->n_vocab);
    add(k, "context", g->max_seq);
    if (g->clip_qkv > 0)
        add_float(k, "clip_qkv", g->clip_qkv);
    else
        cJSON_AddNullToObject(k, "clip_qkv");
    add_float(k, "rope_theta", g->rope_theta);
    add_float(k, "ln_eps", g->ln_eps);
    add_float(k, "moe_norm_p", g->moe_norm_p);
    cJSON_AddStringToObject(k, "activation", g->act_fn == DBRX_GELU ? "gelu" : "silu");

    k = cJSON_AddObjectToObject(j, "parameters");
    add(k, "total", f->total);
    add(k, "active", f->active);
    k = cJSON_AddObjectToObject(j, "parts");
    for (int i = 0; i < N_PARTS; i++) {
        cJSON *p = cJSON_AddObjectToObject(k, part_names[i]);
        add(p, "tensors", f->part[i].tensors);
        add(p, "parameters", f->part[i].params);
        add(p, "bytes", f->part[i].bytes);
        cJSON_AddStringToObject(p, "types", types_of(&f->part[i]).s);
    }
    k = cJSON_AddObjectToObject(j, "kv_cache");
    add_kv(k, "bf16", f->kv16, g->max_seq);
    add_kv(k, "f32", f->kv32, g->max_seq);
    if (f->words.n) {
        k = cJSON_AddObjectToObject(j, "tokenizer");
        add(k, "n_vocab", (uint64_t)f->words.n);
    } else {
        cJSON_AddNullToObject(j, "tokenizer");
        cJSON_AddStringToObject(j, "tokenizer_error", f->words.why);
    }
    k = cJSON_AddArrayToObject(j, "eos");
    for (uint32_t i = 0; i < c->n_eos; i++) {
        cJSON *e = cJSON_CreateObject();
        add(e, "id", (uint64_t)c->eos[i]);
        if (*f->words.eos[i])
            cJSON_AddStringToObject(e, "text", f->words.eos[i]);
        else
            cJSON_AddNullToObject(e, "text");
        cJSON_AddItemToArray(k, e);
    }
    add(j, "files", c->n_shards);
    add(j, "file_bytes", c->file_bytes);
    add(j, "tensors", c->n_tensors);
    for (int i = 0; i < 32; i++)
        snprintf(hex + 2 * i, 3, "%02x", c->desc.fingerprint[i]);
    char *text = cJSON_AddStringToObject(j, "fingerprint", hex) ? cJSON_PrintUnformatted(j) : NULL;
    cJSON_Delete(j);
    return text;
}

/* ---- the tool ----------------------------------------------------------- */

static const char usage[] = "usage: dbrx inspect [--json] [--plan BACKEND[:K=V,...]] [DIR]";

int tool_inspect(int argc, char **argv)
{
    const char *dir = NULL, *plan = NULL;
    char *bundled = NULL;
    int json = 0, options = 1, rc = OK;
    for (int i = 1; i < argc; i++) {
        if (options && !strcmp(argv[i], "--")) {
            options = 0;
        } else if (options && !strcmp(argv[i], "--json")) {
            json = 1;
        } else if (options && !strcmp(argv[i], "--plan") && i + 1 < argc) {
            plan = argv[++i];
        } else if (options && (!strcmp(argv[i], "--help") || !strcmp(argv[i], "-h"))) {
            puts(usage);
            return OK;
        } else if ((options && argv[i][0] == '-') || dir) {
            plain_error("inspect: unexpected \"%s\"\n%s", argv[i], usage);
            return USAGE;
        } else {
            dir = argv[i];
        }
    }
    if (!dir)
        dir = bundled = path_default_model();
    if (!dir) {
        plain_error("the bundled model was not found; name a checkpoint directory");
        return CHECKPOINT;
    }

    struct ckpt *c;
    struct dbrx_error err;
    if (ckpt_open(dir, &c, &err) != DBRX_OK) {
        plain_error("%s", err.text);
        free(bundled);
        return CHECKPOINT;
    }
    struct facts f = { 0 };
    if (!plan)
        facts_gather(&f, c);
    char *text = json && !plan ? json_text(&f) : NULL;
    if (plan) {
        rc = plan_print(c, plan, json);
    } else if (json && !text) {
        plain_error("out of memory");
        rc = FAILED;
    } else if (json) {
        plain_json(stdout, text, 0);
        putchar('\n');
    } else {
        print_text(&f);
    }
    if (rc == OK && (fflush(stdout) != 0 || ferror(stdout))) {
        perror("dbrx: cannot write");
        rc = FAILED;
    }
    cJSON_free(text);
    ckpt_close(c);
    free(bundled);
    return rc;
}
