#!/usr/bin/env bash
# The Python package: both documented chains, the documented programs, errors, what calls return, time of import. System python3 alone.
# A verdict line cannot fail, so A && ok || not_ok is a choice; done is a state.
# shellcheck disable=SC2015,SC1010
set -u
root=$(cd "$(dirname "$0")/../.." && pwd)
command -v python3 >/dev/null || { echo "SKIP: python3 is not installed"; exit 77; }
# shellcheck source=tests/jobs/lib.sh
. "$root/tests/jobs/lib.sh"
trap '"$ns" cancel $("$ns" status --all | awk "NR > 1 { print \$1 }") >/dev/null 2>&1; rm -rf "$dir"' EXIT
export PYTHONPATH=$root/python NS_PROGRAM=$ns PYTHONDONTWRITEBYTECODE=1 NS_THREADS=1
work="$dir/work"
small_model "$work"
mkdir -p "$dir/run/cluster_configs" "$dir/datasets/gsm8k" "$dir/datasets/math"
cd "$dir/run" || exit 1
cat >cluster_configs/local.yaml <<C
executor: local
containers: {nemo: x, nemo-skills: x, trtllm: x}
mounts: ["$work:/workspace", "$work:/nemo_models", "$work:/data"]
env_vars: [NEMO_SKILLS_EXTRA_DATASETS=$dir/datasets]
C
many_rows "$work/sft-data.jsonl"
for i in 1 2 3; do echo "{\"problem\": \"What is $i plus $i?\", \"expected_answer\": \"$((i + i))\"}"; done | tee "$dir/datasets/gsm8k/test.jsonl" >"$dir/datasets/math/test.jsonl"
export TEST_CLUSTER=local TEST_NODES=1 NEMO_SKILLS_EXTRA_DATASETS="$work/datasets"
mv "$dir/datasets" "$work/datasets"
NEMO_SKILLS_EXTRA_DATASETS=/workspace/datasets
TEST_SETTINGS="++model.data.train_ds.global_batch_size=16 ++model.data.train_ds.micro_batch_size=4 ++trainer.sft.max_steps=20 ++trainer.sft.save_interval=10"
export TEST_SETTINGS NEMO_SKILLS_EXTRA_DATASETS

is "the documented chain is submitted" 0 "" python3 "$root/tests/jobs/documented_chain.py"
until_state eval 1 done 60 && [ "$(wc -l <"$work/my-training-job/checkpoints/results/eval-results/math/output.jsonl")" = 3 ] &&
    grep -q is_correct "$work/my-training-job/checkpoints/results/eval-results/gsm8k/output.jsonl" && ok "and runs: trained, averaged, answered, graded" ||
    not_ok "chain: $("$ns" status my-training-job; "$ns" status eval; "$ns" logs eval)"
is "the results are summed up" 0 "3           |" python3 -c "
from nemo_skills.pipeline.cli import summarize_results
summarize_results('$work/my-training-job/checkpoints/results')"
export TEST_PACKED_SETTINGS="++trainer.sft.save_interval=1" TEST_CP=1 TEST_GPUS=1
is "the packing chain is submitted" 0 "" python3 "$root/tests/jobs/documented_packing.py"
until_state my-packed-job 4 done 60 && ok "and runs: packed, trained on packs, averaged" || not_ok "packing: $("$ns" logs my-packed-job-packing; "$ns" logs my-packed-job)"
grep -q '"step": 2, .*"consumed_samples": 276,' "$work/my-packed-job/checkpoints/training/metrics.jsonl" && [ -s "$work/my-packed-job/checkpoints/model-averaged-nemo/model_config.yaml" ] &&
    ok "two epochs of steps of 138.0 packs, and a model" || not_ok "packed training: $(cat "$work/my-packed-job/checkpoints/training/metrics.jsonl")"

is "the example in Python" 0 "example-eval_" python3 "$root/examples/pipeline/chain.py" local /workspace/example /nemo_models/base /data/sft-data.jsonl /workspace/datasets \
    ++model.data.train_ds.global_batch_size=16 ++model.data.train_ds.micro_batch_size=4 ++trainer.sft.max_steps=4 ++trainer.sft.save_interval=2
