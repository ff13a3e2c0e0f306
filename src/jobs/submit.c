/* Submissions: see submit.h. Order of ns_submission_send: executor's checks, then the words of every work verb, then the program's
 * copy, then the record (one rename), then the executor. A failure before the rename leaves nothing behind. */
#include "jobs/submit.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "base/file.h"
#include "base/hub/hub.h"
#include "jobs/exec.h"
#include "jobs/far.h"
#include "jobs/jobs_priv.h"

static ns_check_words_fn check_words;
static ns_plan_words_fn plan_words;

void ns_submission_set_check(ns_check_words_fn fn)
{
    check_words = fn;
}

void ns_submission_set_plan(ns_plan_words_fn fn)
{
    plan_words = fn;
}

ns_status ns_submission_note(ns_submission *s, ns_error *err, const char *fmt, ...)
{
    char text[1024];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    for (size_t i = 0; i < s->notes.n; i++)
        if (strcmp(s->notes.v[i], text) == 0) return NS_OK;
    return ns_words_add(&s->notes, &s->graph.arena, ns_arena_strdup(&s->graph.arena, text, err), err);
}

/* The command as typed, for the record and for `ns status`. */
static ns_status record_command(ns_submission *s, const char *verb, int argc, char *const *argv, ns_error *err)
{
    ns_buf b = {0};
    ns_status st = ns_buf_printf(&b, err, "ns %s ", verb);
    if (st == NS_OK) st = ns_shell_line(&b, (const char *const *)argv, (size_t)argc, err);
    if (st == NS_OK) s->graph.command = ns_arena_strdup(&s->graph.arena, b.data, err);
    ns_buf_free(&b);
    return st == NS_OK && !s->graph.command ? NS_ERR_MEMORY : st;
}

static ns_status set_limits(ns_submission *s, ns_error *err)
{
    const ns_common_options *o = s->options;
    const char *partition = o->partition ? o->partition : s->cluster.partition;
    double tenth;
    if (o->time)
        NS_TRY(ns_parse_duration(&s->limit_s, o->time, "--time", err), "%s", "limits");
    else
        NS_TRY(ns_cluster_timeout(&s->cluster, partition, &s->limit_s, err), "%s", "limits");
    if (o->time_min) NS_TRY(ns_parse_duration(&tenth, o->time_min, "--time_min", err), "%s", "limits");
    if (s->limit_s <= 0) return NS_OK;
    if (strcmp(s->cluster.executor, "slurm") == 0)
        s->limit_s = 60 * (double)(long)((s->limit_s + 59) / 60); /* Slurm counts minutes */
    tenth = s->limit_s / 10;
    s->margin_s = s->cluster.stop_margin >= 0 ? s->cluster.stop_margin : tenth > 900 ? 900 : tenth < 20 ? 20 : tenth;
    NS_FAIL_IF(s->limit_s <= s->margin_s, NS_ERR_CONFIG,
               "a time limit of %.0f s leaves no time before the margin of %.0f s in which a training stops and saves: "
               "give more time, "
               "or set stop_margin in the cluster file",
               s->limit_s, s->margin_s);
    return NS_OK;
}

static ns_status set_workdir(ns_submission *s, ns_error *err)
{
    ns_graph *g = &s->graph;
    g->workdir = s->cluster.mounts.code;
    if (!s->options->reuse_code_exp) return NS_OK;
    ns_graph other;
    int found;
    NS_TRY(ns_store_open(&other, s->options->reuse_code_exp, &found, err), "--reuse_code_exp");
    NS_FAIL_IF(!found, NS_ERR_CONFIG, "--reuse_code_exp=%s: there is no such experiment", s->options->reuse_code_exp);
    g->workdir = ns_arena_strdup(&g->arena, other.workdir, err);
    ns_graph_free(&other);
    JOBS_NEED(g->workdir);
    s->cluster.mounts.code = g->workdir;
    return NS_OK;
}

