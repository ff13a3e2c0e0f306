/* Thread pool: one job at a time, dealt tile by tile.
 *
 * A job is published by one store to `left`, the number of tiles not yet dealt. Whoever (caller or worker) lowers it by
 * one with a compare-and-swap owns tile n_tiles - left, and only then reads fn, arg and n_tiles: they cannot change
 * before that tile is counted in `done`. A late worker of an earlier job thus either finds nothing or takes a tile of the
 * present job like any other. The caller returns when done == n_tiles, so a worker that the system has suspended
 * without a tile delays nobody.
 *
 * Sleeping: workers spin a little, then wait on a condition variable. The pairs (left, sleepers) and (done,
 * caller_waits) are written and read in opposite order on the two sides with sequential consistency, so one side always
 * sees the other and no wake-up is lost. Workers block all signals: handlers run on the caller's threads. */
#include "base/threads.h"

#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include "base/mem.h"

enum { MAX_WORKERS = 1024, WORKER_STACK = 8 << 20, SPINS = 2000 };

typedef struct worker {
    pthread_t thread;
    struct ns_threads *pool;
    int index;
} worker;

struct ns_threads {
    _Alignas(NS_ALIGN) atomic_int left; /* tiles not yet dealt */
    _Alignas(NS_ALIGN) atomic_int done; /* tiles finished */
    _Alignas(NS_ALIGN) ns_tile_fn fn;   /* the job; stable while any tile is unfinished */
    void *arg;
    int n_tiles;
    atomic_int sleepers, caller_waits, stop, busy;
    pthread_mutex_t mutex;
    pthread_cond_t wake, finished;
    int n_workers, n_started, spins;
    worker workers[];
};

static void cpu_pause(void)
{
#if defined(__x86_64__)
    _mm_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

/* Takes and runs tiles until none is left. */
static void run_tiles(ns_threads *p, int index)
{
    int left = atomic_load(&p->left);
    while (left > 0) {
        if (!atomic_compare_exchange_weak(&p->left, &left, left - 1)) continue;
        int n = p->n_tiles;
        p->fn(p->arg, n - left, index);
        if (atomic_fetch_add(&p->done, 1) == n - 1 && atomic_load(&p->caller_waits)) {
            pthread_mutex_lock(&p->mutex);
            pthread_cond_signal(&p->finished);
            pthread_mutex_unlock(&p->mutex);
        }
        left = atomic_load(&p->left);
    }
}

static void *worker_main(void *arg)
{
    worker *w = arg;
    ns_threads *p = w->pool;
    while (!atomic_load(&p->stop)) {
        run_tiles(p, w->index);
        for (int i = 0; i < p->spins && !atomic_load(&p->left) && !atomic_load(&p->stop); i++) cpu_pause();
        if (atomic_load(&p->left)) continue;
        pthread_mutex_lock(&p->mutex);
        atomic_fetch_add(&p->sleepers, 1);
        while (!atomic_load(&p->left) && !atomic_load(&p->stop)) pthread_cond_wait(&p->wake, &p->mutex);
        atomic_fetch_sub(&p->sleepers, 1);
        pthread_mutex_unlock(&p->mutex);
    }
    return NULL;
}

static int cpus_allowed(void)
{
    cpu_set_t *set;
    int n = 0;
    for (int max = 1024; max <= 1 << 16 && n == 0; max *= 2) { /* the kernel refuses a set that is too small */
        size_t size = CPU_ALLOC_SIZE(max);
        if (!(set = CPU_ALLOC(max))) break;
        if (sched_getaffinity(0, size, set) == 0) n = CPU_COUNT_S(size, set);
        CPU_FREE(set);
    }
    return n > 0 ? n : 1;
}

static ns_status choose_count(int *n, int cpus, ns_error *err)
{
    const char *env = getenv("NS_THREADS");
    if (*n == 0 && env && *env) {
        char *end;
        errno = 0;
        long v = strtol(env, &end, 10);
        NS_FAIL_IF(errno || *end || v < 1 || v > MAX_WORKERS, NS_ERR_CONFIG,
                   "NS_THREADS: found '%s', expected a number from 1 to %d", env, MAX_WORKERS);
        *n = (int)v;
    }
    if (*n == 0) *n = cpus < MAX_WORKERS ? cpus : MAX_WORKERS;
    NS_FAIL_IF(*n < 1 || *n > MAX_WORKERS, NS_ERR_CONFIG,
               "number of threads: found %d, expected 1 to %d (0: automatic)", *n, MAX_WORKERS);
    return NS_OK;
}

int ns_thread_start(pthread_t *thread, const pthread_attr_t *attr, void *(*run)(void *), void *arg)
{
    sigset_t all, old;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &old);
    int rc = pthread_create(thread, attr, run, arg);
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    return rc;
}

