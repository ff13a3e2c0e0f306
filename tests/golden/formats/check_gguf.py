"""Do others read our GGUF files as we meant them? Dev-only Python: gguf, torch, transformers, safetensors; llama.cpp's source.

    check_gguf.py values  NS FILE.gguf...             gguf's reader and dequantisation against `ns export --convert_to hf --dtype fp32`
    check_gguf.py convert LLAMA_CPP HF_DIR FILE.gguf  metadata, tokenizer and tensors against llama.cpp's convert_hf_to_gguf.py
    check_gguf.py run     LIBS HF_DIR FILE.gguf...    logits and greedy tokens of libllama (llama_cpp bindings) against transformers
"""

import ctypes
import json
import os
import subprocess
import sys
import tempfile

import numpy as np


def hf_name(name):
    table = {"token_embd.weight": "model.embed_tokens.weight", "output_norm.weight": "model.norm.weight",
             "output.weight": "lm_head.weight"}
    layer = {"attn_norm": "input_layernorm", "attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj",
             "attn_v": "self_attn.v_proj", "attn_output": "self_attn.o_proj", "attn_q_norm": "self_attn.q_norm",
             "attn_k_norm": "self_attn.k_norm", "ffn_norm": "post_attention_layernorm", "ffn_gate": "mlp.gate_proj",
             "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj"}
    if name in table:
        return table[name]
    _, l, what, kind = name.split(".")
    return f"model.layers.{l}.{layer[what]}.{kind}"


def field(reader, key):
    f = reader.fields.get(key)
    return None if f is None else f.contents()


