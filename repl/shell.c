/* repl/shell.c -- opening, lines and the interactive loop.  See shell.h.
 * Knows no command by name and no option of any backend but `threads`. */
#define _GNU_SOURCE
#include "config.h"

#include "repl/shell.h"

#include "plugins/fail.h"
#include "repl/commands.h"
#include "repl/handover.h"
#include "repl/instruments.h"
#include "repl/labels.h"
#include "repl/line.h"
#include "repl/mapped.h"
#include "repl/paths.h"
#include "repl/signals.h"
#include "repl/text.h"
#include "repl/trial.h"
#include "repl/words.h"

#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <time.h>

/* ---- what modules may ask of us ---- */

static void host_log(const struct dbrx_host *h, int level, const char *line)
{
    struct shell *sh = h->ctx;
    if (level >= DBRX_LOG_WARN)
        render_event(&sh->out, "status", NULL, "%s", line);
}

static int host_should_stop(const struct dbrx_host *h)
{
    (void)h;
    return signals_stop();
}

static void host_progress(const struct dbrx_host *h, const char *what, uint64_t done, uint64_t total)
{
    struct shell *sh = h->ctx;
    render_progress(&sh->out, what, done, total);
}

static const void *host_get(const struct dbrx_host *h, const char *id)
{
    (void)h, (void)id;
    return NULL;
}

/* Branches that come and go unasked */
static void tree_changed(void *ctx, enum tree_change what, const char *name)
{
    struct shell *sh = ctx;
    cJSON *f = cJSON_CreateObject();
    field_string(f, what == TREE_DROPPED ? "forgot" : "kept_as", name);
    if (what == TREE_DROPPED)
        render_event(&sh->out, "status", f, "branch \"%s\", the oldest of those that the shell kept by itself, made "
                     "room and is forgotten; /branch NAME gives one a name that stays", name);
    else
        render_event(&sh->out, "status", f, "what was undone is kept: /switch %s goes to it", name);
}

/* ---- opening ---- */

static void add_eos(struct shell *sh, int32_t id)
{
    if (id >= 0 && (uint32_t)id < sh->ckpt->desc.config.n_vocab && !reply_is_eos(sh, id))
        sh->eos[sh->n_eos++] = id;
}

/* What must never be drawn: ids without text, control tokens that end nothing */
static uint8_t *banned_ids(const struct shell *sh)
{
    uint32_t n = sh->ckpt->desc.config.n_vocab;
    uint8_t *banned = calloc(n, 1);
    for (uint32_t i = 0; banned && sh->tok && i < n; i++) {
        size_t len;
        int32_t id = (int32_t)i;
        banned[i] = !reply_is_eos(sh, id) &&
                    (!tok_bytes(sh->tok, id, &len) || tok_is_special(sh->tok, id));
    }
    return banned;
}

/* No tokenizer is no error: ids still work */
static void open_text(struct shell *sh)
{
    char err[256];
    sh->tok = text_open(sh->ckpt, sh->tok_why, sizeof sh->tok_why);
    for (uint32_t i = 0; i < sh->ckpt->n_eos; i++)
        add_eos(sh, sh->ckpt->eos[i]);
    if (sh->tok) {
        add_eos(sh, tok_special(sh->tok, "<|im_end|>"));
        add_eos(sh, tok_special(sh->tok, "<|endoftext|>"));
    }
    if (sh->ckpt->gguf)
        chat_read(sh->ckpt->chat_template, &sh->chat);
    else if (chat_open(sh->ckpt->dir, &sh->chat, err, sizeof err))
        render_event(&sh->out, "status", NULL, "%s; chat mode works without the checkpoint's defaults", err);
    if (sh->chat.has_template)
        vars_default(&sh->vars, VAR_MODE, "chat");
    if (sh->chat.default_system)
        vars_default(&sh->vars, VAR_SYSTEM, sh->chat.default_system);
}

static int read_list(struct shell *sh, int var, struct id_list *list, char *err, size_t size)
{
    const struct var_def *d = &var_defs[var];
    char why[256];
    if (!id_list_parse(list, sh->vars.v[var].text, sh->tok, sh->ckpt->desc.config.n_vocab,
                       d->min < d->max, d->min, d->max, why, sizeof why))
        return 0;
    snprintf(err, size, "%s: %s", d->name, why);
    return -1;
}

int shell_read_lists(struct shell *sh, char *err, size_t size)
{
    return read_list(sh, VAR_LOGIT_BIAS, &sh->logit_bias, err, size) ||
           read_list(sh, VAR_SUPPRESS_TOKENS, &sh->suppress_tokens, err, size) ? -1 : 0;
}

