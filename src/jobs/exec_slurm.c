/* Executor `slurm`: sbatch, squeue, scancel, sacct by argv; through `ssh HOST` when the cluster has a tunnel. The record lies here,
 * its copy (scripts, env.sh, marks) behind the tunnel. A job's own marks (begin, end) tell what happened after Slurm forgets it. */
#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/file.h"
#include "jobs/exec.h"
#include "jobs/jobs_priv.h"
#include "jobs/proc.h"

/* ---- commands on the login node ---- */
/* Runs argv here, or as a quoted line behind ssh. */
static ns_status remote(ns_proc_result *r, const ns_graph *g, const ns_words *argv, const void *in, size_t n_in,
                        double timeout, ns_error *err)
{
    if (!g->ssh.n) return ns_proc_run(r, argv->v, in, n_in, timeout, err);
    ns_arena a = NS_ARENA_INIT("jobs.ssh");
    ns_words w = {0};
    ns_buf line = {0};
    ns_status st = ns_words_add_all(&w, &a, g->ssh.v, g->ssh.n, err);
    if (st == NS_OK && g->ssh_setup) st = ns_buf_printf(&line, err, "%s; ", g->ssh_setup);
    if (st == NS_OK) st = ns_shell_line(&line, argv->v, argv->n, err);
    if (st == NS_OK) st = ns_words_add(&w, &a, line.data, err);
    if (st == NS_OK) st = ns_proc_run(r, w.v, in, n_in, timeout, err);
    if (st == NS_OK && r->rc == 255) {
        char said[300];
        ns_proc_said(said, sizeof said, r);
        st = ns_error_set(err, NS_ERR_IO, __FILE__, __LINE__, "ssh to %s failed: %s", g->ssh.v[g->ssh.n - 1], said);
        ns_proc_free(r);
    }
    ns_buf_free(&line);
    ns_arena_free(&a);
    return st;
}

static ns_status words_of(ns_words *w, ns_arena *a, ns_error *err, const char *const *v)
{
    for (; *v; v++) JOBS_TRY(ns_words_add(w, a, *v, err));
    return NS_OK;
}

/* Sends a folder: tar here | ssh tar there, streamed (the program with its plug-ins is more than 100 MB), into a folder beside it that is
 * renamed when all has come: a connection that breaks leaves nothing that looks complete. `shared`: another submission may have put the
 * same there meanwhile. */
static ns_status send_folder(const ns_graph *g, const char *from, const char *to, int shared, ns_error *err)
{
    static const char here[] = "set -o pipefail; from=$1; shift; tar -C \"$from\" -cf - . | \"$@\"";
    static const char there[] = "t=$1.part.$$; mkdir -p \"$t\" && tar -C \"$t\" -xf - && if mv -T \"$t\" \"$1\" "
                                "2>/dev/null || { [ $2 = 1 ] && [ -d \"$1\" ]; }; "
                                "then rm -rf \"$t\"; else echo \"it is there already\" >&2; rm -rf \"$t\"; exit 1; fi";
    const char *const unpack[] = {"sh", "-c", there, "sh", to, shared ? "1" : "0"};
    const char *const pack[] = {"bash", "-c", here, "ns", from};
    const char *host = g->ssh.v[g->ssh.n - 1];
    char said[300] = "";
    ns_arena a = NS_ARENA_INIT("jobs.ssh");
    ns_proc_result r = {0};
    ns_words w = {0};
    ns_buf line = {0};
    ns_status st = ns_words_add_all(&w, &a, pack, 5, err);
    if (st == NS_OK) st = ns_words_add_all(&w, &a, g->ssh.v, g->ssh.n, err);
    if (st == NS_OK && g->ssh_setup) st = ns_buf_printf(&line, err, "%s; ", g->ssh_setup);
    if (st == NS_OK) st = ns_shell_line(&line, unpack, 6, err);
    if (st == NS_OK) st = ns_words_add(&w, &a, line.data, err);
    if (st == NS_OK) st = ns_proc_run(&r, w.v, NULL, 0, 3600, err);
    if (st == NS_OK) ns_proc_said(said, sizeof said, &r);
    if (st == NS_OK && r.rc == 255)
        st = ns_error_set(err, NS_ERR_IO, __FILE__, __LINE__, "ssh to %s failed: %s", host, said);
    else if (st == NS_OK && r.rc)
        st = ns_error_set(err, NS_ERR_IO, __FILE__, __LINE__, "cannot write %s on %s: %s", to, host, said);
    ns_proc_free(&r);
    ns_buf_free(&line);
    ns_arena_free(&a);
    return st;
}

