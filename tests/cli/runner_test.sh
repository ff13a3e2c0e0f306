#!/bin/sh
# The test runner must not lose a failure: fake test programs with cmocka's output, a crash, a hang, a skip.
set -u
root=$(cd "$(dirname "$0")/../.." && pwd)
# shellcheck source=tests/lib.sh
. "$root/tests/lib.sh"
cd "$root" || exit 1
mkdir "$dir/tests"
program() { # name; body on stdin
    { echo '#!/bin/sh'; cat; } >"$dir/tests/$1"
    chmod +x "$dir/tests/$1"
}
last() { env -u NS_FULL NS_TEST_TIMEOUT="${1:-60}" sh dev/run_tests.sh "$dir" >"$dir/out" 2>/dev/null; echo $? >"$dir/rc"; tail -n 1 "$dir/out"; }

program a_test <<'X'
echo '[==========] Running 2 test(s).'
echo '[ RUN      ] one'; echo '[       OK ] one'
echo '[ RUN      ] two: bf16 T=3'; printf 'no newline'; echo '[       OK ] two: bf16 T=3'
X
equal "two passing" "2 passed, 0 failed, 0 skipped" "$(last)"
equal "exit code of success" 0 "$(cat "$dir/rc")"
program b_test <<'X'
echo '[ RUN      ] x'; echo '[  ERROR   ] --- why' >&2; echo '[  FAILED  ] x'
echo '[ RUN      ] y'; echo 'SKIP: no data'; echo '[  SKIPPED ] y'
echo '[  SKIPPED ] 1 test(s), listed below:'; echo '[  SKIPPED ] y'
echo '[  FAILED  ] 1 test(s), listed below:'; echo '[  FAILED  ] x'; echo ' 1 FAILED TEST(S)'
exit 1
X
equal "each verdict once" "2 passed, 1 failed, 1 skipped" "$(last)"
equal "exit code of failure" 1 "$(cat "$dir/rc")"
equal "the reason is shown" 1 "$(grep -c 'ERROR   . --- why' "$dir/out")"
equal "the skip is shown" 1 "$(grep -c '^     SKIP: no data' "$dir/out")"
rm "$dir/tests/b_test"
program c_test <<'X'
echo '[ RUN      ] dies'; kill -SEGV $$
X
equal "a crash is a failure" "2 passed, 1 failed, 0 skipped" "$(last)"
program c_test <<'X'
echo '[ RUN      ] fine'; echo '[       OK ] fine'; exit 3
X
equal "a bad exit after good tests is a failure" "3 passed, 1 failed, 0 skipped" "$(last)"
program c_test <<'X'
echo '[ RUN      ] hangs'; sleep 30
X
equal "a hang is a failure" "2 passed, 1 failed, 0 skipped" "$(last 1)"
equal "a hang is named" 1 "$(grep -c 'stopped after 1 s' "$dir/out")"
rm -f "$dir"/tests/*
equal "nothing run is not a success" "0 passed, 0 failed, 0 skipped" "$(last)"
equal "exit code of nothing" 1 "$(cat "$dir/rc")"
exit $fails
