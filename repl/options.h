/* repl/options.h -- the program's options and tools as tables, and what is made of them: the
 * parser in main.c, --help, the man page and the completions for bash and zsh. */
#ifndef DBRX_REPL_OPTIONS_H
#define DBRX_REPL_OPTIONS_H

#include <stdint.h>

enum { OPT_JSON = 256, OPT_PROMPTS, OPT_OUT, OPT_THREADS, OPT_CTX, OPT_SEED, OPT_MODULE_PATH, OPT_INSECURE, OPT_RAW, OPT_NO_RC, OPT_HELP, OPT_VERSION,
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
    const struct option_row *options;      /* as above, or NULL: those in `usage` are all */
};
extern const struct tool_row tool_rows[];  /* ends at name == NULL */

/* Hands each option of argv to take(ctx, letter, arg) until that returns anything but 0; then
 * optind is the first other word.  0, EXIT_USAGE after saying what is wrong, or take's answer.
 * tool: the name for messages, or NULL. */
int options_parse(const char *tool, const struct option_row *, int argc, char **argv,
                  int (*take)(void *ctx, int letter, const char *arg), void *ctx);
/* A whole number of min to max, or a real one; 0, or EXIT_USAGE after saying what --name takes. */
int option_count(const char *name, const char *arg, uint32_t min, uint32_t max, uint32_t *out);
int option_real(const char *name, const char *arg, double min, double max, double *out);
void tool_help(const struct tool_row *);   /* what "dbrx TOOL --help" prints */

void print_help(void);                     /* at most a screen of 80x24 */
void print_man(void);                      /* dbrx.1, in roff */
int  print_completion(const char *shell);  /* "bash" or "zsh"; -1: another */

#endif
