/* `ns init`: a config.json becomes a model folder with random weights, published in one step. */
#include <stdio.h>
#include <string.h>

#include "base/file.h"
#include "base/log.h"
#include "ckpt/model_io.h"
#include "ckpt/path.h"

typedef struct source {
    const ns_param_table *t;
    uint64_t seed;
} source;

static ns_status get_initial(void *user, int param, float *data, ns_error *err)
{
    const source *s = user;
    return ns_model_init_values(s->t, param, s->seed, data, err);
}

/* Only a model is ever replaced: a folder of something else that happens to have the name is not ours to remove. */
static ns_status check_output(const ns_model_init_args *a, ns_error *err)
{
    char path[4096];
    if (!ns_path_exists(a->out)) return NS_OK;
    NS_FAIL_IF(!a->replace, NS_ERR_INPUT, "%s exists already: choose another output, or say --force to replace it",
               a->out);
    NS_TRY(ns_path(path, sizeof path, err, "%s/config.json", a->out), "%s", "");
    NS_FAIL_IF(!ns_path_exists(path), NS_ERR_INPUT,
               "%s exists and is not a model folder (no config.json): remove it by hand", a->out);
    return NS_OK;
}

static ns_status read_config(ns_arch *a, const char *path, ns_error *err)
{
    char file[4096];
    NS_FAIL_IF(!ns_path_exists(path), NS_ERR_INPUT, "%s: no such config.json or folder", path);
    NS_TRY(ns_path(file, sizeof file, err, ns_path_is_dir(path) ? "%s/config.json" : "%s", path), "%s", "");
    return ns_arch_read(a, file, err);
}

ns_status ns_model_init(const ns_model_init_args *a, int64_t *n_params, ns_error *err)
{
    ns_arena arena = NS_ARENA_INIT("model.init");
    char parent[4096], name[256], tmp[4096] = "";
    ns_param_table t;
    ns_arch arch;
    ns_status st = NS_OK;
    NS_CHECK(st, check_output(a, err), "%s", "");
    NS_CHECK(st, read_config(&arch, a->config_path, err), "%s", "");
    NS_CHECK(st, ns_param_table_build(&t, &arch, &arena, err), "%s", "");
    NS_CHECK(st, ns_path_split(parent, name, a->out, err), "%s", "");
    NS_CHECK(st, ns_dir_begin(tmp, sizeof tmp, parent, name, err), "make %s", a->out);
    source s = {&t, a->seed};
    NS_CHECK(st,
             ns_model_write(tmp, &t, a->dt, (int64_t)5 * 1000 * 1000 * 1000, a->tokenizer_dir, get_initial, &s, err),
             "make %s", a->out);
    NS_CHECK(st, ns_dir_publish(tmp, parent, name, err), "make %s", a->out);
    if (n_params) *n_params = t.n_elements;
done:
    if (st != NS_OK && tmp[0] && ns_remove_tree(tmp, NULL) != NS_OK) NS_WARN("cannot remove '%s'", tmp);
    ns_arena_free(&arena);
    return st;
}
