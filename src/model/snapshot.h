/* A copy in host memory of all that a checkpoint holds (weights, remainders, moments), taken while training goes on: the copies run beside
 * the next step's forward and backward, and only the update waits for them, because only it changes what is copied.
 *
 *     NS_TRY(ns_snapshot_new(&s, &engine, err), "snapshot");    // memory; a thread of its own pins it meanwhile
 *     NS_TRY(ns_snapshot_take(s, err), "snapshot");            // between steps; what was taken before must no longer be wanted
 *     ... forward, backward ...  ns_snapshot_hold(s);  ns_model_update(...)
 *     ns_snapshot_get(s, param, data, err);                     // from a thread that writes; waits until the copy is complete
 *
 * For one rank that has the whole model. The engine must outlive the snapshot. */
#ifndef NS_MODEL_SNAPSHOT_H
#define NS_MODEL_SNAPSHOT_H

#include "model/engine.h"

typedef struct ns_snapshot ns_snapshot;

int64_t ns_snapshot_bytes(const ns_engine *e); /* planned or started */
NS_MUST_USE ns_status ns_snapshot_new(ns_snapshot **out, ns_engine *e, ns_error *err);
void ns_snapshot_free(ns_snapshot **s); /* NULL is fine */
NS_MUST_USE ns_status ns_snapshot_take(ns_snapshot *s, ns_error *err);
void ns_snapshot_hold(ns_snapshot *s); /* in a step, before the update; NULL is fine */
double
ns_snapshot_held(ns_snapshot *s); /* after that step: seconds for which the device stood still; once, then 0. NULL: 0 */
/* ns_param_get_fn and ns_opt_get_fn shapes, user = ns_snapshot*: as ns_engine_get, ns_engine_get_opt at the time of take. */
ns_status ns_snapshot_get(void *snapshot, int param, float *data, ns_error *err);
ns_status ns_snapshot_get_opt(void *snapshot, int param, int64_t off, int64_t len, float *main, float *m, float *v,
                              ns_error *err);

#endif
