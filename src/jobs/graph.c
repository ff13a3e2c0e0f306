/* The experiment record: building it, JSON in and out (graph.h). Every field is checked on reading: a store that was damaged or
 * edited is refused with the name of the file, and never leads to a job that nobody asked for. */
#include "jobs/graph.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#define NEED(p)                         \
    do {                                \
        if (!(p)) return NS_ERR_MEMORY; \
    } while (0)
#define TRY(call)                     \
    do {                              \
        ns_status st_ = (call);       \
        if (st_ != NS_OK) return st_; \
    } while (0)

void ns_graph_init(ns_graph *g)
{
    memset(g, 0, sizeof *g);
    g->arena = (ns_arena)NS_ARENA_INIT("jobs.graph");
    g->gpus = g->max_jobs = -1;
}

void ns_graph_free(ns_graph *g)
{
    ns_arena_free(&g->arena);
    memset(g, 0, sizeof *g);
}

/* One more item at the end of an array in the arena. The old copy stays in the arena: arrays here are short. */
static void *push(ns_arena *a, const void *v, size_t n, size_t item, ns_error *err)
{
    char *p = ns_arena_alloc(a, (n + 1) * item, err);
    if (p && n) memcpy(p, v, n * item);
    return p;
}

ns_status ns_graph_add(ns_graph *g, const char *name, int *out, ns_error *err)
{
    if (g->n_tasks == g->cap_tasks) {
        size_t cap = g->cap_tasks ? 2 * g->cap_tasks : 8;
        ns_task *v = ns_arena_alloc(&g->arena, cap * sizeof *v, err);
        NEED(v);
        if (g->n_tasks) memcpy(v, g->tasks, g->n_tasks * sizeof *v);
        g->tasks = v;
        g->cap_tasks = cap;
    }
    ns_task *t = &g->tasks[g->n_tasks];
    memset(t, 0, sizeof *t);
    t->name = ns_arena_strdup(&g->arena, name, err);
    t->stem = ns_safe_name(&g->arena, name, err);
    NEED(t->name && t->stem ? t : NULL);
    t->exclusive = 1;
    *out = (int)g->n_tasks++;
    ns_group *group;
    return ns_graph_group(g, *out, "main", &group, err);
}

ns_status ns_graph_group(ns_graph *g, int task, const char *role, ns_group **out, ns_error *err)
{
    ns_task *t = &g->tasks[task];
    ns_group *v = push(&g->arena, t->groups, t->n_groups, sizeof *v, err);
    NEED(v);
    t->groups = v;
    v[t->n_groups] = (ns_group){.role = ns_arena_strdup(&g->arena, role, err), .nodes = 1, .tasks = 1, .gpus = -1};
    NEED(v[t->n_groups].role);
    *out = &v[t->n_groups++];
    return NS_OK;
}

ns_status ns_graph_step(ns_graph *g, ns_group *group, ns_job_step **out, ns_error *err)
{
    ns_job_step *v = push(&g->arena, group->steps, group->n_steps, sizeof *v, err);
    NEED(v);
    group->steps = v;
    *out = &v[group->n_steps++];
    return NS_OK;
}

ns_status ns_graph_edge(ns_graph *g, int task, int after, ns_edge_kind kind, ns_error *err)
{
    ns_task *t = &g->tasks[task];
    NS_FAIL_IF(after < 0 || after >= task, NS_ERR_INPUT, "task %d cannot wait for task %d", task, after);
    ns_edge *v = push(&g->arena, t->edges, t->n_edges, sizeof *v, err);
    NEED(v);
    t->edges = v;
    v[t->n_edges++] = (ns_edge){after, kind};
    return NS_OK;
}

ns_status ns_graph_outer(ns_graph *g, int task, const ns_outer *o, ns_error *err)
{
    ns_task *t = &g->tasks[task];
    ns_outer *v = push(&g->arena, t->outer, t->n_outer, sizeof *v, err);
    NEED(v);
    t->outer = v;
    v[t->n_outer] = *o;
    v[t->n_outer].exp = ns_arena_strdup(&g->arena, o->exp, err);
    v[t->n_outer].dir = ns_arena_strdup(&g->arena, o->dir, err);
    NEED(v[t->n_outer].exp && v[t->n_outer].dir ? v : NULL);
    t->n_outer++;
    return NS_OK;
}

