/* Averaging checkpoints, of ours or models of any format: sums in f32 over the sources in order of step, one division, one rounding
 * (the original sums in bf16: training.md §6.1); or an exponential mean, oldest first. One storage parameter is in memory at a time; sources are mapped. Steps are matched as numbers, a step that
 * is not there is an error, and checkpoints that top-k evicted are reported, so that what went in is never a surprise. */
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/log.h"
#include "ckpt/model_source.h"
#include "ckpt/hf_write.h"
#include "ckpt/nemo_write.h"
#include "ckpt/path.h"
#include "ckpt/scan.h"

enum { MAX_SOURCES = 256 };

typedef struct job {
    const ns_average_args *a;
    const char *dir, *which;
    ns_arena arena;
    ns_ckpt_entry *all; /* complete checkpoints, by step */
    size_t n_all;
    ns_ckpt_evicted *evicted;
    size_t n_evicted;
    const ns_ckpt_entry *use[MAX_SOURCES];
    int n_use;
    ns_arch arch;
    ns_param_table table;
    ns_model_source src[MAX_SOURCES];
} job;

/* ---- which ---- */

static int is_named(const job *j, size_t i) /* -last is a copy; a forced -last is not part of a run's average */
{
    return !j->all[i].is_last;
}

/* "1000, 2000 (evicted by save_top_k: 3000)" for messages. */
static const char *list_steps(const job *j, char out[512])
{
    size_t n = 0;
    out[0] = 0;
    for (size_t i = 0; i < j->n_all && n < 400; i++) {
        if (is_named(j, i))
            n += (size_t)snprintf(out + n, 512 - n, "%s%lld", n ? ", " : "", (long long)j->all[i].state.step);
    }
    if (n == 0) n += (size_t)snprintf(out, 512, "none");
    if (n >= 400) n += (size_t)snprintf(out + n, 512 - n, ", ...");
    for (size_t i = 0; i < j->n_evicted && n < 480; i++) {
        n += (size_t)snprintf(out + n, 512 - n, "%s%lld",
                              i ? ", " : " (evicted by save_top_k: ", (long long)j->evicted[i].step);
        if (i + 1 == j->n_evicted) snprintf(out + n, 512 - n, ")");
    }
    return out;
}

static ns_status use(job *j, size_t i, ns_error *err)
{
    for (int k = 0; k < j->n_use; k++) {
        if (j->use[k] == &j->all[i]) return NS_OK; /* "1000,1000" is one source */
    }
    NS_FAIL_IF(j->n_use == MAX_SOURCES, NS_ERR_CONFIG, "more than %d checkpoints: choose steps", MAX_SOURCES);
    j->use[j->n_use++] = &j->all[i];
    return NS_OK;
}

static ns_status use_range(job *j, int64_t from, int64_t to, ns_error *err)
{
    char text[512];
    int found = 0;
    for (size_t i = 0; i < j->n_all; i++) {
        if (!is_named(j, i) || j->all[i].state.step < from || j->all[i].state.step > to) continue;
        NS_TRY(use(j, i, err), "%s", "");
        found++;
    }
    NS_FAIL_IF(!found && from == to, NS_ERR_INPUT, "%s: no checkpoint of step %lld; there are: %s", j->dir,
               (long long)from, list_steps(j, text));
    NS_FAIL_IF(!found, NS_ERR_INPUT, "%s: no checkpoint in \"%s\"; there are: %s", j->dir, j->which,
               list_steps(j, text));
    return NS_OK;
}

static ns_status use_newest(job *j, int64_t count, ns_error *err)
{
    char text[512];
    int64_t have = 0;
    for (size_t i = 0; i < j->n_all; i++) have += is_named(j, i);
    NS_FAIL_IF(count > have, NS_ERR_INPUT, "%s: \"%s\" needs %lld checkpoints; there are: %s", j->dir, j->which,
               (long long)count, list_steps(j, text));
    for (size_t i = 0; i < j->n_all; i++) {
        if (is_named(j, i) && have-- <= count) NS_TRY(use(j, i, err), "%s", "");
    }
    return NS_OK;
}

/* "last": where the run stands, which a forced save may have put only into -last. */
static ns_status use_last(job *j, ns_error *err)
{
    NS_FAIL_IF(j->n_all == 0, NS_ERR_INPUT, "%s: no complete checkpoint here", j->dir);
    size_t best = j->n_all - 1; /* sorted by step, and name before name-last */
    while (best > 0 && !is_named(j, best) && j->all[best - 1].state.step == j->all[best].state.step) best--;
    return use(j, best, err);
}

