/* repl/commands.c -- the table and its parser.  See commands.h. */
#define _GNU_SOURCE
#include "repl/commands.h"

#include "repl/handlers.h"
#include "repl/paths.h"
#include "repl/shell.h"
#include "repl/words.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const struct command table[] = {
    { "help", "shell", { { ARG_COMMAND, "WORD", 0 } },
      "list the commands, or explain something",
      "WORD is a command, a setting, a group of commands or a topic (prompts, keys, scripts, files).  Any "
      "other word is searched for.", "/help route", handle_help },
    { "set", "shell", { { ARG_VAR, "NAME", 0 }, { ARG_VALUE, "VALUE", 0 } },
      "show or change a setting",
      "Without arguments lists the settings with their values; on a small screen those that were set first, "
      "and `all` lists what the others take, too.  The value `default` goes back to the default.", "/set temperature 0.5", handle_set },
    { "backend", "shell",
      { { ARG_BACKEND, "NAME", 0 }, { ARG_FLAG, "--replay", 0 }, { ARG_FLAG, "--keep", 0 },
        { ARG_FLAG, "--drop", 0 }, { ARG_OPTIONS, "K=V", 0 } },
      "list the backends, or go on with another",
      "The conversation stays: its KV cache is copied to the new backend, or recomputed when one "
      "side cannot or --replay asks for it.  If anything fails the old backend stays.  --keep holds "
      "the old one open, so that going back to it takes milliseconds: what it knows of the "
      "conversation stays, only what is new is copied.  NAME alone goes back to the last one kept of that "
      "name, whatever its options; with K=V to one that has these, or it opens afresh.  --drop closes one "
      "that is kept (without NAME all).  Options of a backend are shown in the list.", "/backend cpu-blas threads=2 --keep", handle_backend },
    { "quit", "shell", { { ARG_END, NULL, 0 } },
      "leave (so does Ctrl-D)", "", "/quit", handle_quit },

    { "bench", "backends",
      { { ARG_BACKEND, "BACKEND", 0 }, { ARG_OPTIONS, "K=V", 0 }, { ARG_INT, "--prompt N", 0 },
        { ARG_INT, "--gen N", 0 }, { ARG_INT, "--depth N", 0 }, { ARG_INT, "--reps N", 0 },
        { ARG_FLAG, "--all-backends", 0 }, { ARG_FLAG, "--csv", 0 } },
      "measure the speed of a backend, or of all",
      "Medians and spread of interleaved runs after a warm-up: prompt and generation, the weights moved "
      "against the read bandwidth, the arithmetic against the peak, both probed beside each run; time to "
      "load and to take a conversation over, memory.  Conversation and backend stay as they are.",
      "/bench --prompt 128 --reps 3", handle_bench },
    { "compare", "backends",
      { { ARG_BACKEND, "BACKEND|all", 1 }, { ARG_OPTIONS, "K=V", 0 }, { ARG_INT, "--tokens N", 0 },
        { ARG_FILE, "--against FILE", 0 }, { ARG_INT, "--step N", 0 }, { ARG_INT, "--top K", 0 },
        { ARG_REAL, "--tolerance X", 0 }, { ARG_INT, "--list N", 0 } },
      "what another backend computes otherwise",
      "The tokens of the conversation, or of a text, on the current backend and on BACKEND, which may be "
      "the same one with other options: error of the logits, KL, likeliest tokens, perplexity, the "
      "residual stream layer by layer, experts that were chosen otherwise, speed.  With `all` every "
      "backend that can run here and every other.  --step 1 evaluates token by token, as a reply is "
      "drawn.  Conversation and backend stay as they are.", "/compare ref", handle_compare },

    { "edit", "prompts", { { ARG_FLAG, "--last", 0 } },
      "write a prompt in your editor",
      "Opens $VISUAL or $EDITOR; what you save is sent.  --last begins with the last prompt.  An empty "
      "or unchanged text is not sent.", "/edit --last", handle_edit },
    { "read", "prompts", { { ARG_FILE, "FILE", 1 } },
      "send a file as one prompt",
      "All of it but its last newline, whatever it holds: slashes and quotes are text here.",
      "/read question.txt", handle_read },
    { "system", "prompts", { { ARG_VALUE, "TEXT", 0 } },
      "show or change the system message",
      "Short for /set system; \"\" is none, default is the checkpoint's own.",
      "/system Answer in one word.", handle_setting },
    { "mode", "prompts", { { ARG_VALUE, "base|chat", 0 } },
      "continue text, or answer messages",
      "Short for /set mode.", "/mode chat", handle_setting },
    { "specials", "prompts", { { ARG_VALUE, "plain|parse", 0 } },
      "whether prompts can hold control tokens",
      "Short for /set specials.", "/specials parse", handle_setting },

    { "source", "scripts", { { ARG_FILE, "FILE", 1 } },
      "run the lines of a file",
      "Commands and prompts as they are typed, but with names in full.  "
      "/set on_error says what happens after a line that fails.", "/source setup.dbrx", handle_source },
    { "output", "scripts", { { ARG_FILE, "FILE", 0 } },
      "append results to a file, or stop that",
      "Replies and tables go to the end of FILE, as they are made, until /output alone.  Errors and "
      "notes stay here.", "/output log.txt", handle_output },
    { "echo", "scripts", { { ARG_TEXT, "TEXT", 0 } },
      "print a line among the results", "", "/echo --- second run", handle_echo },

    { "new", "conversation", { { ARG_END, NULL, 0 } },
      "start a new conversation",
      "Settings and the backend stay.  A random seed is drawn anew, a set one starts again.  "
      "The conversation so far is kept: /branch lists it, /switch goes back to it.",
      "/new", handle_new },
    { "continue", "conversation", { { ARG_END, NULL, 0 } },
      "let the last reply go on where it stopped",
      "After an interrupt, a stop string, or a cut at max_tokens; in chat mode without a new "
      "message.", "/continue", handle_continue },
    { "retry", "conversation", { { ARG_INT, "N", 0 } },
      "draw other replies to the last prompt",
      "One, or N of them (at most 16), each with a seed of its own and kept as a branch; the "
      "conversation goes on with the first.  /switch NAME picks another, or the reply there was.",
      "/retry 3", handle_retry },
    { "undo", "conversation", { { ARG_INT, "N", 0 } },
      "take back the last turn, or the last N",
      "A turn is a prompt with its reply, a /continue or a /feed.  /redo brings them back.",
      "/undo 2", handle_undo },
    { "redo", "conversation", { { ARG_END, NULL, 0 } },
      "bring back what the last /undo took",
      "Until something new is said; then what was undone is kept as a branch \"undone-N\".", "/redo", handle_redo },
    { "branch", "conversation", { { ARG_BRANCH, "NAME", 0 }, { ARG_FLAG, "--drop", 0 } },
      "fork the conversation here, or list branches",
      "Without NAME lists the branches.  With it a copy of the conversation gets that name and goes "
      "on; what is there stays as it is under its own.  --drop forgets a branch.  The shell itself "
      "keeps at most 64 branches, of /new, /retry, /undo and a full context; the oldest of them make "
      "room, and it says which.",
      "/branch other-ending", handle_branch },
    { "switch", "conversation", { { ARG_BRANCH, "NAME", 1 } },
      "go to another branch",
      "Only what differs from the branch before is computed again.", "/switch main", handle_switch },
    { "feed", "conversation", { { ARG_IDS, "IDS", 1 } },
      "append token ids to the conversation",
      "Ids are separated by blanks or commas.  They are evaluated, nothing is generated.  "
      "`dbrx tokenize` turns text into ids.", "/feed 930,739,259,559", handle_feed },
    { "tokens", "conversation", { { ARG_END, NULL, 0 } },
      "list the tokens: position, id, text", "", "/tokens", handle_tokens },
    { "stats", "conversation", { { ARG_END, NULL, 0 } },
      "tokens, speed, backend, context and memory",
      "Speeds are those of the last reply and of all since the start.", "/stats", handle_stats },

    { "transcript", "files", { { ARG_FLAG, "--tokens", 0 } },
      "print the conversation",
      "By role in chat mode, as plain text otherwise; --tokens with positions and ids.",
      "/transcript --tokens", handle_transcript },
    { "prompt", "files", { { ARG_END, NULL, 0 } },
      "show exactly what was sent for the last reply",
      "The text with its special tokens, an injected system message included, and the ids.",
      "/prompt", handle_prompt },
    { "replay", "files", { { ARG_END, NULL, 0 } },
      "draw all replies again and compare",
      "With the settings, steering and random numbers they were drawn with, on the current backend.  Says "
      "whether each is the same, and where it first differs.  The conversation stays as it is.",
      "/replay", handle_replay },
    { "save", "files", { { ARG_FILE, "FILE", 1 }, { ARG_FLAG, "--kv", 0 } },
      "save all branches and settings to a file",
      "With --kv also the KV cache, so that nothing is computed again when it is loaded.  A crash "
      "or a full disk leaves an older file as it was.  What is not saved at a terminal is kept as it "
      "goes on, for /load without FILE.", "/save story.dbrx --kv", handle_save },
    { "load", "files", { { ARG_FILE, "FILE", 0 }, { ARG_FLAG, "--tokens-only", 0 } },
      "go on with a saved conversation",
      "Branches and settings become those of the file; a conversation that is open is kept as a "
      "branch.  A file from another checkpoint is refused, unless --tokens-only insists.  Without FILE "
      "it is the last conversation at a terminal with this checkpoint, however that session ended.",
      "/load story.dbrx", handle_load },
    { "export", "files", { { ARG_FORMAT, "md|json|txt|route", 1 }, { ARG_FILE, "FILE", 1 }, { ARG_TOKENS, "TOKENS", 0 } },
      "write the transcript, or routing, to a file",
      "md, json and txt are the transcript for people or programs.  route is the routing of all tokens, "
      "or of TOKENS as in /route, with all probabilities: FILE.jsonl, FILE.csv or FILE.npz (for "
      "numpy.load()), by the end of its name; docs/routing.md says what is in it.",
      "/export route story.npz", handle_export },

    { "logits", "probabilities", { { ARG_INT, "K", 0 }, { ARG_INT, "TOKEN", 0 } },
      "show the likeliest tokens, and what cuts them",
      "The K (10) likeliest candidates for the token to come, with the probability that the model "
      "gives them, that which they are drawn with, and the filter that cuts them.  With TOKEN, a "
      "position as in /tokens, for that one; after a reply that ended by itself, for its end.",
      "/logits 5 -3", handle_logits },
    { "pick", "probabilities", { { ARG_INT, "N", 1 }, { ARG_INT, "TOKEN", 0 } },
      "go on with another candidate",
      "Takes the N-th candidate of /logits and goes on from there.  What came from that position on "
      "stays on its branch, the pick has one of its own.  Without TOKEN where /logits looked last.",
      "/pick 2", handle_pick },
    { "surprise", "probabilities", { { ARG_END, NULL, 0 } },
      "bits of surprise of every token, perplexity",
      "How unexpected each token was to the model: 1 bit is one of 2, 10 bits is one of 1024.  All is "
      "computed once more.", "/surprise", handle_surprise },

    { "route", "experts",
      { { ARG_TOKENS, "TOKENS", 0 }, { ARG_LAYERS, "--layer L", 0 }, { ARG_FLAG, "--prob", 0 },
        { ARG_FLAG, "--logits", 0 }, { ARG_FLAG, "--margin", 0 }, { ARG_FLAG, "--load", 0 },
        { ARG_FLAG, "--list", 0 }, { ARG_FLAG, "--tokens", 0 }, { ARG_FILE, "--svg FILE", 0 } },
      "show which experts tokens went to",
      "A heat map of experts by layers: the weights as applied, below them the margin (the least "
      "probability chosen less the greatest left out) and the entropy of the router in bits.  TOKENS "
      "are positions as in /tokens: 12, 3..9, -5.. (the last five), * for all; without them the last "
      "one.  Of several tokens the mean, or, with one --layer, a row a token (of more than 200, a row "
      "for several).  What is not recorded, margin, entropy and all probabilities, is computed again; "
      "for a map of more than 64 tokens only with --margin, --prob or --logits.  The last two "
      "show all experts, --load the share of tokens that chose one, --list the numbers, --tokens the "
      "text in the colours of its heaviest experts at a layer, --svg writes the map to a file.",
      "/route -5.. --layer 3", handle_route },
    { "k", "experts", { { ARG_INT, "N", 1 }, { ARG_LAYERS, "LAYERS", 0 } },
      "how many experts a token gets",
      "On all layers, or those named: 3, 0..9, ..5, -1.  The model's own number goes back to normal.  "
      "What is on steers all that is computed, the context included: after a change that is computed again, so "
      "that with steering off every number is again what it was.  /steer lists what is on.",
      "/k 2 0..3", handle_k },
    { "ban", "experts", { { ARG_EXPERTS, "E@L...", 1 }, { ARG_FLAG, "--skip", 0 }, { ARG_FLAG, "--omit", 0 },
                          { ARG_FLAG, "--zero", 0 } },
      "go on without these experts",
      "3,7@0..9 is experts 3 and 7 on layers 0 to 9; without @ on all.  Without an option their router logits are "
      "-infinity: the softmax is over the others, and others take their places.  --skip: others take their "
      "places, but all probabilities are as if they could be chosen.  --omit: chosen as ever, then removed, the "
      "weights of the others normalised again; nobody takes their places.  --zero: chosen as ever, but they add "
      "nothing; the weights of the others stay.", "/ban 3,7@0..4 --omit", handle_ban },
    { "force", "experts", { { ARG_EXPERTS, "E@L...", 1 } },
      "have these experts chosen for every token",
      "They take the first of a token's places, with the weights that the router gives them.",
      "/force 5@2", handle_force },
    { "bias", "experts", { { ARG_EXPERTS, "E@L...", 1 }, { ARG_REAL, "X", 1 } },
      "add to the router logits of experts",
      "Before the softmax, so that they are chosen more often, or less; 0 is none.",
      "/bias 5@2 +1.5", handle_bias },
    { "scale", "experts", { { ARG_EXPERTS, "E@L...", 1 }, { ARG_REAL, "X", 1 } },
      "multiply what experts contribute",
      "After the choice and the normalising of weights: nothing is chosen differently.  1 is none, 0 what "
      "/ban --zero does.", "/scale 5@2 0.5", handle_scale },
    { "swap", "experts", { { ARG_INT, "E1", 1 }, { ARG_INT, "E2", 1 }, { ARG_LAYERS, "@L", 1 } },
      "let two experts change places",
      "Each computes what the other is chosen for, with the other's weight.  Again, and they are back.",
      "/swap 3 7 @0..2", handle_swap },
    { "steer", "experts", { { ARG_FORMAT, "off|undo|save|load", 0 }, { ARG_TEXT, "E@L|FILE", 0 } },
      "list, undo, save or load what is steered",
      "Alone it lists what /k, /ban, /force, /bias, /scale and /swap have put on.  off takes all of it away, off "
      "E@L... what is on for these experts, undo the last change.  save FILE and load FILE keep it as JSON.",
      "/steer save quiet.json", handle_steer },
    { "instruments", "experts", { { ARG_END, NULL, 0 } },
      "list the instruments and their commands",
      "Modules that look on while the model reads and writes; their commands stand under `instruments`.",
      "/instruments", handle_instruments },
    { "atlas", "experts", { { ARG_FILE, "FILE", 1 }, { ARG_TOKENS, "TOKENS", 0 } },
      "write the routing as a page for a browser",
      "One HTML file that needs nothing else: the text with its experts, what each token's router said, "
      "load and pairs, at every layer.  Of all tokens, or of the range that TOKENS spans, as in /route.",
      "/atlas atlas.html", handle_atlas },
    { "ablate", "experts", { { ARG_EXPERTS, "E@L...", 0 }, { ARG_FILE, "--against FILE", 0 },
                             { ARG_INT, "--control N", 0 }, { ARG_FLAG, "--sweep", 0 }, { ARG_FILE, "--out FILE", 0 },
                             { ARG_FLAG, "--ban", 0 }, { ARG_FLAG, "--skip", 0 }, { ARG_FLAG, "--omit", 0 },
                             { ARG_FLAG, "--zero", 0 } },
      "what the same tokens lose without some experts",
      "The conversation's tokens, or FILE's (of a .jsonl the texts, each on its own), with and without these experts together: how much less likely each "
      "token that came gets, how far all probabilities move (KL), whether another token is likeliest, how many "
      "choices of later layers change.  --control N: the same with N random sets of other experts of the same "
      "layers.  --sweep: every expert alone, ranked; Ctrl-C and again goes on, and --out FILE keeps it for later.  "
      "Without means that what they contribute is dropped (--zero); --ban, --skip, --omit: as /ban has it.  What is "
      "steered stays on in both.  The conversation is not touched.", "/ablate 3@2 --control 5", handle_ablate },
    { "lens", "experts", { { ARG_INT, "TOKEN", 0 }, { ARG_FLAG, "--experts", 0 }, { ARG_INT, "--top K", 0 } },
      "what the model would say after every layer",
      "The logit lens: the residual stream after each layer through the head; rank and probability of the token "
      "that the model says in the end (and rank of the one that came, if that is another), and the K (3) likeliest "
      "there.  TOKEN is a position; the last one is the default.  --experts: what the embedding, each layer's "
      "attention and each chosen expert adds to the logits of the K likeliest tokens.  For that the final "
      "LayerNorm's scale is held as it is, which makes logits a sum; they are less their mean over the vocabulary, "
      "which no probability depends on.  The conversation is not touched.", "/lens -1 --experts", handle_lens },
    { "dump", "experts", { { ARG_DIR, "DIR", 1 } },
      "write logits and routing as .npy files",
      "tokens int32 [T], logits float32 [T,V], router_prob float32 [L,T,E], expert int32 [L,T,k] "
      "and weight float32 [L,T,k], for numpy.load(); where /k chose fewer, expert is -1.  The tokens are "
      "computed once more.",
      "/dump out", handle_dump },
};

