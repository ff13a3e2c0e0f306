#!/bin/sh
# Real data end to end against PyTorch: GSM8K's train file through `ns prepare`, a 21M-parameter Llama of `ns init` with the
# Llama-3 tokenizer, 50 steps of `ns sft` in fp32 (12 without NS_FULL=1); each step's loss and gradient norm beside the
# reference (tests/golden/gsm8k20m: the values and the script that made them, from the same initial model and rows).
#
# Tolerance: PyTorch's own f32 results on a CPU and on a GPU, which differ only in the order of sums, are 1e-7 (loss) and 4e-7
# (norm) apart over 22 steps; the limits are twenty times that. A wrong mask, order or rate is off by 1e-3 at once.
set -u
root=$(cd "$(dirname "$0")/../.." && pwd)
# shellcheck source=tests/lib.sh
. "$root/tests/lib.sh"
data=${NS_TEST_DATA:-$root/../shared/data}
if [ ! -f "$data/gsm8k/train.jsonl" ]; then
    echo "SKIP: no GSM8K (set NS_TEST_DATA)"
    exit 77
fi
steps=12
[ -n "${NS_FULL:-}" ] && steps=50

mkdir "$dir/tok"
cp "$data/tokenizers/llama3/tokenizer.assembled.json" "$dir/tok/tokenizer.json"
"$ns" prepare ++preprocessed_dataset_files="$data/gsm8k/train.jsonl" ++output_path="$dir/rows.jsonl" \
    ++input_key=question ++output_key=answer ++filters.remove_contaminated=false \
    ++filters.remove_len_outlier_problems=false >"$dir/log" 2>&1 || fail "prepare: $(why "$dir/log")"
[ "$(wc -l <"$dir/rows.jsonl")" = 7473 ] || fail "7473 rows prepared"
echo "ok GSM8K's train file is prepared"
"$ns" init --config "$root/tests/golden/gsm8k20m/config.json" --tokenizer "$dir/tok" --output "$dir/base" --seed 1234 \
    --dtype f32 >"$dir/log" 2>&1 || fail "init: $(why "$dir/log")"
"$ns" sft ++model.restore_from_path="$dir/base" ++model.data.train_ds.file_path="$dir/rows.jsonl" \
    ++exp_manager.explicit_log_dir="$dir/out" ++trainer.precision=32 ++model.data.train_ds.global_batch_size=8 \
    ++model.data.train_ds.micro_batch_size=2 ++trainer.sft.max_steps=$steps ++trainer.sft.save_interval=-1 \
    ++trainer.sft.val_check_interval=0 ++trainer.sft.gradient_clip_val=1.0 ++model.optim.lr=1e-3 \
    ++model.optim.sched.min_lr=1e-4 ++model.optim.sched.warmup_steps=5 ++model.optim.sched.max_steps=50 \
    >"$dir/log" 2>&1 || fail "sft: $(why "$dir/log")"
sed -n 's/.*"step": \([0-9]*\), "loss": \([0-9.e+-]*\), "grad_norm": \([0-9.e+-]*\).*/\1 \2 \3/p' \
    "$dir/out/metrics.jsonl" >"$dir/ours"
grep -v '^#' "$root/tests/golden/gsm8k20m/reference.txt" >"$dir/reference"
awk -v steps=$steps '
    function off(a, b) { a = (a - b) / b; return a < 0 ? -a : a }
    NR == FNR { loss[$1] = $2; norm[$1] = $3; n++; next }
    $1 <= steps {
        dl = off(loss[$1], $2); dn = off(norm[$1], $3)
        if (dl > worst) worst = dl
        if (dn > worst_norm) worst_norm = dn
        if (!($1 in loss) || dl > 2e-6 || dn > 8e-6) {
            printf "not ok step %d: loss %s, PyTorch %s; norm %s, PyTorch %s\n", $1, loss[$1], $2, norm[$1], $3
            bad = 1
        }
        seen++
    }
    END {
        if (seen != steps || n != steps) {
            print "not ok " n " steps of ours, " seen " of the reference, wanted " steps
            bad = 1
        }
        if (!bad) printf "ok %d steps follow PyTorch: loss within %.1e, gradient norm within %.1e\n", steps, worst, worst_norm
        exit bad
    }' "$dir/ours" "$dir/reference"
