/* Element type table and conversions. */
#include "tensor/dtype.h"

static const struct {
    const char *name, *torch;
    size_t size;
} types[NS_DTYPE_COUNT] = {
    [NS_DTYPE_F32] = {"F32", "float32", 4},
    [NS_DTYPE_BF16] = {"BF16", "bfloat16", 2},
    [NS_DTYPE_F16] = {"F16", "float16", 2},
    [NS_DTYPE_F64] = {"F64", "float64", 8},
    [NS_DTYPE_I64] = {"I64", "int64", 8},
    [NS_DTYPE_I32] = {"I32", "int32", 4},
    [NS_DTYPE_I16] = {"I16", "int16", 2},
    [NS_DTYPE_I8] = {"I8", "int8", 1},
    [NS_DTYPE_U8] = {"U8", "uint8", 1},
    [NS_DTYPE_BOOL] = {"BOOL", "bool", 1},
    [NS_DTYPE_F8_E4M3] = {"F8_E4M3", "float8_e4m3fn", 1},
    [NS_DTYPE_F8_E5M2] = {"F8_E5M2", "float8_e5m2", 1},
};

size_t ns_dtype_size(ns_dtype t)
{
    return types[t].size;
}
const char *ns_dtype_name(ns_dtype t)
{
    return types[t].name;
}

int ns_dtype_parse(const char *name, ns_dtype *out)
{
    for (int t = 0; t < NS_DTYPE_COUNT; t++) {
        if (strcmp(name, types[t].name) == 0 || strcmp(name, types[t].torch) == 0) {
            *out = (ns_dtype)t;
            return 1;
        }
    }
    return 0;
}

float ns_f16_to_f32(uint16_t h)
{
    uint32_t sign = (uint32_t)(h & 0x8000u) << 16, exp = (h >> 10) & 31u, man = h & 0x3ffu, u;
    if (exp == 31) {
        u = sign | 0x7f800000u | (man << 13);
    } else if (exp) {
        u = sign | ((exp + 112) << 23) | (man << 13);
    } else { /* zero or subnormal: man * 2^-24 is exact in f32 */
        float f = (float)man * 0x1p-24f;
        memcpy(&u, &f, 4);
        u |= sign;
    }
    float f;
    memcpy(&f, &u, 4);
    return f;
}

uint16_t ns_f32_to_f16(float f)
{
    uint32_t u;
    memcpy(&u, &f, 4);
    uint32_t sign = (u >> 16) & 0x8000u, a = u & 0x7fffffffu;
    if (a > 0x7f800000u) return (uint16_t)(sign | 0x7e00u);
    if (a >= 0x477ff000u) return (uint16_t)(sign | 0x7c00u); /* rounds to 2^16 or more */
    if (a < 0x38800000u) {                                   /* subnormal: let f32 addition round at 2^-24 */
        float x;
        memcpy(&x, &a, 4);
        x += 0.5f; /* ulp of 0.5 is 2^-24 */
        memcpy(&a, &x, 4);
        return (uint16_t)(sign | (a - 0x3f000000u));
    }
    return (uint16_t)(sign | ((a - 0x38000000u + 0xfffu + ((a >> 13) & 1u)) >> 13));
}

void ns_to_f32(float *dst, const void *src, ns_dtype t, size_t n)
{
    switch (t) {
    case NS_DTYPE_BF16:
        for (size_t i = 0; i < n; i++) dst[i] = ns_bf16_to_f32(((const uint16_t *)src)[i]);
        break;
    case NS_DTYPE_F16:
        for (size_t i = 0; i < n; i++) dst[i] = ns_f16_to_f32(((const uint16_t *)src)[i]);
        break;
    case NS_DTYPE_F64:
        for (size_t i = 0; i < n; i++) dst[i] = (float)((const double *)src)[i];
        break;
    default: memcpy(dst, src, n * sizeof(float)); break;
    }
}

void ns_from_f32(void *dst, ns_dtype t, const float *src, size_t n)
{
    switch (t) {
    case NS_DTYPE_BF16:
        for (size_t i = 0; i < n; i++) ((uint16_t *)dst)[i] = ns_f32_to_bf16(src[i]);
        break;
    case NS_DTYPE_F16:
        for (size_t i = 0; i < n; i++) ((uint16_t *)dst)[i] = ns_f32_to_f16(src[i]);
        break;
    case NS_DTYPE_F64:
        for (size_t i = 0; i < n; i++) ((double *)dst)[i] = (double)src[i];
        break;
    default: memcpy(dst, src, n * sizeof(float)); break;
    }
}
