/* repl/steer.c -- the steering block, its edits and their undoing.  See steer.h; the forms in
 * which it is written down are steer_text.c's. */
#include "repl/steer_state.h"

#include "repl/sets.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Beyond these a router can only overflow: softmax is one-sided long before */
static const double MAX_BIAS = 1000, MAX_SCALE = 1000;

/* ---- state: one block of memory, so that it is copied and compared as a whole ---- */

static void lay_out(struct steer *s)
{
    size_t n = (size_t)s->n_layers * s->n_experts;
    s->bias = s->state;
    s->scale = s->bias + n;
    s->k = (uint16_t *)(s->scale + n);
    s->source = s->k + s->n_layers;
    s->mark = (uint8_t *)(s->source + n);
}

static void reset(struct steer *s)
{
    size_t n = (size_t)s->n_layers * s->n_experts;
    memset(s->state, 0, s->bytes);
    for (size_t i = 0; i < n; i++) {
        s->scale[i] = 1;
        s->source[i] = (uint16_t)(i % s->n_experts);
    }
}

/* The block follows the state; an array that says nothing is not handed out */
static void settle(struct steer *s)
{
    size_t n = (size_t)s->n_layers * s->n_experts;
    int k = 0, bias = 0, scale = 0, mark = 0, source = 0;
    for (size_t i = 0; i < s->n_layers; i++)
        k |= s->k[i] != 0;
    for (size_t i = 0; i < n; i++) {
        bias |= s->bias[i] != 0;
        scale |= s->scale[i] != 1;
        mark |= s->mark[i] != 0;
        source |= s->source[i] != i % s->n_experts;
    }
    s->block = (struct dbrx_steer){
        .struct_size = sizeof s->block, .top_k = k ? s->k : NULL, .bias = bias ? s->bias : NULL,
        .mark = mark ? s->mark : NULL, .scale = scale ? s->scale : NULL,
        .source = source ? s->source : NULL };
    s->on = k || bias || scale || mark || source;
    s->id = 0;
    if (s->on) {
        s->id = 14695981039346656037u;     /* FNV-1a */
        for (size_t i = 0; i < s->bytes; i++)
            s->id = (s->id ^ ((unsigned char *)s->state)[i]) * 1099511628211u;
        s->id += !s->id;
    }
}

struct steer *steer_new(const struct dbrx_config *c)
{
    struct steer *s = calloc(1, sizeof *s);
    size_t n = (size_t)c->n_layers * c->n_experts;
    if (!s)
        return NULL;
    s->n_layers = c->n_layers;
    s->n_experts = c->n_experts;
    s->top_k = c->top_k;
    s->bytes = n * (2 * sizeof *s->bias + sizeof *s->source + sizeof *s->mark) + s->n_layers * sizeof *s->k;
    s->state = malloc(s->bytes);
    s->was = malloc(s->bytes);
    if (!s->state || !s->was) {
        steer_free(s);
        return NULL;
    }
    lay_out(s);
    reset(s);
    settle(s);
    return s;
}

void steer_free(struct steer *s)
{
    if (!s)
        return;
    for (size_t i = 0; i < s->n_past; i++)
        free(s->past[i]);
    free(s->was);
    free(s->state);
    free(s);
}

const struct dbrx_steer *steer_block(const struct steer *s)
{
    return s->on ? &s->block : NULL;
}

uint64_t steer_id(const struct steer *s)
{
    return s->id;
}

/* ---- edits ---- */

/* In words, what a router could not follow; 0 or -1 */
static int check(const struct steer *s, char *err, size_t size)
{
    for (uint32_t l = 0; l < s->n_layers; l++) {
        uint32_t k = s->k[l] ? s->k[l] : s->top_k, forced = 0, open = 0, kept = 0, forced_kept = 0;
        for (uint32_t e = 0; e < s->n_experts; e++) {
            size_t at = (size_t)l * s->n_experts + e;
            int off = s->bias[at] == -INFINITY || s->mark[at] & DBRX_STEER_SKIP;
            if (off && s->mark[at] & DBRX_STEER_FORCE) {
                snprintf(err, size, "expert %u of layer %u would be both forced and banned; /steer off %u@%u "
                         "clears what is on for it", e, l, e, l);
                return -1;
            }
            forced += (s->mark[at] & DBRX_STEER_FORCE) != 0;
            open += !off;
            int omitted = (s->mark[at] & DBRX_STEER_OMIT) != 0;
            kept += !off && !omitted;
            forced_kept += s->mark[at] & DBRX_STEER_FORCE && !omitted;
        }
        if (forced > k) {
            snprintf(err, size, "layer %u would have %u experts forced, but a token gets %u there; raise that "
                     "with /k, or force fewer", l, forced, k);
            return -1;
        }
        if (open < k) {
            snprintf(err, size, "layer %u would have %u experts left to choose from, but a token gets %u there; "
                     "lower that with /k, or ban fewer", l, open, k);
            return -1;
        }
        if (!(forced == k ? forced_kept : kept)) {
            snprintf(err, size, "layer %u would have every expert omitted that can be chosen, and nothing left to "
                     "renormalise; omit fewer, or /ban --zero to drop what they add", l);
            return -1;
        }
    }
    return 0;
}

