/* The network: head (embedding), blocks, tail (final norm and loss), forward and backward, as straight lines of ops.
 *
 * Buffers come from a space (ops/space.h) by the same calls in the same order when planning and when running. `slot` is an
 * in-flight micro-batch; saved activations exist per (layer, slot). Inference passes no slot (saved = NULL).
 *
 *     ns_model_layout(&m, arch, table, space, ops, &opt, err);        // weights, grads, activations: takes buffers
 *     ns_model_set_batch(&m, x, batch);  ns_model_put_step(&m, x, &scalars);
 *     ns_model_forward(&m, x, slot);  ns_model_loss(&m, x, NULL, 1);  ns_model_backward(&m, x, slot);
 *
 * Activation gradients assign; parameter gradients accumulate (ns_weight.grad); zero them per step. */
#ifndef NS_MODEL_MODEL_H
#define NS_MODEL_MODEL_H

#include "arch/params.h"
#include "dist/comm.h"
#include "ops/ops.h"
#include "ops/space.h"
#include "tensor/batch.h"

enum { NS_MAX_DP = 4096 };

/* What of a block is kept for the backward pass: all; only its input; what products and attention made (norms and the
 * activation are computed again from it, at about a hundredth of a step). The results are the same, bit for bit. */
typedef enum ns_recompute { NS_RECOMPUTE_NONE, NS_RECOMPUTE_FULL, NS_RECOMPUTE_SELECTIVE } ns_recompute;

typedef struct ns_model_options {
    ns_dtype dt;          /* activation and weight type: BF16 or F32 */
    int64_t T_cap, S_cap; /* geometry of a micro-batch */
    int64_t max_len;      /* longest segment (rope table size) */
    int n_slots;          /* micro-batches in flight; 1 without pipeline (0 counts as 1) */
    int train;            /* 1: gradients, optimiser state, saved activations; 0: forward only */
    ns_recompute recompute;
    int full_layers;      /* selective: so many first layers are recomputed whole */
    int64_t memory_limit; /* selective: the engine raises full_layers until the plan fits; 0: no limit */
    int any_order;        /* ns_exec.any_order */
    int fp8_split;        /* ns_exec.fp8_split */
    ns_opt_form optim;    /* what is kept of weights and moments; all zero: exact to f32 */
    ns_fp8 fp8;           /* products of the layers; needs ns_ops.fp8. Embedding, head and norms stay as they are */
    int fp8_lean; /* transposed fp8 weights are made for each product; the engine sets it where memory is short */
    float hidden_dropout, ffn_dropout, attention_dropout;
    ns_threads *pool;           /* decides the scratch of CPU back-ends; NULL: one thread */
    void *backend;              /* ns_exec.backend of device back-ends; NULL on a CPU */
    const char *accelerator;    /* for the engine: cpu (NULL too), gpu, or auto: a GPU if one opens */
    int local_rank, local_size; /* for the engine: place among the ranks of this machine, picks the GPU; 0, 0: alone */
    const char *plan_gpu;       /* for the engine: plan for this GPU, which is not here (gpu_known.h); NULL: run */
    int64_t kv_rows;            /* inference: rows of the key/value cache of each layer; 0 = no cache */
    int tp_rank, tp_size;       /* tensor parallel: this model is a part (arch/part.h); size 0 or 1: all of it */
    int stream_split;           /* sequence parallel: each tensor-parallel rank has its rows of the stream */
    int64_t vocab_first;        /* word of the first row of embedding and head */
    int cp_rank, cp_size;       /* context parallel: batches are parts (ns_batch_part); size 0 or 1: whole */
    int behind;                 /* 1: another thread exchanges too and needs scratch of its own (on a CPU) */
    int cp_ring;                /* 1: keys and values travel a ring (model/ring.c) instead of being gathered */
    int64_t T_whole;            /* capacity of the whole micro-batch then; T_cap and S_cap are the part's */
    int dp_rank, dp_size;       /* ranks that share the optimiser state (ZeRO-1); size 0 or 1: one has all */
    int pp_rank, pp_size;       /* pipeline stage: this model is layers of ns_part_layers; size 0 or 1: all of them */
} ns_model_options;

typedef struct ns_block_acts { /* saved for backward, per (layer, slot); shared between layers in inference */
    void *h0;                  /* [T,C] residual stream entering the attention norm */
    void *n1;                  /* [T,C] its norm */
    float *rstd1;              /* [T] */
    void *qkv;                 /* [T,(nh+2g)*hd], q and k rotated */
    void *q_raw, *k_raw;       /* [T,nh*hd], [T,g*hd] before their norm; only with q/k norm, like the next two */
    float *rstd_q, *rstd_k;    /* [T*nh], [T*g] */
    void *att;                 /* [T,nh*hd] */
    float *lse;                /* [nh,T] */
    void *h1;                  /* [T,C] residual stream entering the mlp norm */
    void *n2;                  /* [T,C] its norm */
    float *rstd2;              /* [T] */
    void *gu;                  /* [T,2F] gate | up */
    void *act;                 /* [T,F] */
    /* fp8 without recomputation: casts of n1, att, n2, act (ns_linear_args.x8), kept instead of n1, n2, act. NULL: not kept */
    void *n1_8, *att_8, *n2_8, *act_8;
} ns_block_acts;

