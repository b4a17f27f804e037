/* repl/load.c -- reads a session file that may come from anywhere: the checksum over all of
 * it first, then every field.  See save.h and docs/session-file.md. */
#define _GNU_SOURCE
#include "repl/save.h"

#include "plugins/fail.h"
#include "repl/atomic.h"

#include <cjson/cJSON.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { MAX_JSON = 1 << 28 };

/* What is being read, and where to say what is wrong with it */
struct reading { struct saved *s; uint32_t n_vocab; char *err; size_t size; };

__attribute__((format(printf, 2, 3)))
static int bad(struct reading *r, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(r->err, r->size, fmt, ap);
    va_end(ap);
    return -1;
}

/* ---- fields ---- */

static const cJSON *get(const cJSON *j, const char *key)
{
    return cJSON_GetObjectItemCaseSensitive(j, key);
}

/* A whole number 0..max */
static int whole(const cJSON *j, const char *key, uint64_t max, uint64_t *out)
{
    const cJSON *v = get(j, key);
    if (!cJSON_IsNumber(v) || !(v->valuedouble >= 0 && v->valuedouble <= (double)max) ||
        v->valuedouble != (double)(uint64_t)v->valuedouble)
        return -1;
    *out = (uint64_t)v->valuedouble;
    return 0;
}

static int number32(const cJSON *j, const char *key, uint32_t max, uint32_t *out)
{
    uint64_t n;
    if (whole(j, key, max, &n))
        return -1;
    *out = (uint32_t)n;
    return 0;
}

static int flag(const cJSON *j, const char *key, uint8_t *out)
{
    const cJSON *v = get(j, key);
    *out = cJSON_IsTrue(v) != 0;
    return cJSON_IsBool(v) ? 0 : -1;
}

static int state(const cJSON *j, uint64_t *out)
{
    const char *hex = cJSON_GetStringValue(get(j, "state"));
    if (!hex || strlen(hex) != 16 || hex[strspn(hex, "0123456789abcdef")])
        return -1;
    *out = strtoull(hex, NULL, 16);
    return 0;
}

static char *text(const cJSON *j, const char *key)
{
    const char *s = cJSON_GetStringValue(get(j, key));
    return strdup(s ? s : "");
}

static const uint64_t max_seed = 9007199254740991;

/* ---- branches ---- */

/* Which backends made the turn's tokens; what is wrong, or NULL */
static const char *read_makers(const cJSON *list, struct turn *t)
{
    const cJSON *one;
    cJSON_ArrayForEach(one, list) {
        const char *name = cJSON_GetStringValue(get(one, "backend"));
        uint32_t from, end, after = t->by.n ? t->by.list[t->by.n - 1].end : t->reply;
        if (number32(one, "from", t->end, &from) || number32(one, "end", t->end, &end) || !name ||
            from < after || end <= from)
            return "who made it";
        if (spans_add(&t->by, from, end, name))
            return "out of memory";
    }
    return NULL;
}

/* One turn of b, behind those it has; what is wrong, or NULL */
static const char *read_turn(const cJSON *j, struct branch *b)
{
    struct turn t = { 0 };
    const char *finish = cJSON_GetStringValue(get(j, "finish"));
    const cJSON *settings = get(j, "settings");
    uint32_t after = b->n_turns ? b->turn[b->n_turns - 1].end : 0;
    int k = 0;
    if (number32(j, "begin", b->n, &t.begin) || number32(j, "reply", b->n, &t.reply) ||
        number32(j, "end", b->n, &t.end))
        return "positions";
    if (t.begin != after || t.reply < t.begin || t.end < t.reply || t.end == t.begin)
        return "turns that do not follow each other";
    while (k < SESS_N_FINISH && finish && strcmp(finish, sess_finish_name((enum sess_finish)k)))
        k++;
    if (!finish || k == SESS_N_FINISH)
        return "finish";
    t.finish = (enum sess_finish)k;
    if (whole(j, "seed", max_seed, &t.seed) || state(j, &t.state))
        return "seed";
    if (flag(j, "chat", &t.chat) || flag(j, "moved", &t.moved))
        return "flags";
    if (settings) {
        const cJSON *v;
        if (!cJSON_IsObject(settings))
            return "settings";
        cJSON_ArrayForEach(v, settings)
            if (!cJSON_IsString(v))
                return "settings";
        if (!(t.settings = cJSON_PrintUnformatted(settings)))
            return "out of memory";
    }
    const char *wrong = read_makers(get(j, "by"), &t);
    b->turn[b->n_turns++] = t;
    return wrong;
}

