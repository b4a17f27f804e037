/* repl/input.c -- see input.h. */
#include "repl/input.h"

#include <stdlib.h>
#include <string.h>

static const char quotes[] = "\"\"\"";
enum { QUOTES = sizeof quotes - 1 };

static int add(struct input *in, const char *text, size_t len)
{
    if (in->len + len + 1 > in->cap) {
        size_t cap = 2 * (in->len + len) + 64;
        char *more = realloc(in->text, cap);
        if (!more) {
            input_drop(in);
            return -1;
        }
        in->text = more;
        in->cap = cap;
    }
    memcpy(in->text + in->len, text, len);
    in->len += len;
    in->text[in->len] = '\0';
    return 0;
}

static int ends_block(const char *line, size_t len)
{
    return len >= QUOTES && !memcmp(line + len - QUOTES, quotes, QUOTES);
}

/* A paste that merely begins with quotes, as Python does, is no block: nothing says that
 * more will come. */
static int begins_block(const char *line, size_t len)
{
    return len >= QUOTES && !memcmp(line, quotes, QUOTES) &&
           (!memchr(line, '\n', len) || (len >= 2 * QUOTES && ends_block(line, len)));
}

static int add_to_block(struct input *in, const char *line, size_t len)
{
    int last = ends_block(line, len);
    if (last)
        len -= QUOTES;
    if (last && len && line[len - 1] == '\n')
        len--;                             /* of a paste: the quotes are on a line of their own */
    in->open = last ? INPUT_CLOSED : INPUT_BLOCK;
    if (last && !len && in->begun)
        return 1;                          /* """ on its own line adds no newline */
    if ((in->begun && add(in, "\n", 1)) || add(in, line, len))
        return -1;
    in->begun = 1;
    return last;
}

int input_line(struct input *in, const char *line, size_t len)
{
    if (in->open == INPUT_BLOCK)
        return add_to_block(in, line, len);
    int first = in->open == INPUT_CLOSED;
    if (first)
        input_drop(in);
    if (first && begins_block(line, len)) {
        in->literal = 1;
        in->open = INPUT_BLOCK;
        size_t skip = len > QUOTES && line[QUOTES] == '\n' ? QUOTES + 1 : QUOTES;
        return len == skip ? add(in, "", 0) : add_to_block(in, line + skip, len - skip);
    }
    size_t slashes = 0;
    while (slashes < len && line[len - 1 - slashes] == '\\')
        slashes++;
    int command = first && len && line[0] == '/' && !(len > 1 && line[1] == '/');
    int more = slashes % 2 && !command;
    if ((!first && add(in, "\n", 1)) || add(in, line, len - (size_t)more))
        return -1;
    in->open = more ? INPUT_JOIN : INPUT_CLOSED;
    return !more;
}

void input_end(struct input *in)
{
    in->open = INPUT_CLOSED;
}

void input_drop(struct input *in)
{
    in->len = 0;
    in->open = INPUT_CLOSED;
    in->literal = in->begun = 0;
    if (in->text)
        in->text[0] = '\0';
}

void input_free(struct input *in)
{
    free(in->text);
    *in = (struct input){ 0 };
}
