/* `ns convert`: see jobs/pipe_convert.c. */
#include "cli/pipe.h"

static int run(void *options, ns_parsed *p)
{
    return ns_cli_pipe(&ns_pipe_convert, options, p);
}

const ns_verb ns_verb_convert = {
    .name = "convert",
    .group = "jobs",
    .summary = "submit the conversion of a model",
    .usage = "ns convert --input_model DIR --output_model DIR --model_type llama --convert_from nemo --convert_to hf "
             "--num_gpus N [options]",
    .examples = "ns convert --cluster=slurm --input_model=/m/model-averaged-nemo --output_model=/m/model-averaged-hf "
                "--model_type=llama \\\n    --convert_from=nemo --convert_to=hf --num_gpus=8 "
                "--hf_model_name=meta-llama/Meta-Llama-3.1-8B --run_after=my-training-job\n",
    .options = ns_convert_option_table,
    .n_options = NS_CONVERT_N,
    .options_size = sizeof(ns_convert_options),
    .keep_unknown = "convert_to=trtllm",
    .run = run,
};