static ns_status set_ssh(ns_submission *s, ns_error *err)
{
    ns_graph *g = &s->graph;
    JOBS_TRY(ns_far_ssh(&g->ssh, &g->arena, &s->cluster, err));
    g->ssh_setup = g->ssh.n ? s->cluster.ssh_pre_command : NULL;
    return NS_OK;
}

static ns_status fill(ns_submission *s, const char *verb, const char *default_name, int argc, char *const *argv,
                      ns_error *err)
{
    ns_graph *g = &s->graph;
    const ns_common_options *o = s->options;
    char host[256] = "?";
    NS_TRY(ns_cluster_open(&s->cluster, o->cluster, o->config_dir, err), "%s", "cluster");
    gethostname(host, sizeof host - 1);
    g->title = ns_arena_strdup(&g->arena, o->expname && *o->expname ? o->expname : default_name, err);
    g->executor = s->cluster.executor;
    g->cluster = s->cluster.name;
    g->host = ns_arena_strdup(&g->arena, host, err);
    JOBS_NEED(g->title && g->host ? g : NULL);
    NS_FAIL_IF(strlen(g->title) > 200, NS_ERR_CONFIG, "--expname is longer than 200 bytes");
    JOBS_TRY(record_command(s, verb, argc, argv, err));
    JOBS_TRY(set_workdir(s, err));
    JOBS_TRY(set_limits(s, err));
    JOBS_TRY(set_ssh(s, err));
    if (s->cluster.has_containers && strcmp(g->executor, "none"))
        JOBS_TRY(ns_submission_note(
            s, err, "%s: %s: the verbs of ns run natively, paths are translated by the mounts", s->cluster.file,
            s->cluster.container_runtime ? "images serve the other programs of run_cmd" : "containers are not used"));
    for (size_t i = 0; i < o->run_after.n; i++)
        if (o->run_after.v[i] && *o->run_after.v[i])
            NS_TRY(ns_submission_after(s, o->run_after.v[i], err), "--run_after");
    return NS_OK;
}

ns_status ns_submission_open(ns_submission *s, const ns_common_options *o, const char *verb, const char *default_name,
                             int argc, char *const *argv, ns_error *err)
{
    memset(s, 0, sizeof *s);
    ns_graph_init(&s->graph);
    s->options = o;
    ns_status st = fill(s, verb, default_name, argc, argv, err);
    if (st != NS_OK) ns_submission_close(s);
    return st;
}

void ns_submission_close(ns_submission *s)
{
    if (s->reserved) ns_store_drop(&s->graph);
    if (s->cluster.config) ns_cluster_close(&s->cluster);
    ns_graph_free(&s->graph);
    memset(s, 0, sizeof *s);
}

/* ---- run_after ---- */
static ns_status add_outer(ns_submission *s, const ns_graph *other, int task, ns_error *err)
{
    ns_outer *v = ns_arena_alloc(&s->graph.arena, (s->n_outer + 1) * sizeof *v, err);
    JOBS_NEED(v);
    if (s->n_outer) memcpy(v, s->outer, s->n_outer * sizeof *v);
    const char *how = s->cluster.dependency_type;
    v[s->n_outer] =
        (ns_outer){ns_arena_strdup(&s->graph.arena, other->id, err), ns_arena_strdup(&s->graph.arena, other->dir, err),
                   task, how && strcmp(how, "afterany") == 0 ? NS_AFTER_ANY : NS_AFTER_OK};
    JOBS_NEED(v[s->n_outer].exp && v[s->n_outer].dir ? v : NULL);
    s->outer = v;
    s->n_outer++;
    return NS_OK;
}

