/* backends/model/config.c -- config.json and generation_config.json to struct
 * dbrx_config and the end-of-sequence ids.
 *
 * Defaults are the reference configuration class's where a wrong guess shows
 * at once or is the documented meaning of silence (kv_n_heads, rope_theta,
 * clip_qkv, activation, normalisation); a missing size is an error.  Knows
 * nothing of tensors. */
#include "backends/model/reader.h"

#include <math.h>
#include <string.h>

#define CONFIG "config.json"
#define GENERATION "generation_config.json"

dbrx_status ckpt_sizes_check(const char *file, const struct size_names *name,
                             const struct dbrx_config *c, struct dbrx_error *err)
{
    if (c->d_model % c->n_heads)
        return ckpt_fail(err, DBRX_E_INVALID, "%s: %s %u is not a multiple of %s %u", SHOW(file),
                         name->d_model, c->d_model, name->n_heads, c->n_heads);
    if (c->n_heads % c->n_kv_heads)
        return ckpt_fail(err, DBRX_E_INVALID, "%s: %s %u is not a multiple of %s %u", SHOW(file),
                         name->n_heads, c->n_heads, name->n_kv_heads, c->n_kv_heads);
    if (c->d_model / c->n_heads % 2)
        return ckpt_fail(err, DBRX_E_UNSUPPORTED, "%s: the head size %s/%s = %u is odd, and rotary "
                         "embedding needs pairs", SHOW(file), name->d_model, name->n_heads,
                         c->d_model / c->n_heads);
    if (c->top_k > c->n_experts)
        return ckpt_fail(err, DBRX_E_INVALID, "%s: %s %u is more than %s %u", SHOW(file),
                         name->top_k, c->top_k, name->n_experts, c->n_experts);
    if ((uint64_t)c->n_experts * c->d_ffn > INT32_MAX)
        return ckpt_fail(err, DBRX_E_UNSUPPORTED, "%s: %s %u times %s %u is too large", SHOW(file),
                         name->n_experts, c->n_experts, name->d_ffn, c->d_ffn);
    return DBRX_OK;
}

/* One whole number: where it is, where it goes, what it may be. */
struct size_key { const char *object, *key; size_t at; int64_t max, absent; };
#define AT(field) offsetof(struct dbrx_config, field)
static const struct size_key size_keys[] = {
    { NULL,          "n_layers",        AT(n_layers),   MAX_LAYERS,  0 },
    { NULL,          "d_model",         AT(d_model),    MAX_SIZE,    0 },
    { NULL,          "n_heads",         AT(n_heads),    MAX_SIZE,    0 },
    { "attn_config", "kv_n_heads",      AT(n_kv_heads), MAX_SIZE,    1 },
    { "ffn_config",  "ffn_hidden_size", AT(d_ffn),      MAX_SIZE,    0 },
    { "ffn_config",  "moe_num_experts", AT(n_experts),  MAX_EXPERTS, 0 },
    { "ffn_config",  "moe_top_k",       AT(top_k),      MAX_EXPERTS, 0 },
    { NULL,          "vocab_size",      AT(n_vocab),    INT32_MAX,   0 },
    { NULL,          "max_seq_len",     AT(max_seq),    MAX_SIZE,    0 },
};
enum { N_SIZE_KEYS = sizeof size_keys / sizeof *size_keys };

/* A float that is positive and finite also as a float.  Absent: *out keeps its value. */
static dbrx_status read_positive(const cJSON *j, const char *object, const char *key,
                                 float *out, struct dbrx_error *err)
{
    const cJSON *v = ckpt_member(j, key);
    if (!v)
        return DBRX_OK;
    float x = cJSON_IsNumber(v) ? (float)v->valuedouble : 0;
    if (!(x > 0) || !isfinite(x))
        return ckpt_fail(err, DBRX_E_INVALID, CONFIG ": %s.%s must be a positive number",
                         object, key);
    *out = x;
    return DBRX_OK;
}

