/* repl/commands.h -- the table of commands: name, group, typed arguments, help, handler.
 *
 * It drives parsing, completion, /help and the list in the README.  A handler gets
 * arguments that have been checked against their types. */
#ifndef DBRX_REPL_COMMANDS_H
#define DBRX_REPL_COMMANDS_H

#include "repl/sets.h"
#include "tokenizer/tokenizer.h"

struct shell;

/* An argument whose name is "--name WHAT" is an option with a value of its type: it may stand
 * anywhere, as "--name WHAT" or "--name=WHAT", and is not counted among the others. */
enum arg_type {
    ARG_END, ARG_INT,                      /* whole number; args.num                    */
    ARG_REAL,                              /* finite; args.real                         */
    ARG_TOKENS, ARG_LAYERS,                /* a word, see sets.h; args.set              */
    ARG_EXPERTS,                           /* words, also those that follow and have an @ (all
                                              that follow, if no other argument does); args.set */
    ARG_COMMAND, ARG_BACKEND, ARG_VAR, ARG_BRANCH,     /* a word, completed from what there is */
    ARG_FORMAT,                            /* a word, one of those it is named after: "md|txt" */
    ARG_DIR, ARG_FILE,                     /* a word; quotes keep blanks, ~/ is home    */
    ARG_FLAG,                              /* "--name", anywhere; args.text is non-NULL */
    ARG_OPTIONS,                           /* the remaining words, each k=v; args.list  */
    ARG_VALUE,                             /* the rest of the line as it is; of a setting, which
                                              is the word before or the command itself  */
    ARG_TEXT,                              /* the rest of the line                      */
    ARG_WORDS, ARG_FILE_WORDS,             /* the remaining words, whatever they are; args.list.  The
                                              name is the usage as it is                */
    ARG_IDS                                /* the rest: token ids; args.ids             */
};
struct arg { enum arg_type type; const char *name; int required; };

enum { MAX_ARGS = 9, MAX_LIST = 32, USAGE_LEN = 320 };
struct args {                              /* by position in command.arg                */
    const struct command *command;
    const char *text[MAX_ARGS];            /* NULL: not given                           */
    long        num[MAX_ARGS];
    double      real[MAX_ARGS];
    struct set  set[MAX_ARGS];             /* in == NULL: not given                     */
    const char *list[MAX_LIST + 1];        /* ends at NULL                              */
    struct tok_ids ids;
    char *owned[MAX_ARGS];                 /* text that is not part of the line          */
};

struct command {
    const char *name, *group;
    struct arg  arg[MAX_ARGS + 1];         /* ends at ARG_END                           */
    const char *brief;                     /* one line                                  */
    const char *help;                      /* more, then an example                     */
    const char *example;
    int (*run)(struct shell *, const struct args *);       /* 0, or -1: failed and said so */
};

const struct command *command_at(size_t i);            /* in the order of /help; NULL at the end */
/* One more at the end, kept until it is removed; words: what its ARG_WORDS are completed to,
 * NULL-ended, or NULL.  0, or -1: the name is taken, or no room. */
int command_add(const struct command *, const char *const *words);
void command_remove(const struct command *);
const char *const *command_words(const struct command *);      /* NULL: none */
/* The command of that name (no slash), or NULL; with `prefix` of an unambiguous beginning. */
const struct command *command_find(const char *name, int prefix);
const char *command_nearest(const char *name);         /* or NULL */
/* "/bench or /branch": what begins like that, if it is more than one command; else "". */
void command_choices(const char *name, char *out, size_t size);
/* "--name" or "--name WHAT", rather than an argument with a place of its own? */
int arg_is_option(const struct arg *);
/* "/route [TOKEN]"; flags and options only with `all`. */
void command_usage(const struct command *, int all, char *out, size_t size);

/* The whole number that was given for argument `at`, if one was, into *out.  0, or -1 after saying
 * what it may be. */
int args_count(struct shell *, const struct args *, int at, long min, long max, uint32_t *out);

/* Runs "/name args", [len] bytes.  0 or -1. */
int command_run(struct shell *, const char *line, size_t len);

#endif
