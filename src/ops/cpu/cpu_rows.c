/* Row and element ops over the pool: the rows are cut into blocks of a size fixed by the shape, and each block is one call
 * of a serial op (ref's or a vector version) on moved pointers. Sums over rows go through per-block partials, added in
 * block order. */
#include "ops/cpu/cpu.h"

#include <math.h>
#include <string.h>

enum { ELEMENTS = 16384, NORM_BLOCKS = 64, SUM_BLOCK = 65536, SUM_SLOTS = 1024 };

int64_t ns_cpu_rows_work(int64_t C)
{
    return ns_cpu_max(NORM_BLOCKS * C * 4, SUM_SLOTS * 8);
}

/* Rows per block so that a block has about ELEMENTS elements. */
static int64_t rows_of(int64_t row)
{
    return ns_cpu_max(1, ELEMENTS / ns_cpu_max(1, row));
}

static void *at(const void *p, ns_dtype dt, int64_t i) /* NULL stays NULL */
{
    return p ? (char *)(uintptr_t)p + i * (int64_t)ns_dtype_size(dt) : NULL;
}

#define BLOCKS(n, block) ((int)(((n) + (block)-1) / (block)))
#define JOB(type)                                            \
    typedef struct type##_job {                              \
        ns_exec *x;                                          \
        const ns_##type##_args *a;                           \
        void (*serial)(ns_exec *, const ns_##type##_args *); \
        int64_t block;                                       \
        float *partial;                                      \
    } type##_job
JOB(norm);
JOB(norm_bwd);
JOB(rope);
JOB(act);
JOB(dropout);
JOB(add);

static void norm_tile(void *arg, int i, int worker)
{
    const norm_job *j = arg;
    ns_norm_args s = *j->a;
    int64_t t = i * j->block;
    (void)worker;
    s.T = ns_cpu_min(j->block, j->a->T - t);
    s.x = at(s.x, s.dt, t * s.C), s.delta = at(s.delta, s.dt, t * s.C), s.h = at(s.h, s.dt, t * s.C);
    s.y = at(s.y, s.dt, t * s.C), s.rstd = s.rstd ? s.rstd + t : NULL;
    j->serial(j->x, &s);
}
void ns_cpu_norm_fwd(ns_exec *x, const ns_norm_args *a, void (*serial)(ns_exec *, const ns_norm_args *))
{
    norm_job j = {x, a, serial, rows_of(a->C), NULL};
    ns_parallel_for(x->pool, BLOCKS(a->T, j.block), norm_tile, &j);
}

static void norm_bwd_tile(void *arg, int i, int worker)
{
    const norm_bwd_job *j = arg;
    ns_norm_bwd_args s = *j->a;
    ns_weight w = *s.w; /* this block's sum of dw */
    int64_t t = i * j->block;
    (void)worker;
    if (w.grad) w.grad = memset(j->partial + i * s.C, 0, (size_t)s.C * 4);
    s.T = ns_cpu_min(j->block, j->a->T - t);
    s.w = &w;
    s.h = at(s.h, s.dt, t * s.C), s.dy = at(s.dy, s.dt, t * s.C), s.dres = at(s.dres, s.dt, t * s.C);
    s.dh = at(s.dh, s.dt, t * s.C), s.rstd += t;
    s.y = NULL; /* the forward op writes it, after all blocks (cpu_ops.c) */
    j->serial(j->x, &s);
}
void ns_cpu_norm_bwd(ns_exec *x, const ns_norm_bwd_args *a, void (*serial)(ns_exec *, const ns_norm_bwd_args *))
{
    ns_cpu_scratch s;
    if (!ns_cpu_get_scratch(&s, x, NORM_BLOCKS * a->C * 4, 0, "norm_bwd")) return;
    int64_t block = ns_cpu_max(ns_cpu_min(rows_of(a->C), 64), (a->T + NORM_BLOCKS - 1) / NORM_BLOCKS);
    norm_bwd_job j = {x, a, serial, block, (float *)s.shared};
    int n = BLOCKS(a->T, block);
    ns_parallel_for(x->pool, n, norm_bwd_tile, &j);
    for (int i = 0; a->w->grad && i < n; i++)
        for (int64_t c = 0; c < a->C; c++) a->w->grad[c] += j.partial[i * a->C + c];
}

static void rope_tile(void *arg, int i, int worker)
{
    const rope_job *j = arg;
    ns_rope_args s = *j->a;
    int64_t t = i * j->block;
    (void)worker;
    s.T = ns_cpu_min(j->block, s.T - t);
    s.position += t;
    s.qk = at(s.qk, s.dt, t * s.row_stride);
    j->serial(j->x, &s);
}
void ns_cpu_rope(ns_exec *x, const ns_rope_args *a, void (*serial)(ns_exec *, const ns_rope_args *))
{
    rope_job j = {x, a, serial, rows_of(a->n_heads * a->head_dim), NULL};
    ns_parallel_for(x->pool, BLOCKS(a->T, j.block), rope_tile, &j);
}

