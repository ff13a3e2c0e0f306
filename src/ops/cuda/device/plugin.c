/* The plug-in: fills the op table with CUDA. Matrix products go to cuBLASLt (opened here, at run time), everything else to the
 * kernels behind kernels.h. One stream; no op waits for the device but download (and every op when NS_CUDA_SYNC=1, so that a
 * failure names its op). Memory of ops is the caller's; this file owns a workspace for cuBLASLt and pinned copy buffers.
 *
 * Determinism: the algorithm of a product follows from its shape and alignment by cuBLASLt's heuristic (first answer, no
 * timing, no in-place split-K), is kept for the run, and is the same in every run on the same GPU and library. Where bits may
 * differ from run to run (ns_exec.any_order), the fastest of the heuristic's answers is found at a product's first use. */
#include <cublasLt.h>
#include <cuda_runtime.h>
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "ops/cuda/cuda.h"
#include "ops/cuda/device/kernels.h"

#define BLAS_WORK ((int64_t)64 << 20) /* what cuBLASLt's best Hopper algorithms ask for at most: 32 MiB; a margin */
enum { N_SLOTS = 16, SLOT_BYTES = 2 << 20, N_PRODUCTS = 8192, N_TRIED = 8 };

/* ---- cuBLASLt, by name ---- */
#define BLAS_NAMES(X)                       \
    X(cublasLtCreate)                       \
    X(cublasLtDestroy)                      \
    X(cublasLtGetVersion)                   \
    X(cublasLtMatmul)                       \
    X(cublasLtMatmulDescCreate)             \
    X(cublasLtMatmulDescDestroy)            \
    X(cublasLtMatmulDescSetAttribute)       \
    X(cublasLtMatrixLayoutCreate)           \
    X(cublasLtMatrixLayoutDestroy)          \
    X(cublasLtMatmulPreferenceCreate)       \
    X(cublasLtMatmulPreferenceDestroy)      \
    X(cublasLtMatmulPreferenceSetAttribute) \
    X(cublasLtMatmulAlgoGetHeuristic)
static struct {
#define FIELD(f) __typeof__(&f) f;
    BLAS_NAMES(FIELD)
#undef FIELD
} blas;

typedef struct product_key { /* zeroed before filling: compared as bytes */
    int64_t m, n, k, lda, ldb, ldc;
    int32_t ta, tb, in, in_b, out, add, bias, align_a, align_b, align_c, fast, pad; /* in, in_b: types of A and B */
} product_key;
typedef struct product {
    product_key key;
    int used;
    cublasLtMatmulDesc_t desc;
    cublasLtMatrixLayout_t a, b, c;
    cublasLtMatmulAlgo_t algo;
    size_t work;
    int tuned;
} product;
/* The heuristic's answers to the last product made. */
static cublasLtMatmulHeuristicResult_t found[N_TRIED];
static int n_found;

typedef struct device {
    const ns_cuda_host *host;
    cudaStream_t stream;
    cublasLtHandle_t lt;
    void *blas_work;
    char *slot[N_SLOTS];
    cudaEvent_t done[N_SLOTS];
    int next_slot, sync, generic_attention, n_products;
    int fp8_fast;        /* fp8 products that may sum in the tensor cores alone: 0 none, 1 forward, 2 all */
    cudaStream_t copies; /* of copy_out, beside the ops */
    cudaEvent_t before, copied, held_from;
    int holding;                  /* 1: held_from and copied tell of the last copy_hold */
    int64_t head_rows;            /* forced rows of a head chunk; 0: by memory */
    nsk_cudnn *dnn;               /* NULL: not there, or not wanted */
    int64_t dnn_calls, own_calls; /* attention passes of bf16 served by each */
    char dnn_why[256];            /* the last reason for not using cuDNN */
    product *products;
} device;

static device *dev_of(ns_exec *x)
{
    return x->backend;
}
static nsk_stream stream(ns_exec *x)
{
    return dev_of(x)->stream;
}

static void fail(ns_exec *x, const char *op, const char *what, int64_t a, int64_t b, int64_t c)
{
    dev_of(x)->host->error_set(&x->err, NS_ERR_DEVICE, __FILE__, __LINE__, "CUDA %s [%lld, %lld, %lld]: %s", op,
                               (long long)a, (long long)b, (long long)c, what);
}

/* After each op: did the launch fail, or (with NS_CUDA_SYNC) the kernel? Shapes are what the op was given. */
static void check(ns_exec *x, const char *op, int64_t a, int64_t b, int64_t c)
{
    cudaError_t e = cudaGetLastError();
    if (e == cudaSuccess && dev_of(x)->sync) e = cudaStreamSynchronize(dev_of(x)->stream);
    if (e != cudaSuccess) fail(x, op, cudaGetErrorString(e), a, b, c);
}

static int need_work(ns_exec *x, int64_t bytes, const char *op)
{
    if (bytes == 0 || (x->work && x->work_bytes >= bytes)) return 1;
    fail(x, op, "work buffer too small (have, needed)", x->work_bytes, bytes, 0);
    return 0;
}

/* ---- matrix products, column-major: C[m,n] (+)= op(A)[m,k] op(B)[k,n] (+ bias[m]) ---- */
static int32_t alignment(const void *p)
{
    uintptr_t a = (uintptr_t)p & -(uintptr_t)p;
    return a > 256 || a == 0 ? 256 : (int32_t)a;
}

static int set_desc(product *e, cublasLtMatmulDescAttributes_t at, const void *v, size_t n)
{
    return blas.cublasLtMatmulDescSetAttribute(e->desc, at, v, n) == CUBLAS_STATUS_SUCCESS;
}

static int is_fp8(int32_t type)
{
    return type == CUDA_R_8F_E4M3 || type == CUDA_R_8F_E5M2;
}

