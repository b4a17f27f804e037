/* repl/constrain.c -- the settings `grammar` and `schema`: a file becomes the constraint of
 * the replies to come.  One of them at a time. */
#define _GNU_SOURCE
#include "repl/shell.h"

#include "repl/grammar.h"
#include "repl/schema.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* The file, at most max + 1 bytes of it; NULL after saying why not */
static char *read_file(struct shell *sh, const char *path, size_t max, size_t *len)
{
    FILE *f = fopen(path, "re");
    char *text = f ? malloc(max + 2) : NULL;
    if (!text) {
        render_error(&sh->out, "%s cannot be read: %s", path, strerror(errno));
    } else {
        *len = fread(text, 1, max + 1, f);
        text[*len] = '\0';
        if (ferror(f)) {
            render_error(&sh->out, "%s cannot be read: %s", path, strerror(errno));
            free(text);
            text = NULL;
        }
    }
    if (f)
        fclose(f);
    return text;
}

/* The file's rules; 0 or -1 after saying why not */
static int read_rules(struct shell *sh, int var, const char *path, struct rules *rules)
{
    size_t len;
    char err[512];
    const char *file = strrchr(path, '/') ? strrchr(path, '/') + 1 : path;
    char *text = read_file(sh, path, var == VAR_GRAMMAR ? GRAMMAR_MAX_BYTES : SCHEMA_MAX_BYTES, &len);
    int failed = !text || (var == VAR_SCHEMA ? schema_rules : grammar_parse)(rules, file, text, len, err, sizeof err);
    if (text && failed)
        render_error(&sh->out, "%s", err);
    free(text);
    return failed ? -1 : 0;
}

int shell_constrain(struct shell *sh, int var)
{
    int other = var == VAR_GRAMMAR ? VAR_SCHEMA : VAR_GRAMMAR;
    const char *path = sh->vars.v[var].text;
    char err[256];
    if (!*path) {
        if (!*sh->vars.v[other].text) {
            constraint_free(sh->constraint);
            sh->constraint = NULL;
        }
        return 0;
    }
    if (!sh->tok)
        return render_error(&sh->out, "a %s needs a tokenizer: %s", var_defs[var].name, sh->tok_why);
    struct rules rules = { 0 };
    if (read_rules(sh, var, path, &rules))
        return -1;
    if (!sh->trie)
        sh->trie = trie_new(sh->tok, sh->ckpt->desc.config.n_vocab);
    struct constraint *c = sh->trie ? constraint_new(&rules, sh->trie, sh->eos, sh->n_eos) : NULL;
    if (!c) {
        rules_free(&rules);
        return render_error(&sh->out, "the %s needs too much memory", var_defs[var].name);
    }
    constraint_free(sh->constraint);
    sh->constraint = c;
    vars_set(&sh->vars, other, "default", FROM_DEFAULT, err, sizeof err);
    return 0;
}

const char *shell_constraint(const struct shell *sh)
{
    int var = *sh->vars.v[VAR_GRAMMAR].text ? VAR_GRAMMAR : VAR_SCHEMA;
    return sh->constraint ? var_defs[var].name : NULL;
}