static void put_expert(struct steer *s, size_t at, const struct steer_item *i)
{
    static const uint8_t marks[STEER_N_EFFECTS] = {
        [STEER_SKIP] = DBRX_STEER_SKIP, [STEER_OMIT] = DBRX_STEER_OMIT, [STEER_FORCE] = DBRX_STEER_FORCE };
    s->mark[at] |= marks[i->effect];
    if (i->effect == STEER_BAN)
        s->bias[at] = -INFINITY;
    else if (i->effect == STEER_BIAS)
        s->bias[at] = (float)i->value + 0; /* no -0: it would be another state */
    else if (i->effect == STEER_ZERO || i->effect == STEER_SCALE)
        s->scale[at] = i->effect == STEER_ZERO ? 0 : (float)i->value + 0;
    else if (i->effect == STEER_CLEAR)
        s->bias[at] = 0, s->scale[at] = 1, s->mark[at] = 0;
}

static int bad_value(const struct steer *s, const struct steer_item *i, char *err, size_t size)
{
    double v = i->value;
    if (i->effect == STEER_K && !(v >= 1 && v <= s->n_experts && v == floor(v)))
        snprintf(err, size, "%.9g experts a token cannot be: it is a whole number from 1 to %u", v, s->n_experts);
    else if (i->effect == STEER_BIAS && !(fabs(v) <= MAX_BIAS))
        snprintf(err, size, "a bias is a number from -%g to %g, not %g; /ban is the way to never", MAX_BIAS,
                 MAX_BIAS, v);
    else if (i->effect == STEER_SCALE && !(fabs(v) <= MAX_SCALE))
        snprintf(err, size, "a scale is a number from -%g to %g, not %g", MAX_SCALE, MAX_SCALE, v);
    else if (i->effect == STEER_SWAP && (i->pair[0] >= s->n_experts || i->pair[1] >= s->n_experts))
        snprintf(err, size, "expert %u is not there: every layer has experts 0 to %u",
                 i->pair[i->pair[0] < s->n_experts], s->n_experts - 1);
    else if (i->effect == STEER_SWAP && i->pair[0] == i->pair[1])
        snprintf(err, size, "expert %u cannot change places with itself", i->pair[0]);
    else
        return 0;
    return -1;
}

int steer_put(struct steer *s, const struct steer_item *i, char *err, size_t size)
{
    int layers = i->effect == STEER_K || i->effect == STEER_SWAP;
    struct set set;
    if (bad_value(s, i, err, size) ||
        (layers ? set_layers(&set, i->where, s->n_layers, err, size)
                : set_experts(&set, i->where, s->n_layers, s->n_experts, err, size)))
        return -1;
    for (uint32_t at = 0; at < set.n; at++) {
        if (!set.in[at])
            continue;
        if (i->effect == STEER_K) {
            s->k[at] = (uint16_t)(i->value == s->top_k ? 0 : i->value);
        } else if (i->effect == STEER_SWAP) {
            uint16_t *a = &s->source[at * s->n_experts + i->pair[0]];
            uint16_t *b = &s->source[at * s->n_experts + i->pair[1]], was = *a;
            *a = *b;
            *b = was;
        } else {
            put_expert(s, at, i);
        }
    }
    set_free(&set);
    return 0;
}

void steer_begin(struct steer *s, int afresh)
{
    memcpy(s->was, s->state, s->bytes);
    if (afresh)
        reset(s);
}

int steer_end(struct steer *s, int failed, char *err, size_t size)
{
    if (failed || check(s, err, size)) {
        memcpy(s->state, s->was, s->bytes);
        return -1;
    }
    if (!memcmp(s->state, s->was, s->bytes))
        return 0;
    void *past = malloc(s->bytes);
    if (!past) {
        memcpy(s->state, s->was, s->bytes);
        snprintf(err, size, "out of memory");
        return -1;
    }
    memcpy(past, s->was, s->bytes);
    if (s->n_past == STEER_PAST) {
        free(s->past[0]);
        memmove(s->past, s->past + 1, --s->n_past * sizeof *s->past);
    }
    s->past[s->n_past++] = past;
    settle(s);
    return 1;
}

int steer_apply(struct steer *s, const struct steer_item *i, char *err, size_t size)
{
    steer_begin(s, 0);
    return steer_end(s, steer_put(s, i, err, size), err, size);
}

int steer_off(struct steer *s)
{
    char ignored[8];
    steer_begin(s, 1);
    return steer_end(s, 0, ignored, sizeof ignored);
}

int steer_undo(struct steer *s)
{
    if (!s->n_past)
        return 0;
    memcpy(s->state, s->past[--s->n_past], s->bytes);
    free(s->past[s->n_past]);
    settle(s);
    return 1;
}
