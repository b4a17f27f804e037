/* repl/help.c -- /help and the command list, read off the tables; and the few topics that
 * are no row of any table. */
#define _GNU_SOURCE
#include "repl/help.h"

#include "repl/commands.h"
#include "repl/handlers.h"
#include "repl/shell.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* A topic that has the name of a group explains it; help_topic gives the other groups too */
static const struct help_page topics[] = {
    { "prompts", "what is sent to the model, and lines that continue",
      "Every line that does not begin with / is a prompt; // begins one with a slash.  In base mode "
      "the model continues it, and Enter alone lets it go on; in chat mode it is answered.\n"
      "A line of \"\"\" begins a prompt of several lines, which ends with \"\"\".  A backslash at the end "
      "of a line continues it on the next.  Both are for terminals and for lines of files and pipes, not "
      "for -c.  What is pasted keeps its lines.\n"
      "What is typed while a reply appears is kept for the next prompt.", "\"\"\"" },
    { "scripts", "lines from files and pipes, and where results go",
      "dbrx -c LINE, dbrx -f FILE and dbrx < FILE run lines and end; /source runs them here.  A script "
      "stops at the first line that fails, unless /set on_error continue, and dbrx then ends with exit "
      "code 3.  --json writes one object per event.  Results go to stdout, all else to stderr.",
      "dbrx -f setup -c /stats" },
    { "keys", "what the keyboard does",
      "Tab completes commands, settings, values, backends and their options, files.\n"
      "Up and down recall lines, Ctrl-R searches them.\n"
      "Ctrl-C drops the line; it stops a reply, which is kept, or a prompt that is read, which is not; "
      "the third time it ends dbrx.\n"
      "Ctrl-D ends a prompt of several lines; on an empty line it leaves.", "/ro<Tab>" },
    { "files", "rc file, history, modules",
      "$XDG_CONFIG_HOME/dbrx/rc (~/.config/dbrx/rc): lines of NAME = VALUE, commands, and # comments, read "
      "when a session at a terminal starts, unless --no-rc.  What the command line sets outranks it.\n"
      "$XDG_STATE_HOME/dbrx/history (~/.local/state/dbrx/history): the lines typed, yours alone; kept/ beside it: "
      "the conversations of the last sessions at a terminal, kept after every reply; /load goes on with the latest.\n"
      "Backends: --module-path, $DBRX_MODULE_PATH, the installed ones.", "temperature = 0.5" },
};
enum { N_TOPICS = sizeof topics / sizeof *topics };

const struct help_page *help_page(size_t i)
{
    return i < N_TOPICS ? &topics[i] : NULL;
}

/* The i-th group, as the table first names it */
static const char *group_at(size_t i)
{
    for (size_t c = 0; command_at(c); c++)
        if ((!c || strcmp(command_at(c)->group, command_at(c - 1)->group)) && !i--)
            return command_at(c)->group;
    return NULL;
}

const char *help_topic(size_t i)
{
    if (i < N_TOPICS)
        return topics[i].name;
    const char *group;
    size_t skip = i - N_TOPICS;
    for (size_t g = 0; (group = group_at(g)); g++) {
        size_t t = 0;
        while (t < N_TOPICS && strcmp(topics[t].name, group))
            t++;
        if (t == N_TOPICS && !skip--)
            return group;
    }
    return NULL;
}

static void command_row(const struct command *c, cJSON *list)
{
    char usage[USAGE_LEN];
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

static unsigned widest_usage(void)
{
    unsigned widest = 0;
    char usage[USAGE_LEN];
    for (size_t i = 0; command_at(i); i++) {
        command_usage(command_at(i), 0, usage, sizeof usage);
        widest = strlen(usage) > widest ? (unsigned)strlen(usage) : widest;
    }
    return widest;
}

/* As wide in every group, so that the groups line up */
static char *show_usage(const struct render *r, const cJSON *row)
{
    unsigned widest = widest_usage();
    char usage[USAGE_LEN], *text = NULL;
    (void)r;
    command_usage(command_find(cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(row, "name")), 0),
                  0, usage, sizeof usage);
    return asprintf(&text, "  %-*s", (int)widest, usage) < 0 ? NULL : text;
}

/* The commands of a group (NULL: all), a group at a time */
static void list_commands(struct render *r, const char *group)
{
    static const struct column col[] = { { NULL, "", 0, 0, show_usage }, { "brief", "", 0, 0, NULL }, { 0 } };
    static const struct rows rows = { "rows", "commands", "rows", col, 1 };
    cJSON *list = cJSON_CreateArray();
    for (size_t i = 0; command_at(i); i++) {
        const struct command *c = command_at(i), *next = command_at(i + 1);
        if (group && strcmp(group, c->group))
            continue;
        command_row(c, list);
        if (!r->json && !(next && !strcmp(next->group, c->group))) {
            render_rows(r, &rows, c->group, NULL, list);
            list = cJSON_CreateArray();
        }
    }
    if (r->json)
        render_rows(r, &rows, NULL, NULL, list);
    else
        cJSON_Delete(list);
}

