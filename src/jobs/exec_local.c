/* Executor `local`: jobs of this machine, detached. Submitting writes states and a queue link and makes sure that the supervisor
 * runs; everything else is the supervisor's (supervisor.c). */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/file.h"
#include "jobs/exec.h"
#include "jobs/jobs_priv.h"
#include "jobs/proc.h"

int ns_local_gpus(void)
{
    const char *env = getenv("NS_LOCAL_GPUS");
    int n = 0;
    char path[64];
    if (env && *env) return atoi(env);
    for (;; n++) {
        struct stat sb;
        snprintf(path, sizeof path, "/dev/nvidia%d", n);
        if (stat(path, &sb) != 0 || !S_ISCHR(sb.st_mode)) return n;
    }
}

static ns_status prepare(ns_submission *s, int task, ns_error *err)
{
    ns_graph *g = &s->graph;
    ns_task *t = &g->tasks[task];
    int have = s->cluster.gpus >= 0 ? (int)s->cluster.gpus : ns_local_gpus(), want = 0;
    for (size_t k = 0; k < t->n_groups; k++) {
        NS_FAIL_IF(t->groups[k].nodes > 1, NS_ERR_CONFIG,
                   "%s: Local executor does not support multi-node execution: %d nodes need a slurm cluster", t->name,
                   t->groups[k].nodes);
        if (t->groups[k].gpus > 0) want += t->groups[k].gpus;
    }
    if (want > 0 && have == 0) {
        NS_TRY(ns_submission_note(s, err, "this machine has no GPU: jobs that ask for GPUs run on its CPUs"), "%s",
               t->name);
        for (size_t k = 0; k < t->n_groups; k++) t->groups[k].gpus = 0;
    }
    NS_FAIL_IF(have > 0 && want > have, NS_ERR_CONFIG, "%s: asks for %d GPUs, this machine has %d", t->name, want,
               have);
    g->gpus = have;
    g->max_jobs = (int)s->cluster.max_jobs;
    t->log = ns_arena_printf(&g->arena, err, "%s/main_%s_%s.log", t->log_dir, t->stem, strrchr(g->dir, '/') + 1);
    return t->log ? NS_OK : NS_ERR_MEMORY;
}

static ns_status queue_path(char out[JOBS_PATH], const ns_graph *g, ns_error *err)
{
    char home[JOBS_PATH];
    NS_TRY(ns_store_home(home, sizeof home, err), "%s", "queue");
    return jobs_path(out, err, "%s/queue/%s", home, g->id);
}

/* (Re)writing the link also wakes the supervisor. */
static ns_status enqueue(const ns_graph *g, ns_error *err)
{
    char path[JOBS_PATH];
    NS_TRY(queue_path(path, g, err), "%s", "queue");
    return ns_file_replace(path, g->dir, strlen(g->dir), err);
}

static ns_status submit(ns_graph *g, const char *mask, ns_error *err)
{
    for (size_t i = 0; i < g->n_tasks; i++) {
        ns_task_status s;
        if (!mask[i]) continue;
        NS_TRY(ns_store_read_status(&s, g, (int)i, err), "state");
        s = (ns_task_status){.state = NS_TASK_WAITING, .attempt = s.attempt};
        NS_TRY(ns_store_write_status(g, (int)i, &s, err), "state");
    }
    NS_TRY(enqueue(g, err), "queue");
    return ns_supervisor_start(err);
}

static ns_status refresh(ns_graph *g, ns_task_status *st, ns_error *err)
{
    size_t open = 0;
    for (size_t i = 0; i < g->n_tasks; i++) {
        NS_TRY(ns_store_read_status(&st[i], g, (int)i, err), "state");
        open += !ns_task_ended(st[i].state);
    }
    char host[256] = "";
    gethostname(host, sizeof host - 1);
    return open && strcmp(host, g->host) == 0 ? ns_supervisor_start(err) : NS_OK;
}

static ns_status cancel(ns_graph *g, const char *mask, ns_error *err)
{
    (void)mask; /* the marks are written: the supervisor reads them */
    NS_TRY(enqueue(g, err), "queue");
    return ns_supervisor_start(err);
}

const ns_executor ns_executor_local = {"local", prepare, submit, refresh, cancel};

