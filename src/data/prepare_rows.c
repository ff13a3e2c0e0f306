/* Rows within a memory budget: see prepare_rows.h.
 *
 * A run in the temporary file is a sequence of records {head, text}, in order. Merging takes the smallest head of all runs
 * from a binary heap; of equal keys the earlier run comes first, so that the order is stable. */
#include "data/prepare_rows.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "data/spill.h"

enum { CHUNK_BYTES = 1 << 20, MIN_RUN_BUF = 4 << 10, MAX_RUN_BUF = 1 << 20, MOST_ROWS = 8192 };

typedef struct record_head {
    ns_hash key;
    int64_t group, line;
    uint64_t n;
    int32_t file, flag;
} record_head;

typedef struct run {
    uint64_t at, end; /* unread part of the temporary file */
    char *buf;
    size_t pos, len, cap; /* unread part of buf */
    record_head head;     /* of the record at pos */
    int done;
} run;

struct ns_rows {
    ns_prepare *p;
    const char *what;
    int sorted, reading, given;
    int copies; /* every block that is given owns its text */
    size_t n_given;
    ns_buf *keep; /* texts that lines point into */
    size_t n_keep, keep_cap;
    ns_block all; /* the lines in memory */
    ns_buf chunk; /* of copied rows; moves to keep when it is full */
    size_t bytes; /* as counted in p->rows_bytes */
    size_t n;     /* rows added */
    ns_spill *file;
    run *run;
    size_t n_runs, runs_cap;
    size_t *heap, n_heap; /* numbers of runs; unsorted: heap[0] is the run that is read */
};

ns_status ns_rows_new(ns_rows **out, ns_prepare *p, const char *what, int sorted, ns_error *err)
{
    NS_TRY(ns_alloc((void **)out, sizeof **out, "prepare.rows", err), "%s", what);
    (*out)->p = p;
    (*out)->what = what;
    (*out)->sorted = sorted;
    return NS_OK;
}

static void count(ns_rows *r)
{
    size_t bytes = r->all.cap * sizeof *r->all.line + r->chunk.cap;
    for (size_t i = 0; i < r->n_keep; i++) bytes += r->keep[i].cap;
    r->p->rows_bytes += bytes - r->bytes;
    r->bytes = bytes;
}

static void drop_memory(ns_rows *r)
{
    for (size_t i = 0; i < r->n_keep; i++) ns_buf_free(&r->keep[i]);
    r->n_keep = 0;
    ns_buf_free(&r->chunk);
    ns_block_free(&r->all);
    count(r);
}

void ns_rows_free(ns_rows **pr)
{
    ns_rows *r = *pr;
    if (!r) return;
    drop_memory(r);
    ns_free(r->keep);
    for (size_t i = 0; i < r->n_runs; i++) ns_free(r->run[i].buf);
    ns_free(r->run);
    ns_free(r->heap);
    ns_spill_close(&r->file);
    ns_free(r);
    *pr = NULL;
}

size_t ns_rows_count(const ns_rows *r)
{
    return r->n;
}

int ns_rows_in_memory(const ns_rows *r)
{
    return r->n_runs == 0;
}

/* ---- ordering in memory ---- */
typedef struct place {
    uint64_t key, row;
} place;

static int ascending(const ns_block *b)
{
    for (size_t i = 1; i < b->n; i++)
        if (b->line[i].key.v[0] < b->line[i - 1].key.v[0]) return 0;
    return 1;
}

/* Stable: counts of eight bits at a time, from the lowest; bits that all keys share are passed over. Sorted places are in *a. */
static void sort_places(place **a, place **b, size_t n)
{
    uint64_t all = ~(uint64_t)0, any = 0;
    for (size_t i = 0; i < n; i++) {
        all &= (*a)[i].key;
        any |= (*a)[i].key;
    }
    for (int shift = 0; shift < 64; shift += 8) {
        size_t at[257] = {0};
        if (!((all ^ any) >> shift & 255)) continue;
        for (size_t i = 0; i < n; i++) at[((*a)[i].key >> shift & 255) + 1]++;
        for (int k = 0; k < 256; k++) at[k + 1] += at[k];
        for (size_t i = 0; i < n; i++) (*b)[at[(*a)[i].key >> shift & 255]++] = (*a)[i];
        place *t = *a;
        *a = *b;
        *b = t;
    }
}

