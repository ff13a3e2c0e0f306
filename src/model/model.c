/* Forward and backward of the network, a straight line of ops per block (model.h). Names: C hidden, F ffn, nh query heads,
 * g key/value heads, hd head size, T micro-batch tokens. The residual stream is h; `delta` is what the last sub-layer adds to it;
 * the add is fused into the norm that reads the sum, so block l ends with its mlp output still in delta.
 *
 *   h0 = h1[l-1] + delta        n1 = norm(h0)   qkv = n1 Wqkv^T + b   [norm of q, k heads]   rope(q,k)   att = attention   delta = att Wo^T
 *   h1 = h0 + delta             n2 = norm(h1)   gu = n2 Wgu^T         act = silu(gate) * up         delta = act Wd^T
 *
 * Every attention call uses the full segment capacity S_cap: unused entries of cu_seqlens repeat n_tok, so they are
 * segments of length 0 and the call has the same geometry each step. */
#include <math.h>
#include <string.h>

#include "model/model_priv.h"

enum { DROP_ATTN_OUT = 1, DROP_MLP_OUT = 2, DROP_FFN = 3, DROP_ATTN = 4 };

static const ns_weight *weight(const ns_model *m, ns_kind kind, int layer)
{
    int i = ns_param_find(m->table, kind, layer);
    return i < 0 ? NULL : &m->w[i];
}

static const ns_weight *head_weight(const ns_model *m)
{
    return weight(m, m->arch.tied ? NS_P_EMBED : NS_P_HEAD, -1);
}

static char *at(void *p, int64_t elements, ns_dtype dt)
{
    return ns_model_at(p, elements, dt);
}

static void linear(ns_model *m, ns_exec *x, const ns_weight *w, const ns_weight *b, const void *in, void *out,
                   void *in8)
{
    x->ops->linear_fwd(
        x, &(ns_linear_args){
               .M = m->T, .N = w->rows, .K = w->cols, .dt = m->opt.dt, .w = w, .b = b, .x = in, .y = out, .x8 = in8});
}

/* Gradients of y = x W^T + b: dx = dy W (assigned); W.grad += dy^T x, b.grad += sum dy. Of one product linear_dx comes first
 * and nothing of another in between: m->dy8 passes the cast of dy on. */
static void linear_dx(ns_model *m, ns_exec *x, const ns_weight *w, const void *dy, void *dx)
{
    x->ops->linear_dgrad(x, &(ns_linear_args){.M = m->T,
                                              .N = w->rows,
                                              .K = w->cols,
                                              .dt = m->opt.dt,
                                              .w = w,
                                              .dy = dy,
                                              .dx = dx,
                                              .dy8 = w->grad ? m->dy8 : NULL});
}

static void clear_grad(ns_model *m, ns_exec *x, int param)
{
    x->ops->zero(x, &(ns_fill_args){m->w[param].grad, m->w[param].rows * m->w[param].cols * 4});
}

/* 1 once after ns_model_zero_grad, where the gradient was not cleared but is to be assigned. */
static int take_fresh(ns_model *m, const ns_weight *w)
{
    int fresh = m->fresh[w - m->w];
    m->fresh[w - m->w] = 0;
    return fresh;
}

static void linear_dw(ns_model *m, ns_exec *x, const ns_weight *w, const ns_weight *b, const void *in, const void *dy,
                      void *in8)
{
    if (!w->grad && !(b && b->grad)) return;
    x->ops->linear_wgrad(x, &(ns_linear_args){.M = m->T,
                                              .N = w->rows,
                                              .K = w->cols,
                                              .dt = m->opt.dt,
                                              .w = w,
                                              .b = b,
                                              .x = in,
                                              .dy = dy,
                                              .assign_dw = take_fresh(m, w),
                                              .x8 = in8,
                                              .dy8 = w->grad ? m->dy8 : NULL});
}

/* Of the stream: my rows. */
static void dropout(ns_model *m, ns_exec *x, int l, uint32_t op, const void *in, void *out)
{
    if (m->opt.hidden_dropout <= 0) return;
    NS_ASSERT(m->batch.token);
    x->ops->dropout(x, &(ns_dropout_args){.T = m->Ts,
                                          .C = m->arch.C,
                                          .dt = m->opt.dt,
                                          .p = m->opt.hidden_dropout,
                                          .layer = (uint32_t)l,
                                          .op = op,
                                          .token = m->batch.token + m->T0,
                                          .x = in,
                                          .y = out});
}

