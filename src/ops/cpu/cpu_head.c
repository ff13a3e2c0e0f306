/* Linear cross-entropy head over chunks of live tokens: rows of weight 0 are left out before the products (in instruction
 * data often half of them), and a chunk's logits [TC, V] are the only ones that exist. CE is summed in token order. */
#include "ops/cpu/cpu.h"

#include <math.h>
#include <string.h>

/* Rows of a chunk: about 4 MB of f32 logits. */
int64_t ns_cpu_head_rows(int64_t T, int64_t V)
{
    int64_t n = (1 << 20) / ns_cpu_max(V, 1) / 32 * 32;
    return ns_cpu_min(ns_cpu_max(64, ns_cpu_min(n, 1024)), ns_cpu_up(ns_cpu_max(T, 1), 32));
}

/* Shared layout: live row numbers, CE, gathered x, gathered dx, logits, d logits. */
typedef struct layout {
    int64_t rows, live, ce, x, dx, logits, dlogits, end;
} layout;
static layout make_layout(int64_t T, int64_t C, int64_t V)
{
    layout l = {.rows = ns_cpu_head_rows(T, V)};
    l.live = 0;
    l.ce = ns_cpu_up(T * 4, 64);
    l.x = l.ce + ns_cpu_up(l.rows * 8, 64);
    l.dx = l.x + ns_cpu_up(l.rows * C * 4, 64);
    l.logits = l.dx + ns_cpu_up(l.rows * C * 4, 64);
    l.dlogits = l.logits + ns_cpu_up(l.rows * V * 4, 64);
    l.end =
        l.dlogits + ns_cpu_up(l.rows * ns_cpu_up(V, 32) * 2, 64); /* bf16 copies; f32 gradients replace the logits */
    return l;
}

int64_t ns_cpu_head_shared(int64_t T, int64_t C, int64_t V)
{
    return make_layout(T, C, V).end;
}

typedef struct job {
    const ns_head_args *a;
    const ns_cpu_vec *v;
    double weight_sum;
    ns_dtype dlogit;
    const int32_t *live; /* this chunk's rows */
    int64_t m;
    char *x, *dx, *dlogits;
    float *logits;
    double *ce;
} job;

enum { ROWS = 8 }; /* of a task */

static void gather(void *arg, int t, int worker)
{
    const job *j = arg;
    int64_t row = j->a->C * (int64_t)ns_dtype_size(j->a->dt);
    (void)worker;
    for (int64_t i = t * ROWS; i < ns_cpu_min(j->m, (t + 1) * ROWS); i++)
        memcpy(j->x + i * row, (const char *)j->a->x + j->live[i] * row, (size_t)row);
}

static void scatter(void *arg, int t, int worker)
{
    const job *j = arg;
    int64_t row = j->a->C * (int64_t)ns_dtype_size(j->a->dt);
    (void)worker;
    for (int64_t i = t * ROWS; i < ns_cpu_min(j->m, (t + 1) * ROWS); i++)
        memcpy((char *)j->a->dx + j->live[i] * row, j->dx + i * row, (size_t)row);
}

/* A row of a vocabulary split over ranks: what this rank knows of it, then its gradient from what all know. */
static void stats_row(const job *j, int64_t i, int64_t r)
{
    const ns_head_args *a = j->a;
    float *z = j->logits + i * a->V, *out = a->stats + 2 * r, top = a->V ? j->v->score_max(z, a->V, 1, 0) : 0;
    int64_t label = a->label[r] - a->v0;
    out[1] = label >= 0 && label < a->V ? z[label] : -INFINITY;
    out[0] = a->V ? top + logf(j->v->exp_sum(z, a->V, top)) : -INFINITY;
}

static double given_row(const job *j, int64_t i, int64_t r, float scale)
{
    const ns_head_args *a = j->a;
    float *z = j->logits + i * a->V;
    uint16_t *d = (uint16_t *)(void *)j->dlogits + i * a->V;
    int64_t label = a->label[r] - a->v0;
    if (scale != 0 && a->V) {
        (void)j->v->exp_sum(z, a->V, a->stats[2 * r]); /* z becomes the softmax over the whole vocabulary */
        if (label >= 0 && label < a->V) z[label] -= 1.0f;
        for (int64_t v = 0; v < a->V; v++) z[v] *= scale;
        for (int64_t v = 0; j->dlogit == NS_DTYPE_BF16 && v < a->V; v++) d[v] = ns_f32_to_bf16(z[v]);
    }
    return (double)a->stats[2 * r] - (double)a->stats[2 * r + 1];
}

