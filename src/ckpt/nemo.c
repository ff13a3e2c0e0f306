/* NeMo names and layouts -> Hugging Face views. The map (training.md §5.2): qkv rows are interleaved by group (its query heads,
 * its key head, its value head); fc1 is [gate; up]; layers are stacked along a leading axis, or one tensor a layer; embedding and
 * head may have padded rows. Every NeMo tensor must be used: what has no place in the model is an error. */
#include "ckpt/nemo.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "arch/arch_nemo.h"
#include "ckpt/dist_read.h"
#include "ckpt/torch_file.h"

static const struct {
    const char *name, *local; /* local: Megatron's plain (not Transformer Engine) layers */
} names[NS_P_KIND_COUNT] = {
    [NS_P_EMBED] = {"embedding.word_embeddings.weight", NULL},
    [NS_P_ATTN_NORM] = {"self_attention.linear_qkv.layer_norm_weight", "input_layernorm.weight"},
    [NS_P_QKV] = {"self_attention.linear_qkv.weight", NULL},
    [NS_P_QKV_BIAS] = {"self_attention.linear_qkv.bias", NULL},
    [NS_P_Q_NORM] = {"self_attention.q_layernorm.weight", NULL},
    [NS_P_K_NORM] = {"self_attention.k_layernorm.weight", NULL},
    [NS_P_O] = {"self_attention.linear_proj.weight", NULL},
    [NS_P_O_BIAS] = {"self_attention.linear_proj.bias", NULL},
    [NS_P_MLP_NORM] = {"mlp.linear_fc1.layer_norm_weight", "pre_mlp_layernorm.weight"},
    [NS_P_GATE_UP] = {"mlp.linear_fc1.weight", NULL},
    [NS_P_DOWN] = {"mlp.linear_fc2.weight", NULL},
    [NS_P_FINAL_NORM] = {"decoder.final_layernorm.weight", NULL},
    [NS_P_HEAD] = {"output_layer.weight", NULL},
};

const char *ns_nemo_name(ns_kind kind)
{
    return names[kind].name;
}

/* ---- legacy: one torch file a rank ---- */
typedef struct legacy {
    ns_archive *a;
    int tp, pp; /* sizes */
    int64_t layer0, layers;
} legacy;

/* How tensor-parallel ranks cut a tensor: rows, the two halves of fc1, columns, or not at all. */
static char cut_of(const char *name)
{
    static const struct {
        const char *part;
        char cut;
    } map[] = {{"linear_fc1.weight", 'f'},      {"linear_qkv.weight", 'r'},   {"linear_qkv.bias", 'r'},
               {"word_embeddings.weight", 'r'}, {"output_layer.weight", 'r'}, {"linear_proj.weight", 'c'},
               {"linear_fc2.weight", 'c'}};
    for (size_t i = 0; i < sizeof map / sizeof map[0]; i++)
        if (strstr(name, map[i].part)) return map[i].cut;
    return 0;
}

static ns_arc_tensor *find_unsorted(ns_archive *a, const char *name)
{
    for (size_t i = a->n; i-- > 0;)
        if (!strcmp(a->t[i].name, name)) return &a->t[i];
    return NULL;
}

