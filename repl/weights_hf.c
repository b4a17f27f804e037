/* repl/weights_hf.c -- a checkpoint as a Hugging Face directory: model.safetensors, the two
 * configs, tokenizer.json.  See weights.h.  Written under another name, then renamed. */
#define _GNU_SOURCE
#include "repl/weights.h"

#include "repl/atomic.h"
#include "repl/shell.h"

#include <cjson/cJSON.h>
#include <dirent.h>
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static const char *const names[] = { "config.json", "generation_config.json", "tokenizer_config.json",
                                     "tokenizer.json", "model.safetensors" };

/* ---- JSON ---- */

static cJSON *make_config(const struct dbrx_config *c, uint32_t dtype)
{
    cJSON *j = cJSON_CreateObject(), *a, *f;
    const char *class = "DbrxForCausalLM";
    cJSON_AddItemToObject(j, "architectures", cJSON_CreateStringArray(&class, 1));
    cJSON_AddStringToObject(j, "model_type", "dbrx");
    cJSON_AddNumberToObject(j, "d_model", c->d_model);
    cJSON_AddNumberToObject(j, "n_heads", c->n_heads);
    cJSON_AddNumberToObject(j, "n_layers", c->n_layers);
    cJSON_AddNumberToObject(j, "max_seq_len", c->max_seq);
    cJSON_AddNumberToObject(j, "vocab_size", c->n_vocab);
    a = cJSON_AddObjectToObject(j, "attn_config");
    if (c->clip_qkv > 0)
        cJSON_AddNumberToObject(a, "clip_qkv", (double)c->clip_qkv);
    else
        cJSON_AddNullToObject(a, "clip_qkv");
    cJSON_AddNumberToObject(a, "kv_n_heads", c->n_kv_heads);
    cJSON_AddNumberToObject(a, "rope_theta", (double)c->rope_theta);
    f = cJSON_AddObjectToObject(j, "ffn_config");
    cJSON_AddStringToObject(cJSON_AddObjectToObject(f, "ffn_act_fn"), "name", c->act_fn == DBRX_GELU ? "gelu" : "silu");
    cJSON_AddNumberToObject(f, "ffn_hidden_size", c->d_ffn);
    cJSON_AddNumberToObject(f, "moe_num_experts", c->n_experts);
    cJSON_AddNumberToObject(f, "moe_top_k", c->top_k);
    if (c->moe_norm_p > 0)
        cJSON_AddNumberToObject(f, "moe_normalize_expert_weights", (double)c->moe_norm_p);
    else
        cJSON_AddNullToObject(f, "moe_normalize_expert_weights");
    cJSON_AddBoolToObject(j, "tie_word_embeddings", 0);
    cJSON_AddStringToObject(j, "torch_dtype", dtype == DBRX_F32 ? "float32" : dtype == DBRX_F16 ? "float16" : "bfloat16");
    return j;
}

static cJSON *make_generation(const struct ckpt *c)
{
    cJSON *j = cJSON_CreateObject();
    if (c->n_eos)
        cJSON_AddItemToObject(j, "eos_token_id", cJSON_CreateIntArray(c->eos, (int)c->n_eos));
    return j;
}

static cJSON *make_tokenizer_config(const struct chat *chat)
{
    cJSON *j = cJSON_CreateObject();
    cJSON_AddStringToObject(j, "tokenizer_class", "GPT2TokenizerFast");
    cJSON_AddBoolToObject(j, "add_bos_token", 0);
    cJSON_AddBoolToObject(j, "add_prefix_space", 0);
    if (chat->template)
        cJSON_AddStringToObject(j, "chat_template", chat->template);
    if (chat->default_system)
        cJSON_AddBoolToObject(j, "use_default_system_prompt", 1);
    return j;
}

