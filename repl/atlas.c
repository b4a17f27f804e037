/* repl/atlas.c -- /atlas: the routing of the conversation as one page for a browser.  The page
 * is atlas.html, compiled in; what is written here is its block of data. */
#define _GNU_SOURCE
#include "repl/handlers.h"

#include "repl/atomic.h"
#include "repl/commands.h"
#include "repl/labels.h"
#include "repl/plain.h"
#include "repl/routefile.h"
#include "repl/shell.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

static const char page[] =
#include "repl/atlas_page.h"
;

/* Four digits are more than a page shows; a number that is none is null */
static void put_number(FILE *f, int first, double v)
{
    fputs(first ? "" : ",", f);
    fprintf(f, isfinite(v) ? "%.4g" : "null", v);
}

/* "name":[flat] of n numbers that get() has */
#define PUT_LIST(name, n, get) do { \
        fprintf(f, "\n,\"%s\":[", name); \
        for (size_t i = 0; i < (n); i++) \
            put_number(f, !i, get); \
        putc(']', f); \
    } while (0)

static void put_text(FILE *f, const char *text)
{
    cJSON *s = cJSON_CreateString(text);
    char *quoted = cJSON_PrintUnformatted(s);
    plain_json(f, quoted ? quoted : "\"\"", '<');       /* no </script> in the page */
    cJSON_free(quoted);
    cJSON_Delete(s);
}

static void put_data(FILE *f, const struct shell *sh, const struct routing *r)
{
    const int32_t *id = sh->sess->token + r->from;
    size_t rows = (size_t)r->n_layers * r->n;
    fputs("{\"model\":", f);
    put_text(f, sh->name);
    fputs(",\"backend\":", f);
    put_text(f, disp_name(sh->disp));
    fprintf(f, ",\"layers\":%u,\"experts\":%u,\"top_k\":%u,\"scale\":[", r->n_layers, r->n_experts, r->k);
    for (int i = 0; i <= 32; i++)
        fprintf(f, "%s\"#%06x\"", i ? "," : "", (unsigned)heat_rgb(i / 32.0));
    fputs("],\"hues\":[", f);
    for (unsigned i = 0; i < HEAT_HUES; i++)
        fprintf(f, "%s\"#%06x\"", i ? "," : "", (unsigned)heat_hue(i));
    fputs("]\n", f);
    for (uint32_t l = 0; l < r->n_layers && sh->labels; l++) {
        fputs(l ? "],[" : ",\"labels\":[[", f);
        for (uint32_t e = 0; e < r->n_experts; e++) {
            const char *label = labels_get(sh->labels, l, e);
            fputs(e ? "," : "", f);
            if (label)
                put_text(f, label);
            else
                fputs("null", f);
        }
    }
    fputs(sh->labels ? "]]\n,\"tokens\":[" : ",\"tokens\":[", f);
    for (uint32_t i = 0; i < r->n; i++) {
        char *text = token_text(sh, id[i]);
        fprintf(f, "%s[%u,%d,", i ? "," : "", r->from + i, id[i]);
        put_text(f, text ? text : "");
        putc(']', f);
        free(text);
    }
    putc(']', f);
    PUT_LIST("expert", rows * r->k, r->expert[i] == UINT16_MAX ? -1 : r->expert[i]);
    PUT_LIST("weight", rows * r->k, (double)r->weight[i]);
    PUT_LIST("prob", rows * r->n_experts, (double)r->prob[i]);
    PUT_LIST("margin", rows, routing_margin(r, (uint32_t)(i / r->n), (uint32_t)(i % r->n)));
    PUT_LIST("entropy", rows, routing_entropy(r, (uint32_t)(i / r->n), (uint32_t)(i % r->n)));
    fputs("}", f);
}

int handle_atlas(struct shell *sh, const struct args *a)
{
    enum { MUCH = 200000 };                /* tokens times layers; about 40 MB */
    const struct dbrx_config *c = &sh->ckpt->desc.config;
    static const char mark[] = "@DATA@";
    const char *path = a->text[0], *split = strstr(page, mark);
    const struct set *tokens = &a->set[1];
    struct routing r;
    struct atomic f;
    if (!sh->sess->n)
        return render_error(&sh->out, "there is no token yet: type a prompt, or /feed some ids");
    if (shell_routing(sh, tokens->in ? tokens->first : 0, tokens->in ? tokens->last + 1 : sh->sess->n, NULL, PROBS_YES, &r))
        return -1;
    int why = atomic_open(&f, path);
    if (!why) {
        fwrite(page, 1, (size_t)(split - page), f.f);
        put_data(f.f, sh, &r);
        fputs(split + sizeof mark - 1, f.f);
        f.error = ferror(f.f) ? errno ? errno : EIO : 0;
        why = atomic_commit(&f);
    }
    uint32_t n = r.n;
    routing_free(&r);
    if (why)
        return render_error(&sh->out, "%s cannot be written: %s; what was there stays", path, strerror(why));
    cJSON *fields = cJSON_CreateObject();
    field_string(fields, "file", path);
    cJSON_AddNumberToObject(fields, "tokens", n);
    render_event(&sh->out, "status", fields, "wrote the atlas of %u token%s to %s; open it in a browser%s", n,
                 n == 1 ? "" : "s", path, (uint64_t)n * c->n_layers > MUCH ? ", which may take its time: /atlas FILE -1000.. "
                 "is of the last thousand alone" : "");
    return 0;
}
