/* repl/cells.c -- see cells.h.  Tables are kept as the JSON that they become; text is made of
 * that when the table is complete, because a heat map's scale is known only then. */
#define _GNU_SOURCE
#include "repl/cells.h"
#include "repl/plain.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_COLUMNS = 64, MAX_CELLS = 200000, MAX_TEXT = 4096, TEXT_CELL = 64 };    /* bytes that count as one */

struct table {
    char    *title;                        /* or NULL                                    */
    struct dbrx_column *col;               /* [n_col]; name and title owned              */
    uint32_t n_col;
    cJSON   *head, *rows, *notes;
};

struct cells {
    struct dbrx_rows rows;
    char *of;
    struct table *table;                   /* [n]                                        */
    size_t n, n_cells;                     /* cells: with rows, facts, notes, long texts */
    uint32_t at;                           /* the next cell's column                     */
    cJSON *row;                            /* begun, or NULL                             */
    int failed;                            /* out of memory                              */
    char complaint[160];
};

__attribute__((format(printf, 2, 3)))
static void complain(struct cells *c, const char *fmt, ...)
{
    va_list ap;
    if (c->complaint[0])
        return;
    va_start(ap, fmt);
    vsnprintf(c->complaint, sizeof c->complaint, fmt, ap);
    va_end(ap);
}

/* ---- collecting ---- */

/* Is there still room for that much?  Nothing is shown when there is not. */
static int room(struct cells *c, size_t n_cells)
{
    c->n_cells = n_cells < MAX_CELLS - c->n_cells ? c->n_cells + n_cells : MAX_CELLS;
    return c->n_cells < MAX_CELLS;
}

static struct table *current(struct cells *c)
{
    return c->n ? &c->table[c->n - 1] : NULL;
}

static int name_ok(const char *name)
{
    return name && *name && !name[strspn(name, "abcdefghijklmnopqrstuvwxyz0123456789_")];
}

static void end_row(void *ctx)
{
    struct cells *c = ctx;
    struct table *t = current(c);
    if (!t) {
        complain(c, "a row without a table");
        return;
    }
    c->at = 0;
    if (!room(c, 1))
        return;
    if (!c->row)
        c->row = cJSON_CreateObject();
    c->failed |= !c->row || !cJSON_AddItemToArray(t->rows, c->row);
    c->row = NULL;
}

/* The next column gets this value; takes it */
static void put_cell(struct cells *c, uint32_t kind, cJSON *value)
{
    struct table *t = current(c);
    if (!t || c->at >= t->n_col) {
        complain(c, t ? "more cells in a row than the table has columns" : "a cell without a table");
    } else if (t->col[c->at].kind != kind && !(kind == DBRX_CELL_NUM && t->col[c->at].kind == DBRX_CELL_HEAT)) {
        complain(c, "a cell that is not of its column's kind (%s)", t->col[c->at].name);
        c->at++;
    } else if (!room(c, 1)) {
        c->at++;
    } else {
        if (!c->row)
            c->row = cJSON_CreateObject();
        if (c->row && value && cJSON_AddItemToObject(c->row, t->col[c->at++].name, value))
            return;
        c->failed = 1;
    }
    cJSON_Delete(value);
}

static void put_text(void *ctx, const char *text)
{
    struct cells *c = ctx;
    size_t n = text ? strnlen(text, MAX_TEXT) : 0;
    cJSON *holder = cJSON_CreateObject();
    field_text(holder, "t", n ? text : "", room(c, n / TEXT_CELL) ? n : 0);
    put_cell(c, DBRX_CELL_TEXT, cJSON_DetachItemFromObjectCaseSensitive(holder, "t"));
    cJSON_Delete(holder);
}

static void put_num(void *ctx, double v)
{
    put_cell(ctx, DBRX_CELL_NUM, json_real(v));
}

static void put_nums(void *ctx, const double *v, uint32_t n)
{
    struct cells *c = ctx;
    cJSON *list = cJSON_CreateArray();
    for (uint32_t i = 0; v && i < n && room(c, 1); i++)
        c->failed |= !cJSON_AddItemToArray(list, json_real(v[i]));
    put_cell(c, DBRX_CELL_HEAT, list);
}

static void put_fact(void *ctx, const char *name, double v)
{
    struct cells *c = ctx;
    struct table *t = current(c);
    if (!t || !name_ok(name))
        complain(c, "a fact without a table or a name");
    else if (room(c, 1))
        field_real(cJSON_GetObjectItemCaseSensitive(t->head, "facts"), name, v);
}

static void put_note(void *ctx, const char *text)
{
    struct cells *c = ctx;
    struct table *t = current(c);
    if (!t || !text) {
        complain(c, "a note without a table");
        return;
    }
    size_t n = strnlen(text, MAX_TEXT);
    if (!room(c, 1 + n / TEXT_CELL))
        return;
    cJSON *holder = cJSON_CreateObject();
    field_text(holder, "t", text, n);
    cJSON_AddItemToArray(t->notes, cJSON_DetachItemFromObjectCaseSensitive(holder, "t"));
    cJSON_Delete(holder);
}

