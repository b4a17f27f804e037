/* repl/heat.c -- see heat.h.  Viridis is by N. Smith, S. van der Walt and E. Firing (CC0);
 * the eight hues are from M. Okabe and K. Ito, "Color Universal Design". */
#include "repl/heat.h"

#include <math.h>
#include <string.h>

static double within(double v)
{
    return v > 0 ? v < 1 ? v : 1 : 0;      /* NaN: 0 */
}

/* ---- the scale ---- */

uint32_t heat_rgb(double v)
{
    static const unsigned char at[][3] = {         /* every eighth of viridis */
        { 68, 1, 84 }, { 71, 44, 122 }, { 59, 82, 139 }, { 44, 113, 142 }, { 33, 144, 141 },
        { 39, 173, 129 }, { 93, 200, 99 }, { 170, 220, 50 }, { 253, 231, 37 } };
    enum { PARTS = sizeof at / sizeof *at - 1 };
    double x = within(v) * PARTS;
    int i = x < PARTS ? (int)x : PARTS - 1;
    uint32_t rgb = 0;
    for (int c = 0; c < 3; c++)
        rgb = rgb << 8 | (uint32_t)(at[i][c] + (at[i + 1][c] - at[i][c]) * (x - i) + 0.5);
    return rgb;
}

int heat_256(double v)
{
    /* of the terminal's cube, those nearest to viridis that keep its lightness rising */
    static const unsigned char at[] = { 53, 54, 55, 24, 25, 30, 36, 72, 77, 113, 184, 220 };
    return at[(int)(within(v) * (sizeof at - 1) + 0.5)];
}

char heat_char(double v)
{
    static const char ink[] = ".:-=+*#%@";
    v = within(v);
    return v > 0 ? ink[v < 1 ? (int)(v * (sizeof ink - 1)) : (int)sizeof ink - 2] : ' ';
}

/* Relative luminance as WCAG 2 has it; both texts have the same contrast at 0.179 */
int heat_dark_text(uint32_t rgb)
{
    static const double part[] = { 0.0722, 0.7152, 0.2126 };      /* blue first */
    double light = 0;
    for (int c = 0; c < 3; c++, rgb >>= 8) {
        double s = (rgb & 0xff) / 255.0;
        light += part[c] * (s <= 0.04045 ? s / 12.92 : pow((s + 0.055) / 1.055, 2.4));
    }
    return light > 0.179;
}

/* ---- on the terminal ---- */

/* What the terminal shows for one of the 216 colours of its cube */
static uint32_t cube_rgb(int colour)
{
    static const unsigned char step[] = { 0, 95, 135, 175, 215, 255 };
    int i = colour - 16;
    return (uint32_t)step[i / 36] << 16 | (uint32_t)step[i / 6 % 6] << 8 | step[i % 6];
}

static void put_colours(FILE *f, enum heat_colours colours, uint32_t rgb, int of_256)
{
    int dark = heat_dark_text(colours == HEAT_TRUE ? rgb : cube_rgb(of_256));
    fprintf(f, "\033[38;5;%d", dark ? 16 : 231);
    if (colours == HEAT_TRUE)
        fprintf(f, ";48;2;%u;%u;%um", (unsigned)(rgb >> 16), (unsigned)(rgb >> 8 & 0xff), (unsigned)(rgb & 0xff));
    else
        fprintf(f, ";48;5;%dm", of_256);
}

void heat_cell(FILE *f, enum heat_colours colours, double v, unsigned width, const char *text)
{
    unsigned n = (unsigned)strnlen(text, width), left = (width - n + 1) / 2;
    int value = !isnan(v), plain = !colours && value && !n;
    if (colours && value)
        put_colours(f, colours, heat_rgb(v), heat_256(v));
    for (unsigned i = 0; i < width; i++)
        putc(plain ? heat_char(v) : i >= left && i < left + n ? text[i - left] : ' ', f);
    if (colours && value)
        fputs("\033[0m", f);
}

void heat_legend(FILE *f, enum heat_colours colours, const char *low, const char *high)
{
    enum { STEPS = 18 };
    fprintf(f, "%s ", low);
    for (int i = 0; i < STEPS; i++)
        heat_cell(f, colours, (i + 0.5) / STEPS, 1, "");
    fprintf(f, " %s", high);
}

/* ---- kinds ---- */

static const struct { uint32_t rgb; int of_256; } hues[HEAT_HUES] = {
    { 0xe69f00, 178 }, { 0x56b4e9, 74 }, { 0x009e73, 36 }, { 0xf0e442, 227 },
    { 0x0072b2, 25 }, { 0xd55e00, 166 }, { 0xcc79a7, 175 }, { 0x999999, 145 } };

uint32_t heat_hue(unsigned kind)
{
    return hues[kind % HEAT_HUES].rgb;
}

char heat_letter(unsigned kind)
{
    static const char all[] = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ";
    return all[kind % (sizeof all - 1)];
}

void heat_kind(FILE *f, enum heat_colours colours, unsigned kind, const char *text)
{
    if (colours)
        put_colours(f, colours, heat_hue(kind), hues[kind % HEAT_HUES].of_256);
    if (colours && kind / HEAT_HUES % 2)
        fputs("\033[4m", f);
    fputs(text, f);
    if (colours)
        fputs("\033[0m", f);
}
