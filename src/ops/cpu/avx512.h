/* Private to *_avx512.c and *_amx.c: masks, bf16 <-> f32, a 16x16 transpose, and exp. */
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

/* Denormal results and operands as 0 until restored: an operation that meets one takes a hundred cycles more. */
static inline unsigned flush_denormals(void)
{
    unsigned csr = _mm_getcsr();
    _mm_setcsr(csr | 0x8040);
    return csr;
}
static inline void restore_denormals(unsigned csr)
{
    _mm_setcsr(csr);
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

/* exp, error below 2 units in the last place: x = n ln2 + r, |r| <= ln2/2, Taylor polynomial of degree 7 in r (its error
 * there is 5e-9). -inf -> 0, +inf -> inf, NaN -> NaN; below 2^-149 it is 0. */
static inline __m512 exp16(__m512 x)
{
    const __m512 log2e = _mm512_set1_ps(1.44269504f), ln2_hi = _mm512_set1_ps(0.693145752f),
                 ln2_lo = _mm512_set1_ps(1.42860677e-6f);
    __m512 y = _mm512_max_ps(_mm512_set1_ps(-150.0f), _mm512_min_ps(_mm512_set1_ps(150.0f), x));
    y = _mm512_mask_mov_ps(y, _mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q), x);
    __m512 n = _mm512_roundscale_ps(_mm512_mul_ps(y, log2e), _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    __m512 r = _mm512_fnmadd_ps(n, ln2_lo, _mm512_fnmadd_ps(n, ln2_hi, y));
    __m512 p = _mm512_set1_ps(1.0f / 5040);
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.0f / 720));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.0f / 120));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.0f / 24));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.0f / 6));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(0.5f));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.0f));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.0f));
    return _mm512_scalef_ps(p, n);
}

/* 1 / (1 + exp(-x)), error below 4 units in the last place; 0 below -88. One Newton step brings the 14-bit reciprocal to f32. */
static inline __m512 sigmoid16(__m512 x)
{
    const __m512 one = _mm512_set1_ps(1.0f), two = _mm512_set1_ps(2.0f);
    __m512 d = _mm512_add_ps(one, exp16(_mm512_min_ps(_mm512_set1_ps(88.0f), _mm512_sub_ps(_mm512_setzero_ps(), x))));
    __m512 r = _mm512_rcp14_ps(d);
    return _mm512_mul_ps(r, _mm512_fnmadd_ps(d, r, two));
}

/* tanh(x) = 1 - 2 / (exp(2x) + 1); near 0 the odd polynomial keeps relative accuracy. */
static inline __m512 tanh16(__m512 x)
{
    const __m512 one = _mm512_set1_ps(1.0f);
    __m512 e = exp16(_mm512_add_ps(x, x)),
           big = _mm512_sub_ps(one, _mm512_div_ps(_mm512_set1_ps(2.0f), _mm512_add_ps(e, one)));
    __m512 s = _mm512_mul_ps(x, x), p = _mm512_set1_ps(-0.0218694885f);
    p = _mm512_fmadd_ps(p, s, _mm512_set1_ps(0.0539682540f));
    p = _mm512_fmadd_ps(p, s, _mm512_set1_ps(-0.133333333f));
    p = _mm512_fmadd_ps(p, s, _mm512_set1_ps(0.333333333f));
    __m512 small = _mm512_mul_ps(x, _mm512_fnmadd_ps(p, s, one));
    return _mm512_mask_mov_ps(big, _mm512_cmp_ps_mask(_mm512_abs_ps(x), _mm512_set1_ps(0.25f), _CMP_LT_OQ), small);
}

#endif
