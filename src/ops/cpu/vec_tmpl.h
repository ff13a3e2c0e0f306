/* ns_cpu_vec for one vector width (see rows_tmpl.h): the same functions as cpu_vec.c, sums in W lanes folded in order. */

#include <math.h>

static void store_row(void *dst, ns_dtype dt, const float *src, int64_t n, const float *bias, int add)
{
    for (int64_t i = 0; i < n; i += W) {
        vm m = vmask(n - i);
        vf v = vloadf(m, src + i);
        if (bias) v = vadd(v, vloadf(m, bias + i));
        if (add) v = vadd(v, vload(dst, dt, i, m));
        vstore(dst, dt, i, m, v);
    }
}

static void sum_rows(float *s, const void *p, ns_dtype dt, int64_t rows, int64_t ld, int64_t n)
{
    for (int64_t i = 0; i < n; i += W) {
        vm m = vmask(n - i);
        vf v = vloadf(m, s + i);
        for (int64_t r = 0; r < rows; r++) v = vadd(v, vload(p, dt, r * ld + i, m));
        vstoref(s + i, m, v);
    }
}

static void scaled(void *dst, ns_dtype dt, const float *src, int64_t n, float scale)
{
    vf f = vset(scale);
    for (int64_t i = 0; i < n; i += W) {
        vm m = vmask(n - i);
        vstore(dst, dt, i, m, vmul(vloadf(m, src + i), f));
    }
}

static float dot(const void *a, const void *b, ns_dtype dt, int64_t n)
{
    vf s = vzero();
    for (int64_t i = 0; i < n; i += W) {
        vm m = vmask(n - i);
        s = vfma(vload(a, dt, i, m), vload(b, dt, i, m), s);
    }
    return vsum(s);
}

static float score_max(float *s, int64_t n, float scale, float cap)
{
    vf top = vset(-INFINITY), f = vset(scale), c = vset(cap);
    int nan = 0;
    for (int64_t i = 0; i < n; i += W) {
        vm m = vmask(n - i);
        vf v = vmul(vloadf(m, s + i), f);
        if (cap > 0) v = vmul(c, vtanh(vdiv(v, c)));
        if (cap > 0 || scale != 1) vstoref(s + i, m, v);
        nan |= vnan(m, v);
        top = vmax(top, vpick(m, v, vset(-INFINITY)));
    }
    return nan ? NAN : vtop(top);
}

static float exp_sum(float *s, int64_t n, float top)
{
    unsigned csr = flush_denormals();
    vf sum = vzero(), t = vset(top);
    for (int64_t i = 0; i < n; i += W) {
        vm m = vmask(n - i);
        vf e = vexp(vsub(vloadf(m, s + i), t));
        vstoref(s + i, m, e);
        sum = vadd(sum, vkeep(m, e));
    }
    restore_denormals(csr);
    return vsum(sum);
}

static void attn_grad(float *s, float *dp, int64_t n, float scale, float cap, float lse, float D)
{
    unsigned csr = flush_denormals();
    vf f = vset(scale), c = vset(cap), l = vset(lse), d = vset(D);
    for (int64_t i = 0; i < n; i += W) {
        vm m = vmask(n - i);
        vf z = vmul(vloadf(m, s + i), f), slope = f;
        if (cap > 0) {
            vf t = vtanh(vdiv(z, c));
            z = vmul(c, t);
            slope = vmul(f, vfnma(t, t, vset(1.0f)));
        }
        vf p = vexp(vsub(z, l));
        vf g = vmul(vmul(p, vsub(vloadf(m, dp + i), d)), slope);
        vstoref(s + i, m, p);
        vstoref(dp + i, m, g);
    }
    restore_denormals(csr);
}

/* Three passes over a row that sits in cache: largest, exponentials, gradient. */
static double head_pass(float *z, int64_t n, int64_t label, float scale, float cap, void *d, ns_dtype dt)
{
    float top = score_max(z, n, 1, cap), z_label = z[label];
    vf sum = vzero(), t = vset(top), c = vset(cap > 0 ? 1 / cap : 0);
    for (int64_t i = 0; i < n; i += W) {
        vm m = vmask(n - i);
        vf v = vloadf(m, z + i), e = vexp(vsub(v, t));
        sum = vadd(sum, vkeep(m, e));
        if (cap > 0) { /* the cap's slope, needed once z is gone */
            vf u = vmul(v, c);
            e = vmul(e, vfnma(u, u, vset(1.0f)));
        }
        vstoref(z + i, m, e);
    }
    double total = (double)vsum(sum), lse = (double)top + log(total);
    if (scale == 0) return lse - (double)z_label;
    float f = (float)((double)scale / total), slope = cap > 0 ? 1 - z_label / cap * (z_label / cap) : 1.0f;
    float at_label = z[label] * f - scale * slope;
    vf k = vset(f);
    for (int64_t i = 0; i < n; i += W) {
        vm m = vmask(n - i);
        vstore(d, dt, i, m, vmul(vloadf(m, z + i), k));
    }
    ns_ref_store(d, dt, label, at_label);
    return lse - (double)z_label;
}

static double head_row(float *z, int64_t n, int64_t label, float scale, float cap, void *d, ns_dtype dt)
{
    unsigned csr = flush_denormals();
    double ce = head_pass(z, n, label, scale, cap, d, dt);
    restore_denormals(csr);
    return ce;
}

const ns_cpu_vec SIMD_VEC = {.gemm = SIMD(gemm),
                             .gemm_scratch = SIMD(gemm_scratch),
                             .store_row = store_row,
                             .sum_rows = sum_rows,
                             .score_max = score_max,
                             .exp_sum = exp_sum,
                             .attn_grad = attn_grad,
                             .head_row = head_row,
                             .dot = dot,
                             .scaled = scaled};