enum { N_TABLE = sizeof table / sizeof *table, MAX_ADDED = 64 };
static struct { const struct command *c; const char *const *words; } added[MAX_ADDED];     /* modules' */
static size_t n_added;

const struct command *command_at(size_t i)
{
    return i < N_TABLE ? &table[i] : i - N_TABLE < n_added ? added[i - N_TABLE].c : NULL;
}

static const char *command_name(size_t i)
{
    return command_at(i) ? command_at(i)->name : NULL;
}

const struct command *command_find(const char *name, int prefix)
{
    int i = word_find(name, command_name, prefix);
    return i < 0 ? NULL : command_at((size_t)i);
}

int command_add(const struct command *c, const char *const *words)
{
    if (n_added == MAX_ADDED || command_find(c->name, 0))
        return -1;
    added[n_added].c = c;
    added[n_added++].words = words;
    return 0;
}

const char *const *command_words(const struct command *c)
{
    for (size_t i = 0; i < n_added; i++)
        if (added[i].c == c)
            return added[i].words;
    return NULL;
}

void command_remove(const struct command *c)
{
    for (size_t i = 0; i < n_added; i++)
        if (added[i].c == c) {
            memmove(&added[i], &added[i + 1], (--n_added - i) * sizeof *added);
            return;
        }
}

