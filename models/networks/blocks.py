"""Blocks of the U-Net: convolutions, attention, time, and doubling of the resolution.

Shapes beside the lines: N slices in a batch, C channels, H x W pixels, `heads` x D features of
attention.
"""

import math
from types import ModuleType

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.networks import fused, plain

FEW_POSITIONS = 256
"""Positions below which PyTorch's kernel of full attention takes longer than its operations."""


def operations(x: Tensor) -> ModuleType:
    """Choose the functions that compute on x: those of `fused`, or of `plain`.

    Fused ones are made for a processor's caches, and have float32 between matrix products. On GPUs
    they wait for a measurement that they are faster there, as `benchmarks.gpu` makes it.
    """
    return plain if x.device.type == "cuda" or x.dtype == torch.float64 else fused


class RMSNorm(nn.Module):
    """Normalise the channel vector of each pixel to length sqrt(C), then apply a learned gain."""

    def __init__(self, channels: int):
        super().__init__()
        self.gain = nn.Parameter(torch.ones(1, channels, 1, 1))

    def forward(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        """Normalise x, (N, C, H, W), and add the residual."""
        return operations(x).norm(x, self.scaled_gain, residual)

    @property
    def scaled_gain(self) -> Tensor:
        """Learned gain times sqrt(C), (1, C)."""
        return self.gain.flatten(1) * math.sqrt(self.gain.shape[1])


class ConvUnit(nn.Module):
    """3x3 convolution, RMS norm, optional scale and shift, SiLU."""

    def __init__(self, in_channels: int, out_channels: int):
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, 3, padding=1)
        self.norm = RMSNorm(out_channels)

    def forward(
        self,
        x: Tensor,
        modulation: tuple[Tensor, Tensor] | None = None,
        residual: Tensor | None = None,
    ) -> Tensor:
        """Map (N, in_channels, H, W) to (N, out_channels, H, W), and add the residual."""
        own, gain = operations(x), self.norm.scaled_gain
        x = own.conv3x3(x, self.conv.weight, self.conv.bias)
        if modulation is None:
            return own.norm_silu(x, gain, residual=residual)
        scale, shift = modulation  # (N, C) each
        return own.norm_silu(x, gain * (scale + 1), shift, residual)


class ResBlock(nn.Module):
    """Two conv units beside an identity or 1x1 shortcut; time scales and shifts the first."""

    def __init__(self, in_channels: int, out_channels: int, time_channels: int | None):
        super().__init__()
        self.time: nn.Module | None = None
        if time_channels is not None:
            self.time = nn.Sequential(nn.SiLU(), nn.Linear(time_channels, 2 * out_channels))
        self.unit1 = ConvUnit(in_channels, out_channels)
        self.unit2 = ConvUnit(out_channels, out_channels)
        self.shortcut: nn.Module = nn.Identity()
        if in_channels != out_channels:
            self.shortcut = nn.Conv2d(in_channels, out_channels, 1)

    def forward(self, x: Tensor, time: Tensor | None) -> Tensor:
        """Map (N, in_channels, H, W) to (N, out_channels, H, W); time is (N, time_channels)."""
        modulation = None
        if self.time is not None:
            scale, shift = self.time(time).chunk(2, dim=1)  # (N, C)
            modulation = scale, shift
        return self.unit2(self.unit1(x, modulation), residual=self.shortcut(x))


class Attention(nn.Module):
    """Attention between pixels, added to its input.

    The image is seen as H W tokens of C features, which costs nothing in the channels-last layout.
    `memory` learned key/value pairs a head are put before those of the image.
    """

    def __init__(self, channels: int, heads: int, head_dim: int, memory: int):
        super().__init__()
        self.heads, self.head_dim = heads, head_dim
        self.norm = RMSNorm(channels)
        self.memory = nn.Parameter(torch.randn(2, heads, memory, head_dim))
        self.qkv = nn.Linear(channels, 3 * heads * head_dim, bias=False)
        self.out = nn.Linear(heads * head_dim, channels)


class LinearAttention(Attention):
    """softmax(q) (softmax(k)^T v) / sqrt(D), then RMS norm: cost linear in the pixels.

    q is normalised over its features, k over the positions.
    """

    def __init__(self, channels: int, heads: int, head_dim: int, memory: int):
        super().__init__(channels, heads, head_dim, memory)
        self.out_norm = RMSNorm(channels)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C, H, W) to the same shape."""
        weights = self.qkv.weight, self.memory, self.out.weight, self.out.bias
        attended = operations(x).linear_attention(self.norm(x), *weights)
        return self.out_norm(attended, residual=x)


class FullAttention(Attention):
    """Scaled dot-product attention, softmax(q k^T / sqrt(D)) v, between all pixels."""

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C, H, W) to the same shape."""
        n, _, h, w = x.shape
        tokens = self.norm(x).flatten(2).transpose(1, 2)  # (N, H W, C)
        qkv = self.qkv(tokens).unflatten(-1, (3, self.heads, self.head_dim))
        q, *kv = qkv.permute(2, 0, 3, 1, 4)  # (N, heads, H W, D) each
        k, v = (
            torch.cat([memory.expand(n, -1, -1, -1).to(image), image], dim=-2)
            for memory, image in zip(self.memory, kv, strict=True)
        )  # (N, heads, memory + H W, D) each
        if h * w < FEW_POSITIONS:
            attended = (q @ k.mT * self.head_dim**-0.5).softmax(dim=-1).to(v) @ v
        else:
            attended = F.scaled_dot_product_attention(q, k, v)
        tokens = attended.transpose(1, 2).flatten(2)
        return x + self.out(tokens).transpose(1, 2).unflatten(-1, (h, w))  # (N, C, H, W)


class TimeEmbedding(nn.Module):
    """Diffusion step -> sinusoid of `width` features -> linear, GELU, linear."""

    def __init__(self, width: int, channels: int):
        super().__init__()
        self.frequencies = width // 2
        self.mlp = nn.Sequential(
            nn.Linear(width, channels), nn.GELU(), nn.Linear(channels, channels)
        )

    def forward(self, t: Tensor) -> Tensor:
        """Embed steps t, (N,), as (N, channels)."""
        dtype = next(self.mlp.parameters()).dtype
        each = torch.arange(self.frequencies, device=t.device, dtype=dtype)
        exponent = each / (self.frequencies - 1)
        angle = t[:, None].to(dtype) * 10000.0**-exponent  # (N, width / 2)
        return self.mlp(torch.cat([angle.sin(), angle.cos()], dim=-1))


class Upsample(nn.Conv2d):
    """Nearest-neighbour doubling of the resolution, then this 3x3 convolution.

    Of the 36 products that it takes to make a block of 2x2 pixels many have a factor in common:
    with the weights summed accordingly, it is a transposed convolution of 4x4 weights and stride 2
    with 16.
    """

    def __init__(self, in_channels: int, out_channels: int):
        super().__init__(in_channels, out_channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, in_channels, H, W) to (N, out_channels, 2 H, 2 W)."""
        # Weight d of an axis reaches tap d and, by the doubled pixel, tap d + 1, both reversed: a
        # tap is the sum of what is there of two neighbours. Other layouts are slower.
        weight = self.weight.transpose(0, 1).flip(2, 3)  # (in_channels, out_channels, 3, 3)
        weight = weight.contiguous(memory_format=torch.channels_last)
        kernel = F.avg_pool2d(weight, 2, stride=1, padding=1, divisor_override=1)  # 4 x 4
        return F.conv_transpose2d(x, kernel, self.bias, stride=2, padding=1)
