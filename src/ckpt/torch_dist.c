/* torch_dist: `.metadata` is a pickle of torch.distributed.checkpoint.metadata.Metadata: which tensors, cut into which boxes
 * (state_dict_metadata), and where each box lies (storage_data: (file, offset, length)). Each box is a torch.save file of one
 * tensor at that place. Boxes of a tensor must cover it exactly once (archive.c). */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "ckpt/dist_read.h"
#include "ckpt/path.h"
#include "ckpt/torch_file.h"

typedef struct place { /* one entry of storage_data */
    ns_str fqn, file;
    int64_t off[8];
    int nd; /* -1: not a tensor's box */
    int64_t at, length;
} place;

typedef struct reader {
    ns_archive *a;
    ns_tree *t;
    const char *dir;
    char where[4096];
    place *places;
    size_t n_places;
} reader;

static int compare(const place *x, const place *y)
{
    size_t n = x->fqn.n < y->fqn.n ? x->fqn.n : y->fqn.n;
    int c = n ? memcmp(x->fqn.p, y->fqn.p, n) : 0;
    if (!c && x->fqn.n != y->fqn.n) c = x->fqn.n < y->fqn.n ? -1 : 1;
    if (!c && x->nd != y->nd) c = x->nd < y->nd ? -1 : 1;
    for (int i = 0; !c && i < x->nd; i++) c = x->off[i] < y->off[i] ? -1 : x->off[i] > y->off[i];
    return c;
}

static int by_place(const void *a, const void *b)
{
    return compare(a, b);
}

static ns_status read_places(reader *r, const ns_pk *storage, ns_error *err)
{
    NS_FAIL_IF(!storage || storage->kind != NS_PK_DICT, NS_ERR_INPUT, "%s: no storage_data in it", r->where);
    r->places = ns_arena_alloc(&r->a->arena, (storage->n + 1) * sizeof *r->places, err);
    if (!r->places) return NS_ERR_MEMORY;
    for (size_t i = 0; i < storage->n; i++) {
        const ns_pk *k = storage->item[2 * i], *v = storage->item[2 * i + 1];
        const ns_pk *fqn = ns_pk_get(k, "fqn"), *off = ns_pk_get(k, "offset"), *file = ns_pk_get(v, "relative_path"),
                    *at = ns_pk_get(v, "offset"), *len = ns_pk_get(v, "length"),
                    *tr = ns_pk_get(v, "transform_descriptors");
        place *p = &r->places[r->n_places++];
        NS_FAIL_IF(!fqn || fqn->kind != NS_PK_STR || !file || file->kind != NS_PK_STR || !at || at->kind != NS_PK_INT ||
                       !len || len->kind != NS_PK_INT || at->i < 0 || len->i < 0,
                   NS_ERR_INPUT, "%s: entry %zu of storage_data is not (file, offset, length)", r->where, i);
        NS_FAIL_IF(tr && tr->n, NS_ERR_UNSUPPORTED, "%s: '%.*s' is stored through a transformation (compressed?)",
                   r->where, (int)(fqn->s.n < 100 ? fqn->s.n : 100), fqn->s.p);
        *p = (place){.fqn = fqn->s, .file = file->s, .nd = -1, .at = at->i, .length = len->i};
        if (off && off->kind != NS_PK_NONE) p->nd = ns_pk_ints(off, p->off);
    }
    if (r->n_places) qsort(r->places, r->n_places, sizeof *r->places, by_place);
    return NS_OK;
}

/* "a/b/../c": the file name in the metadata must stay in the folder. */
static const ns_tree_file *find_file(reader *r, ns_str name)
{
    char path[4096];
    int n = snprintf(path, sizeof path, "%s%s%.*s", r->dir, r->dir[0] ? "/" : "", (int)(name.n < 1000 ? name.n : 1000),
                     name.p);
    return n > 0 && n < (int)sizeof path ? ns_tree_find(r->t, path) : NULL; /* only listed files: ".." finds none */
}

static ns_status read_box(reader *r, ns_arc_tensor *t, const ns_pk *chunk, ns_error *err)
{
    place key = {.fqn = {t->name, strlen(t->name)}};
    ns_box p = {0}, box;
    ns_torch_file f;
    ns_dtype dt;
    int64_t shape[8];
    int nd;
    const unsigned char *data;
    size_t size;
    memset(&box, 0, sizeof box);
    key.nd = ns_pk_ints(ns_pk_get(chunk, "offsets"), key.off);
    NS_FAIL_IF(key.nd != t->nd || ns_pk_ints(ns_pk_get(chunk, "sizes"), box.size) != t->nd, NS_ERR_INPUT,
               "%s: tensor \"%s\": a chunk without its offsets and sizes", r->where, t->name);
    const place *at = bsearch(&key, r->places, r->n_places, sizeof *r->places, by_place);
    NS_FAIL_IF(!at, NS_ERR_INPUT, "%s: tensor \"%s\": no place is given for its chunk", r->where, t->name);
    const ns_tree_file *file = find_file(r, at->file);
    NS_FAIL_IF(!file, NS_ERR_INPUT, "%s: tensor \"%s\" is in '%.*s', which is missing", r->where, t->name,
               (int)(at->file.n < 200 ? at->file.n : 200), at->file.p);
    NS_TRY(ns_tree_map(r->t, file, &data, &size, err), "%s", "");
    NS_FAIL_IF((uint64_t)at->at > size || (uint64_t)at->length > size - (uint64_t)at->at, NS_ERR_INPUT,
               "%s: tensor \"%s\" at byte %lld of %lld, but '%s' has %zu bytes: truncated", r->where, t->name,
               (long long)at->at, (long long)at->length, file->name, size);
    NS_TRY(ns_torch_open(&f, data + at->at, (size_t)at->length, file->name, &r->a->arena, err), "tensor \"%s\"",
           t->name);
    NS_TRY(ns_torch_tensor(&f, f.root, &p, &dt, shape, &nd, err), "tensor \"%s\"", t->name);
    NS_FAIL_IF(nd != t->nd || memcmp(shape, box.size, (size_t)nd * sizeof *shape) || dt != t->dt, NS_ERR_MISMATCH,
               "%s: tensor \"%s\": a part in '%s' has another shape or dtype than .metadata says", r->where, t->name,
               file->name);
    memcpy(p.off, key.off, sizeof p.off);
    return ns_arc_box_add(r->a, t, &p, err);
}

