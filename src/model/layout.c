/* Buffers of the model: the same calls in the same order when planning and when running (ops/space.h). Labels are
 * "<group>.<name>"; the plan table sums by group: weights, grads, optim, acts, work, batch. */
#include <stdio.h>
#include <string.h>

#include "arch/part.h"
#include "base/mem.h"
#include "model/model.h"

static void *take(ns_space *s, const char *group, const char *name, int64_t bytes, ns_life life)
{
    char label[64];
    snprintf(label, sizeof label, "%s.%s", group, name);
    return ns_space_take(s, label, bytes, life);
}

static ns_status check_supported(const ns_arch *a, const ns_model_options *o, ns_error *err)
{
    NS_FAIL_IF(a->qk_norm && (o->backend || o->plan_gpu), NS_ERR_UNSUPPORTED, "%s",
               "q/k norm (Qwen3) runs on the processor only so far: use ++trainer.accelerator=cpu");
    NS_FAIL_IF(a->n_experts, NS_ERR_UNSUPPORTED, "mixture of experts (%d experts) is not supported", a->n_experts);
    NS_FAIL_IF(a->o_bias || a->mlp_bias, NS_ERR_UNSUPPORTED, "bias in attention output or mlp is not supported");
    NS_FAIL_IF(o->dt != NS_DTYPE_F32 && o->dt != NS_DTYPE_BF16, NS_ERR_UNSUPPORTED, "compute type %s: use BF16 or F32",
               ns_dtype_name(o->dt));
    NS_FAIL_IF(o->tp_size > 1 && a->head_softcap > 0, NS_ERR_UNSUPPORTED, "%s",
               "tensor parallel with soft-capped logits is not supported");
    NS_FAIL_IF(o->cp_size > 1 && o->cp_ring && (a->window > 0 && a->window < o->max_len), NS_ERR_UNSUPPORTED,
               "model.cp_comm_type=p2p: the ring has no sliding windows (%lld tokens, the longest row has %lld); use "
               "all_gather",
               (long long)a->window, (long long)o->max_len);
    NS_FAIL_IF(o->cp_size > 1 && o->cp_ring && o->attention_dropout > 0, NS_ERR_UNSUPPORTED, "%s",
               "model.cp_comm_type=p2p: the ring has no attention_dropout; use all_gather, or attention_dropout=0");
    NS_FAIL_IF(o->cp_size > 1 && o->cp_ring && !o->train, NS_ERR_INTERNAL, "%s", "the ring is for training");
    NS_FAIL_IF(o->fp8 && (a->C % 16 || a->F % 16 || a->head_dim * a->n_kv % 16), NS_ERR_UNSUPPORTED,
               "fp8 products need sizes in multiples of 16: hidden %lld, ffn %lld, key/value heads x head size %lld",
               (long long)a->C, (long long)a->F, (long long)(a->n_kv * a->head_dim));
    NS_FAIL_IF(o->fp8 && o->tp_size > 1, NS_ERR_UNSUPPORTED, "%s",
               "fp8 with tensor parallel is not supported: scales would be those of parts of a tensor");
    NS_FAIL_IF(o->dp_size > NS_MAX_DP, NS_ERR_UNSUPPORTED, "%d ranks share the optimiser state: at most %d", o->dp_size,
               NS_MAX_DP);
    NS_FAIL_IF(o->train && o->tp_size > 1 &&
                   (o->optim.no_rem || o->optim.m != NS_DTYPE_F32 || o->optim.v != NS_DTYPE_F32),
               NS_ERR_UNSUPPORTED, "%s",
               "tensor parallel with optimiser state in bf16: the rounding would depend on the layout; use fp32");
    NS_FAIL_IF(o->T_cap < 1 || o->S_cap < 1 || o->n_slots < 1, NS_ERR_INTERNAL, "bad micro-batch geometry");
    return NS_OK;
}

int ns_model_param_bytes(const ns_model_options *o)
{
    const int weight = o->dt == NS_DTYPE_BF16 ? (o->optim.no_rem ? 2 : 4) : 4;
    return weight + 4 + (int)ns_dtype_size(o->optim.m) + (int)ns_dtype_size(o->optim.v);
}

