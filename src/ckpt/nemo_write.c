/* Views -> NeMo tensors: the inverse of the map in nemo.c. The rows of a view go where its tensor has them (qkv: a group's query
 * heads, its key head, its value head). torch_dist: one .distcp of torch files, cut at 1 GiB, laid out before the first row comes,
 * and `.metadata`; zarr: one chunk file a layer (two for fc1, as Megatron's). */
#include "ckpt/nemo_write.h"

#include <pthread.h>
#include <stdio.h>
#include <string.h>

#include "arch/arch_nemo.h"
#include "base/file.h"
#include "base/scatter.h"
#include "ckpt/model_io.h"
#include "ckpt/nemo.h"
#include "ckpt/path.h"
#include "ckpt/torch_write.h"

static const int64_t PART = (int64_t)1 << 30; /* bytes of a torch_dist part at most */

typedef struct part { /* of a tensor: a torch file in the .distcp, or a zarr chunk */
    int64_t off[3], size[3];
    int64_t at, head, bytes, length; /* torch_dist: where it begins, bytes before its data, of its data, of all */
    ns_scatter *chunk;               /* zarr: its file while rows are missing, and how many bytes */
    int64_t left;
} part;

typedef struct tensor {
    char name[128];
    ns_kind kind;
    int stacked, nd; /* nd without the layer axis */
    int64_t rows, cols;
    int64_t step; /* rows of a part */
    part *parts;  /* layer by layer */
    size_t n_parts;
} tensor;

typedef struct writer {
    ns_sink s;
    ns_nemo_args a;
    ns_arena arena;
    int is_zarr;
    const char *dir; /* model_weights */
    tensor t[NS_P_KIND_COUNT];
    int n;
    int8_t by_kind[NS_P_KIND_COUNT];
    ns_scatter *f;         /* torch_dist */
    pthread_mutex_t mutex; /* zarr: chunks */
} writer;

static void list_tensors(writer *w)
{
    const ns_param_table *p = w->s.t;
    for (int k = 0; k < NS_P_KIND_COUNT; k++) {
        int layered = k != NS_P_EMBED && k != NS_P_FINAL_NORM && k != NS_P_HEAD;
        int i = ns_param_find(p, (ns_kind)k, layered ? 0 : -1);
        if (i < 0) continue;
        w->by_kind[k] = (int8_t)w->n;
        tensor *t = &w->t[w->n++];
        t->kind = (ns_kind)k;
        t->stacked = layered;
        t->rows = p->params[i].rows;
        t->cols = p->params[i].cols;
        t->nd = 2;
        for (int v = 0; v < p->n_views; v++)
            if (p->views[v].param == i) t->nd = p->views[v].nd;
        snprintf(t->name, sizeof t->name, "model.%s%s", layered ? "decoder.layers." : "", ns_nemo_name((ns_kind)k));
    }
}

static int axes(const writer *w, const tensor *t, int64_t shape[3])
{
    int k = 0;
    if (t->stacked) shape[k++] = w->s.t->arch->L;
    shape[k++] = t->rows;
    if (t->nd == 2) shape[k++] = t->cols;
    return k;
}

/* Rows of a part: what fits 1 GiB (heads interleave: q, k and v of a layer are one part), or zarr's chunk. */
static ns_status cut_tensor(writer *w, tensor *t, ns_error *err)
{
    int64_t shape[3], L = t->stacked ? w->s.t->arch->L : 1, row = t->cols * (int64_t)ns_dtype_size(w->s.dt);
    int whole = t->kind == NS_P_QKV || t->kind == NS_P_QKV_BIAS;
    int k = t->stacked;
    axes(w, t, shape);
    t->step = w->is_zarr ? t->rows / (t->kind == NS_P_GATE_UP ? 2 : 1) : whole || PART / row < 1 ? t->rows : PART / row;
    NS_FAIL_IF(!w->is_zarr && t->rows * row >= (int64_t)1 << 32 && t->step == t->rows, NS_ERR_UNSUPPORTED,
               "torch_dist: %s of a layer has %lld bytes, more than 4 GiB in one part", t->name,
               (long long)(t->rows * row));
    size_t each = (size_t)((t->rows + t->step - 1) / t->step);
    t->n_parts = each * (size_t)L;
    t->parts = ns_arena_alloc(&w->arena, t->n_parts * sizeof *t->parts, err);
    if (!t->parts) return NS_ERR_MEMORY;
    for (size_t i = 0; i < t->n_parts; i++) {
        part *p = &t->parts[i];
        int64_t row0 = (int64_t)(i % each) * t->step;
        memcpy(p->size, shape, sizeof p->size);
        if (k) {
            p->off[0] = (int64_t)(i / each);
            p->size[0] = 1;
        }
        p->off[k] = row0;
        p->size[k] = t->rows - row0 < t->step ? t->rows - row0 : t->step;
        p->bytes = p->left = p->size[k] * row;
    }
    return NS_OK;
}