static int read_branch(struct reading *r, const cJSON *j, uint64_t *left)
{
    struct saved *s = r->s;
    const char *name = cJSON_GetStringValue(get(j, "name")), *from = cJSON_GetStringValue(get(j, "from"));
    const cJSON *turns = get(j, "turns"), *t;
    if (!name || !branch_name_ok(name) || (get(j, "from") && (!from || !branch_name_ok(from))))
        return bad(r, "a branch has no proper name");
    for (uint32_t i = 0; i < s->n; i++)
        if (!strcmp(s->branch[i]->name, name))
            return bad(r, "two branches are called \"%s\"", name);
    struct branch *b = calloc(1, sizeof *b);
    if (!b)
        return bad(r, "out of memory");
    s->branch[s->n++] = b;
    uint64_t most = *left < UINT32_MAX ? *left : UINT32_MAX;
    if (whole(j, "seed", max_seed, &b->seed) || state(j, &b->state) || flag(j, "automatic", &b->automatic) ||
        number32(j, "tokens", (uint32_t)most, &b->n))
        return bad(r, "branch \"%s\" has fields that make no sense", name);
    *left -= b->n;
    size_t n_turns = cJSON_IsArray(turns) ? (size_t)cJSON_GetArraySize(turns) : 0;
    if (!cJSON_IsArray(turns) || n_turns > b->n)
        return bad(r, "branch \"%s\" has no proper turns", name);
    b->name = strdup(name);
    b->from = from ? strdup(from) : NULL;
    b->token = malloc((b->n + (size_t)1) * sizeof *b->token);
    b->turn = calloc(n_turns + 1, sizeof *b->turn);
    b->cap_turns = (uint32_t)n_turns;
    if (!b->name || (from && !b->from) || !b->token || !b->turn)
        return bad(r, "out of memory");
    cJSON_ArrayForEach(t, turns) {
        const char *what = read_turn(t, b);
        if (what)
            return bad(r, "turn %u of branch \"%s\" makes no sense: %s", b->n_turns + 1, name, what);
    }
    if ((b->n_turns ? b->turn[b->n_turns - 1].end : 0) != b->n)
        return bad(r, "the turns of branch \"%s\" are not as long as its tokens", name);
    return 0;
}

static int read_branches(struct reading *r, const cJSON *j, uint64_t tokens)
{
    struct saved *s = r->s;
    const cJSON *list = get(j, "branches"), *one;
    int n = cJSON_IsArray(list) ? cJSON_GetArraySize(list) : 0;
    if (n < 1 || n > 2 * TREE_MAX + 1)
        return bad(r, "it has %d branches instead of 1 to %d", n, 2 * TREE_MAX + 1);
    if (!(s->branch = calloc((size_t)n, sizeof *s->branch)))
        return bad(r, "out of memory");
    cJSON_ArrayForEach(one, list)
        if (read_branch(r, one, &tokens))
            return -1;
    if (tokens)
        return bad(r, "it has tokens that belong to no branch");
    return number32(j, "current", s->n - 1, &s->now) ? bad(r, "it does not say which branch is current") : 0;
}

static int read_tokens(struct reading *r)
{
    for (uint32_t i = 0; i < r->s->n; i++) {
        struct branch *b = r->s->branch[i];
        if (fread(b->token, sizeof *b->token, b->n, r->s->f) != b->n)
            return bad(r, "it ended early");
        for (uint32_t k = 0; k < b->n; k++)
            if (b->token[k] < 0 || (uint32_t)b->token[k] >= r->n_vocab)
                return bad(r, "token id %d of branch \"%s\" is outside this vocabulary (0 to %u)", b->token[k],
                           b->name, r->n_vocab - 1);
    }
    return 0;
}

/* ---- the rest ---- */

static int read_settings(struct reading *r, const cJSON *j, const struct vars *here)
{
    const cJSON *list = get(j, "settings"), *v;
    char why[200];
    if (!cJSON_IsObject(list))
        return bad(r, "it has no settings");
    if (vars_copy(&r->s->vars, here))
        return bad(r, "out of memory");
    for (int i = 0; i < N_VARS; i++)       /* what the file does not name was the default */
        if (i != VAR_THREADS && vars_set(&r->s->vars, i, "default", FROM_DEFAULT, why, sizeof why))
            return bad(r, "%s", why);
    cJSON_ArrayForEach(v, list) {
        int var = var_find(v->string, 0);
        if (!cJSON_IsString(v))
            return bad(r, "its setting \"%.40s\" is no text", v->string);
        if (var >= 0 && var != VAR_THREADS && vars_set(&r->s->vars, var, v->valuestring, FROM_SESSION, why, sizeof why))
            return bad(r, "%s", why);      /* one that is not known here says nothing here */
    }
    return 0;
}

