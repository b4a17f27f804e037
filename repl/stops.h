/* repl/stops.h -- stop strings: where a reply's text contains one, as bytes come in.
 *
 * What may be the beginning of a stop string is held back until it is clear that it is
 * none, so nothing of it is ever shown.  Knows bytes only. */
#ifndef DBRX_REPL_STOPS_H
#define DBRX_REPL_STOPS_H

#include <stddef.h>

enum { STOPS_MAX = 16, STOPS_LEN = 256 };

struct stops {
    char   text[STOPS_MAX][STOPS_LEN];
    size_t len[STOPS_MAX], n;
};

/* One string as it stands, or several, each in "..." or '...'; \n, \t, \\ and \" mean what
 * they do in C.  Empty: none.  0, or -1 and one sentence in err. */
int stops_parse(struct stops *, const char *spec, char *err, size_t size);

/* text[len], of which the first `seen` bytes were looked at before: 1 when it contains a stop
 * string; *safe is then where the first one begins, else how much of it may be shown. */
int stops_find(const struct stops *, const char *text, size_t len, size_t seen, size_t *safe);

#endif
