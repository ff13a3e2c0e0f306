/* The case table of the op tests (ops_test.c). Test code only.
 *
 * A case builds a `prob`: named buffers with guard bytes around each, filled from the case's name (the same on every run),
 * and the arguments of one op family. fwd() runs the forward op, bwd() its backward ops, on whatever table is in
 * p->x.ops. A buffer says what it is: input, output of fwd, output of bwd; which buffer is its cotangent (for
 * L = sum out * cot) and which holds dL/d(this), so that one loop checks every gradient by finite differences.
 *
 * To add an op: setup/fwd/bwd functions here and rows in `cases`. */
#ifndef NS_OPS_CASES_H
#define NS_OPS_CASES_H

#include "base/testing.h"

#include <math.h>

#include "base/mem.h"
#include "ops/ops.h"

enum { GUARD = 128, MAX_BUFS = 24 };
enum { IN, FWD, BWD };

typedef struct prob prob;

typedef struct cas {
    const char *name;
    void (*setup)(prob *p);
    void (*fwd)(prob *p);
    void (*bwd)(prob *p); /* NULL: forward only */
    ns_dtype dt;
    int64_t T, C, N, V, pad, nh, nkv, hd, window, rot;
    float softcap;
    int flag;          /* meaning per family */
    const int32_t *cu; /* segments, ends with -1 */
    int no_diff;       /* not for finite differences */
} cas;

typedef struct tbuf {
    const char *name;
    char *raw; /* guard, data, guard */
    void *p;
    ns_dtype dt;
    int64_t n, bytes;
    int stage, inout; /* inout: starts from random values (accumulated) */
    double len;       /* reduction length behind one element */
    int fp8;          /* sums of fp8 products */
    int inner;        /* bf16 back-ends may round an intermediate of this output to bf16 */
    const char *cot, *grad;
    float *init; /* inout: values before */
} tbuf;

struct prob {
    const cas *c;
    tbuf b[MAX_BUFS];
    int n;
    ns_exec x;
    ns_step *step; /* where the back-end reads it */
    ns_weight w, bias;
    ns_opt_item items[3];
    char *work, *panels;
    int64_t panel_bytes;
};

static uint64_t mix64(uint64_t z)
{
    z += 0x9E3779B97F4A7C15u;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    return z ^ (z >> 31);
}

static double unit(uint64_t *s) /* (0,1) */
{
    *s = mix64(*s);
    return ((double)(*s >> 11) + 0.5) * 0x1p-53;
}

static float get(const void *p, ns_dtype dt, int64_t i)
{
    if (dt == NS_DTYPE_I16) return (float)((const int16_t *)p)[i];
    if (dt == NS_DTYPE_U8) return (float)((const uint8_t *)p)[i];
    if (dt == NS_DTYPE_F64) return (float)((const double *)p)[i];
    return dt == NS_DTYPE_BF16 ? ns_bf16_to_f32(((const uint16_t *)p)[i]) : ((const float *)p)[i];
}

static void put(void *p, ns_dtype dt, int64_t i, float v)
{
    if (dt == NS_DTYPE_BF16)
        ((uint16_t *)p)[i] = ns_f32_to_bf16(v);
    else
        ((float *)p)[i] = v;
}

/* A device test sets these: its ns_exec.backend, and memory that host and device see under one address. */
static void *case_backend;
static int case_any_order, case_fp8_split; /* ns_exec.any_order, fp8_split */
static void *(*case_alloc)(int64_t bytes);
static void (*case_free)(void *p);

static void *must_alloc(int64_t bytes)
{
    void *p = NULL;
    if (case_alloc) {
        p = case_alloc(bytes);
        assert_non_null(p);
        return memset(p, 0, (size_t)bytes);
    }
    ns_error err = NS_ERROR_INIT;
    assert_ns_ok(ns_alloc(&p, (size_t)bytes, "test", &err), &err);
    return p;
}

static void give(void *p)
{
    if (case_free && p)
        case_free(p);
    else
        ns_free(p);
}

/* Waits for the device. */
static void settle(prob *p)
{
    char byte;
    if (p->x.backend) p->x.ops->download(&p->x, &byte, p->step, 1);
}

static char *guarded(int64_t bytes) /* returns the start of the data; guards on both sides */
{
    char *raw = must_alloc(bytes + 2 * GUARD);
    memset(raw, 0xA5, (size_t)bytes + 2 * GUARD);
    return raw + GUARD;
}

static int guards_ok(const char *p, int64_t bytes)
{
    for (int64_t i = 1; i <= GUARD; i++)
        if ((unsigned char)p[-i] != 0xA5 || (unsigned char)p[bytes + i - 1] != 0xA5) return 0;
    return 1;
}

static tbuf *find(prob *p, const char *name)
{
    for (int i = 0; i < p->n; i++)
        if (!strcmp(p->b[i].name, name)) return &p->b[i];
    return NULL;
}

/* New buffer. Inputs and accumulated outputs are normal(0, scale); assigned outputs start as NaN bytes. */
static tbuf *mk(prob *p, const char *name, ns_dtype dt, int64_t n, double scale, int stage, int inout)
{
    assert_true(p->n < MAX_BUFS);
    tbuf *b = &p->b[p->n++];
    *b =
        (tbuf){.name = name, .dt = dt, .n = n, .bytes = n * (int64_t)ns_dtype_size(dt), .stage = stage, .inout = inout};
    b->p = guarded(b->bytes);
    b->raw = (char *)b->p - GUARD;
    b->len = 1;
    memset(b->p, 0xFF, (size_t)b->bytes);
    if (stage != IN && !inout) return b;
    uint64_t s = 1469598103934665603u;
    for (const char *q = p->c->name; *q; q++) s = (s ^ (unsigned char)*q) * 1099511628211u;
    for (const char *q = name; *q; q++) s = (s ^ (unsigned char)*q) * 1099511628211u;
    for (int64_t i = 0; i < n; i++) {
        double u = unit(&s), v = unit(&s);
        put(b->p, dt, i, (float)(scale * sqrt(-2 * log(u)) * cos(6.283185307179586 * v)));
    }
    if (!inout) return b;
    b->init = must_alloc(n * 4);
    for (int64_t i = 0; i < n; i++) b->init[i] = get(b->p, dt, i);
    return b;
}

static tbuf *in(prob *p, const char *name, ns_dtype dt, int64_t n, double scale, const char *grad)
{
    tbuf *b = mk(p, name, dt, n, scale, IN, 0);
    b->grad = grad;
    return b;
}

static tbuf *out(prob *p, const char *name, ns_dtype dt, int64_t n, int stage, double len, const char *cot)
{
    tbuf *b = mk(p, name, dt, n, 0, stage, 0);
    b->len = len;
    b->cot = cot;
    return b;
}

static int32_t *ints(prob *p, const char *name, int64_t n)
{
    tbuf *b = mk(p, name, NS_DTYPE_F32, n, 0, IN, 0); /* I32 data in 4-byte elements; compared as bytes only */
    b->dt = NS_DTYPE_I32;
    return b->p;
}

static void *ptr(prob *p, const char *name)
{
    tbuf *b = find(p, name);
    return b ? b->p : NULL;
}

static ns_weight weight(prob *p, const char *name, const char *grad, int64_t rows, int64_t cols, double scale)
{
    ns_weight w = {.name = name, .rows = rows, .cols = cols, .dt = p->c->dt};
    w.data = in(p, name, w.dt, rows * cols, scale, grad)->p;
    if (grad) {
        tbuf *g = mk(p, grad, NS_DTYPE_F32, rows * cols, 1, BWD, 1);
        g->len = (double)p->c->T;
        w.grad = g->p;
    }
    return w;
}

