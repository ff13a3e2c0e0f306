#!/bin/sh
# Each folder of src/ may include only itself and what DESIGN lists (transitively). Prints each violation, fails on any.
set -eu
cd "$(dirname "$0")/.."
bad=0
allowed() {
    case $1 in
    base) echo "base" ;;
    tok) echo "base tok" ;;
    data) echo "base tok data" ;;
    tensor) echo "base tensor" ;;
    pack) echo "base tok data tensor pack" ;;
    ops) echo "base tensor ops" ;;
    dist) echo "base tensor dist" ;;
    arch) echo "base tensor arch" ;;
    ckpt) echo "base tensor arch dist ckpt" ;;
    model) echo "base tensor arch ops dist model" ;;
    train) echo "base tok data tensor pack ops dist arch ckpt model train" ;;
    infer) echo "base tok tensor ops dist arch ckpt model infer" ;;
    export) echo "base tok tensor dist arch ops ckpt model export" ;;
    eval) echo "base tok data eval" ;;
    jobs) echo "base jobs" ;;
    cli) echo "*" ;;
    *) echo "" ;;
    esac
}
for f in $(find src -name '*.[ch]' | sort); do
    dir=$(echo "$f" | cut -d/ -f2)
    ok=$(allowed "$dir")
    [ "$ok" = "*" ] && continue
    # a test may look at anything below train; product code may not
    # shellcheck disable=SC2013
    for inc in $(sed -n 's/^ *# *include *"\([a-z0-9_]*\)\/.*/\1/p' "$f"); do
        [ "$inc" = ns ] && continue
        case " $ok " in *" $inc "*) ;; *)
            echo "layers: $f includes $inc/ (allowed: $ok)"
            bad=1
            ;;
        esac
    done
done
[ $bad = 0 ] && echo "layers: ok"
exit $bad