/* Within the mlp: my columns. */
static void dropout_ffn(ns_model *m, ns_exec *x, int l, void *data)
{
    if (m->opt.ffn_dropout <= 0) return;
    NS_ASSERT(m->batch.token);
    x->ops->dropout(x, &(ns_dropout_args){.T = m->T,
                                          .C = m->arch.F,
                                          .dt = m->opt.dt,
                                          .p = m->opt.ffn_dropout,
                                          .layer = (uint32_t)l,
                                          .op = DROP_FFN,
                                          .token = m->batch.token,
                                          .c0 = m->opt.tp_rank * m->arch.F,
                                          .x = data,
                                          .y = data});
}

/* ---- the stream: all rows, or with sequence parallel a part of them on each tensor-parallel rank ---- */

/* Adds what each tensor-parallel rank has of [T,C]. Result: my rows of the sum, at their place in data. */
static void *sum_parts(ns_model *m, ns_exec *x, void *data)
{
    void *mine = at(data, m->T0 * m->arch.C, m->opt.dt);
    if (!m->tp || x->err.code != NS_OK) return mine;
    ns_status st = m->opt.stream_split ? ns_comm_reduce_scatter(m->tp, data, m->opt.dt, m->rows, &x->err)
                                       : ns_comm_all_reduce(m->tp, data, m->opt.dt, m->T * m->arch.C, &x->err);
    if (st != NS_OK) ns_error_frame(&x->err, __FILE__, __LINE__, "tensor parallel");
    return mine;
}

static void copy_rows(ns_model *m, ns_exec *x, const void *src, void *dst)
{
    x->ops->scatter_rows(x, &(ns_scatter_args){.T = m->Ts,
                                               .cols = m->arch.C,
                                               .dt = m->opt.dt,
                                               .src = src,
                                               .src_stride = m->arch.C,
                                               .dst = dst,
                                               .dst_rows = m->Ts});
}

/* My rows -> the rows of all, in m->full: good until the next call. */
static const void *all_rows(ns_model *m, ns_exec *x, const void *mine)
{
    if (!m->opt.stream_split) return mine;
    copy_rows(m, x, mine, at(m->full, m->T0 * m->arch.C, m->opt.dt));
    if (m->tp && x->err.code == NS_OK &&
        ns_comm_all_gather(m->tp, m->full, m->rows, (int)ns_dtype_size(m->opt.dt), &x->err) != NS_OK)
        ns_error_frame(&x->err, __FILE__, __LINE__, "sequence parallel");
    return m->full;
}

void ns_model_set_rows(ns_model *m, int64_t T)
{
    const int n = m->opt.tp_size;
    m->T = T;
    m->T0 = 0;
    m->Ts = T;
    if (!m->opt.stream_split) return;
    ns_comm_cut(T, 1, n, m->rows);
    m->T0 = m->rows[m->opt.tp_rank];
    m->Ts = m->rows[m->opt.tp_rank + 1] - m->T0;
    for (int r = 0; r <= n; r++) m->rows[r] *= m->arch.C;
}

/* What the last sub-layer leaves to be added to the stream: my rows of m->delta. */
static void *delta_of(ns_model *m)
{
    return at(m->delta, m->T0 * m->arch.C, m->opt.dt);
}

static void norm(ns_model *m, ns_exec *x, const ns_weight *w, const void *in, const void *delta, void *h, void *y,
                 float *rstd)
{
    x->ops->norm_fwd(x, &(ns_norm_args){.T = m->Ts,
                                        .C = m->arch.C,
                                        .dt = m->opt.dt,
                                        .eps = m->arch.norm_eps,
                                        .plus_one = m->arch.norm_plus_one,
                                        .w = w,
                                        .x = in,
                                        .delta = delta,
                                        .h = h,
                                        .y = y,
                                        .rstd = rstd});
}

/* y: the norm's output again, where it was not kept. dh = dres + d norm; both the stream below and the sub-layer that produced delta receive dh. */
static void norm_bwd(ns_model *m, ns_exec *x, const ns_weight *w, const void *h, const float *rstd, const void *dy,
                     const void *dres, void *dh, void *y)
{
    x->ops->norm_bwd(x, &(ns_norm_bwd_args){.T = m->Ts,
                                            .C = m->arch.C,
                                            .dt = m->opt.dt,
                                            .plus_one = m->arch.norm_plus_one,
                                            .w = w,
                                            .h = h,
                                            .rstd = rstd,
                                            .dy = dy,
                                            .dres = dres,
                                            .dh = dh,
                                            .y = y,
                                            .eps = m->arch.norm_eps});
}

