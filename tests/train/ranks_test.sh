#!/bin/sh
# Several ranks train the same model: the loss curve of one rank, a layout repeats itself bitwise, also through kill -9 of one
# rank and resume; a signal to one rank makes all save at the same step; checkpoints move between layouts.
set -u
root=$(cd "$(dirname "$0")/../.." && pwd)
# shellcheck source=tests/lib.sh
. "$root/tests/lib.sh"
export NS_THREADS=1

# the embedding has 2 MiB of gradient: two ranks share it, small parameters have one owner each
cat >"$dir/config.json" <<'JSON'
{"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 2,
 "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 32, "vocab_size": 4096, "max_position_embeddings": 512, "rms_norm_eps": 1e-5,
 "rope_theta": 10000.0, "tie_word_embeddings": true, "hidden_act": "silu", "torch_dtype": "float32", "initializer_range": 0.05}
JSON
i=0
while [ $i -lt 200 ]; do
    echo "{\"input\": \"What is $i plus $((i * 7 % 13))? \", \"output\": \"It is $((i + i * 7 % 13)).\"}"
    i=$((i + 1))
done >"$dir/rows.jsonl"
tiny_init "$dir/base"

# sft OUT [more settings]
sft() {
    out=$1
    shift
    ${prefix:-} "$ns" sft ++model.restore_from_path="$dir/base" ++model.data.train_ds.file_path="$dir/rows.jsonl" ++exp_manager.explicit_log_dir="$out" \
        ++model.data.train_ds.global_batch_size=16 ++model.data.train_ds.micro_batch_size=2 ++trainer.sft.max_steps=12 ++trainer.sft.max_epochs=100 \
        ++trainer.sft.save_interval=4 ++trainer.sft.gradient_clip_val=1.0 ++model.optim.lr=1e-3 ++model.optim.sched.min_lr=1e-4 \
        ++model.optim.sched.warmup_steps=3 ++model.optim.sched.max_steps=12 "$@" >>"$out.log" 2>&1
}

for precision in 32 bf16; do
    # f32: sums of 16 rows in another order, 12 steps of AdamW; bf16 rounds weights and activations to 2^-9
    limit=1e-6 norm_limit=4e-6
    [ $precision = 32 ] || limit=5e-4 norm_limit=2e-3
    for n in 1 2 4; do
        sft "$dir/dp$n-$precision" ++trainer.devices=$n ++trainer.precision=$precision ||
            fail "$n ranks: $(why "$dir/dp$n-$precision.log")"
        [ $n = 1 ] || near "$dir/dp$n-$precision" "$dir/dp1-$precision" 12 $limit $norm_limit || fail "$n ranks give another curve ($precision)"
    done
done
echo "ok 12 steps on 2 and 4 ranks give the curve of one rank, in f32 and bf16"

name=$(cd "$dir/dp2-bf16/checkpoints" && echo *step=12*-last)
[ "$(find "$dir/dp2-bf16/checkpoints/$name/optimizer" -type f | wc -l)" = 3 ] || fail "a file of optimiser state for each rank"
sft "$dir/again" ++trainer.devices=2 ++trainer.precision=bf16 || fail "repeated run: $(why "$dir/again.log")"
same "$dir/dp2-bf16" "$dir/again" || fail "2 ranks: a repeated run differs"
echo "ok 2 ranks repeat themselves bit for bit"

# kill -9 of rank 1: rank 0 names it and ends within 10 s; the resumed run is the run that was started
(
    prefix="exec"
    sft "$dir/killed" ++trainer.devices=2 ++trainer.precision=bf16
) &
pid=$!
n=0
while [ "$(steps "$dir/killed")" -lt 6 ] 2>/dev/null || [ ! -e "$dir/killed/metrics.jsonl" ]; do
    n=$((n + 1))
    [ $n -gt 3000 ] && fail "the run to be killed does not get to step 6: $(why "$dir/killed.log")"
    kill -0 $pid 2>/dev/null || break
    sleep 0.01
