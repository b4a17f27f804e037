/* repl/turns.c -- the commands that move through the tree of a conversation: /undo, /redo,
 * /branch, /switch, /continue and /retry.  What they do to it is timeline.c's. */
#define _GNU_SOURCE
#include "repl/handlers.h"

#include "repl/commands.h"
#include "repl/shell.h"
#include "repl/words.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_RETRY = 16, LAST_WORDS = 200, MIN_COLUMN = 36 };

static cJSON *where(const struct shell *sh)
{
    cJSON *f = cJSON_CreateObject();
    cJSON_AddStringToObject(f, "branch", sh->tree->now->name);
    cJSON_AddNumberToObject(f, "tokens", sh->sess->n);
    cJSON_AddNumberToObject(f, "turns", sh->tree->now->n_turns);
    return f;
}

/* The end of a branch on one line; free() it */
static char *last_words(const struct shell *sh, const struct branch *b)
{
    uint32_t n;
    const int32_t *id = branch_tokens(sh->tree, b, &n);
    size_t len;
    uint32_t first = n > LAST_WORDS ? n - LAST_WORDS : 0;
    char *text = tokens_text(sh, n ? id + first : id, n - first, 0, &len);
    const char *end = text ? text + len : NULL, *from = end;
    for (size_t k = 0; text && from > text && k < 40; from--)
        k += (from[-1] & 0xc0) != 0x80;
    char *words = text ? text_quoted(from, (size_t)(end - from)) : NULL, *out = NULL;
    if (words && from > text && asprintf(&out, "...%s", words) >= 0) {
        free(words);
        words = out;
    }
    free(text);
    return words;
}

/* ---- /undo, /redo ---- */

static const char *plural(uint32_t n)
{
    return n == 1 ? "" : "s";
}

int handle_undo(struct shell *sh, const struct args *a)
{
    struct dbrx_error err;
    uint32_t n;
    if (a->text[0] && a->num[0] < 1)
        return render_error(&sh->out, "/undo takes back 1 turn or more, not %ld", a->num[0]);
    dbrx_status st = tree_undo(sh->tree, !a->text[0] ? 1 : a->num[0] > UINT32_MAX ? UINT32_MAX
                               : (uint32_t)a->num[0], &n, &err);
    if (st != DBRX_OK)
        return shell_failed(sh, st, &err);
    if (!n)
        return render_error(&sh->out, "there is nothing to take back: \"%s\" is empty", sh->tree->now->name);
    char *words = last_words(sh, sh->tree->now);
    render_event(&sh->out, "status", where(sh), "took back %u turn%s; %u left%s%s (/redo brings %s back)", n,
                 plural(n), sh->tree->now->n_turns, words && *words ? ": " : "", words ? words : "",
                 n == 1 ? "it" : "them");
    free(words);
    return 0;
}

/* The latest branch that was undone on the one we are on, or NULL */
static const struct branch *undone_branch(const struct tree *t)
{
    static const char stem[] = "undone-";
    for (uint32_t i = t->n; i-- > 0; )
        if (!strncmp(t->branch[i]->name, stem, sizeof stem - 1) && t->branch[i]->from &&
            !strcmp(t->branch[i]->from, t->now->name))
            return t->branch[i];
    return NULL;
}

int handle_redo(struct shell *sh, const struct args *a)
{
    struct dbrx_error err;
    uint32_t n;
    (void)a;
    dbrx_status st = tree_redo(sh->tree, &n, &err);
    if (st != DBRX_OK)
        return shell_failed(sh, st, &err);
    const struct branch *kept = n ? NULL : undone_branch(sh->tree);
    if (kept)
        return render_error(&sh->out, "there is nothing to bring back: something new was said since the /undo; "
                            "/switch %s goes to what there was before", kept->name);
    if (!n)
        return render_error(&sh->out, "there is nothing to bring back: nothing was undone");
    char *words = last_words(sh, sh->tree->now);
    render_event(&sh->out, "status", where(sh), "brought back %u turn%s: %s", n, plural(n), words ? words : "");
    free(words);
    return 0;
}

