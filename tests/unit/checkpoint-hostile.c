/* tests/unit/checkpoint-hostile.c -- checkpoints that are wrong: each is
 * refused with one harmless sentence that names what is wrong; random damage
 * never crashes the reader. */
#define _GNU_SOURCE
#include "backends/model/checkpoint.h"
#include "tests/tap.h"
#include "tests/unit/model_files.h"

#include <errno.h>
#include <sys/resource.h>

#define CONFIG "config.json"
#define GEN    "generation_config.json"
#define FILE1  "model.safetensors"
#define INDEX  "model.safetensors.index.json"
#define SHARD1 "model-00001-of-00002.safetensors"
#define SHARD2 "model-00002-of-00002.safetensors"
#define WTE    "transformer.wte.weight"
#define NORM1  "transformer.blocks.0.norm_attn_norm.norm_1.weight"
#define NORMF  "transformer.norm_f.weight"
#define W2     "transformer.blocks.0.ffn.experts.mlp.w2"
#define WTE_AT "\"" WTE "\":{\"dtype\":\"BF16\",\"shape\":[16,8],\"data_offsets\":[0,256]}"
#define D100   "[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[["
#define D1000  D100 D100 D100 D100 D100 D100 D100 D100 D100 D100

/* A tiny checkpoint (1 layer, d_model 8; see mf_tiny) with one piece of text replaced.
 * The header length follows; the data stays. */
struct variant {
    const char *what;
    int         sharded;
    const char *file, *find, *with;        /* find NULL: `with` is the whole file's text;
                                              both NULL: the file is not there */
    const char *say1, *say2;               /* both must be in the message */
};

