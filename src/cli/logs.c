/* `ns logs`: the logs of an experiment's tasks; -f follows the one that runs, through the whole chain. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cli/pipe.h"

typedef struct logs_options {
    int follow;
    int64_t task, lines;
} logs_options;

#define AT(f) offsetof(logs_options, f)
static const ns_option opts[] = {
    {.key = "follow",
     .flag = 1,
     .short_name = 'f',
     .type = NS_OPT_BOOL,
     .at = AT(follow),
     .def = "false",
     .help = "go on until the experiment has ended"},
    {.key = "task",
     .flag = 1,
     .short_name = 't',
     .type = NS_OPT_INT,
     .at = AT(task),
     .def = "-1",
     .min = -1,
     .max = 1e6,
     .help = "only this task (its number in ns status)"},
    {.key = "lines",
     .flag = 1,
     .short_name = 'n',
     .type = NS_OPT_INT,
     .at = AT(lines),
     .def = "-1",
     .min = -1,
     .max = 1e9,
     .help = "only the last lines of each log; -1: all"},
};

/* The log of a task: slurm's pattern with its job id; "" while it has none. */
static void log_path(char *out, size_t n, const ns_task *t, const ns_task_status *s)
{
    const char *at = NULL; /* the last one: a folder's name may hold others */
    for (const char *p = strstr(t->log, "%j"); p; p = strstr(p + 1, "%j")) at = p;
    out[0] = 0;
    if (!at)
        snprintf(out, n, "%s", t->log);
    else if (*s->job)
        snprintf(out, n, "%.*s%s%s", (int)(at - t->log), t->log, s->job, at + 2);
}

/* Slurm's own messages when the job never came so far as to have a log of its own. */
static void sbatch_path(char *out, size_t n, const ns_task *t, const ns_task_status *s)
{
    snprintf(out, n, "%s/%s_%s_sbatch.log", t->log_dir, t->stem, s->job);
}

static long start_of_last(FILE *f, int64_t lines)
{
    if (lines < 0) return 0;
    fseek(f, 0, SEEK_END);
    long at = ftell(f);
    int64_t seen = 0;
    while (at > 0) {
        fseek(f, at - 1, SEEK_SET);
        if (fgetc(f) == '\n' && seen++ == lines) break;
        at--;
    }
    return at;
}

/* Prints from *at to the end; *at moves. Returns 1 if there is such a file. */
static int print_from(const char *path, long *at, int64_t lines)
{
    FILE *f = *path ? fopen(path, "r") : NULL;
    char chunk[65536];
    if (!f) return 0;
    if (*at < 0) *at = start_of_last(f, lines);
    fseek(f, *at, SEEK_SET);
    for (size_t n; (n = fread(chunk, 1, sizeof chunk, f)) > 0; *at += (long)n) fwrite(chunk, 1, n, stdout);
    fclose(f);
    fflush(stdout);
    return 1;
}

static int show(ns_graph *g, const logs_options *o, ns_error *err)
{
    long *at = calloc(g->n_tasks, sizeof *at);
    char path[4200];
    for (size_t i = 0; at && i < g->n_tasks; i++) at[i] = -1;
    int shown = 0, last = -1;
    for (int round = 0; at; round++) {
        ns_task_status *st;
        size_t open = 0;
        ns_slurm_forget();
        if (ns_steer_status(g, &st, err) != NS_OK) break;
        for (size_t i = 0; i < g->n_tasks; i++) {
            open += !ns_task_ended(st[i].state);
            if (o->task >= 0 && (int64_t)i != o->task) continue;
            log_path(path, sizeof path, &g->tasks[i], &st[i]);
            if (!*path || access(path, R_OK) != 0) sbatch_path(path, sizeof path, &g->tasks[i], &st[i]);
            if (access(path, R_OK) != 0) continue;
            if (last != (int)i && (at[i] < 0 || g->n_tasks > 1) && at[i] < 0)
                printf("==> %s: %s\n", g->tasks[i].name, path);
            last = (int)i;
            shown += print_from(path, &at[i], o->lines);
        }
        if (!o->follow || !open) break;
        usleep(500000);
    }
    free(at);
    return shown;
}

static int run(void *options, ns_parsed *p)
{
    const logs_options *o = options;
    ns_error err = NS_ERROR_INIT;
    ns_graph g;
    if (p->n_positional != 1) ns_error_set(&err, NS_ERR_CONFIG, __FILE__, __LINE__, "name one experiment");
    if (err.code == NS_OK && ns_cli_experiment(&g, p->positional[0], &err) == NS_OK) {
        if (o->task >= (int64_t)g.n_tasks)
            ns_error_set(&err, NS_ERR_CONFIG, __FILE__, __LINE__, "%s has tasks 0 to %zu", g.id, g.n_tasks - 1);
        else if (g.ssh.n)
            ns_error_set(&err, NS_ERR_UNSUPPORTED, __FILE__, __LINE__, "the logs lie on %s: %s", g.ssh.v[g.ssh.n - 1],
                         g.tasks[o->task < 0 ? 0 : o->task].log);
        else if (!show(&g, o, &err) && err.code == NS_OK)
            fprintf(stderr, "ns logs: %s has no logs yet%s\n", g.id,
                    strcmp(g.executor, "none") ? "" : " (its output went to the terminal)");
        ns_graph_free(&g);
    }
    return err.code == NS_OK ? 0 : ns_cli_fail("logs", &err);
}

const ns_verb ns_verb_logs = {
    .name = "logs",
    .group = "jobs",
    .summary = "print or follow the logs of an experiment",
    .usage = "ns logs [-f] [--task N] [--lines N] EXPERIMENT",
    .examples = "ns logs -f my-training-job\nns logs --task 1 --lines 50 my-training-job\n",
    .options = opts,
    .n_options = sizeof opts / sizeof opts[0],
    .options_size = sizeof(logs_options),
    .allow_positional = 1,
    .run = run,
};
