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

/* Limits far beyond any model, so that no product of two sizes overflows 64 bits and
 * a row count fits 32. */
enum { MAX_SIZE = 1 << 24, MAX_LAYERS = 4096, MAX_EXPERTS = 65535 };

/* Do the sizes, each from 1 to its limit, fit together?  The names are the file's own. */
struct size_names { const char *d_model, *n_heads, *n_kv_heads, *top_k, *n_experts, *d_ffn; };
dbrx_status ckpt_sizes_check(const char *file, const struct size_names *,
                             const struct dbrx_config *, struct dbrx_error *err);

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

/* Opens and maps `name` in directory fd `dir`; close *f whatever happens. */
dbrx_status st_map(int dir, const char *name, struct st_file *f, struct dbrx_error *err);
/* Maps `name` in directory fd `dir` and appends its tensors to list, marked `id`.
 * Whatever happens, close *f and free the list afterwards. */
dbrx_status st_open(int dir, const char *name, uint32_t id, struct st_file *f,
                    struct st_list *list, struct dbrx_error *err);
void st_close(struct st_file *);
void st_list_free(struct st_list *);

/* ---- shards.c: the reader's files and their tensors ---------------------- */

struct gguf;
struct reader {
    struct ckpt        pub;                /* first: ckpt_close casts back     */
    struct dbrx_layer *layer;
    struct st_file    *file;               /* [pub.n_shards]                   */
    struct gguf       *gguf;               /* its first part's metadata, or NULL */
    size_t            *word, *merge;       /* [n_words], [n_merges]: where in it */
};

/* One more file, empty; NULL: out of memory, and err says so. */
struct st_file *ckpt_add_file(struct reader *, const char *name, struct dbrx_error *err);
/* Sorts the tensors of all files by name; a name must be there once. */
dbrx_status ckpt_sort_tensors(const struct reader *, struct st_list *, struct dbrx_error *err);
struct st_tensor *ckpt_find_tensor(const struct st_list *, const char *name);  /* sorted; or NULL */

int ckpt_has_shards(int dir);
dbrx_status ckpt_open_shards(struct reader *, int dir, struct st_list *, struct dbrx_error *err);

/* ---- gguf_model.c: DBRX in GGUF ------------------------------------------ */

/* Opens the file `name` of directory fd `dir`, and the other parts if it is one of several:
 * tensors into list, sorted; config, eos and vocabulary into r->pub. */
dbrx_status ckpt_open_gguf(struct reader *, int dir, const char *name, struct st_list *,
                           struct dbrx_error *err);
/* The one GGUF file in the directory, or the first part of the one set; *name is NULL when
 * there is none, else free() it. */
dbrx_status ckpt_find_gguf(int dir, char **name, struct dbrx_error *err);
void ckpt_free_gguf(struct reader *);

/* ---- fingerprint.c ------------------------------------------------------ */

/* Fills desc->fingerprint. */
dbrx_status ckpt_fingerprint(struct dbrx_model_desc *, struct dbrx_error *err);

#endif
