/* repl/replay.c -- /replay: every reply of the conversation drawn again, as it was drawn, and
 * compared.  Works on the session below the tree, which stays as it is. */
#include "repl/handlers.h"

#include "repl/commands.h"
#include "repl/shell.h"
#include "repl/words.h"

#include <stdlib.h>
#include <string.h>

/* The settings of a turn in place of those here; -1: it names one that cannot be */
static int set_as(struct vars *vars, const struct turn *t, char *err, size_t size)
{
    cJSON *all = cJSON_Parse(t->settings ? t->settings : "{}"), *v;
    int bad = 0;
    cJSON_ArrayForEach(v, all) {
        int var = var_find(v->string, 0);
        if (var >= 0 && cJSON_IsString(v))
            bad |= vars_set(vars, var, v->valuestring, FROM_SESSION, err, size);
    }
    cJSON_Delete(all);
    return bad;
}

/* The steering of a turn in place of the one here; -1: it cannot be */
static int steer_as(struct sess *s, struct steer *then, const struct turn *t, char *err, size_t size)
{
    cJSON *all = cJSON_Parse(t->settings ? t->settings : "{}");
    const char *text = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(all, "steering"));
    int bad = steer_read(then, text ? text : "", err, size) < 0;
    cJSON_Delete(all);
    if (!bad)
        sess_steer(s, steer_block(then), steer_id(then));
    return bad;
}

/* The first token in which id[n] and the session's differ from position `at` on, or n */
static uint32_t first_difference(const struct sess *s, const int32_t *id, uint32_t at, uint32_t n)
{
    uint32_t i = 0;
    while (i < n && at + i < s->n && s->token[at + i] == id[i])
        i++;
    return i;
}

/* Draws one turn again; a row of what came of it, 0 or -1 */
static int replay_turn(struct shell *sh, struct steer *then, const struct turn *t, uint32_t k,
                       const int32_t *all, cJSON *list, int *differ, uint32_t *compared)
{
    struct sess *s = sh->sess;
    struct dbrx_error err = { 0 };
    char why[256] = "";
    enum sess_finish finish;
    uint32_t n = t->end - t->reply, same = n;
    const char *result = "same";
    cJSON *row = cJSON_CreateObject();
    cJSON_AddItemToArray(list, row);
    cJSON_AddNumberToObject(row, "turn", k + 1);
    cJSON_AddNumberToObject(row, "pos", t->reply);
    cJSON_AddNumberToObject(row, "tokens", n);
    cJSON_AddNumberToObject(row, "seed", (double)t->seed);
    if (t->moved || !n || t->finish == SESS_NO_REPLY) {
        result = t->moved ? "skipped: drawn in a context that has been cut off since" : "skipped: no reply";
    } else if (set_as(&sh->vars, t, why, sizeof why) || steer_as(s, then, t, why, sizeof why) || shell_constrain(sh, why, sizeof why)) {
        result = why;
        *differ = 1;
    } else {
        struct sess_gen g = reply_gen(sh);
        if (sh->vars.v[VAR_NUM_BEAMS].num < 2)     /* a search chooses among ends, it needs its own limit */
            g.max_tokens = n;
        ++*compared;
        sampler_seed(s->sampler, t->state);
        dbrx_status st = sess_replace(s, all, t->reply, &err);
        shell_constrain_turn(sh, k);
        if (st == DBRX_OK)
            st = reply_generate(sh, &g, &finish, &err);
        if (st != DBRX_OK)
            return shell_failed(sh, st, &err);
        same = first_difference(s, all + t->reply, t->reply, n);
        if (finish == SESS_STOPPED && same == s->n - t->reply && same < n)
            return render_error(&sh->out, "interrupted; the conversation is as it was");
    }
    if (same < n) {
        char *was = token_text(sh, all[t->reply + same]);
        char *now = t->reply + same < s->n ? token_text(sh, s->token[t->reply + same]) : strdup("(the end)");
        char text[200];
        snprintf(text, sizeof text, "differs at token %u: \"%.60s\", now \"%.60s\"", t->reply + same,
                 was ? was : "", now ? now : "");
        cJSON_AddNumberToObject(row, "differs_at", t->reply + same);
        field_string(row, "result", text);
        free(was);
        free(now);
        *differ = 1;
        return 0;
    }
    field_string(row, "result", result);
    return 0;
}

int handle_replay(struct shell *sh, const struct args *a)
{
    static const struct column col[] = {
        { "turn", "turn", 1, 0, NULL }, { "pos", "pos", 1, 0, NULL }, { "tokens", "tokens", 1, 0, NULL },
        { "seed", "seed", 1, 0, NULL }, { "result", "replayed", 0, 0, NULL }, { 0 } };
    static const struct rows rows = { "rows", "replay", "rows", col, 0 };
    struct sess *s = sh->sess;
    const struct branch *b = sh->tree->now;
    struct dbrx_error err;
    struct vars was;
    uint32_t n = s->n;
    int failed = 0, differ = 0;
    uint32_t compared = 0;
    (void)a;
    if (!b->n_turns)
        return render_error(&sh->out, "there is nothing to replay: the conversation is empty");
    if (!disp_name(sh->disp))
        return render_error(&sh->out, "no backend is open; /backend NAME opens one");
    int32_t *all = malloc((n + (size_t)1) * sizeof *all);
    struct steer *then = steer_new(&sh->ckpt->desc.config);
    if (!all || !then || vars_copy(&was, &sh->vars)) {
        steer_free(then);
        free(all);
        return render_error(&sh->out, "out of memory");
    }
    memcpy(all, s->token, n * sizeof *all);
    uint64_t state = sampler_state(s->sampler);
    cJSON *list = cJSON_CreateArray();
    render_busy(&sh->out, 1);
    s->aside = 1;                          /* nobody counts a comparison */
    for (uint32_t k = 0; k < b->n_turns && !failed; k++) {
        render_progress(&sh->out, "replaying", k, b->n_turns);
        failed = replay_turn(sh, then, &b->turn[k], k, all, list, &differ, &compared);
    }
    render_busy(&sh->out, 0);
    s->aside = 0;
    vars_free(&sh->vars);
    sh->vars = was;
    shell_steer(sh);
    steer_free(then);
    sampler_seed(s->sampler, state);
    dbrx_status st = sess_replace(s, all, n, &err);    /* shorter than it was: cannot fail */
    free(all);
    if (failed || st != DBRX_OK) {
        cJSON_Delete(list);
        return failed ? -1 : shell_failed(sh, st, &err);
    }
    render_rows(&sh->out, &rows, NULL, NULL, list);
    cJSON *f = cJSON_CreateObject();
    if (compared || differ)
        cJSON_AddBoolToObject(f, "same", !differ);
    else
        cJSON_AddNullToObject(f, "same");
    render_event(&sh->out, "status", f, !compared && !differ ? "there was no reply to compare" :
                 differ ? "on %s the replies are not the same" :
                 "on %s all replies are the same, byte for byte", disp_name(sh->disp));
    return 0;
}