int ns_graph_is_final(const ns_graph *g, int task)
{
    for (size_t i = 0; i < g->n_tasks; i++)
        for (size_t k = 0; k < g->tasks[i].n_edges; k++)
            if (g->tasks[i].edges[k].task == task) return 0;
    return 1;
}

/* ---- writing ---- */
static ns_status put_text(ns_json *o, ns_arena *a, const char *key, const char *s, ns_error *err)
{
    return s ? ns_json_set(o, a, key, ns_json_new_str(a, s, err), err) : NS_OK;
}

static ns_status put_words(ns_json *o, ns_arena *a, const char *key, const ns_words *w, ns_error *err)
{
    ns_json *list = ns_json_new(a, NS_JSON_ARRAY, err);
    NEED(list);
    for (size_t i = 0; i < w->n; i++) TRY(ns_json_append(list, a, ns_json_new_str(a, w->v[i], err), err));
    return ns_json_set(o, a, key, list, err);
}

static const char *kind_name(ns_edge_kind k)
{
    return k == NS_AFTER_OK ? "afterok" : "afterany";
}

static ns_status group_json(ns_json **out, ns_arena *a, const ns_group *g, ns_error *err)
{
    ns_json *o = ns_json_new(a, NS_JSON_OBJECT, err), *steps = ns_json_new(a, NS_JSON_ARRAY, err);
    NEED(o && steps ? o : NULL);
    TRY(put_text(o, a, "role", g->role, err));
    TRY(ns_json_set(o, a, "nodes", ns_json_new_int(a, g->nodes, err), err));
    TRY(ns_json_set(o, a, "tasks", ns_json_new_int(a, g->tasks, err), err));
    TRY(ns_json_set(o, a, "gpus", ns_json_new_int(a, g->gpus, err), err));
    for (size_t i = 0; i < g->n_steps; i++) {
        ns_json *s = ns_json_new(a, NS_JSON_OBJECT, err);
        NEED(s);
        TRY(put_words(s, a, "argv", &g->steps[i].argv, err));
        if (g->steps[i].stop_ok) TRY(ns_json_set(s, a, "stop_ok", ns_json_new_bool(a, 1, err), err));
        TRY(ns_json_append(steps, a, s, err));
    }
    TRY(ns_json_set(o, a, "steps", steps, err));
    *out = o;
    return NS_OK;
}

static ns_status edges_json(ns_json *o, ns_arena *a, const ns_task *t, ns_error *err)
{
    ns_json *edges = ns_json_new(a, NS_JSON_ARRAY, err), *outer = ns_json_new(a, NS_JSON_ARRAY, err);
    NEED(edges && outer ? edges : NULL);
    for (size_t i = 0; i < t->n_edges; i++) {
        ns_json *e = ns_json_new(a, NS_JSON_OBJECT, err);
        NEED(e);
        TRY(ns_json_set(e, a, "task", ns_json_new_int(a, t->edges[i].task, err), err));
        TRY(put_text(e, a, "kind", kind_name(t->edges[i].kind), err));
        TRY(ns_json_append(edges, a, e, err));
    }
    for (size_t i = 0; i < t->n_outer; i++) {
        ns_json *e = ns_json_new(a, NS_JSON_OBJECT, err);
        NEED(e);
        TRY(put_text(e, a, "experiment", t->outer[i].exp, err));
        TRY(put_text(e, a, "dir", t->outer[i].dir, err));
        TRY(ns_json_set(e, a, "task", ns_json_new_int(a, t->outer[i].task, err), err));
        TRY(put_text(e, a, "kind", kind_name(t->outer[i].kind), err));
        TRY(ns_json_append(outer, a, e, err));
    }
    TRY(ns_json_set(o, a, "after", edges, err));
    return ns_json_set(o, a, "run_after", outer, err);
}

