/* Attention in blocks of f32 (FlashAttention-2, Dao 2023): forward by (segment, head, QB query rows) with a running maximum
 * over blocks of KB keys; backward by (segment, kv head), which owns dk and dv of its keys, so that nothing is shared. */
#include "ops/cpu/cpu.h"

#include <math.h>
#include <string.h>

enum { QB = 128, KB = 256 };

static int64_t fwd_per(const ns_cpu_vec *v, int64_t hd)
{
    return ns_cpu_up((QB * hd + QB * KB + 2 * QB) * 4, 64) + v->gemm_scratch();
}
static int64_t bwd_per(const ns_cpu_vec *v, int64_t max_kv, int64_t hd)
{
    return ns_cpu_up((QB * hd + 2 * QB * KB + 2 * max_kv * hd) * 4, 64) + v->gemm_scratch();
}

int64_t ns_cpu_attn_work(int workers, const ns_cpu_vec *v, int64_t T, int64_t max_len, int64_t hd)
{
    int64_t per = ns_cpu_max(fwd_per(v, hd), bwd_per(v, max_len, hd));
    return ns_cpu_up((T + 2) * 4, 64) + workers * ns_cpu_up(per, 64);
}

int64_t ns_cpu_attn_blocks(const ns_attn_args *a, int64_t block, int32_t *first)
{
    int64_t n = 0;
    for (int64_t s = 0; s < a->n_seg; s++) {
        first[s] = (int32_t)n;
        n += (a->cu_q[s + 1] - a->cu_q[s] + block - 1) / block;
    }
    first[a->n_seg] = (int32_t)n;
    return n;
}

int64_t ns_cpu_attn_find(const ns_attn_args *a, const int32_t *first, int64_t i)
{
    int64_t lo = 0, hi = a->n_seg; /* first[lo] <= i < first[hi] */
    while (hi - lo > 1) {
        int64_t mid = (lo + hi) / 2;
        if (first[mid] <= i)
            lo = mid;
        else
            hi = mid;
    }
    return lo; /* empty segments have no block: the last with first <= i owns it */
}

static void zero_rows(void *p, ns_dtype dt, int64_t t0, int64_t T, int64_t stride, int64_t cols)
{
    int64_t e = (int64_t)ns_dtype_size(dt);
    for (int64_t t = t0; p && t < T; t++) memset((char *)p + t * stride * e, 0, (size_t)(cols * e));
}

void ns_cpu_attn_zero_tail(ns_exec *x, const ns_attn_args *a, int backward)
{
    int64_t live = a->n_seg > 0 ? a->cu_q[a->n_seg] : 0, q = a->n_heads * a->head_dim, kv = a->n_kv * a->head_dim;
    (void)x;
    if (!backward) {
        zero_rows(a->out, a->dt, live, a->T, q, q);
        for (int64_t h = 0; a->lse && h < a->n_heads; h++)
            for (int64_t t = live; t < a->T; t++) a->lse[h * a->T + t] = 0;
        return;
    }
    zero_rows(a->dq, a->dt, live, a->T, a->q_stride, q);
    if (a->kv_start) return;
    zero_rows(a->dk, a->dt, live, a->T, a->k_stride, kv);
    zero_rows(a->dv, a->dt, live, a->T, a->v_stride, kv);
}

typedef struct job {
    const ns_exec *x;
    const ns_attn_args *a;
    const ns_cpu_vec *v;
    ns_cpu_scratch scratch;
    const int32_t *first;
} job;

/* Rows from r0 of one head, as an operand: k runs over the head's dimensions, or over the rows. */
static ns_cpu_operand rows(const job *j, const void *p, int64_t stride, int64_t r0, int64_t head, int k_is_dim)
{
    int64_t e = (int64_t)ns_dtype_size(j->a->dt);
    return (ns_cpu_operand){(const char *)p + (r0 * stride + head * j->a->head_dim) * e, j->a->dt, stride, k_is_dim};
}
static ns_cpu_operand block(const float *p, int64_t ld, int k_contiguous)
{
    return (ns_cpu_operand){p, NS_DTYPE_F32, ld, k_contiguous};
}
static void mul(const job *j, ns_cpu_operand a, ns_cpu_operand b, int64_t m, int64_t n, int64_t k, float *c,
                int64_t ldc, int add, void *scratch)
{
    j->v->gemm(&a, &b, m, n, k, c, ldc, add, scratch);
}

