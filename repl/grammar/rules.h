/* repl/grammar/rules.h -- a grammar as the matcher walks it: rules of alternatives of elements.
 *
 * Characters are bytes here: a class of code points becomes the byte sequences of its
 * UTF-8, so that a token may end anywhere, in the middle of a character too, and bytes
 * that are not UTF-8 match nothing.  Repetition is made of rules, never of copies of
 * what is repeated.  Built by grammar.c, walked by matcher.c; knows no syntax. */
#ifndef DBRX_REPL_RULES_H
#define DBRX_REPL_RULES_H

#include "repl/grammar/charset.h"

enum {
    RULES_MAX_ELEMENTS = 1 << 20,          /* elements, and rules: what a hostile file can make */
    RULES_MAX_SETS     = 1 << 16,          /* different sets of bytes                     */
    RULES_NONE         = 0x3fffffff,
};

/* An element is its kind in the upper two bits, what it is about in the rest. */
enum { EL_BYTES,                           /* one byte of a set                           */
       EL_RULE,                            /* what a rule matches                         */
       EL_END,                             /* the end of an alternative                   */
       EL_ACCEPT };                        /* the end of everything                       */
static inline uint32_t el(unsigned kind, uint32_t arg) { return (uint32_t)kind << 30 | arg; }
static inline unsigned el_kind(uint32_t e) { return e >> 30; }
static inline uint32_t el_arg(uint32_t e) { return e & RULES_NONE; }

struct byte_set { uint64_t w[4]; };

struct rules {
    uint32_t *elem;                        /* [n_elem]; elem[0] is the root, elem[1] EL_ACCEPT */
    struct rule_alt {
        uint32_t at, rule;                 /* elem[at] .. EL_END, an alternative of rule  */
        uint32_t next;                     /* the rule's next alternative, or RULES_NONE  */
    } *alt;                                /* [n_alt]                                     */
    struct rule {
        uint32_t first, last;              /* alternatives, or RULES_NONE                 */
        uint32_t rank;                     /* rules that can begin it have lower ranks    */
        uint32_t tag;                      /* the builder's: where it comes from          */
        uint8_t  nullable, productive;     /* matches nothing at all; matches something   */
        uint8_t  star;                     /* r ::= x r | (nothing): may begin with itself */
    } *rule;                               /* [n_rule]                                    */
    struct byte_set *set;                  /* [n_set]                                     */
    uint32_t *slot;                        /* [slot_mask + 1], set + 1 by its hash        */
    size_t n_elem, cap_elem, n_alt, cap_alt, n_rule, cap_rule, n_set, cap_set, slot_mask;
    /* bytes that no set tells apart are one class */
    uint8_t  cls[256];
    unsigned n_cls;                        /* 1 .. 256                                    */
    struct byte_set *cls_set;              /* [n_set] as sets of classes                  */
    enum { RULES_FINE, RULES_NOMEM, RULES_TOO_LARGE } failed;     /* sticky               */
};                                         /* zero-initialise; rules_free                 */

void rules_free(struct rules *);

/* Building.  After a failure all of them do nothing and return RULES_NONE or an element
 * of no use; look at `failed` at the end. */
uint32_t rules_add(struct rules *, uint32_t tag);                /* a rule without alternatives */
void     rules_alt(struct rules *, uint32_t rule, const uint32_t *elem, size_t n);
uint32_t rules_byte(struct rules *, unsigned byte);              /* an element            */
uint32_t rules_class(struct rules *, const struct charset *, uint32_t tag);      /* an element, or two in a rule */
/* The element for x at least min and at most max times (max RULES_NONE: without end) */
uint32_t rules_repeat(struct rules *, uint32_t x, uint32_t min, uint32_t max, uint32_t tag);

/* Makes it ready to be walked from `root`.  What cannot match is dropped.  RULES_OK, or why
 * not and in *culprit the rule. */
enum { RULES_OK, RULES_LEFT_RECURSIVE, RULES_NEVER_ENDS, RULES_FAILED };
int rules_finish(struct rules *, uint32_t root, uint32_t *culprit);

#endif