static const struct variant variants[] = {
    /* --- config.json */
    { "no config", 0, CONFIG, NULL, NULL, CONFIG, "no" },
    { "config not JSON", 0, CONFIG, NULL, "hello", CONFIG, "JSON" },
    { "config empty", 0, CONFIG, NULL, "", CONFIG, "JSON" },
    { "config an array", 0, CONFIG, NULL, "[]", CONFIG, "object" },
    { "config with a tail", 0, CONFIG, NULL, "{} {}", CONFIG, "JSON" },
    { "config too deep", 0, CONFIG, NULL, "{\"a\":" D1000, CONFIG, "JSON" },
    { "config key twice", 0, CONFIG, "\"n_heads\"", "\"d_model\":8,\"n_heads\"", "d_model", "twice" },
    { "nested key twice", 0, CONFIG, "\"moe_top_k\"", "\"moe_top_k\":1,\"moe_top_k\"", "moe_top_k", "twice" },
    { "another model", 0, CONFIG, "\"dbrx\"", "\"llama\"", CONFIG, "llama" },
    { "model with a hostile name", 0, CONFIG, "\"dbrx\"", "\"a\\u001b[31m\xff\\nb\"", CONFIG, "a?[31m??b" },
    { "model with a long name", 0, CONFIG, "\"dbrx\"", "\"" D100 D100 D100 "\"", CONFIG, "\xe2\x80\xa6" },
    { "no model_type", 0, CONFIG, "model_type", "model", CONFIG, "model_type" },
    { "model_type a number", 0, CONFIG, "\"dbrx\"", "3", CONFIG, "model_type" },
    { "tied embeddings", 0, CONFIG, "\"tie_word_embeddings\":false", "\"tie_word_embeddings\":true", CONFIG, "tie_word_embeddings" },
    { "quantised", 0, CONFIG, "\"eos_token_id\"", "\"quantization_config\":{},\"eos_token_id\"", CONFIG, "quantization_config" },
    { "d_model missing", 0, CONFIG, "\"d_model\":8,", "", CONFIG, "d_model" },
    { "d_model null", 0, CONFIG, "\"d_model\":8", "\"d_model\":null", CONFIG, "d_model" },
    { "d_model a string", 0, CONFIG, "\"d_model\":8", "\"d_model\":\"8\"", CONFIG, "d_model" },
    { "d_model true", 0, CONFIG, "\"d_model\":8", "\"d_model\":true", CONFIG, "d_model" },
    { "d_model a fraction", 0, CONFIG, "\"d_model\":8", "\"d_model\":8.5", CONFIG, "d_model" },
    { "d_model negative", 0, CONFIG, "\"d_model\":8", "\"d_model\":-8", CONFIG, "d_model" },
    { "d_model zero", 0, CONFIG, "\"d_model\":8", "\"d_model\":0", CONFIG, "d_model" },
    { "d_model infinite", 0, CONFIG, "\"d_model\":8", "\"d_model\":1e999", CONFIG, "d_model" },
    { "d_model NaN", 0, CONFIG, "\"d_model\":8", "\"d_model\":NaN", CONFIG, "JSON" },
    { "d_model huge", 0, CONFIG, "\"d_model\":8", "\"d_model\":4294967304", CONFIG, "d_model" },
    { "d_model not n_heads times", 0, CONFIG, "\"n_heads\":2", "\"n_heads\":3", "d_model", "n_heads" },
    { "n_heads zero", 0, CONFIG, "\"n_heads\":2", "\"n_heads\":0", CONFIG, "n_heads" },
    { "head size odd", 0, CONFIG, "\"n_heads\":2", "\"n_heads\":8", CONFIG, "odd" },
    { "n_heads not kv times", 0, CONFIG, "\"kv_n_heads\":1", "\"kv_n_heads\":3", "n_heads", "kv_n_heads" },
    { "kv heads zero", 0, CONFIG, "\"kv_n_heads\":1", "\"kv_n_heads\":0", CONFIG, "attn_config.kv_n_heads" },
    { "kv heads more than heads", 0, CONFIG, "\"kv_n_heads\":1", "\"kv_n_heads\":4", "n_heads", "kv_n_heads" },
    { "no layers", 0, CONFIG, "\"n_layers\":1", "\"n_layers\":0", CONFIG, "n_layers" },
    { "absurdly many layers", 0, CONFIG, "\"n_layers\":1", "\"n_layers\":5000", CONFIG, "n_layers" },
    { "more layers than there are", 0, CONFIG, "\"n_layers\":1", "\"n_layers\":2", "lacks 8 of 19", "blocks.1.norm_attn_norm.norm_1" },
    { "vocabulary too big for ids", 0, CONFIG, "\"vocab_size\":16", "\"vocab_size\":2147483648", CONFIG, "vocab_size" },
    { "vocabulary unlike the embedding", 0, CONFIG, "\"vocab_size\":16", "\"vocab_size\":15", WTE, "[15, 8]" },
    { "context zero", 0, CONFIG, "\"max_seq_len\":32", "\"max_seq_len\":0", CONFIG, "max_seq_len" },
    { "context missing", 0, CONFIG, "\"max_seq_len\":32,", "", CONFIG, "max_seq_len" },
    { "experts missing", 0, CONFIG, "\"moe_num_experts\":4,", "", CONFIG, "moe_num_experts" },
    { "experts beyond 65535", 0, CONFIG, "\"moe_num_experts\":4", "\"moe_num_experts\":65536", CONFIG, "moe_num_experts" },
    { "experts times rows too large", 0, CONFIG, "\"ffn_hidden_size\":6,\"moe_num_experts\":4", "\"ffn_hidden_size\":16000000,\"moe_num_experts\":65535", CONFIG, "too large" },
    { "experts unlike the router", 0, CONFIG, "\"moe_num_experts\":4", "\"moe_num_experts\":5", "router", "[5, 8]" },
    { "top_k zero", 0, CONFIG, "\"moe_top_k\":2", "\"moe_top_k\":0", CONFIG, "moe_top_k" },
    { "top_k missing, generic one there", 0, CONFIG, "\"moe_top_k\":2,", "", CONFIG, "moe_top_k" },
    { "top_k more than experts", 0, CONFIG, "\"moe_top_k\":2", "\"moe_top_k\":5", "moe_top_k 5", "moe_num_experts 4" },
    { "ffn unlike w1", 0, CONFIG, "\"ffn_hidden_size\":6", "\"ffn_hidden_size\":7", "mlp.w1", "[28, 8]" },
    { "attn_config a list", 0, CONFIG, "\"attn_config\":{", "\"attn_config\":[],\"x\":{", CONFIG, "attn_config" },
    { "ffn_config a string", 0, CONFIG, "\"ffn_config\":{", "\"ffn_config\":\"\",\"x\":{", CONFIG, "ffn_config" },
    { "no ffn_config", 0, CONFIG, "\"ffn_config\":{", "\"x\":{", CONFIG, "ffn_hidden_size" },
    { "rope_theta zero", 0, CONFIG, "\"rope_theta\":500000", "\"rope_theta\":0", CONFIG, "rope_theta" },
    { "rope_theta negative", 0, CONFIG, "\"rope_theta\":500000", "\"rope_theta\":-1", CONFIG, "rope_theta" },
    { "rope_theta beyond float", 0, CONFIG, "\"rope_theta\":500000", "\"rope_theta\":1e300", CONFIG, "rope_theta" },
    { "rope_theta below float", 0, CONFIG, "\"rope_theta\":500000", "\"rope_theta\":1e-300", CONFIG, "rope_theta" },
    { "rope_theta a string", 0, CONFIG, "\"rope_theta\":500000", "\"rope_theta\":\"5e5\"", CONFIG, "rope_theta" },
    { "rope scaled", 0, CONFIG, "\"rope_theta\"", "\"rope_scaling\":{\"rope_type\":\"yarn\"},\"rope_theta\"", CONFIG, "rope_scaling" },
    { "rope scaled, the old way", 0, CONFIG, "\"rope_theta\"", "\"rope_scaling\":{\"type\":\"linear\",\"factor\":2},\"rope_theta\"", CONFIG, "rope_scaling" },
    { "clip negative", 0, CONFIG, "\"clip_qkv\":8", "\"clip_qkv\":-8", CONFIG, "clip_qkv" },
    { "clip zero", 0, CONFIG, "\"clip_qkv\":8", "\"clip_qkv\":0", CONFIG, "clip_qkv" },
    { "clip infinite", 0, CONFIG, "\"clip_qkv\":8", "\"clip_qkv\":1e999", CONFIG, "clip_qkv" },
    { "unknown activation", 0, CONFIG, "\"moe_top_k\"", "\"ffn_act_fn\":{\"name\":\"relu\"},\"moe_top_k\"", "relu", "ffn_act_fn" },
    { "activation a string", 0, CONFIG, "\"moe_top_k\"", "\"ffn_act_fn\":\"silu\",\"moe_top_k\"", CONFIG, "ffn_act_fn" },
    { "gelu by tanh", 0, CONFIG, "\"moe_top_k\"", "\"ffn_act_fn\":{\"name\":\"gelu\",\"approximate\":\"tanh\"},\"moe_top_k\"", CONFIG, "ffn_act_fn" },
    { "norm of weights negative", 0, CONFIG, "\"moe_top_k\"", "\"moe_normalize_expert_weights\":-1,\"moe_top_k\"", CONFIG, "moe_normalize_expert_weights" },
    { "norm of weights a string", 0, CONFIG, "\"moe_top_k\"", "\"moe_normalize_expert_weights\":\"x\",\"moe_top_k\"", CONFIG, "moe_normalize_expert_weights" },
    { "eos beyond the vocabulary", 0, CONFIG, "\"eos_token_id\":3", "\"eos_token_id\":16", CONFIG, "eos_token_id" },
    { "eos a string", 0, CONFIG, "\"eos_token_id\":3", "\"eos_token_id\":\"3\"", CONFIG, "eos_token_id" },
    { "eos list with a fraction", 0, GEN, NULL, "{\"eos_token_id\":[1,2.5]}", GEN, "eos_token_id" },
    { "eos list too long", 0, GEN, NULL, "{\"eos_token_id\":[1,2,3,4,5,6,7,8,9]}", GEN, "more than 8" },
    { "generation config broken", 0, GEN, NULL, "{\"eos_token_id\":", GEN, "JSON" },

    /* --- one safetensors file */
    { "no weights", 0, FILE1, NULL, NULL, FILE1, INDEX },
    { "header not an object", 0, FILE1, NULL, "[]", FILE1, "begin with {" },
    { "header not JSON", 0, FILE1, NULL, "{\"a\"", FILE1, "JSON" },
    { "header too deep", 0, FILE1, NULL, "{\"a\":" D1000, FILE1, "JSON" },
    { "header with a tail", 0, FILE1, "]}}", "]}}{}", FILE1, "JSON" },
    { "header empty", 0, FILE1, NULL, "", FILE1, "begin with {" },
    { "tensor twice", 0, FILE1, "\"" NORMF "\"", "\"" WTE "\"", WTE, "twice" },
    { "dtype twice", 0, FILE1, WTE_AT, "\"" WTE "\":{\"dtype\":\"F16\",\"dtype\":\"BF16\",\"shape\":[16,8],\"data_offsets\":[0,256]}", "dtype", "twice" },
    { "a NUL in a name", 0, FILE1, WTE "\"", WTE "\\u0000\"", FILE1, "NUL" },
    { "metadata not an object", 0, FILE1, "{\"format\":\"pt\"}", "3", FILE1, "__metadata__" },
    { "entry not an object", 0, FILE1, WTE_AT, "\"" WTE "\":7", FILE1, WTE },
    { "entry null", 0, FILE1, WTE_AT, "\"" WTE "\":null", FILE1, WTE },
    { "no dtype", 0, FILE1, "\"dtype\":\"BF16\",\"shape\":[16,8],\"data_offsets\":[0,", "\"shape\":[16,8],\"data_offsets\":[0,", WTE, "dtype" },
    { "no shape", 0, FILE1, "\"shape\":[16,8],\"data_offsets\":[0,", "\"data_offsets\":[0,", WTE, "shape" },
    { "no offsets", 0, FILE1, ",\"data_offsets\":[0,256]", "", WTE, "data_offsets" },
    { "unknown dtype", 0, FILE1, WTE "\":{\"dtype\":\"BF16\"", WTE "\":{\"dtype\":\"F8_E4M3\"", WTE, "F8_E4M3" },
    { "dtype a number", 0, FILE1, WTE "\":{\"dtype\":\"BF16\"", WTE "\":{\"dtype\":16", WTE, "dtype" },
    { "shape negative", 0, FILE1, "[16,8],\"data_offsets\":[0,", "[-16,8],\"data_offsets\":[0,", WTE, "whole numbers" },
    { "shape a fraction", 0, FILE1, "[16,8],\"data_offsets\":[0,", "[16.5,8],\"data_offsets\":[0,", WTE, "shape" },
    { "shape a string", 0, FILE1, "[16,8],\"data_offsets\":[0,", "[\"16\",8],\"data_offsets\":[0,", WTE, "shape" },
    { "shape beyond 2^53", 0, FILE1, "[16,8],\"data_offsets\":[0,", "[9007199254740993,8],\"data_offsets\":[0,", WTE, "shape" },
    { "shape 2^53, as 2^53 + 1 would read", 0, FILE1, "[16,8],\"data_offsets\":[0,", "[9007199254740992,8],\"data_offsets\":[0,", WTE, "whole numbers" },
    { "shape infinite", 0, FILE1, "[16,8],\"data_offsets\":[0,", "[1e999,8],\"data_offsets\":[0,", WTE, "shape" },
    { "shape overflows 64 bits", 0, FILE1, "[16,8],\"data_offsets\":[0,", "[4294967296,4294967296],\"data_offsets\":[0,", WTE, "too large" },
    { "shape wraps to the right size", 0, FILE1, "[16,8],\"data_offsets\":[0,", "[4503599627370496,4096,16,8],\"data_offsets\":[0,", WTE, "too large" },
    { "shape of five", 0, FILE1, "[16,8],\"data_offsets\":[0,", "[16,8,1,1,1],\"data_offsets\":[0,", WTE, "dimensions" },
    { "shape empty", 0, FILE1, "[16,8],\"data_offsets\":[0,", "[],\"data_offsets\":[0,", WTE, "256 bytes" },
    { "shape with a zero", 0, FILE1, "[16,8],\"data_offsets\":[0,", "[16,0],\"data_offsets\":[0,", WTE, "need 0" },
    { "shape flattened", 0, FILE1, "[16,8],\"data_offsets\":[0,", "[128],\"data_offsets\":[0,", WTE, "[128]" },
    { "shape turned round", 0, FILE1, "[24,8]", "[8,24]", "mlp.w1", "[8, 24]" },
    { "offsets one", 0, FILE1, "[0,256]", "[256]", WTE, "data_offsets" },
    { "offsets three", 0, FILE1, "[0,256]", "[0,256,256]", WTE, "data_offsets" },
    { "offsets backwards", 0, FILE1, "[0,256]", "[256,0]", WTE, "data_offsets" },
    { "offsets negative", 0, FILE1, "[0,256]", "[-256,0]", WTE, "data_offsets" },
    { "offsets a fraction", 0, FILE1, "[0,256]", "[0.5,256.5]", WTE, "data_offsets" },
    { "offsets huge", 0, FILE1, "[0,256]", "[18446744073709551360,18446744073709551616]", WTE, "data_offsets" },
    { "bytes unlike shape", 0, FILE1, "[0,256]", "[0,254]", WTE, "254" },
    { "bytes unlike dtype", 0, FILE1, WTE "\":{\"dtype\":\"BF16\"", WTE "\":{\"dtype\":\"F32\"", WTE, "512" },
    { "far beyond the file", 0, FILE1, "[0,256]", "[9007199254740000,9007199254740256]", WTE, "truncated" },
    { "overlap", 0, FILE1, "[256,272]", "[254,270]", NORM1, "overlaps" },
    { "range of another, so a gap", 0, FILE1, "[256,272]", "[656,672]", "Wqkv", "gap of 16" },
    { "two begin at one place", 0, FILE1, "[656,672]", "[528,544]", "out_proj.weight", "overlaps" },
    { "last one early", 0, FILE1, "[1888,1904]", "[1872,1888]", NORMF, "overlaps" },
    { "gap", 0, FILE1, "[256,272]", "[258,274]", NORM1, "gap" },
    { "tensor missing", 0, FILE1, NORMF, "transformer.norm_g.weight", "lacks 1 of 11", NORMF },
    { "tensors missing", 0, FILE1, "blocks.0.ffn", "blocks.7.ffn", "lacks 1 of 11", "router" },
    { "tensor unexpected", 0, FILE1, "\"" WTE "\"", "\"rotary.inv_freq\":{\"dtype\":\"F32\",\"shape\":[0],\"data_offsets\":[0,0]},\"" WTE "\"", FILE1, "rotary.inv_freq" },
    { "empty tensor unexpected", 0, FILE1, "[1904,2160]}", "[1904,2160]},\"step\":{\"dtype\":\"F32\",\"shape\":[0],\"data_offsets\":[2160,2160]}", FILE1, "\"step\"" },
    { "bias", 0, FILE1, "\"" WTE "\"", "\"lm_head.bias\":{\"dtype\":\"BF16\",\"shape\":[0],\"data_offsets\":[0,0]},\"" WTE "\"", "lm_head.bias", "no biases" },
    { "hostile tensor name", 0, FILE1, "\"" WTE "\"", "\"\\u001b]0;x\\u0007\xc3\x28\\u202e" D100 "\":{\"dtype\":\"F64\",\"shape\":[0],\"data_offsets\":[0,0]},\"" WTE "\"", "F64", "?]0;x?" "?(" "?" "?" "?" },
    { "not aligned", 0, FILE1, "\"pt\"", "\"p\"", WTE, "aligned" },

    /* --- shards and index */
    { "index not JSON", 1, INDEX, NULL, "{", INDEX, "JSON" },
    { "index without weight_map", 1, INDEX, "weight_map", "map", INDEX, "weight_map" },
    { "weight_map empty", 1, INDEX, NULL, "{\"weight_map\":{}}", INDEX, "weight_map" },
    { "weight_map a list", 1, INDEX, NULL, "{\"weight_map\":[1]}", INDEX, "weight_map" },
    { "index entry a number", 1, INDEX, "\"" WTE "\":\"" SHARD1 "\"", "\"" WTE "\":1", INDEX, WTE },
    { "index entry empty", 1, INDEX, "\"" WTE "\":\"" SHARD1 "\"", "\"" WTE "\":\"\"", INDEX, WTE },
    { "index key twice", 1, INDEX, "\"" NORM1 "\"", "\"" WTE "\"", WTE, "twice" },
    { "index names an absent file", 1, INDEX, "\"" WTE "\":\"" SHARD1 "\"", "\"" WTE "\":\"absent.safetensors\"", "absent.safetensors", "No such file" },
    { "index climbs out", 1, INDEX, "\"" WTE "\":\"" SHARD1 "\"", "\"" WTE "\":\"../" SHARD1 "\"", WTE, "plain file name" },
    { "index names an absolute path", 1, INDEX, "\"" WTE "\":\"" SHARD1 "\"", "\"" WTE "\":\"/etc/passwd\"", WTE, "/etc/passwd" },
    { "index names ..", 1, INDEX, "\"" WTE "\":\"" SHARD1 "\"", "\"" WTE "\":\"..\"", WTE, "plain file name" },
    { "index names the config", 1, INDEX, "\"" WTE "\":\"" SHARD1 "\"", "\"" WTE "\":\"config.json\"", CONFIG, "safetensors file" },
    { "index says the other shard", 1, INDEX, "\"" WTE "\":\"" SHARD1 "\"", "\"" WTE "\":\"" SHARD2 "\"", WTE, "but is in" },
    { "index lacks a tensor", 1, INDEX, "\"" WTE "\":\"" SHARD1 "\",", "", WTE, INDEX },
    { "index has a tensor too many", 1, INDEX, "\"" WTE "\"", "\"ghost\":\"" SHARD1 "\",\"" WTE "\"", "ghost", INDEX },
    { "shard missing", 1, SHARD2, NULL, NULL, SHARD2, "No such file" },
    { "tensor in two shards", 1, SHARD2, "\"" NORMF "\"", "\"" NORM1 "\"", NORM1, "both" },
    { "second shard broken", 1, SHARD2, "[0,", "[2,", SHARD2, "382 bytes" },
    { "both missing and index", 1, INDEX, NULL, NULL, FILE1, INDEX },
};

