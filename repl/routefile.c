/* repl/routefile.c -- see routefile.h. */
#define _GNU_SOURCE
#include "repl/routefile.h"

#include "repl/atomic.h"
#include "repl/handlers.h"
#include "repl/npy.h"
#include "repl/shell.h"
#include "repl/signals.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <minizip/zip.h>

struct out {
    struct shell *sh;
    const struct routing *r;
    const int32_t *id;
    const uint8_t *tok;
    uint32_t n;                            /* tokens that are meant                       */
};

static int meant(const struct out *o, uint32_t i)
{
    return !o->tok || o->tok[i];
}

static size_t at(const struct routing *r, uint32_t layer, uint32_t i)
{
    return (size_t)layer * r->n + i;
}

/* done of all rows are written; 0, or ECANCELED: the user does not want to wait for more */
static int going_on(const struct out *o, uint64_t done, uint64_t all)
{
    render_progress(&o->sh->out, "writing", done, all);
    return signals_stop() ? ECANCELED : 0;
}

/* ---- JSON ---- */

static void add_all(cJSON *obj, const char *key, const float *v, uint32_t n)
{
    cJSON *list = cJSON_AddArrayToObject(obj, key);
    for (uint32_t e = 0; e < n; e++)
        cJSON_AddItemToArray(list, json_real((double)v[e]));
}

cJSON *route_layer_json(const struct routing *r, uint32_t layer, uint32_t i, int with)
{
    const uint16_t *expert;
    const float *weight;
    uint32_t k = routing_chosen(r, layer, i, &expert, &weight);
    cJSON *row = cJSON_CreateObject();
    cJSON_AddNumberToObject(row, "layer", layer);
    cJSON *list = cJSON_AddArrayToObject(row, "expert");
    for (uint32_t j = 0; j < k; j++)
        cJSON_AddItemToArray(list, cJSON_CreateNumber(expert[j]));
    add_all(row, "weight", weight, k);
    field_real(row, "margin", routing_margin(r, layer, i));
    field_real(row, "entropy", routing_entropy(r, layer, i));
    if (with & ROUTE_PROB)
        add_all(row, "prob", r->prob + at(r, layer, i) * r->n_experts, r->n_experts);
    if (with & ROUTE_LOGIT)
        add_all(row, "logit", r->logit + at(r, layer, i) * r->n_experts, r->n_experts);
    return row;
}

cJSON *route_token_json(const struct shell *sh, const struct routing *r, uint32_t i, int32_t id)
{
    cJSON *row = cJSON_CreateObject();
    char *text = token_text(sh, id);
    cJSON_AddNumberToObject(row, "pos", r->from + i);
    cJSON_AddNumberToObject(row, "id", id);
    field_string(row, "text", text ? text : "");
    free(text);
    return row;
}

static void write_jsonl(struct atomic *f, const struct out *o)
{
    for (uint32_t i = 0; i < o->r->n && !f->error; i++) {
        if (!meant(o, i) || (f->error = going_on(o, i, o->r->n)))
            continue;
        cJSON *row = route_token_json(o->sh, o->r, i, o->id[i]), *layers = cJSON_AddArrayToObject(row, "layers");
        for (uint32_t l = 0; l < o->r->n_layers; l++)
            cJSON_AddItemToArray(layers, route_layer_json(o->r, l, i, ROUTE_PROB | ROUTE_LOGIT));
        char *line = cJSON_PrintUnformatted(row);
        if (line) {
            atomic_write(f, line, strlen(line));
            atomic_write(f, "\n", 1);
        } else {
            f->error = ENOMEM;
        }
        cJSON_free(line);
        cJSON_Delete(row);
    }
}

/* ---- CSV ---- */

static void put_real(FILE *f, double v)
{
    fputc(',', f);
    if (isfinite(v))
        fprintf(f, "%.9g", v);
}

