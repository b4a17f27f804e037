/* repl/specialists_tool.c -- "dbrx specialists": prompts by topic through every backend, and
 * which experts are specialists of which topic, as one JSON file (docs/instruments.md). */
#define _GNU_SOURCE
#include "repl/tools.h"

#include "repl/atomic.h"
#include "repl/contender.h"
#include "repl/corpus.h"
#include "repl/plain.h"
#include "repl/signals.h"
#include "repl/specialists.h"
#include "repl/words.h"

#include <errno.h>
#include <getopt.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { LEAST = 512, BACKEND, MAX_TOPICS = 64, FEWEST = 8, WINDOW = 256 };
const struct option_row specialists_options[] = {
    { "prompts", OPT_PROMPTS, "FILE", "JSON Lines with \"topic\" and \"prompt\" (needed)" },
    { "out", OPT_OUT, "FILE", "the result, JSON (default: on stdout)" },
    { "backend", 'b', "NAME", "one that has to agree; repeatable (default: all)" },
    { "min-score", LEAST, "X", "least difference of shares that counts (0.1)" },
    TOOL_OPTIONS,
    { NULL, 0, NULL, NULL },
};

struct text { uint32_t topic; int held; struct tok_ids ids; };

struct spec_tool {
    struct tool t;
    const char *prompts, *out;
    double least;
    struct contender who[MAX_CONTENDERS];
    size_t n_who;
    char *topic[MAX_TOPICS];
    uint32_t texts_of[MAX_TOPICS], n_topics;
    struct text *text;                     /* [n_text]                                    */
    size_t n_text;
    struct spec *spec[MAX_CONTENDERS];
    char *label[MAX_CONTENDERS];           /* the backends' names                         */
};
static struct spec_tool tool;

static int take(void *ctx, int letter, const char *arg)
{
    struct spec_tool *s = ctx;
    switch (letter) {
    case OPT_PROMPTS: s->prompts = arg; return 0;
    case OPT_OUT: s->out = arg; return 0;
    case LEAST: return option_real("min-score", arg, 0, 1, &s->least);
    case 'b':
        if (s->n_who == MAX_CONTENDERS || contender_parse((char *)arg, &s->who[s->n_who])) {
            plain_error("a backend is written NAME or NAME:K=V,K=V, at most %d of them", MAX_CONTENDERS);
            return EXIT_USAGE;
        }
        s->n_who++;
        return 0;
    default: return tool_option(&s->t, letter, arg);
    }
}

/* ---- the prompts ---- */

static int topic_of(struct spec_tool *s, const char *name, uint32_t *topic)
{
    for (*topic = 0; *topic < s->n_topics; ++*topic)
        if (!strcmp(s->topic[*topic], name))
            return 0;
    if (s->n_topics == MAX_TOPICS)
        return render_error(&s->t.sh.out, "there are more than %d topics", MAX_TOPICS);
    if (!(s->topic[s->n_topics++] = strdup(name)))
        return render_error(&s->t.sh.out, "out of memory");
    return 0;
}

static int add_line(struct spec_tool *s, const char *line, size_t len)
{
    struct render *r = &s->t.sh.out;
    cJSON *j = cJSON_ParseWithLength(line, len);
    const char *topic = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(j, "topic"));
    const char *prompt = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(j, "prompt"));
    struct text t = { 0 };
    struct text *list = realloc(s->text, (s->n_text + 1) * sizeof *list);
    int failed = !list ? render_error(r, "out of memory")
               : !topic || !*topic || !prompt ? render_error(r, "it is no JSON object with texts \"topic\" and \"prompt\"")
               : topic_of(s, topic, &t.topic);
    s->text = list ? list : s->text;
    if (!failed && tok_encode(s->t.sh.tok, prompt, strlen(prompt), TOK_PLAIN, &t.ids))
        failed = render_error(r, "out of memory");
    if (!failed && !t.ids.n)
        failed = render_error(r, "the prompt is empty");
    if (!failed) {
        t.held = s->texts_of[t.topic]++ % 2;   /* every other text is held out */
        s->text[s->n_text++] = t;
    } else {
        free(t.ids.id);
    }
    cJSON_Delete(j);
    return failed;
}

