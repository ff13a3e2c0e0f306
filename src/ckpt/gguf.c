/* GGUF reader.
 *
 *     "GGUF", u32 version (2, 3), u64 tensors, u64 pairs                       little-endian throughout
 *     pair: string key (u64 length, bytes), u32 type, value; array: u32 item type, u64 count, items
 *     tensor: string name, u32 axes, u64 sizes (fastest first), u32 type, u64 offset in the data area
 *     data area: from the next multiple of general.alignment (32)
 *
 * llama.cpp's "llama" rotates neighbouring pairs where Hugging Face rotates halves: rows of q and k are stored in that order
 * (row 2i+j of a head is Hugging Face's row j*hd/2+i). Here each half of a head is a box with a row stride of two. */
#include "ckpt/gguf.h"

#include <dirent.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/json.h"
#include "ckpt/path.h"

enum { MAX_AXES = 4 };

struct ns_gguf {
    ns_arena arena;
    ns_map map;
    const char *where;
    const unsigned char *p;
    size_t size, at;
    ns_gguf_value *kv;
    size_t n_kv;
    ns_archive native;
};

/* ---- bytes ---- */
static uint64_t le(const unsigned char *p, int n)
{
    uint64_t v = 0;
    while (n-- > 0) v = v << 8 | p[n];
    return v;
}

static ns_status take(ns_gguf *g, const unsigned char **p, uint64_t n, ns_error *err)
{
    NS_FAIL_IF(n > g->size - g->at, NS_ERR_INPUT, "%s: byte %zu: %llu bytes expected, the file has %zu more: truncated",
               g->where, g->at, (unsigned long long)n, g->size - g->at);
    *p = g->p + g->at;
    g->at += n;
    return NS_OK;
}

static ns_status number(ns_gguf *g, int n, uint64_t *v, ns_error *err)
{
    const unsigned char *p = NULL;
    NS_TRY(take(g, &p, (uint64_t)n, err), "%s", "");
    *v = le(p, n);
    return NS_OK;
}

static ns_status string(ns_gguf *g, ns_str *s, ns_error *err)
{
    uint64_t n = 0;
    const unsigned char *p = NULL;
    NS_TRY(number(g, 8, &n, err), "%s", "");
    NS_TRY(take(g, &p, n, err), "%s", "");
    *s = (ns_str){(const char *)p, n};
    return NS_OK;
}

static int size_of(uint64_t type)
{
    static const int8_t sizes[] = {1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8};
    return type <= NS_GGUF_F64 ? sizes[type] : -1;
}

static double as_number(ns_gguf_type t, const unsigned char *p)
{
    uint64_t u = le(p, size_of(t));
    float f;
    double d;
    uint32_t w = (uint32_t)u;
    memcpy(&f, &w, 4);
    memcpy(&d, &u, 8);
    switch (t) {
    case NS_GGUF_I8: return (double)(int8_t)u;
    case NS_GGUF_I16: return (double)(int16_t)u;
    case NS_GGUF_I32: return (double)(int32_t)u;
    case NS_GGUF_I64: return (double)(int64_t)u;
    case NS_GGUF_F32: return (double)f;
    case NS_GGUF_F64: return d;
    default: return (double)u;
    }
}

