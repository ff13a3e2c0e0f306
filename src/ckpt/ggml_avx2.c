/* Q8_0 and what is said of stored values with vectors of eight: the same bits as ggml.c and look.c, which are the meaning. */
#include "ckpt/ggml_simd.h"

#ifdef __AVX2__
#include <immintrin.h>
#include <string.h>

#include "tensor/dtype.h"

int ns_ggml_has_simd(void)
{
    return __builtin_cpu_supports("avx2") != 0;
}

/* To nearest, halves away from zero, as roundf: the largest number below a half is added towards the sign, the rest is cut off. What
 * is no number becomes the least integer, as a cast of the processor's does; -127 then. */
static __m256i rounded(__m256 v)
{
    const __m256 sign = _mm256_set1_ps(-0.0f), below_half = _mm256_set1_ps(0.49999997f);
    __m256 more = _mm256_or_ps(_mm256_and_ps(v, sign), below_half);
    return _mm256_max_epi32(_mm256_cvttps_epi32(_mm256_add_ps(v, more)), _mm256_set1_epi32(-127));
}

static float largest(__m256 m)
{
    __m128 x = _mm_max_ps(_mm256_castps256_ps128(m), _mm256_extractf128_ps(m, 1));
    x = _mm_max_ps(x, _mm_movehl_ps(x, x));
    x = _mm_max_ss(x, _mm_movehdup_ps(x));
    return _mm_cvtss_f32(x);
}

void ns_ggml_pack_q8_0_simd(uint8_t *o, const float *x, int64_t n)
{
    const __m256 magnitude = _mm256_castsi256_ps(_mm256_set1_epi32(0x7fffffff));
    const __m256i order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
    for (int64_t i = 0; i < n; i += 32, o += 34) {
        __m256 v[4], most = _mm256_setzero_ps();
        for (int k = 0; k < 4; k++) {
            v[k] = _mm256_loadu_ps(x + i + 8 * k);
            most = _mm256_max_ps(_mm256_and_ps(v[k], magnitude), most); /* a NaN leaves the second */
        }
        float d = largest(most) / 127, id = d != 0 ? 1.0f / d : 0.0f;
        uint16_t h = ns_f32_to_f16(d);
        o[0] = (uint8_t)h;
        o[1] = (uint8_t)(h >> 8);
        __m256 by = _mm256_set1_ps(id);
        __m256i q[4];
        for (int k = 0; k < 4; k++) q[k] = rounded(_mm256_mul_ps(v[k], by));
        __m256i a = _mm256_packs_epi32(q[0], q[1]), b = _mm256_packs_epi32(q[2], q[3]);
        _mm256_storeu_si256((__m256i *)(void *)(o + 2), _mm256_permutevar8x32_epi32(_mm256_packs_epi16(a, b), order));
    }
}

void ns_ggml_unpack_q8_0_simd(float *y, const uint8_t *p, int64_t n)
{
    for (int64_t i = 0; i < n; i += 32, p += 34) {
        __m256 d = _mm256_set1_ps(ns_f16_to_f32((uint16_t)(p[0] | p[1] << 8)));
        for (int k = 0; k < 4; k++) {
            __m128i q = _mm_loadl_epi64((const __m128i *)(const void *)(p + 2 + 8 * k));
            _mm256_storeu_ps(y + i + 8 * k, _mm256_mul_ps(_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(q)), d));
        }
    }
}

int64_t ns_look_lost_simd(const float *x, const float *y, int64_t n)
{
    const __m256i exponent = _mm256_set1_epi32(0x7f800000);
    int64_t lost = 0;
    for (int64_t i = 0; i < n; i += 8) {
        __m256i a = _mm256_loadu_si256((const __m256i *)(const void *)(x + i));
        __m256i b = _mm256_loadu_si256((const __m256i *)(const void *)(y + i));
        __m256i was = _mm256_cmpeq_epi32(_mm256_and_si256(a, exponent), exponent);
        __m256i is = _mm256_cmpeq_epi32(_mm256_and_si256(b, exponent), exponent);
        lost += __builtin_popcount((unsigned)_mm256_movemask_ps(_mm256_castsi256_ps(_mm256_andnot_si256(was, is))));
    }
    return lost;
}

void ns_look_errors_simd(double e[8], double s[8], const float *x, const float *y, int64_t n)
{
    __m256d err[2] = {_mm256_setzero_pd(), _mm256_setzero_pd()}, sum[2] = {_mm256_setzero_pd(), _mm256_setzero_pd()};
    for (int64_t i = 0; i < n; i += 8) {
        for (int k = 0; k < 2; k++) {
            __m256d a = _mm256_cvtps_pd(_mm_loadu_ps(x + i + 4 * k)), b = _mm256_cvtps_pd(_mm_loadu_ps(y + i + 4 * k));
            __m256d d = _mm256_sub_pd(a, b);
            err[k] = _mm256_add_pd(err[k], _mm256_mul_pd(d, d));
            sum[k] = _mm256_add_pd(sum[k], _mm256_mul_pd(a, a));
        }
    }
    for (int k = 0; k < 2; k++) {
        _mm256_storeu_pd(e + 4 * k, err[k]);
        _mm256_storeu_pd(s + 4 * k, sum[k]);
    }
}
#else
int ns_ggml_has_simd(void)
{
    return 0;
}
void ns_ggml_pack_q8_0_simd(uint8_t *o, const float *x, int64_t n)
{
    (void)o, (void)x, (void)n;
}
void ns_ggml_unpack_q8_0_simd(float *y, const uint8_t *p, int64_t n)
{
    (void)y, (void)p, (void)n;
}
int64_t ns_look_lost_simd(const float *x, const float *y, int64_t n)
{
    (void)x, (void)y, (void)n;
    return 0;
}
void ns_look_errors_simd(double e[8], double s[8], const float *x, const float *y, int64_t n)
{
    (void)e, (void)s, (void)x, (void)y, (void)n;
}
#endif
