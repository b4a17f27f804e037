/* repl/plan.c -- asks a backend through dbrx.plan/1 where it would put a checkpoint, and prints it. */
#include "repl/plan.h"

#include "plugins/loader.h"
#include "repl/paths.h"
#include "repl/plain.h"
#include "repl/trial.h"

#include <cjson/cJSON.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int never(const struct dbrx_host *h)
{
    (void)h;
    return 0;
}

static void mute(const struct dbrx_host *h, int level, const char *line)
{
    (void)h, (void)level, (void)line;
}

static void idle(const struct dbrx_host *h, const char *what, uint64_t done, uint64_t total)
{
    (void)h, (void)what, (void)done, (void)total;
}

static const void *nothing(const struct dbrx_host *h, const char *id)
{
    (void)h, (void)id;
    return NULL;
}

struct out { int json, n; const char *backend; };

static void print_bytes(uint64_t n)
{
    if (n)
        printf("  %9.3f", (double)n / 1e9);
    else
        printf("  %9s", "-");
}

static void print_place(void *ctx, const struct dbrx_place *p)
{
    struct out *o = ctx;
    if (o->json) {
        cJSON *j = cJSON_CreateObject();
        cJSON_AddStringToObject(j, "backend", o->backend);
        cJSON_AddStringToObject(j, "place", p->name);
        cJSON_AddNumberToObject(j, "first_layer", p->first);
        cJSON_AddNumberToObject(j, "layers", p->end - p->first);
        cJSON_AddNumberToObject(j, "weights", (double)p->weights);
        cJSON_AddNumberToObject(j, "kv", (double)p->kv);
        cJSON_AddNumberToObject(j, "scratch", (double)p->scratch);
        if (p->free)
            cJSON_AddNumberToObject(j, "free", (double)p->free);
        else
            cJSON_AddNullToObject(j, "free");
        char *text = cJSON_PrintUnformatted(j);
        if (text)
            plain_json(stdout, text, 0), putchar('\n');
        cJSON_free(text);
        cJSON_Delete(j);
        return;
    }
    if (!o->n++)
        printf("%-26s  %-6s  %9s  %9s  %9s  %9s\n", o->backend, "layers", "weights", "KV cache", "scratch", "free, GB");
    char layers[24] = "";
    if (p->end > p->first)
        snprintf(layers, sizeof layers, "%u-%u", p->first, p->end - 1);
    printf("%-26.26s  %-6s", p->name, layers);
    print_bytes(p->weights);
    print_bytes(p->kv);
    print_bytes(p->scratch);
    print_bytes(p->free);
    putchar('\n');
}

int plan_print(const struct ckpt *c, const char *spec, int json)
{
    const struct dbrx_host host = { sizeof host, NULL, mute, never, idle, nothing };
    struct modules modules = { .trial = trial_module };
    struct dbrx_error err = { .code = DBRX_OK };
    const char *opt[32] = { NULL };
    char *text = strdup(spec), *save = NULL, *path = path_modules(NULL);
    const struct module *m = NULL;
    const struct dbrx_plan *plan = NULL;
    int rc = 1, n = 0;
    if (!text || !path || modules_scan(&modules, path, &err) != DBRX_OK) {
        plain_error("out of memory");
        goto out;
    }
    char *colon = strchr(text, ':');
    if (colon)
        *colon++ = '\0';
    for (char *o = colon ? strtok_r(colon, ",", &save) : NULL; o && n < 31; o = strtok_r(NULL, ",", &save))
        if (n && !strchr(o, '='))
            o[-1] = ',';                   /* it belongs to the value before: gpus=0,1 */
        else
            opt[n++] = o;
    for (size_t i = 0; i < modules.n; i++)
        if (modules.list[i].info && !strcmp(modules.list[i].info->name, text))
            m = &modules.list[i];
    if (m)
        plan = m->info->get(DBRX_PLAN);
    if (!plan) {
        plain_error(m ? "%.60s has no plan to show: it takes the checkpoint where it is"
                      : "there is no backend \"%.60s\"; /backend lists those found", text);
        goto out;
    }
    struct out o = { .json = json, .backend = text };
    if (plan->plan(&host, &c->desc, opt, print_place, &o, &err) != DBRX_OK) {
        plain_error("%s: %s", text, err.text);
        goto out;
    }
    rc = 0;
out:
    modules_free(&modules);
    free(path);
    free(text);
    return rc;
}
