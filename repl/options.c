/* repl/options.c -- the tables of options.h, and --help. */
#include "repl/options.h"

#include "repl/inspect.h"
#include "repl/plain.h"
#include "repl/shell.h"
#include "repl/tokenize.h"
#include "repl/tools.h"
#include "repl/weights.h"

#include <errno.h>
#include <getopt.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

const struct option_row option_rows[] = {
    { "model", 'm', "DIR", "the same as MODEL: checkpoint or GGUF (default: nano)" },
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
    { "allow-insecure-modules", OPT_INSECURE, NULL, "load what anybody can write to" },
    { "raw", OPT_RAW, NULL, "let what a model or file says control the terminal" },
    { "no-rc", OPT_NO_RC, NULL, "do not read the rc file (interactive sessions do)" },
    { "help", OPT_HELP, NULL, "show this" },
    { "version", OPT_VERSION, NULL, "show the version" },
    { "help-commands", OPT_HELP_COMMANDS, NULL, NULL },            /* the README's list */
    { "help-man", OPT_HELP_MAN, NULL, NULL },
    { "help-completion", OPT_HELP_COMPLETION, "bash|zsh", NULL },
    { NULL, 0, NULL, NULL },
};

const struct tool_row tool_rows[] = {
    { "inspect", "[--json] [--plan BACKEND] [DIR]", "what is in a checkpoint", tool_inspect, NULL },
    { "tokenize", "[-m DIR | --vocab FILE] [--special] FILE|-", "text to token ids, one a line", tool_tokenize, NULL },
    { "detokenize", "[-m DIR | --vocab FILE] FILE|-", "token ids to text", tool_detokenize, NULL },
    { "compare", "[OPTION...] BACKEND[:K=V,...] BACKEND[:K=V,...]", "what two backends compute differently",
      tool_compare, compare_options },
    { "bench", "[OPTION...] [BACKEND[:K=V,...]...]", "how fast backends are, against the machine's limits",
      tool_bench, bench_options },
    { "specialists", "--prompts TOPICS.jsonl [OPTION...]", "experts that prefer a topic, checked on every backend",
      tool_specialists, specialists_options },
    { "quantize", "[OPTION...] --type T IN OUT.gguf", "a checkpoint with smaller weights", tool_quantize, quantize_options },
    { "imatrix", "[OPTION...] --prompts FILE --out FILE", "which inputs matter, for quantize", tool_imatrix, imatrix_options },
    { "perplexity", "[OPTION...] FILE|-", "how well the model predicts a text", tool_perplexity, perplexity_options },
    { "convert", "[--type T] IN OUT.gguf|DIR", "from one layout of checkpoints to the other", tool_convert, convert_options },
    { "trace", "[OPTION...] --prompts FILE --out DIR", "the routing of many texts, a file a text",
      tool_trace, trace_options },
    { NULL, NULL, NULL, NULL, NULL },
};

/* ---- reading them ---- */

static int usage(const char *tool, const char *fmt, const char *what)
{
    char text[400];
    snprintf(text, sizeof text, fmt, what);
    plain_error("%s\ndbrx %s%s--help lists the options", text, tool ? tool : "", tool ? " " : "");
    return EXIT_USAGE;
}

/* What is wrong with a long option that getopt refuses */
static const char *option_trouble(const struct option *longs, const char *typed, char *why, size_t size)
{
    size_t n = strcspn(typed, "="), found = 0, at = 0;
    for (; longs->name; longs++)
        if (!strncmp(longs->name, typed + 2, n - 2)) {
            int len = snprintf(why + at, size - at, "%s--%s", found++ ? " or " : "", longs->name);
            at += len > 0 && (size_t)len < size - at ? (size_t)len : 0;
        }
    char *list = found > 1 ? strndup(why, at) : NULL;
    if (!found)
        snprintf(why, size, "there is no option %.*s", (int)(n < 80 ? n : 80), typed);
    else if (list)
        snprintf(why, size, "%.*s could be %s", (int)n, typed, list);
    else
        snprintf(why + at, size - at, " takes no argument");
    free(list);
    return why;
}

