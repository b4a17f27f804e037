/* repl/steering.c -- /k, /ban, /force, /bias, /scale, /swap and /steer: an edit of the steering
 * (steer.c), and what is said of it.  Knows no array of it. */
#define _GNU_SOURCE
#include "repl/handlers.h"

#include "repl/atomic.h"
#include "repl/commands.h"
#include "repl/paths.h"
#include "repl/shell.h"
#include "repl/steer.h"
#include "repl/words.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void shell_steer(struct shell *sh)
{
    sess_steer(sh->sess, steer_block(sh->steer), steer_id(sh->steer));
}

/* After an edit: 1 something changed, 0 nothing, -1 refused for the reason in err */
static int settle(struct shell *sh, int changed, const char *err)
{
    if (changed < 0)
        return render_error(&sh->out, "%s; nothing was changed", err);
    shell_steer(sh);
    char *text = steer_text(sh->steer), again[80] = "";
    if (!text)
        return render_error(&sh->out, "out of memory");
    if (changed && sh->sess->n)
        snprintf(again, sizeof again, "; the context (%u tokens) will be computed again", sh->sess->n);
    cJSON *f = cJSON_CreateObject();
    field_string(f, "steering", text);
    cJSON_AddBoolToObject(f, "changed", changed);
    if (*text)
        render_event(&sh->out, "steering", f, "%s: %s%s", changed ? "steering" : "unchanged", text, again);
    else
        render_event(&sh->out, "steering", f, changed ? "nothing is steered any more%s" : "nothing is steered%s",
                     again);
    free(text);
    return 0;
}

static int edit(struct shell *sh, struct steer_item item)
{
    char err[400] = "";
    return settle(sh, steer_apply(sh->steer, &item, err, sizeof err), err);
}

int handle_k(struct shell *sh, const struct args *a)
{
    return edit(sh, (struct steer_item){ .effect = STEER_K, .value = (double)a->num[0],
                                         .where = a->text[1] ? a->text[1] : "*" });
}

int handle_ban(struct shell *sh, const struct args *a)
{
    const char *skip = a->text[1], *omit = a->text[2], *zero = a->text[3];
    if ((skip && omit) || (skip && zero) || (omit && zero))
        return render_error(&sh->out, "--skip, --omit and --zero are different meanings of \"without\": choose one");
    return edit(sh, (struct steer_item){ .where = a->text[0], .effect = skip ? STEER_SKIP : omit ? STEER_OMIT
                                         : zero ? STEER_ZERO : STEER_BAN });
}

int handle_force(struct shell *sh, const struct args *a)
{
    return edit(sh, (struct steer_item){ .effect = STEER_FORCE, .where = a->text[0] });
}

int handle_bias(struct shell *sh, const struct args *a)
{
    return edit(sh, (struct steer_item){ .effect = STEER_BIAS, .where = a->text[0], .value = a->real[1] });
}

int handle_scale(struct shell *sh, const struct args *a)
{
    return edit(sh, (struct steer_item){ .effect = STEER_SCALE, .where = a->text[0], .value = a->real[1] });
}

int handle_swap(struct shell *sh, const struct args *a)
{
    for (int i = 0; i < 2; i++)
        if (a->num[i] < 0 || (unsigned long)a->num[i] >= sh->ckpt->desc.config.n_experts)
            return render_error(&sh->out, "expert %ld is not there: every layer has experts 0 to %u", a->num[i],
                                sh->ckpt->desc.config.n_experts - 1);
    return edit(sh, (struct steer_item){ .effect = STEER_SWAP, .where = a->text[2],
                                         .pair = { (uint32_t)a->num[0], (uint32_t)a->num[1] } });
}

/* ---- /steer ---- */

static const char *meaning(enum steer_effect e)
{
    static const char *const all[STEER_N_EFFECTS] = {
        [STEER_K] = "experts a token gets", [STEER_BAN] = "banned before the softmax",
        [STEER_SKIP] = "not chosen, probabilities as they are",
        [STEER_OMIT] = "chosen, then dropped; the others renormalised",
        [STEER_ZERO] = "chosen, its contribution dropped", [STEER_FORCE] = "always chosen",
        [STEER_BIAS] = "added to the router logit", [STEER_SCALE] = "times the applied weight",
        [STEER_SWAP] = "one computes what the other is chosen for" };
    return all[e];
}

