#!/usr/bin/env bash
# Pipelines on this machine: the local executor (detached, dependencies, slots, kills of the supervisor), the executor `none`, the store
# (two submissions at once, damage), run_cmd's words, the documented python programs as verbs.
# A verdict line cannot fail, so A && ok || not_ok is a choice; done is a state; settings are several words.
# shellcheck disable=SC2015,SC1010,SC2046,SC2086,SC2317
set -u
root=$(cd "$(dirname "$0")/../.." && pwd)
# shellcheck source=tests/jobs/lib.sh
. "$root/tests/jobs/lib.sh"
stop_all() {
    for s in $(supervisors); do kill -9 "$s" 2>/dev/null; done
    for p in "$NS_HOME"/experiments/*/*/state/*.json; do
        pid=$(grep -o '"state": "running".*"pid": [0-9]*' "$p" 2>/dev/null | grep -o '[0-9]*$')
        [ -n "$pid" ] && kill -9 -- "-$pid" 2>/dev/null
    done
}
trap 'stop_all; rm -rf "$dir"' EXIT
work="$dir/work dir"
small_model "$work"
mkdir -p "$dir/run/cluster_configs"
cd "$dir/run" || exit 1
printf 'executor: local\nmax_jobs: 2\nmounts:\n  - %s:/workspace\n' "$work" >cluster_configs/local.yaml
export NS_THREADS=1
here="--cluster=local"

# ---- none: here and now ----
is "without a cluster a command runs here" 0 "a b|it's|\$(x)" "$ns" run_cmd --expname=now printf '%s|' 'a b' "it's" '$(x)'
is "one word is a bash line" 0 "sum 7" "$ns" run_cmd 'echo sum $((3 + 4)) && true'
is "its exit code is told" 1 "did not succeed" "$ns" run_cmd false
is "options end at the first plain word" 0 "--expname=x --num_gpus=3" "$ns" run_cmd echo --expname=x --num_gpus=3
is "pre and post commands" 0 "" "$ns" run_cmd --preprocess_cmd 'echo pre > order' --postprocess_cmd 'echo post >> order' 'echo main >> order'
[ "$(tr '\n' ' ' <order)" = "pre main post " ] && ok "in order" || not_ok "order: $(cat order)"
is "several nodes need a cluster" 2 "multi-node" "$ns" run_cmd --num_nodes=2 true
printf 'executor: none\n' >cluster_configs/none.yaml
is "a documented program is a verb" 0 "ns prepare" "$ns" run_cmd 'python -m nemo_skills.training.prepare_data --help  '
is "also with other python around" 0 "ns prepare" "$ns" run_cmd 'true && python /nemo_run/code/nemo_skills/training/prepare_data.py --help'
is "an unknown one is refused by name" 1 "nemo_skills.training.foo has no counterpart" "$ns" run_cmd python -m nemo_skills.training.foo

# ---- local: a chain, detached, with its supervisor killed in the middle ----
(setsid "$ns" train $here --expname=chain --output_dir=/workspace/chain --disable_wandb --num_training_jobs=3 $(settings 1200 400) >"$dir/out" 2>&1 &)
sleep 0.3
until_state chain 0 running 20 || not_ok "chain starts: $(cat "$dir/out")"
"$ns" run_cmd $here --expname=after --run_after=chain 'ls /workspace/chain/model-averaged-nemo > /workspace/after.txt' >/dev/null 2>&1
for s in $(supervisors); do
    rss=$(awk '/VmRSS/ { print $2 }' "/proc/$s/status")
    [ "$rss" -lt 20480 ] || [ -n "${NS_SANITIZER:-}" ] && ok "supervisor process: $rss kB" || not_ok "supervisor process: $rss kB"
done
worker=$(supervisors | tail -n 1)
kill -9 "$worker"
sleep 1.5
[ "$(supervisors | wc -l)" = 2 ] && ok "a killed supervisor is started again by its guardian" || not_ok "supervisors: $(supervisors | tr '\n' ' ')"
for s in $(supervisors); do kill -9 "$s"; done
[ -z "$(supervisors)" ] && ok "both killed"
kill -9 -- "-$(grep -o '"pid": [0-9]*' "$NS_HOME"/experiments/chain/*/state/0.json | grep -o '[0-9]*')" 2>/dev/null # and the job with them
sleep 0.3
until_state chain 3 done 60 && ok "the next command starts it again: the chain ends" || cat "$NS_HOME/supervisor.log"
state chain 0 | grep -qE 'lost|failed|done' && ok "the killed link is $(state chain 0)"
until_state after 0 done 20 && grep -q model_config.yaml "$work/after.txt" && ok "the job behind it ran"
"$ns" sft ++model.tensor_model_parallel_size=1 ++model.restore_from_path="$work/base" ++model.data.train_ds.file_path="'$work/rows.jsonl'" \
    ++exp_manager.explicit_log_dir="'$dir/straight/training'" $(settings 1200 400 | tr ' ' '\n' | grep '^++') >"$dir/straight.log" 2>&1 &&
    "$ns" average --input "$dir/straight" --output "$dir/straight/model" --to nemo >/dev/null || not_ok "straight run: $(tail -n 3 "$dir/straight.log")"
