/* repl/vars.c -- see vars.h. */
#include "repl/vars.h"

#include "repl/handover.h"
#include "repl/stops.h"
#include "repl/words.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char *const modes[] = { "base", "chat", NULL };
static const char *const specials[] = { "plain", "parse", NULL };
static const char *const shows[] = { "plain", "probs", NULL };
static const char *const off_on[] = { "off", "on", NULL };
static const char *const on_errors[] = { "stop", "continue", NULL };
static const char *const overflows[] = { "stop", "shift", NULL };
static const char *const early[] = { "false", "true", "never", NULL };

const struct var_def var_defs[N_VARS] = {
    [VAR_TEMPERATURE] = { "temperature", VAR_REAL, 0, 100, NULL, "0.8", "",
        "how freely tokens are drawn: 0 always takes the likeliest, 1 draws as the model "
        "says, above that wilder", NULL },
    [VAR_TOP_K] = { "top_k", VAR_COUNT, 0, 4294967295.0, NULL, "50", "tokens",
        "draw from this many of the likeliest tokens, and those that equal the last; 0 is all", NULL },
    [VAR_TOP_P] = { "top_p", VAR_REAL, 0, 1, NULL, "0.95", "",
        "draw from the smallest set of tokens that holds this much probability; 1 is all", NULL },
    [VAR_MIN_P] = { "min_p", VAR_REAL, 0, 1, NULL, "0", "",
        "drop tokens less likely than this share of the likeliest; 0 drops none", NULL },
    [VAR_TYPICAL_P] = { "typical_p", VAR_REAL, 0, 1, NULL, "1", "",
        "draw from the tokens whose surprise is nearest to the expected one, as many as hold this "
        "much probability; 1 is all", NULL },
    [VAR_EPSILON_CUTOFF] = { "epsilon_cutoff", VAR_REAL, 0, 0.99, NULL, "0", "",
        "drop tokens less likely than this; 0 drops none", NULL },
    [VAR_ETA_CUTOFF] = { "eta_cutoff", VAR_REAL, 0, 0.99, NULL, "0", "",
        "drop tokens less likely than this, or than its square root times exp(-entropy) where that "
        "is less; 0 drops none", NULL },
    [VAR_REPETITION_PENALTY] = { "repetition_penalty", VAR_REAL, 0.01, 100, NULL, "1", "",
        "divide the logits of tokens that occur in the conversation by this (multiply negative "
        "ones); 1 is off, below 1 invites repetition", NULL },
    [VAR_NO_REPEAT_NGRAM_SIZE] = { "no_repeat_ngram_size", VAR_COUNT, 0, 4294967295.0, NULL, "0", "tokens",
        "let no sequence of this many tokens come twice in the conversation; 0 is off", NULL },
    [VAR_FREQUENCY_PENALTY] = { "frequency_penalty", VAR_REAL, -2, 2, NULL, "0", "",
        "lower a token's logit by this for each time it occurs in the reply so far (the prompt does "
        "not count)", NULL },
    [VAR_PRESENCE_PENALTY] = { "presence_penalty", VAR_REAL, -2, 2, NULL, "0", "",
        "lower a token's logit by this once it occurs in the reply (the prompt does not count)", NULL },
    [VAR_LOGIT_BIAS] = { "logit_bias", VAR_LIST, -100, 100, NULL, "", "",
        "added to the logits of these tokens: 220=-5, \" the\"=2.  A token is its id, or text in "
        "double quotes that is exactly one token", NULL },
    [VAR_SUPPRESS_TOKENS] = { "suppress_tokens", VAR_LIST, 0, 0, NULL, "", "",
        "tokens that are never drawn: 220, \" the\".  A token is its id, or text in double quotes "
        "that is exactly one token", NULL },
    [VAR_MIN_NEW_TOKENS] = { "min_new_tokens", VAR_COUNT, 0, 4294967295.0, NULL, "0", "tokens",
        "a reply does not end by itself before it is this long", NULL },
    [VAR_NUM_BEAMS] = { "num_beams", VAR_COUNT, 1, 64, NULL, "1", "beams",
        "above 1 the reply is searched for, not drawn: the likeliest of this many continuations kept "
        "side by side.  Nothing is random then, temperature and the filters from top_k to eta_cutoff "
        "play no part, and the reply shows when it is found", NULL },
    [VAR_LENGTH_PENALTY] = { "length_penalty", VAR_REAL, -100, 100, NULL, "1", "",
        "with num_beams: a reply's score is its log probability divided by its length to this power; "
        "above 0 favours long replies, below short ones", NULL },
    [VAR_EARLY_STOPPING] = { "early_stopping", VAR_CHOICE, 0, 0, NULL, "false", "",
        "with num_beams: true stops at that many ended replies, false also when better ones are "
        "unlikely, never only when none can come", early },
    [VAR_SEED] = { "seed", VAR_COUNT, 0, 999999999999999.0, "random", "random", "",
        "start of the random numbers; the same seed, backend and prompts give the same "
        "replies.  random picks a new one for each conversation and shows it", NULL },
    [VAR_MAX_TOKENS] = { "max_tokens", VAR_COUNT, 0, 4294967295.0, NULL, "256", "tokens",
        "length at which a reply is cut; 0 is as far as the context reaches", NULL },
    [VAR_THREADS] = { "threads", VAR_COUNT, 1, 1024, "auto", "auto", "threads",
        "CPU threads of the backend; auto leaves it to the backend (the physical cores)", NULL },
    [VAR_HANDOVER] = { "handover", VAR_TEXT, 0, 0, NULL, "", "",
        "backends that a reply changes to while it is drawn: 64=ref, 128=cpu-blas threads=1 goes on with "
        "ref after 64 tokens and with cpu-blas after 128; --replay and --keep as in /backend.  Every reply "
        "counts afresh and begins with the backend there is; 0=NAME sets that, too", NULL },
    [VAR_MODE] = { "mode", VAR_CHOICE, 0, 0, NULL, "base", "",
        "base continues your text as it stands; chat wraps it as a message and lets the "
        "model answer.  The default is chat when the checkpoint has a chat template", modes },
    [VAR_SYSTEM] = { "system", VAR_TEXT, 0, 0, NULL, "", "",
        "system message that opens a conversation in chat mode; empty is none.  The default "
        "is the checkpoint's own", NULL },
    [VAR_STOP] = { "stop", VAR_TEXT, 0, 0, NULL, "", "",
        "a reply ends where its text contains this; several are each put in quotes, and \\n, \\t, "
        "\\\" and \\\\ mean what they do in C.  The stop string is not shown; tokens that began "
        "before it stay in the conversation", NULL },
    [VAR_OVERFLOW] = { "overflow", VAR_CHOICE, 0, 0, NULL, "stop", "",
        "when the context is full: stop ends the reply; shift drops the oldest turns (a system "
        "message, or else the first 4 tokens, stay), says so, keeps a copy as a branch and goes "
        "on", overflows },
    [VAR_GRAMMAR] = { "grammar", VAR_FILE, 0, 0, NULL, "", "",
        "file with a grammar (GBNF, as in llama.cpp) that replies must match; empty is none.  "
        "Turns schema off", NULL },
    [VAR_SCHEMA] = { "schema", VAR_FILE, 0, 0, NULL, "", "",
        "file with a JSON Schema: replies are JSON that is valid under it; empty is none.  "
        "Turns grammar off", NULL },
    [VAR_SPECIALS] = { "specials", VAR_CHOICE, 0, 0, NULL, "plain", "",
        "what <|im_end|> and the like mean in a prompt: plain is text like any other, so that "
        "nothing pasted can end a message; parse makes control tokens of them", specials },
    [VAR_LABELS] = { "labels", VAR_FILE, 0, 0, NULL, "", "",
        "file that dbrx specialists wrote: experts are named by the topic that they are specialists of; "
        "empty is none", NULL },
    [VAR_SHOW] = { "show", VAR_CHOICE, 0, 0, NULL, "plain", "",
        "probs colours a reply by how likely the model thought each token, from red (under "
        "1 in 100) to plain (over 2 in 3)", shows },
    [VAR_TIMING] = { "timing", VAR_CHOICE, 0, 0, NULL, "on", "",
        "the status line after each reply: tokens, speeds, backend, context", off_on },
    [VAR_ON_ERROR] = { "on_error", VAR_CHOICE, 0, 0, NULL, "stop", "",
        "what a script does after a line that failed; the exit code is 3 either way", on_errors },
};

