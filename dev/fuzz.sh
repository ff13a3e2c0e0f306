#!/bin/sh
# dev/fuzz.sh [NAME]...  -- fuzzes every parser (src/**/x_fuzz.c), FUZZ_SECONDS (default 60) each, under the address and
# undefined-behaviour sanitizers.
#
# Seeds: tests/corpus/x/ (read only; `make test` replays it). New inputs: build-fuzz/corpus/x/. Findings:
# build-fuzz/findings/x/; a fixed finding belongs into tests/corpus/x/. Optional words: tests/corpus/x.dict.
# Exit 0: no findings, or no clang with libFuzzer here (it says so, exit 77 under NS_STRICT=1). 1: findings.
set -eu
cd "$(dirname "$0")/.."
seconds=${FUZZ_SECONDS:-60}
jobs=${JOBS:-$(nproc)}
clang=${CLANG:-clang}
skip() {
    echo "SKIP fuzz: $1"
    [ -z "${NS_STRICT:-}" ] || exit 77
    exit 0
}
command -v "$clang" >/dev/null || skip "clang is not installed (apt-get install clang libclang-rt-14-dev)"
echo 'int LLVMFuzzerTestOneInput(const unsigned char *p, unsigned long n) { (void)p; (void)n; return 0; }' |
    "$clang" -fsanitize=fuzzer,address,undefined -x c - -o /dev/null 2>/dev/null ||
    skip "$clang cannot link -fsanitize=fuzzer (apt-get install libclang-rt-14-dev)"
targets=$(find src -name '*_fuzz.c' | sort)
[ -n "$targets" ] || skip "there is no src/**/*_fuzz.c"

sh dev/deps.sh --check build
CMAKE_FLAGS="-DCMAKE_C_COMPILER=$clang -DNS_FUZZ=ON -DNS_SANITIZE=address,undefined" sh dev/build.sh build-fuzz fuzzers
export ASAN_OPTIONS="allocator_may_return_null=1:detect_stack_use_after_return=1" UBSAN_OPTIONS=print_stacktrace=1
rm -f build-fuzz/*.summary
one() { # name: fuzz, then one summary line
    name=$1 out=build-fuzz/findings/$1
    mkdir -p "$out" "build-fuzz/corpus/$name" build-fuzz/log
    before=$(find "$out" -type f | wc -l)
    set -- "build-fuzz/corpus/$name"
    [ -d "tests/corpus/$name" ] && set -- "$@" "tests/corpus/$name"
    [ -f "tests/corpus/$name.dict" ] && set -- "-dict=tests/corpus/$name.dict" "$@"
    rc=0
    "build-fuzz/fuzz/${name}_fuzz" -max_total_time="$seconds" -timeout=10 -rss_limit_mb=2048 -max_len=65536 \
        -print_final_stats=1 -artifact_prefix="$out/" "$@" >"build-fuzz/log/$name.log" 2>&1 || rc=$?
    log=build-fuzz/log/$name.log
    runs=$(sed -n 's/^stat::number_of_executed_units: *//p' "$log")
    cov=$(grep -aoE 'cov: [0-9]+' "$log" | tail -n 1)
    new=$(($(find "$out" -type f | wc -l) - before))
    if [ $rc = 0 ] && [ "$new" = 0 ]; then
        echo "ok   fuzz $name: ${runs:-?} runs in ${seconds}s, ${cov:-cov: ?}, no findings" >"build-fuzz/$name.summary"
    else
        what=$(grep -aE '^SUMMARY|runtime error|^==[0-9]+== ?ERROR' "$log" | head -n 2 | tr '\n' ' ')
        echo "FAIL fuzz $name: exit $rc, $new new in $out: ${what:-see $log}" >"build-fuzz/$name.summary"
    fi
    cat "build-fuzz/$name.summary"
}
n=0
for f in $targets; do
    name=$(basename "$f" _fuzz.c)
    case " ${*:-$name} " in *" $name "*) ;; *) continue ;; esac
    one "$name" &
    n=$((n + 1))
    if [ $((n % jobs)) = 0 ]; then wait; fi
done
wait
found=$(cat build-fuzz/*.summary | grep -c ^FAIL || true)
echo "fuzz: $n targets, $found with findings"
[ "$found" = 0 ]