static void begin_table(void *ctx, const char *name, const char *title, const struct dbrx_column *col,
                        uint32_t n)
{
    struct cells *c = ctx;
    if (c->row)
        end_row(c);
    int good = name_ok(name) && col && n && n <= MAX_COLUMNS;
    for (uint32_t i = 0; good && i < n; i++)
        good = name_ok(col[i].name) && col[i].kind <= DBRX_CELL_HEAT;
    if (!good) {
        complain(c, "a table without a proper name or columns");
        return;
    }
    if (!room(c, n))
        return;
    struct table *list = realloc(c->table, (c->n + 1) * sizeof *list);
    if (list)
        c->table = list;
    struct table t = { .title = title ? strndup(title, MAX_TEXT) : NULL, .col = calloc(n, sizeof *t.col), .n_col = n,
                       .head = cJSON_CreateObject(), .rows = cJSON_CreateArray(), .notes = cJSON_CreateArray() };
    if (!list || !t.col || (title && !t.title)) {
        c->failed = 1;
        free(t.title);
        free(t.col);
        return;
    }
    for (uint32_t i = 0; i < n; i++) {
        t.col[i] = col[i];
        t.col[i].name = strdup(col[i].name);
        t.col[i].title = strndup(col[i].title ? col[i].title : col[i].name, 64);
        t.col[i].decimals = col[i].decimals < 12 ? col[i].decimals : 12;
        c->failed |= !t.col[i].name || !t.col[i].title;
    }
    field_string(t.head, "instrument", c->of);
    field_string(t.head, "table", name);
    cJSON_AddObjectToObject(t.head, "facts");
    c->table[c->n++] = t;
    c->at = 0;
}

struct cells *cells_new(const char *of)
{
    struct cells *c = calloc(1, sizeof *c);
    if (!c || !(c->of = strdup(of))) {
        free(c);
        return NULL;
    }
    c->rows = (struct dbrx_rows){ sizeof c->rows, c, begin_table, put_text, put_num, put_nums, end_row,
                                  put_fact, put_note };
    return c;
}

void cells_free(struct cells *c)
{
    for (size_t i = 0; c && i < c->n; i++) {
        struct table *t = &c->table[i];
        for (uint32_t k = 0; k < t->n_col; k++) {
            free((char *)t->col[k].name);
            free((char *)t->col[k].title);
        }
        free(t->col);
        free(t->title);
        cJSON_Delete(t->head);
        cJSON_Delete(t->rows);
        cJSON_Delete(t->notes);
    }
    if (c) {
        cJSON_Delete(c->row);
        free(c->table);
        free(c->of);
    }
    free(c);
}

const struct dbrx_rows *cells_rows(struct cells *c)
{
    return &c->rows;
}

const char *cells_complaint(const struct cells *c)
{
    return c->complaint[0] ? c->complaint : NULL;
}

/* ---- showing ---- */

static void largest(const cJSON *v, double *hi)
{
    if (cJSON_IsArray(v))
        for (const cJSON *e = v->child; e; e = e->next)
            largest(e, hi);
    else if (cJSON_IsNumber(v) && v->valuedouble > *hi)
        *hi = v->valuedouble;
}

static double scaled(const cJSON *v, double lo, double hi)
{
    return !cJSON_IsNumber(v) ? (double)NAN : hi > lo ? (v->valuedouble - lo) / (hi - lo) : 0;
}

/* How many columns a cell of a strip gets */
static unsigned strip_cell(const cJSON *list)
{
    enum { MANY = 24 };                    /* cells a row: these get one column, fewer get two */
    return cJSON_IsArray(list) && cJSON_GetArraySize(list) > MANY ? 1 : 2;
}

/* The numbers of a strip's cells, every one or every fifth; NULL: it has none.  free() it */
static char *strip_heading(const struct table *t, unsigned indent, unsigned width)
{
    const cJSON *v = NULL;
    for (uint32_t k = 0; k < t->n_col && !v; k++)
        if (t->col[k].kind == DBRX_CELL_HEAT && t->col[k].decimals && t->rows->child)
            v = cJSON_GetObjectItemCaseSensitive(t->rows->child, t->col[k].name);
    char *text = NULL;
    size_t size;
    FILE *f = v ? open_memstream(&text, &size) : NULL;
    if (!f)
        return NULL;
    unsigned n = (unsigned)cJSON_GetArraySize(v), wide = strip_cell(v), step = n > 10 ? 5 : 1;
    fprintf(f, "%*s", (int)indent, "");
    for (unsigned i = 0; i < n && indent + (i + step) * wide <= width; i += step)
        fprintf(f, "%-*u", (int)(step * wide), i);
    return fclose(f) ? free(text), NULL : text;
}

