/* Gradient norm, clipping and AdamW (training.md §2.10-2.11; Loshchilov & Hutter 2019), all scalars from ns_step.
 * The update is f32 with one operation per line of the formula, so that vector versions give the same bits. */
#include <math.h>

#include "ops/ref/ref.h"

void ns_ref_grad_sumsq(ns_exec *x, const ns_opt_args *a)
{
    double sum = 0;
    for (int64_t k = 0; k < a->n_items; k++)
        for (int64_t i = 0; i < a->items[k].n; i++) sum += (double)a->items[k].grad[i] * (double)a->items[k].grad[i];
    x->step->grad_sumsq = sum;
    x->step->nonfinite = !isfinite(sum);
}

void ns_ref_clip(ns_exec *x, const ns_opt_args *a)
{
    (void)a;
    ns_step *s = x->step;
    double coef = s->clip > 0 ? (double)s->clip / (sqrt(s->grad_sumsq) + 1e-6) : 1.0;
    s->clip_coef = coef < 1 ? (float)coef : 1.0f; /* NaN: 1; the update is skipped anyway (nonfinite) */
}

void ns_ref_adamw(ns_exec *x, const ns_opt_args *a)
{
    const ns_step *s = x->step;
    if (s->nonfinite) return;
    float b1 = s->beta1, b2 = s->beta2, a1 = 1.0f - b1, a2 = 1.0f - b2;
    float c1 = (float)(1.0 - pow((double)b1, (double)s->t)), c2 = (float)(1.0 - pow((double)b2, (double)s->t));
    for (int64_t k = 0; k < a->n_items; k++) {
        const ns_opt_item *it = &a->items[k];
        float wd = it->decay ? s->weight_decay : 0.0f;
        uint16_t *hi = it->w;
        for (int64_t i = 0; i < it->n; i++) {
            float p = it->dt == NS_DTYPE_BF16 ? ns_main_join(hi[i], it->rem[i]) : ((float *)it->w)[i];
            float g = it->grad[i] * s->clip_coef;
            float m = b1 * it->m[i] + a1 * g;
            float v = b2 * it->v[i] + a2 * (g * g);
            float u = (m / c1) / (sqrtf(v / c2) + s->eps) + wd * p;
            p = p - s->lr * u;
            it->m[i] = m;
            it->v[i] = v;
            if (it->dt == NS_DTYPE_BF16)
                ns_main_split(p, &hi[i], &it->rem[i]);
            else
                ((float *)it->w)[i] = p;
        }
    }
}
