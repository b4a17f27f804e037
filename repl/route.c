/* repl/route.c -- /route: the experts of one token, layer by layer. */
#define _GNU_SOURCE
#include "repl/handlers.h"

#include "repl/commands.h"
#include "repl/shell.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { BAR = 5 };                          /* columns that a weight of 1 takes */

/* A bar of `weight`, in eighths of a column, padded to BAR columns */
static void put_bar(FILE *f, double weight)
{
    static const char *const part[] = { "", "▏", "▎", "▍", "▌", "▋", "▊", "▉" };
    int eighths = (int)(weight * 8 * BAR + 0.5), used = 0;
    eighths = eighths < 0 ? 0 : eighths > 8 * BAR ? 8 * BAR : eighths;
    for (; eighths >= 8; eighths -= 8, used++)
        fputs("█", f);
    fputs(part[eighths], f);
    used += eighths > 0;
    fprintf(f, "%*s", BAR - used, "");
}

static char *show_experts(const struct render *r, const cJSON *row)
{
    const cJSON *e = cJSON_GetObjectItemCaseSensitive(row, "expert");
    const cJSON *w = cJSON_GetObjectItemCaseSensitive(row, "weight");
    int k = cJSON_GetArraySize(e);
    int bars = r->out_tty && r->utf8 && 6 + (unsigned)k * (BAR + 11) <= render_width(r);
    char *text = NULL;
    size_t size;
    FILE *f = open_memstream(&text, &size);
    if (!f)
        return NULL;
    for (e = e ? e->child : NULL, w = w ? w->child : NULL; e && w; e = e->next, w = w->next) {
        char name[16];
        snprintf(name, sizeof name, "e%d", e->valueint);
        fprintf(f, "%s%-3s %.2f", e->prev->next ? "  " : "", name, w->valuedouble);
        if (bars) {
            putc(' ', f);
            put_bar(f, w->valuedouble);
        }
    }
    return fclose(f) ? free(text), NULL : text;
}

static cJSON *layer_row(const struct shell *sh, uint32_t pos, uint32_t layer)
{
    const uint16_t *expert;
    const float *weight;
    uint32_t k = trace_get(sh->sess->trace, pos, layer, &expert, &weight);
    char name[16];
    cJSON *row = cJSON_CreateObject();
    snprintf(name, sizeof name, "L%u", layer);
    cJSON_AddNumberToObject(row, "layer", layer);
    cJSON *e = cJSON_AddArrayToObject(row, "expert"), *w = cJSON_AddArrayToObject(row, "weight");
    for (uint32_t i = 0; i < k; i++) {
        cJSON_AddItemToArray(e, cJSON_CreateNumber(expert[i]));
        cJSON_AddItemToArray(w, json_real((double)weight[i]));
    }
    return row;
}

static char *show_layer(const struct render *r, const cJSON *row)
{
    (void)r;
    char *text = NULL;
    const cJSON *l = cJSON_GetObjectItemCaseSensitive(row, "layer");
    return asprintf(&text, "L%d", l ? l->valueint : 0) < 0 ? NULL : text;
}

int handle_route(struct shell *sh, const struct args *a)
{
    static const struct column col[] = { { NULL, "", 0, 0, show_layer }, { NULL, "", 0, 0, show_experts }, { 0 } };
    static const struct rows rows = { "route", NULL, "layers", col, 1 };
    long n = sh->sess->n, pos = a->text[0] ? a->num[0] : -1;
    if (!n)
        return render_error(&sh->out, "there is no token yet: type a prompt, or /feed some ids");
    if (pos < -n || pos >= n)
        return render_error(&sh->out, "token %ld is not there: the conversation has tokens 0 to %ld "
                            "(or -1 to -%ld, from the end)", pos, n - 1, n);
    pos = pos < 0 ? n + pos : pos;
    if (sess_routed(sh->sess) <= (unsigned long)pos && catch_up(sh, "the route is not known yet"))
        return -1;
    if (sess_routed(sh->sess) <= (unsigned long)pos)
        return render_error(&sh->out, "the routing of token %ld was not recorded: memory ran out", pos);
    int32_t id = sh->sess->token[pos];
    cJSON *head = cJSON_CreateObject(), *list = cJSON_CreateArray();
    char *text = token_text(sh, id), *title = NULL;
    cJSON_AddNumberToObject(head, "pos", (double)pos);
    cJSON_AddNumberToObject(head, "id", id);
    field_string(head, "text", text ? text : "");
    for (uint32_t l = 0; l < sh->ckpt->desc.config.n_layers; l++)
        cJSON_AddItemToArray(list, layer_row(sh, (uint32_t)pos, l));
    if (asprintf(&title, "token %ld of %ld: \"%s\" (id %d)", pos, n, text ? text : "", id) < 0)
        title = NULL;
    render_rows(&sh->out, &rows, title, head, list);
    free(title);
    free(text);
    return 0;
}
