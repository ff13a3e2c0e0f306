/* Sink of TensorRT-LLM checkpoints: rows go where trt_layout.c says, to one rank<r>.safetensors a GPU. */
#include "ckpt/trt_write.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/file.h"
#include "base/json.h"
#include "ckpt/path.h"
#include "ckpt/safetensors.h"
#include "ckpt/trt_layout.h"
#include "ckpt/trt_quant.h"

typedef struct writer {
    ns_sink s;
    ns_trt_args args;
    const ns_trt_args *a;
    ns_arena arena;
    ns_trt_layout l;
    ns_st_writer **out; /* by rank */
    int **scale;        /* by rank and tensor: index of its scales, 0: not quantised */
    const char *dir;
} writer;

static ns_wq wq_of(const writer *w, const ns_trt_tensor *t)
{
    return (ns_wq){.bits = w->a->bits, .rows = t->shape[0], .cols = t->nd == 2 ? t->shape[1] : 1, .scale_dt = w->a->dt};
}

/* ---- fp8 ---- */
static float fp8_scale(const writer *w, const ns_trt_tensor *t)
{
    float most = w->a->fp8[t->layer].w[t->matrix];
    return most > 0 ? most / 448.0f : 1;
}

/* Scales of a rank: behind its tensors, written at once. */
static ns_status begin_fp8(writer *w, int r, ns_error *err)
{
    static const char *const cache[] = {"kv_cache", "k_cache", "v_cache"};
    const ns_trt_rank *k = &w->l.r[r];
    const int64_t one[1] = {1};
    size_t n = (size_t)k->n, next = n;
    float *value = ns_arena_alloc(&w->arena, 5 * (n + 1) * sizeof *value, err);
    if (!value) return NS_ERR_MEMORY;
    for (size_t i = 0; i < n; i++) {
        const ns_trt_tensor *t = &k->t[i];
        char name[128];
        if (!t->matrix) continue;
        const ns_trt_fp8_layer *f = &w->a->fp8[t->layer];
        ns_trt_scale_name(name, t->name, "weights_scaling_factor");
        value[next++] = fp8_scale(w, t);
        NS_TRY(ns_st_declare(w->out[r], name, NS_DTYPE_F32, one, 1, err), "rank %d", r);
        ns_trt_scale_name(name, t->name, "activation_scaling_factor");
        value[next++] = f->x[t->matrix] / 448.0f;
        NS_TRY(ns_st_declare(w->out[r], name, NS_DTYPE_F32, one, 1, err), "rank %d", r);
        for (int c = 0; c < 3 && w->a->fp8_kv && t->matrix == NS_TRT_QKV; c++) {
            float most = c == 1 || (c == 0 && f->k > f->v) ? f->k : f->v;
            snprintf(name, sizeof name, "%.*s.%s_scaling_factor", (int)(strlen(t->name) - strlen(".qkv.weight")),
                     t->name, cache[c]);
            value[next++] = most > 448 ? most / 448.0f : 1; /* never below 1, as they advise and do */
            NS_TRY(ns_st_declare(w->out[r], name, NS_DTYPE_F32, one, 1, err), "rank %d", r);
        }
    }
    for (size_t i = n; i < next; i++) NS_TRY(ns_st_put(w->out[r], i, 0, &value[i], sizeof *value, err), "rank %d", r);
    return NS_OK;
}

