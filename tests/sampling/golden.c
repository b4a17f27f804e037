/* tests/sampling/golden.c -- the sampler against transformers' own processors and warpers
 * on recorded logits (tests/sampling/golden.py wrote them): survivors and probabilities. */
#include "repl/sampler.h"
#include "tests/tap.h"

#include <cjson/cJSON.h>
#include <math.h>
#include <string.h>

enum { MAX_V = 256, MAX_IDS = 128, MAX_ROWS = 64 };

static uint32_t ids(const cJSON *list, int32_t *out)
{
    uint32_t n = 0;
    const cJSON *x;
    cJSON_ArrayForEach(x, list) {
        if (n == MAX_IDS)
            bail("a list is too long");
        out[n++] = (int32_t)x->valuedouble;
    }
    return n;
}

static const cJSON *get(const cJSON *j, const char *name)
{
    return cJSON_GetObjectItemCaseSensitive(j, name);
}

static double real(const cJSON *params, const char *name, double off)
{
    const cJSON *x = get(params, name);
    return x ? x->valuedouble : off;
}

static struct case_data {
    int32_t history[MAX_IDS], eos[MAX_IDS], suppress[MAX_IDS];
    struct sampler_bias bias[MAX_IDS];
    struct sampler_history h;
    struct sampler_params p;
} data;

static void read_case(const cJSON *j, struct case_data *d)
{
    const cJSON *c = get(j, "params"), *x;
    d->h.token = d->history;
    d->h.n = ids(get(j, "history"), d->history);
    d->h.n_prompt = (uint32_t)get(j, "n_prompt")->valuedouble;
    d->p = (struct sampler_params){
        .logit_bias = d->bias, .eos = d->eos, .n_eos = ids(get(j, "eos"), d->eos),
        .suppress_tokens = d->suppress, .n_suppress_tokens = ids(get(c, "suppress_tokens"), d->suppress),
        .repetition_penalty = real(c, "repetition_penalty", 1),
        .no_repeat_ngram_size = (uint32_t)real(c, "no_repeat_ngram_size", 0),
        .min_new_tokens = (uint32_t)real(c, "min_new_tokens", 0),
        .frequency_penalty = real(c, "frequency_penalty", 0),
        .presence_penalty = real(c, "presence_penalty", 0),
        .temperature = real(c, "temperature", 1), .top_k = (uint32_t)real(c, "top_k", 0),
        .top_p = real(c, "top_p", 1), .min_p = real(c, "min_p", 0),
        .typical_p = real(c, "typical_p", 1), .epsilon_cutoff = real(c, "epsilon_cutoff", 0),
        .eta_cutoff = real(c, "eta_cutoff", 0),
    };
    cJSON_ArrayForEach(x, get(c, "logit_bias"))
        d->bias[d->p.n_logit_bias++] = (struct sampler_bias){
            (int32_t)x->child->valuedouble, (float)x->child->next->valuedouble };
}

/* Of tokens with equal scores a filter may keep some; which ones is open in transformers,
 * so what is compared is how many of each score survive, and what they have. */
static int same(const struct sampler_report *r, const double *want, char *why, size_t size)
{
    for (uint32_t i = 0; i < r->n; i++) {
        const struct sampler_candidate *x = &r->top[i];
        double p = 0, q = 0;
        int n = 0, m = 0;
        for (uint32_t k = 0; k < r->n; k++)
            if (r->top[k].score == x->score) {
                n += r->top[k].cut_by == SAMPLER_STAGES;
                m += want[r->top[k].id] >= 0;
                p += r->top[k].after;
                q += want[r->top[k].id] >= 0 ? want[r->top[k].id] : 0;
            }
        if (n != m || fabs(p - q) > 1e-6 * (m ? m : 1)) {
            snprintf(why, size, "score %.9g (id %d): %d survive with %.9g, transformers keeps %d with %.9g",
                     x->score, x->id, n, p, m, q);
            return 0;
        }
    }
    return 1;
}

int main(void)
{
    static float row[MAX_ROWS][MAX_V];
    static uint32_t n_row[MAX_ROWS];
    static struct sampler_candidate top[MAX_V];
    static double want[MAX_V];
    char path[4096], *line = NULL;
    size_t cap = 0, number = 0;
    snprintf(path, sizeof path, "%s/tests/data/sampling/golden.jsonl", getenv("srcdir"));
    FILE *f = fopen(path, "r");
    if (!f)
        bail("%s cannot be read", path);
    while (getline(&line, &cap, f) > 0) {
        cJSON *j = cJSON_Parse(line);
        const cJSON *x, *logits = get(j, "logits");
        number++;
        if (!j)
            bail("%s:%zu is no JSON", path, number);
        if (get(j, "made_by")) {
            cJSON_Delete(j);
            continue;
        }
        size_t at = (size_t)get(j, "row")->valuedouble;
        if (at >= MAX_ROWS)
            bail("too many rows");
        if (logits) {
            cJSON_ArrayForEach(x, logits)
                row[at][n_row[at]++] = (float)x->valuedouble;
            cJSON_Delete(j);
            continue;
        }
        read_case(j, &data);
        for (size_t i = 0; i < MAX_V; i++)
            want[i] = -1;
        int n_want = 0;
        cJSON_ArrayForEach(x, get(j, "p")) {
            want[(int)x->child->valuedouble] = x->child->next->valuedouble;
            n_want++;
        }
        struct sampler *s = sampler_new(n_row[at], NULL);
        struct sampler_report r = { .top = top, .n = n_row[at] };
        char why[200] = "", *params = cJSON_PrintUnformatted(get(j, "params"));
        sampler_explain(s, &data.p, &data.h, row[at], &r);
        int fine = same(&r, want, why, sizeof why) && r.n == n_row[at] &&
                   r.left[SAMPLER_STAGES - 1] == (uint32_t)n_want;
        int32_t id = sampler_draw(s, &data.p, &data.h, row[at]);
        fine &= n_want ? id >= 0 : id == SAMPLER_NONE_LEFT;
        for (uint32_t i = 0; i < r.n; i++)     /* what is drawn is one that survived */
            fine &= top[i].id != id || top[i].cut_by == SAMPLER_STAGES;
        if (n_want && data.p.temperature == 0)
            fine &= want[id] == 1;
        ok(fine, "line %zu: row %zu, %s", number, at, params);
        if (!fine)
            diag("%s; %u left of %d", why, r.left[SAMPLER_STAGES - 1], n_want);
        free(params);
        sampler_free(s);
        cJSON_Delete(j);
    }
    free(line);
    fclose(f);
    ok(number > 400, "%zu lines", number);
    return done();
}
