#!/bin/sh
# Training on packs: the documented settings as typed, packs of the original, packs made in memory, what a step reports, refusals;
# 30 steps give one curve on every layout; bit-equal when repeated, and through kill -9 and resume. (Gradients: packs_grad_test.c.)
set -u
root=$(cd "$(dirname "$0")/../.." && pwd)
# shellcheck source=tests/lib.sh
. "$root/tests/lib.sh"
data=${NS_TEST_DATA:-$root/../shared/data}
export NS_THREADS=1 NS_ACCELERATOR=cpu
model() { # NAME ARCHITECTURE TYPE VOCABULARY HIDDEN TOKENIZER
    cat >"$dir/config.json" <<JSON
{"architectures": ["$2"], "model_type": "$3", "hidden_size": $5, "intermediate_size": $(($5 * 2)), "num_hidden_layers": 2,
 "num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 16, "vocab_size": $4, "max_position_embeddings": 2048, "rms_norm_eps": 1e-5,
 "rope_theta": 10000.0, "tie_word_embeddings": true, "hidden_act": "silu", "torch_dtype": "float32", "initializer_range": 0.05}
JSON
    "$ns" init --config "$dir/config.json" --tokenizer "$6" --output "$dir/$1" --seed 7 >"$dir/init.log" 2>&1 || fail "ns init: $(cat "$dir/init.log")"
}
demo=$root/examples/demo/tokenizer
model llama LlamaForCausalLM llama 1026 128 "$demo"
model qwen Qwen2ForCausalLM qwen2 1025 128 "$demo"
sums 300 long >"$dir/rows.jsonl"
head -40 "$dir/rows.jsonl" >"$dir/val.jsonl"
pack() { # OUT [settings]
    out=$1
    shift
    "$ns" pack "++model.data.train_ds.file_names=[$dir/rows.jsonl]" ++model.data.train_ds.max_seq_length=256 ++tokenizer_path="$dir/llama" \
        ++output_dir="$dir/$out" "++pack_sizes=[256]" ++model.data.train_ds.hf_dataset=True "$@" >"$dir/pack.log" 2>&1 || fail "ns pack: $(why "$dir/pack.log")"
}
pack p
n_each=$(sed -n 's/.*sequences per pack is n = \([0-9.]*\).*/\1/p' "$dir/pack.log" | tail -1)
pack exact ++loss_mask=exact
pack cp2 ++model.context_parallel_size=2
n=$(sed -n 's/.*"packs": \([0-9]*\).*/\1/p' "$dir/p/packed_256_seed0.meta.json")

# sft OUT DATA [settings]
sft() {
    out=$dir/$1 from=$2
    shift 2
    ${prefix:-} "$ns" sft ++model.restore_from_path="$dir/${base:-llama}" ++model.data.train_ds.file_path="$from" \
        ++exp_manager.explicit_log_dir="$out" ++model.data.train_ds.packed_sequence=True ++model.data.train_ds.micro_batch_size=1 \
        ++model.data.train_ds.max_seq_length=256 ++model.optim.lr=1e-3 ++model.optim.sched.min_lr=1e-4 ++model.optim.sched.max_steps=30 \
        ++trainer.sft.gradient_clip_val=1.0 ++trainer.sft.max_epochs=100 "$@" >>"$out.log" 2>&1
}
refuses() { # PATTERN OUT DATA [settings]
    pattern=$1
    shift
    rm -f "$dir/$1.log"
    sft "$@" && fail "not refused: $pattern"
    [ "$(grep -c '^ns sft' "$dir/$1.log")" = 1 ] || fail "one line for: $pattern: $(cat "$dir/$1.log")"
    grep -qE "$pattern" "$dir/$1.log" || fail "wanted '$pattern': $(tail -2 "$dir/$1.log")"
}
packed=$dir/p/packed_256_seed0.npy

