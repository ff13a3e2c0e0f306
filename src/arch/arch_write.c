/* Architecture record -> config.json. Written in the 4.x layout (rope_theta, rope_scaling, torch_dtype): transformers 4.x
 * and 5.x both read it, while 4.x silently ignores the 5.x "rope_parameters". Keys of `base` that the record does not own
 * are kept, so pad_token_id, use_cache and the like survive; spellings that would contradict ours are dropped. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "arch/arch.h"

static const struct {
    const char *model_type, *class_name;
} names[] = {
    [NS_FAMILY_LLAMA] = {"llama", "LlamaForCausalLM"},
    [NS_FAMILY_QWEN2] = {"qwen2", "Qwen2ForCausalLM"},
    [NS_FAMILY_QWEN3] = {"qwen3", "Qwen3ForCausalLM"},
    [NS_FAMILY_MISTRAL] = {"mistral", "MistralForCausalLM"},
};

/* The object under construction. Errors stick: after the first, setters do nothing. */
typedef struct writer {
    ns_json *obj;
    ns_arena *arena;
    ns_status st;
    ns_error *err;
} writer;

static void put(writer *w, const char *key, const ns_json *v)
{
    if (w->st == NS_OK) w->st = v ? ns_json_set(w->obj, w->arena, key, v, w->err) : NS_ERR_MEMORY;
}
static void put_null(writer *w, const char *key)
{
    put(w, key, ns_json_new(w->arena, NS_JSON_NULL, w->err));
}
static void put_int(writer *w, const char *key, int64_t v)
{
    put(w, key, ns_json_new_int(w->arena, v, w->err));
}
static void put_num(writer *w, const char *key, double v)
{
    put(w, key, ns_json_new_num(w->arena, v, w->err));
}
static void put_bool(writer *w, const char *key, int v)
{
    put(w, key, ns_json_new_bool(w->arena, v, w->err));
}
static void put_str(writer *w, const char *key, const char *v)
{
    put(w, key, ns_json_new_str(w->arena, v, w->err));
}
/* 1e-5f as 1e-05, not as 9.999999747378752e-06: the shortest decimal that reads back as the same float. */
static void put_float(writer *w, const char *key, float v)
{
    char t[32];
    for (int digits = 1; digits < 10; digits++) {
        snprintf(t, sizeof t, "%.*g", digits, (double)v);
        if (strtof(t, NULL) == v) break;
    }
    put_num(w, key, strtod(t, NULL));
}

static void put_eos(writer *w, const ns_arch *a)
{
    if (a->n_eos == 0) {
        put_null(w, "eos_token_id");
    } else if (a->n_eos == 1) {
        put_int(w, "eos_token_id", a->eos[0]);
    } else {
        ns_json *list = ns_json_new(w->arena, NS_JSON_ARRAY, w->err);
        for (int i = 0; i < a->n_eos && list && w->st == NS_OK; i++) {
            w->st = ns_json_append(list, w->arena, ns_json_new_int(w->arena, a->eos[i], w->err), w->err);
        }
        put(w, "eos_token_id", list);
    }
}

static void put_rope(writer *w, const ns_arch *a)
{
    put_num(w, "rope_theta", a->rope_theta);
    if (a->rope == NS_ROPE_PLAIN) {
        put_null(w, "rope_scaling");
        return;
    }
    writer r = {ns_json_new(w->arena, NS_JSON_OBJECT, w->err), w->arena, w->st, w->err};
    if (!r.obj) r.st = NS_ERR_MEMORY;
    put_num(&r, "factor", a->rope_factor);
    if (a->rope == NS_ROPE_LLAMA3) {
        put_num(&r, "high_freq_factor", a->rope_high);
        put_num(&r, "low_freq_factor", a->rope_low);
        put_int(&r, "original_max_position_embeddings", a->rope_orig_max);
    }
    put_str(&r, "rope_type", a->rope == NS_ROPE_LLAMA3 ? "llama3" : "linear");
    w->st = r.st;
    put(w, "rope_scaling", r.obj);
}

