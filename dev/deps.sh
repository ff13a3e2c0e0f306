#!/bin/sh
# Finds what the build and the tests need and installs what is missing (Debian, Ubuntu). Run by the make targets.
#
#   sh dev/deps.sh                  compiler, CMake, libyaml, cmocka, OpenBLAS, PCRE2, Open MPI
#   sh dev/deps.sh --check build    what `make build` cannot do without; installs only if one of these is missing
#   sh dev/deps.sh --check test     the same plus cmocka
#   sh dev/deps.sh --check style    clang-format
#   sh dev/deps.sh --tests          all of it, and a Slurm for the tests of pipelines (no daemon is started or set up)
#   sh dev/deps.sh --list           what is found and what is not; installs nothing
#
# Everything is found by trying it (compiling one line), not by asking the package manager: a library in /usr/local or
# from another distribution counts. Root or sudo is used for apt-get alone, and only when something needed is missing.
# Optional things never stop anything: without OpenBLAS the f32 matmuls use our own loops, without PCRE2 tokenizers with
# unusual split patterns are refused.
set -eu

probe_header() { # header [extra include dir]...
    header=$1
    shift
    flags=""
    for d in "$@"; do [ -d "$d" ] && flags="$flags -I$d"; done
    # shellcheck disable=SC2086
    printf '#include <stdarg.h>\n#include <stddef.h>\n#include <stdint.h>\n#include <setjmp.h>\n#include <%s>\n' "$header" |
        "${CC:-cc}" $flags -fsyntax-only -x c - 2>/dev/null
}
have() { # 0: the thing is usable
    case $1 in
    cc) command -v "${CC:-cc}" >/dev/null 2>&1 && probe_header stdio.h ;;
    make) command -v make >/dev/null 2>&1 ;;
    cmake) command -v cmake >/dev/null 2>&1 ;;
    yaml) probe_header yaml.h ;;
    pcre2)
        printf '#define PCRE2_CODE_UNIT_WIDTH 8\n#include <pcre2.h>\n' | "${CC:-cc}" -fsyntax-only -x c - 2>/dev/null
        ;;
    cmocka) probe_header cmocka.h ;;
    zlib) probe_header zlib.h ;;
    zstd) probe_header zstd.h ;;
    curl) probe_header curl/curl.h ;;
    blosc) for d in /usr/lib/*-linux-gnu /usr/lib64 /usr/lib /usr/local/lib; do [ ! -e "$d/libblosc.so.1" ] || return 0; done; return 1 ;;
    mpi) command -v mpicc >/dev/null 2>&1 && command -v mpirun >/dev/null 2>&1 ;;
    blas) probe_header cblas.h /usr/include/openblas /usr/include/openblas-openmp \
        /usr/include/x86_64-linux-gnu/openblas-openmp /usr/include/x86_64-linux-gnu ;;
    slurm) command -v slurmctld >/dev/null 2>&1 && command -v slurmd >/dev/null 2>&1 && command -v munged >/dev/null 2>&1 ;;
    slurmdb) command -v slurmdbd >/dev/null 2>&1 && command -v mariadbd >/dev/null 2>&1 ;;
    clang-format) command -v clang-format >/dev/null 2>&1 ;;
    esac
}
package() {
    case $1 in
    cc) echo "gcc libc6-dev" ;;
    make) echo "make" ;;
    cmake) echo "cmake" ;;
    yaml) echo "libyaml-dev" ;;
    pcre2) echo "libpcre2-dev" ;;
    zlib) echo "zlib1g-dev" ;;
    zstd) echo "libzstd-dev" ;;
    curl) echo "libcurl4-openssl-dev" ;;
    blosc) echo "libblosc1" ;;
    cmocka) echo "libcmocka-dev" ;;
    blas) echo "libopenblas-openmp-dev" ;;
    mpi) echo "openmpi-bin libopenmpi-dev" ;;
    slurm) echo "slurmctld slurmd slurm-client slurm-wlm-basic-plugins munge" ;;
    slurmdb) echo "slurmdbd mariadb-server" ;;
    clang-format) echo "clang-format" ;;
    esac
}
missing_of() {
    out=""
    for x in "$@"; do have "$x" || out="$out $(package "$x")"; done
    echo "${out# }"
}

need="cc make cmake yaml"
want=""
case "${1:-} ${2:-}" in
"--check build") ;;
"--check test") need="$need cmocka" ;;
"--check style") need="clang-format" ;;
"--tests ") need="$need cmocka" want="blas pcre2 zlib zstd curl blosc mpi slurm slurmdb" ;;
"--list ")
    for x in cc make cmake yaml cmocka blas pcre2 zlib zstd curl blosc mpi slurm slurmdb clang-format; do
        if have $x; then echo "$x: found"; else echo "$x: missing (Debian: $(package $x))"; fi
    done
    exit 0
    ;;
" ") need="$need cmocka" want="blas pcre2 zlib zstd curl blosc mpi" ;;
*)
    sed -n '4,9s/^#  *//p' "$0" >&2
    exit 2
    ;;
esac

# shellcheck disable=SC2086
missing=$(missing_of $need)
if [ -n "$missing" ] && [ -z "$want" ]; then want="blas pcre2 zlib zstd curl blosc"; fi # apt-get runs anyway: take the optional packages along
# shellcheck disable=SC2086
optional=$(missing_of $want)
if [ -z "$missing$optional" ]; then
    [ "${1:-}" = --check ] || echo "deps: everything is installed"
    exit 0
fi

give_up() { # why
    if [ -z "$missing" ]; then
        echo "deps: optional, not installed ($1): $optional"
        exit 0
    fi
    echo "deps: missing: $missing ($1). Ask an administrator to run: apt-get install $missing" >&2
    exit 1
}
command -v apt-get >/dev/null 2>&1 || give_up "no apt-get here: install the same libraries with your package manager"
as_root=""
if [ "$(id -u)" != 0 ]; then
    command -v sudo >/dev/null 2>&1 || give_up "not root, and there is no sudo"
    as_root=sudo
    if ! sudo -n true 2>/dev/null; then
        if [ -z "$missing" ] || ! [ -t 0 ]; then give_up "not root, and sudo wants a password"; fi
    fi
fi
log=$(mktemp)
trap 'rm -f "$log"' EXIT
apt() { # verb and arguments of apt-get; its output is shown only when it fails
    $as_root env DEBIAN_FRONTEND=noninteractive apt-get -q -y -o DPkg::Lock::Timeout=300 "$@" >"$log" 2>&1
}
echo "deps: installing $missing${missing:+ }$optional"
apt update || echo "deps: apt-get update failed; trying with the lists that are here" >&2
if [ -n "$missing" ]; then
    # shellcheck disable=SC2086
    apt install --no-install-recommends $missing || {
        cat "$log" >&2
        echo "deps: could not install: $missing (see above)" >&2
        exit 1
    }
fi
if [ -n "$optional" ]; then
    # shellcheck disable=SC2086
    apt install --no-install-recommends $optional ||
        echo "deps: optional, could not be installed, going on without: $optional ($(grep -m1 '^E:' "$log" || tail -n1 "$log"))"
fi
# shellcheck disable=SC2086
missing=$(missing_of $need)
[ -z "$missing" ] || give_up "installed, but still not usable"
