/* The operation table: one list of operations, several back-ends (doc/ops.md).
 *
 *   ref/   plain loops: the meaning. Never fast, never NULL.
 *   plan/  records lifetimes, bytes and flops of the same calls on fake pointers: planning needs no device.
 *   cpu/   starts as a copy of ref and overrides what the machine does faster.      cuda/  the same on a GPU.
 *
 * Contract of every op `void op(ns_exec *x, const ns_<op>_args *a)`:
 *   - no allocation, no synchronisation with the host, no scalar read by the host: lr, step, clip, counts live in ns_step;
 *   - buffers are caller-owned and never alias unless the args comment allows it; sizes are in elements;
 *   - "activation gradients assign, parameter gradients add": dx is written, dw/db (f32) are accumulated;
 *   - `dt` is the activation type (F32 or BF16); accumulation is f32 or wider; weights have their own type in ns_weight;
 *   - rows past the live tokens (dead tail) are ordinary rows for every op but attention, which writes zeros there;
 *   - an error (a launch failure, a bad combination) sets x->err once; the loop looks at it at the end of a step.
 *   - results depend on the arguments only, never on the number of threads: reductions have a fixed order.
 *
 * To add an op: args struct + table row here, meaning in ref/, cost in plan/plan_ops.c, a case in ops_test.c. */
#ifndef NS_OPS_OPS_H
#define NS_OPS_OPS_H

#include <stdint.h>

#include "base/error.h"
#include "base/rng.h"
#include "base/threads.h"
#include "tensor/fp8.h"

/* A matrix (or vector: rows = n, cols = 1) of parameters as ops see it. Filled by src/model. */
typedef struct ns_weight {
    const char *name; /* storage parameter, for messages */
    int64_t rows, cols;
    ns_dtype dt; /* F32 or BF16 */
    void *data;  /* [rows, cols] row-major */
    float *grad; /* [rows, cols] f32, accumulated; NULL = frozen */
    ns_fp8 fp8;  /* linear ops round both factors of each product to fp8 first (ns_linear_args); needs ns_ops.fp8 */
    /* Forms prepared by the back-end after each change of data (ops->prepare); sizes from ops->prepare_bytes. */
    void *panels_fwd; /* for y = x W^T */
    void *panels_dx;  /* for dx = dy W */
} ns_weight;

/* One per run, in back-end memory: what changes every step. The host uploads it before a step, ops read and write it, the host
 * downloads it after. */
typedef struct ns_step {
    double loss_sum;   /* sum of weight * CE so far in this step (all micro-batches); fixed order */
    double weight_sum; /* target count of the step, over all ranks, set before the first forward */
    double grad_sumsq; /* set by ns_ops.grad_sumsq */
    float lr, beta1, beta2, eps, weight_decay;
    float clip;      /* <= 0: no clipping */
    float clip_coef; /* set by ns_ops.clip: min(1, clip / (norm + 1e-6)) */
    int64_t t;       /* optimiser step number, 1 for the first */
    uint32_t dropout_step;
    int32_t nonfinite; /* set to 1 by grad_sumsq when the sum is NaN or Inf */
} ns_step;

typedef struct ns_exec {
    const struct ns_ops *ops;
    ns_threads *pool; /* CPU back-ends; NULL = inline */
    void *work;       /* scratch of one op call; nothing survives the call */
    int64_t work_bytes;
    ns_step *step;
    ns_philox_key key; /* dropout */
    ns_fp8 fp8;        /* for work_bytes: weights of layers have it */
    int64_t T_kv;      /* for work_bytes: ns_attn_args.T_kv */
    int any_order; /* 1: attention's gradient may sum in any order (faster on a GPU; bits may differ from run to run) */
    int fp8_split; /* 1: fp8 products of the backward sum in f32 throughout; 0: in what the device sums fastest */
    struct ns_plan *plan; /* plan back-end only */
    void *backend;        /* back-end's own state */
    ns_error err;         /* first failure */
} ns_exec;

/* x[t,:] = table[ids[t],:]; a negative id (a word that another rank has) gives zeros and no gradient */
typedef struct ns_embed_args {
    int64_t T, C, V;
    ns_dtype dt;
    const int32_t *ids;     /* [T] */
    const ns_weight *table; /* [V,C] */
    void *x;                /* fwd out [T,C] */
    const void *dx;         /* bwd in [T,C]; adds to table->grad, in token order for each id */
} ns_embed_args;

