#!/bin/sh
# dev/check_full.sh [STEP]...  -- everything that is too long for CI; ends with one table, changes no file of the tree.
#
#   style    layers, clang-format, shellcheck            tests  the suite, with -Werror
#   asan     the suite with checked addresses, leaks, undefined behaviour    tsan   races (ubsan alone: by name only)
#   long     the suite with NS_FULL=1: grids, many kills
#   fuzz     every parser, FUZZ_SECONDS each (default 60)    dist   the tarball, also in other distributions
#   bare     the first minutes in a minimal Debian 12
#
# Without arguments: all, in this order. What a machine cannot do is SKIP with the reason, never ok. Exit 1 if anything
# failed. Logs: build-full/<step>.log. Results worth keeping go into doc/verification.md by hand, with date and commit.
set -u
cd "$(dirname "$0")/.." || exit 1
[ $# -gt 0 ] || set -- style tests asan tsan long fuzz dist bare
logs=build-full
mkdir -p "$logs"
: >"$logs/table"

style() {
    rc=0
    make layers || rc=1
    if command -v clang-format >/dev/null; then make format-check || rc=1; else echo "SKIP clang-format is not installed"; fi
    if command -v shellcheck >/dev/null; then
        shellcheck -S info dev/*.sh bench/*.sh tests/*.sh tests/*/*.sh .ci/run || rc=1
    else
        echo "SKIP shellcheck is not installed"
    fi
    [ $rc = 0 ] && echo "layers, format and scripts are clean"
    return $rc
}
step() { # the command of a step
    case $1 in
    style) style ;;
    tests) make test BUILD=build-werror CMAKE_FLAGS=-DNS_WERROR=ON ;;
    asan | ubsan | tsan) sh dev/sanitize.sh "$1" ;;
    long) NS_FULL=1 make test ;;
    fuzz) NS_STRICT=1 sh dev/fuzz.sh ;;
    dist) make dist && sh dev/try_dist.sh dist/ns-*.tar.gz ;;
    bare) sh dev/try_bare.sh ;;
    *)
        echo "unknown step '$1'; steps: style tests asan ubsan tsan long fuzz dist bare"
        return 2
        ;;
    esac
}
bad=0
for name in "$@"; do
    printf '%s ...\n' "$name"
    start=$(date +%s)
    step "$name" >"$logs/$name.log" 2>&1
    rc=$?
    case $rc in 0) verdict=ok ;; 77) verdict=SKIP ;; *) verdict=FAIL bad=1 ;; esac
    # the counted total if there is one, else the last line, and what was skipped on the way
    note=$(grep -aE '^[0-9]+ passed, [0-9]+ failed' "$logs/$name.log" | tail -n 1)
    [ "$name" = bare ] && note="$(grep -c '^ok ' "$logs/$name.log") steps ok, $(grep -c '^FAIL' "$logs/$name.log") failed"
    [ -n "$note" ] || note=$(grep -av '^make' "$logs/$name.log" | tail -n 1)
    printf '%-6s %-5s %5ds  %s\n' "$name" $verdict $(($(date +%s) - start)) "$note" | tee -a "$logs/table"
    if [ $verdict = FAIL ]; then tail -n 30 "$logs/$name.log" | sed 's/^/     /'; fi
done
echo
echo "$(date -u +%Y-%m-%d) $(git rev-parse --short HEAD 2>/dev/null || echo '?')$([ -z "$(git status --porcelain 2>/dev/null)" ] || echo ' + uncommitted changes')," \
    "$(sed -n 's/^model name[[:space:]]*: //p' /proc/cpuinfo | head -n 1) x$(nproc), $(cc --version | head -n 1)"
cat "$logs/table"
exit $bad
