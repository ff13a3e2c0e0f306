/* Elementwise ops, serial, for one vector width: included by rows_avx512.c and rows_avx2.c after the header that defines vf,
 * W and the v... functions; SIMD(x) makes the names. cpu_rows.c cuts the rows and calls these. Same formulas as ref, f32
 * throughout; sums over a row run in W lanes folded in one fixed order. AdamW performs ref's operations one for one: equal
 * bits, but for denormal moments, which are flushed (they cost a hundred cycles each and move no weight). */

#include <math.h>

static vf norm_weight(const ns_weight *w, int plus_one, int64_t c, vm m)
{
    vf v = vload(w->data, w->dt, c, m);
    return plus_one ? vadd(v, vset(1.0f)) : v;
}

void SIMD(norm_fwd)(ns_exec *x, const ns_norm_args *a)
{
    const void *in = a->delta ? a->h : a->x;
    int round = a->dt == NS_DTYPE_BF16 && !a->plus_one;
    (void)x;
    for (int64_t t = 0; t < a->T; t++) {
        int64_t row = t * a->C;
        vf s[2] = {vzero(), vzero()};
        for (int64_t c = 0; c < a->C; c += W) {
            vm m = vmask(a->C - c);
            vf h = vload(a->x, a->dt, row + c, m);
            if (a->delta) {
                vstore(a->h, a->dt, row + c, m, vadd(h, vload(a->delta, a->dt, row + c, m)));
                h = vload(a->h, a->dt, row + c, m); /* the norm sees the stored (rounded) sum */
            }
            s[c / W & 1] = vfma(h, h, s[c / W & 1]);
        }
        double ss = (double)vsum(vadd(s[0], s[1]));
        float rstd = (float)(1.0 / sqrt(ss / (double)a->C + (double)a->eps));
        if (a->rstd) a->rstd[t] = rstd;
        vf r = vset(rstd);
        for (int64_t c = 0; c < a->C; c += W) {
            vm m = vmask(a->C - c);
            vf n = vmul(vload(in, a->dt, row + c, m), r);
            if (round) n = vround(n);
            vstore(a->y, a->dt, row + c, m, vmul(n, norm_weight(a->w, a->plus_one, c, m)));
        }
    }
}

void SIMD(norm_bwd)(ns_exec *x, const ns_norm_bwd_args *a)
{
    (void)x;
    for (int64_t t = 0; t < a->T; t++) {
        int64_t row = t * a->C;
        vf r = vset(a->rstd[t]), s[2] = {vzero(), vzero()};
        for (int64_t c = 0; c < a->C; c += W) {
            vm m = vmask(a->C - c);
            vf n = vmul(vload(a->h, a->dt, row + c, m), r), dy = vload(a->dy, a->dt, row + c, m);
            vf dyn = vmul(dy, n);
            s[c / W & 1] = vfma(dyn, norm_weight(a->w, a->plus_one, c, m), s[c / W & 1]);
            if (a->w->grad) vstore(a->w->grad, NS_DTYPE_F32, c, m, vadd(vload(a->w->grad, NS_DTYPE_F32, c, m), dyn));
        }
        vf mean = vset(vsum(vadd(s[0], s[1])) / (float)a->C);
        for (int64_t c = 0; c < a->C; c += W) {
            vm m = vmask(a->C - c);
            vf n = vmul(vload(a->h, a->dt, row + c, m), r);
            vf g = vmul(vload(a->dy, a->dt, row + c, m), norm_weight(a->w, a->plus_one, c, m));
            vf d = vmul(r, vfnma(n, mean, g));
            if (a->dres) d = vadd(d, vload(a->dres, a->dt, row + c, m));
            vstore(a->dh, a->dt, row + c, m, d);
        }
    }
}

void SIMD(rope)(ns_exec *x, const ns_rope_args *a)
{
    int64_t half = a->rot_dim / 2;
    (void)x;
    for (int64_t t = 0; t < a->T; t++) {
        NS_ASSERT(a->position[t] >= 0 && a->position[t] < a->max_pos);
        for (int64_t i = 0; i < half; i += W) {
            vf c, s;
            vm m = vmask(half - i);
            vsplit_pairs(a->cos_sin + (a->position[t] * half + i) * 2, half - i, &c, &s);
            if (a->inverse) s = vsub(vzero(), s);
            for (int64_t h = 0; h < a->n_heads; h++) {
                int64_t at = t * a->row_stride + h * a->head_dim + i;
                vf p = vload(a->qk, a->dt, at, m), q = vload(a->qk, a->dt, at + half, m);
                vstore(a->qk, a->dt, at, m, vfms(p, c, vmul(q, s)));
                vstore(a->qk, a->dt, at + half, m, vfma(q, c, vmul(p, s)));
            }
        }
    }
}

