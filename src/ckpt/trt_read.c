/* TensorRT-LLM reader: the writer's layout, read the other way. Key/value heads that several ranks hold are taken from one; a tied
 * head is not read. */
#include "ckpt/trt_read.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/json.h"
#include "ckpt/path.h"
#include "ckpt/safetensors.h"
#include "ckpt/trt_layout.h"

typedef struct quant { /* of config.json */
    int bits;          /* 8, 4; 0: none */
    int fp8;           /* quant_algo FP8 (bits 8) */
    int sm80;          /* ints are in this order */
} quant;

struct ns_trt {
    ns_trt_layout l;
    ns_st **st; /* by rank */
    quant q;
    ns_arena arena; /* matrices of ints */
};

static ns_status quant_of(quant *q, const ns_json *t, const char *where, ns_error *err)
{
    const ns_json *algo = ns_json_at(t, "quantization.quant_algo"), *layout = ns_json_get(t, NS_TRT_LAYOUT_KEY);
    memset(q, 0, sizeof *q);
    if (!algo || algo->type != NS_JSON_STRING) return NS_OK;
    q->fp8 = ns_str_eq(algo->s, "FP8");
    q->bits = q->fp8 || ns_str_eq(algo->s, "W8A16") ? 8 : ns_str_eq(algo->s, "W4A16") ? 4 : 0;
    NS_FAIL_IF(
        !q->bits, NS_ERR_UNSUPPORTED,
        "%s: quantised weights (%.*s) cannot be read (known: FP8, W8A16, W4A16): convert the model they came from",
        where, (int)(algo->s.n < 60 ? algo->s.n : 60), algo->s.p);
    q->sm80 = layout && layout->type == NS_JSON_STRING && ns_str_eq(layout->s, "sm80");
    NS_FAIL_IF(layout && !q->sm80, NS_ERR_UNSUPPORTED, "%s: \"" NS_TRT_LAYOUT_KEY "\" is not \"sm80\"", where);
    return NS_OK;
}

