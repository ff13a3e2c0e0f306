"""Reference logits, loss, every gradient and ten optimiser steps of three tiny models, computed by transformers.

    python make_parity.py [llama3] [qwen25] [qwen3]        rewrites the folder of each case (all cases when none is named)

One segment is one forward pass of its own here, so the values say what a *packed* row must give when attention and
positions restart at every segment. README.md lists the tensors. Before anything is written the script proves that
the same pack in a single pass, with a block-diagonal causal mask, gives the same numbers, and prints how far two such
orders of summation lie apart: tolerances should be a small multiple of that.
"""
import json
import pathlib
import shutil
import sys

import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, LlamaConfig, Qwen2Config, Qwen3Config
from transformers.utils import logging

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))
import refmath  # noqa: E402

COMMON = dict(num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, attention_dropout=0.0,
              hidden_act="silu", use_cache=False, bos_token_id=1, eos_token_id=2, pad_token_id=None)
# rope scaling bites: wavelengths 6.3 (kept), 32 (blended) and 167 up (divided by 32) against the limits 16 and 64
CASES = {
    "llama3": dict(
        seed=20240701,
        config=lambda: LlamaConfig(
            **COMMON, vocab_size=384, hidden_size=64, intermediate_size=160, head_dim=16, rms_norm_eps=1e-5,
            max_position_embeddings=2048, tie_word_embeddings=False, attention_bias=False, mlp_bias=False,
            rope_parameters=dict(rope_type="llama3", rope_theta=500000.0, factor=32.0, low_freq_factor=1.0,
                                 high_freq_factor=4.0, original_max_position_embeddings=64))),
    "qwen25": dict(
        seed=20240702,
        config=lambda: Qwen2Config(
            **COMMON, vocab_size=320, hidden_size=128, intermediate_size=192, rms_norm_eps=1e-6,
            max_position_embeddings=2048, tie_word_embeddings=True, use_sliding_window=False,
            rope_parameters=dict(rope_type="default", rope_theta=1000000.0))),
    "qwen3": dict(  # heads of 24, so that head_dim is not hidden_size / heads and rows of a norm do not fill a vector register
        seed=20240703,
        config=lambda: Qwen3Config(
            **COMMON, vocab_size=288, hidden_size=64, intermediate_size=96, head_dim=24, rms_norm_eps=1e-6,
            max_position_embeddings=2048, tie_word_embeddings=True, use_sliding_window=False, attention_bias=False,
            rope_parameters=dict(rope_type="default", rope_theta=1000000.0))),
}

STEPS, MICRO = 10, 2
OPT = dict(lr=1e-3, betas=(0.9, 0.98), eps=1e-8, weight_decay=0.01)
SCHED = dict(lr=1e-3, min_lr=1e-4, warmup=2, constant=0, max_steps=STEPS)
CLIP = 1.0


def init_weights(model, gen):
    """N(0, 0.1) everywhere, 1 + N(0, 0.1) for norm weights: large enough that every gradient is far from rounding noise."""
    with torch.no_grad():
        for name, p in sorted(model.named_parameters()):
            noise = 0.1 * torch.randn(p.shape, generator=gen)
            p.copy_(1 + noise if "norm" in name else noise)
            # No value half-way between two bf16 neighbours: all rounding rules then agree on the bf16 weights.
            bits = p.view(torch.int32)
            bits += (bits & 0xFFFF) == 0x8000


def make_pack(lengths, prompts, vocab, gen, weight=None):
    """One packed row. Weight is 0 on the first prompts[s] tokens of segment s; there labels are -1 in even and 0 in
    odd segments, to catch code that looks at a label without looking at its weight."""
    total = sum(lengths)
    ids = torch.randint(3, vocab, (total,), generator=gen, dtype=torch.int32)
    labels = torch.randint(0, vocab, (total,), generator=gen, dtype=torch.int32)
    weights, positions, cu = torch.ones(total), torch.zeros(total, dtype=torch.int32), [0]
    for s, (n, prompt) in enumerate(zip(lengths, prompts)):
        a = cu[-1]
        labels[a:a + n - 1] = ids[a + 1:a + n]  # next token; the last one keeps its random target
        weights[a:a + prompt] = 0
        labels[a:a + prompt] = -1 if s % 2 == 0 else 0
        positions[a:a + n] = torch.arange(n, dtype=torch.int32)
        if weight is not None:
            weights[a + prompt:a + n] *= weight[s]
        cu.append(a + n)
    return dict(ids=ids, labels=labels, weights=weights, positions=positions, cu_seqlens=torch.tensor(cu, dtype=torch.int32))