static int no_backend(struct shell *sh, const char *why)
{
    render_error(&sh->out, "%s", why);
    const struct module *m;
    size_t n = 0;
    for (size_t i = 0; (m = disp_module(sh->disp, i)); i++) {
        struct dbrx_probe p;
        if (!m->info)
            render_event(&sh->out, "status", NULL, "  %s", m->why);
        else if (disp_probe(sh->disp, i, &p))
            render_event(&sh->out, "status", NULL, "  %s: %s", m->info->name,
                         p.score > 0 ? "can run here; choose it with -b" : p.reason);
        n++;
    }
    if (!n)
        render_event(&sh->out, "status", NULL,
                     "  no module was found: say where they are with --module-path DIRS");
    return EXIT_NO_BACKEND;
}

static int open_backend(struct shell *sh, const struct shell_options *o)
{
    struct dbrx_error err;
    char *path = path_modules(o->module_path);
    sh->modules.insecure = o->insecure;
    sh->modules.trial = trial_module;
    if (!path || modules_scan(&sh->modules, path, &err) != DBRX_OK) {
        free(path);
        render_error(&sh->out, "out of memory");
        return EXIT_INTERNAL;
    }
    free(path);
    const struct dbrx_config *c = &sh->ckpt->desc.config;
    uint32_t ctx = o->ctx ? o->ctx : c->max_seq < DEFAULT_CTX ? c->max_seq : DEFAULT_CTX;
    if (ctx > c->max_seq) {
        render_error(&sh->out, "--ctx %u is more than this model's context of %u tokens", ctx, c->max_seq);
        return EXIT_USAGE;
    }
    uint8_t *banned = banned_ids(sh);
    sh->disp = disp_new(&sh->ckpt->desc, &sh->modules, &sh->host, ctx);
    sh->sess = sh->disp && banned ? sess_new(sh->disp, c, banned) : NULL;
    sh->steer = steer_new(c);
    free(banned);
    if (!sh->sess || !sh->steer) {
        render_error(&sh->out, "out of memory");
        return EXIT_INTERNAL;
    }
    char why[256] = "";
    sh->out.quiet = why;                   /* the sentence belongs in front of the list */
    sh->out.quiet_size = sizeof why;
    int failed = shell_use(sh, o->backend, o->backend_opt, 0);
    char best[256];
    snprintf(best, sizeof best, "%s", why);
    const struct module *m;                /* the best may not know this file's types */
    for (size_t i = 0; failed && !o->backend && !signals_stop() && (m = disp_module(sh->disp, i)); i++) {
        struct dbrx_probe p;
        if (m->info && disp_probe(sh->disp, i, &p) && p.score > 0)
            failed = shell_use(sh, m->info->name, NULL, 0);
    }
    sh->out.quiet = NULL;
    if (failed && signals_stop()) {
        render_error(&sh->out, "interrupted while the model was opened");
        return EXIT_NO_BACKEND;
    }
    if (!failed && *best)
        render_event(&sh->out, "status", NULL, "%s: on %s instead", best, disp_name(sh->disp));
    memcpy(why, best, sizeof why);
    return failed ? no_backend(sh, why) : 0;
}

int shell_open(struct shell *sh, const struct shell_options *o)
{
    sh->host = (struct dbrx_host){ .struct_size = sizeof sh->host, .ctx = sh, .log = host_log,
        .should_stop = host_should_stop, .progress = host_progress, .get = host_get };
    struct dbrx_error err;
    char *dir = o->model ? strdup(o->model) : path_default_model();
    if (!dir) {
        render_error(&sh->out, "out of memory");
        return EXIT_INTERNAL;
    }
    dbrx_status st = ckpt_open(dir, &sh->ckpt, &err);
    char *real = st == DBRX_OK ? realpath(dir, NULL) : NULL;
    sh->name = strdup(real ? strrchr(real, '/') + 1 : dir);
    free(real);
    free(dir);
    if (st != DBRX_OK || !sh->name) {
        render_error(&sh->out, "%s", st != DBRX_OK ? err.text : "out of memory");
        return st != DBRX_OK ? EXIT_CHECKPOINT : EXIT_INTERNAL;
    }
    open_text(sh);
    int code = mapped_watch(sh->ckpt) ? render_error(&sh->out, "out of memory"), EXIT_INTERNAL : open_backend(sh, o);
    char why[512];
    if (!code && shell_constrain(sh, why, sizeof why)) {       /* -s grammar=FILE, lists */
        render_error(&sh->out, "%s", why);
        code = EXIT_USAGE;
    }
    if (!code && shell_set_labels(sh, why, sizeof why)) {
        render_error(&sh->out, "%s", why);
        code = EXIT_USAGE;
    }
    if (!code && (!(sh->instruments = instruments_find(&sh->modules)) || !(sh->tree = tree_new(sh->sess)))) {
        render_error(&sh->out, "out of memory");
        code = EXIT_INTERNAL;
    }
    if (!code) {
        sh->tree->changed = tree_changed;
        sh->tree->changed_ctx = sh;
        shell_reseed(sh);
        instruments_open(sh->instruments, sh);
    }
    return code;
}

