/* Pieces -> values. Every tensor is seen as [lead, rows, cols]; a read cuts the wanted rows with each piece and converts run by
 * run. Checks come first: names once, each element covered by exactly one piece. */
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "ckpt/archive_priv.h"

enum { PAGE = 4096, AROUND = 16 * PAGE, FEW = 32 * PAGE, CRC_STEP = 1 << 20, AHEAD = 8 << 20 };

void ns_archive_init(ns_archive *a, const char *where)
{
    memset(a, 0, sizeof *a);
    a->arena.label = "archive";
    a->where = where;
}

void ns_archive_free(ns_archive *a)
{
    ns_crc_runs_free(a);
    for (size_t i = 0; i < a->n; i++) ns_free(a->t[i].pieces);
    ns_free(a->t);
    ns_packed_cache_free(&a->packed);
    ns_arena_free(&a->arena);
    memset(a, 0, sizeof *a);
}

ns_status ns_archive_add(ns_archive *a, ns_arc_tensor **out, const char *name, ns_dtype dt, const int64_t *shape,
                         int nd, ns_error *err)
{
    NS_FAIL_IF(nd < 0 || nd > 8, NS_ERR_INPUT, "%s: tensor \"%.200s\" has %d axes, at most 8", a->where, name, nd);
    NS_TRY(ns_grow((void **)&a->t, &a->cap, a->n + 1, sizeof *a->t, "archive", err), "%s", a->where);
    ns_arc_tensor *t = &a->t[a->n];
    memset(t, 0, sizeof *t);
    t->name = ns_arena_strdup(&a->arena, name, err);
    if (!t->name) return NS_ERR_MEMORY;
    t->dt = dt;
    t->nd = nd;
    t->n = 1;
    for (int i = 0; i < nd; i++) {
        NS_FAIL_IF(shape[i] < 0 || (shape[i] && t->n > INT64_MAX / 16 / shape[i]), NS_ERR_INPUT,
                   "%s: tensor \"%.200s\": size %lld of axis %d is out of range", a->where, name, (long long)shape[i],
                   i);
        t->shape[i] = shape[i];
        t->n *= shape[i];
    }
    a->n++;
    a->sorted = 0;
    if (out) *out = t;
    return NS_OK;
}

ns_status ns_arc_box_add(ns_archive *a, ns_arc_tensor *t, const ns_box *p, ns_error *err)
{
    for (int i = 0; i < t->nd; i++) {
        NS_FAIL_IF(p->off[i] < 0 || p->size[i] < 0 || p->off[i] > t->shape[i] || p->size[i] > t->shape[i] - p->off[i],
                   NS_ERR_INPUT, "%s: tensor \"%.200s\": a part at %lld of %lld along axis %d does not fit size %lld",
                   p->file ? p->file : a->where, t->name, (long long)p->off[i], (long long)p->size[i], i,
                   (long long)t->shape[i]);
    }
    NS_TRY(ns_grow((void **)&t->pieces, &t->cap_pieces, t->n_pieces + 1, sizeof *t->pieces, "archive", err), "%s",
           a->where);
    t->pieces[t->n_pieces++] = *p;
    return NS_OK;
}

void ns_box_dense(ns_box *p, int nd)
{
    int64_t s = 1;
    for (int i = nd; i-- > 0;) {
        p->stride[i] = s;
        s *= p->size[i];
    }
}

static int by_name(const void *a, const void *b)
{
    return strcmp(((const ns_arc_tensor *)a)->name, ((const ns_arc_tensor *)b)->name);
}

static int overlap(const ns_box *a, const ns_box *b, int nd)
{
    for (int i = 0; i < nd; i++)
        if (a->off[i] + a->size[i] <= b->off[i] || b->off[i] + b->size[i] <= a->off[i]) return 0;
    return 1;
}

static ns_status check_tensor(const ns_archive *a, const ns_arc_tensor *t, ns_error *err)
{
    int64_t sum = 0;
    for (size_t i = 0; i < t->n_pieces; i++) {
        int64_t n = 1;
        for (int k = 0; k < t->nd; k++) n *= t->pieces[i].size[k];
        sum += n;
        NS_FAIL_IF(sum > t->n, NS_ERR_INPUT, "%s: tensor \"%s\": its parts overlap", a->where, t->name);
        if (!n) continue;
        for (size_t j = i; j-- > 0 && t->n_pieces < 20000;)
            NS_FAIL_IF(overlap(&t->pieces[i], &t->pieces[j], t->nd), NS_ERR_INPUT,
                       "%s: tensor \"%s\": its parts overlap", a->where, t->name);
    }
    NS_FAIL_IF(sum != t->n, NS_ERR_INPUT, "%s: tensor \"%s\": %lld of %lld elements are in no file: a shard is missing",
               a->where, t->name, (long long)(t->n - sum), (long long)t->n);
    return NS_OK;
}

