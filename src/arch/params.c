/* The parameter table: storage parameters in canonical order, their Hugging Face views, and the hash that checkpoints
 * carry. Everything follows from the architecture record; nothing is read from files here.
 * Names: training.md §5.6. Splits over tensor-parallel ranks: §4.2. Which decay: §2.10 (norm weights do, biases do not). */
#include "arch/params.h"

#include <stdio.h>
#include <string.h>

typedef struct builder {
    ns_param_table *t;
    const ns_arch *a;
} builder;

static int add(builder *b, ns_kind kind, int layer, const char *name, int64_t rows, int64_t cols, ns_split tp)
{
    ns_param *p = &b->t->params[b->t->n_params];
    if (layer < 0) {
        snprintf(p->name, sizeof p->name, "%s", name);
    } else {
        snprintf(p->name, sizeof p->name, "l%d.%s", layer, name);
    }
    p->kind = kind;
    p->layer = layer;
    p->rows = rows;
    p->cols = cols;
    p->tp = tp;
    p->decays = kind != NS_P_QKV_BIAS && kind != NS_P_O_BIAS;
    p->trainable = 1;
    p->offset = b->t->n_elements;
    b->t->n_elements += rows * cols;
    return b->t->n_params++;
}

static void view(builder *b, int param, const char *hf, int64_t row0, int64_t rows)
{
    const ns_param *p = &b->t->params[param];
    ns_view *v = &b->t->views[b->t->n_views++];
    if (p->layer < 0) {
        snprintf(v->name, sizeof v->name, "%s", hf);
    } else {
        snprintf(v->name, sizeof v->name, "model.layers.%d.%s", p->layer, hf);
    }
    v->param = param;
    v->row0 = row0;
    v->rows = rows;
    v->nd = p->kind == NS_P_ATTN_NORM || p->kind == NS_P_MLP_NORM || p->kind == NS_P_FINAL_NORM ||
                    p->kind == NS_P_QKV_BIAS || p->kind == NS_P_O_BIAS || p->kind == NS_P_Q_NORM ||
                    p->kind == NS_P_K_NORM
                ? 1
                : 2;
}

static void whole(builder *b, ns_kind kind, int layer, const char *name, const char *hf, int64_t rows, int64_t cols,
                  ns_split tp)
{
    view(b, add(b, kind, layer, name, rows, cols, tp), hf, 0, rows);
}

/* Rows [all q heads; all k heads; all v heads]. */
static void fused_qkv(builder *b, ns_kind kind, int layer, const char *name, const char *what, int64_t cols)
{
    int64_t q = b->a->n_heads * b->a->head_dim, kv = b->a->n_kv * b->a->head_dim;
    int p = add(b, kind, layer, name, q + 2 * kv, cols, NS_SPLIT_ROWS);
    char hf[48];
    snprintf(hf, sizeof hf, "self_attn.q_proj.%s", what);
    view(b, p, hf, 0, q);
    snprintf(hf, sizeof hf, "self_attn.k_proj.%s", what);
    view(b, p, hf, q, kv);
    snprintf(hf, sizeof hf, "self_attn.v_proj.%s", what);
    view(b, p, hf, q + kv, kv);
}

static void add_layer(builder *b, int l)
{
    const ns_arch *a = b->a;
    int64_t q = a->n_heads * a->head_dim;
    whole(b, NS_P_ATTN_NORM, l, "attn_norm", "input_layernorm.weight", a->C, 1, NS_SPLIT_NONE);
    fused_qkv(b, NS_P_QKV, l, "qkv", "weight", a->C);
    if (a->qkv_bias) fused_qkv(b, NS_P_QKV_BIAS, l, "qkv_bias", "bias", 1);
    if (a->qk_norm) {
        whole(b, NS_P_Q_NORM, l, "q_norm", "self_attn.q_norm.weight", a->head_dim, 1, NS_SPLIT_NONE);
        whole(b, NS_P_K_NORM, l, "k_norm", "self_attn.k_norm.weight", a->head_dim, 1, NS_SPLIT_NONE);
    }
    whole(b, NS_P_O, l, "o", "self_attn.o_proj.weight", a->C, q, NS_SPLIT_COLS);
    if (a->o_bias) whole(b, NS_P_O_BIAS, l, "o_bias", "self_attn.o_proj.bias", a->C, 1, NS_SPLIT_NONE);
    whole(b, NS_P_MLP_NORM, l, "mlp_norm", "post_attention_layernorm.weight", a->C, 1, NS_SPLIT_NONE);
    int gu = add(b, NS_P_GATE_UP, l, "gate_up", 2 * a->F, a->C, NS_SPLIT_ROWS);
    view(b, gu, "mlp.gate_proj.weight", 0, a->F);
    view(b, gu, "mlp.up_proj.weight", a->F, a->F);
    whole(b, NS_P_DOWN, l, "down", "mlp.down_proj.weight", a->C, a->F, NS_SPLIT_COLS);
}

