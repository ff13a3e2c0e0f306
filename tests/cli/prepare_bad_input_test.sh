#!/bin/sh
# ns prepare and rows that are wrong: each case is a file, and the one line that must say file, line, byte, what was found and what was
# expected (or the rows that must come out). No output and nothing temporary is left by a case that fails.
set -u
root=$(cd "$(dirname "$0")/../.." && pwd)
# shellcheck source=tests/lib.sh
. "$root/tests/lib.sh"
cd "$dir" || exit 1
n=0
prepare() {
    "$ns" prepare --quiet ++filters.remove_contaminated=false ++filters.remove_len_outlier_problems=false \
        ++do_shuffle=false ++output_path=out.jsonl "$@"
}
# bad CODE NAME MESSAGE [WORD...]: in.jsonl is refused
bad() {
    code=$1 name=$2 message=$3
    shift 3
    rm -f out.jsonl*
    prepare "$@" 2>log
    rc=$?
    [ $rc = "$code" ] || fail "$name: exit code $rc, expected $code: $(cat log)"
    grep -v 'WARNING ' log | grep '^ns prepare' >message
    [ "$(wc -l <message)" = 1 ] || fail "$name: not one line: $(cat log)"
    grep -qF -- "$message" message || fail "$name: says '$(cat message)', expected '$message'"
    left=$(find . -name 'out.jsonl*' -o -name '*.tmp*')
    [ -z "$left" ] || fail "$name: left behind: $left"
    n=$((n + 1))
}
row() { bad 3 "$1" "$2" ++preprocessed_dataset_files=in.jsonl; }
# good NAME ROWS: in.jsonl gives these rows
good() {
    prepare ++preprocessed_dataset_files=in.jsonl 2>log || fail "$1: $(cat log)"
    printf '%s\n' "$2" | cmp -s - out.jsonl || fail "$1: rows are $(cat out.jsonl), expected $2"
    rm -f out.jsonl*
    n=$((n + 1))
}
ok='{"problem": "p", "generation": "g"}'
pg='{"input": "p", "output": "g"}'

