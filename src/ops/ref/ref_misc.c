/* Embedding, rotary embedding, activations, dropout and elementwise ops. */
#include <math.h>
#include <string.h>

#include "base/mem.h"
#include "ops/ref/ref.h"

void ns_ref_embed_fwd(ns_exec *x, const ns_embed_args *a)
{
    (void)x;
    for (int64_t t = 0; t < a->T; t++) {
        NS_ASSERT(a->ids[t] < a->V);
        for (int64_t c = 0; c < a->C; c++)
            ns_ref_store(a->x, a->dt, t * a->C + c,
                         a->ids[t] < 0 ? 0 : ns_ref_load(a->table->data, a->table->dt, a->ids[t] * a->C + c));
    }
}

void ns_ref_embed_bwd(ns_exec *x, const ns_embed_args *a)
{
    (void)x;
    if (!a->table->grad) return;
    for (int64_t t = 0; t < a->T; t++) {
        NS_ASSERT(a->ids[t] < a->V);
        for (int64_t c = 0; a->ids[t] >= 0 && c < a->C; c++)
            a->table->grad[a->ids[t] * a->C + c] += ns_ref_load(a->dx, a->dt, t * a->C + c);
    }
}

/* (p, q) = (qk[i], qk[i + rot/2]):  p' = p cos - q sin,  q' = q cos + p sin. */
void ns_ref_rope(ns_exec *x, const ns_rope_args *a)
{
    (void)x;
    int64_t half = a->rot_dim / 2;
    for (int64_t t = 0; t < a->T; t++) {
        NS_ASSERT(a->position[t] >= 0 && a->position[t] < a->max_pos);
        const float *cs = a->cos_sin + a->position[t] * half * 2;
        for (int64_t h = 0; h < a->n_heads; h++) {
            for (int64_t i = 0; i < half; i++) {
                int64_t at = t * a->row_stride + h * a->head_dim + i;
                float c = cs[2 * i], s = a->inverse ? -cs[2 * i + 1] : cs[2 * i + 1];
                float p = ns_ref_load(a->qk, a->dt, at), q = ns_ref_load(a->qk, a->dt, at + half);
                ns_ref_store(a->qk, a->dt, at, p * c - q * s);
                ns_ref_store(a->qk, a->dt, at + half, q * c + p * s);
            }
        }
    }
}

/* Value and derivative of the non-linearity. GEGLU: the tanh form, 0.5 g (1 + tanh(sqrt(2/pi) (g + 0.044715 g^3))). */
static double nonlinear(ns_act act, double g, double *slope)
{
    if (act == NS_ACT_SWIGLU) {
        double s = 1 / (1 + exp(-g));
        *slope = s * (1 + g * (1 - s));
        return g * s;
    }
    if (act == NS_ACT_GEGLU_TANH) {
        double k = 0.79788456080286535588, t = tanh(k * (g + 0.044715 * g * g * g));
        *slope = 0.5 * (1 + t) + 0.5 * g * (1 - t * t) * k * (1 + 3 * 0.044715 * g * g);
        return 0.5 * g * (1 + t);
    }
    double r = g > 0 ? g : 0;
    *slope = 2 * r;
    return r * r;
}

void ns_ref_act_fwd(ns_exec *x, const ns_act_args *a)
{
    (void)x;
    int64_t F = a->F, wide = a->act == NS_ACT_RELU2 ? F : 2 * F;
    for (int64_t t = 0; t < a->T; t++) {
        for (int64_t f = 0; f < F; f++) {
            double slope, y = nonlinear(a->act, (double)ns_ref_load(a->x, a->dt, t * wide + f), &slope);
            if (wide != F) y *= (double)ns_ref_load(a->x, a->dt, t * wide + F + f);
            ns_ref_store(a->y, a->dt, t * F + f, (float)y);
        }
    }
}

