/* f32 matrix product in AVX-512: C = alpha op(A) op(B) + beta C, one thread, no allocation (cpu_blas.c picks it by machine).
 *
 * Method: Goto and van de Geijn 2008. A block of op(B) [KC, NC] and one of op(A) [MC, KC] are packed into panels that the kernel
 * reads with stride one; the kernel keeps a 12 x 32 tile of C in 24 registers. Sums over k run in one order for given
 * sizes, whoever calls. Pack buffers are per thread and live as long as it. */
#include "ops/cpu/sgemm_avx512.h"

#if defined(__AVX512F__)
#include <immintrin.h>
#include <string.h>

enum { MR = 12, NR = 32, MC = 96, KC = 256, NC = 256 };

static _Thread_local float pack_a[MC * KC] __attribute__((aligned(64)));
static _Thread_local float pack_b[KC * NC] __attribute__((aligned(64)));

static int64_t least(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

/* rows [0,mc) x k [0,kc) of a strided matrix -> panels of MR rows: dst[panel][k][MR], missing rows 0. */
static void pack_rows(float *dst, const float *a, int64_t rs, int64_t ks, int64_t mc, int64_t kc, int width)
{
    for (int64_t i0 = 0; i0 < mc; i0 += width, dst += (int64_t)width * kc) {
        int64_t w = least(width, mc - i0);
        const float *src = a + i0 * rs;
        if (w < width) memset(dst, 0, (size_t)(width * kc) * sizeof *dst);
        if (rs == 1) { /* columns lie together */
            for (int64_t k = 0; k < kc; k++) memcpy(dst + k * width, src + k * ks, (size_t)w * sizeof *dst);
        } else {
            for (int64_t i = 0; i < w; i++)
                for (int64_t k = 0; k < kc; k++) dst[k * width + i] = src[i * rs + k * ks];
        }
    }
}

/* C tile [mr, nr] = beta C + alpha A panel B panel. first: beta applies; later k blocks add. */
static void kernel(int64_t kc, const float *a, const float *b, float alpha, float beta, float *c, int64_t ldc, int mr,
                   int nr)
{
    __m512 acc[MR][2];
#pragma GCC unroll 12
    for (int i = 0; i < MR; i++) acc[i][0] = acc[i][1] = _mm512_setzero_ps();
    for (int64_t k = 0; k < kc; k++, a += MR, b += NR) {
        __m512 b0 = _mm512_load_ps(b), b1 = _mm512_load_ps(b + 16);
#pragma GCC unroll 12
        for (int i = 0; i < MR; i++) {
            __m512 x = _mm512_set1_ps(a[i]);
            acc[i][0] = _mm512_fmadd_ps(x, b0, acc[i][0]);
            acc[i][1] = _mm512_fmadd_ps(x, b1, acc[i][1]);
        }
    }
    __mmask16 m0 = nr >= 16 ? 0xffff : (__mmask16)((1u << nr) - 1u);
    __mmask16 m1 = nr >= 32 ? 0xffff : nr > 16 ? (__mmask16)((1u << (nr - 16)) - 1u) : 0;
    __m512 va = _mm512_set1_ps(alpha), vb = _mm512_set1_ps(beta);
#pragma GCC unroll 12
    for (int i = 0; i < MR; i++) {
        if (i >= mr) break;
        float *row = c + i * ldc;
        __m512 x0 = _mm512_mul_ps(va, acc[i][0]), x1 = _mm512_mul_ps(va, acc[i][1]);
        if (beta != 0) {
            x0 = _mm512_fmadd_ps(vb, _mm512_maskz_loadu_ps(m0, row), x0);
            x1 = _mm512_fmadd_ps(vb, _mm512_maskz_loadu_ps(m1, row + 16), x1);
        }
        _mm512_mask_storeu_ps(row, m0, x0);
        _mm512_mask_storeu_ps(row + 16, m1, x1);
    }
}

void ns_sgemm_avx512(int ta, int tb, int64_t m, int64_t n, int64_t k, float alpha, const float *A, int64_t lda,
                     const float *B, int64_t ldb, float beta, float *C, int64_t ldc)
{
    int64_t a_row = ta ? 1 : lda, a_k = ta ? lda : 1, b_col = tb ? ldb : 1, b_k = tb ? 1 : ldb;
    for (int64_t j = 0; j < n; j += NC) {
        int64_t nc = least(NC, n - j);
        for (int64_t p = 0; p < k; p += KC) {
            int64_t kc = least(KC, k - p);
            float keep = p == 0 ? beta : 1.0f;
            pack_rows(pack_b, B + j * b_col + p * b_k, b_col, b_k, nc, kc, NR);
            for (int64_t i = 0; i < m; i += MC) {
                int64_t mc = least(MC, m - i);
                pack_rows(pack_a, A + i * a_row + p * a_k, a_row, a_k, mc, kc, MR);
                for (int64_t jj = 0; jj < nc; jj += NR)
                    for (int64_t ii = 0; ii < mc; ii += MR)
                        kernel(kc, pack_a + ii * kc, pack_b + jj * kc, alpha, keep, C + (i + ii) * ldc + j + jj, ldc,
                               (int)least(MR, mc - ii), (int)least(NR, nc - jj));
            }
        }
    }
}
#endif
