#!/bin/sh
# ns init, ns show, ns average on tiny models: what is written, what is refused, exit codes, both output forms.
set -u
root=$(cd "$(dirname "$0")/../.." && pwd)
# shellcheck source=tests/lib.sh
. "$root/tests/lib.sh"
here=$(cd "$(dirname "$0")/../.." && pwd)
cd "$dir" || exit 1
config=$here/tests/golden/parity/qwen25/config.json
is "init makes a model" 0 "m/a: 287872 parameters, BF16, seed 7" "$ns" init --config "$config" --output m/a --seed 7
is "init takes a folder" 0 "F32" "$ns" init -c "$(dirname "$config")" -o m/f --dtype f32
is "init refuses an existing output" 3 "m/a exists already" "$ns" init --config "$config" --output m/a
is "init --force replaces it" 0 '"parameters": 287872' "$ns" init --config "$config" --output m/a --seed 7 --force --json
is "init again" 0 "" "$ns" init --config "$config" --output m/b --seed 7 --quiet
is "the same seed gives the same bytes" 0 "" cmp m/a/model.safetensors m/b/model.safetensors
is "init with another seed" 0 "" "$ns" init --config "$config" --output m/c --seed 8
is "gives other bytes" 1 "differ" cmp m/a/model.safetensors m/c/model.safetensors
mkdir other
is "init --force leaves a folder of something else" 3 "not a model folder" "$ns" init --config "$config" --output other --force
is "init names a missing config" 3 "nowhere: no such config.json" "$ns" init --config nowhere --output m/d
is "init refuses a type" 2 "dtype" "$ns" init --config "$config" --output m/d --dtype int4
sed 's/"model_type": "qwen2"/"model_type": "mixtral"/' "$config" >mixtral.json
is "init names what is not supported" 1 '"model_type" "mixtral"' "$ns" init --config mixtral.json --output m/d
mkdir tok
cat >tok/tokenizer.json <<'END'
{"version": "1.0", "added_tokens": [{"id": 400, "content": "<s>", "single_word": false, "lstrip": false, "rstrip": false,
 "normalized": false, "special": true}], "normalizer": null, "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false,
 "trim_offsets": true, "use_regex": true}, "post_processor": null, "decoder": {"type": "ByteLevel"},
 "model": {"type": "BPE", "unk_token": null, "vocab": {"a": 0, "b": 1}, "merges": []}}
END
is "init refuses a tokenizer with more ids than rows" 1 "has ids up to 400" \
    "$ns" init --config "$config" --output m/d --tokenizer tok
is "init refuses a missing tokenizer folder" 3 "no such folder of tokenizer" \
    "$ns" init --config "$config" --output m/d --tokenizer nowhere
sed 's/"id": 400/"id": 2/' tok/tokenizer.json >tok/t && mv tok/t tok/tokenizer.json
is "init copies the tokenizer" 0 "" "$ns" init --config "$config" --output t --tokenizer tok
is "byte for byte" 0 "" cmp tok/tokenizer.json t/tokenizer.json
is "nothing is left of refused models" 0 "a b c f ." sh -c 'echo $(ls -A m) .'
is "show lists tensors" 0 "26 tensors, 287872 parameters, 575744 bytes" "$ns" show m/a
is "show names and shapes" 0 "model.layers.1.self_attn.k_proj.bias" "$ns" show m/a
is "show --json" 0 '{"name": "model.norm.weight", "dtype": "F32", "shape": [128]}' "$ns" show m/f --json
is "show takes a file" 0 "26 tensors" "$ns" show m/a/model.safetensors
is "show wants a model" 2 "give one model" "$ns" show
head -c 1000 m/a/model.safetensors >cut.safetensors
is "show says what is wrong with a file" 3 "truncated: found 1000 bytes" "$ns" show cut.safetensors

# three checkpoints of a run: models with a state
state() {
    cat <<END
{"format": 1, "param_hash": "0", "step": $1, "consumed_samples": 8, "epoch": 0, "forced": false, "val_loss": null,
 "rng": {"seed": 1}, "schedule": {"max_steps": 9, "warmup_steps": 0, "constant_steps": 0, "lr": 1e-05, "min_lr": 0},
 "data": {"n_rows": 1, "hash": "0"}}
END
}
run=run/training/checkpoints
mkdir -p $run
for s in 10 20 100; do
    "$ns" init --config "$config" --output $run/sft--step=$s --seed $s --quiet
    state $s >$run/sft--step=$s/state.json
done
cp -r $run/sft--step=100 $run/sft--step=100-last
echo '{"format": 1, "evicted": [{"step": 15, "val_loss": 2.5, "name": "x"}]}' >$run/evicted.json
is "average of all" 0 "steps: 10, 20, 100" "$ns" average --input $run --output avg/all
is "average reports evicted steps" 0 "evicted by save_top_k: 15" "$ns" average --input $run --output avg/all --force
is "average finds the checkpoints of a run" 0 '{"n": 2, "steps": [20, 100], "evicted": [15]}' \
    "$ns" average run avg/two --steps last:2 --json
is "average of listed steps" 0 "steps: 10, 100" "$ns" average --input=$run --output=avg/list --steps=10,100
is "average of a range" 0 "steps: 10, 20" "$ns" average run avg/range --steps 10-20
is "average of one" 0 "steps: 10" "$ns" average run avg/one --steps 10
is "one checkpoint is its own average" 0 "" cmp avg/one/model.safetensors $run/sft--step=10/model.safetensors
is "average of the last" 0 "steps: 100" "$ns" average run avg/last --steps last
is "average refuses a missing step by listing the others" 3 "no checkpoint of step 1; there are: 10, 20, 100 (evicted" \
    "$ns" average run avg/no --steps 1
is "average refuses bad steps" 2 "expected all, last" "$ns" average run avg/no --steps ten
is "average refuses an existing output" 3 "avg/one exists already" "$ns" average run avg/one
is "average wants two folders" 2 "give --input DIR and --output DIR" "$ns" average run
is "average wants no third" 2 "'x' is one word too many" "$ns" average run avg/no x
exit $fails
