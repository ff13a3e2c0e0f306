/* Shared by the programs of bench/: one timing rule and one output form.
 *
 *     double best, med;
 *     bench_time(&best, &med, fn, arg);                  // seconds a call: at least 7 calls and 0.5 s after one warm-up
 *     bench_line("json.parse", "\"file\": \"train.jsonl\"", bytes / best / 1e6, "MB/s", best, med);
 *
 * Every figure comes with best and median, so that noise is seen. One JSON object a line on stdout. */
#ifndef NS_BENCH_BENCH_H
#define NS_BENCH_BENCH_H

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/error.h"

static inline double bench_now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static inline int bench_compare(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

enum { BENCH_MIN_CALLS = 7, BENCH_MAX_CALLS = 2000 };

/* CPU time of this process: what a busy machine disturbs least; for work of one thread. */
static inline double bench_cpu(void)
{
    struct timespec t;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static inline void bench_time_by(double (*now)(void), double *best, double *median, void (*fn)(void *), void *arg)
{
    static double t[BENCH_MAX_CALLS];
    int n = 0;
    fn(arg); /* warm-up: page faults, caches, lazily opened libraries */
    for (double start = bench_now(); n < BENCH_MAX_CALLS && (n < BENCH_MIN_CALLS || bench_now() - start < 0.5); n++) {
        double t0 = now();
        fn(arg);
        t[n] = now() - t0;
    }
    qsort(t, (size_t)n, sizeof *t, bench_compare);
    *best = t[0];
    *median = t[n / 2];
}
static inline void bench_time(double *best, double *median, void (*fn)(void *), void *arg)
{
    bench_time_by(bench_now, best, median, fn, arg);
}

/* `more`: further members, `"name": value, ...` without braces, or NULL. `rate` is for the best call. */
static inline void bench_line(const char *name, const char *more, double rate, const char *unit, double best,
                              double median)
{
    printf("{\"bench\": \"%s\", \"who\": \"ns\", %s%s\"rate\": %.4g, \"unit\": \"%s\", \"best_s\": %.4g, \"median_s\": "
           "%.4g}\n",
           name, more ? more : "", more ? ", " : "", rate, unit, best, median);
    fflush(stdout);
}

/* A benchmark that cannot run says so and counts as skipped. */
static inline int bench_skip(const char *name, const char *why)
{
    printf("{\"bench\": \"%s\", \"who\": \"ns\", \"skipped\": \"%s\"}\n", name, why);
    return 0;
}

static inline int bench_fail(const ns_error *err)
{
    char text[2048];
    fprintf(stderr, "bench: %s\n", ns_error_text(err, text, sizeof text));
    return 1;
}

/* Whole file into memory; NULL when it cannot be read. The caller frees. */
static inline char *bench_read(const char *path, size_t *n)
{
    FILE *f = fopen(path, "rb");
    if (!f) return NULL;
    char *p = NULL;
    long size = fseek(f, 0, SEEK_END) == 0 ? ftell(f) : -1;
    rewind(f);
    if (size >= 0 && (p = malloc((size_t)size + 1)) && fread(p, 1, (size_t)size, f) == (size_t)size) {
        p[size] = 0;
        *n = (size_t)size;
    } else {
        free(p);
        p = NULL;
    }
    fclose(f);
    return p;
}

#endif
