/* Plan back-end: the same table as every other back-end; each op records its uses, flops and bytes and touches no data.
 * flops: 2 per multiply-add, a few per element for the rest. bytes: each operand once (twice where it is added to), the
 * least that memory must move. Panels and work belong to back-ends: a use of them counts for lifetime, not for bytes. */
#include "ops/ref/ref.h"
#include "ops/space.h"

typedef struct use {
    const void *p; /* NULL: absent operand */
    int64_t bytes;
    int times; /* 1 read or written, 2 added to */
} use;

#define RECORD(x, op, flops, ...) \
    record((x), (op), (double)(flops), (const use[]){__VA_ARGS__}, sizeof((const use[]){__VA_ARGS__}) / sizeof(use))

static void record(ns_exec *x, const char *op, double flops, const use *u, size_t n)
{
    double bytes = 0;
    for (size_t i = 0; i < n; i++)
        if (u[i].p) bytes += (double)u[i].bytes * u[i].times;
    ns_plan_op(x->plan, op, flops, bytes);
    for (size_t i = 0; i < n; i++)
        if (u[i].p) ns_plan_touch(x->plan, u[i].p, u[i].bytes);
    if (x->work) ns_plan_touch(x->plan, x->work, x->work_bytes);
}

static void touch(ns_exec *x, const void *p)
{
    if (p) ns_plan_touch(x->plan, p, 1);
}

static int64_t es(ns_dtype t)
{
    return (int64_t)ns_dtype_size(t);
}

/* Operand lists are made of these: an array of n elements, a weight's data, a weight's gradient. */
static use arr(const void *p, int64_t n, int64_t size)
{
    return (use){p, n * size, 1};
}
static use data(const ns_weight *w)
{
    return w ? (use){w->data, w->rows * w->cols * es(w->dt), 1} : (use){0};
}
static use grad(const ns_weight *w)
{
    return w ? (use){w->grad, w->rows * w->cols * 4, 2} : (use){0};
}

static void embed_fwd(ns_exec *x, const ns_embed_args *a)
{
    /* reads T rows of the table, whatever its size */
    RECORD(x, "embed_fwd", 0, arr(a->ids, a->T, 4),
           arr(a->table->data, a->T < a->V ? a->T * a->C : a->V * a->C, es(a->table->dt)),
           arr(a->x, a->T * a->C, es(a->dt)));
}

static void embed_bwd(ns_exec *x, const ns_embed_args *a)
{
    use g = grad(a->table);
    int64_t rows = a->T < a->V ? a->T : a->V;
    g.bytes = rows * a->C * 4;
    RECORD(x, "embed_bwd", a->T * a->C, arr(a->ids, a->T, 4), arr(a->dx, a->T * a->C, es(a->dt)), g);
}

static void norm_fwd(ns_exec *x, const ns_norm_args *a)
{
    int64_t n = a->T * a->C, e = es(a->dt);
    RECORD(x, "norm_fwd", 4.0 * (double)n, arr(a->x, n, e), arr(a->delta, n, e), arr(a->h, n, e), arr(a->y, n, e),
           arr(a->rstd, a->T, 4), data(a->w));
}

static void norm_bwd(ns_exec *x, const ns_norm_bwd_args *a)
{
    int64_t n = a->T * a->C, e = es(a->dt);
    RECORD(x, "norm_bwd", 10.0 * (double)n, arr(a->h, n, e), arr(a->rstd, a->T, 4), arr(a->dy, n, e),
           arr(a->dres, n, e), arr(a->dh, n, e), arr(a->y, n, e), data(a->w), grad(a->w));
}

/* What the fp8 cast of an operand leaves: [rows, M] bytes. */
static use cast8(const void *p, int64_t rows, int64_t M)
{
    return arr(p, ns_fp8_bytes(rows, M), 1);
}

static double gemm_flops(const ns_linear_args *a)
{
    return 2.0 * (double)a->M * (double)a->N * (double)a->K;
}

