/* Views -> NeMo tensors: the inverse of the map in nemo.c. A tensor is written layer by layer; each layer's part is a list of row
 * runs of views (qkv: a group's query heads, its key head, its value head). torch_dist: one .distcp of torch files, cut at 1 GiB,
 * and `.metadata`; zarr: one chunk file a layer (two for fc1, as Megatron's). */
#include "ckpt/nemo_write.h"

#include <stdio.h>
#include <string.h>

#include "arch/arch_nemo.h"
#include "base/file.h"
#include "ckpt/nemo.h"
#include "ckpt/path.h"
#include "ckpt/torch_write.h"

enum { BLOCK = 1 << 22 };                     /* elements in memory */
static const int64_t PART = (int64_t)1 << 30; /* bytes of a torch_dist part at most */

typedef struct part { /* of a torch_dist tensor, for .metadata */
    int64_t off[3], size[3], at, length;
} part;

typedef struct tensor {
    char name[128];
    ns_kind kind;
    int stacked, nd; /* nd without the layer axis */
    int64_t rows, cols;
    part *parts;
    size_t n_parts, cap;
} tensor;

typedef struct writer {
    const ns_nemo_args *a;
    const char *dir;
    float *block;
    void *bytes;
    tensor t[NS_P_KIND_COUNT];
    int n;
    ns_torch_out out;
    ns_file *chunk; /* zarr */
} writer;

