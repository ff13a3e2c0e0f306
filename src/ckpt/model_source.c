/* Model folder -> storage parameters, checked first and then streamed. All shapes are compared before the first value is
 * read, so a wrong model is refused at once and with the name of the tensor. */
#include "ckpt/model_source.h"

#include <stdio.h>
#include <string.h>

#include "arch/arch_nemo.h"
#include "base/file.h"
#include "base/hub/hub.h"
#include "base/log.h"
#include "ckpt/nemo.h"
#include "ckpt/path.h"
#include "ckpt/trt_read.h"

static const char *file_of(const ns_model_source *s, const ns_arc_tensor *t)
{
    return t->n_pieces && t->pieces[0].file && s->format == NS_FORMAT_HF ? t->pieces[0].file : s->path;
}

static const char *shape_text(const int64_t *shape, int nd, char out[160])
{
    size_t n = (size_t)snprintf(out, 160, "[");
    for (int i = 0; i < nd && n < 130; i++) {
        n += (size_t)snprintf(out + n, 160 - n, "%s%lld", i ? "," : "", (long long)shape[i]);
    }
    snprintf(out + n, 160 - n, "]");
    return out;
}

static void view_shape(const ns_param_table *t, const ns_view *v, int64_t shape[2])
{
    shape[0] = v->rows;
    shape[1] = t->params[v->param].cols;
}

/* Vocabulary rows may be padded in memory and not in the file. */
static int shape_fits(const ns_param_table *t, const ns_view *v, const ns_arc_tensor *f)
{
    ns_kind k = t->params[v->param].kind;
    int64_t want[2];
    view_shape(t, v, want);
    if (f->nd != v->nd || (v->nd == 2 && f->shape[1] != want[1])) return 0;
    return f->shape[0] == want[0] || ((k == NS_P_EMBED || k == NS_P_HEAD) && f->shape[0] == t->arch->vocab);
}

static ns_status match_views(ns_model_source *s, const char *dir, ns_error *err)
{
    const ns_param_table *t = s->t;
    char found[160], want_text[160];
    int missing = 0, first = -1;
    for (int v = 0; v < t->n_views; v++) {
        s->tensor[v] = ns_archive_find(&s->a, t->views[v].name);
        if (!s->tensor[v]) {
            missing++;
            if (first < 0) first = v;
        }
    }
    for (int v = 0; v < t->n_views; v++) {
        const ns_arc_tensor *f = s->tensor[v];
        int64_t want[2];
        view_shape(t, &t->views[v], want);
        const char *wt = shape_text(want, t->views[v].nd, want_text);
        NS_FAIL_IF(!f && v == first, NS_ERR_MISMATCH,
                   "%s: tensor \"%s\" is missing, expected shape %s (%d of %d tensors missing)", dir, t->views[v].name,
                   wt, missing, t->n_views);
        if (!f) continue;
        NS_FAIL_IF(!shape_fits(t, &t->views[v], f), NS_ERR_MISMATCH,
                   "%s: tensor \"%s\" has shape %s, expected %s by config.json", file_of(s, f), f->name,
                   shape_text(f->shape, f->nd, found), wt);
        NS_FAIL_IF(f->dt != NS_DTYPE_F32 && f->dt != NS_DTYPE_BF16 && f->dt != NS_DTYPE_F16 && f->dt != NS_DTYPE_F64,
                   NS_ERR_UNSUPPORTED, "%s: tensor \"%s\" has dtype %s, expected BF16, F16, F32 or F64", file_of(s, f),
                   f->name, ns_dtype_name(f->dt));
    }
    return NS_OK;
}

/* Old Llama exports store the rotary frequencies; they follow from the config and are not weights. */
static int is_derived(const char *name)
{
    const char *suffix = "rotary_emb.inv_freq";
    size_t n = strlen(name), k = strlen(suffix);
    return n >= k && strcmp(name + n - k, suffix) == 0;
}

