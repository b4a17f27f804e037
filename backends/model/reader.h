/* backends/model/reader.h -- what the files of the checkpoint reader share:
 * sentences for errors, JSON files, safetensors files, the config.
 *
 * Private to backends/model/.  Everything read here is hostile until checked. */
#ifndef DBRX_MODEL_READER_H
#define DBRX_MODEL_READER_H

#include "backends/model/checkpoint.h"

#include <cjson/cJSON.h>

/* ---- say.c: one clear sentence ------------------------------------------ */

/* Fills err (may be NULL) and returns code. */
__attribute__((format(printf, 3, 4)))
dbrx_status ckpt_fail(struct dbrx_error *err, dbrx_status code, const char *fmt, ...);

/* DBRX_E_NOMEM while reading this file or directory. */
dbrx_status ckpt_no_memory(struct dbrx_error *err, const char *name);

/* A name from a file, harmless to print: control characters and invalid UTF-8 become
 * '?', a long name loses its middle.  SHOW(name) lives as long as the call it is an
 * argument of. */
struct shown { char s[76]; };
struct shown ckpt_show(const char *name);
#define SHOW(name) (ckpt_show(name).s)

/* ---- file.c: files of the directory ------------------------------------- */

/* Opens a regular file in directory fd `dir` for reading.  On failure *fd is -1 (and
 * errno ENOENT if there is no such file). */
dbrx_status ckpt_file_open(int dir, const char *name, int *fd, uint64_t *size,
                      struct dbrx_error *err);
/* All of buf[n] from offset, or an error; never part of it. */
dbrx_status ckpt_file_read(int fd, const char *name, void *buf, size_t n, uint64_t offset,
                      struct dbrx_error *err);

/* ---- json.c: JSON, without the liberties cJSON takes -------------------- */

enum { JSON_MAX = 16 << 20 };              /* bytes; a tree takes some 30 times as much */

/* Parses text[n], which must be one object in which no key occurs twice.  `name` is
 * the file's, for the error.  Delete *out with cJSON_Delete. */
dbrx_status ckpt_json_parse(const char *name, const char *text, size_t n, cJSON **out,
                       struct dbrx_error *err);
/* The same from a file.  A missing file is DBRX_OK with *out == NULL if optional. */
dbrx_status ckpt_json_load(int dir, const char *name, int optional, cJSON **out,
                      struct dbrx_error *err);
/* A member; NULL when it is absent or null. */
const cJSON *ckpt_member(const cJSON *object, const char *key);
/* Is it a whole number from lo to hi, both below 2^53?  (Above, doubles skip some.) */
int ckpt_whole(const cJSON *, int64_t lo, int64_t hi, int64_t *out);

/* ---- config.c ----------------------------------------------------------- */

dbrx_status ckpt_config_read(int dir, struct dbrx_config *, int32_t eos[CKPT_MAX_EOS],
                        uint32_t *n_eos, struct dbrx_error *err);

/* ---- safetensors.c: one file, mapped ------------------------------------ */

struct st_file { char *name; void *map; uint64_t size; int fd; };

struct st_tensor {
    char *name;                            /* owned by the list               */
    struct dbrx_tensor t;
    uint32_t file;                         /* which st_file holds it          */
};
struct st_list { struct st_tensor *v; size_t n; };

/* Maps `name` in directory fd `dir` and appends its tensors to list, marked `id`.
 * Whatever happens, close *f and free the list afterwards. */
dbrx_status st_open(int dir, const char *name, uint32_t id, struct st_file *f,
                    struct st_list *list, struct dbrx_error *err);
void st_close(struct st_file *);
void st_list_free(struct st_list *);

/* ---- fingerprint.c ------------------------------------------------------ */

/* Fills desc->fingerprint. */
dbrx_status ckpt_fingerprint(struct dbrx_model_desc *, struct dbrx_error *err);

/* ---- checkpoint.c: the one table of names, shapes and places ------------ */

struct ckpt_slot {
    char     name[96];
    uint32_t rank;
    uint64_t want[2];                      /* the shape the config asks for, [rank] */
    struct dbrx_tensor *t;                 /* its place in the desc            */
    int      sampled;                      /* is part of the fingerprint's sample */
};
/* Visits every tensor of a model of desc's config, in a fixed order, until a visit
 * returns non-zero; returns that. */
typedef dbrx_status ckpt_visit(void *ctx, const struct ckpt_slot *);
dbrx_status ckpt_each(struct dbrx_model_desc *, ckpt_visit *, void *ctx);

#endif