# ---- the documented words, and what a step says ----
sft doc "$packed" ++model.data.train_ds.global_batch_size=8.0 ++trainer.sft.max_steps=4 || fail "documented: $(why "$dir/doc.log")"
awk -F'"examples": |"tokens": |"target_tokens": |, "step_time' '/"loss"/ { n++; ok += $2 + 0 > 20 && $3 + 0 > 1500 && $3 + 0 <= 8 * 256 && $4 + 0 > 500 && $4 + 0 < $3 + 0 } END { exit !(n == 4 && ok == 4) }' \
    "$dir/doc/metrics.jsonl" || fail "examples and target tokens of a step: $(cat "$dir/doc/metrics.jsonl")"
grep -q '"consumed_samples": 32' "$dir/doc/metrics.jsonl" || fail "packs count as samples"
sft three "$packed" ++model.data.train_ds.global_batch_size="$n.0" ++trainer.sft.max_steps=1 ++trainer.sft.save_interval=-1 || fail "whole set: $(why "$dir/three.log")"
grep -q '"examples": 300,' "$dir/three/metrics.jsonl" || fail "all packs hold all examples"
echo "ok the documented settings; examples and target tokens a step"

# ---- validation as rows and as packs ----
sft vrows "$packed" ++model.data.train_ds.global_batch_size=8 ++model.data.validation_ds.file_path="$dir/val.jsonl" ++trainer.sft.max_steps=2 \
    ++trainer.sft.limit_val_batches=1.0 || fail "validation rows: $(why "$dir/vrows.log")"
sft vpacks "$dir/rows.jsonl" ++model.data.train_ds.packed_sequence=False ++model.data.train_ds.global_batch_size=8 ++model.data.validation_ds.packed_sequence=True \
    ++model.data.validation_ds.file_path="$dir/exact/packed_256_seed0.npy" ++trainer.sft.max_steps=2 ++trainer.sft.limit_val_batches=1.0 ++trainer.precision=32 ||
    fail "validation packs: $(why "$dir/vpacks.log")"
sft vsame "$dir/rows.jsonl" ++model.data.train_ds.packed_sequence=False ++model.data.train_ds.global_batch_size=8 ++trainer.sft.max_steps=2 \
    ++trainer.sft.limit_val_batches=1.0 ++trainer.precision=32 || fail "validation rows: $(why "$dir/vsame.log")"
for k in vpacks vsame; do sed -n 's/.*"val_loss": \([^,]*\),.*/\1/p' "$dir/$k/metrics.jsonl" >"$dir/$k.val"; done
paste "$dir/vpacks.val" "$dir/vsame.val" | awk '{ d = ($1 - $2) / $1; if (d < 0) d = -d; if (d > 1e-6) bad = 1; n++ } END { exit !(n == 1 && !bad) }' ||
    fail "validation on packs and on rows: $(cat "$dir/vpacks.val" "$dir/vsame.val")"
echo "ok validation as rows and as packs: the same loss"

# ---- batches ----
sft derived "$packed" ++model.data.train_ds.global_batch_examples=64 ++trainer.sft.max_steps=2 ++trainer.sft.save_interval=-1 || fail "global_batch_examples: $(why "$dir/derived.log")"
grep -qE 'global_batch_examples=64, n = 8\.[0-9]* sequences a pack: global_batch_size=[78] packs' "$dir/derived.log" || fail "derived: $(grep n: "$dir/derived.log")"
refuses 'global_batch_size=9 packs are not divisible by 2 data-parallel ranks: the nearest valid values are 8 and 10' bad "$packed" ++model.data.train_ds.global_batch_size=9 ++trainer.devices=2
refuses 'nearest valid value is 2' bad "$packed" ++model.data.train_ds.global_batch_size=1 ++trainer.devices=2
refuses 'global_batch_examples=64 and global_batch_size=8: set one' bad "$packed" ++model.data.train_ds.global_batch_examples=64 ++model.data.train_ds.global_batch_size=8
refuses 'micro_batch_size=4 with packed_sequence=True: a pack is a micro-batch, use 1' bad "$packed" ++model.data.train_ds.micro_batch_size=4
refuses 'expected an? .*integ|138.5' bad "$packed" ++model.data.train_ds.global_batch_size=138.5
refuses "data set smaller than one global batch: .* has $n packs" bad "$packed"

