"""Supervised fine-tuning of a small model in plain f32 PyTorch: the loss curve a correct engine has to follow.

    python train_reference.py --model DIR --data prepared.jsonl --tokenizer tokenizer.json --out reference.json \\
        --steps 50 --gbs 8 --seed 1234 --lr 1e-4 --min_lr 1e-5 --warmup_steps 5 --gradient_clip_val 1.0

DIR is a Hugging Face model folder (config.json, safetensors in f32 or bf16; computed in f32 either way). Rows hold the
strings `input` and `output`. Every row runs alone, without padding or packing, so the result cannot depend on either.
Option names are the last parts of the training configuration's keys. One line a step goes to standard output, and one
JSON object with all steps, row numbers and settings to --out.

What is computed, in the words of the training rules:
  rows      global batches of the reference random sampler for dp = 1, mbs = 1 (refmath.sample_order)
  tokens    blanks stripped from both ends of each field; input and output tokenised separately, nothing added, joined;
            ids[:-1] predict ids[1:]; label p counts when p + 1 >= length of the input part
  loss      sum of cross entropies / number of targets of the whole step (--loss token), or the mean over micro-batches
            of --mbs rows of their own token means (--loss micro_batch, as the original)
  step      norm before clipping, clip, rate of the schedule, AdamW; decay on everything but biases
"""
import argparse
import json
import pathlib
import sys
import time

import torch
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM
from transformers.utils import logging

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))
import refmath  # noqa: E402


def arguments():
    p = argparse.ArgumentParser(description=__doc__.split("\n")[0], allow_abbrev=False)
    p.add_argument("--model", "--restore_from_path", dest="model", required=True)
    p.add_argument("--data", "--file_path", dest="data", required=True)
    p.add_argument("--tokenizer", required=True)
    p.add_argument("--out", help="JSON file to write")
    p.add_argument("--max_steps", "--steps", dest="max_steps", type=int, default=50, help="-1: max_epochs decides")
    p.add_argument("--max_epochs", type=int, default=2)
    p.add_argument("--global_batch_size", "--gbs", dest="gbs", type=int, default=8)
    p.add_argument("--micro_batch_size", "--mbs", dest="mbs", type=int, default=1, help="matters only for --loss micro_batch")
    p.add_argument("--loss", choices=["token", "micro_batch"], default="token")
    p.add_argument("--seed", type=int, default=1234)
    p.add_argument("--lr", type=float, default=5e-6)
    p.add_argument("--min_lr", type=float, help="default: lr, which makes the rate constant")
    p.add_argument("--warmup_steps", type=int, default=0)
    p.add_argument("--constant_steps", type=int, default=0)
    p.add_argument("--sched_max_steps", type=int, help="horizon of the schedule; default: max_steps, else epochs x steps per epoch")
    p.add_argument("--weight_decay", type=float, default=0.01)
    p.add_argument("--betas", type=float, nargs=2, default=[0.9, 0.98])
    p.add_argument("--eps", type=float, default=1e-8)
    p.add_argument("--no_norm_decay", action="store_true", help="leave norm weights out of the weight decay")
    p.add_argument("--gradient_clip_val", type=float, help="absent or <= 0: no clipping; the norm is reported all the same")
    p.add_argument("--max_seq_length", type=int, default=4096, help="longer rows are an error: truncation is not implemented")
    p.add_argument("--add_bos", action="store_true")
    p.add_argument("--add_eos", action="store_true")
    p.add_argument("--threads", type=int, default=2)
    p.add_argument("--device", default="cpu")
    p.add_argument("--save", help="folder for the trained model")
    args = p.parse_args()
    args.min_lr = args.lr if args.min_lr is None else args.min_lr
    if args.gbs % args.mbs:
        p.error(f"global batch {args.gbs} is not a multiple of micro batch {args.mbs}")
    return args


def read_rows(path):
    with open(path, encoding="utf-8") as f:
        return [json.loads(line) for line in f if line.strip()]