/* h = x + delta (delta NULL: h = x), y = h * rstd * w, rstd = 1/sqrt(mean(h^2)+eps). RMSNorm, Zhang & Sennrich 2019. */
typedef struct ns_norm_args {
    int64_t T, C; /* rows, row length (row stride is C) */
    ns_dtype dt;
    float eps;
    int plus_one;       /* Gemma: w means 1+w */
    const ns_weight *w; /* [C] */
    const void *x;      /* [T,C] */
    const void *delta;  /* [T,C] or NULL */
    void *h;            /* [T,C] sum; may alias x; NULL when delta is NULL */
    void *y;            /* [T,C] */
    float *rstd;        /* [T]; NULL in inference */
} ns_norm_args;
/* dh = dres + d(norm)/dh * dy ; w->grad += sum_t dy*h*rstd. The same dh flows to x and to delta. */
typedef struct ns_norm_bwd_args {
    int64_t T, C;
    ns_dtype dt;
    int plus_one;
    const ns_weight *w;
    const void *h;     /* [T,C] the normalised input (sum) */
    const float *rstd; /* [T] */
    const void *dy;    /* [T,C] */
    const void *dres;  /* [T,C] gradient arriving over the residual path, or NULL; may alias dh */
    void *dh;          /* [T,C] */
    void *y;           /* [T,C] the norm's output again, as the forward pass gave it; NULL: not wanted */
    float eps;         /* of the forward pass, for y */
} ns_norm_bwd_args;

/* y[M,N] = x[M,K] W[N,K]^T + b.   dx[M,K] = dy[M,N] W.   W.grad += dy^T x, b.grad += sum_m dy.
 * With w->fp8, x and W stand for what their e4m3 casts hold, dy for its e5m2 (or e4m3) cast, each with one scale for the whole
 * operand by its largest magnitude (tensor/fp8.h); sums f32, bias and its gradient not rounded. On a GPU dt is BF16 and N, K
 * are multiples of 16. The casts, transposed, may be kept between calls: fwd writes x8, dgrad dy8, wgrad reads them instead. */
typedef struct ns_linear_args {
    int64_t M, N, K;
    ns_dtype dt;
    const ns_weight *w; /* [N,K] */
    const ns_weight *b; /* [N] or NULL */
    const void *x;      /* fwd, wgrad in: [M,K] */
    void *y;            /* fwd out: [M,N] */
    const void *dy;     /* dgrad, wgrad in: [M,N] */
    void *dx;           /* dgrad out: [M,K] */
    int add_dx;         /* dgrad: add to dx instead of assigning */
    int assign_dw;      /* wgrad: assign W.grad instead of adding; where ns_ops.assigns_grads */
    void *x8;           /* fp8: [K,M], ns_fp8_bytes(K, M) from 16-byte alignment; NULL: not kept, wgrad casts x */
    void *dy8;          /* fp8: [N,M], ns_fp8_bytes(N, M); NULL: not kept, wgrad casts dy */
} ns_linear_args;

/* Rotary embedding in place, rotate-half pairing (i, i+hd/2): heads [0,n_heads) of each row of qk. */
typedef struct ns_rope_args {
    int64_t T, n_heads, head_dim, row_stride; /* row_stride: elements between tokens */
    int64_t rot_dim;                          /* rotated dims of a head (= head_dim unless partial) */
    ns_dtype dt;
    const int32_t *position; /* [T] */
    const float *cos_sin;    /* [max_pos, rot_dim/2, 2]: cos, sin */
    int64_t max_pos;         /* positions >= max_pos are a bug (NS_ASSERT) */
    void *qk;
    int inverse; /* 1: rotate back (backward) */
} ns_rope_args;

/* Attention over segments, grouped-query: query head h reads kv head h / (n_heads/n_kv).
 * Query row i of segment s (q_len rows from cu_q[s]) sees kv rows j of the segment (kv_len[s] rows from kv_start[s]) with
 *   j <= i + kv_len - q_len (causal)  and  j > i + kv_len - q_len - window (window > 0).
 * scores = softcap(scale * q.k); out = drop(softmax(scores)) v; lse = log sum exp(scores).
 * drop keeps a probability, divided by 1 - dropout, or makes it 0: by Philox(key; j, token of row i, step, op and head and layer), j
 * counted within the segment's keys, so that every layout drops the same. The backward pass draws the same again. */