/* FNV-1a over what a checkpoint's coordinates depend on: names, shapes, order. */
static void hash_table(ns_param_table *t)
{
    uint64_t h = 0xcbf29ce484222325u;
    for (int i = 0; i < t->n_params; i++) {
        char line[128];
        int n = snprintf(line, sizeof line, "%s %lld %lld\n", t->params[i].name, (long long)t->params[i].rows,
                         (long long)t->params[i].cols);
        for (int j = 0; j < n; j++) h = (h ^ (unsigned char)line[j]) * 0x100000001b3u;
    }
    snprintf(t->hash, sizeof t->hash, "%016llx", (unsigned long long)h);
}

ns_status ns_param_table_build(ns_param_table *t, const ns_arch *a, ns_arena *arena, ns_error *err)
{
    memset(t, 0, sizeof *t);
    NS_FAIL_IF(a->family != NS_FAMILY_LLAMA && a->family != NS_FAMILY_QWEN2 && a->family != NS_FAMILY_QWEN3 &&
                   a->family != NS_FAMILY_MISTRAL,
               NS_ERR_UNSUPPORTED, "parameter table: this model family has no name map yet");
    NS_FAIL_IF(a->n_experts != 0, NS_ERR_UNSUPPORTED,
               "parameter table: n_experts %d: mixture of experts is not supported", a->n_experts);
    NS_FAIL_IF(a->mlp_bias, NS_ERR_UNSUPPORTED, "parameter table: mlp_bias true is not supported");
    enum { PER_LAYER_MAX = 11, VIEWS_PER_LAYER_MAX = 17 };
    size_t L = (size_t)a->L;
    t->params = ns_arena_alloc(arena, (L * PER_LAYER_MAX + 3) * sizeof *t->params, err);
    t->views = ns_arena_alloc(arena, (L * VIEWS_PER_LAYER_MAX + 3) * sizeof *t->views, err);
    if (!t->params || !t->views) return NS_ERR_MEMORY;
    t->arch = a;
    builder b = {t, a};
    whole(&b, NS_P_EMBED, -1, "embed", "model.embed_tokens.weight", a->vocab_rows, a->C, NS_SPLIT_ROWS);
    t->first_of_layer = t->n_params;
    for (int l = 0; l < (int)a->L; l++) {
        add_layer(&b, l);
        if (l == 0) t->per_layer = t->n_params - t->first_of_layer;
    }
    whole(&b, NS_P_FINAL_NORM, -1, "final_norm", "model.norm.weight", a->C, 1, NS_SPLIT_NONE);
    if (!a->tied) whole(&b, NS_P_HEAD, -1, "head", "lm_head.weight", a->vocab_rows, a->C, NS_SPLIT_ROWS);
    hash_table(t);
    return NS_OK;
}

int ns_param_find(const ns_param_table *t, ns_kind kind, int layer)
{
    int from = 0, to = t->n_params;
    if (layer >= 0) {
        if (layer >= t->arch->L) return -1;
        from = t->first_of_layer + layer * t->per_layer;
        to = from + t->per_layer;
    }
    for (int i = from; i < to; i++) {
        if (t->params[i].kind == kind && t->params[i].layer == layer) return i;
    }
    return -1;
}

int ns_view_find(const ns_param_table *t, const char *hf_name)
{
    for (int i = 0; i < t->n_views; i++) {
        if (strcmp(t->views[i].name, hf_name) == 0) return i;
    }
    return -1;
}

int64_t ns_param_table_largest(const ns_param_table *t)
{
    int64_t most = 0;
    for (int i = 0; i < t->n_params; i++) {
        int64_t n = t->params[i].rows * t->params[i].cols;
        if (n > most) most = n;
    }
    return most;
}