/* How many lines all of them take, those that wrap by their words counted amply */
static size_t list_lines(const struct render *r)
{
    unsigned left = 2 + widest_usage() + 2, word = 12, width = render_width(r);
    width = width > left + 2 * word ? width - left - word : word;
    size_t lines = 0;
    for (size_t i = 0; command_at(i); i++)
        lines += 1 + (strlen(command_at(i)->brief) > width + word ? strlen(command_at(i)->brief) / width : 0);
    for (size_t i = 0; group_at(i); i++)
        lines++;
    return lines;
}

static char *show_names(const struct render *r, const cJSON *row)
{
    const char *group = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(row, "group"));
    char *text = NULL;
    size_t size;
    FILE *f = open_memstream(&text, &size);
    (void)r;
    for (size_t i = 0; f && command_at(i); i++)
        if (!strcmp(command_at(i)->group, group))
            fprintf(f, "%s/%s", ftell(f) > 0 ? " " : "", command_at(i)->name);
    return f && !fclose(f) ? text : NULL;
}

/* Names only, where the whole list would scroll away */
static void list_names(struct render *r)
{
    static const struct column col[] = { { "group", "", 0, 0, NULL }, { NULL, "", 0, 0, show_names }, { 0 } };
    static const struct rows rows = { "rows", "groups", "rows", col, 1 };
    cJSON *list = cJSON_CreateArray();
    for (size_t i = 0; group_at(i); i++) {
        cJSON *row = cJSON_CreateObject();
        field_string(row, "group", group_at(i));
        cJSON_AddItemToArray(list, row);
    }
    render_rows(r, &rows, NULL, NULL, list);
}

enum { LINE = 200 };

/* Names and briefs, the groups one after another: the i-th line of all that, its length */
static size_t brief_line(size_t i, char *out, size_t size)
{
    size_t widest = 0, at = 0;
    for (size_t c = 0; command_at(c); c++)
        widest = strlen(command_at(c)->name) > widest ? strlen(command_at(c)->name) : widest;
    for (size_t c = 0; command_at(c); c++) {
        const struct command *k = command_at(c);
        if ((!c || strcmp(k->group, command_at(c - 1)->group)) && at++ == i)
            return (size_t)snprintf(out, size, "%s", k->group);
        if (at++ == i)
            return (size_t)snprintf(out, size, "  /%-*s  %s", (int)widest, k->name, k->brief);
    }
    return 0;
}

/* Does the text break between groups only, with so many rows in a column? */
static int breaks_well(unsigned n, unsigned rows)
{
    char line[LINE] = "";
    for (unsigned i = rows; i < n && *line != ' '; i += rows)
        brief_line(i, line, sizeof line);
    return *line != ' ';
}

/* As many columns as there is room for, if then all of it is on the screen: 0, or -1 */
static int list_briefs(struct render *r, unsigned height)
{
    enum { GAP = 3 };
    char line[LINE];
    unsigned n = 0, widest = 0, width = render_width(r);
    for (size_t len; (len = brief_line(n, line, sizeof line)); n++)
        widest = len > widest ? (unsigned)len : widest;
    unsigned columns = (width + GAP) / (widest + GAP), least = columns ? (n + columns - 1) / columns : n, rows = least;
    if (!columns || least > height)
        return -1;
    while (rows <= height && !breaks_well(n, rows))
        rows++;
    rows = rows <= height ? rows : least;
    const char *bold = r->colour ? "\033[1m" : "", *plain = r->colour ? "\033[0m" : "";
    for (unsigned row = 0; row < rows; row++)
        for (unsigned c = 0; c * rows + row < n; c++) {
            size_t len = brief_line(c * rows + row, line, sizeof line);
            int more = (c + 1) * rows + row < n, heading = *line != ' ';
            printf("%s%s%s%*s", heading ? bold : "", line, heading ? plain : "", more ? (int)(widest + GAP - len) : 0, "");
            if (!more)
                putchar('\n');
        }
    return 0;
}

void help_commands(struct render *r)
{
    enum { AROUND = 4 };                   /* the sentences below, and the next prompt */
    if (r->json) {
        list_commands(r, NULL);
        return;
    }
    unsigned height = render_height(r) - AROUND;
    if (!r->out_tty || list_lines(r) <= height)
        list_commands(r, NULL);
    else if (list_briefs(r, height))
        list_names(r);
    render_paragraph(r, 0, "Every other line is a prompt (// begins one with a slash).  "
                     "/help WORD explains a command, a setting or a topic (prompts, keys, scripts, files), and "
                     "searches for any other word.");
}

