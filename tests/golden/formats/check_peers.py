"""Do others read what `ns export` wrote? Usage: check_peers.py HF_DIR TORCH_DIST_NEMO_DIR ZARR_NEMO_DIR (dev-only Python).

torch.distributed.checkpoint's own reader and tensorstore (what Megatron reads zarr with) give every tensor; each must equal what
the original converter's mapping (make_nemo.convert) makes of the Hugging Face model."""

import json
import sys

import numpy as np
import tensorstore as ts
import torch
import torch.distributed.checkpoint as dcp
from safetensors.torch import load_file

import make_nemo

hf, dist, zarr = sys.argv[1:4]
config = json.load(open(hf + "/config.json"))
want = make_nemo.convert(load_file(hf + "/model.safetensors"), config)

got = {"model." + k: torch.zeros_like(v) for k, v in want.items()}
reader = dcp.FileSystemReader(dist + "/model_weights")
assert set(reader.read_metadata().state_dict_metadata) == set(got)
dcp.load(got, storage_reader=reader, no_dist=True)
for k, v in want.items():
    assert torch.equal(got["model." + k], v), k
print("torch.distributed.checkpoint:", len(got), "tensors equal")

for k, v in want.items():
    path = zarr + "/model_weights/model." + k
    a = ts.open({"driver": "zarr", "kvstore": {"driver": "file", "path": path}}, open=True).result().read().result()
    assert np.array_equal(a.view(np.int16), v.view(torch.int16).numpy()), k
print("tensorstore zarr:", len(want), "tensors equal")
