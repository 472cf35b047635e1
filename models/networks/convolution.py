"""A 3x3 convolution whose weights' gradient is computed in the way that is fastest on the CPU."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

STRIP = 2**19
"""Elements of a strip of an image, of which the gradient of a convolution's weights is summed."""

FEW_PIXELS = 512
"""Pixels of a batch of which that gradient is one matrix product."""


def conv3x3(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Convolve x, (N, C, H, W), with weight, (O, C, 3, 3), zero-padded, to (N, O, H, W)."""
    if not torch.is_grad_enabled():
        return F.conv2d(x, weight, bias, padding=1)
    kind = x.device.type
    if torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind):
        dtype = torch.get_autocast_dtype(kind)
        x, weight = x.to(dtype), weight.to(dtype)
        bias = None if bias is None else bias.to(dtype)
    return _Conv3x3.apply(x, weight, bias)


def channels_last(x: Tensor) -> Tensor:
    """Lay images out with all channels of a pixel side by side, unless they are."""
    return x.contiguous(memory_format=torch.channels_last)


class _Conv3x3(torch.autograd.Function):
    """A convolution whose weights' gradient is computed in other ways on the CPU.

    oneDNN's bfloat16 kernel for that gradient is up to twice as fast when its images fit the cache:
    it is summed over strips of rows. Of few pixels a matrix product with their neighbourhoods
    takes two thirds of that kernel's time.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        return F.conv2d(x, weight, bias, padding=1)

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        for_x, *for_weights = ctx.needs_input_grad
        if x.device.type != "cpu" or x.dtype != torch.bfloat16:
            return _conv_backward(dy, x, weight, 1, [for_x, *for_weights])
        few = len(x) * x.shape[2:].numel() <= FEW_PIXELS
        rows = max(1, STRIP // (x.shape[1] * x.shape[3]))  # of a strip
        strips = x.shape[2] // rows if x.shape[2] % rows == 0 else 1
        if not all(for_weights) or (strips < 2 and not few):
            return _conv_backward(dy, x, weight, 1, [for_x, *for_weights])
        dx, _, _ = _conv_backward(dy, x, weight, 1, [for_x, False, False])
        x, dy = (channels_last(t).permute(0, 2, 3, 1) for t in (x, dy))
        return dx, *(_by_product(x, dy) if few else _by_strips(x, dy, weight, strips))


def _by_strips(x: Tensor, dy: Tensor, weight: Tensor, strips: int) -> tuple[Tensor | None, ...]:
    """Gradients of a convolution's weight and bias; x is (N, H, W, C), dy (N, H, W, O)."""
    rows = x.shape[1] // strips
    # (N, H, W, C) -> (N strips, C, rows + 2, W): with the neighbours' rows, zeros at the ends
    padded = F.pad(x, (0, 0, 0, 0, 1, 1))
    x = padded.unfold(1, rows + 2, rows).permute(0, 1, 4, 2, 3).flatten(0, 1)
    dy = dy.unflatten(1, (strips, rows)).flatten(0, 1)
    x, dy = (t.permute(0, 3, 1, 2) for t in (x, dy))
    return _conv_backward(dy, x, weight, 0, [False, True, True])[1:]


def _by_product(x: Tensor, dy: Tensor) -> tuple[Tensor, Tensor]:
    """Give the same as `_by_strips`."""
    padded = F.pad(x, (0, 0, 1, 1, 1, 1))
    around = padded.unfold(1, 3, 1).unfold(2, 3, 1).permute(0, 1, 2, 4, 5, 3)  # (N, H, W, 3, 3, C)
    pixels = dy.flatten(0, 2)
    dweight = pixels.T @ around.flatten(3).flatten(0, 2)
    return dweight.view(-1, *around.shape[3:]).permute(0, 3, 1, 2), pixels.sum(0)


def _conv_backward(
    dy: Tensor, x: Tensor, weight: Tensor, pad_rows: int, needed: list[bool]
) -> tuple[Tensor | None, ...]:
    one = [1, 1]
    return torch.ops.aten.convolution_backward(
        dy, x, weight, [len(weight)], one, [pad_rows, 1], one, False, [0, 0], 1, needed
    )
