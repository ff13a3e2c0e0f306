#!/bin/sh
# The demo's word problems: equal bytes for equal seeds, and no (kind, numbers) pair in two of train, validation, held-out.
# shellcheck disable=SC2317 # the conditions are called through works
set -eu
root=$(cd "$(dirname "$0")/../.." && pwd)
# shellcheck source=tests/lib.sh
. "$root/tests/lib.sh"
${CC:-cc} -std=c11 -Wall -Wextra -Werror -o "$dir/make_problems" "$root/examples/demo/make_problems.c"
"$dir/make_problems" "$dir/a" 6000 300
"$dir/make_problems" "$dir/b" 6000 300
"$dir/make_problems" "$dir/c" 6000 300 2

differ() { ! diff -rq "$1" "$2" >/dev/null; }
# Kind and numbers of each row: the worked steps name the numbers in one order whatever the wording.
keys() {
    sed 's/.*"type": "\([a-z_]*\)".*"reference_solution": "\([^"]*\) The answer.*/\1 \2/; s/[^ a-z_0-9+*/-]//g' "$1" |
        awk '{ k = $1; for (i = 2; i <= NF; i++) if ($i ~ /^[0-9+*\/-]+$/) k = k " " $i; print k }' | sort -u
}
shared() { [ -n "$(comm -12 "$dir/$1" "$dir/$2")" ]; }
unshared() { ! shared "$1" "$2"; }
has_operator() { [ "$(grep -c '[a-z_]* [0-9]* [-+*/] [0-9]*' "$1")" = "$(wc -l <"$1")" ]; }

works "same seed, same bytes" diff -rq "$dir/a" "$dir/b"
works "other seed, other bytes" differ "$dir/a" "$dir/c"
keys "$dir/a/generations/output-rs0.jsonl" >"$dir/train"
keys "$dir/a/generations/validation.jsonl" >"$dir/validation"
keys "$dir/a/heldout.jsonl" >"$dir/heldout"
keys "$dir/a/unseen.jsonl" >"$dir/unseen"
keys "$dir/c/generations/output-rs0.jsonl" >"$dir/train2"
for set in train heldout unseen; do works "keys of $set are a kind and an expression" has_operator "$dir/$set"; done
works "the comparison finds shared keys" shared train train2
for pair in "train validation" "train heldout" "validation heldout" "train unseen"; do
    # shellcheck disable=SC2086 # two words
    works "nothing in both of $pair" unshared $pair
done
exit $fails
