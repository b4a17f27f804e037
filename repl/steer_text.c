/* repl/steer_text.c -- what is on, written down: as items, as text, as JSON, and back.  See
 * steer.h.  Every form is a list of edits that would make it from nothing. */
#define _GNU_SOURCE
#include "repl/steer_state.h"

#include "repl/sets.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char *const names[STEER_N_EFFECTS] = {
    "k", "ban", "skip", "omit", "zero", "force", "bias", "scale", "swap", "clear" };

const char *steer_effect_name(enum steer_effect e)
{
    return names[e];
}

static int of_layers(enum steer_effect e)
{
    return e == STEER_K || e == STEER_SWAP;
}

static int has_value(enum steer_effect e)
{
    return e == STEER_K || e == STEER_BIAS || e == STEER_SCALE;
}

/* The shortest decimal that is this float again */
static double plain(float x)
{
    char text[32];
    for (int digits = 1; digits <= 9; digits++) {
        snprintf(text, sizeof text, "%.*g", digits, (double)x);
        if (strtof(text, NULL) == x)
            break;
    }
    return strtod(text, NULL);
}

/* ---- items ---- */

struct list { struct steer_item *item; size_t n; int failed; };

static void add(struct list *l, struct steer_item i)
{
    struct steer_item *more = i.where ? realloc(l->item, (l->n + 1) * sizeof *more) : NULL;
    if (!more) {
        free((char *)i.where);
        l->failed = 1;
        return;
    }
    l->item = more;
    l->item[l->n++] = i;
}

/* One item for each value that several places share; done[] takes part in that */
static void add_values(struct list *l, const struct steer *s, enum steer_effect e, const float *value,
                       float neutral, uint8_t *in, uint8_t *done)
{
    size_t n = (size_t)s->n_layers * s->n_experts;
    memset(done, 0, n);
    for (size_t i = 0; i < n; i++) {
        if (done[i] || value[i] == neutral || value[i] == -INFINITY || (e == STEER_SCALE && value[i] == 0))
            continue;
        for (size_t j = 0; j < n; j++) {
            in[j] = value[j] == value[i];
            done[j] |= in[j];
        }
        add(l, (struct steer_item){ .effect = e, .value = plain(value[i]),
                                    .where = set_experts_text(in, s->n_layers, s->n_experts) });
    }
}

static void add_marked(struct list *l, const struct steer *s, enum steer_effect e, uint8_t *in)
{
    size_t n = (size_t)s->n_layers * s->n_experts, any = 0;
    for (size_t i = 0; i < n; i++) {
        in[i] = e == STEER_BAN    ? s->bias[i] == -INFINITY
              : e == STEER_ZERO   ? s->scale[i] == 0
              : e == STEER_SKIP   ? (s->mark[i] & DBRX_STEER_SKIP) != 0
              : e == STEER_OMIT   ? (s->mark[i] & DBRX_STEER_OMIT) != 0
              :                     (s->mark[i] & DBRX_STEER_FORCE) != 0;
        any += in[i];
    }
    if (any)
        add(l, (struct steer_item){ .effect = e, .where = set_experts_text(in, s->n_layers, s->n_experts) });
}

static void add_k(struct list *l, const struct steer *s, uint8_t *in)
{
    for (uint32_t k = 1; k <= s->n_experts; k++) {
        int any = 0;
        for (uint32_t i = 0; i < s->n_layers; i++)
            any |= in[i] = s->k[i] == k;
        if (any)
            add(l, (struct steer_item){ .effect = STEER_K, .value = k, .where = set_list_text(in, s->n_layers) });
    }
}

/* The exchanges that make each layer's permutation, for all layers that have the same at once */
static void add_swaps(struct list *l, const struct steer *s, uint8_t *in, uint16_t *now)
{
    for (uint32_t a = 0; a < s->n_layers; a++) {
        const uint16_t *want = s->source + (size_t)a * s->n_experts;
        int seen = 0;
        for (uint32_t b = 0; b < s->n_layers; b++) {
            in[b] = !memcmp(s->source + (size_t)b * s->n_experts, want, s->n_experts * sizeof *want);
            seen |= in[b] && b < a;
        }
        for (uint32_t e = 0; e < s->n_experts; e++)
            now[e] = (uint16_t)e;
        for (uint32_t e = 0; e < s->n_experts && !seen; e++) {
            uint32_t from = e;
            while (now[from] != want[e])
                from++;
            if (from == e)
                continue;
            now[from] = now[e];
            now[e] = want[e];
            add(l, (struct steer_item){ .effect = STEER_SWAP, .pair = { e, from },
                                        .where = set_list_text(in, s->n_layers) });
        }
    }
}

