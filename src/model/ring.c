/* Context parallel as a ring: each rank has the queries of its tokens, and the keys and values of one rank after another pass by.
 * In turn s a rank works on the block of rank (r - s) mod n while the next block is on its way: two blocks of keys and values in all,
 * however many ranks. Zig-zag pieces (pack/cut.c) make every turn the same work for all: of an earlier rank's block all my queries see
 * the early pieces, of a later one's my late queries see all; what is masked as a whole is not computed.
 *
 * Forward: the parts are joined by their log-sum-exp (ns_ops.attn_merge), in f32, in the order of turns. Backward: the blocks pass again
 * (nothing was kept of them); with the final log-sum-exp each block's gradients are right by themselves. Gradients of keys and values
 * travel with their block, in f32, from the rank behind its owner (turn 1) on; the owner keeps what it has to add (turn 0) and adds
 * it when they are back. All sums have one order: a layout repeats itself bitwise. */
#include "model/model_priv.h"
#include "ops/space.h"

static int owner(const ns_model *m, int turn)
{
    return (m->opt.cp_rank - turn + m->opt.cp_size) % m->opt.cp_size;
}

static int64_t block_bytes(const ns_model *m, int64_t size)
{
    return m->cp_rows * ns_model_kv_width(m) * size;
}

/* ---- on the way ---- */

/* Planning: what is on its way stays where it is. */
static void record(ns_exec *x, const ns_comm_turn *t, int n)
{
    for (int i = 0; x->plan && i < n; i++) {
        ns_plan_op(x->plan, "ring", 0, (double)t[i].bytes);
        ns_plan_touch(x->plan, t[i].out, t[i].bytes);
        ns_plan_touch(x->plan, t[i].in, t[i].bytes);
    }
}

/* 1 if something is on its way and is to be waited for. */
static int depart(ns_model *m, ns_exec *x, const ns_comm_turn *t, int n)
{
    record(x, t, n);
    if (!m->cp || n == 0 || x->err.code != NS_OK) return 0;
    if (ns_comm_turn_start(m->cp, t, n, &x->err) == NS_OK) return 1;
    ns_error_frame(&x->err, __FILE__, __LINE__, "ring of context-parallel ranks");
    return 0;
}

static void arrive(ns_model *m, ns_exec *x, const ns_comm_turn *t, int n, int departed)
{
    ns_error err = NS_ERROR_INIT;
    record(x, t, n);
    if (!departed || ns_comm_turn_wait(m->cp, &err) == NS_OK) return;
    ns_error_frame(&err, __FILE__, __LINE__, "ring of context-parallel ranks");
    if (x->err.code == NS_OK) x->err = err;
}

static ns_comm_turn keys_turn(const ns_model *m, int turn)
{
    return (ns_comm_turn){m->ring_kv[turn % 2], m->ring_kv[(turn + 1) % 2],
                          block_bytes(m, (int64_t)ns_dtype_size(m->opt.dt))};
}

/* Gradients of the block of turn - 1 leave, those of the block of this turn come. Turn n: mine come home. */
static ns_comm_turn grads_turn(const ns_model *m, int turn)
{
    return (ns_comm_turn){m->ring_dkv[(turn - 1) % 2], m->ring_dkv[turn % 2], block_bytes(m, 4)};
}

/* ---- on the block at hand ---- */

/* My keys and values as a block: segments one after another. */
static void make_block(ns_model *m, ns_exec *x, void *qkv)
{
    const ns_attn_args t = ns_model_attn_args(m, 0, qkv); /* for its addresses */
    x->ops->scatter_rows(x, &(ns_scatter_args){.T = m->cp_rows,
                                               .cols = ns_model_kv_width(m),
                                               .dt = m->opt.dt,
                                               .src = t.k,
                                               .src_stride = t.k_stride,
                                               .dst = m->ring_kv[0],
                                               .dst_rows = m->cp_rows,
                                               .row = m->to_block});
}

/* Segments [first, first + n) of mine with the keys they see of the block at hand. */
static ns_attn_args block_args(ns_model *m, const ns_exec *x, int l, void *qkv, int turn, int64_t first, int64_t n)
{
    ns_attn_args t = ns_model_attn_args(m, l, qkv);
    const int64_t w = ns_model_kv_width(m), from = owner(m, turn) * m->opt.S_cap + first, longest = m->opt.max_len,
                  piece = (longest + 2 * m->opt.cp_size - 1) / (2 * m->opt.cp_size);
    t.n_seg = n;
    t.T_kv = m->cp_rows;
    t.live_seg = t.live_len = t.live_rows = 0;
    t.window = 0; /* no segment is longer (layout.c) */
    t.causal = turn == 0;
    t.max_q = piece;
    t.max_kv = 2 * piece < longest ? 2 * piece : longest;
    if (x->plan) t.max_kv = piece; /* it counts pairs: every turn has as many as all rows with one piece */
    t.cu_q += first;
    t.kv_start = m->ring_start + from;
    t.kv_len = m->ring_len + from;
    t.k = m->ring_kv[turn % 2];
    t.v = ns_model_at(t.k, w / 2, m->opt.dt);
    t.k_stride = t.v_stride = w;
    return t;
}

/* Of a later rank's block my early pieces see nothing. */
static int early_sees(const ns_model *m, int turn)
{
    return owner(m, turn) <= m->opt.cp_rank;
}

