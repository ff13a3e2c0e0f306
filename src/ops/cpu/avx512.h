/* Private to *_avx512.c and *_amx.c: masks, bf16 <-> f32, a 16x16 transpose, and the names of the templates. */
#ifndef NS_OPS_CPU_AVX512_H
#define NS_OPS_CPU_AVX512_H

#include <immintrin.h>

#include "ops/cpu/cpu.h"

typedef uint16_t bf16;

/* First n lanes; n may be negative or too large. */
static inline __mmask32 mask32(int64_t n)
{
    return n >= 32 ? 0xffffffffu : n <= 0 ? 0u : (1u << n) - 1u;
}
static inline __mmask16 mask16(int64_t n)
{
    return (__mmask16)(n >= 16 ? 0xffffu : n <= 0 ? 0u : (1u << n) - 1u);
}

static inline __m512 bf16_to_ps(__m256i v)
{
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(v), 16));
}
/* Nearest even; NaN stays NaN: the bits of ns_f32_to_bf16. */
static inline __m256i ps_to_bf16(__m512 f)
{
    __m512i u = _mm512_castps_si512(f), hi = _mm512_srli_epi32(u, 16);
    __m512i r =
        _mm512_add_epi32(u, _mm512_add_epi32(_mm512_set1_epi32(0x7fff), _mm512_and_si512(hi, _mm512_set1_epi32(1))));
    __mmask16 nan = _mm512_cmp_ps_mask(f, f, _CMP_UNORD_Q);
    r = _mm512_mask_or_epi32(_mm512_srli_epi32(r, 16), nan, hi, _mm512_set1_epi32(0x40));
    return _mm512_cvtepi32_epi16(r);
}

/* Up to 16 elements of either type as f32; lanes outside m are 0 and their memory is not touched. */
static inline __m512 load16(const void *p, ns_dtype dt, int64_t i, __mmask16 m)
{
    if (dt == NS_DTYPE_BF16) return bf16_to_ps(_mm256_maskz_loadu_epi16(m, (const bf16 *)p + i));
    return _mm512_maskz_loadu_ps(m, (const float *)p + i);
}
static inline void store16(void *p, ns_dtype dt, int64_t i, __mmask16 m, __m512 v)
{
    if (dt == NS_DTYPE_BF16)
        _mm256_mask_storeu_epi16((bf16 *)p + i, m, ps_to_bf16(v));
    else
        _mm512_mask_storeu_ps((float *)p + i, m, v);
}

/* r: 16 rows of 16 dwords -> columns. */
static inline void transpose16(__m512i r[16])
{
    __m512i t[16];
    for (int i = 0; i < 16; i += 2) {
        t[i] = _mm512_unpacklo_epi32(r[i], r[i + 1]);
        t[i + 1] = _mm512_unpackhi_epi32(r[i], r[i + 1]);
    }
    for (int i = 0; i < 16; i += 4) {
        r[i] = _mm512_unpacklo_epi64(t[i], t[i + 2]);
        r[i + 1] = _mm512_unpackhi_epi64(t[i], t[i + 2]);
        r[i + 2] = _mm512_unpacklo_epi64(t[i + 1], t[i + 3]);
        r[i + 3] = _mm512_unpackhi_epi64(t[i + 1], t[i + 3]);
    }
    for (int i = 0; i < 4; i++) { /* r[4g+i]: column 4l+i of rows 4g..4g+3, l = 128-bit lane */
        t[i] = _mm512_shuffle_i32x4(r[i], r[4 + i], 0x88);
        t[4 + i] = _mm512_shuffle_i32x4(r[i], r[4 + i], 0xdd);
        t[8 + i] = _mm512_shuffle_i32x4(r[8 + i], r[12 + i], 0x88);
        t[12 + i] = _mm512_shuffle_i32x4(r[8 + i], r[12 + i], 0xdd);
    }
    for (int i = 0; i < 4; i++) { /* columns i, 4+i, 8+i, 12+i */
        r[i] = _mm512_shuffle_i32x4(t[i], t[8 + i], 0x88);
        r[8 + i] = _mm512_shuffle_i32x4(t[i], t[8 + i], 0xdd);
        r[4 + i] = _mm512_shuffle_i32x4(t[4 + i], t[12 + i], 0x88);
        r[12 + i] = _mm512_shuffle_i32x4(t[4 + i], t[12 + i], 0xdd);
    }
}