/* Panels as src/model makes them: sizes from the table, filled by prepare. */
static void prepare(prob *p)
{
    int64_t f = 0, d = 0;
    p->x.ops->prepare_bytes(&p->w, &f, &d);
    p->panel_bytes = f + d;
    assert_int_equal(f % 64, 0);
    if (f + d) p->panels = guarded(f + d);
    p->w.panels_fwd = f ? p->panels : NULL;
    p->w.panels_dx = d ? p->panels + f : NULL;
    p->x.ops->prepare(&p->x, &p->w);
}

/* ---- embedding ---- */
static void embed_setup(prob *p)
{
    const cas *c = p->c;
    p->w = weight(p, "table", "dtable", c->V, c->C, 1);
    int32_t *ids = ints(p, "ids", c->T);
    for (int64_t t = 0; t < c->T; t++) ids[t] = (int32_t)(mix64((uint64_t)t) % (uint64_t)c->V);
    in(p, "dx", c->dt, c->T * c->C, 1, NULL);
    out(p, "x", c->dt, c->T * c->C, FWD, 1, "dx");
}
static ns_embed_args embed_args(prob *p)
{
    return (ns_embed_args){p->c->T, p->c->C, p->c->V, p->c->dt, ptr(p, "ids"), &p->w, ptr(p, "x"), ptr(p, "dx")};
}
static void embed_fwd(prob *p)
{
    ns_embed_args a = embed_args(p);
    p->x.ops->embed_fwd(&p->x, &a);
}
static void embed_bwd(prob *p)
{
    ns_embed_args a = embed_args(p);
    p->x.ops->embed_bwd(&p->x, &a);
}

/* ---- norm; flag 1: no delta, 2: plus_one, 4: h aliases x and dres aliases dh, 8: frozen weight, no dres ---- */
static void norm_setup(prob *p)
{
    const cas *c = p->c;
    int64_t n = c->T * c->C;
    tbuf *x = in(p, "x", c->dt, n, 1, "dh");
    for (int64_t i = c->C; i < 2 * c->C && i < n; i++)
        put(x->p, c->dt, i, get(x->p, c->dt, i) * 1e-3f); /* eps matters */
    p->w = weight(p, "w", c->flag & 8 ? NULL : "dw", c->C, 1, 1);
    in(p, "dy", c->dt, n, 1, NULL);
    if (!(c->flag & 1)) {
        tbuf *d = in(p, "delta", c->dt, n, 1, "dh");
        for (int64_t i = c->C; i < 2 * c->C && i < n; i++) put(d->p, c->dt, i, get(d->p, c->dt, i) * 1e-3f);
        out(p, "h", c->dt, n, FWD, 1, c->flag & 8 ? NULL : "dres");
    }
    if (!(c->flag & 8)) in(p, "dres", c->dt, n, 1, NULL);
    out(p, "y", c->dt, n, FWD, (double)c->C, "dy");
    out(p, "y again", c->dt, n, BWD, (double)c->C, NULL);
    out(p, "rstd", NS_DTYPE_F32, c->T, FWD, (double)c->C, NULL);
    out(p, "dh", c->dt, n, BWD, (double)c->C, NULL);
}
static void norm_fwd(prob *p)
{
    const cas *c = p->c;
    void *x = ptr(p, "x"), *h = ptr(p, "h");
    if (c->flag & 4) x = memcpy(h, x, (size_t)find(p, "x")->bytes);
    p->x.ops->norm_fwd(&p->x, &(ns_norm_args){.T = c->T,
                                              .C = c->C,
                                              .dt = c->dt,
                                              .eps = 1e-5f,
                                              .w = &p->w,
                                              .plus_one = (c->flag & 2) != 0,
                                              .x = x,
                                              .delta = ptr(p, "delta"),
                                              .h = h,
                                              .y = ptr(p, "y"),
                                              .rstd = ptr(p, "rstd")});
}
static void norm_bwd(prob *p)
{
    const cas *c = p->c;
    const void *dres = c->flag & 1 ? NULL : ptr(p, "dres");
    if (c->flag & 4) dres = memcpy(ptr(p, "dh"), dres, (size_t)find(p, "dh")->bytes);
    p->x.ops->norm_bwd(&p->x, &(ns_norm_bwd_args){.T = c->T,
                                                  .C = c->C,
                                                  .dt = c->dt,
                                                  .w = &p->w,
                                                  .plus_one = (c->flag & 2) != 0,
                                                  .eps = 1e-5f,
                                                  .y = ptr(p, "y again"),
                                                  .h = ptr(p, c->flag & 1 ? "x" : "h"),
                                                  .rstd = ptr(p, "rstd"),
                                                  .dy = ptr(p, "dy"),
                                                  .dres = dres,
                                                  .dh = ptr(p, "dh")});
}

/* ---- linear; T = M, N, C = K; flag 1: bias, 2: add_dx, 4: frozen, 8: fp8, 16: fp8 with e4m3 gradients, 32: casts not kept ---- */
static void linear_setup(prob *p)
{
    const cas *c = p->c;
    in(p, "x", c->dt, c->T * c->C, 1, "dx");
    p->w = weight(p, "w", c->flag & 4 ? NULL : "dw", c->N, c->C, 1 / sqrt((double)c->C));
    if (c->flag & 1) p->bias = weight(p, "b", c->flag & 4 ? NULL : "db", c->N, 1, 1);
    in(p, "dy", c->dt, c->T * c->N, 1, NULL);
    /* a library may round the product to bf16 before it adds the bias, or what dx holds */
    out(p, "y", c->dt, c->T * c->N, FWD, (double)c->C, "dy")->inner = (c->flag & 1) != 0;
    tbuf *dx = mk(p, "dx", c->dt, c->T * c->C, 1, BWD, (c->flag & 2) != 0);
    dx->len = (double)c->N;
    dx->inner = dx->inout;
    if (!(c->flag & 24)) return;
    p->w.fp8 = p->x.fp8 = c->flag & 8 ? NS_FP8_HYBRID : NS_FP8_E4M3;
    for (int i = 0; i < p->n; i++) p->b[i].fp8 = p->b[i].stage != IN;
    if (c->flag & 32) return;
    out(p, "x8", NS_DTYPE_U8, ns_fp8_bytes(c->C, c->T), FWD, 0, NULL); /* the same bytes everywhere */
    out(p, "dy8", NS_DTYPE_U8, ns_fp8_bytes(c->N, c->T), BWD, 0, NULL);
}
static ns_linear_args linear_args(prob *p)
{
    const cas *c = p->c;
    return (ns_linear_args){.M = c->T,
                            .N = c->N,
                            .K = c->C,
                            .dt = c->dt,
                            .w = &p->w,
                            .b = c->flag & 1 ? &p->bias : NULL,
                            .x = ptr(p, "x"),
                            .y = ptr(p, "y"),
                            .dy = ptr(p, "dy"),
                            .dx = ptr(p, "dx"),
                            .add_dx = (c->flag & 2) != 0,
                            .x8 = ptr(p, "x8"),
                            .dy8 = ptr(p, "dy8")};
}
static void linear_fwd(prob *p)
{
    ns_linear_args a = linear_args(p);
    p->x.ops->linear_fwd(&p->x, &a);
}
static void linear_bwd(prob *p)
{
    ns_linear_args a = linear_args(p);
    p->x.ops->linear_dgrad(&p->x, &a);
    p->x.ops->linear_wgrad(&p->x, &a);
}

