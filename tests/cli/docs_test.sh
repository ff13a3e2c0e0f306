#!/bin/sh
# doc/options is what the option tables say today (make docs rewrites it).
set -u
root=$(cd "$(dirname "$0")/../.." && pwd)
# shellcheck source=tests/lib.sh
. "$root/tests/lib.sh"
works "ns doctor --write-docs" "$ns" doctor --write-docs "$dir/options"
works "doc/options is up to date (else: make docs)" diff -r "$dir/options" "$root/doc/options"
exit $fails