/* What other programs call them */
static const char *const synonyms[][2] = {
    { "exit", "quit" }, { "bye", "quit" }, { "?", "help" }, { "commands", "help" }, { "clear", "new" }, { "reset", "new" },
    { "regenerate", "retry" }, { "regen", "retry" }, { "again", "retry" }, { "history", "transcript" }, { "fork", "branch" },
    { "settings", "set" }, { "config", "set" }, { "show", "set" }, { "info", "stats" }, { "perplexity", "surprise" } };

const char *command_nearest(const char *name)
{
    for (size_t i = 0; i < sizeof synonyms / sizeof *synonyms; i++)
        if (!strcmp(name, synonyms[i][0]))
            return synonyms[i][1];
    return word_nearest(name, command_name);
}

void command_choices(const char *name, char *out, size_t size)
{
    if (!*name || word_list(name, command_name, "/", out, size) < 2)
        out[0] = '\0';
}

int arg_is_option(const struct arg *a)
{
    return a->type == ARG_FLAG || (a->type != ARG_END && a->type != ARG_WORDS && a->type != ARG_FILE_WORDS && !strncmp(a->name, "--", 2));
}

void command_usage(const struct command *c, int all, char *out, size_t size)
{
    size_t n = (size_t)snprintf(out, size, "/%s", c->name);
    for (const struct arg *a = c->arg; a->type != ARG_END && n < size; a++)
        if (a->type == ARG_WORDS || a->type == ARG_FILE_WORDS)
            n += all && *a->name ? (size_t)snprintf(out + n, size - n, " %s", a->name) : 0;
        else if (all || !arg_is_option(a))
            n += (size_t)snprintf(out + n, size - n, a->required ? " %s%s" : " [%s%s]", a->name,
                                  a->type == ARG_OPTIONS ? " ..." : "");
}