def segments(pack):
    cu = pack["cu_seqlens"].tolist()
    return [slice(a, b) for a, b in zip(cu, cu[1:])]


def forward_alone(model, pack):
    """Logits [T, V] and hidden states [L+1][T, C], each segment run by itself."""
    logits, hidden = [], []
    for s in segments(pack):
        out = model(input_ids=pack["ids"][s].long()[None], position_ids=pack["positions"][s].long()[None],
                    output_hidden_states=True)
        logits.append(out.logits[0])
        hidden.append([h[0] for h in out.hidden_states])
    return torch.cat(logits), [torch.cat(h) for h in zip(*hidden)]


def forward_packed(model, pack):
    """The same in one pass with a block-diagonal causal mask."""
    total = len(pack["ids"])
    mask = torch.full((total, total), torch.finfo(torch.float32).min)
    for s in segments(pack):
        n = s.stop - s.start
        mask[s, s] = torch.triu(torch.full((n, n), torch.finfo(torch.float32).min), 1)
    out = model(input_ids=pack["ids"].long()[None], position_ids=pack["positions"].long()[None],
                attention_mask=mask[None, None])
    return out.logits[0]


def run(model, pack, forward=forward_alone):
    """Loss = sum(weight * CE) / sum(weight), and its gradients."""
    model.zero_grad(set_to_none=True)
    out = forward(model, pack)
    logits, hidden = out if isinstance(out, tuple) else (out, [])
    ce = refmath.token_ce(logits, pack["labels"], pack["weights"])
    loss = (pack["weights"] * ce).sum() / pack["weights"].sum()
    loss.backward()
    grads = {"grad." + n: p.grad.detach().float().clone() for n, p in model.named_parameters()}
    return dict(logits=logits.detach().float(), loss=loss.detach().reshape(1), nll=ce.detach(),
                **{f"hidden.{i}": h.detach().float() for i, h in enumerate(hidden)}, **grads)


def load(folder, dtype):
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, attn_implementation="eager")
    # `model.to(bfloat16)` would round the rotary frequencies too; loading in bf16 keeps them, as real runs do.
    assert model.model.rotary_emb.inv_freq.dtype == torch.float32
    return model.train()


def write_config_v4(folder, config):
    """The same config in the layout of transformers 4 (top-level rope_theta, rope_scaling, torch_dtype), which is what
    published checkpoints carry; transformers must read both alike."""
    cfg = json.loads((folder / "config.json").read_text())
    rope = cfg.pop("rope_parameters")
    cfg["rope_theta"] = rope.pop("rope_theta")
    cfg["rope_scaling"] = None if rope["rope_type"] == "default" else rope
    cfg["torch_dtype"] = cfg.pop("dtype")
    cfg.pop("layer_types", None)
    cfg["transformers_version"] = "4.46.0"
    path = folder / "config_v4.json"
    path.write_text(json.dumps(cfg, indent=2, sort_keys=True) + "\n")
    back = type(config).from_json_file(path)
    assert back.rope_parameters == config.rope_parameters, (back.rope_parameters, config.rope_parameters)


def spread(a, b):
    """Largest difference relative to the largest value, over all tensors of a kind."""
    worst = {}
    for name in a:
        if name in b and a[name].is_floating_point():
            kind = name.split(".")[0]
            rel = ((a[name] - b[name]).abs().max() / a[name].abs().max().clamp_min(1e-30)).item()
            if rel >= worst.get(kind, (-1.0, ""))[0]:
                worst[kind] = (rel, name)
    return worst


def make_micro_batches(gen, vocab):
    """[step][micro] packs. The two of a step differ in lengths and prompts, and the prompts change from step to step, so
    that a mean of micro-batch means, or a count taken from another step, gives another loss."""
    def pack(step, micro):
        lengths = ([40, 1, 15, 8], [5, 59])[micro]
        prompts = ([12 + step, 0, 3, 5], [2, 50 - 4 * step])[micro]
        return make_pack(lengths, prompts, vocab, gen)
    return [[pack(step, micro) for micro in range(MICRO)] for step in range(STEPS)]


