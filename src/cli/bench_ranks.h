/* A step of `ns bench train` over several ranks: the same engine, groups, pipeline and exchanges as `ns sft`, without its data.
 *
 *     NS_TRY(bench_ranks_layout(&r, &ask, &model_options, err), "layout");       // where this rank stands; before the plan
 *     NS_TRY(bench_ranks_start(&r, &engine, overlap, err), "start");             // meets the others; before the first step
 *     NS_TRY(bench_ranks_batch(&r, &batch, err), "batch");                       // then its part of it, under context parallel
 *     NS_TRY(bench_ranks_step(&r, &step, micro, hold, hold_user, err), "step");  // zero to gathered weights; enqueued, not waited for
 *     bench_ranks_close(&r);                                                     // before the engine is freed
 *
 * With one rank every exchange returns at once. */
#ifndef NS_CLI_BENCH_RANKS_H
#define NS_CLI_BENCH_RANKS_H

#include "pack/sft_data.h"
#include "train/overlap.h"
#include "train/pipeline.h"
#include "train/ranks.h"

typedef struct bench_layout {
    int64_t devices, tp, cp, pp;
    int ring, split_stream; /* cp by turns; sequence parallel */
    int overlap;
} bench_layout;

typedef struct bench_ranks {
    ns_ranks ranks;
    ns_engine *engine;
    ns_overlap *overlap;
    const ns_batch *batch;
    ns_batch_part part;
    int64_t micro, *rows, entered; /* of the step under way */
} bench_ranks;

/* What exchanges cost, of one step: bytes that this rank sends, by kind; what its links carry when nothing else runs. */
typedef struct bench_traffic {
    uint64_t sent[NS_COMM_N_KINDS];
    double link; /* bytes a second that a rank sends in a large gathering */
} bench_traffic;

/* Sets the parallel part of m; T and S: capacity of the whole micro-batch. */
NS_MUST_USE ns_status bench_ranks_layout(bench_ranks *r, const bench_layout *l, int64_t T, int64_t S, int64_t micro,
                                         ns_model_options *m, ns_error *err);
NS_MUST_USE ns_status bench_ranks_start(bench_ranks *r, ns_engine *e, const bench_layout *l, ns_error *err);
NS_MUST_USE ns_status bench_ranks_batch(bench_ranks *r, const ns_batch *batch, int64_t micro, ns_error *err);
/* hold: called before the update (a snapshot), or NULL. s: in, scalars of the step; out, when the device is done, with the loss. */
NS_MUST_USE ns_status bench_ranks_step(bench_ranks *r, ns_step *s, void (*hold)(void *user), void *user, ns_error *err);
void bench_ranks_sent(const bench_ranks *r, uint64_t *out); /* so far */
/* Between steps, after the last: it overwrites gradients. */
NS_MUST_USE ns_status bench_ranks_link(bench_ranks *r, double *bytes_a_second, ns_error *err);
void bench_ranks_close(bench_ranks *r);

#endif
