#!/bin/sh
# Optimiser state in bf16: the plan states its bytes, a killed run resumes bit for bit, ranks round alike, checkpoints of one form go on in
# another and say so, what cannot be is refused. Tiny random model, real commands.
set -u
root=$(cd "$(dirname "$0")/../.." && pwd)
# shellcheck source=tests/lib.sh
. "$root/tests/lib.sh"

small_model "$dir" 100

# run VERB OUT [more settings]
run() {
    verb=$1 out=$2
    shift 2
    ${prefix:-} "$ns" "$verb" ++model.restore_from_path="$dir/base" ++model.data.train_ds.file_path="$dir/rows.jsonl" ++exp_manager.explicit_log_dir="$out" \
        ++model.data.train_ds.global_batch_size=16 ++model.data.train_ds.micro_batch_size=2 ++trainer.sft.max_steps=12 ++trainer.sft.max_epochs=100 \
        ++trainer.sft.save_interval=4 ++trainer.sft.gradient_clip_val=1.0 ++model.optim.lr=1e-3 ++model.optim.sched.min_lr=1e-4 \
        ++model.optim.sched.warmup_steps=3 "$@" >>"$out.log" 2>&1
}
final() { sed -n 's/.*"step": 12, "loss": \([^,]*\),.*/\1/p' "$1/metrics.jsonl"; }
near() { awk -v a="$(final "$1")" -v b="$(final "$2")" -v l="$3" 'BEGIN { d = (a > b ? a - b : b - a) / b; printf "# %g against %g\n", a, b; exit !(b > 0 && d <= l) }'; }

moments="++model.optim.exp_avg_dtype=bf16 ++model.optim.exp_avg_sq_dtype=bf16"
all="$moments ++model.optim.main_params_dtype=bf16"
try() { # FORM BYTES SETTINGS...
    form=$1 bytes=$2
    shift 2
    run plan "$dir/plan-$form" "$@" || fail "plan $form: $(why "$dir/plan-$form.log")"
    grep -q "^optimizer  $bytes bytes a parameter" "$dir/plan-$form.log" || fail "plan $form: $(grep optimizer "$dir/plan-$form.log")"
    run sft "$dir/$form" "$@" || fail "$form: $(why "$dir/$form.log")"
    (
        prefix="exec"
        run sft "$dir/$form-killed" "$@"
    ) &
    pid=$!
    n=0
    while [ $n -lt 3000 ]; do
        c=$(grep -c '"loss"' "$dir/$form-killed/metrics.jsonl" 2>/dev/null || true)
        [ "${c:-0}" -ge 6 ] && break
        kill -0 $pid 2>/dev/null || break
        n=$((n + 1))
        sleep 0.01
    done
    kill -9 $pid 2>/dev/null
    wait $pid 2>/dev/null
    run sft "$dir/$form-killed" "$@" || fail "$form, resumed: $(why "$dir/$form-killed.log")"
    same "$dir/$form" "$dir/$form-killed" || fail "$form: after kill -9 and resume the result differs"
    echo "ok $form: $bytes bytes a parameter, killed and resumed bit for bit"
}
try exact 16
# shellcheck disable=SC2086
try moments 12 $moments
# shellcheck disable=SC2086
try all 10 $all
# shellcheck disable=SC2086
try all32 12 $moments ++trainer.precision=32
near "$dir/moments" "$dir/exact" 0.02 || fail "bf16 moments give another loss"
near "$dir/all" "$dir/exact" 0.05 || fail "all bf16 gives another loss"
size() { cat "$1"/checkpoints/*step=12*-last/optimizer/rank00000.safetensors | wc -c; }
[ "$(size "$dir/all")" -lt $(($(size "$dir/exact") * 6 / 10)) ] || fail "all bf16: $(size "$dir/all") bytes of state, exact: $(size "$dir/exact")"
echo "ok the losses of the forms are near each other"

# shellcheck disable=SC2086
NS_THREADS=1 run sft "$dir/one-thread" $all || fail "one thread: $(why "$dir/one-thread.log")"
same "$dir/all" "$dir/one-thread" || fail "one thread gives another result"
echo "ok one thread gives the same bits"

mkdir "$dir/to-exact" "$dir/to-all"
cp -r "$dir/all/." "$dir/to-exact"
run sft "$dir/to-exact" ++trainer.sft.max_steps=14 || fail "bf16 state into an exact run: $(why "$dir/to-exact.log")"
grep -q 'was saved with model.optim.main_params_dtype=bf16, now fp32: converted (exact)' "$dir/to-exact.log" || fail "the conversion is not named: $(cat "$dir/to-exact.log")"
cp -r "$dir/exact/." "$dir/to-all"
# shellcheck disable=SC2086
run sft "$dir/to-all" $all ++trainer.sft.max_steps=14 || fail "exact state into a bf16 run: $(why "$dir/to-all.log")"
[ "$(grep -c 'rounded to the nearest bf16' "$dir/to-all.log")" = 3 ] || fail "the conversions are not named: $(cat "$dir/to-all.log")"
echo "ok a checkpoint of another form is converted, and it is said"

run sft "$dir/bad" ++trainer.precision=32 ++model.optim.main_params_dtype=bf16 && fail "main_params_dtype=bf16 with precision=32 runs"
grep -q 'the weights themselves are fp32' "$dir/bad.log" || fail "the refusal: $(tail -2 "$dir/bad.log")"
# shellcheck disable=SC2086
run sft "$dir/bad2" $all ++trainer.devices=2 ++model.tensor_model_parallel_size=2 && fail "tensor parallel with bf16 state runs"
grep -q 'would depend on the layout' "$dir/bad2.log" || fail "the refusal: $(tail -2 "$dir/bad2.log")"
echo "ok what cannot be is refused"
