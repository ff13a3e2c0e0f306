/* Inner loops of attention and head, plain C: the meaning of ns_cpu_vec, used where AVX-512 is not. */
#include "ops/cpu/cpu.h"

#include <math.h>
#include <string.h>

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

static void scaled(void *dst, ns_dtype dt, const float *src, int64_t n, float scale)
{
    for (int64_t i = 0; i < n; i++) ns_ref_store(dst, dt, i, src[i] * scale);
}

static void store_row(void *dst, ns_dtype dt, const float *src, int64_t n, const float *bias, int add)
{
    for (int64_t i = 0; i < n; i++)
        ns_ref_store(dst, dt, i, src[i] + (bias ? bias[i] : 0) + (add ? ns_ref_load(dst, dt, i) : 0));
}

static void sum_rows(float *s, const void *p, ns_dtype dt, int64_t rows, int64_t ld, int64_t n)
{
    for (int64_t r = 0; r < rows; r++)
        for (int64_t i = 0; i < n; i++) s[i] += ns_ref_load(p, dt, r * ld + i);
}

/* ---- product: f32 views of both operands, then sgemm ---- */
enum { GM = 224, GN = 256, GK = 512 };

static int64_t gemm_scratch(void)
{
    return (GM + GN) * GK * 4;
}

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

static void gemm(const ns_cpu_operand *a, const ns_cpu_operand *b, int64_t m, int64_t n, int64_t k, float *c,
                 int64_t ldc, int add, void *scratch)
{
    float *abuf = scratch, *bbuf = abuf + GM * GK;
    int64_t lda, ldb;
    if (k == 0 && !add)
        for (int64_t i = 0; i < m; i++) memset(c + i * ldc, 0, (size_t)n * 4);
    for (int64_t k0 = 0; k0 < k; k0 += GK) {
        int64_t nk = ns_cpu_min(GK, k - k0);
        for (int64_t j0 = 0; j0 < n; j0 += GN) {
            int64_t nj = ns_cpu_min(GN, n - j0);
            const float *bv = view(b, j0, nj, k0, nk, bbuf, &ldb);
            for (int64_t i0 = 0; i0 < m; i0 += GM) {
                int64_t mi = ns_cpu_min(GM, m - i0);
                const float *av = view(a, i0, mi, k0, nk, abuf, &lda);
                ns_cpu_sgemm(!a->k_contiguous, b->k_contiguous, mi, nj, nk, 1, av, lda, bv, ldb, add || k0 ? 1 : 0,
                             c + i0 * ldc + j0, ldc);
            }
        }
    }
}

const ns_cpu_vec ns_cpu_vec_plain = {.gemm = gemm,
                                     .gemm_scratch = gemm_scratch,
                                     .store_row = store_row,
                                     .sum_rows = sum_rows,
                                     .score_max = score_max,
                                     .exp_sum = exp_sum,
                                     .attn_grad = attn_grad,
                                     .head_row = head_row,
                                     .dot = dot,
                                     .scaled = scaled};