void shell_close(struct shell *sh)
{
    constraint_free(sh->constraint);
    free(sh->constraint_from);
    id_list_free(&sh->logit_bias);
    id_list_free(&sh->suppress_tokens);
    trie_free(sh->trie);
    instruments_free(sh->instruments);
    labels_free(sh->labels);
    tree_free(sh->tree);
    sess_free(sh->sess);
    steer_free(sh->steer);
    disp_free(sh->disp);
    modules_free(&sh->modules);
    chat_close(&sh->chat);
    tok_close(sh->tok);
    mapped_unwatch(sh->ckpt);
    ckpt_close(sh->ckpt);
    free(sh->name);
    free(sh->last_prompt);
    free(sh->output);
    free(sh->kept);
    vars_free(&sh->vars);
}

/* ---- what several handlers need ---- */

int shell_set_labels(struct shell *sh, char *err, size_t size)
{
    const char *name = sh->vars.v[VAR_LABELS].text;
    struct labels *l = NULL;
    if (*name) {
        char *path = path_typed(name);
        int failed = path ? labels_read(path, &sh->ckpt->desc.config, &l, err, size) : -1;
        if (!path)
            snprintf(err, size, "out of memory");
        free(path);
        if (failed)
            return -1;
    }
    labels_free(sh->labels);
    sh->labels = l;
    return 0;
}

int shell_failed(struct shell *sh, dbrx_status st, const struct dbrx_error *err)
{
    if (st == DBRX_STOPPED)
        return render_error(&sh->out, "interrupted");
    if (st == DBRX_E_LOST)
        return render_error(&sh->out, "%s; the backend is gone, the conversation is not: "
                            "/backend NAME goes on", err->text);
    return render_error(&sh->out, "%s", err->text);
}

uint64_t shell_random(void)
{
    uint32_t r;
    if (getrandom(&r, sizeof r, 0) != sizeof r)
        r = (uint32_t)time(NULL);
    return r;
}

void shell_reseed(struct shell *sh)
{
    double seed = sh->vars.v[VAR_SEED].num;
    tree_seed(sh->tree, seed < 0 ? shell_random() : (uint64_t)seed);
    sh->seed_shown = 0;
}

int shell_new(struct shell *sh)
{
    struct dbrx_error err;
    dbrx_status st = tree_fresh(sh->tree, &err);
    if (st != DBRX_OK)
        return shell_failed(sh, st, &err);
    shell_reseed(sh);
    return 0;
}

int shell_knows_threads(const struct shell *sh, const char *name)
{
    const struct module *m;
    for (size_t i = 0; (m = disp_module(sh->disp, i)); i++) {
        if (!m->info || strcmp(m->info->name, name))
            continue;
        const struct dbrx_option *o = disp_options(sh->disp, i);
        for (; o && o->name; o++)
            if (!strcmp(o->name, "threads"))
                return 1;
    }
    return 0;
}

/* Does the module's table have the option "k=v", and its list of choices the value?  0 or -1 */
static int check_option(const struct module *m, const struct dbrx_option *o, const char *opt, char *err, size_t size)
{
    size_t n = strcspn(opt, "=");
    const struct dbrx_choices *c = m->info->get(DBRX_CHOICES);
    while (o->name && (strncmp(o->name, opt, n) || o->name[n]))
        o++;
    const char *const *list = o->name && c ? c->values(o->name) : NULL, *const *v = list;
    while (v && *v && strcmp(*v, opt + n + 1))
        v++;
    if (o->name && (!v || *v))
        return 0;
    size_t at = (size_t)(o->name ? snprintf(err, size, "handover: %s cannot be \"%.40s\"; it takes", o->name, opt + n + 1)
                                 : snprintf(err, size, "handover: %s has no option \"%.60s\"; /backend lists them",
                                            m->info->name, opt));
    for (v = o->name ? list : NULL; v && *v && at < size; v++)
        at += (size_t)snprintf(err + at, size - at, "%s %s", v > list ? "," : "", *v);
    return -1;
}

