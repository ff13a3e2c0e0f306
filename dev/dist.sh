#!/bin/sh
# dev/dist.sh [BUILD_DIR [OUTPUT_DIR]]  -- dist/ns-<version>-linux-x86_64.tar.gz: a tree that runs from any folder.
#
#   bin/ns          rpath $ORIGIN/../lib (set by `cmake --install`), stripped
#   lib/            the shared libraries that another distribution may lack; never the C library itself
#   share/ns/       data files of the program, if there are any
#   licenses/       of every carried library, and ours
#   README.md
#
# Refused: a GLIBC symbol version above 2.34 (NS_GLIBC_MAX), a library that ldd does not find, and a tarball whose program
# does not start for an unprivileged user from another folder.
set -eu
cd "$(dirname "$0")/.."
build=${1:-build}
out=${2:-dist}
glibc_max=${NS_GLIBC_MAX:-2.34}
fail() {
    echo "dist: $1" >&2
    exit 1
}
[ -x "$build/ns" ] || fail "$build/ns is missing: make build"
for tool in ldd objdump strip readelf; do
    command -v $tool >/dev/null || fail "$tool is missing: apt-get install binutils libc-bin"
done
if grep -q '^NS_SANITIZE:[A-Z]*=.' "$build/CMakeCache.txt"; then
    fail "$build is a sanitizer build; take an ordinary one"
fi
version=$(sed -n 's/^CMAKE_PROJECT_VERSION:[A-Z]*=//p' "$build/CMakeCache.txt")
name=ns-$version-linux-$(uname -m)
mkdir -p "$out"
out=$(cd "$out" && pwd)
tree=$out/$name
rm -rf "$tree" "$tree.tar.gz"
cmake --install "$build" --prefix "$tree" --strip >/dev/null

# Everything that the program and the plug-ins need, but for the C library, which belongs to the kernel and the system.
mkdir -p "$tree/lib" "$tree/licenses"
for binary in "$tree"/bin/* "$tree"/lib/*.so*; do
    [ -f "$binary" ] || continue
    [ "$(basename "$binary")" = libns_mpi.so ] && continue # uses the MPI of the site, or is not opened
    ldd "$binary" | grep 'not found' && fail "$binary: a library is not found (above)"
    ldd "$binary" | sed -n 's/^[[:space:]]*\([^ ]*\) => \(\/[^ ]*\) .*/\1 \2/p'
done | sort -u | while read -r soname path; do
    case $soname in
    libc.so.* | libm.so.* | libdl.so.* | libpthread.so.* | librt.so.* | libresolv.so.* | ld-linux*) continue ;;
    esac
    [ -f "$tree/lib/$soname" ] && continue
    cp "$(readlink -f "$path")" "$tree/lib/$soname"
    chmod 644 "$tree/lib/$soname"
    strip --strip-unneeded "$tree/lib/$soname"
    real=$(readlink -f "$path") # the package may know it by /lib or by /usr/lib
    package=$(dpkg-query -S "$real" "${real#/usr}" 2>/dev/null | head -n 1 | cut -d: -f1 || true)
    if [ -f "/usr/share/doc/$package/copyright" ]; then
        cp -L "/usr/share/doc/$package/copyright" "$tree/licenses/$soname.txt"
    else
        fail "no licence text found for $path: carry it by hand or link without it"
    fi
    echo "dist: carries $soname ($package)"
done
for f in LICENSE LICENCE COPYING README.md; do
    [ -f "$f" ] && cp "$f" "$tree/"
done
rmdir "$tree/licenses" 2>/dev/null || true

# objdump prints needed versions as "(GLIBC_2.34)"; sort -V finds the greatest.
for binary in "$tree"/bin/* "$tree"/lib/*.so*; do
    [ -f "$binary" ] || continue
    newest=$(objdump -T "$binary" | grep -oE 'GLIBC_[0-9.]+' | sed 's/GLIBC_//' | sort -Vu | tail -n 1)
    [ "$(printf '%s\n%s\n' "$newest" "$glibc_max" | sort -V | tail -n 1)" = "$glibc_max" ] || {
        objdump -T "$binary" | grep "GLIBC_$newest" >&2
        fail "$binary needs GLIBC $newest, newer than $glibc_max (symbols above)"
    }
    printf 'dist: %-12s GLIBC <= %s\n' "$(basename "$binary")" "$newest"
done
case $(readelf -d "$tree/bin/ns" | grep -E 'RPATH|RUNPATH') in
*"[\$ORIGIN/../lib]"*) ;;
*) fail "bin/ns: rpath is not \$ORIGIN/../lib" ;;
esac

# Same inputs, same bytes: sorted names, no owners, the commit's time.
when=$(git log -1 --format=%ct 2>/dev/null || echo 0)
tar -C "$out" --sort=name --owner=0 --group=0 --numeric-owner --mtime="@$when" -c "$name" | gzip -9n >"$tree.tar.gz"

# The proof: unpacked elsewhere, run from / without privileges and with an empty environment.
try=$(mktemp -d)
trap 'rm -rf "$try"' EXIT
tar -C "$try" -xzf "$tree.tar.gz"
chmod -R a+rX "$try"
run="cd / && env -i PATH=/usr/bin:/bin '$try/$name/bin/ns' --help"
if [ "$(id -u)" = 0 ]; then
    su -s /bin/sh nobody -c "$run" >"$try/help" || fail "the unpacked program does not start"
else
    sh -c "$run" >"$try/help" || fail "the unpacked program does not start"
fi
[ -s "$try/help" ] || fail "the unpacked program prints nothing for --help"
for carried in "$try/$name"/lib/*.so*; do
    [ -f "$carried" ] || continue
    soname=$(basename "$carried")
    case $(ldd "$try/$name/bin/ns" "$carried" 2>/dev/null | grep -F "$soname => ") in
    *"=> $try/"* | "") ;;
    *) fail "$soname is carried, but the program takes another one (ldd)" ;;
    esac
done
echo "dist: $tree.tar.gz ($(du -k "$tree.tar.gz" | cut -f1) KiB)"
