#!/bin/sh
# Layouts on GPU ranks, several ranks on one GPU if there is only one: tensor, context, pipeline and data parallel give the curve of
# one GPU rank and that of the processor; a layout repeats itself bitwise, through kill -9 and resume; a checkpoint goes on elsewhere.
# With two GPUs: two ranks travel by NCCL and give the bits of the way through the host; checkpoints move between their layouts.
# By itself on a machine with a GPU; elsewhere skipped.
# shellcheck disable=SC2030,SC2031 # settings of one run, in a subshell each
set -u
root=$(cd "$(dirname "$0")/../.." && pwd)
# shellcheck source=tests/lib.sh
. "$root/tests/lib.sh"
gpu=$("$ns" doctor 2>/dev/null | grep 'GPU engine')
case $gpu in
*plug-in*sm_* | *sm_*plug-in*) ;;
*)
    echo "SKIP: no GPU here: layouts on GPU ranks are not tested (${gpu:-ns doctor says nothing of a GPU})"
    exit 77
    ;;
esac
export NS_THREADS=2
steps=30
cat >"$dir/config.json" <<'JSON'
{"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 4,
 "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 32, "vocab_size": 1026, "max_position_embeddings": 512, "rms_norm_eps": 1e-5,
 "rope_theta": 10000.0, "tie_word_embeddings": false, "hidden_act": "silu", "torch_dtype": "float32", "initializer_range": 0.05}
JSON
sums 200 long >"$dir/rows.jsonl"
tiny_init "$dir/base"

# sft OUT WHERE TP CP DP PP [more settings]
sft() {
    out=$dir/$1 where=$2 tp=$3 cp=$4 dp=$5 pp=$6
    shift 6
    ${prefix:-} "$ns" sft ++model.restore_from_path="$dir/base" ++model.data.train_ds.file_path="$dir/rows.jsonl" ++exp_manager.explicit_log_dir="$out" \
        ++trainer.accelerator="$where" ++model.data.train_ds.global_batch_size=16 ++model.data.train_ds.micro_batch_size=2 \
        ++trainer.sft.max_steps=$steps ++trainer.sft.max_epochs=100 ++trainer.sft.save_interval=10 ++trainer.sft.gradient_clip_val=1.0 \
        ++model.optim.lr=1e-3 ++model.optim.sched.min_lr=1e-4 ++model.optim.sched.warmup_steps=3 ++model.tensor_model_parallel_size="$tp" \
        ++model.context_parallel_size="$cp" ++model.pipeline_model_parallel_size="$pp" ++trainer.devices=$((tp * cp * dp * pp)) "$@" >>"$out.log" 2>&1 ||
        fail "$out: $(why "$out.log")"
}
close() { # A B LOSS NORM
    near "$1" "$2" "$steps" "$3" "$4"
}
split() { # LAYOUT: "2_1_1_1" -> sets $tp etc. by the caller's `set --`
    echo "$1" | tr _ ' '
}

# f32: sums in another order, as tests/train/layouts_test.sh derives, and once more because products of another shape are summed in
# another order by the library: 2 x 2^-24 sqrt(4 L) a step. Against the processor: that, beside what one GPU rank differs. bf16: a layout
# changes no more than bf16 itself does, against f32.
f32=$(awk -v n=$steps 'BEGIN { u = 2 * 2 ^ -24 * sqrt(4 * 4) * n; print u, 8 * u }')
layouts="2_1_1_1 1_2_1_1 1_1_1_2 1_1_2_1 2_1_2_1"
sft cpu32 cpu 1 1 1 1 ++trainer.precision=32
sft gpu32 gpu 1 1 1 1 ++trainer.precision=32
sft gpu16 gpu 1 1 1 1 ++trainer.precision=bf16
one=$(gap gpu32 cpu32 "$steps")
bf16=$(gap gpu16 gpu32 "$steps")
if [ -z "$one" ] || [ -z "$bf16" ]; then fail "one rank: steps are missing"; fi
echo "# one GPU rank: f32 within $one of the processor, bf16 within $bf16 of f32"
echo "$one" | awk '{ exit !($1 <= 1e-4 && $2 <= 1e-3) }' || fail "GPU and processor differ in f32"
beside=$(echo "$one $f32" | awk '{ print $1 + $3, $2 + $4 }')
for layout in $layouts; do
    # shellcheck disable=SC2046
    set -- $(split "$layout")
    sft "f32-$layout" gpu "$1" "$2" "$3" "$4" ++trainer.precision=32
    # shellcheck disable=SC2086
    close "f32-$layout" gpu32 $f32 || fail "$layout: another curve than one GPU rank (f32)"
    # shellcheck disable=SC2086
    close "f32-$layout" cpu32 $beside || fail "$layout: another curve than the processor (f32)"
    grep -q "on all ranks the bytes are those of the formula" "$dir/f32-$layout.log" || fail "$layout: bytes sent: $(grep bytes "$dir/f32-$layout.log")"
    sft "bf16-$layout" gpu "$1" "$2" "$3" "$4" ++trainer.precision=bf16
    # shellcheck disable=SC2086
    close "bf16-$layout" gpu16 $bf16 || fail "$layout: another curve than one GPU rank (bf16)"
