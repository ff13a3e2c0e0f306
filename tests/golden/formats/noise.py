"""Random values for the tensors that `ns init` leaves constant (norms, biases), so that a swapped one shows. Usage: noise.py HF_DIR"""

import sys

import torch
from safetensors import safe_open
from safetensors.torch import save_file

p = sys.argv[1] + "/model.safetensors"
torch.manual_seed(3)
with safe_open(p, "pt") as f:
    t = {k: f.get_tensor(k) for k in f.keys()}
for k, v in t.items():
    if v.dim() == 1:
        t[k] = (v.float() + torch.randn(v.shape) * 0.1).to(v.dtype)
save_file(t, p, {"format": "pt"})
