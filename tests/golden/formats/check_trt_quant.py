"""Weight-only matrices of TensorRT-LLM, computed step by step as its C++ does (dev-only Python: numpy; torch and safetensors to check).

    python check_trt_quant.py --golden             rewrites trt/wq_int{8,4}.bin and trt/wq_scale{8,4}.bin
    python check_trt_quant.py HF_DIR TRT_DIR       a checkpoint that `ns export --use_weight_only --weight_only_layout sm80` wrote, tp 1

Each function is one of cutlass_preprocessors.cpp (NVIDIA/TensorRT-LLM at 05316d33): symmetric_quantize, permute_B_rows_for_mixed_gemm,
subbyte_transpose, interleave_column_major_tensor, add_bias_and_interleave_*; values are kept one to an int until the last step, so
nothing is shared with src/ckpt/trt_quant.c, which goes from a stored place to its column directly."""

import os
import sys

import numpy as np

PERM = {8: [0, 1, 8, 9, 2, 3, 10, 11, 4, 5, 12, 13, 6, 7, 14, 15],
        4: [0, 1, 8, 9, 16, 17, 24, 25, 2, 3, 10, 11, 18, 19, 26, 27, 4, 5, 12, 13, 20, 21, 28, 29, 6, 7, 14, 15, 22, 23, 30, 31]}


def symmetric_quantize(w, bits):
    """w [K, N] f32, the transposed weight -> integers [K, N], scales [N] f32."""
    scale = np.abs(w).max(0).astype(np.float32) * np.float32(1.0 / (1 << (bits - 1)))
    safe = np.where(scale != 0, scale, np.float32(1))
    v = (w / safe).astype(np.float32)
    v = np.where(scale != 0, np.copysign(np.floor(np.abs(v) + np.float32(0.5)), v), 0)  # C round(): halves away from zero
    return np.clip(v, -(1 << (bits - 1)), (1 << (bits - 1)) - 1).astype(np.int32), scale


def permute_rows(q, bits):
    p = PERM[bits]
    out = np.empty_like(q)
    for base in range(0, q.shape[0], len(p)):
        for i, src in enumerate(p):
            out[base + i] = q[base + src]
    return out


def interleave(col_major, K, N, bits):
    """col_major: flat, column after column of K -> tiles of 64 of `n` neighbouring columns side by side."""
    n, tile = {8: 2, 4: 4}[bits], 64
    out = np.empty_like(col_major)
    for col in range(N):
        for base in range(0, K, tile):
            at = (col // n) * K * n + n * base + tile * (col % n)
            out[at:at + tile] = col_major[col * K + base:col * K + base + tile]
    return out


def bias_and_reorder(v, bits):
    v = v + (1 << (bits - 1))
    if bits == 8:
        v = v.reshape(-1, 4)[:, [0, 2, 1, 3]].reshape(-1)
        return v.astype(np.uint8).tobytes()
    v = v.reshape(-1, 8)[:, [0, 2, 4, 6, 1, 3, 5, 7]].reshape(-1)
    return (v[0::2] | v[1::2] << 4).astype(np.uint8).tobytes()


def process(w, bits):
    """w [N, K] as a linear layer has it -> bytes, scales."""
    N, K = w.shape
    q, scale = symmetric_quantize(np.ascontiguousarray(w.T), bits)
    return bias_and_reorder(interleave(permute_rows(q, bits).T.reshape(-1), K, N, bits), bits), scale


def golden_weight(R, C):
    """The same in trt_quant_test.c: a linear congruential generator, rows of different sizes, one row of zeros."""
    x, out = 12345, np.empty((R, C), np.float32)
    for r in range(R):
        for c in range(C):
            x = (x * 1103515245 + 12345) % (1 << 31)
            out[r, c] = np.float32((x >> 8) % 65536 - 32768) * np.float32(2.0 ** (r % 7 - 20))
    out[5] = 0
    return out


def golden():
    here = os.path.join(os.path.dirname(os.path.abspath(__file__)), "trt")
    os.makedirs(here, exist_ok=True)
    for bits in (8, 4):
        data, scale = process(golden_weight(128, 192), bits)
        open(os.path.join(here, f"wq_int{bits}.bin"), "wb").write(data)
        open(os.path.join(here, f"wq_scale{bits}.bin"), "wb").write(scale.astype("<f4").tobytes())


def check(hf_dir, trt_dir):
    import json

    import torch
    from safetensors.torch import load_file

    hf = load_file(os.path.join(hf_dir, "model.safetensors"))
    trt = load_file(os.path.join(trt_dir, "rank0.safetensors"))
    algo = json.load(open(os.path.join(trt_dir, "config.json")))["quantization"]["quant_algo"]
    bits = {"W8A16": 8, "W4A16": 4}[algo]
    n = 0
    for l in range(1 + max(int(k.split(".")[2]) for k in hf if k.startswith("model.layers."))):
        s, t = f"model.layers.{l}.", f"transformer.layers.{l}."
        for name, parts in {"attention.qkv": ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"], "attention.dense": ["self_attn.o_proj"],
                            "mlp.fc": ["mlp.gate_proj"], "mlp.gate": ["mlp.up_proj"], "mlp.proj": ["mlp.down_proj"]}.items():
            w = torch.cat([hf[s + p + ".weight"] for p in parts])
            data, scale = process(w.float().numpy(), bits)
            x, y = trt[t + name + ".weight"], trt[t + name + ".per_channel_scale"]
            assert list(x.shape) == [w.shape[1], w.shape[0] * bits // 8] and x.dtype == torch.int8, (name, x.shape)
            assert x.numpy().tobytes() == data, name + ": integers differ"
            assert torch.equal(y, torch.from_numpy(scale).to(w.dtype)), name + ": scales differ"
            n += 1
    print(f"{algo}: {n} matrices and their scales equal, byte for byte")


if __name__ == "__main__":
    golden() if sys.argv[1] == "--golden" else check(sys.argv[1], sys.argv[2])