void ns_model_cut(const ns_param_table *t, int param, int size, int64_t *cut)
{
    const int64_t least = 1 << 18, n = t->params[param].rows * t->params[param].cols;
    int64_t owners = n / least < 1 ? 1 : n / least > size ? size : n / least;
    int64_t first = param % (size - owners + 1); /* small ones are dealt around */
    for (int64_t r = 0; r <= size; r++) {
        int64_t k = r < first ? 0 : r - first > owners ? owners : r - first;
        cut[r] = k == owners ? n : n / 64 * k / owners * 64;
    }
}

/* What every tensor-parallel rank has is counted by the first of them, an embedding that two stages have by the first stage. */
static int counted(const ns_model *m, int param)
{
    const ns_param *p = &m->table->params[param];
    if (p->tp == NS_SPLIT_NONE && m->opt.tp_rank > 0) return 0;
    return p->kind != NS_P_EMBED || m->first == 0;
}

/* Items that this rank counts first (both in the old order). */
static ns_status order_items(ns_model *m, ns_error *err)
{
    ns_opt_item *sorted = ns_arena_alloc(&m->arena, (size_t)(m->n_items + 1) * sizeof *sorted, err);
    if (!sorted) return NS_ERR_MEMORY;
    int64_t n = 0;
    for (int mine = 1; mine >= 0; mine--) {
        int64_t k = 0;
        for (int i = 0; i < m->table->n_params; i++) {
            if (!m->w[i].grad || m->own[i].len == 0) continue;
            if (counted(m, i) == mine) sorted[n++] = m->items[k];
            k++;
        }
        if (mine) m->n_counted = n;
    }
    NS_ASSERT(n == m->n_items);
    m->items = sorted;
    return NS_OK;
}

static ns_piece own_piece(const ns_model *m, int param)
{
    int64_t cut[NS_MAX_DP + 1];
    ns_model_cut(m->table, param, m->opt.dp_size < 1 ? 1 : m->opt.dp_size, cut);
    return (ns_piece){cut[m->opt.dp_rank], cut[m->opt.dp_rank + 1] - cut[m->opt.dp_rank]};
}

static int in_fp8(const ns_model *m, ns_kind kind)
{
    return m->opt.fp8 && (kind == NS_P_QKV || kind == NS_P_O || kind == NS_P_GATE_UP || kind == NS_P_DOWN);
}