/* ---- starting the supervisor ---- */
static int queue_is_empty(const char *home)
{
    char path[JOBS_PATH];
    int n = 0;
    if (jobs_path(path, NULL, "%s/queue", home) != NS_OK) return 1;
    DIR *d = opendir(path);
    struct dirent *e;
    while (d && (e = readdir(d))) n += e->d_name[0] != '.' && !strstr(e->d_name, ".damaged");
    if (d) closedir(d);
    return n == 0;
}

static void detach(const char *home, int lock)
{
    char log[JOBS_PATH];
    setsid();
    if (fork() > 0) _exit(0); /* never a terminal again */
    if (jobs_path(log, NULL, "%s/supervisor.log", home) != NS_OK) _exit(1);
    int fd = open(log, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644), null = open("/dev/null", O_RDONLY);
    dup2(null, 0);
    dup2(fd >= 0 ? fd : null, 1);
    dup2(fd >= 0 ? fd : null, 2);
    for (int i = 3; i < 1024; i++)
        if (i != lock) close(i);
    if (chdir("/") != 0) _exit(1);
    signal(SIGHUP, SIG_IGN);
    signal(SIGINT, SIG_DFL);
    signal(SIGTERM, SIG_DFL);
    signal(SIGPIPE, SIG_IGN);
    /* A guardian starts the loop again when it dies; both hold the lock. Both killed: the next ns command starts them. */
    for (int i = 0; i < 1000; i++) {
        pid_t pid = fork();
        if (pid == 0) _exit(ns_supervisor_main(home, lock));
        int status = 1;
        while (waitpid(pid, &status, 0) < 0 && errno == EINTR) {
        }
        if (WIFEXITED(status)) _exit(WEXITSTATUS(status));
        sleep(1);
    }
    _exit(1);
}

ns_status ns_supervisor_start(ns_error *err)
{
    char home[JOBS_PATH], path[JOBS_PATH];
    NS_TRY(ns_store_home(home, sizeof home, err), "%s", "supervisor");
    if (queue_is_empty(home)) return NS_OK;
    char host[256] = "host";
    gethostname(host, sizeof host - 1);
    NS_TRY(jobs_path(path, err, "%s/supervisor.%s.lock", home, host), "%s", "supervisor");
    int lock = open(path, O_RDWR | O_CREAT, 0644);
    NS_FAIL_IF(lock < 0, NS_ERR_IO, "cannot make %s: %s", path, strerror(errno));
    if (flock(lock, LOCK_EX | LOCK_NB) != 0) {
        close(lock);
        return NS_OK; /* it runs */
    }
    fflush(NULL);
    pid_t pid = fork();
    if (pid == 0) detach(home, lock);
    close(lock);
    NS_FAIL_IF(pid < 0, NS_ERR_IO, "cannot start the supervisor: %s", strerror(errno));
    int status;
    while (waitpid(pid, &status, 0) < 0 && errno == EINTR) {
    }
    return NS_OK;
}

ns_status ns_local_spawn(const ns_graph *g, int task, const char *gpus, int64_t *pid, ns_error *err)
{
    char script[JOBS_PATH];
    const char *log = g->tasks[task].log;
    NS_TRY(jobs_path(script, err, "%s/scripts/%d.sh", g->dir, task), "%s", "script");
    int fd = open(log, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
    NS_FAIL_IF(fd < 0, NS_ERR_IO, "cannot write the log %s: %s", log, strerror(errno));
    pid_t child = fork();
    if (child == 0) {
        setsid(); /* a group of its own: a stop reaches all of it, and a dead supervisor takes nothing along */
        dup2(fd, 1);
        dup2(fd, 2);
        sigset_t none;
        sigemptyset(&none);
        sigprocmask(SIG_SETMASK, &none, NULL);
        signal(SIGHUP, SIG_IGN);
        signal(SIGPIPE, SIG_DFL);
        for (int i = 3; i < 1024; i++) close(i);
        if (gpus) setenv("CUDA_VISIBLE_DEVICES", gpus, 1);
        execlp("bash", "bash", script, (char *)NULL);
        dprintf(2, "ns: cannot start bash: %s\n", strerror(errno));
        _exit(127);
    }
    close(fd);
    NS_FAIL_IF(child < 0, NS_ERR_IO, "cannot fork: %s", strerror(errno));
    *pid = child;
    return NS_OK;
}
