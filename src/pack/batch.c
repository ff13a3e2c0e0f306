/* Micro-batches: rows of an ns_examples laid end to end as packed segments (doc/batch.md).
 *
 * An example of n ids is a segment of n-1 tokens: input ids[p], label ids[p+1], weight 1 where id p+1 is a target, i.e.
 * p+1 >= answer_start, or mask[p+1] for chat rows. Invariants after ns_batch_fill: every array is written to its full
 * capacity (nothing of an earlier batch survives), label[t] = -1 exactly where weight[t] = 0, cu_seqlens is
 * non-decreasing. Rows -1 (padding of a last validation batch) and rows of fewer than two ids give no segment. */
#include <inttypes.h>
#include <string.h>

#include "base/mem.h"
#include "pack/sft_data.h"

ns_status ns_batch_new(ns_batch *b, int32_t T_cap, int32_t S_cap, ns_error *err)
{
    ns_status st = NS_OK;
    memset(b, 0, sizeof *b);
    NS_FAIL_IF(T_cap < 1 || S_cap < 1, NS_ERR_CONFIG, "micro-batch of %d tokens and %d segments", T_cap, S_cap);
    size_t T = (size_t)T_cap, S = (size_t)S_cap;
    b->T_cap = T_cap;
    b->S_cap = S_cap;
    NS_CHECK(st, ns_alloc((void **)&b->ids, T * sizeof *b->ids, "batch.ids", err), "batch");
    NS_CHECK(st, ns_alloc((void **)&b->label, T * sizeof *b->label, "batch.label", err), "batch");
    NS_CHECK(st, ns_alloc((void **)&b->weight, T * sizeof *b->weight, "batch.weight", err), "batch");
    NS_CHECK(st, ns_alloc((void **)&b->position, T * sizeof *b->position, "batch.position", err), "batch");
    NS_CHECK(st, ns_alloc((void **)&b->token, T * sizeof *b->token, "batch.token", err), "batch");
    NS_CHECK(st, ns_alloc((void **)&b->cu_seqlens, (S + 1) * sizeof *b->cu_seqlens, "batch.cu_seqlens", err), "batch");
    NS_CHECK(st, ns_alloc((void **)&b->example, S * sizeof *b->example, "batch.example", err), "batch");
    NS_CHECK(st, ns_alloc((void **)&b->pair, S * sizeof *b->pair, "batch.pair", err), "batch");
    NS_CHECK(st, ns_alloc((void **)&b->role, S * sizeof *b->role, "batch.role", err), "batch");
    NS_CHECK(st, ns_alloc((void **)&b->data_set, S * sizeof *b->data_set, "batch.data_set", err), "batch");
    NS_CHECK(st, ns_alloc((void **)&b->last, S * sizeof *b->last, "batch.last", err), "batch");
    for (int32_t t = 0; t < T_cap; t++) b->label[t] = -1;
    for (int32_t s = 0; s < S_cap; s++) b->example[s] = b->pair[s] = -1;
done:
    if (st != NS_OK) ns_batch_free(b);
    return st;
}

void ns_batch_free(ns_batch *b)
{
    if (!b) return;
    ns_free(b->ids);
    ns_free(b->label);
    ns_free(b->weight);
    ns_free(b->position);
    ns_free(b->token);
    ns_free(b->cu_seqlens);
    ns_free(b->example);
    ns_free(b->pair);
    ns_free(b->role);
    ns_free(b->data_set);
    ns_free(b->last);
    memset(b, 0, sizeof *b);
}

/* Is id q of example e a target? */
static inline int is_target(const ns_examples *ex, int64_t e, int64_t q)
{
    return ex->mask ? ex->mask[ex->start[e] + q] != 0 : q >= ex->answer_start[e];
}

static void clear_tail(ns_batch *b, int32_t t, int32_t s)
{
    b->n_tok = t;
    b->n_seg = s;
    for (int32_t i = t; i < b->T_cap; i++) {
        b->ids[i] = b->position[i] = 0;
        b->token[i] = 0;
        b->label[i] = -1;
        b->weight[i] = 0.0f;
    }
    for (int32_t i = s; i < b->S_cap; i++) {
        b->cu_seqlens[i + 1] = t;
        b->example[i] = b->pair[i] = -1;
        b->role[i] = b->data_set[i] = b->last[i] = 0;
    }
}

ns_status ns_batch_fill(ns_batch *b, const ns_examples *ex, const int64_t *rows, int64_t n_rows, ns_error *err)
{
    int32_t t = 0, s = 0;
    int64_t n_targets = 0;
    b->max_len = 0;
    b->cu_seqlens[0] = 0;
    for (int64_t i = 0; i < n_rows; i++) {
        int64_t e = rows[i];
        if (e == -1) continue;
        NS_FAIL_IF(e < 0 || e >= ex->n, NS_ERR_INTERNAL, "row %" PRId64 " of a data set of %" PRId64 " rows", e, ex->n);
        const int32_t *ids = ex->ids + ex->start[e];
        int64_t len = ns_examples_len(ex, e) - 1;
        if (len < 1) continue;
        NS_FAIL_IF(s == b->S_cap, NS_ERR_INTERNAL, "micro-batch is full: capacity %d segments, %" PRId64 " rows given",
                   b->S_cap, n_rows);
        NS_FAIL_IF(len > b->T_cap - t, NS_ERR_INTERNAL,
                   "micro-batch is full: capacity %d tokens, %d used, row %" PRId64 " needs %" PRId64, b->T_cap, t, e,
                   len);
        for (int32_t p = 0; p < (int32_t)len; p++) {
            int target = is_target(ex, e, p + 1);
            b->ids[t + p] = ids[p];
            b->label[t + p] = target ? ids[p + 1] : -1;
            b->weight[t + p] = target ? 1.0f : 0.0f;
            b->position[t + p] = p;
            b->token[t + p] = (uint32_t)(ex->start[e] + p);
            n_targets += target;
        }
        t += (int32_t)len;
        b->example[s] = e;
        b->pair[s] = -1;
        b->role[s] = b->data_set[s] = 0;
        b->last[s] = t - 1;
        b->cu_seqlens[++s] = t;
        if ((int32_t)len > b->max_len) b->max_len = (int32_t)len;
    }
    clear_tail(b, t, s);
    b->weight_sum = (double)n_targets;
    return NS_OK;
}

double ns_examples_targets(const ns_examples *ex, const int64_t *rows, int64_t n_rows)
{
    int64_t n = 0;
    for (int64_t i = 0; i < n_rows; i++) {
        if (rows[i] < 0) continue;
        if (ex->targets) {
            n += ex->targets[rows[i]];
            continue;
        }
        int64_t len = ns_examples_len(ex, rows[i]);
        for (int64_t q = 1; q < len; q++) n += is_target(ex, rows[i], q);
    }
    return (double)n;
}

void ns_batch_capacity(const ns_examples *ex, int64_t mbs, int64_t mult, int32_t *T_cap, int32_t *S_cap)
{
    if (mult < 1) mult = 1;
    int64_t len = ex->longest > 1 ? ex->longest - 1 : 1;
    /* absurd settings saturate: the memory plan then refuses them by name */
    int64_t most = (INT32_MAX - mult) / len;
    if (mbs < 1) mbs = 1;
    if (mbs > most) mbs = most;
    *T_cap = (int32_t)((mbs * len + mult - 1) / mult * mult);
    *S_cap = (int32_t)mbs;
}