static ns_status task_json(ns_json **out, ns_arena *a, const ns_task *t, ns_error *err)
{
    ns_json *o = ns_json_new(a, NS_JSON_OBJECT, err), *groups = ns_json_new(a, NS_JSON_ARRAY, err);
    NEED(o && groups ? o : NULL);
    TRY(put_text(o, a, "name", t->name, err));
    TRY(put_text(o, a, "stem", t->stem, err));
    TRY(put_text(o, a, "log_dir", t->log_dir, err));
    TRY(put_text(o, a, "log", t->log, err));
    TRY(put_text(o, a, "progress", t->progress, err));
    TRY(put_text(o, a, "partition", t->partition, err));
    TRY(put_text(o, a, "time_min", t->time_min, err));
    TRY(ns_json_set(o, a, "exclusive", ns_json_new_bool(a, t->exclusive, err), err));
    TRY(ns_json_set(o, a, "limit_s", ns_json_new_num(a, t->limit_s, err), err));
    TRY(ns_json_set(o, a, "margin_s", ns_json_new_num(a, t->margin_s, err), err));
    TRY(edges_json(o, a, t, err));
    for (size_t i = 0; i < t->n_groups; i++) {
        ns_json *g = NULL;
        TRY(group_json(&g, a, &t->groups[i], err));
        TRY(ns_json_append(groups, a, g, err));
    }
    TRY(ns_json_set(o, a, "groups", groups, err));
    TRY(put_words(o, a, "submit", &t->submit, err));
    *out = o;
    return NS_OK;
}

static ns_status write_tree(ns_buf *out, ns_graph *g, ns_arena *a, ns_error *err)
{
    ns_json *o = ns_json_new(a, NS_JSON_OBJECT, err), *tasks = ns_json_new(a, NS_JSON_ARRAY, err);
    NEED(o && tasks ? o : NULL);
    TRY(ns_json_set(o, a, "format", ns_json_new_int(a, 1, err), err));
    TRY(put_text(o, a, "title", g->title, err));
    TRY(put_text(o, a, "id", g->id, err));
    TRY(ns_json_set(o, a, "created", ns_json_new_num(a, g->created, err), err));
    TRY(put_text(o, a, "executor", g->executor, err));
    TRY(put_text(o, a, "cluster", g->cluster, err));
    TRY(put_text(o, a, "workdir", g->workdir, err));
    TRY(put_text(o, a, "host", g->host, err));
    TRY(put_text(o, a, "command", g->command, err));
    TRY(put_text(o, a, "run_dir", g->run_dir, err));
    TRY(put_words(o, a, "ssh", &g->ssh, err));
    TRY(put_text(o, a, "ssh_setup", g->ssh_setup, err));
    TRY(ns_json_set(o, a, "gpus", ns_json_new_int(a, g->gpus, err), err));
    TRY(ns_json_set(o, a, "max_jobs", ns_json_new_int(a, g->max_jobs, err), err));
    for (size_t i = 0; i < g->n_tasks; i++) {
        ns_json *t = NULL;
        TRY(task_json(&t, a, &g->tasks[i], err));
        TRY(ns_json_append(tasks, a, t, err));
    }
    TRY(ns_json_set(o, a, "tasks", tasks, err));
    TRY(ns_json_write_pretty(out, o, err));
    return ns_buf_addc(out, '\n', err);
}

ns_status ns_graph_write(ns_buf *out, ns_graph *g, ns_error *err)
{
    ns_arena a = NS_ARENA_INIT("jobs.json");
    ns_status st = write_tree(out, g, &a, err);
    ns_arena_free(&a);
    return st;
}

/* ---- reading ---- */
static ns_status get_text(ns_graph *g, const ns_json *o, const char *key, int needed, const char **out, ns_error *err)
{
    const ns_json *v = ns_json_get(o, key);
    *out = NULL;
    NS_FAIL_IF(!v && needed, NS_ERR_INPUT, "no \"%s\"", key);
    if (!v) return NS_OK;
    NS_FAIL_IF(v->type != NS_JSON_STRING || memchr(v->s.p, 0, v->s.n), NS_ERR_INPUT, "\"%s\" is not a text", key);
    *out = ns_arena_strndup(&g->arena, v->s.p, v->s.n, err);
    return *out ? NS_OK : NS_ERR_MEMORY;
}

static ns_status get_int(const ns_json *o, const char *key, int64_t min, int64_t max, int *out, ns_error *err)
{
    int64_t x;
    const ns_json *v = ns_json_get(o, key);
    NS_FAIL_IF(!v || !ns_json_is_int(v, &x) || x < min || x > max, NS_ERR_INPUT, "\"%s\" is not a number in range",
               key);
    *out = (int)x;
    return NS_OK;
}