static ns_status value(ns_gguf *g, ns_gguf_value *v, ns_error *err)
{
    uint64_t type, item;
    const unsigned char *p = NULL;
    size_t at = g->at;
    NS_TRY(number(g, 4, &type, err), "%s", "");
    NS_FAIL_IF(type > NS_GGUF_F64, NS_ERR_INPUT, "%s: byte %zu: \"%.*s\" has type %llu, known are 0 to 12", g->where,
               at, (int)(v->key.n < 100 ? v->key.n : 100), v->key.p, (unsigned long long)type);
    v->type = (ns_gguf_type)type;
    if (type == NS_GGUF_STRING) return string(g, &v->s, err);
    if (type != NS_GGUF_ARRAY) {
        NS_TRY(take(g, &p, (uint64_t)size_of(type), err), "%s", "");
        v->num = as_number(v->type, p);
        return NS_OK;
    }
    NS_TRY(number(g, 4, &item, err), "%s", "");
    NS_TRY(number(g, 8, &v->n, err), "%s", "");
    NS_FAIL_IF(item > NS_GGUF_F64 || item == NS_GGUF_ARRAY, NS_ERR_UNSUPPORTED,
               "%s: byte %zu: \"%.*s\" is an array of type %llu: not supported", g->where, at,
               (int)(v->key.n < 100 ? v->key.n : 100), v->key.p, (unsigned long long)item);
    v->item = (ns_gguf_type)item;
    v->s.p = (const char *)g->p + g->at;
    if (item != NS_GGUF_STRING) {
        NS_FAIL_IF(v->n > g->size / (uint64_t)size_of(item), NS_ERR_INPUT,
                   "%s: byte %zu: array of %llu items: truncated", g->where, at, (unsigned long long)v->n);
        NS_TRY(take(g, &p, v->n * (uint64_t)size_of(item), err), "%s", "");
    } else {
        NS_FAIL_IF(v->n > g->size / 8, NS_ERR_INPUT, "%s: byte %zu: array of %llu strings: truncated", g->where, at,
                   (unsigned long long)v->n);
        for (uint64_t i = 0; i < v->n; i++) {
            ns_str s;
            NS_TRY(string(g, &s, err), "%s", "");
        }
    }
    v->s.n = (size_t)((const char *)g->p + g->at - v->s.p);
    return NS_OK;
}

typedef struct info {
    const char *name;
    int nd;
    int64_t shape[MAX_AXES];
    const ns_ggml *q;
    uint64_t offset;
} info;

static ns_status tensor_info(ns_gguf *g, info *t, ns_error *err)
{
    ns_str name;
    uint64_t nd, type;
    size_t at = g->at;
    NS_TRY(string(g, &name, err), "%s", "");
    NS_FAIL_IF(name.n == 0 || name.n > 255 || memchr(name.p, 0, name.n), NS_ERR_INPUT,
               "%s: byte %zu: a tensor's name has %zu bytes", g->where, at, name.n);
    t->name = ns_arena_strndup(&g->arena, name.p, name.n, err);
    if (!t->name) return NS_ERR_MEMORY;
    NS_TRY(number(g, 4, &nd, err), "%s", t->name);
    NS_FAIL_IF(nd < 1 || nd > MAX_AXES, NS_ERR_INPUT, "%s: tensor \"%s\" has %llu axes, expected 1 to 4", g->where,
               t->name, (unsigned long long)nd);
    t->nd = (int)nd;
    for (int i = t->nd; i-- > 0;) {
        uint64_t n;
        NS_TRY(number(g, 8, &n, err), "%s", t->name);
        /* 0: no bytes would hold any number of rows */
        NS_FAIL_IF(n < 1 || n > INT64_MAX / 64, NS_ERR_INPUT, "%s: tensor \"%s\": size %llu is out of range", g->where,
                   t->name, (unsigned long long)n);
        t->shape[i] = (int64_t)n;
    }
    NS_TRY(number(g, 4, &type, err), "%s", t->name);
    NS_TRY(number(g, 8, &t->offset, err), "%s", t->name);
    t->q = type <= 1000 ? ns_ggml_find((int)type) : NULL;
    NS_FAIL_IF(
        !t->q, NS_ERR_UNSUPPORTED,
        "%s: tensor \"%s\" has type %llu: not supported (F32, F16, BF16, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q4_K, Q5_K, "
        "Q6_K are)",
        g->where, t->name, (unsigned long long)type);
    NS_FAIL_IF(t->shape[t->nd - 1] % t->q->block, NS_ERR_INPUT,
               "%s: tensor \"%s\": rows of %lld elements are not whole blocks of %s", g->where, t->name,
               (long long)t->shape[t->nd - 1], t->q->name);
    return NS_OK;
}