static ns_status send_all(ns_graph *g, ns_error *err)
{
    const char *program, *place, *slash;
    ns_words w = {0};
    ns_proc_result r = {0};
    ns_arena *a = &g->arena;
    char dir[JOBS_PATH];
    NS_TRY(ns_program_place(a, &program, err), "%s", "program");
    NS_TRY(ns_program_copy(program, err), "%s", "program");
    slash = strrchr(program, '/');
    NS_TRY(jobs_path(dir, err, "%s", g->run_dir), "%s", "ssh");
    for (int i = 0; i < 2; i++) *strrchr(dir, '/') = 0; /* job_dir/title/id */
    place = ns_arena_printf(a, err, "%s/bin%s", dir, slash);
    JOBS_NEED(place);
    const char *const test[] = {"test", "-x", ns_arena_printf(a, err, "%s/bin/ns", place), NULL};
    JOBS_TRY(words_of(&w, a, err, test));
    NS_TRY(remote(&r, g, &w, NULL, 0, 60, err), "%s", "ssh");
    int there = r.rc == 0;
    ns_proc_free(&r);
    if (!there) NS_TRY(send_folder(g, program, place, 1, err), "send the program");
    NS_TRY(send_folder(g, g->dir, g->run_dir, 0, err), "send the experiment");
    w.n = 0;
    const char *const mk[] = {"mkdir", "-p", "--", NULL};
    JOBS_TRY(words_of(&w, a, err, mk));
    for (size_t i = 0; i < g->n_tasks; i++) JOBS_TRY(ns_words_add(&w, a, g->tasks[i].log_dir, err));
    NS_TRY(remote(&r, g, &w, NULL, 0, 60, err), "%s", "ssh");
    char said[300];
    ns_proc_said(said, sizeof said, &r);
    int rc = r.rc;
    ns_proc_free(&r);
    NS_FAIL_IF(rc, NS_ERR_IO, "cannot make the log folders on %s: %s", g->ssh.v[g->ssh.n - 1], said);
    return NS_OK;
}

/* ---- prepare ---- */
static ns_status flag(ns_words *w, ns_arena *a, const char *name, const char *value, ns_error *err)
{
    return value ? ns_words_addf(w, a, err, "--%s=%s", name, value) : NS_OK;
}

/* '%' begins a pattern of Slurm's: twice is a plain one. */
static const char *no_patterns(ns_arena *a, const char *s, ns_error *err)
{
    ns_buf b = {0};
    ns_status st = NS_OK;
    for (; *s && st == NS_OK; s++) st = ns_buf_add(&b, *s == '%' ? "%%" : s, *s == '%' ? 2 : 1, err);
    const char *out = st == NS_OK && b.data ? ns_arena_strdup(a, b.data, err) : NULL;
    ns_buf_free(&b);
    return out;
}