done
victim=$(pgrep -P $pid | tail -n 1)
kill -9 "$victim" 2>/dev/null
start=$(date +%s)
wait $pid
code=$?
took=$(($(date +%s) - start))
if [ "$(steps "$dir/killed")" -lt 12 ]; then
    [ $code != 0 ] || fail "a run that lost a rank ends with exit code 0"
    [ $took -le 10 ] || fail "the other rank took $took s to stop"
    grep -q "rank 1 (.*, pid $victim) at step .* died" "$dir/killed.log" || fail "the dead rank is not named: $(why "$dir/killed.log")"
else
    echo "# the run ended before a rank could be killed"
fi
sft "$dir/killed" ++trainer.devices=2 ++trainer.precision=bf16 || fail "resume: $(why "$dir/killed.log")"
same "$dir/dp2-bf16" "$dir/killed" || fail "after kill -9 of a rank and resume the result differs"
[ "$(steps "$dir/killed")" = 12 ] || fail "metrics.jsonl has every step once"
echo "ok a killed rank is named, the other stops, and the resumed run is bit-equal"

# SIGTERM to one rank only: all save the same step
(
    prefix="exec"
    sft "$dir/term" ++trainer.devices=2 ++trainer.precision=bf16
) &
pid=$!
n=0
while [ "$(steps "$dir/term")" -lt 5 ] 2>/dev/null || [ ! -e "$dir/term/metrics.jsonl" ]; do
    n=$((n + 1))
    [ $n -gt 3000 ] && fail "the run to be stopped does not get to step 5: $(why "$dir/term.log")"
    kill -0 $pid 2>/dev/null || break
    sleep 0.01
done
kill -TERM "$(pgrep -P $pid | tail -n 1)" 2>/dev/null
wait $pid
if [ "$(steps "$dir/term")" -lt 12 ]; then
    grep -q "stopped by another rank after step .*saved" "$dir/term.log" || fail "a stop on one rank: $(why "$dir/term.log")"
fi
sft "$dir/term" ++trainer.devices=2 ++trainer.precision=bf16 || fail "resume: $(why "$dir/term.log")"
same "$dir/dp2-bf16" "$dir/term" || fail "after SIGTERM and resume the result differs"
echo "ok a signal to one rank stops all at the same step"

# the time limit, of all ranks and of one: all save at the same step
stops=0
while [ $stops -lt 3 ]; do
    sft "$dir/limited" ++trainer.devices=2 ++trainer.precision=bf16 ++exp_manager.max_time_per_run=0:0:0:0.001
    rc=$?
    [ $rc = 130 ] || fail "a time limit on 2 ranks: exit $rc: $(tail -3 "$dir/limited.log")"
    stops=$((stops + 1))
done
sft "$dir/limited" ++trainer.devices=2 ++trainer.precision=bf16 || fail "resume: $(tail -3 "$dir/limited.log")"
same "$dir/dp2-bf16" "$dir/limited" || fail "stopped $stops times by its time limit and resumed: the result differs"
export WORLD_SIZE=2 LOCAL_WORLD_SIZE=2 MASTER_ADDR=127.0.0.1 MASTER_PORT=$(($$ % 10000 + 39000))
(
    rc=0
    RANK=1 NS_LIMIT_AT=$(($(date +%s) + 4)) "$ns" sft ++model.restore_from_path="$dir/base" ++model.data.train_ds.file_path="$dir/rows.jsonl" \
        ++exp_manager.explicit_log_dir="$dir/one-limit" ++model.data.train_ds.global_batch_size=16 ++trainer.sft.max_steps=100000000 ++trainer.sft.max_epochs=100000000 \
        ++trainer.sft.save_interval=100000000 ++trainer.devices=2 >"$dir/one-limit1.log" 2>&1 || rc=$?
    echo $rc >"$dir/one-limit1.rc"
) &
rc=0
RANK=0 "$ns" sft ++model.restore_from_path="$dir/base" ++model.data.train_ds.file_path="$dir/rows.jsonl" \
    ++exp_manager.explicit_log_dir="$dir/one-limit" ++model.data.train_ds.global_batch_size=16 ++trainer.sft.max_steps=100000000 ++trainer.sft.max_epochs=100000000 \
    ++trainer.sft.save_interval=100000000 ++trainer.devices=2 >"$dir/one-limit0.log" 2>&1 || rc=$?
