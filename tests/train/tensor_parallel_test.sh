#!/bin/sh
# Layers split over ranks: tp 2, tp 4, tp 2 x dp 2 give the curve of one rank for a Llama-3 and a Qwen2.5 shape (bias, vocabulary that
# does not divide); a layout repeats itself bitwise, through kill -9 and resume; checkpoints move between layouts.
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
    echo "{\"input\": \"What is $i plus $((i * 7 % 13))? \", \"output\": \"It is $((i + i * 7 % 13)).\"}"
    i=$((i + 1))
done >"$dir/rows.jsonl"

# sft OUT MODEL TP DP [more settings]
sft() {
    out=$dir/$1 base=$dir/$2 tp=$3 dp=$4
    shift 4
    ${prefix:-} "$ns" sft ++model.restore_from_path="$base" ++model.data.train_ds.file_path="$dir/rows.jsonl" ++exp_manager.explicit_log_dir="$out" \
        ++model.data.train_ds.global_batch_size=16 ++model.data.train_ds.micro_batch_size=2 ++trainer.sft.max_steps=12 ++trainer.sft.max_epochs=100 \
        ++trainer.sft.save_interval=4 ++trainer.sft.gradient_clip_val=1.0 ++model.optim.lr=1e-3 ++model.optim.sched.min_lr=1e-4 \
        ++model.optim.sched.warmup_steps=3 ++model.optim.sched.max_steps=12 ++model.tensor_model_parallel_size="$tp" \
        ++trainer.devices=$((tp * dp)) "$@" >>"$out.log" 2>&1
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
for shape in llama qwen; do
    sft $shape-1 $shape 1 1 ++trainer.precision=32 || fail "$shape, one rank: $(tail -3 "$dir/$shape-1.log")"
    for layout in "2 1" "4 1" "2 2"; do
        # shellcheck disable=SC2086
        set -- $layout
        sft "$shape-tp$1-dp$2" $shape "$1" "$2" ++trainer.precision=32 || fail "$shape tp $1 dp $2: $(tail -3 "$dir/$shape-tp$1-dp$2.log")"
        close "$shape-tp$1-dp$2" $shape-1 3e-7 || fail "$shape, tp $1 x dp $2: another curve"
    done
done
echo "ok tp 2, tp 4, tp 2 x dp 2 give the curve of one rank in f32"

for layout in "1 1" "2 1" "2 2"; do
    # shellcheck disable=SC2086
    set -- $layout
    sft "bf16-tp$1-dp$2" qwen "$1" "$2" ++trainer.precision=bf16 ++model.hidden_dropout=0 || fail "bf16: $(tail -3 "$dir/bf16-tp$1-dp$2.log")"
    [ "$1" = 1 ] || close "bf16-tp$1-dp$2" bf16-tp1-dp1 1e-3 || fail "bf16, tp $1 x dp $2: another curve"
done
echo "ok and in bf16"

sft again qwen 2 2 ++trainer.precision=bf16 || fail "repeated run: $(tail -3 "$dir/again.log")"
same bf16-tp2-dp2 again || fail "tp 2 x dp 2: a repeated run differs"
(
    prefix="exec"
    sft killed qwen 2 2 ++trainer.precision=bf16
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
sft killed qwen 2 2 ++trainer.precision=bf16 || fail "resume: $(tail -3 "$dir/killed.log")"
same bf16-tp2-dp2 killed || fail "after kill -9 of a rank and resume the result differs"
echo "ok tp 2 x dp 2 repeats itself bit for bit, also through kill -9 and resume"

for move in "2 1 1 1" "1 1 2 2" "2 2 4 1"; do
    # shellcheck disable=SC2086
    set -- $move
    m=move-$1$2-$3$4
    sft "$m" qwen "$1" "$2" ++trainer.precision=32 ++trainer.sft.max_steps=8 || fail "8 steps: $(tail -3 "$dir/$m.log")"
    sft "$m" qwen "$3" "$4" ++trainer.precision=32 || fail "tp $1 dp $2 -> tp $3 dp $4: $(tail -3 "$dir/$m.log")"
    grep -q "resumed .*step 8" "$dir/$m.log" || fail "tp $1 dp $2 -> tp $3 dp $4 did not resume"
    close "$m" qwen-1 3e-7 || fail "tp $1 dp $2, then tp $3 dp $4: another curve"
done
echo "ok checkpoints move between layouts"

sft odd qwen 8 1 && fail "4 key/value heads on 8 ranks"
grep -q "tensor_model_parallel_size=8 does not divide the model's 4 key/value heads: use one of 1, 2, 4" "$dir/odd.log" || fail "tp 8: $(tail -3 "$dir/odd.log")"
sft drop qwen 2 1 ++model.ffn_dropout=0.1 && fail "ffn_dropout with tp"
grep -q "ffn_dropout=0.1 with tensor_model_parallel_size=2" "$dir/drop.log" || fail "ffn_dropout: $(tail -3 "$dir/drop.log")"
echo "ok splits that do not divide are refused"
