/* The supervisor of the local executor: one detached process per store and machine, as long as there is work.
 *
 *   wake (queue changed, a job ended, a time limit) -> read the queue -> settle running tasks -> cancel -> start what is ready -> sleep
 *
 * It keeps nothing that is not in the store: killed at any moment, the next one finds running jobs by process id and start time
 * and their ends in the marks that the jobs write themselves. While it sleeps it waits in poll() on inotify and on process
 * descriptors: no polling, no CPU. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/inotify.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/file.h"
#include "base/log.h"
#include "jobs/exec.h"
#include "jobs/jobs_priv.h"
#include "jobs/proc.h"

enum { MAX_GPUS = 64, KILL_AFTER_S = 60 };

typedef struct job {
    ns_graph graph;
    ns_task_status *st;
    double *kill_at; /* per task: TERM was sent, KILL is due; 0: not */
    int *fd;         /* per task: process descriptor, -1: none */
} job;

typedef struct supervisor {
    const char *home;
    char host[256];
    job **jobs;
    size_t n, cap;
    int inotify;
    struct pollfd *polls;
    size_t cap_polls;
} supervisor;

static void say_error(const char *what, ns_error *e)
{
    char text[2048];
    NS_WARN("%s: %s", what, ns_error_text(e, text, sizeof text));
    *e = (ns_error)NS_ERROR_INIT;
}

static void drop_job(job *j)
{
    for (size_t i = 0; j->fd && i < j->graph.n_tasks; i++)
        if (j->fd[i] >= 0) close(j->fd[i]);
    ns_graph_free(&j->graph);
    ns_free(j);
}

/* ---- the queue ---- */
static int known(const supervisor *s, const char *id)
{
    for (size_t i = 0; i < s->n; i++)
        if (strcmp(s->jobs[i]->graph.id, id) == 0) return 1;
    return 0;
}

static ns_status load(supervisor *s, const char *link, ns_error *err)
{
    ns_buf dir = {0};
    char path[JOBS_PATH];
    job *j = NULL;
    ns_status st = ns_file_read(&dir, link, err);
    if (st == NS_OK) st = jobs_path(path, err, "%s/experiment.json", dir.data ? dir.data : "");
    if (st == NS_OK) st = ns_alloc((void **)&j, sizeof *j, "jobs.supervisor", err);
    if (st == NS_OK) st = ns_graph_read(&j->graph, path, err);
    if (st == NS_OK && strcmp(j->graph.host, s->host)) { /* another machine's */
        drop_job(j);
        j = NULL;
        goto done;
    }
    if (st == NS_OK) {
        size_t n = j->graph.n_tasks + 1;
        j->st = ns_arena_alloc(&j->graph.arena, n * sizeof *j->st, err);
        j->kill_at = ns_arena_alloc(&j->graph.arena, n * sizeof *j->kill_at, err);
        j->fd = ns_arena_alloc(&j->graph.arena, n * sizeof *j->fd, err);
        if (!j->st || !j->kill_at || !j->fd) st = NS_ERR_MEMORY;
        for (size_t i = 0; st == NS_OK && i < n; i++) j->fd[i] = -1;
        if (st == NS_OK) st = ns_grow((void **)&s->jobs, &s->cap, s->n + 1, sizeof *s->jobs, "jobs.supervisor", err);
    }
    if (st == NS_OK) {
        s->jobs[s->n++] = j;
        j = NULL;
    }
done:
    if (j) drop_job(j);
    ns_buf_free(&dir);
    return st;
}

static void read_queue(supervisor *s)
{
    char path[JOBS_PATH], bad[JOBS_PATH];
    ns_error err = NS_ERROR_INIT;
    if (jobs_path(path, NULL, "%s/queue", s->home) != NS_OK) return;
    DIR *d = opendir(path);
    struct dirent *e;
    while (d && (e = readdir(d))) {
        if (e->d_name[0] == '.' || strstr(e->d_name, ".tmp.") || strstr(e->d_name, ".damaged") || known(s, e->d_name))
            continue;
        if (jobs_path(path, NULL, "%s/queue/%s", s->home, e->d_name) != NS_OK) continue;
        if (load(s, path, &err) == NS_OK) continue;
        say_error(e->d_name, &err);
        if (jobs_path(bad, NULL, "%s.damaged", path) == NS_OK) rename(path, bad); /* the others go on */
    }
    if (d) closedir(d);
}

