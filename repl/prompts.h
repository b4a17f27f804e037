/* repl/prompts.h -- one line of a file of prompts, {"prompt": TEXT}, {"messages": [...]} or
 * {"tokens": [IDS]}, as the token ids that the model gets.  Knows no file. */
#ifndef DBRX_REPL_PROMPTS_H
#define DBRX_REPL_PROMPTS_H

#include "tokenizer/tokenizer.h"

#include <cjson/cJSON.h>
#include <stddef.h>

struct shell;

/* The parsed line[len]; the settings mode and system count as they are.  *chat: the reply is
 * that of an assistant.  0, or -1 after saying what is wrong. */
int prompt_ids(struct shell *, const char *line, size_t len, const cJSON *, struct tok_ids *, int *chat);
/* The JSON text of its "id", or of `number` if it has none; NULL after saying that it is
 * neither text nor a number.  cJSON_free() it. */
char *prompt_id(struct shell *, const cJSON *, unsigned long number);

#endif
