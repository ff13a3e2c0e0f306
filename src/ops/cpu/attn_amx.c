/* Attention in bf16 on the tile unit, heads of 32, 64, 96, ... dimensions (else cpu_attn.c). Same cut and same formulas as
 * there; the products run on 32x32 blocks, scores and their gradients are f32 rows in cache, and the probabilities p and
 * the score gradients ds are rounded to bf16 as factors of the next product.
 *
 *   S = Q K^T      A = rows of Q      B = "kt": panels of 32 keys over hd          dP = dO V^T: the same with "vt"
 *   O += P V       A = rows of P      B = "vb": panels of 32 dims over keys        dQ += dS K:  the same with "kb"
 *   dV += P^T dO   A = P^T, packed    B = "ob": panels of 32 dims over query rows  dK += dS^T Q: the same with "qb"
 *
 * Blocks that the mask empties are skipped: the query panels that see a key panel are one range, and so the reverse. */
#include "ops/cpu/amx.h"

#include <math.h>

enum { QB = 128, KB = 256, QP = QB / 32 };

typedef struct job {
    const ns_attn_args *a;
    const int32_t *first;
    ns_cpu_scratch scratch;
} job;

/* Worker scratch. Rows of s, dp: KB floats; of p, ds: KB bf16. */
typedef struct bufs {
    bf16 *kt, *vt, *kb, *vb, *q, *dout, *qb, *ob, *p, *ds, *at;
    float *s, *dp, *o, *dk, *dv, *top, *sum;
    char *end;
} bufs;

static bufs lay_out(char *at, int64_t max_kv, int64_t hd, int backward)
{
    bufs b = {0};
    int64_t keys = ns_cpu_up(max_kv, 32) * hd;
#define TAKE(name, n, type) b.name = (type *)at, at += (n) * (int64_t)sizeof(type)
    TAKE(kt, keys, bf16);
    if (backward) {
        TAKE(vt, keys, bf16);
        TAKE(kb, keys, bf16);
        TAKE(dout, QB * hd, bf16);
        TAKE(qb, QB * hd, bf16);
        TAKE(ob, QB * hd, bf16);
        TAKE(ds, QB * KB, bf16);
        TAKE(at, QP * STEP, bf16);
        TAKE(dp, QB * KB, float);
        TAKE(dk, keys, float);
        TAKE(dv, keys, float);
    } else {
        TAKE(vb, keys, bf16);
        TAKE(top, QB, float);
        TAKE(sum, QB, float);
    }
    TAKE(q, QB * hd, bf16);
    TAKE(p, QB * KB, bf16);
    TAKE(s, QB * KB, float);
    TAKE(o, QB * hd, float);
#undef TAKE
    b.end = at;
    return b;
}

static int64_t per_worker(int64_t max_kv, int64_t hd, int backward)
{
    char *base = (char *)(uintptr_t)64; /* never dereferenced */
    return lay_out(base, max_kv, hd, backward).end - base;
}

int64_t ns_amx_attn_work(int workers, int64_t T, int64_t max_len, int64_t hd)
{
    hd = ns_cpu_up(hd, 32);
    return ns_cpu_up((T + 2) * 4, 64) + workers * ns_cpu_max(per_worker(max_len, hd, 0), per_worker(max_len, hd, 1));
}

/* Panels of 32 rows over hd from rows [r0, r0+n): as A (rows of the product) or as B^T (columns of it). */
static void pack_rows(bf16 *dst, const bf16 *src, int64_t ld, int64_t n, int64_t hd, int as_b)
{
    for (int64_t r = 0; r < n; r += 32) {
        for (int64_t d = 0; d < hd; d += 32, dst += STEP) {
            if (as_b)
                pack_bt(dst, src + r * ld + d, ld, n - r, 32);
            else
                pack_a(dst, src + r * ld + d, ld, n - r, 32);
        }
    }
}

/* Panels of 32 dims over rows [r0, r0+n): step r of panel d at dst[(d * steps + r) * STEP]. */
static void pack_dims(bf16 *dst, const bf16 *src, int64_t ld, int64_t n, int64_t hd, int64_t steps)
{
    for (int64_t d = 0; d < hd; d += 32)
        for (int64_t r = 0; r < n; r += 32)
            pack_b(dst + (d / 32 * steps + r / 32) * STEP, src + r * ld + d, ld, n - r, 32);
}

