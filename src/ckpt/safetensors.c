/* safetensors reader. A file is
 *
 *     0      8   u64 little-endian: header length N
 *     8      N   JSON object, may be padded with blanks: {"name":{"dtype","shape","data_offsets":[begin,end]},...,"__metadata__":{}}
 *     8+N        data; offsets are relative to here and tile it without holes
 *
 * Files come from strangers: every number is checked before it is used, and the two classic ways of hiding data (holes,
 * names given twice) are errors. Format: training.md §5.6. */
#include "ckpt/safetensors.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/json.h"

enum { HEADER_MAX = 100 * 1000 * 1000 }; /* as the original library: refuse absurd headers before parsing them */

typedef struct st_key {
    const char *name;
    size_t i;
} st_key;

typedef struct st_meta {
    const char *key, *value;
} st_meta;

struct ns_st {
    ns_arena arena;
    ns_st_tensor *t; /* shards in name order, tensors by offset */
    size_t n, cap;
    st_key *by_name; /* sorted */
    ns_map *maps;
    size_t n_maps, maps_cap;
    st_meta *meta; /* of the first file that has any */
    size_t n_meta;
};

/* One file being parsed. */
typedef struct shard {
    ns_st *s;
    const char *path;
    const unsigned char *data; /* the data area */
    uint64_t size;
} shard;

static uint64_t read_u64(const unsigned char *p)
{
    uint64_t v = 0;
    for (int i = 7; i >= 0; i--) v = v << 8 | p[i];
    return v;
}

/* ---- header ---- */

static ns_status read_shape(ns_st_tensor *t, const ns_json *shape, const shard *f, ns_error *err)
{
    NS_FAIL_IF(!shape || shape->type != NS_JSON_ARRAY || shape->n > 8, NS_ERR_INPUT,
               "%s: tensor \"%s\": \"shape\" must be a list of at most 8 sizes", f->path, t->name);
    t->nd = (int)shape->n;
    t->n = 1;
    int64_t limit = INT64_MAX / 16; /* so that n * element size cannot overflow */
    for (size_t i = 0; i < shape->n; i++) {
        int64_t d;
        NS_FAIL_IF(!ns_json_is_int(&shape->items[i], &d) || d < 0, NS_ERR_INPUT,
                   "%s: tensor \"%s\": size %zu of \"shape\" is not a non-negative integer", f->path, t->name, i);
        NS_FAIL_IF(d != 0 && t->n > limit / d, NS_ERR_INPUT, "%s: tensor \"%s\": shape overflows", f->path, t->name);
        t->n *= d;
        t->shape[i] = d;
    }
    return NS_OK;
}

static ns_status read_entry(ns_st_tensor *t, const ns_json *e, const shard *f, uint64_t *begin, uint64_t *end,
                            ns_error *err)
{
    const ns_json *dt = ns_json_get(e, "dtype"), *off = ns_json_get(e, "data_offsets");
    NS_FAIL_IF(!dt || dt->type != NS_JSON_STRING || !off || off->type != NS_JSON_ARRAY || off->n != 2, NS_ERR_INPUT,
               "%s: tensor \"%s\": header entry needs \"dtype\", \"shape\" and \"data_offsets\":[begin,end]", f->path,
               t->name);
    char name[24];
    snprintf(name, sizeof name, "%.*s", (int)(dt->s.n < 23 ? dt->s.n : 23), dt->s.p);
    NS_FAIL_IF(!ns_dtype_parse(name, &t->dt), NS_ERR_UNSUPPORTED, "%s: tensor \"%s\": dtype \"%s\" is not supported",
               f->path, t->name, name);
    NS_TRY(read_shape(t, ns_json_get(e, "shape"), f, err), "%s", "");
    int64_t b, z;
    NS_FAIL_IF(!ns_json_is_int(&off->items[0], &b) || !ns_json_is_int(&off->items[1], &z) || b < 0 || z < b,
               NS_ERR_INPUT, "%s: tensor \"%s\": \"data_offsets\" must be two integers, begin <= end", f->path,
               t->name);
    int64_t want = t->n * (int64_t)ns_dtype_size(t->dt);
    NS_FAIL_IF(z - b != want, NS_ERR_INPUT,
               "%s: tensor \"%s\": data_offsets span %lld bytes, dtype and shape need %lld", f->path, t->name,
               (long long)(z - b), (long long)want);
    *begin = (uint64_t)b;
    *end = (uint64_t)z;
    return NS_OK;
}