static ns_status begin_rank(writer *w, int r, ns_error *err)
{
    char base[32];
    const ns_trt_rank *k = &w->l.r[r];
    snprintf(base, sizeof base, "rank%d", r);
    NS_TRY(ns_st_writer_new(&w->out[r], w->dir, base, 0, err), "%s", base);
    for (int i = 0; i < k->n; i++) {
        const ns_trt_tensor *t = &k->t[i];
        int64_t packed[2] = {t->shape[1], t->shape[0] * w->a->bits / 8};
        int q = w->a->packed && t->matrix;
        ns_wq wq = wq_of(w, t);
        if (q) NS_TRY(ns_wq_check(&wq, t->name, err), "TensorRT-LLM");
        ns_dtype dt = q ? NS_DTYPE_I8 : w->a->fp8 && t->matrix ? NS_DTYPE_F8_E4M3 : w->a->dt;
        NS_TRY(ns_st_declare(w->out[r], t->name, dt, q ? packed : t->shape, t->nd, err), "%s", base);
    }
    if (w->a->fp8) return begin_fp8(w, r, err);
    if (!w->a->packed) return NS_OK;
    w->scale[r] = ns_arena_alloc(&w->arena, (size_t)k->n * sizeof **w->scale, err);
    if (!w->scale[r]) return NS_ERR_MEMORY;
    for (int i = 0, next = k->n; i < k->n; i++) {
        char name[128];
        if (!k->t[i].matrix) continue;
        ns_trt_scale_name(name, k->t[i].name, "per_channel_scale");
        w->scale[r][i] = next++;
        NS_TRY(ns_st_declare(w->out[r], name, w->a->dt, k->t[i].shape, 1, err), "%s", base);
    }
    return NS_OK;
}