int options_parse(const char *tool, const struct option_row *rows, int argc, char **argv,
                  int (*take)(void *ctx, int letter, const char *arg), void *ctx)
{
    enum { MAX = 64 };
    struct option longs[MAX + 1] = { 0 };
    char shorts[2 * MAX + 2] = ":", *s = shorts + 1, text[8], why[300];
    for (int i = 0; i < MAX && rows[i].name; i++) {
        longs[i] = (struct option){ rows[i].name, rows[i].arg ? required_argument : no_argument, NULL,
                                    rows[i].letter };
        if (rows[i].letter < 256) {
            *s++ = (char)rows[i].letter;
            if (rows[i].arg)
                *s++ = ':';
        }
    }
    int c, bad = 0;
    opterr = 0;
    while (!bad && (c = getopt_long(argc, argv, shorts, longs, NULL)) != -1) {
        if (c == ':')
            return usage(tool, "%s needs an argument", argv[optind - 1]);
        if (c == '?' && optopt && optopt < 256) {
            snprintf(text, sizeof text, "-%c", optopt);
            return usage(tool, "there is no option %s", text);
        }
        if (c == '?')
            return usage(tool, "%s", option_trouble(longs, argv[optind - 1], why, sizeof why));
        bad = take(ctx, c, optarg);
    }
    return bad;
}

int option_count(const char *name, const char *arg, uint32_t min, uint32_t max, uint32_t *out)
{
    char *end;
    errno = 0;
    unsigned long n = strtoul(arg, &end, 10);
    if (arg[0] >= '0' && arg[0] <= '9' && !*end && !errno && n >= min && n <= max) {
        *out = (uint32_t)n;
        return 0;
    }
    char to[24] = "";
    if (max < UINT32_MAX)
        snprintf(to, sizeof to, " to %u", max);
    plain_error("--%s wants a whole number from %u%s, not \"%.80s\"", name, min, to, arg);
    return EXIT_USAGE;
}

int option_real(const char *name, const char *arg, double min, double max, double *out)
{
    char *end;
    double x = strtod(arg, &end);
    if (*arg && !*end && x >= min && x <= max) {
        *out = x;
        return 0;
    }
    char most[40] = "";
    if (max < 1e300)
        snprintf(most, sizeof most, ", at most %g", max);
    plain_error("--%s wants a number of %g or more%s, not \"%.80s\"", name, min, most, arg);
    return EXIT_USAGE;
}

/* ---- --help ---- */

static void print_options(const struct option_row *o)
{
    for (; o->name; o++) {
        char form[64];
        if (!o->help)
            continue;
        snprintf(form, sizeof form, "%c%c%s--%s%s%s", o->letter < 256 ? '-' : ' ',
                 o->letter < 256 ? o->letter : ' ', o->letter < 256 ? ", " : "  ", o->name,
                 o->arg ? " " : "", o->arg ? o->arg : "");
        printf("  %-24s %s\n", form, o->help);
    }
}

void tool_help(const struct tool_row *t)
{
    printf("Usage: dbrx %s %s\n       %s\n\n", t->name, t->usage, t->help);
    print_options(t->options);
}

void print_help(void)
{
    enum { WIDTH = 80, INDENT = 12 };
    printf("Usage: dbrx [OPTION...] [MODEL]  talk to, look inside, experiment on DBRX models\n");
    int at = printf("       dbrx ");
    for (int i = 0; tool_rows[i].name; i++) {
        if (at + 1 + (int)strlen(tool_rows[i].name) + 1 > WIDTH)
            at = printf("|\n%*s", INDENT, "") - 2;
        else if (i)
            at += printf("|");
        at += printf("%s", tool_rows[i].name);
    }
    printf(" ...\n");
    print_options(option_rows);
    printf("Without -c, -f, -p and --prompts lines come from the terminal or stdin; those\n"
           "that begin with / are commands.  dbrx -c /help lists them, man dbrx explains.\n"
           "Exit codes: 0 ok, 1 internal, 2 usage, 3 command, 4 checkpoint, 5 no backend\n");
}