static cJSON *make_tokenizer(const struct tok *t)
{
    size_t len, n, longest = 1;
    for (int32_t i = 0; i < tok_n_vocab(t); i++) {
        tok_bytes(t, i, &len);
        longest = len > longest ? len : longest;
    }
    char *text = malloc(4 * longest + 2);
    struct tok_merge *m = tok_merges(t, &n);
    cJSON *j = text && m ? cJSON_Parse("{\"version\":\"1.0\",\"truncation\":null,\"padding\":null,\"added_tokens\":[],"
        "\"normalizer\":null,\"pre_tokenizer\":{\"type\":\"Sequence\",\"pretokenizers\":[{\"type\":\"Split\",\"pattern\":"
        "{\"Regex\":\"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\\\r\\\\n\\\\p{L}\\\\p{N}]?\\\\p{L}+|\\\\p{N}{1,3}| ?[^\\\\s\\\\p{L}\\\\p{N}]+"
        "[\\\\r\\\\n]*|\\\\s*[\\\\r\\\\n]+|\\\\s+(?!\\\\S)|\\\\s+\"},\"behavior\":\"Removed\",\"invert\":true},{\"type\":\"ByteLevel\","
        "\"add_prefix_space\":false,\"trim_offsets\":true,\"use_regex\":false}]},\"post_processor\":null,"
        "\"decoder\":{\"type\":\"ByteLevel\",\"add_prefix_space\":true,\"trim_offsets\":true,\"use_regex\":true},"
        "\"model\":{\"type\":\"BPE\",\"dropout\":null,\"unk_token\":null,\"continuing_subword_prefix\":\"\","
        "\"end_of_word_suffix\":\"\",\"fuse_unk\":false,\"vocab\":{},\"merges\":[]}}") : NULL;
    cJSON *model = cJSON_GetObjectItem(j, "model"), *vocab = cJSON_GetObjectItem(model, "vocab");
    cJSON *merges = cJSON_GetObjectItem(model, "merges"), *added = cJSON_GetObjectItem(j, "added_tokens");
    for (int32_t i = 0; j && i < tok_n_vocab(t); i++) {
        len = tok_spell(t, i, text);
        text[len] = '\0';
        if (len && !tok_is_special(t, i)) {
            cJSON_AddNumberToObject(vocab, text, i);
        } else if (len) {
            cJSON *e = cJSON_CreateObject();
            cJSON_AddNumberToObject(e, "id", i);
            cJSON_AddStringToObject(e, "content", text);
            cJSON_AddBoolToObject(e, "single_word", 0);
            cJSON_AddBoolToObject(e, "lstrip", 0);
            cJSON_AddBoolToObject(e, "rstrip", 0);
            cJSON_AddBoolToObject(e, "normalized", 0);
            cJSON_AddBoolToObject(e, "special", 1);
            cJSON_AddItemToArray(added, e);
        }
    }
    for (size_t i = 0; j && i < n; i++) {
        len = tok_spell(t, m[i].left, text);
        text[len++] = ' ';
        len += tok_spell(t, m[i].right, text + len);
        text[len] = '\0';
        cJSON_AddItemToArray(merges, cJSON_CreateString(text));
    }
    free(text);
    free(m);
    return j;
}

/* Takes j; 0 or an errno */
static int write_json(const char *dir, const char *name, cJSON *j)
{
    struct atomic a;
    char *path = NULL, *text = cJSON_Print(j);
    int why = !text || asprintf(&path, "%s/%s", dir, name) < 0 ? ENOMEM : weights_open_file(&a, path);
    if (!why) {
        atomic_write(&a, text, strlen(text));
        atomic_write(&a, "\n", 1);
        why = atomic_commit(&a);
    }
    free(path);
    cJSON_free(text);
    cJSON_Delete(j);
    return why;
}

/* ---- safetensors ---- */

