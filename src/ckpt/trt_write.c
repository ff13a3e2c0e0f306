/* Names and cuts of TensorRT-LLM (training.md §5.7): a rank's qkv is [its q; its k; its v] with k and v heads repeated when tp
 * exceeds their number; dense and proj are cut by columns; mlp.fc is gate_proj, mlp.gate is up_proj; layers are renumbered in each
 * stage; lm_head rows are padded to a multiple of tp and a tied one is written out. */
#include "ckpt/trt_write.h"

#include <stdio.h>
#include <string.h>

#include "base/file.h"
#include "base/json.h"
#include "ckpt/path.h"

typedef struct run { /* rows of a view, a range of its columns; view -1: zero rows */
    int view;
    int64_t row0, n, col0;
} run;

typedef struct tensor {
    char name[96];
    int64_t shape[2];
    int nd, n_runs;
    run runs[3];
} tensor;

typedef struct writer {
    const ns_trt_args *a;
    const ns_arch *m;
    int tp_rank, pp_rank;
    tensor *t;
    int n;
    float *block, *cut;
    void *bytes;
    int64_t block_size;
} writer;

static int view_of(const writer *w, ns_kind kind, int layer, int k)
{
    int p = ns_param_find(w->a->table, kind, layer), v = 0;
    if (p < 0) return -1;
    while (w->a->table->views[v].param != p) v++;
    return v + k;
}

