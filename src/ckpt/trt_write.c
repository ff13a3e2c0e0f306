/* Names and cuts of TensorRT-LLM (training.md §5.7): a rank's qkv is [its q; its k; its v] with k and v heads repeated when tp
 * exceeds their number; dense and proj are cut by columns; mlp.fc is gate_proj, mlp.gate is up_proj; layers are renumbered in each
 * stage; lm_head rows are padded to a multiple of tp and a tied one is written out. */
#include "ckpt/trt_write.h"

#include <stdio.h>
#include <string.h>

#include "base/file.h"
#include "base/json.h"
#include "ckpt/model_io.h"
#include "ckpt/path.h"

typedef struct
    dest { /* rows [src, src+n) of a view, columns from col0 on, become rows from `row` on of a rank's tensor */
    int rank, tensor, next; /* next: of the same view, -1 */
    int64_t row, src, n, col0;
} dest;

typedef struct tensor {
    char name[96];
    int64_t shape[2], rows; /* rows: placed so far */
    int nd;
} tensor;

typedef struct rank {
    ns_st_writer *out;
    tensor *t;
    int n;
} rank;

typedef struct writer {
    ns_sink s;
    ns_trt_args args;
    const ns_trt_args *a;
    const ns_arch *m;
    ns_arena arena;
    int tp_rank, pp_rank;
    rank *r, *now;
    dest *d;
    size_t n_dest, cap;
    int *first; /* by view */
    const char *dir;
    ns_error *err; /* of add and part: the first failure */
    ns_status status;
} writer;

static int view_of(const writer *w, ns_kind kind, int layer, int k)
{
    int p = ns_param_find(w->s.t, kind, layer), v = 0;
    if (p < 0) return -1;
    while (w->s.t->views[v].param != p) v++;
    return v + k;
}

static tensor *add(writer *w, int layer, const char *name, int64_t rows, int64_t cols, int nd)
{
    tensor *t = &w->now->t[w->now->n++];
    memset(t, 0, sizeof *t);
    if (layer < 0)
        snprintf(t->name, sizeof t->name, "%s", name);
    else
        snprintf(t->name, sizeof t->name, "transformer.layers.%d.%s", layer, name);
    t->shape[0] = rows;
    t->shape[1] = cols;
    t->nd = nd;
    return t;
}

/* The next n rows of t are rows [row0, row0+n) of the view. */
static void part(writer *w, tensor *t, int view, int64_t row0, int64_t n, int64_t col0)
{
    if (w->status == NS_OK)
        w->status = ns_grow((void **)&w->d, &w->cap, w->n_dest + 1, sizeof *w->d, "trt.places", w->err);
    if (w->status != NS_OK) return;
    w->d[w->n_dest] = (dest){(int)(w->now - w->r), (int)(t - w->now->t), w->first[view], t->rows, row0, n, col0};
    w->first[view] = (int)w->n_dest++;
    t->rows += n;
}

static void add_qkv(writer *w, int local, int l, ns_kind kind, const char *name, int64_t cols, int nd)
{
    const ns_arch *m = w->m;
    int64_t tp = w->a->tp, hd = m->head_dim, q = m->n_heads / tp * hd, kv = (m->n_kv > tp ? m->n_kv / tp : 1) * hd;
    int64_t kv0 = m->n_kv > tp ? w->tp_rank * kv : w->tp_rank * m->n_kv / tp * hd;
    int v = view_of(w, kind, l, 0);
    tensor *t = add(w, local, name, q + 2 * kv, cols, nd);
    part(w, t, v, w->tp_rank * q, q, 0);
    part(w, t, v + 1, kv0, kv, 0);
    part(w, t, v + 2, kv0, kv, 0);
}

