/* `ns start_server`: see jobs/pipe_server.c. */
#include "cli/pipe.h"

static int run(void *options, ns_parsed *p)
{
    return ns_cli_pipe(&ns_pipe_start_server, options, p);
}

const ns_verb ns_verb_start_server = {
    .name = "start_server",
    .group = "jobs",
    .summary = "a server for a model as a job (shown by --dry_run; a later version runs it)",
    .usage = "ns start_server --model MODEL --server_gpus N [options]",
    .examples = "ns start_server --cluster=slurm --model=/models/m --server_gpus=8 --dry_run\n",
    .options = ns_start_server_option_table,
    .n_options = NS_START_SERVER_N,
    .options_size = sizeof(ns_start_server_options),
    .run = run,
};
