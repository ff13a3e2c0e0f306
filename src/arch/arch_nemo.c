/* model_config.yaml -> record, and back. The keys are those that the original's converters write (training.md §5.1, §7.3);
 * family by what the model has: q/k norms are Qwen3, a bias on q, k, v Qwen2, a window Mistral, else Llama. What NeMo cannot say
 * (constants of the llama3 rotary scaling, token ids) is in further keys of ours and in tokenizer/config.json. */
#include "arch/arch_nemo.h"

#include <stdio.h>
#include <string.h>

#include "base/config.h"

typedef struct source {
    ns_config *c;
    const char *where;
} source;

static ns_status field(const source *s, const char *key, const ns_node **v, ns_error *err)
{
    NS_TRY(ns_config_get(s->c, key, v, err), "%s", s->where);
    if (*v && (*v)->type == NS_NODE_NULL) *v = NULL; /* null is the same as absent */
    return NS_OK;
}

static const int64_t REQUIRED = INT64_MIN;

static ns_status get_int(const source *s, const char *key, int64_t def, int64_t lo, int64_t hi, int64_t *out,
                         ns_error *err)
{
    const ns_node *v;
    NS_TRY(field(s, key, &v, err), "%s", "");
    NS_FAIL_IF(!v && def == REQUIRED, NS_ERR_INPUT, "%s: \"%s\" is missing: not a NeMo model_config.yaml?", s->where,
               key);
    *out = v ? v->i : def;
    NS_FAIL_IF(v && (v->type != NS_NODE_INT || v->i < lo || v->i > hi), NS_ERR_INPUT,
               "%s: \"%s\" is %.60s, expected an integer from %lld to %lld", s->where, key, v->s ? v->s : "no scalar",
               (long long)lo, (long long)hi);
    return NS_OK;
}

static ns_status get_num(const source *s, const char *key, double def, double lo, double hi, double *out, ns_error *err)
{
    const ns_node *v;
    NS_TRY(field(s, key, &v, err), "%s", "");
    *out = v ? v->f : def;
    NS_FAIL_IF(v && ((v->type != NS_NODE_INT && v->type != NS_NODE_FLOAT) || !(v->f >= lo && v->f <= hi)), NS_ERR_INPUT,
               "%s: \"%s\" is %.60s, expected a number from %g to %g", s->where, key, v->s ? v->s : "no scalar", lo,
               hi);
    return NS_OK;
}

static ns_status get_bool(const source *s, const char *key, int *out, ns_error *err)
{
    const ns_node *v;
    NS_TRY(field(s, key, &v, err), "%s", "");
    NS_FAIL_IF(v && v->type != NS_NODE_BOOL, NS_ERR_INPUT, "%s: \"%s\" is %.60s, expected true or false", s->where, key,
               v->s ? v->s : "no scalar");
    *out = v ? (int)v->i : 0;
    return NS_OK;
}

/* A text that must be one of those that this program can compute. */
static ns_status expect(const source *s, const char *key, const char *a, const char *b, ns_error *err)
{
    const ns_node *v;
    NS_TRY(field(s, key, &v, err), "%s", "");
    NS_FAIL_IF(v && (v->type != NS_NODE_STRING || (strcmp(v->s, a) && strcmp(v->s, b))), NS_ERR_UNSUPPORTED,
               "%s: \"%s\" %.60s is not supported (supported: %s)", s->where, key, v->s ? v->s : "no text", a);
    return NS_OK;
}

static ns_status refuse_unknown(const source *s, ns_error *err)
{
    static const char *const experts[] = {"num_moe_experts", "moe_router_topk"};
    const ns_node *v;
    double part;
    int bias;
    NS_TRY(expect(s, "normalization", "rmsnorm", "RMSNorm", err), "%s", "");
    NS_TRY(expect(s, "activation", "fast-swiglu", "swiglu", err), "%s", "");
    NS_TRY(expect(s, "position_embedding_type", "rope", "rope", err), "%s", "");
    NS_TRY(field(s, experts[0], &v, err), "%s", "");
    NS_FAIL_IF(v && v->i > 0, NS_ERR_UNSUPPORTED,
               "%s: \"num_moe_experts\" %.20s: mixture-of-experts models are not supported", s->where,
               v->s ? v->s : "");
    NS_TRY(get_bool(s, "bias", &bias, err), "%s", "");
    NS_FAIL_IF(bias, NS_ERR_UNSUPPORTED, "%s: \"bias\" true is not supported", s->where);
    NS_TRY(get_num(s, "rotary_percentage", 1, 0, 1, &part, err), "%s", "");
    NS_FAIL_IF(part != 1, NS_ERR_UNSUPPORTED, "%s: \"rotary_percentage\" %g is not supported (supported: 1)", s->where,
               part);
    return NS_OK;
}

