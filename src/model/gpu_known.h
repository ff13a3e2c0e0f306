/* What is known of a GPU that is not here: `ns plan --gpu h200` and `ns bench train --predict h200` plan for it on any machine
 * (the plug-in file must be beside the program: it knows its work buffers), and say memory and time.
 *
 *     e.opt.plan_gpu = "h200"; NS_TRY(ns_engine_plan(&e, ...)); ns_gpu_guess g = ns_gpu_predict(&e, micro_batches);          */
#ifndef NS_MODEL_GPU_KNOWN_H
#define NS_MODEL_GPU_KNOWN_H

#include "model/engine.h"

#define NS_GPU_KNOWN "h200" /* choices of an option */

typedef struct ns_gpu_guess {
    double
        used_bytes; /* in use at the peak as the driver says: the plan, context, library workspaces, pinned buffers */
    double step_s;  /* a step of full micro-batches, deterministic=false, cuDNN there */
} ns_gpu_guess;

NS_MUST_USE ns_status ns_gpu_known(ns_cuda_info *out, const char *name, ns_error *err); /* name, memory */
ns_gpu_guess ns_gpu_predict(const ns_engine *e, int64_t micro_batches); /* after ns_engine_plan with opt.plan_gpu */

#endif
