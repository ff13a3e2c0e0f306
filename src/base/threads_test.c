/* Thread pool: every tile once, no worker used twice at a time, any job size, many short jobs, settings. */
#include "base/testing.h"

#include <sched.h>
#include <stdatomic.h>

#include "base/mem.h"
#include "base/threads.h"

enum { N_MAX = 4096 };

typedef struct job {
    atomic_int count[N_MAX];
    atomic_int in_worker[64];
    atomic_int bad;
    int n_workers;
    int plain[N_MAX]; /* not atomic: seen complete by the caller only if finishing synchronises */
} job;

static void mark(void *arg, int tile, int worker)
{
    job *j = arg;
    if (worker < 0 || worker >= j->n_workers || atomic_exchange(&j->in_worker[worker], 1)) atomic_store(&j->bad, 1);
    atomic_fetch_add(&j->count[tile], 1);
    j->plain[tile] = tile * 3 + 1;
    atomic_store(&j->in_worker[worker], 0);
}

static void check(ns_threads *p, int n)
{
    static job j;
    memset(&j, 0, sizeof j);
    j.n_workers = ns_threads_count(p);
    ns_parallel_for(p, n, mark, &j);
    assert_false(atomic_load(&j.bad));
    for (int i = 0; i < N_MAX; i++) {
        assert_int_equal(atomic_load(&j.count[i]), i < n);
        assert_int_equal(j.plain[i], i < n ? i * 3 + 1 : 0);
    }
}

static void every_tile_exactly_once(void **state)
{
    (void)state;
    ns_error err = NS_ERROR_INIT;
    for (int workers = 1; workers <= 9; workers += 2) {
        ns_threads *p = NULL;
        assert_ns_ok(ns_threads_new(&p, workers, &err), &err);
        assert_int_equal(ns_threads_count(p), workers);
        for (int n = 0; n <= 40; n++) check(p, n);
        check(p, N_MAX);
        ns_threads_free(&p);
        assert_null(p);
    }
    check(NULL, 17);
    assert_int_equal(ns_threads_count(NULL), 1);
}

static void add_one(void *arg, int tile, int worker)
{
    (void)worker;
    atomic_fetch_add((atomic_int *)arg + tile % 2, 1);
}

/* Short jobs back to back, with pauses that let the workers fall asleep: lost wake-ups hang here, late workers of an
 * earlier job would run tiles of the next with the wrong argument. */
static void many_short_jobs(void **state)
{
    (void)state;
    ns_error err = NS_ERROR_INIT;
    ns_threads *p = NULL;
    assert_ns_ok(ns_threads_new(&p, 4, &err), &err);
    for (int round = 0; round < 20000; round++) {
        atomic_int sums[2] = {0, 0};
        int n = 2 + round % 7;
        ns_parallel_for(p, n, add_one, sums);
        assert_int_equal(atomic_load(&sums[0]), (n + 1) / 2);
        assert_int_equal(atomic_load(&sums[1]), n / 2);
        if (round % 1000 == 0) usleep(2000);
    }
    ns_threads_free(&p);
}

typedef struct meeting {
    atomic_int here, met, late;
    int n;
} meeting;

/* Waits until every worker has a tile; then all but the caller are slow, so that the caller has to wait for them. */
static void meet(void *arg, int tile, int worker)
{
    meeting *m = arg;
    (void)tile;
    atomic_fetch_add(&m->here, 1);
    for (int i = 0; i < 20000 && atomic_load(&m->here) < m->n; i++) usleep(100);
    if (atomic_load(&m->here) == m->n) atomic_fetch_add(&m->met, 1);
    if (worker != 0) usleep(3000);
    atomic_fetch_add(&m->late, 1);
}

