/* Private to *_avx2.c: the names of the templates for vectors of 8 f32 (AVX2 and FMA). Partial vectors of bf16 go through a
 * small buffer: AVX2 has no 16-bit masks. */
#ifndef NS_OPS_CPU_AVX2_H
#define NS_OPS_CPU_AVX2_H

#include <immintrin.h>
#include <string.h>

#include "ops/cpu/cpu.h"

enum { W = 8, MR = 6 };
#define SIMD_ROWS 6
#define SIMD(x) ns_avx2_##x
#define SIMD_VEC ns_cpu_vec_avx2
typedef __m256 vf;
typedef __m256d vd;
typedef struct vm { /* the first n lanes */
    __m256i lanes;
    int n;
} vm;

static inline vm vmask(int64_t n)
{
    int k = n >= W ? W : n <= 0 ? 0 : (int)n;
    return (vm){_mm256_cmpgt_epi32(_mm256_set1_epi32(k), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7)), k};
}
#define vget _mm256_load_ps /* aligned */
#define vput _mm256_store_ps
#define vset _mm256_set1_ps
#define vzero _mm256_setzero_ps
#define vadd _mm256_add_ps
#define vsub _mm256_sub_ps
#define vmul _mm256_mul_ps
#define vdiv _mm256_div_ps
#define vfma _mm256_fmadd_ps   /* a b + c */
#define vfms _mm256_fmsub_ps   /* a b - c */
#define vfnma _mm256_fnmadd_ps /* c - a b */
#define vmax _mm256_max_ps     /* the second operand where either is NaN */
#define vmin _mm256_min_ps
#define vsqrt _mm256_sqrt_ps
#define vabs(a) _mm256_andnot_ps(_mm256_set1_ps(-0.0f), a)
#define vkeep(m, v) _mm256_and_ps(_mm256_castsi256_ps((m).lanes), v)
#define vless(a, b) all_lanes(_mm256_castps_si256(_mm256_cmp_ps(a, b, _CMP_LT_OQ)))
#define vunordered(a) all_lanes(_mm256_castps_si256(_mm256_cmp_ps(a, a, _CMP_UNORD_Q)))
#define vnearest(a) _mm256_round_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)
#define vzerod _mm256_setzero_pd
#define vfmad _mm256_fmadd_pd
#define vstored _mm256_storeu_pd
static inline vm all_lanes(__m256i lanes)
{
    return (vm){lanes, W};
}
static inline vf vpick(vm m, vf a, vf b)
{
    return _mm256_blendv_ps(b, a, _mm256_castsi256_ps(m.lanes));
}
static inline int vnan(vm m, vf v)
{
    return _mm256_movemask_ps(_mm256_and_ps(_mm256_castsi256_ps(m.lanes), _mm256_cmp_ps(v, v, _CMP_UNORD_Q))) != 0;
}
static inline float vsum(vf v)
{
    __m128 s = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    s = _mm_add_ps(s, _mm_movehl_ps(s, s));
    return _mm_cvtss_f32(_mm_add_ss(s, _mm_movehdup_ps(s)));
}
static inline float vtop(vf v)
{
    __m128 s = _mm_max_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    s = _mm_max_ps(s, _mm_movehl_ps(s, s));
    return _mm_cvtss_f32(_mm_max_ss(s, _mm_movehdup_ps(s)));
}
/* a 2^b in two steps, as b may be one past the exponent range of f32 */
static inline vf vscale2(vf a, vf b)
{
    __m256i n = _mm256_cvtps_epi32(b), h = _mm256_srai_epi32(n, 1), bias = _mm256_set1_epi32(127);
    vf lo = _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(h, bias), 23));
    vf hi = _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(_mm256_sub_epi32(n, h), bias), 23));
    return vmul(vmul(a, lo), hi);
}
static inline vf vreciprocal(vf d)
{
    return vdiv(vset(1.0f), d);
}
static inline void vwiden(vf v, vd *lo, vd *hi)
{
    *lo = _mm256_cvtps_pd(_mm256_castps256_ps128(v));
    *hi = _mm256_cvtps_pd(_mm256_extractf128_ps(v, 1));
}