/* config.json of TensorRT-LLM as one of Hugging Face. */
static ns_status config_of(ns_json **out, const ns_json *t, ns_arena *m, const char *where, ns_error *err)
{
    static const struct {
        const char *trt, *qwen, *type, *name;
    } known[] = {{"LlamaForCausalLM", NULL, "llama", "LlamaForCausalLM"},
                 {"LLaMAForCausalLM", NULL, "llama", "LlamaForCausalLM"},
                 {"MistralForCausalLM", NULL, "mistral", "MistralForCausalLM"},
                 {"QWenForCausalLM", "qwen2", "qwen2", "Qwen2ForCausalLM"},
                 {"QWenForCausalLM", "qwen3", "qwen3", "Qwen3ForCausalLM"},
                 {"Qwen2ForCausalLM", NULL, "qwen2", "Qwen2ForCausalLM"},
                 {"Qwen3ForCausalLM", NULL, "qwen3", "Qwen3ForCausalLM"}};
    static const char *const keys[][2] = {{"num_hidden_layers", "num_hidden_layers"},
                                          {"num_attention_heads", "num_attention_heads"},
                                          {"num_key_value_heads", "num_key_value_heads"},
                                          {"head_dim", "head_size"},
                                          {"hidden_size", "hidden_size"},
                                          {"intermediate_size", "intermediate_size"},
                                          {"vocab_size", "vocab_size"},
                                          {"rms_norm_eps", "norm_epsilon"},
                                          {"max_position_embeddings", "max_position_embeddings"},
                                          {"rope_theta", "rotary_base"},
                                          {"rope_scaling", "rotary_scaling"},
                                          {"hidden_act", "hidden_act"},
                                          {"tie_word_embeddings", "tie_word_embeddings"},
                                          {"torch_dtype", "dtype"}};
    const ns_json *name = ns_json_get(t, "architecture"), *qwen = ns_json_get(t, "qwen_type"), *v;
    const ns_json *window = ns_json_get(t, "sliding_window");
    size_t k = 0, n = sizeof known / sizeof known[0];
    int has_window = window && window->type == NS_JSON_NUMBER;
    NS_FAIL_IF(!name || name->type != NS_JSON_STRING, NS_ERR_INPUT, "%s: \"architecture\" is missing", where);
    while (k < n && (!ns_str_eq(name->s, known[k].trt) ||
                     (known[k].qwen && (!qwen || qwen->type != NS_JSON_STRING || !ns_str_eq(qwen->s, known[k].qwen)))))
        k++;
    NS_FAIL_IF(k == n, NS_ERR_UNSUPPORTED,
               "%s: architecture '%.*s' is not supported (known: LlamaForCausalLM, MistralForCausalLM, QWenForCausalLM "
               "with qwen_type qwen2 or qwen3)",
               where, (int)(name->s.n < 60 ? name->s.n : 60), name->s.p);
    quant q;
    NS_TRY(quant_of(&q, t, where, err), "%s", "");
    ns_json *c = ns_json_new(m, NS_JSON_OBJECT, err), *list = ns_json_new(m, NS_JSON_ARRAY, err);
    if (!c || !list) return NS_ERR_MEMORY;
    NS_TRY(ns_json_append(list, m, ns_json_new_str(m, known[k].name, err), err), "%s", "");
    NS_TRY(ns_json_set(c, m, "architectures", list, err), "%s", "");
    NS_TRY(ns_json_set(c, m, "model_type", ns_json_new_str(m, known[k].type, err), err), "%s", "");
    for (size_t i = 0; i < sizeof keys / sizeof keys[0]; i++)
        if ((v = ns_json_get(t, keys[i][1]))) NS_TRY(ns_json_set(c, m, keys[i][0], v, err), "%s", "");
    if (!ns_json_get(t, "tie_word_embeddings") && (v = ns_json_get(t, "share_embedding_table")))
        NS_TRY(ns_json_set(c, m, "tie_word_embeddings", v, err), "%s", "");
    if (!strcmp(known[k].type, "llama") && (v = ns_json_get(t, "attn_bias")))
        NS_TRY(ns_json_set(c, m, "attention_bias", v, err), "%s", "");
    NS_TRY(ns_json_set(c, m, "sliding_window", has_window ? window : ns_json_new(m, NS_JSON_NULL, err), err), "%s", "");
    if (has_window && known[k].type[0] == 'q') {
        NS_TRY(ns_json_set(c, m, "use_sliding_window", ns_json_new_bool(m, 1, err), err), "%s", "");
        NS_TRY(ns_json_set(c, m, "max_window_layers", ns_json_new_int(m, 0, err), err), "%s", "");
    }
    *out = c;
    return NS_OK;
}

static ns_status read_config(ns_json **t, char path[4096], ns_arena *m, const char *dir, ns_error *err)
{
    NS_TRY(ns_path(path, 4096, err, "%s/config.json", dir), "%s", "");
    return ns_json_read_file(t, m, path, err);
}

ns_status ns_trt_arch(ns_arch *a, const char *dir, ns_error *err)
{
    ns_arena m = NS_ARENA_INIT("trt.config");
    char path[4096];
    ns_json *t = NULL, *c = NULL;
    ns_status st = NS_OK;
    NS_CHECK(st, read_config(&t, path, &m, dir, err), "read model");
    NS_CHECK(st, config_of(&c, t, &m, path, err), "%s", "");
    NS_CHECK(st, ns_arch_from_json(a, c, path, err), "%s", "");
done:
    ns_arena_free(&m);
    return st;
}

