#!/bin/sh
# dev/run_tests.sh [BUILD_DIR [FILTER]]  -- runs every test (or those whose name contains FILTER), several at a time.
#
#   BUILD_DIR/tests/*_test, *_replay    cmocka programs and fuzz-corpus replays, as listed in BUILD_DIR/tests.list:
#                                       one that is listed and was not built fails, one left from older sources is not run
#   tests/cli/*.sh, tests/*/*_test.sh   shell tests, given the path of the program; exit 77 = skipped
#
# One line a program, then what failed in full, then the counted total as the last line. JOBS programs run at once
# (default: CPUs; each has NS_THREADS threads, default 2). Logs stay in BUILD_DIR/test-logs. NS_FULL=1: long variants.
# Counted are single tests: cmocka's tests, a shell test's "ok"/"not ok" lines (or 1 without these). A program that
# dies counts as one failure more, so that lost tests are never silent.
set -u
cd "$(dirname "$0")/.." || exit 1

if [ "${1:-}" = --one ]; then # internal: run one test, write its log and its .count line "passed failed skipped rc"
    build=$2 test=$3 name=$(basename "$3" .sh)
    log=$build/test-logs/$name.log
    start=$(date +%s.%N)
    case $test in
    *.sh)
        interpreter="sh"
        [ "$(head -c 19 "$test")" = "#!/usr/bin/env bash" ] && interpreter="bash"
        timeout -k 10 "$NS_TEST_TIMEOUT" $interpreter "$test" "$build/ns" >"$log" 2>&1
        ;;
    *) (cd "$build" && exec timeout -k 10 "$NS_TEST_TIMEOUT" "tests/$name") >"$log" 2>&1 ;;
    esac
    rc=$?
    # A verdict counts only between "[ RUN" and the next verdict: cmocka repeats names in its summary.
    awk -v rc=$rc -v sh="$(case $test in *.sh) echo 1 ;; *) echo 0 ;; esac)" '
        index($0, "[ RUN      ]") { if (run) f++; run = 1; next }
        run && index($0, "[       OK ]") { p++; run = 0 }
        run && index($0, "[  FAILED  ]") { f++; run = 0 }
        run && index($0, "[  SKIPPED ]") { s++; run = 0 }
        /^ok / { p++ } /^not ok / { f++ }
        END {
            if (run) f++
            if (sh && rc == 77) { s++; rc = 0 }
            if (rc != 0 && f == 0) f = 1
            if (rc == 0 && p + f + s == 0) p = 1
            print p + 0, f + 0, s + 0, rc
        }' "$log" >"$build/test-logs/$name.count"
    read -r p f s rc <"$build/test-logs/$name.count"
    verdict=ok
    [ "$f" -gt 0 ] && verdict=FAIL
    line=$(printf '%-4s %-28s %4d tests %6.1fs%s%s' "$verdict" "$name" "$p" \
        "$(echo "$start $(date +%s.%N)" | awk '{ print $2 - $1 }')" \
        "$([ "$s" -gt 0 ] && echo "  ($s skipped)")" "$([ "$f" -gt 0 ] && echo "  ($f failed, exit $rc)")")
    skips=$({ grep -ha '^SKIP' "$log" || sed -n 's/^\[  SKIPPED \] /SKIP: /p' "$log" | grep -v 'listed below'; } | sort -u | sed 's/^/     /')
    # one write a program, so that lines of parallel tests never mix
    printf '%s\n' "$line${skips:+
$skips}"
    exit 0
fi

build=$(cd "${1:-build}" && pwd) || exit 1
filter=${2:-}
: "${NS_THREADS:=2}" "${NS_ACCELERATOR:=cpu}" "${NS_TEST_TIMEOUT:=$([ -n "${NS_FULL:-}" ] && echo 3600 || echo 300)}" "${JOBS:=$(nproc)}"
export NS_THREADS NS_TEST_TIMEOUT NS_ACCELERATOR # what a test does not say runs on the CPU, also beside a GPU
logs=$build/test-logs
rm -rf "$logs"
mkdir -p "$logs"
{
    if [ -f "$build/tests.list" ]; then sed "s|^|$build/tests/|" "$build/tests.list"; else ls -d "$build"/tests/*; fi
    [ -x "$build/ns" ] && ls -d tests/cli/*.sh tests/*/*_test.sh 2>/dev/null
} | while read -r t; do
    case $t in */lib.sh) continue ;; esac
    case $(basename "$t" .sh) in *"$filter"*) echo "$t" ;; esac
done | sort -u >"$logs/list"
xargs -P "$JOBS" -I '{}' sh dev/run_tests.sh --one "$build" '{}' <"$logs/list"

for count in "$logs"/*.count; do
    [ -f "$count" ] || continue
    read -r _ f _ rc <"$count"
    [ "$f" -gt 0 ] || continue
    printf -- '---- %s (exit %s; %s)\n' "$(basename "$count" .count)" "$rc" "${count%.count}.log"
    [ "$rc" = 124 ] && echo "     stopped after $NS_TEST_TIMEOUT s"
    # a sanitizer's report begins with what matters and ends with legends; any other output ends with what matters
    grep -avE '^\[ (RUN     |      OK) |^ok ' "${count%.count}.log" | awk '
        /(ERROR|WARNING): [A-Za-z]*Sanitizer|runtime error: / && !left { left = 40 }
        left { if (--left > 0) print; found = 1; next }
        { tail[NR % 40] = $0 }
        END { if (!found) for (i = NR + 1; i <= NR + 40; i++) if (i % 40 in tail) print tail[i % 40] }'
done
cat "$logs"/*.count 2>/dev/null | awk '
    { p += $1; f += $2; s += $3 }
    END { printf "%d passed, %d failed, %d skipped\n", p, f, s; exit f > 0 || p + f + s == 0 }'