/* ---- parsing ---- */

static int misused(struct shell *sh, const struct command *c, const char *what)
{
    char usage[USAGE_LEN];
    command_usage(c, 1, usage, sizeof usage);
    return render_error(&sh->out, "/%s %s; usage: %s", c->name, what, usage);
}

static int parse_ids(struct shell *sh, char *rest, struct tok_ids *ids)
{
    static const char gap[] = " \t\n,";
    for (char *p = rest + strspn(rest, gap); *p; p += strspn(p, gap)) {
        char *end;
        size_t n = strcspn(p, gap);
        errno = 0;
        long id = strtol(p, &end, 10);
        if (end != p + n || errno || id < 0 || id > INT32_MAX)
            return render_error(&sh->out, "\"%.*s\" is no token id; nothing was fed",
                                (int)(n < 40 ? n : 40), p);
        if (tok_ids_push(ids, (int32_t)id))
            return render_error(&sh->out, "out of memory");
        p += n;
    }
    return 0;
}

/* The rest of the line without blanks around it */
static char *trimmed(char *rest)
{
    rest += strspn(rest, " \t");
    size_t n = strlen(rest);
    while (n && strchr(" \t", rest[n - 1]))
        n--;
    rest[n] = '\0';
    return rest;
}

/* A word that is "--name" or "--name=VALUE": the argument it is, or -1 after saying that there
 * is none.  *value: what stands behind the =, or NULL */