/* How others cut: the embedding by rows, no head where it is the embedding. */
static ns_status cut_of(int *how, const ns_json *t, const char *where, ns_error *err)
{
    const ns_json *dim = ns_json_get(t, "embedding_sharding_dim");
    int64_t d = 0;
    *how = 0;
    if (ns_json_truthy(ns_json_get(t, "share_embedding_table"))) *how |= NS_TRT_NO_HEAD;
    if (!ns_json_truthy(ns_json_get(t, "use_parallel_embedding"))) return NS_OK;
    *how |= NS_TRT_SPLIT_EMBEDDING;
    NS_FAIL_IF(dim && (!ns_json_is_int(dim, &d) || d), NS_ERR_UNSUPPORTED,
               "%s: an embedding that is cut by columns (\"embedding_sharding_dim\" 1) cannot be read: convert with 0",
               where);
    return NS_OK;
}

static ns_status mapping(const char *dir, int64_t *tp, int64_t *pp, quant *q, int *how, ns_error *err)
{
    ns_arena m = NS_ARENA_INIT("trt.config");
    char path[4096];
    ns_json *t = NULL;
    ns_status st = NS_OK;
    *tp = *pp = 1;
    NS_CHECK(st, read_config(&t, path, &m, dir, err), "read model");
    const ns_json *a = ns_json_at(t, "mapping.tp_size"), *b = ns_json_at(t, "mapping.pp_size");
    NS_BAIL_IF(st,
               (a && !ns_json_is_int(a, tp)) || (b && !ns_json_is_int(b, pp)) || *tp < 1 || *pp < 1 || *tp > 1024 ||
                   *pp > 1024,
               NS_ERR_INPUT, "%s: \"mapping\" has no usable tp_size and pp_size", path);
    NS_CHECK(st, quant_of(q, t, path, err), "%s", "");
    NS_CHECK(st, cut_of(how, t, path, err), "%s", "");
done:
    ns_arena_free(&m);
    return st;
}

static ns_status check_fp8(const ns_trt *t, int r, const ns_trt_tensor *w, const char *path, ns_error *err)
{
    char name[128];
    float scale;
    ns_trt_scale_name(name, w->name, "weights_scaling_factor");
    const ns_st_tensor *s = ns_st_find(t->st[r], name);
    NS_FAIL_IF(!s, NS_ERR_MISMATCH, "%s: tensor \"%s\" is missing", path, name);
    NS_FAIL_IF(s->n != 1 || s->dt != NS_DTYPE_F32, NS_ERR_MISMATCH, "%s: tensor \"%s\": expected one scale of type F32",
               path, name);
    memcpy(&scale, s->data, sizeof scale);
    NS_FAIL_IF(!(scale > 0) || !isfinite(scale), NS_ERR_INPUT, "%s: tensor \"%s\": a scale of %g", path, name,
               (double)scale);
    return NS_OK;
}

/* How many of the tensors beside the weights are there: scales of activations and of the key/value cache say nothing of weights. */
static int count_fp8(const ns_trt *t, int r)
{
    static const char *const known[] = {".weights_scaling_factor", ".activation_scaling_factor",
                                        ".attention.kv_cache_scaling_factor", ".attention.k_cache_scaling_factor",
                                        ".attention.v_cache_scaling_factor"};
    int n = 0;
    for (int i = 0; i < ns_st_count(t->st[r]); i++) {
        const char *name = ns_st_at(t->st[r], i)->name;
        for (size_t k = 0; k < sizeof known / sizeof known[0]; k++) {
            size_t a = strlen(name), b = strlen(known[k]);
            if (a < b || strcmp(name + a - b, known[k]) != 0) continue;
            n++;
            break;
        }
    }
    return n;
}

