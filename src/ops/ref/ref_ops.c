/* The reference table: the meaning of every op (ops.h). Plain loops, f32 or wider accumulation, complete. */
#include "ops/ref/ref.h"

static void prepare(ns_exec *x, const ns_weight *w)
{
    (void)x, (void)w; /* reads weights as they are */
}

static void prepare_bytes(const ns_weight *w, int64_t *fwd, int64_t *dx)
{
    (void)w;
    *fwd = *dx = 0;
}

/* The largest single need: a row of logits and of dx in double (head), or three rows of a head (attention). */
static int64_t work_bytes(const ns_exec *x, int64_t T, int64_t max_len, int64_t C, int64_t F, int64_t V,
                          int64_t n_heads, int64_t head_dim)
{
    (void)x, (void)T, (void)max_len, (void)F, (void)n_heads;
    int64_t head = (V + C) * 8, attn = head_dim * 16;
    return head > attn ? head : attn;
}

const ns_ops ns_ops_ref = {
    .name = "ref",
    .fp8 = 1,
    .embed_fwd = ns_ref_embed_fwd,
    .embed_bwd = ns_ref_embed_bwd,
    .norm_fwd = ns_ref_norm_fwd,
    .norm_bwd = ns_ref_norm_bwd,
    .linear_fwd = ns_ref_linear_fwd,
    .linear_dgrad = ns_ref_linear_dgrad,
    .linear_wgrad = ns_ref_linear_wgrad,
    .rope = ns_ref_rope,
    .attn_fwd = ns_ref_attn_fwd,
    .attn_bwd = ns_ref_attn_bwd,
    .attn_merge = ns_ref_attn_merge,
    .sum_rows = ns_ref_sum_rows,
    .act_fwd = ns_ref_act_fwd,
    .act_bwd = ns_ref_act_bwd,
    .head = ns_ref_head,
    .dropout = ns_ref_dropout,
    .add = ns_ref_add,
    .scatter_rows = ns_ref_scatter_rows,
    .zero = ns_ref_zero,
    .grad_sumsq = ns_ref_grad_sumsq,
    .clip = ns_ref_clip,
    .adamw = ns_ref_adamw,
    .prepare = prepare,
    .mem_new = ns_ref_mem_new,
    .mem_free = ns_ref_mem_free,
    .upload = ns_ref_copy,
    .download = ns_ref_copy,
    .copy_begin = ns_ref_copy_mark,
    .copy_out = ns_ref_copy,
    .copy_end = ns_ref_copy_mark,
    .copy_hold = ns_ref_copy_mark,
    .copy_held = ns_ref_copy_held,
    .copy_wait = ns_ref_copy_wait,
    .pin = ns_ref_pin,
    .unpin = ns_ref_unpin,
    .prepare_bytes = prepare_bytes,
    .work_bytes = work_bytes,
};
