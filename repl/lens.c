/* repl/lens.c -- /lens: the logit lens and, with --experts, direct logit attribution, as rows.
 * The numbers are logit_lens.c's. */
#define _GNU_SOURCE
#include "repl/handlers.h"

#include "repl/commands.h"
#include "repl/logit_lens.h"
#include "repl/shell.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { TOKEN, SHARES, TOP };               /* arguments, by position */
enum { MAX_TOP = 50, COLUMNS = 3 };        /* candidates; those that --experts shows people */

static char *show_layer(const struct render *r, const cJSON *row)
{
    (void)r;
    const cJSON *l = cJSON_GetObjectItemCaseSensitive(row, "layer");
    char *text = NULL;
    if (!cJSON_IsNumber(l))
        return strdup("");
    return l->valueint < 0 ? strdup("emb") : asprintf(&text, "L%d", l->valueint) < 0 ? NULL : text;
}

static char *show_prob(const struct render *r, const cJSON *row)
{
    (void)r;
    const cJSON *p = cJSON_GetObjectItemCaseSensitive(row, "prob");
    char *text = NULL;
    return asprintf(&text, p->valuedouble < 0.0001 ? "%.0e" : "%.4f", p->valuedouble) < 0 ? NULL : text;
}

static char *show_top(const struct render *r, const cJSON *row)
{
    (void)r;
    const cJSON *t;
    char *text = NULL;
    size_t size;
    FILE *f = open_memstream(&text, &size);
    if (!f)
        return NULL;
    cJSON_ArrayForEach(t, cJSON_GetObjectItemCaseSensitive(row, "top")) {
        const char *s = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(t, "text"));
        fprintf(f, "%s\"%s\" %.2f", t->prev->next ? "  " : "", s ? s : "",
                cJSON_GetObjectItemCaseSensitive(t, "prob")->valuedouble);
    }
    return fclose(f) ? free(text), NULL : text;
}

static cJSON *token_json(const struct shell *sh, int32_t id)
{
    cJSON *j = cJSON_CreateObject();
    char *text = token_text(sh, id);
    cJSON_AddNumberToObject(j, "id", id);
    field_string(j, "text", text ? text : "");
    free(text);
    return j;
}

/* "token 12 of 71: " fun" (id 5)" and what the model says next */
static char *title_of(const struct shell *sh, uint32_t pos, int32_t final, int32_t next)
{
    char *at = token_text(sh, sh->sess->token[pos]), *says = token_text(sh, final), *came = next >= 0 ? token_text(sh, next) : NULL;
    char *title = NULL;
    if (asprintf(&title, "token %u of %u: \"%s\"; the model's next: \"%s\"%s%s%s", pos, sh->sess->n, at ? at : "",
                 says ? says : "", came ? ", what came: \"" : "", came ? came : "", came ? "\"" : "") < 0)
        title = NULL;
    free(at), free(says), free(came);
    return title;
}

static cJSON *head_of(const struct shell *sh, uint32_t pos, int32_t final, int32_t next)
{
    cJSON *head = cJSON_CreateObject();
    cJSON_AddNumberToObject(head, "pos", pos);
    cJSON_AddNumberToObject(head, "id", sh->sess->token[pos]);
    cJSON_AddItemToObject(head, "final", token_json(sh, final));
    if (next >= 0)
        cJSON_AddItemToObject(head, "came", token_json(sh, next));
    return head;
}

