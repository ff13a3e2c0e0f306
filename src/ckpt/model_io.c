/* Reading and writing models in Hugging Face layout: one storage parameter in memory at a time. The folder that
 * ns_model_write fills is complete for any loader: config.json, weights, generation_config.json, tokenizer files. */
#include "ckpt/model_io.h"

#include <stdio.h>
#include <string.h>

#include "base/file.h"
#include "base/json.h"
#include "ckpt/model_source.h"
#include "ckpt/path.h"

ns_status ns_model_read(const char *dir, const ns_param_table *t, ns_param_put_fn put, void *user, ns_error *err)
{
    ns_model_source s;
    float *data = NULL;
    ns_status st = NS_OK;
    NS_TRY(ns_model_source_open(&s, dir, t, err), "%s", "");
    NS_CHECK(st, ns_alloc((void **)&data, (size_t)ns_param_table_largest(t) * sizeof *data, "model.scratch", err),
             "read model");
    for (int i = 0; i < t->n_params; i++) {
        NS_CHECK(st, ns_model_source_read(&s, i, data, err), "read %s", t->params[i].name);
        NS_CHECK(st, put(user, i, data, err), "load %s", t->params[i].name);
    }
done:
    ns_free(data);
    ns_model_source_close(&s);
    return st;
}

/* ---- writing ---- */

static ns_status write_text(const char *dir, const char *name, const char *p, size_t n, ns_error *err)
{
    char path[4096];
    ns_file *f = NULL;
    ns_status st = NS_OK;
    NS_CHECK(st, ns_path(path, sizeof path, err, "%s/%s", dir, name), "%s", "");
    NS_CHECK(st, ns_file_create(&f, path, err), "write %s", name);
    NS_CHECK(st, ns_file_write(f, p, n, err), "write %s", name);
    NS_CHECK(st, ns_file_close(&f, err), "write %s", name);
done:
    ns_file_abort(&f);
    return st;
}

static ns_status copy_if_there(int *copied, const char *dir, const char *from, const char *name, ns_error *err)
{
    char path[4096];
    ns_buf b = {0};
    *copied = 0;
    NS_TRY(ns_path(path, sizeof path, err, "%s/%s", from, name), "%s", "");
    if (!ns_path_exists(path)) return NS_OK;
    ns_status st = ns_file_read(&b, path, err);
    if (st == NS_OK) st = write_text(dir, name, b.data ? b.data : "", b.len, err);
    ns_buf_free(&b);
    *copied = st == NS_OK;
    return st;
}

/* The tokenizer's folder is usually the model that training started from: its config.json is the base whose other keys
 * (pad_token_id, use_cache ...) are kept, if it is of the same family. */
static ns_status write_config(const char *dir, const ns_arch *a, const char *from, ns_error *err)
{
    ns_arena arena = NS_ARENA_INIT("model.config");
    ns_json *base = NULL;
    ns_buf b = {0};
    ns_status st = NS_OK;
    char path[4096];
    ns_arch other;
    NS_CHECK(st, ns_path(path, sizeof path, err, "%s/config.json", from ? from : ""), "%s", "");
    if (from && ns_path_exists(path)) {
        ns_error why =
            NS_ERROR_INIT; /* a base that we do not understand is no base; one that cannot be read is an error */
        int ours = ns_json_read_file(&base, &arena, path, &why) == NS_OK &&
                   ns_arch_from_json(&other, base, path, &why) == NS_OK && other.family == a->family;
        NS_BAIL_IF(st, why.code == NS_ERR_MEMORY || why.code == NS_ERR_IO, why.code, "%s", why.msg);
        if (!ours) base = NULL;
    }
    NS_CHECK(st, ns_arch_write_json(&b, a, base, err), "write config.json");
    NS_CHECK(st, write_text(dir, "config.json", b.data, b.len, err), "%s", "");
done:
    ns_buf_free(&b);
    ns_arena_free(&arena);
    return st;
}

