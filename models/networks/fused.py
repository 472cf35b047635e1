"""The U-Net's memory-bound operations, each as one function with a hand-written backward pass.

Written with plain tensor operations, a convolutional U-Net spends half of its time reading and
writing tensors that are as large as its activations: the pieces of a norm, the queries, keys and
values of all pixels. Here a chunk of pixels at a time goes through a whole operation while it is in
the processor's cache, and nothing but the input is kept for the backward pass, which computes the
rest again.

Images are seen as (N, P, C): N slices of P = H W pixels of C channels, which in the channels-last
layout is a view. Arithmetic between matrix products is in float32 whatever the inputs are.

`models.networks.plain` has the same functions without all that.
"""

from collections.abc import Callable, Iterator
from functools import cache, wraps
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from models.networks import convolution
from models.networks.convolution import channels_last

CHUNK = 2**19
"""Elements of a chunk on the CPU: 2 MB of float32, about a core's second-level cache."""

EPSILON = 1e-12
"""Least length of a channel vector; as `torch.nn.functional.normalize`."""

# Assigned, for only so it is one of this module's definitions, whose code decides what runs again.
conv3x3 = convolution.conv3x3


def norm_silu(
    x: Tensor, gain: Tensor, shift: Tensor | None = None, residual: Tensor | None = None
) -> Tensor:
    """Compute silu(gain x / |x| + shift) + residual, |x| being the length of a pixel's channels.

    Parameters
    ----------
    x : Tensor
        (N, C, H, W).
    gain, shift : Tensor
        (N or 1, C); no shift is a shift of zero.
    residual : Tensor, optional
        (N, C, H, W).

    Returns
    -------
    Tensor
        (N, C, H, W), channels last, dtype of x.
    """
    rows = (len(x), x.shape[1])
    shift = None if shift is None else shift.float().expand(rows)
    return _Norm.apply(x, gain.float().expand(rows), shift, residual, True)


def norm(x: Tensor, gain: Tensor, residual: Tensor | None = None) -> Tensor:
    """Compute gain x / |x| + residual; otherwise as `norm_silu`."""
    return _Norm.apply(x, gain.float().expand(len(x), x.shape[1]), None, residual, False)


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