done
sft rows gpu 2 1 2 1 ++trainer.precision=32 ++model.sequence_parallel=True
# shellcheck disable=SC2086
close rows gpu32 $f32 || fail "sequence parallel: another curve than one GPU rank"
sft ring gpu 1 2 1 1 ++trainer.precision=32 ++model.cp_comm_type=p2p
# shellcheck disable=SC2086
close ring gpu32 $f32 || fail "ring of context-parallel ranks: another curve than one GPU rank"
sft ring16 gpu 1 2 1 1 ++trainer.precision=bf16 ++model.cp_comm_type=p2p
# shellcheck disable=SC2086
close ring16 gpu16 $bf16 || fail "ring of context-parallel ranks: another curve than one GPU rank (bf16)"
sft ring16-again gpu 1 2 1 1 ++trainer.precision=bf16 ++model.cp_comm_type=p2p
same ring16 ring16-again || fail "ring of context-parallel ranks: a repeated run differs"
echo "ok layouts (tensor_context_data_pipeline) $layouts, sequence parallel and the ring on GPU ranks give the curve of one GPU rank and of the processor"

for layout in $layouts; do
    # shellcheck disable=SC2046
    set -- $(split "$layout")
    sft "again-$layout" gpu "$1" "$2" "$3" "$4" ++trainer.precision=bf16
    same "bf16-$layout" "again-$layout" || fail "$layout: a repeated run differs"
done
echo "ok each repeats itself bit for bit"

cards=$(nvidia-smi -L 2>/dev/null | wc -l)
killed="2_1_2_1 1_1_1_2"
[ "$cards" -ge 2 ] && killed="2_1_2_1 2_1_1_1 1_2_1_1 1_1_1_2 1_1_2_1"
for layout in $killed; do
    # shellcheck disable=SC2046
    set -- $(split "$layout")
    (
        prefix="exec"
        sft "killed-$layout" gpu "$1" "$2" "$3" "$4" ++trainer.precision=bf16
    ) &
    pid=$!
    n=0
    while [ "$(steps "killed-$layout")" -lt 15 ] 2>/dev/null || [ ! -e "$dir/killed-$layout/metrics.jsonl" ]; do
        n=$((n + 1))
        [ $n -gt 6000 ] && fail "the run to be killed does not get to step 15: $(why "$dir/killed-$layout.log")"
        kill -0 $pid 2>/dev/null || break
        sleep 0.01
    done
    victim=$(pgrep -P $pid | tail -n 1)
    [ -n "$victim" ] && kill -9 "$victim" 2>/dev/null
    wait $pid
    if [ "$(steps "killed-$layout")" -lt $steps ]; then
        grep -q "rank $(($1 * $2 * $3 * $4 - 1)) (.*, pid $victim) at step .* died" "$dir/killed-$layout.log" ||
            fail "$layout: the dead rank is not named: $(why "$dir/killed-$layout.log")"
    else
        echo "# $layout: the run ended before a rank could be killed"
    fi
    sft "killed-$layout" gpu "$1" "$2" "$3" "$4" ++trainer.precision=bf16
    same "bf16-$layout" "killed-$layout" || fail "$layout: after kill -9 of a rank and resume the result differs"