/* ---- one pass ---- */
static void save(job *j, size_t i)
{
    ns_error err = NS_ERROR_INIT;
    if (ns_store_write_status(&j->graph, (int)i, &j->st[i], &err) != NS_OK) say_error(j->graph.id, &err);
}

static void end_task(job *j, size_t i)
{
    ns_task_status *t = &j->st[i];
    int rc = 0, status = 0, reaped = waitpid((pid_t)t->pid, &status, WNOHANG) == t->pid;
    int ended = ns_store_read_marks(t, &j->graph, (int)i);
    if (j->fd[i] >= 0) close(j->fd[i]);
    j->fd[i] = -1;
    rc = ended ? t->rc : reaped ? (WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status)) : -1;
    if (!t->ended) t->ended = jobs_now();
    int timed = j->kill_at[i] > 0;
    j->kill_at[i] = 0;
    if (ns_store_cancel_asked(&j->graph, (int)i)) {
        t->state = NS_TASK_CANCELLED;
        snprintf(t->why, sizeof t->why, "by ns cancel");
    } else if (rc < 0) {
        t->state = NS_TASK_LOST;
        snprintf(t->why, sizeof t->why, "its process is gone and left no mark");
    } else {
        t->state = rc ? NS_TASK_FAILED : NS_TASK_DONE;
        t->rc = rc;
        if (rc && timed)
            snprintf(t->why, sizeof t->why, "time limit");
        else if (!ended)
            snprintf(t->why, sizeof t->why, rc > 128 ? "killed by signal %d" : "exit code %d",
                     rc > 128 ? rc - 128 : rc);
    }
    NS_INFO("%s: %s %s", j->graph.tasks[i].name, ns_task_state_name(t->state), t->why);
    save(j, i);
}

static void stop_task(job *j, size_t i, int sig)
{
    kill(-(pid_t)j->st[i].pid, sig); /* the whole session */
    if (sig == SIGTERM) j->kill_at[i] = jobs_now() + KILL_AFTER_S;
}

static void watch_running(job *j, size_t i)
{
    ns_task_status *t = &j->st[i];
    const ns_task *task = &j->graph.tasks[i];
    if (ns_proc_ticks(t->pid) != t->ticks || !t->ticks) {
        end_task(j, i);
        return;
    }
    if (j->fd[i] < 0) j->fd[i] = (int)syscall(SYS_pidfd_open, (pid_t)t->pid, 0);
    double now = jobs_now();
    if (j->kill_at[i] > 0) {
        if (now >= j->kill_at[i]) stop_task(j, i, SIGKILL);
        return;
    }
    if (ns_store_cancel_asked(&j->graph, (int)i) || (task->limit_s > 0 && now >= t->started + task->limit_s))
        stop_task(j, i, SIGTERM);
}

/* Of all that runs now. */
static void count_used(const supervisor *s, int *n_running, char used[MAX_GPUS])
{
    *n_running = 0;
    memset(used, 0, MAX_GPUS);
    for (size_t k = 0; k < s->n; k++)
        for (size_t i = 0; i < s->jobs[k]->graph.n_tasks; i++) {
            const ns_task_status *t = &s->jobs[k]->st[i];
            if (t->state != NS_TASK_RUNNING) continue;
            ++*n_running;
            for (const char *p = t->gpus; *p;) {
                char *end;
                long g = strtol(p, &end, 10);
                if (end == p) break;
                if (g >= 0 && g < MAX_GPUS) used[g] = 1;
                p = *end ? end + 1 : end;
            }
        }
}