static void attend_block(ns_model *m, ns_exec *x, int l, ns_block_acts *b, int turn)
{
    const int64_t S = m->opt.S_cap / 2;
    const int late_only = !early_sees(m, turn);
    ns_attn_args t = block_args(m, x, l, b->qkv, turn, late_only * S, (2 - late_only) * S);
    for (int half = late_only; half < 2; half++) { /* the early pieces' keys, then the late ones': each ascend */
        ns_attn_args h = block_args(m, x, l, b->qkv, turn, half * S, S);
        h.out = m->ring_part;
        h.lse = turn == 0 ? b->lse : m->ring_lse;
        if (x->plan) h.max_kv = (h.max_kv + 1) / 2;
        x->ops->attn_fwd(x, &h);
    }
    x->ops->attn_merge(x, &(ns_attn_merge_args){.T = m->T,
                                                .n_heads = t.n_heads,
                                                .head_dim = t.head_dim,
                                                .dt = m->opt.dt,
                                                .n_seg = t.n_seg,
                                                .cu_q = t.cu_q,
                                                .part = m->ring_part,
                                                .part_lse = m->ring_lse,
                                                .acc = m->ring_acc,
                                                .lse = b->lse,
                                                .assign = turn == 0,
                                                .out = turn == m->opt.cp_size - 1 ? b->att : NULL});
}

void ns_ring_attend(ns_model *m, ns_exec *x, int l, ns_block_acts *b)
{
    make_block(m, x, b->qkv);
    for (int turn = 0; turn < m->opt.cp_size; turn++) {
        const ns_comm_turn keys = keys_turn(m, turn);
        const int n = turn < m->opt.cp_size - 1, departed = depart(m, x, &keys, n);
        attend_block(m, x, l, b, turn);
        arrive(m, x, &keys, n, departed);
    }
}

/* m->dqkv: this block's part of the gradient by q; m->dkv[half]: by its keys and values, of my early and late pieces, which share
 * some: one call each. */
static void block_bwd(ns_model *m, ns_exec *x, int l, ns_block_acts *b, int turn)
{
    const int64_t S = m->opt.S_cap / 2, es = (int64_t)ns_dtype_size(m->opt.dt);
    const ns_attn_args d = ns_model_attn_args(m, l, m->dqkv);
    const int late_only = !early_sees(m, turn);
    if (late_only || turn == 0) /* rows that no call writes: early ones; the keys of the dead tail */
        x->ops->zero(x, &(ns_fill_args){m->dqkv, m->T * d.q_stride * es});
    for (int half = late_only; half < 2; half++) {
        ns_attn_args t = block_args(m, x, l, b->qkv, turn, half * S, S);
        x->ops->zero(x, &(ns_fill_args){m->dkv[half], block_bytes(m, es)});
        t.out = b->att;
        t.lse = b->lse;
        t.dout = m->datt;
        t.dq = (void *)(uintptr_t)d.q;
        t.dk = m->dkv[half];
        t.dv = ns_model_at(m->dkv[half], ns_model_kv_width(m) / 2, m->opt.dt);
        x->ops->attn_bwd(x, &t);
    }
}

static void add_dq(ns_model *m, ns_exec *x, int turn)
{
    const ns_attn_args d = ns_model_attn_args(m, 0, m->dqkv);
    x->ops->sum_rows(x, &(ns_sum_rows_args){.T = m->T,
                                            .cols = d.n_heads * d.head_dim,
                                            .dt = m->opt.dt,
                                            .assign = turn == 0,
                                            .src = d.q,
                                            .src_stride = d.q_stride,
                                            .acc = m->ring_acc,
                                            .out = turn == m->opt.cp_size - 1 ? m->dqkv : NULL,
                                            .out_stride = d.q_stride,
                                            .out_rows = m->T});
}

/* What block_bwd left into acc. */
static void add_dkv(ns_model *m, ns_exec *x, int turn, float *acc)
{
    const int64_t w = ns_model_kv_width(m);
    const int late_only = !early_sees(m, turn);
    for (int half = late_only; half < 2; half++)
        x->ops->sum_rows(x, &(ns_sum_rows_args){.T = m->cp_rows,
                                                .cols = w,
                                                .dt = m->opt.dt,
                                                .assign = turn < 2 && half == late_only,
                                                .src = m->dkv[half],
                                                .src_stride = w,
                                                .acc = acc});
}

/* Mine are back: the sum of the others, then mine, to the rows of my tokens. */
static void take_home(ns_model *m, ns_exec *x)
{
    const ns_attn_args d = ns_model_attn_args(m, 0, m->dqkv);
    x->ops->sum_rows(x, &(ns_sum_rows_args){.T = m->cp_rows,
                                            .cols = ns_model_kv_width(m),
                                            .dt = m->opt.dt,
                                            .more = m->ring_own,
                                            .acc = m->ring_dkv[m->opt.cp_size % 2],
                                            .out = (void *)(uintptr_t)d.k,
                                            .out_stride = d.k_stride,
                                            .out_rows = m->T,
                                            .row = m->of_block});
}

void ns_ring_attend_bwd(ns_model *m, ns_exec *x, int l, ns_block_acts *b)
{
    const int size = m->opt.cp_size;
    make_block(m, x, b->qkv);
    for (int turn = 0; turn < size; turn++) {
        ns_comm_turn t[2];
        int n = 0;
        if (turn < size - 1) t[n++] = keys_turn(m, turn);
        if (turn > 1) t[n++] = grads_turn(m, turn);
        const int departed = depart(m, x, t, n);
        block_bwd(m, x, l, b, turn);
        if (turn < size - 1) add_dq(m, x, turn);
        arrive(m, x, t, n, departed);
        add_dkv(m, x, turn, turn ? m->ring_dkv[turn % 2] : m->ring_own);
    }
    const ns_comm_turn home = grads_turn(m, size);
    const int departed = depart(m, x, &home, 1);
    add_dq(m, x, size - 1);
    arrive(m, x, &home, 1, departed);
    take_home(m, x);
}