static int valid_text(const char *s)       /* one line of UTF-8, no control character */
{
    for (const unsigned char *p = (const unsigned char *)s; *p; p++) {
        if (*p < 0x20 || *p == 0x7f)
            return 0;
        int n = *p < 0x80 ? 0 : *p >> 5 == 6 ? 1 : *p >> 4 == 14 ? 2 : *p >> 3 == 30 ? 3 : -1;
        for (; n > 0; n--)
            if (*++p >> 6 != 2)
                return 0;
        if (n < 0)
            return 0;
    }
    return *s != '\0';
}

static char *dir, *pristine[2];            /* working copy; [sharded]          */

static char *slurp(const char *from, const char *name, size_t *n)
{
    char path[512];
    snprintf(path, sizeof path, "%s/%s", from, name);
    FILE *f = fopen(path, "rb");
    char *buf = malloc(1 << 16);
    *n = f ? fread(buf, 1, (1 << 16) - 1, f) : 0;
    buf[*n] = '\0';
    if (f)
        fclose(f);
    return buf;
}

static void restore(int sharded)
{
    static const char *const names[] = { CONFIG, GEN, FILE1, INDEX, SHARD1, SHARD2 };
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        char path[512];
        size_t n;
        snprintf(path, sizeof path, "%s/%s", dir, names[i]);
        mf_remove(path);
        char *buf = slurp(pristine[sharded], names[i], &n);
        if (n && mf_write(dir, names[i], buf, n))
            bail("cannot write %s", path);
        free(buf);
    }
}