/* Weights, gradients, optimiser state, prepared panels of each storage parameter. */
static ns_status layout_params(ns_model *m, ns_space *s, const ns_ops *ops, ns_error *err)
{
    const ns_param_table *t = m->table;
    size_t n = (size_t)t->n_params;
    m->w = ns_arena_alloc(&m->arena, n * sizeof *m->w, err);
    m->fresh = ns_arena_alloc(&m->arena, n, err);
    m->own = ns_arena_alloc(&m->arena, n * sizeof *m->own, err);
    m->rem = ns_arena_alloc(&m->arena, n * sizeof *m->rem, err);
    m->adam_m = ns_arena_alloc(&m->arena, n * sizeof *m->adam_m, err);
    m->adam_v = ns_arena_alloc(&m->arena, n * sizeof *m->adam_v, err);
    m->items = ns_arena_alloc(&m->arena, n * sizeof *m->items, err);
    if (m->fresh) memset(m->fresh, 0, n);
    if (!m->w || !m->fresh || !m->own || !m->rem || !m->adam_m || !m->adam_v || !m->items) return NS_ERR_MEMORY;
    int64_t es = (int64_t)ns_dtype_size(m->opt.dt);
    for (int i = 0; i < t->n_params; i++) {
        const ns_param *p = &t->params[i];
        int64_t ne = p->rows * p->cols;
        ns_weight *w = &m->w[i];
        *w = (ns_weight){.name = p->name, .rows = p->rows, .cols = p->cols, .dt = m->opt.dt};
        if (!ns_part_holds(t, i, m->first, m->n_layers)) continue; /* no memory: another stage has it */
        w->data = take(s, "weights", p->name, ne * es, NS_LIFE_RUN);
        w->fp8 = in_fp8(m, p->kind) ? m->opt.fp8 : NS_FP8_OFF;
        if (p->cols > 1 && p->kind != NS_P_EMBED) {
            int64_t fwd = 0, dx = 0;
            ops->prepare_bytes(w, &fwd, &dx);
            w->panels_fwd = take(s, "panels", p->name, fwd, NS_LIFE_RUN);
            w->panels_dx =
                m->opt.train && !(w->fp8 && m->opt.fp8_lean) ? take(s, "panels", p->name, dx, NS_LIFE_RUN) : NULL;
        }
        if (!m->opt.train || !p->trainable) continue;
        w->grad = take(s, "grads", p->name, ne * 4, NS_LIFE_RUN);
        ns_piece own = m->own[i] = own_piece(m, i);
        if (own.len == 0) continue;
        const ns_opt_form form = m->opt.optim;
        const int has_rem = m->opt.dt == NS_DTYPE_BF16 && !form.no_rem;
        m->rem[i] = has_rem ? take(s, "optim", p->name, own.len * 2, NS_LIFE_RUN) : NULL;
        m->adam_m[i] = take(s, "optim", p->name, own.len * (int64_t)ns_dtype_size(form.m), NS_LIFE_RUN);
        m->adam_v[i] = take(s, "optim", p->name, own.len * (int64_t)ns_dtype_size(form.v), NS_LIFE_RUN);
        m->items[m->n_items++] = (ns_opt_item){.n = own.len,
                                               .dt = m->opt.dt,
                                               .w = (char *)w->data + own.off * es,
                                               .rem = m->rem[i],
                                               .grad = w->grad + own.off,
                                               .m = m->adam_m[i],
                                               .v = m->adam_v[i],
                                               .form = form,
                                               .tensor = (uint32_t)i,
                                               .first = own.off,
                                               .decay = p->decays};
    }
    NS_TRY(order_items(m, err), "%s", "optimiser items");
    if (m->arch.tied && ns_model_is_last(m)) { /* the head is the embedding: its panels belong to that parameter */
        ns_weight *w = &m->w[ns_param_find(t, NS_P_EMBED, -1)];
        int64_t fwd = 0, dx = 0;
        ops->prepare_bytes(w, &fwd, &dx);
        w->panels_fwd = take(s, "panels", w->name, fwd, NS_LIFE_RUN);
        w->panels_dx = m->opt.train ? take(s, "panels", w->name, dx, NS_LIFE_RUN) : NULL;
    }
    return NS_OK;
}

/* Capacity of the rows of the stream that lie here. */
static int64_t stream_rows(const ns_model *m)
{
    const int64_t n = m->opt.stream_split ? m->opt.tp_size : 1;
    return (m->opt.T_cap + n - 1) / n;
}

/* fp8: what the weight gradients read, in place of n1, n2 and act. */
static void take_casts(ns_model *m, ns_space *s, ns_block_acts *b)
{
    const ns_arch *a = &m->arch;
    const int64_t T = m->opt.T_cap;
    if (!m->opt.fp8 || !m->opt.train || m->opt.recompute != NS_RECOMPUTE_NONE) return;
    b->n1_8 = take(s, "acts", "n1_8", ns_fp8_bytes(a->C, T), NS_LIFE_STEP);
    b->att_8 = take(s, "acts", "att_8", ns_fp8_bytes(a->n_heads * a->head_dim, T), NS_LIFE_STEP);
    b->n2_8 = take(s, "acts", "n2_8", ns_fp8_bytes(a->C, T), NS_LIFE_STEP);
    b->act_8 = take(s, "acts", "act_8", ns_fp8_bytes(a->F, T), NS_LIFE_STEP);
}

/* One block's activations. Not own_rest: all but h0 is shared (inference, full recomputation); not own_light: what is
 * computed again, or kept in fp8, is shared. */
