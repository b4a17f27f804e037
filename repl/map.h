/* repl/map.h -- a heat map: a matrix of numbers with names for its rows and columns.
 *
 * Drawn with characters for a terminal of any width, with or without colours, or as SVG.
 * Knows neither experts nor tokens. */
#ifndef DBRX_REPL_MAP_H
#define DBRX_REPL_MAP_H

#include "repl/heat.h"

/* A number per row, or per column, beside the matrix, on a scale of its own */
struct map_side { const char *name; double *v, lo, hi; };
enum { MAP_SIDES = 2 };

struct map {                               /* strings are UTF-8 on one line              */
    char    *title;
    const char *corner;                    /* what the columns are: "layer"              */
    const char *what;                      /* the numbers are: "weight"                  */
    char    *note;                         /* a sentence below, or NULL                  */
    uint32_t rows, cols;
    double  *v;                            /* [rows][cols]; NaN: there is nothing        */
    double   lo, hi;                       /* the ends of the scale                      */
    char   **row, **col;                   /* [rows], [cols] names                       */
    struct map_side side[MAP_SIDES];       /* name NULL: there is none                   */
    int      by_row;                       /* sides have a number a row, else a column   */
};

/* Room for rows x cols, all NaN, names NULL; also for the sides.  0, or -1: no memory (and
 * nothing to free). */
int  map_new(struct map *, uint32_t rows, uint32_t cols, int by_row);
void map_free(struct map *);
/* lo and hi from the numbers there are, 0 among them with `zero`. */
void map_fit(struct map *, int zero);

/* Lines of at most `width` columns, for render_picture; columns that do not fit beside each
 * other come below. */
void map_text(FILE *, const struct map *, enum heat_colours, unsigned width);
/* A whole SVG document. */
void map_svg(FILE *, const struct map *);

#endif