static ns_status add_shard(legacy *g, const char *name, const ns_box *p, ns_dtype dt, const int64_t shape[8], int nd,
                           int tp_rank, ns_error *err)
{
    char cut = g->tp > 1 ? cut_of(name) : 0;
    int64_t full[8];
    ns_box q = *p;
    ns_arc_tensor *t = find_unsorted(g->a, name);
    memcpy(full, shape, sizeof full);
    if (cut == 'r' || cut == 'f') full[0] *= g->tp;
    NS_FAIL_IF(nd < 1 || (cut == 'c' && nd < 2), NS_ERR_INPUT, "%s: tensor \"%s\" has %d axes", p->file, name, nd);
    if (cut == 'c') full[1] *= g->tp;
    if (!t) NS_TRY(ns_archive_add(g->a, &t, name, dt, full, nd, err), "%s", "");
    NS_FAIL_IF(t->nd != nd || t->dt != dt || memcmp(t->shape, full, (size_t)nd * sizeof full[0]), NS_ERR_MISMATCH,
               "%s: tensor \"%s\" has another shape or dtype than on the first rank", p->file, name);
    if (!cut && t->n_pieces) return NS_OK; /* replicated */
    if (cut == 'r') q.off[0] = shape[0] * tp_rank;
    if (cut == 'c') q.off[1] = shape[1] * tp_rank;
    if (cut == 'f') { /* [gate rows; up rows] of this rank: two blocks of the whole */
        int64_t f = shape[0] / 2;
        NS_FAIL_IF(shape[0] % 2, NS_ERR_INPUT, "%s: tensor \"%s\" has an odd number of rows", p->file, name);
        q.size[0] = f;
        q.off[0] = f * tp_rank;
        NS_TRY(ns_arc_box_add(g->a, t, &q, err), "%s", "");
        q.data += (size_t)(f * q.stride[0]) * ns_dtype_size(dt);
        q.off[0] = f * g->tp + f * tp_rank;
    }
    return ns_arc_box_add(g->a, t, &q, err);
}

static const char *strip_prefix(const char *name)
{
    for (;;) {
        if (!strncmp(name, "model.", 6))
            name += 6;
        else if (!strncmp(name, "module.", 7))
            name += 7;
        else
            return name;
    }
}

static ns_status read_rank(legacy *g, ns_tree *t, const ns_tree_file *f, int tp_rank, ns_error *err)
{
    const unsigned char *data;
    size_t size;
    ns_torch_file z;
    int64_t last = -1;
    NS_TRY(ns_tree_map(t, f, &data, &size, err), "%s", "");
    NS_TRY(ns_torch_open(&z, data, size, f->name, &g->a->arena, err), "read weights");
    const ns_pk *dict = ns_pk_get(z.root, "state_dict");
    if (!dict) dict = z.root;
    NS_FAIL_IF(dict->kind != NS_PK_DICT, NS_ERR_INPUT, "%s: not a dictionary of tensors", f->name);
    for (size_t i = 0; i < dict->n; i++) {
        const ns_pk *k = dict->item[2 * i], *v = dict->item[2 * i + 1];
        char name[512], moved[512];
        ns_box p;
        ns_dtype dt;
        int64_t shape[8], layer;
        int nd, n = 0;
        if (k->kind != NS_PK_STR || !ns_torch_is_tensor(v)) continue;
        NS_FAIL_IF(k->s.n >= sizeof name, NS_ERR_INPUT, "%s: a name of %zu bytes", f->name, k->s.n);
        snprintf(name, sizeof name, "%.*s", (int)k->s.n, k->s.p);
        const char *s = strip_prefix(name);
        if (strstr(s, "_extra_state") || strstr(s, "rotary_pos_emb")) continue;
        NS_TRY(ns_torch_tensor(&z, v, &p, &dt, shape, &nd, err), "tensor \"%s\"", s);
        long long l = 0;
        if (sscanf(s, "decoder.layers.%lld.%n", &l, &n) == 1 && n) {
            layer = l;
            NS_FAIL_IF(layer < 0 || layer > 4096, NS_ERR_INPUT, "%s: layer %lld of \"%s\"", f->name, l, s);
            if (layer > last) last = layer;
            snprintf(moved, sizeof moved, "decoder.layers.%lld.%s", (long long)(layer + g->layer0), s + n);
            s = moved;
        }
        NS_TRY(add_shard(g, s, &p, dt, shape, nd, tp_rank, err), "%s", "");
    }
    g->layers = last + 1;
    return NS_OK;
}

