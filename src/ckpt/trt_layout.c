/* Names and cuts of TensorRT-LLM: a rank's qkv is [its q; its k; its v] with k and v heads repeated when tp exceeds their number;
 * dense and proj are cut by columns; mlp.fc is gate_proj, mlp.gate is up_proj; layers are renumbered in each stage; lm_head rows are
 * padded to a multiple of tp and a tied one is written out. */
#include "ckpt/trt_layout.h"

#include <stdio.h>
#include <string.h>

typedef struct build {
    ns_trt_layout *l;
    const ns_arch *m;
    ns_trt_rank *now;
    int tp_rank, pp_rank, how;
    int layer;     /* of the whole model */
    ns_error *err; /* of part: the first failure */
    ns_status status;
} build;

static int view_of(const build *w, ns_kind kind, int layer, int k)
{
    int p = ns_param_find(w->l->table, kind, layer), v = 0;
    if (p < 0) return -1;
    while (w->l->table->views[v].param != p) v++;
    return v + k;
}

static ns_trt_tensor *add(build *w, int layer, const char *name, int64_t rows, int64_t cols, int nd)
{
    ns_trt_tensor *t = &w->now->t[w->now->n++];
    memset(t, 0, sizeof *t);
    if (layer < 0)
        snprintf(t->name, sizeof t->name, "%s", name);
    else
        snprintf(t->name, sizeof t->name, "transformer.layers.%d.%s", layer, name);
    t->shape[0] = rows;
    t->shape[1] = cols;
    t->nd = nd;
    t->layer = layer < 0 ? -1 : w->layer;
    t->matrix = layer < 0 || nd != 2        ? NS_TRT_PLAIN
                : strstr(name, "qkv")       ? NS_TRT_QKV
                : strstr(name, "attention") ? NS_TRT_DENSE
                : strstr(name, "proj")      ? NS_TRT_DOWN
                                            : NS_TRT_GATE_UP;
    return t;
}

/* The next n rows of t are rows [row0, row0+n) of the view. */
static void part(build *w, ns_trt_tensor *t, int view, int64_t row0, int64_t n, int64_t col0)
{
    if (w->status == NS_OK)
        w->status = ns_grow((void **)&w->l->d, &w->l->cap, w->l->n_dest + 1, sizeof *w->l->d, "trt.places", w->err);
    if (w->status != NS_OK) return;
    w->l->d[w->l->n_dest] =
        (ns_trt_dest){(int)(w->now - w->l->r), (int)(t - w->now->t), w->l->first[view], t->rows, row0, n, col0};
    w->l->first[view] = (int)w->l->n_dest++;
    t->rows += n;
}

static void add_qkv(build *w, int local, int l, ns_kind kind, const char *name, int64_t cols, int nd)
{
    const ns_arch *m = w->m;
    int64_t tp = w->l->tp, hd = m->head_dim, q = m->n_heads / tp * hd, kv = (m->n_kv > tp ? m->n_kv / tp : 1) * hd;
    int64_t kv0 = m->n_kv > tp ? w->tp_rank * kv : w->tp_rank * m->n_kv / tp * hd;
    int v = view_of(w, kind, l, 0);
    ns_trt_tensor *t = add(w, local, name, q + 2 * kv, cols, nd);
    part(w, t, v, w->tp_rank * q, q, 0);
    part(w, t, v + 1, kv0, kv, 0);
    part(w, t, v + 2, kv0, kv, 0);
}

static void add_layer(build *w, int local, int l)
{
    const ns_arch *m = w->m;
    int64_t tp = w->l->tp, r = w->tp_rank, F = m->F / tp, q = m->n_heads / tp * m->head_dim;
    part(w, add(w, local, "input_layernorm.weight", m->C, 1, 1), view_of(w, NS_P_ATTN_NORM, l, 0), 0, m->C, 0);
    add_qkv(w, local, l, NS_P_QKV, "attention.qkv.weight", m->C, 2);
    if (m->qkv_bias) add_qkv(w, local, l, NS_P_QKV_BIAS, "attention.qkv.bias", 1, 1);
    if (m->qk_norm) {
        part(w, add(w, local, "attention.q_layernorm.weight", m->head_dim, 1, 1), view_of(w, NS_P_Q_NORM, l, 0), 0,
             m->head_dim, 0);
        part(w, add(w, local, "attention.k_layernorm.weight", m->head_dim, 1, 1), view_of(w, NS_P_K_NORM, l, 0), 0,
             m->head_dim, 0);
    }
    part(w, add(w, local, "attention.dense.weight", m->C, q, 2), view_of(w, NS_P_O, l, 0), 0, m->C, r * q);
    part(w, add(w, local, "post_layernorm.weight", m->C, 1, 1), view_of(w, NS_P_MLP_NORM, l, 0), 0, m->C, 0);
    part(w, add(w, local, "mlp.fc.weight", F, m->C, 2), view_of(w, NS_P_GATE_UP, l, 0), r * F, F, 0);
    part(w, add(w, local, "mlp.gate.weight", F, m->C, 2), view_of(w, NS_P_GATE_UP, l, 1), r * F, F, 0);
    part(w, add(w, local, "mlp.proj.weight", m->C, F, 2), view_of(w, NS_P_DOWN, l, 0), 0, m->C, r * F);
}