static ns_status add_tensor(ns_gguf *g, const info *t, uint64_t data, uint64_t align, ns_error *err)
{
    ns_arc_tensor *x;
    ns_box b = {.file = g->where};
    NS_TRY(ns_archive_add(&g->native, &x, t->name, t->q->dt, t->shape, t->nd, err), "%s", "");
    uint64_t bytes = (uint64_t)(x->n / t->q->block) * (uint64_t)t->q->bytes;
    NS_FAIL_IF(t->offset % align, NS_ERR_INPUT, "%s: tensor \"%s\": offset %llu is not a multiple of %llu", g->where,
               t->name, (unsigned long long)t->offset, (unsigned long long)align);
    NS_FAIL_IF(t->offset > g->size - data || bytes > g->size - data - t->offset, NS_ERR_INPUT,
               "%s: tensor \"%s\": its %llu bytes at %llu run past the end of the file: truncated", g->where, t->name,
               (unsigned long long)bytes, (unsigned long long)(data + t->offset));
    if (!ns_ggml_is_plain(t->q)) x->q = t->q;
    b.data = g->p + data + t->offset;
    memcpy(b.size, t->shape, sizeof t->shape);
    ns_box_dense(&b, t->nd);
    return ns_arc_box_add(&g->native, x, &b, err);
}

static ns_status parse(ns_gguf *g, ns_error *err)
{
    const unsigned char *p = NULL;
    uint64_t version, n_tensors, n_kv, align = 32;
    NS_FAIL_IF(g->size < 24 || memcmp(g->p, "GGUF", 4), NS_ERR_INPUT, "%s: not a GGUF file", g->where);
    NS_TRY(take(g, &p, 4, err), "%s", "");
    NS_TRY(number(g, 4, &version, err), "%s", "");
    NS_FAIL_IF(version != 2 && version != 3, NS_ERR_UNSUPPORTED, "%s: GGUF version %llu, expected 2 or 3", g->where,
               (unsigned long long)version);
    NS_TRY(number(g, 8, &n_tensors, err), "%s", "");
    NS_TRY(number(g, 8, &n_kv, err), "%s", "");
    NS_FAIL_IF(n_tensors > g->size / 32 || n_kv > g->size / 13, NS_ERR_INPUT,
               "%s: %llu tensors and %llu pairs do not fit into %zu bytes", g->where, (unsigned long long)n_tensors,
               (unsigned long long)n_kv, g->size);
    g->kv = ns_arena_alloc(&g->arena, (n_kv + 1) * sizeof *g->kv, err);
    if (!g->kv) return NS_ERR_MEMORY;
    for (uint64_t i = 0; i < n_kv; i++) {
        NS_TRY(string(g, &g->kv[i].key, err), "%s", "");
        NS_TRY(value(g, &g->kv[i], err), "%s", "");
        g->n_kv++;
    }
    const ns_gguf_value *a = ns_gguf_get(g, "general.alignment");
    if (a) {
        NS_FAIL_IF(!(a->num >= 1 && a->num <= 1 << 20) || ((uint64_t)a->num & ((uint64_t)a->num - 1)), NS_ERR_INPUT,
                   "%s: general.alignment is %g, expected a power of two", g->where, a->num);
        align = (uint64_t)a->num;
    }
    info *t = ns_arena_alloc(&g->arena, (n_tensors + 1) * sizeof *t, err);
    if (!t) return NS_ERR_MEMORY;
    for (uint64_t i = 0; i < n_tensors; i++) NS_TRY(tensor_info(g, &t[i], err), "%s", "");
    uint64_t data = (g->at + align - 1) / align * align;
    NS_FAIL_IF(n_tensors && data > g->size, NS_ERR_INPUT, "%s: no data behind the header: truncated", g->where);
    for (uint64_t i = 0; i < n_tensors; i++) NS_TRY(add_tensor(g, &t[i], data, align, err), "%s", "");
    return ns_archive_check(&g->native, err);
}