const char *var_origin_name(enum var_origin from)
{
    static const char *const name[] = { "default", "rc file", "command line", "session" };
    return name[from];
}

static const char *var_name(size_t i)
{
    return i < N_VARS ? var_defs[i].name : NULL;
}

int var_find(const char *name, int prefix)
{
    return word_find(name, var_name, prefix);
}

const char *var_nearest(const char *name)
{
    return word_nearest(name, var_name);
}

void var_choices(const char *name, char *out, size_t size)
{
    if (!*name || word_list(name, var_name, "", out, size) < 2)
        out[0] = '\0';
}

void var_range(int var, char *out, size_t size)
{
    const struct var_def *d = &var_defs[var];
    if (d->type == VAR_TEXT || d->type == VAR_FILE) {
        snprintf(out, size, d->type == VAR_TEXT ? "text" : "a file");
    } else if (d->type == VAR_LIST) {
        snprintf(out, size, d->min < d->max ? "ID=BIAS, ..." : "ID, ...");
    } else if (d->type == VAR_CHOICE) {
        out[0] = '\0';
        for (size_t i = 0, n = 0; d->choice[i] && n < size; i++)
            n += (size_t)snprintf(out + n, size - n, "%s%s", i ? " or " : "", d->choice[i]);
    } else {
        size_t n = d->max == 4294967295.0 ? (size_t)snprintf(out, size, "%.16g and up", d->min)
                 : (size_t)snprintf(out, size, "%.16g .. %.16g", d->min, d->max);
        if (d->word && n < size)
            snprintf(out + n, size - n, " or %s", d->word);
    }
}