static void take_acts(ns_model *m, ns_space *s, ns_block_acts *b, int own_h0, int own_rest, int own_light,
                      const ns_block_acts *shared)
{
    const ns_arch *a = &m->arch;
    int64_t T = m->opt.T_cap, es = (int64_t)ns_dtype_size(m->opt.dt), f = m->opt.train ? 4 : 0;
    const int64_t Ts = stream_rows(m), stream = Ts * a->C;
    void *h0 = own_h0 ? take(s, "acts", "h0", stream * es, NS_LIFE_STEP) : (shared ? shared->h0 : NULL);
    if (!own_rest && shared) {
        *b = *shared;
        b->h0 = h0;
        return;
    }
    b->h0 = h0;
    b->n1 = own_light ? take(s, "acts", "n1", stream * es, NS_LIFE_STEP) : shared->n1;
    b->rstd1 = take(s, "acts", "rstd1", Ts * f, NS_LIFE_STEP);
    b->qkv = take(s, "acts", "qkv", T * (a->n_heads + 2 * a->n_kv) * a->head_dim * es, NS_LIFE_STEP);
    if (a->qk_norm) {
        b->q_raw = take(s, "acts", "q_raw", T * a->n_heads * a->head_dim * es, NS_LIFE_STEP);
        b->k_raw = take(s, "acts", "k_raw", T * a->n_kv * a->head_dim * es, NS_LIFE_STEP);
        b->rstd_q = take(s, "acts", "rstd_q", T * a->n_heads * f, NS_LIFE_STEP);
        b->rstd_k = take(s, "acts", "rstd_k", T * a->n_kv * f, NS_LIFE_STEP);
    }
    b->att = take(s, "acts", "att", T * a->n_heads * a->head_dim * es, NS_LIFE_STEP);
    b->lse = take(s, "acts", "lse", T * a->n_heads * f, NS_LIFE_STEP);
    b->h1 = take(s, "acts", "h1", stream * es, NS_LIFE_STEP);
    b->n2 = own_light ? take(s, "acts", "n2", stream * es, NS_LIFE_STEP) : shared->n2;
    b->rstd2 = take(s, "acts", "rstd2", Ts * f, NS_LIFE_STEP);
    b->gu = take(s, "acts", "gu", T * 2 * a->F * es, NS_LIFE_STEP);
    b->act = own_light ? take(s, "acts", "act", T * a->F * es, NS_LIFE_STEP) : shared->act;
    take_casts(m, s, b);
}

/* Of the products of a layer. */
static int64_t widest_output(const ns_model *m)
{
    const ns_arch *a = &m->arch;
    int64_t wide = 2 * a->F, qkv = (a->n_heads + 2 * a->n_kv) * a->head_dim;
    if (qkv > wide) wide = qkv;
    return a->C > wide ? a->C : wide;
}

static ns_status layout_acts(ns_model *m, ns_space *s, ns_error *err)
{
    const ns_arch *a = &m->arch;
    const int64_t T = m->opt.T_cap, es = (int64_t)ns_dtype_size(m->opt.dt), L = m->n_layers;
    const int64_t Ts = stream_rows(m), stream = Ts * a->C;
    m->acts = ns_arena_alloc(&m->arena, (size_t)(L * m->opt.n_slots) * sizeof *m->acts, err);
    if (!m->acts) return NS_ERR_MEMORY;
    for (int slot = 0; slot < m->opt.n_slots; slot++) {
        ns_block_acts *b = &m->acts[slot * L];
        void *x0 = take(s, "acts", "x0", stream * es, NS_LIFE_STEP);
        for (int64_t l = 0; l < L; l++) {
            ns_recompute r = ns_block_recompute(&m->opt, (int)l);
            int own_h0 = (m->opt.train && l > 0) || l == 1, first = slot == 0 && l == 0,
                own_rest = first || (m->opt.train && r != NS_RECOMPUTE_FULL),
                own_light = first || (r == NS_RECOMPUTE_NONE && !(m->opt.fp8 && m->opt.train));
            take_acts(m, s, &b[l], own_h0, own_rest, own_light, l > 1 && !m->opt.train ? &b[1] : &m->acts[0]);
        }
        b[0].h0 = x0; /* the first layer reads the embedding itself */
    }
    m->hL = take(s, "acts", "hL", stream * es, NS_LIFE_STEP);
    if (ns_model_is_last(m)) {
        m->nL = take(s, "acts", "nL", stream * es, NS_LIFE_STEP);
        m->rstdL = take(s, "acts", "rstdL", m->opt.train ? Ts * 4 : 0, NS_LIFE_STEP);
    }
    if (m->opt.stream_split) m->full = take(s, "acts", "full", T * a->C * es, NS_LIFE_STEP);
    m->delta = take(s, "acts", "delta", T * a->C * es, NS_LIFE_STEP);
    if (a->qk_norm) m->heads = take(s, "acts", "heads", T * a->n_heads * a->head_dim * es, NS_LIFE_STEP);
    if (m->opt.tp_size > 1 && ns_model_is_last(m)) m->stats = take(s, "acts", "stats", T * 8, NS_LIFE_STEP);
    if (m->opt.train) {
        m->dh = take(s, "acts", "dh", stream * es, NS_LIFE_STEP);
        m->dtmp = take(s, "acts", "dtmp", T * a->C * es, NS_LIFE_STEP);
        m->dqkv = take(s, "acts", "dqkv", T * (a->n_heads + 2 * a->n_kv) * a->head_dim * es, NS_LIFE_STEP);
        m->datt = take(s, "acts", "datt", T * a->n_heads * a->head_dim * es, NS_LIFE_STEP);
        m->dgu = take(s, "acts", "dgu", T * 2 * a->F * es, NS_LIFE_STEP);
        m->dact = take(s, "acts", "dact", T * a->F * es, NS_LIFE_STEP);
        if (m->opt.fp8) m->dy8 = take(s, "acts", "dy8", ns_fp8_bytes(widest_output(m), T), NS_LIFE_STEP);
    } else {
        m->last_x = take(s, "acts", "last_x", m->opt.S_cap * a->C * es, NS_LIFE_RUN);
        m->last_y = take(s, "acts", "last_y", m->opt.S_cap * a->vocab_rows * es, NS_LIFE_RUN);
    }
    return NS_OK;
}

