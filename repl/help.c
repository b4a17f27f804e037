/* repl/help.c -- /help and the command list, read off the tables. */
#define _GNU_SOURCE
#include "repl/help.h"

#include "repl/commands.h"
#include "repl/handlers.h"
#include "repl/shell.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void command_row(const struct command *c, cJSON *list)
{
    char usage[160];
    cJSON *row = cJSON_CreateObject();
    cJSON_AddItemToArray(list, row);
    command_usage(c, 1, usage, sizeof usage);
    field_string(row, "name", c->name);
    field_string(row, "group", c->group);
    field_string(row, "usage", usage);
    field_string(row, "brief", c->brief);
    field_string(row, "help", c->help);
    field_string(row, "example", c->example);
}

/* As wide in every group, so that the groups line up */
static char *show_usage(const struct render *r, const cJSON *row)
{
    unsigned widest = 0;
    char usage[160], *text = NULL;
    (void)r;
    for (size_t i = 0; command_at(i); i++) {
        command_usage(command_at(i), 0, usage, sizeof usage);
        widest = strlen(usage) > widest ? (unsigned)strlen(usage) : widest;
    }
    command_usage(command_find(cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(row, "name")), 0),
                  0, usage, sizeof usage);
    return asprintf(&text, "  %-*s", (int)widest, usage) < 0 ? NULL : text;
}

void help_commands(struct render *r)
{
    static const struct column col[] = { { NULL, "", 0, 0, show_usage }, { "brief", "", 0, 0, NULL }, { 0 } };
    static const struct rows rows = { "rows", "commands", "rows", col, 1 };
    cJSON *list = cJSON_CreateArray();
    for (size_t i = 0; command_at(i); i++) {
        const struct command *c = command_at(i), *next = command_at(i + 1);
        command_row(c, list);
        if (!r->json && (!next || strcmp(next->group, c->group))) {
            render_rows(r, &rows, c->group, NULL, list);
            list = cJSON_CreateArray();
        }
    }
    if (r->json) {
        render_rows(r, &rows, NULL, NULL, list);
        return;
    }
    cJSON_Delete(list);
    render_paragraph(r, 0, "Every other line is a prompt (// begins one with a slash).  "
                     "/help NAME explains a command or a setting.");
}

void help_markdown(void)
{
    const char *group = "";
    char usage[160];
    for (size_t i = 0; command_at(i); i++) {
        const struct command *c = command_at(i);
        if (strcmp(group, c->group))
            printf("%s%c%s\n\n", i ? "\n" : "", c->group[0] - 'a' + 'A', c->group + 1);
        group = c->group;
        command_usage(c, 1, usage, sizeof usage);
        printf("- `%s`: %s\n", usage, c->brief);
    }
}

int handle_help(struct shell *sh, const struct args *a)
{
    struct render *r = &sh->out;
    const char *name = a->text[0];
    if (!name) {
        help_commands(r);
        return 0;
    }
    name += *name == '/';
    const struct command *c = command_find(name, sh->interactive);
    int var = c ? -1 : var_find(name, sh->interactive);
    if (!c && var >= 0) {
        struct args set = { .text = { var_defs[var].name } };
        return handle_set(sh, &set);
    }
    if (!c) {
        const char *near = command_nearest(name);
        near = near ? near : var_nearest(name);
        return render_error(r, "there is no command or setting \"%.60s\"%s%s%s", name,
                            near ? "; did you mean " : "; /help lists the commands, /set the settings",
                            near ? near : "", near ? "?" : "");
    }
    if (r->json) {
        static const struct rows rows = { "rows", "commands", "rows", NULL, 1 };
        cJSON *list = cJSON_CreateArray();
        command_row(c, list);
        render_rows(r, &rows, NULL, NULL, list);
        return 0;
    }
    char usage[160];
    command_usage(c, 1, usage, sizeof usage);
    render_paragraph(r, 0, usage);
    render_paragraph(r, 2, c->brief);
    if (*c->help)
        render_paragraph(r, 2, c->help);
    printf("  Example: %s\n", c->example);
    return 0;
}
