"""A training step of transformers on one GPU, or on several by torch's DistributedDataParallel, to be compared with `ns bench train`
(doc/performance.md).

    torchrun --nproc-per-node 2 bench/rival_gpu.py llama3.2-1b,4096,2,eager,bf16,0,8     # ROWS and ACCUMULATE of each GPU
    python3 bench/rival_gpu.py SHAPE,LENGTH,ROWS,eager|compile,bf16|amp,CHECKPOINT,ACCUMULATE ...
    python3 bench/rival_gpu.py llama3.2-1b,4096,4,compile,bf16,0,1 llama3.1-8b,4096,1,compile,bf16,0,8

Random weights and tokens, SDPA attention, fused AdamW, clipping by norm 1. bf16: weights, gradients and moments in bf16 (8 bytes
a parameter); amp: f32 weights and moments under autocast. ACCUMULATE micro-batches of ROWS rows make a step. Prints one JSON
object a line; a configuration that fails is a line with its error. Needs torch and transformers; no network.
"""
import contextlib
import gc
import json
import os
import sys
import time

import torch
import transformers
from transformers import LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM

RANKS, RANK = int(os.environ.get("WORLD_SIZE", 1)), int(os.environ.get("RANK", 0))

# hidden, ffn, layers, heads, kv heads, head size, vocabulary, tied, Qwen2
SHAPES = {
    "llama3.1-8b": (4096, 14336, 32, 32, 8, 128, 128256, False, False),
    "llama3.2-3b": (3072, 8192, 28, 24, 8, 128, 128256, True, False),
    "llama3.2-1b": (2048, 8192, 16, 32, 8, 64, 128256, True, False),
    "qwen2.5-0.5b": (896, 4864, 24, 14, 2, 64, 151936, True, True),
    "qwen2.5-1.5b": (1536, 8960, 28, 12, 2, 128, 151936, True, True),
    "qwen2.5-7b": (3584, 18944, 28, 28, 4, 128, 152064, False, True),
}


def flops_per_token(shape, length):
    """6 per matmul weight, attention at its causal half: as ns bench train counts."""
    c, f, layers, heads, kv, hd, vocab, _, _ = shape
    return 6 * (layers * (2 * c * heads * hd + 2 * c * kv * hd + 3 * c * f) + c * vocab) + 6 * layers * heads * hd * length


def build(shape, kind):
    c, f, layers, heads, kv, hd, vocab, tied, qwen = shape
    common = dict(vocab_size=vocab, hidden_size=c, intermediate_size=f, num_hidden_layers=layers, num_attention_heads=heads,
                  num_key_value_heads=kv, tie_word_embeddings=tied, max_position_embeddings=131072, use_cache=False)
    cfg = Qwen2Config(**common) if qwen else LlamaConfig(head_dim=hd, rope_theta=5e5, **common)
    cfg._attn_implementation = "sdpa"
    torch.set_default_dtype(torch.float32 if kind == "amp" else torch.bfloat16)
    with torch.device("cuda"):
        model = (Qwen2ForCausalLM if qwen else LlamaForCausalLM)(cfg)
    torch.set_default_dtype(torch.float32)
    return model.train()


def measure(name, length, rows, mode, kind, checkpoint, accumulate, steps=4):
    torch.manual_seed(0)
    gc.collect()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    began = time.time()
    shape = SHAPES[name]
    model = build(shape, kind)
    if checkpoint:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    if mode == "compile":
        model.compile()
    if RANKS > 1:
        model = torch.nn.parallel.DistributedDataParallel(model, device_ids=[torch.cuda.current_device()], gradient_as_bucket_view=True)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5, fused=True)
    ids = torch.randint(0, shape[6], (rows, length), device="cuda")

    def step():
        for i in range(accumulate):
            alone = RANKS > 1 and i + 1 < accumulate
            with model.no_sync() if alone else contextlib.nullcontext():
                with torch.autocast("cuda", dtype=torch.bfloat16, enabled=kind == "amp"):
                    loss = model(input_ids=ids, labels=ids).loss / accumulate
                loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0, foreach=True)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    times = []
    for i in range(2 + steps):
        torch.cuda.synchronize()
        t = time.time()
        step()
        torch.cuda.synchronize()
        if i == 0:
            first = time.time() - began
        if i >= 2:
            times.append(time.time() - t)
    s = sorted(times)[(len(times) - 1) // 2]
    rate = rows * length * accumulate / s
    return dict(tokens_per_s=round(rate * RANKS), tokens_per_s_per_device=round(rate), step_s=round(s, 4), tflop_s=round(rate * flops_per_token(shape, length) / 1e12, 1),
                peak_gb=round(torch.cuda.max_memory_reserved() / 1e9, 1), first_step_s=round(first, 1))


def main():
    if RANKS > 1:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
        torch.distributed.init_process_group("nccl")
    if RANK == 0:
        print(json.dumps(dict(torch=torch.__version__, transformers=transformers.__version__, on=torch.cuda.get_device_name())), flush=True)
    for job in sys.argv[1:]:
        name, length, rows, mode, kind, checkpoint, accumulate = job.split(",")
        line = dict(rival="transformers", devices=RANKS, shape=name, length=int(length), rows=int(rows), mode=mode, optimizer=kind,
                    checkpoint=checkpoint == "1", accumulate=int(accumulate))
        try:
            line.update(measure(name, int(length), int(rows), mode, kind, checkpoint == "1", int(accumulate)))
        except Exception as e:  # the line says why; the others still run
            line["error"] = str(e)[:200]
        if RANK == 0:
            print(json.dumps(line), flush=True)
        gc.collect()
        torch.cuda.empty_cache()
    if RANKS > 1:
        torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()