/* ---- rows ---- */
/* The chunk file, made when its first row comes. */
static ns_status open_chunk(writer *w, const tensor *t, part *p, ns_error *err)
{
    char path[4200], lead[24] = "";
    if (p->chunk) return NS_OK;
    if (t->stacked) snprintf(lead, sizeof lead, "%lld.", (long long)p->off[0]);
    NS_TRY(ns_path(path, sizeof path, err, "%s/%s/%s%lld%s", w->dir, t->name, lead,
                   (long long)(p->off[t->stacked] / t->step), t->nd == 2 ? ".0" : ""),
           "%s", "");
    return ns_scatter_create(&p->chunk, path, (uint64_t)p->bytes, err);
}

static ns_status put_part(writer *w, const tensor *t, part *p, int64_t at, const void *rows, int64_t n, ns_error *err)
{
    if (!w->is_zarr) return ns_scatter_put(w->f, (uint64_t)(p->at + p->head + at), rows, (size_t)n, err);
    pthread_mutex_lock(&w->mutex);
    ns_status st = open_chunk(w, t, p, err);
    pthread_mutex_unlock(&w->mutex);
    if (st != NS_OK) return st;
    NS_TRY(ns_scatter_put(p->chunk, (uint64_t)at, rows, (size_t)n, err), "%s", t->name);
    pthread_mutex_lock(&w->mutex);
    p->left -= n;
    int last = p->left == 0;
    pthread_mutex_unlock(&w->mutex);
    return last ? ns_scatter_close(&p->chunk, err) : NS_OK;
}

/* Rows [row0, row0+n) of a layer's part of the tensor. */
static ns_status put_rows(writer *w, tensor *t, int layer, int64_t row0, int64_t n, const unsigned char *p,
                          ns_error *err)
{
    int64_t row = t->cols * (int64_t)ns_dtype_size(w->s.dt), each = (t->rows + t->step - 1) / t->step;
    while (n > 0) {
        int64_t i = row0 / t->step, at = row0 % t->step, k = t->step - at < n ? t->step - at : n;
        part *q = &t->parts[(t->stacked ? layer : 0) * each + i];
        NS_TRY(put_part(w, t, q, at * row, p, k * row, err), "%s", t->name);
        row0 += k;
        n -= k;
        if (p) p += k * row;
    }
    return NS_OK;
}

static ns_status put(ns_sink *s, int view, int64_t row0, int64_t n, const void *rows, void *scratch, float *back,
                     ns_error *err)
{
    writer *w = (writer *)s;
    const ns_arch *a = s->t->arch;
    const ns_view *v = &s->t->views[view];
    const ns_param *q = &s->t->params[v->param];
    tensor *t = &w->t[w->by_kind[q->kind]];
    const unsigned char *p = rows;
    (void)scratch;
    (void)back;
    if (q->kind != NS_P_QKV && q->kind != NS_P_QKV_BIAS) return put_rows(w, t, q->layer, v->row0 + row0, n, p, err);
    int64_t hd = a->head_dim, hpg = a->n_heads / a->n_kv, row = t->cols * (int64_t)ns_dtype_size(s->dt);
    int which = v->row0 == 0 ? 0 : v->row0 == a->n_heads * hd ? 1 : 2;
    for (int64_t r = row0; r < row0 + n;) { /* the heads of a group that lie in this block */
        int64_t h = r / hd, in_group = which ? 0 : h % hpg, group = which ? h : h / hpg;
        int64_t slot = group * (hpg + 2) + (which ? hpg + which - 1 : in_group);
        int64_t k = (which ? 1 : hpg - in_group) * hd, left = row0 + n - r;
        if (k > left) k = left;
        NS_TRY(put_rows(w, t, q->layer, slot * hd, k, p, err), "%s", "");
        r += k;
        if (p) p += k * row;
    }
    return NS_OK;
}

