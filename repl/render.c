/* repl/render.c -- see render.h. */
#define _GNU_SOURCE
#include "repl/render.h"

#include "repl/plain.h"
#include "repl/words.h"

#include <errno.h>
#include <langinfo.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>
#include <wchar.h>

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

void render_init(struct render *r, int json)
{
    const char *term = getenv("TERM"), *no_color = getenv("NO_COLOR");
    const char *depth = getenv("COLORTERM");
    int dumb = !term || !*term || !strcmp(term, "dumb");
    *r = (struct render){ .json = json, .out_tty = isatty(STDOUT_FILENO),
                          .err_tty = isatty(STDERR_FILENO) && !dumb,
                          .utf8 = !strcmp(nl_langinfo(CODESET), "UTF-8") };
    r->colour = r->err_tty && !(no_color && *no_color);
    r->true_colour = (depth && (!strcmp(depth, "truecolor") || !strcmp(depth, "24bit"))) ||
                     (term && strstr(term, "-direct"));
    pthread_mutex_init(&r->lock, NULL);
}

void render_redirected(struct render *r)
{
    r->out_tty = isatty(STDOUT_FILENO);
}

/* Why stdout lost something is known only while it happens */
static void flush_out(struct render *r)
{
    if ((fflush(stdout) || ferror(stdout)) && !r->lost)
        r->lost = errno ? errno : EIO;
}

/* Leaves errno alone: half a table may have failed to be written */
static unsigned width_of(int fd)
{
    struct winsize w;
    int was = errno;
    unsigned width = !ioctl(fd, TIOCGWINSZ, &w) && w.ws_col >= 20 ? w.ws_col : 80;
    errno = was;
    return width;
}

unsigned render_width(const struct render *r)
{
    return r->out_tty ? width_of(STDOUT_FILENO) : 80;
}

unsigned render_height(const struct render *r)
{
    struct winsize w;
    return r->out_tty && !ioctl(STDOUT_FILENO, TIOCGWINSZ, &w) && w.ws_row >= 5 ? w.ws_row : 24;
}

enum heat_colours render_colours(const struct render *r)
{
    return !r->colour || !r->out_tty || r->json ? HEAT_NONE : r->true_colour ? HEAT_TRUE : HEAT_256;
}

/* ---- characters ---- */

/* Columns that text[len] takes; valid UTF-8 */
unsigned text_columns(const char *text, size_t len)
{
    unsigned n = 0;
    mbstate_t st = { 0 };
    for (size_t i = 0; i < len; ) {
        wchar_t c;
        size_t used = mbrtowc(&c, text + i, len - i, &st);
        if (used == (size_t)-1 || used == (size_t)-2 || !used)
            return n + (unsigned)(len - i);
        int w = wcwidth(c);
        n += w > 0 ? (unsigned)w : 0;
        i += used;
    }
    return n;
}

static void put_string(FILE *f, const char *text)
{
    char *clean = text_clean(text, strlen(text));
    if (clean)
        plain_put(f, clean, strlen(clean));
    free(clean);
}

/* Words on lines of at most `width` columns; goes on at column `at`, later lines begin at
 * `indent`.  Newlines in the text stay. */
static void wrap(FILE *f, const char *text, unsigned at, unsigned indent, unsigned width)
{
    unsigned col = at;
    while (*text) {
        size_t gap = strspn(text, " "), n = strcspn(text + gap, " \n");
        unsigned w = text_columns(text + gap, n);
        if (col > indent && col + gap + w > width) {
            fprintf(f, "\n%*s", (int)indent, "");
            col = indent;
        } else {
            fprintf(f, "%*s", (int)gap, "");
            col += (unsigned)gap;
        }
        plain_put(f, text + gap, n);
        col += w;
        text += gap + n;
        if (*text == '\n' && *++text) {
            fprintf(f, "\n%*s", (int)indent, "");
            col = indent;
        }
    }
}

/* ---- JSON ---- */

void field_text(cJSON *obj, const char *key, const char *text, size_t len)
{
    char *clean = text_clean(text, len);
    if (clean)
        cJSON_AddStringToObject(obj, key, clean);
    free(clean);
}

void field_string(cJSON *obj, const char *key, const char *text)
{
    field_text(obj, key, text, strlen(text));
}

/* Nine digits are all that a float has; a double made of them prints as short */
cJSON *json_real(double number)
{
    char text[32];
    if (!(number - number == 0))
        return cJSON_CreateNull();
    snprintf(text, sizeof text, "%.9g", number);
    return cJSON_CreateNumber(strtod(text, NULL));
}

