"""The U-Net's memory-bound operations, each as one function with a hand-written backward pass.

Written with plain tensor operations, a convolutional U-Net spends half of its time reading and
writing tensors that are as large as its activations: the pieces of a norm, the queries, keys and
values of all pixels. Here a chunk of pixels at a time goes through a whole operation while it is in
the processor's cache, and nothing but the input is kept for the backward pass, which computes the
rest again.

Images are seen as (N, P, C): N slices of P = H W pixels of C channels, which in the channels-last
layout is a view. Arithmetic between matrix products is in float32 whatever the inputs are.
"""

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

CHUNK = 2**19
"""Elements of a chunk on the CPU: 2 MB of float32, about a core's second-level cache."""

EPSILON = 1e-12
"""Least length of a channel vector; as `torch.nn.functional.normalize`."""


def norm_silu(x: Tensor, gain: Tensor, shift: Tensor | None = None) -> Tensor:
    """Compute silu(gain x / |x| + shift), |x| being the length of each pixel's channel vector.

    Parameters
    ----------
    x : Tensor
        (N, C, H, W).
    gain, shift : Tensor
        (N or 1, C); no shift is a shift of zero.

    Returns
    -------
    Tensor
        (N, C, H, W), channels last, dtype of x.
    """
    rows = (len(x), x.shape[1])
    shift = None if shift is None else shift.float().expand(rows)
    return _Norm.apply(x, gain.float().expand(rows), shift, True)


def norm(x: Tensor, gain: Tensor) -> Tensor:
    """Compute gain x / |x|; otherwise as `norm_silu`."""
    return _Norm.apply(x, gain.float().expand(len(x), x.shape[1]), None, False)


def linear_attention(x: Tensor, qkv: Tensor, memory: Tensor, out: Tensor, bias: Tensor) -> Tensor:
    """Compute out (softmax(q) (softmax(k)^T v)) / sqrt(D) + bias.

    q is normalised over its D features, k over all pixels and memory entries.

    Parameters
    ----------
    x : Tensor
        (N, C, H, W).
    qkv : Tensor
        (3 heads D, C): weights that give queries, keys and values of a pixel.
    memory : Tensor
        (2, heads, M, D): keys and values put before those of the image.
    out, bias : Tensor
        (C, heads D) and (C,): weights of the output.

    Returns
    -------
    Tensor
        (N, C, H, W), channels last, dtype of x.
    """
    return _LinearAttention.apply(x, qkv, memory, out, bias)


def _pixels(x: Tensor) -> Tensor:
    """(N, C, H, W), channels last -> (N, P, C), the same memory."""
    return x.permute(0, 2, 3, 1).flatten(1, 2)


def _channels_last(x: Tensor) -> Tensor:
    return x.contiguous(memory_format=torch.channels_last)