static ns_status parse_steps(job *j, ns_error *err)
{
    for (const char *p = j->which;;) {
        char *end;
        errno = 0;
        int64_t from = strtoll(p, &end, 10), to = from;
        int ok = end != p && *p >= '0' && *p <= '9' && errno == 0;
        if (ok && *end == '-') {
            p = end + 1;
            to = strtoll(p, &end, 10);
            ok = end != p && *p >= '0' && *p <= '9' && errno == 0 && to >= from;
        }
        NS_FAIL_IF(!ok || (*end && *end != ','), NS_ERR_CONFIG,
                   "steps \"%s\": expected all, last, last:N, 1000,5000 or 1000-5000 (near byte %zu)", j->which,
                   (size_t)(end - j->which));
        NS_TRY(use_range(j, from, to, err), "%s", "");
        if (!*end) return NS_OK;
        p = end + 1;
    }
}

static int by_step(const void *a, const void *b)
{
    const ns_ckpt_entry *x = *(const ns_ckpt_entry *const *)a, *y = *(const ns_ckpt_entry *const *)b;
    return (x->state.step > y->state.step) - (x->state.step < y->state.step);
}

static ns_status choose(job *j, ns_error *err)
{
    const char *w = j->which && j->which[0] ? j->which : "all";
    j->which = w;
    if (strcmp(w, "all") == 0) {
        NS_TRY(use_range(j, INT64_MIN, INT64_MAX, err), "%s", "");
    } else if (strcmp(w, "last") == 0) {
        NS_TRY(use_last(j, err), "%s", "");
    } else if (strncmp(w, "last:", 5) == 0) {
        char *end;
        long long n = strtoll(w + 5, &end, 10);
        NS_FAIL_IF(end == w + 5 || *end || n < 1, NS_ERR_CONFIG, "steps \"%s\": expected last:N with N from 1", w);
        NS_TRY(use_newest(j, n, err), "%s", "");
    } else {
        NS_TRY(parse_steps(j, err), "%s", "");
    }
    qsort(j->use, (size_t)j->n_use, sizeof j->use[0], by_step);
    for (int i = 1; i < j->n_use; i++) {
        NS_FAIL_IF(j->use[i]->state.step == j->use[i - 1]->state.step, NS_ERR_INPUT,
                   "%s: two checkpoints of step %lld (%s and %s): remove one", j->dir, (long long)j->use[i]->state.step,
                   j->use[i - 1]->name, j->use[i]->name);
    }
    return NS_OK;
}

/* ---- sums ---- */

static ns_status open_sources(job *j, ns_error *err)
{
    char path[4096];
    NS_TRY(ns_path(path, sizeof path, err, "%s/%s", j->dir, j->use[0]->name), "%s", "");
    NS_TRY(ns_model_arch(&j->arch, j->a->model ? j->a->model : path, err), "%s", "");
    NS_TRY(ns_param_table_build(&j->table, &j->arch, &j->arena, err), "%s", "");
    for (int i = 0; i < j->n_use; i++) {
        const char *name = ns_arena_printf(&j->arena, err, "%s/%s", j->dir, j->use[i]->name); /* outlives the source */
        if (!name) return NS_ERR_MEMORY;
        NS_TRY(ns_model_source_open(&j->src[i], name, &j->table, err), "open checkpoint of step %lld",
               (long long)j->use[i]->state.step);
        NS_FAIL_IF(j->src[i].native.n_zero_pieces, NS_ERR_INPUT, "%s: %lld zarr chunks are absent: it is not complete",
                   name, (long long)j->src[i].native.n_zero_pieces);
    }
    if (j->a->model) j->arch.dt = j->src[0].tensor[0]->dt; /* of the weights, not of the model that describes them */
    return NS_OK;
}

static ns_status mean_rows(void *user, int view, int64_t row0, int64_t rows, ns_dtype dt, void *data, ns_error *err)
{
    job *j = user;
    int64_t n = rows * j->table.params[j->table.views[view].param].cols;
    float *out = data, *next = NULL;
    ns_status st = NS_OK;
    NS_ASSERT(dt == NS_DTYPE_F32);
    NS_CHECK(st, ns_model_source_rows_as(&j->src[0], view, row0, rows, dt, out, err), "%s", "");
    if (j->n_use > 1) NS_CHECK(st, ns_alloc((void **)&next, (size_t)n * sizeof *next, "average.block", err), "%s", "");
    for (int i = 1; i < j->n_use; i++) {
        NS_CHECK(st, ns_model_source_rows_as(&j->src[i], view, row0, rows, dt, next, err), "%s", "");
        if (j->a->ema > 0)
            for (int64_t k = 0; k < n; k++) out[k] += (float)(1 - j->a->ema) * (next[k] - out[k]);
        else
            for (int64_t k = 0; k < n; k++) out[k] += next[k];
    }
    for (int64_t k = 0; k < n && j->n_use > 1 && !(j->a->ema > 0); k++) out[k] /= (float)j->n_use;
    for (int64_t k = 0; k < n; k++) {
        NS_BAIL_IF(st, !isfinite(out[k]), NS_ERR_NUMERIC,
                   "the mean of %s is not finite at element %lld: a checkpoint is damaged", j->table.views[view].name,
                   (long long)k);
    }
done:
    ns_free(next);
    return st;
}