void field_real(cJSON *obj, const char *key, double number)
{
    cJSON_AddItemToObject(obj, key, json_real(number));
}

/* Puts type (and text) first, then the fields; takes them */
static void emit(struct render *r, const char *type, const char *of, const char *text, cJSON *fields)
{
    cJSON *obj = cJSON_CreateObject();
    cJSON_AddStringToObject(obj, "type", type);
    if (of)
        cJSON_AddStringToObject(obj, "of", of);
    if (text)
        field_string(obj, "text", text);
    while (fields && fields->child) {
        cJSON *item = cJSON_DetachItemViaPointer(fields, fields->child);
        char *key = item->string;
        item->string = NULL;
        cJSON_AddItemToObject(obj, key, item);
        cJSON_free(key);
    }
    cJSON_Delete(fields);
    char *line = cJSON_PrintUnformatted(obj);
    plain_json(stdout, line ? line : "{\"type\":\"error\",\"text\":\"out of memory\"}", 0);
    putchar('\n');
    flush_out(r);
    cJSON_free(line);
    cJSON_Delete(obj);
}

/* ---- progress ---- */

static const double PROGRESS_AFTER = 0.06, PROGRESS_EVERY = 0.1;       /* seconds; seen within 100 ms on a busy machine, too */

static void erase_progress(struct render *r)
{
    if (r->shown)                          /* spaces, not an escape sequence: works everywhere */
        fprintf(stderr, "\r%*s\r", r->shown, "");
    r->shown = 0;
}

/* With the lock held */
static void draw_progress(struct render *r)
{
    char line[79];
    int n = r->total ? snprintf(line, sizeof line, "%s: %3.0f%%", r->what, 100 * (double)r->done / (double)r->total)
                     : snprintf(line, sizeof line, "%s ...", r->what);
    putc('\r', stderr);
    plain_put(stderr, line, strlen(line));
    fprintf(stderr, "%*s", r->shown > n ? r->shown - n : 0, "");
    r->shown = r->shown > n ? r->shown : n;
    r->last = now();
    fflush(stderr);
}

/* Draws when it is time and nobody has come to report: one layer of a large model may take
 * many times as long as people wait for a sign of life */
static void *watch(void *arg)
{
    struct render *r = arg;
    pthread_mutex_lock(&r->lock);
    for (;;) {
        double due = r->since + PROGRESS_AFTER;
        struct timespec t = { (time_t)due, (long)((due - (double)(time_t)due) * 1e9) };
        if (!r->busy || r->shown || r->mid_line)
            pthread_cond_wait(&r->begun, &r->lock);
        else if (now() < due)
            pthread_cond_timedwait(&r->begun, &r->lock, &t);
        else
            draw_progress(r);
    }
    return NULL;
}

/* The thread is made when first something takes time, and takes no signals; without it, what
 * is reported shows all the same */
static void start_watch(struct render *r)
{
    pthread_condattr_t clock;
    pthread_t thread;
    sigset_t all, old;
    r->watched = 1;
    pthread_condattr_init(&clock);
    pthread_condattr_setclock(&clock, CLOCK_MONOTONIC);
    pthread_cond_init(&r->begun, &clock);
    pthread_condattr_destroy(&clock);
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &old);
    if (!pthread_create(&thread, NULL, watch, r))
        pthread_detach(thread);
    pthread_sigmask(SIG_SETMASK, &old, NULL);
}

void render_busy(struct render *r, int on)
{
    pthread_mutex_lock(&r->lock);
    erase_progress(r);
    r->busy = on && r->err_tty && !r->json;
    r->since = r->last = now();
    snprintf(r->what, sizeof r->what, "working");
    r->done = r->total = 0;
    r->whole = NULL;
    r->part_of[0] = '\0';
    if (r->busy && !r->watched)
        start_watch(r);
    if (r->busy)
        pthread_cond_signal(&r->begun);
    pthread_mutex_unlock(&r->lock);
}

void render_busy_with(struct render *r, const char *whole)
{
    render_busy(r, 1);
    r->whole = whole;
}

void render_progress(struct render *r, const char *what, uint64_t done, uint64_t total)
{
    double t = now();
    pthread_mutex_lock(&r->lock);
    int whole = r->whole && !strcmp(what, r->whole);
    if (whole && total)
        snprintf(r->part_of, sizeof r->part_of, "%.20s: %3.0f%%, ", what, 100 * (double)done / (double)total);
    snprintf(r->what, sizeof r->what, "%s%.40s", whole ? "" : r->part_of, what);
    r->done = done;
    r->total = total;
    if (r->busy && !r->mid_line && t - r->since > PROGRESS_AFTER && (!r->shown || t - r->last > PROGRESS_EVERY))
        draw_progress(r);
    pthread_mutex_unlock(&r->lock);
}

