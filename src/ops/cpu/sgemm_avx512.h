/* f32 matrix product with AVX-512F, row-major; arguments as ns_cpu_sgemm (cpu.h). Call only where the CPU has AVX-512F. */
#ifndef NS_OPS_SGEMM_AVX512_H
#define NS_OPS_SGEMM_AVX512_H

#include <stdint.h>

void ns_sgemm_avx512(int ta, int tb, int64_t m, int64_t n, int64_t k, float alpha, const float *A, int64_t lda,
                     const float *B, int64_t ldb, float beta, float *C, int64_t ldc);

#endif
