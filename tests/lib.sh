# Shared by the shell tests. A test begins with
#     root=$(cd "$(dirname "$0")/../.." && pwd)
#     # shellcheck source=tests/lib.sh
#     . "$root/tests/lib.sh"
# and has then $ns (the program, its first word), $dir (a folder of its own, removed at the end) and the functions below. Verdicts are lines
# "ok - WHAT" and "not ok - WHAT"; a test that goes on after a failure ends with `exit $fails`.
# shellcheck shell=sh disable=SC2034,SC2154
ns=${1:-}
case $ns in "" | /*) ;; *) ns=$PWD/$ns ;; esac
dir=$(mktemp -d "${TMPDIR:-/tmp}/ns-$(basename "$0" _test.sh)-XXXXXX")
trap 'rm -rf "$dir"' EXIT
fails=0

ok() { echo "ok - $*"; }
not_ok() {
    echo "not ok - $*"
    fails=1
}
# the test ends here
fail() {
    echo "not ok - $*"
    exit 1
}
# why LOG: the first errors of a run, or its last lines: other ranks and launchers end later, with less to say
why() { grep -am4 ERROR "$1" || tail -n 3 "$1"; }
# show_output: of the last command, below its verdict
show_output() { sed 's/^/     /' "$dir/out" | tail -n 30; }
# works WHAT COMMAND...: it succeeds
works() {
    what=$1
    shift
    if "$@" >"$dir/out" 2>&1; then ok "$what"; else
        not_ok "$what"
        show_output
    fi
}
# equal WHAT WANTED FOUND
equal() {
    if [ "$2" = "$3" ]; then ok "$1"; else not_ok "$1: expected '$2', found '$3'"; fi
}
# is WHAT EXIT PART COMMAND...: exit code, and a part of the output (empty: any)
is() {
    what=$1 want=$2 text=$3
    shift 3
    rc=0
    "$@" >"$dir/out" 2>&1 || rc=$?
    if [ $rc = "$want" ] && { [ -z "$text" ] || grep -qF -- "$text" "$dir/out"; }; then ok "$what"; else
        not_ok "$what: exit $rc, wanted $want with '$text'"
        show_output
    fi
}
shows() { # whole text, ~part or !absent part of the output
    case $1 in
    "~"*) grep -qF -- "${1#?}" "$dir/out" ;;
    "!"*) ! grep -qF -- "${1#?}" "$dir/out" ;;
    *) [ "$(cat "$dir/out")" = "$1" ] ;;
    esac
}
# gives WHAT EXIT TEXT COMMAND...: exit code, and the whole output (or ~part, or !absent part)
gives() {
    what=$1 want=$2 text=$3
    shift 3
    rc=0
    "$@" >"$dir/out" 2>&1 || rc=$?
    if [ $rc = "$want" ] && shows "$text"; then ok "$what"; else
        not_ok "$what: exit $rc, wanted $want with '$text'"
        show_output
    fi
}

# wait_for SECONDS COMMAND...: until it succeeds, looking ten times a second; NS_SLOW: times as long, under a sanitizer
wait_for() {
    left=$(($1 * 10 * ${NS_SLOW:-1}))
    shift
    until "$@"; do
        [ $left -gt 0 ] || return 1
        left=$((left - 1))
        sleep 0.1
    done
}

# ---- a tiny model ----
# tiny_init FOLDER: a model with random weights from $dir/config.json
tiny_init() {
    "$ns" init --config "$dir/config.json" --tokenizer "$root/examples/demo/tokenizer" --output "$1" --seed 7 >"$dir/init.log" 2>&1 || fail "ns init: $(cat "$dir/init.log")"
}
# small_model FOLDER [ROWS]: base model and rows.jsonl in it
small_model() {
    mkdir -p "$1"
    cat >"$dir/config.json" <<'JSON'
{"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2,
 "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16, "vocab_size": 1024, "max_position_embeddings": 512, "rms_norm_eps": 1e-5,
 "rope_theta": 10000.0, "tie_word_embeddings": true, "hidden_act": "silu", "torch_dtype": "bfloat16", "initializer_range": 0.05}
JSON
    sums "${2:-200}" >"$1/rows.jsonl"
    tiny_init "$1/base"
}
# sums N [LONG]: N rows; with LONG every seventh is longer
sums() {
    awk -v n="$1" -v long="${2:-}" 'BEGIN {
        for (i = 0; i < n; i++) {
            k = i * 7 % 13
            more = long != "" && i % 7 == 3 ? sprintf(" Because %d, %d, %d and so on, as one sees after a while of thinking about it.", i, i * i, i * i * i) : ""
            printf "{\"input\": \"What is %d plus %d? \", \"output\": \"It is %d.%s\"}\n", i, k, i + k, more
        }
    }'
}

# ---- trainings: RUN is a folder, or a name below $dir ----
run_dir() { case $1 in /*) echo "$1" ;; *) echo "$dir/$1" ;; esac }
# steps RUN: how many are in its metrics.jsonl
steps() { grep -c '"loss"' "$(run_dir "$1")/metrics.jsonl" 2>/dev/null || true; }
# curve RUN: loss and gradient norm of each step
curve() { sed -n 's/.*"loss": \([^,]*\), "grad_norm": \([^,]*\),.*/\1 \2/p' "$(run_dir "$1")/metrics.jsonl"; }
# gap A B STEPS: largest relative differences of loss and gradient norm, or nothing when the steps are not all there
gap() {
    curve "$1" >"$dir/curve.a"
    curve "$2" >"$dir/curve.b"
    paste "$dir/curve.a" "$dir/curve.b" | awk -v steps="$3" '
        function gap(x, y) { return (x > y ? x - y : y - x) / y }
        { d = gap($1, $3); e = gap($2, $4); if (d > worst) worst = d; if (e > norm) norm = e; n++ }
        END { if (n == steps) printf "%.3g %.3g\n", worst, norm }'
}
# near A B STEPS LOSS NORM: the curves differ by no more than that
near() {
    found=$(gap "$1" "$2" "$3")
    echo "# $1 against $2: $3 steps, loss and gradient norm within ${found:-(steps are missing)} (allowed $4 $5)"
    [ -n "$found" ] && echo "$found $4 $5" | awk '{ exit !($1 <= $3 && $2 <= $4) }'
}
# same A B [FIND TEST]...: all files of all checkpoints (that pass the test) are equal
same() {
    same_a=$(run_dir "$1") same_b=$(run_dir "$2")
    shift 2
    (cd "$same_a/checkpoints" && find . -type f "$@" | sort | xargs cksum) >"$dir/a.sum"
    (cd "$same_b/checkpoints" && find . -type f "$@" | sort | xargs cksum) >"$dir/b.sum"
    cmp -s "$dir/a.sum" "$dir/b.sum" || {
        diff "$dir/a.sum" "$dir/b.sum" | head -10
        return 1
    }
}
