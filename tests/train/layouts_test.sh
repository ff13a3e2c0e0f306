#!/bin/sh
# Layers and sequences split over ranks: every layout of tensor x context x data gives the curve of one rank for a Llama-3 and a Qwen2.5
# shape (bias, vocabulary that does not divide), rows of odd lengths, packed; a layout repeats itself bitwise, through kill -9 and
# resume; checkpoints move between layouts. NS_FULL=1: the whole grid.
set -u
ns=$1
root=$(cd "$(dirname "$0")/../.." && pwd)
dir=$(mktemp -d "${TMPDIR:-/tmp}/ns-tp-XXXXXX")
trap 'rm -rf "$dir"' EXIT
export NS_THREADS=1
fail() {
    echo "not ok $*"
    exit 1
}
model() { # NAME ARCHITECTURE TYPE VOCABULARY TIED
    cat >"$dir/config.json" <<JSON
{"architectures": ["$2"], "model_type": "$3", "hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 2,
 "num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 16, "vocab_size": $4, "max_position_embeddings": 512, "rms_norm_eps": 1e-5,
 "rope_theta": 10000.0, "tie_word_embeddings": $5, "hidden_act": "silu", "torch_dtype": "float32", "initializer_range": 0.05}
JSON
    "$ns" init --config "$dir/config.json" --tokenizer "$root/examples/demo/tokenizer" --output "$dir/$1" --seed 7 >"$dir/init.log" 2>&1 ||
        fail "ns init: $(cat "$dir/init.log")"
}
model llama LlamaForCausalLM llama 1026 true
model qwen Qwen2ForCausalLM qwen2 1025 false
i=0
while [ $i -lt 200 ]; do
    more=""
    [ $((i % 7)) = 3 ] && more=" Because $i, $((i * i)), $((i * i * i)) and so on, as one sees after a while of thinking about it."
    echo "{\"input\": \"What is $i plus $((i * 7 % 13))? \", \"output\": \"It is $((i + i * 7 % 13)).$more\"}"
    i=$((i + 1))
done >"$dir/rows.jsonl"

# sft OUT MODEL TP CP DP [more settings]
sft() {
    out=$dir/$1 base=$dir/$2 tp=$3 cp=$4 dp=$5
    shift 5
    ${prefix:-} "$ns" sft ++model.restore_from_path="$base" ++model.data.train_ds.file_path="$dir/rows.jsonl" ++exp_manager.explicit_log_dir="$out" \
        ++model.data.train_ds.global_batch_size=16 ++model.data.train_ds.micro_batch_size=2 ++trainer.sft.max_steps=12 ++trainer.sft.max_epochs=100 \
        ++trainer.sft.save_interval=4 ++trainer.sft.gradient_clip_val=1.0 ++model.optim.lr=1e-3 ++model.optim.sched.min_lr=1e-4 \
        ++model.optim.sched.warmup_steps=3 ++model.optim.sched.max_steps=12 ++model.tensor_model_parallel_size="$tp" \
        ++model.context_parallel_size="$cp" ++trainer.devices=$((tp * cp * dp)) "$@" >>"$out.log" 2>&1
}
steps() { grep -c '"loss"' "$dir/$1/metrics.jsonl" 2>/dev/null || true; }
curve() { sed -n 's/.*"loss": \([^,]*\), "grad_norm": \([^,]*\),.*/\1 \2/p' "$dir/$1/metrics.jsonl"; }
close() { # A B LIMIT
    curve "$1" >"$dir/a"
    curve "$2" >"$dir/b"
    paste "$dir/a" "$dir/b" | awk -v limit="$3" -v what="$1" '
        function gap(x, y) { return (x > y ? x - y : y - x) / y }
        { d = gap($1, $3); e = gap($2, $4); if (d > worst) worst = d; if (e > norm) norm = e; n++ }
        END { printf "# %s: %d steps, loss within %.2g, gradient norm within %.2g\n", what, n, worst, norm; exit !(n == 12 && worst <= limit && norm <= 4 * limit) }'
}
same() {
    (cd "$dir/$1/checkpoints" && find . -type f | sort | xargs cksum) >"$dir/a.sum"
    (cd "$dir/$2/checkpoints" && find . -type f | sort | xargs cksum) >"$dir/b.sum"
    cmp -s "$dir/a.sum" "$dir/b.sum" || {
        diff "$dir/a.sum" "$dir/b.sum" | head -10
        return 1
    }
}

