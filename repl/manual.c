/* repl/manual.c -- the man page and the completions for bash and zsh, written from the tables
 * of options, tools, commands, settings and topics when the program is built. */
#define _GNU_SOURCE
#include "config.h"

#include "repl/commands.h"
#include "repl/help.h"
#include "repl/options.h"
#include "repl/vars.h"

#include <stdio.h>
#include <string.h>

/* ---- dbrx.1 ---- */

#define MAN_DATE "2026-11-23"          /* of the last change of what is fixed below */

/* Text as roff: nothing in it is a request or an escape; a newline begins a paragraph */
static void roff(const char *text)
{
    int first = 1;
    for (; *text; text++) {
        if (first && (*text == '.' || *text == '\''))
            fputs("\\&", stdout);
        first = 0;
        switch (*text) {
        case '\\': fputs("\\e", stdout); break;
        case '-':  fputs("\\-", stdout); break;
        case '~':  fputs("\\(ti", stdout); break;
        case '^':  fputs("\\(ha", stdout); break;
        case '`':  fputs("\\(ga", stdout); break;
        case '\n': fputs("\n.br\n", stdout); first = 1; break;
        default:   putchar(*text);
        }
    }
}

/* A paragraph with a hanging tag */
static void item(const char *tag, const char *after)
{
    fputs(".TP\n\\fB", stdout);
    roff(tag);
    fputs("\\fR", stdout);
    if (*after)
        putchar(' ');
    roff(after);
    putchar('\n');
}

static void line(const char *text)
{
    roff(text);
    putchar('\n');
}

static void example(const char *text)
{
    fputs(".br\nExample: \\fB", stdout);
    roff(text);
    fputs("\\fR\n", stdout);
}

static void man_option(const struct option_row *o)
{
    char tag[64], letter[8] = "";
    if (!o->help)
        return;
    if (o->letter < 256)
        snprintf(letter, sizeof letter, "-%c, ", o->letter);
    snprintf(tag, sizeof tag, "%s--%s", letter, o->name);
    item(tag, o->arg ? o->arg : "");
    line(o->help);
}

static void man_options(void)
{
    puts(".SH OPTIONS");
    for (const struct option_row *o = option_rows; o->name; o++)
        man_option(o);
    puts(".SH TOOLS");
    for (const struct tool_row *t = tool_rows; t->name; t++) {
        char tag[64];
        snprintf(tag, sizeof tag, "dbrx %s", t->name);
        item(tag, t->usage);
        line(t->help);
        for (const struct option_row *o = t->options; o && o->name; o++) {
            printf(".RS\n");
            man_option(o);
            printf(".RE\n");
        }
    }
}

static void man_commands(void)
{
    const struct command *c;
    const char *group = "";
    puts(".SH COMMANDS\nWhat is typed, or in a script, and begins with a slash.");
    for (size_t i = 0; (c = command_at(i)); i++) {
        char usage[USAGE_LEN];
        if (strcmp(group, c->group))
            printf(".SS %c%s\n", c->group[0] - 'a' + 'A', c->group + 1);
        group = c->group;
        command_usage(c, 1, usage, sizeof usage);
        size_t n = 1 + strlen(c->name);
        const char *after = usage[n] ? usage + n + 1 : "";
        usage[n] = '\0';
        item(usage, after);
        printf("%c", c->brief[0] >= 'a' && c->brief[0] <= 'z' ? c->brief[0] - 'a' + 'A' : c->brief[0]);
        roff(c->brief + 1);
        puts(".");
        if (*c->help)
            line(c->help);
        example(c->example);
    }
}

static void man_settings(void)
{
    puts(".SH SETTINGS\nChanged with \\fB/set\\fR, \\fB\\-s\\fR and the rc file.");
    for (int i = 0; i < N_VARS; i++) {
        const struct var_def *d = &var_defs[i];
        char range[160];
        var_range(i, range, sizeof range);
        item(d->name, range);
        roff(d->help);
        fputs(".\n.br\nDefault: ", stdout);
        line(*d->fallback ? d->fallback : "empty");
    }
}