/* Flags of one component of a job. */
static ns_status component(ns_words *w, ns_arena *a, const ns_submission *s, const ns_task *t, const ns_group *k,
                           ns_error *err)
{
    const ns_cluster *c = &s->cluster;
    char text[32];
    JOBS_TRY(flag(w, a, "account", c->account, err));
    JOBS_TRY(flag(w, a, "partition", t->partition, err));
    JOBS_TRY(ns_words_addf(w, a, err, "--nodes=%d", k->nodes));
    JOBS_TRY(ns_words_addf(w, a, err, "--ntasks-per-node=%d", k->tasks));
    if (k->gpus > 0 && !c->disable_gpus_per_node) JOBS_TRY(ns_words_addf(w, a, err, "--gpus-per-node=%d", k->gpus));
    if (t->exclusive) JOBS_TRY(ns_words_add(w, a, "--exclusive", err));
    if (t->limit_s > 0) {
        ns_format_duration(text, t->limit_s);
        JOBS_TRY(flag(w, a, "time", ns_arena_strdup(a, text, err), err));
        /* steps are told this long before the limit: the second line behind NS_STOP_AT (Slurm looks every half minute) */
        JOBS_TRY(ns_words_addf(w, a, err, "--signal=USR1@%.0f", t->margin_s < 65535 ? t->margin_s : 65535));
    }
    JOBS_TRY(flag(w, a, "time-min", t->time_min, err));
    return ns_words_add_all(w, a, c->sbatch_args.v, c->sbatch_args.n, err);
}

static ns_status prepare(ns_submission *s, int task, ns_error *err)
{
    ns_graph *g = &s->graph;
    ns_arena *a = &g->arena;
    ns_task *t = &g->tasks[task];
    const ns_cluster *c = &s->cluster;
    ns_words *w = &t->submit;
    static const char *const first[] = {
        "sbatch", "--parsable", "--requeue", "--kill-on-invalid-dep=yes", "--open-mode=append", NULL};
    NS_FAIL_IF(strchr(t->log_dir, '\\') || strchr(t->log_dir, '\n'), NS_ERR_CONFIG,
               "--log_dir: '%s' has a backslash or a newline, which Slurm cannot take", t->log_dir);
    w->n = 0;
    JOBS_TRY(words_of(w, a, err, first));
    JOBS_TRY(ns_words_addf(w, a, err, "--job-name=%s%s", c->job_name_prefix ? c->job_name_prefix : "", t->name));
    JOBS_TRY(flag(w, a, "mail-type", c->mail_type, err));
    JOBS_TRY(flag(w, a, "mail-user", c->mail_user, err));
    const char *dir = no_patterns(a, t->log_dir, err), *work = no_patterns(a, g->workdir, err);
    JOBS_NEED(dir && work ? dir : NULL);
    JOBS_TRY(ns_words_addf(w, a, err, "--output=%s/%s_%%j_sbatch.log", dir, t->stem));
    if (!g->ssh.n) JOBS_TRY(ns_words_addf(w, a, err, "--chdir=%s", work));
    for (size_t k = 0; k < t->n_groups; k++) {
        if (k) JOBS_TRY(ns_words_add(w, a, ":", err));
        JOBS_TRY(component(w, a, s, t, &t->groups[k], err));
    }
    t->log = ns_arena_printf(a, err, "%s/%s_%s_%%j_srun.log", t->log_dir, t->groups[t->n_groups - 1].role, t->stem);
    JOBS_NEED(t->log);
    return NS_OK;
}

/* ---- submit ---- */
typedef struct dep_list {
    ns_buf ok, any;
} dep_list;

static ns_status add_dep(dep_list *d, ns_edge_kind kind, const char *job, ns_error *err)
{
    ns_buf *b = kind == NS_AFTER_OK ? &d->ok : &d->any;
    return ns_buf_printf(b, err, "%s%s", b->len ? ":" : kind == NS_AFTER_OK ? "afterok:" : "afterany:", job);
}

