/* Linear layers as f32 tiles, for every mix of F32 and BF16: each tile of the result is one task, which walks the whole
 * reduction in its own f32 tile (or straight in the f32 result) and rounds once. Results that are small and deep (weight
 * gradients: a few tiles, thousands of rows to sum) are cut in depth too; the parts are added in order afterwards. All
 * cuts follow from the shape. */
#include "ops/cpu/cpu.h"

enum { TM = 224, TN = 256, TASKS = 16, LEAST_DEPTH = 512, MOST_PARTS = 1 << 20 };

static int64_t per_worker(const ns_cpu_vec *v)
{
    return TM * TN * 4 + v->gemm_scratch();
}

int64_t ns_cpu_linear_work(int workers, const ns_cpu_vec *v)
{
    return MOST_PARTS * 4 + workers * ns_cpu_up(per_worker(v), 64);
}

typedef struct job {
    const ns_cpu_vec *v;
    ns_cpu_operand a, b;
    int64_t m, n, k, tm, tn, tiles_n; /* tile size, tiles across */
    void *out;                        /* [m,n] of type dt */
    ns_dtype dt;
    int add;               /* add to out instead of assigning */
    const ns_weight *bias; /* [n] or NULL */
    int64_t parts, depth;  /* cuts of k */
    float *part;           /* [parts, m, n] when parts > 1 */
    ns_cpu_scratch scratch;
} job;

static ns_cpu_operand from(ns_cpu_operand o, int64_t i,
                           int64_t k) /* the operand that starts at row (column) i, depth k */
{
    o.p = (const char *)o.p + (o.k_contiguous ? i * o.ld + k : k * o.ld + i) * (int64_t)ns_dtype_size(o.dt);
    return o;
}

static void tile(void *arg, int t, int worker)
{
    const job *j = arg;
    float *c = ns_cpu_mine(&j->scratch, worker), bias[TN];
    int64_t part = t % j->parts, xy = t / j->parts, i0 = xy / j->tiles_n * j->tm, j0 = xy % j->tiles_n * j->tn;
    int64_t mi = ns_cpu_min(j->tm, j->m - i0), nj = ns_cpu_min(j->tn, j->n - j0), e = (int64_t)ns_dtype_size(j->dt);
    int64_t k0 = part * j->depth, nk = ns_cpu_min(j->depth, j->k - k0);
    ns_cpu_operand a = from(j->a, i0, k0), b = from(j->b, j0, k0);
    if (j->dt == NS_DTYPE_F32 && !j->bias) {
        float *out = j->parts > 1 ? j->part + part * j->m * j->n : j->out;
        j->v->gemm(&a, &b, mi, nj, nk, out + i0 * j->n + j0, j->n, j->add && j->parts == 1, c + TM * TN);
        return;
    }
    j->v->gemm(&a, &b, mi, nj, nk, c, TN, 0, c + TM * TN);
    for (int64_t q = 0; j->bias && q < nj; q++) bias[q] = ns_ref_load(j->bias->data, j->bias->dt, j0 + q);
    for (int64_t i = 0; i < mi; i++)
        j->v->store_row((char *)j->out + ((i0 + i) * j->n + j0) * e, j->dt, c + i * TN, nj, j->bias ? bias : NULL,
                        j->add);
}

/* Row t of the result: the parts in order. */
static void add_parts(void *arg, int t, int worker)
{
    const job *j = arg;
    (void)worker;
    for (int64_t p = 0; p < j->parts; p++)
        j->v->store_row((float *)j->out + t * j->n, NS_DTYPE_F32, j->part + (p * j->m + t) * j->n, j->n, NULL,
                        j->add || p > 0);
}

/* Tiles of equal size; when they are few and deep, parts of at least LEAST_DEPTH. */
static void cut(job *j)
{
    int64_t rows = ns_cpu_max(1, (j->m + TM - 1) / TM), cols = ns_cpu_max(1, (j->n + TN - 1) / TN);
    j->tm = ns_cpu_max(1, (j->m + rows - 1) / rows);
    j->tn = ns_cpu_min(TN, ns_cpu_up((j->n + cols - 1) / cols, 32));
    j->tiles_n = (j->n + j->tn - 1) / j->tn;
    j->parts = 1;
    if (j->dt == NS_DTYPE_F32 && !j->bias) {
        int64_t want = (TASKS + rows * cols - 1) / (rows * cols), fit = MOST_PARTS / ns_cpu_max(1, j->m * j->n);
        j->parts = ns_cpu_max(1, ns_cpu_min(ns_cpu_min(want, fit), j->k / LEAST_DEPTH));
    }
    j->depth = ns_cpu_max(1, ns_cpu_up((j->k + j->parts - 1) / j->parts, 32));
    j->parts = ns_cpu_max(1, (j->k + j->depth - 1) / j->depth);
}

void ns_cpu_gemm(ns_exec *x, const ns_cpu_vec *v, int64_t shared, ns_cpu_operand a, ns_cpu_operand b, int64_t m,
                 int64_t n, int64_t k, void *out, ns_dtype dt, int add, const ns_weight *bias)
{
    job j = {.v = v, .a = a, .b = b, .m = m, .n = n, .k = k, .out = out, .dt = dt, .add = add, .bias = bias};
    cut(&j);
    shared = ns_cpu_up(shared, 64);
    if (!ns_cpu_get_scratch(&j.scratch, x, shared + (j.parts > 1 ? j.parts * m * n * 4 : 0), per_worker(v), "linear"))
        return;
    j.part = (float *)(j.scratch.shared + shared);
    ns_parallel_for(x->pool, (int)((m + j.tm - 1) / j.tm * j.tiles_n * j.parts), tile, &j);
    if (j.parts > 1) ns_parallel_for(x->pool, (int)m, add_parts, &j);
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
