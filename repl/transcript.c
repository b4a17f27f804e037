/* repl/transcript.c -- the conversation to read: /transcript, /prompt and /export.
 * The tokens are what is told; messages are read off them. */
#define _GNU_SOURCE
#include "repl/handlers.h"

#include "repl/atomic.h"
#include "repl/commands.h"
#include "repl/save.h"
#include "repl/shell.h"
#include "repl/words.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- messages ---- */

struct message {
    char *role, *text;                     /* valid UTF-8; role "": outside of any message */
    uint32_t from, to;
};

static int add_message(const struct shell *sh, struct message **list, size_t *n, uint32_t from, uint32_t to,
                       int framed)
{
    size_t len;
    const int32_t *id = sh->sess->token;
    char *text = tokens_text(sh, id + from + framed, to - from - (uint32_t)framed, 0, &len);
    struct message *more = text ? realloc(*list, (*n + 1) * sizeof *more) : NULL;
    if (more)
        *list = more;
    char *nl = framed && text ? memchr(text, '\n', len) : NULL, *body = nl ? nl + 1 : text;
    if (!more)
        goto fail;
    struct message m = { text_clean(text, framed ? nl ? (size_t)(nl - text) : len : 0),
                         text_clean(body, framed && !nl ? 0 : len - (size_t)(body - text)), from, to };
    if (!m.role || !m.text) {
        free(m.role);
        free(m.text);
        goto fail;
    }
    (*list)[(*n)++] = m;
    free(text);
    return 0;
fail:
    free(text);
    return -1;
}

static void free_messages(struct message *m, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        free(m[i].role);
        free(m[i].text);
    }
    free(m);
}

/* The timeline cut at its <|im_start|> and <|im_end|>; 0 or -1 */
static int messages(struct shell *sh, struct message **list, size_t *n)
{
    const struct sess *s = sh->sess;
    int32_t start = tok_special(sh->tok, "<|im_start|>"), end = tok_special(sh->tok, "<|im_end|>");
    int bad = 0;
    *list = NULL;
    *n = 0;
    for (uint32_t i = 0, to; i < s->n && !bad; i = to) {
        int framed = start >= 0 && s->token[i] == start;
        for (to = i + 1; to < s->n && s->token[to] != start && !(framed && s->token[to] == end); )
            to++;
        size_t had = *n, len = 0;
        bad = add_message(sh, list, n, i, to, framed);
        if (!bad && !framed && start >= 0) /* the newline between two messages, a stray end */
            for (const char *p = (*list)[had].text; *p; p++)
                len += *p != '\n';
        if (!bad && !framed && had && !len) {
            (*n)--;
            free((*list)[had].role);
            free((*list)[had].text);
        }
        to += framed && to < s->n && s->token[to] == end;
    }
    if (!bad)
        return 0;
    free_messages(*list, *n);
    return render_error(&sh->out, "out of memory");
}

static int has_text(struct shell *sh)
{
    if (!sh->tok)
        return render_error(&sh->out, "text needs a tokenizer: %s.  /transcript --tokens works without",
                            sh->tok_why);
    return 0;
}

/* What was drawn under which steering: [{pos, tokens, steering}], turn by turn */
static cJSON *steered_turns(const struct shell *sh)
{
    const struct branch *b = sh->tree->now;
    cJSON *list = cJSON_CreateArray();
    for (uint32_t i = 0; i < b->n_turns; i++) {
        const struct turn *t = &b->turn[i];
        cJSON *settings = cJSON_Parse(t->settings ? t->settings : "{}");
        const char *text = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(settings, "steering"));
        if (text) {
            cJSON *row = cJSON_CreateObject();
            cJSON_AddItemToArray(list, row);
            cJSON_AddNumberToObject(row, "pos", t->reply);
            cJSON_AddNumberToObject(row, "tokens", t->end - t->reply);
            field_string(row, "steering", text);
        }
        cJSON_Delete(settings);
    }
    return list;
}

/* ... in a sentence, one a line; free() it, NULL: no memory */
static char *steered_text(const struct shell *sh, const char *before)
{
    cJSON *list = steered_turns(sh), *row;
    char *text = NULL;
    size_t size;
    FILE *f = open_memstream(&text, &size);
    cJSON_ArrayForEach(row, list) {
        int pos = cJSON_GetObjectItemCaseSensitive(row, "pos")->valueint;
        int n = cJSON_GetObjectItemCaseSensitive(row, "tokens")->valueint;
        const char *on = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(row, "steering"));
        if (f && n)
            fprintf(f, "%stokens %d to %d were drawn with steering: %s\n", before, pos, pos + n - 1, on ? on : "");
    }
    cJSON_Delete(list);
    return f && !fclose(f) ? text : NULL;
}

/* ---- /transcript ---- */

