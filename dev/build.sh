#!/bin/sh
# dev/build.sh BUILD_DIR [TARGET]...  -- configures and builds, quiet but for warnings, missing dependencies and errors.
# CMAKE_FLAGS, JOBS from the environment. The exit code is the compiler's: an old program never hides a failed build.
set -eu
cd "$(dirname "$0")/.."
build=$1
shift
jobs=${JOBS:-$(nproc)}
mkdir -p "$build"
log=$build/configure.log
# shellcheck disable=SC2086
if ! cmake -S . -B "$build" ${CMAKE_FLAGS:-} >"$log" 2>&1; then
    cat "$log" >&2
    exit 1
fi
grep 'NOT FOUND' "$log" | sed 's/^-- /build: /' || true
[ $# -gt 0 ] || set -- all
# the pipe would swallow the exit code; a file carries it
{
    rc=0
    MAKEFLAGS=--no-print-directory cmake --build "$build" -j "$jobs" --target "$@" 2>&1 || rc=$?
    echo $rc >"$build/build.rc"
} | grep -vE '^\[ *[0-9]+[%/]|^Consolidate compiler|^ninja: no work' || true
rc=$(cat "$build/build.rc")
if [ "$rc" = 0 ]; then echo "build: $build is up to date"; else echo "build: failed ($build)" >&2; fi
exit "$rc"