ns_status ns_gguf_parse(ns_gguf **out, const unsigned char *p, size_t n, const char *where, ns_error *err)
{
    ns_gguf *g = NULL;
    *out = NULL;
    NS_TRY(ns_alloc((void **)&g, sizeof *g, "gguf", err), "%s", where);
    g->arena.label = "gguf";
    g->where = ns_arena_strdup(&g->arena, where, err);
    g->p = p;
    g->size = n;
    ns_status st = g->where ? NS_OK : NS_ERR_MEMORY;
    if (st == NS_OK) {
        ns_archive_init(&g->native, g->where);
        st = parse(g, err);
    }
    if (st != NS_OK) {
        ns_gguf_close(&g);
        return st;
    }
    *out = g;
    return NS_OK;
}

ns_status ns_gguf_open(ns_gguf **out, const char *path, ns_error *err)
{
    ns_map m;
    *out = NULL;
    NS_TRY(ns_map_open(&m, path, err), "open model");
    ns_status st = ns_gguf_parse(out, m.data, m.size, path, err);
    if (st == NS_OK)
        (*out)->map = m;
    else
        ns_map_close(&m);
    return st;
}

void ns_gguf_close(ns_gguf **pg)
{
    ns_gguf *g = *pg;
    if (!g) return;
    ns_archive_free(&g->native);
    ns_map_close(&g->map);
    ns_arena_free(&g->arena);
    ns_free(g);
    *pg = NULL;
}

static int has_magic(const char *path)
{
    char magic[4];
    FILE *f = fopen(path, "rb");
    int yes = f && fread(magic, 1, 4, f) == 4 && !memcmp(magic, "GGUF", 4);
    if (f) fclose(f);
    return yes;
}

int ns_gguf_find(char out[4096], const char *path)
{
    int n = 0;
    if (ns_path(out, 4096, NULL, "%s", path) != NS_OK) return 0;
    if (!ns_path_is_dir(path)) return has_magic(path);
    DIR *d = opendir(path);
    for (struct dirent *e; d && (e = readdir(d));) {
        size_t k = strlen(e->d_name);
        if (k > 5 && !strcmp(e->d_name + k - 5, ".gguf") && ns_path(out, 4096, NULL, "%s/%s", path, e->d_name) == NS_OK)
            n++;
    }
    if (d) closedir(d);
    return n == 1 && has_magic(out);
}

size_t ns_gguf_count(const ns_gguf *g)
{
    return g->n_kv;
}

const ns_gguf_value *ns_gguf_at(const ns_gguf *g, size_t i)
{
    return &g->kv[i];
}

const ns_gguf_value *ns_gguf_get(const ns_gguf *g, const char *key)
{
    for (size_t i = 0; i < g->n_kv; i++)
        if (ns_str_eq(g->kv[i].key, key)) return &g->kv[i];
    return NULL;
}

const ns_archive *ns_gguf_native(const ns_gguf *g)
{
    return &g->native;
}

/* ---- names ---- */
static const struct {
    const char *hf, *gguf;
} layer_names[] =
    {{"input_layernorm.weight", "attn_norm.weight"},    {"self_attn.q_proj.weight", "attn_q.weight"},
     {"self_attn.k_proj.weight", "attn_k.weight"},      {"self_attn.v_proj.weight", "attn_v.weight"},
     {"self_attn.q_proj.bias", "attn_q.bias"},          {"self_attn.k_proj.bias", "attn_k.bias"},
     {"self_attn.v_proj.bias", "attn_v.bias"},          {"self_attn.q_norm.weight", "attn_q_norm.weight"},
     {"self_attn.k_norm.weight", "attn_k_norm.weight"}, {"self_attn.o_proj.weight", "attn_output.weight"},
     {"self_attn.o_proj.bias", "attn_output.bias"},     {"post_attention_layernorm.weight", "ffn_norm.weight"},
     {"mlp.gate_proj.weight", "ffn_gate.weight"},       {"mlp.up_proj.weight", "ffn_up.weight"},
     {"mlp.down_proj.weight", "ffn_down.weight"}},
  top_names[] = {{"model.embed_tokens.weight", "token_embd.weight"},
                 {"model.norm.weight", "output_norm.weight"},
                 {"lm_head.weight", "output.weight"}};
