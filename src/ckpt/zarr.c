/* zarr version 2, as Megatron writes it: one folder a tensor, `.zarray` (JSON) and one little-endian file a chunk (raw, or
 * compressed: codec.h), named by its indices joined with ".". Chunks at the edge are stored full. An absent chunk is zeros, by the format; it is
 * counted. */
#include <stdio.h>
#include <string.h>

#include "base/json.h"
#include "ckpt/dist_read.h"
#include "ckpt/path.h"

typedef struct array {
    const char *name, *where; /* tensor; path of .zarray for messages */
    int nd;
    int64_t shape[8], chunk[8];
    ns_dtype dt;
    char sep;
    int compressed; /* chunks, by codec */
    ns_codec codec;
} array;

static ns_status sizes(const ns_json *v, const char *key, int64_t out[8], int *nd, const char *where, ns_error *err)
{
    NS_FAIL_IF(!v || v->type != NS_JSON_ARRAY || v->n > 8, NS_ERR_INPUT, "%s: \"%s\" is not a list of at most 8 sizes",
               where, key);
    *nd = (int)v->n;
    for (size_t i = 0; i < v->n; i++)
        NS_FAIL_IF(!ns_json_is_int(&v->items[i], &out[i]) || out[i] < 0 || out[i] > (int64_t)1 << 48, NS_ERR_INPUT,
                   "%s: \"%s\": size %zu is not an integer in range", where, key, i);
    return NS_OK;
}

static ns_status read_header(array *z, const ns_json *j, ns_error *err)
{
    static const struct {
        const char *name;
        ns_dtype dt;
    } types[] = {{"bfloat16", NS_DTYPE_BF16}, {"<V2", NS_DTYPE_BF16}, {"|V2", NS_DTYPE_BF16}, {"<f4", NS_DTYPE_F32},
                 {"<f2", NS_DTYPE_F16},       {"<f8", NS_DTYPE_F64},  {"<i8", NS_DTYPE_I64},  {"<i4", NS_DTYPE_I32},
                 {"|u1", NS_DTYPE_U8},        {"|i1", NS_DTYPE_I8},   {"|b1", NS_DTYPE_BOOL}};
    int n;
    int64_t version = 0;
    const ns_json *c = ns_json_get(j, "compressor"), *d = ns_json_get(j, "dtype"), *f = ns_json_get(j, "filters"),
                  *o = ns_json_get(j, "order"), *id = ns_json_get(c, "id"), *v = ns_json_get(j, "zarr_format"),
                  *s = ns_json_get(j, "dimension_separator");
    NS_FAIL_IF(!v || !ns_json_is_int(v, &version) || version != 2, NS_ERR_UNSUPPORTED,
               "%s: zarr format %lld, expected 2", z->where, (long long)version);
    z->compressed = c && c->type != NS_JSON_NULL;
    if (z->compressed) {
        char name[48] = "unknown";
        if (id && id->type == NS_JSON_STRING && id->s.n < sizeof name)
            snprintf(name, sizeof name, "%.*s", (int)id->s.n, id->s.p);
        NS_TRY(ns_codec_find(&z->codec, name, z->where, err), "%s", "");
    }
    NS_FAIL_IF((f && f->type != NS_JSON_NULL && f->n) || !o || !ns_str_eq(o->s, "C"), NS_ERR_UNSUPPORTED,
               "%s: filters or an order other than \"C\" are not supported", z->where);
    z->sep = s && s->type == NS_JSON_STRING && ns_str_eq(s->s, "/") ? '/' : '.';
    NS_TRY(sizes(ns_json_get(j, "shape"), "shape", z->shape, &z->nd, z->where, err), "%s", "");
    NS_TRY(sizes(ns_json_get(j, "chunks"), "chunks", z->chunk, &n, z->where, err), "%s", "");
    NS_FAIL_IF(n != z->nd, NS_ERR_INPUT, "%s: %d sizes in \"chunks\", %d in \"shape\"", z->where, n, z->nd);
    for (int i = 0; i < n; i++) NS_FAIL_IF(z->chunk[i] < 1, NS_ERR_INPUT, "%s: a chunk of size 0", z->where);
    for (size_t i = 0; d && d->type == NS_JSON_STRING && i < sizeof types / sizeof types[0]; i++) {
        if (!ns_str_eq(d->s, types[i].name)) continue;
        z->dt = types[i].dt;
        return NS_OK;
    }
    NS_FAIL(NS_ERR_UNSUPPORTED, "%s: dtype is not one of bfloat16, <f4, <f2, <f8 and integers", z->where);
}