static int start_workers(ns_threads *p)
{
    pthread_attr_t attr;
    int rc = pthread_attr_init(&attr);
    if (rc) return rc;
    pthread_attr_setstacksize(&attr, WORKER_STACK);
    for (int i = 1; i < p->n_workers && !rc; i++) {
        worker *w = &p->workers[i];
        w->pool = p;
        w->index = i;
        rc = ns_thread_start(&w->thread, &attr, worker_main, w);
        if (!rc) p->n_started++;
    }
    pthread_attr_destroy(&attr);
    return rc;
}

ns_status ns_threads_new(ns_threads **out, int n_workers, ns_error *err)
{
    *out = NULL;
    int n = n_workers, cpus = cpus_allowed();
    NS_TRY(choose_count(&n, cpus, err), "%s", "");
    ns_threads *p = NULL;
    NS_TRY(ns_alloc((void **)&p, sizeof *p + (size_t)n * sizeof p->workers[0], "threads", err), "start threads");
    p->n_workers = n;
    p->spins = n <= cpus ? SPINS : 0; /* with more threads than CPUs a spinning thread is in the way of a working one */
    pthread_mutex_init(&p->mutex, NULL);
    pthread_cond_init(&p->wake, NULL);
    pthread_cond_init(&p->finished, NULL);
    int rc = start_workers(p);
    if (rc) {
        int started = p->n_started;
        ns_threads_free(&p);
        NS_FAIL(NS_ERR_IO, "cannot start thread %d of %d: %s (set NS_THREADS to a smaller number)", started + 2, n,
                strerror(rc));
    }
    *out = p;
    return NS_OK;
}

void ns_threads_free(ns_threads **pool)
{
    ns_threads *p = *pool;
    if (!p) return;
    pthread_mutex_lock(&p->mutex);
    atomic_store(&p->stop, 1);
    pthread_cond_broadcast(&p->wake);
    pthread_mutex_unlock(&p->mutex);
    for (int i = 1; i <= p->n_started; i++) pthread_join(p->workers[i].thread, NULL);
    pthread_cond_destroy(&p->finished);
    pthread_cond_destroy(&p->wake);
    pthread_mutex_destroy(&p->mutex);
    ns_free(p);
    *pool = NULL;
}

int ns_threads_count(const ns_threads *pool)
{
    return pool ? pool->n_workers : 1;
}

void ns_parallel_for(ns_threads *p, int n_tiles, ns_tile_fn fn, void *arg)
{
    if (!p || p->n_started == 0 || n_tiles <= 1) {
        for (int i = 0; i < n_tiles; i++) fn(arg, i, 0);
        return;
    }
    NS_ASSERT(!atomic_exchange(&p->busy, 1)); /* one caller at a time, and never from inside fn */
    p->fn = fn;
    p->arg = arg;
    p->n_tiles = n_tiles;
    atomic_store(&p->done, 0);
    atomic_store(&p->left, n_tiles);
    if (atomic_load(&p->sleepers)) {
        pthread_mutex_lock(&p->mutex);
        int asleep = atomic_load(&p->sleepers);
        if (n_tiles - 1 >= asleep)
            pthread_cond_broadcast(&p->wake);
        else
            for (int i = 1; i < n_tiles; i++) pthread_cond_signal(&p->wake);
        pthread_mutex_unlock(&p->mutex);
    }
    run_tiles(p, 0);
    for (int i = 0; i < p->spins && atomic_load(&p->done) != n_tiles; i++) cpu_pause();
    if (atomic_load(&p->done) != n_tiles) {
        pthread_mutex_lock(&p->mutex);
        atomic_store(&p->caller_waits, 1);
        while (atomic_load(&p->done) != n_tiles) pthread_cond_wait(&p->finished, &p->mutex);
        atomic_store(&p->caller_waits, 0);
        pthread_mutex_unlock(&p->mutex);
    }
    atomic_store(&p->busy, 0);
}
