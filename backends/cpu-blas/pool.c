/* backends/cpu-blas/pool.c -- see pool.h.
 *
 * A job is published by one 64-bit ticket: its number above, the items left below.
 * Taking items is one compare-and-swap on it, so a worker that wakes late can never take
 * an item of a job it has not seen.  The more are left the more are taken at once, for
 * neighbours read memory in its order.  Workers spin for a moment after a job (the
 * next op of a layer comes within microseconds), then sleep. */
#define _GNU_SOURCE
#include "backends/cpu-blas/pool.h"

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>

enum { SPINS = 4000 };                     /* some tens of microseconds */

struct pool {
    unsigned threads;
    pthread_mutex_t turn;                  /* one job at a time                            */
    pthread_mutex_t lock;                  /* with wake: for sleepers                      */
    pthread_cond_t  wake;
    _Atomic uint64_t ticket;               /* job number << 32 | items left                */
    _Atomic uint32_t finished;             /* items done of the current job                */
    _Atomic unsigned sleeping;
    _Atomic int quit;
    /* the job; stable while any of its items is unfinished */
    void (*fn)(void *, unsigned, uint32_t);
    void *arg;
    uint32_t n;
    struct worker { struct pool *pool; pthread_t thread; unsigned id; } worker[];
};

static inline void pause_cpu(void)
{
#ifdef __x86_64__
    __builtin_ia32_pause();
#endif
}

static void work(struct pool *p, unsigned id)
{
    uint64_t t = atomic_load(&p->ticket);
    while ((uint32_t)t) {
        const uint32_t left = (uint32_t)t, some = left / (4 * p->threads) + 1;
        if (!atomic_compare_exchange_weak(&p->ticket, &t, t - some))
            continue;
        for (uint32_t i = 0; i < some; i++)
            p->fn(p->arg, id, p->n - left + i);
        atomic_fetch_add(&p->finished, some);
        t = atomic_load(&p->ticket);
    }
}

static void *worker_main(void *arg)
{
    struct worker *w = arg;
    struct pool *p = w->pool;
    while (!atomic_load(&p->quit)) {
        work(p, w->id);
        for (int i = 0; i < SPINS && !(uint32_t)atomic_load(&p->ticket); i++)
            pause_cpu();
        if ((uint32_t)atomic_load(&p->ticket))
            continue;
        pthread_mutex_lock(&p->lock);
        atomic_fetch_add(&p->sleeping, 1);
        while (!(uint32_t)atomic_load(&p->ticket) && !atomic_load(&p->quit))
            pthread_cond_wait(&p->wake, &p->lock);
        atomic_fetch_sub(&p->sleeping, 1);
        pthread_mutex_unlock(&p->lock);
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
        p->fn = fn;
        p->arg = arg;
        p->n = n;
        atomic_store(&p->finished, 0);
        atomic_store(&p->ticket, ((atomic_load(&p->ticket) >> 32) + 1) << 32 | n);
        wake_all(p);
        work(p, 0);
        for (int i = 0; atomic_load(&p->finished) != n; i++)
            i < SPINS ? pause_cpu() : (void)sched_yield();
    }
    pthread_mutex_unlock(&p->turn);
}

struct pool *pool_open(unsigned threads)
{
    struct pool *p = calloc(1, sizeof *p + threads * sizeof p->worker[0]);
    if (!p)
        return NULL;
    pthread_mutex_init(&p->turn, NULL);
    pthread_mutex_init(&p->lock, NULL);
    pthread_cond_init(&p->wake, NULL);
    for (p->threads = 1; p->threads < threads; p->threads++) {
        struct worker *w = &p->worker[p->threads];
        *w = (struct worker){ .pool = p, .id = p->threads };
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
