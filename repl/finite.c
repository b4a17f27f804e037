/* repl/finite.c -- see finite.h. */
#include "repl/finite.h"

#include "plugins/fail.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

struct search { size_t d_model; int32_t layer; };      /* the lowest so far, or INT32_MAX */

static int all_finite(const float *x, size_t n)
{
    float zero = 0;                        /* 0 x: a sum of NaNs as soon as one is not finite */
    for (size_t i = 0; i < n; i++)
        zero += 0 * x[i];
    return zero == 0;
}

static void look(void *ctx, int kind, int32_t layer, uint32_t pos, uint32_t n_tokens, const float *x)
{
    struct search *s = ctx;
    (void)pos;
    if (kind == DBRX_TAP_RESIDUAL && layer < s->layer && !all_finite(x, n_tokens * s->d_model))
        s->layer = layer;
}

dbrx_status finite_check(struct disp *d, const float *logits, uint32_t n_vocab, const int32_t *token, uint32_t n,
                         struct dbrx_error *err)
{
    if (all_finite(logits, n_vocab))
        return DBRX_OK;
    const struct dbrx_config *c = disp_config(d);
    struct search s = { c->d_model, INT32_MAX };
    uint8_t *want = malloc(c->n_layers + 1u);
    struct dbrx_error why;
    const struct dbrx_tap tap = { .struct_size = sizeof tap, .ctx = &s, .want = want, .emit = look };
    struct dbrx_batch b = { .struct_size = sizeof b, .n_tokens = n, .token = token, .tap = &tap };
    if (want) {
        memset(want, 1 << DBRX_TAP_RESIDUAL, c->n_layers + 1u);
        if (disp_truncate(d, 0, &why) == DBRX_OK)
            disp_eval(d, &b, &why);
    }
    free(want);
    disp_truncate(d, 0, &why);
    const char *steered = disp_steered(d) ? ", if it is not the steering (/steer)" : "";
    if (s.layer == INT32_MAX)
        return fail(err, DBRX_E_UNSUPPORTED, "the logits are no numbers, though every layer gives some: the norm behind "
                    "the last layer or the head is damaged, or the backend%s", steered);
    if (s.layer < 0)
        return fail(err, DBRX_E_UNSUPPORTED, "the logits are no numbers: the embedding is damaged, it holds values that "
                    "are not finite");
    return fail(err, DBRX_E_UNSUPPORTED, "the logits are no numbers from layer %d of 0 to %u on: its weights hold values "
                "that are not finite, or lead to some%s", s.layer, c->n_layers - 1, steered);
}
