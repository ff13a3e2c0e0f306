#!/bin/sh
# Every mistake: one clear line that names file, line or key, what was found, what was expected; non-zero exit; nothing lost.
set -u
root=$(cd "$(dirname "$0")/../.." && pwd)
# shellcheck source=tests/lib.sh
. "$root/tests/lib.sh"
trap 'chmod -R u+w "$dir"; rm -rf "$dir"' EXIT

cat >"$dir/config.json" <<'JSON'
{"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1,
 "num_attention_heads": 2, "num_key_value_heads": 2, "vocab_size": 1024, "max_position_embeddings": 512, "rms_norm_eps": 1e-5,
 "rope_theta": 10000.0, "tie_word_embeddings": false, "hidden_act": "silu", "torch_dtype": "bfloat16"}
JSON
for i in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do echo "{\"input\": \"$i plus 1 is \", \"output\": \"$((i + 1)).\"}"; done >"$dir/rows.jsonl"
"$ns" init --config "$dir/config.json" --tokenizer "$root/examples/demo/tokenizer" --output "$dir/base" >"$dir/log" 2>&1 || { cat "$dir/log"; exit 1; }

# shellcheck disable=SC2317 # called through expect
sft() {
    rows=$1 model=$2
    shift 2
    "$ns" sft ++model.restore_from_path="$model" ++model.data.train_ds.file_path="$rows" ++exp_manager.explicit_log_dir="$dir/out" \
        ++model.data.train_ds.global_batch_size=4 ++trainer.sft.max_steps=2 ++trainer.sft.save_interval=1 "$@"
}
# expect NAME PATTERN COMMAND...: fails, and one line of stderr matches the pattern
expect() {
    name=$1 pattern=$2
    shift 2
    "$@" >"$dir/log" 2>&1
    rc=$?
    if [ $rc -ne 0 ] && [ $rc -lt 126 ] && grep -qE "$pattern" "$dir/log"; then
        echo "ok $name"
    else
        echo "not ok $name (exit $rc): $(tail -2 "$dir/log")"
        fails=1
    fi
}

expect "unknown key, with a suggestion" 'model.optim.lrr.*model.optim.lr' sft "$dir/rows.jsonl" "$dir/base" ++model.optim.lrr=1
expect "batch does not divide, all numbers" 'global_batch_size=4 .*micro_batch_size=3' sft "$dir/rows.jsonl" "$dir/base" ++model.data.train_ds.micro_batch_size=3
expect "data set smaller than a batch" 'smaller than one global batch.*20 rows.*64' sft "$dir/rows.jsonl" "$dir/base" ++model.data.train_ds.global_batch_size=64
expect "a value of the wrong type" 'max_steps.*many' sft "$dir/rows.jsonl" "$dir/base" ++trainer.sft.max_steps=many
expect "a layout this build cannot run" 'tensor 4' sft "$dir/rows.jsonl" "$dir/base" ++model.tensor_model_parallel_size=4
expect "no such training file" 'nothere.jsonl.*No such file' sft "$dir/nothere.jsonl" "$dir/base"
expect "no such model" 'nomodel/config.json.*No such file' sft "$dir/rows.jsonl" "$dir/nomodel"

: >"$dir/empty.jsonl"
expect "empty file" 'empty.jsonl.*(no rows|empty)' sft "$dir/empty.jsonl" "$dir/base"
{ head -3 "$dir/rows.jsonl"; echo '{"input": "x", "output": }'; } >"$dir/broken.jsonl"
expect "broken JSON, file and line" 'broken.jsonl:4' sft "$dir/broken.jsonl" "$dir/base"
{ head -3 "$dir/rows.jsonl"; echo '{"input": "x", "outptu": "y"}'; } >"$dir/missing.jsonl"
expect "missing field, file and line" 'missing.jsonl:4.*output' sft "$dir/missing.jsonl" "$dir/base"
{ head -3 "$dir/rows.jsonl"; printf '{"input": "x\377", "output": "y"}\n'; } >"$dir/utf8.jsonl"
expect "invalid UTF-8, file and line" 'utf8.jsonl:4' sft "$dir/utf8.jsonl" "$dir/base"

