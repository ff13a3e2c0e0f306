#!/bin/sh
# Rows that training will not see as they were written: counted, listed, and beyond a stated share a reason not to start.
set -u
root=$(cd "$(dirname "$0")/../.." && pwd)
# shellcheck source=tests/lib.sh
. "$root/tests/lib.sh"
cat >"$dir/config.json" <<'JSON'
{"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1,
 "num_attention_heads": 2, "num_key_value_heads": 2, "vocab_size": 640, "max_position_embeddings": 128, "rms_norm_eps": 1e-5,
 "rope_theta": 10000.0, "tie_word_embeddings": true, "hidden_act": "silu", "torch_dtype": "float32"}
JSON
"$ns" init --config "$dir/config.json" --tokenizer "$root/examples/demo/tokenizer" --output "$dir/base" --dtype f32 >"$dir/log" 2>&1 || fail "init: $(cat "$dir/log")"
for i in 1 2 3 4 5 6; do echo "{\"input\": \"row $i is \", \"output\": \"$i$i\"}"; done >"$dir/rows.jsonl"
long="a long question that goes on, and on, and on, and on, and on, and on, and on, and on, and on, and on, and on, and on"
{
    echo "{\"input\": \"$long\", \"output\": \"7\"}" # line 7
    echo "{\"input\": \"row 1 is \", \"output\": \"11\"}" # line 8 repeats line 1
    echo "{\"input\": \"nothing\", \"output\": \"\"}" # line 9
    echo "{\"input\": \"row 10 is \", \"output\": \"10\"}"
} >>"$dir/rows.jsonl"

sft() { # NAME [settings]
    name=$1
    shift
    "$ns" sft ++model.restore_from_path="$dir/base" ++model.data.train_ds.file_path="$dir/rows.jsonl" ++exp_manager.explicit_log_dir="$dir/$name" \
        ++trainer.precision=32 ++model.data.train_ds.global_batch_size=2 ++trainer.sft.max_steps=2 ++trainer.sft.save_interval=-1 "$@" >"$dir/$name.log" 2>&1
}
refused() { # NAME PATTERN [settings]
    name=$1 pattern=$2
    shift 2
    sft "$name" "$@" && fail "$name: not refused"
    grep -qE "$pattern" "$dir/$name.log" || fail "$name: $(tail -2 "$dir/$name.log")"
    [ ! -e "$dir/$name/metrics.jsonl" ] || fail "$name: a step was taken"
    echo "ok $name"
}
listed() { # NAME PATTERN: a line of the report
    grep -qE "$2" "$dir/$1/row_report.jsonl" || fail "$1: no $2 in $(cat "$dir/$1/row_report.jsonl")"
}
cut=++model.data.train_ds.max_seq_length=30
refused masked '1 of 10 rows have no trained token, 10.00 %, more than max_masked_share=0.01'
listed masked '"line": 9, "reason": "no_target"'
listed masked '"line": 8, "reason": "duplicate".*"same_as_line": 1'
refused truncated '1 of 10 rows are longer .* truncated, .* max_truncated_share=0.05' ++max_masked_share=0.2 ++max_truncated_share=0.05 "$cut"
listed truncated '"line": 7, "reason": "truncated", "tokens": [0-9]+, "kept_tokens": 30, "trained_tokens": '
refused repeated '1 of 10 rows repeat an earlier row.*max_duplicate_share=0.05' ++max_masked_share=0.2 ++max_duplicate_share=0.05
refused dropped '1 of 10 rows .* dropped.*max_dropped_share=0.05' ++max_masked_share=0.2 ++max_dropped_share=0.05 "$cut" ++model.data.train_ds.truncation_method=drop
listed dropped '"line": 7, "reason": "dropped", "tokens": [0-9]+, "kept_tokens": 0'
listed dropped '"line": 8, "reason": "duplicate".*"same_as_line": 1'
refused error 'rows.jsonl:7: the row has [0-9]+ tokens, max_seq_length is 30' "$cut" ++model.data.train_ds.truncation_method=error
sft within ++max_masked_share=0.2 "$cut" || fail "within the shares: $(tail -2 "$dir/within.log")"
listed within '"line": 7, "reason": "truncated"'
[ "$(grep -c . "$dir/within/metrics.jsonl")" -ge 2 ] || fail "no steps"
echo "ok within the shares it trains, and lists"
sft all ++allow_masked_rows=true ++max_truncated_share=0 "$cut" || fail "allow_masked_rows: $(tail -2 "$dir/all.log")"
echo "ok allow_masked_rows lets everything pass"
sft drop ++max_masked_share=0.2 "$cut" ++model.data.train_ds.truncation_method=drop || fail "drop: $(tail -2 "$dir/drop.log")"
grep -q 'rows       9 ' "$dir/drop.log" || fail "drop: not 9 rows: $(grep rows "$dir/drop.log")"
echo "ok a dropped row is not trained on"
refused separator 'add_sep=True.*sep_id' ++max_masked_share=0.2 ++model.data.train_ds.add_sep=True
sft plain ++max_masked_share=0.2 || fail "plain: $(tail -2 "$dir/plain.log")"
sft sep ++max_masked_share=0.2 ++model.data.train_ds.add_sep=True ++model.data.train_ds.sep_id=5 || fail "sep: $(tail -2 "$dir/sep.log")"
tokens() { sed -n 's/.*rows       10 ([^)]*), \([0-9]*\) tokens.*/\1/p' "$dir/$1.log"; }
[ "$(tokens sep)" = $(($(tokens plain) + 10)) ] || fail "add_sep: $(tokens sep) tokens, without $(tokens plain)"
echo "ok add_sep puts one token into each row"
"$ns" plan ++model.restore_from_path="$dir/base" ++model.data.train_ds.file_path="$dir/rows.jsonl" ++exp_manager.explicit_log_dir="$dir/planned" >"$dir/log" 2>&1 && fail "plan: not refused"
[ ! -e "$dir/planned" ] || fail "plan wrote something"
echo "ok plan refuses too, and writes nothing"