same_model "$work/chain/model-averaged-nemo" "$dir/straight/model" && ok "its model is the straight run's, bit for bit" || not_ok "chain and straight run differ"
is "only averaging needs no data, model or GPUs" 0 "" "$ns" train $here --expname=again --output_dir=/workspace/chain --num_training_jobs=0 --wait
[ -d "$work/chain/model-averaged-nemo.previous" ] && same_model "$work/chain/model-averaged-nemo" "$work/chain/model-averaged-nemo.previous" &&
    ok "the averaged model was replaced, the old one kept" || not_ok "replaced: $(ls "$work/chain")"
rm -rf "$work/other" && mkdir "$work/other" && echo x >"$work/other/x"
is "a folder of something else is not replaced" 1 "" "$ns" train $here --expname=again --output_dir=/workspace/chain --num_training_jobs=0 --final_nemo_path=/workspace/other --wait
is "and says so" 0 "is not a finished model of ours" "$ns" logs again
is "save_last_ckpt" 0 "" "$ns" train $here --expname=last --output_dir=/workspace/chain --num_training_jobs=0 --save_last_ckpt --final_nemo_path=/workspace/last --wait
is "average_steps" 0 "" "$ns" train $here --expname=some --output_dir=/workspace/chain --num_training_jobs=0 --average_steps=400,800 --final_nemo_path=/workspace/some --wait
grep -q "steps: 400, 800" "$work"/chain/prepare-eval-logs/main_some* && ok "averages those" || not_ok "some: $(cat "$work"/chain/prepare-eval-logs/main_some*)"

# ---- failure in the middle, retry; slots; cancel ----
for x in a b c; do
    "$ns" run_cmd $here --expname=$x ${before:+--run_after=$before} "until [ -e /workspace/go ]; do sleep 0.05; done; test $x != b -o -f /workspace/mended && echo $x >> /workspace/order" >/dev/null 2>&1
    before=$x
done
touch "$work/go" # only now may b fail: a submission behind a job that has failed is refused
until_state b 0 failed 20 && until_state c 0 skipped 20 && ok "a failed job's dependant is skipped"
touch "$work/mended"
is "ns retry" 0 "2 jobs submitted again" "$ns" retry b
until_state c 0 done 20 && [ "$(tr '\n' ' ' <"$work/order")" = "a b c " ] && ok "completes the chain" || not_ok "order: $(cat "$work/order")"
for i in 1 2 3; do "$ns" run_cmd $here --expname="slot$i" sleep 30 >/dev/null 2>&1; done
until_state slot1 0 running 20
sleep 0.5
[ "$(state slot2 0) $(state slot3 0)" = "running waiting" ] && "$ns" status slot3 | grep -q 'waits for a slot' && ok "two slots: the third job waits and says why" || not_ok "slots: $("$ns" status)"
is "ns cancel" 0 "1 job cancelled" "$ns" cancel slot1
until_state slot1 0 cancelled 20 && until_state slot3 0 running 20 && ok "and the next takes its place"
"$ns" cancel slot2 slot3 >/dev/null
is "a time limit" 0 "" "$ns" run_cmd $here --time=00:00:25 --expname=limited sh -c 'trap "echo told; exit 3" TERM; while :; do sleep 0.1; done'
is "an impossible limit" 2 "leaves no time before the margin" "$ns" run_cmd $here --time=00:00:15 true

