/* repl/cells.h -- the rows that an instrument hands over: collected, checked, then shown as
 * tables of text or as JSON.  Knows columns and cells, nothing of what is in them. */
#ifndef DBRX_REPL_CELLS_H
#define DBRX_REPL_CELLS_H

#include "plugins/observer.h"
#include "repl/render.h"

struct cells;

/* `of` is the instrument's name.  NULL: no memory. */
struct cells *cells_new(const char *of);
void cells_free(struct cells *);
/* What the instrument gets; valid as long as the cells. */
const struct dbrx_rows *cells_rows(struct cells *);

/* All tables, in order, to the renderer.  0, or -1 after one sentence in err: out of memory, too
 * many cells (nothing is shown then). */
int cells_show(struct cells *, struct render *, char *err, size_t size);
/* The first table as at most `lines` lines for a panel, `width` wide; its title only where there is
 * room.  free() it; NULL: there are no rows, or no memory. */
char *cells_panel(struct cells *, struct render *, unsigned lines, unsigned width);
/* What was wrong with the rows themselves, or NULL: misplaced cells, none of which is shown. */
const char *cells_complaint(const struct cells *);

#endif