/* Key blocks that some of the query rows [i0, i0 + n) see: [*lo, *hi). */
static void key_range(const ns_attn_args *a, const ns_cpu_seg *g, int64_t i0, int64_t n, int64_t *lo, int64_t *hi)
{
    int64_t ignore;
    ns_cpu_visible(a, g, i0, lo, &ignore);
    ns_cpu_visible(a, g, i0 + n - 1, &ignore, hi);
}

static void *out_row(const ns_attn_args *a, void *p, int64_t t, int64_t h)
{
    return (char *)p + (t * a->n_heads + h) * a->head_dim * (int64_t)ns_dtype_size(a->dt);
}

/* What drop() (ops.h) multiplies with: query row (absolute), head h, keys [k, k + n) of the segment. */
static void keep_factors(const job *j, int64_t row, int64_t h, int64_t k, int64_t n, float *keep)
{
    const ns_attn_args *a = j->a;
    const float scale = 1.0f / (1.0f - a->dropout);
    uint32_t word[4], ctr[4] = {0, a->token ? a->token[row] : (uint32_t)row, j->x->step->dropout_step,
                                a->op << 24 | (uint32_t)(a->head0 + h) << 12 | a->layer};
    NS_ASSERT(a->layer < 4096 && a->head0 + h < 4096 && a->op < 256 && k + n <= UINT32_MAX);
    for (int64_t i = 0; i < n; i++) {
        if (i == 0 || (k + i) % 4 == 0) {
            ctr[0] = (uint32_t)((k + i) / 4);
            ns_philox(word, ctr, j->x->key);
        }
        keep[i] = ns_u32_to_unit(word[(k + i) % 4]) >= a->dropout ? scale : 0.0f;
    }
}
static void times(float *p, const float *keep, int64_t n)
{
    for (int64_t i = 0; i < n; i++) p[i] *= keep[i];
}

/* One block of keys folded into the running rows: o, top, sum. s: [n, KB] raw products. */
static void fold(const job *j, const ns_cpu_seg *g, int64_t i0, int64_t n, int64_t k0, int64_t nk, int64_t h, float *s,
                 float *o, float *top, float *sum)
{
    const ns_attn_args *a = j->a;
    float keep[KB];
    for (int64_t i = 0; i < n; i++) {
        int64_t lo, hi;
        float *row = s + i * KB;
        ns_cpu_visible(a, g, i0 + i, &lo, &hi);
        lo = ns_cpu_min(ns_cpu_max(lo - k0, 0), nk), hi = ns_cpu_max(lo, ns_cpu_min(hi - k0, nk));
        memset(row, 0, (size_t)lo * 4);
        memset(row + hi, 0, (size_t)(nk - hi) * 4);
        if (hi == lo) continue;
        float m = j->v->score_max(row + lo, hi - lo, a->scale, a->softcap);
        if (m <= top[i]) m = top[i];
        float shrink = sum[i] > 0 ? expf(top[i] - m) : 0;
        sum[i] = sum[i] * shrink + j->v->exp_sum(row + lo, hi - lo, m);
        top[i] = m;
        if (a->dropout > 0) {
            keep_factors(j, g->q0 + i0 + i, h, k0 + lo, hi - lo, keep);
            times(row + lo, keep, hi - lo);
        }
        if (shrink != 1)
            for (int64_t d = 0; d < a->head_dim; d++) o[i * a->head_dim + d] *= shrink;
    }
}

