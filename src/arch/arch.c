/* config.json -> architecture record. Understands transformers 4.x (rope_theta + rope_scaling, torch_dtype) and 5.x
 * (rope_parameters, dtype). Rule: what would change the numbers and is not implemented is refused by name; a key that only
 * concerns the Python loader is ignored. Defaults are those of the transformers class. Fields: training.md §5.6. */
#include "arch/arch.h"

#include <stdio.h>
#include <string.h>

/* One config object being read. */
typedef struct source {
    const ns_json *c;
    const char *where;
} source;

static const ns_json *field(const source *s, const char *key)
{
    const ns_json *v = ns_json_get(s->c, key);
    return v && v->type != NS_JSON_NULL ? v : NULL; /* null is the same as absent throughout config.json */
}

static const char *text_of(const ns_json *v, char out[64])
{
    static const char *const names[] = {"null", "a boolean", "a number", "a string", "a list", "an object"};
    if (v->type == NS_JSON_NUMBER || v->type == NS_JSON_STRING) {
        const char *quote = v->type == NS_JSON_STRING ? "\"" : "";
        snprintf(out, 64, "%s%.*s%s", quote, (int)(v->s.n < 50 ? v->s.n : 50), v->s.p, quote);
    } else if (v->type == NS_JSON_BOOL) {
        snprintf(out, 64, "%s", v->b ? "true" : "false");
    } else {
        snprintf(out, 64, "%s", names[v->type]);
    }
    return out;
}

static const int64_t REQUIRED = INT64_MIN;

static ns_status get_int(const source *s, const char *key, int64_t def, int64_t lo, int64_t hi, int64_t *out,
                         ns_error *err)
{
    char t[64];
    const ns_json *v = field(s, key);
    if (!v) {
        NS_FAIL_IF(def == REQUIRED, NS_ERR_INPUT, "%s: \"%s\" is missing: not a Hugging Face config.json?", s->where,
                   key);
        *out = def;
        return NS_OK;
    }
    NS_FAIL_IF(!ns_json_is_int(v, out) || *out < lo || *out > hi, NS_ERR_INPUT,
               "%s: \"%s\" is %s, expected an integer from %lld to %lld", s->where, key, text_of(v, t), (long long)lo,
               (long long)hi);
    return NS_OK;
}

static ns_status get_num(const source *s, const char *key, double def, double lo, double hi, double *out, ns_error *err)
{
    char t[64];
    const ns_json *v = field(s, key);
    *out = def;
    NS_FAIL_IF(v && (!ns_json_is_num(v, out) || !(*out >= lo && *out <= hi)), NS_ERR_INPUT,
               "%s: \"%s\" is %s, expected a number from %g to %g", s->where, key, text_of(v, t), lo, hi);
    return NS_OK;
}

static ns_status get_bool(const source *s, const char *key, int def, int *out, ns_error *err)
{
    char t[64];
    const ns_json *v = field(s, key);
    NS_FAIL_IF(v && v->type != NS_JSON_BOOL, NS_ERR_INPUT, "%s: \"%s\" is %s, expected true or false", s->where, key,
               text_of(v, t));
    *out = v ? v->b : def;
    return NS_OK;
}

/* ---- family ---- */
static const struct {
    const char *model_type;
    ns_family family;
    int64_t max_pos;
} families[] = {
    {"llama", NS_FAMILY_LLAMA, 2048},
    {"qwen2", NS_FAMILY_QWEN2, 32768},
    {"qwen3", NS_FAMILY_QWEN3, 32768},
    {"mistral", NS_FAMILY_MISTRAL, 131072},
};

