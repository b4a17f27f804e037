/* bench/cpu-speed.c -- one backend on one checkpoint, measured on request; bench/cpu drives it.
 *
 *   make bench/cpu-speed && bench/cpu-speed CHECKPOINT MODULE.so [OPTION=VALUE...]
 *
 * A request a line on stdin, a JSON object a line on stdout:
 *   probe           {"bandwidth": bytes a second that all cores read together}
 *   prompt N        {"seconds": an evaluation of N tokens in an empty session}
 *   gen DEPTH N     {"seconds": N tokens one by one behind DEPTH others, "bytes": of weights and
 *                    KV that one of them reads}
 *   greedy N ID...  {"tokens": the N likeliest tokens that follow these}
 *   logits FILE ID...  {"rows": as many rows of float32 logits in FILE, each ID evaluated alone}
 *   memory          {"anon": bytes of this process that are no file's}
 * Token ids are scattered over the vocabulary, so every expert is used. */
#include "backends/model/checkpoint.h"
#define SPEED_NAME "bench/cpu-speed"
#include "bench/speed.h"
#include "plugins/loader.h"
#include "tests/quiet_host.h"

#include <pthread.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum { PROBE = 256 << 20, MAX_THREADS = 64, MAX_POS = 32768 + 64 };

static const struct dbrx_host host = QUIET_HOST(host_never);

/* ---- read bandwidth: every core a stretch of huge pages, fetched ahead as the kernels do; twice,
 * the better one ---- */

typedef uint64_t wide __attribute__((vector_size(64)));
struct part { const wide *p; size_t n; uint64_t sum; };

static void *read_part(void *arg)
{
    struct part *a = arg;
    wide s[4] = { 0 };
    for (size_t i = 0; i + 4 <= a->n; i += 4)
        for (size_t k = 0; k < 4; k++) {
            __builtin_prefetch(a->p + i + k + 48, 0, 0);
            s[k] += a->p[i + k];
        }
    s[0] += s[1] + s[2] + s[3];
    for (int k = 0; k < 8; k++)
        a->sum += s[0][k];
    return NULL;
}

static double bandwidth(void)
{
    static wide *buf;
    long cores = sysconf(_SC_NPROCESSORS_ONLN);
    double best = 0;
    if (cores > MAX_THREADS)
        cores = MAX_THREADS;
    if (!buf) {
        buf = aligned_alloc(2 << 20, PROBE);
        if (!buf)
            die("out of memory");
        madvise(buf, PROBE, MADV_HUGEPAGE);
        memset(buf, 1, PROBE);
    }
    for (int rep = 0; rep < 2; rep++) {
        pthread_t thread[MAX_THREADS];
        struct part part[MAX_THREADS];
        size_t n = PROBE / sizeof *buf / (size_t)cores;
        double t0 = now();
        for (long i = 0; i < cores; i++) {
            part[i] = (struct part){ buf + n * (size_t)i, n, 0 };
            if (pthread_create(&thread[i], NULL, read_part, &part[i]))
                die("no threads");
        }
        for (long i = 0; i < cores; i++)
            pthread_join(thread[i], NULL);
        double bw = (double)(n * (size_t)cores * sizeof *buf) / (now() - t0);
        best = bw > best ? bw : best;
    }
    return best;
}

/* ---- the backend -------------------------------------------------------------------------- */

static int32_t token[MAX_POS];

static double anon_bytes(void)
{
    char line[256];
    unsigned long kb = 0;
    FILE *f = fopen("/proc/self/status", "r");
    while (f && fgets(line, sizeof line, f))
        if (sscanf(line, "RssAnon: %lu", &kb) == 1)
            break;
    if (f)
        fclose(f);
    return 1024.0 * (double)kb;
}