static int by_text(const void *a, const void *b)
{
    const ns_str *x = a, *y = b;
    int c = memcmp(x->p, y->p, x->n < y->n ? x->n : y->n);
    return c ? c : (x->n > y->n) - (x->n < y->n);
}

/* The parser keeps one of two equal keys, so equal names are found in the text: keys are the strings at depth 1 that a colon
 * follows. The text is known to be valid JSON here. */
static ns_status check_duplicates(const char *p, size_t n, const ns_json *root, const char *path, ns_error *err)
{
    size_t count = 0, cap = 0;
    ns_str *keys = NULL;
    ns_status st = NS_OK;
    int depth = 0;
    for (size_t i = 0; i < n; i++) {
        if (p[i] == '{' || p[i] == '[') depth++;
        if (p[i] == '}' || p[i] == ']') depth--;
        if (p[i] != '"') continue;
        size_t start = ++i;
        while (i < n && p[i] != '"') i += p[i] == '\\' ? 2 : 1;
        size_t j = i + 1;
        while (j < n && (p[j] == ' ' || p[j] == '\t' || p[j] == '\n' || p[j] == '\r')) j++;
        if (depth != 1 || j >= n || p[j] != ':') continue;
        NS_CHECK(st, ns_grow((void **)&keys, &cap, count + 1, sizeof *keys, "safetensors.keys", err), "%s", path);
        keys[count++] = (ns_str){p + start, i - start};
    }
    if (count == root->n) goto done;
    qsort(keys, count, sizeof *keys, by_text);
    for (size_t i = 1; i < count; i++) {
        NS_BAIL_IF(st, by_text(&keys[i], &keys[i - 1]) == 0, NS_ERR_INPUT, "%s: tensor \"%.*s\" is in the header twice",
                   path, (int)(keys[i].n < 200 ? keys[i].n : 200), keys[i].p);
    }
    st = ns_error_set(err, NS_ERR_INPUT, __FILE__, __LINE__, "%s: a tensor name is in the header twice", path);
done:
    ns_free(keys);
    return st;
}

typedef struct span {
    uint64_t begin, end;
    int entry;
} span;

static int by_begin(const void *a, const void *b)
{
    const span *x = a, *y = b;
    if (x->begin != y->begin) return x->begin < y->begin ? -1 : 1;
    if (x->end != y->end) return x->end < y->end ? -1 : 1;
    return x->entry - y->entry;
}

/* Sorted spans must cover [0, size) exactly. A file that is too short is the common case and gets its own words. */
static ns_status check_tiling(const span *sp, const ns_st_tensor *t, size_t n, const shard *f, uint64_t before,
                              ns_error *err)
{
    uint64_t need = 0;
    for (size_t i = 0; i < n; i++) need = sp[i].end > need ? sp[i].end : need;
    NS_FAIL_IF(need > f->size, NS_ERR_INPUT,
               "%s: truncated: found %llu bytes, expected %llu (copy or download the file again)", f->path,
               (unsigned long long)(before + f->size), (unsigned long long)(before + need));
    uint64_t at = 0;
    for (size_t i = 0; i < n; i++) {
        NS_FAIL_IF(sp[i].begin > at, NS_ERR_INPUT,
                   "%s: tensor \"%s\": data begins at %llu, expected %llu: a hole of %llu bytes", f->path, t[i].name,
                   (unsigned long long)sp[i].begin, (unsigned long long)at, (unsigned long long)(sp[i].begin - at));
        NS_FAIL_IF(sp[i].begin < at, NS_ERR_INPUT,
                   "%s: tensor \"%s\": data begins at %llu, inside the tensor before it (ends %llu)", f->path,
                   t[i].name, (unsigned long long)sp[i].begin, (unsigned long long)at);
        at = sp[i].end;
    }
    NS_FAIL_IF(at != f->size, NS_ERR_INPUT, "%s: %llu bytes after the last tensor: found %llu bytes, expected %llu",
               f->path, (unsigned long long)(f->size - at), (unsigned long long)(before + f->size),
               (unsigned long long)(before + at));
    return NS_OK;
}

