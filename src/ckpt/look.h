/* Extremes and sum of a run of values: what a conversion's report says of each tensor. Sixteen lanes (element i in lane i % 16), so that
 * the order of additions is fixed: the same bits with and without vector instructions, and for bf16 as for the same values in f32.
 *     ns_extremes e; ns_look(&e, p, NS_DTYPE_BF16, n);          // n > 0; F32 or BF16, aligned to the element */
#ifndef NS_CKPT_LOOK_H
#define NS_CKPT_LOOK_H

#include <stdint.h>

#include "tensor/dtype.h"

typedef struct ns_extremes {
    double min, max, sum; /* a NaN counts in the sum only */
} ns_extremes;

void ns_look(ns_extremes *e, const void *p, ns_dtype dt, int64_t n);
/* level 0: plain C, 1: AVX2, 2: AVX-512 (at most what the processor has). For tests. */
void ns_look_with(int level, ns_extremes *e, const void *p, ns_dtype dt, int64_t n);
/* How far y (what was stored) is from x: adds the squared differences and the squares of x. */
void ns_look_errors(double *err2, double *sum2, const float *x, const float *y, int64_t n);
void ns_look_errors_with(int simd, double *err2, double *sum2, const float *x, const float *y, int64_t n); /* tests */
/* How many are finite in x and not in y. */
int64_t ns_look_lost(const float *x, const float *y, int64_t n);

#endif