/* "N ID ID ...": reads the prompt, prints what follows */
static void greedy(const char *request)
{
    int32_t ids[512];
    unsigned n = 0, prompt = 0;
    int used, id;
    if (sscanf(request, "%u%n", &n, &used) != 1 || !n)
        die("greedy N ID...");
    for (const char *at = request + used; prompt < 512 && sscanf(at, "%d%n", &id, &used) == 1; at += used)
        ids[prompt++] = id;
    if (!prompt)
        die("greedy N ID...");
    empty_to(0);
    eval(ids, prompt);
    printf("{\"tokens\": [");
    for (unsigned i = 0; i < n; i++) {
        int32_t best = 0;
        for (uint32_t t = 1; t < desc->config.n_vocab; t++)
            best = logits[t] > logits[best] ? (int32_t)t : best;
        printf("%s%d", i ? ", " : "", best);
        eval(&best, 1);
    }
    printf("]}\n");
}

/* "FILE ID ID ...": the logits behind each, one token after the other */
static void write_logits(const char *request)
{
    char path[512];
    int used, id;
    unsigned rows = 0;
    if (sscanf(request, "%511s%n", path, &used) != 1)
        die("logits FILE ID...");
    FILE *f = fopen(path, "wb");
    if (!f)
        die(path);
    empty_to(0);
    for (const char *at = request + used; sscanf(at, "%d%n", &id, &used) == 1; at += used, rows++) {
        int32_t one = id;
        eval(&one, 1);
        if (fwrite(logits, sizeof *logits, desc->config.n_vocab, f) != desc->config.n_vocab)
            die(path);
    }
    if (fclose(f))
        die(path);
    printf("{\"rows\": %u}\n", rows);
}

int main(int argc, char **argv)
{
    struct dbrx_error err;
    struct ckpt *ck;
    const struct dbrx_module_info *info;
    dbrx_model *model;
    char line[4096];
    unsigned n, depth;
    if (argc < 3)
        die("usage: bench/cpu-speed CHECKPOINT MODULE.so [OPTION=VALUE...]");
    if (ckpt_open(argv[1], &ck, &err) != DBRX_OK || module_open(argv[2], &info, &err) != DBRX_OK)
        die(err.text);
    desc = &ck->desc;
    vt = info->get(DBRX_BACKEND);
    logits = malloc(desc->config.n_vocab * sizeof *logits);
    if (!vt || !logits)
        die("not a backend, or out of memory");
    if (vt->model_open(&host, desc, (const char *const *)argv + 3, &model, &err) != DBRX_OK ||
        vt->session_open(model, MAX_POS, &session, &err) != DBRX_OK)
        die(err.text);
    for (uint32_t i = 0; i < MAX_POS; i++)
        token[i] = (int32_t)((i * 2654435761u >> 7) % desc->config.n_vocab);
    while (fgets(line, sizeof line, stdin)) {
        if (!strcmp(line, "probe\n")) {
            printf("{\"bandwidth\": %.0f}\n", bandwidth());
        } else if (!strcmp(line, "memory\n")) {
            printf("{\"anon\": %.0f}\n", anon_bytes());
        } else if (sscanf(line, "prompt %u", &n) == 1 && n && n <= MAX_POS) {
            empty_to(0);
            double t0 = now();
            eval(token, n);
            printf("{\"seconds\": %.6f}\n", now() - t0);
        } else if (sscanf(line, "gen %u %u", &depth, &n) == 2 && n && depth + n <= MAX_POS) {
            empty_to(depth);
            if (vt->position(session) < depth)
                eval(token + vt->position(session), depth - vt->position(session));
            double t0 = now();
            for (unsigned i = 0; i < n; i++)
                eval(token + depth + i, 1);
            printf("{\"seconds\": %.6f, \"bytes\": %.0f}\n", now() - t0,
                   bytes_read(depth + 0.5 * n, 2));
        } else if (!strncmp(line, "greedy ", 7)) {
            greedy(line + 7);
        } else if (!strncmp(line, "logits ", 7)) {
            write_logits(line + 7);
        } else {
            die("a request is probe, prompt N, gen DEPTH N, greedy N ID..., logits FILE ID... or memory");
        }
        fflush(stdout);
    }
    vt->session_close(session);
    vt->model_close(model);
    ckpt_close(ck);
    free(logits);
    return 0;
}
