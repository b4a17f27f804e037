/* repl/options.h -- the program's options and tools as tables, and what is made of them: the
 * parser in main.c, --help, the man page and the completions for bash and zsh. */
#ifndef DBRX_REPL_OPTIONS_H
#define DBRX_REPL_OPTIONS_H

enum { OPT_JSON = 256, OPT_PROMPTS, OPT_OUT, OPT_THREADS, OPT_CTX, OPT_SEED, OPT_MODULE_PATH, OPT_NO_RC, OPT_HELP, OPT_VERSION,
       OPT_HELP_COMMANDS, OPT_HELP_MAN, OPT_HELP_COMPLETION };

struct option_row {
    const char *name;
    int letter;                            /* below 256: its short form too             */
    const char *arg;                       /* or NULL; DIR, FILE, NAME, ... say what completes it */
    const char *help;                      /* one line of --help; NULL: for builders    */
};
extern const struct option_row option_rows[];  /* ends at name == NULL */

struct tool_row {
    const char *name, *usage, *help;
    int (*run)(int argc, char **argv);     /* argv[0] is the name; the exit code        */
};
extern const struct tool_row tool_rows[];  /* ends at name == NULL */

void print_help(void);                     /* at most a screen of 80x24 */
void print_man(void);                      /* dbrx.1, in roff */
int  print_completion(const char *shell);  /* "bash" or "zsh"; -1: another */

#endif