static ns_status check_tied_head(ns_model_source *s, ns_arc_tensor *head, ns_error *err)
{
    ns_arc_tensor *e = s->tensor[0]; /* the embedding is the first view */
    char a[160], b[160];
    NS_FAIL_IF(head->nd != e->nd || head->n != e->n || head->shape[0] != e->shape[0], NS_ERR_MISMATCH,
               "%s: tensor \"%s\" has shape %s, expected %s: config.json ties it to the embedding", file_of(s, head),
               head->name, shape_text(head->shape, head->nd, a), shape_text(e->shape, e->nd, b));
    int64_t cols = e->nd == 2 ? e->shape[1] : 1;
    float *x = ns_arena_alloc(&s->a.arena, (size_t)cols * sizeof *x, err);
    float *y = ns_arena_alloc(&s->a.arena, (size_t)cols * sizeof *y, err);
    if (!x || !y) return NS_ERR_MEMORY;
    for (int64_t i = 0, r = 0; i < e->n; i += cols, r++) {
        NS_TRY(ns_archive_rows(head, -1, r, 1, x, err), "%s", "");
        NS_TRY(ns_archive_rows(e, -1, r, 1, y, err), "%s", "");
        for (int64_t k = 0; k < cols; k++) {
            NS_FAIL_IF(
                memcmp(&x[k], &y[k], sizeof x[k]) != 0, NS_ERR_MISMATCH,
                "%s: tensor \"%s\" differs from the embedding at element %lld (found %g, expected %g), but config.json "
                "says tie_word_embeddings: set it to false if the head is its own",
                file_of(s, head), head->name, (long long)(i + k), (double)x[k], (double)y[k]);
        }
    }
    return NS_OK;
}

static ns_status refuse_extra(ns_model_source *s, ns_error *err)
{
    char text[160];
    for (size_t i = 0; i < s->a.n; i++) {
        ns_arc_tensor *f = &s->a.t[i];
        if (is_derived(f->name) || ns_view_find(s->t, f->name) >= 0) continue;
        if (s->t->arch->tied && strcmp(f->name, "lm_head.weight") == 0) {
            NS_TRY(check_tied_head(s, f, err), "%s", "");
            continue;
        }
        NS_FAIL(NS_ERR_MISMATCH, "%s: tensor \"%s\" of shape %s has no place in the model that config.json describes",
                file_of(s, f), f->name, shape_text(f->shape, f->nd, text));
    }
    return NS_OK;
}

/* ---- formats ---- */
ns_format ns_model_format(const char *path)
{
    char p[4096];
    if (!ns_path_is_dir(path))
        return ns_gguf_find(p, path) ? NS_FORMAT_GGUF : ns_path_exists(path) ? NS_FORMAT_NEMO : NS_FORMAT_UNKNOWN;
    if (ns_path(p, sizeof p, NULL, "%s/rank0.safetensors", path) != NS_OK) return NS_FORMAT_UNKNOWN;
    if (ns_path_exists(p)) return NS_FORMAT_TRT;
    if (ns_path(p, sizeof p, NULL, "%s/config.json", path) != NS_OK) return NS_FORMAT_UNKNOWN;
    if (ns_path_exists(p)) return NS_FORMAT_HF;
    if (ns_path(p, sizeof p, NULL, "%s/model_config.yaml", path) != NS_OK) return NS_FORMAT_UNKNOWN;
    if (ns_path_exists(p)) return NS_FORMAT_NEMO;
    static const char *const weights[] = {".metadata", "metadata.json",
                                          "model_weights"}; /* without its configuration */
    for (size_t i = 0; i < sizeof weights / sizeof weights[0]; i++)
        if (ns_path(p, sizeof p, NULL, "%s/%s", path, weights[i]) == NS_OK && ns_path_exists(p)) return NS_FORMAT_NEMO;
    return ns_gguf_find(p, path) ? NS_FORMAT_GGUF : NS_FORMAT_UNKNOWN;
}

const char *ns_format_name(ns_format f)
{
    static const char *const names[] = {"hf", "nemo", "gguf", "trtllm", "unknown"};
    return names[f];
}

