/* Private to ref/ (and to back-ends that fall back on it): element access and the functions of the reference table.
 *
 * Rounding points in bf16: every op reads bf16, computes in f32 or wider and rounds once per stored element. The one
 * exception is RMSNorm, which rounds h*rstd before the multiplication by w as LlamaRMSNorm does (not with plus_one: Gemma
 * multiplies in f32). With F32 nothing is rounded in between. */
#ifndef NS_OPS_REF_H
#define NS_OPS_REF_H

#include "ops/ops.h"

static inline float ns_ref_load(const void *p, ns_dtype t, int64_t i)
{
    return t == NS_DTYPE_BF16 ? ns_bf16_to_f32(((const uint16_t *)p)[i]) : ((const float *)p)[i];
}

static inline void ns_ref_store(void *p, ns_dtype t, int64_t i, float v)
{
    if (t == NS_DTYPE_BF16)
        ((uint16_t *)p)[i] = ns_f32_to_bf16(v);
    else
        ((float *)p)[i] = v;
}

/* 1 if exec.work has `need` bytes; else sets exec.err and returns 0 (the op must then return). */
static inline int ns_ref_work(ns_exec *x, int64_t need, const char *op)
{
    if (x->work && x->work_bytes >= need) return 1;
    ns_error_set(&x->err, NS_ERR_INTERNAL, __FILE__, __LINE__, "%s: work buffer has %lld bytes, %lld needed", op,
                 (long long)(x->work ? x->work_bytes : 0), (long long)need);
    return 0;
}

void ns_ref_embed_fwd(ns_exec *x, const ns_embed_args *a);
void ns_ref_embed_bwd(ns_exec *x, const ns_embed_args *a);
void ns_ref_norm_fwd(ns_exec *x, const ns_norm_args *a);
void ns_ref_norm_bwd(ns_exec *x, const ns_norm_bwd_args *a);
void ns_ref_linear_fwd(ns_exec *x, const ns_linear_args *a);
void ns_ref_linear_dgrad(ns_exec *x, const ns_linear_args *a);
void ns_ref_linear_wgrad(ns_exec *x, const ns_linear_args *a);
void ns_ref_rope(ns_exec *x, const ns_rope_args *a);
void ns_ref_attn_fwd(ns_exec *x, const ns_attn_args *a);
void ns_ref_attn_bwd(ns_exec *x, const ns_attn_args *a);
void ns_ref_attn_merge(ns_exec *x, const ns_attn_merge_args *a);
void ns_ref_sum_rows(ns_exec *x, const ns_sum_rows_args *a);
void ns_ref_act_fwd(ns_exec *x, const ns_act_args *a);
void ns_ref_act_bwd(ns_exec *x, const ns_act_args *a);
void ns_ref_head(ns_exec *x, const ns_head_args *a);
void ns_ref_dropout(ns_exec *x, const ns_dropout_args *a);
void ns_ref_add(ns_exec *x, const ns_add_args *a);
void ns_ref_scatter_rows(ns_exec *x, const ns_scatter_args *a);
void ns_ref_zero(ns_exec *x, const ns_fill_args *a);
void ns_ref_grad_sumsq(ns_exec *x, const ns_opt_args *a);
ns_status ns_ref_mem_new(ns_exec *x, void **out, int64_t bytes, ns_error *err);
void ns_ref_mem_free(ns_exec *x, void *p);
void ns_ref_copy(ns_exec *x, void *dst, const void *src, int64_t bytes); /* upload, download, copy_out */
void ns_ref_copy_mark(ns_exec *x);                                       /* copy_begin, copy_end, copy_hold: nothing */
double ns_ref_copy_held(ns_exec *x);
ns_status ns_ref_copy_wait(ns_exec *x, ns_error *err);
ns_status ns_ref_pin(ns_exec *x, void *host, int64_t bytes, ns_error *err);
void ns_ref_unpin(ns_exec *x, void *host);
void ns_ref_clip(ns_exec *x, const ns_opt_args *a);
void ns_ref_adamw(ns_exec *x, const ns_opt_args *a);

#endif
