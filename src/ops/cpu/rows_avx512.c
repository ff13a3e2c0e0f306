/* Elementwise ops with AVX-512, serial: cpu_rows.c cuts the rows and calls these. Same formulas as ref, f32 throughout; sums
 * over a row run in 16 lanes folded in one fixed order. AdamW performs ref's operations one for one: equal bits, but for
 * denormal moments, which are flushed (they cost a hundred cycles each and move no weight). */
#include "ops/cpu/avx512.h"

#include <math.h>

static __m512 norm_weight(const ns_weight *w, int plus_one, int64_t c, __mmask16 m)
{
    __m512 v = load16(w->data, w->dt, c, m);
    return plus_one ? _mm512_add_ps(v, _mm512_set1_ps(1.0f)) : v;
}

void ns_avx512_norm_fwd(ns_exec *x, const ns_norm_args *a)
{
    const void *in = a->delta ? a->h : a->x;
    int round = a->dt == NS_DTYPE_BF16 && !a->plus_one;
    (void)x;
    for (int64_t t = 0; t < a->T; t++) {
        int64_t row = t * a->C;
        __m512 s[2] = {_mm512_setzero_ps(), _mm512_setzero_ps()};
        for (int64_t c = 0; c < a->C; c += 16) {
            __mmask16 m = mask16(a->C - c);
            __m512 h = load16(a->x, a->dt, row + c, m);
            if (a->delta) {
                store16(a->h, a->dt, row + c, m, _mm512_add_ps(h, load16(a->delta, a->dt, row + c, m)));
                h = load16(a->h, a->dt, row + c, m); /* the norm sees the stored (rounded) sum */
            }
            s[c >> 4 & 1] = _mm512_fmadd_ps(h, h, s[c >> 4 & 1]);
        }
        double ss = (double)_mm512_reduce_add_ps(_mm512_add_ps(s[0], s[1]));
        float rstd = (float)(1.0 / sqrt(ss / (double)a->C + (double)a->eps));
        if (a->rstd) a->rstd[t] = rstd;
        __m512 r = _mm512_set1_ps(rstd);
        for (int64_t c = 0; c < a->C; c += 16) {
            __mmask16 m = mask16(a->C - c);
            __m512 n = _mm512_mul_ps(load16(in, a->dt, row + c, m), r);
            if (round) n = bf16_to_ps(ps_to_bf16(n));
            store16(a->y, a->dt, row + c, m, _mm512_mul_ps(n, norm_weight(a->w, a->plus_one, c, m)));
        }
    }
}

void ns_avx512_norm_bwd(ns_exec *x, const ns_norm_bwd_args *a)
{
    (void)x;
    for (int64_t t = 0; t < a->T; t++) {
        int64_t row = t * a->C;
        __m512 r = _mm512_set1_ps(a->rstd[t]), s[2] = {_mm512_setzero_ps(), _mm512_setzero_ps()};
        for (int64_t c = 0; c < a->C; c += 16) {
            __mmask16 m = mask16(a->C - c);
            __m512 n = _mm512_mul_ps(load16(a->h, a->dt, row + c, m), r), dy = load16(a->dy, a->dt, row + c, m);
            __m512 dyn = _mm512_mul_ps(dy, n);
            s[c >> 4 & 1] = _mm512_fmadd_ps(dyn, norm_weight(a->w, a->plus_one, c, m), s[c >> 4 & 1]);
            if (a->w->grad)
                store16(a->w->grad, NS_DTYPE_F32, c, m, _mm512_add_ps(load16(a->w->grad, NS_DTYPE_F32, c, m), dyn));
        }
        __m512 mean = _mm512_set1_ps(_mm512_reduce_add_ps(_mm512_add_ps(s[0], s[1])) / (float)a->C);
        for (int64_t c = 0; c < a->C; c += 16) {
            __mmask16 m = mask16(a->C - c);
            __m512 n = _mm512_mul_ps(load16(a->h, a->dt, row + c, m), r);
            __m512 g = _mm512_mul_ps(load16(a->dy, a->dt, row + c, m), norm_weight(a->w, a->plus_one, c, m));
            __m512 d = _mm512_mul_ps(r, _mm512_fnmadd_ps(n, mean, g));
            if (a->dres) d = _mm512_add_ps(d, load16(a->dres, a->dt, row + c, m));
            store16(a->dh, a->dt, row + c, m, d);
        }
    }
}

/* The table's (cos, sin) pairs of 16 dimensions, split. */
static void cos_sin16(const float *cs, int64_t n, __m512 *c, __m512 *s)
{
    const __m512i even = _mm512_set_epi32(30, 28, 26, 24, 22, 20, 18, 16, 14, 12, 10, 8, 6, 4, 2, 0);
    __m512 a = _mm512_maskz_loadu_ps(mask16(2 * n), cs), b = _mm512_maskz_loadu_ps(mask16(2 * n - 16), cs + 16);
    *c = _mm512_permutex2var_ps(a, even, b);
    *s = _mm512_permutex2var_ps(a, _mm512_add_epi32(even, _mm512_set1_epi32(1)), b);
}

