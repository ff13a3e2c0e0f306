#!/bin/sh
# A really full disk in the middle of a save: one clear line, exit code, the last complete checkpoint stays, and after making room the
# run goes on from it. Needs root for a small tmpfs; skips loudly otherwise.
set -u
root=$(cd "$(dirname "$0")/../.." && pwd)
# shellcheck source=tests/lib.sh
. "$root/tests/lib.sh"
trap 'umount "$dir/small" 2>/dev/null; rm -rf "$dir"' EXIT
mkdir "$dir/small"
if ! mount -t tmpfs -o size=6m tmpfs "$dir/small" 2>/dev/null; then
    echo "SKIP: a small tmpfs cannot be mounted (needs root)"
    exit 77
fi
cat >"$dir/config.json" <<'JSON'
{"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 1,
 "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 1024, "max_position_embeddings": 512, "rms_norm_eps": 1e-5,
 "rope_theta": 10000.0, "tie_word_embeddings": true, "hidden_act": "silu", "torch_dtype": "bfloat16"}
JSON
i=0
while [ $i -lt 64 ]; do
    echo "{\"input\": \"$i plus 1 is \", \"output\": \"$((i + 1)).\"}"
    i=$((i + 1))
done >"$dir/rows.jsonl"
"$ns" init --config "$dir/config.json" --tokenizer "$root/examples/demo/tokenizer" --output "$dir/base" >"$dir/log" 2>&1 || fail "init: $(cat "$dir/log")"
sft() {
    "$ns" sft ++model.restore_from_path="$dir/base" ++model.data.train_ds.file_path="$dir/rows.jsonl" ++exp_manager.explicit_log_dir="$dir/small/out" \
        ++model.data.train_ds.global_batch_size=8 ++model.data.train_ds.micro_batch_size=8 ++trainer.sft.max_steps=40 ++trainer.sft.max_epochs=100 \
        ++trainer.sft.save_interval=1 ++exp_manager.checkpoint_callback_params.save_top_k=-1 \
        ++exp_manager.checkpoint_callback_params.keep_optimizer=100 >"$dir/log" 2>&1
}
sft
rc=$?
if [ $rc -eq 0 ] || [ $rc -ge 126 ]; then fail "exit $rc on a full disk: $(tail -2 "$dir/log")"; fi
grep -qE 'No space left on device' "$dir/log" || fail "the message: $(tail -2 "$dir/log")"
echo "ok a full disk is one clear line: $(grep 'No space left' "$dir/log" | head -1 | cut -c1-100)"
n=$(find "$dir/small/out/checkpoints" -maxdepth 1 -name '*-last' | wc -l)
[ "$n" -ge 1 ] || fail "a complete -last checkpoint is left"
last=$(find "$dir/small/out/checkpoints" -maxdepth 1 -name '*-last' | sed 's/.*step=\([0-9]*\)-.*/\1/' | sort -n | tail -1)
find "$dir/small/out/checkpoints" -maxdepth 1 -name '*step=*epoch=*' ! -name '*-last' | sort -t= -k3 -n | head -3 | xargs rm -rf
sft
grep -q "resumed .*step $last of 40" "$dir/log" || fail "resumes from step $last: $(grep resumed "$dir/log")"
echo "ok after making room the run resumes from step $last"