static ns_status sort_lines(ns_rows *r, ns_error *err)
{
    ns_block *b = &r->all;
    place *order = NULL, *other = NULL;
    ns_line *line = NULL;
    ns_status st = NS_OK;
    if (!r->sorted || ascending(b)) return NS_OK;
    NS_CHECK(st, ns_alloc((void **)&order, b->n * sizeof *order, "prepare.order", err), "%s", r->what);
    NS_CHECK(st, ns_alloc((void **)&other, b->n * sizeof *order, "prepare.order", err), "%s", r->what);
    for (size_t i = 0; i < b->n; i++) order[i] = (place){b->line[i].key.v[0], i};
    sort_places(&order, &other, b->n);
    ns_free(other);
    other = NULL;
    NS_CHECK(st, ns_alloc((void **)&line, b->n * sizeof *line, "prepare.lines", err), "%s", r->what);
    for (size_t i = 0; i < b->n; i++) line[i] = b->line[order[i].row];
    ns_free(b->line);
    b->line = line;
    b->cap = b->n;
done:
    ns_free(order);
    ns_free(other);
    return st;
}

/* ---- to disk ---- */
static ns_status write_run(ns_rows *r, ns_error *err)
{
    if (!r->all.n) return NS_OK;
    if (!r->file) {
        if (!r->p->spills)
            NS_INFO("%s: more rows than ++memory holds (%.3g MB): they go to temporary files in %s", r->what,
                    (double)r->p->memory / 1e6, r->p->temp_dir);
        r->p->spills = 1;
        NS_TRY(ns_spill_open(&r->file, r->p->temp_dir, err), "%s", r->what);
    }
    NS_TRY(ns_grow((void **)&r->run, &r->runs_cap, r->n_runs + 1, sizeof *r->run, "prepare.runs", err), "%s", r->what);
    NS_TRY(sort_lines(r, err), "%s", r->what);
    run n = {.at = ns_spill_size(r->file)};
    for (size_t i = 0; i < r->all.n; i++) {
        const ns_line *l = &r->all.line[i];
        record_head h;
        memset(&h, 0, sizeof h);
        h = (record_head){l->key, l->group, l->line, l->n, l->file, l->flag};
        NS_TRY(ns_spill_write(r->file, &h, sizeof h, err), "%s", r->what);
        NS_TRY(ns_spill_write(r->file, l->p, l->n, err), "%s", r->what);
    }
    n.end = ns_spill_size(r->file);
    r->run[r->n_runs++] = n;
    drop_memory(r);
    return NS_OK;
}

/* Rows of this stage go to disk when all that is held exceeds the budget; not in crumbs, when others hold most of it. */
static ns_status keep_within(ns_rows *r, ns_error *err)
{
    count(r);
    if (r->p->rows_bytes + r->p->table_bytes <= r->p->memory || r->bytes < r->p->memory / 16) return NS_OK;
    return write_run(r, err);
}

static ns_status keep_text(ns_rows *r, ns_buf *text, ns_error *err)
{
    NS_TRY(ns_grow((void **)&r->keep, &r->keep_cap, r->n_keep + 1, sizeof *r->keep, "prepare.keep", err), "%s",
           r->what);
    r->keep[r->n_keep++] = *text;
    *text = (ns_buf){0};
    return NS_OK;
}

