/* Executors: where tasks run. One table each.
 *
 *   none    here and now, attached, one after another (exec_none.c)
 *   local   here, detached: a supervisor starts what is ready (exec_local.c, supervisor.c)
 *   slurm   sbatch, squeue, scancel by argv, on this machine or through ssh (exec_slurm.c) */
#ifndef NS_JOBS_EXEC_H
#define NS_JOBS_EXEC_H

#include "jobs/submit.h"

typedef struct ns_executor {
    const char *name;
    /* Fills task->log and task->submit, and refuses what this executor cannot do. */
    ns_status (*prepare)(ns_submission *s, int task, ns_error *err);
    /* Hands over the tasks with mask[i] != 0 (all of a new experiment, some in a retry). */
    ns_status (*submit)(ns_graph *g, const char *mask, ns_error *err);
    /* Brings status[0..n_tasks) up to date. */
    ns_status (*refresh)(ns_graph *g, ns_task_status *status, ns_error *err);
    ns_status (*cancel)(ns_graph *g, const char *mask, ns_error *err);
} ns_executor;

extern const ns_executor ns_executor_none, ns_executor_local, ns_executor_slurm;
NS_MUST_USE ns_status ns_executor_find(const ns_executor **out, const char *name, ns_error *err);

/* Local: starts the supervisor of this store if there is work and it is not running. */
NS_MUST_USE ns_status ns_supervisor_start(ns_error *err);
int ns_supervisor_main(const char *home, int lock); /* the loop itself, in the detached process, which holds the lock */
/* Starts task i of g as a session of its own, output to its log; *pid. */
NS_MUST_USE ns_status ns_local_spawn(const ns_graph *g, int task, const char *gpus, int64_t *pid, ns_error *err);
/* GPUs of this machine (character devices nvidia0...). */
int ns_local_gpus(void);

/* One squeue for all experiments of a process: call before several refreshes; ended by ns_slurm_forget. */
void ns_slurm_forget(void);
/* A file of the machine where jobs run, from byte `from` on; *found 0: it is not there. */
NS_MUST_USE ns_status ns_steer_tail(const ns_graph *g, const char *path, long from, ns_buf *out, int *found,
                                    ns_error *err);

/* ---- steer.c ---- */
/* Statuses of all tasks, up to date; *out in the graph's arena. */
NS_MUST_USE ns_status ns_steer_status(ns_graph *g, ns_task_status **out, ns_error *err);
/* Cancels unfinished tasks (all, or only `task`) and everything that waits for them, in other experiments too. *n of them. */
NS_MUST_USE ns_status ns_steer_cancel(ns_graph *g, int task, int *n, ns_error *err);
/* Submits again what failed, was lost, skipped or cancelled, and what was skipped because of it in other experiments. */
NS_MUST_USE ns_status ns_steer_retry(ns_graph *g, int *n, ns_error *err);
/* Waits until all tasks have ended. *failed: how many did not succeed. */
NS_MUST_USE ns_status ns_steer_wait(ns_graph *g, int *failed, ns_error *err);
/* "step 40 of 200, loss 1.23, ..." of a running training, "" if there is nothing to say. */
void ns_steer_progress(char *out, size_t n, const ns_task *t);

#endif
