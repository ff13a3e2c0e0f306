#!/bin/sh
# ns inspect: summary, rows, JSON, page, and refusals with exit codes, on a tokenizer of a few letters.
set -u
root=$(cd "$(dirname "$0")/../.." && pwd)
# shellcheck source=tests/lib.sh
. "$root/tests/lib.sh"
cd "$dir" || exit 1
mkdir t
cat >t/tokenizer.json <<'E'
{"version": "1.0", "added_tokens": [{"id": 9, "content": "<s>", "special": true, "normalized": false, "single_word": false,
 "lstrip": false, "rstrip": false}, {"id": 12, "content": "</s>", "special": true, "normalized": false, "single_word": false,
 "lstrip": false, "rstrip": false}], "normalizer": null, "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false,
 "trim_offsets": true, "use_regex": true}, "decoder": {"type": "ByteLevel"}, "post_processor": {"type": "TemplateProcessing",
 "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
 "special_tokens": {"<s>": {"id": "<s>", "ids": [9], "tokens": ["<s>"]}}}, "model": {"type": "BPE", "vocab": {"a": 0, "b": 1,
 "Ġ": 2, "Ċ": 3, "Ã": 4, "©": 5, "ab": 6, "Ġab": 7, "<": 8, "s": 10, ">": 11}, "merges": ["a b", "Ġ ab"]}}
E
echo '{"bos_token": "<s>", "eos_token": "</s>"}' >t/tokenizer_config.json
cat >rows.jsonl <<'E'
{"input": "ab", "output": "b"}
{"input": "<s>a", "output": "a"}
{"input": "ab", "output": "b"}
{"input": "aaaaaaaa", "output": "bb"}
{"input": "a", "output": ""}
E
i="$ns inspect rows.jsonl -t t"
# shellcheck disable=SC2086 # $i is several words
{
    gives "rows and format" 0 "~rows.jsonl: 5 rows, format input/output" $i
    gives "trained share" 0 "~trained  5 (27.8 %)" $i
    gives "longest" 0 "~shortest 1 (line 5), longest 10 (line 4)" $i
    gives "empty answer" 0 "~empty answer                                       1  line 5" $i
    gives "repeats" 0 "~2 times  lines 1, 3  \"abb\"" $i
    gives "rows without an end" 0 "~end of turn        4  lines 1, 2, 3, 4" $i
    gives "an EOS ends them" 0 "!no EOS" $i --add-eos
    gives "truncated" 0 "~truncated                                          1  line 4" $i --max-seq-length 6
    gives "one BOS is fine" 0 "!two BOS" $i
    gives "two BOS" 0 "~begins with two BOS tokens                         1  line 2" $i --add-bos
    gives "no log beside the summary" 0 "!WARN" $i
    gives "token by token" 0 "$(printf 'rows.jsonl:1: 3 tokens, 2 trained\n      0        6  "ab"\n[     1        1  "b"\n      2       12  "</s>" ]')" $i --row 1 --add-eos
    gives "rows as text" 0 "$(printf 'rows.jsonl:1: 2 tokens, 1 trained\n"ab"["b"]\nrows.jsonl:2: 3 tokens, 1 trained\n"<s>a"["a"]')" $i --rows 1-2
    gives "another label" 0 "~\"b\"[\"ab\"]" $i --rows 1 --prompt-template '{output}{input}' --label-key input --truncation-field output
    gives "cut on the left" 0 "~[\"bb\"]" $i --rows 4 --max-seq-length 4 --truncation-method left
    gives "parts" 0 '~  {output}                                     5         5 100.0 %' $i
    gives "parts in JSON" 0 '~"parts": [{"part": "{input}", "tokens": 13, "trained": 0}, {"part": "{output}", "tokens": 5, "trained": 5}]' $i --json
    gives "JSON" 0 '~"trained_tokens": 5, "trained_share": 0.277778' $i --json
    gives "JSON of a row" 0 '~"shown": [{"line": 2, "tokens": [{"id": 9, "trained": false, "text": "<s>"}' $i --json --row 2
    gives "page" 0 "~rows.jsonl: 5 rows" $i --html p.html
    gives "page: text is escaped" 0 "~&lt;s&gt;a</span>" cat p.html
    gives "page: no element from rows" 0 "!<s>" cat p.html
    gives "page: chosen rows" 0 "" sh -c "$i --html p.html --rows 2-3 >out2 && ! grep -q 'line 1 <small>' p.html && grep -q 'line 3 <small>' p.html && ! grep -q 'line 4 <small>' p.html"
    gives "no such row" 3 "~rows.jsonl:6: no such row: the file has 5 rows" $i --row 6
    gives "row 0" 2 "~row" $i --row 0
    gives "rows that are none" 2 "~expected lines A-B" $i --rows 3-1
    gives "rows that are words" 2 "~expected lines A-B" $i --rows x
    gives "both" 2 "~not both" $i --row 1 --rows 1-2
    gives "a wrong side" 2 "~right" $i --truncation-method up
    gives "a page that cannot be written" 1 "~nowhere/p.html" $i --html nowhere/p.html
}
if command -v script >/dev/null 2>&1; then # a terminal: colours, unless NO_COLOR
    gives "colours on a terminal" 0 "~$(printf '\033[32m     1        1  "b"\033[0m')" env -u NO_COLOR script -qec "$i --row 1" /dev/null
    gives "NO_COLOR" 0 "~[     1        1  \"b\" ]" env NO_COLOR=1 script -qec "$i --row 1" /dev/null
fi
gives "no file" 2 "~give one file of rows" "$ns" inspect -t t
gives "no tokenizer" 2 "~missing: --tokenizer" "$ns" inspect rows.jsonl
gives "no such file" 1 "~none.jsonl" "$ns" inspect none.jsonl -t t
printf '{"input": "a", "output": "b"}\n{"input": "a"}\n' >bad.jsonl
gives "a row without the field names its line" 3 "~bad.jsonl:2: " "$ns" inspect bad.jsonl -t t
printf '{"input": "a", "output": "b"}\n{"inp' >bad.jsonl
gives "a broken row names its line" 3 "~bad.jsonl:2: " "$ns" inspect bad.jsonl -t t
: >empty.jsonl
gives "an empty file" 3 "~empty.jsonl" "$ns" inspect empty.jsonl -t t
gives "help has examples" 0 "~--html rows.html --rows 1-200" "$ns" inspect --help
exit $fails
