/* repl/map.c -- see map.h. */
#include "repl/map.h"

#include "repl/plain.h"
#include "repl/render.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

int map_new(struct map *m, uint32_t rows, uint32_t cols, int by_row)
{
    size_t n = (size_t)rows * cols, sides = by_row ? rows : cols;
    *m = (struct map){ .rows = rows, .cols = cols, .hi = 1, .by_row = by_row };
    m->v = malloc((n + 1) * sizeof *m->v);
    m->row = calloc(rows + 1, sizeof *m->row);
    m->col = calloc(cols + 1, sizeof *m->col);
    int bad = !m->v || !m->row || !m->col;
    for (int s = 0; s < MAP_SIDES; s++)
        bad |= !(m->side[s].v = malloc((sides + 1) * sizeof *m->side[s].v));
    for (size_t i = 0; i < n && !bad; i++)
        m->v[i] = NAN;
    if (bad)
        map_free(m);
    return bad ? -1 : 0;
}

void map_free(struct map *m)
{
    for (uint32_t i = 0; m->row && i < m->rows; i++)
        free(m->row[i]);
    for (uint32_t i = 0; m->col && i < m->cols; i++)
        free(m->col[i]);
    for (int s = 0; s < MAP_SIDES; s++)
        free(m->side[s].v);
    free(m->title);
    free(m->note);
    free(m->row);
    free(m->col);
    free(m->v);
    *m = (struct map){ 0 };
}

static void fit(const double *v, size_t n, double *lo, double *hi)
{
    for (size_t i = 0; i < n; i++)
        if (isfinite(v[i])) {
            *lo = v[i] < *lo ? v[i] : *lo;
            *hi = v[i] > *hi ? v[i] : *hi;
        }
    if (!(*lo < *hi)) {
        *lo = isfinite(*lo) ? *lo : 0;
        *hi = *lo + 1;
    }
}

void map_fit(struct map *m, int zero)
{
    m->lo = zero ? 0 : INFINITY;
    m->hi = zero ? 0 : -INFINITY;
    fit(m->v, (size_t)m->rows * m->cols, &m->lo, &m->hi);
}

/* Where v is between the ends; NaN stays */
static double share(double v, double lo, double hi)
{
    return isnan(v) ? NAN : (v - lo) / (hi - lo);
}

/* v in `width` characters, one of them a gap where that is possible: shares of one as 0.44 or,
 * where that is too long, in percent; "" where nothing fits */
static const char *number(double v, double lo, double hi, unsigned width, char out[16])
{
    int unit = lo >= 0 && hi <= 1, n = 0;
    *out = '\0';
    if (isnan(v) || width < 3)
        return out;
    if (unit && width < 5)
        n = snprintf(out, 16, "%.0f", 100 * v);
    else if (unit || width >= 6)
        n = snprintf(out, 16, unit && width >= 6 && hi <= 0.1 ? "%.3f" : "%.2f", v);
    if (!unit && (!n || (unsigned)n >= width))
        n = snprintf(out, 16, "%.1f", v);
    if (!unit && (unsigned)n >= width && width < 6)
        n = snprintf(out, 16, "%.0f", v);
    if ((unsigned)n > width)
        *out = '\0';
    return out;
}

/* ---- with characters ---- */

enum { MAX_NAME = 24, MAX_CELL = 6, SIDE = 8 };        /* columns */

/* The text, cut or filled up to `width` columns */
static void put_name(FILE *f, const char *text, unsigned width)
{
    size_t n = strlen(text);
    unsigned w = text_columns(text, n);
    int cut = w > width;
    while (n && w > width - (cut ? 2 : 0)) {
        do
            n--;
        while (n && ((unsigned char)text[n] & 0xc0) == 0x80);
        w = text_columns(text, n);
    }
    fprintf(f, "%.*s%s", (int)n, text, cut ? ".." : "");
    w += cut ? 2 : 0;
    fprintf(f, "%*s", w < width ? (int)(width - w) : 0, "");
}

/* Every how many columns there is room for a name */
static uint32_t name_step(const struct map *m, uint32_t from, uint32_t to, unsigned cell)
{
    static const uint32_t steps[] = { 1, 2, 5, 10, 20, 50, 100, 200, 500 };
    size_t longest = 0, i = 0;
    for (uint32_t c = from; c < to; c++)
        longest = strlen(m->col[c]) > longest ? strlen(m->col[c]) : longest;
    while (i + 1 < sizeof steps / sizeof *steps && longest + 1 > (size_t)steps[i] * cell)
        i++;
    return steps[i];
}