static void write_csv(struct atomic *f, const struct out *o)
{
    const struct routing *r = o->r;
    fputs("pos,id,text,layer,rank,expert,weight,prob,logit,margin,entropy\n", f->f);
    for (uint32_t i = 0; i < r->n && !(f->error = going_on(o, i, r->n)); i++) {
        char *text = meant(o, i) ? token_text(o->sh, o->id[i]) : NULL;
        for (uint32_t l = 0; l < r->n_layers && text; l++) {
            const uint16_t *expert;
            const float *weight;
            uint32_t k = routing_chosen(r, l, i, &expert, &weight);
            for (uint32_t j = 0; j < k; j++) {
                fprintf(f->f, "%u,%d,\"", r->from + i, o->id[i]);
                for (const char *p = text; *p; p++)
                    fprintf(f->f, *p == '"' ? "\"%c" : "%c", *p);
                fprintf(f->f, "\",%u,%u,%u", l, j, expert[j]);
                size_t e = at(r, l, i) * r->n_experts + expert[j];
                put_real(f->f, (double)weight[j]);
                put_real(f->f, (double)r->prob[e]);
                put_real(f->f, (double)r->logit[e]);
                put_real(f->f, routing_margin(r, l, i));
                put_real(f->f, routing_entropy(r, l, i));
                fputc('\n', f->f);
            }
        }
        int none = meant(o, i) && !text;
        free(text);
        if (none) {
            f->error = ENOMEM;
            break;
        }
    }
    if (ferror(f->f) && !f->error)
        f->error = errno ? errno : EIO;
}

/* ---- .npz: a zip of .npy files ---- */

struct npz { zipFile zip; int error; };

/* 0, or what went wrong */
static int zip_error(int status)
{
    return status == ZIP_OK ? 0 : status == ZIP_ERRNO && errno ? errno : EIO;
}

static void npz_begin(struct npz *z, const char *name, const char *dtype, unsigned rank, const uint64_t *dim)
{
    char file[64], head[NPY_MAX_HEADER];
    zip_fileinfo info = { .tmz_date = { .tm_mday = 1, .tm_year = 1980 } };
    size_t n = npy_header(head, dtype, rank, dim);
    snprintf(file, sizeof file, "%s.npy", name);
    if (!z->error)
        z->error = zip_error(zipOpenNewFileInZip64(z->zip, file, &info, NULL, 0, NULL, 0, NULL, Z_DEFLATED,
                                                   Z_BEST_SPEED, 1));
    if (!z->error)
        z->error = zip_error(zipWriteInFileInZip(z->zip, head, (unsigned)n));
}

static void npz_put(struct npz *z, const void *elem, size_t n)
{
    if (!z->error)
        z->error = zip_error(zipWriteInFileInZip(z->zip, elem, (unsigned)(4 * n)));
}

static void npz_end(struct npz *z)
{
    if (!z->error)
        z->error = zip_error(zipCloseFileInZip(z->zip));
}

/* [n_layers][n][width] floats */
static void npz_rows(struct npz *z, const struct out *o, const char *name, const float *v, uint32_t width)
{
    npz_begin(z, name, "<f4", 3, (uint64_t[]){ o->r->n_layers, o->n, width });
    for (uint32_t l = 0; l < o->r->n_layers && !z->error && !(z->error = going_on(o, l, o->r->n_layers)); l++)
        for (uint32_t i = 0; i < o->r->n; i++)
            if (meant(o, i))
                npz_put(z, v + at(o->r, l, i) * width, width);
    npz_end(z);
}

static void npz_measure(struct npz *z, const struct out *o, const char *name,
                        double measure(const struct routing *, uint32_t, uint32_t))
{
    npz_begin(z, name, "<f4", 2, (uint64_t[]){ o->r->n_layers, o->n });
    for (uint32_t l = 0; l < o->r->n_layers; l++)
        for (uint32_t i = 0; i < o->r->n; i++)
            if (meant(o, i))
                npz_put(z, &(float){ (float)measure(o->r, l, i) }, 1);
    npz_end(z);
}

static void npz_tokens(struct npz *z, const struct out *o)
{
    npz_begin(z, "pos", "<i4", 1, (uint64_t[]){ o->n });
    for (uint32_t i = 0; i < o->r->n; i++)
        if (meant(o, i))
            npz_put(z, &(int32_t){ (int32_t)(o->r->from + i) }, 1);
    npz_end(z);
    npz_begin(z, "tokens", "<i4", 1, (uint64_t[]){ o->n });
    for (uint32_t i = 0; i < o->r->n; i++)
        if (meant(o, i))
            npz_put(z, &o->id[i], 1);
    npz_end(z);
}