# ---- what the plan says of packs ----
plan() {
    "$ns" plan ++model.restore_from_path="$dir/llama" ++exp_manager.explicit_log_dir="$dir/none" ++model.data.train_ds.max_seq_length=256 \
        ++trainer.sft.save_interval=-1 "$@" 2>&1
}
plan ++model.data.train_ds.file_path="$packed" ++model.data.train_ds.packed_sequence=True ++model.data.train_ds.global_batch_size=8 >"$dir/plan" || fail "plan: $(cat "$dir/plan")"
want=$(awk -v n="$n_each" 'BEGIN { printf "batches    128 examples: %.0f, 256 examples: %.0f,", 128 / n, 256 / n }')
grep -qF "$want" "$dir/plan" || fail "plan of packs, wanted '$want': $(cat "$dir/plan")"
plan --json ++model.data.train_ds.file_path="$packed" ++model.data.train_ds.packed_sequence=True ++model.data.train_ds.global_batch_size=8 ++trainer.devices=4 >"$dir/plan" || fail "plan: $(cat "$dir/plan")"
grep -qE '"packs": \{"packs": [0-9]+, "size": 256, "full": 0\.9[0-9]+, "n": 8\.[0-9]+, .*"global_batch_size_for_examples": \{"128": 16, "256": 32,' "$dir/plan" || fail "plan --json of packs: $(cat "$dir/plan")"
plan ++model.data.train_ds.file_path="$dir/rows.jsonl" ++model.data.train_ds.global_batch_size=64 >"$dir/plan" || fail "plan: $(cat "$dir/plan")"
grep -qE 'as packs   [0-9]+ of 256 tokens, 9[0-9.]+ % full, n = 8\.[0-9]+ rows each: .*packed_sequence=True .*global_batch_size=[78] keeps a step at 64 examples; [0-9.]+ MB instead of' "$dir/plan" ||
    fail "plan of rows: $(cat "$dir/plan")"
echo "ok ns plan says what a batch of packs is, and what packing would give"

# ---- files that are not what they should be ----
cp -r "$dir/p" "$dir/two"
rm "$dir/two/packed_256_seed0.seq_start_id.npy"
g=++model.data.train_ds.global_batch_size=8
refuses 'packed_256_seed0.seq_start_id.npy: missing: a pack is three files' bad "$dir/two/packed_256_seed0.npy" $g
refuses 'nothere.npy: no packs: expected .*nothere.\[input_ids\|loss_mask\|seq_start_id\].npy' bad "$dir/nothere.npy" $g
refuses 'packs of 256 tokens, but model.data.train_ds.max_seq_length=128: set \+\+model.data.train_ds.max_seq_length=256' bad "$packed" $g ++model.data.train_ds.max_seq_length=128
refuses 'names pack files: set \+\+model.data.train_ds.packed_sequence=True' bad "$packed" $g ++model.data.train_ds.packed_sequence=False
refuses 'pack_size: .* is packed already' bad "$packed" $g ++model.data.train_ds.pack_size=128
refuses 'pack_size is of use only with' bad "$dir/rows.jsonl" $g ++model.data.train_ds.packed_sequence=False ++model.data.train_ds.pack_size=128
printf old >"$dir/old.npy"
refuses 'a pack in one file, the old form' bad "$dir/old.npy" $g
sed 's/"tokenizer_hash": "[0-9a-f]*"/"tokenizer_hash": "0123456789abcdef"/' "$dir/p/packed_256_seed0.meta.json" >"$dir/two/packed_256_seed0.meta.json"
cp "$dir/p/packed_256_seed0.seq_start_id.npy" "$dir/two/"
refuses 'was packed with the tokenizer of .*llama, the model.s .* is another: pack the rows again' bad "$dir/two/packed_256_seed0.npy" $g
rm "$dir/two/packed_256_seed0.meta.json"
sft nometa "$dir/two/packed_256_seed0.npy" $g ++trainer.sft.max_steps=1 ++trainer.sft.save_interval=-1 || fail "packs without metadata: $(why "$dir/nometa.log")"
grep -q 'WARN.*packed by another program' "$dir/nometa.log" || fail "a warning for packs without metadata"
echo "ok batches, files and settings that do not fit are refused by name"