ns_attn_args ns_model_attn_args(ns_model *m, int l, void *qkv)
{
    const ns_arch *a = &m->arch;
    int64_t hd = a->head_dim, stride = (a->n_heads + 2 * a->n_kv) * hd;
    return (ns_attn_args){.T = m->T,
                          .n_seg = m->opt.S_cap,
                          .max_q = m->opt.max_len,
                          .max_kv = m->opt.max_len,
                          .n_heads = a->n_heads,
                          .n_kv = a->n_kv,
                          .head_dim = hd,
                          .dt = m->opt.dt,
                          .scale = 1.0f / __builtin_sqrtf((float)hd),
                          .softcap = a->attn_softcap,
                          .window = a->window,
                          .causal = 1,
                          .live_seg = m->batch.n_seg,
                          .live_len = m->batch.max_len,
                          .live_rows = m->batch.n_tok,
                          .cu_q = m->batch.cu_seqlens,
                          .q = qkv,
                          .k = at(qkv, a->n_heads * hd, m->opt.dt),
                          .v = at(qkv, (a->n_heads + a->n_kv) * hd, m->opt.dt),
                          .q_stride = stride,
                          .k_stride = stride,
                          .v_stride = stride,
                          .dropout = m->opt.attention_dropout,
                          .layer = (uint32_t)l,
                          .op = DROP_ATTN,
                          .head0 = m->opt.tp_rank * a->n_heads,
                          .token = m->batch.token};
}

static void rope(ns_model *m, ns_exec *x, void *qkv, int inverse)
{
    const ns_arch *a = &m->arch;
    x->ops->rope(x, &(ns_rope_args){.T = m->T,
                                    .n_heads = a->n_heads + a->n_kv,
                                    .head_dim = a->head_dim,
                                    .row_stride = (a->n_heads + 2 * a->n_kv) * a->head_dim,
                                    .rot_dim = a->head_dim,
                                    .dt = m->opt.dt,
                                    .position = m->batch.position,
                                    .cos_sin = m->rope,
                                    .max_pos = m->opt.max_len,
                                    .qk = qkv,
                                    .inverse = inverse});
}

/* ---- q/k norm (Qwen3): RMSNorm over each head of q and of k, before rope. The norm ops take rows side by side; q and k are strided
 * within qkv, so they are copied out and back ---- */

/* Columns [at(qkv, col), + n_heads * hd) of all rows, out of qkv or back into it. */
static void copy_heads(ns_model *m, ns_exec *x, void *qkv, int64_t col, int64_t n_heads, void *side, int back)
{
    const ns_arch *a = &m->arch;
    const int64_t w = n_heads * a->head_dim, stride = (a->n_heads + 2 * a->n_kv) * a->head_dim;
    void *in = at(qkv, col, m->opt.dt);
    x->ops->scatter_rows(x, &(ns_scatter_args){.T = m->T,
                                               .cols = w,
                                               .dt = m->opt.dt,
                                               .src = back ? side : in,
                                               .src_stride = back ? w : stride,
                                               .dst = back ? in : side,
                                               .dst_rows = m->T,
                                               .dst_stride = back ? stride : w});
}

static void norm_heads(ns_model *m, ns_exec *x, int l, ns_block_acts *b)
{
    const ns_arch *a = &m->arch;
    for (int k = 0; a->qk_norm && k < 2; k++) {
        const int64_t n = k ? a->n_kv : a->n_heads, col = k ? a->n_heads * a->head_dim : 0;
        void *raw = k ? b->k_raw : b->q_raw;
        copy_heads(m, x, b->qkv, col, n, raw, 0);
        x->ops->norm_fwd(x, &(ns_norm_args){.T = m->T * n,
                                            .C = a->head_dim,
                                            .dt = m->opt.dt,
                                            .eps = a->norm_eps,
                                            .plus_one = a->norm_plus_one,
                                            .w = weight(m, k ? NS_P_K_NORM : NS_P_Q_NORM, l),
                                            .x = raw,
                                            .y = m->heads,
                                            .rstd = k ? b->rstd_k : b->rstd_q});
        copy_heads(m, x, b->qkv, col, n, m->heads, 1);
    }
}