static void act_tile(void *arg, int i, int worker)
{
    const act_job *j = arg;
    ns_act_args s = *j->a;
    int64_t t = i * j->block, wide = s.act == NS_ACT_RELU2 ? s.F : 2 * s.F;
    (void)worker;
    s.T = ns_cpu_min(j->block, s.T - t);
    s.x = at(s.x, s.dt, t * wide), s.dx = at(s.dx, s.dt, t * wide);
    s.y = at(s.y, s.dt, t * s.F), s.dy = at(s.dy, s.dt, t * s.F);
    j->serial(j->x, &s);
}
void ns_cpu_act(ns_exec *x, const ns_act_args *a, void (*serial)(ns_exec *, const ns_act_args *))
{
    act_job j = {x, a, serial, rows_of(2 * a->F), NULL};
    ns_parallel_for(x->pool, BLOCKS(a->T, j.block), act_tile, &j);
}

static void dropout_tile(void *arg, int i, int worker)
{
    const dropout_job *j = arg;
    ns_dropout_args s = *j->a;
    int64_t t = i * j->block;
    (void)worker;
    s.T = ns_cpu_min(j->block, s.T - t);
    if (s.token)
        s.token += t;
    else
        s.token0 += t;
    s.x = at(s.x, s.dt, t * s.C), s.y = at(s.y, s.dt, t * s.C);
    j->serial(j->x, &s);
}
void ns_cpu_dropout(ns_exec *x, const ns_dropout_args *a, void (*serial)(ns_exec *, const ns_dropout_args *))
{
    dropout_job j = {x, a, serial, rows_of(a->C), NULL};
    ns_parallel_for(x->pool, BLOCKS(a->T, j.block), dropout_tile, &j);
}

static void add_tile(void *arg, int i, int worker)
{
    const add_job *j = arg;
    ns_add_args s = *j->a;
    int64_t k = (int64_t)i * ELEMENTS;
    (void)worker;
    s.n = ns_cpu_min(ELEMENTS, s.n - k);
    s.x = at(s.x, s.dt, k), s.delta = at(s.delta, s.dt, k), s.y = at(s.y, s.dt, k);
    j->serial(j->x, &s);
}
void ns_cpu_add(ns_exec *x, const ns_add_args *a, void (*serial)(ns_exec *, const ns_add_args *))
{
    add_job j = {x, a, serial, ELEMENTS, NULL};
    ns_parallel_for(x->pool, BLOCKS(a->n, ELEMENTS), add_tile, &j);
}

/* ---- embedding ---- */

static void embed_tile(void *arg, int i, int worker)
{
    const ns_embed_args *a = arg;
    int64_t t0 = i * rows_of(a->C), t1 = ns_cpu_min(t0 + rows_of(a->C), a->T), size = (int64_t)ns_dtype_size(a->dt);
    (void)worker;
    for (int64_t t = t0; t < t1; t++) {
        NS_ASSERT(a->ids[t] < a->V);
        char *out = (char *)a->x + t * a->C * size;
        if (a->ids[t] < 0)
            memset(out, 0, (size_t)(a->C * size));
        else
            memcpy(out, (const char *)a->table->data + a->ids[t] * a->C * size, (size_t)(a->C * size));
    }
}
void ns_cpu_embed_fwd(ns_exec *x, const ns_embed_args *a)
{
    if (a->dt != a->table->dt) {
        ns_ref_embed_fwd(x, a);
        return;
    }
    ns_parallel_for(x->pool, BLOCKS(a->T, rows_of(a->C)), embed_tile, (void *)(uintptr_t)a);
}

enum { EMBED_OWNERS = 16 };
/* Owner i adds the tokens whose id is i modulo the owners: each table row has one writer, which sees tokens in order. */
static void embed_bwd_tile(void *arg, int i, int worker)
{
    const ns_embed_args *a = arg;
    (void)worker;
    for (int64_t t = 0; t < a->T; t++) {
        if (a->ids[t] < 0 || a->ids[t] % EMBED_OWNERS != i) continue;
        NS_ASSERT(a->ids[t] < a->V);
        float *g = a->table->grad + a->ids[t] * a->C;
        if (a->dt == NS_DTYPE_BF16) {
            const uint16_t *d = (const uint16_t *)a->dx + t * a->C;
            for (int64_t c = 0; c < a->C; c++) g[c] += ns_bf16_to_f32(d[c]);
        } else {
            const float *d = (const float *)a->dx + t * a->C;
            for (int64_t c = 0; c < a->C; c++) g[c] += d[c];
        }
    }
}
void ns_cpu_embed_bwd(ns_exec *x, const ns_embed_args *a)
{
    if (a->table->grad) ns_parallel_for(x->pool, EMBED_OWNERS, embed_bwd_tile, (void *)(uintptr_t)a);
}

