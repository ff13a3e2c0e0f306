"""Tiny models in other people's formats, for src/ckpt/nemo_test.c and the proof in README.md (dev-only Python: torch, zarr < 3).

    python make_nemo.py HF_DIR OUT_DIR KIND [TP [PP]]      KIND: torch_dist zarr zarr-zip zarr-blosc legacy nemo nemo.gz

Reads a Hugging Face model (safetensors), names and packs its tensors as NVIDIA's converters do (NeMo-Skills
conversion/hf_to_nemo_*.py at a718f1d2: the qkv loop is theirs), and writes them with the format's own library: torch.distributed.checkpoint,
zarr, torch.save. TP and PP cut the tensors as Megatron's ranks would."""

import json
import os
import sys
import tarfile

import torch
from safetensors.torch import load_file


def convert(hf, c):
    """name -> tensor, layers stacked; the loop of the original converter."""
    L, H, nh = c["num_hidden_layers"], c["hidden_size"], c["num_attention_heads"]
    g = c.get("num_key_value_heads", nh)
    hd = c.get("head_dim") or H // nh
    per = nh // g
    out = {"embedding.word_embeddings.weight": hf["model.embed_tokens.weight"]}

    def qkv(part, shape):
        def one(l):
            p = f"model.layers.{l}.self_attn."
            q = hf[p + f"q_proj.{part}"].reshape(nh, hd, *shape)
            k = hf[p + f"k_proj.{part}"].reshape(g, hd, *shape)
            v = hf[p + f"v_proj.{part}"].reshape(g, hd, *shape)
            w = torch.empty((0, hd, *shape), dtype=q.dtype)
            for i in range(g):
                w = torch.cat((w, q[i * per:(i + 1) * per]))
                w = torch.cat((w, k[i:i + 1]))
                w = torch.cat((w, v[i:i + 1]))
            return w.reshape(hd * (nh + 2 * g), *shape)

        return torch.stack([one(l) for l in range(L)])

    def stack(f):
        return torch.stack([f(f"model.layers.{l}.") for l in range(L)])

    a = "decoder.layers."
    out[a + "self_attention.linear_qkv.weight"] = qkv("weight", (H,))
    if "model.layers.0.self_attn.q_proj.bias" in hf:
        out[a + "self_attention.linear_qkv.bias"] = qkv("bias", ())
    if "model.layers.0.self_attn.q_norm.weight" in hf:
        out[a + "self_attention.q_layernorm.weight"] = stack(lambda p: hf[p + "self_attn.q_norm.weight"])
        out[a + "self_attention.k_layernorm.weight"] = stack(lambda p: hf[p + "self_attn.k_norm.weight"])
    out[a + "self_attention.linear_proj.weight"] = stack(lambda p: hf[p + "self_attn.o_proj.weight"])
    out[a + "self_attention.linear_qkv.layer_norm_weight"] = stack(lambda p: hf[p + "input_layernorm.weight"])
    out[a + "mlp.linear_fc1.weight"] = stack(lambda p: torch.cat((hf[p + "mlp.gate_proj.weight"], hf[p + "mlp.up_proj.weight"])))
    out[a + "mlp.linear_fc2.weight"] = stack(lambda p: hf[p + "mlp.down_proj.weight"])
    out[a + "mlp.linear_fc1.layer_norm_weight"] = stack(lambda p: hf[p + "post_attention_layernorm.weight"])
    out["decoder.final_layernorm.weight"] = hf["model.norm.weight"]
    if "lm_head.weight" in hf:
        out["output_layer.weight"] = hf["lm_head.weight"]
    return out


def model_config(c, kind):
    t = c.get("rope_scaling") or {}
    lines = dict(mcore_gpt=True, encoder_seq_length=c["max_position_embeddings"], num_layers=c["num_hidden_layers"],
                 hidden_size=c["hidden_size"], ffn_hidden_size=c["intermediate_size"],
                 num_attention_heads=c["num_attention_heads"], num_query_groups=c.get("num_key_value_heads"),
                 kv_channels=c.get("head_dim"), init_method_std=0.02, layernorm_epsilon=c["rms_norm_eps"],
                 normalization="rmsnorm", bias=False, activation="fast-swiglu", position_embedding_type="rope",
                 rotary_percentage=1.0, rotary_base=float(c.get("rope_theta", 10000.0)),
                 share_embeddings_and_output_weights=bool(c.get("tie_word_embeddings")), precision="bf16",
                 qkv_bias=c["model_type"] == "qwen2", override_vocab_size=c["vocab_size"], dist_ckpt_format=kind)
    if c["model_type"] == "qwen3":
        lines["qk_layernorm"] = True
    if t.get("rope_type") == "llama3":
        lines["scale_positional_embedding"] = True
        lines["rope_scaling_factor"] = float(t["factor"])
    if c["model_type"] == "mistral" and c.get("sliding_window"):
        lines["window_size"] = [c["sliding_window"], 0]
    return "".join(f"{k}: {json.dumps(v)}\n" for k, v in lines.items())


