/* What the pipeline verbs of the command line share. */
#ifndef NS_CLI_PIPE_H
#define NS_CLI_PIPE_H

#include "cli/cli.h"
#include "jobs/exec.h"
#include "jobs/pipes.h"

/* Runs a pipeline verb and says what was submitted; returns the exit code. */
int ns_cli_pipe(const ns_pipe *pipe, void *options, ns_parsed *p);
/* Would the work verb argv[1] accept these words? Nothing runs. */
NS_MUST_USE ns_status ns_cli_check_words(const char *const *argv, size_t n, ns_error *err);
/* The plan of a training's words, for --dry_run (ns_submission_set_plan). */
NS_MUST_USE ns_status ns_cli_plan_words(ns_buf *out, const char *const *argv, size_t n, double gpu_bytes,
                                        ns_error *err);
/* The logs of all tasks so far, also from behind an ssh tunnel; returns how many there were (cli/logs.c). */
int ns_cli_print_logs(ns_graph *g, ns_error *err);
/* Prints the result of one submission. */
void ns_cli_say_result(const char *verb, const ns_pipe_result *r, int json, int quiet);
/* Opens the experiment of a steering verb; unknown: NS_ERR_CONFIG with a suggestion. */
NS_MUST_USE ns_status ns_cli_experiment(ns_graph *g, const char *name, ns_error *err);

#endif
