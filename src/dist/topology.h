/* Which rank does what: tp x cp x dp x pp, Megatron order (training.md 4.1): fastest to slowest tp, cp, (ep,) dp, pp, so
 *     rank = tp_i + tp*(cp_i + cp*(dp_i + dp*pp_i)).
 *
 *     ns_topology t;
 *     NS_TRY(ns_topology_make(&t, world, rank, tp, cp, pp, err), "layout");   // dp = world / (tp*cp*pp)
 *     int ranks[t.size[NS_AXIS_TP]];
 *     ns_topology_group(&t, 1 << NS_AXIS_TP, ranks);                         // my tensor-parallel group, in order
 *
 * Pure arithmetic, no communication. Err: NS_ERR_CONFIG with the numbers and a split that would do. */
#ifndef NS_DIST_TOPOLOGY_H
#define NS_DIST_TOPOLOGY_H

#include "base/error.h"

typedef enum ns_axis { NS_AXIS_TP, NS_AXIS_CP, NS_AXIS_DP, NS_AXIS_PP, NS_N_AXES } ns_axis;

typedef struct ns_topology {
    int world, rank;
    int size[NS_N_AXES];  /* ranks along each axis */
    int index[NS_N_AXES]; /* where this rank stands on it */
} ns_topology;

NS_MUST_USE ns_status ns_topology_make(ns_topology *t, int world, int rank, int tp, int cp, int pp, ns_error *err);
/* The ranks that differ from mine only along the axes of the set `axes` (bits 1 << axis), ascending by (tp, cp, dp, pp)
 * with tp fastest. out has room for ns_topology_group_size. Returns my place in it. */
int ns_topology_group_size(const ns_topology *t, unsigned axes);
int ns_topology_group(const ns_topology *t, unsigned axes, int *out);
const char *ns_axis_name(ns_axis a);

#endif
