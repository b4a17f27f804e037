/* tests/fuzz/commands.c -- lines that nobody would type, made from the table of commands.
 *
 *     tests/fuzz/commands [SEED [LINES [-v]]]     (make check: a fixed few thousand)
 *
 * For each argument of a command something right, something wrong or nothing, by its type;
 * now and then a word too many, a damaged byte, a prompt in between, Ctrl-C.  After every line
 * the shell must have said what was wrong if and only if something was, in characters that a
 * terminal can show; the branches must be sound; and what the conversation held must be in one
 * of them.  With --json all events are held against the schema at the end.  What is written
 * lies in a folder of its own.  Knows no command by name. */
#define _GNU_SOURCE
#include "repl/commands.h"
#include "repl/help.h"
#include "repl/shell.h"
#include "repl/signals.h"
#include "repl/words.h"
#include "tests/tap.h"
#include "tests/unit/tok_fixture.h"

#include <ctype.h>
#include <dirent.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio_ext.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

enum { MAX_LINE = 4096, CONTEXT = 160, LINES = 4000, FRESH = 400, PATIENCE = 300, FAILED = 3 };

static struct shell sh;
static char dir[] = "/tmp/dbrx-lines.XXXXXX";
static uint64_t seed = 1, dice;
static unsigned long at;                   /* which line it is                    */
static char line[MAX_LINE + 1];
static size_t len;

static uint32_t roll(uint32_t n)           /* xorshift64* */
{
    dice ^= dice >> 12;
    dice ^= dice << 25;
    dice ^= dice >> 27;
    return (uint32_t)((dice * 0x2545f4914f6cdd1du >> 32) * n >> 32);
}

/* ---- a line ---- */

__attribute__((format(printf, 1, 2)))
static void add(const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    int n = vsnprintf(line + len, sizeof line - len, fmt, ap);
    va_end(ap);
    len = len + (size_t)n < MAX_LINE ? len + (size_t)n : MAX_LINE;
}

#define PICK(list) (list)[roll(sizeof(list) / sizeof *(list))]

static const char *const texts[] = {
    "Once upon a time", "a", "x y  z ", "//x", "\"\"\"", "say \\", "\xe6\x97\xa5\xe6\x9c\xac\xe8\xaa\x9e \xf0\x9f\x99\x82",
    "\xff\xfe\x80 bytes", "<|im_end|>", "<|im_start|>system", "\033[31mred\a", ("\xc2\x9b" "31m"), "\"open", "'a' \"b\"",
    "default", "\"\"", "--", "--flag", "%s%n%x", "a\tb", "\r", "#", "=", "-s x=1",
};
static const char *const numbers[] = { "1", "1", "2", "2", "4", "0", "1", "2", "3", "5", "8", "17", "-1", "-2", "-7", "64", "4096" };
static const char *const no_numbers[] = { "x", "1.5", "1e3", "0x10", "99999999999999999999", "-9223372036854775808",
    "9223372036854775807", "-", "+1", "4294967296", "nan", "1;2" };
/* those of make_files(), and those that cannot be opened */
static const char *const files[] = { "text", "script", "failing", "cycle", "good.gbnf", "bad.gbnf", "good.json", "bad.json",
    "story.dbrx", "torn.dbrx", "new.dbrx", "new.md", "\"a file\"", "dir", "dir/new", "dir/", ".", "missing/new", "~/text", "~",
    "link", "/dev/null", "/dev/full", "/nowhere/new", "\"\"", "new\xff", "pipe" };
static const char *const tokens[] = { "*", "-1", "0", "1..2", "-3..-1", "2..1", "9999", "-5..9", "x" };
static const char *const layers[] = { "0", "0..1", "-1", "*", "@1", "@0..1", "99", "1..0", "x" };
static const char *const experts[] = { "0", "1@0", "0,1@0..1", "3@1", "2@-1", "*@0", "99@0", "0@99", "@1", "1@", "0..1@1", "x@y" };
static const char *const words[] = { "on", "off", "reset", "mark", "a", "1@0", "--layer", "0", "--since", "--top", "3", "-1", "--nonsense" };
static const char *const options[] = { "threads=1", "threads=1", "threads=1", "threads=1", "threads=1", "threads=1", "threads=2", "threads=0", "isa=plain", "isa=", "colour=red", "=", "x", "a=b=c" };
static const char *const lists[] = { "5=-1", "65=3.5, \"a\"=-2", "5, 66", "\"a\"", "\"ab\"", "\"", "5=101", "5 5", "384", "x", ",", "\"<|im_end|>\"" };