/* dqkv, rotated back: gradients of the norms' outputs become those of their inputs. Uses datt, which attention has read. */
static void norm_heads_bwd(ns_model *m, ns_exec *x, int l, ns_block_acts *b)
{
    const ns_arch *a = &m->arch;
    for (int k = 0; a->qk_norm && k < 2; k++) {
        const int64_t n = k ? a->n_kv : a->n_heads, col = k ? a->n_heads * a->head_dim : 0;
        copy_heads(m, x, m->dqkv, col, n, m->datt, 0);
        x->ops->norm_bwd(x, &(ns_norm_bwd_args){.T = m->T * n,
                                                .C = a->head_dim,
                                                .dt = m->opt.dt,
                                                .plus_one = a->norm_plus_one,
                                                .w = weight(m, k ? NS_P_K_NORM : NS_P_Q_NORM, l),
                                                .h = k ? b->k_raw : b->q_raw,
                                                .rstd = k ? b->rstd_k : b->rstd_q,
                                                .dy = m->datt,
                                                .dh = m->heads,
                                                .eps = a->norm_eps});
        copy_heads(m, x, m->dqkv, col, n, m->heads, 1);
    }
}

/* Inference with a cache: new keys and values go to their cache rows, attention reads the cache. */
static void attend_cache(ns_model *m, ns_exec *x, int l, ns_block_acts *b)
{
    const ns_arch *a = &m->arch;
    ns_attn_args t = ns_model_attn_args(m, l, b->qkv);
    int64_t kv = a->n_kv * a->head_dim;
    x->ops->scatter_rows(x, &(ns_scatter_args){.T = m->T,
                                               .cols = kv,
                                               .dt = m->opt.dt,
                                               .src = t.k,
                                               .src_stride = t.k_stride,
                                               .dst = m->k_cache[l],
                                               .dst_rows = m->opt.kv_rows,
                                               .row = m->kv_row});
    x->ops->scatter_rows(x, &(ns_scatter_args){.T = m->T,
                                               .cols = kv,
                                               .dt = m->opt.dt,
                                               .src = t.v,
                                               .src_stride = t.v_stride,
                                               .dst = m->v_cache[l],
                                               .dst_rows = m->opt.kv_rows,
                                               .row = m->kv_row});
    t.k = m->k_cache[l];
    t.v = m->v_cache[l];
    t.k_stride = t.v_stride = kv;
    t.kv_start = m->kv_start;
    t.kv_len = m->kv_len;
    t.out = b->att;
    x->ops->attn_fwd(x, &t);
}

/* ---- context parallel: queries are mine, keys and values are everybody's ---- */

/* k and v of all ranks into m->kv_all, in the order of the whole batch. */
static void gather_kv(ns_model *m, ns_exec *x, void *qkv)
{
    const ns_attn_args t = ns_model_attn_args(m, 0, qkv); /* for its addresses */
    const int64_t w = ns_model_kv_width(m), rows = m->cp_rows, ranks = m->opt.cp_size;
    x->ops->scatter_rows(x, &(ns_scatter_args){.T = rows,
                                               .cols = w,
                                               .dt = m->opt.dt,
                                               .src = t.k,
                                               .src_stride = t.k_stride,
                                               .dst = at(m->kv_raw, m->opt.cp_rank * rows * w, m->opt.dt),
                                               .dst_rows = rows});
    if (m->cp && x->err.code == NS_OK) {
        for (int r = 0; r <= ranks; r++) m->cp->cut[r] = r * rows;
        if (ns_comm_all_gather(m->cp, m->kv_raw, m->cp->cut, (int)(w * (int64_t)ns_dtype_size(m->opt.dt)), &x->err) !=
            NS_OK)
            ns_error_frame(&x->err, __FILE__, __LINE__, "keys and values of all ranks");
    }
    x->ops->scatter_rows(x, &(ns_scatter_args){.T = ranks * rows,
                                               .cols = w,
                                               .dt = m->opt.dt,
                                               .src = m->kv_raw,
                                               .src_stride = w,
                                               .dst = m->kv_all,
                                               .dst_rows = m->opt.T_whole,
                                               .row = m->cp_row});
}