# ---- packs in memory are the packs of files ----
s="++trainer.sft.max_steps=12 ++trainer.sft.save_interval=4 $g"
# shellcheck disable=SC2086
{
    sft files "$dir/exact/packed_256_seed0.npy" $s ++model.data.validation_ds.file_path="$dir/val.jsonl" || fail "packs of files: $(why "$dir/files.log")"
    sft memory "$dir/rows.jsonl" $s ++model.data.validation_ds.file_path="$dir/val.jsonl" || fail "packs in memory: $(why "$dir/memory.log")"
    same files memory ! -name state.json ! -name DONE || fail "packs of files and in memory train the same model"
    grep -q 'average number of sequences per pack is n = 8' "$dir/memory.log" || fail "n of packs in memory"
    # a global batch of so many examples, packed step by step
    sft exactly "$dir/rows.jsonl" ++model.data.train_ds.global_batch_examples=64 ++trainer.sft.max_steps=12 ++trainer.sft.save_interval=4 ++model.data.train_ds.packing_algorithm=best_fit ||
        fail "examples: $(why "$dir/exactly.log")"
    [ "$(grep -c '"examples": 64,' "$dir/exactly/metrics.jsonl")" = 12 ] || fail "64 examples a step"
    sft unpacked "$dir/rows.jsonl" ++model.data.train_ds.packed_sequence=False ++model.data.train_ds.global_batch_size=64 ++trainer.sft.max_steps=12 ++trainer.sft.save_interval=4 ++trainer.precision=32 ||
        fail "rows: $(why "$dir/unpacked.log")"
    sft packed32 "$dir/rows.jsonl" ++model.data.train_ds.global_batch_examples=64 ++trainer.sft.max_steps=12 ++trainer.sft.save_interval=4 ++trainer.precision=32 ||
        fail "examples, f32: $(why "$dir/packed32.log")"
    sft packed32x4 "$dir/rows.jsonl" ++model.data.train_ds.global_batch_examples=64 ++trainer.sft.max_steps=12 ++trainer.sft.save_interval=-1 ++trainer.precision=32 \
        ++trainer.devices=4 ++model.context_parallel_size=2 ++model.data.train_ds.packing_algorithm=first_fit_decreasing || fail "examples, four ranks: $(why "$dir/packed32x4.log")"
}
near packed32x4 unpacked 12 3e-7 1.2e-6 || fail "a batch of 64 examples packed on context 2 x data 2 has another curve"
near packed32 unpacked 12 3e-7 1.2e-6 || fail "a batch of 64 examples, packed and not, has another curve"
echo "ok packs in memory are those of files; batches of so many examples train as rows do"

# ---- chat rows, with the tokenizer's own template: packed by ns pack, in memory, and not packed ----
cp -r "$dir/llama" "$dir/chatty"
cat >"$dir/chatty/chat_template.jinja" <<'X'
{% for m in messages %}<|start_header_id|>{{ m.role }}{{ shout }}<|end_header_id|>{{ m.content }}<|eot_id|>{% endfor %}
X
awk 'BEGIN { for (i = 0; i < 200; i++) printf "{\"messages\": [{\"role\": \"user\", \"content\": \"What is %d plus %d?\"}, {\"role\": \"assistant\", \"content\": \"It is %d.\"}, {\"role\": \"user\", \"content\": \"Sure?\"}, {\"role\": \"assistant\", \"content\": \"Yes, %d.\"}]}\n", i, i % 13, i + i % 13, i + i % 13 }' >"$dir/chat.jsonl"
words="++model.data.chat_template_kwargs={shout:X} ++model.data.mask_history=true"
# shellcheck disable=SC2086
"$ns" pack "++model.data.train_ds.file_names=[$dir/chat.jsonl]" ++model.data.train_ds.max_seq_length=256 ++tokenizer_path="$dir/chatty" ++output_dir="$dir/chat" \
    "++pack_sizes=[256]" ++loss_mask=exact $words >"$dir/pack.log" 2>&1 || fail "ns pack, chat rows: $(tail -3 "$dir/pack.log")"