def _chunks(width: int, *tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Cut tensors, (P, C) each, into the same rows: about CHUNK elements of ``width`` channels."""
    on_cpu = tensors[0].device.type == "cpu"
    rows = max(1, CHUNK // width) if on_cpu else len(tensors[0])
    return zip(*(tensor.split(rows) for tensor in tensors), strict=True)


def _unit(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Give x / |x|, (R, C), and |x|, (R, 1), in float32."""
    rows = rows.float()
    length = torch.linalg.vector_norm(rows, dim=1, keepdim=True).clamp_min_(EPSILON)
    return rows / length, length


class _Norm(torch.autograd.Function):
    """silu(z) or z, where z = gain u + shift and u = x / |x|."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, gain: Tensor, shift: Tensor | None, activate: bool) -> Tensor:
        x = _channels_last(x)
        y = torch.empty_like(x)
        ctx.save_for_backward(x, gain, shift)
        ctx.activate = activate
        for n, pixels in enumerate(zip(_pixels(x), _pixels(y), strict=True)):
            for rows, output in _chunks(x.shape[1], *pixels):
                z = _affine(_unit(rows)[0], n, gain, shift)
                output.copy_(F.silu(z, inplace=True) if activate else z)
        return y

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        x, gain, shift = ctx.saved_tensors
        dy, dx = _channels_last(dy), torch.empty_like(x)
        dgain = torch.zeros_like(gain)
        dshift = None if shift is None else torch.zeros_like(shift)
        for n, pixels in enumerate(zip(_pixels(x), _pixels(dy), _pixels(dx), strict=True)):
            for rows, drows, output in _chunks(x.shape[1], *pixels):
                unit, length = _unit(rows)
                dz = drows.float()
                if ctx.activate:
                    dz = torch.ops.aten.silu_backward(dz, _affine(unit, n, gain, shift))
                if dshift is not None:
                    dshift[n] += dz.sum(0)
                product = dz * unit
                dgain[n] += product.sum(0)
                # u has length 1: only the part of its gradient across u can change it.
                along = torch.mv(product, gain[n])[:, None]
                output.copy_(torch.addcmul(dz * gain[n], unit, along, value=-1).div_(length))
        return dx, dgain, dshift, None


def _affine(unit: Tensor, n: int, gain: Tensor, shift: Tensor | None) -> Tensor:
    return unit * gain[n] if shift is None else torch.addcmul(shift[n], unit, gain[n])


class _LinearAttention(torch.autograd.Function):
    """Two passes over the pixels: keys and values to a context, then queries to the output.

    Heads lie side by side as width = heads D columns, and the context is a block-diagonal matrix of
    (width, width): every product is one large one, and nothing is transposed. The softmax of the
    keys follows the running maximum of the chunks.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, qkv: Tensor, memory: Tensor, out: Tensor, bias: Tensor
    ) -> Tensor:
        x = _channels_last(x)
        heads, dim = memory.shape[1], memory.shape[3]
        to_q, to_kv = _split(qkv.to(x.dtype))
        y = torch.empty_like(x)
        saved = []
        for pixels, output in zip(_pixels(x), _pixels(y), strict=True):
            peak, total, context = _gather(pixels, to_kv, memory)
            context = context / total[:, None] * _blocks(heads, dim, x.device)
            mix = (context @ out.float().T * dim**-0.5).to(x.dtype)  # (width, C)
            for rows, target in _chunks(heads * dim, pixels, output):
                target.copy_(torch.addmm(bias.to(x.dtype), _queries(rows, to_q, heads), mix))
            saved.append((peak, total, context, mix))
        ctx.save_for_backward(x, qkv, memory, out, *map(torch.stack, zip(*saved, strict=True)))
        return y

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor, ...]:  # type: ignore[override]
        x, qkv, memory, out, *saved = ctx.saved_tensors
        heads, dim = memory.shape[1], memory.shape[3]
        to_q, to_kv = _split(qkv.to(x.dtype))
        dy, dx = _channels_last(dy), torch.empty_like(x)
        dqkv, dmemory, dout = (torch.zeros_like(p, dtype=torch.float) for p in (qkv, memory, out))
        dbias = dout.new_zeros(len(dout))
        sources = zip(_pixels(x), _pixels(dy), _pixels(dx), *saved, strict=True)
        for pixels, dpixels, output, peak, total, context, mix in sources:
            dmix = torch.zeros_like(mix, dtype=torch.float)
            for rows, drows, target in _chunks(heads * dim, pixels, dpixels, output):
                q = _queries(rows, to_q, heads)
                dmix += q.T @ drows
                dbias += drows.float().sum(0)
                dlogits = _softmax_backward(drows @ mix.T, q, heads)
                _split(dqkv)[0].add_(dlogits.T @ rows)
                torch.mm(dlogits, to_q, out=target)
            dmix *= dim**-0.5
            dout += dmix.T @ context
            dcontext = dmix @ out.float() * _blocks(heads, dim, x.device)
            dtotal = -(dcontext * context).sum(1) / total
            dcontext /= total[:, None]
            _scatter(
                pixels, to_kv, memory, (peak, dtotal, dcontext), (output, _split(dqkv)[1], dmemory)
            )
        return dx, dqkv, dmemory, dout, dbias


