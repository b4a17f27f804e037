/* repl/vars.h -- the table of settings: type, range, default, help, and where each
 * value came from.
 *
 * Drives /set, -s, completion and help.  Knows no session and no terminal: what a
 * changed value sets in motion is the caller's. */
#ifndef DBRX_REPL_VARS_H
#define DBRX_REPL_VARS_H

#include <stddef.h>
#include <stdint.h>

enum { VAR_TEMPERATURE, VAR_TOP_K, VAR_TOP_P, VAR_MIN_P, VAR_TYPICAL_P, VAR_EPSILON_CUTOFF,
       VAR_ETA_CUTOFF, VAR_REPETITION_PENALTY, VAR_NO_REPEAT_NGRAM_SIZE, VAR_FREQUENCY_PENALTY,
       VAR_PRESENCE_PENALTY, VAR_LOGIT_BIAS, VAR_SUPPRESS_TOKENS, VAR_MIN_NEW_TOKENS,
       VAR_NUM_BEAMS, VAR_LENGTH_PENALTY, VAR_EARLY_STOPPING, VAR_SEED, VAR_MAX_TOKENS,
       VAR_THREADS, VAR_HANDOVER, VAR_MODE, VAR_SYSTEM, VAR_STOP, VAR_OVERFLOW, VAR_GRAMMAR,
       VAR_SCHEMA, VAR_SPECIALS, VAR_LABELS, VAR_SHOW, VAR_TIMING, VAR_ON_ERROR, N_VARS };
enum { MODE_BASE, MODE_CHAT };             /* values of the choices, in order */
enum { SPECIALS_PLAIN, SPECIALS_PARSE };
enum { SHOW_PLAIN, SHOW_PROBS };
enum { TIMING_OFF, TIMING_ON };
enum { ON_ERROR_STOP, ON_ERROR_CONTINUE };

/* VAR_LIST: of tokens, see idlist.h; its text is checked by who knows the vocabulary */
enum var_type { VAR_REAL, VAR_COUNT, VAR_CHOICE, VAR_TEXT, VAR_FILE, VAR_LIST };
enum var_origin { FROM_DEFAULT, FROM_RC_FILE, FROM_COMMAND_LINE, FROM_SESSION };

struct var_def {
    const char *name;
    enum var_type type;
    double min, max;                       /* of VAR_REAL and VAR_COUNT; of a VAR_LIST's values, both 0: none */
    const char *word;                      /* accepted besides a number, or NULL; counts as -1 */
    const char *fallback;                  /* the default, in the notation /set takes */
    const char *unit;                      /* "tokens", or ""                        */
    const char *help;
    const char *const *choice;             /* of VAR_CHOICE, ends at NULL            */
};
extern const struct var_def var_defs[N_VARS];

struct vars {
    struct var {
        char  *text;                       /* as /set shows it; owned                */
        double num;                        /* VAR_REAL, VAR_COUNT: the value; VAR_CHOICE: its index */
        enum var_origin origin;
        char  *fallback;                   /* a default found at run time, or NULL; owned */
    } v[N_VARS];
};

int  vars_init(struct vars *);             /* all defaults; -1: out of memory */
int  vars_copy(struct vars *to, const struct vars *);  /* -1: out of memory, and *to is empty */
void vars_free(struct vars *);

/* The variable of that name, or -1; with `prefix` also of an unambiguous beginning of it. */
int var_find(const char *name, int prefix);
const char *var_nearest(const char *name); /* for "did you mean", or NULL */
/* "top_k or top_p": what begins like that, if it is more than one setting; else "". */
void var_choices(const char *name, char *out, size_t size);

/* Sets from text; "default" goes back to the default.  0, or -1 with one sentence in
 * err and nothing changed. */
int vars_set(struct vars *, int var, const char *text, enum var_origin, char *err, size_t size);
/* Another default than the table's; the value follows unless it was set. */
int vars_default(struct vars *, int var, const char *text);

const char *var_origin_name(enum var_origin);
/* "0 .. 1", "base or chat", "text", "a file": what it accepts. */
void var_range(int var, char *out, size_t size);

#endif
