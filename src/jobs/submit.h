/* From options to a published, submitted experiment. A pipeline verb is a function that adds tasks to a submission:
 *
 *     ns_submission s;
 *     NS_TRY(ns_submission_open(&s, &o->common, "convert", "conversion", p->argc, p->argv_copy, err), "open");
 *     int t;
 *     NS_TRY(ns_submission_task(&s, s.title, log_dir, &t, err), "task");
 *     ... ns_submission_command(&s, t, &step, err), ns_words_add(&step->argv, ...) ...
 *     NS_TRY(ns_submission_send(&s, err), "submit");       // checks, writes the record, hands it to the executor
 *     ns_submission_close(&s);
 *
 * Nothing is written and nothing is started before ns_submission_send, and nothing at all with dry_run. */
#ifndef NS_JOBS_SUBMIT_H
#define NS_JOBS_SUBMIT_H

#include "base/options.h"
#include "jobs/cluster.h"
#include "jobs/store.h"

typedef struct ns_common_options {
    const char *cluster, *config_dir, *expname, *log_dir, *partition, *time_min, *time, *reuse_code_exp, *ctx;
    ns_opt_list run_after;
    int reuse_code, not_exclusive, exclusive, dry_run, wait;
} ns_common_options;

/* Rows of the options that every job-launching verb has. `s` is the verb's struct, with a field `common`. */
#define NS_COMMON_AT(s, f) offsetof(s, common) + offsetof(ns_common_options, f)
#define NS_COMMON_ROW(s, k, t, f, h)                                        \
    {                                                                       \
        .key = k, .flag = 1, .type = t, .at = NS_COMMON_AT(s, f), .help = h \
    }
#define NS_COMMON_BOOL(s, k, f, d, fl, h)                                                                    \
    {                                                                                                        \
        .key = k, .flag = 1, .type = NS_OPT_BOOL, .at = NS_COMMON_AT(s, f), .def = d, .flags = fl, .help = h \
    }
#define NS_COMMON_OPTIONS(s)                                                                                        \
    NS_COMMON_ROW(s, "cluster", NS_OPT_STRING, cluster,                                                             \
                  "cluster file: NAME in ./cluster_configs, --config_dir or ~/.ns/cluster_configs, or a path; "     \
                  "without it, here and now"),                                                                      \
        NS_COMMON_ROW(s, "config_dir", NS_OPT_STRING, config_dir, "folder of cluster files"),                       \
        NS_COMMON_ROW(s, "expname", NS_OPT_STRING, expname, "name of the experiment, for run_after, status, logs"), \
        NS_COMMON_ROW(s, "log_dir", NS_OPT_STRING, log_dir, "folder of the logs"),                                  \
        NS_COMMON_ROW(s, "partition", NS_OPT_STRING, partition, "slurm partition"),                                 \
        NS_COMMON_ROW(s, "time_min", NS_OPT_STRING, time_min, "slurm: least time, HH:MM:SS"),                       \
        NS_COMMON_ROW(s, "time", NS_OPT_STRING, time,                                                               \
                      "time limit of each job, HH:MM:SS (default: timeouts of the cluster file)"),                  \
        NS_COMMON_ROW(s, "run_after", NS_OPT_LIST, run_after,                                                       \
                      "experiments (name or id) whose final jobs must succeed first; may be repeated"),             \
        NS_COMMON_BOOL(s, "reuse_code", reuse_code, "true", NS_OPT_HIDDEN,                                          \
                       "nothing is packaged: jobs start in this folder"),                                           \
        NS_COMMON_ROW(s, "reuse_code_exp", NS_OPT_STRING, reuse_code_exp,                                           \
                      "start in the folder of this earlier experiment instead of the present one"),                 \
        NS_COMMON_BOOL(s, "not_exclusive", not_exclusive, "false", 0, "slurm: share the nodes with other jobs"),    \
        NS_COMMON_BOOL(s, "exclusive", exclusive, "true", NS_OPT_HIDDEN, "the same, as Python says it"),            \
        NS_COMMON_BOOL(s, "dry_run", dry_run, "false", 0, "print the graph, scripts and commands; submit nothing"), \
        NS_COMMON_BOOL(s, "wait", wait, "false", 0, "return when the jobs have ended, with their exit code"),       \
        NS_COMMON_ROW(s, "ctx", NS_OPT_STRING, ctx,                                                                 \
                      "more words, in one text (wrap_arguments of the Python interface)")
enum { NS_COMMON_N = 15 };