/* Bytes before element `at` (of a block type: of whole blocks). */
static size_t byte_at(const ns_arc_tensor *t, int64_t at)
{
    return t->q ? (size_t)(at / t->q->block * t->q->bytes) : (size_t)at * ns_dtype_size(t->dt);
}

/* 1: most pages of [p, p+n) are on the disk only; looked up at 16 places. Of files of others the system says nothing: 0. */
static int is_cold(const unsigned char *p, size_t n)
{
    int absent = 0, k = 16;
    unsigned char here = 1;
    if (n < FEW) return 0;
    for (int i = 0; i < k; i++) {
        uintptr_t at = ((uintptr_t)p + n / (size_t)k * (size_t)i) & ~(uintptr_t)(PAGE - 1);
        if (mincore((void *)at, PAGE, &here) != 0) return 0;
        absent += !(here & 1);
    }
    return absent > k / 2;
}

ns_status ns_archive_check(ns_archive *a, ns_error *err)
{
    if (a->n) qsort(a->t, a->n, sizeof *a->t, by_name);
    a->sorted = 1;
    for (size_t i = 0; i < a->n; i++) {
        NS_FAIL_IF(i && !strcmp(a->t[i].name, a->t[i - 1].name), NS_ERR_INPUT, "%s: tensor \"%s\" is there twice",
                   a->where, a->t[i].name);
        NS_TRY(check_tensor(a, &a->t[i], err), "%s", "");
        for (size_t k = 0; k < a->t[i].n_pieces; k++) {
            ns_box *p = &a->t[i].pieces[k];
            int64_t n = 1;
            for (int d = 0; d < a->t[i].nd; d++) n *= p->size[d];
            if (p->data && !p->packed && !p->wq && !p->cold) p->cold = is_cold(p->data, byte_at(&a->t[i], n));
        }
    }
    return NS_OK;
}

ns_arc_tensor *ns_archive_find(const ns_archive *a, const char *name)
{
    NS_ASSERT(a->sorted || !a->n);
    ns_arc_tensor key = {.name = name};
    return a->n ? bsearch(&key, a->t, a->n, sizeof *a->t, by_name) : NULL;
}

ns_status ns_archive_slice(ns_archive *a, ns_arc_tensor *dst, int64_t row0, const ns_arc_tensor *src, int64_t lead,
                           int64_t src_row0, int64_t n, ns_error *err)
{
    int k = lead >= 0;
    size_t size = ns_dtype_size(src->dt);
    NS_ASSERT(!src->q && (!src->n_pieces || !src->pieces[0].wq));
    NS_ASSERT(src->nd == dst->nd + k && src->dt == dst->dt && src_row0 + n <= src->shape[k]);
    for (size_t i = 0; i < src->n_pieces; i++) {
        const ns_box *p = &src->pieces[i];
        ns_box q = *p;
        if (k && (lead < p->off[0] || lead >= p->off[0] + p->size[0])) continue;
        int64_t r0 = p->off[k] > src_row0 ? p->off[k] : src_row0;
        int64_t r1 = p->off[k] + p->size[k] < src_row0 + n ? p->off[k] + p->size[k] : src_row0 + n;
        if (r0 >= r1) continue;
        for (int d = 0; d < dst->nd; d++) {
            q.off[d] = p->off[d + k];
            q.size[d] = p->size[d + k];
            q.stride[d] = p->stride[d + k];
        }
        q.off[0] = row0 + (r0 - src_row0);
        q.size[0] = r1 - r0;
        size_t skip = (size_t)((k ? (lead - p->off[0]) * p->stride[0] : 0) + (r0 - p->off[k]) * p->stride[k]) * size;
        if (p->data) q.data = p->data + skip;
        if (p->packed) q.skip = p->skip + skip;
        NS_TRY(ns_arc_box_add(a, dst, &q, err), "%s", "");
    }
    return NS_OK;
}

/* ---- values ---- */

/* Data of files need not be aligned. */
static void run_to_f32(const unsigned char *p, ns_dtype dt, int64_t n, float *out)
{
    size_t size = ns_dtype_size(dt);
    if ((uintptr_t)p % size == 0) {
        ns_to_f32(out, p, dt, (size_t)n);
        return;
    }
    double chunk[256];
    for (int64_t i = 0; i < n; i += 256) {
        int64_t k = n - i < 256 ? n - i : 256;
        memcpy(chunk, p + (size_t)i * size, (size_t)k * size);
        ns_to_f32(out + i, chunk, dt, (size_t)k);
    }
}

/* Before mapped bytes are read: their pages are brought in at once, and of a cold file the disk goes on with what probably follows,
 * at each border of AHEAD bytes. Hints: failure means nothing. */
