"""Forward values and every gradient of single operations, f32, from plain PyTorch: writes ops.safetensors.

Each function below is one operation: plain formulas, gradients by autograd. All tensors are f32 except indices (i32).
Scalars are tensors of one element. Names and shapes are listed in README.md. Where PyTorch or transformers has the
operation built in, the formula is checked against it first.
"""
import math
import pathlib
import sys

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from transformers import LlamaConfig
from transformers.models.llama.modeling_llama import LlamaRMSNorm, LlamaRotaryEmbedding, apply_rotary_pos_emb

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))
import refmath  # noqa: E402

OUT = {}
GEN = torch.Generator()


def rand(*shape, scale=1.0):
    return scale * torch.randn(*shape, generator=GEN)


def leaf(*shape, scale=1.0):
    return rand(*shape, scale=scale).requires_grad_()


def put(prefix, **tensors):
    """Python floats become f32[1], ints and int lists i32."""
    for name, t in tensors.items():
        if isinstance(t, float):
            t = torch.tensor([t])
        elif isinstance(t, (int, list)):
            t = torch.tensor([t] if isinstance(t, int) else t)
        t = t.detach()
        OUT[f"{prefix}.{name}"] = (t.float() if t.is_floating_point() else t.int()).contiguous().clone()


# --- normalisation -------------------------------------------------------------------------------------------------

def rmsnorm(prefix, eps, residual, plus_one=False):
    """sum = x (+ res); y = sum * rstd * w with rstd = 1 / sqrt(mean(sum^2) + eps); plus_one: 1 + w in place of w (Gemma).

    The sum is also an output (the residual stream goes on), so its own incoming gradient dsum takes part;
    d/dx = d/dres = dx. Row 2 is tiny, so that eps matters.
    """
    n, c = 5, 48
    x, w = rand(n, c), (0 if plus_one else 1) + rand(c, scale=0.1)
    x[2] *= 1e-3
    x.requires_grad_(), w.requires_grad_()
    res = rand(n, c).requires_grad_() if residual else None
    if residual:
        with torch.no_grad():
            res[2] *= 1e-3
    total = x + res if residual else x
    rstd = torch.rsqrt(total.square().mean(-1) + eps)
    gain = 1 + w if plus_one else w
    y = total * rstd[:, None] * gain
    module = LlamaRMSNorm(c, eps)
    module.weight.data.copy_(gain.detach())
    assert torch.allclose(module(total), y, atol=1e-6)
    dy, dsum = rand(n, c), rand(n, c)
    if residual:
        torch.autograd.backward([y, total], [dy, dsum])
        assert torch.equal(x.grad, res.grad)
        put(prefix, res=res, sum=total, dsum=dsum)
    else:
        y.backward(dy)
    put(prefix, eps=eps, x=x, w=w, y=y, rstd=rstd, dy=dy, dx=x.grad, dw=w.grad)


# --- rotary position embedding -------------------------------------------------------------------------------------

def rope_inv_freq(dim, theta, scaling):
    """Frequencies in double from the published formula; llama3 scaling keeps short waves, divides long ones, blends between."""
    inv = theta ** (-torch.arange(0, dim, 2, dtype=torch.float64) / dim)
    if scaling:
        factor, low, high = scaling["factor"], scaling["low_freq_factor"], scaling["high_freq_factor"]
        turns = scaling["original_max_position_embeddings"] * inv / (2 * math.pi)  # full turns within the original context
        blend = ((turns - low) / (high - low)).clamp(0, 1)
        inv = (1 - blend) * inv / factor + blend * inv
    return inv


