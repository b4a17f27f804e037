/* repl/probs.c -- what the model thought likely: /logits, /pick and /surprise.
 * Knows the sampler's report and the session; how text is coloured is the renderer's. */
#define _GNU_SOURCE
#include "repl/handlers.h"

#include "repl/commands.h"
#include "repl/shell.h"
#include "repl/words.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

double prob_of(const float *logits, uint32_t n, int32_t id)
{
    double max = -INFINITY, sum = 0;
    for (uint32_t i = 0; i < n; i++)
        max = logits[i] > max ? (double)logits[i] : max;
    for (uint32_t i = 0; i < n; i++)
        if (!isnan(logits[i]))
            sum += exp((double)logits[i] - max);
    double p = exp((double)logits[id] - max) / sum;
    return isnan(p) ? 0 : p;
}

/* ---- the candidates for one position ---- */

struct look {
    uint32_t pos;                          /* of the token they are candidates for: 1 .. n */
    float *logits;                         /* [n_vocab]                                    */
    const uint8_t *banned;                 /* [n_vocab] by grammar or schema, or NULL      */
    struct sampler_report report;
};

static void look_free(struct look *l)
{
    free(l->logits);
    free(l->report.top);
}

/* The position meant: the one given; that of the last /logits if nothing changed since; else
 * the token to come, or that which ended the reply, as nothing comes after it. */
static int find_position(struct shell *sh, const char *given, long at, uint32_t *pos)
{
    const struct sess *s = sh->sess;
    long n = s->n;
    if (!n)
        return render_error(&sh->out, "there is no token yet: type a prompt, or /feed some ids");
    if (!given) {
        *pos = sh->looked_at && sh->looked_n == s->n ? sh->looked_at
             : s->n - (n > 1 && reply_is_eos(sh, s->token[n - 1]));
        return 0;
    }
    long wanted = at < 0 ? n + at : at;
    if (wanted < 0 || wanted > n)
        return render_error(&sh->out, "token %ld is not there: the conversation has tokens 0 to %ld, and %ld "
                            "is the one to come (-1 to -%ld count from the end)", at, n - 1, n, n);
    if (!wanted)
        return render_error(&sh->out, "token 0 is the first: nothing came before that could tell how likely it is");
    *pos = (uint32_t)wanted;
    return 0;
}

/* Where the reply began that the token at pos belongs to */
static uint32_t reply_of(const struct branch *b, uint32_t pos)
{
    for (uint32_t i = 0; i < b->n_turns; i++)
        if (b->turn[i].reply <= pos && pos < b->turn[i].end)
            return b->turn[i].reply;
    return pos;
}

/* The k likeliest for that position; 0 or -1 */
static int look(struct shell *sh, uint32_t pos, uint32_t k, struct look *l)
{
    struct sess *s = sh->sess;
    struct dbrx_error err = { 0 };
    if (!disp_name(sh->disp))
        return render_error(&sh->out, "no backend is open; /backend NAME opens one");
    char why[512];
    if (shell_constrain(sh, why, sizeof why))
        return render_error(&sh->out, "%s", why);
    *l = (struct look){ .pos = pos };
    k = k < s->n_vocab ? k : s->n_vocab;
    l->logits = malloc(s->n_vocab * sizeof *l->logits);
    l->report.top = calloc(k, sizeof *l->report.top);
    l->report.n = k;
    if (!l->logits || !l->report.top) {
        look_free(l);
        return render_error(&sh->out, "out of memory");
    }
    render_busy(&sh->out, 1);
    dbrx_status st = sess_logits_at(s, pos, l->logits, &err);
    render_busy(&sh->out, 0);
    if (st != DBRX_OK) {
        look_free(l);
        return shell_failed(sh, st, &err);
    }
    struct sess_gen g = reply_gen(sh);
    const struct sampler_history h = { s->token, pos, reply_of(sh->tree->now, pos) };
    l->banned = shell_constrain_token(sh, pos);
    sampler_mask(s->sampler, l->banned);
    sampler_explain(s->sampler, &g.sampling, &h, l->logits, &l->report);
    sampler_mask(s->sampler, NULL);
    return 0;
}

/* ---- /logits ---- */

