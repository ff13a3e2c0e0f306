/* Linear layers: y = x W^T + b, its gradient by x and its gradient by W and b. Sums in double, rounded once. With w->fp8 the
 * factors are what their fp8 casts hold (tensor/fp8.h): cast here element by element as they are read. */
#include <math.h>
#include <string.h>

#include "ops/ref/ref.h"

/* A factor: an array as it is, or seen through its cast. */
typedef struct factor {
    const void *p;
    ns_dtype dt, type; /* of the array; of the cast, F32: none */
    float scale;
    double inverse;
} factor;

static factor plain(const void *p, ns_dtype dt)
{
    return (factor){.p = p, .dt = dt, .type = NS_DTYPE_F32};
}

static uint32_t largest(const void *p, ns_dtype dt, int64_t n)
{
    uint32_t top = 0;
    for (int64_t i = 0; i < n; i++) {
        float f = ns_ref_load(p, dt, i);
        uint32_t u;
        memcpy(&u, &f, sizeof u);
        u &= 0x7fffffffu;
        if (u > top) top = u; /* magnitudes order like their bits, a NaN above all */
    }
    return top;
}

/* The n elements at p, through a cast to `type` when w has fp8. */
static factor cast(const ns_weight *w, const void *p, ns_dtype dt, int64_t n, ns_dtype type, ns_fp8_head *head)
{
    if (!w->fp8) return plain(p, dt);
    float amax;
    head->amax = largest(p, dt, n);
    memcpy(&amax, &head->amax, sizeof amax);
    factor f = {p, dt, type, ns_fp8_scale(amax, type), 0};
    head->inverse = isfinite(amax) ? 1 / f.scale : NAN;
    f.inverse = (double)head->inverse;
    return f;
}

static double at(const factor *f, int64_t i)
{
    float v = ns_ref_load(f->p, f->dt, i);
    if (f->type == NS_DTYPE_F32) return (double)v;
    return (double)ns_fp8_decode(ns_fp8_encode(v * f->scale, f->type), f->type) * f->inverse;
}

/* Keeps the cast of a factor [M, cols], transposed: [cols, M] and zeros to the stride. */
static void keep(void *to, const factor *f, const ns_fp8_head *head, int64_t M, int64_t cols)
{
    uint8_t *out = (uint8_t *)to + NS_FP8_HEAD;
    const int64_t stride = ns_fp8_stride(M);
    if (!to || f->type == NS_DTYPE_F32) return;
    memcpy(to, head, sizeof *head);
    for (int64_t c = 0; c < cols; c++)
        for (int64_t m = 0; m < stride; m++)
            out[c * stride + m] = m < M ? ns_fp8_encode(ns_ref_load(f->p, f->dt, m * cols + c) * f->scale, f->type) : 0;
}

void ns_ref_linear_fwd(ns_exec *x, const ns_linear_args *a)
{
    ns_fp8_head hx = {0}, hw = {0};
    const factor fx = cast(a->w, a->x, a->dt, a->M * a->K, NS_DTYPE_F8_E4M3, &hx),
                 fw = cast(a->w, a->w->data, a->w->dt, a->N * a->K, NS_DTYPE_F8_E4M3, &hw);
    (void)x;
    for (int64_t m = 0; m < a->M; m++) {
        for (int64_t n = 0; n < a->N; n++) {
            double s = a->b ? (double)ns_ref_load(a->b->data, a->b->dt, n) : 0.0;
            for (int64_t k = 0; k < a->K; k++) s += at(&fx, m * a->K + k) * at(&fw, n * a->K + k);
            ns_ref_store(a->y, a->dt, m * a->N + n, (float)s);
        }
    }
    keep(a->x8, &fx, &hx, a->M, a->K);
}

void ns_ref_linear_dgrad(ns_exec *x, const ns_linear_args *a)
{
    ns_fp8_head hd = {0}, hw = {0};
    const factor fd = cast(a->w, a->dy, a->dt, a->M * a->N, ns_fp8_grad_type(a->w->fp8), &hd),
                 fw = cast(a->w, a->w->data, a->w->dt, a->N * a->K, NS_DTYPE_F8_E4M3, &hw);
    (void)x;
    for (int64_t m = 0; m < a->M; m++) {
        for (int64_t k = 0; k < a->K; k++) {
            double s = a->add_dx ? (double)ns_ref_load(a->dx, a->dt, m * a->K + k) : 0.0;
            for (int64_t n = 0; n < a->N; n++) s += at(&fd, m * a->N + n) * at(&fw, n * a->K + k);
            ns_ref_store(a->dx, a->dt, m * a->K + k, (float)s);
        }
    }
    keep(a->dy8, &fd, &hd, a->M, a->N);
}

/* Element (m, c) of a factor: from the kept cast where there is one. */
static double kept_at(const factor *f, const void *kept, int64_t M, int64_t cols, int64_t m, int64_t c)
{
    if (!kept || f->type == NS_DTYPE_F32) return at(f, m * cols + c);
    ns_fp8_head head;
    memcpy(&head, kept, sizeof head);
    const uint8_t *in = (const uint8_t *)kept + NS_FP8_HEAD;
    return (double)ns_fp8_decode(in[c * ns_fp8_stride(M) + m], f->type) * (double)head.inverse;
}

void ns_ref_linear_wgrad(ns_exec *x, const ns_linear_args *a)
{
    ns_fp8_head hx = {0}, hd = {0};
    const factor fx = cast(a->w, a->x, a->dt, a->x8 ? 0 : a->M * a->K, NS_DTYPE_F8_E4M3, &hx),
                 fd = cast(a->w, a->dy, a->dt, a->dy8 ? 0 : a->M * a->N, ns_fp8_grad_type(a->w->fp8), &hd);
    (void)x;
    for (int64_t n = 0; n < a->N; n++) {
        for (int64_t k = 0; a->w->grad && k < a->K; k++) {
            double s = 0;
            for (int64_t m = 0; m < a->M; m++)
                s += kept_at(&fd, a->dy8, a->M, a->N, m, n) * kept_at(&fx, a->x8, a->M, a->K, m, k);
            a->w->grad[n * a->K + k] += (float)s;
        }
        if (!a->b || !a->b->grad) continue;
        double s = 0;
        for (int64_t m = 0; m < a->M; m++) s += (double)ns_ref_load(a->dy, a->dt, m * a->N + n);
        a->b->grad[n] += (float)s;
    }
}
