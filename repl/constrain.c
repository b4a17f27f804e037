/* repl/constrain.c -- the settings `grammar` and `schema`: a file becomes the constraint of
 * replies.  Settings change in many ways (/set, a batch's line, a loaded session, a turn
 * that is replayed), so what is in force is compared with them before something is drawn. */
#define _GNU_SOURCE
#include "repl/handover.h"
#include "repl/shell.h"

#include "repl/grammar/grammar.h"
#include "repl/grammar/schema.h"
#include "repl/paths.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* The file, at most max + 1 bytes of it; NULL and a sentence */
static char *read_file(const char *path, size_t max, size_t *len, char *err, size_t size)
{
    FILE *f = path_open(path, err, size);
    char *text = f ? malloc(max + 2) : NULL;
    *len = text ? fread(text, 1, max + 1, f) : 0;
    if (f && !text) {
        snprintf(err, size, "out of memory");
    } else if (f && ferror(f)) {
        snprintf(err, size, "%s cannot be read: %s", path, strerror(errno));
        free(text);
        text = NULL;
    }
    if (f)
        fclose(f);
    return text;
}

static int load(struct shell *sh, int var, const char *path, char *err, size_t size)
{
    size_t len;
    struct rules rules = { 0 };
    const char *file = strrchr(path, '/') ? strrchr(path, '/') + 1 : path;
    if (!sh->tok) {
        snprintf(err, size, "a %s needs a tokenizer: %s", var_defs[var].name, sh->tok_why);
        return -1;
    }
    char *text = read_file(path, var == VAR_GRAMMAR ? GRAMMAR_MAX_BYTES : SCHEMA_MAX_BYTES, &len, err, size);
    int failed = !text || (var == VAR_SCHEMA ? schema_rules : grammar_parse)(&rules, file, text, len, err, size);
    free(text);
    if (failed)
        return -1;
    if (!sh->trie)
        sh->trie = trie_new(sh->tok, sh->ckpt->desc.config.n_vocab);
    struct constraint *c = sh->trie ? constraint_new(&rules, sh->trie, sh->eos, sh->n_eos) : NULL;
    char *from = c ? strdup(path) : NULL;
    if (!from) {
        rules_free(&rules);
        constraint_free(c);
        snprintf(err, size, "%s needs too much memory", file);
        return -1;
    }
    constraint_free(sh->constraint);
    free(sh->constraint_from);
    sh->constraint = c;
    sh->constraint_from = from;
    sh->constraint_var = var;
    return 0;
}

int shell_constrain(struct shell *sh, char *err, size_t size)
{
    const char *grammar = sh->vars.v[VAR_GRAMMAR].text, *schema = sh->vars.v[VAR_SCHEMA].text;
    int var = *grammar ? VAR_GRAMMAR : VAR_SCHEMA;
    const char *path = *grammar ? grammar : schema;
    struct handover plan;
    if (shell_read_lists(sh, err, size) || shell_plan(sh, &plan, err, size))
        return -1;
    handover_free(&plan);
    if (*grammar && *schema) {
        snprintf(err, size, "grammar and schema exclude each other; set one of them to \"\"");
        return -1;
    }
    if (!*path) {
        constraint_free(sh->constraint);
        free(sh->constraint_from);
        sh->constraint = NULL;
        sh->constraint_from = NULL;
        return 0;
    }
    if (sh->constraint && sh->constraint_var == var && !strcmp(sh->constraint_from, path))
        return 0;
    return load(sh, var, path, err, size);
}

int shell_set_constraint(struct shell *sh, int var)
{
    const char *path = sh->vars.v[var].text;
    char err[512];
    if (*path) {
        if (load(sh, var, path, err, sizeof err))
            return render_error(&sh->out, "%s", err);
        vars_set(&sh->vars, var == VAR_GRAMMAR ? VAR_SCHEMA : VAR_GRAMMAR, "default", FROM_DEFAULT, err,
                 sizeof err);
    }
    return shell_constrain(sh, err, sizeof err) ? render_error(&sh->out, "%s", err) : 0;
}

/* As before the token at pos, of the reply of turn k; n_turns: of the one to come */
static void constrain_at(struct shell *sh, uint32_t k, uint32_t pos)
{
    const struct branch *b = sh->tree->now;
    const struct turn *turn = b->turn;
    struct dbrx_error err;
    uint32_t from = k < b->n_turns ? turn[k].reply : pos;
    constraint_restart(sh->constraint);
    for (; k && (k == b->n_turns || turn[k].begin == turn[k].reply); k--) { /* no prompt in between */
        enum sess_finish why = turn[k - 1].finish;
        if (why != SESS_MAX_TOKENS && why != SESS_CONTEXT_FULL && why != SESS_STOPPED)
            break;
        from = turn[k - 1].reply;
    }
    for (; from < pos; from++)
        if (constraint_accept(sh->constraint, sh->sess->token[from], &err) != DBRX_OK) {
            constraint_restart(sh->constraint);        /* it was said under another one */
            return;
        }
}

void shell_constrain_turn(struct shell *sh, uint32_t k)
{
    if (sh->constraint)
        constrain_at(sh, k, sh->tree->now->turn[k].reply);
}

const uint8_t *shell_constrain_token(struct shell *sh, uint32_t pos)
{
    const struct branch *b = sh->tree->now;
    const uint8_t *banned = NULL;
    uint32_t k = 0;
    if (!sh->constraint)
        return NULL;
    while (k < b->n_turns && !(b->turn[k].reply <= pos && pos < b->turn[k].end))
        k++;
    constrain_at(sh, k, pos);
    return constraint_mask(sh->constraint, &banned, NULL) == DBRX_OK ? banned : NULL;
}
