/* Stored checksums compared without reading twice: while rows are read, each contiguous run of stored bytes leaves (offset, length,
 * CRC-32); in the end the runs of a stored piece are joined, what nobody read (padding of a vocabulary, tensors that an interrupted
 * run had converted) is read for it, and the sum is compared with the file's. */
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "ckpt/archive_priv.h"

typedef struct run {
    ns_crc *crc;
    uint64_t at, n;
    uint32_t sum;
    const ns_arc_tensor *t; /* to name it */
    const char *file;
} run;

struct ns_crc_runs {
    pthread_mutex_t mutex;
    run *v;
    size_t n, cap;
};

ns_status ns_archive_check_later(ns_archive *a, ns_error *err)
{
    if (a->runs) return NS_OK;
    NS_TRY(ns_alloc((void **)&a->runs, sizeof *a->runs, "archive.runs", err), "%s", a->where);
    pthread_mutex_init(&a->runs->mutex, NULL);
    for (size_t i = 0; i < a->n; i++)
        for (size_t k = 0; k < a->t[i].n_pieces; k++)
            if (a->t[i].pieces[k].crc) a->t[i].pieces[k].crc->runs = a->runs;
    return NS_OK;
}

void ns_crc_runs_free(ns_archive *a)
{
    if (!a->runs) return;
    for (size_t i = 0; i < a->n; i++)
        for (size_t k = 0; k < a->t[i].n_pieces; k++)
            if (a->t[i].pieces[k].crc) a->t[i].pieces[k].crc->runs = NULL;
    pthread_mutex_destroy(&a->runs->mutex);
    ns_free(a->runs->v);
    ns_free(a->runs);
    a->runs = NULL;
}

static ns_status add(struct ns_crc_runs *r, run x, ns_error *err)
{
    pthread_mutex_lock(&r->mutex);
    ns_status st = ns_grow((void **)&r->v, &r->cap, r->n + 1, sizeof *r->v, "archive.runs", err);
    if (st == NS_OK) r->v[r->n++] = x;
    pthread_mutex_unlock(&r->mutex);
    return st;
}

ns_status ns_crc_note(const ns_arc_tensor *t, const ns_box *p, const unsigned char *stored, const void *same, size_t n,
                      ns_error *err)
{
    uint64_t at = (uint64_t)(stored - p->crc->base);
    NS_ASSERT(stored >= p->crc->base && at <= p->crc->bytes && n <= p->crc->bytes - at);
    return add(p->crc->runs, (run){p->crc, at, n, ns_crc32(same, n), t, p->file}, err);
}

static int by_place(const void *a, const void *b)
{
    const run *x = a, *y = b;
    if (x->crc != y->crc) return (uintptr_t)x->crc < (uintptr_t)y->crc ? -1 : 1;
    if (x->at != y->at) return x->at < y->at ? -1 : 1;
    return (x->n < y->n) - (x->n > y->n); /* the longest first */
}

/* The sum of all bytes of a piece from its sorted runs. */
static uint32_t join(const run *r, size_t n)
{
    const ns_crc *c = r->crc;
    uint32_t sum = 0;
    uint64_t at = 0;
    for (size_t i = 0; i <= n; i++) {
        uint64_t next = i < n ? r[i].at : c->bytes;
        if (next < at) continue; /* read twice, or in other pieces: what is missing is read below */
        sum = ns_crc_stored(sum, c->base + at, next - at);
        at = next;
        if (i == n || !r[i].n) continue;
        sum = ns_crc_join(NS_CRC32_POLY, sum, r[i].sum, r[i].n);
        at += r[i].n;
    }
    return sum;
}

ns_status ns_archive_check_now(ns_archive *a, ns_error *err)
{
    struct ns_crc_runs *r = a->runs;
    if (!r) return NS_OK;
    for (size_t i = 0; i < a->n; i++) { /* pieces that nobody read */
        for (size_t k = 0; k < a->t[i].n_pieces; k++) {
            const ns_box *p = &a->t[i].pieces[k];
            if (p->crc) NS_TRY(add(r, (run){.crc = p->crc, .t = &a->t[i], .file = p->file}, err), "%s", a->where);
        }
    }
    if (r->n) qsort(r->v, r->n, sizeof *r->v, by_place);
    for (size_t i = 0, k; i < r->n; i = k) {
        for (k = i + 1; k < r->n && r->v[k].crc == r->v[i].crc;) k++;
        const run *x = &r->v[i];
        if (!atomic_load(&x->crc->checked))
            NS_TRY(ns_crc_compare(x->crc, x->t, x->file, join(x, k - i), err), "%s", "");
    }
    r->n = 0;
    return NS_OK;
}