# ---- a pipeline from a file, from C ----
cat >pipeline.yaml <<'Y'
cluster: local
steps:
  - run_cmd: {expname: y-data, command: "cp /workspace/rows.jsonl /workspace/y.jsonl"}
  - train:
      expname: y-train
      run_after: y-data
      output_dir: /workspace/y
      nemo_model: /workspace/base
      training_data: /workspace/y.jsonl
      num_gpus: 1
      disable_wandb: true
      args: [++trainer.sft.max_steps=4, ++trainer.sft.save_interval=2, ++model.data.train_ds.global_batch_size=16]
  - run_cmd: {expname: y-list, run_after: y-train, command: [ls, /workspace/y/model-averaged-nemo, "it's $(x)"], wait: true}
Y
is "ns run --dry_run shows all steps" 0 "afterok y-train" "$ns" run --dry_run pipeline.yaml
[ ! -e "$NS_HOME/experiments/y-data" ] && ok "and submits nothing" || not_ok "dry run submitted"
sed -i 's/"it.s $(x)"/"--"/' pipeline.yaml
is "ns run" 0 "experiment y-list_" "$ns" run pipeline.yaml
"$ns" logs y-list | grep -q model_config.yaml && ok "ran in order" || not_ok "y-list: $("$ns" status y-list)"
sed 's/max_steps=4/max_stepps=4/' pipeline.yaml >wrong.yaml
sed -i 's/y-/z-/' wrong.yaml
is "a mistake in a later step is found before the first runs" 2 "step 2" "$ns" run wrong.yaml
[ ! -e "$NS_HOME/experiments/z-data" ] && ok "nothing of it was submitted" || not_ok "z-data was submitted"
example=$(dirname "$ns")/examples/chain
is "the C example chains jobs" 0 "done" env NS_PROGRAM="$ns" "$example" local /workspace/c /workspace/base /workspace/rows.jsonl ++trainer.sft.max_steps=4 ++trainer.sft.save_interval=2 ++model.data.train_ds.global_batch_size=16
is "and tells what is wrong" 1 "is not mounted" env NS_PROGRAM="$ns" "$example" local /elsewhere /workspace/base /workspace/rows.jsonl

plugin=$(dirname "$ns")/libns_mpi.so
[ ! -f "$plugin" ] || cmp -s "$plugin" "$(find "$NS_HOME/bin" -name libns_mpi.so | head -n 1)" && ok "plug-ins beside the program go with its copy" || not_ok "plug-ins: $(ls "$NS_HOME"/bin/*/bin)"

# ---- W&B: a stand-in for its command, which notes what it was given ----
mkdir -p bin
printf '#!/bin/sh\necho "$WANDB_API_KEY|$WANDB_NAME|$*" >>"%s/wandb.calls"\nexit 1\n' "$dir" >bin/wandb
chmod +x bin/wandb
is "a training with W&B" 0 "W&B: project p1, run w b" env PATH="$PWD/bin:$PATH" WANDB_API_KEY=k3y-5f0c2e9b71 NS_WANDB_INTERVAL=0.2 "$ns" train $here --expname='w b' --output_dir=/workspace/wb --wandb_project=p1 --num_training_jobs=2 \
    --wait $(settings 400 200)
[ "$(grep -c '^k3y-5f0c2e9b71|w b|sync --append -p p1 --id w b .*/wb/training/events.out.tfevents' "$dir/wandb.calls")" -ge 2 ] && ok "a process beside each job gives its events to wandb, whose failure changes nothing" || not_ok "wandb: $(cat "$dir/wandb.calls")"
[ "$("$ns" status 'w b' | grep -c ' done  ')" = 3 ] && ! pgrep -f "$dir/run/bin/wandb" >/dev/null && ok "and nothing of it is left" || not_ok "left: $("$ns" status 'w b')"
calls=$(wc -l <"$dir/wandb.calls")
is "--disable_wandb" 0 "" env PATH="$PWD/bin:$PATH" WANDB_API_KEY=k3y-5f0c2e9b71 "$ns" train $here --expname=nowb --output_dir=/workspace/nowb --disable_wandb --wait $(settings 4 2)
[ "$(wc -l <"$dir/wandb.calls")" = "$calls" ] && ok "is honoured" || not_ok "wandb was called"
grep -rl k3y-5f0c2e9b71 "$NS_HOME" "$work/wb" | grep -v '/env.sh$' | grep -q . && not_ok "the key stands in $(grep -rl k3y-5f0c2e9b71 "$NS_HOME" | head -3)" || ok "the key is in env.sh only"

