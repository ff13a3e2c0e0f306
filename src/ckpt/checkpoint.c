/* Saving checkpoints and finding the last one. Flow of a save (state diagram: checkpoint.h):
 *
 *     write .name.tmp, publish as name       the training run can be averaged over it
 *     link name to .name-last.tmp, rename    a resume finds it
 *     retire other -last, then evict         only now does anything older go
 *
 * Invariant: from the first save on, a complete -last exists at every instant. What follows the publication is housekeeping:
 * if it fails the checkpoint is safe and training goes on, so it warns and does not fail the save. */
#include "ckpt/checkpoint.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/file.h"
#include "base/log.h"
#include "base/sys.h"
#include "ckpt/ckpt_state.h"
#include "ckpt/model_source.h"
#include "ckpt/scan.h"
#include "ckpt/path.h"

static const char *const states[3] = {"main", "m", "v"};

static ns_status write_file(const char *dir, const char *name, const ns_buf *b, ns_error *err)
{
    char path[4096];
    ns_file *f = NULL;
    ns_status st = NS_OK;
    NS_CHECK(st, ns_path(path, sizeof path, err, "%s/%s", dir, name), "%s", "");
    NS_CHECK(st, ns_file_create(&f, path, err), "write %s", name);
    NS_CHECK(st, ns_file_write(f, b->data, b->len, err), "write %s", name);
    NS_CHECK(st, ns_file_close(&f, err), "write %s", name);
done:
    ns_file_abort(&f);
    return st;
}

/* ---- optimiser state: one range per tensor, main, m, v of a parameter side by side ---- */

static int n_ranks(const ns_ckpt_save_args *a)
{
    return a->n_ranks < 1 ? 1 : a->n_ranks;
}

static void pieces(const ns_ckpt_save_args *a, int param, int64_t *cut)
{
    cut[0] = 0;
    cut[1] = a->table->params[param].rows * a->table->params[param].cols;
    if (n_ranks(a) > 1) a->cut(a->user, param, cut);
}

/* {"format":1,"tensors":{"main/embed":[{"off":0,"len":..,"file":"rank00000.safetensors"},..],..}} for the files of all ranks. */
static ns_status write_optimizer_index(const char *dir, const ns_ckpt_save_args *a, int64_t *cut, ns_error *err)
{
    const ns_param_table *t = a->table;
    ns_buf b = {0};
    ns_status st = NS_OK;
    NS_CHECK(st, ns_buf_adds(&b, "{\"format\": 1, \"tensors\": {", err), "%s", "");
    for (int k = 0; k < 3 * t->n_params; k++) {
        const char *comma = "";
        NS_CHECK(st, ns_buf_printf(&b, err, "%s\n  \"%s/%s\": [", k ? "," : "", states[k % 3], t->params[k / 3].name),
                 "%s", "");
        pieces(a, k / 3, cut);
        for (int r = 0; r < n_ranks(a); r++) {
            if (cut[r + 1] == cut[r]) continue;
            NS_CHECK(st,
                     ns_buf_printf(&b, err, "%s{\"off\": %lld, \"len\": %lld, \"file\": \"rank%05d.safetensors\"}",
                                   comma, (long long)cut[r], (long long)(cut[r + 1] - cut[r]), r),
                     "%s", "");
            comma = ", ";
        }
        NS_CHECK(st, ns_buf_addc(&b, ']', err), "%s", "");
    }
    NS_CHECK(st, ns_buf_adds(&b, "\n}}\n", err), "%s", "");
    NS_CHECK(st, write_file(dir, "index.json", &b, err), "%s", "");
done:
    ns_buf_free(&b);
    return st;
}

static ns_status write_state(ns_st_writer *w, ns_dtype dt, const float *data, int64_t n, ns_error *err)
{
    enum { BLOCK = 8192 };
    uint16_t half[BLOCK];
    if (dt == NS_DTYPE_F32) return ns_st_write(w, data, n * (int64_t)sizeof *data, err);
    for (int64_t k = 0; k < n; k += BLOCK) {
        const int64_t c = n - k < BLOCK ? n - k : BLOCK;
        ns_from_f32(half, dt, data + k, (size_t)c);
        NS_TRY(ns_st_write(w, half, c * 2, err), "%s", "");
    }
    return NS_OK;
}

