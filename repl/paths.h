/* repl/paths.h -- where installed and in-place files are. */
#ifndef DBRX_PATHS_H
#define DBRX_PATHS_H

const char *path_default_model(void);      /* the bundled model's directory, or NULL */

#endif