static void add_text(void)
{
    if (!roll(30))
        for (uint32_t i = roll(MAX_LINE); i; i--)
            add("%c", (int)(1 + roll(255)));
    else
        for (uint32_t i = 1 + roll(3); i; i--)
            add("%s", PICK(texts));
}

/* What a setting may be given */
static void add_value(int var)
{
    const struct var_def *d = &var_defs[var];
    switch (d->type) {
    case VAR_CHOICE: {
        size_t n = 0;
        while (d->choice[n])
            n++;
        add("%s", d->choice[roll((uint32_t)n)]);
        break;
    }
    case VAR_REAL: case VAR_COUNT:
        if (roll(2))
            add("%.16g", d->min + (double)roll(4));
        else
            add("%.16g", roll(2) ? d->max : d->type == VAR_REAL ? d->min + (d->max - d->min) * roll(1000) / 1000 : d->min);
        break;
    case VAR_LIST: add("%s", PICK(lists)); break;
    case VAR_FILE: add("%s", PICK(files)); break;
    case VAR_TEXT: add_text(); break;
    }
}

/* One argument, as a rule one that its type allows.  var: the setting that a value is for */
static void add_arg(const struct arg *a, int *var)
{
    uint32_t n = 0;
    if (a->type != ARG_FLAG && !roll(8)) { /* some other thing */
        roll(2) ? add("%s", PICK(no_numbers)) : add_text();
        return;
    }
    switch (a->type) {
    case ARG_END: break;
    case ARG_INT: add("%s", PICK(numbers)); break;
    case ARG_COMMAND: {
        size_t commands = 0, topics = 0;
        while (command_at(commands))
            commands++;
        while (help_topic(topics))
            topics++;
        n = roll(3);
        add("%s%s", roll(8) ? "" : "/", n == 0 ? command_at(roll((uint32_t)commands))->name
                    : n == 1 ? var_defs[roll(N_VARS)].name : help_topic(roll((uint32_t)topics)));
        break;
    }
    case ARG_BACKEND:
        while (disp_module(sh.disp, n))
            n++;
        n = roll(n);
        if (disp_module(sh.disp, n)->info)
            add("%s", disp_module(sh.disp, n)->info->name);
        break;
    case ARG_VAR:
        *var = (int)roll(N_VARS);
        add("%s", var_defs[*var].name);
        break;
    case ARG_BRANCH:
        if (roll(3))
            add("%s", sh.tree->branch[roll(sh.tree->n)]->name);
        else
            add("%s%u", PICK(((const char *[]){ "side", "a/b", "", "-", "a-branch-with-a-name-of-more-than-forty-letters" })), roll(9));
        break;
    case ARG_FORMAT: {                     /* "md|json|txt": one of its words */
        const char *word = a->name;
        for (n = roll(5); n && word[strcspn(word, "|")]; n--)
            word += strcspn(word, "|") + 1;
        add("%.*s", roll(9) ? (int)strcspn(word, "|") : 1, word);
        break;
    }
    case ARG_REAL: add("%s", PICK(((const char *[]){ "0", "1", "-1", "+2.5", "1e-3", "-inf", "1e400" }))); break;
    case ARG_TOKENS: add("%s", PICK(tokens)); break;
    case ARG_LAYERS: add("%s", PICK(layers)); break;
    case ARG_EXPERTS:
        for (n = 1 + roll(2); n; n--)
            add("%s%s", PICK(experts), n > 1 ? " " : "");
        break;
    case ARG_DIR: case ARG_FILE: add("%s", PICK(files)); break;
    case ARG_FLAG: add("%s", roll(8) ? a->name : "--nonsense"); break;
    case ARG_WORDS: case ARG_FILE_WORDS:   /* an instrument's own */
        for (n = roll(4); n; n--)
            add("%s ", a->type == ARG_FILE_WORDS && roll(2) ? PICK(files) : PICK(words));
        break;
    case ARG_OPTIONS:
        for (n = 1 + roll(roll(10) ? 2 : 40); n; n--)
            add("%s ", PICK(options));
        break;
    case ARG_VALUE:
        if (*var >= 0 && roll(4))
            add_value(*var);
        else
            roll(2) ? add("%s", PICK(numbers)) : add_text();
        break;
    case ARG_TEXT: add_text(); break;
    case ARG_IDS:
        for (n = 1 + roll(roll(9) ? 9 : 2 * CONTEXT); n; n--)
            add("%u%s", roll(roll(200) ? 384 : 400), roll(2) ? " " : ", ");
        break;
    }
}