static ns_status read_legacy(ns_archive *a, ns_tree *t, int *found, ns_error *err)
{
    legacy g = {.a = a, .tp = 0, .pp = 1};
    static const char *const forms[] = {"%smodel_weights.ckpt", "%smp_rank_%02d/model_weights.ckpt",
                                        "%stp_rank_%02d_pp_rank_%03d/model_weights.ckpt"};
    static const char *const dirs[] = {"", "model_weights/"};
    char path[256];
    const char *form = NULL, *dir = "";
    for (int i = 0; i < 6 && !form; i++) {
        dir = dirs[i / 3];
        form = forms[i % 3];
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wformat-nonliteral"
#define NAME(tp, pp) (snprintf(path, sizeof path, form, dir, (tp), (pp)), path)
        if (!ns_tree_find(t, NAME(0, 0))) form = NULL;
    }
    *found = form != NULL;
    if (!form) return NS_OK;
    int ranks = form != forms[0], stages = form == forms[2];
    for (g.tp = 1; ranks && g.tp < 100 && ns_tree_find(t, NAME(g.tp, 0));) g.tp++;
    for (g.pp = 1; stages && g.pp < 1000 && ns_tree_find(t, NAME(0, g.pp));) g.pp++;
    for (int pp = 0; pp < g.pp; pp++) {
        for (int tp = 0; tp < g.tp; tp++) {
            const ns_tree_file *f = ns_tree_find(t, NAME(tp, pp));
            NS_FAIL_IF(!f, NS_ERR_INPUT, "%s: %s is missing: %d x %d rank folders were expected", ns_tree_path(t), path,
                       g.tp, g.pp);
            NS_TRY(read_rank(&g, t, f, tp, err), "%s", "");
        }
        g.layer0 += g.layers;
    }
#undef NAME
#pragma GCC diagnostic pop
    return NS_OK;
}

/* ---- native ---- */
ns_status ns_nemo_native(ns_archive *a, ns_tree *t, const char **kind, ns_error *err)
{
    int found = 0;
    const char *dir = ns_tree_has_dir(t, "model_weights") ? "model_weights" : "";
    const char *k = ns_dist_kind(t, dir);
    NS_TRY(read_legacy(a, t, &found, err), "%s", "");
    if (found) k = "legacy";
    NS_FAIL_IF(!k[0], NS_ERR_INPUT,
               "%s: no weights in it: neither model_weights/.metadata (torch_dist), nor .zarray files (zarr), nor "
               "model_weights.ckpt",
               ns_tree_path(t));
    NS_FAIL_IF(!strcmp(k, "zarr 3"), NS_ERR_UNSUPPORTED,
               "%s: its weights are arrays of zarr version 3 (zarr.json), which Megatron never wrote and which are not "
               "read: copy them with zarr_format=2, or save as torch_dist",
               ns_tree_path(t));
    if (!strcmp(k, "torch_dist")) NS_TRY(ns_torch_dist_read(a, t, dir, err), "read torch_dist");
    if (!strcmp(k, "zarr")) NS_TRY(ns_zarr_read(a, t, dir, err), "read zarr");
    for (size_t i = 0; i < a->n; i++) a->t[i].name = strip_prefix(a->t[i].name);
    if (kind) *kind = k;
    return ns_archive_check(a, err);
}

static ns_status read_text(ns_tree *t, const char *name, const char **p, size_t *n, ns_error *err)
{
    const ns_tree_file *f = ns_tree_find(t, name);
    const unsigned char *data = NULL;
    *p = NULL;
    if (!f) return NS_OK;
    NS_TRY(ns_tree_map(t, f, &data, n, err), "%s", "");
    *p = data ? (const char *)data : "";
    return NS_OK;
}

