/* Matrix products by cuBLASLt, which is opened at run time, and what is made of them: linear layers, in bf16, f32 and fp8, and the head.
 * Why an algorithm is the one it is: plugin.c, at the top. */
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "ops/cuda/device/plugin_priv.h"

#define BLAS_WORK ((int64_t)64 << 20) /* what cuBLASLt's best Hopper algorithms ask for at most: 32 MiB; a margin */
enum { N_PRODUCTS = 8192, N_TRIED = 8 };

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
struct product {
    product_key key;
    int used;
    cublasLtMatmulDesc_t desc;
    cublasLtMatrixLayout_t a, b, c;
    cublasLtMatmulAlgo_t algo;
    size_t work;
    int tuned;
};
/* The heuristic's answers to the last product made. */
static cublasLtMatmulHeuristicResult_t found[N_TRIED];
static int n_found;

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
                     ns_dtype out, void *C, int64_t ldc, int add, const void *bias,
                     int fast /* fp8: sums within the tensor cores alone */)
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
int64_t fp8_fwd_work(int64_t M, int64_t K)
{
    return NS_FP8_HEAD + M * K;
}
int64_t fp8_dgrad_work(int64_t M, int64_t N, int64_t K)
{
    return NS_FP8_HEAD + (M * N + 255) / 256 * 256 + N * K;
}
int64_t fp8_wgrad_work(int64_t M, int64_t N, int64_t K)
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
             a->dt, a->y, a->N, 0, a->b ? a->b->data : NULL, 1);
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
             factor8(row, a->N, kind, head), a->dt, a->dx, a->K, a->add_dx, NULL, !x->fp8_split);
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
             factor8(bytes8(dy8), M, kind, dy8), NS_DTYPE_F32, a->w->grad, a->K, !a->assign_dw, NULL, !x->fp8_split);
}

void linear_fwd(ns_exec *x, const ns_linear_args *a)
{
    if (!same_type(x, "linear_fwd", a->w, a->dt)) return;
    if (a->w->fp8) {
        linear8_fwd(x, a);
        return;
    }
    gemm(x, "linear_fwd", 1, 0, a->N, a->M, a->K, a->dt, a->w->data, a->K, a->x, a->K, a->dt, a->y, a->N, 0,
         a->b ? a->b->data : NULL);
}
void linear_dgrad(ns_exec *x, const ns_linear_args *a)
{
    if (!same_type(x, "linear_dgrad", a->w, a->dt)) return;
    if (a->w->fp8) {
        linear8_dgrad(x, a);
        return;
    }
    gemm(x, "linear_dgrad", 0, 0, a->K, a->M, a->N, a->dt, a->w->data, a->K, a->dy, a->N, a->dt, a->dx, a->K, a->add_dx,
         NULL);
}
void linear_wgrad(ns_exec *x, const ns_linear_args *a)
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

/* ---- weights are read as they are, but for fp8: panels_fwd has the cast, panels_dx (may be NULL) its transpose ---- */
void prepare(ns_exec *x, const ns_weight *w)
{
    if (!w->fp8 || !w->panels_fwd) return;
    cast8(x, NSK_E4M3, w->rows, w->cols, w->data, w->panels_fwd, bytes8(w->panels_fwd),
          w->panels_dx ? bytes8(w->panels_dx) : NULL);
}
void prepare_bytes(const ns_weight *w, int64_t *fwd, int64_t *dx)
{
    *fwd = w->fp8 ? ns_fp8_bytes(w->rows, w->cols) : 0;
    *dx = w->fp8 ? ns_fp8_bytes(w->cols, w->rows) : 0;
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
int64_t head_work(const device *d, int64_t T, int64_t V)
{
    return head_rows(d, T, V) * logit_stride(V) * 4 + (T + 8) * 8;
}

void head(ns_exec *x, const ns_head_args *a)
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

/* ---- opening ---- */
ns_status products_library(const ns_cuda_host *h, ns_cuda_info *info, ns_error *err)
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

cudaError_t products_open(device *d, int *blas_status)
{
    d->products = calloc(N_PRODUCTS, sizeof *d->products);
    if (!d->products) return cudaErrorMemoryAllocation;
    cudaError_t e = cudaMalloc(&d->blas_work, (size_t)BLAS_WORK);
    if (e == cudaSuccess) *blas_status = (int)blas.cublasLtCreate(&d->lt);
    return e;
}

void products_close(device *d)
{
    for (int i = 0; d->products && i < N_PRODUCTS; i++)
        if (d->products[i].used) drop_product(&d->products[i]);
    free(d->products);
    if (d->blas_work) (void)cudaFree(d->blas_work);
    if (d->lt) blas.cublasLtDestroy(d->lt);
}
