/* Attention in parts: joining outputs by their log-sum-exp, adding gradients in f32 (ops.h). */
#include <math.h>

#include "ops/ref/ref.h"

/* One row and head; at: its first element. */
static void merge_head(const ns_attn_merge_args *a, int64_t at, double *lse, double part_lse)
{
    const double top = fmax(*lse, part_lse);
    const double joint = isinf(top) ? -INFINITY : top + log(exp(*lse - top) + exp(part_lse - top));
    const double keep = isinf(joint) ? 0 : exp(*lse - joint), take = isinf(joint) ? 0 : exp(part_lse - joint);
    for (int64_t d = 0; d < a->head_dim; d++)
        a->acc[at + d] = (float)((double)a->acc[at + d] * keep + (double)ns_ref_load(a->part, a->dt, at + d) * take);
    *lse = joint;
}

void ns_ref_attn_merge(ns_exec *x, const ns_attn_merge_args *a)
{
    const int64_t wide = a->n_heads * a->head_dim;
    (void)x;
    for (int64_t i = 0; a->assign && i < a->T * wide; i++) a->acc[i] = ns_ref_load(a->part, a->dt, i);
    for (int64_t t = a->cu_q[0]; !a->assign && t < a->cu_q[a->n_seg]; t++)
        for (int64_t h = 0; h < a->n_heads; h++) {
            double lse = (double)a->lse[h * a->T + t];
            merge_head(a, t * wide + h * a->head_dim, &lse, (double)a->part_lse[h * a->T + t]);
            a->lse[h * a->T + t] = (float)lse;
        }
    for (int64_t i = 0; a->out && i < a->T * wide; i++) ns_ref_store(a->out, a->dt, i, a->acc[i]);
}

void ns_ref_sum_rows(ns_exec *x, const ns_sum_rows_args *a)
{
    (void)x;
    for (int64_t t = 0; t < a->T; t++) {
        const int64_t row = a->row ? a->row[t] : t;
        NS_ASSERT(!a->out || row < a->out_rows);
        for (int64_t c = 0; c < a->cols; c++) {
            float *acc = &a->acc[t * a->cols + c], sum = a->assign ? 0 : *acc;
            if (a->src) sum += ns_ref_load(a->src, a->dt, t * a->src_stride + c);
            if (a->more) sum += a->more[t * a->cols + c];
            *acc = sum;
            if (a->out && row >= 0) ns_ref_store(a->out, a->dt, row * a->out_stride + c, sum);
        }
    }
}
