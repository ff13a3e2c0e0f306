#!/bin/sh
# `ns plan ++plan.layouts`: the fastest layouts of a cluster that is not here, labelled as a model; the documented setting for 8B
# (micro-batch 4, tp 4) on 8 GPUs of 80 GB fits; what does not divide is refused with what would.
set -u
root=$(cd "$(dirname "$0")/../.." && pwd)
# shellcheck source=tests/lib.sh
. "$root/tests/lib.sh"
fail() {
    echo "not ok $*"
    cat "$dir/out"
    exit 1
}
model() { # KEY_VALUE_HEADS
    cat >"$dir/base/config.json" <<JSON
{"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32,
 "num_attention_heads": 32, "num_key_value_heads": $1, "head_dim": 128, "vocab_size": 128256, "max_position_embeddings": 131072, "rms_norm_eps": 1e-5,
 "rope_theta": 500000.0, "tie_word_embeddings": false, "hidden_act": "silu", "torch_dtype": "bfloat16"}
JSON
}
mkdir "$dir/base"
cp "$root"/examples/demo/tokenizer/* "$dir/base"
awk 'BEGIN { srand(1); for (i = 0; i < 300; i++) { n = 200 + 1100 * rand(); printf "{\"input\": \"What is %d?\", \"output\": \"", i; for (k = 0; k < n; k++) printf " %d", 100 * rand(); print "\"}" } }' >"$dir/rows.jsonl"
plan() {
    "$ns" plan ++model.restore_from_path="$dir/base" ++model.data.train_ds.file_path="$dir/rows.jsonl" ++exp_manager.explicit_log_dir="$dir/run" \
        ++model.data.train_ds.global_batch_size=256 ++model.data.train_ds.max_seq_length=4096 ++trainer.devices=8 "$@" >"$dir/out" 2>&1
}
model 8
plan ++plan.layouts=h100 # this machine may be too small for the run itself: said after the layouts
grep -q '^layouts of 8 h100 (model, not measured: 45 % of 989 TFLOP/s, 70 % of NVLink 450 and InfiniBand 50 GB/s' "$dir/out" || fail "labelled as a model"
grep -q 'micro-batch .*, tp .*, cp .*, pp .*tokens/s.* GB  <- fastest that fits' "$dir/out" || fail "the fastest"
grep 'documented for 8B' "$dir/out" | grep -q 'micro-batch 4, tp 4, cp 1, pp 1, dp 2' || fail "the documented setting"
grep 'documented for 8B' "$dir/out" | grep -q 'DOES NOT FIT' && fail "the documented setting must fit"
grep -q 'tp 8, .*s a step.*default of ns train: tp = num_gpus' "$dir/out" || fail "the default and its cost"
grep -q '^  1024 GPUs,  32768 rows: .*tokens/s a GPU' "$dir/out" || fail "a larger cluster"
echo "ok layouts of a cluster, the documented one and the default beside the fastest: $(grep fastest "$dir/out")"
model 2
plan ++plan.layouts=a100
grep -q 'refused .*tensor_model_parallel_size=8 does not divide the model.s 2 key/value heads: use one of 1, 2' "$dir/out" || fail "heads that do not divide"
plan ++plan.layouts=tpu && fail "an unknown GPU"
"$ns" sft ++model.restore_from_path="$dir/base" ++model.data.train_ds.file_path="$dir/rows.jsonl" ++exp_manager.explicit_log_dir="$dir/run" ++plan.layouts=h100 >"$dir/out" 2>&1 &&
    fail "a training with plan.layouts"
grep -q 'plan.layouts is a question to `ns plan`' "$dir/out" || fail "a training with plan.layouts"
echo "ok what does not divide is refused with what would; a training does not take the question"
