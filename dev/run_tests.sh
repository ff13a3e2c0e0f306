#!/bin/sh
# Runs every test program (or those whose name contains $2), prints one line a program and the counted total.
build=${1:-build}
filter=${2:-}
passed=0 failed=0 skipped=0
log=$build/test-logs
mkdir -p "$log"
for t in "$build"/tests/*_test; do
    [ -x "$t" ] || continue
    name=$(basename "$t")
    case $name in *"$filter"*) ;; *) continue ;; esac
    start=$(date +%s)
    (cd "$build" && timeout 300 "tests/$name") >"$log/$name.log" 2>&1
    rc=$?
    p=$(grep -c '^\[       OK \]' "$log/$name.log")
    f=$(grep -cE '^\[  FAILED  \] [a-zA-Z0-9_]+$' "$log/$name.log")
    s=$(grep -cE '^\[  SKIPPED \] [a-zA-Z0-9_]+$' "$log/$name.log")
    if [ $rc -ne 0 ] && [ "$f" -eq 0 ]; then f=1; fi
    # cmocka lists failed and skipped tests once while running and once in its summary
    [ "$f" -gt 1 ] && f=$(grep -cE '^\[  FAILED  \] [a-zA-Z0-9_]+$' "$log/$name.log")
    passed=$((passed + p)) failed=$((failed + f)) skipped=$((skipped + s))
    if [ $rc -ne 0 ]; then
        printf 'FAIL %s (exit %d)\n' "$name" $rc
        grep -E 'FAILED|error|Error|ERROR' "$log/$name.log" | head -20
    else
        printf 'ok   %-28s %3d tests %3ds%s\n' "$name" "$p" $(($(date +%s) - start)) "$([ "$s" -gt 0 ] && echo "  ($s skipped)")"
    fi
    grep -h '^SKIP' "$log/$name.log" | sort -u | sed 's/^/     /'
done
echo "$passed passed, $failed failed, $skipped skipped"
[ "$failed" -eq 0 ]
