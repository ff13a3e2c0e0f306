#!/usr/bin/env bash
# Pipelines on a real Slurm on loopback: a chain of trainings stopped by its time limit and resumed bit for bit, dependencies as
# documented, run_after across experiments, failure and retry, cancel with dependants, preemption, hostile names. The Slurm is this
# test's own: two isolated nodes, started and stopped here (dev/slurm_cluster.sh).
# A verdict line cannot fail, so A && ok || not_ok is a choice; $share is several words; done is a state.
# shellcheck disable=SC2015,SC2086,SC1010,SC2046
set -u
root=$(cd "$(dirname "$0")/../.." && pwd)
# shellcheck source=tests/jobs/lib.sh
. "$root/tests/jobs/lib.sh"
export DIR=$dir/slurm
trap 'bash "$root/dev/slurm_cluster.sh" down; rm -rf "$dir"' EXIT
mkdir -p "$DIR"
bash "$root/dev/slurm_cluster.sh" up || exit 77
export SLURM_CONF=$DIR/etc/slurm.conf NS_THREADS=1
work="$dir/work dir" # the blank is meant
small_model "$work"
mkdir -p "$dir/run/cluster_configs"
cd "$dir/run" || exit 1
cat >cluster_configs/slurm.yaml <<C
executor: slurm
containers: {nemo: igitman/nemo-skills-nemo:0.6.0}
account: acct
partition: main
job_name_prefix: "nemo_skills:"
timeouts: {main: "00:01:00", high: "00:01:00"}
stop_margin: "00:00:55"
mounts:
  - $work:/workspace
env_vars: [SECRET_OF_TEST=s3cret value]
C
# several jobs share the nodes here; --not_exclusive as on a busy cluster
share="--cluster=slurm --not_exclusive"

# ---- the documented chain, with limits of 5 s: stopped, resumed, averaged, then a job after it ----
is "ns train submits a chain" 0 "experiment chain_" "$ns" train $share --expname=chain --output_dir=/workspace/chain --disable_wandb \
    --num_training_jobs=4 --num_nodes=2 --validation_data=/workspace/rows.jsonl $(settings 1600 400)
is "run_cmd waits for the chain's end" 0 "experiment after_" "$ns" run_cmd $share --num_gpus=0 --expname=after --run_after=chain \
    'test -f /workspace/chain/model-averaged-nemo/model_config.yaml && echo "secret: $SECRET_OF_TEST" > /workspace/after.txt'
