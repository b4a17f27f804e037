/* repl/corpus.c -- see corpus.h. */
#define _GNU_SOURCE
#include "repl/corpus.h"

#include "plugins/fail.h"
#include "repl/paths.h"
#include "repl/words.h"

#include <cjson/cJSON.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

struct corpus {
    struct engine *engine;
    const struct dbrx_steer *steer;
    struct dbrx_route_sink sink;
    uint32_t window, n_layers, top_k, n_experts;
    uint16_t *expert;                      /* [window][n_layers][top_k]                  */
    float    *weight;                      /* [window][n_layers][top_k]                  */
    float    *prob;                        /* [window][n_layers][n_experts], or NULL     */
    uint64_t  routed;                      /* (token, layer) pairs of this piece         */
};

static void emit(void *ctx, const struct dbrx_route *r)
{
    struct corpus *c = ctx;
    uint32_t k = r->top_k < c->top_k ? r->top_k : c->top_k;
    if (r->layer >= c->n_layers || r->pos + (uint64_t)r->n_tokens > c->window || (c->prob && !r->prob))
        return;                            /* shows in the count */
    for (uint32_t i = 0; i < r->n_tokens; i++) {
        size_t at = (size_t)(r->pos + i) * c->n_layers + r->layer;
        for (uint32_t e = 0; e < c->top_k; e++) {
            c->expert[at * c->top_k + e] = e < k ? r->expert[(size_t)i * r->top_k + e] : UINT16_MAX;
            c->weight[at * c->top_k + e] = e < k ? r->weight[(size_t)i * r->top_k + e] : 0;
        }
        if (c->prob)
            memcpy(c->prob + at * c->n_experts, r->prob + (size_t)i * r->n_experts, c->n_experts * sizeof *c->prob);
    }
    c->routed += r->n_tokens;
}

dbrx_status corpus_open(struct engine *e, const struct dbrx_config *m, uint32_t window, uint32_t want,
                        struct corpus **out, struct dbrx_error *err)
{
    struct corpus *c = calloc(1, sizeof *c);
    size_t slots = (size_t)window * m->n_layers;
    *out = NULL;
    if (!c)
        return fail(err, DBRX_E_NOMEM, "out of memory");
    *c = (struct corpus){ .engine = e, .window = window, .n_layers = m->n_layers, .top_k = m->top_k,
                          .n_experts = m->n_experts };
    c->sink = (struct dbrx_route_sink){ .struct_size = sizeof c->sink, .want = want, .ctx = c, .emit = emit };
    c->expert = malloc(slots * c->top_k * sizeof *c->expert);
    c->weight = malloc(slots * c->top_k * sizeof *c->weight);
    c->prob = want & DBRX_ROUTE_PROB ? malloc(slots * c->n_experts * sizeof *c->prob) : NULL;
    if (!c->expert || !c->weight || (want & DBRX_ROUTE_PROB && !c->prob)) {
        corpus_close(c);
        return fail(err, DBRX_E_NOMEM, "out of memory");
    }
    *out = c;
    return DBRX_OK;
}

void corpus_steer(struct corpus *c, const struct dbrx_steer *steer)
{
    c->steer = steer;
}

void corpus_close(struct corpus *c)
{
    if (!c)
        return;
    free(c->expert);
    free(c->weight);
    free(c->prob);
    free(c);
}

static dbrx_status piece(struct corpus *c, const int32_t *id, uint32_t n, corpus_token *on_token, void *ctx,
                         struct dbrx_error *err)
{
    struct dbrx_batch b = { .struct_size = sizeof b, .n_tokens = n, .token = id, .route = &c->sink, .steer = c->steer };
    c->routed = 0;
    dbrx_status st = engine_truncate(c->engine, 0, err);
    if (st == DBRX_OK)
        st = engine_eval(c->engine, &b, err);
    if (st == DBRX_OK && c->routed != (uint64_t)n * c->n_layers)
        st = fail(err, DBRX_E_UNSUPPORTED, "%s did not report all routes", c->engine->label);
    for (uint32_t i = 0; i < n && st == DBRX_OK; i++) {
        size_t at = (size_t)i * c->n_layers;
        struct dbrx_token t = { .struct_size = sizeof t, .pos = i, .id = id[i], .n_layers = c->n_layers,
            .top_k = c->top_k, .n_experts = c->n_experts, .expert = c->expert + at * c->top_k,
            .weight = c->weight + at * c->top_k, .prob = c->prob ? c->prob + at * c->n_experts : NULL };
        st = on_token(ctx, &t, err);
    }
    return st;
}

dbrx_status corpus_run(struct corpus *c, const int32_t *id, size_t n, corpus_token *on_token, void *ctx,
                       struct dbrx_error *err)
{
    dbrx_status st = DBRX_OK;
    for (size_t at = 0; at < n && st == DBRX_OK; at += c->window) {
        uint32_t some = n - at < c->window ? (uint32_t)(n - at) : c->window;
        st = piece(c, id + at, some, on_token, ctx, err);
    }
    return st;
}

/* ---- files ---- */

/* All of a file, NUL behind it; free(*text) */
static dbrx_status read_file(const char *name, char **text, size_t *len, struct dbrx_error *err)
{
    char buf[65536], why_not[240];
    size_t n;
    FILE *f = path_open(name, why_not, sizeof why_not), *mem = NULL;
    *text = NULL;
    if (!f)
        return fail(err, DBRX_E_IO, "%s", why_not);
    int bad = !(mem = open_memstream(text, len));
    for (size_t sum = 0; !bad && sum < TEXT_MOST && (n = fread(buf, 1, sizeof buf, f)) > 0; sum += n)
        bad = fwrite(buf, 1, n, mem) != n;
    int why = ferror(f) ? errno : bad || feof(f) ? 0 : EFBIG;
    fclose(f);
    if (mem)
        bad |= fclose(mem) != 0;
    if (!bad && !why)
        return DBRX_OK;
    free(*text);
    *text = NULL;
    return bad ? fail(err, DBRX_E_NOMEM, "out of memory for %s", name)
               : fail(err, DBRX_E_IO, "%s cannot be read: %s", name, strerror(why));
}

dbrx_status corpus_texts(const char *file,
                         dbrx_status (*text)(void *, const char *, size_t, uint64_t, uint64_t, struct dbrx_error *),
                         void *ctx, struct dbrx_error *err)
{
    char *all;
    size_t len, dot = strlen(file) > 6 ? strlen(file) - 6 : 0;
    dbrx_status st = read_file(file, &all, &len, err);
    if (st != DBRX_OK)
        return st;
    if (!dot || strcmp(file + dot, ".jsonl")) {
        st = text(ctx, all, len, 0, len, err);
        free(all);
        return st;
    }
    unsigned long number = 1;
    for (char *line = all, *end; line < all + len && st == DBRX_OK; line = end + 1, number++) {
        end = memchr(line, '\n', len - (size_t)(line - all));
        end = end ? end : all + len;
        *end = '\0';
        if (!line[strspn(line, " \t\r")])
            continue;
        cJSON *obj = cJSON_Parse(line);
        const char *t = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(obj, "text"));
        t = t ? t : cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(obj, "prompt"));
        st = t ? text(ctx, t, strlen(t), (uint64_t)(line - all), len, err)
               : fail(err, DBRX_E_INVALID, "%s, line %lu: no JSON object with a string \"text\" or \"prompt\"", file, number);
        cJSON_Delete(obj);
    }
    free(all);
    return st;
}