static const bf16 *head_rows(const void *p, int64_t stride, int64_t row, int64_t head, int64_t hd)
{
    return (const bf16 *)p + row * stride + head * hd;
}

/* Keys that rows [i, i+n) of the segment see, as a range of 32-key panels. */
static void panel_range(const ns_attn_args *a, const ns_cpu_seg *g, int64_t i, int64_t n, int64_t *lo, int64_t *hi)
{
    int64_t ignore;
    n = ns_cpu_min(n, g->nq - i);
    ns_cpu_visible(a, g, i, lo, &ignore);
    ns_cpu_visible(a, g, i + n - 1, &ignore, hi);
    *lo = *lo / 32, *hi = *hi > 0 ? (*hi + 31) / 32 : 0;
}

/* s[32 x 32 of each visible panel] = rows (A, panels over hd) times keys (B) for panels [p0, p1) of the chunk's keys. */
static void scores(const ns_attn_args *a, const ns_cpu_seg *g, int64_t i0, int64_t n, int64_t p0, int64_t p1,
                   const bf16 *rows, const bf16 *keys, float *s)
{
    int64_t steps = a->head_dim / 32, lo, hi;
    for (int64_t q = 0; q * 32 < n; q++) {
        panel_range(a, g, i0 + q * 32, 32, &lo, &hi);
        for (int64_t p = ns_cpu_max(lo, p0); p < ns_cpu_min(hi, p1); p++) {
            amx_zero();
            amx_mul(rows + q * steps * STEP, keys + p * steps * STEP, steps);
            amx_store(s + q * 32 * KB + (p - p0) * 32, KB);
        }
    }
}

/* out[q panel, hd] += (bf16 rows of KB) times (panels of 32 dims over keys) on the panels that the rows see. */
static void times_keys(const ns_attn_args *a, const ns_cpu_seg *g, int64_t i0, int64_t n, int64_t p0, int64_t p1,
                       const bf16 *rows, const bf16 *keys, int64_t steps, float *out)
{
    int64_t hd = a->head_dim, lo, hi;
    for (int64_t q = 0; q * 32 < n; q++) {
        panel_range(a, g, i0 + q * 32, 32, &lo, &hi);
        lo = ns_cpu_max(lo, p0), hi = ns_cpu_min(hi, p1);
        for (int64_t d = 0; d < hd && lo < hi; d += 32) {
            amx_load(out + q * 32 * hd + d, hd);
            amx_mul_rows(rows + q * 32 * KB + (lo - p0) * 32, KB, keys + (d / 32 * steps + lo) * STEP, hi - lo);
            amx_store(out + q * 32 * hd + d, hd);
        }
    }
}

/* dst[32 keys, hd] += rows^T (32 keys x query rows) times (panels of 32 dims over query rows), for each key panel. */
static void times_queries(const ns_attn_args *a, const ns_cpu_seg *g, int64_t i0, int64_t n, int64_t p0, int64_t p1,
                          const bf16 *rows, const bf16 *dims, bf16 *at, float *dst)
{
    int64_t hd = a->head_dim, lo, hi;
    for (int64_t p = p0; p < p1; p++) {
        int64_t q0 = QP, q1 = 0; /* query panels that see this key panel */
        for (int64_t q = 0; q * 32 < n; q++) {
            panel_range(a, g, i0 + q * 32, 32, &lo, &hi);
            if (p < lo || p >= hi) continue;
            q0 = ns_cpu_min(q0, q), q1 = q + 1;
        }
        for (int64_t q = q0; q < q1; q++) pack_at(at + q * STEP, rows + q * 32 * KB + (p - p0) * 32, KB, 32, 32);
        for (int64_t d = 0; d < hd && q0 < q1; d += 32) {
            amx_load(dst + p * 32 * hd + d, hd);
            amx_mul(at + q0 * STEP, dims + (d / 32 * QP + q0) * STEP, q1 - q0);
            amx_store(dst + p * 32 * hd + d, hd);
        }
    }
}

