/* repl/complete.c -- see complete.h.  Finds out which argument of which command the cursor
 * is in, and offers what that argument's type can be.  Prompts are never completed. */
#define _GNU_SOURCE
#include "config.h"

#include "repl/complete.h"

#include "repl/commands.h"
#include "repl/handlers.h"
#include "repl/help.h"
#include "repl/plain.h"
#include "repl/shell.h"

#include <stdio.h>
#ifdef USE_LIBEDIT
#include <editline/readline.h>
#else
#include <readline/readline.h>
#endif

#include <stdlib.h>
#include <string.h>

static struct shell *shell;
static const char *(*candidate)(size_t i); /* what is offered now; NULL past the end */
static const struct command *command;      /* whose argument it is */
static char first[64];                     /* its first word, or the backend of a step */
static int setting_at;                     /* of the value, or -1                */
static const char *typed;                  /* of the word so far                 */
static int is_off;                         /* the line is part of a prompt       */

static const char *command_word(size_t i)
{
    static char word[64];
    const struct command *c = command_at(i);
    if (!c)
        return NULL;
    snprintf(word, sizeof word, "/%s", c->name);
    return word;
}

static const char *anything(size_t i)
{
    size_t n = 0;
    while (command_at(n))
        n++;
    return i < n ? command_at(i)->name : i - n < N_VARS ? var_defs[i - n].name : help_topic(i - n - N_VARS);
}

static const char *setting(size_t i)
{
    return i < N_VARS ? var_defs[i].name : i == N_VARS ? "all" : NULL;
}

/* What the setting can be, besides numbers and text */
static const char *value(size_t i)
{
    if (setting_at < 0)
        return NULL;
    const struct var_def *d = &var_defs[setting_at];
    for (size_t n = 0; d->choice && d->choice[n]; n++)
        if (!i--)
            return d->choice[n];
    if (d->word && !i--)
        return d->word;
    return i ? NULL : "default";
}

/* "threads=", of the backend named in the line */
static const char *option(size_t i)
{
    static char word[64];
    const struct module *m;
    for (size_t at = 0; (m = disp_module(shell->disp, at)); at++) {
        if (!m->info || strcmp(m->info->name, first))
            continue;
        for (const struct dbrx_option *o = disp_options(shell->disp, at); o && o->name; o++)
            if (!i--) {
                snprintf(word, sizeof word, "%s=", o->name);
                return word;
            }
    }
    return NULL;
}

/* "isa=avx2": the values of the option that is being typed */
static const char *option_value(size_t i)
{
    static char word[128];
    const struct module *m;
    size_t n = strcspn(typed, "=");
    for (size_t at = 0; (m = disp_module(shell->disp, at)); at++) {
        const struct dbrx_choices *c = m->info ? m->info->get(DBRX_CHOICES) : NULL;
        if (!c || strcmp(m->info->name, first))
            continue;
        snprintf(word, sizeof word, "%.*s", (int)n, typed);
        const char *const *v = c->values(word);
        for (; v && *v; v++)
            if (!i--) {
                snprintf(word, sizeof word, "%.*s=%s", (int)n, typed, *v);
                return word;
            }
    }
    return NULL;
}

static const char *backend(size_t i)
{
    const struct module *m;
    for (size_t at = 0; (m = disp_module(shell->disp, at)); at++)
        if (m->info && m->info->get(DBRX_BACKEND) && !i--)
            return m->info->name;
    return strstr(command->arg[0].name, "|all") && !i ? "all" : NULL;
}

static const char *kept_backend(size_t i)
{
    static char name[64];
    uint32_t n;
    const char *label = disp_kept(shell->disp, (uint32_t)i, &n);
    if (label)
        snprintf(name, sizeof name, "%.*s", (int)strcspn(label, " "), label);
    return label ? name : NULL;
}

/* "64=ref": the steps of a handover as far as they are typed, and the next backend */
static const char *step_backend(size_t i)
{
    static char word[320];
    const char *end = strrchr(typed, '='), *comma = strrchr(typed, ',');
    const char *name = end && (!comma || comma < end) ? backend(i) : NULL;
    if (!name || snprintf(word, sizeof word, "%.*s%s", (int)(end + 1 - typed), typed, name) >= (int)sizeof word)
        return NULL;
    return word;
}