/* What only a config.json says, if the container has one that describes the same model. */
static ns_status add_hf_config(ns_arch *a, ns_tree *t, ns_error *err)
{
    ns_arena arena = NS_ARENA_INIT("nemo.config");
    ns_error why = NS_ERROR_INIT;
    const char *p;
    size_t n;
    ns_json *j;
    ns_arch b;
    NS_TRY(read_text(t, "tokenizer/config.json", &p, &n, err), "%s", "");
    if (!p) return NS_OK;
    int ok = ns_json_parse(&j, &arena, p, n, "tokenizer/config.json", 0, &why) == NS_OK &&
             ns_arch_from_json(&b, j, "tokenizer/config.json", &why) == NS_OK;
    ns_arena_free(&arena);
    NS_FAIL_IF(!ok && why.code == NS_ERR_MEMORY, NS_ERR_MEMORY, "%s", why.msg);
    if (!ok || b.C != a->C || b.F != a->F || b.L != a->L || b.n_heads != a->n_heads || b.n_kv != a->n_kv ||
        b.head_dim != a->head_dim || b.qkv_bias != a->qkv_bias || b.qk_norm != a->qk_norm)
        return NS_OK;
    a->family = b.family;
    a->bos = b.bos;
    memcpy(a->eos, b.eos, sizeof a->eos);
    a->n_eos = b.n_eos;
    if (!a->vocab) a->vocab = b.vocab;
    return NS_OK;
}

ns_status ns_nemo_arch(ns_arch *a, ns_tree *t, ns_error *err)
{
    const char *p;
    size_t n;
    char where[4200];
    ns_archive native;
    snprintf(where, sizeof where, "%s/model_config.yaml", ns_tree_path(t));
    NS_TRY(read_text(t, "model_config.yaml", &p, &n, err), "%s", "");
    NS_FAIL_IF(!p, NS_ERR_INPUT, "%s is missing: not a NeMo model", where);
    NS_TRY(ns_arch_from_nemo(a, p, n, where, err), "%s", "");
    NS_TRY(add_hf_config(a, t, err), "%s", "");
    ns_archive_init(&native, ns_tree_path(t));
    ns_status st = ns_nemo_native(&native, t, NULL, err);
    const ns_arc_tensor *e = st == NS_OK ? ns_archive_find(&native, names[NS_P_EMBED].name) : NULL;
    if (st == NS_OK && (!e || e->nd != 2))
        st = ns_error_set(err, NS_ERR_MISMATCH, __FILE__, __LINE__, "%s: tensor \"%s\" is missing", ns_tree_path(t),
                          names[NS_P_EMBED].name);
    if (st == NS_OK) {
        a->dt = e->dt;
        if (!a->vocab) a->vocab = e->shape[0]; /* nothing says how many rows are padding */
        if (e->shape[0] < a->vocab)
            st = ns_error_set(err, NS_ERR_MISMATCH, __FILE__, __LINE__,
                              "%s: the embedding has %lld rows, the vocabulary %lld", ns_tree_path(t),
                              (long long)e->shape[0], (long long)a->vocab);
        a->vocab_rows = a->vocab;
    }
    ns_archive_free(&native);
    return st;
}

/* ---- map ---- */
typedef struct mapper {
    ns_archive *native, *hf;
    const ns_param_table *p;
    char *used; /* by native tensor */
} mapper;

static ns_status native_of(mapper *m, const ns_param *p, ns_arc_tensor **out, int64_t *lead, ns_error *err)
{
    char name[160];
    *lead = -1;
    *out = NULL;
    for (int i = 0; i < 2 && !*out; i++) {
        const char *s = i ? names[p->kind].local : names[p->kind].name;
        if (!s) continue;
        if (p->layer < 0) {
            *out = ns_archive_find(m->native, s);
            continue;
        }
        snprintf(name, sizeof name, "decoder.layers.%s", s);
        *out = ns_archive_find(m->native, name);
        *lead = *out ? p->layer : -1;
        if (*out) continue;
        snprintf(name, sizeof name, "decoder.layers.%d.%s", p->layer, s);
        *out = ns_archive_find(m->native, name);
    }
    NS_FAIL_IF(!*out, NS_ERR_MISMATCH, "%s: tensor \"%s%s\" is missing (layer %d)", m->native->where,
               p->layer < 0 ? "" : "decoder.layers.", names[p->kind].name, p->layer);
    ns_arc_tensor *t = *out;
    int k = *lead >= 0, nd = p->cols > 1 || p->kind == NS_P_EMBED || p->kind == NS_P_HEAD ? 2 : 1;
    int padded = p->kind == NS_P_EMBED || p->kind == NS_P_HEAD;
    int bad = t->nd != nd + k || (k && t->shape[0] != m->p->arch->L);
    if (!bad) bad = padded ? t->shape[k] < p->rows : t->shape[k] != p->rows;
    if (!bad && nd == 2) bad = t->shape[k + 1] != p->cols;
    NS_FAIL_IF(bad, NS_ERR_MISMATCH,
               "%s: tensor \"%s\" has %d axes, rows %lld, expected %s[%lld,%lld] by model_config.yaml",
               m->native->where, t->name, t->nd, (long long)(t->nd > k ? t->shape[k] : 0), k ? "[layers] x " : "",
               (long long)p->rows, (long long)p->cols);
    m->used[t - m->native->t] = 1;
    return NS_OK;
}

