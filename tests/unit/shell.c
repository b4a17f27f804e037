/* tests/unit/shell.c -- the shell's parts that a run of the program cannot reach or pin
 * down: the third Ctrl-C, the edges of settings and words, hostile bytes. */
#define _GNU_SOURCE
#include "repl/commands.h"
#include "repl/input.h"
#include "repl/render.h"
#include "repl/signals.h"
#include "repl/vars.h"
#include "repl/words.h"

#include "tests/tap.h"

#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <termios.h>
#include <unistd.h>

/* How a child ends that gets n SIGINTs and looks at none: 0 or the signal */
static int after_presses(int n, int clear_between)
{
    int status;
    pid_t pid = fork();
    if (!pid) {
        signals_init(1);
        for (int i = 0; i < n; i++) {
            raise(SIGINT);
            if (clear_between)
                signals_clear();
        }
        _exit(0);
    }
    waitpid(pid, &status, 0);
    return WIFSIGNALED(status) ? WTERMSIG(status) : WEXITSTATUS(status);
}

static void test_signals(void)
{
    ok(after_presses(2, 0) == 0, "two presses of Ctrl-C only ask");
    ok(after_presses(3, 0) == SIGINT, "the third kills");
    ok(after_presses(9, 1) == 0, "presses of different replies do not add up");
    signals_init(1);
    raise(SIGINT);
    ok(signals_stop() && !signals_fatal(), "interactive: Ctrl-C stops, it does not end");
    signals_clear();
    ok(!signals_stop(), "... and is forgotten");
    signals_init(0);
    raise(SIGINT);
    ok(signals_fatal() == SIGINT, "in a script it ends");
    signals_clear();
    raise(SIGTERM);
    signals_clear();
    ok(signals_fatal() == SIGTERM && signals_stop(), "SIGTERM is never forgotten");
}

static void test_vars(void)
{
    struct vars v;
    char err[256];
    static const struct { int var; const char *text; int good; } set[] = {
        { VAR_TEMPERATURE, "0", 1 }, { VAR_TEMPERATURE, "1e2", 1 }, { VAR_TEMPERATURE, "100.1", 0 },
        { VAR_TEMPERATURE, "-0.1", 0 }, { VAR_TEMPERATURE, "inf", 0 }, { VAR_TEMPERATURE, "0x1", 0 },
        { VAR_TEMPERATURE, "", 0 }, { VAR_TEMPERATURE, "1 ", 0 }, { VAR_TEMPERATURE, "e", 0 },
        { VAR_TOP_K, "1.5", 0 }, { VAR_TOP_K, "4294967295", 1 }, { VAR_TOP_K, "4294967296", 0 },
        { VAR_SEED, "random", 1 }, { VAR_SEED, "999999999999999", 1 }, { VAR_SEED, "1000000000000000", 0 },
        { VAR_THREADS, "0", 0 }, { VAR_THREADS, "auto", 1 }, { VAR_MODE, "chat", 1 }, { VAR_MODE, "Chat", 0 },
        { VAR_SYSTEM, "", 1 }, { VAR_SYSTEM, "anything \xff", 1 } };
    vars_init(&v);
    for (size_t i = 0; i < sizeof set / sizeof *set; i++) {
        char *was = strdup(v.v[set[i].var].text);
        int got = vars_set(&v, set[i].var, set[i].text, FROM_SESSION, err, sizeof err);
        ok((got == 0) == set[i].good && (!got || !strcmp(v.v[set[i].var].text, was)), "%s = \"%s\" is %s",
           var_defs[set[i].var].name, set[i].text, set[i].good ? "taken" : "refused, and nothing changes");
        free(was);
    }
    vars_default(&v, VAR_MODE, "chat");
    vars_set(&v, VAR_MODE, "base", FROM_SESSION, err, sizeof err);
    vars_default(&v, VAR_MODE, "chat");
    ok(v.v[VAR_MODE].num == 0, "a default found later does not undo what was set");
    vars_set(&v, VAR_MODE, "default", FROM_SESSION, err, sizeof err);
    ok(v.v[VAR_MODE].num == 1 && v.v[VAR_MODE].origin == FROM_DEFAULT, "\"default\" goes back to it");
    ok(var_find("top_", 1) == -2 && var_find("top_p", 1) == VAR_TOP_P && var_find("te", 1) == VAR_TEMPERATURE &&
       var_find("te", 0) == -1, "prefixes of names, when wanted and unambiguous");
    vars_free(&v);
}

