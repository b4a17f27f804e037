/* repl/reply.c -- a prompt and its reply: text to ids, ids to the session, tokens back to
 * the renderer as they come.  Knows no terminal and no backend. */
#include "repl/shell.h"

#include "repl/beam.h"
#include "repl/handover.h"
#include "repl/handlers.h"
#include "repl/instruments.h"
#include "repl/signals.h"
#include "repl/stops.h"

#include <stdlib.h>
#include <string.h>

enum { KEEP_FIRST = 4 };                   /* tokens that a shift leaves in base mode: attention
                                              rests on the first ones (Xiao et al., 2023) */

struct reply {
    struct shell *sh;
    int quiet, stopped;                    /* a stop string was found                     */
    struct stops stops;
    struct tok_stream stream;
    char  *raw;                            /* [n_raw] bytes of the tokens, `shown` of them shown */
    size_t n_raw, cap_raw, shown;
    char  *text;                           /* [len], what was said                        */
    size_t len, cap;
    uint32_t shifts, dropped;              /* what a full context cost                    */
    int handed;                            /* a handover took place                       */
};

int reply_is_eos(const struct shell *sh, int32_t id)
{
    for (uint32_t i = 0; i < sh->n_eos; i++)
        if (sh->eos[i] == id)
            return 1;
    return 0;
}

/* Room for `more` bytes behind buf[n]; out of memory loses the copy, not the reply */
static char *room(char **buf, size_t n, size_t *cap, size_t more)
{
    if (n + more > *cap) {
        char *text = realloc(*buf, 2 * (n + more));
        if (!text)
            return NULL;
        *buf = text;
        *cap = 2 * (n + more);
    }
    return *buf + n;
}

/* Shows raw up to `end`; at the end of it all, what is held of a character too */
static void show(struct reply *r, size_t end, int last)
{
    size_t more = end - r->shown, n = 0;
    char *out = room(&r->text, r->len, &r->cap, 3 * more + 24);
    if (!out)
        return;
    n = tok_stream_push(&r->stream, r->raw + r->shown, more, out);
    if (last)
        n += tok_stream_end(&r->stream, out + n);
    r->shown = end;
    r->len += n;
    if (n && !r->quiet)
        render_reply(&r->sh->out, out, n);
}

static int on_token(void *ctx, int32_t id, uint32_t pos)
{
    struct reply *r = ctx;
    struct shell *sh = r->sh;
    if (disp_label(sh->disp))              /* out of memory: not known */
        spans_add(&tree_last(sh->tree)->by, pos, pos + 1, disp_label(sh->disp));
    size_t len = 0, safe = 0, from = r->len, seen = r->n_raw;
    const char *bytes = sh->tok && !reply_is_eos(sh, id) ? tok_bytes(sh->tok, id, &len) : NULL;
    char *to = bytes ? room(&r->raw, r->n_raw, &r->cap_raw, len) : NULL;
    if (!r->quiet)
        render_busy(&sh->out, 0);
    double p = -1;                         /* the logits are still those it was drawn from */
    if (sh->vars.v[VAR_SHOW].num == SHOW_PROBS && !r->quiet) {
        p = prob_of(sh->sess->logits, sh->sess->n_vocab, id);
        render_shade(&sh->out, p);
    }
    if (to) {
        memcpy(to, bytes, len);
        r->n_raw += len;
        r->stopped = stops_find(&r->stops, r->raw, r->n_raw, seen, &safe);
        if (safe > r->shown)
            show(r, safe, 0);
    }
    if (sh->out.json && !r->quiet) {
        cJSON *f = cJSON_CreateObject();
        cJSON_AddNumberToObject(f, "pos", pos);
        cJSON_AddNumberToObject(f, "id", id);
        field_text(f, "text", r->text ? r->text + from : "", r->len - from);
        field_string(f, "backend", disp_name(sh->disp) ? disp_name(sh->disp) : "none");
        if (p >= 0)
            field_real(f, "prob", p);
        render_object(&sh->out, "token", f);
    }
    return r->stopped ? SESS_ENOUGH : SESS_GO_ON;
}

static double rate(uint64_t n, double s)
{
    return s > 0 ? (double)n / s : 0;
}

