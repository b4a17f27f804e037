/* backends/cpu-blas/pool.c -- see pool.h.
 *
 * Every worker has a range of a job's items, which it takes in their order, one at a time: what
 * neighbours read lies together, and memory is quickest read by few who go straight on.  Who is
 * done with its own takes what is left of others'.  A range is one 64-bit ticket, the job's number
 * above, the items left below, and taking is one compare-and-swap on it: a worker that wakes late
 * can never take an item of a job it has not seen.  Workers spin for a moment after a job (the
 * next op of a layer comes within microseconds), then sleep. */
#define _GNU_SOURCE
#include "backends/cpu-blas/pool.h"

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { SPINS = 4000 };                     /* some tens of microseconds */

struct pool {
    unsigned threads;
    pthread_mutex_t turn;                  /* one job at a time                            */
    pthread_mutex_t lock;                  /* with wake: for sleepers                      */
    pthread_cond_t  wake;
    _Atomic uint32_t job;                  /* its number, once its tickets are there       */
    _Atomic uint32_t finished;             /* items done of the current job                */
    _Atomic unsigned sleeping;
    _Atomic int quit;
    /* the job; stable while any of its items is unfinished */
    void (*fn)(void *, unsigned, uint32_t);
    void *arg;
    struct worker {
        _Alignas(64) _Atomic uint64_t ticket;      /* job number << 32 | items left         */
        uint32_t end;                      /* of its range                                 */
        struct pool *pool;
        pthread_t thread;
        unsigned id;
    } worker[];
};

static inline void pause_cpu(void)
{
#ifdef __x86_64__
    __builtin_ia32_pause();
#endif
}

static void work(struct pool *p, unsigned id)
{
    for (unsigned v = 0; v < p->threads; v++) {
        struct worker *of = &p->worker[(id + v) % p->threads];
        uint64_t t = atomic_load(&of->ticket);
        uint32_t done = 0;
        while ((uint32_t)t) {
            if (!atomic_compare_exchange_weak(&of->ticket, &t, t - 1))
                continue;
            p->fn(p->arg, id, of->end - (uint32_t)t);
            done++;
            t = atomic_load(&of->ticket);
        }
        if (done)
            atomic_fetch_add(&p->finished, done);
    }
}

static void *worker_main(void *arg)
{
    struct worker *w = arg;
    struct pool *p = w->pool;
    uint32_t seen = 0;
    while (!atomic_load(&p->quit)) {
        for (int i = 0; i < SPINS && atomic_load(&p->job) == seen; i++)
            pause_cpu();
        if (atomic_load(&p->job) == seen) {
            pthread_mutex_lock(&p->lock);
            atomic_fetch_add(&p->sleeping, 1);
            while (atomic_load(&p->job) == seen && !atomic_load(&p->quit))
                pthread_cond_wait(&p->wake, &p->lock);
            atomic_fetch_sub(&p->sleeping, 1);
            pthread_mutex_unlock(&p->lock);
        }
        seen = atomic_load(&p->job);
        work(p, w->id);
    }
    return NULL;
}

static void wake_all(struct pool *p)
{
    if (!atomic_load(&p->sleeping))
        return;
    pthread_mutex_lock(&p->lock);
    pthread_cond_broadcast(&p->wake);
    pthread_mutex_unlock(&p->lock);
}

void pool_run(struct pool *p, uint32_t n, void (*fn)(void *, unsigned, uint32_t), void *arg)
{
    pthread_mutex_lock(&p->turn);
    if (p->threads == 1 || n == 1) {
        for (uint32_t i = 0; i < n; i++)
            fn(arg, 0, i);
    } else if (n) {
        uint32_t job = atomic_load(&p->job) + 1;
        p->fn = fn;
        p->arg = arg;
        atomic_store(&p->finished, 0);
        for (uint32_t v = 0, from = 0; v < p->threads; v++, from = p->worker[v - 1].end) {
            p->worker[v].end = (uint32_t)((uint64_t)n * (v + 1) / p->threads);
            atomic_store(&p->worker[v].ticket, (uint64_t)job << 32 | (p->worker[v].end - from));
        }
        atomic_store(&p->job, job);
        wake_all(p);
        work(p, 0);
        for (int i = 0; atomic_load(&p->finished) != n; i++)
            i < SPINS ? pause_cpu() : (void)sched_yield();
    }
    pthread_mutex_unlock(&p->turn);
}

struct pool *pool_open(unsigned threads)
{
    const size_t bytes = sizeof(struct pool) + threads * sizeof(struct worker);
    struct pool *p = aligned_alloc(64, bytes);
    if (!p)
        return NULL;
    memset(p, 0, bytes);
    pthread_mutex_init(&p->turn, NULL);
    pthread_mutex_init(&p->lock, NULL);
    pthread_cond_init(&p->wake, NULL);
    for (p->threads = 1; p->threads < threads; p->threads++) {
        struct worker *w = &p->worker[p->threads];
        w->pool = p;
        w->id = p->threads;
        if (pthread_create(&w->thread, NULL, worker_main, w)) {
            pool_close(p);
            return NULL;
        }
    }
    return p;
}

void pool_close(struct pool *p)
{
    if (!p)
        return;
    pthread_mutex_lock(&p->lock);
    atomic_store(&p->quit, 1);
    pthread_cond_broadcast(&p->wake);
    pthread_mutex_unlock(&p->lock);
    for (unsigned i = 1; i < p->threads; i++)
        pthread_join(p->worker[i].thread, NULL);
    pthread_mutex_destroy(&p->turn);
    pthread_mutex_destroy(&p->lock);
    pthread_cond_destroy(&p->wake);
    free(p);
}

unsigned pool_threads(const struct pool *p)
{
    return p->threads;
}

unsigned pool_physical_cores(void)
{
    cpu_set_t set;
    unsigned n = 0;
    if (sched_getaffinity(0, sizeof set, &set))
        return 1;
    for (unsigned cpu = 0; cpu < CPU_SETSIZE; cpu++) {
        if (!CPU_ISSET(cpu, &set))
            continue;
        /* counted unless the first of its siblings is ours, too, and counted already */
        char path[96];
        unsigned first = cpu;
        snprintf(path, sizeof path,
                 "/sys/devices/system/cpu/cpu%u/topology/thread_siblings_list", cpu);
        FILE *f = fopen(path, "re");
        if (f) {
            if (fscanf(f, "%u", &first) != 1 || first >= CPU_SETSIZE)
                first = cpu;
            fclose(f);
        }
        n += first == cpu || !CPU_ISSET(first, &set);
    }
    return n ? n : 1;
}
