/* `ns generate`: see jobs/pipe_eval.c. */
#include "cli/pipe.h"

extern const ns_verb ns_verb_infer;

static int run(void *options, ns_parsed *p)
{
    return ns_cli_pipe(&ns_pipe_generate, options, p);
}

const ns_verb ns_verb_generate = {
    .name = "generate",
    .group = "jobs",
    .summary = "submit the answering of a file of rows",
    .usage = "ns generate --model MODEL --output_dir DIR ++input_file=ROWS.jsonl [options] [++key=value ...]",
    .examples = "ns generate --cluster=local --model=/models/m --output_dir=/results ++input_file=/data/rows.jsonl "
                "\\\n    ++prompt_config=generic/math ++prompt_template=llama3-instruct\n",
    .options = ns_generate_option_table,
    .n_options = NS_GENERATE_N,
    .options_size = sizeof(ns_generate_options),
    .keep_overrides = 1,
    .words_of = &ns_verb_infer,
    .run = run,
};