cJSON *makers_json(const struct spans *by)
{
    cJSON *list = cJSON_CreateArray();
    for (uint32_t i = 0; i < by->n; i++) {
        const struct span *p = &by->list[i];
        size_t n = strcspn(p->name, " ");
        cJSON *one = cJSON_CreateObject();
        cJSON_AddItemToArray(list, one);
        field_text(one, "backend", p->name, n);
        field_string(one, "options", p->name[n] ? p->name + n + 1 : "");
        cJSON_AddNumberToObject(one, "pos", p->from);
        cJSON_AddNumberToObject(one, "tokens", p->end - p->from);
    }
    return list;
}

const char *reply_note(enum sess_finish why)
{
    static const char *const notes[SESS_N_FINISH] = { [SESS_MAX_TOKENS] = "cut at max_tokens",
        [SESS_CONTEXT_FULL] = "context full: /new, or /set overflow shift",
        [SESS_STOPPED] = "interrupted", [SESS_STOP_STRING] = "stop string" };
    return notes[why];
}

static void after_reply(struct shell *sh, const struct reply *r, enum sess_finish why)
{
    const char *note = reply_note(why);
    const struct sess_stats *st = &sh->sess->last;
    uint32_t from = tree_last(sh->tree)->reply;
    const char *by = sh->constraint ? var_defs[sh->constraint_var].name : NULL;
    char prompt[80] = "", speed[40] = "", *on = steer_text(sh->steer);
    /* what was drawn last is not computed any more when it ends the reply from outside */
    uint64_t computed = st->gen_tokens - (st->gen_tokens && (why == SESS_STOPPED || why == SESS_STOP_STRING));
    if (computed)
        snprintf(speed, sizeof speed, ", %.0f tok/s", rate(computed, st->gen_s));
    int long_on = on && strlen(on) > 40;   /* /steer has all of it */
    if (st->prompt_tokens)                 /* Enter alone has none */
        snprintf(prompt, sizeof prompt, " | prompt %llu, %.0f tok/s",
                 (unsigned long long)st->prompt_tokens, rate(st->prompt_tokens, st->prompt_s));
    if (r->shifts)
        render_event(&sh->out, "status", NULL, "the context was full: the oldest %u tokens were dropped in "
                     "mid-reply and the rest was read again; /branch lists what was kept of them", r->dropped);
    char origin[200];
    disp_kv_brief(sh->disp, sess_in_step(sh->sess), origin, sizeof origin);
    int moved = disp_name(sh->disp) && strcmp(origin, "computed");
    const struct spans *by_whom = &tree_last(sh->tree)->by;
    const char *maker = by_whom->n ? by_whom->list[by_whom->n - 1].name : disp_label(sh->disp);
    char makers[400], idle[160];
    /* the one that was handed over to, but ended before it made a token */
    const char *now = disp_label(sh->disp);
    int several = by_whom->n > 1 || (r->handed && maker && now && strcmp(maker, now));
    if (several)
        spans_text(by_whom, 0, UINT32_MAX, makers, sizeof makers);
    else
        label_brief(maker ? maker : "no backend", makers, sizeof makers);
    if (several && now && strcmp(maker, now)) {
        size_t at = strlen(makers);
        snprintf(makers + at, sizeof makers - at, "%s%s 0", at ? ", " : "", label_brief(now, idle, sizeof idle));
    }
    if (several && !sh->out.json && !(sh->vars.v[VAR_TIMING].num == TIMING_ON && sh->out.err_tty))
        render_event(&sh->out, "status", NULL, "tokens by backend%s: %s",
                     r->dropped ? ", of those still in the context" : "", makers);
    int cut = why == SESS_MAX_TOKENS || why == SESS_CONTEXT_FULL;
    if (cut && !sh->out.err_tty && !sh->out.json)      /* there the aside below is silent */
        render_event(&sh->out, "status", NULL, "[%s]", note);
    if (sh->vars.v[VAR_TIMING].num == TIMING_ON)
        render_aside(&sh->out, "[%llu token%s%s%s | %s%s%s | context %u/%u%s%s%s%.40s%s%s%s]",
                     (unsigned long long)st->gen_tokens, st->gen_tokens == 1 ? "" : "s", speed, prompt,
                     makers, moved ? ", kv " : "",
                     moved ? origin : "", sh->sess->n, disp_max_pos(sh->disp),
                     by ? " | by " : "", by ? by : "", on && *on ? " | steered: " : "", on ? on : "",
                     long_on ? "..." : "", note ? " | " : "", note ? note : "");
    else if (note)
        render_aside(&sh->out, "[%s]", note);          /* that is no statistic */
    if (why == SESS_STOPPED && !signals_stop() && !sh->out.json && !sh->out.err_tty)
        render_event(&sh->out, "status", NULL, "the reply was interrupted");   /* not by who reads this */
    const struct var *v = sh->vars.v;
    int random = v[VAR_TEMPERATURE].num > 0 && v[VAR_NUM_BEAMS].num == 1;
    if (!sh->seed_shown && v[VAR_SEED].num < 0 && random)
        render_aside(&sh->out, "[drawn with seed %llu]", (unsigned long long)sh->tree->seed);
    sh->seed_shown = 1;
    if (!sh->out.json) {
        free(on);
        return;
    }
    cJSON *f = cJSON_CreateObject(), *ids = cJSON_AddArrayToObject(f, "tokens");
    field_text(f, "text", r->text ? r->text : "", r->len);
    for (uint32_t i = from; i < sh->sess->n; i++)
        cJSON_AddItemToArray(ids, cJSON_CreateNumber(sh->sess->token[i]));
    cJSON_AddStringToObject(f, "finish_reason", sess_finish_name(why));
    cJSON_AddNumberToObject(f, "pos", from);
    if (by)
        cJSON_AddStringToObject(f, "constraint", by);
    if (on && *on)
        cJSON_AddStringToObject(f, "steering", on);
    free(on);
    cJSON_AddStringToObject(f, "branch", sh->tree->now->name);
    cJSON_AddNumberToObject(f, "seed", (double)sh->tree->seed);
    cJSON_AddNumberToObject(f, "prompt_tokens", (double)st->prompt_tokens);
    field_real(f, "prompt_seconds", st->prompt_s);
    field_real(f, "seconds", st->gen_s);
    const char *on_now = now ? now : maker ? maker : "none";
    field_text(f, "backend", on_now, strcspn(on_now, " "));
    cJSON_AddItemToObject(f, "made_by", makers_json(by_whom));
    field_string(f, "kv", origin);
    render_object(&sh->out, "reply", f);
}