static tensor *add(writer *w, int layer, const char *name, int64_t rows, int64_t cols, int nd)
{
    tensor *t = &w->t[w->n++];
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

static void part(tensor *t, int view, int64_t row0, int64_t n, int64_t col0)
{
    t->runs[t->n_runs++] = (run){view, row0, n, col0};
}

static void add_qkv(writer *w, int local, int l, ns_kind kind, const char *name, int64_t cols, int nd)
{
    const ns_arch *m = w->m;
    int64_t tp = w->a->tp, hd = m->head_dim, q = m->n_heads / tp * hd, kv = (m->n_kv > tp ? m->n_kv / tp : 1) * hd;
    int64_t kv0 = m->n_kv > tp ? w->tp_rank * kv : w->tp_rank * m->n_kv / tp * hd;
    int v = view_of(w, kind, l, 0);
    tensor *t = add(w, local, name, q + 2 * kv, cols, nd);
    part(t, v, w->tp_rank * q, q, 0);
    part(t, v + 1, kv0, kv, 0);
    part(t, v + 2, kv0, kv, 0);
}

static void add_layer(writer *w, int local, int l)
{
    const ns_arch *m = w->m;
    int64_t tp = w->a->tp, r = w->tp_rank, F = m->F / tp, q = m->n_heads / tp * m->head_dim;
    part(add(w, local, "input_layernorm.weight", m->C, 1, 1), view_of(w, NS_P_ATTN_NORM, l, 0), 0, m->C, 0);
    add_qkv(w, local, l, NS_P_QKV, "attention.qkv.weight", m->C, 2);
    if (m->qkv_bias) add_qkv(w, local, l, NS_P_QKV_BIAS, "attention.qkv.bias", 1, 1);
    if (m->qk_norm) {
        part(add(w, local, "attention.q_layernorm.weight", m->head_dim, 1, 1), view_of(w, NS_P_Q_NORM, l, 0), 0,
             m->head_dim, 0);
        part(add(w, local, "attention.k_layernorm.weight", m->head_dim, 1, 1), view_of(w, NS_P_K_NORM, l, 0), 0,
             m->head_dim, 0);
    }
    part(add(w, local, "attention.dense.weight", m->C, q, 2), view_of(w, NS_P_O, l, 0), 0, m->C, r * q);
    part(add(w, local, "post_layernorm.weight", m->C, 1, 1), view_of(w, NS_P_MLP_NORM, l, 0), 0, m->C, 0);
    part(add(w, local, "mlp.fc.weight", F, m->C, 2), view_of(w, NS_P_GATE_UP, l, 0), r * F, F, 0);
    part(add(w, local, "mlp.gate.weight", F, m->C, 2), view_of(w, NS_P_GATE_UP, l, 1), r * F, F, 0);
    part(add(w, local, "mlp.proj.weight", m->C, F, 2), view_of(w, NS_P_DOWN, l, 0), 0, m->C, r * F);
}

static void add_head(writer *w)
{
    const ns_arch *m = w->m;
    int64_t tp = w->a->tp, each = (m->vocab + tp - 1) / tp, row0 = each * w->tp_rank;
    int64_t n = m->vocab - row0 < each ? m->vocab - row0 : each;
    int v = m->tied ? view_of(w, NS_P_EMBED, -1, 0) : view_of(w, NS_P_HEAD, -1, 0);
    part(add(w, -1, "transformer.ln_f.weight", m->C, 1, 1), view_of(w, NS_P_FINAL_NORM, -1, 0), 0, m->C, 0);
    tensor *t = add(w, -1, "lm_head.weight", each, m->C, 2);
    if (n > 0) part(t, v, row0, n, 0);
    if (n < each) part(t, -1, 0, each - (n > 0 ? n : 0), 0);
}

static ns_status put_run(writer *w, ns_st_writer *out, const tensor *t, const run *u, ns_error *err)
{
    int64_t cols = t->nd == 2 ? t->shape[1] : 1;
    int64_t full = u->view < 0 ? cols : w->a->table->params[w->a->table->views[u->view].param].cols;
    int64_t step = w->block_size / full > 0 ? w->block_size / full : 1;
    for (int64_t r = 0; r < u->n; r += step) {
        int64_t k = u->n - r < step ? u->n - r : step;
        float *p = w->block;
        if (u->view < 0)
            memset(p, 0, (size_t)(k * cols) * sizeof *p);
        else
            NS_TRY(w->a->rows(w->a->user, u->view, u->row0 + r, k, p, err), "%s", "");
        if (cols != full) {
            for (int64_t i = 0; i < k; i++) memcpy(w->cut + i * cols, p + i * full + u->col0, (size_t)cols * sizeof *p);
            p = w->cut;
        }
        const void *bytes = p;
        if (w->a->dt != NS_DTYPE_F32) {
            ns_from_f32(w->bytes, w->a->dt, p, (size_t)(k * cols));
            bytes = w->bytes;
        }
        NS_TRY(ns_st_write(out, bytes, k * cols * (int64_t)ns_dtype_size(w->a->dt), err), "%s", t->name);
    }
    return NS_OK;
}

static ns_status write_rank(writer *w, const char *dir, ns_error *err)
{
    const ns_trt_args *a = w->a;
    char base[32];
    ns_st_writer *out = NULL;
    ns_status st = NS_OK;
    int per = (int)(w->m->L / a->pp), first = per * w->pp_rank;
    w->n = 0;
    if (w->pp_rank == 0)
        part(add(w, -1, "transformer.vocab_embedding.weight", w->m->vocab, w->m->C, 2), view_of(w, NS_P_EMBED, -1, 0),
             0, w->m->vocab, 0);
    for (int l = 0; l < per; l++) add_layer(w, l, first + l);
    if (w->pp_rank == a->pp - 1) add_head(w);
    snprintf(base, sizeof base, "rank%d", w->pp_rank * a->tp + w->tp_rank);
    NS_CHECK(st, ns_st_writer_new(&out, dir, base, 0, err), "%s", base);
    for (int i = 0; i < w->n; i++)
        NS_CHECK(st, ns_st_declare(out, w->t[i].name, a->dt, w->t[i].shape, w->t[i].nd, err), "%s", base);
    for (int i = 0; i < w->n; i++)
        for (int k = 0; k < w->t[i].n_runs; k++)
            NS_CHECK(st, put_run(w, out, &w->t[i], &w->t[i].runs[k], err), "%s", base);
    NS_CHECK(st, ns_st_writer_close(&out, err), "%s", base);
done:
    ns_st_writer_abort(&out);
    return st;
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

ns_status ns_trt_write(const char *dir, const ns_trt_args *a, ns_error *err)
{
    writer w = {.a = a, .m = a->table->arch, .block_size = 1 << 22};
    ns_buf b = {0};
    char path[4096];
    ns_file *f = NULL;
    ns_status st = NS_OK;
    NS_TRY(check(a, err), "%s", "");
    for (int i = 0; i < a->table->n_params; i++)
        if (a->table->params[i].cols > w.block_size) w.block_size = a->table->params[i].cols;
    size_t n = (size_t)w.block_size;
    NS_CHECK(st, ns_alloc((void **)&w.t, ((size_t)w.m->L * 11 + 4) * sizeof *w.t, "trt.tensors", err), "%s", dir);
    NS_CHECK(st, ns_alloc((void **)&w.block, n * sizeof *w.block, "trt.block", err), "%s", dir);
    NS_CHECK(st, ns_alloc((void **)&w.cut, n * sizeof *w.cut, "trt.block", err), "%s", dir);
    NS_CHECK(st, ns_alloc(&w.bytes, n * 2, "trt.block", err), "%s", dir);
    for (w.pp_rank = 0; w.pp_rank < a->pp; w.pp_rank++)
        for (w.tp_rank = 0; w.tp_rank < a->tp; w.tp_rank++) NS_CHECK(st, write_rank(&w, dir, err), "%s", "");
    NS_CHECK(st, config_text(&b, a, err), "%s", "");
    NS_CHECK(st, ns_path(path, sizeof path, err, "%s/config.json", dir), "%s", "");
    NS_CHECK(st, ns_file_create(&f, path, err), "%s", "");
    NS_CHECK(st, ns_file_write(f, b.data, b.len, err), "%s", "");
    NS_CHECK(st, ns_file_close(&f, err), "%s", "");
done:
    ns_file_abort(&f);
    ns_buf_free(&b);
    ns_free(w.t);
    ns_free(w.block);
    ns_free(w.cut);
    ns_free(w.bytes);
    return st;
}
