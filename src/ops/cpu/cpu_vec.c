/* Inner loops of attention and head, plain C: the meaning of ns_cpu_vec, used where AVX-512 is not. */
#include "ops/cpu/cpu.h"

#include <math.h>

static float score_max(float *s, int64_t n, float scale, float cap)
{
    float top = -INFINITY;
    for (int64_t i = 0; i < n; i++) {
        s[i] *= scale;
        if (cap > 0) s[i] = cap * tanhf(s[i] / cap);
        if (!(s[i] <= top)) top = s[i]; /* NaN wins */
    }
    return top;
}

static float exp_sum(float *s, int64_t n, float top)
{
    double sum = 0;
    for (int64_t i = 0; i < n; i++) sum += (double)(s[i] = expf(s[i] - top));
    return (float)sum;
}

static void attn_grad(float *s, float *dp, int64_t n, float scale, float cap, float lse, float D)
{
    for (int64_t i = 0; i < n; i++) {
        float z = s[i] * scale, slope = scale;
        if (cap > 0) {
            float t = tanhf(z / cap);
            z = cap * t;
            slope *= 1 - t * t;
        }
        s[i] = expf(z - lse);
        dp[i] = s[i] * (dp[i] - D) * slope;
    }
}

static double head_row(float *z, int64_t n, int64_t label, float scale, float cap, void *d, ns_dtype dt)
{
    float top = score_max(z, n, 1, cap);
    double sum = 0;
    for (int64_t i = 0; i < n; i++) sum += exp((double)(z[i] - top));
    double lse = (double)top + log(sum), ce = lse - (double)z[label];
    for (int64_t i = 0; scale != 0 && i < n; i++) {
        float slope = cap > 0 ? 1 - z[i] / cap * (z[i] / cap) : 1.0f;
        float p = expf((float)((double)z[i] - lse)) - (i == label ? 1.0f : 0.0f);
        ns_ref_store(d, dt, i, scale * p * slope);
    }
    return ce;
}

static float dot(const void *a, const void *b, ns_dtype dt, int64_t n)
{
    double s = 0;
    for (int64_t i = 0; i < n; i++) s += (double)ns_ref_load(a, dt, i) * (double)ns_ref_load(b, dt, i);
    return (float)s;
}

static void to_f32(float *dst, const void *src, ns_dtype dt, int64_t n)
{
    ns_to_f32(dst, src, dt, (size_t)n);
}

static void from_f32(void *dst, ns_dtype dt, const float *src, int64_t n, float scale)
{
    for (int64_t i = 0; i < n; i++) ns_ref_store(dst, dt, i, src[i] * scale);
}

const ns_cpu_vec ns_cpu_vec_plain = {score_max, exp_sum, attn_grad, head_row, dot, to_f32, from_f32};
