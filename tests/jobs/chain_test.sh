#!/usr/bin/env bash
# Both documented Python chains and every documented shell command, on a real Slurm of two nodes and on the local executor. NS_FULL=1 only:
# each of the four training jobs runs until its time limit stops it (some 8 s). What they trained is compared, bit for bit, with a run that
# was never stopped. Locally: submitted from a terminal that hangs up, and with the supervisor killed in the middle.
# A verdict line cannot fail, so A && ok || not_ok is a choice; done is a state; TEST_SETTINGS are words.
# shellcheck disable=SC2015,SC1010,SC2154,SC2086
set -u
[ -n "${NS_FULL:-}" ] || { echo "SKIP: long (NS_FULL=1 runs it)"; exit 77; }
command -v python3 >/dev/null || { echo "SKIP: python3 is not installed"; exit 77; }
root=$(cd "$(dirname "$0")/../.." && pwd)
# shellcheck source=tests/jobs/lib.sh
. "$root/tests/jobs/lib.sh"
export DIR=$dir/slurm
trap '"$ns" cancel $("$ns" status --all | awk "NR > 1 { print \$1 }") >/dev/null 2>&1; bash "$root/dev/slurm_cluster.sh" down; rm -rf "$dir"' EXIT
mkdir -p "$DIR"
bash "$root/dev/slurm_cluster.sh" up || exit 77
export SLURM_CONF=$DIR/etc/slurm.conf NS_THREADS=1 NS_PROGRAM=$ns PYTHONPATH=$root/python PYTHONDONTWRITEBYTECODE=1
export NEMO_SKILLS_EXTRA_DATASETS=/workspace/datasets
chain() { # slurm|local
    where=$1
    work="$dir/work of $where"
    export NS_HOME=$dir/home-$where TEST_CLUSTER=$where TEST_NODES
    TEST_NODES=$([ "$where" = slurm ] && echo 2 || echo 1)
    small_model "$work"
    many_rows "$work/sft-data.jsonl"
    head -n 200 "$work/sft-data.jsonl" >"$work/rows.jsonl"
    mkdir -p "$work/datasets/gsm8k" "$work/datasets/math" "$dir/run-$where/cluster_configs"
    cd "$dir/run-$where" || exit 1
    echo '{"problem": "What is 1 plus 1?", "expected_answer": "2"}' | tee "$work/datasets/gsm8k/test.jsonl" >"$work/datasets/math/test.jsonl"
    cat >"cluster_configs/$where.yaml" <<C
executor: $where
containers: {nemo: igitman/nemo-skills-nemo:0.6.0, trtllm: igitman/nemo-skills-trtllm:0.6.0, nemo-skills: igitman/nemo-skills:0.6.0}
account: acct
partition: main
job_name_prefix: "nemo_skills:"
timeouts: {main: "00:01:00"}
stop_margin: "00:00:52"
mounts: ["$work:/workspace", "$work:/nemo_models", "$work:/data"]
C
    export TEST_SETTINGS="++model.data.train_ds.global_batch_size=16 ++model.data.train_ds.micro_batch_size=4 ++trainer.sft.max_steps=1000000 ++trainer.sft.max_epochs=1000000 ++trainer.sft.save_interval=100 ++trainer.sft.limit_val_batches=1 ++model.hidden_dropout=0.1"
    export TEST_PACKED_SETTINGS="++trainer.sft.save_interval=1"

    # ---- the first documented script ----
    if [ "$where" = local ]; then # a terminal of its own, which hangs up when the script ends
        is "local: the documented chain, from a terminal that hangs up" 0 "" script -qec "python3 '$root/tests/jobs/documented_chain.py'" /dev/null
        until_state my-training-job 1 running 60 || not_ok "local: the second link does not start"
        for s in $(supervisors); do kill -9 "$s"; done
        [ -z "$(supervisors)" ] && ok "local: the supervisor and its guardian are killed in the middle"
    else
        is "slurm: the documented chain" 0 "" python3 "$root/tests/jobs/documented_chain.py"
        ids() { "$ns" status --json "$1" | grep -o '"job": "[0-9]*"' | grep -o '[0-9]*' | tr '\n' ' '; }
        read -r a b c d e <<<"$(ids my-training-job)"
        read -r hf <<<"$(ids my-training-job-to-hf)"
        read -r trt <<<"$(ids my-training-job-to-trtllm)"
        read -r e0 e1 <<<"$(ids eval)"
        got=$(for j in $b $c $d $e $hf $trt $e0 $e1; do scontrol show job "$j" | grep -o 'Dependency=[a-z]*:[0-9]*' | cut -d= -f2; done | tr '\n' ' ')
        [ "$got" = "afterany:$a afterany:$b afterany:$c afterany:$d afterok:$e afterok:$hf afterok:$trt afterok:$trt " ] && ok "slurm: dependencies of the nine jobs as documented" || not_ok "dependencies: $got"
        [ "$(squeue -h -o %j | sort -u | grep -c '^nemo_skills:')" = 9 ] && ok "slurm: squeue shows them under their names" || not_ok "squeue: $(squeue -h)"
    fi
    until_state eval 1 done 240 && ok "$where: the chain has come to its end" || not_ok "chain: $("$ns" status my-training-job; "$ns" status eval; "$ns" logs my-training-job | tail -n 30)"
    "$ns" status my-training-job >"$dir/status"
    [ "$(grep -c -- '-sft-[0-3]  *stopped' "$dir/status")" = 4 ] && ok "$where: each of the four trainings was stopped by its limit, saved" || not_ok "$where: $(cat "$dir/status")"
    grep -q 'unfinished: step [0-9]* of 1000000' "$dir/status" && ok "$where: the chain is marked unfinished in status" || not_ok "$where: $(cat "$dir/status")"
    out="$work/my-training-job/checkpoints"
    for m in nemo hf trtllm; do grep -q unfinished "$out/model-averaged-$m/UNFINISHED" || not_ok "$where: model-averaged-$m is not marked"; done
    "$ns" summarize_results "$out/results" >"$dir/table" && grep -q 'the model is unfinished: step' "$dir/table" && grep -q '"model": "unfinished' "$out/results/eval-results/metrics.json" && ok "$where: and in the models and tables" || not_ok "table: $(cat "$dir/table")"
    "$ns" logs my-training-job >"$dir/log"
    grep -q 'this command adds jobs to it:' "$dir/log" && grep -q '  ns train .*--num_training_jobs=4' "$dir/log" && ok "$where: the log has the command that adds jobs" || not_ok "$where: $(tail -n 20 "$dir/log")"
    grep -q 'model it was made from' <("$ns" logs eval) && ok "$where: the native engine answers for the TensorRT-LLM checkpoint, and says so" || not_ok "$where: $("$ns" logs eval | tail -n 20)"

    # ---- bit for bit ----
    last=$(find "$out/training/checkpoints" -maxdepth 1 -name '*step=*' ! -name '*-last' | sed 's/.*-step=\([0-9]*\)-.*/\1/' | sort -n | tail -n 1)
    mine=$(find "$out/training/checkpoints" -maxdepth 1 -name "*step=$last-*" ! -name '*-last')
    "$ns" sft trainer.devices="$TEST_NODES" ++model.restore_from_path="$work/base" ++model.data.train_ds.file_path="'$work/sft-data.jsonl'" ++exp_manager.explicit_log_dir="'$dir/straight-$where'" \
        $TEST_SETTINGS >"$dir/straight.log" 2>&1 &
    pid=$!
    for _ in $(seq 1200); do
        other=$(find "$dir/straight-$where/checkpoints" -maxdepth 1 -name "*step=$last-*" ! -name '*-last' ! -name '*tmp*' 2>/dev/null)
        [ -n "$other" ] && [ -s "$other/DONE" ] && break
        kill -0 $pid 2>/dev/null || break
        sleep 0.1
    done
    kill $pid 2>/dev/null
    wait $pid 2>/dev/null
    [ -n "$last" ] && same_model "$mine" "$other" && ok "$where: step $last of the chain, weights and optimiser, is that of a run that was never stopped" || not_ok "$where: '$mine' and '$other' differ: $(diff "$mine/DONE" "$other/DONE" | head -n 5; tail -n 3 "$dir/straight.log")"

    # ---- the second documented script: packs, context parallel 2; on Slurm with tensor parallel 2, the GPUs of a node, as documented ----
    tensor=$TEST_NODES
    export TEST_CP=2 TEST_GPUS=2
    [ "$where" = slurm ] || TEST_PACKED_SETTINGS="$TEST_PACKED_SETTINGS ++model.tensor_model_parallel_size=1"
    is "$where: the packing chain" 0 "" python3 "$root/tests/jobs/documented_packing.py"
    until_state my-packed-job 4 done 120 && ok "$where: packs, trains on packs, averages" || not_ok "packing: $("$ns" status my-packed-job-packing; "$ns" logs my-packed-job-packing; "$ns" status my-packed-job; "$ns" logs my-packed-job | tail -n 20)"
    out="$work/my-packed-job/checkpoints"
    grep -q "^ranks *$((2 * TEST_NODES)) = tensor $tensor x context 2 " "$out"/training-logs/main_my-packed-job-sft-0_*.log && grep -q '"step": 2, .*"consumed_samples": 276,' "$out/training/metrics.jsonl" &&
        ok "$where: $((2 * TEST_NODES)) ranks, tensor $tensor x context 2: two epochs of steps of 138.0 packs" || not_ok "$where: packed training: $(cat "$out/training/metrics.jsonl" "$out"/training-logs/main_my-packed-job-sft-0_*.log)"
    "$ns" sft trainer.devices=$((2 * TEST_NODES)) ++model.tensor_model_parallel_size="$tensor" ++model.context_parallel_size=2 ++model.restore_from_path="$work/base" ++model.data.train_ds.file_path="'$work/packed_256_seed0.npy'" \
        ++model.data.validation_ds.file_path="'$work/packed_256_seed0.npy'" ++model.data.train_ds.packed_sequence=True ++model.data.train_ds.micro_batch_size=1 ++model.data.train_ds.global_batch_size=138.0 \
        ++model.data.train_ds.max_seq_length=256 ++trainer.sft.save_interval=1 ++exp_manager.explicit_log_dir="'$dir/packed-$where/training'" >"$dir/straight.log" 2>&1 &&
        "$ns" average --input "$dir/packed-$where" --output "$dir/packed-$where/model" --to nemo >/dev/null || not_ok "$where: the straight run on packs: $(tail -n 3 "$dir/straight.log")"
    same_model "$out/model-averaged-nemo" "$dir/packed-$where/model" && ok "$where: its model is that of as many ranks started by hand, bit for bit" || not_ok "$where: models on packs differ"

    # ---- the documented shell commands ----
    mkdir -p "$work/synthetic" nemo_skills
    for i in 0 1; do printf '%s\n' "{\"problem\": \"What is 1 plus $i?\", \"generation\": \"It is \\\\boxed{$((i + 1))}\", \"expected_answer\": $((i + 1)), \"predicted_answer\": \"$((i + 1))\", \"is_correct\": true}" >"$work/synthetic/output-rs$i.jsonl"; done
    is "$where: python -m nemo_skills.training.prepare_data, in ns run_cmd" 0 "" "$ns" run_cmd --cluster="$where" --not_exclusive --num_gpus=0 --expname=prepare --wait \
        python -m nemo_skills.training.prepare_data \
        ++input_files="/workspace/synthetic/output-rs*.jsonl" \
        ++output_path=/workspace/prepared.jsonl \
        ++prompt_config=generic/math \
        ++prompt_template=llama3-instruct
    [ "$(wc -l <"$work/prepared.jsonl")" = 2 ] && ok "$where: made the rows" || not_ok "prepared: $("$ns" logs prepare)"
    is "$where: ns train" 0 "" "$ns" train \
        --cluster="$where" \
        --expname=shell-job \
        --output_dir=/workspace/shell-job/checkpoints \
        --nemo_model=/nemo_models/base \
        --num_nodes="$TEST_NODES" \
        --num_gpus=2 \
        --num_training_jobs=2 \
        --training_data=/workspace/rows.jsonl \
        ++model.data.train_ds.micro_batch_size=4 \
        ++model.tensor_model_parallel_size=2 \
        --disable_wandb \
        ++model.ffn_dropout=0.1 \
        ++model.attention_dropout=0.1 \
        ++model.hidden_dropout=0.1 ++model.data.train_ds.global_batch_size=16 ++trainer.sft.max_steps=20 ++trainer.sft.save_interval=10
    is "$where: ns eval" 0 "" "$ns" eval \
        --cluster="$where" \
        --model=/workspace/shell-job/checkpoints/model-averaged-nemo \
        --server_type=nemo \
        --output_dir=/workspace/shell-job/results/ \
        --benchmarks gsm8k:0,math:0 \
        --server_gpus=2 \
        --run_after=shell-job \
        ++prompt_template=llama3-instruct ++inference.tokens_to_generate=4
    until_state eval 1 done 120 && [ ! -e "$work/shell-job/checkpoints/model-averaged-nemo/UNFINISHED" ] && ok "$where: train, average, eval have run" || not_ok "shell: $("$ns" status shell-job; "$ns" status eval; "$ns" logs shell-job | tail -n 20)"
    is "$where: ns train --num_training_jobs=0 averages what is there" 0 "" "$ns" train --cluster="$where" --expname=shell-job --output_dir=/workspace/shell-job/checkpoints --num_training_jobs=0 --average_steps=20 --wait
    mkdir -p "$work/chunk 2" "$work/merged"
    for f in "$work"/packed_256_seed0.*; do cp "$f" "$work/chunk 2/"; done
    is "$where: merge_packed_data.py" 0 "" "$ns" run_cmd --cluster="$where" --not_exclusive --num_gpus=0 --expname=merge --wait \
        python nemo_skills/training/merge_packed_data.py \
        --input_prefixes /data/packed_256_seed0 "/data/chunk 2/packed_256_seed0" \
        --output_prefix /data/merged/packed_256_seed0
    [ -s "$work/merged/packed_256_seed0.input_ids.npy" ] && ok "$where: merged the packs" || not_ok "merge: $("$ns" logs merge)"
}
for one in ${NS_CHAIN:-slurm local}; do chain "$one"; done
exit $fails
