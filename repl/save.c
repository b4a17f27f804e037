/* repl/save.c -- writes a session to a file; load.c reads it.  See save.h. */
#include "config.h"

#include "repl/save.h"

#include "plugins/fail.h"
#include "repl/atomic.h"

#include <cjson/cJSON.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* What is set on this machine rather than for this conversation stays out of the file */
static int is_saved(int var)
{
    return var != VAR_THREADS;
}

static void add_state(cJSON *to, uint64_t state)
{
    char hex[17];
    snprintf(hex, sizeof hex, "%016" PRIx64, state);
    cJSON_AddStringToObject(to, "state", hex);
}

static cJSON *turn_json(const struct turn *t)
{
    cJSON *j = cJSON_CreateObject();
    cJSON_AddNumberToObject(j, "begin", t->begin);
    cJSON_AddNumberToObject(j, "reply", t->reply);
    cJSON_AddNumberToObject(j, "end", t->end);
    cJSON_AddStringToObject(j, "finish", sess_finish_name(t->finish));
    cJSON_AddNumberToObject(j, "seed", (double)t->seed);
    add_state(j, t->state);
    cJSON_AddBoolToObject(j, "chat", t->chat);
    cJSON_AddBoolToObject(j, "moved", t->moved);
    cJSON *by = t->by.n ? cJSON_AddArrayToObject(j, "by") : NULL;
    for (uint32_t i = 0; i < t->by.n; i++) {
        cJSON *one = cJSON_CreateObject();
        cJSON_AddItemToArray(by, one);
        cJSON_AddNumberToObject(one, "from", t->by.list[i].from);
        cJSON_AddNumberToObject(one, "end", t->by.list[i].end);
        cJSON_AddStringToObject(one, "backend", t->by.list[i].name);
    }
    if (t->settings)
        cJSON_AddRawToObject(j, "settings", t->settings);
    return j;
}

static cJSON *branch_json(const struct tree *tree, const struct branch *b)
{
    int now = b == tree->now;
    uint32_t n;
    cJSON *j = cJSON_CreateObject();
    branch_tokens(tree, b, &n);
    cJSON_AddStringToObject(j, "name", b->name);
    if (b->from)
        cJSON_AddStringToObject(j, "from", b->from);
    cJSON_AddBoolToObject(j, "automatic", b->automatic);
    cJSON_AddNumberToObject(j, "tokens", n);
    cJSON_AddNumberToObject(j, "seed", (double)(now ? tree->seed : b->seed));
    add_state(j, now ? sampler_state(tree->sess->sampler) : b->state);
    cJSON *turns = cJSON_AddArrayToObject(j, "turns");
    for (uint32_t i = 0; i < b->n_turns; i++)
        cJSON_AddItemToArray(turns, turn_json(&b->turn[i]));
    return j;
}

static char *describe(const struct save_source *s)
{
    const struct dbrx_config *c = &s->desc->config;
    const struct tree *t = s->tree;
    char hex[65];
    for (int i = 0; i < 32; i++)
        snprintf(hex + 2 * i, 3, "%02x", s->desc->fingerprint[i]);
    cJSON *j = cJSON_CreateObject();
    cJSON_AddStringToObject(j, "program", "dbrx " PACKAGE_VERSION);
    cJSON_AddStringToObject(j, "model", s->model);
    cJSON_AddStringToObject(j, "backend", s->backend ? s->backend : "");
    cJSON_AddStringToObject(j, "fingerprint", hex);
    cJSON *settings = cJSON_AddObjectToObject(j, "settings");
    for (int i = 0; i < N_VARS; i++)
        if (is_saved(i) && s->vars->v[i].origin != FROM_DEFAULT)
            cJSON_AddStringToObject(settings, var_defs[i].name, s->vars->v[i].text);
    if (s->steering && *s->steering)
        cJSON_AddStringToObject(j, "steering", s->steering);
    cJSON *list = cJSON_AddArrayToObject(j, "branches");
    for (uint32_t i = 0; i < t->n; i++) {
        cJSON_AddItemToArray(list, branch_json(t, t->branch[i]));
        if (t->branch[i] == t->now)
            cJSON_AddNumberToObject(j, "current", i);
    }
    if (s->kv) {
        cJSON *kv = cJSON_AddObjectToObject(j, "kv");
        cJSON_AddNumberToObject(kv, "positions", t->sess->n);
        cJSON_AddNumberToObject(kv, "layers", c->n_layers);
        cJSON_AddNumberToObject(kv, "kv_heads", c->n_kv_heads);
        cJSON_AddNumberToObject(kv, "head_dim", c->d_model / c->n_heads);
    }
    char *text = cJSON_PrintUnformatted(j);
    cJSON_Delete(j);
    return text;
}