static void put_heading(FILE *f, const struct map *m, uint32_t from, uint32_t to, unsigned name, unsigned cell)
{
    uint32_t step = name_step(m, from, to, cell);
    put_name(f, m->corner, name - 1);
    putc(' ', f);
    for (uint32_t c = from; c < to; ) {
        uint32_t n = step - c % step;      /* at round numbers, whatever the first column is */
        n = n < to - c ? n : to - c;
        if (step == 1)
            heat_cell(f, HEAT_NONE, NAN, cell, m->col[c]);
        else
            fprintf(f, "%-*s", (int)(n * cell), c % step && n * cell <= strlen(m->col[c]) ? "" : m->col[c]);
        c += n;
    }
    for (int s = 0; m->by_row && s < MAP_SIDES && m->side[s].name; s++)
        fprintf(f, "%*s", SIDE, m->side[s].name);
    putc('\n', f);
}

static void put_row(FILE *f, const struct map *m, uint32_t r, uint32_t from, uint32_t to,
                    enum heat_colours colours, unsigned name, unsigned cell)
{
    char text[16];
    put_name(f, m->row[r], name - 1);
    putc(' ', f);
    for (uint32_t c = from; c < to; c++) {
        double v = m->v[(size_t)r * m->cols + c];
        heat_cell(f, colours, share(v, m->lo, m->hi), cell, number(v, m->lo, m->hi, cell, text));
    }
    for (int s = 0; m->by_row && s < MAP_SIDES && m->side[s].name; s++)
        if (isnan(m->side[s].v[r]))
            fprintf(f, "%*s", SIDE, "-");
        else
            fprintf(f, "%*.2f", SIDE, m->side[s].v[r]);
    putc('\n', f);
}

static void put_sides(FILE *f, const struct map *m, uint32_t from, uint32_t to, enum heat_colours colours,
                      unsigned name, unsigned cell)
{
    char text[16];
    for (int i = 0; i < MAP_SIDES && m->side[i].name; i++) {
        const struct map_side *s = &m->side[i];
        put_name(f, s->name, name - 1);
        putc(' ', f);
        for (uint32_t c = from; c < to; c++)
            heat_cell(f, colours, share(s->v[c], s->lo, s->hi), cell,
                      isnan(s->v[c]) ? "-" : number(s->v[c], s->lo, s->hi, cell, text));
        putc('\n', f);
    }
}

void map_text(FILE *f, const struct map *m, enum heat_colours colours, unsigned width)
{
    unsigned name = (unsigned)strlen(m->corner), sides = 0, beside = 0;
    char lo[64], hi[32];
    for (uint32_t r = 0; r < m->rows; r++) {
        unsigned w = text_columns(m->row[r], strlen(m->row[r]));
        name = w > name ? w : name;
    }
    for (int s = 0; s < MAP_SIDES && m->side[s].name; s++) {
        unsigned w = (unsigned)strlen(m->side[s].name);
        sides = w > sides ? w : sides;
        beside += SIDE;
    }
    if (m->by_row)
        sides = 0;
    else
        beside = 0;
    name = name > MAX_NAME ? MAX_NAME : name;
    name = (name > sides ? name : sides) + 1;
    unsigned room = width > name + beside ? width - name - beside : 1, cell = m->cols ? room / m->cols : 1;
    cell = cell < 1 ? 1 : cell > MAX_CELL ? MAX_CELL : cell;
    for (uint32_t from = 0, to; from < m->cols; from = to) {
        to = m->cols - from > room / cell ? from + room / cell : m->cols;
        put_heading(f, m, from, to, name, cell);
        for (uint32_t r = 0; r < m->rows; r++)
            put_row(f, m, r, from, to, colours, name, cell);
        if (!m->by_row)
            put_sides(f, m, from, to, colours, name, cell);
    }
    int percent = m->lo >= 0 && m->hi <= 1 && cell >= 3 && cell < 5;
    snprintf(lo, sizeof lo, "%s %.3g", m->what, percent ? 100 * m->lo : m->lo);
    snprintf(hi, sizeof hi, "%.3g%s", percent ? 100 * m->hi : m->hi, percent ? "%" : "");
    if (!colours && cell >= 3)             /* numbers stand in the cells, and no ink */
        fprintf(f, "%s to %s", lo, hi);
    else
        heat_legend(f, colours, lo, hi);
    for (int s = 0; !m->by_row && s < MAP_SIDES && m->side[s].name; s++)
        fprintf(f, "%s%s %.2g to %.2g", s ? ", " : width < 76 ? "\n" : "   ", m->side[s].name, m->side[s].lo, m->side[s].hi);
    putc('\n', f);
}