static int is_text(char *got, const char *want)
{
    int same = got && !strcmp(got, want);
    if (!same)
        diag("got \"%s\", wanted \"%s\"", got ? got : "(null)", want);
    free(got);
    return same;
}

static void test_words(void)
{
    char line[] = "  a \"b c\" d'e f'g \"\" \"open end", *p = line;
    static const char *const want[] = { "a", "b c", "de fg", "", "open end" };
    int same = 1;
    for (size_t i = 0; i < 5; i++) {
        char *w = word_next(&p);
        same &= w && !strcmp(w, want[i]);
    }
    ok(same && !word_next(&p), "words, with quotes");
    ok(is_text(text_clean("a\0b\xff\xc3", 5), "a\xef\xbf\xbd" "b\xef\xbf\xbd\xef\xbf\xbd"),
       "any bytes become UTF-8 without NUL");
    ok(is_text(text_quoted("\n\t\x1b\x7f\\\xc2\x9b\xc3\xa9", 9), "\\n\\t\\x1b\\x7f\\\\\\x9b\xc3\xa9"),
       "controls are quoted, letters are not");
    ok(!strcmp(command_nearest("rotue"), "route") && !strcmp(command_nearest("hepl"), "help") &&
       !command_nearest("xyzzy") && !command_nearest(""), "near misses");
}

static void test_table(void)
{
    for (size_t i = 0; command_at(i); i++) {
        const struct command *c = command_at(i);
        char usage[USAGE_LEN];
        command_usage(c, 1, usage, sizeof usage);
        int optional = 0, fine = 1;
        for (const struct arg *a = c->arg; a->type != ARG_END; a++) {
            fine &= !(optional && a->required && !arg_is_option(a));      /* the parser fills them in order */
            optional |= !a->required && !arg_is_option(a);
        }
        ok(fine && c->run && strlen(c->brief) <= 50 && c->example[0] == '/' &&
           !strncmp(c->example + 1, c->name, strlen(c->name)) && command_find(c->name, 0) == c,
           "%s is a sound row", usage);
    }
}

/* Lines to one prompt: "a|b|c" are three, '~' is a newline within one (a paste) */
static const char *joined(struct input *in, const char *lines)
{
    char copy[200], *save = NULL;
    int ready = 0;
    input_drop(in);
    snprintf(copy, sizeof copy, "%s", lines);
    for (char *p = copy; *p; p++)
        *p = *p == '~' ? '\n' : *p;
    for (char *l = strtok_r(copy, "|", &save); l && !ready; l = strtok_r(NULL, "|", &save)) {
        if (!strcmp(l, "_"))
            *l = '\0';                     /* an empty line */
        ready = input_line(in, l, strlen(l));
    }
    return ready == 1 ? in->text : ready ? "no memory" : "unfinished";
}

static void test_input(void)
{
    static const struct { const char *lines, *want; int literal; } set[] = {
        { "one", "one", 0 }, { "a\\|b", "a\nb", 0 }, { "a\\\\|b", "a\\\\", 0 }, { "a\\|b\\|c", "a\nb\nc", 0 },
        { "a\\", "unfinished", 0 }, { "/set x \\|b", "/set x \\", 0 }, { "//x\\|/y", "//x\n/y", 0 },
        { "\"\"\"|a|b|\"\"\"", "a\nb", 1 }, { "\"\"\"a|b\"\"\"", "a\nb", 1 }, { "\"\"\"a\"\"\"", "a", 1 },
        { "\"\"\"|_|a|_|\"\"\"", "\na\n", 1 }, { "\"\"\"\"\"\"", "", 1 }, { "\"\"\"|\"\"\"", "", 1 },
        { "\"\"\"|/x|\"\"\"", "/x", 1 }, { "\"\"\"|a\\|\"\"\"", "a\\", 1 }, { "\"\"\"|a", "unfinished", 1 },
        { "\"\"\"~a~b~\"\"\"", "a\nb", 1 }, { "\"\"\"doc\"\"\"~x", "\"\"\"doc\"\"\"\nx", 0 },
        { "\"\"\"|x~y~\"\"\"", "x\ny", 1 }, { "say \"\"\"", "say \"\"\"", 0 }, { "\"\"", "\"\"", 0 } };
    struct input in = { 0 };
    for (size_t i = 0; i < sizeof set / sizeof *set; i++) {
        const char *got = joined(&in, set[i].lines);
        ok(!strcmp(got, set[i].want) && in.literal == set[i].literal, "lines %s make a prompt", set[i].lines);
    }
    joined(&in, "\"\"\"|a");
    input_end(&in);
    ok(!in.open && !strcmp(in.text, "a"), "input_end: what there is, is all");
    ok(input_line(&in, "b", 1) == 1 && !strcmp(in.text, "b") && !in.literal, "... and the next line begins anew");
    input_free(&in);
}