static ns_status get_seconds(const ns_json *o, const char *key, double *out, ns_error *err)
{
    const ns_json *v = ns_json_get(o, key);
    NS_FAIL_IF(!v || !ns_json_is_num(v, out) || !isfinite(*out) || *out < 0, NS_ERR_INPUT, "\"%s\" is not a time", key);
    return NS_OK;
}

static ns_status get_list(const ns_json *o, const char *key, const ns_json **out, ns_error *err)
{
    *out = ns_json_get(o, key);
    NS_FAIL_IF(!*out || (*out)->type != NS_JSON_ARRAY, NS_ERR_INPUT, "\"%s\" is not a list", key);
    return NS_OK;
}

static ns_status get_words(ns_graph *g, const ns_json *o, const char *key, ns_words *w, ns_error *err)
{
    const ns_json *list;
    TRY(get_list(o, key, &list, err));
    for (size_t i = 0; i < list->n; i++) {
        const ns_json *v = &list->items[i];
        NS_FAIL_IF(v->type != NS_JSON_STRING || memchr(v->s.p, 0, v->s.n), NS_ERR_INPUT, "\"%s\"[%zu] is not a text",
                   key, i);
        TRY(ns_words_add(w, &g->arena, ns_arena_strndup(&g->arena, v->s.p, v->s.n, err), err));
    }
    return NS_OK;
}

static ns_status get_kind(ns_graph *g, const ns_json *o, ns_edge_kind *out, ns_error *err)
{
    const char *s;
    TRY(get_text(g, o, "kind", 1, &s, err));
    NS_FAIL_IF(strcmp(s, "afterok") && strcmp(s, "afterany"), NS_ERR_INPUT, "\"kind\" is '%.40s'", s);
    *out = strcmp(s, "afterok") ? NS_AFTER_ANY : NS_AFTER_OK;
    return NS_OK;
}

static ns_status read_group(ns_graph *g, int task, const ns_json *o, ns_error *err)
{
    const char *role;
    const ns_json *steps;
    ns_group *group;
    TRY(get_text(g, o, "role", 1, &role, err));
    TRY(ns_graph_group(g, task, role, &group, err));
    TRY(get_int(o, "nodes", 1, 1000000, &group->nodes, err));
    TRY(get_int(o, "tasks", 1, 1000000, &group->tasks, err));
    TRY(get_int(o, "gpus", -1, 1000000, &group->gpus, err));
    TRY(get_list(o, "steps", &steps, err));
    for (size_t i = 0; i < steps->n; i++) {
        ns_job_step *s;
        TRY(ns_graph_step(g, group, &s, err));
        TRY(get_words(g, &steps->items[i], "argv", &s->argv, err));
        NS_FAIL_IF(!s->argv.n, NS_ERR_INPUT, "an empty command");
        s->stop_ok = ns_json_truthy(ns_json_get(&steps->items[i], "stop_ok"));
    }
    return NS_OK;
}

static ns_status read_edges(ns_graph *g, int task, const ns_json *o, ns_error *err)
{
    const ns_json *edges, *outer;
    TRY(get_list(o, "after", &edges, err));
    TRY(get_list(o, "run_after", &outer, err));
    for (size_t i = 0; i < edges->n; i++) {
        int after;
        ns_edge_kind kind;
        TRY(get_int(&edges->items[i], "task", 0, 1000000, &after, err));
        TRY(get_kind(g, &edges->items[i], &kind, err));
        TRY(ns_graph_edge(g, task, after, kind, err));
    }
    for (size_t i = 0; i < outer->n; i++) {
        ns_outer x = {0};
        TRY(get_text(g, &outer->items[i], "experiment", 1, &x.exp, err));
        TRY(get_text(g, &outer->items[i], "dir", 1, &x.dir, err));
        TRY(get_int(&outer->items[i], "task", 0, 1000000, &x.task, err));
        TRY(get_kind(g, &outer->items[i], &x.kind, err));
        TRY(ns_graph_outer(g, task, &x, err));
    }
    return NS_OK;
}

