/* The record of an experiment: tasks, edges, how each is submitted. Open values, owned by the graph's arena.
 *
 *   experiment "my-training-job", id my-training-job_1769860800
 *     task 0 my-training-job-sft-0          --afterany--> task 1 my-training-job-sft-1 --afterany--> task 2 ...-prepare-eval
 *     outer edges: tasks of other experiments (run_after), resolved at submission to an experiment and a task in it
 *
 * A task is one or more groups (server, main, ...) that start together; when one ends, the others are stopped and the task has its
 * exit code. A group is a list of steps, run one after another until one fails, in `tasks` processes on `nodes` nodes. */
#ifndef NS_JOBS_GRAPH_H
#define NS_JOBS_GRAPH_H

#include "base/json.h"
#include "jobs/words.h"

typedef enum ns_edge_kind { NS_AFTER_ANY, NS_AFTER_OK } ns_edge_kind;

typedef struct ns_edge {
    int task; /* within the experiment; always smaller than the task's own number: the graph has no cycles */
    ns_edge_kind kind;
} ns_edge;

typedef struct ns_outer {
    const char *exp, *dir; /* id and folder of the other experiment */
    int task;
    ns_edge_kind kind;
} ns_outer;

typedef struct ns_job_step {
    ns_words argv;
    int stop_ok; /* exit code 130 (stopped, all saved) is a good end: the next job of the chain goes on */
} ns_job_step;

typedef struct ns_group {
    const char *role; /* "main", "server" */
    ns_job_step *steps;
    size_t n_steps;
    int nodes, tasks; /* tasks: processes a node */
    int gpus;         /* a node; -1: not asked for */
    const char *
        image; /* container of its programs; NULL: none, which is the ordinary case. Not in the record: scripts have it */
} ns_group;

typedef struct ns_task {
    const char *name, *stem; /* as asked; safe for files */
    const char *log_dir;     /* on the machine where jobs run */
    const char *log;         /* local executor, none: the log file; slurm: pattern with %j */
    const char *progress;    /* folder of a training (metrics.jsonl), or NULL */
    ns_group *groups;
    size_t n_groups;
    ns_edge *edges;
    size_t n_edges;
    ns_outer *outer;
    size_t n_outer;
    const char *partition, *time_min;
    int exclusive;
    double limit_s, margin_s; /* 0: no limit */
    ns_words submit;          /* slurm: sbatch and its flags; --dependency and the script are added at submission */
} ns_task;

typedef struct ns_graph {
    ns_arena arena;
    const char *title, *id, *dir; /* dir: where this record lies */
    const char *executor, *cluster, *workdir, *host, *command;
    const char *run_dir;   /* the record's folder as jobs see it: dir, or its copy behind the ssh tunnel */
    ns_words ssh;          /* ssh and its flags up to the host; empty: commands run here */
    const char *ssh_setup; /* pre_command of the tunnel */
    double created;        /* Unix seconds */
    int gpus, max_jobs;    /* local executor: slots of the machine; -1: not stated */
    ns_task *tasks;
    size_t n_tasks, cap_tasks;
} ns_graph;

void ns_graph_init(ns_graph *g);
void ns_graph_free(ns_graph *g);
/* A new task with one group "main" on one node; *out is its number. Pointers to tasks are valid until the next call. */
NS_MUST_USE ns_status ns_graph_add(ns_graph *g, const char *name, int *out, ns_error *err);
NS_MUST_USE ns_status ns_graph_edge(ns_graph *g, int task, int after, ns_edge_kind kind, ns_error *err);
NS_MUST_USE ns_status ns_graph_outer(ns_graph *g, int task, const ns_outer *o, ns_error *err);
NS_MUST_USE ns_status ns_graph_group(ns_graph *g, int task, const char *role, ns_group **out, ns_error *err);
NS_MUST_USE ns_status ns_graph_step(ns_graph *g, ns_group *group, ns_job_step **out, ns_error *err);
/* Tasks that no other task waits for, the ends of the experiment: run_after waits for these. 1 if task is one. */
int ns_graph_is_final(const ns_graph *g, int task);
NS_MUST_USE ns_status ns_graph_write(ns_buf *out, ns_graph *g, ns_error *err); /* JSON */
NS_MUST_USE ns_status ns_graph_read(ns_graph *g, const char *path,
                                    ns_error *err); /* a damaged file: NS_ERR_INPUT naming it */

#endif