static ns_status check_ints(const ns_trt *t, int r, const ns_trt_tensor *w, const char *path, ns_error *err)
{
    char name[128];
    ns_wq q = {.bits = t->q.bits, .rows = w->shape[0], .cols = w->shape[1]};
    NS_FAIL_IF(
        !t->q.sm80, NS_ERR_UNSUPPORTED,
        "%s: tensor \"%s\" is int8 in an order that depends on the GPU it was made for, and config.json does not say "
        "which: if it was made for compute capability 7.5 to 8.9, add \"" NS_TRT_LAYOUT_KEY
        "\": \"sm80\" to config.json",
        path, w->name);
    NS_TRY(ns_wq_check(&q, w->name, err), "%s", path);
    ns_trt_scale_name(name, w->name, "per_channel_scale");
    const ns_st_tensor *s = ns_st_find(t->st[r], name);
    NS_FAIL_IF(!s, NS_ERR_MISMATCH, "%s: tensor \"%s\" is missing", path, name);
    NS_FAIL_IF(s->nd != 1 || s->shape[0] != w->shape[0] ||
                   (s->dt != NS_DTYPE_F32 && s->dt != NS_DTYPE_BF16 && s->dt != NS_DTYPE_F16),
               NS_ERR_MISMATCH, "%s: tensor \"%s\": expected %lld scales of type BF16, F16 or F32", path, name,
               (long long)w->shape[0]);
    return NS_OK;
}

static ns_status ints_of(ns_trt *t, const ns_wq **out, int r, const ns_trt_tensor *k, const ns_st_tensor *data,
                         ns_error *err)
{
    char name[128];
    ns_wq *q = ns_arena_alloc(&t->arena, sizeof *q, err);
    if (!q) return NS_ERR_MEMORY;
    ns_trt_scale_name(name, k->name, t->q.fp8 ? "weights_scaling_factor" : "per_channel_scale");
    const ns_st_tensor *s = ns_st_find(t->st[r], name);
    *q = (ns_wq){t->q.bits, t->q.fp8, k->shape[0], k->shape[1], data->data, s->data, s->dt};
    *out = q;
    return NS_OK;
}

static ns_status open_rank(ns_trt *t, int r, const char *dir, ns_error *err)
{
    char path[4096];
    const ns_trt_rank *k = &t->l.r[r];
    int n = k->n;
    NS_TRY(ns_path(path, sizeof path, err, "%s/rank%d.safetensors", dir, r), "%s", "");
    NS_TRY(ns_st_open(&t->st[r], path, err), "rank %d of %d", r, t->l.tp * t->l.pp);
    for (int i = 0; i < k->n; i++) {
        const ns_trt_tensor *w = &k->t[i];
        const ns_st_tensor *x = ns_st_find(t->st[r], w->name);
        NS_FAIL_IF(!x, NS_ERR_MISMATCH, "%s: tensor \"%s\" is missing", path, w->name);
        int ints = w->matrix && t->q.bits && !t->q.fp8 && x->dt == NS_DTYPE_I8;
        int64_t rows = ints ? w->shape[1] : w->shape[0], found = x->nd == 2 ? x->shape[1] : 1;
        int64_t cols = ints ? w->shape[0] * t->q.bits / 8 : w->nd == 2 ? w->shape[1] : 1;
        NS_FAIL_IF(x->nd != w->nd || x->shape[0] != rows || found != cols, NS_ERR_MISMATCH,
                   "%s: tensor \"%s\" has %d axes, %lld x %lld, expected %d axes, %lld x %lld", path, w->name, x->nd,
                   (long long)(x->nd ? x->shape[0] : 0), (long long)found, w->nd, (long long)rows, (long long)cols);
        if (w->matrix && t->q.fp8 && x->dt == NS_DTYPE_F8_E4M3) NS_TRY(check_fp8(t, r, w, path, err), "%s", "");
        if (!ints) continue;
        NS_TRY(check_ints(t, r, w, path, err), "%s", "");
        n++;
    }
    if (t->q.fp8) n += count_fp8(t, r);
    NS_FAIL_IF(ns_st_count(t->st[r]) != n, NS_ERR_MISMATCH, "%s: %d tensors, expected %d by config.json", path,
               ns_st_count(t->st[r]), n);
    return NS_OK;
}

