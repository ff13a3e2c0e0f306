/* 8-bit floats with one scale a tensor: what matrix products in fp8 read (Micikevicius et al. 2022, "FP8 formats for deep learning").
 * e4m3: 4 bits exponent, 3 mantissa, largest 448, no infinity; e5m2: 5 and 2, largest 57344.
 *
 *     float scale = ns_fp8_scale(amax, NS_DTYPE_F8_E4M3);               // a power of two: amax * scale <= 448
 *     uint8_t q = ns_fp8_encode(x * scale, NS_DTYPE_F8_E4M3);           // nearest, ties to even, saturating
 *     x ~ ns_fp8_decode(q, NS_DTYPE_F8_E4M3) / scale                    // exact in f32, and but for far underflow in bf16
 *
 * Scales are powers of two: they lose no precision, scaling is exact, and every back-end gets the same bits. The scale is
 * that of the present tensor ("current scaling"): no history, nothing to save. */
#ifndef NS_TENSOR_FP8_H
#define NS_TENSOR_FP8_H

#include "tensor/dtype.h"

/* Types of a product's operands: weights and activations e4m3; gradients e5m2 (hybrid) or e4m3. */
typedef enum ns_fp8 { NS_FP8_OFF, NS_FP8_HYBRID, NS_FP8_E4M3 } ns_fp8;
static inline ns_dtype ns_fp8_grad_type(ns_fp8 f)
{
    return f == NS_FP8_E4M3 ? NS_DTYPE_F8_E4M3 : NS_DTYPE_F8_E5M2;
}

static inline const char *ns_fp8_name(ns_fp8 f)
{
    return f == NS_FP8_OFF ? "off" : f == NS_FP8_HYBRID ? "hybrid" : "e4m3";
}

/* A tensor in memory: this head, at NS_FP8_HEAD the bytes: `rows` rows of `cols` bytes and zeros up to a multiple of 16. */
enum { NS_FP8_HEAD = 256 };
typedef struct ns_fp8_head {
    uint32_t amax;    /* bits of the largest magnitude (f32); a NaN counts as the largest */
    uint32_t zero[3]; /* cuBLASLt wants its scale at 16 bytes */
    float inverse;    /* 1 / scale; NaN when amax is not finite, so that what is multiplied with it shows */
} ns_fp8_head;
static inline int64_t ns_fp8_stride(int64_t cols)
{
    return (cols + 15) / 16 * 16;
}
static inline int64_t ns_fp8_bytes(int64_t rows, int64_t cols)
{
    return NS_FP8_HEAD + (rows * ns_fp8_stride(cols) + 255) / 256 * 256;
}

/* Largest power of two s with amax * s <= the type's largest value; at most 2^126; 1 for amax 0, Inf and NaN. */
float ns_fp8_scale(float amax, ns_dtype type);
uint8_t ns_fp8_encode(float x, ns_dtype type); /* NaN stays NaN; infinities saturate */
float ns_fp8_decode(uint8_t code, ns_dtype type);

#endif
