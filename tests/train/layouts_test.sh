#!/bin/sh
# Layers, sequences and stages split over ranks: every layout of tensor x context x data x pipeline gives the curve of one rank, for
# a Llama-3 (two tables of words) and a Qwen2.5
# shape (bias, one table, vocabulary that does not divide), rows of odd lengths, packed; a layout repeats itself bitwise, through kill -9 and
# resume; checkpoints move between layouts. NS_FULL=1: the whole grid.
set -u
root=$(cd "$(dirname "$0")/../.." && pwd)
# shellcheck source=tests/lib.sh
. "$root/tests/lib.sh"
export NS_THREADS=1
steps=12
[ -n "${NS_FULL:-}" ] && steps=30
model() { # NAME ARCHITECTURE TYPE VOCABULARY TIED
    cat >"$dir/config.json" <<JSON
{"architectures": ["$2"], "model_type": "$3", "hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 5,
 "num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 16, "vocab_size": $4, "max_position_embeddings": 512, "rms_norm_eps": 1e-5,
 "rope_theta": 10000.0, "tie_word_embeddings": $5, "hidden_act": "silu", "torch_dtype": "float32", "initializer_range": 0.05}
JSON
    tiny_init "$dir/$1"
}
model llama LlamaForCausalLM llama 1026 false
model qwen Qwen2ForCausalLM qwen2 1025 true
model qwen3 Qwen3ForCausalLM qwen3 1025 true
sums 200 long >"$dir/rows.jsonl"

# sft OUT MODEL TP CP DP PP [more settings]
sft() {
    out=$dir/$1 base=$dir/$2 tp=$3 cp=$4 dp=$5 pp=$6
    shift 6
    ${prefix:-} "$ns" sft ++model.restore_from_path="$base" ++model.data.train_ds.file_path="$dir/rows.jsonl" ++exp_manager.explicit_log_dir="$out" \
        ++model.data.train_ds.global_batch_size=16 ++model.data.train_ds.micro_batch_size=2 ++trainer.sft.max_steps="$steps" ++trainer.sft.max_epochs=100 \
        ++trainer.sft.save_interval=4 ++trainer.sft.gradient_clip_val=1.0 ++model.optim.lr=1e-3 ++model.optim.sched.min_lr=1e-4 \
        ++model.optim.sched.warmup_steps=3 ++model.optim.sched.max_steps="$steps" ++model.tensor_model_parallel_size="$tp" \
        ++model.context_parallel_size="$cp" ++model.pipeline_model_parallel_size="$pp" ++trainer.devices=$((tp * cp * dp * pp)) "$@" >>"$out.log" 2>&1
}
close() { # A B LOSS NORM
    case $1 in
    *-1 | *-1_1_1_1) ;; # one rank sends nothing
    *) grep -q "on all ranks the bytes are those of the formula" "$dir/$1.log" || fail "$1: bytes sent: $(grep bytes "$dir/$1.log")" ;;
    esac
    near "$1" "$2" "$steps" "$3" "$4"
}

# Sums of a row, a gradient or a norm are made in another order: about 4 L roundings of 2^-24 (f32), in both directions: sqrt(4 L) a
# step. What is different in the weights stays and is carried along: times the steps. A norm of the gradient feels the step, not the
# mean of its tokens: eight times that. In bf16 a layout may change no more than bf16 does itself, against f32.
f32=$(awk -v n="$steps" 'BEGIN { u = 2 ^ -24 * sqrt(4 * 5) * n; print u, 8 * u }')
layouts="2_1_1_1 1_2_1_1 2_2_1_1 1_2_2_1 1_1_1_2 1_1_1_5 2_1_1_2"
[ -n "${NS_FULL:-}" ] && layouts="$layouts 1_4_1_1 4_1_1_1 2_1_2_1 1_3_1_1 4_2_1_1 2_2_2_1 1_1_4_1 1_1_8_1 1_1_1_4 1_2_1_2 1_1_2_2 2_1_2_2 2_2_1_2 1_2_2_2"
for shape in llama qwen; do
    sft $shape-1 $shape 1 1 1 1 ++trainer.precision=32 || fail "$shape, one rank: $(why "$dir/$shape-1.log")"
    for layout in $layouts; do
        # shellcheck disable=SC2046
        set -- $(echo "$layout" | tr _ ' ')
        sft "$shape-$layout" $shape "$1" "$2" "$3" "$4" ++trainer.precision=32 || fail "$shape $layout: $(why "$dir/$shape-$layout.log")"
        # shellcheck disable=SC2086
        close "$shape-$layout" $shape-1 $f32 || fail "$shape, tensor_context_data_pipeline $layout: another curve"
    done
