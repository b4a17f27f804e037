/* repl/reply.c -- a prompt and its reply: text to ids, ids to the session, tokens back to
 * the renderer as they come.  Knows no terminal and no backend. */
#include "repl/shell.h"

#include "repl/beam.h"
#include "repl/signals.h"

#include <stdlib.h>
#include <string.h>

struct reply {
    struct shell *sh;
    struct tok_stream stream;
    char  *text;                           /* [len], what was said; for --json */
    size_t len, cap;
};

int reply_is_eos(const struct shell *sh, int32_t id)
{
    for (uint32_t i = 0; i < sh->n_eos; i++)
        if (sh->eos[i] == id)
            return 1;
    return 0;
}

/* Room for `more` bytes behind text; out of memory loses the copy, not the reply */
static char *room(struct reply *r, size_t more)
{
    if (r->len + more > r->cap) {
        size_t cap = 2 * (r->len + more);
        char *text = realloc(r->text, cap);
        if (!text)
            return NULL;
        r->text = text;
        r->cap = cap;
    }
    return r->text + r->len;
}

static int on_token(void *ctx, int32_t id, uint32_t pos)
{
    struct reply *r = ctx;
    struct shell *sh = r->sh;
    size_t len = 0, n = 0;
    const char *bytes = sh->tok && !reply_is_eos(sh, id) ? tok_bytes(sh->tok, id, &len) : NULL;
    char *out = room(r, 3 * len + 12);
    if (bytes && out)
        n = tok_stream_push(&r->stream, bytes, len, out);
    render_busy(&sh->out, 0);
    if (n)
        render_reply(&sh->out, out, n);
    if (sh->out.json) {
        cJSON *f = cJSON_CreateObject();
        cJSON_AddNumberToObject(f, "pos", pos);
        cJSON_AddNumberToObject(f, "id", id);
        field_text(f, "text", out ? out : "", n);
        render_object(&sh->out, "token", f);
    }
    r->len += n;
    return 0;
}

static double rate(uint64_t n, double s)
{
    return s > 0 ? (double)n / s : 0;
}

static void after_reply(struct shell *sh, const struct reply *r, uint32_t from, enum sess_finish why)
{
    const struct sess_stats *st = &sh->sess->last;
    const char *cut = why == SESS_MAX_TOKENS ? " | cut at max_tokens"
                    : why == SESS_CONTEXT_FULL ? " | context full: /new" : why == SESS_STOPPED ? " | interrupted" : "";
    char prompt[80] = "";
    if (st->prompt_tokens)                 /* Enter alone has none */
        snprintf(prompt, sizeof prompt, " | prompt %llu, %.0f tok/s",
                 (unsigned long long)st->prompt_tokens, rate(st->prompt_tokens, st->prompt_s));
    render_aside(&sh->out, "[%llu tokens, %.0f tok/s%s | %s | context %u/%u%s]",
                 (unsigned long long)st->gen_tokens, rate(st->gen_tokens, st->gen_s), prompt,
                 disp_name(sh->disp) ? disp_name(sh->disp) : "no backend", sh->sess->n,
                 disp_max_pos(sh->disp), cut);
    const struct var *v = sh->vars.v;
    int random = v[VAR_TEMPERATURE].num > 0 && v[VAR_NUM_BEAMS].num == 1;
    if (!sh->seed_shown && v[VAR_SEED].num < 0 && random)
        render_aside(&sh->out, "[drawn with seed %llu]", (unsigned long long)sh->seed);
    sh->seed_shown = 1;
    if (!sh->out.json)
        return;
    cJSON *f = cJSON_CreateObject(), *ids = cJSON_AddArrayToObject(f, "tokens");
    field_text(f, "text", r->text ? r->text : "", r->len);
    for (uint32_t i = from; i < sh->sess->n; i++)
        cJSON_AddItemToArray(ids, cJSON_CreateNumber(sh->sess->token[i]));
    cJSON_AddStringToObject(f, "finish_reason", sess_finish_name(why));
    cJSON_AddNumberToObject(f, "pos", from);
    cJSON_AddNumberToObject(f, "seed", (double)sh->seed);
    cJSON_AddNumberToObject(f, "prompt_tokens", (double)st->prompt_tokens);
    cJSON_AddNumberToObject(f, "prompt_seconds", st->prompt_s);
    cJSON_AddNumberToObject(f, "seconds", st->gen_s);
    render_object(&sh->out, "reply", f);
}

/* The ids this text adds to the timeline; 0 or -1 */
static int to_ids(struct shell *sh, const char *text, size_t len, int chat, struct tok_ids *ids)
{
    const struct sess *s = sh->sess;
    int bad;
    if (!chat) {
        bad = tok_encode(sh->tok, text, len, TOK_PLAIN, ids);
    } else {
        const char *system = sh->vars.v[VAR_SYSTEM].text;
        int32_t end = tok_special(sh->tok, "<|im_end|>");
        int first = !s->n;
        bad = 0;
        /* a reply that was cut or interrupted still has to end before the next message */
        if (sh->reply_open && s->n && s->token[s->n - 1] != end && end >= 0)
            bad = tok_ids_push(ids, end);
        if (!bad && first && *system) {
            bad = chat_message(sh->tok, "system", system, strlen(system), 1, TOK_PLAIN, ids);
            first = 0;
        }
        bad = bad ? bad : chat_message(sh->tok, "user", text, len, first, TOK_PLAIN, ids);
        bad = bad ? bad : chat_reply(sh->tok, ids);
    }
    if (bad == -2)
        return render_error(&sh->out, "this checkpoint's tokenizer has no <|im_start|> and <|im_end|>, "
                            "which chat mode needs; use /set mode base");
    return bad ? render_error(&sh->out, "out of memory") : 0;
}