static int find_option(struct shell *sh, const struct command *c, char *word, char **value)
{
    char what[160];
    size_t n = strcspn(word, "=");
    *value = word[n] ? word + n + 1 : NULL;
    for (int i = 0; c->arg[i].type != ARG_END; i++)
        if (arg_is_option(&c->arg[i]) && strcspn(c->arg[i].name, " ") == n &&
            !strncmp(c->arg[i].name, word, n) && (!*value || c->arg[i].type != ARG_FLAG))
            return i;
    snprintf(what, sizeof what, "has no option %.60s", word);
    return misused(sh, c, what);
}

/* A number, or a word as it is, for argument `at`; sets wait until all of their words are there */
static int take_word(struct shell *sh, const struct command *c, int at, char *word, struct args *a)
{
    const struct arg *arg = &c->arg[at];
    char *end, what[200];
    const char *name = arg_is_option(arg) ? arg->name + strcspn(arg->name, " ") + 1 : arg->name;
    errno = 0;
    if (arg->type == ARG_INT) {
        a->num[at] = strtol(word, &end, 10);
        snprintf(what, sizeof what, "wants a whole number for %s, not \"%.60s\"", name, word);
        if (end == word || *end || errno)
            return misused(sh, c, what);
    }
    if (arg->type == ARG_REAL) {
        a->real[at] = strtod(word, &end);
        snprintf(what, sizeof what, "wants a number for %s, not \"%.60s\"", name, word);
        if (end == word || *end || !isfinite(a->real[at]))
            return misused(sh, c, what);
    }
    if (arg->type == ARG_DIR || arg->type == ARG_FILE)
        a->owned[at] = path_typed(word);
    if (arg->type == ARG_EXPERTS && a->owned[at]) {
        char *more = NULL;
        if (asprintf(&more, "%s %s", a->owned[at], word) < 0)
            return render_error(&sh->out, "out of memory");
        free(a->owned[at]);
        a->owned[at] = more;
    } else if (arg->type == ARG_EXPERTS) {
        a->owned[at] = strdup(word);
    }
    a->text[at] = a->owned[at] ? a->owned[at] : word;
    return 0;
}

