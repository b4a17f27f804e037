/* repl/signals.h -- signals become flags that the shell looks at.
 *
 * A handler does nothing but set a flag.  Knows no terminal and no model. */
#ifndef DBRX_REPL_SIGNALS_H
#define DBRX_REPL_SIGNALS_H

/* SIGINT and SIGTERM are noted, SIGPIPE kills as usual.  Interactive: system calls go
 * on after a signal; otherwise they return, so that a script waiting for input ends. */
void signals_init(int interactive);

/* Ctrl-C or SIGTERM since signals_clear: whatever runs should come back. */
int  signals_stop(void);
void signals_clear(void);                  /* forgets Ctrl-C, never SIGTERM */
/* The signal this process should end with: SIGTERM, in a script SIGINT too; else 0. */
int  signals_fatal(void);
_Noreturn void signals_die(int sig);       /* by that signal, so that the parent sees it */

/* Modes that stdin's terminal gets back when Ctrl-C is about to kill, and those that it gets
 * again when a stopped program goes on; NULL: none.  Copied. */
struct termios;
void signals_terminal(const struct termios *found, const struct termios *now);

/* stdout's terminal scrolls in a part of the screen (panel.h); all of it is given back when
 * Ctrl-C is about to kill.  Ctrl-Z meanwhile is noted only: whoever draws sees it, gives the
 * screen back, and is stopped when it says so (0). */
void signals_scrolling(int on);
int  signals_suspended(void);

/* Waits until fd can be read (WAIT_INPUT) or a signal came.  WAIT_RESUME: the process was
 * stopped (Ctrl-Z) and goes on; the terminal may be as somebody else left it. */
enum wait_result { WAIT_INPUT, WAIT_INTERRUPT, WAIT_TERMINATE, WAIT_RESIZE, WAIT_RESUME };
enum wait_result signals_wait(int fd);

#endif