void ns_ref_act_bwd(ns_exec *x, const ns_act_args *a)
{
    int64_t F = a->F, wide = a->act == NS_ACT_RELU2 ? F : 2 * F;
    for (int64_t t = 0; t < a->T; t++) {
        for (int64_t f = 0; f < F; f++) {
            double slope, dy = (double)ns_ref_load(a->dy, a->dt, t * F + f);
            double y = nonlinear(a->act, (double)ns_ref_load(a->x, a->dt, t * wide + f), &slope);
            double u = wide != F ? (double)ns_ref_load(a->x, a->dt, t * wide + F + f) : 1.0;
            ns_ref_store(a->dx, a->dt, t * wide + f, (float)(dy * u * slope));
            if (wide != F) ns_ref_store(a->dx, a->dt, t * wide + F + f, (float)(dy * y));
        }
    }
    if (a->y) ns_ref_act_fwd(x, a);
}

/* Counter: (element / 4, token, step, op << 24 | layer); word element % 4 of the answer. */
void ns_ref_dropout(ns_exec *x, const ns_dropout_args *a)
{
    float scale = 1.0f / (1.0f - a->p);
    NS_ASSERT(a->layer < 1u << 24 && a->op < 256 && a->c0 >= 0 && a->token0 >= 0 &&
              a->token0 + a->T <= (int64_t)UINT32_MAX);
    for (int64_t t = 0; t < a->T; t++) {
        const uint32_t token = a->token ? a->token[t] : (uint32_t)(a->token0 + t);
        for (int64_t q = a->c0 / 4; 4 * q < a->c0 + a->C; q++) {
            uint32_t ctr[4] = {(uint32_t)q, token, x->step->dropout_step, a->op << 24 | a->layer};
            uint32_t word[4];
            ns_philox(word, ctr, x->key);
            for (int64_t k = 0; k < 4; k++) {
                const int64_t c = 4 * q + k - a->c0;
                if (c < 0 || c >= a->C) continue;
                float v = ns_ref_load(a->x, a->dt, t * a->C + c);
                ns_ref_store(a->y, a->dt, t * a->C + c, ns_u32_to_unit(word[k]) >= a->p ? v * scale : 0.0f);
            }
        }
    }
}

void ns_ref_add(ns_exec *x, const ns_add_args *a)
{
    (void)x;
    for (int64_t i = 0; i < a->n; i++)
        ns_ref_store(a->y, a->dt, i, ns_ref_load(a->x, a->dt, i) + ns_ref_load(a->delta, a->dt, i));
}

void ns_ref_scatter_rows(ns_exec *x, const ns_scatter_args *a)
{
    (void)x;
    size_t es = ns_dtype_size(a->dt);
    const int64_t stride = a->dst_stride ? a->dst_stride : a->cols;
    for (int64_t t = 0; t < a->T; t++) {
        int64_t row = a->row ? a->row[t] : t;
        if (row < 0) continue;
        NS_ASSERT(row < a->dst_rows);
        memcpy((char *)a->dst + (size_t)(row * stride) * es, (const char *)a->src + (size_t)(t * a->src_stride) * es,
               (size_t)a->cols * es);
    }
}

void ns_ref_zero(ns_exec *x, const ns_fill_args *a)
{
    (void)x;
    memset(a->p, 0, (size_t)a->bytes);
}

ns_status ns_ref_mem_new(ns_exec *x, void **out, int64_t bytes, ns_error *err)
{
    (void)x;
    return ns_alloc(out, (size_t)bytes, "engine", err);
}

void ns_ref_mem_free(ns_exec *x, void *p)
{
    (void)x;
    ns_free(p);
}

void ns_ref_copy(ns_exec *x, void *dst, const void *src, int64_t bytes)
{
    (void)x;
    if (bytes > 0) memcpy(dst, src, (size_t)bytes);
}

/* Copies are complete when they return. */
void ns_ref_copy_mark(ns_exec *x)
{
    (void)x;
}

double ns_ref_copy_held(ns_exec *x)
{
    (void)x;
    return 0;
}

ns_status ns_ref_copy_wait(ns_exec *x, ns_error *err)
{
    (void)x, (void)err;
    return NS_OK;
}

ns_status ns_ref_pin(ns_exec *x, void *host, int64_t bytes, ns_error *err)
{
    (void)x, (void)host, (void)bytes, (void)err;
    return NS_OK;
}

void ns_ref_unpin(ns_exec *x, void *host)
{
    (void)x, (void)host;
}
