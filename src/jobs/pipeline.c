/* The public C interface (include/ns/pipeline.h) over pipes and steering. */
#include "ns/pipeline.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "jobs/exec.h"
#include "jobs/jobs_priv.h"
#include "jobs/pipes.h"

static int told(ns_status st, const ns_error *err, char *why, size_t n)
{
    if (st == NS_OK) return 0;
    if (why && n) ns_error_text(err, why, n);
    return ns_status_exit_code(st);
}

/* The program that jobs run; the caller is another one. */
static ns_status choose_program(ns_error *err)
{
    char path[JOBS_PATH], exe[JOBS_PATH];
    const char *env = getenv("NS_PROGRAM"), *dirs = getenv("PATH");
    if (env && *env) return NS_OK;
    ssize_t n = readlink("/proc/self/exe", exe, sizeof exe - 1);
    exe[n > 0 ? n : 0] = 0;
    char *slash = strrchr(exe, '/');
    if (slash) *slash = 0;
    NS_TRY(jobs_path(path, err, "%s/ns", exe), "%s", "program");
    if (slash && access(path, X_OK) == 0) return ns_program_use(path, err);
    while (dirs && *dirs) {
        size_t len = strcspn(dirs, ":");
        NS_TRY(jobs_path(path, err, "%.*s/ns", (int)len, dirs), "%s", "program");
        if (len && access(path, X_OK) == 0) return ns_program_use(path, err);
        dirs += len + (dirs[len] == ':');
    }
    NS_FAIL(NS_ERR_CONFIG, "the program ns, which jobs run, is not in $PATH: name it in $NS_PROGRAM");
}

int ns_pipeline_submit(ns_experiment *e, const char *verb, const char *const *words, size_t n, char *why,
                       size_t why_size)
{
    ns_error err = NS_ERROR_INIT;
    const ns_pipe *pipe;
    ns_pipe_result r;
    memset(e, 0, sizeof *e);
    ns_status st = choose_program(&err);
    if (st == NS_OK) st = ns_pipe_find(&pipe, verb, &err);
    if (st == NS_OK) st = ns_pipe_call(pipe, (int)n, words, &r, &err);
    if (st != NS_OK) return told(st, &err, why, why_size);
    memcpy(e->id, r.id, sizeof e->id);
    memcpy(e->dir, r.dir, sizeof e->dir);
    e->n_jobs = r.n_tasks;
    int failed = r.failed;
    ns_pipe_result_free(&r);
    if (failed && why) snprintf(why, why_size, "%s: %d of its final jobs did not succeed", e->id, failed);
    return failed ? 1 : 0;
}

static ns_status open_experiment(ns_graph *g, const char *name, ns_error *err)
{
    int found;
    char hint[512];
    NS_TRY(ns_store_open(g, name, &found, err), "%s", name);
    if (found) return NS_OK;
    NS_TRY(ns_store_hint(hint, sizeof hint, name, err), "%s", name);
    NS_FAIL(NS_ERR_CONFIG, "there is no experiment '%s'%s", name, hint);
}

int ns_pipeline_wait(const char *experiment, int *n_failed, char *why, size_t why_size)
{
    ns_error err = NS_ERROR_INIT;
    ns_graph g;
    ns_status st = open_experiment(&g, experiment, &err);
    *n_failed = 0;
    if (st == NS_OK) {
        st = ns_steer_wait(&g, n_failed, &err);
        ns_graph_free(&g);
    }
    return told(st, &err, why, why_size);
}

int ns_pipeline_cancel(const char *experiment, int *n, char *why, size_t why_size)
{
    ns_error err = NS_ERROR_INIT;
    ns_graph g;
    ns_status st = open_experiment(&g, experiment, &err);
    *n = 0;
    if (st == NS_OK) {
        st = ns_steer_cancel(&g, -1, n, &err);
        ns_graph_free(&g);
    }
    return told(st, &err, why, why_size);
}

int ns_pipeline_status(const char *experiment, ns_pipeline_counts *c, char *why, size_t why_size)
{
    ns_error err = NS_ERROR_INIT;
    ns_graph g;
    ns_task_status *s;
    memset(c, 0, sizeof *c);
    ns_status st = open_experiment(&g, experiment, &err);
    if (st != NS_OK) return told(st, &err, why, why_size);
    ns_slurm_forget();
    st = ns_steer_status(&g, &s, &err);
    for (size_t i = 0; st == NS_OK && i < g.n_tasks; i++) {
        if (s[i].state == NS_TASK_WAITING)
            c->waiting++;
        else if (s[i].state == NS_TASK_RUNNING)
            c->running++;
        else if (s[i].state == NS_TASK_DONE)
            c->done++;
        else
            c->failed++;
    }
    ns_graph_free(&g);
    return told(st, &err, why, why_size);
}