# ---- the documented commands, word for word but for names ----
is "documented: train" 0 "nothing was submitted" "$ns" train \
    --cluster=local \
    --expname=my-training-job \
    --output_dir=/workspace/my-training-job/checkpoints \
    --nemo_model=/workspace/base \
    --num_nodes=1 \
    --num_gpus=8 \
    --num_training_jobs=4 \
    --training_data=/workspace/rows.jsonl \
    ++model.data.train_ds.micro_batch_size=4 \
    ++model.tensor_model_parallel_size=1 \
    --disable_wandb \
    ++model.ffn_dropout=0.1 \
    ++model.attention_dropout=0.1 \
    ++model.hidden_dropout=0.1 --dry_run
grep -q 'task 4: my-training-job-prepare-eval' "$dir/out" && grep -q '++model.ffn_dropout=0.1' "$dir/out" && ok "five jobs, settings passed on" || not_ok "documented: $(cat "$dir/out")"
mkdir -p "$work/sets/gsm8k" "$work/sets/math"
echo '{"problem": "1+1", "expected_answer": "2"}' | tee "$work/sets/gsm8k/test.jsonl" >"$work/sets/math/test.jsonl"
is "documented: eval" 0 "task 1: eval-1" "$ns" eval \
    --cluster=local \
    --model=/workspace/base \
    --server_type=nemo \
    --output_dir=/workspace/my-training-job/results/ \
    --benchmarks gsm8k:0,math:0 \
    --server_gpus=8 \
    --run_after=my-training-job \
    ++prompt_template=llama3-instruct --extra_datasets=/workspace/sets --dry_run
is "documented: prepare_data in run_cmd" 0 "$ ns prepare" "$ns" run_cmd --cluster=local --dry_run \
    python -m nemo_skills.training.prepare_data \
    ++input_files="/workspace/output-rs*.jsonl" \
    ++output_path=sft-data.jsonl \
    ++prompt_config=generic/math \
    ++prompt_template=llama3-instruct
cp -r "$work/sets/math" "$work/sets/mmlu"
is "a multiple-choice set has its own prompt and grading" 0 "++eval_type=multichoice" "$ns" eval $here --model=/workspace/base --output_dir=/workspace/r --benchmarks mmlu:0 --extra_datasets=/workspace/sets --dry_run
grep -q "generic/general-boxed" "$dir/out" && ok "the documented one" || not_ok "mmlu: $(cat "$dir/out")"
is "a set whose grading is not there is refused by name" 1 "grading of the type code is not available yet" "$ns" eval $here --model=/workspace/base --output_dir=/workspace/r --benchmarks human-eval:0 --extra_datasets=/workspace/sets
is "samples are refused by name" 1 "samples need the serving engine" "$ns" eval $here --model=/workspace/base --output_dir=/workspace/r --benchmarks gsm8k:4 --extra_datasets=/workspace/sets
is "generate" 0 "" "$ns" generate $here --model=/workspace/base --output_dir=/workspace/gen ++input_file=/workspace/sets/math/test.jsonl ++input_key=problem ++inference.tokens_to_generate=4 --wait
[ -f "$work/gen/output.jsonl.done" ] && ok "marks its result done"
is "and is not done twice" 0 "exists: nothing to do" "$ns" generate $here --model=/workspace/base --output_dir=/workspace/gen ++input_file=/workspace/sets/math/test.jsonl

