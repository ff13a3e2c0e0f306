/* `ns show`: what a model (Hugging Face, NeMo) or safetensors file holds: names, types, shapes; for a checkpoint also where it stands. */
#include <stdio.h>
#include <string.h>

#include "base/file.h"
#include "base/hub/hub.h"
#include "base/json.h"
#include "ckpt/checkpoint.h"
#include "ckpt/model_source.h"
#include "ckpt/nemo.h"
#include "cli/cli.h"

typedef struct show_options {
    const char *model;
} show_options;

static const ns_option opts[] = {
    {.key = "model",
     .flag = 1,
     .short_name = 'm',
     .type = NS_OPT_STRING,
     .flags = NS_OPT_MODEL,
     .at = offsetof(show_options, model),
     .help = "model folder (Hugging Face, NeMo), checkpoint, .nemo or .safetensors file"},
};

static const char *type_of(const ns_arc_tensor *t)
{
    return t->q ? t->q->name : ns_dtype_name(t->dt);
}

static ns_status add_shape(ns_buf *b, const ns_arc_tensor *t, const char *comma, ns_error *err)
{
    NS_TRY(ns_buf_addc(b, '[', err), "%s", "");
    for (int i = 0; i < t->nd; i++) {
        NS_TRY(ns_buf_printf(b, err, "%s%lld", i ? comma : "", (long long)t->shape[i]), "%s", "");
    }
    return ns_buf_addc(b, ']', err);
}

static ns_status as_json(ns_buf *b, const ns_archive *st, int64_t n, int64_t bytes, const ns_ckpt_state *state,
                         ns_error *err)
{
    NS_TRY(ns_buf_printf(b, err, "{\"parameters\": %lld, \"bytes\": %lld", (long long)n, (long long)bytes), "%s", "");
    if (state) {
        NS_TRY(ns_buf_printf(b, err, ", \"step\": %lld, \"consumed_samples\": %lld, \"epoch\": %lld",
                             (long long)state->step, (long long)state->consumed_samples, (long long)state->epoch),
               "%s", "");
    }
    NS_TRY(ns_buf_adds(b, ", \"tensors\": [", err), "%s", "");
    for (int i = 0; i < (int)st->n; i++) {
        const ns_arc_tensor *t = (&st->t[i]);
        NS_TRY(ns_buf_adds(b, i ? ",\n  {\"name\": " : "\n  {\"name\": ", err), "%s", "");
        NS_TRY(ns_json_write_str(b, (ns_str){t->name, strlen(t->name)}, NS_JSON_UTF8, err), "%s", "");
        NS_TRY(ns_buf_printf(b, err, ", \"dtype\": \"%s\", \"shape\": ", type_of(t)), "%s", "");
        NS_TRY(add_shape(b, t, ", ", err), "%s", "");
        NS_TRY(ns_buf_addc(b, '}', err), "%s", "");
    }
    return ns_buf_adds(b, "\n]}\n", err);
}

static ns_status as_text(ns_buf *b, const ns_archive *st, int64_t n, int64_t bytes, const ns_ckpt_state *state,
                         ns_error *err)
{
    int width = 4;
    for (int i = 0; i < (int)st->n; i++) {
        int k = (int)strlen((&st->t[i])->name);
        if (k > width && k <= 80) width = k;
    }
    for (int i = 0; i < (int)st->n; i++) {
        const ns_arc_tensor *t = (&st->t[i]);
        NS_TRY(ns_buf_printf(b, err, "%-*s  %-7s ", width, t->name, type_of(t)), "%s", "");
        NS_TRY(add_shape(b, t, ",", err), "%s", "");
        NS_TRY(ns_buf_addc(b, '\n', err), "%s", "");
    }
    if (state) {
        NS_TRY(ns_buf_printf(b, err, "checkpoint: step %lld, %lld samples, epoch %lld\n", (long long)state->step,
                             (long long)state->consumed_samples, (long long)state->epoch),
               "%s", "");
    }
    return ns_buf_printf(b, err, "%d tensors, %lld parameters, %lld bytes\n", (int)st->n, (long long)n,
                         (long long)bytes);
}

static ns_status list_gguf(ns_archive *a, const char *path, ns_error *err)
{
    char file[4096];
    ns_gguf *g = NULL;
    NS_FAIL_IF(!ns_gguf_find(file, path), NS_ERR_INPUT, "%s: no GGUF file", path);
    NS_TRY(ns_gguf_open(&g, file, err), "%s", "");
    ns_status st = NS_OK;
    const ns_archive *n = ns_gguf_native(g);
    for (size_t i = 0; i < n->n && st == NS_OK; i++) {
        ns_arc_tensor *t;
        st = ns_archive_add(a, &t, n->t[i].name, n->t[i].dt, n->t[i].shape, n->t[i].nd, err);
        if (st == NS_OK) t->q = n->t[i].q;
    }
    ns_gguf_close(&g);
    return st;
}