static ns_status read_metadata(ns_st *s, const ns_json *m, const char *path, ns_error *err)
{
    NS_FAIL_IF(m->type != NS_JSON_OBJECT, NS_ERR_INPUT, "%s: \"__metadata__\" must be an object", path);
    st_meta *out = ns_arena_alloc(&s->arena, (m->n + 1) * sizeof *out, err);
    if (!out) return NS_ERR_MEMORY;
    for (size_t i = 0; i < m->n; i++) {
        NS_FAIL_IF(m->items[i].type != NS_JSON_STRING, NS_ERR_INPUT, "%s: \"__metadata__\": \"%.*s\" must be a string",
                   path, (int)(m->keys[i].n < 100 ? m->keys[i].n : 100), m->keys[i].p);
        out[i].key = ns_arena_strndup(&s->arena, m->keys[i].p, m->keys[i].n, err);
        out[i].value = ns_arena_strndup(&s->arena, m->items[i].s.p, m->items[i].s.n, err);
        if (!out[i].key || !out[i].value) return NS_ERR_MEMORY;
    }
    if (!s->n_meta) {
        s->meta = out;
        s->n_meta = m->n;
    }
    return NS_OK;
}

static ns_status read_header(ns_st *s, shard *f, const ns_json *root, uint64_t before, ns_error *err)
{
    ns_status st = NS_OK;
    span *sp = NULL;
    ns_st_tensor *raw = NULL;
    size_t n = 0;
    NS_CHECK(st, ns_alloc((void **)&sp, (root->n + 1) * sizeof *sp, "safetensors.spans", err), "%s", f->path);
    NS_CHECK(st, ns_alloc((void **)&raw, (root->n + 1) * sizeof *raw, "safetensors.tensors", err), "%s", f->path);
    for (size_t i = 0; i < root->n; i++) {
        if (ns_str_eq(root->keys[i], "__metadata__")) {
            NS_CHECK(st, read_metadata(s, &root->items[i], f->path, err), "%s", "");
            continue;
        }
        NS_BAIL_IF(st, memchr(root->keys[i].p, 0, root->keys[i].n), NS_ERR_INPUT, "%s: a tensor name holds a NUL byte",
                   f->path);
        ns_st_tensor *t = &raw[n];
        t->name = ns_arena_strndup(&s->arena, root->keys[i].p, root->keys[i].n, err);
        if (!t->name) {
            st = NS_ERR_MEMORY;
            goto done;
        }
        t->file = f->path;
        NS_CHECK(st, read_entry(t, &root->items[i], f, &sp[n].begin, &sp[n].end, err), "%s", "");
        sp[n].entry = (int)n;
        n++;
    }
    qsort(sp, n, sizeof *sp, by_begin);
    NS_CHECK(st, ns_grow((void **)&s->t, &s->cap, s->n + n + 1, sizeof *s->t, "safetensors.tensors", err), "%s",
             f->path);
    for (size_t i = 0; i < n; i++) s->t[s->n + i] = raw[sp[i].entry];
    NS_CHECK(st, check_tiling(sp, s->t + s->n, n, f, before, err), "%s", "");
    for (size_t i = 0; i < n; i++) s->t[s->n + i].data = f->data + sp[i].begin;
    s->n += n;
done:
    ns_free(sp);
    ns_free(raw);
    return st;
}

static ns_status read_file(ns_st *s, const char *path, ns_error *err)
{
    shard f = {s, ns_arena_strdup(&s->arena, path, err), NULL, 0};
    if (!f.path) return NS_ERR_MEMORY;
    NS_TRY(ns_grow((void **)&s->maps, &s->maps_cap, s->n_maps + 1, sizeof *s->maps, "safetensors.maps", err), "%s",
           path);
    ns_map *m = &s->maps[s->n_maps];
    memset(m, 0, sizeof *m);
    NS_TRY(ns_map_open(m, path, err), "open safetensors");
    s->n_maps++;
    NS_FAIL_IF(m->size < 8, NS_ERR_INPUT, "%s: truncated: found %zu bytes, expected at least 8 (the header length)",
               path, m->size);
    uint64_t n = read_u64(m->data);
    NS_FAIL_IF(n > HEADER_MAX, NS_ERR_INPUT,
               "%s: header length %llu at byte 0 is absurd (limit %d): not a safetensors file?", path,
               (unsigned long long)n, HEADER_MAX);
    NS_FAIL_IF(n > m->size - 8, NS_ERR_INPUT, "%s: truncated: found %zu bytes, expected at least %llu (the header)",
               path, m->size, (unsigned long long)n + 8);
    NS_FAIL_IF(n == 0 || m->data[8] != '{', NS_ERR_INPUT,
               "%s: byte 8: header must begin with '{': not a safetensors file?", path);
    ns_json *root;
    NS_TRY(ns_json_parse(&root, &s->arena, (const char *)m->data + 8, (size_t)n, f.path, 0, err),
           "read safetensors header");
    NS_FAIL_IF(root->type != NS_JSON_OBJECT || root->n > INT32_MAX / 2, NS_ERR_INPUT, "%s: header is not an object",
               path);
    NS_TRY(check_duplicates((const char *)m->data + 8, (size_t)n, root, f.path, err), "%s", "");
    f.data = m->data + 8 + n;
    f.size = m->size - 8 - n;
    return read_header(s, &f, root, 8 + n, err);
}