done
# norms of q and k: each tensor-parallel rank has the weights, and its own heads' part of their gradient
sft qwen3-1 qwen3 1 1 1 1 ++trainer.precision=32 || fail "qwen3, one rank: $(why "$dir/qwen3-1.log")"
for layout in 2_1_1_1 2_2_1_1 4_1_1_1 2_1_1_2 2_1_2_1; do
    # shellcheck disable=SC2046
    set -- $(echo "$layout" | tr _ ' ')
    for rows in False True; do
        sft "qwen3-$rows-$layout" qwen3 "$1" "$2" "$3" "$4" ++trainer.precision=32 ++model.sequence_parallel=$rows ||
            fail "qwen3 $layout: $(why "$dir/qwen3-$rows-$layout.log")"
        # shellcheck disable=SC2086
        close "qwen3-$rows-$layout" qwen3-1 $f32 || fail "qwen3, $layout, sequence_parallel=$rows: another curve"
        [ -n "${NS_FULL:-}" ] || [ "$layout" = 2_1_1_1 ] || break
    done
    [ -n "${NS_FULL:-}" ] || [ "$layout" != 2_2_1_1 ] || break
done
echo "ok and with norms of q and k"
curve llama-1_1_1_2 >"$dir/a"
curve llama-1_1_1_5 >"$dir/b"
cmp -s "$dir/a" "$dir/b" || fail "2 and 5 stages: the same sums, another curve"
echo "ok layouts (tensor_context_data_pipeline) $layouts give the curve of one rank in f32"

sft bf16-1 qwen 1 1 1 1 ++trainer.precision=bf16 || fail "bf16: $(why "$dir/bf16-1.log")"
bf16=$(gap bf16-1 qwen-1 "$steps")
for layout in 2_1_1_1 1_2_1_1 2_2_1_1 2_1_1_2 1_2_2_1; do
    # shellcheck disable=SC2046
    set -- $(echo "$layout" | tr _ ' ')
    sft "bf16-$layout" qwen "$1" "$2" "$3" "$4" ++trainer.precision=bf16 || fail "bf16: $(why "$dir/bf16-$layout.log")"
    # shellcheck disable=SC2086
    close "bf16-$layout" bf16-1 $bf16 || fail "bf16, $layout: another curve"
done
for layout in 2_2_1_1 2_1_1_2; do
    # shellcheck disable=SC2046
    set -- $(echo "$layout" | tr _ ' ')
    sft "recompute-$layout" qwen "$1" "$2" "$3" "$4" ++trainer.precision=bf16 ++model.activations_checkpoint_granularity=full ||
        fail "recompute: $(why "$dir/recompute-$layout.log")"
    curve "recompute-$layout" >"$dir/a"
    curve "bf16-$layout" >"$dir/b"
    cmp -s "$dir/a" "$dir/b" || fail "$layout: recomputed activations give another curve"
    sft "select-$layout" qwen "$1" "$2" "$3" "$4" ++trainer.precision=bf16 ++model.activations_checkpoint_granularity=selective ||
        fail "selective: $(why "$dir/select-$layout.log")"
    curve "select-$layout" >"$dir/a"
    cmp -s "$dir/a" "$dir/b" || fail "$layout: selectively recomputed activations give another curve"
done
echo "ok and in bf16, with recomputed activations too"

