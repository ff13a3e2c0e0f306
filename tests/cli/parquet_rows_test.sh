#!/bin/sh
# Parquet, gzip and zstd files of rows give every verb what the same rows as JSONL give it; messages name file and row.
set -u
root=$(cd "$(dirname "$0")/../.." && pwd)
# shellcheck source=tests/lib.sh
. "$root/tests/lib.sh"
golden=$root/tests/golden/parquet
tok=$root/examples/demo/tokenizer
cd "$dir" || exit 1
refused() { # what, part of the message, COMMAND...
    what=$1 part=$2
    shift 2
    if "$@" >out 2>&1; then
        echo "not ok - $what: not refused"
        fails=1
    elif grep -qF -- "$part" out; then echo "ok - $what"; else
        echo "not ok - $what: $(tail -n 3 out)"
        fails=1
    fi
}
mkdir p j # the same name in two folders: reports that hold names agree but for the ending
cp "$golden/plain_v1.parquet" p/text.parquet
cp "$golden/text.jsonl" j/text.jsonl
cp "$golden/hf.parquet" p/chat.parquet
sed 's/"label.*/"label": 0}/' "$golden/hf.jsonl" >j/chat.jsonl
kinds=parquet
for pair in gzip:gz zstd:zst; do
    program=${pair%:*}
    if "$ns" doctor 2>/dev/null | grep -q "packed with $program can be read" && command -v "$program" >/dev/null; then
        "$program" -c <j/text.jsonl >"p/text.${pair#*:}"
        kinds="$kinds ${pair#*:}"
    fi
done

# shellcheck disable=SC2317 # called through ok
prepare() { # FROM TO
    "$ns" prepare "++preprocessed_dataset_files=$1" "++output_path=$2" ++input_key=question ++output_key=answer \
        ++prompt_config=generic/default ++prompt_template=llama3-instruct ++filters.drop_multi_boxed=false
}
works "prepare: JSONL" prepare j/text.jsonl j/sft.jsonl
for k in $kinds; do
    works "prepare: $k" prepare "p/text.$k" "p/sft.$k.jsonl"
    works "prepare: $k gives the same bytes" cmp j/sft.jsonl "p/sft.$k.jsonl"
done
works "prepare: something came out" test -s j/sft.jsonl

rows() { # VERB-LIKE COMMAND... : with the keys of these rows
    "$@" --prompt-template '{question}{answer}' --label-key answer --truncation-field question
}
for k in $kinds; do
    rows "$ns" inspect "p/text.$k" -t "$tok" >"p/$k.txt" 2>&1
    rows "$ns" inspect j/text.jsonl -t "$tok" 2>&1 | sed "s/text\.jsonl/text.$k/g; s/j\/text/p\/text/g" >"j/$k.txt"
    works "inspect: $k" cmp "p/$k.txt" "j/$k.txt"
    works "inspect: $k shows rows" grep -q "text.$k: 60 rows" "p/$k.txt"
done
rows "$ns" inspect p/text.parquet -t "$tok" --row 7 >p/row.txt 2>&1
rows "$ns" inspect j/text.jsonl -t "$tok" --row 7 2>&1 | sed 's/text\.jsonl/text.parquet/; s/^j/p/' >j/row.txt
works "inspect: one row" cmp p/row.txt j/row.txt

chatml=$dir/t # a tokenizer with the tokens of a shipped layout
mkdir t
cat >t/tokenizer.json <<'E'
{"version": "1.0", "added_tokens": [{"id": 256, "content": "<|im_start|>", "special": true, "normalized": false, "single_word": false,
 "lstrip": false, "rstrip": false}, {"id": 257, "content": "<|im_end|>", "special": true, "normalized": false, "single_word": false,
 "lstrip": false, "rstrip": false}], "normalizer": null, "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false,
 "trim_offsets": true, "use_regex": true}, "decoder": {"type": "ByteLevel"}, "post_processor": null,
 "model": {"type": "BPE", "vocab": {VOCAB}, "merges": []}}
