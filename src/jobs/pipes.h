/* The pipeline verbs as functions: options in, tasks in a submission out. Tables are shared by the command line (src/cli), the C interface
 * (pipeline.c) and, through the command line, by Python.
 *
 *     ns_pipe_result r;
 *     NS_TRY(ns_pipe_call(&ns_pipe_train, argc, argv, &r, err), "train");      // parses, builds, submits
 *
 * A verb is a graph of work verbs: the command lines that a build makes can be typed by hand. */
#ifndef NS_JOBS_PIPES_H
#define NS_JOBS_PIPES_H

#include "jobs/submit.h"

typedef struct ns_train_options {
    ns_common_options common;
    const char *output_dir, *nemo_model, *final_nemo_path, *training_data, *validation_data, *training_algo,
        *config_name, *config_path, *wandb_project, *average_steps, *server_model, *server_address, *server_type,
        *server_args;
    int64_t num_nodes, num_gpus, tp, num_training_jobs, server_gpus, server_nodes;
    int disable_wandb, with_sandbox, save_last_ckpt;
} ns_train_options;

typedef struct ns_convert_options {
    ns_common_options common;
    const char *input_model, *output_model, *model_type, *convert_from, *convert_to, *hf_model_name, *dtype,
        *trt_prepare_args;
    int64_t num_gpus, num_nodes;
    int trt_reuse_tmp_engine;
} ns_convert_options;

typedef struct ns_server_options {
    const char *model, *type, *address, *args;
    int64_t gpus, nodes;
} ns_server_options;

typedef struct ns_eval_options {
    ns_common_options common;
    ns_server_options server;
    const char *output_dir, *benchmarks, *split, *chunk_ids, *extra_eval_args, *extra_datasets;
    int64_t starting_seed, num_jobs, num_chunks;
    int skip_greedy;
} ns_eval_options;

typedef struct ns_generate_options {
    ns_common_options common;
    ns_server_options server;
    const char *output_dir, *generation_type, *random_seeds, *chunk_ids, *preprocess_cmd, *postprocess_cmd, *eval_args,
        *output_prefix;
    int64_t dependent_jobs, num_random_seeds, starting_seed, num_chunks;
    int rerun_done, with_sandbox;
} ns_generate_options;

typedef struct ns_run_cmd_options {
    ns_common_options common;
    const char *container, *preprocess_cmd, *postprocess_cmd;
    int64_t num_gpus, num_nodes;
} ns_run_cmd_options;

typedef struct ns_start_server_options {
    ns_common_options common;
    ns_server_options server;
    int with_sandbox, random_port;
} ns_start_server_options;

typedef struct ns_contamination_options {
    ns_common_options common;
    ns_server_options server;
    const char *input_file, *output_file, *preprocess_cmd, *postprocess_cmd;
    int64_t dependent_jobs;
} ns_contamination_options;

typedef struct ns_doctor_options {
    ns_common_options common;
    int64_t num_nodes, num_gpus;
} ns_doctor_options;

enum {
    NS_TRAIN_N = NS_COMMON_N + 23,
    NS_CONVERT_N = NS_COMMON_N + 11,
    NS_EVAL_N = NS_COMMON_N + 16,
    NS_GENERATE_N = NS_COMMON_N + 20,
    NS_RUN_CMD_N = NS_COMMON_N + 5,
    NS_START_SERVER_N = NS_COMMON_N + 7,
    NS_CONTAMINATION_N = NS_COMMON_N + 11,
    NS_DOCTOR_N = NS_COMMON_N + 2
};
extern const ns_option ns_train_option_table[NS_TRAIN_N], ns_convert_option_table[NS_CONVERT_N],
    ns_eval_option_table[NS_EVAL_N], ns_generate_option_table[NS_GENERATE_N], ns_run_cmd_option_table[NS_RUN_CMD_N],
    ns_start_server_option_table[NS_START_SERVER_N], ns_contamination_option_table[NS_CONTAMINATION_N],
    ns_doctor_option_table[NS_DOCTOR_N];

typedef struct ns_pipe {
    const char *name, *default_name; /* of the experiment */
    const ns_option *options;
    size_t n_options, options_size;
    int positional, overrides; /* see ns_verb */
    const char *unknown;
    ns_status (*build)(ns_submission *s, void *options, const ns_parsed *p, ns_error *err);
} ns_pipe;
extern const ns_pipe ns_pipe_train, ns_pipe_convert, ns_pipe_eval, ns_pipe_generate, ns_pipe_run_cmd,
    ns_pipe_start_server, ns_pipe_check_contamination, ns_pipe_doctor;
NS_MUST_USE ns_status ns_pipe_find(const ns_pipe **out, const char *name, ns_error *err);

typedef struct ns_pipe_result {
    char id[512], dir[1024]; /* of the experiment; "" after a dry run, or when there was nothing to do */
    ns_buf text;             /* dry run: the description */
    int n_tasks, failed;     /* failed: with wait, or executor none: final tasks that did not succeed */
} ns_pipe_result;
/* The steps behind parsing. Notes go to the log. */
NS_MUST_USE ns_status ns_pipe_run(const ns_pipe *pipe, void *options, const ns_parsed *p, ns_pipe_result *r,
                                  ns_error *err);
/* All of it, for callers that have words. */
NS_MUST_USE ns_status ns_pipe_call(const ns_pipe *pipe, int argc, const char *const *argv, ns_pipe_result *r,
                                   ns_error *err);
void ns_pipe_result_free(ns_pipe_result *r);

/* `key=VALUE` where VALUE means exactly `text`, whatever characters it holds. NULL on out of memory. */
const char *ns_setting(ns_arena *a, const char *key, const char *text, ns_error *err);
/* Refusals and notes about --server_*; on return the native engine is used. */
NS_MUST_USE ns_status ns_check_server(ns_submission *s, const ns_server_options *o, const char *verb, ns_error *err);

/* Steps of `ns run pipeline.yaml` (pipe_yaml.c): calls verbs in order, prints through `say`. */
NS_MUST_USE ns_status ns_pipe_yaml(const char *path, int dry_run,
                                   void (*say)(void *user, const char *verb, const ns_pipe_result *r), void *user,
                                   ns_error *err);

#endif
