#!/bin/sh
# The run you resumed is the run you started: 20 steps straight == 11 steps + kill -9 + resume, bit for bit; a repeated run
# is bit-equal; a run stopped four times by its time limit averages to the same model. Tiny random model, real commands.
set -u
root=$(cd "$(dirname "$0")/../.." && pwd)
# shellcheck source=tests/lib.sh
. "$root/tests/lib.sh"

small_model "$dir"

# sft OUT [more settings]; with prefix=exec in the background, $! is the program itself
sft() {
    out=$1
    shift
    ${prefix:-} "$ns" sft ++model.restore_from_path="$dir/base" ++model.data.train_ds.file_path="$dir/rows.jsonl" ++exp_manager.explicit_log_dir="$out" \
        ++model.data.train_ds.global_batch_size=16 ++model.data.train_ds.micro_batch_size=2 ++trainer.sft.max_steps=20 ++trainer.sft.max_epochs=100 \
        ++trainer.sft.save_interval=5 ++trainer.sft.gradient_clip_val=1.0 ++model.optim.lr=1e-3 ++model.optim.sched.min_lr=1e-4 \
        ++model.optim.sched.warmup_steps=3 ++model.hidden_dropout=0.1 ++model.attention_dropout=0.1 "$@" >>"$out.log" 2>&1
}

sft "$dir/straight" || fail "straight run: $(why "$dir/straight.log")"
[ "$(grep -c '"loss"' "$dir/straight/metrics.jsonl")" = 20 ] || fail "20 steps in metrics.jsonl"
echo "ok a run of 20 steps"

sft "$dir/again" || fail "repeated run: $(why "$dir/again.log")"
same "$dir/straight" "$dir/again" || fail "a repeated run differs"
NS_THREADS=1 sft "$dir/one-thread" || fail "one thread: $(why "$dir/one-thread.log")"
same "$dir/straight" "$dir/one-thread" || fail "one thread gives another result"
echo "ok a repeated run is bit-equal, on one thread too"

(
    prefix="exec"
    sft "$dir/killed"
) &
pid=$!
n=0
while [ "$(grep -c '"loss"' "$dir/killed/metrics.jsonl" 2>/dev/null || true)" != 11 ] && [ $n -lt 3000 ]; do
    c=$(grep -c '"loss"' "$dir/killed/metrics.jsonl" 2>/dev/null || true)
    [ "${c:-0}" -gt 11 ] && break
    kill -0 $pid 2>/dev/null || break
    n=$((n + 1))
    sleep 0.01
done
kill -9 $pid 2>/dev/null
wait $pid 2>/dev/null
[ "$(grep -c '"loss"' "$dir/killed/metrics.jsonl")" -lt 20 ] || echo "# the run ended before it could be killed"
sft "$dir/killed" || fail "resume after kill -9: $(why "$dir/killed.log")"
same "$dir/straight" "$dir/killed" || fail "after kill -9 and resume the result differs"
[ "$(grep -c '"loss"' "$dir/killed/metrics.jsonl")" = 20 ] || fail "metrics.jsonl has every step once"
echo "ok kill -9 at step 11 and resume is bit-equal"

stops=0
while [ $stops -lt 40 ]; do
    limit=0:0:0:0.001
    [ $stops -ge 4 ] && limit=0:1:0:0
    sft "$dir/limited" ++exp_manager.max_time_per_run=$limit
    rc=$?
    [ $rc = 0 ] && break
    [ $rc = 130 ] || fail "time limit: exit $rc: $(why "$dir/limited.log")"
    stops=$((stops + 1))