static ns_status read_family(ns_arch *a, const source *s, ns_error *err)
{
    char t[64];
    const ns_json *v = field(s, "model_type");
    NS_FAIL_IF(!v || v->type != NS_JSON_STRING, NS_ERR_INPUT,
               "%s: \"model_type\" is missing: not a Hugging Face config.json?", s->where);
    for (size_t i = 0; i < sizeof families / sizeof families[0]; i++) {
        if (!ns_str_eq(v->s, families[i].model_type)) continue;
        a->family = families[i].family;
        return get_int(s, "max_position_embeddings", families[i].max_pos, 1, 1 << 30, &a->max_pos, err);
    }
    NS_FAIL(NS_ERR_UNSUPPORTED, "%s: \"model_type\" %s is not supported (supported: llama, qwen2, qwen3, mistral)",
            s->where, text_of(v, t));
}

/* Things whose mere presence changes the computation. */
static ns_status refuse_unknown(const source *s, ns_error *err)
{
    static const char *const experts[] = {"num_local_experts", "num_experts", "n_routed_experts", "moe_num_experts"};
    char t[64];
    for (size_t i = 0; i < sizeof experts / sizeof experts[0]; i++) {
        const ns_json *v = field(s, experts[i]);
        int64_t n = 0;
        NS_FAIL_IF(v && (!ns_json_is_int(v, &n) || n > 0), NS_ERR_UNSUPPORTED,
                   "%s: \"%s\" is %s: mixture-of-experts models are not supported", s->where, experts[i],
                   text_of(v, t));
    }
    const ns_json *q = field(s, "quantization_config");
    const ns_json *method = ns_json_get(q, "quant_method");
    NS_FAIL_IF(q, NS_ERR_UNSUPPORTED, "%s: \"quantization_config\" (quant_method %s): give the unquantised model",
               s->where, method ? text_of(method, t) : "unknown");
    const ns_json *act = field(s, "hidden_act");
    NS_FAIL_IF(act && !(act->type == NS_JSON_STRING && (ns_str_eq(act->s, "silu") || ns_str_eq(act->s, "swish"))),
               NS_ERR_UNSUPPORTED, "%s: \"hidden_act\" %s is not supported (supported: \"silu\")", s->where,
               text_of(act, t));
    double part;
    NS_TRY(get_num(s, "partial_rotary_factor", 1, 0, 1, &part, err), "%s", "");
    NS_FAIL_IF(part != 1, NS_ERR_UNSUPPORTED, "%s: \"partial_rotary_factor\" %g is not supported (supported: 1)",
               s->where, part);
    return NS_OK;
}

static ns_status read_sizes(ns_arch *a, const source *s, ns_error *err)
{
    const int64_t R = REQUIRED;
    NS_TRY(get_int(s, "vocab_size", R, 1, 1 << 24, &a->vocab, err), "%s", "");
    NS_TRY(get_int(s, "hidden_size", R, 1, 1 << 20, &a->C, err), "%s", "");
    NS_TRY(get_int(s, "intermediate_size", R, 1, 1 << 22, &a->F, err), "%s", "");
    NS_TRY(get_int(s, "num_hidden_layers", R, 1, 4096, &a->L, err), "%s", "");
    NS_TRY(get_int(s, "num_attention_heads", R, 1, 1 << 14, &a->n_heads, err), "%s", "");
    int64_t kv = a->n_heads; /* null, and Llama 1 and 2 without the key: one k and v head for each q head */
    if (!ns_json_get(s->c, "num_key_value_heads") && a->family != NS_FAMILY_LLAMA) {
        kv = a->family == NS_FAMILY_MISTRAL ? 8 : 32;
    }
    NS_TRY(get_int(s, "num_key_value_heads", kv, 1, 1 << 14, &a->n_kv, err), "%s", "");
    a->vocab_rows = a->vocab;
    NS_FAIL_IF(a->n_heads % a->n_kv != 0, NS_ERR_INPUT,
               "%s: \"num_attention_heads\" %lld is not a multiple of \"num_key_value_heads\" %lld", s->where,
               (long long)a->n_heads, (long long)a->n_kv);
    int derived = a->family != NS_FAMILY_QWEN3 && !field(s, "head_dim");
    NS_FAIL_IF(
        derived && a->C % a->n_heads != 0, NS_ERR_INPUT,
        "%s: \"hidden_size\" %lld is not a multiple of \"num_attention_heads\" %lld and there is no \"head_dim\"",
        s->where, (long long)a->C, (long long)a->n_heads);
    NS_TRY(get_int(s, "head_dim", derived ? a->C / a->n_heads : 128, 2, 4096, &a->head_dim, err), "%s", "");
    NS_FAIL_IF(a->head_dim < 2 || a->head_dim > 4096, NS_ERR_INPUT,
               "%s: hidden_size %lld over %lld heads gives heads of %lld: found outside 2..4096", s->where,
               (long long)a->C, (long long)a->n_heads, (long long)a->head_dim);
    NS_FAIL_IF(a->head_dim % 2, NS_ERR_UNSUPPORTED, "%s: head_dim %lld is odd: rotary embedding needs pairs", s->where,
               (long long)a->head_dim);
    return NS_OK;
}

