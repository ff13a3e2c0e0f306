#!/usr/bin/env bash
# What a cluster has besides a queue, on a real Slurm of two nodes: ns doctor --cluster, ranks under srun (4 on 2 nodes, tensor parallel, Open
# MPI by PMIx), container runtimes (stand-ins that mount for real), the accounting database.
# A verdict line cannot fail, so A && ok || not_ok is a choice; $share and settings are several words; done is a state.
# shellcheck disable=SC2015,SC2086,SC2046,SC1010,SC2016,SC2154
set -u
root=$(cd "$(dirname "$0")/../.." && pwd)
# shellcheck source=tests/jobs/lib.sh
. "$root/tests/jobs/lib.sh"
export DIR=$dir/slurm DBD=1
trap 'bash "$root/dev/slurm_cluster.sh" down; [ -z "$small_disk" ] || umount "$work/full"; rm -rf "$dir"' EXIT
work="$dir/work dir"
mkdir -p "$DIR" "$work/full"
small_disk=$(mount -t tmpfs -o size=64k tmpfs "$work/full" 2>/dev/null && echo 1) # before the nodes start: they have mounts of their own
if ! bash "$root/dev/slurm_cluster.sh" up; then
    bash "$root/dev/slurm_cluster.sh" down # the database alone may have come up
    DBD=0
    bash "$root/dev/slurm_cluster.sh" up || exit 77
fi
export SLURM_CONF=$DIR/etc/slurm.conf NS_THREADS=1
small_model "$work"
mkdir -p "$dir/run/cluster_configs" "$dir/bin"
cd "$dir/run" || exit 1
cluster() { # NAME [LINE...]: a cluster file
    printf 'executor: slurm\naccount: acct\npartition: main\nmounts: ["%s:/workspace"]\n' "$work" >"cluster_configs/$1.yaml"
    for line in "${@:2}"; do echo "$line" >>"cluster_configs/$1.yaml"; done
}
cluster slurm
share="--cluster=slurm --not_exclusive"

# ---- ns doctor --cluster ----
is "ns doctor --cluster" 0 "2, started by srun, met at n1:" "$ns" doctor --cluster=slurm --num_gpus=1
for want in 'n1 .*ok *program ' 'n2 .*ok *program ' 'n1 .*ok *GPUs *1 visible' 'n2 .*ok *GPUs *1 visible' "n2 .*ok *mount *$work: writable" 'n1 .*limits *open files' 'The cluster can run jobs'; do
    grep -q "$want" "$dir/out" && ok "says: $want" || not_ok "doctor does not say '$want': $(cat "$dir/out")"
done
cluster nomount
sed -i "s|^mounts.*|mounts: [\"/nowhere/at/all:/data\"]|" cluster_configs/nomount.yaml
is "a mount that the nodes do not have" 1 "bad   mount      /nowhere/at/all" "$ns" doctor --cluster=nomount
cluster nogpu 'disable_gpus_per_node: true'
is "fewer GPUs than asked for" 1 "bad   GPUs       0 visible, 2 asked for" "$ns" doctor --cluster=nogpu --num_nodes=1 --num_gpus=2
is "the same on this machine" 0 "ok    program" "$ns" doctor --cluster="$(printf 'executor: local\n' >here.yaml; echo here.yaml)"

# ---- ranks: 2 nodes x 2 GPUs, tensor parallel 2 as documented, over Open MPI where the plug-in is ----
plugin=$(dirname "$ns")/libns_mpi.so
if [ -f "$plugin" ] && srun --mpi=list 2>&1 | grep -q pmix; then
    cluster ranks 'srun_args: ["--mpi=pmix"]'
    # Open MPI keeps some memory to the end
    is "Open MPI under srun" 0 "tensors by mpi" env ASAN_OPTIONS="${ASAN_OPTIONS:-}:detect_leaks=0" "$ns" doctor --cluster=ranks --num_gpus=2
else
    echo "SKIP: no libns_mpi.so or no PMIx in this Slurm: ranks talk over TCP"
    cluster ranks
