/* tests/instruments/misfit.c -- instruments that get things wrong, one each: built by misfits.py
 * with -DMISFIT="name" and a macro that says how. */
#include "plugins/observer.h"

#include <math.h>
#include <string.h>

#if defined WRONG_ABI
#define MAJOR 9
#else
#define MAJOR DBRX_ABI_MAJOR
#endif

static int tokens;                         /* that it was told */

static dbrx_status misfit_open(const struct dbrx_host *host, const struct dbrx_config *c, void **self,
                               struct dbrx_error *err)
{
    (void)c;
#ifdef FAILS_TO_OPEN
    memcpy(err->text, "the moon is not full", 21);
    (void)host, (void)self, (void)tokens;
    return DBRX_E_UNSUPPORTED;
#else
    (void)err;
    if (host->get(host, "dbrx.nonsense/7"))
        return DBRX_E_INVALID;
    *self = &tokens;
    return DBRX_OK;
#endif
}

static void misfit_close(void *self)
{
    (void)self;
}

static dbrx_status on_token(void *self, const struct dbrx_token *t, struct dbrx_error *err)
{
    (void)self, (void)t;
#ifdef FAILS_LATER
    if (++tokens > 3) {
        memcpy(err->text, "three are enough", 17);
        return DBRX_E_NOMEM;
    }
#endif
#ifdef SILENT
    return (dbrx_status)-77;
#endif
    (void)err;
    return DBRX_OK;
}

static dbrx_status run(void *self, int argc, const char *const *argv, const struct dbrx_rows *r, struct dbrx_error *err)
{
    static const struct dbrx_column col[] = { { "a", NULL, DBRX_CELL_NUM, 99, 0, 0, { 0 } },
        { "b", "", DBRX_CELL_TEXT, 0, 0, 0, { 0 } }, { "c", NULL, DBRX_CELL_HEAT, 0, 0, 0, { 0 } } };
    static const struct dbrx_column bad[] = { { "No Name", NULL, DBRX_CELL_NUM, 0, 0, 0, { 0 } } };
    const double v[3] = { NAN, INFINITY, 1 };
    (void)self, (void)argv, (void)err, (void)r;
#ifdef HUGE_ROWS
    r->table(r->ctx, "huge", NULL, col, 3);
    for (int i = 0; i < 1000000; i++) {
        r->num(r->ctx, i);
        r->end_row(r->ctx);
    }
#endif
#ifdef HUGE_STRIP
    static double many[1000000];
    r->table(r->ctx, "huge", NULL, col, 3);
    r->num(r->ctx, 1);
    r->text(r->ctx, "x");
    r->nums(r->ctx, many, 1000000);
#endif
#ifdef MANY_ROWS                           /* none of which has a cell */
    r->table(r->ctx, "many", NULL, col, 3);
    for (int i = 0; i < 100000000; i++)
        r->end_row(r->ctx);
#endif
#ifdef MANY_TABLES
    for (int i = 0; i < 1000000; i++)
        r->table(r->ctx, "many", "a title", col, 3);
#endif
#ifdef MANY_NOTES
    r->table(r->ctx, "many", NULL, col, 3);
    for (int i = 0; i < 10000000; i++)
        r->note(r->ctx, "and another thing"), r->fact(r->ctx, "nothing", 1);
#endif
#ifdef LONG_TEXTS
    static char text[1 << 20];
    memset(text, 'x', sizeof text - 1);
    r->table(r->ctx, "long", NULL, col, 3);
    for (int i = 0; i < 100000; i++) {
        r->num(r->ctx, 1);
        r->text(r->ctx, text);
        r->end_row(r->ctx);
    }
#endif
#ifdef NOTHING_THERE
    r->table(r->ctx, "none", NULL, NULL, 3);
    r->table(r->ctx, NULL, NULL, col, 3);
    r->table(r->ctx, "good", NULL, col, 3);
    r->num(r->ctx, NAN);
    r->text(r->ctx, NULL);
    r->nums(r->ctx, NULL, 1000);
    r->note(r->ctx, NULL);
    r->fact(r->ctx, NULL, 1);
#endif
#ifdef ODD_STATUS
    return (dbrx_status)123456;
#endif
#ifdef ENDLESS_SENTENCE
    memset(err->text, 'x', sizeof err->text);
    return DBRX_E_NOMEM;
#endif
#ifdef NOT_NUMBERS
    r->table(r->ctx, "odd", "a title", col, 3);
    r->fact(r->ctx, "nothing", NAN);
    r->num(r->ctx, NAN);
    r->text(r->ctx, "bell\a \xff\xfe escape\033[31m");
    r->nums(r->ctx, v, 3);
    r->end_row(r->ctx);
    r->num(r->ctx, -INFINITY);
    r->end_row(r->ctx);
    r->num(r->ctx, 1);                     /* not ended: the table is */
#endif
#ifdef LOST_CELLS
    r->num(r->ctx, 1);                     /* without a table */
    r->end_row(r->ctx);
    r->note(r->ctx, "lost");
    r->fact(r->ctx, "lost", 1);
    r->table(r->ctx, "Bad", NULL, bad, 1);
    r->table(r->ctx, "good", NULL, bad, 0);
    r->table(r->ctx, "good", NULL, col, 3);
    r->text(r->ctx, "in a column of numbers");
    r->text(r->ctx, NULL);
    r->nums(r->ctx, v, 0);
    r->num(r->ctx, 4);                     /* no fourth column */
    r->end_row(r->ctx);
#endif
    (void)bad, (void)v, (void)col;
    return argc ? DBRX_E_LOST : DBRX_OK;
}

static const struct dbrx_command command = {
    .struct_size = sizeof command,
#ifdef TAKES_A_NAME
    .name = "route",
#elif defined NO_HELP
    .name = MISFIT "-cmd", .usage = "", .brief = "b", .example = "/x", .run = run
};
static const struct dbrx_command unused = {
#else
    .name = MISFIT "-cmd",
#endif
    .usage = "--anything", .brief = "b", .help = "", .example = "/x", .run = run };
static const struct dbrx_command *const commands[] = { &command, NULL };
static const struct dbrx_observer observer = {
#ifdef SHORT_TABLE
    .struct_size = 16,
#else
    .struct_size = sizeof observer,
#endif
    .commands = commands, .open = misfit_open, .close = misfit_close, .on_token = on_token };

static const void *get(const char *id)
{
#ifdef NO_HELP
    (void)unused;
#endif
    return strcmp(id, DBRX_OBSERVER) ? NULL : &observer;
}

DBRX_EXPORT const struct dbrx_module_info dbrx_module = {
    .struct_size = sizeof dbrx_module, .abi_major = MAJOR, .abi_minor = DBRX_ABI_MINOR, .name = MISFIT, .version = "1",
    .summary = "wrong", .get = get };