/* Attention arguments with keys from m->kv_all: the early or the late pieces of all segments. Together their keys would not ascend. */
static ns_attn_args context_args(ns_model *m, const ns_exec *x, int l, void *qkv, int half)
{
    ns_attn_args t = ns_model_attn_args(m, l, qkv);
    const int64_t n = m->opt.S_cap / 2, first = half * n;
    t.n_seg = n;
    t.T_kv = m->n_whole;
    if (x->plan) t.max_kv = (m->opt.max_len + 3) / 4; /* it counts pairs: both calls together half of all */
    t.live_seg = t.live_len = t.live_rows = 0;
    t.cu_q += first;
    t.kv_start = m->kv_start + first;
    t.kv_len = m->kv_len + first;
    t.k = m->kv_all;
    t.v = at(m->kv_all, ns_model_kv_width(m) / 2, m->opt.dt);
    t.k_stride = t.v_stride = ns_model_kv_width(m);
    return t;
}

static void attend_context(ns_model *m, ns_exec *x, int l, ns_block_acts *b)
{
    gather_kv(m, x, b->qkv);
    for (int half = 0; half < 2; half++) {
        ns_attn_args t = context_args(m, x, l, b->qkv, half);
        t.out = b->att;
        t.lse = b->lse;
        x->ops->attn_fwd(x, &t);
    }
}

/* The two pieces of a segment see the same keys: one call for the first pieces, one for the second ones, then the sum over both
 * and over all ranks; each rank takes the rows of its own tokens. */
static void attend_context_bwd(ns_model *m, ns_exec *x, int l, ns_block_acts *b)
{
    const int64_t w = ns_model_kv_width(m), es = (int64_t)ns_dtype_size(m->opt.dt);
    const ns_attn_args d = ns_model_attn_args(m, l, m->dqkv);
    gather_kv(m, x, b->qkv);
    x->ops->zero(x, &(ns_fill_args){m->dqkv, m->T * d.q_stride * es});
    for (int half = 0; half < 2; half++) {
        ns_attn_args t = context_args(m, x, l, b->qkv, half);
        x->ops->zero(x, &(ns_fill_args){m->dkv[half], m->n_whole * w * es});
        t.out = b->att;
        t.lse = b->lse;
        t.dout = m->datt;
        t.dq = (void *)(uintptr_t)d.q;
        t.dk = m->dkv[half];
        t.dv = at(m->dkv[half], w / 2, m->opt.dt);
        x->ops->attn_bwd(x, &t);
    }
    x->ops->add(x, &(ns_add_args){m->n_whole * w, m->opt.dt, m->dkv[0], m->dkv[1], m->dkv[0]});
    if (m->cp && x->err.code == NS_OK &&
        ns_comm_all_reduce(m->cp, m->dkv[0], m->opt.dt, m->n_whole * w, &x->err) != NS_OK)
        ns_error_frame(&x->err, __FILE__, __LINE__, "gradients of keys and values");
    x->ops->scatter_rows(x, &(ns_scatter_args){.T = m->n_whole,
                                               .cols = w,
                                               .dt = m->opt.dt,
                                               .src = m->dkv[0],
                                               .src_stride = w,
                                               .dst = (void *)(uintptr_t)d.k,
                                               .dst_rows = m->T,
                                               .row = m->own_row,
                                               .dst_stride = d.k_stride});
}

/* From h0 to the end of the block; leaves the mlp output in m->delta. */
static void block_from_h0(ns_model *m, ns_exec *x, int l, ns_block_acts *b)
{
    linear(m, x, weight(m, NS_P_QKV, l), weight(m, NS_P_QKV_BIAS, l), all_rows(m, x, b->n1), b->qkv, b->n1_8);
    norm_heads(m, x, l, b);
    rope(m, x, b->qkv, 0);
    if (m->k_cache) {
        attend_cache(m, x, l, b);
    } else if (m->opt.cp_size > 1) {
        (m->opt.cp_ring ? ns_ring_attend : attend_context)(m, x, l, b);
    } else {
        ns_attn_args t = ns_model_attn_args(m, l, b->qkv);
        t.out = b->att;
        t.lse = b->lse;
        x->ops->attn_fwd(x, &t);
    }
    linear(m, x, weight(m, NS_P_O, l), NULL, b->att, m->delta, b->att_8);
    void *delta = sum_parts(m, x, m->delta);
    dropout(m, x, l, DROP_ATTN_OUT, delta, delta);
    norm(m, x, weight(m, NS_P_MLP_NORM, l), b->h0, delta, b->h1, b->n2, b->rstd2);
    linear(m, x, weight(m, NS_P_GATE_UP, l), NULL, all_rows(m, x, b->n2), b->gu, b->n2_8);
    x->ops->act_fwd(
        x, &(ns_act_args){
               .T = m->T, .F = m->arch.F, .dt = m->opt.dt, .act = (ns_act)m->arch.act, .x = b->gu, .y = b->act});
    dropout_ffn(m, x, l, b->act);
    linear(m, x, weight(m, NS_P_DOWN, l), NULL, b->act, m->delta, b->act_8);
    sum_parts(m, x, m->delta);
    dropout(m, x, l, DROP_MLP_OUT, delta, delta);
}