/* ---- torch_dist ---- */
/* What stands before (crc NULL) or behind the data of a part. */
static ns_status dist_frame(const writer *w, const tensor *t, const part *p, const uint32_t *crc, ns_buf *b,
                            ns_error *err)
{
    ns_torch_out o = {.b = b};
    ns_buf_clear(b);
    NS_TRY(ns_torch_begin(&o, w->s.dt, p->size, t->stacked + t->nd, err), "%s", t->name);
    if (!crc) return NS_OK;
    ns_buf_clear(b);
    return ns_torch_end(&o, *crc, err);
}

static ns_status begin_dist(writer *w, ns_error *err)
{
    char path[4096];
    ns_buf b = {0};
    ns_status st = NS_OK;
    int64_t at = 0;
    uint32_t zero = 0;
    for (int i = 0; i < w->n; i++) {
        for (size_t k = 0; k < w->t[i].n_parts; k++) {
            part *p = &w->t[i].parts[k];
            p->at = at;
            NS_CHECK(st, dist_frame(w, &w->t[i], p, NULL, &b, err), "%s", "");
            p->head = (int64_t)b.len;
            NS_CHECK(st, dist_frame(w, &w->t[i], p, &zero, &b, err), "%s", "");
            p->length = p->head + p->bytes + (int64_t)b.len;
            at += p->length;
        }
    }
    NS_CHECK(st, ns_path(path, sizeof path, err, "%s/__0_0.distcp", w->dir), "%s", "");
    NS_CHECK(st, ns_scatter_create(&w->f, path, (uint64_t)at, err), "%s", "");
    for (int i = 0; i < w->n; i++) {
        for (size_t k = 0; k < w->t[i].n_parts; k++) {
            part *p = &w->t[i].parts[k];
            NS_CHECK(st, dist_frame(w, &w->t[i], p, NULL, &b, err), "%s", "");
            NS_CHECK(st, ns_scatter_put(w->f, (uint64_t)p->at, b.data, b.len, err), "%s", "");
        }
    }
done:
    ns_buf_free(&b);
    return st;
}

/* Pickle of `module.name` by STACK_GLOBAL. */
static ns_status global(ns_buf *b, const char *module, const char *name, ns_error *err)
{
    NS_TRY(ns_pkw_str(b, module, err), "%s", "");
    NS_TRY(ns_pkw_str(b, name, err), "%s", "");
    return ns_buf_addc(b, (char)0x93, err);
}

#define META "torch.distributed.checkpoint.metadata"

/* An object of a class, before its state. */
static ns_status object(ns_buf *b, const char *module, const char *name, ns_error *err)
{
    NS_TRY(global(b, module, name, err), "%s", "");
    return ns_buf_adds(b, ")\x81", err);
}

static ns_status size_of(ns_buf *b, const char *key, const int64_t *v, int n, ns_error *err)
{
    NS_TRY(ns_pkw_str(b, key, err), "%s", "");
    NS_TRY(global(b, "torch", "Size", err), "%s", "");
    NS_TRY(ns_pkw_ints(b, v, n, err), "%s", "");
    return ns_buf_adds(b, "\x85R", err);
}

static ns_status properties(ns_buf *b, ns_dtype dt, ns_error *err)
{
    NS_TRY(ns_pkw_str(b, "properties", err), "%s", "");
    NS_TRY(object(b, META, "TensorProperties", err), "%s", "");
    NS_TRY(ns_buf_addc(b, '(', err), "%s", "");
    NS_TRY(global(b, "torch",
                  dt == NS_DTYPE_BF16  ? "bfloat16"
                  : dt == NS_DTYPE_F16 ? "float16"
                                       : "float32",
                  err),
           "%s", "");
    NS_TRY(global(b, "torch.serialization", "_get_layout", err), "%s", "");
    NS_TRY(ns_pkw_str(b, "torch.strided", err), "%s", "");
    NS_TRY(ns_buf_adds(b, "\x85R\x89", err), "%s", "");
    NS_TRY(global(b, META, "_MEM_FORMAT_ENCODING", err), "%s", "");
    NS_TRY(ns_pkw_int(b, 0, err), "%s", "");
    return ns_buf_adds(b, "\x85R\x89tb", err); /* requires_grad False above, pin_memory False here */
}

