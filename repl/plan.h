/* repl/plan.h -- "dbrx inspect --plan": where a backend would put a checkpoint. */
#ifndef DBRX_REPL_PLAN_H
#define DBRX_REPL_PLAN_H

#include "backends/model/checkpoint.h"

/* spec: BACKEND[:K=V,...].  Prints the plan (json: an object a line), loads nothing.  0, or 1 and a
 * sentence on stderr. */
int plan_print(const struct ckpt *, const char *spec, int json);

#endif
