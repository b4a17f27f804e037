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
#include <unistd.h>

enum { HISTORY_LINES = 2000 };

static char *history_path;
static char *got;                          /* what the editor handed over */
static int   done;

void line_open(struct shell *sh)
{
    rl_readline_name = (char *)"dbrx";
    rl_instream = stdin;
    rl_outstream = stderr;                 /* stdout is for results */
    rl_catch_signals = 0;
    rl_catch_sigwinch = 0;
    complete_init(sh);
#ifndef USE_LIBEDIT
    history_comment_char = '#';            /* time stamps, which let an entry have several lines */
    history_write_timestamps = 1;
#endif
    using_history();
    stifle_history(HISTORY_LINES);
    history_path = path_history();
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

static void remember(const char *line)
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

static void take(char *line)
{
    rl_callback_handler_remove();          /* the terminal is the reply's now */
    got = line;
    done = 1;
}

enum line_result line_read(const char *prompt, char **line)
{
    got = NULL;
    done = 0;
    rl_callback_handler_install(prompt, take);
    while (!done) {
        switch (signals_wait(STDIN_FILENO)) {
        case WAIT_INPUT:
            rl_callback_read_char();
            break;
        case WAIT_RESIZE:
            rl_resize_terminal();
            break;
        case WAIT_INTERRUPT:
            signals_clear();
            fputs("^C", stderr);           /* before the cursor goes home */
#ifndef USE_LIBEDIT
            rl_free_line_state();          /* out of a search or a half-typed argument */
            rl_callback_sigcleanup();
#endif
            rl_callback_handler_remove();
            fputc('\n', stderr);
            return LINE_CLEARED;
        case WAIT_TERMINATE:
            rl_callback_handler_remove();
            fputc('\n', stderr);
            return LINE_KILLED;
        }
    }
    if (!got) {
        fputc('\n', stderr);
        return LINE_END;
    }
    remember(got);
    *line = got;
    return LINE_TEXT;
}