ns_status ns_rows_add(ns_rows *r, ns_block *b, ns_error *err)
{
    ns_block *all = &r->all;
    NS_ASSERT(!r->reading);
    NS_TRY(ns_grow((void **)&all->line, &all->cap, all->n + b->n, sizeof *all->line, "prepare.lines", err), "%s",
           r->what);
    if (b->text.data) NS_TRY(keep_text(r, &b->text, err), "%s", r->what);
    if (b->n) memcpy(all->line + all->n, b->line, b->n * sizeof *b->line);
    all->n += b->n;
    r->n += b->n;
    return keep_within(r, err);
}

ns_status ns_rows_add_copy(ns_rows *r, const ns_line *l, ns_error *err)
{
    ns_block *all = &r->all;
    NS_ASSERT(!r->reading);
    NS_TRY(ns_grow((void **)&all->line, &all->cap, all->n + 1, sizeof *all->line, "prepare.lines", err), "%s", r->what);
    if (r->chunk.data && r->chunk.cap - r->chunk.len <= l->n) NS_TRY(keep_text(r, &r->chunk, err), "%s", r->what);
    if (!r->chunk.data) {
        size_t most = r->p->memory / 64 < CHUNK_BYTES ? r->p->memory / 64 : CHUNK_BYTES;
        NS_TRY(ns_buf_reserve(&r->chunk, l->n < most ? most : l->n, err), "%s", r->what);
    }
    ns_line copy = *l; /* reserved: the chunk does not move */
    copy.p = r->chunk.data + r->chunk.len;
    NS_TRY(ns_buf_add(&r->chunk, l->p, l->n, err), "%s", r->what);
    all->line[all->n++] = copy;
    r->n++;
    return keep_within(r, err);
}

/* ---- and back ---- */
/* Makes n bytes of the run readable at buf + pos. */
static ns_status need(ns_rows *r, run *u, size_t n, ns_error *err)
{
    if (u->len - u->pos >= n) return NS_OK;
    memmove(u->buf, u->buf + u->pos, u->len - u->pos);
    u->len -= u->pos;
    u->pos = 0;
    if (n > u->cap) {
        NS_TRY(ns_realloc((void **)&u->buf, n, "prepare.run", err), "%s", r->what);
        u->cap = n;
    }
    size_t room = u->cap - u->len, left = (size_t)(u->end - u->at), k = room < left ? room : left;
    NS_TRY(ns_spill_read(r->file, u->at, u->buf + u->len, k, err), "%s", r->what);
    u->at += k;
    u->len += k;
    return NS_OK;
}

/* Reads the head of the next record. */
static ns_status advance(ns_rows *r, run *u, ns_error *err)
{
    u->done = u->at == u->end && u->pos == u->len;
    if (u->done) {
        ns_free(u->buf);
        u->buf = NULL;
        u->cap = u->len = u->pos = 0;
        return NS_OK;
    }
    NS_TRY(need(r, u, sizeof u->head, err), "%s", r->what);
    memcpy(&u->head, u->buf + u->pos, sizeof u->head);
    return need(r, u, sizeof u->head + (size_t)u->head.n, err);
}

static int comes_first(const ns_rows *r, size_t a, size_t b)
{
    uint64_t x = r->run[a].head.key.v[0], y = r->run[b].head.key.v[0];
    return r->sorted && x != y ? x < y : a < b;
}

static void sift(ns_rows *r, size_t i)
{
    for (;;) {
        size_t k = 2 * i + 1;
        if (k >= r->n_heap) return;
        if (k + 1 < r->n_heap && comes_first(r, r->heap[k + 1], r->heap[k])) k++;
        if (!comes_first(r, r->heap[k], r->heap[i])) return;
        size_t t = r->heap[i];
        r->heap[i] = r->heap[k];
        r->heap[k] = t;
        i = k;
    }
}

static ns_status start_run(ns_rows *r, run *u, size_t cap, ns_error *err)
{
    NS_TRY(ns_alloc((void **)&u->buf, cap, "prepare.run", err), "%s", r->what);
    u->cap = cap;
    return advance(r, u, err);
}