static char *show_probability(const char *field, const cJSON *row)
{
    const cJSON *v = cJSON_GetObjectItemCaseSensitive(row, field);
    double percent = cJSON_IsNumber(v) ? 100 * v->valuedouble : 0;
    char *text = NULL;
    return asprintf(&text, percent >= 0.01 ? "%.2f%%" : percent > 0 ? "%.0e%%" : "-", percent) < 0 ? NULL : text;
}

static char *show_before(const struct render *r, const cJSON *row)
{
    (void)r;
    return show_probability("before", row);
}

static char *show_after(const struct render *r, const cJSON *row)
{
    (void)r;
    return show_probability("after", row);
}

static char *show_note(const struct render *r, const cJSON *row)
{
    const char *cut = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(row, "cut_by"));
    int there = cJSON_IsTrue(cJSON_GetObjectItemCaseSensitive(row, "taken"));
    char *text = NULL;
    (void)r;
    return asprintf(&text, "%s%s%s%s", cut ? "cut by " : "", cut ? cut : "", cut && there ? "; " : "",
                    there ? "is there now" : "") < 0 ? NULL : text;
}

static char *quoted_token(const struct shell *sh, int32_t id)
{
    char *text = token_text(sh, id), *quoted = NULL;
    if (text && asprintf(&quoted, "\"%s\"", text) < 0)
        quoted = NULL;
    free(text);
    return quoted;
}

/* ... and at most so long that what is said about it fits beside it */
static char *short_token(const struct shell *sh, int32_t id)
{
    enum { MOST = 24 };
    char *text = quoted_token(sh, id);
    size_t n = MOST;
    if (!text || strlen(text) <= MOST + 3)
        return text;
    while ((text[n] & 0xc0) == 0x80)
        n--;
    strcpy(text + n, "...");
    return text;
}

static cJSON *candidate_rows(struct shell *sh, const struct look *l)
{
    const struct sess *s = sh->sess;
    cJSON *list = cJSON_CreateArray();
    for (uint32_t i = 0; i < l->report.n; i++) {
        const struct sampler_candidate *c = &l->report.top[i];
        cJSON *row = cJSON_CreateObject();
        char *text = sh->out.json ? token_text(sh, c->id) : short_token(sh, c->id);
        cJSON_AddItemToArray(list, row);
        cJSON_AddNumberToObject(row, "n", i + 1);
        cJSON_AddNumberToObject(row, "id", c->id);
        field_string(row, "text", text ? text : "");
        field_real(row, "logit", (double)c->logit);
        field_real(row, "before", c->before);
        field_real(row, "after", c->after);
        if (c->cut_by == SAMPLER_VOCABULARY && l->banned && l->banned[c->id])
            field_string(row, "cut_by", var_defs[sh->constraint_var].name);
        else if (c->cut_by < SAMPLER_STAGES)
            field_string(row, "cut_by", sampler_stage_name(c->cut_by));
        if (l->pos < s->n && s->token[l->pos] == c->id)
            cJSON_AddBoolToObject(row, "taken", 1);
        free(text);
    }
    return list;
}

/* {"top_k":40,...} of the stages that cut; and as words */
static cJSON *cuts(const struct look *l, uint32_t n_vocab, char *words, size_t size)
{
    cJSON *left = cJSON_CreateObject();
    uint32_t before = n_vocab;
    size_t n = (size_t)snprintf(words, size, "%u candidates", l->report.left[SAMPLER_VOCABULARY]);
    for (int i = 0; i < SAMPLER_STAGES; i++) {
        const char *name = sampler_stage_name((enum sampler_stage)i);
        if (l->report.left[i] == before)
            continue;
        before = l->report.left[i];
        cJSON_AddNumberToObject(left, name, before);
        if (i != SAMPLER_VOCABULARY && n < size)
            n += (size_t)snprintf(words + n, size - n, ", %s leaves %u", name, before);
    }
    return left;
}