static char *replaced(const char *text, const char *find, const char *with)
{
    const char *at = strstr(text, find);
    char *out = NULL;
    if (!at)
        bail("the variant's \"%s\" is not in the file", find);
    if (asprintf(&out, "%.*s%s%s", (int)(at - text), text, with, at + strlen(find)) < 0)
        bail("out of memory");
    return out;
}

/* Replaces text in a file of `dir`; in a safetensors file, in its header. */
static void mutate(const struct variant *v)
{
    char path[512];
    size_t n, head = 0;
    snprintf(path, sizeof path, "%s/%s", dir, v->file);
    if (!v->find && !v->with) {
        remove(path);
        return;
    }
    char *old = slurp(dir, v->file, &n), *text;
    int st = strstr(v->file, ".safetensors") && !strstr(v->file, ".json");
    if (st) {
        for (int i = 7; i >= 0; i--)
            head = head << 8 | (unsigned char)old[i];
        char *header = strndup(old + 8, head);
        text = v->find ? replaced(header, v->find, v->with) : strdup(v->with);
        if (v->find && strcmp(v->say2, "aligned")) {
            char *padded;                  /* keep the data aligned            */
            if (asprintf(&padded, "%s%.*s", text, (int)(-strlen(text) & 7), "       ") < 0)
                bail("out of memory");
            free(text);
            text = padded;
        }
        size_t len = strlen(text), data = n - 8 - head;
        char *file = malloc(8 + len + data);
        for (int i = 0; i < 8; i++)
            file[i] = (char)(len >> 8 * i);
        memcpy(file + 8, text, len);
        memcpy(file + 8 + len, old + 8 + head, data);
        mf_write(dir, v->file, file, 8 + len + data);
        free(file);
        free(header);
    } else {
        text = v->find ? replaced(old, v->find, v->with) : strdup(v->with);
        mf_write(dir, v->file, text, strlen(text));
    }
    free(text);
    free(old);
}

