#!/bin/sh
# The demo's word problems: equal bytes for equal seeds, and no (kind, numbers) pair in two of train, validation, held-out.
# shellcheck disable=SC2317 # the conditions are called through check
set -eu
here=$(cd "$(dirname "$0")/../.." && pwd)
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
${CC:-cc} -std=c11 -Wall -Wextra -Werror -o "$tmp/make_problems" "$here/examples/demo/make_problems.c"
"$tmp/make_problems" "$tmp/a" 6000 300
"$tmp/make_problems" "$tmp/b" 6000 300
"$tmp/make_problems" "$tmp/c" 6000 300 2

bad=0
check() { # TEXT CONDITION...
    text=$1
    shift
    if "$@"; then echo "ok $text"; else echo "not ok $text"; bad=1; fi
}
differ() { ! diff -rq "$1" "$2" >/dev/null; }
# Kind and numbers of each row: the worked steps name the numbers in one order whatever the wording.
keys() {
    sed 's/.*"type": "\([a-z_]*\)".*"reference_solution": "\([^"]*\) The answer.*/\1 \2/; s/[^ a-z_0-9+*/-]//g' "$1" |
        awk '{ k = $1; for (i = 2; i <= NF; i++) if ($i ~ /^[0-9+*\/-]+$/) k = k " " $i; print k }' | sort -u
}
shared() { [ -n "$(comm -12 "$tmp/$1" "$tmp/$2")" ]; }
unshared() { ! shared "$1" "$2"; }
has_operator() { [ "$(grep -c '[a-z_]* [0-9]* [-+*/] [0-9]*' "$1")" = "$(wc -l <"$1")" ]; }

check "same seed, same bytes" diff -rq "$tmp/a" "$tmp/b"
check "other seed, other bytes" differ "$tmp/a" "$tmp/c"
keys "$tmp/a/generations/output-rs0.jsonl" >"$tmp/train"
keys "$tmp/a/generations/validation.jsonl" >"$tmp/validation"
keys "$tmp/a/heldout.jsonl" >"$tmp/heldout"
keys "$tmp/a/unseen.jsonl" >"$tmp/unseen"
keys "$tmp/c/generations/output-rs0.jsonl" >"$tmp/train2"
for set in train heldout unseen; do check "keys of $set are a kind and an expression" has_operator "$tmp/$set"; done
check "the comparison finds shared keys" shared train train2
for pair in "train validation" "train heldout" "validation heldout" "train unseen"; do
    # shellcheck disable=SC2086 # two words
    check "nothing in both of $pair" unshared $pair
done
exit $bad
