/* repl/tools.h -- the programs within the program that need a model at work: "dbrx compare",
 * "dbrx bench".  They open what a session does and leave its shell alone. */
#ifndef DBRX_REPL_TOOLS_H
#define DBRX_REPL_TOOLS_H

#include "repl/contender.h"
#include "repl/options.h"

/* What these tools have in common; zero, but for vars, by tool_begin. */
struct tool {
    const struct tool_row *row;
    struct shell sh;
    struct shell_options o;
    int json;
};
/* 0 or an exit code.  tool_end in any case; it makes an exit code final: output that could not
 * be written, a signal. */
int  tool_begin(struct tool *, const char *name);
/* The options all of them have: those letters of `option` below.  1: it was none of them; 0; an
 * exit code; -1: done. */
int  tool_option(struct tool *, int letter, const char *arg);
#define TOOL_OPTIONS \
    { "model", 'm', "DIR", "checkpoint directory (default: the bundled nano)" }, \
    { "ctx", OPT_CTX, "N", "tokens of context (default: the model's, up to 4096)" }, \
    { "threads", OPT_THREADS, "N", "CPU threads (default: the backend's choice)" }, \
    { "module-path", OPT_MODULE_PATH, "DIRS", "look for backends here first (colon-separated)" }, \
    { "allow-insecure-modules", OPT_INSECURE, NULL, "load what anybody can write to" }, \
    { "raw", OPT_RAW, NULL, "let what a model or file says control the terminal" }, \
    { "json", OPT_JSON, NULL, "results as JSON Lines, one object per event" }, \
    { "help", OPT_HELP, NULL, "show this" }
/* Checkpoint, tokenizer and backend; NULL: the best one here. */
int  tool_open(struct tool *, const struct contender *);
int  tool_end(struct tool *, int code);

int tool_specialists(int argc, char **argv);
extern const struct option_row specialists_options[];
int tool_compare(int argc, char **argv);
int tool_bench(int argc, char **argv);
int tool_trace(int argc, char **argv);
int tool_perplexity(int argc, char **argv);
int tool_imatrix(int argc, char **argv);
extern const struct option_row compare_options[], bench_options[], trace_options[], perplexity_options[], imatrix_options[];

#endif