static int read_prompts(struct spec_tool *s)
{
    struct render *r = &s->t.sh.out;
    char *line = NULL;
    size_t cap = 0;
    ssize_t len;
    int failed = 0;
    FILE *f = !strcmp(s->prompts, "-") ? stdin : fopen(s->prompts, "re");
    if (!f)
        return render_error(r, "%s cannot be read: %s", s->prompts, strerror(errno));
    for (unsigned long n = 1; !failed && !signals_stop() && (len = text_line(&line, &cap, f)) >= 0; n++) {
        snprintf(r->where, sizeof r->where, "%.120s:%lu", s->prompts, n);
        if (line[strspn(line, " \t\r\n")])
            failed = add_line(s, line, (size_t)len);
        r->where[0] = '\0';
    }
    if (!failed && !feof(f) && !signals_stop())
        failed = render_error(r, "%s cannot be read: %s", s->prompts, strerror(errno));
    for (uint32_t t = 0; !failed && t < s->n_topics; t++)
        if (s->texts_of[t] < FEWEST)
            failed = render_error(r, "the topic \"%.60s\" has %u prompts; to hold half of them out it needs at least %d",
                                  s->topic[t], s->texts_of[t], FEWEST);
    if (!failed && s->n_topics < 2)
        failed = render_error(r, "%s needs at least two topics: a specialist is one against the others", s->prompts);
    if (f != stdin)
        fclose(f);
    free(line);
    return failed;
}

/* ---- the backends ---- */

/* All texts through one of them */
static dbrx_status measure(struct spec_tool *s, size_t i, struct dbrx_error *err)
{
    struct shell *sh = &s->t.sh;
    const struct dbrx_config *c = &sh->ckpt->desc.config;
    uint32_t window = WINDOW < disp_max_pos(sh->disp) ? WINDOW : disp_max_pos(sh->disp);
    struct engine e;
    struct corpus *corpus = NULL;
    char what[100];
    dbrx_status st = contender_open(sh, &s->who[i], window, 0, &e, err);
    if (st != DBRX_OK)
        return st;
    s->label[i] = strdup(e.label);
    s->spec[i] = spec_new(s->n_topics, c->n_layers, c->n_experts);
    st = s->spec[i] && s->label[i] ? corpus_open(&e, c, window, 0, &corpus, err) : DBRX_E_NOMEM;
    snprintf(what, sizeof what, "%.80s", e.label);
    for (size_t k = 0; k < s->n_text && st == DBRX_OK; k++) {
        const struct text *t = &s->text[k];
        render_progress(&sh->out, what, k, s->n_text);
        spec_begin(s->spec[i], t->topic, t->held);
        st = signals_stop() ? DBRX_STOPPED : corpus_run(corpus, t->ids.id, t->ids.n, spec_token, s->spec[i], err);
    }
    if (st == DBRX_OK)
        spec_end(s->spec[i]);
    corpus_close(corpus);
    engine_close(&e);
    return st;
}

/* ---- the result ---- */

/* Why an expert that one backend finds is none: the first reason; NULL: there is none */
static char *doubt(const struct spec_tool *s, const struct spec_score *of)
{
    char *text = NULL;
    size_t size;
    FILE *f = open_memstream(&text, &size);
    int n = 0;
    for (size_t i = 0; f && i < s->n_who; i++)
        if (!of[i].is_found)
            fprintf(f, "%snot found on %s (score %.3f, interval from %.3f)", n++ ? "; " : "", s->label[i], of[i].score,
                    of[i].found.lo);
        else if (!of[i].is_replicated)
            fprintf(f, "%snot replicated on the held-out half with %s (score %.3f there, %.3f where found)", n++ ? "; " : "",
                    s->label[i], of[i].held_score, of[i].score);
    if (f && !fclose(f) && n)
        return text;
    free(text);
    return NULL;
}

