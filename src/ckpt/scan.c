/* Looking through, cleaning and pruning a folder of checkpoints. Only what has DONE and state.json is a checkpoint; other
 * folders (an averaged model, a user's own) are left alone. */
#include "ckpt/scan.h"
#include "ckpt/model_source.h"

#include <dirent.h>
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/json.h"
#include "base/log.h"
#include "base/sys.h"
#include "ckpt/path.h"

static int ends_with(const char *s, const char *suffix)
{
    size_t n = strlen(s), k = strlen(suffix);
    return n > k && strcmp(s + n - k, suffix) == 0;
}

/* Names of the sub-folders of dir, sorted. */

static int by_name(const void *a, const void *b)
{
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

static ns_status list_dirs(const char ***out, size_t *n, const char *dir, ns_arena *arena, ns_error *err)
{
    ns_status st = NS_OK;
    const char **v = NULL;
    size_t cap = 0;
    char path[4096];
    *out = NULL;
    *n = 0;
    DIR *d = opendir(dir);
    if (!d && errno == ENOENT) return NS_OK;
    NS_FAIL_IF(!d, NS_ERR_IO, "cannot open folder '%s': %s", dir, strerror(errno));
    for (struct dirent *e; (e = readdir(d)) != NULL;) {
        if (strcmp(e->d_name, ".") == 0 || strcmp(e->d_name, "..") == 0) continue;
        NS_CHECK(st, ns_path(path, sizeof path, err, "%s/%s", dir, e->d_name), "%s", "");
        if (!ns_path_is_dir(path)) continue;
        NS_CHECK(st, ns_grow((void **)&v, &cap, *n + 1, sizeof *v, "ckpt.list", err), "list '%s'", dir);
        v[*n] = ns_arena_strdup(arena, e->d_name, err);
        if (!v[(*n)++]) {
            st = NS_ERR_MEMORY;
            goto done;
        }
    }
    if (*n) qsort(v, *n, sizeof *v, by_name);
    *out = ns_arena_alloc(arena, (*n + 1) * sizeof *v, err);
    if (!*out) st = NS_ERR_MEMORY;
    if (*out && *n) memcpy(*out, v, *n * sizeof *v);
done:
    closedir(d);
    ns_free(v);
    return st;
}

static int by_step(const void *a, const void *b)
{
    const ns_ckpt_entry *x = a, *y = b;
    if (x->state.step != y->state.step) return x->state.step < y->state.step ? -1 : 1;
    return strcmp(x->name, y->name);
}

/* Out of memory must not look like "not complete": the folder would be passed over, or removed. */
static ns_status is_done(int *done, const char *path, ns_error *err)
{
    ns_error why = NS_ERROR_INIT;
    *done = ns_dir_is_done(path, 0, &why) == 1;
    NS_FAIL_IF(!*done && why.code == NS_ERR_MEMORY, NS_ERR_MEMORY, "%s", why.msg);
    return NS_OK;
}

ns_status ns_ckpt_scan(ns_ckpt_entry **out, size_t *n, const char *dir, ns_arena *arena, ns_error *err)
{
    const char **names;
    size_t n_names;
    char path[4096];
    *n = 0;
    NS_TRY(list_dirs(&names, &n_names, dir, arena, err), "%s", "");
    *out = ns_arena_alloc(arena, (n_names + 1) * sizeof **out, err);
    if (!*out) return NS_ERR_MEMORY;
    for (size_t i = 0; i < n_names; i++) {
        ns_ckpt_entry *e = &(*out)[*n];
        if (names[i][0] == '.') continue;
        NS_TRY(ns_path(path, sizeof path, err, "%s/%s/state.json", dir, names[i]), "%s", "");
        if (!ns_path_exists(path)) continue;
        NS_TRY(ns_path(path, sizeof path, err, "%s/%s", dir, names[i]), "%s", "");
        int done;
        NS_TRY(is_done(&done, path, err), "%s", "");
        if (!done) continue;
        e->name = names[i];
        e->is_last = ends_with(names[i], "-last");
        NS_TRY(ns_ckpt_read_state(&e->state, path, err), "%s", "");
        (*n)++;
    }
    if (*n) qsort(*out, *n, sizeof **out, by_step);
    return NS_OK;
}

/* "megatron_gpt_sft--val_loss=0.3-step=1000-consumed_samples=…-last" -> 1000; "checkpoint-500" -> 500; -1: none. */
static int64_t step_in(const char *name)
{
    const char *at = NULL;
    size_t n = strlen(name);
    if (ends_with(name, "-last")) n -= strlen("-last");
    for (const char *p = name; (p = strstr(p, "step=")); p += 5) at = p + 5;
    if (!at) {
        at = name + n;
        while (at > name && at[-1] >= '0' && at[-1] <= '9') at--;
    }
    int64_t v = 0;
    int digits = 0;
    for (; at < name + n && *at >= '0' && *at <= '9' && digits < 18; at++, digits++) v = v * 10 + (*at - '0');
    return digits ? v : -1;
}

ns_status ns_ckpt_scan_models(ns_ckpt_entry **out, size_t *n, const char *dir, ns_arena *arena, ns_error *err)
{
    const char **names;
    size_t n_names;
    char path[4096];
    *n = 0;
    NS_TRY(list_dirs(&names, &n_names, dir, arena, err), "%s", "");
    *out = ns_arena_alloc(arena, (n_names + 1) * sizeof **out, err);
    if (!*out) return NS_ERR_MEMORY;
    for (size_t i = 0; i < n_names; i++) {
        int64_t step = step_in(names[i]);
        if (names[i][0] == '.' || step < 0) continue;
        NS_TRY(ns_path(path, sizeof path, err, "%s/%s/state.json", dir, names[i]), "%s", "");
        if (ns_path_exists(path)) continue; /* one of ours that is not complete */
        NS_TRY(ns_path(path, sizeof path, err, "%s/%s", dir, names[i]), "%s", "");
        if (ns_model_format(path) == NS_FORMAT_UNKNOWN) continue;
        ns_ckpt_entry *e = &(*out)[(*n)++];
        memset(e, 0, sizeof *e);
        e->name = names[i];
        e->is_last = ends_with(names[i], "-last");
        e->state.step = step;
    }
    if (*n) qsort(*out, *n, sizeof **out, by_step);
    return NS_OK;
}

/* ---- left-overs ---- */

/* .NAME.old is the folder that an interrupted replacement had moved aside. */
static ns_status settle_old(const char *dir, const char *hidden, ns_error *err)
{
    char old[4096], final[4096];
    NS_TRY(ns_path(old, sizeof old, err, "%s/%s", dir, hidden), "%s", "");
    NS_TRY(ns_path(final, sizeof final, err, "%s/%.*s", dir, (int)(strlen(hidden) - strlen(".old") - 1), hidden + 1),
           "%s", "");
    int done;
    NS_TRY(is_done(&done, old, err), "%s", "");
    if (ns_path_exists(final) || !done) return ns_remove_tree(old, err);
    NS_WARN("%s: puts back the checkpoint that an interrupted save had moved aside", final);
    NS_FAIL_IF(ns_sys_rename(old, final) != 0, NS_ERR_IO, "cannot rename '%s' to '%s': %s", old, final,
               strerror(errno));
    return ns_fsync_dir(dir, err);
}

/* A kill while DONE was replaced (ns_dir_drop) leaves the new text under a temporary name beside the good DONE. */
static ns_status remove_torn_done(const char *dir, const char *name, ns_error *err)
{
    char path[4096];
    NS_TRY(ns_path(path, sizeof path, err, "%s/%s", dir, name), "%s", "");
    DIR *d = opendir(path);
    if (!d) return NS_OK; /* not a folder */
    ns_status st = NS_OK;
    for (struct dirent *x; st == NS_OK && (x = readdir(d));) {
        if (strncmp(x->d_name, "DONE.tmp.", 9) != 0) continue;
        st = ns_path(path, sizeof path, err, "%s/%s/%s", dir, name, x->d_name);
        if (st == NS_OK) NS_INFO("removes what an interrupted save left: %s", path);
        if (st == NS_OK) st = ns_remove_tree(path, err);
    }
    closedir(d);
    return st;
}

ns_status ns_ckpt_clean(const char *dir, ns_error *err)
{
    ns_arena arena = NS_ARENA_INIT("ckpt.clean");
    const char **names;
    size_t n;
    char path[4096];
    ns_status st = NS_OK;
    NS_CHECK(st, list_dirs(&names, &n, dir, &arena, err), "clean '%s'", dir);
    for (size_t i = 0; i < n; i++) {
        if (names[i][0] != '.') {
            NS_CHECK(st, remove_torn_done(dir, names[i], err), "clean '%s'", dir);
            continue;
        }
        if (ends_with(names[i], ".old")) NS_CHECK(st, settle_old(dir, names[i], err), "clean '%s'", dir);
        if (!ends_with(names[i], ".tmp")) continue;
        NS_INFO("removes what an interrupted save left: %s/%s", dir, names[i]);
        NS_CHECK(st, ns_path(path, sizeof path, err, "%s/%s", dir, names[i]), "%s", "");
        NS_CHECK(st, ns_remove_tree(path, err), "clean '%s'", dir);
    }
done:
    ns_arena_free(&arena);
    return st;
}

ns_status ns_ckpt_retire(const char *dir, const char *name, ns_error *err)
{
    char from[4096], to[4096];
    NS_TRY(ns_path(from, sizeof from, err, "%s/%s", dir, name), "%s", "");
    NS_TRY(ns_path(to, sizeof to, err, "%s/.%s.tmp", dir, name), "%s", "");
    NS_TRY(ns_remove_tree(to, err), "remove '%s'", from);
    NS_FAIL_IF(ns_sys_rename(from, to) != 0, NS_ERR_IO, "cannot rename '%s' to '%s': %s", from, to, strerror(errno));
    NS_TRY(ns_remove_tree(to, err), "remove '%s'", from);
    return ns_fsync_dir(dir, err);
}

/* ---- evicted.json: {"format":1,"evicted":[{"step":..,"val_loss":..,"name":..}]} ---- */

static ns_status evicted_tree(ns_json **out, const char *dir, ns_arena *arena, ns_error *err)
{
    char path[4096];
    NS_TRY(ns_path(path, sizeof path, err, "%s/evicted.json", dir), "%s", "");
    if (ns_path_exists(path)) {
        NS_TRY(ns_json_read_file(out, arena, path, err), "read the list of evicted checkpoints");
        const ns_json *list = ns_json_get(*out, "evicted");
        NS_FAIL_IF(!list || list->type != NS_JSON_ARRAY, NS_ERR_INPUT, "%s: \"evicted\" is not a list", path);
        return NS_OK;
    }
    *out = ns_json_new(arena, NS_JSON_OBJECT, err);
    if (!*out) return NS_ERR_MEMORY;
    NS_TRY(ns_json_set(*out, arena, "format", ns_json_new_int(arena, 1, err), err), "%s", "");
    return ns_json_set(*out, arena, "evicted", ns_json_new(arena, NS_JSON_ARRAY, err), err);
}

ns_status ns_ckpt_evicted_read(ns_ckpt_evicted **out, size_t *n, const char *dir, ns_arena *arena, ns_error *err)
{
    ns_json *root;
    *n = 0;
    NS_TRY(evicted_tree(&root, dir, arena, err), "%s", "");
    const ns_json *list = ns_json_get(root, "evicted");
    *out = ns_arena_alloc(arena, (list->n + 1) * sizeof **out, err);
    if (!*out) return NS_ERR_MEMORY;
    for (size_t i = 0; i < list->n; i++) {
        ns_ckpt_evicted *e = &(*out)[*n];
        e->val_loss = NAN;
        (void)ns_json_is_num(ns_json_get(&list->items[i], "val_loss"), &e->val_loss);
        if (ns_json_is_int(ns_json_get(&list->items[i], "step"), &e->step)) (*n)++;
    }
    return NS_OK;
}

ns_status ns_ckpt_evicted_add(const char *dir, const ns_ckpt_entry *e, ns_error *err)
{
    ns_arena arena = NS_ARENA_INIT("ckpt.evicted");
    ns_json *root = NULL;
    ns_buf b = {0};
    char path[4096];
    ns_status st = NS_OK;
    NS_CHECK(st, evicted_tree(&root, dir, &arena, err), "%s", "");
    ns_json *item = ns_json_new(&arena, NS_JSON_OBJECT, err);
    if (!item) st = NS_ERR_MEMORY;
    if (st != NS_OK) goto done;
    NS_CHECK(st, ns_json_set(item, &arena, "step", ns_json_new_int(&arena, e->state.step, err), err), "%s", "");
    if (!isnan(e->state.val_loss)) {
        NS_CHECK(st, ns_json_set(item, &arena, "val_loss", ns_json_new_num(&arena, e->state.val_loss, err), err), "%s",
                 "");
    }
    NS_CHECK(st, ns_json_set(item, &arena, "name", ns_json_new_str(&arena, e->name, err), err), "%s", "");
    ns_json *list = (ns_json *)(uintptr_t)ns_json_get(root, "evicted"); /* ours to change: the tree is in our arena */
    NS_CHECK(st, ns_json_append(list, &arena, item, err), "%s", "");
    NS_CHECK(st, ns_json_write_pretty(&b, root, err), "%s", "");
    NS_CHECK(st, ns_path(path, sizeof path, err, "%s/evicted.json", dir), "%s", "");
    NS_CHECK(st, ns_file_replace(path, b.data, b.len, err), "record an evicted checkpoint");
done:
    ns_buf_free(&b);
    ns_arena_free(&arena);
    return st;
}