/* ---- rope, in place in rows wider than the rotated heads ---- */
static void rope_setup(prob *p)
{
    const cas *c = p->c;
    int64_t n = c->T * (c->nh + 2) * c->hd, max_pos = 64;
    int32_t *pos = ints(p, "pos", c->T);
    for (int64_t t = 0; t < c->T; t++) pos[t] = (int32_t)(t * 7 % max_pos);
    /* one row more than positions: a broken variant of the test reads one row ahead */
    tbuf *cs = in(p, "cos_sin", NS_DTYPE_F32, (max_pos + 1) * c->rot, 1, NULL);
    for (int64_t i = 0; i < (max_pos + 1) * c->rot / 2; i++) {
        double angle = (double)(i / (c->rot / 2)) * pow(1e4, -2.0 * (double)(i % (c->rot / 2)) / (double)c->rot);
        put(cs->p, NS_DTYPE_F32, 2 * i, (float)cos(angle));
        put(cs->p, NS_DTYPE_F32, 2 * i + 1, (float)sin(angle));
    }
    in(p, "qk0", c->dt, n, 1, "dqk");
    in(p, "dqk0", c->dt, n, 1, NULL);
    out(p, "qk", c->dt, n, FWD, 1, "dqk0");
    out(p, "dqk", c->dt, n, BWD, 1, NULL);
}
static void rope_run(prob *p, const char *from, const char *to, int inverse)
{
    const cas *c = p->c;
    memcpy(ptr(p, to), ptr(p, from), (size_t)find(p, to)->bytes);
    p->x.ops->rope(&p->x, &(ns_rope_args){.T = c->T,
                                          .n_heads = c->nh,
                                          .head_dim = c->hd,
                                          .row_stride = (c->nh + 2) * c->hd,
                                          .rot_dim = c->rot,
                                          .dt = c->dt,
                                          .position = ptr(p, "pos"),
                                          .cos_sin = ptr(p, "cos_sin"),
                                          .max_pos = 64,
                                          .qk = ptr(p, to),
                                          .inverse = inverse});
}
static void rope_fwd(prob *p)
{
    rope_run(p, "qk0", "qk", 0);
}
static void rope_bwd(prob *p)
{
    rope_run(p, "dqk0", "dqk", 1);
}

/* ---- attention; fused qkv rows; flag 1: not causal, 2: keys elsewhere, longer than the queries (a cache); 8 with it: in the order of
 * segments, rows between them are nobody's; 16 with that: the second half of the segments alone ---- */
static int64_t n_segments(const cas *c)
{
    int64_t n = 0;
    while (c->cu[n + 1] >= 0) n++;
    return n;
}
/* Backward chains three products and an exponential: four times the length. */
static void attn_setup(prob *p)
{
    const cas *c = p->c;
    int64_t ns = n_segments(c), kvw = 2 * c->nkv * c->hd, qw = c->nh * c->hd;
    memcpy(ints(p, "cu", ns + 1), c->cu, (size_t)(ns + 1) * 4);
    int64_t row = qw + kvw, n = c->T * row, len = c->T;
    if (c->flag & 4) {
        p->step->dropout_step = 3;
        int32_t *token = ints(p, "token", c->T);
        for (int64_t t = 0; t < c->T; t++) token[t] = (int32_t)(1000 + 7 * t);
    }
    if (c->flag & 2) {
        int32_t *start = ints(p, "kv_start", ns), *kl = ints(p, "kv_len", ns), at = 3;
        for (int64_t s = 0; s < ns; s++) {
            start[s] = at;
            kl[s] = c->cu[s + 1] - c->cu[s] + (int32_t)(s * 11 % 29);
            at += kl[s] + 2;
        }
        in(p, "kv", c->dt, at * kvw, 1, NULL);
        row = qw;
        n = c->T * qw;
    }
    in(p, "qkv", c->dt, n, 1, "dqkv");
    in(p, "dout", c->dt, c->T * qw, 1, NULL);
    out(p, "out", c->dt, c->T * qw, FWD, (double)len, "dout")->inner = 1;
    out(p, "lse", NS_DTYPE_F32, c->nh * c->T, FWD, (double)c->hd, NULL);
    out(p, "dqkv", c->dt, n, BWD, 4 * (double)(len + c->hd), NULL)->inner = 1;
    if (c->flag & 2)
        out(p, "dkv", c->dt, find(p, "kv")->n, BWD, 4 * (double)(len + c->hd), NULL)->inner = 1; /* rows between stay */
}
static ns_attn_args attn_args(prob *p)
{
    const cas *c = p->c;
    int64_t es = (int64_t)ns_dtype_size(c->dt), qw = c->nh * c->hd, w = c->nkv * c->hd, max_q = 0;
    char *qkv = ptr(p, "qkv"), *d = ptr(p, "dqkv"), *kv = ptr(p, "kv"), *dk = kv ? ptr(p, "dkv") : d + qw * es;
    int64_t live = 0; /* empty segments in between: the host does not count them */
    while (live < n_segments(c) && c->cu[live + 1] > c->cu[live]) live++;
    for (int64_t s = live; s < n_segments(c); s++) live = c->cu[s + 1] > c->cu[s] ? 0 : live;
    for (int64_t s = 0; s < n_segments(c); s++)
        max_q = c->cu[s + 1] - c->cu[s] > max_q ? c->cu[s + 1] - c->cu[s] : max_q;
    int64_t ks = kv ? 2 * w : qw + 2 * w;
    const int64_t skip = c->flag & 16 ? n_segments(c) / 2 : 0;
    return (ns_attn_args){.T = c->T,
                          .n_seg = n_segments(c) - skip,
                          .max_q = max_q,
                          .max_kv = kv ? max_q + 29 : max_q,
                          .T_kv = c->flag & 8 ? find(p, "kv")->n / (2 * w) : 0,
                          .n_heads = c->nh,
                          .n_kv = c->nkv,
                          .head_dim = c->hd,
                          .dt = c->dt,
                          .scale = 1 / sqrtf((float)c->hd),
                          .softcap = c->softcap,
                          .window = c->window,
                          .causal = !(c->flag & 1),
                          .live_seg = live,
                          .live_len = live ? max_q : 0,
                          .live_rows = live ? c->cu[live] : 0,
                          .cu_q = (int32_t *)ptr(p, "cu") + skip,
                          .kv_start = kv ? (int32_t *)ptr(p, "kv_start") + skip : NULL,
                          .kv_len = kv ? (int32_t *)ptr(p, "kv_len") + skip : NULL,
                          .q = qkv,
                          .k = kv ? kv : qkv + qw * es,
                          .v = kv ? kv + w * es : qkv + (qw + w) * es,
                          .q_stride = kv ? qw : qw + 2 * w,
                          .k_stride = ks,
                          .v_stride = ks,
                          .out = ptr(p, "out"),
                          .lse = ptr(p, "lse"),
                          .dout = ptr(p, "dout"),
                          .dq = d,
                          .dk = dk,
                          .dv = dk + w * es,
                          .dropout = c->flag & 4 ? 0.25f : 0,
                          .layer = 5,
                          .op = 4,
                          .head0 = 3,
                          .token = ptr(p, "token")};
}
static void attn_fwd(prob *p)
{
    ns_attn_args a = attn_args(p);
    p->x.ops->attn_fwd(&p->x, &a);
}
static void zero_buf(prob *p, const char *name)
{
    p->x.ops->zero(&p->x, &(ns_fill_args){ptr(p, name), find(p, name)->bytes});
}
static void attn_bwd(prob *p)
{
    ns_attn_args a = attn_args(p);
    if (p->c->flag & 8) zero_buf(p, "dkv"); /* what is nobody's may be set to 0 */
    p->x.ops->attn_bwd(&p->x, &a);
}