static ns_status wait_for(ns_submission *s, ns_graph *other, ns_error *err)
{
    ns_task_status *st;
    int pending = 0;
    NS_TRY(ns_steer_status(other, &st, err), "experiment %s", other->id);
    for (size_t i = 0; i < other->n_tasks; i++) {
        if (!ns_graph_is_final(other, (int)i)) continue;
        int any = s->cluster.dependency_type && strcmp(s->cluster.dependency_type, "afterany") == 0;
        NS_FAIL_IF(ns_task_ended(st[i].state) && st[i].state != NS_TASK_DONE && !any, NS_ERR_CONFIG,
                   "%s has not succeeded: %s is %s%s%s. `ns retry %s` runs it again", other->id, other->tasks[i].name,
                   ns_task_state_name(st[i].state), *st[i].why ? ": " : "", st[i].why, other->id);
        if (ns_task_ended(st[i].state)) continue;
        pending++;
        NS_FAIL_IF(
            strcmp(other->executor, s->cluster.executor) && strcmp(s->cluster.executor, "none"), NS_ERR_UNSUPPORTED,
            "%s runs on the executor %s and this submission on %s: one cannot wait for the other; use the same cluster",
            other->id, other->executor, s->cluster.executor);
        JOBS_TRY(add_outer(s, other, (int)i, err));
    }
    if (!pending)
        JOBS_TRY(ns_submission_note(s, err, "run_after=%s: it has ended already (%s): nothing to wait for",
                                    other->title, other->id));
    return NS_OK;
}

static const char *const *expected;
static size_t n_expected;
static int silent;

void ns_submission_expect(const char *const *titles, size_t n, int quiet)
{
    expected = titles;
    n_expected = n;
    silent = quiet;
}

int ns_submission_is_silent(void)
{
    return silent;
}

ns_status ns_submission_after(ns_submission *s, const char *name, ns_error *err)
{
    ns_graph other;
    int found;
    char hint[512];
    for (size_t i = 0; i < n_expected; i++) {
        if (strcmp(expected[i], name)) continue;
        ns_graph later = {.id = name, .dir = ""};
        return add_outer(s, &later, 0, err);
    }
    NS_TRY(ns_store_open(&other, name, &found, err), "%s", name);
    if (!found) { /* as documented: not a failure of the submission */
        NS_TRY(ns_store_hint(hint, sizeof hint, name, err), "%s", name);
        return ns_submission_note(s, err, "run_after=%s: there is no such experiment, so nothing is waited for%s", name,
                                  hint);
    }
    ns_status st = wait_for(s, &other, err);
    ns_graph_free(&other);
    return st;
}

/* ---- words, paths, tasks ---- */
ns_status ns_submission_words(ns_submission *s, const char *const *v, size_t n, ns_error *err)
{
    ns_arena *a = &s->graph.arena;
    ns_words all = {0};
    JOBS_TRY(ns_words_add_all(&all, a, v, n, err));
    if (s->options->ctx) NS_TRY(ns_words_split(&all, a, s->options->ctx, err), "wrap_arguments");
    for (size_t i = 0; i < all.n; i++) {
        const char *w;
        JOBS_TRY(ns_mounts_word(&s->cluster.mounts, a, all.v[i], &w, err));
        JOBS_TRY(ns_words_add(&s->words, a, w, err));
    }
    return NS_OK;
}

ns_status ns_submission_path(ns_submission *s, const char *option, const char *path, int must_exist, const char **out,
                             ns_error *err)
{
    *out = NULL;
    if (!path) return NS_OK;
    NS_TRY(ns_mounts_path(&s->cluster.mounts, &s->graph.arena, path, out, err), "%s", option);
    size_t n = strlen(*out);
    char where[4096];
    if (must_exist && !ns_path_exists(*out) && ns_hub_cached(where, path, NULL)) { /* a model by its name */
        *out = ns_arena_strdup(&s->graph.arena, where, err);
        JOBS_NEED(*out);
        return NS_OK;
    }
    while (n > 1 && (*out)[n - 1] == '/') n--;
    *out = ns_arena_strndup(&s->graph.arena, *out, n, err);
    JOBS_NEED(*out);
    NS_FAIL_IF(must_exist && !s->n_outer && !s->graph.ssh.n && !ns_path_exists(*out), NS_ERR_INPUT,
               "%s=%s: there is no such file or folder%s%s%s", option, path, strcmp(path, *out) ? " (looked for " : "",
               strcmp(path, *out) ? *out : "", strcmp(path, *out) ? ")" : "");
    return NS_OK;
}

