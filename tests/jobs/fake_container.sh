#!/usr/bin/env bash
# Stands in for Apptainer, and for srun with the Pyxis plug-in, in tests: notes its words in $FAKE_CALLS and runs the command in a folder
# tree of its own with exactly the mounts that were asked for (this machine's system folders are the image). Needs root.
#
#   apptainer exec [--nv] [--no-home] --bind A:B ... --pwd DIR IMAGE COMMAND...       as a link named apptainer
#   srun [flags] --container-image=I --container-mounts=A:B,... COMMAND...            as a link named srun; real srun: /usr/bin/srun
set -u
me=$(readlink -f "$0")
if [ "$(basename "$0")" = srun ]; then
    flags=() image="" mounts="" workdir=/
    while [ $# -gt 0 ]; do
        case $1 in
        --container-image=*) image=${1#*=} ;;
        --container-mounts=*) mounts=${1#*=} ;;
        --container-workdir=*) workdir=${1#*=} ;;
        --no-container-mount-home) ;;
        -*) flags+=("$1") ;;
        *) break ;;
        esac
        shift
    done
    [ -n "$image" ] || exec /usr/bin/srun "${flags[@]}" "$@"
    echo "pyxis image=$image mounts=$mounts workdir=$workdir" >>"$FAKE_CALLS"
    binds=()
    IFS=, read -ra list <<<"$mounts"
    for m in "${list[@]}"; do binds+=(--bind "$m"); done
    exec /usr/bin/srun "${flags[@]}" bash "$me" exec "${binds[@]}" --pwd "$workdir" "$image" "$@"
fi
[ "$1" = exec ] || exit 2
shift
[ "$(basename "$0")" != apptainer ] || echo "apptainer $*" >>"$FAKE_CALLS"
binds=() pwd=/
while [ $# -gt 0 ]; do
    case $1 in
    --bind) binds+=("$2"); shift ;;
    --pwd) pwd=$2; shift ;;
    --nv | --no-home) ;;
    *) break ;;
    esac
    shift
done
image=$1
shift
root=$(mktemp -d)
for d in bin sbin lib lib64 usr etc dev proc tmp; do mkdir "$root/$d"; done
export root pwd image
export FAKE_IMAGE=$image
exec unshare -m bash -c '
    for d in bin sbin lib lib64 usr etc dev proc; do mount --rbind "/$d" "$root/$d" 2>/dev/null; done
    while [ "$1" != -- ]; do
        mkdir -p "$root/${1#*:}" && mount --bind "${1%%:*}" "$root/${1#*:}" || exit 125
        shift
    done
    shift
    exec chroot "$root" /bin/bash -c "cd \"\$1\" && shift && exec \"\$@\"" sh "$pwd" "$@"' sh "${binds[@]}" -- "$@"