static int wanted(ns_str key)
{
    static const char *const not [] = {"optimizer.", "_extra_state", "/shard_", "rng_state", "rotary_pos_emb"};
    for (size_t i = 0; i < sizeof not / sizeof not [0]; i++)
        if (memmem(key.p, key.n, not [i], strlen(not [i]))) return 0;
    return 1;
}

static ns_status read_tensor(reader *r, const ns_pk *key, const ns_pk *v, ns_error *err)
{
    char name[512], dtype[32];
    int64_t shape[8];
    ns_arc_tensor *t;
    ns_dtype dt;
    NS_FAIL_IF(key->kind != NS_PK_STR || key->s.n >= sizeof name || memchr(key->s.p, 0, key->s.n), NS_ERR_INPUT,
               "%s: a tensor whose name is not text", r->where);
    if (!ns_pk_is(v, "TensorStorageMetadata") || !wanted(key->s)) return NS_OK;
    snprintf(name, sizeof name, "%.*s", (int)key->s.n, key->s.p);
    const ns_pk *props = ns_pk_get(v, "properties"), *chunks = ns_pk_get(v, "chunks");
    const ns_pk *state = props ? props->state : NULL;
    const ns_pk *type = state && state->kind == NS_PK_TUPLE && state->n ? state->item[0] : ns_pk_get(props, "dtype");
    NS_FAIL_IF(!type || type->kind != NS_PK_GLOBAL, NS_ERR_INPUT, "%s: tensor \"%s\": no dtype", r->where, name);
    snprintf(dtype, sizeof dtype, "%.*s", (int)(type->s.n < 31 ? type->s.n : 31), type->s.p);
    NS_FAIL_IF(!ns_dtype_parse(dtype, &dt), NS_ERR_UNSUPPORTED, "%s: tensor \"%s\": dtype '%s' is not supported",
               r->where, name, dtype);
    int nd = ns_pk_ints(ns_pk_get(v, "size"), shape);
    NS_FAIL_IF(nd < 0 || !chunks || chunks->kind != NS_PK_LIST, NS_ERR_INPUT, "%s: tensor \"%s\": no size or chunks",
               r->where, name);
    NS_TRY(ns_archive_add(r->a, &t, name, dt, shape, nd, err), "%s", "");
    for (size_t i = 0; i < chunks->n; i++) NS_TRY(read_box(r, t, chunks->item[i], err), "%s", "");
    return NS_OK;
}

ns_status ns_torch_dist_read(ns_archive *a, ns_tree *t, const char *dir, ns_error *err)
{
    reader r = {.a = a, .t = t, .dir = dir};
    char path[4096];
    const unsigned char *data;
    size_t size;
    ns_pk *root;
    NS_TRY(ns_path(path, sizeof path, err, "%s%s.metadata", dir, dir[0] ? "/" : ""), "%s", "");
    NS_TRY(ns_path(r.where, sizeof r.where, err, "%s/%s", ns_tree_path(t), path), "%s", "");
    const ns_tree_file *f = ns_tree_find(t, path);
    NS_FAIL_IF(!f, NS_ERR_INPUT, "%s is missing: not a complete distributed checkpoint", r.where);
    NS_TRY(ns_tree_map(t, f, &data, &size, err), "%s", "");
    const char *where = ns_arena_strdup(&a->arena, r.where, err);
    if (!where) return NS_ERR_MEMORY;
    NS_TRY(ns_pickle_parse(&root, &a->arena, data, size, where, err), "read metadata");
    const ns_pk *dict = ns_pk_get(root, "state_dict_metadata");
    NS_FAIL_IF(!dict || dict->kind != NS_PK_DICT, NS_ERR_INPUT, "%s: no state_dict_metadata in it", r.where);
    NS_TRY(read_places(&r, ns_pk_get(root, "storage_data"), err), "%s", "");
    for (size_t i = 0; i < dict->n; i++)
        NS_TRY(read_tensor(&r, dict->item[2 * i], dict->item[2 * i + 1], err), "%s", "");
    return NS_OK;
}

const char *ns_dist_kind(const ns_tree *t, const char *dir)
{
    char path[4096];
    size_t n = strlen(dir);
    snprintf(path, sizeof path, "%s%s.metadata", dir, n ? "/" : "");
    if (ns_tree_find(t, path)) return "torch_dist";
    for (size_t i = 0; i < ns_tree_count(t); i++) {
        const char *s = ns_tree_at(t, i)->name, *base = strrchr(s, '/');
        if (n && (strncmp(s, dir, n) || s[n] != '/')) continue;
        if (base && !strcmp(base, "/.zarray")) return "zarr";
        if (base && !strcmp(base, "/zarr.json")) return "zarr 3";
    }
    return "";
}
