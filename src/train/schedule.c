/* The order of the cases is the reference's and matters: with constant_steps the first step has rate 0, and the constant phase lies
 * at the end, at min_lr. */
#include "train/schedule.h"

#include <inttypes.h>
#include <math.h>

ns_status ns_schedule_check(const ns_schedule *s, ns_error *err)
{
    NS_FAIL_IF(s->warmup < 0 || s->constant < 0, NS_ERR_CONFIG,
               "model.optim.sched: warmup_steps=%" PRId64 ", constant_steps=%" PRId64 ": must be >= 0", s->warmup,
               s->constant);
    NS_FAIL_IF(s->lr < s->min_lr, NS_ERR_CONFIG, "model.optim.lr=%g is below sched.min_lr=%g: lower min_lr or raise lr",
               s->lr, s->min_lr);
    NS_FAIL_IF(s->constant > 0 && !s->flat && s->lr <= s->min_lr, NS_ERR_CONFIG,
               "model.optim.sched.constant_steps=%" PRId64 " needs lr > min_lr (both are %g)", s->constant, s->lr);
    return NS_OK;
}

double ns_schedule_lr(const ns_schedule *s, int64_t t)
{
    const double pi = 3.14159265358979323846;
    double w = (double)s->warmup, c = (double)s->constant, S = (double)s->max_steps, lr = s->lr, lo = s->min_lr,
           x = (double)t;
    double d = S - c - w;
    if (s->warmup > 0 && t <= s->warmup) return s->constant == 0 ? lr * (x + 1) / (w + 1) : lr * x / w;
    if (s->flat) return lr;
    if (s->constant > 0 && x > w + d && t <= s->max_steps) return lo;
    if (t > s->max_steps) return lo;
    if (s->constant == 0) return S > w ? lo + 0.5 * (lr - lo) * (1 + cos(pi * (x - w) / (S - w))) : lo;
    if (x > w + d || d <= 0) return lo;
    return lo + 0.5 * (lr - lo) * (1 + cos(pi * (x - w) / d));
}