struct steer_item *steer_items(const struct steer *s, size_t *n)
{
    size_t all = (size_t)s->n_layers * s->n_experts;
    struct list l = { calloc(1, sizeof *l.item), 0, 0 };
    uint8_t *in = malloc(2 * all);
    uint16_t *now = malloc(s->n_experts * sizeof *now);
    if (l.item && in && now) {
        add_k(&l, s, in);
        for (enum steer_effect e = STEER_BAN; e <= STEER_FORCE; e++)
            add_marked(&l, s, e, in);
        add_values(&l, s, STEER_BIAS, s->bias, 0, in, in + all);
        add_values(&l, s, STEER_SCALE, s->scale, 1, in, in + all);
        add_swaps(&l, s, in, now);
    } else {
        l.failed = 1;
    }
    free(in);
    free(now);
    if (l.failed) {
        steer_items_free(l.item, l.n);
        return NULL;
    }
    *n = l.n;
    return l.item;
}

void steer_items_free(struct steer_item *i, size_t n)
{
    for (size_t k = 0; i && k < n; k++)
        free((char *)i[k].where);
    free(i);
}

/* ---- text ---- */

char *steer_item_text(const struct steer_item *i)
{
    const char *name = names[i->effect];
    char *text = NULL;
    int n = i->effect == STEER_K ? asprintf(&text, "%s %.0f @%s", name, i->value, i->where)
          : i->effect == STEER_SWAP ? asprintf(&text, "%s %u %u @%s", name, i->pair[0], i->pair[1], i->where)
          : has_value(i->effect) ? asprintf(&text, i->effect == STEER_BIAS ? "%s %s %+.9g" : "%s %s %.9g", name,
                                            i->where, i->value)
          : asprintf(&text, "%s %s", name, i->where);
    return n < 0 ? NULL : text;
}

char *steer_text(const struct steer *s)
{
    size_t n, size;
    struct steer_item *item = steer_items(s, &n);
    char *all = NULL;
    FILE *f = item ? open_memstream(&all, &size) : NULL;
    int failed = !f;
    for (size_t i = 0; f && i < n; i++) {
        char *text = steer_item_text(&item[i]);
        failed |= !text;
        fprintf(f, "%s%s", i ? "; " : "", text ? text : "");
        free(text);
    }
    steer_items_free(item, n);
    if (f && fclose(f))
        failed = 1;
    return failed ? free(all), NULL : all;
}

static int effect_named(const char *name, enum steer_effect *e, char *err, size_t size)
{
    for (int i = 0; i < STEER_CLEAR; i++)
        if (!strcmp(names[i], name)) {
            *e = (enum steer_effect)i;
            return 0;
        }
    snprintf(err, size, "there is no steering \"%.40s\": it is k, ban, skip, omit, zero, force, bias, scale or swap",
             name);
    return -1;
}

/* One number off the front of *text; 0 or -1 */
static int take_number(char **text, double *out)
{
    char *end;
    *out = strtod(*text, &end);
    if (end == *text || (*end && *end != ' ') || !isfinite(*out))
        return -1;
    *text = end + strspn(end, " ");
    return 0;
}

/* "k 2 @0..3" and the like, in place */
static int read_item(struct steer *s, char *text, char *err, size_t size)
{
    struct steer_item i = { 0 };
    char *rest = text + strcspn(text, " ");
    double a, b;
    if (*rest)
        *rest++ = '\0';
    if (effect_named(text, &i.effect, err, size))
        return -1;
    char *last = strrchr(rest, ' ');
    int bad = 0;
    if (i.effect == STEER_K) {
        bad = take_number(&rest, &i.value);
    } else if (i.effect == STEER_SWAP) {
        bad = take_number(&rest, &a) || take_number(&rest, &b) || !(a >= 0 && a < 65536 && b >= 0 && b < 65536);
        i.pair[0] = bad ? 0 : (uint32_t)a;
        i.pair[1] = bad ? 0 : (uint32_t)b;
    } else if (has_value(i.effect)) {
        bad = !last;
        if (last) {
            *last++ = '\0';
            bad = take_number(&last, &i.value);
        }
    }
    if (bad) {
        snprintf(err, size, "the steering \"%.20s %.40s\" has no proper number", text, rest);
        return -1;
    }
    i.where = rest;
    return steer_put(s, &i, err, size);
}

