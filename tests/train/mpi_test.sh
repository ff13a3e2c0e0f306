#!/bin/sh
# Ranks started by mpirun, talking by MPI and by TCP: the collectives, a training equal to one of our own launching bit for bit, a
# killed rank that is named.
set -u
root=$(cd "$(dirname "$0")/../.." && pwd)
# shellcheck source=tests/lib.sh
. "$root/tests/lib.sh"
build=$(cd "$(dirname "$ns")" && pwd)
mpirun=$(command -v mpirun.openmpi || command -v mpirun || true)
if [ -z "$mpirun" ]; then
    echo "SKIP: no mpirun (apt-get install openmpi-bin libopenmpi-dev)"
    exit 77
fi
if [ ! -e "$build/libns_mpi.so" ]; then
    echo "SKIP: this build has no libns_mpi.so (no mpicc when it was configured)"
    exit 77
fi
export NS_THREADS=1 OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 OMPI_MCA_btl_vader_single_copy_mechanism=none
export ASAN_OPTIONS="${ASAN_OPTIONS:-}:detect_leaks=0" # Open MPI keeps some memory to the end
ranks() { # N COMMAND...
    n=$1
    shift
    timeout 120 "$mpirun" --oversubscribe --bind-to none -n "$n" "$@"
}

for transport in mpi tcp; do
    export NS_TRANSPORT=$transport
    ranks 4 "$build/tests/comm_test" >"$dir/comm.log" 2>&1 || fail "collectives over $transport: $(why "$dir/comm.log")"
    grep -q "transport $transport" "$dir/comm.log" || fail "the ranks did not use $transport: $(why "$dir/comm.log")"
done
echo "ok collectives of 4 ranks over MPI and TCP"
unset NS_TRANSPORT

small_model "$dir" 100
# shellcheck disable=SC2086
train() { # OUT [LAUNCHER...]
    out=$1
    shift
    "$@" "$ns" sft ++model.restore_from_path="$dir/base" ++model.data.train_ds.file_path="$dir/rows.jsonl" ++exp_manager.explicit_log_dir="$out" \
        ++model.data.train_ds.global_batch_size=16 ++model.data.train_ds.micro_batch_size=2 ++trainer.sft.max_steps="${steps:-6}" \
        ++trainer.sft.max_epochs=1000 ++trainer.sft.save_interval="${every:-3}" ++trainer.devices=2 ${extra:-} >"$out.log" 2>&1
}
train "$dir/own" || fail "our own ranks: $(why "$dir/own.log")"
train "$dir/mpi" ranks 2 || fail "ranks of mpirun: $(why "$dir/mpi.log")"
for d in own mpi; do (cd "$dir/$d/checkpoints" && find . -type f | sort | xargs cksum) >"$dir/$d.sum"; done
cmp -s "$dir/own.sum" "$dir/mpi.sum" || fail "MPI and TCP give different checkpoints: $(diff "$dir/own.sum" "$dir/mpi.sum" | head -4)"
echo "ok a training over MPI is bit-equal to one over TCP"

extra="++model.context_parallel_size=2 ++model.cp_comm_type=p2p"
train "$dir/own-ring" || fail "a ring of our own ranks: $(why "$dir/own-ring.log")"
train "$dir/mpi-ring" ranks 2 || fail "a ring of mpirun's ranks: $(why "$dir/mpi-ring.log")"
for d in own-ring mpi-ring; do
    (cd "$dir/$d/checkpoints" && find . -type f | sort | xargs cksum) >"$dir/$d.sum"
    grep -q "on all ranks the bytes are those of the formula" "$dir/$d.log" || fail "$d: bytes sent: $(grep bytes "$dir/$d.log")"
done
cmp -s "$dir/own-ring.sum" "$dir/mpi-ring.sum" || fail "a ring over MPI and TCP: different checkpoints"
cmp -s "$dir/own.sum" "$dir/own-ring.sum" && fail "the ring was not there"
extra="++model.optim.overlap_grad_sync=True ++model.optim.overlap_param_sync=True"
train "$dir/behind" ranks 2 || fail "exchanges behind the computation: $(why "$dir/behind.log")"
(cd "$dir/behind/checkpoints" && find . -type f | sort | xargs cksum) >"$dir/behind.sum"
cmp -s "$dir/own.sum" "$dir/behind.sum" || fail "exchanges behind the computation over MPI: different checkpoints"
extra=""
echo "ok a ring of keys and values over MPI is bit-equal to one over TCP; exchanges of a second thread too"

steps=100000 every=-1 train "$dir/killed" "$mpirun" --oversubscribe --bind-to none -n 2 &
pid=$!
n=0
while [ "$(grep -c '"loss"' "$dir/killed/metrics.jsonl" 2>/dev/null || true)" -lt 5 ] 2>/dev/null || [ ! -e "$dir/killed/metrics.jsonl" ]; do
    n=$((n + 1))
    [ $n -gt 6000 ] && fail "the run to be killed does not start: $(why "$dir/killed.log")"
    sleep 0.01
done
kill -9 "$(pgrep -f "sft .*explicit_log_dir=$dir/killed " | tail -n 1)"
start=$(date +%s)
wait $pid && fail "a run that lost a rank ends with exit code 0"
[ $(($(date +%s) - start)) -le 10 ] || fail "the others took $(($(date +%s) - start)) s to stop"
grep -qE "rank [01] .*died|exited on signal 9" "$dir/killed.log" || fail "the dead rank is not named: $(tail -5 "$dir/killed.log")"
echo "ok a killed rank ends the run, named"

# a full disk under MPI, two stages: the rank that cannot write names the file, all end, the last complete checkpoint goes on
mkdir "$dir/small"
if ! mount -t tmpfs -o size=16m tmpfs "$dir/small" 2>/dev/null; then
    echo "SKIP: disk full under MPI: a small tmpfs cannot be mounted (needs root)"
    exit 0
fi
trap 'umount "$dir/small" 2>/dev/null; rm -rf "$dir"' EXIT
full() {
    timeout 120 "$mpirun" --oversubscribe --bind-to none -n 2 "$ns" sft ++model.restore_from_path="$dir/base" ++model.data.train_ds.file_path="$dir/rows.jsonl" \
        ++exp_manager.explicit_log_dir="$dir/small/out" ++model.data.train_ds.global_batch_size=16 ++model.data.train_ds.micro_batch_size=2 \
        ++trainer.sft.max_steps=40 ++trainer.sft.max_epochs=1000 ++trainer.sft.save_interval=1 ++exp_manager.checkpoint_callback_params.save_top_k=-1 \
        ++exp_manager.checkpoint_callback_params.keep_optimizer=100 ++model.pipeline_model_parallel_size=2 ++trainer.devices=2 >"$dir/full.log" 2>&1
}
full && fail "a run on a full disk ends with exit code 0"
grep -q 'No space left on device' "$dir/full.log" || fail "the message: $(head -5 "$dir/full.log")"
last=$(find "$dir/small/out/checkpoints" -maxdepth 1 -name '*-last' | sed 's/.*step=\([0-9]*\)-.*/\1/' | sort -n | tail -1)
[ -n "$last" ] || fail "no complete checkpoint is left"
find "$dir/small/out/checkpoints" -maxdepth 1 -name '*step=*epoch=*' ! -name '*-last' -exec rm -rf {} +
full
grep -q "resumed .*step $last of 40" "$dir/full.log" || fail "resumes from step $last: $(grep -E 'resumed|error|ns sft' "$dir/full.log" | head -3)"
echo "ok a full disk under MPI is one clear line on all ranks; the run resumes from step $last"
