/* How an op of a back-end is judged against ref, for one case of ops_cases.h. Test code only; used by ops_test.c (CPU levels)
 * and cuda/cuda_ops_test.c. */
#ifndef NS_OPS_CHECK_H
#define NS_OPS_CHECK_H

#include "ops/ops_cases.h"

static double rms(const tbuf *b)
{
    double s = 0;
    for (int64_t i = 0; i < b->n; i++) {
        double v = (double)get(b->p, b->dt, i);
        if (isfinite(v)) s += v * v;
    }
    return b->n ? sqrt(s / (double)b->n) : 0;
}

/* Allowed |got - ref| = rel * |ref| + abs * rms(ref). One stored rounding may fall the other way (one unit in the last
 * place, 2^-7); sums in f32 of `len` terms err like sqrt(len) half units of their size. Tile-unit back-ends round one
 * factor of a sum (probabilities, d logits) to bf16: `inner`. When a few terms carry the sum (the label's d logit, the
 * first keys of a segment) that error is half a unit, 2^-8, of terms some eight times the rms.
 * Products of fp8: tensor cores add 32 terms at a time to a sum of which they keep 13 bits below its leading one; each of the
 * len / 32 additions may cut off 2^-13 of a partial sum some four times the rms. */
static void tolerance(const tbuf *r, ns_dtype dt, double *rel, double *abs_)
{
    *rel = 0x1p-21;
    *abs_ = 0x1p-22 * sqrt(r->len);
    if (r->dt == NS_DTYPE_BF16) *rel = 0x1.02p-7;
    if (dt == NS_DTYPE_BF16 && r->inner) *rel += 0x1p-8, *abs_ += 0x1p-5;
    if (r->fp8) *abs_ += 0x1p-11 * (1 + r->len / 32);
}

/* Compares one output; writes what is wrong to msg. Returns 1 if good. */
static int compare(const tbuf *r, const tbuf *g, ns_dtype dt, char *msg, size_t msg_n)
{
    double rel, abs_, scale = rms(r), err2 = 0, ref2 = 0;
    tolerance(r, dt, &rel, &abs_);
    for (int64_t i = 0; i < r->n; i++) {
        double a = (double)get(r->p, r->dt, i), b = (double)get(g->p, g->dt, i);
        if (r->dt == NS_DTYPE_F64) a = ((double *)r->p)[i], b = ((double *)g->p)[i];
        if (r->dt == NS_DTYPE_I16) continue; /* remainders: checked joined with their high half (opt_close) */
        int bad = isfinite(a) ? !(fabs(a - b) <= rel * fabs(a) + abs_ * scale) : !(a == b || (a != a && b != b));
        if (bad) {
            snprintf(msg, msg_n, "%s[%lld]: got %.9g, ref %.9g, rms %.3g", r->name, (long long)i, b, a, scale);
            return 0;
        }
        if (isfinite(a)) err2 += (a - b) * (a - b), ref2 += a * a;
    }
    /* Errors are spread: over many elements their mean square is well inside the bound of the worst one. */
    double all = (rel + abs_) / 2;
    if (r->dt == NS_DTYPE_BF16) all = 0x1p-8;
    if (dt == NS_DTYPE_BF16 && r->inner) all = 0x1p-7;
    if (r->n >= 64 && err2 > all * all * ref2) {
        snprintf(msg, msg_n, "%s: relative error %.3g over all, at most %.3g", r->name, sqrt(err2 / ref2), all);
        return 0;
    }
    return 1;
}

/* Main weights joined from both halves. What is rounded stochastically is equal bit for bit where nothing before it may
 * differ: without clipping, whose norm is a sum. */
