/* Linear layers: y = x W^T + b, its gradient by x and its gradient by W and b. Sums in double, rounded once. */
#include "ops/ref/ref.h"

void ns_ref_linear_fwd(ns_exec *x, const ns_linear_args *a)
{
    (void)x;
    for (int64_t m = 0; m < a->M; m++) {
        for (int64_t n = 0; n < a->N; n++) {
            double s = a->b ? (double)ns_ref_load(a->b->data, a->b->dt, n) : 0.0;
            for (int64_t k = 0; k < a->K; k++)
                s += (double)ns_ref_load(a->x, a->dt, m * a->K + k) *
                     (double)ns_ref_load(a->w->data, a->w->dt, n * a->K + k);
            ns_ref_store(a->y, a->dt, m * a->N + n, (float)s);
        }
    }
}

void ns_ref_linear_dgrad(ns_exec *x, const ns_linear_args *a)
{
    (void)x;
    for (int64_t m = 0; m < a->M; m++) {
        for (int64_t k = 0; k < a->K; k++) {
            double s = a->add_dx ? (double)ns_ref_load(a->dx, a->dt, m * a->K + k) : 0.0;
            for (int64_t n = 0; n < a->N; n++)
                s += (double)ns_ref_load(a->dy, a->dt, m * a->N + n) *
                     (double)ns_ref_load(a->w->data, a->w->dt, n * a->K + k);
            ns_ref_store(a->dx, a->dt, m * a->K + k, (float)s);
        }
    }
}

void ns_ref_linear_wgrad(ns_exec *x, const ns_linear_args *a)
{
    (void)x;
    for (int64_t n = 0; n < a->N; n++) {
        for (int64_t k = 0; a->w->grad && k < a->K; k++) {
            double s = 0;
            for (int64_t m = 0; m < a->M; m++)
                s += (double)ns_ref_load(a->dy, a->dt, m * a->N + n) * (double)ns_ref_load(a->x, a->dt, m * a->K + k);
            a->w->grad[n * a->K + k] += (float)s;
        }
        if (!a->b || !a->b->grad) continue;
        double s = 0;
        for (int64_t m = 0; m < a->M; m++) s += (double)ns_ref_load(a->dy, a->dt, m * a->N + n);
        a->b->grad[n] += (float)s;
    }
}