/* dst[0, n) = src as bf16 on [lo, hi), 0 elsewhere; n a multiple of 32. */
static void round_row(bf16 *dst, const float *src, int64_t lo, int64_t hi, int64_t n)
{
    for (int64_t i = 0; i < n; i += 16) {
        __mmask16 m = mask16(hi - i) & (__mmask16)~mask16(lo - i);
        __m512 v = _mm512_maskz_loadu_ps(m, src + i);
        _mm256_store_si256((__m256i *)(dst + i), (__m256i)_mm512_cvtneps_pbh(v));
    }
}

/* Row i's visible part of the chunk [k0, k0 + nk): [*lo, *hi), empty as lo == hi. */
static void clip_row(const ns_attn_args *a, const ns_cpu_seg *g, int64_t i, int64_t k0, int64_t nk, int64_t *lo,
                     int64_t *hi)
{
    ns_cpu_visible(a, g, i, lo, hi);
    *lo = ns_cpu_min(ns_cpu_max(*lo - k0, 0), nk), *hi = ns_cpu_max(*lo, ns_cpu_min(*hi - k0, nk));
}

static void out_rows(void *dst, int64_t stride, const float *src, int64_t hd, int64_t n)
{
    for (int64_t i = 0; i < n; i++)
        ns_cpu_vec_avx512.scaled((bf16 *)dst + i * stride, NS_DTYPE_BF16, src + i * hd, hd, 1);
}

/* ---- forward ---- */

/* Softmax of a chunk folded into the running rows; leaves bf16 p. */
static void fold(const ns_attn_args *a, const ns_cpu_seg *g, int64_t i0, int64_t n, int64_t k0, int64_t nk,
                 const bufs *b)
{
    int64_t hd = a->head_dim, wide = ns_cpu_up(nk, 32);
    memset(b->p + n * KB, 0, (size_t)((ns_cpu_up(n, 32) - n) * KB) * 2);
    for (int64_t i = 0; i < n; i++) {
        int64_t lo, hi;
        float *row = b->s + i * KB;
        clip_row(a, g, i0 + i, k0, nk, &lo, &hi);
        if (hi > lo) {
            float m = ns_cpu_vec_avx512.score_max(row + lo, hi - lo, a->scale, a->softcap);
            if (m <= b->top[i]) m = b->top[i];
            float shrink = b->sum[i] > 0 ? expf(b->top[i] - m) : 0;
            b->sum[i] = b->sum[i] * shrink + ns_cpu_vec_avx512.exp_sum(row + lo, hi - lo, m);
            b->top[i] = m;
            if (shrink != 1) ns_cpu_vec_avx512.scaled(b->o + i * hd, NS_DTYPE_F32, b->o + i * hd, hd, shrink);
        }
        round_row(b->p + i * KB, row, lo, hi, wide);
    }
}

static void fwd_head(const ns_attn_args *a, const ns_cpu_seg *g, int64_t i0, int64_t h, const bufs *b)
{
    int64_t hd = a->head_dim, n = ns_cpu_min(QB, g->nq - i0), lo, hi, row = g->q0 + i0;
    pack_rows(b->q, head_rows(a->q, a->q_stride, row, h, hd), a->q_stride, n, hd, 0);
    memset(b->o, 0, (size_t)(QB * hd) * 4);
    for (int64_t i = 0; i < n; i++) b->top[i] = -INFINITY, b->sum[i] = 0;
    panel_range(a, g, i0, n, &lo, &hi);
    for (int64_t p = lo; p < hi; p += KB / 32) {
        int64_t p1 = ns_cpu_min(hi, p + KB / 32), nk = ns_cpu_min(p1 * 32, g->nk) - p * 32;
        scores(a, g, i0, n, p, p1, b->q, b->kt, b->s);
        fold(a, g, i0, n, p * 32, nk, b);
        times_keys(a, g, i0, n, p, p1, b->p, b->vb, (g->nk + 31) / 32, b->o);
    }
    for (int64_t i = 0; i < n; i++) {
        float s = b->sum[i];
        ns_cpu_vec_avx512.scaled((bf16 *)a->out + ((row + i) * a->n_heads + h) * hd, NS_DTYPE_BF16, b->o + i * hd, hd,
                                 s > 0 ? 1 / s : 0);
        if (a->lse) a->lse[h * a->T + row + i] = s > 0 ? b->top[i] + logf(s) : -INFINITY;
    }
}

