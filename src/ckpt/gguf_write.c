/* GGUF writer: everything but the values is known beforehand, so the header is written first and rows go to their places. Vectors are stored as F32, matrices in the chosen type. Rows of q and k of "llama" are put in llama.cpp's order (gguf.c).
 * The whole config.json goes along under "ns.hf_config": metadata has no place for the family Mistral, tied heads, token ids. */
#include "ckpt/gguf_write.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/scatter.h"
#include "ckpt/look.h"

enum { ALIGN = 32 };

/* ---- metadata ---- */
static ns_status le(ns_buf *b, uint64_t v, int n, ns_error *err)
{
    char p[8];
    for (int i = 0; i < n; i++) p[i] = (char)(unsigned char)(v >> (8 * i));
    return ns_buf_add(b, p, (size_t)n, err);
}

static ns_status string(ns_buf *b, ns_str s, ns_error *err)
{
    NS_TRY(le(b, s.n, 8, err), "%s", "");
    return ns_buf_add(b, s.p, s.n, err);
}

static ns_status key(ns_gguf_kv *k, const char *name, ns_gguf_type t, ns_error *err)
{
    NS_TRY(string(&k->b, (ns_str){name, strlen(name)}, err), "%s", name);
    k->n++;
    return le(&k->b, (uint64_t)t, 4, err);
}

ns_status ns_gguf_kv_u32(ns_gguf_kv *k, const char *name, uint32_t v, ns_error *err)
{
    NS_TRY(key(k, name, NS_GGUF_U32, err), "%s", "");
    return le(&k->b, v, 4, err);
}

ns_status ns_gguf_kv_f32(ns_gguf_kv *k, const char *name, double v, ns_error *err)
{
    float f = (float)v;
    uint32_t u;
    memcpy(&u, &f, 4);
    NS_TRY(key(k, name, NS_GGUF_F32, err), "%s", "");
    return le(&k->b, u, 4, err);
}

ns_status ns_gguf_kv_bool(ns_gguf_kv *k, const char *name, int v, ns_error *err)
{
    NS_TRY(key(k, name, NS_GGUF_BOOL, err), "%s", "");
    return le(&k->b, v != 0, 1, err);
}

ns_status ns_gguf_kv_str(ns_gguf_kv *k, const char *name, ns_str v, ns_error *err)
{
    NS_TRY(key(k, name, NS_GGUF_STRING, err), "%s", "");
    return string(&k->b, v, err);
}

static ns_status array(ns_gguf_kv *k, const char *name, ns_gguf_type item, size_t n, ns_error *err)
{
    NS_TRY(key(k, name, NS_GGUF_ARRAY, err), "%s", "");
    NS_TRY(le(&k->b, (uint64_t)item, 4, err), "%s", "");
    return le(&k->b, n, 8, err);
}

ns_status ns_gguf_kv_strs(ns_gguf_kv *k, const char *name, const ns_str *v, size_t n, ns_error *err)
{
    NS_TRY(array(k, name, NS_GGUF_STRING, n, err), "%s", "");
    for (size_t i = 0; i < n; i++) NS_TRY(string(&k->b, v[i], err), "%s", "");
    return NS_OK;
}

ns_status ns_gguf_kv_items(ns_gguf_kv *k, const char *name, ns_gguf_type type, const void *v, size_t n, ns_error *err)
{
    NS_TRY(array(k, name, type, n, err), "%s", "");
    return ns_buf_add(&k->b, v, n * 4, err);
}

void ns_gguf_kv_free(ns_gguf_kv *k)
{
    ns_buf_free(&k->b);
    k->n = 0;
}

/* ---- types ---- */
static const struct {
    const char *name;
    int type, file_type; /* file_type: llama.cpp's LLAMA_FTYPE */
} quants[] = {{"f32", NS_GGML_F32, 0},   {"f16", NS_GGML_F16, 1},    {"bf16", NS_GGML_BF16, 32},
              {"q8_0", NS_GGML_Q8_0, 7}, {"q6_k", NS_GGML_Q6_K, 18}, {"q4_k_m", NS_GGML_Q4_K, 15}};

static int more_bits(int i, int n)
{
    return i < n / 8 || i >= 7 * n / 8 || (i - n / 8) % 3 == 2;
}

