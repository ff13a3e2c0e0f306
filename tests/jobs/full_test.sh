#!/usr/bin/env bash
# The long part of the pipelines' tests, NS_FULL=1 only: a chain of 200 jobs, real time limits, a lost node, the ssh tunnel, a controller that is
# down. The documented chains: chain_test.sh; figures: bench/jobs.sh.
# A verdict line cannot fail, so A && ok || not_ok is a choice; done is a state; $share and settings are several words.
# shellcheck disable=SC2015,SC1010,SC2046,SC2086,SC2030,SC2031
set -u
[ -n "${NS_FULL:-}" ] || { echo "SKIP: long (NS_FULL=1 runs it)"; exit 77; }
root=$(cd "$(dirname "$0")/../.." && pwd)
# shellcheck source=tests/jobs/lib.sh
. "$root/tests/jobs/lib.sh"
export DIR=$dir/slurm
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
# ---- 200 jobs ----
is "a chain of 200 jobs" 0 "200 jobs" "$ns" train $share --expname=long --output_dir=/workspace/long --disable_wandb --num_training_jobs=199 $(settings 10 5)
[ "$(squeue -h -t PD,R -o %i | wc -l)" -ge 190 ] && ok "they are in the queue" || not_ok "in the queue: $(squeue -h | wc -l)"
is "is cancelled" 0 "jobs cancelled" "$ns" cancel long

# ---- a real limit; a lost node ----
is "a limit of one minute" 0 "" "$ns" train --cluster=slurm --expname=minute --output_dir=/workspace/minute --disable_wandb --average_steps= --time=00:01:00 $(settings 100000000 1000000)
until_state minute 0 stopped 90 && "$ns" status minute | grep -q 'stopped at its limit' && ok "stops by itself 20 s before it, saved" || not_ok "minute: $("$ns" status minute)"
"$ns" train --cluster=slurm --expname=lost --output_dir=/workspace/lost --disable_wandb --average_steps= $(settings 1500 100) >/dev/null 2>&1
until_state lost 0 running 30
sleep 4
node=$(squeue -h -t R -o %N | head -n 1)
scontrol update nodename="$node" state=down reason=test
sleep 1
scontrol update nodename="$node" state=resume 2>/dev/null # or it has come back by itself
until_state lost 0 done 120 && grep -q resumed "$work"/lost/training-logs/main_lost-sft-0_*_srun.log && ok "a job of a lost node is requeued and resumes" || not_ok "lost: $("$ns" status lost)"

# ---- a lost node, of a job that may not be put back ----
sed 's/^account.*/&\nsbatch_args: ["--no-requeue"]/' cluster_configs/slurm.yaml >cluster_configs/once.yaml
rm -f "$work/mended"
"$ns" run_cmd --cluster=once --num_gpus=0 --expname=gone 'until [ -e /workspace/mended ]; do sleep 0.2; done; echo gone >> /workspace/order' >/dev/null 2>&1
"$ns" run_cmd $share --num_gpus=0 --expname=gone2 --run_after=gone 'echo gone2 >> /workspace/order' >/dev/null 2>&1
until_state gone 0 running 30
sleep 1
node=$(squeue -h -t R -o %N | head -n 1)
scontrol update nodename="$node" state=down reason=test
until_state gone 0 lost 60 && until_state gone2 0 skipped 30 && "$ns" status gone | grep -q NODE_FAIL && ok "a job of a lost node that may not be requeued is lost, and says so; what is behind it is skipped" || not_ok "gone: $("$ns" status gone gone2)"
scontrol update nodename="$node" state=resume 2>/dev/null # or it has come back by itself
touch "$work/mended"
is "ns retry" 0 "2 jobs submitted again" "$ns" retry gone
until_state gone2 0 done 60 && [ "$(tr '\n' ' ' <"$work/order")" = "gone gone2 " ] && ok "completes it" || not_ok "gone: $("$ns" status gone gone2; cat "$work/order")"

# ---- a job that does not stop at its limit ----
"$ns" run_cmd $share --num_gpus=0 --expname=deaf --time=00:01:00 'trap "" USR1 TERM; while :; do sleep 1; done' >/dev/null 2>&1