/* Adds the ids of `more` (an id or a list) that the list does not have. */
static ns_status add_ids(ns_json *list, ns_arena *arena, const ns_json *more, ns_error *err)
{
    const ns_json *v = more && more->type == NS_JSON_ARRAY ? more->items : more;
    size_t n = !more ? 0 : more->type == NS_JSON_ARRAY ? more->n : 1;
    for (size_t i = 0; i < n; i++) {
        int64_t id, other;
        int known = !ns_json_is_int(&v[i], &id);
        for (size_t k = 0; k < list->n && !known; k++) known = ns_json_is_int(&list->items[k], &other) && other == id;
        if (!known) NS_TRY(ns_json_append(list, arena, ns_json_new_int(arena, id, err), err), "%s", "");
    }
    return NS_OK;
}

/* generation_config.json of `from` with the ids of the model in front of its own, or a new one: generate() of transformers and vLLM
 * stop at these and do not look into config.json. */
static ns_status write_generation_config(const char *dir, const ns_arch *a, const char *from, ns_error *err)
{
    ns_arena arena = NS_ARENA_INIT("model.generation_config");
    ns_json *c = NULL, *ids;
    ns_buf b = {0};
    ns_status st = NS_OK;
    char path[4096];
    NS_CHECK(st, ns_path(path, sizeof path, err, "%s/generation_config.json", from ? from : ""), "%s", "");
    if (from && ns_path_exists(path)) {
        NS_CHECK(st, ns_json_read_file(&c, &arena, path, err), "%s", path);
        NS_BAIL_IF(st, c->type != NS_JSON_OBJECT, NS_ERR_INPUT, "%s is not a JSON object", path);
    } else {
        c = ns_json_new(&arena, NS_JSON_OBJECT, err);
        NS_BAIL_IF(st, !c, NS_ERR_MEMORY, "out of memory");
        NS_CHECK(st, ns_json_set(c, &arena, "_from_model_config", ns_json_new_bool(&arena, 1, err), err), "%s", "");
        if (a->bos >= 0)
            NS_CHECK(st, ns_json_set(c, &arena, "bos_token_id", ns_json_new_int(&arena, a->bos, err), err), "%s", "");
    }
    ids = ns_json_new(&arena, NS_JSON_ARRAY, err);
    NS_BAIL_IF(st, !ids, NS_ERR_MEMORY, "out of memory");
    for (int i = 0; i < a->n_eos; i++)
        NS_CHECK(st, ns_json_append(ids, &arena, ns_json_new_int(&arena, a->eos[i], err), err), "%s", "");
    NS_CHECK(st, add_ids(ids, &arena, ns_json_get(c, "eos_token_id"), err), "%s", "");
    if (ids->n) NS_CHECK(st, ns_json_set(c, &arena, "eos_token_id", ids->n == 1 ? ids->items : ids, err), "%s", "");
    NS_CHECK(st, ns_json_write_pretty(&b, c, err), "%s", "");
    NS_CHECK(st, ns_buf_addc(&b, '\n', err), "%s", "");
    NS_CHECK(st, write_text(dir, "generation_config.json", b.data, b.len, err), "%s", "");
done:
    ns_buf_free(&b);
    ns_arena_free(&arena);
    return st;
}

/* tokenizer_config.json, too, where it names a template: older readers look only there. */
ns_status ns_model_set_chat_template(const char *dir, const char *text, size_t n, ns_error *err)
{
    ns_arena arena = NS_ARENA_INIT("model.chat_template");
    ns_json *c = NULL, t = {.type = NS_JSON_STRING, .s = {text, n}};
    ns_buf b = {0};
    ns_status st = NS_OK;
    char path[4096];
    NS_CHECK(st, write_text(dir, "chat_template.jinja", text, n, err), "%s", "");
    NS_CHECK(st, ns_path(path, sizeof path, err, "%s/tokenizer_config.json", dir), "%s", "");
    if (!ns_path_exists(path)) goto done;
    NS_CHECK(st, ns_json_read_file(&c, &arena, path, err), "%s", path);
    NS_CHECK(st, ns_json_set(c, &arena, "chat_template", &t, err), "%s", path);
    NS_CHECK(st, ns_json_write_pretty(&b, c, err), "%s", "");
    NS_CHECK(st, ns_buf_addc(&b, '\n', err), "%s", "");
    NS_CHECK(st, write_text(dir, "tokenizer_config.json", b.data, b.len, err), "%s", "");
done:
    ns_buf_free(&b);
    ns_arena_free(&arena);
    return st;
}