typedef struct ns_piece { /* elements [off, off+len) of a storage parameter */
    int64_t off, len;
} ns_piece;

enum { NS_MODEL_STAGE = 1 << 20 };
typedef struct ns_model {
    ns_arch arch;
    const ns_param_table *table;
    ns_model_options opt;
    ns_weight *w;            /* [n_params] by storage parameter index */
    unsigned char *fresh;    /* [n_params] 1: the gradient holds nothing; the next product assigns it */
    ns_piece *own;           /* [n_params] what this rank updates: all of it on one rank */
    int16_t **rem;           /* [n_params] bf16 remainders of the own piece; entries NULL for f32 and optim.no_rem */
    void **adam_m, **adam_v; /* [n_params] of the own piece, in optim.m and optim.v */
    float *rope;             /* [max_len, hd/2, 2] */
    int first, n_layers;     /* layers [first, first + n_layers) are here */
    ns_block_acts
        *acts;       /* [n_slots * n_layers]; the h0 of the first one is the embedding or comes from the stage before */
    void *hL, *nL;   /* [T,C] stream behind the last layer here: of the whole model, or for the next stage; its norm */
    float *rstdL;    /* [T] */
    void *delta;     /* [T,C] output of attention or mlp; my rows of it join the stream */
    void *full;      /* sequence parallel: [T,C] rows of all ranks */
    void *dh, *dtmp; /* [T,C] gradient of the stream; of a norm's output */
    void *dqkv, *datt, *dgu, *dact;
    void
        *heads; /* [T,nh*hd] q or k of all tokens side by side, on the way in and out of their norm; NULL without one */
    void *dy8;  /* fp8: cast of the gradient of a product's output, from its input gradient to its weight gradient */
    void *last_x, *last_y;               /* [S_cap,C], [S_cap,vocab_rows]: rows whose logits are wanted */
    void **k_cache, **v_cache;           /* [L] of [kv_rows, g*hd] */
    int32_t *kv_row, *kv_start, *kv_len; /* cache row of each token [T]; per segment [S_cap] */
    int64_t T;      /* rows that ops work on: live tokens rounded up (<= T_cap); T_cap while planning */
    int64_t T0, Ts; /* rows [T0, T0+Ts) of the stream are here: all but with sequence parallel (h0..n2, hL, nL, dh) */
    int64_t *rows;  /* [tp_size+1] elements of the stream up to each tensor-parallel rank */
    ns_batch batch; /* back-end copy of the batch arrays */
    ns_step *step;
    ns_comm *tp;               /* where partial sums are added; NULL: not split, or planning */
    float *stats;              /* [T,2] of the head; NULL when not split */
    ns_comm *cp;               /* context-parallel ranks; NULL: not split, or planning */
    void *kv_raw, *kv_all;     /* [cp_size*T_cap, 2 kv] as ranks send them; [T_whole, 2 kv] in order */
    void *dkv[2];              /* [T_whole, 2 kv] gradients from the first and second pieces of all segments */
    int32_t *cp_row, *own_row; /* ns_batch_part.kv_row, .own_row */
    void *ring_kv[2];          /* [T_cap, 2 kv] blocks: the one at hand, the one that comes */
    void *ring_part;           /* [T,nh*hd] attention over one block */
    float *ring_lse;           /* [nh,T] its log-sum-exp */
    float *ring_acc;           /* [T,nh*hd] attention, or its gradient by q, over the blocks so far */
    float *ring_dkv[2];        /* [T_cap, 2 kv] gradients of a block that travel with it */
    float *ring_own;           /* [T_cap, 2 kv] what I have to add to those of my block when they are back */
    int32_t *ring_start, *ring_len, *to_block, *of_block; /* as in ns_batch_part */
    int64_t cp_rows, n_whole;
    void (*grad_ready)(void *user,
                       int layer); /* NULL, or called in a backward: gradients of layers >= this one are complete */
    void *grad_user;
    void (*weights_needed)(
        void *user, int layer); /* NULL, or called in a forward before the weights of layers <= this one are read:
                                                    * -1 the embedding, L what comes behind the last */
    void *weights_user;
    void *work; /* scratch for ns_exec.work */
    int64_t work_bytes;
    char *stage; /* host memory for conversions on the way in and out, NS_MODEL_STAGE bytes */
    ns_opt_item *items;
    int64_t n_items, n_counted; /* of the gradient norm: those come first; what another rank has too is counted there */
    ns_arena arena;
} ns_model;