static void say_layers(struct shell *sh, const struct lens *l, uint32_t pos, uint32_t top)
{
    static const struct column all[] = {
        { NULL, "", 0, 0, show_layer }, { "rank", "rank", 1, 0, NULL }, { NULL, "prob", 1, 0, show_prob },
        { "came_rank", "came", 1, 0, NULL }, { NULL, "likeliest", 0, 0, show_top }, { 0 } };
    const struct column less[] = { all[0], all[1], all[2], all[4], { 0 } };
    const struct dbrx_config *c = l->c;
    int32_t id[MAX_TOP], final, next = pos + 1 < sh->sess->n ? sh->sess->token[pos + 1] : -1;
    const float *last = l->logits + (size_t)c->n_layers * c->n_vocab;
    lens_top(last, c->n_vocab, 1, &final);
    next = next == final ? -1 : next;
    cJSON *list = cJSON_CreateArray();
    for (uint32_t i = 0; i <= c->n_layers; i++) {
        const float *z = l->logits + (size_t)i * c->n_vocab;
        double p;
        cJSON *row = cJSON_CreateObject();
        cJSON_AddItemToArray(list, row);
        cJSON_AddNumberToObject(row, "layer", (int)i - 1);
        cJSON_AddNumberToObject(row, "rank", lens_rank(z, c->n_vocab, final, &p) + 1);
        field_real(row, "prob", p);
        if (next >= 0) {
            cJSON_AddNumberToObject(row, "came_rank", lens_rank(z, c->n_vocab, next, &p) + 1);
            field_real(row, "came_prob", p);
        }
        lens_top(z, c->n_vocab, top, id);
        cJSON *tops = cJSON_AddArrayToObject(row, "top");
        for (uint32_t k = 0; k < top; k++) {
            cJSON *one = token_json(sh, id[k]);
            lens_rank(z, c->n_vocab, id[k], &p);
            field_real(one, "prob", p);
            cJSON_AddItemToArray(tops, one);
        }
    }
    char *title = title_of(sh, pos, final, next);
    const struct rows rows = { "rows", "lens", "rows", next >= 0 ? all : less, 0 };
    render_rows(&sh->out, &rows, title, head_of(sh, pos, final, next), list);
    free(title);
}

/* ---- --experts ---- */

static cJSON *share_row(const char *part, int layer, const double *share, uint32_t n)
{
    static const char *const name[COLUMNS] = { "s0", "s1", "s2" };
    cJSON *row = cJSON_CreateObject();
    if (layer >= -1)
        cJSON_AddNumberToObject(row, "layer", layer);
    field_string(row, "part", part);
    cJSON *all = cJSON_AddArrayToObject(row, "share");
    for (uint32_t i = 0; i < n; i++) {
        cJSON_AddItemToArray(all, json_real(share[i]));
        if (i < COLUMNS)
            field_real(row, name[i], share[i]);        /* for people; taken out again for programs */
    }
    return row;
}

static char *show_part(const struct render *r, const cJSON *row)
{
    (void)r;
    const cJSON *w = cJSON_GetObjectItemCaseSensitive(row, "weight");
    const char *part = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(row, "part"));
    const cJSON *e = cJSON_GetObjectItemCaseSensitive(row, "expert");
    char *text = NULL;
    if (!cJSON_IsNumber(w))
        return strdup(part ? part : "");
    return asprintf(&text, "e%-2d %.2f", e->valueint, w->valuedouble) < 0 ? NULL : text;
}

static int collect(struct lens *l, cJSON *list, const int32_t *id, uint32_t n, struct dbrx_error *err, dbrx_status *st)
{
    const struct dbrx_config *c = l->c;
    double share[MAX_TOP];
    if ((*st = lens_share(l, 0, LENS_EMBEDDING, id, n, share, err)) != DBRX_OK)
        return -1;
    cJSON_AddItemToArray(list, share_row("embedding", -1, share, n));
    for (uint32_t i = 0; i < c->n_layers; i++)
        for (int which = LENS_ATTENTION; which < (int)l->k[i]; which++) {
            if ((*st = lens_share(l, i, which, id, n, share, err)) != DBRX_OK)
                return -1;
            cJSON *row = share_row(which < 0 ? "attention" : "expert", (int)i, share, n);
            cJSON_AddItemToArray(list, row);
            if (which >= 0) {
                cJSON_AddNumberToObject(row, "expert", l->expert[(size_t)i * c->n_experts + (uint32_t)which]);
                field_real(row, "weight", (double)l->weight[(size_t)i * c->n_experts + (uint32_t)which]);
            }
        }
    lens_total(l, id, n, share);
    cJSON_AddItemToArray(list, share_row("sum", -2, share, n));
    return 0;
}