static ns_status add_view(ns_trt *t, ns_archive *hf, int v, ns_error *err)
{
    const ns_view *w = &t->l.table->views[v];
    const ns_param *q = &t->l.table->params[w->param];
    ns_arc_tensor *x = NULL;
    int64_t shape[2] = {w->rows, q->cols};
    if (q->kind == NS_P_EMBED || q->kind == NS_P_HEAD) shape[0] = t->l.table->arch->vocab; /* the rest is padding */
    for (int i = t->l.first[v]; i >= 0; i = t->l.d[i].next) {
        const ns_trt_dest *d = &t->l.d[i];
        const ns_trt_tensor *k = &t->l.r[d->rank].t[d->tensor];
        const ns_st_tensor *s = ns_st_find(t->st[d->rank], k->name);
        int64_t cols = k->nd == 2 ? k->shape[1] : 1;
        int seen = q->kind == NS_P_EMBED && !strcmp(k->name, "lm_head.weight"); /* tied */
        int ints = k->matrix && t->q.bits && s->dt == (t->q.fp8 ? NS_DTYPE_F8_E4M3 : NS_DTYPE_I8);
        ns_dtype dt = ints ? NS_DTYPE_F32 : s->dt;
        if (!x && !seen) NS_TRY(ns_archive_add(hf, &x, w->name, dt, shape, w->nd, err), "%s", "");
        for (size_t j = 0; x && j < x->n_pieces && !seen; j++)
            seen = x->pieces[j].off[0] == d->src && x->pieces[j].off[1] == d->col0;
        if (seen) continue;
        NS_FAIL_IF(dt != x->dt, NS_ERR_INPUT, "%s: tensor \"%s\" has another type than in other ranks", s->file,
                   s->name);
        ns_box b = {.file = s->file};
        b.off[0] = d->src;
        b.size[0] = d->n;
        if (w->nd == 2) {
            b.off[1] = d->col0;
            b.size[1] = cols;
        }
        ns_box_dense(&b, w->nd);
        if (ints) {
            NS_TRY(ints_of(t, &b.wq, d->rank, k, s, err), "%s", "");
            b.wq_row = d->row;
        } else {
            b.data = (const unsigned char *)s->data + (size_t)(d->row * cols) * ns_dtype_size(s->dt);
        }
        NS_TRY(ns_arc_box_add(hf, x, &b, err), "%s", "");
    }
    return NS_OK;
}

ns_status ns_trt_read(ns_trt **out, ns_archive *hf, const char *dir, const ns_param_table *table, ns_error *err)
{
    ns_trt *t = NULL;
    quant q;
    int64_t tp, pp;
    int how = 0;
    ns_status st = NS_OK;
    *out = NULL;
    NS_TRY(mapping(dir, &tp, &pp, &q, &how, err), "%s", "");
    if (!table->arch->tied) how &= ~NS_TRT_NO_HEAD;
    NS_TRY(ns_alloc((void **)&t, sizeof *t, "trt", err), "%s", dir);
    t->q = q;
    t->arena.label = "trt";
    NS_CHECK(st, ns_trt_layout_build(&t->l, table, (int)tp, (int)pp, how, err), "%s", dir);
    NS_CHECK(st, ns_alloc((void **)&t->st, (size_t)(tp * pp) * sizeof *t->st, "trt", err), "%s", dir);
    for (int r = 0; r < tp * pp; r++) NS_CHECK(st, open_rank(t, r, dir, err), "%s", dir);
    for (int v = 0; v < table->n_views; v++) NS_CHECK(st, add_view(t, hf, v, err), "%s", dir);
    NS_CHECK(st, ns_archive_check(hf, err), "%s", "");
    *out = t;
    return NS_OK;
done:
    ns_trt_close(&t);
    return st;
}

void ns_trt_close(ns_trt **pt)
{
    ns_trt *t = *pt;
    if (!t) return;
    for (int r = 0; t->st && r < t->l.tp * t->l.pp; r++) ns_st_close(&t->st[r]);
    ns_free(t->st);
    ns_trt_layout_free(&t->l);
    ns_arena_free(&t->arena);
    ns_free(t);
    *pt = NULL;
}