def ten_steps(model, batches, forward):
    """AdamW over accumulated micro-batches; loss and gradient are divided by the step's total target weight."""
    losses, norms, lrs = [], [], []
    opt = refmath.adamw(model, **OPT)
    for step, packs in enumerate(batches):
        total = sum(p["weights"].sum() for p in packs)
        opt.zero_grad(set_to_none=True)
        loss = 0.0
        for pack in packs:
            out = forward(model, pack)
            logits = out[0] if isinstance(out, tuple) else out
            part = (pack["weights"] * refmath.token_ce(logits, pack["labels"], pack["weights"])).sum() / total
            part.backward()
            loss += part.item()
        lrs.append(refmath.lr_at(step, **SCHED))
        refmath.set_lr(opt, lrs[-1])
        norms.append(refmath.clip(model.parameters(), CLIP))
        opt.step()
        losses.append(loss)
    out = dict(losses=torch.tensor(losses), grad_norms=torch.tensor(norms), lrs=torch.tensor(lrs))
    out.update({"final." + n: p.detach().clone() for n, p in model.named_parameters()})
    return out


def save(tensors, path):
    save_file({k: v.contiguous() for k, v in tensors.items()}, path, metadata={"format": "pt"})
    size = path.stat().st_size
    assert size < 2_000_000, f"{path}: {size} bytes"
    print(f"  {path.name}: {len(tensors)} tensors, {size} bytes")


def make_case(name):
    case, folder = CASES[name], HERE / name
    shutil.rmtree(folder, ignore_errors=True)
    gen = torch.Generator()
    gen.manual_seed(case["seed"])
    config = case["config"]()
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager", dtype=torch.float32)
    init_weights(model, gen)
    model.save_pretrained(folder)
    (folder / "generation_config.json").unlink(missing_ok=True)
    write_config_v4(folder, config)
    print(f"{name}: {sum(p.numel() for p in model.parameters())} parameters")

    pack = make_pack([9, 1, 55, 31], [4, 0, 20, 11], config.vocab_size, gen, weight=[1.0, 1.0, 1.0, 0.5])
    model = load(folder, torch.float32)
    ref = run(model, pack)
    noise = spread(ref, run(model, pack, forward_packed))
    assert all(v < 1e-4 for v, _ in noise.values()), noise
    weakest = min((ref[k].abs().max().item(), k) for k in ref if k.startswith("grad."))
    print("  alone against packed:", {k: f"{v:.1e}" for k, (v, _) in noise.items()}, "| smallest gradient maximum %.1e %s" % weakest)
    save({**pack, **ref}, folder / "io.safetensors")

    half = {"bf16." + k: v for k, v in run(load(folder, torch.bfloat16), pack).items() if not k.startswith("hidden")}
    off = spread(ref, {k[5:]: v for k, v in half.items()})
    print("  f32 against bf16:", {k: f"{v:.1e} {n}" for k, (v, n) in off.items()})
    save(half, folder / "io_bf16.safetensors")

    batches = make_micro_batches(gen, config.vocab_size)
    steps = ten_steps(model, batches, forward_alone)
    again = ten_steps(load(folder, torch.float32), batches, forward_packed)
    print("  losses", [f"{v:.4f}" for v in steps["losses"]], "norms", [f"{v:.3f}" for v in steps["grad_norms"]])
    moved = {k: steps[k] - again[k] for k in steps}
    params = [v for k, v in moved.items() if k.startswith("final.")]
    print("  ten steps, alone against packed (absolute): loss %.1e, norm %.1e, parameter max %.1e, worst tensor rms %.1e" % (
        moved["losses"].abs().max(), moved["grad_norms"].abs().max(), max(v.abs().max() for v in params),
        max(v.square().mean().sqrt() for v in params)))
    packs = {f"mb.{s}.{m}.{k}": v for s, b in enumerate(batches) for m, p in enumerate(b) for k, v in p.items()}
    save({**packs, **steps}, folder / "steps.safetensors")
    for path in folder.iterdir():
        path.chmod(0o644)
    model_names = set(load_file(folder / "model.safetensors"))
    assert model_names == {k[6:] for k in steps if k.startswith("final.")} == {k[5:] for k in ref if k.startswith("grad.")}


if __name__ == "__main__":
    torch.set_num_threads(2)
    logging.disable_progress_bar()
    for case_name in sys.argv[1:] or CASES:
        make_case(case_name)