ns_status ns_submission_task(ns_submission *s, const char *name, const char *log_dir, int *out, ns_error *err)
{
    ns_graph *g = &s->graph;
    const ns_common_options *o = s->options;
    JOBS_TRY(ns_graph_add(g, name, out, err));
    ns_task *t = &g->tasks[*out];
    t->log_dir = log_dir;
    t->partition = o->partition ? o->partition : s->cluster.partition;
    t->time_min = o->time_min;
    t->exclusive = o->exclusive && !o->not_exclusive;
    t->limit_s = s->limit_s;
    t->margin_s = s->margin_s;
    for (size_t i = 0; i < s->n_outer; i++) JOBS_TRY(ns_graph_outer(g, *out, &s->outer[i], err));
    return NS_OK;
}

ns_status ns_submission_command(ns_submission *s, int task, const char *verb, ns_job_step **out, ns_error *err)
{
    JOBS_TRY(ns_graph_step(&s->graph, &s->graph.tasks[task].groups[0], out, err));
    JOBS_TRY(ns_words_add(&(*out)->argv, &s->graph.arena, "ns", err));
    return verb ? ns_words_add(&(*out)->argv, &s->graph.arena, verb, err) : NS_OK;
}

ns_status ns_submission_bash(ns_submission *s, int task, const char *line, ns_error *err)
{
    ns_job_step *step;
    ns_arena *a = &s->graph.arena;
    const char *here;
    if (!line || !*line) return NS_OK;
    if (s->graph.tasks[task].groups[0].image) /* a container has the paths as they are written */
        here = line;
    else
        JOBS_TRY(ns_mounts_line(&s->cluster.mounts, a, line, &here, err));
    JOBS_TRY(ns_graph_step(&s->graph, &s->graph.tasks[task].groups[0], &step, err));
    JOBS_TRY(ns_words_add(&step->argv, a, "bash", err));
    JOBS_TRY(ns_words_add(&step->argv, a, "-c", err));
    return ns_words_add(&step->argv, a, here, err);
}

ns_status ns_submission_script(ns_submission *s, int task, const char *text, const char *const *args, size_t n,
                               ns_error *err)
{
    ns_job_step *step;
    ns_arena *a = &s->graph.arena;
    JOBS_TRY(ns_graph_step(&s->graph, &s->graph.tasks[task].groups[0], &step, err));
    JOBS_TRY(ns_words_add(&step->argv, a, "bash", err));
    JOBS_TRY(ns_words_add(&step->argv, a, "-c", err));
    JOBS_TRY(ns_words_add(&step->argv, a, text, err));
    JOBS_TRY(ns_words_add(&step->argv, a, "ns", err));
    return ns_words_add_all(&step->argv, a, args, n, err);
}

ns_status ns_submission_carry_mark(ns_submission *s, int task, const char *from, const char *to, ns_error *err)
{
    static const char text[] =
        "if [ -e \"$1/UNFINISHED\" ]; then cp -f \"$1/UNFINISHED\" \"$2/\" && cat \"$2/UNFINISHED\" && echo; "
        "else rm -f \"$2/UNFINISHED\"; fi";
    const char *const args[] = {from, to};
    return ns_submission_script(s, task, text, args, 2, err);
}

ns_status ns_submission_check(const char *const *argv, size_t n, ns_error *err)
{
    return check_words ? check_words(argv, n, err) : NS_OK;
}

/* ---- sending ---- */
ns_status ns_executor_find(const ns_executor **out, const char *name, ns_error *err)
{
    static const ns_executor *const all[] = {&ns_executor_none, &ns_executor_local, &ns_executor_slurm};
    for (size_t i = 0; i < 3; i++)
        if (strcmp(all[i]->name, name) == 0) return *out = all[i], NS_OK;
    NS_FAIL(NS_ERR_INPUT, "there is no executor '%s'", name);
}

