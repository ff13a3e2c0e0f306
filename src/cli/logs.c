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

static size_t start_of_last(const ns_buf *b, int64_t lines)
{
    size_t at = b->len;
    int64_t seen = 0;
    if (lines < 0) return 0;
    while (at > 0 && !(b->data[at - 1] == '\n' && seen++ == lines)) at--;
    return at;
}

static ns_status more(const ns_graph *g, const char *path, long from, ns_buf *out, int *found, ns_error *err)
{
    char chunk[65536];
    *found = 0;
    if (!*path) return NS_OK;
    if (g->ssh.n) return ns_steer_tail(g, path, from, out, found, err);
    FILE *f = fopen(path, "r");
    ns_status st = NS_OK;
    if (!f) return NS_OK;
    *found = 1;
    fseek(f, from, SEEK_SET);
    for (size_t n; st == NS_OK && (n = fread(chunk, 1, sizeof chunk, f)) > 0;) st = ns_buf_add(out, chunk, n, err);
    fclose(f);
    return st;
}

/* Prints what is new in the log of a task (or, while it has none, in Slurm's own file of it). */
static ns_status show_task(const ns_graph *g, size_t i, const ns_task_status *s, long *at, int64_t lines, int *found,
                           ns_error *err)
{
    char path[4200];
    ns_buf b = {0};
    log_path(path, sizeof path, &g->tasks[i], s);
    ns_status st = more(g, path, *at < 0 ? 0 : *at, &b, found, err);
    if (st == NS_OK && !*found && *s->job) {
        sbatch_path(path, sizeof path, &g->tasks[i], s);
        st = more(g, path, *at < 0 ? 0 : *at, &b, found, err);
    }
    if (st == NS_OK && *found) {
        size_t skip = *at < 0 ? start_of_last(&b, lines) : 0;
        if (*at < 0) printf("==> %s: %s\n", g->tasks[i].name, path);
        fwrite(b.data ? b.data + skip : "", 1, b.len - skip, stdout);
        fflush(stdout);
        *at = (*at < 0 ? 0 : *at) + (long)b.len;
    }
    ns_buf_free(&b);
    return st;
}

static int show(ns_graph *g, const logs_options *o, ns_error *err)
{
    long *at = calloc(g->n_tasks, sizeof *at);
    for (size_t i = 0; at && i < g->n_tasks; i++) at[i] = -1;
    int shown = 0;
    ns_status st = NS_OK;
    while (at) {
        ns_task_status *s;
        size_t open = 0;
        ns_slurm_forget();
        st = ns_steer_status(g, &s, err);
        for (size_t i = 0; st == NS_OK && i < g->n_tasks; i++) {
            int found;
            open += !ns_task_ended(s[i].state);
            if (o->task >= 0 && (int64_t)i != o->task) continue;
            st = show_task(g, i, &s[i], &at[i], o->lines, &found, err);
            shown += found;
        }
        if (st != NS_OK || !o->follow || !open) break;
        usleep(500000);
    }
    free(at);
    return shown;
}

int ns_cli_print_logs(ns_graph *g, ns_error *err)
{
    const logs_options all = {.task = -1, .lines = -1};
    return show(g, &all, err);
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
