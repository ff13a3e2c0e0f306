# The first Python chain of the documentation, word for word but for sizes, paths and the cluster.
import os

from nemo_skills.pipeline.cli import wrap_arguments, train, convert, eval

expname = "my-training-job"
cluster = os.environ["TEST_CLUSTER"]
output_dir = f"/workspace/{expname}/checkpoints"

train(
    ctx=wrap_arguments(os.environ["TEST_SETTINGS"]),
    cluster=cluster,
    expname=expname,
    output_dir=output_dir,
    nemo_model="/nemo_models/base",
    num_nodes=int(os.environ["TEST_NODES"]),
    num_gpus=1,
    num_training_jobs=4,
    training_data="/data/sft-data.jsonl",
)

convert(
    ctx=wrap_arguments(""),
    cluster=cluster,
    input_model=f"{output_dir}/model-averaged-nemo",
    output_model=f"{output_dir}/model-averaged-hf",
    expname=f"{expname}-to-hf",
    run_after=expname,
    convert_from="nemo",
    convert_to="hf",
    model_type="llama",
    num_gpus=1,
    hf_model_name="/nemo_models/base",
)

convert(
    ctx=wrap_arguments(""),
    cluster=cluster,
    input_model=f"{output_dir}/model-averaged-hf",
    output_model=f"{output_dir}/model-averaged-trtllm",
    expname=f"{expname}-to-trtllm",
    run_after=f"{expname}-to-hf",
    convert_from="hf",
    convert_to="trtllm",
    model_type="llama",
    num_gpus=1,
)

eval(
    ctx=wrap_arguments("++prompt_template=llama3-instruct ++inference.tokens_to_generate=8"),
    cluster=cluster,
    model=f"{output_dir}/model-averaged-trtllm",
    server_type="trtllm",
    output_dir=f"{output_dir}/results/",
    benchmarks="gsm8k:0,math:0",
    server_gpus=1,
    run_after=f"{expname}-to-trtllm",
)
