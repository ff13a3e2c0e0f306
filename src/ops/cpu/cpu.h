/* Private to cpu/: levels, scratch, and the functions of each file.
 *
 * Levels build on one another: "ref" is ns_ops_ref; "f32" does matrix work as f32 tiles (OpenBLAS or our own loop) and
 * spreads rows over the pool; "avx2" and "avx512" have their own f32 product and vector loops; "amx" multiplies bf16 in the tile unit.
 *
 * Every op cuts its work by shape alone and lets the pool deal the pieces, so bits never depend on the worker count.
 * exec.work = [shared | worker 0 | worker 1 | ...]; each op says how much of each it wants (ns_cpu_scratch). */
#ifndef NS_OPS_CPU_H
#define NS_OPS_CPU_H

#include "ops/ops.h"
#include "ops/ref/ref.h"

typedef enum ns_cpu_level { NS_CPU_REF, NS_CPU_F32, NS_CPU_AVX2, NS_CPU_AVX512, NS_CPU_AMX } ns_cpu_level;

static inline int64_t ns_cpu_up(int64_t n, int64_t to)
{
    return (n + to - 1) / to * to;
}
static inline int64_t ns_cpu_min(int64_t a, int64_t b)
{
    return a < b ? a : b;
}
static inline int64_t ns_cpu_max(int64_t a, int64_t b)
{
    return a > b ? a : b;
}

/* Scratch of one call. shared/per: bytes wanted (rounded up to 64). Returns 0 and sets exec.err if work is too small. */
typedef struct ns_cpu_scratch {
    char *shared, *workers;
    int64_t per;
} ns_cpu_scratch;
static inline int ns_cpu_get_scratch(ns_cpu_scratch *s, ns_exec *x, int64_t shared, int64_t per, const char *op)
{
    shared = ns_cpu_up(shared, 64);
    s->per = ns_cpu_up(per, 64);
    s->shared = x->work;
    s->workers = s->shared + shared;
    int64_t need = shared + s->per * ns_threads_count(x->pool);
    return need == 0 || ns_ref_work(x, need, op);
}
static inline void *ns_cpu_mine(const ns_cpu_scratch *s, int worker)
{
    return s->workers + s->per * worker;
}

/* ---- cpu_blas.c: C[m,n] = alpha op(A) op(B) + beta C, row-major, single-threaded, callable from any worker ---- */
void ns_cpu_sgemm(int ta, int tb, int64_t m, int64_t n, int64_t k, float alpha, const float *A, int64_t lda,
                  const float *B, int64_t ldb, float beta, float *C, int64_t ldc);
const char *ns_cpu_blas_name(void); /* "OpenBLAS ..." or "own loop" */

/* ---- cpu_vec.c, vec_tmpl.h: what one thread computes, by level ---- */
/* Operand of a product: element (row i of A or column i of B, k) is at i*ld + k, or at k*ld + i. */
typedef struct ns_cpu_operand {
    const void *p;
    ns_dtype dt;
    int64_t ld;
    int k_contiguous;
} ns_cpu_operand;

typedef struct ns_cpu_vec {
    /* C[m,n] f32 (+)= A B over k; scratch: gemm_scratch() bytes, 64-byte aligned */
    void (*gemm)(const ns_cpu_operand *a, const ns_cpu_operand *b, int64_t m, int64_t n, int64_t k, float *c,
                 int64_t ldc, int add, void *scratch);
    int64_t (*gemm_scratch)(void);
    /* dst[n] = src (+ bias) (+ dst) */
    void (*store_row)(void *dst, ns_dtype dt, const float *src, int64_t n, const float *bias, int add);
    /* sum over rows: s[n] += p[r*ld + i], r ascending */
    void (*sum_rows)(float *s, const void *p, ns_dtype dt, int64_t rows, int64_t ld, int64_t n);
    /* s = softcap(scale * s); returns the largest */
    float (*score_max)(float *s, int64_t n, float scale, float cap);
    /* s = exp(s - top); returns the sum */
    float (*exp_sum)(float *s, int64_t n, float top);
    /* s: q.k -> p = exp(softcap(scale s) - lse);  dp -> d(q.k) = p (dp - D) softcap' scale */
    void (*attn_grad)(float *s, float *dp, int64_t n, float scale, float cap, float lse, float D);
    /* Row of raw logits z[n] (destroyed) -> returns CE of label. scale != 0: d[n] (type dt, may be z) = gradient. */
    double (*head_row)(float *z, int64_t n, int64_t label, float scale, float cap, void *d, ns_dtype dt);
    float (*dot)(const void *a, const void *b, ns_dtype dt, int64_t n);
    void (*scaled)(void *dst, ns_dtype dt, const float *src, int64_t n, float scale); /* dst = scale * src */
} ns_cpu_vec;
extern const ns_cpu_vec ns_cpu_vec_plain, ns_cpu_vec_avx2, ns_cpu_vec_avx512;

