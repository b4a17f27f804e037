/* repl/render.h -- what handlers have to say, as text for people or as JSON Lines.
 *
 * Handlers emit rows (a table), events (a sentence and its fields) and reply text; this
 * file decides how they look.  Results go to stdout, everything else to stderr; with
 * --json every event is one object with a "type" on stdout.  Whatever is printed on a
 * terminal has its control characters made harmless.  Knows no session and no model. */
#ifndef DBRX_REPL_RENDER_H
#define DBRX_REPL_RENDER_H

#include "repl/heat.h"

#include <cjson/cJSON.h>
#include <pthread.h>
#include <stdint.h>

struct render {
    int json, out_tty, err_tty, colour, utf8;
    int true_colour;                       /* 24 bits of it                             */
    int shade;                             /* of 256 colours, for reply text; 0: plain  */
    int lost;                              /* errno of the first write to stdout that failed */
    int mid_line;                          /* reply text that has not ended its line    */
    char where[160];                       /* "script:3", put before errors; or ""      */
    int hush;                              /* no status events: nobody asked            */
    char *quiet;                           /* [quiet_size] errors go here, or NULL: out */
    size_t quiet_size;
    pthread_mutex_t lock;                  /* progress may come from a backend's thread */
    pthread_cond_t begun;                  /* busy; for who watches the clock meanwhile  */
    int busy, shown, watched;              /* progress wanted; its line is on the screen */
    double since, last;
    char what[72];                         /* reported last                              */
    uint64_t done, total;
    const char *whole;                     /* the name of all that goes on; other progress is a part */
    char part_of[32];                      /* "comparing:  12%, ", put before a part's   */
};

void render_init(struct render *, int json);
void render_redirected(struct render *);   /* stdout is another file now */
/* Columns that text[len] takes: valid UTF-8, no controls. */
unsigned text_columns(const char *text, size_t len);
unsigned render_width(const struct render *);
unsigned render_height(const struct render *);
enum heat_colours render_colours(const struct render *);       /* that stdout can show */

/* ---- rows ---- */
enum { COLUMN_PICTURE = 2 };               /* text made with heat.h: printed as it is   */
struct column {
    const char *field, *title;             /* of the row object; heading                */
    int right, decimals;                   /* 1: to the right, or COLUMN_PICTURE; digits after the point */
    /* Instead of the field as it is: malloc'd text. */
    char *(*show)(const struct render *, const cJSON *row);
};
struct rows {
    const char *type, *of;                 /* {"type":"rows","of":"settings",head...,"rows":[...]} */
    const char *key;                       /* name of the array                         */
    const struct column *col;              /* ends at title == NULL; the last one wraps */
    unsigned no_heading;
};
/* Takes head (may be NULL) and list, an array of objects.  title, if any, is the text
 * form's first line. */
void render_rows(struct render *, const struct rows *, const char *title, cJSON *head, cJSON *list);

/* A string member whatever the bytes are (repaired to UTF-8, NUL replaced). */
void field_text(cJSON *obj, const char *key, const char *text, size_t len);
void field_string(cJSON *obj, const char *key, const char *text);
/* A number that is no more exact than a float; null if it is none (infinite, NaN). */
void field_real(cJSON *obj, const char *key, double number);
cJSON *json_real(double number);

/* ---- events ---- */
/* A sentence for stderr; as JSON {"type":type,"text":sentence,fields...}.  Takes fields. */
__attribute__((format(printf, 4, 5)))
void render_event(struct render *, const char *type, cJSON *fields, const char *fmt, ...);
/* JSON only: an event that needs no words.  Takes it. */
void render_object(struct render *, const char *type, cJSON *fields);
/* Says what is wrong and what to do; returns -1. */
__attribute__((format(printf, 2, 3)))
int  render_error(struct render *, const char *fmt, ...);
/* Dim, for people at a terminal only. */
__attribute__((format(printf, 2, 3)))
void render_aside(struct render *, const char *fmt, ...);

/* A line among the results; as JSON a status. */
void render_line(struct render *, const char *text);

/* ---- running text ---- */
void render_reply(struct render *, const char *text, size_t len);   /* whole UTF-8 characters */
/* Colours the reply text that follows by its probability, < 0: plain.  0 where there is no colour. */
int  render_shade(struct render *, double probability);
void render_shades(struct render *);       /* says what the colours mean */
void render_reply_end(struct render *);    /* ends the line if it is open */
/* A paragraph on stdout, wrapped at the terminal's width. */
void render_paragraph(struct render *, unsigned indent, const char *text);

/* A line on stdout that announces what follows. */
__attribute__((format(printf, 2, 3)))
void render_heading(struct render *, const char *fmt, ...);
/* Lines made with heat.h, on stdout as they are: what comes from outside was cleaned before. */
void render_picture(struct render *, const char *lines);
/* n texts side by side, each under its title. */
void render_columns(struct render *, size_t n, const char (*title)[64], const char *const *text);

/* ---- progress: one line that erases itself, at a terminal, of what takes over 100 ms ---- */
/* A bar for something long that goes on between them; total 0: not known; done 0: gone. */
void render_bar(struct render *, unsigned long done, unsigned long total, unsigned long failed);
void render_busy(struct render *, int on);
/* As on; progress of the name `whole` is shown before that of anything else, which is a part of it. */
void render_busy_with(struct render *, const char *whole);
void render_progress(struct render *, const char *what, uint64_t done, uint64_t total);   /* [any] */

/* Why something was lost on the way to stdout, an errno; 0: nothing was.  Flushes. */
int render_failed(struct render *);

#endif