static void layout_ring(ns_model *m, ns_space *s)
{
    const ns_model_options *o = &m->opt;
    const int64_t n = o->T_cap * 2 * m->arch.n_kv * m->arch.head_dim, q = o->T_cap * m->arch.n_heads * m->arch.head_dim,
                  es = (int64_t)ns_dtype_size(o->dt), all = o->cp_size * o->S_cap * 4;
    for (int k = 0; k < 2; k++) {
        m->ring_kv[k] = take(s, "acts", "ring_kv", n * es, NS_LIFE_STEP);
        m->ring_dkv[k] = take(s, "acts", "ring_dkv", n * 4, NS_LIFE_STEP);
        m->dkv[k] = take(s, "acts", "dkv", n * es, NS_LIFE_STEP);
    }
    m->ring_own = take(s, "acts", "ring_own", n * 4, NS_LIFE_STEP);
    m->ring_part = take(s, "acts", "ring_part", q * es, NS_LIFE_STEP);
    m->ring_lse = take(s, "acts", "ring_lse", o->T_cap * m->arch.n_heads * 4, NS_LIFE_STEP);
    m->ring_acc = take(s, "acts", "ring_acc", q * 4, NS_LIFE_STEP);
    m->ring_start = take(s, "batch", "ring_start", all, NS_LIFE_RUN);
    m->ring_len = take(s, "batch", "ring_len", all, NS_LIFE_RUN);
    m->to_block = take(s, "batch", "to_block", o->T_cap * 4, NS_LIFE_RUN);
    m->of_block = take(s, "batch", "of_block", o->T_cap * 4, NS_LIFE_RUN);
}

static void layout_context(ns_model *m, ns_space *s)
{
    const ns_model_options *o = &m->opt;
    if (o->cp_size <= 1) return;
    m->cp_rows = o->T_cap;
    m->n_whole = o->T_whole;
    if (o->cp_ring) {
        layout_ring(m, s);
        return;
    }
    int64_t row = 2 * m->arch.n_kv * m->arch.head_dim * (int64_t)ns_dtype_size(o->dt);
    m->kv_raw = take(s, "acts", "kv_raw", o->cp_size * o->T_cap * row, NS_LIFE_STEP);
    m->kv_all = take(s, "acts", "kv_all", o->T_whole * row, NS_LIFE_STEP);
    for (int k = 0; k < 2; k++) m->dkv[k] = take(s, "acts", "dkv", o->train ? o->T_whole * row : 0, NS_LIFE_STEP);
    m->kv_start = take(s, "batch", "kv_start", o->S_cap * 4, NS_LIFE_RUN);
    m->kv_len = take(s, "batch", "kv_len", o->S_cap * 4, NS_LIFE_RUN);
    m->cp_row = take(s, "batch", "cp_row", o->cp_size * o->T_cap * 4, NS_LIFE_RUN);
    m->own_row = take(s, "batch", "own_row", o->T_whole * 4, NS_LIFE_RUN);
}

