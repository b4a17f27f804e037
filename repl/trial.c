/* repl/trial.c -- see trial.h. */
#define _GNU_SOURCE
#include "repl/trial.h"

#include "plugins/loader.h"
#include "plugins/observer.h"
#include "repl/engine.h"
#include "repl/paths.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

enum { PATIENCE = 30,                      /* seconds: a driver may have to wake up         */
       NOT_TAKEN = 100 };                  /* exit code: the loader says why               */

/* What tells one file from another, FNV-1a of all of it and its size: not the build id, which a
 * damaged copy has as well.  0 or -1. */
struct mark { char text[48]; };
static int mark_of(const char *path, struct mark *m)
{
    unsigned char buf[1 << 16];
    uint64_t hash = UINT64_C(0xcbf29ce484222325), size = 0;
    struct stat st;
    ssize_t n = -1;
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd >= 0 && !fstat(fd, &st) && S_ISREG(st.st_mode))
        while ((n = read(fd, buf, sizeof buf)) > 0) {
            for (ssize_t i = 0; i < n; i++)
                hash = (hash ^ buf[i]) * UINT64_C(0x100000001b3);
            size += (uint64_t)n;
        }
    if (fd >= 0)
        close(fd);
    snprintf(m->text, sizeof m->text, "%016" PRIx64 " %" PRIu64, hash, size);
    return n ? -1 : 0;
}

/* ---- what went well before ---- */

static int remembered(const char *file, const struct mark *m)
{
    char line[sizeof m->text + 2];
    FILE *f = fopen(file, "re");
    int yes = 0;
    while (f && !yes && fgets(line, sizeof line, f)) {
        line[strcspn(line, "\n")] = '\0';
        yes = !strcmp(line, m->text);
    }
    if (f)
        fclose(f);
    return yes;
}

static void remember(const char *file, const struct mark *m)
{
    char line[sizeof m->text + 2];
    int fd = open(file, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    int n = snprintf(line, sizeof line, "%s\n", m->text);
    int whole = fd >= 0 && write(fd, line, (size_t)n) == n;
    if (fd >= 0)
        close(fd);
    if (!whole)
        unlink(file);                      /* they are only tried again */
}

/* ---- trying ---- */

static void no_log(const struct dbrx_host *h, int level, const char *line) { (void)h; (void)level; (void)line; }
static int no_stop(const struct dbrx_host *h) { (void)h; return 0; }
static void no_progress(const struct dbrx_host *h, const char *what, uint64_t done, uint64_t total)
{
    (void)h; (void)what; (void)done; (void)total;
}
static const void *nothing(const struct dbrx_host *h, const char *id) { (void)h; (void)id; return NULL; }

/* 0 or NOT_TAKEN */
static int look(const char *path)
{
    static const struct dbrx_host host = { .struct_size = sizeof host, .log = no_log, .should_stop = no_stop,
                                           .progress = no_progress, .get = nothing };
    struct module m = { 0 };
    struct dbrx_error err;
    if (module_open(path, &m.info, &err) != DBRX_OK)
        return NOT_TAKEN;
    const struct dbrx_backend *b = engine_backend(&m);
    struct dbrx_probe p = { .struct_size = sizeof p };
    if (b)
        b->probe(&host, &p, &err);
    m.info->get(DBRX_OBSERVER);
    volatile size_t read = strlen(m.info->version) + strlen(m.info->summary);
    (void)read;
    return 0;
}

/* 1: all is well; 0: the loader will have something to say; -1.  alive: a pipe that the child
 * holds open; one that is deaf to its alarm clock is killed from here. */
static int finished(pid_t child, int alive, char *why, size_t size)
{
    struct pollfd end = { .fd = alive };
    int n = 1;
    while (alive >= 0 && (n = poll(&end, 1, (PATIENCE + 2) * 1000)) < 0 && errno == EINTR)
        ;
    if (!n)
        kill(child, SIGKILL);
    int status = 0, code = waitpid(child, &status, 0) == child && WIFEXITED(status) ? WEXITSTATUS(status) : -1;
    if (code == 0 || code == NOT_TAKEN)
        return code == 0;
    int sig = WIFSIGNALED(status) ? WTERMSIG(status) : 0;
    if (sig == SIGALRM || (sig == SIGKILL && !n))
        snprintf(why, size, "it did not come back within %d seconds when it was tried", PATIENCE);
    else if (sig)
        snprintf(why, size, "it crashed when it was tried (%s)", strsignal(sig));
    else
        snprintf(why, size, "it ended the process that tried it (exit code %d)", code);
    return -1;
}

int trial_module(const char *path, char *why, size_t size)
{
    struct mark m;
    char *file = mark_of(path, &m) ? NULL : path_state("modules");
    int went = 0;
    if (!file || !remembered(file, &m)) {
        int alive[2] = { -1, -1 };
        fflush(stdout);
        if (pipe2(alive, O_CLOEXEC))
            alive[0] = alive[1] = -1;
        pid_t child = fork();
        if (!child) {
            int null = open("/dev/null", O_RDWR);
            for (int fd = 0; null >= 0 && fd < 3; fd++)
                dup2(null, fd);
            static const int ours[] = { SIGINT, SIGTERM, SIGALRM, SIGBUS, SIGSEGV };
            for (size_t i = 0; i < sizeof ours / sizeof *ours; i++)
                signal(ours[i], SIG_DFL);
            alarm(PATIENCE);
            _exit(look(path));
        }
        if (alive[1] >= 0)
            close(alive[1]);
        went = child < 0 ? 0 : finished(child, alive[0], why, size);     /* no process to try it in: as ever */
        if (alive[0] >= 0)
            close(alive[0]);
        if (went > 0 && file)
            remember(file, &m);
    }
    free(file);
    return went < 0 ? -1 : 0;
}
