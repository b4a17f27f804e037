/* repl/main.c -- the program: options, the order in which things run, exit codes. */
#define _GNU_SOURCE
#include "config.h"

#include "repl/batch.h"
#include "repl/help.h"
#include "repl/instruments.h"
#include "repl/plain.h"
#include "repl/shell.h"
#include "repl/signals.h"
#include "repl/line.h"
#include "repl/options.h"
#include "repl/paths.h"
#include "repl/trial.h"

#include <errno.h>
#include <locale.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* -c, -f and -p in the order given */
struct job { int letter; const char *arg; };

static int usage(const char *fmt, const char *what)
{
    char text[400];
    snprintf(text, sizeof text, fmt, what);
    plain_error("%s\ndbrx --help lists the options", text);
    return EXIT_USAGE;
}

static int set_option(struct vars *vars, const char *assignment)
{
    char err[256], name[64];
    size_t n = strcspn(assignment, "=");
    if (!assignment[n] || !n || n >= sizeof name)
        return usage("-s wants VAR=VALUE, not \"%.80s\"", assignment);
    memcpy(name, assignment, n);
    name[n] = '\0';
    int var = var_find(name, 0);
    if (var < 0) {
        const char *near = var_nearest(name);
        snprintf(err, sizeof err, "there is no setting \"%s\"%s%s%s", name, near ? "; did you mean " : "",
                 near ? near : "", near ? "?" : "");
        return usage("%s", err);
    }
    return vars_set(vars, var, assignment + n + 1, FROM_COMMAND_LINE, err, sizeof err) ? usage("%s", err) : 0;
}

/* What lists need that need no checkpoint; for as long as the process lives */
static const struct modules *with_modules(const struct shell_options *o)
{
    static struct modules modules;
    static struct instruments *known;      /* their commands are in the table then */
    struct dbrx_error err;
    char *path = path_modules(o->module_path);
    modules.insecure = o->insecure;
    modules.trial = trial_module;
    if (path && !known && modules_scan(&modules, path, &err) == DBRX_OK)
        known = instruments_find(&modules);
    free(path);
    return &modules;
}

/* 0, or an exit code */
static int help_completion(const struct shell_options *o, const char *what)
{
    if (strcmp(what, "backends"))          /* what the scripts ask when -b is completed */
        return print_completion(what) ? usage("completions are made for bash and zsh, not \"%.40s\"", what) : 0;
    const struct modules *m = with_modules(o);
    for (size_t i = 0; i < m->n; i++)
        if (m->list[i].info && m->list[i].info->get(DBRX_BACKEND))
            puts(m->list[i].info->name);
    return 0;
}

struct parsed { struct shell *sh; struct shell_options *o; int *json, *rc; struct job *jobs; int *n_jobs; };

/* 0, an exit code, or -1: done */
static int take_option(void *ctx, int letter, const char *arg)
{
    struct parsed *p = ctx;
    char text[300];
    switch (letter) {
    case 'm': p->o->model = arg; return 0;
    case 'b': p->o->backend = arg; return 0;
    case 's': return set_option(&p->sh->vars, arg);
    case 'c': case 'f': case 'p': case OPT_PROMPTS:
        p->jobs[(*p->n_jobs)++] = (struct job){ letter, arg };
        return 0;
    case OPT_OUT: p->o->out = arg; return 0;
    case OPT_JSON: *p->json = 1; return 0;
    case OPT_NO_RC: *p->rc = 0; return 0;
    case OPT_THREADS: case OPT_SEED:
        snprintf(text, sizeof text, "%s=%.200s", letter == OPT_SEED ? "seed" : "threads", arg);
        return set_option(&p->sh->vars, text);
    case OPT_CTX: return option_count("ctx", arg, 1, UINT32_MAX, &p->o->ctx);
    case OPT_MODULE_PATH: p->o->module_path = arg; return 0;
    case OPT_INSECURE: p->o->insecure = 1; return 0;
    case OPT_RAW: plain_raw(); return 0;
    case OPT_HELP: print_help(); return -1;
    case OPT_HELP_COMMANDS: with_modules(p->o); help_markdown(); return -1;
    case OPT_HELP_MAN: with_modules(p->o); print_man(); return -1;
    case OPT_HELP_COMPLETION: {
        int code = help_completion(p->o, arg);
        return code ? code : -1;
    }
    default: printf("dbrx " PACKAGE_VERSION "\n"); return -1;
    }
}

/* 0, an exit code, or -1: done */
static int parse(int argc, char **argv, struct shell *sh, struct shell_options *o, int *json, int *rc,
                 struct job *jobs, int *n_jobs)
{
    struct parsed p = { sh, o, json, rc, jobs, n_jobs };
    int code = options_parse(NULL, option_rows, argc, argv, take_option, &p);
    if (code)
        return code;
    if (optind < argc && access(argv[optind], F_OK))
        return usage("\"%.80s\" is neither an option nor a checkpoint; a prompt is given with -p FILE or -c TEXT", argv[optind]);
    if (argc - optind > !o->model)
        return usage("\"%.80s\" is a checkpoint too many; there is one at a time", argv[argc - 1]);
    if (optind < argc)                     /* -m is for those who like options */
        o->model = argv[optind];
    for (int i = 0; i < *n_jobs; i++)
        if (jobs[i].letter == 'p' && *n_jobs > 1)
            return usage("%s stands alone: settings are made with -s, more prompts are -c TEXT", "-p");
        else if (jobs[i].letter == OPT_PROMPTS && *n_jobs > 1)
            return usage("%s stands alone: settings are made with -s, or in the file", "--prompts");
    if (o->out && (!*n_jobs || jobs[0].letter != OPT_PROMPTS))
        return usage("%s says where the results of --prompts go; there is no --prompts", "--out");
    return 0;
}

