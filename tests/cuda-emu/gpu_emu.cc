/* tests/cuda-emu/gpu_emu.cc -- backends/cuda/gpu.h over the host's memory and fibers.cc: what is queued
 * runs at once, a graph is a list of what was queued.
 *
 * For tests, options say what kind of device to play: emu-devices=N, emu-memory=BYTES of each,
 * emu-fail-alloc=N (the N-th allocation from now on finds no memory), emu-fail-launch=N (the device
 * is lost at the N-th launch), emu-fail-open=N (busy, ...).  0 or none: all is well. */
#include "tests/cuda-emu/emu.h"

#include "backends/cuda/args.h"
#include "backends/cuda/gpu.h"

#include <stdlib.h>
#include <pthread.h>
#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/asan_interface.h>
#endif
#include "plugins/fail.h"

extern "C" {
#define KERNEL(name, type, body) void dbrx_##name(const type);
#include "backends/cuda/planes.h"
#include "backends/cuda/kernel_list.h"
#undef KERNEL
}

/* by number, with the argument a kernel wants */
static void (*const kernels[])(const void *) = {
#define KERNEL(name, type, body) [](const void *a) { dbrx_##name(*(const type *)a); },
#include "backends/cuda/kernel_list.h"
#undef KERNEL
};

enum { MAX_DEVICES = 8 };
static struct { long devices, memory, fail_alloc, fail_launch, fail_open; } play;
static long long used[MAX_DEVICES];        /* bytes                                          */
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

struct gpu { int device; };

/* in front of every allocation */
struct header { void *block; size_t bytes; int device; };

struct op {
    struct op *next;
    enum { COPY, LAUNCH } kind;
    void *to;
    const void *from;
    size_t bytes, shared;
    enum gpu_kernel kernel;
    uint32_t grid[3], threads;
    alignas(16) unsigned char args[512];
};
struct gpu_graph { struct op *first, **last; };
struct gpu_stream {
    struct gpu *gpu;
    struct gpu_graph *record;
    struct dbrx_error err;                 /* code DBRX_OK: none                             */
};

int gpu_option(const char *text)
{
    static const struct { const char *name; long *value; } options[] = {
        { "emu-devices=", &play.devices }, { "emu-memory=", &play.memory },
        { "emu-fail-alloc=", &play.fail_alloc }, { "emu-fail-launch=", &play.fail_launch },
        { "emu-fail-open=", &play.fail_open },
    };
    for (size_t i = 0; i < sizeof options / sizeof *options; i++) {
        size_t n = strlen(options[i].name);
        if (!strncmp(text, options[i].name, n)) {
            *options[i].value = atol(text + n);
            return 1;
        }
    }
    return 0;
}

static int devices()
{
    return play.devices > 0 && play.devices <= MAX_DEVICES ? (int)play.devices : 1;
}

static uint64_t memory()
{
    return play.memory > 0 ? (uint64_t)play.memory : (uint64_t)4 << 30;
}

dbrx_status gpu_count(int *n, struct dbrx_error *)
{
    *n = devices();
    return DBRX_OK;
}

dbrx_status gpu_describe(int device, struct gpu_info *i, struct dbrx_error *err)
{
    *i = {};
    if (device < 0 || device >= devices())
        return fail(err, DBRX_E_INVALID, "there is no device %d", device);
    snprintf(i->name, sizeof i->name, "emulated device");
    pthread_mutex_lock(&lock);
    i->total = memory();
    i->free = (uint64_t)used[device] < i->total ? i->total - (uint64_t)used[device] : 0;
    pthread_mutex_unlock(&lock);
    i->major = 8;
    i->processors = 2;
    return DBRX_OK;
}

dbrx_status gpu_open(int device, struct gpu **out, struct dbrx_error *err)
{
    *out = NULL;
    if (device < 0 || device >= devices())
        return fail(err, DBRX_E_INVALID, "there is no device %d", device);
    if (play.fail_open && --play.fail_open == 0)
        return fail(err, DBRX_E_IO, "device %d is in use by another process, which has it to itself", device);
    struct gpu *g = (struct gpu *)calloc(1, sizeof *g);
    if (!g)
        return fail(err, DBRX_E_NOMEM, "out of memory");
    g->device = device;
    *out = g;
    return DBRX_OK;
}

void gpu_close(struct gpu *g)
{
    free(g);
}

/* An allocation of its own each; where alignment leaves a few bytes behind its end, the sanitiser
 * is told. */
#ifdef __SANITIZE_ADDRESS__
static void shut(void *p, size_t n) { __asan_poison_memory_region(p, n); }
static void open_again(const struct header *h) { __asan_unpoison_memory_region((void *)(h + 1), h->bytes + 256); }
#else
static void shut(void *, size_t) {}
static void open_again(const struct header *) {}
#endif

static dbrx_status take(int device, void **out, size_t bytes, struct dbrx_error *err)
{
    enum { ALIGN = 256, FRONT = 2 * ALIGN }; /* room for the header wherever malloc puts it */
    *out = NULL;
    pthread_mutex_lock(&lock);
    int none = play.fail_alloc && --play.fail_alloc == 0;
    if (device >= 0 && (uint64_t)used[device] + bytes > memory())
        none = 1;
    void *block = none || bytes > SIZE_MAX - FRONT ? NULL : calloc(1, FRONT + bytes);
    if (block) {
        uintptr_t at = ((uintptr_t)block + FRONT) / ALIGN * ALIGN;
        *((struct header *)at - 1) = { block, bytes, device };
        if (device >= 0)
            used[device] += (long long)bytes;
        *out = (void *)at;
        shut((char *)at + bytes, FRONT - (at - (uintptr_t)block));
    }
    pthread_mutex_unlock(&lock);
    return *out ? DBRX_OK : fail(err, DBRX_E_NOMEM, "no %.1f MB left on %s", (double)bytes / 1e6,
                                 device < 0 ? "the host, pinned" : "the device");
}