static dbrx_status read_sizes(const cJSON *j, struct dbrx_config *c, struct dbrx_error *err)
{
    for (int i = 0; i < N_SIZE_KEYS; i++) {
        const struct size_key *k = &size_keys[i];
        const cJSON *v = ckpt_member(k->object ? ckpt_member(j, k->object) : j, k->key);
        int64_t x = k->absent;
        if (!v && !k->absent)
            return ckpt_fail(err, DBRX_E_INVALID, CONFIG ": %s%s%s is missing",
                             k->object ? k->object : "", k->object ? "." : "", k->key);
        if (v && !ckpt_whole(v, 1, k->max, &x))
            return ckpt_fail(err, DBRX_E_INVALID, CONFIG ": %s%s%s must be a whole number "
                             "from 1 to %lld", k->object ? k->object : "",
                             k->object ? "." : "", k->key, (long long)k->max);
        uint32_t u = (uint32_t)x;
        memcpy((char *)c + k->at, &u, sizeof u);
    }
    static const struct size_names names = {
        "d_model", "n_heads", "attn_config.kv_n_heads", "ffn_config.moe_top_k", "moe_num_experts",
        "ffn_hidden_size",
    };
    return ckpt_sizes_check(CONFIG, &names, c, err);
}

static dbrx_status read_ffn(const cJSON *ffn, struct dbrx_config *c, struct dbrx_error *err)
{
    /* 1 when nothing is said, but null says: leave the weights as they are */
    const cJSON *p = cJSON_GetObjectItemCaseSensitive(ffn, "moe_normalize_expert_weights");
    c->moe_norm_p = 1;
    if (p) {
        double x = cJSON_IsNull(p) ? 0 : cJSON_IsNumber(p) ? p->valuedouble : -1;
        if (!(x >= 0) || !isfinite((float)x))
            return ckpt_fail(err, DBRX_E_INVALID, CONFIG ": ffn_config.moe_normalize_expert_weights "
                             "must be null or a number that is not negative");
        c->moe_norm_p = (float)x;
    }
    const cJSON *act = ckpt_member(ffn, "ffn_act_fn");
    const cJSON *name = ckpt_member(act, "name");
    c->act_fn = DBRX_SILU;
    if (act && (!cJSON_IsObject(act) || !cJSON_IsString(name)))
        return ckpt_fail(err, DBRX_E_INVALID, CONFIG ": ffn_config.ffn_act_fn must be an object "
                         "with a \"name\"");
    if (!act || !strcmp(name->valuestring, "silu"))
        return DBRX_OK;
    if (strcmp(name->valuestring, "gelu"))
        return ckpt_fail(err, DBRX_E_UNSUPPORTED, CONFIG ": ffn_config.ffn_act_fn \"%s\" is not "
                         "supported; silu and gelu are", SHOW(name->valuestring));
    if (act->child->next)                  /* gelu's own options, as approximate=tanh */
        return ckpt_fail(err, DBRX_E_UNSUPPORTED, CONFIG ": ffn_config.ffn_act_fn has options "
                         "beside \"name\", which are not supported");
    c->act_fn = DBRX_GELU;
    return DBRX_OK;
}

/* rope_theta lives in attn_config; later Hugging Face dumps keep it in rope_parameters. */
static dbrx_status read_rope(const cJSON *j, const cJSON *attn, struct dbrx_config *c,
                             struct dbrx_error *err)
{
    static const char *const other[] = { "rope_parameters", "rope_scaling" };
    c->rope_theta = 10000;
    for (int i = 0; i < 4; i++) {
        const cJSON *r = ckpt_member(i < 2 ? j : attn, other[i % 2]);
        const cJSON *type = ckpt_member(r, "rope_type");
        if (r && (!cJSON_IsObject(r) || (r->child && !type) ||
                  (type && (!cJSON_IsString(type) || strcmp(type->valuestring, "default")))))
            return ckpt_fail(err, DBRX_E_UNSUPPORTED, CONFIG ": %s other than rope_type "
                             "\"default\" is not supported", other[i % 2]);
        dbrx_status st = read_positive(r, other[i % 2], "rope_theta", &c->rope_theta, err);
        if (st != DBRX_OK)
            return st;
    }
    return read_positive(attn, "attn_config", "rope_theta", &c->rope_theta, err);
}