/* Task: QB query rows of one segment and the heads of one kv head. */
static void fwd_tile(void *arg, int t, int worker)
{
    const job *j = arg;
    const ns_attn_args *a = j->a;
    int64_t hd = a->head_dim, kv = t % a->n_kv, blk = t / a->n_kv, seg = ns_cpu_attn_find(a, j->first, blk);
    int64_t i0 = (blk - j->first[seg]) * QB, group = a->n_heads / a->n_kv, lo, hi;
    ns_cpu_seg g = ns_cpu_segment(a, seg);
    bufs b = lay_out(ns_cpu_mine(&j->scratch, worker), a->max_kv, hd, 0);
    panel_range(a, &g, i0, QB, &lo, &hi);
    if (hi > lo) {
        int64_t r = lo * 32, n = ns_cpu_min(hi * 32, g.nk) - r;
        pack_rows(b.kt + r * hd, head_rows(a->k, a->k_stride, g.k0 + r, kv, hd), a->k_stride, n, hd, 1);
        pack_dims(b.vb + lo * STEP, head_rows(a->v, a->v_stride, g.k0 + r, kv, hd), a->v_stride, n, hd,
                  (g.nk + 31) / 32);
    }
    amx_begin();
    for (int64_t h = kv * group; h < (kv + 1) * group; h++) fwd_head(a, &g, i0, h, &b);
    amx_end();
}

void ns_amx_attn_fwd(ns_exec *x, const ns_attn_args *a)
{
    job j = {.a = a};
    if (a->dt != NS_DTYPE_BF16 || a->head_dim % 32 || a->dropout > 0) {
        ns_cpu_attn_fwd(x, a, &ns_cpu_vec_avx512);
        return;
    }
    if (!ns_cpu_get_scratch(&j.scratch, x, (a->n_seg + 1) * 4, per_worker(a->max_kv, a->head_dim, 0), "attn_fwd"))
        return;
    j.first = (int32_t *)j.scratch.shared;
    int64_t n = ns_cpu_attn_blocks(a, QB, (int32_t *)j.scratch.shared);
    ns_parallel_for(x->pool, (int)(n * a->n_kv), fwd_tile, &j);
    ns_cpu_attn_zero_tail(x, a, 0);
}

/* ---- backward ---- */

/* s: q.k -> p; dp: dout.v -> ds; both rounded to bf16. */
static void row_grads(const ns_attn_args *a, const ns_cpu_seg *g, int64_t i0, int64_t n, int64_t k0, int64_t nk,
                      int64_t h, const bufs *b)
{
    int64_t hd = a->head_dim, wide = ns_cpu_up(nk, 32), pad = (ns_cpu_up(n, 32) - n) * KB;
    memset(b->p + n * KB, 0, (size_t)pad * 2);
    memset(b->ds + n * KB, 0, (size_t)pad * 2);
    for (int64_t i = 0; i < n; i++) {
        int64_t lo, hi, row = g->q0 + i0 + i, at = (row * a->n_heads + h) * hd;
        clip_row(a, g, i0 + i, k0, nk, &lo, &hi);
        float D = ns_cpu_vec_avx512.dot((const bf16 *)a->dout + at, (const bf16 *)a->out + at, NS_DTYPE_BF16, hd);
        if (hi > lo)
            ns_cpu_vec_avx512.attn_grad(b->s + i * KB + lo, b->dp + i * KB + lo, hi - lo, a->scale, a->softcap,
                                        a->lse[h * a->T + row], D);
        round_row(b->p + i * KB, b->s + i * KB, lo, hi, wide);
        round_row(b->ds + i * KB, b->dp + i * KB, lo, hi, wide);
    }
}