/* ---- cpu_linear.c: any mix of types by f32 tiles ---- */
/* out[m,n] (type dt) (+)= A B (+ bias) over the pool. Worker scratch lies after the first `shared` bytes of exec.work. */
void ns_cpu_gemm(ns_exec *x, const ns_cpu_vec *v, int64_t shared, ns_cpu_operand a, ns_cpu_operand b, int64_t m,
                 int64_t n, int64_t k, void *out, ns_dtype dt, int add, const ns_weight *bias);
void ns_cpu_linear_fwd(ns_exec *x, const ns_linear_args *a, const ns_cpu_vec *v);
void ns_cpu_linear_dgrad(ns_exec *x, const ns_linear_args *a, const ns_cpu_vec *v);
void ns_cpu_linear_wgrad(ns_exec *x, const ns_linear_args *a, const ns_cpu_vec *v);
void ns_cpu_bias_grad(ns_exec *x, const ns_linear_args *a, const ns_cpu_vec *v);
int64_t ns_cpu_linear_work(int workers, const ns_cpu_vec *v);

/* ---- cpu_attn.c: blocks of f32, any type ---- */
void ns_cpu_attn_fwd(ns_exec *x, const ns_attn_args *a, const ns_cpu_vec *v);
void ns_cpu_attn_bwd(ns_exec *x, const ns_attn_args *a, const ns_cpu_vec *v);
int64_t ns_cpu_attn_work(int workers, const ns_cpu_vec *v, int64_t T, int64_t max_len, int64_t head_dim);

/* Segments and blocks of query rows, shared by both attention files. */
typedef struct ns_cpu_seg {
    int64_t q0, nq, k0, nk;
} ns_cpu_seg;
static inline ns_cpu_seg ns_cpu_segment(const ns_attn_args *a, int64_t s)
{
    ns_cpu_seg g = {a->cu_q[s], a->cu_q[s + 1] - a->cu_q[s], 0, 0};
    g.k0 = a->kv_start ? a->kv_start[s] : g.q0;
    g.nk = a->kv_len ? a->kv_len[s] : g.nq;
    return g;
}
/* Query row i of the segment sees key rows [*lo, *hi); hi <= lo: none. */
static inline void ns_cpu_visible(const ns_attn_args *a, const ns_cpu_seg *g, int64_t i, int64_t *lo, int64_t *hi)
{
    int64_t last = i + g->nk - g->nq;
    *lo = a->window > 0 ? ns_cpu_max(0, last - a->window + 1) : 0;
    *hi = a->causal ? ns_cpu_min(g->nk, last + 1) : g->nk;
}
void ns_cpu_attn_zero_tail(ns_exec *x, const ns_attn_args *a, int backward);
/* first[s] = number of blocks of `block` query rows before segment s; returns the total */
int64_t ns_cpu_attn_blocks(const ns_attn_args *a, int64_t block, int32_t *first);
int64_t ns_cpu_attn_find(const ns_attn_args *a, const int32_t *first, int64_t i); /* segment of block i */

/* ---- cpu_head.c: chunks of live tokens; the three products come from the level ---- */
typedef struct ns_cpu_head_gemms {
    ns_dtype dlogit; /* type in which d logits reach dgrad and wgrad */
    /* logits[m,V] f32 = x W^T;  dx[m,C] = dlogits W;  W.grad[V,C] += dlogits^T x. Scratch after `shared` bytes of work. */
    void (*fwd)(ns_exec *, const ns_cpu_vec *, int64_t shared, const ns_head_args *, int64_t m, const void *x,
                float *logits);
    void (*dgrad)(ns_exec *, const ns_cpu_vec *, int64_t shared, const ns_head_args *, int64_t m, const void *dlogits,
                  void *dx);
    void (*wgrad)(ns_exec *, const ns_cpu_vec *, int64_t shared, const ns_head_args *, int64_t m, const void *dlogits,
                  const void *x);
} ns_cpu_head_gemms;
extern const ns_cpu_head_gemms ns_cpu_head_f32;
void ns_cpu_head(ns_exec *x, const ns_head_args *a, const ns_cpu_head_gemms *g, const ns_cpu_vec *v);
int64_t ns_cpu_head_rows(int64_t T, int64_t V);              /* tokens of a chunk */
int64_t ns_cpu_head_shared(int64_t T, int64_t C, int64_t V); /* shared bytes; gemm scratch comes on top */