ns_status ns_model_arch(ns_arch *a, const char *path, ns_error *err)
{
    char p[4096];
    ns_tree *t = NULL;
    ns_gguf *g = NULL;
    ns_format f = ns_model_format(path);
    if (f == NS_FORMAT_GGUF) {
        NS_FAIL_IF(!ns_gguf_find(p, path), NS_ERR_INPUT, "%s: no GGUF file", path);
        NS_TRY(ns_gguf_open(&g, p, err), "read model");
        ns_status st = ns_gguf_arch(a, g, err);
        ns_gguf_close(&g);
        return st;
    }
    if (f == NS_FORMAT_TRT) return ns_trt_arch(a, path, err);
    if (f != NS_FORMAT_NEMO) {
        NS_TRY(ns_path(p, sizeof p, err, "%s/config.json", path), "%s", "");
        return ns_arch_read(a, p, err);
    }
    NS_TRY(ns_tree_open(&t, path, err), "read model");
    ns_status st = ns_nemo_arch(a, t, err);
    ns_tree_close(&t);
    return st;
}

/* A NeMo container of others has no tokenizer of the Hugging Face kind, only its name. "": none that is here. */
static ns_status named_tokenizer(char *out, size_t size, const char *path, ns_error *err)
{
    ns_tree *t = NULL;
    ns_status st = NS_OK;
    char type[512] = "", where[4096];
    const unsigned char *p = NULL;
    size_t n = 0;
    const char *dir = type;
    out[0] = 0;
    NS_CHECK(st, ns_tree_open(&t, path, err), "%s", "");
    const ns_tree_file *f = ns_tree_find(t, "model_config.yaml");
    if (!f) goto done;
    NS_CHECK(st, ns_tree_map(t, f, &p, &n, err), "%s", "");
    if (p) NS_CHECK(st, ns_nemo_tokenizer_type(type, (const char *)p, n, path, err), "%s", "");
    if (!type[0] || (!ns_path_is_dir(type) && !ns_hub_cached(where, type, NULL))) goto done;
    if (!ns_path_is_dir(type)) dir = where;
    NS_INFO("%s names the tokenizer %s: taken from %s", path, type, dir);
    NS_CHECK(st, ns_path(out, size, err, "%s", dir), "%s", "");
done:
    ns_tree_close(&t);
    return st;
}

ns_status ns_model_tokenizer_dir(char *out, size_t size, const char *path, ns_error *err)
{
    static const char *const files[] = {"tokenizer.json", "tokenizer.model", "tekken.json", "qwen.tiktoken",
                                        "vocab.json"};
    int inside = 0;
    ns_format f = ns_model_format(path);
    if (f == NS_FORMAT_GGUF) { /* beside the file */
        const char *slash = strrchr(path, '/');
        if (ns_path_is_dir(path)) return ns_path(out, size, err, "%s", path);
        return ns_path(out, size, err, "%.*s", slash > path ? (int)(slash - path) : 1, slash ? path : ".");
    }
    for (size_t i = 0; (f == NS_FORMAT_NEMO || f == NS_FORMAT_TRT) && i < sizeof files / sizeof files[0]; i++) {
        NS_TRY(ns_path(out, size, err, "%s/tokenizer/%s", path, files[i]), "%s", "");
        inside |= ns_path_exists(out);
    }
    int beside = 0;
    for (size_t i = 0; !inside && f == NS_FORMAT_NEMO && i < sizeof files / sizeof files[0]; i++) {
        NS_TRY(ns_path(out, size, err, "%s/%s", path, files[i]), "%s", "");
        beside |= ns_path_exists(out);
    }
    if (f == NS_FORMAT_NEMO && !inside && !beside) {
        NS_TRY(named_tokenizer(out, size, path, err), "%s", "");
        if (out[0]) return NS_OK;
    }
    return ns_path(out, size, err, inside ? "%s/tokenizer" : "%s", path);
}

static ns_status read_hf(ns_model_source *s, ns_error *err)
{
    NS_TRY(ns_st_open(&s->st, s->path, err), "read model");
    for (int i = 0; i < ns_st_count(s->st); i++) {
        const ns_st_tensor *f = ns_st_at(s->st, i);
        ns_arc_tensor *t;
        ns_box p = {.data = f->data, .file = f->file};
        NS_TRY(ns_archive_add(&s->a, &t, f->name, f->dt, f->shape, f->nd, err), "%s", "");
        memcpy(p.size, f->shape, sizeof p.size);
        ns_box_dense(&p, f->nd);
        NS_TRY(ns_arc_box_add(&s->a, t, &p, err), "%s", "");
    }
    return ns_archive_check(&s->a, err);
}