static ns_status outer_deps(const ns_task *t, dep_list *d, ns_error *err)
{
    for (size_t k = 0; k < t->n_outer; k++) {
        const ns_outer *o = &t->outer[k];
        ns_graph other;
        ns_task_status *st;
        int found;
        NS_TRY(ns_store_open(&other, o->dir, &found, err), "run_after");
        NS_FAIL_IF(!found || (size_t)o->task >= other.n_tasks, NS_ERR_INPUT, "run_after: the record of %s is gone",
                   o->exp);
        ns_status rc = ns_steer_status(&other, &st, err);
        const ns_task_status *x = rc == NS_OK ? &st[o->task] : NULL;
        if (x && ns_task_ended(x->state) && x->state != NS_TASK_DONE && o->kind == NS_AFTER_OK)
            rc = ns_error_set(err, NS_ERR_CONFIG, __FILE__, __LINE__, "%s is %s: `ns retry %s` first",
                              other.tasks[o->task].name, ns_task_state_name(x->state), other.id);
        if (rc == NS_OK && x && !ns_task_ended(x->state)) rc = add_dep(d, o->kind, x->job, err);
        ns_graph_free(&other);
        JOBS_TRY(rc);
    }
    return NS_OK;
}

/* "12345" or "12345;cluster" */
static int take_job_id(char out[64], const ns_buf *said)
{
    size_t n = 0;
    const char *p = said->data ? said->data : "";
    while (isdigit((unsigned char)p[n]) && n < 60) n++;
    snprintf(out, 64, "%.*s", (int)n, p);
    return n > 0 && (p[n] == '\n' || p[n] == ';' || p[n] == 0);
}

static ns_status sbatch(ns_graph *g, int task, const dep_list *d, char job[64], ns_error *err)
{
    const ns_task *t = &g->tasks[task];
    ns_arena a = NS_ARENA_INIT("jobs.sbatch");
    ns_words w = {0};
    ns_proc_result r = {0};
    size_t at = 1;
    ns_status st = ns_words_add(&w, &a, t->submit.v[0], err);
    if (st == NS_OK && (d->ok.len || d->any.len))
        st = ns_words_addf(&w, &a, err, "--dependency=%s%s%s", d->ok.len ? d->ok.data : "",
                           d->ok.len && d->any.len ? "," : "", d->any.len ? d->any.data : "");
    for (; st == NS_OK && at < t->submit.n; at++) st = ns_words_add(&w, &a, t->submit.v[at], err);
    if (st == NS_OK) st = ns_words_addf(&w, &a, err, "%s/scripts/%d.sh", g->run_dir, task);
    if (st == NS_OK) st = remote(&r, g, &w, NULL, 0, 120, err);
    if (st == NS_OK && (r.rc || !take_job_id(job, &r.out))) {
        char said[400];
        ns_proc_said(said, sizeof said, &r);
        st = ns_error_set(err, r.rc == 127 ? NS_ERR_CONFIG : NS_ERR_IO, __FILE__, __LINE__,
                          r.rc == 127 ? "%s: Slurm's sbatch is not installed here (%s): submit on the login node, or "
                                        "give the cluster file an ssh_tunnel"
                                      : "%s: Slurm refused it: %s",
                          t->name, said);
    }
    ns_proc_free(&r);
    ns_arena_free(&a);
    return st;
}

static ns_status cancel_jobs(const ns_graph *g, const ns_words *jobs, ns_error *err)
{
    ns_arena a = NS_ARENA_INIT("jobs.scancel");
    ns_words w = {0};
    ns_proc_result r = {0};
    ns_status st = ns_words_add(&w, &a, "scancel", err);
    if (st == NS_OK) st = ns_words_add_all(&w, &a, jobs->v, jobs->n, err);
    if (st == NS_OK && jobs->n) st = remote(&r, g, &w, NULL, 0, 120, err);
    if (st == NS_OK && jobs->n && r.rc && !(r.err.data && strstr(r.err.data, "nvalid job id"))) {
        char said[300];
        ns_proc_said(said, sizeof said, &r);
        st = ns_error_set(err, NS_ERR_IO, __FILE__, __LINE__, "scancel: %s", said);
    }
    ns_proc_free(&r);
    ns_arena_free(&a);
    return st;
}

