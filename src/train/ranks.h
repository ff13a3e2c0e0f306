/* The ranks of a training: what each does of a global batch, and where they meet in a step. With one rank every call
 * returns at once, so the loop has one form.
 *
 *     micro-batch k of the step belongs to data-parallel rank k mod dp
 *     gradients:  reduce_scatter by the pieces of ns_model_cut      norm: sum over ranks      weights: all_gather
 * Context-parallel ranks of one dp number work on the same micro-batch, each on its tokens (ns_batch_part).
 * Stages of a pipeline have layers one after another (pipeline.h); an embedding that is also the head lies on the first and the last:
 * they add their gradients, each its own piece, and update it alike.
 * Tensor-parallel ranks of one dp number work on the same micro-batch, each on its part of every layer (arch/part.h); what
 * they add up within a layer is in model.c.
 *
 * All sums are made in rank order: a layout repeats itself bitwise. */
#ifndef NS_TRAIN_RANKS_H
#define NS_TRAIN_RANKS_H

#include "dist/comm.h"
#include "dist/topology.h"
#include "model/engine.h"

typedef struct ns_ranks {
    ns_world_options who; /* from the environment; size as the settings want it when only planning */
    int env_size;         /* ranks that really are there */
    ns_topology topology;
    ns_world *world;
    ns_comm all, tp, cp, pp;
    ns_comm ends; /* first and last stage, when both have the embedding (and this rank is one of them) */
    /* The same groups once more, for a thread that exchanges while the main thread computes (overlap.h): lane 1 of the world. */
    struct {
        ns_comm grads, tp, ends;
    } behind;
    int overlapped;  /* set before ns_ranks_join: gradients are reduced, weights gathered by that thread, or on GPUs
                            * beside the kernels: ns_ranks_direct takes it back where arrays travel through the host */
    ns_comm grads;   /* cp x dp: gradients are added, the optimiser state is shared */
    int direct;      /* arrays of GPU ranks travel by NCCL */
    double *seconds; /* [world] of the last step, before the first wait: who is slow */
    double dead_s, hang_s; /* set before ns_ranks_join; 0: those of world.h */
    int slow_steps;        /* in a row, with the same slowest rank */
    int slowest;
} ns_ranks;

/* Reads the environment and the layout; opens nothing. Err: NS_ERR_CONFIG when settings and environment disagree. */
NS_MUST_USE ns_status ns_ranks_layout(ns_ranks *r, int64_t devices, int64_t nodes, int64_t tp, int64_t cp, int64_t pp,
                                      ns_error *err);
/* Meets the others. identity: what must be equal on all ranks (world.h). */
NS_MUST_USE ns_status ns_ranks_join(ns_ranks *r, const char *identity, void (*on_abort)(const char *, void *),
                                    ns_error *err);
/* After ns_engine_start: where the groups' sums are made and, on a GPU, where the arrays lie. */
void ns_ranks_memory(ns_ranks *r, const ns_engine *e);
/* Then, collective: how the arrays of GPU ranks travel. By NCCL where every rank has a card of its own and the plug-in opens on all, else
 * through the host; NS_GPU_TRANSPORT=host|nccl decides otherwise. Rank 0 says which, and why not NCCL. (gpus.c) */
NS_MUST_USE ns_status ns_ranks_direct(ns_ranks *r, const ns_engine *e, ns_error *err);
void ns_ranks_close(ns_ranks *r);

int ns_ranks_dp(const ns_ranks *r);      /* data-parallel ranks */
int ns_ranks_dp_rank(const ns_ranks *r); /* mine */
int ns_ranks_first(const ns_ranks *r);   /* 1 on the rank that writes, prints and records */

int ns_ranks_world(const ns_ranks *r);
int ns_ranks_tp(const ns_ranks *r);
int ns_ranks_tp_rank(const ns_ranks *r);

int ns_ranks_pp(const ns_ranks *r); /* stages of the pipeline */
int ns_ranks_pp_rank(const ns_ranks *r);

int ns_ranks_cp(const ns_ranks *r);
int ns_ranks_cp_rank(const ns_ranks *r);
int ns_ranks_grads(const ns_ranks *r); /* cp x dp: pieces of the optimiser state */
int ns_ranks_grads_rank(const ns_ranks *r);

/* Payload bytes this rank has sent to others so far, by kind: out[NS_COMM_N_KINDS]. behind: what the other thread sent, while it rests. */
void ns_ranks_sent(const ns_ranks *r, int behind, uint64_t *out);
NS_MUST_USE ns_status ns_ranks_reduce(ns_ranks *r, ns_engine *e, ns_error *err); /* gradients -> own pieces */
NS_MUST_USE ns_status ns_ranks_reduce_one(ns_ranks *r, ns_engine *e, int param, ns_error *err);
NS_MUST_USE ns_status ns_ranks_gather(ns_ranks *r, ns_engine *e, ns_error *err); /* updated weights -> all */
NS_MUST_USE ns_status ns_ranks_gather_one(ns_ranks *r, ns_engine *e, int param, ns_error *err);
/* NS_OK if all ranks say NS_OK (shape of ns_ckpt_vote_fn; r is an ns_ranks). */
ns_status ns_ranks_vote(void *r, ns_status mine, ns_error *err);
/* Rank 0 warns when one rank stays behind: seconds = own work of this step. */
NS_MUST_USE ns_status ns_ranks_watch(ns_ranks *r, double seconds, int64_t step, ns_error *err);

#endif
