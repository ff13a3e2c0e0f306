#!/usr/bin/env bash
# Ranks started by srun on two nodes, by the variables of Slurm (tensors by TCP) and as ranks of Open MPI (--mpi=pmix, tensors by MPI):
# the checkpoints of a run that started its own ranks, bit for bit. The Slurm is this test's own (dev/slurm_cluster.sh).
# A verdict line cannot fail, so A && ok || not_ok is a choice.
# shellcheck disable=SC2015
set -u
root=$(cd "$(dirname "$0")/../.." && pwd)
# shellcheck source=tests/jobs/lib.sh
. "$root/tests/jobs/lib.sh"
export DIR=$dir/slurm
trap 'bash "$root/dev/slurm_cluster.sh" down; rm -rf "$dir"' EXIT
mkdir -p "$DIR"
bash "$root/dev/slurm_cluster.sh" up || exit 77
export SLURM_CONF=$DIR/etc/slurm.conf NS_THREADS=1 OMPI_MCA_btl_vader_single_copy_mechanism=none
small_model "$dir/model"
train() { # OUT RANKS_A_NODE NODES LAUNCHER...
    out=$1 devices=$2 nodes=$3
    shift 3
    "$@" "$ns" sft ++model.restore_from_path="$dir/model/base" ++model.data.train_ds.file_path="$dir/model/rows.jsonl" ++exp_manager.explicit_log_dir="$dir/$out" \
        ++model.data.train_ds.global_batch_size=8 ++model.data.train_ds.micro_batch_size=2 ++trainer.sft.max_steps=6 ++trainer.sft.save_interval=3 \
        ++model.tensor_model_parallel_size=2 ++trainer.devices="$devices" ++trainer.num_nodes="$nodes" >"$dir/$out.log" 2>&1 ||
        not_ok "$out: $(tail -n 3 "$dir/$out.log")"
    (cd "$dir/$out/checkpoints" && find . -type f | sort | xargs cksum) >"$dir/$out.sum"
}
train own 2 1 env
train slurm 1 2 srun -N 2 -n 2 --overcommit
cmp -s "$dir/own.sum" "$dir/slurm.sum" && ok "srun on two nodes: the checkpoints of a run with its own ranks" || not_ok "srun: $(diff "$dir/own.sum" "$dir/slurm.sum" | head -4)"
if [ ! -e "$(dirname "$ns")/libns_mpi.so" ] || ! srun --mpi=list 2>&1 | grep -q pmix; then
    echo "SKIP: Open MPI under srun (this build has no libns_mpi.so, or this Slurm no pmix)"
else
    export NS_TRANSPORT=mpi ASAN_OPTIONS="${ASAN_OPTIONS:-}:detect_leaks=0" # Open MPI keeps some memory to the end
    train pmix 1 2 srun -N 2 -n 2 --overcommit --mpi=pmix
    cmp -s "$dir/own.sum" "$dir/pmix.sum" && ok "Open MPI under srun --mpi=pmix gives the same" || not_ok "pmix: $(diff "$dir/own.sum" "$dir/pmix.sum" | head -4)"
fi
exit "$fails"
