# The second Python chain of the documentation (sequence packing), word for word but for sizes, paths and the cluster.
import os

from nemo_skills.pipeline.cli import wrap_arguments, train, run_cmd

expname = "my-packed-job"
cluster = os.environ["TEST_CLUSTER"]
output_dir = f"/workspace/{expname}/checkpoints"

pack_seq_length = 256
context_parallel = int(os.environ["TEST_CP"])

original_bs = 512
avg_sequences_per_pack = 3.7
# you need to make sure this is divisible by your data parallel rank,
# so might need to round to a power of 2
packed_bs = original_bs // avg_sequences_per_pack

# Make sure that train_ds.file_names is included in the bucket e.g., [/data/sft-data.jsonl]
packing_cmd = (
    f"python /nemo_run/code/nemo_skills/training/prepare_packed_ft_dataset.py "
    f"    ++model.data.train_ds.file_names=[/data/sft-data.jsonl] "
    f"    ++model.data.train_ds.max_seq_length={pack_seq_length} "
    f"    ++model.context_parallel_size={context_parallel} "
    f"    ++tokenizer_path=/nemo_models/base "
    f"    ++output_dir=/data "
    f"    ++pack_sizes=[{pack_seq_length}] "
    f"    ++model.data.train_ds.hf_dataset=True "
)

run_cmd(
    ctx=wrap_arguments(packing_cmd),
    cluster=cluster,
    expname=f"{expname}-packing",
    container="nemo", # please use "nemo container" for packed data prepration
)

train(
    ctx=wrap_arguments(
        f"++model.data.train_ds.packed_sequence=True "
        f"++model.data.train_ds.micro_batch_size=1 "  # should always be 1 for packed jobs
        f"++model.data.train_ds.global_batch_size={packed_bs} "
        f"++model.context_parallel_size={context_parallel} "
        f"++model.data.train_ds.max_seq_length={pack_seq_length} "
        + os.environ.get("TEST_PACKED_SETTINGS", "")
    ),
    cluster=cluster,
    expname=expname,
    run_after=f"{expname}-packing",
    output_dir=output_dir,
    nemo_model="/nemo_models/base",
    num_nodes=int(os.environ["TEST_NODES"]),
    num_gpus=int(os.environ["TEST_GPUS"]),
    num_training_jobs=4,
    training_data=f"/data/packed_{pack_seq_length}_seed0.npy",
)