until_state example-eval 0 done 60 && grep -q is_correct "$work/example/results/eval-results/gsm8k/output.jsonl" && ok "trains, converts, evaluates" || not_ok "example: $("$ns" status example; "$ns" logs example-eval)"

# ---- programs under their documented names ----
is "python -m nemo_skills.training.prepare_data" 0 "ns prepare" python3 -m nemo_skills.training.prepare_data --help
is "python .../start_sft.py" 0 "ns sft" env PYTHONPATH= python3 "$root/python/nemo_skills/training/start_sft.py" --help
is "its exit code and words" 2 "no_such_key" python3 -m nemo_skills.training.start_sft ++no_such_key=1

# ---- what calls return and raise ----
cat >calls.py <<'P'
from nemo_skills.pipeline.cli import wrap_arguments, train, run_cmd, start_server, check_contamination, generate

def raises(kind, text, call, **kw):
    try:
        call(**kw)
    except kind as e:
        assert text in str(e), (text, str(e))
        return
    raise AssertionError("nothing raised: " + text)

raises(TypeError, "Missing required argument: 'output_dir'", train, ctx=wrap_arguments(""), expname="x", num_gpus=1)
raises(TypeError, "Missing required argument: 'output_dir'", generate, ctx=wrap_arguments(""))
raises(ValueError, "traning_data", train, expname="x", traning_data="/data/x")
raises(ValueError, "is not mounted. Check cluster config.", train, cluster="local", expname="x", output_dir="/elsewhere", nemo_model="/m", num_gpus=1, training_data="/data/x")
raises(TypeError, "Missing required argument: 'model'", start_server, server_gpus=8)
raises(RuntimeError, "a later version of ns brings it", start_server, cluster="local", model="/workspace/base", server_gpus=8)
raises(RuntimeError, "a later version of ns brings it", check_contamination, cluster="local", model="/workspace/base", input_file="/data/rows.jsonl", output_file="/data/o.jsonl")
raises(RuntimeError, "exit code 1", run_cmd, ctx=wrap_arguments("exit 3"))
here = {"executor": "local", "mounts": ["/tmp:/data"], "env_vars": ["A=b c"]}
first = run_cmd(ctx=wrap_arguments("echo \"$A\" 'it is' > ONE"), cluster=here, expname="first one")
second = run_cmd(ctx=wrap_arguments("cat ONE > TWO"), cluster=here, expname="second", run_after=[first, "first one"], exclusive=False)
assert str(first).startswith("first_one"), first
assert generate(ctx=wrap_arguments("++input_file=x"), cluster=here, output_dir="/data", model="/data", dry_run=True) is None
P
is "returns, errors, dictionaries, run_after objects" 0 "" python3 calls.py
until_state second 0 done 30 && [ "$(cat TWO)" = "b c it is" ] && ok "the jobs ran in order" || not_ok "second: $("$ns" status second)"
if python3 -c 'import setuptools, pip, importlib.util as u; assert u.find_spec("wheel") or u.find_spec("setuptools.command.bdist_wheel")' 2>/dev/null; then
    cp -r "$root/python" "$dir/package"
    is "pip install ./python" 0 "Successfully installed ns-pipelines" python3 -m pip install --no-build-isolation --no-index --no-deps --disable-pip-version-check --root-user-action=ignore --target "$dir/installed" "$dir/package"
    is "what it installed works" 0 "ns prepare" env PYTHONPATH="$dir/installed" python3 -m nemo_skills.training.prepare_data --help
else
    echo "SKIP: python3 has no pip, setuptools or wheel: an installation of the package is not tested"
fi
python3 - <<'P' && ok "import takes less than 50 ms" || not_ok "import takes 50 ms or more"
import time
best = 9
import sys
for _ in range(5):
    for name in [m for m in sys.modules if m.startswith("nemo_skills")]:
        del sys.modules[name]
    t = time.perf_counter()
    import nemo_skills.pipeline.cli
    best = min(best, time.perf_counter() - t)
print("     import: %.1f ms" % (best * 1e3))
sys.exit(best >= 0.05)
P
exit $fails