static ns_status submit_one(ns_graph *g, int i, const char *mask, ns_task_status *st, ns_error *err)
{
    const ns_task *t = &g->tasks[i];
    dep_list d = {{0}, {0}};
    char job[64] = "";
    ns_status rc = NS_OK;
    for (size_t k = 0; k < t->n_edges && rc == NS_OK; k++) {
        const ns_task_status *x = &st[t->edges[k].task];
        if (mask[t->edges[k].task] || !ns_task_ended(x->state)) rc = add_dep(&d, t->edges[k].kind, x->job, err);
    }
    if (rc == NS_OK) rc = outer_deps(t, &d, err);
    if (rc == NS_OK) rc = sbatch(g, i, &d, job, err);
    ns_buf_free(&d.ok);
    ns_buf_free(&d.any);
    JOBS_TRY(rc);
    st[i] = (ns_task_status){.state = NS_TASK_WAITING, .attempt = st[i].attempt};
    snprintf(st[i].job, sizeof st[i].job, "%s", job);
    return ns_store_write_status(g, i, &st[i], err);
}

static ns_status submit(ns_graph *g, const char *mask, ns_error *err)
{
    ns_task_status *st = ns_arena_alloc(&g->arena, (g->n_tasks + 1) * sizeof *st, err);
    ns_words sent = {0};
    JOBS_NEED(st);
    ns_status rc = g->ssh.n ? send_all(g, err) : NS_OK;
    for (size_t i = 0; i < g->n_tasks && rc == NS_OK; i++) {
        rc = ns_store_read_status(&st[i], g, (int)i, err);
        if (rc != NS_OK || !mask[i]) continue;
        rc = submit_one(g, (int)i, mask, st, err);
        if (rc == NS_OK) rc = ns_words_add(&sent, &g->arena, st[i].job, err);
    }
    ns_slurm_forget();
    if (rc == NS_OK) return ns_store_sync(g->dir, err); /* job ids must not be lost */
    ns_error ignored = NS_ERROR_INIT;                   /* half a chain is worse than none */
    if (sent.n && cancel_jobs(g, &sent, &ignored) != NS_OK) return rc;
    for (size_t i = 0; i < g->n_tasks; i++) {
        ns_task_status s = {.state = NS_TASK_CANCELLED, .attempt = 1, .why = "the submission failed"};
        if (mask[i] && ns_store_write_status(g, (int)i, &s, &ignored) != NS_OK) break;
    }
    return rc;
}

/* ---- states ---- */
typedef struct queue_line {
    char job[24], state[24], why[64], node[64];
    double started, ended;
} queue_line;

static struct {
    char host[256]; /* of the ssh tunnel, "" here */
    queue_line *v;
    size_t n, cap;
    int valid;
} queue;

void ns_slurm_forget(void)
{
    ns_free(queue.v);
    memset(&queue, 0, sizeof queue);
}

static int by_job(const void *x, const void *y)
{
    return strcmp(((const queue_line *)x)->job, ((const queue_line *)y)->job);
}

static double epoch(const char *s)
{
    double x = 0;
    return sscanf(s, "%lf", &x) == 1 && x > 1000000000 ? x : 0;
}

static ns_status add_line(char *line, ns_error *err)
{
    char *f[6] = {0}, *p = line;
    for (int i = 0; i < 6; i++) f[i] = strsep(&p, "|");
    if (!f[5]) return NS_OK;
    NS_TRY(ns_grow((void **)&queue.v, &queue.cap, queue.n + 1, sizeof *queue.v, "jobs.queue", err), "%s", "squeue");
    queue_line *q = &queue.v[queue.n];
    memset(q, 0, sizeof *q);
    char *plus = strchr(f[0], '+'); /* a component of a heterogeneous job: the first speaks for it */
    if (plus && strcmp(plus, "+0")) return NS_OK;
    if (plus) *plus = 0;
    snprintf(q->job, sizeof q->job, "%s", f[0]);
    snprintf(q->state, sizeof q->state, "%s", f[1]);
    snprintf(q->why, sizeof q->why, "%s", strcmp(f[2], "None") ? f[2] : "");
    snprintf(q->node, sizeof q->node, "%s", f[3]);
    q->started = epoch(f[4]);
    q->ended = epoch(f[5]);
    queue.n++;
    return NS_OK;
}

