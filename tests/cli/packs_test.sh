#!/bin/sh
# ns pack and ns merge: the arrays of the original, bit for bit, and refusals.
set -u
root=$(cd "$(dirname "$0")/../.." && pwd)
# shellcheck source=tests/lib.sh
. "$root/tests/lib.sh"
data=${NS_TEST_DATA:-$root/../shared/data}
# shellcheck disable=SC2317 # called through works
refuses() { # PATTERN COMMAND...: an exit code of its own, and one line that says it
    pattern=$1 rc=0
    shift
    "$@" || rc=$?
    [ $rc -gt 0 ] && [ $rc -lt 126 ] && [ "$(grep -cE '^ns (pack|merge|sft): ' "$dir/out")" = 1 ] && grep -qE "^ns .*$pattern" "$dir/out"
}
# shellcheck disable=SC2317 # called through works
nothing() { # PREFIX: no file of that pack
    [ -z "$(find "$(dirname "$1")" -name "$(basename "$1")*")" ]
}
for i in 1 2 3 4 5 6 7 8; do echo "{\"input\": \"row $i is \", \"output\": \"$i$i$i\"}"; done >"$dir/a.jsonl"
sed 's/row/line/' "$dir/a.jsonl" >"$dir/b.jsonl"
# shellcheck disable=SC2317 # called through works
small() { # OUT [settings]
    out=$1
    shift
    "$ns" pack "++model.data.train_ds.file_names=[$dir/a.jsonl,$dir/b.jsonl]" ++tokenizer_path="$root/examples/demo/tokenizer" \
        ++output_dir="$dir/$out" "++pack_sizes=[64]" ++model.data.train_ds.max_seq_length=64 ++eos_id=0 "$@"
}
count() { sed -n 's/.*"samples": \([0-9]*\).*/\1/p' "$dir/$1/packed_64_seed0.meta.json"; }
works "all file_names are packed" small one
works "sixteen samples" [ "$(count one)" = 16 ]
works "best_fit" small best ++packing_algorithm=best_fit
works "chunks, and the whole last" sh -c "'$ns' pack ++model.data.train_ds.file_names=$dir/a.jsonl ++tokenizer_path='$root/examples/demo/tokenizer' \
    ++output_dir='$dir/chunks' ++pack_sizes=64 ++eos_id=0 ++model.data.train_ds.max_seq_length=64 ++split_packing_length=3 2>&1 | tail -3 | grep -q 'average number of sequences per pack is n ='"
works "a pack smaller than a row: file and line" refuses 'a.jsonl:1: the row has [0-9]+ tokens, more than the pack size 4: set' small tiny "++pack_sizes=[4]"
works "nothing was written" nothing "$dir/tiny/packed"
works "what the parts took, and the ratio" sh -c "'$ns' pack ++model.data.train_ds.file_names=$dir/a.jsonl ++tokenizer_path='$root/examples/demo/tokenizer' \
    ++output_dir='$dir/times' ++pack_sizes=[64,128] ++eos_id=0 ++model.data.train_ds.max_seq_length=64 2>&1 |
    grep -cE 'Tokenizer loaded in [0-9.]+ s, rows tokenised in [0-9.]+ s, packs assigned in [0-9.]+ s, written in [0-9.]+ s; in all [0-9.]+ s, [0-9.]+ times (tokenising|writing)' | grep -qx 1"