static void pages_in(const unsigned char *p, size_t n, int cold)
{
    uintptr_t from = (uintptr_t)p & ~(uintptr_t)(PAGE - 1), to = (uintptr_t)p + n;
    if (cold && (to / AHEAD != from / AHEAD || from % AHEAD == 0))
        (void)!madvise((void *)(to / AHEAD * AHEAD), 3 * AHEAD, MADV_WILLNEED);
    if (n < FEW) return;
#ifdef MADV_POPULATE_READ
    if (madvise((void *)from, to - from, MADV_POPULATE_READ) == 0) return;
#endif
    (void)!madvise((void *)from, to - from, MADV_WILLNEED);
}

/* Afterwards they leave this process, with the neighbours in [lo, hi) that a fault brought along; of a cold file also the system's
 * cache, where they would push out what was just written. A thread that is reading there meets a fault again, no more. */
static void pages_out(const unsigned char *p, size_t n, const unsigned char *lo, const unsigned char *hi, int cold)
{
    uintptr_t first = ((uintptr_t)lo + PAGE - 1) / PAGE * PAGE, last = (uintptr_t)hi / PAGE * PAGE; /* ours alone */
    uintptr_t from = (uintptr_t)p / AROUND * AROUND, to = ((uintptr_t)p + n + AROUND - 1) / AROUND * AROUND;
    if (n < AROUND) return;
#ifdef MADV_PAGEOUT
    uintptr_t in = ((uintptr_t)p + PAGE - 1) / PAGE * PAGE, end = ((uintptr_t)p + n) / PAGE * PAGE;
    if (cold) (void)!madvise((void *)in, end - in, MADV_PAGEOUT);
#else
    (void)cold;
#endif
    if (from < first) from = first;
    if (to > last) to = last;
    if (from < to) (void)!madvise((void *)from, to - from, MADV_DONTNEED);
}

uint32_t ns_crc_stored(uint32_t sum, const unsigned char *p, uint64_t n)
{
    for (uint64_t at = 0, k; at < n; at += k) {
        k = n - at < CRC_STEP ? n - at : CRC_STEP;
        pages_in(p + at, (size_t)k, 0);
        sum = ns_crc32_more(sum, p + at, (size_t)k);
        pages_out(p + at, (size_t)k, p, p + n, 0);
    }
    return sum;
}

ns_status ns_crc_compare(ns_crc *c, const ns_arc_tensor *t, const char *file, uint32_t found, ns_error *err)
{
    NS_FAIL_IF(found != c->want, NS_ERR_INPUT,
               "%s: tensor \"%s\": checksum of its data is %08x, the file says %08x: damaged", file, t->name, found,
               c->want);
    atomic_store(&c->checked, 1);
    return NS_OK;
}

static ns_status verify(const ns_arc_tensor *t, const ns_box *p, ns_error *err)
{
    if (!p->crc || atomic_load(&p->crc->checked)) return NS_OK; /* two threads may both do it: the answer is the same */
    return ns_crc_compare(p->crc, t, p->file, ns_crc_stored(0, p->crc->base, p->crc->bytes), err);
}

/* n elements from `at` on. */
static void copy_row(const ns_box *p, const ns_arc_tensor *t, int64_t at, int64_t n, int64_t stride, ns_dtype dt,
                     void *out)
{
    size_t size = ns_dtype_size(t->dt), to = ns_dtype_size(dt);
    int raw = dt == t->dt && dt != NS_DTYPE_F32;
    if (!p->data) {
        memset(out, 0, (size_t)n * to);
    } else if (t->q) {
        ns_ggml_unpack(t->q, out, p->data + byte_at(t, at), n);
    } else if (stride == 1 && raw) {
        memcpy(out, p->data + (size_t)at * size, (size_t)n * size);
    } else if (stride == 1) {
        run_to_f32(p->data + (size_t)at * size, t->dt, n, out);
    } else {
        for (int64_t i = 0; i < n; i++) copy_row(p, t, at + i * stride, 1, 1, dt, (char *)out + (size_t)i * to);
    }
}

/* Where rows go: [n, cols] of type dt from row0 on, at index lead of a leading axis (a = 1) or without one. */
typedef struct rows_out {
    int a;
    int64_t lead, row0, n, cols;
    ns_dtype dt;
    char *out;
} rows_out;

/* From its first element to its last. */
static size_t box_bytes(const ns_arc_tensor *t, const ns_box *p)
{
    int64_t last = 0;
    for (int i = 0; i < t->nd; i++) last += (p->size[i] - 1) * p->stride[i];
    return byte_at(t, t->q ? (last / t->q->block + 1) * t->q->block : last + 1);
}

