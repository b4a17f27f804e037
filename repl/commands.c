/* repl/commands.c -- the table and its parser.  See commands.h. */
#include "repl/commands.h"

#include "repl/handlers.h"
#include "repl/paths.h"
#include "repl/shell.h"
#include "repl/words.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

static const struct command table[] = {
    { "help", "shell", { { ARG_COMMAND, "WORD", 0 } },
      "list the commands, or explain something",
      "WORD is a command, a setting, a group of commands or a topic (prompts, keys, scripts, files).  Any "
      "other word is searched for.", "/help route", handle_help },
    { "set", "shell", { { ARG_VAR, "NAME", 0 }, { ARG_VALUE, "VALUE", 0 } },
      "show or change a setting",
      "Without arguments lists all settings with their values and where those came from.  "
      "The value `default` goes back to the default.", "/set temperature 0.5", handle_set },
    { "backend", "shell",
      { { ARG_BACKEND, "NAME", 0 }, { ARG_FLAG, "--replay", 0 }, { ARG_OPTIONS, "K=V", 0 } },
      "list the backends, or go on with another",
      "The conversation stays: its KV cache is copied to the new backend, or recomputed when one "
      "side cannot or --replay asks for it.  If anything fails the old backend stays.  Options "
      "of a backend are shown in the list.", "/backend cpu-blas threads=2", handle_backend },
    { "quit", "shell", { { ARG_END, NULL, 0 } },
      "leave (so does Ctrl-D)", "", "/quit", handle_quit },

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
      "Until something new is said.", "/redo", handle_redo },
    { "branch", "conversation", { { ARG_BRANCH, "NAME", 0 }, { ARG_FLAG, "--drop", 0 } },
      "fork the conversation here, or list branches",
      "Without NAME lists the branches.  With it a copy of the conversation gets that name and goes "
      "on; what is there stays as it is under its own.  --drop forgets a branch.  The shell itself "
      "keeps at most 64 branches, of /new, /retry and a full context; the oldest of them make room.",
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
      "With the settings and random numbers they were drawn with, on the current backend.  Says "
      "whether each is the same, and where it first differs.  The conversation stays as it is.",
      "/replay", handle_replay },
    { "save", "files", { { ARG_FILE, "FILE", 1 }, { ARG_FLAG, "--kv", 0 } },
      "save all branches and settings to a file",
      "With --kv also the KV cache, so that nothing is computed again when it is loaded.  A crash "
      "or a full disk leaves an older file as it was.", "/save story.dbrx --kv", handle_save },
    { "load", "files", { { ARG_FILE, "FILE", 1 }, { ARG_FLAG, "--tokens-only", 0 } },
      "go on with a saved conversation",
      "Branches and settings become those of the file; a conversation that is open is kept as a "
      "branch.  A file from another checkpoint is refused, unless --tokens-only insists.",
      "/load story.dbrx", handle_load },
    { "export", "files", { { ARG_FORMAT, "md|json|txt", 1 }, { ARG_FILE, "FILE", 1 } },
      "write the transcript for people or programs", "", "/export md story.md", handle_export },

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

    { "route", "experts", { { ARG_INT, "TOKEN", 0 } },
      "show which experts a token went to",
      "One line a layer.  TOKEN is a position as in /tokens; negative ones count from the end, and the last token "
      "is the default.  Experts are listed heaviest first, with the weights as applied.",
      "/route -2", handle_route },
    { "dump", "experts", { { ARG_DIR, "DIR", 1 } },
      "write logits and routing as .npy files",
      "tokens int32 [T], logits float32 [T,V], router_prob float32 [L,T,E], expert int32 [L,T,k] "
      "and weight float32 [L,T,k], for numpy.load().  The tokens are computed once more.",
      "/dump out", handle_dump },
};

const struct command *command_at(size_t i)
{
    return i < sizeof table / sizeof *table ? &table[i] : NULL;
}

static const char *command_name(size_t i)
{
    return command_at(i) ? table[i].name : NULL;
}

const struct command *command_find(const char *name, int prefix)
{
    int i = word_find(name, command_name, prefix);
    return i < 0 ? NULL : &table[i];
}

const char *command_nearest(const char *name)
{
    return word_nearest(name, command_name);
}

void command_usage(const struct command *c, int all, char *out, size_t size)
{
    size_t n = (size_t)snprintf(out, size, "/%s", c->name);
    for (const struct arg *a = c->arg; a->type != ARG_END && n < size; a++)
        if (all || a->type != ARG_FLAG)
            n += (size_t)snprintf(out + n, size - n, a->required ? " %s%s" : " [%s%s]", a->name,
                                  a->type == ARG_OPTIONS ? " ..." : "");
}

/* ---- parsing ---- */

static int misused(struct shell *sh, const struct command *c, const char *what)
{
    char usage[160];
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

/* A word that is "--name": the flag it is, or -1 after saying that there is none */
static int find_flag(struct shell *sh, const struct command *c, const char *word)
{
    char what[160];
    for (int i = 0; c->arg[i].type != ARG_END; i++)
        if (c->arg[i].type == ARG_FLAG && !strcmp(c->arg[i].name, word))
            return i;
    snprintf(what, sizeof what, "has no option %.60s", word);
    return misused(sh, c, what);
}

static int parse_args(struct shell *sh, const struct command *c, char *rest, struct args *a)
{
    int at = 0;
    size_t n_list = 0;
    for (;;) {
        while (c->arg[at].type == ARG_FLAG)
            at++;
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
        char *word = word_next(&rest), *end, what[200];
        if (!word)
            break;
        if (!strncmp(word, "--", 2)) {
            int flag = find_flag(sh, c, word);
            if (flag < 0)
                return -1;
            a->text[flag] = word;
            continue;
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
        if (arg->type == ARG_INT) {
            errno = 0;
            a->num[at] = strtol(word, &end, 10);
            snprintf(what, sizeof what, "wants a whole number for %s, not \"%.60s\"", arg->name, word);
            if (end == word || *end || errno)
                return misused(sh, c, what);
        }
        if (arg->type == ARG_DIR || arg->type == ARG_FILE)
            a->owned[at] = path_typed(word);
        a->text[at] = a->owned[at] ? a->owned[at] : word;
        at++;
    }
    if (c->arg[at].type != ARG_END && c->arg[at].required) {
        char what[80];
        snprintf(what, sizeof what, "needs %s", c->arg[at].name);
        return misused(sh, c, what);
    }
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
        const char *near = command_nearest(rest);
        failed = render_error(&sh->out, "there is no command /%.60s%s%s%s", rest,
                              near ? "; did you mean /" : "; /help lists them", near ? near : "",
                              near ? "?" : "");
    }
    for (int i = 0; i < MAX_ARGS; i++)
        free(a.owned[i]);
    free(a.ids.id);
    free(copy);
    return failed ? -1 : 0;
}