works "one thread" small threads1 ++threads=1
works "three" small threads3 ++threads=3
works "no pack size" refuses 'Please specify \+\+pack_sizes' "$ns" pack ++model.data.train_ds.file_names=x ++output_dir=y ++tokenizer_path=z
works "no such file" refuses 'nothere.jsonl: no such file' small none "++model.data.train_ds.file_names=[$dir/nothere.jsonl]"
p=packed_64_seed0
for k in input_ids loss_mask seq_start_id; do works "the same $k on one and three threads" cmp "$dir/threads1/$p.$k.npy" "$dir/threads3/$p.$k.npy"; done
works "merge" "$ns" merge --input_prefixes "$dir/one/$p" "$dir/best/$p" --output_prefix "$dir/all"
works "merged arrays" test -s "$dir/all.input_ids.npy"
works "merge of one onto itself" refuses 'input and output' "$ns" merge --input_prefixes "$dir/one/$p" --output_prefix "$dir/one/$p"
works "another padding" small cp2 ++model.context_parallel_size=2
works "another size" small other "++pack_sizes=[128]"
works "packs of two sizes" refuses 'has packs of 64, .*packed_128_seed0 of 128' "$ns" merge --input_prefixes "$dir/one/$p" "$dir/other/packed_128_seed0" --output_prefix "$dir/mixed"
cp -r "$dir/one" "$dir/strange"
sed 's/"tokenizer_hash": "[0-9a-f]*"/"tokenizer_hash": "0123456789abcdef"/' "$dir/one/$p.meta.json" >"$dir/strange/$p.meta.json"
works "packs of two tokenizers" refuses 'was made with tokenizer .*, .* with another' "$ns" merge --input_prefixes "$dir/one/$p" "$dir/strange/$p" --output_prefix "$dir/mixed"
head -c 128 "$dir/other/packed_128_seed0.loss_mask.npy" >"$dir/strange/$p.loss_mask.npy"
tail -c +129 "$dir/one/$p.loss_mask.npy" >>"$dir/strange/$p.loss_mask.npy"
works "arrays of two shapes" refuses 'loss_mask.npy: (shape|.* rows|.* wide)' "$ns" merge --input_prefixes "$dir/strange/$p" --output_prefix "$dir/mixed"
works "packs that differ" refuses 'differ in context_parallel_size' "$ns" merge --input_prefixes "$dir/one/$p" "$dir/cp2/$p" --output_prefix "$dir/mixed"
works "nothing was merged" nothing "$dir/mixed"
rm "$dir/best/$p.meta.json"
works "without metadata: a warning" sh -c "'$ns' merge --input_prefixes '$dir/one/$p' '$dir/best/$p' --output_prefix '$dir/all2' 2>&1 | grep 'packed by another program'"
works "the same arrays" cmp "$dir/all.input_ids.npy" "$dir/all2.input_ids.npy"
head -c 300 "$dir/one/$p.input_ids.npy" >"$dir/best/$p.input_ids.npy"
works "a file cut short" refuses 'cut short' "$ns" merge --input_prefixes "$dir/best/$p" --output_prefix "$dir/bad"
rm "$dir/best/$p.loss_mask.npy"
for k in input_ids loss_mask seq_start_id; do
    rm -rf "$dir/two"
    cp -r "$dir/one" "$dir/two"
    rm "$dir/two/$p.$k.npy"
    works "one of three missing: $k" refuses "$p.$k.npy: missing: a pack is three files" "$ns" merge --input_prefixes "$dir/one/$p" "$dir/two/$p" --output_prefix "$dir/bad"
done
works "nothing was merged" nothing "$dir/bad"
if [ ! -d "$data/sft/packed_example" ]; then
    echo "SKIP: no test data in $data: the recorded packs are not compared"
    exit $fails
fi
# shellcheck disable=SC2317 # called through works
golden() { # CP ALGORITHM
    "$ns" pack "++model.data.train_ds.file_names=[$data/sft/gsm8k_400_llama3-instruct.jsonl]" ++model.data.train_ds.max_seq_length=512 \
        ++model.context_parallel_size="$1" ++tokenizer_path="$data/tokenizers/llama3/tokenizer.assembled.json" ++output_dir="$dir/$1$2" \
        "++pack_sizes=[1024]" ++model.data.train_ds.hf_dataset=True ++eos_id=128001 ++packing_algorithm="$2"
}
for cp in 1 2; do
    for how in first_fit_shuffle first_fit_decreasing; do
        works "pack cp $cp $how" golden $cp $how
        for k in input_ids loss_mask seq_start_id; do
            hash=$(tail -c +129 "$dir/$cp$how/packed_1024_seed0.$k.npy" | sha256sum | cut -d' ' -f1)
            works "$how cp $cp: $k of the original" grep -q "$hash" "$data/sft/golden_packing.json"
        done
    done
done
for k in input_ids loss_mask seq_start_id; do
    works "$k.npy of the original, whole" cmp "$dir/2first_fit_shuffle/packed_1024_seed0.$k.npy" "$data/sft/packed_example/packed_1024_seed0.$k.npy"
done
works "the original's packs merge" "$ns" merge --input_prefixes "$data/sft/packed_example/packed_1024_seed0" --output_prefix "$dir/theirs"
works "and stay as they are" cmp "$dir/theirs.loss_mask.npy" "$data/sft/packed_example/packed_1024_seed0.loss_mask.npy"
exit $fails