/* ---- whole-array ops ---- */

enum { ZERO_BLOCK = 1 << 20 };
static void zero_tile(void *arg, int i, int worker)
{
    const ns_fill_args *a = arg;
    int64_t k = (int64_t)i * ZERO_BLOCK;
    (void)worker;
    memset((char *)a->p + k, 0, (size_t)ns_cpu_min(ZERO_BLOCK, a->bytes - k));
}
void ns_cpu_zero(ns_exec *x, const ns_fill_args *a)
{
    ns_parallel_for(x->pool, BLOCKS(a->bytes, ZERO_BLOCK), zero_tile, (void *)(uintptr_t)a);
}

double ns_cpu_sumsq(const float *g, int64_t n)
{
    double s[8] = {0}; /* eight sums, element i into i mod 8: independent chains, one fixed order */
    for (int64_t i = 0; i < n; i++) s[i & 7] += (double)g[i] * (double)g[i];
    return ((s[0] + s[4]) + (s[2] + s[6])) + ((s[1] + s[5]) + (s[3] + s[7]));
}

/* Pieces of the items' element lists: piece k of an item is [k SUM_BLOCK, ...). The walk below finds piece `i` of a batch. */
typedef struct pieces {
    ns_exec *x;
    const ns_opt_args *a;
    int64_t item, first; /* where the batch starts: piece `first` of `item` */
    double *slot;
    double (*sumsq)(const float *, int64_t);
    void (*adamw)(ns_exec *, const ns_opt_args *);
} pieces;

static int64_t n_pieces(const ns_opt_item *it)
{
    return (it->n + SUM_BLOCK - 1) / SUM_BLOCK;
}

static void piece_tile(void *arg, int i, int worker)
{
    const pieces *p = arg;
    int64_t item = p->item, piece = p->first + i;
    (void)worker;
    while (piece >= n_pieces(&p->a->items[item])) piece -= n_pieces(&p->a->items[item++]);
    ns_opt_item it = p->a->items[item];
    int64_t k = piece * SUM_BLOCK;
    it.n = ns_cpu_min(SUM_BLOCK, it.n - k);
    it.grad += k;
    if (p->sumsq) {
        p->slot[i] = p->sumsq(it.grad, it.n);
        return;
    }
    it.w = at(it.w, it.dt, k), it.rem = it.rem ? it.rem + k : NULL;
    it.m = at(it.m, it.form.m, k), it.v = at(it.v, it.form.v, k);
    it.first += k;
    /* vector versions know the exact form; rounding needs a Philox block for 8 elements, next to which vectors gain little */
    const int exact = !it.form.no_rem && it.form.m == NS_DTYPE_F32 && it.form.v == NS_DTYPE_F32;
    (exact ? p->adamw : ns_ref_adamw)(p->x, &(ns_opt_args){&it, 1});
}

/* Runs the tiles of all pieces, at most SUM_SLOTS at a time; adds the slots in order. */
static double run_pieces(pieces *p)
{
    double sum = 0;
    while (p->item < p->a->n_items) {
        int64_t n = 0, item = p->item, left = -p->first;
        for (; item < p->a->n_items && n + left + n_pieces(&p->a->items[item]) <= SUM_SLOTS; item++)
            n += left + n_pieces(&p->a->items[item]), left = 0;
        if (n == 0 && item < p->a->n_items) n = SUM_SLOTS; /* part of a large item */
        ns_parallel_for(p->x->pool, (int)n, piece_tile, p);
        for (int64_t i = 0; p->sumsq && i < n; i++) sum += p->slot[i];
        for (p->first += n; p->item < p->a->n_items && p->first >= n_pieces(&p->a->items[p->item]);)
            p->first -= n_pieces(&p->a->items[p->item++]);
    }
    return sum;
}

void ns_cpu_grad_sumsq(ns_exec *x, const ns_opt_args *a, double (*serial)(const float *, int64_t))
{
    ns_cpu_scratch s;
    if (!ns_cpu_get_scratch(&s, x, SUM_SLOTS * 8, 0, "grad_sumsq")) return;
    pieces p = {x, a, 0, 0, (double *)s.shared, serial, NULL};
    double sum = run_pieces(&p);
    x->step->grad_sumsq = sum;
    x->step->nonfinite = !isfinite(sum);
}

void ns_cpu_adamw(ns_exec *x, const ns_opt_args *a, void (*serial)(ns_exec *, const ns_opt_args *))
{
    pieces p = {x, a, 0, 0, NULL, NULL, serial};
    if (!x->step->nonfinite) run_pieces(&p);
}