grep -q 'chat.jsonl: 200 rows, format messages, layout .*chatty/chat_template.jinja' "$dir/pack.log" || fail "chat rows: $(grep rows "$dir/pack.log")"
base=chatty
# shellcheck disable=SC2086
{
    sft chatfile "$dir/chat/packed_256_seed0.npy" ++trainer.sft.max_steps=4 ++trainer.sft.save_interval=-1 $g ++trainer.precision=32 || fail "packs of chat rows: $(tail -3 "$dir/chatfile.log")"
    sft chatmemory "$dir/chat.jsonl" ++trainer.sft.max_steps=4 ++trainer.sft.save_interval=-1 $g ++trainer.precision=32 $words || fail "chat rows, packed in memory: $(tail -3 "$dir/chatmemory.log")"
    sft chatother "$dir/chat.jsonl" ++trainer.sft.max_steps=4 ++trainer.sft.save_interval=-1 $g ++trainer.precision=32 || fail "chat rows: $(tail -3 "$dir/chatother.log")"
    sft chatpacked "$dir/chat.jsonl" ++model.data.train_ds.global_batch_examples=40 ++trainer.sft.max_steps=4 ++trainer.sft.save_interval=-1 ++trainer.precision=32 $words || fail "chat rows: $(tail -3 "$dir/chatpacked.log")"
    sft chatrows "$dir/chat.jsonl" ++model.data.train_ds.packed_sequence=False ++model.data.train_ds.global_batch_size=40 ++trainer.sft.max_steps=4 ++trainer.sft.save_interval=-1 ++trainer.precision=32 $words || fail "chat rows: $(tail -3 "$dir/chatrows.log")"
}
base=llama
[ "$(curve chatfile)" = "$(curve chatmemory)" ] || fail "chat rows: packs of files and in memory train differently"
[ "$(curve chatmemory)" != "$(curve chatother)" ] || fail "chat rows: the settings of chat rows change nothing"
near chatpacked chatrows 4 3e-7 1.2e-6 || fail "chat rows, packed and not, have another curve"
echo "ok chat rows pack: by the tokenizer's template, in files and in memory the same, as rows train"

# ---- resume: packs of files, packs in memory, packs of a step ----
kill_and_resume() { # LIKE OUT DATA [settings]
    like=$1
    shift
    (
        prefix="exec"
        sft "$@"
    ) &
    pid=$!
    t=0
    while { [ ! -e "$dir/$1/metrics.jsonl" ] || [ "$(steps "$1")" -lt 6 ]; } && [ $t -lt 3000 ] && kill -0 $pid 2>/dev/null; do
        t=$((t + 1))
        sleep 0.01
    done
    kill -9 $pid 2>/dev/null
    wait $pid 2>/dev/null
    sft "$@" || fail "resume of $1: $(why "$dir/$1.log")"
    same "$like" "$1" ! -name state.json ! -name DONE || fail "$1: after kill -9 and resume the result differs"
    grep -q resumed "$dir/$1.log" || echo "# $1 had ended before it could be killed"
}
# shellcheck disable=SC2086
{
    kill_and_resume files files-killed "$dir/exact/packed_256_seed0.npy" $s ++model.data.validation_ds.file_path="$dir/val.jsonl"
    kill_and_resume memory memory-killed "$dir/rows.jsonl" $s ++model.data.validation_ds.file_path="$dir/val.jsonl"
    kill_and_resume exactly exactly-killed "$dir/rows.jsonl" ++model.data.train_ds.global_batch_examples=64 ++trainer.sft.max_steps=12 ++trainer.sft.save_interval=4 ++model.data.train_ds.packing_algorithm=best_fit
    rm -f "$dir/memory.log"
    sft memory "$dir/rows.jsonl" $s ++model.data.validation_ds.file_path="$dir/val.jsonl" ++trainer.sft.max_steps=14 ++model.data.train_ds.packing_seed=1 && fail "other packs are other data"
    grep -q "was saved with other training data" "$dir/memory.log" || fail "other packs: $(tail -2 "$dir/memory.log")"
}
echo "ok killed and resumed: bit-equal, with packs of files, in memory and step by step; other packs are refused"

