#!/bin/sh
# demo.sh NS [OUT] - raw generations to a trained, averaged, tested model, on this machine, in a few minutes.
# `make demo` calls it with the built program. Every command that does work is printed as it could be typed.
set -eu
if [ $# -lt 1 ] || [ $# -gt 2 ] || [ ! -x "$1" ]; then
    echo "usage: sh examples/demo/demo.sh build/ns [OUT=demo-out]" >&2
    exit 2
fi
ns=$1
out=${2:-demo-out}
here=$(dirname "$0")
started=$(date +%s)

# The recipe (README.md says how it was chosen).
n_train=24000 n_test=400 steps=1600 batch=32 lr=2e-3 min_lr=1e-4 warmup=50 constant=300 every=100 last=4

title() { printf '\n== %s\n' "$*"; }
run() { # prints the command, broken into lines as it could be typed, then does it
    line='$'
    for word; do
        if [ $((${#line} + ${#word})) -gt 112 ]; then
            printf '%s \\\n' "$line"
            line='     '
        fi
        line="$line $word"
    done
    printf '%s\n' "$line"
    "$@"
}

if [ -e "$out" ] && [ ! -e "$out/make_problems" ]; then
    echo "demo: $out exists and is not from an earlier demo: name another folder" >&2
    exit 2
fi
rm -rf "$out"
mkdir -p "$out"

title "1. Word problems, in the form of a finished generation run"
run ${CC:-cc} -O1 -std=c11 -o "$out/make_problems" "$here/make_problems.c"
run "$out/make_problems" "$out/data" $n_train $n_test
sed -n 1,3p "$out/data/generations/output-rs0.jsonl" | cut -c 1-180 | sed 's/$/.../'

title "2. Prepare: filter the generations, write prompt and answer"
prepare() { # FROM TO
    run "$ns" prepare "++input_files=$1" "++output_path=$2" "++prompt_config=$here/prompt/config.yaml" \
        "++prompt_template=$here/prompt/template.yaml" "++hf_model_name=$here/tokenizer" \
        ++filters.remove_contaminated=false
}
prepare "$out/data/generations/output-rs0.jsonl" "$out/sft-data.jsonl"
prepare "$out/data/generations/validation.jsonl" "$out/sft-validation.jsonl"

title "3. A Llama with random weights"
run "$ns" init --config "$here/model/config.json" --tokenizer "$here/tokenizer" --output "$out/base" --seed 1

percent() { # NAME SET
    sed -n 's/.*"symbolic_correct": \([0-9.]*\).*/\1/p' "$out/answers/$1-$2.json"
}
# Answers both test files with MODEL, greedily, and keeps the shares of right answers.
answer() { # MODEL NAME
    mkdir -p "$out/answers"
    for set in heldout unseen; do
        run "$ns" infer --quiet "++model=$1" "++input_file=$out/data/$set.jsonl" \
            "++output_file=$out/answers/$2-$set.jsonl" "++prompt_config=$here/prompt/config.yaml" \
            "++prompt_template=$here/prompt/template.yaml" ++inference.tokens_to_generate=64
        # No pipe here: a pipe would hide a failure.
        "$ns" grade --json "++input_files=$out/answers/$2-$set.jsonl" > "$out/answers/$2-$set.json"
        printf '$ %s grade ++input_files=%s\n%s %% right\n' "$ns" "$out/answers/$2-$set.jsonl" "$(percent "$2" $set)"
    done
}
title "4. Answers before training"
answer "$out/base" before

title "5. Supervised fine-tuning, with validation and a checkpoint every $every steps"
run "$ns" sft "++model.restore_from_path=$out/base" "++exp_manager.explicit_log_dir=$out/training" \
    "++model.data.train_ds.file_path=$out/sft-data.jsonl" \
    "++model.data.validation_ds.file_path=$out/sft-validation.jsonl" \
    ++model.data.train_ds.max_seq_length=128 ++model.data.train_ds.global_batch_size=$batch \
    ++model.data.train_ds.micro_batch_size=$batch ++trainer.sft.max_epochs=100 ++trainer.sft.max_steps=$steps \
    ++trainer.sft.save_interval=$every ++trainer.sft.limit_val_batches=1.0 ++trainer.sft.gradient_clip_val=1.0 \
    ++model.optim.lr=$lr ++model.optim.sched.min_lr=$min_lr ++model.optim.sched.warmup_steps=$warmup \
    ++model.optim.sched.constant_steps=$constant
awk -f "$here/plot.awk" "$out/training/metrics.jsonl"
awk -v svg=1 -f "$here/plot.awk" "$out/training/metrics.jsonl" > "$out/loss.svg"

title "6. The mean of the last $last checkpoints"
run "$ns" average --input "$out/training/checkpoints" --output "$out/model-averaged" --steps last:$last

title "7. Answers after training"
answer "$out/model-averaged" after

title "One held-out problem, before and after"
text() { # FIELD FILE: that field of the first row, as text
    sed -n 's/.*"'"$1"'": "\([^"]*\).*/\1/p' "$2" | head -n 1 | sed 's/\\\\/\\/g; s/\\u[0-9a-f]\{4\}/?/g'
}
printf 'problem  %s\n' "$(text problem "$out/answers/after-heldout.jsonl")"
printf 'before   %.100s ...\n' "$(text generation "$out/answers/before-heldout.jsonl")"
printf 'after    %s\n' "$(text generation "$out/answers/after-heldout.jsonl")"

title "Right answers, greedy decoding"
row() { printf '%-58s %7s %% %7s %%\n' "$1" "$(percent before "$2")" "$(percent after "$2")"; }
printf '%-58s %9s %9s\n' "" before after
row "held out: trained kinds, numbers new to them ($n_test)" heldout
row "a kind that training never saw ($((n_test / 2)))" unseen
printf 'Everything took %d s. Loss curve: %s. Answers: %s\n' \
    $(($(date +%s) - started)) "$out/loss.svg" "$out/answers/after-heldout.jsonl"

cat <<TXT

The same with your own model and generations (a Hugging Face folder and JSONL with problem, generation, is_correct):
  $ns prepare ++input_files='your/output-rs*.jsonl' ++output_path=sft-data.jsonl ++prompt_config=generic/math \\
      ++prompt_template=llama3-instruct ++hf_model_name=your/model ++filters.remove_contaminated=false
  $ns plan ++model.restore_from_path=your/model ++model.data.train_ds.file_path=sft-data.jsonl \\
      ++exp_manager.explicit_log_dir=out/training
  $ns sft ++model.restore_from_path=your/model ++model.data.train_ds.file_path=sft-data.jsonl \\
      ++exp_manager.explicit_log_dir=out/training
  $ns average --input out/training/checkpoints --output out/model-averaged
TXT

# A demo that did not learn is a defect, not a result.
awk -v before="$(percent before heldout)" -v after="$(percent after heldout)" 'BEGIN { exit !(after >= 50 && after > before) }' || {
    echo "demo: the model did not learn: $(percent after heldout) % right after training, expected at least 50 %" >&2
    exit 1
}
