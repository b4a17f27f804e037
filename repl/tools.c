/* repl/tools.c -- what "dbrx compare" and "dbrx bench" have in common.  See tools.h. */
#include "repl/tools.h"

#include "repl/plain.h"
#include "repl/signals.h"

#include <stdio.h>
#include <string.h>

int tool_begin(struct tool *t, const char *name)
{
    *t = (struct tool){ .row = tool_rows };
    while (strcmp(t->row->name, name))
        t->row++;
    if (vars_init(&t->sh.vars)) {
        plain_error("out of memory");
        return EXIT_INTERNAL;
    }
    return 0;
}

int tool_option(struct tool *t, int letter, const char *arg)
{
    char err[256];
    switch (letter) {
    case 'm': t->o.model = arg; return 0;
    case OPT_CTX: return option_count("ctx", arg, 1, UINT32_MAX, &t->o.ctx);
    case OPT_MODULE_PATH: t->o.module_path = arg; return 0;
    case OPT_INSECURE: t->o.insecure = 1; return 0;
    case OPT_RAW: plain_raw(); return 0;
    case OPT_JSON: t->json = 1; return 0;
    case OPT_HELP: tool_help(t->row); return -1;
    case OPT_THREADS:
        if (!vars_set(&t->sh.vars, VAR_THREADS, arg, FROM_COMMAND_LINE, err, sizeof err))
            return 0;
        plain_error("%s", err);
        return EXIT_USAGE;
    default: return 1;
    }
}

int tool_open(struct tool *t, const struct contender *backend)
{
    render_init(&t->sh.out, t->json);
    signals_init(0);
    t->o.backend = backend ? backend->name : NULL;
    t->o.backend_opt = backend ? backend->opt : NULL;
    return shell_open(&t->sh, &t->o);
}

int tool_end(struct tool *t, int code)
{
    int sig = signals_fatal();
    shell_close(&t->sh);
    int lost = render_failed(&t->sh.out);
    if (lost && !sig) {
        plain_error("stdout cannot be written: %s", strerror(lost));
        return EXIT_INTERNAL;
    }
    if (sig)
        signals_die(sig);
    return code < 0 ? EXIT_OK : code;
}