/* Every rank's tensors, "rank0: " in front. */
static ns_status list_ranks(ns_archive *a, const char *path, ns_error *err)
{
    char file[4096], name[400];
    for (int r = 0;; r++) {
        ns_st *st = NULL;
        int k = snprintf(file, sizeof file, "%s/rank%d.safetensors", path, r);
        if (k < 0 || k >= (int)sizeof file || !ns_path_exists(file)) return NS_OK;
        NS_TRY(ns_st_open(&st, file, err), "%s", "");
        ns_status s = NS_OK;
        for (int i = 0; i < ns_st_count(st) && s == NS_OK; i++) {
            const ns_st_tensor *t = ns_st_at(st, i);
            snprintf(name, sizeof name, "rank%d: %.300s", r, t->name);
            s = ns_archive_add(a, NULL, name, t->dt, t->shape, t->nd, err);
        }
        ns_st_close(&st);
        if (s != NS_OK) return s;
    }
}

/* Names, types and shapes as the file has them. *kind: how the weights lie, "" for safetensors. */
static ns_status list_tensors(ns_archive *a, const char **kind, const char *path, ns_error *err)
{
    ns_tree *tree = NULL;
    ns_st *st = NULL;
    ns_status s = NS_OK;
    *kind = "";
    size_t n = strlen(path);
    ns_format f = ns_model_format(path);
    int file = n > 12 && !strcmp(path + n - 12, ".safetensors");
    if (!file && f == NS_FORMAT_GGUF) {
        NS_CHECK(s, list_gguf(a, path, err), "%s", "");
    } else if (!file && f == NS_FORMAT_TRT) {
        NS_CHECK(s, list_ranks(a, path, err), "%s", "");
    } else if (!file && f == NS_FORMAT_NEMO) {
        NS_CHECK(s, ns_tree_open(&tree, path, err), "%s", "");
        NS_CHECK(s, ns_nemo_native(a, tree, kind, err), "%s", "");
    } else {
        NS_CHECK(s, ns_st_open(&st, path, err), "%s", "");
        for (int i = 0; i < ns_st_count(st); i++) {
            const ns_st_tensor *t = ns_st_at(st, i);
            NS_CHECK(s, ns_archive_add(a, NULL, t->name, t->dt, t->shape, t->nd, err), "%s", "");
        }
    }
done:
    ns_st_close(&st);
    ns_tree_close(&tree); /* only names and shapes are looked at from here on */
    return s;
}

static ns_status show(ns_buf *b, const char *path, int json, ns_error *err)
{
    char state_path[4096];
    ns_archive a;
    ns_ckpt_state state;
    const char *kind;
    int64_t n = 0, bytes = 0;
    ns_archive_init(&a, path);
    ns_status s = list_tensors(&a, &kind, path, err);
    for (size_t i = 0; s == NS_OK && i < a.n; i++) {
        n += a.t[i].n;
        bytes += a.t[i].q ? a.t[i].n / a.t[i].q->block * a.t[i].q->bytes : a.t[i].n * (int64_t)ns_dtype_size(a.t[i].dt);
    }
    int k = snprintf(state_path, sizeof state_path, "%s/state.json", path);
    int is_ckpt = k > 0 && k < (int)sizeof state_path && ns_path_exists(state_path);
    if (s == NS_OK && is_ckpt) s = ns_ckpt_read_state(&state, path, err);
    if (s == NS_OK && kind[0] && !json) s = ns_buf_printf(b, err, "NeMo container, weights: %s\n", kind);
    if (s == NS_OK) s = (json ? as_json : as_text)(b, &a, n, bytes, is_ckpt ? &state : NULL, err);
    ns_archive_free(&a);
    return s;
}

static int run(void *options, ns_parsed *p)
{
    const show_options *o = options;
    ns_error err = NS_ERROR_INIT;
    ns_buf b = {0};
    const char *path = o->model ? o->model : p->n_positional == 1 ? p->positional[0] : NULL;
    char where[4096];
    ns_status st = ns_hub_resolve(&path, where, "model", &err);
    if (st == NS_OK)
        st = path ? show(&b, path, p->json, &err)
                  : ns_error_set(&err, NS_ERR_CONFIG, __FILE__, __LINE__, "give one model folder or file");
    if (st == NS_OK) fputs(b.data, stdout);
    ns_buf_free(&b);
    return st == NS_OK ? 0 : ns_cli_fail("show", &err);
}

const ns_verb ns_verb_show = {
    .name = "show",
    .group = "models",
    .summary = "list the tensors of a model of any format, a checkpoint or a safetensors file",
    .usage = "ns show MODEL [--json]",
    .examples = "ns show models/Llama-3.2-1B",
    .options = opts,
    .n_options = sizeof opts / sizeof opts[0],
    .options_size = sizeof(show_options),
    .allow_positional = 1,
    .run = run,
};
