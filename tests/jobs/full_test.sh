#!/usr/bin/env bash
# The long part of the pipelines' tests, NS_FULL=1 only: figures (a chain of 200 jobs on Slurm, status of 1,000 jobs, an idle supervisor),
# both documented Python chains on Slurm, real time limits, a lost node, the ssh tunnel, a controller that is down.
# A verdict line cannot fail, so A && ok || not_ok is a choice; done is a state; $share and settings are several words.
# shellcheck disable=SC2015,SC1010,SC2046,SC2086,SC2030,SC2031
set -u
ns=$1
case $ns in /*) ;; *) ns=$PWD/$ns ;; esac
[ -n "${NS_FULL:-}" ] || { echo "SKIP: long (NS_FULL=1 runs it)"; exit 77; }
root=$(cd "$(dirname "$0")/../.." && pwd)
# shellcheck source=tests/jobs/lib.sh
. "$root/tests/jobs/lib.sh"
export DIR=$dir/slurm PORT=$((33000 + $$ % 100 * 250))
sshd_pid=""
trap '[ -z "$sshd_pid" ] || kill "$sshd_pid"; bash "$root/dev/slurm_cluster.sh" down; rm -rf "$dir"' EXIT
mkdir -p "$DIR"
bash "$root/dev/slurm_cluster.sh" up || exit 77
export SLURM_CONF=$DIR/etc/slurm.conf NS_THREADS=1 NS_PROGRAM=$ns
work="$dir/work dir"
small_model "$work"
many_rows "$work/sft-data.jsonl"
mkdir -p "$dir/run/cluster_configs"
cd "$dir/run" || exit 1
cat >cluster_configs/slurm.yaml <<C
executor: slurm
account: acct
partition: main
mounts: ["$work:/workspace", "$work:/nemo_models", "$work:/data"]
C
printf 'executor: local\nmounts: ["%s:/workspace"]\n' "$work" >cluster_configs/local.yaml
share="--cluster=slurm --not_exclusive"
seconds() { # COMMAND...: runs it, its wall time in $took
    start=$(date +%s.%N)
    "$@" >"$dir/out" 2>&1 || not_ok "$*: $(tail -n 3 "$dir/out")"
    took=$(echo "$start $(date +%s.%N)" | awk '{ printf "%.3f", $2 - $1 }')
}
below() { # WHAT LIMIT
    awk -v t="$took" -v l="$2" 'BEGIN { exit !(t < l) }' && ok "$1: $took s (limit $2)" || not_ok "$1: $took s, limit $2"
}

# ---- figures ----
seconds "$ns" train $share --expname=long --output_dir=/workspace/long --disable_wandb --num_training_jobs=199 $(settings 10 5)
below "submission of a chain of 200 jobs" 5
[ "$(squeue -h -t PD,R -o %i | wc -l)" -ge 190 ] && ok "they are in the queue" || not_ok "in the queue: $(squeue -h | wc -l)"
seconds "$ns" cancel long
echo "     cancelling them: $took s"
for i in 1 2 3 4 5; do "$ns" train $share --expname="many$i" --output_dir=/workspace/many --disable_wandb --num_training_jobs=199 $(settings 10 5) >/dev/null 2>&1; done
best=9
for _ in 1 2 3; do
    seconds "$ns" status --all
    best=$(printf '%s\n%s\n' "$best" "$took" | sort -n | head -n 1)
done
took=$best
below "ns status of 1,000 jobs" 0.2
for i in 1 2 3 4 5; do "$ns" cancel "many$i" >/dev/null 2>&1; done
"$ns" run_cmd --cluster=local --expname=idle sleep 12 >/dev/null 2>&1
sleep 1
for p in /proc/[0-9]*; do
    tr '\0' '\n' 2>/dev/null <"$p/environ" | grep -qx "NS_HOME=$NS_HOME" || continue
    for f in "$p"/fd/*; do
        [ "$(readlink "$f")" = "$NS_HOME/supervisor.$(hostname).lock" ] || continue
        a=$(awk '{ print $14 + $15 }' "$p/stat")
        sleep 5
        b=$(awk '{ print $14 + $15 }' "$p/stat")
        rss=$(awk '/VmRSS/ { print $2 }' "$p/status")
        [ $((b - a)) = 0 ] && [ "$rss" -lt 20480 ] && ok "an idle supervisor process: $rss kB, no CPU tick in 5 s" || not_ok "supervisor: $rss kB, $((b - a)) ticks in 5 s"
        break
    done
done

# ---- the documented chains ----
if command -v python3 >/dev/null; then
    export PYTHONPATH=$root/python PYTHONDONTWRITEBYTECODE=1 TEST_CLUSTER=slurm TEST_NODES=2 NEMO_SKILLS_EXTRA_DATASETS=/workspace/datasets
    TEST_SETTINGS="++model.data.train_ds.global_batch_size=16 ++model.data.train_ds.micro_batch_size=4 ++trainer.sft.max_steps=20 ++trainer.sft.save_interval=10"
    export TEST_SETTINGS
    mkdir -p "$work/datasets/gsm8k" "$work/datasets/math"
    echo '{"problem": "What is 1 plus 1?", "expected_answer": "2"}' | tee "$work/datasets/gsm8k/test.jsonl" >"$work/datasets/math/test.jsonl"
    is "the documented chain on two nodes" 0 "" python3 "$root/tests/jobs/documented_chain.py"
    until_state eval 1 done 120 && ok "runs" || not_ok "chain: $("$ns" status my-training-job; "$ns" status eval)"
    export TEST_PACKED_SETTINGS="++trainer.sft.save_interval=1"
    is "the packing chain" 0 "" python3 "$root/tests/jobs/documented_packing.py"
    until_state my-packed-job 2 done 120 && ok "runs" || not_ok "packing: $("$ns" logs my-packed-job)"
else
    echo "SKIP: python3 is not installed: the documented chains are not run"
fi

# ---- a real limit; a lost node ----
is "a limit of one minute" 0 "" "$ns" train --cluster=slurm --expname=minute --output_dir=/workspace/minute --disable_wandb --average_steps= --time=00:01:00 $(settings 100000000 1000000)
until_state minute 0 stopped 90 && "$ns" status minute | grep -q 'stopped at its limit' && ok "stops by itself 20 s before it, saved" || not_ok "minute: $("$ns" status minute)"
"$ns" train --cluster=slurm --expname=lost --output_dir=/workspace/lost --disable_wandb --average_steps= $(settings 1500 100) >/dev/null 2>&1
until_state lost 0 running 30
sleep 4
node=$(squeue -h -t R -o %N | head -n 1)
scontrol update nodename="$node" state=down reason=test
sleep 1
scontrol update nodename="$node" state=resume
until_state lost 0 done 120 && grep -q resumed "$work"/lost/training-logs/main_lost-sft-0_*_srun.log && ok "a job of a lost node is requeued and resumes" || not_ok "lost: $("$ns" status lost)"

# ---- the tunnel ----
if command -v /usr/sbin/sshd >/dev/null && command -v ssh-keygen >/dev/null; then
    mkdir -p "$dir/ssh" /run/sshd
    ssh-keygen -q -t ed25519 -N '' -f "$dir/ssh/host" && ssh-keygen -q -t ed25519 -N '' -f "$dir/ssh/id" && cp "$dir/ssh/id.pub" "$dir/ssh/keys"
    chmod 700 "$dir" "$dir/ssh"
    chmod 600 "$dir/ssh/keys"
    printf 'ListenAddress 127.0.0.1\nPort %s\nHostKey %s/ssh/host\nAuthorizedKeysFile %s/ssh/keys\nPidFile none\nStrictModes no\nPermitRootLogin yes\nUsePAM no\nSetEnv SLURM_CONF=%s\n' \
        $((PORT + 5)) "$dir" "$dir" "$SLURM_CONF" >"$dir/ssh/config"
    /usr/sbin/sshd -D -f "$dir/ssh/config" >"$dir/ssh/log" 2>&1 &
    sshd_pid=$!
    sleep 0.5
    # the tunnel's ssh takes its port and known hosts from a program of that name in front of $PATH
    mkdir -p "$dir/bin"
    printf '#!/bin/sh\nexec /usr/bin/ssh -p %s -o UserKnownHostsFile=%s -o StrictHostKeyChecking=accept-new "$@"\n' $((PORT + 5)) "$dir/ssh/known" >"$dir/bin/ssh"
    chmod +x "$dir/bin/ssh"
    sed "s|^account.*|ssh_tunnel: {host: 127.0.0.1, user: root, job_dir: $dir/remote jobs, identity: $dir/ssh/id}|" cluster_configs/slurm.yaml >cluster_configs/tunnel.yaml
    is "submission through ssh" 0 "experiment far_" env PATH="$dir/bin:$PATH" SLURM_CONF=/nowhere "$ns" run_cmd --cluster=tunnel --not_exclusive --num_gpus=0 --expname=far "echo far 'it is' > /workspace/far.txt; ns --version >> /workspace/far.txt"
    (
        PATH=$dir/bin:$PATH SLURM_CONF=/nowhere
        export PATH SLURM_CONF
        until_state far 0 done 30
    ) && grep -q 'far it is' "$work/far.txt" && grep -q '^ns ' "$work/far.txt" && ok "runs behind it, with the copied program" || not_ok "far: $(PATH="$dir/bin:$PATH" "$ns" status far)"
    is "ssh that fails is named" 1 "ssh to nobody@127.0.0.1 failed" env PATH="$dir/bin:$PATH" "$ns" run_cmd --cluster="$(sed 's/user: root/user: nobody/' cluster_configs/tunnel.yaml >cluster_configs/tunnel2.yaml; echo tunnel2)" true
else
    echo "SKIP: sshd is not installed: the tunnel is not tested"
fi

# ---- Slurm down ----
kill "$(cat "$DIR/run/slurmctld.pid")"
sleep 1
seconds true
is "a controller that is down is named" 1 "Slurm" timeout 150 "$ns" run_cmd $share --num_gpus=0 --expname=down true
exit $fails