static cJSON *message_rows(const struct message *m, size_t n)
{
    cJSON *list = cJSON_CreateArray();
    for (size_t i = 0; i < n; i++) {
        cJSON *row = cJSON_CreateObject();
        cJSON_AddItemToArray(list, row);
        cJSON_AddStringToObject(row, "role", m[i].role);
        cJSON_AddStringToObject(row, "text", m[i].text);
        cJSON_AddNumberToObject(row, "pos", m[i].from);
        cJSON_AddNumberToObject(row, "tokens", m[i].to - m[i].from);
    }
    return list;
}

static int transcript_tokens(struct shell *sh)
{
    static const struct column col[] = {
        { "turn", "turn", 1, 0, NULL }, { "part", "part", 0, 0, NULL }, { "pos", "pos", 1, 0, NULL },
        { "id", "id", 1, 0, NULL }, { "backend", "by", 0, 0, NULL }, { "quoted", "text", 0, 0, NULL }, { 0 } };
    static const struct rows rows = { "rows", "transcript_tokens", "rows", col, 0 };
    const struct branch *b = sh->tree->now;
    cJSON *list = cJSON_CreateArray();
    for (uint32_t i = 0, k = 0; i < sh->sess->n; i++) {
        while (k + 1 < b->n_turns && i >= b->turn[k].end)
            k++;
        char *text = token_text(sh, sh->sess->token[i]), *quoted = NULL;
        const char *by = k < b->n_turns ? spans_at(&b->turn[k].by, i) : NULL;
        cJSON *row = cJSON_CreateObject();
        cJSON_AddItemToArray(list, row);
        if (by)
            field_string(row, "backend", by);
        cJSON_AddNumberToObject(row, "turn", k + 1);
        cJSON_AddStringToObject(row, "part", k < b->n_turns && i < b->turn[k].reply ? "prompt" : "reply");
        cJSON_AddNumberToObject(row, "pos", i);
        cJSON_AddNumberToObject(row, "id", sh->sess->token[i]);
        if (text && asprintf(&quoted, "\"%s\"", text) >= 0)
            field_string(row, sh->out.json ? "text" : "quoted", sh->out.json ? text : quoted);
        free(quoted);
        free(text);
    }
    render_rows(&sh->out, &rows, NULL, NULL, list);
    return 0;
}

int handle_transcript(struct shell *sh, const struct args *a)
{
    static const struct rows rows = { "rows", "transcript", "rows", NULL, 0 };
    struct message *m;
    size_t n;
    if (!a->text[0] && (has_text(sh) || messages(sh, &m, &n)))
        return -1;
    if (!sh->sess->n && !sh->out.json)
        render_event(&sh->out, "status", NULL, "the conversation is empty");
    if (a->text[0])
        return transcript_tokens(sh);
    if (sh->out.json) {
        cJSON *head = cJSON_CreateObject();
        cJSON_AddItemToObject(head, "steered", steered_turns(sh));
        render_rows(&sh->out, &rows, NULL, head, message_rows(m, n));
    }
    for (size_t i = 0; i < n && !sh->out.json; i++) {
        if (*m[i].role)
            render_heading(&sh->out, "%s%s:", i ? "\n" : "", m[i].role);
        render_reply(&sh->out, m[i].text, strlen(m[i].text));
        render_reply_end(&sh->out);
    }
    char *steered = sh->out.json ? NULL : steered_text(sh, "");
    if (steered && *steered) {
        steered[strlen(steered) - 1] = '\0';
        render_event(&sh->out, "status", NULL, "%s", steered);
    }
    free(steered);
    free_messages(m, n);
    return 0;
}

/* ---- /prompt ---- */

int handle_prompt(struct shell *sh, const struct args *a)
{
    static const struct rows rows = { "rows", "prompt", "rows", NULL, 0 };
    const struct branch *b = sh->tree->now;
    uint32_t k = b->n_turns;
    size_t len;
    (void)a;
    while (k && b->turn[k - 1].reply == b->turn[k - 1].begin)  /* a /continue sent nothing */
        k--;
    if (!k)
        return render_error(&sh->out, "nothing was sent yet");
    const struct turn *t = &b->turn[k - 1];
    char *text = tokens_text(sh, sh->sess->token + t->begin, t->reply - t->begin, 1, &len);
    char *clean = text ? text_clean(text, len) : NULL, *ids = NULL;
    size_t size;
    FILE *f = open_memstream(&ids, &size);
    for (uint32_t i = t->begin; f && i < t->reply; i++)
        fprintf(f, "%s%d", i > t->begin ? " " : "", sh->sess->token[i]);
    int bad = !f || fclose(f) || !clean;
    if (!bad && sh->out.json) {
        cJSON *head = cJSON_CreateObject(), *list = cJSON_CreateArray();
        cJSON_AddStringToObject(head, "text", clean);
        cJSON_AddNumberToObject(head, "pos", t->begin);
        for (uint32_t i = t->begin; i < t->reply; i++)
            cJSON_AddItemToArray(list, cJSON_CreateNumber(sh->sess->token[i]));
        render_rows(&sh->out, &rows, NULL, head, list);
    } else if (!bad) {
        render_reply(&sh->out, clean, strlen(clean));
        render_reply_end(&sh->out);
        render_heading(&sh->out, "%u token%s at %u:", t->reply - t->begin, t->reply - t->begin == 1 ? "" : "s",
                       t->begin);
        render_paragraph(&sh->out, 0, ids);
    }
    free(ids);
    free(clean);
    free(text);
    return bad ? render_error(&sh->out, "out of memory") : 0;
}