/* `path` must be refused with both words. */
static void refuses(const char *what, const char *path, const char *say1, const char *say2)
{
    struct ckpt *c = (struct ckpt *)&dir;  /* not NULL: must be cleared        */
    struct dbrx_error err;
    memset(&err, 'x', sizeof err);
    err.text[sizeof err.text - 1] = '\0';
    dbrx_status st = ckpt_open(path, &c, &err);
    int pass = st < 0 && !c && err.code == st && valid_text(err.text) &&
               strstr(err.text, say1) && strstr(err.text, say2);
    ok(pass, "%s", what);
    diag("%s", st < 0 ? err.text : "opened");
    if (!pass)
        diag("wanted: %s ... %s", say1, say2);
    if (st == DBRX_OK)
        ckpt_close(c);
}

static void test_variants(void)
{
    for (size_t i = 0; i < sizeof variants / sizeof *variants; i++) {
        const struct variant *v = &variants[i];
        restore(v->sharded);
        mutate(v);
        refuses(v->what, dir, v->say1, v->say2);
    }
}

/* What is unusual but right. */
static void test_accepted(void)
{
    static const struct variant good[] = {
        { "nothing changed", 0, CONFIG, "dbrx", "dbrx", "", "" },
        { "nothing changed in shards", 1, INDEX, "weight_map", "weight_map", "", "" },
        { "clip null", 0, CONFIG, "\"clip_qkv\":8", "\"clip_qkv\":null", "", "" },
        { "no attn_config", 0, CONFIG, "\"attn_config\":", "\"x\":", "", "" },
        { "whole number as a float", 0, CONFIG, "\"d_model\":8", "\"d_model\":8.0", "", "" },
        { "weights not normalised", 0, CONFIG, "\"moe_top_k\"", "\"moe_normalize_expert_weights\":null,\"moe_top_k\"", "", "" },
        { "gelu", 0, CONFIG, "\"moe_top_k\"", "\"ffn_act_fn\":{\"name\":\"gelu\"},\"moe_top_k\"", "", "" },
        { "no eos anywhere", 0, CONFIG, "\"eos_token_id\":3", "\"eos_token_id\":null", "", "" },
        { "no metadata", 0, FILE1, "\"__metadata__\":{\"format\":\"pt\"},", "          ", "", "" },
        { "rope_parameters", 0, CONFIG, "\"rope_theta\":500000,", "\"rope_parameters\":{\"rope_type\":\"default\",\"rope_theta\":7},", "", "" },
        { "eos list", 0, GEN, NULL, "{\"eos_token_id\":[5,5,6]}", "", "" },
    };
    for (size_t i = 0; i < sizeof good / sizeof *good; i++) {
        struct ckpt *c;
        struct dbrx_error err = { 0 };
        restore(good[i].sharded);
        mutate(&good[i]);
        int opened = ckpt_open(dir, &c, &err) == DBRX_OK;
        if (!ok(opened, "accepted: %s", good[i].what))
            diag("%s", err.text);
        if (!opened)
            continue;
        const struct dbrx_config *g = &c->desc.config;
        if (!strcmp(good[i].what, "clip null"))
            ok(g->clip_qkv == 0, "clip null is no clip");
        if (!strcmp(good[i].what, "no attn_config"))
            ok(g->clip_qkv == 0 && g->rope_theta == 10000 && g->n_kv_heads == 1,
               "the reference's defaults for attention");
        if (!strcmp(good[i].what, "weights not normalised"))
            ok(g->moe_norm_p == 0, "null: weights stay as they are");
        if (!strcmp(good[i].what, "gelu"))
            ok(g->act_fn == DBRX_GELU, "gelu is gelu");
        if (!strcmp(good[i].what, "no eos anywhere"))
            ok(c->n_eos == 0, "no eos is none");
        if (!strcmp(good[i].what, "rope_parameters"))
            ok(g->rope_theta == 7, "rope_parameters gives rope_theta");
        if (!strcmp(good[i].what, "eos list"))
            ok(c->n_eos == 2 && c->eos[0] == 5 && c->eos[1] == 6, "eos once each");
        ckpt_close(c);
    }
}

