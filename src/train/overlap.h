/* Gradients are reduced while the backward of earlier layers still runs: a thread takes the layers as they become ready, in one
 * order on all ranks, so that the sums are the same bits as without. For data-parallel layouts only: there the main thread exchanges
 * nothing between the first layer that is ready and ns_overlap_finish, and the connections are the thread's.
 *
 *     ns_overlap *o;
 *     NS_TRY(ns_overlap_new(&o, ranks, engine, err), "overlap");
 *     model.grad_ready = ns_overlap_ready; model.grad_user = o;    // in the backward of the last micro-batch
 *     NS_TRY(ns_overlap_finish(o, err), "gradients");              // hands over what is left (a rank without micro-batch: all), waits
 *     ns_overlap_free(&o);                                                                                              */
#ifndef NS_TRAIN_OVERLAP_H
#define NS_TRAIN_OVERLAP_H

#include "model/engine.h"
#include "train/ranks.h"

typedef struct ns_overlap ns_overlap;

NS_MUST_USE ns_status ns_overlap_new(ns_overlap **out, ns_ranks *r, ns_engine *e, ns_error *err);
void ns_overlap_ready(void *overlap, int layer); /* all gradients of this layer and of those above are complete */
NS_MUST_USE ns_status ns_overlap_finish(ns_overlap *o, ns_error *err);
void ns_overlap_free(ns_overlap **o);

#endif
