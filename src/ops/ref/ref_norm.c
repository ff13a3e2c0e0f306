/* RMSNorm with the residual addition in front of it (Zhang & Sennrich 2019; rounding as in LlamaRMSNorm, see ref.h). */
#include <math.h>

#include "ops/ref/ref.h"

static float norm_weight(const ns_weight *w, int plus_one, int64_t c)
{
    return ns_ref_load(w->data, w->dt, c) + (plus_one ? 1.0f : 0.0f);
}

void ns_ref_norm_fwd(ns_exec *x, const ns_norm_args *a)
{
    (void)x;
    const void *in = a->delta ? a->h : a->x;
    for (int64_t t = 0; t < a->T; t++) {
        int64_t row = t * a->C;
        double ss = 0;
        for (int64_t c = 0; c < a->C; c++) {
            if (a->delta) /* the norm sees the stored (rounded) sum */
                ns_ref_store(a->h, a->dt, row + c,
                             ns_ref_load(a->x, a->dt, row + c) + ns_ref_load(a->delta, a->dt, row + c));
            double h = (double)ns_ref_load(in, a->dt, row + c);
            ss += h * h;
        }
        float rstd = (float)(1.0 / sqrt(ss / (double)a->C + (double)a->eps));
        if (a->rstd) a->rstd[t] = rstd;
        for (int64_t c = 0; c < a->C; c++) {
            float n = ns_ref_load(in, a->dt, row + c) * rstd;
            if (a->dt == NS_DTYPE_BF16 && !a->plus_one) n = ns_bf16_to_f32(ns_f32_to_bf16(n));
            ns_ref_store(a->y, a->dt, row + c, n * norm_weight(a->w, a->plus_one, c));
        }
    }
}

/* With n = h*rstd and g = dy*w:  dh = rstd * (g - n * mean(g*n)) + dres,  dw += sum_t dy*n. */
void ns_ref_norm_bwd(ns_exec *x, const ns_norm_bwd_args *a)
{
    for (int64_t t = 0; t < a->T; t++) {
        int64_t row = t * a->C;
        double dot = 0, rstd = (double)a->rstd[t];
        for (int64_t c = 0; c < a->C; c++) {
            double n = (double)ns_ref_load(a->h, a->dt, row + c) * rstd;
            double dy = (double)ns_ref_load(a->dy, a->dt, row + c);
            dot += dy * (double)norm_weight(a->w, a->plus_one, c) * n;
            if (a->w->grad) a->w->grad[c] += (float)(dy * n);
        }
        dot /= (double)a->C;
        for (int64_t c = 0; c < a->C; c++) {
            double n = (double)ns_ref_load(a->h, a->dt, row + c) * rstd;
            double g = (double)ns_ref_load(a->dy, a->dt, row + c) * (double)norm_weight(a->w, a->plus_one, c);
            double d = rstd * (g - n * dot) + (a->dres ? (double)ns_ref_load(a->dres, a->dt, row + c) : 0.0);
            ns_ref_store(a->dh, a->dt, row + c, (float)d);
        }
    }
    if (a->y)
        ns_ref_norm_fwd(x, &(ns_norm_args){.T = a->T,
                                           .C = a->C,
                                           .dt = a->dt,
                                           .eps = a->eps,
                                           .plus_one = a->plus_one,
                                           .w = a->w,
                                           .x = a->h,
                                           .y = a->y});
}
