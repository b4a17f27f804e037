/* repl/signals.c -- see signals.h.  The third Ctrl-C kills because the second one puts
 * the default action back: a handler that only sets flags cannot end a process that no
 * longer looks at them.  With it goes the terminal, as it was found: the third press is
 * nobody's to handle. */
#define _GNU_SOURCE
#include "repl/signals.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <termios.h>
#include <unistd.h>

static volatile sig_atomic_t presses, terminated, resized, resumed, have_modes, scrolling, suspended;
static struct termios modes, own;          /* as found; ours between prompts */
static int is_interactive;

static void on_signal(int sig)
{
    int was = errno;
    if (sig == SIGTERM || sig == SIGHUP)
        terminated = sig;
    else if (sig == SIGWINCH)
        resized = 1;
    else if (sig == SIGCONT) {
        resumed = 1;
        if (have_modes && tcgetpgrp(STDIN_FILENO) == getpgrp())    /* fg in a reply: the parent shell set its own */
            tcsetattr(STDIN_FILENO, TCSANOW, &own);
    } else if (sig == SIGTSTP) {
        suspended = 1;
    } else if (sig != SIGALRM && ++presses == 2) {
        signal(SIGINT, SIG_DFL);
        if (have_modes)
            tcsetattr(STDIN_FILENO, TCSANOW, &modes);
        static const char whole[] = "\0337\033[r\0338";
        if (scrolling && write(STDOUT_FILENO, whole, sizeof whole - 1) < 0)
            scrolling = 0;
    }
    /* a script's read that began just after its look at the flags is interrupted a second later */
    if (!is_interactive && (presses || terminated))
        alarm(1);
    errno = was;
}

void signals_terminal(const struct termios *found, const struct termios *now)
{
    have_modes = 0;
    if (found) {
        modes = *found;
        own = *now;
        have_modes = 1;
    }
}

static void catch_signal(int sig, unsigned flags)
{
    struct sigaction sa = { .sa_handler = on_signal, .sa_flags = (int)flags };
    sigaction(sig, &sa, NULL);
}

void signals_scrolling(int on)
{
    struct sigaction old;
    scrolling = on;
    if (sigaction(SIGTSTP, NULL, &old) || old.sa_handler == SIG_IGN)
        return;
    if (on) {
        catch_signal(SIGTSTP, SA_RESTART);
    } else {
        signal(SIGTSTP, SIG_DFL);
        if (suspended)
            raise(SIGTSTP);                /* comes back with fg */
        suspended = 0;
    }
}

int signals_suspended(void)
{
    return suspended;
}

void signals_init(int interactive)
{
    is_interactive = interactive;
    unsigned flags = interactive ? SA_RESTART : 0;
    catch_signal(SIGINT, flags);
    catch_signal(SIGTERM, flags | SA_RESETHAND);   /* a second one ends a backend that is deaf */
    signal(SIGPIPE, SIG_DFL);
    if (interactive) {
        catch_signal(SIGHUP, flags | SA_RESETHAND);
        catch_signal(SIGWINCH, flags);
        catch_signal(SIGCONT, flags);
    } else {
        catch_signal(SIGALRM, 0);
    }
}

int signals_stop(void)
{
    return presses || terminated;
}

void signals_clear(void)
{
    if (presses) {
        presses = 0;
        catch_signal(SIGINT, is_interactive ? SA_RESTART : 0);
    }
}

int signals_fatal(void)
{
    return terminated ? (int)terminated : presses && !is_interactive ? SIGINT : 0;
}

void signals_die(int sig)
{
    sigset_t set;
    signal(sig, SIG_DFL);
    sigemptyset(&set);
    sigaddset(&set, sig);
    sigprocmask(SIG_UNBLOCK, &set, NULL);
    raise(sig);
    _exit(128 + sig);
}

enum wait_result signals_wait(int fd)
{
    struct pollfd p = { .fd = fd, .events = POLLIN };
    /* Blocked but for the wait itself, no signal falls between the look and the wait.
     * A backend's thread may still take one instead of us: hence the second's limit. */
    static const struct timespec limit = { .tv_sec = 1 };
    sigset_t mine, old;
    sigemptyset(&mine);
    sigaddset(&mine, SIGINT);
    sigaddset(&mine, SIGTERM);
    sigaddset(&mine, SIGHUP);
    sigaddset(&mine, SIGWINCH);
    sigaddset(&mine, SIGCONT);
    sigprocmask(SIG_BLOCK, &mine, &old);
    enum wait_result what = WAIT_INPUT;
    for (;;) {
        if (terminated)
            what = WAIT_TERMINATE;
        else if (presses)
            what = WAIT_INTERRUPT;
        else if (resumed)
            what = WAIT_RESUME;
        else if (resized)
            what = WAIT_RESIZE;
        else if (ppoll(&p, 1, &limit, &old) <= 0)
            continue;
        break;
    }
    if (what == WAIT_RESUME)
        resumed = 0;
    else if (what == WAIT_RESIZE)
        resized = 0;
    sigprocmask(SIG_SETMASK, &old, NULL);
    /* what came together with input comes before it: Ctrl-C drops the line, not what follows */
    return what != WAIT_INPUT ? what : terminated ? WAIT_TERMINATE : presses ? WAIT_INTERRUPT : what;
}
