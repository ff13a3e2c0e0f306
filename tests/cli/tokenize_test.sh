#!/bin/sh
# ns tokenize and ns detokenize: forms of output, the way back, refusals with exit codes. A tokenizer of a few letters is
# enough; the real ones are checked when the test data is there.
set -u
root=$(cd "$(dirname "$0")/../.." && pwd)
# shellcheck source=tests/lib.sh
. "$root/tests/lib.sh"
here=$(cd "$(dirname "$0")/../.." && pwd)
cd "$dir" || exit 1
mkdir t
cat >t/tokenizer.json <<'X'
{"version": "1.0", "added_tokens": [{"id": 9, "content": "<s>", "special": true, "normalized": false, "single_word": false,
 "lstrip": false, "rstrip": false}], "normalizer": null, "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false,
 "trim_offsets": true, "use_regex": true}, "decoder": {"type": "ByteLevel"}, "post_processor": {"type": "TemplateProcessing",
 "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
 "special_tokens": {"<s>": {"id": "<s>", "ids": [9], "tokens": ["<s>"]}}}, "model": {"type": "BPE", "vocab": {"a": 0, "b": 1,
 "Ġ": 2, "Ċ": 3, "Ã": 4, "©": 5, "ab": 6, "Ġab": 7, "<": 8, "s": 10, ">": 11}, "merges": ["a b", "Ġ ab"]}}
X
printf 'ab ab\nb\n\nab' >text
gives "ids" 0 "6 7" "$ns" tokenize --tokenizer t --text "ab ab"
gives "a file instead of a folder" 0 "6 7" "$ns" tokenize -t t/tokenizer.json --text "ab ab"
gives "JSON" 0 "[6, 7]" "$ns" tokenize -t t --json --text="ab ab"
gives "template and special text" 0 "9 6 9" "$ns" tokenize -t t --add-special --text "ab<s>"
gives "plain text" 0 "6 8 10 11" "$ns" tokenize -t t --plain --text "ab<s>"
gives "count" 0 "2" "$ns" tokenize -t t --count --text "ab ab"
gives "whole file" 0 "6 7 3 1 3 3 6" "$ns" tokenize -t t -i text
gives "lines" 0 "$(printf '[6, 7]\n[1]\n[]\n[6]')" "$ns" tokenize -t t --lines --json --input text
awk 'BEGIN { for (i = 0; i < 200000; i++) print (i % 7 ? "ab ab" : "b a" i % 2 ? "ab" : "") }' >many
for n in 1 2 5; do "$ns" tokenize -t t --lines --threads $n -i many >many.$n; done
gives "any number of threads" 0 "" sh -c "cmp many.1 many.2 && cmp many.1 many.5"
gives "a line in, a line out" 0 "200000" sh -c "wc -l <many.5"
sed '150001s/.*/abx/' many >bad
gives "the line of an error, in any thread" 3 "~bad:150001" sh -c "'$ns' tokenize -t t --lines --threads 3 -i bad >out.bad"
gives "and what was before it" 0 "" sh -c "head -150000 many.1 | cmp - out.bad"
gives "pieces" 0 "$(printf '7\t" ab"\n4\t"\\xc3"\n5\t"\\xa9"')" "$ns" tokenize -t t --pieces --text " abé"
gives "offsets" 0 "$(printf '9\t0\t0\t"<s>"\n7\t0\t3\t" ab"\n4\t3\t4\t"\\xc3"\n5\t4\t5\t"\\xa9"')" \
    "$ns" tokenize -t t --add-special --pieces --offsets --text " abé"
gives "offsets in JSON" 0 '{"ids": [6, 7], "offsets": [[0, 2], [2, 5]]}' "$ns" tokenize -t t --json --offsets --text "ab ab"
gives "pieces in JSON" 0 '[{"id": 6, "offsets": [0, 2], "text": "ab"}, {"id": 4, "offsets": [2, 3], "text": "�"}, {"id": 5, "offsets": [3, 4], "text": "�"}]' \
    "$ns" tokenize -t t --json --pieces --offsets --text "abé"