# masks of dropout follow the token of the data set and the feature of the whole model: one curve for every layout
dropout="++trainer.precision=32 ++model.hidden_dropout=0.1 ++model.ffn_dropout=0.2 ++model.attention_dropout=0.1"
# shellcheck disable=SC2086
sft drop-1 qwen 1 1 1 1 $dropout || fail "dropout: $(why "$dir/drop-1.log")"
[ "$(curve drop-1)" != "$(curve qwen-1)" ] || fail "dropout drops nothing"
dropped="1_1_2_1 2_2_1_1 2_1_1_2"
[ -n "${NS_FULL:-}" ] && dropped=$layouts
for layout in $dropped; do
    # shellcheck disable=SC2046
    set -- $(echo "$layout" | tr _ ' ')
    # shellcheck disable=SC2086
    sft "drop-$layout" qwen "$1" "$2" "$3" "$4" $dropout || fail "dropout, $layout: $(why "$dir/drop-$layout.log")"
    # shellcheck disable=SC2086
    close "drop-$layout" drop-1 $f32 || fail "dropout, $layout: another curve"
done
echo "ok and with dropout in $dropped"

# sequence parallel: norms and stream split by tokens; sums are made in the same order, but those over the tokens of a norm's gradient
split=2_1_1_2
[ -n "${NS_FULL:-}" ] && split="2_1_1_1 4_1_1_1 2_2_1_1 2_1_2_1 2_1_1_2 2_1_2_2"
for layout in $split; do
    # shellcheck disable=SC2046
    set -- $(echo "$layout" | tr _ ' ')
    # shellcheck disable=SC2086
    sft "rows-$layout" qwen "$1" "$2" "$3" "$4" $dropout ++model.sequence_parallel=True || fail "sequence parallel, $layout: $(why "$dir/rows-$layout.log")"
    # shellcheck disable=SC2086
    close "rows-$layout" drop-1 $f32 || fail "sequence parallel, $layout: another curve"
    [ "$(curve "rows-$layout" | head -1 | cut -d' ' -f1)" = "$(curve "drop-$layout" | head -1 | cut -d' ' -f1)" ] || fail "sequence parallel, $layout: another first loss"
    # shellcheck disable=SC2086
    sft "rows-again-$layout" qwen "$1" "$2" "$3" "$4" $dropout ++model.sequence_parallel=True ++model.activations_checkpoint_granularity=full ||
        fail "sequence parallel, $layout: $(why "$dir/rows-again-$layout.log")"
    [ "$(curve "rows-$layout")" = "$(curve "rows-again-$layout")" ] || fail "sequence parallel, $layout: recomputed activations give another curve"
done
echo "ok and with sequence parallel in $split"

# the ring: keys and values of one context-parallel rank after another pass by; recomputed activations change nothing
ring="++model.cp_comm_type=p2p"
rings="1_2_1_1 1_4_1_1 2_2_1_1"
[ -n "${NS_FULL:-}" ] && rings="$rings 1_3_1_1 1_8_1_1 1_2_2_1 1_2_1_2 2_2_2_1"
for layout in $rings; do
    for shape in llama qwen; do
        # shellcheck disable=SC2046
        set -- $(echo "$layout" | tr _ ' ')
        sft "ring-$shape-$layout" $shape "$1" "$2" "$3" "$4" ++trainer.precision=32 $ring || fail "ring, $shape $layout: $(why "$dir/ring-$shape-$layout.log")"
        # shellcheck disable=SC2086
        close "ring-$shape-$layout" $shape-1 $f32 || fail "ring, $shape $layout: another curve"
    done
