/* repl/trace_tool.c -- "dbrx trace": the routing of every token of many texts, a file a text.
 *
 * A file is there whole or not at all, and named after its prompt: the same command run again
 * after a kill goes on where it was.  DIR/trace.tokens has a line for every file that was written,
 * a hash of its tokens and its name: what a changed prompt left there is done again.  Nothing is
 * generated. */
#define _GNU_SOURCE
#include "repl/tools.h"

#include "repl/atomic.h"
#include "repl/batch.h"
#include "repl/idset.h"
#include "repl/plain.h"
#include "repl/prompts.h"
#include "repl/routefile.h"
#include "repl/signals.h"
#include "repl/words.h"

#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <search.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { FORMAT = 512 };
const struct option_row trace_options[] = {
    { "prompts", OPT_PROMPTS, "FILE", "JSON Lines with \"prompt\", \"messages\" or \"tokens\"" },
    { "out", OPT_OUT, "DIR", "where to put ID.npz; what is there is not done again" },
    { "format", FORMAT, "FORMAT", "npz, jsonl or csv, as /export route has them (npz)" },
    { "backend", 'b', "NAME", "backend, and options: NAME:K=V,K=V (the best here)" },
    TOOL_OPTIONS,
    { NULL, 0, NULL, NULL },
};

struct done {                              /* a file: for which tokens                    */
    const char *name;                      /* in its folder; in the tree its own memory    */
    uint64_t hash;
};

struct trace_tool {
    struct tool t;
    void *done;                            /* a tsearch() tree of struct done              */
    FILE *ledger;                          /* DIR/trace.tokens, once one was written       */
    int cut;                               /* its last line has no end                     */
    const char *prompts, *dir, *format;
    struct contender backend;
    struct idset seen;
    unsigned long traced, there, failed;
    unsigned long long tokens;
};
static struct trace_tool tool;

static int take(void *ctx, int letter, const char *arg)
{
    struct trace_tool *c = ctx;
    switch (letter) {
    case OPT_PROMPTS: c->prompts = arg; return 0;
    case OPT_OUT: c->dir = arg; return 0;
    case FORMAT: c->format = arg; return 0;
    case 'b':
        if (contender_parse((char *)arg, &c->backend))
            return plain_error("a backend is written NAME or NAME:K=V,K=V"), EXIT_USAGE;
        return 0;
    default: return tool_option(&c->t, letter, arg);
    }
}

/* DIR/ID.npz, whatever the id is: bytes that a name had better not have become %xx */
static char *file_name(const struct trace_tool *c, const char *id)
{
    char *path = NULL;
    size_t size;
    FILE *f = open_memstream(&path, &size);
    if (!f)
        return NULL;
    fprintf(f, "%s/", c->dir);
    for (const char *p = id; *p; p++) {
        int plain = (*p >= '0' && *p <= '9') || (*p >= 'a' && *p <= 'z') || (*p >= 'A' && *p <= 'Z') ||
                    strchr("_-+=", *p) || (*p == '.' && p > id);
        fprintf(f, plain ? "%c" : "%%%02x", (unsigned char)*p);
    }
    fprintf(f, ".%s", c->format);
    return fclose(f) ? free(path), NULL : path;
}

/* ---- which tokens the files are of ---- */

static uint64_t hash_of(const struct tok_ids *ids)
{
    uint64_t h = 14695981039346656037u;    /* FNV-1a */
    for (size_t i = 0; i < ids->n; i++)
        h = (h ^ (uint32_t)ids->id[i]) * 1099511628211u;
    return h;
}

static int by_name(const void *a, const void *b)
{
    return strcmp(((const struct done *)a)->name, ((const struct done *)b)->name);
}

/* The last line of a name counts.  0, or -1: no memory */
static int learn(struct trace_tool *c, const char *name, uint64_t hash)
{
    struct done key = { name, 0 }, **found = tfind(&key, &c->done, by_name), *d;
    if (found) {
        (*found)->hash = hash;
        return 0;
    }
    if (!(d = malloc(sizeof *d + strlen(name) + 1)))
        return -1;
    *d = (struct done){ strcpy((char *)(d + 1), name), hash };
    return tsearch(d, &c->done, by_name) ? 0 : (free(d), -1);
}

static char *ledger_name(const struct trace_tool *c)
{
    char *path = NULL;
    return asprintf(&path, "%s/trace.tokens", c->dir) < 0 ? NULL : path;
}

