/* Launchers of the CUDA kernels: plain C, device pointers, a stream; no state, no synchronisation. plugin.c calls them.
 * `bf16`: element type of activations, 1 BF16, 0 F32. Weights have their own flag (`wbf16`). Each launcher only enqueues;
 * plugin.c asks cudaGetLastError after every op. Everything is deterministic (no atomics, fixed reduction orders) but cuDNN's
 * attention backward. */
#ifndef NS_CUDA_KERNELS_H
#define NS_CUDA_KERNELS_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef void *nsk_stream; /* cudaStream_t */

/* embed.cu */
void nsk_embed_fwd(nsk_stream s, int bf16, int wbf16, int64_t T, int64_t C, const int32_t *ids, const void *table,
                   void *x);
int64_t nsk_embed_bwd_work(int64_t T, int64_t V);
void nsk_embed_bwd(nsk_stream s, int bf16, int64_t T, int64_t C, int64_t V, const int32_t *ids, const void *dx,
                   float *grad, void *work);

/* rows.cu */
void nsk_norm_fwd(nsk_stream s, int bf16, int wbf16, int64_t T, int64_t C, float eps, int plus_one, const void *w,
                  const void *x, const void *delta, void *h, void *y, float *rstd);
int64_t nsk_norm_bwd_work(int64_t T, int64_t C);
void nsk_norm_bwd(nsk_stream s, int bf16, int wbf16, int64_t T, int64_t C, int plus_one, const void *w, float *dw,
                  const void *h, const float *rstd, const void *dy, const void *dres, void *dh, void *y, float *work);
int64_t nsk_bias_grad_work(int64_t N);
void nsk_bias_grad(nsk_stream s, int bf16, int64_t M, int64_t N, const void *dy, float *grad, float *work);
void nsk_rope(nsk_stream s, int bf16, int64_t T, int64_t n_heads, int64_t head_dim, int64_t row_stride, int64_t rot_dim,
              const int32_t *position, const float *cos_sin, void *qk, int inverse);
void nsk_act_fwd(nsk_stream s, int bf16, int act, int64_t T, int64_t F, const void *x, void *y);
void nsk_act_bwd(nsk_stream s, int bf16, int act, int64_t T, int64_t F, const void *x, const void *dy, void *dx,
                 void *y);
void nsk_dropout(nsk_stream s, int bf16, int64_t T, int64_t C, float p, uint32_t op_layer, int64_t token0, uint32_t k0,
                 uint32_t k1, const uint32_t *dropout_step, const void *x, void *y, const uint32_t *token, int64_t c0);
void nsk_add(nsk_stream s, int bf16, int64_t n, const void *x, const void *delta, void *y);
void nsk_scatter(nsk_stream s, int elem_bytes, int64_t T, int64_t cols, const void *src, int64_t src_stride, void *dst,
                 const int32_t *row, int64_t dst_stride);
/* own[n] becomes the sum over members, added in f32 in their order; in: the others' values one after another, `each` apart */
void nsk_add_members(nsk_stream s, int bf16, int64_t n, void *own, const void *in, int64_t each, int members, int rank);

enum { NSK_HEAD_WHOLE, NSK_HEAD_STATS, NSK_HEAD_GIVEN }; /* ns_head_phase */
/* head.cu: one chunk of n rows of logits [n, ld] f32, replaced in place by d logits (bf16 rows of stride 2*ld, or f32). */
void nsk_head_chunk(nsk_stream s, int bf16, int64_t n, int64_t V, int64_t ld, float softcap, float *logits,
                    const int32_t *label, const float *weight, const double *weight_sum, float *logp, double *loss,
                    int with_grad, int mode, int64_t v0, float *stats);
void nsk_head_loss(nsk_stream s, int64_t T, const double *loss, double *loss_sum);

/* optim.cu; pointers into ns_step are passed one by one, so that this header needs no ns type */
typedef struct
    nsk_opt { /* one item of the optimiser; the table lies in device memory, nsk_opt_work bytes with what follows it */
    int64_t n, first_chunk; /* chunks of the items before it */
    void *w;
    int16_t *rem;
    const float *grad;
    void *m, *v;   /* of the form's types */
    int64_t first; /* number of element 0 in its tensor, a multiple of 8: for stochastic rounding */
    uint32_t tensor;
    int32_t decay, aligned, pad; /* aligned: all to 16 bytes */
} nsk_opt;
/* What all items of a call keep (ns_opt_form). */
typedef struct nsk_opt_form {
    int bf16, no_rem, m_bf16, v_bf16; /* bf16: the weights */
    uint32_t k0, k1;                  /* key of the rounding */
} nsk_opt_form;
int64_t nsk_opt_chunks(int64_t n);
int64_t nsk_opt_work(int64_t n_items);
void nsk_sumsq(nsk_stream s, const nsk_opt *items, int n_items, int64_t n_chunks, double *sum);
void nsk_sumsq_end(nsk_stream s, const double *sum, int32_t *nonfinite);
void nsk_clip(nsk_stream s, const double *sumsq, const float *clip, float *coef);
typedef struct nsk_adamw_scalars { /* addresses of the fields in device memory */
    const float *lr, *beta1, *beta2, *eps, *weight_decay, *clip_coef;
    const int64_t *t;
    const int32_t *nonfinite;
} nsk_adamw_scalars;
void nsk_adamw(nsk_stream s, const nsk_opt_form *form, const nsk_adamw_scalars *sc, const nsk_opt *items, int n_items,
               int64_t n_chunks);

