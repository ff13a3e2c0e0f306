/* Linear layers as f32 tiles, for every mix of F32 and BF16: each tile of the result is one task, which walks the whole
 * reduction in its own f32 tile (or straight in the f32 result) and rounds once. */
#include "ops/cpu/cpu.h"

enum { TM = 224, TN = 256 };

int64_t ns_cpu_linear_work(int workers, const ns_cpu_vec *v)
{
    return workers * ns_cpu_up(TM * TN * 4 + v->gemm_scratch(), 64);
}

typedef struct job {
    const ns_cpu_vec *v;
    ns_cpu_operand a, b;
    int64_t m, n, k, tiles_n;
    void *out; /* [m,n] of type dt */
    ns_dtype dt;
    int add;               /* add to out instead of assigning */
    const ns_weight *bias; /* [n] or NULL */
    ns_cpu_scratch scratch;
} job;

static ns_cpu_operand from(ns_cpu_operand o, int64_t i) /* the operand that starts at row (column) i */
{
    o.p = (const char *)o.p + (o.k_contiguous ? i * o.ld : i) * (int64_t)ns_dtype_size(o.dt);
    return o;
}

static void tile(void *arg, int t, int worker)
{
    const job *j = arg;
    float *c = ns_cpu_mine(&j->scratch, worker), bias[TN];
    int64_t i0 = t / j->tiles_n * TM, j0 = t % j->tiles_n * TN, e = (int64_t)ns_dtype_size(j->dt);
    int64_t mi = ns_cpu_min(TM, j->m - i0), nj = ns_cpu_min(TN, j->n - j0);
    ns_cpu_operand a = from(j->a, i0), b = from(j->b, j0);
    if (j->dt == NS_DTYPE_F32 && !j->bias) {
        j->v->gemm(&a, &b, mi, nj, j->k, (float *)j->out + i0 * j->n + j0, j->n, j->add, c + TM * TN);
        return;
    }
    j->v->gemm(&a, &b, mi, nj, j->k, c, TN, 0, c + TM * TN);
    for (int64_t q = 0; j->bias && q < nj; q++) bias[q] = ns_ref_load(j->bias->data, j->bias->dt, j0 + q);
    for (int64_t i = 0; i < mi; i++)
        j->v->store_row((char *)j->out + ((i0 + i) * j->n + j0) * e, j->dt, c + i * TN, nj, j->bias ? bias : NULL,
                        j->add);
}

void ns_cpu_gemm(ns_exec *x, const ns_cpu_vec *v, int64_t shared, ns_cpu_operand a, ns_cpu_operand b, int64_t m,
                 int64_t n, int64_t k, void *out, ns_dtype dt, int add, const ns_weight *bias)
{
    job j = {v, a, b, m, n, k, (n + TN - 1) / TN, out, dt, add, bias, {0}};
    if (!ns_cpu_get_scratch(&j.scratch, x, shared, ns_cpu_linear_work(1, v), "linear")) return;
    ns_parallel_for(x->pool, (int)((m + TM - 1) / TM * j.tiles_n), tile, &j);
}

void ns_cpu_linear_fwd(ns_exec *x, const ns_linear_args *a, const ns_cpu_vec *v)
{
    ns_cpu_gemm(x, v, 0, (ns_cpu_operand){a->x, a->dt, a->K, 1}, (ns_cpu_operand){a->w->data, a->w->dt, a->K, 1}, a->M,
                a->N, a->K, a->y, a->dt, 0, a->b);
}

void ns_cpu_linear_dgrad(ns_exec *x, const ns_linear_args *a, const ns_cpu_vec *v)
{
    ns_cpu_gemm(x, v, 0, (ns_cpu_operand){a->dy, a->dt, a->N, 1}, (ns_cpu_operand){a->w->data, a->w->dt, a->K, 0}, a->M,
                a->K, a->N, a->dx, a->dt, a->add_dx, NULL);
}

typedef struct bias_job {
    const ns_linear_args *a;
    const ns_cpu_vec *v;
} bias_job;

/* Columns [64 t, 64 t + 64) of dy, summed over rows in order. */
static void bias_tile(void *arg, int t, int worker)
{
    const bias_job *j = arg;
    const ns_linear_args *a = j->a;
    float s[64] = {0};
    int64_t n0 = (int64_t)t * 64, nb = ns_cpu_min(64, a->N - n0);
    (void)worker;
    j->v->sum_rows(s, (const char *)a->dy + n0 * (int64_t)ns_dtype_size(a->dt), a->dt, a->M, a->N, nb);
    for (int64_t n = 0; n < nb; n++) a->b->grad[n0 + n] += s[n];
}

void ns_cpu_bias_grad(ns_exec *x, const ns_linear_args *a, const ns_cpu_vec *v)
{
    bias_job j = {a, v};
    if (a->b && a->b->grad) ns_parallel_for(x->pool, (int)((a->N + 63) / 64), bias_tile, &j);
}

void ns_cpu_linear_wgrad(ns_exec *x, const ns_linear_args *a, const ns_cpu_vec *v)
{
    if (a->w->grad)
        ns_cpu_gemm(x, v, 0, (ns_cpu_operand){a->dy, a->dt, a->N, 0}, (ns_cpu_operand){a->x, a->dt, a->K, 0}, a->N,
                    a->K, a->M, a->w->grad, NS_DTYPE_F32, 1, NULL);
    ns_cpu_bias_grad(x, a, v);
}