def unpermute(x, heads):
    return x.reshape(heads, x.shape[0] // heads // 2, 2, *x.shape[1:]).swapaxes(1, 2).reshape(x.shape)


def values(ns, files):
    import gguf
    from safetensors.numpy import load_file

    for path in files:
        r = gguf.GGUFReader(path)
        arch = field(r, "general.architecture")
        heads = field(r, f"{arch}.attention.head_count"), field(r, f"{arch}.attention.head_count_kv")
        with tempfile.TemporaryDirectory() as tmp:
            subprocess.run([ns, "export", path, tmp + "/hf", "--convert_to", "hf", "--dtype", "fp32", "--quiet"], check=True,
                           stderr=subprocess.DEVNULL)
            ours = load_file(tmp + "/hf/model.safetensors")
        n = 0
        kinds = {}
        for t in r.tensors:
            if t.name == "rope_freqs.weight":
                continue
            x = gguf.quants.dequantize(t.data, t.tensor_type).astype(np.float32)
            if arch == "llama" and ".attn_q." in t.name:
                x = unpermute(x, heads[0])
            if arch == "llama" and ".attn_k." in t.name:
                x = unpermute(x, heads[1])
            y = ours[hf_name(t.name)]
            assert x.shape == y.shape and np.array_equal(x, y), (path, t.name, np.abs(x - y).max())
            kinds[t.tensor_type.name] = kinds.get(t.tensor_type.name, 0) + 1
            n += 1
        assert n == len(ours)
        print(f"{os.path.basename(path)} ({arch}): {n} tensors dequantised by gguf, all equal; {kinds}")


def convert(llama_cpp, hf, path):
    import gguf

    with tempfile.TemporaryDirectory() as tmp:
        out = tmp + "/theirs.gguf"
        subprocess.run([sys.executable, llama_cpp + "/convert_hf_to_gguf.py", hf, "--outfile", out, "--outtype", "bf16"],
                       check=True, stderr=subprocess.DEVNULL, env={**os.environ, "PYTHONPATH": llama_cpp + "/gguf-py"})
        a, b = gguf.GGUFReader(path), gguf.GGUFReader(out)
        ta, tb = {t.name: t for t in a.tensors}, {t.name: t for t in b.tensors}
        assert set(ta) == set(tb), set(ta) ^ set(tb)
        for k, t in tb.items():
            x, y = gguf.quants.dequantize(ta[k].data, ta[k].tensor_type), gguf.quants.dequantize(t.data, t.tensor_type)
            if k == "rope_freqs.weight":
                assert np.allclose(x, y, rtol=1e-5), k
            else:
                assert ta[k].tensor_type == t.tensor_type and np.array_equal(x, y), (k, ta[k].tensor_type, t.tensor_type)
        print(f"{os.path.basename(path)}: {len(tb)} tensors equal to llama.cpp's, types too")
        for k in b.fields:
            if k.startswith("GGUF."):
                continue
            x, y = field(a, k), field(b, k)
            if x == y:
                continue
            if isinstance(y, list) and isinstance(x, list) and len(x) == len(y):
                d = [i for i in range(len(y)) if x[i] != y[i]]
                print(f"  {k}: {len(d)} of {len(y)} items differ, first {d[0]}: ours {x[d[0]]!r}, theirs {y[d[0]]!r}")
            else:
                print(f"  {k}: ours {str(x)[:60]!r}, theirs {str(y)[:60]!r}")
        print("  keys of ours alone:", sorted(k for k in a.fields if k not in b.fields))


def run(libs, hf, files):
    os.environ["LLAMA_CPP_LIB_PATH"] = libs
    import llama_cpp as L
    import torch
    from transformers import AutoModelForCausalLM

    config = json.load(open(hf + "/config.json"))
    ids = [int(x) for x in np.random.default_rng(1).integers(0, min(config["vocab_size"], 30000), 24)]
    model = AutoModelForCausalLM.from_pretrained(hf, dtype=torch.float32)
    with torch.no_grad():
        want = model(torch.tensor([ids])).logits[0].numpy()
        greedy = model.generate(torch.tensor([ids]), max_new_tokens=16, do_sample=False, eos_token_id=None)[0][len(ids):].tolist()
    L.llama_backend_init()
    L.llama_log_set(ctypes.cast(None, L.llama_log_callback), None) if False else None
    for path in files:
        m = L.llama_model_load_from_file(path.encode(), L.llama_model_default_params())
        assert m, path
        p = L.llama_context_default_params()
        p.n_ctx = p.n_batch = p.n_ubatch = 128
        p.n_threads = p.n_threads_batch = 2
        p.flash_attn_type = 0
        p.type_k = p.type_v = 0  # f32 cache
        ctx = L.llama_init_from_model(m, p)
        n_vocab = want.shape[1]
        batch = L.llama_batch_init(128, 0, 1)

        def decode(tokens, pos0, all_logits):
            batch.n_tokens = len(tokens)
            for i, t in enumerate(tokens):
                batch.token[i] = t
                batch.pos[i] = pos0 + i
                batch.n_seq_id[i] = 1
                batch.seq_id[i][0] = 0
                batch.logits[i] = all_logits or i == len(tokens) - 1
            assert L.llama_decode(ctx, batch) == 0

        decode(ids, 0, True)
        got = np.stack([np.ctypeslib.as_array(L.llama_get_logits_ith(ctx, i), (n_vocab,)).copy() for i in range(len(ids))])
        err = np.abs(got - want).max()
        out, last, pos = [], got[-1], len(ids)
        for _ in range(16):
            t = int(last.argmax())
            out.append(t)
            decode([t], pos, False)
            pos += 1
            last = np.ctypeslib.as_array(L.llama_get_logits_ith(ctx, 0), (n_vocab,)).copy()
        same = next((i for i in range(16) if out[i] != greedy[i]), 16)
        print(f"{os.path.basename(path)}: logits differ by at most {err:.3g} of {np.abs(want).max():.3g}; "
              f"greedy tokens equal to transformers': {same} of 16")
        L.llama_free(ctx)
        L.llama_model_free(m)


what, rest = sys.argv[1], sys.argv[2:]
if what == "values":
    values(rest[0], rest[1:])
elif what == "convert":
    convert(*rest)
else:
    run(rest[0], rest[1], rest[2:])