/* The links of a chain have one command: it is checked (and warned about) once. */
static int same_as_before(const ns_submission *s, int task, size_t k, size_t j)
{
    if (!task) return 0;
    const ns_task *t = &s->graph.tasks[task], *b = t - 1;
    if (b->n_groups <= k || b->groups[k].n_steps <= j) return 0;
    const ns_words *x = &t->groups[k].steps[j].argv, *y = &b->groups[k].steps[j].argv;
    if (x->n != y->n) return 0;
    for (size_t i = 0; i < x->n; i++)
        if (strcmp(x->v[i], y->v[i])) return 0;
    return 1;
}

static ns_status prepare_task(ns_submission *s, const ns_executor *x, int task, ns_error *err)
{
    ns_task *t = &s->graph.tasks[task];
    const char *type = s->cluster.dependency_type;
    for (size_t i = 0; type && i < t->n_edges; i++)
        t->edges[i].kind = strcmp(type, "afterok") ? NS_AFTER_ANY : NS_AFTER_OK;
    for (size_t k = 0; k < t->n_groups; k++)
        for (size_t j = 0; j < t->groups[k].n_steps; j++) {
            const ns_words *w = &t->groups[k].steps[j].argv;
            if (!check_words || s->show_only || w->n < 2 || strcmp(w->v[0], "ns") || same_as_before(s, task, k, j))
                continue;
            NS_TRY(check_words(w->v, w->n, err), "%s", t->name);
        }
    if (!t->log_dir) {
        t->log_dir = ns_arena_printf(&s->graph.arena, err, "%s/logs", s->graph.run_dir);
        JOBS_NEED(t->log_dir);
    }
    NS_TRY(x->prepare(s, task, err), "%s", t->name);
    return NS_OK;
}

/* Everything but writing: also what --dry_run shows. */
static ns_status prepare_all(ns_submission *s, const ns_executor **x, ns_error *err)
{
    ns_graph *g = &s->graph;
    NS_TRY(ns_executor_find(x, g->executor, err), "%s", "executor");
    NS_FAIL_IF(!g->n_tasks, NS_ERR_CONFIG, "there is nothing to run");
    const char *base = strrchr(g->dir, '/');
    if (g->ssh.n) {
        g->run_dir = ns_arena_printf(&g->arena, err, "%s/%s/%s", s->cluster.ssh_job_dir,
                                     ns_safe_name(&g->arena, g->title, err), base + 1);
        JOBS_NEED(g->run_dir);
    }
    if (g->ssh.n) {
        const char *slash = strrchr(s->program, '/');
        s->program = ns_arena_printf(&g->arena, err, "%s/bin/%s", s->cluster.ssh_job_dir, slash + 1);
        JOBS_NEED(s->program);
    }
    for (size_t i = 0; i < g->n_tasks; i++) JOBS_TRY(prepare_task(s, *x, (int)i, err)); /* names the task */
    return NS_OK;
}

static ns_status add_file(ns_submission *s, ns_store_file *f, const char *path, ns_buf *text, int secret, ns_error *err)
{
    f->path = path;
    f->text = ns_arena_strndup(&s->graph.arena, text->data ? text->data : "", text->len, err);
    f->secret = secret;
    ns_buf_clear(text);
    return f->path && f->text ? NS_OK : NS_ERR_MEMORY;
}