static void make_command(const struct command *c)
{
    int var = var_find(c->name, 0);        /* /mode and the like */
    size_t short_of = roll(20) ? 0 : roll(3);
    add("/%.*s", (int)(strlen(c->name) - (short_of < strlen(c->name) ? short_of : 0)), c->name);
    for (const struct arg *a = c->arg; a->type != ARG_END; a++) {
        if (!roll(a->required ? 12 : !strncmp(a->name, "--", 2) ? 2 : 4))
            continue;
        add("%s", roll(20) ? " " : "  \t");
        if (!strncmp(a->name, "--", 2) && a->type != ARG_FLAG)     /* with a value: "--layer L" */
            add("%.*s%s", (int)strcspn(a->name, " "), a->name, roll(3) ? " " : "=");
        add_arg(a, &var);
    }
    if (!roll(15)) {
        add(" ");
        add_text();
    }
}

/* A byte that is other than it was */
static void damage(void)
{
    size_t i = len > 1 ? 1 + roll((uint32_t)len - 1) : 0;
    if (!i)
        return;
    switch (roll(3)) {
    case 0: line[i] = (char)roll(256); break;
    case 1: memmove(line + i, line + i + 1, len-- - i); break;
    case 2:
        if (len < MAX_LINE) {
            memmove(line + i + 1, line + i, ++len - i);
            line[i] = (char)(32 + roll(95));
        }
        break;
    }
}

/* Whether a command can only write below this folder: what looks like a path of its own must
 * be one of the list */
static int is_safe(void)
{
    if (line[0] != '/' || line[1] == '/')
        return 1;
    for (const char *p = line; (p = memmem(p, (size_t)(line + len - p), "..", 2)); p++)
        if (!isdigit((unsigned char)p[-1]) && !isdigit((unsigned char)p[2]))
            return 0;                      /* no range of numbers */
    for (size_t i = 1; i < len; i++) {
        if (line[i] != '/' || isalnum((unsigned char)line[i - 1]) || line[i - 1] == '~')
            continue;
        size_t n = strcspn(line + i, " \t\"'"), k = 0;
        while (k < sizeof files / sizeof *files && (strlen(files[k]) != n || memcmp(files[k], line + i, n)))
            k++;
        if (k == sizeof files / sizeof *files)
            return 0;
    }
    return 1;
}

static void make_line(const struct command *c)
{
    char good[sizeof line];
    len = 0;
    if (c && !roll(5))
        add("%s", c->example);
    else if (c)
        make_command(c);
    else
        add_text();
    line[len] = '\0';
    size_t n = len;
    memcpy(good, line, len + 1);
    for (uint32_t i = roll(8) ? 0 : 1 + roll(3); i; i--)
        damage();
    line[len] = '\0';
    if (!is_safe()) {
        memcpy(line, good, n + 1);
        len = n;
    }
    if (!is_safe())
        len = (size_t)snprintf(line, sizeof line, "/");
}

/* ---- what the shell says ---- */

static int own[2], theirs[2];              /* stdout and stderr: ours, and the shell's, whatever /output did */
static int events;

/* The shell's turn to have stdout and stderr, or ours */
static void take_turns(const int *next, int *keep)
{
    fflush(stdout);
    fflush(stderr);
    __fpurge(stdout);                      /* what /dev/full refused */
    for (int i = 0; i < 2; i++) {
        if (keep && (dup2(i + 1, keep[i]) < 0))
            bail("dup2");
        if (dup2(next[i], i + 1) < 0)
            bail("dup2");
    }
}

/* All that went to stdout or stderr since last time; valid until next time */
static const char *said(int which)
{
    static char *kept[2];
    const char *name = which == 1 ? "stdout" : "stderr";
    struct stat st;
    int fd = open(name, O_RDONLY | O_CLOEXEC);
    if (fd < 0 || fstat(fd, &st))
        bail("what the shell said is gone");
    char *text = realloc(kept[which - 1], (size_t)st.st_size + 1);
    ssize_t n = text ? read(fd, text, (size_t)st.st_size) : -1;
    if (n < 0 || close(fd) || truncate(name, 0))
        bail("what the shell said cannot be read");
    text[n] = '\0';
    return kept[which - 1] = text;
}