/* ---- the names that *_tmpl.h and simd_math.h use ---- */
enum { W = 16, MR = 14 };
#define SIMD_ROWS 14
#define SIMD(x) ns_avx512_##x
#define SIMD_VEC ns_cpu_vec_avx512
typedef __m512 vf;
typedef __m512d vd;
typedef __mmask16 vm;
#define vmask mask16
#define vload load16
#define vstore store16
#define vloadf(m, p) _mm512_maskz_loadu_ps(m, p)
#define vstoref(p, m, v) _mm512_mask_storeu_ps(p, m, v)
#define vget _mm512_load_ps /* aligned */
#define vput _mm512_store_ps
#define vset _mm512_set1_ps
#define vzero _mm512_setzero_ps
#define vadd _mm512_add_ps
#define vsub _mm512_sub_ps
#define vmul _mm512_mul_ps
#define vdiv _mm512_div_ps
#define vfma _mm512_fmadd_ps   /* a b + c */
#define vfms _mm512_fmsub_ps   /* a b - c */
#define vfnma _mm512_fnmadd_ps /* c - a b */
#define vmax _mm512_max_ps     /* the second operand where either is NaN */
#define vmin _mm512_min_ps
#define vsqrt _mm512_sqrt_ps
#define vabs _mm512_abs_ps
#define vsum _mm512_reduce_add_ps
#define vtop _mm512_reduce_max_ps
#define vkeep(m, v) _mm512_maskz_mov_ps(m, v)      /* 0 elsewhere */
#define vpick(m, a, b) _mm512_mask_mov_ps(b, m, a) /* a where m, else b */
#define vnan(m, v) (_mm512_mask_cmp_ps_mask(m, v, v, _CMP_UNORD_Q) != 0)
#define vless(a, b) _mm512_cmp_ps_mask(a, b, _CMP_LT_OQ)
#define vunordered(a) _mm512_cmp_ps_mask(a, a, _CMP_UNORD_Q)
#define vnearest(a) _mm512_roundscale_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)
#define vscale2 _mm512_scalef_ps /* a 2^b, b whole */
#define vround(v) bf16_to_ps(ps_to_bf16(v))
#define vzerod _mm512_setzero_pd
#define vfmad _mm512_fmadd_pd
#define vstored _mm512_storeu_pd
static inline void vwiden(vf v, vd *lo, vd *hi)
{
    *lo = _mm512_cvtps_pd(_mm512_castps512_ps256(v));
    *hi = _mm512_cvtps_pd(_mm512_extractf32x8_ps(v, 1));
}
static inline vf vreciprocal(vf d) /* one Newton step brings the 14-bit estimate to f32 */
{
    vf r = _mm512_rcp14_ps(d);
    return vmul(r, vfnma(d, r, vset(2.0f)));
}
static inline void vtranspose(vf r[W])
{
    __m512i t[W];
    for (int i = 0; i < W; i++) t[i] = _mm512_castps_si512(r[i]);
    transpose16(t);
    for (int i = 0; i < W; i++) r[i] = _mm512_castsi512_ps(t[i]);
}
/* n pairs (c, s) in memory, split; the rest 0. */
static inline void vsplit_pairs(const float *p, int64_t n, vf *c, vf *s)
{
    const __m512i even = _mm512_set_epi32(30, 28, 26, 24, 22, 20, 18, 16, 14, 12, 10, 8, 6, 4, 2, 0);
    vf a = vloadf(mask16(2 * n), p), b = vloadf(mask16(2 * n - 16), p + 16);
    *c = _mm512_permutex2var_ps(a, even, b);
    *s = _mm512_permutex2var_ps(a, _mm512_add_epi32(even, _mm512_set1_epi32(1)), b);
}
/* Main weights from their bf16 half and remainder, bits = hi * 65536 + rem, and back (dtype.h). */
static inline vf vjoin(const uint16_t *hi, const int16_t *rem, vm m)
{
    __m512i h = _mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(m, hi)), 16);
    return _mm512_castsi512_ps(_mm512_add_epi32(h, _mm512_cvtepi16_epi32(_mm256_maskz_loadu_epi16(m, rem))));
}
static inline void vsplit(uint16_t *hi, int16_t *rem, vm m, vf p)
{
    __m512i u = _mm512_castps_si512(p);
    __m256i lo = _mm512_cvtepi32_epi16(u);
    _mm256_mask_storeu_epi16(rem, m, lo);
    _mm256_mask_storeu_epi16(
        hi, m, _mm512_cvtepi32_epi16(_mm512_srli_epi32(_mm512_sub_epi32(u, _mm512_cvtepi16_epi32(lo)), 16)));
}

#include "ops/cpu/simd_math.h"

#endif
