/* repl/line.c -- see line.h.  Uses readline's callback form, so that waiting is ours: a
 * signal ends the wait at once and no handler has to touch the editor's state. */
#define _GNU_SOURCE
#include "config.h"

#include "repl/line.h"

#include "repl/complete.h"
#include "repl/paths.h"
#include "repl/signals.h"

#include <stdio.h>
#ifdef USE_LIBEDIT
#include <editline/readline.h>
#else
#include <readline/history.h>
#include <readline/readline.h>
#endif

#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <termios.h>
#include <unistd.h>

enum { HISTORY_LINES = 2000 };

static char *history_path;
static char *got;                          /* what the editor handed over */
static int   done;

/* ---- the terminal between prompts ---- */

static struct termios found;               /* as the program found it */
static int quiet, pastes;

/* Keys as bytes, the way the editor will want them; of the signals only what is typed for
 * them.  NOFLSH: the Ctrl-C that stops a reply does not eat the line typed during it. */
void line_quiet(void)
{
    if (quiet || !isatty(STDIN_FILENO) || tcgetattr(STDIN_FILENO, &found))
        return;
    struct termios t = found;
    t.c_lflag &= ~(tcflag_t)(ICANON | ECHO);
    t.c_lflag |= NOFLSH;
    t.c_iflag &= ~(tcflag_t)(ICRNL | INLCR | IGNCR);
    t.c_cc[VMIN] = 1;
    t.c_cc[VTIME] = 0;
    signals_terminal(&found, &t);          /* what kills us gives it back */
    quiet = !tcsetattr(STDIN_FILENO, TCSANOW, &t);
}

/* A paste during a reply has to come in one piece as well */
static void mark_pastes(int on)
{
#ifndef USE_LIBEDIT
    const char *wanted = rl_variable_value("enable-bracketed-paste");
    if (on != pastes && wanted && !strcmp(wanted, "on")) {
        fputs(on ? "\033[?2004h" : "\033[?2004l", stderr);
        fflush(stderr);
    }
#endif
    pastes = on;
}

int line_give_back(void)
{
    int was = quiet;
    if (quiet)
        tcsetattr(STDIN_FILENO, TCSANOW, &found);
    quiet = 0;
    signals_terminal(NULL, NULL);
    mark_pastes(0);
    return was;
}

/* Over a silent terminal the editor would be silent too */
static void prepare(int meta)
{
    rl_prep_terminal(meta);
#ifndef USE_LIBEDIT
    rl_tty_set_echoing(1);
#endif
}

static void begin_edit(const char *prompt, rl_vcpfunc_t *taken)
{
#ifdef USE_LIBEDIT
    line_give_back();                      /* it knows no other way to echo */
#endif
    rl_callback_handler_install(prompt, taken);
}

static void end_edit(void)
{
    rl_callback_handler_remove();
    line_quiet();
    pastes = 0;                            /* the editor ended its marks */
    mark_pastes(1);
}

/* ---- opening, history ---- */

void line_open(struct shell *sh)
{
#ifdef USE_LIBEDIT
    line_give_back();                      /* where nothing echoes it edits nothing, for ever */
    rl_initialize();
    line_quiet();
#endif
    rl_readline_name = (char *)"dbrx";
    rl_instream = stdin;
    rl_outstream = stderr;                 /* stdout is for results */
    rl_catch_signals = 0;
    rl_catch_sigwinch = 0;
    complete_init(sh);
#ifndef USE_LIBEDIT
    rl_prep_term_function = prepare;
    rl_change_environment = 0;             /* an editor finds its own size */
    history_comment_char = '#';            /* time stamps, which let an entry have several lines */
    history_write_timestamps = 1;
#endif
    using_history();
    stifle_history(HISTORY_LINES);
    history_path = path_state("history");
    /* ours alone from the start: a prompt may be private */
    int fd = history_path ? open(history_path, O_CREAT | O_RDWR | O_CLOEXEC, 0600) : -1;
    if (fd < 0) {
        free(history_path);
        history_path = NULL;
        return;
    }
    fchmod(fd, 0600);
    close(fd);
    read_history(history_path);
}

void line_close(void)
{
    if (history_path)
        history_truncate_file(history_path, HISTORY_LINES);
    free(history_path);
    history_path = NULL;
}

void line_remember(const char *line)
{
    HIST_ENTRY *last = history_length ? history_get(history_base + history_length - 1) : NULL;
    if (line[strspn(line, " \t\n")] == '\0' || (last && !strcmp(last->line, line)))
        return;
    add_history(line);
    if (history_path)                      /* at once: a crash loses nothing */
#ifdef USE_LIBEDIT
        write_history(history_path);       /* its append_history writes the line twice */
#else
        append_history(1, history_path);   /* nor does a second shell */
#endif
}

/* ---- one line ---- */

static void take(char *line)
{
    end_edit();                            /* the terminal is the reply's now */
    got = line;
    done = 1;
}

enum line_result line_read(const char *prompt, int more, char **line)
{
    got = NULL;
    done = 0;
    complete_off(more);
    begin_edit(prompt, take);
    while (!done) {
        switch (signals_wait(STDIN_FILENO)) {
        case WAIT_INPUT:
            rl_callback_read_char();
            break;
        case WAIT_RESIZE:
            rl_resize_terminal();
            break;
        case WAIT_RESUME:                  /* fg: the parent shell has set its own mode */
            rl_deprep_terminal();
            prepare(1);
            rl_forced_update_display();
            break;
        case WAIT_INTERRUPT:
            signals_clear();
            fputs("^C", stderr);           /* before the cursor goes home */
#ifndef USE_LIBEDIT
            rl_free_line_state();          /* out of a search or a half-typed argument */
            rl_callback_sigcleanup();
#endif
            end_edit();
            fputc('\n', stderr);
            return LINE_CLEARED;
        case WAIT_TERMINATE:
            end_edit();
            fputc('\n', stderr);
            return LINE_KILLED;
        }
    }
    if (!got) {
        fputc('\n', stderr);
        return LINE_END;
    }
    *line = got;
    return LINE_TEXT;
}