/* Scores of the backend that is least sure */
static cJSON *row(const struct spec_tool *s, uint32_t topic, uint32_t l, uint32_t e, const struct spec_score *of)
{
    const struct spec_score *least = of;
    double held = of[0].held_score;
    cJSON *o = cJSON_CreateObject();
    for (size_t i = 1; i < s->n_who; i++) {
        least = of[i].score < least->score ? &of[i] : least;
        held = fmin(held, of[i].held_score);
    }
    field_string(o, "topic", s->topic[topic]);
    cJSON_AddNumberToObject(o, "layer", l);
    cJSON_AddNumberToObject(o, "expert", e);
    field_real(o, "score", least->score);
    field_real(o, "low", least->found.lo);
    field_real(o, "high", least->found.hi);
    field_real(o, "held_out", held);
    field_real(o, "share", least->share);
    field_real(o, "rest", least->rest);
    return o;
}

static int by_score(const void *a, const void *b)
{
    double x = cJSON_GetObjectItemCaseSensitive(*(cJSON *const *)a, "score")->valuedouble;
    double y = cJSON_GetObjectItemCaseSensitive(*(cJSON *const *)b, "score")->valuedouble;
    return (x < y) - (x > y);
}

/* The strongest first; takes the list */
static cJSON *sorted(cJSON *list)
{
    int n = cJSON_GetArraySize(list);
    cJSON **all = malloc(((size_t)n + 1) * sizeof *all), *out = cJSON_CreateArray();
    for (int i = 0; all && i < n; i++)
        all[i] = cJSON_DetachItemFromArray(list, 0);
    if (all)
        qsort(all, (size_t)n, sizeof *all, by_score);
    for (int i = 0; all && i < n; i++)
        cJSON_AddItemToArray(out, all[i]);
    free(all);
    cJSON_Delete(list);
    return out;
}

static cJSON *result(const struct spec_tool *s)
{
    const struct shell *sh = &s->t.sh;
    const struct dbrx_model_desc *d = &sh->ckpt->desc;
    cJSON *o = cJSON_CreateObject(), *list, *good = cJSON_CreateArray(), *other = cJSON_CreateArray();
    struct spec_score of[MAX_CONTENDERS];
    char hex[2 * sizeof d->fingerprint + 1];
    for (size_t i = 0; i < sizeof d->fingerprint; i++)
        snprintf(hex + 2 * i, 3, "%02x", d->fingerprint[i]);
    cJSON_AddStringToObject(o, "type", "dbrx.specialists/1");
    field_string(o, "model", sh->name);
    cJSON_AddStringToObject(o, "fingerprint", hex);
    cJSON_AddNumberToObject(o, "layers", d->config.n_layers);
    cJSON_AddNumberToObject(o, "experts", d->config.n_experts);
    cJSON_AddNumberToObject(o, "top_k", d->config.top_k);
    list = cJSON_AddArrayToObject(o, "backends");
    for (size_t i = 0; i < s->n_who; i++)
        cJSON_AddItemToArray(list, cJSON_CreateString(s->label[i]));
    field_real(o, "min_score", s->least);
    list = cJSON_AddArrayToObject(o, "topics");
    for (uint32_t t = 0; t < s->n_topics; t++) {
        cJSON *one = cJSON_CreateObject();
        cJSON_AddItemToArray(list, one);
        field_string(one, "topic", s->topic[t]);
        cJSON_AddNumberToObject(one, "texts", s->texts_of[t]);
        cJSON_AddNumberToObject(one, "tokens", spec_sizes(s->spec[0], t, 0).m);
        cJSON_AddNumberToObject(one, "tokens_held_out", spec_sizes(s->spec[0], t, 1).m);
    }
    for (uint32_t t = 0; t < s->n_topics; t++)
        for (uint32_t l = 0; l < d->config.n_layers; l++)
            for (uint32_t e = 0; e < d->config.n_experts; e++) {
                int found = 0;
                for (size_t i = 0; i < s->n_who; i++) {
                    of[i] = spec_score(s->spec[i], t, l, e, s->least);
                    found |= of[i].is_found;
                }
                if (!found)
                    continue;
                char *why = doubt(s, of);
                cJSON *one = row(s, t, l, e, of);
                if (why)
                    field_string(one, "reason", why);
                cJSON_AddItemToArray(why ? other : good, one);
                free(why);
            }
    cJSON_AddItemToObject(o, "specialists", sorted(good));
    cJSON_AddItemToObject(o, "sensitive", sorted(other));
    return o;
}