/* Things in the file system's way. */
static void test_files(void)
{
    char path[512], path2[512];
    struct stat st;

    refuses("no such directory", "/nonexistent/dbrx", "/nonexistent/dbrx", "No such file");
    restore(0);
    snprintf(path, sizeof path, "%s/" CONFIG, dir);
    refuses("a file as the directory", path, CONFIG, "is no GGUF file");
    refuses("an empty path", "", "cannot be opened", "No such file");

    static const char *const names[] = { CONFIG, GEN, FILE1 };
    for (int i = 0; i < 3; i++) {
        restore(0);
        snprintf(path, sizeof path, "%s/%s", dir, names[i]);
        remove(path);
        mkdir(path, 0700);
        refuses("a directory in a file's place", dir, names[i], "directory");
        restore(0);
        remove(path);
        mkfifo(path, 0600);
        refuses("a FIFO in a file's place", dir, names[i], "not a file");
    }
    restore(0);
    snprintf(path, sizeof path, "%s/" FILE1, dir);
    if (geteuid() == 0) {
        skip("root reads everything");
    } else {
        chmod(path, 0);
        refuses("unreadable weights", dir, FILE1, "Permission");
    }

    restore(0);
    stat(path, &st);
    const off_t cuts[] = { 0, 7, 8, 9, 200, st.st_size - 1 };
    for (size_t i = 0; i < sizeof cuts / sizeof *cuts; i++) {
        restore(0);
        if (truncate(path, cuts[i]))
            bail("truncate: %s", strerror(errno));
        char what[64];
        snprintf(what, sizeof what, "cut to %lld bytes", (long long)cuts[i]);
        refuses(what, dir, FILE1, cuts[i] < 8 ? "too short" : "truncated");
    }
    restore(0);
    if (truncate(path, st.st_size + 5))
        bail("truncate: %s", strerror(errno));
    refuses("bytes at the end", dir, FILE1, "5 bytes at the end");
    restore(1);
    snprintf(path, sizeof path, "%s/" SHARD2, dir);
    stat(path, &st);
    if (truncate(path, st.st_size - 10))
        bail("truncate: %s", strerror(errno));
    refuses("a shard cut short", dir, SHARD2, "truncated");

    static const uint64_t lengths[] = { 0, 1, UINT64_C(1) << 32, UINT64_MAX, UINT64_MAX - 7 };
    snprintf(path, sizeof path, "%s/" FILE1, dir);
    for (size_t i = 0; i < sizeof lengths / sizeof *lengths; i++) {
        restore(0);
        FILE *f = fopen(path, "r+b");
        fwrite(&lengths[i], 8, 1, f);      /* little-endian machines only      */
        fclose(f);
        char what[64];
        snprintf(what, sizeof what, "header length %" PRIu64, lengths[i]);
        refuses(what, dir, FILE1, lengths[i] < 2 ? "begin with" : "header has");
    }
    restore(0);
    FILE *f = fopen(path, "r+b");
    uint64_t large = UINT64_C(200) << 20;
    fwrite(&large, 8, 1, f);
    fclose(f);
    if (truncate(path, INT64_C(300) << 20))
        skip("no sparse files here");
    else
        refuses("a header of 200 MiB", dir, FILE1, "larger than");
    restore(0);
    snprintf(path2, sizeof path2, "%s/" CONFIG, dir);
    if (truncate(path2, INT64_C(300) << 20))
        skip("no sparse files here");
    else
        refuses("a config of 300 MiB", dir, CONFIG, "larger than");

    restore(0);
    size_t n;
    char *text = slurp(dir, CONFIG, &n);
    text[n] = '\0';                        /* cJSON would take it for white space */
    mf_write(dir, CONFIG, text, n + 1);
    free(text);
    refuses("a NUL after the config", dir, CONFIG, "NUL");

    struct rlimit old, few;
    getrlimit(RLIMIT_NOFILE, &old);
    few = old;
    few.rlim_cur = 5;                      /* 0 1 2, the directory, one shard  */
    restore(1);
    setrlimit(RLIMIT_NOFILE, &few);
    struct ckpt *c;
    struct dbrx_error err = { 0 };
    dbrx_status rc = ckpt_open(dir, &c, &err);
    setrlimit(RLIMIT_NOFILE, &old);
    ok(rc == DBRX_E_IO && strstr(err.text, "Too many open files"), "out of file descriptors");
    diag("%s", err.text);
    restore(0);
    ok(ckpt_open(dir, &c, NULL) == DBRX_OK, "err may be NULL");
    ckpt_close(c);
    restore(0);
    remove(path);
    ok(ckpt_open(dir, &c, NULL) < 0 && !c, "err may be NULL on failure too");
}