/* Is there such a backend with such options?  0 or -1 */
static int check_step(const struct shell *sh, const struct handover_step *s, char *err, size_t size)
{
    const struct module *m;
    for (size_t i = 0; (m = disp_module(sh->disp, i)); i++) {
        const struct dbrx_option *o = m->info && !strcmp(m->info->name, s->backend) ? disp_options(sh->disp, i) : NULL;
        if (!o)
            continue;
        for (size_t k = 0; s->opt[k]; k++)
            if (check_option(m, o, s->opt[k], err, size))
                return -1;
        return 0;
    }
    snprintf(err, size, "handover: there is no backend \"%.60s\"; /backend lists those found", s->backend);
    return -1;
}

int shell_plan(const struct shell *sh, struct handover *plan, char *err, size_t size)
{
    if (handover_parse(plan, sh->vars.v[VAR_HANDOVER].text, err, size))
        return -1;
    for (uint32_t i = 0; i < plan->n; i++)
        if (check_step(sh, &plan->step[i], err, size)) {
            handover_free(plan);
            return -1;
        }
    if (plan->n && sh->vars.v[VAR_NUM_BEAMS].num > 1) {
        snprintf(err, size, "num_beams and handover exclude each other: beams are drawn all at once; "
                 "/set num_beams 1, or /set handover \"\"");
        handover_free(plan);
        return -1;
    }
    return 0;
}

/* Which one an unnamed backend is, so that it can be given its options */
static const char *best_backend(const struct shell *sh)
{
    const struct module *m;
    const char *best = NULL;
    int32_t score = 0;
    for (size_t i = 0; (m = disp_module(sh->disp, i)); i++) {
        struct dbrx_probe p;
        if (disp_probe(sh->disp, i, &p) && p.score > score) {
            score = p.score;
            best = m->info->name;
        }
    }
    return best;
}

dbrx_status shell_backend_options(const struct shell *sh, const char *name, const char *const *opt,
                                  struct backend_options *o, struct dbrx_error *err)
{
    size_t n = 0;
    int typed = 0;
    *o = (struct backend_options){ 0 };
    for (; opt && opt[n] && n < MAX_BACKEND_OPTIONS; n++) {
        o->all[n] = opt[n];
        typed |= !strncmp(opt[n], "threads=", 8);
    }
    if (opt && opt[n])
        return fail(err, DBRX_E_INVALID, "too many options for one backend; it takes at most %d",
                    MAX_BACKEND_OPTIONS);
    const struct var *v = &sh->vars.v[VAR_THREADS];
    if (name && v->num > 0 && !typed && shell_knows_threads(sh, name)) {
        snprintf(o->threads, sizeof o->threads, "threads=%s", v->text);
        o->all[n] = o->threads;
    }
    return DBRX_OK;
}

void shell_current_options(const struct shell *sh, const char *without, char text[160],
                           const char *opt[MAX_BACKEND_OPTIONS + 1])
{
    const char *label = disp_label(sh->disp);
    char *save = NULL;
    size_t n = 0;
    snprintf(text, 160, "%s", label ? label + strcspn(label, " ") : "");
    for (char *o = strtok_r(text, " ", &save); o && n < MAX_BACKEND_OPTIONS; o = strtok_r(NULL, " ", &save))
        if (!without || strncmp(o, without, strlen(without)))
            opt[n++] = o;
    opt[n] = NULL;
}

int shell_use(struct shell *sh, const char *name, const char *const *opt, int how)
{
    const char *was = disp_name(sh->disp);
    struct backend_options o;
    name = name ? name : best_backend(sh);
    struct dbrx_error err = { 0 };
    render_busy(&sh->out, 1);
    dbrx_status st = shell_backend_options(sh, name, opt, &o, &err);
    if (st == DBRX_OK)
        st = sess_use(sh->sess, name, o.all, how, &err);
    render_busy(&sh->out, 0);
    if (st != DBRX_OK) {
        if (st == DBRX_STOPPED)
            return render_error(&sh->out, "interrupted; still on %s", was ? was : "no backend");
        if (was && !disp_name(sh->disp))
            return render_error(&sh->out, "%s; %s was lost as well, the conversation is not: /backend NAME "
                                "goes on", err.text, was);
        return render_error(&sh->out, "%s%s%s", err.text, was ? "; still on " : "", was ? was : "");
    }
    return 0;
}

