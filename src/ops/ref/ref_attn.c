/* Attention over segments: scores of one (query row, key row) pair are recomputed wherever they are needed, so that
 * nothing but head_dim-sized sums is stored. Backward as in FlashAttention-2 (Dao 2023): with D_i = dout_i . out_i,
 *   p_ij = exp(s_ij - lse_i),  dv_j += p_ij dout_i,  ds_ij = p_ij (dout_i . v_j - D_i),  dq_i += ds_ij k_j,  dk_j += ds_ij q_i. */
#include <math.h>
#include <string.h>

#include "ops/ref/ref.h"

typedef struct segment {
    int64_t q0, nq, k0, nk;
} segment;

static segment get_segment(const ns_attn_args *a, int64_t s)
{
    segment g = {a->cu_q[s], a->cu_q[s + 1] - a->cu_q[s], 0, 0};
    g.k0 = a->kv_start ? a->kv_start[s] : g.q0;
    g.nk = a->kv_len ? a->kv_len[s] : g.nq;
    return g;
}

/* Query row i of the segment sees key rows [*lo, *hi). */
static void visible(const ns_attn_args *a, const segment *g, int64_t i, int64_t *lo, int64_t *hi)
{
    int64_t last = i + g->nk - g->nq;
    *lo = a->window > 0 && last - a->window + 1 > 0 ? last - a->window + 1 : 0;
    *hi = a->causal && last + 1 < g->nk ? last + 1 : g->nk;
}

static double dot(const void *p, int64_t i, const void *q, int64_t j, ns_dtype dt, int64_t n)
{
    double s = 0;
    for (int64_t d = 0; d < n; d++) s += (double)ns_ref_load(p, dt, i + d) * (double)ns_ref_load(q, dt, j + d);
    return s;
}

/* Score of rows iq, jk (absolute) for query head h. *slope: d score / d (scale q.k). */
static double score(const ns_attn_args *a, int64_t iq, int64_t jk, int64_t h, double *slope)
{
    int64_t kvh = h / (a->n_heads / a->n_kv);
    double s = (double)a->scale * dot(a->q, iq * a->q_stride + h * a->head_dim, a->k,
                                      jk * a->k_stride + kvh * a->head_dim, a->dt, a->head_dim);
    *slope = 1;
    if (a->softcap > 0) {
        double t = tanh(s / (double)a->softcap);
        s = (double)a->softcap * t;
        *slope = 1 - t * t;
    }
    return s;
}

static void zero_tail(void *p, ns_dtype dt, int64_t row0, int64_t T, int64_t stride, int64_t cols)
{
    for (int64_t t = row0; p && t < T; t++)
        for (int64_t c = 0; c < cols; c++) ns_ref_store(p, dt, t * stride + c, 0);
}

/* What drop() multiplies the probability of query row iq (absolute) and key j (of the segment) with. */
static double kept(const ns_exec *x, const ns_attn_args *a, int64_t iq, int64_t j, int64_t h)
{
    if (a->dropout <= 0) return 1;
    const int64_t head = a->head0 + h;
    NS_ASSERT(a->layer < 4096 && head < 4096 && a->op < 256 && j <= UINT32_MAX);
    uint32_t word[4], ctr[4] = {(uint32_t)(j / 4), a->token ? a->token[iq] : (uint32_t)iq, x->step->dropout_step,
                                a->op << 24 | (uint32_t)head << 12 | a->layer};
    ns_philox(word, ctr, x->key);
    return ns_u32_to_unit(word[j % 4]) >= a->dropout ? 1 / (1 - (double)a->dropout) : 0;
}

/* One query row and head; acc: head_dim doubles. */
static void fwd_row(const ns_exec *x, const ns_attn_args *a, const segment *g, int64_t i, int64_t h, double *acc)
{
    int64_t lo, hi, hd = a->head_dim, iq = g->q0 + i, kvh = h / (a->n_heads / a->n_kv);
    double top = -INFINITY, sum = 0, slope;
    visible(a, g, i, &lo, &hi);
    for (int64_t j = lo; j < hi; j++) top = fmax(top, score(a, iq, g->k0 + j, h, &slope));
    memset(acc, 0, (size_t)hd * sizeof *acc);
    for (int64_t j = lo; j < hi; j++) {
        double p = exp(score(a, iq, g->k0 + j, h, &slope) - top);
        sum += p;
        p *= kept(x, a, iq, j, h);
        int64_t row = (g->k0 + j) * a->v_stride + kvh * hd;
        for (int64_t d = 0; d < hd; d++) acc[d] += p * (double)ns_ref_load(a->v, a->dt, row + d);
    }
    for (int64_t d = 0; d < hd; d++)
        ns_ref_store(a->out, a->dt, (iq * a->n_heads + h) * hd + d, sum > 0 ? (float)(acc[d] / sum) : 0.0f);
    if (a->lse) a->lse[h * a->T + iq] = sum > 0 ? (float)(top + log(sum)) : -INFINITY;
}

