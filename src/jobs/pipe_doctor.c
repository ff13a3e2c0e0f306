/* `ns doctor --cluster=NAME`: one job on two nodes in which every process looks at its machine (`ns doctor --node`): the program, GPUs,
 * mounts, limits, and whether the ranks find each other as those of a training would. */
#include <stdio.h>
#include <string.h>

#include "jobs/jobs_priv.h"
#include "jobs/option_rows.h"
#include "jobs/pipes.h"

const ns_option ns_doctor_option_table[NS_DOCTOR_N] = {
    ROW_COUNT(ns_doctor_options, "num_nodes", num_nodes, "2", 1, "nodes"),
    ROW_COUNT(ns_doctor_options, "num_gpus", num_gpus, "0", 0, "GPUs, and processes, a node; 0: one process"),
    NS_COMMON_OPTIONS(ns_doctor_options),
};

static ns_status build(ns_submission *s, void *options, const ns_parsed *p, ns_error *err)
{
    const ns_doctor_options *o = options;
    ns_arena *a = &s->graph.arena;
    const char *logs;
    int t, slurm = strcmp(s->graph.executor, "slurm") == 0;
    ns_job_step *step;
    (void)p;
    NS_TRY(ns_submission_path(s, "--log_dir", o->common.log_dir, 0, &logs, err), "%s", "doctor");
    JOBS_TRY(ns_submission_task(s, s->graph.title, logs, &t, err));
    ns_group *g = &s->graph.tasks[t].groups[0];
    g->nodes = slurm ? (int)o->num_nodes : 1;
    g->gpus = o->num_gpus > 0 ? (int)o->num_gpus : -1;
    g->tasks = slurm && o->num_gpus > 0 ? (int)o->num_gpus : 1;
    JOBS_TRY(ns_submission_command(s, t, "doctor", &step, err));
    JOBS_TRY(ns_words_add(&step->argv, a, "--node", err));
    JOBS_TRY(ns_words_addf(&step->argv, a, err, "--gpus=%lld", (long long)o->num_gpus));
    for (size_t i = 0; i < s->cluster.mounts.n; i++)
        JOBS_TRY(ns_words_addf(&step->argv, a, err, "--mount=%s", s->cluster.mounts.v[i].from));
    return NS_OK;
}

const ns_pipe ns_pipe_doctor = {.name = "doctor",
                                .default_name = "doctor",
                                .options = ns_doctor_option_table,
                                .n_options = NS_DOCTOR_N,
                                .options_size = sizeof(ns_doctor_options),
                                .build = build};