static ns_status read_switches(ns_arch *a, const source *s, ns_error *err)
{
    double x;
    NS_TRY(get_num(s, "rms_norm_eps", 1e-6, 0, 1, &x, err), "%s", "");
    a->norm_eps = (float)x;
    NS_TRY(get_num(s, "initializer_range", 0.02, 0, 100, &a->init_std, err), "%s", "");
    NS_TRY(get_bool(s, "tie_word_embeddings", 0, &a->tied, err), "%s", "");
    int bias;
    NS_TRY(get_bool(s, "attention_bias", 0, &bias, err), "%s", "");
    if (a->family == NS_FAMILY_LLAMA || a->family == NS_FAMILY_QWEN3) a->qkv_bias = a->o_bias = bias;
    if (a->family == NS_FAMILY_QWEN2)
        a->qkv_bias = 1; /* always, and none on the output; the key is not read upstream */
    a->qk_norm = a->family == NS_FAMILY_QWEN3;
    NS_TRY(get_bool(s, "mlp_bias", 0, &a->mlp_bias, err), "%s", "");
    NS_FAIL_IF(a->mlp_bias, NS_ERR_UNSUPPORTED, "%s: \"mlp_bias\" true is not supported", s->where);
    return NS_OK;
}

/* ---- rotary embedding ---- */
static ns_status read_rope(ns_arch *a, const source *s, ns_error *err)
{
    char t[64];
    const ns_json *par = field(s, "rope_parameters"), *scal = field(s, "rope_scaling");
    if (scal && scal->type == NS_JSON_OBJECT && scal->n == 0) scal = NULL;
    const char *key = scal ? "rope_scaling" : "rope_parameters"; /* with both, transformers takes rope_scaling */
    const ns_json *r = scal ? scal : par;
    NS_FAIL_IF(r && r->type != NS_JSON_OBJECT, NS_ERR_INPUT, "%s: \"%s\" is %s, expected an object or null", s->where,
               key, text_of(r, t));
    a->rope = NS_ROPE_PLAIN;
    a->rope_factor = a->rope_low = a->rope_high = 1;
    a->rope_orig_max = a->max_pos;
    NS_TRY(get_num(s, "rope_theta", 10000, 1, 1e12, &a->rope_theta, err), "%s", "");
    if (!r) return NS_OK;
    char where[512];
    snprintf(where, sizeof where, "%s: %s", s->where, key);
    source in = {r, where};
    NS_TRY(get_num(&in, "rope_theta", a->rope_theta, 1, 1e12, &a->rope_theta, err), "%s", "");
    double part;
    NS_TRY(get_num(&in, "partial_rotary_factor", 1, 0, 1, &part, err), "%s", "");
    NS_FAIL_IF(part != 1, NS_ERR_UNSUPPORTED, "%s: \"partial_rotary_factor\" %g is not supported (supported: 1)", where,
               part);
    const ns_json *type = field(&in, "rope_type");
    if (!type) type = field(&in, "type");
    NS_FAIL_IF(!type && r->n && r->items[0].type == NS_JSON_OBJECT, NS_ERR_UNSUPPORTED,
               "%s: one rotary embedding for each layer type (\"%.*s\") is not supported", where, (int)r->keys[0].n,
               r->keys[0].p);
    if (!type || (type->type == NS_JSON_STRING && ns_str_eq(type->s, "default"))) return NS_OK;
    NS_FAIL_IF(type->type != NS_JSON_STRING || !(ns_str_eq(type->s, "linear") || ns_str_eq(type->s, "llama3")),
               NS_ERR_UNSUPPORTED, "%s: \"rope_type\" %s is not supported (supported: default, linear, llama3)", where,
               text_of(type, t));
    NS_FAIL_IF(!field(&in, "factor"), NS_ERR_INPUT, "%s: \"factor\" is missing", where);
    NS_TRY(get_num(&in, "factor", 1, 1, 1e6, &a->rope_factor, err), "%s", "");
    if (ns_str_eq(type->s, "linear")) {
        a->rope = NS_ROPE_LINEAR;
        return NS_OK;
    }
    a->rope = NS_ROPE_LLAMA3;
    NS_TRY(get_num(&in, "low_freq_factor", 1, 1e-6, 1e6, &a->rope_low, err), "%s", "");
    NS_TRY(get_num(&in, "high_freq_factor", 4, 1e-6, 1e6, &a->rope_high, err), "%s", "");
    NS_TRY(get_int(&in, "original_max_position_embeddings", REQUIRED, 1, 1 << 30, &a->rope_orig_max, err), "%s", "");
    NS_FAIL_IF(a->rope_high <= a->rope_low, NS_ERR_INPUT,
               "%s: \"high_freq_factor\" %g must exceed \"low_freq_factor\" %g", where, a->rope_high, a->rope_low);
    return NS_OK;
}

