/* tests/unit/heat.c -- the colour scale: is it in order, can its cells be read? */
#define _GNU_SOURCE
#include "repl/heat.h"

#include "tests/tap.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static double luminance(uint32_t rgb)      /* WCAG 2's */
{
    double y = 0;
    static const double part[] = { 0.2126, 0.7152, 0.0722 };
    for (int i = 0; i < 3; i++) {
        double s = (rgb >> (16 - 8 * i) & 255) / 255.0;
        y += part[i] * (s <= 0.04045 ? s / 12.92 : pow((s + 0.055) / 1.055, 2.4));
    }
    return y;
}

static double light(uint32_t rgb)          /* CIE's L* */
{
    double y = luminance(rgb);
    return y > 0.008856 ? 116 * cbrt(y) - 16 : 903.3 * y;
}

static double contrast(uint32_t rgb)       /* of the text that heat.c would put on it */
{
    double y = luminance(rgb);
    return heat_dark_text(rgb) ? (y + 0.05) / 0.05 : 1.05 / (y + 0.05);
}

static uint32_t of_256(int c)
{
    static const unsigned step[] = { 0, 95, 135, 175, 215, 255 };
    c -= 16;
    return step[c / 36] << 16 | step[c / 6 % 6] << 8 | step[c % 6];
}

static char *drawn(enum heat_colours colours, double v, unsigned width, const char *text)
{
    char *out;
    size_t size;
    FILE *f = open_memstream(&out, &size);
    heat_cell(f, colours, v, width, text);
    fclose(f);
    return out;
}

static void test_scale(void)
{
    double rise = 100, most = 0, worst = 100, of256 = 100;
    for (int i = 0; i <= 100; i++) {
        double l = light(heat_rgb(i / 100.0)), k = light(of_256(heat_256(i / 100.0)));
        worst = fmin(worst, fmin(contrast(heat_rgb(i / 100.0)), contrast(of_256(heat_256(i / 100.0)))));
        if (!i)
            continue;
        rise = fmin(rise, l - light(heat_rgb((i - 1) / 100.0)));
        most = fmax(most, l - light(heat_rgb((i - 1) / 100.0)));
        of256 = fmin(of256, k - light(of_256(heat_256((i - 1) / 100.0))));
    }
    ok(rise > 0 && most < 3 * (light(heat_rgb(1)) - light(heat_rgb(0))) / 100,
       "lightness rises all along the scale (a step is %.2f to %.2f)", rise, most);
    ok(of256 >= 0 && heat_256(0) != heat_256(0.1), "... and never falls in 256 colours (%.2f)", of256);
    ok(worst > 4.5, "text on it has a contrast of 4.5 (%.2f)", worst);
    for (unsigned k = 0; k < HEAT_HUES; k++)
        worst = fmin(worst, contrast(heat_hue(k)));
    ok(worst > 4.5, "... and on the hues of kinds (%.2f)", worst);
    ok(heat_rgb(-1) == heat_rgb(0) && heat_rgb(NAN) == heat_rgb(0) && heat_rgb(7) == heat_rgb(1) &&
       heat_rgb(INFINITY) == 0xfde725 && heat_256(-INFINITY) == heat_256(0) && heat_256(NAN) == heat_256(0),
       "what is no number from 0 to 1 is brought to it");
    ok(heat_char(0) == ' ' && heat_char(1e-9) == '.' && heat_char(1) == '@' && heat_char(NAN) == ' ' &&
       heat_char(2) == '@', "characters: only nothing is blank");
    ok(heat_letter(0) == '0' && heat_letter(15) == 'f' && heat_letter(36) == 'A' && heat_letter(62) == '0',
       "letters for kinds");
}

static void test_cells(void)
{
    const struct { enum heat_colours colours; double v; unsigned width; const char *text, *want; } t[] = {
        { HEAT_NONE, 0.5, 3, "", "+++" }, { HEAT_NONE, 0, 3, "", "   " }, { HEAT_NONE, 0.5, 4, "44", " 44 " },
        { HEAT_NONE, NAN, 4, "-", "  - " }, { HEAT_NONE, 0.5, 2, "long", "lo" }, { HEAT_NONE, 1, 0, "x", "" },
        { HEAT_256, 1, 2, "", "\033[38;5;16;48;5;220m  \033[0m" },
        { HEAT_TRUE, 0, 2, "9", "\033[38;5;231;48;2;68;1;84m 9\033[0m" },
        { HEAT_256, NAN, 2, "", "  " } };
    for (size_t i = 0; i < sizeof t / sizeof *t; i++) {
        char *got = drawn(t[i].colours, t[i].v, t[i].width, t[i].text);
        if (!ok(!strcmp(got, t[i].want), "cell %zu", i))
            diag("got \"%s\"", got + (*got == '\033'));
        free(got);
    }
    char *out;
    size_t size;
    FILE *f = open_memstream(&out, &size);
    heat_legend(f, HEAT_NONE, "0", "1");
    putc('\n', f);
    heat_kind(f, HEAT_NONE, 3, "é");
    heat_kind(f, HEAT_256, 9, "é");
    fclose(f);
    ok(!strcmp(out, "0 ..::--==++**##%%@@ 1\né\033[38;5;16;48;5;74m\033[4mé\033[0m"), "a legend, and text of a kind");
    free(out);
}

int main(void)
{
    test_scale();
    test_cells();
    return done();
}