/* Rows that no view fills are zeros: the head's, when tp does not divide the vocabulary. */
static ns_status pad(writer *w, ns_error *err)
{
    for (int r = 0; r < w->a->tp * w->a->pp; r++) {
        for (int i = 0; i < w->l.r[r].n; i++) {
            const ns_trt_tensor *t = &w->l.r[r].t[i];
            int64_t row = (t->nd == 2 ? t->shape[1] : 1) * (int64_t)ns_dtype_size(w->a->dt);
            if (t->rows == t->shape[0]) continue;
            void *zero = ns_arena_alloc(&w->arena, (size_t)row, err);
            if (!zero) return NS_ERR_MEMORY;
            for (int64_t k = t->rows; k < t->shape[0]; k++)
                NS_TRY(ns_st_put(w->out[r], (size_t)i, k * row, zero, row, err), "%s", t->name);
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
    for (int i = w->l.first[view]; i >= 0; i = w->l.d[i].next) {
        const ns_trt_dest *d = &w->l.d[i];
        const ns_trt_tensor *t = &w->l.r[d->rank].t[d->tensor];
        int64_t cols = t->nd == 2 ? t->shape[1] : 1, from = row0 > d->src ? row0 : d->src;
        int64_t to = row0 + n < d->src + d->n ? row0 + n : d->src + d->n;
        const char *p = rows ? (const char *)rows + (size_t)((from - row0) * full) * size : NULL;
        if (from >= to) continue;
        if (p && cols != full) {
            for (int64_t k = 0; k < to - from; k++)
                memcpy((char *)scratch + (size_t)(k * cols) * size, p + (size_t)(k * full + d->col0) * size,
                       (size_t)cols * size);
            p = scratch;
        }
        NS_TRY(ns_st_put(w->out[d->rank], (size_t)d->tensor, (d->row + from - d->src) * cols * (int64_t)size, p,
                         (to - from) * cols * (int64_t)size, err),
               "rank %d", d->rank);
    }
    return NS_OK;
}

/* ---- packed: rows come in f32 ---- */
static ns_status quantise(writer *w, const ns_trt_dest *d, int64_t row, int64_t n, const float *x, int64_t full,
                          unsigned char *scratch, float *back, ns_error *err)
{
    const ns_trt_tensor *t = &w->l.r[d->rank].t[d->tensor];
    ns_wq q = wq_of(w, t);
    int64_t group = ns_wq_group(&q), size = (int64_t)ns_dtype_size(w->a->dt);
    NS_ASSERT(row % group == 0 && n % group == 0); /* heads and MLP rows of 64; blocks are cut to four rows or more */
    int8_t *ints = (int8_t *)scratch + ns_wq_bytes(&q, n);
    char *scales = (char *)scratch + ns_wq_bytes(&q, n) + q.cols;
    for (int64_t r = 0; x && r < n; r++, x += full) {
        for (int64_t i = 0; i < q.cols; i++)
            NS_FAIL_IF(!isfinite(x[d->col0 + i]), NS_ERR_NUMERIC, "%s: a value is not finite: it cannot be quantised",
                       t->name);
        float s = ns_wq_quantise(&q, x + d->col0, ints);
        ns_from_f32(scales + r * size, w->a->dt, &s, 1);
        ns_wq_put_row(&q, scratch, r, ints);
    }
    q.data = scratch;
    q.scale = scales;
    for (int64_t r = 0; back && r < n; r++) ns_wq_row(&q, r, back + r * full + d->col0);
    if (!x) scratch = NULL, scales = NULL; /* kept from an interrupted run */
    NS_TRY(ns_st_put(w->out[d->rank], (size_t)d->tensor, ns_wq_bytes(&q, row), scratch, ns_wq_bytes(&q, n), err),
           "rank %d", d->rank);
    return ns_st_put(w->out[d->rank], (size_t)w->scale[d->rank][d->tensor], row * size, scales, n * size, err);
}

/* n rows of a matrix from its row `row` on: x, rows of `full` values, NULL if they are kept from an interrupted run. */
static ns_status quantise_fp8(writer *w, const ns_trt_dest *d, int64_t row, int64_t n, const float *x, int64_t full,
                              unsigned char *scratch, float *back, ns_error *err)
{
    const ns_trt_tensor *t = &w->l.r[d->rank].t[d->tensor];
    float scale = fp8_scale(w, t);
    int64_t cols = t->shape[1];
    ns_wq q = {
        .bits = 8, .fp8 = 1, .rows = n, .cols = cols, .data = scratch, .scale = &scale, .scale_dt = NS_DTYPE_F32};
    for (int64_t r = 0; x && r < n; r++, x += full) {
        float *rounded = back + r * full + d->col0; /* to the type of the model first: that is what is quantised */
        void *narrow = scratch + (n * cols + 7) / 8 * 8;
        ns_from_f32(narrow, w->a->dt, x + d->col0, (size_t)cols);
        ns_to_f32(rounded, narrow, w->a->dt, (size_t)cols);
        for (int64_t i = 0; i < cols; i++)
            NS_FAIL_IF(!isfinite(rounded[i]), NS_ERR_NUMERIC, "%s: a value is not finite: it cannot be quantised",
                       t->name);
        ns_wq_fp8(rounded, cols, scale, scratch + r * cols);
    }
    for (int64_t r = 0; x && r < n; r++) ns_wq_row(&q, r, back + r * full + d->col0);
    return ns_st_put(w->out[d->rank], (size_t)d->tensor, row * cols, x ? scratch : NULL, n * cols, err);
}

static ns_status put_packed(ns_sink *s, int view, int64_t row0, int64_t n, const void *rows, void *scratch, float *back,
                            ns_error *err)
{
    writer *w = (writer *)s;
    size_t size = ns_dtype_size(w->a->dt);
    int64_t full = s->t->params[s->t->views[view].param].cols;
    for (int i = w->l.first[view]; i >= 0; i = w->l.d[i].next) {
        const ns_trt_dest *d = &w->l.d[i];
        const ns_trt_tensor *t = &w->l.r[d->rank].t[d->tensor];
        int64_t from = row0 > d->src ? row0 : d->src, to = row0 + n < d->src + d->n ? row0 + n : d->src + d->n;
        const float *x = rows ? (const float *)rows + (from - row0) * full : NULL;
        int64_t row = d->row + from - d->src, k = (to - from) * full;
        if (from >= to) continue;
        if (t->matrix) {
            NS_TRY((w->a->fp8 ? quantise_fp8 : quantise)(w, d, row, to - from, x, full, scratch,
                                                         x ? back + (from - row0) * full : NULL, err),
                   "%s", "");
            continue;
        }
        if (x) ns_from_f32(scratch, w->a->dt, x, (size_t)k); /* never cut by columns */
        if (x && back) {
            float *y = back + (from - row0) * full;
            ns_to_f32(y, scratch, w->a->dt, (size_t)k);
            for (int64_t e = 0; e < k; e++)
                NS_FAIL_IF(isfinite(x[e]) && !isfinite(y[e]), NS_ERR_NUMERIC, "%s: the value %g is too large for %s",
                           t->name, (double)x[e], ns_dtype_name(w->a->dt));
        }
        NS_TRY(ns_st_put(w->out[d->rank], (size_t)d->tensor, row * full * (int64_t)size, x ? scratch : NULL,
                         k * (int64_t)size, err),
               "rank %d", d->rank);
    }
    return NS_OK;
}

static int is_matrix(const writer *w, int view)
{
    const ns_trt_dest *d = &w->l.d[w->l.first[view]];
    return w->l.r[d->rank].t[d->tensor].matrix;
}

static int packed_exact(const ns_sink *s, int view)
{
    const writer *w = (const writer *)s;
    return w->a->dt == NS_DTYPE_F32 && !is_matrix(w, view);
}

static const char *packed_type(const ns_sink *s, int view)
{
    const writer *w = (const writer *)s;
    return !is_matrix(w, view) ? ns_dtype_name(w->a->dt) : w->a->fp8 ? "fp8" : w->a->bits == 8 ? "int8" : "int4";
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
        "  \"tie_word_embeddings\": %s,\n"
        "  \"mapping\": {\"world_size\": %d, \"tp_size\": %d, \"pp_size\": %d, \"cp_size\": 1, "
        "\"gpus_per_node\": %d},\n%s"
        "  \"quantization\": {\"quant_algo\": %s, \"kv_cache_quant_algo\": %s, \"group_size\": 128%s}\n}\n",
        m->qkv_bias ? "true" : "false", m->tied ? "true" : "false", a->tp * a->pp, a->tp, a->pp, a->tp < 8 ? 8 : a->tp,
        a->packed ? "  \"" NS_TRT_LAYOUT_KEY "\": \"sm80\",\n" : "",
        a->fp8         ? "\"FP8\""
        : a->bits == 8 ? "\"W8A16\""
        : a->bits == 4 ? "\"W4A16\""
                       : "null",
        a->fp8 && a->fp8_kv ? "\"FP8\"" : "null", a->fp8 ? ", \"exclude_modules\": [\"lm_head\"]" : "");
}

static ns_status finish(ns_sink *s, ns_error *err)
{
    writer *w = (writer *)s;
    ns_buf b = {0};
    char path[4096];
    ns_file *f = NULL;
    ns_status st = NS_OK;
    for (int r = 0; r < w->a->tp * w->a->pp; r++) NS_CHECK(st, ns_st_writer_close(&w->out[r], err), "rank %d", r);
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
    for (int r = 0; w->out && r < w->a->tp * w->a->pp; r++) ns_st_writer_abort(&w->out[r]);
    ns_trt_layout_free(&w->l);
    ns_arena_free(&w->arena);
    ns_free(w);
}

ns_status ns_trt_sink(ns_sink **out, const char *dir, const ns_trt_args *a, ns_error *err)
{
    writer *w = NULL;
    ns_status st = NS_OK;
    *out = NULL;
    NS_TRY(ns_alloc((void **)&w, sizeof *w, "trt.writer", err), "%s", dir);
    w->s = (ns_sink){.t = a->table, .dt = a->dt, .put = put, .finish = finish, .free = trt_free};
    w->args = *a;
    w->a = &w->args;
    if (a->packed || a->fp8) {
        NS_BAIL_IF(st, a->packed && a->table->arch->head_dim % 4, NS_ERR_CONFIG,
                   "TensorRT-LLM: weight-only: heads of %lld, expected a multiple of 4",
                   (long long)a->table->arch->head_dim);
        w->s.dt = NS_DTYPE_F32;
        w->s.put = put_packed;
        w->s.is_exact = packed_exact;
        w->s.type_name = packed_type;
    }
    w->arena.label = "trt.writer";
    NS_CHECK(st, ns_trt_layout_build(&w->l, a->table, a->tp, a->pp, 0, err), "%s", "");
    w->dir = ns_arena_strdup(&w->arena, dir, err);
    w->out = ns_arena_alloc(&w->arena, (size_t)(a->tp * a->pp) * sizeof *w->out, err);
    w->scale = ns_arena_alloc(&w->arena, (size_t)(a->tp * a->pp) * sizeof *w->scale, err);
    if (!w->dir || !w->out || !w->scale) st = NS_ERR_MEMORY;
    if (st != NS_OK) goto done;
    for (int r = 0; r < a->tp * a->pp; r++) NS_CHECK(st, begin_rank(w, r, err), "%s", dir);
    NS_CHECK(st, pad(w, err), "%s", dir);
    *out = &w->s;
    return NS_OK;
done:
    trt_free(&w->s);
    return st;
}
