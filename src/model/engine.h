/* A model that runs: architecture + back-end + memory, by plan-then-allocate (doc/plan.md). Training, inference and `ns plan`
 * open the same engine.
 *
 *     ns_engine e;
 *     NS_TRY(ns_engine_plan(&e, &arch, &opt, isa, n_threads, err), "plan");   // layout, recorded step, offsets: no memory yet
 *     ... print ns_plan_table(ns_space_plan(e.space)), refuse if e.total_bytes does not fit ...
 *     NS_TRY(ns_engine_start(&e, err), "start");                            // one allocation, real pointers
 *     NS_TRY(ns_model_read(dir, &e.table, ns_engine_put, &e, err), "read model");
 *     ns_engine_loaded(&e);                                             // prepares panels
 *     ns_engine_free(&e);                                                                                            */
#ifndef NS_MODEL_ENGINE_H
#define NS_MODEL_ENGINE_H

#include "model/model.h"
#include "ops/cuda/cuda.h"

typedef struct ns_engine {
    ns_arch arch;         /* the whole model, as files have it */
    ns_param_table table; /* of the whole model: the parameter numbers of everything below are the same in both */
    ns_arch part_arch;    /* what this rank holds: the whole on one rank, else arch/part.h */
    ns_param_table part;
    ns_comm *tp, *cp, *grads; /* set before ns_engine_start when there are several ranks: tensor parallel, context
                               * parallel, those that add up gradients and share the optimiser state */
    ns_comm *pp;              /* the stages, when there are several */
    float *sums_behind;       /* the same for the thread of train/overlap.h */
    float *sums;              /* several ranks: ns_comm.scratch of all groups, on a GPU ns_comm_space.sums */
    float *whole, *piece; /* tensor parallel, host memory: one parameter of the whole model; the parts of all ranks */
    ns_comm_space away;   /* GPU and several ranks: where the model's arrays are, for the groups' ns_comm.space */
    ns_comm_space aside;  /* the same for groups that exchange beside the ops (train/overlap.h) */
    char *host;           /* GPU and several ranks: host memory of `away` and of whole, piece */
    int64_t host_bytes;
    ns_ops ops;
    ns_model_options opt;
    ns_space *space;
    ns_model model;
    ns_exec exec;
    ns_threads *pool;
    void *device;     /* GPU: ns_exec.backend; NULL on the processor */
    ns_cuda_info gpu; /* what was opened, when device is set */
    void *memory;     /* from ops.mem_new */
    int64_t total_bytes;
    ns_plan_totals
        totals; /* flops and bytes of one micro-batch forward+backward (or forward) and, in training, one update */
    double step_flops; /* of the forward+backward part alone: per micro-batch */
    ns_arena arena;
} ns_engine;

/* Where: o->accelerator (auto: also NS_ACCELERATOR). isa, a CPU level: NULL or "auto" picks by machine and NS_ISA. n_threads: 0 = all. The pool is made here: scratch depends on it. */
NS_MUST_USE ns_status ns_engine_plan(ns_engine *e, const ns_arch *a, const ns_model_options *o, const char *isa,
                                     int n_threads, ns_error *err);
NS_MUST_USE ns_status ns_engine_start(ns_engine *e, ns_error *err);
void ns_engine_loaded(ns_engine *e);
/* GPU, opt.behind: what groups with ns_engine.aside exchange from here on comes behind the ops so far; a mark in their stream; ops from
 * here on come behind mark k. */
NS_MUST_USE ns_status ns_engine_aside(ns_engine *e, ns_error *err);
NS_MUST_USE ns_status ns_engine_mark(ns_engine *e, int k, ns_error *err);
NS_MUST_USE ns_status ns_engine_need(ns_engine *e, int k, ns_error *err);
void ns_engine_free(ns_engine *e);
/* ns_param_put_fn / ns_param_get_fn shapes, user = ns_engine*: model values (bf16 rounded) or main values, of the whole
 * model. Where it is split over ranks (ns_engine_split), the get functions are collective: all ranks call them in one order;
 * with stages ns_engine_get fills `data` on the holder's stage and the first one, get_opt where ns_engine_cut gives a piece. */
int ns_engine_split(const ns_engine *e);
ns_status ns_engine_put(void *engine, int param, const float *data, ns_error *err);
ns_status ns_engine_get(void *engine, int param, float *data, ns_error *err);
/* ns_opt_get_fn / ns_opt_put_fn / ns_opt_cut_fn shapes. get: within the own piece (split: any range); put: the whole parameter. */
ns_status ns_engine_get_opt(void *engine, int param, int64_t off, int64_t len, float *main, float *m, float *v,
                            ns_error *err);
/* GPU memory that the plan of this rank may use. Several ranks: a share of the card by its size, the same on all ranks with such a card
 * whatever is free just now, because ranks that share layers must recompute the same ones. */
int64_t ns_engine_gpu_limit(const ns_engine *e);
int ns_engine_gpu_ranks(const ns_engine *e); /* ranks of this machine on this rank's GPU, this one too */
ns_status ns_engine_put_opt(void *engine, int param, const float *main, const float *m, const float *v, ns_error *err);
void ns_engine_cut(void *engine, int param, int64_t *cut);

#endif