done
sft ring-bf16 qwen 2 2 1 1 ++trainer.precision=bf16 $ring || fail "ring, bf16: $(why "$dir/ring-bf16.log")"
# shellcheck disable=SC2086
close ring-bf16 bf16-1 $bf16 || fail "ring, bf16: another curve"
sft ring-recompute qwen 2 2 1 1 ++trainer.precision=bf16 $ring ++model.activations_checkpoint_granularity=full || fail "ring: $(why "$dir/ring-recompute.log")"
[ "$(curve ring-bf16)" = "$(curve ring-recompute)" ] || fail "ring: recomputed activations give another curve"
cmp -s "$dir/ring-bf16/checkpoints/"*step="$steps"*-last/model.safetensors "$dir/bf16-2_2_1_1/checkpoints/"*step="$steps"*-last/model.safetensors &&
    fail "cp_comm_type=p2p: the bits of all_gather"
sft ring-drop qwen 1 2 1 1 $ring ++model.attention_dropout=0.1 && fail "ring with attention dropout"
grep -q "cp_comm_type=p2p: the ring has no attention_dropout" "$dir/ring-drop.log" || fail "ring: $(why "$dir/ring-drop.log")"
sft ring-a2a qwen 1 2 1 1 ++model.cp_comm_type=a2a && fail "cp_comm_type=a2a"
grep -q "cp_comm_type.*a2a" "$dir/ring-a2a.log" || fail "a2a: $(why "$dir/ring-a2a.log")"
echo "ok and with a ring of keys and values in $rings"

# trainer.trace: one row of compute and one of communication for each rank, every micro-batch forward and backward
sft traced qwen 1 1 2 2 ++trainer.precision=32 ++trainer.trace="$dir/trace.json" || fail "trace: $(why "$dir/traced.log")"
# shellcheck disable=SC2086
close traced qwen-1 $f32 || fail "a trace changes the curve"
for rank in 0 1 2 3; do
    grep "\"pid\": $rank," "$dir/trace.json" >"$dir/spans"
    [ "$(grep -c '"name": "forward"' "$dir/spans")" = "$(grep -c '"name": "backward"' "$dir/spans")" ] || fail "rank $rank: a forward without backward"
    for what in forward send_recv reduce_scatter update; do
        grep -q "\"name\": \"$what\"" "$dir/spans" || fail "rank $rank: no $what in the trace"
    done
done
[ ! -e "$dir/trace.json.rank0" ] || fail "parts of the trace are left"
echo "ok bytes sent are those of the formula in all of these; a trace shows what each rank does"

# bitwise LAYOUT [SETTING]: again, and through kill -9 of the last rank and resume; the dead rank is named
bitwise() {
    layout=$1 setting=${2:-++model.cp_comm_type=all_gather}
    first=bf16-$layout again=again-$layout killed=killed-$layout
    [ -n "${2:-}" ] && first=bf16-set-$layout again=again-set-$layout killed=killed-set-$layout
    # shellcheck disable=SC2046
    set -- $(echo "$layout" | tr _ ' ')
    [ -d "$dir/$first" ] || sft "$first" qwen "$1" "$2" "$3" "$4" ++trainer.precision=bf16 "$setting" || fail "bf16: $(why "$dir/$first.log")"
    sft "$again" qwen "$1" "$2" "$3" "$4" ++trainer.precision=bf16 "$setting" || fail "repeated run: $(why "$dir/$again.log")"
    same "$first" "$again" || fail "$layout: a repeated run differs"
    (
        prefix="exec"
        sft "$killed" qwen "$1" "$2" "$3" "$4" ++trainer.precision=bf16 "$setting"
    ) &
    pid=$!
    n=0
    while [ "$(steps "$killed")" -lt 6 ] 2>/dev/null || [ ! -e "$dir/$killed/metrics.jsonl" ]; do
        n=$((n + 1))
        [ $n -gt 6000 ] && fail "the run to be killed does not get to step 6: $(why "$dir/$killed.log")"
        kill -0 $pid 2>/dev/null || break
        sleep 0.01
    done
    victim=$(pgrep -P $pid | tail -n 1)
    [ -n "$victim" ] && kill -9 "$victim" 2>/dev/null
    wait $pid
    if [ "$(steps "$killed")" -lt "$steps" ]; then
        grep -q "rank $(($1 * $2 * $3 * $4 - 1)) (.*, pid $victim) at step .* died" "$dir/$killed.log" ||
            fail "$layout: the dead rank is not named: $(why "$dir/$killed.log")"
    fi
    sft "$killed" qwen "$1" "$2" "$3" "$4" ++trainer.precision=bf16 "$setting" || fail "resume: $(why "$dir/$killed.log")"
    same "$first" "$killed" || fail "$layout: after kill -9 of a rank and resume the result differs"
}
exact="2_1_1_2 1_2_2_1"
[ -n "${NS_FULL:-}" ] && exact=$layouts
for layout in $exact; do bitwise "$layout"; done
bitwise 2_2_1_1 $ring
bitwise 1_2_2_1 ++model.optim.overlap_param_sync=True
echo "ok $exact, a ring and weights gathered in the forward repeat themselves bit for bit, also through kill -9 and resume"