/* The second Ctrl-C makes the third one deadly: by then the terminal is as it was found */
static void test_terminal(void)
{
    int master = posix_openpt(O_RDWR | O_NOCTTY), status = 1;
    if (master < 0 || grantpt(master) || unlockpt(master)) {
        ok(1, "# SKIP no pseudo-terminal");
        return;
    }
    pid_t pid = fork();
    if (!pid) {
        struct termios found, now, t;
        int fd = open(ptsname(master), O_RDWR | O_NOCTTY);
        if (fd < 0 || dup2(fd, STDIN_FILENO) < 0 || tcgetattr(0, &found))
            _exit(1);
        t = found;
        t.c_lflag &= ~(tcflag_t)(ICANON | ECHO);
        tcsetattr(0, TCSANOW, &t);
        signals_init(1);
        signals_terminal(&found, &found);
        raise(SIGINT);
        tcgetattr(0, &now);
        if (now.c_lflag & ECHO)
            _exit(2);
        raise(SIGINT);
        tcgetattr(0, &now);
        _exit(now.c_lflag == found.c_lflag ? 0 : 3);
    }
    waitpid(pid, &status, 0);
    ok(!status, "the second Ctrl-C gives the terminal back, the first does not");
    close(master);
}

/* What takes long shows, also when nobody reports how far it is */
static void test_busy(void)
{
    struct render r;
    char seen[256] = "";
    int master = posix_openpt(O_RDWR | O_NOCTTY), own = dup(STDERR_FILENO);
    size_t n = 0;
    ssize_t got = 1;
    if (master < 0 || grantpt(master) || unlockpt(master)) {
        ok(1, "# SKIP no pseudo-terminal");
        return;
    }
    int fd = open(ptsname(master), O_RDWR | O_NOCTTY);
    if (fd < 0 || dup2(fd, STDERR_FILENO) < 0)
        bail("no terminal");
    setenv("TERM", "xterm", 1);
    render_init(&r, 0);
    render_busy(&r, 1);
    while (!strstr(seen, "working ...") && got > 0 && n < sizeof seen - 1)
        n += (size_t)((got = read(master, seen + n, sizeof seen - 1 - n)) > 0 ? got : 0);
    render_busy(&r, 0);
    ok(strstr(seen, "working ...") != NULL && !r.shown, "a backend that reports nothing: something shows");
    render_busy(&r, 1);
    render_progress(&r, "reading", 1, 4);
    while (!strstr(seen, "reading:  25%") && got > 0 && n < sizeof seen - 1)
        n += (size_t)((got = read(master, seen + n, sizeof seen - 1 - n)) > 0 ? got : 0);
    render_busy(&r, 0);
    ok(strstr(seen, "reading:  25%") != NULL, "... one that reported once and no more: what it said");
    /* ... but nothing comes into a line of a reply, however long it stands there */
    int out = dup(STDOUT_FILENO);
    fflush(stdout);
    dup2(fd, STDOUT_FILENO);
    render_busy(&r, 1);
    render_reply(&r, "Once", 4);
    usleep(300000);
    render_progress(&r, "reading", 2, 4);
    render_reply(&r, " upon", 5);
    render_reply_end(&r);
    render_busy(&r, 0);
    dup2(out, STDOUT_FILENO);
    close(out);
    n = 0;
    while ((!n || !memchr(seen, '\n', n)) && n < sizeof seen - 1 && (got = read(master, seen + n, sizeof seen - 1 - n)) > 0)
        n += (size_t)got;
    seen[n] = '\0';
    ok(strstr(seen, "Once upon\r\n") != NULL, "a reply that hesitates stays in one piece");
    dup2(own, STDERR_FILENO);
    close(fd);
    close(master);
    close(own);
}

int main(void)
{
    alarm(300);                            /* the terminal's silence is a failure, no hang */
    test_input();
    test_terminal();
    test_signals();
    test_vars();
    test_words();
    test_table();
    test_busy();
    return done();
}
