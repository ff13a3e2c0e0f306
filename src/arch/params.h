/* Parameter table: what ops, optimiser and collectives touch (storage parameters), and what files see (views).
 *
 * Storage order is the canonical order: embed; per layer attn_norm, qkv, [qkv_bias], [q_norm, k_norm], o, [o_bias],
 * mlp_norm, gate_up (or up), down; final_norm; head (absent when tied). Fused rows: qkv = [all q heads; all k; all v],
 * gate_up = [gate; up]. A view is a block of whole rows of one storage parameter under its Hugging Face name, so every
 * view is contiguous. Optimiser shards and checkpoints address elements as (storage parameter, offset, length).
 * Storage names: "embed", "l0.attn_norm", "l0.qkv", "l0.qkv_bias", "l0.q_norm", "l0.k_norm", "l0.o", "l0.mlp_norm",
 * "l0.gate_up", "l0.down", "final_norm", "head". */
#ifndef NS_ARCH_PARAMS_H
#define NS_ARCH_PARAMS_H

#include "arch/arch.h"
#include "base/mem.h"

typedef enum ns_kind {
    NS_P_EMBED,
    NS_P_ATTN_NORM,
    NS_P_QKV,
    NS_P_QKV_BIAS,
    NS_P_Q_NORM,
    NS_P_K_NORM,
    NS_P_O,
    NS_P_O_BIAS,
    NS_P_MLP_NORM,
    NS_P_GATE_UP,
    NS_P_DOWN,
    NS_P_FINAL_NORM,
    NS_P_HEAD,
    NS_P_KIND_COUNT
} ns_kind;

typedef enum ns_split { NS_SPLIT_NONE, NS_SPLIT_ROWS, NS_SPLIT_COLS } ns_split; /* how tensor parallel cuts it */

typedef struct ns_param {
    char name[48];
    ns_kind kind;
    int layer;          /* -1: not in a layer */
    int64_t rows, cols; /* vectors: cols = 1 */
    ns_split tp;
    int decays; /* weight decay applies (norm weights yes, biases no: training.md §2.10) */
    int trainable;
    int64_t offset; /* first element in the canonical flat order (global coordinates) */
} ns_param;

typedef struct ns_view {
    char name[96];      /* Hugging Face name */
    int param;          /* index of the storage parameter */
    int64_t row0, rows; /* row block of it */
    int nd;             /* shape as the file has it: [rows] or [rows, cols] */
} ns_view;

typedef struct ns_param_table {
    const ns_arch *arch;
    ns_param *params;
    int n_params;
    ns_view *views;
    int n_views;
    int64_t n_elements; /* all storage parameters together */
    int first_of_layer; /* index of l0's first parameter */
    int per_layer;      /* parameters in a layer */
    char hash[17];      /* of names, shapes, order: in state.json */
} ns_param_table;

/* 1: every tensor-parallel rank has the weight, but only its own heads' part of the gradient: the parts are added. */
static inline int ns_kind_of_head(ns_kind k)
{
    return k == NS_P_Q_NORM || k == NS_P_K_NORM;
}

/* Elements of the largest storage parameter: the size of a buffer for one at a time. */
int64_t ns_param_table_largest(const ns_param_table *t);

NS_MUST_USE ns_status ns_param_table_build(ns_param_table *t, const ns_arch *a, ns_arena *arena, ns_error *err);
int ns_param_find(const ns_param_table *t, ns_kind kind, int layer); /* index, -1 if the arch has none */
int ns_view_find(const ns_param_table *t, const char *hf_name);      /* index, -1 */

#endif