/* ---- random damage ------------------------------------------------------ */

static uint64_t seed = 20240327;
static uint32_t pick(uint32_t n)
{
    seed ^= seed << 13, seed ^= seed >> 7, seed ^= seed << 17;
    return (uint32_t)(seed >> 32) % n;
}

static void touch(const struct dbrx_tensor *t)
{
    const volatile unsigned char *p = t->data;
    if (t->bytes) {
        (void)p[0];
        (void)p[t->bytes - 1];
    }
}

/* Opens; whatever opens must be usable, whatever fails must say why. */
static int opens_or_says(int *opened)
{
    struct ckpt *c;
    struct dbrx_error err = { 0 };
    if (ckpt_open(dir, &c, &err) != DBRX_OK)
        return !c && err.code < 0 && valid_text(err.text);
    ++*opened;
    for (uint32_t i = 0; i < c->desc.config.n_layers; i++) {
        const struct dbrx_layer *l = &c->desc.layer[i];
        const struct dbrx_tensor *all[] = { &l->norm_1, &l->wqkv, &l->wo, &l->norm_2, &l->router,
                                            &l->w1, &l->v1, &l->w2 };
        for (size_t k = 0; k < sizeof all / sizeof *all; k++)
            touch(all[k]);
    }
    touch(&c->desc.embed);
    touch(&c->desc.norm_f);
    touch(&c->desc.lm_head);
    ckpt_close(c);
    return 1;
}