enum { N_LAYER = sizeof layer_names / sizeof layer_names[0], N_TOP = sizeof top_names / sizeof top_names[0] };

int ns_gguf_name(char out[96], const char *hf)
{
    int l, n = 0;
    for (int i = 0; i < N_TOP; i++)
        if (!strcmp(hf, top_names[i].hf)) return snprintf(out, 96, "%s", top_names[i].gguf);
    if (sscanf(hf, "model.layers.%d.%n", &l, &n) != 1 || !n) return 0;
    for (int i = 0; i < N_LAYER; i++)
        if (!strcmp(hf + n, layer_names[i].hf)) return snprintf(out, 96, "blk.%d.%s", l, layer_names[i].gguf);
    return 0;
}

static int hf_name(char out[96], const char *name)
{
    int l, n = 0;
    for (int i = 0; i < N_TOP; i++)
        if (!strcmp(name, top_names[i].gguf)) return snprintf(out, 96, "%s", top_names[i].hf);
    if (sscanf(name, "blk.%d.%n", &l, &n) != 1 || !n) return 0;
    for (int i = 0; i < N_LAYER; i++)
        if (!strcmp(name + n, layer_names[i].gguf))
            return snprintf(out, 96, "model.layers.%d.%s", l, layer_names[i].hf);
    return 0;
}

/* ---- record ---- */
void ns_gguf_rope_factors(const ns_arch *a, float *out)
{
    double low = (double)a->rope_orig_max / a->rope_low, high = (double)a->rope_orig_max / a->rope_high;
    for (int64_t i = 0; i < a->head_dim / 2; i++) {
        double freq = 1.0 / pow(a->rope_theta, (double)(2 * i) / (double)a->head_dim), wave = 2 * M_PI / freq;
        double s = ((double)a->rope_orig_max / wave - a->rope_low) / (a->rope_high - a->rope_low);
        out[i] = (float)(wave < high ? 1 : wave > low ? a->rope_factor : 1 / ((1 - s) / a->rope_factor + s));
    }
}

static const ns_gguf_value *of_arch(const ns_gguf *g, ns_str arch, const char *key)
{
    char k[160];
    snprintf(k, sizeof k, "%.*s.%s", (int)(arch.n < 40 ? arch.n : 40), arch.p, key);
    return ns_gguf_get(g, k);
}

static ns_status put(ns_json *c, ns_arena *m, const char *key, const ns_gguf_value *v, int is_int, ns_error *err)
{
    if (!v) return NS_OK;
    ns_json *x = is_int ? ns_json_new_int(m, (int64_t)v->num, err) : ns_json_new_num(m, (double)(float)v->num, err);
    return ns_json_set(c, m, key, x, err);
}

/* f32 as the shortest decimal: 1e-05 and not 9.999999747378752e-06. */
static ns_status put_f32(ns_json *c, ns_arena *m, const char *key, const ns_gguf_value *v, ns_error *err)
{
    char text[32];
    if (!v) return NS_OK;
    for (int digits = 6; digits <= 9; digits++) {
        snprintf(text, sizeof text, "%.*g", digits, v->num);
        if (strtof(text, NULL) == (float)v->num) break;
    }
    return ns_json_set(c, m, key, ns_json_new_num(m, strtod(text, NULL), err), err);
}

