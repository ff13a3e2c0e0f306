/* A space hands out buffers twice: first fake addresses while a step is recorded, then real ones (doc/plan.md).
 *
 *     ns_space *s; ns_space_new(&s, err);
 *     x = ns_space_take(s, "act.l0.h", bytes, NS_LIFE_STEP);   // fake address: never dereferenced
 *     ... run the step's loops on ns_ops_plan (exec.plan = ns_space_plan(s)) ...
 *     ns_space_fit(s, &total, err);                             // offsets by lifetime; print the table; refuse or go on
 *     ns_space_bind(s, memory);                                 // then the SAME take calls, in the same order, give real pointers
 *
 * LIFE_RUN buffers live for the whole run; LIFE_STEP buffers share memory when the recorded uses do not overlap.
 * The i-th take after bind must have the label and size of the i-th take before: checked (NS_ASSERT). */
#ifndef NS_OPS_SPACE_H
#define NS_OPS_SPACE_H

#include <stdint.h>

#include "base/buf.h"
#include "base/error.h"

typedef enum ns_life { NS_LIFE_RUN, NS_LIFE_STEP } ns_life;
typedef struct ns_space ns_space;
typedef struct ns_plan ns_plan; /* the plan back-end's record: ns_exec.plan */

NS_MUST_USE ns_status ns_space_new(ns_space **out, ns_error *err);
void ns_space_free(ns_space **s);
/* 64-byte aligned; bytes 0 gives NULL. `label`: "group.name" (copied); the group is what the table sums by. Allocation
 * failure is remembered and reported by ns_space_fit. */
void *ns_space_take(ns_space *s, const char *label, int64_t bytes, ns_life life);
ns_plan *ns_space_plan(ns_space *s);
/* Assigns offsets. *total = bytes of the one block that must be allocated. */
NS_MUST_USE ns_status ns_space_fit(ns_space *s, int64_t *total, ns_error *err);
void ns_space_bind(ns_space *s, void *memory);

/* ---- what was recorded ---- */
void ns_plan_touch(ns_plan *p, const void *addr, int64_t bytes); /* a use of [addr, addr+bytes) at the present op */
void ns_plan_op(ns_plan *p, const char *op, double flops, double bytes); /* the next op begins */
typedef struct ns_plan_totals {
    double flops, bytes; /* arithmetic and memory traffic of the recorded ops */
    int64_t n_ops, run_bytes, step_bytes, step_bytes_unshared, total_bytes;
} ns_plan_totals;
ns_plan_totals ns_plan_get_totals(const ns_plan *p);
int ns_plan_get_op(const ns_plan *p, int i, const char **name, int64_t *count, double *flops,
                   double *bytes); /* the i-th kind of op; 0: no more */
/* Table "group  bytes  share" and per-op flops as text lines, or as JSON. */
NS_MUST_USE ns_status ns_plan_table(const ns_plan *p, ns_buf *out, int json, ns_error *err);

#endif