/* A rank's share of the vocabulary, the last one padded with zeros. */
static void add_words(build *w, const char *name, int view)
{
    const ns_arch *m = w->m;
    int64_t tp = w->l->tp, each = (m->vocab + tp - 1) / tp, row0 = each * w->tp_rank;
    int64_t n = m->vocab - row0 < each ? m->vocab - row0 : each;
    ns_trt_tensor *t = add(w, -1, name, each, m->C, 2);
    if (n > 0) part(w, t, view, row0, n, 0);
}

static void add_head(build *w)
{
    const ns_arch *m = w->m;
    int v = m->tied ? view_of(w, NS_P_EMBED, -1, 0) : view_of(w, NS_P_HEAD, -1, 0);
    part(w, add(w, -1, "transformer.ln_f.weight", m->C, 1, 1), view_of(w, NS_P_FINAL_NORM, -1, 0), 0, m->C, 0);
    if (!(w->how & NS_TRT_NO_HEAD)) add_words(w, "lm_head.weight", v);
}

static ns_status build_rank(build *w, ns_error *err)
{
    int per = (int)(w->m->L / w->l->pp), first = per * w->pp_rank;
    w->now = &w->l->r[w->pp_rank * w->l->tp + w->tp_rank];
    w->now->t = ns_arena_alloc(&w->l->arena, ((size_t)per * 11 + 4) * sizeof *w->now->t, err);
    if (!w->now->t) return NS_ERR_MEMORY;
    if (w->pp_rank == 0 && w->how & NS_TRT_SPLIT_EMBEDDING)
        add_words(w, "transformer.vocab_embedding.weight", view_of(w, NS_P_EMBED, -1, 0));
    else if (w->pp_rank == 0)
        part(w, add(w, -1, "transformer.vocab_embedding.weight", w->m->vocab, w->m->C, 2),
             view_of(w, NS_P_EMBED, -1, 0), 0, w->m->vocab, 0);
    for (int l = 0; l < per; l++) {
        w->layer = first + l;
        add_layer(w, l, first + l);
    }
    if (w->pp_rank == w->l->pp - 1) add_head(w);
    return w->status;
}

static ns_status check(const ns_arch *m, int tp, int pp, ns_error *err)
{
    NS_FAIL_IF(tp < 1 || pp < 1, NS_ERR_CONFIG, "TensorRT-LLM: tp %d and pp %d must be at least 1", tp, pp);
    NS_FAIL_IF(m->n_heads % tp || m->F % tp || (m->n_kv % tp && tp % m->n_kv), NS_ERR_CONFIG,
               "TensorRT-LLM: %lld heads, %lld key/value heads and %lld MLP rows cannot be cut in %d (num_gpus)",
               (long long)m->n_heads, (long long)m->n_kv, (long long)m->F, tp);
    NS_FAIL_IF(m->L % pp, NS_ERR_CONFIG, "TensorRT-LLM: %lld layers cannot be cut in %d stages (num_nodes)",
               (long long)m->L, pp);
    NS_FAIL_IF(m->o_bias, NS_ERR_UNSUPPORTED, "TensorRT-LLM: a bias on the output projection is not supported");
    return NS_OK;
}

ns_status ns_trt_layout_build(ns_trt_layout *l, const ns_param_table *t, int tp, int pp, int how, ns_error *err)
{
    build w = {.l = l, .m = t->arch, .how = how, .err = err};
    ns_status st = NS_OK;
    memset(l, 0, sizeof *l);
    l->table = t;
    l->tp = tp;
    l->pp = pp;
    l->arena.label = "trt.layout";
    NS_TRY(check(t->arch, tp, pp, err), "%s", "");
    l->first = ns_arena_alloc(&l->arena, (size_t)t->n_views * sizeof *l->first, err);
    l->r = ns_arena_alloc(&l->arena, (size_t)(tp * pp) * sizeof *l->r, err);
    st = l->first && l->r ? NS_OK : NS_ERR_MEMORY;
    if (st != NS_OK) goto done;
    for (int v = 0; v < t->n_views; v++) l->first[v] = -1;
    for (w.pp_rank = 0; w.pp_rank < pp; w.pp_rank++)
        for (w.tp_rank = 0; w.tp_rank < tp; w.tp_rank++) NS_CHECK(st, build_rank(&w, err), "TensorRT-LLM");
    return NS_OK;
done:
    ns_trt_layout_free(l);
    return st;
}

void ns_trt_layout_free(ns_trt_layout *l)
{
    ns_free(l->d);
    ns_arena_free(&l->arena);
    memset(l, 0, sizeof *l);
}

void ns_trt_scale_name(char out[128], const char *weight, const char *what)
{
    snprintf(out, 128, "%.*s.%s", (int)(strlen(weight) - strlen(".weight")), weight, what);
}