/* ---- window: one for all layers or none ---- */
static ns_status read_window(ns_arch *a, const source *s, ns_error *err)
{
    int64_t w, from;
    int use, qwen = a->family == NS_FAMILY_QWEN2 || a->family == NS_FAMILY_QWEN3;
    int64_t absent = a->family != NS_FAMILY_LLAMA && !ns_json_get(s->c, "sliding_window") ? 4096 : 0; /* null: none */
    NS_TRY(get_int(s, "sliding_window", absent, 0, 1 << 30, &w, err), "%s", "");
    NS_TRY(get_bool(s, "use_sliding_window", !qwen, &use, err), "%s", "");
    if (a->family == NS_FAMILY_LLAMA) return NS_OK; /* its class has no window */
    if (!use) w = 0;
    int64_t sliding = w ? a->L : 0; /* layers with the window */
    if (w && qwen) {                /* the first max_window_layers layers see everything */
        NS_TRY(get_int(s, "max_window_layers", 28, 0, 1 << 20, &from, err), "%s", "");
        sliding = from < a->L ? a->L - from : 0;
    }
    const ns_json *types = field(s, "layer_types");
    if (w && types && types->type == NS_JSON_ARRAY) {
        sliding = 0;
        for (size_t i = 0; i < types->n; i++) sliding += ns_str_eq(types->items[i].s, "sliding_attention");
    }
    NS_FAIL_IF(sliding && sliding != a->L, NS_ERR_UNSUPPORTED,
               "%s: \"sliding_window\" %lld on %lld of %lld layers is not supported (all layers or none)", s->where,
               (long long)w, (long long)sliding, (long long)a->L);
    a->window = sliding ? w : 0;
    return NS_OK;
}