gives "offsets of plain ids" 2 "~--offsets needs --pieces or --json" "$ns" tokenize -t t --offsets --text ab
gives "count and pieces" 2 "~--count excludes" "$ns" tokenize -t t --count --pieces --text ab
gives "text and file" 2 "~--input and --text exclude each other" "$ns" tokenize -t t --text ab --input text
gives "empty text" 0 "[]" "$ns" tokenize -t t --json --text ""
gives "standard input" 0 "6" sh -c "printf ab | '$ns' tokenize -t t"
gives "the way back, whole" 0 "" sh -c "'$ns' tokenize -t t <text | '$ns' detokenize -t t | cmp - text"
gives "the way back, lines" 0 "" sh -c "'$ns' tokenize -t t --lines --json <text | '$ns' detokenize -t t | cmp - text"
gives "ids in words" 0 "ab ab" "$ns" detokenize -t t --ids "6, 7"
gives "ids in an object" 0 "ab ab" "$ns" detokenize -t t --ids '{"input_ids": [6, 7]}'
gives "special tokens stay" 0 "<s>ab" "$ns" detokenize -t t --ids "9 6"
gives "special tokens left out" 0 "ab" "$ns" detokenize -t t --skip-special --ids "9 6"
gives "stream" 0 "ab aé�b" sh -c "printf '6 2 0\n4, 5\n4 1' | '$ns' detokenize -t t --stream"
gives "stream gives characters as they come" 0 "ab aé" sh -c "{ printf '6 2 0 4 '; sleep 0.2; cat early >now; printf '5 '; } |
    '$ns' detokenize -t t --stream >early; cat early"
gives "and holds half of one back" 0 "ab a" cat now
gives "stream and JSON" 2 "~--stream excludes" "$ns" detokenize -t t --stream --json
gives "stream of words" 3 "~found 'x'" sh -c "echo '6 x' | '$ns' detokenize -t t --stream"
gives "half a character in JSON" 0 '"ab�"' "$ns" detokenize -t t --json --ids "6 4"
gives "no tokenizer" 2 "~missing: --tokenizer" "$ns" tokenize --text ab
gives "no such folder" 1 "~cannot open 'nowhere'" "$ns" tokenize -t nowhere --text ab
mkdir empty
gives "a folder without a tokenizer" 3 "~empty has no tokenizer.json" "$ns" tokenize -t empty --text ab
gives "bad text" 3 "~text byte 2 (0xff) is not valid UTF-8" sh -c "printf 'ab\\377' | '$ns' tokenize -t t"
gives "bad text names the line" 3 "~text:2: text byte 0" sh -c "printf 'a\\n\\377' >text; '$ns' tokenize -t t --lines -i text"
gives "a byte without a token" 3 "~byte 0x78 has no token" "$ns" tokenize -t t --text x
gives "an id without a token" 3 "~id 99 at position 1" "$ns" detokenize -t t --ids "6 99"
gives "words that are no ids" 3 "~byte 2: found 'x'" "$ns" detokenize -t t --ids "6 x"
gives "too large a number" 3 "~found '99999999999'" "$ns" detokenize -t t --ids "99999999999"
gives "JSON that is no ids" 3 "~item 0 is not a token id" "$ns" detokenize -t t --ids '["a"]'
gives "JSON without ids" 3 "~expected a list of ids" "$ns" detokenize -t t --ids '{"x": 1}'
data=${NS_TEST_DATA:-$here/../shared/data}/tokenizers
if [ -d "$data" ]; then
    llama=$data/llama3/tokenizer.assembled.json novel=$data/corpus/war-and-peace.txt
    gives "a novel has so many tokens" 0 760377 "$ns" tokenize -t "$llama" --count -i "$novel"
    gives "and comes back" 0 "" sh -c "'$ns' tokenize -t '$llama' -i '$novel' | '$ns' detokenize -t '$llama' | cmp - '$novel'"
else
    echo "SKIP: no test data folder (set NS_TEST_DATA)"
fi
exit $fails