void render_bar(struct render *r, unsigned long done, unsigned long total, unsigned long failed)
{
    enum { WIDTH = 30 };
    char line[79], bar[WIDTH + 1];
    if (!r->err_tty)
        return;
    pthread_mutex_lock(&r->lock);
    erase_progress(r);
    if (done) {
        size_t full = total ? (size_t)((double)WIDTH * (double)done / (double)total) : 0;
        memset(bar, '.', WIDTH);
        memset(bar, '#', full < WIDTH ? full : WIDTH);
        bar[WIDTH] = '\0';
        char left[32] = "";
        if (total)
            snprintf(left, sizeof left, "/%lu", total);
        r->shown = snprintf(line, sizeof line, "%s%s%s%lu%s%s%.0lu%s", total ? "[" : "", total ? bar : "",
                            total ? "] " : "", done, left, failed ? ", " : "", failed, failed ? " failed" : "");
        r->shown = r->shown < (int)sizeof line ? r->shown : (int)sizeof line - 1;
        fputs(line, stderr);
        fflush(stderr);
    }
    pthread_mutex_unlock(&r->lock);
}

/* Before anything else is printed: no progress line, no half line of a reply in the way */
static void clear_line(struct render *r)
{
    pthread_mutex_lock(&r->lock);
    erase_progress(r);
    r->since = now();                      /* what is said is a sign of life as well */
    pthread_mutex_unlock(&r->lock);
    flush_out(r);
}

/* While a line of a reply is open, no progress comes into it */
static void set_mid_line(struct render *r, int open)
{
    pthread_mutex_lock(&r->lock);
    r->mid_line = open;
    r->since = now();
    if (!open && r->busy)
        pthread_cond_signal(&r->begun);
    pthread_mutex_unlock(&r->lock);
}

/* ---- events ---- */

/* A sentence, in SGR `colour` (NULL: none) as far as the first `n` bytes (0: all) */
static void say(struct render *r, const char *text, const char *colour, size_t n)
{
    char *clean = text_clean(text, strlen(text));
    clear_line(r);
    if (!clean)
        return;
    colour = r->colour ? colour : NULL;
    if (colour)
        fprintf(stderr, "\033[%sm", colour);
    unsigned at = (unsigned)n;
    if (n) {
        plain_put(stderr, clean, n);
        if (colour)
            fputs("\033[0m", stderr);
    }
    /* a script's reader finds a sentence on one line */
    if (isatty(STDERR_FILENO))
        wrap(stderr, clean + n, at, 0, width_of(STDERR_FILENO));
    else
        plain_put(stderr, clean + n, strlen(clean + n));
    if (colour && !n)
        fputs("\033[0m", stderr);
    putc('\n', stderr);
    free(clean);
}

void render_event(struct render *r, const char *type, cJSON *fields, const char *fmt, ...)
{
    char *text = NULL;
    va_list ap;
    va_start(ap, fmt);
    if (vasprintf(&text, fmt, ap) < 0)
        text = NULL;
    va_end(ap);
    if (r->hush && !strcmp(type, "status")) {
        cJSON_Delete(fields);
    } else if (r->json) {
        emit(r, type, NULL, text, fields);
    } else {
        if (text)
            say(r, text, NULL, 0);
        cJSON_Delete(fields);
    }
    free(text);
}

void render_object(struct render *r, const char *type, cJSON *fields)
{
    if (r->json)
        emit(r, type, NULL, NULL, fields);
    else
        cJSON_Delete(fields);
}

int render_error(struct render *r, const char *fmt, ...)
{
    char *text = NULL, *line = NULL;
    va_list ap;
    va_start(ap, fmt);
    if (vasprintf(&text, fmt, ap) < 0)
        text = NULL;
    va_end(ap);
    const char *what = text ? text : "out of memory";
    if (r->quiet) {
        snprintf(r->quiet, r->quiet_size, "%s", what);
        free(text);
        return -1;
    }
    if (r->json) {
        cJSON *fields = cJSON_CreateObject();
        if (r->where[0])
            field_string(fields, "where", r->where);
        emit(r, "error", NULL, what, fields);
    }
    if (asprintf(&line, "dbrx: %s%s%s", r->where, r->where[0] ? ": " : "", what) >= 0)
        say(r, line, "31", strlen("dbrx:"));
    free(line);
    free(text);
    return -1;
}

