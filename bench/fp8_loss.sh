#!/bin/bash
# bench/fp8_loss.sh  -- does training in fp8 end where bf16 does? On a machine with a GPU, in the source tree, after a build.
#
# A Llama of 24 million parameters learns this project's C sources from nothing: STEPS (500) steps of 8 rows (580 tokens), seeds SEEDS (1 to 8),
# RUNS (4) runs at a time, in each of FORMS (bf16 fp8 split: fp8 with model.fp8_use_split_accumulator); prints the mean of the last 50 losses of
# each run, and for each form the mean over seeds of its distance from bf16 of the same seed, with the standard error of that mean.
# W: work folder. Needs Python for the rows and the means.
# shellcheck disable=SC2086  # lists are split on purpose
set -u
cd "$(dirname "$0")/.." || exit 1
W=${W:-$(mktemp -d)}
STEPS=${STEPS:-500}
ACC=${ACC:-gpu}
SEEDS=${SEEDS:-1 2 3 4 5 6 7 8}
FORMS=${FORMS:-bf16 fp8 split}
RUNS=${RUNS:-4}
export SEEDS FORMS
mkdir -p "$W"
cat >"$W/config.json" <<JSON
{"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 512, "intermediate_size": 1408, "num_hidden_layers": 8,
 "num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 64, "vocab_size": 1024, "max_position_embeddings": 2048, "rms_norm_eps": 1e-5,
 "rope_theta": 10000.0, "tie_word_embeddings": true, "hidden_act": "silu", "torch_dtype": "bfloat16", "initializer_range": 0.02}
JSON
python3 - "$W/rows.jsonl" <<'PY'
import glob, json, sys
with open(sys.argv[1], "w") as f:
    for p in sorted(glob.glob("src/**/*.[ch]", recursive=True)):
        s = open(p, errors="replace").read()
        for i in range(0, len(s) - 700, 700):
            f.write(json.dumps({"input": s[i:i+100], "output": s[i+100:i+700]}) + "\n")
PY
one() { # SEED NAME settings
    local seed=$1 name=$2
    shift 2
    build/ns sft ++model.restore_from_path="$W/base$seed" ++model.data.train_ds.file_path="$W/rows.jsonl" ++exp_manager.explicit_log_dir="$W/$name-$seed" \
        ++trainer.accelerator=$ACC ++model.data.train_ds.global_batch_size=8 ++model.data.train_ds.micro_batch_size=8 ++trainer.sft.max_steps=$STEPS ++trainer.sft.max_epochs=100 \
        ++trainer.sft.save_interval=-1 ++trainer.sft.val_check_interval=0 ++trainer.sft.gradient_clip_val=1.0 ++model.optim.lr=3e-4 ++model.optim.sched.min_lr=3e-5 \
        ++model.optim.sched.warmup_steps=50 ++model.seed=$seed ++allow_masked_rows=True ++exp_manager.create_tensorboard_logger=False "$@" >"$W/$name-$seed.log" 2>&1 || tail -3 "$W/$name-$seed.log"
}
for seed in $SEEDS; do
    build/ns init --config "$W/config.json" --tokenizer examples/demo/tokenizer --output "$W/base$seed" --seed $seed >/dev/null 2>"$W/init.log" || tail -3 "$W/init.log"
done
for seed in $SEEDS; do
    for form in $FORMS; do
        while [ "$(jobs -rp | wc -l)" -ge $RUNS ]; do sleep 0.1; done
        case $form in
        bf16) one $seed bf16 & ;;
        fp8) one $seed fp8 ++model.fp8=True & ;;
        split) one $seed split ++model.fp8=True ++model.fp8_use_split_accumulator=True & ;;
        *) echo "form $form is not known" >&2 ;;
        esac
    done
done
wait
python3 - "$W" <<'PY'
import json, math, os, sys
seeds, forms = os.environ["SEEDS"].split(), os.environ["FORMS"].split()
last = {}
for n in forms:
    for s in seeds:
        try:
            L = [json.loads(l)["loss"] for l in open(f"{sys.argv[1]}/{n}-{s}/metrics.jsonl") if '"loss"' in l]
            last[n, s] = sum(L[-50:]) / len(L[-50:])
            print(n, "seed", s, "steps", len(L), "first", round(L[0], 4), "last 50", round(last[n, s], 5))
        except Exception as e:
            print(n, "seed", s, e)
for n in forms:
    v = [last[n, s] for s in seeds if (n, s) in last]
    d = [100 * (last[n, s] / last["bf16", s] - 1) for s in seeds if (n, s) in last and ("bf16", s) in last]
    if n == "bf16" or len(d) < 2:
        print(n, "mean", round(sum(v) / max(len(v), 1), 5))
        continue
    m = sum(d) / len(d)
    e = math.sqrt(sum((x - m) ** 2 for x in d) / (len(d) - 1) / len(d))
    print(f"{n} mean {sum(v) / len(v):.5f}, of its bf16 run: {m:+.3f} % +- {e:.3f} (seeds", " ".join(f"{x:+.2f}" for x in d) + ")")
PY