# ---- one curve on every layout ----
layouts="1_1_2_1 2_2_1_1 2_1_1_2"
[ -n "${NS_FULL:-}" ] && layouts="$layouts 2_1_1_1 1_2_1_1 1_1_1_2 4_1_1_1 1_4_1_1 1_1_4_1 1_3_1_1 2_1_2_1 1_2_2_1 2_2_2_1 2_1_2_2 1_2_1_2"
s="++trainer.sft.max_steps=30 ++trainer.sft.save_interval=15 ++model.data.train_ds.global_batch_size=8 ++trainer.precision=32"
for base in llama qwen; do
    for file in p cp2; do
        [ $base$file = qwencp2 ] && [ -z "${NS_FULL:-}" ] && continue
        # shellcheck disable=SC2086
        sft $base-$file-1 "$dir/$file/packed_256_seed0.npy" $s || fail "$base, one rank: $(why "$dir/$base-$file-1.log")"
        for layout in $layouts; do
            # shellcheck disable=SC2046
            set -- $(echo "$layout" | tr _ ' ')
            # shellcheck disable=SC2086
            sft "$base-$file-$layout" "$dir/$file/packed_256_seed0.npy" $s ++model.tensor_model_parallel_size="$1" ++model.context_parallel_size="$2" \
                ++model.pipeline_model_parallel_size="$4" ++trainer.devices=$(($1 * $2 * $3 * $4)) ||
                fail "$base $file $layout: $(why "$dir/$base-$file-$layout.log")"
            near "$base-$file-$layout" $base-$file-1 30 3e-7 1.2e-6 || fail "$base $file, tensor_context_data_pipeline $layout: another curve"
        done
    done
done
base=llama
# shellcheck disable=SC2086
sft again "$packed" $s ++model.tensor_model_parallel_size=2 ++model.context_parallel_size=2 ++trainer.devices=4 || fail "again: $(why "$dir/again.log")"
same llama-p-2_2_1_1 again ! -name state.json ! -name DONE || fail "tp 2 x cp 2 on packs does not repeat itself"
# shellcheck disable=SC2086
sft again2 "$packed" $s ++trainer.devices=2 || fail "again: $(why "$dir/again2.log")"
same llama-p-1_1_2_1 again2 ! -name state.json ! -name DONE || fail "dp 2 on packs does not repeat itself"
echo "ok layouts (tensor_context_data_pipeline) $layouts: 30 steps on packs as on one rank; repeated: bit-equal"

# ---- the original's packs ----
if [ ! -d "$data/sft/packed_example" ]; then
    echo "SKIP: no test data in $data: the original's packs are not trained on"
    exit 0
fi
mkdir "$dir/tok"
cp "$data/tokenizers/llama3/tokenizer.assembled.json" "$dir/tok/tokenizer.json"
model llama3 LlamaForCausalLM llama 128256 128 "$dir/tok"
base=llama3
sft theirs "$data/sft/packed_example/packed_1024_seed0.npy" ++model.data.train_ds.global_batch_size=4.0 ++model.data.train_ds.max_seq_length=1024 ++model.context_parallel_size=2 \
    ++trainer.devices=2 ++trainer.sft.max_steps=2 ++trainer.sft.save_interval=-1 || fail "the original's packs: $(why "$dir/theirs.log")"
grep -q 'WARN.*packed by another program' "$dir/theirs.log" || fail "a warning for the original's packs"
[ "$(steps theirs)" = 2 ] || fail "two steps on the original's packs"
base=llama
refuses 'token id 128000, but the model has' bad "$data/sft/packed_example/packed_1024_seed0.npy" $g ++model.data.train_ds.max_seq_length=1024
echo "ok the original's packs train, with a warning; a model of another vocabulary refuses them"