typedef struct ns_attn_args {
    int64_t T;                    /* rows of q/out, live and dead */
    int64_t n_seg, max_q, max_kv; /* live segments (host value, part of the batch geometry), longest lengths */
    int64_t n_heads, n_kv, head_dim;
    ns_dtype dt;
    float scale, softcap; /* softcap 0: none */
    int64_t window;       /* 0: none */
    int causal;
    int64_t live_seg, live_len,
        live_rows;           /* what the host knows of cu_q: segments in front that are not empty, the longest,
                                            * rows in them. Equal lengths allow faster kernels. 0: not known */
    const int32_t *cu_q;     /* [n_seg+1] */
    const int32_t *kv_start; /* [n_seg], NULL: cu_q */
    const int32_t *kv_len;   /* [n_seg], NULL: q lengths */
    int64_t T_kv; /* > 0, with kv_start: rows of k and v, and segments' keys follow each other (kv_start never falls) */
    const void *q, *k, *v; /* row strides below, in elements; head h at +h*head_dim */
    int64_t q_stride, k_stride, v_stride;
    void *out;             /* [T, n_heads*head_dim] */
    float *lse;            /* [n_heads, T], NULL in inference */
    float dropout;         /* 0: none */
    uint32_t layer, op;    /* < 4096, < 256 */
    int64_t head0;         /* number of head 0 in the whole model; all < 4096 */
    const uint32_t *token; /* [T] number of each query row in the data set; NULL: its row */
    /* backward only */
    const void *dout;   /* [T, n_heads*head_dim] */
    void *dq, *dk, *dv; /* same strides as q, k, v; assigned; rows of the dead tail set to 0 */
} ns_attn_args;

/* Attention over keys that come in parts (context parallel ring): with lse of each part,
 *   lse' = log(exp(lse) + exp(part_lse)),  acc' = acc exp(lse - lse') + part exp(part_lse - lse')
 * for rows [cu_q[0], cu_q[n_seg]). A side that saw no key has lse -inf and adds nothing; both: acc 0. */
typedef struct ns_attn_merge_args {
    int64_t T, n_heads, head_dim;
    ns_dtype dt;
    int64_t n_seg;
    const int32_t *cu_q;   /* [n_seg+1] */
    const void *part;      /* [T, n_heads*head_dim] */
    const float *part_lse; /* [n_heads,T] */
    float *acc;            /* [T, n_heads*head_dim] */
    float *lse;            /* [n_heads,T] */
    int assign;            /* 1: the first part: acc = part for all T rows; part_lse and lse are not looked at */
    void *out;             /* [T, n_heads*head_dim] acc of all T rows behind the last part; NULL: more come */
} ns_attn_merge_args;

/* acc = (assign ? 0 : acc) + src + more, then out[row[t],:] = acc[t,:]: gradients that come in parts, added in f32. */
typedef struct ns_sum_rows_args {
    int64_t T, cols;
    ns_dtype dt; /* of src and out */
    int assign;
    const void *src; /* [T] rows of src_stride; NULL: none */
    int64_t src_stride;
    const float *more; /* [T,cols] or NULL */
    float *acc;        /* [T,cols] */
    void *out;         /* NULL: more comes */
    int64_t out_stride, out_rows;
    const int32_t *row; /* [T] < out_rows, negative: not written; NULL: row[t] = t */
} ns_sum_rows_args;

typedef enum ns_act { NS_ACT_SWIGLU, NS_ACT_GEGLU_TANH, NS_ACT_RELU2 } ns_act;
/* Gated: y[T,F] = act(g[T,F]) * u[T,F], with [g|u] = x[T,2F]. RELU2 is plain: x[T,F]. */
typedef struct ns_act_args {
    int64_t T, F;
    ns_dtype dt;
    ns_act act;
    const void *x;
    void *y;        /* fwd; bwd: the same again, NULL: not wanted */
    const void *dy; /* bwd in */
    void *dx;       /* bwd out, like x */
} ns_act_args;

/* A vocabulary split over ranks needs the head twice: STATS, then what the ranks have to say is combined, then GIVEN. */
typedef enum ns_head_phase {
    NS_HEAD_WHOLE, /* all in one pass */
    NS_HEAD_STATS, /* only stats: [T,2] log-sum-exp over these rows; logit of the label, -inf where it is not among them */
    NS_HEAD_GIVEN /* loss and gradients with stats of the whole vocabulary; dx is this rank's share of it */
} ns_head_phase;

/* Linear cross-entropy head: logits = x W^T (softcap), CE_t = lse_t - logit_t[label], chunked so that [T,V] never exists.
 * Vocabulary rows >= V (padding rows of W) are outside the softmax. step->loss_sum += sum_t weight_t CE_t (token order).
 * With dx: dlogit = weight_t / step->weight_sum * (softmax - onehot); dx assigned, W.grad added (NULL grad: skipped). */
