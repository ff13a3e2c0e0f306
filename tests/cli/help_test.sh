#!/bin/sh
# The front door: help, version, unknown words. For every verb that `ns --help` lists: its help, its refusal of an unknown
# option and of an unknown setting. Exit codes: 0 fine, 2 wrong command line (src/base/error.h).
set -u
root=$(cd "$(dirname "$0")/../.." && pwd)
# shellcheck source=tests/lib.sh
. "$root/tests/lib.sh"
cd "$dir" || exit 1
is() { # what, wanted exit code, command...; leaves ./out and ./err
    what=$1 want=$2
    shift 2
    "$@" >out 2>err
    rc=$?
    if [ $rc = "$want" ]; then echo "ok - $what"; else
        echo "not ok - $what: exit $rc, wanted $want"
        sed 's/^/     /' out err
        fails=1
    fi
}
has() { # what, file, fixed text
    if grep -qF -- "$3" "$2"; then echo "ok - $1"; else
        echo "not ok - $1: '$3' is not in:"
        sed 's/^/     /' "$2"
        fails=1
    fi
}
empty() { # what, file
    if [ ! -s "$2" ]; then echo "ok - $1"; else
        echo "not ok - $1:"
        sed 's/^/     /' "$2"
        fails=1
    fi
}

is "--help" 0 "$ns" --help
has "--help says how to go on" out "Usage: ns VERB"
empty "--help is not on stderr" err
cp out help
is "-h" 0 "$ns" -h
cmp -s out help || { echo "not ok - -h differs from --help"; fails=1; }
is "no arguments" 0 "$ns"
# shellcheck disable=SC2016
is "help without an environment, from /" 0 env -i sh -c 'cd / && exec "$0" --help' "$ns"
is "--version" 0 "$ns" --version
has "--version names the program" out "ns "
is "unknown verb" 2 "$ns" no-such-verb
has "unknown verb is named" err "no-such-verb"
has "unknown verb: what to do" err "ns --help"
empty "unknown verb: nothing on stdout" out
is "near miss" 2 "$ns" versoin
has "near miss is guessed" err "did you mean version"
is "help of an unknown verb" 2 "$ns" help no-such-verb
if [ -w /dev/full ]; then
    # shellcheck disable=SC2016
    is "a full disk is not success" 1 sh -c '"$0" --help >/dev/full' "$ns"
    has "a full disk is said" err "cannot write"
fi

verbs=$(sed -n 's/^  \([a-z_]*\)  .*/\1/p' help)
[ -n "$verbs" ] || { echo "not ok - --help lists no verbs"; fails=1; }
for verb in $verbs; do
    is "$verb --help" 0 "$ns" "$verb" --help
    has "$verb --help begins with its name" out "ns $verb: "
    has "$verb --help shows its use" out "ns $verb"
    cp out verb-help
    is "help $verb" 0 "$ns" help "$verb"
    cmp -s out verb-help || { echo "not ok - ns help $verb differs from ns $verb --help"; fails=1; }
    is "$verb refuses an unknown option" 2 "$ns" "$verb" --no-such-option
    has "$verb names the unknown option" err "no-such-option"
    is "$verb refuses an unknown setting" 2 "$ns" "$verb" ++no_such_setting=1
    has "$verb names the unknown setting" err "no_such_setting"
done
exit $fails
