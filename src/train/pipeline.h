/* Pipeline parallel: the micro-batches of a step through the stages, one forward, one backward (1F1B; Narayanan et al. 2021).
 *
 *     stage s of p, n micro-batches:  w = min(p-1-s, n) forwards;  then forward w+i, backward i, ...;  then w backwards
 *
 * so that stage s has at most p - s micro-batches in flight (ns_stages_slots) and every gradient is added in the order of micro-batches:
 * the same bits as on one rank. What a stage sends is the stream [T,C] in the activation type; tensor- and context-parallel ranks send
 * to the one of their own number. With one stage this is the plain loop. */
#ifndef NS_TRAIN_PIPELINE_H
#define NS_TRAIN_PIPELINE_H

#include "dist/comm.h"
#include "model/engine.h"

typedef struct ns_stages {
    ns_comm *comm; /* the stages in order */
    ns_engine *engine;
    int64_t *rows; /* [n] rows of micro-batch i as ops see them: what is sent */
    void *user;
    ns_status (*enter)(void *user, int64_t i, ns_error *err); /* makes micro-batch i the model's batch */
    ns_status (*forward)(void *user, int64_t i, int slot,
                         ns_error *err); /* of the model; on the last stage the loss, too */
    ns_status (*backward)(void *user, int64_t i, int slot, ns_error *err); /* NULL: forward only */
} ns_stages;

NS_MUST_USE ns_status ns_stages_run(ns_stages *p, int64_t n, ns_error *err);
/* Micro-batches in flight on a stage. */
int ns_stages_slots(int stage, int stages, int64_t n);

#endif