typedef struct ns_submission {
    ns_graph graph;
    ns_cluster cluster;
    const ns_common_options *options;
    const char *program; /* folder of the program as jobs see it (bin/ns, shim/python, share/) */
    ns_words words;      /* the user's own words, translated: what the work verb gets last */
    ns_words notes;      /* one line each: what the user should know */
    ns_outer *outer;     /* run_after, resolved */
    size_t n_outer;
    double limit_s, margin_s;
    const char *wandb_project; /* trainings are synced to it; NULL: not */
    int reserved;
    int show_only; /* its work verbs are not there: only --dry_run gets this far, and words are not checked */
} ns_submission;

/* Reads the cluster, resolves run_after. The record's title is --expname, else `default_name`. */
NS_MUST_USE ns_status ns_submission_open(ns_submission *s, const ns_common_options *o, const char *verb,
                                         const char *default_name, int argc, char *const *argv, ns_error *err);
void ns_submission_close(ns_submission *s);
NS_MUST_USE ns_status ns_submission_note(ns_submission *s, ns_error *err, const char *fmt, ...) NS_PRINTF(3, 4);
/* The user's words: overrides in order, then those of --ctx; mounts translated. */
NS_MUST_USE ns_status ns_submission_words(ns_submission *s, const char *const *v, size_t n, ns_error *err);
/* A path of an option; `must_exist`: looked for here when the job runs here and waits for nobody. NULL stays NULL. */
NS_MUST_USE ns_status ns_submission_path(ns_submission *s, const char *option, const char *path, int must_exist,
                                         const char **out, ns_error *err);
/* A task with the run_after edges (afterok) and the limits of this submission. `log_dir` is a host path. */
NS_MUST_USE ns_status ns_submission_task(ns_submission *s, const char *name, const char *log_dir, int *out,
                                         ns_error *err);
/* A step of the task's first group, beginning with `verb` of this program. */
NS_MUST_USE ns_status ns_submission_command(ns_submission *s, int task, const char *verb, ns_job_step **out,
                                            ns_error *err);
/* A step that runs a user's bash command line, paths translated; NULL or "": no step. */
NS_MUST_USE ns_status ns_submission_bash(ns_submission *s, int task, const char *line, ns_error *err);
/* A step that runs a fixed bash text of ours with `args` as "$1"...: what is known only where the job runs. */
NS_MUST_USE ns_status ns_submission_script(ns_submission *s, int task, const char *text, const char *const *args,
                                           size_t n, ns_error *err);
/* A step that takes the UNFINISHED mark of model `from` (see cli/average.c) along to folder `to`. */
NS_MUST_USE ns_status ns_submission_carry_mark(ns_submission *s, int task, const char *from, const char *to,
                                               ns_error *err);
/* Would the work verb argv[1] accept its words? */
NS_MUST_USE ns_status ns_submission_check(const char *const *argv, size_t n, ns_error *err);
/* run_after by name, id or path: the final tasks of the experiment, those that have not succeeded yet. */
NS_MUST_USE ns_status ns_submission_after(ns_submission *s, const char *name, ns_error *err);

/* Titles that will be submitted before this one (ns run): run_after may name them in a dry run. `silent`: only checking, notes and logs are
 * for the real submission. */
void ns_submission_expect(const char *const *titles, size_t n, int silent);
int ns_submission_is_silent(void);

/* Checks that the work verbs of all steps would accept their words; set by the program (the verbs live there). */
typedef ns_status (*ns_check_words_fn)(const char *const *argv, size_t n, ns_error *err);
void ns_submission_set_check(ns_check_words_fn fn);
/* What a training would need, as text for --dry_run: argv is a work verb's; `gpu_bytes` 0: not stated. "" is nothing to say. */
typedef ns_status (*ns_plan_words_fn)(ns_buf *out, const char *const *argv, size_t n, double gpu_bytes, ns_error *err);
void ns_submission_set_plan(ns_plan_words_fn fn);

NS_MUST_USE ns_status ns_submission_send(ns_submission *s, ns_error *err);
/* Graph, scripts and commands as text, for --dry_run. */
NS_MUST_USE ns_status ns_submission_describe(ns_submission *s, ns_buf *out, ns_error *err);

/* ---- script.c ---- */
NS_MUST_USE ns_status ns_script_task(ns_buf *out, const ns_submission *s, int task, ns_error *err);
NS_MUST_USE ns_status ns_script_group(ns_buf *out, const ns_submission *s, int task, size_t group, ns_error *err);
NS_MUST_USE ns_status ns_script_env(ns_buf *out, const ns_submission *s, ns_error *err);

/* ---- program.c ---- */
NS_MUST_USE ns_status ns_program_use(const char *path, ns_error *err); /* instead of the running program */
/* The folder for a copy of this program, <home>/bin/<version>-<checksum>; nothing is written. */
NS_MUST_USE ns_status ns_program_place(ns_arena *a, const char **out, ns_error *err);
/* Copies this program (and its libraries and shipped files) to that folder, if it is not there. */
NS_MUST_USE ns_status ns_program_copy(const char *place, ns_error *err);

#endif
