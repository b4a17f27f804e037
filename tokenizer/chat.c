/* tokenizer/chat.c -- ChatML: messages to ids, and what a checkpoint says of its chat form.
 *
 * The template of a checkpoint is a Jinja program; only one thing is read from it, the
 * default system prompt.  Knows nothing of how text is encoded. */
#include "tokenizer/chat.h"

#include "tokenizer/pretok.h"
#include "tokenizer/tok.h"
#include "tokenizer/utf8.h"

#include <ctype.h>
#include <limits.h>
#include <stdlib.h>

/* ------------------------------------------------------------------ what the checkpoint says */

/* tokenizer_config.json's chat_template: a string, or a list of named ones. */
static const char *find_template(const cJSON *config)
{
    const cJSON *j = cJSON_GetObjectItemCaseSensitive(config, "chat_template"), *e;
    if (cJSON_IsString(j))
        return j->valuestring;
    cJSON_ArrayForEach(e, j) {
        const char *name = json_string(e, "name");
        if (name && strcmp(name, "default") == 0)
            return json_string(e, "template");
    }
    return NULL;
}

static const char *skip_blanks(const char *s)
{
    while (isspace((unsigned char)*s))
        s++;
    return s;
}

/* The string literal at s, unescaped, in new memory; NULL: no literal, empty, or no memory. */
static char *read_literal(const char *s)
{
    char quote = *s++, *copy, *out;
    if ((quote != '\'' && quote != '"') || !(copy = out = malloc(strlen(s) + 1)))
        return NULL;
    for (; *s && *s != quote; s++) {
        if (*s != '\\' || !s[1])
            *out++ = *s;
        else
            *out++ = *++s == 'n' ? '\n' : *s == 't' ? '\t' : *s == 'r' ? '\r' : *s;
    }
    *out = 0;
    if (*s == quote && out > copy)
        return copy;
    free(copy);
    return NULL;
}

/* Whether the template comes to the place `at` when nobody gave a system message.  The
 * condition in front of it may be the setting itself, by name or as the value that was
 * put in its place; any other is about the messages. */
static int is_reached(const char *template, const char *at, int setting)
{
    const char *condition = NULL, *end;
    for (const char *p = template; (p = strstr(p, "{%")) && p < at; p += 2) {
        const char *word = skip_blanks(p + 2 + (p[2] == '-'));
        if (strncmp(word, "if", 2) == 0 || strncmp(word, "elif", 4) == 0)
            condition = word;
        else if (strncmp(word, "else", 4) == 0 || strncmp(word, "endif", 5) == 0)
            condition = NULL;
    }
    if (!condition || !(end = strstr(condition, "%}")))
        return 1;
    for (const char *p = condition; p < end; p++) {
        if (strncmp(p, "use_default_system_prompt", 25) == 0 || strncmp(p, "USE_DEFAULT_PROMPT", 18) == 0)
            return setting;
        if (strncmp(p, "false == true", 13) == 0)
            return 0;
    }
    return 1;
}

/* {% set system_message = '...' %}: what the template says when nobody else does. */
static char *find_default_system(const char *template, int setting)
{
    static const char name[] = "system_message";
    for (const char *p = template; (p = strstr(p, name)); p++) {
        const char *s = skip_blanks(p + strlen(name));
        if (*s != '=' || s[1] == '=' || !is_reached(template, p, setting))
            continue;
        char *literal = read_literal(skip_blanks(s + 1));
        if (literal)
            return literal;
    }
    return NULL;
}

int chat_open(const char *dir, struct chat *c, char *err, size_t errlen)
{
    char path[PATH_MAX];
    memset(c, 0, sizeof *c);
    if (file_path(path, sizeof path, dir, "tokenizer_config.json"))
        return tok_error(err, errlen, "%s: the path is too long", dir);
    if (!file_exists(path))
        return 0;
    cJSON *config = file_json(path, err, errlen);
    if (!config)
        return -1;
    const char *template = find_template(config);
    int setting = cJSON_IsTrue(cJSON_GetObjectItemCaseSensitive(config, "use_default_system_prompt"));
    if (template) {
        c->has_template = 1;
        c->template = strdup(template);
        c->default_system = find_default_system(template, setting);
    }
    cJSON_Delete(config);
    return 0;
}

void chat_read(const char *template, struct chat *c)
{
    memset(c, 0, sizeof *c);
    c->has_template = template != NULL;
    c->template = template ? strdup(template) : NULL;
    c->default_system = template ? find_default_system(template, 0) : NULL;
}

void chat_close(struct chat *c)
{
    free(c->template);
    free(c->default_system);
    memset(c, 0, sizeof *c);
}

/* ------------------------------------------------------------------ messages */

/* The white space that Python's str.strip() takes away. */
static int is_blank(const char *s)
{
    int len;
    uint32_t c = utf8_char((const unsigned char *)s, &len);
    return (c >= 0x1c && c <= 0x1f) || pretok_class(c) == PRETOK_SPACE;
}

static void strip(const char **text, size_t *len)
{
    const char *s = *text, *end = s + *len, *p;
    int n;
    while (s < end && (n = utf8_span((const unsigned char *)s, (size_t)(end - s))) > 0 && is_blank(s))
        s += n;
    while (s < end) {
        for (p = end - 1; p > s && (*p & 0xc0) == 0x80;)
            p--;
        if (utf8_span((const unsigned char *)p, (size_t)(end - p)) != end - p || !is_blank(p))
            break;
        end = p;
    }
    *text = s;
    *len = (size_t)(end - s);
}

static int frame(const struct tok *t, int32_t *start, int32_t *end)
{
    *start = tok_special(t, "<|im_start|>");
    *end = tok_special(t, "<|im_end|>");
    return *start < 0 || *end < 0 ? -2 : 0;
}

int chat_message(const struct tok *t, const char *role, const char *text, size_t len,
                 int first, int mode, struct tok_ids *out)
{
    int32_t start, end;
    size_t before = out->n, n = strlen(role);
    if (frame(t, &start, &end))
        return -2;
    if (strcmp(role, "system") == 0)
        strip(&text, &len);

    /* the reference renders the text, then encodes all of it: role and text are one
     * stretch, or white space at the text's beginning would be cut differently */
    char *body = malloc(n + 1 + len);
    if (!body)
        return -1;
    memcpy(body, role, n);
    body[n] = '\n';
    if (len)
        memcpy(body + n + 1, text, len);
    int rc = (!first && tok_encode(t, "\n", 1, TOK_PLAIN, out)) || tok_ids_push(out, start)
        || tok_encode(t, body, n + 1 + len, mode, out) || tok_ids_push(out, end) ? -1 : 0;
    if (rc)
        out->n = before;
    free(body);
    return rc;
}

int chat_reply(const struct tok *t, struct tok_ids *out)
{
    static const char role[] = "assistant\n";
    int32_t start, end;
    size_t before = out->n;
    if (frame(t, &start, &end))
        return -2;
    if (tok_encode(t, "\n", 1, TOK_PLAIN, out) || tok_ids_push(out, start)
        || tok_encode(t, role, strlen(role), TOK_PLAIN, out)) {
        out->n = before;
        return -1;
    }
    return 0;
}