static void say_line(void)
{
    char *text = text_quoted(line, len);
    diag("seed %llu, line %lu: %s", (unsigned long long)seed, at, text ? text : "");
    free(text);
}

/* For whoever finds us dead */
static void note_line(void)
{
    char *text = text_quoted(line, len);
    FILE *f = fopen("line", "w");
    if (!f || fprintf(f, "seed %llu, line %lu: %s\n", (unsigned long long)seed, at, text ? text : "") < 0 || fclose(f))
        bail("%s/line cannot be written", dir);
    free(text);
}

/* ---- the world ---- */

static void put_file(const char *name, const char *text)
{
    FILE *f = fopen(name, "w");
    if (!f || fputs(text, f) < 0 || fclose(f))
        bail("%s/%s cannot be written", dir, name);
}

/* Of all that lines made there stays what the shell is run from; the rest is as it was */
static void make_files(void)
{
    static const char *const kept[] = { ".", "..", "tiny", "dir", "link", "pipe", "editor", "stdout", "stderr", "events", "line" };
    static const char *const text[][2] = {
        { "question.txt", "Once upon\na time\n" }, { "setup.dbrx", "/set top_p 0.5\n" },     /* of the examples */
        { "text", "Once upon\na time\n" }, { "a file", "/x is text\n\n" },
        { "script", "/set top_k 5\nOnce\\\nupon\n\"\"\"\na block\n\"\"\"\n/stats\n" },
        { "failing", "/feed 5\n/nonsense\n/feed 6\n" }, { "cycle", "/source cycle\n" },
        { "good.gbnf", "root ::= (\"yes\" | \"no\" [a-z]{2,5}) \".\"" }, { "bad.gbnf", "root ::= \"a\" |\n [" },
        { "good.json", "{\"type\":\"object\",\"properties\":{\"a\":{\"enum\":[1,\"x\"]}},\"required\":[\"a\"]}" },
        { "bad.json", "{\"type\":" }, { "torn.dbrx", "dbrx" } };
    DIR *d = opendir(".");
    for (const struct dirent *e; d && (e = readdir(d)); ) {
        size_t k = 0;
        while (k < sizeof kept / sizeof *kept && strcmp(kept[k], e->d_name))
            k++;
        if (k == sizeof kept / sizeof *kept)
            unlink(e->d_name);             /* folders stay: they are few and small */
    }
    if (d)
        closedir(d);
    for (size_t i = 0; i < sizeof text / sizeof *text; i++)
        put_file(text[i][0], text[i][1]);
    if (sh.tree) {
        take_turns(theirs, NULL);
        shell_line(&sh, "/save story.dbrx --kv", 21);
        take_turns(own, theirs);
        said(1), said(2);
    }
}

/* The tiny checkpoint, small enough to be quick, with a tokenizer of bytes */
static void make_checkpoint(void)
{
    static const char *const linked[] = { "config.json", "model.safetensors", "generation_config.json" };
    char from[4096], to[64];
    mkdir("tiny", 0700);
    for (size_t i = 0; i < sizeof linked / sizeof *linked; i++) {
        snprintf(from, sizeof from, "%s/tests/data/tiny-bf16/%s", getenv("srcdir"), linked[i]);
        snprintf(to, sizeof to, "tiny/%s", linked[i]);
        if (symlink(from, to))
            bail("%s/%s cannot be made", dir, to);
    }
    FILE *f = fopen("tiny/tokenizer.json", "w");
    if (f)
        fputs("{\"version\":\"1.0\",\"normalizer\":null,\"added_tokens\":["
              "{\"id\":380,\"content\":\"<|endoftext|>\",\"special\":true},"
              "{\"id\":382,\"content\":\"<|im_start|>\",\"special\":true},"
              "{\"id\":383,\"content\":\"<|im_end|>\",\"special\":true}],"
              "\"pre_tokenizer\":" SPLIT_JSON(CL100K_REGEX_JSON) ",\"model\":{\"type\":\"BPE\",\"vocab\":{", f);
    for (int b = 0; f && b < 256; b++) {
        fputs(b ? ",\"" : "\"", f);
        put_spelled(f, (char[]){ (char)b }, 1);
        fprintf(f, "\":%d", b);
    }
    if (f)
        fputs("},\"merges\":[]}}\n", f);
    if (!f || fclose(f))
        bail("%s/tiny cannot be written", dir);
}

static void remove_all(void)
{
    char command[128];
    snprintf(command, sizeof command, "rm -rf %s", dir);
    if (system(command))
        diag("%s stays", dir);
}

