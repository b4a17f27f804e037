/* repl/compare.h -- two backends on the same tokens, shown: what /compare and "dbrx compare"
 * share.  The figures come from comparison.h. */
#ifndef DBRX_REPL_COMPARE_H
#define DBRX_REPL_COMPARE_H

#include "repl/comparison.h"
#include "tokenizer/tokenizer.h"

#include <cjson/cJSON.h>

struct shell;

struct compare_text { char *id; int32_t *token; uint32_t n; };     /* id: JSON text, or NULL */
struct compare_texts { struct compare_text *list; size_t n; uint64_t tokens; uint32_t longest; };

/* Adds ids[n] in texts of at most `window` tokens, as long as there are fewer than `limit` in
 * all (0: no limit).  id is copied, may be NULL.  0 or -1: no memory. */
int  compare_add(struct compare_texts *, const char *id, const int32_t *ids, size_t n, uint32_t window,
                 uint64_t limit);
/* ... the words of a file, or standard input ("-").  0, or -1 after saying why. */
int  compare_add_file(struct shell *, struct compare_texts *, const char *name, uint64_t limit);
void compare_texts_free(struct compare_texts *);

struct compare_ask {
    const char *source;                    /* "the conversation", or a file's name      */
    struct compare_texts texts;
    uint32_t step, top, list;              /* 0: as many tokens an eval as fit; of the top-k
                                              agreement; rows of changes and flips as text */
    double tolerance;                      /* of a layer's relative error               */
    double max_kl, min_top1;               /* what fails the check; NaN: not asked      */
};
enum { COMPARE_TOP = 5, COMPARE_LIST = 10 };
#define COMPARE_TOLERANCE 0.01

struct compare_result { struct comparison c; char label[2][sizeof ((struct engine *)0)->label]; int stopped; };

/* Evaluates all texts on both engines.  each (or NULL) is called after each text with the figures so
 * far.  0, also when it was interrupted (result->stopped) after something was compared; -1 after
 * saying why not.  compare_free in any case. */
int  compare_run(struct shell *, struct engine *a, struct engine *b, const struct compare_ask *,
                 void (*each)(struct shell *, const struct compare_ask *, size_t text, const struct divergence *),
                 struct compare_result *);
void compare_free(struct compare_result *);
/* The event "compare", or what it says for people. */
void compare_show(struct shell *, const struct compare_ask *, const struct compare_result *);
/* Its figures without the lists, as members of the object. */
void compare_figures(cJSON *, const struct compare_ask *, const struct compare_result *);
/* The rows "comparisons": `pairs`, which it takes, has one object for each two of name[n], in order:
 * figures, or a, b and a reason.  As text also a matrix, where it fits. */
void compare_show_pairs(struct shell *, const struct compare_ask *, const char *const *name, size_t n, cJSON *pairs);
/* Names of the checks that failed, ", " between them: "max-kl"; NULL: none. */
const char *compare_failed(const struct compare_ask *, const struct divergence *);

#endif
