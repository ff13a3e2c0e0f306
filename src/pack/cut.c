/* Context parallel: the tokens of a micro-batch dealt to `size` ranks (tensor/batch.h).
 *
 * Each segment of n tokens is cut at n k / (2 size), k = 0..2 size; rank r has the pieces r and 2 size - 1 - r: early tokens see few keys,
 * late ones many, so all ranks have about the same attention work (training.md 4.5). Any length is right: pieces may be empty. */
#include <string.h>

#include "base/mem.h"
#include "pack/sft_data.h"

int32_t ns_batch_part_rows(int32_t T_cap, int32_t S_cap, int size)
{
    if (size == 1) return T_cap;
    int64_t rows = T_cap / size + 2 * (int64_t)(S_cap < T_cap ? S_cap : T_cap); /* each piece rounds by less than one */
    return rows < T_cap ? (int32_t)((rows + 127) / 128 * 128) : T_cap;
}

ns_status ns_batch_part_new(ns_batch_part *p, int32_t T_cap, int32_t S_cap, int size, ns_error *err)
{
    ns_status st = NS_OK;
    memset(p, 0, sizeof *p);
    size_t S2 = 2 * (size_t)S_cap;
    NS_CHECK(st, ns_batch_new(&p->batch, ns_batch_part_rows(T_cap, S_cap, size), 2 * S_cap, err), "%s",
             "part of a batch");
    p->T_whole = T_cap;
    NS_CHECK(st, ns_alloc((void **)&p->kv_start, S2 * sizeof(int32_t), "batch.part", err), "%s", "part of a batch");
    NS_CHECK(st, ns_alloc((void **)&p->kv_len, S2 * sizeof(int32_t), "batch.part", err), "%s", "part of a batch");
    NS_CHECK(st,
             ns_alloc((void **)&p->kv_row, (size_t)size * (size_t)p->batch.T_cap * sizeof(int32_t), "batch.part", err),
             "%s", "part of a batch");
    NS_CHECK(st, ns_alloc((void **)&p->own_row, (size_t)T_cap * sizeof(int32_t), "batch.part", err), "%s",
             "part of a batch");
done:
    if (st != NS_OK) ns_batch_part_free(p);
    return st;
}

void ns_batch_part_free(ns_batch_part *p)
{
    ns_batch_free(&p->batch);
    ns_free(p->kv_start);
    ns_free(p->kv_len);
    ns_free(p->kv_row);
    ns_free(p->own_row);
    memset(p, 0, sizeof *p);
}

typedef struct piece {
    int32_t from, to; /* tokens of the whole batch */
} piece;

/* Half 0: piece r of segment s; half 1: its mirror image. */
static piece piece_of(const ns_batch *b, int32_t s, int rank, int size, int half)
{
    int64_t a = b->cu_seqlens[s], n = b->cu_seqlens[s + 1] - a, k = half ? 2 * size - 1 - rank : rank;
    return (piece){(int32_t)(a + n * k / (2 * size)), (int32_t)(a + n * (k + 1) / (2 * size))};
}

static int32_t rows_of(const ns_batch *b, int rank, int size)
{
    int32_t n = 0;
    for (int32_t s = 0; s < b->n_seg; s++)
        for (int half = 0; half < 2; half++) {
            piece p = piece_of(b, s, rank, size, half);
            n += p.to - p.from;
        }
    return n;
}

/* Tokens of my pieces, first halves of all segments before the second ones: two runs of segments for attention. */
static void take_tokens(ns_batch_part *p, const ns_batch *b, int rank, int size)
{
    ns_batch *d = &p->batch;
    const int32_t S = b->S_cap;
    int32_t t = 0;
    d->weight_sum = 0;
    d->cu_seqlens[0] = 0;
    for (int32_t i = 0; i < 2 * S; i++) {
        int32_t s = i % S;
        p->kv_start[i] = p->kv_len[i] = 0;
        if (s < b->n_seg) {
            piece c = piece_of(b, s, rank, size, i >= S);
            size_t n = (size_t)(c.to - c.from);
            memcpy(d->ids + t, b->ids + c.from, n * 4);
            memcpy(d->label + t, b->label + c.from, n * 4);
            memcpy(d->weight + t, b->weight + c.from, n * 4);
            memcpy(d->position + t, b->position + c.from, n * 4);
            memcpy(d->token + t, b->token + c.from, n * 4);
            for (size_t k = 0; k < n; k++) {
                d->weight_sum += (double)d->weight[(size_t)t + k];
                p->own_row[(size_t)c.from + k] = t + (int32_t)k;
            }
            p->kv_start[i] = b->cu_seqlens[s];
            p->kv_len[i] = c.to - b->cu_seqlens[s]; /* keys up to the end of the piece: causal within it */
            t += (int32_t)n;
        }
        d->cu_seqlens[i + 1] = t;
    }
    d->n_tok = t;
    d->n_seg = 2 * S;
    d->max_len = b->max_len;
    for (int32_t i = t; i < d->T_cap; i++) {
        d->ids[i] = d->position[i] = 0;
        d->token[i] = 0;
        d->label[i] = -1;
        d->weight[i] = 0;
    }
}

void ns_batch_cut(ns_batch_part *p, const ns_batch *b, int rank, int size)
{
    NS_ASSERT(p->T_whole == b->T_cap && p->batch.S_cap == 2 * b->S_cap);
    p->n_whole = b->n_tok;
    p->rows = 1;
    for (int32_t t = 0; t < b->T_cap; t++) p->own_row[t] = -1;
    for (int r = 0; r < size; r++) {
        int32_t n = rows_of(b, r, size);
        if (n > p->rows) p->rows = n;
    }
    NS_ASSERT(p->rows <= p->batch.T_cap);
    for (int r = 0; r < size; r++) { /* row r * rows + t of what all ranks send is token kv_row[..] of the whole */
        int32_t *row = p->kv_row + (size_t)r * (size_t)p->rows, t = 0;
        for (int half = 0; half < 2; half++)
            for (int32_t s = 0; s < b->n_seg; s++) {
                piece c = piece_of(b, s, r, size, half);
                for (int32_t k = c.from; k < c.to; k++) row[t++] = k;
            }
        while (t < p->rows) row[t++] = -1;
    }
    take_tokens(p, b, rank, size);
}
