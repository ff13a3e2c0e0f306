/* `ns run_cmd`: see jobs/pipe_run_cmd.c. */
#include "cli/pipe.h"

static int run(void *options, ns_parsed *p)
{
    return ns_cli_pipe(&ns_pipe_run_cmd, options, p);
}

const ns_verb ns_verb_run_cmd = {
    .name = "run_cmd",
    .group = "jobs",
    .summary = "submit any command as a job",
    .usage = "ns run_cmd [options] COMMAND [WORD ...]   (one word: a bash command line)",
    .examples =
        "ns run_cmd --cluster=slurm --expname=packing python -m nemo_skills.training.prepare_data "
        "++input_files=/data/out.jsonl\nns run_cmd --cluster=local --expname=two-steps \"make data && make check\"\n",
    .options = ns_run_cmd_option_table,
    .n_options = NS_RUN_CMD_N,
    .options_size = sizeof(ns_run_cmd_options),
    .allow_positional = 2,
    .run = run,
};
