/* Plan back-end: the same table as every other back-end; each op records its uses, flops and bytes and touches no data.
 * flops: 2 per multiply-add. bytes: each operand read or written once (the least that memory must move). */
#include "ops/ops.h"
#include "ops/space.h"

static int64_t es(ns_dtype t)
{
    return (int64_t)ns_dtype_size(t);
}

/* Records one operand and returns its bytes (0 for NULL). */
static double use(ns_exec *x, const void *p, int64_t bytes)
{
    if (!p) return 0;
    ns_plan_touch(x->plan, p, bytes);
    return (double)bytes;
}

static double use_weight(ns_exec *x, const ns_weight *w)
{
    return w ? use(x, w->data, w->rows * w->cols * es(w->dt)) : 0;
}

static void norm_fwd(ns_exec *x, const ns_norm_args *a)
{
    int64_t n = a->T * a->C * es(a->dt);
    ns_plan_op(x->plan, "norm_fwd", 4.0 * (double)(a->T * a->C), 0);
    double b = use(x, a->x, n) + use(x, a->delta, n) + use(x, a->h, n) + use(x, a->y, n) + use(x, a->rstd, a->T * 4);
    b += use_weight(x, a->w);
    (void)b;
}

static void linear_fwd(ns_exec *x, const ns_linear_args *a)
{
    ns_plan_op(x->plan, "linear_fwd", 2.0 * (double)a->M * (double)a->N * (double)a->K,
               (double)((a->M * a->K + a->M * a->N) * es(a->dt) + a->N * a->K * es(a->w->dt)));
    use(x, a->x, a->M * a->K * es(a->dt));
    use(x, a->y, a->M * a->N * es(a->dt));
    use_weight(x, a->w);
    use_weight(x, a->b);
}

const ns_ops ns_ops_plan = {
    .name = "plan",
    .norm_fwd = norm_fwd,
    .linear_fwd = linear_fwd,
};