static ns_status tensor_entry(ns_buf *b, const writer *w, const tensor *t, ns_error *err)
{
    int64_t shape[3];
    int nd = axes(w, t, shape);
    NS_TRY(ns_pkw_str(b, t->name, err), "%s", "");
    NS_TRY(object(b, META, "TensorStorageMetadata", err), "%s", "");
    NS_TRY(ns_buf_adds(b, "}(", err), "%s", "");
    NS_TRY(properties(b, w->s.dt, err), "%s", "");
    NS_TRY(size_of(b, "size", shape, nd, err), "%s", "");
    NS_TRY(ns_pkw_str(b, "chunks", err), "%s", "");
    NS_TRY(ns_buf_adds(b, "](", err), "%s", "");
    for (size_t i = 0; i < t->n_parts; i++) {
        NS_TRY(object(b, META, "ChunkStorageMetadata", err), "%s", "");
        NS_TRY(ns_buf_adds(b, "}(", err), "%s", "");
        NS_TRY(size_of(b, "offsets", t->parts[i].off, nd, err), "%s", "");
        NS_TRY(size_of(b, "sizes", t->parts[i].size, nd, err), "%s", "");
        NS_TRY(ns_buf_adds(b, "ub", err), "%s", "");
    }
    return ns_buf_adds(b, "eub", err);
}

static ns_status storage_entry(ns_buf *b, const writer *w, const tensor *t, const part *p, ns_error *err)
{
    int64_t shape[3];
    int nd = axes(w, t, shape);
    NS_TRY(object(b, META, "MetadataIndex", err), "%s", "");
    NS_TRY(ns_buf_adds(b, "}(", err), "%s", "");
    NS_TRY(ns_pkw_str(b, "fqn", err), "%s", "");
    NS_TRY(ns_pkw_str(b, t->name, err), "%s", "");
    NS_TRY(size_of(b, "offset", p->off, nd, err), "%s", "");
    NS_TRY(ns_pkw_str(b, "index", err), "%s", "");
    NS_TRY(ns_buf_adds(b, "Nub", err), "%s", "");
    NS_TRY(object(b, "torch.distributed.checkpoint.filesystem", "_StorageInfo", err), "%s", "");
    NS_TRY(ns_buf_adds(b, "}(", err), "%s", "");
    NS_TRY(ns_pkw_str(b, "relative_path", err), "%s", "");
    NS_TRY(ns_pkw_str(b, "__0_0.distcp", err), "%s", "");
    NS_TRY(ns_pkw_str(b, "offset", err), "%s", "");
    NS_TRY(ns_pkw_int(b, p->at, err), "%s", "");
    NS_TRY(ns_pkw_str(b, "length", err), "%s", "");
    NS_TRY(ns_pkw_int(b, p->length, err), "%s", "");
    return ns_buf_adds(b, "ub", err);
}

static ns_status metadata(ns_buf *b, const writer *w, ns_error *err)
{
    NS_TRY(ns_buf_adds(b, "\x80\x04", err), "%s", "");
    NS_TRY(object(b, META, "Metadata", err), "%s", "");
    NS_TRY(ns_buf_adds(b, "}(", err), "%s", "");
    NS_TRY(ns_pkw_str(b, "state_dict_metadata", err), "%s", "");
    NS_TRY(ns_buf_adds(b, "}(", err), "%s", "");
    for (int i = 0; i < w->n; i++) NS_TRY(tensor_entry(b, w, &w->t[i], err), "%s", "");
    NS_TRY(ns_buf_addc(b, 'u', err), "%s", "");
    NS_TRY(ns_pkw_str(b, "planner_data", err), "%s", "");
    NS_TRY(ns_buf_adds(b, "}(", err), "%s", "");
    for (int i = 0; i < w->n; i++) {
        NS_TRY(ns_pkw_str(b, w->t[i].name, err), "%s", "");
        NS_TRY(ns_pkw_str(b, w->t[i].name, err), "%s", "");
        NS_TRY(ns_buf_addc(b, (char)0x85, err), "%s", "");
    }
    NS_TRY(ns_buf_addc(b, 'u', err), "%s", "");
    NS_TRY(ns_pkw_str(b, "storage_data", err), "%s", "");
    NS_TRY(ns_buf_adds(b, "}(", err), "%s", "");
    for (int i = 0; i < w->n; i++)
        for (size_t k = 0; k < w->t[i].n_parts; k++)
            NS_TRY(storage_entry(b, w, &w->t[i], &w->t[i].parts[k], err), "%s", "");
    return ns_buf_adds(b, "uub.", err);
}