def build_example(row, tok, max_len, bos=None, eos=None):
    """tokens[n], labels[n], mask[n] of one row."""
    def encode(text):
        return tok.encode(text.strip(" "), add_special_tokens=False).ids
    context = ([] if bos is None else [bos]) + encode(row["input"])
    ids = context + encode(row["output"]) + ([] if eos is None else [eos])
    if len(ids) > max_len:
        raise ValueError(f"{len(ids)} tokens, max_seq_length is {max_len}: choose shorter rows, truncation is not implemented")
    mask = [1.0 if p + 1 >= len(context) else 0.0 for p in range(len(ids) - 1)]
    return ids[:-1], ids[1:], mask


def first_id(value):
    return value[0] if isinstance(value, list) else value


def summed_ce(model, example, device):
    tokens, labels, mask = (torch.tensor(v, device=device) for v in example)
    logits = model(input_ids=tokens[None].long()).logits[0]
    return (mask * refmath.token_ce(logits, labels, mask)).sum()


def train_step(model, opt, batch, args, lr):
    """One optimiser step over the examples of a global batch. Returns loss and the norm before clipping."""
    targets = [sum(e[2]) for e in batch]
    step_targets = sum(targets)
    opt.zero_grad(set_to_none=True)
    loss = 0.0
    for i, example in enumerate(batch):
        if args.loss == "token":
            scale = 1.0 / max(step_targets, 1.0)
        else:
            first = i - i % args.mbs
            scale = args.mbs / len(batch) / max(sum(targets[first:first + args.mbs]), 1.0)
        part = summed_ce(model, example, args.device) * scale
        part.backward()
        loss += part.item()
    norm = refmath.clip(model.parameters(), args.gradient_clip_val)
    refmath.set_lr(opt, lr)
    opt.step()
    return loss, norm


def main():
    args = arguments()
    torch.set_num_threads(args.threads)
    logging.disable_progress_bar()
    tok = Tokenizer.from_file(args.tokenizer)
    rows = read_rows(args.data)
    model = AutoModelForCausalLM.from_pretrained(args.model, dtype=torch.float32, attn_implementation="eager",
                                                 attention_dropout=0.0).to(args.device).train()
    model.config.use_cache = False
    if tok.get_vocab_size() > model.config.vocab_size:
        sys.exit(f"{args.tokenizer} has {tok.get_vocab_size()} tokens, the model only {model.config.vocab_size} rows")
    bos = first_id(model.config.bos_token_id) if args.add_bos else None
    eos = first_id(model.config.eos_token_id) if args.add_eos else None
    opt = refmath.adamw(model, args.lr, args.betas, args.eps, args.weight_decay, decay_norm=not args.no_norm_decay)

    steps_per_epoch = len(rows) // args.gbs
    total = steps_per_epoch * args.max_epochs
    horizon = args.sched_max_steps or (args.max_steps if args.max_steps >= 0 else total)
    if args.max_steps >= 0:
        total = min(total, args.max_steps)
    result = dict(settings=vars(args), rows=len(rows), steps_per_epoch=steps_per_epoch, steps=[])
    print("step loss grad_norm lr targets tokens seconds")
    for step in range(total):
        start = time.time()
        order = refmath.sample_order(len(rows), args.gbs, step, args.seed)
        batch = []
        for i in order:
            try:
                batch.append(build_example(rows[i], tok, args.max_seq_length, bos, eos))
            except (KeyError, ValueError) as e:
                sys.exit(f"{args.data}: row {i}: {e!r}")
        lr = refmath.lr_at(step, args.lr, args.min_lr, args.warmup_steps, args.constant_steps, horizon)
        loss, norm = train_step(model, opt, batch, args, lr)
        targets, tokens = int(sum(sum(e[2]) for e in batch)), sum(len(e[0]) for e in batch)
        result["steps"].append(dict(step=step, loss=loss, grad_norm=norm, lr=lr, targets=targets, tokens=tokens, rows=order))
        print(f"{step} {loss:.7f} {norm:.7f} {lr:.6e} {targets} {tokens} {time.time() - start:.1f}", flush=True)
        if args.out:  # rewritten every step, so that an interrupted run leaves what it has
            pathlib.Path(args.out).write_text(json.dumps(result) + "\n")
    if args.save:
        model.save_pretrained(args.save)


if __name__ == "__main__":
    main()
