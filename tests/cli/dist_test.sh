#!/bin/sh
# The relocatable tree: dev/dist.sh itself refuses a wrong rpath, new GLIBC symbols, missing libraries and a program that
# does not start for `nobody` from another folder; here it runs once, and each refusal is provoked.
set -u
program=$1
build=$(dirname "$program")
cd "$(dirname "$0")/../.." || exit 1
if grep -q '^NS_SANITIZE:[A-Z]*=.' "$build/CMakeCache.txt"; then
    echo "SKIP: a sanitizer build is not distributed"
    exit 77
fi
command -v objdump >/dev/null || {
    echo "SKIP: objdump is not installed"
    exit 77
}
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
fails=0
check() { # what, condition's exit code
    if [ "$2" = 0 ]; then echo "ok - $1"; else
        echo "not ok - $1"
        sed 's/^/     /' "$dir/log"
        fails=1
    fi
}
sh dev/dist.sh "$build" "$dir/out" >"$dir/log" 2>&1
check "a tarball is made and its program runs elsewhere" $?
find "$dir/out" -name 'ns-*.tar.gz' | grep -q .
check "the tarball has its name" $?
! tar -tzf "$dir"/out/ns-*.tar.gz | grep -E '^/|\.\.' >>"$dir/log"
check "no absolute names" $?
sum=$(cksum "$dir"/out/ns-*.tar.gz | cut -d' ' -f1,2)
sh dev/dist.sh "$build" "$dir/out" >"$dir/log" 2>&1
[ "$sum" = "$(cksum "$dir"/out/ns-*.tar.gz | cut -d' ' -f1,2)" ]
check "made again: the same bytes" $?
! NS_GLIBC_MAX=2.3 sh dev/dist.sh "$build" "$dir/old" >"$dir/log" 2>&1 && grep -q 'newer than 2.3' "$dir/log"
check "a newer GLIBC symbol is refused by name" $?
[ -z "$(find "$dir/old" -name '*.tar.gz')" ]
check "a refused tree leaves no tarball" $?
exit $fails