static int number(const struct var_def *d, const char *text, double *num)
{
    char *end;
    if (d->word && !strcmp(text, d->word)) {
        *num = -1;
        return 0;
    }
    /* digits only where a count is meant; strtod alone would take "nan" and "0x1p3" */
    if (!*text || text[strspn(text, d->type == VAR_COUNT ? "0123456789" : "0123456789.eE+-")])
        return -1;
    *num = strtod(text, &end);
    return *end || *num < d->min || *num > d->max ? -1 : 0;
}

int vars_set(struct vars *vars, int var, const char *text, enum var_origin from, char *err,
             size_t size)
{
    const struct var_def *d = &var_defs[var];
    struct var *v = &vars->v[var];
    double num = 0;
    int bad = 0;
    if (!strcmp(text, "default")) {
        text = v->fallback ? v->fallback : d->fallback;
        from = FROM_DEFAULT;
    }
    if (d->type == VAR_CHOICE) {
        size_t i = 0;
        while (d->choice[i] && strcmp(d->choice[i], text))
            i++;
        bad = !d->choice[i];
        num = (double)i;
    } else if (d->type != VAR_TEXT && d->type != VAR_FILE && d->type != VAR_LIST) {
        bad = number(d, text, &num);
    } else if (var == VAR_STOP) {
        struct stops stops;
        if (stops_parse(&stops, text, err, size))
            return -1;
    } else if (var == VAR_HANDOVER) {
        struct handover plan;
        if (handover_parse(&plan, text, err, size))
            return -1;
        handover_free(&plan);
    }
    if (bad) {
        char range[128];
        var_range(var, range, sizeof range);
        snprintf(err, size, "%s cannot be \"%.60s\": it takes %s%s%s%s", d->name, text, range,
                 d->unit[0] ? d->word ? " (" : " " : "", d->unit, d->unit[0] && d->word ? ")" : "");
        return -1;
    }
    char *copy = strdup(text);
    if (!copy) {
        snprintf(err, size, "out of memory");
        return -1;
    }
    free(v->text);
    v->text = copy;
    v->num = num;
    v->origin = from;
    return 0;
}

int vars_default(struct vars *vars, int var, const char *text)
{
    char err[256], *copy = strdup(text);
    struct var *v = &vars->v[var];
    if (!copy)
        return -1;
    free(v->fallback);
    v->fallback = copy;
    return v->origin == FROM_DEFAULT ? vars_set(vars, var, "default", FROM_DEFAULT, err, sizeof err)
                                     : 0;
}

int vars_init(struct vars *vars)
{
    char err[256];
    *vars = (struct vars){ 0 };
    for (int i = 0; i < N_VARS; i++)
        if (vars_set(vars, i, "default", FROM_DEFAULT, err, sizeof err)) {
            vars_free(vars);
            return -1;
        }
    return 0;
}

int vars_copy(struct vars *to, const struct vars *from)
{
    *to = (struct vars){ 0 };
    for (int i = 0; i < N_VARS; i++) {
        const struct var *v = &from->v[i];
        to->v[i] = (struct var){ strdup(v->text), v->num, v->origin, v->fallback ? strdup(v->fallback) : NULL };
        if (!to->v[i].text || (v->fallback && !to->v[i].fallback)) {
            vars_free(to);
            return -1;
        }
    }
    return 0;
}

void vars_free(struct vars *vars)
{
    for (int i = 0; i < N_VARS; i++) {
        free(vars->v[i].text);
        free(vars->v[i].fallback);
    }
    *vars = (struct vars){ 0 };
}