/* The next argument with a place of its own, from `at` on */
static int next_place(const struct command *c, int at)
{
    while (arg_is_option(&c->arg[at]))
        at++;
    return at;
}

/* Does this word go on with the set of experts that argument `at` is? */
static int goes_on(const struct command *c, int at, const char *word)
{
    return c->arg[at].type == ARG_EXPERTS &&
           (strchr(word, '@') || c->arg[next_place(c, at + 1)].type == ARG_END);
}

static int read_sets(struct shell *sh, const struct command *c, struct args *a)
{
    const struct dbrx_config *m = sh->ckpt ? &sh->ckpt->desc.config : NULL;
    for (int i = 0; c->arg[i].type != ARG_END; i++) {
        enum arg_type type = c->arg[i].type;
        const char *text = a->text[i];
        struct set *s = &a->set[i];
        char err[320];
        if (text && m &&
            (type == ARG_TOKENS  ? set_tokens(s, text, sh->sess->n, err, sizeof err)
             : type == ARG_LAYERS  ? set_layers(s, text, m->n_layers, err, sizeof err)
             : type == ARG_EXPERTS ? set_experts(s, text, m->n_layers, m->n_experts, err, sizeof err) : 0))
            return render_error(&sh->out, "/%s: %s", c->name, err);
    }
    return 0;
}