cp -r "$dir/base" "$dir/cut"
head -c 5000 "$dir/base/model.safetensors" >"$dir/cut/model.safetensors"
expect "truncated safetensors" 'cut/model.safetensors' sft "$dir/rows.jsonl" "$dir/cut"
cp -r "$dir/base" "$dir/shape"
sed 's/"intermediate_size": 64/"intermediate_size": 96/' "$dir/base/config.json" >"$dir/shape/config.json"
expect "shape mismatch names tensor and shapes" 'gate_proj.weight.*64.*96|gate_proj.weight.*96.*64' sft "$dir/rows.jsonl" "$dir/shape"
cp -r "$dir/base" "$dir/shard"
rm "$dir/shard/model.safetensors"
printf '{"metadata": {"total_size": 1}, "weight_map": {"lm_head.weight": "model-00001-of-00002.safetensors"}}' >"$dir/shard/model.safetensors.index.json"
expect "missing shard is named" 'model-00001-of-00002.safetensors' sft "$dir/rows.jsonl" "$dir/shard"
cp -r "$dir/base" "$dir/small"
sed 's/"vocab_size": 1024/"vocab_size": 128/' "$dir/config.json" >"$dir/small.json"
rm -r "$dir/small"
"$ns" init --config "$dir/small.json" --output "$dir/small" >"$dir/log" 2>&1 || cat "$dir/log"
cp "$dir"/base/tokenizer* "$dir/small/"
expect "tokenizer and model do not belong together" 'do not belong together|vocabulary' sft "$dir/rows.jsonl" "$dir/small"

mkdir -p "$dir/ro"
chmod 555 "$dir/ro"
if [ "$(id -u)" != 0 ]; then
    expect "read-only output folder" 'ro.*(Permission denied|Read-only)' sft "$dir/rows.jsonl" "$dir/base" ++exp_manager.explicit_log_dir="$dir/ro/out"
fi
touch "$dir/file"
expect "output folder that cannot be made" 'file.*Not a directory' sft "$dir/rows.jsonl" "$dir/base" ++exp_manager.explicit_log_dir="$dir/file/out"

expect "a mandatory setting is named" 'restore_from_path' "$ns" sft ++model.data.train_ds.file_path="$dir/rows.jsonl"
expect "average: a missing step lists those present" 'step.*9.*1' sh -c "'$ns' sft ++model.restore_from_path='$dir/base' ++model.data.train_ds.file_path='$dir/rows.jsonl' ++exp_manager.explicit_log_dir='$dir/run' ++model.data.train_ds.global_batch_size=4 ++trainer.sft.max_steps=2 ++trainer.sft.save_interval=1 && '$ns' average --input '$dir/run/checkpoints' --output '$dir/avg' --steps 9"
expect "other training data on resume" 'other training data' sh -c "head -19 '$dir/rows.jsonl' >'$dir/rows2.jsonl'; '$ns' sft ++model.restore_from_path='$dir/base' ++model.data.train_ds.file_path='$dir/rows2.jsonl' ++exp_manager.explicit_log_dir='$dir/run' ++model.data.train_ds.global_batch_size=4 ++trainer.sft.max_steps=3"
expect "other batch size on resume" 'keep the batch size' sh -c "'$ns' sft ++model.restore_from_path='$dir/base' ++model.data.train_ds.file_path='$dir/rows.jsonl' ++exp_manager.explicit_log_dir='$dir/run' ++model.data.train_ds.global_batch_size=5 ++trainer.sft.max_steps=3"
expect "infer: sampling is not there yet, by name" 'temperature' "$ns" infer ++model="$dir/base" ++input_file="$dir/rows.jsonl" ++output_file="$dir/o.jsonl" ++inference.temperature=0.7
expect "grade: a row without a generation" 'rows.jsonl:1.*generation' "$ns" grade ++input_files="$dir/rows.jsonl"
exit $fails