static void put_window(writer *w, const ns_arch *a)
{
    int qwen = a->family == NS_FAMILY_QWEN2 || a->family == NS_FAMILY_QWEN3;
    if (!qwen && a->family != NS_FAMILY_MISTRAL) return;
    if (a->window) {
        put_int(w, "sliding_window", a->window);
    } else {
        put_null(w, "sliding_window"); /* must be there: Mistral without the key means 4096 */
    }
    if (!qwen) return;
    put_bool(w, "use_sliding_window", a->window != 0);
    put_int(w, "max_window_layers", a->window ? 0 : a->L); /* the first n layers have no window */
}

static void put_base(writer *w, const ns_json *base)
{
    /* other spellings of what we write, and what no longer holds for the written weights */
    static const char *const dropped[] = {"rope_parameters",     "dtype",    "layer_types",
                                          "quantization_config", "auto_map", "partial_rotary_factor",
                                          "_name_or_path"};
    for (size_t i = 0; base && base->type == NS_JSON_OBJECT && i < base->n; i++) {
        int drop = 0;
        for (size_t j = 0; j < sizeof dropped / sizeof dropped[0]; j++) drop |= ns_str_eq(base->keys[i], dropped[j]);
        char *key = drop ? NULL : ns_arena_strndup(w->arena, base->keys[i].p, base->keys[i].n, w->err);
        if (key) put(w, key, &base->items[i]);
    }
}

ns_status ns_arch_write_json(ns_buf *out, const ns_arch *a, const ns_json *base, ns_error *err)
{
    NS_FAIL_IF((size_t)a->family >= sizeof names / sizeof names[0], NS_ERR_UNSUPPORTED,
               "config.json: this model family cannot be written yet");
    const char *dt = a->dt == NS_DTYPE_BF16 ? "bfloat16" : a->dt == NS_DTYPE_F16 ? "float16" : "float32";
    ns_arena arena = NS_ARENA_INIT("arch.config");
    writer w = {ns_json_new(&arena, NS_JSON_OBJECT, err), &arena, NS_OK, err};
    if (!w.obj) w.st = NS_ERR_MEMORY;
    put_base(&w, base);
    ns_json *classes = ns_json_new(&arena, NS_JSON_ARRAY, err);
    if (classes && w.st == NS_OK) {
        w.st = ns_json_append(classes, &arena, ns_json_new_str(&arena, names[a->family].class_name, err), err);
    }
    put(&w, "architectures", classes);
    if (a->family == NS_FAMILY_LLAMA || a->family == NS_FAMILY_QWEN3) put_bool(&w, "attention_bias", a->o_bias);
    if (a->bos < 0) {
        put_null(&w, "bos_token_id");
    } else {
        put_int(&w, "bos_token_id", a->bos);
    }
    put_eos(&w, a);
    if (a->family != NS_FAMILY_QWEN2) {
        put_int(&w, "head_dim", a->head_dim);
    } else if (a->head_dim != a->C / a->n_heads) {
        put_int(&w, "head_dim", a->head_dim);
    }
    put_str(&w, "hidden_act", "silu");
    put_int(&w, "hidden_size", a->C);
    put_num(&w, "initializer_range", a->init_std);
    put_int(&w, "intermediate_size", a->F);
    put_int(&w, "max_position_embeddings", a->max_pos);
    if (a->family == NS_FAMILY_LLAMA) put_bool(&w, "mlp_bias", a->mlp_bias);
    put_str(&w, "model_type", names[a->family].model_type);
    put_int(&w, "num_attention_heads", a->n_heads);
    put_int(&w, "num_hidden_layers", a->L);
    put_int(&w, "num_key_value_heads", a->n_kv);
    put_float(&w, "rms_norm_eps", a->norm_eps);
    put_rope(&w, a);
    put_window(&w, a);
    put_bool(&w, "tie_word_embeddings", a->tied);
    put_str(&w, "torch_dtype", dt);
    if (!ns_json_get(base, "use_cache")) put_bool(&w, "use_cache", 1);
    put_int(&w, "vocab_size", a->vocab_rows); /* the loader checks it against the rows of the embedding */
    if (w.st == NS_OK) w.st = ns_json_write_pretty(out, w.obj, err);
    if (w.st == NS_OK) w.st = ns_buf_addc(out, '\n', err);
    ns_arena_free(&arena);
    return w.st;
}