/* 1: ready, 0: waits, -1: can never run; `why` says. */
static int readiness(const job *j, size_t i, char *why, size_t n)
{
    const ns_task *t = &j->graph.tasks[i];
    for (size_t k = 0; k < t->n_edges; k++) {
        const ns_task_status *x = &j->st[t->edges[k].task];
        snprintf(why, n, ns_task_ended(x->state) ? "%s did not succeed" : "waits for %s",
                 j->graph.tasks[t->edges[k].task].name);
        if (!ns_task_ended(x->state)) return 0;
        if (t->edges[k].kind == NS_AFTER_OK && x->state != NS_TASK_DONE) return -1;
    }
    for (size_t k = 0; k < t->n_outer; k++) {
        ns_error err = NS_ERROR_INIT;
        ns_graph other = {.dir = t->outer[k].dir};
        ns_task_status x;
        snprintf(why, n, "waits for %s", t->outer[k].exp);
        if (ns_store_read_status(&x, &other, t->outer[k].task, &err) != NS_OK) return 0;
        if (!ns_task_ended(x.state)) return 0;
        snprintf(why, n, "%s did not succeed", t->outer[k].exp);
        if (t->outer[k].kind == NS_AFTER_OK && x.state != NS_TASK_DONE) return -1;
    }
    return 1;
}

static void start_task(supervisor *s, job *j, size_t i)
{
    const ns_task *t = &j->graph.tasks[i];
    ns_task_status *st = &j->st[i];
    ns_error err = NS_ERROR_INIT;
    char used[MAX_GPUS], gpus[128] = "";
    int running, want = 0, have = j->graph.gpus > 0 ? j->graph.gpus : 0;
    count_used(s, &running, used);
    int64_t slots = j->graph.max_jobs > 0 ? j->graph.max_jobs : sysconf(_SC_NPROCESSORS_ONLN);
    for (size_t k = 0; k < t->n_groups; k++) want += t->groups[k].gpus > 0 ? t->groups[k].gpus : 0;
    size_t len = 0;
    int got = 0;
    for (int g = 0; g < have && g < MAX_GPUS && got < want; g++)
        if (!used[g]) len += (size_t)snprintf(gpus + len, sizeof gpus - len, "%s%d", got++ ? "," : "", g);
    if (running >= slots || got < want) {
        snprintf(st->why, sizeof st->why, "%s", running >= slots ? "waits for a slot" : "waits for GPUs");
        return;
    }
    ns_store_clear_marks(&j->graph, (int)i);
    *st = (ns_task_status){.state = NS_TASK_RUNNING, .attempt = st->attempt, .started = jobs_now()};
    snprintf(st->gpus, sizeof st->gpus, "%s", gpus);
    snprintf(st->node, sizeof st->node, "%.127s", s->host);
    if (ns_local_spawn(&j->graph, (int)i, have ? gpus : NULL, &st->pid, &err) != NS_OK) {
        st->state = NS_TASK_FAILED;
        st->rc = 1;
        st->ended = jobs_now();
        snprintf(st->why, sizeof st->why, "%.199s", err.msg);
        say_error(t->name, &err);
    } else {
        st->ticks = ns_proc_ticks(st->pid);
        NS_INFO("%s: started, process %lld", t->name, (long long)st->pid);
    }
    save(j, i);
    if (st->state == NS_TASK_RUNNING) watch_running(j, i);
}

static void pass_task(supervisor *s, job *j, size_t i)
{
    ns_task_status *t = &j->st[i];
    char why[200] = "";
    if (t->state == NS_TASK_RUNNING) watch_running(j, i);
    if (t->state != NS_TASK_WAITING) return;
    if (ns_store_cancel_asked(&j->graph, (int)i)) {
        t->state = NS_TASK_CANCELLED;
        t->ended = jobs_now();
        snprintf(t->why, sizeof t->why, "by ns cancel");
        save(j, i);
        return;
    }
    int ready = readiness(j, i, why, sizeof why);
    if (ready > 0) {
        snprintf(why, sizeof why, "%s", t->why);
        start_task(s, j, i);
        if (t->state == NS_TASK_WAITING && strcmp(why, t->why)) save(j, i);
        return;
    }
    int changed = ready < 0 || strcmp(why, t->why);
    snprintf(t->why, sizeof t->why, "%s", why);
    if (ready < 0) t->state = NS_TASK_SKIPPED;
    if (changed) save(j, i);
}

