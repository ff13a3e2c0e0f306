/* `ns status`: all experiments, or the graph of one with states, times, nodes, progress, and why a job waits. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/json.h"
#include "cli/pipe.h"
#include "jobs/cluster.h"

typedef struct status_options {
    int all;
} status_options;

static const ns_option opts[] = {
    {.key = "all",
     .flag = 1,
     .short_name = 'a',
     .type = NS_OPT_BOOL,
     .at = offsetof(status_options, all),
     .def = "false",
     .help = "every experiment, not the newest 30"},
};

/* Names may hold anything: control characters must not reach the terminal. */
static const char *shown(char *out, size_t n, const char *s)
{
    size_t k = 0;
    for (; *s && k + 1 < n; s++) out[k++] = (unsigned char)*s < 32 || *s == 127 ? '?' : *s;
    out[k] = 0;
    return out;
}

static double running_for(const ns_task_status *t)
{
    if (t->started <= 0) return 0;
    return (t->ended > 0 ? t->ended : (double)time(NULL)) - t->started;
}

static const char *state_text(const ns_task_status *t)
{
    return t->state == NS_TASK_DONE && t->stopped ? "stopped" : ns_task_state_name(t->state);
}

static void print_tasks_json(const ns_graph *g, const ns_task_status *st)
{
    printf("{");
    ns_cli_print_json("id", g->id);
    printf(", ");
    ns_cli_print_json("title", g->title);
    printf(", \"executor\": \"%s\", ", g->executor);
    ns_cli_print_json("command", g->command);
    printf(", \"tasks\": [");
    for (size_t i = 0; i < g->n_tasks; i++) {
        char progress[200];
        ns_steer_progress(progress, sizeof progress, &g->tasks[i]);
        printf("%s{", i ? ", " : "");
        ns_cli_print_json("name", g->tasks[i].name);
        printf(", \"state\": \"%s\", \"attempt\": %d, \"rc\": %d, \"job\": \"%s\", \"seconds\": %.0f, \"after\": [",
               state_text(&st[i]), st[i].attempt, st[i].rc, st[i].job, running_for(&st[i]));
        for (size_t k = 0; k < g->tasks[i].n_edges; k++) printf("%s%d", k ? ", " : "", g->tasks[i].edges[k].task);
        printf("], ");
        ns_cli_print_json("node", st[i].node);
        printf(", ");
        ns_cli_print_json("why", st[i].why);
        printf(", ");
        ns_cli_print_json("progress", progress);
        printf("}");
    }
    printf("]}\n");
}

static void print_tasks(const ns_graph *g, const ns_task_status *st)
{
    char a[256], b[256], when[32];
    time_t t = (time_t)g->created;
    struct tm tm;
    strftime(when, sizeof when, "%Y-%m-%d %H:%M:%S", localtime_r(&t, &tm));
    printf("%s on %s (%s), submitted %s\n  %s\n", shown(a, sizeof a, g->id), shown(b, sizeof b, g->cluster),
           g->executor, when, g->command);
    printf("%-4s %-36s %-10s %-10s %-10s %s\n", "task", "name", "state", "time", "job", "");
    for (size_t i = 0; i < g->n_tasks; i++) {
        char progress[200], took[32] = "-";
        if (st[i].started > 0) ns_format_duration(took, running_for(&st[i]));
        printf("%-4zu %-36s %-10s %-10s %-10s", i, shown(a, sizeof a, g->tasks[i].name), state_text(&st[i]), took,
               *st[i].job ? st[i].job : "-");
        if (*st[i].node) printf(" on %s", st[i].node);
        if (st[i].attempt > 1) printf(" attempt %d", st[i].attempt);
        if (*st[i].why) printf(" (%s)", shown(b, sizeof b, st[i].why));
        for (size_t k = 0; k < g->tasks[i].n_edges && st[i].state == NS_TASK_WAITING; k++)
            printf(" %s %d", g->tasks[i].edges[k].kind == NS_AFTER_OK ? "after success of" : "after",
                   g->tasks[i].edges[k].task);
        for (size_t k = 0; k < g->tasks[i].n_outer && st[i].state == NS_TASK_WAITING; k++)
            printf(" after %s", shown(b, sizeof b, g->tasks[i].outer[k].exp));
        if (st[i].state == NS_TASK_RUNNING ||
            (g->tasks[i].progress && (i + 1 == g->n_tasks || !g->tasks[i + 1].progress))) {
            ns_steer_progress(progress, sizeof progress, &g->tasks[i]);
            if (*progress) printf("  %s", progress);
        }
        printf("\n");
    }
}

