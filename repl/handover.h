/* repl/handover.h -- a schedule of backends for a reply: "64=ref, 128=cpu-blas threads=1" goes
 * on with ref after 64 tokens, and with cpu-blas after 128.
 *
 * Knows the notation only; whether there is such a backend is the shell's to say. */
#ifndef DBRX_REPL_HANDOVER_H
#define DBRX_REPL_HANDOVER_H

#include <stddef.h>
#include <stdint.h>

enum { HANDOVER_MAX = 64, HANDOVER_OPTIONS = 8 };

struct handover {
    struct handover_step {
        uint32_t at;                       /* tokens that the reply has by then          */
        int replay, keep;                  /* --replay, --keep                           */
        const char *backend;
        const char *opt[HANDOVER_OPTIONS + 1];         /* "k=v", NULL-ended              */
    } step[HANDOVER_MAX];                  /* [n], ascending                             */
    uint32_t n;
    char *text;                            /* what the words point into; owned           */
};

/* 0, or -1 with one sentence in err and *h empty.  "" is no steps. */
int  handover_parse(struct handover *h, const char *text, char *err, size_t size);
void handover_free(struct handover *);

#endif
