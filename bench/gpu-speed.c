/* bench/gpu-speed.c -- how fast a backend that keeps its weights on a device is, against what the device
 * can do; bench/gpu drives it.
 *
 *   make bench/gpu-speed && bench/gpu-speed MODULE.so CHECKPOINT|--shape S --type T [--gen DEPTH,DEPTH...]
 *       [--tokens N] [--prompt N] [--reps N] [--peak TFLOPS] [--name NAME] [OPTION=VALUE...]
 *
 * A shape has random weights (shape.h) and needs no file.  Generation is N tokens one by one behind each
 * DEPTH; its bytes are the weights that a token reads and the KV cache, in the type that the option kv
 * says, else in 16 bits.  They stand beside the bandwidth of a large copy on device 0, measured
 * before the model is there: bytes read and bytes written.  For a module that is not "cuda" the copy is one of
 * this machine's memory by one thread.  A prompt's arithmetic is that of its matrix products and of
 * causal attention, two operations a multiplication, beside --peak.  Medians, in brackets the extremes.
 * Token ids are scattered over the vocabulary, so every expert is used. */
#define _GNU_SOURCE
#include "backends/model/checkpoint.h"
#include "bench/shape.h"
#define SPEED_NAME "bench/gpu-speed"
#include "bench/speed.h"
#include "plugins/loader.h"
#include "tests/quiet_host.h"

#include <dlfcn.h>
#include <string.h>
#include <unistd.h>

enum { MAX_POS = 32768 + 1024, MAX_DEPTHS = 16, MAX_REPS = 100, COPIES = 10 };

static void progress(const struct dbrx_host *h, const char *what, uint64_t done, uint64_t total)
{
    (void)h;
    if (isatty(STDERR_FILENO))
        fprintf(stderr, "\r%s %3.0f%%%s", what, total ? 100 * (double)done / (double)total : 0, done >= total ? "\r\033[K" : "");
}
static const struct dbrx_host host = { sizeof host, NULL, host_mute, host_never, progress, host_nothing };