static ns_status make_files(ns_submission *s, ns_store_file **out, size_t *n, ns_error *err)
{
    ns_graph *g = &s->graph;
    size_t count = 1;
    ns_buf b = {0};
    for (size_t i = 0; i < g->n_tasks; i++) count += 1 + g->tasks[i].n_groups;
    ns_store_file *f = ns_arena_alloc(&g->arena, count * sizeof *f, err);
    JOBS_NEED(f);
    ns_status st = ns_script_env(&b, s, err);
    *n = 0;
    if (st == NS_OK) st = add_file(s, &f[(*n)++], "env.sh", &b, 1, err);
    for (size_t i = 0; i < g->n_tasks && st == NS_OK; i++) {
        st = ns_script_task(&b, s, (int)i, err);
        if (st == NS_OK) st = add_file(s, &f[(*n)++], ns_arena_printf(&g->arena, err, "scripts/%zu.sh", i), &b, 0, err);
        for (size_t k = 0; k < g->tasks[i].n_groups && st == NS_OK; k++) {
            st = ns_script_group(&b, s, (int)i, k, err);
            if (st == NS_OK)
                st = add_file(s, &f[(*n)++], ns_arena_printf(&g->arena, err, "scripts/%zu-%zu.sh", i, k), &b, 0, err);
        }
    }
    ns_buf_free(&b);
    *out = f;
    return st;
}

/* Folders of logs; those inside of the record can be made only when it stands. Behind ssh: the executor makes them. */
static ns_status make_log_dirs(const ns_graph *g, int inside, ns_error *err)
{
    size_t n = strlen(g->dir);
    for (size_t i = 0; i < g->n_tasks && !g->ssh.n; i++) {
        const char *dir = g->tasks[i].log_dir;
        struct statvfs v;
        if ((strncmp(dir, g->dir, n) == 0 && dir[n] == '/') != inside) continue;
        if (i && strcmp(dir, g->tasks[i - 1].log_dir) == 0) continue;
        NS_TRY(ns_mkdirs(dir, err), "log folder %s", dir);
        NS_FAIL_IF(statvfs(dir, &v) == 0 && (double)v.f_bavail * (double)v.f_frsize < 16384, NS_ERR_IO,
                   "log folder %s: its disk is full: make room, or choose another --log_dir", dir);
    }
    return NS_OK;
}

ns_status ns_submission_send(ns_submission *s, ns_error *err)
{
    ns_graph *g = &s->graph;
    const ns_executor *x;
    ns_store_file *files;
    size_t n;
    NS_TRY(ns_program_place(&g->arena, &s->program, err), "%s", "program");
    const char *place = s->program; /* here; behind a tunnel jobs have it elsewhere */
    NS_TRY(ns_store_reserve(g, err), "%s", "record");
    s->reserved = 1;
    JOBS_TRY(prepare_all(s, &x, err));
    NS_TRY(make_files(s, &files, &n, err), "%s", "scripts");
    NS_TRY(ns_program_copy(place, err), "%s", "program");
    NS_TRY(make_log_dirs(g, 0, err), "%s", "logs");
    NS_TRY(ns_store_publish(g, files, n, err), "record");
    s->reserved = 0;
    NS_TRY(make_log_dirs(g, 1, err), "%s", "logs");
    char *mask = ns_arena_alloc(&g->arena, g->n_tasks + 1, err);
    JOBS_NEED(mask);
    memset(mask, 1, g->n_tasks);
    return x->submit(g, mask, err);
}

/* ---- dry run ---- */
/* What a training needs, from the code that runs it. Model or rows that are not here (yet): said, and no failure. */
static ns_status describe_plan(ns_submission *s, ns_buf *out, const ns_words *w, ns_error *err)
{
    ns_buf text = {0};
    ns_error why = NS_ERROR_INIT;
    char said[1024];
    if (!plan_words || w->n < 2 || strcmp(w->v[0], "ns") || ns_submission_is_silent()) return NS_OK;
    ns_status st = plan_words(&text, w->v, w->n, s->cluster.gpu_memory, &why), rc = NS_OK;
    if (st != NS_OK) {
        ns_error_text(&why, said, sizeof said);
        rc = ns_buf_printf(out, err, "    its memory plan cannot be made here: %s\n", said);
    }
    for (char *p = text.data, *line; st == NS_OK && rc == NS_OK && p && (line = strsep(&p, "\n"));)
        if (*line) rc = ns_buf_printf(out, err, "    | %s\n", line);
    ns_buf_free(&text);
    return rc;
}

