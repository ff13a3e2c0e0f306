/* Cuts the rows of one global batch into micro-batches of at most T_cap tokens and S_cap segments.
 *
 * by tokens (the default): first-fit decreasing, so that micro-batches are nearly full whatever the row lengths; the loss
 * is divided by the targets of the whole step, so the cut does not change it. by rows: exactly mbs rows each, in order (the
 * original's cut, needed for loss=micro_batch). Depends on the rows alone: resume and repetition give the same cut. */
#ifndef NS_PACK_MICROBATCH_H
#define NS_PACK_MICROBATCH_H

#include "pack/sft_data.h"

typedef struct ns_mb_split {
    int64_t *rows;  /* [n_rows], grouped by micro-batch */
    int64_t *start; /* [n_micro+1] */
    int64_t n_micro;
    int64_t cap; /* rows that fit the arrays */
    int64_t *scratch;
} ns_mb_split;

NS_MUST_USE ns_status ns_split_new(ns_mb_split *s, int64_t max_rows, ns_error *err);
void ns_split_free(ns_mb_split *s);
/* rows with a negative number (padding of a short batch) are left out. Err: a row longer than T_cap + 1 ids. */
NS_MUST_USE ns_status ns_split_batch(ns_mb_split *s, const ns_examples *ex, const int64_t *rows, int64_t n_rows,
                                     int64_t mbs, int by_rows, int32_t T_cap, int32_t S_cap, ns_error *err);

#endif
