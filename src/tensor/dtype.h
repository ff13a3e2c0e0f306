/* Element types: names as in safetensors, sizes, and the exact f32 <-> bf16/f16 conversions that every back-end must match.
 * bf16 storage rounds to nearest even, except main weights (f32 = bf16 + 16-bit remainder), which round to nearest with
 * ties away (DESIGN.md §3): ns_main_split / ns_main_join. */
#ifndef NS_TENSOR_DTYPE_H
#define NS_TENSOR_DTYPE_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

typedef enum ns_dtype {
    NS_DTYPE_F32,
    NS_DTYPE_BF16,
    NS_DTYPE_F16,
    NS_DTYPE_F64,
    NS_DTYPE_I64,
    NS_DTYPE_I32,
    NS_DTYPE_I16,
    NS_DTYPE_I8,
    NS_DTYPE_U8,
    NS_DTYPE_BOOL,
    NS_DTYPE_F8_E4M3,
    NS_DTYPE_F8_E5M2,
    NS_DTYPE_COUNT
} ns_dtype;

size_t ns_dtype_size(ns_dtype t);                    /* bytes */
const char *ns_dtype_name(ns_dtype t);               /* "F32", "BF16", ... */
int ns_dtype_parse(const char *name, ns_dtype *out); /* 1 if known (safetensors or torch spelling) */

static inline float ns_bf16_to_f32(uint16_t h)
{
    uint32_t u = (uint32_t)h << 16;
    float f;
    memcpy(&f, &u, 4);
    return f;
}
/* Round to nearest even; NaN stays NaN (quiet). */
static inline uint16_t ns_f32_to_bf16(float f)
{
    uint32_t u;
    memcpy(&u, &f, 4);
    if ((u & 0x7fffffffu) > 0x7f800000u) return (uint16_t)((u >> 16) | 0x40u);
    return (uint16_t)((u + 0x7fffu + ((u >> 16) & 1u)) >> 16);
}
float ns_f16_to_f32(uint16_t h);
uint16_t ns_f32_to_f16(float f);

/* Main weight f32 <-> (bf16, signed remainder): bits = hi * 65536 + lo. */
static inline float ns_main_join(uint16_t hi, int16_t lo)
{
    uint32_t u = ((uint32_t)hi << 16) + (uint32_t)(int32_t)lo;
    float f;
    memcpy(&f, &u, 4);
    return f;
}
static inline void ns_main_split(float f, uint16_t *hi, int16_t *lo)
{
    uint32_t u;
    memcpy(&u, &f, 4);
    int16_t l = (int16_t)(uint16_t)(u & 0xffffu);
    *lo = l;
    *hi = (uint16_t)((u - (uint32_t)(int32_t)l) >> 16);
}

/* Rounded stochastically: r uniform in [0, 2^16) gives the neighbour above with the probability of the part cut off, so the mean is f.
 * Values that bf16 holds stay; finite ones stay finite. */
static inline uint16_t ns_f32_to_bf16_random(float f, uint32_t r)
{
    uint32_t u, up;
    memcpy(&u, &f, 4);
    if ((u & 0x7f800000u) == 0x7f800000u) return ns_f32_to_bf16(f);
    up = (u + r) >> 16;
    return (uint16_t)((up & 0x7f80u) == 0x7f80u ? u >> 16 : up);
}

/* n elements of src (type t) to f32, and back (bf16/f16: nearest even). t must be F32, BF16, F16 or F64. */
void ns_to_f32(float *dst, const void *src, ns_dtype t, size_t n);
void ns_from_f32(void *dst, ns_dtype t, const float *src, size_t n);

#endif
