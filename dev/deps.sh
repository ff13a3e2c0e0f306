#!/bin/sh
# Installs what the build and the tests need on Debian or Ubuntu; prints what is there. `--check build` installs only
# when the compiler, cmake or libyaml is missing, so that a plain user with everything installed never needs root.
set -eu
packages="gcc make cmake pkg-config libc6-dev libyaml-dev libcmocka-dev libopenblas-openmp-dev"
missing=""
for p in $packages; do
    dpkg-query -W -f='${Status}' "$p" 2>/dev/null | grep -q 'ok installed' || missing="$missing $p"
done
if [ -z "$missing" ]; then
    [ "${1:-}" = --check ] || echo "deps: everything is installed"
    exit 0
fi
if [ "${1:-}" = --check ] && command -v cc >/dev/null && command -v cmake >/dev/null &&
    { [ -f /usr/include/yaml.h ] || ! command -v apt-get >/dev/null; }; then
    [ -f /usr/include/cmocka.h ] || [ "${2:-}" = build ] || true
    case "$missing" in *cmocka*) ;; *) exit 0 ;; esac
fi
if ! command -v apt-get >/dev/null; then
    echo "deps: missing:$missing (no apt-get here: install these with your package manager)" >&2
    exit 0
fi
as_root=""
if [ "$(id -u)" != 0 ]; then
    if command -v sudo >/dev/null; then as_root=sudo; else
        echo "deps: missing:$missing. Ask an administrator: apt-get install$missing" >&2
        exit 1
    fi
fi
echo "deps: installing$missing"
export DEBIAN_FRONTEND=noninteractive
$as_root apt-get update -qq
# shellcheck disable=SC2086
$as_root apt-get install -y -qq --no-install-recommends $missing >/dev/null