static ns_status read_tokens(ns_arch *a, const source *s, ns_error *err)
{
    char t[64];
    a->n_eos = 0;
    NS_TRY(get_int(s, "bos_token_id", -1, -1, 1 << 30, &a->bos, err), "%s", "");
    const ns_json *v = field(s, "eos_token_id");
    if (!v) return NS_OK;
    const ns_json *ids = v->type == NS_JSON_ARRAY ? v->items : v;
    size_t n = v->type == NS_JSON_ARRAY ? v->n : 1;
    NS_FAIL_IF(n > sizeof a->eos / sizeof a->eos[0], NS_ERR_UNSUPPORTED,
               "%s: \"eos_token_id\" lists %zu ids, at most 8", s->where, n);
    for (size_t i = 0; i < n; i++) {
        NS_FAIL_IF(!ns_json_is_int(&ids[i], &a->eos[i]), NS_ERR_INPUT,
                   "%s: \"eos_token_id\" holds %s, expected an integer or a list of integers", s->where,
                   text_of(&ids[i], t));
    }
    a->n_eos = (int)n;
    return NS_OK;
}

static ns_status read_dtype(ns_arch *a, const source *s, ns_error *err)
{
    char t[64], name[16];
    const ns_json *v = field(s, "dtype");
    if (!v) v = field(s, "torch_dtype");
    a->dt = NS_DTYPE_F32;
    if (!v) return NS_OK;
    snprintf(name, sizeof name, "%.*s", (int)(v->type == NS_JSON_STRING && v->s.n < 15 ? v->s.n : 0),
             v->s.p ? v->s.p : "");
    NS_FAIL_IF(!ns_dtype_parse(name, &a->dt) ||
                   (a->dt != NS_DTYPE_F32 && a->dt != NS_DTYPE_BF16 && a->dt != NS_DTYPE_F16),
               NS_ERR_UNSUPPORTED, "%s: \"dtype\" %s is not supported (supported: bfloat16, float16, float32)",
               s->where, text_of(v, t));
    return NS_OK;
}

ns_status ns_arch_from_json(ns_arch *a, const ns_json *config, const char *where, ns_error *err)
{
    source s = {config, where};
    memset(a, 0, sizeof *a);
    NS_FAIL_IF(!config || config->type != NS_JSON_OBJECT, NS_ERR_INPUT, "%s: expected a JSON object", where);
    NS_TRY(read_family(a, &s, err), "%s", "");
    NS_TRY(refuse_unknown(&s, err), "%s", "");
    NS_TRY(read_sizes(a, &s, err), "%s", "");
    NS_TRY(read_switches(a, &s, err), "%s", "");
    NS_TRY(read_rope(a, &s, err), "%s", "");
    NS_TRY(read_window(a, &s, err), "%s", "");
    NS_TRY(read_tokens(a, &s, err), "%s", "");
    NS_TRY(read_dtype(a, &s, err), "%s", "");
    a->act = 0; /* NS_ACT_SWIGLU of ops.h: the only one refuse_unknown lets through */
    return NS_OK;
}

ns_status ns_arch_read(ns_arch *a, const char *config_json_path, ns_error *err)
{
    ns_arena arena = NS_ARENA_INIT("arch.config");
    ns_json *j = NULL;
    ns_status st = NS_OK;
    NS_CHECK(st, ns_json_read_file(&j, &arena, config_json_path, err), "read model config");
    NS_CHECK(st, ns_arch_from_json(a, j, config_json_path, err), "read model config");
done:
    ns_arena_free(&arena);
    return st;
}

int ns_arch_add_eos(ns_arch *a, int64_t id, int first)
{
    enum { MOST = sizeof a->eos / sizeof a->eos[0] };
    int at = 0;
    if (id < 0 || id >= a->vocab) return 0;
    while (at < a->n_eos && a->eos[at] != id) at++;
    if (at < a->n_eos && !first) return 1;
    if (at == a->n_eos && at == MOST && !first) return 0;
    if (at == a->n_eos && at < MOST) a->n_eos++;
    if (at == MOST) at--; /* full: the last one goes */
    if (first) memmove(a->eos + 1, a->eos, (size_t)at * sizeof a->eos[0]);
    a->eos[first ? 0 : at] = id;
    return 1;
}
