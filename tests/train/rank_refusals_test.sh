#!/bin/sh
# Ranks that do not belong together, or that cannot meet: one clear line, an exit code of its own, and nothing is written. Other settings,
# another program version, other rows, a wrong number of ranks, a layout that does not divide, MPI or its plug-in missing, a bad
# transport. (A missing NCCL: nccl_test; pack files: packs_train_test, tests/cli/packs_test.sh.)
set -u
root=$(cd "$(dirname "$0")/../.." && pwd)
# shellcheck source=tests/lib.sh
. "$root/tests/lib.sh"
export NS_THREADS=1 NS_ACCELERATOR=cpu
small_model "$dir" 100
sed 's/plus/and/' "$dir/rows.jsonl" >"$dir/others.jsonl"
out=$dir/out
sft() { # [settings]
    "${program:-$ns}" sft ++model.restore_from_path="$dir/base" ++model.data.train_ds.file_path="${rows:-$dir/rows.jsonl}" ++exp_manager.explicit_log_dir="$out" \
        ++model.data.train_ds.global_batch_size=12 ++model.data.train_ds.micro_batch_size=1 ++trainer.sft.max_steps=2 ++trainer.sft.save_interval=1 "$@"
}
# said WHAT PATTERN LOG EXIT [each]: one line of error (or one of each rank), with the pattern; nothing was saved
said() {
    lines=$(grep -cE '^ns sft(\[[0-9]+\])?: ' "$3")
    if [ "$4" -gt 0 ] && [ "$4" -lt 126 ] && { [ "$lines" = "${5:-1}" ] || [ "${5:-1}" = each ]; } && grep -qE "^ns sft(\[[0-9]+\])?: .*$2" "$3" && [ ! -e "$out/checkpoints" ]; then ok "$1"; else
        not_ok "$1: exit $4, $lines lines: $(tail -n 4 "$3")"
    fi
}
refuses() { # WHAT PATTERN [settings]
    what=$1 pattern=$2 rc=0
    shift 2
    sft "$@" >"$dir/log" 2>&1 || rc=$?
    said "$what" "$pattern" "$dir/log" $rc
}

# ---- layouts ----
refuses "context parallel that does not divide" '4 ranks do not divide into model copies of 3 ranks \(tensor 1 x context 3 x pipeline 1\): use 3 or 6 ranks' ++trainer.devices=4 ++model.context_parallel_size=3
refuses "more context-parallel ranks than there are" 'model copies of 4 ranks .*context 4' ++trainer.devices=2 ++model.context_parallel_size=4
refuses "no context-parallel rank" 'context_parallel_size.*0' ++trainer.devices=2 ++model.context_parallel_size=0
refuses "tensor parallel that does not divide" '4 ranks do not divide into model copies of 3' ++trainer.devices=4 ++model.tensor_model_parallel_size=3
refuses "heads that do not divide" "tensor_model_parallel_size=4 does not divide the model.s 2 key/value heads: use one of 1, 2" ++trainer.devices=4 ++model.tensor_model_parallel_size=4
refuses "more stages than layers" 'pipeline_model_parallel_size=4: the model has 2 layers, a stage needs one: use at most 2' ++trainer.devices=4 ++model.pipeline_model_parallel_size=4
refuses "a batch that data ranks do not divide" 'global.batch.size.* 12 .*8.*: nearest valid' ++trainer.devices=8