# text that is not JSON, or not UTF-8
printf '%s\n{"problem": "p",\n' "$ok" >in.jsonl
row "a row cut off" 'in.jsonl:2: byte 16: found end of text, expected a key in double quotes'
printf '%s' '{"problem": "p", "gener' >in.jsonl
row "a file cut off" 'in.jsonl:1: byte 23: found end of text, expected " at the end of the string'
printf '%s {}\n' "$ok" >in.jsonl
row "two values" 'in.jsonl:1: byte 36: found '\''{'\'', expected'
printf '{"problem": 01, "generation": "g"}\n' >in.jsonl
row "a leading zero" 'in.jsonl:1: byte 13: found '\''1'\'', expected no digit after a leading zero'
printf "{'problem': 'p'}\n" >in.jsonl
row "single quotes" "in.jsonl:1: byte 1: found ''', expected a key in double quotes"
printf '%s\n\n%s\n' "$ok" "$ok" >in.jsonl
row "a blank line" 'in.jsonl:2: found a blank line, expected a JSON value: remove the line'
printf '{"problem": "p\000", "generation": "g"}\n' >in.jsonl
row "NUL in a string" 'in.jsonl:1: byte 14: found byte 0x00, expected no control character inside a string'
printf '\000%s\n' "$ok" >in.jsonl
row "NUL before a row" 'in.jsonl:1: byte 0: found byte 0x00, expected a value'
printf '\357\273\277%s\n' "$ok" >in.jsonl
row "a byte order mark" 'in.jsonl:1: byte 0: found a byte order mark (EF BB BF), expected UTF-8 without one'
printf '\377\376{\000"\000' >in.jsonl
row "UTF-16" 'in.jsonl:1: byte 0: found byte 0xff, expected'
printf '{"problem": "p\351", "generation": "g"}\n' >in.jsonl
row "Latin-1" 'in.jsonl:1: byte 14: found byte 0xe9, expected valid UTF-8 text'
printf '{"problem": "\\ud83d", "generation": "g"}\n' >in.jsonl
row "half of a surrogate pair" 'in.jsonl:1: byte 13: found half of a surrogate pair, expected both halves'
printf '{"problem": "\\udE00\\ud83d", "generation": "g"}\n' >in.jsonl
row "a surrogate pair the wrong way round" 'in.jsonl:1: byte 13: found half of a surrogate pair'
awk 'BEGIN { printf "{\"problem\": \"p\", \"generation\": "; for (i = 0; i < 600; i++) printf "["; print "" }' >in.jsonl
row "deep nesting" 'in.jsonl:1: byte 542: found '\''['\'', expected no more than 512 levels of nesting'

# rows that are JSON, and not what is needed
printf '%s\n[1, 2]\n' "$ok" >in.jsonl
row "a list" 'in.jsonl:2: the row is a list, expected an object'
printf '%s\n{"question": "q", "answer": "a"}\n' "$ok" >in.jsonl
row "mixed schemas" 'in.jsonl:2: no field "problem" (the row has: question, answer)'
printf '{"problem": "p", "generation": 5}\n' >in.jsonl
row "a number for text" 'in.jsonl:1: field "generation" is a number, expected text'
printf '{"problem": "p", "generation": null}\n' >in.jsonl
row "null for text" 'in.jsonl:1: field "generation" is null, expected text'
: >in.jsonl
row "an empty file" 'no rows in in.jsonl: empty input'
printf '%s\n' "$ok" >in.jsonl
bad 3 "raw rows without a label" 'no row of in.jsonl has the field "is_correct": use ++preprocessed_dataset_files' ++input_files=in.jsonl
bad 3 "a prompt's field" 'in.jsonl:1: prompt_config generic/codegen needs a field "question" (available: problem)' \
    ++preprocessed_dataset_files=in.jsonl ++prompt_config=generic/codegen ++prompt_template=qwen-instruct
printf '{"problem": "p", "generation": "g", "majority_votes": "3", "total_votes": 8}\n' >in.jsonl
bad 3 "text for a number" 'in.jsonl:1: majority_votes and total_votes must be numbers' \
    ++preprocessed_dataset_files=in.jsonl ++filters.majority_filter=true

# long lines: within a third of ++memory, at least 64 MiB
awk 'BEGIN { for (i = 0; i < 65536; i++) printf "0123456789abcdef" }' >megabyte
(
    printf '{"problem": "p", "generation": "'
    # shellcheck disable=SC2034
    for i in 1 2 3 4 5 6 7; do cat megabyte megabyte megabyte megabyte megabyte megabyte megabyte megabyte megabyte megabyte; done
    printf '"}\n%s\n' "$ok"
) >in.jsonl
bad 3 "a long line" 'a third of ++memory (raise it): in.jsonl:1: found a line of more than 67108864 bytes, expected at most that' \
    ++preprocessed_dataset_files=in.jsonl ++memory=100MB
prepare ++preprocessed_dataset_files=in.jsonl ++memory=300MB 2>log || fail "a line of 70 MB: $(cat log)"
[ "$(wc -c <out.jsonl)" = $((70 * 1048576 + 59)) ] || fail "a line of 70 MB: $(wc -c <out.jsonl) bytes"
rm -f out.jsonl* in.jsonl megabyte
n=$((n + 1))

# files
bad 3 "a name that matches nothing" "'none.jsonl' matches nothing: correct it, or go on without it with ++allow_missing_files=true" \
    ++preprocessed_dataset_files=none.jsonl
bad 3 "a pattern that matches nothing" "'none*.jsonl' matches nothing" "++preprocessed_dataset_files=none*.jsonl"
mkdir folder.jsonl
bad 3 "a folder" "'folder.jsonl' matches nothing" ++preprocessed_dataset_files=folder.jsonl
printf '%s\n' "$ok" >in.jsonl
bad 2 "output onto input" 'in.jsonl is both an input and the output' ++preprocessed_dataset_files=in.jsonl ++output_path=./in.jsonl
[ "$(cat in.jsonl)" = "$ok" ] || fail "output onto input: the input is lost"
bad 2 "the list of dropped rows onto input" 'in.jsonl is both an input and the output' \
    ++preprocessed_dataset_files=in.jsonl ++dropped_file=in.jsonl

# accepted
printf '%s\r\n{"problem": "q", "generation": "g"}\r\n' "$ok" >in.jsonl
good "CRLF" "$pg
{\"input\": \"q\", \"output\": \"g\"}"
printf '%s\r{"problem": "q", "generation": "g"}' "$ok" >in.jsonl
good "CR, and no end of the last line" "$pg
{\"input\": \"q\", \"output\": \"g\"}"
printf '{"problem": "x", "generation": "g", "problem": "p"}\n' >in.jsonl
good "a key twice: the last value" "$pg"
printf '{"problem": "\\ud83d\\ude00\\u0000\303\251", "generation": "g"}\n' >in.jsonl
good "escapes" '{"input": "\ud83d\ude00\u0000\u00e9", "output": "g"}'
printf '{"problem": "p", "x": {"problem": [1]}, "generation": "g"}\n{"generation": "g", "problem": "q"}\n' >in.jsonl
good "other fields, other order" "$pg
{\"input\": \"q\", \"output\": \"g\"}"
awk 'BEGIN { printf "{\"problem\": \"p\", \"generation\": \"g\", \"x\": "; for (i = 0; i < 500; i++) printf "["; for (i = 0; i < 500; i++) printf "]"; print "}" }' >in.jsonl
good "500 levels" "$pg"
echo "ok $n kinds of input"