void ns_avx512_rope(ns_exec *x, const ns_rope_args *a)
{
    int64_t half = a->rot_dim / 2;
    (void)x;
    for (int64_t t = 0; t < a->T; t++) {
        NS_ASSERT(a->position[t] >= 0 && a->position[t] < a->max_pos);
        for (int64_t i = 0; i < half; i += 16) {
            __m512 c, s;
            __mmask16 m = mask16(half - i);
            cos_sin16(a->cos_sin + (a->position[t] * half + i) * 2, half - i, &c, &s);
            if (a->inverse) s = _mm512_sub_ps(_mm512_setzero_ps(), s);
            for (int64_t h = 0; h < a->n_heads; h++) {
                int64_t at = t * a->row_stride + h * a->head_dim + i;
                __m512 p = load16(a->qk, a->dt, at, m), q = load16(a->qk, a->dt, at + half, m);
                store16(a->qk, a->dt, at, m, _mm512_fmsub_ps(p, c, _mm512_mul_ps(q, s)));
                store16(a->qk, a->dt, at + half, m, _mm512_fmadd_ps(q, c, _mm512_mul_ps(p, s)));
            }
        }
    }
}

/* Value and slope of the non-linearity (ref_misc.c). */
static inline __m512 nonlinear(ns_act act, __m512 g, __m512 *slope)
{
    const __m512 one = _mm512_set1_ps(1.0f), two = _mm512_set1_ps(2.0f);
    if (act == NS_ACT_SWIGLU) {
        __m512 s = sigmoid16(g);
        *slope = _mm512_mul_ps(s, _mm512_fmadd_ps(g, _mm512_sub_ps(one, s), one));
        return _mm512_mul_ps(g, s);
    }
    if (act == NS_ACT_GEGLU_TANH) { /* (1 + tanh y) / 2 = sigmoid 2y: no cancellation for negative y */
        const __m512 k = _mm512_set1_ps(0.797884561f), c = _mm512_set1_ps(0.044715f);
        __m512 cg2 = _mm512_mul_ps(c, _mm512_mul_ps(g, g));
        __m512 inner = _mm512_mul_ps(k, _mm512_fmadd_ps(_mm512_set1_ps(3.0f), cg2, one)); /* dy/dg */
        __m512 phi = sigmoid16(_mm512_mul_ps(two, _mm512_mul_ps(_mm512_mul_ps(k, g), _mm512_add_ps(one, cg2))));
        __m512 bell = _mm512_mul_ps(two, _mm512_mul_ps(phi, _mm512_sub_ps(one, phi)));
        *slope = _mm512_fmadd_ps(_mm512_mul_ps(g, bell), inner, phi);
        return _mm512_mul_ps(g, phi);
    }
    __m512 r = _mm512_max_ps(g, _mm512_setzero_ps());
    *slope = _mm512_add_ps(r, r);
    return _mm512_mul_ps(r, r);
}

void ns_avx512_act_fwd(ns_exec *x, const ns_act_args *a)
{
    int64_t F = a->F, wide = a->act == NS_ACT_RELU2 ? F : 2 * F;
    (void)x;
    for (int64_t t = 0; t < a->T; t++) {
        for (int64_t f = 0; f < F; f += 16) {
            __mmask16 m = mask16(F - f);
            __m512 slope, y = nonlinear(a->act, load16(a->x, a->dt, t * wide + f, m), &slope);
            if (wide != F) y = _mm512_mul_ps(y, load16(a->x, a->dt, t * wide + F + f, m));
            store16(a->y, a->dt, t * F + f, m, y);
        }
    }
}

void ns_avx512_act_bwd(ns_exec *x, const ns_act_args *a)
{
    int64_t F = a->F, wide = a->act == NS_ACT_RELU2 ? F : 2 * F;
    (void)x;
    for (int64_t t = 0; t < a->T; t++) {
        for (int64_t f = 0; f < F; f += 16) {
            __mmask16 m = mask16(F - f);
            __m512 slope, dy = load16(a->dy, a->dt, t * F + f, m);
            __m512 y = nonlinear(a->act, load16(a->x, a->dt, t * wide + f, m), &slope), du = _mm512_mul_ps(dy, slope);
            if (wide != F) {
                du = _mm512_mul_ps(du, load16(a->x, a->dt, t * wide + F + f, m));
                store16(a->dx, a->dt, t * wide + F + f, m, _mm512_mul_ps(dy, y));
            }
            store16(a->dx, a->dt, t * wide + f, m, du);
        }
    }
}