/* All jobs of this user that Slurm still knows, ended ones included; once per process until ns_slurm_forget. */
static ns_status read_queue(const ns_graph *g, ns_error *err)
{
    const char *host = g->ssh.n ? g->ssh.v[g->ssh.n - 1] : "";
    if (queue.valid && strcmp(queue.host, host) == 0) return NS_OK;
    ns_slurm_forget();
    ns_arena a = NS_ARENA_INIT("jobs.squeue");
    ns_words w = {0};
    ns_proc_result r = {0};
    const char *const argv[] = {"env",          "SLURM_TIME_FORMAT=%s",       "squeue", "--noheader", "--me",
                                "--states=all", "--format=%i|%T|%r|%N|%S|%e", NULL};
    ns_status st = words_of(&w, &a, err, argv);
    if (st == NS_OK) st = remote(&r, g, &w, NULL, 0, 60, err);
    if (st == NS_OK && r.rc) {
        char said[300];
        ns_proc_said(said, sizeof said, &r);
        st = ns_error_set(err, NS_ERR_IO, __FILE__, __LINE__, "Slurm does not answer (squeue: %s)", said);
    }
    char *p = r.out.data, *line;
    while (st == NS_OK && p && (line = strsep(&p, "\n"))) st = add_line(line, err);
    if (st == NS_OK) {
        if (queue.n) qsort(queue.v, queue.n, sizeof *queue.v, by_job);
        queue.valid = 1;
        snprintf(queue.host, sizeof queue.host, "%s", host);
    }
    ns_proc_free(&r);
    ns_arena_free(&a);
    return st;
}

/* Marks behind the tunnel are brought here: "file content" lines. */
static ns_status fetch_marks(const ns_graph *g, ns_error *err)
{
    static const char text[] = "cd \"$1/state\" && for f in *.begin *.end *.stopped *.note; do [ -e \"$f\" ] && printf "
                               "'%s %s\\n' \"$f\" \"$(head -c 400 \"$f\")\"; done; true";
    ns_arena a = NS_ARENA_INIT("jobs.ssh");
    ns_words w = {0};
    ns_proc_result r = {0};
    const char *const argv[] = {"sh", "-c", text, "sh", g->run_dir, NULL};
    ns_status st = words_of(&w, &a, err, argv);
    if (st == NS_OK) st = remote(&r, g, &w, NULL, 0, 60, err);
    char *p = st == NS_OK ? r.out.data : NULL, *line;
    while (st == NS_OK && p && (line = strsep(&p, "\n"))) {
        char path[JOBS_PATH], *space = strchr(line, ' ');
        if (!space || !isdigit((unsigned char)*line) || memchr(line, '/', (size_t)(space - line))) continue;
        *space = 0;
        st = jobs_path(path, err, "%s/state/%s", g->dir, line);
        if (st == NS_OK) st = ns_file_replace(path, space + 1, strlen(space + 1), err);
    }
    ns_proc_free(&r);
    ns_arena_free(&a);
    return st;
}

