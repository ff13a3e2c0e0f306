#!/bin/sh
# Settings do what they say, seen from outside: the two loss rules against losses of single rows, validation with and without its last
# short batch, weight decay of norms, a changed rate on resume.
set -u
root=$(cd "$(dirname "$0")/../.." && pwd)
# shellcheck source=tests/lib.sh
. "$root/tests/lib.sh"
cat >"$dir/config.json" <<'JSON'
{"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1,
 "num_attention_heads": 2, "num_key_value_heads": 2, "vocab_size": 640, "max_position_embeddings": 128, "rms_norm_eps": 1e-5,
 "rope_theta": 10000.0, "tie_word_embeddings": true, "hidden_act": "silu", "torch_dtype": "float32", "initializer_range": 0.3}
JSON
"$ns" init --config "$dir/config.json" --tokenizer "$root/examples/demo/tokenizer" --output "$dir/base" --dtype f32 >"$dir/log" 2>&1 || fail "init: $(cat "$dir/log")"
# four rows with 1, 3, 7 and 20 digits to learn, so that the two rules differ much; two more for validation
i=0
for digits in 1 123 1234567 12345678901234567890 98 7654; do
    i=$((i + 1))
    echo "{\"input\": \"row $i is \", \"output\": \"$digits\"}" | tee -a "$dir/six.jsonl" >"$dir/row$i.jsonl"
done
head -4 "$dir/six.jsonl" >"$dir/four.jsonl"

# sft NAME ROWS GBS [settings]: one step that changes nothing
sft() {
    name=$1 rows=$2 gbs=$3
    shift 3
    "$ns" sft ++model.restore_from_path="$dir/base" ++model.data.train_ds.file_path="$dir/$rows.jsonl" ++exp_manager.explicit_log_dir="$dir/$name" \
        ++trainer.precision=32 ++model.data.train_ds.global_batch_size="$gbs" ++trainer.sft.max_steps=1 ++trainer.sft.save_interval=-1 \
        ++model.optim.lr=0 "$@" >"$dir/$name.log" 2>&1 || fail "$name: $(tail -2 "$dir/$name.log")"
}
value() { sed -n "s/.*\"$2\": \\([0-9.e+-]*\\).*/\\1/p" "$dir/$1/metrics.jsonl" | head -1; }
for n in 1 2 3 4; do
    sft "one$n" "row$n" 1
    echo "$(value "one$n" loss) $(sed -n 's/.*, \([0-9]*\) targets.*/\1/p' "$dir/one$n.log" | head -1)"
done >"$dir/single"
sft token four 4
sft micro four 4 ++loss=micro_batch
awk -v token="$(value token loss)" -v micro="$(value micro loss)" '
    function off(a, b) { a = (a - b) / b; return a < 0 ? -a : a }
    { sum += $1 * $2; n += $2; mean += $1 / 4; rows++ }
    END {
        if (rows != 4 || n < 10 || off(sum / n, mean) < 0.001) { print "not ok the rows do not tell the rules apart"; exit 1 }
        if (off(token, sum / n) > 1e-6) { print "not ok loss=token: " token ", wanted " sum / n; exit 1 }
        if (off(micro, mean) > 1e-6) { print "not ok loss=micro_batch: " micro ", wanted " mean; exit 1 }
    }' "$dir/single" || exit 1
echo "ok loss=token is the mean over targets, loss=micro_batch the mean of micro-batch means"

val="++trainer.sft.val_check_interval=1 ++trainer.sft.limit_val_batches=1.0 ++model.data.validation_ds.global_batch_size=4"
# shellcheck disable=SC2086
{
    sft val6 four 4 $val ++model.data.validation_ds.file_path="$dir/six.jsonl"
    sft val6drop four 4 $val ++model.data.validation_ds.file_path="$dir/six.jsonl" ++model.data.validation_ds.drop_last=True
    sft val4 four 4 $val ++model.data.validation_ds.file_path="$dir/four.jsonl"
}
[ "$(value val6drop val_loss)" = "$(value val4 val_loss)" ] || fail "drop_last=True: $(value val6drop val_loss), the first batch alone $(value val4 val_loss)"
[ "$(value val6 val_loss)" != "$(value val4 val_loss)" ] || fail "the last short validation batch has no effect"
echo "ok the last short validation batch counts, and drop_last leaves it out"

for decay in true false; do
    sft "decay$decay" four 4 ++trainer.sft.save_interval=1 ++model.optim.lr=1e-3 ++model.optim.weight_decay=5 ++model.optim.norm_weight_decay=$decay
done
a=$(cat "$dir"/decaytrue/checkpoints/*-last/model.safetensors | cksum) b=$(cat "$dir"/decayfalse/checkpoints/*-last/model.safetensors | cksum)
[ "$a" != "$b" ] || fail "norm_weight_decay has no effect"
echo "ok norm_weight_decay has an effect"

"$ns" sft ++model.restore_from_path="$dir/base" ++model.data.train_ds.file_path="$dir/four.jsonl" ++exp_manager.explicit_log_dir="$dir/decaytrue" \
    ++trainer.precision=32 ++model.data.train_ds.global_batch_size=4 ++trainer.sft.max_steps=2 ++trainer.sft.max_epochs=9 \
    ++model.optim.lr=5e-3 >"$dir/log" 2>&1 || fail "resume: $(tail -2 "$dir/log")"
grep -q "learning-rate settings differ from the checkpoint" "$dir/log" || fail "a changed rate on resume is not announced"
echo "ok a changed rate on resume is announced"