static ns_status read_chunk(ns_archive *a, ns_tree *t, const char *dir, const array *z, ns_arc_tensor *at,
                            const int64_t idx[8], ns_error *err)
{
    char path[4096];
    size_t n = (size_t)snprintf(path, sizeof path, "%s/", dir), size;
    uint64_t want = ns_dtype_size(z->dt);
    ns_box p = {0};
    for (int i = 0; i < z->nd && n < sizeof path - 40; i++) {
        n += (size_t)snprintf(path + n, sizeof path - n, "%s%lld", i ? (z->sep == '/' ? "/" : ".") : "",
                              (long long)idx[i]);
        p.off[i] = idx[i] * z->chunk[i];
        p.size[i] = z->chunk[i];
        NS_FAIL_IF(want > ((uint64_t)1 << 60) / (uint64_t)z->chunk[i], NS_ERR_INPUT, "%s: chunk size overflows",
                   z->where);
        want *= (uint64_t)z->chunk[i];
    }
    ns_box_dense(&p, z->nd); /* stored full; the part beyond the tensor is not looked at */
    for (int i = 0; i < z->nd; i++)
        if (p.size[i] > z->shape[i] - p.off[i]) p.size[i] = z->shape[i] - p.off[i];
    if (!z->nd) snprintf(path + n, sizeof path - n, "0");
    const ns_tree_file *f = ns_tree_find(t, path);
    p.file = z->where;
    if (!f) {
        a->n_zero_pieces++;
        return ns_arc_box_add(a, at, &p, err);
    }
    p.file = f->name;
    NS_FAIL_IF(!z->compressed && f->size != want, NS_ERR_INPUT, "%s/%s: chunk of %llu bytes, expected %llu: truncated?",
               ns_tree_path(t), f->name, (unsigned long long)f->size, (unsigned long long)want);
    NS_TRY(ns_tree_map(t, f, &p.data, &size, err), "%s", "");
    NS_FAIL_IF(size != f->size, NS_ERR_INPUT, "%s/%s: changed while reading", ns_tree_path(t), f->name);
    if (z->compressed) {
        const char *file = ns_arena_printf(&a->arena, err, "%s/%s", ns_tree_path(t), f->name);
        if (!file) return NS_ERR_MEMORY;
        NS_TRY(ns_packed_new(&p.packed, &a->packed, z->codec, p.data, size, (size_t)want, file, &a->arena, err), "%s",
               "");
        p.data = NULL;
    }
    return ns_arc_box_add(a, at, &p, err);
}

static ns_status read_array(ns_archive *a, ns_tree *t, const ns_tree_file *f, const char *dir, const char *name,
                            ns_error *err)
{
    array z = {.name = name};
    ns_json *j;
    ns_arc_tensor *at;
    const unsigned char *data;
    size_t size;
    int64_t idx[8] = {0}, count[8], total = 1;
    z.where = ns_arena_printf(&a->arena, err, "%s/%s", ns_tree_path(t), f->name);
    if (!z.where) return NS_ERR_MEMORY;
    NS_TRY(ns_tree_map(t, f, &data, &size, err), "%s", "");
    NS_TRY(ns_json_parse(&j, &a->arena, (const char *)data, size, z.where, 0, err), "read zarr");
    NS_TRY(read_header(&z, j, err), "%s", "");
    NS_TRY(ns_archive_add(a, &at, name, z.dt, z.shape, z.nd, err), "%s", "");
    for (int i = 0; i < z.nd; i++) {
        count[i] = (z.shape[i] + z.chunk[i] - 1) / z.chunk[i];
        NS_FAIL_IF(count[i] && total > (1 << 20) / count[i], NS_ERR_INPUT, "%s: more than 2^20 chunks", z.where);
        total *= count[i];
    }
    for (int64_t k = 0; k < total; k++) {
        int64_t rest = k;
        for (int i = z.nd; i-- > 0; rest /= count[i]) idx[i] = rest % count[i];
        NS_TRY(read_chunk(a, t, dir, &z, at, idx, err), "%s", "");
    }
    return NS_OK;
}

ns_status ns_zarr_read(ns_archive *a, ns_tree *t, const char *dir, ns_error *err)
{
    size_t n = strlen(dir), skip = n ? n + 1 : 0;
    char path[4096];
    for (size_t i = 0; i < ns_tree_count(t); i++) {
        const ns_tree_file *f = ns_tree_at(t, i);
        const char *base = strrchr(f->name, '/');
        if (n && (strncmp(f->name, dir, n) || f->name[n] != '/')) continue;
        if (!base || strcmp(base, "/.zarray") || base < f->name + skip) continue;
        NS_TRY(ns_path(path, sizeof path, err, "%.*s", (int)(base - f->name), f->name), "%s", "");
        const char *name = path + skip;
        if (strstr(name, "optimizer.") || strstr(name, "_extra_state") || strstr(name, "rng_state")) continue;
        NS_TRY(read_array(a, t, f, path, name, err), "%s", "");
    }
    return NS_OK;
}