ns_status ns_steer_tail(const ns_graph *g, const char *path, long from, ns_buf *out, int *found, ns_error *err)
{
    ns_arena a = NS_ARENA_INIT("jobs.ssh");
    ns_words w = {0};
    ns_proc_result r = {0};
    char at[32];
    snprintf(at, sizeof at, "+%ld", from + 1);
    const char *const argv[] = {"sh", "-c", "[ -r \"$1\" ] || exit 44; exec tail -c \"$2\" -- \"$1\"", "sh", path,
                                at,   NULL};
    ns_status st = words_of(&w, &a, err, argv);
    if (st == NS_OK) st = remote(&r, g, &w, NULL, 0, 120, err);
    *found = st == NS_OK && r.rc == 0;
    if (*found) st = ns_buf_add(out, r.out.data ? r.out.data : "", r.out.len, err);
    ns_proc_free(&r);
    ns_arena_free(&a);
    return st;
}

static const queue_line *find_job(const char *job)
{
    queue_line key;
    snprintf(key.job, sizeof key.job, "%s", job);
    return queue.n ? bsearch(&key, queue.v, queue.n, sizeof key, by_job) : NULL;
}

/* A job that squeue has forgotten and that left no mark: the accounting database may know it. 0: it does not, or there is none. */
static int ask_accounting(const ns_graph *g, const char *job, queue_line *q)
{
    ns_arena a = NS_ARENA_INIT("jobs.sacct");
    ns_words w = {0};
    ns_proc_result r = {0};
    ns_error ignored = NS_ERROR_INIT;
    const char *const argv[] = {"env",
                                "SLURM_TIME_FORMAT=%s",
                                "sacct",
                                "--noheader",
                                "--allocations",
                                "--parsable2",
                                "--jobs",
                                job,
                                "--format=State,NodeList,Start,End",
                                NULL};
    memset(q, 0, sizeof *q);
    if (words_of(&w, &a, &ignored, argv) == NS_OK && remote(&r, g, &w, NULL, 0, 30, &ignored) == NS_OK && r.rc == 0 &&
        r.out.data) {
        char *f[4] = {0}, *p = r.out.data;
        p[strcspn(p, "\n")] = 0; /* the first component speaks for a heterogeneous job */
        for (int i = 0; i < 4; i++) f[i] = strsep(&p, "|");
        if (f[3]) {
            snprintf(q->state, sizeof q->state, "%.*s", (int)strcspn(f[0], " "), f[0]); /* "CANCELLED by 1000" */
            snprintf(q->node, sizeof q->node, "%s", f[1]);
            q->started = epoch(f[2]);
            q->ended = epoch(f[3]);
        }
    }
    ns_proc_free(&r);
    ns_arena_free(&a);
    return q->state[0] != 0;
}

static ns_task_state ended_by_slurm(const char *state)
{
    if (strcmp(state, "COMPLETED") == 0) return NS_TASK_DONE;
    if (strcmp(state, "CANCELLED") == 0) return NS_TASK_CANCELLED;
    return strcmp(state, "NODE_FAIL") && strcmp(state, "BOOT_FAIL") ? NS_TASK_FAILED : NS_TASK_LOST;
}

