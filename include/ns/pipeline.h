/* Chaining jobs from C: the pipeline verbs of `ns` (train, convert, eval, generate, run_cmd) with the options they have on the command line.
 *
 *     ns_experiment train, hf;
 *     char why[1024];
 *     const char *const a[] = {"--cluster=slurm", "--expname=my-job", "--output_dir=/workspace/my-job", "--nemo_model=/models/base",
 *                              "--num_gpus=8", "--training_data=/data/sft.jsonl", "++trainer.sft.max_epochs=3"};
 *     if (ns_pipeline_submit(&train, "train", a, 7, why, sizeof why)) { fprintf(stderr, "%s\n", why); return 1; }
 *     char after[600];
 *     snprintf(after, sizeof after, "--run_after=%s", train.id);
 *     ...
 *     ns_pipeline_wait(hf.id, &failed, why, sizeof why);
 *
 * Every function returns 0, or the exit code that `ns` would have (2 wrong setting, 3 wrong input, 1 anything else) with one line in
 * `why`. Jobs run the program `ns`: $NS_PROGRAM, the one beside the calling program, or the first in $PATH. Words that are meant
 * for a work verb (++key=value) are checked by the job, not here. One thread at a time. examples/pipeline/chain.c is a whole program. */
#ifndef NS_PIPELINE_H
#define NS_PIPELINE_H

#include <stddef.h>

typedef struct ns_experiment {
    char id[512];   /* for --run_after, wait, cancel, `ns status`; "" when there was nothing to do */
    char dir[1024]; /* its record */
    int n_jobs;
} ns_experiment;

/* Submits one verb. Out: *e. `words` are options and settings as one would type them, each a string of its own. */
int ns_pipeline_submit(ns_experiment *e, const char *verb, const char *const *words, size_t n, char *why,
                       size_t why_size);
/* Blocks until all jobs have ended. Out: *n_failed = final jobs that did not succeed. */
int ns_pipeline_wait(const char *experiment, int *n_failed, char *why, size_t why_size);
/* Stops an experiment and everything that waits for it. Out: *n = jobs that were cancelled. */
int ns_pipeline_cancel(const char *experiment, int *n, char *why, size_t why_size);
/* Jobs by state at this moment. */
typedef struct ns_pipeline_counts {
    int waiting, running, done, failed; /* failed: also lost, skipped, cancelled */
} ns_pipeline_counts;
int ns_pipeline_status(const char *experiment, ns_pipeline_counts *c, char *why, size_t why_size);

#endif