static ns_block_acts *acts_of(ns_model *m, int l, int slot)
{
    return &m->acts[slot * m->n_layers + l - m->first];
}

void ns_block_forward(ns_model *m, ns_exec *x, int l, int slot)
{
    ns_block_acts *b = acts_of(m, l, slot);
    const ns_weight *w = weight(m, NS_P_ATTN_NORM, l);
    if (l == m->first)
        norm(m, x, w, b->h0, NULL, NULL, b->n1, b->rstd1);
    else
        norm(m, x, w, acts_of(m, l - 1, slot)->h1, delta_of(m), b->h0, b->n1, b->rstd1);
    block_from_h0(m, x, l, b);
}

/* In: m->dh = gradient of the block's output stream. Out: m->dh = gradient of its input stream. */
void ns_block_backward(ns_model *m, ns_exec *x, int l, int slot)
{
    ns_block_acts *b = acts_of(m, l, slot);
    const ns_weight *qkv = weight(m, NS_P_QKV, l), *bias = weight(m, NS_P_QKV_BIAS, l);
    int whole = ns_block_recompute(&m->opt, l - m->first) == NS_RECOMPUTE_FULL,
        light = ns_block_recompute(&m->opt, l - m->first) == NS_RECOMPUTE_SELECTIVE;
    if (whole) { /* the shared buffers hold another layer's values: run the block again from its input */
        norm(m, x, weight(m, NS_P_ATTN_NORM, l), b->h0, NULL, NULL, b->n1, b->rstd1);
        block_from_h0(m, x, l, b);
    }
    /* light: n1, n2, act are shared with the other layers; the op that needs their input anyway writes them again */
    const void *dropped = m->opt.hidden_dropout > 0 ? m->delta : m->dh;
    dropout(m, x, l, DROP_MLP_OUT, m->dh, m->delta);
    const void *dy = all_rows(m, x, dropped);
    linear_dx(m, x, weight(m, NS_P_DOWN, l), dy, m->dact);
    dropout_ffn(m, x, l, m->dact);
    x->ops->act_bwd(x, &(ns_act_args){.T = m->T,
                                      .F = m->arch.F,
                                      .dt = m->opt.dt,
                                      .act = (ns_act)m->arch.act,
                                      .x = b->gu,
                                      .dy = m->dact,
                                      .dx = m->dgu,
                                      .y = light ? b->act : NULL});
    if (light) dropout_ffn(m, x, l, b->act);
    linear_dw(m, x, weight(m, NS_P_DOWN, l), NULL, b->act, dy, b->act_8);
    linear_dx(m, x, weight(m, NS_P_GATE_UP, l), m->dgu, m->dtmp);
    const void *dn = sum_parts(m, x, m->dtmp);
    norm_bwd(m, x, weight(m, NS_P_MLP_NORM, l), b->h1, b->rstd2, dn, m->dh, m->dh, light ? b->n2 : NULL);
    linear_dw(m, x, weight(m, NS_P_GATE_UP, l), NULL, all_rows(m, x, b->n2), m->dgu, b->n2_8);

    dropout(m, x, l, DROP_ATTN_OUT, m->dh, m->delta);
    dy = all_rows(m, x, dropped);
    linear_dx(m, x, weight(m, NS_P_O, l), dy, m->datt);
    linear_dw(m, x, weight(m, NS_P_O, l), NULL, b->att, dy, b->att_8);
    if (m->opt.cp_size > 1) {
        (m->opt.cp_ring ? ns_ring_attend_bwd : attend_context_bwd)(m, x, l, b);
    } else {
        ns_attn_args t = ns_model_attn_args(m, l, b->qkv), d = ns_model_attn_args(m, l, m->dqkv);
        t.out = b->att;
        t.lse = b->lse;
        t.dout = m->datt;
        t.dq = (void *)d.q;
        t.dk = (void *)d.k;
        t.dv = (void *)d.v;
        x->ops->attn_bwd(x, &t);
    }
    rope(m, x, m->dqkv, 1);
    norm_heads_bwd(m, x, l, b);
    linear_dx(m, x, qkv, m->dqkv, m->dtmp);
    dn = sum_parts(m, x, m->dtmp);
    norm_bwd(m, x, weight(m, NS_P_ATTN_NORM, l), b->h0, b->rstd1, dn, m->dh, m->dh, light ? b->n1 : NULL);
    linear_dw(m, x, qkv, bias, all_rows(m, x, b->n1), m->dqkv, b->n1_8);
}