/* ---- what must hold ---- */

static int bad_branch(const struct branch *b, const int32_t *id, uint32_t n)
{
    uint32_t from = 0;
    for (uint32_t i = 0; i < b->n_turns; i++) {
        const struct turn *t = &b->turn[i];
        if (t->begin != from || t->reply < t->begin || t->end < t->reply)
            return 1;
        from = t->end;
    }
    for (uint32_t i = 0; i < n; i++)
        if (id[i] < 0 || (uint32_t)id[i] >= sh.sess->n_vocab)
            return 1;
    return from != n || n > CONTEXT;
}

static int begins_with(const struct branch *b, const int32_t *was, uint32_t n_was)
{
    uint32_t n;
    const int32_t *id = branch_tokens(sh.tree, b, &n);
    if (n >= n_was && (!n_was || !memcmp(id, was, n_was * sizeof *was)))
        return 1;
    return b->undone && b->undone->n >= n_was && !memcmp(b->undone->token, was, n_was * sizeof *was);
}

static int failures, verbose;
static void wrong(const char *what, const char *seen)
{
    char *text = text_quoted(seen, strlen(seen));
    if (failures++ < 10) {
        say_line();
        ok(0, "%s", what);
        diag("%.2000s", text ? text : "");
    }
    free(text);
}

static void check(int result, int json, const int32_t *was, uint32_t n_was)
{
    const char *out = said(1), *err = said(2);
    size_t n_out = strlen(out), n_lines = 0;
    int complains = !strncmp(err, "dbrx: ", 6) || strstr(err, "\ndbrx: ");
    if (result != 0 && result != -1)
        wrong("a line does or fails", err);
    if (result && !complains)
        wrong("what fails says so", err);
    if (!result && complains)
        wrong("what says that it failed did", err);
    if (verbose) {
        say_line();
        diag("%s%.*s", result ? "" : "done ", (int)strcspn(err, "\n"), err);
    }
    char *clean = text_clean(err, strlen(err));
    if (!clean || strcmp(clean, err))
        wrong("stderr is text", err);
    for (const char *p = err; *p; p++, n_lines += *p == '\n')
        if (((unsigned char)*p < ' ' && *p != '\n' && *p != '\t') || *p == 127)
            wrong("a terminal can show it", err);
    if (json && n_out && (out[0] != '{' || out[n_out - 1] != '\n'))
        wrong("--json: lines of objects", out);
    if (json && write(events, out, n_out) < 0)
        bail("the events cannot be written");
    int lost = 1;
    for (uint32_t i = 0; i < sh.tree->n; i++) {
        uint32_t n;
        const int32_t *id = branch_tokens(sh.tree, sh.tree->branch[i], &n);
        if (bad_branch(sh.tree->branch[i], id, n))
            wrong("turns tile a branch", sh.tree->branch[i]->name);
        lost &= !begins_with(sh.tree->branch[i], was, n_was);
    }
    if (lost && n_lines < TREE_MAX)        /* a long script may well crowd it out */
        wrong("the conversation is not lost", err);
    free(clean);
}

/* ---- */

/* As the settings, a line takes milliseconds */
static void be_quick(void)
{
    static const struct { int var; double most; const char *text; } limit[] = {
        { VAR_MAX_TOKENS, 8, "6" }, { VAR_NUM_BEAMS, 3, "1" }, { VAR_THREADS, 2, "1" } };
    char err[256];
    for (size_t i = 0; i < sizeof limit / sizeof *limit; i++)
        if (!(sh.vars.v[limit[i].var].num <= limit[i].most) || sh.vars.v[limit[i].var].num == 0)
            vars_set(&sh.vars, limit[i].var, limit[i].text, FROM_SESSION, err, sizeof err);
}

static int run_line(const struct command *c)
{
    struct input in = { 0 };
    uint32_t n_was = sh.sess->n;
    int32_t *was = malloc((n_was + 1u) * sizeof *was);
    int result = 0, ready, json = (int)roll(2), pressed = !roll(40);
    if (n_was)
        memcpy(was, sh.sess->token, n_was * sizeof *was);
    make_line(c);
    note_line();
    sh.out.json = json;
    sh.interactive = (int)roll(2);
    alarm(PATIENCE);
    take_turns(theirs, NULL);
    if (pressed)
        raise(SIGINT);
    /* as at a terminal: what is no command may be some of several lines */
    ready = input_line(&in, line, len);
    if (!ready)
        input_end(&in);
    result = shell_input(&sh, &in);
    signals_clear();
    take_turns(own, theirs);
    alarm(0);
    input_free(&in);
    json &= !sh.output;                    /* else it is in that file */
    sh.out.json = 0;
    check(result, json, was, n_was);
    free(was);
    sh.quit = 0;
    take_turns(theirs, NULL);
    be_quick();
    take_turns(own, theirs);
    return result;
}