void print_man(void)
{
    puts(".\\\" made by dbrx --help-man\n.TH DBRX 1 " MAN_DATE " \"dbrx " PACKAGE_VERSION "\" \"User Commands\"\n"
         ".SH NAME\ndbrx \\- shell for DBRX mixture\\-of\\-experts language models\n"
         ".SH SYNOPSIS\n.B dbrx\n.RI [ OPTION ...]");
    for (const struct tool_row *t = tool_rows; t->name; t++)
        printf(".br\n.B dbrx %s\n.RI [ ARGUMENT ...]\n", t->name);
    puts(".SH DESCRIPTION\n"
         "You type, the model goes on, and every token shows which experts it used.\n"
         "A checkpoint is mapped once; prompts go to a backend, a shared object that can be changed\n"
         "in the middle of a conversation.\n"
         "Without \\fB\\-c\\fR, \\fB\\-f\\fR, \\fB\\-p\\fR and \\fB\\-\\-prompts\\fR lines are read from the terminal or stdin.");
    man_options();
    const struct help_page *page;
    for (size_t i = 0; (page = help_page(i)); i++) {
        fputs(".SH ", stdout);
        for (const char *p = page->name; *p; p++)
            putchar(*p >= 'a' && *p <= 'z' ? *p - 'a' + 'A' : *p);
        putchar('\n');
        line(page->text);
    }
    man_commands();
    man_settings();
    puts(".SH EXIT STATUS\n0 ok, 1 internal error or lost output, 2 usage, 3 a command failed in a script, or a check\nof compare,\n"
         "4 checkpoint, 5 no usable backend; 130, 143, 141 when ended by SIGINT, SIGTERM, SIGPIPE.\n"
         ".SH ENVIRONMENT");
    static const char *const env[][2] = {
        { "VISUAL, EDITOR", "What /edit starts." },
        { "DBRX_MODULE_PATH", "Where to look for backends, colon-separated, after --module-path." },
        { "XDG_CONFIG_HOME, XDG_STATE_HOME", "Where the rc file, the history and kept/ (the last conversations at a terminal, kept as they go on) are." },
        { "NO_COLOR", "When it is not empty, nothing is coloured." },
        { "TMPDIR", "Where /edit puts its file." } };
    for (size_t i = 0; i < sizeof env / sizeof *env; i++) {
        item(env[i][0], "");
        line(env[i][1]);
    }
}

/* ---- completions ---- */

/* Is `arg` of an option a name of a file? */
static int is_file(const char *arg)
{
    return !strcmp(arg, "FILE") || !strcmp(arg, "SCRIPT");
}

static int is_dir(const char *arg)
{
    return !strncmp(arg, "DIR", 3);
}

static void option_forms(const struct option_row *o, const char *between)
{
    if (o->letter < 256)
        printf("-%c%s", o->letter, between);
    printf("--%s", o->name);
}

/* The options whose argument is of this kind, as a case of bash; none is no case */
static void bash_case(int (*is)(const char *), const char *what)
{
    int n = 0;
    for (const struct option_row *o = option_rows; o->name; o++)
        if (o->help && o->arg && is(o->arg)) {
            fputs(n++ ? "|" : "    ", stdout);
            option_forms(o, "|");
        }
    if (n)
        printf(") %s; return ;;\n", what);
}

static int is_name(const char *arg) { return !strcmp(arg, "NAME"); }
static int is_set(const char *arg) { return !strcmp(arg, "VAR=VALUE"); }
static int is_other(const char *arg) { return !is_file(arg) && !is_dir(arg) && !is_name(arg) && !is_set(arg); }

static void print_bash(void)
{
    puts("# bash completion for dbrx; made by dbrx --help-completion bash\n"
         "_dbrx()\n{\n    local cur=$2 prev=$3 word=${COMP_WORDS[COMP_CWORD]}\n    COMPREPLY=()\n"
         "    # bash cuts words at =: -s mode=ch is mode, =, ch\n"
         "    local var=\n"
         "    [[ $word == = ]] && var=$prev cur=\n"
         "    [[ $prev == = ]] && var=${COMP_WORDS[COMP_CWORD-2]}\n"
         "    case $var in");
    for (int i = 0; i < N_VARS; i++) {
        if (!var_defs[i].choice)
            continue;
        printf("    %s) COMPREPLY=($(compgen -W \"", var_defs[i].name);
        for (const char *const *c = var_defs[i].choice; *c; c++)
            printf("%s%s", c == var_defs[i].choice ? "" : " ", *c);
        puts("\" -- \"$cur\")); return ;;");
    }
    puts("    ?*) return ;;\n    esac\n    case $prev in");
    bash_case(is_file, "COMPREPLY=($(compgen -f -- \"$cur\")); compopt -o filenames");
    bash_case(is_dir, "COMPREPLY=($(compgen -d -- \"$cur\")); compopt -o filenames");
    bash_case(is_name, "COMPREPLY=($(compgen -W \"$(\"${COMP_WORDS[0]/#\\~/$HOME}\" --help-completion backends 2>/dev/null)\" -- \"$cur\"))");
    fputs("    -s|--set) COMPREPLY=($(compgen -S = -W \"", stdout);
    for (int i = 0; i < N_VARS; i++)
        printf("%s%s", i ? " " : "", var_defs[i].name);
    puts("\" -- \"$cur\")); compopt -o nospace; return ;;");
    bash_case(is_other, ":");
    fputs("    esac\n    local words=\"", stdout);
    for (const struct option_row *o = option_rows; o->name; o++)
        if (o->help)
            printf("--%s ", o->name);
    fputs("\"\n    [[ $COMP_CWORD == 1 ]] && words+=\"", stdout);
    for (const struct tool_row *t = tool_rows; t->name; t++)
        printf("%s ", t->name);
    puts("\"\n    case ${COMP_WORDS[1]} in");
    for (const struct tool_row *t = tool_rows; t->name; t++) {
        if (!t->options)
            continue;
        printf("    %s) [[ $cur == -* ]] && { COMPREPLY=($(compgen -W \"", t->name);
        for (const struct option_row *o = t->options; o->name; o++)
            printf("--%s ", o->name);
        puts("\" -- \"$cur\")); return; } ;;&");
    }
    fputs("    ", stdout);
    for (const struct tool_row *t = tool_rows; t->name; t++)
        printf("%s%s", t == tool_rows ? "" : "|", t->name);
    puts(") [[ $cur == -* ]] || { COMPREPLY=($(compgen -f -- \"$cur\")); compopt -o filenames; }; return ;;\n"
         "    esac\n    COMPREPLY=($(compgen -W \"$words\" -- \"$cur\"))\n"
         "    [[ $cur == -* ]] || { COMPREPLY+=($(compgen -f -- \"$cur\")); compopt -o filenames; }\n"
         "}\ncomplete -F _dbrx dbrx");
}