static FILE *open_input(struct shell *sh, const char *name)
{
    FILE *f = !strcmp(name, "-") ? stdin : fopen(name, "re");
    if (!f)
        render_error(&sh->out, "%s cannot be read: %s", name, strerror(errno));
    return f;
}

/* -p: all of the file but its last newline is one prompt */
static int run_prompt(struct shell *sh, const char *name)
{
    size_t len = 0;
    FILE *f = open_input(sh, name);
    char *text = f ? read_whole(sh, f, name, &len) : NULL;
    int failed = !text ? -1 : len ? reply_to(sh, text, len)
               : render_error(&sh->out, "%s holds no text to continue", name);
    free(text);
    if (f && f != stdin)
        fclose(f);
    return failed;
}

static int run_job(struct shell *sh, const struct shell_options *o, const struct job *j, int number)
{
    if (j->letter == OPT_PROMPTS)
        return batch_run(sh, j->arg, o->out);
    if (j->letter == 'p')
        return run_prompt(sh, j->arg);
    if (j->letter == 'c') {
        snprintf(sh->out.where, sizeof sh->out.where, "-c %d", number);
        int failed = shell_line(sh, j->arg, strlen(j->arg));
        sh->out.where[0] = '\0';
        return failed;
    }
    FILE *f = open_input(sh, j->arg);
    if (!f)
        return -1;
    int failed = shell_script(sh, f, f == stdin ? "stdin" : j->arg);
    if (f != stdin)
        fclose(f);
    return failed;
}

static void say_session(struct shell *sh)
{
    const struct dbrx_config *c = &sh->ckpt->desc.config;
    cJSON *f = cJSON_CreateObject();
    field_string(f, "version", PACKAGE_VERSION);
    field_string(f, "model", sh->name);
    field_string(f, "dir", sh->ckpt->dir);
    cJSON_AddNumberToObject(f, "parameters", (double)ckpt_params_total(sh->ckpt));
    cJSON_AddNumberToObject(f, "parameters_active", (double)ckpt_params_active(sh->ckpt));
    cJSON_AddNumberToObject(f, "layers", c->n_layers);
    cJSON_AddNumberToObject(f, "experts", c->n_experts);
    cJSON_AddNumberToObject(f, "top_k", c->top_k);
    cJSON_AddNumberToObject(f, "vocabulary", c->n_vocab);
    cJSON_AddNumberToObject(f, "context", disp_max_pos(sh->disp));
    cJSON_AddBoolToObject(f, "tokenizer", sh->tok != NULL);
    field_string(f, "mode", sh->vars.v[VAR_MODE].text);
    field_string(f, "backend", disp_name(sh->disp));
    render_object(&sh->out, "session", f);
}

int main(int argc, char **argv)
{
    setlocale(LC_CTYPE, "");               /* numbers stay as in C */
    signal(SIGXFSZ, SIG_IGN);              /* a write past the limit fails, and that is said */
    for (const struct tool_row *t = tool_rows; argc > 1 && t->name; t++)
        if (!strcmp(argv[1], t->name))
            return t->run(argc - 1, argv + 1);

    struct shell sh = { .interactive = 0 };
    struct shell_options o = { 0 };
    struct job *jobs = calloc((size_t)argc + 1, sizeof *jobs);
    int n_jobs = 0, json = 0, rc = 1, any = 0;
    if (!jobs || vars_init(&sh.vars)) {
        free(jobs);
        plain_error("out of memory");
        return EXIT_INTERNAL;
    }
    int code = parse(argc, argv, &sh, &o, &json, &rc, jobs, &n_jobs);
    if (!code) {
        render_init(&sh.out, json);
        int tty = !n_jobs && isatty(STDIN_FILENO) && isatty(STDERR_FILENO);
        signals_init(tty);
        if (tty)
            line_quiet();                  /* what is typed while it loads is for the prompt */
        code = shell_open(&sh, &o);
        if (!code && !(n_jobs && jobs[0].letter == OPT_PROMPTS))
            say_session(&sh);
        sh.interactive = tty;
        if (!code && !n_jobs && !tty)
            jobs[n_jobs++] = (struct job){ 'f', "-" };
        if (!code && tty)
            shell_interactive(&sh, rc);
        for (int i = 0; i < n_jobs && !code && !sh.quit && !signals_fatal(); i++) {
            int failed = run_job(&sh, &o, &jobs[i], i + 1) != 0;
            any |= failed;
            code = failed && sh.vars.v[VAR_ON_ERROR].num == ON_ERROR_STOP ? EXIT_COMMAND : 0;
        }
        if (!code && any)
            code = EXIT_COMMAND;
        if (output_end(&sh))
            code = EXIT_INTERNAL;
        line_give_back();
    }
    int sig = signals_fatal();
    if (code == EXIT_NO_BACKEND && signals_stop() && !sig)
        sig = SIGINT;                      /* at a terminal, too, there is nothing to go back to */
    free(jobs);
    shell_close(&sh);
    int lost = render_failed(&sh.out);
    if (lost && !sig) {
        plain_error("stdout cannot be written: %s", strerror(lost));
        return EXIT_INTERNAL;
    }
    if (sig)
        signals_die(sig);
    return code < 0 ? EXIT_OK : code;
}
