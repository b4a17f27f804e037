/* repl/keep.c -- a conversation at a terminal is kept as it goes on: after every line with
 * something new, all of it goes to a file in the state folder, so that a kill, a crash or a
 * dead terminal costs at most the reply in progress.  A file a session, for two at once and
 * for the next one, which must not take the place of what was just lost; the latest KEPT
 * files stay.  Their names end in the checkpoint, so that /load alone finds its own.
 * Scripts keep nothing.  The file is save.c's. */
#define _GNU_SOURCE
#include "repl/shell.h"

#include "repl/paths.h"

#include <dirent.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { KEPT = 32 };

static int ends_with(const char *name, const char *end)
{
    size_t n = strlen(name), k = strlen(end);
    return n >= k && !strcmp(name + n - k, end);
}

/* The name's end: which checkpoint the conversation is with */
static void name_end(const struct shell *sh, char end[16])
{
    const uint8_t *f = sh->ckpt->desc.fingerprint;
    snprintf(end, 16, "-%02x%02x%02x%02x.dbrx", f[0], f[1], f[2], f[3]);
}

static int before(const struct stat *a, const struct stat *b)
{
    return a->st_mtim.tv_sec != b->st_mtim.tv_sec ? a->st_mtim.tv_sec < b->st_mtim.tv_sec
                                                  : a->st_mtim.tv_nsec < b->st_mtim.tv_nsec;
}

/* The latest or the oldest of the files whose names end so, but `not`; NULL: none.  *n: how
 * many there are. */
static char *find(const char *end, int oldest, const char *not, size_t *n, struct stat *at)
{
    char *folder = path_state("kept/"), *best = NULL, *path;
    DIR *d = folder ? opendir(folder) : NULL;
    struct stat st;
    *n = 0;
    for (struct dirent *e; d && (e = readdir(d)); ) {
        if (!ends_with(e->d_name, end) || asprintf(&path, "%s%s", folder, e->d_name) < 0)
            continue;
        int is = !lstat(path, &st) && S_ISREG(st.st_mode) && !(not && !strcmp(path, not));
        *n += (size_t)is;
        if (is && (!best || before(&st, at) == oldest)) {
            free(best);
            best = path;
            *at = st;
        } else {
            free(path);
        }
    }
    if (d)
        closedir(d);
    free(folder);
    return best;
}

char *shell_kept(const struct shell *sh, int any, struct stat *st)
{
    char end[16];
    size_t n;
    name_end(sh, end);
    return find(any ? ".dbrx" : end, 0, sh->kept, &n, st);
}

/* What this session's file is called; the oldest make room for it, and so do pieces that a kill
 * while writing left. */
static char *own_file(const struct shell *sh)
{
    char name[64], when[32], end[16], *oldest;
    time_t now = time(NULL);
    struct stat st;
    size_t n;
    while ((oldest = find("", 1, NULL, &n, &st)) && n >= KEPT && !unlink(oldest))
        free(oldest);
    free(oldest);
    name_end(sh, end);
    strftime(when, sizeof when, "%Y%m%d-%H%M%S", localtime(&now));
    snprintf(name, sizeof name, "kept/%s-%ld%s", when, (long)getpid(), end);
    return path_state(name);
}

/* 0, or -1 and a sentence in err */
static int keep(struct shell *sh, char *err, size_t size)
{
    if (!sh->kept && !(sh->kept = own_file(sh))) {
        snprintf(err, size, "there is no folder for it, $HOME is not set");
        return -1;
    }
    if (shell_write(sh, sh->kept, 0, err, size)) {
        err[strcspn(err, ";")] = '\0';     /* that nothing was written is said in our words */
        return -1;
    }
    sh->kept_said = sh->tree->said;
    return 0;
}

void shell_keep(struct shell *sh)
{
    char err[512];
    if (!sh->interactive || sh->tree->said == sh->kept_said || sh->tree->said == sh->saved)
        return;
    if (!keep(sh, err, sizeof err) || sh->keep_failed)
        return;
    sh->keep_failed = 1;                   /* once is enough */
    render_event(&sh->out, "status", NULL, "the conversation is not kept as it goes on: %s; /save FILE saves it", err);
}

void shell_keep_end(struct shell *sh)
{
    char err[512];
    struct dbrx_error ignored;
    if (sh->tree->said == sh->saved)
        return;
    tree_keep_undone(sh->tree, &ignored);  /* a file has no redo */
    if (keep(sh, err, sizeof err))
        render_error(&sh->out, "the conversation was not saved: %s", err);
    else
        render_event(&sh->out, "status", NULL, "the conversation is kept in %s; /load goes on with it", sh->kept);
}