static void give_back(void *p)
{
    if (!p)
        return;
    struct header *h = (struct header *)p - 1;
    pthread_mutex_lock(&lock);
    if (h->device >= 0)
        used[h->device] -= (long long)h->bytes;
    pthread_mutex_unlock(&lock);
    open_again(h);
    free(h->block);
}

dbrx_status gpu_alloc(struct gpu *g, void **p, size_t bytes, struct dbrx_error *err)
{
    return take(g->device, p, bytes, err);
}

void gpu_free(struct gpu *, void *p) { give_back(p); }

dbrx_status gpu_alloc_host(struct gpu *, void **p, size_t bytes, struct dbrx_error *err)
{
    return take(-1, p, bytes, err);
}

void gpu_free_host(struct gpu *, void *p) { give_back(p); }

dbrx_status gpu_stream_open(struct gpu *g, struct gpu_stream **out, struct dbrx_error *err)
{
    *out = (struct gpu_stream *)calloc(1, sizeof **out);
    if (!*out)
        return fail(err, DBRX_E_NOMEM, "out of memory");
    (*out)->gpu = g;
    return DBRX_OK;
}

void gpu_stream_close(struct gpu_stream *s)
{
    if (s)
        gpu_graph_close(s->record);
    free(s);
}

static void perform(struct gpu_stream *s, const struct op *o)
{
    if (s->err.code != DBRX_OK)
        return;
    if (o->kind == op::COPY)
        memcpy(o->to, o->from, o->bytes);
    else if (play.fail_launch && --play.fail_launch == 0)
        fail(&s->err, DBRX_E_LOST, "the device stopped working in the middle of a kernel");
    else if (emu::run(kernels[o->kernel], o->args, o->grid, o->threads, o->shared))
        fail(&s->err, DBRX_E_LOST, "no memory for the emulation");
}

static void queue(struct gpu_stream *s, const struct op *o)
{
    if (!s->record) {
        perform(s, o);
        return;
    }
    struct op *copy = (struct op *)malloc(sizeof *copy);
    if (!copy) {
        fail(&s->err, DBRX_E_NOMEM, "out of memory for a graph");
        return;
    }
    *copy = *o;
    copy->next = NULL;
    *s->record->last = copy;
    s->record->last = &copy->next;
}

void gpu_copy(struct gpu_stream *s, void *to, const void *from, size_t bytes)
{
    struct op o;
    o.kind = op::COPY, o.to = to, o.from = from, o.bytes = bytes;
    queue(s, &o);
}

void gpu_launch(struct gpu_stream *s, enum gpu_kernel k, const uint32_t grid[3], uint32_t threads, size_t shared,
                const void *args, size_t size)
{
    struct op o;
    o.kind = op::LAUNCH, o.kernel = k, o.threads = threads, o.shared = shared;
    memcpy(o.grid, grid, sizeof o.grid);
    if (size > sizeof o.args || shared > 100 << 10 || !grid[0] || !grid[1] || !grid[2] || grid[1] > 65535 || grid[2] > 65535) {
        fail(&s->err, DBRX_E_LOST, "a launch that no device would take: %u,%u,%u blocks, %zu bytes shared", grid[0],
             grid[1], grid[2], shared);
        return;
    }
    memcpy(o.args, args, size);
    queue(s, &o);
}

uint32_t gpu_beside(struct gpu_stream *, enum gpu_kernel, uint32_t, size_t) { return 2; }

void gpu_follow(struct gpu_stream *to, struct gpu_stream *from)
{
    if (from->err.code != DBRX_OK && to->err.code == DBRX_OK)
        to->err = from->err;
}

void gpu_mark(struct gpu_stream *, int) {}
void gpu_wait(struct gpu_stream *, int) {}
int gpu_idle(struct gpu_stream *) { return 1; }

dbrx_status gpu_sync(struct gpu_stream *s, struct dbrx_error *err)
{
    return s->err.code == DBRX_OK ? DBRX_OK : fail(err, s->err.code, "%s", s->err.text);
}

void gpu_record_begin(struct gpu_stream *s)
{
    s->record = (struct gpu_graph *)calloc(1, sizeof *s->record);
    if (!s->record)
        fail(&s->err, DBRX_E_NOMEM, "out of memory for a graph");
    else
        s->record->last = &s->record->first;
}

struct gpu_graph *gpu_record_end(struct gpu_stream *s)
{
    struct gpu_graph *g = s->record;
    s->record = NULL;
    return g;
}

void gpu_replay(struct gpu_stream *s, struct gpu_graph *g)
{
    for (const struct op *o = g->first; o; o = o->next)
        perform(s, o);
}

void gpu_graph_close(struct gpu_graph *g)
{
    for (struct op *o = g ? g->first : NULL, *next; o; o = next) {
        next = o->next;
        free(o);
    }
    free(g);
}
