#!/bin/sh
# doc/options is what the option tables say today (make docs rewrites it).
ns=$1
root=$(cd "$(dirname "$0")/../.." && pwd)
dir=$(mktemp -d "${TMPDIR:-/tmp}/ns-docs-XXXXXX")
trap 'rm -rf "$dir"' EXIT
"$ns" doctor --write-docs "$dir" >/dev/null 2>&1 || { echo "not ok ns doctor --write-docs"; exit 1; }
if diff -r "$dir" "$root/doc/options" >"$dir.diff" 2>&1; then
    echo "ok doc/options is up to date"
else
    echo "not ok doc/options is out of date: run make docs"
    head -10 "$dir.diff"
    rm -f "$dir.diff"
    exit 1
fi
rm -f "$dir.diff"