def rope(prefix, head_dim, theta, scaling, positions, heads=3, rot_dim=None):
    """Tables of the listed positions, and the rotation of x: halves of the first rot_dim dims, not interleaved pairs.

    cos, sin are as transformers computes them, in f32, where the angle alone is wrong by up to position * 1e-7;
    cos_exact, sin_exact are computed in double. y and dx use cos, sin.
    """
    rot_dim = rot_dim or head_dim
    params = dict(scaling or {"rope_type": "default"}, rope_theta=theta)
    cfg = LlamaConfig(hidden_size=4 * rot_dim, num_attention_heads=4, head_dim=rot_dim, max_position_embeddings=131072,
                      rope_parameters=params)
    table = LlamaRotaryEmbedding(cfg)
    pos = torch.tensor(positions)
    x, dy = leaf(len(positions), heads, head_dim), rand(len(positions), heads, head_dim)
    cos, sin = (t[0] for t in table(x, pos[None]))  # [T, rot_dim], second half repeats the first
    half = rot_dim // 2
    c, s = cos[:, None, :half], sin[:, None, :half]
    a, b, rest = x[..., :half], x[..., half:rot_dim], x[..., rot_dim:]
    y = torch.cat([a * c - b * s, b * c + a * s, rest], -1)
    turned = x[None, ..., :rot_dim]
    hf, _ = apply_rotary_pos_emb(turned, turned, cos[None], sin[None], unsqueeze_dim=2)
    assert torch.allclose(hf[0], y[..., :rot_dim], atol=1e-6)
    exact = rope_inv_freq(rot_dim, theta, scaling)
    assert torch.allclose(table.inv_freq.double(), exact, rtol=1e-6)
    angle = pos[:, None].double() * exact
    assert ((cos[:, :half] - angle.cos()).abs() <= 1e-6 + 2e-7 * pos[:, None]).all()
    y.backward(dy)
    put(prefix, theta=float(theta), positions=positions, rot_dim=rot_dim, inv_freq=table.inv_freq, cos=cos[:, :half],
        sin=sin[:, :half], cos_exact=angle.cos(), sin_exact=angle.sin(), x=x, y=y, dy=dy, dx=x.grad)
    if scaling:
        put(prefix, factor=scaling["factor"], low_freq_factor=scaling["low_freq_factor"],
            high_freq_factor=scaling["high_freq_factor"], original_max=scaling["original_max_position_embeddings"])


# --- attention -----------------------------------------------------------------------------------------------------