/* The llama3 constants are not in the metadata, only what comes of them; the usual ones are tried. */
static ns_status find_scaling(ns_json *c, ns_arena *m, const ns_gguf *g, const ns_gguf_value *theta, int64_t hd,
                              ns_error *err)
{
    ns_arc_tensor *t = ns_archive_find(&g->native, "rope_freqs.weight");
    float have[512], want[512];
    double most = 1;
    int ok = 1;
    if (!t) return NS_OK;
    NS_FAIL_IF(t->dt != NS_DTYPE_F32 || t->q || t->nd != 1 || t->n != hd / 2 || t->n > 512, NS_ERR_UNSUPPORTED,
               "%s: rope_freqs.weight: expected %lld values of type F32", g->where, (long long)(hd / 2));
    NS_TRY(ns_archive_rows(t, -1, 0, t->n, have, err), "%s", "");
    for (int64_t i = 0; i < t->n; i++)
        if ((double)have[i] > most) most = (double)have[i];
    ns_arch a = {.head_dim = hd, .rope_theta = theta ? theta->num : 10000, .rope_factor = most};
    a.rope_low = 1;
    a.rope_high = 4;
    a.rope_orig_max = 8192;
    ns_gguf_rope_factors(&a, want);
    for (int64_t i = 0; i < t->n; i++) ok &= fabsf(have[i] - want[i]) <= 1e-3f * want[i];
    NS_FAIL_IF(!ok, NS_ERR_UNSUPPORTED,
               "%s: rope_freqs.weight is not the llama3 scaling with low 1, high 4 and 8192 original positions",
               g->where);
    ns_json *s = ns_json_new(m, NS_JSON_OBJECT, err);
    if (!s) return NS_ERR_MEMORY;
    NS_TRY(ns_json_set(s, m, "rope_type", ns_json_new_str(m, "llama3", err), err), "%s", "");
    NS_TRY(ns_json_set(s, m, "factor", ns_json_new_num(m, most, err), err), "%s", "");
    NS_TRY(ns_json_set(s, m, "low_freq_factor", ns_json_new_num(m, 1, err), err), "%s", "");
    NS_TRY(ns_json_set(s, m, "high_freq_factor", ns_json_new_num(m, 4, err), err), "%s", "");
    NS_TRY(ns_json_set(s, m, "original_max_position_embeddings", ns_json_new_int(m, 8192, err), err), "%s", "");
    return ns_json_set(c, m, "rope_scaling", s, err);
}