# partial sums of a row are added in another order (f32: a few ulp a layer), or rounded to bf16 before they are added
layouts="2_1_1 1_2_1 1_4_1 2_2_1 1_2_2"
[ -n "${NS_FULL:-}" ] && layouts="$layouts 4_1_1 2_1_2 1_3_1 4_2_1 2_2_2 1_1_4 1_1_8"
for shape in llama qwen; do
    sft $shape-1 $shape 1 1 1 ++trainer.precision=32 || fail "$shape, one rank: $(tail -3 "$dir/$shape-1.log")"
    for layout in $layouts; do
        # shellcheck disable=SC2046
        set -- $(echo "$layout" | tr _ ' ')
        sft "$shape-$layout" $shape "$1" "$2" "$3" ++trainer.precision=32 || fail "$shape $layout: $(tail -3 "$dir/$shape-$layout.log")"
        close "$shape-$layout" $shape-1 3e-7 || fail "$shape, tensor_context_data $layout: another curve"
    done
done
echo "ok layouts (tensor_context_data) $layouts give the curve of one rank in f32"

sft bf16-1 qwen 1 1 1 ++trainer.precision=bf16 || fail "bf16: $(tail -3 "$dir/bf16-1.log")"
for layout in 2_1_1 1_2_1 2_2_1; do
    # shellcheck disable=SC2046
    set -- $(echo "$layout" | tr _ ' ')
    sft "bf16-$layout" qwen "$1" "$2" "$3" ++trainer.precision=bf16 || fail "bf16: $(tail -3 "$dir/bf16-$layout.log")"
    close "bf16-$layout" bf16-1 2e-3 || fail "bf16, $layout: another curve"
done
sft recompute qwen 2 2 1 ++trainer.precision=bf16 ++model.activations_checkpoint_granularity=full || fail "recompute: $(tail -3 "$dir/recompute.log")"
curve recompute >"$dir/a"
curve bf16-2_2_1 >"$dir/b"
cmp -s "$dir/a" "$dir/b" || fail "recomputed activations give another curve"
echo "ok and in bf16, with recomputed activations too"

sft again qwen 2 2 1 ++trainer.precision=bf16 || fail "repeated run: $(tail -3 "$dir/again.log")"
same bf16-2_2_1 again || fail "tp 2 x cp 2: a repeated run differs"
(
    prefix="exec"
    sft killed qwen 2 2 1 ++trainer.precision=bf16
) &
pid=$!
n=0
while [ "$(steps killed)" -lt 6 ] 2>/dev/null || [ ! -e "$dir/killed/metrics.jsonl" ]; do
    n=$((n + 1))
    [ $n -gt 3000 ] && fail "the run to be killed does not get to step 6: $(tail -3 "$dir/killed.log")"
    kill -0 $pid 2>/dev/null || break
    sleep 0.01
done
kill -9 "$(pgrep -P $pid | tail -n 1)" 2>/dev/null
wait $pid
sft killed qwen 2 2 1 ++trainer.precision=bf16 || fail "resume: $(tail -3 "$dir/killed.log")"
same bf16-2_2_1 killed || fail "after kill -9 of a rank and resume the result differs"
echo "ok tp 2 x cp 2 repeats itself bit for bit, also through kill -9 and resume"

for move in 2_1_1-1_1_1 1_1_1-2_2_1 1_2_2-4_1_1; do
    # shellcheck disable=SC2046
    set -- $(echo "$move" | tr _- '  ')
    sft "$move" qwen "$1" "$2" "$3" ++trainer.precision=32 ++trainer.sft.max_steps=8 || fail "8 steps: $(tail -3 "$dir/$move.log")"
    sft "$move" qwen "$4" "$5" "$6" ++trainer.precision=32 || fail "$move: $(tail -3 "$dir/$move.log")"
    grep -q "resumed .*step 8" "$dir/$move.log" || fail "$move did not resume"
    close "$move" qwen-1 3e-7 || fail "$move: another curve"
done
echo "ok checkpoints move between layouts"

sft odd qwen 8 1 1 && fail "4 key/value heads on 8 ranks"
grep -q "tensor_model_parallel_size=8 does not divide the model's 4 key/value heads: use one of 1, 2, 4" "$dir/odd.log" || fail "tp 8: $(tail -3 "$dir/odd.log")"
sft drop qwen 2 1 1 ++model.ffn_dropout=0.1 && fail "ffn_dropout with tp"
grep -q "ffn_dropout=0.1 with tensor_model_parallel_size=2" "$dir/drop.log" || fail "ffn_dropout: $(tail -3 "$dir/drop.log")"
sft drop2 qwen 1 2 1 ++model.hidden_dropout=0.1 && fail "dropout with cp"
grep -q "dropout with context_parallel_size > 1" "$dir/drop2.log" || fail "dropout: $(tail -3 "$dir/drop2.log")"
echo "ok what does not divide or is not there is refused"
