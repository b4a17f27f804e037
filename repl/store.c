/* repl/store.c -- /save and /load.  The file is save.c's and load.c's. */
#include "repl/handlers.h"

#include "repl/commands.h"
#include "repl/save.h"
#include "repl/shell.h"

#include <stdlib.h>
#include <sys/stat.h>

int shell_write(const struct shell *sh, const char *path, int kv, char *err, size_t size)
{
    char *steering = steer_text(sh->steer);
    if (!steering) {
        snprintf(err, size, "out of memory");
        return -1;
    }
    struct save_source from = { sh->tree, &sh->vars, &sh->ckpt->desc, sh->name, disp_name(sh->disp), kv, steering };
    int failed = save_write(path, &from, err, size);
    free(steering);
    return failed;
}

int handle_save(struct shell *sh, const struct args *a)
{
    const char *path = a->text[0];
    int kv = a->text[1] != NULL;
    char err[512];
    struct stat st;
    if (kv && !disp_has_kv(sh->disp))
        return render_error(&sh->out, "%s cannot give its KV cache; /save without --kv keeps everything else",
                            disp_name(sh->disp) ? disp_name(sh->disp) : "no backend is open, so nobody");
    if (kv && sh->sess->n && catch_up(sh, "nothing was saved"))
        return -1;
    kv = kv && sh->sess->n;
    render_busy(&sh->out, 1);
    int failed = shell_write(sh, path, kv, err, sizeof err);
    render_busy(&sh->out, 0);
    if (failed)
        return render_error(&sh->out, "%s", err);
    sh->saved = sh->tree->said;
    double bytes = stat(path, &st) ? 0 : (double)st.st_size;
    cJSON *f = cJSON_CreateObject();
    field_string(f, "file", path);
    cJSON_AddNumberToObject(f, "bytes", bytes);
    cJSON_AddNumberToObject(f, "branches", sh->tree->n);
    cJSON_AddBoolToObject(f, "kv", kv);
    render_event(&sh->out, "status", f, "saved %u branch%s to %s (%.1f KB%s)", sh->tree->n,
                 sh->tree->n == 1 ? "" : "es", path, bytes / 1000, kv ? ", with the KV cache" : "");
    return 0;
}

static int load(struct shell *sh, const char *path, int tokens_only)
{
    struct saved s;
    struct dbrx_error err = { 0 };
    char text[512];
    const char *kv = "computed when needed";
    if (save_read(path, &sh->ckpt->desc, sh->name, disp_max_pos(sh->disp), &sh->vars, tokens_only, &s, text,
                  sizeof text))
        return render_error(&sh->out, "%s", text);
    uint32_t n = s.n;
    char why[400];
    int steered = steer_read(sh->steer, s.steering, why, sizeof why);
    if (steered < 0 && !s.same) {          /* that of another model need not fit this one */
        steered = steer_off(sh->steer);
        render_event(&sh->out, "status", NULL, "the file's steering does not fit this model, and is off: %s", why);
    } else if (steered < 0) {
        saved_free(&s);
        return render_error(&sh->out, "%s was not loaded: %s", path, why);
    }
    dbrx_status st = tree_adopt(sh->tree, s.branch, n, s.now, &err);
    if (st != DBRX_OK) {
        if (steered > 0)
            steer_undo(sh->steer);
        saved_free(&s);
        return render_error(&sh->out, "%s was not loaded: %s", path, err.text);
    }
    shell_steer(sh);
    s.n = 0;                               /* the tree's now */
    struct vars was = sh->vars;
    sh->vars = s.vars;
    s.vars = was;
    sh->seed_shown = 1;
    if (s.n_kv && disp_has_kv(sh->disp)) {
        render_busy(&sh->out, 1);
        st = sess_import(sh->sess, s.n_kv, save_next_kv, &s, &err);
        render_busy(&sh->out, 0);
        kv = "loaded";
        if (st != DBRX_OK) {               /* tokens are the truth: nothing is lost */
            render_event(&sh->out, "status", NULL, "the KV cache was not taken over, and is computed again: %s",
                         err.text);
            kv = "computed when needed";
        }
    }
    cJSON *f = cJSON_CreateObject();
    field_string(f, "file", path);
    cJSON_AddStringToObject(f, "branch", sh->tree->now->name);
    cJSON_AddNumberToObject(f, "branches", n);
    cJSON_AddNumberToObject(f, "tokens", sh->sess->n);
    cJSON_AddStringToObject(f, "kv", kv);
    if (*s.steering)
        field_string(f, "steering", s.steering);
    field_string(f, "model", s.model);
    field_string(f, "backend", s.backend);
    render_event(&sh->out, "status", f, "loaded %u branch%s, now on \"%s\": %u tokens; kv: %s%s%s", n,
                 n == 1 ? "" : "es", sh->tree->now->name, sh->sess->n, kv,
                 steer_block(sh->steer) ? "; steered: /steer lists how" : "",
                 s.same ? "" : "; made with another checkpoint");
    saved_free(&s);
    return 0;
}

/* Without FILE: the latest that another session kept */
int handle_load(struct shell *sh, const struct args *a)
{
    struct stat st;
    int tokens_only = a->text[1] != NULL;
    char *kept = a->text[0] ? NULL : shell_kept(sh, tokens_only, &st);
    if (!a->text[0] && !kept)
        return render_error(&sh->out, "no conversation with %s was kept; /load FILE takes a file of /save", sh->name);
    int failed = load(sh, kept ? kept : a->text[0], tokens_only);
    free(kept);
    return failed;
}