static int list(struct shell *sh)
{
    static const struct column col[] = { { "text", "on", 0, 0, NULL }, { "meaning", "meaning", 0, 0, NULL }, { 0 } };
    static const struct rows rows = { "rows", "steering", "rows", col, 0 };
    size_t n;
    struct steer_item *item = steer_items(sh->steer, &n);
    if (!item)
        return render_error(&sh->out, "out of memory");
    cJSON *all = cJSON_CreateArray();
    for (size_t i = 0; i < n; i++) {
        enum steer_effect e = item[i].effect;
        char *text = steer_item_text(&item[i]);
        cJSON *row = cJSON_CreateObject();
        cJSON_AddItemToArray(all, row);
        field_string(row, "text", text ? text : "");
        field_string(row, "effect", steer_effect_name(e));
        field_string(row, e == STEER_K || e == STEER_SWAP ? "layers" : "experts", item[i].where);
        if (e == STEER_K || e == STEER_BIAS || e == STEER_SCALE)
            cJSON_AddNumberToObject(row, "value", item[i].value);
        if (e == STEER_SWAP)
            cJSON_AddItemToObject(row, "pair", cJSON_CreateIntArray((const int[]){ (int)item[i].pair[0],
                                                                                   (int)item[i].pair[1] }, 2));
        field_string(row, "meaning", meaning(e));
        free(text);
    }
    steer_items_free(item, n);
    if (!n && !sh->out.json) {
        cJSON_Delete(all);
        render_event(&sh->out, "status", NULL, "nothing is steered: the model chooses its experts itself");
        return 0;
    }
    render_rows(&sh->out, &rows, NULL, NULL, all);
    return 0;
}

static int save(struct shell *sh, const char *path)
{
    struct atomic f;
    cJSON *j = steer_json(sh->steer);
    char *text = j ? cJSON_Print(j) : NULL;
    cJSON_Delete(j);
    if (!text)
        return render_error(&sh->out, "out of memory");
    int why = atomic_open(&f, path);
    if (!why) {
        atomic_write(&f, text, strlen(text));
        atomic_write(&f, "\n", 1);
        why = atomic_commit(&f);
    }
    cJSON_free(text);
    if (why)
        return render_error(&sh->out, "%s cannot be written: %s; what was there stays", path, strerror(why));
    cJSON *fields = cJSON_CreateObject();
    field_string(fields, "file", path);
    render_event(&sh->out, "status", fields, "wrote the steering to %s", path);
    return 0;
}

static int load(struct shell *sh, const char *path)
{
    char err[400] = "it is no JSON", why[600];
    size_t len;
    FILE *f = path_open(path, why, sizeof why);
    if (!f)
        return render_error(&sh->out, "%s", why);
    char *text = read_whole(sh, f, path, &len);
    fclose(f);
    if (!text)
        return -1;
    cJSON *j = cJSON_ParseWithLength(text, len);
    int changed = j ? steer_read_json(sh->steer, j, err, sizeof err) : -1;
    cJSON_Delete(j);
    free(text);
    snprintf(why, sizeof why, "%.150s was not loaded: %s", path, err);
    return settle(sh, changed, why);
}

int handle_steer(struct shell *sh, const struct args *a)
{
    const char *what = a->text[0], *rest = a->text[1];
    if (!what)
        return list(sh);
    if (!strcmp(what, "off"))
        return rest ? edit(sh, (struct steer_item){ .effect = STEER_CLEAR, .where = rest })
                    : settle(sh, steer_off(sh->steer), "out of memory");
    if (!strcmp(what, "undo") && !rest)
        return steer_undo(sh->steer) ? settle(sh, 1, "") : render_error(&sh->out, "there is nothing to undo");
    int saves = !strcmp(what, "save");
    if (!saves && strcmp(what, "load"))
        return render_error(&sh->out, "/steer takes off, off E@L..., undo, save FILE or load FILE; alone it lists "
                            "what is on");
    if (!rest)
        return render_error(&sh->out, "/steer %s needs a file: /steer %s FILE", what, what);
    char *path = path_typed(rest);
    int failed = path ? saves ? save(sh, path) : load(sh, path) : render_error(&sh->out, "out of memory");
    free(path);
    return failed;
}
