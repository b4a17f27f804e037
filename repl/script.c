/* repl/script.c -- lines that nobody types now: -f and pipes, /source, the rc file; and what
 * goes with them, /output and /echo. */
#define _GNU_SOURCE
#include "repl/shell.h"

#include "repl/commands.h"
#include "repl/handlers.h"
#include "repl/input.h"
#include "repl/paths.h"
#include "repl/save.h"
#include "repl/signals.h"
#include "repl/words.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio_ext.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { MAX_DEPTH = 16 };

struct script {                            /* one that is running; on the stack of its reader */
    dev_t dev;
    ino_t ino;
    unsigned depth;
    const struct script *outer;
};

/* 0, or -1 after saying why it must not run */
static int may_run(struct shell *sh, struct script *me, FILE *f, const char *name)
{
    struct stat st, out;
    *me = (struct script){ .outer = sh->script, .depth = sh->script ? sh->script->depth + 1 : 0 };
    if (me->depth > MAX_DEPTH)
        return render_error(&sh->out, "scripts are nested more than %d deep; %s was not run", MAX_DEPTH, name);
    if (!fstat(fileno(f), &st) && S_ISREG(st.st_mode)) {
        me->dev = st.st_dev;
        me->ino = st.st_ino;
        if (sh->output && !fstat(STDOUT_FILENO, &out) && out.st_ino == me->ino && out.st_dev == me->dev)
            return render_error(&sh->out, "results go to the end of %s, so that it would never end; /output "
                                "alone stops that", name);
        for (const struct script *s = me->outer; s; s = s->outer)
            if (s->ino == me->ino && s->dev == me->dev)
                return render_error(&sh->out, "%s is already running: it would source itself for ever", name);
    }
    return 0;
}

/* A line without its end; -1: none */
static ssize_t next_line(FILE *f, char **line, size_t *cap)
{
    ssize_t len = text_line(line, cap, f);
    if (len > 0 && (*line)[len - 1] == '\n')
        (*line)[--len] = '\0';
    if (len > 0 && (*line)[len - 1] == '\r')
        (*line)[--len] = '\0';
    return len;
}

static int run_lines(struct shell *sh, FILE *f, const char *name)
{
    struct input in = { 0 };
    char *line = NULL;
    size_t cap = 0;
    unsigned long n = 0;
    int failed = 0, any = 0, ready;
    ssize_t len;
    while (!failed && !sh->quit && !signals_stop() && (len = next_line(f, &line, &cap)) >= 0) {
        n++;
        if (!in.open)
            snprintf(sh->out.where, sizeof sh->out.where, "%.120s:%lu", name, n);
        if (((size_t)len == strspn(line, " \t") && !in.open) || (n == 1 && !strncmp(line, "#!", 2)))
            continue;                      /* blank lines separate, they say nothing */
        ready = input_line(&in, line, (size_t)len);
        if (ready < 0)
            failed = render_error(&sh->out, "out of memory");
        else if (ready)
            failed = shell_input(sh, &in);
        any |= failed;
        if (sh->vars.v[VAR_ON_ERROR].num == ON_ERROR_CONTINUE)
            failed = 0;
    }
    if (!failed && signals_stop() && !signals_fatal())
        failed = render_error(&sh->out, "interrupted; the rest of %s was not run", name);
    else if (!failed && !sh->quit && !feof(f) && !signals_fatal())
        failed = render_error(&sh->out, "%s cannot be read: %s", name, strerror(errno));
    else if (!failed && in.open && !signals_fatal())
        failed = render_error(&sh->out, "the file ends within this prompt, which was not sent: %s",
                              in.open == INPUT_BLOCK ? "\"\"\" ends it" : "a backslash wants another line");
    input_free(&in);
    free(line);
    return failed || any ? -1 : 0;
}

int shell_script(struct shell *sh, FILE *f, const char *name)
{
    struct script me;
    char where[sizeof sh->out.where];
    int interactive = sh->interactive;
    if (may_run(sh, &me, f, name))
        return -1;
    memcpy(where, sh->out.where, sizeof where);
    sh->script = &me;
    sh->interactive = 0;                   /* what is abbreviated today is ambiguous tomorrow */
    int failed = run_lines(sh, f, name);
    sh->interactive = interactive;
    memcpy(sh->out.where, where, sizeof where);
    sh->script = me.outer;
    return failed;
}

int handle_source(struct shell *sh, const struct args *a)
{
    char err[512];
    FILE *f = path_open(a->text[0], err, sizeof err);
    if (!f)
        return render_error(&sh->out, "%s", err);
    int failed = shell_script(sh, f, a->text[0]);
    fclose(f);
    return failed;
}

/* ---- the rc file ---- */

