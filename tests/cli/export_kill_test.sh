#!/bin/sh
# ns export killed with kill -9 at random moments: the output is absent or whole; the next run goes on from what is there and says so; its
# bytes are those of an undisturbed run. A damaged leftover is noticed. A full disk: one clear line, no output. NS_FULL=1: 200 kills.
set -u
root=$(cd "$(dirname "$0")/../.." && pwd)
# shellcheck source=tests/lib.sh
. "$root/tests/lib.sh"
trap 'umount "$dir/small" 2>/dev/null; rm -rf "$dir"' EXIT
kills=8
[ -n "${NS_FULL:-}" ] && kills=200
cat >"$dir/config.json" <<'JSON'
{"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 256, "intermediate_size": 1024, "num_hidden_layers": 8,
 "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 8192, "max_position_embeddings": 512, "rms_norm_eps": 1e-5,
 "rope_theta": 10000.0, "tie_word_embeddings": false, "hidden_act": "silu", "torch_dtype": "float32", "initializer_range": 0.2}
JSON
"$ns" init --config "$dir/config.json" --tokenizer "$root/examples/demo/tokenizer" --dtype f32 --output "$dir/in" >"$dir/log" 2>&1 || fail "init: $(cat "$dir/log")"
cd "$dir" || exit 1
options() { # of case $1
    case $1 in
    0) echo "--convert_to hf --max-shard-size 6MB --dtype bf16" ;;
    1) echo "--convert_to nemo" ;;
    2) echo "--convert_to nemo --nemo-format zarr --dtype bf16" ;;
    3) echo "--convert_to gguf --gguf-type q8_0" ;;
    4) echo "--convert_to trtllm --num_gpus 2" ;;
    esac
}
become() { # case; the shell becomes the export, so that the kill reaches it. The same names every time, they are in the report
    # shellcheck disable=SC2046
    exec "$ns" export in out --parity off $(options "$1")
}
export_() { (become "$1"); }
start=$(date +%s%N)
for c in 0 1 2 3 4; do
    export_ $c >log 2>&1 || fail "case $c: $(cat log)"
    mv out "want$c"
done
each=$(((($(date +%s%N) - start) / 5000000) + 1)) # ms
resumed=0
k=0
seed=${NS_SEED:-$$}
while [ $k -lt $kills ]; do
    c=$((k % 5))
    n=0
    while [ $n -lt 3 ]; do # the same export dies up to three times
        seed=$(((seed * 1103515245 + 12345) % 2147483648))
        ms=$((seed / 65536 % (each + each / 4)))
        become $c >log 2>&1 &
        pid=$!
        sleep "$(printf '%d.%03d' $((ms / 1000)) $((ms % 1000)))"
        kill -9 $pid 2>/dev/null
        wait $pid 2>/dev/null
        grep -q 'going on after an interrupted' log && resumed=$((resumed + 1))
        [ -e out ] && break
        n=$((n + 1))
    done
    if [ -e out ]; then
        [ -f out/DONE ] || fail "kill $k, case $c: an output without DONE"
    else
        export_ $c >log 2>&1 || fail "kill $k, case $c: $(cat log)"
        grep -q 'going on after an interrupted' log && resumed=$((resumed + 1))
    fi
    diff -r out "want$c" >differs 2>&1 || fail "kill $k, case $c: other bytes: $(head -3 differs)"
    rm -rf out .out.tmp
    k=$((k + 1))
done
echo "ok $kills exports killed at random moments, $resumed runs went on from an interrupted one; bytes as undisturbed"

# surely in the middle: kill when a tensor is noted; once more with damage
interrupt() { # case
    rm -rf out .out.tmp
    become "$1" >log 2>&1 &
    pid=$!
    until grep -qs '^note view' .out.tmp/resume.log || [ -e out ]; do :; done
    kill -9 $pid 2>/dev/null
    wait $pid 2>/dev/null
    [ -f .out.tmp/resume.log ]
}
for c in 0 1 2 3 4; do
    tries=0
    until interrupt $c; do
        tries=$((tries + 1))
        [ $tries -lt 20 ] || fail "case $c: never caught in the middle"
    done
    echo stray >.out.tmp/stray.tmp.1
    export_ $c >log 2>&1 || fail "case $c: $(cat log)"
    grep -qE 'going on after an interrupted export: [1-9][0-9]* of 75 tensors' log || fail "case $c: nothing said: $(cat log)"
    diff -r out "want$c" >differs 2>&1 || fail "case $c: other bytes: $(head -3 differs)"
done
echo "ok every format goes on in the middle"

tries=0
until interrupt 1; do
    tries=$((tries + 1))
    [ $tries -lt 20 ] || fail "damage: never caught in the middle"
done
line=$(grep -a '^run ' .out.tmp/resume.log | awk '$3 > 100000' | head -1)
at=$(echo "$line" | cut -d' ' -f2)
printf 'XXXX' | dd of=.out.tmp/model_weights/__0_0.distcp bs=1 seek=$((at + 50000)) conv=notrunc 2>/dev/null
export_ 1 >log 2>&1 || fail "damage: $(cat log)"
diff -r out want1 >differs 2>&1 || fail "damage: other bytes: $(head -3 differs)"
grep -qE 'damaged, starting anew|going on after' log || fail "damage: nothing said: $(cat log)"
echo "ok a damaged leftover: $(grep -o 'damaged, starting anew' log || echo 'was rewritten')"

rm -rf out .out.tmp
tries=0
until [ -f .out.tmp/resume.log ]; do # Ctrl-C, where the interrupted run has something to go on from
    tries=$((tries + 1))
    [ $tries -lt 20 ] || fail "Ctrl-C: never caught in the middle"
    rm -rf out
    become 1 >log 2>&1 &
    pid=$!
    until grep -qs '^note view' .out.tmp/resume.log || [ -e out ]; do :; done
    kill -TERM $pid 2>/dev/null
    wait $pid 2>/dev/null
done
grep -q 'stopped by a signal; the same command goes on where it was' log || fail "SIGTERM says nothing: $(cat log)"
export_ 1 >log 2>&1 || fail "after SIGTERM: $(cat log)"
grep -q 'going on after an interrupted' log || fail "after SIGTERM: nothing taken over: $(cat log)"
diff -r out want1 >differs 2>&1 || fail "after SIGTERM: other bytes: $(head -3 differs)"
echo "ok a signal is answered with how to go on"

until interrupt 0; do :; done
touch in/config.json
export_ 0 >log 2>&1 || fail "changed input: $(cat log)"
grep -q 'going on after' log && fail "an input that changed was taken for the old one"
diff -r out want0 >/dev/null || fail "changed input: other bytes"
echo "ok an input that changed: from the start"

mkdir small
if mount -t tmpfs -o size=8m tmpfs small 2>/dev/null; then
    # shellcheck disable=SC2046
    "$ns" export in small/out --parity off $(options 1) >log 2>&1 && fail "a full disk was not noticed"
    grep -q 'No space left on device' log || fail "full disk: $(cat log)"
    [ "$(grep -c . log)" -le 2 ] || fail "full disk: more than a line: $(cat log)"
    [ -z "$(ls -A small)" ] || fail "full disk: left behind: $(ls -A small)"
    echo "ok a full disk is one clear line, and nothing is left"
else
    echo "SKIP: a small tmpfs cannot be mounted (needs root)"
fi