/* fp8.cu: bf16 [M,K], 16-byte aligned, K a multiple of 16, to fp8 bytes. amax clears the head and sets its first field; cast
 * reads that, sets the second, and writes row [M,K] and trans [K, M rounded up to 16] (either may be NULL). transpose: [M,K]
 * bytes to [K, M rounded up]. */
enum { NSK_E4M3, NSK_E5M2 };
typedef struct nsk_fp8_head { /* ns_fp8_head */
    uint32_t amax, zero[3];
    float inverse;
} nsk_fp8_head;
void nsk_fp8_amax(nsk_stream s, int64_t n, const void *x, nsk_fp8_head *head);
void nsk_fp8_cast(nsk_stream s, int kind, int64_t M, int64_t K, const void *x, nsk_fp8_head *head, void *row,
                  void *trans);
void nsk_fp8_transpose(nsk_stream s, int64_t M, int64_t K, const void *x, void *trans);

int nsk_probe(void); /* 0, or the cudaError_t that using a kernel gives */

/* attn.cu, attn_hd*.cu */
typedef struct nsk_attn {
    int64_t T, T_kv, n_seg, max_q, max_kv, n_heads, n_kv, head_dim;
    int bf16, causal;
    float scale, softcap;
    int64_t window;
    const int32_t *cu_q, *kv_start, *kv_len;
    const void *q, *k, *v;
    int64_t q_stride, k_stride, v_stride;
    void *out;
    float *lse;
    const void *dout;
    void *dq, *dk, *dv;
    void *work;
    int64_t work_bytes;                    /* nsk_attn_work, or more for cuDNN */
    int64_t live_seg, live_len, live_rows; /* of ns_attn_args */
    float dropout;                         /* 0: none; the rest of its counter and key: */
    uint32_t key[2], op_layer, head0;      /* op << 24 | layer */
    const uint32_t *dropout_step, *token;  /* token NULL: the row */
} nsk_attn;
int64_t nsk_attn_work(int64_t T, int64_t T_kv, int64_t n_heads);
int nsk_attn_fast(const nsk_attn *a); /* 1: the tensor-core kernels serve this call */
void nsk_attn_fwd(nsk_stream s, const nsk_attn *a, int force_generic);
void nsk_attn_bwd(nsk_stream s, const nsk_attn *a, int force_generic);

/* attn_parts.cu: ns_attn_merge_args, ns_sum_rows_args */
void nsk_attn_merge(nsk_stream s, int bf16, int64_t T, int64_t n_heads, int64_t head_dim, int64_t n_seg,
                    const int32_t *cu, const void *part, const float *part_lse, float *acc, float *lse, int assign,
                    void *out);
void nsk_sum_rows(nsk_stream s, int bf16, int64_t T, int64_t cols, int assign, const void *src, int64_t src_stride,
                  const float *more, float *acc, void *out, int64_t out_stride, const int32_t *row);

/* attn_cudnn.cpp. run: 1 enqueued, 0 not served (*why; the own kernels do it), -1 failed. */
typedef struct nsk_cudnn nsk_cudnn;
nsk_cudnn *nsk_cudnn_open(const char **why);
void nsk_cudnn_close(nsk_cudnn *c);
int nsk_cudnn_version(const nsk_cudnn *c); /* 91900; 0: none */
int64_t nsk_cudnn_work(int64_t T, int64_t n_heads, int64_t head_dim);
int nsk_cudnn_run(nsk_cudnn *c, nsk_stream s, const nsk_attn *a, int backward, const char **why);
/* attn.cu, for it: lengths and offsets of b segments (beyond n_seg: empty) in four arrays of `each` ints; lse between [nh,T]
 * and cuDNN's [b,nh,len] (len 0: [T,nh]); zeros for the rows behind the live ones */
void nsk_cudnn_offsets(nsk_stream s, int64_t b, int64_t n_seg, const int32_t *cu, int64_t row, int64_t wide, int64_t nh,
                       int32_t *out, int64_t each);
void nsk_cudnn_lse(nsk_stream s, int64_t T, int64_t nh, int64_t len, int64_t rows, float *lse, float *theirs, int to);
void nsk_cudnn_tail(nsk_stream s, const nsk_attn *a, int backward);

#ifdef __cplusplus
}
#endif
#endif
