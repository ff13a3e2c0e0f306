/* Seeing and steering experiments, for all executors: status, cancel, retry, wait, progress of trainings. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/file.h"
#include "jobs/exec.h"
#include "jobs/jobs_priv.h"

ns_status ns_steer_status(ns_graph *g, ns_task_status **out, ns_error *err)
{
    const ns_executor *x;
    NS_TRY(ns_executor_find(&x, g->executor, err), "%s", g->id);
    *out = ns_arena_alloc(&g->arena, (g->n_tasks + 1) * sizeof **out, err);
    JOBS_NEED(*out);
    return x->refresh(g, *out, err);
}

/* ---- dependants ---- */
/* Experiments whose run_after names a task of g that the mask holds: fn(graph, mask of its tasks). */
typedef ns_status (*dependant_fn)(ns_graph *g, char *mask, int *n, int depth, ns_error *err);

static void spread(const ns_graph *g, char *mask)
{
    for (size_t i = 0; i < g->n_tasks; i++) /* edges go to smaller numbers: one pass is enough */
        for (size_t k = 0; k < g->tasks[i].n_edges; k++)
            if (mask[g->tasks[i].edges[k].task]) mask[i] = 1;
}

static ns_status one_dependant(const ns_graph *g, const char *mask, const char *dir, dependant_fn fn, int *n, int depth,
                               ns_error *err)
{
    ns_graph other;
    char path[JOBS_PATH];
    NS_TRY(jobs_path(path, err, "%s/experiment.json", dir), "%s", "store");
    if (!ns_path_exists(path)) return NS_OK;
    ns_buf text = {0}; /* most records do not name us: look before parsing */
    ns_status st = ns_file_read(&text, path, err);
    int named = st == NS_OK && text.data && strstr(text.data, g->id) != NULL;
    ns_buf_free(&text);
    if (st != NS_OK || !named) return st;
    ns_error damaged = NS_ERROR_INIT;
    if (ns_graph_read(&other, path, &damaged) != NS_OK) return NS_OK; /* it has its own error when it is asked for */
    char *theirs = ns_arena_alloc(&other.arena, other.n_tasks + 1, err);
    int any = 0;
    for (size_t i = 0; theirs && i < other.n_tasks; i++)
        for (size_t k = 0; k < other.tasks[i].n_outer; k++) {
            const ns_outer *o = &other.tasks[i].outer[k];
            if (strcmp(o->exp, g->id) == 0 && (size_t)o->task < g->n_tasks && mask[o->task]) theirs[i] = 1, any = 1;
        }
    st = theirs ? NS_OK : NS_ERR_MEMORY;
    if (st == NS_OK && any) st = fn(&other, theirs, n, depth + 1, err);
    ns_graph_free(&other);
    return st;
}

static ns_status dependants(const ns_graph *g, const char *mask, dependant_fn fn, int *n, int depth, ns_error *err)
{
    ns_arena a = NS_ARENA_INIT("jobs.find");
    ns_words dirs = {0};
    NS_FAIL_IF(depth > 1000, NS_ERR_INPUT, "experiments wait for each other in a circle");
    ns_status st = ns_store_list(&dirs, &a, err);
    for (size_t i = 0; i < dirs.n && st == NS_OK; i++)
        if (strcmp(dirs.v[i], g->dir)) st = one_dependant(g, mask, dirs.v[i], fn, n, depth, err);
    ns_arena_free(&a);
    return st;
}

/* ---- cancel ---- */
static ns_status cancel_masked(ns_graph *g, char *mask, int *n, int depth, ns_error *err)
{
    const ns_executor *x;
    ns_task_status *st;
    int mine = 0;
    NS_TRY(ns_executor_find(&x, g->executor, err), "%s", g->id);
    NS_TRY(ns_steer_status(g, &st, err), "%s", g->id);
    spread(g, mask);
    /* who waits is cancelled first, so that nothing starts when its predecessor goes */
    NS_TRY(dependants(g, mask, cancel_masked, n, depth, err), "dependants of %s", g->id);
    char *live = ns_arena_alloc(&g->arena, g->n_tasks + 1, err);
    JOBS_NEED(live);
    for (size_t i = 0; i < g->n_tasks; i++) {
        live[i] = mask[i] && !ns_task_ended(st[i].state);
        if (!live[i]) continue;
        NS_TRY(ns_store_ask_cancel(g, (int)i, err), "%s", g->id);
        mine++;
    }
    *n += mine;
    return mine ? x->cancel(g, live, err) : NS_OK;
}

ns_status ns_steer_cancel(ns_graph *g, int task, int *n, ns_error *err)
{
    char *mask = ns_arena_alloc(&g->arena, g->n_tasks + 1, err);
    JOBS_NEED(mask);
    *n = 0;
    if (task < 0)
        memset(mask, 1, g->n_tasks);
    else
        mask[task] = 1;
    return cancel_masked(g, mask, n, 0, err);
}

