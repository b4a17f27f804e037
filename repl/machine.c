/* repl/machine.c -- see machine.h. */
#define _GNU_SOURCE
#include "repl/machine.h"

#include "repl/clock.h"

#include <pthread.h>
#include <sched.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#ifdef __x86_64__
#include <immintrin.h>
#endif

enum { MAX_THREADS = 1024, ALIGN = 64 };
static const double FLOPS_SECONDS = 0.02;

struct machine {
    unsigned n;                            /* threads                                   */
    uint64_t *buf;                         /* [words]                                   */
    size_t words;
};

struct machine *machine_new(void)
{
    struct machine *m = calloc(1, sizeof *m);
    cpu_set_t set;
    size_t bytes = (size_t)256 << 20, ram = (size_t)sysconf(_SC_PHYS_PAGES) * (size_t)sysconf(_SC_PAGESIZE);
    if (!m)
        return NULL;
    m->n = sched_getaffinity(0, sizeof set, &set) ? 1 : (unsigned)CPU_COUNT(&set);
    m->n = m->n < MAX_THREADS ? m->n : MAX_THREADS;
#ifdef _SC_LEVEL3_CACHE_SIZE
    long cache = sysconf(_SC_LEVEL3_CACHE_SIZE);       /* may be several of them */
    while (cache > 0 && bytes < 4 * (size_t)cache && bytes < ram / 16)
        bytes *= 2;
#else
    (void)ram;
#endif
    m->words = bytes / sizeof *m->buf;
    m->buf = aligned_alloc(ALIGN, bytes);
    if (!m->buf) {
        free(m);
        return NULL;
    }
    memset(m->buf, 1, bytes);              /* pages of its own, not the page of zeros */
    return m;
}

void machine_free(struct machine *m)
{
    if (m)
        free(m->buf);
    free(m);
}

unsigned machine_processors(const struct machine *m)
{
    return m->n;
}

/* ---- what one thread does ---- */

struct part {
    const uint64_t *p; size_t n;           /* words to read; or                         */
    double flops, seconds;                 /* what was done, and how long it took       */
    volatile float sink;                   /* so that the work is needed                */
};

/* the arrays below are registers, if the loops over them are no loops */
#define UNROLLED _Pragma("GCC unroll 12")

typedef uint64_t words __attribute__((vector_size(64), may_alias));

static uint64_t read_words(const uint64_t *from, size_t n)
{
    const words *p = (const void *)from;
    words s[4] = { { 0 } };
    for (size_t i = 0; i + 4 <= n / 8; i += 4)
        UNROLLED for (int j = 0; j < 4; j++)
            s[j] += p[i + (size_t)j];
    s[0] += s[1] + s[2] + s[3];
    return s[0][0] ^ s[0][1] ^ s[0][2] ^ s[0][3] ^ s[0][4] ^ s[0][5] ^ s[0][6] ^ s[0][7];
}

static void *run_read(void *arg)
{
    struct part *p = arg;
    p->sink = (float)read_words(p->p, p->n);
    return NULL;
}

enum { CHAINS = 12, ROUND = 1 << 14 };     /* enough chains to fill the pipelines */

/* x = x * a + b, ROUND times in each of CHAINS vectors; how many floats in a vector */
#ifdef __x86_64__
__attribute__((target("avx512f"))) static unsigned fma_avx512(float *x)
{
    __m512 v[CHAINS], a = _mm512_set1_ps(0.999f), b = _mm512_set1_ps(0.001f);
    UNROLLED for (int j = 0; j < CHAINS; j++)
        v[j] = _mm512_set1_ps(*x + (float)j);
    for (int i = 0; i < ROUND; i++)
        UNROLLED for (int j = 0; j < CHAINS; j++)
            v[j] = _mm512_fmadd_ps(v[j], a, b);
    UNROLLED for (int j = 1; j < CHAINS; j++)
        v[0] = _mm512_add_ps(v[0], v[j]);
    *x = _mm512_cvtss_f32(v[0]) * 0x1p-20f;
    return 16;
}