/* llama.cpp's llama_tensor_get_type for models without experts. */
static const ns_ggml *choose(const ns_param_table *t, int v, int quant)
{
    const ns_view *w = &t->views[v];
    const ns_param *p = &t->params[w->param];
    int type = quants[quant].type, L = (int)t->arch->L;
    int is_v = p->kind == NS_P_QKV && w->row0 == (t->arch->n_heads + t->arch->n_kv) * t->arch->head_dim;
    if (w->nd == 1) return ns_ggml_find(NS_GGML_F32);
    if (type == NS_GGML_Q4_K && (p->kind == NS_P_HEAD || (p->kind == NS_P_EMBED && t->arch->tied))) type = NS_GGML_Q6_K;
    if (type == NS_GGML_Q4_K && (is_v || p->kind == NS_P_DOWN) && more_bits(p->layer, L)) type = NS_GGML_Q6_K;
    const ns_ggml *q = ns_ggml_find(type);
    if (p->cols % q->block) q = ns_ggml_find(type == NS_GGML_Q4_K ? NS_GGML_Q5_0 : NS_GGML_Q8_0);
    return p->cols % q->block ? ns_ggml_find(NS_GGML_F16) : q;
}

/* ---- sink ---- */
typedef struct place {
    char name[96];
    const ns_ggml *q;
    uint64_t at; /* in the file */
    int rotated; /* rows of a head are re-ordered */
} place;

typedef struct writer {
    ns_sink s;
    ns_arena arena;
    place *p; /* by view */
    ns_scatter *f;
} writer;

/* Row r of a head is row this of llama.cpp's order. */
static int64_t rotated_row(int64_t r, int64_t hd)
{
    int64_t k = r % hd;
    return r - k + 2 * (k % (hd / 2)) + k / (hd / 2);
}

static ns_status pack_rows(const writer *w, int view, int64_t n, const float *x, char *out, float *back, ns_error *err)
{
    const place *p = &w->p[view];
    int64_t cols = w->s.t->params[w->s.t->views[view].param].cols, hd = w->s.t->arch->head_dim;
    int64_t row = cols / p->q->block * p->q->bytes;
    for (int64_t r = 0; r < n; r++) {
        char *o = out + (p->rotated ? rotated_row(r, hd) : r) * row;
        ns_ggml_pack(p->q, o, x + r * cols, cols);
        ns_ggml_unpack(p->q, back + r * cols, o, cols);
        if (!ns_look_lost(x + r * cols, back + r * cols, cols)) continue;
        for (int64_t i = r * cols; i < (r + 1) * cols; i++)
            NS_FAIL_IF(!isfinite(back[i]) && isfinite(x[i]), NS_ERR_NUMERIC,
                       "%s: the value %g is too large for %s: choose bf16 or f32", w->s.t->views[view].name,
                       (double)x[i], p->q->name);
    }
    return NS_OK;
}

static ns_status put(ns_sink *s, int view, int64_t row0, int64_t n, const void *rows, void *scratch, float *back,
                     ns_error *err)
{
    writer *w = (writer *)s;
    const place *p = &w->p[view];
    int64_t cols = s->t->params[s->t->views[view].param].cols, hd = s->t->arch->head_dim;
    int64_t row = cols / p->q->block * p->q->bytes;
    const void *out = rows;
    if (rows && !ns_ggml_is_plain(p->q)) {
        NS_TRY(pack_rows(w, view, n, rows, scratch, back, err), "%s", "");
        out = scratch;
    } else if (rows && p->rotated) {
        for (int64_t r = 0; r < n; r++)
            memcpy((char *)scratch + rotated_row(r, hd) * row, (const char *)rows + r * row, (size_t)row);
        out = scratch;
    }
    return ns_scatter_put(w->f, p->at + (uint64_t)(row0 * row), out, (size_t)(n * row), err);
}

static int is_exact(const ns_sink *s, int view)
{
    return ns_ggml_is_plain(((const writer *)s)->p[view].q);
}

static ns_dtype view_dt(const ns_sink *s, int view)
{
    return ((const writer *)s)->p[view].q->dt;
}

static const char *type_name(const ns_sink *s, int view)
{
    return ((const writer *)s)->p[view].q->name;
}

static ns_status finish(ns_sink *s, ns_error *err)
{
    return ns_scatter_close(&((writer *)s)->f, err);
}

static void gguf_free(ns_sink *s)
{
    writer *w = (writer *)s;
    ns_scatter_abort(&w->f);
    ns_arena_free(&w->arena);
    ns_free(w);
}