E
awk 'BEGIN {
    for (i = 0; i < 256; i++) {
        code = (i >= 33 && i <= 126) || (i >= 161 && i <= 172) || i >= 174 ? i : 256 + n++
        printf "%s\"\\u%04x\": %d", i ? ", " : "", code, i
    }
}' >vocab
sed "s/VOCAB/$(sed 's/\\/\\\\/g' vocab)/" t/tokenizer.json >t/x && mv t/x t/tokenizer.json
echo '{"eos_token": "<|im_end|>"}' >t/tokenizer_config.json
for f in p/chat.parquet j/chat.jsonl; do "$ns" tokenize -t "$chatml" --chat --lines --json -i $f >"${f%/*}/ids" 2>&1 || echo "failed" >>"${f%/*}/ids"; done
works "tokenize --chat --lines: the same ids" cmp p/ids j/ids
works "tokenize --chat --lines: a line a row" [ "$(grep -c 256 p/ids)" = 12 ]
printf 'PARENTS and children\n' >parents.txt
works "a text that begins as an encrypted file does" "$ns" tokenize -t "$chatml" -i parents.txt
refused "tokenize of text" "p/chat.parquet is a Parquet file: its rows are conversations" "$ns" tokenize -t "$chatml" -i p/chat.parquet

cat >config.json <<'E'
{"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1,
 "num_attention_heads": 2, "num_key_value_heads": 2, "vocab_size": 640, "max_position_embeddings": 512, "rms_norm_eps": 1e-5,
 "rope_theta": 10000.0, "tie_word_embeddings": true, "hidden_act": "silu", "torch_dtype": "float32"}
E
works "init" "$ns" init --config config.json --tokenizer "$tok" --output base --dtype f32
# shellcheck disable=SC2317 # called through ok
sft() { # FILE OUT
    "$ns" sft ++model.restore_from_path=base "++model.data.train_ds.file_path=$1" "++exp_manager.explicit_log_dir=$2" \
        ++trainer.precision=32 ++model.data.train_ds.global_batch_size=4 ++trainer.sft.max_steps=3 ++trainer.sft.save_interval=-1 \
        ++model.data.train_ds.label_key=answer ++model.data.train_ds.truncation_field=question \
        "++model.data.train_ds.prompt_template='{question}{answer}'" ++max_duplicate_share=1 ++max_masked_share=1
}
losses() { sed -n 's/.*"\(train_\)\{0,1\}loss": \([^,}]*\).*/\2/p' "$1/metrics.jsonl"; }
works "sft: JSONL" sft j/text.jsonl j/run
losses j/run >j/losses
works "sft: three steps" [ "$(wc -l <j/losses)" -ge 3 ]
for k in $kinds; do
    works "sft: $k" sft "p/text.$k" "p/run.$k"
    losses "p/run.$k" >p/losses
    works "sft: $k gives the same losses" cmp p/losses j/losses
done
# shellcheck disable=SC2317 # called through ok
pack() { # FILE OUT
    "$ns" pack "++model.data.train_ds.file_names=[$1]" ++tokenizer_path="$tok" "++output_dir=$2" "++pack_sizes=[512]" ++eos_id=0 \
        ++model.data.train_ds.max_seq_length=512 ++model.data.train_ds.label_key=answer ++model.data.train_ds.truncation_field=question \
        "++model.data.train_ds.prompt_template='{question}{answer}'"
}
works "pack: JSONL" pack j/text.jsonl j/packs
works "pack: parquet" pack p/text.parquet p/packs
works "pack: the same arrays" cmp j/packs/packed_512_seed0.input_ids.npy p/packs/packed_512_seed0.input_ids.npy

head -c 2000 p/text.parquet >p/cut.parquet
refused "a cut file" "found no 'PAR1' at the end of the Parquet file" prepare p/cut.parquet x.jsonl
works "nothing is written" [ ! -e x.jsonl ]
# shellcheck disable=SC2016 # expanded by the inner shell
refused "a pipe" "a Parquet file is read from its end, which a pipe does not allow" sh -c \
    'cat p/text.parquet | "$0" prepare ++preprocessed_dataset_files=- ++output_path=x.jsonl ++input_key=question ++output_key=answer' "$ns"
refused "a damaged row" "row 2: p/bad.parquet: column 's', page at byte 4: found text that is not UTF-8" sh -c "cp '$golden/odd/not_utf8.parquet' p/bad.parquet && \
    '$ns' inspect p/bad.parquet -t '$tok'"
refused "a row without the key names file and row" "p/text.parquet:1" "$ns" inspect p/text.parquet -t "$tok" --prompt-template '{nothing}{answer}' --label-key answer --truncation-field nothing
refused "grade into a Parquet file" "a parquet file is read but not written" "$ns" grade ++input_files=p/text.parquet
exit $fails