done
echo "ok $killed: a killed rank is named; the resumed run is bit-equal"

sft moved gpu 2 1 2 1 ++trainer.precision=32 ++trainer.sft.max_steps=20 ++model.optim.sched.max_steps=$steps
sft moved cpu 1 2 1 1 ++trainer.precision=32 ++model.optim.sched.max_steps=$steps
# shellcheck disable=SC2086
close moved cpu32 $beside || fail "a checkpoint of GPU ranks goes on otherwise on the processor"
echo "ok a checkpoint of tensor x data GPU ranks goes on with context-parallel ranks on the processor"

if [ "$cards" -ge 2 ]; then
    for layout in 2_1_1_1 1_2_1_1 1_1_1_2 1_1_2_1; do
        # shellcheck disable=SC2046
        set -- $(split "$layout")
        grep -q "arrays of GPU ranks travel by NCCL" "$dir/bf16-$layout.log" || fail "$layout: not by NCCL: $(grep travel "$dir/bf16-$layout.log")"
        (export NS_GPU_TRANSPORT=host && sft "host-$layout" gpu "$1" "$2" "$3" "$4" ++trainer.precision=bf16) || exit 1
        same "bf16-$layout" "host-$layout" || fail "$layout: NCCL and the way through the host give other bits"
    done
    (export NS_GPU_TRANSPORT=host && sft host-ring gpu 1 2 1 1 ++trainer.precision=bf16 ++model.cp_comm_type=p2p) || exit 1
    same ring16 host-ring || fail "ring: NCCL and the way through the host give other bits"
    for layout in 1_1_2_1 1_2_1_1; do
        # shellcheck disable=SC2046
        set -- $(split "$layout")
        sft "overlap-$layout" gpu "$1" "$2" "$3" "$4" ++trainer.precision=bf16 ++model.optim.overlap_grad_sync=True \
            ++model.optim.overlap_param_sync=True
        same "bf16-$layout" "overlap-$layout" || fail "$layout: exchanges beside the kernels give other bits"
    done
    sft overlap-ring gpu 1 2 1 1 ++trainer.precision=bf16 ++model.cp_comm_type=p2p ++model.optim.overlap_grad_sync=True \
        ++model.optim.overlap_param_sync=True
    same ring16 overlap-ring || fail "ring: exchanges beside the kernels give other bits"
    echo "ok two ranks on two GPUs travel by NCCL: the bits of arrays that go through the host"
    at=0
    for layout in 1_1_2_1 2_1_1_1 1_2_1_1 1_1_1_2 2_1_1_1 1_1_2_1; do
        # shellcheck disable=SC2046
        set -- $(split "$layout")
        at=$((at + 5))
        sft around gpu "$1" "$2" "$3" "$4" ++trainer.precision=32 ++trainer.sft.max_steps=$at ++trainer.sft.save_interval=5 ++model.optim.sched.max_steps=$steps
    done
    # shellcheck disable=SC2086
    close around gpu32 $f32 || fail "a checkpoint that moves between layouts gives another curve"
    echo "ok a checkpoint goes from data to tensor, context, pipeline, tensor and data parallel ranks on two GPUs"
fi

# two ranks on one card: NCCL does not do that, and it is said before it is tried
if [ "$cards" = 1 ]; then
    grep -q "arrays of GPU ranks travel through the host: ranks 0 and 1 share a GPU" "$dir/f32-2_1_1_1.log" || fail "the way of arrays is not said"
    if (export NS_GPU_TRANSPORT=nccl && sft nccl gpu 2 1 1 1) >/dev/null; then fail "NCCL with two ranks on one GPU"; fi
    grep -q "NS_GPU_TRANSPORT=nccl: ranks 0 and 1 share a GPU" "$dir/nccl.log" || fail "NCCL on one GPU: $(why "$dir/nccl.log")"
    echo "ok NCCL with ranks that share a GPU is refused by name"
fi