static ns_status write_mean(job *j, ns_error *err)
{
    const char *out = j->a->out, *dist_format = j->a->dist_format;
    char parent[4096], name[256], tmp[4096] = "", tokenizer[4096];
    ns_sink *sink = NULL;
    ns_status st = NS_OK;
    NS_TRY(ns_path_split(parent, name, out, err), "%s", "");
    NS_TRY(
        ns_model_tokenizer_dir(tokenizer, sizeof tokenizer, j->a->model ? j->a->model : j->src[j->n_use - 1].path, err),
        "%s", "");
    NS_TRY(ns_dir_begin(tmp, sizeof tmp, parent, name, err), "write %s", out);
    ns_nemo_args nemo = {&j->table, j->arch.dt, dist_format, tokenizer, NULL};
    if (dist_format)
        NS_CHECK(st, ns_nemo_sink(&sink, tmp, &nemo, err), "write %s", out);
    else
        NS_CHECK(st, ns_hf_sink(&sink, tmp, &j->table, j->arch.dt, (int64_t)5 * 1000 * 1000 * 1000, tokenizer, err),
                 "write %s", out);
    ns_convert c = {.table = &j->table, .rows = mean_rows, .user = j, .sink = sink};
    NS_CHECK(st, ns_model_convert(&c, NULL, err), "%s", "");
    NS_CHECK(st, ns_dir_publish(tmp, parent, name, err), "%s", "");
done:
    ns_sink_free(&sink);
    if (st != NS_OK && ns_remove_tree(tmp, NULL) != NS_OK) NS_WARN("cannot remove '%s'", tmp);
    return st;
}

static void fill_report(const job *j, ns_average_report *r)
{
    memset(r, 0, sizeof *r);
    for (int i = 0; i < j->n_use; i++) r->steps_used[r->n_used++] = j->use[i]->state.step;
    for (size_t e = 0; e < j->n_evicted && r->n_evicted < MAX_SOURCES; e++) {
        int known = 0; /* present after all (a resumed run saved it again), or listed twice */
        for (size_t i = 0; i < j->n_all; i++) known |= is_named(j, i) && j->all[i].state.step == j->evicted[e].step;
        for (int i = 0; i < r->n_evicted; i++) known |= r->steps_evicted[i] == j->evicted[e].step;
        if (!known) r->steps_evicted[r->n_evicted++] = j->evicted[e].step;
    }
}

ns_status ns_average(const char *checkpoints_dir, const char *which, const char *out, ns_average_report *report,
                     ns_error *err)
{
    return ns_average_to(checkpoints_dir, which, out, NULL, report, err);
}

ns_status ns_average_to(const char *checkpoints_dir, const char *which, const char *out, const char *dist_format,
                        ns_average_report *report, ns_error *err)
{
    return ns_average_models(&(ns_average_args){checkpoints_dir, which, out, dist_format, 0, NULL}, report, err);
}

ns_status ns_average_models(const ns_average_args *a, ns_average_report *report, ns_error *err)
{
    job *j = NULL;
    ns_status st = NS_OK;
    NS_FAIL_IF(!ns_path_is_dir(a->dir), NS_ERR_INPUT, "%s: no such folder of checkpoints", a->dir);
    NS_FAIL_IF(ns_path_exists(a->out), NS_ERR_INPUT, "%s exists already: remove it or choose another output", a->out);
    NS_FAIL_IF(!(a->ema >= 0 && a->ema < 1), NS_ERR_CONFIG, "ema %g: expected a decay from 0 (the mean) to below 1",
               a->ema);
    NS_TRY(ns_alloc((void **)&j, sizeof *j, "average", err), "average");
    j->arena.label = "average";
    j->a = a;
    j->dir = a->dir;
    j->which = a->which;
    NS_CHECK(st, ns_ckpt_scan(&j->all, &j->n_all, j->dir, &j->arena, err), "average");
    if (!j->n_all) NS_CHECK(st, ns_ckpt_scan_models(&j->all, &j->n_all, j->dir, &j->arena, err), "average");
    NS_CHECK(st, ns_ckpt_evicted_read(&j->evicted, &j->n_evicted, j->dir, &j->arena, err), "average");
    NS_CHECK(st, choose(j, err), "average");
    NS_CHECK(st, open_sources(j, err), "average");
    NS_CHECK(st, write_mean(j, err), "average");
    if (report) fill_report(j, report);
done:
    for (int i = 0; i < j->n_use; i++)
        if (j->src[i].t) ns_model_source_close(&j->src[i]);
    ns_arena_free(&j->arena);
    ns_free(j);
    return st;
}
