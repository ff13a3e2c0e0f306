/* See look.h. */
#include "ckpt/look.h"

#include <math.h>
#include <string.h>
#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include "ckpt/ggml_simd.h"

enum { LANES = 16 };

typedef struct lanes {
    float lo[LANES], hi[LANES];
    double sum[LANES];
} lanes;

static float value(const void *p, ns_dtype dt, int64_t i)
{
    return dt == NS_DTYPE_BF16 ? ns_bf16_to_f32(((const uint16_t *)p)[i]) : ((const float *)p)[i];
}

/* Elements from i on, i a multiple of LANES. A NaN fails both comparisons. */
static void plain(lanes *l, const void *p, ns_dtype dt, int64_t i, int64_t n)
{
    for (; i < n; i++) {
        int k = (int)(i % LANES);
        float x = value(p, dt, i);
        l->lo[k] = x < l->lo[k] ? x : l->lo[k];
        l->hi[k] = x > l->hi[k] ? x : l->hi[k];
        l->sum[k] += (double)x;
    }
}

/* Both: whole groups of LANES; return how many elements. min(x, low): a NaN leaves the second operand, as the comparison above does. */
#if defined(__x86_64__)
__attribute__((target("avx2"))) static int64_t with_avx2(lanes *l, const void *p, ns_dtype dt, int64_t n)
{
    __m256 low[2], high[2];
    __m256d total[4];
    for (int k = 0; k < 2; k++) {
        low[k] = _mm256_loadu_ps(l->lo + 8 * k);
        high[k] = _mm256_loadu_ps(l->hi + 8 * k);
    }
    for (int k = 0; k < 4; k++) total[k] = _mm256_setzero_pd();
    int64_t i = 0;
    for (; i + LANES <= n; i += LANES) {
        for (int k = 0; k < 2; k++) {
            __m256 x;
            if (dt == NS_DTYPE_BF16) {
                __m128i h = _mm_loadu_si128((const __m128i *)(const void *)((const uint16_t *)p + i + 8 * k));
                x = _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(h), 16));
            } else {
                x = _mm256_loadu_ps((const float *)p + i + 8 * k);
            }
            low[k] = _mm256_min_ps(x, low[k]);
            high[k] = _mm256_max_ps(x, high[k]);
            total[2 * k] = _mm256_add_pd(total[2 * k], _mm256_cvtps_pd(_mm256_castps256_ps128(x)));
            total[2 * k + 1] = _mm256_add_pd(total[2 * k + 1], _mm256_cvtps_pd(_mm256_extractf128_ps(x, 1)));
        }
    }
    for (int k = 0; k < 2; k++) {
        _mm256_storeu_ps(l->lo + 8 * k, low[k]);
        _mm256_storeu_ps(l->hi + 8 * k, high[k]);
    }
    for (int k = 0; k < 4; k++) _mm256_storeu_pd(l->sum + 4 * k, total[k]);
    return i;
}

__attribute__((target("avx512f"))) static int64_t with_avx512(lanes *l, const void *p, ns_dtype dt, int64_t n)
{
    __m512 low = _mm512_loadu_ps(l->lo), high = _mm512_loadu_ps(l->hi);
    __m512d s = _mm512_setzero_pd(), t = _mm512_setzero_pd();
    int64_t i = 0;
    for (; i + LANES <= n; i += LANES) {
        __m512 x;
        if (dt == NS_DTYPE_BF16) {
            __m256i h = _mm256_loadu_si256((const __m256i *)(const void *)((const uint16_t *)p + i));
            x = _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(h), 16));
        } else {
            x = _mm512_loadu_ps((const float *)p + i);
        }
        low = _mm512_min_ps(x, low);
        high = _mm512_max_ps(x, high);
        s = _mm512_add_pd(s, _mm512_cvtps_pd(_mm512_castps512_ps256(x)));
        t = _mm512_add_pd(t, _mm512_cvtps_pd(_mm256_castpd_ps(_mm512_extractf64x4_pd(_mm512_castps_pd(x), 1))));
    }
    _mm512_storeu_ps(l->lo, low);
    _mm512_storeu_ps(l->hi, high);
    _mm512_storeu_pd(l->sum, s);
    _mm512_storeu_pd(l->sum + 8, t);
    return i;
}
#endif

static int best(void)
{
#if defined(__x86_64__)
    return __builtin_cpu_supports("avx512f") ? 2 : __builtin_cpu_supports("avx2") ? 1 : 0;
#else
    return 0;
#endif
}

void ns_look_with(int level, ns_extremes *e, const void *p, ns_dtype dt, int64_t n)
{
    lanes l = {.sum = {0}};
    int64_t i = 0;
    for (int k = 0; k < LANES; k++) l.lo[k] = l.hi[k] = value(p, dt, 0);
#if defined(__x86_64__)
    level = level < best() ? level : best();
    if (level == 2) i = with_avx512(&l, p, dt, n);
    if (level == 1) i = with_avx2(&l, p, dt, n);
#else
    (void)level;
#endif
    plain(&l, p, dt, i, n);
    *e = (ns_extremes){(double)l.lo[0], (double)l.hi[0], 0};
    for (int k = 0; k < LANES; k++) {
        if ((double)l.lo[k] < e->min) e->min = (double)l.lo[k];
        if ((double)l.hi[k] > e->max) e->max = (double)l.hi[k];
        e->sum += l.sum[k];
    }
}

void ns_look(ns_extremes *e, const void *p, ns_dtype dt, int64_t n)
{
    ns_look_with(best(), e, p, dt, n);
}

/* Eight lanes, added in order. */
void ns_look_errors_with(int simd, double *err2, double *sum2, const float *x, const float *y, int64_t n)
{
    double e[8] = {0}, s[8] = {0};
    int64_t i = 0;
    if (simd && ns_ggml_has_simd()) {
        i = n - n % 8;
        ns_look_errors_simd(e, s, x, y, i);
    }
    for (; i < n; i++) {
        double d = (double)x[i] - (double)y[i];
        e[i % 8] += d * d;
        s[i % 8] += (double)x[i] * (double)x[i];
    }
    for (int k = 0; k < 8; k++) {
        *err2 += e[k];
        *sum2 += s[k];
    }
}

void ns_look_errors(double *err2, double *sum2, const float *x, const float *y, int64_t n)
{
    ns_look_errors_with(1, err2, sum2, x, y, n);
}

int64_t ns_look_lost(const float *x, const float *y, int64_t n)
{
    int64_t lost = 0, i = 0;
    if (ns_ggml_has_simd()) {
        i = n - n % 8;
        lost = ns_look_lost_simd(x, y, i);
    }
    for (; i < n; i++) lost += isfinite(x[i]) && !isfinite(y[i]);
    return lost;
}