static ns_status describe_task(ns_submission *s, ns_buf *out, int i, ns_error *err)
{
    const ns_graph *g = &s->graph;
    const ns_task *t = &g->tasks[i];
    JOBS_TRY(ns_buf_printf(out, err, "task %d: %s\n", i, t->name));
    for (size_t k = 0; k < t->n_edges; k++)
        JOBS_TRY(ns_buf_printf(out, err, "  %s %s\n", t->edges[k].kind == NS_AFTER_OK ? "afterok" : "afterany",
                               g->tasks[t->edges[k].task].name));
    for (size_t k = 0; k < t->n_outer; k++)
        JOBS_TRY(ns_buf_printf(out, err, "  %s %s, task %d\n", t->outer[k].kind == NS_AFTER_OK ? "afterok" : "afterany",
                               t->outer[k].exp, t->outer[k].task));
    for (size_t k = 0; k < t->n_groups; k++) {
        const ns_group *gr = &t->groups[k];
        JOBS_TRY(ns_buf_printf(out, err, "  %s: nodes %d, processes a node %d", gr->role, gr->nodes, gr->tasks));
        if (gr->image) JOBS_TRY(ns_buf_printf(out, err, ", image %s (%s)", gr->image, s->cluster.container_runtime));
        if (gr->gpus >= 0) JOBS_TRY(ns_buf_printf(out, err, ", gpus a node %d", gr->gpus));
        if (t->limit_s > 0)
            JOBS_TRY(ns_buf_printf(out, err, ", limit %.0f s, stops %.0f s before", t->limit_s, t->margin_s));
        JOBS_TRY(ns_buf_addc(out, '\n', err));
        for (size_t j = 0; j < gr->n_steps; j++) {
            JOBS_TRY(ns_buf_adds(out, "    $ ", err));
            JOBS_TRY(ns_shell_line(out, gr->steps[j].argv.v, gr->steps[j].argv.n, err));
            JOBS_TRY(ns_buf_addc(out, '\n', err));
            if (!same_as_before(s, i, k, j)) JOBS_TRY(describe_plan(s, out, &gr->steps[j].argv, err));
        }
    }
    JOBS_TRY(ns_buf_printf(out, err, "  log: %s\n", t->log));
    if (t->submit.n) {
        JOBS_TRY(ns_buf_adds(out, "  submit: ", err));
        JOBS_TRY(ns_shell_line(out, t->submit.v, t->submit.n, err));
        JOBS_TRY(ns_buf_printf(out, err, " %s/scripts/%d.sh\n", g->run_dir, i));
    }
    return NS_OK;
}

ns_status ns_submission_describe(ns_submission *s, ns_buf *out, ns_error *err)
{
    ns_graph *g = &s->graph;
    const ns_executor *x;
    ns_store_file *files;
    size_t n;
    char home[JOBS_PATH];
    NS_TRY(ns_program_place(&g->arena, &s->program, err), "%s", "program");
    NS_TRY(ns_store_home(home, sizeof home, err), "%s", "store");
    g->id = "DRY_RUN";
    g->dir = g->run_dir =
        ns_arena_printf(&g->arena, err, "%s/experiments/%s/DRY_RUN", home, ns_safe_name(&g->arena, g->title, err));
    JOBS_NEED(g->dir);
    JOBS_TRY(prepare_all(s, &x, err));
    NS_TRY(make_files(s, &files, &n, err), "%s", "scripts");
    JOBS_TRY(ns_buf_printf(out, err, "experiment %s on %s (executor %s), %zu task%s, started in %s\n", g->title,
                           g->cluster, g->executor, g->n_tasks, g->n_tasks == 1 ? "" : "s", g->workdir));
    for (size_t i = 0; i < g->n_tasks; i++) JOBS_TRY(describe_task(s, out, (int)i, err));
    for (size_t i = 0; i < n; i++)
        if (!files[i].secret) JOBS_TRY(ns_buf_printf(out, err, "---- %s\n%s", files[i].path, files[i].text));
    return ns_buf_adds(out, "nothing was submitted (--dry_run)\n", err);
}