/* This rank's pieces: optimizer/rankNNNNN.safetensors. */
static ns_status write_pieces(const char *dir, const ns_ckpt_save_args *a, int64_t *cut, float *data, ns_error *err)
{
    const ns_param_table *t = a->table;
    ns_st_writer *w = NULL;
    char name[128];
    ns_status st = NS_OK;
    snprintf(name, sizeof name, "rank%05d", a->rank);
    NS_CHECK(st, ns_st_writer_new(&w, dir, name, 0, err), "%s", "");
    for (int k = 0; k < 3 * t->n_params; k++) {
        pieces(a, k / 3, cut);
        int64_t off = cut[a->rank], n = cut[a->rank + 1] - off;
        if (n == 0) continue;
        snprintf(name, sizeof name, "%s/%s@%lld:%lld", states[k % 3], t->params[k / 3].name, (long long)off,
                 (long long)n);
        NS_CHECK(st, ns_st_declare(w, name, a->state_dt[k % 3], &n, 1, err), "%s", "");
    }
    for (int i = 0; i < t->n_params; i++) {
        pieces(a, i, cut);
        int64_t off = cut[a->rank], n = cut[a->rank + 1] - off;
        if (n == 0 && !a->collective) continue;
        NS_CHECK(st, a->get_opt(a->user, i, off, n, data, data + n, data + 2 * n, err), "get optimiser state of %s",
                 t->params[i].name);
        for (int k = 0; k < 3; k++) NS_CHECK(st, write_state(w, a->state_dt[k], data + k * n, n, err), "%s", "");
    }
    NS_CHECK(st, ns_st_writer_close(&w, err), "%s", "");
done:
    ns_st_writer_abort(&w);
    return st;
}

static ns_status write_optimizer(const char *ckpt, const ns_ckpt_save_args *a, ns_error *err)
{
    float *data = NULL;
    int64_t *cut = NULL;
    char dir[4096];
    ns_status st = NS_OK;
    int64_t most = ns_param_table_largest(a->table);
    NS_CHECK(st, ns_path(dir, sizeof dir, err, "%s/optimizer", ckpt), "%s", "");
    NS_CHECK(st, ns_mkdirs(dir, err), "save optimiser state");
    NS_CHECK(st, ns_alloc((void **)&data, 3 * (size_t)most * sizeof *data, "ckpt.optimizer", err),
             "save optimiser state");
    NS_CHECK(st, ns_alloc((void **)&cut, ((size_t)n_ranks(a) + 1) * sizeof *cut, "ckpt.optimizer", err),
             "save optimiser state");
    NS_CHECK(st, write_pieces(dir, a, cut, data, err), "save optimiser state");
    if (a->rank == 0) NS_CHECK(st, write_optimizer_index(dir, a, cut, err), "save optimiser state");
done:
    ns_free(data);
    ns_free(cut);
    return st;
}

static ns_status write_all(const char *tmp, const ns_ckpt_save_args *a, ns_error *err)
{
    ns_buf b = {0};
    ns_status st = NS_OK;
    int64_t shard = (int64_t)5 * 1000 * 1000 * 1000;
    NS_CHECK(st, ns_model_write(tmp, a->table, a->dt, shard, a->tokenizer_dir, a->get_model, a->user, err), "%s", "");
    if (a->chat_template.p)
        NS_CHECK(st, ns_model_set_chat_template(tmp, a->chat_template.p, a->chat_template.n, err), "chat template");
    NS_CHECK(st, write_optimizer(tmp, a, err), "%s", "");
    NS_CHECK(st, ns_ckpt_state_json(&b, a->state, a->table->hash, err), "%s", "");
    NS_CHECK(st, write_file(tmp, "state.json", &b, err), "%s", "");
done:
    ns_buf_free(&b);
    return st;
}

/* ---- publishing ---- */

static ns_status vote(const ns_ckpt_save_args *a, ns_status mine, ns_error *err)
{
    return n_ranks(a) > 1 ? a->vote(a->vote_user, mine, err) : mine;
}

/* Rank 0 writes the model and asks for each parameter once, in order (ns_model_write): the others take part. */
static ns_status help_model(const ns_ckpt_save_args *a, ns_error *err)
{
    float *data = NULL;
    ns_status st = NS_OK;
    NS_CHECK(st, ns_alloc((void **)&data, (size_t)ns_param_table_largest(a->table) * sizeof *data, "ckpt.model", err),
             "%s", "save model");
    for (int i = 0; i < a->table->n_params; i++)
        NS_CHECK(st, a->get_model(a->user, i, data, err), "get %s", a->table->params[i].name);
done:
    ns_free(data);
    return st;
}