void render_aside(struct render *r, const char *fmt, ...)
{
    char *text = NULL;
    va_list ap;
    if (r->json || !isatty(STDERR_FILENO))
        return;
    va_start(ap, fmt);
    if (vasprintf(&text, fmt, ap) >= 0)
        say(r, text, "2", 0);
    va_end(ap);
    free(text);
}

void render_line(struct render *r, const char *text)
{
    if (r->json) {
        emit(r, "status", NULL, text, NULL);
        return;
    }
    char *clean = r->out_tty ? text_clean(text, strlen(text)) : NULL;
    clear_line(r);
    if (clean)
        plain_put(stdout, clean, strlen(clean));
    else
        fputs(text, stdout);
    putchar('\n');
    flush_out(r);
    free(clean);
}

/* ---- running text ---- */

/* Middle tones, to be read on black and on white */
static const struct { double below; int colour; const char *text; } shades[] = {
    { 0.01, 196, "under 1%" }, { 0.1, 208, "under 10%" }, { 0.33, 178, "under 33%" }, { 0.67, 71, "under 67%" } };
enum { N_SHADES = sizeof shades / sizeof *shades };

int render_shade(struct render *r, double p)
{
    int can = render_colours(r) != HEAT_NONE, i = 0;
    while (i < N_SHADES && p >= shades[i].below)
        i++;
    r->shade = can && p >= 0 && i < N_SHADES ? shades[i].colour : 0;
    return can;
}

void render_shades(struct render *r)
{
    if (!render_shade(r, -1))
        return;
    clear_line(r);
    for (int i = 0; i < N_SHADES; i++)
        fprintf(stderr, "%s\033[38;5;%dm%s\033[0m", i ? "  " : "[probability: ", shades[i].colour, shades[i].text);
    fputs("  else plain]\n", stderr);
}

void render_reply(struct render *r, const char *text, size_t len)
{
    if (r->json || !len)
        return;
    if (!r->mid_line)
        clear_line(r);
    set_mid_line(r, 1);
    if (r->shade)
        printf("\033[38;5;%dm", r->shade);
    if (r->out_tty)
        plain_put(stdout, text, len);
    else
        fwrite(text, 1, len, stdout);
    if (r->shade)
        fputs("\033[0m", stdout);
    flush_out(r);
    set_mid_line(r, text[len - 1] != '\n');
}

void render_reply_end(struct render *r)
{
    r->shade = 0;
    if (r->mid_line)
        putchar('\n');
    flush_out(r);
    set_mid_line(r, 0);
}

void render_paragraph(struct render *r, unsigned indent, const char *text)
{
    printf("%*s", (int)indent, "");
    wrap(stdout, text, indent, indent, render_width(r));
    putchar('\n');
}

void render_heading(struct render *r, const char *fmt, ...)
{
    char *text = NULL;
    va_list ap;
    va_start(ap, fmt);
    if (vasprintf(&text, fmt, ap) < 0)
        text = NULL;
    va_end(ap);
    int bold = r->colour && r->out_tty;
    clear_line(r);
    fputs(bold ? "\033[1m" : "", stdout);
    put_string(stdout, text ? text : "");
    puts(bold ? "\033[0m" : "");
    flush_out(r);
    free(text);
}

void render_picture(struct render *r, const char *lines)
{
    clear_line(r);
    fputs(lines, stdout);
    flush_out(r);
}

/* How many bytes of text fit into `width` columns, cut between words where there are some;
 * *next is where the following line begins */
static size_t fitting(const char *text, unsigned width, size_t *next)
{
    size_t line = strcspn(text, "\n"), best = 0, i = 0;
    while (i < line) {
        size_t one = 1;
        while (i + one < line && ((unsigned char)text[i + one] & 0xc0) == 0x80)
            one++;
        if (text_columns(text, i + one) > width && i)
            break;
        if (text[i] == ' ')
            best = i;
        i += one;
    }
    if (i == line) {
        *next = line + (text[line] == '\n');
        return line;
    }
    *next = best ? best + 1 : i;
    return best ? best : i;
}

