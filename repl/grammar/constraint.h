/* repl/grammar/constraint.h -- a grammar over a vocabulary: which tokens may come next.
 *
 * The vocabulary is a trie of bytes that is walked once along with the automaton, so that
 * a common beginning is tried once; the answer is kept by state.  Knows no sampler and no
 * logits. */
#ifndef DBRX_REPL_CONSTRAINT_H
#define DBRX_REPL_CONSTRAINT_H

#include "plugins/abi.h"
#include "repl/grammar/rules.h"
#include "tokenizer/tokenizer.h"

/* All tokens that text can be made of: special ones are not, nor those longer than this. */
enum { TRIE_MAX_TOKEN = 256 };
struct trie;
struct trie *trie_new(const struct tok *, uint32_t n_vocab);     /* NULL: out of memory */
void trie_free(struct trie *);

struct constraint;
/* Takes over what is in the rules, also on failure (NULL: out of memory or too ambiguous).
 * The trie is not owned and outlives it; eos[n_eos] is copied. */
struct constraint *constraint_new(struct rules *, const struct trie *, const int32_t *eos, uint32_t n_eos);
void constraint_free(struct constraint *);

/* How much memory states may take before they are made anew; 64 MiB unless told. */
void constraint_keep(struct constraint *, size_t bytes);
void constraint_restart(struct constraint *);          /* before the first token again */

/* How much was said so far, and back to there: what is behind `said` is forgotten. */
size_t constraint_said(const struct constraint *);
void constraint_rewind(struct constraint *, size_t said);

/* Nothing can follow: what was said is complete and cannot go on. */
int constraint_complete(const struct constraint *);
/* What may come next: banned[n_vocab], valid until the next call.  The eos ids are allowed
 * when the text may end here.  DBRX_E_UNSUPPORTED and a sentence when there is no token. */
dbrx_status constraint_mask(struct constraint *, const uint8_t **banned, struct dbrx_error *);
/* This token has come; an eos id changes nothing.  DBRX_E_INVALID: it does not fit. */
dbrx_status constraint_accept(struct constraint *, int32_t id, struct dbrx_error *);

#endif