/* Within single quotes and a description in brackets */
static void zsh_text(const char *text)
{
    for (; *text; text++) {
        if (*text == '\'')
            fputs("'\\'", stdout);
        else if (strchr("[]:\\", *text))
            putchar('\\');
        putchar(*text);
    }
}

/* As arguments of _arguments, a line each */
static void zsh_options(const struct option_row *o)
{
    for (; o->name; o++) {
        if (!o->help)
            continue;
        fputs("        '*'", stdout);
        if (o->letter < 256)
            printf("{-%c,--%s}'[", o->letter, o->name);
        else
            printf("'--%s[", o->name);
        zsh_text(o->help);
        putchar(']');
        if (o->arg) {
            putchar(':');
            zsh_text(o->arg);
            printf(":%s", is_file(o->arg) ? "_files" : is_dir(o->arg) ? "_files -/" :
                   is_name(o->arg) ? "_dbrx_backends" : is_set(o->arg) ? "_dbrx_settings" : " ");
        }
        puts("' \\");
    }
}

static void print_zsh(void)
{
    puts("#compdef dbrx\n# zsh completion for dbrx; made by dbrx --help-completion zsh\n"
         "_dbrx_settings()\n{\n    if [[ $PREFIX == *=* ]]; then\n        local var=${PREFIX%%=*}\n"
         "        compset -P '*='\n        case $var in");
    for (int i = 0; i < N_VARS; i++) {
        if (!var_defs[i].choice)
            continue;
        printf("        %s) compadd --", var_defs[i].name);
        for (const char *const *c = var_defs[i].choice; *c; c++)
            printf(" %s", *c);
        puts(" ;;");
    }
    fputs("        esac\n    else\n        compadd -S = --", stdout);
    for (int i = 0; i < N_VARS; i++)
        printf(" %s", var_defs[i].name);
    puts("\n    fi\n}\n_dbrx_backends()\n{\n    compadd -- ${(f)\"$(${(Q)~dbrx} --help-completion backends 2>/dev/null)\"}\n}\n"
         "_dbrx()\n{\n    local dbrx=$words[1]");
    puts("    if (( CURRENT > 2 )); then\n        case $words[2] in");
    for (const struct tool_row *t = tool_rows; t->name; t++) {
        if (!t->options)
            continue;
        printf("        %s) shift words; (( CURRENT-- )); _arguments \\\n", t->name);
        zsh_options(t->options);
        puts("        '*:file:_files'; return ;;");
    }
    fputs("        ", stdout);
    for (const struct tool_row *t = tool_rows; t->name; t++)
        printf("%s%s", t == tool_rows ? "" : "|", t->name);
    puts(") _files; return ;;\n        esac\n    fi\n    _arguments \\");
    zsh_options(option_rows);
    puts("        '1: :_dbrx_first' '*:model:_files'\n}\n_dbrx_first()\n{");
    fputs("    _alternative 'tools:tool:((", stdout);
    for (const struct tool_row *t = tool_rows; t->name; t++) {
        printf("%s%s\\:\"", t == tool_rows ? "" : " ", t->name);
        zsh_text(t->help);
        putchar('"');
    }
    puts("))' 'models:model:_files'\n}\n_dbrx \"$@\"");
}

int print_completion(const char *shell)
{
    if (!strcmp(shell, "bash"))
        print_bash();
    else if (!strcmp(shell, "zsh"))
        print_zsh();
    else
        return -1;
    return 0;
}
