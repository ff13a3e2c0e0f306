"""Logits of a Hugging Face model folder, computed by transformers in f32 with eager attention.

    python hf_logits.py DIR --ids 1,5,9                      JSON: {"ids": [...], "logits": [[V numbers] per position]}
    python hf_logits.py DIR --ids 1,5,9 --top 5              JSON: the five best [id, logit] per position instead
    python hf_logits.py DIR --compare FILE [--atol 1e-4]     FILE: safetensors with ids[T], logits[T,V] and, for packed
                                                             rows, cu_seqlens[S+1]; each segment is run alone
Comparing prints the largest and the mean difference and how often the best token agrees; exit status 1 when the largest
difference is above atol + rtol * largest logit.
"""
import argparse
import json
import sys

import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM
from transformers.utils import logging


def logits_of(model, ids):
    with torch.no_grad():
        return model(input_ids=torch.as_tensor(ids).long()[None]).logits[0].float()


def compare(model, args):
    given = load_file(args.compare)
    for name in ("ids", args.tensor):
        if name not in given:
            sys.exit(f"hf_logits: {args.compare}: no tensor {name!r}, found {', '.join(sorted(given)[:8])} ...")
    ids, want = given["ids"], given[args.tensor].float()
    cu = given["cu_seqlens"].tolist() if "cu_seqlens" in given else [0, len(ids)]
    got = torch.cat([logits_of(model, ids[a:b]) for a, b in zip(cu, cu[1:])])
    if got.shape != want.shape:
        sys.exit(f"hf_logits: {args.compare}: {args.tensor} has shape {list(want.shape)}, the model gives {list(got.shape)}")
    diff = (got - want).abs()
    limit = args.atol + args.rtol * want.abs().max().item()
    ok = bool(torch.isfinite(want).all()) and diff.max().item() <= limit
    agree = (got.argmax(-1) == want.argmax(-1)).float().mean().item()
    print(json.dumps(dict(positions=len(got), max_abs=diff.max().item(), mean_abs=diff.mean().item(), limit=limit,
                          argmax_agree=agree, ok=ok)))
    return 0 if ok else 1


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("model")
    what = p.add_mutually_exclusive_group(required=True)
    what.add_argument("--ids", help="comma-separated token ids")
    what.add_argument("--compare", metavar="FILE")
    p.add_argument("--tensor", default="logits", help="name of the logits in FILE")
    p.add_argument("--top", type=int, default=0)
    p.add_argument("--atol", type=float, default=1e-4)
    p.add_argument("--rtol", type=float, default=0.0)
    args = p.parse_args()
    torch.set_num_threads(2)
    logging.disable_progress_bar()
    model = AutoModelForCausalLM.from_pretrained(args.model, dtype=torch.float32, attn_implementation="eager").eval()
    if args.compare:
        return compare(model, args)
    ids = [int(t) for t in args.ids.split(",")]
    logits = logits_of(model, ids)
    if args.top:
        best = [list(zip(i.tolist(), v.tolist())) for v, i in (row.topk(args.top) for row in logits)]
        print(json.dumps(dict(ids=ids, top=best)))
    else:
        print(json.dumps(dict(ids=ids, logits=logits.tolist())))
    return 0


if __name__ == "__main__":
    sys.exit(main())
