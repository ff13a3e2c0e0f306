/* `ns eval`: see jobs/pipe_eval.c. */
#include "cli/pipe.h"

extern const ns_verb ns_verb_infer;

static int run(void *options, ns_parsed *p)
{
    return ns_cli_pipe(&ns_pipe_eval, options, p);
}

const ns_verb ns_verb_eval = {
    .name = "eval",
    .group = "jobs",
    .summary = "submit benchmarks of a model: answers and grades",
    .usage = "ns eval --model MODEL --output_dir DIR --benchmarks NAME:0[,NAME:0...] [options] [++key=value ...]",
    .examples =
        "ns eval --cluster=slurm --model=/workspace/my-training-job/checkpoints/model-averaged-nemo "
        "--server_type=native \\\n    --output_dir=/workspace/my-training-job/results/ --benchmarks gsm8k:0,math:0 "
        "--server_gpus=8 \\\n    --run_after=my-training-job ++prompt_template=llama3-instruct\n",
    .options = ns_eval_option_table,
    .n_options = NS_EVAL_N,
    .options_size = sizeof(ns_eval_options),
    .keep_overrides = 1,
    .words_of = &ns_verb_infer,
    .run = run,
};
