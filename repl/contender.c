/* repl/contender.c -- see contender.h. */
#include "repl/contender.h"

#include "plugins/fail.h"

#include <stdio.h>
#include <string.h>

/* The words of `text` between `gap`s into c->opt; 0 or -1: too many, or one without a value */
static int split(char *text, const char *gap, struct contender *c)
{
    char *save = NULL;
    size_t n = 0;
    for (char *o = strtok_r(text, gap, &save); o; o = strtok_r(NULL, gap, &save)) {
        if (n == MAX_BACKEND_OPTIONS || !strchr(o, '='))
            return -1;
        c->opt[n++] = o;
    }
    return 0;
}

int contender_parse(char *text, struct contender *c)
{
    char *options = strchr(text, ':');
    *c = (struct contender){ .name = text };
    if (options)
        *options++ = '\0';
    return !*text || (options && split(options, ",", c)) ? -1 : 0;
}

int contender_typed(struct shell *sh, const char *name, const char *const *opt, struct contender *c)
{
    *c = (struct contender){ .name = name };
    for (size_t i = 0; opt[i]; i++) {
        if (i == MAX_BACKEND_OPTIONS)
            return render_error(&sh->out, "too many options for one backend; it takes at most %d", MAX_BACKEND_OPTIONS);
        c->opt[i] = opt[i];
    }
    return 0;
}

const char *contender_name(const struct shell *sh, const struct contender *c)
{
    return c->name ? c->name : disp_name(sh->disp);
}

size_t contender_all(struct shell *sh, struct contender who[MAX_CONTENDERS])
{
    const char *now = disp_name(sh->disp);
    const struct module *m;
    size_t n = 0;
    if (now)
        who[n++] = (struct contender){ NULL, { NULL } };
    for (size_t i = 0; (m = disp_module(sh->disp, i)) && n < MAX_CONTENDERS; i++) {
        struct dbrx_probe p;
        if (m->info && disp_probe(sh->disp, i, &p) && p.score > 0 && (!now || strcmp(m->info->name, now)))
            who[n++] = (struct contender){ m->info->name, { NULL } };
    }
    return n;
}

dbrx_status contender_open(struct shell *sh, const struct contender *c, uint32_t room, int fresh, struct engine *e,
                           struct dbrx_error *err)
{
    struct backend_options o;
    *e = (struct engine){ 0 };
    if (c->name) {
        dbrx_status st = shell_backend_options(sh, c->name, c->opt, &o, err);
        return st == DBRX_OK ? disp_open(sh->disp, c->name, o.all, room, e, err) : st;
    }
    if (fresh) {                           /* its label is its name and its options */
        struct contender same;
        char label[sizeof e->label];
        snprintf(label, sizeof label, "%s", disp_label(sh->disp));
        char *options = label + strcspn(label, " ");
        same = (struct contender){ .name = disp_name(sh->disp) };
        if (!split(options, " ", &same) &&
            disp_open(sh->disp, same.name, same.opt, room, e, err) == DBRX_OK)
            return DBRX_OK;
    }
    return disp_scratch(sh->disp, room, e, err);
}
