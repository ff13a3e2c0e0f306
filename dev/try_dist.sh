#!/bin/sh
# Runs the tarball of dev/dist.sh in minimal systems of other distributions, as a plain user, without installing anything.
#
#   sh dev/try_dist.sh TARBALL [SUITE]...      suites: jammy (Ubuntu 22.04, glibc 2.35), trixie (Debian 13), bookworm
#
# Needs root, debootstrap and the network, exit 77 without them. NS_BARE_DIR keeps the base systems between runs.
set -u
tarball=$(readlink -f "${1:?usage: sh dev/try_dist.sh TARBALL [SUITE]...}") || exit 1
shift
[ $# -gt 0 ] || set -- jammy trixie bookworm
dir=${NS_BARE_DIR:-/var/tmp/ns-bare}
skip() {
    echo "SKIP dist elsewhere: $1"
    exit 77
}
[ "$(id -u)" = 0 ] || skip "needs root for chroot"
command -v debootstrap >/dev/null || skip "debootstrap is not installed"
mkdir -p "$dir"
bad=0
for suite in "$@"; do
    root=$dir/$suite
    if [ "$suite" = bookworm ] && [ -f "$dir/base/.complete" ]; then root=$dir/base; fi # dev/try_bare.sh has made it
    if [ ! -f "$root/.complete" ]; then
        rm -rf --one-file-system "$root"
        debootstrap --variant=minbase "$suite" "$root" ${NS_MIRROR:+"$NS_MIRROR"} >"$dir/debootstrap-$suite.log" 2>&1 ||
            skip "debootstrap $suite failed ($(tail -n 1 "$dir/debootstrap-$suite.log"))"
        touch "$root/.complete"
    fi
    libc=$(chroot "$root" ldd --version | head -n 1 | grep -oE '[0-9.]+$')
    rm -rf "$root/opt/ns"
    mkdir -p "$root/opt/ns"
    tar -C "$root/opt/ns" --strip-components=1 -xzf "$tarball"
    # As a plain user, from /: help, and a job that needs the shipped files. /proc is needed: the loader finds $ORIGIN in it.
    cat >"$root/opt/ns/try.sh" <<'X'
set -e
cd /
/opt/ns/bin/ns --help
dir=$(mktemp -d)
echo '{"question": "What is 1 + 1?", "answer": "2"}' >$dir/in.jsonl
/opt/ns/bin/ns prepare ++preprocessed_dataset_files=$dir/in.jsonl ++output_path=$dir/out.jsonl ++input_key=question \
    ++output_key=answer ++prompt_config=generic/default ++prompt_template=llama3-instruct
grep -q 'What is 1 + 1' $dir/out.jsonl
rm -r $dir
X
    unshare --mount sh -c "mount -t proc proc '$root/proc' && exec chroot '$root' su -s /bin/sh nobody -c 'sh /opt/ns/try.sh'" \
        >"$dir/dist-$suite.log" 2>&1
    rc=$?
    rm -rf "$root/opt/ns"
    if [ $rc = 0 ] && [ -s "$dir/dist-$suite.log" ]; then
        echo "ok   dist on $suite (glibc $libc): help and prepare run as nobody"
    else
        echo "FAIL dist on $suite (glibc $libc): exit $rc, $(tail -n 1 "$dir/dist-$suite.log")"
        bad=1
    fi
done
exit $bad