void ns_avx512_add(ns_exec *x, const ns_add_args *a)
{
    (void)x;
    for (int64_t i = 0; i < a->n; i += 16) {
        __mmask16 m = mask16(a->n - i);
        store16(a->y, a->dt, i, m, _mm512_add_ps(load16(a->x, a->dt, i, m), load16(a->delta, a->dt, i, m)));
    }
}

double ns_avx512_sumsq(const float *g, int64_t n)
{
    __m512d s[4] = {_mm512_setzero_pd(), _mm512_setzero_pd(), _mm512_setzero_pd(), _mm512_setzero_pd()};
    for (int64_t i = 0; i < n; i += 32) {
        for (int k = 0; k < 2; k++) {
            __m512 v = _mm512_maskz_loadu_ps(mask16(n - i - 16 * k), g + i + 16 * k);
            __m512d lo = _mm512_cvtps_pd(_mm512_castps512_ps256(v)), hi = _mm512_cvtps_pd(_mm512_extractf32x8_ps(v, 1));
            s[2 * k] = _mm512_fmadd_pd(lo, lo, s[2 * k]);
            s[2 * k + 1] = _mm512_fmadd_pd(hi, hi, s[2 * k + 1]);
        }
    }
    return _mm512_reduce_add_pd(_mm512_add_pd(_mm512_add_pd(s[0], s[1]), _mm512_add_pd(s[2], s[3])));
}

/* p from its bf16 half and remainder: bits = hi * 65536 + rem. */
static __m512i join16(const uint16_t *hi, const int16_t *rem, __mmask16 m)
{
    __m512i h = _mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(m, hi)), 16);
    return _mm512_add_epi32(h, _mm512_cvtepi16_epi32(_mm256_maskz_loadu_epi16(m, rem)));
}
static void split16(uint16_t *hi, int16_t *rem, __mmask16 m, __m512i u)
{
    __m256i lo = _mm512_cvtepi32_epi16(u);
    _mm256_mask_storeu_epi16(rem, m, lo);
    __m512i h = _mm512_srli_epi32(_mm512_sub_epi32(u, _mm512_cvtepi16_epi32(lo)), 16);
    _mm256_mask_storeu_epi16(hi, m, _mm512_cvtepi32_epi16(h));
}

void ns_avx512_adamw(ns_exec *x, const ns_opt_args *a)
{
    const ns_step *s = x->step;
    if (s->nonfinite) return;
    unsigned csr = flush_denormals();
    __m512 b1 = _mm512_set1_ps(s->beta1), b2 = _mm512_set1_ps(s->beta2), clip = _mm512_set1_ps(s->clip_coef);
    __m512 a1 = _mm512_set1_ps(1.0f - s->beta1), a2 = _mm512_set1_ps(1.0f - s->beta2), eps = _mm512_set1_ps(s->eps);
    __m512 c1 = _mm512_set1_ps((float)(1.0 - pow((double)s->beta1, (double)s->t)));
    __m512 c2 = _mm512_set1_ps((float)(1.0 - pow((double)s->beta2, (double)s->t))), lr = _mm512_set1_ps(s->lr);
    for (int64_t k = 0; k < a->n_items; k++) {
        const ns_opt_item *it = &a->items[k];
        __m512 wd = _mm512_set1_ps(it->decay ? s->weight_decay : 0.0f);
        int halves = it->dt == NS_DTYPE_BF16;
        for (int64_t i = 0; i < it->n; i += 16) {
            __mmask16 q = mask16(it->n - i);
            __m512 p = halves ? _mm512_castsi512_ps(join16((uint16_t *)it->w + i, it->rem + i, q))
                              : _mm512_maskz_loadu_ps(q, (float *)it->w + i);
            __m512 g = _mm512_mul_ps(_mm512_maskz_loadu_ps(q, it->grad + i), clip);
            __m512 m = _mm512_add_ps(_mm512_mul_ps(b1, _mm512_maskz_loadu_ps(q, it->m + i)), _mm512_mul_ps(a1, g));
            __m512 v = _mm512_add_ps(_mm512_mul_ps(b2, _mm512_maskz_loadu_ps(q, it->v + i)),
                                     _mm512_mul_ps(a2, _mm512_mul_ps(g, g)));
            __m512 root = _mm512_add_ps(_mm512_sqrt_ps(_mm512_div_ps(v, c2)), eps);
            __m512 u = _mm512_add_ps(_mm512_div_ps(_mm512_div_ps(m, c1), root), _mm512_mul_ps(wd, p));
            p = _mm512_sub_ps(p, _mm512_mul_ps(lr, u));
            _mm512_mask_storeu_ps(it->m + i, q, m);
            _mm512_mask_storeu_ps(it->v + i, q, v);
            if (halves)
                split16((uint16_t *)it->w + i, it->rem + i, q, _mm512_castps_si512(p));
            else
                _mm512_mask_storeu_ps((float *)it->w + i, q, p);
        }
    }
    restore_denormals(csr);
}
