/* Which layout would train fastest on a cluster of GPUs that need not be here: a model of time, the planner's own memory.
 *
 *     NS_TRY(ns_layouts_report(&text, sft, "h100", err), "layouts");   // `ns plan ++plan.layouts=h100`
 *
 * Every combination of micro-batch, tensor, context, pipeline parallel that divides is timed by formula: floating-point operations
 * at a stated part of the peak, bytes of traffic.h over stated links, idle stages, gradients and weights not overlapped. The
 * fastest are planned for memory as a run would be, until some fit. Nothing here was measured; the text says so. */
#ifndef NS_TRAIN_LAYOUTS_H
#define NS_TRAIN_LAYOUTS_H

#include "train/sft.h"

NS_MUST_USE ns_status ns_layouts_report(ns_buf *out, const ns_sft *t, const char *gpu, ns_error *err);

#endif
