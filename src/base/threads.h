/* Thread pool with a fixed partition: tile i of n always does the same work, so results never depend on timing.
 *     ns_parallel_for(pool, n_tiles, fn, arg);   // fn(arg, tile, worker) for tile 0..n_tiles-1, returns when all are done
 * Tiles are dealt from one counter; correctness and bits must not depend on which worker takes a tile. pool NULL runs
 * inline. Not re-entrant from inside fn. One caller at a time. */
#ifndef NS_BASE_THREADS_H
#define NS_BASE_THREADS_H

#include <pthread.h>

#include "base/error.h"

typedef struct ns_threads ns_threads;
typedef void (*ns_tile_fn)(void *arg, int tile, int worker);

NS_MUST_USE ns_status ns_threads_new(ns_threads **out, int n_workers,
                                     ns_error *err); /* 0: NS_THREADS or the CPUs allowed */
void ns_threads_free(ns_threads **pool);
int ns_threads_count(const ns_threads *pool); /* workers incl. the caller; 1 for NULL */
/* A thread beside the pool. Signals are not for it: they stay with the thread that called. 0, or an errno. */
int ns_thread_start(pthread_t *thread, const pthread_attr_t *attr, void *(*run)(void *), void *arg);
void ns_parallel_for(ns_threads *pool, int n_tiles, ns_tile_fn fn, void *arg);

#endif
