#!/usr/bin/env bash
# Every option of the documented verbs is known; those that need what a later version brings are refused by name before anything is written;
# ns summarize_results reads results here and, through a stand-in for ssh (the real one: full_test.sh), behind a tunnel.
# A verdict line cannot fail, so A && ok || not_ok is a choice.
# shellcheck disable=SC2015,SC2086
set -u
root=$(cd "$(dirname "$0")/../.." && pwd)
# shellcheck source=tests/jobs/lib.sh
. "$root/tests/jobs/lib.sh"
trap 'rm -rf "$dir"' EXIT
cd "$dir" || exit 1

# ---- pipelines.md 1.2 to 1.10 ----
common="cluster config_dir expname log_dir partition time_min run_after reuse_code no-reuse_code reuse_code_exp not_exclusive"
server="server_type server_address server_gpus server_nodes server_args"
known() { # VERB OPTION...
    verb=$1
    shift
    missing=""
    for o; do # a wrong value or a missing option is no matter here
        "$ns" "$verb" "--$o=1" 2>&1 | grep -qE "unknown (option|flag)|no option" && missing="$missing $o"
    done
    [ -z "$missing" ] && ok "ns $verb: all $# documented options" || not_ok "ns $verb does not know:$missing"
}
"$ns" train --no_such_option=1 2>&1 | grep -qE "unknown (option|flag)|no option" && ok "an option that is not there is unknown" || not_ok "unknown: $("$ns" train --no_such_option=1 2>&1)"
known train $common $server server_model output_dir nemo_model final_nemo_path training_data validation_data num_nodes num_gpus tp num_training_jobs training_algo config_name config_path \
    wandb_project disable_wandb with_sandbox average_steps save_last_ckpt
known convert $common input_model output_model model_type convert_from convert_to hf_model_name dtype num_gpus num_nodes trt_prepare_args trt_reuse_tmp_engine no-trt_reuse_tmp_engine
known eval $common $server model output_dir benchmarks starting_seed split num_jobs num_chunks chunk_ids extra_eval_args skip_greedy extra_datasets
known generate $common $server model output_dir generation_type dependent_jobs num_random_seeds random_seeds starting_seed num_chunks chunk_ids preprocess_cmd postprocess_cmd eval_args output_prefix \
    rerun_done with_sandbox
known run_cmd $common container num_gpus num_nodes preprocess_cmd postprocess_cmd
known start_server $common model server_type server_gpus server_nodes server_args with_sandbox get_random_port
known check_contamination $common $server model input_file output_file dependent_jobs preprocess_cmd postprocess_cmd
known summarize_results cluster config_dir benchmarks remote_tar_dir debug max_samples extra_datasets metric_type verbose no-verbose wandb_name wandb_group wandb_project

# ---- what a later version brings ----
later() { # NAMED WORD...: refused, NAMED and the reason in the message
    named=$1
    shift
    "$ns" "$@" >out 2>&1
    rc=$?
    [ $rc = 1 ] && grep -qF -- "$named" out && grep -q "a later version of ns brings it" out && ok "refused by name: $named" || not_ok "$* gives $rc: $(cat out)"
}
train="train --expname=x --output_dir=/x --nemo_model=/tmp --num_gpus=1 --training_data=/tmp"
for algo in dpo rm grpo; do later "--training_algo=$algo" $train --training_algo=$algo; done
later "--server_*: the judge of grpo" $train --server_model=/x
later "--with_sandbox" $train --with_sandbox
eval="eval --output_dir=/x --model=/tmp"
later "gsm8k:4: samples" $eval --benchmarks=gsm8k:4
later "--num_chunks, --chunk_ids" $eval --benchmarks=gsm8k:0 --num_chunks=4
later "--skip_greedy" $eval --benchmarks=gsm8k:0 --skip_greedy
later "--server_address" $eval --benchmarks=gsm8k:0 --server_address=http://localhost:5000
later "--server_type=openai" $eval --benchmarks=gsm8k:0 --server_type=openai
generate="generate --output_dir=/x --model=/tmp"
for type in reward math_judge; do later "--generation_type=$type" $generate --generation_type=$type; done
later "--num_random_seeds" $generate --num_random_seeds=4
later "--random_seeds" $generate --random_seeds=0..7
later "--num_chunks, --chunk_ids" $generate --num_chunks=4
later "--with_sandbox" $generate --with_sandbox
later "start_server" start_server --model=/tmp --server_gpus=1
later "--with_sandbox" start_server --model=/tmp --server_gpus=1 --with_sandbox
later "check_contamination" check_contamination --input_file=/tmp --output_file=/x --model=/tmp
for program in dpo rm; do later "ns $program" run_cmd python -m nemo_skills.training.start_$program ++a=1; done
later "--metric_type=arena" summarize_results --metric_type=arena /tmp
later "--wandb_name" summarize_results --wandb_name=x /tmp
[ -z "$(ls -A "$NS_HOME/experiments" 2>/dev/null)" ] && ok "nothing was written" || not_ok "left: $(ls "$NS_HOME/experiments")"

# ---- summarize_results, here and behind a tunnel ----
far="$dir/far away"
mkdir -p bin "$far/results/eval-results/gsm8k" "$far/results/eval-logs"
printf '%s\n' '{"predicted_answer": "2", "is_correct": true}' '{"predicted_answer": null, "is_correct": false}' >"$far/results/eval-results/gsm8k/output.jsonl"
cp "$far/results/eval-results/gsm8k/output.jsonl" "$far/results/eval-logs/"
is "results here" 0 "greedy          | 2           |           50.00% | 50.00%" "$ns" summarize_results "$far/results"
mv "$far/results/eval-results/metrics.json" here.json
printf '#!/bin/sh\nfor w; do host=$line; line=$w; done\ncase $host in *nobody*) echo "ssh: no route to $host" >&2; exit 255 ;; esac\necho "$host" >>"%s/ssh.calls"\nexec sh -c "$line"\n' "$dir" >bin/ssh
chmod +x bin/ssh
printf 'executor: slurm\naccount: a\nmounts: ["%s:/workspace"]\nssh_tunnel: {host: login, user: me, job_dir: /jobs}\n' "$far" >far.yaml
is "results behind an ssh tunnel" 0 "Metrics are saved to login:$far/results/eval-results/metrics.json" env PATH="$dir/bin:$PATH" "$ns" summarize_results --cluster=far.yaml --remote_tar_dir=/workspace/tmp /workspace/results/
grep -qF "greedy          | 2           |           50.00% | 50.00%" out && cmp -s here.json "$far/results/eval-results/metrics.json" && [ "$(sort -u ssh.calls)" = "me@login" ] && ok "give the same table and metrics.json, there" || not_ok "far: $(cat out ssh.calls)"
is "no results there" 1 "$far/nothing" env PATH="$dir/bin:$PATH" "$ns" summarize_results --cluster=far.yaml /workspace/nothing
sed -i 's/login/nobody/' far.yaml
is "an ssh that fails" 1 "no route to me@nobody" env PATH="$dir/bin:$PATH" "$ns" summarize_results --cluster=far.yaml /workspace/results
[ -z "$(find "${TMPDIR:-/tmp}" -maxdepth 1 -name 'ns-results-*' -newer far.yaml)" ] && ok "nothing is left here" || not_ok "left: $(ls -d "${TMPDIR:-/tmp}"/ns-results-*)"
exit $fails
