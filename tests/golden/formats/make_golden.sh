#!/bin/sh
# Rewrites the committed files of this folder: tiny models in Hugging Face layout (ns init, then random norms and biases) and the
# same tensors written by torch.distributed.checkpoint, zarr and torch.save. Usage: PYTHON=.../python make_golden.sh NS_PROGRAM
set -eu
ns=$1
here=$(cd "$(dirname "$0")" && pwd)
py=${PYTHON:-python3}
rm -rf "$here/hf" "$here/nemo"
mkdir -p "$here/hf" "$here/nemo"
for m in llama qwen2 qwen3; do
    "$ns" init --config "$here/config/$m.json" --output "$here/hf/$m" --seed 7 --quiet
    "$py" "$here/noise.py" "$here/hf/$m"
    rm -f "$here/hf/$m/DONE"
done
"$py" "$here/make_nemo.py" "$here/hf/qwen2" "$here/nemo/qwen2-torch_dist" torch_dist
"$py" "$here/make_nemo.py" "$here/hf/qwen3" "$here/nemo/qwen3-torch_dist" torch_dist
"$py" "$here/make_nemo.py" "$here/hf/llama" "$here/nemo/llama-zarr" zarr 2
"$py" "$here/make_nemo.py" "$here/hf/qwen2" "$here/nemo/qwen2-legacy1" legacy 1 1
"$py" "$here/make_nemo.py" "$here/hf/qwen2" "$here/nemo/qwen2-legacy4" legacy 2 2
"$py" "$here/make_nemo.py" "$here/hf/llama" "$here/nemo/llama-zarr-zip" zarr-zip
"$py" "$here/make_nemo.py" "$here/hf/llama" "$here/nemo/llama-zarr-blosc" zarr-blosc
"$py" "$here/make_nemo.py" "$here/hf/llama" "$here/nemo/llama" nemo
"$py" "$here/make_nemo.py" "$here/hf/llama" "$here/nemo/llama-gz" nemo.gz
rm -rf "$here/nemo/llama" "$here/nemo/llama-gz"