/* ---- /export ---- */

static void put(struct atomic *f, const char *text)
{
    atomic_write(f, text, strlen(text));
}

static void export_text(struct atomic *f, const struct shell *sh, const struct message *m, size_t n, int md)
{
    char *steered = steered_text(sh, "\n> ");
    if (md) {
        put(f, "# ");
        put(f, sh->name);
        put(f, "\n\n");
    }
    for (size_t i = 0; i < n; i++) {
        if (*m[i].role) {
            put(f, md ? "## " : i ? "\n" : "");
            put(f, m[i].role);
            put(f, md ? "\n\n" : ":\n");
        }
        put(f, m[i].text);
        put(f, md && i + 1 < n ? "\n\n" : "\n");
    }
    if (md && steered)                     /* plain text is the conversation, and nothing else */
        put(f, steered);
    free(steered);
}

static void export_json(struct atomic *f, struct shell *sh, const struct message *m, size_t n)
{
    const struct branch *b = sh->tree->now;
    cJSON *all = cJSON_CreateObject();
    cJSON_AddStringToObject(all, "model", sh->name);
    cJSON_AddStringToObject(all, "branch", b->name);
    cJSON_AddItemToObject(all, "messages", message_rows(m, n));
    cJSON *turns = cJSON_AddArrayToObject(all, "turns");
    for (uint32_t i = 0; i < b->n_turns; i++) {
        const struct turn *t = &b->turn[i];
        cJSON *one = cJSON_CreateObject();
        cJSON_AddItemToArray(turns, one);
        cJSON_AddNumberToObject(one, "pos", t->begin);
        cJSON_AddItemToObject(one, "prompt", cJSON_CreateIntArray(sh->sess->token + t->begin,
                                                                  (int)(t->reply - t->begin)));
        cJSON_AddItemToObject(one, "reply", cJSON_CreateIntArray(sh->sess->token + t->reply,
                                                                 (int)(t->end - t->reply)));
        cJSON_AddStringToObject(one, "finish_reason", sess_finish_name(t->finish));
        cJSON_AddNumberToObject(one, "seed", (double)t->seed);
        cJSON_AddItemToObject(one, "made_by", makers_json(&t->by));
        if (t->settings)
            cJSON_AddRawToObject(one, "settings", t->settings);
    }
    char *text = cJSON_Print(all);
    if (text) {
        put(f, text);
        put(f, "\n");
    } else {
        f->error = ENOMEM;
    }
    cJSON_free(text);
    cJSON_Delete(all);
}

int handle_export(struct shell *sh, const struct args *a)
{
    const char *format = a->text[0], *path = a->text[1];
    if (save_is_one(path))
        return render_error(&sh->out, "%s is a saved session, and stays as it is; choose another file", path);
    if (!strcmp(format, "route"))
        return export_route(sh, path, &a->set[2]);
    if (a->text[2])
        return render_error(&sh->out, "/export %s writes the whole conversation; only route takes tokens", format);
    int json = !strcmp(format, "json"), md = !strcmp(format, "md");
    struct message *m;
    struct atomic f;
    size_t n;
    if (!json && !md && strcmp(format, "txt"))
        return render_error(&sh->out, "/export writes md, json, txt or route, not \"%.40s\"", format);
    if (has_text(sh))
        return -1;
    if (!sh->sess->n)
        return render_error(&sh->out, "the conversation is empty; nothing was written");
    if (messages(sh, &m, &n))
        return -1;
    int why = atomic_open(&f, path);
    if (!why) {
        if (json)
            export_json(&f, sh, m, n);
        else
            export_text(&f, sh, m, n, md);
        why = atomic_commit(&f);
    }
    free_messages(m, n);
    if (why)
        return render_error(&sh->out, "%s cannot be written: %s; what was there stays", path, strerror(why));
    cJSON *fields = cJSON_CreateObject();
    field_string(fields, "file", path);
    render_event(&sh->out, "status", fields, "wrote the transcript to %s", path);
    return 0;
}