def _gather(pixels: Tensor, to_kv: Tensor, memory: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Sum exp(k - peak) and exp(k - peak)^T v over memory and pixels, peak being k's maximum.

    Returns
    -------
    peak, total, context
        (width,), (width,) and (width, width), float32.
    """
    k, v = _memory_rows(memory)
    peak = k.amax(0)
    weight = (k - peak).exp_()
    total, context = weight.sum(0), weight.T @ v
    for (rows,) in _chunks(len(to_kv), pixels):
        k, v = (rows @ to_kv.T).chunk(2, dim=1)
        previous, peak = peak, torch.maximum(peak, k.amax(0))
        shrink = (previous - peak).exp_()
        weight = (k - peak).exp_()
        total = total * shrink + weight.sum(0)
        context = context * shrink[:, None] + weight.to(v.dtype).T @ v
    return peak, total, context


def _scatter(
    pixels: Tensor,
    to_kv: Tensor,
    memory: Tensor,
    sums: tuple[Tensor, Tensor, Tensor],
    gradients: tuple[Tensor, Tensor, Tensor],
) -> None:
    """Backward pass of `_gather`: add to the gradients of pixels, to_kv and memory.

    ``sums`` are the peak and the gradients of total and context.
    """
    peak, dtotal, dcontext = sums
    dpixels, dto_kv, dmemory = gradients
    small = dcontext.to(pixels.dtype)
    for rows, drows in _chunks(len(to_kv), pixels, dpixels):
        k, v = (rows @ to_kv.T).chunk(2, dim=1)
        weight = (k - peak).exp_()
        dkv = rows.new_empty(len(rows), len(to_kv))
        dk, dv = dkv.chunk(2, dim=1)
        dk.copy_((v @ small.T).add(dtotal).mul_(weight))
        torch.mm(weight.to(v.dtype), small, out=dv)
        dto_kv += dkv.T @ rows
        drows.addmm_(dkv, to_kv)
    k, v = _memory_rows(memory)
    weight = (k - peak).exp_()
    dk, dv = (v @ dcontext.T + dtotal) * weight, weight @ dcontext
    for slot, gradient in zip(dmemory, (dk, dv), strict=True):
        slot += gradient.unflatten(1, (len(slot), -1)).transpose(0, 1)


def _split(qkv: Tensor) -> tuple[Tensor, Tensor]:
    """(3 width, C) -> the rows of queries, (width, C), and of keys and values, (2 width, C)."""
    width = len(qkv) // 3
    return qkv[:width], qkv[width:]


def _memory_rows(memory: Tensor) -> tuple[Tensor, Tensor]:
    """(2, heads, M, D) -> keys and values, (M, heads D) float32 each."""
    keys, values = memory.float().transpose(1, 2).flatten(2)
    return keys, values


def _queries(rows: Tensor, to_q: Tensor, heads: int) -> Tensor:
    """Softmax over each head's features: (R, C) -> (R, heads D)."""
    logits = (rows @ to_q.T).unflatten(1, (heads, -1))
    return logits.softmax(-1).flatten(1)


def _softmax_backward(dq: Tensor, q: Tensor, heads: int) -> Tensor:
    """Gradient of the logits of `_queries`, (R, heads D)."""
    dq, q = dq.unflatten(1, (heads, -1)), q.unflatten(1, (heads, -1))
    return torch.ops.aten._softmax_backward_data(dq, q, -1, q.dtype).flatten(1)


def _blocks(heads: int, dim: int, device: torch.device) -> Tensor:
    """1 where row and column of the (heads D, heads D) context belong to the same head."""
    head = torch.arange(heads * dim, device=device) // dim
    return (head[:, None] == head).float()