/* ---- directories ---- */

static int by_key(const void *a, const void *b)
{
    return strcmp(((const st_key *)a)->name, ((const st_key *)b)->name);
}

static ns_status build_lookup(ns_st *s, ns_error *err)
{
    NS_TRY(ns_alloc((void **)&s->by_name, s->n * sizeof *s->by_name, "safetensors.names", err), "%s", "");
    for (size_t i = 0; i < s->n; i++) s->by_name[i] = (st_key){s->t[i].name, i};
    if (s->n) qsort(s->by_name, s->n, sizeof *s->by_name, by_key);
    for (size_t i = 1; i < s->n; i++) {
        const ns_st_tensor *a = &s->t[s->by_name[i - 1].i], *b = &s->t[s->by_name[i].i];
        NS_FAIL_IF(strcmp(a->name, b->name) == 0, NS_ERR_INPUT, "tensor \"%s\" is in two files: %s and %s", a->name,
                   a->file, b->file);
    }
    return NS_OK;
}

/* Files of the index's weight_map, each once, by name. A name is a plain file of the same folder, never a path. */
static ns_status index_files(const ns_json *map, const char *index, ns_arena *arena, ns_str **files, size_t *n,
                             ns_error *err)
{
    *files = ns_arena_alloc(arena, (map->n + 1) * sizeof **files, err);
    if (!*files) return NS_ERR_MEMORY;
    for (size_t i = 0; i < map->n; i++) {
        ns_str f = map->items[i].s;
        NS_FAIL_IF(map->items[i].type != NS_JSON_STRING || f.n == 0 || f.n > 255 || f.p[0] == '.' ||
                       memchr(f.p, '/', f.n) || memchr(f.p, 0, f.n),
                   NS_ERR_INPUT, "%s: weight_map: \"%.*s\" does not name a file of this folder", index,
                   (int)(map->keys[i].n < 200 ? map->keys[i].n : 200), map->keys[i].p);
        (*files)[i] = f;
    }
    if (map->n) qsort(*files, map->n, sizeof **files, by_text);
    *n = 0;
    for (size_t i = 0; i < map->n; i++) {
        if (i == 0 || by_text(&(*files)[i], &(*files)[i - 1]) != 0) (*files)[(*n)++] = (*files)[i];
    }
    return NS_OK;
}

/* Every tensor of the index must be in the file that the index names. */
static ns_status check_index(const ns_st *s, const ns_json *map, const char *index, ns_error *err)
{
    for (size_t i = 0; i < map->n; i++) {
        char name[512];
        snprintf(name, sizeof name, "%.*s", (int)(map->keys[i].n < 511 ? map->keys[i].n : 511), map->keys[i].p);
        const ns_st_tensor *t = ns_st_find(s, name);
        const char *file = t ? strrchr(t->file, '/') : NULL;
        file = t && !file ? t->file : file ? file + 1 : NULL;
        NS_FAIL_IF(!t || !ns_str_eq(map->items[i].s, file), NS_ERR_INPUT,
                   "%s: tensor \"%s\" should be in %.*s, found %s%s", index, name, (int)map->items[i].s.n,
                   map->items[i].s.p, t ? "in " : "nowhere", t ? file : "");
    }
    return NS_OK;
}

