/* Weight-only matrices of TensorRT-LLM (quant_algo W8A16, W4A16): rows (output channels) of int8 or int4 with one scale each, in the
 * byte order of its GEMM for compute capability 7.5 to 8.9. Source: TensorRT-LLM 05316d33,
 * cpp/tensorrt_llm/kernels/cutlass_kernels/cutlass_preprocessors.cpp (symmetric_quantize, preprocess_weights_for_mixed_gemm):
 *   scale = max|row| / 128 (int4: / 8) in f32; q = round(x / scale), halves away from zero, cut to [-128,127] ([-8,7]);
 *   columns are permuted within 16 (32), chunks of 64 columns of 2 (4) rows interleaved, 128 (8) is added, bytes (nibbles) of a 32-bit
 *   word are re-ordered.
 * The file calls a matrix of R rows and C columns [C, R] int8 ([C, R/2] for int4) and its scales [R], in the type of the weights.
 * And matrices of quant_algo FP8: e4m3 bytes as they are (the first row first), one scale of the whole matrix.
 *     ns_wq w = {.bits = 8, .rows = R, .cols = C};  scale = ns_wq_quantise(&w, x, q);  ns_wq_put_row(&w, out, r, q);
 *     w.data = ...; w.scale = ...;  ns_wq_row(&w, r, values);                                      // q * scale, f32            */
#ifndef NS_CKPT_TRT_QUANT_H
#define NS_CKPT_TRT_QUANT_H

#include <stdint.h>

#include "base/error.h"
#include "tensor/dtype.h"

enum { NS_WQ_CHUNK = 64 };

typedef struct ns_wq {
    int bits; /* 8, 4 */
    int fp8;  /* e4m3, 8 bits */
    int64_t rows, cols;
    const unsigned char *data; /* rows * cols * bits / 8 bytes */
    const void *scale;         /* [rows], fp8: [1]; may be unaligned */
    ns_dtype scale_dt;
} ns_wq;

/* Err: NS_ERR_CONFIG naming what a kernel cannot take (rows and columns must be multiples of 64). */
NS_MUST_USE ns_status ns_wq_check(const ns_wq *w, const char *name, ns_error *err);
static inline int64_t ns_wq_bytes(const ns_wq *w, int64_t rows)
{
    return rows * w->cols * w->bits / 8;
}
/* Rows that share a run of bytes: rows [k*n, (k+1)*n) lie at byte ns_wq_bytes(w, k*n). */
int ns_wq_group(const ns_wq *w);
/* x: cols finite values; q: their integers. Returns the scale. */
float ns_wq_quantise(const ns_wq *w, const float *x, int8_t *q);
/* Row r of a matrix that begins at `out`. */
void ns_wq_put_row(const ns_wq *w, unsigned char *out, int64_t r, const int8_t *q);
void ns_wq_row(const ns_wq *w, int64_t r, float *x);
/* fp8: q = x / scale to the nearest e4m3, ties to even, beyond 448 cut. n finite values. */
void ns_wq_fp8(const float *x, int64_t n, float scale, uint8_t *q);

#endif