__attribute__((target("avx2,fma"))) static unsigned fma_avx2(float *x)
{
    __m256 v[CHAINS], a = _mm256_set1_ps(0.999f), b = _mm256_set1_ps(0.001f);
    UNROLLED for (int j = 0; j < CHAINS; j++)
        v[j] = _mm256_set1_ps(*x + (float)j);
    for (int i = 0; i < ROUND; i++)
        UNROLLED for (int j = 0; j < CHAINS; j++)
            v[j] = _mm256_fmadd_ps(v[j], a, b);
    UNROLLED for (int j = 1; j < CHAINS; j++)
        v[0] = _mm256_add_ps(v[0], v[j]);
    *x = _mm256_cvtss_f32(v[0]) * 0x1p-20f;
    return 8;
}
#endif

static unsigned fma_plain(float *x)        /* 128 bits: what every 64-bit processor has */
{
    typedef float quad __attribute__((vector_size(16)));
    quad v[CHAINS], a = { 0.999f, 0.999f, 0.999f, 0.999f }, b = { 0.001f, 0.001f, 0.001f, 0.001f };
    UNROLLED for (int j = 0; j < CHAINS; j++)
        v[j] = (quad){ *x, (float)j, 0, 0 };
    for (int i = 0; i < ROUND; i++)
        UNROLLED for (int j = 0; j < CHAINS; j++)
            v[j] = v[j] * a + b;
    UNROLLED for (int j = 1; j < CHAINS; j++)
        v[0] += v[j];
    *x = v[0][0] * 0x1p-20f;
    return 4;
}

static void *run_fma(void *arg)
{
    struct part *p = arg;
    unsigned (*fma)(float *) = fma_plain;
    float x = 1;
#ifdef __x86_64__
    if (__builtin_cpu_supports("avx512f"))
        fma = fma_avx512;
    else if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))
        fma = fma_avx2;
#endif
    double t0 = clock_seconds();
    fma(&x);                               /* the clock may change for wide vectors */
    do {
        p->flops += 2.0 * CHAINS * ROUND * fma(&x);
        p->seconds = clock_seconds() - t0;
    } while (p->seconds < FLOPS_SECONDS);
    p->sink = x;
    return NULL;
}

double machine_own_memory(void)
{
    double resident = 0, shared = 0;
    FILE *f = fopen("/proc/self/statm", "re");
    if (f && fscanf(f, "%*s %lf %lf", &resident, &shared) != 2)
        resident = shared = 0;
    if (f)
        fclose(f);
    return (resident - shared) * (double)sysconf(_SC_PAGESIZE);
}

/* ---- all threads at once; seconds, or 0 ---- */

static double run_all(struct machine *m, struct part *part, void *(*run)(void *))
{
    pthread_t thread[MAX_THREADS];
    unsigned started = 0;
    double t0 = clock_seconds();
    while (started < m->n && !pthread_create(&thread[started], NULL, run, &part[started]))
        started++;
    for (unsigned i = 0; i < started; i++)
        pthread_join(thread[i], NULL);
    return started == m->n ? clock_seconds() - t0 : 0;
}

double machine_bandwidth(struct machine *m)
{
    struct part part[MAX_THREADS] = { { 0 } };
    size_t each = m->words / m->n / (4 * ALIGN) * (4 * ALIGN);
    for (unsigned i = 0; i < m->n; i++)
        part[i] = (struct part){ .p = m->buf + each * i, .n = each };
    double seconds = run_all(m, part, run_read);
    return seconds > 0 ? (double)(each * m->n) * sizeof *m->buf / seconds : 0;
}

double machine_flops(struct machine *m)
{
    struct part part[MAX_THREADS] = { { 0 } };
    double sum = 0;
    if (run_all(m, part, run_fma) <= 0)
        return 0;
    for (unsigned i = 0; i < m->n; i++)
        sum += part[i].flops / part[i].seconds;
    return sum;
}
