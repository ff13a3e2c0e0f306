#!/bin/sh
# bench/run.sh [BUILD_DIR]  -- one JSON object a line on stdout: the machine, then every figure of ours, then the rivals
# that are installed, on the same inputs. Nothing is compared here; bench/README.md says how to read it.
# `ns prepare` on 100 MB of made rows and, with NS_BENCH_NEMO_SKILLS, the original: bench/prepare.py says what that needs.
#
# NS_TEST_DATA: folder of the real inputs.  NS_BENCH_PYTHON: a Python with the rivals (tokenizers, torch), default python3.
# NS_BENCH_PACKER: NeMo-Skills' prepare_packed_ft_dataset.py, the rival of bin assignment (needs numpy; pack_rival.py).
set -eu
cd "$(dirname "$0")/.."
build=${1:-build}
data=${NS_TEST_DATA:-../shared/data}
python=${NS_BENCH_PYTHON:-python3}
rows=$data/gsm8k/train.jsonl
text=$data/tokenizers/corpus/war-and-peace.txt

cpu=$(sed -n 's/^model name[[:space:]]*: //p' /proc/cpuinfo | head -n 1)
cc=$(sed -n 's/^CMAKE_C_COMPILER:[A-Z]*=//p' "$build/CMakeCache.txt" | head -n 1)
printf '{"bench": "machine", "date": "%s", "commit": "%s%s", "cpu": "%s", "cpus": %d, "load1": %s, "compiler": "%s"}\n' \
    "$(date -u +%Y-%m-%dT%H:%MZ)" "$(git rev-parse --short HEAD 2>/dev/null || echo '?')" \
    "$([ -z "$(git status --porcelain 2>/dev/null)" ] || echo '+changes')" "$cpu" "$(nproc)" \
    "$(cut -d' ' -f1 /proc/loadavg)" "$("${cc:-cc}" --version | head -n 1)"
have() { [ -x "$build/bench/$1" ]; }
skip() { printf '{"bench": "%s", "who": "%s", "skipped": "%s"}\n' "$1" "$2" "$3"; }

have bench_start && "$build/bench/bench_start" start.help "$build/ns" --help
if [ -f "$rows" ]; then have bench_json && "$build/bench/bench_json" "$rows"; else skip json.parse ns "no test data"; fi
if [ -f "$rows" ]; then have bench_rows && "$build/bench/bench_rows" "$rows"; else skip rows.read ns "no test data"; fi
for name in llama2/tokenizer.json llama2/tokenizer.model mistral/tokenizer.model.v3 qwen2.5/tokenizer.assembled.json \
    llama3/tokenizer.assembled.json; do
    if ! have bench_tok; then continue; fi
    if [ -f "$data/tokenizers/$name" ] && [ -f "$text" ]; then
        "$build/bench/bench_tok" "$name" "$data/tokenizers/$name" "$text" "$rows" || skip tok.encode ns "$name failed, see above"
    else
        skip tok.encode ns "no test data"
    fi
done
have bench_ops && "$build/bench/bench_ops"
have bench_step && "$build/bench/bench_step"
bash bench/jobs.sh "$build/ns"
have bench_export && "$build/bench/bench_export" "$build/ns" 0.5 3
have bench_packed && "$build/bench/bench_packed"
have bench_pack && "$build/bench/bench_pack"

if command -v "$python" >/dev/null 2>&1; then
    have bench_start && "$build/bench/bench_start" start.python "$(command -v "$python")" -c pass |
        sed 's/"who": "ns"/"who": "python"/'
    if [ -f "${NS_BENCH_PACKER:-}" ] && have bench_pack; then
        lengths=$(mktemp)
        "$build/bench/bench_pack" --lengths 100000 "$lengths" && "$python" bench/pack_rival.py "$NS_BENCH_PACKER" "$lengths"
        rm -f "$lengths"
    else
        skip pack.assign original "NS_BENCH_PACKER names no script"
    fi
    "$python" bench/rivals.py "$rows" "$data/tokenizers" "$text"
    if [ -f "$rows" ]; then "$python" bench/prepare.py "$build/ns" "$rows"; else skip prepare ns "no test data"; fi
else
    skip rivals python "no $python here"
fi