static int read_kv_head(struct reading *r, const cJSON *j)
{
    struct saved *s = r->s;
    const struct dbrx_config *c = s->config;
    const cJSON *kv = get(j, "kv");
    uint32_t n, layers, heads, dim;
    if (!kv)
        return s->left ? bad(r, "it has bytes that belong to nothing") : 0;
    if (number32(kv, "positions", s->branch[s->now]->n, &n) || number32(kv, "layers", UINT32_MAX, &layers) ||
        number32(kv, "kv_heads", UINT32_MAX, &heads) || number32(kv, "head_dim", UINT32_MAX, &dim))
        return bad(r, "what it says of its KV cache makes no sense");
    if (!s->same)
        return 0;                          /* --tokens-only: another model's is of no use */
    if (layers != c->n_layers || heads != c->n_kv_heads || dim != c->d_model / c->n_heads)
        return bad(r, "its KV cache is of another shape than this model's");
    s->n_kv = n;
    s->covered = calloc(layers, sizeof *s->covered);
    s->block = malloc((size_t)SAVE_KV_STEP * heads * dim * 2 * 4);
    return s->covered && s->block ? 0 : bad(r, "out of memory");
}

static int check_fingerprint(struct reading *r, const cJSON *j, const uint8_t *mine, const char *name, int tokens_only)
{
    const char *hex = cJSON_GetStringValue(get(j, "fingerprint"));
    char want[65];
    for (int i = 0; i < 32; i++)
        snprintf(want + 2 * i, 3, "%02x", mine[i]);
    if (!hex || strlen(hex) != 64)
        return bad(r, "it does not say which checkpoint it is from");
    r->s->same = !strcmp(hex, want);
    return r->s->same || tokens_only ? 0
         : bad(r, "it was made with %s (%.60s); --tokens-only takes its tokens all the same",
               strcmp(r->s->model, name) ? "another checkpoint" : "another version of the checkpoint of this name", r->s->model);
}

dbrx_status save_next_kv(void *ctx, struct dbrx_kv_block *b, struct dbrx_error *err)
{
    struct saved *s = ctx;
    const struct dbrx_config *c = s->config;
    uint32_t head[SAVE_KV_HEAD / 4];
    if (!s->left) {
        for (uint32_t l = 0; l < c->n_layers; l++)
            if (s->covered[l] != s->n_kv)
                return fail(err, DBRX_E_INVALID, "the KV cache in the file has gaps");
        return DBRX_STOPPED;
    }
    if (s->left < sizeof head || fread(head, sizeof head, 1, s->f) != 1)
        return fail(err, DBRX_E_INVALID, "the KV cache in the file is cut off");
    uint32_t layer = head[0], pos = head[1], n = head[2], dtype = head[3];
    if (layer >= c->n_layers || pos != s->covered[layer] || !n || n > SAVE_KV_STEP || n > s->n_kv - pos ||
        (dtype != DBRX_F32 && dtype != DBRX_F16 && dtype != DBRX_BF16))
        return fail(err, DBRX_E_INVALID, "the KV cache in the file makes no sense");
    size_t bytes = (size_t)n * c->n_kv_heads * (c->d_model / c->n_heads) * (dtype == DBRX_F32 ? 4 : 2);
    s->left -= sizeof head;
    if (s->left < 2 * bytes || fread(s->block, 1, 2 * bytes, s->f) != 2 * bytes)
        return fail(err, DBRX_E_INVALID, "the KV cache in the file is cut off");
    s->left -= 2 * bytes;
    s->covered[layer] += n;
    *b = (struct dbrx_kv_block){ .struct_size = sizeof *b, .layer = layer, .pos = pos, .n = n, .dtype = dtype,
                                 .k = s->block, .v = s->block + bytes };
    return DBRX_OK;
}

