/* repl/batch.c -- many prompts, one after another, and what to do after a kill.  See batch.h.
 *
 * Each result is one line, written in one piece, also that of a prompt that failed.  When the
 * same command runs again, what a kill tore off is cut away, what failed is tried again, and
 * other ids that are there are not drawn again. */
#define _GNU_SOURCE
#include "repl/batch.h"

#include "repl/atomic.h"
#include "repl/idset.h"
#include "repl/prompts.h"
#include "repl/shell.h"
#include "repl/signals.h"
#include "repl/words.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

struct batch {
    struct shell *sh;
    int fd;                                /* where results go                            */
    struct idset done, seen;               /* ids in the output; in the input so far      */
    unsigned long line, total, drawn, skipped, failed;
};

/* ---- what the output holds already ---- */

static char *id_text(const cJSON *id)
{
    return cJSON_IsString(id) || cJSON_IsNumber(id) ? cJSON_PrintUnformatted(id) : NULL;
}

/* The file without the lines of what failed, whole at any moment; 0 or -1 */
static int drop_failures(struct batch *b, FILE *f, const char *name)
{
    char *line = NULL;
    size_t cap = 0;
    ssize_t len;
    struct atomic kept;
    rewind(f);
    int why = atomic_open(&kept, name);
    while (!why && (len = getline(&line, &cap, f)) > 0) {
        cJSON *j = cJSON_ParseWithLength(line, (size_t)len);
        if (!cJSON_HasObjectItem(j, "error"))
            atomic_write(&kept, line, (size_t)len);
        cJSON_Delete(j);
    }
    if (!why && !feof(f))                  /* half of it is nothing to put in its place */
        kept.error = ENOMEM;
    why = why ? why : atomic_commit(&kept);
    free(line);
    int fd = why ? -1 : open(name, O_RDWR | O_CLOEXEC);
    if (fd < 0)
        return render_error(&b->sh->out, "%s cannot be written: %s", name, strerror(why ? why : errno));
    close(b->fd);
    b->fd = fd;
    return lseek(fd, 0, SEEK_END) < 0 ? -1 : 0;
}

/* Reads our own results, cuts a torn last line and what failed, which is tried again; 0 or -1 */
static int resume(struct batch *b, const char *name)
{
    static const char begin[] = "{\"id\":";
    struct render *out = &b->sh->out;
    char *line = NULL;
    size_t cap = 0;
    ssize_t len;
    off_t good = 0;
    int failed = 0, failures = 0;
    unsigned long n = 0;
    int copy = dup(b->fd);
    FILE *f = copy < 0 ? NULL : fdopen(copy, "r");
    if (!f) {
        if (copy >= 0)
            close(copy);
        return render_error(out, "%s cannot be read: %s", name, strerror(errno));
    }
    while (!failed && (len = getline(&line, &cap, f)) > 0) {
        size_t head = (size_t)len < sizeof begin - 1 ? (size_t)len : sizeof begin - 1;
        n++;
        if (line[len - 1] != '\n' && !memcmp(line, begin, head))
            break;                         /* torn */
        cJSON *j = line[len - 1] == '\n' ? cJSON_ParseWithLength(line, (size_t)len) : NULL;
        char *id = id_text(cJSON_GetObjectItemCaseSensitive(j, "id"));
        int failure = cJSON_HasObjectItem(j, "error");
        if (!id)
            failed = render_error(out, "line %lu of %s is no result of a batch; nothing was touched: choose "
                                  "another file with --out", n, name);
        else if (!failure && idset_add(&b->done, id) < 0)
            failed = render_error(out, "out of memory");
        failures += failure;
        good += len;
        cJSON_free(id);
        cJSON_Delete(j);
    }
    if (!failed && ferror(f))
        failed = render_error(out, "%s cannot be read: %s", name, strerror(errno));
    free(line);
    if (!failed && (ftruncate(b->fd, good) || lseek(b->fd, good, SEEK_SET) < 0))
        failed = render_error(out, "%s cannot be written: %s", name, strerror(errno));
    if (!failed && failures)
        failed = drop_failures(b, f, name);
    fclose(f);
    return failed;
}

