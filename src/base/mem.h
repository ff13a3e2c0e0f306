/* Memory: one labelled allocator for everything, and arenas.
 *
 * Every allocation has a static label, so that totals can be printed by label and tests can make the N-th call fail
 * (ns_mem_fail_at). ns_alloc returns zeroed memory aligned to 64 bytes. Whoever news, frees; free(NULL) is fine.
 *
 *     float *x = NULL;
 *     NS_TRY(ns_alloc((void **)&x, n * sizeof *x, "train.loss", err), "allocate");
 *     ns_free(x);
 *
 * Arena: bump allocation, freed at once; for per-file, per-request, per-phase data. Thread rule: the allocator is safe
 * from any thread; one arena belongs to one thread at a time. */
#ifndef NS_BASE_MEM_H
#define NS_BASE_MEM_H

#include <stddef.h>
#include <stdint.h>

#include "base/error.h"

#define NS_ALIGN 64

/* Out: *out zeroed, 64-byte aligned, or NULL for size 0. Err: NS_ERR_MEMORY. `label` must be a static string. */
NS_MUST_USE ns_status ns_alloc(void **out, size_t size, const char *label, ns_error *err);
/* Grows (or shrinks) *p keeping min(old, new) bytes; new bytes are NOT zeroed. *p may be NULL. Untouched on failure. */
NS_MUST_USE ns_status ns_realloc(void **p, size_t size, const char *label, ns_error *err);
void ns_free(void *p);

/* Array growth: makes room for at least `need` items of `item` bytes in *p, updating *cap (doubling). */
NS_MUST_USE ns_status ns_grow(void **p, size_t *cap, size_t need, size_t item, const char *label, ns_error *err);

/* Bytes and calls so far (all threads): used by the "no allocation inside a step" assertion and by reports. */
typedef struct ns_mem_stats {
    uint64_t n_alloc, n_free;
    uint64_t bytes_now, bytes_peak;
} ns_mem_stats;
ns_mem_stats ns_mem_get_stats(void);
/* Tests: make the n-th allocation from now fail (1 = next; 0 = never); `sticky` makes all later ones fail too.
 * ns_mem_fault_hit() tells whether the fault was reached. */
void ns_mem_fail_at(uint64_t n, int sticky);
int ns_mem_fault_hit(void);
const char *ns_mem_fault_label(void); /* of the first allocation that was made to fail, NULL if none */

/* ---- arenas ---- */
typedef struct ns_arena {
    struct ns_arena_block *head;
    const char *label;
    size_t block_size;
} ns_arena;

typedef struct ns_arena_mark {
    struct ns_arena_block *block;
    size_t used;
} ns_arena_mark;

#define NS_ARENA_INIT(label_) \
    {                         \
        NULL, (label_), 0     \
    }
/* Zeroed, 16-byte aligned memory, valid until reset/rollback. NULL only when out of memory (err set). */
void *ns_arena_alloc(ns_arena *a, size_t size, ns_error *err);
/* Copies n bytes and a terminating NUL. */
char *ns_arena_strndup(ns_arena *a, const char *s, size_t n, ns_error *err);
char *ns_arena_strdup(ns_arena *a, const char *s, ns_error *err);
char *ns_arena_printf(ns_arena *a, ns_error *err, const char *fmt, ...) NS_PRINTF(3, 4);
ns_arena_mark ns_arena_save(const ns_arena *a);
void ns_arena_rollback(ns_arena *a, ns_arena_mark m); /* frees what was allocated since the mark (one block may stay) */
void ns_arena_free(ns_arena *a);                      /* frees all; the arena may be used again */

#endif