typedef struct ns_head_args {
    int64_t T, C, V; /* V = real vocabulary; W has w->rows >= V rows */
    ns_dtype dt;
    float softcap;
    const ns_weight *w;
    const void *x;        /* [T,C] */
    const int32_t *label; /* [T] */
    const float *weight;  /* [T] */
    float *logp;          /* [T] out: -CE_t where weight != 0, else 0; may be NULL */
    void *dx;             /* [T,C] or NULL: loss only */
    ns_head_phase phase;
    int64_t v0;    /* word of W's first row: labels are words. 0 in one pass. V may be 0 in two */
    float *stats;  /* [T,2]; STATS writes, GIVEN reads. Not with softcap */
    int assign_dw; /* as in ns_linear_args */
} ns_head_args;

/* y = x * keep/(1-p), keep from Philox(key; step, layer, op, token, element): the same call is its own backward. Tokens and elements
 * have the numbers of the whole model and data set, so that every layout drops the same. */
typedef struct ns_dropout_args {
    int64_t T, C;
    ns_dtype dt;
    float p;
    uint32_t layer, op;
    int64_t token0; /* number of row 0, without `token` */
    const void *x;
    void *y;               /* may alias x */
    const uint32_t *token; /* [T] number of each row, or NULL */
    int64_t c0;            /* number of column 0 */
} ns_dropout_args;

/* y = x + delta, elementwise; y may alias either. */
typedef struct ns_add_args {
    int64_t n;
    ns_dtype dt;
    const void *x, *delta;
    void *y;
} ns_add_args;

/* What the optimiser keeps of a bf16 weight and its moments; all zero: exact to f32, moments f32. What is kept in bf16 is computed in f32
 * and rounded stochastically: x + (r in [0, 2^16)) / 2^16 of a bf16 step, cut off; r by Philox(exec.key; step, tensor, index), the same
 * on every layout and back-end. To the nearest, steps below half a unit (2^-9 of the value) would be lost for good. */
typedef struct ns_opt_form {
    int no_rem;    /* 1: a bf16 weight is all there is; 0: bf16 and remainder, bit for bit a f32 main weight */
    ns_dtype m, v; /* F32 or BF16 */
} ns_opt_form;
/* One optimiser item: a storage parameter (or a shard of it). All items of a call have one form and one dt. */
typedef struct ns_opt_item {
    int64_t n;
    ns_dtype dt;  /* of w */
    void *w;      /* F32: the main weight; BF16: high half of it, or all of it */
    int16_t *rem; /* BF16: 16-bit remainder; NULL: F32, or no_rem */
    float *grad;
    void *m, *v;
    ns_opt_form form;
    uint32_t tensor; /* number of the parameter in the whole model, and of element 0 in it (a multiple of 8): for r */
    int64_t first;
    int decay; /* 1: weight decay applies */
} ns_opt_item;
typedef struct ns_opt_args {
    const ns_opt_item *items;
    int64_t n_items;
} ns_opt_args;
/* Counter and key of the 4 words that serve elements 8 g .. 8 g + 7 of a tensor: element e has half e & 1 (low first) of word e / 2. */
enum { NS_ROUND_WEIGHT, NS_ROUND_M, NS_ROUND_V, NS_ROUND_KEY = 0x6164616d };
static inline void ns_round_words(uint32_t out[4], ns_philox_key key, int64_t step, uint32_t tensor, int what,
                                  int64_t g)
{
    const uint32_t ctr[4] = {(uint32_t)g, (uint32_t)(g >> 32) << 8 | (uint32_t)what, tensor, (uint32_t)step};
    ns_philox(out, ctr, (ns_philox_key){{key.k[0], NS_ROUND_KEY}});
}

/* dst[row[t], 0:cols] = src[t, 0:cols] for rows with row[t] >= 0: keys and values into their cache, or into order. */
typedef struct ns_scatter_args {
    int64_t T, cols;
    ns_dtype dt;
    const void *src;
    int64_t src_stride;
    void *dst;
    int64_t dst_rows;   /* bound of row[t] */
    const int32_t *row; /* [T]; NULL: row[t] = t */
    int64_t dst_stride; /* elements between rows of dst; 0: cols */
} ns_scatter_args;

typedef struct ns_fill_args {
    void *p;
    int64_t bytes; /* set to zero */
} ns_fill_args;

