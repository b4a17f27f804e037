/* backends/cuda/args.h -- what the host hands to kernels: one structure for each kernel, passed
 * by value, and the few that lie in device memory.  Plain C, seen by both compilers.
 *
 * Rows of activations are padded with zeros to whole groups of GROUP elements, and so are the
 * rows of stored matrices: no kernel has a tail to think of, and every row begins aligned. */
#ifndef DBRX_CUDA_ARGS_H
#define DBRX_CUDA_ARGS_H

#include "backends/backend.h"

enum { GROUP = 32,                         /* elements that one thread decodes at once       */
       MAX_EXPERTS = 1024, MAX_HEAD = 256, /* what the kernels' shared memory is laid out for */
       KV_FP8 = 1000 };                    /* a KV cache's type beside DBRX_F32, F16, BF16: E4M3 */

/* Shapes of blocks that the host has to know, too */
#define PAIR     2u                        /* rows that a warp of a matvec takes at a time   */
#define HALF_SUM 16u                       /* elements that share a scale                    */
#define PADDED   (GROUP + 4u)              /* floats of a group in a matvec's shared memory  */
#define TILE     64u                       /* tokens and rows of a tile                      */
#define EACH     4u                        /* ... and a thread's share of them               */
#define TILE_THREADS (TILE / EACH * (TILE / EACH))
#define TILE_SHARED  (3 * TILE * (GROUP + 1) * sizeof(float) + TILE * sizeof(void *))
#define QUERIES  8u                        /* of a block of attention                        */
#define KEYS     128u                      /* positions it looks at together: its threads    */
#define FAST     128u                      /* tokens and rows of a tile of tensor cores      */
#define FAST_COLS 64u
#define FAST_THREADS 256u
#define FAST_SHARED (2 * 2 * FAST * FAST_COLS * 2 + FAST * sizeof(void *))
#define FLASH    64u                       /* queries and positions of a block of flash      */
#define FLASH_HEAD 128u                    /* numbers of a head that it can do               */
#define FLASH_THREADS 128u
#define FLASH_SHARED (2 * FLASH * FLASH_HEAD * 2)
#define ATTEND_SHARED(head) ((QUERIES * (KEYS + 3) + KEYS / 32 * QUERIES * KEYS + QUERIES * (size_t)(head)) * sizeof(float))

/* A stored matrix: up to four planes, each one field of all its blocks (planes.h). */
struct wt  { const unsigned char *p[4]; };
struct mat { struct wt w; uint32_t type, rows, cols; };        /* cols: padded */

/* One pass, in device memory, so that a captured graph finds the next token's values there. */
struct step {
    uint32_t pos, n;                       /* n tokens, the first at position pos            */
    uint32_t slots;                        /* experts of a token at most: a row of routes    */
    uint32_t steered;                      /* struct steering is filled in                   */
    uint32_t taps;                         /* `want` is filled in                            */
    uint32_t bad;                          /* ~0, or the least layer * n + t whose router gave
                                              a value that is no number                      */
};

/* A steering block in device memory, [n_layers][n_experts] each; top_k: [n_layers] */
struct steering {
    float    *bias, *scale;
    uint16_t *source, *top_k;
    uint8_t  *mark;
};

struct repack_args {                       /* rows of a file's blocks to planes, or columns  */
    const unsigned char *raw;              /* n rows of cols elements as the file has them   */
    unsigned char *to[4];                  /* the planes' beginnings                         */
    uint32_t at[4], size[4];               /* of each plane's field in a block; 0: no plane  */
    uint32_t n, cols, padded, block, bytes;/* elements and bytes of a block                  */
    uint64_t first;                        /* row (transposed: column) that raw begins with  */
};

struct embed_args {                        /* x[n][w.cols]; the tap of what enters block 0     */
    const struct step *step;
    struct mat w;
    const int32_t *token;
    float *x, *tap_x;
    const uint8_t *want;
};
struct norm_args  { const float *x, *w; float *y; uint32_t d, ld; float eps; };
/* A row before it is multiplied; w NULL: as it is */
struct norming    { const float *w; uint32_t d; float eps; };
struct rope_args {                         /* clip, rotate, keys and values to the cache      */
    const struct step *step;
    float *qkv;                            /* [n][(heads + 2 kv_heads) * head]                */
    unsigned char *k, *v;                  /* this layer's [max_pos][kv_heads][head]          */
    const float *inv_freq;                 /* [head / 2]                                      */
    uint32_t heads, kv_heads, head, type;
    float clip;
};
struct linear_args {                       /* y[n][ldy] = or += x[n][cols] w^T                */
    struct mat w;
    const float *x;
    const uint16_t *x16;                   /* the same, bfloat16; for tensor cores            */
    float *y;
    uint32_t n, ldy, add;
    struct norming norm;                   /* of matvec                                       */
    struct rope_args rope;                 /* of matvec; heads 0: none.  y is qkv             */
};
struct convert_args { const unsigned char *from; unsigned char *to; uint64_t n; uint32_t from_type, to_type; };
struct attend_args {
    const struct step *step;
    const float *q;                        /* [n][ldq]                                        */
    const unsigned char *k, *v;
    float *out;                            /* [n][ldo]: [heads][head]                         */
    float *part;                           /* [n * heads][splits][head + 2]: sum, maximum, then
                                              the unnormalised output; unused with one split  */
    uint32_t *count;                       /* [n * heads]: 0                                  */
    uint32_t ldq, ldo, heads, kv_heads, head, n, splits, type;
};
struct route_args {
    const struct step *step;
    struct steering steer;                 /* this layer's rows                               */
    const float *x, *router;               /* [n][ld], [n_experts][ld]                        */
    struct norming norm;
    float *h;                              /* [n][ld]: x after it                             */
    uint32_t *count;                       /* [n]: 0                                          */
    uint16_t *expert;                      /* [n][slots]                                      */
    float *weight, *prob, *logit;          /* [n][slots], [n][n_experts] twice                */
    unsigned int *bad;                     /* &step->bad                                      */
    uint32_t ld, n_experts, top_k, layer;
    float norm_p;
};
struct group_args {                        /* slots of a chunk, by expert                     */
    const uint16_t *expert;
    const float *weight;
    uint32_t *order, *start;               /* [n * slots], [n_experts + 1]                    */
    uint32_t n_slots, n_experts;
};
struct combine_args {                      /* x += the experts' weighted sum; taps            */
    const struct step *step;
    float *x;                              /* [n][ld]                                         */
    const float *y, *weight;
    float *tap_x, *tap_part;               /* [n][ld], [n][slots][ld] of this layer           */
    const uint8_t *want;                   /* this layer's DBRX_TAP_* bits                    */
    uint32_t slots, d, ld;
};
struct expert_args {                       /* of all slots, or of the sorted ones             */
    const struct wt *w1, *v1, *w2;         /* [n_experts]                                     */
    const uint16_t *expert;                /* [n * slots]                                     */
    const float *weight;
    const float *h;                        /* [n][d]                                          */
    const uint16_t *h16;                   /* for tensor cores: bfloat16 of h and act         */
    uint16_t *act16;
    float *act, *y;                        /* [n * slots][ffn_ld], [n * slots][ld]            */
    const uint32_t *order, *start;         /* struct group_args; for the tiled kernels        */
    uint32_t type1, type3, type2;          /* of w1, v1, w2                                   */
    uint32_t slots, d, ld, ffn, ffn_ld, act_fn;
    struct combine_args combine;           /* what `down` ends with                           */
    uint32_t *count;                       /* [n][blocks of a slot]: 0                        */
};

#endif