done
[ $stops -ge 4 ] || fail "stopped $stops times, wanted 4"
"$ns" average --input "$dir/straight/checkpoints" --output "$dir/avg1" >"$dir/avg.log" 2>&1 || fail "average: $(cat "$dir/avg.log")"
"$ns" average --input "$dir/limited/checkpoints" --output "$dir/avg2" >"$dir/avg.log" 2>&1 || fail "average: $(cat "$dir/avg.log")"
cmp "$dir/avg1/model.safetensors" "$dir/avg2/model.safetensors" || fail "the averaged models differ"
grep -q 'Resume with the same command' "$dir/limited.log" || fail "the resume command is printed"
echo "ok a run stopped $stops times by its time limit averages to the same model"

# A job that is killed at NS_LIMIT_AT: stops while a step and a save still fit, and is refused where not even a step does.
NS_LIMIT_AT=$(($(date +%s) + 2)) sft "$dir/killed-at" ++trainer.sft.max_steps=100000000 ++trainer.sft.max_epochs=100000000
rc=$?
{ [ $rc = 130 ] && grep -q 'stopped by time limit after step [0-9]* of 100000000; saved' "$dir/killed-at.log"; } || fail "a limit in 2 s: exit $rc: $(why "$dir/killed-at.log")"
echo '{"step": 1000000, "loss": 1, "step_time": 100.5}' >>"$dir/killed-at/metrics.jsonl"
NS_LIMIT_AT=$(($(date +%s) + 60)) sft "$dir/killed-at" ++trainer.sft.max_steps=100000000 ++trainer.sft.max_epochs=100000000
rc=$?
{ [ $rc = 2 ] && grep -q 'a step took 10[01] s in the job before: no step and save would fit' "$dir/killed-at.log"; } || fail "no step fits: exit $rc: $(why "$dir/killed-at.log")"
echo "ok a step and a save end before the job is killed; a job in which they cannot is refused"

(
    prefix="exec"
    sft "$dir/signal"
) &
pid=$!
while [ ! -s "$dir/signal/metrics.jsonl" ] && kill -0 $pid 2>/dev/null; do sleep 0.01; done
cp "$dir/signal.log" "$dir/first.log"
if kill -0 $pid 2>/dev/null; then
    sft "$dir/signal" && fail "a second training into a live folder is not refused"
    grep -q "another training writes there (host .*process $pid" "$dir/signal.log" || fail "the refusal names the first: $(tail -2 "$dir/signal.log")"
    echo "ok a second training into a live folder is refused, naming the first"
fi
kill -TERM $pid
wait $pid
sft "$dir/signal" || fail "resume after SIGTERM: $(why "$dir/signal.log")"
same "$dir/straight" "$dir/signal" || fail "after SIGTERM and resume the result differs"
echo "ok SIGTERM saves, and resume is bit-equal"

sft "$dir/again" || fail "a finished run restarted: $(why "$dir/again.log")"
grep -q 'finished already' "$dir/again.log" || fail "a finished run says so"
echo "ok a finished run restarted does nothing"

# Many kills at any moment: start-up, a step, in the middle of a save. Whatever is left, the run goes on and ends the same.
if [ -n "${NS_FULL:-}" ]; then
    kills=0
    while [ $kills -lt 40 ]; do
        (
            prefix="exec"
            sft "$dir/storm"
        ) &
        pid=$!
        sleep "0.$(awk -v n=$kills 'BEGIN { srand(n); printf "%03d", 5 + rand() * 400 }')"
        kill -9 $pid 2>/dev/null
        wait $pid 2>/dev/null
        kills=$((kills + 1))
    done
    sft "$dir/storm" || fail "resume after $kills kills: $(why "$dir/storm.log")"
    # a kill after the last save may leave optimiser state that the save would have dropped from an older checkpoint
    same "$dir/straight" "$dir/storm" '(' -path '*-last/*' -o ! -path '*/optimizer/*' ')' ! -name DONE || fail "after $kills kills at random moments the result differs"
    [ -z "$(find "$dir/storm" -name '*.tmp*' -o -name '*.old')" ] || fail "left behind: $(find "$dir/storm" -name '*.tmp*' -o -name '*.old')"
    echo "ok $kills kills at random moments, and the result is bit-equal"
fi
