/* backends/model/gguf_write.h -- the head of a GGUF file, made in memory: metadata, then the
 * table of tensors.  The tensors' data follows it in the file, in the order they were added,
 * each padded to GGUF_ALIGN bytes; whoever writes the file does that.
 *
 * Zero-initialise; check `failed` (out of memory) once, at the end.  [one/struct] */
#ifndef DBRX_MODEL_GGUF_WRITE_H
#define DBRX_MODEL_GGUF_WRITE_H

#include "backends/backend.h"

#include <stddef.h>

enum { GGUF_ALIGN = 32 };

struct gguf_bytes { unsigned char *p; size_t n, cap; };
struct gguf_head {
    struct gguf_bytes kv, tensors;
    uint64_t n_kv, n_tensors, data;        /* data: bytes of all tensors so far, padded */
    int failed;
};

/* Keys: written once each. */
void gguf_put_u32(struct gguf_head *, const char *key, uint32_t);
void gguf_put_f32(struct gguf_head *, const char *key, float);
void gguf_put_bool(struct gguf_head *, const char *key, int);
void gguf_put_text(struct gguf_head *, const char *key, const char *s, size_t len);
/* An array of n strings, int32s or float32s: then put exactly n of them. */
void gguf_put_texts(struct gguf_head *, const char *key, uint64_t n);
void gguf_put_int32s(struct gguf_head *, const char *key, uint64_t n);
void gguf_put_float32s(struct gguf_head *, const char *key, uint64_t n);
void gguf_add_text(struct gguf_head *, const char *s, size_t len);
void gguf_add_int32(struct gguf_head *, int32_t);
void gguf_add_float32(struct gguf_head *, float);

/* general.architecture, general.name and every key of the config; clip 0 is written as the
 * largest float, because other readers want a number. */
void gguf_put_config(struct gguf_head *, const struct dbrx_config *, const char *name);

/* The next tensor; dim[rank] outermost first, a whole number of blocks a row. */
void gguf_put_tensor(struct gguf_head *, const char *name, uint32_t rank, const uint64_t *dim,
                     uint32_t dtype);

/* The finished head, *n bytes, padded so that the data may follow; NULL: out of memory.
 * free() it.  Frees what the struct holds either way. */
unsigned char *gguf_head_bytes(struct gguf_head *, size_t *n);

#endif
