/* ns_cpu_vec with AVX-512: the same functions as cpu_vec.c, sums in 16 lanes folded in one fixed order. */
#include "ops/cpu/avx512.h"

#include <math.h>

static void store_row(void *dst, ns_dtype dt, const float *src, int64_t n, const float *bias, int add)
{
    for (int64_t i = 0; i < n; i += 16) {
        __mmask16 m = mask16(n - i);
        __m512 v = _mm512_maskz_loadu_ps(m, src + i);
        if (bias) v = _mm512_add_ps(v, _mm512_maskz_loadu_ps(m, bias + i));
        if (add) v = _mm512_add_ps(v, load16(dst, dt, i, m));
        store16(dst, dt, i, m, v);
    }
}

static void sum_rows(float *s, const void *p, ns_dtype dt, int64_t rows, int64_t ld, int64_t n)
{
    for (int64_t i = 0; i < n; i += 16) {
        __mmask16 m = mask16(n - i);
        __m512 v = _mm512_maskz_loadu_ps(m, s + i);
        for (int64_t r = 0; r < rows; r++) v = _mm512_add_ps(v, load16(p, dt, r * ld + i, m));
        _mm512_mask_storeu_ps(s + i, m, v);
    }
}

static void scaled(void *dst, ns_dtype dt, const float *src, int64_t n, float scale)
{
    __m512 f = _mm512_set1_ps(scale);
    for (int64_t i = 0; i < n; i += 16) {
        __mmask16 m = mask16(n - i);
        store16(dst, dt, i, m, _mm512_mul_ps(_mm512_maskz_loadu_ps(m, src + i), f));
    }
}

static float dot(const void *a, const void *b, ns_dtype dt, int64_t n)
{
    __m512 s = _mm512_setzero_ps();
    for (int64_t i = 0; i < n; i += 16) {
        __mmask16 m = mask16(n - i);
        s = _mm512_fmadd_ps(load16(a, dt, i, m), load16(b, dt, i, m), s);
    }
    return _mm512_reduce_add_ps(s);
}

static float score_max(float *s, int64_t n, float scale, float cap)
{
    __m512 top = _mm512_set1_ps(-INFINITY), f = _mm512_set1_ps(scale), c = _mm512_set1_ps(cap);
    __mmask16 nan = 0;
    for (int64_t i = 0; i < n; i += 16) {
        __mmask16 m = mask16(n - i);
        __m512 v = _mm512_mul_ps(_mm512_maskz_loadu_ps(m, s + i), f);
        if (cap > 0) v = _mm512_mul_ps(c, tanh16(_mm512_div_ps(v, c)));
        if (cap > 0 || scale != 1) _mm512_mask_storeu_ps(s + i, m, v);
        nan |= _mm512_mask_cmp_ps_mask(m, v, v, _CMP_UNORD_Q);
        top = _mm512_mask_max_ps(top, m, top, v);
    }
    return nan ? NAN : _mm512_reduce_max_ps(top);
}

static float exp_sum(float *s, int64_t n, float top)
{
    unsigned csr = flush_denormals();
    __m512 sum = _mm512_setzero_ps(), t = _mm512_set1_ps(top);
    for (int64_t i = 0; i < n; i += 16) {
        __mmask16 m = mask16(n - i);
        __m512 e = exp16(_mm512_sub_ps(_mm512_maskz_loadu_ps(m, s + i), t));
        _mm512_mask_storeu_ps(s + i, m, e);
        sum = _mm512_mask_add_ps(sum, m, sum, e);
    }
    restore_denormals(csr);
    return _mm512_reduce_add_ps(sum);
}

static void attn_grad(float *s, float *dp, int64_t n, float scale, float cap, float lse, float D)
{
    unsigned csr = flush_denormals();
    __m512 f = _mm512_set1_ps(scale), c = _mm512_set1_ps(cap), l = _mm512_set1_ps(lse), d = _mm512_set1_ps(D);
    for (int64_t i = 0; i < n; i += 16) {
        __mmask16 m = mask16(n - i);
        __m512 z = _mm512_mul_ps(_mm512_maskz_loadu_ps(m, s + i), f), slope = f;
        if (cap > 0) {
            __m512 t = tanh16(_mm512_div_ps(z, c));
            z = _mm512_mul_ps(c, t);
            slope = _mm512_mul_ps(f, _mm512_fnmadd_ps(t, t, _mm512_set1_ps(1.0f)));
        }
        __m512 p = exp16(_mm512_sub_ps(z, l));
        __m512 g = _mm512_mul_ps(_mm512_mul_ps(p, _mm512_sub_ps(_mm512_maskz_loadu_ps(m, dp + i), d)), slope);
        _mm512_mask_storeu_ps(s + i, m, p);
        _mm512_mask_storeu_ps(dp + i, m, g);
    }
    restore_denormals(csr);
}

/* Three passes over a row that sits in cache: largest, exponentials, gradient. */
static double head_pass(float *z, int64_t n, int64_t label, float scale, float cap, void *d, ns_dtype dt)
{
    float top = score_max(z, n, 1, cap), z_label = z[label];
    __m512 sum = _mm512_setzero_ps(), t = _mm512_set1_ps(top), c = _mm512_set1_ps(cap > 0 ? 1 / cap : 0);
    for (int64_t i = 0; i < n; i += 16) {
        __mmask16 m = mask16(n - i);
        __m512 v = _mm512_maskz_loadu_ps(m, z + i), e = exp16(_mm512_sub_ps(v, t));
        sum = _mm512_mask_add_ps(sum, m, sum, e);
        if (cap > 0) { /* the cap's slope, needed once z is gone */
            __m512 u = _mm512_mul_ps(v, c);
            e = _mm512_mul_ps(e, _mm512_fnmadd_ps(u, u, _mm512_set1_ps(1.0f)));
        }
        _mm512_mask_storeu_ps(z + i, m, e);
    }
    double total = (double)_mm512_reduce_add_ps(sum), lse = (double)top + log(total);
    if (scale == 0) return lse - (double)z_label;
    float f = (float)((double)scale / total), slope = cap > 0 ? 1 - z_label / cap * (z_label / cap) : 1.0f;
    float at_label = z[label] * f - scale * slope;
    __m512 k = _mm512_set1_ps(f);
    for (int64_t i = 0; i < n; i += 16) {
        __mmask16 m = mask16(n - i);
        store16(d, dt, i, m, _mm512_mul_ps(_mm512_maskz_loadu_ps(m, z + i), k));
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

const ns_cpu_vec ns_cpu_vec_avx512 = {.gemm = ns_avx512_gemm,
                                      .gemm_scratch = ns_avx512_gemm_scratch,
                                      .store_row = store_row,
                                      .sum_rows = sum_rows,
                                      .score_max = score_max,
                                      .exp_sum = exp_sum,
                                      .attn_grad = attn_grad,
                                      .head_row = head_row,
                                      .dot = dot,
                                      .scaled = scaled};
