/* repl/trial.h -- an unknown module is tried in a process of its own before it comes into this one.
 *
 * There it is loaded, its tables are looked at, and a backend is asked whether it can run here.
 * If that process dies, the shell does not.  What went well is remembered by the module's content,
 * in the state folder, and not tried again.  A guard against accidents: a module is code, and
 * who loads one trusts it. */
#ifndef DBRX_REPL_TRIAL_H
#define DBRX_REPL_TRIAL_H

#include <stddef.h>

/* For modules_scan().  0: it may be loaded; -1 and one sentence why not. */
int trial_module(const char *path, char *why, size_t size);

#endif
