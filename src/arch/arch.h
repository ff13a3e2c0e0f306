/* Architecture record: a model family is data (DESIGN.md §3). Read from and written to Hugging Face config.json.
 *     ns_arch a; NS_TRY(ns_arch_read(&a, "model/config.json", err), "read model config");
 * What is not understood (rope types, activations, experts) is NS_ERR_UNSUPPORTED naming the field and value. */
#ifndef NS_ARCH_ARCH_H
#define NS_ARCH_ARCH_H

#include <stdint.h>

#include "base/error.h"
#include "base/json.h"
#include "tensor/dtype.h"

typedef enum ns_family {
    NS_FAMILY_LLAMA,
    NS_FAMILY_QWEN2,
    NS_FAMILY_QWEN3,
    NS_FAMILY_MISTRAL,
    NS_FAMILY_GEMMA2,
    NS_FAMILY_NEMOTRON
} ns_family;
typedef enum ns_rope_kind { NS_ROPE_PLAIN, NS_ROPE_LINEAR, NS_ROPE_LLAMA3 } ns_rope_kind;

typedef struct ns_arch {
    ns_family family;
    int64_t vocab;      /* real vocabulary V */
    int64_t vocab_rows; /* rows of embedding and head (>= vocab when padded) */
    int64_t C, F, L;    /* hidden, ffn hidden, layers */
    int64_t n_heads, n_kv, head_dim;
    int64_t max_pos;
    float norm_eps;
    int norm_plus_one; /* Gemma */
    int qkv_bias, o_bias, mlp_bias;
    int qk_norm; /* Qwen3: RMSNorm on each q and k head */
    int tied;    /* head = embedding */
    int act;     /* ns_act of ops.h */
    ns_rope_kind rope;
    double rope_theta, rope_factor, rope_low, rope_high;
    int64_t rope_orig_max;
    int64_t window; /* 0: none */
    float attn_softcap, head_softcap;
    int n_experts;       /* must be 0 for now */
    ns_dtype dt;         /* stored dtype ("torch_dtype") */
    int64_t bos, eos[8]; /* -1 unknown; eos list */
    int n_eos;
    double init_std; /* initializer_range, 0.02 */
} ns_arch;

NS_MUST_USE ns_status ns_arch_from_json(ns_arch *a, const ns_json *config, const char *where, ns_error *err);
NS_MUST_USE ns_status ns_arch_read(ns_arch *a, const char *config_json_path, ns_error *err);
/* Complete HF config.json text for the record (keys that `base`, may be NULL, has beyond ours are kept). */
NS_MUST_USE ns_status ns_arch_write_json(ns_buf *out, const ns_arch *a, const ns_json *base, ns_error *err);
/* An id after which generation stops: to the front of the list (first) or its end; one that is there already is moved to the front or
 * left. Returns 0 if it cannot be kept: no id of the vocabulary, or (at the end) the list is full. */
int ns_arch_add_eos(ns_arch *a, int64_t id, int first);
/* [max_pos, head_dim/2, 2] cos, sin in f32 computed in double (formula: training.md §4.8; constants from the record). */
void ns_arch_rope_table(const ns_arch *a, float *out, int64_t max_pos);
/* Floating-point operations of forward+backward of one token at context length `len` (6 per matmul weight, causal half). */
double ns_arch_train_flops(const ns_arch *a, int64_t len);

#endif