static ns_status read_task(ns_graph *g, const ns_json *o, ns_error *err)
{
    const char *name, *stem;
    const ns_json *groups;
    int i;
    NS_FAIL_IF(o->type != NS_JSON_OBJECT, NS_ERR_INPUT, "a task is not an object");
    TRY(get_text(g, o, "name", 1, &name, err));
    TRY(ns_graph_add(g, name, &i, err));
    ns_task *t = &g->tasks[i];
    t->n_groups = 0; /* the record has them */
    TRY(get_text(g, o, "stem", 1, &stem, err));
    NS_FAIL_IF(strcmp(stem, t->stem), NS_ERR_INPUT, "\"stem\" is '%.60s', expected '%.60s'", stem, t->stem);
    TRY(get_text(g, o, "log_dir", 1, &t->log_dir, err));
    TRY(get_text(g, o, "log", 1, &t->log, err));
    TRY(get_text(g, o, "progress", 0, &t->progress, err));
    TRY(get_text(g, o, "partition", 0, &t->partition, err));
    TRY(get_text(g, o, "time_min", 0, &t->time_min, err));
    t->exclusive = ns_json_truthy(ns_json_get(o, "exclusive"));
    TRY(get_seconds(o, "limit_s", &t->limit_s, err));
    TRY(get_seconds(o, "margin_s", &t->margin_s, err));
    TRY(read_edges(g, i, o, err));
    TRY(get_list(o, "groups", &groups, err));
    NS_FAIL_IF(groups->n < 1 || groups->n > 64, NS_ERR_INPUT, "a task of %zu groups", groups->n);
    for (size_t k = 0; k < groups->n; k++) TRY(read_group(g, i, &groups->items[k], err));
    return get_words(g, o, "submit", &g->tasks[i].submit, err);
}

static ns_status read_tree(ns_graph *g, const ns_json *o, ns_error *err)
{
    int format = 0;
    const ns_json *tasks;
    NS_FAIL_IF(o->type != NS_JSON_OBJECT, NS_ERR_INPUT, "not an object");
    TRY(get_int(o, "format", 0, 1000000, &format, err));
    NS_FAIL_IF(format != 1, NS_ERR_UNSUPPORTED, "format %d: written by another version of ns, this one reads format 1",
               format);
    TRY(get_text(g, o, "title", 1, &g->title, err));
    TRY(get_text(g, o, "id", 1, &g->id, err));
    TRY(get_seconds(o, "created", &g->created, err));
    TRY(get_text(g, o, "executor", 1, &g->executor, err));
    TRY(get_text(g, o, "cluster", 1, &g->cluster, err));
    TRY(get_text(g, o, "workdir", 1, &g->workdir, err));
    TRY(get_text(g, o, "host", 1, &g->host, err));
    TRY(get_text(g, o, "command", 1, &g->command, err));
    TRY(get_text(g, o, "run_dir", 1, &g->run_dir, err));
    TRY(get_words(g, o, "ssh", &g->ssh, err));
    TRY(get_text(g, o, "ssh_setup", 0, &g->ssh_setup, err));
    TRY(get_int(o, "gpus", -1, 1000000, &g->gpus, err));
    TRY(get_int(o, "max_jobs", -1, 1000000, &g->max_jobs, err));
    TRY(get_list(o, "tasks", &tasks, err));
    NS_FAIL_IF(!tasks->n, NS_ERR_INPUT, "no tasks");
    for (size_t i = 0; i < tasks->n; i++) NS_TRY(read_task(g, &tasks->items[i], err), "task %zu", i);
    return NS_OK;
}

ns_status ns_graph_read(ns_graph *g, const char *path, ns_error *err)
{
    ns_arena a = NS_ARENA_INIT("jobs.json");
    ns_json *o = NULL;
    ns_graph_init(g);
    ns_status st = ns_json_read_file(&o, &a, path, err);
    if (st == NS_OK) {
        st = read_tree(g, o, err);
        if (st != NS_OK) ns_error_frame(err, __FILE__, __LINE__, "%s", path);
    }
    if (st == NS_ERR_INPUT)
        ns_error_frame(err, __FILE__, __LINE__, "damaged experiment record (remove its folder, or restore the file)");
    const char *slash = strrchr(path, '/');
    if (st == NS_OK) {
        g->dir = ns_arena_strndup(&g->arena, path, slash ? (size_t)(slash - path) : 0, err);
        if (!g->dir) st = NS_ERR_MEMORY;
    }
    ns_arena_free(&a);
    if (st != NS_OK) ns_graph_free(g);
    return st;
}
