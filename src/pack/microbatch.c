/* First-fit decreasing over at most a few thousand rows a step: a linear scan of the open bins is fast enough (512 rows: 20 us). */
#include "pack/microbatch.h"

#include <inttypes.h>
#include <string.h>

#include "base/mem.h"

ns_status ns_split_new(ns_mb_split *s, int64_t max_rows, ns_error *err)
{
    memset(s, 0, sizeof *s);
    s->cap = max_rows;
    size_t n = (size_t)max_rows + 1;
    ns_status st = ns_alloc((void **)&s->rows, n * 8, "split", err);
    if (st == NS_OK) st = ns_alloc((void **)&s->start, n * 8, "split", err);
    if (st == NS_OK) st = ns_alloc((void **)&s->scratch, 5 * n * 8, "split", err);
    return st;
}

void ns_split_free(ns_mb_split *s)
{
    ns_free(s->rows);
    ns_free(s->start);
    ns_free(s->scratch);
    memset(s, 0, sizeof *s);
}

static int64_t tokens(const ns_examples *ex, int64_t row)
{
    int64_t n = ns_examples_len(ex, row) - 1;
    return n > 0 ? n : 0;
}

/* Longest first; equal lengths keep their order. `tmp` has room for n. Merge sort: stable, no allocation. */
static void sort_by_length(const ns_examples *ex, int64_t *v, int64_t *tmp, int64_t n)
{
    for (int64_t w = 1; w < n; w *= 2) {
        for (int64_t lo = 0; lo < n; lo += 2 * w) {
            int64_t mid = lo + w < n ? lo + w : n, hi = lo + 2 * w < n ? lo + 2 * w : n, i = lo, j = mid, k = lo;
            while (i < mid && j < hi) tmp[k++] = tokens(ex, v[i]) >= tokens(ex, v[j]) ? v[i++] : v[j++];
            while (i < mid) tmp[k++] = v[i++];
            while (j < hi) tmp[k++] = v[j++];
        }
        memcpy(v, tmp, (size_t)n * 8);
    }
}

static void first_fit(ns_mb_split *s, const ns_examples *ex, int64_t n, int32_t T_cap, int32_t S_cap)
{
    int64_t *order = s->scratch, *tmp = order + s->cap, *bin = tmp + s->cap, *room = bin + s->cap,
            *count = room + s->cap;
    s->n_micro = 0;
    for (int64_t i = 0; i < n; i++) {
        int64_t len = tokens(ex, order[i]), b = 0;
        while (b < s->n_micro && (room[b] < len || count[b] >= S_cap)) b++;
        if (b == s->n_micro) {
            room[b] = T_cap;
            count[b] = 0;
            s->n_micro++;
        }
        room[b] -= len;
        count[b]++;
        bin[i] = b;
    }
    s->start[0] = 0;
    for (int64_t b = 0; b < s->n_micro; b++) s->start[b + 1] = s->start[b] + count[b];
    memcpy(tmp, s->start, (size_t)s->n_micro * 8);
    for (int64_t i = 0; i < n; i++) s->rows[tmp[bin[i]]++] = order[i];
}

ns_status ns_split_batch(ns_mb_split *s, const ns_examples *ex, const int64_t *rows, int64_t n_rows, int64_t mbs,
                         int by_rows, int32_t T_cap, int32_t S_cap, ns_error *err)
{
    NS_ASSERT(n_rows <= s->cap);
    int64_t n = 0;
    for (int64_t i = 0; i < n_rows; i++) {
        if (rows[i] < 0) continue;
        NS_FAIL_IF(tokens(ex, rows[i]) > T_cap, NS_ERR_INTERNAL,
                   "row %" PRId64 " has %" PRId64 " tokens, a micro-batch holds %d", rows[i], tokens(ex, rows[i]),
                   T_cap);
        s->scratch[n++] = rows[i];
    }
    if (by_rows) {
        memcpy(s->rows, s->scratch, (size_t)n * 8);
        s->n_micro = (n + mbs - 1) / mbs;
        for (int64_t b = 0; b <= s->n_micro; b++) s->start[b] = b * mbs < n ? b * mbs : n;
        return NS_OK;
    }
    sort_by_length(ex, s->scratch, s->scratch + s->cap, n);
    first_fit(s, ex, n, T_cap, S_cap);
    return NS_OK;
}