static void fwd_tile(void *arg, int t, int worker)
{
    const job *j = arg;
    const ns_attn_args *a = j->a;
    int64_t hd = a->head_dim, h = t % a->n_heads, blk = t / a->n_heads, seg = ns_cpu_attn_find(a, j->first, blk);
    ns_cpu_seg g = ns_cpu_segment(a, seg);
    int64_t i0 = (blk - j->first[seg]) * QB, n = ns_cpu_min(QB, g.nq - i0), kv = h / (a->n_heads / a->n_kv), lo, hi;
    float *o = ns_cpu_mine(&j->scratch, worker), *s = o + QB * hd, *top = s + QB * KB, *sum = top + QB;
    void *scratch = (char *)o + ns_cpu_up((QB * hd + QB * KB + 2 * QB) * 4, 64);
    memset(o, 0, (size_t)(n * hd) * 4);
    for (int64_t i = 0; i < n; i++) top[i] = -INFINITY, sum[i] = 0;
    key_range(a, &g, i0, n, &lo, &hi);
    for (int64_t k0 = lo; k0 < hi; k0 += KB) {
        int64_t nk = ns_cpu_min(KB, hi - k0);
        mul(j, rows(j, a->q, a->q_stride, g.q0 + i0, h, 1), rows(j, a->k, a->k_stride, g.k0 + k0, kv, 1), n, nk, hd, s,
            KB, 0, scratch);
        fold(j, &g, i0, n, k0, nk, h, s, o, top, sum);
        mul(j, block(s, KB, 1), rows(j, a->v, a->v_stride, g.k0 + k0, kv, 0), n, hd, nk, o, hd, 1, scratch);
    }
    for (int64_t i = 0; i < n; i++) {
        int64_t row = g.q0 + i0 + i;
        j->v->scaled(out_row(a, a->out, row, h), a->dt, o + i * hd, hd, sum[i] > 0 ? 1 / sum[i] : 0);
        if (a->lse) a->lse[h * a->T + row] = sum[i] > 0 ? top[i] + logf(sum[i]) : -INFINITY;
    }
}

void ns_cpu_attn_fwd(ns_exec *x, const ns_attn_args *a, const ns_cpu_vec *v)
{
    job j = {.x = x, .a = a, .v = v};
    if (!ns_cpu_get_scratch(&j.scratch, x, (a->n_seg + 1) * 4, fwd_per(v, a->head_dim), "attn_fwd")) return;
    j.first = (int32_t *)j.scratch.shared;
    int64_t n = ns_cpu_attn_blocks(a, QB, (int32_t *)j.scratch.shared);
    ns_parallel_for(x->pool, (int)(n * a->n_heads), fwd_tile, &j);
    ns_cpu_attn_zero_tail(x, a, 0);
}

typedef struct bwd_bufs {
    float *dq, *s, *dp, *dk, *dv;
    void *scratch;
} bwd_bufs;

/* p (kept, for dv) and ds of rows [i0, i0+n) against keys [k0, k0+nk), in place of q.k and dout.v; zero where masked. */
static void grads(const job *j, const ns_cpu_seg *g, int64_t i0, int64_t n, int64_t k0, int64_t nk, int64_t h, float *s,
                  float *dp)
{
    const ns_attn_args *a = j->a;
    float keep[KB];
    for (int64_t i = 0; i < n; i++) {
        int64_t lo, hi, row = g->q0 + i0 + i;
        ns_cpu_visible(a, g, i0 + i, &lo, &hi);
        lo = ns_cpu_min(ns_cpu_max(lo - k0, 0), nk), hi = ns_cpu_max(lo, ns_cpu_min(hi - k0, nk));
        float D =
            j->v->dot(out_row(a, (void *)(uintptr_t)a->dout, row, h), out_row(a, a->out, row, h), a->dt, a->head_dim);
        float *sr = s + i * KB, *dr = dp + i * KB;
        memset(sr, 0, (size_t)lo * 4), memset(sr + hi, 0, (size_t)(nk - hi) * 4);
        memset(dr, 0, (size_t)lo * 4), memset(dr + hi, 0, (size_t)(nk - hi) * 4);
        if (hi == lo) continue;
        if (a->dropout > 0) {
            keep_factors(j, row, h, k0 + lo, hi - lo, keep);
            times(dr + lo, keep, hi - lo);
        }
        j->v->attn_grad(sr + lo, dr + lo, hi - lo, a->scale, a->softcap, a->lse[h * a->T + row], D);
        if (a->dropout > 0) times(sr + lo, keep, hi - lo);
    }
}