/* Takes every buffer of the model from `s`. `ops` is the back-end that will run (it decides panels and scratch), also while
 * planning. Call it once before ns_space_fit and once after ns_space_bind, each time on a fresh (zeroed or freed) struct.
 * The rope table is filled by ns_model_start. Err: NS_ERR_UNSUPPORTED names what the architecture needs and is missing. */
NS_MUST_USE ns_status ns_model_layout(ns_model *m, const ns_arch *a, const ns_param_table *t, ns_space *s,
                                      const ns_ops *ops, const ns_model_options *o, ns_error *err);
/* After bind: constant tables. Weights are the caller's to fill (ns_model_put_param), then ns_model_prepare. */
NS_MUST_USE ns_status ns_model_start(ns_model *m, ns_exec *x, ns_error *err);
void ns_model_free(ns_model *m);

/* Which elements of storage parameter `param` each of `size` ranks updates: rank r those from cut[r] to cut[r+1]. Pieces of
 * at least 1 MiB of f32 (a smaller parameter has one owner, another one for each), so that files keep long ranges. */
void ns_model_cut(const ns_param_table *t, int param, int size, int64_t *cut);

/* Bytes of a trained parameter, gradient too: 16 exact, 10 all bf16. */
int ns_model_param_bytes(const ns_model_options *o);

/* Values of one storage parameter as f32 [rows, cols]. put splits into bf16 + remainder (remainder 0 if `exact_bf16` values
 * are given; without remainders: to the nearest); get returns the model value (bf16 rounded). get_main: exact elements [off, off+len)
 * of the own piece. */
void ns_model_put_param(ns_model *m, ns_exec *x, int param, const float *data);
void ns_model_get_param(const ns_model *m, ns_exec *x, int param, float *data);
void ns_model_get_main(const ns_model *m, ns_exec *x, int param, int64_t off, int64_t len, float *data);

/* Copies a batch into the model's arrays; the step's scalars to and from the back-end (get waits for it). */
void ns_model_set_batch(ns_model *m, ns_exec *x, const ns_batch *b);
void ns_model_set_part(ns_model *m, ns_exec *x, const ns_batch_part *p); /* cp_size > 1: instead of set_batch */
void ns_model_set_rows(ns_model *m, int64_t T);                          /* called by both */
void ns_model_put_step(ns_model *m, ns_exec *x, const ns_step *s);
void ns_model_get_step(const ns_model *m, ns_exec *x, ns_step *s);
void ns_model_forward(ns_model *m, ns_exec *x, int slot); /* embedding (or ns_model_in) .. final norm (or hL) */
void ns_model_loss(ns_model *m, ns_exec *x, float *logp,
                   int with_grad); /* tail: step->loss_sum, and d(final norm out) */
void ns_model_backward(ns_model *m, ns_exec *x,
                       int slot);         /* after ns_model_loss(with_grad), or with dh of the next stage */
int ns_model_is_first(const ns_model *m); /* stages of a pipeline: has the embedding */
int ns_model_is_last(const ns_model *m);  /* has final norm and head: the loss is computed here */
void *ns_model_in(ns_model *m, int slot); /* [T,C] where the stream of the stage before is put */
void ns_block_forward(ns_model *m, ns_exec *x, int l, int slot);
void ns_block_backward(ns_model *m, ns_exec *x, int l, int slot);
static inline ns_recompute ns_block_recompute(const ns_model_options *o, int l) /* l: from the first of this rank */
{
    return o->recompute == NS_RECOMPUTE_SELECTIVE && l < o->full_layers ? NS_RECOMPUTE_FULL : o->recompute;
}
void ns_model_prepare(ns_model *m, ns_exec *x); /* after the weights changed (load, optimiser step) */
void ns_model_prepare_one(ns_model *m, ns_exec *x, int param);
void ns_model_zero_grad(ns_model *m, ns_exec *x);
void ns_model_settle_grad(ns_model *m, ns_exec *x); /* clears what no micro-batch touched; before gradients are read */
/* The update in three parts, so that ranks can talk in between: grad_sumsq of the own pieces into step; clip and AdamW on
 * them (lr, t, ... are in step); then ns_model_prepare. */
void ns_model_grad_sumsq(ns_model *m, ns_exec *x);
void ns_model_update(ns_model *m, ns_exec *x);
/* Logits of the given token rows, f32 out[n, vocab] (host; CPU back-ends). After ns_model_forward. */
void ns_model_logits(ns_model *m, ns_exec *x, const int32_t *rows, int64_t n, float *out);

#endif
