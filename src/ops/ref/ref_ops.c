/* Reference back-end: plain loops, f32 or wider accumulation. This is the meaning of every op (ops.h). */
#include <math.h>

#include "ops/ops.h"

static float load(const void *p, ns_dtype t, int64_t i)
{
    return t == NS_DTYPE_BF16 ? ns_bf16_to_f32(((const uint16_t *)p)[i]) : ((const float *)p)[i];
}

static void store(void *p, ns_dtype t, int64_t i, float v)
{
    if (t == NS_DTYPE_BF16)
        ((uint16_t *)p)[i] = ns_f32_to_bf16(v);
    else
        ((float *)p)[i] = v;
}

static void norm_fwd(ns_exec *x, const ns_norm_args *a)
{
    (void)x;
    for (int64_t t = 0; t < a->T; t++) {
        double ss = 0;
        for (int64_t c = 0; c < a->C; c++) {
            float h = load(a->x, a->dt, t * a->C + c);
            if (a->delta) {
                h += load(a->delta, a->dt, t * a->C + c);
                store(a->h, a->dt, t * a->C + c, h);
                h = load(a->h, a->dt, t * a->C + c); /* the norm sees the stored (rounded) sum */
            }
            ss += (double)h * (double)h;
        }
        float rstd = (float)(1.0 / sqrt(ss / (double)a->C + (double)a->eps));
        if (a->rstd) a->rstd[t] = rstd;
        for (int64_t c = 0; c < a->C; c++) {
            float h = load(a->delta ? a->h : a->x, a->dt, t * a->C + c);
            float w = load(a->w->data, a->w->dt, c) + (a->plus_one ? 1.0f : 0.0f);
            store(a->y, a->dt, t * a->C + c, h * rstd * w);
        }
    }
}

static void linear_fwd(ns_exec *x, const ns_linear_args *a)
{
    (void)x;
    for (int64_t m = 0; m < a->M; m++) {
        for (int64_t n = 0; n < a->N; n++) {
            double s = a->b ? (double)load(a->b->data, a->b->dt, n) : 0.0;
            for (int64_t k = 0; k < a->K; k++)
                s += (double)load(a->x, a->dt, m * a->K + k) * (double)load(a->w->data, a->w->dt, n * a->K + k);
            store(a->y, a->dt, m * a->N + n, (float)s);
        }
    }
}

const ns_ops ns_ops_ref = {
    .name = "ref",
    .norm_fwd = norm_fwd,
    .linear_fwd = linear_fwd,
};