static int opt_close(const prob *r, const prob *g, char *msg, size_t msg_n)
{
    for (int k = 0; k < 3 && r->items[k].n && r->c->flag & 2 && r->c->flag & (4 | 8 | 16); k++) {
        const ns_opt_item *a = &r->items[k], *b = &g->items[k];
        const void *const at[3][2] = {{a->w, b->w}, {a->m, b->m}, {a->v, b->v}};
        const ns_dtype dt[3] = {a->dt, a->form.m, a->form.v};
        for (int s = 0; s < 3; s++) {
            if (!memcmp(at[s][0], at[s][1], (size_t)a->n * ns_dtype_size(dt[s]))) continue;
            snprintf(msg, msg_n, "%s of item %d: other bits than ref's", s == 0 ? "w" : s == 1 ? "m" : "v", k);
            return 0;
        }
    }
    for (int k = 0; k < 3 && r->items[k].rem; k++) {
        for (int64_t i = 0; i < r->items[k].n; i++) {
            float a = ns_main_join(((uint16_t *)r->items[k].w)[i], r->items[k].rem[i]);
            float b = ns_main_join(((uint16_t *)g->items[k].w)[i], g->items[k].rem[i]);
            if (fabsf(a - b) <= 1e-6f * (fabsf(a) + 0.01f)) continue;
            snprintf(msg, msg_n, "main weight %d[%lld]: got %.9g, ref %.9g", k, (long long)i, (double)b, (double)a);
            return 0;
        }
    }
    return 1;
}

static int stage_ok(const prob *r, const prob *g, int stage, char *msg, size_t msg_n)
{
    for (int i = 0; i < r->n; i++)
        if (r->b[i].stage == stage && !compare(&r->b[i], &g->b[i], r->c->dt, msg, msg_n)) return 0;
    return 1;
}

static int memory_ok(const prob *fresh, const prob *g, char *msg, size_t msg_n)
{
    for (int i = 0; i < g->n; i++) {
        if (!guards_ok(g->b[i].p, g->b[i].bytes)) {
            snprintf(msg, msg_n, "%s: written outside", g->b[i].name);
            return 0;
        }
        if (g->b[i].stage == IN && memcmp(g->b[i].p, fresh->b[i].p, (size_t)g->b[i].bytes) != 0) {
            snprintf(msg, msg_n, "%s: input changed", g->b[i].name);
            return 0;
        }
    }
    int ok = guards_ok((const char *)g->step, sizeof *g->step) && (!g->work || guards_ok(g->work, g->x.work_bytes)) &&
             (!g->panels || guards_ok(g->panels, g->panel_bytes));
    if (!ok) snprintf(msg, msg_n, "step, work or panels: written outside");
    return ok;
}

/* Runs case c on ref and on `ops`; 1 if they agree. Backward ops start from ref's forward outputs. */
static int check(const cas *c, const ns_ops *ops, ns_threads *pool, char *msg, size_t msg_n)
{
    static prob fresh, r, g; /* ns_error records make them large */
    prob_new(&fresh, c, &ns_ops_ref, NULL);
    prob_new(&r, c, &ns_ops_ref, NULL);
    prob_new(&g, c, ops, pool);
    c->fwd(&r);
    c->fwd(&g);
    settle(&g);
    int ok = stage_ok(&r, &g, FWD, msg, msg_n) && opt_close(&r, &g, msg, msg_n);
    if (ok && c->bwd) {
        for (int i = 0; i < r.n; i++)
            if (r.b[i].stage == FWD) memcpy(g.b[i].p, r.b[i].p, (size_t)r.b[i].bytes);
        c->bwd(&r);
        c->bwd(&g);
        settle(&g);
        ok = stage_ok(&r, &g, BWD, msg, msg_n);
    }
    if (g.x.err.code) {
        ok = 0;
        snprintf(msg, msg_n, "%s", g.x.err.msg);
    }
    ok = ok && memory_ok(&fresh, &g, msg, msg_n);
    assert_int_equal(r.x.err.code, NS_OK);
    prob_free(&fresh);
    prob_free(&r);
    prob_free(&g);
    return ok;
}

#endif