/* The backend of the handover's step that goes on at `start` becomes `first`; "" where one begins */
static void locate_step(const char *line, int start)
{
    char *copy = strndup(line, (size_t)start), *save = NULL;
    *first = '\0';
    for (char *w = copy ? strtok_r(copy, " \t", &save) : NULL; w; w = strtok_r(NULL, " \t", &save)) {
        const char *comma = strrchr(w, ','), *step = comma ? comma + 1 : w, *name = strchr(step, '=');
        if (comma || (*step >= '0' && *step <= '9'))
            snprintf(first, sizeof first, "%s", *step >= '0' && *step <= '9' && name ? name + 1 : "");
    }
    free(copy);
}

static const char *step_flag(size_t i)
{
    static const char *const flags[] = { "--replay", "--keep" };
    return i < 2 && *first ? flags[i] : NULL;
}

static const char *flag(size_t i)
{
    for (const struct arg *a = command->arg; a->type != ARG_END; a++)
        if (arg_is_option(a) && !i--) {
            static char word[64];
            snprintf(word, sizeof word, "%.*s", (int)strcspn(a->name, " "), a->name);
            return word;
        }
    return NULL;
}

/* The next number of a set: what is typed of it up to there, and every number there is.  Behind
 * an expert @ may follow, and layers behind that. */
static char typed_set[64];
static uint32_t set_size;
static const char *member(size_t i)
{
    static char word[80];
    if (i >= set_size)
        return NULL;
    snprintf(word, sizeof word, "%s%zu", typed_set, i);
    return word;
}

static void complete_set(const char *text, enum arg_type type)
{
    const struct dbrx_config *c = &shell->ckpt->desc.config;
    size_t n = strlen(text);
    while (n && !strchr(",.@", text[n - 1]))
        n--;
    snprintf(typed_set, sizeof typed_set, "%.*s", (int)n, text);
    set_size = type == ARG_TOKENS ? shell->sess->n
             : type == ARG_LAYERS || memchr(text, '@', n) ? c->n_layers : c->n_experts;
    if (n >= sizeof typed_set)
        set_size = 0;
}

static const char *branch(size_t i)
{
    return i < shell->tree->n ? shell->tree->branch[i]->name : NULL;
}

/* One of the words that the command's first ARG_FORMAT is named after */
static const char *format(size_t i)
{
    static char word[32];
    const struct arg *a = command->arg;
    while (a->type != ARG_FORMAT)
        a++;
    const char *p = a->name;
    for (; i && *p; i--) {
        p += strcspn(p, "|");
        p += *p == '|';
    }
    snprintf(word, sizeof word, "%.*s", (int)strcspn(p, "|"), p);
    return *word ? word : NULL;
}

static const char *word(size_t i)
{
    const char *const *words = command_words(command);
    for (; words && *words && i; i--)
        words++;
    return words ? *words : NULL;
}

static const char *nothing(size_t i)
{
    (void)i;
    return NULL;
}

static char *generate(const char *text, int state)
{
    static size_t at;
    const char *s;
    if (!state)
        at = 0;
    while ((s = candidate(at++)))
        if (!strncmp(s, text, strlen(text)))
            return strdup(s);
    return NULL;
}

/* The command of this line, its first word, and the argument that begins at `start`: the
 * index-th that has a place, or, when *option is not NULL, that option's value */
static const struct command *locate(const char *line, int start, int *index, const struct arg **option)
{
    char *copy = strndup(line, (size_t)start), *save = NULL;
    *index = 0;
    *option = NULL;
    first[0] = '\0';
    char *word = copy ? strtok_r(copy, " \t", &save) : NULL;
    const struct command *c = word ? command_find(word + 1, 1) : NULL;
    while (c && (word = strtok_r(NULL, " \t", &save))) {
        if (!*first && !*option && strncmp(word, "--", 2))
            snprintf(first, sizeof first, "%s", word);
        *index += !*option && strncmp(word, "--", 2) != 0;
        *option = NULL;
        for (const struct arg *a = c->arg; a->type != ARG_END; a++)
            if (arg_is_option(a) && a->type != ARG_FLAG && strcspn(a->name, " ") == strlen(word) &&
                !strncmp(a->name, word, strlen(word)))
                *option = a;
    }
    free(copy);
    return c;
}