int handle_logits(struct shell *sh, const struct args *a)
{
    static const struct column col[] = {
        { "n", "n", 1, 0, NULL }, { "id", "id", 1, 0, NULL }, { "text", "token", 0, 0, NULL },
        { NULL, "model", 1, 0, show_before }, { NULL, "drawn with", 1, 0, show_after },
        { NULL, "", 0, 0, show_note }, { 0 } };
    static const struct rows rows = { "rows", "logits", "rows", col, 0 };
    long k = a->text[0] ? a->num[0] : 10;
    uint32_t pos;
    struct look l;
    char words[400], *text, *title = NULL;
    if (k < 1 || k > UINT32_MAX)
        return render_error(&sh->out, "%ld is no number of candidates; /logits 20 shows 20", k);
    if (!a->text[1])
        sh->looked_at = 0;                 /* plain /logits looks at the end */
    if (find_position(sh, a->text[1], a->num[1], &pos) || look(sh, pos, (uint32_t)k, &l))
        return -1;
    sh->looked_at = pos;
    sh->looked_n = sh->sess->n;
    cJSON *head = cJSON_CreateObject();
    cJSON_AddNumberToObject(head, "pos", pos);
    cJSON_AddNumberToObject(head, "candidates", sh->sess->n_vocab);
    cJSON_AddItemToObject(head, "left", cuts(&l, sh->sess->n_vocab, words, sizeof words));
    text = quoted_token(sh, sh->sess->token[pos - 1]);
    if (asprintf(&title, "token %u%s, after %s: %s", pos, pos == sh->sess->n ? " (to come)" : "",
                 text ? text : "", words) < 0)
        title = NULL;
    render_rows(&sh->out, &rows, title, head, candidate_rows(sh, &l));
    free(title);
    free(text);
    look_free(&l);
    return 0;
}

/* ---- /pick ---- */

/* The first token of a reply that was not drawn, as if it had been */
static void show_picked(struct shell *sh, uint32_t pos, int32_t id)
{
    size_t len = 0;
    const char *bytes = sh->tok && !reply_is_eos(sh, id) ? tok_bytes(sh->tok, id, &len) : NULL;
    char *clean = text_clean(bytes ? bytes : "", bytes ? len : 0);
    if (!clean)
        return;
    if (sh->out.json) {
        cJSON *f = cJSON_CreateObject();
        cJSON_AddNumberToObject(f, "pos", pos);
        cJSON_AddNumberToObject(f, "id", id);
        field_string(f, "text", clean);
        render_object(&sh->out, "token", f);
    }
    render_reply(&sh->out, clean, strlen(clean));
    free(clean);
}

/* The conversation up to `pos`, then `id`, then whatever the model says, as a branch: what was
 * there from pos on stays where it is. */
static int go_on_with(struct shell *sh, uint32_t pos, int32_t id)
{
    struct sess *s = sh->sess;
    struct dbrx_error err = { 0 };
    struct tok_ids ids = { .id = &id, .n = 1, .cap = 1 };
    const struct turn *last = tree_last(sh->tree);
    int chat = last && last->chat, forked = pos < s->n;
    struct branch *was = sh->tree->now;
    if (forked) {
        dbrx_status st = tree_fork(sh->tree, NULL, "pick", sh->tree->now->n_turns, &err);
        if (st != DBRX_OK)
            return shell_failed(sh, st, &err);
        sess_truncate(s, pos);
        st = tree_settle(sh->tree, &err);
        if (st != DBRX_OK)
            return shell_failed(sh, st, &err);
    }
    if (reply_prompt(sh, &ids, chat)) {
        struct branch *failed = sh->tree->now;
        if (forked && tree_switch(sh->tree, was, NULL) == DBRX_OK)
            tree_drop(sh->tree, failed, NULL);
        return -1;
    }
    if (forked)
        render_event(&sh->out, "status", NULL, "on branch %s; /switch %s goes back", sh->tree->now->name, was->name);
    reply_explain(sh);
    show_picked(sh, pos, id);
    if (!reply_is_eos(sh, id))
        return reply_draw(sh, 0, NULL);
    render_reply_end(&sh->out);
    return 0;
}