/* ---- /branch, /switch ---- */

static char *show_mark(const struct render *r, const cJSON *row)
{
    (void)r;
    return strdup(cJSON_IsTrue(cJSON_GetObjectItemCaseSensitive(row, "current")) ? "*" : "");
}

static char *show_fork(const struct render *r, const cJSON *row)
{
    (void)r;
    const char *from = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(row, "from"));
    const cJSON *at = cJSON_GetObjectItemCaseSensitive(row, "fork");
    char *text = NULL;
    return !from ? strdup("") : asprintf(&text, "%s:%.0f", from, at ? at->valuedouble : 0) < 0 ? NULL : text;
}

static void branch_row(struct shell *sh, const struct branch *b, cJSON *list)
{
    uint32_t n;
    const struct branch *from = b->from ? tree_find(sh->tree, b->from) : NULL;
    cJSON *row = cJSON_CreateObject();
    cJSON_AddItemToArray(list, row);
    branch_tokens(sh->tree, b, &n);
    cJSON_AddBoolToObject(row, "current", b == sh->tree->now);
    cJSON_AddStringToObject(row, "name", b->name);
    cJSON_AddNumberToObject(row, "tokens", n);
    cJSON_AddNumberToObject(row, "turns", b->n_turns);
    if (from) {                            /* where they part now, whatever was undone since */
        cJSON_AddStringToObject(row, "from", from->name);
        cJSON_AddNumberToObject(row, "fork", branch_common(sh->tree, b, from));
    }
    cJSON_AddBoolToObject(row, "automatic", b->automatic);
    char *words = last_words(sh, b);
    field_string(row, "last", words ? words : "");
    free(words);
}

static void list_branches(struct shell *sh)
{
    static const struct column col[] = {
        { NULL, "", 0, 0, show_mark }, { "name", "branch", 0, 0, NULL }, { "tokens", "tokens", 1, 0, NULL },
        { "turns", "turns", 1, 0, NULL }, { NULL, "fork", 0, 0, show_fork },
        { "last", "last words", 0, 0, NULL }, { 0 } };
    static const struct rows rows = { "rows", "branches", "rows", col, 0 };
    cJSON *list = cJSON_CreateArray();
    for (uint32_t i = 0; i < sh->tree->n; i++)
        branch_row(sh, sh->tree->branch[i], list);
    render_rows(&sh->out, &rows, NULL, NULL, list);
}

static const struct shell *named_in;
static const char *branch_name(size_t i)
{
    return i < named_in->tree->n ? named_in->tree->branch[i]->name : NULL;
}

/* The branch of that name, or NULL after saying that there is none */
static struct branch *find(struct shell *sh, const char *name)
{
    named_in = sh;
    int i = word_find(name, branch_name, sh->interactive);
    if (i >= 0)
        return sh->tree->branch[i];
    const char *near = word_nearest(name, branch_name);
    render_error(&sh->out, "there is no branch \"%.60s\"%s%s%s", name,
                 near ? "; did you mean " : "; /branch lists them", near ? near : "", near ? "?" : "");
    return NULL;
}

int handle_branch(struct shell *sh, const struct args *a)
{
    struct dbrx_error err;
    const char *name = a->text[0];
    int drop = a->text[1] != NULL;
    if (!name && !drop) {
        list_branches(sh);
        return 0;
    }
    if (!name)
        return render_error(&sh->out, "/branch --drop needs the NAME of a branch; /branch lists them");
    struct branch *b = drop ? tree_find(sh->tree, name) : NULL;
    if (drop && !b)
        return find(sh, name) ? render_error(&sh->out, "say the whole name of what is to be forgotten") : -1;
    dbrx_status st = drop ? tree_drop(sh->tree, b, &err)
                          : tree_fork(sh->tree, name, NULL, sh->tree->now->n_turns, &err);
    if (st != DBRX_OK)
        return shell_failed(sh, st, &err);
    if (drop)
        render_event(&sh->out, "status", where(sh), "forgot branch \"%s\"", name);
    else
        render_event(&sh->out, "status", where(sh), "now on \"%s\"; \"%s\" stays as it is", name,
                     sh->tree->now->from ? sh->tree->now->from : "");
    return 0;
}

