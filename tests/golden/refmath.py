"""Training arithmetic shared by the golden-value scripts: schedule, loss, optimiser, clipping, sampler.

Written in PyTorch from the published rules, on purpose without any line of the engine, so that agreement means something.
`python refmath.py` runs the self-check. Dev-only; the engine and its tests read the committed values.
"""
import math

import torch
import torch.nn.functional as F


def lr_at(t, lr, min_lr, warmup, constant, max_steps):
    """Rate of the optimiser step that follows `t` completed ones: warm-up, cosine, constant tail at min_lr.

    The tail comes last and at min_lr, and with constant > 0 the first warm-up step has rate 0: this is how the
    original schedule ("CosineAnnealing") behaves, and its users' configurations rely on it.
    """
    decay = max_steps - constant - warmup
    if lr < min_lr:
        raise ValueError(f"lr {lr} is below min_lr {min_lr}")
    if warmup > 0 and t <= warmup:
        return lr * (t + 1) / (warmup + 1) if constant == 0 else lr * t / warmup
    if constant > 0 and warmup + decay < t <= max_steps:
        return min_lr
    if t > max_steps:
        return min_lr
    if constant > 0:
        if t > warmup + decay:
            return min_lr
        return min_lr + 0.5 * (lr - min_lr) * (1 + math.cos(math.pi * (t - warmup) / decay))
    return min_lr + 0.5 * (lr - min_lr) * (1 + math.cos(math.pi * (t - warmup) / (max_steps - warmup)))


def token_ce(logits, labels, weights):
    """Cross entropy per token in fp32, [T]; 0 where the weight is 0, whatever the label says there."""
    ignore = -100
    safe = torch.where(weights > 0, labels.long(), torch.full_like(labels, ignore, dtype=torch.long))
    return F.cross_entropy(logits.float(), safe, ignore_index=ignore, reduction="none")


def grad_norm(params):
    """Global L2 norm over distinct parameters, summed in float64."""
    return math.sqrt(sum(p.grad.double().square().sum().item() for p in params if p.grad is not None))


def clip(params, max_norm):
    """Scale gradients by min(1, max_norm / (norm + 1e-6)); max_norm None or <= 0 only measures. Returns the norm before."""
    params = list(params)
    norm = grad_norm(params)
    if max_norm is not None and max_norm > 0:
        coef = min(1.0, max_norm / (norm + 1e-6))
        for p in params:
            if p.grad is not None:
                p.grad.mul_(coef)
    return norm


def adamw(model, lr, betas, eps, weight_decay, decay_norm=True):
    """torch AdamW, two groups: everything decays except biases (and norm weights when decay_norm is false)."""
    def decays(name):
        if name.endswith("bias"):
            return False
        return decay_norm or "norm" not in name
    named = list(model.named_parameters())  # tied tensors appear once
    groups = [{"params": [p for n, p in named if decays(n)], "weight_decay": weight_decay},
              {"params": [p for n, p in named if not decays(n)], "weight_decay": 0.0}]
    return torch.optim.AdamW([g for g in groups if g["params"]], lr=lr, betas=tuple(betas), eps=eps, foreach=False)


def set_lr(opt, lr):
    for group in opt.param_groups:
        group["lr"] = lr


def sample_order(n, gbs, step, seed):
    """Row numbers of global batch `step` as the reference random sampler deals them for dp = 1, mbs = 1."""
    active = n - n % gbs
    if active == 0:
        raise ValueError(f"data set of {n} rows is smaller than one global batch of {gbs}")
    epoch, done = divmod(step * gbs, active)
    gen = torch.Generator()
    gen.manual_seed(seed + epoch)
    return torch.randperm(n, generator=gen)[done:done + gbs].tolist()


def _self_check():
    rise = [lr_at(t, 1.0, 0.1, 10, 1000, 500) for t in range(12)]
    assert rise[:11] == [t / 10 for t in range(11)] and rise[11] == 0.1
    assert {lr_at(t, 1.0, 1.0, 0, 0, 50) for t in range(60)} == {1.0}
    assert lr_at(0, 1.0, 1.0, 5, 0, 50) == 1 / 6
    gen = torch.Generator()
    gen.manual_seed(1234)
    assert torch.randperm(1000, generator=gen)[:8].tolist() == [775, 760, 390, 842, 624, 4, 138, 865]
    print("refmath: ok")


if __name__ == "__main__":
    _self_check()
