/* repl/edit.c -- prompts that are not typed: /read takes a file, /edit what an editor saved. */
#define _GNU_SOURCE
#include "repl/shell.h"

#include "repl/commands.h"
#include "repl/handlers.h"
#include "repl/line.h"
#include "repl/paths.h"
#include "repl/signals.h"
#include "repl/words.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

char *read_whole(struct shell *sh, FILE *f, const char *name, size_t *size)
{
    char *text = NULL;
    size_t len = 0, cap = 0;
    for (size_t n = 1; n; len += n) {
        if (cap - len < 4096) {
            char *more = len < TEXT_MOST ? realloc(text, cap = 2 * cap + 65536) : NULL;
            if (!more) {
                render_error(&sh->out, len < TEXT_MOST ? "%s does not fit into memory" : "%s is longer than 1 GiB", name);
                free(text);
                return NULL;
            }
            text = more;
        }
        n = fread(text + len, 1, cap - len - 1, f);
    }
    if (ferror(f) && !signals_fatal()) {
        render_error(&sh->out, "%s cannot be read: %s", name, strerror(errno));
        free(text);
        return NULL;
    }
    if (len && text[len - 1] == '\n')
        len -= len > 1 && text[len - 2] == '\r' ? 2 : 1;
    text[len] = '\0';
    *size = len;
    return text;
}

char *read_named(struct shell *sh, const char *name, size_t *len)
{
    char err[512];
    FILE *f = path_open(name, err, sizeof err);
    if (!f) {
        render_error(&sh->out, "%s", err);
        return NULL;
    }
    char *text = read_whole(sh, f, name, len);
    fclose(f);
    return text;
}

int handle_read(struct shell *sh, const struct args *a)
{
    const char *name = a->text[0];
    size_t len;
    char *text = read_named(sh, name, &len);
    if (!text)
        return -1;
    int failed = len ? shell_prompt(sh, text, len)
                     : render_error(&sh->out, "%s holds no text; nothing was sent", name);
    free(text);
    return failed;
}

/* ---- /edit ---- */

/* The editor on that file, at the terminal, whatever /output says; 0 or -1 */
static int run_editor(struct shell *sh, const char *editor, const char *path)
{
    char *command;
    if (asprintf(&command, "%s \"$DBRX_EDIT\" >&2", editor) < 0 || setenv("DBRX_EDIT", path, 1))
        return render_error(&sh->out, "out of memory");
    int was_quiet = line_give_back();
    int status = system(command);          /* it keeps Ctrl-C from us meanwhile; NOLINT(cert-env33-c) */
    if (was_quiet)
        line_quiet();
    unsetenv("DBRX_EDIT");
    free(command);
    if (status == -1)
        return render_error(&sh->out, "no editor could be started: %s", strerror(errno));
    if (WIFEXITED(status) && WEXITSTATUS(status) == 127)
        return render_error(&sh->out, "the editor \"%s\" was not found; set $VISUAL or $EDITOR to one that is", editor);
    return status ? render_error(&sh->out, "the editor \"%s\" failed; nothing was sent", editor) : 0;
}

static char *edited(struct shell *sh, const char *editor, const char *start, size_t *len)
{
    char *path, *text = NULL;
    if (asprintf(&path, "%s/dbrx-XXXXXX.txt", path_temp()) < 0) {
        render_error(&sh->out, "out of memory");
        return NULL;
    }
    int fd = mkostemps(path, 4, O_CLOEXEC);
    FILE *f = fd < 0 ? NULL : fdopen(fd, "w");
    int bad = !f || fputs(start, f) < 0 || (*start && putc('\n', f) < 0);
    if (f && fclose(f))
        bad = 1;
    if (bad) {
        render_error(&sh->out, "%s cannot be written: %s", path, strerror(errno));
    } else if (!run_editor(sh, editor, path)) {
        f = fopen(path, "re");             /* many editors put a new file in its place */
        if (f)
            text = read_whole(sh, f, path, len);
        else
            render_error(&sh->out, "%s is gone; nothing was sent", path);
        if (f)
            fclose(f);
    }
    if (fd >= 0)
        unlink(path);
    free(path);
    return text;
}

int handle_edit(struct shell *sh, const struct args *a)
{
    const char *editor = path_editor(), *start = a->text[0] && sh->last_prompt ? sh->last_prompt : "";
    size_t len = 0;
    int failed = 0;
    if (!editor)
        return render_error(&sh->out, "no editor is known: set $VISUAL or $EDITOR, as in EDITOR=nano dbrx");
    if (a->text[0] && !sh->last_prompt)
        return render_error(&sh->out, "there is no last prompt yet; /edit begins a new one");
    char *text = edited(sh, editor, start, &len);
    if (!text)
        return -1;
    if (strspn(text, " \t\r\n") == len) {
        render_event(&sh->out, "status", NULL, "the text is empty; nothing was sent");
    } else if (*start && !strcmp(text, start)) {
        render_event(&sh->out, "status", NULL, "the text is unchanged; nothing was sent");
    } else {
        render_aside(&sh->out, "%s", text);            /* the editor took it off the screen */
        shell_remember(text, 1);
        failed = shell_prompt(sh, text, len);
    }
    free(text);
    return failed;
}