/* ---- text to ids ---- */

static int encoding(const struct shell *sh)
{
    return sh->vars.v[VAR_SPECIALS].num == SPECIALS_PARSE ? TOK_SPECIAL : TOK_PLAIN;
}

int reply_message(struct shell *sh, const char *role, const char *text, size_t len, struct tok_ids *ids)
{
    const struct sess *s = sh->sess;
    const struct turn *last = tree_last(sh->tree);
    int32_t end = tok_special(sh->tok, "<|im_end|>");
    int first = !s->n && !ids->n, bad = 0, how = strcmp(role, "system") ? encoding(sh) : TOK_PLAIN;
    /* a reply that was cut or interrupted still has to end before the next message */
    if (!ids->n && last && last->chat && s->token[s->n - 1] != end && end >= 0)
        bad = tok_ids_push(ids, end);
    if (!bad && text)
        bad = chat_message(sh->tok, role, text, len, first, how, ids);
    if (bad == -2)
        return render_error(&sh->out, "this checkpoint's tokenizer has no <|im_start|> and <|im_end|>, "
                            "which chat mode needs; use /set mode base");
    return bad ? render_error(&sh->out, "out of memory") : 0;
}

/* The ids this text adds to the timeline; 0 or -1 */
static int to_ids(struct shell *sh, const char *text, size_t len, int chat, struct tok_ids *ids)
{
    const char *system = sh->vars.v[VAR_SYSTEM].text;
    if (!chat)
        return tok_encode(sh->tok, text, len, encoding(sh), ids) ? render_error(&sh->out, "out of memory") : 0;
    if (!sh->sess->n && *system && reply_message(sh, "system", system, strlen(system), ids))
        return -1;
    if (reply_message(sh, "user", text, len, ids))
        return -1;
    return chat_reply(sh->tok, ids) ? render_error(&sh->out, "out of memory") : 0;
}

/* ---- a full context ---- */

