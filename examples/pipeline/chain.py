"""Train, convert, evaluate: a chain of jobs in one script.

    PYTHONPATH=python python3 examples/pipeline/chain.py CLUSTER OUTPUT_DIR BASE_MODEL ROWS.jsonl DATASETS [++key=value ...]

CLUSTER names a cluster file (`ns setup` writes one). Every call returns as soon as its jobs are submitted; `ns status` shows them.
DATASETS holds gsm8k/test.jsonl (`ns dataset prepare gsm8k --from ... --output_dir DATASETS`)."""
import sys

from nemo_skills.pipeline.cli import convert, eval, train, wrap_arguments

cluster, output_dir, model, rows, datasets = sys.argv[1:6]

training = train(
    ctx=wrap_arguments(" ".join(sys.argv[6:])),
    cluster=cluster,
    expname="example",
    output_dir=output_dir,
    nemo_model=model,
    training_data=rows,
    num_gpus=1,
    num_training_jobs=2,  # a job that its time limit stops is continued by the next one
    disable_wandb=True,
)
to_hf = convert(
    cluster=cluster,
    expname="example-to-hf",
    run_after=training,  # an experiment, or its name
    input_model=f"{output_dir}/model-averaged-nemo",
    output_model=f"{output_dir}/model-averaged-hf",
    convert_from="nemo",
    convert_to="hf",
    model_type="llama",
    hf_model_name=model,
    num_gpus=1,
)
print(
    eval(
        ctx=wrap_arguments("++prompt_template=llama3-instruct ++inference.tokens_to_generate=64"),
        cluster=cluster,
        expname="example-eval",
        run_after=to_hf,
        model=f"{output_dir}/model-averaged-hf",
        server_type="native",
        server_gpus=1,
        output_dir=f"{output_dir}/results",
        benchmarks="gsm8k:0",
        extra_datasets=datasets,
    )
)