static ns_status start_merge(ns_rows *r, ns_error *err)
{
    NS_TRY(write_run(r, err), "%s", r->what);
    NS_TRY(ns_spill_flush(r->file, err), "%s", r->what);
    NS_TRY(ns_alloc((void **)&r->heap, r->n_runs * sizeof *r->heap, "prepare.runs", err), "%s", r->what);
    size_t cap = r->p->memory / 4 / r->n_runs;
    cap = cap < MIN_RUN_BUF ? MIN_RUN_BUF : cap > MAX_RUN_BUF ? MAX_RUN_BUF : cap;
    for (size_t i = 0; i < r->n_runs; i++) {
        if (r->sorted || !i) NS_TRY(start_run(r, &r->run[i], cap, err), "%s", r->what);
        r->heap[r->n_heap++] = i;
    }
    for (size_t i = r->n_heap / 2; r->sorted && i-- > 0;) sift(r, i);
    return NS_OK;
}

/* Takes the next record off its run. */
static ns_status take(ns_rows *r, ns_block *out, ns_error *err)
{
    run *u = &r->run[r->heap[0]];
    const record_head *h = &u->head;
    NS_TRY(ns_grow((void **)&out->line, &out->cap, out->n + 1, sizeof *out->line, "prepare.lines", err), "%s", r->what);
    out->line[out->n++] = (ns_line){
        .n = (size_t)h->n, .group = h->group, .file = h->file, .flag = h->flag, .line = h->line, .key = h->key};
    NS_TRY(ns_buf_add(&out->text, u->buf + u->pos + sizeof *h, (size_t)h->n, err), "%s", r->what);
    u->pos += sizeof *h + (size_t)h->n;
    NS_TRY(advance(r, u, err), "%s", r->what);
    if (u->done) {
        if (r->sorted) {
            r->heap[0] = r->heap[--r->n_heap];
        } else {
            memmove(r->heap, r->heap + 1, --r->n_heap * sizeof *r->heap);
            if (r->n_heap) NS_TRY(start_run(r, &r->run[r->heap[0]], MAX_RUN_BUF, err), "%s", r->what);
        }
    }
    if (r->sorted) sift(r, 0);
    return NS_OK;
}

static ns_status copy_one(ns_rows *r, ns_block *out, ns_error *err)
{
    const ns_line *l = &r->all.line[r->n_given++];
    NS_TRY(ns_grow((void **)&out->line, &out->cap, out->n + 1, sizeof *out->line, "prepare.lines", err), "%s", r->what);
    out->line[out->n++] = *l;
    return ns_buf_add(&out->text, l->p, l->n, err);
}

static ns_status give_table(ns_rows *r, ns_block *out, ns_error *err)
{
    if (r->given || !r->all.n) return NS_OK;
    NS_TRY(sort_lines(r, err), "%s", r->what);
    r->given = 1;
    out->line = r->all.line;
    out->n = r->all.n;
    out->cap = r->all.cap;
    r->all = (ns_block){0};
    return NS_OK;
}

ns_status ns_rows_next(ns_rows *r, ns_block *out, ns_error *err)
{
    size_t most = ns_prepare_block_bytes(r->p), at = 0;
    if (!r->reading && r->n_runs) NS_TRY(start_merge(r, err), "%s", r->what);
    r->reading = 1;
    if (!r->n_runs && !r->copies) return give_table(r, out, err);
    while (r->n_runs ? r->n_heap > 0 : r->n_given < r->all.n) {
        if (out->n == MOST_ROWS || out->text.len >= most) break;
        NS_TRY(r->n_runs ? take(r, out, err) : copy_one(r, out, err), "%s", r->what);
    }
    for (size_t i = 0; i < out->n; i++) {
        out->line[i].p = out->text.data ? out->text.data + at : "";
        at += out->line[i].n;
    }
    return NS_OK;
}

/* ---- keys seen ---- */
void ns_first_init(ns_first *f, ns_prepare *p, const char *what, int numbered)
{
    *f = (ns_first){.run = p, .what = what, .numbered = numbered};
}