/* What Slurm and the marks say together. */
static void settle(const ns_graph *g, int i, ns_task_status *s, const queue_line *q)
{
    static const char *const waiting[] = {"PENDING",     "REQUEUED",     "REQUEUE_HOLD",
                                          "REQUEUE_FED", "SPECIAL_EXIT", "RESV_DEL_HOLD"};
    static const char *const running[] = {"RUNNING", "COMPLETING", "CONFIGURING", "SUSPENDED",
                                          "STOPPED", "SIGNALING",  "STAGE_OUT",   "RESIZING"};
    int ended = ns_store_read_marks(s, g, i);
    for (size_t k = 0; q && k < sizeof waiting / sizeof *waiting; k++)
        if (strcmp(q->state, waiting[k]) == 0) {
            s->state = NS_TASK_WAITING;
            snprintf(s->why, sizeof s->why, "%s%s", q->why, s->started > 0 ? ", requeued" : "");
            return;
        }
    for (size_t k = 0; q && k < sizeof running / sizeof *running; k++)
        if (strcmp(q->state, running[k]) == 0) {
            s->state = NS_TASK_RUNNING;
            s->ended = 0;
            if (!s->started) s->started = q->started;
            snprintf(s->node, sizeof s->node, "%s", q->node);
            s->why[0] = 0;
            return;
        }
    if (q && !s->ended) s->ended = q->ended;
    if (ns_store_cancel_asked(g, i)) {
        s->state = NS_TASK_CANCELLED;
        snprintf(s->why, sizeof s->why, "by ns cancel");
    } else if (q && strcmp(q->state, "CANCELLED") == 0 && !s->started) {
        s->state = NS_TASK_SKIPPED;
        s->ended = 0;
        snprintf(s->why, sizeof s->why, "cancelled before it started (a dependency did not succeed, or scancel)");
    } else if (ended) {
        int taken = q && strcmp(q->state, "COMPLETED") && strcmp(q->state, "FAILED");
        s->state = s->rc ? NS_TASK_FAILED : NS_TASK_DONE;
        if (taken && !s->stopped) s->state = ended_by_slurm(q->state);
        if (taken) snprintf(s->why, sizeof s->why, "%s%s", q->state, s->stopped ? ", saved" : "");
    } else if (q && strcmp(q->state, "CANCELLED") == 0) {
        s->state = NS_TASK_CANCELLED;
        snprintf(s->why, sizeof s->why, "by scancel");
    } else if (q) {
        s->state = ended_by_slurm(q->state);
        snprintf(s->why, sizeof s->why, "%s", strcmp(q->state, "COMPLETED") ? q->state : "");
        if (!s->started && strcmp(q->state, "FAILED") == 0) /* Slurm opens the log before the script begins */
            snprintf(s->why, sizeof s->why, "its script never began: is there room in the log folder %.100s?",
                     g->tasks[i].log_dir);
    } else {
        s->state = NS_TASK_LOST;
        snprintf(s->why, sizeof s->why, "Slurm does not know job %.40s any more, and it left no mark", s->job);
    }
}

static ns_status refresh(ns_graph *g, ns_task_status *st, ns_error *err)
{
    size_t open = 0;
    for (size_t i = 0; i < g->n_tasks; i++) {
        NS_TRY(ns_store_read_status(&st[i], g, (int)i, err), "state");
        open += !ns_task_ended(st[i].state);
    }
    if (!open) return NS_OK;
    NS_TRY(read_queue(g, err), "%s", g->id);
    if (g->ssh.n) NS_TRY(fetch_marks(g, err), "%s", g->id);
    for (size_t i = 0; i < g->n_tasks; i++) {
        if (ns_task_ended(st[i].state)) continue;
        if (!st[i].job[0]) { /* the submission was cut off before this task */
            st[i].state = NS_TASK_LOST;
            snprintf(st[i].why, sizeof st[i].why, "never submitted");
        } else {
            ns_task_status marked = st[i];
            queue_line old;
            const queue_line *q = find_job(st[i].job);
            if (!q && !ns_store_read_marks(&marked, g, (int)i) && ask_accounting(g, st[i].job, &old)) q = &old;
            settle(g, (int)i, &st[i], q);
        }
        if (ns_task_ended(st[i].state)) NS_TRY(ns_store_write_status(g, (int)i, &st[i], err), "state");
    }
    return NS_OK;
}

static ns_status cancel(ns_graph *g, const char *mask, ns_error *err)
{
    ns_words jobs = {0};
    for (size_t i = 0; i < g->n_tasks; i++) {
        ns_task_status s;
        if (!mask[i]) continue;
        NS_TRY(ns_store_read_status(&s, g, (int)i, err), "state");
        if (s.job[0]) JOBS_TRY(ns_words_add(&jobs, &g->arena, ns_arena_strdup(&g->arena, s.job, err), err));
    }
    ns_slurm_forget();
    return cancel_jobs(g, &jobs, err);
}

const ns_executor ns_executor_slurm = {"slurm", prepare, submit, refresh, cancel};
