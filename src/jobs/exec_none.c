/* Executor `none`: tasks one after another in this process's terminal; returns when all have ended. Output goes to the terminal
 * and to no file. Later tasks run according to their edges; a run_after of an unfinished experiment is waited for. */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/log.h"
#include "jobs/exec.h"
#include "jobs/jobs_priv.h"
#include "jobs/proc.h"

static volatile sig_atomic_t stop_signal;

static void on_signal(int sig)
{
    stop_signal = sig; /* the terminal tells the whole group; a signal sent to this process alone is passed on below */
}

static ns_status prepare(ns_submission *s, int task, ns_error *err)
{
    ns_task *t = &s->graph.tasks[task];
    for (size_t k = 0; k < t->n_groups; k++)
        NS_FAIL_IF(
            t->groups[k].nodes > 1, NS_ERR_CONFIG,
            "%s: %d nodes need a cluster: give --cluster=NAME (Local executor does not support multi-node execution)",
            t->name, t->groups[k].nodes);
    t->log = "(this terminal)";
    return NS_OK;
}

/* May task i run now? 1 yes, 0 no: `why` says what did not succeed. */
static int may_run(const ns_graph *g, const ns_task_status *st, size_t i, char *why, size_t n)
{
    const ns_task *t = &g->tasks[i];
    for (size_t k = 0; k < t->n_edges; k++) {
        if (t->edges[k].kind == NS_AFTER_ANY || st[t->edges[k].task].state == NS_TASK_DONE) continue;
        snprintf(why, n, "%s did not succeed", g->tasks[t->edges[k].task].name);
        return 0;
    }
    return 1;
}

/* Waits for run_after experiments. */
static ns_status wait_outer(const ns_graph *g, size_t i, int *ok, char *why, size_t n, ns_error *err)
{
    const ns_task *t = &g->tasks[i];
    for (size_t k = 0; k < t->n_outer && *ok; k++) {
        for (int told = 0;; told = 1) {
            ns_graph other;
            ns_task_status *st;
            int found;
            NS_TRY(ns_store_open(&other, t->outer[k].dir, &found, err), "run_after");
            NS_FAIL_IF(!found, NS_ERR_INPUT, "run_after: the record of %s is gone", t->outer[k].exp);
            ns_slurm_forget();
            ns_status rc = ns_steer_status(&other, &st, err);
            int ended =
                rc == NS_OK && (size_t)t->outer[k].task < other.n_tasks && ns_task_ended(st[t->outer[k].task].state);
            int good = ended && (st[t->outer[k].task].state == NS_TASK_DONE || t->outer[k].kind == NS_AFTER_ANY);
            if (ended && !good) snprintf(why, n, "%s did not succeed", t->outer[k].exp), *ok = 0;
            if (!ended && !told) NS_INFO("waiting for %s", other.tasks[t->outer[k].task].name);
            ns_graph_free(&other);
            if (rc != NS_OK || ended) {
                JOBS_TRY(rc);
                break;
            }
            sleep(2);
        }
    }
    return NS_OK;
}

static ns_status run_one(const ns_graph *g, size_t i, ns_task_status *s, ns_error *err)
{
    char script[JOBS_PATH];
    NS_TRY(jobs_path(script, err, "%s/scripts/%zu.sh", g->dir, i), "%s", "script");
    fflush(NULL);
    pid_t pid = fork();
    NS_FAIL_IF(pid < 0, NS_ERR_IO, "cannot fork: %s", strerror(errno));
    if (pid == 0) {
        execlp("bash", "bash", script, (char *)NULL);
        fprintf(stderr, "ns: cannot start bash: %s\n", strerror(errno));
        _exit(127);
    }
    *s = (ns_task_status){.state = NS_TASK_RUNNING,
                          .attempt = s->attempt,
                          .pid = pid,
                          .ticks = ns_proc_ticks(pid),
                          .started = jobs_now()};
    ns_status st = ns_store_write_status(g, (int)i, s, err);
    int status = 0;
    while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
        if (stop_signal == SIGTERM) kill(pid, SIGTERM);
    int rc = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
    int marked = ns_store_read_marks(s, g, (int)i);
    s->rc = rc;
    s->ended = jobs_now();
    s->state = rc ? NS_TASK_FAILED : NS_TASK_DONE;
    if (rc && !marked) snprintf(s->why, sizeof s->why, "exit code %d", rc);
    if (st == NS_OK) st = ns_store_write_status(g, (int)i, s, err);
    return st;
}

static ns_status submit(ns_graph *g, const char *mask, ns_error *err)
{
    ns_task_status *st = ns_arena_alloc(&g->arena, (g->n_tasks + 1) * sizeof *st, err);
    JOBS_NEED(st);
    struct sigaction sa = {.sa_handler = on_signal}, old_int, old_term;
    sigaction(SIGINT, &sa, &old_int);
    sigaction(SIGTERM, &sa, &old_term);
    stop_signal = 0;
    ns_status rc = NS_OK;
    for (size_t i = 0; i < g->n_tasks && rc == NS_OK; i++) {
        rc = ns_store_read_status(&st[i], g, (int)i, err);
        if (rc != NS_OK || !mask[i]) continue;
        char why[200] = "";
        int ok = may_run(g, st, i, why, sizeof why);
        if (ok) rc = wait_outer(g, i, &ok, why, sizeof why, err);
        if (rc == NS_OK && ok && !stop_signal) {
            rc = run_one(g, i, &st[i], err);
        } else if (rc == NS_OK) {
            st[i].state = stop_signal ? NS_TASK_CANCELLED : NS_TASK_SKIPPED;
            snprintf(st[i].why, sizeof st[i].why, "%s", stop_signal ? "interrupted" : why);
            rc = ns_store_write_status(g, (int)i, &st[i], err);
        }
    }
    sigaction(SIGINT, &old_int, NULL);
    sigaction(SIGTERM, &old_term, NULL);
    return rc;
}

static ns_status refresh(ns_graph *g, ns_task_status *st, ns_error *err)
{
    for (size_t i = 0; i < g->n_tasks; i++) {
        NS_TRY(ns_store_read_status(&st[i], g, (int)i, err), "state");
        if (st[i].state != NS_TASK_RUNNING) continue;
        char host[256] = "";
        gethostname(host, sizeof host - 1);
        if (strcmp(host, g->host) || ns_proc_ticks(st[i].pid) == st[i].ticks) continue;
        st[i].state = NS_TASK_LOST;
        snprintf(st[i].why, sizeof st[i].why, "its process is gone");
    }
    return NS_OK;
}

static ns_status cancel(ns_graph *g, const char *mask, ns_error *err)
{
    for (size_t i = 0; i < g->n_tasks; i++) {
        ns_task_status s;
        if (!mask[i]) continue;
        NS_TRY(ns_store_read_status(&s, g, (int)i, err), "state");
        if (s.state == NS_TASK_RUNNING && s.pid > 0 && ns_proc_ticks(s.pid) == s.ticks) kill((pid_t)s.pid, SIGTERM);
    }
    return NS_OK;
}

const ns_executor ns_executor_none = {"none", prepare, submit, refresh, cancel};