static int read_ledger(struct trace_tool *c)
{
    char *path = ledger_name(c), *line = NULL;
    size_t cap = 0;
    ssize_t len;
    FILE *f = path ? fopen(path, "re") : NULL;
    int failed = path ? 0 : -1;
    while (f && !failed && (len = getline(&line, &cap, f)) >= 0) {
        c->cut = line[len - 1] != '\n';    /* a crash, a full disk */
        if (!c->cut && len > 18 && line[16] == ' ') {
            line[len - 1] = '\0';
            failed = learn(c, line + 17, strtoull(line, NULL, 16));
        }
    }
    if (f)
        fclose(f);
    free(line);
    free(path);
    return failed ? render_error(&c->t.sh.out, "out of memory") : 0;
}

/* 0, or an errno */
static int write_ledger(struct trace_tool *c, const char *name, uint64_t hash)
{
    char *path = c->ledger ? NULL : ledger_name(c);
    errno = ENOMEM;
    if (!c->ledger && (!path || !(c->ledger = fopen(path, "ae"))))
        return free(path), errno;
    free(path);
    errno = 0;
    const char *end = c->cut ? "\n" : "";
    c->cut = 0;
    return fprintf(c->ledger, "%s%016" PRIx64 " %s\n", end, hash, name) < 0 || fflush(c->ledger) ? errno ? errno : EIO : 0;
}

/* 0 or -1 after saying why not */
static int trace_ids(struct trace_tool *c, const struct tok_ids *ids, const char *path)
{
    struct shell *sh = &c->t.sh;
    struct dbrx_error err = { 0 };
    struct routing r;
    dbrx_status st = sess_append(sh->sess, ids->id, ids->n, &err);
    if (st == DBRX_OK)
        st = routing_read(sh->sess, &sh->ckpt->desc.config, 0, (uint32_t)ids->n, NULL, 1, &r, &err);
    if (st == DBRX_STOPPED)
        return -1;
    if (st != DBRX_OK)
        return shell_failed(sh, st, &err);
    int why = route_write(path, route_format(path), sh, &r, ids->id, NULL);
    routing_free(&r);
    if (why == ECANCELED)
        return -1;
    if (why || (why = write_ledger(c, strrchr(path, '/') + 1, hash_of(ids))))
        return render_error(&sh->out, "%s cannot be written: %s", path, strerror(why));
    c->traced++;
    c->tokens += ids->n;
    return 0;
}

/* Its file is there, and of these tokens */
static int is_done(const struct trace_tool *c, const char *path, const struct tok_ids *ids)
{
    struct stat st;
    struct done key = { strrchr(path, '/') + 1, 0 }, **found = tfind(&key, &c->done, by_name);
    return found && (*found)->hash == hash_of(ids) && !stat(path, &st) && S_ISREG(st.st_mode);
}

static int trace_line(struct trace_tool *c, const char *line, size_t len, unsigned long number)
{
    struct shell *sh = &c->t.sh;
    struct tok_ids ids = { 0 };
    cJSON *j = cJSON_ParseWithLength(line, len);
    char *id = !cJSON_IsObject(j) ? (render_error(&sh->out, "it is no JSON object"), NULL)
                                  : prompt_id(sh, j, number);
    const char *words = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(j, "id"));
    char *path = id ? file_name(c, words ? words : id) : NULL;
    sess_truncate(sh->sess, 0);            /* first: messages are rendered for where the session stands */
    int chat, failed = -1, again = path ? idset_add(&c->seen, path) : 0;
    if (id && (!path || again < 0))
        render_error(&sh->out, "out of memory");
    else if (again)
        render_error(&sh->out, "its id %.60s was there before", id);
    else if (path && !prompt_ids(sh, line, len, j, &ids, &chat)) {
        if (!ids.n)
            render_error(&sh->out, "it has no token");
        else if (is_done(c, path, &ids))
            failed = 0, c->there++;
        else
            failed = trace_ids(c, &ids, path);
    }
    free(ids.id);
    free(path);
    cJSON_free(id);
    cJSON_Delete(j);
    return failed;
}

/* What the files come from: of one checkpoint and one backend only, or nobody could tell them apart.
 * 0 or -1 */