static void linear_fwd(ns_exec *x, const ns_linear_args *a)
{
    RECORD(x, a->w->fp8 ? "linear8_fwd" : "linear_fwd", gemm_flops(a), arr(a->x, a->M * a->K, es(a->dt)), data(a->w),
           data(a->b), arr(a->y, a->M * a->N, es(a->dt)), cast8(a->x8, a->K, a->M));
    touch(x, a->w->panels_fwd);
}

static void linear_dgrad(ns_exec *x, const ns_linear_args *a)
{
    use dx = arr(a->dx, a->M * a->K, es(a->dt));
    dx.times = a->add_dx ? 2 : 1;
    RECORD(x, a->w->fp8 ? "linear8_dgrad" : "linear_dgrad", gemm_flops(a), arr(a->dy, a->M * a->N, es(a->dt)),
           data(a->w), dx, cast8(a->dy8, a->N, a->M));
    touch(x, a->w->panels_fwd);
    touch(x, a->w->panels_dx);
}

static void linear_wgrad(ns_exec *x, const ns_linear_args *a)
{
    RECORD(x, a->w->fp8 ? "linear8_wgrad" : "linear_wgrad", a->w->grad ? gemm_flops(a) : 0.0,
           arr(a->x8 ? NULL : a->x, a->M * a->K, es(a->dt)), arr(a->dy, a->M * a->N, es(a->dt)), grad(a->w), grad(a->b),
           cast8(a->x8, a->K, a->M), cast8(a->dy8, a->N, a->M));
}

static void rope(ns_exec *x, const ns_rope_args *a)
{
    int64_t row = a->n_heads * a->head_dim, e = es(a->dt);
    use qk = {a->qk, a->T > 0 ? ((a->T - 1) * a->row_stride + row) * e : 0, 2};
    RECORD(x, "rope", 3 * a->T * a->n_heads * a->rot_dim, qk, arr(a->position, a->T, 4),
           arr(a->cos_sin, a->max_pos * a->rot_dim, 4));
}

/* Pairs (query row, key row) that are computed. The lengths of segments are data; the geometry gives the bound used here:
 * rows see at most max_kv keys, half of them when causal, at most `window`. */
static double pairs(const ns_attn_args *a)
{
    double seen = (double)a->max_kv;
    if (a->causal && a->max_q == a->max_kv) seen = (seen + 1) / 2;
    if (a->window > 0 && seen > (double)a->window) seen = (double)a->window;
    return (double)a->T * seen * (double)a->n_heads;
}

/* A [T, heads*hd] operand of row stride `stride`. Rows of k and v may lie outside [0,T) (a cache): touch the first only. */
static use rows(const ns_attn_args *a, const void *p, int64_t stride, int64_t heads)
{
    int64_t n = a->kv_start ? 1 : a->T;
    return (use){p, n > 0 ? ((n - 1) * stride + heads * a->head_dim) * es(a->dt) : 0, 1};
}

static void attn_fwd(ns_exec *x, const ns_attn_args *a)
{
    int64_t n = a->T * a->n_heads * a->head_dim, e = es(a->dt);
    use q = {a->q, a->T > 0 ? ((a->T - 1) * a->q_stride + a->n_heads * a->head_dim) * e : 0, 1};
    RECORD(x, "attn_fwd", 4 * pairs(a) * (double)a->head_dim, q, rows(a, a->k, a->k_stride, a->n_kv),
           rows(a, a->v, a->v_stride, a->n_kv), arr(a->out, n, e), arr(a->lse, a->T * a->n_heads, 4),
           arr(a->cu_q, a->n_seg + 1, 4), arr(a->kv_start, a->n_seg, 4), arr(a->kv_len, a->n_seg, 4));
}