static int by_size(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double median(double *x, size_t n)
{
    qsort(x, n, sizeof *x, by_size);
    return n % 2 ? x[n / 2] : (x[n / 2 - 1] + x[n / 2]) / 2;
}

/* ---- a large copy ---- */

/* The CUDA driver's calls that it takes, as its binary interface has them: no toolkit is needed here */
static struct {
    int (*init)(unsigned), (*device)(int *, int), (*retain)(void **, int), (*release)(int);
    int (*push)(void *), (*pop)(void **), (*alloc)(uint64_t *, size_t), (*release_memory)(uint64_t);
    int (*stream)(void **, unsigned), (*release_stream)(void *), (*copy)(uint64_t, uint64_t, size_t, void *), (*sync)(void *);
} cu;

static int open_driver(void)
{
    static const struct { const char *name; void *at; } calls[] = {
        { "cuInit", &cu.init }, { "cuDeviceGet", &cu.device }, { "cuDevicePrimaryCtxRetain", &cu.retain },
        { "cuDevicePrimaryCtxRelease_v2", &cu.release }, { "cuCtxPushCurrent_v2", &cu.push },
        { "cuCtxPopCurrent_v2", &cu.pop }, { "cuMemAlloc_v2", &cu.alloc }, { "cuMemFree_v2", &cu.release_memory },
        { "cuStreamCreate", &cu.stream }, { "cuStreamDestroy_v2", &cu.release_stream }, { "cuMemcpyAsync", &cu.copy },
        { "cuStreamSynchronize", &cu.sync },
    };
    void *lib = dlopen("libcuda.so.1", RTLD_NOW);
    for (size_t i = 0; lib && i < sizeof calls / sizeof *calls; i++) {
        void *f = dlsym(lib, calls[i].name);
        if (!f)
            return 0;
        memcpy(calls[i].at, &f, sizeof f);
    }
    return lib != NULL;
}

/* Bytes a second of copies within device 0, read and written; 0: it cannot be measured */
static double device_bandwidth(void)
{
    size_t n = (size_t)1 << 30;
    uint64_t a = 0, b = 0;
    void *ctx, *old, *stream = NULL;
    int id;
    double t[COPIES], best = 0;
    if (!open_driver() || cu.init(0) || cu.device(&id, 0) || cu.retain(&ctx, id))
        return 0;
    if (!cu.push(ctx)) {
        while (n > 1 << 20 && (cu.alloc(&a, n) || cu.alloc(&b, n))) {  /* where others hold memory, less */
            if (a)
                cu.release_memory(a);
            a = b = 0;
            n /= 2;
        }
        if (b && !cu.stream(&stream, 0) && !cu.copy(b, a, n, stream) && !cu.sync(stream)) {
            int bad = 0;
            for (int i = 0; i < COPIES; i++) {         /* four at a time: none waits for the host */
                double t0 = now();
                for (int k = 0; k < 4; k++)
                    bad |= cu.copy(k % 2 ? a : b, k % 2 ? b : a, n, stream);
                bad |= cu.sync(stream);
                t[i] = now() - t0;
            }
            best = bad ? 0 : 4 * 2 * (double)n / median(t, COPIES);
        }
        if (stream)
            cu.release_stream(stream);
        if (a)
            cu.release_memory(a);
        if (b)
            cu.release_memory(b);
        cu.pop(&old);
    }
    cu.release(id);
    return best;
}

static double memory_bandwidth(void)
{
    const size_t n = 64 << 20;
    char *a = malloc(n), *b = malloc(n);
    double t[COPIES];
    if (!a || !b)
        die("out of memory");
    memset(a, 1, n);
    memcpy(b, a, n);
    for (int i = 0; i < COPIES; i++) {
        double t0 = now();
        memcpy(i % 2 ? a : b, i % 2 ? b : a, n);
        t[i] = now() - t0;
    }
    if (a[n / 2] != b[n / 3])              /* and so the compiler keeps them */
        die("a copy went wrong");
    free(a);
    free(b);
    return 2 * (double)n / median(t, COPIES);
}

/* ---- the backend ---- */

static int32_t token[MAX_POS];

/* Operations of a prompt of n tokens: its products, causal attention, and the head of one row */
static double prompt_flops(double n)
{
    const struct dbrx_config *c = &desc->config;
    double d = c->d_model, kv = d / c->n_heads * c->n_kv_heads;
    double row = d * (d + 2 * kv) + d * d + d * c->n_experts + 3.0 * c->top_k * d * c->d_ffn;
    return 2 * c->n_layers * (n * row + n * (n + 1) / 2 * 2 * d) + 2 * d * c->n_vocab;
}

static void check_logits(void)
{
    for (uint32_t i = 0; i < desc->config.n_vocab; i++)
        if (!(logits[i] - logits[i] == 0))
            die("logits are not finite: these speeds would be of nothing");
}

static void measure_generation(const char *name, uint32_t depth, uint32_t tokens, uint32_t reps, double kv, double copy)
{
    double t[MAX_REPS];
    for (uint32_t r = 0; r <= reps; r++) {             /* the first warms up: graphs are recorded */
        empty_to(depth);
        if (vt->position(session) < depth)
            eval(token + vt->position(session), depth - vt->position(session));
        double t0 = now();
        for (uint32_t i = 0; i < tokens; i++)
            eval(token + depth + i, 1);
        if (r)
            t[r - 1] = (now() - t0) / tokens;
    }
    check_logits();
    double mid = median(t, reps), bytes = bytes_read(depth + 0.5 * tokens, kv);
    char share[48] = "no bandwidth measured";
    if (copy > 0)
        snprintf(share, sizeof share, "%.0f%% of a copy's", 100 * bytes / mid / copy);
    printf("%-10s at %5u   %8.2f tok/s (%.2f-%.2f), %.4g GB each: %.4g GB/s, %s\n", name, depth, 1 / mid, 1 / t[reps - 1],
           1 / t[0], bytes / 1e9, bytes / mid / 1e9, share);
    fflush(stdout);
}

static void measure_prompt(const char *name, uint32_t n, uint32_t reps, double peak)
{
    double t[MAX_REPS];
    for (uint32_t r = 0; r <= reps; r++) {
        empty_to(0);
        double t0 = now();
        eval(token, n);
        if (r)
            t[r - 1] = now() - t0;
    }
    check_logits();
    double mid = median(t, reps), speed = prompt_flops(n) / mid / 1e12;
    printf("%-10s prompt %4u %7.0f tok/s (%.0f-%.0f), %.4g TFLOP: %.4g TFLOP/s", name, n, n / mid, n / t[reps - 1], n / t[0],
           prompt_flops(n) / 1e12, speed);
    if (peak > 0)
        printf(", %.0f%% of %g", 100 * speed / peak, peak);
    putchar('\n');
}

static uint32_t number(const char *text, uint32_t most)
{
    char *end;
    unsigned long n = strtoul(text, &end, 10);
    if (end == text || (*end && *end != ',') || *text == '-' || n > most)
        die("a number was expected, and not as large");
    return (uint32_t)n;
}

static _Noreturn void usage(void)
{
    fputs("usage: bench/gpu-speed MODULE.so CHECKPOINT|--shape S --type T [--gen DEPTH,DEPTH...] [--tokens N]\n"
          "           [--prompt N] [--reps N] [--peak TFLOPS] [--name NAME] [OPTION=VALUE...]\n"
          "S: " SHAPES "\nT: " SHAPE_TYPES "\n", stderr);
    exit(2);
}

struct request {
    const char *module, *checkpoint, *shape, *type, *name, *gen;
    uint32_t tokens, reps, prompt;
    double peak, kv;
    const char *option[16];                /* NULL-ended */
};

static struct request request_of(int argc, char **argv)
{
    struct request q = { .tokens = 64, .reps = 5, .kv = 2 };
    int n = 0;
    for (int i = 1; i < argc; i++) {
        const char *a = argv[i], *v = i + 1 < argc ? argv[i + 1] : NULL;
        if (a[0] != '-') {
            if (!q.module)
                q.module = a;
            else if (strchr(a, '=') && n < 15)
                q.option[n++] = a;
            else if (!q.checkpoint)
                q.checkpoint = a;
            else
                usage();
            if (!strncmp(a, "kv=", 3))
                q.kv = !strcmp(a + 3, "f32") ? 4 : !strcmp(a + 3, "fp8") ? 1 : 2;
            continue;
        }
        if (!v)
            usage();
        if (!strcmp(a, "--shape")) q.shape = v;
        else if (!strcmp(a, "--type")) q.type = v;
        else if (!strcmp(a, "--name")) q.name = v;
        else if (!strcmp(a, "--gen")) q.gen = v;
        else if (!strcmp(a, "--tokens")) q.tokens = number(v, 1024);
        else if (!strcmp(a, "--prompt")) q.prompt = number(v, 32768);
        else if (!strcmp(a, "--reps")) q.reps = number(v, MAX_REPS);
        else if (!strcmp(a, "--peak")) q.peak = strtod(v, NULL);
        else usage();
        i++;
    }
    if (!q.module || !q.checkpoint == !q.shape || !q.shape != !q.type || !q.tokens || !q.reps)
        usage();
    if (!q.name)
        q.name = q.shape ? q.shape : "";
    return q;
}

int main(int argc, char **argv)
{
    const struct request q = request_of(argc, argv);
    struct dbrx_error err;
    struct ckpt *ck = NULL;
    struct shape_model *shape = NULL;
    const struct dbrx_module_info *info;
    dbrx_model *model;
    if (module_open(q.module, &info, &err) != DBRX_OK ||
        (q.shape ? shape_open(q.shape, q.type, &shape, &desc, &err) : ckpt_open(q.checkpoint, &ck, &err)) != DBRX_OK)
        die(err.text);
    if (ck)
        desc = &ck->desc;
    vt = info->get(DBRX_BACKEND);
    logits = malloc(desc->config.n_vocab * sizeof *logits);
    if (!vt || !logits)
        die("not a backend, or out of memory");
    struct dbrx_probe probe = { .struct_size = sizeof probe };
    if (vt->probe(&host, &probe, &err) != DBRX_OK)
        die(err.text);
    if (probe.score == 0)
        die(probe.reason);

    uint32_t depth[MAX_DEPTHS], n = 0, deepest = q.prompt;
    for (const char *at = q.gen; at && n < MAX_DEPTHS; at = strchr(at, ',') ? strchr(at, ',') + 1 : NULL) {
        depth[n] = number(at, 32768);
        deepest = depth[n] + q.tokens > deepest ? depth[n] + q.tokens : deepest;
        n++;
    }
    if (!n && !q.prompt)
        usage();
    int cuda = !strcmp(info->name, "cuda");
    double copy = cuda ? device_bandwidth() : memory_bandwidth();
    printf("%-10s %s; a large copy: %.0f GB/s%s\n", q.name, probe.device, copy / 1e9, cuda ? "" : ", of this machine's memory");
    fflush(stdout);

    double t0 = now();
    if (vt->model_open(&host, desc, q.option, &model, &err) != DBRX_OK ||
        vt->session_open(model, deepest, &session, &err) != DBRX_OK)
        die(err.text);
    printf("%-10s loaded in %.1f s\n", q.name, now() - t0);
    for (uint32_t i = 0; i < MAX_POS; i++)
        token[i] = (int32_t)((i * 2654435761u >> 7) % desc->config.n_vocab);
    for (uint32_t i = 0; i < n; i++)
        measure_generation(q.name, depth[i], q.tokens, q.reps, q.kv, copy);
    if (q.prompt)
        measure_prompt(q.name, q.prompt, q.reps, q.peak);
    vt->session_close(session);
    vt->model_close(model);
    shape_close(shape);
    ckpt_close(ck);
    free(logits);
    return 0;
}