/* At most `width` columns of it */
static char *heat_text(const cJSON *v, double lo, double hi, enum heat_colours colours, unsigned width)
{
    int list = cJSON_IsArray(v);
    unsigned wide = strip_cell(v);
    char *text = NULL;
    size_t size;
    FILE *f = open_memstream(&text, &size);
    for (const cJSON *e = list ? v->child : v; f && e && width >= wide; e = list ? e->next : NULL, width -= wide)
        heat_cell(f, colours, scaled(e, lo, hi), wide, cJSON_IsNumber(e) ? "" : "?");
    if (f && !fclose(f))
        return text;
    free(text);
    return NULL;
}

/* The table's rows with nothing but text in them */
static void as_text(const struct table *t, enum heat_colours colours, unsigned width)
{
    for (uint32_t k = 0; k < t->n_col; k++) {
        const struct dbrx_column *c = &t->col[k];
        double lo = c->lo, hi = c->hi;
        const cJSON *row;
        if (lo == hi)
            for (lo = hi = 0, row = t->rows->child; row; row = row->next)
                largest(cJSON_GetObjectItemCaseSensitive(row, c->name), &hi);
        if (c->kind == DBRX_CELL_TEXT)
            continue;
        cJSON_ArrayForEach(row, t->rows) {
            const cJSON *v = cJSON_GetObjectItemCaseSensitive(row, c->name);
            char *text = NULL;
            if (!v)
                continue;
            if (c->kind == DBRX_CELL_HEAT)
                text = heat_text(v, lo, hi, colours, width);
            else if (!cJSON_IsNumber(v))
                text = strdup("-");
            else if (asprintf(&text, "%.*f", (int)c->decimals, v->valuedouble) < 0)
                text = NULL;
            cJSON_ReplaceItemInObjectCaseSensitive((cJSON *)row, c->name, cJSON_CreateString(text ? text : ""));
            free(text);
        }
    }
}

int cells_show(struct cells *c, struct render *r, char *err, size_t size)
{
    if (c->row)
        end_row(c);
    if (c->failed || c->n_cells >= MAX_CELLS) {
        snprintf(err, size, c->failed ? "out of memory" : "it handed over more than %d cells, nothing of which "
                 "is shown", MAX_CELLS);
        return -1;
    }
    for (size_t i = 0; i < c->n; i++) {
        struct table *t = &c->table[i];
        struct column col[MAX_COLUMNS + 1] = { 0 };
        struct rows rows = { "instrument", NULL, "rows", col, 1 };
        if (!r->json)
            as_text(t, render_colours(r), render_width(r));
        for (uint32_t k = 0; k < t->n_col; k++) {
            uint32_t kind = t->col[k].kind;
            col[k] = (struct column){ t->col[k].name, t->col[k].title,
                kind == DBRX_CELL_NUM ? 1 : kind == DBRX_CELL_HEAT ? COLUMN_PICTURE : 0, 0, NULL };
            rows.no_heading &= !*t->col[k].title;
        }
        if (r->json)
            cJSON_AddItemToObject(t->head, "notes", cJSON_Duplicate(t->notes, 1));
        render_rows(r, &rows, t->title, t->head, t->rows);
        t->head = t->rows = NULL;
        for (const cJSON *note = r->json ? NULL : t->notes->child; note; note = note->next)
            render_paragraph(r, 0, note->valuestring);
    }
    return 0;
}

char *cells_panel(struct cells *c, struct render *r, unsigned lines, unsigned width)
{
    struct table *t = c->n ? &c->table[0] : NULL;
    enum { NAME = 5 };                     /* columns of text in front of the strip       */
    unsigned n = t ? (unsigned)cJSON_GetArraySize(t->rows) : 0, at = 0;
    char *text = NULL;
    size_t size;
    FILE *f = n && !c->failed ? open_memstream(&text, &size) : NULL;
    if (!f)
        return NULL;
    char *heading = strip_heading(t, NAME, width);     /* before the cells are text */
    as_text(t, render_colours(r), width > NAME ? width - NAME : 0);
    if (t->title && n + (heading != NULL) < lines && ++at)
        plain_put(f, t->title, strnlen(t->title, width)), putc('\n', f);
    if (heading && n < lines && ++at)
        fprintf(f, "%s\n", heading);
    free(heading);
    for (const cJSON *row = t->rows->child; row && at < lines; row = row->next, at++) {
        for (uint32_t k = 0; k < t->n_col; k++) {
            const char *cell = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(row, t->col[k].name));
            fprintf(f, t->col[k].kind == DBRX_CELL_HEAT ? "%s" : "%-4.4s ", cell ? cell : "");
        }
        putc('\n', f);
    }
    if (!fclose(f))
        return text;
    free(text);
    return NULL;
}