static int parse_args(struct shell *sh, const struct command *c, char *rest, struct args *a)
{
    int at = 0, begun = 0;                 /* begun: argument `at` is a set that may go on */
    size_t n_list = 0;
    char what[200];
    for (;;) {
        at = next_place(c, at);
        const struct arg *arg = &c->arg[at];
        int any = rest[strspn(rest, " \t")] != '\0';
        if (any && arg->type == ARG_IDS) {
            a->text[at] = rest;
            return parse_ids(sh, rest, &a->ids);
        }
        if (any && (arg->type == ARG_VALUE || arg->type == ARG_TEXT)) {
            /* the quotes of a value are the setting's to judge */
            a->text[at] = arg->type == ARG_TEXT ? unquoted(trimmed(rest)) : trimmed(rest);
            return 0;
        }
        char *word = word_next(&rest), *value;
        if (!word)
            break;
        if (arg->type == ARG_WORDS || arg->type == ARG_FILE_WORDS) {
            if (n_list == MAX_LIST)
                return misused(sh, c, "takes fewer words");
            a->list[n_list++] = word;
            continue;
        }
        if (!strncmp(word, "--", 2)) {
            int option = find_option(sh, c, word, &value);
            if (option < 0)
                return -1;
            if (c->arg[option].type == ARG_FLAG) {
                a->text[option] = word;
                continue;
            }
            if (!value && !(value = word_next(&rest))) {
                snprintf(what, sizeof what, "needs a value for %s", c->arg[option].name);
                return misused(sh, c, what);
            }
            if (take_word(sh, c, option, value, a))
                return -1;
            continue;
        }
        if (begun && !goes_on(c, at, word)) {
            begun = 0;
            arg = &c->arg[at = next_place(c, at + 1)];
        }
        if (arg->type == ARG_END) {
            snprintf(what, sizeof what, "does not take \"%.60s\"", word);
            return misused(sh, c, what);
        }
        if (arg->type == ARG_OPTIONS) {
            snprintf(what, sizeof what, "takes options as K=V, not \"%.60s\"", word);
            if (!strchr(word, '=') || n_list == MAX_LIST)
                return misused(sh, c, what);
            a->list[n_list++] = word;
            continue;
        }
        if (take_word(sh, c, at, word, a))
            return -1;
        begun = arg->type == ARG_EXPERTS;
        at += !begun;
    }
    at += begun;
    at = next_place(c, at);
    if (c->arg[at].type != ARG_END && c->arg[at].required) {
        snprintf(what, sizeof what, "needs %s", c->arg[at].name);
        return misused(sh, c, what);
    }
    return read_sets(sh, c, a);
}