static int write_result(struct spec_tool *s, const cJSON *o)
{
    struct render *r = &s->t.sh.out;
    char *text = s->t.json ? cJSON_PrintUnformatted(o) : cJSON_Print(o);
    struct atomic a;
    int why = !text ? ENOMEM : 0;
    if (text && !s->out) {
        plain_json(stdout, text, 0);
        putchar('\n');
    } else if (text && !(why = atomic_open(&a, s->out))) {
        atomic_write(&a, text, strlen(text));
        atomic_write(&a, "\n", 1);
        why = atomic_commit(&a);
    }
    cJSON_free(text);
    if (why)
        return render_error(r, "%s cannot be written: %s", s->out ? s->out : "the result", strerror(why));
    render_event(r, "status", NULL, "%d specialists, %d sensitive%s%s",
                 cJSON_GetArraySize(cJSON_GetObjectItemCaseSensitive(o, "specialists")),
                 cJSON_GetArraySize(cJSON_GetObjectItemCaseSensitive(o, "sensitive")), s->out ? "; written to " : "",
                 s->out ? s->out : "");
    return 0;
}

static int work(struct spec_tool *s)
{
    struct shell *sh = &s->t.sh;
    struct dbrx_error err = { 0 };
    dbrx_status st = DBRX_OK;
    if (!sh->tok) {
        render_error(&sh->out, "text needs a tokenizer: %s", sh->tok_why);
        return EXIT_CHECKPOINT;
    }
    if (read_prompts(s))
        return EXIT_USAGE;
    if (!s->n_who)
        s->n_who = contender_all(sh, s->who);
    sh->out.json = 0;                      /* --json: the document alone */
    render_busy(&sh->out, 1);
    for (size_t i = 0; i < s->n_who && st == DBRX_OK; i++)
        st = measure(s, i, &err);
    render_busy(&sh->out, 0);
    if (st != DBRX_OK) {
        shell_failed(sh, st, &err);
        return st == DBRX_STOPPED ? EXIT_INTERNAL : EXIT_NO_BACKEND;
    }
    cJSON *o = result(s);
    int failed = write_result(s, o);
    cJSON_Delete(o);
    return failed ? EXIT_INTERNAL : 0;
}

int tool_specialists(int argc, char **argv)
{
    struct spec_tool *s = &tool;
    *s = (struct spec_tool){ .t.row = NULL };
    int code = tool_begin(&s->t, argv[0]);
    s->least = 0.1;
    if (!code)
        code = options_parse(argv[0], specialists_options, argc, argv, take, s);
    if (!code && (argc != optind || !s->prompts)) {
        plain_error("specialists wants --prompts FILE and no other words\nusage: dbrx specialists %s",
                s->t.row->usage);
        code = EXIT_USAGE;
    }
    if (code)
        return tool_end(&s->t, code);
    code = tool_open(&s->t, s->n_who ? &s->who[0] : NULL);
    if (!code)
        code = work(s);
    for (size_t i = 0; i < s->n_text; i++)
        free(s->text[i].ids.id);
    free(s->text);
    for (uint32_t t = 0; t < s->n_topics; t++)
        free(s->topic[t]);
    for (size_t i = 0; i < MAX_CONTENDERS; i++) {
        spec_free(s->spec[i]);
        free(s->label[i]);
    }
    return tool_end(&s->t, code);
}