static void add_layer(writer *w, int local, int l)
{
    const ns_arch *m = w->m;
    int64_t tp = w->a->tp, r = w->tp_rank, F = m->F / tp, q = m->n_heads / tp * m->head_dim;
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

static void add_head(writer *w)
{
    const ns_arch *m = w->m;
    int64_t tp = w->a->tp, each = (m->vocab + tp - 1) / tp, row0 = each * w->tp_rank;
    int64_t n = m->vocab - row0 < each ? m->vocab - row0 : each;
    int v = m->tied ? view_of(w, NS_P_EMBED, -1, 0) : view_of(w, NS_P_HEAD, -1, 0);
    part(w, add(w, -1, "transformer.ln_f.weight", m->C, 1, 1), view_of(w, NS_P_FINAL_NORM, -1, 0), 0, m->C, 0);
    tensor *t = add(w, -1, "lm_head.weight", each, m->C, 2);
    if (n > 0) part(w, t, v, row0, n, 0);
}

static ns_status begin_rank(writer *w, const char *dir, ns_error *err)
{
    const ns_trt_args *a = w->a;
    char base[32];
    int per = (int)(w->m->L / a->pp), first = per * w->pp_rank;
    w->now = &w->r[w->pp_rank * a->tp + w->tp_rank];
    w->now->t = ns_arena_alloc(&w->arena, ((size_t)per * 11 + 4) * sizeof *w->now->t, err);
    if (!w->now->t) return NS_ERR_MEMORY;
    if (w->pp_rank == 0)
        part(w, add(w, -1, "transformer.vocab_embedding.weight", w->m->vocab, w->m->C, 2),
             view_of(w, NS_P_EMBED, -1, 0), 0, w->m->vocab, 0);
    for (int l = 0; l < per; l++) add_layer(w, l, first + l);
    if (w->pp_rank == a->pp - 1) add_head(w);
    if (w->status != NS_OK) return w->status;
    snprintf(base, sizeof base, "rank%d", (int)(w->now - w->r));
    NS_TRY(ns_st_writer_new(&w->now->out, dir, base, 0, err), "%s", base);
    for (int i = 0; i < w->now->n; i++)
        NS_TRY(ns_st_declare(w->now->out, w->now->t[i].name, a->dt, w->now->t[i].shape, w->now->t[i].nd, err), "%s",
               base);
    return NS_OK;
}

/* Rows that no view fills are zeros: the head's, when tp does not divide the vocabulary. */
static ns_status pad(writer *w, ns_error *err)
{
    for (int r = 0; r < w->a->tp * w->a->pp; r++) {
        for (int i = 0; i < w->r[r].n; i++) {
            const tensor *t = &w->r[r].t[i];
            int64_t row = (t->nd == 2 ? t->shape[1] : 1) * (int64_t)ns_dtype_size(w->a->dt);
            if (t->rows == t->shape[0]) continue;
            void *zero = ns_arena_alloc(&w->arena, (size_t)row, err);
            if (!zero) return NS_ERR_MEMORY;
            for (int64_t k = t->rows; k < t->shape[0]; k++)
                NS_TRY(ns_st_put(w->r[r].out, (size_t)i, k * row, zero, row, err), "%s", t->name);
        }
    }
    return NS_OK;
}

static ns_status put(ns_sink *s, int view, int64_t row0, int64_t n, const void *rows, void *scratch, float *back,
                     ns_error *err)
{
    writer *w = (writer *)s;
    size_t size = ns_dtype_size(s->dt);
    int64_t full = s->t->params[s->t->views[view].param].cols;
    (void)back;
    for (int i = w->first[view]; i >= 0; i = w->d[i].next) {
        const dest *d = &w->d[i];
        const tensor *t = &w->r[d->rank].t[d->tensor];
        int64_t cols = t->nd == 2 ? t->shape[1] : 1, from = row0 > d->src ? row0 : d->src;
        int64_t to = row0 + n < d->src + d->n ? row0 + n : d->src + d->n;
        const char *p = (const char *)rows + (size_t)((from - row0) * full) * size;
        if (from >= to) continue;
        if (cols != full) {
            for (int64_t k = 0; k < to - from; k++)
                memcpy((char *)scratch + (size_t)(k * cols) * size, p + (size_t)(k * full + d->col0) * size,
                       (size_t)cols * size);
            p = scratch;
        }
        NS_TRY(ns_st_put(w->r[d->rank].out, (size_t)d->tensor, (d->row + from - d->src) * cols * (int64_t)size, p,
                         (to - from) * cols * (int64_t)size, err),
               "rank %d", d->rank);
    }
    return NS_OK;
}

/* ---- config.json ---- */
static ns_status config_text(ns_buf *b, const ns_trt_args *a, ns_error *err)
{
    const ns_arch *m = a->table->arch;
    int qwen = m->family == NS_FAMILY_QWEN2 || m->family == NS_FAMILY_QWEN3;
    const char *dt = a->dt == NS_DTYPE_BF16 ? "bfloat16" : a->dt == NS_DTYPE_F16 ? "float16" : "float32";
    char eps[32], theta[32];
    ns_json_format_double(eps, (double)m->norm_eps);
    ns_json_format_double(theta, m->rope_theta);
    NS_TRY(ns_buf_printf(b, err, "{\n  \"architecture\": \"%s\",\n",
                         qwen                             ? "QWenForCausalLM"
                         : m->family == NS_FAMILY_MISTRAL ? "MistralForCausalLM"
                                                          : "LlamaForCausalLM"),
           "%s", "");
    if (qwen)
        NS_TRY(ns_buf_printf(b, err, "  \"qwen_type\": \"%s\",\n", m->family == NS_FAMILY_QWEN2 ? "qwen2" : "qwen3"),
               "%s", "");
    NS_TRY(ns_buf_printf(b, err,
                         "  \"dtype\": \"%s\",\n  \"logits_dtype\": \"float32\",\n  \"num_hidden_layers\": %lld,\n"
                         "  \"num_attention_heads\": %lld,\n  \"num_key_value_heads\": %lld,\n  \"head_size\": %lld,\n"
                         "  \"hidden_size\": %lld,\n  \"intermediate_size\": %lld,\n  \"vocab_size\": %lld,\n"
                         "  \"norm_epsilon\": %s,\n  \"hidden_act\": \"silu\",\n"
                         "  \"position_embedding_type\": \"rope_gpt_neox\",\n  \"max_position_embeddings\": %lld,\n"
                         "  \"rotary_base\": %s,\n  \"rotary_pct\": 1.0,\n",
                         dt, (long long)m->L, (long long)m->n_heads, (long long)m->n_kv, (long long)m->head_dim,
                         (long long)m->C, (long long)m->F, (long long)m->vocab, eps, (long long)m->max_pos, theta),
           "%s", "");
    if (m->rope == NS_ROPE_LLAMA3) {
        NS_TRY(
            ns_buf_printf(b, err,
                          "  \"rotary_scaling\": {\"rope_type\": \"llama3\", \"factor\": %g, \"low_freq_factor\": %g, "
                          "\"high_freq_factor\": %g, \"original_max_position_embeddings\": %lld},\n",
                          m->rope_factor, m->rope_low, m->rope_high, (long long)m->rope_orig_max),
            "%s", "");
    } else if (m->rope == NS_ROPE_LINEAR) {
        NS_TRY(ns_buf_printf(b, err, "  \"rotary_scaling\": {\"type\": \"linear\", \"factor\": %g},\n", m->rope_factor),
               "%s", "");
    } else {
        NS_TRY(ns_buf_adds(b, "  \"rotary_scaling\": null,\n", err), "%s", "");
    }
    if (m->window) NS_TRY(ns_buf_printf(b, err, "  \"sliding_window\": %lld,\n", (long long)m->window), "%s", "");
    return ns_buf_printf(
        b, err,
        "  \"attn_bias\": %s,\n  \"mlp_bias\": false,\n  \"residual_mlp\": false,\n"
        "  \"disable_weight_only_quant_plugin\": false,\n  \"use_parallel_embedding\": false,\n"
        "  \"embedding_sharding_dim\": 0,\n  \"share_embedding_table\": false,\n"
        "  \"tie_word_embeddings\": false,\n"
        "  \"mapping\": {\"world_size\": %d, \"tp_size\": %d, \"pp_size\": %d, \"cp_size\": 1, "
        "\"gpus_per_node\": %d},\n"
        "  \"quantization\": {\"quant_algo\": null, \"kv_cache_quant_algo\": null, \"group_size\": 128}\n}\n",
        m->qkv_bias ? "true" : "false", a->tp * a->pp, a->tp, a->pp, a->tp < 8 ? 8 : a->tp);
}

static ns_status check(const ns_trt_args *a, ns_error *err)
{
    const ns_arch *m = a->table->arch;
    NS_FAIL_IF(a->tp < 1 || a->pp < 1, NS_ERR_CONFIG, "TensorRT-LLM: tp %d and pp %d must be at least 1", a->tp, a->pp);
    NS_FAIL_IF(m->n_heads % a->tp || m->F % a->tp || (m->n_kv % a->tp && a->tp % m->n_kv), NS_ERR_CONFIG,
               "TensorRT-LLM: %lld heads, %lld key/value heads and %lld MLP rows cannot be cut in %d (num_gpus)",
               (long long)m->n_heads, (long long)m->n_kv, (long long)m->F, a->tp);
    NS_FAIL_IF(m->L % a->pp, NS_ERR_CONFIG, "TensorRT-LLM: %lld layers cannot be cut in %d stages (num_nodes)",
               (long long)m->L, a->pp);
    NS_FAIL_IF(m->o_bias, NS_ERR_UNSUPPORTED, "TensorRT-LLM: a bias on the output projection is not supported");
    return NS_OK;
}

static ns_status finish(ns_sink *s, ns_error *err)
{
    writer *w = (writer *)s;
    ns_buf b = {0};
    char path[4096];
    ns_file *f = NULL;
    ns_status st = NS_OK;
    for (int r = 0; r < w->a->tp * w->a->pp; r++) NS_CHECK(st, ns_st_writer_close(&w->r[r].out, err), "rank %d", r);
    NS_CHECK(st, config_text(&b, w->a, err), "%s", "");
    NS_CHECK(st, ns_path(path, sizeof path, err, "%s/config.json", w->dir), "%s", "");
    NS_CHECK(st, ns_file_create(&f, path, err), "%s", "");
    NS_CHECK(st, ns_file_write(f, b.data, b.len, err), "%s", "");
    NS_CHECK(st, ns_file_close(&f, err), "%s", "");
done:
    ns_file_abort(&f);
    ns_buf_free(&b);
    return st;
}

static void trt_free(ns_sink *s)
{
    writer *w = (writer *)s;
    for (int r = 0; w->r && r < w->a->tp * w->a->pp; r++) ns_st_writer_abort(&w->r[r].out);
    ns_free(w->d);
    ns_arena_free(&w->arena);
    ns_free(w);
}

ns_status ns_trt_sink(ns_sink **out, const char *dir, const ns_trt_args *a, ns_error *err)
{
    writer *w = NULL;
    ns_status st = NS_OK;
    *out = NULL;
    NS_TRY(check(a, err), "%s", "");
    NS_TRY(ns_alloc((void **)&w, sizeof *w, "trt.writer", err), "%s", dir);
    w->s = (ns_sink){.t = a->table, .dt = a->dt, .put = put, .finish = finish, .free = trt_free};
    w->args = *a;
    w->a = &w->args;
    w->m = a->table->arch;
    w->arena.label = "trt.writer";
    w->err = err;
    w->dir = ns_arena_strdup(&w->arena, dir, err);
    w->first = ns_arena_alloc(&w->arena, (size_t)a->table->n_views * sizeof *w->first, err);
    w->r = ns_arena_alloc(&w->arena, (size_t)(a->tp * a->pp) * sizeof *w->r, err);
    if (!w->dir || !w->first || !w->r) st = NS_ERR_MEMORY;
    if (st != NS_OK) goto done;
    for (int v = 0; v < a->table->n_views; v++) w->first[v] = -1;
    for (w->pp_rank = 0; w->pp_rank < a->pp; w->pp_rank++)
        for (w->tp_rank = 0; w->tp_rank < a->tp; w->tp_rank++) NS_CHECK(st, begin_rank(w, dir, err), "%s", dir);
    NS_CHECK(st, pad(w, err), "%s", dir);
    *out = &w->s;
    return NS_OK;
done:
    trt_free(&w->s);
    return st;
}