/* ---- activation; flag: ns_act ---- */
static void act_setup(prob *p)
{
    const cas *c = p->c;
    int64_t wide = c->flag == NS_ACT_RELU2 ? 1 : 2;
    tbuf *x = in(p, "x", c->dt, c->T * c->C * wide, 2, "dx");
    put(x->p, c->dt, 0, -30), put(x->p, c->dt, 1, 30), put(x->p, c->dt, 2, -120), put(x->p, c->dt, 3, 120);
    in(p, "dy", c->dt, c->T * c->C, 1, NULL);
    out(p, "y", c->dt, c->T * c->C, FWD, 16, "dy");
    out(p, "y again", c->dt, c->T * c->C, BWD, 16, NULL);
    out(p, "dx", c->dt, c->T * c->C * wide, BWD, 16, NULL);
}
static void act_run(prob *p, int backward)
{
    const cas *c = p->c;
    ns_act_args a = {c->T, c->C, c->dt, (ns_act)c->flag, ptr(p, "x"), ptr(p, "y"), ptr(p, "dy"), ptr(p, "dx")};
    if (backward) a.y = ptr(p, "y again");
    if (backward)
        p->x.ops->act_bwd(&p->x, &a);
    else
        p->x.ops->act_fwd(&p->x, &a);
}
static void act_fwd(prob *p)
{
    act_run(p, 0);
}
static void act_bwd(prob *p)
{
    act_run(p, 1);
}

/* ---- head; pad: padding rows of W; flag 1: loss only, 2: frozen W ---- */
static void head_setup(prob *p)
{
    const cas *c = p->c;
    in(p, "x", c->dt, c->T * c->C, 1, "dx");
    p->w = weight(p, "w", c->flag & 3 ? NULL : "dw", c->V + c->pad, c->C, 2 / sqrt((double)c->C));
    if (p->w.grad) find(p, "dw")->inner = 1, find(p, "dw")->stage = FWD;
    int32_t *label = ints(p, "label", c->T);
    float *w = in(p, "weight", NS_DTYPE_F32, c->T, 1, NULL)->p;
    p->step->weight_sum = 7.5;
    for (int64_t t = 0; t < c->T; t++) {
        w[t] = t % 5 == 1 ? 0.0f : t % 5 == 3 ? 0.5f : 1.0f;
        label[t] = w[t] == 0 ? -1 : (int32_t)(mix64((uint64_t)t + 5) % (uint64_t)c->V);
    }
    double *cot = in(p, "dloss", NS_DTYPE_F32, 2, 0, NULL)->p; /* holds one double: 1 / weight_sum */
    find(p, "dloss")->dt = NS_DTYPE_F64, find(p, "dloss")->n = 1;
    *cot = 1 / p->step->weight_sum;
    out(p, "loss", NS_DTYPE_F64, 1, FWD, (double)c->C, "dloss");
    out(p, "logp", NS_DTYPE_F32, c->T, FWD, (double)c->C, NULL);
    if (!(c->flag & 1)) out(p, "dx", c->dt, c->T * c->C, FWD, (double)c->V, NULL)->inner = 1;
}
static ns_head_args head_args(prob *p)
{
    const cas *c = p->c;
    return (ns_head_args){.T = c->T,
                          .C = c->C,
                          .V = c->V,
                          .dt = c->dt,
                          .softcap = c->softcap,
                          .w = &p->w,
                          .x = ptr(p, "x"),
                          .label = ptr(p, "label"),
                          .weight = ptr(p, "weight"),
                          .logp = ptr(p, "logp"),
                          .dx = ptr(p, "dx")};
}
static void head_fwd(prob *p)
{
    const ns_head_args a = head_args(p);
    p->step->loss_sum = 0;
    p->x.ops->head(&p->x, &a);
    settle(p);
    *(double *)ptr(p, "loss") = p->step->loss_sum;
}
static void head_bwd(prob *p)
{
    (void)p;
}

/* ---- ring: attention over keys in two parts, joined; gradients of both parts added. Part 0: as many keys as queries, causal; part 1: for
 * the later half of the segments, 7 keys of each or none, all seen ---- */
static void ring_setup(prob *p)
{
    const cas *c = p->c;
    const int64_t ns = n_segments(c), w = 2 * c->nkv * c->hd, qw = c->nh * c->hd, n = c->T * qw, keys = c->T + 7 * ns;
    memcpy(ints(p, "cu", ns + 1), c->cu, (size_t)(ns + 1) * 4);
    int32_t *start = ints(p, "kv_start", ns), *len = ints(p, "kv_len", ns);
    for (int64_t s = 0; s < ns; s++) start[s] = (int32_t)(c->T + 7 * s), len[s] = s == ns - 2 ? 0 : 7;
    in(p, "q", c->dt, n, 1, "dq");
    in(p, "kv", c->dt, keys * w, 1, "dkv");
    in(p, "dout", c->dt, n, 1, NULL);
    const double terms = 4 * (double)(c->T + c->hd);
    out(p, "part", c->dt, n, FWD, (double)c->T, NULL)->inner = 1;
    out(p, "part_lse", NS_DTYPE_F32, c->nh * c->T, FWD, (double)c->hd, NULL);
    out(p, "acc", NS_DTYPE_F32, n, FWD, (double)c->T, NULL)->inner = 1;
    out(p, "lse", NS_DTYPE_F32, c->nh * c->T, FWD, (double)c->hd, NULL);
    out(p, "out", c->dt, n, FWD, (double)c->T, "dout")->inner = 1;
    out(p, "dq part", c->dt, n, BWD, terms, NULL)->inner = 1;
    out(p, "dkv part", c->dt, keys * w, BWD, terms, NULL)->inner = 1;
    out(p, "dq acc", NS_DTYPE_F32, n, BWD, terms, NULL)->inner = 1;
    out(p, "dkv acc", NS_DTYPE_F32, keys * w, BWD, terms, NULL)->inner = 1;
    out(p, "dq", c->dt, n, BWD, terms, NULL)->inner = 1;
    out(p, "dkv", c->dt, keys * w, BWD, terms, NULL)->inner = 1;
}
static ns_attn_args ring_args(prob *p, int part)
{
    const cas *c = p->c;
    const int64_t es = (int64_t)ns_dtype_size(c->dt), w = c->nkv * c->hd, ns = n_segments(c), first = part ? ns / 2 : 0;
    char *kv = ptr(p, "kv"), *dkv = ptr(p, "dkv part");
    int64_t longest = 7;
    for (int64_t s = 0; s < ns; s++) longest = c->cu[s + 1] - c->cu[s] > longest ? c->cu[s + 1] - c->cu[s] : longest;
    return (ns_attn_args){.T = c->T,
                          .n_seg = ns - first,
                          .max_q = longest,
                          .max_kv = longest,
                          .T_kv = part ? c->T + 7 * ns : 0,
                          .n_heads = c->nh,
                          .n_kv = c->nkv,
                          .head_dim = c->hd,
                          .dt = c->dt,
                          .scale = 1 / sqrtf((float)c->hd),
                          .causal = !part,
                          .cu_q = (int32_t *)ptr(p, "cu") + first,
                          .kv_start = part ? (int32_t *)ptr(p, "kv_start") + first : ptr(p, "cu"),
                          .kv_len = part ? (int32_t *)ptr(p, "kv_len") + first : NULL,
                          .q = ptr(p, "q"),
                          .k = kv,
                          .v = kv + w * es,
                          .q_stride = c->nh * c->hd,
                          .k_stride = 2 * w,
                          .v_stride = 2 * w,
                          .out = ptr(p, "part"),
                          .lse = ptr(p, part == 1 ? "part_lse" : "lse"),
                          .dout = ptr(p, "dout"),
                          .dq = ptr(p, "dq part"),
                          .dk = dkv,
                          .dv = dkv + w * es};
}
static void ring_fwd(prob *p)
{
    const cas *c = p->c;
    zero_buf(p, "part_lse");
    for (int part = 0; part < 2; part++) {
        const ns_attn_args a = ring_args(p, part);
        p->x.ops->attn_fwd(&p->x, &a);
        p->x.ops->attn_merge(&p->x, &(ns_attn_merge_args){.T = c->T,
                                                          .n_heads = c->nh,
                                                          .head_dim = c->hd,
                                                          .dt = c->dt,
                                                          .n_seg = a.n_seg,
                                                          .cu_q = a.cu_q,
                                                          .part = a.out,
                                                          .part_lse = part ? ptr(p, "part_lse") : NULL,
                                                          .acc = ptr(p, "acc"),
                                                          .lse = ptr(p, "lse"),
                                                          .assign = !part,
                                                          .out = part ? ptr(p, "out") : NULL});
    }
}
static void ring_sum(prob *p, const char *src, const char *acc, const char *to, int64_t cols, int part)
{
    p->x.ops->sum_rows(&p->x, &(ns_sum_rows_args){.T = find(p, src)->n / cols,
                                                  .cols = cols,
                                                  .dt = p->c->dt,
                                                  .assign = !part,
                                                  .src = ptr(p, src),
                                                  .src_stride = cols,
                                                  .acc = ptr(p, acc),
                                                  .out = part ? ptr(p, to) : NULL,
                                                  .out_stride = cols,
                                                  .out_rows = find(p, src)->n / cols});
}
static void ring_bwd(prob *p)
{
    const cas *c = p->c;
    for (int part = 0; part < 2; part++) {
        ns_attn_args a = ring_args(p, part);
        a.lse = ptr(p, "lse"); /* of all keys: probabilities come out right in each part */
        a.out = ptr(p, "out");
        zero_buf(p, "dq part");
        zero_buf(p, "dkv part");
        p->x.ops->attn_bwd(&p->x, &a);
        ring_sum(p, "dq part", "dq acc", "dq", c->nh * c->hd, part);
        ring_sum(p, "dkv part", "dkv acc", "dkv", 2 * c->nkv * c->hd, part);
    }
}