int ns_model_is_first(const ns_model *m)
{
    return m->first == 0;
}

int ns_model_is_last(const ns_model *m)
{
    return m->first + m->n_layers == m->arch.L;
}

void *ns_model_in(ns_model *m, int slot)
{
    return m->acts[slot * m->n_layers].h0;
}

static ns_embed_args embed_args(ns_model *m, int slot)
{
    return (ns_embed_args){.T = m->T,
                           .C = m->arch.C,
                           .V = m->arch.vocab_rows,
                           .dt = m->opt.dt,
                           .ids = m->batch.ids,
                           .table = weight(m, NS_P_EMBED, -1),
                           .x = ns_model_in(m, slot),
                           .dx = m->dh};
}

static void weights_needed(ns_model *m, int layer)
{
    if (m->weights_needed) m->weights_needed(m->weights_user, layer);
}

void ns_model_forward(ns_model *m, ns_exec *x, int slot)
{
    const int end = m->first + m->n_layers;
    if (ns_model_is_first(m)) {
        weights_needed(m, -1);
        ns_embed_args e = embed_args(m, slot);
        if (m->opt.stream_split) e.x = m->full;
        x->ops->embed_fwd(x, &e);
        const void *mine = sum_parts(m, x, e.x);
        if (m->opt.stream_split) copy_rows(m, x, mine, ns_model_in(m, slot));
    }
    for (int l = m->first; l < end; l++) {
        weights_needed(m, l);
        ns_block_forward(m, x, l, slot);
    }
    weights_needed(m, (int)m->arch.L);
    const void *h1 = acts_of(m, end - 1, slot)->h1;
    if (ns_model_is_last(m))
        norm(m, x, weight(m, NS_P_FINAL_NORM, -1), h1, delta_of(m), m->hL, m->nL, m->rstdL);
    else
        x->ops->add(x, &(ns_add_args){m->Ts * m->arch.C, m->opt.dt, h1, delta_of(m), m->hL});
}

/* all[ranks, n, 2] -> own[n, 2] of the whole vocabulary, in rank order on every rank; own is one of the rows of all. */
static void join_stats(const float *all, int64_t ranks, int64_t n, const float *weight, float *own)
{
    for (int64_t t = 0; t < n; t++) {
        float top = -INFINITY, label = -INFINITY;
        double sum = 0;
        if (weight[t] == 0) continue;
        for (int64_t r = 0; r < ranks; r++) {
            top = fmaxf(top, all[2 * (r * n + t)]);
            label = fmaxf(label, all[2 * (r * n + t) + 1]);
        }
        for (int64_t r = 0; r < ranks; r++) sum += exp((double)all[2 * (r * n + t)] - (double)top);
        own[2 * t] = (float)((double)top + log(sum));
        own[2 * t + 1] = label;
    }
}

/* stats of all tensor-parallel ranks -> stats of the whole vocabulary. A few bytes a token: on the host, wherever the model is. */
static void combine_stats(ns_model *m, ns_exec *x)
{
    const int64_t ranks = m->opt.tp_size, most = NS_MODEL_STAGE / (8 * ranks + 4);
    for (int64_t t = 0; m->tp && t < m->T && x->err.code == NS_OK; t += most) {
        const int64_t n = m->T - t < most ? m->T - t : most;
        float *all = (float *)(void *)m->stage, *own = all + 2 * n * m->tp->rank, *weight = all + 2 * n * ranks;
        x->ops->download(x, own, m->stats + 2 * t, 8 * n);
        x->ops->download(x, weight, m->batch.weight + t, 4 * n);
        for (int r = 0; r <= ranks; r++) m->tp->cut[r] = 2 * n * r;
        if (ns_comm_all_gather(m->tp, all, m->tp->cut, sizeof *all, &x->err) != NS_OK) return;
        join_stats(all, ranks, n, weight, own);
        x->ops->upload(x, m->stats + 2 * t, own, 8 * n);
    }
}

