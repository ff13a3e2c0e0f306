/* Gradient norm, clipping and AdamW (training.md §2.10-2.11; Loshchilov & Hutter 2019), all scalars from ns_step.
 * The update is f32 with one operation per line of the formula, so that vector versions give the same bits. What a form keeps in
 * bf16 is read, updated in f32 and rounded stochastically (ops.h). */
#include <math.h>

#include "ops/ref/ref.h"

void ns_ref_grad_sumsq(ns_exec *x, const ns_opt_args *a)
{
    double sum = 0;
    for (int64_t k = 0; k < a->n_items; k++)
        for (int64_t i = 0; i < a->items[k].n; i++) sum += (double)a->items[k].grad[i] * (double)a->items[k].grad[i];
    x->step->grad_sumsq = sum;
    x->step->nonfinite = !isfinite(sum);
}

void ns_ref_clip(ns_exec *x, const ns_opt_args *a)
{
    (void)a;
    ns_step *s = x->step;
    double coef = s->clip > 0 ? (double)s->clip / (sqrt(s->grad_sumsq) + 1e-6) : 1.0;
    s->clip_coef = coef < 1 ? (float)coef : 1.0f; /* NaN: 1; the update is skipped anyway (nonfinite) */
}

/* The 16 random bits of element e, from the words of its 8. */
static uint32_t bits_of(const uint32_t words[4], int64_t e)
{
    return words[(e & 7) >> 1] >> (16 * (e & 1)) & 0xffffu;
}

static void put_state(void *p, ns_dtype dt, int64_t i, float f, const uint32_t words[4], int64_t e)
{
    if (dt == NS_DTYPE_BF16)
        ((uint16_t *)p)[i] = ns_f32_to_bf16_random(f, bits_of(words, e));
    else
        ((float *)p)[i] = f;
}

static float get_weight(const ns_opt_item *it, int64_t i)
{
    if (it->dt == NS_DTYPE_BF16 && !it->form.no_rem) return ns_main_join(((uint16_t *)it->w)[i], it->rem[i]);
    return ns_ref_load(it->w, it->dt, i);
}

void ns_ref_adamw(ns_exec *x, const ns_opt_args *a)
{
    const ns_step *s = x->step;
    if (s->nonfinite) return;
    float b1 = s->beta1, b2 = s->beta2, a1 = 1.0f - b1, a2 = 1.0f - b2;
    float c1 = (float)(1.0 - pow((double)b1, (double)s->t)), c2 = (float)(1.0 - pow((double)b2, (double)s->t));
    for (int64_t k = 0; k < a->n_items; k++) {
        const ns_opt_item *it = &a->items[k];
        float wd = it->decay ? s->weight_decay : 0.0f;
        const ns_opt_form f = it->form;
        const int rounds = (it->dt == NS_DTYPE_BF16 && f.no_rem) || f.m == NS_DTYPE_BF16 || f.v == NS_DTYPE_BF16;
        uint16_t *hi = it->w;
        uint32_t words[3][4] = {{0}};
        for (int64_t i = 0; i < it->n; i++) {
            const int64_t e = it->first + i;
            if (rounds && (i == 0 || e % 8 == 0))
                for (int what = NS_ROUND_WEIGHT; what <= NS_ROUND_V; what++)
                    ns_round_words(words[what], x->key, s->t, it->tensor, what, e / 8);
            float p = get_weight(it, i);
            float g = it->grad[i] * s->clip_coef;
            float m = b1 * ns_ref_load(it->m, f.m, i) + a1 * g;
            float v = b2 * ns_ref_load(it->v, f.v, i) + a2 * (g * g);
            float u = (m / c1) / (sqrtf(v / c2) + s->eps) + wd * p;
            p = p - s->lr * u;
            put_state(it->m, f.m, i, m, words[NS_ROUND_M], e);
            put_state(it->v, f.v, i, v, words[NS_ROUND_V], e);
            if (it->dt == NS_DTYPE_BF16 && !f.no_rem)
                ns_main_split(p, &hi[i], &it->rem[i]);
            else
                put_state(it->w, it->dt, i, p, words[NS_ROUND_WEIGHT], e);
        }
    }
}
