/* repl/panel.h -- a few lines at the bottom of the terminal that change while a reply is
 * written above them.
 *
 * The reply scrolls in the rest of the screen (DECSTBM, as apt's progress bar has it), so
 * neither tears the other.  Where that is not possible nothing happens.  Knows no content. */
#ifndef DBRX_REPL_PANEL_H
#define DBRX_REPL_PANEL_H

#include "repl/render.h"

struct panel { unsigned lines, rows, cols; };  /* lines 0: closed */

/* How many lines a panel may have here; 0: none, this is no terminal or a small one. */
unsigned panel_room(const struct render *);
/* The cursor stands where the reply begins, at the left margin. */
void panel_open(struct panel *, const struct render *, unsigned lines);
/* text: lines, each ending in a newline, at most as many and as wide as there are; may have
 * colours.  Takes note of a screen that changed its size. */
void panel_draw(struct panel *, const struct render *, const char *text);
/* The screen is the reply's again; the cursor is where it was. */
void panel_close(struct panel *);

#endif