/* ---- sum_rows: strides, a map of rows, a second addend ---- */
static void sum_setup(prob *p)
{
    const cas *c = p->c;
    in(p, "x", c->dt, c->T * (c->C + 3), 1, NULL);
    in(p, "more", NS_DTYPE_F32, c->T * c->C, 1, NULL);
    int32_t *row = ints(p, "row", c->T);
    for (int64_t t = 0; t < c->T; t++) row[t] = t % 5 == 4 ? -1 : (int32_t)(c->T - 1 - t);
    mk(p, "acc", NS_DTYPE_F32, c->T * c->C, 1, FWD, 1);
    mk(p, "y", c->dt, c->T * (c->C + 2), 1, FWD, 1); /* rows that the map leaves out, columns beyond: kept */
}
static void sum_fwd(prob *p)
{
    const cas *c = p->c;
    p->x.ops->sum_rows(&p->x, &(ns_sum_rows_args){.T = c->T,
                                                  .cols = c->C,
                                                  .dt = c->dt,
                                                  .assign = c->flag,
                                                  .src = c->flag ? NULL : ptr(p, "x"),
                                                  .src_stride = c->C + 3,
                                                  .more = ptr(p, "more"),
                                                  .acc = ptr(p, "acc"),
                                                  .out = ptr(p, "y"),
                                                  .out_stride = c->C + 2,
                                                  .out_rows = c->T,
                                                  .row = ptr(p, "row")});
}

/* ---- dropout, add, zero ---- */
static void drop_setup(prob *p)
{
    const cas *c = p->c;
    p->x.key = (ns_philox_key){{11, 22}};
    p->step->dropout_step = 3;
    int32_t *token = ints(p, "token", c->T);
    for (int64_t t = 0; t < c->T; t++) token[t] = (int32_t)(mix64((uint64_t)t) % 100000);
    in(p, "x", c->dt, c->T * c->C, 1, "dx");
    in(p, "dy", c->dt, c->T * c->C, 1, NULL);
    out(p, "y", c->dt, c->T * c->C, FWD, 1, "dy");
    out(p, "dx", c->dt, c->T * c->C, BWD, 1, NULL);
}
static void drop_run(prob *p, const char *from, const char *to)
{
    const cas *c = p->c;
    const void *src = ptr(p, from);
    if (c->flag == 1) src = memcpy(ptr(p, to), src, (size_t)find(p, to)->bytes); /* in place */
    ns_dropout_args a = {c->T, c->C, c->dt, 0.3f, 5, 2, 1000, src, ptr(p, to), NULL, 0};
    if (c->flag == 2) a.token = ptr(p, "token"), a.c0 = 37; /* a part of the tokens and columns */
    p->x.ops->dropout(&p->x, &a);
}
static void drop_fwd(prob *p)
{
    drop_run(p, "x", "y");
}
static void drop_bwd(prob *p)
{
    drop_run(p, "dy", "dx");
}

static void add_setup(prob *p)
{
    const cas *c = p->c;
    in(p, "x", c->dt, c->T, 1, NULL);
    in(p, "d", c->dt, c->T, 1, NULL);
    out(p, "y", c->dt, c->T, FWD, 1, NULL);
    out(p, "z", c->dt, c->T, FWD, 1, NULL);
}
static void add_fwd(prob *p)
{
    const cas *c = p->c;
    void *y = ptr(p, "y");
    p->x.ops->add(&p->x, &(ns_add_args){c->T, c->dt, ptr(p, "x"), ptr(p, "d"), y});
    p->x.ops->add(&p->x, &(ns_add_args){c->T, c->dt, y, ptr(p, "d"), y}); /* y may alias x */
    p->x.ops->zero(&p->x, &(ns_fill_args){ptr(p, "z"), find(p, "z")->bytes});
}