int steer_read(struct steer *s, const char *text, char *err, size_t size)
{
    char *copy = strdup(text), *save = NULL;
    int failed = !copy;
    if (failed)
        snprintf(err, size, "out of memory");
    steer_begin(s, 1);
    for (char *p = copy ? strtok_r(copy, ";", &save) : NULL; p && !failed; p = strtok_r(NULL, ";", &save))
        if (*(p += strspn(p, " ")))
            failed = read_item(s, p, err, size);
    free(copy);
    return steer_end(s, failed, err, size);
}

/* ---- JSON ---- */

static const char format[] = "dbrx.steering/1";

cJSON *steer_json(const struct steer *s)
{
    size_t n;
    struct steer_item *item = steer_items(s, &n);
    if (!item)
        return NULL;
    cJSON *all = cJSON_CreateObject();
    cJSON_AddStringToObject(all, "format", format);
    cJSON_AddNumberToObject(all, "n_layers", s->n_layers);
    cJSON_AddNumberToObject(all, "n_experts", s->n_experts);
    cJSON *list = cJSON_AddArrayToObject(all, "effects");
    for (size_t i = 0; i < n; i++) {
        cJSON *one = cJSON_CreateObject();
        cJSON_AddItemToArray(list, one);
        cJSON_AddStringToObject(one, "effect", names[item[i].effect]);
        cJSON_AddStringToObject(one, of_layers(item[i].effect) ? "layers" : "experts", item[i].where);
        if (has_value(item[i].effect))
            cJSON_AddNumberToObject(one, "value", item[i].value);
        if (item[i].effect == STEER_SWAP)
            cJSON_AddItemToObject(one, "pair", cJSON_CreateIntArray((const int[]){ (int)item[i].pair[0],
                                                                                   (int)item[i].pair[1] }, 2));
    }
    steer_items_free(item, n);
    return all;
}

static const cJSON *get(const cJSON *j, const char *key)
{
    return cJSON_GetObjectItemCaseSensitive(j, key);
}

static int read_effect(struct steer *s, const cJSON *j, char *err, size_t size)
{
    struct steer_item i = { 0 };
    const char *name = cJSON_GetStringValue(get(j, "effect"));
    const cJSON *value = get(j, "value"), *pair = get(j, "pair");
    if (effect_named(name ? name : "", &i.effect, err, size))
        return -1;
    const char *key = of_layers(i.effect) ? "layers" : "experts";
    i.where = cJSON_GetStringValue(get(j, key));
    int bad = !i.where || (has_value(i.effect) && !cJSON_IsNumber(value));
    if (i.effect == STEER_SWAP) {
        bad |= cJSON_GetArraySize(pair) != 2;
        for (int k = 0; k < 2 && !bad; k++) {
            const cJSON *e = cJSON_GetArrayItem(pair, k);
            bad |= !cJSON_IsNumber(e) || !(e->valuedouble >= 0 && e->valuedouble < 65536) ||
                   e->valuedouble != floor(e->valuedouble);
            i.pair[k] = bad ? 0 : (uint32_t)e->valuedouble;
        }
    }
    if (bad) {
        snprintf(err, size, "an effect \"%s\" needs \"%s\"%s", name, key,
                 i.effect == STEER_SWAP ? " and \"pair\", two experts"
                 : has_value(i.effect) ? " and \"value\", a number" : ", a text");
        return -1;
    }
    i.value = value ? value->valuedouble : 0;
    return steer_put(s, &i, err, size);
}

int steer_read_json(struct steer *s, const cJSON *j, char *err, size_t size)
{
    const char *name = cJSON_GetStringValue(get(j, "format"));
    const cJSON *layers = get(j, "n_layers"), *experts = get(j, "n_experts"), *list = get(j, "effects"), *one;
    if (!name || strcmp(name, format)) {
        snprintf(err, size, "it is no steering profile: it does not say \"format\": \"%s\"", format);
        return -1;
    }
    if (!cJSON_IsNumber(layers) || !cJSON_IsNumber(experts) || !cJSON_IsArray(list)) {
        snprintf(err, size, "it lacks n_layers, n_experts or the list of effects");
        return -1;
    }
    if (layers->valuedouble != s->n_layers || experts->valuedouble != s->n_experts) {
        snprintf(err, size, "it is for a model of %.9g layers x %.9g experts, and this one has %u x %u",
                 layers->valuedouble, experts->valuedouble, s->n_layers, s->n_experts);
        return -1;
    }
    int failed = 0;
    steer_begin(s, 1);
    cJSON_ArrayForEach(one, list)
        if (!failed)
            failed = read_effect(s, one, err, size);
    return steer_end(s, failed, err, size);
}
