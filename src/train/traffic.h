/* The bytes that a rank sends in a step, as formulas. comm.h counts what is really sent; every run compares the two at its end, and
 * `ns plan` predicts with them.
 *
 *     ns_traffic f = ns_traffic_of(engine, ranks);
 *     ns_traffic_micro(&f, T, cp_rows, n_whole, bytes);    // one micro-batch, forward and backward
 *     ns_traffic_update(&f, &engine, bytes);               // gradients, weights, numbers
 *
 * A sum of n values over g ranks: reduce-scatter n - p, all-gather p (g-1), with p the own piece. */
#ifndef NS_TRAIN_TRAFFIC_H
#define NS_TRAIN_TRAFFIC_H

#include "model/engine.h"
#include "train/ranks.h"

typedef struct ns_traffic { /* a rank's place */
    int world, tp, tp_rank, cp, cp_rank, grads, stages, stage;
    int first, last;          /* stage has the embedding; the head */
    int ring;                 /* context parallel by turns */
    int stream_split;         /* sequence parallel */
    int64_t layers, repeated; /* of this stage; of them those whose forward runs again in the backward */
    int64_t C, kv, es;        /* hidden; k and v of a token on this rank; bytes of an activation */
} ns_traffic;

ns_traffic ns_traffic_of(const ns_engine *e, const ns_ranks *r);
/* Adds to bytes[NS_COMM_N_KINDS]. cp_rows, n_whole: ns_batch_part's, with context parallel. */
void ns_traffic_micro(const ns_traffic *f, int64_t T, int64_t cp_rows, int64_t n_whole, uint64_t *bytes);
void ns_traffic_update(const ns_traffic *f, const ns_engine *e, uint64_t *bytes);

#endif
