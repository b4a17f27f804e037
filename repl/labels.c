/* repl/labels.c -- see labels.h. */
#define _GNU_SOURCE
#include "repl/labels.h"

#include "repl/paths.h"

#include <cjson/cJSON.h>
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_BYTES = 64 << 20 };

struct labels {
    uint32_t n_layers, n_experts;
    char   **name;                         /* [n_layers][n_experts], NULL: none          */
    double  *score;                        /* of that                                    */
};

void labels_free(struct labels *l)
{
    if (!l)
        return;
    for (size_t i = 0; l->name && i < (size_t)l->n_layers * l->n_experts; i++)
        free(l->name[i]);
    free(l->name);
    free(l->score);
    free(l);
}

const char *labels_get(const struct labels *l, uint32_t layer, uint32_t expert)
{
    return l && layer < l->n_layers && expert < l->n_experts ? l->name[(size_t)layer * l->n_experts + expert] : NULL;
}

static double number(const cJSON *obj, const char *key)
{
    const cJSON *v = cJSON_GetObjectItemCaseSensitive(obj, key);
    return cJSON_IsNumber(v) ? v->valuedouble : (double)NAN;
}

/* 0, -1: the row is not as it should be, -2: no memory */
static int take(struct labels *l, const cJSON *row)
{
    const char *topic = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(row, "topic"));
    double layer = number(row, "layer"), expert = number(row, "expert"), score = number(row, "score");
    if (!topic || !(layer >= 0 && layer < l->n_layers) || !(expert >= 0 && expert < l->n_experts) || isnan(score))
        return -1;
    size_t at = (size_t)layer * l->n_experts + (size_t)expert;
    if (l->name[at] && l->score[at] >= score)
        return 0;
    char *copy = strdup(topic);
    if (!copy)
        return -2;
    free(l->name[at]);
    l->name[at] = copy;
    l->score[at] = score;
    return 0;
}

static cJSON *read_json(const char *file, char *err, size_t size)
{
    FILE *f = path_open(file, err, size);
    char *text = f ? malloc(MAX_BYTES) : NULL;
    size_t n = text ? fread(text, 1, MAX_BYTES, f) : 0;
    cJSON *j = NULL;
    if (f && (!text || ferror(f)))
        snprintf(err, size, "%.120s cannot be read: %s", file, strerror(text ? errno : ENOMEM));
    else if (!f)
        ;                                  /* said */
    else if (n == MAX_BYTES)
        snprintf(err, size, "%.120s is too long to be a file of labels", file);
    else if (!(j = cJSON_ParseWithLength(text, n)))
        snprintf(err, size, "%.120s is no JSON; \"dbrx specialists\" writes files of labels", file);
    free(text);
    if (f)
        fclose(f);
    return j;
}

int labels_read(const char *file, const struct dbrx_config *c, struct labels **out, char *err, size_t size)
{
    cJSON *j = read_json(file, err, size);
    const cJSON *list = cJSON_GetObjectItemCaseSensitive(j, "specialists"), *row;
    const char *type = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(j, "type"));
    struct labels *l = j ? calloc(1, sizeof *l) : NULL;
    unsigned n = 0;
    int bad = 0;
    *out = NULL;
    if (!j)
        return -1;
    if (!type || strcmp(type, "dbrx.specialists/1") || !cJSON_IsArray(list)) {
        snprintf(err, size, "%.120s is no file of labels as \"dbrx specialists\" writes them", file);
        bad = -1;
    } else if (!(number(j, "layers") == c->n_layers && number(j, "experts") == c->n_experts)) {
        snprintf(err, size, "%.120s is about a model of %.0f layers x %.0f experts; this one has %u x %u", file,
                 number(j, "layers"), number(j, "experts"), c->n_layers, c->n_experts);
        bad = -1;
    } else if (l) {
        *l = (struct labels){ c->n_layers, c->n_experts, calloc((size_t)c->n_layers * c->n_experts, sizeof *l->name),
                              calloc((size_t)c->n_layers * c->n_experts, sizeof *l->score) };
    }
    if (!bad && (!l || !l->name || !l->score))
        bad = -2;
    if (!bad)
        cJSON_ArrayForEach(row, list) {
            n++;
            if ((bad = take(l, row)))
                break;
        }
    if (bad == -2)
        snprintf(err, size, "out of memory");
    else if (bad && n)
        snprintf(err, size, "%.120s: specialist %u has no topic, layer, expert and score of this model", file, n);
    cJSON_Delete(j);
    if (bad)
        labels_free(l);
    else
        *out = l;
    return bad ? -1 : 0;
}