int handle_switch(struct shell *sh, const struct args *a)
{
    struct dbrx_error err;
    struct branch *b = find(sh, a->text[0]);
    if (!b)
        return -1;
    dbrx_status st = tree_switch(sh->tree, b, &err);
    if (st == DBRX_E_FULL)
        return render_error(&sh->out, "\"%s\" stays where it is: %s; start dbrx with a larger --ctx", b->name,
                            err.text);
    if (st != DBRX_OK)
        return shell_failed(sh, st, &err);
    uint32_t n = sh->sess->n - sess_in_step(sh->sess);
    cJSON *f = where(sh);
    cJSON_AddNumberToObject(f, "recompute", n);
    char *words = last_words(sh, b);
    render_event(&sh->out, "status", f, "now on \"%s\": %u turn%s, %u token%s, %u to compute again%s%s", b->name,
                 b->n_turns, plural(b->n_turns), sh->sess->n, plural(sh->sess->n), n, words && *words ? ": " : "", words ? words : "");
    free(words);
    return 0;
}

/* ---- /continue, /retry ---- */

static int can_draw(struct shell *sh)
{
    if (!disp_name(sh->disp))
        return render_error(&sh->out, "no backend is open; /backend NAME opens one");
    char err[512];
    return shell_constrain(sh, err, sizeof err) ? render_error(&sh->out, "%s", err) : 0;
}

int handle_continue(struct shell *sh, const struct args *a)
{
    const struct turn *last = tree_last(sh->tree);
    const struct tok_ids none = { 0 };
    (void)a;
    if (!sh->sess->n)
        return render_error(&sh->out, "there is nothing to continue: the conversation is empty");
    if (last && last->chat && reply_is_eos(sh, sh->sess->token[sh->sess->n - 1]))
        return render_error(&sh->out, "the last reply came to its own end; /retry draws another");
    return can_draw(sh) || reply_prompt(sh, &none, last && last->chat) || reply_draw(sh, 0, NULL) ? -1 : 0;
}

/* A seed for the k-th alternative: the same whenever the conversation is repeated */
static uint64_t next_seed(const struct shell *sh, uint64_t seed, const char *name)
{
    const char *k = strrchr(name, '-');
    if (sh->vars.v[VAR_SEED].num < 0)
        return shell_random();
    seed += (k ? strtoull(k + 1, NULL, 10) : 1) * 0x9e3779b97f4a7c15u;
    seed = (seed ^ seed >> 30) * 0xbf58476d1ce4e5b9u;
    return seed >> 32;
}

/* One more reply to the prompt [n_prompt], on a branch of its own; back on `home` after it */
static int alternative(struct shell *sh, struct branch *home, const int32_t *prompt, uint32_t n_prompt,
                       int quiet, struct branch **on, struct said *said)
{
    struct tree *t = sh->tree;
    struct dbrx_error err;
    const struct turn *old = tree_last(t);
    uint64_t seed = old->seed;
    uint8_t chat = old->chat, moved = old->moved;
    dbrx_status st = tree_fork(t, NULL, "retry", home->n_turns - 1, &err);
    if (st == DBRX_OK) {
        *on = t->now;
        tree_seed(t, next_seed(sh, seed, t->now->name));
        st = sess_append(sh->sess, prompt, n_prompt, &err);
    }
    struct turn turn = { .reply = sh->sess->n, .finish = SESS_NO_REPLY, .chat = chat, .moved = moved };
    if (st == DBRX_OK) {
        turn.settings = reply_settings(sh);
        st = tree_add(t, turn, &err);
    }
    int failed = st != DBRX_OK ? shell_failed(sh, st, &err) : 0;
    if (!failed) {
        sh->sess->last = (struct sess_stats){ 0 };
        sh->seed_shown = 1;                /* it is in the heading */
        if (!quiet && !sh->out.json)
            render_heading(&sh->out, "%s, seed %llu", t->now->name, (unsigned long long)t->seed);
        render_busy(&sh->out, 1);
        failed = reply_draw(sh, quiet, said);
        render_busy(&sh->out, 0);
    }
    if (t->now != home && (st = tree_switch(t, home, &err)) != DBRX_OK)
        return shell_failed(sh, st, &err); /* out of memory: we stay on the alternative */
    if (failed && *on && (!said->text || !said->len))
        tree_drop(t, *on, &err);
    return failed;
}