static ns_status model_kv(ns_gguf_kv *k, const ns_gguf_args *g, int quant, ns_error *err)
{
    const ns_arch *a = g->table->arch;
    const char *arch = a->family == NS_FAMILY_QWEN2 ? "qwen2" : a->family == NS_FAMILY_QWEN3 ? "qwen3" : "llama";
    struct {
        const char *key;
        int64_t v;
    } ints[] = {{"block_count", a->L},
                {"context_length", a->max_pos},
                {"embedding_length", a->C},
                {"feed_forward_length", a->F},
                {"attention.head_count", a->n_heads},
                {"attention.head_count_kv", a->n_kv},
                {"attention.key_length", a->head_dim},
                {"attention.value_length", a->head_dim},
                {"rope.dimension_count", a->head_dim},
                {"vocab_size", a->vocab}};
    char key[96];
    ns_buf b = {0};
    ns_arch plain = *a;
    NS_TRY(ns_gguf_kv_str(k, "general.architecture", (ns_str){arch, strlen(arch)}, err), "%s", "");
    NS_TRY(ns_gguf_kv_str(k, "general.type", (ns_str){"model", 5}, err), "%s", "");
    NS_TRY(ns_gguf_kv_str(k, "general.name", (ns_str){g->name, strlen(g->name)}, err), "%s", "");
    NS_TRY(ns_gguf_kv_u32(k, "general.file_type", (uint32_t)quants[quant].file_type, err), "%s", "");
    NS_TRY(ns_gguf_kv_u32(k, "general.quantization_version", 2, err), "%s", "");
    NS_TRY(ns_gguf_kv_u32(k, "general.alignment", ALIGN, err), "%s", "");
    for (size_t i = 0; i < sizeof ints / sizeof ints[0]; i++) {
        snprintf(key, sizeof key, "%s.%s", arch, ints[i].key);
        NS_TRY(ns_gguf_kv_u32(k, key, (uint32_t)ints[i].v, err), "%s", "");
    }
    snprintf(key, sizeof key, "%s.attention.layer_norm_rms_epsilon", arch);
    NS_TRY(ns_gguf_kv_f32(k, key, (double)a->norm_eps, err), "%s", "");
    snprintf(key, sizeof key, "%s.rope.freq_base", arch);
    NS_TRY(ns_gguf_kv_f32(k, key, a->rope_theta, err), "%s", "");
    if (a->rope == NS_ROPE_LINEAR) {
        snprintf(key, sizeof key, "%s.rope.scaling.type", arch);
        NS_TRY(ns_gguf_kv_str(k, key, (ns_str){"linear", 6}, err), "%s", "");
        snprintf(key, sizeof key, "%s.rope.scaling.factor", arch);
        NS_TRY(ns_gguf_kv_f32(k, key, a->rope_factor, err), "%s", "");
    }
    ns_status st = ns_arch_write_json(&b, &plain, NULL, err);
    if (st == NS_OK) st = ns_gguf_kv_str(k, "ns.hf_config", (ns_str){b.data, b.len}, err);
    ns_buf_free(&b);
    return st;
}

static ns_status tensor_info(ns_buf *b, const char *name, int nd, int64_t rows, int64_t cols, int type, uint64_t at,
                             ns_error *err)
{
    NS_TRY(string(b, (ns_str){name, strlen(name)}, err), "%s", "");
    NS_TRY(le(b, (uint64_t)nd, 4, err), "%s", "");
    if (nd == 2) NS_TRY(le(b, (uint64_t)cols, 8, err), "%s", "");
    NS_TRY(le(b, (uint64_t)rows, 8, err), "%s", "");
    NS_TRY(le(b, (uint64_t)type, 4, err), "%s", "");
    return le(b, at, 8, err);
}

static uint64_t aligned(uint64_t n)
{
    return (n + ALIGN - 1) / ALIGN * ALIGN;
}

