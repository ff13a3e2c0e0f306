#!/bin/sh
# Tries the first minutes of a new user in a minimal Debian 12 (debootstrap --variant=minbase: no compiler, no make, no
# git): what a plain user is told, .ci/run as root, build and tests as a plain user, build without optional libraries.
#
#   sh dev/try_bare.sh          needs root, debootstrap and the network; exit 77 without them
#
# NS_BARE_DIR (default /var/tmp/ns-bare) keeps the unpacked base system between runs; the copy in use is new each time.
# The mounts (proc, /dev/shm, /dev/pts) live in a private mount namespace and end with the script; nothing of the host is mounted.
set -u
cd "$(dirname "$0")/.." || exit 1
dir=${NS_BARE_DIR:-/var/tmp/ns-bare}
skip() {
    echo "SKIP bare: $1"
    exit 77
}
if [ "${1:-}" != --inside ]; then
    [ "$(id -u)" = 0 ] || skip "needs root for chroot"
    command -v debootstrap >/dev/null || skip "debootstrap is not installed"
    unshare --mount true 2>/dev/null || skip "no mount namespaces here"
    mkdir -p "$dir"
    if [ ! -f "$dir/base/.complete" ]; then
        echo "bare: making a minimal bookworm in $dir/base"
        rm -rf "$dir/base"
        debootstrap --variant=minbase bookworm "$dir/base" ${NS_MIRROR:+"$NS_MIRROR"} >"$dir/debootstrap.log" 2>&1 ||
            skip "debootstrap failed ($(tail -n 1 "$dir/debootstrap.log"))"
        touch "$dir/base/.complete"
    fi
    exec unshare --mount --pid --fork sh dev/try_bare.sh --inside
fi

root=$dir/root
log=$dir/log
mkdir -p "$log"
rm -rf --one-file-system "$root" || exit 1
cp -a "$dir/base" "$root" || exit 1
cp /etc/resolv.conf "$root/etc/resolv.conf"
mount -t proc proc "$root/proc"
mkdir -p "$root/dev/shm"
mkdir -p "$root/dev/pts"
mount -t tmpfs tmpfs "$root/dev/shm"
mount -t devpts devpts "$root/dev/pts" -o newinstance,ptmxmode=0666,gid=5
chmod 1777 "$root/dev/shm"
ln -sf pts/ptmx "$root/dev/ptmx"
[ -e "$root/dev/null" ] || mknod -m 666 "$root/dev/null" c 1 3
chroot "$root" useradd -m -s /bin/sh tester

# The tree as it is now: tracked and new files, without git and without build outputs.
for where in root/ns home/tester/ns home/tester/plain; do
    mkdir -p "$root/$where"
    # shellcheck disable=SC2016
    git ls-files -co --exclude-standard -z | xargs -0 -I '{}' sh -c '[ -e "$1" ] && printf "%s\0" "$1"' _ '{}' |
        tar -c --null -T - | tar -x -C "$root/$where"
done
data=${NS_TEST_DATA:-../shared/data}
if [ -d "$data" ]; then
    cp -rL "$data" "$root/data" # a copy, not a mount: the tree is removed at the end
else
    echo "SKIP bare: test data ($data) are not here; their tests will be skipped"
fi
chroot "$root" chown -R tester /home/tester

bad=0
step() { # name, wanted exit code, user, folder, command, [text that the output must have]
    start=$(date +%s)
    chroot "$root" /usr/bin/env -i PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME="/$4" \
        NS_TEST_DATA=/data su "$3" -s /bin/sh -c "cd /$4 && $5" >"$log/$1.log" 2>&1
    rc=$?
    verdict=ok
    [ $rc = "$2" ] || verdict=FAIL
    [ -z "${6:-}" ] || grep -q "$6" "$log/$1.log" || verdict=FAIL
    printf '%-4s bare %-18s exit %d, %ds: %s\n' $verdict "$1" $rc $(($(date +%s) - start)) "$(tail -n 1 "$log/$1.log")"
    if [ $verdict = FAIL ]; then
        bad=1
        tail -n 30 "$log/$1.log" | sed 's/^/     /'
    fi
}
#    name               rc user   folder            command                                what it must say
step user-told          1 tester home/tester/ns    "sh dev/deps.sh --check build"         "apt-get install gcc libc6-dev make cmake libyaml-dev"
step ci-run             0 root   root/ns           "bash .ci/run"                         "passed, 0 failed"
step user-build         0 tester home/tester/ns    "make build"
step user-test          0 tester home/tester/ns    "make test"                            "passed, 0 failed"
step remove-optional    0 root   root              "apt-get -qq -y purge libcmocka-dev libopenblas-openmp-dev"
step user-no-optional   0 tester home/tester/plain "make build"                           "openblas: NOT FOUND"
step user-no-cmocka     2 tester home/tester/plain "make test"                            "apt-get install libcmocka-dev"
step remove-yaml        0 root   root              "apt-get -qq -y purge libyaml-dev"
step user-no-yaml       2 tester home/tester/plain "make build"                           "apt-get install libyaml-dev"
umount "$root/dev/shm" "$root/dev/pts" "$root/proc" && rm -rf --one-file-system "$root"
exit $bad