static void list_tensors(writer *w)
{
    const ns_param_table *p = w->a->table;
    for (int k = 0; k < NS_P_KIND_COUNT; k++) {
        int layered = k != NS_P_EMBED && k != NS_P_FINAL_NORM && k != NS_P_HEAD;
        int i = ns_param_find(p, (ns_kind)k, layered ? 0 : -1);
        if (i < 0) continue;
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

static ns_status put(writer *w, const float *p, int64_t n, ns_error *err)
{
    size_t size = ns_dtype_size(w->a->dt);
    const void *bytes = p;
    if (w->a->dt != NS_DTYPE_F32) {
        ns_from_f32(w->bytes, w->a->dt, p, (size_t)n);
        bytes = w->bytes;
    }
    return w->chunk ? ns_file_write(w->chunk, bytes, (size_t)n * size, err)
                    : ns_torch_data(&w->out, bytes, (size_t)n * size, err);
}

/* n rows of a view, block by block. */
static ns_status put_view(writer *w, int view, int64_t row0, int64_t n, int64_t cols, ns_error *err)
{
    int64_t step = BLOCK / cols > 0 ? BLOCK / cols : 1;
    for (int64_t r = 0; r < n; r += step) {
        int64_t k = n - r < step ? n - r : step;
        NS_TRY(w->a->rows(w->a->user, view, row0 + r, k, w->block, err), "%s", "");
        NS_TRY(put(w, w->block, k * cols, err), "%s", "");
    }
    return NS_OK;
}

/* Rows [row0, row0+n) of the NeMo tensor of storage parameter i. */
static ns_status put_rows(writer *w, int i, int64_t row0, int64_t n, ns_error *err)
{
    const ns_param_table *p = w->a->table;
    const ns_arch *a = p->arch;
    const ns_param *q = &p->params[i];
    int v = 0;
    while (p->views[v].param != i) v++;
    if (q->kind != NS_P_QKV && q->kind != NS_P_QKV_BIAS) { /* views follow each other as the rows do */
        for (; v < p->n_views && p->views[v].param == i; v++) {
            int64_t b = p->views[v].row0, r0 = row0 > b ? row0 : b, r1 = b + p->views[v].rows;
            if (r1 > row0 + n) r1 = row0 + n;
            if (r0 < r1) NS_TRY(put_view(w, v, r0 - b, r1 - r0, q->cols, err), "%s", "");
        }
        return NS_OK;
    }
    NS_ASSERT(row0 == 0 && n == q->rows);
    int64_t hd = a->head_dim, hpg = a->n_heads / a->n_kv;
    for (int64_t g = 0; g < a->n_kv; g++) {
        NS_TRY(put_view(w, v, g * hpg * hd, hpg * hd, q->cols, err), "%s", "");
        NS_TRY(put_view(w, v + 1, g * hd, hd, q->cols, err), "%s", "");
        NS_TRY(put_view(w, v + 2, g * hd, hd, q->cols, err), "%s", "");
    }
    return NS_OK;
}

static int64_t axes(const writer *w, const tensor *t, int64_t shape[3])
{
    int k = 0;
    if (t->stacked) shape[k++] = w->a->table->arch->L;
    shape[k++] = t->rows;
    if (t->nd == 2) shape[k++] = t->cols;
    return k;
}

/* ---- torch_dist ---- */
static ns_status dist_part(writer *w, tensor *t, int layer, int64_t row0, int64_t n, ns_error *err)
{
    int64_t shape[3];
    int nd = (int)axes(w, t, shape), k = t->stacked;
    NS_TRY(ns_grow((void **)&t->parts, &t->cap, t->n_parts + 1, sizeof *t->parts, "nemo.parts", err), "%s", t->name);
    part *p = &t->parts[t->n_parts++];
    memset(p, 0, sizeof *p);
    memcpy(p->size, shape, sizeof p->size);
    if (k) {
        p->off[0] = layer;
        p->size[0] = 1;
    }
    p->off[k] = row0;
    p->size[k] = n;
    p->at = w->out.at;
    NS_TRY(ns_torch_begin(&w->out, w->a->dt, p->size, nd, err), "%s", t->name);
    NS_TRY(put_rows(w, ns_param_find(w->a->table, t->kind, k ? layer : -1), row0, n, err), "%s", t->name);
    NS_TRY(ns_torch_end(&w->out, err), "%s", t->name);
    p->length = w->out.at - p->at;
    return NS_OK;
}

static ns_status dist_tensor(writer *w, tensor *t, ns_error *err)
{
    int64_t L = t->stacked ? w->a->table->arch->L : 1, bytes = t->cols * (int64_t)ns_dtype_size(w->a->dt);
    int whole = t->kind == NS_P_QKV || t->kind == NS_P_QKV_BIAS; /* rows are interleaved */
    int64_t step = whole || PART / bytes < 1 ? t->rows : PART / bytes;
    NS_FAIL_IF(t->rows * bytes >= (int64_t)1 << 32 && step == t->rows, NS_ERR_UNSUPPORTED,
               "torch_dist: %s of a layer has %lld bytes, more than 4 GiB in one part", t->name,
               (long long)(t->rows * bytes));
    for (int l = 0; l < L; l++)
        for (int64_t r = 0; r < t->rows; r += step)
            NS_TRY(dist_part(w, t, l, r, t->rows - r < step ? t->rows - r : step, err), "%s", "");
    return NS_OK;
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
    int nd = (int)axes(w, t, shape);
    NS_TRY(ns_pkw_str(b, t->name, err), "%s", "");
    NS_TRY(object(b, META, "TensorStorageMetadata", err), "%s", "");
    NS_TRY(ns_buf_adds(b, "}(", err), "%s", "");
    NS_TRY(properties(b, w->a->dt, err), "%s", "");
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
    int nd = (int)axes(w, t, shape);
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

static ns_status write_torch_dist(writer *w, ns_error *err)
{
    char path[4096];
    ns_buf b = {0};
    ns_status st = NS_OK;
    NS_CHECK(st, ns_path(path, sizeof path, err, "%s/__0_0.distcp", w->dir), "%s", "");
    NS_CHECK(st, ns_file_create(&w->out.f, path, err), "%s", "");
    for (int i = 0; i < w->n; i++) NS_CHECK(st, dist_tensor(w, &w->t[i], err), "%s", "");
    NS_CHECK(st, ns_file_close(&w->out.f, err), "%s", "");
    NS_CHECK(st, metadata(&b, w, err), "%s", "");
    NS_CHECK(st, text_file(w->dir, ".metadata", b.data, b.len, err), "%s", "");
done:
    ns_file_abort(&w->out.f);
    ns_buf_free(&b);
    return st;
}

/* ---- zarr ---- */
static ns_status zarr_tensor(writer *w, tensor *t, ns_error *err)
{
    char dir[4096], name[64];
    int64_t shape[3], chunk[3], n = axes(w, t, shape), halves = t->kind == NS_P_GATE_UP ? 2 : 1;
    int k = t->stacked;
    ns_buf b = {0};
    ns_status st = NS_OK;
    memcpy(chunk, shape, sizeof chunk);
    if (k) chunk[0] = 1;
    chunk[k] /= halves;
    NS_CHECK(st, ns_path(dir, sizeof dir, err, "%s/%s", w->dir, t->name), "%s", "");
    NS_CHECK(st, ns_mkdirs(dir, err), "%s", "");
    for (int which = 0; which < 2; which++) {
        NS_CHECK(st, ns_buf_adds(&b, which ? "    \"shape\": [" : "{\n    \"chunks\": [", err), "%s", "");
        for (int i = 0; i < n; i++)
            NS_CHECK(st,
                     ns_buf_printf(&b, err, "%s\n        %lld", i ? "," : "", (long long)(which ? shape : chunk)[i]),
                     "%s", "");
        NS_CHECK(st, ns_buf_adds(&b, "\n    ],\n", err), "%s", "");
        const char *dt = w->a->dt == NS_DTYPE_BF16 ? "bfloat16" : w->a->dt == NS_DTYPE_F16 ? "<f2" : "<f4";
        if (!which)
            NS_CHECK(st,
                     ns_buf_printf(&b, err,
                                   "    \"compressor\": null,\n    \"dtype\": \"%s\",\n    \"fill_value\": null,\n"
                                   "    \"filters\": null,\n    \"order\": \"C\",\n",
                                   dt),
                     "%s", "");
    }
    NS_CHECK(st, ns_buf_adds(&b, "    \"zarr_format\": 2\n}", err), "%s", "");
    NS_CHECK(st, text_file(dir, ".zarray", b.data, b.len, err), "%s", "");
    for (int l = 0; l < (k ? shape[0] : 1); l++) {
        for (int64_t h = 0; h < halves; h++) {
            char path[4200];
            char lead[16] = "";
            if (k) snprintf(lead, sizeof lead, "%d.", l);
            snprintf(name, sizeof name, "%s%lld%s", lead, (long long)h, t->nd == 2 ? ".0" : "");
            snprintf(path, sizeof path, "%s/%s", dir, name);
            NS_CHECK(st, ns_file_create(&w->chunk, path, err), "%s", "");
            NS_CHECK(st, put_rows(w, ns_param_find(w->a->table, t->kind, k ? l : -1), h * chunk[k], chunk[k], err),
                     "%s", t->name);
            NS_CHECK(st, ns_file_close(&w->chunk, err), "%s", "");
        }
    }
done:
    ns_file_abort(&w->chunk);
    ns_buf_free(&b);
    return st;
}

/* ---- folder ---- */
static ns_status write_weights(writer *w, const char *dir, ns_error *err)
{
    char path[4096], text[256];
    int zarr = !strcmp(w->a->dist_format, "zarr");
    NS_TRY(ns_path(path, sizeof path, err, "%s/model_weights", dir), "%s", "");
    NS_TRY(ns_mkdirs(path, err), "%s", "");
    w->dir = path;
    if (!zarr) NS_TRY(write_torch_dist(w, err), "%s", "");
    for (int i = 0; zarr && i < w->n; i++) NS_TRY(zarr_tensor(w, &w->t[i], err), "%s", "");
    char common[4200];
    snprintf(common, sizeof common, "%s/common.pt", path);
    NS_TRY(ns_torch_write_empty(common, err), "%s", "");
    int n = snprintf(text, sizeof text,
                     "{\"sharded_backend\": \"%s\", \"sharded_backend_version\": 1, \"common_backend\": \"torch\", "
                     "\"common_backend_version\": 1}",
                     w->a->dist_format);
    return text_file(path, "metadata.json", text, (size_t)n, err);
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

ns_status ns_nemo_write(const char *dir, const ns_nemo_args *a, ns_error *err)
{
    writer *w = NULL;
    ns_status st = NS_OK;
    int64_t most = BLOCK;
    NS_FAIL_IF(a->dt != NS_DTYPE_F32 && a->dt != NS_DTYPE_BF16 && a->dt != NS_DTYPE_F16, NS_ERR_UNSUPPORTED,
               "%s: cannot write model weights as %s (use F32, BF16 or F16)", dir, ns_dtype_name(a->dt));
    for (int i = 0; i < a->table->n_params; i++)
        if (a->table->params[i].cols > most) most = a->table->params[i].cols;
    NS_TRY(ns_alloc((void **)&w, sizeof *w, "nemo.writer", err), "%s", dir);
    w->a = a;
    NS_CHECK(st, ns_alloc((void **)&w->block, (size_t)most * sizeof *w->block, "nemo.block", err), "%s", dir);
    NS_CHECK(st, ns_alloc(&w->bytes, (size_t)most * 2, "nemo.block", err), "%s", dir);
    list_tensors(w);
    NS_CHECK(st, write_config(dir, a, err), "write model_config.yaml");
    NS_CHECK(st, write_weights(w, dir, err), "write weights");
done:
    for (int i = 0; i < w->n; i++) ns_free(w->t[i].parts);
    ns_free(w->block);
    ns_free(w->bytes);
    ns_free(w);
    return st;
}