# ---- convert: all ways; trtllm with and without its builder ----
mkdir -p trt
printf '#!/bin/sh\nfor w; do printf "%%s|" "$w"; done >>"%s/trt.calls"\nmkdir -p "$4" && echo engine >"$4/rank0.engine"\n' "$dir" >trt/trtllm-build
chmod +x trt/trtllm-build
is "convert hf to nemo" 0 "" "$ns" convert $here --input_model=/workspace/base --output_model=/workspace/cv/nemo --convert_from=hf --convert_to=nemo --model_type=llama --num_gpus=1 --hf_model_name=/workspace/base --wait
is "and back" 0 "" "$ns" convert $here --input_model=/workspace/cv/nemo --output_model=/workspace/cv/hf --convert_from=nemo --convert_to=hf --model_type=llama --num_gpus=8 --hf_model_name=meta-llama/Meta-Llama-3.1-8B --wait
cmp -s "$work/base/model.safetensors" "$work/cv/hf/model.safetensors" && ok "gives the same weights" || not_ok "weights differ after two conversions"
is "to trtllm, without its builder" 0 "" "$ns" convert $here --expname=trt1 --input_model=/workspace/cv/hf --output_model=/workspace/cv/trt --convert_from=hf --convert_to=trtllm --model_type=llama --num_gpus=2 --max_beam_width 4 --wait
[ -s "$work/cv/trt/rank1.safetensors" ] && [ -s "$work/cv/trt/config.json" ] && "$ns" logs trt1 | grep -q 'trtllm-build is not installed on .*: .* is a complete TensorRT-LLM checkpoint' && "$ns" logs trt1 | grep -q -- '--max_num_tokens 8192 --max_beam_width 4' && ok "a complete checkpoint, and the log says so, with the command to build it" || not_ok "trt1: $("$ns" logs trt1)"
is "with its builder" 0 "" env PATH="$PWD/trt:$PATH" "$ns" convert $here --expname=trt2 --input_model=/workspace/cv/hf --output_model=/workspace/cv/trt2 --convert_from=hf --convert_to=trtllm --model_type=llama --num_gpus=2 --dtype=fp16 --max_beam_width 4 --wait
[ "$(cat "$dir/trt.calls")" = "--checkpoint_dir|$work/cv/trt2-tmp|--output_dir|$work/cv/trt2|--gpt_attention_plugin|float16|--use_paged_context_fmha|enable|--max_batch_size|512|--max_input_len|4096|--max_seq_len|8192|--max_num_tokens|8192|--max_beam_width|4|" ] && [ -s "$work/cv/trt2/rank0.engine" ] && [ -s "$work/cv/trt2/tokenizer.json" ] && ok "it gets the documented words, and those that are no options of ours" || not_ok "trtllm-build: $(cat "$dir/trt.calls"; ls "$work/cv/trt2")"
is "an engine's first step is taken again" 0 "" env PATH="$PWD/trt:$PATH" "$ns" convert $here --expname=trt3 --input_model=/workspace/cv/hf --output_model=/workspace/cv/trt2 --convert_from=hf --convert_to=trtllm --model_type=llama --num_gpus=2 --wait
"$ns" logs trt3 | grep -q 'trt2-tmp is there and is taken' && ok "and said" || not_ok "trt3: $("$ns" logs trt3)"
is "nemo to trtllm is refused as documented" 2 "Convert to HF first" "$ns" convert $here --input_model=/workspace/cv/nemo --output_model=/workspace/cv/x --convert_from=nemo --convert_to=trtllm --model_type=llama --num_gpus=2

# ---- seeing: logs -f through a chain, progress, reasons ----
rm -f "$work/go"
"$ns" run_cmd $here --expname=seen 'echo first; until [ -e /workspace/go ]; do sleep 0.1; done; echo last' >/dev/null 2>&1
"$ns" run_cmd $here --expname=seen2 --run_after=seen true >/dev/null 2>&1
"$ns" logs -f seen >"$dir/follow" 2>&1 &
follower=$!
wait_for 10 grep -qx first "$dir/follow"
grep -qx first "$dir/follow" && ! grep -qx last "$dir/follow" && ok "ns logs -f shows a running job" || not_ok "follow: $(cat "$dir/follow")"
is "status says what a job waits for" 0 "after seen_" "$ns" status seen2
touch "$work/go"
wait $follower && [ "$(tail -n 1 "$dir/follow")" = last ] && ok "and ends with it" || not_ok "follow: $(cat "$dir/follow")"
"$ns" train $here --expname=going --output_dir=/workspace/going --disable_wandb --average_steps= $(settings 100000000 100000000) >/dev/null 2>&1
for _ in $(seq 300); do "$ns" status going >"$dir/out"; grep -qE 'running .*step [0-9]+ of [0-9]+, loss [0-9.]+, [0-9]+ tokens/s' "$dir/out" && break; sleep 0.1; done
grep -qE 'running .*step [0-9]+ of [0-9]+, loss [0-9.]+, [0-9]+ tokens/s' "$dir/out" && ok "status shows the progress of a running training" || not_ok "going: $(cat "$dir/out")"
"$ns" cancel going >/dev/null