def attention(prefix, cu_q, cu_k, window=0, softcap=0.0, nh=4, groups=2, head_dim=16):
    """Causal attention within each segment. q head h reads kv head h / (nh/groups).

    Segment s has queries cu_q[s]:cu_q[s+1] and keys cu_k[s]:cu_k[s+1]; when there are more keys than queries the last
    query sits at the last key. Query i sees key j when j <= i, and with a window i - j < window as well (own token
    included). scores = q.k / sqrt(hd); with softcap = softcap * tanh(scores / softcap). lse = log sum exp of the visible ones.
    """
    tq, tk = cu_q[-1], cu_k[-1]
    # Larger scores where a cap is to bite.
    q, k, v = leaf(tq, nh, head_dim, scale=3.0 if softcap else 1.0), leaf(tk, groups, head_dim), leaf(tk, groups, head_dim)
    outs, lses = [], []
    for s in range(len(cu_q) - 1):
        qs, ks, vs = q[cu_q[s]:cu_q[s + 1]], k[cu_k[s]:cu_k[s + 1]], v[cu_k[s]:cu_k[s + 1]]
        ks, vs = (t.repeat_interleave(nh // groups, 1) for t in (ks, vs))
        score = torch.einsum("ihd,jhd->hij", qs, ks) / math.sqrt(head_dim)
        if softcap:
            score = softcap * torch.tanh(score / softcap)
        i = torch.arange(len(qs))[:, None] + len(ks) - len(qs)
        j = torch.arange(len(ks))[None]
        seen = (j <= i) & (i - j < window) if window else j <= i
        score = score.masked_fill(~seen, -math.inf)
        outs.append(torch.einsum("hij,jhd->ihd", score.softmax(-1), vs))
        lses.append(score.logsumexp(-1))
        if not softcap:
            sdpa = F.scaled_dot_product_attention(*(t.transpose(0, 1)[None] for t in (qs, ks, vs)), attn_mask=seen)
            assert torch.allclose(sdpa[0].transpose(0, 1), outs[-1], atol=1e-5)
    o, lse = torch.cat(outs), torch.cat(lses, 1)  # [T, nh, hd], [nh, T]
    do = rand(tq, nh, head_dim)
    o.backward(do)
    put(prefix, cu_q=list(cu_q), cu_k=list(cu_k), window=window, softcap=softcap, q=q, k=k, v=v, o=o, lse=lse, do=do,
        dq=q.grad, dk=k.grad, dv=v.grad)


# --- feed-forward and linear ---------------------------------------------------------------------------------------

def activation(prefix, act):
    """y = act(g) * u with [g | u] = x[n, 2f]; relu2 is not gated: y = relu(x)^2 with x[n, f]. Some values are large."""
    n, f = 6, 40
    x = rand(n, f if act == "relu2" else 2 * f, scale=2.0)
    x[0, :4] = torch.tensor([-30.0, 30.0, 0.0, -1e-4])
    x.requires_grad_()
    if act == "relu2":
        y = x.clamp_min(0).square()
    else:
        g, u = x[:, :f], x[:, f:]
        inner = math.sqrt(2 / math.pi) * (g + 0.044715 * g ** 3)
        y = (g * torch.sigmoid(g) if act == "swiglu" else 0.5 * g * (1 + torch.tanh(inner))) * u
        assert torch.allclose(y, (F.silu(g) if act == "swiglu" else F.gelu(g, approximate="tanh")) * u, atol=1e-5)
    dy = rand(n, f)
    y.backward(dy)
    put(prefix, x=x, y=y, dy=dy, dx=x.grad)


def linear(prefix, bias):
    """y[n, out] = x[n, in] w^T[in, out] (+ b)."""
    n, i, o = 7, 33, 20
    x, w, b, dy = leaf(n, i), leaf(o, i, scale=0.2), leaf(o), rand(n, o)
    y = F.linear(x, w, b if bias else None)
    y.backward(dy)
    put(prefix, x=x, w=w, y=y, dy=dy, dx=x.grad, dw=w.grad)
    if bias:
        put(prefix, b=b, db=b.grad)


def embedding(prefix):
    """y[t] = w[ids[t]]; ids repeat, so dw sums; unused rows have gradient 0."""
    ids = [3, 0, 10, 3, 3, 7, 0]
    w, dy = leaf(11, 16), rand(len(ids), 16)
    y = F.embedding(torch.tensor(ids), w)
    y.backward(dy)
    put(prefix, ids=ids, w=w, y=y, dy=dy, dw=w.grad)


# --- head and loss -------------------------------------------------------------------------------------------------

def head_ce(prefix, rows, vocab, norm, softcap=0.0):
    """logits = h w^T (capped); rows of w from `vocab` up are padding and outside the softmax, with gradient 0.

    loss = sum(weights * CE) / norm. norm is an argument: in training it is the whole step's count, not this batch's.
    logp[t] = log p(label), 0 where the weight is 0.
    """
    n, c = 9, 24
    h, w = leaf(n, c), leaf(rows, c, scale=0.4)
    labels = torch.randint(0, vocab, (n,), generator=GEN)
    weights = torch.tensor([1.0, 0.0, 1.0, 0.5, 1.0, 0.0, 2.0, 1.0, 1.0])
    labels[1], labels[5] = -1, 0
    logits = h @ w.t()
    if softcap:
        logits = softcap * torch.tanh(logits / softcap)
    logits = logits.masked_fill(torch.arange(rows) >= vocab, -math.inf)
    lse = logits.logsumexp(-1)
    logp = torch.where(weights > 0, logits.gather(1, labels.clamp_min(0)[:, None])[:, 0] - lse, torch.zeros(n))
    assert torch.allclose(-logp, refmath.token_ce(logits, labels, weights), atol=1e-5)
    loss = -(weights * logp).sum() / norm
    loss.backward()
    put(prefix, h=h, w=w, vocab=vocab, labels=labels, weights=weights, norm=norm, softcap=softcap, lse=lse, logp=logp,
        loss=loss.reshape(1), dh=h.grad, dw=w.grad)


# --- optimiser -----------------------------------------------------------------------------------------------------

def adamw(prefix, t, weight_decay, lr=1e-3, betas=(0.9, 0.98), eps=1e-8):
    """Step number t (from 1) of AdamW with decoupled decay. Element 0 has gradient 0 in all steps, element 1 a tiny one."""
    n = 37
    p, g = rand(n), rand(n, scale=0.1)
    m, v = (rand(n, scale=0.05), rand(n, scale=0.05).square()) if t > 1 else (torch.zeros(n), torch.zeros(n))
    g[0], m[0], v[0] = 0, 0, 0
    g[1] = 1e-9
    put(prefix, t=t, lr=lr, beta1=betas[0], beta2=betas[1], eps=eps, weight_decay=weight_decay, p=p, g=g, m=m, v=v)
    param = torch.nn.Parameter(p.clone())
    opt = torch.optim.AdamW([param], lr=lr, betas=betas, eps=eps, weight_decay=weight_decay, foreach=False)
    opt.state[param] = dict(step=torch.tensor(float(t - 1)), exp_avg=m.clone(), exp_avg_sq=v.clone())
    param.grad = g.clone()
    opt.step()
    state = opt.state[param]
    m1, v1 = betas[0] * m + (1 - betas[0]) * g, betas[1] * v + (1 - betas[1]) * g * g
    want = p - lr * (m1 / (1 - betas[0] ** t) / ((v1 / (1 - betas[1] ** t)).sqrt() + eps) + weight_decay * p)
    assert torch.allclose(param, want, atol=1e-6) and torch.allclose(state["exp_avg"], m1, atol=1e-7)
    put(prefix, p_out=param, m_out=state["exp_avg"], v_out=state["exp_avg_sq"])


def clip(prefix, max_norm):
    """Global norm over two tensors; out = g * min(1, max_norm / (norm + 1e-6))."""
    params = [torch.nn.Parameter(torch.zeros(13)), torch.nn.Parameter(torch.zeros(4, 5))]
    for p in params:
        p.grad = rand(*p.shape, scale=0.5)
    put(prefix, max_norm=max_norm, g0=params[0].grad, g1=params[1].grad)
    norm = refmath.clip(params, max_norm)
    put(prefix, norm=norm, coef=min(1.0, max_norm / (norm + 1e-6)), out0=params[0].grad, out1=params[1].grad)


def main():
    GEN.manual_seed(20240703)
    rmsnorm("rmsnorm.plain", 1e-6, residual=False)
    rmsnorm("rmsnorm.residual", 1e-5, residual=True)
    rmsnorm("rmsnorm.plus_one", 1e-6, residual=True, plus_one=True)

    positions = [0, 1, 2, 7, 63, 64, 65, 500, 4095]
    llama3 = dict(rope_type="llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=8192)
    rope("rope.plain", 64, 1e6, None, positions)
    rope("rope.llama31", 128, 5e5, llama3, positions, heads=1)
    rope("rope.llama32", 64, 5e5, dict(llama3, factor=32.0), positions)
    rope("rope.partial", 32, 1e4, None, positions, rot_dim=16)
    rope("rope.tiny", 16, 5e5, dict(llama3, factor=32.0, original_max_position_embeddings=64), positions)

    cu = [0, 1, 6, 23, 25, 40]
    attention("attention.causal", cu, cu)
    attention("attention.window", cu, cu, window=8)
    attention("attention.softcap", cu, cu, softcap=2.0)
    attention("attention.window_softcap", cu, cu, window=5, softcap=2.0)
    attention("attention.mha", [0, 11, 30], [0, 11, 30], nh=3, groups=3, head_dim=8)
    attention("attention.mqa", [0, 11, 30], [0, 11, 30], nh=4, groups=1, head_dim=32)
    attention("attention.prefix", [0, 3, 4, 20], [0, 19, 40, 56])  # more keys than queries: cached prefix, split sequence

    for act in ("swiglu", "geglu_tanh", "relu2"):
        activation(act, act)
    linear("linear.plain", bias=False)
    linear("linear.bias", bias=True)
    embedding("embedding")
    head_ce("head.plain", 50, 50, norm=7.5)
    head_ce("head.padded", 64, 50, norm=20.0)
    head_ce("head.softcap", 50, 50, norm=7.5, softcap=1.5)

    adamw("adamw.first", 1, 0.01)
    adamw("adamw.later", 7, 0.01)
    adamw("adamw.no_decay", 7, 0.0)
    clip("clip.above", 1.0)
    clip("clip.below", 100.0)

    path = HERE / "ops.safetensors"
    assert all(torch.isfinite(t).all() for t in OUT.values())
    save_file(OUT, path, metadata={"format": "pt"})
    path.chmod(0o644)
    print(f"{path.name}: {len(OUT)} tensors, {path.stat().st_size} bytes")


if __name__ == "__main__":
    torch.set_num_threads(2)
    main()