static ns_status text_file(const char *dir, const char *name, const char *p, size_t n, ns_error *err)
{
    char path[4096];
    ns_file *f = NULL;
    ns_status st = NS_OK;
    NS_CHECK(st, ns_path(path, sizeof path, err, "%s/%s", dir, name), "%s", "");
    NS_CHECK(st, ns_file_create(&f, path, err), "%s", "");
    NS_CHECK(st, ns_file_write(f, p, n, err), "%s", "");
    NS_CHECK(st, ns_file_close(&f, err), "%s", "");
done:
    ns_file_abort(&f);
    return st;
}

static ns_status finish_dist(writer *w, ns_error *err)
{
    ns_buf b = {0};
    ns_status st = NS_OK;
    for (int i = 0; i < w->n; i++) {
        for (size_t k = 0; k < w->t[i].n_parts; k++) {
            part *p = &w->t[i].parts[k];
            uint64_t from = (uint64_t)(p->at + p->head), to = from + (uint64_t)p->bytes;
            uint32_t crc;
            NS_CHECK(st, ns_scatter_crc32(w->f, from, to, &crc, err), "%s", w->t[i].name);
            NS_CHECK(st, dist_frame(w, &w->t[i], p, &crc, &b, err), "%s", "");
            NS_CHECK(st, ns_scatter_put(w->f, to, b.data, b.len, err), "%s", "");
        }
    }
    NS_CHECK(st, ns_scatter_close(&w->f, err), "%s", "");
    ns_buf_clear(&b);
    NS_CHECK(st, metadata(&b, w, err), "%s", "");
    NS_CHECK(st, text_file(w->dir, ".metadata", b.data, b.len, err), "%s", "");
done:
    ns_buf_free(&b);
    return st;
}

/* ---- zarr ---- */
static ns_status begin_zarr(writer *w, const tensor *t, ns_error *err)
{
    char dir[4096];
    int64_t shape[3], chunk[3];
    int n = axes(w, t, shape), k = t->stacked;
    const char *dt = w->s.dt == NS_DTYPE_BF16 ? "bfloat16" : w->s.dt == NS_DTYPE_F16 ? "<f2" : "<f4";
    ns_buf b = {0};
    ns_status st = NS_OK;
    memcpy(chunk, shape, sizeof chunk);
    if (k) chunk[0] = 1;
    chunk[k] = t->step;
    NS_CHECK(st, ns_path(dir, sizeof dir, err, "%s/%s", w->dir, t->name), "%s", "");
    NS_CHECK(st, ns_mkdirs(dir, err), "%s", "");
    NS_CHECK(st, ns_buf_adds(&b, "{\n    \"chunks\": [", err), "%s", "");
    for (int i = 0; i < n; i++)
        NS_CHECK(st, ns_buf_printf(&b, err, "%s\n        %lld", i ? "," : "", (long long)chunk[i]), "%s", "");
    NS_CHECK(st,
             ns_buf_printf(&b, err,
                           "\n    ],\n    \"compressor\": null,\n    \"dtype\": \"%s\",\n    \"fill_value\": null,\n"
                           "    \"filters\": null,\n    \"order\": \"C\",\n    \"shape\": [",
                           dt),
             "%s", "");
    for (int i = 0; i < n; i++)
        NS_CHECK(st, ns_buf_printf(&b, err, "%s\n        %lld", i ? "," : "", (long long)shape[i]), "%s", "");
    NS_CHECK(st, ns_buf_adds(&b, "\n    ],\n    \"zarr_format\": 2\n}", err), "%s", "");
    NS_CHECK(st, text_file(dir, ".zarray", b.data, b.len, err), "%s", "");
done:
    ns_buf_free(&b);
    return st;
}