/* ---- as SVG ---- */

static void put_xml(FILE *f, const char *text)
{
    int harmless;                          /* what is not is no XML, either */
    for (size_t left = strlen(text), n; left; text += n, left -= n) {
        n = plain_char(text, left, &harmless);
        const char *as = !harmless ? "\xef\xbf\xbd" : *text == '<' ? "&lt;" : *text == '>' ? "&gt;" : *text == '&' ? "&amp;" : NULL;
        fwrite(as ? as : text, 1, as ? strlen(as) : n, f);
    }
}

static void svg_text(FILE *f, double x, double y, const char *attributes, const char *text)
{
    fprintf(f, "<text x=\"%g\" y=\"%g\" %s>", x, y, attributes);
    put_xml(f, text);
    fputs("</text>\n", f);
}

/* A cell with its number, if it is wide enough, and what it is for who points at it */
static void svg_cell(FILE *f, double x, double y, double w, double h, double v, double lo, double hi,
                     const char *row, const char *col)
{
    char text[16];
    if (isnan(v))
        return;
    uint32_t rgb = heat_rgb(share(v, lo, hi));
    fprintf(f, "<g><title>");
    put_xml(f, row);
    fputs(*col ? ", " : "", f);
    put_xml(f, col);
    fprintf(f, ": %.4g</title><rect x=\"%g\" y=\"%g\" width=\"%g\" height=\"%g\" fill=\"#%06x\"/>", v, x, y, w, h, (unsigned)rgb);
    number(v, lo, hi, w >= 34 ? 6 : w >= 20 ? 4 : 0, text);
    if (*text)
        fprintf(f, "<text x=\"%g\" y=\"%g\" class=\"%s\">%s</text>", x + w / 2, y + h / 2 + 3.5,
                heat_dark_text(rgb) ? "d" : "l", text);
    fputs("</g>\n", f);
}

/* Text in lines of at most `chars`, broken behind commas; returns how many.  f NULL: only counts. */
static unsigned svg_lines(FILE *f, double x, double y, unsigned chars, const char *text)
{
    enum { LINE = 16 };
    unsigned lines = 0;
    while (*text) {
        size_t n = strcspn(text, ","), next;
        for (; text[n]; n = next) {
            next = n + 1 + strcspn(text + n + 1, ",");
            if (text_columns(text, next) > chars)
                break;
        }
        n += text[n] == ',';
        if (f) {
            fprintf(f, "<text x=\"%g\" y=\"%g\">", x, y + LINE * lines);
            char *line = strndup(text, n);
            put_xml(f, line ? line : "");
            free(line);
            fputs("</text>\n", f);
        }
        lines++;
        text += n + strspn(text + n, " ");
    }
    return lines;
}

