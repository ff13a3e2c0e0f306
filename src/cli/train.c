/* `ns train`: see jobs/pipe_train.c. */
#include "cli/pipe.h"

extern const ns_verb ns_verb_sft;

static int run(void *options, ns_parsed *p)
{
    return ns_cli_pipe(&ns_pipe_train, options, p);
}

const ns_verb ns_verb_train = {
    .name = "train",
    .group = "jobs",
    .summary = "submit a chain of training jobs and the averaging behind it",
    .usage = "ns train --expname NAME --output_dir DIR --nemo_model MODEL --num_gpus N --training_data ROWS [options] "
             "[++key=value ...]",
    .examples =
        "ns train --cluster=slurm --expname=my-training-job --output_dir=/workspace/my-training-job/checkpoints \\\n   "
        " --nemo_model=/nemo_models/llama3.1-8b-base --num_nodes=8 --num_gpus=8 --num_training_jobs=4 \\\n    "
        "--training_data=/data/sft-data.jsonl ++model.data.train_ds.micro_batch_size=4\nns train "
        "--expname=my-training-job --output_dir=... --num_training_jobs=0   # only average\n",
    .options = ns_train_option_table,
    .n_options = NS_TRAIN_N,
    .options_size = sizeof(ns_train_options),
    .keep_overrides = 1,
    .words_of = &ns_verb_sft,
    .run = run,
};