static void drop_table(ns_first *f)
{
    f->run->table_bytes -= f->bytes;
    ns_free(f->slot);
    ns_free(f->number);
    f->slot = NULL;
    f->number = NULL;
    f->cap = f->n = f->bytes = 0;
}

void ns_first_free(ns_first *f)
{
    if (!f->run) return;
    drop_table(f);
    ns_rows_free(&f->now);
    ns_rows_free(&f->later);
}

static size_t find(const ns_hash *slot, size_t cap, ns_hash h)
{
    size_t k = (size_t)h.v[0] & (cap - 1);
    while ((slot[k].v[0] || slot[k].v[1]) && (slot[k].v[0] != h.v[0] || slot[k].v[1] != h.v[1]))
        k = (k + 1) & (cap - 1);
    return k;
}

/* Doubles the table, or freezes it: tables may take three quarters of the budget, old and new one counted while they move. */
static ns_status grow_table(ns_first *f, ns_error *err)
{
    size_t cap = f->cap ? 2 * f->cap : 16, each = sizeof *f->slot + (f->numbered ? sizeof *f->number : 0);
    if (f->cap && f->run->table_bytes + cap * each > f->run->memory / 4 * 3) {
        f->frozen = 1;
        return NS_OK;
    }
    ns_hash *slot = NULL;
    int64_t *number = NULL;
    ns_status st = NS_OK;
    NS_CHECK(st, ns_alloc((void **)&slot, cap * sizeof *slot, "prepare.keys", err), "%s", f->what);
    if (f->numbered) NS_CHECK(st, ns_alloc((void **)&number, cap * sizeof *number, "prepare.keys", err), "%s", f->what);
    for (size_t i = 0; i < f->cap; i++) {
        if (!f->slot[i].v[0] && !f->slot[i].v[1]) continue;
        size_t k = find(slot, cap, f->slot[i]);
        slot[k] = f->slot[i];
        if (number) number[k] = f->number[i];
    }
    size_t n = f->n;
    drop_table(f);
    f->slot = slot;
    f->number = number;
    f->cap = cap;
    f->n = n;
    f->bytes = cap * each;
    f->run->table_bytes += f->bytes;
    return NS_OK;
done:
    ns_free(slot);
    return st;
}

ns_status ns_first_see(ns_first *f, const ns_line *l, ns_seen *seen, int64_t *number, ns_error *err)
{
    ns_hash h = l->key;
    if (!h.v[0] && !h.v[1]) h.v[0] = 1;
    if (!f->frozen && (f->n + 1) * 3 > f->cap * 2) NS_TRY(grow_table(f, err), "%s", f->what);
    size_t k = find(f->slot, f->cap, h);
    int known = f->slot[k].v[0] || f->slot[k].v[1];
    if (!known && f->frozen) {
        *seen = NS_SEEN_LATER;
        if (!f->later) {
            NS_TRY(ns_rows_new(&f->later, f->run, f->what, 0, err), "%s", f->what);
            f->later->copies = 1; /* blocks are asked for until it is freed, and live on */
        }
        return ns_rows_add_copy(f->later, l, err);
    }
    if (!known) {
        f->slot[k] = h;
        f->n++;
        if (f->number) f->number[k] = f->next_number;
        f->next_number++;
    }
    if (number) *number = f->number[k];
    *seen = known ? NS_SEEN_AGAIN : NS_SEEN_NEW;
    return NS_OK;
}

ns_status ns_first_rest(ns_first *f, ns_block *out, ns_error *err)
{
    for (;;) {
        if (f->now) NS_TRY(ns_rows_next(f->now, out, err), "%s", f->what);
        if (out->n) return NS_OK;
        ns_rows_free(&f->now);
        drop_table(f); /* no key of it occurs among the rest */
        f->frozen = 0;
        if (!f->later) return NS_OK;
        f->now = f->later;
        f->later = NULL;
    }
}