/* QB query rows of one head against all keys they see. */
static void bwd_block(const job *j, const ns_cpu_seg *g, int64_t i0, int64_t h, const bwd_bufs *b)
{
    const ns_attn_args *a = j->a;
    int64_t hd = a->head_dim, n = ns_cpu_min(QB, g->nq - i0), kv = h / (a->n_heads / a->n_kv), lo, hi, q0 = g->q0 + i0;
    key_range(a, g, i0, n, &lo, &hi);
    memset(b->dq, 0, (size_t)(n * hd) * 4);
    for (int64_t k0 = lo; k0 < hi; k0 += KB) {
        int64_t nk = ns_cpu_min(KB, hi - k0), kr = g->k0 + k0;
        mul(j, rows(j, a->q, a->q_stride, q0, h, 1), rows(j, a->k, a->k_stride, kr, kv, 1), n, nk, hd, b->s, KB, 0,
            b->scratch);
        mul(j, rows(j, a->dout, a->n_heads * hd, q0, h, 1), rows(j, a->v, a->v_stride, kr, kv, 1), n, nk, hd, b->dp, KB,
            0, b->scratch);
        grads(j, g, i0, n, k0, nk, h, b->s, b->dp);
        mul(j, block(b->s, KB, 0), rows(j, a->dout, a->n_heads * hd, q0, h, 0), nk, hd, n, b->dv + k0 * hd, hd, 1,
            b->scratch);
        mul(j, block(b->dp, KB, 0), rows(j, a->q, a->q_stride, q0, h, 0), nk, hd, n, b->dk + k0 * hd, hd, 1,
            b->scratch);
        mul(j, block(b->dp, KB, 1), rows(j, a->k, a->k_stride, kr, kv, 0), n, hd, nk, b->dq, hd, 1, b->scratch);
    }
    int64_t e = (int64_t)ns_dtype_size(a->dt);
    for (int64_t i = 0; i < n; i++)
        j->v->scaled((char *)a->dq + ((q0 + i) * a->q_stride + h * hd) * e, a->dt, b->dq + i * hd, hd, 1);
}

static void bwd_tile(void *arg, int t, int worker)
{
    const job *j = arg;
    const ns_attn_args *a = j->a;
    ns_cpu_seg g = ns_cpu_segment(a, t / a->n_kv);
    int64_t hd = a->head_dim, kv = t % a->n_kv, group = a->n_heads / a->n_kv, e = (int64_t)ns_dtype_size(a->dt);
    float *m = ns_cpu_mine(&j->scratch, worker);
    bwd_bufs b = {.dq = m, .s = m + QB * hd, .dp = m + QB * hd + QB * KB, .dk = m + QB * hd + 2 * QB * KB};
    b.dv = b.dk + g.nk * hd;
    b.scratch = (char *)m + ns_cpu_up((QB * hd + 2 * QB * KB + 2 * a->max_kv * hd) * 4, 64);
    memset(b.dk, 0, (size_t)(2 * g.nk * hd) * 4);
    for (int64_t h = kv * group; h < (kv + 1) * group; h++)
        for (int64_t i0 = 0; i0 < g.nq; i0 += QB) bwd_block(j, &g, i0, h, &b);
    for (int64_t k = 0; k < g.nk; k++) {
        j->v->scaled((char *)a->dk + ((g.k0 + k) * a->k_stride + kv * hd) * e, a->dt, b.dk + k * hd, hd, 1);
        j->v->scaled((char *)a->dv + ((g.k0 + k) * a->v_stride + kv * hd) * e, a->dt, b.dv + k * hd, hd, 1);
    }
}

void ns_cpu_attn_bwd(ns_exec *x, const ns_attn_args *a, const ns_cpu_vec *v)
{
    job j = {.x = x, .a = a, .v = v};
    if (!ns_cpu_get_scratch(&j.scratch, x, 0, bwd_per(v, a->max_kv, a->head_dim), "attn_bwd")) return;
    ns_parallel_for(x->pool, (int)(a->n_seg * a->n_kv), bwd_tile, &j);
    ns_cpu_attn_zero_tail(x, a, 1);
}
