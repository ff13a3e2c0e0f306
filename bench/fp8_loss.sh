#!/bin/bash
# bench/fp8_loss.sh  -- does training in fp8 end where bf16 does? On a machine with a GPU, in the source tree, after a build.
#
# A Llama of 24 million parameters learns this project's C sources from nothing: STEPS (500) steps of 8 rows (580 tokens), seeds SEEDS (1 2 3), in
# bf16, bf16 again with deterministic=false, fp8, and fp8 with all sums in the tensor cores (NS_CUDA_FP8_FAST=2); prints the mean
# of the last 50 losses of each. W: work folder. Needs Python for the rows and the means.
# shellcheck disable=SC2086  # lists are split on purpose
set -u
cd "$(dirname "$0")/.." || exit 1
W=${W:-$(mktemp -d)}
STEPS=${STEPS:-500}
ACC=${ACC:-gpu}
mkdir -p "$W"
cat > ${W}/config.json <<JSON
{"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 512, "intermediate_size": 1408, "num_hidden_layers": 8,
 "num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 64, "vocab_size": 1024, "max_position_embeddings": 2048, "rms_norm_eps": 1e-5,
 "rope_theta": 10000.0, "tie_word_embeddings": true, "hidden_act": "silu", "torch_dtype": "bfloat16", "initializer_range": 0.02}
JSON
python3 - ${W}/rows.jsonl <<'PY'
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
  build/ns sft ++model.restore_from_path=${W}/base$seed ++model.data.train_ds.file_path=${W}/rows.jsonl ++exp_manager.explicit_log_dir=${W}/$name-$seed \
    ++trainer.accelerator=$ACC ++model.data.train_ds.global_batch_size=8 ++model.data.train_ds.micro_batch_size=8 ++trainer.sft.max_steps=$STEPS ++trainer.sft.max_epochs=100 \
    ++trainer.sft.save_interval=-1 ++trainer.sft.val_check_interval=0 ++trainer.sft.gradient_clip_val=1.0 ++model.optim.lr=3e-4 ++model.optim.sched.min_lr=3e-5 \
    ++model.optim.sched.warmup_steps=50 ++model.seed=$seed ++allow_masked_rows=True ++exp_manager.create_tensorboard_logger=False "$@" >${W}/$name-$seed.log 2>&1 || tail -3 ${W}/$name-$seed.log
}
for seed in ${SEEDS:-1 2 3}; do build/ns init --config ${W}/config.json --tokenizer examples/demo/tokenizer --output ${W}/base$seed --seed $seed >/dev/null 2>${W}/init.log || tail -3 ${W}/init.log; done
for seed in ${SEEDS:-1 2 3}; do
  one $seed bf16 &
  one $seed hybrid ++model.fp8=True &
  one $seed again ++deterministic=False &
  NS_CUDA_FP8_FAST=2 one $seed fast ++model.fp8=True &
  wait
done
python3 - ${W} <<'PY'
import glob, json, os, sys
seeds = os.environ.get("SEEDS", "1 2 3").split()
mean = {}
for n in ["bf16", "hybrid", "again", "fast"]:
    v = []
    for s in seeds:
        try: L = [json.loads(l)["loss"] for l in open(f"{sys.argv[1]}/{n}-{s}/metrics.jsonl") if '"loss"' in l]
        except Exception as e: print(n, s, e); continue
        v.append(sum(L[-50:]) / len(L[-50:])); print(n, "seed", s, "steps", len(L), "first", round(L[0], 4), "last 50", round(v[-1], 5))
    if v: mean[n] = sum(v) / len(v); print(n, "mean of seeds", round(mean[n], 5), "against bf16 %+.3f %%" % (100 * (mean[n] / mean["bf16"] - 1)))
PY