static const char *make_product(device *d, product *e)
{
    const product_key *k = &e->key;
    cublasOperation_t ta = k->ta ? CUBLAS_OP_T : CUBLAS_OP_N, tb = k->tb ? CUBLAS_OP_T : CUBLAS_OP_N;
    cublasLtMatmulPreference_t pref = NULL;
    uint32_t reductions = CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE; /* split sums stay f32, and in order */
    uint32_t align[3] = {(uint32_t)k->align_a, (uint32_t)k->align_b, (uint32_t)k->align_c};
    uint64_t work = (uint64_t)BLAS_WORK;
    if (blas.cublasLtMatmulDescCreate(&e->desc, CUBLAS_COMPUTE_32F, CUDA_R_32F)) return "cuBLASLt: no descriptor";
    int ok = set_desc(e, CUBLASLT_MATMUL_DESC_TRANSA, &ta, sizeof ta) &&
             set_desc(e, CUBLASLT_MATMUL_DESC_TRANSB, &tb, sizeof tb);
    if (k->bias) {
        cublasLtEpilogue_t ep = CUBLASLT_EPILOGUE_BIAS;
        cudaDataType_t t = (cudaDataType_t)k->out;
        ok = ok && set_desc(e, CUBLASLT_MATMUL_DESC_EPILOGUE, &ep, sizeof ep) &&
             set_desc(e, CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE, &t, sizeof t);
    }
    if (k->fast) {
        int8_t yes = 1;
        ok = ok && set_desc(e, CUBLASLT_MATMUL_DESC_FAST_ACCUM, &yes, sizeof yes);
    }
    const void *scale = d->blas_work; /* some address: whether there is one decides which algorithms there are */
    if (is_fp8(k->in))
        ok = ok && set_desc(e, CUBLASLT_MATMUL_DESC_A_SCALE_POINTER, &scale, sizeof scale) &&
             set_desc(e, CUBLASLT_MATMUL_DESC_B_SCALE_POINTER, &scale, sizeof scale);
    cudaDataType_t in = (cudaDataType_t)k->in, in_b = (cudaDataType_t)k->in_b, out = (cudaDataType_t)k->out;
    ok = ok && !blas.cublasLtMatrixLayoutCreate(&e->a, in, (uint64_t)(k->ta ? k->k : k->m),
                                                (uint64_t)(k->ta ? k->m : k->k), k->lda);
    ok = ok && !blas.cublasLtMatrixLayoutCreate(&e->b, in_b, (uint64_t)(k->tb ? k->n : k->k),
                                                (uint64_t)(k->tb ? k->k : k->n), k->ldb);
    ok = ok && !blas.cublasLtMatrixLayoutCreate(&e->c, out, (uint64_t)k->m, (uint64_t)k->n, k->ldc);
    ok = ok && !blas.cublasLtMatmulPreferenceCreate(&pref);
#define PREF(name, v) \
    ok = ok && !blas.cublasLtMatmulPreferenceSetAttribute(pref, CUBLASLT_MATMUL_PREF_##name, &(v), sizeof(v))
    PREF(MAX_WORKSPACE_BYTES, work);
    PREF(REDUCTION_SCHEME_MASK, reductions);
    PREF(MIN_ALIGNMENT_A_BYTES, align[0]);
    PREF(MIN_ALIGNMENT_B_BYTES, align[1]);
    PREF(MIN_ALIGNMENT_C_BYTES, align[2]);
    PREF(MIN_ALIGNMENT_D_BYTES, align[2]);
#undef PREF
    if (!ok) return "cuBLASLt: a setting was refused";
    cublasStatus_t st =
        blas.cublasLtMatmulAlgoGetHeuristic(d->lt, e->desc, e->a, e->b, e->c, e->c, pref, N_TRIED, found, &n_found);
    blas.cublasLtMatmulPreferenceDestroy(pref);
    if (st != CUBLAS_STATUS_SUCCESS || n_found < 1) return "cuBLASLt has no algorithm for this product";
    e->algo = found[0].algo;
    e->work = found[0].workspaceSize;
    return NULL;
}

static void drop_product(product *e)
{
    if (e->desc) blas.cublasLtMatmulDescDestroy(e->desc);
    if (e->a) blas.cublasLtMatrixLayoutDestroy(e->a);
    if (e->b) blas.cublasLtMatrixLayoutDestroy(e->b);
    if (e->c) blas.cublasLtMatrixLayoutDestroy(e->c);
    memset(e, 0, sizeof *e);
}

/* The cached product of this key, made on first use. A full table is emptied: the heuristic gives the same answers again. */
static product *find_product(device *d, const product_key *key, const char **why)
{
    uint64_t h = 1469598103934665603u;
    const uint32_t *w = (const uint32_t *)key;
    for (size_t i = 0; i < sizeof *key / 4; i++) h = (h ^ w[i]) * 1099511628211u;
    if (d->n_products > N_PRODUCTS / 2) {
        for (int i = 0; i < N_PRODUCTS; i++)
            if (d->products[i].used) drop_product(&d->products[i]);
        d->n_products = 0;
    }
    size_t i = (size_t)(h >> 32) % N_PRODUCTS;
    while (d->products[i].used && memcmp(&d->products[i].key, key, sizeof *key) != 0) i = (i + 1) % N_PRODUCTS;
    product *e = &d->products[i];
    if (e->used) return e;
    e->key = *key;
    *why = make_product(d, e);
    if (*why) {
        drop_product(e);
        return NULL;
    }
    e->used = 1;
    d->n_products++;
    return e;
}

/* Keeps the fastest of the answers: best of three rounds over all, against drifting clocks. The product is repeated on its own
 * operands; where it adds, next to nothing is added (1e-38 of it). Waits for the device: once for a shape. */
static void tune(device *d, product *e, const void *A, const void *B, void *C)
{
    float alpha = e->key.add ? 1e-38f : 1, beta = e->key.add ? 1 : 0, best[N_TRIED], ms;
    cudaEvent_t begin, end;
    int n = n_found, pick = 0;
    e->tuned = 1;
    if (2.0 * (double)e->key.m * (double)e->key.n * (double)e->key.k < 2e10 || n < 2) return;
    if (cudaEventCreate(&begin) != cudaSuccess || cudaEventCreate(&end) != cudaSuccess) return;
    for (int i = 0; i < n; i++) best[i] = 1e30f;
    for (int round = 0; round < 4; round++)
        for (int i = 0; i < n; i++) {
            cublasStatus_t st = CUBLAS_STATUS_SUCCESS;
            (void)cudaEventRecord(begin, d->stream);
            for (int k = 0; k < (round ? 3 : 1) && st == CUBLAS_STATUS_SUCCESS; k++)
                st = blas.cublasLtMatmul(d->lt, e->desc, &alpha, A, e->a, B, e->b, &beta, C, e->c, C, e->c,
                                         &found[i].algo, d->blas_work, found[i].workspaceSize, d->stream);
            (void)cudaEventRecord(end, d->stream);
            if (cudaEventSynchronize(end) != cudaSuccess || st != CUBLAS_STATUS_SUCCESS) continue;
            if (round && cudaEventElapsedTime(&ms, begin, end) == cudaSuccess && ms < best[i]) best[i] = ms;
        }
    for (int i = 1; i < n; i++)
        if (best[i] < best[pick] && best[i] < 0.99f * best[0]) pick = i;
    if (getenv("NS_CUDA_SHOW_TUNING"))
        fprintf(stderr, "product m %lld n %lld k %lld ta %d tb %d add %d: answer %d of %d, %.4f ms instead of %.4f\n",
                (long long)e->key.m, (long long)e->key.n, (long long)e->key.k, e->key.ta, e->key.tb, e->key.add, pick,
                n, (double)best[pick] / 3, (double)best[0] / 3);
    e->algo = found[pick].algo;
    e->work = found[pick].workspaceSize;
    (void)cudaEventDestroy(begin);
    (void)cudaEventDestroy(end);
}

static cudaDataType_t cuda_type(ns_dtype t)
{
    return t == NS_DTYPE_BF16 ? CUDA_R_16BF : CUDA_R_32F;
}

typedef struct factor { /* of a product; scale: of fp8, in device memory */
    const void *p;
    int64_t ld;
    cudaDataType_t type;
    const float *scale;
} factor;

static void multiply(ns_exec *x, const char *op, int ta, int tb, int64_t m, int64_t n, int64_t k, factor fa, factor fb,
                     ns_dtype out, void *C, int64_t ldc, int add, const void *bias, int fast)
{
    device *d = dev_of(x);
    const void *A = fa.p, *B = fb.p;
    const char *why = NULL;
    if (m <= 0 || n <= 0) return;
    product_key key;
    memset(&key, 0, sizeof key);
    key = (product_key){.m = m,
                        .n = n,
                        .k = k,
                        .lda = fa.ld,
                        .ldb = fb.ld,
                        .ldc = ldc,
                        .ta = ta,
                        .tb = tb,
                        .in = (int32_t)fa.type,
                        .in_b = (int32_t)fb.type,
                        .out = (int32_t)cuda_type(out),
                        .add = add,
                        .bias = bias != NULL,
                        .align_a = alignment(A),
                        .align_b = alignment(B),
                        .align_c = alignment(C),
                        .fast = fast};
    product *e = find_product(d, &key, &why);
    if (!e) {
        fail(x, op, why, m, n, k);
        return;
    }
    float alpha = 1, beta = add ? 1 : 0;
    if (bias) set_desc(e, CUBLASLT_MATMUL_DESC_BIAS_POINTER, &bias, sizeof bias);
    if (fa.scale) set_desc(e, CUBLASLT_MATMUL_DESC_A_SCALE_POINTER, &fa.scale, sizeof fa.scale);
    if (fb.scale) set_desc(e, CUBLASLT_MATMUL_DESC_B_SCALE_POINTER, &fb.scale, sizeof fb.scale);
    if (x->any_order && !e->tuned && n_found > 0) tune(d, e, A, B, C);
    n_found = 0; /* belongs to the product just made */
    cublasStatus_t st = blas.cublasLtMatmul(d->lt, e->desc, &alpha, A, e->a, B, e->b, &beta, C, e->c, C, e->c, &e->algo,
                                            d->blas_work, e->work, d->stream);
    if (st != CUBLAS_STATUS_SUCCESS) {
        char text[64];
        snprintf(text, sizeof text, "cuBLASLt failed with status %d", (int)st);
        fail(x, op, text, m, n, k);
    }
    check(x, op, m, n, k);
}

static void gemm(ns_exec *x, const char *op, int ta, int tb, int64_t m, int64_t n, int64_t k, ns_dtype in,
                 const void *A, int64_t lda, const void *B, int64_t ldb, ns_dtype out, void *C, int64_t ldc, int add,
                 const void *bias)
{
    const cudaDataType_t t = cuda_type(in);
    multiply(x, op, ta, tb, m, n, k, (factor){A, lda, t, NULL}, (factor){B, ldb, t, NULL}, out, C, ldc, add, bias, 0);
}

static int same_type(ns_exec *x, const char *op, const ns_weight *w, ns_dtype dt)
{
    if (w->dt == dt) return 1;
    fail(x, op, "weights of another type than the activations", w->rows, w->cols, 0);
    return 0;
}

/* ---- fp8: each factor is cast as it comes, weights when they change. The products are all "TN": summed over what lies
 * contiguous, so that dx needs W, and dW both factors, transposed. ---- */
static uint8_t *bytes8(const void *tensor)
{
    return (uint8_t *)(uintptr_t)tensor + NS_FP8_HEAD;
}
static factor factor8(const void *bytes, int64_t ld, int kind, const void *head)
{
    return (factor){bytes, ld, kind == NSK_E4M3 ? CUDA_R_8F_E4M3 : CUDA_R_8F_E5M2,
                    &((const nsk_fp8_head *)head)->inverse};
}
static int grad_kind(const ns_linear_args *a)
{
    return a->w->fp8 == NS_FP8_E4M3 ? NSK_E4M3 : NSK_E5M2;
}
static int fp8_ok(ns_exec *x, const char *op, const ns_linear_args *a, int64_t work)
{
    const char *why = NULL;
    if (a->dt != NS_DTYPE_BF16)
        why = "fp8 products take bf16";
    else if (a->N % 16 || a->K % 16)
        why = "fp8 products need multiples of 16";
    else if (!a->w->panels_fwd)
        why = "fp8 weights were not prepared";
    if (why) fail(x, op, why, a->M, a->N, a->K);
    return !why && need_work(x, work, op);
}
/* bf16 [M,cols] -> head, row [M,cols], trans [cols,M]; NULL: not wanted */
static void cast8(ns_exec *x, int kind, int64_t M, int64_t cols, const void *p, void *head, void *row, void *trans)
{
    nsk_fp8_amax(stream(x), M * cols, p, head);
    nsk_fp8_cast(stream(x), kind, M, cols, p, head, row, trans);
    check(x, "fp8 cast", M, cols, 0);
}
static int64_t fp8_fwd_work(int64_t M, int64_t K)
{
    return NS_FP8_HEAD + M * K;
}
static int64_t fp8_dgrad_work(int64_t M, int64_t N, int64_t K)
{
    return NS_FP8_HEAD + (M * N + 255) / 256 * 256 + N * K;
}
static int64_t fp8_wgrad_work(int64_t M, int64_t N, int64_t K)
{
    return ns_fp8_bytes(K, M) + ns_fp8_bytes(N, M);
}

static void linear8_fwd(ns_exec *x, const ns_linear_args *a)
{
    if (!fp8_ok(x, "linear_fwd", a, fp8_fwd_work(a->M, a->K))) return;
    void *head = a->x8 ? a->x8 : x->work, *row = bytes8(x->work);
    cast8(x, NSK_E4M3, a->M, a->K, a->x, head, row, a->x8 ? bytes8(a->x8) : NULL);
    multiply(x, "linear_fwd", 1, 0, a->N, a->M, a->K,
             factor8(bytes8(a->w->panels_fwd), a->K, NSK_E4M3, a->w->panels_fwd), factor8(row, a->K, NSK_E4M3, head),
             a->dt, a->y, a->N, 0, a->b ? a->b->data : NULL, dev_of(x)->fp8_fast > 0);
}
static void linear8_dgrad(ns_exec *x, const ns_linear_args *a)
{
    if (!fp8_ok(x, "linear_dgrad", a, fp8_dgrad_work(a->M, a->N, a->K))) return;
    const int kind = grad_kind(a);
    void *head = a->dy8 ? a->dy8 : x->work;
    uint8_t *row = bytes8(x->work), *turned = row + (a->M * a->N + 255) / 256 * 256;
    cast8(x, kind, a->M, a->N, a->dy, head, row, a->dy8 ? bytes8(a->dy8) : NULL);
    if (a->w->panels_dx)
        turned = bytes8(a->w->panels_dx);
    else
        nsk_fp8_transpose(stream(x), a->N, a->K, bytes8(a->w->panels_fwd), turned);
    multiply(x, "linear_dgrad", 1, 0, a->K, a->M, a->N, factor8(turned, a->N, NSK_E4M3, a->w->panels_fwd),
             factor8(row, a->N, kind, head), a->dt, a->dx, a->K, a->add_dx, NULL, dev_of(x)->fp8_fast > 1);
}
/* The sum runs over M, rounded up: both casts have zeros there. */
static void linear8_wgrad(ns_exec *x, const ns_linear_args *a)
{
    const int64_t M = ns_fp8_stride(a->M);
    const int kind = grad_kind(a);
    if (!fp8_ok(x, "linear_wgrad", a, fp8_wgrad_work(a->M, a->N, a->K))) return;
    char *own_x = x->work, *own_dy = own_x + ns_fp8_bytes(a->K, a->M);
    const void *x8 = a->x8 ? a->x8 : own_x, *dy8 = a->dy8 ? a->dy8 : own_dy;
    if (!a->x8) cast8(x, NSK_E4M3, a->M, a->K, a->x, own_x, NULL, bytes8(own_x));
    if (!a->dy8) cast8(x, kind, a->M, a->N, a->dy, own_dy, NULL, bytes8(own_dy));
    multiply(x, "linear_wgrad", 1, 0, a->K, a->N, M, factor8(bytes8(x8), M, NSK_E4M3, x8),
             factor8(bytes8(dy8), M, kind, dy8), NS_DTYPE_F32, a->w->grad, a->K, !a->assign_dw, NULL,
             dev_of(x)->fp8_fast > 1);
}

static void linear_fwd(ns_exec *x, const ns_linear_args *a)
{
    if (!same_type(x, "linear_fwd", a->w, a->dt)) return;
    if (a->w->fp8) {
        linear8_fwd(x, a);
        return;
    }
    gemm(x, "linear_fwd", 1, 0, a->N, a->M, a->K, a->dt, a->w->data, a->K, a->x, a->K, a->dt, a->y, a->N, 0,
         a->b ? a->b->data : NULL);
}
static void linear_dgrad(ns_exec *x, const ns_linear_args *a)
{
    if (!same_type(x, "linear_dgrad", a->w, a->dt)) return;
    if (a->w->fp8) {
        linear8_dgrad(x, a);
        return;
    }
    gemm(x, "linear_dgrad", 0, 0, a->K, a->M, a->N, a->dt, a->w->data, a->K, a->dy, a->N, a->dt, a->dx, a->K, a->add_dx,
         NULL);
}
static void linear_wgrad(ns_exec *x, const ns_linear_args *a)
{
    if (a->w->grad && a->w->fp8)
        linear8_wgrad(x, a);
    else if (a->w->grad)
        gemm(x, "linear_wgrad", 0, 1, a->K, a->N, a->M, a->dt, a->x, a->K, a->dy, a->N, NS_DTYPE_F32, a->w->grad, a->K,
             !a->assign_dw, NULL);
    if (!a->b || !a->b->grad || !need_work(x, nsk_bias_grad_work(a->N), "linear_wgrad")) return;
    nsk_bias_grad(stream(x), a->dt == NS_DTYPE_BF16, a->M, a->N, a->dy, a->b->grad, x->work);
    check(x, "bias gradient", a->M, a->N, 0);
}

/* ---- head ---- */
static int64_t logit_stride(int64_t V)
{
    return V < 1 ? 8 : (V + 7) / 8 * 8;
}
static int64_t head_rows(const device *d, int64_t T, int64_t V)
{
    int64_t n = ((int64_t)1 << 30) / (4 * logit_stride(V)) / 128 * 128; /* 1 GiB of logits at most */
    if (d && d->head_rows) n = d->head_rows;
    return n < 128 && !(d && d->head_rows) ? 128 : n > T ? T : n;
}
static int64_t head_work(const device *d, int64_t T, int64_t V)
{
    return head_rows(d, T, V) * logit_stride(V) * 4 + (T + 8) * 8;
}

static void head(ns_exec *x, const ns_head_args *a)
{
    device *d = dev_of(x);
    if (!same_type(x, "head", a->w, a->dt) || !need_work(x, head_work(d, a->T, a->w->rows), "head")) return;
    int64_t per = head_rows(d, a->T, a->w->rows), stride = logit_stride(a->V), es = a->dt == NS_DTYPE_BF16 ? 2 : 4;
    double *loss = x->work;
    float *z = (float *)((char *)x->work + (a->T * 8 + 63) / 64 * 64);
    if (a->dx && a->phase != NS_HEAD_STATS && a->assign_dw && a->w->grad &&
        a->w->rows > a->V) /* padding rows have no gradient */
        (void)cudaMemsetAsync(a->w->grad + a->V * a->C, 0, (size_t)((a->w->rows - a->V) * a->C) * 4, d->stream);
    for (int64_t t = 0; t < a->T; t += per) {
        int64_t n = a->T - t < per ? a->T - t : per, ld = a->dt == NS_DTYPE_BF16 ? 2 * stride : stride;
        const char *in = (const char *)a->x + t * a->C * es;
        if (a->V > 0) /* a part of the vocabulary may have no word */
            gemm(x, "head", 1, 0, a->V, n, a->C, a->dt, a->w->data, a->C, in, a->C, NS_DTYPE_F32, z, stride, 0, NULL);
        nsk_head_chunk(d->stream, es == 2, n, a->V, stride, a->softcap, z, a->label + t, a->weight + t,
                       &x->step->weight_sum, a->logp ? a->logp + t : NULL, loss + t, a->dx != NULL, (int)a->phase,
                       a->v0, a->stats ? a->stats + 2 * t : NULL);
        check(x, "head", n, a->V, a->C);
        if (!a->dx || a->phase == NS_HEAD_STATS) continue;
        if (a->V == 0) {
            (void)cudaMemsetAsync((char *)a->dx + t * a->C * es, 0, (size_t)(n * a->C * es), d->stream);
            continue;
        }
        gemm(x, "head dx", 0, 0, a->C, n, a->V, a->dt, a->w->data, a->C, z, ld, a->dt, (char *)a->dx + t * a->C * es,
             a->C, 0, NULL);
        if (a->w->grad)
            gemm(x, "head dw", 0, 1, a->C, a->V, n, a->dt, in, a->C, z, ld, NS_DTYPE_F32, a->w->grad, a->C,
                 t > 0 || !a->assign_dw, NULL);
    }
    if (a->phase == NS_HEAD_STATS) return;
    nsk_head_loss(d->stream, a->T, loss, &x->step->loss_sum);
    check(x, "head loss", a->T, a->V, a->C);
}

/* ---- rows ---- */
static int is_bf16(ns_dtype t)
{
    return t == NS_DTYPE_BF16;
}
static void embed_fwd(ns_exec *x, const ns_embed_args *a)
{
    nsk_embed_fwd(stream(x), is_bf16(a->dt), is_bf16(a->table->dt), a->T, a->C, a->ids, a->table->data, a->x);
    check(x, "embed_fwd", a->T, a->C, a->V);
}
static void embed_bwd(ns_exec *x, const ns_embed_args *a)
{
    if (a->table->grad) nsk_embed_bwd(stream(x), is_bf16(a->dt), a->T, a->C, a->ids, a->dx, a->table->grad);
    check(x, "embed_bwd", a->T, a->C, a->V);
}
static void norm_fwd(ns_exec *x, const ns_norm_args *a)
{
    nsk_norm_fwd(stream(x), is_bf16(a->dt), is_bf16(a->w->dt), a->T, a->C, a->eps, a->plus_one, a->w->data, a->x,
                 a->delta, a->h, a->y, a->rstd);
    check(x, "norm_fwd", a->T, a->C, 0);
}
static void norm_bwd(ns_exec *x, const ns_norm_bwd_args *a)
{
    if (a->w->grad && !need_work(x, nsk_norm_bwd_work(a->T, a->C), "norm_bwd")) return;
    nsk_norm_bwd(stream(x), is_bf16(a->dt), is_bf16(a->w->dt), a->T, a->C, a->plus_one, a->w->data, a->w->grad, a->h,
                 a->rstd, a->dy, a->dres, a->dh, a->y, x->work);
    check(x, "norm_bwd", a->T, a->C, 0);
}
static void rope(ns_exec *x, const ns_rope_args *a)
{
    nsk_rope(stream(x), is_bf16(a->dt), a->T, a->n_heads, a->head_dim, a->row_stride, a->rot_dim, a->position,
             a->cos_sin, a->qk, a->inverse);
    check(x, "rope", a->T, a->n_heads, a->head_dim);
}
static void act_fwd(ns_exec *x, const ns_act_args *a)
{
    nsk_act_fwd(stream(x), is_bf16(a->dt), (int)a->act, a->T, a->F, a->x, a->y);
    check(x, "act_fwd", a->T, a->F, 0);
}
static void act_bwd(ns_exec *x, const ns_act_args *a)
{
    nsk_act_bwd(stream(x), is_bf16(a->dt), (int)a->act, a->T, a->F, a->x, a->dy, a->dx, a->y);
    check(x, "act_bwd", a->T, a->F, 0);
}
static void dropout(ns_exec *x, const ns_dropout_args *a)
{
    nsk_dropout(stream(x), is_bf16(a->dt), a->T, a->C, a->p, a->op << 24 | a->layer, a->token0, x->key.k[0],
                x->key.k[1], &x->step->dropout_step, a->x, a->y, a->token, a->c0);
    check(x, "dropout", a->T, a->C, 0);
}
static void add(ns_exec *x, const ns_add_args *a)
{
    nsk_add(stream(x), is_bf16(a->dt), a->n, a->x, a->delta, a->y);
    check(x, "add", a->n, 0, 0);
}
static void scatter_rows(ns_exec *x, const ns_scatter_args *a)
{
    nsk_scatter(stream(x), is_bf16(a->dt) ? 2 : 4, a->T, a->cols, a->src, a->src_stride, a->dst, a->row,
                a->dst_stride ? a->dst_stride : a->cols);
    check(x, "scatter_rows", a->T, a->cols, 0);
}
static void zero(ns_exec *x, const ns_fill_args *a)
{
    if (a->bytes > 0) (void)cudaMemsetAsync(a->p, 0, (size_t)a->bytes, dev_of(x)->stream);
    check(x, "zero", a->bytes, 0, 0);
}

/* ---- attention ---- */
static nsk_attn attn_of(ns_exec *x, const ns_attn_args *a)
{
    return (nsk_attn){a->T,
                      a->n_seg,
                      a->max_q,
                      a->max_kv,
                      a->n_heads,
                      a->n_kv,
                      a->head_dim,
                      is_bf16(a->dt),
                      a->causal,
                      a->scale,
                      a->softcap,
                      a->window,
                      a->cu_q,
                      a->kv_start,
                      a->kv_len,
                      a->q,
                      a->k,
                      a->v,
                      a->q_stride,
                      a->k_stride,
                      a->v_stride,
                      a->out,
                      a->lse,
                      a->dout,
                      a->dq,
                      a->dk,
                      a->dv,
                      x->work,
                      x->work_bytes,
                      a->live_seg,
                      a->live_len,
                      a->live_rows,
                      a->dropout,
                      {x->key.k[0], x->key.k[1]},
                      a->op << 24 | a->layer,
                      (uint32_t)a->head0,
                      &x->step->dropout_step,
                      a->token};
}
/* cuDNN where it serves the call and the order of its sums may be used: its forward has none that vary. */
static int by_cudnn(ns_exec *x, const nsk_attn *p, int backward, const char *op)
{
    device *d = dev_of(x);
    const char *why = "no cuDNN";
    if (!p->bf16 || d->generic_attention) return 0;
    if (p->dropout > 0) why = "attention dropout";
    int done = d->dnn && p->dropout <= 0 && (!backward || x->any_order)
                   ? nsk_cudnn_run(d->dnn, d->stream, p, backward, &why)
                   : 0;
    if (done < 0) fail(x, op, why, p->T, p->n_heads, p->head_dim);
    if (done == 0) snprintf(d->dnn_why, sizeof d->dnn_why, "%s", why);
    if (done)
        d->dnn_calls++;
    else
        d->own_calls++;
    return done != 0;
}
static int attn_ok(ns_exec *x, const ns_attn_args *a, const char *op)
{
    if (a->head_dim <= 512) return need_work(x, nsk_attn_work(a->T, a->n_heads), op);
    fail(x, op, "head sizes above 512 are not supported", a->T, a->n_heads, a->head_dim);
    return 0;
}
static void attn_fwd(ns_exec *x, const ns_attn_args *a)
{
    if (!attn_ok(x, a, "attn_fwd")) return;
    nsk_attn p = attn_of(x, a);
    if (!by_cudnn(x, &p, 0, "attn_fwd")) nsk_attn_fwd(stream(x), &p, dev_of(x)->generic_attention);
    check(x, "attn_fwd", a->T, a->n_heads, a->head_dim);
}
static void attn_bwd(ns_exec *x, const ns_attn_args *a)
{
    if (!attn_ok(x, a, "attn_bwd")) return;
    nsk_attn p = attn_of(x, a);
    if (!by_cudnn(x, &p, 1, "attn_bwd")) nsk_attn_bwd(stream(x), &p, dev_of(x)->generic_attention);
    check(x, "attn_bwd", a->T, a->n_heads, a->head_dim);
}

/* ---- optimiser ---- */
static void upload(ns_exec *x, void *dst, const void *src, int64_t bytes);
enum { MAX_ITEMS = 16384 };
/* The table of items, in front of the work buffer; -1: it does not fit. */
static int64_t put_items(ns_exec *x, const ns_opt_args *a, const char *op)
{
    nsk_opt part[64];
    int64_t chunks = 0;
    if (!need_work(x, nsk_opt_work(a->n_items), op)) return -1;
    for (int64_t i = 0; i < a->n_items; i++) {
        const ns_opt_item *o = &a->items[i];
        int aligned =
            ((uintptr_t)o->w | (uintptr_t)o->rem | (uintptr_t)o->grad | (uintptr_t)o->m | (uintptr_t)o->v) % 16 == 0;
        part[i % 64] =
            (nsk_opt){o->n, chunks, o->w, o->rem, o->grad, o->m, o->v, o->first, o->tensor, o->decay, aligned, 0};
        chunks += nsk_opt_chunks(o->n);
        if (i % 64 == 63 || i + 1 == a->n_items)
            upload(x, (nsk_opt *)x->work + i / 64 * 64, part, (i % 64 + 1) * (int64_t)sizeof *part);
    }
    return chunks;
}
static void grad_sumsq(ns_exec *x, const ns_opt_args *a)
{
    int64_t chunks = put_items(x, a, "grad_sumsq");
    if (chunks < 0) return;
    nsk_sumsq(stream(x), x->work, (int)a->n_items, chunks, &x->step->grad_sumsq);
    nsk_sumsq_end(stream(x), &x->step->grad_sumsq, &x->step->nonfinite);
    check(x, "grad_sumsq", a->n_items, 0, 0);
}
static void clip(ns_exec *x, const ns_opt_args *a)
{
    (void)a;
    nsk_clip(stream(x), &x->step->grad_sumsq, &x->step->clip, &x->step->clip_coef);
    check(x, "clip", 0, 0, 0);
}
static void adamw(ns_exec *x, const ns_opt_args *a)
{
    ns_step *s = x->step;
    nsk_adamw_scalars sc = {&s->lr,           &s->beta1,     &s->beta2, &s->eps,
                            &s->weight_decay, &s->clip_coef, &s->t,     &s->nonfinite};
    int64_t chunks = put_items(x, a, "adamw");
    if (chunks <= 0) return;
    const ns_opt_item *o = a->items;
    nsk_opt_form form = {is_bf16(o->dt),     is_bf16(o->dt) && o->form.no_rem,
                         is_bf16(o->form.m), is_bf16(o->form.v),
                         x->key.k[0],        NS_ROUND_KEY};
    for (int64_t i = 1; i < a->n_items; i++)
        if (o[i].dt != o->dt || o[i].form.no_rem != o->form.no_rem || o[i].form.m != o->form.m ||
            o[i].form.v != o->form.v) {
            fail(x, "adamw", "items of several forms in one call", a->n_items, i, 0);
            return;
        }
    nsk_adamw(stream(x), &form, &sc, x->work, (int)a->n_items, chunks);
    check(x, "adamw", a->n_items, 0, 0);
}

/* ---- weights are read as they are, but for fp8: panels_fwd has the cast, panels_dx (may be NULL) its transpose ---- */
static void prepare(ns_exec *x, const ns_weight *w)
{
    if (!w->fp8 || !w->panels_fwd) return;
    cast8(x, NSK_E4M3, w->rows, w->cols, w->data, w->panels_fwd, bytes8(w->panels_fwd),
          w->panels_dx ? bytes8(w->panels_dx) : NULL);
}
static void prepare_bytes(const ns_weight *w, int64_t *fwd, int64_t *dx)
{
    *fwd = w->fp8 ? ns_fp8_bytes(w->rows, w->cols) : 0;
    *dx = w->fp8 ? ns_fp8_bytes(w->cols, w->rows) : 0;
}
static int64_t most(int64_t a, int64_t b)
{
    return a > b ? a : b;
}
static int64_t work_bytes(const ns_exec *x, int64_t T, int64_t max_len, int64_t C, int64_t F, int64_t V,
                          int64_t n_heads, int64_t head_dim)
{
    (void)max_len;
    const device *d = x->backend;
    int64_t wide = most(most(C, 2 * F), 3 * n_heads * head_dim), w = head_work(x->backend, T, V);
    w = most(w, nsk_norm_bwd_work(T, C));
    w = most(w, nsk_bias_grad_work(wide));
    w = most(w, nsk_attn_work(T, n_heads));
    if (x->fp8) {
        w = most(w, fp8_fwd_work(T, most(most(C, F), n_heads * head_dim)));
        w = most(w, fp8_dgrad_work(T, wide, C));
        w = most(w, fp8_wgrad_work(T, wide, most(most(C, F), n_heads * head_dim)));
    }
    if (!d || d->dnn) w = most(w, nsk_cudnn_work(T, n_heads, x->any_order ? head_dim : 0));
    return (most(w, nsk_opt_work(MAX_ITEMS)) + 255) / 256 * 256;
}

/* ---- memory ---- */
static ns_status mem_new(ns_exec *x, void **out, int64_t bytes, ns_error *err)
{
    device *d = dev_of(x);
    size_t free_b = 0, total = 0;
    cudaError_t e = cudaMalloc(out, bytes > 0 ? (size_t)bytes : 1);
    if (e == cudaSuccess) e = cudaMemsetAsync(*out, 0, (size_t)bytes, d->stream);
    if (e == cudaSuccess) return NS_OK;
    (void)cudaGetLastError();
    (void)cudaMemGetInfo(&free_b, &total);
    return d->host->error_set(err, NS_ERR_DEVICE, __FILE__, __LINE__,
                              "GPU memory: %.2f GB asked, %.2f of %.2f GB free (%s): is another process on the card?",
                              (double)bytes / 1e9, (double)free_b / 1e9, (double)total / 1e9, cudaGetErrorString(e));
}
static void mem_free(ns_exec *x, void *p)
{
    (void)cudaStreamSynchronize(dev_of(x)->stream);
    if (p) (void)cudaFree(p);
}

/* Copies go through pinned slots in turn, so that the caller's memory is free at once and the stream never waits. */
static void upload(ns_exec *x, void *dst, const void *src, int64_t bytes)
{
    device *d = dev_of(x);
    for (int64_t at = 0; at < bytes; at += SLOT_BYTES) {
        size_t n = (size_t)(bytes - at < SLOT_BYTES ? bytes - at : SLOT_BYTES);
        int s = d->next_slot;
        d->next_slot = (s + 1) % N_SLOTS;
        (void)cudaEventSynchronize(d->done[s]);
        memcpy(d->slot[s], (const char *)src + at, n);
        (void)cudaMemcpyAsync((char *)dst + at, d->slot[s], n, cudaMemcpyHostToDevice, d->stream);
        (void)cudaEventRecord(d->done[s], d->stream);
    }
    check(x, "upload", bytes, 0, 0);
}
/* Two slots in turn: one is copied out while the next arrives. */
static void download(ns_exec *x, void *dst, const void *src, int64_t bytes)
{
    device *d = dev_of(x);
    int64_t n_chunks = (bytes + SLOT_BYTES - 1) / SLOT_BYTES;
    cudaError_t e = cudaSuccess;
    for (int64_t i = 0; i <= n_chunks && e == cudaSuccess; i++) {
        if (i < n_chunks) {
            int64_t at = i * SLOT_BYTES, n = bytes - at < SLOT_BYTES ? bytes - at : SLOT_BYTES;
            (void)cudaEventSynchronize(d->done[i & 1]);
            e = cudaMemcpyAsync(d->slot[i & 1], (const char *)src + at, (size_t)n, cudaMemcpyDeviceToHost, d->stream);
            if (e == cudaSuccess) e = cudaEventRecord(d->done[i & 1], d->stream);
        }
        if (i == 0 || e != cudaSuccess) continue;
        int64_t at = (i - 1) * SLOT_BYTES, n = bytes - at < SLOT_BYTES ? bytes - at : SLOT_BYTES;
        e = cudaEventSynchronize(d->done[(i - 1) & 1]);
        if (e == cudaSuccess) memcpy((char *)dst + at, d->slot[(i - 1) & 1], (size_t)n);
    }
    if (e != cudaSuccess) {
        (void)cudaGetLastError();
        memset(dst, 0, (size_t)bytes);
        fail(x, "download", cudaGetErrorString(e), bytes, 0, 0);
    }
}

/* ---- copies beside the ops: one entry of the queue each, so that enqueueing a thousand does not wait for them ---- */
static void copy_begin(ns_exec *x)
{
    device *d = dev_of(x);
    d->holding = 0;
    (void)cudaEventRecord(d->before, d->stream);
    (void)cudaStreamWaitEvent(d->copies, d->before, 0);
    check(x, "copy_begin", 0, 0, 0);
}
static void copy_end(ns_exec *x)
{
    device *d = dev_of(x);
    (void)cudaEventRecord(d->copied, d->copies);
    check(x, "copy_end", 0, 0, 0);
}
static void copy_out(ns_exec *x, void *dst, const void *src, int64_t bytes)
{
    device *d = dev_of(x);
    if (bytes <= 0) return;
    (void)cudaMemcpyAsync(dst, src, (size_t)bytes, cudaMemcpyDeviceToHost, d->copies);
    check(x, "copy_out", bytes, 0, 0);
}
static void copy_hold(ns_exec *x)
{
    device *d = dev_of(x);
    (void)cudaEventRecord(d->held_from, d->stream);
    (void)cudaStreamWaitEvent(d->stream, d->copied, 0);
    d->holding = 1;
    check(x, "copy_hold", 0, 0, 0);
}
static double copy_held(ns_exec *x)
{
    device *d = dev_of(x);
    float ms = 0;
    if (!d->holding || cudaEventElapsedTime(&ms, d->held_from, d->copied) != cudaSuccess) (void)cudaGetLastError();
    return ms > 0 ? ms * 1e-3 : 0;
}
static ns_status copy_wait(ns_exec *x, ns_error *err)
{
    device *d = dev_of(x);
    cudaError_t e = cudaEventSynchronize(d->copied);
    if (e == cudaSuccess) return NS_OK;
    return d->host->error_set(err, NS_ERR_DEVICE, __FILE__, __LINE__, "CUDA copy to the host: %s",
                              cudaGetErrorString(e));
}
static ns_status pin(ns_exec *x, void *host, int64_t bytes, ns_error *err)
{
    cudaError_t e = cudaHostRegister(host, (size_t)bytes, cudaHostRegisterPortable);
    if (e == cudaSuccess) return NS_OK;
    (void)cudaGetLastError();
    return dev_of(x)->host->error_set(err, NS_ERR_DEVICE, __FILE__, __LINE__,
                                      "CUDA cannot pin %.2f GB of host memory: %s (see ulimit -l)", (double)bytes / 1e9,
                                      cudaGetErrorString(e));
}
static void unpin(ns_exec *x, void *host)
{
    (void)x;
    if (cudaHostUnregister(host) != cudaSuccess) (void)cudaGetLastError();
}

/* ---- opening ---- */
static ns_status open_blas(const ns_cuda_host *h, ns_cuda_info *info, ns_error *err)
{
    char names[3][96];
    snprintf(names[0], sizeof names[0], "libcublasLt.so.%d", CUDART_VERSION / 1000);
    snprintf(names[1], sizeof names[1], "/usr/local/cuda/lib64/libcublasLt.so.%d", CUDART_VERSION / 1000);
    snprintf(names[2], sizeof names[2], "/usr/local/cuda-%d.%d/lib64/libcublasLt.so.%d", CUDART_VERSION / 1000,
             CUDART_VERSION % 1000 / 10, CUDART_VERSION / 1000);
    void *lib = NULL;
    for (int i = 0; i < 3 && !lib; i++) lib = dlopen(names[i], RTLD_NOW | RTLD_LOCAL);
    if (!lib)
        return h->error_set(
            err, NS_ERR_DEVICE, __FILE__, __LINE__,
            "%s is not found: install cuBLAS of CUDA %d (package libcublas) or add its folder to LD_LIBRARY_PATH",
            names[0], CUDART_VERSION / 1000);
    const char *missing = NULL;
#define GET(f)                          \
    *(void **)&blas.f = dlsym(lib, #f); \
    if (!blas.f) missing = #f;
    BLAS_NAMES(GET)
#undef GET
    if (missing) return h->error_set(err, NS_ERR_DEVICE, __FILE__, __LINE__, "%s has no %s", names[0], missing);
    size_t v = blas.cublasLtGetVersion();
    snprintf(info->blas, sizeof info->blas, "cuBLASLt %zu.%zu.%zu", v / 10000, v / 100 % 100, v % 100);
    return NS_OK;
}

static void close_device(void *p)
{
    device *d = p;
    if (!d) return;
    if (d->stream) (void)cudaStreamSynchronize(d->stream);
    for (int i = 0; d->products && i < N_PRODUCTS; i++)
        if (d->products[i].used) drop_product(&d->products[i]);
    free(d->products);
    for (int i = 0; i < N_SLOTS; i++) {
        if (d->done[i]) (void)cudaEventDestroy(d->done[i]);
        if (d->slot[i]) (void)cudaFreeHost(d->slot[i]);
    }
    if (d->copies) (void)cudaStreamSynchronize(d->copies), (void)cudaStreamDestroy(d->copies);
    cudaEvent_t events[] = {d->before, d->copied, d->held_from};
    for (int i = 0; i < 3; i++)
        if (events[i]) (void)cudaEventDestroy(events[i]);
    nsk_cudnn_close(d->dnn);
    if (d->blas_work) (void)cudaFree(d->blas_work);
    if (d->lt) blas.cublasLtDestroy(d->lt);
    if (d->stream) (void)cudaStreamDestroy(d->stream);
    free(d);
}

static const ns_ops table = {
    .name = "cuda",
    .assigns_grads = 1,
    .fp8 = 1,
    .embed_fwd = embed_fwd,
    .embed_bwd = embed_bwd,
    .norm_fwd = norm_fwd,
    .norm_bwd = norm_bwd,
    .linear_fwd = linear_fwd,
    .linear_dgrad = linear_dgrad,
    .linear_wgrad = linear_wgrad,
    .rope = rope,
    .attn_fwd = attn_fwd,
    .attn_bwd = attn_bwd,
    .act_fwd = act_fwd,
    .act_bwd = act_bwd,
    .head = head,
    .dropout = dropout,
    .add = add,
    .scatter_rows = scatter_rows,
    .zero = zero,
    .grad_sumsq = grad_sumsq,
    .clip = clip,
    .adamw = adamw,
    .prepare = prepare,
    .mem_new = mem_new,
    .mem_free = mem_free,
    .upload = upload,
    .download = download,
    .copy_begin = copy_begin,
    .copy_out = copy_out,
    .copy_end = copy_end,
    .copy_hold = copy_hold,
    .copy_held = copy_held,
    .copy_wait = copy_wait,
    .pin = pin,
    .unpin = unpin,
    .prepare_bytes = prepare_bytes,
    .work_bytes = work_bytes,
};

#ifndef NS_CUDA_ARCHS
#define NS_CUDA_ARCHS "?"
#endif

static ns_status describe(const ns_cuda_host *h, ns_cuda_info *info, ns_error *err)
{
    int n = 0;
    struct cudaDeviceProp prop;
    (void)cudaDriverGetVersion(&info->driver);
    (void)cudaRuntimeGetVersion(&info->runtime);
    cudaError_t e = cudaGetDeviceCount(&n);
    if (e == cudaErrorInsufficientDriver)
        return h->error_set(
            err, NS_ERR_DEVICE, __FILE__, __LINE__,
            info->driver ? "the NVIDIA driver knows CUDA %d.%d, this plug-in was built with %d.%d: update the "
                           "driver or use a plug-in built with an older CUDA"
                         : "no NVIDIA driver is loaded on this machine (driver %d.%d, plug-in CUDA %d.%d)",
            info->driver / 1000, info->driver % 1000 / 10, info->runtime / 1000, info->runtime % 1000 / 10);
    if (e != cudaSuccess || n < 1)
        return h->error_set(err, NS_ERR_DEVICE, __FILE__, __LINE__,
                            "no GPU is visible (%s); CUDA_VISIBLE_DEVICES is '%s'",
                            e != cudaSuccess ? cudaGetErrorString(e) : "count 0",
                            getenv("CUDA_VISIBLE_DEVICES") ? getenv("CUDA_VISIBLE_DEVICES") : "not set");
    info->count = n;
    info->nth %= n;
    e = cudaGetDeviceProperties(&prop, info->nth);
    size_t free_b = 0, total = 0;
    if (e == cudaSuccess) e = cudaSetDevice(info->nth);
    if (e == cudaSuccess) e = cudaMemGetInfo(&free_b, &total);
    if (e != cudaSuccess)
        return h->error_set(err, NS_ERR_DEVICE, __FILE__, __LINE__, "GPU %d does not start: %s", info->nth,
                            cudaGetErrorString(e));
    snprintf(info->name, sizeof info->name, "%.*s", (int)sizeof info->name - 1, prop.name);
    for (int i = 0; i < 16; i++) snprintf(info->uuid + 2 * i, 3, "%02x", (unsigned char)prop.uuid.bytes[i]);
    info->cc = prop.major * 10 + prop.minor;
    info->sms = prop.multiProcessorCount;
    info->free_bytes = (int64_t)free_b;
    info->total_bytes = (int64_t)total;
    int code = nsk_probe();
    if (code)
        return h->error_set(err, NS_ERR_DEVICE, __FILE__, __LINE__,
                            "%s (sm_%d): this plug-in has no code for it (%s; built for %s): rebuild with "
                            "-DNS_CUDA_ARCHS=%d",
                            info->name, info->cc, cudaGetErrorString((cudaError_t)code), NS_CUDA_ARCHS, info->cc);
    return NS_OK;
}

static ns_status open_device(const ns_cuda_host *h, ns_ops *out, void **result, ns_cuda_info *info, ns_error *err)
{
    ns_status st = describe(h, info, err);
    if (st == NS_OK) st = open_blas(h, info, err);
    if (st != NS_OK) return st;
    device *d = calloc(1, sizeof *d);
    if (d) d->products = calloc(N_PRODUCTS, sizeof *d->products);
    if (!d || !d->products) {
        free(d);
        return h->error_set(err, NS_ERR_MEMORY, __FILE__, __LINE__, "out of memory opening the GPU");
    }
    const char *v, *why = "";
    d->host = h;
    d->sync = (v = getenv("NS_CUDA_SYNC")) && *v == '1';
    d->generic_attention = (v = getenv("NS_CUDA_GENERIC_ATTENTION")) && *v == '1';
    d->head_rows = (v = getenv("NS_CUDA_HEAD_ROWS")) ? atoll(v) : 0;
    cudaError_t e = cudaStreamCreateWithFlags(&d->stream, cudaStreamNonBlocking);
    if (e == cudaSuccess) e = cudaMalloc(&d->blas_work, (size_t)BLAS_WORK);
    for (int i = 0; i < N_SLOTS && e == cudaSuccess; i++) {
        e = cudaMallocHost((void **)&d->slot[i], SLOT_BYTES);
        if (e == cudaSuccess) e = cudaEventCreateWithFlags(&d->done[i], cudaEventDisableTiming);
    }
    if (e == cudaSuccess) e = cudaStreamCreateWithFlags(&d->copies, cudaStreamNonBlocking);
    if (e == cudaSuccess) e = cudaEventCreateWithFlags(&d->before, cudaEventDisableTiming);
    if (e == cudaSuccess) e = cudaEventCreate(&d->copied);
    if (e == cudaSuccess) e = cudaEventCreate(&d->held_from);
    cublasStatus_t bs = e == cudaSuccess ? blas.cublasLtCreate(&d->lt) : CUBLAS_STATUS_SUCCESS;
    if (e != cudaSuccess || bs != CUBLAS_STATUS_SUCCESS) {
        close_device(d);
        return h->error_set(err, NS_ERR_DEVICE, __FILE__, __LINE__, "%s: %s (cuBLASLt status %d)", info->name,
                            cudaGetErrorString(e), (int)bs);
    }
    if (!(v = getenv("NS_CUDA_CUDNN")) || *v != '0') d->dnn = nsk_cudnn_open(&why);
    int dv = nsk_cudnn_version(d->dnn);
    if (d->dnn)
        snprintf(info->dnn, sizeof info->dnn, "cuDNN %d.%d.%d", dv / 10000, dv / 100 % 100, dv % 100);
    else
        snprintf(info->dnn, sizeof info->dnn, "no cuDNN: %s", v && *v == '0' ? "NS_CUDA_CUDNN=0" : why);
    d->fp8_fast = (v = getenv("NS_CUDA_FP8_FAST")) ? atoi(v) : 1;
    *out = table;
    out->fp8 = info->cc >= 89;
    *result = d;
    return NS_OK;
}

static int64_t used(void *p)
{
    size_t free_b = 0, total = 0;
    (void)p;
    return cudaMemGetInfo(&free_b, &total) == cudaSuccess ? (int64_t)(total - free_b) : 0;
}

/* What served attention, for bench and doctor. */
static void served(void *p, int64_t *dnn, int64_t *own, const char **why)
{
    const device *d = p;
    *dnn = d->dnn_calls;
    *own = d->own_calls;
    *why = d->dnn_why;
}

static void *stream_of(void *p)
{
    return ((device *)p)->stream;
}
static int add_members(void *p, ns_dtype dt, int64_t n, void *own, const void *in, int64_t each, int members, int rank)
{
    nsk_add_members(((device *)p)->stream, dt == NS_DTYPE_BF16, n, own, in, each, members, rank);
    return cudaGetLastError() == cudaSuccess;
}

static void *host_alloc(int64_t bytes)
{
    void *p = NULL;
    const char *how = getenv("NS_CUDA_TEST_MEMORY");
    size_t n = bytes > 0 ? (size_t)bytes : 1;
    cudaError_t e = how && !strcmp(how, "managed") ? cudaMallocManaged(&p, n, cudaMemAttachGlobal)
                                                   : cudaHostAlloc(&p, n, cudaHostAllocMapped);
    return e == cudaSuccess ? p : NULL;
}
static void host_free(void *p)
{
    const char *how = getenv("NS_CUDA_TEST_MEMORY");
    (void)cudaDeviceSynchronize();
    (void)(how && !strcmp(how, "managed") ? cudaFree(p) : cudaFreeHost(p));
}

__attribute__((visibility("default"))) const ns_cuda_plugin *ns_cuda_plugin_get(void)
{
    static ns_cuda_plugin p = {NS_CUDA_ABI, 0,      &table,     NS_CUDA_ARCHS, open_device, close_device,
                               used,        served, host_alloc, host_free,     stream_of,   add_members};
    p.layout = ns_cuda_layout();
    return &p;
}