fi
is "four ranks on two nodes" 0 "" "$ns" train --cluster=ranks --expname=four --output_dir=/workspace/four --disable_wandb --num_nodes=2 --wait $(settings 12 6 2)
grep -q '^ranks *4 = tensor 2 x context 1 .*data 2' "$work"/four/training-logs/main_four-sft-0_*_srun.log && ok "are tensor 2 x data 2" || not_ok "ranks: $(grep ranks "$work"/four/training-logs/*)"
"$ns" sft trainer.devices=4 ++model.tensor_model_parallel_size=2 ++model.restore_from_path="$work/base" ++model.data.train_ds.file_path="'$work/rows.jsonl'" \
    ++exp_manager.explicit_log_dir="'$dir/straight/training'" $(settings 12 6 | tr ' ' '\n' | grep '^++') >"$dir/straight.log" 2>&1 &&
    "$ns" average --input "$dir/straight" --output "$dir/straight/model" --to nemo >/dev/null || not_ok "the straight run: $(tail -n 3 "$dir/straight.log")"
same_model "$work/four/model-averaged-nemo" "$dir/straight/model" && ok "their model is that of four ranks on one machine, bit for bit" || not_ok "models differ"

# ---- containers: only where a runtime is configured, only for programs that are not ours ----
if unshare -m true 2>/dev/null && chroot / true 2>/dev/null; then
    for name in srun apptainer; do
        ln -s "$root/tests/jobs/fake_container.sh" "$dir/bin/$name"
    done
    export FAKE_CALLS=$dir/calls
    for runtime in pyxis apptainer; do
        : >"$FAKE_CALLS"
        cluster $runtime "container_runtime: $runtime" 'containers: {nemo: "nvcr.io/nemo:1", nemo-skills: /images/ns.sqsh}'
        is "$runtime: a foreign program runs in its image" 0 "runs in the image nvcr.io/nemo:1 ($runtime)" env PATH="$dir/bin:$PATH" "$ns" run_cmd --cluster=$runtime --not_exclusive --num_gpus=0 \
            --container=nemo --expname="in $runtime" --wait 'pwd >/workspace/where; ls -d /workspace/base /nemo_run/code/cluster_configs >>/workspace/where; echo "$FAKE_IMAGE" >>/workspace/where'
        tr '\n' ' ' <"$work/where" >"$dir/where"
        grep -q '^/nemo_run/code /nemo_run/code/cluster_configs /workspace/base .*nvcr.io/nemo:1 $' "$dir/where" && ok "with the mounts and the folder of the code" || not_ok "where: $(cat "$dir/where"; "$ns" logs "in $runtime")"
        is "$runtime: our verbs run natively" 0 "" env PATH="$dir/bin:$PATH" "$ns" run_cmd --cluster=$runtime --not_exclusive --num_gpus=0 --wait python -m nemo_skills.training.prepare_data --help
        [ "$(wc -l <"$FAKE_CALLS")" = 1 ] && ok "outside of it" || not_ok "calls: $(cat "$FAKE_CALLS")"
    done
    grep -q -- "--bind $work:/workspace --bind " "$FAKE_CALLS" || grep -q -- "--bind .*work dir:/workspace" "$FAKE_CALLS" && ok "apptainer was given the binds" || not_ok "calls: $(cat "$FAKE_CALLS")"
    is "a role without an image" 2 "did you mean nemo?" "$ns" run_cmd --cluster=pyxis --container=nemoo ls
    cluster none 'containers: {nemo: "nvcr.io/nemo:1"}'
    : >"$FAKE_CALLS"
    is "without a runtime images are not used, and said once" 0 "containers are not used" env PATH="$dir/bin:$PATH" "$ns" run_cmd --cluster=none --not_exclusive --num_gpus=0 --container=nemo --wait ls /workspace/base
    [ "$(grep -c 'containers are not used' "$dir/out")$(cat "$FAKE_CALLS")" = 1 ] && ok "once" || not_ok "said: $(cat "$dir/out" "$FAKE_CALLS")"
    printf 'executor: local\ncontainer_runtime: pyxis\n' >cluster_configs/wrong.yaml
    is "pyxis needs Slurm" 2 "use apptainer" "$ns" run_cmd --cluster=wrong ls
else
    echo "SKIP: this machine does not allow chroot in a mount namespace: containers are not tested"
fi