static ns_status read_nemo(ns_model_source *s, ns_error *err)
{
    NS_TRY(ns_tree_open(&s->tree, s->path, err), "read model");
    NS_TRY(ns_nemo_read(&s->native, &s->a, s->tree, s->t, err), "read model");
    if (s->native.n_zero_pieces)
        NS_WARN("%s: %lld zarr chunks are absent and read as zeros", s->path, (long long)s->native.n_zero_pieces);
    return NS_OK;
}

static ns_status read_gguf(ns_model_source *s, ns_error *err)
{
    char p[4096];
    NS_FAIL_IF(!ns_gguf_find(p, s->path), NS_ERR_INPUT, "%s: no GGUF file", s->path);
    NS_TRY(ns_gguf_open(&s->gguf, p, err), "read model");
    return ns_gguf_read(&s->a, s->gguf, s->t->arch, err);
}

static ns_status read_trt(ns_model_source *s, ns_error *err)
{
    return ns_trt_read(&s->trt, &s->a, s->path, s->t, err);
}

static ns_status read_any(ns_model_source *s, ns_error *err)
{
    switch (s->format) {
    case NS_FORMAT_NEMO: return read_nemo(s, err);
    case NS_FORMAT_GGUF: return read_gguf(s, err);
    case NS_FORMAT_TRT: return read_trt(s, err);
    default: return read_hf(s, err);
    }
}

ns_status ns_model_source_open(ns_model_source *s, const char *path, const ns_param_table *t, ns_error *err)
{
    ns_status st = NS_OK;
    memset(s, 0, sizeof *s);
    s->t = t;
    s->path = path;
    s->format = ns_model_format(path);
    ns_archive_init(&s->native, path);
    ns_archive_init(&s->a, path);
    NS_CHECK(st, ns_alloc((void **)&s->tensor, (size_t)t->n_views * sizeof *s->tensor, "model.views", err), "%s", path);
    NS_CHECK(st,
             ns_alloc((void **)&s->first_view, ((size_t)t->n_params + 1) * sizeof *s->first_view, "model.views", err),
             "%s", path);
    for (int v = t->n_views - 1; v >= 0; v--) s->first_view[t->views[v].param] = v;
    s->first_view[t->n_params] = t->n_views;
    NS_CHECK(st, read_any(s, err), "%s", "");
    NS_CHECK(st, match_views(s, path, err), "read model");
    NS_CHECK(st, refuse_extra(s, err), "read model");
done:
    if (st != NS_OK) ns_model_source_close(s);
    return st;
}

ns_status ns_model_source_rows_as(void *user, int v, int64_t row0, int64_t n, ns_dtype dt, void *data, ns_error *err)
{
    const ns_model_source *s = user;
    ns_arc_tensor *f = s->tensor[v];
    int64_t cols = s->t->params[s->t->views[v].param].cols, have = f->shape[0] > row0 ? f->shape[0] - row0 : 0;
    int64_t k = have < n ? have : n; /* rows of padding are in no file */
    size_t size = ns_dtype_size(dt);
    NS_TRY(ns_archive_rows_as(f, -1, row0, k, dt, data, err), "read %s", s->path);
    if (k < n) memset((char *)data + (size_t)(k * cols) * size, 0, (size_t)((n - k) * cols) * size);
    return NS_OK;
}

ns_status ns_model_source_rows(const ns_model_source *s, int v, int64_t row0, int64_t n, float *data, ns_error *err)
{
    return ns_model_source_rows_as((void *)(uintptr_t)s, v, row0, n, NS_DTYPE_F32, data, err);
}

ns_status ns_model_source_read(const ns_model_source *s, int i, float *data, ns_error *err)
{
    int64_t cols = s->t->params[i].cols;
    for (int v = s->first_view[i]; v < s->first_view[i + 1]; v++) {
        const ns_view *w = &s->t->views[v];
        NS_TRY(ns_model_source_rows(s, v, 0, w->rows, data + w->row0 * cols, err), "%s", "");
    }
    return NS_OK;
}

void ns_model_source_close(ns_model_source *s)
{
    ns_archive_free(&s->a);
    ns_archive_free(&s->native);
    ns_tree_close(&s->tree);
    ns_st_close(&s->st);
    ns_gguf_close(&s->gguf);
    ns_trt_close(&s->trt);
    ns_free(s->tensor);
    ns_free(s->first_view);
    memset(s, 0, sizeof *s);
}