/* The type of the index-th argument that is no option; the last one may repeat */
static enum arg_type type_at(const struct command *c, int index)
{
    enum arg_type type = ARG_END;
    for (const struct arg *a = c->arg; a->type != ARG_END; a++) {
        if (arg_is_option(a))
            continue;
        type = a->type;
        if (!index-- || type == ARG_OPTIONS || type == ARG_WORDS || type == ARG_FILE_WORDS)
            return type;
    }
    return type == ARG_VALUE || type == ARG_TEXT || type == ARG_EXPERTS ? type : ARG_END;
}

/* Readline prints names as they are */
static char *file_name(const char *text, int state)
{
    char *name = rl_filename_completion_function(text, state);
    while (name && !plain_is(name)) {
        free(name);
        name = rl_filename_completion_function(text, 1);
    }
    return name;
}

static char **complete(const char *text, int start, int end)
{
    int index;
    (void)end;
    rl_attempted_completion_over = 1;      /* no file names unless we say so */
    if (is_off || rl_line_buffer[0] != '/' || rl_line_buffer[1] == '/')
        return NULL;
    if (!start) {
        candidate = command_word;
        return rl_completion_matches(text, generate);
    }
    const struct arg *option_at;
    command = locate(rl_line_buffer, start, &index, &option_at);
    if (!command)
        return NULL;
    enum arg_type type = option_at ? option_at->type : type_at(command, index);
    int own = command->arg[0].type == ARG_VALUE;       /* "/mode chat": the command is the setting */
    typed = text;
    setting_at = var_find(own ? command->name : first, 1);
    if (type == ARG_VALUE && index == !own && setting_at >= 0 && var_defs[setting_at].type == VAR_FILE)
        type = ARG_FILE;
    int dropping = command->run == handle_backend && strstr(rl_line_buffer, " --drop ");
    int steps = setting_at == VAR_HANDOVER && type == ARG_VALUE && (index > !own || (*text >= '0' && *text <= '9'));
    if (steps)
        locate_step(rl_line_buffer, start);
    candidate = steps ? *text >= '0' && *text <= '9' ? step_backend : !strncmp(text, "--", 2) ? step_flag
                      : strchr(text, '=') ? option_value : option
              : type == ARG_WORDS || (type == ARG_FILE_WORDS && !strncmp(text, "--", 2)) ? word
              : !strncmp(text, "--", 2) ? flag : type == ARG_COMMAND ? anything
              : type == ARG_VAR ? setting : type == ARG_BACKEND ? dropping ? kept_backend : backend
              : type == ARG_BRANCH ? branch : type == ARG_FORMAT ? format
              : type == ARG_VALUE && index == !own ? value
              : type == ARG_OPTIONS ? strchr(text, '=') ? option_value : option : nothing;
    if (candidate == nothing && (type == ARG_TOKENS || type == ARG_LAYERS || type == ARG_EXPERTS)) {
        complete_set(text, type);
        rl_completion_append_character = '\0';         /* it may go on */
        candidate = member;
    }
    if (type == ARG_DIR || type == ARG_FILE || (type == ARG_FILE_WORDS && candidate != word))
        return rl_completion_matches(text, file_name);
    if (candidate == option)
        rl_completion_append_character = '\0';         /* the value follows */
    return rl_completion_matches(text, generate);
}

void complete_off(int off)
{
    if (off == is_off)
        return;
    is_off = off;
#ifndef USE_LIBEDIT                        /* there Tab does nothing then */
    static rl_command_func_t *was = rl_complete;       /* or what the user's inputrc says */
    if (off)
        was = rl_function_of_keyseq("\t", NULL, NULL);
    rl_bind_key('\t', off ? rl_insert : was);
#endif
}

void complete_init(struct shell *sh)
{
    shell = sh;
    rl_attempted_completion_function = complete;
    rl_completer_word_break_characters = (char *)" \t\n\"'";  /* "threads=2" is one word */
#ifndef USE_LIBEDIT
    rl_completer_quote_characters = "\"'";
    rl_filename_quote_characters = " \t\"'";            /* names with blanks are quoted */
#endif
}