/* The checksum of all but the last four bytes is in those; leaves the file after the head */
static int check_sum(struct reading *r, uint64_t size, char *head)
{
    static char buf[1 << 16];
    FILE *f = r->s->f;
    uint32_t crc = 0, want;
    for (uint64_t left = size - SAVE_TAIL, n; left; left -= n) {
        n = left < sizeof buf ? left : sizeof buf;
        if (fread(buf, 1, n, f) != n)
            return bad(r, "it cannot be read: %s", ferror(f) ? strerror(errno) : "it ended early");
        crc = crc32c(crc, buf, n);
    }
    if (fread(&want, sizeof want, 1, f) != 1 || crc != want)
        return bad(r, "it is damaged: its checksum is wrong");
    rewind(f);
    return fread(head, SAVE_HEAD, 1, f) == 1 ? 0 : bad(r, "it ended early");
}

static cJSON *read_json(struct reading *r, uint64_t file_size, uint64_t *tokens)
{
    char head[SAVE_HEAD], *buf = NULL;
    uint32_t version, zero;
    uint64_t len;
    cJSON *j = NULL;
    if (file_size < SAVE_HEAD + SAVE_TAIL || fread(head, 8, 1, r->s->f) != 1 || memcmp(head, SAVE_MAGIC, 8)) {
        bad(r, "it is no saved session");
        return NULL;
    }
    rewind(r->s->f);
    if (check_sum(r, file_size, head))
        return NULL;
    memcpy(&version, head + 8, 4);
    memcpy(&zero, head + 12, 4);
    memcpy(&len, head + 16, 8);
    memcpy(tokens, head + 24, 8);
    uint64_t room = file_size - SAVE_HEAD - SAVE_TAIL;
    if (version != SAVE_VERSION || zero)
        bad(r, "its version is %u, and this program reads %d", version, SAVE_VERSION);
    else if (len > room || len > MAX_JSON || *tokens > (room - len) / 4)
        bad(r, "its parts are longer than it is");
    else if (!(buf = malloc(len + 1)))
        bad(r, "out of memory");
    else if (fread(buf, 1, len, r->s->f) != len)
        bad(r, "it ended early");
    else if (!(j = cJSON_ParseWithLength(buf, len)) || !cJSON_IsObject(j))
        bad(r, "its description is no JSON object");
    r->s->left = room - len - 4 * *tokens;
    free(buf);
    if (j && !cJSON_IsObject(j)) {
        cJSON_Delete(j);
        j = NULL;
    }
    return j;
}

int save_read(const char *path, const struct dbrx_model_desc *desc, const char *name, uint32_t max_pos, const struct vars *here,
              int tokens_only, struct saved *s, char *err, size_t size)
{
    char why[300] = "";
    struct reading r = { s, desc->config.n_vocab, why, sizeof why };
    struct stat st;
    uint64_t tokens = 0;
    cJSON *j = NULL;
    int failed = -1;
    *s = (struct saved){ .config = &desc->config };
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0 || fstat(fd, &st)) {
        bad(&r, "it cannot be opened: %s", strerror(errno));
    } else if (!S_ISREG(st.st_mode)) {
        bad(&r, "it is no regular file");
    } else if (!(s->f = fdopen(fd, "rb"))) {
        bad(&r, "out of memory");
    } else if ((fd = -1), (j = read_json(&r, (uint64_t)st.st_size, &tokens))) {
        s->model = text(j, "model");
        s->backend = text(j, "backend");
        s->steering = text(j, "steering");
        failed = !s->model || !s->backend || !s->steering ? bad(&r, "out of memory")
               : check_fingerprint(&r, j, desc->fingerprint, name, tokens_only) || read_branches(&r, j, tokens) ||
                 read_tokens(&r) || read_settings(&r, j, here) || read_kv_head(&r, j) ? -1 : 0;
        if (!failed && s->branch[s->now]->n > max_pos)
            failed = bad(&r, "its conversation has %u tokens, and the context here has %u; start dbrx with "
                         "--ctx %u or more", s->branch[s->now]->n, max_pos, s->branch[s->now]->n);
    }
    if (fd >= 0)
        close(fd);
    cJSON_Delete(j);
    if (failed) {
        snprintf(err, size, "%s was not loaded: %s", path, why);
        saved_free(s);
    }
    return failed;
}

void saved_free(struct saved *s)
{
    for (uint32_t i = 0; i < s->n; i++)
        branch_free(s->branch[i]);
    free(s->branch);
    free(s->model);
    free(s->backend);
    free(s->steering);
    free(s->covered);
    free(s->block);
    vars_free(&s->vars);
    if (s->f)
        fclose(s->f);
    *s = (struct saved){ 0 };
}