typedef struct ns_ops {
    const char *name;
    int assigns_grads; /* 1: assign_dw is obeyed, and saves a pass over memory */
    int fp8;           /* 1: ns_weight.fp8 is obeyed; else it must be NS_FP8_OFF */
    void (*embed_fwd)(ns_exec *, const ns_embed_args *);
    void (*embed_bwd)(ns_exec *, const ns_embed_args *);
    void (*norm_fwd)(ns_exec *, const ns_norm_args *);
    void (*norm_bwd)(ns_exec *, const ns_norm_bwd_args *);
    void (*linear_fwd)(ns_exec *, const ns_linear_args *);
    void (*linear_dgrad)(ns_exec *, const ns_linear_args *);
    void (*linear_wgrad)(ns_exec *, const ns_linear_args *);
    void (*rope)(ns_exec *, const ns_rope_args *);
    void (*attn_fwd)(ns_exec *, const ns_attn_args *);
    void (*attn_bwd)(ns_exec *, const ns_attn_args *);         /* needs out, lse, dout */
    void (*attn_merge)(ns_exec *, const ns_attn_merge_args *); /* NULL: the back-end has no ring; so sum_rows */
    void (*sum_rows)(ns_exec *, const ns_sum_rows_args *);
    void (*act_fwd)(ns_exec *, const ns_act_args *);
    void (*act_bwd)(ns_exec *, const ns_act_args *);
    void (*head)(ns_exec *, const ns_head_args *);
    void (*dropout)(ns_exec *, const ns_dropout_args *);
    void (*add)(ns_exec *, const ns_add_args *);
    void (*scatter_rows)(ns_exec *, const ns_scatter_args *);
    void (*zero)(ns_exec *, const ns_fill_args *);
    void (*grad_sumsq)(ns_exec *,
                       const ns_opt_args *);       /* step->grad_sumsq = sum g^2 (f64, item order); sets nonfinite */
    void (*clip)(ns_exec *, const ns_opt_args *);  /* step->clip_coef from grad_sumsq; args unused (may be NULL) */
    void (*adamw)(ns_exec *, const ns_opt_args *); /* training.md §2.10, g scaled by clip_coef; skipped if nonfinite */
    void (*prepare)(ns_exec *, const ns_weight *); /* refresh panels after data changed */
    /* Memory of the back-end. Plain memory and memcpy on a CPU; on a device, copies are ordered with the ops of the exec.
     * upload: src may be reused on return, nothing is waited for. download waits for all before it: the only such op. */
    ns_status (*mem_new)(ns_exec *, void **out, int64_t bytes, ns_error *err); /* zeroed */
    void (*mem_free)(ns_exec *, void *p);
    void (*upload)(ns_exec *, void *dst, const void *src, int64_t bytes);
    void (*download)(ns_exec *, void *dst, const void *src, int64_t bytes);
    /* Copies to the host beside the ops, for snapshots: copies come behind the ops before copy_begin and go on while later ones run; what is
     * called after copy_hold waits until all of them have been read; copy_wait waits until the bytes are there. copy_held, after a
     * download: seconds for which the last copy_hold made the device stand still. copy_wait, pin, unpin: from any one thread beside the
     * exec's. Pinned host memory is copied at full speed; a copy lies within one pinned piece. On a CPU all copies are made at once. */
    void (*copy_begin)(ns_exec *);
    void (*copy_out)(ns_exec *, void *dst, const void *src, int64_t bytes);
    void (*copy_end)(ns_exec *);
    void (*copy_hold)(ns_exec *);
    double (*copy_held)(ns_exec *);
    ns_status (*copy_wait)(ns_exec *, ns_error *err);
    ns_status (*pin)(ns_exec *, void *host, int64_t bytes, ns_error *err);
    void (*unpin)(ns_exec *, void *host);
    /* Sizes, known without a device. Panels may be 0 (form not used). */
    void (*prepare_bytes)(const ns_weight *, int64_t *fwd, int64_t *dx);
    int64_t (*work_bytes)(const ns_exec *, int64_t T, int64_t max_len, int64_t C, int64_t F, int64_t V, int64_t n_heads,
                          int64_t head_dim);
} ns_ops;

/* Tables. ns_ops_ref is complete and constant. ns_ops_cpu fills *out for this machine; `level` forces a path:
 * "auto", "ref", "f32" (OpenBLAS tiles), "avx2", "avx512", "amx" (also from the variable NS_ISA). Err: level not available here. */
extern const ns_ops ns_ops_ref;
extern const ns_ops ns_ops_plan;
NS_MUST_USE ns_status ns_ops_cpu(ns_ops *out, const char *level, ns_error *err);

#endif