/* How many leading tokens a shift must leave: the system message, or the first few */
static uint32_t kept_in_front(const struct shell *sh)
{
    const struct sess *s = sh->sess;
    int32_t start = sh->tok ? tok_special(sh->tok, "<|im_start|>") : -1, end;
    size_t len;
    if (!s->n || start < 0 || s->token[0] != start)
        return KEEP_FIRST;
    const char *role = s->n > 1 ? tok_bytes(sh->tok, s->token[1], &len) : NULL;
    if (!role || len < 6 || memcmp(role, "system", 6))
        return 0;
    end = tok_special(sh->tok, "<|im_end|>");
    for (uint32_t i = 1; i < s->n; i++)
        if (s->token[i] == end)
            return i + 1;
    return KEEP_FIRST;
}

static dbrx_status make_room(struct shell *sh, uint32_t need, int in_reply, struct shift *gone,
                             struct dbrx_error *err)
{
    int32_t end = sh->tok ? tok_special(sh->tok, "<|im_end|>") : -1;
    return tree_shift(sh->tree, need, kept_in_front(sh), end, in_reply, gone, err);
}

/* Room for n more tokens and one to answer with, if that can be had.  0 or -1 */
static int fit(struct shell *sh, size_t n)
{
    uint32_t max = disp_max_pos(sh->disp);
    struct shift gone;
    struct dbrx_error err;
    if (n < max - sh->sess->n || sh->vars.v[VAR_OVERFLOW].num != 1 || n >= max)
        return 0;                          /* what does not fit is refused below */
    dbrx_status st = make_room(sh, (uint32_t)n + 1, 0, &gone, &err);
    if (st == DBRX_E_FULL)
        return 0;
    if (st != DBRX_OK)
        return shell_failed(sh, st, &err);
    cJSON *f = cJSON_CreateObject();
    cJSON_AddNumberToObject(f, "dropped_turns", gone.turns);
    cJSON_AddNumberToObject(f, "dropped_tokens", gone.tokens);
    cJSON_AddStringToObject(f, "kept_as", gone.kept_as);
    render_event(&sh->out, "status", f, "the context is full: the oldest %u turn%s (%u tokens) were dropped; "
                 "/switch %s has all of it", gone.turns, gone.turns == 1 ? "" : "s", gone.tokens, gone.kept_as);
    return 0;
}

/* ---- prompts ---- */