# gradients reduced during the backward, weights gathered during the next forward: the same checkpoints, bit for bit, on every layout, with
# validation and saves in between
both="++model.optim.overlap_grad_sync=True ++model.optim.overlap_param_sync=True"
overlapped="1_1_3_1 2_1_2_1 1_2_2_1 1_1_2_2"
[ -n "${NS_FULL:-}" ] && overlapped="$overlapped 1_1_2_1 1_2_1_1 2_2_2_1 2_1_2_2"
with=$both
# behind NAME LAYOUT SETTINGS...: with the settings, and again with those of $with
behind() {
    name=$1 layout=$2
    shift 2
    # shellcheck disable=SC2046
    set -- $(echo "$layout" | tr _ ' ') ++trainer.precision=bf16 ++model.data.train_ds.global_batch_size=12 ++trainer.sft.val_check_interval=3 "$@"
    sft "after-$name" qwen "$@" || fail "$name: $(why "$dir/after-$name.log")"
    # shellcheck disable=SC2086
    sft "during-$name" qwen "$@" $with || fail "$name, overlapped: $(why "$dir/during-$name.log")"
    same "after-$name" "during-$name" || fail "$name: exchanges behind the computation give other checkpoints"
    grep -q "on all ranks the bytes are those of the formula" "$dir/during-$name.log" || fail "$name, overlapped: $(grep bytes "$dir/during-$name.log")"
}
for layout in $overlapped; do with=$both behind "$layout" "$layout"; done
with="++model.optim.overlap_grad_sync=True" behind grads 1_1_2_1
with="++model.optim.overlap_param_sync=True ++trainer.trace=$dir/behind.json" behind weights 1_1_2_1
with=$both behind split 2_1_2_1 ++model.sequence_parallel=True ++model.activations_checkpoint_granularity=full
with=$both behind ring 1_2_2_1 $ring
# a gathering lies within the forward of the same rank, on a row of its own
awk -v steps="$steps" -F'"ts": |, "dur": ' '/"pid": 0,/ && /"name": "forward"/ { from[++n] = $2; to[n] = $2 + $3 }
    /"pid": 0,/ && /"name": "all_gather"/ && /"tid": 2,/ { t[++k] = $2 }
    END { for (i = 1; i <= k; i++) for (j = 1; j <= n; j++) if (t[i] >= from[j] && t[i] < to[j]) in_forward++; print "# gathers within a forward:", in_forward + 0, "of", k; exit !in_forward || k % steps }' \
    "$dir/behind.json" || fail "no weights are gathered within a forward"
echo "ok gradients reduced and weights gathered behind the computation of $overlapped: the same bits"

# a frozen stage is named after trainer.rank_dead_seconds, SIGTERM to one stage saves the same step on all
(
    prefix="exec"
    sft frozen qwen 1 1 1 3 ++trainer.precision=bf16 ++trainer.rank_dead_seconds=2
) &
pid=$!
while [ ! -s "$dir/frozen/metrics.jsonl" ] && kill -0 $pid 2>/dev/null; do sleep 0.01; done
victim=$(pgrep -P $pid | tail -n 1)
kill -STOP "$victim" 2>/dev/null
(
    sleep 8
    kill -9 "$victim" 2>/dev/null
) &
wait $pid
[ "$(steps frozen)" = "$steps" ] || grep -q "rank 2 (.*, pid $victim) at step .* is silent" "$dir/frozen.log" ||
    fail "a frozen stage is not named: $(why "$dir/frozen.log")"