static void bwd_block(const ns_attn_args *a, const ns_cpu_seg *g, int64_t i0, int64_t h, const bufs *b)
{
    int64_t hd = a->head_dim, n = ns_cpu_min(QB, g->nq - i0), row = g->q0 + i0, wide = a->n_heads * hd, lo, hi;
    const bf16 *q = head_rows(a->q, a->q_stride, row, h, hd), *dout = head_rows(a->dout, wide, row, h, hd);
    pack_rows(b->q, q, a->q_stride, n, hd, 0);
    pack_rows(b->dout, dout, wide, n, hd, 0);
    pack_dims(b->qb, q, a->q_stride, n, hd, QP);
    pack_dims(b->ob, dout, wide, n, hd, QP);
    memset(b->o, 0, (size_t)(QB * hd) * 4); /* dq */
    panel_range(a, g, i0, n, &lo, &hi);
    for (int64_t p = lo; p < hi; p += KB / 32) {
        int64_t p1 = ns_cpu_min(hi, p + KB / 32), nk = ns_cpu_min(p1 * 32, g->nk) - p * 32;
        scores(a, g, i0, n, p, p1, b->q, b->kt, b->s);
        scores(a, g, i0, n, p, p1, b->dout, b->vt, b->dp);
        row_grads(a, g, i0, n, p * 32, nk, h, b);
        times_queries(a, g, i0, n, p, p1, b->p, b->ob, b->at, b->dv);
        times_queries(a, g, i0, n, p, p1, b->ds, b->qb, b->at, b->dk);
        times_keys(a, g, i0, n, p, p1, b->ds, b->kb, (g->nk + 31) / 32, b->o);
    }
    out_rows((bf16 *)a->dq + row * a->q_stride + h * hd, a->q_stride, b->o, hd, n);
}

/* Task: one segment and one kv head, all its query heads in order. */
static void bwd_tile(void *arg, int t, int worker)
{
    const job *j = arg;
    const ns_attn_args *a = j->a;
    int64_t hd = a->head_dim, kv = t % a->n_kv, group = a->n_heads / a->n_kv;
    ns_cpu_seg g = ns_cpu_segment(a, t / a->n_kv);
    bufs b = lay_out(ns_cpu_mine(&j->scratch, worker), a->max_kv, hd, 1);
    const bf16 *k = head_rows(a->k, a->k_stride, g.k0, kv, hd), *v = head_rows(a->v, a->v_stride, g.k0, kv, hd);
    size_t sums = (size_t)(ns_cpu_up(g.nk, 32) * hd) * 4;
    if (g.nk == 0) return;
    pack_rows(b.kt, k, a->k_stride, g.nk, hd, 1);
    pack_rows(b.vt, v, a->v_stride, g.nk, hd, 1);
    pack_dims(b.kb, k, a->k_stride, g.nk, hd, (g.nk + 31) / 32);
    memset(b.dk, 0, sums);
    memset(b.dv, 0, sums);
    amx_begin();
    for (int64_t h = kv * group; h < (kv + 1) * group; h++)
        for (int64_t i0 = 0; i0 < g.nq; i0 += QB) bwd_block(a, &g, i0, h, &b);
    amx_end();
    out_rows((bf16 *)a->dk + g.k0 * a->k_stride + kv * hd, a->k_stride, b.dk, hd, g.nk);
    out_rows((bf16 *)a->dv + g.k0 * a->v_stride + kv * hd, a->v_stride, b.dv, hd, g.nk);
}

void ns_amx_attn_bwd(ns_exec *x, const ns_attn_args *a)
{
    job j = {.a = a};
    if (a->dt != NS_DTYPE_BF16 || a->head_dim % 32 || a->dropout > 0) {
        ns_cpu_attn_bwd(x, a, &ns_cpu_vec_avx512);
        return;
    }
    if (!ns_cpu_get_scratch(&j.scratch, x, 0, per_worker(a->max_kv, a->head_dim, 1), "attn_bwd")) return;
    ns_parallel_for(x->pool, (int)(a->n_seg * a->n_kv), bwd_tile, &j);
    ns_cpu_attn_zero_tail(x, a, 1);
}
