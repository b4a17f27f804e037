/* repl/dump.c -- /dump: tokens, logits and routing of the conversation as .npy files.
 * The tokens are computed once more, piece by piece, so that memory stays bounded
 * however long the conversation is. */
#define _GNU_SOURCE
#include "repl/handlers.h"

#include "plugins/fail.h"
#include "repl/commands.h"
#include "repl/npy.h"
#include "repl/routing.h"
#include "repl/shell.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { TOKENS, LOGITS, PROB, EXPERT, WEIGHT, N_FILES };
enum { PIECE_BYTES = 16 << 20, MAX_PIECE = 256 };

struct dump {
    struct shell *sh;
    struct npy file[N_FILES];
    uint32_t T, V, E, k;
    uint64_t routed;                       /* (token, layer) pairs that arrived */
    int32_t *wide;                         /* [MAX_PIECE][k] experts as int32, -1: none   */
    float   *weight;                       /* [MAX_PIECE][k] their weights, 0: none       */
};

static void on_route(void *ctx, const struct dbrx_route *r)
{
    struct dump *d = ctx;
    if (!r->prob || r->top_k > d->k || r->n_experts != d->E || r->n_tokens > MAX_PIECE ||
        r->pos + r->n_tokens > d->T || r->layer >= d->sh->ckpt->desc.config.n_layers)
        return;                            /* shows in the count */
    uint64_t row = (uint64_t)r->layer * d->T + r->pos;
    size_t n = (size_t)r->n_tokens * d->k;
    for (size_t i = 0; i < n; i++) {       /* steering may have chosen fewer at this layer */
        size_t from = i / d->k * r->top_k + i % d->k;
        int there = i % d->k < r->top_k;
        d->wide[i] = there ? r->expert[from] : -1;
        d->weight[i] = there ? r->weight[from] : 0;
    }
    npy_write(&d->file[PROB], row * d->E, r->prob, (size_t)r->n_tokens * d->E);
    npy_write(&d->file[EXPERT], row * d->k, d->wide, n);
    npy_write(&d->file[WEIGHT], row * d->k, d->weight, n);
    d->routed += r->n_tokens;
}

static int disk_trouble(const struct dump *d)
{
    for (int i = 0; i < N_FILES; i++)
        if (d->file[i].error)
            return d->file[i].error;
    return 0;
}

static dbrx_status on_piece(void *ctx, uint32_t pos, uint32_t n, const float *logits)
{
    struct dump *d = ctx;
    npy_write(&d->file[LOGITS], (uint64_t)pos * d->V, logits, (size_t)n * d->V);
    render_progress(&d->sh->out, "writing logits and routes", pos + n, d->T);
    return disk_trouble(d) ? DBRX_E_IO : DBRX_OK;
}

/* The folder, made if need be; *made says so.  0 or -1 */
static int make_dir(struct shell *sh, const char *dir, int *made)
{
    struct stat st;
    *made = !mkdir(dir, 0777);
    if (*made)
        return 0;
    int why = errno;
    if (!stat(dir, &st) && !S_ISDIR(st.st_mode))
        return render_error(&sh->out, "%s is not a directory; nothing was written", dir);
    return why == EEXIST ? 0 : render_error(&sh->out, "%s cannot be created: %s", dir, strerror(why));
}

static int create_files(struct dump *d, const char *dir)
{
    const uint64_t L = d->sh->ckpt->desc.config.n_layers;
    const struct { const char *name, *type; unsigned rank; uint64_t dim[NPY_MAX_RANK]; } f[N_FILES] = {
        [TOKENS] = { "tokens", "<i4", 1, { d->T } },
        [LOGITS] = { "logits", "<f4", 2, { d->T, d->V } },
        [PROB]   = { "router_prob", "<f4", 3, { L, d->T, d->E } },
        [EXPERT] = { "expert", "<i4", 3, { L, d->T, d->k } },
        [WEIGHT] = { "weight", "<f4", 3, { L, d->T, d->k } } };
    for (int i = 0; i < N_FILES; i++)
        if (npy_create(&d->file[i], dir, f[i].name, f[i].type, f[i].rank, f[i].dim))
            return -1;
    return 0;
}

/* Evaluates and fills the files; 0 or -1 after saying why */
static int fill(struct dump *d, const char *dir)
{
    struct shell *sh = d->sh;
    const struct dbrx_config *c = &sh->ckpt->desc.config;
    struct dbrx_route_sink sink = { .struct_size = sizeof sink, .want = DBRX_ROUTE_PROB,
                                    .ctx = d, .emit = on_route };
    struct dbrx_error err = { 0 };
    uint32_t step = (uint32_t)(PIECE_BYTES / (sizeof(float) * d->V));
    step = step < 1 ? 1 : step > MAX_PIECE ? MAX_PIECE : step;
    dbrx_status st = DBRX_OK;
    if (!create_files(d, dir)) {
        npy_write(&d->file[TOKENS], 0, sh->sess->token, d->T);
        render_busy(&sh->out, 1);
        st = sess_rescan(sh->sess, step, &sink, on_piece, d, &err);
        render_busy(&sh->out, 0);
    }
    int whole = st == DBRX_OK && d->routed == (uint64_t)c->n_layers * d->T;
    for (int i = 0; whole && i < N_FILES; i++)
        npy_finish(&d->file[i]);
    for (int i = 0; whole && i < N_FILES && !disk_trouble(d); i++)
        npy_commit(&d->file[i]);
    if (disk_trouble(d))
        return render_error(&sh->out, "writing to %s failed: %s", dir, strerror(disk_trouble(d)));
    if (st == DBRX_STOPPED)
        return render_error(&sh->out, "interrupted; nothing was written");
    if (st != DBRX_OK)
        return shell_failed(sh, st, &err);
    if (!whole)
        return render_error(&sh->out, "%s did not report all routes; nothing was written",
                            disp_name(sh->disp));
    return 0;
}

int handle_dump(struct shell *sh, const struct args *a)
{
    const struct dbrx_config *c = &sh->ckpt->desc.config;
    int made = 0;
    if (!sh->sess->n)
        return render_error(&sh->out, "there is nothing to dump: the conversation is empty");
    if (!disp_name(sh->disp))
        return render_error(&sh->out, "no backend is open; /backend NAME opens one");
    struct dump d = { .sh = sh, .T = sh->sess->n, .V = c->n_vocab, .E = c->n_experts, .k = routing_k(c, disp_steered(sh->disp)) };
    const char *dir = a->text[0];
    d.wide = malloc((size_t)MAX_PIECE * d.k * sizeof *d.wide);
    d.weight = malloc((size_t)MAX_PIECE * d.k * sizeof *d.weight);
    int failed = !d.wide || !d.weight ? render_error(&sh->out, "out of memory")
                                 : make_dir(sh, dir, &made) || fill(&d, dir);
    for (int i = 0; i < N_FILES; i++)
        npy_abort(&d.file[i]);
    free(d.wide);
    free(d.weight);
    if (failed) {
        if (made)
            rmdir(dir);
        return -1;
    }
    cJSON *f = cJSON_CreateObject();
    field_string(f, "dir", dir);
    cJSON_AddNumberToObject(f, "tokens", d.T);
    render_event(&sh->out, "status", f, "wrote tokens, logits, router_prob, expert and weight (.npy) of "
                 "%u tokens to %s", d.T, dir);
    return 0;
}