static void loss_rows(void *arg, int t, int worker)
{
    const job *j = arg;
    const ns_head_args *a = j->a;
    (void)worker;
    for (int64_t i = t * ROWS; i < ns_cpu_min(j->m, (t + 1) * ROWS); i++) {
        int64_t r = j->live[i];
        NS_ASSERT(a->label[r] >= 0 && (a->phase != NS_HEAD_WHOLE || a->label[r] < a->V));
        if (a->phase == NS_HEAD_STATS) {
            stats_row(j, i, r);
            continue;
        }
        float scale = a->dx ? (float)((double)a->weight[r] / j->weight_sum) : 0;
        void *d = j->dlogit == NS_DTYPE_F32 ? (void *)(j->logits + i * a->V) : j->dlogits + i * a->V * 2;
        j->ce[i] = a->phase == NS_HEAD_GIVEN
                       ? given_row(j, i, r, scale)
                       : j->v->head_row(j->logits + i * a->V, a->V, a->label[r], scale, a->softcap, d, j->dlogit);
        if (a->logp) a->logp[r] = (float)-j->ce[i];
    }
}

static int64_t find_live(const ns_head_args *a, int32_t *live)
{
    int64_t n = 0, row = a->C * (int64_t)ns_dtype_size(a->dt);
    for (int64_t t = 0; t < a->T; t++) {
        if (a->weight[t] != 0) {
            live[n++] = (int32_t)t;
            continue;
        }
        if (a->phase == NS_HEAD_STATS) continue;
        if (a->logp) a->logp[t] = 0;
        if (a->dx) memset((char *)a->dx + t * row, 0, (size_t)row);
    }
    return n;
}

void ns_cpu_head(ns_exec *x, const ns_head_args *a, const ns_cpu_head_gemms *g, const ns_cpu_vec *v)
{
    ns_cpu_scratch s;
    layout l = make_layout(a->T, a->C, a->V);
    NS_ASSERT(a->V <= a->w->rows && (a->phase == NS_HEAD_WHOLE || (a->stats && a->softcap == 0)));
    if (!ns_cpu_get_scratch(&s, x, l.end, 0, "head")) return;
    char *m = s.shared;
    job j = {.a = a,
             .v = v,
             .weight_sum = x->step->weight_sum,
             .dlogit = g->dlogit,
             .x = m + l.x,
             .dx = m + l.dx,
             .dlogits = m + l.dlogits,
             .logits = (float *)(m + l.logits),
             .ce = (double *)(m + l.ce)};
    int64_t n = find_live(a, (int32_t *)(m + l.live));
    double loss = 0;
    for (int64_t i0 = 0; i0 < n; i0 += l.rows) {
        j.live = (int32_t *)(m + l.live) + i0;
        j.m = ns_cpu_min(l.rows, n - i0);
        int tasks = (int)((j.m + ROWS - 1) / ROWS);
        ns_parallel_for(x->pool, tasks, gather, &j);
        if (a->V) g->fwd(x, v, l.end, a, j.m, j.x, j.logits);
        ns_parallel_for(x->pool, tasks, loss_rows, &j);
        if (a->phase == NS_HEAD_STATS) continue;
        for (int64_t i = 0; i < j.m; i++) loss += (double)a->weight[j.live[i]] * j.ce[i];
        if (!a->dx) continue;
        const void *d = g->dlogit == NS_DTYPE_F32 ? (void *)j.logits : j.dlogits;
        if (a->V)
            g->dgrad(x, v, l.end, a, j.m, d, j.dx);
        else
            memset(j.dx, 0, (size_t)(j.m * a->C) * ns_dtype_size(a->dt));
        ns_parallel_for(x->pool, tasks, scatter, &j);
        if (a->w->grad && a->V) g->wgrad(x, v, l.end, a, j.m, d, j.x);
    }
    x->step->loss_sum += loss;
}

/* ---- the three products as f32 tiles ---- */
static void fwd(ns_exec *x, const ns_cpu_vec *v, int64_t shared, const ns_head_args *a, int64_t m, const void *rows,
                float *logits)
{
    ns_cpu_gemm(x, v, shared, (ns_cpu_operand){rows, a->dt, a->C, 1}, (ns_cpu_operand){a->w->data, a->w->dt, a->C, 1},
                m, a->V, a->C, logits, NS_DTYPE_F32, 0, NULL);
}
static void dgrad(ns_exec *x, const ns_cpu_vec *v, int64_t shared, const ns_head_args *a, int64_t m, const void *d,
                  void *dx)
{
    ns_cpu_gemm(x, v, shared, (ns_cpu_operand){d, NS_DTYPE_F32, a->V, 1},
                (ns_cpu_operand){a->w->data, a->w->dt, a->C, 0}, m, a->C, a->V, dx, a->dt, 0, NULL);
}
static void wgrad(ns_exec *x, const ns_cpu_vec *v, int64_t shared, const ns_head_args *a, int64_t m, const void *d,
                  const void *rows)
{
    ns_cpu_gemm(x, v, shared, (ns_cpu_operand){d, NS_DTYPE_F32, a->V, 0}, (ns_cpu_operand){rows, a->dt, a->C, 0}, a->V,
                a->C, m, a->w->grad, NS_DTYPE_F32, 1, NULL);
}
const ns_cpu_head_gemms ns_cpu_head_f32 = {NS_DTYPE_F32, fwd, dgrad, wgrad};
