/* repl/heat.h -- numbers and kinds as colours: for maps on a terminal, in SVG and in HTML.
 *
 * Numbers from 0 to 1 go along one scale, viridis: its lightness rises evenly, so that the
 * order shows to the colour-blind and in grey too.  A cell brings its own background and
 * writes on it in black or white, whichever is easier to read: it looks the same on dark and
 * on light terminals.  Without colours the scale is made of characters with ever more ink.
 * Knows no terminal: how many colours there are the caller says (render_colours). */
#ifndef DBRX_REPL_HEAT_H
#define DBRX_REPL_HEAT_H

#include <stdint.h>
#include <stdio.h>

enum heat_colours { HEAT_NONE, HEAT_256, HEAT_TRUE };

/* 0xrrggbb of v; below 0 is 0, above 1 is 1, NaN is 0. */
uint32_t heat_rgb(double v);
int      heat_256(double v);               /* the same as one of 256 colours */
char     heat_char(double v);              /* ... as a character; a blank for 0 alone */
/* Black text on that, or white? */
int      heat_dark_text(uint32_t rgb);

/* A cell of `width` columns: text (ASCII, cut to the width; or "") in its middle, on v's
 * colour.  NaN: there is no value, the text stands alone.  Without colours the text, or v's
 * character all over. */
void heat_cell(FILE *, enum heat_colours, double v, unsigned width, const char *text);
/* "low [the scale] high" on the current line. */
void heat_legend(FILE *, enum heat_colours, const char *low, const char *high);

/* Things of a kind (an expert, a topic) rather than an amount: HEAT_HUES colours that the
 * colour-blind can tell apart (Okabe and Ito's), then the same underlined, then again. */
enum { HEAT_HUES = 8 };
uint32_t heat_hue(unsigned kind);
char     heat_letter(unsigned kind);       /* 0-9, a-z, A-Z, then again */
/* UTF-8 text on the kind's colour; as it is without colours. */
void heat_kind(FILE *, enum heat_colours, unsigned kind, const char *text);

#endif