ns_status ns_model_write_side_files(const char *dir, const ns_arch *a, const char *from, ns_error *err)
{
    static const char *const files[] = {
        "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "tokenizer.model", "vocab.json",
        "merges.txt",     "added_tokens.json",     "chat_template.jinja"};
    int copied = 0;
    NS_TRY(write_config(dir, a, from, err), "%s", "");
    NS_TRY(write_generation_config(dir, a, from, err), "%s", "");
    for (size_t i = 0; from && i < sizeof files / sizeof files[0]; i++) {
        NS_TRY(copy_if_there(&copied, dir, from, files[i], err), "copy files of %s", from);
    }
    return NS_OK;
}

/* The views of a parameter follow each other in declaration order, so its rows are written in one run of pieces. */
static ns_status write_values(ns_st_writer *w, ns_dtype dt, const float *data, int64_t n, ns_error *err)
{
    enum { PIECE = 16384 };
    double piece[PIECE * sizeof(float) / sizeof(double)]; /* aligned for any element type up to 4 bytes */
    if (dt == NS_DTYPE_F32) return ns_st_write(w, data, n * (int64_t)sizeof *data, err);
    for (int64_t i = 0; i < n; i += PIECE) {
        int64_t k = n - i < PIECE ? n - i : PIECE;
        ns_from_f32(piece, dt, data + i, (size_t)k);
        NS_TRY(ns_st_write(w, piece, k * (int64_t)ns_dtype_size(dt), err), "%s", "");
    }
    return NS_OK;
}

ns_status ns_model_write(const char *dir, const ns_param_table *t, ns_dtype dt, int64_t max_shard_bytes,
                         const char *tokenizer_dir, ns_param_get_fn get, void *user, ns_error *err)
{
    ns_st_writer *w = NULL;
    float *data = NULL;
    ns_status st = NS_OK;
    ns_arch a = *t->arch;
    a.dt = dt;
    NS_FAIL_IF(dt != NS_DTYPE_F32 && dt != NS_DTYPE_BF16 && dt != NS_DTYPE_F16, NS_ERR_UNSUPPORTED,
               "%s: cannot write model weights as %s (use F32, BF16 or F16)", dir, ns_dtype_name(dt));
    NS_CHECK(st, ns_model_write_side_files(dir, &a, tokenizer_dir, err), "write model");
    NS_CHECK(st, ns_alloc((void **)&data, (size_t)ns_param_table_largest(t) * sizeof *data, "model.scratch", err),
             "write model");
    NS_CHECK(st, ns_st_writer_new(&w, dir, "model", max_shard_bytes, err), "write model");
    for (int v = 0; v < t->n_views; v++) {
        int64_t shape[2] = {t->views[v].rows, t->params[t->views[v].param].cols};
        NS_CHECK(st, ns_st_declare(w, t->views[v].name, dt, shape, t->views[v].nd, err), "write model");
    }
    for (int i = 0; i < t->n_params; i++) {
        NS_CHECK(st, get(user, i, data, err), "get %s", t->params[i].name);
        NS_CHECK(st, write_values(w, dt, data, t->params[i].rows * t->params[i].cols, err), "write model");
    }
    NS_CHECK(st, ns_st_writer_close(&w, err), "write model");
done:
    ns_st_writer_abort(&w);
    ns_free(data);
    return st;
}
