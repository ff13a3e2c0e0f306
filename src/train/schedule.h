/* Learning rate "CosineAnnealing" and "constant" (training.md §2.12), as pure functions of the number of completed steps. */
#ifndef NS_TRAIN_SCHEDULE_H
#define NS_TRAIN_SCHEDULE_H

#include <stdint.h>

#include "base/error.h"

typedef struct ns_schedule {
    double lr, min_lr;
    int64_t max_steps, warmup, constant; /* S, w, c */
    int flat;                            /* sched.name constant: lr throughout, after warm-up */
} ns_schedule;

/* Err: NS_ERR_CONFIG when lr < min_lr (or = with a constant phase), or a length is negative. */
NS_MUST_USE ns_status ns_schedule_check(const ns_schedule *s, ns_error *err);
double ns_schedule_lr(const ns_schedule *s, int64_t completed); /* for the step after `completed` steps */

#endif