static ns_status layout_cache(ns_model *m, ns_space *s, ns_error *err)
{
    const ns_arch *a = &m->arch;
    if (m->opt.kv_rows <= 0) return NS_OK;
    m->k_cache = ns_arena_alloc(&m->arena, (size_t)a->L * sizeof *m->k_cache, err);
    m->v_cache = ns_arena_alloc(&m->arena, (size_t)a->L * sizeof *m->v_cache, err);
    if (!m->k_cache || !m->v_cache) return NS_ERR_MEMORY;
    int64_t bytes = m->opt.kv_rows * a->n_kv * a->head_dim * (int64_t)ns_dtype_size(m->opt.dt);
    for (int64_t l = 0; l < a->L; l++) {
        m->k_cache[l] = take(s, "kv", "k", bytes, NS_LIFE_RUN);
        m->v_cache[l] = take(s, "kv", "v", bytes, NS_LIFE_RUN);
    }
    m->kv_row = take(s, "batch", "kv_row", m->opt.T_cap * 4, NS_LIFE_RUN);
    m->kv_start = take(s, "batch", "kv_start", m->opt.S_cap * 4, NS_LIFE_RUN);
    m->kv_len = take(s, "batch", "kv_len", m->opt.S_cap * 4, NS_LIFE_RUN);
    return NS_OK;
}

static void layout_batch(ns_model *m, ns_space *s)
{
    int64_t T = m->opt.T_cap, S = m->opt.S_cap;
    ns_batch *b = &m->batch;
    b->T_cap = (int32_t)T;
    b->S_cap = (int32_t)S;
    b->ids = take(s, "batch", "ids", T * 4, NS_LIFE_RUN);
    b->label = take(s, "batch", "label", T * 4, NS_LIFE_RUN);
    b->weight = take(s, "batch", "weight", T * 4, NS_LIFE_RUN);
    b->position = take(s, "batch", "position", T * 4, NS_LIFE_RUN);
    b->token = m->opt.hidden_dropout > 0 || m->opt.ffn_dropout > 0 || m->opt.attention_dropout > 0
                   ? take(s, "batch", "token", T * 4, NS_LIFE_RUN)
                   : NULL;
    b->cu_seqlens = take(s, "batch", "cu_seqlens", (S + 1) * 4, NS_LIFE_RUN);
    m->rope = take(s, "batch", "rope", m->opt.max_len * m->arch.head_dim * 4, NS_LIFE_RUN);
    m->step = take(s, "batch", "step", (int64_t)sizeof *m->step, NS_LIFE_RUN);
}

ns_status ns_model_layout(ns_model *m, const ns_arch *a, const ns_param_table *t, ns_space *s, const ns_ops *ops,
                          const ns_model_options *o, ns_error *err)
{
    NS_TRY(check_supported(a, o, err), "model");
    NS_FAIL_IF(o->cp_size > 1 && o->cp_ring && !ops->attn_merge, NS_ERR_UNSUPPORTED,
               "model.cp_comm_type=p2p: engine %s has no ring exchange; use all_gather, or train on the processor",
               ops->name);
    *m = (ns_model){.arch = *a, .table = t, .opt = *o, .arena = NS_ARENA_INIT("model")};
    if (o->tp_size <= 1) m->opt.stream_split = 0;
    m->rows = ns_arena_alloc(&m->arena, ((size_t)o->tp_size + 1) * sizeof *m->rows, err);
    if (!m->rows) return NS_ERR_MEMORY;
    ns_model_set_rows(m, o->T_cap);
    NS_TRY(ns_part_layers(a, o->pp_rank, o->pp_size > 1 ? o->pp_size : 1, &m->first, &m->n_layers, err), "%s",
           "pipeline parallel");
    m->stage = ns_arena_alloc(&m->arena, NS_MODEL_STAGE, err);
    if (!m->stage) return NS_ERR_MEMORY;
    layout_batch(m, s);
    NS_TRY(layout_params(m, s, ops, err), "model parameters");
    NS_TRY(layout_acts(m, s, err), "model activations");
    layout_context(m, s);
    NS_TRY(layout_cache(m, s, err), "model cache");
    ns_exec x = {.ops = ops, .pool = o->pool, .backend = o->backend, .fp8 = o->fp8, .any_order = o->any_order};
    if (o->cp_size > 1) x.T_kv = o->cp_ring ? o->T_cap : o->T_whole;
    m->work_bytes = ops->work_bytes(&x, o->T_cap, o->max_len, a->C, a->F, a->vocab_rows, a->n_heads, a->head_dim);
    m->work = take(s, "work", "scratch", m->work_bytes, NS_LIFE_RUN);
    return NS_OK;
}