static int check_folder(struct trace_tool *c)
{
    struct shell *sh = &c->t.sh;
    const struct dbrx_model_desc *d = &sh->ckpt->desc;
    char *path = NULL, *text = NULL, hex[2 * sizeof d->fingerprint + 1], have[4096] = "";
    struct atomic f;
    int why = 0;
    if (mkdir(c->dir, 0777) && errno != EEXIST)
        return render_error(&sh->out, "%s cannot be created: %s", c->dir, strerror(errno));
    for (size_t i = 0; i < sizeof d->fingerprint; i++)
        snprintf(hex + 2 * i, 3, "%02x", d->fingerprint[i]);
    cJSON *j = cJSON_CreateObject();
    field_string(j, "model", sh->name);
    cJSON_AddStringToObject(j, "fingerprint", hex);
    cJSON_AddNumberToObject(j, "layers", d->config.n_layers);
    cJSON_AddNumberToObject(j, "experts", d->config.n_experts);
    cJSON_AddNumberToObject(j, "top_k", d->config.top_k);
    field_string(j, "backend", disp_name(sh->disp));
    text = cJSON_Print(j);
    cJSON_Delete(j);
    if (!text || asprintf(&path, "%s/trace.json", c->dir) < 0) {
        cJSON_free(text);
        return render_error(&sh->out, "out of memory");
    }
    FILE *old = fopen(path, "re");
    if (old) {
        have[fread(have, 1, sizeof have - 1, old)] = '\0';
        fclose(old);
    } else if (!(why = atomic_open(&f, path))) {
        atomic_write(&f, text, strlen(text));
        atomic_write(&f, "\n", 1);
        why = atomic_commit(&f);
    }
    cJSON *was = cJSON_Parse(have);
    const char *backend = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(was, "backend"));
    int failed = why ? render_error(&sh->out, "%s cannot be written: %s", path, strerror(why))
               : old && !strstr(have, hex)
               ? render_error(&sh->out, "%s has traces of another checkpoint (see its trace.json); choose another "
                              "folder with --out", c->dir)
               : old && strcmp(backend ? backend : "", disp_name(sh->disp))
               ? render_error(&sh->out, "%s has traces of the backend %.40s, and this is %s; go on with -b %.40s, or choose "
                              "another folder with --out", c->dir, backend ? backend : "?", disp_name(sh->disp),
                              backend ? backend : "?") : 0;
    cJSON_Delete(was);
    cJSON_free(text);
    free(path);
    return failed;
}

static int trace(struct trace_tool *c)
{
    struct shell *sh = &c->t.sh;
    char *line = NULL;
    size_t cap = 0;
    ssize_t len;
    FILE *f = !strcmp(c->prompts, "-") ? stdin : fopen(c->prompts, "re");
    if (!f) {
        render_error(&sh->out, "%s cannot be read: %s", c->prompts, strerror(errno));
        return EXIT_USAGE;
    }
    unsigned long total = batch_lines(f);
    int stop = check_folder(c) || read_ledger(c);
    for (unsigned long n = 1; !stop && !signals_stop() && (len = text_line(&line, &cap, f)) >= 0; n++) {
        snprintf(sh->out.where, sizeof sh->out.where, "%.120s:%lu", c->prompts, n);
        if (line[strspn(line, " \t\r\n")] && trace_line(c, line, (size_t)len, n) && !signals_stop())
            c->failed++;
        sh->out.where[0] = '\0';
        render_bar(&sh->out, n, total, c->failed);
    }
    render_bar(&sh->out, 0, 0, 0);
    if (!stop && !feof(f) && !signals_stop())
        stop = render_error(&sh->out, "%s cannot be read: %s", c->prompts, strerror(errno));
    if (!stop) {
        cJSON *fields = cJSON_CreateObject();
        cJSON_AddNumberToObject(fields, "traced", (double)c->traced);
        cJSON_AddNumberToObject(fields, "tokens", (double)c->tokens);
        cJSON_AddNumberToObject(fields, "there", (double)c->there);
        cJSON_AddNumberToObject(fields, "failed", (double)c->failed);
        render_event(&sh->out, "status", fields, "%lu texts traced (%llu tokens), %lu there already, %lu failed%s",
                     c->traced, c->tokens, c->there, c->failed,
                     signals_stop() ? "; interrupted: the same command goes on" : "");
    }
    if (f != stdin)
        fclose(f);
    free(line);
    return stop || c->failed || signals_stop() ? EXIT_COMMAND : 0;
}

int tool_trace(int argc, char **argv)
{
    struct trace_tool *c = &tool;
    *c = (struct trace_tool){ .format = "npz" };
    int code = tool_begin(&c->t, argv[0]);
    if (!code)
        code = options_parse(argv[0], trace_options, argc, argv, take, c);
    if (!code && (argc != optind || !c->prompts || !c->dir)) {
        plain_error("trace wants --prompts FILE and --out DIR\nusage: dbrx trace %s", c->t.row->usage);
        code = EXIT_USAGE;
    }
    if (!code && strcmp(c->format, "npz") && strcmp(c->format, "jsonl") && strcmp(c->format, "csv")) {
        plain_error("--format takes npz, jsonl or csv, not \"%.40s\"", c->format);
        code = EXIT_USAGE;
    }
    if (code)
        return tool_end(&c->t, code);
    code = tool_open(&c->t, c->backend.name ? &c->backend : NULL);
    if (!code)
        code = trace(c);
    idset_free(&c->seen);
    tdestroy(c->done, free);
    if (c->ledger)
        fclose(c->ledger);
    return tool_end(&c->t, code);
}