int handle_pick(struct shell *sh, const struct args *a)
{
    uint32_t pos;
    struct look l;
    long n = a->num[0];
    if (n < 1 || n > sh->sess->n_vocab)
        return render_error(&sh->out, "%ld is no candidate: they are numbered from 1, as /logits lists them", n);
    if (find_position(sh, a->text[1], a->num[1], &pos) || look(sh, pos, (uint32_t)n, &l))
        return -1;
    int32_t id = l.report.n == (uint32_t)n ? l.report.top[n - 1].id : -1;
    look_free(&l);
    sh->looked_at = 0;
    if (id < 0)
        return render_error(&sh->out, "there are fewer than %ld candidates; /logits lists them", n);
    return go_on_with(sh, pos, id);
}

/* ---- /surprise ---- */

struct surprise {
    const struct sess *s;
    double *bits;                          /* [n], of the token at that position        */
};

static dbrx_status take_piece(void *ctx, uint32_t pos, uint32_t n, const float *logits)
{
    struct surprise *u = ctx;
    for (uint32_t i = 0; i < n && pos + i + 1 < u->s->n; i++)
        u->bits[pos + i + 1] = -log2(prob_of(logits + (size_t)i * u->s->n_vocab, u->s->n_vocab,
                                             u->s->token[pos + i + 1]));
    return DBRX_OK;
}

static char *show_bits(const struct render *r, const cJSON *row)
{
    const cJSON *v = cJSON_GetObjectItemCaseSensitive(row, "bits");
    char *text = NULL, bar[32] = "";
    if (!cJSON_IsNumber(v))
        return strdup(cJSON_GetObjectItemCaseSensitive(row, "pos")->valueint ? "inf" : "");
    if (r->out_tty)                        /* a mark a bit */
        memset(bar, '=', v->valuedouble < 30 ? (size_t)(v->valuedouble + 0.5) : 30);
    return asprintf(&text, "%6.2f  %s", v->valuedouble, bar) < 0 ? NULL : text;
}

int handle_surprise(struct shell *sh, const struct args *a)
{
    enum { STEP = 32 };                    /* logits of that many tokens at a time: 12 MB for DBRX */
    static const struct column col[] = { { "pos", "pos", 1, 0, NULL }, { "id", "id", 1, 0, NULL },
        { "text", "token", 0, 0, NULL }, { NULL, "  bits", 0, 0, show_bits }, { 0 } };
    static const struct rows rows = { "rows", "surprise", "rows", col, 0 };
    struct sess *s = sh->sess;
    struct dbrx_error err = { 0 };
    (void)a;
    if (s->n < 2)
        return render_error(&sh->out, "two tokens are needed, the second to be surprised by: type a prompt, or /feed some ids");
    if (!disp_name(sh->disp))
        return render_error(&sh->out, "no backend is open; /backend NAME opens one");
    struct surprise u = { s, calloc(s->n, sizeof *u.bits) };
    if (!u.bits)
        return render_error(&sh->out, "out of memory");
    render_busy(&sh->out, 1);
    dbrx_status st = sess_rescan(s, STEP, NULL, take_piece, &u, &err);
    render_busy(&sh->out, 0);
    if (st != DBRX_OK) {
        free(u.bits);
        return shell_failed(sh, st, &err);
    }
    double sum = 0;
    cJSON *list = cJSON_CreateArray(), *head = cJSON_CreateObject();
    for (uint32_t i = 0; i < s->n; i++) {
        char *text = sh->out.json ? token_text(sh, s->token[i]) : quoted_token(sh, s->token[i]);
        cJSON *row = cJSON_CreateObject();
        cJSON_AddItemToArray(list, row);
        cJSON_AddNumberToObject(row, "pos", i);
        cJSON_AddNumberToObject(row, "id", s->token[i]);
        field_string(row, "text", text ? text : "");
        if (i)
            field_real(row, "bits", u.bits[i]);        /* nothing predicts the first */
        sum += u.bits[i];
        free(text);
    }
    double mean = sum / (s->n - 1);
    char title[160];
    snprintf(title, sizeof title, "perplexity %.2f: %.2f bits a token, %.1f bits in %u tokens after the first",
             exp2(mean), mean, sum, s->n - 1);
    cJSON_AddNumberToObject(head, "tokens", s->n - 1);
    field_real(head, "bits", sum);
    field_real(head, "bits_per_token", mean);
    field_real(head, "perplexity", exp2(mean));
    render_rows(&sh->out, &rows, title, head, list);
    free(u.bits);
    return 0;
}
