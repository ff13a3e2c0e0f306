/* Bin assignment: which samples share a pack (data.md §5.3).
 *
 *     ns_bins b;
 *     NS_TRY(ns_bins_assign(&b, len, n, 16384, NS_PACK_FIRST_FIT_SHUFFLE, seed, err), "assign");
 *     for (int64_t k = b.start[i]; k < b.start[i + 1]; k++) use(b.item[k]);    // the samples of pack i, in order
 *     ns_bins_free(&b);
 *
 * first_fit_shuffle and first_fit_decreasing give the original's packs for NumPy's generator seeded with `seed` just
 * before; best_fit (longest first into the fullest pack that has room) is ours and draws nothing. O(n log n), no more than
 * 64 bytes a sample. */
#ifndef NS_PACK_BINS_H
#define NS_PACK_BINS_H

#include <stdint.h>

#include "base/error.h"

typedef enum ns_pack_algorithm {
    NS_PACK_FIRST_FIT_SHUFFLE,
    NS_PACK_FIRST_FIT_DECREASING,
    NS_PACK_BEST_FIT
} ns_pack_algorithm;

typedef struct ns_bins {
    int64_t n;      /* packs */
    int64_t *start; /* [n+1] */
    int64_t *item;  /* samples */
} ns_bins;

/* len[i] in 0..pack, pack < 2^30. Err: NS_ERR_INTERNAL for another length: the caller checks and names the row. */
NS_MUST_USE ns_status ns_bins_assign(ns_bins *out, const int32_t *len, int64_t n, int32_t pack, ns_pack_algorithm how,
                                     uint32_t seed, ns_error *err);
/* The same in chunks of at most `chunk` samples, each packed by itself with seed, seed + 1, ...: what ns pack does. */
NS_MUST_USE ns_status ns_bins_assign_chunks(ns_bins *out, const int32_t *len, int64_t n, int32_t pack,
                                            ns_pack_algorithm how, uint32_t seed, int64_t chunk, ns_error *err);
void ns_bins_free(ns_bins *b);
/* "first_fit_shuffle", "first_fit_decreasing", "best_fit"; 0: none of them. */
int ns_pack_algorithm_parse(ns_pack_algorithm *out, const char *name);

#endif