void ns_model_loss(ns_model *m, ns_exec *x, float *logp, int with_grad)
{
    ns_head_args a = {.T = m->T,
                      .C = m->arch.C,
                      .V = m->arch.vocab,
                      .dt = m->opt.dt,
                      .softcap = m->arch.head_softcap,
                      .w = head_weight(m),
                      .x = all_rows(m, x, m->nL),
                      .label = m->batch.label,
                      .weight = m->batch.weight,
                      .v0 = m->opt.vocab_first,
                      .stats = m->stats};
    if (with_grad && a.w->grad) a.assign_dw = take_fresh(m, a.w);
    if (m->opt.tp_size > 1) {
        a.phase = NS_HEAD_STATS;
        x->ops->head(x, &a);
        combine_stats(m, x);
        a.phase = NS_HEAD_GIVEN;
    }
    a.logp = logp;
    a.dx = with_grad ? m->dtmp : NULL;
    x->ops->head(x, &a);
    if (with_grad) sum_parts(m, x, m->dtmp);
}

void ns_model_backward(ns_model *m, ns_exec *x, int slot)
{
    const void *dn = at(m->dtmp, m->T0 * m->arch.C, m->opt.dt);
    if (ns_model_is_last(m)) norm_bwd(m, x, weight(m, NS_P_FINAL_NORM, -1), m->hL, m->rstdL, dn, NULL, m->dh, NULL);
    for (int l = m->first + m->n_layers - 1; l >= m->first; l--) {
        ns_block_backward(m, x, l, slot);
        if (m->grad_ready) m->grad_ready(m->grad_user, l);
    }
    if (!ns_model_is_first(m)) return;
    ns_embed_args e = embed_args(m, slot);
    e.dx = all_rows(m, x, m->dh);
    if (!e.table->grad) return;
    if (take_fresh(m, e.table)) clear_grad(m, x, (int)(e.table - m->w));
    x->ops->embed_bwd(x, &e);
}

void ns_model_prepare_one(ns_model *m, ns_exec *x, int i)
{
    if (m->w[i].panels_fwd || m->w[i].panels_dx) x->ops->prepare(x, &m->w[i]);
}

void ns_model_prepare(ns_model *m, ns_exec *x)
{
    for (int i = 0; i < m->table->n_params; i++) ns_model_prepare_one(m, x, i);
}

void ns_model_zero_grad(ns_model *m, ns_exec *x)
{
    for (int i = 0; i < m->table->n_params; i++) {
        if (!m->w[i].grad) continue;
        if (x->ops->assigns_grads && m->w[i].cols > 1) /* the first product of the step assigns: no pass over memory */
            m->fresh[i] = 1;
        else
            clear_grad(m, x, i);
    }
}

void ns_model_settle_grad(ns_model *m, ns_exec *x)
{
    for (int i = 0; i < m->table->n_params; i++)
        if (m->fresh[i]) clear_grad(m, x, i), m->fresh[i] = 0;
}

void ns_model_grad_sumsq(ns_model *m, ns_exec *x)
{
    ns_model_settle_grad(m, x);
    x->ops->grad_sumsq(x, &(ns_opt_args){m->items, m->n_counted});
}

void ns_model_update(ns_model *m, ns_exec *x)
{
    ns_opt_args o = {m->items, m->n_items};
    x->ops->clip(x, &o);
    x->ops->adamw(x, &o);
}

void ns_model_logits(ns_model *m, ns_exec *x, const int32_t *rows, int64_t n, float *out)
{
    const ns_weight *w = head_weight(m);
    size_t row_bytes = (size_t)m->arch.C * ns_dtype_size(m->opt.dt);
    for (int64_t i0 = 0; i0 < n; i0 += m->opt.S_cap) {
        int64_t k = n - i0 < m->opt.S_cap ? n - i0 : m->opt.S_cap;
        for (int64_t i = 0; i < k; i++)
            memcpy((char *)m->last_x + (size_t)i * row_bytes, (const char *)m->nL + (size_t)rows[i0 + i] * row_bytes,
                   row_bytes);
        x->ops->linear_fwd(
            x, &(ns_linear_args){
                   .M = k, .N = w->rows, .K = w->cols, .dt = m->opt.dt, .w = w, .x = m->last_x, .y = m->last_y});
        for (int64_t i = 0; i < k; i++)
            ns_to_f32(out + (i0 + i) * m->arch.vocab, at(m->last_y, i * w->rows, m->opt.dt), m->opt.dt,
                      (size_t)m->arch.vocab);
    }
}