static int say_shares(struct shell *sh, struct lens *l, uint32_t pos, uint32_t top)
{
    int32_t id[MAX_TOP], next = pos + 1 < sh->sess->n ? sh->sess->token[pos + 1] : -1;
    char names[COLUMNS][24] = { "", "", "" };
    struct dbrx_error err = { 0 };
    dbrx_status st = DBRX_OK;
    lens_top(l->logits + (size_t)l->c->n_layers * l->c->n_vocab, l->c->n_vocab, top, id);
    for (uint32_t i = 0; i < top && i < COLUMNS; i++) {
        char *text = token_text(sh, id[i]);
        snprintf(names[i], sizeof names[i], "\"%.20s\"", text ? text : "");
        free(text);
    }
    const struct column col[] = {
        { NULL, "", 0, 0, show_layer }, { NULL, "part", 0, 0, show_part },
        { "s0", names[0], 1, 3, NULL }, { top > 1 ? "s1" : NULL, top > 1 ? names[1] : NULL, 1, 3, NULL },
        { "s2", top > 2 ? names[2] : NULL, 1, 3, NULL }, { 0 } };
    const struct rows rows = { "rows", "lens_experts", "rows", col, 0 };
    cJSON *list = cJSON_CreateArray(), *row;
    render_busy(&sh->out, 1);
    int failed = collect(l, list, id, top, &err, &st);
    render_busy(&sh->out, 0);
    if (failed) {
        cJSON_Delete(list);
        return shell_failed(sh, st, &err);
    }
    cJSON_ArrayForEach(row, list)
        for (int i = 0; sh->out.json && i < COLUMNS; i++)
            cJSON_DeleteItemFromObject(row, (const char *[]){ "s0", "s1", "s2" }[i]);
    cJSON *head = head_of(sh, pos, id[0], next == id[0] ? -1 : next), *tops = cJSON_AddArrayToObject(head, "top");
    for (uint32_t i = 0; i < top; i++)
        cJSON_AddItemToArray(tops, token_json(sh, id[i]));
    char *title = title_of(sh, pos, id[0], next == id[0] ? -1 : next);
    render_rows(&sh->out, &rows, title, head, list);
    free(title);
    return 0;
}

int handle_lens(struct shell *sh, const struct args *a)
{
    const struct dbrx_config *c = &sh->ckpt->desc.config;
    struct dbrx_error err = { 0 };
    struct lens *l;
    long n = sh->sess->n, pos = a->text[TOKEN] ? a->num[TOKEN] : -1, top = a->text[TOP] ? a->num[TOP] : 3;
    int shares = a->text[SHARES] != NULL;
    if (!n)
        return render_error(&sh->out, "there is no token yet: type a prompt, or /feed some ids");
    if (pos < -n || pos >= n)
        return render_error(&sh->out, "token %ld is not there: the conversation has tokens 0 to %ld (or -1 to -%ld, from "
                            "the end)", pos, n - 1, n);
    if (top < 1 || top > MAX_TOP || (unsigned long)top > c->n_vocab)
        return render_error(&sh->out, "--top takes 1 to %d", MAX_TOP);
    pos = pos < 0 ? n + pos : pos;
    render_busy(&sh->out, 1);
    dbrx_status st = lens_open(sh->sess, c, (uint32_t)pos, shares, steer_block(sh->steer), &l, &err);
    render_busy(&sh->out, 0);
    if (st != DBRX_OK)
        return shell_failed(sh, st, &err);
    int failed = 0;
    if (shares)
        failed = say_shares(sh, l, (uint32_t)pos, (uint32_t)top);
    else
        say_layers(sh, l, (uint32_t)pos, (uint32_t)top);
    lens_close(l);
    return failed;
}