/* ---- simd_avx2.c, simd_avx512.c: serial row ops and the f32 product, from *_tmpl.h ---- */
#define NS_CPU_SIMD(isa)                                                                                              \
    void ns_##isa##_norm_fwd(ns_exec *x, const ns_norm_args *a);                                                      \
    void ns_##isa##_norm_bwd(ns_exec *x, const ns_norm_bwd_args *a);                                                  \
    void ns_##isa##_rope(ns_exec *x, const ns_rope_args *a);                                                          \
    void ns_##isa##_act_fwd(ns_exec *x, const ns_act_args *a);                                                        \
    void ns_##isa##_act_bwd(ns_exec *x, const ns_act_args *a);                                                        \
    void ns_##isa##_add(ns_exec *x, const ns_add_args *a);                                                            \
    void ns_##isa##_adamw(ns_exec *x, const ns_opt_args *a);                                                          \
    double ns_##isa##_sumsq(const float *g, int64_t n);                                                               \
    void ns_##isa##_gemm(const ns_cpu_operand *a, const ns_cpu_operand *b, int64_t m, int64_t n, int64_t k, float *c, \
                         int64_t ldc, int add, void *scratch);                                                        \
    int64_t ns_##isa##_gemm_scratch(void);
NS_CPU_SIMD(avx2)
NS_CPU_SIMD(avx512)

/* ---- linear_amx.c, attn_amx.c: bf16 on the tile unit; other types and missing panels fall back on f32 tiles ---- */
void ns_amx_prepare_bytes(const ns_weight *w, int64_t *fwd, int64_t *dx);
void ns_amx_prepare(ns_exec *x, const ns_weight *w);
void ns_amx_linear_fwd(ns_exec *x, const ns_linear_args *a);
void ns_amx_linear_dgrad(ns_exec *x, const ns_linear_args *a);
void ns_amx_linear_wgrad(ns_exec *x, const ns_linear_args *a);
void ns_amx_head(ns_exec *x, const ns_head_args *a, const ns_cpu_vec *v);
void ns_amx_attn_fwd(ns_exec *x, const ns_attn_args *a);
void ns_amx_attn_bwd(ns_exec *x, const ns_attn_args *a);
int64_t ns_amx_attn_work(int workers, int64_t T, int64_t max_len, int64_t head_dim);
int64_t ns_amx_work(int workers, int64_t T, int64_t wide, int64_t narrow, int64_t C, int64_t V);

/* ---- cpu_rows.c: cut rows (or elements) into fixed blocks and run a serial op on each ---- */
void ns_cpu_norm_fwd(ns_exec *x, const ns_norm_args *a, void (*serial)(ns_exec *, const ns_norm_args *));
void ns_cpu_norm_bwd(ns_exec *x, const ns_norm_bwd_args *a, void (*serial)(ns_exec *, const ns_norm_bwd_args *));
void ns_cpu_rope(ns_exec *x, const ns_rope_args *a, void (*serial)(ns_exec *, const ns_rope_args *));
void ns_cpu_act(ns_exec *x, const ns_act_args *a, void (*serial)(ns_exec *, const ns_act_args *));
void ns_cpu_dropout(ns_exec *x, const ns_dropout_args *a, void (*serial)(ns_exec *, const ns_dropout_args *));
void ns_cpu_add(ns_exec *x, const ns_add_args *a, void (*serial)(ns_exec *, const ns_add_args *));
void ns_cpu_attn_merge(ns_exec *x, const ns_attn_merge_args *a); /* cpu_ring.c */
void ns_cpu_sum_rows(ns_exec *x, const ns_sum_rows_args *a);
void ns_cpu_embed_fwd(ns_exec *x, const ns_embed_args *a);
void ns_cpu_embed_bwd(ns_exec *x, const ns_embed_args *a);
void ns_cpu_zero(ns_exec *x, const ns_fill_args *a);
/* sum of squares of n f32 in double, in an order fixed by n; AdamW on elements [0, n) of one item */
void ns_cpu_grad_sumsq(ns_exec *x, const ns_opt_args *a, double (*serial)(const float *g, int64_t n));
void ns_cpu_adamw(ns_exec *x, const ns_opt_args *a, void (*serial)(ns_exec *, const ns_opt_args *));
double ns_cpu_sumsq(const float *g, int64_t n);
int64_t ns_cpu_rows_work(int64_t C);

#endif
