/* Between the files of the model: model.c (the straight line), ring.c (attention over context-parallel ranks). */
#ifndef NS_MODEL_MODEL_PRIV_H
#define NS_MODEL_MODEL_PRIV_H

#include "model/model.h"

static inline char *ns_model_at(const void *p, int64_t elements, ns_dtype dt)
{
    return (char *)(uintptr_t)p + elements * (int64_t)ns_dtype_size(dt);
}

static inline int64_t ns_model_kv_width(const ns_model *m)
{
    return 2 * m->arch.n_kv * m->arch.head_dim; /* k and v of a token lie side by side in qkv */
}

/* Attention of layer l within the rows of qkv; outputs are the caller's to set. */
ns_attn_args ns_model_attn_args(ns_model *m, int l, void *qkv);

/* ring.c: b->qkv -> b->att, b->lse over the keys of all context-parallel ranks; m->datt -> m->dqkv. */
void ns_ring_attend(ns_model *m, ns_exec *x, int l, ns_block_acts *b);
void ns_ring_attend_bwd(ns_model *m, ns_exec *x, int l, ns_block_acts *b);

#endif
