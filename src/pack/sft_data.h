/* SFT rows -> tokens -> micro-batches (data.md §4, DESIGN.md §3).
 *
 *   rows (data/rows.h: detected format) -> examples {ids, answer_start} -> sampler order (global batches) -> micro-batches
 *
 * An example of n ids gives a segment of n-1 tokens: ids[0..n-2], label ids[1..n-1], weight 1 where p+1 >= answer_start. */
#ifndef NS_PACK_SFT_DATA_H
#define NS_PACK_SFT_DATA_H

#include <stdint.h>

#include "base/error.h"
#include "data/rows.h"
#include "tensor/batch.h"

typedef enum ns_sampler_kind { NS_SAMPLER_GLOBAL, NS_SAMPLER_MEGATRON, NS_SAMPLER_SEQUENTIAL } ns_sampler_kind;
typedef struct ns_sampler {
    ns_sampler_kind kind;
    int64_t n_rows, gbs, mbs, dp;
    uint64_t seed;
    /* cached permutation of the present epoch */
    int64_t epoch, *perm, n_perm;
} ns_sampler;
/* Writes the gbs example numbers of the global batch that starts after `consumed` samples (-1: padding of a last short
 * validation batch). global: reference order for dp = 1, mbs = 1. Err: n_rows < gbs, gbs not divisible by mbs*dp. */
NS_MUST_USE ns_status ns_sampler_init(ns_sampler *s, ns_sampler_kind kind, int64_t n_rows, int64_t gbs, int64_t mbs,
                                      int64_t dp, uint64_t seed, ns_error *err);
NS_MUST_USE ns_status ns_sampler_batch(ns_sampler *s, int64_t consumed, int64_t *out, ns_error *err);
void ns_sampler_free(ns_sampler *s);

/* Cuts one global batch into micro-batches for one rank: mbs rows each, as packed segments without padding, T_cap fixed.
 * Fills b (arrays of capacity T_cap/S_cap allocated by ns_batch_new). */
NS_MUST_USE ns_status ns_batch_new(ns_batch *b, int32_t T_cap, int32_t S_cap, ns_error *err);
void ns_batch_free(ns_batch *b);
NS_MUST_USE ns_status ns_batch_fill(ns_batch *b, const ns_examples *ex, const int64_t *rows, int64_t n_rows,
                                    ns_error *err);
/* Sum of target weights of those rows (counted before the first forward). */
/* Context parallel (cut.c). p was made for the capacities of b and the same size. */
int32_t ns_batch_part_rows(int32_t T_cap, int32_t S_cap, int size); /* capacity of a part: T_cap / size and rounding */
NS_MUST_USE ns_status ns_batch_part_new(ns_batch_part *p, int32_t T_cap, int32_t S_cap, int size, ns_error *err);
void ns_batch_part_free(ns_batch_part *p);
void ns_batch_cut(ns_batch_part *p, const ns_batch *b, int rank, int size);

double ns_examples_targets(const ns_examples *ex, const int64_t *rows, int64_t n_rows);
/* Smallest T_cap (multiple of `mult`) that holds every run of `mbs` rows of any order (mbs * longest), and S_cap = mbs. */
void ns_batch_capacity(const ns_examples *ex, int64_t mbs, int64_t mult, int32_t *T_cap, int32_t *S_cap);

#endif
