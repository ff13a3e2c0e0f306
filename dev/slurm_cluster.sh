#!/usr/bin/env bash
# dev/slurm_cluster.sh up|down   -- a real Slurm on 127.0.0.1 for tests: munge, controller, NODES isolated nodes with two fake GPUs each.
#
#   DIR    absolute private folder (required)      NODES  nodes (2)
#   `up` takes a free block of ports and writes its first to $DIR/port
#   DBD=1  with the accounting database, for sacct (packages slurmdbd mariadb-server; 4 s more)
#
# Needs root and the packages slurmctld slurmd slurm-client slurm-wlm-basic-plugins munge. After `up`, every Slurm command needs
# SLURM_CONF=$DIR/etc/slurm.conf. Each node has its own host name, /etc/hosts and /dev/shm (unshare), so that programs see separate
# machines. `down` stops exactly what `up` started. Exit code 77: it cannot run here, and why.
set -u
: "${DIR:?}" "${NODES:=2}" "${DBD:=0}"
export SLURM_CONF=$DIR/etc/slurm.conf
host=$(hostname -s)

# A block of 250 ports that no other cluster of this user has (its folder is gone when it has ended). Blocks lie from 10000 to 19999:
# below the ports that ns takes for ranks, and those that systems give to any process.
claim_ports() {
    claims=/tmp/ns-slurm-ports.$(id -u)
    mkdir -p "$claims"
    exec 9>"$claims/lock"
    flock 9
    for block in $(seq 0 39); do
        [ -e "$claims/$block" ] && [ -d "$(cat "$claims/$block")" ] && continue
        PORT=$((10000 + block * 250))
        # listening sockets; equally long hexadecimal numbers compare as text
        awk -v from="$(printf 'x%04X' $PORT)" -v to="$(printf 'x%04X' $((PORT + 250)))" \
            '$4 == "0A" { split($2, a, ":"); p = "x" a[2]; if (p >= from && p < to) found = 1 } END { exit found }' /proc/net/tcp || continue
        echo "$DIR" >"$claims/$block"
        echo $PORT >"$DIR/port"
        exec 9>&-
        return 0
    done
    echo "SKIP: no free block of ports from 10000 to 19999 (claims: $claims)"
    return 1
}

can_run() {
    [ "$(id -u)" = 0 ] || { echo "SKIP: a Slurm of its own needs root"; return 1; }
    for tool in munged slurmctld slurmd sbatch squeue unshare; do
        command -v "$tool" >/dev/null || { echo "SKIP: $tool is not installed (sh dev/deps.sh --tests brings it)"; return 1; }
    done
    for tool in $([ "$DBD" != 1 ] || echo slurmdbd mariadbd mariadb-install-db sacctmgr); do
        command -v "$tool" >/dev/null || { echo "SKIP: $tool is not installed (sh dev/deps.sh --tests brings it)"; return 1; }
    done
    unshare --uts --mount true 2>/dev/null || { echo "SKIP: this machine does not let nodes be separated (unshare)"; return 1; }
}