static int append(struct shell *sh, const struct tok_ids *ids)
{
    struct dbrx_error err;
    dbrx_status st = sess_append(sh->sess, ids->id, ids->n, &err);
    if (st == DBRX_E_FULL)
        return render_error(&sh->out, "the prompt has %zu tokens, and the context has room for %u more "
                            "(%u of %u are taken); nothing was changed: shorten it, or start afresh with /new",
                            ids->n, disp_max_pos(sh->disp) - sh->sess->n, sh->sess->n,
                            disp_max_pos(sh->disp));
    return st == DBRX_OK ? 0 : shell_failed(sh, st, &err);
}

/* Reads the prompt.  One that was not read to its end leaves no trace. */
static int prefill(struct shell *sh, uint32_t before)
{
    struct dbrx_error err = { 0 };
    render_busy(&sh->out, 1);
    dbrx_status st = sess_sync(sh->sess, &err);
    render_busy(&sh->out, 0);
    if (st == DBRX_OK)
        return 0;
    sess_truncate(sh->sess, before);
    if (st == DBRX_STOPPED)
        return render_error(&sh->out, "interrupted while the prompt was read; it was not added");
    return shell_failed(sh, st, &err);
}

static struct sampler_params sampling(const struct shell *sh)
{
    const struct var *v = sh->vars.v;
    return (struct sampler_params){
        .logit_bias = sh->logit_bias.bias, .n_logit_bias = sh->logit_bias.n,
        .repetition_penalty = v[VAR_REPETITION_PENALTY].num,
        .no_repeat_ngram_size = (uint32_t)v[VAR_NO_REPEAT_NGRAM_SIZE].num,
        .min_new_tokens = (uint32_t)v[VAR_MIN_NEW_TOKENS].num,
        .suppress_tokens = sh->suppress_tokens.id, .n_suppress_tokens = sh->suppress_tokens.n,
        .frequency_penalty = v[VAR_FREQUENCY_PENALTY].num,
        .presence_penalty = v[VAR_PRESENCE_PENALTY].num,
        .temperature = v[VAR_TEMPERATURE].num, .top_k = (uint32_t)v[VAR_TOP_K].num,
        .top_p = v[VAR_TOP_P].num, .min_p = v[VAR_MIN_P].num, .typical_p = v[VAR_TYPICAL_P].num,
        .epsilon_cutoff = v[VAR_EPSILON_CUTOFF].num, .eta_cutoff = v[VAR_ETA_CUTOFF].num,
    };
}

int reply_to(struct shell *sh, const char *text, size_t len)
{
    struct sess *s = sh->sess;
    int chat = sh->vars.v[VAR_MODE].num == 1;
    uint32_t before = s->n;
    if (!len && (chat || !s->n))
        return 0;
    if (!sh->tok)
        return render_error(&sh->out, "prompts need a tokenizer: %s.  /feed IDS works without", sh->tok_why);
    if (!disp_name(sh->disp))
        return render_error(&sh->out, "no backend is open; /backend NAME opens one");

    struct tok_ids ids = { 0 };
    int failed = (len && to_ids(sh, text, len, chat, &ids)) || append(sh, &ids);
    free(ids.id);
    if (failed)
        return -1;
    if (s->n == disp_max_pos(sh->disp)) {
        sess_truncate(s, before);
        return render_error(&sh->out, "the context of %u tokens is full%s; start afresh with /new",
                            disp_max_pos(sh->disp), len ? " with this prompt, which was not added" : "");
    }
    s->last = (struct sess_stats){ 0 };
    if (prefill(sh, before))
        return -1;
    sh->reply_open = chat;

    const struct var *v = sh->vars.v;
    struct reply r = { .sh = sh };
    struct sess_gen g = {
        .sampling = sampling(sh),
        .max_tokens = (uint32_t)v[VAR_MAX_TOKENS].num, .eos = sh->eos, .n_eos = sh->n_eos,
        .on_token = on_token, .ctx = &r,
    };
    enum sess_finish why;
    struct dbrx_error err = { 0 };
    uint32_t from = s->n;
    const struct beam_params beams = { (uint32_t)v[VAR_NUM_BEAMS].num, v[VAR_LENGTH_PENALTY].num,
                                       (enum beam_stop)v[VAR_EARLY_STOPPING].num };
    render_busy(&sh->out, beams.num_beams > 1);
    dbrx_status st = beams.num_beams > 1 ? beam_generate(s, &beams, &g, &why, NULL, &err)
                                         : sess_generate(s, &g, &why, &err);
    render_busy(&sh->out, 0);
    char *out = room(&r, 12);
    if (out) {
        size_t n = tok_stream_end(&r.stream, out);
        render_reply(&sh->out, out, n);
        r.len += n;
    }
    render_reply_end(&sh->out);
    after_reply(sh, &r, from, why);
    free(r.text);
    return st < 0 ? shell_failed(sh, st, &err) : 0;
}
