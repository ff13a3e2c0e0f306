# Shared by the tests of jobs, on top of tests/lib.sh: a store of their own, supervisors, states, a small model and rows. Sourced; $root is set.
# shellcheck shell=sh disable=SC2034,SC2154
# shellcheck source=tests/lib.sh
. "$root/tests/lib.sh"
NS_HOME=$dir/home
export NS_HOME
unset NEMO_SKILLS_CONFIG NEMO_SKILLS_CONFIG_DIR NEMORUN_HOME NS_CLUSTER_INLINE WANDB_API_KEY

# supervisors: our own one, which holds the lock of this store, and the guardian above it
supervisors() {
    for p in /proc/[0-9]*; do
        tr '\0' '\n' 2>/dev/null <"$p/environ" | grep -qx "NS_HOME=$NS_HOME" || continue
        for f in "$p"/fd/*; do [ "$(readlink "$f")" = "$NS_HOME/supervisor.$(hostname).lock" ] && echo "${p#/proc/}" && break; done
    done
}
# state EXPERIMENT TASK: the state in ns status
state() {
    "$ns" status "$1" | awk -v t="$2" '$1 == t { print $3 }'
}
# until_state EXPERIMENT TASK STATE [SECONDS]; NS_SLOW: times as long, under a sanitizer
until_state() {
    left=$((${4:-60} * 5 * ${NS_SLOW:-1}))
    while [ $left -gt 0 ]; do
        [ "$(state "$1" "$2")" = "$3" ] && return 0
        left=$((left - 1))
        sleep 0.2
    done
    echo "     waited for task $2 of $1 to be $3:"
    "$ns" status "$1" | sed 's/^/     /'
    return 1
}
# many_rows FILE: of different lengths, enough for 138 packs of 256 tokens, the documented batch
many_rows() {
    awk 'BEGIN {
        for (i = 0; i < 900; i++) {
            answer = sprintf("It is %d.", i + i * 7 % 13)
            for (k = 0; k < i % 5; k++) answer = answer sprintf(" Once more: %d.", i + k)
            printf "{\"input\": \"What is %d plus %d? \", \"output\": \"%s\"}\n", i, i * 7 % 13, answer
        }
    }' >"$1"
}
# settings of a training of STEPS steps, SAVE apart
settings() {
    echo "--nemo_model=/workspace/base --num_gpus=${3:-1} --training_data=/workspace/rows.jsonl ++model.data.train_ds.global_batch_size=16
        ++model.data.train_ds.micro_batch_size=4 ++trainer.sft.max_steps=$1 ++trainer.sft.max_epochs=100000 ++trainer.sft.save_interval=$2
        ++model.hidden_dropout=0.1 ++model.optim.lr=1e-3"
}
# same_model A B: all files equal (DONE lists their checksums)
same_model() {
    [ -s "$1/DONE" ] && cmp -s "$1/DONE" "$2/DONE"
}