/* config.json's tree from the metadata of llama.cpp. */
static ns_status config_of(ns_json **out, ns_arena *m, const ns_gguf *g, ns_error *err)
{
    static const struct {
        const char *gguf, *hf, *name;
    } known[] = {{"llama", "llama", "LlamaForCausalLM"},
                 {"qwen2", "qwen2", "Qwen2ForCausalLM"},
                 {"qwen3", "qwen3", "Qwen3ForCausalLM"}};
    const ns_gguf_value *v = ns_gguf_get(g, "general.architecture");
    int k = 0;
    NS_FAIL_IF(!v || v->type != NS_GGUF_STRING, NS_ERR_INPUT, "%s: general.architecture is missing", g->where);
    while (k < 3 && !ns_str_eq(v->s, known[k].gguf)) k++;
    NS_FAIL_IF(k == 3, NS_ERR_UNSUPPORTED, "%s: architecture '%.*s' is not supported (known: llama, qwen2, qwen3)",
               g->where, (int)(v->s.n < 60 ? v->s.n : 60), v->s.p);
    ns_str arch = v->s;
    ns_json *c = ns_json_new(m, NS_JSON_OBJECT, err);
    if (!c) return NS_ERR_MEMORY;
    ns_json *list = ns_json_new(m, NS_JSON_ARRAY, err);
    if (!list) return NS_ERR_MEMORY;
    NS_TRY(ns_json_append(list, m, ns_json_new_str(m, known[k].name, err), err), "%s", "");
    NS_TRY(ns_json_set(c, m, "architectures", list, err), "%s", "");
    NS_TRY(ns_json_set(c, m, "model_type", ns_json_new_str(m, known[k].hf, err), err), "%s", "");
    static const struct {
        const char *gguf, *hf;
        int is_int;
    } keys[] = {{"embedding_length", "hidden_size", 1},
                {"feed_forward_length", "intermediate_size", 1},
                {"block_count", "num_hidden_layers", 1},
                {"attention.head_count", "num_attention_heads", 1},
                {"attention.head_count_kv", "num_key_value_heads", 1},
                {"attention.key_length", "head_dim", 1},
                {"context_length", "max_position_embeddings", 1},
                {"attention.layer_norm_rms_epsilon", "rms_norm_eps", 0},
                {"rope.freq_base", "rope_theta", 0}};
    for (size_t i = 0; i < sizeof keys / sizeof keys[0]; i++) {
        v = of_arch(g, arch, keys[i].gguf);
        NS_FAIL_IF(v && v->type == NS_GGUF_ARRAY, NS_ERR_UNSUPPORTED, "%s: %s differs by layer: not supported",
                   g->where, keys[i].gguf);
        if (keys[i].is_int)
            NS_TRY(put(c, m, keys[i].hf, v, 1, err), "%s", "");
        else
            NS_TRY(put_f32(c, m, keys[i].hf, v, err), "%s", "");
    }
    const ns_arc_tensor *e = ns_archive_find(&g->native, "token_embd.weight");
    NS_FAIL_IF(!e || e->nd != 2, NS_ERR_INPUT, "%s: tensor \"token_embd.weight\" is missing", g->where);
    NS_TRY(ns_json_set(c, m, "vocab_size", ns_json_new_int(m, e->shape[0], err), err), "%s", "");
    NS_TRY(ns_json_set(c, m, "tie_word_embeddings",
                       ns_json_new_bool(m, !ns_archive_find(&g->native, "output.weight"), err), err),
           "%s", "");
    if (k == 0)
        NS_TRY(ns_json_set(c, m, "attention_bias",
                           ns_json_new_bool(m, ns_archive_find(&g->native, "blk.0.attn_q.bias") != NULL, err), err),
               "%s", "");
    NS_TRY(put(c, m, "bos_token_id", ns_gguf_get(g, "tokenizer.ggml.bos_token_id"), 1, err), "%s", "");
    NS_TRY(put(c, m, "eos_token_id", ns_gguf_get(g, "tokenizer.ggml.eos_token_id"), 1, err), "%s", "");
    const ns_gguf_value *hd = of_arch(g, arch, "attention.key_length"), *dim = of_arch(g, arch, "rope.dimension_count");
    const ns_gguf_value *C = of_arch(g, arch, "embedding_length"), *nh = of_arch(g, arch, "attention.head_count");
    int64_t n = hd ? (int64_t)hd->num : C && nh && nh->num >= 1 ? (int64_t)(C->num / nh->num) : 0;
    NS_FAIL_IF(dim && n && (int64_t)dim->num != n, NS_ERR_UNSUPPORTED,
               "%s: rotation of %lld of %lld elements of a head is not supported", g->where, (long long)dim->num,
               (long long)n);
    v = of_arch(g, arch, "rope.scaling.type");
    if (v && v->type == NS_GGUF_STRING && !ns_str_eq(v->s, "none")) {
        NS_FAIL_IF(!ns_str_eq(v->s, "linear"), NS_ERR_UNSUPPORTED, "%s: rope.scaling.type '%.*s' is not supported",
                   g->where, (int)(v->s.n < 40 ? v->s.n : 40), v->s.p);
        ns_json *s = ns_json_new(m, NS_JSON_OBJECT, err);
        if (!s) return NS_ERR_MEMORY;
        NS_TRY(ns_json_set(s, m, "rope_type", ns_json_new_str(m, "linear", err), err), "%s", "");
        NS_TRY(put_f32(s, m, "factor", of_arch(g, arch, "rope.scaling.factor"), err), "%s", "");
        NS_TRY(ns_json_set(c, m, "rope_scaling", s, err), "%s", "");
    }
    NS_TRY(find_scaling(c, m, g, of_arch(g, arch, "rope.freq_base"), n, err), "%s", "");
    *out = c;
    return NS_OK;
}