/* Exit code 0: it could be told, whatever it is. `--wait` of the submitting verbs answers for the jobs. */
static int one(const char *name, int json, ns_error *err)
{
    ns_graph g;
    ns_task_status *st;
    int rc = 0;
    if (ns_cli_experiment(&g, name, err) != NS_OK) return ns_cli_fail("status", err);
    if (ns_steer_status(&g, &st, err) != NS_OK)
        rc = ns_cli_fail("status", err);
    else if (json)
        print_tasks_json(&g, st);
    else
        print_tasks(&g, st);
    ns_graph_free(&g);
    return rc;
}

static int list_one(const char *dir, int json, int *first, ns_error *err)
{
    ns_graph g;
    ns_task_status *st;
    char path[4200], a[256];
    snprintf(path, sizeof path, "%s/experiment.json", dir);
    int counts[NS_TASK_LOST + 1] = {0}, failed = 0;
    if (ns_graph_read(&g, path, err) != NS_OK) return 1;
    if (ns_steer_status(&g, &st, err) != NS_OK) {
        ns_graph_free(&g);
        return 1;
    }
    for (size_t i = 0; i < g.n_tasks; i++) {
        counts[st[i].state]++;
        failed += ns_task_ended(st[i].state) && st[i].state != NS_TASK_DONE;
    }
    if (json) {
        printf("%s{", *first ? "" : ", ");
        ns_cli_print_json("id", g.id);
        printf(", \"executor\": \"%s\", \"waiting\": %d, \"running\": %d, \"done\": %d, \"failed\": %d}", g.executor,
               counts[NS_TASK_WAITING], counts[NS_TASK_RUNNING], counts[NS_TASK_DONE], failed);
    } else
        printf("%-52s %-6s %7d %7d %7d %7d\n", shown(a, sizeof a, g.id), g.executor, counts[NS_TASK_WAITING],
               counts[NS_TASK_RUNNING], counts[NS_TASK_DONE], failed);
    *first = 0;
    ns_graph_free(&g);
    return 0;
}

static int list_all(const status_options *o, int json)
{
    ns_arena a = NS_ARENA_INIT("cli.status");
    ns_words dirs = {0};
    ns_error err = NS_ERROR_INIT;
    int first = 1, rc = 0;
    if (ns_store_list(&dirs, &a, &err) != NS_OK) return ns_cli_fail("status", &err);
    size_t from = o->all || dirs.n < 30 ? 0 : dirs.n - 30;
    if (json)
        printf("[");
    else
        printf("%-52s %-6s %7s %7s %7s %7s\n", "experiment", "on", "waiting", "running", "done", "failed");
    for (size_t i = from; i < dirs.n; i++) {
        ns_error e = NS_ERROR_INIT;
        if (list_one(dirs.v[i], json, &first, &e))
            rc = ns_cli_fail("status", &e); /* the others are shown all the same */
    }
    if (json) printf("]\n");
    if (from && !json) printf("%zu older ones: ns status --all\n", from);
    ns_arena_free(&a);
    return rc;
}

static int run(void *options, ns_parsed *p)
{
    ns_error err = NS_ERROR_INIT;
    int rc = 0;
    for (size_t i = 0; i < p->n_positional; i++) rc |= one(p->positional[i], p->json, &err);
    return p->n_positional ? rc : list_all(options, p->json);
}

const ns_verb ns_verb_status = {
    .name = "status",
    .group = "jobs",
    .summary = "what was submitted and how it goes",
    .usage = "ns status [EXPERIMENT ...]",
    .examples = "ns status\nns status my-training-job\nns status --json my-training-job_1769860800\n",
    .options = opts,
    .n_options = sizeof opts / sizeof opts[0],
    .options_size = sizeof(status_options),
    .allow_positional = 1,
    .run = run,
};