int args_count(struct shell *sh, const struct args *a, int at, long min, long max, uint32_t *out)
{
    if (a->text[at] && (a->num[at] < min || a->num[at] > max))
        return render_error(&sh->out, "%s is %ld to %ld, not %ld", a->command->arg[at].name, min, max, a->num[at]);
    if (a->text[at])
        *out = (uint32_t)a->num[at];
    return 0;
}

int command_run(struct shell *sh, const char *line, size_t len)
{
    if (memchr(line, '\0', len))
        return render_error(&sh->out, "a command cannot hold NUL bytes");
    if (memchr(line, '\n', len))
        return render_error(&sh->out, "a command is one line; this one has several "
                            "(a prompt that begins with / is typed as //)");
    char *copy = strndup(line + 1, len - 1), *rest = copy;
    if (!copy)
        return render_error(&sh->out, "out of memory");
    struct args a = { 0 };
    size_t n = strcspn(rest, " \t");
    int last = rest[n] == '\0', failed;
    rest[n] = '\0';
    const struct command *c = command_find(rest, sh->interactive);
    if (c) {
        rest += last ? n : n + 1;
        a.command = c;
        failed = parse_args(sh, c, rest, &a) || c->run(sh, &a);
    } else {
        char choices[400];
        const char *near = command_nearest(rest);
        command_choices(rest, choices, sizeof choices);
        failed = *choices ? render_error(&sh->out, "/%.60s could be %s", rest, choices)
               : render_error(&sh->out, "there is no command /%.60s%s%s%s", rest,
                              near ? "; did you mean /" : "; /help lists them, and // begins a prompt with a slash", near ? near : "",
                              near ? "?" : "");
    }
    for (int i = 0; i < MAX_ARGS; i++) {
        free(a.owned[i]);
        set_free(&a.set[i]);
    }
    free(a.ids.id);
    free(copy);
    return failed ? -1 : 0;
}
