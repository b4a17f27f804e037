/* repl/paths.h -- where modules, the bundled model, history and rc file live; the editor.
 *
 * With main.c and render.c the only place that reads the environment.  Nothing is ever
 * looked for in the current directory. */
#ifndef DBRX_REPL_PATHS_H
#define DBRX_REPL_PATHS_H

#include <stddef.h>
#include <stdio.h>

/* Directories to scan for modules, colon-separated, in this order: `option` (--module-path,
 * may be NULL), $DBRX_MODULE_PATH, then modules/ beside the executable (a build tree),
 * else the installed directory.  free() it; NULL: out of memory. */
char *path_modules(const char *option);

/* models/nano beside the executable, else the installed one.  free() it. */
char *path_default_model(void);

/* What a user typed: "~" or "~/..." in $HOME, anything else as it is.  free() it. */
char *path_typed(const char *path);

/* For reading, what a line named.  A regular file: a pipe or a terminal could be waited for
 * without end.  NULL and a sentence. */
FILE *path_open(const char *path, char *err, size_t size);

/* A file in the XDG state folder, the folder created; NULL when there can be none.  free() it. */
char *path_state(const char *file);

/* The rc file in the XDG config folder, whether it exists or not.  free() it; NULL: none. */
char *path_rc(void);

/* $VISUAL or $EDITOR, or NULL; where a file for it can be put. */
const char *path_editor(void);
const char *path_temp(void);

#endif