/* Whole rows, one behind the other: stored bytes are read as one run. */
static int is_run(const rows_out *w, const ns_arc_tensor *t, const ns_box *p)
{
    int a = w->a, has_cols = t->nd == a + 2;
    int64_t nc = has_cols ? p->size[a + 1] : 1;
    return !p->wq && nc == w->cols && p->stride[a] == nc && (!has_cols || p->stride[a + 1] == 1);
}

/* What box p (its data in memory) has of the wanted rows r0 <= r < r1. */
static ns_status box_rows(const rows_out *w, const ns_arc_tensor *t, const ns_box *p, int64_t r0, int64_t r1,
                          ns_error *err)
{
    int a = w->a, has_cols = t->nd == a + 2, mapped = p->data && !p->packed;
    int64_t c0 = has_cols ? p->off[a + 1] : 0, nc = has_cols ? p->size[a + 1] : 1;
    int64_t rs = p->stride[a], cs = has_cols ? p->stride[a + 1] : 1;
    size_t to = ns_dtype_size(w->dt);
    int64_t base = (a ? (w->lead - p->off[0]) * p->stride[0] : 0) + (r0 - p->off[a]) * rs;
    char *o = w->out + (size_t)((r0 - w->row0) * w->cols + c0) * to;
    if (p->wq) {
        for (int64_t r = r0; r < r1; r++, o += (size_t)w->cols * to)
            ns_wq_row(p->wq, p->wq_row + r - p->off[a], (float *)(void *)o);
        return NS_OK;
    }
    const unsigned char *q = mapped ? p->data + byte_at(t, base) : NULL; /* pages of memory of our own are not let go */
    if (is_run(w, t, p)) {
        ns_status st = NS_OK;
        size_t bytes = byte_at(t, (r1 - r0) * nc);
        if (q) pages_in(q, bytes, p->cold);
        copy_row(p, t, base, (r1 - r0) * nc, 1, w->dt, o);
        if (q && p->crc && p->crc->runs)
            st = ns_crc_note(t, p, q, w->dt == t->dt && !t->q ? (const void *)o : q, bytes, err);
        if (q) pages_out(q, bytes, p->data, p->data + box_bytes(t, p), p->cold);
        return st;
    }
    for (int64_t r = r0; r < r1; r++, base += rs, o += (size_t)w->cols * to) copy_row(p, t, base, nc, cs, w->dt, o);
    if (q) pages_out(q, byte_at(t, (r1 - r0 - 1) * rs + (nc - 1) * cs + 1), p->data, p->data + box_bytes(t, p), 0);
    return NS_OK;
}

ns_status ns_archive_rows_as(ns_arc_tensor *t, int64_t lead, int64_t row0, int64_t n, ns_dtype dt, void *out,
                             ns_error *err)
{
    int a = lead >= 0, has_cols = t->nd == a + 2;
    NS_ASSERT(t->nd == a + 1 || has_cols);
    NS_ASSERT(dt == NS_DTYPE_F32 || dt == t->dt);
    rows_out w = {a, lead, row0, n, has_cols ? t->shape[a + 1] : 1, dt, out};
    NS_ASSERT(row0 >= 0 && n >= 0 && row0 + n <= t->shape[a] && (!a || lead < t->shape[0]));
    NS_FAIL_IF(t->dt != NS_DTYPE_F32 && t->dt != NS_DTYPE_BF16 && t->dt != NS_DTYPE_F16 && t->dt != NS_DTYPE_F64,
               NS_ERR_UNSUPPORTED, "tensor \"%s\" has dtype %s, expected BF16, F16, F32 or F64", t->name,
               ns_dtype_name(t->dt));
    for (size_t i = 0; i < t->n_pieces; i++) {
        const ns_box *p = &t->pieces[i];
        if (a && (lead < p->off[0] || lead >= p->off[0] + p->size[0])) continue;
        int64_t r0 = p->off[a] > row0 ? p->off[a] : row0;
        int64_t r1 = p->off[a] + p->size[a] < row0 + n ? p->off[a] + p->size[a] : row0 + n;
        if (r0 >= r1 || (has_cols && !p->size[a + 1])) continue;
        if (!p->crc || !p->crc->runs || !is_run(&w, t, p)) NS_TRY(verify(t, p, err), "%s", "");
        ns_box here = *p;
        if (p->packed) {
            NS_TRY(ns_packed_acquire(p->packed, &here.data, err), "tensor \"%s\"", t->name);
            here.data += p->skip;
        }
        ns_status st = box_rows(&w, t, &here, r0, r1, err);
        if (p->packed) ns_packed_release(p->packed);
        if (st != NS_OK) return st;
    }
    return NS_OK;
}

ns_status ns_archive_rows(ns_arc_tensor *t, int64_t lead, int64_t row0, int64_t n, float *out, ns_error *err)
{
    return ns_archive_rows_as(t, lead, row0, n, NS_DTYPE_F32, out, err);
}