/* The texts as numpy has them: code points, each text filled with zeros to the longest */
static void npz_text(struct npz *z, const struct out *o)
{
    size_t longest = 1;
    char dtype[32];
    uint32_t *points = NULL;
    for (int write = 0; write < 2 && !z->error; write++) {
        for (uint32_t i = 0; i < o->r->n && !z->error; i++) {
            char *text = meant(o, i) ? token_text(o->sh, o->id[i]) : NULL;
            size_t n = 0, len;
            z->error = meant(o, i) && !text ? ENOMEM : z->error;
            if (write)
                memset(points, 0, longest * sizeof *points);
            for (const char *p = text; p && *p; p += len, n++) {
                int32_t c = char_decode(p, strlen(p), &len);
                len = c < 0 ? 1 : len;
                if (write)
                    points[n] = c < 0 ? 0xfffd : (uint32_t)c;
            }
            longest = n > longest ? n : longest;
            if (write && text)
                npz_put(z, points, longest);
            free(text);
        }
        if (write || z->error)
            break;
        if (!(points = malloc(longest * sizeof *points)))
            z->error = ENOMEM;
        snprintf(dtype, sizeof dtype, "<U%zu", longest);
        npz_begin(z, "text", dtype, 1, (uint64_t[]){ o->n });
    }
    npz_end(z);
    free(points);
}

static void npz_experts(struct npz *z, const struct out *o)
{
    const struct routing *r = o->r;
    npz_begin(z, "expert", "<i4", 3, (uint64_t[]){ r->n_layers, o->n, r->k });
    for (uint32_t l = 0; l < r->n_layers; l++)
        for (uint32_t i = 0; i < r->n; i++)
            for (uint32_t j = 0; j < r->k && meant(o, i); j++) {
                uint16_t e = r->expert[at(r, l, i) * r->k + j];
                npz_put(z, &(int32_t){ e == UINT16_MAX ? -1 : e }, 1);
            }
    npz_end(z);
}

static void write_npz(struct atomic *f, const struct out *o)
{
    struct npz z = { .zip = zipOpen64(f->tmp, APPEND_STATUS_CREATE) };
    if (!z.zip) {
        f->error = errno ? errno : EIO;
        return;
    }
    npz_tokens(&z, o);
    npz_text(&z, o);
    npz_experts(&z, o);
    npz_rows(&z, o, "weight", o->r->weight, o->r->k);
    npz_rows(&z, o, "router_prob", o->r->prob, o->r->n_experts);
    npz_rows(&z, o, "router_logit", o->r->logit, o->r->n_experts);
    npz_measure(&z, o, "margin", routing_margin);
    npz_measure(&z, o, "entropy", routing_entropy);
    int closed = zip_error(zipClose(z.zip, NULL));
    f->error = z.error ? z.error : closed;
}

/* ---- */

enum route_format route_format(const char *path)
{
    static const char *const end[] = { ".jsonl", ".csv", ".npz" };
    int i = 0;
    for (size_t n = strlen(path); i < ROUTE_NO_FORMAT; i++)
        if (n > strlen(end[i]) && !strcmp(path + n - strlen(end[i]), end[i]))
            break;
    return (enum route_format)i;
}

int route_write(const char *path, enum route_format format, struct shell *sh, const struct routing *r,
                const int32_t *id, const uint8_t *tok)
{
    struct out o = { sh, r, id, tok, 0 };
    struct atomic f;
    for (uint32_t i = 0; i < r->n; i++)
        o.n += meant(&o, i) != 0;
    int why = atomic_open(&f, path);
    if (why)
        return why;
    if (format == ROUTE_NPZ)
        write_npz(&f, &o);
    else if (format == ROUTE_CSV)
        write_csv(&f, &o);
    else
        write_jsonl(&f, &o);
    return atomic_commit(&f);
}
