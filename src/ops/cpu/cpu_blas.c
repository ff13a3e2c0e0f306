/* f32 matrix product for one thread: OpenBLAS opened on first use, or a blocked loop of our own when it is absent.
 *
 * We cut the tiles and own the threads, so OpenBLAS must not start its own: its OpenMP build keeps the thread count per
 * calling thread, hence the setting on each thread's first call. */
#include "ops/cpu/cpu.h"

#include <dlfcn.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

typedef void (*sgemm_fn)(int order, int ta, int tb, int m, int n, int k, float alpha, const float *A, int lda,
                         const float *B, int ldb, float beta, float *C, int ldc);
enum { ROW_MAJOR = 101, NO_TRANS = 111, TRANS = 112 }; /* CBLAS values */

static pthread_once_t once = PTHREAD_ONCE_INIT;
static sgemm_fn blas_sgemm;
static void (*blas_threads)(int);

static void open_blas(void)
{
#ifdef NS_HAVE_OPENBLAS
    /* 0.3.21 does not know the newer AVX-512 processors and takes SSE kernels there (36 against 200 GFLOP/s on an Emerald
     * Rapids core): name the kernels for it, for the time of loading. */
    int name_it = 0;
#if defined(__x86_64__)
    name_it = !getenv("OPENBLAS_CORETYPE") && __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
#endif
    if (name_it) setenv("OPENBLAS_CORETYPE", "SkylakeX", 1);
    void *lib = dlopen("libopenblas.so.0", RTLD_NOW | RTLD_LOCAL);
    if (name_it) unsetenv("OPENBLAS_CORETYPE");
    if (!lib) return;
    void *gemm = dlsym(lib, "cblas_sgemm"), *threads = dlsym(lib, "openblas_set_num_threads");
    if (!gemm || !threads) return;
    memcpy(&blas_sgemm, &gemm, sizeof gemm); /* a data pointer holds a function: POSIX allows it, C has no cast */
    memcpy(&blas_threads, &threads, sizeof threads);
#endif
}

const char *ns_cpu_blas_name(void)
{
    pthread_once(&once, open_blas);
    return blas_sgemm ? "OpenBLAS" : "own loop";
}

/* Row panels of op(A) against rows of op(B): the inner loop runs over contiguous C and, for plain B, contiguous B. */
static void own_sgemm(int ta, int tb, int64_t m, int64_t n, int64_t k, float alpha, const float *A, int64_t lda,
                      const float *B, int64_t ldb, float beta, float *C, int64_t ldc)
{
    enum { NB = 64 };
    float packed[NB * 16], acc[NB]; /* 16 k-rows of op(B) x NB columns at a time */
    for (int64_t i = 0; i < m; i++)
        for (int64_t j = 0; j < n; j++) C[i * ldc + j] = beta == 0 ? 0 : beta * C[i * ldc + j];
    for (int64_t j0 = 0; j0 < n; j0 += NB) {
        int64_t nb = ns_cpu_min(NB, n - j0);
        for (int64_t k0 = 0; k0 < k; k0 += 16) {
            int64_t kb = ns_cpu_min(16, k - k0);
            for (int64_t p = 0; p < kb; p++)
                for (int64_t j = 0; j < nb; j++)
                    packed[p * NB + j] = tb ? B[(j0 + j) * ldb + k0 + p] : B[(k0 + p) * ldb + j0 + j];
            for (int64_t i = 0; i < m; i++) {
                for (int64_t j = 0; j < nb; j++) acc[j] = 0;
                for (int64_t p = 0; p < kb; p++) {
                    float v = alpha * (ta ? A[(k0 + p) * lda + i] : A[i * lda + k0 + p]);
                    for (int64_t j = 0; j < nb; j++) acc[j] += v * packed[p * NB + j];
                }
                for (int64_t j = 0; j < nb; j++) C[i * ldc + j0 + j] += acc[j];
            }
        }
    }
}

void ns_cpu_sgemm(int ta, int tb, int64_t m, int64_t n, int64_t k, float alpha, const float *A, int64_t lda,
                  const float *B, int64_t ldb, float beta, float *C, int64_t ldc)
{
    static _Thread_local int ready;
    if (m == 0 || n == 0) return;
    pthread_once(&once, open_blas);
    if (!blas_sgemm) {
        own_sgemm(ta, tb, m, n, k, alpha, A, lda, B, ldb, beta, C, ldc);
        return;
    }
    if (!ready) blas_threads(1), ready = 1;
    blas_sgemm(ROW_MAJOR, ta ? TRANS : NO_TRANS, tb ? TRANS : NO_TRANS, (int)m, (int)n, (int)k, alpha, A, (int)lda, B,
               (int)ldb, beta, C, (int)ldc);
}