/* ---- optimiser: three items, sumsq + clip + adamw; flag 1: a NaN gradient, 2: no clipping; 4: no remainders, 8: bf16 m, 16: bf16 v ---- */
static void opt_setup(prob *p)
{
    const cas *c = p->c;
    static const char *const names[3][5] = {
        {"w0", "rem0", "g0", "m0", "v0"}, {"w1", "rem1", "g1", "m1", "v1"}, {"w2", "rem2", "g2", "m2", "v2"}};
    *p->step = (ns_step){.lr = 1e-2f, .beta1 = 0.9f, .beta2 = 0.98f, .eps = 1e-8f, .weight_decay = 0.1f, .t = 3};
    p->step->clip = c->flag & 2 ? 0.0f : 1.0f;
    p->x.key = (ns_philox_key){{31, 32}};
    for (int k = 0; k < 3; k++) {
        int64_t n = c->T >> k;
        ns_opt_item *it = &p->items[k];
        const ns_opt_form form = {(c->flag & 4) != 0, c->flag & 8 ? NS_DTYPE_BF16 : NS_DTYPE_F32,
                                  c->flag & 16 ? NS_DTYPE_BF16 : NS_DTYPE_F32};
        *it = (ns_opt_item){.n = n,
                            .dt = c->dt,
                            .decay = k != 1,
                            .form = form,
                            .tensor = 7 + (uint32_t)k,
                            .first = k * ((int64_t)1 << 36)};
        it->w = mk(p, names[k][0], c->dt, n, 1, FWD, 1)->p;
        if (c->dt == NS_DTYPE_BF16 && !form.no_rem) {
            it->rem = mk(p, names[k][1], NS_DTYPE_F32, (n + 1) / 2, 1, FWD, 1)->p;
            tbuf *r = find(p, names[k][1]);
            r->dt = NS_DTYPE_I16, r->n = n;
        }
        it->grad = in(p, names[k][2], NS_DTYPE_F32, n, 0.1, NULL)->p;
        it->m = mk(p, names[k][3], form.m, n, 0.1, FWD, 1)->p;
        it->v = mk(p, names[k][4], form.v, n, 0.1, FWD, 1)->p;
        for (int64_t i = 0; i < n; i++) put(it->v, form.v, i, get(it->v, form.v, i) * get(it->v, form.v, i));
        if (n > 1) it->grad[1] = 0, put(it->m, form.m, 1, 0), put(it->v, form.v, 1, 0);
    }
    if (c->flag & 1) p->items[2].grad[0] = NAN;
    out(p, "step", NS_DTYPE_F64, 3, FWD, (double)c->T, NULL);
}
static void opt_fwd(prob *p)
{
    ns_opt_args a = {p->items, 3};
    p->x.ops->grad_sumsq(&p->x, &a);
    p->x.ops->clip(&p->x, NULL);
    p->x.ops->adamw(&p->x, &a);
    settle(p);
    double *s = ptr(p, "step");
    s[0] = p->step->nonfinite ? 0 : p->step->grad_sumsq;
    s[1] = p->step->nonfinite ? 0 : (double)p->step->clip_coef;
    s[2] = p->step->nonfinite;
}

/* ---- the table ---- */
#define F32 .dt = NS_DTYPE_F32
#define BF16 .dt = NS_DTYPE_BF16
#define EMBED embed_setup, embed_fwd, embed_bwd
#define NORM norm_setup, norm_fwd, norm_bwd
#define LINEAR linear_setup, linear_fwd, linear_bwd
#define ROPE rope_setup, rope_fwd, rope_bwd
#define ATTN attn_setup, attn_fwd, attn_bwd
#define ACT act_setup, act_fwd, act_bwd
#define HEAD head_setup, head_fwd, head_bwd
#define DROP drop_setup, drop_fwd, drop_bwd
#define RING ring_setup, ring_fwd, ring_bwd
#define SUM sum_setup, sum_fwd, NULL
#define ADD add_setup, add_fwd, NULL
#define OPT opt_setup, opt_fwd, NULL

static const int32_t cu_small[] = {0, 1, 6, 23, -1}, cu_mid[] = {0, 33, 34, 98, 130, -1}, cu_one[] = {0, 150, -1},
                     cu_long[] = {0, 280, 283, -1}, cu_none[] = {0, -1}, cu_empty[] = {0, 5, 5, 9, -1};

