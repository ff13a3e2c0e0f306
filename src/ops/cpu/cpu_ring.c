/* Attention in parts (ops.h): rows over the pool, loops over a row that the compiler makes vectors of. The weights of a row and
 * head are two exponentials, in double as in ref; the rest is a multiply-add an element. */
#include <math.h>
#include <string.h>

#include "ops/cpu/cpu.h"

enum { ROWS = 32 };

/* acc = keep acc + take part, of one type each. */
static void blend_f32(float *restrict acc, const float *restrict part, int64_t n, float keep, float take)
{
    for (int64_t i = 0; i < n; i++) acc[i] = acc[i] * keep + part[i] * take;
}
static void blend_bf16(float *restrict acc, const uint16_t *restrict part, int64_t n, float keep, float take)
{
    for (int64_t i = 0; i < n; i++) acc[i] = acc[i] * keep + ns_bf16_to_f32(part[i]) * take;
}
static void blend(float *acc, const void *part, ns_dtype dt, int64_t at, int64_t n, float keep, float take)
{
    if (dt == NS_DTYPE_F32)
        blend_f32(acc + at, (const float *)part + at, n, keep, take);
    else
        blend_bf16(acc + at, (const uint16_t *)part + at, n, keep, take);
}

static void merge_row(const ns_attn_merge_args *a, int64_t t)
{
    for (int64_t h = 0; h < a->n_heads; h++) {
        float *lse = &a->lse[h * a->T + t];
        const double old = (double)*lse, part = (double)a->part_lse[h * a->T + t], top = fmax(old, part);
        const int none = isinf(top);
        const double joint = none ? -INFINITY : top + log(exp(old - top) + exp(part - top));
        blend(a->acc, a->part, a->dt, (t * a->n_heads + h) * a->head_dim, a->head_dim,
              none ? 0 : (float)exp(old - joint), none ? 0 : (float)exp(part - joint));
        *lse = (float)joint;
    }
}

static void merge_tile(void *arg, int i, int worker)
{
    const ns_attn_merge_args *a = arg;
    const int64_t wide = a->n_heads * a->head_dim, t0 = (int64_t)i * ROWS, t1 = ns_cpu_min(t0 + ROWS, a->T);
    (void)worker;
    if (a->assign)
        ns_to_f32(a->acc + t0 * wide, (const char *)a->part + t0 * wide * (int64_t)ns_dtype_size(a->dt), a->dt,
                  (size_t)((t1 - t0) * wide));
    const int64_t from = ns_cpu_max(t0, a->cu_q[0]), to = ns_cpu_min(t1, a->cu_q[a->n_seg]);
    for (int64_t t = from; !a->assign && t < to; t++) merge_row(a, t);
    if (a->out)
        ns_from_f32((char *)a->out + t0 * wide * (int64_t)ns_dtype_size(a->dt), a->dt, a->acc + t0 * wide,
                    (size_t)((t1 - t0) * wide));
}

void ns_cpu_attn_merge(ns_exec *x, const ns_attn_merge_args *a)
{
    ns_parallel_for(x->pool, (int)((a->T + ROWS - 1) / ROWS), merge_tile, (void *)(uintptr_t)a);
}

static void sum_row(const ns_sum_rows_args *a, int64_t t)
{
    const int64_t es = (int64_t)ns_dtype_size(a->dt), row = a->row ? a->row[t] : t;
    float *acc = a->acc + t * a->cols;
    if (a->assign) memset(acc, 0, (size_t)a->cols * sizeof *acc);
    if (a->src) blend(acc, (const char *)a->src + t * a->src_stride * es, a->dt, 0, a->cols, 1, 1);
    if (a->more) blend_f32(acc, a->more + t * a->cols, a->cols, 1, 1);
    NS_ASSERT(!a->out || row < a->out_rows);
    if (a->out && row >= 0) ns_from_f32((char *)a->out + row * a->out_stride * es, a->dt, acc, (size_t)a->cols);
}

static void sum_tile(void *arg, int i, int worker)
{
    const ns_sum_rows_args *a = arg;
    const int64_t t0 = (int64_t)i * ROWS, t1 = ns_cpu_min(t0 + ROWS, a->T);
    (void)worker;
    for (int64_t t = t0; t < t1; t++) sum_row(a, t);
}

void ns_cpu_sum_rows(ns_exec *x, const ns_sum_rows_args *a)
{
    ns_parallel_for(x->pool, (int)((a->T + ROWS - 1) / ROWS), sum_tile, (void *)(uintptr_t)a);
}