/* big-endian machines are refused by configure: numbers go out as they are */
struct sink { struct atomic *f; size_t row; struct dbrx_error *err; };

static dbrx_status write_block(void *ctx, const struct dbrx_kv_block *b)
{
    const struct sink *s = ctx;
    const uint32_t head[SAVE_KV_HEAD / 4] = { b->layer, b->pos, b->n, b->dtype };
    size_t bytes = b->n * s->row * (b->dtype == DBRX_F32 ? 4 : 2);
    atomic_write(s->f, head, sizeof head);
    atomic_write(s->f, b->k, bytes);
    atomic_write(s->f, b->v, bytes);
    return s->f->error ? fail(s->err, DBRX_E_IO, "%s", strerror(s->f->error)) : DBRX_OK;
}

int save_is_one(const char *path)
{
    char head[sizeof SAVE_MAGIC - 1];
    struct stat st;
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    int is = fd >= 0 && !fstat(fd, &st) && S_ISREG(st.st_mode) &&
             pread(fd, head, sizeof head, 0) == (ssize_t)sizeof head && !memcmp(head, SAVE_MAGIC, sizeof head);
    if (fd >= 0)
        close(fd);
    return is;
}

int save_write(const char *path, const struct save_source *s, char *err, size_t size)
{
    const struct dbrx_config *c = &s->desc->config;
    const struct tree *t = s->tree;
    struct dbrx_error why = { 0 };
    struct atomic f;
    char *json = describe(s), head[SAVE_HEAD] = SAVE_MAGIC;
    if (!json) {
        snprintf(err, size, "out of memory");
        return -1;
    }
    uint32_t version = SAVE_VERSION, n, crc;
    uint64_t len = strlen(json), tokens = 0;
    for (uint32_t i = 0; i < t->n; i++) {
        branch_tokens(t, t->branch[i], &n);
        tokens += n;
    }
    memcpy(head + 8, &version, 4);
    memcpy(head + 16, &len, 8);
    memcpy(head + 24, &tokens, 8);

    int e = atomic_open(&f, path);
    dbrx_status st = DBRX_OK;
    if (!e) {
        atomic_write(&f, head, sizeof head);
        atomic_write(&f, json, len);
        for (uint32_t i = 0; i < t->n; i++) {
            const int32_t *id = branch_tokens(t, t->branch[i], &n);
            atomic_write(&f, id, n * sizeof *id);
        }
        struct sink sink = { &f, (size_t)c->n_kv_heads * (c->d_model / c->n_heads), &why };
        if (s->kv && !f.error)
            st = disp_export(t->sess->disp, SAVE_KV_STEP, write_block, &sink, &why);
        crc = f.crc;
        atomic_write(&f, &crc, sizeof crc);
        e = f.error;
        if (st != DBRX_OK)
            atomic_abort(&f);
        else
            e = atomic_commit(&f);
    }
    free(json);
    if (e || st != DBRX_OK) {
        snprintf(err, size, "%s cannot be written: %.200s; nothing was saved, and what was there stays",
                 path, e ? strerror(e) : why.text);
        return -1;
    }
    return 0;
}