/* What the other ranks do while rank 0 publishes: their file goes into the folder that rank 0 has begun. */
static ns_status write_part(const ns_ckpt_save_args *a, const char *name, ns_error *err)
{
    char tmp[4096];
    ns_status st = ns_path(tmp, sizeof tmp, err, "%s/.%s.tmp", a->dir, name);
    st = vote(a, st, err);
    if (st == NS_OK && !ns_path_exists(tmp))
        st = ns_error_set(
            err, NS_ERR_IO, __FILE__, __LINE__,
            "%s: rank 0 has made this folder, rank %d does not see it: the output folder must lie on a file "
            "system that all machines share",
            tmp, a->rank);
    else if (st == NS_OK) {
        if (a->collective) st = help_model(a, err);
        if (st == NS_OK) st = write_optimizer(tmp, a, err);
    } else
        return st;
    return vote(a, st, err);
}

static ns_status publish(const ns_ckpt_save_args *a, const char *name, ns_error *err)
{
    char tmp[4096];
    ns_status st = ns_dir_begin(tmp, sizeof tmp, a->dir, name, err);
    st = vote(a, st, err);
    if (st != NS_OK) {
        ns_error_frame(err, __FILE__, __LINE__, "save checkpoint %s", name);
        return st;
    }
    st = vote(a, write_all(tmp, a, err), err);
    if (st == NS_OK) st = ns_dir_publish(tmp, a->dir, name, err);
    if (st == NS_OK) return NS_OK;
    ns_error_frame(err, __FILE__, __LINE__, "save checkpoint %s/%s", a->dir, name);
    if (ns_remove_tree(tmp, NULL) != NS_OK) NS_WARN("cannot remove '%s'; the next start will", tmp);
    return st;
}

/* Links name to name-last. ns_link_tree links DONE last of all, so the copy is complete and need not be read again; only
 * replacing a -last of the same name (a run that saved this step before) goes through the swap of ns_dir_publish. */
static ns_status publish_last(const ns_ckpt_save_args *a, const char *last, ns_error *err)
{
    char from[4096], tmp[4096], to[4096];
    NS_TRY(ns_path(from, sizeof from, err, "%s/%s", a->dir, a->name), "%s", "");
    NS_TRY(ns_path(tmp, sizeof tmp, err, "%s/.%s.tmp", a->dir, last), "%s", "");
    NS_TRY(ns_path(to, sizeof to, err, "%s/%s", a->dir, last), "%s", "");
    NS_TRY(ns_remove_tree(tmp, err), "publish '%s'", to);
    ns_status st = ns_link_tree(from, tmp, err);
    if (st == NS_OK && ns_path_exists(to)) {
        st = ns_dir_publish(tmp, a->dir, last, err);
    } else if (st == NS_OK) {
        if (ns_sys_rename(tmp, to) != 0) st = ns_sys_error(err, "rename the new folder to", to);
        if (st == NS_OK) st = ns_fsync_dir(a->dir, err);
    }
    if (st != NS_OK) {
        ns_error_frame(err, __FILE__, __LINE__, "publish '%s'", to);
        if (ns_remove_tree(tmp, NULL) != NS_OK) NS_WARN("cannot remove '%s'; the next start will", tmp);
    }
    return st;
}

/* ---- housekeeping ---- */

static ns_status retire_old_last(const ns_ckpt_save_args *a, const char *keep, const ns_ckpt_entry *e, size_t n,
                                 ns_error *err)
{
    for (size_t i = 0; i < n; i++) {
        if (!e[i].is_last || strcmp(e[i].name, keep) == 0) continue;
        NS_TRY(ns_ckpt_retire(a->dir, e[i].name, err), "remove the older '%s'", e[i].name);
    }
    return NS_OK;
}

/* 1 if x should go before y: no loss is worst, then the higher loss, then the older. */
static int is_worse(const ns_ckpt_state *x, const ns_ckpt_state *y)
{
    if (isnan(x->val_loss) != isnan(y->val_loss)) return isnan(x->val_loss);
    if (!isnan(x->val_loss) && x->val_loss != y->val_loss) return x->val_loss > y->val_loss;
    return x->step < y->step;
}