void help_markdown(void)
{
    const char *group = "";
    char usage[USAGE_LEN];
    for (size_t i = 0; command_at(i); i++) {
        const struct command *c = command_at(i);
        if (strcmp(group, c->group))
            printf("%s%c%s\n\n", i ? "\n" : "", c->group[0] - 'a' + 'A', c->group + 1);
        group = c->group;
        command_usage(c, 1, usage, sizeof usage);
        printf("- `%s`: %s\n", usage, c->brief);
    }
}

static void explain_command(struct render *r, const struct command *c)
{
    if (r->json) {
        static const struct rows rows = { "rows", "commands", "rows", NULL, 1 };
        cJSON *list = cJSON_CreateArray();
        command_row(c, list);
        render_rows(r, &rows, NULL, NULL, list);
        return;
    }
    char usage[USAGE_LEN];
    command_usage(c, 1, usage, sizeof usage);
    render_paragraph(r, 0, usage);
    render_paragraph(r, 2, c->brief);
    if (*c->help)
        render_paragraph(r, 2, c->help);
    printf("  Example: %s\n", c->example);
}

/* Text and commands of that name; 0, or -1: there is no such topic */
static int explain_topic(struct render *r, const char *name)
{
    size_t i = 0, t = 0;
    while (help_topic(i) && strcmp(help_topic(i), name))
        i++;
    if (!help_topic(i))
        return -1;
    for (t = 0; t < N_TOPICS && strcmp(topics[t].name, name); t++)
        ;
    if (t < N_TOPICS && r->json) {
        cJSON *f = cJSON_CreateObject();
        field_string(f, "topic", name);
        field_string(f, "example", topics[t].example);
        render_event(r, "status", f, "%s", topics[t].text);
    } else if (t < N_TOPICS) {
        render_paragraph(r, 2, topics[t].text);
        printf("  Example: %s\n", topics[t].example);
    }
    for (size_t g = 0; group_at(g); g++)
        if (!strcmp(group_at(g), name))
            list_commands(r, name);
    return 0;
}

/* ---- /help WORD: where does it occur? ---- */

static void found(cJSON *list, const char *kind, const char *slash, const char *name, const char *brief,
                  size_t len)
{
    char word[80];
    cJSON *row = cJSON_CreateObject();
    cJSON_AddItemToArray(list, row);
    snprintf(word, sizeof word, "%s%s", slash, name);
    field_string(row, "name", word);
    field_string(row, "kind", kind);
    field_text(row, "brief", brief, len);
}

/* 0, or -1: nowhere */
static int search(struct render *r, const char *word)
{
    static const struct column col[] = { { "name", "", 0, 0, NULL }, { "kind", "", 0, 0, NULL },
                                         { "brief", "", 0, 0, NULL }, { 0 } };
    static const struct rows rows = { "rows", "topics", "rows", col, 1 };
    cJSON *list = cJSON_CreateArray();
    const struct command *c;
    for (size_t i = 0; (c = command_at(i)); i++)
        if (strcasestr(c->name, word) || strcasestr(c->brief, word) || strcasestr(c->help, word))
            found(list, "command", "/", c->name, c->brief, strlen(c->brief));
    for (size_t i = 0; i < N_VARS; i++)    /* a setting's first clause says what it is */
        if (strcasestr(var_defs[i].name, word) || strcasestr(var_defs[i].help, word))
            found(list, "setting", "", var_defs[i].name, var_defs[i].help, strcspn(var_defs[i].help, ":;."));
    for (size_t i = 0; i < N_TOPICS; i++)
        if (strcasestr(topics[i].brief, word) || strcasestr(topics[i].text, word))
            found(list, "topic", "", topics[i].name, topics[i].brief, strlen(topics[i].brief));
    if (!cJSON_GetArraySize(list)) {
        cJSON_Delete(list);
        return -1;
    }
    render_rows(r, &rows, NULL, NULL, list);
    return 0;
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
    const struct command *c = command_find(name, 0);
    int var = var_find(name, 0);
    if (!c && var < 0 && !explain_topic(r, name))
        return 0;
    if (!c && var < 0) {
        c = command_find(name, sh->interactive);
        var = c ? -1 : var_find(name, sh->interactive);
    }
    if (c)
        explain_command(r, c);
    if (c && !strcmp(c->name, name))       /* a group may have the name of one of its commands */
        explain_topic(r, name);
    if (var >= 0)                          /* a setting may have a command of its name */
        return set_named(sh, var_defs[var].name, 0, NULL);
    char choices[400] = "";
    if (!c && sh->interactive)             /* "/help /b", as /b says it */
        command_choices(name, choices, sizeof choices);
    if (!c && *choices && *a->text[0] == '/')
        return render_error(r, "/%.60s could be %s", name, choices);
    if (c || (*name && !search(r, name)))
        return 0;
    const char *near = command_nearest(name);
    near = near ? near : var_nearest(name);
    return render_error(r, "there is no command or setting \"%.60s\"%s%s%s", name,
                        near ? "; did you mean " : "; /help lists the commands, /set the settings",
                        near ? near : "", near ? "?" : "");
}