static void open_shell(void)
{
    struct shell_options o = { .model = "tiny", .backend = "ref", .module_path = getenv("MODULES"), .ctx = CONTEXT };
    take_turns(theirs, NULL);
    vars_init(&sh.vars);
    render_init(&sh.out, 0);
    int code = shell_open(&sh, &o);
    be_quick();
    take_turns(own, theirs);
    said(1);
    const char *err = said(2);             /* the last one's end may have complained: of no line's doing */
    if (code || !sh.tok)
        bail("the shell cannot be opened: %s %s", err, sh.tok_why);
}

static void close_shell(void)
{
    take_turns(theirs, NULL);
    output_end(&sh);
    shell_close(&sh);
    take_turns(own, theirs);
    sh = (struct shell){ 0 };
}

/* The whole of it; in a process of its own, as it may not come back */
static int run(unsigned long lines)
{
    size_t n_commands = 0;
    for (int i = 0; i < 2; i++) {
        own[i] = dup(i + 1);
        theirs[i] = open(i ? "stderr" : "stdout", O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    }
    events = open("events", O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    while (command_at(n_commands))
        n_commands++;
    unsigned *did = calloc(n_commands, sizeof *did), *refused = calloc(n_commands, sizeof *refused);

    signals_init(1);
    open_shell();
    for (at = 1; at <= lines; at++) {
        size_t k = roll(4) ? at % n_commands : roll((uint32_t)n_commands);
        const struct command *c = roll(8) ? command_at(k) : NULL;
        if (at % FRESH == 0) {             /* what was set and steered wears off */
            close_shell();
            open_shell();
        }
        if (at % 64 == 1)
            make_files();
        int failed = run_line(c);
        if (c)
            (failed ? refused : did)[k]++;
    }
    for (size_t k = 0; k < n_commands; k++)
        ok((did[k] && refused[k]) || lines < LINES, "/%s: done %u times, refused %u times", command_at(k)->name, did[k], refused[k]);
    ok(!failures, "%lu lines with seed %llu", lines, (unsigned long long)seed);
    close_shell();
    if (getenv("PYTHON") && *getenv("PYTHON"))
        ok(!system("\"$PYTHON\" \"$srcdir/tests/cli/events.py\" --check events"), "--json: what was said fits the schema");
    else
        skip("no Python to hold what was said against the schema");
    free(did);
    free(refused);
    put_file("done", "");
    return done();
}

int main(int argc, char **argv)
{
    unsigned long lines = argc > 2 ? strtoul(argv[2], NULL, 10) : LINES;
    int status;
    seed = argc > 1 ? strtoull(argv[1], NULL, 10) : 1;
    verbose = argc > 3;
    dice = seed * 0x9e3779b97f4a7c15u + 1;
    if (!mkdtemp(dir) || chdir(dir))
        bail("no temporary folder");
    make_checkpoint();
    put_file("editor", "#!/bin/sh\ncase $(wc -c < \"$1\") in *[05]) exit 1 ;; *[1-3]) echo edited >> \"$1\" ;; esac\n");
    if (mkdir("dir", 0700) || symlink("text", "link") || mkfifo("pipe", 0600) || chmod("editor", 0700))
        bail("what lines may name cannot be made");
    setenv("HOME", dir, 1);
    setenv("TMPDIR", dir, 1);
    setenv("VISUAL", "./editor", 1);
    pid_t child = fork();
    if (!child)
        exit(run(lines) ? FAILED : 0);
    waitpid(child, &status, 0);
    int died = !WIFEXITED(status) || (WEXITSTATUS(status) && WEXITSTATUS(status) != FAILED) || access("done", F_OK);
    if (died && WIFSIGNALED(status) && WTERMSIG(status) == SIGALRM)
        diag("a line took more than %d seconds", PATIENCE);
    if (died && system("echo \"# killed by: $(cat line)\"; sed 's/^/# /' stderr | head -n 60"))
        diag("no more is known");
    remove_all();
    if (died)
        bail("the shell died");
    return WEXITSTATUS(status) != 0;
}