/* Value and slope of the non-linearity (ref_misc.c). */
static inline vf nonlinear(ns_act act, vf g, vf *slope)
{
    const vf one = vset(1.0f), two = vset(2.0f);
    if (act == NS_ACT_SWIGLU) {
        vf s = vsigmoid(g);
        *slope = vmul(s, vfma(g, vsub(one, s), one));
        return vmul(g, s);
    }
    if (act == NS_ACT_GEGLU_TANH) { /* (1 + tanh y) / 2 = sigmoid 2y: no cancellation for negative y */
        const vf k = vset(0.797884561f), c = vset(0.044715f);
        vf cg2 = vmul(c, vmul(g, g));
        vf inner = vmul(k, vfma(vset(3.0f), cg2, one)); /* dy/dg */
        vf phi = vsigmoid(vmul(two, vmul(vmul(k, g), vadd(one, cg2))));
        vf bell = vmul(two, vmul(phi, vsub(one, phi)));
        *slope = vfma(vmul(g, bell), inner, phi);
        return vmul(g, phi);
    }
    vf r = vmax(g, vzero());
    *slope = vadd(r, r);
    return vmul(r, r);
}

void SIMD(act_fwd)(ns_exec *x, const ns_act_args *a)
{
    int64_t F = a->F, wide = a->act == NS_ACT_RELU2 ? F : 2 * F;
    (void)x;
    for (int64_t t = 0; t < a->T; t++) {
        for (int64_t f = 0; f < F; f += W) {
            vm m = vmask(F - f);
            vf slope, y = nonlinear(a->act, vload(a->x, a->dt, t * wide + f, m), &slope);
            if (wide != F) y = vmul(y, vload(a->x, a->dt, t * wide + F + f, m));
            vstore(a->y, a->dt, t * F + f, m, y);
        }
    }
}

void SIMD(act_bwd)(ns_exec *x, const ns_act_args *a)
{
    int64_t F = a->F, wide = a->act == NS_ACT_RELU2 ? F : 2 * F;
    (void)x;
    for (int64_t t = 0; t < a->T; t++) {
        for (int64_t f = 0; f < F; f += W) {
            vm m = vmask(F - f);
            vf slope, dy = vload(a->dy, a->dt, t * F + f, m);
            vf y = nonlinear(a->act, vload(a->x, a->dt, t * wide + f, m), &slope), du = vmul(dy, slope);
            if (wide != F) {
                du = vmul(du, vload(a->x, a->dt, t * wide + F + f, m));
                vstore(a->dx, a->dt, t * wide + F + f, m, vmul(dy, y));
            }
            vstore(a->dx, a->dt, t * wide + f, m, du);
        }
    }
}

void SIMD(add)(ns_exec *x, const ns_add_args *a)
{
    (void)x;
    for (int64_t i = 0; i < a->n; i += W) {
        vm m = vmask(a->n - i);
        vstore(a->y, a->dt, i, m, vadd(vload(a->x, a->dt, i, m), vload(a->delta, a->dt, i, m)));
    }
}

double SIMD(sumsq)(const float *g, int64_t n)
{
    double s[2 * W] = {0}; /* one sum a lane, twice: folded in order */
    vd acc[4] = {vzerod(), vzerod(), vzerod(), vzerod()};
    for (int64_t i = 0; i < n; i += 2 * W) {
        for (int k = 0; k < 2; k++) {
            vd lo, hi;
            vwiden(vloadf(vmask(n - i - W * k), g + i + W * k), &lo, &hi);
            acc[2 * k] = vfmad(lo, lo, acc[2 * k]);
            acc[2 * k + 1] = vfmad(hi, hi, acc[2 * k + 1]);
        }
    }
    for (int k = 0; k < 4; k++) vstored(s + k * W / 2, acc[k]);
    double sum = 0;
    for (int k = 0; k < 2 * W; k++) sum += s[k];
    return sum;
}

void SIMD(adamw)(ns_exec *x, const ns_opt_args *a)
{
    const ns_step *s = x->step;
    if (s->nonfinite) return;
    unsigned csr = flush_denormals();
    vf b1 = vset(s->beta1), b2 = vset(s->beta2), clip = vset(s->clip_coef);
    vf a1 = vset(1.0f - s->beta1), a2 = vset(1.0f - s->beta2), eps = vset(s->eps);
    vf c1 = vset((float)(1.0 - pow((double)s->beta1, (double)s->t)));
    vf c2 = vset((float)(1.0 - pow((double)s->beta2, (double)s->t))), lr = vset(s->lr);
    for (int64_t k = 0; k < a->n_items; k++) {
        const ns_opt_item *it = &a->items[k];
        vf wd = vset(it->decay ? s->weight_decay : 0.0f);
        int halves = it->dt == NS_DTYPE_BF16;
        for (int64_t i = 0; i < it->n; i += W) {
            vm q = vmask(it->n - i);
            vf p = halves ? vjoin((uint16_t *)it->w + i, it->rem + i, q) : vloadf(q, (float *)it->w + i);
            vf g = vmul(vloadf(q, it->grad + i), clip);
            vf m = vadd(vmul(b1, vloadf(q, (float *)it->m + i)), vmul(a1, g));
            vf v = vadd(vmul(b2, vloadf(q, (float *)it->v + i)), vmul(a2, vmul(g, g)));
            vf root = vadd(vsqrt(vdiv(v, c2)), eps);
            vf u = vadd(vdiv(vdiv(m, c1), root), vmul(wd, p));
            p = vsub(p, vmul(lr, u));
            vstoref((float *)it->m + i, q, m);
            vstoref((float *)it->v + i, q, v);
            if (halves)
                vsplit((uint16_t *)it->w + i, it->rem + i, q, p);
            else
                vstoref((float *)it->w + i, q, p);
        }
    }
    restore_denormals(csr);
}