/* Keeps the save_top_k best named checkpoints. The one just saved always stays. Recorded first, then removed. */
static ns_status evict(const ns_ckpt_save_args *a, ns_ckpt_entry *e, size_t n, ns_error *err)
{
    size_t named = 0;
    for (size_t i = 0; i < n; i++) named += !e[i].is_last;
    for (; a->save_top_k > 0 && named > (size_t)a->save_top_k; named--) {
        ns_ckpt_entry *worst = NULL;
        for (size_t i = 0; i < n; i++) {
            if (e[i].is_last || !e[i].name[0] || strcmp(e[i].name, a->name) == 0) continue;
            if (!worst || is_worse(&e[i].state, &worst->state)) worst = &e[i];
        }
        if (!worst) return NS_OK;
        NS_INFO("save_top_k %d: removes checkpoint %s (val_loss %g)", a->save_top_k, worst->name,
                worst->state.val_loss);
        NS_TRY(ns_ckpt_evicted_add(a->dir, worst, err), "evict '%s'", worst->name);
        NS_TRY(ns_ckpt_retire(a->dir, worst->name, err), "evict '%s'", worst->name);
        worst->name = "";
    }
    return NS_OK;
}

/* Optimiser state stays with the last keep_optimizer named checkpoints (and always with -last). Entries are sorted by step. */
static ns_status drop_optimizer(const ns_ckpt_save_args *a, const ns_ckpt_entry *e, size_t n, ns_error *err)
{
    int seen = 0;
    char path[4096];
    for (size_t i = n; i-- > 0;) {
        if (e[i].is_last || !e[i].name[0]) continue;
        if (++seen <= a->keep_optimizer || a->keep_optimizer < 0) continue;
        NS_TRY(ns_path(path, sizeof path, err, "%s/%s", a->dir, e[i].name), "%s", "");
        NS_TRY(ns_dir_drop(path, "optimizer", err), "drop the optimiser state of '%s'", e[i].name);
    }
    return NS_OK;
}

static ns_status tidy(const ns_ckpt_save_args *a, const char *last, ns_error *err)
{
    ns_arena arena = NS_ARENA_INIT("ckpt.tidy");
    ns_ckpt_entry *e;
    size_t n;
    ns_status st = NS_OK;
    NS_CHECK(st, ns_ckpt_scan(&e, &n, a->dir, &arena, err), "%s", "");
    NS_CHECK(st, retire_old_last(a, last, e, n, err), "%s", "");
    NS_CHECK(st, evict(a, e, n, err), "%s", "");
    NS_CHECK(st, drop_optimizer(a, e, n, err), "%s", "");
done:
    ns_arena_free(&arena);
    return st;
}

ns_status ns_ckpt_save(const ns_ckpt_save_args *a, ns_error *err)
{
    char last[300], text[1200];
    size_t n = strlen(a->name);
    NS_FAIL_IF(n == 0 || n > 250 || a->name[0] == '.' || strchr(a->name, '/') ||
                   (n >= 5 && strcmp(a->name + n - 5, "-last") == 0),
               NS_ERR_CONFIG, "'%s' cannot name a checkpoint (1 to 250 bytes, no '/', not hidden, not ending in -last)",
               a->name);
    snprintf(last, sizeof last, "%s-last", a->name);
    if (n_ranks(a) > 1 && a->rank > 0) {
        NS_TRY(write_part(a, a->keep_named && a->save_top_k != 0 ? a->name : last, err),
               "save checkpoint %s, part of rank %d", a->name, a->rank);
        return NS_OK;
    }
    NS_TRY(ns_mkdirs(a->dir, err), "save checkpoint");
    if (a->keep_named && a->save_top_k != 0) {
        NS_TRY(publish(a, a->name, err), "%s", "");
        NS_TRY(publish_last(a, last, err), "%s", "");
    } else {
        NS_TRY(publish(a, last, err), "%s", "");
    }
    ns_error later = NS_ERROR_INIT;
    if (tidy(a, last, &later) != NS_OK) {
        NS_WARN("checkpoint %s is saved, but tidying up failed: %s", a->name, ns_error_text(&later, text, sizeof text));
    }
    return NS_OK;
}

ns_status ns_ckpt_find_last(char *path, size_t path_size, const char *dir, ns_error *err)
{
    ns_arena arena = NS_ARENA_INIT("ckpt.find");
    ns_ckpt_entry *e;
    size_t n;
    ns_status st = NS_OK;
    path[0] = 0;
    NS_CHECK(st, ns_ckpt_clean(dir, err), "%s", "");
    NS_CHECK(st, ns_ckpt_scan(&e, &n, dir, &arena, err), "look for a checkpoint in '%s'", dir);
    for (size_t i = n; i-- > 0;) { /* sorted by step: the first from behind is the newest */
        if (!e[i].is_last) continue;
        int k = snprintf(path, path_size, "%s/%s", dir, e[i].name);
        NS_BAIL_IF(st, k < 0 || (size_t)k >= path_size, NS_ERR_INPUT, "path is too long: '%s/%s'", dir, e[i].name);
        break;
    }
done:
    ns_arena_free(&arena);
    return st;
}
