#!/bin/sh
# A model by its name, in every verb that takes one: found in the Hugging Face cache (refs/main, else the newest snapshot), by the NeMo
# container's tokenizer.type, or one line that lists the places tried and says what to do.
set -u
root=$(cd "$(dirname "$0")/../.." && pwd)
# shellcheck source=tests/lib.sh
. "$root/tests/lib.sh"
export HF_HUB_CACHE="$dir/hub"
cat >"$dir/config.json" <<'JSON'
{"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1,
 "num_attention_heads": 2, "num_key_value_heads": 2, "vocab_size": 1024, "max_position_embeddings": 512, "rms_norm_eps": 1e-5,
 "rope_theta": 10000.0, "tie_word_embeddings": false, "hidden_act": "silu", "torch_dtype": "bfloat16"}
JSON
snapshot="$dir/hub/models--org--tiny/snapshots/0123456789abcdef0123456789abcdef01234567"
mkdir -p "$snapshot" "$dir/hub/models--org--tiny/refs" "$dir/hub/models--org--tiny/snapshots/ffff"
"$ns" init --config "$dir/config.json" --tokenizer "$root/examples/demo/tokenizer" --output "$dir/m" >"$dir/log" 2>&1 || { cat "$dir/log"; exit 1; }
cp "$dir/m"/* "$snapshot/"
printf 0123456789abcdef0123456789abcdef01234567 >"$dir/hub/models--org--tiny/refs/main"
echo '{"input": "1: ", "output": "It is 1."}' >"$dir/rows.jsonl"
for i in 2 3 4 5 6 7 8; do echo "{\"input\": \"$i: \", \"output\": \"It is $i.\"}" >>"$dir/rows.jsonl"; done

good() { # NAME COMMAND...
    name=$1
    shift
    if "$@" >"$dir/log" 2>&1; then echo "ok $name"; else
        echo "not ok $name: $(tail -2 "$dir/log")"
        fails=1
    fi
}
bad() { # NAME COMMAND...: one clear line
    name=$1
    shift
    if "$@" >"$dir/log" 2>&1; then
        echo "not ok $name: it went through"
        fails=1
    elif grep -q 'models--org--none' "$dir/log" && grep -q 'ns download org/none' "$dir/log"; then
        echo "ok $name"
    else
        echo "not ok $name: $(tail -2 "$dir/log")"
        fails=1
    fi
}
cd "$dir" || exit 1
for m in org/tiny org/none; do
    test=good
    [ $m = org/none ] && test=bad
    $test "show $m" "$ns" show $m
    $test "diff $m" "$ns" diff m $m
    $test "tokenize $m" "$ns" tokenize -t $m --text "1 2"
    $test "inspect $m" "$ns" inspect rows.jsonl -t $m
    $test "init --tokenizer $m" "$ns" init --config config.json --tokenizer $m --output "again-$test"
    $test "export --input_model $m" "$ns" export --input_model $m --output_model "nemo-$test" --convert_to nemo
    $test "infer $m" "$ns" infer ++model=$m ++input_file=rows.jsonl ++output_file="out-$test.jsonl" ++input_key=input ++inference.tokens_to_generate=1
    $test "plan $m" "$ns" plan ++model.restore_from_path=$m ++model.data.train_ds.file_path=rows.jsonl ++exp_manager.explicit_log_dir=run ++model.data.train_ds.global_batch_size=4 ++trainer.sft.max_steps=1
    $test "sft $m" "$ns" sft ++model.restore_from_path=$m ++model.data.train_ds.file_path=rows.jsonl ++exp_manager.explicit_log_dir="run-$test" ++model.data.train_ds.global_batch_size=4 ++trainer.sft.max_steps=1
    $test "model.tokenizer_path $m" "$ns" plan ++model.restore_from_path=m ++model.tokenizer_path=$m ++model.data.train_ds.file_path=rows.jsonl ++exp_manager.explicit_log_dir=run ++model.data.train_ds.global_batch_size=4 ++trainer.sft.max_steps=1
done

is "a slip in a path is no name" 3 "model 'm/nothing': no such file or folder in m/" "$ns" show m/nothing
grep -q download "$dir/out" && not_ok "a path that does not exist is not to be downloaded"

# a container without a tokenizer of its own: --hf_model_name, the name that model_config.yaml says, none
good "export names its tokenizer" "$ns" export m named --convert_to nemo --hf_model_name org/tiny
rm -r named/tokenizer named/DONE
grep -q 'type: "org/tiny"' named/model_config.yaml || { echo "not ok the name in model_config.yaml"; fails=1; }
good "export by tokenizer.type" "$ns" export named back --convert_to hf --convert_from nemo
[ -f back/tokenizer.json ] || { echo "not ok tokenizer.type: no tokenizer came along"; fails=1; }
sed -i 's,org/tiny,org/none,' named/model_config.yaml
bad "export --hf_model_name org/none" "$ns" export named back2 --convert_to hf --hf_model_name org/none
rm -r "$dir/hub/models--org--tiny/snapshots/ffff" "$dir/hub/models--org--tiny/refs"
good "without refs/main" "$ns" show org/tiny
exit $fails