ns_status ns_gguf_arch(ns_arch *a, const ns_gguf *g, ns_error *err)
{
    ns_arena arena = NS_ARENA_INIT("gguf.config");
    ns_json *c = NULL;
    ns_status st = NS_OK;
    const ns_gguf_value *own = ns_gguf_get(g, "ns.hf_config"); /* gguf_write.c: says what the metadata cannot */
    if (own && own->type == NS_GGUF_STRING)
        NS_CHECK(st, ns_json_parse(&c, &arena, own->s.p, own->s.n, "ns.hf_config", 0, err), "%s", g->where);
    else
        NS_CHECK(st, config_of(&c, &arena, g, err), "%s", "");
    NS_CHECK(st, ns_arch_from_json(a, c, g->where, err), "%s", "");
    const ns_arc_tensor *e = ns_archive_find(&g->native, "token_embd.weight");
    if (e) a->dt = e->dt;
done:
    ns_arena_free(&arena);
    return st;
}

/* ---- tensors ---- */
static int is_rotated(const ns_arch *a, const char *name)
{
    return (a->family == NS_FAMILY_LLAMA || a->family == NS_FAMILY_MISTRAL) &&
           (strstr(name, "attn_q.") || strstr(name, "attn_k."));
}

static ns_status add_halves(ns_archive *hf, ns_arc_tensor *x, const ns_arc_tensor *t, int64_t hd, const char *where,
                            ns_error *err)
{
    ns_box all = t->pieces[0];
    int64_t row = t->nd == 2 ? t->shape[1] : 1;
    int64_t bytes = t->q ? row / t->q->block * t->q->bytes : row * (int64_t)ns_dtype_size(t->dt);
    NS_FAIL_IF(hd < 2 || hd % 2 || t->shape[0] % hd, NS_ERR_INPUT, "%s: tensor \"%s\": %lld rows are not heads of %lld",
               where, t->name, (long long)t->shape[0], (long long)hd);
    for (int64_t h = 0; h < t->shape[0] / hd; h++) {
        for (int j = 0; j < 2; j++) {
            ns_box b = all;
            b.off[0] = h * hd + j * (hd / 2);
            b.size[0] = hd / 2;
            b.stride[0] = 2 * row;
            b.data = all.data + (h * hd + j) * bytes;
            NS_TRY(ns_arc_box_add(hf, x, &b, err), "%s", "");
        }
    }
    return NS_OK;
}

ns_status ns_gguf_read(ns_archive *hf, const ns_gguf *g, const ns_arch *a, ns_error *err)
{
    char name[96];
    for (size_t i = 0; i < g->native.n; i++) {
        const ns_arc_tensor *t = &g->native.t[i];
        ns_arc_tensor *x;
        if (!strcmp(t->name, "rope_freqs.weight")) continue; /* in the record */
        NS_TRY(ns_archive_add(hf, &x, hf_name(name, t->name) ? name : t->name, t->dt, t->shape, t->nd, err), "%s", "");
        x->q = t->q;
        if (is_rotated(a, t->name))
            NS_TRY(add_halves(hf, x, t, a->head_dim, g->where, err), "%s", "");
        else
            NS_TRY(ns_arc_box_add(hf, x, &t->pieces[0], err), "%s", "");
    }
    return ns_archive_check(hf, err);
}
