/* Cluster files: where and how jobs run (pipelines.md §3.1-3.4), as the documented YAML files say it.
 *
 *     ns_cluster c;
 *     NS_TRY(ns_cluster_open(&c, "slurm", NULL, err), "cluster");     // ./cluster_configs/slurm.yaml
 *     ... c.executor, c.mounts, c.env ...
 *     ns_cluster_close(&c);
 *
 * Without a name and without $NS_CLUSTER_INLINE, $NEMO_SKILLS_CONFIG: the executor is `none`, jobs run here and now.
 * Keys of our own: sbatch_args, srun_args (lists of flags), setup (shell lines at the start of a job), gpus, max_jobs (slots of the local
 * executor), gpu_memory, container_runtime, stop_margin. Unknown keys are errors. */
#ifndef NS_JOBS_CLUSTER_H
#define NS_JOBS_CLUSTER_H

#include "base/config.h"
#include "jobs/mounts.h"

typedef struct ns_cluster {
    ns_config *config;
    ns_arena arena;
    const char *name, *file; /* as asked for; the file read, or "(none)" */
    const char *executor;    /* none, local, slurm */
    ns_mounts mounts;        /* code is the current folder */
    ns_words env;            /* NAME=value, what jobs get */
    const char *account, *partition, *job_name_prefix, *dependency_type, *mail_type, *mail_user, *job_dir;
    const char *ssh_host, *ssh_user, *ssh_job_dir, *ssh_identity, *ssh_pre_command;
    ns_words sbatch_args, srun_args, setup;
    ns_words timeout_names;
    double *timeouts;              /* seconds, by timeout_names */
    double stop_margin;            /* seconds; < 0: min(15 minutes, a tenth of the limit), at least 20 s */
    double gpu_memory;             /* bytes of one GPU, 0: not stated; --dry_run compares the plan with it */
    const char *container_runtime; /* pyxis, apptainer; NULL: images are not used */
    int disable_gpus_per_node, has_containers;
    int64_t gpus, max_jobs; /* local executor; -1: what the machine has */
} ns_cluster;

/* `name`: a name looked up as <config_dir>/<name>.yaml, or a path of a .yaml file; NULL: see above. */
NS_MUST_USE ns_status ns_cluster_open(ns_cluster *c, const char *name, const char *config_dir, ns_error *err);
void ns_cluster_close(ns_cluster *c);
/* Limit of a partition in seconds, 0 for none. */
NS_MUST_USE ns_status ns_cluster_timeout(const ns_cluster *c, const char *partition, double *seconds, ns_error *err);
/* The image of a role for run_cmd's foreign programs; NULL: no runtime is configured. A role without an image is an error. */
NS_MUST_USE ns_status ns_cluster_image(const ns_cluster *c, const char *role, const char **out, ns_error *err);
/* "D-HH:MM:SS", "HH:MM:SS", "MM:SS", or seconds. */
NS_MUST_USE ns_status ns_parse_duration(double *seconds, const char *text, const char *where, ns_error *err);
/* "1-02:03:04" as Slurm writes it. */
void ns_format_duration(char out[32], double seconds);

#endif