/* Offsets, header, and the gaps between tensors. */
static ns_status lay_out(writer *w, const char *path, const ns_gguf_args *a, int quant, ns_error *err)
{
    const ns_param_table *t = a->table;
    int scaled = t->arch->rope == NS_ROPE_LLAMA3;
    int rotated = t->arch->family == NS_FAMILY_LLAMA || t->arch->family == NS_FAMILY_MISTRAL;
    int64_t hd = t->arch->head_dim;
    static const char zero[ALIGN];
    ns_buf b = {0};
    ns_gguf_kv kv = {0};
    ns_status st = NS_OK;
    uint64_t data = 0, factors_at = 0;
    float *factors = ns_arena_alloc(&w->arena, (size_t)(hd / 2 + 1) * sizeof *factors, err);
    uint64_t *bytes = ns_arena_alloc(&w->arena, (size_t)t->n_views * sizeof *bytes, err);
    if (!factors || !bytes) return NS_ERR_MEMORY;
    NS_CHECK(st, model_kv(&kv, a, quant, err), "%s", "");
    NS_CHECK(st, ns_buf_add(&b, "GGUF\3\0\0\0", 8, err), "%s", "");
    NS_CHECK(st, le(&b, (uint64_t)(t->n_views + scaled), 8, err), "%s", "");
    NS_CHECK(st, le(&b, kv.n + a->kv->n, 8, err), "%s", "");
    NS_CHECK(st, ns_buf_add(&b, kv.b.data, kv.b.len, err), "%s", "");
    if (a->kv->n) NS_CHECK(st, ns_buf_add(&b, a->kv->b.data, a->kv->b.len, err), "%s", "");
    for (int v = 0; v < t->n_views; v++) {
        const ns_view *x = &t->views[v];
        const ns_param *p = &t->params[x->param];
        place *q = &w->p[v];
        NS_BAIL_IF(st, !ns_gguf_name(q->name, x->name), NS_ERR_UNSUPPORTED, "GGUF has no name for %s", x->name);
        q->q = choose(t, v, quant);
        q->rotated = rotated && (p->kind == NS_P_QKV || p->kind == NS_P_QKV_BIAS) &&
                     x->row0 < (t->arch->n_heads + t->arch->n_kv) * hd;
        q->at = data;
        bytes[v] = (uint64_t)(x->rows * (p->cols / q->q->block) * q->q->bytes);
        NS_CHECK(st, tensor_info(&b, q->name, x->nd, x->rows, p->cols, q->q->type, data, err), "%s", "");
        data = aligned(data + bytes[v]);
    }
    if (scaled) {
        factors_at = data;
        ns_gguf_rope_factors(t->arch, factors);
        NS_CHECK(st, tensor_info(&b, "rope_freqs.weight", 1, hd / 2, 1, NS_GGML_F32, data, err), "%s", "");
        data = aligned(data + (uint64_t)hd / 2 * 4);
    }
    while (b.len % ALIGN) NS_CHECK(st, ns_buf_addc(&b, 0, err), "%s", "");
    NS_CHECK(st, ns_scatter_create(&w->f, path, b.len + data, err), "%s", "");
    NS_CHECK(st, ns_scatter_put(w->f, 0, b.data, b.len, err), "%s", "");
    for (int v = 0; v < t->n_views; v++) {
        w->p[v].at += b.len;
        uint64_t end = w->p[v].at + bytes[v];
        NS_CHECK(st, ns_scatter_put(w->f, end, zero, (size_t)(aligned(end) - end), err), "%s", "");
    }
    if (scaled) {
        uint64_t end = b.len + factors_at + (uint64_t)hd / 2 * 4;
        NS_CHECK(st, ns_scatter_put(w->f, b.len + factors_at, factors, (size_t)hd / 2 * 4, err), "%s", "");
        NS_CHECK(st, ns_scatter_put(w->f, end, zero, (size_t)(aligned(end) - end), err), "%s", "");
    }
done:
    ns_buf_free(&b);
    ns_gguf_kv_free(&kv);
    return st;
}

ns_status ns_gguf_sink(ns_sink **out, const char *path, const ns_gguf_args *a, ns_error *err)
{
    writer *w = NULL;
    ns_status st = NS_OK;
    int quant = 0, n = sizeof quants / sizeof quants[0];
    *out = NULL;
    while (quant < n && strcmp(a->quant, quants[quant].name)) quant++;
    NS_FAIL_IF(quant == n, NS_ERR_CONFIG, "GGUF type '%s': expected f32, f16, bf16, q8_0, q6_k or q4_k_m", a->quant);
    NS_FAIL_IF(a->table->arch->head_dim % 2, NS_ERR_UNSUPPORTED, "GGUF: heads of %lld elements are not supported",
               (long long)a->table->arch->head_dim);
    NS_TRY(ns_alloc((void **)&w, sizeof *w, "gguf.writer", err), "%s", path);
    w->s = (ns_sink){.t = a->table,
                     .dt = NS_DTYPE_F32,
                     .put = put,
                     .view_dt = view_dt,
                     .is_exact = is_exact,
                     .type_name = type_name,
                     .finish = finish,
                     .free = gguf_free};
    w->arena.label = "gguf.writer";
    w->p = ns_arena_alloc(&w->arena, (size_t)a->table->n_views * sizeof *w->p, err);
    if (!w->p) st = NS_ERR_MEMORY;
    if (st != NS_OK) goto done;
    NS_CHECK(st, lay_out(w, path, a, quant, err), "write %s", path);
    *out = &w->s;
    return NS_OK;
done:
    gguf_free(&w->s);
    return st;
}
