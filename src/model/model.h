/* The network: head (embedding), blocks, tail (final norm and loss), forward and backward, as straight lines of ops.
 *
 * Buffers come from a space (ops/space.h) by the same calls in the same order when planning and when running. `slot` is an
 * in-flight micro-batch; saved activations exist per (layer, slot). Inference passes no slot (saved = NULL).
 *
 *     ns_model m; ns_model_layout(&m, arch, table, space, &opt, err);       // weights, grads, activations: takes buffers
 *     ns_model_forward(&m, x, batch, slot);  ns_model_backward(&m, x, batch, slot);
 *
 * Activation gradients assign; parameter gradients accumulate (ns_weight.grad); zero them per step. */
#ifndef NS_MODEL_MODEL_H
#define NS_MODEL_MODEL_H

#include "arch/params.h"
#include "ops/ops.h"
#include "ops/space.h"
#include "tensor/batch.h"

typedef struct ns_model_options {
    ns_dtype dt;                       /* activation and weight type: BF16 or F32 */
    int64_t T_cap, S_cap;              /* geometry of a micro-batch */
    int64_t max_len;                   /* longest segment (rope table size) */
    int n_slots;                       /* micro-batches in flight; 1 without pipeline */
    int train;                         /* 1: gradients and saved activations; 0: forward only */
    int recompute;                     /* 0 none, 1 full: keep only each block's input */
    float hidden_dropout, ffn_dropout; /* attention dropout: refused until the op has it */
} ns_model_options;

typedef struct ns_block_acts { /* saved for backward, per (layer, slot) */
    void *h0;                  /* [T,C] residual stream entering attn norm */
    void *n1;
    float *rstd1; /* [T,C] normed input of qkv */
    void *qkv;    /* [T,(nh+2g)*hd] after rope */
    void *att;
    float *lse; /* [T,nh*hd], [nh,T] */
    void *h1;   /* [T,C] residual stream entering mlp norm */
    void *n2;
    float *rstd2; /* [T,C] */
    void *gu;     /* [T,2F] */
    void *act;    /* [T,F] */
    void *qk_pre;
    float *q_rstd, *k_rstd; /* Qwen3 only: qkv before the head norms */
} ns_block_acts;

typedef struct ns_model {
    ns_arch arch;
    const ns_param_table *table;
    ns_model_options opt;
    ns_weight *w;             /* [n_params] by storage parameter index */
    int16_t **rem;            /* [n_params] bf16 remainders (training, bf16) */
    float **adam_m, **adam_v; /* [n_params] */
    float *rope;              /* [max_len, hd/2, 2] */
    ns_block_acts *acts;      /* [L * n_slots] */
    void *x0, *hL, *nL;
    float *rstdL;                               /* embedding out [T,C]; final stream, its norm */
    void *delta;                                /* [T,C] output of attention or mlp before it joins the stream */
    void *dh, *dtmp, *dqkv, *datt, *dgu, *dact; /* backward work, shared by all layers */
    struct ns_batch batch;                      /* device copy of the batch arrays */
    ns_step *step;
    ns_opt_item *items;
    int n_items;
    ns_arena arena;
} ns_model;

NS_MUST_USE ns_status ns_model_layout(ns_model *m, const ns_arch *a, const ns_param_table *t, ns_space *s,
                                      const ns_ops *ops, const ns_model_options *o, ns_error *err);
void ns_model_free(ns_model *m);

void ns_model_forward(ns_model *m, ns_exec *x, int slot); /* embedding .. final norm; batch already in m->batch */
void ns_model_loss(ns_model *m, ns_exec *x, float *logp, int with_grad); /* tail: loss_sum, and d(final norm out) */
void ns_model_backward(ns_model *m, ns_exec *x, int slot);
void ns_block_forward(ns_model *m, ns_exec *x, int l, int slot);
void ns_block_backward(ns_model *m, ns_exec *x, int l, int slot);
/* After the weights changed (load, optimiser step). */
void ns_model_prepare(ns_model *m, ns_exec *x);
void ns_model_zero_grad(ns_model *m, ns_exec *x);
/* Logits of the last token of each live segment, f32 [n_seg, V] in host memory (CPU back-ends): inference and tests. */
void ns_model_last_logits(ns_model *m, ns_exec *x, float *out);

#endif