/* The header with its length, padded with spaces to 8; NULL: no memory */
static char *make_head(const struct recode *r, size_t *n)
{
    char *text = NULL;
    uint64_t at = 0, len;
    FILE *f = open_memstream(&text, n);
    if (!f)
        return NULL;
    fprintf(f, "        {\"__metadata__\":{\"format\":\"pt\"}");
    for (size_t i = 0; i < r->n; i++) {
        const struct recode_tensor *t = &r->v[i];
        uint64_t bytes = recode_bytes(r, t);
        fprintf(f, ",\"%s\":{\"dtype\":\"%s\",\"shape\":[%llu", t->slot.name, dtype_name(t->type),
                (unsigned long long)t->slot.want[0]);
        if (t->slot.rank > 1)
            fprintf(f, ",%llu", (unsigned long long)t->slot.want[1]);
        fprintf(f, "],\"data_offsets\":[%llu,%llu]}", (unsigned long long)at, (unsigned long long)(at + bytes));
        at += bytes;
    }
    fputc('}', f);
    while (ftell(f) % 8)
        fputc(' ', f);
    if (fclose(f)) {
        free(text);
        return NULL;
    }
    len = *n - 8;
    for (int i = 0; i < 8; i++)
        text[i] = (char)(len >> 8 * i);
    return text;
}

/* ---- the directory ---- */

static int is_empty(const char *path)
{
    DIR *d = opendir(path);
    int n = 0;
    while (d && readdir(d))
        n++;
    if (d)
        closedir(d);
    return d && n <= 2;
}

static void remove_all(const char *dir)
{
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        char *path;
        if (asprintf(&path, "%s/%s", dir, names[i]) < 0)
            continue;
        unlink(path);
        free(path);
    }
    rmdir(dir);
}

static int fill(struct weights *w, const char *dir, const char *path)
{
    struct atomic a;
    size_t n;
    char *file = NULL, *head = make_head(&w->r, &n);
    int code = EXIT_INTERNAL, why = 0;
    w->r.align = 1;
    if (!head || asprintf(&file, "%s/model.safetensors", dir) < 0)
        render_error(&w->out, "out of memory");
    else
        code = weights_file(w, &a, file, head, n);
    free(head);
    free(file);
    if (!code)
        why = write_json(dir, names[0], make_config(&w->in->desc.config, w->in->dtype));
    if (!code && !why)
        why = write_json(dir, names[1], make_generation(w->in));
    if (!code && !why && w->tok)
        why = write_json(dir, names[2], make_tokenizer_config(&w->chat));
    if (!code && !why && w->tok)
        why = write_json(dir, names[3], make_tokenizer(w->tok));
    if (why) {
        render_error(&w->out, "%s cannot be written: %s", path, strerror(why));
        code = EXIT_INTERNAL;
    }
    return code;
}

int weights_write_directory(struct weights *w, const char *path)
{
    struct stat st;
    char *tmp = NULL;
    size_t len = strlen(path);
    while (len > 1 && path[len - 1] == '/')
        len--;
    if (w->in->desc.config.ln_eps != 1e-5f) {
        render_error(&w->out, "layer_norm_epsilon is %g, and config.json has no place for one that is not 1e-05",
                     (double)w->in->desc.config.ln_eps);
        return EXIT_CHECKPOINT;
    }
    if (!stat(path, &st) && !is_empty(path)) {
        render_error(&w->out, "%s is there already%s", path, S_ISDIR(st.st_mode) ? ", and not empty" : "");
        return EXIT_USAGE;
    }
    if (asprintf(&tmp, "%.*s.XXXXXX", (int)len, path) < 0 || !mkdtemp(tmp)) {
        render_error(&w->out, "%s cannot be written: %s", path, strerror(tmp ? errno : ENOMEM));
        free(tmp);
        return EXIT_INTERNAL;
    }
    mode_t mask = umask(0);
    umask(mask);
    chmod(tmp, 0777 & ~mask);
    int code = fill(w, tmp, path);
    if (!code && rename(tmp, path)) {
        render_error(&w->out, "%s cannot be written: %s", path, strerror(errno));
        code = EXIT_INTERNAL;
    }
    if (code)
        remove_all(tmp);
    free(tmp);
    return code;
}
