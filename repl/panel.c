/* repl/panel.c -- see panel.h.
 * Sequences: IND (ESC D) goes down a line, scrolling, and keeps the column; DECSC/DECRC
 * (ESC 7, ESC 8) keep the cursor over DECSTBM (CSI r), which moves it. */
#include "repl/panel.h"

#include "repl/signals.h"

#include <stdio.h>
#include <string.h>

enum { SMALLEST = 8, REPLY = 6 };          /* lines: a screen for it; what is left for the reply */

unsigned panel_room(const struct render *r)
{
    unsigned rows = render_height(r);
    return r->out_tty && r->err_tty && !r->json && rows >= SMALLEST ? rows - REPLY : 0;
}

void panel_open(struct panel *p, const struct render *r, unsigned lines)
{
    unsigned room = panel_room(r);
    *p = (struct panel){ lines < room ? lines : room, render_height(r), render_width(r) };
    if (!p->lines)
        return;
    for (unsigned i = 0; i < p->lines; i++)
        fputs("\033D", stdout);
    printf("\033[%uA\0337\033[1;%ur\0338", p->lines, p->rows - p->lines);
    fflush(stdout);
    signals_scrolling(1);
}

void panel_draw(struct panel *p, const struct render *r, const char *text)
{
    if (!p->lines)
        return;
    if (p->rows != render_height(r) || p->cols != render_width(r)) {
        unsigned lines = p->lines;         /* terminals forget the region or keep the old one */
        fputs("\0337\033[r\0338", stdout);
        panel_open(p, r, lines);
        if (!p->lines)
            return;
    }
    fputs("\0337", stdout);
    for (unsigned i = 0; i < p->lines; i++) {
        int n = (int)strcspn(text, "\n");
        printf("\033[%u;1H\033[2K%.*s", p->rows - p->lines + 1 + i, n, text);
        text += n + (text[n] == '\n');
    }
    fputs("\0338", stdout);
    fflush(stdout);
}

void panel_close(struct panel *p)
{
    if (p->lines) {
        printf("\0337\033[%u;1H\033[J\033[r\0338", p->rows - p->lines + 1);
        fflush(stdout);
        signals_scrolling(0);
    }
    *p = (struct panel){ 0 };
}