# ---- what needs a server: shown whole, refused by name ----
is "start_server is shown" 0 "ns serve --model=$work/base --num_gpus=8 --port=5000 --max_batch_size 4" sh -c '"$@" | tr -d "\047"' sh "$ns" start_server $here --model=/workspace/base --server_gpus=8 --server_args='--max_batch_size 4' --dry_run
is "and refused by name, with what there is" 1 "ns generate and ns eval answer inside of their job" "$ns" start_server $here --model=/workspace/base --server_gpus=8
is "its server_type, too" 1 "no server is installed by ns" "$ns" start_server $here --model=/workspace/base --server_type=vllm --server_gpus=8
is "it takes no other words" 2 "++x=1" "$ns" start_server $here --model=/workspace/base --server_gpus=8 ++x=1
is "check_contamination is shown" 0 "task 2: check-contamination" "$ns" check_contamination $here --input_file=/workspace/rows.jsonl --output_file=/workspace/o.jsonl --model=/workspace/base --server_type=trtllm --server_gpus=8 --dependent_jobs=2 ++prompt_template=llama3-instruct --dry_run
grep -q 'skip_filled=True ++prompt_template=llama3-instruct' "$dir/out" && grep -q 'server_type=trtllm is not available' "$dir/out" && ok "with its words and the native server" || not_ok "check_contamination: $(cat "$dir/out")"
is "and refused by name" 1 "ns prepare" "$ns" check_contamination $here --input_file=/workspace/rows.jsonl --output_file=/workspace/o.jsonl --model=/workspace/base