static ns_status read_sizes(ns_arch *a, const source *s, ns_error *err)
{
    const int64_t R = REQUIRED;
    NS_TRY(get_int(s, "hidden_size", R, 1, 1 << 20, &a->C, err), "%s", "");
    NS_TRY(get_int(s, "ffn_hidden_size", R, 1, 1 << 22, &a->F, err), "%s", "");
    NS_TRY(get_int(s, "num_layers", R, 1, 4096, &a->L, err), "%s", "");
    NS_TRY(get_int(s, "num_attention_heads", R, 1, 1 << 14, &a->n_heads, err), "%s", "");
    NS_TRY(get_int(s, "num_query_groups", a->n_heads, 1, 1 << 14, &a->n_kv, err), "%s", "");
    NS_TRY(get_int(s, "kv_channels", a->C / a->n_heads, 2, 4096, &a->head_dim, err), "%s", "");
    NS_FAIL_IF(a->n_heads % a->n_kv || a->head_dim < 2 || a->head_dim % 2, NS_ERR_INPUT,
               "%s: %lld heads in %lld query groups with %lld channels do not fit together", s->where,
               (long long)a->n_heads, (long long)a->n_kv, (long long)a->head_dim);
    NS_TRY(get_int(s, "encoder_seq_length", 4096, 1, 1 << 30, &a->max_pos, err), "%s", "");
    NS_TRY(get_int(s, "max_position_embeddings", a->max_pos, 1, 1 << 30, &a->max_pos, err), "%s", "");
    NS_TRY(get_int(s, "override_vocab_size", 0, 0, 1 << 24, &a->vocab, err), "%s", "");
    a->vocab_rows = a->vocab;
    return NS_OK;
}

static ns_status read_rope(ns_arch *a, const source *s, ns_error *err)
{
    int llama3;
    a->rope_low = a->rope_high = 1;
    a->rope_orig_max = a->max_pos;
    NS_TRY(get_num(s, "rotary_base", 10000, 1, 1e12, &a->rope_theta, err), "%s", "");
    NS_TRY(get_num(s, "seq_len_interpolation_factor", 1, 1, 1e6, &a->rope_factor, err), "%s", "");
    NS_TRY(get_bool(s, "scale_positional_embedding", &llama3, err), "%s", "");
    if (a->rope_factor != 1) a->rope = NS_ROPE_LINEAR;
    if (!llama3) return NS_OK;
    NS_FAIL_IF(a->rope == NS_ROPE_LINEAR, NS_ERR_UNSUPPORTED,
               "%s: \"scale_positional_embedding\" and \"seq_len_interpolation_factor\" together are not supported",
               s->where);
    a->rope = NS_ROPE_LLAMA3; /* megatron's constants unless the file says others */
    NS_TRY(get_num(s, "rope_scaling_factor", 8, 1, 1e6, &a->rope_factor, err), "%s", "");
    NS_TRY(get_num(s, "rope_low_freq_factor", 1, 1e-6, 1e6, &a->rope_low, err), "%s", "");
    NS_TRY(get_num(s, "rope_high_freq_factor", 4, 1e-6, 1e6, &a->rope_high, err), "%s", "");
    return get_int(s, "rope_original_max_position_embeddings", 8192, 1, 1 << 30, &a->rope_orig_max, err);
}