static void test_damage(const char *name, int sharded, int rounds)
{
    static const char likely[] = "{}[]\",:0123456789-+.eE\\u /n\n\x01\xff";
    size_t n;
    int bad = 0, opened = 0;
    restore(sharded);
    char *good = slurp(dir, name, &n), *work = malloc(n);
    size_t text = n;                       /* damage what is parsed, not the weights */
    if (strstr(name, ".safetensors") && !strstr(name, ".json"))
        text = 8 + (size_t)((unsigned char)good[0] | (unsigned char)good[1] << 8);
    for (int i = 0; i < rounds && bad < 5; i++) {
        uint64_t before = seed;
        size_t len = i % 8 == 7 ? pick((uint32_t)n + 1) : n;
        memcpy(work, good, n);
        for (uint32_t k = 1 + pick(3); k > 0; k--) {
            size_t at = pick((uint32_t)text);
            if (pick(2))
                work[at] = likely[pick(sizeof likely - 1)];
            else
                work[at] = (char)(work[at] ^ 1 << pick(8));
        }
        mf_write(dir, name, work, len);
        if (!opens_or_says(&opened) && ++bad)
            diag("seed %" PRIu64, before);
    }
    ok(!bad, "%d damaged copies of %s", rounds, name);
    diag("%d of them open", opened);
    free(good);
    free(work);
}

int main(void)
{
    dir = mf_tmpdir();
    for (int i = 0; i < 2; i++) {
        pristine[i] = mf_tmpdir();
        if (!dir || !pristine[i] || mf_write_tiny(pristine[i], &mf_tiny, "BF16", i ? 1200 : 0))
            bail("cannot write checkpoints");
    }
    test_accepted();
    test_variants();
    test_files();
    test_damage(FILE1, 0, 4000);
    test_damage(CONFIG, 0, 2000);
    test_damage(INDEX, 1, 2000);
    test_damage(SHARD2, 1, 2000);
    mf_remove(dir);
    mf_remove(pristine[0]);
    mf_remove(pristine[1]);
    free(dir);
    free(pristine[0]);
    free(pristine[1]);
    return done();
}
