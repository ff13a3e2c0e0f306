/* Linear layers as f32 tiles, for every mix of F32 and BF16: each tile of the result is one task that walks the reduction
 * in blocks, converts both operands to f32 where they are bf16, and accumulates in its own f32 tile. */
#include "ops/cpu/cpu.h"

#include <string.h>

enum { TM = 192, TN = 192, TK = 512 };

int64_t ns_cpu_linear_work(int workers)
{
    return (int64_t)workers * ((TM + TN) * TK + TM * TN) * 4;
}

typedef struct job {
    ns_cpu_operand a, b;
    int64_t m, n, k, tiles_n;
    void *out; /* [m,n] of type dt */
    ns_dtype dt;
    int add;               /* add to out instead of assigning */
    const ns_weight *bias; /* [n] or NULL */
    ns_cpu_scratch scratch;
} job;

/* f32 view of the block [i0, i0+ni) x [k0, k0+nk); converts into buf unless it is f32 already. */
static const float *view(const ns_cpu_operand *o, int64_t i0, int64_t ni, int64_t k0, int64_t nk, float *buf,
                         int64_t *ld)
{
    int64_t r0 = o->k_contiguous ? i0 : k0, c0 = o->k_contiguous ? k0 : i0;
    int64_t nr = o->k_contiguous ? ni : nk, nc = o->k_contiguous ? nk : ni;
    if (o->dt == NS_DTYPE_F32) {
        *ld = o->ld;
        return (const float *)o->p + r0 * o->ld + c0;
    }
    *ld = nc;
    for (int64_t r = 0; r < nr; r++)
        ns_to_f32(buf + r * nc, (const uint16_t *)o->p + (r0 + r) * o->ld + c0, NS_DTYPE_BF16, (size_t)nc);
    return buf;
}

static void store_tile(const job *j, const float *c, int64_t i0, int64_t mi, int64_t j0, int64_t nj)
{
    for (int64_t i = 0; i < mi; i++) {
        for (int64_t q = 0; q < nj; q++) {
            int64_t at = (i0 + i) * j->n + j0 + q;
            float v = c[i * nj + q];
            if (j->bias) v += ns_ref_load(j->bias->data, j->bias->dt, j0 + q);
            if (j->add) v += ns_ref_load(j->out, j->dt, at);
            ns_ref_store(j->out, j->dt, at, v);
        }
    }
}

static void tile(void *arg, int t, int worker)
{
    const job *j = arg;
    float *abuf = ns_cpu_mine(&j->scratch, worker), *bbuf = abuf + TM * TK, *c = bbuf + TN * TK;
    int64_t i0 = t / j->tiles_n * TM, j0 = t % j->tiles_n * TN;
    int64_t mi = ns_cpu_min(TM, j->m - i0), nj = ns_cpu_min(TN, j->n - j0), lda, ldb;
    if (j->k == 0) memset(c, 0, (size_t)(mi * nj) * 4);
    for (int64_t k0 = 0; k0 < j->k; k0 += TK) {
        int64_t nk = ns_cpu_min(TK, j->k - k0);
        const float *a = view(&j->a, i0, mi, k0, nk, abuf, &lda), *b = view(&j->b, j0, nj, k0, nk, bbuf, &ldb);
        ns_cpu_sgemm(!j->a.k_contiguous, j->b.k_contiguous, mi, nj, nk, 1, a, lda, b, ldb, k0 ? 1 : 0, c, nj);
    }
    store_tile(j, c, i0, mi, j0, nj);
}

void ns_cpu_gemm(ns_exec *x, int64_t shared, ns_cpu_operand a, ns_cpu_operand b, int64_t m, int64_t n, int64_t k,
                 void *out, ns_dtype dt, int add, const ns_weight *bias)
{
    job j = {a, b, m, n, k, (n + TN - 1) / TN, out, dt, add, bias, {0}};
    if (!ns_cpu_get_scratch(&j.scratch, x, shared, ns_cpu_linear_work(1), "linear")) return;
    ns_parallel_for(x->pool, (int)((m + TM - 1) / TM * j.tiles_n), tile, &j);
}

void ns_cpu_linear_fwd(ns_exec *x, const ns_linear_args *a)
{
    ns_cpu_gemm(x, 0, (ns_cpu_operand){a->x, a->dt, a->K, 1}, (ns_cpu_operand){a->w->data, a->w->dt, a->K, 1}, a->M,
                a->N, a->K, a->y, a->dt, 0, a->b);
}

void ns_cpu_linear_dgrad(ns_exec *x, const ns_linear_args *a)
{
    ns_cpu_gemm(x, 0, (ns_cpu_operand){a->dy, a->dt, a->N, 1}, (ns_cpu_operand){a->w->data, a->w->dt, a->K, 0}, a->M,
                a->K, a->N, a->dx, a->dt, a->add_dx, NULL);
}

/* Columns [64 t, 64 t + 64) of dy, summed over rows in order. */
static void bias_tile(void *arg, int t, int worker)
{
    const ns_linear_args *a = arg;
    float s[64] = {0};
    int64_t n0 = (int64_t)t * 64, nb = ns_cpu_min(64, a->N - n0);
    (void)worker;
    for (int64_t m = 0; m < a->M; m++)
        for (int64_t n = 0; n < nb; n++) s[n] += ns_ref_load(a->dy, a->dt, m * a->N + n0 + n);
    for (int64_t n = 0; n < nb; n++) a->b->grad[n0 + n] += s[n];
}

void ns_cpu_bias_grad(ns_exec *x, const ns_linear_args *a)
{
    if (a->b && a->b->grad) ns_parallel_for(x->pool, (int)((a->N + 63) / 64), bias_tile, (void *)(uintptr_t)a);
}

void ns_cpu_linear_wgrad(ns_exec *x, const ns_linear_args *a)
{
    if (a->w->grad)
        ns_cpu_gemm(x, 0, (ns_cpu_operand){a->dy, a->dt, a->N, 0}, (ns_cpu_operand){a->x, a->dt, a->K, 0}, a->N, a->K,
                    a->M, a->w->grad, NS_DTYPE_F32, 1, NULL);
    ns_cpu_bias_grad(x, a);
}