void ns_ref_attn_fwd(ns_exec *x, const ns_attn_args *a)
{
    if (!ns_ref_work(x, a->head_dim * 8, "attn_fwd")) return;
    for (int64_t s = 0; s < a->n_seg; s++) {
        segment g = get_segment(a, s);
        for (int64_t i = 0; i < g.nq; i++)
            for (int64_t h = 0; h < a->n_heads; h++) fwd_row(x, a, &g, i, h, x->work);
    }
    int64_t live = a->n_seg > 0 ? a->cu_q[a->n_seg] : 0;
    zero_tail(a->out, a->dt, live, a->T, a->n_heads * a->head_dim, a->n_heads * a->head_dim);
    for (int64_t h = 0; a->lse && h < a->n_heads; h++)
        for (int64_t t = live; t < a->T; t++) a->lse[h * a->T + t] = 0;
}

/* The kept p and ds (by the unscaled product q.k) of query row iq (absolute) and key j of the segment. With dropout out_i has it
 * too, and D stays dout_i . out_i = sum_j p_ij keep_ij (dout_i . v_j). */
static void pair_grad(const ns_exec *x, const ns_attn_args *a, const segment *g, int64_t iq, int64_t j, int64_t h,
                      double *p, double *ds)
{
    int64_t jk = g->k0 + j, hd = a->head_dim, o = (iq * a->n_heads + h) * hd;
    double slope, s = score(a, iq, jk, h, &slope);
    *p = exp(s - (double)a->lse[h * a->T + iq]);
    double D = dot(a->dout, o, a->out, o, a->dt, hd);
    double dp = dot(a->dout, o, a->v, jk * a->v_stride + h / (a->n_heads / a->n_kv) * hd, a->dt, hd);
    double keep = kept(x, a, iq, j, h);
    *ds = *p * (keep * dp - D) * slope * (double)a->scale;
    *p *= keep;
}

static void bwd_q_row(const ns_exec *x, const ns_attn_args *a, const segment *g, int64_t i, int64_t h, double *acc)
{
    int64_t lo, hi, hd = a->head_dim, iq = g->q0 + i, kvh = h / (a->n_heads / a->n_kv);
    double p, ds;
    visible(a, g, i, &lo, &hi);
    memset(acc, 0, (size_t)hd * sizeof *acc);
    for (int64_t j = lo; j < hi; j++) {
        pair_grad(x, a, g, iq, j, h, &p, &ds);
        int64_t row = (g->k0 + j) * a->k_stride + kvh * hd;
        for (int64_t d = 0; d < hd; d++) acc[d] += ds * (double)ns_ref_load(a->k, a->dt, row + d);
    }
    for (int64_t d = 0; d < hd; d++) ns_ref_store(a->dq, a->dt, iq * a->q_stride + h * hd + d, (float)acc[d]);
}

/* One key row and kv head: sums over the query heads of its group and the rows that see it. */
static void bwd_kv_row(const ns_exec *x, const ns_attn_args *a, const segment *g, int64_t j, int64_t kvh, double *dk,
                       double *dv)
{
    int64_t lo, hi, hd = a->head_dim, group = a->n_heads / a->n_kv, jk = g->k0 + j;
    double p, ds;
    memset(dk, 0, (size_t)hd * sizeof *dk);
    memset(dv, 0, (size_t)hd * sizeof *dv);
    for (int64_t h = kvh * group; h < (kvh + 1) * group; h++) {
        for (int64_t i = 0; i < g->nq; i++) {
            visible(a, g, i, &lo, &hi);
            if (j < lo || j >= hi) continue;
            int64_t iq = g->q0 + i;
            pair_grad(x, a, g, iq, j, h, &p, &ds);
            for (int64_t d = 0; d < hd; d++) {
                dk[d] += ds * (double)ns_ref_load(a->q, a->dt, iq * a->q_stride + h * hd + d);
                dv[d] += p * (double)ns_ref_load(a->dout, a->dt, (iq * a->n_heads + h) * hd + d);
            }
        }
    }
    for (int64_t d = 0; d < hd; d++) {
        ns_ref_store(a->dk, a->dt, jk * a->k_stride + kvh * hd + d, (float)dk[d]);
        ns_ref_store(a->dv, a->dt, jk * a->v_stride + kvh * hd + d, (float)dv[d]);
    }
}

void ns_ref_attn_bwd(ns_exec *x, const ns_attn_args *a)
{
    if (!ns_ref_work(x, a->head_dim * 16, "attn_bwd")) return;
    double *w = x->work;
    for (int64_t s = 0; s < a->n_seg; s++) {
        segment g = get_segment(a, s);
        for (int64_t i = 0; i < g.nq; i++)
            for (int64_t h = 0; h < a->n_heads; h++) bwd_q_row(x, a, &g, i, h, w);
        for (int64_t j = 0; j < g.nk; j++)
            for (int64_t h = 0; h < a->n_kv; h++) bwd_kv_row(x, a, &g, j, h, w, w + a->head_dim);
    }
    int64_t live = a->n_seg > 0 ? a->cu_q[a->n_seg] : 0;
    zero_tail(a->dq, a->dt, live, a->T, a->q_stride, a->n_heads * a->head_dim);
    if (a->kv_start) return; /* keys live elsewhere: rows outside every segment belong to the caller */
    zero_tail(a->dk, a->dt, live, a->T, a->k_stride, a->n_kv * a->head_dim);
    zero_tail(a->dv, a->dt, live, a->T, a->v_stride, a->n_kv * a->head_dim);
}
