/* repl/complete.c -- see complete.h.  Finds out which argument of which command the cursor
 * is in, and offers what that argument's type can be.  Prompts are never completed. */
#define _GNU_SOURCE
#include "config.h"

#include "repl/complete.h"

#include "repl/commands.h"
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
static const char *const *choices;         /* of the setting being given a value */

static const char *command_word(size_t i)
{
    static char word[64];
    const struct command *c = command_at(i);
    if (!c)
        return NULL;
    snprintf(word, sizeof word, "/%s", c->name);
    return word;
}

static const char *command_or_setting(size_t i)
{
    size_t n = 0;
    while (command_at(n))
        n++;
    return i < n ? command_at(i)->name : i - n < N_VARS ? var_defs[i - n].name : NULL;
}

static const char *setting(size_t i)
{
    return i < N_VARS ? var_defs[i].name : NULL;
}

static const char *choice(size_t i)
{
    return choices ? choices[i] : NULL;
}

static const char *backend(size_t i)
{
    const struct module *m;
    for (size_t at = 0; (m = disp_module(shell->disp, at)); at++)
        if (m->info && m->info->get(DBRX_BACKEND) && !i--)
            return m->info->name;
    return NULL;
}

static const char *flag(size_t i)
{
    for (const struct arg *a = command->arg; a->type != ARG_END; a++)
        if (a->type == ARG_FLAG && !i--)
            return a->name;
    return NULL;
}

static const char *branch(size_t i)
{
    return i < shell->tree->n ? shell->tree->branch[i]->name : NULL;
}

static const char *format(size_t i)
{
    static const char *const all[] = { "md", "json", "txt", NULL };
    return all[i];
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

/* The command of this line, and the index of the argument that begins at `start` */
static const struct command *locate(const char *line, int start, int *index, char *first, size_t size)
{
    char *copy = strndup(line, (size_t)start), *save = NULL;
    *index = 0;
    first[0] = '\0';
    char *word = copy ? strtok_r(copy, " \t", &save) : NULL;
    const struct command *c = word ? command_find(word + 1, 1) : NULL;
    for (int n = 0; c && (word = strtok_r(NULL, " \t", &save)); n++) {
        if (!n)
            snprintf(first, size, "%s", word);
        *index += strncmp(word, "--", 2) != 0;
    }
    free(copy);
    for (int i = 0; c && i <= *index && c->arg[i].type != ARG_END; i++)
        *index += c->arg[i].type == ARG_FLAG;
    return c;
}

static char **complete(const char *text, int start, int end)
{
    char first[64];
    int index;
    (void)end;
    rl_attempted_completion_over = 1;      /* no file names unless we say so */
    if (rl_line_buffer[0] != '/' || rl_line_buffer[1] == '/')
        return NULL;
    if (!start) {
        candidate = command_word;
        return rl_completion_matches(text, generate);
    }
    command = locate(rl_line_buffer, start, &index, first, sizeof first);
    if (!command)
        return NULL;
    enum arg_type type = ARG_END;
    for (int i = 0; i <= index && (type = command->arg[i].type) != ARG_END; i++)
        ;
    choices = NULL;
    if (type == ARG_VALUE) {
        int var = var_find(first, 1);
        if (var >= 0 && var_defs[var].type == VAR_FILE)
            type = ARG_FILE;
        choices = var >= 0 ? var_defs[var].choice : NULL;
    }
    candidate = !strncmp(text, "--", 2) ? flag : type == ARG_COMMAND ? command_or_setting
              : type == ARG_VAR ? setting : type == ARG_BACKEND ? backend
              : type == ARG_BRANCH ? branch : type == ARG_FORMAT ? format
              : type == ARG_VALUE ? choice : nothing;
    if (type == ARG_DIR || type == ARG_FILE)
        return rl_completion_matches(text, rl_filename_completion_function);
    return rl_completion_matches(text, generate);
}

void complete_init(struct shell *sh)
{
    shell = sh;
    rl_attempted_completion_function = complete;
}