# ---- ranks that are started one by one ----
port=$(($$ % 10000 + 40000))
# pair WHAT PATTERN: rank 0 with the usual, rank 1 with $program, $rows and the settings of $theirs; each says it in one line
pair() {
    what=$1 pattern=$2
    port=$((port + 1))
    export WORLD_SIZE=2 LOCAL_WORLD_SIZE=2 MASTER_ADDR=127.0.0.1 MASTER_PORT=$port
    # shellcheck disable=SC2086
    (
        rc=0
        RANK=1 program=${their_program:-$ns} rows=${their_rows:-} sft ++trainer.devices=2 ${theirs:-} >"$dir/log1" 2>&1 || rc=$?
        echo $rc >"$dir/rc1"
    ) &
    rc=0
    RANK=0 sft ++trainer.devices=2 >"$dir/log0" 2>&1 || rc=$?
    wait $!
    said "$what" "$pattern" "$dir/log0" $rc
    said "$what: the other one" "differs from rank 0|rank 1 |rank 0 " "$dir/log1" "$(cat "$dir/rc1")"
    unset WORLD_SIZE LOCAL_WORLD_SIZE MASTER_ADDR MASTER_PORT
}
theirs=++model.optim.lr=5e-4 pair "another setting" "rank 1 \(.*differs from rank 0: 'settings [0-9a-f]+' against 'settings [0-9a-f]+' on rank 0; all ranks need the same program and settings"
version=$("$ns" --version | grep -oE '[0-9]+\.[0-9]+\.[0-9]+' | head -n 1)
LC_ALL=C sed "s/$(echo "$version" | sed 's/\./\\./g')/9.9.9/g" "$ns" >"$dir/other-version" && chmod +x "$dir/other-version"
[ ${#version} = 5 ] || echo "# the version is not of the form x.y.z: the changed program may not start"
their_program=$dir/other-version pair "another version of the program" "rank 1 \(.*differs from rank 0: 'version 9.9.9' against 'version $version' on rank 0"
their_rows=$dir/others.jsonl pair "other rows of another file" "rank 1 \(.*differs from rank 0: 'settings "
cp "$dir/rows.jsonl" "$dir/same-name.jsonl"
# one name and two contents, as on two machines whose copies differ: rank 1 sees another file under the name
if unshare -m true 2>/dev/null; then
    cat >"$dir/elsewhere" <<EOF
#!/bin/sh
exec unshare -m sh -c 'mount --bind "$dir/others.jsonl" "$dir/rows.jsonl" && exec "\$0" "\$@"' "$ns" "\$@"
EOF
    chmod +x "$dir/elsewhere"
    their_program=$dir/elsewhere pair "the same name, other rows" "rank 1 \(.*differs from rank 0: 'rows [0-9a-f]+' against 'rows [0-9a-f]+' on rank 0"
else
    echo "SKIP: the same name, other rows: no mount name space here (needs root)"
fi

# ---- numbers of ranks ----
wrong() { # WHAT PATTERN VARIABLE=VALUE... -- SETTINGS
    what=$1 pattern=$2 rc=0
    shift 2
    (
        while [ "$1" != -- ]; do
            # shellcheck disable=SC2163 # NAME=VALUE
            export "$1"
            shift
        done
        shift
        sft "$@"
    ) >"$dir/log" 2>&1 || rc=$?
    said "$what" "$pattern" "$dir/log" $rc
}
wrong "more ranks than asked for" '4 ranks were started by RANK and WORLD_SIZE, but trainer.devices=2 x trainer.num_nodes=1 are 2: make them agree' RANK=0 WORLD_SIZE=4 LOCAL_WORLD_SIZE=4 -- ++trainer.devices=2
wrong "fewer" '2 ranks were started by RANK and WORLD_SIZE, but trainer.devices=2 x trainer.num_nodes=2 are 4' RANK=0 WORLD_SIZE=2 LOCAL_WORLD_SIZE=2 -- ++trainer.devices=2 ++trainer.num_nodes=2
wrong "two machines and no launcher" '4 ranks are asked for and one was started: start .ns sft. with srun or mpirun' NS_NONE=1 -- ++trainer.devices=2 ++trainer.num_nodes=2
wrong "half of the variables" 'WORLD_SIZE is not set, though other variables of this launcher are' RANK=0 -- ++trainer.devices=2
wrong "a rank beyond the number" 'RANK is 5 but WORLD_SIZE is 2' RANK=5 WORLD_SIZE=2 -- ++trainer.devices=2

# ---- transports ----
wrong "MPI without mpirun" 'NS_TRANSPORT=mpi, but the ranks were not started by mpirun' RANK=0 WORLD_SIZE=2 LOCAL_WORLD_SIZE=2 MASTER_ADDR=127.0.0.1 MASTER_PORT=$((port + 50)) NS_TRANSPORT=mpi -- ++trainer.devices=2
wrong "an unknown transport" "NS_TRANSPORT is 'udp': use mpi or tcp" RANK=0 WORLD_SIZE=2 LOCAL_WORLD_SIZE=2 MASTER_ADDR=127.0.0.1 MASTER_PORT=$((port + 51)) NS_TRANSPORT=udp -- ++trainer.devices=2
wrong "MPI and no plug-in" 'the MPI plug-in /nowhere/libns_mpi.so is not beside the program: .*NS_TRANSPORT=tcp' OMPI_COMM_WORLD_RANK=0 OMPI_COMM_WORLD_SIZE=2 OMPI_COMM_WORLD_LOCAL_RANK=0 OMPI_COMM_WORLD_LOCAL_SIZE=2 \
    NS_TRANSPORT=mpi NS_MPI_PLUGIN=/nowhere/libns_mpi.so -- ++trainer.devices=2
echo "no library" >"$dir/libns_mpi.so"
wrong "a plug-in whose MPI is missing" "libns_mpi.so does not open: .*; set NS_TRANSPORT=tcp to do without MPI" OMPI_COMM_WORLD_RANK=0 OMPI_COMM_WORLD_SIZE=2 OMPI_COMM_WORLD_LOCAL_RANK=0 OMPI_COMM_WORLD_LOCAL_SIZE=2 \
    NS_TRANSPORT=mpi NS_MPI_PLUGIN="$dir/libns_mpi.so" -- ++trainer.devices=2
rc=0
NS_SLOW_LINK=fast sft ++trainer.devices=2 >"$dir/log" 2>&1 || rc=$?
said "a link that is no number" "NS_SLOW_LINK is 'fast': expected MB_PER_S" "$dir/log" $rc each
mpirun=$(command -v mpirun.openmpi || command -v mpirun || true)
if [ -z "$mpirun" ] || [ ! -e "$(dirname "$ns")/libns_mpi.so" ]; then
    echo "SKIP: three ranks of mpirun for two: no mpirun, or no libns_mpi.so"
else
    export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
    cat >"$dir/mpi-three" <<EOF
#!/bin/sh
exec timeout 60 $mpirun --oversubscribe --bind-to none -n 3 "$ns" "\$@"
EOF
    chmod +x "$dir/mpi-three"
    rc=0
    program=$dir/mpi-three sft ++trainer.devices=2 >"$dir/log" 2>&1 || rc=$?
    said "three ranks of mpirun for two" '3 ranks were started by mpirun, but trainer.devices=2' "$dir/log" $rc each
fi
exit $fails
