/* Loops of ggml.c and look.c with AVX2 (ggml_avx2.c): the same bits. Called only if ns_ggml_has_simd(). */
#ifndef NS_CKPT_GGML_SIMD_H
#define NS_CKPT_GGML_SIMD_H

#include <stdint.h>

int ns_ggml_has_simd(void);
void ns_ggml_pack_q8_0_simd(uint8_t *o, const float *x, int64_t n); /* n: whole blocks */
void ns_ggml_unpack_q8_0_simd(float *y, const uint8_t *p, int64_t n);
int64_t ns_look_lost_simd(const float *x, const float *y, int64_t n); /* n: a multiple of 8, below too */
void ns_look_errors_simd(double e[8], double s[8], const float *x, const float *y, int64_t n);

#endif