static ns_status read_rest(ns_arch *a, const source *s, ns_error *err)
{
    double x;
    int share;
    const ns_node *v;
    NS_TRY(get_num(s, "layernorm_epsilon", 1e-5, 0, 1, &x, err), "%s", "");
    a->norm_eps = (float)x;
    NS_TRY(get_num(s, "init_method_std", 0.02, 0, 100, &a->init_std, err), "%s", "");
    NS_TRY(get_bool(s, "qkv_bias", &a->qkv_bias, err), "%s", "");
    NS_TRY(get_bool(s, "qk_layernorm", &a->qk_norm, err), "%s", "");
    NS_TRY(get_bool(s, "share_embeddings_and_output_weights", &share, err), "%s", "");
    a->tied = share;
    NS_TRY(get_int(s, "window_size.0", 0, 0, 1 << 30, &a->window, err), "%s", "");
    a->family = a->qk_norm    ? NS_FAMILY_QWEN3
                : a->qkv_bias ? NS_FAMILY_QWEN2
                : a->window   ? NS_FAMILY_MISTRAL
                              : NS_FAMILY_LLAMA;
    NS_TRY(field(s, "precision", &v, err), "%s", "");
    const char *p = v && v->s ? v->s : "32";
    a->dt = !strncmp(p, "bf16", 4) ? NS_DTYPE_BF16 : !strncmp(p, "16", 2) ? NS_DTYPE_F16 : NS_DTYPE_F32;
    a->bos = -1;
    return NS_OK;
}

ns_status ns_arch_from_nemo(ns_arch *a, const char *yaml, size_t n, const char *where, ns_error *err)
{
    ns_config *c = NULL;
    ns_status st = NS_OK;
    memset(a, 0, sizeof *a);
    NS_CHECK(st, ns_config_new(&c, err), "%s", where);
    NS_CHECK(st, ns_config_parse_yaml(c, yaml, n, where, err), "read model_config.yaml");
    source s = {c, where};
    NS_CHECK(st, refuse_unknown(&s, err), "%s", "");
    NS_CHECK(st, read_sizes(a, &s, err), "%s", "");
    NS_CHECK(st, read_rope(a, &s, err), "%s", "");
    NS_CHECK(st, read_rest(a, &s, err), "%s", "");
done:
    ns_config_free(&c);
    return st;
}

ns_status ns_nemo_tokenizer_type(char out[512], const char *yaml, size_t n, const char *where, ns_error *err)
{
    ns_config *c = NULL;
    ns_status st = NS_OK;
    out[0] = 0;
    NS_CHECK(st, ns_config_new(&c, err), "%s", where);
    NS_CHECK(st, ns_config_parse_yaml(c, yaml, n, where, err), "read model_config.yaml");
    source s = {c, where};
    const ns_node *library, *type;
    NS_CHECK(st, field(&s, "tokenizer.library", &library, err), "%s", "");
    NS_CHECK(st, field(&s, "tokenizer.type", &type, err), "%s", "");
    if (library && type && library->type == NS_NODE_STRING && type->type == NS_NODE_STRING &&
        !strcmp(library->s, "huggingface"))
        snprintf(out, 512, "%.511s", type->s);
done:
    ns_config_free(&c);
    return st;
}

/* ---- writing ---- */
static const char *bool_of(int b)
{
    return b ? "true" : "false";
}

/* 1e-5f as 1.0e-05: the shortest digits, and a dot, without which YAML 1.1 reads a string. */
static void float_text(char out[40], double x)
{
    char t[32];
    for (int digits = 1; digits < 17; digits++) {
        snprintf(t, sizeof t, "%.*g", digits, x);
        double back = 0;
        if (sscanf(t, "%lf", &back) == 1 && (back == x || (float)back == (float)x)) break;
    }
    char *e = strchr(t, 'e');
    if (strchr(t, '.')) {
        snprintf(out, 40, "%s", t);
    } else if (e) {
        snprintf(out, 40, "%.*s.0%s", (int)(e - t), t, e);
    } else {
        snprintf(out, 40, "%s.0", t);
    }
}

static ns_status put_window_and_rope(ns_buf *b, const ns_arch *a, ns_error *err)
{
    char theta[40], factor[40], low[40], high[40];
    float_text(theta, a->rope_theta);
    float_text(factor, a->rope_factor);
    float_text(low, a->rope_low);
    float_text(high, a->rope_high);
    NS_TRY(ns_buf_printf(b, err, "position_embedding_type: rope\nrotary_percentage: 1.0\nrotary_base: %s\n", theta),
           "%s", "");
    NS_TRY(ns_buf_printf(b, err, "seq_len_interpolation_factor: %s\n", a->rope == NS_ROPE_LINEAR ? factor : "null"),
           "%s", "");
    if (a->rope == NS_ROPE_LLAMA3) {
        NS_TRY(ns_buf_printf(b, err,
                             "scale_positional_embedding: true\nrope_scaling: true\nrope_scaling_factor: %s\n"
                             "rope_low_freq_factor: %s\nrope_high_freq_factor: %s\n"
                             "rope_original_max_position_embeddings: %lld\n",
                             factor, low, high, (long long)a->rope_orig_max),
               "%s", "");
    }
    if (a->window) NS_TRY(ns_buf_printf(b, err, "window_size:\n- %lld\n- 0\n", (long long)a->window), "%s", "");
    return NS_OK;
}