def _groups(width: int, *tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Cut tensors, (N, ...) each, into the same few slices: about CHUNK elements of (P, width).

    The first tensor is (N, P, C).
    """
    slices = max(1, CHUNK // (tensors[0].shape[1] * width))
    if tensors[0].device.type != "cpu" or slices >= len(tensors[0]):
        return iter([tensors])
    return zip(*(tensor.split(slices) for tensor in tensors), strict=True)


def _chunks(width: int, *tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Cut a group's tensors, (G, P, ...) each, into the same pixels: about CHUNK elements."""
    rows = max(1, CHUNK // (len(tensors[0]) * width))
    if tensors[0].device.type != "cpu" or rows >= tensors[0].shape[1]:
        return iter([tensors])
    return zip(*(tensor.split(rows, dim=1) for tensor in tensors), strict=True)


def _unit(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Give x / |x|, (G, R, C), and |x|, (G, R, 1), in float32."""
    precise = rows.float()
    length = torch.linalg.vector_norm(precise, dim=-1, keepdim=True).clamp_min_(EPSILON)
    # In place, unless float32 was given, whose memory is the input's.
    return torch.div(precise, length, out=None if precise is rows else precise), length


def _own_precision(method: Callable[..., Any]) -> Callable[..., Any]:
    """Keep autocast out of a forward or backward pass, which chooses its precision itself."""

    @wraps(method)
    def without_autocast(ctx: Any, x: Tensor, *others: Any) -> Any:
        kind = x.device.type
        if not torch.amp.is_autocast_available(kind):
            return method(ctx, x, *others)
        with torch.autocast(kind, enabled=False):
            return method(ctx, x, *others)

    return without_autocast


class _Norm(torch.autograd.Function):
    """silu(z) or z, plus a residual, where z = gain u + shift and u = x / |x|."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        gain: Tensor,
        shift: Tensor | None,
        residual: Tensor | None,
        activate: bool,
    ) -> Tensor:
        x = channels_last(x)
        y = torch.empty_like(x)
        ctx.save_for_backward(x, gain, shift)
        ctx.activate, ctx.residual = activate, residual is not None
        added = y if residual is None else channels_last(residual)  # y is not read then
        zero = gain if shift is None else shift  # gain is not read then
        tensors = _pixels(x), _pixels(added), _pixels(y), gain[:, None], zero[:, None]
        for *pixels, scale, offset in _groups(x.shape[1], *tensors):
            for rows, more, output in _chunks(x.shape[1], *pixels):
                z = _unit(rows)[0]
                z = z.mul_(scale) if shift is None else torch.addcmul(offset, z, scale, out=z)
                if activate:
                    F.silu(z, inplace=True)
                output.copy_(z.add_(more) if ctx.residual else z)
        return y

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        x, gain, shift = ctx.saved_tensors
        dy, dx = channels_last(dy), torch.empty_like(x)
        dgain, dshift = torch.zeros_like(gain), torch.zeros_like(gain)
        zero = gain if shift is None else shift
        per_slice = gain[:, None], zero[:, None], dgain, dshift
        tensors = _pixels(x), _pixels(dy), _pixels(dx), *per_slice
        for *pixels, scale, offset, dscale, doffset in _groups(x.shape[1], *tensors):
            for rows, drows, output in _chunks(x.shape[1], *pixels):
                unit, length = _unit(rows)
                dz = drows.float()
                if ctx.activate:
                    z = unit * scale if shift is None else torch.addcmul(offset, unit, scale)
                    dz = torch.ops.aten.silu_backward.grad_input(dz, z, grad_input=z)
                if shift is not None:
                    doffset += dz.sum(1)
                product = dz * unit
                dscale += product.sum(1)
                # u has length 1: only the part of its gradient across u can change it.
                along = torch.bmm(product, scale.mT)
                torch.mul(dz, scale, out=product)
                output.copy_(product.addcmul_(unit, along, value=-1).div_(length))
        no_shift = None if shift is None else dshift
        return dx, dgain, no_shift, dy if ctx.residual else None, None


class _LinearAttention(torch.autograd.Function):
    """Two passes over the pixels: keys and values to a context, then queries to the output.

    Heads lie side by side as width = heads D columns, and the context is a block-diagonal matrix of
    (width, width): every product is one large one, and nothing is transposed. Values v = x W^T are
    never computed, since softmax(k)^T v = (softmax(k)^T x) W^T. The softmax of the keys follows the
    running maximum of the chunks.
    """

    @staticmethod
    @_own_precision
    def forward(
        ctx: Any, x: Tensor, qkv: Tensor, memory: Tensor, out: Tensor, bias: Tensor
    ) -> Tensor:
        x = channels_last(x)
        heads, dim = memory.shape[1], memory.shape[3]
        to_q, to_k, to_v = qkv.chunk(3)  # (width, C) each
        to_q, to_k = to_q.to(x.dtype), to_k.to(x.dtype)
        same_head = _same_head(heads, dim, x.device)
        memory_k, memory_v = _memory_rows(memory)
        to_v, to_out = to_v.float().T, out.float().T * dim**-0.5
        peak_k, bias = memory_k.amax(0), bias.to(x.dtype)
        y = torch.empty_like(x)
        saved = []
        for pixels, output in _groups(heads * dim, _pixels(x), _pixels(y)):
            peak, total, gathered = _gather(pixels, to_k, peak_k)
            weight = (memory_k - peak[:, None]).exp_()  # (G, M, width)
            total += weight.sum(1)
            context = (gathered @ to_v).baddbmm_(weight.mT, memory_v.expand(len(peak), -1, -1))
            context *= same_head / total[..., None]
            mix = (context @ to_out).to(x.dtype)  # (G, width, C)
            for rows, target in _chunks(heads * dim, pixels, output):
                q = _queries(rows, to_q, heads).to(x.dtype)
                torch.baddbmm(bias, q, mix, out=target)
            saved.append((peak, total, gathered, context, mix))
        of_all = saved[0] if len(saved) == 1 else map(torch.cat, zip(*saved, strict=True))
        ctx.save_for_backward(x, qkv, memory, out, *of_all)
        return y

    @staticmethod
    @_own_precision
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor, ...]:
        x, qkv, memory, out, *saved = ctx.saved_tensors
        heads, dim = memory.shape[1], memory.shape[3]
        to_q, to_k, to_v = qkv.chunk(3)
        to_q, to_k = to_q.to(x.dtype), to_k.to(x.dtype)
        same_head = _same_head(heads, dim, x.device)
        memory_k, memory_v = _memory_rows(memory)
        dy, dx = channels_last(dy), torch.empty_like(x)
        dqkv, dmemory, dout = (torch.zeros_like(p, dtype=torch.float) for p in (qkv, memory, out))
        dto_q, dto_k, dto_v = dqkv.chunk(3)
        dbias = dout.new_zeros(len(dout))
        tensors = _pixels(x), _pixels(dy), _pixels(dx), *saved
        for pixels, dpixels, output, peak, total, gathered, context, mix in _groups(
            heads * dim, *tensors
        ):
            dmix = torch.zeros_like(mix, dtype=torch.float)
            for rows, drows, target in _chunks(heads * dim, pixels, dpixels, output):
                q = _queries(rows, to_q, heads)
                dmix += q.to(x.dtype).mT @ drows
                dbias += drows.float().sum((0, 1))
                dlogits = _softmax_backward((drows @ mix.mT).float(), q, heads).to(x.dtype)
                dto_q += dlogits.flatten(0, 1).T @ rows.flatten(0, 1)
                target.copy_(dlogits @ to_q)
            dmix *= dim**-0.5
            dout += (dmix.mT @ context).sum(0)
            dcontext = dmix @ out.float() * same_head / total[..., None]
            dtotal = -(dcontext * context).sum(2)
            dto_v += (dcontext.mT @ gathered).sum(0)
            dgathered = (dcontext @ to_v.float()).to(x.dtype)
            dto_k += _scatter(pixels, to_k, peak, dtotal, dgathered, output)
            weight = (memory_k - peak[:, None]).exp_()
            dmemory_k = (memory_v @ dcontext.mT + dtotal[:, None]) * weight
            for slot, rows in zip(dmemory, (dmemory_k, weight @ dcontext), strict=True):
                slot += rows.sum(0).unflatten(1, (heads, dim)).transpose(0, 1)
        return dx, dqkv, dmemory, dout, dbias


def _gather(pixels: Tensor, to_k: Tensor, peak: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Sum exp(k - peak) and exp(k - peak)^T x over the pixels of each slice.

    Returns
    -------
    peak, total, gathered
        Maximum of k and the peak given, (G, width); the sums, (G, width) and (G, width, C);
        float32.
    """
    total, gathered = peak.new_zeros(()), peak.new_zeros(())
    for (rows,) in _chunks(len(to_k), pixels):
        k = (rows @ to_k.T).float()
        previous, peak = peak, torch.maximum(peak, k.amax(1))
        shrink = (previous - peak).exp_()
        weight = k.sub_(peak[:, None]).exp_()
        total = total * shrink + weight.sum(1)
        gathered = gathered * shrink[..., None] + weight.to(rows.dtype).mT @ rows
    return peak, total, gathered


def _scatter(
    pixels: Tensor, to_k: Tensor, peak: Tensor, dtotal: Tensor, dgathered: Tensor, dpixels: Tensor
) -> Tensor:
    """Backward pass of `_gather`: add to the gradient of the pixels, return that of ``to_k``."""
    dto_k = torch.zeros_like(to_k, dtype=torch.float)
    for rows, drows in _chunks(len(to_k), pixels, dpixels):
        weight = (rows @ to_k.T).float().sub_(peak[:, None]).exp_()
        dweight = torch.baddbmm(dtotal[:, None].to(rows.dtype), rows, dgathered.mT).float()
        dk = dweight.mul_(weight).to(rows.dtype)
        dto_k += dk.flatten(0, 1).T @ rows.flatten(0, 1)
        drows += torch.baddbmm(dk @ to_k, weight.to(rows.dtype), dgathered)
    return dto_k


def _memory_rows(memory: Tensor) -> tuple[Tensor, Tensor]:
    """(2, heads, M, D) -> keys and values, (M, heads D) float32 each."""
    keys, values = memory.float().transpose(1, 2).flatten(2)
    return keys, values


def _queries(rows: Tensor, to_q: Tensor, heads: int) -> Tensor:
    """Softmax over each head's features: (G, R, C) -> (G, R, heads D), float32."""
    logits = (rows @ to_q.T).float().unflatten(2, (heads, -1))
    return logits.softmax(-1).flatten(2)


def _softmax_backward(dq: Tensor, q: Tensor, heads: int) -> Tensor:
    """Gradient of the logits of `_queries`, (G, R, heads D)."""
    dq, q = dq.unflatten(2, (heads, -1)), q.unflatten(2, (heads, -1))
    return torch.ops.aten._softmax_backward_data(dq, q, -1, q.dtype).flatten(2)


@cache
def _same_head(heads: int, dim: int, device: torch.device) -> Tensor:
    """1 where row and column of the (heads D, heads D) context belong to the same head."""
    head = torch.arange(heads * dim, device=device) // dim
    return (head[:, None] == head).float()
