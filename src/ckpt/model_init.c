/* Initial weights, and `ns init`: a config.json becomes a model folder with random weights, published in one step. Every
 * value depends on (arch, seed, parameter, element) alone, so any number of threads gives the same bytes. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/file.h"
#include "base/log.h"
#include "base/rng.h"
#include "base/threads.h"
#include "ckpt/model_io.h"
#include "ckpt/path.h"

enum { TILE = 1 << 16 };

typedef struct source {
    const ns_param_table *t;
    uint64_t seed;
    ns_threads *pool; /* NULL: inline */
    /* the parameter being filled */
    int param;
    double std;
    float *data;
    int64_t n;
} source;

static void fill_tile(void *arg, int tile, int worker)
{
    const source *s = arg;
    ns_philox_key key = {{(uint32_t)s->seed, (uint32_t)(s->seed >> 32)}};
    int64_t from = (int64_t)tile * TILE, to = from + TILE < s->n ? from + TILE : s->n;
    (void)worker;
    for (int64_t i = from; i < to; i++) {
        s->data[i] = (float)(s->std * ns_philox_normal(key, (uint64_t)s->param, (uint64_t)i));
    }
}

static ns_status get_initial(void *user, int param, float *data, ns_error *err)
{
    source *s = user;
    NS_FAIL_IF(param < 0 || param >= s->t->n_params, NS_ERR_INTERNAL, "no parameter %d", param);
    const ns_param *p = &s->t->params[param];
    s->param = param;
    s->data = data;
    s->n = p->rows * p->cols;
    s->std = s->t->arch->init_std;
    switch (p->kind) {
    case NS_P_ATTN_NORM:
    case NS_P_MLP_NORM:
    case NS_P_FINAL_NORM:
    case NS_P_Q_NORM:
    case NS_P_K_NORM:
        for (int64_t i = 0; i < s->n; i++) data[i] = s->t->arch->norm_plus_one ? 0.0f : 1.0f;
        return NS_OK;
    case NS_P_QKV_BIAS:
    case NS_P_O_BIAS: memset(data, 0, (size_t)s->n * sizeof *data); return NS_OK;
    case NS_P_O:
    case NS_P_DOWN: s->std /= sqrt(2.0 * (double)s->t->arch->L); break; /* 2 L branches add to the stream (GPT-2) */
    default: break;
    }
    ns_parallel_for(s->pool, (int)((s->n + TILE - 1) / TILE), fill_tile, s);
    return NS_OK;
}

ns_status ns_model_init_values(const ns_param_table *t, int param, uint64_t seed, float *data, ns_error *err)
{
    source s = {.t = t, .seed = seed};
    return get_initial(&s, param, data, err);
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
    ns_threads *pool = NULL;
    ns_status st = NS_OK;
    NS_CHECK(st, check_output(a, err), "%s", "");
    NS_CHECK(st, read_config(&arch, a->config_path, err), "%s", "");
    NS_CHECK(st, ns_param_table_build(&t, &arch, &arena, err), "%s", "");
    NS_CHECK(st, ns_path_split(parent, name, a->out, err), "%s", "");
    NS_CHECK(st, ns_threads_new(&pool, 0, err), "make %s", a->out);
    NS_CHECK(st, ns_dir_begin(tmp, sizeof tmp, parent, name, err), "make %s", a->out);
    source s = {.t = &t, .seed = a->seed, .pool = pool};
    NS_CHECK(st,
             ns_model_write(tmp, &t, a->dt, (int64_t)5 * 1000 * 1000 * 1000, a->tokenizer_dir, get_initial, &s, err),
             "make %s", a->out);
    NS_CHECK(st, ns_dir_publish(tmp, parent, name, err), "make %s", a->out);
    if (n_params) *n_params = t.n_elements;
done:
    if (st != NS_OK && tmp[0] && ns_remove_tree(tmp, NULL) != NS_OK) NS_WARN("cannot remove '%s'", tmp);
    ns_threads_free(&pool);
    ns_arena_free(&arena);
    return st;
}