# ---- benchmarks from local raw files; evaluate_results ----
mkdir -p "$work/raw/gsm8k" "$work/raw/math-500"
printf '%s\n' '{"question": "A\u2019s 1,000 and 1?", "answer": "It is <<1000+1=1001>>1001.\n#### 1,001"}' '{"question": "Half of 1?", "answer": "<<1/2>>0.5\n#### 0.5"}' >"$work/raw/gsm8k/test.jsonl"
printf '%s\n' '{"problem": "p", "solution": "s", "answer": "\\frac{1}{2}", "level": 3}' >"$work/raw/math-500/test.jsonl"
is "dataset.prepare under its documented name" 0 "gsm8k/test.jsonl: 2 rows" "$ns" run_cmd --cluster=none python -m nemo_skills.dataset.prepare gsm8k math-500 --from "$work/raw" --output_dir "$work/made"
printf '%s\n' '{"problem": "A\u2019s 1,000 and 1?", "expected_answer": 1001, "reference_solution": "It is 1001.\n"}' '{"problem": "Half of 1?", "expected_answer": 0.5, "reference_solution": "0.5\n"}' | cmp -s - "$work/made/gsm8k/test.jsonl" && ok "gsm8k as documented" || not_ok "gsm8k: $(cat "$work/made/gsm8k/test.jsonl")"
[ "$(cat "$work/made/math-500/test.jsonl")" = '{"problem": "p", "reference_solution": "s", "expected_answer": "\\frac{1}{2}", "level": 3}' ] && ok "math-500 as documented" || not_ok "math-500: $(cat "$work/made/math-500/test.jsonl")"
raw=${NS_TEST_DATA:-$root/../shared/data}/gsm8k
[ -f "$raw/train.jsonl" ] || raw=$root/../../shared/data/gsm8k
if [ -f "$raw/train.jsonl" ]; then
    is "gsm8k itself" 0 "train.jsonl: 6473 rows" "$ns" dataset prepare gsm8k --from "$raw" --output_dir "$work/real"
    n=0
    for k in 1459 3621 6313 4834 5033; do # Python's order of seed 42
        n=$((n + 1))
        question=$(sed -n ${k}p "$raw/train.jsonl" | cut -d'"' -f4)
        [ "$(sed -n ${n}p "$work/real/gsm8k/train_full.jsonl" | cut -d'"' -f4)" = "$question" ] || not_ok "row $n of train_full is not row $k of the raw file"
    done
    [ "$(grep -c '"07:30"' "$work/real/gsm8k/train_full.jsonl") $(grep -c '"expected_answer": 531000,' "$work/real/gsm8k/train_full.jsonl")" = "1 1" ] && ok "the order and corrections of the original" || not_ok "corrections"
else
    echo "SKIP: no $raw: dataset prepare is tested on made-up rows alone"
fi
is "raw files that are missing are named with their origin" 3 "Qwen2.5-Math" "$ns" dataset prepare math --from "$work/raw"
is "a set that ns cannot prepare" 1 "mmlu cannot be prepared" "$ns" dataset prepare mmlu
is "a misspelt one" 2 "did you mean gsm8k?" "$ns" dataset prepare gms8k
for x in 1 2; do printf '%s\n' '{"generation": "\\boxed{1001}", "expected_answer": 1001}' >"$work/made/output-rs$x.jsonl"; done
is "evaluate_results under its documented name" 0 "output-rs2.jsonl: 1 of 1 right" "$ns" run_cmd --cluster=none python -m nemo_skills.evaluation.evaluate_results "++input_files=$work/made/output-rs*.jsonl" ++eval_type=math
is "a type that it does not have" 1 "eval_type=code is not available yet" "$ns" run_cmd python -m nemo_skills.evaluation.evaluate_results "++input_files=$work/made/output-rs*.jsonl" ++eval_type=code

# ---- ns setup ----
printf '%s\n' "$dir/made" slurm mine "/a b:/data, /c:/d" 'A=1 2' '' acct main 'main:01:00:00,cpu:2-00:00:00' >answers
is "ns setup writes a cluster file" 0 "mine.yaml is written" sh -c '"$1" setup <answers' sh "$ns"
is "that works" 0 "--time=01:00:00 --signal" "$ns" run_cmd --cluster=mine --config_dir="$dir/made" --dry_run ls /data
printf '%s\n' "$dir/made" local bad 'no-mount' '' >answers
is "a wrong answer leaves no file" 2 "Invalid mount format" sh -c '"$1" setup <answers' sh "$ns"
[ "$(ls "$dir/made")" = mine.yaml ] && ok "none is left" || not_ok "left: $(ls "$dir/made")"

# ---- hostile names ----
n=0
for name in 'with blank' "quote'd" 'a"b' 'semi;touch pwned' '$(touch pwned)' '`touch pwned`' '../../up' '-rf' 'new
line' '*' '.hidden' '%s%n'; do
    "$ns" run_cmd $here --expname="$name" --log_dir="/workspace/l/$name" printf '%s\n' "$name" '$(touch pwned)' ";touch pwned" >"$dir/out" 2>&1 || not_ok "'$name': $(cat "$dir/out")"
    n=$((n + 1))
done
is "a wait" 0 "" "$ns" run_cmd $here --expname=waiter --wait true
sleep 1
[ "$(grep -rl --include='main_*.log' '^;touch pwned$' "$work" | wc -l)" = $n ] && ok "$n hostile names ran as names" || not_ok "hostile names: $("$ns" status --all)"
find "$dir" -name pwned | grep -q . && not_ok "something was executed" || ok "nothing was executed"

# ---- two submissions at once; damage ----
for i in 1 2 3 4 5 6 7 8; do "$ns" run_cmd $here --expname=same "echo $i >> /workspace/same.txt" >/dev/null 2>&1 & done
wait
for _ in $(seq 100); do [ "$(cat "$work/same.txt" 2>/dev/null | wc -l)" = 8 ] && break; sleep 0.1; done
[ "$(find "$NS_HOME/experiments/same" -mindepth 1 -maxdepth 1 | wc -l) $(sort -u "$work/same.txt" | wc -l)" = "8 8" ] && ok "eight submissions at once are eight experiments" || not_ok "at once: $(ls -a "$NS_HOME/experiments/same")"
record=$(find "$NS_HOME/experiments/waiter" -name experiment.json)
head -c 700 "$record" >"$dir/cut" && cp "$dir/cut" "$record"
is "a damaged record is named" 3 "$record" "$ns" status waiter
is "the others are shown all the same" 3 "slot1_" "$ns" status --all
rm -r "$(dirname "$record")"
echo '{"state": "dancing"}' >"$NS_HOME/experiments/a/$(ls "$NS_HOME/experiments/a")/state/0.json"
is "a damaged state is named" 3 "state/0.json" "$ns" status a
is "no such experiment" 2 "did you mean chain?" "$ns" status chian
is "run_after of nobody: said, not refused" 0 "there is no such experiment" "$ns" run_cmd --run_after=nobody true
is "no such cluster" 2 "Cluster config lokal not found" "$ns" run_cmd --cluster=lokal true
printf 'executor: local\nmount:\n  - /a:/b\n' >cluster_configs/bad.yaml
is "an unknown key, with line and column" 2 "bad.yaml:3:3: unknown key 'mount'; did you mean mounts?" "$ns" run_cmd --cluster=bad true
printf 'executor: local\nmounts: [/a:/b\n' >cluster_configs/bad.yaml
is "broken YAML, with line" 2 "bad.yaml:3" "$ns" run_cmd --cluster=bad true
printf 'executor: local\nrequired_env_vars: [NS_NOT_SET]\n' >cluster_configs/bad.yaml
is "a required variable" 2 "Required environment variable NS_NOT_SET not found" "$ns" run_cmd --cluster=bad true
sed 's/^max_jobs.*/dependency_type: afterok/' cluster_configs/local.yaml >cluster_configs/strict.yaml
is "dependency_type overrides all edges" 0 "afterok dry-sft-0" "$ns" train --cluster=strict --expname=dry --output_dir=/workspace/dry --num_training_jobs=2 --dry_run $(settings 10 5)
grep -q afterany "$dir/out" && not_ok "afterany is left: $(grep after "$dir/out")" || ok "none is left as it was"
"$ns" run_cmd $here --expname=named sleep 20 >/dev/null 2>&1
named=$(basename "$NS_HOME"/experiments/named/*)
is "run_after by id" 0 "afterok $named, task 0" "$ns" run_cmd $here --dry_run --run_after="$named" true
"$ns" cancel named >/dev/null
is "a dry run shows everything" 0 "nothing was submitted" "$ns" train $here --expname=dry --output_dir=/workspace/dry --num_training_jobs=4 --dry_run $(settings 10 5)
grep -q 'task 4: dry-prepare-eval' "$dir/out" && [ ! -e "$NS_HOME/experiments/dry" ] && [ ! -e "$work/dry" ] && ok "and does nothing" || not_ok "dry run"
is "no W&B key: said" 0 "WANDB_API_KEY is not set" "$ns" train $here --expname=dry --output_dir=/workspace/dry --dry_run $(settings 10 5)
until_state limited 0 failed 40 && "$ns" status limited | grep -q 'time limit' && grep -q told "$NS_HOME"/experiments/limited/*/logs/main_* && ok "a job over its time limit is told, then ended"
is "tensor parallel is num_gpus, as documented, and said" 0 "tensor parallel size 2, the GPUs of a node" "$ns" train $here --expname=dry --output_dir=/workspace/dry --dry_run $(settings 10 5 2)
grep -q 'tensor_model_parallel_size=2' "$dir/out" && grep -q '| ranks  *2 = tensor 2' "$dir/out" && grep -q '|   total .* MB' "$dir/out" && ok "a dry run shows the memory plan" || not_ok "plan: $(cat "$dir/out")"
printf 'executor: local\ngpu_memory: 80GB\nmounts: ["%s:/workspace"]\n' "$work" >cluster_configs/big.yaml
is "against the memory of the cluster's GPUs" 0 "of the 80 GB of a GPU" "$ns" train --cluster=big --expname=dry --output_dir=/workspace/dry --dry_run $(settings 10 5 2)
sed 's/80GB/1MB/' cluster_configs/big.yaml >cluster_configs/small.yaml
is "that are too small" 0 "DOES NOT FIT" "$ns" train --cluster=small --expname=dry --output_dir=/workspace/dry --dry_run $(settings 10 5 2)
"$ns" run_cmd $here --expname=hold sleep 60 >/dev/null 2>&1
is "a path that is not there is refused at submission" 3 "--training_data=/workspace/nowhere.jsonl: there is no such file or folder (looked for $work/nowhere.jsonl)" "$ns" train $here --expname=dry --output_dir=/workspace/dry \
    $(settings 10 5) --training_data=/workspace/nowhere.jsonl
is "a plan needs the model" 0 "memory plan cannot be made here" "$ns" train $here --expname=dry --output_dir=/workspace/dry --run_after=hold --dry_run $(settings 10 5 2) --nemo_model=/workspace/not-yet
is "a model that cannot be split so is refused at submission" 2 "use one of 1, 2" "$ns" train $here --expname=dry --output_dir=/workspace/dry --dry_run $(settings 10 5 4)
is "sizes that do not divide are refused at submission" 2 "tensor" "$ns" train $here --expname=dry --output_dir=/workspace/dry --tp=3 --dry_run $(settings 10 5 2)
is "settings that exclude each other, too" 1 "use null" "$ns" train $here --expname=dry --output_dir=/workspace/dry --dry_run $(settings 10 5 2) ++model.virtual_pipeline_model_parallel_size=2
exit $fails