/* ---- memory ---- */
static inline vf vloadf(vm m, const float *p)
{
    return m.n == W ? _mm256_loadu_ps(p) : _mm256_maskload_ps(p, m.lanes);
}
static inline void vstoref(float *p, vm m, vf v)
{
    if (m.n == W)
        _mm256_storeu_ps(p, v);
    else
        _mm256_maskstore_ps(p, m.lanes, v);
}
static inline __m128i load_halves(const void *p, vm m)
{
    if (m.n == W) return _mm_loadu_si128(p);
    uint16_t part[W] = {0};
    memcpy(part, p, (size_t)m.n * 2);
    return _mm_loadu_si128((const __m128i *)part);
}
static inline void store_halves(void *p, vm m, __m128i v)
{
    if (m.n == W) {
        _mm_storeu_si128(p, v);
        return;
    }
    uint16_t part[W];
    _mm_storeu_si128((__m128i *)part, v);
    memcpy(p, part, (size_t)m.n * 2);
}
static inline __m128i low_halves(__m256i u) /* the low 16 bits of 8 lanes */
{
    const __m256i pick = _mm256_setr_epi8(0, 1, 4, 5, 8, 9, 12, 13, -1, -1, -1, -1, -1, -1, -1, -1, 0, 1, 4, 5, 8, 9,
                                          12, 13, -1, -1, -1, -1, -1, -1, -1, -1);
    return _mm256_castsi256_si128(_mm256_permute4x64_epi64(_mm256_shuffle_epi8(u, pick), 0x08));
}
static inline vf from_bf16(__m128i h)
{
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(h), 16));
}
/* Nearest even; NaN stays NaN: the bits of ns_f32_to_bf16. */
static inline __m128i to_bf16(vf f)
{
    __m256i u = _mm256_castps_si256(f), hi = _mm256_srli_epi32(u, 16), one = _mm256_set1_epi32(1);
    __m256i r = _mm256_add_epi32(u, _mm256_add_epi32(_mm256_set1_epi32(0x7fff), _mm256_and_si256(hi, one)));
    __m256i nan = _mm256_or_si256(hi, _mm256_set1_epi32(0x40));
    __m256i bad = _mm256_castps_si256(_mm256_cmp_ps(f, f, _CMP_UNORD_Q));
    return low_halves(_mm256_blendv_epi8(_mm256_srli_epi32(r, 16), nan, bad));
}
static inline vf vround(vf v)
{
    return from_bf16(to_bf16(v));
}
static inline vf vload(const void *p, ns_dtype dt, int64_t i, vm m)
{
    return dt == NS_DTYPE_BF16 ? from_bf16(load_halves((const uint16_t *)p + i, m)) : vloadf(m, (const float *)p + i);
}
static inline void vstore(void *p, ns_dtype dt, int64_t i, vm m, vf v)
{
    if (dt == NS_DTYPE_BF16)
        store_halves((uint16_t *)p + i, m, to_bf16(v));
    else
        vstoref((float *)p + i, m, v);
}

static inline void vtranspose(vf r[W])
{
    vf t[W];
    for (int i = 0; i < W; i += 2)
        t[i] = _mm256_unpacklo_ps(r[i], r[i + 1]), t[i + 1] = _mm256_unpackhi_ps(r[i], r[i + 1]);
    for (int i = 0; i < W; i += 4) {
        for (int k = 0; k < 2; k++) {
            r[i + 2 * k] = _mm256_shuffle_ps(t[i + k], t[i + 2 + k], 0x44);
            r[i + 2 * k + 1] = _mm256_shuffle_ps(t[i + k], t[i + 2 + k], 0xee);
        }
    }
    for (int i = 0; i < 4; i++)
        t[i] = _mm256_permute2f128_ps(r[i], r[4 + i], 0x20), t[4 + i] = _mm256_permute2f128_ps(r[i], r[4 + i], 0x31);
    for (int i = 0; i < W; i++) r[i] = t[i];
}
/* n pairs (c, s) in memory, split; the rest 0. */
static inline void vsplit_pairs(const float *p, int64_t n, vf *c, vf *s)
{
    const __m256i order = _mm256_setr_epi32(0, 1, 4, 5, 2, 3, 6, 7);
    vf a = vloadf(vmask(2 * n), p), b = n > W / 2 ? vloadf(vmask(2 * n - W), p + W) : vzero();
    *c = _mm256_permutevar8x32_ps(_mm256_shuffle_ps(a, b, 0x88), order);
    *s = _mm256_permutevar8x32_ps(_mm256_shuffle_ps(a, b, 0xdd), order);
}
/* Main weights from their bf16 half and remainder, bits = hi * 65536 + rem, and back (dtype.h). */
static inline vf vjoin(const uint16_t *hi, const int16_t *rem, vm m)
{
    __m256i h = _mm256_slli_epi32(_mm256_cvtepu16_epi32(load_halves(hi, m)), 16);
    return _mm256_castsi256_ps(_mm256_add_epi32(h, _mm256_cvtepi16_epi32(load_halves(rem, m))));
}
static inline void vsplit(uint16_t *hi, int16_t *rem, vm m, vf p)
{
    __m256i u = _mm256_castps_si256(p);
    __m128i lo = low_halves(u);
    store_halves(rem, m, lo);
    store_halves(hi, m, low_halves(_mm256_srli_epi32(_mm256_sub_epi32(u, _mm256_cvtepi16_epi32(lo)), 16)));
}

#include "ops/cpu/simd_math.h"

#endif