/* ---- retry ---- */
static ns_status retry_masked(ns_graph *g, char *mask, int *n, int depth, ns_error *err)
{
    const ns_executor *x;
    ns_task_status *st;
    int mine = 0;
    NS_TRY(ns_executor_find(&x, g->executor, err), "%s", g->id);
    NS_TRY(ns_steer_status(g, &st, err), "%s", g->id);
    spread(g, mask);
    for (size_t i = 0; i < g->n_tasks; i++) {
        int again = mask[i] && ns_task_ended(st[i].state) && st[i].state != NS_TASK_DONE;
        if (depth && mask[i] && st[i].state == NS_TASK_CANCELLED) again = 0; /* somebody wanted that */
        /* a good task of a chain whose predecessor runs again only because of afterok stays good */
        mask[i] = (char)again;
        mine += again;
    }
    if (!mine) return NS_OK;
    for (size_t i = 0; i < g->n_tasks; i++) {
        if (!mask[i]) continue;
        ns_task_status s = {.state = NS_TASK_WAITING, .attempt = st[i].attempt + 1};
        ns_store_clear_marks(g, (int)i);
        NS_TRY(ns_store_write_status(g, (int)i, &s, err), "%s", g->id);
    }
    *n += mine;
    ns_slurm_forget();
    NS_TRY(x->submit(g, mask, err), "%s", g->id);
    return dependants(g, mask, retry_masked, n, depth, err);
}

ns_status ns_steer_retry(ns_graph *g, int *n, ns_error *err)
{
    char *mask = ns_arena_alloc(&g->arena, g->n_tasks + 1, err);
    JOBS_NEED(mask);
    memset(mask, 1, g->n_tasks);
    *n = 0;
    return retry_masked(g, mask, n, 0, err);
}

/* ---- wait ---- */
ns_status ns_steer_wait(ns_graph *g, int *failed, ns_error *err)
{
    ns_task_status *st = ns_arena_alloc(&g->arena, (g->n_tasks + 1) * sizeof *st, err);
    const ns_executor *x;
    JOBS_NEED(st);
    NS_TRY(ns_executor_find(&x, g->executor, err), "%s", g->id);
    for (unsigned delay_ms = 100;; delay_ms = delay_ms < 2000 ? delay_ms * 2 : 2000) {
        size_t open = 0;
        ns_slurm_forget();
        NS_TRY(x->refresh(g, st, err), "%s", g->id);
        *failed = 0;
        for (size_t i = 0; i < g->n_tasks; i++) {
            open += !ns_task_ended(st[i].state);
            *failed += ns_task_ended(st[i].state) && st[i].state != NS_TASK_DONE && ns_graph_is_final(g, (int)i);
        }
        if (!open) return NS_OK;
        usleep(delay_ms * 1000);
    }
}

/* ---- progress ---- */
/* The last whole line of metrics.jsonl. */
static int last_line(char *out, size_t n, const char *path)
{
    char tail[8192];
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return 0;
    off_t size = lseek(fd, 0, SEEK_END), from = size > (off_t)sizeof tail - 1 ? size - (off_t)sizeof tail + 1 : 0;
    ssize_t got = pread(fd, tail, sizeof tail - 1, from);
    close(fd);
    while (got > 0 && tail[got - 1] != '\n') got--;
    if (got <= 0) return 0;
    tail[got - 1] = 0;
    char *line = strrchr(tail, '\n');
    snprintf(out, n, "%s", line ? line + 1 : tail);
    return 1;
}

static int number_in(const char *json, const char *key, double *x)
{
    char name[64];
    snprintf(name, sizeof name, "\"%s\":", key);
    const char *p = strstr(json, name);
    return p && sscanf(p + strlen(name), "%lf", x) == 1;
}

/* The number of steps stands in run.json's plan. */
static double total_steps(const char *folder)
{
    char path[JOBS_PATH];
    ns_buf b = {0};
    ns_error err = NS_ERROR_INIT;
    double x = 0;
    if (jobs_path(path, &err, "%s/run.json", folder) == NS_OK && ns_path_exists(path) &&
        ns_file_read(&b, path, &err) == NS_OK && b.data) {
        const char *plan = strstr(b.data, "\"plan\":");
        if (!plan || !number_in(plan, "steps", &x)) x = 0;
    }
    ns_buf_free(&b);
    return x;
}

void ns_steer_progress(char *out, size_t n, const ns_task *t)
{
    char path[JOBS_PATH], line[8192];
    double step = 0, loss, rate, total;
    out[0] = 0;
    if (!t->progress || jobs_path(path, NULL, "%s/metrics.jsonl", t->progress) != NS_OK ||
        !last_line(line, sizeof line, path))
        return;
    if (!number_in(line, "step", &step)) return;
    size_t len = (size_t)snprintf(out, n, "step %.0f", step);
    if ((total = total_steps(t->progress)) > 0 && len < n)
        len += (size_t)snprintf(out + len, n - len, " of %.0f", total);
    if (number_in(line, "loss", &loss) && len < n) len += (size_t)snprintf(out + len, n - len, ", loss %.4g", loss);
    if (number_in(line, "tokens_per_s", &rate) && len < n) snprintf(out + len, n - len, ", %.0f tokens/s", rate);
}