ns_status ns_model_start(ns_model *m, ns_exec *x, ns_error *err)
{
    float *table = NULL;
    int64_t bytes = m->opt.max_len * m->arch.head_dim * 4;
    NS_TRY(ns_alloc((void **)&table, (size_t)bytes, "model.rope", err), "rope table");
    ns_arch_rope_table(&m->arch, table, m->opt.max_len);
    x->ops->upload(x, m->rope, table, bytes);
    ns_free(table);
    return NS_OK;
}

void ns_model_free(ns_model *m)
{
    ns_arena_free(&m->arena);
    memset(m, 0, sizeof *m);
}

/* Elements that fit the stage as two halves of 2 bytes. */
enum { STAGE_ELEMENTS = NS_MODEL_STAGE / 4 };

void ns_model_put_param(ns_model *m, ns_exec *x, int i, const float *data)
{
    const ns_weight *w = &m->w[i];
    const ns_piece own = m->own[i];
    int64_t n = w->rows * w->cols;
    if (!w->data) return; /* of another stage */
    uint16_t *hi = (uint16_t *)m->stage;
    int16_t *lo = (int16_t *)(m->stage + NS_MODEL_STAGE / 2);
    if (w->dt == NS_DTYPE_F32) {
        x->ops->upload(x, w->data, data, n * 4);
        return;
    }
    for (int64_t k = 0; k < n; k += STAGE_ELEMENTS) {
        int64_t c = n - k < STAGE_ELEMENTS ? n - k : STAGE_ELEMENTS;
        /* trained: the weight is the main value rounded as ns_main_split does, on every rank */
        if (w->grad && !m->opt.optim.no_rem)
            for (int64_t e = 0; e < c; e++) ns_main_split(data[k + e], &hi[e], &lo[e]);
        else
            ns_from_f32(hi, NS_DTYPE_BF16, data + k, (size_t)c);
        x->ops->upload(x, (uint16_t *)w->data + k, hi, c * 2);
        int64_t a = k > own.off ? k : own.off, b = k + c < own.off + own.len ? k + c : own.off + own.len;
        if (m->rem[i] && a < b) x->ops->upload(x, m->rem[i] + (a - own.off), lo + (a - k), (b - a) * 2);
    }
}

void ns_model_get_param(const ns_model *m, ns_exec *x, int i, float *data)
{
    const ns_weight *w = &m->w[i];
    int64_t n = w->rows * w->cols;
    if (w->dt == NS_DTYPE_F32) {
        x->ops->download(x, data, w->data, n * 4);
        return;
    }
    for (int64_t k = 0; k < n; k += STAGE_ELEMENTS) {
        int64_t c = n - k < STAGE_ELEMENTS ? n - k : STAGE_ELEMENTS;
        x->ops->download(x, m->stage, (const uint16_t *)w->data + k, c * 2);
        ns_to_f32(data + k, m->stage, NS_DTYPE_BF16, (size_t)c);
    }
}

