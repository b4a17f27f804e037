/* repl/prompts.c -- see prompts.h. */
#define _GNU_SOURCE
#include "repl/prompts.h"

#include "repl/shell.h"

#include <string.h>

static int no_memory(struct shell *sh)
{
    return render_error(&sh->out, "out of memory");
}

/* The system message of the settings, if there is one; 0 or -1 */
static int add_system(struct shell *sh, struct tok_ids *ids)
{
    const char *system = sh->vars.v[VAR_SYSTEM].text;
    return *system ? reply_message(sh, "system", system, strlen(system), ids) : 0;
}

static int chat_ids(struct shell *sh, const cJSON *messages, struct tok_ids *ids)
{
    const cJSON *m;
    if (!cJSON_IsArray(messages) || !messages->child)
        return render_error(&sh->out, "\"messages\" is no list of messages");
    const char *first = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(messages->child, "role"));
    if (first && strcmp(first, "system") && add_system(sh, ids))
        return -1;
    cJSON_ArrayForEach(m, messages) {
        const char *role = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(m, "role"));
        const char *text = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(m, "content"));
        if (!role || !text || (strcmp(role, "system") && strcmp(role, "user") && strcmp(role, "assistant")))
            return render_error(&sh->out, "a message needs \"content\" and a \"role\": system, user or assistant");
        if (reply_message(sh, role, text, strlen(text), ids))
            return -1;
    }
    return chat_reply(sh->tok, ids) ? no_memory(sh) : 0;
}

static int plain_ids(struct shell *sh, const cJSON *tokens, struct tok_ids *ids)
{
    uint32_t n_vocab = sh->ckpt->desc.config.n_vocab;
    const cJSON *t;
    if (!cJSON_IsArray(tokens) || !tokens->child)
        return render_error(&sh->out, "\"tokens\" is no list of token ids");
    cJSON_ArrayForEach(t, tokens) {
        if (!cJSON_IsNumber(t) || !(t->valuedouble >= 0 && t->valuedouble < n_vocab) ||
            t->valuedouble != (double)(int32_t)t->valuedouble)
            return render_error(&sh->out, "\"tokens\" has something that is no token id (0 to %u)", n_vocab - 1);
        if (tok_ids_push(ids, (int32_t)t->valuedouble))
            return no_memory(sh);
    }
    return 0;
}

int prompt_ids(struct shell *sh, const char *line, size_t len, const cJSON *j, struct tok_ids *ids, int *chat)
{
    const cJSON *messages = cJSON_GetObjectItemCaseSensitive(j, "messages");
    const cJSON *tokens = cJSON_GetObjectItemCaseSensitive(j, "tokens");
    const cJSON *prompt = cJSON_GetObjectItemCaseSensitive(j, "prompt");
    const char *text = cJSON_GetStringValue(prompt);
    *chat = !tokens && (messages != NULL || sh->vars.v[VAR_MODE].num == MODE_CHAT);
    if (memmem(line, len, "\\u0000", 6))   /* cJSON would end the text there */
        return render_error(&sh->out, "it has a NUL character (\\u0000), which a prompt here cannot have");
    if (!messages + !tokens + !prompt != 2 || (prompt && (!text || !*text)))
        return render_error(&sh->out, "it needs \"prompt\", some text, or \"messages\", or \"tokens\"");
    if (tokens)
        return plain_ids(sh, tokens, ids);
    if (!sh->tok)
        return render_error(&sh->out, "prompts need a tokenizer: %s; \"tokens\" needs none", sh->tok_why);
    if (messages)
        return chat_ids(sh, messages, ids);
    if (!*chat)
        return tok_encode(sh->tok, text, strlen(text), TOK_PLAIN, ids) ? no_memory(sh) : 0;
    if (add_system(sh, ids) || reply_message(sh, "user", text, strlen(text), ids))
        return -1;
    return chat_reply(sh->tok, ids) ? no_memory(sh) : 0;
}

char *prompt_id(struct shell *sh, const cJSON *j, unsigned long number)
{
    const cJSON *id = cJSON_GetObjectItemCaseSensitive(j, "id");
    cJSON *own = id ? NULL : cJSON_CreateNumber((double)number);
    char *text = cJSON_IsString(id) || cJSON_IsNumber(id) ? cJSON_PrintUnformatted(id)
               : own ? cJSON_PrintUnformatted(own) : NULL;
    cJSON_Delete(own);
    if (!text)
        render_error(&sh->out, id ? "its \"id\" is neither text nor a number" : "out of memory");
    return text;
}