ids=$("$ns" status --json chain | grep -o '"job": "[0-9]*"' | grep -o '[0-9]*')
set -- $ids
[ $# = 5 ] && ok "five jobs: four links and the average" || not_ok "five jobs, found: $ids"
want="afterany:$1 afterany:$2 afterany:$3 afterany:$4"
got=$(for j in "$2" "$3" "$4" "$5"; do scontrol show job "$j" | grep -o 'Dependency=[a-z]*:[0-9]*' | cut -d= -f2; done | tr '\n' ' ')
[ "$got" = "$want " ] && ok "scontrol shows the chain's dependencies" || not_ok "dependencies: $got, wanted $want"
after=$("$ns" status --json after | grep -o '"job": "[0-9]*"' | grep -o '[0-9]*')
scontrol show job "$after" | grep -q "Dependency=afterok:$5(" && ok "run_after waits for the final job only, afterok" || not_ok "dependency of after: $(scontrol show job "$after" | grep Dependency)"
scontrol show job "$1" >"$dir/job"
grep -q 'JobName=nemo_skills:chain-sft-0' "$dir/job" && grep -q 'TimeLimit=00:01:00' "$dir/job" && grep -q 'gpu.*:1' "$dir/job" && grep -q 'Requeue=1' "$dir/job" && grep -q 'NumNodes=2' "$dir/job" &&
    ok "name, limit, nodes, GPUs and requeue as asked" || not_ok "the job: $(cat "$dir/job")"

# ---- meanwhile: hostile names, run as names ----
n=0
mkdir -p "$work/logs"
for name in 'with blank' "quote'd" 'a"b' 'semi;touch pwned' '$(touch pwned)' '`touch pwned`' '$HOME' '../../up' '-rf' '%j%x' 'new
line' '&& touch pwned' '| touch pwned' '#!x' 'ümläut' '*'; do
    logs="--log_dir=/workspace/logs/$name"
    case $name in *"
"*) logs="--log_dir=/workspace/logs/newline" ;; esac
    "$ns" run_cmd $share --num_gpus=0 --expname="$name" "$logs" printf '%s\n' "$name" '$(touch pwned)' ';touch pwned' "it's" >"$dir/out" 2>&1 ||
        not_ok "submit as '$name': $(cat "$dir/out")"
    n=$((n + 1))
done
is "a name with a control character in the log folder is refused by name" 2 "newline" "$ns" run_cmd $share --expname=x --log_dir="/workspace/a
b" true

# ---- the chain's result ----
if until_state chain 4 done 100; then ok "the chain has ended"; fi
"$ns" status chain >"$dir/status"
grep -q 'chain-sft-0 *stopped' "$dir/status" && ok "the first link was stopped by its limit, all saved" || not_ok "first link: $(cat "$dir/status")"
tries=0
while [ -f "$work/chain/model-averaged-nemo/UNFINISHED" ] && [ $tries -lt 4 ]; do # a slow machine: the same command adds jobs
    tries=$((tries + 1))
    grep -q 'unfinished: step' "$dir/status" || not_ok "an unfinished chain says so in status"
        "$ns" train $share --expname=chain --output_dir=/workspace/chain --disable_wandb --num_training_jobs=4 --num_nodes=2 --validation_data=/workspace/rows.jsonl \
        --wait $(settings 1600 400) >"$dir/out" 2>&1 || not_ok "add jobs: $(cat "$dir/out")"
done
"$ns" sft trainer.devices=2 ++model.tensor_model_parallel_size=1 ++model.restore_from_path="$work/base" ++model.data.train_ds.file_path="'$work/rows.jsonl'" \
    ++model.data.validation_ds.file_path="'$work/rows.jsonl'" ++exp_manager.explicit_log_dir="'$dir/straight/training'" \
    $(settings 1600 400 | tr ' ' '\n' | grep '^++') >"$dir/straight.log" 2>&1 &&
    "$ns" average --input "$dir/straight" --output "$dir/straight/model" --to nemo >/dev/null || not_ok "the straight run: $(tail -n 3 "$dir/straight.log")"
same_model "$work/chain/model-averaged-nemo" "$dir/straight/model" && ok "the chain's model is the straight run's, bit for bit" || not_ok "chain and straight run differ"
until_state after 0 done 30 && grep -q 'secret: s3cret value' "$work/after.txt" && ok "the job behind the chain ran, with its environment" || not_ok "after: $("$ns" status after)"
if grep -rl 's3cret' "$NS_HOME" "$work/chain" | grep -v '/env.sh$' | grep -q .; then not_ok "the secret stands in $(grep -rl 's3cret' "$NS_HOME" "$work/chain" | head -3)"; else ok "secrets are in env.sh only"; fi
find "$NS_HOME" -name env.sh -perm /077 | grep -q . && not_ok "env.sh is readable by others" || ok "env.sh has mode 600"
[ -f "$work/chain/training-logs/main_chain-sft-0_$1_srun.log" ] && [ -f "$work/chain/training-logs/chain-sft-0_$1_sbatch.log" ] && ok "logs have the documented names" ||
    not_ok "logs: $(ls "$work/chain/training-logs")"
is "ns logs prints them" 0 "resumed" "$ns" logs --task 1 chain

# ---- failure, stated states, retry ----
is "a job that is well" 0 "" "$ns" run_cmd $share --num_gpus=0 --expname=zero 'until [ -e /workspace/go ]; do sleep 0.1; done; echo zero >> /workspace/order'
is "a job behind it, which fails" 0 "" "$ns" run_cmd $share --num_gpus=0 --expname=first --run_after=zero 'test -f /workspace/mended && echo first >> /workspace/order'
is "a job after it" 0 "" "$ns" run_cmd $share --num_gpus=0 --expname=second --run_after=first 'echo second >> /workspace/order'
is "and one more" 0 "" "$ns" run_cmd $share --num_gpus=0 --expname=third --run_after=second 'echo third >> /workspace/order'
touch "$work/go" # only now may it fail: a submission behind a job that has failed is refused
until_state first 0 failed 30 && until_state second 0 skipped 30 && until_state third 0 skipped 30 && [ "$(state zero 0)" = done ] && ok "the middle of a chain fails: what is behind it is skipped, and says so" || not_ok "middle: $("$ns" status --all)"
is "waiting for what failed is refused by name" 2 "ns retry first_" "$ns" run_cmd $share --run_after=first true
touch "$work/mended"
is "ns retry" 0 "3 jobs submitted again" "$ns" retry first
until_state third 0 done 30 && [ "$(tr '\n' ' ' <"$work/order")" = "zero first second third " ] && ok "ns retry completes the chain across experiments" || not_ok "after retry: $(cat "$work/order")"

# ---- submissions at once ----
pids=""
for i in 1 2 3 4 5 6; do
    "$ns" run_cmd $share --num_gpus=0 --expname=same "echo $i >> /workspace/same.txt" >"$dir/same.$i" 2>&1 &
    pids="$pids $!"
done
wait $pids
for _ in $(seq $((600 * ${NS_SLOW:-1}))); do [ "$(cat "$work/same.txt" 2>/dev/null | wc -l)" = 6 ] && break; sleep 0.1; done
[ "$(find "$NS_HOME/experiments/same" -mindepth 1 -maxdepth 1 | wc -l) $(sort -u "$work/same.txt" | wc -l) $(cat "$NS_HOME"/experiments/same/*/state/0.json | grep -o '"job": "[0-9]*"' | sort -u | wc -l)" = "6 6 6" ] &&
    ok "six submissions at once are six experiments, with a job each" || not_ok "at once: $(cat "$dir"/same.*; ls -a "$NS_HOME/experiments/same"; cat "$work/same.txt"; squeue; "$ns" status --all)"

# ---- cancel with dependants; preemption ----
"$ns" run_cmd $share --num_gpus=0 --expname=long sleep 300 >/dev/null 2>&1
"$ns" run_cmd $share --num_gpus=0 --expname=behind --run_after=long true >/dev/null 2>&1
until_state long 0 running 30
is "ns cancel takes dependants along" 0 "2 jobs cancelled" "$ns" cancel long
until_state long 0 cancelled 30 && until_state behind 0 cancelled 30 && ok "both are cancelled"
"$ns" train --cluster=slurm --expname=pre --output_dir=/workspace/pre --disable_wandb --average_steps= --time=00:10:00 $(settings 1600 400) ++exp_manager.max_time_per_run=1:0:0:0 >"$dir/out" 2>&1 ||
    not_ok "pre: $(cat "$dir/out")"
until_state pre 0 running 30
for _ in $(seq 100); do [ "$(cat "$work/pre/training/metrics.jsonl" 2>/dev/null | wc -l)" -gt 20 ] && break; sleep 0.1; done
timeout 60 srun -Q -p high -N2 --exclusive true
until_state pre 0 done 60 && grep -q 'resumed .*step' "$work"/pre/training-logs/main_pre-sft-0_*_srun.log && ok "a preempted job is requeued and resumes" ||
    not_ok "preempted: $("$ns" status pre; tail -n 5 "$work"/pre/training-logs/main_pre-sft-0_*)"

# ---- the hostile names again: each ran, nothing was executed ----
bad=0
"$ns" status --all --json >"$dir/all.json"
[ "$(grep -o '"failed": [1-9]' "$dir/all.json" | wc -l)" = 2 ] || bad=1 # long, behind
ran=$(find "$dir" -name 'main_*srun.log' -exec grep -l "^it's$" {} + | sort -u | wc -l)
[ "$ran" = $n ] || bad="$ran of $n ran"
[ $bad = 0 ] && ok "$n hostile names ran as names" || not_ok "hostile names ($bad): $("$ns" status --all)"
if find "$dir" -name pwned | grep -q .; then not_ok "something was executed: $(find "$dir" -name pwned)"; else ok "nothing in a name or word was executed"; fi

# ---- refusals ----
is "an unmounted path" 2 "The path '/elsewhere/x' is not mounted. Check cluster config." "$ns" train $share --expname=x --output_dir=/elsewhere/x --num_gpus=1 --nemo_model=/workspace/base --training_data=/workspace/rows.jsonl
is "whole components: /workspacex is not mounted" 2 "is not mounted" "$ns" train $share --expname=x --output_dir=/workspacex --num_gpus=1 --nemo_model=/workspace/base --training_data=/workspace/rows.jsonl
is "a request that Slurm cannot meet" 1 "Slurm refused it" "$ns" run_cmd $share --num_gpus=64 true
is "an unknown option" 2 "did you mean --training_data?" "$ns" train $share --expname=x --traning_data=/workspace/rows.jsonl
is "an unknown setting, before anything is submitted" 2 "global_batch_size" "$ns" train $share --expname=x --output_dir=/workspace/x --disable_wandb $(settings 10 5) ++model.data.train_ds.global_batch_sise=4
is "Slurm not installed" 2 "sbatch is not installed" env PATH=/nowhere "$ns" run_cmd $share true
exit $fails
