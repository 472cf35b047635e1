"""The operations of `models.networks.fused` as plain PyTorch: what they compute, readable.

They work in float64, too, and hold nothing that torch.compile cannot follow.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def conv3x3(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """See `models.networks.fused.conv3x3`."""
    return F.conv2d(x, weight, bias, padding=1)


def norm_silu(
    x: Tensor, gain: Tensor, shift: Tensor | None = None, residual: Tensor | None = None
) -> Tensor:
    """See `models.networks.fused.norm_silu`."""
    z = _scaled_unit(x, gain)
    if shift is not None:
        z = z + shift[..., None, None]
    return _plus(F.silu(z), residual).to(x.dtype)


def norm(x: Tensor, gain: Tensor, residual: Tensor | None = None) -> Tensor:
    """See `models.networks.fused.norm`."""
    return _plus(_scaled_unit(x, gain), residual).to(x.dtype)


def linear_attention(x: Tensor, qkv: Tensor, memory: Tensor, out: Tensor, bias: Tensor) -> Tensor:
    """See `models.networks.fused.linear_attention`."""
    heads, dim = memory.shape[1], memory.shape[3]
    tokens = x.flatten(2).transpose(1, 2)  # (N, P, C)
    q, *kv = F.linear(tokens, qkv).unflatten(2, (3, heads, dim)).permute(2, 0, 3, 1, 4)
    k, v = (
        torch.cat([own.expand(len(x), -1, -1, -1).to(image), image], dim=2)
        for own, image in zip(memory, kv, strict=True)
    )  # (N, heads, M + P, D) each
    context = k.softmax(dim=2).mT @ v  # (N, heads, D, D)
    tokens = (q.softmax(dim=-1) @ context * dim**-0.5).transpose(1, 2).flatten(2)
    return F.linear(tokens, out, bias).mT.unflatten(2, x.shape[2:])


def _scaled_unit(x: Tensor, gain: Tensor) -> Tensor:
    """Give gain x / |x|, in float32 of a shorter x."""
    precise = x if x.dtype == torch.float64 else x.float()
    return F.normalize(precise, dim=1) * gain[..., None, None]


def _plus(y: Tensor, residual: Tensor | None) -> Tensor:
    return y if residual is None else y + residual