static ns_status read_index(ns_st *s, const char *dir, const char *index, ns_error *err)
{
    ns_json *root;
    NS_TRY(ns_json_read_file(&root, &s->arena, index, err), "read shard index");
    const ns_json *map = ns_json_get(root, "weight_map");
    NS_FAIL_IF(!map || map->type != NS_JSON_OBJECT, NS_ERR_INPUT, "%s: \"weight_map\" is missing or not an object",
               index);
    ns_str *files;
    size_t n = 0;
    NS_TRY(index_files(map, index, &s->arena, &files, &n, err), "%s", "");
    for (size_t i = 0; i < n; i++) {
        const char *path = ns_arena_printf(&s->arena, err, "%s/%.*s", dir, (int)files[i].n, files[i].p);
        if (!path) return NS_ERR_MEMORY;
        NS_FAIL_IF(!ns_path_exists(path), NS_ERR_INPUT,
                   "%s: missing shard %.*s (%zu of %zu files of the index): copy it again", dir, (int)files[i].n,
                   files[i].p, i + 1, n);
        NS_TRY(read_file(s, path, err), "%s", "");
    }
    NS_TRY(build_lookup(s, err), "%s", dir);
    return check_index(s, map, index, err);
}

static ns_status read_dir(ns_st *s, const char *dir, ns_error *err)
{
    char *index = ns_arena_printf(&s->arena, err, "%s/model.safetensors.index.json", dir);
    char *single = ns_arena_printf(&s->arena, err, "%s/model.safetensors", dir);
    char *bin = ns_arena_printf(&s->arena, err, "%s/pytorch_model.bin", dir);
    char *bins = ns_arena_printf(&s->arena, err, "%s/pytorch_model.bin.index.json", dir);
    if (!index || !single || !bin || !bins) return NS_ERR_MEMORY;
    if (ns_path_exists(index)) return read_index(s, dir, index, err);
    if (ns_path_exists(single)) {
        NS_TRY(read_file(s, single, err), "%s", "");
        return build_lookup(s, err);
    }
    NS_FAIL_IF(ns_path_exists(bin) || ns_path_exists(bins), NS_ERR_UNSUPPORTED,
               "%s: only pytorch_model.bin weights here: save the model as safetensors", dir);
    NS_FAIL(NS_ERR_INPUT,
            "%s: neither model.safetensors nor model.safetensors.index.json: not a Hugging Face model folder?", dir);
}

/* ---- public ---- */

ns_status ns_st_open(ns_st **out, const char *path, ns_error *err)
{
    *out = NULL;
    ns_st *s = NULL;
    NS_TRY(ns_alloc((void **)&s, sizeof *s, "safetensors", err), "%s", path);
    s->arena.label = "safetensors";
    ns_status st;
    const char *suffix = ".index.json";
    size_t n = strlen(path), k = strlen(suffix);
    if (ns_path_is_dir(path)) {
        st = read_dir(s, path, err);
    } else if (n > k && strcmp(path + n - k, suffix) == 0) {
        const char *slash = strrchr(path, '/');
        char *dir = ns_arena_strndup(&s->arena, slash ? path : ".", slash ? (size_t)(slash - path) : 1, err);
        st = dir ? read_index(s, dir, path, err) : NS_ERR_MEMORY;
    } else {
        st = read_file(s, path, err);
        if (st == NS_OK) st = build_lookup(s, err);
    }
    if (st != NS_OK) {
        ns_st_close(&s);
        return st;
    }
    *out = s;
    return NS_OK;
}

void ns_st_close(ns_st **st)
{
    ns_st *s = *st;
    if (!s) return;
    for (size_t i = 0; i < s->n_maps; i++) ns_map_close(&s->maps[i]);
    ns_free(s->maps);
    ns_free(s->t);
    ns_free(s->by_name);
    ns_arena_free(&s->arena);
    ns_free(s);
    *st = NULL;
}

int ns_st_count(const ns_st *st)
{
    return (int)st->n;
}

const ns_st_tensor *ns_st_at(const ns_st *st, int i)
{
    return &st->t[i];
}

const ns_st_tensor *ns_st_find(const ns_st *st, const char *name)
{
    st_key want = {name, 0};
    const st_key *k = st->n ? bsearch(&want, st->by_name, st->n, sizeof *st->by_name, by_key) : NULL;
    return k ? &st->t[k->i] : NULL;
}

const char *ns_st_metadata(const ns_st *st, const char *key)
{
    for (size_t i = 0; i < st->n_meta; i++) {
        if (strcmp(st->meta[i].key, key) == 0) return st->meta[i].value;
    }
    return NULL;
}