void map_svg(FILE *f, const struct map *m)
{
    enum { H = 18, TOP = 58, PAD = 12, CHAR = 7 };     /* CHAR: about a letter's width at 12 px */
    double cell = m->cols <= 16 ? 36 : m->cols <= 40 ? 22 : 12, left = (double)strlen(m->corner);
    unsigned sides = 0;
    char text[64];
    for (uint32_t r = 0; r < m->rows; r++) {
        unsigned w = text_columns(m->row[r], strlen(m->row[r]));
        left = w > left ? w : left;
    }
    for (; sides < MAP_SIDES && m->side[sides].name; sides++)
        if (!m->by_row)
            left = fmax(left, (double)strlen(m->side[sides].name));
    left = left * CHAR + 2 * PAD;
    double title = (double)text_columns(m->title, strlen(m->title)) * 8 + 2 * PAD;
    double right = left + m->cols * cell + (m->by_row ? sides * 60 : 0) + PAD;
    double bottom = TOP + (m->rows + (m->by_row ? 0 : sides)) * (double)H + (m->by_row ? 0 : 6);
    double width = right > title ? right : title, height = bottom + 70;
    width = width > 430 ? width : 430;     /* the legend */
    unsigned chars = (unsigned)(width - 2 * PAD) / CHAR;
    height += m->note ? 16.0 * svg_lines(NULL, 0, 0, chars, m->note) : 0;
    fprintf(f, "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"%g\" height=\"%g\" viewBox=\"0 0 %g %g\" "
            "font-family=\"Helvetica, Arial, sans-serif\" font-size=\"12\" fill=\"#222\" role=\"img\">\n<title>",
            width, height, width, height);
    put_xml(f, m->title);
    fputs("</title>\n<style>.d,.l{font-size:10px;text-anchor:middle}.d{fill:#000}.l{fill:#fff}</style>\n"
          "<rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>\n", f);
    svg_text(f, PAD, 24, "font-size=\"14\" font-weight=\"bold\"", m->title);

    uint32_t step = name_step(m, 0, m->cols, (unsigned)(cell / CHAR) ? (unsigned)(cell / CHAR) : 1);
    for (uint32_t c = 0; c < m->cols; c += step)
        svg_text(f, left + (c + 0.5) * cell, TOP - 6, "text-anchor=\"middle\"", m->col[c]);
    svg_text(f, left - 6, TOP - 6, "text-anchor=\"end\"", m->corner);
    for (uint32_t r = 0; r < m->rows; r++) {
        double y = TOP + r * (double)H;
        svg_text(f, left - 6, y + H - 5, "text-anchor=\"end\" xml:space=\"preserve\"", m->row[r]);
        for (uint32_t c = 0; c < m->cols; c++)
            svg_cell(f, left + c * cell, y, cell, H, m->v[(size_t)r * m->cols + c], m->lo, m->hi, m->row[r], m->col[c]);
        for (unsigned s = 0; m->by_row && s < sides; s++) {
            snprintf(text, sizeof text, isnan(m->side[s].v[r]) ? "-" : "%.2f", m->side[s].v[r]);
            svg_text(f, left + m->cols * cell + 60 * (s + 1) - 8, y + H - 5, "text-anchor=\"end\"", text);
        }
    }
    for (unsigned s = 0; s < sides; s++) {
        const struct map_side *side = &m->side[s];
        double y = TOP + m->rows * (double)H + 6 + s * (double)H;
        if (m->by_row) {
            svg_text(f, left + m->cols * cell + 60 * (s + 1) - 8, TOP - 6, "text-anchor=\"end\"", side->name);
            continue;
        }
        svg_text(f, left - 6, y + H - 5, "text-anchor=\"end\"", side->name);
        for (uint32_t c = 0; c < m->cols; c++)
            svg_cell(f, left + c * cell, y, cell, H, side->v[c], side->lo, side->hi, side->name, m->col[c]);
    }
    fprintf(f, "<rect x=\"%g\" y=\"%g\" width=\"%g\" height=\"%d\" fill=\"none\" stroke=\"#999\"/>\n", left, (double)TOP,
            m->cols * cell, (int)m->rows * H);

    enum { BAR = 200, STEPS = 50 };
    double y = bottom + 20;
    for (int i = 0; i < STEPS; i++)
        fprintf(f, "<rect x=\"%g\" y=\"%g\" width=\"%g\" height=\"12\" fill=\"#%06x\"/>\n",
                PAD + i * (double)BAR / STEPS, y, (double)BAR / STEPS + 0.5, (unsigned)heat_rgb((i + 0.5) / STEPS));
    snprintf(text, sizeof text, "%s %.3g", m->what, m->lo);
    svg_text(f, PAD, y + 28, "", text);
    snprintf(text, sizeof text, "%.3g", m->hi);
    svg_text(f, PAD + BAR, y + 28, "text-anchor=\"end\"", text);
    for (unsigned s = 0; !m->by_row && s < sides; s++) {
        snprintf(text, sizeof text, "%s %.2g to %.2g", m->side[s].name, m->side[s].lo, m->side[s].hi);
        svg_text(f, PAD + BAR + 20, y + 10 + 18 * s, "", text);
    }
    if (m->lo >= 0 && m->hi <= 1 && cell >= 20 && cell < 34)
        svg_text(f, PAD, y + 44, "fill=\"#666\"", "shares of 1 stand in the cells in percent");
    if (m->note)
        svg_lines(f, PAD, y + 62, chars, m->note);
    fputs("</svg>\n", f);
}
