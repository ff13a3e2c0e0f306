/* Exchanges behind the computation. On GPUs (NCCL) no thread is needed: the exchanges of a layer are enqueued on a stream of their own
 * behind the kernels that make its gradients, and the next forward's kernels of a layer behind the gathering of its weights; nothing
 * waits on the host. On processors a thread reduces the gradients of a layer while the backward of the layers below runs, and gathers
 * the updated weights of a layer while the forward of the layers before it runs. In one order on all ranks and on connections of
 * its own (lane 1 of the world), so that any layout may do it and the sums are the same bits as without.
 *
 *     ns_overlap *o;
 *     NS_TRY(ns_overlap_new(&o, ranks, engine, 1, err), "overlap"); // 1: weights too; the model then asks for them (weights_needed)
 *     model.grad_ready = ns_overlap_ready; model.grad_user = o;     // in the backward of the last micro-batch
 *     NS_TRY(ns_overlap_finish(o, err), "gradients");               // hands over what is left (a rank without micro-batch: all), waits
 *     ... update of the own pieces ...
 *     NS_TRY(ns_overlap_gather(o, err), "weights");                 // begins; without "weights too" also waits
 *     NS_TRY(ns_overlap_weights(o, err), "weights");                // before anybody but the model reads weights
 *     ns_overlap_free(&o);
 *
 * All functions are the main thread's. ranks.overlapped was set before the ranks met.                                              */
#ifndef NS_TRAIN_OVERLAP_H
#define NS_TRAIN_OVERLAP_H

#include "model/engine.h"
#include "train/ranks.h"

typedef struct ns_overlap ns_overlap;

NS_MUST_USE ns_status ns_overlap_new(ns_overlap **out, ns_ranks *r, ns_engine *e, int weights, ns_error *err);
void ns_overlap_ready(void *overlap, int layer); /* all gradients of this layer and of those above are complete */
NS_MUST_USE ns_status ns_overlap_finish(ns_overlap *o, ns_error *err);
NS_MUST_USE ns_status ns_overlap_gather(ns_overlap *o, ns_error *err);
NS_MUST_USE ns_status ns_overlap_weights(ns_overlap *o, ns_error *err);
void ns_overlap_free(ns_overlap **o);

#endif