static ns_status map_view(mapper *m, const ns_view *v, ns_error *err)
{
    const ns_param *p = &m->p->params[v->param];
    const ns_arch *a = m->p->arch;
    ns_arc_tensor *src, *dst;
    int64_t lead, shape[2] = {v->rows, p->cols}, hd = a->head_dim, hpg = a->n_heads / a->n_kv;
    NS_TRY(native_of(m, p, &src, &lead, err), "%s", "");
    NS_TRY(ns_archive_add(m->hf, &dst, v->name, src->dt, shape, v->nd, err), "%s", "");
    if (p->kind != NS_P_QKV && p->kind != NS_P_QKV_BIAS)
        return ns_archive_slice(m->hf, dst, 0, src, lead, v->row0, v->rows, err);
    int64_t q_rows = a->n_heads * hd, kv_rows = a->n_kv * hd;
    int64_t n = v->row0 == 0 ? hpg * hd : hd; /* rows of a group: its queries, its key or its value */
    int64_t at = v->row0 == 0 ? 0 : v->row0 < q_rows + kv_rows ? hpg * hd : (hpg + 1) * hd;
    for (int64_t g = 0; g < a->n_kv; g++)
        NS_TRY(ns_archive_slice(m->hf, dst, g * n, src, lead, (hpg + 2) * hd * g + at, n, err), "%s", "");
    return NS_OK;
}

ns_status ns_nemo_read(ns_archive *native, ns_archive *hf, ns_tree *t, const ns_param_table *p, ns_error *err)
{
    mapper m = {native, hf, p, NULL};
    NS_TRY(ns_nemo_native(native, t, NULL, err), "%s", "");
    m.used = ns_arena_alloc(&hf->arena, native->n + 1, err);
    if (!m.used) return NS_ERR_MEMORY;
    for (int i = 0; i < p->n_views; i++) NS_TRY(map_view(&m, &p->views[i], err), "%s", "");
    for (size_t i = 0; i < native->n; i++) {
        int tied_head = p->arch->tied && !strcmp(native->t[i].name, names[NS_P_HEAD].name);
        NS_FAIL_IF(!m.used[i] && !tied_head, NS_ERR_MISMATCH,
                   "%s: tensor \"%s\" has no place in the model that model_config.yaml describes", ns_tree_path(t),
                   native->t[i].name);
        if (m.used[i] || native->t[i].nd != 2) continue;
        ns_arc_tensor *dst; /* a tied head that is stored all the same: compared with the embedding by the caller */
        int64_t shape[2] = {p->arch->vocab, p->arch->C};
        NS_FAIL_IF(native->t[i].shape[0] < shape[0] || native->t[i].shape[1] != shape[1], NS_ERR_MISMATCH,
                   "%s: tensor \"%s\" does not have the embedding's shape", ns_tree_path(t), native->t[i].name);
        NS_TRY(ns_archive_add(hf, &dst, "lm_head.weight", native->t[i].dt, shape, 2, err), "%s", "");
        NS_TRY(ns_archive_slice(hf, dst, 0, &native->t[i], -1, 0, shape[0], err), "%s", "");
    }
    return ns_archive_check(hf, err);
}
