/* `ns diff A B`: are two models the same, whatever their formats? Tensor by tensor under Hugging Face names. Exit code 0: equal
 * bit for bit (or within --tolerance), 1: not. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/hub/hub.h"
#include "ckpt/model_source.h"
#include "cli/cli.h"

typedef struct diff_options {
    double tolerance;
} diff_options;

static const ns_option opts[] = {
    {.key = "tolerance",
     .flag = 1,
     .type = NS_OPT_FLOAT,
     .at = offsetof(diff_options, tolerance),
     .def = "0",
     .min = 0,
     .max = 1e30,
     .help = "largest absolute difference that still counts as equal; 0: bit for bit"},
};

typedef struct side {
    const char *path;
    char where[4096]; /* of a name in the Hugging Face cache */
    ns_arch arch;
    ns_param_table table;
    ns_model_source src;
} side;

typedef struct totals {
    int64_t tensors, differ, elements;
    double most;
} totals;

static ns_status open_side(side *s, const char *path, ns_arena *arena, ns_error *err)
{
    s->path = path;
    NS_TRY(ns_model_arch(&s->arch, path, err), "%s", "");
    NS_TRY(ns_param_table_build(&s->table, &s->arch, arena, err), "%s", path);
    return ns_model_source_open(&s->src, path, &s->table, err);
}

/* An untied copy of a tied model has a head of its own: compared with the other's embedding. */
static int partner(const side *b, const char *name)
{
    int v = ns_view_find(&b->table, name);
    return v < 0 && !strcmp(name, "lm_head.weight") && b->arch.tied ? 0 : v;
}

static ns_status compare_view(side *a, int va, side *b, int vb, double tolerance, totals *t, int print, ns_error *err)
{
    const ns_view *x = &a->table.views[va], *y = &b->table.views[vb];
    int64_t cols = a->table.params[x->param].cols, rows = x->rows, step = (1 << 20) / cols + 1, bad = 0;
    double most = 0;
    float *p = NULL, *q = NULL;
    ns_status st = NS_OK;
    t->tensors++;
    if (y->rows != rows || b->table.params[y->param].cols != cols) {
        t->differ++;
        if (print)
            printf("%-60s [%lld,%lld] | [%lld,%lld]\n", x->name, (long long)rows, (long long)cols, (long long)y->rows,
                   (long long)b->table.params[y->param].cols);
        return NS_OK;
    }
    NS_CHECK(st, ns_alloc((void **)&p, (size_t)(step * cols) * sizeof *p, "diff", err), "diff");
    NS_CHECK(st, ns_alloc((void **)&q, (size_t)(step * cols) * sizeof *q, "diff", err), "diff");
    for (int64_t r = 0; r < rows; r += step) {
        int64_t n = rows - r < step ? rows - r : step;
        NS_CHECK(st, ns_model_source_rows(&a->src, va, r, n, p, err), "%s", x->name);
        NS_CHECK(st, ns_model_source_rows(&b->src, vb, r, n, q, err), "%s", x->name);
        t->elements += n * cols;
        if (!memcmp(p, q, (size_t)(n * cols) * sizeof *p)) continue;
        for (int64_t i = 0; i < n * cols; i++) {
            double d = fabs((double)p[i] - (double)q[i]);
            int same = tolerance > 0 ? d <= tolerance : !memcmp(&p[i], &q[i], sizeof *p);
            bad += !same;
            if (!(d <= most)) most = d;
        }
    }
    if (bad) t->differ++;
    if (bad && print)
        printf("%-60s %lld of %lld elements differ, by up to %g\n", x->name, (long long)bad, (long long)(rows * cols),
               most);
    if (!(most <= t->most)) t->most = most;
done:
    ns_free(p);
    ns_free(q);
    return st;
}

static ns_status diff(side *a, side *b, double tolerance, totals *t, int print, ns_error *err)
{
    for (int v = 0; v < a->table.n_views; v++) {
        int w = partner(b, a->table.views[v].name);
        if (w >= 0) {
            NS_TRY(compare_view(a, v, b, w, tolerance, t, print, err), "%s", "");
            continue;
        }
        t->tensors++;
        t->differ++;
        if (print) printf("%-60s only in %s\n", a->table.views[v].name, a->path);
    }
    for (int v = 0; v < b->table.n_views; v++) {
        if (partner(a, b->table.views[v].name) >= 0) continue;
        t->tensors++;
        t->differ++;
        if (print) printf("%-60s only in %s\n", b->table.views[v].name, b->path);
    }
    return NS_OK;
}

static int run(void *options, ns_parsed *p)
{
    const diff_options *o = options;
    ns_error err = NS_ERROR_INIT;
    ns_arena arena = NS_ARENA_INIT("diff");
    side *s = NULL;
    totals t = {0};
    ns_status st = NS_OK;
    if (p->n_positional != 2)
        st = ns_error_set(&err, NS_ERR_CONFIG, __FILE__, __LINE__, "give two models: ns diff A B");
    if (st == NS_OK) st = ns_alloc((void **)&s, 2 * sizeof *s, "diff", &err);
    for (int i = 0; st == NS_OK && i < 2; i++) {
        const char *path = p->positional[i];
        st = ns_hub_resolve(&path, s[i].where, "model", &err);
        if (st == NS_OK) st = open_side(&s[i], path, &arena, &err);
    }
    if (st == NS_OK) st = diff(&s[0], &s[1], o->tolerance, &t, !p->json && !p->quiet, &err);
    if (st == NS_OK && p->json)
        printf("{\"tensors\": %lld, \"differ\": %lld, \"max_abs\": %g, \"equal\": %s}\n", (long long)t.tensors,
               (long long)t.differ, t.most, t.differ ? "false" : "true");
    else if (st == NS_OK && !p->quiet)
        printf("%lld tensors, %lld elements: %s\n", (long long)t.tensors, (long long)t.elements,
               t.differ           ? "they differ"
               : o->tolerance > 0 ? "equal within the tolerance"
                                  : "equal bit for bit");
    for (int i = 0; s && i < 2; i++)
        if (s[i].src.t) ns_model_source_close(&s[i].src);
    ns_free(s);
    ns_arena_free(&arena);
    if (st != NS_OK) return ns_cli_fail("diff", &err);
    return t.differ ? 1 : 0;
}

const ns_verb ns_verb_diff = {
    .name = "diff",
    .group = "models",
    .summary = "compare two models of any formats, tensor by tensor",
    .usage = "ns diff A B [--tolerance X] [--json]",
    .examples = "ns diff models/Llama-3.2-1B run1/model-averaged-nemo",
    .options = opts,
    .n_options = sizeof opts / sizeof opts[0],
    .options_size = sizeof(diff_options),
    .allow_positional = 1,
    .run = run,
};
