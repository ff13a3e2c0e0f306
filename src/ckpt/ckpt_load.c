/* Restoring optimiser state. The index says which file holds which range of each (state, parameter); the ranges must tile the
 * parameter exactly, whatever number of ranks wrote them. Everything is compared with the parameter table before use. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/json.h"
#include "ckpt/checkpoint.h"
#include "ckpt/model_source.h"
#include "ckpt/scan.h"
#include "ckpt/path.h"

typedef struct open_file {
    char name[128];
    ns_st *st;
} open_file;

typedef struct loader {
    const char *ckpt;
    const ns_json *tensors;
    ns_arena arena;
    open_file *files;
    size_t n_files, cap;
    ns_dtype found[3];
} loader;

static ns_status open_index(loader *l, ns_error *err)
{
    char path[4096];
    ns_json *root;
    int64_t format = 0;
    NS_TRY(ns_path(path, sizeof path, err, "%s/optimizer/index.json", l->ckpt), "%s", "");
    NS_FAIL_IF(!ns_path_exists(path), NS_ERR_INPUT,
               "%s has no optimiser state (it is kept for the newest checkpoints only): resume from a -last checkpoint",
               l->ckpt);
    NS_TRY(ns_json_read_file(&root, &l->arena, path, err), "%s", "");
    NS_FAIL_IF(!ns_json_is_int(ns_json_get(root, "format"), &format) || format != 1, NS_ERR_UNSUPPORTED,
               "%s: format %lld, this program reads format 1", path, (long long)format);
    l->tensors = ns_json_get(root, "tensors");
    NS_FAIL_IF(!l->tensors || l->tensors->type != NS_JSON_OBJECT, NS_ERR_INPUT, "%s: \"tensors\" is missing", path);
    return NS_OK;
}

static ns_status get_file(loader *l, ns_str name, ns_st **out, ns_error *err)
{
    char path[4096];
    for (size_t i = 0; i < l->n_files; i++) {
        if (!ns_str_eq(name, l->files[i].name)) continue;
        *out = l->files[i].st;
        return NS_OK;
    }
    NS_FAIL_IF(name.n == 0 || name.n >= sizeof l->files[0].name || name.p[0] == '.' || memchr(name.p, '/', name.n) ||
                   memchr(name.p, 0, name.n),
               NS_ERR_INPUT, "%s/optimizer/index.json: \"file\" must name a file of that folder", l->ckpt);
    NS_TRY(ns_grow((void **)&l->files, &l->cap, l->n_files + 1, sizeof *l->files, "ckpt.files", err), "%s", "");
    open_file *f = &l->files[l->n_files];
    snprintf(f->name, sizeof f->name, "%.*s", (int)name.n, name.p);
    NS_TRY(ns_path(path, sizeof path, err, "%s/optimizer/%s", l->ckpt, f->name), "%s", "");
    NS_TRY(ns_st_open(&f->st, path, err), "%s", "");
    l->n_files++;
    *out = f->st;
    return NS_OK;
}

/* Reads ranges of "state/param" into out[0..n). They are in order of offset. *dt: their type. */
static ns_status read_ranges(loader *l, const char *key, int64_t n, float *out, ns_dtype *dt, ns_error *err)
{
    const ns_json *list = ns_json_get(l->tensors, key);
    int64_t at = 0;
    NS_FAIL_IF(!list || list->type != NS_JSON_ARRAY, NS_ERR_MISMATCH, "%s/optimizer/index.json: \"%s\" is missing",
               l->ckpt, key);
    for (size_t i = 0; i < list->n; i++) {
        const ns_json *r = &list->items[i], *file = ns_json_get(r, "file");
        int64_t off = -1, len = -1;
        int ok = ns_json_is_int(ns_json_get(r, "off"), &off) && ns_json_is_int(ns_json_get(r, "len"), &len);
        NS_FAIL_IF(!ok || !file || file->type != NS_JSON_STRING || off != at || len <= 0 || len > n - at,
                   NS_ERR_MISMATCH,
                   "%s/optimizer/index.json: \"%s\": range %zu covers [%lld,+%lld), expected it to begin at %lld and "
                   "end by %lld",
                   l->ckpt, key, i, (long long)off, (long long)len, (long long)at, (long long)n);
        ns_st *st;
        NS_TRY(get_file(l, file->s, &st, err), "%s", "");
        char name[128];
        snprintf(name, sizeof name, "%s@%lld:%lld", key, (long long)off, (long long)len);
        const ns_st_tensor *t = ns_st_find(st, name);
        NS_FAIL_IF(!t || (t->dt != NS_DTYPE_F32 && t->dt != NS_DTYPE_BF16) || t->n != len, NS_ERR_MISMATCH,
                   "%s/optimizer/%.*s: tensor \"%s\": %s, expected %lld elements of F32 or BF16", l->ckpt,
                   (int)file->s.n, file->s.p, name, t ? "wrong type or size" : "missing", (long long)len);
        ns_to_f32(out + off, t->data, t->dt, (size_t)len);
        *dt = t->dt;
        at += len;
    }
    NS_FAIL_IF(at != n, NS_ERR_MISMATCH, "%s/optimizer/index.json: \"%s\": ranges end at %lld, expected %lld", l->ckpt,
               key, (long long)at, (long long)n);
    return NS_OK;
}

static ns_status load_param(loader *l, const ns_param_table *t, int i, float *data, ns_opt_put_fn put, void *user,
                            ns_error *err)
{
    static const char *const states[3] = {"main", "m", "v"};
    int64_t n = t->params[i].rows * t->params[i].cols;
    char key[96];
    for (int k = 0; k < 3; k++) {
        snprintf(key, sizeof key, "%s/%s", states[k], t->params[i].name);
        NS_TRY(read_ranges(l, key, n, data + k * n, &l->found[k], err), "%s", "");
    }
    return put(user, i, data, data + n, data + 2 * n, err);
}

ns_status ns_ckpt_load(const char *ckpt, const ns_param_table *t, ns_opt_put_fn put, void *user, ns_dtype found[3],
                       ns_error *err)
{
    loader l = {.ckpt = ckpt, .arena = NS_ARENA_INIT("ckpt.load")};
    float *data = NULL;
    char hash[17];
    int64_t most = ns_param_table_largest(t);
    ns_status st = NS_OK;
    NS_CHECK(st, ns_ckpt_read_param_hash(hash, ckpt, err), "load checkpoint");
    NS_BAIL_IF(
        st, strcmp(hash, t->hash) != 0, NS_ERR_MISMATCH,
        "%s: written by a model with other parameters (param_hash %s, this model has %s): resume with the same model",
        ckpt, hash, t->hash);
    NS_CHECK(st, open_index(&l, err), "load checkpoint");
    NS_CHECK(st, ns_alloc((void **)&data, 3 * (size_t)most * sizeof *data, "ckpt.load", err), "load checkpoint");
    for (int i = 0; i < t->n_params; i++) {
        NS_CHECK(st, load_param(&l, t, i, data, put, user, err), "load optimiser state of %s", t->params[i].name);
    }
    if (found) memcpy(found, l.found, sizeof l.found);
done:
    for (size_t i = 0; i < l.n_files; i++) ns_st_close(&l.files[i].st);
    ns_free(l.files);
    ns_free(data);
    ns_arena_free(&l.arena);
    return st;
}
