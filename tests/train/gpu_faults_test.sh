#!/bin/sh
# Ranks that are lost while their GPUs exchange by NCCL: kill -9, SIGSTOP, and a rank whose host stands still though it still says that it
# lives. Each is named in time, the others end by themselves, no process is left, and the run goes on from its checkpoint.
# On a machine with two GPUs; elsewhere skipped.
set -u
root=$(cd "$(dirname "$0")/../.." && pwd)
# shellcheck source=tests/lib.sh
. "$root/tests/lib.sh"
if [ "$(nvidia-smi -L 2>/dev/null | wc -l)" -lt 2 ]; then
    echo "SKIP: no two GPUs here: lost GPU ranks are not tested"
    exit 77
fi
export NS_THREADS=2
cat >"$dir/config.json" <<'JSON'
{"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 8,
 "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 64, "vocab_size": 1026, "max_position_embeddings": 512, "rms_norm_eps": 1e-5,
 "rope_theta": 10000.0, "tie_word_embeddings": false, "hidden_act": "silu", "torch_dtype": "bfloat16", "initializer_range": 0.05}
JSON
sums 400 long >"$dir/rows.jsonl"
tiny_init "$dir/base"

# sft OUT TP DP STEPS [more settings]
sft() {
    out=$dir/$1 tp=$2 dp=$3 steps=$4
    shift 4
    ${prefix:-} "$ns" sft ++model.restore_from_path="$dir/base" ++model.data.train_ds.file_path="$dir/rows.jsonl" ++exp_manager.explicit_log_dir="$out" \
        ++trainer.accelerator=gpu ++model.data.train_ds.global_batch_size=16 ++model.data.train_ds.micro_batch_size=2 \
        ++trainer.sft.max_steps="$steps" ++trainer.sft.max_epochs=100000 ++trainer.sft.save_interval=50 \
        ++exp_manager.checkpoint_callback_params.save_top_k=2 ++model.optim.lr=1e-4 ++model.tensor_model_parallel_size="$tp" \
        ++trainer.devices=$((tp * dp)) "$@" >>"$out.log" 2>&1
}
now() { date +%s.%N; }
since() { echo "$1 $(now)" | awk '{ printf "%.1f", $2 - $1 }'; }
ended() { ! kill -0 "$1" 2>/dev/null; }
far() { [ "$(steps "$1")" -ge 60 ] 2>/dev/null; }
# the main thread alone: the others, heartbeats among them, go on
stand_still() {
    python3 - "$1" <<'PY' &
import ctypes, os, sys, time
libc = ctypes.CDLL(None, use_errno=True)
libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
tid = int(sys.argv[1])
if libc.ptrace(0x4206, tid, None, None) or libc.ptrace(0x4207, tid, None, None):  # SEIZE, INTERRUPT
    sys.exit("ptrace: " + os.strerror(ctypes.get_errno()))
time.sleep(60)
PY
}

# lose NAME TP DP HOW WHICH SECONDS WORDS [more settings]: start, lose rank WHICH at step 60, see that it is named
lose() {
    name=$1 tp=$2 dp=$3 how=$4 which=$5 seconds=$6 words=$7
    shift 7
    (
        prefix="exec"
        sft "$name" "$tp" "$dp" 100000 "$@"
    ) &
    pid=$!
    wait_for 60 far "$name" || fail "$name: does not get to step 60: $(tail -3 "$dir/$name.log")"
    grep -q "travel by NCCL" "$dir/$name.log" || fail "$name: not by NCCL: $(grep travel "$dir/$name.log")"
    all=$(pgrep -P $pid | sort -n)
    victim=$(echo "$all" | sed -n "$((which + 1))p")
    other=$(echo "$all" | grep -v "^$victim$")
    began=$(now)
    case $how in
    kill) kill -9 "$victim" ;;
    stop) kill -STOP "$victim" ;;
    still) stand_still "$victim" ;;
    esac
    wait_for 70 ended "$other" || fail "$name: the other rank (pid $other) goes on: $(tail -3 "$dir/$name.log")"
    took=$(since "$began")
    if [ "$how" = stop ]; then kill -9 "$victim"; fi # whoever started it would, 40 s later
    wait_for 60 ended $pid || fail "$name: ns is still there"
    wait $pid && fail "$name: ends as if all were well"
    for p in $all; do kill -0 "$p" 2>/dev/null && fail "$name: process $p is left"; done
    # of rank 0, which hears of all others, nobody knows the step
    at=" at step .*"
    [ "$which" = 0 ] && at=
    grep -q "rank $which (.*, pid $victim)$at $words" "$dir/$name.log" || fail "$name: the lost rank is not named: $(tail -4 "$dir/$name.log")"
    echo "$took $seconds" | awk '{ exit !($1 <= $2) }' || fail "$name: the others ended after $took s, not within $seconds"
    echo "ok $name: named, the other rank ended after $took s"
}
resumes() {
    saved=$(find "$dir/$1/checkpoints" -name DONE | sed 's/.*step=\([0-9]*\).*/\1/' | sort -n | tail -1)
    sft "$1" "$2" "$3" $((saved + 10)) || fail "$1: does not resume: $(tail -3 "$dir/$1.log")"
    echo "ok $1 goes on from step $saved"
}

# all at once: most of the time is waiting. Not among them: a tensor-parallel rank that stands still; all end, but the other is named
begin() {
    (lose "$@") &
    runs="${runs:-} $!"
}
begin data-killed 1 2 kill 1 12 died
begin tensor-killed 2 1 kill 1 12 died
begin tensor-first-killed 2 1 kill 0 12 died
begin data-stopped 1 2 stop 1 15 "is silent"
begin tensor-stopped 2 1 stop 1 15 "is silent"
hangs=
if command -v python3 >/dev/null; then
    hangs=data-hangs
    begin data-hangs 1 2 still 1 25 "hangs" ++trainer.rank_hang_seconds=10
else
    echo "# no python3: a rank that stands still is not tested"
fi
bad=0
for run in $runs; do wait "$run" || bad=1; done
[ $bad = 0 ] || exit 1
resumes data-killed 1 2
resumes tensor-first-killed 2 1
resumes tensor-stopped 2 1
[ -z "$hangs" ] || resumes $hangs 1 2
