/* repl/routefile.h -- the routing of tokens, for other programs: JSON, CSV and .npz.
 * What is in them is documented in docs/routing.md.  Knows no command. */
#ifndef DBRX_REPL_ROUTEFILE_H
#define DBRX_REPL_ROUTEFILE_H

#include "repl/routing.h"

#include <cjson/cJSON.h>

struct shell;

enum { ROUTE_PROB = 1, ROUTE_LOGIT = 2 };
/* {"layer":...,"expert":[...],...} of token i; `with`: ROUTE_*, all experts' numbers too */
cJSON *route_layer_json(const struct routing *, uint32_t layer, uint32_t i, int with);
/* {"pos":...,"id":...,"text":...} of token i, which is `id` */
cJSON *route_token_json(const struct shell *, const struct routing *, uint32_t i, int32_t id);

enum route_format { ROUTE_JSONL, ROUTE_CSV, ROUTE_NPZ, ROUTE_NO_FORMAT };
/* By the end of the name. */
enum route_format route_format(const char *path);
/* Where `tok` (all if NULL) says so, the tokens id[r->n] of r, which has probabilities.  The file
 * is whole or not there.  0, or an errno; ECANCELED: the user did not want to wait. */
int route_write(const char *path, enum route_format, struct shell *, const struct routing *r,
                const int32_t *id, const uint8_t *tok);

#endif