void ns_model_get_main(const ns_model *m, ns_exec *x, int i, int64_t off, int64_t len, float *data)
{
    const ns_weight *w = &m->w[i];
    const ns_piece own = m->own[i];
    uint16_t *hi = (uint16_t *)m->stage;
    int16_t *lo = (int16_t *)(m->stage + NS_MODEL_STAGE / 2);
    NS_ASSERT(off >= own.off && off + len <= own.off + own.len);
    if (w->dt == NS_DTYPE_F32) {
        x->ops->download(x, data, (const float *)w->data + off, len * 4);
        return;
    }
    for (int64_t k = 0; k < len; k += STAGE_ELEMENTS) {
        int64_t c = len - k < STAGE_ELEMENTS ? len - k : STAGE_ELEMENTS;
        x->ops->download(x, hi, (const uint16_t *)w->data + off + k, c * 2);
        if (!m->rem[i]) {
            ns_to_f32(data + k, hi, NS_DTYPE_BF16, (size_t)c);
            continue;
        }
        x->ops->download(x, lo, m->rem[i] + (off - own.off) + k, c * 2);
        for (int64_t e = 0; e < c; e++) data[k + e] = ns_main_join(hi[e], lo[e]);
    }
}

void ns_model_set_batch(ns_model *m, ns_exec *x, const ns_batch *b)
{
    ns_batch *d = &m->batch;
    NS_ASSERT(b->T_cap == d->T_cap && b->S_cap == d->S_cap);
    int64_t T = d->T_cap;
    int32_t *ids = (int32_t *)m->stage;
    for (int64_t t = 0; t < T; t += NS_MODEL_STAGE / 4) {
        int64_t c = T - t < NS_MODEL_STAGE / 4 ? T - t : NS_MODEL_STAGE / 4;
        for (int64_t i = 0; i < c; i++) { /* tensor parallel: a word of another rank is no row of mine */
            int64_t row = b->ids[t + i] - m->opt.vocab_first;
            ids[i] = row < 0 || row >= m->arch.vocab_rows ? -1 : (int32_t)row;
        }
        x->ops->upload(x, d->ids + t, ids, c * 4);
    }
    x->ops->upload(x, d->label, b->label, T * 4);
    x->ops->upload(x, d->weight, b->weight, T * 4);
    x->ops->upload(x, d->position, b->position, T * 4);
    if (d->token) x->ops->upload(x, d->token, b->token, T * 4);
    x->ops->upload(x, d->cu_seqlens, b->cu_seqlens, ((int64_t)d->S_cap + 1) * 4);
    d->n_tok = b->n_tok;
    d->n_seg = b->n_seg;
    d->max_len = b->max_len;
    d->weight_sum = b->weight_sum;
    /* no work on the dead tail: rows are rounded up to whole tiles only */
    int64_t rows = b->n_tok < 1 ? 1 : (b->n_tok + 31) / 32 * 32;
    ns_model_set_rows(m, rows < m->opt.T_cap ? rows : m->opt.T_cap);
}

void ns_model_set_part(ns_model *m, ns_exec *x, const ns_batch_part *p)
{
    NS_ASSERT(p->T_whole == m->opt.T_whole && p->batch.S_cap == m->opt.S_cap);
    ns_model_set_batch(m, x, &p->batch);
    const int64_t S = m->opt.S_cap, sent = m->opt.cp_size * p->rows;
    if (m->opt.cp_ring) {
        x->ops->upload(x, m->ring_start, p->ring_start, m->opt.cp_size * S * 4);
        x->ops->upload(x, m->ring_len, p->ring_len, m->opt.cp_size * S * 4);
        x->ops->upload(x, m->to_block, p->to_block, m->opt.T_cap * 4);
        x->ops->upload(x, m->of_block, p->of_block, m->opt.T_cap * 4);
    } else {
        x->ops->upload(x, m->kv_start, p->kv_start, S * 4);
        x->ops->upload(x, m->kv_len, p->kv_len, S * 4);
        x->ops->upload(x, m->cp_row, p->kv_row, sent * 4);
        x->ops->upload(x, m->own_row, p->own_row, p->T_whole * 4);
    }
    m->cp_rows = p->rows;
    m->n_whole = p->n_whole;
    int64_t rows = (p->rows + 31) / 32 * 32; /* the same on all ranks */
    ns_model_set_rows(m, rows < m->opt.T_cap ? rows : m->opt.T_cap);
}

void ns_model_put_step(ns_model *m, ns_exec *x, const ns_step *s)
{
    x->ops->upload(x, m->step, s, (int64_t)sizeof *s);
}

void ns_model_get_step(const ns_model *m, ns_exec *x, ns_step *s)
{
    x->ops->download(x, s, m->step, (int64_t)sizeof *s);
}
