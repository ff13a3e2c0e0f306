/* Launchers of the CUDA kernels: plain C, device pointers, a stream; no state, no synchronisation. plugin.c calls them.
 * `bf16`: element type of activations, 1 BF16, 0 F32. Weights have their own flag (`wbf16`). Each launcher only enqueues;
 * plugin.c asks cudaGetLastError after every op. Everything is deterministic: no atomics, fixed reduction orders. */
#ifndef NS_CUDA_KERNELS_H
#define NS_CUDA_KERNELS_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef void *nsk_stream; /* cudaStream_t */

/* rows.cu */
void nsk_embed_fwd(nsk_stream s, int bf16, int wbf16, int64_t T, int64_t C, const int32_t *ids, const void *table,
                   void *x);
void nsk_embed_bwd(nsk_stream s, int bf16, int64_t T, int64_t C, const int32_t *ids, const void *dx, float *grad);
void nsk_norm_fwd(nsk_stream s, int bf16, int wbf16, int64_t T, int64_t C, float eps, int plus_one, const void *w,
                  const void *x, const void *delta, void *h, void *y, float *rstd);
int64_t nsk_norm_bwd_work(int64_t T, int64_t C);
void nsk_norm_bwd(nsk_stream s, int bf16, int wbf16, int64_t T, int64_t C, int plus_one, const void *w, float *dw,
                  const void *h, const float *rstd, const void *dy, const void *dres, void *dh, float *work);
int64_t nsk_bias_grad_work(int64_t N);
void nsk_bias_grad(nsk_stream s, int bf16, int64_t M, int64_t N, const void *dy, float *grad, float *work);
void nsk_rope(nsk_stream s, int bf16, int64_t T, int64_t n_heads, int64_t head_dim, int64_t row_stride, int64_t rot_dim,
              const int32_t *position, const float *cos_sin, void *qk, int inverse);
void nsk_act_fwd(nsk_stream s, int bf16, int act, int64_t T, int64_t F, const void *x, void *y);
void nsk_act_bwd(nsk_stream s, int bf16, int act, int64_t T, int64_t F, const void *x, const void *dy, void *dx);
void nsk_dropout(nsk_stream s, int bf16, int64_t T, int64_t C, float p, uint32_t op_layer, int64_t token0, uint32_t k0,
                 uint32_t k1, const uint32_t *dropout_step, const void *x, void *y, const uint32_t *token, int64_t c0);
void nsk_add(nsk_stream s, int bf16, int64_t n, const void *x, const void *delta, void *y);
void nsk_scatter(nsk_stream s, int elem_bytes, int64_t T, int64_t cols, const void *src, int64_t src_stride, void *dst,
                 const int32_t *row);

/* head.cu: one chunk of n rows of logits [n, ld] f32, replaced in place by d logits (bf16 rows of stride 2*ld, or f32). */
void nsk_head_chunk(nsk_stream s, int bf16, int64_t n, int64_t V, int64_t ld, float softcap, float *logits,
                    const int32_t *label, const float *weight, const double *weight_sum, float *logp, double *loss,
                    int with_grad);
void nsk_head_loss(nsk_stream s, int64_t T, const double *loss, double *loss_sum);

/* optim.cu; pointers into ns_step are passed one by one, so that this header needs no ns type */
int64_t nsk_sumsq_work(void);
void nsk_sumsq(nsk_stream s, int64_t n, const float *g, double *sum, int first, double *work);
void nsk_sumsq_end(nsk_stream s, const double *sum, int32_t *nonfinite);
void nsk_clip(nsk_stream s, const double *sumsq, const float *clip, float *coef);
typedef struct nsk_adamw_scalars { /* addresses of the fields in device memory */
    const float *lr, *beta1, *beta2, *eps, *weight_decay, *clip_coef;
    const int64_t *t;
    const int32_t *nonfinite;
} nsk_adamw_scalars;
void nsk_adamw(nsk_stream s, const nsk_adamw_scalars *sc, int64_t n, int bf16, void *w, int16_t *rem, const float *g,
               float *m, float *v, int decay);

int nsk_probe(void); /* 0, or the cudaError_t that using a kernel gives */

/* attn.cu, attn_hd*.cu */
typedef struct nsk_attn {
    int64_t T, n_seg, max_q, max_kv, n_heads, n_kv, head_dim;
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
    void *work; /* nsk_attn_work bytes */
} nsk_attn;
int64_t nsk_attn_work(int64_t T, int64_t n_heads);
int nsk_attn_fast(const nsk_attn *a); /* 1: the tensor-core kernels serve this call */
void nsk_attn_fwd(nsk_stream s, const nsk_attn *a, int force_generic);
void nsk_attn_bwd(nsk_stream s, const nsk_attn *a, int force_generic);

#ifdef __cplusplus
}
#endif
#endif