static void attn_bwd(ns_exec *x, const ns_attn_args *a)
{
    int64_t n = a->T * a->n_heads * a->head_dim, e = es(a->dt);
    int64_t q = a->T > 0 ? ((a->T - 1) * a->q_stride + a->n_heads * a->head_dim) * e : 0;
    RECORD(x, "attn_bwd", 10 * pairs(a) * (double)a->head_dim, (use){a->q, q, 1}, (use){a->dq, q, 1},
           rows(a, a->k, a->k_stride, a->n_kv), rows(a, a->v, a->v_stride, a->n_kv),
           rows(a, a->dk, a->k_stride, a->n_kv), rows(a, a->dv, a->v_stride, a->n_kv), arr(a->out, n, e),
           arr(a->dout, n, e), arr(a->lse, a->T * a->n_heads, 4), arr(a->cu_q, a->n_seg + 1, 4));
}

static void attn_merge(ns_exec *x, const ns_attn_merge_args *a)
{
    const int64_t n = a->T * a->n_heads * a->head_dim, heads = a->T * a->n_heads, e = es(a->dt);
    RECORD(x, "attn_merge", 3 * n, arr(a->part, n, e), (use){a->acc, n * 4, a->assign ? 1 : 2},
           arr(a->assign ? NULL : a->part_lse, heads, 4), (use){a->assign ? NULL : a->lse, heads * 4, 2},
           arr(a->out, n, e), arr(a->cu_q, a->n_seg + 1, 4));
}

static void sum_rows(ns_exec *x, const ns_sum_rows_args *a)
{
    const int64_t n = a->T * a->cols, e = es(a->dt);
    const use src = {a->src, a->T > 0 ? ((a->T - 1) * a->src_stride + a->cols) * e : 0, 1};
    RECORD(x, "sum_rows", 2 * n, src, arr(a->more, n, 4), (use){a->acc, n * 4, a->assign ? 1 : 2},
           arr(a->out, a->cols, e), arr(a->row, a->T, 4));
}

static void act_fwd(ns_exec *x, const ns_act_args *a)
{
    int64_t n = a->T * a->F, e = es(a->dt), wide = a->act == NS_ACT_RELU2 ? 1 : 2;
    RECORD(x, "act_fwd", 8 * n, arr(a->x, n * wide, e), arr(a->y, n, e));
}

static void act_bwd(ns_exec *x, const ns_act_args *a)
{
    int64_t n = a->T * a->F, e = es(a->dt), wide = a->act == NS_ACT_RELU2 ? 1 : 2;
    RECORD(x, "act_bwd", 14 * n, arr(a->x, n * wide, e), arr(a->dy, n, e), arr(a->dx, n * wide, e), arr(a->y, n, e));
}

static void head(ns_exec *x, const ns_head_args *a)
{
    double flops = 2.0 * (double)a->T * (double)a->C * (double)a->V;
    if (a->dx) flops *= a->w->grad ? 3 : 2;
    use g = a->dx ? grad(a->w) : (use){0};
    RECORD(x, "head", flops, arr(a->x, a->T * a->C, es(a->dt)), data(a->w), g, arr(a->label, a->T, 4),
           arr(a->weight, a->T, 4), arr(a->logp, a->T, 4), arr(a->dx, a->T * a->C, es(a->dt)),
           arr(a->stats, 2 * a->T, 4));
    touch(x, a->w->panels_fwd);
    if (a->dx) touch(x, a->w->panels_dx);
}

static void dropout(ns_exec *x, const ns_dropout_args *a)
{
    int64_t n = a->T * a->C, e = es(a->dt);
    RECORD(x, "dropout", n, arr(a->x, n, e), arr(a->y, n, e), arr(a->token, a->T, 4));
}

static void add(ns_exec *x, const ns_add_args *a)
{
    int64_t e = es(a->dt);
    RECORD(x, "add", a->n, arr(a->x, a->n, e), arr(a->delta, a->n, e), arr(a->y, a->n, e));
}

static void scatter_rows(ns_exec *x, const ns_scatter_args *a)
{
    int64_t src = a->T > 0 ? (a->T - 1) * a->src_stride + a->cols : 0; /* bytes moved: T rows in, T rows out */
    RECORD(x, "scatter_rows", 0, (use){a->src, src * es(a->dt), 1}, arr(a->dst, a->cols, es(a->dt)),
           arr(a->row, a->T, 4));
}

