#!/bin/sh
# dev/sanitize.sh asan|ubsan|tsan [FILTER]  -- builds into build-<kind> and runs the whole suite there; same last line.
#
# asan: addresses, use after return, leaks, and undefined behaviour.  ubsan: undefined behaviour alone.  tsan: races,
# lock order. Every finding is fatal.
# Suppressed is only what is not ours, with the reason: dev/lsan.supp, dev/tsan.supp.
set -eu
cd "$(dirname "$0")/.."
kind=${1:-}
case $kind in
asan) flags=address,undefined ;;
ubsan) flags=undefined ;;
tsan) flags=thread ;;
*)
    echo "usage: sh dev/sanitize.sh asan|ubsan|tsan [filter of test names]" >&2
    exit 2
    ;;
esac
sh dev/deps.sh --check test
CMAKE_FLAGS="${CMAKE_FLAGS:-} -DNS_SANITIZE=$flags" sh dev/build.sh "build-$kind" all tests

# A finding ends the program with a code of its own (abort hides it from cmocka otherwise); tests that expect a refused
# allocation get NULL and not a death.
export ASAN_OPTIONS="detect_stack_use_after_return=1:strict_string_checks=1:check_initialization_order=1:allocator_may_return_null=1:detect_leaks=1:exitcode=99"
export LSAN_OPTIONS="suppressions=$PWD/dev/lsan.supp:print_suppressions=0"
export UBSAN_OPTIONS="print_stacktrace=1"
export TSAN_OPTIONS="suppressions=$PWD/dev/tsan.supp:halt_on_error=0:exitcode=99:second_deadlock_stack=1:history_size=4"
: "${NS_TEST_TIMEOUT:=1800}"
: "${NS_SLOW:=$([ "$kind" = tsan ] && echo 8 || echo 2)}" # waits of the tests, times
export NS_TEST_TIMEOUT NS_SLOW NS_SANITIZER="$kind"
if [ "$kind" = tsan ] && command -v setarch >/dev/null && setarch -R true 2>/dev/null; then
    exec setarch -R sh dev/run_tests.sh "build-$kind" ${2:+"$2"} # its shadow map needs a fixed address layout on new kernels
fi
exec sh dev/run_tests.sh "build-$kind" ${2:+"$2"}