# ---- the tunnel ----
if command -v /usr/sbin/sshd >/dev/null && command -v ssh-keygen >/dev/null; then
    mkdir -p "$dir/ssh" /run/sshd
    ssh-keygen -q -t ed25519 -N '' -f "$dir/ssh/host" && ssh-keygen -q -t ed25519 -N '' -f "$dir/ssh/id" && cp "$dir/ssh/id.pub" "$dir/ssh/keys"
    chmod 700 "$dir" "$dir/ssh"
    chmod 600 "$dir/ssh/keys"
    printf 'ListenAddress 127.0.0.1\nPort %s\nHostKey %s/ssh/host\nAuthorizedKeysFile %s/ssh/keys\nPidFile none\nStrictModes no\nPermitRootLogin yes\nUsePAM no\nSetEnv SLURM_CONF=%s\n' \
        $(($(cat "$DIR/port") + 5)) "$dir" "$dir" "$SLURM_CONF" >"$dir/ssh/config"
    /usr/sbin/sshd -D -f "$dir/ssh/config" >"$dir/ssh/log" 2>&1 &
    sshd_pid=$!
    sleep 0.5
    # the tunnel's ssh takes its port and known hosts from a program of that name in front of $PATH
    mkdir -p "$dir/bin"
    printf '#!/bin/sh\nexec /usr/bin/ssh -p %s -o UserKnownHostsFile=%s -o StrictHostKeyChecking=accept-new "$@"\n' $(($(cat "$DIR/port") + 5)) "$dir/ssh/known" >"$dir/bin/ssh"
    chmod +x "$dir/bin/ssh"
    sed "s|^account.*|ssh_tunnel: {host: 127.0.0.1, user: root, job_dir: $dir/remote jobs, identity: $dir/ssh/id}|" cluster_configs/slurm.yaml >cluster_configs/tunnel.yaml
    for bin in "$NS_HOME"/bin/*/bin; do head -c 80000000 /dev/zero >"$bin/ballast"; done # as large as the plug-in for all GPUs
    is "submission through ssh" 0 "experiment far_" env PATH="$dir/bin:$PATH" SLURM_CONF=/nowhere "$ns" run_cmd --cluster=tunnel --not_exclusive --num_gpus=0 --expname=far "echo far 'it is' > /workspace/far.txt; ns --version >> /workspace/far.txt"
    (
        PATH=$dir/bin:$PATH SLURM_CONF=/nowhere
        export PATH SLURM_CONF
        until_state far 0 done 30
    ) && grep -q 'far it is' "$work/far.txt" && grep -q '^ns ' "$work/far.txt" && ok "runs behind it, with the copied program" || not_ok "far: $(PATH="$dir/bin:$PATH" "$ns" status far)"
    far_bin=$(echo "$dir/remote jobs"/bin/*/bin)
    [ "$(stat -c %s "$far_bin/ballast")" = 80000000 ] && [ -z "$(ls -d "$dir/remote jobs"/bin/*.part.* 2>/dev/null)" ] &&
        ok "the program came whole" || not_ok "the program there: $(ls -l "$far_bin" "$dir/remote jobs"/bin)"
    is "ns logs reads behind it" 0 "==> far:" env PATH="$dir/bin:$PATH" "$ns" logs far
    printf '%s\n' '{"predicted_answer": "2", "is_correct": true}' >"$work/output.jsonl"
    is "ns summarize_results reads behind it" 0 "greedy          | 1           |          100.00% | 0.00%" env PATH="$dir/bin:$PATH" "$ns" summarize_results --cluster=tunnel /workspace
    [ -s "$work/metrics.json" ] && ok "and leaves metrics.json there" || not_ok "metrics: $(ls "$work")"
    is "a submission that waits behind it" 0 "" env PATH="$dir/bin:$PATH" SLURM_CONF=/nowhere "$ns" run_cmd --cluster=tunnel --not_exclusive --num_gpus=0 --expname=far2 sleep 100
    mkdir -p "$dir/broken"
    printf '#!/bin/sh\necho "ssh: connect to host: Connection refused" >&2\nexit 255\n' >"$dir/broken/ssh"
    chmod +x "$dir/broken/ssh"
    is "status over an ssh that fails says so" 1 "ssh to root@127.0.0.1 failed: ssh: connect to host: Connection refused" env PATH="$dir/broken:$PATH" "$ns" status far2
    is "cancel, too" 1 "ssh to root@127.0.0.1 failed" env PATH="$dir/broken:$PATH" "$ns" cancel far2
    is "and works again" 0 "1 job cancelled" env PATH="$dir/bin:$PATH" SLURM_CONF=/nowhere "$ns" cancel far2
    is "ssh that fails is named" 1 "ssh to nobody@127.0.0.1 failed" env PATH="$dir/bin:$PATH" "$ns" run_cmd --cluster="$(sed 's/user: root/user: nobody/' cluster_configs/tunnel.yaml >cluster_configs/tunnel2.yaml; echo tunnel2)" true
else
    echo "SKIP: sshd is not installed: the tunnel is not tested"
fi

until_state deaf 0 failed 120 && "$ns" status deaf | grep -q TIMEOUT && ok "a job that does not stop at its limit is ended by Slurm, and status says TIMEOUT" || not_ok "deaf: $("$ns" status deaf)"

# ---- Slurm down ----
"$ns" run_cmd $share --num_gpus=0 --expname=waits sleep 300 >/dev/null 2>&1
kill "$(cat "$DIR/run/slurmctld.pid")"
sleep 1
is "a controller that is down is named" 1 "Slurm" timeout 150 "$ns" run_cmd $share --num_gpus=0 --expname=down true
is "status, too" 1 "Slurm does not answer" timeout 150 "$ns" status waits
is "ended jobs are known without it" 0 " done " "$ns" status gone2
slurmctld
until_state waits 0 running 60 && ok "when it is back, the job is still known" || not_ok "waits: $("$ns" status waits)"
is "and can be cancelled" 0 "1 job cancelled" "$ns" cancel waits
exit $fails