/* One look at everything. Returns 1 if a state changed in a way that others may wait for. */
static int pass(supervisor *s)
{
    int changed = 0;
    for (size_t k = 0; k < s->n; k++) {
        job *j = s->jobs[k];
        ns_error err = NS_ERROR_INIT;
        size_t open = 0;
        for (size_t i = 0; i < j->graph.n_tasks; i++) { /* submit and retry write states, too */
            ns_task_status now;
            if (ns_store_read_status(&now, &j->graph, (int)i, &err) != NS_OK) {
                say_error(j->graph.id, &err);
                now = (ns_task_status){.state = NS_TASK_LOST, .why = "damaged state file"};
            }
            j->st[i] = now;
        }
        for (size_t i = 0; i < j->graph.n_tasks; i++) {
            ns_task_state before = j->st[i].state;
            pass_task(s, j, i);
            changed |= before != j->st[i].state && ns_task_ended(j->st[i].state);
            open += !ns_task_ended(j->st[i].state);
        }
        if (open) continue;
        char link[JOBS_PATH];
        if (jobs_path(link, NULL, "%s/queue/%s", s->home, j->graph.id) == NS_OK) unlink(link);
        drop_job(j);
        memmove(&s->jobs[k], &s->jobs[k + 1], (s->n - k - 1) * sizeof *s->jobs);
        s->n--;
        k--;
    }
    return changed;
}

/* ---- sleeping ---- */
static void wait_for_news(supervisor *s)
{
    size_t n = 1;
    double now = jobs_now(), due = now + 30; /* a file system without notices (NFS) is looked at now and then */
    ns_error err = NS_ERROR_INIT;
    for (size_t k = 0; k < s->n; k++)
        for (size_t i = 0; i < s->jobs[k]->graph.n_tasks; i++) {
            job *j = s->jobs[k];
            if (j->st[i].state != NS_TASK_RUNNING) continue;
            if (ns_grow((void **)&s->polls, &s->cap_polls, n + 2, sizeof *s->polls, "jobs.supervisor", &err) != NS_OK)
                break;
            if (j->fd[i] >= 0) s->polls[n++] = (struct pollfd){j->fd[i], POLLIN, 0};
            double limit = j->graph.tasks[i].limit_s > 0 ? j->st[i].started + j->graph.tasks[i].limit_s : due;
            if (j->kill_at[i] > 0) limit = j->kill_at[i];
            if (j->fd[i] < 0 && limit > now + 1) limit = now + 1; /* an old kernel: look each second */
            if (limit < due) due = limit;
        }
    if (!s->polls &&
        ns_grow((void **)&s->polls, &s->cap_polls, 2, sizeof *s->polls, "jobs.supervisor", &err) != NS_OK) {
        sleep(1);
        return;
    }
    s->polls[0] = (struct pollfd){s->inotify, POLLIN, 0};
    double ms = (due - now) * 1000;
    poll(s->polls, n, ms < 10 ? 10 : (int)ms);
    char events[4096];
    while (s->inotify >= 0 && read(s->inotify, events, sizeof events) > 0) {
    }
    if (poll(s->polls, n, 0) > 0) usleep(20000); /* a mark is written just before its process ends: let it settle */
}

int ns_supervisor_main(const char *home, int lock)
{
    supervisor s = {.home = home};
    char path[JOBS_PATH];
    gethostname(s.host, sizeof s.host - 1);
    s.inotify = inotify_init1(IN_NONBLOCK | IN_CLOEXEC);
    if (jobs_path(path, NULL, "%s/queue", home) != NS_OK) return 1;
    if (s.inotify >= 0) inotify_add_watch(s.inotify, path, IN_MOVED_TO | IN_CLOSE_WRITE);
    NS_INFO("supervisor %ld starts", (long)getpid());
    for (;;) {
        read_queue(&s);
        while (pass(&s)) {
        }
        if (!s.n) { /* who submits writes the queue, then tries the lock: let it go, then look once more */
            flock(lock, LOCK_UN);
            read_queue(&s);
            if (!s.n || flock(lock, LOCK_EX | LOCK_NB) != 0) break;
            continue;
        }
        wait_for_news(&s);
    }
    NS_INFO("supervisor %ld has nothing left to do", (long)getpid());
    return 0;
}