/* ---- lines ---- */

int shell_line(struct shell *sh, const char *line, size_t len)
{
    if (len && line[0] == '/' && !(len > 1 && line[1] == '/')) {
        int failed = command_run(sh, line, len);
        shell_keep(sh);
        return failed;
    }
    int escaped = len > 1 && line[0] == '/';
    return shell_prompt(sh, line + escaped, len - (size_t)escaped);
}

int shell_prompt(struct shell *sh, const char *text, size_t len)
{
    char *copy = len ? malloc(len + 1) : NULL;
    if (copy) {
        memcpy(copy, text, len);
        copy[len] = '\0';
        free(sh->last_prompt);
        sh->last_prompt = copy;
    }
    int failed = reply_to(sh, text, len);
    shell_keep(sh);
    return failed;
}

int shell_input(struct shell *sh, const struct input *in)
{
    if (!in->literal)
        return shell_line(sh, in->text, in->len);
    return in->len ? shell_prompt(sh, in->text, in->len) : 0;
}

/* A prompt that begins with a slash is remembered in the form that can be typed */
void shell_remember(const char *text, int literal)
{
    char *escaped = NULL;
    if (literal && *text == '/' && asprintf(&escaped, "/%s", text) < 0)
        return;
    line_remember(escaped ? escaped : text);
    free(escaped);
}

static const char *human(double n, char *out, size_t size)
{
    int i = n >= 1e12 ? 3 : n >= 1e9 ? 2 : n >= 1e6 ? 1 : 0;
    static const double unit[] = { 1e3, 1e6, 1e9, 1e12 };
    snprintf(out, size, "%.3g%c", n / unit[i], "KMBT"[i]);
    return out;
}

static void banner(struct shell *sh)
{
    const struct dbrx_config *c = &sh->ckpt->desc.config;
    char total[32], active[32];
    int chat = sh->vars.v[VAR_MODE].num == MODE_CHAT;
    render_event(&sh->out, "status", NULL, "dbrx " PACKAGE_VERSION ": %s, %s parameters (%s active), "
                 "%u layers x %u experts, top %u", sh->name,
                 human((double)ckpt_params_total(sh->ckpt), total, sizeof total),
                 human((double)ckpt_params_active(sh->ckpt), active, sizeof active),
                 c->n_layers, c->n_experts, c->top_k);
    render_event(&sh->out, "status", NULL, "on %s, context %u tokens, %s", disp_name(sh->disp),
                 disp_max_pos(sh->disp),
                 !sh->tok ? "no tokenizer: only ids can be fed, with /feed" :
                 chat ? "chat mode: say something" : "base mode: type a beginning, the model goes on");
    render_event(&sh->out, "status", NULL, "/help lists the commands, Ctrl-C stops a reply, Ctrl-D quits");
    char when[64];
    struct stat st;
    char *kept = shell_kept(sh, 0, &st);
    if (kept && strftime(when, sizeof when, "%e %b %Y, %H:%M", localtime(&st.st_mtime)))
        render_event(&sh->out, "status", NULL, "/load goes on with the conversation of %s", when + strspn(when, " "));
    free(kept);
}

void shell_interactive(struct shell *sh, int rc)
{
    struct input in = { 0 };
    line_open(sh);
    if (rc)
        shell_rc(sh);
    if (!sh->quit)
        banner(sh);
    while (!sh->quit) {
        char *line = NULL;
        int ready = 0;
        enum line_result what = line_read(in.open ? "  ... " : steer_block(sh->steer) ? "dbrx*> " : "dbrx> ",
                                           in.open != INPUT_CLOSED, &line);
        if (what == LINE_KILLED || (what == LINE_END && !in.open))
            break;
        if (what == LINE_CLEARED) {
            input_drop(&in);
        } else if (what == LINE_END) {     /* in a prompt of several lines Ctrl-D ends that */
            input_end(&in);
            ready = 1;
        } else {
            ready = input_line(&in, line, strlen(line));
        }
        free(line);
        if (ready < 0)
            render_error(&sh->out, "out of memory");
        if (ready <= 0)
            continue;
        shell_remember(in.text, in.literal);
        signals_clear();
        shell_input(sh, &in);
        if (signals_fatal())
            sh->quit = 1;
        signals_clear();
    }
    input_free(&in);
    line_close();
    shell_keep_end(sh);
}
