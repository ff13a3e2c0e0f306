/* `ns check_contamination`: see jobs/pipe_server.c. */
#include "cli/pipe.h"

extern const ns_verb ns_verb_infer;

static int run(void *options, ns_parsed *p)
{
    return ns_cli_pipe(&ns_pipe_check_contamination, options, p);
}

const ns_verb ns_verb_check_contamination = {
    .name = "check_contamination",
    .group = "jobs",
    .summary = "judge rows against similar ones (shown by --dry_run; a later version runs it)",
    .usage = "ns check_contamination --input_file ROWS --output_file OUT --model MODEL [options] [++key=value ...]",
    .examples =
        "ns check_contamination --cluster=slurm --input_file=/data/similar.jsonl --output_file=/data/judged.jsonl "
        "\\\n    --model=/models/m --server_gpus=8 --dry_run\n",
    .options = ns_contamination_option_table,
    .n_options = NS_CONTAMINATION_N,
    .options_size = sizeof(ns_contamination_options),
    .keep_overrides = 1,
    .words_of = &ns_verb_infer, /* the judge is asked with the words of answering */
    .run = run,
};