write_config() {
    accounting="AccountingStorageType=accounting_storage/none"
    [ "$DBD" != 1 ] || accounting="AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=127.0.0.1
AccountingStoragePort=$((PORT + 19))
AccountingStoragePass=$DIR/munge/run/munge.sock
JobAcctGatherType=jobacct_gather/linux"
    cat >"$DIR/etc/gres.conf" <<C
AutoDetect=off
NodeName=n[1-$NODES] Name=gpu Type=fake File=$DIR/dev/nvidia[0-1]
C
    cat >"$DIR/etc/slurm.conf" <<C
ClusterName=t
SlurmctldHost=$host(127.0.0.1)
SlurmctldPort=$((PORT + 17))
SrunPortRange=$((PORT + 100))-$((PORT + 199))
CommunicationParameters=NoCtldInAddrAny,NoInAddrAny
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket=$DIR/munge/run/munge.sock,cred_expire=30
CredType=cred/munge
StateSaveLocation=$DIR/state
SlurmdSpoolDir=$DIR/spool/%n
SlurmctldPidFile=$DIR/run/slurmctld.pid
SlurmdPidFile=$DIR/run/slurmd.%n.pid
SlurmctldLogFile=$DIR/log/slurmctld.log
SlurmdLogFile=$DIR/log/slurmd.%n.log
TmpFS=$DIR/scratch/%n
MailProg=/bin/true
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
DefMemPerCPU=500
GresTypes=gpu
SlurmdParameters=config_overrides
SchedulerType=sched/backfill
SchedulerParameters=sched_interval=1,bf_interval=1,sched_min_interval=0,batch_sched_delay=0
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
JobRequeue=1
ReturnToService=2
KillWait=10
MinJobAge=3600
SlurmctldTimeout=30
SlurmdTimeout=10
$accounting
JobCompType=jobcomp/filetxt
JobCompLoc=$DIR/log/jobcomp.txt
NodeName=n[1-$NODES] NodeHostname=n[1-$NODES] NodeAddr=127.0.0.1 Port=[$((PORT + 21))-$((PORT + 20 + NODES))] CPUs=8 Sockets=1 CoresPerSocket=8 ThreadsPerCore=1 RealMemory=16000 Gres=gpu:fake:2 State=UNKNOWN
PartitionName=main Nodes=ALL Default=YES DefaultTime=10 MaxTime=INFINITE PriorityTier=1 State=UP
PartitionName=high Nodes=ALL MaxTime=INFINITE PriorityTier=10 State=UP
C
    {
        cat /etc/hosts
        for i in $(seq "$NODES"); do echo "127.0.0.1 n$i"; done
    } >"$DIR/etc/hosts"
}

# MariaDB and slurmdbd, on 127.0.0.1 alone
database() {
    sql="mariadb --no-defaults -S $DIR/db/s.sock -u root -e"
    mkdir -p "$DIR/db"
    mariadb-install-db --no-defaults --user=root --datadir="$DIR/db/data" --auth-root-authentication-method=normal --skip-test-db >"$DIR/db/install.log" 2>&1 ||
        { echo "SKIP: mariadb-install-db fails: $(tail -n 1 "$DIR/db/install.log")"; return 1; }
    setsid mariadbd --no-defaults --user=root --datadir="$DIR/db/data" --socket="$DIR/db/s.sock" --pid-file="$DIR/run/mariadbd.pid" --bind-address=127.0.0.1 \
        --port=$((PORT + 36)) --innodb-buffer-pool-size=64M --innodb-lock-wait-timeout=900 --innodb-flush-log-at-trx-commit=0 >"$DIR/db/log" 2>&1 </dev/null &
    for _ in $(seq 600); do
        $sql 'select 1' >/dev/null 2>&1 && break
        sleep 0.05
    done
    $sql "create database acct; create user slurm@'127.0.0.1' identified by 'pw'; grant all on acct.* to slurm@'127.0.0.1'; create user slurm@localhost identified by 'pw'; grant all on acct.* to slurm@localhost" ||
        { echo "SKIP: MariaDB does not start: $(tail -n 1 "$DIR/db/log")"; return 1; }
    (
        umask 077
        cat >"$DIR/etc/slurmdbd.conf" <<C
AuthType=auth/munge
AuthInfo=socket=$DIR/munge/run/munge.sock
DbdHost=$host
DbdAddr=127.0.0.1
DbdPort=$((PORT + 19))
SlurmUser=root
PidFile=$DIR/run/slurmdbd.pid
LogFile=$DIR/log/slurmdbd.log
StorageType=accounting_storage/mysql
StorageHost=127.0.0.1
StoragePort=$((PORT + 36))
StorageUser=slurm
StoragePass=pw
StorageLoc=acct
CommitDelay=1
C
    )
    slurmdbd || return 1
    for _ in $(seq 600); do
        sacctmgr -n -i show cluster >/dev/null 2>&1 && break
        sleep 0.05
    done
    sacctmgr -i add cluster t >/dev/null && sacctmgr -i add account acct >/dev/null && sacctmgr -i add user root account=acct >/dev/null
}

