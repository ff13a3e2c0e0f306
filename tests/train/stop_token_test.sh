#!/bin/sh
# A base model without chat template, trained on conversations: what is saved, averaged and exported carries the template it was
# trained with, and its end of turn first in every eos_token_id. Rows of plain text that end with a special token: that token.
set -eu
root=$(cd "$(dirname "$0")/../.." && pwd)
# shellcheck source=tests/lib.sh
. "$root/tests/lib.sh"
check() { # NAME PATTERN FILE
    if tr -d ' \n' <"$3" | grep -qF "$2"; then echo "ok $1"; else echo "not ok $1: $2 not in $3:"; head -c 600 "$3"; fails=1; fi
}

cat >"$dir/config.json" <<'JSON'
{"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1,
 "num_attention_heads": 2, "num_key_value_heads": 2, "vocab_size": 1024, "max_position_embeddings": 512, "rms_norm_eps": 1e-5,
 "rope_theta": 10000.0, "tie_word_embeddings": false, "hidden_act": "silu", "torch_dtype": "bfloat16", "eos_token_id": 0}
JSON
for i in 1 2 3 4 5 6 7 8; do
    echo "{\"messages\": [{\"role\": \"user\", \"content\": \"$i?\"}, {\"role\": \"assistant\", \"content\": \"It is $i.\"}]}" >>"$dir/chat.jsonl"
    echo "{\"input\": \"$i: \", \"output\": \"It is $i.<|eot_id|>\"}" >>"$dir/text.jsonl"
done
"$ns" init --config "$dir/config.json" --tokenizer "$root/examples/demo/tokenizer" --output "$dir/base" >"$dir/log" 2>&1 || { cat "$dir/log"; exit 1; }

for rows in chat text; do
    if ! "$ns" sft ++model.restore_from_path="$dir/base" ++model.data.train_ds.file_path="$dir/$rows.jsonl" \
        ++exp_manager.explicit_log_dir="$dir/$rows" ++model.data.train_ds.global_batch_size=4 ++trainer.sft.max_steps=2 \
        ++trainer.sft.save_interval=1 >"$dir/log" 2>&1; then
        cat "$dir/log"
        exit 1
    fi
    saved=$(echo "$dir/$rows"/checkpoints/*-last)
    check "$rows rows: config.json" '"eos_token_id":[639,0]' "$saved/config.json"
    check "$rows rows: generation_config.json" '"eos_token_id":[639,0' "$saved/generation_config.json"
done
if ls "$dir"/text/checkpoints/*-last/chat_template.jinja >/dev/null 2>&1; then
    echo "not ok text rows: a chat template appeared"
    fails=1
fi
"$ns" average "$dir/chat/checkpoints" --output "$dir/averaged" --to nemo >"$dir/log" 2>&1 || { cat "$dir/log"; exit 1; }
for to in hf gguf; do
    "$ns" export "$dir/averaged" "$dir/$to" --convert_to $to >"$dir/log" 2>&1 || { cat "$dir/log"; exit 1; }
done
check "exported: config.json" '"eos_token_id":[639,0' "$dir/hf/config.json"
check "exported: generation_config.json" '"eos_token_id":[639,0' "$dir/hf/generation_config.json"
check "exported: template" '<|start_header_id|>assistant<|end_header_id|>' "$dir/hf/chat_template.jinja"
check "exported: template, for older readers" "\"chat_template\":\"{{'<|begin_of_text|>'}}{%formessageinmessages%}" "$dir/hf/tokenizer_config.json"
exit $fails