wait $!
unset WORLD_SIZE LOCAL_WORLD_SIZE MASTER_ADDR MASTER_PORT
at=$(sed -n 's/.*stopped by another rank after step \([0-9]*\) of .*; saved .*/\1/p' "$dir/one-limit0.log")
{ [ $rc = 130 ] && [ "$(cat "$dir/one-limit1.rc")" = 130 ] && [ -n "$at" ] && [ "$(steps "$dir/one-limit")" = "$at" ] && ls -d "$dir/one-limit/checkpoints/"*step="$at"-*-last/DONE >/dev/null; } ||
    fail "the limit of one rank, exit $rc and $(cat "$dir/one-limit1.rc"): $(tail -n 2 "$dir/one-limit0.log") $(tail -n 2 "$dir/one-limit1.log")"
echo "ok the time limit of all ranks, and of one, stops all at the same step"

# checkpoints move between layouts: 2 ranks to step 8, then 1, then 4
for n in 1 4; do
    sft "$dir/move$n" ++trainer.devices=2 ++trainer.precision=32 ++trainer.sft.max_steps=8 || fail "8 steps: $(why "$dir/move$n.log")"
    sft "$dir/move$n" ++trainer.devices=$n ++trainer.precision=32 || fail "2 ranks -> $n: $(why "$dir/move$n.log")"
    grep -q "resumed .*step 8" "$dir/move$n.log" || fail "2 ranks -> $n did not resume: $(why "$dir/move$n.log")"
    near "$dir/move$n" "$dir/dp1-32" 12 1e-6 4e-6 || fail "2 ranks, then $n: another curve"
done
"$ns" average --input "$dir/dp4-bf16/checkpoints" --output "$dir/averaged" >"$dir/average.log" 2>&1 || fail "average: $(why "$dir/average.log")"
echo "ok checkpoints of 2 ranks go on with 1 and 4, and are averaged"

sft "$dir/odd" ++trainer.devices=3 && fail "16 rows on 3 ranks"
grep -q "global batch size 16 is not divisible by micro batch size 2 x data parallel size 3 = 6: nearest valid .* 12 and 18" "$dir/odd.log" ||
    fail "indivisible batch: $(why "$dir/odd.log")"
port=$(($$ % 10000 + 10000)) # below those that the system gives to any process
export WORLD_SIZE=2 LOCAL_WORLD_SIZE=2 MASTER_ADDR=127.0.0.1 MASTER_PORT=$port
(RANK=1 sft "$dir/other1" ++trainer.devices=2 ++exp_manager.explicit_log_dir="$dir/other0") &
RANK=0 sft "$dir/other0" ++trainer.devices=2 ++model.optim.lr=5e-4 && fail "two ranks with different settings"
wait $!
grep -q "rank 1 (.*differs from rank 0: 'settings .* on rank 0; all ranks need the same program and settings" "$dir/other0.log" ||
    fail "different settings: $(why "$dir/other0.log")"
unset WORLD_SIZE LOCAL_WORLD_SIZE MASTER_ADDR MASTER_PORT
RANK=0 WORLD_SIZE=4 LOCAL_WORLD_SIZE=4 sft "$dir/wrong" ++trainer.devices=2 && fail "a wrong number of ranks"
grep -q "4 ranks were started by RANK and WORLD_SIZE, but trainer.devices=2" "$dir/wrong.log" || fail "wrong number: $(why "$dir/wrong.log")"
echo "ok indivisible batches, different settings, a wrong number of ranks are refused"