static dbrx_status read_config(const cJSON *j, struct dbrx_config *c, struct dbrx_error *err)
{
    const cJSON *type = ckpt_member(j, "model_type");
    if (!cJSON_IsString(type))
        return ckpt_fail(err, DBRX_E_INVALID, CONFIG ": model_type is missing, so this may not "
                         "be a DBRX checkpoint");
    if (strcmp(type->valuestring, "dbrx"))
        return ckpt_fail(err, DBRX_E_UNSUPPORTED, CONFIG ": this is a \"%s\" model, not dbrx",
                         SHOW(type->valuestring));
    static const char *const nested[] = { "attn_config", "ffn_config" };
    for (int i = 0; i < 2; i++)
        if (ckpt_member(j, nested[i]) && !cJSON_IsObject(ckpt_member(j, nested[i])))
            return ckpt_fail(err, DBRX_E_INVALID, CONFIG ": %s must be an object", nested[i]);
    if (ckpt_member(j, "quantization_config"))
        return ckpt_fail(err, DBRX_E_UNSUPPORTED, CONFIG ": quantization_config is not supported; "
                         "weights must be BF16, F16 or F32");
    const cJSON *tied = ckpt_member(j, "tie_word_embeddings");
    if (tied && !cJSON_IsFalse(tied))
        return ckpt_fail(err, DBRX_E_UNSUPPORTED, CONFIG ": tie_word_embeddings is not supported: "
                         "DBRX has an lm_head of its own");

    const cJSON *attn = ckpt_member(j, "attn_config");
    *c = (struct dbrx_config){ .struct_size = sizeof *c, .ln_eps = 1e-5f };
    dbrx_status st = read_sizes(j, c, err);
    if (st == DBRX_OK)
        st = read_rope(j, attn, c, err);
    if (st == DBRX_OK)                     /* an explicit 0 would silence attention: refused */
        st = read_positive(attn, "attn_config", "clip_qkv", &c->clip_qkv, err);
    if (st == DBRX_OK)
        st = read_ffn(ckpt_member(j, "ffn_config"), c, err);
    return st;
}

/* eos_token_id: a number, a list of them, or nothing. */
static dbrx_status read_eos(const char *file, const cJSON *v, uint32_t n_vocab,
                            int32_t eos[CKPT_MAX_EOS], uint32_t *n_eos, struct dbrx_error *err)
{
    *n_eos = 0;
    if (!v)
        return DBRX_OK;
    for (const cJSON *i = cJSON_IsArray(v) ? v->child : v; i;
         i = cJSON_IsArray(v) ? i->next : NULL) {
        int64_t id;
        uint32_t k = 0;
        if (!ckpt_whole(i, 0, (int64_t)n_vocab - 1, &id))
            return ckpt_fail(err, DBRX_E_INVALID, "%s: eos_token_id must be a token id below "
                             "vocab_size %u, or a list of them", file, n_vocab);
        while (k < *n_eos && eos[k] != (int32_t)id)
            k++;
        if (k == CKPT_MAX_EOS)
            return ckpt_fail(err, DBRX_E_UNSUPPORTED, "%s: more than %d eos_token_id", file,
                             CKPT_MAX_EOS);
        if (k == *n_eos)
            eos[(*n_eos)++] = (int32_t)id;
    }
    return DBRX_OK;
}

dbrx_status ckpt_config_read(int dir, struct dbrx_config *c, int32_t eos[CKPT_MAX_EOS],
                        uint32_t *n_eos, struct dbrx_error *err)
{
    cJSON *j = NULL, *g = NULL;
    dbrx_status st = ckpt_json_load(dir, CONFIG, 0, &j, err);
    if (st == DBRX_OK)
        st = read_config(j, c, err);
    if (st == DBRX_OK)
        st = ckpt_json_load(dir, GENERATION, 1, &g, err);
    if (st == DBRX_OK) {
        const cJSON *e = ckpt_member(g, "eos_token_id");
        st = read_eos(e ? GENERATION : CONFIG, e ? e : ckpt_member(j, "eos_token_id"), c->n_vocab,
                      eos, n_eos, err);
    }
    cJSON_Delete(j);
    cJSON_Delete(g);
    return st;
}