/* "name = value" or "name value" */
static int rc_setting(struct shell *sh, char *line)
{
    size_t n = strcspn(line, " \t=");
    char *value = line + n + strspn(line + n, " \t");
    value += *value == '=';
    value += strspn(value, " \t");
    line[n] = '\0';
    size_t len = strlen(value);
    int var = var_find(line, 0);
    if (len > 1 && (*value == '"' || *value == '\'') && value[len - 1] == *value &&
        (var < 0 || var_defs[var].type != VAR_LIST || len == 2)) {
        value[len - 1] = '\0';
        return set_named(sh, line, 0, value + 1);
    }
    if (!*value)
        return render_error(&sh->out, "%.60s is given no value; \"\" is an empty one", line);
    return set_named(sh, line, 0, value);
}

void shell_rc(struct shell *sh)
{
    char *path = path_rc(), *line = NULL;
    FILE *f = path ? fopen(path, "re") : NULL;
    size_t cap = 0;
    ssize_t len;
    int interactive = sh->interactive;
    if (path && !f && errno != ENOENT && errno != ENOTDIR)
        render_error(&sh->out, "%s cannot be read: %s", path, strerror(errno));
    sh->interactive = 0;
    sh->in_rc = sh->out.hush = 1;
    for (unsigned long n = 1; f && !sh->quit && (len = next_line(f, &line, &cap)) >= 0; n++) {
        char *text = line + strspn(line, " \t");
        for (size_t end = strlen(text); end && strchr(" \t", text[end - 1]); end--)
            text[end - 1] = '\0';
        snprintf(sh->out.where, sizeof sh->out.where, "%.120s:%lu", path, n);
        if (*text == '/')
            shell_line(sh, text, strlen(text));
        else if (*text && *text != '#')
            rc_setting(sh, text);
    }
    if (f && ferror(f))
        render_error(&sh->out, "%s cannot be read: %s", path, strerror(errno));
    sh->in_rc = sh->out.hush = 0;
    sh->interactive = interactive;
    sh->out.where[0] = '\0';
    free(line);
    free(path);
    if (f)
        fclose(f);
}

/* ---- /output, /echo ---- */

int output_end(struct shell *sh)
{
    if (!sh->output)
        return 0;
    int lost = render_failed(&sh->out), failed = 0;
    dup2(sh->old_stdout, STDOUT_FILENO);
    close(sh->old_stdout);
    if (lost)
        __fpurge(stdout);                  /* what the file refused is not for the terminal */
    clearerr(stdout);
    sh->out.lost = 0;
    render_redirected(&sh->out);
    if (lost)
        failed = render_error(&sh->out, "not all results could be written to %s: %s", sh->output, strerror(lost));
    else
        render_event(&sh->out, "status", NULL, "results no longer go to %s", sh->output);
    free(sh->output);
    sh->output = NULL;
    return failed;
}

/* The descriptor is exchanged, so that nothing that prints has to know.  At the end of the
 * file: what others put there, and an earlier run, is never lost, and the file can be
 * watched while it grows. */
int handle_output(struct shell *sh, const struct args *a)
{
    const char *name = a->text[0];
    if (!name && !sh->output)
        render_event(&sh->out, "status", NULL, "results go to no file; /output FILE makes them");
    if (!name)
        return output_end(sh);
    if (save_is_one(name))
        return render_error(&sh->out, "%s is a saved session, which results behind it would spoil; choose another "
                            "file; results go where they went", name);
    int fd = open(name, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC | O_NONBLOCK, 0666);  /* no wait for a pipe's reader */
    char *copy = strdup(name);
    if (fd < 0 || !copy) {
        int why = fd < 0 ? errno : ENOMEM;
        free(copy);
        if (fd >= 0)
            close(fd);
        return render_error(&sh->out, "%s cannot be written: %s; results go where they went", name, strerror(why));
    }
    fcntl(fd, F_SETFL, O_APPEND);
    int failed = output_end(sh);
    render_event(&sh->out, "status", NULL, "results go to the end of %s; /output alone stops that", name);
    fflush(stdout);
    sh->old_stdout = fcntl(STDOUT_FILENO, F_DUPFD_CLOEXEC, 3);
    if (sh->old_stdout < 0 || dup2(fd, STDOUT_FILENO) < 0) {
        failed = render_error(&sh->out, "%s cannot be written: %s", name, strerror(errno));
        if (sh->old_stdout >= 0)
            close(sh->old_stdout);
        free(copy);
    } else {
        sh->output = copy;
    }
    close(fd);
    render_redirected(&sh->out);
    return failed;
}

int handle_echo(struct shell *sh, const struct args *a)
{
    render_line(&sh->out, a->text[0] ? a->text[0] : "");
    return 0;
}
