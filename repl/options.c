/* repl/options.c -- the tables of options.h, and --help. */
#include "repl/options.h"

#include "repl/inspect.h"
#include "repl/tokenize.h"

#include <stddef.h>
#include <stdio.h>

const struct option_row option_rows[] = {
    { "model", 'm', "DIR", "checkpoint directory (default: the bundled nano)" },
    { "backend", 'b', "NAME", "backend to start with (default: the best here)" },
    { "set", 's', "VAR=VALUE", "change a setting, as /set does; repeatable" },
    { "command", 'c', "LINE", "run a line (command or prompt), end; repeatable" },
    { "file", 'f', "SCRIPT", "run the lines of a file (- is stdin), end" },
    { "prompt", 'p', "FILE", "all of the file (- is stdin) is one prompt; end" },
    { "prompts", OPT_PROMPTS, "FILE", "a batch: JSON Lines with \"prompt\" or \"messages\"" },
    { "out", OPT_OUT, "FILE", "results of --prompts; goes on where a kill ended it" },
    { "json", OPT_JSON, NULL, "results as JSON Lines, one object per event" },
    { "threads", OPT_THREADS, "N", "CPU threads (default: the backend's choice)" },
    { "ctx", OPT_CTX, "N", "tokens of context (default: the model's, up to 4096)" },
    { "seed", OPT_SEED, "N", "seed of the random numbers, to repeat a run" },
    { "module-path", OPT_MODULE_PATH, "DIRS", "look for backends here first (colon-separated)" },
    { "no-rc", OPT_NO_RC, NULL, "do not read the rc file (interactive sessions do)" },
    { "help", OPT_HELP, NULL, "show this" },
    { "version", OPT_VERSION, NULL, "show the version" },
    { "help-commands", OPT_HELP_COMMANDS, NULL, NULL },            /* the README's list */
    { "help-man", OPT_HELP_MAN, NULL, NULL },
    { "help-completion", OPT_HELP_COMPLETION, "bash|zsh", NULL },
    { NULL, 0, NULL, NULL },
};

const struct tool_row tool_rows[] = {
    { "inspect", "[--json] [DIR]", "what is in a checkpoint", tool_inspect },
    { "tokenize", "[-m DIR | --vocab FILE] [--special] FILE|-", "text to token ids, one a line", tool_tokenize },
    { "detokenize", "[-m DIR | --vocab FILE] FILE|-", "token ids to text", tool_detokenize },
    { NULL, NULL, NULL, NULL },
};

void print_help(void)
{
    printf("Usage: dbrx [OPTION...]       talk to, look inside, experiment on DBRX models\n       dbrx ");
    for (int i = 0; tool_rows[i].name; i++)
        printf("%s%s", i ? "|" : "", tool_rows[i].name);
    printf(" ...   --help says more\n\n");
    for (const struct option_row *o = option_rows; o->name; o++) {
        char form[64];
        if (!o->help)
            continue;
        snprintf(form, sizeof form, "%c%c%s--%s%s%s", o->letter < 256 ? '-' : ' ',
                 o->letter < 256 ? o->letter : ' ', o->letter < 256 ? ", " : "  ", o->name,
                 o->arg ? " " : "", o->arg ? o->arg : "");
        printf("  %-24s %s\n", form, o->help);
    }
    printf("\nWithout -c, -f, -p and --prompts lines come from the terminal or stdin; those\n"
           "that begin with / are commands.  dbrx -c /help lists them, man dbrx explains.\n"
           "Exit codes: 0 ok, 1 internal, 2 usage, 3 a command failed, 4 checkpoint,\n"
           "5 no usable backend, 130/143/141 ended by SIGINT/SIGTERM/SIGPIPE.\n");
}