up() {
    can_run || return 77
    mkdir -p "$DIR"/{etc,state,spool,log,run,scratch,dev,munge/run,munge/priv}
    claim_ports || return 77
    chmod 755 "$DIR" "$DIR/munge" "$DIR/munge/run"
    chmod 700 "$DIR/munge/priv"
    [ -s "$DIR/munge/priv/key" ] || (umask 077 && head -c 1024 /dev/urandom >"$DIR/munge/priv/key")
    for g in 0 1; do # null devices as fake GPUs
        [ -e "$DIR/dev/nvidia$g" ] || mknod "$DIR/dev/nvidia$g" c 1 3 || { echo "SKIP: cannot make device files here"; return 77; }
    done
    write_config
    munged --force --num-threads=2 --key-file="$DIR/munge/priv/key" --socket="$DIR/munge/run/munge.sock" \
        --pid-file="$DIR/munge/run/munged.pid" --log-file="$DIR/munge/priv/munged.log" --seed-file="$DIR/munge/priv/seed" || return 77
    if [ "$DBD" = 1 ]; then database || return 77; fi
    slurmctld || return 77
    for i in $(seq "$NODES"); do
        mkdir -p "$DIR/spool/n$i" "$DIR/scratch/n$i"
        unshare --uts --mount sh -c "hostname n$i && mount --bind '$DIR/etc/hosts' /etc/hosts && mount -t tmpfs tmpfs /dev/shm && exec slurmd -N n$i" || return 77
    done
    for _ in $(seq 400); do
        [ "$(sinfo -h -N -p main -t idle -o %N 2>/dev/null | wc -l)" = "$NODES" ] && echo "cluster of $NODES up" && return 0
        sleep 0.05
    done
    echo "SKIP: the Slurm of the tests does not come up:"
    sinfo -R
    tail -n 5 "$DIR"/log/*.log
    return 77
}

stop_pid() { # pid file
    [ -s "$1" ] || return 0
    pid=$(cat "$1")
    kill "$pid" 2>/dev/null || return 0
    for _ in $(seq 50); do
        kill -0 "$pid" 2>/dev/null || return 0
        case $(ps -o stat= -p "$pid") in Z*) return 0 ;; esac
        sleep 0.1
    done
    kill -9 "$pid" 2>/dev/null
}

down() {
    timeout 5 scancel -u root 2>/dev/null
    for _ in $(seq 150); do
        [ -z "$(timeout 2 squeue -h -t R,CG 2>/dev/null)" ] && break
        sleep 0.1
    done
    for p in "$DIR"/run/slurmd.*.pid "$DIR/run/slurmctld.pid" "$DIR/run/slurmdbd.pid" "$DIR/run/mariadbd.pid" "$DIR/munge/run/munged.pid"; do stop_pid "$p"; done
    for p in /proc/[0-9]*; do # what outlived a node that a test killed: its slurmstepd and that step's processes
        tr '\0' '\n' 2>/dev/null <"$p/environ" | grep -qx "SLURM_CONF=$SLURM_CONF" || continue
        if [ "$(cat "$p/comm" 2>/dev/null)" = slurmstepd ] || tr '\0' '\n' 2>/dev/null <"$p/environ" | grep -q '^SLURM_JOB_ID='; then
            kill -9 "${p#/proc/}" 2>/dev/null
        fi
    done
    return 0
}

case ${1:-} in
up) up ;;
down) down ;;
*)
    sed -n '2,7s/^# *//p' "$0" >&2
    exit 2
    ;;
esac
