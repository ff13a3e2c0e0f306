/* e4m3 and e5m2 by arithmetic, not by bits: these are the meaning that the kernels are compared with. */
#include "tensor/fp8.h"

#include <math.h>
#include <string.h>

enum { E4M3_NAN = 0x7f, E5M2_NAN = 0x7e, E5M2_INF = 0x7c };

static int mantissa_bits(ns_dtype t)
{
    return t == NS_DTYPE_F8_E4M3 ? 3 : 2;
}
static int bias(ns_dtype t)
{
    return t == NS_DTYPE_F8_E4M3 ? 7 : 15;
}

/* Both largest values are 1.75 * 2^k. */
static int largest_exponent(ns_dtype t)
{
    return t == NS_DTYPE_F8_E4M3 ? 8 : 15;
}

/* 2^e, -126 <= e <= 127: ldexp without the call, which the reference products would spend most of their time in */
static float power(int e)
{
    uint32_t u = (uint32_t)(e + 127) << 23;
    float f;
    memcpy(&f, &u, sizeof f);
    return f;
}

/* floor(log2 a) of a normal number; less than any exponent here for 0 and subnormals */
static int exponent(float a)
{
    uint32_t u;
    memcpy(&u, &a, sizeof u);
    return (int)(u >> 23) - 127;
}

float ns_fp8_scale(float amax, ns_dtype type)
{
    int e;
    if (!(amax > 0) || !isfinite(amax)) return 1;
    float f = 2 * frexpf(amax, &e); /* amax = f * 2^(e-1), f in [1,2) */
    int k = largest_exponent(type) - (e - 1) - (f > 1.75f);
    return ldexpf(1, k > 126 ? 126 : k);
}

uint8_t ns_fp8_encode(float x, ns_dtype type)
{
    const int man = mantissa_bits(type), least = 1 - bias(type);
    const unsigned sign = signbit(x) ? 0x80 : 0;
    float a = fabsf(x), top = 1.75f * power(largest_exponent(type));
    if (isnan(x)) return (uint8_t)(sign | (type == NS_DTYPE_F8_E4M3 ? E4M3_NAN : E5M2_NAN));
    if (a > top) a = top;
    int e = exponent(a);
    if (e < least) e = least;
    /* units of the last place of that exponent, to nearest even; a carry walks into the exponent by itself */
    float units = rintf(a * power(man - e));
    return (uint8_t)(sign | (((unsigned)(e - least) << man) + (unsigned)units));
}

float ns_fp8_decode(uint8_t code, ns_dtype type)
{
    const int man = mantissa_bits(type), m = code & ((1 << man) - 1), e = (code & 0x7f) >> man;
    const float sign = code & 0x80 ? -1 : 1;
    if (type == NS_DTYPE_F8_E4M3 && (code & 0x7f) == E4M3_NAN) return NAN;
    if (type == NS_DTYPE_F8_E5M2 && (code & 0x7f) >= E5M2_INF) return m ? NAN : sign * INFINITY;
    const int normal = e > 0;
    return sign * (float)(m + (normal << man)) * power((normal ? e : 1) - bias(type) - man);
}