/* ---- folder ---- */
static ns_status finish(ns_sink *s, ns_error *err)
{
    writer *w = (writer *)s;
    char text[256], common[4200];
    if (!w->is_zarr) NS_TRY(finish_dist(w, err), "%s", "");
    for (int i = 0; w->is_zarr && i < w->n; i++)
        for (size_t k = 0; k < w->t[i].n_parts; k++)
            NS_FAIL_IF(w->t[i].parts[k].left, NS_ERR_INTERNAL, "%s: %lld bytes of part %zu were not written",
                       w->t[i].name, (long long)w->t[i].parts[k].left, k);
    snprintf(common, sizeof common, "%s/common.pt", w->dir);
    NS_TRY(ns_torch_write_empty(common, err), "%s", "");
    int n = snprintf(text, sizeof text,
                     "{\"sharded_backend\": \"%s\", \"sharded_backend_version\": 1, \"common_backend\": \"torch\", "
                     "\"common_backend_version\": 1}",
                     w->is_zarr ? "zarr" : "torch_dist");
    return text_file(w->dir, "metadata.json", text, (size_t)n, err);
}

static ns_status write_config(const char *dir, const ns_nemo_args *a, ns_error *err)
{
    char path[4096];
    ns_buf b = {0};
    ns_arch arch = *a->table->arch;
    ns_nemo_config c = {.dist_format = a->dist_format, .tokenizer = a->tokenizer_name, .dt = a->dt};
    ns_status st = NS_OK;
    arch.dt = a->dt;
    NS_CHECK(st, ns_arch_write_nemo(&b, &arch, &c, err), "%s", "");
    NS_CHECK(st, text_file(dir, "model_config.yaml", b.data, b.len, err), "%s", "");
    NS_CHECK(st, ns_path(path, sizeof path, err, "%s/tokenizer", dir), "%s", "");
    NS_CHECK(st, ns_mkdirs(path, err), "%s", "");
    NS_CHECK(st, ns_model_write_side_files(path, &arch, a->tokenizer_dir, err), "%s", "");
done:
    ns_buf_free(&b);
    return st;
}

static void nemo_free(ns_sink *s)
{
    writer *w = (writer *)s;
    ns_scatter_abort(&w->f);
    for (int i = 0; i < w->n; i++)
        for (size_t k = 0; w->t[i].parts && k < w->t[i].n_parts; k++) ns_scatter_abort(&w->t[i].parts[k].chunk);
    pthread_mutex_destroy(&w->mutex);
    ns_arena_free(&w->arena);
    ns_free(w);
}

ns_status ns_nemo_sink(ns_sink **out, const char *dir, const ns_nemo_args *a, ns_error *err)
{
    writer *w = NULL;
    ns_status st = NS_OK;
    *out = NULL;
    NS_FAIL_IF(a->dt != NS_DTYPE_F32 && a->dt != NS_DTYPE_BF16 && a->dt != NS_DTYPE_F16, NS_ERR_UNSUPPORTED,
               "%s: cannot write model weights as %s (use F32, BF16 or F16)", dir, ns_dtype_name(a->dt));
    NS_TRY(ns_alloc((void **)&w, sizeof *w, "nemo.writer", err), "%s", dir);
    w->s = (ns_sink){.t = a->table, .dt = a->dt, .put = put, .finish = finish, .free = nemo_free};
    w->a = *a;
    w->arena.label = "nemo.writer";
    w->is_zarr = !strcmp(a->dist_format, "zarr");
    pthread_mutex_init(&w->mutex, NULL);
    w->dir = ns_arena_printf(&w->arena, err, "%s/model_weights", dir);
    if (!w->dir) st = NS_ERR_MEMORY;
    if (st != NS_OK) goto done;
    NS_CHECK(st, write_config(dir, a, err), "write model_config.yaml");
    NS_CHECK(st, ns_mkdirs(w->dir, err), "write weights");
    list_tensors(w);
    for (int i = 0; i < w->n; i++) {
        NS_CHECK(st, cut_tensor(w, &w->t[i], err), "write weights");
        if (w->is_zarr) NS_CHECK(st, begin_zarr(w, &w->t[i], err), "write weights");
    }
    if (!w->is_zarr) NS_CHECK(st, begin_dist(w, err), "write weights");
    *out = &w->s;
    return NS_OK;
done:
    nemo_free(&w->s);
    return st;
}