# ---- sbatch_args and setup ----
cluster keys "sbatch_args: [\"--comment='by us'\", \"--mem-per-cpu=100\"]" 'setup: ["export FROM_SETUP=yes", "ulimit -n 4096"]'
is "sbatch_args and setup" 0 "" "$ns" run_cmd --cluster=keys --not_exclusive --num_gpus=0 --expname=keys --wait 'echo "$FROM_SETUP $(ulimit -n)" >/workspace/setup.txt; scontrol show job $SLURM_JOB_ID >/workspace/job.txt'
[ "$(cat "$work/setup.txt")" = "yes 4096" ] && grep -q 'Comment=by us' "$work/job.txt" && grep -q 'MinMemoryCPU=100M' "$work/job.txt" && ok "reach the job" || not_ok "setup: $(cat "$work/setup.txt" "$work/job.txt")"

# ---- a full disk under the logs ----
if [ -n "$small_disk" ]; then
    printf 'executor: local\nmounts: ["%s:/workspace"]\n' "$work" >cluster_configs/local.yaml
    rm -f "$work/go"
    for where in local slurm; do
        "$ns" run_cmd --cluster=$where --not_exclusive --num_gpus=0 --expname="full-$where" --log_dir="/workspace/full/$where" "touch /workspace/begun-$where; "'until [ -e /workspace/go ]; do sleep 0.1; done; seq 100000; touch "/workspace/ran-$$"; exit 5' >/dev/null 2>&1
        wait_for 30 test -e "$work/begun-$where"
    done
    "$ns" run_cmd $share --num_gpus=0 --expname=full-later --log_dir=/workspace/full/later --run_after=full-slurm true >/dev/null 2>&1
    dd if=/dev/zero of="$work/full/x" bs=1k count=100 2>/dev/null
    is "a log folder on a full disk is refused at submission" 1 "its disk is full" "$ns" run_cmd $share --log_dir=/workspace/full/local true
    is "a store on a full disk, too" 1 "No space left on device" env NS_HOME="$work/full/home" "$ns" run_cmd $share true
    touch "$work/go"
    for where in local slurm; do
        until_state "full-$where" 0 failed 60 && "$ns" status "full-$where" | grep -q "exit code 5; the disk of the log folder $work/full/$where is full" && ok "$where: a job under which the disk fills up runs to its end, and its status says why there is no log" || not_ok "full: $("$ns" status "full-$where")"
    done
    [ "$(find "$work" -name 'ran-*' | wc -l)" = 2 ] && ok "both ran to their ends" || not_ok "ran: $(ls "$work")"
else
    echo "SKIP: no tmpfs can be mounted here: a full disk is not tested"
fi

# ---- the accounting database ----
if [ "$DBD" = 1 ]; then
    "$ns" run_cmd $share --num_gpus=0 --expname=good true >/dev/null 2>&1
    "$ns" run_cmd $share --num_gpus=0 --expname=next --run_after=good 'exit 3' >/dev/null 2>&1
    "$ns" run_cmd $share --num_gpus=0 --expname=killed 'touch /workspace/up; sleep 300' >/dev/null 2>&1
    wait_for 30 test -e "$work/up"
    scancel --full --signal=KILL "$("$ns" status --json killed | grep -o '"job": "[0-9]*"' | grep -o '[0-9]*')"
    until_state next 0 failed 60 && ok "a job ends with its own exit code"
    id() { "$ns" status --json "$1" | grep -o '"job": "[0-9]*"' | grep -o '[0-9]*'; }
    seen=""
    for _ in $(seq 150); do # the database is written behind
        seen=$(sacct -n -X -P -j "$(id good),$(id next),$(id killed)" -o State,ExitCode | tr '\n' ' ')
        case $seen in *RUNNING* | *PENDING*) ;; *"|"*"|"*"|"*) break ;; esac
        sleep 0.2
    done
    case $seen in "COMPLETED|0:0 FAILED|3:0 "*) ok "sacct: $seen" ;; *) not_ok "sacct: $seen" ;; esac
    printf '#!/bin/sh\nexit 0\n' >"$dir/bin/squeue" # it has forgotten everything
    chmod +x "$dir/bin/squeue"
    cp -r "$NS_HOME" "$dir/other-home"
    is "a job that squeue has forgotten, without a mark" 0 "killed" env PATH="$dir/bin:$PATH" NS_HOME="$dir/other-home" "$ns" status killed
    grep -qE ' (failed|cancelled) ' "$dir/out" && ok "is known from the database" || not_ok "killed: $(cat "$dir/out")"
    rm "$dir/bin/squeue"
else
    echo "SKIP: slurmdbd and MariaDB do not run here: sacct is not tested"
fi
exit $fails