static int open_out(struct batch *b, const char *name)
{
    struct stat st;
    b->fd = STDOUT_FILENO;
    if (!name)
        return 0;
    b->fd = open(name, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (b->fd < 0 || fstat(b->fd, &st))
        return render_error(&b->sh->out, "%s cannot be written: %s", name, strerror(errno));
    if (S_ISREG(st.st_mode))
        return resume(b, name);
    return 0;
}

/* ---- one line ---- */

/* "settings": {"temperature": 0.5, ...} over the ones here; 0 or -1 */
static int apply(struct batch *b, const cJSON *settings)
{
    const cJSON *v;
    char text[64], err[512];
    if (settings && !cJSON_IsObject(settings))
        return render_error(&b->sh->out, "\"settings\" is no object");
    cJSON_ArrayForEach(v, settings) {
        int var = var_find(v->string, 0);
        if (cJSON_IsNumber(v))
            snprintf(text, sizeof text, "%.17g", v->valuedouble);
        if (var < 0 || var == VAR_THREADS)
            return render_error(&b->sh->out, "there is no setting \"%.60s\" for a prompt", v->string);
        if (!cJSON_IsNumber(v) && !cJSON_IsString(v))
            return render_error(&b->sh->out, "setting \"%.60s\" is neither text nor a number", v->string);
        if (vars_set(&b->sh->vars, var, cJSON_IsNumber(v) ? text : v->valuestring, FROM_SESSION, err, sizeof err))
            return render_error(&b->sh->out, "%s", err);
    }
    return shell_constrain(b->sh, err, sizeof err) ? render_error(&b->sh->out, "%s", err) : 0;
}

/* In one write where the system lets us: a kill leaves whole lines, but perhaps for the last.
 * Takes the object. */
static int put_line(struct batch *b, cJSON *j)
{
    char *line = cJSON_PrintUnformatted(j);
    size_t len = line ? strlen(line) : 0;
    cJSON_Delete(j);
    if (!line)
        return render_error(&b->sh->out, "out of memory");
    line[len++] = '\n';                    /* in place of the NUL */
    for (size_t at = 0; at < len; ) {
        ssize_t n = write(b->fd, line + at, len - at);
        if (n < 0 && errno != EINTR) {
            render_error(&b->sh->out, "the results cannot be written: %s", strerror(errno));
            cJSON_free(line);
            return -1;
        }
        at += n > 0 ? (size_t)n : 0;
    }
    cJSON_free(line);
    return 0;
}

static int put_result(struct batch *b, const char *id, const struct said *said)
{
    const struct sess *s = b->sh->sess;
    const struct turn *t = tree_last(b->sh->tree);
    cJSON *j = cJSON_CreateObject();
    cJSON_AddRawToObject(j, "id", id);
    field_text(j, "text", said->text ? said->text : "", said->len);
    cJSON_AddItemToObject(j, "tokens", cJSON_CreateIntArray(s->token + t->reply, (int)(t->end - t->reply)));
    cJSON_AddStringToObject(j, "finish_reason", sess_finish_name(said->why));
    cJSON_AddNumberToObject(j, "seed", (double)t->seed);
    cJSON_AddNumberToObject(j, "prompt_tokens", t->reply - t->begin);
    field_real(j, "prompt_seconds", s->last.prompt_s);
    cJSON_AddItemToObject(j, "made_by", makers_json(&t->by));
    field_real(j, "seconds", s->last.gen_s);
    return put_line(b, j);
}

/* A line that failed leaves one as well, or nobody could tell it from one that is yet to come */
static int put_failure(struct batch *b, const char *id, const char *why)
{
    cJSON *j = cJSON_CreateObject();
    if (id)
        cJSON_AddRawToObject(j, "id", id);
    else
        cJSON_AddNumberToObject(j, "id", (double)b->line);
    field_string(j, "error", why);
    cJSON_AddNumberToObject(j, "line", (double)b->line);
    return put_line(b, j);
}

/* The conversation of the line before is forgotten, not kept */
static int start_anew(struct shell *sh)
{
    struct dbrx_error err;
    sess_truncate(sh->sess, 0);
    dbrx_status st = tree_settle(sh->tree, &err);
    shell_reseed(sh);
    return st == DBRX_OK ? 0 : shell_failed(sh, st, &err);
}

enum outcome { DRAWN, SKIPPED, FAILED, INTERRUPTED };

/* The reply to one line; FAILED after saying why.  id: NULL if it has none that can be used */
static enum outcome draw_line(struct batch *b, const char *line, size_t len, const cJSON *j, const char *id,
                              struct said *said)
{
    struct shell *sh = b->sh;
    struct vars was;
    struct tok_ids ids = { 0 };
    int chat, again = id ? idset_add(&b->seen, id) : 0;
    if (!id)
        return FAILED;
    if (again) {
        render_error(&sh->out, again < 0 ? "out of memory" : "its id %.60s was there before", id);
        return FAILED;
    }
    if (idset_has(&b->done, id))
        return SKIPPED;
    if (vars_copy(&was, &sh->vars)) {
        render_error(&sh->out, "out of memory");
        return FAILED;
    }
    int failed = apply(b, cJSON_GetObjectItemCaseSensitive(j, "settings")) || start_anew(sh) ||
                 prompt_ids(sh, line, len, j, &ids, &chat) || reply_prompt(sh, &ids, chat) || reply_draw(sh, 1, said);
    vars_free(&sh->vars);
    sh->vars = was;
    free(ids.id);
    return failed ? signals_stop() ? INTERRUPTED : FAILED
         : said->why == SESS_STOPPED ? INTERRUPTED : DRAWN;
}

/* One line, one result; an interrupted one has none, and is drawn when the same command runs
 * again.  0, or -1: there is no point in going on */
static int run_line(struct batch *b, const char *line, size_t len)
{
    struct render *out = &b->sh->out;
    char why[512] = "";
    struct said said = { 0 };
    int stop = 0;
    cJSON *j = cJSON_ParseWithLength(line, len);
    out->quiet = why;                      /* what is wrong goes into the result, too */
    out->quiet_size = sizeof why;
    if (!cJSON_IsObject(j))
        render_error(out, "it is no JSON object");
    char *id = cJSON_IsObject(j) ? prompt_id(b->sh, j, b->line) : NULL;
    enum outcome what = draw_line(b, line, len, j, id, &said);
    out->quiet = NULL;
    if (*why && what != INTERRUPTED)
        render_error(out, "%s", why);
    b->failed += what == FAILED;
    b->skipped += what == SKIPPED;
    if (what == DRAWN)
        b->drawn += !(stop = put_result(b, id, &said));
    else if (what == FAILED)
        stop = put_failure(b, id, why);
    free(said.text);
    cJSON_free(id);
    cJSON_Delete(j);
    return stop;
}

/* ---- all of them ---- */

unsigned long batch_lines(FILE *f)
{
    unsigned long n = 0;
    int c, last = '\n';
    struct stat st;
    if (fstat(fileno(f), &st) || !S_ISREG(st.st_mode))
        return 0;
    while ((c = getc_unlocked(f)) != EOF) {
        n += c == '\n';
        last = c;
    }
    rewind(f);
    return n + (last != '\n');
}

int batch_run(struct shell *sh, const char *in, const char *out)
{
    struct batch b = { .sh = sh, .fd = -1 };
    char *line = NULL;
    size_t cap = 0;
    ssize_t len;
    int stop = 0;
    if (!sh->tok)
        return render_error(&sh->out, "prompts need a tokenizer: %s", sh->tok_why);
    FILE *f = !strcmp(in, "-") ? stdin : fopen(in, "re");
    if (!f)
        return render_error(&sh->out, "%s cannot be read: %s", in, strerror(errno));
    int json = sh->out.json;
    sh->out.json = 0;                      /* stdout has results only */
    stop = open_out(&b, out);
    b.total = stop ? 0 : batch_lines(f);
    while (!stop && !signals_stop() && (len = text_line(&line, &cap, f)) >= 0) {
        snprintf(sh->out.where, sizeof sh->out.where, "%.120s:%lu", in, ++b.line);
        if (len && line[strspn(line, " \t\r\n")])
            stop = run_line(&b, line, (size_t)len);
        sh->out.where[0] = '\0';
        render_bar(&sh->out, b.line, b.total, b.failed);
    }
    render_bar(&sh->out, 0, 0, 0);
    if (!stop && !feof(f) && !signals_stop())
        stop = render_error(&sh->out, "%s cannot be read: %s", in, strerror(errno));
    if (b.line && !stop)
        render_event(&sh->out, "status", NULL, "%lu drawn, %lu there already, %lu failed%s", b.drawn, b.skipped,
                     b.failed, signals_stop() ? "; interrupted: the same command goes on" : "");
    if (f != stdin)
        fclose(f);
    if (b.fd > STDERR_FILENO && close(b.fd) && !stop)
        stop = render_error(&sh->out, "%s cannot be written: %s", out, strerror(errno));
    sh->out.json = json;
    idset_free(&b.done);
    idset_free(&b.seen);
    free(line);
    return stop || b.failed || signals_stop() ? -1 : 0;
}
