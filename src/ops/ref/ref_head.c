/* Linear cross-entropy head, one token at a time: a row of V logits in exec.work is all that exists of [T,V]. */
#include <math.h>
#include <string.h>

#include "ops/ref/ref.h"

/* Fills z[V] with the (capped) logits of row t; returns log sum exp. */
static double logits_row(const ns_head_args *a, int64_t t, double *z)
{
    double top = -INFINITY, sum = 0;
    for (int64_t v = 0; v < a->V; v++) {
        double s = 0;
        for (int64_t c = 0; c < a->C; c++)
            s += (double)ns_ref_load(a->x, a->dt, t * a->C + c) *
                 (double)ns_ref_load(a->w->data, a->w->dt, v * a->C + c);
        if (a->softcap > 0) s = (double)a->softcap * tanh(s / (double)a->softcap);
        z[v] = s;
        if (!(s <= top)) top = s; /* a NaN logit wins and reaches the loss */
    }
    for (int64_t v = 0; v < a->V; v++) sum += exp(z[v] - top);
    return top + log(sum);
}

/* z: logits in, d loss / d (x W^T) out; then dx row and W.grad. dx: C doubles. */
static void backward_row(const ns_head_args *a, int64_t t, double lse, double scale, double *z, double *dx)
{
    memset(dx, 0, (size_t)a->C * sizeof *dx);
    for (int64_t v = 0; v < a->V; v++) {
        double slope = a->softcap > 0 ? 1 - (z[v] / (double)a->softcap) * (z[v] / (double)a->softcap) : 1.0;
        double d = scale * (exp(z[v] - lse) - (v == a->label[t] - a->v0)) * slope;
        for (int64_t c = 0; c < a->C; c++) {
            dx[c] += d * (double)ns_ref_load(a->w->data, a->w->dt, v * a->C + c);
            if (a->w->grad) a->w->grad[v * a->C + c] += (float)(d * (double)ns_ref_load(a->x, a->dt, t * a->C + c));
        }
    }
    for (int64_t c = 0; c < a->C; c++) ns_ref_store(a->dx, a->dt, t * a->C + c, (float)dx[c]);
}

void ns_ref_head(ns_exec *x, const ns_head_args *a)
{
    if (!ns_ref_work(x, (a->V + a->C) * 8, "head")) return;
    double *z = x->work, *dx = z + a->V, loss = 0;
    NS_ASSERT(a->V <= a->w->rows);
    for (int64_t t = 0; t < a->T; t++) {
        if (a->weight[t] == 0) {
            if (a->phase == NS_HEAD_STATS) continue;
            if (a->logp) a->logp[t] = 0;
            for (int64_t c = 0; a->dx && c < a->C; c++) ns_ref_store(a->dx, a->dt, t * a->C + c, 0);
            continue;
        }
        int64_t label = a->label[t] - a->v0;
        NS_ASSERT(a->label[t] >= 0 && (a->phase != NS_HEAD_WHOLE || label < a->V));
        double lse = a->V > 0 ? logits_row(a, t, z) : -INFINITY;
        double at_label = label >= 0 && label < a->V ? z[label] : -INFINITY;
        if (a->phase == NS_HEAD_STATS) {
            a->stats[2 * t] = (float)lse;
            a->stats[2 * t + 1] = (float)at_label;
            continue;
        }
        if (a->phase == NS_HEAD_GIVEN) {
            lse = (double)a->stats[2 * t];
            at_label = (double)a->stats[2 * t + 1];
        }
        double ce = lse - at_label;
        loss += (double)a->weight[t] * ce;
        if (a->logp) a->logp[t] = (float)-ce;
        if (a->dx) backward_row(a, t, lse, (double)a->weight[t] / x->step->weight_sum, z, dx);
    }
    x->step->loss_sum += loss;
}