static int draw_all(struct shell *sh, long n)
{
    struct branch *home = sh->tree->now, *on[MAX_RETRY] = { 0 };
    const struct turn *last = tree_last(sh->tree);
    uint32_t n_prompt = last->reply - last->begin;
    int32_t *prompt = malloc((n_prompt + (size_t)1) * sizeof *prompt);
    struct said said[MAX_RETRY] = { { 0 } };
    const char *text[MAX_RETRY];
    char title[MAX_RETRY][64];
    int failed = 0, beside = n > 1 && sh->out.out_tty && !sh->out.json &&
                             render_width(&sh->out) / (unsigned)n >= MIN_COLUMN;
    long made = 0;
    if (!prompt)
        return render_error(&sh->out, "out of memory");
    if (n_prompt)
        memcpy(prompt, sh->sess->token + last->begin, n_prompt * sizeof *prompt);
    while (made < n && !failed) {
        failed = alternative(sh, home, prompt, n_prompt, beside, &on[made], &said[made]);
        if (failed)
            break;
        snprintf(title[made], sizeof title[made], "%s, seed %llu", on[made]->name,
                 (unsigned long long)on[made]->seed);
        if (said[made++].why == SESS_STOPPED)
            break;
    }
    for (long i = 0; i < made; i++) {
        const char *note = reply_note(said[i].why);    /* side by side there is no status line */
        size_t len = said[i].len, more = note ? strlen(note) + sizeof "\n[]" : 1;
        char *whole = realloc(said[i].text, len + more);
        if (whole)
            snprintf((said[i].text = whole) + len, more, "%s%s%s", note ? "\n[" : "", note ? note : "",
                     note ? "]" : "");
        text[i] = whole ? whole : "";
    }
    if (beside && made)
        render_columns(&sh->out, (size_t)made, (const char (*)[64])title, text);
    struct dbrx_error err;
    if (made && tree_switch(sh->tree, on[0], &err) == DBRX_OK) {
        cJSON *f = where(sh);
        cJSON_AddNumberToObject(f, "alternatives", (double)made);
        if (made > 1)
            render_event(&sh->out, "status", f, "now on \"%s\"; /switch picks another (up to %s), or \"%s\" with "
                         "the reply there was", on[0]->name, on[made - 1]->name, home->name);
        else
            render_event(&sh->out, "status", f, "now on \"%s\"; /switch %s has the reply there was",
                         on[0]->name, home->name);
    }
    for (long i = 0; i < MAX_RETRY; i++)
        free(said[i].text);
    free(prompt);
    return failed ? -1 : 0;
}

int handle_retry(struct shell *sh, const struct args *a)
{
    const struct turn *last = tree_last(sh->tree);
    long n = a->text[0] ? a->num[0] : 1;
    if (n < 1 || n > MAX_RETRY)
        return render_error(&sh->out, "/retry draws 1 to %d replies, not %ld", MAX_RETRY, n);
    if (!last || last->finish == SESS_NO_REPLY)
        return render_error(&sh->out, last ? "the last thing was fed, there is no reply to it; /continue draws one"
                                           : "there is no reply to draw again yet");
    if (can_draw(sh))
        return -1;
    if (!(sh->vars.v[VAR_TEMPERATURE].num > 0))
        render_event(&sh->out, "status", NULL, "temperature is 0: replies differ only if something else "
                     "was changed");
    return draw_all(sh, n);
}
