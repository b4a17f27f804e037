/* backends/model/gguf.h -- the GGUF container: typed metadata, then tensors.
 *
 * Reads versions 2 and 3, little-endian, as the GGUF specification has them.  Knows
 * nothing of DBRX.  Private to backends/model/; everything read is hostile until checked. */
#ifndef DBRX_MODEL_GGUF_H
#define DBRX_MODEL_GGUF_H

#include "backends/model/reader.h"

enum { GGUF_U8, GGUF_I8, GGUF_U16, GGUF_I16, GGUF_U32, GGUF_I32, GGUF_F32, GGUF_BOOL, GGUF_STRING,
       GGUF_ARRAY, GGUF_U64, GGUF_I64, GGUF_F64 };

struct gguf_kv {
    char    *key;                          /* in gguf.keys                     */
    uint32_t type, of;                     /* GGUF_*; of an array's elements   */
    uint64_t n;                            /* elements; 1 if it is no array    */
    size_t   at;                           /* of the first one, in gguf.meta   */
};

struct gguf {
    unsigned char *meta;                   /* the file up to the data          */
    size_t   n_meta;
    struct gguf_kv *kv;                    /* [n_kv], sorted by key            */
    size_t   n_kv;
    char    *keys;                         /* all of them, NUL-terminated      */
    uint32_t version;
};

/* Maps `name` in directory fd `dir`, reads its metadata and appends its tensors to list,
 * marked `id`, dimensions outermost first.  Whatever happens, gguf_free(g), st_close(f) and
 * st_list_free(list) afterwards. */
dbrx_status gguf_open(int dir, const char *name, uint32_t id, struct st_file *f, struct gguf *g,
                      struct st_list *list, struct dbrx_error *err);
void gguf_free(struct gguf *);

/* Does the file begin like one? */
int gguf_is(int fd);

const struct gguf_kv *gguf_find(const struct gguf *, const char *key);   /* or NULL */

/* A whole number of any type from lo to hi.  Absent: *out stays as it is. */
dbrx_status gguf_whole(const struct gguf *, const char *file, const char *key, int64_t lo,
                       int64_t hi, int64_t *out, struct dbrx_error *err);
/* A finite number of either float type.  Absent: *out stays as it is. */
dbrx_status gguf_number(const struct gguf *, const char *file, const char *key, double *out,
                        struct dbrx_error *err);
/* The bytes of a string, not terminated; NULL: absent or no string. */
const char *gguf_text(const struct gguf *, const char *key, size_t *len);

/* Where each string of an array begins (at its length), [kv->n]; free() it.  NULL: no memory.
 * Element i is gguf_string(g, at[i], &len). */
size_t *gguf_strings(const struct gguf *, const struct gguf_kv *);
const char *gguf_string(const struct gguf *, size_t at, size_t *len);
/* Element i < kv->n of a number or array of numbers, as it is stored. */
int64_t gguf_integer(const struct gguf *, const struct gguf_kv *, uint64_t i);

#endif