static const cas cases[] = {
    {"embed.f32", EMBED, F32, .T = 37, .C = 24, .V = 11},
    {"embed.bf16", EMBED, BF16, .T = 301, .C = 72, .V = 50},
    {"embed.often.bf16", EMBED, BF16, .T = 2600, .C = 20, .V = 2},
    {"norm.f32", NORM, F32, .T = 7, .C = 48},
    {"norm.plain.f32", NORM, F32, .T = 5, .C = 33, .flag = 1},
    {"norm.plus_one.f32", NORM, F32, .T = 5, .C = 64, .flag = 2},
    {"norm.alias.f32", NORM, F32, .T = 9, .C = 80, .flag = 4},
    {"norm.frozen.f32", NORM, F32, .T = 9, .C = 17, .flag = 8},
    {"norm.bf16", NORM, BF16, .T = 130, .C = 256},
    {"norm.plain.bf16", NORM, BF16, .T = 3, .C = 100, .flag = 1},
    {"norm.rows.bf16", NORM, BF16, .T = 2300, .C = 64, .flag = 1},
    {"norm.wide.bf16", NORM, BF16, .T = 5, .C = 3584},
    {"norm.plus_one.bf16", NORM, BF16, .T = 17, .C = 48, .flag = 2},
    {"norm.alias.bf16", NORM, BF16, .T = 70, .C = 31, .flag = 4},
    {"linear.f32", LINEAR, F32, .T = 7, .N = 20, .C = 33},
    {"linear.bias.f32", LINEAR, F32, .T = 13, .N = 17, .C = 16, .flag = 3},
    {"linear.big.f32", LINEAR, F32, .T = 150, .N = 70, .C = 90, .flag = 1},
    {"linear.frozen.f32", LINEAR, F32, .T = 5, .N = 8, .C = 8, .flag = 5},
    {"linear.tile.bf16", LINEAR, BF16, .T = 64, .N = 64, .C = 64},
    {"linear.odd.bf16", LINEAR, BF16, .T = 77, .N = 45, .C = 51, .flag = 1},
    {"linear.one_row.bf16", LINEAR, BF16, .T = 1, .N = 100, .C = 40, .flag = 1},
    {"linear.one_col.bf16", LINEAR, BF16, .T = 70, .N = 1, .C = 65, .flag = 1},
    {"linear.add.bf16", LINEAR, BF16, .T = 130, .N = 96, .C = 160, .flag = 2},
    {"linear.long.bf16", LINEAR, BF16, .T = 600, .N = 48, .C = 32, .flag = 3},
    {"linear.deep.bf16", LINEAR, BF16, .T = 40, .N = 33, .C = 1100},
    {"linear.wide.bf16", LINEAR, BF16, .T = 33, .N = 700, .C = 48, .flag = 4},
    {"linear.parts.f32", LINEAR, F32, .T = 1100, .N = 40, .C = 48, .flag = 1},
    {"linear.parts.bf16", LINEAR, BF16, .T = 1100, .N = 40, .C = 48},
    {"linear.blocks.bf16", LINEAR, BF16, .T = 33, .N = 40, .C = 2100, .flag = 1},
    {"linear.blocks_dx.bf16", LINEAR, BF16, .T = 33, .N = 2100, .C = 40, .flag = 2},
    {"linear.fp8.f32", LINEAR, F32, .T = 9, .N = 32, .C = 48, .flag = 8, .no_diff = 1},
    {"linear.fp8.bf16", LINEAR, BF16, .T = 64, .N = 96, .C = 160, .flag = 8},
    {"linear.fp8_rows.bf16", LINEAR, BF16, .T = 201, .N = 272, .C = 144, .flag = 8},
    {"linear.fp8_bias.bf16", LINEAR, BF16, .T = 96, .N = 64, .C = 32, .flag = 11},
    {"linear.fp8_e4m3.bf16", LINEAR, BF16, .T = 130, .N = 48, .C = 1088, .flag = 16},
    {"linear.fp8_lean.bf16", LINEAR, BF16, .T = 77, .N = 208, .C = 112, .flag = 40},
    {"linear.fp8_frozen.bf16", LINEAR, BF16, .T = 33, .N = 16, .C = 16, .flag = 12},
    {"rope.f32", ROPE, F32, .T = 9, .nh = 3, .hd = 16, .rot = 16},
    {"rope.partial.f32", ROPE, F32, .T = 5, .nh = 2, .hd = 24, .rot = 12},
    {"rope.bf16", ROPE, BF16, .T = 65, .nh = 4, .hd = 64, .rot = 64},
    {"rope.odd.bf16", ROPE, BF16, .T = 33, .nh = 3, .hd = 40, .rot = 36},
    {"attn.f32", ATTN, F32, .T = 24, .nh = 4, .nkv = 2, .hd = 16, .cu = cu_small},
    {"attn.window.f32", ATTN, F32, .T = 24, .nh = 2, .nkv = 1, .hd = 8, .window = 4, .cu = cu_small},
    {"attn.softcap.f32", ATTN, F32, .T = 26, .nh = 2, .nkv = 2, .hd = 16, .softcap = 2, .cu = cu_small},
    {"attn.full.f32", ATTN, F32, .T = 24, .nh = 3, .nkv = 1, .hd = 12, .flag = 1, .cu = cu_small},
    {"attn.full_window.f32", ATTN, F32, .T = 24, .nh = 2, .nkv = 2, .hd = 12, .window = 5, .flag = 1, .cu = cu_small},
    {"attn.cache.f32", ATTN, F32, .T = 25, .nh = 4, .nkv = 2, .hd = 16, .flag = 2, .cu = cu_small, .no_diff = 1},
    {"attn.dead.f32", ATTN, F32, .T = 6, .nh = 2, .nkv = 1, .hd = 8, .cu = cu_none},
    {"attn.empty_segment.f32", ATTN, F32, .T = 10, .nh = 2, .nkv = 1, .hd = 8, .cu = cu_empty},
    {"attn.mid.f32", ATTN, F32, .T = 140, .nh = 4, .nkv = 2, .hd = 32, .cu = cu_mid},
    {"attn.mid.bf16", ATTN, BF16, .T = 133, .nh = 4, .nkv = 2, .hd = 32, .cu = cu_mid},
    {"attn.hd64.bf16", ATTN, BF16, .T = 130, .nh = 2, .nkv = 2, .hd = 64, .cu = cu_mid},
    {"attn.hd40.bf16", ATTN, BF16, .T = 131, .nh = 3, .nkv = 1, .hd = 40, .cu = cu_mid},
    {"attn.hd80.bf16", ATTN, BF16, .T = 131, .nh = 2, .nkv = 1, .hd = 80, .cu = cu_mid},
    {"attn.hd96.bf16", ATTN, BF16, .T = 131, .nh = 2, .nkv = 2, .hd = 96, .window = 40, .cu = cu_mid},
    {"attn.hd128.bf16", ATTN, BF16, .T = 133, .nh = 4, .nkv = 2, .hd = 128, .cu = cu_mid},
    {"attn.hd128_long.bf16", ATTN, BF16, .T = 300, .nh = 2, .nkv = 2, .hd = 128, .cu = cu_long},
    {"attn.softcap_hd128.bf16", ATTN, BF16, .T = 133, .nh = 2, .nkv = 1, .hd = 128, .softcap = 3, .cu = cu_mid},
    {"attn.softcap_hd64.bf16", ATTN, BF16, .T = 133, .nh = 2, .nkv = 1, .hd = 64, .softcap = 3, .cu = cu_mid},
    {"attn.hd256.bf16", ATTN, BF16, .T = 131, .nh = 2, .nkv = 1, .hd = 256, .cu = cu_mid},
    {"attn.hd64_long.bf16", ATTN, BF16, .T = 300, .nh = 3, .nkv = 1, .hd = 64, .window = 100, .cu = cu_long},
    {"attn.long.bf16", ATTN, BF16, .T = 152, .nh = 2, .nkv = 1, .hd = 32, .cu = cu_one},
    {"attn.window.bf16", ATTN, BF16, .T = 150, .nh = 2, .nkv = 1, .hd = 32, .window = 37, .cu = cu_one},
    {"attn.softcap.bf16", ATTN, BF16, .T = 133, .nh = 2, .nkv = 1, .hd = 32, .softcap = 3, .cu = cu_mid},
    {"attn.full.bf16", ATTN, BF16, .T = 133, .nh = 2, .nkv = 1, .hd = 64, .flag = 1, .cu = cu_mid},
    {"attn.cache.bf16", ATTN, BF16, .T = 133, .nh = 4, .nkv = 2, .hd = 32, .flag = 2, .cu = cu_mid, .no_diff = 1},
    {"ring.f32", RING, F32, .T = 26, .nh = 4, .nkv = 2, .hd = 8, .cu = cu_small},
    {"ring.mid.f32", RING, F32, .T = 133, .nh = 2, .nkv = 1, .hd = 32, .cu = cu_mid},
    {"ring.empty.f32", RING, F32, .T = 10, .nh = 2, .nkv = 2, .hd = 16, .cu = cu_empty},
    {"ring.bf16", RING, BF16, .T = 133, .nh = 4, .nkv = 2, .hd = 32, .cu = cu_mid},
    {"ring.hd128.bf16", RING, BF16, .T = 133, .nh = 2, .nkv = 1, .hd = 128, .cu = cu_mid},
    {"sum_rows.f32", SUM, F32, .T = 71, .C = 33},
    {"sum_rows.assign.f32", SUM, F32, .T = 5, .C = 8, .flag = 1},
    {"sum_rows.bf16", SUM, BF16, .T = 133, .C = 40},
    {"attn.dropout.f32", ATTN, F32, .T = 24, .nh = 4, .nkv = 2, .hd = 16, .flag = 4, .cu = cu_small},
    {"attn.dropout_window.f32", ATTN, F32, .T = 24, .nh = 2, .nkv = 1, .hd = 8, .window = 4, .softcap = 2, .flag = 4,
     .cu = cu_small},
    {"attn.dropout.bf16", ATTN, BF16, .T = 133, .nh = 4, .nkv = 2, .hd = 64, .flag = 4, .cu = cu_mid},
    {"attn.dropout_long.bf16", ATTN, BF16, .T = 300, .nh = 2, .nkv = 2, .hd = 32, .window = 270, .flag = 4,
     .cu = cu_long},
    {"attn.dropout_hd128.bf16", ATTN, BF16, .T = 300, .nh = 4, .nkv = 2, .hd = 128, .flag = 4, .cu = cu_long},
    {"attn.dropout_hd80.bf16", ATTN, BF16, .T = 131, .nh = 2, .nkv = 1, .hd = 80, .window = 40, .softcap = 3, .flag = 4,
     .cu = cu_mid},
    {"attn.dropout_hd256.bf16", ATTN, BF16, .T = 131, .nh = 2, .nkv = 2, .hd = 256, .flag = 5, .cu = cu_mid},
    {"attn.parts.f32", ATTN, F32, .T = 25, .nh = 4, .nkv = 2, .hd = 16, .flag = 10, .cu = cu_small, .no_diff = 1},
    {"attn.parts.bf16", ATTN, BF16, .T = 133, .nh = 4, .nkv = 2, .hd = 32, .flag = 10, .cu = cu_mid, .no_diff = 1},
    {"attn.parts_hd64.bf16", ATTN, BF16, .T = 300, .nh = 4, .nkv = 2, .hd = 64, .flag = 10, .cu = cu_long,
     .no_diff = 1},
    {"attn.parts_hd128.bf16", ATTN, BF16, .T = 300, .nh = 4, .nkv = 2, .hd = 128, .flag = 10, .cu = cu_long,
     .no_diff = 1},
    {"attn.parts_window.bf16", ATTN, BF16, .T = 300, .nh = 2, .nkv = 1, .hd = 64, .window = 37, .flag = 10,
     .cu = cu_long, .no_diff = 1},
    {"attn.parts_full.bf16", ATTN, BF16, .T = 133, .nh = 2, .nkv = 1, .hd = 128, .flag = 11, .cu = cu_mid,
     .no_diff = 1},
    {"attn.parts_softcap.bf16", ATTN, BF16, .T = 133, .nh = 2, .nkv = 1, .hd = 128, .softcap = 3, .flag = 10,
     .cu = cu_mid, .no_diff = 1},
    {"attn.parts_dropout.bf16", ATTN, BF16, .T = 300, .nh = 2, .nkv = 1, .hd = 64, .flag = 14, .cu = cu_long,
     .no_diff = 1},
    {"attn.parts_late.bf16", ATTN, BF16, .T = 133, .nh = 4, .nkv = 2, .hd = 64, .flag = 26, .cu = cu_mid, .no_diff = 1},
    {"attn.parts_late_hd96.bf16", ATTN, BF16, .T = 131, .nh = 2, .nkv = 2, .hd = 96, .flag = 26, .cu = cu_mid,
     .no_diff = 1},
    {"attn.dropout_cache.f32", ATTN, F32, .T = 25, .nh = 4, .nkv = 2, .hd = 16, .flag = 6, .cu = cu_small,
     .no_diff = 1},
    {"attn.cache_window.bf16", ATTN, BF16, .T = 133, .nh = 4, .nkv = 4, .hd = 32, .window = 9, .flag = 2, .cu = cu_mid,
     .no_diff = 1},
    {"swiglu.f32", ACT, F32, .T = 6, .C = 40, .flag = NS_ACT_SWIGLU},
    {"geglu.f32", ACT, F32, .T = 6, .C = 37, .flag = NS_ACT_GEGLU_TANH},
    {"relu2.f32", ACT, F32, .T = 6, .C = 37, .flag = NS_ACT_RELU2},
    {"swiglu.bf16", ACT, BF16, .T = 130, .C = 200, .flag = NS_ACT_SWIGLU},
    {"swiglu.odd.bf16", ACT, BF16, .T = 3, .C = 21, .flag = NS_ACT_SWIGLU},
    {"geglu.bf16", ACT, BF16, .T = 5, .C = 50, .flag = NS_ACT_GEGLU_TANH},
    {"relu2.bf16", ACT, BF16, .T = 5, .C = 50, .flag = NS_ACT_RELU2},
    {"head.f32", HEAD, F32, .T = 9, .C = 24, .V = 50},
    {"head.padded.f32", HEAD, F32, .T = 9, .C = 24, .V = 50, .pad = 14},
    {"head.softcap.f32", HEAD, F32, .T = 9, .C = 20, .V = 33, .softcap = 1.5f},
    {"head.loss_only.f32", HEAD, F32, .T = 9, .C = 24, .V = 50, .pad = 3, .flag = 1},
    {"head.frozen.f32", HEAD, F32, .T = 9, .C = 24, .V = 50, .flag = 2},
    {"head.big.f32", HEAD, F32, .T = 200, .C = 40, .V = 300, .pad = 20},
    {"head.bf16", HEAD, BF16, .T = 200, .C = 64, .V = 320, .pad = 0},
    {"head.padded.bf16", HEAD, BF16, .T = 150, .C = 50, .V = 130, .pad = 62},
    {"head.softcap.bf16", HEAD, BF16, .T = 33, .C = 48, .V = 97, .softcap = 3},
    {"head.loss_only.bf16", HEAD, BF16, .T = 40, .C = 96, .V = 200, .pad = 3, .flag = 1},
    {"head.chunks.f32", HEAD, F32, .T = 1400, .C = 16, .V = 300, .pad = 4},
    {"head.chunks.bf16", HEAD, BF16, .T = 1400, .C = 32, .V = 300, .pad = 20},
    {"head.wide.bf16", HEAD, BF16, .T = 40, .C = 32, .V = 2100, .pad = 12},
    {"head.long.bf16", HEAD, BF16, .T = 9, .C = 16, .V = 8301, .pad = 3, .no_diff = 1},
    {"dropout.f32", DROP, F32, .T = 5, .C = 19},
    {"dropout.alias.f32", DROP, F32, .T = 5, .C = 24, .flag = 1},
    {"dropout.bf16", DROP, BF16, .T = 33, .C = 66},
    {"dropout.part.bf16", DROP, BF16, .T = 33, .C = 66, .flag = 2},
    {"add.f32", ADD, F32, .T = 1003},
    {"add.bf16", ADD, BF16, .T = 70001},
    {"adamw.f32", OPT, F32, .T = 1003},
    {"adamw.bf16", OPT, BF16, .T = 70001},
    {"adamw.nan.bf16", OPT, BF16, .T = 77, .flag = 1},
    {"adamw.no_clip.f32", OPT, F32, .T = 77, .flag = 2},
    {"adamw.small.bf16", OPT, BF16, .T = 70001, .flag = 2 | 4 | 8 | 16},
    {"adamw.small.aligned.bf16", OPT, BF16, .T = 65536, .flag = 2 | 4 | 8 | 16},
    {"adamw.small.nan.bf16", OPT, BF16, .T = 77, .flag = 1 | 4 | 8 | 16},
    {"adamw.no_rem.bf16", OPT, BF16, .T = 20001, .flag = 2 | 4},
    {"adamw.moments.bf16", OPT, BF16, .T = 32768, .flag = 8 | 16},
    {"adamw.m.bf16", OPT, BF16, .T = 8200, .flag = 2 | 8},
    {"adamw.moments.f32", OPT, F32, .T = 20001, .flag = 2 | 8 | 16},
    {"adamw.v.f32", OPT, F32, .T = 8192, .flag = 2 | 16},
};
enum { N_CASES = (int)(sizeof cases / sizeof cases[0]) };

