/* Between the C files of the plug-in: plugin.c (the op table, opening), products.c (matrix products by cuBLASLt, and the layers made of
 * them). */
#ifndef NS_OPS_CUDA_DEVICE_PLUGIN_PRIV_H
#define NS_OPS_CUDA_DEVICE_PLUGIN_PRIV_H

#include <cublasLt.h>
#include <cuda_runtime.h>

#include "ops/cuda/cuda.h"
#include "ops/cuda/device/kernels.h"

enum { N_SLOTS = 16, SLOT_BYTES = 2 << 20 };

typedef struct product product; /* products.c */
typedef struct side {           /* a stream for exchanges; opened when first asked for */
    cudaStream_t stream;
    cudaEvent_t before, marks[NS_CUDA_MARKS];
} side;
typedef struct device {
    const ns_cuda_host *host;
    cudaStream_t stream;
    cublasLtHandle_t lt;
    void *blas_work; /* of cuBLASLt */
    char *slot[N_SLOTS];
    cudaEvent_t done[N_SLOTS];
    int next_slot, sync, generic_attention, n_products;
    cudaStream_t copies; /* of copy_out, beside the ops */
    cudaEvent_t before, copied, held_from;
    int holding;                  /* 1: held_from and copied tell of the last copy_hold */
    int64_t head_rows;            /* forced rows of a head chunk; 0: by memory */
    nsk_cudnn *dnn;               /* NULL: not there, or not wanted */
    int64_t dnn_calls, own_calls; /* attention passes of bf16 served by each */
    char dnn_why[256];            /* the last reason for not using cuDNN */
    product *products;
    side sides[NS_CUDA_SIDES];
    cudaEvent_t stamps[NS_CUDA_STAMPS];
} device;

static inline device *dev_of(ns_exec *x)
{
    return x->backend;
}
static inline nsk_stream stream(ns_exec *x)
{
    return dev_of(x)->stream;
}

static inline void fail(ns_exec *x, const char *op, const char *what, int64_t a, int64_t b, int64_t c)
{
    dev_of(x)->host->error_set(&x->err, NS_ERR_DEVICE, __FILE__, __LINE__, "CUDA %s [%lld, %lld, %lld]: %s", op,
                               (long long)a, (long long)b, (long long)c, what);
}

/* After each op: did the launch fail, or (with NS_CUDA_SYNC) the kernel? Shapes are what the op was given. */
static inline void check(ns_exec *x, const char *op, int64_t a, int64_t b, int64_t c)
{
    cudaError_t e = cudaGetLastError();
    if (e == cudaSuccess && dev_of(x)->sync) e = cudaStreamSynchronize(dev_of(x)->stream);
    if (e != cudaSuccess) fail(x, op, cudaGetErrorString(e), a, b, c);
}

static inline int need_work(ns_exec *x, int64_t bytes, const char *op)
{
    if (bytes == 0 || (x->work && x->work_bytes >= bytes)) return 1;
    fail(x, op, "work buffer too small (have, needed)", x->work_bytes, bytes, 0);
    return 0;
}

/* ---- products.c ---- */
/* Opens the library, once a process; then what a device needs of it: lt, blas_work, products. 0, or the status of cuBLASLt. */
ns_status products_library(const ns_cuda_host *h, ns_cuda_info *info, ns_error *err);
cudaError_t products_open(device *d, int *blas_status);
void products_close(device *d);

void linear_fwd(ns_exec *x, const ns_linear_args *a);
void linear_dgrad(ns_exec *x, const ns_linear_args *a);
void linear_wgrad(ns_exec *x, const ns_linear_args *a);
void prepare(ns_exec *x, const ns_weight *w);
void prepare_bytes(const ns_weight *w, int64_t *fwd, int64_t *dx);
void head(ns_exec *x, const ns_head_args *a);
/* Bytes of x->work: of the head; of an fp8 product y[M,N] = x[M,K] W and of its gradients. */
int64_t head_work(const device *d, int64_t T, int64_t V);
int64_t fp8_fwd_work(int64_t M, int64_t K);
int64_t fp8_dgrad_work(int64_t M, int64_t N, int64_t K);
int64_t fp8_wgrad_work(int64_t M, int64_t N, int64_t K);

#endif
