#!/bin/sh
# ns prepare as people type it: the documented command with its stray '>', patterns that match nothing, options that the configuration
# does not use; nothing is written then.
set -u
root=$(cd "$(dirname "$0")/../.." && pwd)
# shellcheck source=tests/lib.sh
. "$root/tests/lib.sh"
cd "$dir" || exit 1
for r in 0 1; do
    for i in 1 2 3; do
        printf '{"problem": "%d plus %d?", "generation": "It is \\\\boxed{%d}.", "is_correct": true, "expected_answer": "%d"}\n' $i $r $((i + r)) $((i + r))
    done >"output-rs$r.jsonl"
done

"$ns" prepare ++input_files=output-rs*.jsonl > ++output_path=sft-data.jsonl ++prompt_config=generic/math ++prompt_template=llama3-instruct 2>log &&
    fail "the stray > is not noticed"
grep -q "a file named '++output_path=sft-data.jsonl': there is a '>' before it" log || fail "stray >: $(cat log)"
[ ! -e sft-data.jsonl ] || fail "something was written"
rm -f -- "++output_path=sft-data.jsonl"
"$ns" prepare ++input_files="output-rs*.jsonl" ++output_path=sft-data.jsonl ++prompt_config=generic/math ++prompt_template=llama3-instruct 2>log ||
    fail "the documented command: $(cat log)"
[ "$(wc -l <sft-data.jsonl)" = 6 ] || fail "6 rows expected: $(cat log)"
grep -q "input_files: output-rs\*.jsonl: 2 files" log || fail "matches are not said: $(cat log)"
grep -q "filters.remove_contaminated" log || fail "a skipped filter names its switch: $(cat log)"
echo "ok the documented command, and its stray >"

"$ns" prepare ++input_files="output-rs0.jsonl, output-rs1.jsonl  none*.jsonl" ++output_path=x.jsonl 2>log && fail "a pattern without a match"
grep -q "'none\*.jsonl' matches nothing" log || fail "no match: $(cat log)"
[ ! -e x.jsonl ] || fail "something was written"
"$ns" prepare ++input_files="output-rs0.jsonl, output-rs1.jsonl  none*.jsonl" ++output_path=x.jsonl ++allow_missing_files=true 2>log ||
    fail "allow_missing_files: $(cat log)"
[ "$(wc -l <x.jsonl)" = 6 ] || fail "commas and blanks mixed"
echo "ok patterns: commas, blanks, no match"

"$ns" prepare --config-name=math_rl ++input_files=output-rs0.jsonl ++output_path=y.jsonl ++output_key=generation 2>log && fail "an unused option"
grep -q "no processor of this configuration uses 'output_key'" log || fail "unused option: $(cat log)"
"$ns" prepare ++input_files=output-rs0.jsonl ++output_path=output-rs0.jsonl 2>log && fail "output onto input"
grep -q "is both an input and the output" log || fail "output onto input: $(cat log)"
cat output-rs?.jsonl | "$ns" prepare ++input_files=- ++output_path=- 2>log >z.jsonl || fail "stdin to stdout: $(cat log)"
cmp -s z.jsonl x.jsonl || fail "stdin to stdout gives other rows"
"$ns" prepare --json ++input_files=output-rs0.jsonl ++output_path=j.jsonl 2>log >out.json || fail "--json: $(cat log)"
cmp -s out.json j.jsonl.stats.json || fail "--json and the saved statistics differ"
grep -q '"rows": 3,' out.json || fail "statistics: $(cat out.json)"
"$ns" prepare --json ++input_files=output-rs0.jsonl ++output_path=- 2>log >out.json && fail "--json and rows on one standard output"
[ ! -s out.json ] || fail "something was printed"
echo "ok unused options and output onto input are refused; - is stdin, stdout"

# a signal ends it wherever it waits: nothing is left, an earlier output stays
echo old >w.jsonl
sleep 3 | "$ns" prepare ++input_files=- ++output_path=w.jsonl ++memory=1MB 2>log &
pid=$!
i=0
while [ -z "$(find . -name 'w.jsonl.tmp.*')" ]; do
    i=$((i + 1))
    [ $i -lt 100 ] || fail "no temporary file appears: $(cat log)"
    sleep 0.1
done
kill -TERM $pid
wait $pid
rc=$?
[ $rc = 143 ] || fail "SIGTERM: exit code $rc, expected 143"
grep -q "stopped by a signal: 'w.jsonl' is as it was before; the same command starts it again" log || fail "SIGTERM: $(cat log)"
sleep 2 | timeout --preserve-status -s INT 1 "$ns" prepare ++input_files=- ++output_path=w.jsonl 2>log
rc=$?
[ $rc = 130 ] || fail "SIGINT: exit code $rc, expected 130"
[ "$(cat w.jsonl)" = old ] || fail "the earlier output is lost"
[ -z "$(find . -name '*.tmp*')" ] || fail "left behind: $(find . -name '*.tmp*')"
echo "ok signals leave nothing behind"

"$ns" doctor >doctor.txt 2>&1
for kind in gzip:zlib zstd:libzstd; do
    program=${kind%:*} library=${kind#*:}
    if ! grep -q "ok *$library " doctor.txt || ! command -v "$program" >/dev/null; then
        echo "# SKIP $program input: no $library in this build, or no program $program here"
        continue
    fi
    rm -f packed.* half.*
    ("$program" -c <output-rs0.jsonl && "$program" -c <output-rs1.jsonl) >packed.jsonl.x # two members
    "$ns" prepare ++input_files=packed.jsonl.x ++output_path=p.jsonl 2>log || fail "$program input: $(cat log)"
    cmp -s p.jsonl x.jsonl || fail "$program input gives other rows"
    size=$(wc -c <packed.jsonl.x)
    head -c $((size - 10)) packed.jsonl.x >half.jsonl.x
    rm -f p.jsonl
    "$ns" prepare ++input_files=half.jsonl.x ++output_path=p.jsonl 2>log && fail "$program input cut short"
    grep -q "half.jsonl.x: packed byte $((size - 10)): the file ends within its $program data" log || fail "$program cut short: $(cat log)"
    [ ! -e p.jsonl ] || fail "half of a file left rows"
done
echo "ok packed input"