static int append(struct shell *sh, const struct tok_ids *ids)
{
    struct dbrx_error err;
    uint32_t max = disp_max_pos(sh->disp), n = sh->sess->n;
    const char *shift = sh->vars.v[VAR_OVERFLOW].num == 1 ? "" : "let /set overflow shift drop the oldest, or ";
    dbrx_status st = sess_append(sh->sess, ids->id, ids->n, &err);
    if (st == DBRX_E_FULL)
        return render_error(&sh->out, "the prompt has %zu token%s, and the context has room for %u more "
                            "(%u of %u are taken); nothing was changed: shorten it, %sstart afresh "
                            "with /new", ids->n, ids->n == 1 ? "" : "s", max - n, n, max, shift);
    if (st != DBRX_OK)
        return shell_failed(sh, st, &err);
    if (sh->sess->n < max)
        return 0;
    sess_truncate(sh->sess, n);
    return render_error(&sh->out, "the context of %u tokens is full%s: %sstart afresh with /new", max,
                        ids->n ? " with this prompt, which was not added" : "", shift);
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

int reply_prompt(struct shell *sh, const struct tok_ids *ids, int chat)
{
    struct dbrx_error err;
    char why[512];
    if (shell_constrain(sh, why, sizeof why))
        return render_error(&sh->out, "%s", why);
    if (fit(sh, ids->n))
        return -1;
    uint32_t before = sh->sess->n;
    if (append(sh, ids))
        return -1;
    sh->sess->last = (struct sess_stats){ 0 };
    if (prefill(sh, before))
        return -1;
    struct turn turn = { .reply = sh->sess->n, .finish = SESS_NO_REPLY, .chat = (uint8_t)chat,
                         .settings = reply_settings(sh) };
    dbrx_status st = tree_add(sh->tree, turn, &err);
    if (st == DBRX_OK)
        return 0;
    sess_truncate(sh->sess, before);
    return shell_failed(sh, st, &err);
}

/* ---- replies ---- */

struct sess_gen reply_gen(const struct shell *sh)
{
    const struct var *v = sh->vars.v;
    return (struct sess_gen){
        .sampling = {
            .logit_bias = sh->logit_bias.bias, .n_logit_bias = sh->logit_bias.n,
            .repetition_penalty = v[VAR_REPETITION_PENALTY].num,
            .no_repeat_ngram_size = (uint32_t)v[VAR_NO_REPEAT_NGRAM_SIZE].num,
            .min_new_tokens = (uint32_t)v[VAR_MIN_NEW_TOKENS].num, .eos = sh->eos, .n_eos = sh->n_eos,
            .suppress_tokens = sh->suppress_tokens.id, .n_suppress_tokens = sh->suppress_tokens.n,
            .frequency_penalty = v[VAR_FREQUENCY_PENALTY].num,
            .presence_penalty = v[VAR_PRESENCE_PENALTY].num,
            .temperature = v[VAR_TEMPERATURE].num, .top_k = (uint32_t)v[VAR_TOP_K].num,
            .top_p = v[VAR_TOP_P].num, .min_p = v[VAR_MIN_P].num, .typical_p = v[VAR_TYPICAL_P].num,
            .epsilon_cutoff = v[VAR_EPSILON_CUTOFF].num, .eta_cutoff = v[VAR_ETA_CUTOFF].num,
        },
        .max_tokens = (uint32_t)v[VAR_MAX_TOKENS].num, .eos = sh->eos, .n_eos = sh->n_eos,
        .constraint = sh->constraint,
    };
}

dbrx_status reply_generate(struct shell *sh, const struct sess_gen *g, enum sess_finish *why,
                           struct dbrx_error *err)
{
    const struct var *v = sh->vars.v;
    const struct beam_params beams = { (uint32_t)v[VAR_NUM_BEAMS].num, v[VAR_LENGTH_PENALTY].num,
                                       (enum beam_stop)v[VAR_EARLY_STOPPING].num };
    if (beams.num_beams < 2)
        return sess_generate(sh->sess, g, why, err);
    render_busy(&sh->out, 1);
    dbrx_status st = beam_generate(sh->sess, &beams, g, why, NULL, err);
    render_busy(&sh->out, 0);
    return st;
}

char *reply_settings(const struct shell *sh)
{
    cJSON *all = cJSON_CreateObject();
    for (int i = 0; i < N_VARS; i++)
        if (i != VAR_SEED && i != VAR_THREADS && i != VAR_SYSTEM)
            field_string(all, var_defs[i].name, sh->vars.v[i].text);
    char *on = steer_text(sh->steer);
    if (on && *on)
        cJSON_AddStringToObject(all, "steering", on);
    free(on);
    char *text = cJSON_PrintUnformatted(all);
    cJSON_Delete(all);
    return text;
}

/* Tokens that begin in or behind the stop string are not kept */
static void trim(struct reply *r, uint32_t from)
{
    const struct sess *s = r->sh->sess;
    size_t at = r->n_raw, len;
    uint32_t n = s->n;
    while (n > from) {
        if (!tok_bytes(r->sh->tok, s->token[n - 1], &len))
            len = 0;
        if (len > at || at - len < r->shown)
            break;
        at -= len;
        n--;
    }
    sess_truncate(r->sh->sess, n);
}

void reply_explain(struct shell *sh)
{
    if (sh->vars.v[VAR_SHOW].num != SHOW_PROBS || sh->show_explained || sh->out.json)
        return;
    sh->show_explained = 1;
    if (render_shade(&sh->out, -1))
        render_shades(&sh->out);
    else
        render_event(&sh->out, "status", NULL, "show probs: there are no colours here, replies stay plain; "
                     "/surprise gives the numbers");
}

/* A step of the setting handover; 0, or -1 and why: that is said behind the reply, not in it */
static int hand_over(struct shell *sh, const struct handover_step *to, char why[512])
{
    char *quiet = sh->out.quiet;
    size_t size = sh->out.quiet_size;
    sh->out.quiet = why;
    sh->out.quiet_size = 512;
    int failed = shell_use(sh, to->backend, to->opt, (to->replay ? DISP_REPLAY : 0) | (to->keep ? DISP_KEEP : 0));
    sh->out.quiet = quiet;
    sh->out.quiet_size = size;
    return failed;
}

int reply_draw(struct shell *sh, int quiet, struct said *said)
{
    struct sess *s = sh->sess;
    struct reply r = { .sh = sh, .quiet = quiet };
    struct sess_gen g = reply_gen(sh);
    struct sess_stats sum = s->last;
    struct dbrx_error err = { 0 };
    struct shift gone;
    struct handover plan;
    char ignored[256];
    int shift = sh->vars.v[VAR_OVERFLOW].num == 1;
    dbrx_status st = DBRX_OK;
    enum sess_finish why = SESS_MAX_TOKENS;
    stops_parse(&r.stops, sh->vars.v[VAR_STOP].text, ignored, sizeof ignored);
    if (shell_plan(sh, &plan, ignored, sizeof ignored))
        return render_error(&sh->out, "%s", ignored);
    if (shift && !g.max_tokens)            /* "as far as the context reaches" has to end somewhere */
        g.max_tokens = disp_max_pos(sh->disp);
    uint32_t made = 0, step = 0, left = g.max_tokens;
    int limited = left != 0;
    char refused[512] = "";
    g.on_token = on_token;
    g.ctx = &r;
    if (!quiet)
        reply_explain(sh);
    shell_constrain_turn(sh, sh->tree->now->n_turns - 1);
    if (!quiet)
        instruments_live_begin(sh->instruments);
    for (;;) {
        const struct handover_step *next = step < plan.n ? &plan.step[step] : NULL;
        if (next && made >= next->at) {
            if (hand_over(sh, next, refused)) {
                why = signals_stop() ? SESS_STOPPED : SESS_FAILED;
                break;
            }
            if (sh->out.json && !quiet)
                backend_said(sh);
            r.handed = 1;
            step++;
            continue;
        }
        uint32_t until = next ? next->at - made : 0;
        g.max_tokens = until && (!left || until < left) ? until : left;
        g.reply = tree_last(sh->tree)->reply;
        const struct sess_stats before = s->total;
        st = reply_generate(sh, &g, &why, &err);
        if (r.handed) {                    /* the last token once more is no prompt */
            s->total.prompt_tokens = before.prompt_tokens;
            s->total.prompt_s = before.prompt_s;
        }
        sum.gen_tokens += s->last.gen_tokens;
        sum.gen_s += s->last.gen_s;
        made += (uint32_t)s->last.gen_tokens;
        if (left)
            left -= (uint32_t)s->last.gen_tokens;
        tree_last(sh->tree)->end = s->n;
        if (why == SESS_MAX_TOKENS && next && made == next->at && (left || !limited))
            continue;
        if (why != SESS_CONTEXT_FULL || !shift || (st = make_room(sh, 1, 1, &gone, &err)) != DBRX_OK)
            break;
        r.shifts++;
        r.dropped += gone.tokens;
    }
    handover_free(&plan);
    s->last = sum;
    if (why == SESS_STOP_STRING)
        trim(&r, tree_last(sh->tree)->reply);
    show(&r, why == SESS_STOP_STRING ? r.shown : r.n_raw, 1);
    tree_last(sh->tree)->end = s->n;
    tree_last(sh->tree)->finish = why;
    spans_cut(&tree_last(sh->tree)->by, s->n);
    if (!quiet) {
        instruments_live_end(sh->instruments);
        render_reply_end(&sh->out);
        after_reply(sh, &r, why);
    }
    if (said)
        *said = (struct said){ r.text, r.len, why };
    else
        free(r.text);
    free(r.raw);
    if (tree_last(sh->tree)->begin == s->n && s->n)
        tree_settle(sh->tree, NULL);       /* nothing was said at all */
    return *refused ? render_error(&sh->out, "%s", refused) : st < 0 ? shell_failed(sh, st, &err) : 0;
}

int reply_to(struct shell *sh, const char *text, size_t len)
{
    const struct turn *last = tree_last(sh->tree);
    int chat = len ? sh->vars.v[VAR_MODE].num == 1 : last && last->chat;
    if (!len && (sh->vars.v[VAR_MODE].num == 1 || !sh->sess->n))
        return 0;
    if (!sh->tok)
        return render_error(&sh->out, "prompts need a tokenizer: %s.  /feed IDS works without", sh->tok_why);
    if (!disp_name(sh->disp))
        return render_error(&sh->out, "no backend is open; /backend NAME opens one");
    struct tok_ids ids = { 0 };
    int failed = (len && to_ids(sh, text, len, chat, &ids)) || reply_prompt(sh, &ids, chat) ||
                 reply_draw(sh, 0, NULL);
    free(ids.id);
    return failed ? -1 : 0;
}