/* All workers take part, asleep or awake, and the caller sleeps until the last has finished. */
static void workers_work_at_the_same_time(void **state)
{
    (void)state;
    ns_error err = NS_ERROR_INIT;
    for (int n = 2; n <= 6; n++) {
        ns_threads *p = NULL;
        assert_ns_ok(ns_threads_new(&p, n, &err), &err);
        for (int round = 0; round < 12; round++) {
            meeting m = {.n = n};
            if (round % 3 == 0) usleep(2000);
            ns_parallel_for(p, n, meet, &m);
            assert_int_equal(atomic_load(&m.met), n);
            assert_int_equal(atomic_load(&m.late), n);
        }
        ns_threads_free(&p);
    }
}

typedef struct spin_job {
    atomic_int *count;
    int length;
} spin_job;

/* Long enough that several workers are between "read left" and "claim" at any moment. */
static void spin_tile(void *arg, int tile, int worker)
{
    spin_job *j = arg;
    (void)worker;
    for (volatile int i = 0; i < j->length; i++) {
    }
    if (tile % 16 == 0) usleep(0);
    atomic_fetch_add(&j->count[tile], 1);
}

static void contention(void **state)
{
    (void)state;
    ns_error err = NS_ERROR_INIT;
    static atomic_int count[512];
    ns_threads *p = NULL;
    assert_ns_ok(ns_threads_new(&p, 8, &err), &err);
    for (int round = 0; round < 300; round++) {
        spin_job j = {count, round % 5 * 100};
        int n = 64 + round % 449;
        memset(count, 0, sizeof count);
        ns_parallel_for(p, n, spin_tile, &j);
        for (int i = 0; i < 512; i++) assert_int_equal(atomic_load(&count[i]), i < n);
    }
    ns_threads_free(&p);
}

static void threads_setting_is_honoured(void **state)
{
    (void)state;
    ns_error err = NS_ERROR_INIT;
    ns_threads *p = NULL;
    char *saved = getenv("NS_THREADS") ? strdup(getenv("NS_THREADS")) : NULL;
    setenv("NS_THREADS", "3", 1);
    assert_ns_ok(ns_threads_new(&p, 0, &err), &err);
    assert_int_equal(ns_threads_count(p), 3);
    ns_threads_free(&p);
    assert_ns_ok(ns_threads_new(&p, 2, &err), &err); /* an explicit number wins */
    assert_int_equal(ns_threads_count(p), 2);
    ns_threads_free(&p);
    const char *const wrong[] = {"0", "-1", "two", "3x", "99999", "99999999999999999999"};
    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++) {
        setenv("NS_THREADS", wrong[i], 1);
        assert_ns_fails(ns_threads_new(&p, 0, &err), NS_ERR_CONFIG, "NS_THREADS", &err);
        assert_null(p);
    }
    unsetenv("NS_THREADS");
    assert_ns_fails(ns_threads_new(&p, -1, &err), NS_ERR_CONFIG, "-1", &err);
    cpu_set_t old, one;
    assert_int_equal(sched_getaffinity(0, sizeof old, &old), 0);
    CPU_ZERO(&one);
    for (int i = 0; i < CPU_SETSIZE; i++) {
        if (!CPU_ISSET(i, &old)) continue;
        CPU_SET(i, &one);
        break;
    }
    if (sched_setaffinity(0, sizeof one, &one) == 0) {
        assert_ns_ok(ns_threads_new(&p, 0, &err), &err);
        assert_int_equal(ns_threads_count(p), 1);
        ns_threads_free(&p);
        sched_setaffinity(0, sizeof old, &old);
    }
    if (saved) setenv("NS_THREADS", saved, 1);
    free(saved);
}

static void out_of_memory_is_reported(void **state)
{
    (void)state;
    ns_error err = NS_ERROR_INIT;
    ns_threads *p = NULL;
    ns_mem_fail_at(1, 0);
    assert_ns_fails(ns_threads_new(&p, 2, &err), NS_ERR_MEMORY, "threads", &err);
    ns_mem_fail_at(0, 0);
    assert_null(p);
    ns_threads_free(&p);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_tile_exactly_once),       cmocka_unit_test(many_short_jobs),
        cmocka_unit_test(workers_work_at_the_same_time), cmocka_unit_test(contention),
        cmocka_unit_test(threads_setting_is_honoured),   cmocka_unit_test(out_of_memory_is_reported)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