(
    prefix="exec"
    sft term qwen 2 1 1 2 ++trainer.precision=bf16
) &
pid=$!
while [ "$(steps term)" -lt 3 ] 2>/dev/null || [ ! -e "$dir/term/metrics.jsonl" ]; do
    kill -0 $pid 2>/dev/null || break
    sleep 0.01
done
kill -TERM "$(pgrep -P $pid | tail -n 1)" 2>/dev/null
wait $pid
[ "$(steps term)" = "$steps" ] || grep -q "stopped by another rank after step .*saved" "$dir/term.log" || fail "a stop on one stage: $(why "$dir/term.log")"
sft term qwen 2 1 1 2 ++trainer.precision=bf16 || fail "resume: $(why "$dir/term.log")"
same bf16-2_1_1_2 term || fail "after SIGTERM and resume the result differs"
echo "ok a frozen stage is named; a signal to one stage stops all at the same step"

moves="2_1_1_1-1_1_1_1 1_1_1_2-2_2_1_1 1_2_2_1-1_1_1_4 2_1_1_2-1_1_2_1"
if [ -n "${NS_FULL:-}" ]; then
    moves=""
    all="1_1_1_1 2_1_1_1 1_2_1_1 1_1_2_1 1_1_1_2 1_1_1_5 2_1_1_2 2_1_2_2"
    for from in $all; do for to in $all; do [ "$from" = "$to" ] || moves="$moves $from-$to"; done; done
fi
half=$((steps * 2 / 3))
for move in $moves; do
    # shellcheck disable=SC2046
    set -- $(echo "$move" | tr _- '  ')
    from=half-${move%-*}
    [ -d "$dir/$from" ] || sft "$from" qwen "$1" "$2" "$3" "$4" ++trainer.precision=32 ++trainer.sft.max_steps=$half || fail "$half steps: $(why "$dir/$from.log")"
    cp -r "$dir/$from" "$dir/$move"
    sft "$move" qwen "$5" "$6" "$7" "$8" ++trainer.precision=32 || fail "$move: $(why "$dir/$move.log")"
    grep -q "resumed .*step $half" "$dir/$move.log" || fail "$move did not resume"
    # shellcheck disable=SC2086
    close "$move" qwen-1 $f32 || fail "$move: another curve"
    rm -rf "${dir:?}/$move"
done
echo "ok checkpoints move between layouts: $moves"

sft odd qwen 8 1 1 1 && fail "4 key/value heads on 8 ranks"
grep -q "tensor_model_parallel_size=8 does not divide the model's 4 key/value heads: use one of 1, 2, 4" "$dir/odd.log" || fail "tp 8: $(why "$dir/odd.log")"
sft deep qwen 1 1 1 6 && fail "6 stages of 5 layers"
grep -q "pipeline_model_parallel_size=6: the model has 5 layers, a stage needs one: use at most 5" "$dir/deep.log" || fail "pp 6: $(why "$dir/deep.log")"
sft virtual qwen 1 1 1 2 ++model.virtual_pipeline_model_parallel_size=2 && fail "virtual stages"
grep -q "virtual_pipeline_model_parallel_size: interleaved stages are not available" "$dir/virtual.log" || fail "virtual: $(why "$dir/virtual.log")"
sft numbers qwen 2 1 1 2 ++trainer.devices=6 && fail "tp 2 x pp 2 on 6 ranks"
grep -q "6 ranks do not divide into model copies of 4 ranks (tensor 2 x context 1 x pipeline 2): use 4 or 8 ranks" "$dir/numbers.log" ||
    fail "6 ranks: $(why "$dir/numbers.log")"
echo "ok what does not divide or is not there is refused"
