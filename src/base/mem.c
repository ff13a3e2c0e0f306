/* Labelled allocator and arenas. Each block has a 64-byte header in front with its size, so that totals need no table. */
#include "base/mem.h"

#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct mem_header {
    size_t size;
    const char *label;
} mem_header;

_Static_assert(sizeof(mem_header) <= NS_ALIGN, "header must fit in front of the block");

static atomic_uint_fast64_t g_allocs, g_frees, g_bytes, g_peak;
static atomic_uint_fast64_t g_fail_at; /* counts down; 0 = off */
static atomic_int g_fail_sticky, g_fault_hit;
static _Atomic(const char *) g_fault_label;

static int fault_now(const char *label)
{
    if (atomic_load_explicit(&g_fail_at, memory_order_relaxed) == 0) return 0;
    if (atomic_load(&g_fault_hit) && atomic_load(&g_fail_sticky)) return 1;
    if (atomic_load(&g_fault_hit)) return 0;
    if (atomic_fetch_sub(&g_fail_at, 1) == 1) {
        atomic_store(&g_fail_at, 1); /* stays armed so that sticky mode is seen */
        atomic_store(&g_fault_label, label);
        atomic_store(&g_fault_hit, 1);
        return 1;
    }
    return 0;
}

static void count_bytes(size_t add)
{
    uint64_t now = atomic_fetch_add(&g_bytes, add) + add;
    uint64_t peak = atomic_load(&g_peak);
    while (now > peak && !atomic_compare_exchange_weak(&g_peak, &peak, now)) {
    }
}

static void *raw_alloc(size_t size, const char *label)
{
    if (size > SIZE_MAX - 2 * NS_ALIGN || fault_now(label)) return NULL;
    size_t total = (size + 2 * NS_ALIGN - 1) / NS_ALIGN * NS_ALIGN;
    char *base = aligned_alloc(NS_ALIGN, total);
    if (!base) return NULL;
    mem_header *h = (mem_header *)base;
    h->size = size;
    h->label = label;
    atomic_fetch_add_explicit(&g_allocs, 1, memory_order_relaxed);
    count_bytes(size);
    return base + NS_ALIGN;
}

ns_status ns_alloc(void **out, size_t size, const char *label, ns_error *err)
{
    *out = NULL;
    if (size == 0) return NS_OK;
    void *p = raw_alloc(size, label);
    NS_FAIL_IF(!p, NS_ERR_MEMORY, "out of memory: %zu bytes for %s (free memory, or use a smaller batch or model)",
               size, label);
    memset(p, 0, size);
    *out = p;
    return NS_OK;
}

ns_status ns_realloc(void **p, size_t size, const char *label, ns_error *err)
{
    if (size == 0) {
        ns_free(*p);
        *p = NULL;
        return NS_OK;
    }
    void *n = raw_alloc(size, label);
    NS_FAIL_IF(!n, NS_ERR_MEMORY, "out of memory: %zu bytes for %s", size, label);
    if (*p) {
        const mem_header *h = (const mem_header *)((char *)*p - NS_ALIGN);
        memcpy(n, *p, h->size < size ? h->size : size);
        ns_free(*p);
    }
    *p = n;
    return NS_OK;
}

void ns_free(void *p)
{
    if (!p) return;
    char *base = (char *)p - NS_ALIGN;
    atomic_fetch_add_explicit(&g_frees, 1, memory_order_relaxed);
    atomic_fetch_sub(&g_bytes, ((mem_header *)base)->size);
    free(base);
}

ns_status ns_grow(void **p, size_t *cap, size_t need, size_t item, const char *label, ns_error *err)
{
    if (need <= *cap) return NS_OK;
    size_t n = *cap ? *cap : 16;
    while (n < need) {
        NS_FAIL_IF(n > SIZE_MAX / 2 / item, NS_ERR_MEMORY, "%s: %zu items are too many", label, need);
        n *= 2;
    }
    ns_status st = ns_realloc(p, n * item, label, err);
    if (st == NS_OK) *cap = n;
    return st;
}

ns_mem_stats ns_mem_get_stats(void)
{
    ns_mem_stats s = {atomic_load(&g_allocs), atomic_load(&g_frees), atomic_load(&g_bytes), atomic_load(&g_peak)};
    return s;
}

void ns_mem_fail_at(uint64_t n, int sticky)
{
    atomic_store(&g_fault_hit, 0);
    atomic_store(&g_fail_sticky, sticky);
    atomic_store(&g_fail_at, n);
}

const char *ns_mem_fault_label(void)
{
    return ns_mem_fault_hit() ? atomic_load(&g_fault_label) : NULL;
}

int ns_mem_fault_hit(void)
{
    return atomic_load(&g_fault_hit);
}

/* ---- arenas ---- */
struct ns_arena_block {
    struct ns_arena_block *prev;
    size_t used, cap;
    _Alignas(16) char data[];
};

void *ns_arena_alloc(ns_arena *a, size_t size, ns_error *err)
{
    size = (size + 15) & ~(size_t)15;
    struct ns_arena_block *b = a->head;
    if (!b || b->cap - b->used < size) {
        size_t cap = a->block_size ? a->block_size : 64 * 1024;
        if (cap < size) cap = size;
        void *p = NULL;
        if (ns_alloc(&p, sizeof *b + cap, a->label ? a->label : "arena", err) != NS_OK) return NULL;
        b = p;
        b->cap = cap;
        b->prev = a->head;
        a->head = b;
    }
    void *r = b->data + b->used;
    b->used += size;
    return r;
}

char *ns_arena_strndup(ns_arena *a, const char *s, size_t n, ns_error *err)
{
    char *r = ns_arena_alloc(a, n + 1, err);
    if (r) {
        memcpy(r, s, n);
        r[n] = 0;
    }
    return r;
}

char *ns_arena_strdup(ns_arena *a, const char *s, ns_error *err)
{
    return ns_arena_strndup(a, s, strlen(s), err);
}

char *ns_arena_printf(ns_arena *a, ns_error *err, const char *fmt, ...)
{
    va_list ap, ap2;
    va_start(ap, fmt);
    va_copy(ap2, ap);
    int n = vsnprintf(NULL, 0, fmt, ap);
    va_end(ap);
    char *r = n < 0 ? NULL : ns_arena_alloc(a, (size_t)n + 1, err);
    if (r) vsnprintf(r, (size_t)n + 1, fmt, ap2);
    va_end(ap2);
    return r;
}

ns_arena_mark ns_arena_save(const ns_arena *a)
{
    ns_arena_mark m = {a->head, a->head ? a->head->used : 0};
    return m;
}

/* A rollback to the empty arena keeps the first block: an arena used row by row would else allocate a block per row. */
void ns_arena_rollback(ns_arena *a, ns_arena_mark m)
{
    while (a->head && a->head != m.block && (a->head->prev || m.block)) {
        struct ns_arena_block *b = a->head;
        a->head = b->prev;
        ns_free(b);
    }
    if (a->head) {
        memset(a->head->data + m.used, 0, a->head->used - m.used); /* keep the promise of zeroed memory */
        a->head->used = m.used;
    }
}

void ns_arena_free(ns_arena *a)
{
    while (a->head) {
        struct ns_arena_block *b = a->head;
        a->head = b->prev;
        ns_free(b);
    }
}