def axis_of(name):
    if "linear_proj.weight" in name or "linear_fc2.weight" in name:
        return -1
    if "linear_qkv.weight" in name or "linear_fc1.weight" in name or "embedd" in name or "output_layer" in name:
        return -2
    return -1 if "linear_qkv.bias" in name else None


def local(name, w, r, tp):
    """What rank r of tp holds."""
    ax = axis_of(name)
    if ax is None or tp == 1:
        return w
    if "linear_fc1.weight" in name:
        gate, up = w.chunk(2, ax)
        return torch.cat((gate.chunk(tp, ax)[r], up.chunk(tp, ax)[r]), ax)
    return w.chunk(tp, ax)[r]


def compressors(kind):
    """Every codec and setting in turn, tensor by tensor; zarr alone (kind zarr) as Megatron: none."""
    import numcodecs as nc

    if kind == "zarr-zip":
        return [nc.Zlib(1), nc.GZip(5), nc.Zstd(3)]
    if kind == "zarr-blosc":
        b = nc.Blosc
        return [b("lz4", 5, b.SHUFFLE), b("zstd", 3, b.BITSHUFFLE), b("lz4hc", 9, b.NOSHUFFLE), b("zlib", 6, b.SHUFFLE), b("blosclz", 5, b.SHUFFLE)]
    return [None]


def write_zarr(out, t, tp, kind):
    import zarr

    codecs = compressors(kind)
    for i, (name, w) in enumerate(t.items()):
        stacked = name.startswith("decoder.layers.")
        chunk = list(w.shape)
        if stacked:
            chunk[0] = 1
        ax = axis_of(name)
        if ax is not None:
            chunk[ax] //= tp * (2 if "linear_fc1.weight" in name else 1)
        z = zarr.create(w.shape, chunks=chunk, dtype="V2" if w.dtype == torch.bfloat16 else "f4", compressor=codecs[i % len(codecs)],
                        fill_value=None, store=os.path.join(out, "model." + name), overwrite=True)
        z[...] = w.view(torch.int16).numpy().view("V2") if w.dtype == torch.bfloat16 else w.numpy()
        if w.dtype == torch.bfloat16:  # as Megatron's own writer has it
            p = os.path.join(out, "model." + name, ".zarray")
            text = open(p).read().replace('"|V2"', '"bfloat16"').replace('"<V2"', '"bfloat16"')
            open(p, "w").write(text)


def write_torch_dist(out, t):
    import torch.distributed.checkpoint as dcp

    dcp.save({"model." + k: v.clone() for k, v in t.items()}, storage_writer=dcp.FileSystemWriter(out, thread_count=2), no_dist=True)
    torch.save({}, os.path.join(out, "common.pt"))


def write_legacy(out, t, L, tp, pp):
    for p in range(pp):
        for r in range(tp):
            d = {}
            for name, w in t.items():
                if name.startswith("decoder.layers."):
                    for i in range(L // pp):
                        d["model.decoder.layers.%d.%s" % (i, name[15:])] = local(name, w[p * (L // pp) + i], r, tp).clone()
                elif (name.startswith("embedding") and p == 0) or (not name.startswith("embedding") and p == pp - 1):
                    d["model." + name] = local(name, w, r, tp).clone()
            sub = "" if tp * pp == 1 else "mp_rank_%02d" % r if pp == 1 else "tp_rank_%02d_pp_rank_%03d" % (r, p)
            os.makedirs(os.path.join(out, sub), exist_ok=True)
            torch.save(d, os.path.join(out, sub, "model_weights.ckpt"))


def main():
    src, out, kind = sys.argv[1:4]
    tp, pp = [int(x) for x in (sys.argv[4:] + ["1", "1"])[:2]]
    c = json.load(open(os.path.join(src, "config.json")))
    t = convert(load_file(os.path.join(src, "model.safetensors")), c)
    w = os.path.join(out, "model_weights")
    os.makedirs(w)
    open(os.path.join(out, "model_config.yaml"), "w").write(model_config(c, kind))
    if kind.startswith("zarr"):
        write_zarr(w, t, tp, kind)
    elif kind == "legacy":
        os.rmdir(w)
        write_legacy(out, t, c["num_hidden_layers"], tp, pp)
    else:
        write_torch_dist(w, t)
    if kind.startswith("nemo"):
        with tarfile.open(out + ".nemo", "w:gz" if kind == "nemo.gz" else "w") as tar:
            tar.add(out, ".")


if __name__ == "__main__":
    main()