ns_status ns_arch_write_nemo(ns_buf *b, const ns_arch *a, const ns_nemo_config *o, ns_error *err)
{
    char eps[40], std[40];
    int qwen = a->family == NS_FAMILY_QWEN2 || a->family == NS_FAMILY_QWEN3;
    NS_FAIL_IF(a->o_bias || a->mlp_bias, NS_ERR_UNSUPPORTED,
               "NeMo layout: a bias on the output projection or the MLP has no place in it");
    float_text(eps, (double)a->norm_eps);
    float_text(std, a->init_std);
    NS_TRY(
        ns_buf_printf(b, err,
                      "mcore_gpt: true\nmicro_batch_size: 1\nglobal_batch_size: 1\ntensor_model_parallel_size: 1\n"
                      "pipeline_model_parallel_size: 1\nvirtual_pipeline_model_parallel_size: null\n"
                      "encoder_seq_length: %lld\nmax_position_embeddings: %lld\nnum_layers: %lld\nhidden_size: %lld\n"
                      "ffn_hidden_size: %lld\nnum_attention_heads: %lld\nnum_query_groups: %lld\nkv_channels: %lld\n"
                      "init_method_std: %s\nlayernorm_epsilon: %s\nnormalization: rmsnorm\nbias: false\n",
                      (long long)a->max_pos, (long long)a->max_pos, (long long)a->L, (long long)a->C, (long long)a->F,
                      (long long)a->n_heads, (long long)a->n_kv, (long long)a->head_dim, std, eps),
        "%s", "");
    NS_TRY(ns_buf_printf(b, err, "qkv_bias: %s\nqk_layernorm: %s\nactivation: fast-swiglu\n", bool_of(a->qkv_bias),
                         bool_of(a->qk_norm)),
           "%s", "");
    NS_TRY(put_window_and_rope(b, a, err), "%s", "");
    int64_t div = 128;
    while (a->vocab % div) div /= 2;
    NS_TRY(ns_buf_printf(b, err,
                         "share_embeddings_and_output_weights: %s\nmake_vocab_size_divisible_by: %lld\n"
                         "override_vocab_size: %lld\nhidden_dropout: 0.0\nattention_dropout: 0.0\nffn_dropout: 0.0\n"
                         "apply_query_key_layer_scaling: false\nnormalize_attention_scores: true\npre_process: true\n"
                         "post_process: true\npersist_layer_norm: true\ntransformer_engine: true\n"
                         "megatron_amp_O2: %s\nbias_activation_fusion: %s\nbias_dropout_add_fusion: false\n"
                         "masked_softmax_fusion: true\napply_rope_fusion: %s\ngradient_accumulation_fusion: false\n"
                         "sequence_parallel: false\nactivations_checkpoint_granularity: null\n",
                         bool_of(a->tied), (long long)div, (long long)a->vocab, bool_of(qwen), bool_of(qwen),
                         bool_of(qwen)),
           "%s", "");
    /* the text of a name may hold anything: JSON strings are YAML strings */
    ns_str name = {o->tokenizer ? o->tokenizer : "tokenizer", strlen(o->tokenizer ? o->tokenizer : "tokenizer")};
    NS_TRY(ns_buf_adds(b, "tokenizer:\n  library: huggingface\n  type: ", err), "%s", "");
    NS_TRY(ns_json_write_str(b, name, NS_JSON_ASCII, err), "%s", "");
    const char *p = o->dt == NS_DTYPE_BF16 ? "bf16" : o->dt == NS_DTYPE_F16 ? "'16'" : "'32'";
    return ns_buf_printf(b, err,
                         "\n  model: null\n  vocab_file: null\n  merge_file: null\n  use_fast: true\nprecision: %s\n"
                         "dist_ckpt_format: %s\n"
                         "target: nemo.collections.nlp.models.language_modeling.megatron_gpt_model.MegatronGPTModel\n",
                         p, o->dist_format);
}