void render_columns(struct render *r, size_t n, const char (*title)[64], const char *const *text)
{
    enum { GAP = 2 };
    unsigned width = (render_width(r) - (unsigned)(n - 1) * GAP) / (unsigned)n;
    size_t *at = calloc(n, sizeof *at);
    char **clean = calloc(n, sizeof *clean);
    int left = at && clean;
    for (size_t i = 0; left && i < n; i++)
        left = (clean[i] = text_clean(text[i], strlen(text[i]))) != NULL;
    clear_line(r);
    for (long line = -1; left; line++) {
        left = line < 0;
        for (size_t i = 0; i < n; i++) {
            const char *from = line < 0 ? title[i] : clean[i] + at[i];
            size_t next, len = fitting(from, width, &next);
            plain_put(stdout, from, len);
            at[i] += line < 0 ? 0 : next;
            left |= clean[i][at[i]] != '\0';
            if (i + 1 < n)
                printf("%*s", (int)(width + GAP - text_columns(from, len)), "");
        }
        putchar('\n');
    }
    flush_out(r);
    for (size_t i = 0; clean && i < n; i++)
        free(clean[i]);
    free(clean);
    free(at);
}

int render_failed(struct render *r)
{
    flush_out(r);
    return r->lost;
}

/* ---- rows ---- */

static char *cell(const struct render *r, const struct column *c, const cJSON *row)
{
    if (c->show)
        return c->show(r, row);
    const cJSON *v = cJSON_GetObjectItemCaseSensitive(row, c->field);
    char *text = NULL;
    if (cJSON_IsNumber(v))
        return asprintf(&text, "%.*f", c->decimals, v->valuedouble) < 0 ? NULL : text;
    return strdup(cJSON_IsString(v) ? v->valuestring : cJSON_IsTrue(v) ? "yes" : "");
}

/* Columns of text in which colours are set */
static unsigned picture_columns(const char *text)
{
    unsigned n = 0;
    while (*text) {
        size_t plain = strcspn(text, "\033");
        n += text_columns(text, plain);
        text += plain;
        text += strcspn(text, "m");
        text += *text == 'm';
    }
    return n;
}

static unsigned cell_columns(const struct column *c, const char *text)
{
    return !text ? 0 : c->right == COLUMN_PICTURE ? picture_columns(text) : text_columns(text, strlen(text));
}

static void print_rows(struct render *r, const struct rows *t, const cJSON *list)
{
    size_t n_col = 0, n_row = (size_t)cJSON_GetArraySize(list), i = 0;
    while (t->col[n_col].title)
        n_col++;
    char **text = calloc(n_row * n_col + 1, sizeof *text);
    unsigned *width = calloc(n_col + 1, sizeof *width);
    if (!text || !width || !n_col)
        goto out;
    for (size_t c = 0; c < n_col; c++)
        width[c] = t->no_heading ? 0 : text_columns(t->col[c].title, strlen(t->col[c].title));
    const cJSON *row;
    cJSON_ArrayForEach(row, list) {
        for (size_t c = 0; c < n_col; c++, i++) {
            text[i] = cell(r, &t->col[c], row);
            unsigned w = cell_columns(&t->col[c], text[i]);
            if (w > width[c])
                width[c] = w;
        }
    }
    for (size_t line = t->no_heading; line <= n_row; line++) {
        unsigned at = 0;
        for (size_t c = 0; c < n_col; c++) {
            const char *s = line ? text[(line - 1) * n_col + c] : t->col[c].title;
            s = s ? s : "";
            if (c + 1 == n_col) {
                unsigned full = render_width(r);     /* no room for words beside the rest: below it */
                wrap(stdout, s, at, at + 20 > full ? 4 : at, full);
                putchar('\n');
                break;
            }
            int picture = line && t->col[c].right == COLUMN_PICTURE, right = t->col[c].right == 1;
            int pad = (int)(width[c] - (picture ? picture_columns(s) : text_columns(s, strlen(s))));
            printf("%*s", right ? pad : 0, "");
            if (picture)
                fputs(s, stdout);
            else
                plain_put(stdout, s, strlen(s));
            printf("%*s", (right ? 0 : pad) + 2, "");
            at += width[c] + 2;
        }
    }
out:
    for (size_t k = 0; text && k < n_row * n_col; k++)
        free(text[k]);
    free(text);
    free(width);
}

void render_rows(struct render *r, const struct rows *t, const char *title, cJSON *head, cJSON *list)
{
    if (r->json) {
        cJSON *fields = head ? head : cJSON_CreateObject();
        cJSON_AddItemToObject(fields, t->key, list);
        emit(r, t->type, t->of, NULL, fields);
        return;
    }
    clear_line(r);
    if (title)
        render_paragraph(r, 0, title);
    print_rows(r, t, list);
    if (title && !t->no_heading && r->out_tty && (unsigned)cJSON_GetArraySize(list) + 3 > render_height(r))
        render_paragraph(r, 0, title);     /* the first one scrolled away */
    flush_out(r);
    cJSON_Delete(head);
    cJSON_Delete(list);
}