static void zero(ns_exec *x, const ns_fill_args *a)
{
    RECORD(x, "zero", 0, arr(a->p, a->bytes, 1));
}

static void grad_sumsq(ns_exec *x, const ns_opt_args *a)
{
    double n = 0;
    for (int64_t k = 0; k < a->n_items; k++) n += (double)a->items[k].n;
    ns_plan_op(x->plan, "grad_sumsq", 2 * n, 4 * n);
    for (int64_t k = 0; k < a->n_items; k++) ns_plan_touch(x->plan, a->items[k].grad, a->items[k].n * 4);
}

static void clip(ns_exec *x, const ns_opt_args *a)
{
    (void)a;
    ns_plan_op(x->plan, "clip", 4, 0);
}

static void adamw(ns_exec *x, const ns_opt_args *a)
{
    double n = 0, bytes = 0;
    for (int64_t k = 0; k < a->n_items; k++) {
        const ns_opt_item *it = &a->items[k];
        n += (double)it->n;
        bytes +=
            (double)it->n * (4.0 + 2.0 * (double)(es(it->dt) + (it->rem ? 2 : 0) + es(it->form.m) + es(it->form.v)));
    }
    ns_plan_op(x->plan, "adamw", 16 * n, bytes);
    for (int64_t k = 0; k < a->n_items; k++) {
        const ns_opt_item *it = &a->items[k];
        ns_plan_touch(x->plan, it->w, it->n * es(it->dt));
        if (it->rem) ns_plan_touch(x->plan, it->rem, it->n * 2);
        ns_plan_touch(x->plan, it->grad, it->n * 4);
        ns_plan_touch(x->plan, it->m, it->n * es(it->form.m));
        ns_plan_touch(x->plan, it->v, it->n * es(it->form.v));
    }
}

static void prepare(ns_exec *x, const ns_weight *w)
{
    if (!w->panels_fwd && !w->panels_dx) return;
    RECORD(x, "prepare", 0, data(w));
    touch(x, w->panels_fwd);
    touch(x, w->panels_dx);
}

/* Planning has no memory: copies record nothing. */
static ns_status mem_new(ns_exec *x, void **out, int64_t bytes, ns_error *err)
{
    (void)x, (void)bytes;
    *out = NULL;
    NS_FAIL(NS_ERR_INTERNAL, "the plan back-end has no memory");
}

static void mem_free(ns_exec *x, void *p)
{
    (void)x, (void)p;
}

static void copy(ns_exec *x, void *dst, const void *src, int64_t bytes)
{
    (void)x, (void)dst, (void)src, (void)bytes;
}

/* Sizes belong to the back-end that will run: ask that one (its prepare_bytes and work_bytes) while planning. */
static void prepare_bytes(const ns_weight *w, int64_t *fwd, int64_t *dx)
{
    (void)w;
    *fwd = *dx = 0;
}

static int64_t work_bytes(const ns_exec *x, int64_t T, int64_t max_len, int64_t C, int64_t F, int64_t V,
                          int64_t n_heads, int64_t head_dim)
{
    (void)x, (void)T, (void)max_len, (void)C, (void)F, (void)V, (void)n_heads, (void)head_dim;
    return 0;
}

const ns_ops ns_ops_plan = {
    .name = "plan",
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
    .attn_merge = attn_merge,
    .sum_rows = sum_rows,
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
    .upload = copy,
    .download = copy,
    .copy_begin = ns_ref_copy_mark,
    .copy_out = copy,
    .copy_end = ns_ref_copy_mark,
    .copy_hold = ns_ref_copy_mark,
    .copy_held = ns_ref_copy_held,
    .copy_wait = ns_ref_copy_wait,
    .pin = ns_ref_pin,
    .unpin = ns_ref_unpin,
    .prepare_bytes = prepare_bytes,
    .work_bytes = work_bytes,
};