/* 1: the case wants what this back-end says it does not have. */
static int needs_more(const cas *c, const ns_ops *ops)
{
    if (c->fwd == ring_fwd || c->fwd == sum_fwd) return !ops->attn_merge;
    return (c->fwd == linear_fwd && (c->flag & 24) && (!ops->fp8 || (case_backend && c->dt == NS_DTYPE_F32)));
}

/* ---- running one case ---- */
static void prob_new(prob *p, const cas *c, const ns_ops *ops, ns_threads *pool)
{
    memset(p, 0, sizeof *p);
    p->c = c;
    p->x.ops = ops;
    p->x.pool = pool;
    p->step = (ns_step *)guarded(sizeof *p->step);
    memset(p->step, 0, sizeof *p->step);
    p->x.step = p->step;
    p->x.backend = case_backend;
    p->x.any_order = case_any_order;
    p->x.fp8_split = case_fp8_split;
    c->setup(p);
    int64_t wide = c->C > c->N ? c->C : c->N;
    p->x.work_bytes = ops->work_bytes(&p->x, c->T, c->T + 29, wide, wide, c->V + c->pad, c->nh, c->hd);
    if (p->x.work_bytes) p->x.work = p->work = guarded(p->x.work_bytes);
    prepare(p);
}

static void prob_free(prob *p)
{
    for (int i = 0; i < p->n; i++) {
        give(p->b[i].raw);
        give(p->b[i].init);
    }
    give((char *)p->step - GUARD);
    if (p->work) give(p->work - GUARD);
    if (p->panels) give(p->panels - GUARD);
}

#endif
