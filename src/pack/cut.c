/* Context parallel: the tokens of a micro-batch dealt to `size` ranks (tensor/batch.h).
 *
 * Each segment of n tokens is cut at n k / (2 size), k = 0..2 size; rank r has the pieces r and 2 size - 1 - r: early tokens see few keys,
 * late ones many, so all ranks have about the same attention work (training.md 4.5). Any length is right: pieces may be empty. */
#include <string.h>

#include "base/mem.h"
#include "pack/sft_data.h"

/* How much more than n / size tokens of a segment of n one rank may have, times size: what rounding does depends on n mod 2 size. */
static int64_t excess(int size)
{
    const int64_t m = 2 * size;
    int64_t worst = 0;
    for (int64_t n = 0; n < m; n++)
        for (int64_t k = 0; k < size; k++) { /* pieces k and m - 1 - k, as piece_of cuts them */
            const int64_t own = n * (k + 1) / m - n * k / m + n * (m - k) / m - n * (m - 1 - k) / m;
            if (size * own - n > worst) worst = size * own - n;
        }
    return worst;
}

int32_t ns_batch_part_rows(int32_t T_cap, int32_t S_cap, int size)
{
    if (size == 1) return T_cap;
    int64_t rows = (T_cap + excess(size) * (S_cap < T_cap ? S_cap : T_cap)) / size;
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
    const size_t T2 = (size_t)p->batch.T_cap * sizeof(int32_t), all = (size_t)size * S2 * sizeof(int32_t);
    NS_CHECK(st, ns_alloc((void **)&p->to_block, T2, "batch.part", err), "%s", "part of a batch");
    NS_CHECK(st, ns_alloc((void **)&p->of_block, T2, "batch.part", err), "%s", "part of a batch");
    NS_CHECK(st, ns_alloc((void **)&p->ring_start, all, "batch.part", err), "%s", "part of a batch");
    NS_CHECK(st, ns_alloc((void **)&p->ring_len, all, "batch.part", err), "%s", "part of a batch");
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
    ns_free(p->to_block);
    ns_free(p->of_block);
    ns_free(p->ring_start);
    ns_free(p->ring_len);
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

static int32_t length(piece p)
{
    return p.to - p.from;
}

/* What my pieces r and 2 size - 1 - r of each segment see of the block of `from`, with the pieces from and 2 size - 1 - from: an earlier
 * piece all of it, the same piece as far as causal attention sees, a later one nothing. */
static void take_ring(ns_batch_part *p, const ns_batch *b, int rank, int size)
{
    const int32_t S = b->S_cap;
    for (int from = 0; from < size; from++) {
        int32_t *start = p->ring_start + (size_t)from * 2 * (size_t)S,
                *len = p->ring_len + (size_t)from * 2 * (size_t)S;
        for (int32_t s = 0, at = 0; s < S; s++) {
            const int live = s < b->n_seg;
            const int32_t early = live ? length(piece_of(b, s, from, size, 0)) : 0,
                          late = live ? length(piece_of(b, s, from, size, 1)) : 0;
            start[s] = start[S + s] = at;
            len[s] = from <= rank ? early : 0;
            len[S + s] = from >= rank ? early + late : early;
            at += early + late;
        }
    }
    for (int32_t t = 0; t < p->batch.T_cap; t++) p->to_block[t] = p->of_block[t] = -1;
    for (int32_t i = 0; i < 2 * S; i++) { /* segment i of mine is a piece of segment i mod S */
        const int32_t s = i % S, q0 = p->batch.cu_seqlens[i], n = p->batch.cu_seqlens[i + 1] - q0,
                      before = i < S || s >= b->n_seg ? 0 : length(piece_of(b, s, rank, size, 0)),
                      at = p->ring_start[(size_t)rank * 2 * (size_t)S + (size_t)s] + before;
        for (int32_t k = 0; k < n; k++) {
            p->to_block[q0 + k] = at + k;
            p->of_block[at + k] = q0 + k;
        }
    }
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
        p->kv_start[i] = b->n_tok; /* unused: behind all others */
        p->kv_len[i] = 0;
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
    take_ring(p, b, rank, size);
}
