#!/usr/bin/env bash
# bench/jobs.sh NS  -- figures of the pipelines, one JSON object a line: submission of a chain of 200 jobs to a Slurm on this machine, ns status
# of 1,000 jobs that wait there, the local supervisor while it waits, import of the Python package. cpu_s: user and system time.
# shellcheck disable=SC2154,SC2046
set -u
root=$(cd "$(dirname "$0")/.." && pwd)
# shellcheck source=tests/jobs/lib.sh
. "$root/tests/jobs/lib.sh"
export DIR=$dir/slurm NS_THREADS=1 NS_PROGRAM=$ns
trap 'bash "$root/dev/slurm_cluster.sh" down >/dev/null; rm -rf "$dir"' EXIT
skip() { printf '{"bench": "%s", "who": "ns", "skipped": "%s"}\n' "$1" "$2"; }
timed() { # COMMAND...: $wall, $cpu
    TIMEFORMAT='%R %U %S'
    read -r wall user sys <<<"$({ time "$@" >"$dir/out" 2>&1; } 2>&1)"
    cpu=$(echo "$user $sys" | awk '{ printf "%.3f", $1 + $2 }')
}
cd "$dir" || exit 1

# ---- Slurm ----
mkdir -p "$DIR"
if bash "$root/dev/slurm_cluster.sh" up >"$dir/up.log"; then
    export SLURM_CONF=$DIR/etc/slurm.conf
    small_model "$dir/work"
    printf 'executor: slurm\naccount: acct\npartition: main\nmounts: ["%s/work:/workspace"]\n' "$dir" >slurm.yaml
    scontrol update nodename=ALL state=drain reason=bench # jobs wait: what is timed is submission and looking
    # shellcheck disable=SC2046
    chain() { "$ns" train --cluster=slurm.yaml --expname="$1" --output_dir=/workspace/x --disable_wandb --num_training_jobs=199 $(settings 10 5); }
    for i in 1 2 3 4 5; do
        timed chain "chain$i"
        printf '{"bench": "jobs.submit", "what": "chain of 200 jobs", "who": "ns", "wall_s": %s, "cpu_s": %s, "goal_s": 5}\n' "$wall" "$cpu"
    done
    for _ in 1 2 3 4 5 6 7; do
        timed "$ns" status --all
        printf '{"bench": "jobs.status", "what": "%s waiting jobs", "who": "ns", "wall_s": %s, "cpu_s": %s, "goal_s": 0.2}\n' "$(squeue -h | wc -l)" "$wall" "$cpu"
    done
    timed squeue --me --states=all --noheader
    printf '{"bench": "jobs.status", "what": "the squeue in it", "who": "squeue", "wall_s": %s, "cpu_s": %s}\n' "$wall" "$cpu"
    scancel -u root
else
    skip jobs.submit "$(head -n 1 "$dir/up.log")"
fi

# ---- the supervisor ----
printf 'executor: local\n' >local.yaml
"$ns" run_cmd --cluster=local.yaml --expname=idle sleep 40 >/dev/null 2>&1
sleep 2
supervisors | sed "s|^|/proc/|" >processes
ticks() { awk '{ s += $14 + $15 } END { print s }' $(sed 's|$|/stat|' processes); }
a=$(ticks)
sleep 30
printf '{"bench": "jobs.supervisor", "what": "%s processes, one job running", "who": "ns", "rss_kb": %s, "cpu_percent": %s, "goal_kb": 20480, "goal_percent": 0.1}\n' "$(wc -l <processes)" \
    "$(awk '/VmRSS/ { s += $2 } END { print s }' $(sed 's|$|/status|' processes))" "$(echo "$a $(ticks)" | awk '{ printf "%.3f", ($2 - $1) / 30 }')"
"$ns" cancel idle >/dev/null 2>&1

# ---- Python ----
if command -v python3 >/dev/null; then
    PYTHONPATH=$root/python python3 - <<'P'
import sys, time
for _ in range(7):
    for name in [m for m in sys.modules if m.startswith("nemo_skills")]:
        del sys.modules[name]
    wall, cpu = time.perf_counter(), time.process_time()
    import nemo_skills.pipeline.cli
    print('{"bench": "jobs.import", "who": "ns", "wall_s": %.4f, "cpu_s": %.4f, "goal_s": 0.05}' % (time.perf_counter() - wall, time.process_time() - cpu))
P
else
    skip jobs.import "no python3 here"
fi
