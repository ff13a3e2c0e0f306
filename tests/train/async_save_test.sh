#!/bin/sh
# async_save: the checkpoints are those of a run that waits for them, bit for bit; kill -9 and resume, SIGTERM and a failed write keep the
# promises of a save; the stall and the time to write are in metrics.jsonl. Tiny random model, real commands.
set -u
root=$(cd "$(dirname "$0")/../.." && pwd)
# shellcheck source=tests/lib.sh
. "$root/tests/lib.sh"
trap 'umount "$dir/small" 2>/dev/null; rm -rf "$dir"' EXIT

small_model "$dir" 100

# run VERB OUT [more settings]
run() {
    verb=$1 out=$2
    shift 2
    ${prefix:-} "$ns" "$verb" ++model.restore_from_path="$dir/base" ++model.data.train_ds.file_path="$dir/rows.jsonl" ++exp_manager.explicit_log_dir="$out" \
        ++model.data.train_ds.global_batch_size=16 ++model.data.train_ds.micro_batch_size=2 ++trainer.sft.max_steps=20 ++trainer.sft.max_epochs=100 \
        ++trainer.sft.save_interval=2 ++trainer.sft.gradient_clip_val=1.0 ++model.optim.lr=1e-3 ++model.hidden_dropout=0.1 "$@" >>"$dir/${out##*/}.log" 2>&1
}
async=++exp_manager.checkpoint_callback_params.async_save=True
small="++model.optim.main_params_dtype=bf16 ++model.optim.exp_avg_dtype=bf16 ++model.optim.exp_avg_sq_dtype=bf16"

run plan "$dir/plan" $async || fail "plan: $(why "$dir/plan.log")"
grep -q '^async save .* MB of host memory for a copy of the state' "$dir/plan.log" || fail "the plan names the copy: $(cat "$dir/plan.log")"
for form in exact bf16 fp32; do
    settings=
    [ $form = bf16 ] && settings=$small
    [ $form = fp32 ] && settings=++trainer.precision=32
    # shellcheck disable=SC2086
    run sft "$dir/wait-$form" $settings || fail "$form: $(why "$dir/wait-$form.log")"
    # shellcheck disable=SC2086
    run sft "$dir/async-$form" $async $settings || fail "$form, async: $(why "$dir/async-$form.log")"
    same "$dir/wait-$form" "$dir/async-$form" || fail "$form: another thread writes other checkpoints"
done
[ "$(grep -c '"save_stall": .*"save_time": ' "$dir/async-exact/metrics.jsonl")" = 10 ] || fail "stall and time of 10 saves: $(grep save "$dir/async-exact/metrics.jsonl")"
[ "$(grep -c '"save_stall": ' "$dir/wait-exact/metrics.jsonl")" = 10 ] || fail "stall of 10 saves without async_save"
echo "ok checkpoints written beside the steps are the same, bit for bit, in three forms"

kills=0
n_kills=6
[ -n "${NS_FULL:-}" ] && n_kills=40
while [ $kills -lt $n_kills ]; do
    (
        prefix="exec"
        run sft "$dir/killed" $async
    ) &
    pid=$!
    sleep "0.$(awk -v n=$kills 'BEGIN { srand(n); printf "%03d", 20 + rand() * 300 }')"
    kill -9 $pid 2>/dev/null
    wait $pid 2>/dev/null
    kills=$((kills + 1))
done
run sft "$dir/killed" $async || fail "resume after kill -9: $(why "$dir/killed.log")"
for d in "$dir"/wait-exact/checkpoints/*-last; do cmp "$d/optimizer/rank00000.safetensors" "$dir/killed/checkpoints/${d##*/}/optimizer/rank00000.safetensors" || fail "killed $kills times, the result differs"; done
echo "ok killed $kills times, resumed: the last checkpoint is the same"

(
    prefix="exec"
    run sft "$dir/signal" $async
) &
pid=$!
while [ ! -s "$dir/signal/metrics.jsonl" ] && kill -0 $pid 2>/dev/null; do sleep 0.01; done
kill -TERM $pid
wait $pid
last=$(find "$dir/signal/checkpoints" -maxdepth 1 -name '*-last')
[ -f "$last/DONE" ] || fail "SIGTERM: no complete checkpoint: $(ls "$dir/signal/checkpoints")"
grep -q 'Resume with the same command' "$dir/signal.log" || echo "# it had finished before the signal"
[ -z "$(find "$dir/signal/checkpoints" -maxdepth 1 -name '.*.tmp')" ] || fail "SIGTERM leaves a half-written checkpoint"
echo "ok SIGTERM waits for the write"

run sft "$dir/ranks" $async ++trainer.devices=2 && fail "two ranks with async_save run"
grep -q 'async_save=True with 2 ranks' "$dir/ranks.log" || fail "the refusal: $(tail -2 "$dir/ranks.log")"
echo "ok several ranks are refused"

mkdir "$dir/small"
if ! mount -t tmpfs -o size=8m tmpfs "$dir/small" 2>/dev/null; then
    echo "SKIP: a small tmpfs for the failed write cannot be mounted (needs root)"
    exit 0
fi
run sft "$dir/small/out" $async ++exp_manager.checkpoint_callback_params.save_top_k=-1 ++exp_manager.checkpoint_callback_params.keep_optimizer=100
rc=$?
if [ $rc -eq 0 ] || [ $rc -ge 126 ]; then fail "exit $rc on a full disk: $(tail -2 "$dir/out.log")"; fi
grep -q 'No space left on device' "$dir/out.log" || fail "the message: $(tail -2 "$dir/out.log")"
last=$(find "$dir/small/out/checkpoints" -maxdepth 1 -name '*-last')
[ -f "$last/DONE" ] || fail "the last complete checkpoint is gone: $(ls -a "$dir/small/out/checkpoints")"
echo "ok a failed write ends the run with one clear line, and the checkpoint before it stays"
